"""The nodes of one pool as columns: what is free where, kept up to date node by node.

free = limit - max(held + unmanaged, used). While leases stay within what they hold, measured use is theirs and
costs nothing twice; use beyond that is somebody else's and is held back.

Nodes are kept in the pool's order of preference, so the first node that fits is the best one, and a decision
rarely looks at more than a few. Changing one node moves it in that order; nothing is built anew.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from leasehold.core.amounts import Vector, zero
from leasehold.core.nodes import Verdict

CLOSED = -(1 << 62)
"""The free amount of a node that gets no new grants: nothing fits, not even a request for zero."""

_SCALE = 1 << 40


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

    def hard_excess(self) -> Vector:
        """Return how much more is held than the node may lend, leaving measured use aside; zero where none."""
        return tuple(max(0, held - limit) for held, limit in zip(self.held, self.verdict.limit, strict=True))


class NodeTable:
    """The pool's nodes. All methods but `settle` cost O(1) or O(log n) comparisons per node changed."""

    def __init__(self, size: int, strategy: str) -> None:
        self.size = size
        self.strategy = strategy
        self.rows: dict[str, Row] = {}
        self.over: set[str] = set()
        self.closed: Counter[str] = Counter()
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.free: list[list[int]] = [[] for _ in range(size)]
        self.limit: list[list[int]] = [[] for _ in range(size)]
        self.order: list[tuple[int, int]] = []
        self.weights: Vector = zero(size)
        self._keys: list[int] = []
        self._rebuild = True
        self._selected: dict[tuple[tuple[str, str], ...], frozenset[int]] = {}
        self._domains: dict[str, dict[str, frozenset[int]]] = {}

    def put(self, name: str, row: Row) -> None:
        """Add a node or replace what is known of it."""
        before = self.rows.get(name)
        self.rows[name] = row
        self._count(before, row)
        if any(row.hard_excess()):
            self.over.add(name)
        else:
            self.over.discard(name)
        if before is None or before.labels != row.labels:
            self._selected.clear()
            self._domains.clear()
        if before is None:
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
        before = self.rows.pop(name, None)
        if before is not None:
            self._count(before, None)
            self._rebuild = True
            self._selected.clear()
            self._domains.clear()

    def settle(self) -> None:
        """Rebuild the columns if nodes came or went: O(n log n). Every reader below calls it."""
        if not self._rebuild:
            return
        self._rebuild = False
        self.names = sorted(self.rows)
        self.index = {name: i for i, name in enumerate(self.names)}
        limits = [self.rows[name].verdict.limit for name in self.names]
        self.weights = tuple(
            _SCALE // max((v[r] for v in limits), default=1) if any(v[r] for v in limits) else 0
            for r in range(self.size)
        )
        frees = [self._shown_free(self.rows[name]) for name in self.names]
        self.free = [[vector[r] for vector in frees] for r in range(self.size)]
        self.limit = [[vector[r] for vector in limits] for r in range(self.size)]
        self._keys = [self.key(i, vector) for i, vector in enumerate(frees)]
        self.order = sorted(
            (key, i) for i, key in enumerate(self._keys) if self.rows[self.names[i]].verdict.grantable
        )

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
        verdict = self.rows[self.names[i]].verdict
        share = 1000 * room // (self.room(verdict.limit) or 1)
        return verdict.use_permille * 1001 - share if self.strategy == "LeastUsed" else -share

    def room(self, amounts: Sequence[int]) -> int:
        """Return one number for a vector: the sum of its shares of the pool's largest node."""
        return sum(amount * w for amount, w in zip(amounts, self.weights, strict=True) if amount > 0)

    def selected(self, selector: tuple[tuple[str, str], ...]) -> Set[int] | None:
        """Return the positions of the nodes with these labels; None when every node has them."""
        if not selector:
            return None
        self.settle()
        if selector not in self._selected:
            self._selected[selector] = frozenset(
                i
                for i, name in enumerate(self.names)
                if all(self.rows[name].labels.get(k) == v for k, v in selector)
            )
        return self._selected[selector]

    def domains(self, topology_key: str) -> Mapping[str, Set[int]]:
        """Return the positions of the nodes by the value of a label; nodes without it are in no domain."""
        self.settle()
        if topology_key not in self._domains:
            grouped: dict[str, set[int]] = {}
            for i, name in enumerate(self.names):
                value = self.rows[name].labels.get(topology_key)
                if value is not None:
                    grouped.setdefault(value, set()).add(i)
            self._domains[topology_key] = {
                value: frozenset(found) for value, found in sorted(grouped.items())
            }
        return self._domains[topology_key]

    def scratch(self) -> Scratch:
        """Return a copy to plan on: what is taken from it is not taken from the table."""
        self.settle()
        return Scratch(self)

    def _count(self, before: Row | None, after: Row | None) -> None:
        """Keep the number of closed nodes by reason."""
        if before is not None and before.verdict.reason:
            self.closed[before.verdict.reason] -= 1
        if after is not None and after.verdict.reason:
            self.closed[after.verdict.reason] += 1

    def _move(self, name: str, row: Row) -> None:
        i = self.index[name]
        free = self._shown_free(row)
        for r, limit in enumerate(row.verdict.limit):
            self.free[r][i] = free[r]
            self.limit[r][i] = limit
        _discard(self.order, (self._keys[i], i))
        self._keys[i] = self.key(i, free)
        if row.verdict.grantable:
            insort(self.order, (self._keys[i], i))

    def _shown_free(self, row: Row) -> Vector:
        return row.free() if row.verdict.grantable else (CLOSED,) * self.size


