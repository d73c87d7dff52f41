"""Who holds what: a fold over leases, kept up to date change by change.

The ledger can always be rebuilt from the leases; `differences` compares two of them, which is how it audits itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from leasehold.core.amounts import Vector, minus, plus, zero

HELD, RELEASING, QUARANTINED = "held", "releasing", "quarantined"


class Holding(NamedTuple):
    """What one lease holds: (node, amounts) for each slice, and whether it is on its way out."""

    uid: str
    slices: tuple[tuple[str, Vector], ...]
    state: str = HELD


class Ledger:
    """The pool's books. Amounts are vectors in the pool's order of resources."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._holdings: dict[str, Holding] = {}
        self._by_node: dict[str, Vector] = {}
        self._uids_by_node: dict[str, set[str]] = {}
        self._totals: dict[str, Vector] = dict.fromkeys((HELD, RELEASING, QUARANTINED), zero(size))
        self._counts: dict[str, int] = dict.fromkeys((HELD, RELEASING, QUARANTINED), 0)

    def put(self, holding: Holding) -> frozenset[str]:
        """Record what a lease holds, in place of what it held before; return the nodes touched."""
        touched = self.drop(holding.uid)
        self._holdings[holding.uid] = holding
        self._counts[holding.state] += 1
        for node, amounts in holding.slices:
            self._by_node[node] = plus(self._by_node.get(node) or zero(self.size), amounts)
            self._uids_by_node.setdefault(node, set()).add(holding.uid)
            self._totals[holding.state] = plus(self._totals[holding.state], amounts)
        return touched | {node for node, _ in holding.slices}

    def drop(self, uid: str) -> frozenset[str]:
        """Forget what a lease held; return the nodes touched. A lease that holds nothing is no error."""
        holding = self._holdings.pop(uid, None)
        if holding is None:
            return frozenset()
        self._counts[holding.state] -= 1
        for node, amounts in holding.slices:
            self._by_node[node] = minus(self._by_node[node], amounts)
            self._totals[holding.state] = minus(self._totals[holding.state], amounts)
            self._uids_by_node[node].discard(uid)
        nodes = frozenset(node for node, _ in holding.slices)
        for node in nodes:
            if not self._uids_by_node[node]:
                del self._uids_by_node[node], self._by_node[node]
        return nodes

    def get(self, uid: str) -> Holding | None:
        """Return what a lease holds, or None."""
        return self._holdings.get(uid)

    def on_node(self, node: str) -> Vector:
        """Return the sum of what is held on a node."""
        return self._by_node.get(node) or zero(self.size)

    def holders(self, node: str) -> frozenset[str]:
        """Return the uids of the leases that hold something on a node."""
        return frozenset(self._uids_by_node.get(node, ()))

    def nodes(self) -> Iterable[str]:
        """Return the names of the nodes on which something is held."""
        return self._by_node.keys()

    def total(self, state: str) -> Vector:
        """Return the sum of all holdings in a state."""
        return self._totals[state]

    def count(self, state: str) -> int:
        """Return how many leases are in a state."""
        return self._counts[state]

    def same(self, other: Ledger) -> bool:
        """Tell whether both say the same of every lease, and add up to the same on every node."""
        return self._holdings == other._holdings and self._by_node == other._by_node

    def __iter__(self) -> Iterator[Holding]:
        return iter(self._holdings.values())

    def __len__(self) -> int:
        return len(self._holdings)


def differences(kept: Ledger, rebuilt: Ledger, key: Callable[[str], str]) -> list[str]:
    """Name each lease whose holding in the kept ledger is not what its status says.

    `key` gives a lease's `namespace/name` by its uid, for the message.
    """
    if kept.same(rebuilt):
        return []
    found = []
    for uid in sorted({h.uid for h in kept} | {h.uid for h in rebuilt}):
        have, want = kept.get(uid), rebuilt.get(uid)
        if have != want:
            found.append(f"{key(uid)}: the books say {_said(have)}, the lease says {_said(want)}")
    found += [
        f"node {node}: the books add up to {kept.on_node(node)}, the leases to {rebuilt.on_node(node)}"
        for node in sorted({*kept.nodes(), *rebuilt.nodes()})
        if kept.on_node(node) != rebuilt.on_node(node)
    ]
    return found


def _said(holding: Holding | None) -> str:
    if holding is None:
        return "nothing"
    slices = ", ".join(f"{amounts} on {node}" for node, amounts in holding.slices)
    return f"{slices} ({holding.state})"
