"""What a worker hears of leases, nodes, sessions and namespaces: noted in the state, and the worker looks."""

from __future__ import annotations

import asyncio

from leasehold.adapters.enforcement.keeper import Keeper
from leasehold.adapters.pauses import Pauses
from leasehold.adapters.pods import Key
from leasehold.adapters.pool.complaints import Complaints, subject_of
from leasehold.adapters.pool.fence import Fence
from leasehold.adapters.pool.memory import Memory
from leasehold.adapters.pool.object import PoolObject
from leasehold.adapters.tools import Tools
from leasehold.core.lease import Lease
from leasehold.core.nodes import Report


class News:
    """A `cluster.Member`. `inherited` are the nodes on which an earlier operator committed what is not adopted yet."""

    def __init__(
        self,
        tools: Tools,
        pool: PoolObject,
        memory: Memory,
        fence: Fence,
        complaints: Complaints,
        pauses: Pauses,
        dirty: asyncio.Event,
        keeper: Keeper,
    ) -> None:
        self.inherited: frozenset[str] = frozenset()
        self._tools = tools
        self._pool = pool
        self._memory = memory
        self._fence = fence
        self._complaints = complaints
        self._pauses = pauses
        self._dirty = dirty
        self._keeper = keeper

    # --- leases ---

    def lease_seen(self, lease: Lease) -> None:
        """Take in a lease of this pool."""
        state = self._memory.state
        answered = self._fence.heard(lease)
        # One that is over may be of an earlier pool of this name, whose epochs are not those of this one.
        fenced = lease.status.get("allocation", {}).get("ledgerEpoch", 0) if lease.allocated else 0
        if self._pool.epoch and fenced > self._pool.epoch:
            self._pool.overtaken(fenced)
        known = state.leases.get(lease.uid)
        newer = known is not None and lease.version > known.version and lease.status != known.status
        ours = answered or lease.uid in state.busy or lease.uid in state.entries
        if newer and not ours and self._pool.taken_over:
            self._foreign_write(lease)
        if state.observe(lease):
            self._dirty.set()
            self._tell_pods(known, lease)

    def _tell_pods(self, before: Lease | None, lease: Lease) -> None:
        """Let the pods of a lease hear of it, and the nodes it left: what its pods request there is others' now."""
        pods = self._tools.cluster.pods
        if not pods.watched:
            return
        key = lease.namespace, lease.name
        if self._memory.state.policy.holds_room or pods.any(key):
            self._keeper.mark([key])
            if before is not None and before.slices != lease.slices:
                self._memory.dirty_nodes |= {part.node for part in (*before.slices, *lease.slices)}
        if lease.parent and (before is None or before.slices != lease.slices):
            self._keeper.mark([lease.parent_key])
            slices = lease.slices if before is None else (*before.slices, *lease.slices)
            self._memory.dirty_nodes |= {part.node for part in slices}

    def _foreign_write(self, lease: Lease) -> None:
        """Somebody else wrote a status that is ours alone to write: leave it alone for a while, then correct it."""
        pause = self._complaints.foreign_write(subject_of(lease))
        if pause:
            self._memory.state.aside.add(lease.uid)
            self._pauses.put(lease.uid, self._tools.clock.now() + pause)
        self._pool.due = True
        self._dirty.set()

    def lease_gone(self, uid: str) -> None:
        """Take in that a lease of this pool no longer exists."""
        known = self._memory.state.leases.get(uid)
        if known is not None and self._tools.cluster.pods.watched:
            self._keeper.mark([(known.namespace, known.name)])
            self._memory.dirty_nodes |= {part.node for part in known.slices}
            if known.parent:
                self._keeper.mark([known.parent_key])
        self._memory.state.forget(uid)
        self._fence.forget(uid)
        self._dirty.set()

    def leases_listed(self) -> None:
        """A complete list came in."""
        self._dirty.set()

    # --- what leases depend on ---

    def node_changed(self, name: str) -> None:
        """Take in that a node, its report or its pools changed."""
        self._memory.dirty_nodes.add(name)
        self._dirty.set()

    def report_changed(self, report: Report) -> None:
        """Take in a node's new report."""
        state = self._memory.state
        state.note_usage(report, self._tools.clock.now())
        if state.policy.attributes_usage():
            state.touch_node(report.node)
        self.node_changed(report.node)

    def session_changed(self, key: tuple[str, str]) -> None:
        """Take in a session's heartbeat: only the leases that wait for it or lost it look up."""
        state = self._memory.state
        for uid in [uid for uid in state.sessions.get(key, ()) if uid in state.leases]:
            lease = state.leases[uid]
            waits = lease.allocated and not (lease.is_true("Claimed") and lease.is_true("HolderLive"))
            if waits or key not in self._tools.cluster.sessions:
                state.attention.add(uid)
                self._dirty.set()

    def pods_changed(self, key: Key) -> None:
        """Take in that pods that name a lease of this pool changed."""
        self._keeper.mark([key])
        state = self._memory.state
        state.families.look_again(key)  # what the pods of a parent use no more, its sub-leases may have
        lease = self._tools.cluster.named(key)
        if lease is not None and state.policy.enforces:
            state.attention.add(lease.uid)
            self._dirty.set()

    def namespace_changed(self, name: str) -> None:
        """Take in that a namespace came, went, or has other labels: its leases look up."""
        state = self._memory.state
        state.attention |= self._tools.cluster.leases_in(name) & state.leases.keys()
        state.namespace_changed(name)
        if state.policy.tenants:
            self._pool.due = True
        self._dirty.set()

    def holds_on(self, node: str) -> bool:
        """Tell whether this pool's leases hold something on a node, or may once it was taken over."""
        return bool(self._memory.state.ledger.holders(node)) or node in self.inherited
