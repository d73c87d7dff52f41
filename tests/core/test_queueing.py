import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    GIB,
    NOON,
    add_node,
    at,
    clock,
    condition,
    edited,
    make_lease,
    make_node,
    make_pool,
    make_report,
    make_state,
    written,
)
from tests.rehearsal import Rehearsal

from leasehold.core.admission import Refusal
from leasehold.core.course import Step
from leasehold.core.lease import Lease
from leasehold.core.queueing import (
    Place,
    Wait,
    explain,
    keep_waiting,
    moved,
    refuse,
    wait_for,
    wait_for_start,
    wait_for_victims,
)
from leasehold.core.scheduling import Why
from leasehold.core.state import PoolState
from leasehold.core.times import format_time

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
    assert condition(lease, "Accepted") == "", "as if it had never been refused"
    assert condition(lease, "Allocated") == "False/WaitingForCapacity"
    assert keep_waiting(lease, full_wait(), NOON) == {}


def test_a_lease_that_was_refused_by_the_pool_chosen_for_it_reads_again_that_it_was_chosen() -> None:
    chosen = make_lease(pool="ci", poolSelector={"matchLabels": {"kind": "ci"}})
    lease = told(told(chosen, Refusal("QueueFull", "2 leases wait already.")), full_wait())
    assert condition(lease, "Accepted") == "True/PoolChosen"


def test_a_lease_whose_promise_is_void_reads_it_no_more() -> None:
    pool = Rehearsal()
    pool.ask("later", startTime=clock("1h"))
    pool.look()
    lease = pool.lease("later")
    assert keep_waiting(lease, wait_for_start(at("1h")), NOON, promised=True) == {}
    after = told(lease, wait_for(Why.TIME, ""))
    assert "reservation" not in after.status
    assert "startTime" not in after.status.get("deadlines", {})
    assert after.status["phase"] == "Pending"
    assert (
        after.conditions["Allocated"]["message"]
        == "No room is known from its start time on yet; it is looked for."
    )


# --- places and times ---


@pytest.mark.parametrize(
    ("why", "reason", "word"),
    [
        (Why.QUOTA, "WaitingForQuota", "Tenant red holds all that its limit allows."),
        (Why.FAIR_SHARE, "WaitingForFairShare", ""),
        (Why.BLOCKED, "BlockedByHead", ""),
        (Why.VICTIMS, "WaitingForVictims", ""),
        (Why.TIME, "StartTimeNotReached", "No room is known"),
    ],
)
def test_who_waits_for_something_else_than_room_reads_what(why: Why, reason: str, word: str) -> None:
    wait = wait_for(why, "red")
    assert wait.reason == reason
    assert wait.message.startswith(word)
    assert wait.message
    assert condition(told(make_lease(), wait), "Allocated") == f"False/{reason}"


def test_those_who_were_asked_to_go_are_counted() -> None:
    assert wait_for_victims(1, NOON).message.startswith("One lease was asked to go by ")
    assert wait_for_victims(3, NOON).message.startswith("3 leases were asked to go by ")
    assert wait_for_start(at("1h")).message == f"Promised from {clock('1h')}."


def test_room_that_is_promised_to_others_is_told_apart_from_no_room() -> None:
    pool = Rehearsal()
    pool.ask("later", cpu="12", startTime=clock("1h"))
    pool.look()
    for name, cpu, reason in (("fits", "5", "RoomPromised"), ("never", "17", "NoMatchingNodes")):
        pool.ask(name, cpu=cpu, durationSeconds=7200)
        pool.look()
        assert pool.says(name) == f"False/{reason}"


def test_what_changes_a_wait_is_its_reason_and_what_is_short_but_not_by_how_much() -> None:
    state = pool_of(make_node("a"))
    state.table.hold("a", (15_000, 0))
    before = explained(state)
    state.table.hold("a", (15_500, 0))
    assert explained(state).message != before.message
    assert explained(state).key == before.key
    state.table.hold("a", (15_500, 63 * GIB))
    assert explained(state).key != before.key


