"""One job or lease to replay, and what became of it."""

from __future__ import annotations

from typing import NamedTuple

from leasehold.core.request import Request


class Job(NamedTuple):
    """What is submitted when, and how long it really holds what it gets. Times are milliseconds.

    `run` is at most the span of the request, which is what the planner reckons with. `units` is what it holds in
    all of the resource that utilization is measured in. `owner` tells whose it is, for colours.
    """

    request: Request
    name: str
    owner: str
    submit: int
    run: int
    units: int


class Finished(NamedTuple):
    """A job that ran: from when to when, and on which nodes (positions in the table), one for each slice."""

    job: Job
    start: int
    end: int
    nodes: tuple[int, ...]

    @property
    def wait(self) -> int:
        """Milliseconds between submission and start."""
        return self.start - self.job.submit


class Situation(NamedTuple):
    """How things stand after a pass. `used` is what all that run hold of the resource that utilization is told of."""

    now: int
    waiting: int
    running: int
    used: int
