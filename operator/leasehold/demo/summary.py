"""What a run has shown, in numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from leasehold.demo.observer import Figures


def percentile(values: Iterable[float], percent: int) -> float | None:
    """Return the nearest-rank percentile (the smallest value that so many percent do not exceed), or None."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]


def milliseconds(seconds: float | None) -> str:
    """Write a short time for people."""
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def rows(
    figures: Figures, *, chapters: int, checked: int, report: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return the summary's lines: a name and what was seen. `report` is this host's NodeReport status."""
    ends = Counter(figures.ended.values())
    ready = list(figures.ready_after.values())
    late = list(figures.reclaim_after.values())
    agent = report.get("agent") or {}
    said = [
        ("Shown", f"{chapters} chapters; {checked} expectations held on the API server"),
        (
            "Leases",
            f"{len(figures.granted)} granted, {sum(figures.renewals.values())} renewals, "
            f"{ends['Released']} released, {ends['Expired']} expired, {ends['Revoked']} revoked",
        ),
        (
            "Asked to Ready",
            f"p50 {milliseconds(percentile(ready, 50))}, p95 {milliseconds(percentile(ready, 95))} "
            f"({len(ready)} seen; leases that had to wait not counted)",
        ),
        (
            "Deadline to Released",
            f"p50 {milliseconds(percentile(late, 50))}, max {milliseconds(max(late, default=None))} "
            f"({len(late)} seen, {len(figures.early)} before the deadline)",
        ),
    ]
    if agent:
        said.append(
            (
                "Reporter's own cost",
                f"{agent.get('cpuMicroPerSecond', 0) / 10_000:.2f} % of one core at a 1 s period, "
                f"{agent.get('residentBytes', 0) / (1 << 20):.0f} MiB resident",
            )
        )
    return said


def lines(said: Iterable[tuple[str, str]]) -> list[Text]:
    """Draw the summary, a line each."""
    return [Text.assemble((f"{name:<22}", "dim"), text) for name, text in said]
