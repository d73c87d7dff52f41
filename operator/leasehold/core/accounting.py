"""What a lease held and what was used of it: sums over time, kept while it is held and written once at its end.

A measured amount counts from its sample until the next sample of the same node, at most for as long as a report is
believed. Everything is exact: amount x milliseconds, in integers; only what is written is rounded, and down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from leasehold.api.quantity import MAX_AMOUNT, format_amount
from leasehold.core.lease import Lease
from leasehold.core.times import SECOND

_MOST = 2**31 - 1

Amounts = Mapping[str, int]
"""Amounts by resource name, in whole units (cpu in millicores)."""


class Sample(NamedTuple):
    """What one node said of a lease's use at an instant (ms)."""

    time: int
    amounts: Amounts


class Meter:
    """Adds up one lease's holding and use from `since`, its allocation (ms).

    `longest` is how long a sample counts at most (ms). What it keeps grows with the lease's nodes and resources, not
    with its age. One that was begun late, after a restart, knows no samples from before, and takes the lease to have
    held all the time what it held when it was first told.
    """

    __slots__ = ("_changed", "_held", "_holds", "_last", "_longest", "_observed", "_since", "_spans", "_used")

    def __init__(self, since: int, longest: int) -> None:
        self._since = since
        self._longest = longest
        self._holds: Amounts = {}
        self._changed = since
        self._held: dict[str, int] = {}
        self._last: dict[str, Sample] = {}
        self._observed = 0
        self._spans: dict[str, int] = {}
        self._used: dict[str, int] = {}

    def hold(self, lease: Lease, now: int) -> None:
        """Take in what the lease holds from `now` on; to be told before and after it shrinks."""
        held = held_by(lease)
        if held == self._holds:
            return
        if self._holds:
            self._held = self._held_until(now)
            self._changed = max(now, self._changed)
        self._holds = held

    def observe(self, time: int, node: str, amounts: Amounts) -> None:
        """Take in a sample of a node; a resource that is not named was not measured.

        A sample that is older than the last one means that the node's clock was set back: counting begins anew there.
        """
        last = self._last.get(node)
        if last is not None:
            self._observed += _add(self._spans, self._used, last, self._span(last, time))
        self._last[node] = Sample(time, amounts)

    def bill(self, lease: Lease, now: int) -> dict[str, Any]:
        """Return `status.accounting` of a lease that ends now; {} for one that held nothing.

        `used` is the average while it was observed, on all its nodes together; a node that said nothing is taken to be
        like the others. A resource whose use was not measured has none.
        """
        reserved = held_by(lease) or self._holds
        if not reserved:
            return {}
        held_for = max(0, now - self._since)
        span = max(now, self._changed) - self._since
        nodes = len({part.node for part in lease.slices}) or len(self._last) or 1
        held = self._held_until(now, reserved)
        observed, spans, used = self._observed_until(now)
        rows = []
        for name in sorted(reserved):
            row: dict[str, Any] = {
                "name": name,
                "reserved": _text(name, held[name] // span if span else reserved[name]),
            }
            if spans.get(name) and held.get(name):
                row["used"] = _text(name, nodes * used[name] // spans[name])
                row["usedPercent"] = min(_MOST, 100 * nodes * used[name] * span // (spans[name] * held[name]))
            rows.append(row)
        seconds = min(observed // nodes, held_for) // SECOND
        found: dict[str, Any] = {"heldSeconds": held_for // SECOND, "observedSeconds": seconds}
        return {**found, "resources": rows}

    def average_use(self, nodes: int, now: int) -> dict[str, int]:
        """Return the average use so far of each resource that was measured, on so many nodes together."""
        _, spans, used = self._observed_until(now)
        return {name: nodes * used[name] // span for name, span in spans.items() if span}

    def _span(self, sample: Sample, until: int) -> int:
        """Return how long a sample counts; what lies before the allocation does not."""
        end = min(until, sample.time + self._longest)
        return max(0, end - max(sample.time, self._since))

    def _observed_until(self, now: int) -> tuple[int, dict[str, int], dict[str, int]]:
        """Return node time observed, then node time and amount x time by resource, the last samples included."""
        observed, spans, used = self._observed, dict(self._spans), dict(self._used)
        for last in self._last.values():
            observed += _add(spans, used, last, self._span(last, now))
        return observed, spans, used

    def _held_until(self, now: int, holds: Amounts | None = None) -> dict[str, int]:
        held = dict(self._held)
        span = max(0, now - self._changed)
        for name, amount in (self._holds or holds or {}).items():
            held[name] = held.get(name, 0) + amount * span
        return held


def held_by(lease: Lease) -> dict[str, int]:
    """Return what a lease holds in all its slices."""
    held: dict[str, int] = {}
    for part in lease.slices:
        for name, amount in part.amounts.items():
            held[name] = held.get(name, 0) + amount
    return held


def wasted_permille(held: Amounts, used: Amounts) -> int:
    """Return how much of what is held is not used, in thousandths, by the resource that is used best.

    One full resource is reason enough to hold the others beside it. Where nothing is measured nothing is wasted:
    nobody can say so.
    """
    idle = [
        1000 * (held[name] - used[name]) // held[name] for name in held.keys() & used.keys() if held[name]
    ]
    return max(0, min(idle, default=0))


def _add(spans: dict[str, int], used: dict[str, int], sample: Sample, span: int) -> int:
    """Count a sample for a span of time; return the span if the sample measured anything."""
    for name, amount in sample.amounts.items():
        spans[name] = spans.get(name, 0) + span
        used[name] = used.get(name, 0) + amount * span
    return span if sample.amounts else 0


def _text(name: str, amount: int) -> str:
    return format_amount(name, min(amount, MAX_AMOUNT))
