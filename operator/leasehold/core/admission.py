"""Whether a lease may wait in the pool's queue at all, and for whom it waits.

Acceptance reads as a list of facts; the first that applies refuses. A refused lease stays pending: the pool's
policy or the request may still change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from leasehold.api.names import LeaseReason as R
from leasehold.api.quantity import format_amount
from leasehold.core.fairness import beyond
from leasehold.core.lease import Lease
from leasehold.core.policy import PoolPolicy
from leasehold.core.request import NEVER, Request, Shape
from leasehold.core.tenancy import NOT_YET, Unplaced, tenant_of
from leasehold.core.times import SECOND


class Refusal(NamedTuple):
    """Why the pool's policy does not allow a request, and what to do about it."""

    reason: R
    message: str


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


def refusal_of(lease: Lease, policy: PoolPolicy) -> Refusal | None:
    """Return the first reason why the pool does not accept a request, whoever asks, or None."""
    return next((found for rule in REFUSALS if (found := rule(lease, policy)) is not None), None)


def queue_full(policy: PoolPolicy) -> Refusal:
    """Return what a lease hears for which none of the pool's `maxPending` places is left."""
    text = f"{policy.max_pending} leases wait already (maxPending of the pool); of each namespace its share, in order."
    return Refusal(R.QUEUE_FULL, text)


def _window(lease: Lease) -> tuple[int, int]:
    """Return from when and until when a lease may be promised a start; one that wants to start now is promised none."""
    if lease.start_time is None or lease.start_time <= lease.created:
        return 0, NEVER
    return (
        lease.start_time,
        NEVER if lease.start_deadline is None else lease.start_time + lease.start_deadline,
    )


def shape_of(lease: Lease, policy: PoolPolicy, tenant: str = "") -> Shape:
    """Return what a lease asks for, as the planner sees it, whenever that may start."""
    return Shape(
        tenant,
        policy.vector(lease.request),
        lease.count,
        lease.mode,
        lease.topology_key,
        lease.node_selector,
        policy.span_of(lease.duration),
    )


def admit(
    lease: Lease, policy: PoolPolicy, labels: Mapping[str, str] | None, turn: tuple[int, ...]
) -> Request | Refusal | None:
    """Return a waiting lease as the planner sees it, or why it may not wait; None while nobody can tell.

    `labels` are its namespace's, None where that was not heard of yet. A start time that had passed when the lease
    was created asks for nothing: the lease starts as soon as it can.
    """
    refusal = refusal_of(lease, policy)
    if refusal is not None:
        return refusal
    tenant = tenant_of(lease.namespace, lease.tenant, labels, policy.tenants)
    if tenant is NOT_YET:
        return None
    if isinstance(tenant, Unplaced):
        return Refusal(tenant.reason or R.NAMESPACE_NOT_ALLOWED, tenant.message)
    shape = shape_of(lease, policy, tenant)
    rule = next((rule for rule in policy.tenants if rule.name == tenant), None)
    if rule is not None and beyond(shape.total, rule.limit):
        return Refusal(R.EXCEEDS_TENANT_LIMIT, f"More than tenant {tenant} may hold in all. Ask for less.")
    not_before, no_later = _window(lease)
    shape = shape._replace(not_before=not_before, no_later=no_later)
    return Request(lease.uid, turn, shape, lease.priority, lease.namespace)
