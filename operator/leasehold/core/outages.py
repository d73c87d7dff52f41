"""Amnesty: time in which no heartbeat could count does not count against a holder.

While no operator leads a pool, or the API server answers nobody, a holder cannot show that it is alive. So the
deadlines for that (claim, heartbeat) move by the part of an outage that fell into them. What was waited for began at
most one time-out before, so no deadline moves further than one whole time-out beyond the outage. The end of a term
does not move: it was promised as an absolute time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

KEPT = 8
"""How many outages a pool remembers, the latest ones."""


class Outage(NamedTuple):
    """A stretch of time in which nobody was heard (ms)."""

    start: int
    end: int


def joined(outages: Iterable[Outage]) -> tuple[Outage, ...]:
    """Return outages in order, those that touch made one, and only the latest few."""
    found: list[Outage] = []
    for outage in sorted(outages):
        if outage.end <= outage.start:
            continue
        if found and outage.start <= found[-1].end:
            found[-1] = Outage(found[-1].start, max(found[-1].end, outage.end))
        else:
            found.append(outage)
    return tuple(found[-KEPT:])


def moved(deadline: int, since: int, outages: Iterable[Outage], *, after: int = 0) -> int:
    """Return a deadline (ms) moved by the outages between `since`, when the waiting began, and its own coming.

    `after` is the end of the last outage by which it was moved before: none counts twice. A deadline that had come
    before an outage began stays.
    """
    for start, end in outages:
        if end > after and end > since and start < deadline:
            deadline += end - max(start, since, after)
    return deadline
