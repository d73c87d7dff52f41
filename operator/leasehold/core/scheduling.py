"""One way through a queue: who starts now, on which nodes, and for whom room is kept. The only scheduler there is.

The operator's pass, the forecast of starts and the simulator all call `schedule`; they differ in where leases come
from and in what becomes of a start. What fits no node stays noted as stuck until some node has more room, so a pass
costs by the shapes that wait and by what was given back, not by the number that wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heappop, heappush

from leasehold.api.names import QueueStrategy
from leasehold.core.amounts import Vector, times
from leasehold.core.calendar import Outlook, Promise, Slot, later, total_of
from leasehold.core.capacity import Growth
from leasehold.core.fairness import Shares
from leasehold.core.placement import could_ever_fit, give_back, place
from leasehold.core.policy import PoolPolicy
from leasehold.core.preemption import Preemption, choose_victims
from leasehold.core.queue import Group, Queue, Turn
from leasehold.core.request import NEVER, Request, Shape, Start

_MISSES = 64
_PREEMPTORS = 4
_GROWN = 64


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
    and, where ends are known, the start that is kept for it. `more` says that the pass stopped at its bounds.
    """

    starts: list[Start] = field(default_factory=list)
    kept_back: list[Start] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)
    preemptions: list[Preemption] = field(default_factory=list)
    whys: dict[Shape, Why] = field(default_factory=dict)
    otherwise: Why = Why.ROOM
    head: tuple[str, Slot | None] | None = None
    more: bool = False


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
    held_back: Turn | None = None,
    holds: Iterable[str] = (),
    preempting: bool = True,
) -> Pass:
    """Go through the queue once, at the outlook's `now`.

    `shares` are counted up as requests start. `absent` requests are not there; `busy` ones take their room but do not
    start. From the turn `held_back` on nobody is looked at. `holds` are requests whose promises wait for victims.
    """
    run = _Run(outlook, queue, shares, policy, growth, batch, slices, absent, busy, held_back)
    run.preemptors = _PREEMPTORS if preempting and (policy.preempts_within or policy.reclaims) else 0
    run.keep_promises(frozenset(holds))
    if shares.guarantees:
        run.go(entitled=True)
    run.go(entitled=False)
    return run.result


