"""Who leads a shard: what each candidate does after a look, and what follows when all of them do it, at their own
pace.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.core.election import (
    Candidate,
    Moves,
    Record,
    Seen,
    Terms,
    decide,
    living,
    observe,
    shard_of,
    share_of,
)

TERMS = Terms(15_000)
ME = Candidate("me", "m1")


def record(holder: str, version: str = "1", **more: object) -> Record:
    return Record(holder, f"{holder}-1", TERMS.duration, version, **more)  # type: ignore[arg-type]


def test_the_times_of_an_election_leave_a_margin_between_the_old_leader_and_the_next() -> None:
    assert (TERMS.renew_deadline, TERMS.period, TERMS.touch) == (10_000, 2000, 4000)
    assert 2 * TERMS.patience <= TERMS.renew_deadline


def test_a_lease_is_over_when_it_did_not_change_for_its_duration_by_the_local_clock() -> None:
    seen = observe({}, {"s": record("other")}, 1000)
    later = observe(seen, {"s": record("other")}, 15_999)
    assert not later["s"].is_over(15_999)
    assert later["s"].is_over(16_000)
    renewed = observe(later, {"s": record("other", "2")}, 15_999)
    assert not renewed["s"].is_over(30_998)


def test_what_a_lease_says_of_the_time_is_never_believed() -> None:
    for told in (0, 10**15, None):
        seen = observe({}, {"s": record("other", renewed=told)}, 1000)
        assert not seen["s"].is_over(1001)


def test_a_lease_that_was_given_back_or_is_missing_is_free_at_once() -> None:
    assert Seen(None, 0).is_over(0)
    assert observe({}, {"s": record("")}, 5)["s"].is_over(5)


@pytest.mark.parametrize(
    ("shards", "leading", "share", "moves"),
    [
        ({0: Seen(None, 0)}, set(), 1, Moves((0,))),
        ({0: Seen(record("other"), 0)}, set(), 1, Moves()),
        ({0: Seen(record(""), 0), 1: Seen(record(""), 0)}, set(), 1, Moves((0,))),
        ({0: Seen(record(""), 0), 1: Seen(record("me"), 0)}, {1}, 1, Moves()),
        ({0: Seen(record("me"), 0), 1: Seen(record("me"), 0)}, {0, 1}, 1, Moves((), 1)),
        ({0: Seen(record("me"), 0), 1: Seen(record("me"), 0)}, {0, 1}, 2, Moves()),
    ],
)
def test_a_candidate_takes_what_is_free_up_to_its_share_and_hands_on_what_is_beyond(
    shards: dict[int, Seen], leading: set[int], share: int, moves: Moves
) -> None:
    assert decide(shards, leading, ME, share, 1000, settled=True) == moves


def test_nothing_is_handed_on_while_replicas_come_and_go() -> None:
    mine = {i: Seen(record("me"), 0) for i in (0, 1)}
    assert decide(mine, {0, 1}, ME, 1, 1000, settled=False) == Moves()


def test_a_shard_that_nobody_takes_is_taken_beyond_ones_share() -> None:
    free = {0: Seen(record("me"), 0), 1: Seen(record(""), 1000)}
    assert decide(free, {0}, ME, 1, 8000).claim == ()
    assert decide(free, {0}, ME, 1, 8500).claim == (1,)
    expired = {0: Seen(record("me"), 0), 1: Seen(record("dead"), 1000)}
    assert decide(expired, {0}, ME, 1, 16_000).claim == ()
    assert decide(expired, {0}, ME, 1, 23_500).claim == (1,)


def test_a_process_that_starts_anew_takes_back_what_its_identity_left() -> None:
    left = {0: Seen(Record("me", "an earlier process", 15_000, "1"), 999)}
    assert decide(left, set(), Candidate("me", "m1", fresh=True), 1, 1000).claim == (0,)
    assert decide(left, set(), ME, 1, 1000).claim == (), "later that is another process of the same name"
    assert decide({0: Seen(record("me"), 999)}, set(), Candidate("me", "me-1"), 1, 1000).claim == (0,)


def test_pools_are_dealt_by_name_alone() -> None:
    dealt = [shard_of(f"pool-{i}", 4) for i in range(1000)]
    assert {shard: dealt.count(shard) > 150 for shard in range(4)} == dict.fromkeys(range(4), True)
    assert shard_of("ci", 1) == 0


@given(st.sets(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=6), st.integers(1, 16))
def test_shares_are_equal_and_add_up(replicas: set[str], shards: int) -> None:
    shares = [share_of(name, replicas, shards) for name in replicas]
    assert sum(shares) == shards
    assert max(shares) - min(shares) <= 1


def test_whoever_let_a_shard_run_out_counts_as_gone() -> None:
    replicas = observe({}, {"a": record("a"), "b": record("b")}, 5000)
    assert living(replicas, [], 5000) == {"a", "b"}
    assert living(replicas, [Seen(record("b"), 0)], 15_000) == {"a"}
    assert living(replicas, [], 20_000) == frozenset()


class Replica:
    """A replica whose clock starts anywhere and runs at its own rate; it does what `decide` says."""

    def __init__(self, name: str, start: int, rate: float) -> None:
        self.me = Candidate(name, f"{name}-1")
        self.start, self.rate = start, rate
        self.seen: dict[str, Seen] = {}
        self.until = 0
        self.leading: set[int] = set()

    def clock(self, world: int) -> int:
        return self.start + int(world * self.rate)

    def valid(self, world: int) -> bool:
        return bool(self.leading) and self.clock(world) < self.until


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_two_never_lead_at_once_whatever_clocks_pauses_and_lost_requests(dice: random.Random) -> None:
    """Clocks run up to a tenth faster or slower and start anywhere; looks are late, lost, or never come."""
    store: Record | None = None
    version = 0
    replicas = [Replica(f"r{i}", dice.randrange(10**6), dice.uniform(0.95, 1.05)) for i in range(3)]
    led = 0
    world = 0
    for _ in range(150):
        world += dice.choice((50, 500, 2000, 2000, 9000))
        replica = dice.choice(replicas)
        now = replica.clock(world)
        if replica.leading and not replica.valid(world):
            replica.leading = set()
        replica.seen = observe(replica.seen, {} if store is None else {"s": store}, now)
        shard = {0: replica.seen.get("s", Seen(None, 0))}
        claims = decide(shard, replica.leading, replica.me, 1, now).claim
        if (claims or replica.leading) and dice.random() < 0.8:  # else the request is lost
            version += 1
            store = Record(replica.me.identity, replica.me.instance, TERMS.duration, str(version))
            replica.seen = observe(replica.seen, {"s": store}, now)
            replica.leading, replica.until = {0}, now + TERMS.renew_deadline
        leaders = [one for one in replicas if one.valid(world)]
        assert len(leaders) <= 1
        led += len(leaders)
    assert led
