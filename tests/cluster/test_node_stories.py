"""Nodes that go, fall silent, shrink, or are wanted by two pools."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.cluster.harness import SMALL, Stage, condition, finished, granted, is_, nodes_of, until


def test_a_deleted_node_takes_its_leases_with_it(stage: Stage) -> None:
    stage.nodes.create(2, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, cpu="4")
    stage.until(lease, granted)
    other = stage.lease(pool, cpu="4")
    (node,) = nodes_of(stage.until(lease, granted))
    stage.until(other, granted)
    stage.nodes.delete(node)
    over = stage.until(lease, finished)
    assert over["status"]["release"]["cause"] == "NodeLost"
    assert condition(over, "Released")["reason"] == "NodeGone"
    stage.settled(other, is_("Ready"))


def test_a_node_not_ready_keeps_its_leases_for_a_while(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"nodeLossSeconds": 5})
    lease = stage.lease(pool, cpu="1")
    stage.until(lease, granted)
    stage.nodes.mark_not_ready(node, "Unknown")
    degraded = stage.until(lease, is_("Degraded", "True", "NodeNotReady"))
    assert condition(degraded, "Ready")["status"] == "True"
    waiting = stage.lease(pool, cpu="1")
    stage.until(waiting, is_("Allocated", "False"))
    over = stage.until(lease, finished)
    assert over["status"]["release"]["cause"] == "NodeLost"
    stage.nodes.mark_ready(node)
    stage.until(waiting, granted)


def test_a_node_that_comes_back_in_time_loses_nothing(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"nodeLossSeconds": 30})
    lease = stage.lease(pool)
    stage.until(lease, granted)
    stage.nodes.mark_not_ready(node)
    stage.until(lease, is_("Degraded"))
    stage.nodes.mark_ready(node)
    stage.until(lease, is_("Degraded", "False", "Healthy"))


def test_a_cordoned_node_gets_nothing_new_and_keeps_what_it_holds(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool)
    stage.until(lease, granted)
    stage.nodes.cordon(node)
    stage.until_pool(pool, is_("Ready", "False", "NoGrantableNodes"))
    late = stage.lease(pool)
    waiting = stage.until(late, is_("Allocated", "False"))
    assert [row["reason"] for row in waiting["status"]["rejections"]] == ["NodeCordoned"]
    assert is_("Ready")(stage.get(lease))
    stage.nodes.uncordon(node)
    stage.until(late, granted)


def test_a_stale_report_holds_new_grants_until_a_fresh_one(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(freshness={"maxAgeSeconds": 10})
    lease = stage.lease(pool)
    stage.until(lease, granted)
    stage.nodes.report(node, at=datetime.now(UTC) - timedelta(seconds=60))
    stage.until_pool(pool, is_("CapacityKnown", "False", "ReportStale"))
    late = stage.lease(pool)
    stage.until(late, is_("Allocated", "False", "WaitingForFreshReports"))
    assert is_("Ready")(stage.get(lease)), "what is held stays held"
    stage.nodes.report(node)
    stage.until(late, granted)


def test_a_report_grows_stale_by_the_mere_passing_of_time(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(freshness={"maxAgeSeconds": 10})
    stage.nodes.report(node, at=datetime.now(UTC) - timedelta(seconds=8))
    stage.until_pool(pool, is_("CapacityKnown", "False", "ReportStale"))


def test_a_report_from_the_future_is_not_believed(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL, report=False)
    stage.nodes.report(node, at=datetime.now(UTC) + timedelta(hours=1))
    pool = stage.pool(wait="False")
    lease = stage.lease(pool)
    stage.until(lease, is_("Allocated", "False"))
    stage.settled(lease, is_("Allocated", "False"))
    stage.nodes.report(node)
    stage.until(lease, granted)


def test_a_node_without_a_report_gets_nothing(stage: Stage) -> None:
    stage.nodes.create(1, SMALL, report=False)
    pool = stage.pool(wait="False")
    lease = stage.lease(pool)
    stage.until(lease, is_("Allocated", "False", "WaitingForFreshReports"))
    stage.until_pool(pool, is_("CapacityKnown", "False", "ReportMissing"))


def test_measured_use_outside_leases_is_not_lent(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL, usage={"cpu": "3"})
    pool = stage.pool()
    lease = stage.lease(pool, cpu="2")
    waiting = stage.until(lease, is_("Allocated", "False", "WaitingForCapacity"))
    assert waiting["status"]["rejections"][0]["shortBy"] == "1"
    stage.nodes.report(node, {"cpu": "2"})
    stage.until(lease, granted)


def test_a_node_that_two_pools_select_is_lent_by_neither(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    first = stage.pool()
    held = stage.lease(first)
    stage.until(held, granted)
    second = stage.pool(wait="False")
    for pool in (first, second):
        stage.until_pool(pool, is_("Degraded", "True", "NodesConflicting"))
    late = [stage.lease(pool) for pool in (first, second)]
    for lease in late:
        waiting = stage.until(lease, is_("Allocated", "False"))
        assert [row["reason"] for row in waiting["status"]["rejections"]] == ["NodeConflicting"]
    assert is_("Ready")(stage.get(held))
    stage.change_pool(second, nodeSelector={"matchLabels": {"nowhere": "none"}})
    stage.until(late[0], granted)
    stage.until(late[1], is_("Allocated", "False", "PoolNotReady"))


def test_a_node_changes_pools_only_when_the_last_lease_there_ended(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL, labels={"team": "a"})
    one = stage.pool(selector={"matchLabels": {**stage.nodes.selector["matchLabels"], "team": "a"}})
    lease = stage.lease(one)
    stage.until(lease, granted)
    two = stage.pool(
        selector={"matchLabels": {**stage.nodes.selector["matchLabels"], "team": "b"}}, wait="False"
    )
    stage.kube.patch("nodes", node, {"metadata": {"labels": {"team": "b"}}})
    stage.until_pool(two, is_("Degraded", "True", "NodesConflicting"))
    late = stage.lease(two)
    stage.until(late, is_("Allocated", "False"))
    stage.change(lease, desiredState="Released")
    stage.until(late, granted)


def test_capacity_that_shrank_revokes_the_least_wanted(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"capacityLossAction": "Revoke", "gracePeriodSeconds": 5})
    low = stage.lease(pool, cpu="2", priority=-1)
    high = stage.lease(pool, cpu="2")
    for lease in (low, high):
        stage.until(lease, granted)
    shrink(stage, node, "2")
    target = stage.until(low, is_("DisruptionTarget", "True", "CapacityLost"))
    assert "revocationTime" in target["status"]["deadlines"]
    over = stage.until(low, finished)
    assert over["status"]["release"]["cause"] == "CapacityLost"
    assert condition(over, "Finished")["reason"] == "Revoked"
    stage.settled(high, is_("Ready"))


def test_capacity_that_shrank_is_kept_unless_the_pool_says_otherwise(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, cpu="4")
    stage.until(lease, granted)
    shrink(stage, node, "2")
    stage.until_pool(pool, is_("Overcommitted"))
    stage.until(lease, is_("Degraded", "True", "OverAllocated"))
    assert is_("Ready")(stage.get(lease))
    late = stage.lease(pool, cpu="1")
    stage.until(late, is_("Allocated", "False"))


def shrink(stage: Stage, node: str, cpu: str) -> None:
    status: dict[str, Any] = {"allocatable": {"cpu": cpu}, "capacity": {"cpu": cpu}}
    stage.kube.patch("nodes", node, {"status": status}, subresource="status")


def test_a_report_gets_its_node_as_owner(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    stage.kube.patch("nodereports", node, {"metadata": {"ownerReferences": None}})
    stage.pool()
    stage.nodes.report(node)

    def owned() -> bool:
        return bool(stage.kube.get("nodereports", node)["metadata"].get("ownerReferences"))

    until(owned, "the Node owns its report")
