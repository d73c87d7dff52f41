"""The nodes of one pool as columns: what is free where, kept up to date node by node.

free = limit - max(held + unmanaged, used). While leases stay within what they hold, measured use is theirs and
costs nothing twice; use beyond that is somebody else's and is held back.

Nodes are kept in the pool's order of preference, so the first node that fits is the best one, and a decision
rarely looks at more than a few. Changing one node moves it in that order; nothing is built anew.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Generic, NamedTuple, TypeVar

from leasehold.core.amounts import Vector, zero
from leasehold.core.nodes import Verdict
from leasehold.core.request import NEVER

CLOSED = -(1 << 100)
"""The free amount of a node that gets no new grants: below any debt a node can have."""

_SCALE = 1 << 40
_PATIENCE = 256
_REMEMBERED = 256
_TRAIL = 512


T = TypeVar("T")


class Trail(Generic[T]):
    """Where something changed lately, so that what was worked out before is worked out again only there.

    `version` rises with every change; `since` names the nodes that changed after one.
    """

    def __init__(self) -> None:
        self.version = 0
        self._log: deque[tuple[int, T]] = deque(maxlen=_TRAIL)
        self._floor = 0

    def note(self, i: T) -> None:
        """Note a change of a node."""
        self.version += 1
        if len(self._log) == _TRAIL:
            self._floor = self._log[0][0]
        self._log.append((self.version, i))

    def forget(self) -> None:
        """Note that anything may have changed anywhere."""
        self.version += 1
        self._log.clear()
        self._floor = self.version

    def since(self, version: int) -> list[T] | None:
        """Return the nodes that changed after a version, or None for "anywhere"."""
        if version < self._floor:
            return None
        found: dict[T, None] = {}
        for at, i in reversed(self._log):
            if at <= version:
                break
            found[i] = None
        return list(found)


class Growth(Trail[int]):
    """Where room was given back lately: what fitted nowhere may fit there."""


class Row(NamedTuple):
    """One node of the pool."""

    labels: Mapping[str, str]
    verdict: Verdict
    held: Vector

    def free(self) -> Vector:
        """Return what could still be lent; negative where the node is over capacity."""
        v = self.verdict
        return tuple(
            limit - max(held + unmanaged, used)
            for limit, held, unmanaged, used in zip(v.limit, self.held, v.unmanaged, v.used, strict=True)
        )

    def shown_free(self) -> Vector:
        """Return what new grants may take."""
        return self.free() if self.verdict.grantable else (CLOSED,) * len(self.held)

    def hard_excess(self) -> Vector:
        """Return how much more is held than the node may lend, leaving measured use aside; zero where none."""
        return tuple(max(0, held - limit) for held, limit in zip(self.held, self.verdict.limit, strict=True))


class NodeTable:
    """The pool's nodes. All methods but `settle` cost O(1) or O(log n) comparisons per node changed.

    Columns hold one entry per node, in the order of `names`.
    """

    def __init__(self, size: int, strategy: str) -> None:
        self.size = size
        self.strategy = strategy
        self.rows: dict[str, Row] = {}
        self.over: set[str] = set()
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.free: list[list[int]] = [[] for _ in range(size)]
        self.keys: list[int] = []
        self.limits: list[Vector] = []
        self.reasons: list[str] = []
        self.closed: Counter[str] = Counter()
        self.order: list[tuple[int, int]] = []
        self.weights: Vector = zero(size)
        self.capacity: Vector = zero(size)
        self.growth = Growth()
        self.moves: Trail[int] = Trail()
        self.version = 0
        self.rebuilds = 0
        self._rebuild = True
        self._shapes: Counter[Vector] = Counter()
        self._labels: Counter[str] = Counter()
        self._domains: dict[str, dict[str, frozenset[int]]] = {}
        self._selected: dict[tuple[tuple[str, str], ...], Set[int]] = {}

    def put(self, name: str, row: Row) -> None:
        """Add a node or replace what is known of it."""
        before = self.rows.get(name)
        self.rows[name] = row
        if any(row.hard_excess()):
            self.over.add(name)
        else:
            self.over.discard(name)
        if before is None or before.labels != row.labels:
            self._relabel(before, row)
        if before is None or before.verdict.limit != row.verdict.limit:
            # The largest limits weigh the resources against each other, so every node's place may change.
            self._rebuild = True
        elif not self._rebuild:
            self._move(name, row)

    def hold(self, name: str, held: Vector) -> None:
        """Set what leases hold on a node; a node outside the pool is no error."""
        row = self.rows.get(name)
        if row is not None and row.held != held:
            self.put(name, row._replace(held=held))

    def remove(self, name: str) -> None:
        """Take a node out of the pool; an unknown one is no error."""
        self.over.discard(name)
        row = self.rows.pop(name, None)
        if row is not None:
            self._rebuild = True
            self._relabel(row, None)

    def settle(self) -> None:
        """Rebuild the columns if nodes came, went or changed size: O(n log n). Every reader below calls it."""
        if not self._rebuild:
            return
        self._rebuild = False
        self.rebuilds += 1
        self.version += 1
        self.growth.forget()
        self.moves.forget()
        self.names = sorted(self.rows)
        self.index = {name: i for i, name in enumerate(self.names)}
        rows = [self.rows[name] for name in self.names]
        self.limits = [row.verdict.limit for row in rows]
        self.reasons = [row.verdict.reason for row in rows]
        self.closed = Counter(reason for reason in self.reasons if reason)
        self._shapes = Counter(self.limits)
        largest = [max((limit[r] for limit in self.limits), default=0) for r in range(self.size)]
        self.weights = tuple(_SCALE // most if most else 0 for most in largest)
        self.capacity = tuple(sum(limit[r] for limit in self.limits) for r in range(self.size))
        frees = [row.shown_free() for row in rows]
        self.free = [[free[r] for free in frees] for r in range(self.size)]
        self.keys = [self.key(i, free) for i, free in enumerate(frees)]
        self.order = sorted((key, i) for i, key in enumerate(self.keys) if not self.reasons[i])

    def key(self, i: int, free: Sequence[int]) -> int:
        """Return the node's place in the pool's preference: the smallest comes first.

        BestFit: least free, so large holes stay whole. Spread: largest free share. LeastUsed: least measured use,
        then the largest free share. FirstFit: by name alone.
        """
        if self.strategy == "FirstFit":
            return 0
        room = self.room(free)
        if self.strategy == "BestFit":
            return room
        share = 1000 * room // (self.room(self.limits[i]) or 1)
        if self.strategy == "Spread":
            return -share
        return self.rows[self.names[i]].verdict.use_permille * 1001 - share

    def room(self, amounts: Sequence[int]) -> int:
        """Return one number for a vector: the sum of its shares of the pool's largest node."""
        return sum(amount * w for amount, w in zip(amounts, self.weights, strict=True) if amount > 0)

    def selected(self, selector: tuple[tuple[str, str], ...]) -> Set[int] | None:
        """Return the positions of the nodes with these labels; None when every node has them."""
        self.settle()
        if not selector:
            return None
        if selector not in self._selected:
            # Tenants choose the selectors: what is kept of them is bounded.
            if len(self._selected) >= _REMEMBERED:
                self._selected.clear()
            found = [self.domains(key).get(value, frozenset()) for key, value in selector]
            self._selected[selector] = frozenset.intersection(*sorted(found, key=len))
        return self._selected[selector]

    def domains(self, topology_key: str) -> Mapping[str, frozenset[int]]:
        """Return the positions of the nodes by the value of a label; nodes without it are in no domain."""
        self.settle()
        if not self._labels[topology_key]:
            return {}
        if topology_key not in self._domains:
            grouped: dict[str, list[int]] = {}
            for i, name in enumerate(self.names):
                value = self.rows[name].labels.get(topology_key)
                if value is not None:
                    grouped.setdefault(value, []).append(i)
            self._domains[topology_key] = {
                value: frozenset(found) for value, found in sorted(grouped.items())
            }
        return self._domains[topology_key]

    def shapes(self, positions: Set[int] | None) -> Counter[Vector]:
        """Count the nodes by what they may lend when empty; None is every node."""
        self.settle()
        return self._shapes if positions is None else Counter([self.limits[i] for i in positions])

    def scratch(self) -> Scratch:
        """Return a copy to plan on: what is taken from it is not taken from the table."""
        self.settle()
        return Scratch(self)

    def differences(self) -> list[str]:
        """Name each node whose columns are not what its row says; [] when all agree."""
        self.settle()
        fresh = NodeTable(self.size, self.strategy)
        for name, row in self.rows.items():
            fresh.put(name, row)
        fresh.settle()
        found = [
            f"node {name}: its columns do not show what is known of it"
            for i, name in enumerate(fresh.names)
            if self.names[i : i + 1] != [name]
            or (self.keys[i], self.reasons[i], self.limits[i])
            != (fresh.keys[i], fresh.reasons[i], fresh.limits[i])
            or any(mine[i] != right[i] for mine, right in zip(self.free, fresh.free, strict=True))
        ]
        if not found and (self.order, self.over) != (fresh.order, fresh.over):
            found.append("the order of the nodes is not what their columns say")
        if not found and self.closed != fresh.closed:
            found.append(f"nodes that may not lend are counted as {self.closed}, and are {fresh.closed}")
        return found

    def _relabel(self, before: Row | None, after: Row | None) -> None:
        self._selected.clear()
        self._domains.clear()
        if before is not None:
            self._labels -= Counter(before.labels.keys())
            # What may lie where has changed, although no node's room did.
            self.growth.forget()
            self.rebuilds += 1
        if after is not None:
            self._labels.update(after.labels.keys())

    def _move(self, name: str, row: Row) -> None:
        i = self.index[name]
        self.version += 1
        self.moves.note(i)
        free = row.shown_free()
        if any(column[i] < amount for column, amount in zip(self.free, free, strict=True)):
            self.growth.note(i)
        for column, amount in zip(self.free, free, strict=True):
            column[i] = amount
        _discard(self.order, (self.keys[i], i))
        self.keys[i] = self.key(i, free)
        if self.reasons[i] != row.verdict.reason:
            self._count_closed(self.reasons[i], -1)
            self._count_closed(row.verdict.reason, 1)
            self.reasons[i] = row.verdict.reason
        if row.verdict.grantable:
            insort(self.order, (self.keys[i], i))

    def _count_closed(self, reason: str, change: int) -> None:
        if reason:
            self.closed[reason] += change
            if not self.closed[reason]:
                del self.closed[reason]


