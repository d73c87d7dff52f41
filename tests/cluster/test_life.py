"""A lease from the request to the day its object is removed."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from tests.cluster.harness import (
    SMALL,
    Stage,
    condition,
    finished,
    granted,
    holding,
    is_,
    nodes_of,
)

from leasehold.core.times import parse_time
from leasehold.testing.errors import ApiError


def test_a_lease_waits_is_granted_renewed_warned_expires_and_is_removed(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(
        policy={
            "gracePeriodSeconds": 5,
            "warnBeforeSeconds": [1],
            "claimTimeoutSeconds": 10,
            "maxTotalSeconds": 60,
        }
    )
    first = stage.lease(pool, cpu="3")
    stage.until(first, granted)

    lease = stage.lease(pool, cpu="3", liveness="Renew", durationSeconds=2)
    waiting = stage.until(lease, is_("Allocated", "False", "WaitingForCapacity"))
    assert waiting["status"]["rejections"] == [
        {"reason": "Insufficient", "nodes": 1, "resource": "cpu", "shortBy": "2"}
    ]
    assert "lack cpu" in condition(waiting, "Allocated")["message"]
    assert waiting["status"]["phase"] == "Pending"
    assert holding(waiting) == []

    stage.change(first, desiredState="Released")
    bound = stage.until(lease, granted)
    assert bound["status"]["phase"] == "Bound"
    assert condition(bound, "Claimed")["reason"] == "WaitingForHolder"
    assert "rejections" not in bound["status"]
    assert nodes_of(bound) == stage.nodes.names

    stage.renew(lease)
    active = stage.until(lease, is_("Claimed"))
    assert active["status"]["phase"] == "Active"
    assert active["status"]["renewal"]["count"] == 1

    warned = stage.until(lease, is_("ExpiringSoon"))
    assert condition(warned, "ExpiringSoon")["reason"] == "Expiration"
    over = stage.until(lease, finished)
    assert condition(over, "Finished")["reason"] == "Expired"
    assert over["status"]["phase"] == "Expired"
    assert holding(over) == []
    deadline = parse_time(warned["status"]["deadlines"]["expirationTime"]) + 5000
    ended = parse_time(over["status"]["release"]["finishTime"])
    assert deadline <= ended < deadline + 5000, "never early, and not much later"
    stage.change(lease, ttlSecondsAfterFinished=1)
    stage.until_gone(lease)


def test_release_frees_the_capacity_for_the_next(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    first = stage.lease(pool, cpu="4")
    stage.until(first, granted)
    second = stage.lease(pool, cpu="4")
    stage.until(first, granted)
    stage.until(second, is_("Allocated", "False"))
    stage.change(first, desiredState="Released")
    assert condition(stage.until(first, finished), "Finished")["reason"] == "Released"
    later = stage.until(second, granted)
    assert later["status"]["fencingToken"] > stage.get(first)["status"]["fencingToken"]
    with pytest.raises(ApiError) as refused:
        stage.change(first, desiredState="Held")
    assert refused.value.status in (403, 422)


def test_a_deleted_lease_gives_back_before_it_goes(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"cooldownSeconds": 5})
    first = stage.lease(pool, cpu="4")
    stage.until(first, granted)
    second = stage.lease(pool, cpu="4")
    stage.kube.delete("clease", first, stage.namespace)
    resting = stage.until(first, is_("Released", "False", "CoolingDown"))
    assert resting["status"]["phase"] == "Releasing"
    rested = parse_time(resting["status"]["deadlines"]["cooldownTime"])
    stage.until_gone(first)
    later = stage.until(second, granted)
    assert parse_time(later["status"]["allocation"]["allocationTime"]) >= rested


def test_a_waiting_lease_that_is_deleted_goes_at_once(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(), cpu="5")
    waiting = stage.until(lease, is_("Allocated", "False"))
    assert condition(waiting, "Allocated")["reason"] == "NoMatchingNodes"
    stage.kube.delete("clease", lease, stage.namespace)
    stage.until_gone(lease)


def test_a_waiting_lease_that_is_released_is_over(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(), cpu="5")
    stage.until(lease, is_("Allocated", "False"))
    stage.change(lease, desiredState="Released")
    over = stage.until(lease, finished)
    assert "allocation" not in over["status"]


def test_a_lease_shrinks_and_the_difference_is_free_at_once(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    first = stage.lease(pool, cpu="4")
    stage.until(first, granted)
    second = stage.lease(pool, cpu="3")
    stage.until(first, granted)
    stage.until(second, is_("Allocated", "False"))
    stage.change(first, resources={"cpu": "1"})
    stage.until(second, granted)
    assert holding(stage.get(first)) == [(stage.nodes.names[0], {"cpu": "1"})]
    with pytest.raises(ApiError, match="may only shrink"):
        stage.change(first, resources={"cpu": "2"})


def test_what_was_granted_cannot_be_changed(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, holder={"identity": "me"})
    stage.until(lease, granted)
    changes: list[dict[str, Any]] = [
        {"count": 2},
        {"placement": {"mode": "SameNode"}},
        {"poolRef": {"name": "other"}},
    ]
    for change in changes:
        with pytest.raises(ApiError, match=r"cannot be changed|immutable"):
            stage.change(lease, **change)


def test_count_is_all_or_nothing(stage: Stage) -> None:
    stage.nodes.create(2, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, cpu="3", count=3)
    waiting = stage.until(lease, is_("Allocated", "False"))
    assert holding(waiting) == []
    stage.nodes.create(1, SMALL)
    held = stage.until(lease, granted)
    assert sorted(nodes_of(held)) == sorted(stage.nodes.names)


def test_higher_priority_goes_first_and_age_decides_between_equals(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    blocker = stage.lease(pool, cpu="4")
    stage.until(blocker, granted)
    low = stage.lease(pool, cpu="4")
    high = stage.lease(pool, cpu="4", priority=10)
    for waiting in (low, high):
        stage.until(waiting, is_("Allocated", "False"))
    stage.change(blocker, desiredState="Released")
    stage.until(high, granted)
    assert not granted(stage.get(low))


def test_strict_fifo_lets_nobody_past_the_head(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(queueing={"strategy": "StrictFIFO"})
    blocker = stage.lease(pool, cpu="3")
    stage.until(blocker, granted)
    head = stage.lease(pool, cpu="2", priority=1)
    behind = stage.lease(pool, cpu="1")
    stage.until(head, is_("Allocated", "False", "WaitingForCapacity"))
    stage.until(behind, is_("Allocated", "False", "BlockedByHead"))
    stage.settled(behind, is_("Allocated", "False"))
    stage.change(blocker, desiredState="Released")
    stage.until(head, granted)
    stage.until(behind, granted)


def test_best_effort_lets_a_small_one_past(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    stage.until(stage.lease(pool, cpu="3"), granted)
    head = stage.lease(pool, cpu="2", priority=1)
    stage.until(head, is_("Allocated", "False"))
    stage.until(stage.lease(pool, cpu="1"), granted)


def test_a_renewal_after_the_end_changes_nothing(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(), durationSeconds=1)
    over = stage.until(lease, finished)
    stage.renew(lease)
    after = stage.settled(lease, finished)
    assert after["status"]["release"] == over["status"]["release"]
    assert holding(after) == []


def test_a_term_never_ends_early_and_a_renewal_counts_from_now(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(), durationSeconds=6)
    held = stage.until(lease, granted)
    begun = parse_time(held["status"]["allocation"]["allocationTime"])
    stage.renew(lease)
    renewed = stage.until(lease, lambda o: "renewal" in o["status"])
    end = parse_time(renewed["status"]["deadlines"]["expirationTime"])
    assert end == parse_time(renewed["status"]["renewal"]["lastRenewTime"]) + 6000
    over = stage.until(lease, finished)
    assert parse_time(over["status"]["release"]["startTime"]) >= end > begun + 6000


def test_kubectl_waits_for_ready(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    blocker = stage.lease(pool, cpu="4", durationSeconds=1)
    stage.until(blocker, granted)
    lease = stage.lease(pool, cpu="4")
    kubectl = stage.control_plane.program("kubectl")
    done = subprocess.run(
        [
            *(str(kubectl), "--kubeconfig", str(stage.control_plane.kubeconfig), "-n", stage.namespace),
            *("wait", f"clease/{lease}", "--for=condition=Ready", "--timeout=15s"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "condition met" in done.stdout
