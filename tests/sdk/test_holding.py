"""The law: a holder stops no later than the operator can give its capacity to somebody else."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from leasehold.sdk.errors import LostCause
from leasehold.sdk.holding import (
    DRIFT,
    LEADERS_APART,
    SHORTEST_HEARTBEAT,
    USABLE_GRACE,
    Facts,
    OperatorClock,
    State,
    beat_every,
    end_of_term,
    judge,
    margin_of,
    next_of,
)

HELD = Facts(heartbeat_sent=1_000, heartbeat_timeout=60_000, viewed=1_000, grace=30_000)


# --- by example ---


def test_a_heartbeat_counts_from_before_it_was_sent_less_a_margin() -> None:
    verdict = judge(replace(HELD, grace=0), 2_000)
    assert verdict.state is State.HELD
    assert verdict.cause is LostCause.NOT_RENEWED
    assert verdict.stop_at == 61_000 - margin_of(60_000) < 61_000
    assert judge(replace(HELD, grace=0), verdict.stop_at).state is State.LOST


def test_a_holder_that_never_sent_a_heartbeat_holds_nothing() -> None:
    assert judge(replace(HELD, heartbeat_sent=None), 0).state is State.LOST


def test_who_heard_nothing_for_a_grace_may_have_been_revoked() -> None:
    verdict = judge(replace(HELD, heartbeat_sent=20_000), 30_500)
    assert (verdict.state, verdict.cause) == (State.LOST, LostCause.UNHEARD)


def test_a_grace_too_short_to_be_heard_is_no_reason_to_stop() -> None:
    assert judge(replace(HELD, grace=USABLE_GRACE - 1), 50_000).state is State.HELD


def test_a_notice_is_an_end_and_the_earliest_end_counts() -> None:
    facts = replace(HELD, term_ends=9_000, revoked_at=8_000)
    assert judge(facts, 7_999).state is State.ENDING
    assert judge(facts, 8_000) == (State.LOST, LostCause.REVOKED, 8_000)
    assert judge(replace(facts, revoked_at=None), 9_000).cause is LostCause.EXPIRED


def test_what_was_heard_to_be_over_is_over() -> None:
    assert judge(replace(HELD, over=LostCause.DELETED), 0) == (State.LOST, LostCause.DELETED, 0)


def test_a_lease_without_any_end_is_held_for_good() -> None:
    verdict = judge(Facts(None, None, 0), 10**12)
    assert verdict == (State.HELD, None, None)
    assert next_of(verdict, judge(HELD, 0)) == judge(HELD, 0).stop_at
    assert next_of(verdict, judge(HELD, 10**9)) is None


def test_two_heartbeats_may_be_lost_before_a_lease_is() -> None:
    beat, look = beat_every(60_000, 30_000)
    assert 2 * beat < 60_000 - margin_of(60_000)
    assert 2 * look < 30_000 - margin_of(30_000)
    assert beat_every(SHORTEST_HEARTBEAT, 0) == (SHORTEST_HEARTBEAT // 3, 0)


# --- the law of heartbeats ---


class Beat(NamedTuple):
    """One heartbeat, by the holder's clock. What is lost is heard of by nobody, or only by the operator."""

    sent: int
    arrived: int | None
    seen: int | None
    confirmed: int | None


DELAY = st.integers(0, 200_000)


@st.composite
def beats(draw: st.DrawFn) -> list[Beat]:
    """Heartbeats with delays of every kind; the first is confirmed, since nothing is held before."""
    sent, found = 0, []
    for number in range(draw(st.integers(1, 12))):
        arrives = None if number and draw(st.booleans()) else sent + draw(DELAY)
        lost = number and draw(st.booleans())
        confirmed = None if arrives is None or lost else arrives + draw(DELAY)
        seen = None if arrives is None else arrives + draw(DELAY)
        found.append(Beat(sent, arrives, seen, confirmed))
        sent += draw(st.integers(1, 60_000))
    return found


def holder_stops(found: list[Beat], facts: Facts) -> int:
    """When the holder stops, as it judges whenever it hears something and whenever it asked to be woken."""
    heard = sorted((beat.confirmed, beat.sent) for beat in found if beat.confirmed is not None)
    now, sent = heard[0]
    facts = replace(facts, heartbeat_sent=sent, viewed=10**9)
    for at, sent in heard[1:]:
        stop_at = judge(facts, now).stop_at
        assert stop_at is not None
        if stop_at <= at:
            return stop_at
        now, facts = at, replace(facts, heartbeat_sent=max(sent, facts.heartbeat_sent or 0))
    stop_at = judge(facts, now).stop_at
    assert stop_at is not None
    return stop_at


