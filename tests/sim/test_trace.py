"""Leasehold's own traces: written, read, refused, and replayed on pools they were not recorded from."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from leasehold.core.timeline import Timeline
from leasehold.core.times import parse_time
from leasehold.sim import scenario
from leasehold.sim.engine import Outcome, replay
from leasehold.sim.job import Finished, Situation
from leasehold.sim.problems import BadInput
from leasehold.sim.scenario import PoolChoice, Scenario
from leasehold.sim.trace import Record, Trace, header_line

POOL = {
    "kind": "CapacityPool",
    "metadata": {"name": "ci"},
    "spec": {
        "nodeSelector": {"matchLabels": {"pool": "ci"}},
        "resources": [{"name": "cpu", "source": "Allocatable"}, {"name": "memory"}],
        "leasePolicy": {"gracePeriodSeconds": 0, "maxDurationSeconds": 3600},
    },
}


def node(name: str = "node-1", cpu: str = "4", *, ready: str = "True", **labels: str) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"pool": "ci", **labels}},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "16Gi"},
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-22T00:00:00Z"}],
        },
    }


def lease(name: str = "build", submit: Any = "2026-11-22T12:00:00Z", **fields: Any) -> dict[str, Any]:
    return {
        "submit": submit,
        "namespace": "team-a",
        "name": name,
        "pool": "ci",
        "resources": {"cpu": "4", "memory": "1Gi"},
        "durationSeconds": 600,
        **fields,
    }


@pytest.fixture
def path(tmp_path: Path):
    def make(*records: Any, name: str = "ci.trace", **header: Any) -> Path:
        found = tmp_path / name
        lines = [header_line({"pools": [POOL], "nodes": [node()], **header})]
        lines += [record if isinstance(record, str) else json.dumps(record) + "\n" for record in records]
        text = "".join(lines).encode()
        found.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return found

    return make


class Told:
    def __init__(self) -> None:
        self.waits: dict[str, float] = {}
        self.holds: dict[str, float] = {}

    def moment(self, at: Situation) -> None:
        pass

    def ended(self, found: Finished) -> None:
        self.waits[found.job.name] = found.wait / 1000
        self.holds[found.job.name] = (found.end - found.start) / 1000


def run(found: Scenario) -> tuple[Told, Outcome]:
    told = Told()
    return told, replay(Timeline(found.pool.table, found.pool.policy), found.jobs, [told])


def of(path: Path, *, strict: bool = False, limit: int | None = None, **choice: Any) -> Scenario:
    return scenario.of_trace(path, PoolChoice(**choice), strict=strict, limit=limit)


def test_a_trace_is_replayed_on_the_pool_and_nodes_it_carries(path) -> None:
    told, _ = run(of(path(lease("a"), lease("b", heldSeconds=30), lease("c"))))
    assert told.waits == {"team-a/a": 0, "team-a/b": 600, "team-a/c": 630}
    assert told.holds == {"team-a/a": 600, "team-a/b": 30, "team-a/c": 600}


def test_a_compressed_trace_is_read_too(path) -> None:
    assert of(path(lease(), name="ci.trace.gz")).size == 1


@pytest.mark.parametrize(("factor", "waits"), [(2.0, [0, 0]), (1.2, [0, 600]), (0.1, [0, 600])])
def test_what_if_there_were_more_nodes(path, factor: float, waits: list[int]) -> None:
    told, _ = run(of(path(lease("a"), lease("b")), scale=factor))
    assert list(told.waits.values()) == waits


def test_what_if_the_nodes_were_others(path, tmp_path) -> None:
    listing = tmp_path / "nodes.json"
    listing.write_text(json.dumps({"kind": "List", "items": [node("big", "32"), node("b", pool="other")]}))
    found = of(path(*(lease(str(i)) for i in range(8))), nodes=(str(listing),))
    assert found.pool.table.names == ["big"]
    assert set(run(found)[0].waits.values()) == {0}


def test_what_if_the_pool_were_another(path, tmp_path) -> None:
    manifest = tmp_path / "pool.yaml"
    manifest.write_text(
        "kind: CapacityPool\nmetadata: {name: short}\nspec:\n  nodeSelector: {}\n"
        "  resources: [{name: cpu, source: Allocatable}, {name: memory, source: Allocatable}]\n"
        "  leasePolicy: {maxDurationSeconds: 60, defaultDurationSeconds: 60}\n"
        "---\nkind: Namespace\n"
    )
    found = of(path(lease("a"), lease("b", durationSeconds=60)), manifest=manifest)
    told, _ = run(found)
    assert list(told.waits) == ["team-a/b"]
    (problem,) = found.problems.listed()
    assert (problem.action, problem.times, problem.lines) == ("refused", 1, (2,))
    assert problem.reason.startswith("DurationTooLong")


def test_leases_come_in_submit_order_whatever_order_they_were_recorded_in(path) -> None:
    late, early = lease("late", 2_000), lease("early", 1_000)
    assert [record.name for _, record in Trace(path(late, early)).records()] == ["early", "late"]


def test_the_limit_counts_leases(path) -> None:
    assert of(path(lease("a"), lease("b"), lease("c")), limit=2).size == 2


def test_a_higher_priority_goes_first(path) -> None:
    rows = (
        lease("a"),
        lease("b", submit="2026-11-22T12:00:01Z"),
        lease("c", "2026-11-22T12:00:02Z", priority=9),
    )
    assert run(of(path(*rows)))[0].waits == {"team-a/a": 0, "team-a/c": 598, "team-a/b": 1199}


def test_a_lease_that_was_renewed_holds_as_long_as_it_did(path) -> None:
    assert run(of(path(lease("a", heldSeconds=5_000))))[0].holds == {"team-a/a": 5_000}


def test_a_lease_that_was_never_granted_is_left_out_and_counted(path) -> None:
    found = of(path(lease("a", heldSeconds=0), lease("b")))
    assert found.size == 1
    assert found.problems.total("left_out") == 1


def test_what_never_fits_is_refused_at_the_door(path) -> None:
    found = of(path(lease("a", resources={"cpu": "5"}), lease("b")))
    assert list(run(found)[0].waits) == ["team-a/b"]
    assert [row.reason for row in found.problems.listed()] == ["larger than the pool"]


def test_tenants_are_found_by_the_labels_of_recorded_namespaces(path) -> None:
    tenants = [{"name": "a", "namespaceSelector": {"matchLabels": {"team": "a"}}, "limit": {"cpu": "4"}}]
    pool = {**POOL, "spec": {**POOL["spec"], "tenants": tenants}}  # type: ignore[dict-item]
    found = of(
        path(
            lease("a"),
            lease("b"),
            lease("c", namespace="elsewhere"),
            pools=[pool],
            nodes=[node("node-1"), node("node-2")],
            namespaces={"team-a": {"team": "a"}},
        )
    )
    # Two nodes are free, and the tenant may hold one.
    assert run(found)[0].waits == {"team-a/a": 0, "team-a/b": 600}
    assert found.problems.listed()[0].reason.startswith("NamespaceNotAllowed")


def test_several_pools_need_a_choice(path) -> None:
    rows = (lease("a"), lease("b", pool="gpu"))
    with pytest.raises(BadInput, match="--pool-name"):
        of(path(*rows))
    assert of(path(*rows), name="ci").size == 1


def test_a_pool_the_trace_does_not_hold_must_be_given(path) -> None:
    with pytest.raises(BadInput, match="--pool FILE"):
        of(path(lease(), pools=[]))


def test_nodes_the_trace_does_not_hold_must_be_given(path) -> None:
    with pytest.raises(BadInput, match="--nodes"):
        of(path(lease(), nodes=[]))


@pytest.mark.parametrize("nodes", [[node(ready="False")], [node(pool="other")]])
def test_nodes_that_lend_nothing_are_an_error(path, nodes) -> None:
    with pytest.raises(BadInput, match="no cpu to lend"):
        of(path(lease(), nodes=nodes))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resources": {}}, "resources"),
        ({"resources": {"cpu": "much"}}, "not a quantity"),
        ({"submit": "yesterday"}, "RFC 3339"),
        ({"submit": -1}, "submit"),
        ({"submit": 1.5}, "submit"),
        ({"heldSeconds": -1}, "heldSeconds"),
        ({"durationSeconds": 0}, "durationSeconds"),
        ({"count": 0}, "count"),
        ({"colour": "red"}, "colour"),
        ({"placement": {"mode": "Sideways"}}, "placement.mode"),
    ],
)
def test_a_bad_line_is_skipped_counted_and_named(path, fields, message) -> None:
    trace = Trace(path(lease("a", **fields), lease("b")))
    assert trace.size == 1
    (problem,) = trace.problems.listed()
    assert message in problem.reason
    assert problem.lines == (2,)
    with pytest.raises(BadInput, match=r"ci\.trace:2: "):
        Trace(path(lease("a", **fields), lease("b")), strict=True)


def test_a_line_that_is_no_json_is_a_bad_line(path) -> None:
    assert Trace(path("{\n", "\n", lease())).problems.total("skipped") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("; MaxProcs: 4\n", "no header of a Leasehold trace"),
        ('{"format":"leasehold-trace","version":2}\n', "version"),
        ('{"format":"leasehold-trace","version":1}\n', "no lease"),
    ],
)
def test_a_file_that_is_no_trace_is_an_error(tmp_path, content, message) -> None:
    path = tmp_path / "x.trace"
    path.write_text(content)
    with pytest.raises(BadInput, match=message):
        Trace(path)


def test_what_is_written_reads_the_same() -> None:
    record = Record.model_validate(
        lease(
            submit=1_234, granted="2026-11-22T12:00:01.5Z", heldSeconds=1.25, startTime="2026-11-22T13:00:00Z"
        )
    )
    line = record.line()
    assert json.loads(line)["granted"] == "2026-11-22T12:00:01.500Z"
    assert Record.model_validate_json(line) == record
    assert record.granted == parse_time("2026-11-22T12:00:01.5Z")
