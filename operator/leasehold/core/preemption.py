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

from leasehold.core.amounts import Vector
from leasehold.core.calendar import Held, Outlook, Promise, Tally, later, total_of
from leasehold.core.fairness import Shares
from leasehold.core.policy import PoolPolicy
from leasehold.core.request import Request

MOST_VICTIMS = 64
"""Leases that one request may displace; one that needs more waits."""


class Preemption(NamedTuple):
    """Who must go for a request, and the room that is kept for it meanwhile. `reclaims` says why it may."""

    uid: str
    victims: tuple[str, ...]
    promise: Promise
    reclaims: bool


def choose_victims(
    outlook: Outlook, request: Request, shares: Shares, policy: PoolPolicy
) -> Preemption | None:
    """Return whom to ask to go for a request that does not fit now, or None where that would not help.

    Nobody is asked to go where waiting for known ends would not take longer than their grace.
    """
    now, shape, table = outlook.now, request.shape, outlook.scratch.table
    gone_at = now + policy.grace + policy.cooldown
    reclaims = policy.reclaims and shares.entitled(shape.tenant, shape.total)
    allowed = table.selected(shape.node_selector)
    candidates = _candidates(outlook, request, shares, policy, allowed, reclaims=reclaims)
    if not candidates:
        return None
    chosen = _minimal(outlook, request, shares, candidates)
    if chosen is None or len(chosen[0]) > MOST_VICTIMS:
        return None
    natural = outlook.earliest(shape, now, allowed)
    if natural is not None and natural.start <= gone_at:
        return None
    victims, nodes = chosen
    slices = tuple((table.names[i], shape.need) for i in nodes)
    promise = Promise(request.uid, gone_at, later(gone_at, shape.span), slices)
    return Preemption(request.uid, tuple(victims), promise, reclaims)


def _candidates(
    outlook: Outlook,
    request: Request,
    shares: Shares,
    policy: PoolPolicy,
    allowed: Set[int] | None,
    *,
    reclaims: bool,
) -> list[tuple[str, Held]]:
    """Return who may be taken from, the least wanted first: lowest priority, then the youngest grant."""
    found = []
    tenant = request.shape.tenant
    index = outlook.scratch.table.index
    for uid, held in outlook.calendar.held.items():
        if held.leaving or outlook.now < held.since + policy.guaranteed_time:
            continue
        if not any(_helps(index.get(node), amounts, request, allowed) for node, amounts in held.slices):
            continue
        if held.tenant == tenant:
            may = policy.preempts_within and held.priority < request.priority
        else:
            may = reclaims and shares.can_lose(held.tenant, _total(shares, held))
        if may:
            found.append((uid, held))
    return sorted(found, key=lambda row: (row[1].priority, -row[1].since, row[0]))


def _helps(i: int | None, amounts: Vector, request: Request, allowed: Set[int] | None) -> bool:
    """Tell whether a slice lies where the request may go, and holds something that it needs."""
    if i is None or (allowed is not None and i not in allowed):
        return False
    return any(have and need for have, need in zip(amounts, request.shape.need, strict=True))


def _minimal(
    outlook: Outlook, request: Request, shares: Shares, candidates: Sequence[tuple[str, Held]]
) -> tuple[list[str], tuple[int, ...]] | None:
    table, shape = outlook.scratch.table, request.shape
    left = shares.copy()
    tally = Tally(outlook.scratch, shape, table.selected(shape.node_selector))
    rooms: dict[int, list[int]] = {}

    def change(held: Held, sign: int) -> None:
        for node, amounts in held.slices:
            i = table.index.get(node, -1)
            if i < 0:
                continue
            room = rooms.setdefault(i, outlook.scratch.free_on(i))
            for r, amount in enumerate(amounts):
                room[r] += sign * amount
            tally.set(i, _promised_out(outlook, i, room))

    taken: list[tuple[str, Held]] = []
    for uid, held in candidates:
        amounts = _total(shares, held)
        if held.tenant != shape.tenant and not left.can_lose(held.tenant, amounts):
            continue
        left.remove(held.tenant, amounts)
        change(held, 1)
        taken.append((uid, held))
    if not tally.fits():
        return None
    victims = []
    for uid, held in reversed(taken):
        change(held, -1)
        if not tally.fits():
            change(held, 1)
            victims.append(uid)
    return victims[::-1], tally.nodes()


def _promised_out(outlook: Outlook, i: int, room: Sequence[int]) -> list[int]:
    """Return the room on a node less what is promised there to others."""
    kept = list(room)
    name = outlook.scratch.table.names[i]
    for promise in outlook.kept.values():
        for node, amounts in promise.slices:
            if node == name:
                kept = [have - amount for have, amount in zip(kept, amounts, strict=True)]
    return kept


def _total(shares: Shares, held: Held) -> Vector:
    return total_of(held.slices, len(shares.capacity))
