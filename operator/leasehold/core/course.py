"""What a lease's fate depends on, and what comes out of a look at it: the words that the lifecycle is told in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from leasehold.api.names import LeaseReason as R
from leasehold.core.calendar import RenewalLimits
from leasehold.core.families import Families
from leasehold.core.gating import NO_PODS, Workload
from leasehold.core.lease import Key, Lease
from leasehold.core.nodes import Node, Report
from leasehold.core.outages import Outage
from leasehold.core.policy import PoolPolicy
from leasehold.core.status import Draft, Patch
from leasehold.core.times import earliest


class Session(NamedTuple):
    """A holder's coordination Lease. `renewed_at` is when the operator saw it change, by the operator's clock."""

    namespace: str
    name: str
    version: int
    renewed_at: int
    duration: int | None


def _no_bill(lease: Lease, now: int) -> Mapping[str, Any]:
    return {}


def _no_pods(lease: Lease) -> Workload:
    return NO_PODS


def _no_name(key: Key) -> Lease | None:
    return None


def _no_use(lease: Lease) -> Mapping[str, Mapping[str, int]]:
    return {}


@dataclass(frozen=True)
class World:
    """What a lease's fate depends on besides itself and its pool's policy.

    `ends` names leases that must go, with the reason (`PoolDraining`, `CapacityLost`). `idle_since` says since when
    a lease has been hardly used. `over_nodes` hold more than they now have. `preemptors` names, by uid, for whom a
    lease must go. `limits` tells how far a lease may be renewed where starts are promised, and `bill` what one that
    ends held and used. `pods` says what a lease's pods mean for it, where its pool holds pods to leases, and `pod_use`
    what they request of it by node, None while some are on their way. `families` are the pool's sub-leases, and `named`
    finds a lease of any pool by its namespace and name. While not
    `in_touch` with the API server nobody is taken for dead, and `outages` are those by which claims and heartbeats
    move.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    reports: Mapping[str, Report] = field(default_factory=dict)
    sessions: Mapping[tuple[str, str], Session] = field(default_factory=dict)
    gone_namespaces: Set[str] = frozenset()
    idle_since: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[str, R] = field(default_factory=dict)
    over_nodes: Set[str] = frozenset()
    preemptors: Mapping[str, str] = field(default_factory=dict)
    limits: RenewalLimits | None = None
    bill: Callable[[Lease, int], Mapping[str, Any]] = _no_bill
    pods: Callable[[Lease], Workload] = _no_pods
    pod_use: Callable[[Lease], Mapping[str, Mapping[str, int]] | None] = _no_use
    families: Families = field(default_factory=Families)
    named: Callable[[Key], Lease | None] = _no_name
    in_touch: bool = True
    outages: Sequence[Outage] = ()

    def parent_of(self, lease: Lease) -> Lease | None:
        """Return the lease that one is a part of; None for none, for one that is gone, and for another of its name."""
        if not lease.parent:
            return None
        found = self.named(lease.parent_key)
        return None if found is None or lease.parent_uid not in ("", found.uid) else found


class Notice(NamedTuple):
    """Something worth a Kubernetes Event."""

    reason: str
    message: str
    warning: bool = False


class Step(NamedTuple):
    """What to do about one lease now, and when to look again (ms, or None for "when it changes").

    `patch` is for the status subresource; `action` is "", "drop-finalizer" or "delete". `due` is the deadline (ms)
    whose coming ends the lease, where one does.
    """

    patch: Patch
    wake_at: int | None = None
    action: str = ""
    notices: tuple[Notice, ...] = ()
    due: int | None = None


class Concern(NamedTuple):
    """Something that will end the lease at an instant unless its holder does something."""

    at: int
    reason: R
    message: str


@dataclass
class Course:
    """One lease's way through the rules.

    A rule changes the draft, asks to be woken, leaves concerns and notices, and notes as `losses` when the grace of
    a deadline that has passed will be over. One that ends the lease because its time came notes since when as `due`.
    """

    lease: Lease
    policy: PoolPolicy
    world: World
    now: int
    draft: Draft
    wakes: list[int] = field(default_factory=list)
    concerns: list[Concern] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    losses: list[int] = field(default_factory=list)
    heartbeat_missed: bool = False
    due: int | None = None

    @property
    def parent(self) -> Lease | None:
        """The lease that this one is a part of, if it is one and that is there."""
        return self.world.parent_of(self.lease)

    @property
    def has_children(self) -> bool:
        """Sub-leases hold some of this lease."""
        return bool(self.world.families.holders(self.lease.uid))

    def wake(self, *instants: int | None) -> None:
        """Ask to be looked at again; instants that have passed are no reason."""
        self.wakes.extend(at for at in instants if at is not None and at > self.now)

    def step(self) -> Step:
        """Return what the rules came to."""
        return Step(self.draft.patch(), earliest(*self.wakes), notices=tuple(self.notices), due=self.due)
