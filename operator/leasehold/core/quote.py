"""What a pool could give to somebody who only asks: where and when, at whose cost, or what else instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from leasehold.api.names import CounterOfferKind, QueueStrategy
from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.quantity import amount as units_of
from leasehold.core.amounts import Vector
from leasehold.core.calendar import Outlook, Tally
from leasehold.core.course import Notice, Step
from leasehold.core.fairness import MILLION, dominant_share
from leasehold.core.lease import Lease
from leasehold.core.policy import PoolPolicy
from leasehold.core.preemption import choose_victims
from leasehold.core.release import finish
from leasehold.core.request import Request, Shape
from leasehold.core.state import PoolState
from leasehold.core.status import Draft, amount_text
from leasehold.core.times import format_time

Json = Mapping[str, Any]

_STEPS = 1024
_WORTH = 2


class Offer(NamedTuple):
    """What one pool offers: the earliest start (ms; None: no known end makes room), and how full it is (millionths)."""

    pool: str
    start: int | None
    nodes: tuple[str, ...] = ()
    load: int = 0


class Smaller(NamedTuple):
    """The largest request of the same kind that fits now."""

    need: Vector
    slices: int
    share: int


def load_of(state: PoolState) -> int:
    """Return how full a pool is: the largest share of any resource that is held, in millionths."""
    held = [0] * len(state.table.capacity)
    for account in state.shares.accounts.values():
        held = [a + b for a, b in zip(held, account.used, strict=True)]
    state.table.settle()
    return dominant_share(held, state.table.capacity)


def offer_told(pool: str, status: Json, request: Request, policy: PoolPolicy, now: int) -> Offer:
    """Return what a pool that another replica leads can be expected to offer, by what its status tells.

    A start at once where nobody waits there and one node has room for a slice and all of them for the whole; otherwise
    nobody here can tell a start.
    """
    rows = {row["name"]: row for row in status.get("capacity", ())}
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
    fits = ready and not status.get("leases", {}).get("pending", 0)
    load = 0
    for name, need, total in zip(policy.names, request.shape.need, request.shape.total, strict=True):
        figures = {key: _units(name, rows.get(name, {}).get(key)) for key in ("largestFree", "free")}
        fits = fits and need <= figures["largestFree"] and total <= figures["free"]
        lent = _units(name, rows.get(name, {}).get("allocated"))
        capacity = _units(name, rows.get(name, {}).get("allocatable"))
        load = max(load, lent * MILLION // capacity if capacity else MILLION)
    return Offer(pool, now if fits else None, load=load)


def _units(name: str, text: str | None) -> int:
    return 0 if text is None else units_of(name, text)


def best(offers: Sequence[Offer], now: int) -> Offer | None:
    """Choose among pools: the earliest start, then the least loaded, then by name. None where there is no offer.

    Pools that cannot tell a start come last. A start that has come is as good as any other.
    """
    return min(offers, key=lambda offer: (_when(offer, now), offer.load, offer.pool), default=None)


def why_best(chosen: Offer, offers: Sequence[Offer], now: int) -> str:
    """Say why a pool was chosen."""
    if chosen.start is None:
        when = "no pool can tell a start"
    elif chosen.start <= now:
        when = "it can start now"
    else:
        when = f"the earliest start, {format_time(chosen.start)}"
    level = [offer for offer in offers if _when(offer, now) == _when(chosen, now)]
    among = f"of {len(offers)} matching pool{'s' if len(offers) != 1 else ''}"
    least = f", the least loaded of {len(level)} ({100 * chosen.load // MILLION} %)" if len(level) > 1 else ""
    return f"Pool {chosen.pool} {among}: {when}{least}."


def _when(offer: Offer, now: int) -> tuple[bool, int]:
    return offer.start is None, max(offer.start or 0, now)


def in_time(request: Request, start: int | None, now: int) -> bool:
    """Tell whether a request would start as soon as it wants to: now, or at its own start time."""
    return start is not None and start <= max(now, request.shape.not_before)


def smaller(outlook: Outlook, shape: Shape, policy: PoolPolicy) -> Smaller | None:
    """Return the nearest smaller request that fits now: fewer slices, or smaller ones, whichever keeps more.

    Slices shrink in all resources alike, to whole steps of the pool and never below its minimum.
    """
    found = [
        offer for offer in (_fewer(outlook, shape), _thinner(outlook, shape, policy)) if offer is not None
    ]
    return max(found, key=lambda offer: offer.share, default=None)


def _fits(outlook: Outlook, shape: Shape) -> bool:
    table, scratch = outlook.scratch.table, outlook.scratch
    allowed = table.selected(shape.node_selector)
    tally = Tally(scratch, shape._replace(slices=max(shape.slices, 1)), allowed)
    until = outlook.now + shape.span
    for i in range(len(table.names)) if allowed is None else allowed:
        room = scratch.free_on(i)
        for point in scratch.guard.get(i, ()):
            if point.at < until:
                room = [min(a, b) for a, b in zip(room, point.room, strict=True)]
        tally.set(i, room)
    return tally.fits()


def _fewer(outlook: Outlook, shape: Shape) -> Smaller | None:
    low, high = 0, shape.slices - 1
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(outlook, shape._replace(slices=middle)):
            low = middle
        else:
            high = middle - 1
    if not low or not _fits(outlook, shape._replace(slices=low)):
        return None
    return Smaller(shape.need, low, MILLION * low // shape.slices)


def _thinner(outlook: Outlook, shape: Shape, policy: PoolPolicy) -> Smaller | None:
    low, high = 0, _STEPS - 1
    while low < high:
        middle = (low + high + 1) // 2
        need = _shrunk(shape.need, middle, policy)
        if need is not None and _fits(outlook, shape._replace(need=need)):
            low = middle
        else:
            high = middle - 1
    need = _shrunk(shape.need, low, policy)
    if need is None or not _fits(outlook, shape._replace(need=need)):
        return None
    kept = min(MILLION * have // want for have, want in zip(need, shape.need, strict=True) if want)
    return Smaller(need, shape.slices, kept)


def _shrunk(need: Vector, part: int, policy: PoolPolicy) -> Vector | None:
    shrunk = []
    for rule, amount in zip(policy.resources, need, strict=True):
        less = amount * part // _STEPS
        if rule.step:
            less -= less % rule.step
        if amount and less < max(rule.minimum or 0, 1):
            return None
        shrunk.append(less)
    return tuple(shrunk)


def answer_step(
    state: PoolState, lease: Lease, request: Request, offer: Offer, elsewhere: Offer | None, now: int
) -> Step:
    """Return the one status write that answers a dry run: a quote, a counter-offer, or both.

    `offer` is what this pool can do by waiting; `elsewhere` what the best other pool can do now, if it is better.
    """
    outlook = Outlook(state.table.scratch(), state.calendar, now)
    quote, victims_start = _quote(state, outlook, request, offer, now)
    draft = Draft(lease, now)
    if lease.reason(C.ACCEPTED) != R.POOL_CHOSEN:
        draft.unsay(C.ACCEPTED)
    if quote:
        draft.status["quote"] = quote
    if not in_time(request, offer.start, now):
        counter = _counter_offer(state, outlook, request, offer, elsewhere, now)
        if counter:
            draft.status["counterOffer"] = counter
    draft.put("release", cause=str(R.DRY_RUN), startTime=format_time(now))
    draft.say(C.ALLOCATED, False, R.DRY_RUN, _in_words(quote, offer, victims_start, now))
    draft.say(C.READY, False, R.DRY_RUN)
    for part in ("rejections", "queue"):
        draft.status.pop(part, None)
    finish(draft, R.NOT_REQUIRED)
    return Step(draft.patch(), notices=(Notice("Answered", _in_words(quote, offer, victims_start, now)),))


def _quote(
    state: PoolState, outlook: Outlook, request: Request, offer: Offer, now: int
) -> tuple[dict[str, Any], int | None]:
    quote: dict[str, Any] = {}
    if offer.start is not None:
        quote = {
            "pool": state.name,
            "startTime": format_time(max(offer.start, now)),
            "nodes": list(offer.nodes),
        }
        if offer.start <= now:
            return quote, None
    if not (state.policy.preempts_within or state.policy.reclaims):
        return quote, None
    preemption = choose_victims(outlook, request, state.shares.copy(), state.policy)
    if preemption is None or (offer.start is not None and offer.start <= preemption.promise.start):
        return quote, None
    victims = [state.leases[uid].key for uid in preemption.victims if uid in state.leases]
    return {
        "pool": state.name,
        "startTime": format_time(preemption.promise.start),
        "nodes": [node for node, _ in preemption.promise.slices],
        "victims": victims,
    }, preemption.promise.start


def _counter_offer(
    state: PoolState, outlook: Outlook, request: Request, offer: Offer, elsewhere: Offer | None, now: int
) -> dict[str, Any]:
    """Another pool if that has all of it now, else what fits now if that is half of it or more, else the first time."""
    less = None if _blocked(state, request, now) else smaller(outlook, request.shape, state.policy)
    found: dict[str, Any] = {}
    if less is not None:
        found["resources"] = {
            name: amount_text(name, amount)
            for name, amount in zip(state.policy.names, less.need, strict=True)
            if amount
        }
        found["count"] = less.slices
    if offer.start is not None:
        found["startTime"] = format_time(offer.start)
    if elsewhere is not None and elsewhere.start is not None and elsewhere.start <= now:
        return {"kind": str(CounterOfferKind.OTHER_POOL), **found, "pool": elsewhere.pool}
    if less is not None and (_WORTH * less.share >= MILLION or offer.start is None):
        return {"kind": str(CounterOfferKind.SMALLER), **found}
    return {"kind": str(CounterOfferKind.LATER), **found} if offer.start is not None else {}


def _blocked(state: PoolState, request: Request, now: int) -> bool:
    """Tell whether a smaller request would not start now either: too early, behind others, or over its limit."""
    strict = state.policy.queue_strategy == QueueStrategy.STRICT_FIFO and len(state.queue) > 0
    return (
        strict
        or request.shape.not_before > now
        or state.shares.over_limit(request.shape.tenant, request.shape.total)
    )


def _in_words(quote: dict[str, Any], offer: Offer, victims_start: int | None, now: int) -> str:
    if not quote:
        return "It would not start: no known end makes enough room. See status.counterOffer."
    if victims_start is not None:
        return f"It would start at {quote['startTime']}, at the cost of {len(quote['victims'])} other leases."
    if offer.start is not None and offer.start <= now:
        return "It would start now. Nothing was committed."
    return f"It would start at {quote['startTime']}, if nobody comes or goes before. Nothing was committed."
