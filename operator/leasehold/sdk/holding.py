"""Until when a lease may be used: facts and the holder's own time in, a verdict and "wake me at" out.

The law: a holder stops no later than the operator can give the capacity to somebody else, whatever is delayed or lost.
So every deadline counts from before a request was sent that is known to have arrived:

- A heartbeat counts at the operator from when it was seen, which is later than when it was sent. The capacity comes
  back no earlier than the time-out and the pool's grace after that. The holder stops when the time-out is over.
- A notice (a drain, a preemption, a missed heartbeat) is followed by the pool's grace. A look at the lease that was
  asked for at some time and shows no notice means: nothing is taken before that time plus the grace.
- A term ends by the operator's clock. How far that clock is from the holder's own is never asked of a wall clock. It is
  known by cause and effect: a stamp that the operator wrote because of a request is later than its sending, so its
  clock showed no more than that stamp when the request was sent (`OperatorClock`).

Times are ms of the holder's own clock, unless they are called stamps, which are ms of the operator's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from leasehold.core.times import earliest
from leasehold.sdk.errors import LostCause

DRIFT: Final = 2000
"""Two clocks may run apart by one part in so many (500 ppm; quartz keeps within 100)."""

LEADERS_APART: Final = 3000
"""Two leaders' clocks may differ by so much (ms): each starts at the API server's within about a second."""

USABLE_GRACE: Final = 5000
"""A pool's grace below this (ms) is too short for a notice to be heard in time by those who ask now and then."""

SHORTEST_HEARTBEAT: Final = 5000
"""No pool has a shorter heartbeatTimeoutSeconds (ms): what is assumed of a pool that cannot be read."""


class State(StrEnum):
    """What a lease is to its holder now."""

    HELD = "Held"
    ENDING = "Ending"
    LOST = "Lost"


class Verdict(NamedTuple):
    """What a lease is now. At `stop_at` (None: never, as far as is known) it is lost for `cause`, unless news comes."""

    state: State
    cause: LostCause | None
    stop_at: int | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the holder knows of its lease.

    `heartbeat_sent` is when the last heartbeat that is known to have arrived was sent, and `heartbeat_timeout` how
    long one counts (None: nobody asks for one). `viewed` is when the last look was asked for that showed no notice,
    or the present one, and `grace` how long before anything is taken a notice is given (0: there may be none).
    `term_ends` and `revoked_at` are the earliest times at which the operator's clock can show the end of the term and
    of the notice (None: there is no such end). `over` is why the lease is over, where that was heard.
    """

    heartbeat_sent: int | None
    heartbeat_timeout: int | None
    viewed: int
    grace: int = 0
    term_ends: int | None = None
    revoked_at: int | None = None
    over: LostCause | None = None


def margin_of(span: int) -> int:
    """Return how much earlier than needed to stop (ms): for the time a cancellation takes, and for clocks' drift."""
    return min(1000, span // 10) + span // DRIFT


def judge(facts: Facts, now: int) -> Verdict:
    """Return what the lease is now, and when that changes if nothing is heard."""
    if facts.over is not None:
        return Verdict(State.LOST, facts.over, now)
    ends: list[tuple[int, LostCause]] = []
    if facts.heartbeat_timeout is not None:
        since = facts.heartbeat_sent
        due = now if since is None else since + facts.heartbeat_timeout - margin_of(facts.heartbeat_timeout)
        ends.append((due, LostCause.NOT_RENEWED))
    if facts.grace >= USABLE_GRACE:
        ends.append((facts.viewed + facts.grace - margin_of(facts.grace), LostCause.UNHEARD))
    if facts.term_ends is not None:
        ends.append((facts.term_ends, LostCause.EXPIRED))
    if facts.revoked_at is not None:
        ends.append((facts.revoked_at, LostCause.REVOKED))
    if not ends:
        return Verdict(State.HELD, None, None)
    stop_at, cause = min(ends)
    if now >= stop_at:
        return Verdict(State.LOST, cause, stop_at)
    return Verdict(State.HELD if facts.revoked_at is None else State.ENDING, cause, stop_at)


def beat_every(timeout: int, grace: int) -> tuple[int, int]:
    """Return how often to send a heartbeat, and how often to look (ms; 0: the watch is enough).

    A third each: two may be lost before anything is.
    """
    return timeout // 3, (grace // 3 if grace >= USABLE_GRACE else 0)


class OperatorClock:
    """Where the operator's clock can be at most, known by causes of ours and stamps that are their effects.

    One for each pool: its leader keeps the time.
    """

    def __init__(self) -> None:
        self._sent: int | None = None
        self._stamp = 0

    def learn(self, sent: int, stamp: int) -> None:
        """Take in that the operator wrote `stamp` because of a request that was sent then."""
        if self._sent is None or self._most_at(sent) >= stamp:
            self._sent, self._stamp = sent, stamp

    def hear(self, received: int, stamp: int) -> None:
        """Take in that a stamp was there then, whatever it was written for.

        One that the clock could not show yet, as far as is known, is by another leader, whose clock is ahead. How old
        it is is not known; an answer to a request of ours will tell better.
        """
        if self._sent is not None and stamp > self._most_at(received) + LEADERS_APART:
            self._sent, self._stamp = received, stamp + LEADERS_APART

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return self._sent is not None

    def _most_at(self, now: int) -> int:
        assert self._sent is not None
        age = now - self._sent
        return self._stamp + age + abs(age) // DRIFT

    def loose_by(self, stamp: int, received: int) -> int | None:
        """Return how far from the truth the estimate may be (ms), given a stamp that was received then."""
        return None if self._sent is None else self._most_at(received) - stamp

    def earliest(self, stamp: int) -> int | None:
        """Return the earliest time at which the operator's clock can show a stamp; None: nothing is known."""
        if self._sent is None:
            return None
        away = stamp - self._stamp
        return self._sent + away - abs(away) // DRIFT


def end_of_term(clock: OperatorClock, expiration: int, span: int) -> int | None:
    """Return the earliest time at which a term of that span can be over, less a margin; None: nothing is known."""
    known = clock.earliest(expiration)
    return None if known is None else known - min(LEADERS_APART, span // 10)


def next_of(*verdicts: Verdict) -> int | None:
    """Return when to look at the first of some leases again."""
    return earliest(*(verdict.stop_at for verdict in verdicts if verdict.state is not State.LOST))
