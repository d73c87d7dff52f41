"""Where the slices of one lease go: all of them, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from leasehold.core.amounts import Vector, times
from leasehold.core.capacity import NodeTable, Scratch


def place(
    scratch: Scratch,
    need: Vector,
    count: int = 1,
    mode: str = "Any",
    allowed: Set[int] | None = None,
    topology_key: str = "",
    until: int = 0,
) -> list[int] | None:
    """Find room for `count` slices until an instant and take it from the scratch; return their nodes' positions.

    Returns None, and leaves the scratch as it was, when not all slices fit. Modes: Any, SameNode (all on one),
    DistinctNodes (no two on one), SameDomain (all on nodes with one value of the `topology_key` label).
    """
    if mode == "SameNode":
        i = scratch.find(times(need, count), allowed, until=until)
        if i is None:
            return None
        scratch.take(i, times(need, count), until)
        return [i] * count
    if mode == "SameDomain":
        return _same_domain(scratch, need, count, allowed, topology_key, until)
    return _one_by_one(scratch, need, count, allowed, until, distinct=mode == "DistinctNodes")


def could_ever_fit(
    table: NodeTable, need: Vector, count: int, mode: str, allowed: Set[int] | None, topology_key: str
) -> bool:
    """Tell whether the slices would fit if the pool's nodes were all open, unused and free of leases."""
    if mode == "SameDomain":
        domains = table.domains(topology_key).values()
        return any(
            _copies(table.shapes(domain if allowed is None else domain & allowed), need, count) >= count
            for domain in domains
        )
    shapes = table.shapes(allowed)
    if mode == "SameNode":
        return any(_copies_on(limit, need) >= count for limit in shapes)
    if mode == "DistinctNodes":
        return sum(nodes for limit, nodes in shapes.items() if _copies_on(limit, need)) >= count
    return _copies(shapes, need, count) >= count


def _one_by_one(
    scratch: Scratch, need: Vector, count: int, allowed: Set[int] | None, until: int, *, distinct: bool
) -> list[int] | None:
    chosen: list[int] = []
    barred: set[int] = set()
    for _ in range(count):
        i = scratch.find(need, allowed, barred, until)
        if i is None:
            give_back(scratch, need, chosen, until)
            return None
        scratch.take(i, need, until)
        chosen.append(i)
        if distinct:
            barred.add(i)
    return chosen


def _same_domain(
    scratch: Scratch, need: Vector, count: int, allowed: Set[int] | None, topology_key: str, until: int
) -> list[int] | None:
    """Try the domains from the one with the least room up, as BestFit does with nodes."""

    def room(found: Set[int]) -> int:
        columns = zip(scratch.free, scratch.table.weights, strict=True)
        return sum(w * sum(column[i] for i in found if column[i] > 0) for column, w in columns)

    for domain in sorted(scratch.table.domains(topology_key).values(), key=room):
        within = domain if allowed is None else domain & allowed
        chosen = _one_by_one(scratch, need, count, within, until, distinct=False)
        if chosen is not None:
            return chosen
    return None


def give_back(scratch: Scratch, need: Vector, chosen: Sequence[int], until: int) -> None:
    """Return slices that were taken until an instant."""
    for i in chosen:
        scratch.take(i, times(need, -1), until)


def _copies_on(limit: Vector, need: Vector) -> int:
    return min((room // amount for room, amount in zip(limit, need, strict=True) if amount), default=0)


def _copies(shapes: Counter[Vector], need: Vector, enough: int) -> int:
    """Count the slices that nodes of these shapes hold together, up to what is enough."""
    found = 0
    for limit, nodes in shapes.items():
        found += nodes * _copies_on(limit, need)
        if found >= enough:
            break
    return found
