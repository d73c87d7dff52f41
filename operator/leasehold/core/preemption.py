"""Whom to ask to go, so that a request can start: as few and as little wanted leases as will do.

A request may take from leases of its own tenant with a lower priority (`withinTenant`), and one within its tenant's
guarantee from tenants that borrow (`borrowers`), but never below what these are guaranteed, and never from a lease
younger than the pool's `guaranteedSeconds`. Leases are given up one by one, the least wanted first, until the request
fits; so nobody is asked to go who is wanted more than need be. Then, as in the Kubernetes scheduler, each may stay
again, the most wanted first, as long as the request still fits. What is left is minimal: letting any one of them stay
breaks the fit. A single slice goes where that costs least.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

from leasehold.core.amounts import Vector, plus
from leasehold.core.calendar import Held, Outlook, Promise, Tally, later, total_of
from leasehold.core.capacity import Point
from leasehold.core.fairness import Shares
from leasehold.core.policy import PoolPolicy
from leasehold.core.request import NEVER, Request, Shape

MOST_VICTIMS = 64
"""Leases that one request may displace; one that needs more waits."""

_CLOSER_LOOKS = 64


class Preemption(NamedTuple):
    """Who must go for a request, and the room that is kept for it meanwhile. `reclaims` says why it may."""

    uid: str
    victims: tuple[str, ...]
    promise: Promise
    reclaims: bool


def choose_victims(
    outlook: Outlook,
    request: Request,
    shares: Shares,
    policy: PoolPolicy,
    claimed: Vector | None = None,
) -> Preemption | None:
    """Return whom to ask to go for a request that does not fit now, or None where that would not help.

    Nobody is asked to go where waiting for known ends would not take longer than their grace. `claimed` is what the
    request's tenant was promised and does not hold yet; it counts against its guarantee.
    """
    now, shape, table = outlook.now, request.shape, outlook.scratch.table
    gone_at = now + policy.wind_down
    wanted = shape.total if claimed is None else plus(shape.total, claimed)
    reclaims = policy.reclaims and shares.entitled(shape.tenant, wanted)
    allowed = table.selected(shape.node_selector)
    left = _left(outlook, shares)
    candidates = _candidates(outlook, request, left, policy, gone_at, reclaims=reclaims)
    if not candidates:
        return None
    chosen = _victims(outlook, request, left, candidates, gone_at, allowed)
    if chosen is None or len(chosen[0]) > MOST_VICTIMS:
        return None
    natural = outlook.earliest(shape, now, allowed, missed=True)
    if natural is not None and natural.start <= max(gone_at, now + 1):
        return None
    victims, nodes = chosen
    slices = tuple((table.names[i], shape.need) for i in nodes)
    promise = Promise(request.uid, gone_at, later(gone_at, shape.span), slices)
    return Preemption(request.uid, tuple(victims), promise, reclaims)


def room_left_by(outlook: Outlook, request: Request, victims: Set[str]) -> Promise | None:
    """Return the room that a request gets once these leases are gone, and when; None where that is not enough."""
    calendar, shape, table = outlook.calendar, request.shape, outlook.scratch.table
    leaving = [calendar.held[uid] for uid in sorted(victims)]
    start = max([outlook.now + 1, *(held.until for held in leaving if held.until < NEVER)])
    room = _Room(outlook, shape, start)
    for held in leaving:
        room.change(held, 1)
    if not room.tally.fits():
        return None
    slices = tuple((table.names[i], shape.need) for i in room.tally.nodes())
    return Promise(request.uid, start, later(start, shape.span), slices)


def _left(outlook: Outlook, shares: Shares) -> Shares:
    """Return what the tenants hold without those who leave anyway."""
    left = shares.copy()
    for uid, held in outlook.calendar.held.items():
        if held.leaving or uid in outlook.asked:
            left.remove(held.tenant, _total(shares, held))
    return left


_Candidate = tuple[int, int, str, Held]


def _candidates(
    outlook: Outlook, request: Request, left: Shares, policy: PoolPolicy, gone_at: int, *, reclaims: bool
) -> list[_Candidate]:
    """Return who might be taken from; in order the least wanted come first, by priority, then the youngest grant."""
    found: list[_Candidate] = []
    tenant, priority = request.shape.tenant, request.priority
    latest = outlook.now - policy.guaranteed_time
    soonest = max(gone_at, outlook.now + 1)
    within, asked = policy.preempts_within, outlook.asked
    for uid, held in outlook.calendar.held.items():
        if held.tenant == tenant:
            if not within or held.priority >= priority:
                continue
        elif not reclaims:
            continue
        if held.since > latest or held.until <= soonest or held.leaving or uid in asked:
            continue
        if held.tenant != tenant and not left.can_lose(held.tenant, _total(left, held)):
            continue
        found.append((held.priority, -held.since, uid, held))
    return found


def _victims(
    outlook: Outlook,
    request: Request,
    left: Shares,
    candidates: list[_Candidate],
    gone_at: int,
    allowed: Set[int] | None,
) -> tuple[list[str], tuple[int, ...]] | None:
    """Return a minimal set of victims and where the request then lies."""
    if request.shape.slices > 1:
        return _minimal(outlook, request, left, sorted(candidates), gone_at, allowed)
    for rows in _node_by_node(outlook, request, candidates, gone_at, allowed):
        found = _minimal(outlook, request, left.copy(), rows, gone_at, allowed)
        if found is not None:
            return found
    return None


def _node_by_node(
    outlook: Outlook, request: Request, candidates: list[_Candidate], gone_at: int, allowed: Set[int] | None
) -> list[list[_Candidate]]:
    """Return the nodes that a single slice could be given, the least painful first, each as who would have to go.

    As the Kubernetes scheduler has it: the lowest priority of the most wanted victim, then the fewest victims, then
    the youngest. Tenants' guarantees and promises are left to a closer look, which a few nodes get.
    """
    index, need = outlook.scratch.table.index, request.shape.need
    wanted = [(r, amount) for r, amount in enumerate(need) if amount]
    by_node: dict[str, list[_Candidate]] = {}
    for row in candidates:
        slices = row[3].slices
        for node in (slices[0][0],) if len(slices) == 1 else {node for node, _ in slices}:
            by_node.setdefault(node, []).append(row)
    scored = []
    for node, rows in by_node.items():
        i = index.get(node)
        if i is None or (allowed is not None and i not in allowed):
            continue
        free = outlook.scratch.free_on(i)
        rows.sort()
        for k, row in enumerate(rows, start=1):
            for name, amounts in row[3].slices:
                if name == node:
                    for r, _ in wanted:
                        free[r] += amounts[r]
            if all(free[r] >= amount for r, amount in wanted):
                scored.append((row[0], k, row[1], node))
                break
        else:
            # What ends by then anyway may be what is missing.
            scored.append((rows[-1][0], len(rows), rows[-1][1], node))
    return [by_node[node] for *_, node in sorted(scored)[:_CLOSER_LOOKS]]


def _minimal(
    outlook: Outlook,
    request: Request,
    left: Shares,
    candidates: Sequence[_Candidate],
    gone_at: int,
    allowed: Set[int] | None,
) -> tuple[list[str], tuple[int, ...]] | None:
    """Let leases go, the least wanted first, until the request fits; then let each stay again that can."""
    room = _Room(outlook, request.shape, gone_at)
    taken: list[tuple[str, Held]] = []
    rows = iter(candidates)
    while not room.tally.fits():
        row = next(rows, None)
        if row is None:
            return None
        _, _, uid, held = row
        if not _helps(outlook, held, request, allowed):
            continue
        amounts = _total(left, held)
        if held.tenant != request.shape.tenant and not left.can_lose(held.tenant, amounts):
            continue
        left.remove(held.tenant, amounts)
        room.change(held, 1)
        taken.append((uid, held))
    victims = []
    for uid, held in reversed(taken):
        room.change(held, -1)
        if not room.tally.fits():
            room.change(held, 1)
            victims.append(uid)
    return victims[::-1], room.tally.nodes()


def _helps(outlook: Outlook, held: Held, request: Request, allowed: Set[int] | None) -> bool:
    """Tell whether a lease lies where the request may go, and holds something that it needs."""
    index, need = outlook.scratch.table.index, request.shape.need
    for node, amounts in held.slices:
        i = index.get(node)
        if i is not None and (allowed is None or i in allowed):
            for have, wanted in zip(amounts, need, strict=True):
                if have and wanted:
                    return True
    return False


class _Room:
    """What a request could have from an instant on, as leases go and stay; what is promised to others is not there."""

    def __init__(self, outlook: Outlook, shape: Shape, at: int) -> None:
        self.outlook = outlook
        self.table = outlook.scratch.table
        self.at = max(at, outlook.now + 1)
        self.until = later(at, shape.span)
        self.points: dict[int, list[Point]] = {}
        self.tally = Tally(outlook.scratch, shape, self.table.selected(shape.node_selector))
        if shape.slices > 1:
            # A single slice fits on no node that nobody leaves: it was missed, and no end by then makes room.
            everywhere = range(len(self.table.names)) if self.tally.allowed is None else self.tally.allowed
            for i in everywhere:
                self._count(i)

    def change(self, held: Held, sign: int) -> None:
        """Let a lease go, or stay again."""
        for node, amounts in held.slices:
            i = self.table.index.get(node)
            if i is None:
                continue
            for point in self._points(i):
                if point.at < held.until:
                    point.room = [
                        have + sign * amount for have, amount in zip(point.room, amounts, strict=True)
                    ]
            self._count(i)

    def _points(self, i: int) -> list[Point]:
        if i not in self.points:
            points = self.outlook.points_on(self.table.names[i], self.at)
            self.points[i] = [point for point in points if self.at <= point.at < max(self.until, self.at + 1)]
        return self.points[i]

    def _count(self, i: int) -> None:
        rooms = [point.room for point in self._points(i)]
        self.tally.set(i, [min(amounts) for amounts in zip(*rooms, strict=True)])


def _total(shares: Shares, held: Held) -> Vector:
    return total_of(held.slices, len(shares.capacity))
