"""What is known of a pool: its state, kept in step with the cluster, and what every node may lend."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from pydantic import ValidationError

from leasehold.adapters.pauses import Pauses
from leasehold.adapters.pods import Pods
from leasehold.adapters.pool.object import PoolObject
from leasehold.adapters.tools import Tools
from leasehold.api.names import LeaseReason, RejectionReason, StopPolicy
from leasehold.api.pool import PoolSpec
from leasehold.core.backlog import Backlog
from leasehold.core.course import World
from leasehold.core.deadlines import Deadlines
from leasehold.core.fairness import MILLION
from leasehold.core.gating import Workload, use_by_node, workload_of
from leasehold.core.holds import displaced, preemptors, recover_holds, settle_holds
from leasehold.core.lease import Lease
from leasehold.core.loss import loss_plan
from leasehold.core.membership import Membership
from leasehold.core.nodes import judge
from leasehold.core.planning import hold_of
from leasehold.core.pods import SliceRef, unleased
from leasehold.core.policy import PoolPolicy, policy_of
from leasehold.core.queueing import Wait
from leasehold.core.state import PoolState
from leasehold.core.times import SECOND, earliest

_LOOK_AGAIN = 5 * SECOND
_NOWHERE = {"matchExpressions": [{"key": "leasehold.dev/none", "operator": "Exists"}]}

log = logging.getLogger(__name__)


class Memory:
    """What one pool's worker knows. `state` is made anew when the spec changes, so nobody keeps it.

    `generation` is the spec it was made for, and `invalid` says what is wrong with that spec. `mismatches` are what the
    last audit of the books found, None before the first. `dirty_nodes` are to be judged anew.
    """

    def __init__(self, tools: Tools, pool: PoolObject, pauses: Pauses) -> None:
        self._tools = tools
        self._pool = pool
        self._pauses = pauses
        self.generation = ""
        self.invalid = ""
        self._backlog = Backlog(tools.overdue_per_second)
        self.state = self._new_state(self.read_spec(None))
        self.mismatches: list[str] | None = None
        self.dirty_nodes: set[str] = set()
        self._node_deadlines = Deadlines()
        self._pressured: dict[str, frozenset[str]] = {}
        self._ends: dict[str, LeaseReason] = {}

    def next(self) -> int | None:
        """Return when a lease or a node is due (ms), or None."""
        return earliest(self.state.deadlines.next(), self._node_deadlines.next())

    # --- the state, and the spec it was made for ---

    def _new_state(self, policy: PoolPolicy) -> PoolState:
        cluster = self._tools.cluster
        return PoolState(self._pool.name, policy, cluster.namespaces, self._backlog, cluster.arrivals)

    def read_spec(self, before: PoolPolicy | None) -> PoolPolicy:
        """Read the spec. One that cannot be read leaves the policy as it was, and grants nothing: what is held stays.

        At a start there is no policy from before; then the pool selects no node, so that it takes none from others.
        """
        self.generation = self._pool.generation
        try:
            self.invalid = ""
            return policy_of(PoolSpec.model_validate(self._pool.document["spec"]))
        except (ValidationError, ValueError, KeyError) as error:
            self.invalid = f"The spec cannot be read: {error}"[:500]
            log.error("pool %s: %s", self._pool.name, self.invalid, extra={"pool": self._pool.name})
            if before is not None:
                return dataclasses.replace(before, stop=str(StopPolicy.HOLD))
            return policy_of(PoolSpec.model_validate({"nodeSelector": _NOWHERE, "stopPolicy": "Hold"}))

    def rebuild(self, policy: PoolPolicy) -> None:
        """Start the state anew; commitments under way are kept."""
        before = self.state
        self.state = self._new_state(policy)
        self.state.seen_at = before.seen_at
        self.state.meters = before.meters
        for lease in before.leases.values():
            self.state.observe(lease)
        for entry in before.entries.values():
            self.state.assume(entry)
        self.state.busy = before.busy
        self.state.aside = before.aside
        self.state.idle = before.idle
        for tenant, account in before.shares.accounts.items():
            mine = self.state.shares.account(tenant)
            mine.past, mine.waste, mine.as_of = account.past, account.waste, account.as_of
        self.dirty_nodes |= self._tools.cluster.membership.keys() | set(before.table.rows)
        if before.holds:
            self.judge_all()
            recover_holds(self.state, self._tools.clock.now())

    def remember_tenants(self) -> None:
        """Take up the tenants' past where the last operator left it."""
        now = self._tools.clock.now()
        for row in self._pool.status.get("tenants") or ():
            account = self.state.shares.account(row["name"])
            account.past = row.get("usagePermille", 0) * MILLION // 1000
            account.waste = row.get("wastePermille", 0) * MILLION // 1000
            account.as_of = now

    # --- gather ---

    def gather(self, now: int) -> World:
        """Bring the state up to date with all that changed, and return what decisions rest on besides."""
        self.state.seen_at = now
        names, self.dirty_nodes = self.dirty_nodes, set()
        for name in names | self._node_deadlines.pop_due(now):
            self._judge(name, now)
        for uid in self._pauses.pop_due(now):
            self.state.aside.discard(uid)
            self.state.attention.add(uid)
            self.state.queue.retell(uid)
        settle_holds(self.state, now)
        self.state.shares.age(now)
        self._find_ends()
        cluster, state = self._tools.cluster, self.state
        return World(
            nodes=cluster.nodes,
            reports=cluster.reports,
            sessions=cluster.sessions,
            gone_namespaces=cluster.gone_namespaces,
            idle_since=state.idle_since() if state.policy.idle_policy != "Off" else {},
            ends=self._ends,
            over_nodes=frozenset(state.table.over),
            preemptors=preemptors(state),
            limits=state.renewal_limits(now),
            bill=state.bill,
            in_touch=self._pool.right.in_touch(),
            outages=self._pool.outages,
            pods=(workloads := _Workloads(cluster.pods, state)).of,
            pod_use=workloads.use_of,
            families=state.families,
            named=cluster.named,
        )

    def judge_all(self) -> None:
        """Work out what every node may lend now, where something is to be decided before the first pass."""
        now = self._tools.clock.now()
        for name in self.dirty_nodes:
            self._judge(name, now)

    def _judge(self, name: str, now: int) -> None:
        """Work out anew what one node may lend, and wake the leases on it if that could matter to them."""
        cluster, pool = self._tools.cluster, self._pool.name
        node = cluster.nodes.get(name)
        membership = cluster.membership.get(name, Membership(()))
        self.state.touch_node(name)
        if node is None or pool not in membership.pools:
            self.state.remove_node(name)
            self._pressured.pop(name, None)
            self._node_deadlines.put(name, None)
            return
        verdict = judge(
            node,
            cluster.reports.get(name),
            self.state.policy,
            now,
            was_pressured=self._pressured.get(name, frozenset()),
            requested=self._requested(name),
        )
        self._pressured[name] = verdict.pressured
        if membership.conflicting or cluster.held_elsewhere(name, pool):
            # Nobody tells when the other pool's last lease there ends: look again.
            again = earliest(verdict.revisit_at, now + _LOOK_AGAIN)
            verdict = verdict._replace(reason=RejectionReason.NODE_CONFLICTING, revisit_at=again)
        elif name in (cluster.joining or ()):
            verdict = verdict._replace(reason=RejectionReason.NODE_JOINING)
        self.state.put_node(name, node.labels, verdict)
        self._node_deadlines.put(name, verdict.revisit_at)

    def _requested(self, node: str) -> Mapping[str, int]:
        """Return what pods request on a node beyond what leases of this pool hold there for them, sub-leases aside."""
        if not self.state.policy.enforces:
            return {}

        def held(ref: SliceRef) -> Mapping[str, int] | None:
            lease = self.state.leases.get(ref.lease)
            if lease is None or ref.position >= len(lease.slices) or lease.slices[ref.position].node != node:
                return None
            return self.state.families.rest(lease).slices[ref.position].amounts

        return unleased(self._tools.cluster.pods.on(node), held)

    def _find_ends(self) -> None:
        """Name the leases the pool itself must end: all when it drains, the least wanted when capacity was lost."""
        state = self.state
        ends: dict[str, LeaseReason] = {}
        if self._pool.deleting or state.policy.stop == StopPolicy.HOLD_AND_DRAIN:
            ends = {holding.uid: LeaseReason.POOL_DRAINING for holding in state.ledger}
        elif state.policy.revokes_on_loss and state.table.over:
            ends = dict.fromkeys(loss_plan(state), LeaseReason.CAPACITY_LOST)
        ends = {**displaced(state), **ends}
        if ends != self._ends:
            state.attention |= ends.keys() ^ self._ends.keys()
            self._ends = ends

    @property
    def unenforced(self) -> bool:
        """The pool wants pods held to their leases, and the operator may not touch pods."""
        return self.state.policy.enforces and not self._tools.cluster.pods.watched

    def hold(self) -> Wait | None:
        """Say why the pool grants nothing at all, or None."""
        if self.invalid or self.unenforced:
            return Wait(LeaseReason.POOL_NOT_READY, LeaseReason.POOL_NOT_READY.meaning)
        return hold_of(
            self.state.policy,
            deleting=self._pool.deleting,
            consistent=not self.mismatches,
            nodes=len(self.state.table.rows),
        )


class _Workloads:
    """What the pods of each lease mean for it, worked out once for a pass."""

    def __init__(self, pods: Pods, state: PoolState) -> None:
        self._pods = pods
        self._state = state
        self._letting = [ref for ref, _ in pods.letting.values()]
        self._found: dict[str, Workload] = {}

    def of(self, lease: Lease) -> Workload:
        found = self._found.get(lease.uid)
        if found is None:
            placeholders = self._pods.placeholders((lease.namespace, lease.name))
            refusal = self._pods.refusals.get(lease.uid, "")
            own = self._state.families.rest(lease)
            found = workload_of(own, self._pods.of(lease), placeholders, refusal, self._letting)
            self._found[lease.uid] = found
        return found

    def use_of(self, lease: Lease) -> Mapping[str, Mapping[str, int]] | None:
        """Return what a lease's pods request of it, by node; None while one of them is just being let go."""
        if any(ref.lease == lease.uid for ref in self._letting):
            return None
        return use_by_node(lease, self._pods.of(lease)) if self._state.policy.enforces else {}
