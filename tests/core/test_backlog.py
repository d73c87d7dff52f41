"""A mass of overdue leases ends a few at a time; a fresh end waits for nobody."""

from __future__ import annotations

from tests.builders import at, granted, make_lease, make_node, make_pool, make_state, make_world

from leasehold.core.backlog import Backlog
from leasehold.core.planning import plan


def test_the_first_second_is_a_burst_and_the_rest_come_one_by_one() -> None:
    backlog = Backlog(10)
    turns = [backlog.turn(f"lease-{i}", 100_000) for i in range(30)]
    assert turns[:11] == [None] * 11
    assert turns[11:13] == [100_101, 100_201]
    assert turns[-1] == 101_901


def test_a_lease_keeps_its_turn_and_nobody_slips_in() -> None:
    backlog = Backlog(1)
    assert [backlog.turn(uid, 5000) for uid in "abcd"] == [None, None, 6001, 7001]
    assert backlog.turn("c", 5500) == 6001
    assert backlog.turn("e", 6000) == 8001
    assert backlog.turn("c", 6001) is None
    assert len(backlog) == 2


def test_a_lease_that_is_gone_is_forgotten() -> None:
    backlog = Backlog(1)
    for uid in "abc":
        backlog.turn(uid, 0)
    backlog.forget("c")
    backlog.forget("never there")
    assert len(backlog) == 0


def test_after_an_outage_the_overdue_end_in_turn_and_a_fresh_end_at_once() -> None:
    policy = make_pool(gracePeriodSeconds=0)
    state = make_state(policy, nodes=[make_node(cpu="400")])
    for i in range(200):
        state.observe(granted(make_lease(f"old-{i}", durationSeconds=60), policy=policy, token=i + 1))
    state.observe(granted(make_lease("fresh", durationSeconds=3600), policy=policy, token=999))
    ended: set[str] = set()
    now = at("1h")
    world = make_world([make_node(cpu="400")])
    first = plan(state, world, now)
    names = {change.lease.name for change in first.changes}
    assert "fresh" in names
    assert 50 <= len(names) <= 52
    ended |= names
    for uid, at_ in first.wakes:
        state.deadlines.put(uid, at_)
    passes = 0
    state.attention.clear()
    while len(ended) < 201:
        passes += 1
        now += 100
        more = plan(state, world, now, state.deadlines.pop_due(now))
        names = {change.lease.name for change in more.changes}
        assert len(names) <= 6
        ended |= names
        for uid, at_ in more.wakes:
            state.deadlines.put(uid, at_)
    assert 28 <= passes <= 32, "150 leases at 50 a second take three seconds"
