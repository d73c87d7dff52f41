"""One pool in memory: its nodes, its leases, its books, its queue and its deadlines, kept up to date change by change.

The state only records; it decides nothing. Everything in it can be rebuilt from the objects on the API server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import PlacementMode
from leasehold.core.accounting import Meter
from leasehold.core.admission import Refusal, admit
from leasehold.core.amounts import Vector, plus, zero
from leasehold.core.backlog import Backlog
from leasehold.core.calendar import Calendar, Held, Outlook, Promise, Slices, total_of
from leasehold.core.capacity import NodeTable, Row
from leasehold.core.deadlines import Deadlines
from leasehold.core.errors import InvalidObject
from leasehold.core.fairness import MILLION, Shares, shares_of
from leasehold.core.lease import Lease, Reservation
from leasehold.core.ledger import HELD, QUARANTINED, RELEASING, Holding, Ledger, differences
from leasehold.core.nodes import Report, Verdict
from leasehold.core.policy import PoolPolicy
from leasehold.core.preemption import Preemption, room_left_by
from leasehold.core.queue import Queue
from leasehold.core.request import NEVER, Request, Shape
from leasehold.core.tenancy import tenant_of as tenant_of_namespace

OVERDUE_PER_SECOND = 50
"""How many leases whose end is long overdue a pool ends in a second, unless told otherwise."""


class Entry(NamedTuple):
    """A grant that is committed in the pool and not yet known to be written to its lease.

    `generation` is the lease's at the commit; 0 for a commitment that was inherited, whose generation nobody kept.
    `version` is the resourceVersion of the lease at the commit.
    `until` is when its room is expected to be free again (ms). One that jumped the queue may not stay beyond
    `not_after`. An entry with a `start` promises room from then until its `end` instead of granting it.
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
    what was taken in, and `seen_at` is the instant up to which it was.
    """

    def __init__(
        self,
        name: str,
        policy: PoolPolicy,
        namespaces: Mapping[str, Mapping[str, str]] | None = None,
        backlog: Backlog | None = None,
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
        self.idle: dict[str, dict[str, int | None]] = {}
        self.sessions: dict[tuple[str, str], set[str]] = {}
        self.arrivals: dict[str, int] = {}
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
        self._line_up(lease)
        self._book(lease)
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
        del self.arrivals[uid]
        self.attention.discard(uid)
        self.deadlines.put(uid, None)
        self.idle.pop(uid, None)
        self.meters.pop(uid, None)
        self.backlog.forget(uid)
        self.changes += 1
        if uid not in self.entries:
            self._give_back(uid)

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
        if entry.start is None:
            self._take(self._holding_of(entry), self._held_of(entry))
        else:
            self.calendar.promise(self._promise_of(entry))
            for node in entry.nodes:
                self.touch_node(node)

    def settle(self, uid: str) -> None:
        """Let the lease's own status speak again: its commitment was written or undone."""
        self.entries.pop(uid, None)
        lease = self.leases.get(uid)
        self.changes += 1
        if lease is None:
            self._give_back(uid)
            self.calendar.unpromise(uid)
        else:
            if uid not in self.holds:
                self.calendar.unpromise(uid)
            self._line_up(lease)
            self._book(lease)
            self.attention.add(uid)

    def expect_until(self, uid: str, expiration: int) -> None:
        """Note a renewal from the moment it is decided: nobody else may be given that room meanwhile."""
        held = self.calendar.held.get(uid)
        if held is not None and held.until < NEVER:
            until = expiration + self.policy.grace + self.policy.cooldown
            self.calendar.hold(uid, held._replace(until=max(held.until, until)))

    def rebook(self, uid: str) -> None:
        """Believe a lease's status again, after a write of it ended one way or another."""
        lease = self.leases.get(uid)
        if lease is not None:
            self._book(lease)

    def _book(self, lease: Lease) -> None:
        if lease.uid in self.entries and not lease.allocated:
            return
        if lease.slices:
            self._take(self._holding(lease), self._held(lease))
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

    def _held(self, lease: Lease) -> Held:
        slices = self._slices_of(lease)
        try:
            until, since = free_at(lease, self.policy), lease.instant("allocation", "allocationTime") or 0
        except InvalidObject:  # it keeps what it holds, and nobody knows for how long
            until, since = NEVER, NEVER
        leaving = lease.releasing or lease.is_true(C.DISRUPTION_TARGET)
        tenant = self.tenant_of(lease)
        return Held(until, slices, tenant, lease.priority, since, leaving)

    def _slices_of(self, found: Lease | Reservation) -> Slices:
        return tuple((part.node, self.policy.vector(part.amounts)) for part in found.slices)

    def _held_of(self, entry: Entry) -> Held:
        lease = self.leases.get(entry.uid)
        tenant, priority = ("", 0) if lease is None else (self.tenant_of(lease), lease.priority)
        # Not to be taken away before it is even written.
        return Held(entry.until, self._holding_of(entry).slices, tenant, priority, NEVER)

    def _promise_of(self, entry: Entry) -> Promise:
        end = NEVER if entry.end is None else entry.end
        return Promise(entry.uid, entry.start or 0, end, self._holding_of(entry).slices)

    def tenant_of(self, lease: Lease) -> str:
        """Return the tenant a lease counts against: the one it was granted to, whatever its namespace says since."""
        if lease.told_tenant:
            return lease.told_tenant
        labels = self.namespaces.get(lease.namespace)
        found = tenant_of_namespace(lease.namespace, lease.tenant, labels, self.policy.tenants)
        return found if isinstance(found, str) else ""

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

    def _line_up(self, lease: Lease) -> None:
        """Let a waiting lease stand where it belongs: in the queue, among the inquiries, or refused."""
        uid = lease.uid
        if not lease.pending or lease.deleting or lease.wants_release:
            self._waits_no_more(uid)
            return
        labels = self.namespaces.get(lease.namespace)
        found = admit(lease, self.policy, labels, self._turn(lease))
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
        promise = self._promise_told(lease, shape)
        if promise is None:
            self.calendar.unpromise(lease.uid)
        else:
            self.calendar.promise(promise)

    def _promise_told(self, lease: Lease, shape: Shape) -> Promise | None:
        """Return the promise that a lease's status tells, if that is still what it asks for."""
        kept = lease.reservation
        if kept is None:
            return None
        promise = Promise(lease.uid, kept.start, kept.end, self._slices_of(kept))
        return promise if self._serves(promise, shape) else None

    def _serves(self, promise: Promise, shape: Shape) -> bool:
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
        labels = [row.labels for node in nodes if (row := self.table.rows.get(node)) is not None]
        if any(found.get(key) != value for found in labels for key, value in shape.node_selector):
            return False
        same = shape.mode != PlacementMode.SAME_DOMAIN
        return same or len({found.get(shape.topology_key) for found in labels}) <= 1

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

    def settle_holds(self, now: int) -> None:
        """Move each hold to when the last of its victims will be gone; end those whose victims all are, in vain."""
        for uid, hold in list(self.holds.items()):
            hold.victims = {victim for victim in hold.victims if victim in self.calendar.held}
            promise = self.calendar.promises.get(uid)
            if not hold.victims or promise is None:
                self.end_hold(uid)
                continue
            leaving = [held for victim in hold.victims if (held := self.calendar.held[victim]).leaving]
            start = max([now + 1, *(held.until for held in leaving if held.until < NEVER)])
            if leaving and start != promise.start and start > now + 1:
                self.calendar.promise(promise._replace(start=start, end=start + promise.end - promise.start))
                self.queue.retell(uid)

    def recover_holds(self, now: int) -> None:
        """Keep room again for leases for which others were asked to go by an operator before this one."""
        victims: dict[str, set[str]] = {}
        reclaims = {}
        for lease in self.leases.values():
            preemptor = lease.status.get("revocation", {}).get("preemptorUID", "")
            if lease.allocated and not lease.releasing and preemptor in self.queue:
                victims.setdefault(preemptor, set()).add(lease.uid)
                reclaims[preemptor] = lease.reason(C.DISRUPTION_TARGET) == R.TENANT_RECLAIM
        for uid in sorted(victims, key=lambda uid: self.queue.requests[uid].turn):
            outlook = Outlook(self.table.scratch(), self.calendar, now)
            promise = room_left_by(outlook, self.queue.requests[uid], victims[uid])
            if promise is not None:
                self.begin_hold(Preemption(uid, tuple(sorted(victims[uid])), promise, reclaims[uid]))

    def displaced(self) -> dict[str, R]:
        """Return who is asked to go for others, and why."""
        return {
            victim: R.TENANT_RECLAIM if hold.reclaims else R.PREEMPTED
            for hold in self.holds.values()
            for victim in hold.victims
        }

    def preemptor_of(self, victim: str) -> str:
        """Return the uid of the lease for which another is asked to go, or ""."""
        return next((uid for uid, hold in self.holds.items() if victim in hold.victims), "")

    # --- nodes ---

    def put_node(self, name: str, labels: Mapping[str, str], verdict: Verdict) -> None:
        """Take in what a node of the pool may lend now."""
        before = self.table.rows.get(name)
        row = Row(labels, verdict, self.ledger.on_node(name))
        if row != before:
            self.table.put(name, row)

    def place_of(self, uid: str) -> int:
        """Return where a waiting lease stands, about: 1 is next."""
        return self.answers.places.get(uid) or self.queue.position(uid) + 1

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
            if uid in self.meters:
                self.meters[uid].observe(report.time, report.node, use.amounts)
            since = self.idle.setdefault(uid, {})
            idle = use.gone or _hardly_used(lease, report.node, use.amounts, self.policy.idle_below_percent)
            was = since.get(report.node)
            since[report.node] = (was if was is not None else now) if idle else None
            if (was is None) == idle:
                self.attention.add(uid)

    def bill(self, lease: Lease, now: int) -> Mapping[str, Any]:
        """Return `status.accounting` of a lease that ends now; {} where it held nothing."""
        meter = self.meters.get(lease.uid)
        return {} if meter is None else meter.bill(lease, now)

    def _meter(self, lease: Lease) -> None:
        """Count what a lease holds from its grant to its end; what it wasted counts for its tenant's rank."""
        if lease.slices:
            since = self.calendar.held[lease.uid].since if lease.uid in self.calendar.held else NEVER
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
            if used:
                wasted = max(0, 100 - max(used)) * MILLION // 100
                self.shares.note_waste(self.tenant_of(lease), wasted, MILLION // 8)

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
            if entry.start is None and (known is None or not known.allocated):
                rebuilt.put(self._holding_of(entry))
        found = differences(self.ledger, rebuilt, {uid: lease.key for uid, lease in self.leases.items()})
        found += [
            f"node {name}: the table holds {row.held}, the books {self.ledger.on_node(name)}"
            for name, row in self.table.rows.items()
            if row.held != self.ledger.on_node(name)
        ]
        found += self.table.differences()
        found += self._audit_the_future()
        # Only leases that hold something: those of an earlier pool of this name may have had the same tokens.
        tokens: dict[int, str] = {}
        for lease in self.leases.values():
            token = lease.status.get("fencingToken")
            if lease.allocated and token is not None and tokens.setdefault(token, lease.uid) != lease.uid:
                found.append(f"{lease.key}: fencing token {token} was given twice")
        return found

    def _audit_the_future(self) -> list[str]:
        """Work out anew who waits, what is held until when, and what was promised, and say what differs."""
        waiting: dict[str, Request] = {}
        asking: dict[str, Request] = {}
        refused: dict[str, Refusal] = {}
        promised: dict[str, Promise] = {}
        held_by: dict[str, tuple[Slices, str]] = {}
        for lease in self.leases.values():
            if lease.slices:
                held_by[lease.uid] = self._slices_of(lease), self.tenant_of(lease)
            if not lease.pending or lease.deleting or lease.wants_release:
                continue
            found = admit(lease, self.policy, self.namespaces.get(lease.namespace), self._turn(lease))
            if isinstance(found, Refusal):
                refused[lease.uid] = found
            elif found is not None:
                (asking if lease.is_dry_run else waiting)[lease.uid] = found
                promise = self._promise_told(lease, found.shape)
                if promise is not None and not lease.is_dry_run:
                    promised[lease.uid] = promise
        found_wrong = []
        order = sorted((request.turn, uid) for uid, request in waiting.items())
        if waiting != self.queue.requests or order != self.queue.order:
            found_wrong.append("the queue is not the leases that wait, in order")
        if (refused, asking) != (self.refused, self.inquiries):
            found_wrong.append("those refused or asking are not the leases that are")
        committed = self.entries.keys()
        known = {
            uid: (held.slices, held.tenant)
            for uid, held in self.calendar.held.items()
            if uid not in committed
        }
        if known != {uid: held for uid, held in held_by.items() if uid not in committed}:
            found_wrong.append("the calendar is not what the leases hold")
        kept = {uid: promise for uid, promise in self.calendar.promises.items() if uid not in self.holds}
        if not _same_but(kept, promised, committed):
            found_wrong.append("the promises are not what the leases were promised")
        return found_wrong + self._audit_the_shares()

    def _audit_the_shares(self) -> list[str]:
        sums: dict[str, Vector] = {}
        for held in self.calendar.held.values():
            before = sums.get(held.tenant, zero(self.ledger.size))
            sums[held.tenant] = plus(before, total_of(held.slices, self.ledger.size))
        return [
            f"tenant {tenant!r}: the shares count {account.used}, the calendar {sums.get(tenant)}"
            for tenant, account in self.shares.accounts.items()
            if any(account.used) and account.used != sums.get(tenant)
        ]


def _same_but(mine: Mapping[str, Promise], theirs: Mapping[str, Promise], committed: Set[str]) -> bool:
    return {uid: p for uid, p in mine.items() if uid not in committed} == {
        uid: p for uid, p in theirs.items() if uid not in committed
    }


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


def free_at(lease: Lease, policy: PoolPolicy) -> int:
    """Return when what a lease holds is free again unless it is renewed (ms), or NEVER where nobody knows."""
    if lease.releasing:
        if lease.reason(C.RELEASED) == R.QUARANTINED:
            return NEVER
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
