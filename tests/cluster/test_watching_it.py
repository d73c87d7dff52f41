"""What an on-call person sees: Events, probes, metrics, logs."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families
from tests.cluster.harness import (
    SMALL,
    ProcessOperator,
    Stage,
    ThreadOperator,
    condition,
    finished,
    granted,
    is_,
    until,
)

FAMILIES = {
    "leasehold_api_requests",
    "leasehold_build_info",
    "leasehold_clock_drift_seconds",
    "leasehold_event_loop_lag_seconds",
    "leasehold_events",
    "leasehold_last_event_age_seconds",
    "leasehold_lease_ends",
    "leasehold_lease_events",
    "leasehold_lease_grants",
    "leasehold_lease_hold_seconds",
    "leasehold_lease_reclaim_delay_seconds",
    "leasehold_lease_receipts",
    "leasehold_lease_wait_seconds",
    "leasehold_ledger_mismatches",
    "leasehold_planning_seconds",
    "leasehold_pool_capacity",
    "leasehold_pool_condition",
    "leasehold_pool_leases",
    "leasehold_pool_nodes",
    "leasehold_pool_queue_age_seconds",
    "leasehold_pool_report_age_seconds",
    "leasehold_pool_usage",
    "leasehold_ready",
    "leasehold_watch_missed",
    "leasehold_watch_relists",
    "leasehold_watch_restarts",
    "leasehold_write_conflicts",
    "leasehold_write_refusals",
    "leasehold_write_seconds",
    "process_cpu_seconds",
    "process_resident_memory_bytes",
}


def test_events_tell_each_change_of_state_once(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"gracePeriodSeconds": 5})
    blocker = stage.lease(pool, cpu="4")
    stage.until(blocker, granted)
    lease = stage.lease(pool, cpu="4", durationSeconds=1)
    stage.until(lease, is_("Allocated", "False"))
    stage.change(blocker, desiredState="Released")
    stage.until(lease, finished)
    until(lambda: len(stage.events(lease)) >= 4, "the Events are written")
    events = sorted(stage.events(lease), key=lambda e: e["eventTime"])
    assert [event["reason"] for event in events] == [
        "WaitingForCapacity",
        "Granted",
        "ExpiringSoonExpiration",
        "Expired",
    ]
    granting = events[1]
    assert granting["type"] == "Normal"
    assert stage.nodes.names[0] in granting["note"]
    assert granting["regarding"]["kind"] == "CapacityLease"
    assert granting["reportingController"] == "leasehold.dev/operator"


def test_events_of_a_pool_tell_its_conditions(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool()
    stage.nodes.cordon(node)
    stage.until_pool(pool, is_("Ready", "False"))
    until(lambda: "NoGrantableNodes" in {e["reason"] for e in stage.events(pool)}, "an Event says so")


def test_the_probes_and_the_metrics_page(stage: Stage, operator: ThreadOperator) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, cpu="2", durationSeconds=1)
    stage.until(lease, finished)
    held = stage.lease(pool, cpu="1")
    stage.until(held, granted)
    assert operator.page("/healthz") == (200, "ok\n")
    until(lambda: operator.page("/readyz")[0] == 200, "ready")
    assert operator.page("/readyz")[1].endswith("leads of 1 shard(s): 0\n")

    def mine(name: str) -> dict[tuple[str, ...], float]:
        status, page = operator.page("/metrics")
        assert status == 200
        families = {family.name: family for family in text_string_to_metric_families(page)}
        assert families.keys() >= FAMILIES, FAMILIES - families.keys()
        assert all(family.documentation for family in families.values())
        found = {}
        for family in families.values():
            for sample in family.samples:
                if sample.name == name and sample.labels.get("pool", pool) == pool:
                    rest = tuple(v for k, v in sorted(sample.labels.items()) if k != "pool")
                    found[rest] = sample.value
        return found

    until(
        lambda: mine("leasehold_lease_grants_total") == {(): 2},
        "grants are counted once they are known to stand",
    )
    assert mine("leasehold_lease_ends_total") == {("TermEnded",): 1}
    assert mine("leasehold_lease_receipts_total") == {("NotRequired",): 1}
    assert mine("leasehold_ready") == {(): 1}
    assert mine("leasehold_event_loop_lag_seconds_count")[()] > 0
    assert mine("process_cpu_seconds_total")[()] > 0
    assert mine("leasehold_lease_hold_seconds_count") == {(): 1}
    assert mine("leasehold_lease_reclaim_delay_seconds_count") == {(): 1}
    assert 0 <= mine("leasehold_lease_reclaim_delay_seconds_sum")[()] < 20
    until(
        lambda: mine("leasehold_pool_capacity").get(("allocated", "cpu", "core")) == 1,
        "the gauges follow the status",
    )
    assert mine("leasehold_pool_leases")[("Held",)] == 1
    assert mine("leasehold_pool_condition")[("True", "Ready")] == 1
    assert 0 <= mine("leasehold_pool_report_age_seconds")[()] < 60
    assert ("PATCH", "200") in mine("leasehold_api_requests_total") or ("200", "PATCH") in mine(
        "leasehold_api_requests_total"
    )


def test_a_pool_that_is_gone_leaves_no_metrics(stage: Stage, operator: ThreadOperator) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool)
    stage.until(lease, granted)
    until(lambda: f'pool="{pool}"' in operator.page("/metrics")[1], "metrics of the pool")
    stage.kube.delete("cpool", pool)
    stage.kube.wait_gone("cpool", pool)
    until(lambda: f'pool="{pool}"' not in operator.page("/metrics")[1], "nothing of the pool is left")


def test_the_log_is_json_and_says_what_each_line_is_about(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    pool = bare.pool(wait="")
    with ProcessOperator(bare.control_plane) as operator:
        operator.wait_ready()
        lines = [json.loads(line) for line in operator.log.read_text().splitlines() if line]
        led = next(line for line in lines if line["message"] == f"pool {pool} taken over")
        assert led["pool"] == pool
        assert led["epoch"] == 1
        assert led["level"] == "INFO"
        assert led["time"].endswith("Z")


def test_a_stay_of_the_api_server_makes_the_operator_unready_not_unhealthy(bare: Stage) -> None:
    with ThreadOperator(bare.control_plane.kubeconfig) as operator:
        for informer in operator.controller.informers.values():
            informer.last_event -= 200_000
        status, body = operator.page("/readyz")
        assert status == 503
        assert "silent" in body
        assert operator.page("/healthz")[0] == 200


def test_kubectl_reads_the_wait_condition(stage: Stage) -> None:
    lease = stage.lease("nowhere-to-be-found")
    waiting = stage.until(lease, is_("Ready", "False"))
    assert condition(waiting, "Ready")["observedGeneration"] == waiting["metadata"]["generation"]
