"""Prometheus metrics of the reporter, written as text here: the usual library costs every node several megabytes.

What it measures of its node is in its NodeReport, too; what only it knows is how reading and talking go. Labels are
resources, HTTP methods and codes: closed sets.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from leasehold.api.names import CPU, EPHEMERAL_STORAGE, MEMORY, Presence
from leasehold.core.reporting import Facts

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_UNITS: Final = {CPU: ("core", 1000), MEMORY: ("byte", 1), EPHEMERAL_STORAGE: ("byte", 1)}

Sample = tuple[tuple[str, ...], float]
"""The values of the labels, in the family's order, and the number."""


class Family(NamedTuple):
    """One metric: its full name, kind (gauge or counter), help text and labels."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()


FAMILIES: Final = (
    Family("leasehold_reporter_build_info", "gauge", "1; the version is in the label.", ("version",)),
    Family(
        "leasehold_reporter_readings_total",
        "counter",
        "Readings of the host by result: ok, failed.",
        ("result",),
    ),
    Family(
        "leasehold_reporter_requests_total",
        "counter",
        "Requests to the API server by method and status code; 0 stands for no answer.",
        ("method", "code"),
    ),
    Family(
        "leasehold_reporter_report_timestamp_seconds",
        "gauge",
        "When the API server last took a report, in seconds since 1970 by this node's clock.",
    ),
    Family(
        "leasehold_reporter_clock_offset_seconds",
        "gauge",
        "How far this node's clock is ahead of the API server's.",
    ),
    Family("leasehold_reporter_condition", "gauge", "1 for the status a condition has.", ("type", "status")),
    Family("leasehold_reporter_node_capacity", "gauge", "What the node has.", ("resource", "unit")),
    Family(
        "leasehold_reporter_node_usage",
        "gauge",
        "Measured use: current, trend (mean of about 5 s), p90 of a minute, unmanaged (p90 of what no lease explains).",
        ("resource", "unit", "figure"),
    ),
    Family(
        "leasehold_reporter_leases",
        "gauge",
        "Leases the reporter is asked about, by what it sees.",
        ("state",),
    ),
    Family("process_cpu_seconds_total", "counter", "CPU time of the reporter, user and system."),
    Family("process_resident_memory_bytes", "gauge", "Resident memory of the reporter."),
    Family("process_start_time_seconds", "gauge", "When the reporter started, in seconds since 1970."),
)


class Metrics:
    """Counts, and the facts of the last look. Written by the loop, read by the thread that serves the page."""

    def __init__(
        self,
        version: str = "",
        resident: Callable[[], int] = lambda: 0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._version = version
        self._resident = resident
        self._wall = wall
        self._started = wall()
        self._readings = {"ok": 0, "failed": 0}
        self._requests: dict[tuple[str, str], int] = {}
        self._reported: float | None = None
        self._offset: float | None = None
        self._facts: Facts | None = None

    def read(self, *, failed: bool = False) -> None:
        """Count a reading of the host."""
        self._readings["failed" if failed else "ok"] += 1

    def answered(self, method: str, status: int) -> None:
        """Count a request by its answer; a write that was taken is a report."""
        key = (method, str(status))
        self._requests[key] = self._requests.get(key, 0) + 1
        if method == "PATCH" and status == 200:
            self._reported = self._wall()

    def looked(self, facts: Facts, offset: float | None) -> None:
        """Take in what was seen last, and how far the clock is off (s)."""
        self._facts, self._offset = facts, offset

    def page(self) -> bytes:
        """Return the metrics page (Prometheus text format)."""
        lines = []
        for family, samples in zip(FAMILIES, self._samples(), strict=True):
            lines += [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}"]
            lines += [_line(family, *sample) for sample in samples]
        return ("\n".join(lines) + "\n").encode()

    def _samples(self) -> Iterator[Iterable[Sample]]:
        """Return the samples of each family, in the order of FAMILIES."""
        facts = self._facts
        yield [((self._version,), 1)]
        yield [((result,), count) for result, count in self._readings.items()]
        yield [(key, count) for key, count in sorted(self._requests.copy().items())]
        yield [] if self._reported is None else [((), self._reported)]
        yield [] if self._offset is None else [((), self._offset)]
        yield [((str(v.type), str(v.status)), 1) for v in facts.verdicts] if facts else []
        yield list(_capacity(facts)) if facts else []
        yield list(_usage(facts)) if facts else []
        seen = list(facts.leases.values()) if facts else []
        yield [((str(state),), seen.count(state)) for state in Presence]
        yield [((), time.process_time())]
        yield [((), self._resident())]
        yield [((), self._started)]


def _capacity(facts: Facts) -> Iterator[Sample]:
    for name, amount in facts.capacity.items():
        unit, parts = _UNITS.get(name, ("", 1))
        yield (name, unit), amount / parts


def _usage(facts: Facts) -> Iterator[Sample]:
    for name, figures in facts.figures.items():
        unit, parts = _UNITS.get(name, ("", 1))
        for figure, amount in zip(figures._fields, figures, strict=True):
            if amount is not None:
                yield (name, unit, figure), amount / parts


def _line(family: Family, values: tuple[str, ...], number: float) -> str:
    labels = ",".join(
        f'{label}="{_escaped(value)}"' for label, value in zip(family.labels, values, strict=True)
    )
    return f"{family.name}{{{labels}}} {number!r}" if labels else f"{family.name} {number!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