def placed(position: int, start: str | None, now: str = "") -> Lease:
    place = Place(position, None if start is None else at(start))
    return written(make_lease(), Step(keep_waiting(make_lease(), full_wait(), at(now), place)))


def test_a_place_in_line_is_told_with_the_expected_start() -> None:
    assert placed(3, "10m").status["queue"] == {"approximatePosition": 3, "estimatedStartTime": clock("10m")}
    assert placed(3, None).status["queue"] == {"approximatePosition": 3}


@pytest.mark.parametrize(
    ("place", "again"),
    [
        (Place(4, at("100m")), False),
        (Place(4, at("119m")), False),
        (Place(4, at("126m")), True),
        (Place(4, at("84m")), False),
        (Place(4, at("82m")), True),
        (Place(4, None), True),
        (Place(7, at("100m")), False),
        (Place(8, at("100m")), True),
        (Place(3, at("100m")), False),
        (Place(2, at("100m")), True),
        (None, False),
    ],
)
def test_only_what_moved_materially_is_told_again(place: Place | None, again: bool) -> None:
    lease = placed(4, "100m")
    assert moved(lease, place, NOON) is again
    patch = keep_waiting(lease, full_wait(), NOON, place)
    assert bool(patch) is again
    if again:
        assert place is not None
        after = written(lease, Step(patch))
        assert after.status["queue"].get("estimatedStartTime") == (place.start and format_time(place.start))
        assert not moved(after, place, NOON)


def test_near_the_end_of_a_wait_half_a_minute_is_nothing() -> None:
    lease = placed(1, "20s")
    assert not moved(lease, Place(1, at("45s")), NOON)
    assert moved(lease, Place(1, at("51s")), NOON)


def test_a_lease_with_an_unknown_start_hears_when_one_is_found() -> None:
    lease = placed(2, None)
    assert not moved(lease, Place(2, None), NOON)
    assert moved(lease, Place(2, at("1h")), NOON)
    assert moved(make_lease(), Place(2, None), NOON)


@given(
    hours=st.integers(1, 400),
    drift=st.integers(-900, 900),
    length=st.integers(1, 40),
    every=st.sampled_from([1, 7, 60]),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_estimates_that_drift_are_rewritten_a_number_of_times_that_grows_with_the_logarithm_of_the_wait(
    hours: int, drift: int, length: int, every: int
) -> None:
    """Each lease's estimate is off by the same constant, told exactly once more at each of many looks."""
    wait = hours * 3_600_000
    leases = [make_lease(f"l{i}") for i in range(length)]
    writes = [0] * length
    full = full_wait()
    now = NOON
    while now < NOON + wait:
        for i, lease in enumerate(leases):
            # The whole queue was foretold too early or too late, and it shows bit by bit until the start.
            off = drift * 1000 * (NOON + wait - now) // wait
            place = Place(i + 1, NOON + wait + off)
            patch = keep_waiting(lease, full, now, place)
            if patch:
                leases[i] = written(lease, Step(patch))
                writes[i] += 1
        now += max(every * 60_000, wait // 200)
    assert max(writes) <= 2 + math.log2(wait / 30_000)
    assert len(set(writes)) == 1, "how often one is written to does not depend on the others"


@given(start=st.integers(60, 10**6), looks=st.integers(10, 200), factor=st.integers(1, 4))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_a_start_that_keeps_slipping_is_told_seldom(start: int, looks: int, factor: int) -> None:
    """Its wait grows by a constant at each look: it is rewritten once for each quarter more, not once for each look."""
    lease, writes, left = make_lease(), 0, start * 1000
    full = full_wait()
    for _ in range(looks):
        patch = keep_waiting(lease, full, NOON, Place(1, NOON + left))
        if patch:
            lease = written(lease, Step(patch))
            writes += 1
        left += factor * 1000
    longest = left / (start * 1000)
    assert writes <= 2 + math.log(longest) / math.log(1.25)
