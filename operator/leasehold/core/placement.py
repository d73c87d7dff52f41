"""Where the slices of one lease go: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

from leasehold.core.amounts import Vector, times
from leasehold.core.capacity import NodeTable, Scratch


def place(
    scratch: Scratch,
    need: Vector,
    count: int = 1,
    mode: str = "Any",
    allowed: Set[int] | None = None,
    topology_key: str = "",
) -> list[int] | None:
    """Find room for `count` slices and take it from the scratch; return their nodes' positions in order.

    Returns None, and leaves the scratch as it was, when not all slices fit. Modes: Any, SameNode (all on one),
    DistinctNodes (no two on one), SameDomain (all on nodes with one value of the `topology_key` label).
    """
    if mode == "SameNode":
        i = scratch.find(times(need, count), allowed)
        if i is None:
            return None
        scratch.take(i, times(need, count))
        return [i] * count
    if mode == "SameDomain":
        return _same_domain(scratch, need, count, allowed, topology_key)
    return _one_by_one(scratch, need, count, allowed, distinct=mode == "DistinctNodes")


def could_ever_fit(
    table: NodeTable, need: Vector, count: int, mode: str, allowed: Set[int] | None, topology_key: str
) -> bool:
    """Tell whether the slices would fit if the pool's nodes were all open, unused and free of leases."""
    wants = [(table.limit[r], amount) for r, amount in enumerate(need) if amount]
    positions: Iterable[int] = range(len(table.names)) if allowed is None else allowed
    if mode == "SameNode":
        return any(_copies(wants, i, count) >= count for i in positions)
    if mode == "DistinctNodes":
        return sum(_copies(wants, i, 1) for i in positions) >= count
    if mode == "SameDomain":
        domains = table.domains(topology_key).values()
        return any(
            _enough(wants, domain if allowed is None else domain & allowed, count) for domain in domains
        )
    return _enough(wants, positions, count)


def _one_by_one(
    scratch: Scratch, need: Vector, count: int, allowed: Set[int] | None, *, distinct: bool
) -> list[int] | None:
    chosen: list[int] = []
    barred: set[int] = set()
    for _ in range(count):
        i = scratch.find(need, allowed, barred)
        if i is None:
            _give_back(scratch, need, chosen)
            return None
        scratch.take(i, need)
        chosen.append(i)
        if distinct:
            barred.add(i)
    return chosen


def _same_domain(
    scratch: Scratch, need: Vector, count: int, allowed: Set[int] | None, topology_key: str
) -> list[int] | None:
    """Try the domains from the one with the least room up, as BestFit does with nodes."""
    room: Callable[[Set[int]], int] = lambda found: sum(  # noqa: E731
        scratch.table.room([column[i] for column in scratch.free]) for i in found
    )
    for domain in sorted(scratch.table.domains(topology_key).values(), key=room):
        within = domain if allowed is None else domain & allowed
        chosen = _one_by_one(scratch, need, count, within, distinct=False)
        if chosen is not None:
            return chosen
    return None


def _give_back(scratch: Scratch, need: Vector, chosen: Sequence[int]) -> None:
    for i in chosen:
        scratch.take(i, times(need, -1))


def _copies(wants: Sequence[tuple[Sequence[int], int]], i: int, enough: int) -> int:
    """Return how many slices a node would take when empty; no more than `enough` are counted."""
    copies = enough
    for column, amount in wants:
        copies = min(copies, column[i] // amount)
        if not copies:
            break
    return copies


def _enough(wants: Sequence[tuple[Sequence[int], int]], positions: Iterable[int], count: int) -> bool:
    if any(amount > max(column, default=0) for column, amount in wants):
        return False
    found = 0
    for i in positions:
        found += _copies(wants, i, count)
        if found >= count:
            return True
    return False
