"""What people type, with a real operator: looking, asking, giving back, renewing, draining, checking."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import yaml
from tests.cluster.commands import Commands
from tests.cluster.harness import (
    LEASES,
    POOLS,
    SMALL,
    Object,
    Stage,
    ThreadOperator,
    finished,
    granted,
    is_,
    until,
)

from leasehold.testing.control_plane import ControlPlane

TERMS = {"policy": {"maxDurationSeconds": 3600}}


@pytest.fixture
def run(stage: Stage) -> Commands:
    return Commands(stage)


@pytest.fixture
def full(stage: Stage) -> str:
    """A pool of one node that a lease named `first` fills; `second` and `third` wait."""
    stage.nodes.create(1, SMALL, usage={"cpu": "500m", "memory": "1Gi"})
    pool = stage.pool(**TERMS, resources=[{"name": "cpu", "source": "Allocatable"}])
    stage.lease(pool, "first", cpu="4", durationSeconds=600, holder={"identity": "ci"})
    stage.until("first", granted)
    stage.lease(pool, "second", cpu="3", priority=5)
    stage.until("second", lambda o: o.get("status", {}).get("queue", {}).get("approximatePosition") == 1)
    stage.lease(pool, "third", cpu="2", durationSeconds=60)
    stage.until("third", lambda o: o.get("status", {}).get("queue", {}).get("approximatePosition") == 2)
    return pool


def is_number(place: int, *, sure: bool = False) -> Callable[[Object], bool]:
    """Whether a lease is told its place in line; if `sure`, also when its turn comes, which may follow later."""

    def test(lease: Object) -> bool:
        told = lease.get("status", {}).get("queue", {})
        return told.get("approximatePosition") == place and (not sure or "estimatedStartTime" in told)

    return test


def names(stage: Stage) -> list[str]:
    return [lease["metadata"]["name"] for lease in stage.kube.list(LEASES, stage.namespace)]


class TestGet:
    def test_leases_are_rows(self, run: Commands, full: str) -> None:
        found = run("get")
        assert found.code == 0
        assert found.out.splitlines()[0].split() == [
            *("NAME", "POOL", "HOLDER", "READY", "REASON", "EXPIRES", "AGE")
        ]
        first, second, _ = found.rows
        assert first[:5] == ["first", full, "ci", "True", "Held"]
        assert re.fullmatch(r"9m\d+s|10m", first[5])
        assert second[:2] == ["second", full]
        assert second[3] == "False"
        assert second[5] == "-"

    def test_wide_tells_what_where_and_when(self, run: Commands, stage: Stage, full: str) -> None:
        first, second, _ = run("get", "leases", "-o", "wide").rows
        token = stage.get("first")["status"]["fencingToken"]
        assert first[7:] == ["cpu=4", stage.nodes.names[0], str(token), "-"]
        assert second[7:11] == ["cpu=3", "<none>", "<none>", "#1"]
        assert second[11].startswith("~")

    def test_names_and_selectors_choose(self, run: Commands, stage: Stage, full: str) -> None:
        stage.kube.patch(LEASES, "second", {"metadata": {"labels": {"run": "7"}}}, stage.namespace)
        assert run("get", "lease/first", "-o", "name").out == "capacitylease.leasehold.dev/first\n"
        assert [row[0] for row in run("get", "leases", "-l", "run=7").rows] == ["second"]
        assert [row[0] for row in run("get", "clease", "--pool", full).rows] == ["first", "second", "third"]
        assert run("get", "leases", "--pool", "none").err.startswith("No resources found")

    def test_for_programs_it_is_what_the_api_server_has(self, run: Commands, stage: Stage, full: str) -> None:
        listed = json.loads(run("get", "-o", "json").out)
        assert listed["kind"] == "List"
        assert [item["metadata"]["name"] for item in listed["items"]] == ["first", "second", "third"]
        one = yaml.safe_load(run("get", "lease", "first", "-o", "yaml").out)
        there = stage.get("first")
        there["metadata"].pop("managedFields")
        assert one == there

    def test_pools_and_reports(self, run: Commands, stage: Stage, full: str) -> None:
        stage.until_pool(full, lambda o: o["status"].get("leases", {}).get("pending") == 2)
        (pool,) = [row for row in run("get", "pools").rows if row[0] == full]
        assert pool[1:8] == ["True", "Serving", "1/1", "0", "<none>", "1", "2"]
        (report,) = run("get", "report", stage.nodes.names[0]).rows
        assert report[2:4] == ["500m", "1Gi"]

    def test_all_namespaces_say_which(self, run: Commands, stage: Stage, full: str) -> None:
        found = run("get", "leases", "-A", "--pool", full, namespaced=False)
        assert found.out.split()[0] == "NAMESPACE"
        assert {row[0] for row in found.rows} == {stage.namespace}

    def test_what_is_not_there_is_said_and_exit_1(self, run: Commands, full: str) -> None:
        found = run("get", "leases", "first", "nobody", "-o", "name")
        assert (found.code, found.out) == (1, "capacitylease.leasehold.dev/first\n")
        assert '"nobody" not found' in found.err

    def test_changes_are_followed_until_ctrl_c(self, run: Commands, stage: Stage, full: str) -> None:
        with run.start("get", "--watch") as command:
            until(lambda: "third" in command.log_tail(), "the list is there", 30)
            stage.change("first", desiredState="Released")
            until(
                lambda: bool(re.search(r"second .* True +Held", command.log_tail(40))),
                "the grant is shown",
                30,
            )
            command.signal(signal.SIGINT)
            until(lambda: not command.running(), "it ends", 30)
            assert command.returncode() == 130
        assert command.log.read_text().count("NAME") == 1

    def test_who_may_not_look_is_told_whom_to_ask(self, run: Commands) -> None:
        found = run.as_user("jane")("get")
        assert found.code == 1
        assert 'User "jane" cannot list' in found.err
        assert "leasehold-viewer" in found.err

    def test_who_is_not_known_is_told_to_log_in(self, run: Commands, stage: Stage, tmp_path) -> None:
        config = yaml.safe_load(stage.control_plane.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": "wrong"}
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        found = Commands(stage, path)("get")
        assert found.code == 1
        assert "does not know you: log in again" in found.err
        assert "wrong" not in found.err


class TestTop:
    def test_pools_and_nodes_in_figures(self, run: Commands, stage: Stage, full: str) -> None:
        node = stage.nodes.names[0]
        stage.until_pool(full, lambda o: o["status"].get("leases", {}).get("pending") == 2)
        found = run("top", namespaced=False)
        rows = [line.split() for line in found.out.splitlines()]
        assert [full, "cpu", "4", "4", "0", "0", "100%", "1", "2", "True"] in rows
        assert any(row[:7] == [node, "500m", "12%", "1Gi", "12%", "0%", "1"] for row in rows)

    def test_for_programs(self, run: Commands, stage: Stage, full: str) -> None:
        stage.until_pool(full, lambda o: o["status"].get("leases", {}).get("held") == 1)
        found = json.loads(run("top", "pools", full, "-o", "json", namespaced=False).out)
        assert found["nodes"] == []
        assert [row["lentPercent"] for row in found["pools"]] == ["100%"]


class TestExplain:
    def test_who_waits_is_told_why_whom_for_and_what_would_fit(
        self, run: Commands, stage: Stage, full: str
    ) -> None:
        found = run("explain", "third")
        assert found.code == 0
        first_line = found.out.splitlines()[0]
        assert first_line.startswith(f"{stage.namespace}/third waits for room in pool {full}, as number 2")
        assert "WaitingForCapacity" in found.out
        assert re.search(r"1 node +Insufficient cpu +the best of them lacks 2", found.out)
        assert re.search(r"AHEAD IN LINE \(1\)\n.*\n +\S+ +second +5 +cpu=3", found.out)
        until(lambda: names(stage) == ["first", "second", "third"], "nothing is left behind")

    def test_what_would_fit_is_asked_of_the_operator(self, run: Commands, stage: Stage) -> None:
        stage.nodes.create(1, SMALL)
        pool = stage.pool()
        stage.lease(pool, "first", cpu="2", durationSeconds=600)
        stage.until("first", granted)
        stage.lease(pool, "large", cpu="4")
        stage.until("large", is_("Allocated", "False"))
        assert "WHAT WOULD FIT INSTEAD\n  cpu=2, now" in run("explain", "large").out
        assert "INSTEAD" not in run("explain", "large", "--read-only").out

    def test_who_waits_for_a_parent_is_told_of_its_siblings(self, run: Commands, stage: Stage) -> None:
        stage.nodes.create(1, SMALL)
        pool = stage.pool()
        stage.lease(pool, "all", cpu="3", durationSeconds=3600)
        stage.until("all", granted)
        stage.lease(pool, "another", cpu="4")
        stage.child("all", name="job", cpu="3", durationSeconds=600)
        stage.until("job", granted)
        for place, name in enumerate(("next", "last"), start=1):
            stage.child("all", name=name, cpu="3", durationSeconds=600)
            stage.until(name, is_number(place, sure=True))
        found = run("explain", "last").out
        first_line = found.splitlines()[0]
        assert "waits for room in lease all, as number 2 in line; its turn is expected at" in first_line
        assert re.search(r"AHEAD IN LINE \(1\)\n.*\n +\S+ +next +0 +cpu=3", found)
        assert "INSTEAD" not in found
        stage.until("another", is_number(1))
        assert "AHEAD" not in run("explain", "another").out, "sub-leases wait in no queue but their parent's"

    def test_for_programs(self, run: Commands, full: str) -> None:
        found = json.loads(run("explain", "third", "-o", "json").out)
        assert (found["pool"], found["reason"]) == (full, "WaitingForCapacity")
        assert [row["name"] for row in found["ahead"]] == ["second"]
        assert found["unknown"] == []

    def test_who_holds_is_told_until_when(self, run: Commands, full: str) -> None:
        found = run("explain", "first").out
        assert f"holds its room in pool {full} until" in found
        assert "the term ends" in found

    def test_who_is_refused_is_told_what_to_correct(self, run: Commands, stage: Stage, full: str) -> None:
        stage.lease(full, "long", cpu="1", durationSeconds=7200)
        stage.until("long", is_("Accepted", "False"))
        found = run("explain", "long").out
        assert "cannot be granted as it is (DurationTooLong)" in found
        assert "at most 3600 s" in found

    def test_who_may_only_look_is_told_what_was_not_asked(
        self, run: Commands, stage: Stage, full: str
    ) -> None:
        user = f"viewer-of-{stage.namespace}"
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "viewer"}
        stage.kube.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "Role",
                "metadata": {"name": "viewer", "namespace": stage.namespace},
                "rules": [
                    {
                        "apiGroups": ["leasehold.dev"],
                        "resources": ["capacityleases"],
                        "verbs": ["get", "list", "watch"],
                    }
                ],
            }
        )
        stage.kube.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "viewer", "namespace": stage.namespace},
                "roleRef": role,
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            }
        )
        viewer = run.as_user(user)
        until(lambda: viewer("get").code == 0, "the right is known", 30)
        found = viewer("explain", "third")
        assert found.code == 0
        assert "waits for room" in found.out
        assert "The pool could not be read" in found.out
        assert "you may not look at them" in found.out
        assert "you may not create leases here" in found.out


class TestQuote:
    @pytest.fixture
    def pool(self, stage: Stage) -> str:
        stage.nodes.create(1, SMALL)
        pool = stage.pool(**TERMS)
        stage.lease(pool, "first", cpu="3", durationSeconds=600)
        stage.until("first", granted)
        return pool

    @pytest.mark.parametrize(
        ("asked", "code", "said"),
        [
            (["--cpu", "1"], 0, "cpu=1 would start now in pool {pool}"),
            (["--cpu", "2"], 3, "cpu=2 would start at"),
            (["--cpu", "40"], 4, "cpu=40 would not start: no known end makes enough room."),
            (["--cpu", "1", "--duration", "2h"], 122, "at most 3600 s"),
        ],
        ids=["now", "later", "never", "refused"],
    )
    def test_the_answer_is_said_and_is_the_exit_code(
        self, run: Commands, stage: Stage, pool: str, asked: list[str], code: int, said: str
    ) -> None:
        found = run("quote", "--pool", pool, *asked)
        assert found.code == code
        assert said.format(pool=pool) in found.out
        until(lambda: names(stage) == ["first"], "nothing is left behind")

    def test_for_programs(self, run: Commands, stage: Stage, pool: str) -> None:
        found = json.loads(run("quote", "--pool", pool, "--cpu", "2", "-o", "json").out)
        assert found["quote"]["nodes"] == stage.nodes.names
        assert found["counterOffer"]["resources"] == {"cpu": "1"}


class TestRelease:
    def test_given_back_and_waited_for(self, run: Commands, stage: Stage, full: str) -> None:
        found = run("release", "first", "--wait")
        assert (found.code, found.out) == (0, "lease/first released\n")
        assert is_("Released")(stage.get("first"))
        assert run("release", "first").out == "lease/first was over already\n"

    def test_those_with_a_label_and_the_rest_stays(self, run: Commands, stage: Stage, full: str) -> None:
        for name in ("second", "third"):
            stage.kube.patch(LEASES, name, {"metadata": {"labels": {"run": "7"}}}, stage.namespace)
        assert run("release", "-l", "run=7", "--wait").code == 0
        assert finished(stage.get("second"))
        assert finished(stage.get("third"))
        assert granted(stage.get("first"))
        assert "No leases to release" in run("release", "-l", "run=7").err

    def test_deleted_with_the_object(self, run: Commands, stage: Stage, full: str) -> None:
        assert run("release", "first", "--delete", "--wait").code == 0
        stage.until_gone("first")

    def test_one_that_is_not_there_does_not_keep_the_others(
        self, run: Commands, stage: Stage, full: str
    ) -> None:
        found = run("release", "nobody", "first")
        assert found.code == 1
        assert '"nobody" not found' in found.err
        assert found.out == "lease/first released\n"

    def test_a_wait_that_is_over_says_where_to_look(self, run: Commands, stage: Stage) -> None:
        stage.nodes.create(1, SMALL)
        pool = stage.pool(policy={"cooldownSeconds": 600})
        stage.lease(pool, "first")
        stage.until("first", granted)
        found = run("release", "first", "--wait", "--timeout", "1s")
        assert found.code == 124
        assert "leasehold explain first" in found.err


class TestRenew:
    def test_a_new_term_from_now(self, run: Commands, stage: Stage, full: str) -> None:
        found = run("renew", "first", "--duration", "30m")
        assert found.code == 0
        assert re.fullmatch(r"lease/first renewed until \S+ \(in (29|30)m\)\n", found.out)
        lease = stage.get("first")
        assert lease["status"]["renewal"]["count"] == 1

    def test_who_waits_cannot_be_renewed(self, run: Commands, full: str) -> None:
        found = run("renew", "second", "nobody")
        assert found.code == 1
        assert "second waits for room" in found.err
        assert "only a lease that is held can be renewed" in found.err
        assert '"nobody" not found' in found.err

    def test_who_has_reached_the_longest_term_is_told(self, run: Commands, stage: Stage) -> None:
        stage.nodes.create(1, SMALL)
        pool = stage.pool(policy={"maxTotalSeconds": 120})
        stage.lease(pool, "first", durationSeconds=120)
        stage.until("first", granted)
        found = run("renew", "first")
        assert found.code == 0
        assert "cannot be renewed further" in found.err

    def test_without_an_operator_it_says_so_in_time(self, bare: Stage) -> None:
        bare.nodes.create(1, SMALL)
        with ThreadOperator(bare.control_plane.kubeconfig):
            pool = bare.pool()
            bare.lease(pool, "first")
            bare.until("first", granted)
        found = Commands(bare)("renew", "first", "--timeout", "1s")
        assert found.code == 124
        assert "the operator has not answered within 1 s" in found.err


class TestDrain:
    def test_emptied_then_granting_again(self, run: Commands, stage: Stage, full: str) -> None:
        found = run("drain", full, "--wait", namespaced=False)
        assert (found.code, found.out) == (0, f"pool/{full} draining\npool/{full} is empty\n")
        assert finished(stage.get("first"))
        assert not granted(stage.get("second"))
        assert run("drain", full, "--undo", namespaced=False).out == f"pool/{full} granting again\n"
        stage.until("second", granted)

    def test_held_leases_stay_where_it_is_only_held(self, run: Commands, stage: Stage, full: str) -> None:
        assert run("drain", full, "--hold", namespaced=False).code == 0
        assert stage.kube.get(POOLS, full)["spec"]["stopPolicy"] == "Hold"
        stage.until_pool(full, is_("Ready", "False", "PoolHeld"))
        assert granted(stage.get("first"))

    def test_a_wait_that_is_over_says_who_is_left(self, run: Commands, stage: Stage) -> None:
        stage.nodes.create(1, SMALL)
        pool = stage.pool(policy={"gracePeriodSeconds": 600})
        stage.lease(pool, "first", holder={"identity": "ci"})
        stage.until("first", granted)
        found = run("drain", pool, "--wait", "--timeout", "1s", namespaced=False)
        assert found.code == 124
        assert re.search(rf"{stage.namespace} +first +ci", found.err)

    def test_a_pool_that_is_not_there(self, run: Commands) -> None:
        found = run("drain", "no-such-pool", namespaced=False)
        assert found.code == 1
        assert '"no-such-pool" not found' in found.err


class TestDoctor:
    def test_a_sound_installation_has_nothing_wrong(self, run: Commands, full: str) -> None:
        found = {}
        for row in json.loads(run("doctor", "-o", "json").out):
            found.setdefault(row["check"], []).append(row)
        for check in ("API server", "clock", "definitions", "rights", "operator"):
            assert {row["state"] for row in found[check]} == {"ok"}, found[check]
        # No chart is installed here, so its policies are not: that is told, with what to do.
        assert {row["state"] for row in found["policies"]} == {"warning"}
        assert all(row["remedy"] for row in found["policies"])

    def test_without_an_operator_it_says_so_and_exits_3(self, bare: Stage) -> None:
        bare.nodes.create(1, SMALL)
        bare.pool_named("p", bare.nodes.selector)
        found = Commands(bare)("doctor")
        assert found.code == 3
        assert re.search(r"wrong +operator +no operator ever led", found.out)
        assert re.search(r"wrong +pools +p grants nothing", found.out)

    def test_who_may_nothing_is_told_which_role_to_ask_for(self, run: Commands) -> None:
        found = run.as_user("jane")("doctor")
        assert found.code == 4
        assert re.search(r"warning +rights .* you may not see leases, take leases", found.out)
        assert "leasehold-editor" in found.out
        assert re.search(r"unknown +pools +you may not look", found.out)

    def test_without_definitions_it_says_how_to_install(self) -> None:
        with ControlPlane(local=True) as empty:
            run = Commands(None, empty.kubeconfig)
            found = run("doctor", namespaced=False)
            assert found.code == 3
            assert "leasehold.dev/v1alpha1 is not served" in found.out
            found = run("get", namespaced=False)
            assert found.code == 1
            assert "Leasehold is not installed" in found.err


def test_it_is_a_plugin_of_kubectl(stage: Stage, full: str, tmp_path) -> None:
    kubectl = stage.control_plane.program("kubectl")
    plugin = tmp_path / "kubectl-leasehold"
    plugin.write_text(f'#!/bin/sh\nexec {sys.executable} -c "\n{_AS_PLUGIN}" "$@"\n')
    plugin.chmod(0o755)
    env = {**Commands(stage).env, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    found = subprocess.run(
        [str(kubectl), "leasehold", "get", "-n", stage.namespace, "-o", "name"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [f"capacitylease.leasehold.dev/{n}" for n in ("first", "second", "third")]
    wrong = subprocess.run(
        [str(kubectl), "leasehold", "get", "nonsense"], env=env, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("kubectl leasehold get: ")


_AS_PLUGIN = """
import sys
sys.argv[0] = 'kubectl-leasehold'
from leasehold.cli.main import main
sys.exit(main())
"""
