"""One way through a queue: who starts now, on which nodes, and for whom room is kept. The only scheduler there is.

The operator's pass, the forecast of starts and the simulator all call `schedule`; they differ in where leases come
from and in what becomes of a start. What fits no node stays noted as stuck until some node has more room, so a pass
costs by the shapes that wait and by what was given back, not by the number that wait.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heappop, heappush

from leasehold.api.names import QueueStrategy
from leasehold.core.amounts import Vector, plus, times, zero
from leasehold.core.calendar import Outlook, Promise, Slot, later, total_of
from leasehold.core.capacity import Growth
from leasehold.core.fairness import Shares, beyond
from leasehold.core.placement import could_ever_fit, give_back, place
from leasehold.core.policy import PoolPolicy
from leasehold.core.preemption import Preemption, choose_victims
from leasehold.core.queue import Group, Queue, Turn
from leasehold.core.request import NEVER, Request, Shape, Start

_MISSES = 64
_PREEMPTORS = 2
_GROWN = 64
_MANY = 16


class Why(StrEnum):
    """Why a shape does not start now."""

    ROOM = "room"
    """No room, or none that is not promised: the nodes say which."""

    QUOTA = "quota"
    """Its tenant's limit."""

    FAIR_SHARE = "fair share"
    """It would borrow, and a tenant within its guarantee waits."""

    BLOCKED = "blocked"
    """The pool is strict, and an earlier request waits."""

    VICTIMS = "victims"
    """Leases that must go for it have been asked to."""

    TIME = "time"
    """Its start time has not come."""


@dataclass
class Pass:
    """What one way through the queue came to.

    `starts` have taken their room from the outlook. `kept_back` would start, but a write of theirs is under way.
    `promises` are new starts in the future; `preemptions` name whom to ask to go. `head` is who is first in line
    and, where ends are known, the start that is kept for it; of the `blocked` none was looked at because of it. `more`
    says that the pass stopped at its bounds, before it knew of the `undecided` whether they start.
    """

    starts: list[Start] = field(default_factory=list)
    kept_back: list[Start] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)
    preemptions: list[Preemption] = field(default_factory=list)
    whys: dict[Shape, Why] = field(default_factory=dict)
    otherwise: Why = Why.ROOM
    head: tuple[str, Slot | None] | None = None
    blocked: set[Shape] = field(default_factory=set)
    more: bool = False
    undecided: set[Shape] = field(default_factory=set)


def schedule(
    outlook: Outlook,
    queue: Queue,
    shares: Shares,
    policy: PoolPolicy,
    *,
    growth: Growth,
    batch: int = NEVER,
    slices: int = NEVER,
    absent: Set[str] = frozenset(),
    busy: Set[str] = frozenset(),
    holds: Iterable[str] = (),
    preempting: bool = True,
) -> Pass:
    """Go through the queue once, at the outlook's `now`.

    `shares` are counted up as requests start. `absent` requests are not there; `busy` ones take their room but do not
    start. `holds` are requests whose promises wait for victims.
    """
    run = _Run(outlook, queue, shares, policy, growth, batch, slices, absent, busy)
    run.preemptors = _PREEMPTORS if preempting and (policy.preempts_within or policy.reclaims) else 0
    run.keep_promises(frozenset(holds))
    if shares.guarantees:
        run.go(entitled=True)
    run.go(entitled=False)
    return run.result


_Entry = tuple[Turn, str, int, Group]


class _Lane:
    """One tenant's groups, by their first turn. Of those that are `stuck` one at a time stands in line."""

    __slots__ = ("heap", "in_line", "stuck", "tenant")

    def __init__(self, tenant: str, heap: list[_Entry], stuck: list[_Entry]) -> None:
        self.tenant = tenant
        self.heap = heap
        self.stuck = stuck
        self.in_line: Group | None = None
        heapify(heap)
        heapify(stuck)


