"""A pool's spec in the units decisions use: milliseconds, integers, vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leasehold.api.names import (
    AccountingPolicy,
    Borrowers,
    CapacityLossAction,
    EnforcementMode,
    ExpirationAction,
    Fairness,
    IdlePolicy,
    NodeTaintPolicy,
    PromiseConflictAction,
    StalePolicy,
    Verification,
    WithinTenant,
)
from leasehold.api.quantity import amount
from leasehold.core.amounts import Vector
from leasehold.core.selectors import Selector, selector_of
from leasehold.core.times import SECOND

if TYPE_CHECKING:
    from leasehold.api.pool import PoolSpec, Tenant


@dataclass(frozen=True, slots=True)
class ResourceRule:
    """How much of one resource a node of the pool may lend. Amounts are per node, or per slice for the bounds."""

    name: str
    source: str
    fixed: int
    reserved: int
    reserved_percent: int
    allocation_percent: int
    minimum: int | None
    maximum: int | None
    step: int | None
    high_percent: int | None
    low_percent: int | None

    def lendable(self, total: int) -> int:
        """Apply the reservation and the overcommit to a node's total; never below zero.

        Placement's inventory formula, capacity = (total - reserved) * allocation_ratio, in integers and rounded
        down (OpenStack Placement, "Inventory").
        """
        return (total - self.kept(total)) * self.allocation_percent // 100

    def kept(self, total: int) -> int:
        """Return how much of a node's total is not lent; at most all of it."""
        return min(total, self.reserved + total * self.reserved_percent // 100)


@dataclass(frozen=True, slots=True)
class TenantRule:
    """One tenant's part of a pool. Vectors lie in the pool's resource order; None in `limit` is no limit.

    `unknown` are the resources the tenant's guarantee or limit names and the pool does not lend; they have no place
    in the vectors.
    """

    name: str
    selector: Selector
    guaranteed: Vector
    limit: tuple[int | None, ...]
    weight: int
    max_leases: int | None
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """Everything a pool's author decided. Durations are milliseconds; None means the rule is off."""

    selector: Selector
    resources: tuple[ResourceRule, ...]
    default_duration: int
    max_duration: int
    max_total: int | None
    claim_timeout: int | None
    heartbeat_timeout: int
    grace: int
    cooldown: int
    warn_before: tuple[int, ...]
    idle_policy: str
    idle_below_percent: int
    idle_period: int
    ends_leases: bool
    verifies_release: bool
    verification_timeout: int
    node_loss: int
    revokes_on_loss: bool
    accounts_use: bool
    guaranteed_time: int
    max_defer: int
    cuts_renewals: bool
    queue_strategy: str
    max_pending: int
    fairness: str
    usage_half_life: int
    tenants: tuple[TenantRule, ...]
    preempts_within: bool
    reclaims: bool
    strategy: str
    max_usage_percent: int | None
    max_report_age: int
    holds_on_stale: bool
    stop: str
    enforces: bool
    eviction_timeout: int
    stray_pods: str
    taints_nodes: bool
    holds_room: bool
    placeholder_priority: str

    @property
    def names(self) -> tuple[str, ...]:
        """The pool's resources in order: the meaning of each place in a vector."""
        return tuple(rule.name for rule in self.resources)

    def vector(self, amounts: Mapping[str, int]) -> Vector:
        """Lay amounts by name into the pool's order; what is not named is zero."""
        return tuple(amounts.get(rule.name, 0) for rule in self.resources)

    def duration_of(self, asked: int | None) -> int:
        """Return the term of a lease that asked for this many milliseconds (None: the pool's default)."""
        return self.default_duration if asked is None else asked

    def term_of(self, asked: int | None) -> int:
        """Return the term a lease gets, at its grant and at each renewal: never longer than the pool's longest."""
        return min(self.duration_of(asked), self.max_duration)

    @property
    def wind_down(self) -> int:
        """For how many milliseconds a lease takes room after its term: grace and cool-down."""
        return self.grace + self.cooldown

    def span_of(self, asked: int | None) -> int:
        """Return for how many milliseconds a grant takes room at most, if it is not renewed: term, grace, cool-down."""
        return self.term_of(asked) + self.wind_down

    def is_worth(self, left: int, span: int) -> bool:
        """Tell whether room for so long (ms) leaves half of a term or more, of what takes room for a span."""
        return 2 * (left - self.wind_down) >= span - self.wind_down

    def attributes_usage(self) -> bool:
        """Tell whether reporters must say what each lease uses, or whether it is gone from the node."""
        return (
            self.verifies_release
            or self.enforces
            or self.accounts_use
            or self.idle_policy != IdlePolicy.OFF
            or self.fairness == Fairness.DOMINANT_SHARE_AND_WASTE
        )


def policy_of(spec: PoolSpec) -> PoolPolicy:
    """Translate a validated pool spec."""
    lease, idle = spec.lease_policy, spec.lease_policy.idle
    names = tuple(resource.name for resource in spec.resources)
    return PoolPolicy(
        selector=selector_of(spec.node_selector.to_wire()),
        resources=tuple(_rule_of(resource) for resource in spec.resources),
        default_duration=lease.default_duration_seconds * SECOND,
        max_duration=lease.max_duration_seconds * SECOND,
        max_total=_millis(lease.max_total_seconds),
        claim_timeout=_millis(lease.claim_timeout_seconds or None),
        heartbeat_timeout=lease.heartbeat_timeout_seconds * SECOND,
        grace=lease.grace_period_seconds * SECOND,
        cooldown=lease.cooldown_seconds * SECOND,
        warn_before=tuple(sorted((s * SECOND for s in lease.warn_before_seconds), reverse=True)),
        idle_policy=str(idle.policy),
        idle_below_percent=idle.below_percent,
        idle_period=idle.period_seconds * SECOND,
        ends_leases=lease.expiration_action == ExpirationAction.RELEASE,
        verifies_release=lease.verification == Verification.NODE_REPORT,
        verification_timeout=lease.verification_timeout_seconds * SECOND,
        node_loss=lease.node_loss_seconds * SECOND,
        revokes_on_loss=lease.capacity_loss_action == CapacityLossAction.REVOKE,
        accounts_use=lease.accounting == AccountingPolicy.USED,
        guaranteed_time=lease.guaranteed_seconds * SECOND,
        max_defer=lease.max_defer_seconds * SECOND,
        cuts_renewals=lease.promise_conflict_action == PromiseConflictAction.CUT,
        queue_strategy=str(spec.queueing.strategy),
        max_pending=spec.queueing.max_pending,
        fairness=str(spec.queueing.fairness),
        usage_half_life=spec.queueing.usage_half_life_seconds * SECOND,
        tenants=tuple(_tenant_of(tenant, names) for tenant in spec.tenants or ()),
        preempts_within=spec.preemption.within_tenant == WithinTenant.LOWER_PRIORITY,
        reclaims=spec.preemption.borrowers == Borrowers.RECLAIM,
        strategy=str(spec.placement.strategy),
        max_usage_percent=spec.placement.max_usage_percent,
        max_report_age=spec.freshness.max_age_seconds * SECOND,
        holds_on_stale=spec.freshness.on_stale == StalePolicy.HOLD,
        stop=str(spec.stop_policy),
        enforces=spec.enforcement.mode != EnforcementMode.ADVISORY,
        eviction_timeout=spec.enforcement.eviction_timeout_seconds * SECOND,
        stray_pods=str(spec.enforcement.stray_pod_action),
        taints_nodes=spec.enforcement.node_taint == NodeTaintPolicy.DEDICATED,
        holds_room=spec.enforcement.mode == EnforcementMode.PLACEHOLDER,
        placeholder_priority=spec.enforcement.placeholder_priority_class_name or "",
    )


def _rule_of(resource: Any) -> ResourceRule:
    def units(text: str | int | None, *, round_up: bool = True) -> int | None:
        return None if text is None else amount(resource.name, text, round_up=round_up)

    return ResourceRule(
        name=resource.name,
        source=str(resource.source),
        fixed=units(resource.fixed_quantity, round_up=False) or 0,
        reserved=units(resource.reserved) or 0,
        reserved_percent=resource.reserved_percent or 0,
        allocation_percent=resource.allocation_percent,
        minimum=units(resource.min),
        maximum=units(resource.max, round_up=False),
        step=units(resource.step),
        high_percent=resource.high_percent,
        low_percent=resource.low_percent,
    )


def _tenant_of(tenant: Tenant, names: tuple[str, ...]) -> TenantRule:
    # Both rounded down: a guarantee is capacity promised, and a limit above it stays above it.
    def units(amounts: Mapping[str, str | int] | None) -> dict[str, int]:
        return {name: amount(name, text, round_up=False) for name, text in (amounts or {}).items()}

    guaranteed, limit = units(tenant.guaranteed), units(tenant.limit)
    return TenantRule(
        name=tenant.name,
        selector=selector_of(tenant.namespace_selector.to_wire()),
        guaranteed=tuple(guaranteed.get(name, 0) for name in names),
        limit=tuple(limit.get(name) for name in names),
        weight=tenant.weight,
        max_leases=tenant.max_leases,
        unknown=tuple(sorted((guaranteed.keys() | limit.keys()) - set(names))),
    )


def _millis(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * SECOND
