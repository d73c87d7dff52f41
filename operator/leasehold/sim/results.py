"""What a replay comes to, added up job by job in memory that does not grow with the jobs that are over."""

from __future__ import annotations

from typing import Any, Final

from leasehold.core.times import SECOND
from leasehold.sim.job import Finished, Situation

TAU: Final = 10 * SECOND
"""Jobs shorter than this count as this long in the bounded slowdown (ms)."""

_BITS: Final = 10


class Histogram:
    """Counts of whole numbers from 0 up, exact below 2048 and within 0.05 % above.

    Log-linear: each power of two is cut into 1024 equal cells, and a cell answers with its middle.
    """

    def __init__(self) -> None:
        self.total = 0
        self._cells: dict[int, int] = {}
        self._largest = 0

    def add(self, value: int) -> None:
        """Count a value."""
        shift = max(0, value.bit_length() - _BITS - 1)
        cell = (shift << (_BITS + 1)) + (value >> shift)
        self._cells[cell] = self._cells.get(cell, 0) + 1
        self._largest = max(self._largest, value)
        self.total += 1

    def percentile(self, percent: int) -> int:
        """Return the smallest value that so many percent of all values do not exceed (nearest rank); 0 of none."""
        rank = max(1, -(-self.total * percent // 100))
        seen = 0
        for cell in sorted(self._cells):
            seen += self._cells[cell]
            if seen >= rank:
                shift, mantissa = cell >> (_BITS + 1), cell & ((1 << (_BITS + 1)) - 1)
                return min(self._largest, (mantissa << shift) + ((1 << shift) >> 1))
        return 0


class Statistics:
    """Running figures of one replay on a pool of `capacity` units."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.jobs = 0
        self.waits = Histogram()
        self.peak_waiting = 0
        self.peak_running = 0
        self._wait = 0
        self._slowdown = 0.0
        self._used = 0
        self._first: int | None = None
        self._last = 0

    def moment(self, at: Situation) -> None:
        """Take in how many wait and run after a pass."""
        if self._first is None:
            self._first = at.now
        self.peak_waiting = max(self.peak_waiting, at.waiting)
        self.peak_running = max(self.peak_running, at.running)

    def ended(self, found: Finished) -> None:
        """Take in a job that is over."""
        run = found.end - found.start
        wait = found.wait
        self.jobs += 1
        self.waits.add(wait)
        self._wait += wait
        self._slowdown += max(1.0, (wait + run) / max(run, TAU))
        self._used += run * found.job.units
        self._last = max(self._last, found.end)

    @property
    def makespan(self) -> int:
        """Milliseconds from the first submission to the last end."""
        return 0 if self._first is None else max(0, self._last - self._first)

    def document(self) -> dict[str, Any]:
        """Return the figures. Times are seconds; utilization is a share of all there was, from 0 to 1."""
        jobs = max(1, self.jobs)
        room = self.capacity * self.makespan
        return {
            "jobs": self.jobs,
            "avg_bounded_slowdown": self._slowdown / jobs,
            "avg_wait_seconds": self._wait / jobs / SECOND,
            "p50_wait_seconds": self.waits.percentile(50) / SECOND,
            "p95_wait_seconds": self.waits.percentile(95) / SECOND,
            "p99_wait_seconds": self.waits.percentile(99) / SECOND,
            "utilization": self._used / room if room else 0.0,
            "makespan_seconds": self.makespan / SECOND,
            "peak_waiting": self.peak_waiting,
            "peak_running": self.peak_running,
        }