class _Lane:
    """One tenant's groups, by their first turn."""

    __slots__ = ("heap", "tenant")

    def __init__(self, tenant: str, heap: list[tuple[Turn, str, int, Group]]) -> None:
        self.tenant = tenant
        self.heap = heap
        heapify(heap)


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
        held_back: Turn | None,
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
        self.held_back = held_back
        self.preemptors = 0
        self.result = Pass()
        self.stopped = False
        self.entitled_waits = False
        self.misses: dict[tuple[object, ...], list[Vector]] = {}
        self.missed: set[Shape] = set()
        self.served: set[str] = set()
        self.taken = 0

    # --- promises that are due ---

    def keep_promises(self, holds: Set[str]) -> None:
        """Start what was promised for now, and what waits for victims as soon as they are gone."""
        promises = sorted(self.outlook.kept.values(), key=lambda p: (p.start, p.uid))
        for promise in promises:
            if promise.uid in holds or promise.start <= self.now:
                request = self.queue.requests.get(promise.uid)
                if request is not None and promise.uid not in self.absent:
                    self._redeem(request, promise)

    def _redeem(self, request: Request, promise: Promise) -> None:
        """Start a promised request on its nodes, or anywhere else; what is kept for it stays kept otherwise."""
        shape, index = request.shape, self.table.index
        self.outlook.give_way(promise.uid)
        nodes = [index[node] for node, _ in promise.slices if node in index]
        until = later(self.now, shape.span)
        if len(nodes) == shape.slices and self._all_fit(shape, nodes, until):
            for i in nodes:
                self.scratch.take(i, shape.need, until)
            self._start(request, nodes, until)
        elif not self._place(request, until):
            self.outlook.keep(promise)
            self.served.add(request.uid)
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

    def _lane(self, tenant: str, *, entitled: bool) -> _Lane:
        """Line up a tenant's groups. Of those that are stuck only the first can matter, as the head of the queue."""
        heap = []
        stuck: tuple[Turn, str, int, Group] | None = None
        heads = self.policy.queue_strategy != QueueStrategy.BEST_EFFORT_FIFO or entitled
        for group in self.queue.tenants[tenant].values():
            if group.shape in self.missed:
                continue
            if entitled and not self.shares.entitled(tenant, group.total):
                continue
            entry = (*group.items[0], 0, group)
            if not self._is_stuck(group):
                heap.append(entry)
            elif heads and (stuck is None or entry < stuck) and self._possible(group):
                stuck = entry
        if stuck is not None:
            heap.append(stuck)
        return _Lane(tenant, heap)

    def _is_stuck(self, group: Group) -> bool:
        """Tell whether no node had room for a slice, and none that grew since has."""
        if group.stuck_at < 0 or group.shape.not_before > self.now:
            return False
        if group.stuck_at == self.growth.version:
            return True
        grown = self.growth.since(group.stuck_at)
        if grown is None or len(grown) > _GROWN:
            return False
        if grown:
            need = group.total if group.shape.mode == "SameNode" else group.shape.need
            wants = [(self.scratch.free[r], amount) for r, amount in enumerate(need) if amount]
            for i in grown:
                if all(column[i] >= amount for column, amount in wants):
                    return False
            group.stuck_at = self.growth.version
        return True

    def _next(self, lane: _Lane, *, entitled: bool) -> None:
        turn, uid, k, group = heappop(lane.heap)
        if self.held_back is not None and turn >= self.held_back:
            return
        if uid in self.absent or uid in self.served:
            self._follow(lane, k, group)
            return
        if self._full(group):
            return
        request = self.queue.requests[uid]
        if group.shape.not_before > self.now:
            self._promise(request)
            self._follow(lane, k, group)
            return
        if entitled and not self.shares.entitled(lane.tenant, group.total):
            return
        why = self._barred(group)
        if why is None:
            if self._try(request, later(self.now, group.shape.span), group):
                self._follow(lane, k, group)
                return
            why = self._missed(request, group, entitled=entitled)
        self.result.whys[group.shape] = why
        self.missed.add(group.shape)

    def _follow(self, lane: _Lane, k: int, group: Group) -> None:
        if k + 1 < len(group.items):
            heappush(lane.heap, (*group.items[k + 1], k + 1, group))

    def _barred(self, group: Group) -> Why | None:
        """Return what keeps a group back whatever room there is."""
        tenant = group.shape.tenant
        if self.shares.over_limit(tenant, group.total):
            return Why.QUOTA
        if self.entitled_waits and not self.shares.entitled(tenant, group.total):
            return Why.FAIR_SHARE
        return None

    def _full(self, group: Group) -> bool:
        starts = len(self.result.starts)
        if starts < self.batch and not (starts and self.taken + group.shape.slices > self.slices):
            return False
        self.result.more = self.stopped = True
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
        limit = self.outlook.limit_of(nodes, shape.need) if self.scratch.guard else None
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
        slot = self.outlook.earliest(shape, self.now, self.table.selected(shape.node_selector))
        self.result.head = (request.uid, slot)
        if slot is not None:
            self.outlook.keep_slot(request.uid, slot, shape)

    def _preempt(self, request: Request) -> Preemption | None:
        self.preemptors -= 1
        shape = request.shape
        found = choose_victims(self.outlook, request, self.shares, self.policy)
        if found is None:
            return None
        self.outlook.keep(found.promise)
        for uid in found.victims:
            held = self.outlook.calendar.held[uid]
            self.shares.remove(held.tenant, total_of(held.slices, len(shape.need)))
        return found

    def _promise(self, request: Request) -> None:
        """Promise a start in the future, the earliest from the time that was asked for."""
        shape = request.shape
        self.result.whys[shape] = Why.TIME
        if request.uid in self.busy or request.uid in self.outlook.kept:
            return
        slot = self.outlook.earliest(shape, shape.not_before, self.table.selected(shape.node_selector))
        if slot is None:
            return
        if self._over_limit_at(slot.start, shape):
            self.result.whys[shape] = Why.QUOTA
        else:
            self.result.promises.append(self.outlook.keep_slot(request.uid, slot, shape))

    def _over_limit_at(self, start: int, shape: Shape) -> bool:
        """Tell whether a tenant would be over its limit at a future start, by what it holds and was promised then."""
        if shape.tenant not in self.shares.rules:
            return False
        then = Shares(self.shares.rules, self.shares.capacity)
        size = len(shape.need)
        for held in self.outlook.calendar.held.values():
            if held.tenant == shape.tenant and held.until > start:
                then.add(shape.tenant, total_of(held.slices, size))
        for promise in self.outlook.kept.values():
            request = self.queue.requests.get(promise.uid)
            if request is not None and request.shape.tenant == shape.tenant and promise.end > start:
                then.add(shape.tenant, request.shape.total)
        return then.over_limit(shape.tenant, shape.total)

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
