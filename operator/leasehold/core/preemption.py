"""Whom to ask to go, so that a request can start: as few and as little wanted leases as will do.

A request may take from leases of its own tenant with a lower priority (`withinTenant`), and one within its tenant's
guarantee from tenants that borrow (`borrowers`), but never below what these are guaranteed, and never from a lease
younger than the pool's `guaranteedSeconds`. The way is that of the Kubernetes scheduler: give everything back that
may be taken, then let each stay again, the most wanted first, as long as the request still fits. What is left is
minimal: letting any one of them stay breaks the fit.
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
    gone_at = now + policy.grace + policy.cooldown
    wanted = shape.total if claimed is None else plus(shape.total, claimed)
    reclaims = policy.reclaims and shares.entitled(shape.tenant, wanted)
    allowed = table.selected(shape.node_selector)
    left = _left(outlook, shares)
    candidates = _candidates(outlook, request, left, policy, allowed, gone_at, reclaims=reclaims)
    if not candidates:
        return None
    natural = outlook.earliest(shape, now, allowed, missed=True)
    if natural is not None and natural.start <= max(gone_at, now + 1):
        return None
    chosen = _minimal(outlook, request, left, candidates, gone_at)
    if chosen is None or len(chosen[0]) > MOST_VICTIMS:
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


def _candidates(
    outlook: Outlook,
    request: Request,
    left: Shares,
    policy: PoolPolicy,
    allowed: Set[int] | None,
    gone_at: int,
    *,
    reclaims: bool,
) -> list[tuple[str, Held]]:
    """Return who may be taken from, the least wanted first: lowest priority, then the youngest grant."""
    found = []
    tenant = request.shape.tenant
    index = outlook.scratch.table.index
    for uid, held in outlook.calendar.held.items():
        if held.leaving or uid in outlook.asked or held.until <= max(gone_at, outlook.now + 1):
            continue
        if outlook.now < held.since + policy.guaranteed_time:
            continue
        if not any(_helps(index.get(node), amounts, request, allowed) for node, amounts in held.slices):
            continue
        if held.tenant == tenant:
            may = policy.preempts_within and held.priority < request.priority
        else:
            may = reclaims and left.can_lose(held.tenant, _total(left, held))
        if may:
            found.append((uid, held))
    return sorted(found, key=lambda row: (row[1].priority, -row[1].since, row[0]))


def _helps(i: int | None, amounts: Vector, request: Request, allowed: Set[int] | None) -> bool:
    """Tell whether a slice lies where the request may go, and holds something that it needs."""
    if i is None or (allowed is not None and i not in allowed):
        return False
    return any(have and need for have, need in zip(amounts, request.shape.need, strict=True))


def _minimal(
    outlook: Outlook, request: Request, left: Shares, candidates: Sequence[tuple[str, Held]], gone_at: int
) -> tuple[list[str], tuple[int, ...]] | None:
    room = _Room(outlook, request.shape, gone_at)
    taken: list[tuple[str, Held]] = []
    for uid, held in candidates:
        amounts = _total(left, held)
        if held.tenant != request.shape.tenant and not left.can_lose(held.tenant, amounts):
            continue
        left.remove(held.tenant, amounts)
        room.change(held, 1)
        taken.append((uid, held))
    if not room.tally.fits():
        return None
    victims = []
    for uid, held in reversed(taken):
        room.change(held, -1)
        if not room.tally.fits():
            room.change(held, 1)
            victims.append(uid)
    return victims[::-1], room.tally.nodes()


class _Room:
    """What a request could have from an instant on, as leases go and stay; what is promised to others is not there."""

    def __init__(self, outlook: Outlook, shape: Shape, at: int) -> None:
        self.outlook = outlook
        self.table = outlook.scratch.table
        self.at = max(at, outlook.now + 1)
        self.until = later(at, shape.span)
        self.points: dict[int, list[Point]] = {}
        self.tally = Tally(outlook.scratch, shape, self.table.selected(shape.node_selector))
        everywhere = range(len(self.table.names)) if self.tally.allowed is None else self.tally.allowed
        for i in everywhere:
            self._count(i)

    def change(self, held: Held, sign: int) -> None:
        """Let a lease go, or stay again."""
        for node, amounts in held.slices:
            i = self.table.index.get(node)
            if i is None:
                continue
            for point in self.points.get(i, ()):
                if point.at < held.until:
                    point.room = [
                        have + sign * amount for have, amount in zip(point.room, amounts, strict=True)
                    ]
            self._count(i)

    def _count(self, i: int) -> None:
        if i not in self.points:
            points = self.outlook.points_on(self.table.names[i], self.at)
            self.points[i] = [point for point in points if self.at <= point.at < max(self.until, self.at + 1)]
        rooms = [point.room for point in self.points[i]]
        self.tally.set(i, [min(amounts) for amounts in zip(*rooms, strict=True)])


def _total(shares: Shares, held: Held) -> Vector:
    return total_of(held.slices, len(shares.capacity))
