"""One pool in memory: its nodes, its leases, its books, its queue and its deadlines, kept up to date change by change.

The state only records; it decides nothing. Everything in it can be rebuilt from the objects on the API server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from leasehold.core.accounting import Meter
from leasehold.core.admission import Refusal, admit
from leasehold.core.backlog import Backlog
from leasehold.core.booking import (
    Entry,
    committed_held,
    committed_holding,
    committed_promise,
    held_of,
    holding_of,
    part_of,
    promise_of,
)
from leasehold.core.calendar import Calendar, Held, Outlook, RenewalLimits, total_of
from leasehold.core.capacity import NodeTable, Row
from leasehold.core.deadlines import Deadlines
from leasehold.core.errors import InvalidObject
from leasehold.core.fairness import MILLION, Shares, shares_of
from leasehold.core.families import Families, Part
from leasehold.core.lease import Lease
from leasehold.core.ledger import Holding, Ledger
from leasehold.core.limits import TenantLimits
from leasehold.core.nodes import Report, Verdict
from leasehold.core.policy import PoolPolicy
from leasehold.core.preemption import Preemption
from leasehold.core.queue import Queue
from leasehold.core.request import NEVER, Request, Shape
from leasehold.core.tenancy import tenant_of as tenant_of_namespace

OVERDUE_PER_SECOND = 50
"""How many leases whose end is long overdue a pool ends in a second, unless told otherwise."""


@dataclass(slots=True)
class Hold:
    """Room that is being made for a waiting lease: those who were asked to go for it and have not gone yet.

    `reclaims` tells that they borrowed from its tenant's guarantee.
    """

    victims: set[str]
    reclaims: bool


@dataclass(slots=True)
class Answers:
    """What the last look ahead found: the start (ms) of each waiting lease, and of dry runs also the nodes.

    `places` are how many the planner looks at before each, plus one, where tenants make that another order than the
    queue's own.
    """

    starts: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)


class PoolState:
    """The pool's memory. Instants are milliseconds.

    `without_place` are those for which the queue has no place, `unheard` those that may not read yet that they are
    refused. `busy` leases have a write under way; those `aside` are left alone for a while because their writes failed.
    `namespaces` are the labels of the cluster's namespaces, kept up to date by whoever hears of them. `changes` counts
    what was taken in, and `seen_at` is the instant up to which it was. `arrivals` are the versions at which leases were
    first seen, also before their pool was led here, if whoever hears of them keeps them. `families` are the sub-leases,
    which are in no other book, and `handovers` the leases whose holder has changed, the first one first.
    """

    def __init__(
        self,
        name: str,
        policy: PoolPolicy,
        namespaces: Mapping[str, Mapping[str, str]] | None = None,
        backlog: Backlog | None = None,
        arrivals: dict[str, int] | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.namespaces = {} if namespaces is None else namespaces
        self.backlog = Backlog(OVERDUE_PER_SECOND) if backlog is None else backlog
        self.table = NodeTable(len(policy.resources), policy.strategy)
        self.ledger = Ledger(len(policy.resources))
        self.leases: dict[str, Lease] = {}
        self.calendar = Calendar()
        self.queue = Queue()
        self.inquiries: dict[str, Request] = {}
        self.refused: dict[str, Refusal] = {}
        self.without_place: dict[str, None] = {}
        self.unheard: dict[str, None] = {}
        self.unplaced: set[str] = set()
        self.holds: dict[str, Hold] = {}
        self._shares = shares_of(policy, self.table.capacity)
        self.answers = Answers()
        self.meters: dict[str, Meter] = {}
        self.changes = 0
        self.seen_at = 0
        self.attention: set[str] = set()
        self.busy: set[str] = set()
        self.aside: set[str] = set()
        self.entries: dict[str, Entry] = {}
        self.families = Families()
        self.handovers: dict[str, None] = {}
        self.idle: dict[str, dict[str, int | None]] = {}
        self.sessions: dict[tuple[str, str], set[str]] = {}
        self.arrivals = {} if arrivals is None else arrivals
        self.deadlines = Deadlines()

    @property
    def shares(self) -> Shares:
        """What each tenant holds, against what the nodes may lend now."""
        self.table.settle()
        self._shares.capacity = self.table.capacity
        return self._shares

    # --- leases ---

    def observe(self, lease: Lease) -> bool:
        """Take in a lease as the API server has it; an older version than the one known is ignored.

        Returns whether anything was taken in.
        """
        known = self.leases.get(lease.uid)
        if known is not None and lease.version < known.version:
            return False
        if known is lease:
            self.attention.add(lease.uid)  # it is booked as it is, and whoever lists wants it looked at
            return True
        if known is not None:
            self._leave(known)
        self.arrivals.setdefault(lease.uid, lease.version)
        self.leases[lease.uid] = lease
        if lease.session:
            self.sessions.setdefault((lease.namespace, lease.session), set()).add(lease.uid)
        if lease.parent:
            self._take_child(lease)
        else:
            if known is not None and known.parent:  # an operator that knows no sub-leases granted it
                self.families.leave(known)
                self._back_to_parent(known.uid)
            self._line_up(lease)
            self._book(lease)
        if self.families:
            self._tell_children(lease)
        if lease.changes_hands:
            self.handovers[lease.uid] = None
        elif self.handovers:
            self.handovers.pop(lease.uid, None)
        self._meter(lease)
        self.attention.add(lease.uid)
        self.changes += 1
        return True

    def forget(self, uid: str) -> None:
        """Drop a lease that no longer exists; what it held is free. A commitment to it stays until it is undone."""
        known = self.leases.pop(uid, None)
        if known is None:
            return
        self._leave(known)
        self._waits_no_more(uid)
        self.arrivals.pop(uid, None)
        self.attention.discard(uid)
        self.deadlines.put(uid, None)
        self.idle.pop(uid, None)
        self.meters.pop(uid, None)
        self.backlog.forget(uid)
        self.handovers.pop(uid, None)
        self.changes += 1
        if known.parent:
            self.families.leave(known)
        if self.families:
            self._tell_children(known)
        entry = self.entries.get(uid)
        if entry is None or entry.holder is not None:
            self._give_back(uid)
            self._back_to_parent(uid)

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
        self.changes += 1
        if entry.holder is not None:
            return
        if entry.parent:
            self.families.take(entry.uid, part_of(entry))
            self.attention.add(entry.parent)
        elif entry.start is None:
            self._take(committed_holding(entry, self.policy), self._held_of(entry))
        else:
            self.calendar.promise(committed_promise(entry, self.policy))
            for node in entry.nodes:
                self.touch_node(node)

    def settle(self, uid: str) -> None:
        """Let the lease's own status speak again: its commitment was written or undone."""
        self.entries.pop(uid, None)
        lease = self.leases.get(uid)
        self.changes += 1
        if lease is None:
            self._give_back(uid)
            self._back_to_parent(uid)
            self.calendar.unpromise(uid)
        elif lease.parent:
            self._take_child(lease)
            self.attention.add(uid)
        else:
            if uid not in self.holds:
                self.calendar.unpromise(uid)
            self._line_up(lease)
            self._book(lease)
            self.attention.add(uid)

    def expect_until(self, uid: str, expiration: int) -> None:
        """Note a renewal or a late grant from the moment it is decided: nobody else may be given that room."""
        held = self.calendar.held.get(uid)
        if held is not None and held.until < NEVER:
            until = expiration + self.policy.wind_down
            self.calendar.hold(uid, held._replace(until=max(held.until, until)))

    def renewal_limits(self, now: int) -> RenewalLimits | None:
        """Return how long leases may stay so that promised starts are kept; None where none is promised."""
        promises, requests = self.calendar.promises, self.queue.requests
        if not promises:
            return None
        tenants = {uid: requests[uid].shape.tenant for uid in promises if uid in requests}
        limits = TenantLimits(self.calendar, self.shares, tenants, now)
        return RenewalLimits(Outlook(self.table.scratch(), self.calendar, now), limits)

    def rebook(self, uid: str) -> None:
        """Believe a lease's status again, after a write of it ended one way or another."""
        lease = self.leases.get(uid)
        if lease is None:
            return
        if lease.parent:
            self._take_child(lease)
        else:
            self._book(lease)
        if self.families:
            self._tell_children(lease)

    # --- sub-leases ---

    def _take_child(self, lease: Lease) -> None:
        """Book a child with its family alone: the pool lends nothing to it, and it stands in no queue of the pool."""
        if lease.finished:
            self.families.leave(lease)
        else:
            self.families.join(lease)
        if lease.slices:
            if self.families.take(lease.uid, Part(lease.parent_uid, lease.slices)):
                self.attention.add(lease.parent_uid)
        elif lease.uid not in self.entries:
            self._back_to_parent(lease.uid)

    def _back_to_parent(self, uid: str) -> None:
        parent = self.families.give_back(uid)
        if parent:
            self.attention.add(parent)
            self._share_again(parent)

    def _share_again(self, uid: str) -> None:
        """Have the children that wait for some of a lease looked at."""
        lease = self.leases.get(uid)
        if lease is not None:
            self.families.look_again((lease.namespace, lease.name))

    def _tell_children(self, parent: Lease) -> None:
        """Look again at those whose fate depends on a lease that changed, or whose write came to an end."""
        children = self.families.of(parent) | self.families.holders(parent.uid)
        if children:
            self.attention |= children
            self.families.due[parent.namespace, parent.name] = None

    def holders_on(self, node: str) -> frozenset[str]:
        """Return the leases that hold something on a node, sub-leases too."""
        return self.ledger.holders(node) | self.families.on_node(node)

    def _book(self, lease: Lease) -> None:
        if lease.uid in self.entries and not lease.allocated:
            return
        if lease.slices:
            held = held_of(lease, self.policy, self.tenant_of(lease))
            self._take(holding_of(lease, self.policy), held)
        else:
            self._give_back(lease.uid)

    def _take(self, holding: Holding, held: Held) -> None:
        before = self.calendar.held.get(holding.uid)
        if before != held:
            self._count(before, -1)
            self.calendar.hold(holding.uid, held)
            self._count(held, 1)
        self._hold(self.ledger.put(holding))

    def _give_back(self, uid: str) -> None:
        self._count(self.calendar.drop(uid), -1)
        self._hold(self.ledger.drop(uid))

    def _count(self, held: Held | None, sign: int) -> None:
        if held is not None:
            change = self._shares.add if sign > 0 else self._shares.remove
            change(held.tenant, total_of(held.slices, self.ledger.size))

    def _held_of(self, entry: Entry) -> Held:
        lease = self.leases.get(entry.uid)
        tenant, priority = ("", 0) if lease is None else (self.tenant_of(lease), lease.priority)
        return committed_held(entry, self.policy, tenant, priority)

    def tenant_of(self, lease: Lease) -> str:
        """Return the tenant a lease counts against: the one it was granted to, whatever its namespace says since."""
        if lease.told_tenant:
            return lease.told_tenant
        labels = self.namespaces.get(lease.namespace)
        found = tenant_of_namespace(lease.namespace, lease.tenant, labels, self.policy.tenants)
        return found if isinstance(found, str) else ""

    def _hold(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            was_over = node in self.table.over
            self.table.hold(node, self.ledger.on_node(node))
            if (node in self.table.over) != was_over:
                self.touch_node(node)

    def turn_of(self, lease: Lease) -> tuple[int, int, int]:
        """Return where a lease stands in the queue.

        Only a lease that was written to before this operator started may lose its place within its second.
        """
        return lease.turn(self.arrivals.get(lease.uid, 0))

    def _line_up(self, lease: Lease) -> None:
        """Let a waiting lease stand where it belongs: in the queue, among the inquiries, or refused."""
        uid = lease.uid
        if not lease.pending or lease.deleting or lease.wants_release:
            self._waits_no_more(uid)
            return
        labels = self.namespaces.get(lease.namespace)
        found = admit(lease, self.policy, labels, self.turn_of(lease))
        if not isinstance(found, Request):
            self._waits_no_more(uid)
            if found is None:
                self.unplaced.add(uid)
            else:
                self.refused[uid] = found
                self.unheard[uid] = None
            return
        self.refused.pop(uid, None)
        self.unheard.pop(uid, None)
        self.unplaced.discard(uid)
        if lease.is_dry_run:
            self.inquiries[uid] = found
        else:
            if self.queue.requests.get(uid) != found:
                self.end_hold(uid)
            self.queue.add(found)
            if uid in self.without_place:
                self._hears_no_place(uid)
            self._keep_promise(lease, found.shape)

    def _hears_no_place(self, uid: str) -> None:
        self.queue.told(uid)  # it hears that, and not why others wait
        self.unheard[uid] = None

    def seat(self) -> None:
        """Find out who may wait, where more want to than the pool has places. Whoever was promised a start keeps it."""
        before = self.without_place
        found = self.queue.without_place(self.policy.max_pending)
        self.without_place = {uid: None for uid in found if uid not in self.calendar.promises}
        for uid in before:
            if uid not in self.without_place:
                self.unheard.pop(uid, None)
                self.queue.retell(uid)
        for uid in self.without_place:
            if uid not in before:
                self._hears_no_place(uid)

    def _keep_promise(self, lease: Lease, shape: Shape) -> None:
        """Keep the room that a lease's status says it was promised, as long as it asks for no other."""
        if lease.uid in self.entries or lease.uid in self.holds:
            return
        promise = promise_of(lease, shape, self.policy, self.table.rows)
        if promise is None:
            self.calendar.unpromise(lease.uid)
        else:
            self.calendar.promise(promise)

    def _waits_no_more(self, uid: str) -> None:
        self.end_hold(uid)
        self.queue.remove(uid)
        self.calendar.unpromise(uid)
        self.inquiries.pop(uid, None)
        self.refused.pop(uid, None)
        self.unheard.pop(uid, None)
        self.without_place.pop(uid, None)
        self.unplaced.discard(uid)

    def _leave(self, lease: Lease) -> None:
        """Take a lease out of its session, as it stands there."""
        if lease.session:
            key = (lease.namespace, lease.session)
            self.sessions[key].discard(lease.uid)
            if not self.sessions[key]:
                del self.sessions[key]

    def namespace_changed(self, name: str) -> None:
        """Look again at who may wait, after a namespace came or got other labels."""
        if not self.policy.tenants:
            return
        for uid in [*self.queue.requests, *self.refused, *self.unplaced, *self.inquiries]:
            if self.leases[uid].namespace == name:
                self._line_up(self.leases[uid])
                self.attention.add(uid)

    # --- room that is being made ---

    def begin_hold(self, preemption: Preemption) -> None:
        """Keep the room that victims will leave, and have them asked to go."""
        self.holds[preemption.uid] = Hold(set(preemption.victims), preemption.reclaims)
        self.calendar.promise(preemption.promise)
        self.queue.retell(preemption.uid)
        self.attention |= set(preemption.victims)
        self.changes += 1

    def end_hold(self, uid: str) -> None:
        """Keep no more room for a lease; whoever was asked to go for it and has not gone may stay."""
        hold = self.holds.pop(uid, None)
        if hold is not None:
            self.calendar.unpromise(uid)
            self.attention |= hold.victims
            self.queue.retell(uid)
            self.changes += 1

    # --- nodes ---

    def put_node(self, name: str, labels: Mapping[str, str], verdict: Verdict) -> None:
        """Take in what a node of the pool may lend now."""
        before = self.table.rows.get(name)
        row = Row(labels, verdict, self.ledger.on_node(name))
        if row != before:
            self.table.put(name, row)
        if before is None or before.labels != labels:
            self._share_again_on(name)

    def remove_node(self, name: str) -> None:
        """Take in that a node is gone, or not of the pool; what leases hold there they keep."""
        self.table.remove(name)
        self._share_again_on(name)  # nobody knows here whether its labels changed

    def _share_again_on(self, node: str) -> None:
        """Look again at who waits for some of the leases on a node, whose labels say who may be there."""
        if self.families:
            for uid in self.ledger.holders(node):
                self._share_again(uid)

    def place_of(self, uid: str) -> int:
        """Return where a waiting lease stands, about: 1 is next."""
        return self.answers.places.get(uid) or self.queue.position(uid) + 1

    def touch_node(self, name: str) -> None:
        """Look again at every lease on a node."""
        self.attention |= self.holders_on(name)

    def touch_all(self) -> None:
        """Look again at every lease of the pool."""
        self.attention |= self.leases.keys()

    def note_usage(self, report: Report, now: int) -> None:
        """Keep track of since when each lease is hardly used on each of its nodes."""
        for uid, use in report.leases.items():
            lease = self.leases.get(uid)
            if lease is None or not lease.slices:
                continue
            used = self._with_children(uid, report) if self.families.holders(uid) else use.amounts
            if uid in self.meters:
                self.meters[uid].observe(report.time, report.node, used)
            since = self.idle.setdefault(uid, {})
            idle = (use.gone and used is use.amounts) or _hardly_used(
                lease, report.node, used, self.policy.idle_below_percent
            )
            was = since.get(report.node)
            since[report.node] = (was if was is not None else now) if idle else None
            if (was is None) == idle:
                self.attention.add(uid)

    def _with_children(self, uid: str, report: Report) -> Mapping[str, int]:
        """Return what a parent's node said of its use: what its children use of it is used, too."""
        mine = [report.leases[one] for one in (uid, *self.families.holders(uid)) if one in report.leases]
        total: dict[str, int] = {}
        for use in mine:
            for name, units in use.amounts.items():
                total[name] = total.get(name, 0) + units
        return total

    def bill(self, lease: Lease, now: int) -> Mapping[str, Any]:
        """Return `status.accounting` of a lease that ends now; {} where it held nothing."""
        meter = self.meters.get(lease.uid)
        return {} if meter is None else meter.bill(lease, now)

    def _meter(self, lease: Lease) -> None:
        """Count what a lease holds from its grant to its end; what it wasted counts for its tenant's rank."""
        if lease.slices:
            since = self._held_since(lease)
            if since == NEVER:
                return
            if lease.uid not in self.meters:
                self.meters[lease.uid] = Meter(since, self.policy.max_report_age)
            # A change counts from when the API server had it, which no clock of ours knows: from the last write on.
            self.meters[lease.uid].hold(lease, max(since, self.seen_at))
            return
        if self.meters.pop(lease.uid, None) is not None and lease.finished:
            used = [
                row["usedPercent"]
                for row in lease.status.get("accounting", {}).get("resources", ())
                if "usedPercent" in row
            ]
            if used and not lease.parent:
                wasted = max(0, 100 - max(used)) * MILLION // 100
                self.shares.note_waste(self.tenant_of(lease), wasted, MILLION // 8)

    def _held_since(self, lease: Lease) -> int:
        if lease.uid in self.calendar.held:
            return self.calendar.held[lease.uid].since
        if not lease.parent:
            return NEVER
        try:
            return lease.instant("allocation", "allocationTime") or NEVER
        except InvalidObject:
            return NEVER

    def idle_since(self) -> Mapping[str, int]:
        """Return since when each lease is hardly used on all of its nodes; leases in use are not named.

        The answer is worked out for a lease when it is asked for, so a pass pays only for the leases it looks at.
        """
        return _IdleSince(self)


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
