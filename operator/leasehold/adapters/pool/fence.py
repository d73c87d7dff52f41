"""Which writes of leases may still arrive that nobody here knows of, and what must not rest on those leases.

The end of a grant is known when it is written. And a renewal that is still on its way, from an earlier leader or
because its answer was lost, carries the version of the lease from before: whatever changes the lease makes it fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from leasehold.adapters.pool.memory import Memory
from leasehold.core.lease import Lease
from leasehold.core.planning import Grant


class Fenced(NamedTuple):
    """The grants and promises that may be committed, and the leases to write to before the others may."""

    grants: tuple[Grant, ...]
    unfenced: tuple[Lease, ...]


class Fence:
    """`taken_over_at` is the resourceVersion up to which an earlier leader may have sent something."""

    def __init__(self, memory: Memory) -> None:
        self.taken_over_at = 0
        self._memory = memory
        self._unanswered: dict[str, int] = {}

    def unanswered(self, lease: Lease) -> None:
        """Note that the answer to a write of a lease never came: it may have happened, or happen yet."""
        known = self._memory.state.leases.get(lease.uid)
        if known is not None and known.version <= lease.version:
            self._unanswered[lease.uid] = lease.version

    def heard(self, lease: Lease) -> bool:
        """Take in a lease; tell whether it is of a later version than a write without an answer.

        That was either the write itself or makes it fail.
        """
        if lease.version <= self._unanswered.get(lease.uid, lease.version):
            return False
        del self._unanswered[lease.uid]
        return True

    def forget(self, uid: str) -> None:
        """Take in that a lease no longer exists."""
        self._unanswered.pop(uid, None)

    def fence(self, grants: tuple[Grant, ...]) -> Fenced:
        """Put off promises that rest on an end that may still move.

        Each lease on whose end they rest is to be written to once: what is late is refused from then on.
        """
        commitments = [entry.nodes for entry in self._memory.state.entries.values() if entry.takes_room]
        unwritten = {node for nodes in commitments for node in nodes}
        unwritten |= {node for grant in grants if grant.takes_room for node in grant.nodes}
        kept = []
        unfenced: dict[str, Lease] = {}
        for grant in grants:
            old = [] if grant.start is None else self._may_be_renewed(grant.nodes)
            unfenced.update((lease.uid, lease) for lease in old)
            if grant.start is None or not (old or unwritten.intersection(grant.nodes)):
                kept.append(grant)
        return Fenced(tuple(kept), tuple(unfenced.values()))

    def is_unanswered(self, lease: Lease) -> bool:
        """Tell whether a write of ours to a lease, as it is now, may still arrive."""
        return lease.version <= self._unanswered.get(lease.uid, 0)

    def _may_be_renewed(self, nodes: Iterable[str]) -> list[Lease]:
        """Return the leases on some nodes for which a renewal may be on its way that nobody here knows of.

        One that is committed and not yet written to has no end that could have moved.
        """
        state = self._memory.state
        holders = {uid for node in nodes for uid in state.ledger.holders(node)}
        known = (state.leases.get(uid) for uid in sorted(holders))
        held = [lease for lease in known if lease is not None and lease.allocated]
        return [
            lease
            for lease in held
            if lease.version <= max(self.taken_over_at, self._unanswered.get(lease.uid, 0))
        ]
