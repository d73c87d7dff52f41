"""Keeps a pool's forecast fresh in short slices, a fifth of the time at most, and says who should hear of it.

What is told is bounded by time, not by the length of the queue: a few leases a second, the first in line first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from leasehold.core.forecast import Forecast
from leasehold.core.lease import Lease
from leasehold.core.queueing import Place, moved
from leasehold.core.quote import Offer, in_time, load_of
from leasehold.core.scheduling import in_line
from leasehold.core.state import PoolState
from leasehold.core.times import SECOND

_SPACING = SECOND
_RETOLD = 16
_REST = 4
_SHORTEST = 0.0002


class Foresight:
    """One pool's forecasts. `quotes` answer its dry runs; `news` says that somebody should be told something."""

    def __init__(self) -> None:
        self.quotes: dict[str, tuple[Offer, Offer | None]] = {}
        self.news = False
        self._looking: Forecast | None = None
        self._seen = -1
        self._next_at = 0
        self._spent = 0.0

    def next(self, state: PoolState) -> int | None:
        """Return when to look again (ms), or None while nothing changed or nobody waits."""
        if not self._wanted(state):
            return None
        return self._next_at

    def look(
        self, state: PoolState, now: int, elsewhere: Callable[[Lease], Offer | None], passed: float = 0.0
    ) -> float | None:
        """Look a slice further; return how long it took (s), or None when there is nothing to look at now.

        A slice is a fifth of how long the last pass took (`passed`, in seconds), and at least one step.
        """
        state.table.settle()
        if self._looking is not None and self._looking.outdated:
            self._looking = None
        if self._looking is None:
            self.quotes = {uid: quote for uid, quote in self.quotes.items() if uid in state.inquiries}
            questions = [request for uid, request in state.inquiries.items() if uid not in self.quotes]
            if questions:
                self._looking = Forecast(state, now, questions)
            elif self._wanted(state) and now >= self._next_at:
                self._looking = Forecast(state, now)
            else:
                return None
        started = time.perf_counter()
        done = False
        slice_ = max(_SHORTEST, passed / (_REST + 1))
        while not done and time.perf_counter() - started < slice_:
            done = self._looking.look(1)
        took = time.perf_counter() - started
        self._spent += took
        if done:
            self._finish(state, self._looking, now, elsewhere)
        return took

    def _wanted(self, state: PoolState) -> bool:
        if self._looking is not None or state.inquiries.keys() - self.quotes.keys():
            return True
        return bool(state.queue) and state.changes != self._seen

    def _finish(
        self, state: PoolState, found: Forecast, now: int, elsewhere: Callable[[Lease], Offer | None]
    ) -> None:
        self._looking = None
        if found.asking:
            self._answer(state, found, elsewhere)
            return
        # A long look is not begun anew at every change: it rests as long as it worked, times four.
        self._next_at = now + max(_SPACING, int(_REST * self._spent * SECOND))
        self._spent = 0.0
        self._seen = found.changes
        state.answers = found.answers
        if len(state.queue.tenants) > 1:
            line = enumerate(in_line(state.queue, state.shares.copy()), start=1)
            state.answers.places = {request.uid: k for k, request in line}
        retold = 0
        for uid, place in _places(state):
            if moved(state.leases[uid], place, now):
                state.queue.retell(uid)
                retold += 1
                if retold == _RETOLD:
                    self._seen = -1
                    break
        self.news = self.news or retold > 0

    def _answer(self, state: PoolState, found: Forecast, elsewhere: Callable[[Lease], Offer | None]) -> None:
        for uid in found.asking & state.inquiries.keys():
            start = found.answers.starts.get(uid)
            offer = Offer(state.name, start, found.answers.nodes.get(uid, ()), load_of(state))
            late = not in_time(state.inquiries[uid], start, found.now)
            self.quotes[uid] = offer, elsewhere(state.leases[uid]) if late else None
        self.news = True


def _places(state: PoolState) -> list[tuple[str, Place]]:
    """Return where those stand who were looked at, in line."""
    starts: Mapping[str, int] = state.answers.starts
    found = []
    for _, uid in state.queue.order:
        promise = state.calendar.promises.get(uid)
        if uid in state.answers.looked_at and promise is None:
            found.append((uid, Place(state.place_of(uid), starts.get(uid))))
    return found
