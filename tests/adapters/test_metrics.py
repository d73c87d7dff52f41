"""Metrics: parseable, in base units, and gone with the pool they are about."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.adapters.fakes import Scene, lease_document, pool_document, report_document

from leasehold.adapters.kube import paths
from leasehold.adapters.metrics import Metrics, PoolGauges
from leasehold.core.lease import lease_of
from leasehold.core.lifecycle import Notice


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[str]], float]:
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def lease(cause: str = "", *, starting: bool = False, **status: Any) -> Any:
    document = lease_document("a")
    document["metadata"] |= {"uid": "u", "creationTimestamp": "2026-11-22T19:00:00Z"}
    release = {"cause": cause} if cause else {}
    if starting:
        release["startTime"] = "2026-11-22T19:01:00Z"
    allocation = {"allocationTime": "2026-11-22T19:00:10Z", "slices": []}
    conditions = [{"type": "Allocated", "status": "True"}]
    document["status"] = {"release": release, "allocation": allocation, "conditions": conditions, **status}
    return lease_of(document)


DUE = {"deadlines": {"next": {"time": "2026-11-22T19:01:00Z", "cause": "Revocation"}}}
NOW = 1795374060000 + 250


@pytest.mark.parametrize(
    ("before", "cause", "delay"),
    [
        (lease(**DUE), "TermEnded", 0.25),
        (lease(**DUE), "HeartbeatLost", 0.25),
        (lease(**DUE), "ReleaseRequested", None),
        (lease(**DUE), "NodeLost", None),
        (lease("ReleaseRequested", starting=True, **DUE), "ReleaseRequested", 0.25),
        (lease(), "TermEnded", None),
        (lease(deadlines={"next": {"time": "2026-11-22T20:00:00Z"}}), "Idle", None),
    ],
    ids=["term", "heartbeat", "given back", "node lost", "cooled down", "no deadline", "not yet due"],
)
def test_the_delay_counts_from_the_deadline_that_ended_the_lease(
    before: Any, cause: str, delay: float | None
) -> None:
    metrics = Metrics()
    released = {"type": "Released", "status": "True", "reason": "Verified"}
    after = lease(
        cause, release={"cause": cause, "finishTime": "2026-11-22T19:01:00Z"}, conditions=[released]
    )
    metrics.released("ci", before, after, NOW)
    found = samples(metrics)
    assert found["leasehold_lease_ends_total", frozenset({"ci", cause})] == 1
    assert found["leasehold_lease_receipts_total", frozenset({"ci", "Verified"})] == 1
    assert found["leasehold_lease_hold_seconds_sum", frozenset({"ci"})] == 50
    assert found.get(("leasehold_lease_reclaim_delay_seconds_sum", frozenset({"ci"}))) == delay


def test_a_pool_that_is_gone_leaves_nothing() -> None:
    metrics = Metrics()
    for pool in ("ci", "other"):
        metrics.granted(pool, waited=1500)
        metrics.noticed(pool, Notice("Granted", ""))
        metrics.released(pool, lease(**DUE), lease("TermEnded"), NOW)
        with metrics.planning(pool):
            pass
        for counter in (metrics.conflicts, metrics.refusals, metrics.missed, metrics.mismatches):
            counter.labels(pool=pool).inc()
    assert samples(metrics)["leasehold_lease_wait_seconds_sum", frozenset({"ci"})] == 1.5
    metrics.forget("ci")
    left = [labels for name, labels in samples(metrics) if labels and "event_loop" not in name]
    assert all("other" in labels and "ci" not in labels for labels in left)
    assert left
    metrics.forget("ci")


def test_a_clock_that_runs_behind_the_servers_waits_no_negative_time() -> None:
    metrics = Metrics()
    metrics.granted("ci", waited=-700)
    assert samples(metrics)["leasehold_lease_wait_seconds_sum", frozenset({"ci"})] == 0


def test_writes_are_timed_whether_they_succeed_or_not() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="x"), metrics.request("lease"):
        raise ValueError("x")
    assert samples(metrics)["leasehold_write_seconds_count", frozenset({"lease"})] == 1


async def test_gauges_are_in_base_units_and_read_when_asked() -> None:
    async with Scene() as scene:
        scene.metrics.registry.register(PoolGauges(scene.metrics, scene.cluster))
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", cpu="1500m")
        scene.ask("big", cpu="64")
        await scene.granted("a")
        await scene.until(lambda: scene.worker.state.ledger.count("held") == 1)
        found = samples(scene.metrics)
        assert found["leasehold_pool_capacity", frozenset({"ci", "cpu", "core", "allocated"})] == 1.5
        assert found["leasehold_pool_capacity", frozenset({"ci", "memory", "byte", "total"})] == 8 * 2**30
        assert found["leasehold_pool_nodes", frozenset({"ci", "Grantable"})] == 1
        assert found["leasehold_pool_leases", frozenset({"ci", "Held"})] == 1
        assert found["leasehold_pool_leases", frozenset({"ci", "Pending"})] == 1
        assert found["leasehold_pool_queue_age_seconds", frozenset({"ci"})] > 0
        for trouble in (
            "write_conflicts",
            "write_refusals",
            "ledger_mismatches",
            "watch_missed",
            "foreign_writes",
        ):
            assert found[f"leasehold_{trouble}_total", frozenset({"ci"})] == 0, "it can be seen to rise"
        assert found["leasehold_pool_report_age_seconds", frozenset({"ci"})] < 10
        scene.cluster.report_gone("n1")
        assert ("leasehold_pool_report_age_seconds", frozenset({"ci"})) not in samples(scene.metrics)


async def test_tenants_are_told_while_they_are_declared() -> None:
    tenants = [
        {
            "name": "web",
            "namespaceSelector": {},
            "guaranteed": {"cpu": "1"},
            "limit": {"cpu": "2"},
            "weight": 2,
        },
    ]
    async with Scene(pool_document(tenants=tenants)) as scene:
        scene.metrics.registry.register(PoolGauges(scene.metrics, scene.cluster))
        await scene.until(lambda: scene.worker.ready)
        for name in ("a", "b"):
            scene.ask(name, cpu="1500m")
        await scene.granted("a")
        await scene.until(lambda: scene.worker.state.ledger.count("held") == 1)
        found = samples(scene.metrics)

        def of_web(kind: str) -> float | None:
            return found.get(("leasehold_tenant_capacity", frozenset({"ci", "web", "cpu", "core", kind})))

        assert (of_web("allocated"), of_web("guaranteed"), of_web("limit")) == (1.5, 1, 2)
        assert ("leasehold_tenant_capacity", frozenset({"ci", "web", "memory", "byte", "limit"})) not in found
        assert found["leasehold_tenant_leases", frozenset({"ci", "web", "Held"})] == 1
        assert found["leasehold_tenant_leases", frozenset({"ci", "web", "Pending"})] == 1
        share = found["leasehold_tenant_share_ratio", frozenset({"ci", "web"})]
        assert 0 < share < 1
        scene.metrics.forget("ci")
        assert not [name for name, labels in samples(scene.metrics) if "web" in labels]


async def test_measured_use_is_told_whatever_the_pool_lends_by() -> None:
    resources = [{"name": "cpu", "source": "Allocatable"}, {"name": "memory"}]
    async with Scene(pool_document(resources=resources), nodes=2) as scene:
        scene.metrics.registry.register(PoolGauges(scene.metrics, scene.cluster))
        await scene.until(lambda: scene.worker.ready)
        key = ("leasehold_pool_usage", frozenset({"ci", "cpu", "core"}))
        assert key not in samples(scene.metrics), "nothing was measured"
        for node in ("n1", "n2"):
            report = report_document(node, at=scene.clock.now(), cpu="750m")
            scene.cluster.report_seen(scene.kube.add(paths.report(node), report))
        await scene.until(lambda: key in samples(scene.metrics))
        assert samples(scene.metrics)[key] == 1.5
