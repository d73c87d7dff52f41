"""`leasehold acquire`: leases for people and scripts, and commands that run under one and never beyond it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.commands import Commands
from tests.cluster.harness import (
    LEASES,
    SESSIONS,
    SMALL,
    Stage,
    condition,
    finished,
    granted,
    is_,
    nodes_of,
    until,
)
from tests.faults.proxy import BlackHole, FaultProxy

from leasehold.testing.processes import Child

PR_SET_CHILD_SUBREAPER = 36
PATIENT = {"heartbeatTimeoutSeconds": 60, "gracePeriodSeconds": 2}
LIVELY = {**PATIENT, "heartbeatTimeoutSeconds": 6}
WAIT = 40.0
"""Seconds for what happens within a few, on a machine that is busy."""


@pytest.fixture
def run(stage: Stage) -> Commands:
    return Commands(stage)


@pytest.fixture
def pool(stage: Stage) -> str:
    stage.nodes.create(1, SMALL)
    return stage.pool(policy=PATIENT)


def leases(stage: Stage) -> list[dict[str, Any]]:
    return list(stage.kube.list(LEASES, stage.namespace))


def names(stage: Stage) -> list[str]:
    return [lease["metadata"]["name"] for lease in leases(stage)]


def alive(file: Path) -> bool:
    """Whether the process that wrote its number into a file is still there, and no zombie."""
    try:
        stat = Path(f"/proc/{int(file.read_text())}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, ValueError):  # the file is there before the number
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


class TestWithoutACommand:
    def test_the_name_is_printed_and_the_lease_stays_held(
        self, run: Commands, stage: Stage, pool: str
    ) -> None:
        found = run("acquire", "--pool", pool, "--cpu", "2", "--holder", "me", "--wait")
        name = found.out.strip()
        assert (found.code, found.err) == (0, "")
        lease = stage.get(name)
        assert granted(lease)
        assert lease["spec"]["holder"] == {"identity": "me"}
        assert lease["spec"]["liveness"] == "None"
        assert run("release", name, "--wait").code == 0

    def test_all_that_can_be_asked_for_is_in_the_lease(self, run: Commands, stage: Stage, pool: str) -> None:
        found = run(
            *("acquire", "gang", "--pool", pool, "--cpu", "500m", "--memory", "1Gi", "--count", "2"),
            *("--resource", "ephemeral-storage=1Gi", "--placement", "SameNode", "--duration", "10m"),
            *("--priority", "3", "--liveness", "Renew", "-o", "json"),
        )
        spec = json.loads(found.out)["spec"]
        assert spec["resources"] == {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi"}
        assert (spec["count"], spec["durationSeconds"], spec["priority"]) == (2, 600, 3)
        assert (spec["placement"]["mode"], spec["liveness"]) == ("SameNode", "Renew")
        lease = stage.until("gang", granted)
        assert nodes_of(lease) == stage.nodes.names * 2

    @pytest.mark.parametrize("timeout", ["1s", "0"])
    def test_a_request_that_is_not_granted_in_time_is_withdrawn(
        self, run: Commands, stage: Stage, pool: str, timeout: str
    ) -> None:
        stage.lease(pool, "first", cpu="4")
        stage.until("first", granted)
        found = run("acquire", "--pool", pool, "--cpu", "1", "--timeout", timeout)
        assert (found.code, found.out) == (124, "")
        assert "the request was withdrawn" in found.err
        until(lambda: names(stage) == ["first"], "nothing is left behind")

    def test_a_request_that_can_never_be_granted_is_withdrawn(
        self, run: Commands, stage: Stage, pool: str
    ) -> None:
        found = run("acquire", "--pool", pool, "--cpu", "100", "--wait")
        assert (found.code, found.out) == (122, "")
        assert "Ask for less. The request was withdrawn." in found.err
        until(lambda: names(stage) == [], "nothing is left behind")

    def test_ctrl_c_while_it_waits_withdraws_it(self, run: Commands, stage: Stage, pool: str) -> None:
        stage.lease(pool, "first", cpu="4")
        stage.until("first", granted)
        with run.start("acquire", "mine", "--pool", pool, "--cpu", "1", "--wait") as command:
            stage.kube.wait(
                LEASES, "mine", stage.namespace, until=is_("Allocated", "False"), timeout_seconds=WAIT
            )
            command.signal(signal.SIGINT)
            until(lambda: not command.running(), "it ends", WAIT)
            assert command.returncode() == 130
        until(lambda: names(stage) == ["first"], "nothing is left behind")

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["--cpu", "1"], 2, "say from which pool"),
            (["--pool", "p"], 2, "say how much"),
            (["--pool", "p", "--cpu", "much"], 2, "'much' is not a quantity"),
            (["--pool", "p", "--resource", "cpu"], 2, "is not NAME=AMOUNT"),
            (["Not_A_Name", "--pool", "p", "--cpu", "1"], 2, "cannot be a name"),
            (["--pool", "p", "--cpu", "1", "--count", "0"], 122, "spec.count"),
        ],
    )
    def test_what_is_missing_or_wrong_is_said(
        self, run: Commands, stage: Stage, arguments: list[str], code: int, said: str
    ) -> None:
        found = run("acquire", *arguments)
        assert (found.code, found.out) == (code, "")
        assert said in found.err
        assert names(stage) == []

    def test_a_name_that_is_taken_says_what_to_do(self, run: Commands, stage: Stage, pool: str) -> None:
        stage.lease(pool, "first")
        found = run("acquire", "first", "--pool", pool, "--cpu", "1")
        assert found.code == 125
        assert "choose another name" in found.err


class TestCommands:
    def test_it_knows_its_lease_and_its_exit_code_is_passed_on(
        self, run: Commands, stage: Stage, pool: str
    ) -> None:
        found = run(
            *("acquire", "job", "--pool", pool, "--cpu", "1", "--", "sh", "-c"),
            "env | grep ^LEASEHOLD_ | sort; exit 7",
        )
        assert (found.code, found.err) == (7, "")
        lease = stage.until("job", finished)
        assert found.out.splitlines() == [
            "LEASEHOLD_LEASE=job",
            f"LEASEHOLD_NAMESPACE={stage.namespace}",
            f"LEASEHOLD_NODES={stage.nodes.names[0]}",
            f"LEASEHOLD_POOL={pool}",
            f"LEASEHOLD_TOKEN={lease['status']['fencingToken']}",
        ]
        assert condition(lease, "Finished")["reason"] == "Released"
        assert stage.kube.list(SESSIONS, stage.namespace) == []

    @pytest.mark.parametrize(
        ("command", "code", "said"),
        [(["no-such-program"], 127, "no such command"), (["/etc/passwd"], 126, "cannot be executed")],
    )
    def test_a_command_that_cannot_run_takes_no_lease(
        self, run: Commands, stage: Stage, pool: str, command: list[str], code: int, said: str
    ) -> None:
        found = run("acquire", "--pool", pool, "--cpu", "1", "--", *command)
        assert found.code == code
        assert said in found.err
        assert names(stage) == []

    def test_a_command_that_a_signal_ends_is_told_as_shells_do(self, run: Commands, pool: str) -> None:
        assert run("acquire", "--pool", pool, "--cpu", "1", "--", "sh", "-c", "kill -9 $$").code == 137

    @pytest.mark.parametrize(
        ("asked", "code"),
        [
            (["--cpu", "1", "--timeout", "1s"], 124),
            (["--cpu", "1", "--timeout", "0"], 124),
            (["--cpu", "1", "--duration", "300d"], 122),
        ],
        ids=["late", "not at once", "refused"],
    )
    def test_without_a_lease_it_does_not_run(
        self, run: Commands, stage: Stage, pool: str, tmp_path: Path, asked: list[str], code: int
    ) -> None:
        stage.lease(pool, "first", cpu="4")
        stage.until("first", granted)
        found = run("acquire", "--pool", pool, *asked, "--", "touch", str(tmp_path / "ran"))
        assert found.code == code
        assert not (tmp_path / "ran").exists()
        until(lambda: names(stage) == ["first"], "nothing is left behind")

    def test_now_or_never_ends_though_there_is_no_operator(self, bare: Stage, tmp_path: Path) -> None:
        bare.pool_named("p", bare.nodes.selector)
        asked = ("acquire", "--pool", "p", "--cpu", "1", "--timeout", "0")
        found = Commands(bare)(*asked, "--", "touch", str(tmp_path / "ran"))
        assert found.code == 124
        assert not (tmp_path / "ran").exists()
        # Nobody lifts its finalizer here.
        assert all("deletionTimestamp" in lease["metadata"] for lease in leases(bare))

    def test_who_may_not_is_told_and_exit_125(self, run: Commands, pool: str) -> None:
        found = run.as_user("jane")("acquire", "--pool", pool, "--cpu", "1", "--", "true")
        assert found.code == 125
        assert "forbidden" in found.err.lower()

    def test_signals_are_passed_on_to_the_whole_group(
        self, run: Commands, stage: Stage, pool: str, tmp_path: Path
    ) -> None:
        script = f"trap 'echo usr1 >> {tmp_path}/got' USR1; trap 'echo term >> {tmp_path}/got; exit 5' TERM; "
        script += f"touch {tmp_path}/ready; while :; do sleep 0.05; done"
        with run.start("acquire", "job", "--pool", pool, "--cpu", "1", "--", "sh", "-c", script) as command:
            until((tmp_path / "ready").exists, "it runs", WAIT)
            command.signal(signal.SIGUSR1)
            until((tmp_path / "got").exists, "the first arrives", WAIT)
            command.signal(signal.SIGTERM)
            until(lambda: not command.running(), "it ends", WAIT)
            assert command.returncode() == 5
        assert (tmp_path / "got").read_text() == "usr1\nterm\n"
        stage.until("job", finished)

    def test_what_it_leaves_running_ends_before_the_lease_is_given_back(
        self, run: Commands, stage: Stage, pool: str, tmp_path: Path
    ) -> None:
        script = f"(trap '' TERM; echo $$ > {tmp_path}/x; exec sleep 600) & echo $! > {tmp_path}/rest"
        found = run(
            *("acquire", "--pool", pool, "--cpu", "1", "--kill-after", "1s", "--", "sh", "-c"),
            script,
        )
        assert found.code == 0
        assert not alive(tmp_path / "rest")

    def test_as_the_first_process_of_a_container_it_waits_for_orphans_and_ends(
        self, run: Commands, stage: Stage, pool: str, tmp_path: Path
    ) -> None:
        """Else they would be in the command's group for ever."""
        line = run.line(
            "acquire", "--pool", pool, "--cpu", "1", "--", "sh", "-c", "sleep 0.1 & sleep 0.3 & exit 4"
        )
        adopting = (
            f"import ctypes, os, sys; ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        found = subprocess.run(
            [sys.executable, "-c", adopting, *line],
            env=run.env,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert (found.returncode, found.stderr) == (4, "")

    def test_a_stopped_command_goes_on(self, run: Commands, stage: Stage, pool: str, tmp_path: Path) -> None:
        script = f"echo $$ > {tmp_path}/pid; kill -STOP $$; exit 3"
        found = run("acquire", "--pool", pool, "--cpu", "1", "--", "sh", "-c", script)
        assert found.code == 3


class Running:
    """A command under a lease that ignores requests to end, and writes down that it got them."""

    def __init__(self, stage: Stage, child: Child, folder: Path) -> None:
        self.stage = stage
        self.child = child
        self.folder = folder

    @property
    def pid(self) -> Path:
        return self.folder / "pid"

    def told(self) -> bool:
        return (self.folder / "told").exists()


@pytest.fixture
def running(run: Commands, stage: Stage, pool: str, tmp_path: Path) -> Iterator[Running]:
    script = (
        f"trap 'echo told >> {tmp_path}/told' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    )
    with run.start(
        *("acquire", "job", "--pool", pool, "--cpu", "4", "--kill-after", "1s", "--", "sh", "-c"), script
    ) as command:
        made = Running(stage, command, tmp_path)
        until(lambda: made.pid.exists() and alive(made.pid), "it runs", WAIT)
        stage.until("job", is_("Claimed"))
        yield made
        if alive(made.pid):
            os.kill(int(made.pid.read_text()), signal.SIGKILL)


class TestLosing:
    @pytest.fixture
    def pool(self, stage: Stage) -> str:
        """Here it matters how soon somebody is missed."""
        stage.nodes.create(1, SMALL)
        return stage.pool(policy=LIVELY)

    def test_revoked_it_is_asked_to_end_then_ended_before_the_room_is_free(
        self, stage: Stage, pool: str, running: Running
    ) -> None:
        seen: list[bool] = []

        def looked(lease: dict[str, Any]) -> bool:
            if is_("Released")(lease):
                seen.append(alive(running.pid))
            return bool(seen)

        stage.annotate("job", revoke="the disk is failing")
        until(running.told, "it is asked to end", WAIT)
        stage.until("job", looked, WAIT)
        assert seen == [False]
        until(lambda: not running.child.running(), "the exit code is there", WAIT)
        assert running.child.returncode() == 123
        assert "the lease was lost" in running.child.log_tail()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
    def test_with_its_keeper_out_of_action_it_is_ended_before_another_gets_the_room(
        self, stage: Stage, pool: str, running: Running, number: signal.Signals
    ) -> None:
        stage.lease(pool, "next", cpu="4")
        stage.until("next", is_("Allocated", "False"))
        running.child.signal(number)
        seen: list[bool] = []

        def looked(lease: dict[str, Any]) -> bool:
            if granted(lease):
                seen.append(alive(running.pid))
            return bool(seen)

        stage.until("next", looked, WAIT)
        assert seen == [False], "the command still ran when another had its room"

    def test_cut_off_from_the_api_server_it_is_ended_before_another_gets_the_room(
        self, stage: Stage, pool: str, tmp_path: Path
    ) -> None:
        script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
        with FaultProxy(stage.control_plane.connection, random.Random(8)) as proxy:
            run = Commands(stage, proxy.kubeconfig(tmp_path / "kubeconfig"))
            line = (
                "acquire",
                "job",
                "--pool",
                pool,
                "--cpu",
                "4",
                "--kill-after",
                "1s",
                "--",
                "sh",
                "-c",
                script,
            )
            with run.start(*line) as command:
                until(lambda: alive(tmp_path / "pid"), "it runs", WAIT)
                stage.until("job", is_("Claimed"))
                stage.lease(pool, "next", cpu="4")
                stage.until("next", is_("Allocated", "False"))
                cut = proxy.add(BlackHole())
                proxy.cut_watches()
                seen: list[bool] = []

                def looked(lease: dict[str, Any]) -> bool:
                    if granted(lease):
                        seen.append(alive(tmp_path / "pid"))
                    return bool(seen)

                stage.until("next", looked, WAIT)
                assert seen == [False], "the command still ran when another had its room"
                cut.lift()
                proxy.clear()
                until(lambda: not command.running(), "it ends", WAIT)
                assert command.returncode() == 123

    def test_at_the_longest_term_it_is_ended_too(self, run: Commands, stage: Stage, tmp_path: Path) -> None:
        stage.nodes.create(1, SMALL)
        pool = stage.pool(policy={**LIVELY, "maxTotalSeconds": 6})
        script = f"trap 'touch {tmp_path}/told; exit 0' TERM; while :; do sleep 0.05; done"
        found = run(
            *("acquire", "job", "--pool", pool, "--cpu", "1", "--duration", "6s", "--", "sh", "-c"), script
        )
        assert found.code == 123
        assert (tmp_path / "told").exists()
