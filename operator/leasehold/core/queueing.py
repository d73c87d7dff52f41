"""Whether a lease may wait in the pool's queue at all, and what a waiting lease gets to hear.

Acceptance reads as a list of facts; the first that applies refuses. A refused lease stays pending: the pool's
policy or the request may still change.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import PlacementMode, RejectionReason
from leasehold.api.quantity import format_amount
from leasehold.core.amounts import Vector, times
from leasehold.core.capacity import Scratch, Shortage, shortages
from leasehold.core.lease import Lease
from leasehold.core.nodes import NOT_FRESH
from leasehold.core.placement import could_ever_fit
from leasehold.core.policy import PoolPolicy
from leasehold.core.status import Draft, Patch, amount_text, rejections_document
from leasehold.core.times import SECOND


class Refusal(NamedTuple):
    """Why the pool's policy does not allow a request, and what to do about it."""

    reason: R
    message: str


class Wait(NamedTuple):
    """Why an accepted lease is not granted now."""

    reason: R
    message: str
    shortages: tuple[Shortage, ...] = ()


def _unreadable(lease: Lease, policy: PoolPolicy) -> Refusal | None:
    return Refusal(R.UNIT_VIOLATION, lease.problem) if lease.problem else None


def _not_offered(lease: Lease, policy: PoolPolicy) -> Refusal | None:
    unknown = sorted(lease.request.keys() - set(policy.names))
    if not unknown:
        return None
    return Refusal(
        R.RESOURCE_NOT_OFFERED, f"The pool lends {', '.join(policy.names)}; not {', '.join(unknown)}."
    )


def _too_large(lease: Lease, policy: PoolPolicy) -> Refusal | None:
    for rule in policy.resources:
        asked = lease.request.get(rule.name)
        if asked is not None and rule.maximum is not None and asked > rule.maximum:
            most = format_amount(rule.name, rule.maximum)
            return Refusal(R.EXCEEDS_POOL_MAXIMUM, f"At most {most} {rule.name} in one slice of this pool.")
    return None


def _off_step(lease: Lease, policy: PoolPolicy) -> Refusal | None:
    for rule in policy.resources:
        asked = lease.request.get(rule.name)
        if asked is None:
            continue
        if rule.minimum is not None and asked < rule.minimum:
            least = format_amount(rule.name, rule.minimum)
            return Refusal(R.UNIT_VIOLATION, f"At least {least} {rule.name} in one slice of this pool.")
        if rule.step and asked % rule.step:
            step = format_amount(rule.name, rule.step)
            return Refusal(R.UNIT_VIOLATION, f"{rule.name} comes in multiples of {step} in this pool.")
    return None


def _too_long(lease: Lease, policy: PoolPolicy) -> Refusal | None:
    if policy.duration_of(lease.duration) <= policy.max_duration:
        return None
    most = policy.max_duration // SECOND
    return Refusal(
        R.DURATION_TOO_LONG, f"The pool grants at most {most} s at a time. Ask for less, and renew."
    )


REFUSALS: tuple[Callable[[Lease, PoolPolicy], Refusal | None], ...] = (
    _unreadable,
    _not_offered,
    _too_large,
    _off_step,
    _too_long,
)


def refusal_of(lease: Lease, policy: PoolPolicy, position: int) -> Refusal | None:
    """Return the first reason why the pool does not accept a request, or None.

    `position` is how many accepted leases wait ahead of it; those refused take up no place in the queue.
    """
    for rule in REFUSALS:
        refusal = rule(lease, policy)
        if refusal is not None:
            return refusal
    if position >= policy.max_pending:
        return Refusal(R.QUEUE_FULL, f"{policy.max_pending} leases wait already (maxPending of the pool).")
    return None


_EXPLAINED = frozenset(
    {R.WAITING_FOR_CAPACITY, R.WAITING_FOR_FRESH_REPORTS, R.FRAGMENTED, R.NO_MATCHING_NODES}
)


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
    draft.status.pop("rejections", None)
    return draft.patch()


def keep_waiting(lease: Lease, wait: Wait, now: int) -> Patch:
    """Return what a waiting lease gets to read; {} when it already reads the same reasons.

    Amounts that move are not rewritten while the reasons stay: writes must not grow with the queue.
    """
    keys = {(row.reason, row.resource) for row in wait.shortages}
    told = {(row["reason"], row.get("resource", "")) for row in lease.status.get("rejections", ())}
    refused = lease.conditions.get(C.ACCEPTED, {}).get("status") == "False"
    if lease.reason(C.ALLOCATED) == wait.reason and keys == told and not refused and _up_to_date(lease):
        return {}
    draft = Draft(lease, now)
    if refused:
        draft.say(C.ACCEPTED, True, R.POLICY_MET)
    draft.say(C.ALLOCATED, False, wait.reason, wait.message[:512])
    draft.say(C.READY, False, wait.reason)
    rows = rejections_document(wait.shortages)
    draft.status.pop("rejections", None)
    if rows:
        draft.status["rejections"] = rows
    return draft.patch()


def told_why(lease: Lease) -> bool:
    """Tell whether a waiting lease already reads why it fits nowhere; it may be out of date."""
    refused = lease.conditions.get(C.ACCEPTED, {}).get("status") == "False"
    return lease.reason(C.ALLOCATED) in _EXPLAINED and not refused and _up_to_date(lease)


def _up_to_date(lease: Lease) -> bool:
    return bool(lease.status.get("observedGeneration") == lease.generation)


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