def operator_reclaims(found: list[Beat], begins: int, timeout: int, grace: int) -> int:
    """When the operator can take the capacity back at the earliest, of a lease that is held since it `begins`.

    It counts from when it sees a heartbeat. Its watch may be behind, so before it takes anything it looks at the store
    (`adapters.confirmation`). Its seconds may be shorter than the holder's, within the drift that is allowed for.
    """
    patience = (timeout + grace) * (DRIFT - 1) // DRIFT
    arrived = [
        (beat.arrived, beat.seen) for beat in found if beat.arrived is not None and beat.seen is not None
    ]
    last = max(min(seen, begins) for at, seen in arrived if at <= begins)
    while True:
        due = last + patience
        known = [min(seen, due) for at, seen in arrived if at <= due]
        if max(known) <= last:
            return due
        last = max(known)


@given(beats(), st.integers(SHORTEST_HEARTBEAT, 120_000), st.sampled_from([0, 1_000, 30_000]))
def test_the_holder_stops_before_the_operator_reclaims(found: list[Beat], timeout: int, grace: int) -> None:
    facts = Facts(heartbeat_sent=None, heartbeat_timeout=timeout, viewed=0, grace=grace)
    begins = min(beat.confirmed for beat in found if beat.confirmed is not None)
    stops = holder_stops(found, facts)
    assume(stops > begins)  # else it never held anything
    assert stops <= operator_reclaims(found, begins, timeout, grace)


@given(
    looked=st.integers(0, 10**6),
    after=st.integers(0, 10**6),
    grace=st.integers(USABLE_GRACE, 10**6),
)
def test_a_notice_that_was_not_heard_takes_nothing_before_the_holder_stops(
    looked: int, after: int, grace: int
) -> None:
    notice = looked + after  # the look showed none, so it was given later than the look was asked for
    stop_at = judge(Facts(None, None, viewed=looked, grace=grace), looked).stop_at
    assert stop_at is not None
    assert stop_at < notice + grace


# --- the law of terms ---


class Clock(NamedTuple):
    """The operator's clock by the holder's: any offset, and a rate within the drift."""

    offset: int
    gain: int

    def at(self, now: int) -> int:
        return self.offset + now + now * self.gain // (2 * DRIFT)


CLOCKS = st.builds(Clock, st.integers(-(10**13), 10**13), st.sampled_from([-1, 0, 1]))


@given(
    clock=CLOCKS,
    pairs=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)), min_size=1, max_size=8),
    since=st.integers(0, 10**6),
    span=st.integers(1_000, 10**7),
)
def test_a_term_is_over_for_the_holder_before_it_is_for_the_operator(
    clock: Clock, pairs: list[tuple[int, int]], since: int, span: int
) -> None:
    known = OperatorClock()
    for sent, delay in pairs:
        known.learn(sent, clock.at(sent + delay))
    granted = max(sent for sent, _ in pairs) + since
    expiration = clock.at(granted) + span
    stops = end_of_term(known, expiration, span)
    assert stops is not None
    assert clock.at(stops) <= expiration


@given(clock=CLOCKS, sent=st.integers(0, 10**6), delay=st.integers(0, 10**5), worse=st.integers(1, 10**6))
def test_the_tightest_cause_and_effect_is_kept(clock: Clock, sent: int, delay: int, worse: int) -> None:
    known = OperatorClock()
    assert not known.known
    assert known.earliest(0) is known.loose_by(0, 0) is end_of_term(known, 0, 1) is None
    known.learn(sent, clock.at(sent) + delay)
    tight = known.earliest(0)
    known.learn(sent, clock.at(sent) + delay + worse)
    assert known.earliest(0) == tight
    assert known.loose_by(clock.at(sent), sent) == delay


@given(
    clock=CLOCKS,
    sent=st.integers(0, 10**6),
    delay=st.integers(0, 10**5),
    heard=st.integers(0, 10**6),
    jump=st.integers(-(10**6), 10**6),
    span=st.integers(1_000, 10**7),
)
def test_a_stamp_that_refutes_what_is_known_of_the_clock_corrects_it(
    clock: Clock, sent: int, delay: int, heard: int, jump: int, span: int
) -> None:
    known = OperatorClock()
    known.hear(heard, clock.at(heard))
    assert not known.known, "how old it is is not known"
    known.learn(sent, clock.at(sent + delay))
    before = known.earliest(0)
    received = sent + delay + heard
    known.hear(received, clock.at(received))
    assert known.earliest(0) == before, "nothing new"
    stamp = clock.at(received) + jump
    known.hear(received, stamp)
    stops = end_of_term(known, stamp + span, span)
    assert stops is not None
    assert stops <= received + span + LEADERS_APART, "another leader's terms end by its own clock"


@pytest.mark.parametrize(("span", "margin"), [(5_000, 502), (60_000, 1_030), (600_000, 1_300)])
def test_margins(span: int, margin: int) -> None:
    assert margin_of(span) == margin
