"""Amnesty: what an outage moves, by how much, and that it does so once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import (
    at,
    edited,
    granted,
    make_lease,
    make_pool,
    make_session,
    make_world,
    renewed,
    written,
)

from leasehold.core.lease import Lease
from leasehold.core.lifecycle import advance
from leasehold.core.outages import KEPT, Outage, joined, moved
from leasehold.core.planning import Grant, entry_of, handover_step
from leasehold.core.policy import PoolPolicy
from leasehold.core.times import format_time

POOL = make_pool(heartbeatTimeoutSeconds=60, claimTimeoutSeconds=120, gracePeriodSeconds=30)


def outage(start: str, end: str) -> Outage:
    return Outage(at(start), at(end))


def test_outages_that_touch_become_one_and_only_the_latest_are_kept() -> None:
    assert joined([Outage(5, 9), Outage(1, 5), Outage(20, 30), Outage(7, 7)]) == (
        Outage(1, 9),
        Outage(20, 30),
    )
    many = [Outage(i * 10, i * 10 + 1) for i in range(KEPT + 3)]
    assert joined(many) == tuple(many[3:])


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (20, 50, 130),  # it fell into the wait
        (-50, 20, 120),  # it began before: only the part since then counts
        (90, 300, 310),  # it was there when the time came: what was left of it is left now
        (100, 300, 100),  # the time had come before
        (-50, 0, 100),  # it was over before the wait began
    ],
)
def test_a_deadline_moves_by_the_part_of_an_outage_in_which_it_was_waited_for(
    start: int, end: int, expected: int
) -> None:
    assert moved(100, 0, [Outage(start, end)]) == expected


spans = st.tuples(st.integers(0, 500), st.integers(1, 200)).map(lambda row: Outage(row[0], sum(row)))


@given(st.integers(0, 300), st.integers(1, 200), st.lists(spans, max_size=4))
def test_no_deadline_falls_and_none_moves_beyond_a_whole_wait_after_the_last_outage(
    since: int, wait: int, found: list[Outage]
) -> None:
    outages = joined(found)
    deadline = moved(since + wait, since, outages)
    assert deadline >= since + wait
    if deadline > since + wait:
        assert deadline <= outages[-1].end + wait
        # Time in which one could be heard, between the beginning and the deadline, is exactly the wait.
        deaf = sum(max(0, min(o.end, deadline) - max(o.start, since)) for o in outages)
        assert deadline - since - deaf == wait


# --- what a lease gets of it ---


def look(lease: Lease, time: str, policy: PoolPolicy = POOL, **world: Any) -> Lease:
    step = advance(lease, policy, make_world(**world), at(time))
    after = written(lease, step)
    assert advance(after, policy, make_world(**world), at(time)).patch == {}, "a second look finds nothing"
    return after


def alive(**how: Any) -> Lease:
    """A lease whose holder renewed last at noon: its heartbeat is due a minute later."""
    lease = granted(make_lease(liveness="Renew", durationSeconds=3600, **how), policy=POOL, since="-10s")
    return look(renewed(lease), "0s")


def test_a_heartbeat_that_could_not_be_heard_is_waited_for_as_long_as_the_outage_was() -> None:
    away = [outage("30s", "5m")]
    lease = look(alive(), "5m1s", outages=away)
    assert not lease.finished
    assert lease.deadline("heartbeatTime") == at("5m30s")
    assert lease.deadline("amnestyTime") == at("5m")
    lease = look(lease, "5m59s", outages=away)
    assert not lease.finished
    assert lease.deadline("heartbeatTime") == at("5m30s"), "once and not again"
    lease = look(lease, "6m", outages=away)
    assert lease.status["release"]["cause"] == "HeartbeatLost"


def test_without_an_outage_nothing_moves() -> None:
    lease = look(alive(), "1m1s")
    assert lease.deadline("heartbeatTime") == at("1m")
    assert look(lease, "1m30s").status["release"]["cause"] == "HeartbeatLost"


def test_grace_that_ran_when_the_outage_began_goes_on_after_it() -> None:
    away = [outage("1m10s", "5m10s")]
    late = look(alive(), "1m5s")
    assert late.deadline("heartbeatTime") == at("1m")
    lease = look(late, "5m10s", outages=away)
    assert not lease.finished
    assert look(lease, "5m29s", outages=away).finished is False
    assert look(lease, "5m30s", outages=away).status["release"]["cause"] == "HeartbeatLost"


def test_a_second_outage_moves_again_by_its_own_part() -> None:
    first, second = outage("30s", "5m"), outage("5m20s", "8m20s")
    lease = look(alive(), "5m1s", outages=[first])
    lease = look(lease, "8m21s", outages=[first, second])
    assert lease.deadline("heartbeatTime") == at("8m30s")
    assert not lease.finished


def test_a_heartbeat_ends_the_matter() -> None:
    away = [outage("30s", "5m")]
    lease = look(renewed(look(alive(), "5m1s", outages=away)), "5m2s", outages=away)
    assert lease.deadline("heartbeatTime") == at("6m2s")
    assert lease.deadline("amnestyTime") is None
    assert look(lease, "6m32s", outages=away).finished


def test_an_outage_before_a_handover_is_none_of_the_next_holders() -> None:
    away = [outage("30s", "5m")]
    next_ = edited(alive(holder={"identity": "one"}), holder={"identity": "two"})
    entry = entry_of(Grant(next_, (), hands_over=True), 9)
    next_ = written(next_, handover_step(next_, entry, POOL, make_world(outages=away), at("5m10s")))
    timeout = next_.deadline("claimTime")
    assert timeout == at("5m10s") + POOL.claim_timeout
    later = [*away, outage("5m20s", "5m25s")]
    assert look(next_, "5m10s", outages=later).deadline("claimTime") == timeout
    waited = advance(next_, POOL, make_world(outages=away), timeout)
    assert waited.patch["release"]["cause"] == "ClaimTimeout"
    waited = advance(next_, POOL, make_world(outages=later), timeout)
    assert waited.patch["deadlines"]["claimTime"] == format_time(timeout + 5000)


def test_a_claim_is_waited_for_as_long_as_the_outage_was() -> None:
    lease = granted(make_lease(liveness="Renew", durationSeconds=3600), policy=POOL)
    away = [outage("1m", "10m")]
    assert look(lease, "2m").status["release"]["cause"] == "ClaimTimeout"
    lease = look(lease, "10m1s", outages=away)
    assert lease.deadline("claimTime") == at("11m")
    assert not look(lease, "10m59s", outages=away).finished
    assert look(lease, "11m", outages=away).status["release"]["cause"] == "ClaimTimeout"


def test_a_session_is_waited_for_as_long_as_the_outage_was() -> None:
    sessions = {("team-a", "worker"): make_session(renewed="0s")}
    how: dict[str, Any] = {"liveness": "Session", "holder": {"sessionRef": {"name": "worker"}}}
    lease = granted(make_lease(durationSeconds=3600, **how), policy=POOL, world=make_world(sessions=sessions))
    away = [outage("30s", "5m")]
    lease = look(lease, "5m1s", sessions=sessions, outages=away)
    assert condition_of(lease, "HolderLive") == "True"
    lease = look(lease, "5m31s", sessions=sessions, outages=away)
    assert condition_of(lease, "HolderLive") == "False"
    assert not look(lease, "5m59s", sessions=sessions, outages=away).finished
    assert look(lease, "6m", sessions=sessions, outages=away).status["release"]["cause"] == "HeartbeatLost"


def test_the_end_of_a_term_does_not_move() -> None:
    lease = granted(make_lease(durationSeconds=120), policy=POOL)
    away = [outage("1m", "10m")]
    assert look(lease, "10m1s", outages=away).status["release"]["cause"] == "TermEnded"


def test_while_the_api_server_does_not_answer_nobody_is_taken_for_dead() -> None:
    lease = look(alive(), "5m", in_touch=False)
    assert not lease.finished
    assert advance(lease, POOL, make_world(in_touch=False), at("5m")).wake_at == at("5m1s")
    unclaimed = granted(make_lease(liveness="Renew", durationSeconds=3600), policy=POOL)
    assert not look(unclaimed, "5m", in_touch=False).finished
    assert look(unclaimed, "5m").finished


def condition_of(lease: Lease, type_: str) -> str:
    return str(lease.conditions[type_]["status"])
