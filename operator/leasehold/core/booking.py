"""What a lease's status or a commitment stands for in a pool's books: who holds what until when, and promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import PlacementMode
from leasehold.core.calendar import Held, Promise, Slices
from leasehold.core.capacity import Row
from leasehold.core.errors import InvalidObject
from leasehold.core.families import Part
from leasehold.core.lease import Lease, Reservation, Slice
from leasehold.core.ledger import HELD, QUARANTINED, RELEASING, Holding
from leasehold.core.policy import PoolPolicy
from leasehold.core.request import NEVER, Shape


class Entry(NamedTuple):
    """A grant that is committed in the pool and not yet known to be written to its lease.

    `generation` is the lease's at the commit; 0 for a commitment that was inherited, whose generation nobody kept.
    `version` is the resourceVersion of the lease at the commit.
    `until` is when its room is expected to be free again (ms). One that jumped the queue may not stay beyond
    `not_after`. An entry with a `start` promises room from then until its `end` instead of granting it. One with a
    `parent`, a uid, takes its room out of that lease. One with a `holder` (identity, session) takes none: it hands over
    a lease that is held.
    """

    uid: str
    namespace: str
    name: str
    sequence: int
    amounts: Mapping[str, int]
    nodes: tuple[str, ...]
    generation: int = 0
    until: int = NEVER
    not_after: int | None = None
    start: int | None = None
    end: int | None = None
    version: int = 0
    parent: str = ""
    holder: tuple[str, str] | None = None

    @property
    def takes_room(self) -> bool:
        """Room of the pool counts as held by this commitment."""
        return self.start is None and not self.parent and self.holder is None


# --- by a lease's own status ---


def slices_of(found: Lease | Reservation, policy: PoolPolicy) -> Slices:
    """Return what a lease holds, or is promised, node by node."""
    return tuple((part.node, policy.vector(part.amounts)) for part in found.slices)


def holding_of(lease: Lease, policy: PoolPolicy) -> Holding:
    """Return what the ledger says of a lease that holds something."""
    return Holding(lease.uid, slices_of(lease, policy), holding_state(lease))


def holding_state(lease: Lease) -> str:
    """Return the ledger's word for a lease that holds something."""
    if not lease.releasing:
        return HELD
    return QUARANTINED if lease.reason(C.RELEASED) == R.QUARANTINED else RELEASING


def held_of(lease: Lease, policy: PoolPolicy, tenant: str) -> Held:
    """Return what the calendar says of a lease that holds something."""
    try:
        until, since = free_at(lease, policy), lease.instant("allocation", "allocationTime") or 0
    except InvalidObject:  # it keeps what it holds, and nobody knows for how long
        until, since = NEVER, NEVER
    leaving = lease.releasing or lease.is_true(C.DISRUPTION_TARGET)
    return Held(until, slices_of(lease, policy), tenant, lease.priority, since, leaving)


def free_at(lease: Lease, policy: PoolPolicy) -> int:
    """Return when what a lease holds is free again unless it is renewed (ms), or NEVER where nobody knows."""
    if lease.releasing:
        if lease.reason(C.RELEASED) == R.QUARANTINED:
            return NEVER
        if lease.reason(C.RELEASED) == R.CHILDREN_LEAVING:
            return _free_after_children(lease, policy)
        due = lease.deadline("cooldownTime") or lease.deadline("verificationTime")
        return NEVER if due is None else due
    ends = []
    expiration = lease.deadline("expirationTime")
    if expiration is not None and policy.ends_leases:
        ends.append(expiration + policy.grace)
    revocation = lease.deadline("revocationTime")
    if revocation is not None and lease.is_true(C.DISRUPTION_TARGET):
        ends.append(revocation)
    return min(ends) + policy.cooldown if ends else NEVER


def _free_after_children(lease: Lease, policy: PoolPolicy) -> int:
    """Sub-leases end as soon as their parent does; nodes may have to confirm it (ms)."""
    began = lease.instant("release", "startTime")
    if began is None:
        return NEVER
    return began + (policy.verification_timeout if policy.verifies_release else 0) + policy.cooldown


def promise_of(lease: Lease, shape: Shape, policy: PoolPolicy, nodes: Mapping[str, Row]) -> Promise | None:
    """Return the promise that a lease's status tells, if that is still what it asks for."""
    kept = lease.reservation
    if kept is None:
        return None
    promise = Promise(lease.uid, kept.start, kept.end, slices_of(kept, policy))
    return promise if _serves(promise, shape, nodes) else None


def _serves(promise: Promise, shape: Shape, rows: Mapping[str, Row]) -> bool:
    """Tell whether promised room is what a request asks for; it may ask for less time."""
    if [amounts for _, amounts in promise.slices] != [shape.need] * shape.slices:
        return False
    if promise.end - promise.start < shape.span or promise.start < shape.not_before:
        return False
    nodes = {node for node, _ in promise.slices}
    if shape.mode == PlacementMode.SAME_NODE and len(nodes) > 1:
        return False
    if shape.mode == PlacementMode.DISTINCT_NODES and len(nodes) < shape.slices:
        return False
    labels = [row.labels for node in nodes if (row := rows.get(node)) is not None]
    if any(found.get(key) != value for found in labels for key, value in shape.node_selector):
        return False
    same = shape.mode != PlacementMode.SAME_DOMAIN
    return same or len({found.get(shape.topology_key) for found in labels}) <= 1


# --- by a commitment, until the lease is written ---


def committed_holding(entry: Entry, policy: PoolPolicy) -> Holding:
    """Return what the ledger says of a commitment."""
    vector = policy.vector(entry.amounts)
    return Holding(entry.uid, tuple((node, vector) for node in entry.nodes))


def part_of(entry: Entry) -> Part:
    """Return what a commitment takes out of its parent."""
    return Part(entry.parent, tuple(Slice(node, entry.amounts) for node in entry.nodes))


def committed_held(entry: Entry, policy: PoolPolicy, tenant: str, priority: int) -> Held:
    """Return what the calendar says of a commitment. It cannot be taken away before it is even written."""
    return Held(entry.until, committed_holding(entry, policy).slices, tenant, priority, NEVER)


def committed_promise(entry: Entry, policy: PoolPolicy) -> Promise:
    """Return the promise that a commitment with a start makes."""
    end = NEVER if entry.end is None else entry.end
    return Promise(entry.uid, entry.start or 0, end, committed_holding(entry, policy).slices)
