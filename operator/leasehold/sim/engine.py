"""The event loop: time goes from one submission or end to the next, and the planner looks once at each.

At one instant submissions come before ends, and each is followed by a pass of its own. That is the order of the
simulators whose published figures this one is compared with; docs/simulate.md tells what the other order changes.
Ends at one instant come in the order of the starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Final, NamedTuple, Protocol

from leasehold.core.request import Request
from leasehold.core.timeline import Moment
from leasehold.sim.job import Finished, Job, Situation

_TOLD_EVERY: Final = 256
_WAKE: Final = ""


class Planner(Protocol):
    """One pool as time goes on: `core.timeline.Timeline`."""

    def submit(self, request: Request) -> None:
        """Take in a request."""

    def end(self, uid: str) -> None:
        """Take in that a held one gives back now."""

    def run(self, now: int) -> Moment:
        """Decide at an instant; time never goes back."""
        ...

    def next_promise(self) -> int | None:
        """Return the earliest promised start, or None."""
        ...


class Watcher(Protocol):
    """Who is told what happens."""

    def moment(self, at: Situation) -> None:
        """Take in how things stand from now on."""

    def ended(self, found: Finished) -> None:
        """Take in a job that is over."""


class Outcome(NamedTuple):
    """How a replay went: passes of the planner, jobs that were cut short for others, jobs that never started."""

    passes: int
    preempted: int
    never_started: int


def replay(
    planner: Planner,
    jobs: Iterable[Job],
    watchers: Sequence[Watcher],
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Replay jobs that come in submit order; tell `progress` now and then how many were submitted."""
    return _Replay(planner, iter(jobs), watchers, progress).run()


class _Running(NamedTuple):
    job: Job
    start: int
    end: int
    nodes: tuple[int, ...]


class _Replay:
    def __init__(
        self,
        planner: Planner,
        jobs: Iterator[Job],
        watchers: Sequence[Watcher],
        progress: Callable[[int], None] | None,
    ) -> None:
        self.planner = planner
        self.jobs = jobs
        self.watchers = watchers
        self.progress = progress
        self.waiting: dict[str, Job] = {}
        self.running: dict[str, _Running] = {}
        self.events: list[tuple[int, int, str]] = []
        self.submitted = 0
        self.started = 0
        self.passes = 0
        self.preempted = 0
        self.used = 0
        self.wake_at = -1

    def run(self) -> Outcome:
        """Go through all events."""
        arrival = next(self.jobs, None)
        events = self.events
        while arrival is not None or events:
            if arrival is not None and (not events or arrival.submit <= events[0][0]):
                now = arrival.submit
                self._submit(arrival)
                arrival = next(self.jobs, None)
            else:
                now, _, uid = heappop(events)
                if uid != _WAKE and not self._end(uid, now):
                    continue
            self._look(now)
        return Outcome(self.passes, self.preempted, len(self.waiting))

    def _submit(self, job: Job) -> None:
        request = job.request
        self.waiting[request.uid] = job
        self.planner.submit(request)
        if request.shape.not_before > job.submit:
            heappush(self.events, (request.shape.not_before, -1, _WAKE))
        self.submitted += 1
        if self.progress is not None and self.submitted % _TOLD_EVERY == 0:
            self.progress(self.submitted)

    def _end(self, uid: str, now: int) -> bool:
        """End a job, unless it was preempted and this was the end it had before."""
        found = self.running.get(uid)
        if found is None or found.end != now:
            return False
        del self.running[uid]
        self.used -= found.job.units
        self.planner.end(uid)
        over = Finished(found.job, found.start, now, found.nodes)
        for watcher in self.watchers:
            watcher.ended(over)
        return True

    def _look(self, now: int) -> None:
        done = self.planner.run(now)
        self.passes += 1
        for start in done.starts:
            job = self.waiting.pop(start.uid)
            self.used += job.units
            self.started += 1
            self._ends(start.uid, _Running(job, now, now + job.run, tuple(start.nodes)))
        for uid, at in done.evictions:
            found = self.running.get(uid)
            if found is not None and at < found.end:
                self.preempted += 1
                self.started += 1
                self._ends(uid, found._replace(end=max(at, now)))
        promised = self.planner.next_promise()
        if promised is not None and promised > now and promised != self.wake_at:
            self.wake_at = promised
            heappush(self.events, (promised, -1, _WAKE))
        stands = Situation(now, len(self.waiting), len(self.running), self.used)
        for watcher in self.watchers:
            watcher.moment(stands)

    def _ends(self, uid: str, running: _Running) -> None:
        self.running[uid] = running
        heappush(self.events, (running.end, self.started, uid))
