"""What a waiting lease gets to hear: why not yet, its place in the queue, and when its turn comes."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import PlacementMode, RejectionReason
from leasehold.core.admission import Refusal
from leasehold.core.amounts import Vector, times
from leasehold.core.capacity import Scratch, Shortage, shortages
from leasehold.core.lease import Lease
from leasehold.core.nodes import NOT_FRESH
from leasehold.core.placement import could_ever_fit, give_back, place
from leasehold.core.scheduling import Why
from leasehold.core.status import Draft, Patch, amount_text, rejections_document
from leasehold.core.times import SECOND, format_time, parse_time


class Wait(NamedTuple):
    """Why an accepted lease is not granted now."""

    reason: R
    message: str
    shortages: tuple[Shortage, ...] = ()

    @property
    def key(self) -> tuple[str, frozenset[tuple[str, str]]]:
        """What must change before the lease is told anew."""
        return self.reason, frozenset((row.reason, row.resource) for row in self.shortages)


EXPLAINED_REASONS = frozenset(
    {R.WAITING_FOR_CAPACITY, R.WAITING_FOR_FRESH_REPORTS, R.FRAGMENTED, R.NO_MATCHING_NODES, R.ROOM_PROMISED}
)
"""What `explain` comes to."""


class Place(NamedTuple):
    """Where a waiting lease stands: how many are to be served before it, plus one, and its expected start (ms)."""

    position: int
    start: int | None


_NEAR = 30 * SECOND


def wait_for(why: Why, tenant: str) -> Wait:
    """Say what a request waits for, where that is not a matter of nodes."""
    if why == Why.QUOTA:
        return Wait(
            R.WAITING_FOR_QUOTA,
            f"Tenant {tenant} holds all that its limit allows. {R.WAITING_FOR_QUOTA.meaning}",
        )
    return _WAITS[why]


_WAITS = {
    Why.FAIR_SHARE: Wait(R.WAITING_FOR_FAIR_SHARE, R.WAITING_FOR_FAIR_SHARE.meaning),
    Why.BLOCKED: Wait(R.BLOCKED_BY_HEAD, R.BLOCKED_BY_HEAD.meaning),
    Why.VICTIMS: Wait(R.WAITING_FOR_VICTIMS, R.WAITING_FOR_VICTIMS.meaning),
    Why.TIME: Wait(
        R.START_TIME_NOT_REACHED, "No room is known from its start time on yet; it is looked for."
    ),
}


def wait_for_victims(victims: int, start: int) -> Wait:
    """Say that others were asked to go."""
    leases = "One lease was" if victims == 1 else f"{victims} leases were"
    text = f"{leases} asked to go by {format_time(start)}; the room is kept for this one."
    return Wait(R.WAITING_FOR_VICTIMS, text)


def wait_for_start(start: int) -> Wait:
    """Say that a start is promised."""
    return Wait(R.START_TIME_NOT_REACHED, f"Promised from {format_time(start)}.")


def wait_beyond_start(start: int, wait: Wait) -> Wait:
    """Say what keeps a promised start that is late."""
    return wait._replace(message=f"Promised from {format_time(start)}, and late. {wait.message}")


def explain(
    scratch: Scratch, lease: Lease, need: Vector, names: tuple[str, ...], allowed: Set[int] | None
) -> Wait:
    """Say why a request fits nowhere now: what to do, and per reason how many nodes and how much was short."""
    table = scratch.table
    one = times(need, lease.count) if lease.mode == PlacementMode.SAME_NODE else need
    rows = shortages(scratch, one, names, RejectionReason.INSUFFICIENT, allowed)
    outside = 0 if allowed is None else len(table.names) - len(allowed)
    if outside:
        rows.append(Shortage(RejectionReason.SELECTOR_MISMATCH, outside))
    rows.sort(key=lambda row: -row.nodes)
    found = tuple(rows[:16])
    if allowed is not None and not allowed:
        return Wait(R.NO_MATCHING_NODES, "No node of the pool has the labels of spec.placement.", found)
    if not could_ever_fit(table, need, lease.count, lease.mode, allowed, lease.topology_key):
        return Wait(
            R.NO_MATCHING_NODES, "More than the pool's nodes have even when empty. Ask for less.", found
        )
    if _has_room(scratch, lease, need, allowed):
        return Wait(R.ROOM_PROMISED, R.ROOM_PROMISED.meaning, found)
    reasons = {row.reason for row in rows}
    if RejectionReason.INSUFFICIENT not in reasons and not reasons.isdisjoint(NOT_FRESH):
        return Wait(R.WAITING_FOR_FRESH_REPORTS, R.WAITING_FOR_FRESH_REPORTS.meaning, found)
    if _enough_in_all(scratch, need, lease.count, allowed):
        return Wait(R.FRAGMENTED, R.FRAGMENTED.meaning, found)
    return Wait(R.WAITING_FOR_CAPACITY, _in_words(rows, len(table.names), lease.count), found)


def refuse(lease: Lease, refusal: Refusal, now: int) -> Patch:
    """Return what a lease that the policy does not allow gets to read; {} when it already does."""
    told = lease.conditions.get(C.ACCEPTED, {})
    same = (told.get("reason"), told.get("message")) == (refusal.reason, refusal.message[:512])
    if same and C.ALLOCATED not in lease.conditions and _up_to_date(lease):
        return {}
    draft = Draft(lease, now)
    draft.say(C.ACCEPTED, False, refusal.reason, refusal.message[:512])
    draft.say(C.READY, False, refusal.reason)
    draft.unsay(C.ALLOCATED)
    for part in ("rejections", "queue"):
        draft.status.pop(part, None)
    return draft.patch()


def keep_waiting(
    lease: Lease, wait: Wait, now: int, where: Place | None = None, *, promised: bool = False
) -> Patch:
    """Return what a waiting lease gets to read; {} when it already reads the same reasons, place and time.

    A reservation that stands in its status and is `promised` no more is taken out.
    Amounts that move are not rewritten while the reasons stay, nor a place or time that moves little: writes must not
    grow with the queue.
    """
    keys = {(row.reason, row.resource) for row in wait.shortages}
    told = {(row["reason"], row.get("resource", "")) for row in lease.status.get("rejections", ())}
    refused = lease.conditions.get(C.ACCEPTED, {}).get("status") == "False"
    same = lease.reason(C.ALLOCATED) == wait.reason and keys == told and not refused and _up_to_date(lease)
    void = lease.reservation is not None and not promised
    if same and not void and not moved(lease, where, now):
        return {}
    draft = Draft(lease, now)
    if void:
        draft.status.pop("reservation", None)
        draft.set_time("deadlines", startTime=None)
    if refused and lease.pool_selector is None:
        draft.unsay(C.ACCEPTED)  # what was never refused does not read it either
    elif refused:
        draft.say(
            C.ACCEPTED, True, R.POOL_CHOSEN, f"Pool {lease.pool} was chosen, and accepts the request now."
        )
    draft.say(C.ALLOCATED, False, wait.reason, wait.message[:512])
    draft.say(C.READY, False, wait.reason)
    rows = rejections_document(wait.shortages)
    draft.status.pop("rejections", None)
    if rows:
        draft.status["rejections"] = rows
    if where is not None:
        draft.put("queue", approximatePosition=where.position)
        draft.set_time("queue", estimatedStartTime=where.start)
    return draft.patch()


def moved(lease: Lease, where: Place | None, now: int) -> bool:
    """Tell whether a lease's place or expected start is materially other than what it reads.

    A time has moved when it is off by more than half a minute and a fifth of the wait that is left; a place, when it
    is half or twice what it was. So one lease is rewritten a number of times that grows with the logarithm of its
    wait, however long the queue.
    """
    if where is None:
        return False
    told = lease.status.get("queue", {})
    position, at = told.get("approximatePosition"), told.get("estimatedStartTime")
    if position is None or (at is None) != (where.start is None):
        return True
    if where.start is not None and abs(parse_time(at) - where.start) > max(_NEAR, (where.start - now) // 5):
        return True
    return bool(2 * where.position <= position or where.position >= 2 * position)


def _up_to_date(lease: Lease) -> bool:
    return bool(lease.status.get("observedGeneration") == lease.generation)


def _has_room(scratch: Scratch, lease: Lease, need: Vector, allowed: Set[int] | None) -> bool:
    """Tell whether the request would fit now if nothing were promised to others."""
    if not scratch.guard:
        return False
    found = place(scratch, need, lease.count, lease.mode, allowed, lease.topology_key)
    if found is None:
        return False
    give_back(scratch, need, found, 0)
    return True


def _enough_in_all(scratch: Scratch, need: Vector, count: int, allowed: Set[int] | None) -> bool:
    columns = scratch.free if allowed is None else [[column[i] for i in allowed] for column in scratch.free]
    return all(
        sum(free for free in column if free > 0) >= amount * count
        for column, amount in zip(columns, need, strict=True)
        if amount
    )


def _in_words(rows: list[Shortage], nodes: int, count: int) -> str:
    if not rows:
        return f"One slice would fit, but not all {count} at once."
    said = [
        f"{row.nodes} lack {row.resource} (by {amount_text(row.resource, row.short_by)} or more)"
        if row.resource
        else f"{row.nodes} {row.reason}"
        for row in rows
    ]
    return f"Of {nodes} nodes: {', '.join(said)}."