class Point:
    """An instant at which room on a node is promised: from `at` on, `room` is what others may hold there."""

    __slots__ = ("at", "room")

    def __init__(self, at: int, room: list[int]) -> None:
        self.at = at
        self.room = room


class Scratch:
    """A table's free columns and order, to take from while planning.

    `guard` holds for some nodes the instants at which promised room must be there. What is free on a node grows
    with time but for these instants, so whoever leaves room at each of them stays out of everybody's way.
    """

    def __init__(self, table: NodeTable) -> None:
        self.table = table
        self.free = [column.copy() for column in table.free]
        self.keys = table.keys.copy()
        self.order = table.order.copy()
        self.guard: dict[int, list[Point]] = {}

    def find(
        self, need: Vector, allowed: Set[int] | None = None, barred: Set[int] = frozenset(), until: int = 0
    ) -> int | None:
        """Return the position of the preferred node with room for `need` from now to `until`, or None.

        The first nodes in order nearly always have room. Where they have not, whole columns are compared instead:
        that is twice as fast, and many small sets of allowed nodes cost no more than one look at all of them.
        """
        wants = [(self.free[r], amount) for r, amount in enumerate(need) if amount]
        if allowed is not None and len(allowed) <= _PATIENCE:
            return self._find_among(need, wants, allowed, barred, until)
        order, start = self.order, 0
        if self.table.strategy == "BestFit":
            start = bisect_left(order, (self.table.room(need), -1))
        for _, i in order[start : start + _PATIENCE]:
            for column, amount in wants:
                if column[i] < amount:
                    break
            else:
                if (allowed is None or i in allowed) and i not in barred and self.leaves(i, need, until):
                    return i
        if start + _PATIENCE >= len(order):
            return None
        everywhere = range(len(self.keys)) if allowed is None else allowed
        return self._find_among(need, wants, everywhere, barred, until)

    def leaves(self, i: int, need: Vector, until: int) -> bool:
        """Tell whether taking amounts until an instant leaves the room that is promised on a node before it."""
        for point in self.guard.get(i, ()):
            if point.at >= until:
                break
            if any(room < amount for room, amount in zip(point.room, need, strict=True) if amount):
                return False
        return True

    def fits_on(self, i: int, need: Vector, until: int = 0) -> bool:
        """Tell whether one node has room for `need` from now to `until`."""
        return all(self.free[r][i] >= amount for r, amount in enumerate(need) if amount) and self.leaves(
            i, need, until
        )

    def free_on(self, i: int) -> list[int]:
        """Return what is free on a node."""
        return [column[i] for column in self.free]

    def take(self, i: int, need: Vector, until: int = NEVER) -> None:
        """Take amounts from a node until an instant; negative amounts give back what was taken until then."""
        after = [column[i] - amount for column, amount in zip(self.free, need, strict=True)]
        for column, amount in zip(self.free, after, strict=True):
            column[i] = amount
        for point in self.guard.get(i, ()):
            if point.at < until:
                point.room = [room - amount for room, amount in zip(point.room, need, strict=True)]
        _discard(self.order, (self.keys[i], i))
        self.keys[i] = self.table.key(i, after)
        if not self.table.reasons[i]:
            insort(self.order, (self.keys[i], i))

    def _find_among(
        self,
        need: Vector,
        wants: list[tuple[list[int], int]],
        allowed: Iterable[int],
        barred: Set[int],
        until: int,
    ) -> int | None:
        found = list(allowed)
        for column, amount in wants:
            found = [i for i in found if column[i] >= amount]
        if self.guard:
            found = [i for i in found if self.leaves(i, need, until)]
        return min(((self.keys[i], i) for i in found if i not in barred), default=(0, None))[1]


class Shortage(NamedTuple):
    """Why some nodes could not take a slice: the reason, how many nodes, and by how little they fell short."""

    reason: str
    nodes: int
    resource: str = ""
    short_by: int = 0


def shortages(
    scratch: Scratch, need: Vector, resource_names: Sequence[str], insufficient: str, allowed: Set[int] | None
) -> list[Shortage]:
    """Say for each reason how many nodes could not take one slice, and the smallest amount that was missing.

    A node that is short of several resources counts for each of them.
    """
    table = scratch.table
    closed = table.closed
    if allowed is not None:
        closed = Counter(reason for i in allowed if (reason := table.reasons[i]))
    found = [Shortage(reason, count) for reason, count in closed.items()]
    for r, amount in enumerate(need):
        if not amount:
            continue
        column = scratch.free[r] if allowed is None else [scratch.free[r][i] for i in allowed]
        short = [free for free in column if free < amount]
        if closed:
            short = [free for free in short if free > CLOSED]
        if short:
            found.append(Shortage(insufficient, len(short), resource_names[r], amount - max(short)))
    return found


def _discard(order: list[tuple[int, int]], entry: tuple[int, int]) -> None:
    k = bisect_left(order, entry)
    if k < len(order) and order[k] == entry:
        del order[k]
