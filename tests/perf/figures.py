"""What a benchmark reports: one figure with its target, and the percentiles of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """One measured figure. `target` is what was hoped for, in words; `note` says what it means or how it came."""

    name: str
    value: float
    unit: str
    target: str = ""
    note: str = ""


def percentile(sample: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of a sample that is not empty."""
    ordered = sorted(sample)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def spread(name: str, sample: Sequence[float], unit: str, target: str = "", note: str = "") -> list[Figure]:
    """Return the median and the 99th percentile of a sample; the target belongs to the latter."""
    return [
        Figure(f"{name}, p50", percentile(sample, 50), unit, "", f"n = {len(sample)}"),
        Figure(f"{name}, p99", percentile(sample, 99), unit, target, note),
    ]
