"""One pool in memory: its nodes, its leases, its books, its queue and its deadlines, kept up to date change by change.

The state only records; it decides nothing. Everything in it can be rebuilt from the objects on the API server.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.core.amounts import Vector
from leasehold.core.capacity import NodeTable, Row
from leasehold.core.deadlines import Deadlines
from leasehold.core.lease import Lease
from leasehold.core.ledger import HELD, QUARANTINED, RELEASING, Holding, Ledger, differences
from leasehold.core.nodes import Report, Verdict
from leasehold.core.policy import PoolPolicy


class Entry(NamedTuple):
    """A grant that is committed in the pool and not yet known to be written to its lease.

    `generation` is the lease's at the commit; 0 for a commitment that was inherited, whose generation nobody kept.
    """

    uid: str
    namespace: str
    name: str
    sequence: int
    amounts: Mapping[str, int]
    nodes: tuple[str, ...]
    generation: int = 0


class PoolState:
    """The pool's memory. Instants are milliseconds.

    `busy` leases have a write under way; those `aside` are left alone for a while because their writes failed.
    """

    def __init__(self, name: str, policy: PoolPolicy) -> None:
        self.name = name
        self.policy = policy
        self.table = NodeTable(len(policy.resources), policy.strategy)
        self.ledger = Ledger(len(policy.resources))
        self.leases: dict[str, Lease] = {}
        self.queue: list[tuple[tuple[int, int, int], str]] = []
        self.attention: set[str] = set()
        self.busy: set[str] = set()
        self.aside: set[str] = set()
        self.entries: dict[str, Entry] = {}
        self.idle: dict[str, dict[str, int | None]] = {}
        self.sessions: dict[tuple[str, str], set[str]] = {}
        self.arrivals: dict[str, int] = {}
        self.deadlines = Deadlines()

    # --- leases ---

    def observe(self, lease: Lease) -> bool:
        """Take in a lease as the API server has it; an older version than the one known is ignored.

        Returns whether anything was taken in.
        """
        known = self.leases.get(lease.uid)
        if known is not None and lease.version < known.version:
            return False
        if known is not None:
            self._leave(known)
        self.arrivals.setdefault(lease.uid, lease.version)
        self.leases[lease.uid] = lease
        if lease.session:
            self.sessions.setdefault((lease.namespace, lease.session), set()).add(lease.uid)
        if lease.pending:
            insort(self.queue, (self._turn(lease), lease.uid))
        self._book(lease)
        self.attention.add(lease.uid)
        return True

    def forget(self, uid: str) -> None:
        """Drop a lease that no longer exists; what it held is free. A commitment to it stays until it is undone."""
        known = self.leases.pop(uid, None)
        if known is None:
            return
        self._leave(known)
        del self.arrivals[uid]
        self.attention.discard(uid)
        self.deadlines.put(uid, None)
        self.idle.pop(uid, None)
        if uid not in self.entries:
            self._hold(self.ledger.drop(uid))

    def replace(self, leases: Iterable[Lease], list_version: int) -> None:
        """Take in a complete list: what it does not name is gone, unless it was seen after the list was made."""
        listed = {lease.uid: lease for lease in leases}
        for uid in self.leases.keys() - listed.keys():
            if self.leases[uid].version <= list_version:
                self.forget(uid)
        for lease in listed.values():
            self.observe(lease)

    def assume(self, entry: Entry) -> None:
        """Count a grant from the moment it is committed, before its lease is written."""
        self.entries[entry.uid] = entry
        self._hold(self.ledger.put(self._holding_of(entry)))

    def settle(self, uid: str) -> None:
        """Let the lease's own status speak again: its commitment was written or undone."""
        self.entries.pop(uid, None)
        lease = self.leases.get(uid)
        if lease is None:
            self._hold(self.ledger.drop(uid))
        else:
            self._book(lease)
            self.attention.add(uid)

    def _book(self, lease: Lease) -> None:
        if lease.uid in self.entries and not lease.allocated:
            return
        if lease.slices:
            self._hold(self.ledger.put(self._holding(lease)))
        else:
            self._hold(self.ledger.drop(lease.uid))

    def _holding(self, lease: Lease) -> Holding:
        slices = tuple((part.node, self.policy.vector(part.amounts)) for part in lease.slices)
        return Holding(lease.uid, slices, holding_state(lease))

    def _holding_of(self, entry: Entry) -> Holding:
        vector = self.policy.vector(entry.amounts)
        return Holding(entry.uid, tuple((node, vector) for node in entry.nodes))

    def _hold(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            was_over = node in self.table.over
            self.table.hold(node, self.ledger.on_node(node))
            if (node in self.table.over) != was_over:
                self.touch_node(node)

    def _turn(self, lease: Lease) -> tuple[int, int, int]:
        """Where the lease stands in the queue: higher priority first, then the older.

        Creation times are whole seconds. Within one, the version at which a lease was first seen says which came
        first; only a lease that was written to before this operator started may lose its place by that.
        """
        return (-lease.priority, lease.created, self.arrivals[lease.uid])

    def _leave(self, lease: Lease) -> None:
        """Take a lease out of the queue and out of its session, as it stands there."""
        if lease.pending:
            del self.queue[bisect_left(self.queue, (self._turn(lease), lease.uid))]
        if lease.session:
            key = (lease.namespace, lease.session)
            self.sessions[key].discard(lease.uid)
            if not self.sessions[key]:
                del self.sessions[key]

    # --- nodes ---

    def put_node(self, name: str, labels: Mapping[str, str], verdict: Verdict) -> None:
        """Take in what a node of the pool may lend now."""
        before = self.table.rows.get(name)
        row = Row(labels, verdict, self.ledger.on_node(name))
        if row != before:
            self.table.put(name, row)

    def touch_node(self, name: str) -> None:
        """Look again at every lease on a node."""
        self.attention |= self.ledger.holders(name)

    def touch_all(self) -> None:
        """Look again at every lease of the pool."""
        self.attention |= self.leases.keys()

    def note_usage(self, report: Report, now: int) -> None:
        """Keep track of since when each lease is hardly used on each of its nodes."""
        for uid, use in report.leases.items():
            lease = self.leases.get(uid)
            if lease is None or not lease.slices:
                continue
            since = self.idle.setdefault(uid, {})
            idle = use.gone or _hardly_used(lease, report.node, use.amounts, self.policy.idle_below_percent)
            was = since.get(report.node)
            since[report.node] = (was if was is not None else now) if idle else None
            if (was is None) == idle:
                self.attention.add(uid)

    def idle_since(self) -> Mapping[str, int]:
        """Return since when each lease is hardly used on all of its nodes; leases in use are not named.

        The answer is worked out for a lease when it is asked for, so a pass pays only for the leases it looks at.
        """
        return _IdleSince(self)

    # --- audit ---

    def audit(self) -> list[str]:
        """Rebuild the books from the leases and name every difference; [] when they agree."""
        rebuilt = Ledger(self.ledger.size)
        for lease in self.leases.values():
            if lease.slices:
                rebuilt.put(self._holding(lease))
        for entry in self.entries.values():
            known = self.leases.get(entry.uid)
            if known is None or not known.allocated:
                rebuilt.put(self._holding_of(entry))
        found = differences(self.ledger, rebuilt, {uid: lease.key for uid, lease in self.leases.items()})
        found += [
            f"node {name}: the table holds {row.held}, the books {self.ledger.on_node(name)}"
            for name, row in self.table.rows.items()
            if row.held != self.ledger.on_node(name)
        ]
        found += self.table.differences()
        waiting = sorted((self._turn(lease), lease.uid) for lease in self.leases.values() if lease.pending)
        if waiting != self.queue:
            found.append("the queue is not the leases that wait, in order")
        # Only leases that hold something: those of an earlier pool of this name may have had the same tokens.
        tokens: dict[int, str] = {}
        for lease in self.leases.values():
            token = lease.status.get("fencingToken")
            if lease.allocated and token is not None and tokens.setdefault(token, lease.uid) != lease.uid:
                found.append(f"{lease.key}: fencing token {token} was given twice")
        return found


class _IdleSince(Mapping[str, int]):
    """Since when each lease is hardly used: a view of what the state noted."""

    def __init__(self, state: PoolState) -> None:
        self._state = state

    def __getitem__(self, uid: str) -> int:
        by_node, lease = self._state.idle[uid], self._state.leases[uid]
        instants = [at for part in lease.slices if (at := by_node.get(part.node)) is not None]
        if not instants or len(instants) < len(lease.slices):
            raise KeyError(uid)
        return max(instants)

    def __iter__(self) -> Iterator[str]:
        return (uid for uid in self._state.idle if self.get(uid) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def holding_state(lease: Lease) -> str:
    """Return the ledger's word for a lease that holds something."""
    if not lease.releasing:
        return HELD
    return QUARANTINED if lease.reason(C.RELEASED) == R.QUARANTINED else RELEASING


def loss_plan(state: PoolState) -> list[str]:
    """Return the leases to revoke so that no node holds more than it may lend, in order.

    Lowest priority first, then the youngest grant; measured use does not count, because it may fall again. Leases
    already on their way out count as gone.
    """
    chosen: list[str] = []
    for name in sorted(state.table.over):
        excess = list(state.table.rows[name].hard_excess())
        for lease in sorted(_on_node(state, name), key=_least_wanted):
            if all(amount <= 0 for amount in excess):
                break
            amounts = _share(state, lease, name)
            if any(have > 0 and short > 0 for have, short in zip(amounts, excess, strict=True)):
                excess = [short - have for short, have in zip(excess, amounts, strict=True)]
                if not lease.releasing and lease.uid not in chosen:
                    chosen.append(lease.uid)
    return chosen


def _on_node(state: PoolState, name: str) -> list[Lease]:
    return [state.leases[uid] for uid in state.ledger.holders(name) if uid in state.leases]


def _least_wanted(lease: Lease) -> tuple[bool, int, int, str]:
    granted = lease.instant("allocation", "allocationTime") or 0
    return (not lease.releasing, lease.priority, -granted, lease.uid)


def _share(state: PoolState, lease: Lease, name: str) -> Vector:
    holding = state.ledger.get(lease.uid)
    parts = () if holding is None else holding.slices
    return tuple(sum(amounts[r] for node, amounts in parts if node == name) for r in range(state.ledger.size))


def _hardly_used(lease: Lease, node: str, used: Mapping[str, int], below_percent: int) -> bool:
    """A lease is idle on a node when every resource that is measured stays under the share; memory counts too, so
    that a warm cache is not taken for an idle one. Where nothing is measured nobody can say so.
    """
    granted: dict[str, int] = {}
    for part in lease.slices:
        if part.node == node:
            for name, amount in part.amounts.items():
                granted[name] = granted.get(name, 0) + amount
    measured = granted.keys() & used.keys()
    return bool(measured) and all(100 * used[name] < below_percent * granted[name] for name in measured)
