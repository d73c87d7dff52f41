"""Traces of a cluster: what a lease's object says of it, and when it is written."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import NotFound, Refused
from leasehold.cli import record as command
from leasehold.core.times import parse_time
from leasehold.sim import scenario
from leasehold.sim.problems import BadInput
from leasehold.sim.record import Recording, header, record_of
from leasehold.sim.scenario import PoolChoice
from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane

NOON = parse_time("2026-11-22T12:00:00Z")


def said(kind: str, status: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": "Any",
        "message": "",
        "lastTransitionTime": "2026-11-22T12:00:00Z",
    }


def lease(
    name: str = "build", *, granted: str = "", finished: str = "", cause: str = "Expired", **spec: Any
) -> dict[str, Any]:
    """A lease created at noon; `granted` and `finished` are times of that day."""
    status: dict[str, Any] = {"conditions": []}
    if granted:
        status["allocation"] = {
            "allocationTime": f"2026-11-22T{granted}Z",
            "ledgerSequence": 1,
            "slices": [{"index": 0, "nodeName": "node-1", "resources": {"cpu": "2"}}],
        }
        status["fencingToken"] = 1
        status["conditions"].append(said("Allocated", "True"))
    if finished:
        status["conditions"] += [said("Released", "True"), said("Finished", "True")]
        status["release"] = {"cause": cause, "finishTime": f"2026-11-22T{finished}Z"}
    return {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-22T12:00:00Z",
        },
        "spec": {"poolRef": {"name": "ci"}, "resources": {"cpu": "2"}, **spec},
        "status": status,
    }


def test_a_lease_that_is_over_says_how_long_it_held() -> None:
    found = record_of(
        lease(
            granted="12:00:05",
            finished="12:01:35.500",
            durationSeconds=60,
            priority=3,
            count=2,
            placement={"mode": "DistinctNodes"},
            holder={"identity": "alice"},
        )
    )
    assert (found.submit, found.granted, found.held_seconds) == (NOON, NOON + 5_000, 90.5)
    assert (found.end_cause, found.duration_seconds, found.priority, found.count) == ("Expired", 60, 3, 2)
    assert (found.placement.mode, found.holder, found.pool) == ("DistinctNodes", "alice", "ci")


def test_a_lease_that_is_still_held_leaves_open_how_long() -> None:
    found = record_of(lease(granted="12:00:05"))
    assert (found.held_seconds, found.end_cause) == (None, "")


def test_a_lease_that_was_never_granted_held_nothing() -> None:
    assert record_of(lease(finished="12:00:05", cause="Withdrawn")).held_seconds == 0


def test_an_object_that_vanished_ends_what_it_held() -> None:
    found = record_of(lease(granted="12:00:05"), gone_at=NOON + 15_000)
    assert (found.held_seconds, found.end_cause) == (10, "Deleted")


class Wrote(Recording):
    """A recording that keeps what it writes."""

    def __init__(self, pool: str = "") -> None:
        self.lines: list[str] = []
        super().__init__(self.lines.append, pool, lambda: NOON + 60_000)

    @property
    def names(self) -> list[str]:
        return [json.loads(line)["name"] for line in self.lines]


def test_each_lease_is_written_once_when_it_is_over() -> None:
    wrote = Wrote()
    wrote.listed([lease("a"), lease("b", granted="12:00:01", finished="12:00:09")], 1)
    assert wrote.names == ["b"]
    wrote.changed("MODIFIED", lease("a", granted="12:00:02"))
    assert wrote.names == ["b"]
    over = lease("a", granted="12:00:02", finished="12:00:12")
    wrote.changed("MODIFIED", over)
    wrote.changed("MODIFIED", over)
    wrote.changed("DELETED", over)
    wrote.listed([lease("b", granted="12:00:01", finished="12:00:09")], 2)
    wrote.close()
    assert wrote.names == ["b", "a"]
    assert wrote.written == 2


def test_a_lease_that_vanished_unseen_is_written_with_the_next_list() -> None:
    wrote = Wrote()
    wrote.listed([lease("a", granted="12:00:00")], 1)
    wrote.listed([], 2)
    assert json.loads(wrote.lines[0])["heldSeconds"] == 60


def test_a_lease_deleted_while_it_waited_is_written() -> None:
    wrote = Wrote()
    wrote.changed("ADDED", lease("a"))
    wrote.changed("DELETED", lease("a"))
    assert json.loads(wrote.lines[0])["heldSeconds"] == 0


def test_what_is_not_over_is_written_at_the_end() -> None:
    wrote = Wrote()
    wrote.listed([lease("a"), lease("b", granted="12:00:02")], 1)
    wrote.close()
    assert wrote.names == ["a", "b"]


def test_only_the_leases_of_the_pool_that_was_asked_for_are_written() -> None:
    wrote = Wrote("gpu")
    wrote.listed([lease("a"), lease("b", poolRef={"name": "gpu"})], 1)
    wrote.close()
    assert wrote.names == ["b"]


def test_sub_leases_are_left_out_for_they_take_nothing_of_the_pool() -> None:
    wrote = Wrote()
    part = lease("part", granted="12:00:02", finished="12:00:09", parentRef={"name": "a"})
    part["status"]["allocation"]["parentUID"] = "uid-a"
    wrote.listed([lease("a", granted="12:00:01"), part], 1)
    wrote.changed("DELETED", part)
    wrote.close()
    assert wrote.names == ["a"]


def test_what_cannot_be_read_is_counted_and_passed_over() -> None:
    wrote = Wrote()
    wrote.listed([{"metadata": {"uid": "x"}}, lease("a", resources={}), lease("b")], 1)
    wrote.close()
    assert (wrote.names, wrote.unreadable) == (["b"], 1)


class Kube:
    """As much of a client as the header needs."""

    def __init__(self, *, forbidden: bool = False) -> None:
        self.forbidden = forbidden

    async def get(self, path: str) -> dict[str, Any]:
        if path != paths.pool("ci"):
            raise NotFound("no such pool", 404)
        return self.pool()

    async def list(self, path: str, *, metadata_only: bool = False) -> tuple[list[dict[str, Any]], str]:
        if path == paths.POOLS:
            return [self.pool()], "1"
        if path == paths.NODES:
            return [self.node("a", "ci"), self.node("b", "other")], "1"
        if self.forbidden:
            raise Refused("forbidden", 403)
        return [{"metadata": {"name": "team-a", "labels": {"team": "a"}}}], "1"

    @staticmethod
    def pool() -> dict[str, Any]:
        spec = {"nodeSelector": {"matchLabels": {"pool": "ci"}}, "fieldOfTomorrow": 1}
        return {"metadata": {"name": "ci", "uid": "1"}, "spec": spec, "status": {"a": "lot"}}

    @staticmethod
    def node(name: str, pool: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "labels": {"pool": pool}}, "status": {"allocatable": {"cpu": "4"}}}


def first_line(client: Kube, pool: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(asyncio.run(header(client, pool, NOON)))  # type: ignore[arg-type]
    return found


def test_the_header_holds_the_pool_its_nodes_and_the_namespaces() -> None:
    found = first_line(Kube(), "ci")
    assert [node["metadata"]["name"] for node in found["nodes"]] == ["a"]
    assert [pool["metadata"] for pool in found["pools"]] == [{"name": "ci"}]
    assert found["namespaces"] == {"team-a": {"team": "a"}}
    assert found["recorded"] == "2026-11-22T12:00:00Z"


def test_without_a_pool_named_all_nodes_are_kept() -> None:
    assert len(first_line(Kube())["nodes"]) == 2


def test_who_may_not_read_namespaces_can_record_all_the_same() -> None:
    assert first_line(Kube(forbidden=True))["namespaces"] == {}


def test_a_pool_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BadInput, match="there is no pool gone"):
        first_line(Kube(), "gone")


def test_a_kubeconfig_that_is_not_there_is_one_line_and_exit_1(capsys, tmp_path) -> None:
    assert command.main(["--kubeconfig", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("leasehold record: there is no kubeconfig at ")


# --- on a real API server ---


@pytest.fixture
def pool(kube: Client, namespace: str):
    name = f"pool-{namespace}"
    spec = {
        "nodeSelector": {"matchLabels": {"pool": name}},
        "resources": [{"name": "cpu", "source": "Allocatable"}],
        "leasePolicy": {"gracePeriodSeconds": 0},
    }
    kube.create(
        {
            "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "CapacityPool",
            "metadata": {"name": name},
            "spec": spec,
        }
    )
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{namespace}", "labels": {"pool": name}},
    }
    kube.create(node)
    status = {"allocatable": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}]}
    kube.patch("nodes", node["metadata"]["name"], {"status": status}, subresource="status")  # type: ignore[index]
    yield name
    kube.delete("nodes", node["metadata"]["name"])  # type: ignore[index]
    kube.delete("capacitypools.leasehold.dev", name)


def stored(kube: Client, namespace: str, pool: str, name: str, **how: Any) -> None:
    document = lease(name, poolRef={"name": pool}, durationSeconds=60)
    document["metadata"] = {"name": name, "namespace": namespace}
    del document["status"]
    kube.create(document)
    over(kube, namespace, name, **how)


def over(kube: Client, namespace: str, name: str, **how: Any) -> None:
    status = {"status": lease(name, **how)["status"]}
    kube.patch("capacityleases.leasehold.dev", name, status, namespace, subresource="status")


@pytest.mark.cluster
def test_a_recorded_cluster_can_be_replayed_without_it(
    control_plane: ControlPlane, kube: Client, namespace: str, pool: str, tmp_path: Path
) -> None:
    stored(kube, namespace, pool, "a", granted="12:00:00", finished="12:00:40")
    stored(kube, namespace, pool, "b")
    path = tmp_path / "ci.trace.gz"
    options = ["--kubeconfig", str(control_plane.kubeconfig), "--pool", pool, "-o", str(path)]
    assert command.main(options) == 0
    found = scenario.of_trace(path, PoolChoice(), strict=True, limit=None)
    assert (found.pool.name, found.pool.capacity, found.size) == (pool, 4_000, 2)
    assert sorted(job.run for job in found.jobs) == [40_000, 60_000]


@pytest.mark.cluster
def test_leases_are_written_as_they_end_until_ctrl_c(
    control_plane: ControlPlane, kube: Client, namespace: str, pool: str, tmp_path: Path
) -> None:
    stored(kube, namespace, pool, "a", granted="12:00:00")
    stored(kube, namespace, pool, "b")
    options = ["record", "--kubeconfig", str(control_plane.kubeconfig), "--pool", pool, "--watch"]
    child = subprocess.Popen(
        [sys.executable, "-m", "leasehold.cli.main", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())["format"] == "leasehold-trace"
        assert "Ctrl-C" in child.stderr.readline()
        over(kube, namespace, "a", granted="12:00:00", finished="12:00:40")
        assert json.loads(child.stdout.readline())["heldSeconds"] == 40
        child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=20)
    finally:
        child.kill()
        child.wait()
    assert [json.loads(line)["name"] for line in rest.splitlines()] == ["b"]
    assert child.returncode == 0
    assert "2 leases written" in errors