class _Course:
    """What a tenant will hold as time goes on: from each instant on so much, by so many leases."""

    def __init__(self, shares: Shares, tenant: str, counted: list[tuple[int, int, Vector]], now: int) -> None:
        rule = shares.rules[tenant]
        self.limit = rule.limit
        self.max_leases = rule.max_leases
        self.instants = [now]
        self.used = [zero(len(shares.capacity))]
        self.leases = [0]
        events: list[tuple[int, int, Vector]] = []
        for start, until, amounts in counted:
            # What should have begun or ended before is expected at any moment.
            events.append((start if start == now else max(start, now + 1), 1, amounts))
            if until < NEVER:
                events.append((max(until, now + 1), -1, amounts))
        for at, sign, amounts in sorted(events):
            if at != self.instants[-1]:
                self.instants.append(at)
                self.used.append(self.used[-1])
                self.leases.append(self.leases[-1])
            self.used[-1] = plus(self.used[-1], times(amounts, sign))
            self.leases[-1] += sign
        self.peak = tuple(max(column) for column in zip(*self.used, strict=True))
        self.most = max(self.leases)

    def over(self, amounts: Vector, used: Vector, leases: int) -> bool:
        """Tell whether so much more would be beyond the limit."""
        if self.max_leases is not None and leases >= self.max_leases:
            return True
        return beyond(plus(used, amounts), self.limit)


