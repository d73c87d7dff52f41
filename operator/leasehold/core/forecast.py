"""When each waiting lease will start, if everybody leaves when they must and nobody else comes.

The planner itself is asked: the pool is copied, time is let run from one known end to the next, and whoever the
planner starts has its answer. So the answers follow the queue's order, its strategy, the tenants' shares and every
promise. It is done in slices, so that a pass waits for none of it: `look` takes a number of steps and goes on where
it stopped. What is answered is true of the moment the look began.
"""

from __future__ import annotations

from collections.abc import Iterable

from leasehold.core.request import Request
from leasehold.core.state import Answers, PoolState
from leasehold.core.timeline import Timeline

BUDGET = 40
"""Steps of one slice; a step is one instant at which something ends, or one start."""


class Look:
    """One look into the future of whoever waits in a line.

    With `asking`, these requests stand in it too, and the look is for their answers alone: at its turn each is
    told where it would lie, and gives its room back at once.
    """

    def __init__(self, line: Timeline, asking: Iterable[Request] = ()) -> None:
        self.now = line.now
        self.answers = Answers()
        self._line = line
        self._at: int | None = line.now
        self._open: set[str] = set()
        for request in asking:
            self._open.add(request.uid)
            self._line.submit(request)
        self.asking = frozenset(self._open)

    def look(self, budget: int = BUDGET) -> bool:
        """Look so many steps further; return whether everything that can be known is known."""
        while self._at is not None and budget > 0:
            if self._done():
                self._at = None
                break
            budget -= 1 + self._run(self._at)
            self._at = self._next(self._at)
        if self._at is not None:
            return False
        self.answers.looked_at = {*self._line.queue.requests, *self.answers.starts}
        return True

    def _done(self) -> bool:
        return not self._open if self.asking else not self._line.waiting

    def _run(self, at: int) -> int:
        """Let the planner look at one instant; again when a dry run gave its room back. Return how many started."""
        started = 0
        again = True
        while again:
            again = False
            for start in self._line.run(at).starts:
                started += 1
                self.answers.starts[start.uid] = at
                if start.uid in self._open:
                    self._open.discard(start.uid)
                    self.answers.nodes[start.uid] = tuple(self._line.table.names[i] for i in start.nodes)
                    self._line.end(start.uid)
                    again = True
        return started

    def _next(self, at: int) -> int | None:
        """End what ends next and return when; None when nothing is known to come."""
        line = self._line
        end, promise = line.next_end(), line.next_promise()
        if end is not None and end <= at:
            following = at + 1
        else:
            following = min((t for t in (end, promise) if t is not None and t > at), default=0)
        if not following:
            return None
        line.now = following
        for uid in line.due():
            line.end(uid)
        return following


class Forecast(Look):
    """One look into a pool's future, from `now`."""

    def __init__(self, state: PoolState, now: int, asking: Iterable[Request] = ()) -> None:
        super().__init__(_line_of(state, now), asking)
        self.changes = state.changes
        self._rebuilds = state.table.rebuilds

    @property
    def outdated(self) -> bool:
        """The pool got other nodes meanwhile: what was begun cannot be finished."""
        return self._line.table.rebuilds != self._rebuilds


def _line_of(state: PoolState, now: int) -> Timeline:
    """Copy a pool's present: what is free, held, promised, waiting and counted."""
    line = Timeline(state.table, state.policy, now)
    line.calendar = state.calendar.copy()
    line.queue = state.queue.copy()
    line.shares = state.shares.copy()
    line.holds = {uid: set(hold.victims) for uid, hold in state.holds.items()}
    # Whom a lease would displace is decided when its turn comes, not foretold.
    line.preempts = False
    for uid in state.entries:
        line.queue.remove(uid)
    return line
