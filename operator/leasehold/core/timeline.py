"""One pool as time goes on: leases are submitted, start, end. What the forecast and the simulator run on.

It decides nothing by itself: `schedule` does, as in the operator's own pass. Room is given back as soon as a lease
ends, and a start is believed at once; there is nobody to write to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from leasehold.core.amounts import times
from leasehold.core.calendar import Calendar, Held, Outlook, total_of
from leasehold.core.capacity import Growth, NodeTable, Scratch
from leasehold.core.fairness import Shares, shares_of
from leasehold.core.policy import PoolPolicy
from leasehold.core.queue import Queue
from leasehold.core.request import Request, Start
from leasehold.core.scheduling import schedule


class Head(NamedTuple):
    """Who is first in line, and the start (ms) that is kept for it; None where no known end makes enough room."""

    uid: str
    start: int | None


class Moment(NamedTuple):
    """What happened at one instant: who started, who was asked to go by when, and who is first in line."""

    starts: list[Start]
    evictions: list[tuple[str, int]]
    head: Head | None


class Timeline:
    """A pool from `now` on. Instants are milliseconds and never go back."""

    def __init__(self, table: NodeTable, policy: PoolPolicy, now: int = 0) -> None:
        table.settle()
        self.table = table
        self.policy = policy
        self.now = now
        self.scratch = Scratch(table)
        self.calendar = Calendar()
        self.queue = Queue()
        self.shares: Shares = shares_of(policy, table.capacity)
        self.growth = Growth()
        self.holds: dict[str, set[str]] = {}
        self.preempts = True

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self.queue)

    @property
    def held(self) -> int:
        """How many hold something."""
        return len(self.calendar.held)

    def submit(self, request: Request) -> None:
        """Let a request wait; what it was promised when it asked for something else is void."""
        known = self.queue.requests.get(request.uid)
        if known is not None and known.shape != request.shape:
            self.withdraw(request.uid)
        self.queue.add(request)

    def withdraw(self, uid: str) -> None:
        """Let a request wait no more."""
        self.queue.remove(uid)
        self.calendar.unpromise(uid)
        self.holds.pop(uid, None)

    def end(self, uid: str) -> None:
        """Give back what a lease holds, early or in time; one that holds nothing is no error."""
        held = self.calendar.drop(uid)
        if held is None:
            return
        self.shares.remove(held.tenant, total_of(held.slices, len(self.table.capacity)))
        for node, amounts in held.slices:
            i = self.table.index.get(node)
            if i is not None:
                self.scratch.take(i, times(amounts, -1))
                self.growth.note(i)
        for victims in self.holds.values():
            victims.discard(uid)

    def next_end(self) -> int | None:
        """Return when the next lease ends by what is known now, or None."""
        return self.calendar.ends[0][0] if self.calendar.ends else None

    def next_promise(self) -> int | None:
        """Return the earliest promised start, or None."""
        return min((promise.start for promise in self.calendar.promises.values()), default=None)

    def due(self) -> Iterator[str]:
        """Yield the leases whose end has come, the earliest first; end each of them before asking for the next."""
        while self.calendar.ends and self.calendar.ends[0][0] <= self.now:
            yield self.calendar.ends[0][1]

    def run(self, now: int) -> Moment:
        """Let the planner look at the queue at an instant."""
        self.now = max(self.now, now)
        self.shares.age(self.now)
        outlook = Outlook(self.scratch, self.calendar, self.now)
        found = schedule(
            outlook,
            self.queue,
            self.shares,
            self.policy,
            growth=self.growth,
            holds=self.holds,
            preempting=self.preempts,
        )
        self.scratch.guard = {}
        for start in found.starts:
            self._begin(start)
        for promise in found.promises:
            self.calendar.promise(promise)
        evictions = []
        for preemption in found.preemptions:
            self.calendar.promise(preemption.promise)
            self.holds[preemption.uid] = set(preemption.victims)
            for uid in preemption.victims:
                evictions.append((uid, preemption.promise.start))
                self._leave(uid, preemption.promise.start)
        head = found.head
        return Moment(
            found.starts,
            evictions,
            None if head is None else Head(head[0], None if head[1] is None else head[1].start),
        )

    def _begin(self, start: Start) -> None:
        request = self.queue.requests[start.uid]
        shape = request.shape
        self.withdraw(start.uid)
        slices = tuple((self.table.names[i], shape.need) for i in start.nodes)
        self.calendar.hold(
            start.uid, Held(start.until, slices, shape.tenant, request.priority, self.now, leaving=False)
        )

    def _leave(self, uid: str, by: int) -> None:
        held = self.calendar.held[uid]
        self.calendar.hold(uid, held._replace(until=min(held.until, by), leaving=True))