class Scratch:
    """A table's free columns and order, to take from while planning."""

    def __init__(self, table: NodeTable) -> None:
        self.table = table
        self.free = [column.copy() for column in table.free]
        self.order = table.order.copy()

    def find(
        self, need: Vector, allowed: Set[int] | None = None, barred: Set[int] = frozenset()
    ) -> int | None:
        """Return the position of the preferred node with room for `need`, or None."""
        wants = [(self.free[r], amount) for r, amount in enumerate(need) if amount]
        order, start = self.order, 0
        if self.table.strategy == "BestFit":
            start = bisect_left(order, (self.table.room(need), -1))
        for k in range(start, len(order)):
            i = order[k][1]
            for column, amount in wants:
                if column[i] < amount:
                    break
            else:
                if (allowed is None or i in allowed) and i not in barred:
                    return i
        return None

    def take(self, i: int, need: Vector) -> None:
        """Take amounts from a node; negative amounts give back."""
        before = tuple(column[i] for column in self.free)
        after = tuple(amount - n for amount, n in zip(before, need, strict=True))
        for column, amount in zip(self.free, after, strict=True):
            column[i] = amount
        _discard(self.order, (self.table.key(i, before), i))
        insort(self.order, (self.table.key(i, after), i))


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

    A node that is short of several resources counts for each of them. A closed node shows less than nothing free, so
    it is among the low ones and is never the best of them.
    """
    table = scratch.table
    if allowed is None:
        closed = +table.closed
    else:
        reasons = (table.rows[table.names[i]].verdict.reason for i in allowed)
        closed = Counter(reason for reason in reasons if reason)
    found = [Shortage(reason, count) for reason, count in closed.most_common()]
    for r, amount in enumerate(need):
        if not amount:
            continue
        column = scratch.free[r] if allowed is None else [scratch.free[r][i] for i in allowed]
        low = [free for free in column if free < amount]
        short = len(low) - closed.total()
        if short > 0:
            found.append(Shortage(insufficient, short, resource_names[r], amount - max(low)))
    return found


def _discard(order: list[tuple[int, int]], entry: tuple[int, int]) -> None:
    k = bisect_left(order, entry)
    if k < len(order) and order[k] == entry:
        del order[k]
