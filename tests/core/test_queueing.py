import re
from typing import Any

import pytest
from tests.builders import (
    NOON,
    add_node,
    condition,
    edited,
    make_lease,
    make_node,
    make_pool,
    make_report,
    make_state,
    written,
)

from leasehold.core.course import Step
from leasehold.core.lease import Lease
from leasehold.core.policy import PoolPolicy
from leasehold.core.admission import Refusal
from leasehold.core.queueing import Wait, explain, keep_waiting, refuse
from leasehold.core.state import PoolState

# --- explanations ---


def explained(state: PoolState, **how: Any) -> Wait:
    lease = make_lease(**how)
    allowed = state.table.selected(lease.node_selector)
    return explain(
        state.table.scratch(), lease, state.policy.vector(lease.request), state.policy.names, allowed
    )


def pool_of(*nodes: Any, **pool: Any) -> PoolState:
    return make_state(make_pool(**pool), nodes)


def test_too_little_room_says_how_many_nodes_lack_how_much() -> None:
    state = pool_of(make_node("a"), make_node("b"), make_node("c", cordoned=True))
    for name in "ab":
        state.table.hold(name, (15_500, 0))
    wait = explained(state)
    assert wait.reason == "WaitingForCapacity"
    assert wait.message == "Of 3 nodes: 2 lack cpu (by 1500m or more), 1 NodeCordoned."
    assert wait.shortages == (("Insufficient", 2, "cpu", 1500), ("NodeCordoned", 1, "", 0))


def test_no_node_with_the_labels_is_told_as_such() -> None:
    wait = explained(pool_of(make_node()), placement={"nodeSelector": {"disk": "ssd"}})
    assert (wait.reason, wait.shortages) == ("NoMatchingNodes", (("SelectorMismatch", 1, "", 0),))
    assert "labels of spec.placement" in wait.message


def test_more_than_the_pool_ever_has_is_told_as_such() -> None:
    wait = explained(pool_of(make_node(cpu="4")), cpu="5")
    assert (wait.reason, wait.message) == (
        "NoMatchingNodes",
        "More than the pool's nodes have even when empty. Ask for less.",
    )


def test_silent_nodes_that_would_have_room_are_told_as_such() -> None:
    state = make_state(make_pool({"name": "cpu"}, {"name": "memory"}))
    add_node(state, make_node("a"))
    add_node(state, make_node("b"), make_report("b", time="-1h"))
    add_node(state, make_node("c"), make_report("c", time="1h"))
    wait = explained(state)
    assert wait.reason == "WaitingForFreshReports"
    assert {row.reason for row in wait.shortages} == {"ReportMissing", "ReportStale", "ReportFromFuture"}


def test_enough_in_all_but_not_on_one_node_is_fragmented() -> None:
    state = pool_of(make_node("a", cpu="4"), make_node("b", cpu="4"))
    for name in "ab":
        state.table.hold(name, (2500, 0))
    assert explained(state, cpu="2").reason == "Fragmented"


@pytest.mark.parametrize("mode", ["SameNode", "DistinctNodes"])
def test_enough_in_all_but_not_as_the_lease_wants_it_is_fragmented(mode: str) -> None:
    state = pool_of(make_node("a", cpu="4"), make_node("b", cpu="8"))
    state.table.hold("b", (4000, 0))
    if mode == "DistinctNodes":
        state.table.hold("a", (4000, 0))
        state.table.hold("b", (0, 0))
    wait = explained(state, cpu="3", count=2, placement={"mode": mode})
    assert wait.reason == "Fragmented"


def test_room_for_one_slice_but_not_for_all_is_no_fragmentation() -> None:
    state = pool_of(make_node(cpu="8"))
    state.table.hold("node-1", (4000, 0))
    wait = explained(state, cpu="2", count=3)
    assert (wait.reason, wait.shortages) == ("WaitingForCapacity", ())
    assert wait.message == "One slice would fit, but not all 3 at once."


def test_slices_that_must_share_a_node_are_short_by_their_sum() -> None:
    state = pool_of(make_node(cpu="8"))
    state.table.hold("node-1", (4000, 0))
    wait = explained(state, cpu="2", count=3, placement={"mode": "SameNode"})
    assert wait.shortages == (("Insufficient", 1, "cpu", 2000),)


def test_nodes_that_are_all_closed_are_named() -> None:
    wait = explained(pool_of(make_node("a", cordoned=True), make_node("b", not_ready_since="-1m")))
    assert wait.reason == "WaitingForCapacity"
    assert wait.message == "Of 2 nodes: 1 NodeCordoned, 1 NodeNotReady."


# --- what a waiting lease reads ---


def told(lease: Lease, why: Wait | Refusal) -> Lease:
    patch = refuse(lease, why, NOON) if isinstance(why, Refusal) else keep_waiting(lease, why, NOON)
    return written(lease, Step(patch))


def full_wait(**how: Any) -> Wait:
    return explained(pool_of(make_node("a", cordoned=True)), **how)


def test_a_waiting_lease_reads_its_reason_and_the_rejections() -> None:
    lease = told(make_lease(), full_wait())
    assert condition(lease, "Allocated") == condition(lease, "Ready") == "False/WaitingForCapacity"
    assert lease.status["rejections"] == [{"reason": "NodeCordoned", "nodes": 1}]
    assert lease.status["phase"] == "Pending"


def test_a_lease_that_reads_the_same_reasons_is_not_written_again() -> None:
    lease = told(make_lease(), full_wait())
    more = explained(pool_of(make_node("a", cordoned=True), make_node("b", cordoned=True)))
    assert keep_waiting(lease, more, NOON) == {}
    assert told(lease, more) is lease


def test_a_changed_request_reads_again_even_the_same_reason() -> None:
    lease = edited(told(make_lease(), full_wait()), priority=3)
    assert told(lease, full_wait()).status["observedGeneration"] == 2


def test_a_refused_lease_reads_what_to_change() -> None:
    refusal = Refusal("ExceedsPoolMaximum", "At most 4 cpu.")
    lease = told(told(make_lease(), full_wait()), refusal)
    assert condition(lease, "Accepted") == "False/ExceedsPoolMaximum"
    assert condition(lease, "Allocated") == ""
    assert "rejections" not in lease.status
    assert refuse(lease, refusal, NOON) == {}


def test_a_refusal_with_another_figure_is_written_again() -> None:
    lease = told(make_lease(), Refusal("ExceedsPoolMaximum", "At most 4 cpu."))
    lease = told(lease, Refusal("ExceedsPoolMaximum", "At most 2 cpu."))
    assert lease.conditions["Accepted"]["message"] == "At most 2 cpu."


def test_a_lease_that_was_refused_reads_once_it_is_accepted() -> None:
    refused = told(make_lease(), Refusal("QueueFull", "2 leases wait already."))
    lease = told(refused, full_wait())
    assert condition(lease, "Accepted") == "True/PolicyMet"
    assert condition(lease, "Allocated") == "False/WaitingForCapacity"
    assert keep_waiting(lease, full_wait(), NOON) == {}
