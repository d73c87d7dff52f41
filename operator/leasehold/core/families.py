"""Sub-leases of one pool: who is part of whom, and what children hold of their parents.

Children are in no other book: a parent holds its room in the pool whatever it gives to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Final, NamedTuple

from leasehold.core.deadlines import Deadlines
from leasehold.core.lease import Key, Lease, Slice
from leasehold.core.times import SECOND

SPACING: Final = SECOND

NOBODY: Final[frozenset[str]] = frozenset()


class Part(NamedTuple):
    """What one child holds, or has been committed, of the parent with this uid. Amounts by resource name."""

    parent: str
    slices: tuple[Slice, ...]


class Families:
    """Children by their parents, kept up to date change by change. Empty where there are none.

    `members` are the children that are not over, by the parent's name; whether it exists or not. `due` are the parents
    whose waiting children are to be looked at. `foretold` says when (ms) it was last found out when these will start,
    and `outdated` are those of whom it is to be found out anew, a second later.
    """

    def __init__(self) -> None:
        self.members: dict[Key, set[str]] = {}
        self.due: dict[Key, None] = {}
        self.foretold: dict[Key, int] = {}
        self.outdated: Deadlines[Key] = Deadlines()
        self.parts: dict[str, Part] = {}
        self._held: dict[str, set[str]] = {}
        self._on_node: dict[str, set[str]] = {}
        self._rests: dict[str, Lease] = {}

    def __bool__(self) -> bool:
        return bool(self.members or self.parts)

    # --- who belongs to whom ---

    def join(self, child: Lease) -> None:
        """Take in a child that is not over, and have its family looked at."""
        self.members.setdefault(child.parent_key, set()).add(child.uid)
        self.due[child.parent_key] = None

    def leave(self, child: Lease) -> None:
        """Take in that a child is over, or gone. One that never joined is no error."""
        found = self.members.get(child.parent_key, set())
        found.discard(child.uid)
        if not found:
            self.members.pop(child.parent_key, None)
            self.foretold.pop(child.parent_key, None)
            self.outdated.put(child.parent_key, None)
        self.due[child.parent_key] = None

    def look_again(self, key: Key) -> None:
        """Have the family of a parent looked at, where it has one: there may be more to give."""
        if key in self.members:
            self.due[key] = None

    def may_foretell(self, key: Key, now: int) -> bool:
        """Tell whether to find out now when the children that wait for a parent will start: once a second at most."""
        at = self.foretold.get(key)
        if at is not None and at <= now < at + SPACING:
            self.outdated.put(key, at + SPACING)
            return False
        self.foretold[key] = now
        self.outdated.put(key, None)
        return True

    def next(self) -> int | None:
        """Return when the next of the families that are outdated is to be looked at (ms)."""
        return self.outdated.next()

    def awake(self, now: int) -> None:
        """Have those looked at whose time has come."""
        self.due |= dict.fromkeys(sorted(self.outdated.pop_due(now)))

    def of(self, parent: Lease) -> Set[str]:
        """Return the children of a lease that are not over."""
        return self.members.get((parent.namespace, parent.name), NOBODY)

    # --- what children hold ---

    def take(self, uid: str, part: Part) -> bool:
        """Record what a child holds, in place of what it held before; tell whether that is news."""
        if self.parts.get(uid) == part:
            return False
        self.give_back(uid)
        self.parts[uid] = part
        self._held.setdefault(part.parent, set()).add(uid)
        for node, _ in part.slices:
            self._on_node.setdefault(node, set()).add(uid)
        self._rests.pop(part.parent, None)
        return True

    def give_back(self, uid: str) -> str:
        """Record that a child holds nothing; return the parent that has it back, "" if it held nothing."""
        part = self.parts.pop(uid, None)
        if part is None:
            return ""
        holders = self._held[part.parent]
        holders.discard(uid)
        if not holders:
            del self._held[part.parent]
        for node in {node for node, _ in part.slices}:
            self._on_node[node].discard(uid)
            if not self._on_node[node]:
                del self._on_node[node]
        self._rests.pop(part.parent, None)
        return part.parent

    def on_node(self, node: str) -> Set[str]:
        """Return the children that hold something on a node."""
        return self._on_node.get(node, NOBODY)

    def holders(self, parent: str) -> Set[str]:
        """Return the children that hold some of a parent, by its uid."""
        return self._held.get(parent, NOBODY)

    def held_of(self, parent: str) -> Mapping[str, dict[str, int]]:
        """Return, by node, what children hold of a parent, by its uid."""
        return by_node(part for uid in self.holders(parent) for part in self.parts[uid].slices)

    def rest(self, parent: Lease) -> Lease:
        """Return a lease with what its children leave of its slices: what its own pods may use.

        The same object for as long as nothing changes.
        """
        if parent.uid not in self._held:
            return parent
        known = self._rests.get(parent.uid)
        if known is None or known.version != parent.version or known.status != parent.status:
            known = self._rests[parent.uid] = replace(parent, slices=self._left(parent))
        return known

    def _left(self, parent: Lease) -> tuple[Slice, ...]:
        taken = self.held_of(parent.uid)
        left = []
        for part in parent.slices:
            amounts = dict(part.amounts)
            owed = taken.get(part.node, {})
            for name, units in amounts.items():
                used = min(units, owed.get(name, 0))
                amounts[name] = units - used
                owed[name] = owed.get(name, 0) - used
            left.append(Slice(part.node, amounts))
        return tuple(left)


def by_node(slices: Iterable[Slice]) -> dict[str, dict[str, int]]:
    """Add up slices node by node."""
    found: dict[str, dict[str, int]] = {}
    for node, amounts in slices:
        total = found.setdefault(node, {})
        for name, units in amounts.items():
            total[name] = total.get(name, 0) + units
    return found