class _Run:
    def __init__(
        self,
        outlook: Outlook,
        queue: Queue,
        shares: Shares,
        policy: PoolPolicy,
        growth: Growth,
        batch: int,
        slices: int,
        absent: Set[str],
        busy: Set[str],
    ) -> None:
        self.outlook = outlook
        self.scratch = outlook.scratch
        self.table = outlook.scratch.table
        self.now = outlook.now
        self.queue = queue
        self.shares = shares
        self.policy = policy
        self.growth = growth
        self.batch = batch
        self.slices = slices
        self.absent = absent
        self.busy = busy
        self.preemptors = 0
        self.result = Pass()
        self.stopped = False
        self.entitled_waits = False
        self.misses: dict[tuple[object, ...], list[Vector]] = {}
        self.missed: set[Shape] = set()
        self.served: set[str] = set()
        self.counted: dict[str, list[tuple[int, int, Vector]]] = {}
        self.promised: dict[str, list[Promise]] = {}
        self.promised_at = -1
        self.courses: dict[str, tuple[tuple[int, int], _Course]] = {}
        self.taken = 0
        # What no node has free now none will have in this pass: room only shrinks. Worth knowing where many wait.
        self.largest: list[int] = []
        if len(queue) > _MANY or len(self.table.names) < _MANY:
            self.largest = [max(column, default=0) for column in outlook.scratch.free]

    # --- promises that are due ---

    def keep_promises(self, holds: Set[str]) -> None:
        """Start what was promised for now, and what waits for victims as soon as they are gone.

        Whose promised time is over, because nobody led for so long or its room was lost, waits for those whose time it
        is: else each of two that were promised the same room, one after the other, would wait for the other for ever.
        """
        promises = sorted(self.outlook.kept.values(), key=lambda p: (p.end <= self.now, p.start, p.uid))
        over = {promise.uid for promise in promises if promise.end <= self.now}
        for uid in over:
            self.outlook.give_way(uid)
        for promise in promises:
            if promise.uid in over:
                self.outlook.keep(promise)
            if promise.uid in holds or promise.start <= self.now:
                request = self.queue.requests.get(promise.uid)
                if request is not None and promise.uid not in self.absent:
                    self._redeem(request, promise)

    def _redeem(self, request: Request, promise: Promise) -> None:
        """Start a promised request on its nodes, or anywhere else; what is kept for it stays kept otherwise.

        What no node could hold any more, even an empty one, keeps no room. A pass is always a little later than the
        promised instant. Where the room is promised to another from the very end of this promise on, it ends then: to
        be late must not cost it the start.
        """
        shape, index = request.shape, self.table.index
        self.served.add(request.uid)
        if self._full(shape):
            return
        if self.shares.over_limit(shape.tenant, shape.total):
            self.result.whys[shape] = Why.QUOTA
            return
        self.outlook.give_way(promise.uid)
        nodes = [index[node] for node, _ in promise.slices if node in index]
        until = later(self.now, shape.span)
        ends = [until]
        if promise.end < until and self.policy.is_worth(promise.end - self.now, shape.span):
            ends.append(promise.end)
        end = next((end for end in ends if self._all_fit(shape, nodes, end)), None)
        if len(nodes) == shape.slices and end is not None:
            for i in nodes:
                self.scratch.take(i, shape.need, end)
            self._start(request, nodes, end)
        elif not self._place(request, until):
            self.result.whys[shape] = Why.ROOM
            if self._possible(self.queue.group_of(request.uid)):
                self.outlook.keep(promise)
                self.entitled_waits = self.entitled_waits or self.shares.entitled(shape.tenant, shape.total)

    def _all_fit(self, shape: Shape, nodes: list[int], until: int) -> bool:
        return all(self.scratch.fits_on(i, times(shape.need, nodes.count(i)), until) for i in set(nodes))

    # --- the queue ---

    def go(self, *, entitled: bool) -> None:
        """Try everybody in order; with `entitled`, only those within their tenant's guarantee."""
        lanes = [
            (self.shares.rank(tenant), lane.heap[0][0], tenant, lane)
            for tenant in self.queue.tenants
            if (lane := self._lane(tenant, entitled=entitled)).heap
        ]
        heapify(lanes)
        while lanes and not self.stopped:
            _, _, tenant, lane = heappop(lanes)
            self._next(lane, entitled=entitled)
            if lane.heap:
                heappush(lanes, (self.shares.rank(tenant), lane.heap[0][0], tenant, lane))
        if self.stopped:
            left = self.result.undecided if self.result.more else self.result.blocked
            left |= {
                group.shape for *_, lane in lanes for *_, group in lane.heap if group is not lane.in_line
            }

    def _lane(self, tenant: str, *, entitled: bool) -> _Lane:
        """Line up a tenant's groups; those that are stuck only where their miss could mean something to others."""
        heap: list[_Entry] = []
        stuck: list[_Entry] = []
        counts = self._stuck_count(entitled=entitled)
        missed = self.missed
        for shape, group in self.queue.tenants[tenant].items():
            if shape in missed or (entitled and not self.shares.entitled(tenant, group.total)):
                continue
            if not self._is_stuck(group):
                heap.append((*group.items[0], 0, group))
            elif counts:
                stuck.append((*group.items[0], 0, group))
        lane = _Lane(tenant, heap, stuck)
        self._line_up_stuck(lane, entitled=entitled)
        return lane

    def _stuck_count(self, *, entitled: bool) -> bool:
        heads = self.policy.queue_strategy != QueueStrategy.BEST_EFFORT_FIFO and self.result.head is None
        return bool(heads or self.preemptors or (entitled and not self.entitled_waits))

    def _line_up_stuck(self, lane: _Lane, *, entitled: bool) -> None:
        """Let the first of the groups that are stuck stand in line, where its miss means something to others."""
        lane.in_line = None
        if not self._stuck_count(entitled=entitled):
            return
        while lane.stuck:
            entry = heappop(lane.stuck)
            if self._possible(entry[3]):
                lane.in_line = entry[3]
                heappush(lane.heap, entry)
                return

    def _is_stuck(self, group: Group) -> bool:
        """Tell whether no node had room for a slice, and none that grew since has."""
        if group.shape.not_before > self.now:
            return False
        for amount, most in zip(group.least, self.largest, strict=False):
            if amount > most:
                return True
        if group.stuck_at < 0:
            return False
        if group.stuck_at == self.growth.version:
            return True
        grown = self.growth.since(group.stuck_at)
        if grown is None or len(grown) > _GROWN:
            return False
        if grown:
            wants = [(self.scratch.free[r], amount) for r, amount in enumerate(group.least) if amount]
            for i in grown:
                if all(column[i] >= amount for column, amount in wants):
                    return False
        if not self.result.starts and not self.result.kept_back:
            group.stuck_at = self.growth.version
        return True

    def _next(self, lane: _Lane, *, entitled: bool) -> None:
        turn, uid, k, group = heappop(lane.heap)
        if self._serve(turn, uid, group, entitled=entitled) and k + 1 < len(group.items):
            waits = lane.stuck if group is lane.in_line else lane.heap
            heappush(waits, (*group.items[k + 1], k + 1, group))
        if group is lane.in_line and not self.stopped:
            self._line_up_stuck(lane, entitled=entitled)

    def _serve(self, turn: Turn, uid: str, group: Group, *, entitled: bool) -> bool:
        """Look at one request; return whether to look at the next of its group too."""
        if uid in self.absent:
            return True
        if entitled and not self.shares.entitled(group.shape.tenant, group.total):
            return False
        if uid in self.served or uid in self.outlook.kept:
            return self._pass_over(uid, group)
        if self._full(group.shape):
            return False
        request = self.queue.requests[uid]
        if group.shape.not_before > self.now:
            return self._promise(request)
        why = self._barred(group)
        if why is None:
            if self._try(request, later(self.now, group.shape.span), group):
                return True
            why = self._missed(request, group, entitled=entitled)
        self.result.whys[group.shape] = why
        self.missed.add(group.shape)
        return False

    def _pass_over(self, uid: str, group: Group) -> bool:
        """Leave alone who has started or waits for what it was promised; who waits for it in vain is first in line."""
        if uid in self.outlook.kept:
            self.result.whys.setdefault(group.shape, Why.TIME)
            if uid in self.served and self.policy.queue_strategy == QueueStrategy.STRICT_FIFO:
                self._block(uid)
        return True

    def _barred(self, group: Group) -> Why | None:
        """Return what keeps a group back whatever room there is."""
        tenant = group.shape.tenant
        until = later(self.now, group.shape.span)
        if (
            self.shares.over_limit(tenant, group.total)
            or self._clash(group.shape, self.now, until) is not None
        ):
            return Why.QUOTA
        if self.entitled_waits and not self.shares.entitled(tenant, group.total):
            return Why.FAIR_SHARE
        return None

    def _full(self, shape: Shape) -> bool:
        decided = len(self.result.starts) + len(self.result.promises)
        if decided < self.batch and not (decided and self.taken + shape.slices > self.slices):
            return False
        self.result.more = self.stopped = True
        self.result.undecided.add(shape)
        return True

    def _try(self, request: Request, until: int, group: Group) -> bool:
        """Take room for a request and start it; tell whether there was any. Room only shrinks while a pass runs, so
        what is at least as large and as long as an earlier miss need not be tried.
        """
        shape = request.shape
        missed = self.misses.setdefault(
            (shape.slices, shape.mode, shape.topology_key, shape.node_selector), []
        )
        measure = (*shape.need, until)
        if any(all(m <= n for m, n in zip(known, measure, strict=True)) for known in missed):
            return False
        if self._place(request, until):
            return True
        if len(missed) < _MISSES:
            missed.append(measure)
        if self._nowhere(shape):
            group.stuck_at = self.growth.version
        return False

    def _place(self, request: Request, until: int) -> bool:
        shape = request.shape
        allowed = self.table.selected(shape.node_selector)
        found = place(self.scratch, shape.need, shape.slices, shape.mode, allowed, shape.topology_key, until)
        if found is not None:
            self._start(request, found, until)
        return found is not None

    def _nowhere(self, shape: Shape) -> bool:
        """Tell whether a miss lasts until some node grows: nothing was taken in this pass, and it is not for a promise.

        What this pass took may come back if its commit fails.
        """
        if self.result.starts or self.result.kept_back:
            return False
        if not self.scratch.guard:
            return True
        allowed = self.table.selected(shape.node_selector)
        found = place(self.scratch, shape.need, shape.slices, shape.mode, allowed, shape.topology_key)
        if found is not None:
            if shape.mode == "SameNode":
                self.scratch.take(found[0], times(shape.total, -1), 0)
            else:
                give_back(self.scratch, shape.need, found, 0)
        return found is None

    def _start(self, request: Request, nodes: list[int], until: int) -> None:
        shape = request.shape
        self.outlook.start(request.uid, nodes, shape.need, until)
        self.shares.add(shape.tenant, shape.total)
        self.served.add(request.uid)
        limit = self.outlook.limit_of(nodes, shape.need, until) if self.scratch.guard else None
        start = Start(request.uid, tuple(nodes), until, limit)
        if request.uid in self.busy:
            self.result.kept_back.append(start)
        else:
            self.result.starts.append(start)
            self.taken += shape.slices

    # --- who does not fit ---

    def _missed(self, request: Request, group: Group, *, entitled: bool) -> Why:
        """Decide what a miss means for those behind: nothing, unless the request could be met at all."""
        if not self._possible(group):
            return Why.ROOM
        self.entitled_waits = self.entitled_waits or entitled
        if self.preemptors and request.uid not in self.busy:
            preemption = self._preempt(request)
            if preemption is not None:
                self.result.preemptions.append(preemption)
                if self.policy.queue_strategy == QueueStrategy.STRICT_FIFO:
                    self._block(request.uid)
                return Why.VICTIMS
        if self.policy.queue_strategy == QueueStrategy.STRICT_FIFO:
            self._block(request.uid)
        elif self.policy.queue_strategy == QueueStrategy.BACKFILL and self.result.head is None:
            self._reserve(request)
        return Why.ROOM

    def _block(self, uid: str) -> None:
        self.result.head = (uid, None)
        self.result.otherwise = Why.BLOCKED
        self.stopped = True

    def _reserve(self, request: Request) -> None:
        """Keep the earliest start for the first in line."""
        shape = request.shape
        slot = self._earliest(shape, self.now)
        self.result.head = (request.uid, slot)
        if slot is not None:
            self.outlook.keep_slot(request.uid, slot, shape)

    def _preempt(self, request: Request) -> Preemption | None:
        self.preemptors -= 1
        shape = request.shape
        claimed = zero(len(shape.need))
        for promise in self._promised_to(shape.tenant):
            claimed = plus(claimed, total_of(promise.slices, len(shape.need)))
        found = choose_victims(self.outlook, request, self.shares, self.policy, claimed)
        if found is None or self._clash(shape, found.promise.start, found.promise.end) is not None:
            return None
        self.outlook.ask(found.victims, found.promise.start)
        self.outlook.keep(found.promise)
        return found

    def _promise(self, request: Request) -> bool:
        """Promise a start in the future, the earliest from the time that was asked for.

        Return whether another one like it may get one too.
        """
        shape = request.shape
        self.result.whys[shape] = Why.TIME
        if request.uid in self.busy:
            return True
        slot = self._earliest(shape, shape.not_before)
        if slot is None or slot.start > shape.no_later:
            self.missed.add(shape)
            return False
        self.result.promises.append(self.outlook.keep_slot(request.uid, slot, shape))
        self.taken += shape.slices
        return True

    # --- the limits of what is to come ---

    def _earliest(self, shape: Shape, after: int) -> Slot | None:
        """Return the earliest start from an instant on at which there is room and the tenant's limit allows it."""
        allowed = self.table.selected(shape.node_selector)
        missed = after <= self.now
        while True:
            slot = self.outlook.earliest(shape, after, allowed, missed=missed)
            if slot is None:
                return None
            clash = self._clash(shape, slot.start, later(slot.start, shape.span))
            if clash is None:
                return slot
            falls = self._course(shape.tenant).instants
            k = bisect_right(falls, clash)
            if k == len(falls):
                return None
            after = falls[k]

    def _clash(self, shape: Shape, start: int, end: int) -> int | None:
        """Return the first instant from `start` until `end` at which a tenant would be over its limit, or None.

        What would be over already is so from the start.
        """
        rule = self.shares.rules.get(shape.tenant)
        if rule is None or (rule.max_leases is None and all(most is None for most in rule.limit)):
            return None
        if start <= self.now and not self._promised_to(shape.tenant):
            return None
        course = self._course(shape.tenant)
        if not course.over(shape.total, course.peak, course.most):
            return None
        k = max(bisect_right(course.instants, start) - 1, 0)
        while k < len(course.instants) and course.instants[k] < end:
            if course.over(shape.total, course.used[k], course.leases[k]):
                return max(course.instants[k], start)
            k += 1
        return None

    def _course(self, tenant: str) -> _Course:
        """Return what a tenant will hold as time goes on, by what is known now."""
        version = (self.outlook.changes, len(self.result.starts) + len(self.result.kept_back))
        known = self.courses.get(tenant)
        if known is None or known[0] != version:
            made = _Course(self.shares, tenant, self._counted(tenant), self.now)
            known = self.courses[tenant] = (version, made)
        return known[1]

    def _promised_to(self, tenant: str) -> list[Promise]:
        if self.promised_at != self.outlook.changes:
            self.promised_at = self.outlook.changes
            self.promised = {}
            for promise in self.outlook.kept.values():
                request = self.queue.requests.get(promise.uid)
                if request is not None:
                    self.promised.setdefault(request.shape.tenant, []).append(promise)
        return self.promised.get(tenant, [])

    def _counted(self, tenant: str) -> list[tuple[int, int, Vector]]:
        """Return what a tenant holds, has started and was promised: from when, until when, and how much."""
        size = len(self.shares.capacity)
        if not self.counted:
            for held in self.outlook.calendar.held.values():
                total = held.slices[0][1] if len(held.slices) == 1 else total_of(held.slices, size)
                self.counted.setdefault(held.tenant, []).append((self.now, held.until, total))
        requests = self.queue.requests
        started = [
            (self.now, start.until, requests[start.uid].shape.total)
            for start in (*self.result.starts, *self.result.kept_back)
            if requests[start.uid].shape.tenant == tenant
        ]
        promised = [
            (promise.start, max(promise.end, self.now + 2), total_of(promise.slices, size))
            for promise in self._promised_to(tenant)
        ]
        return [*self.counted.get(tenant, ()), *started, *promised]

    def _possible(self, group: Group) -> bool:
        """Tell whether empty nodes would hold the request; one that nothing can meet must not hold back others."""
        if group.possible_at != self.table.rebuilds:
            shape = group.shape
            allowed = self.table.selected(shape.node_selector)
            group.possible_at = self.table.rebuilds
            group.possible = could_ever_fit(
                self.table, shape.need, shape.slices, shape.mode, allowed, shape.topology_key
            )
        return group.possible


def in_line(queue: Queue, shares: Shares) -> Iterator[Request]:
    """Yield who waits in the order in which the planner looks at them now, as if each were served in its turn.

    `shares` are counted up on the way.
    """
    lines = {
        tenant: sorted(item for group in groups.values() for item in group.items)
        for tenant, groups in queue.tenants.items()
    }
    heap: list[tuple[bool, int, Turn, str, int]] = []

    def stand(tenant: str, k: int) -> None:
        if k < len(lines[tenant]):
            turn, uid = lines[tenant][k]
            borrows = not shares.entitled(tenant, queue.requests[uid].shape.total)
            heappush(heap, (borrows, shares.rank(tenant), turn, tenant, k))

    for tenant in lines:
        stand(tenant, 0)
    while heap:
        _, _, _, tenant, k = heappop(heap)
        request = queue.requests[lines[tenant][k][1]]
        yield request
        shares.add(tenant, request.shape.total)
        stand(tenant, k + 1)
