"""docs/reference/conditions.md: every condition and reason that Leasehold sets, what it means, and what to do.

Conditions, reasons and meanings are those of `leasehold.api.names`; what to do stands here, by object and reason. A
reason that tells of trouble and has nothing here is an error (`missing`), and so is one that no object has (`unknown`).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from leasehold.api import names
from leasehold.api.names import (
    ConditionStatus,
    LeaseCondition,
    Named,
    PodReason,
    PoolCondition,
    RejectionReason,
    ReportCondition,
)

POD: Final = "Pod"
REJECTION: Final = "Rejection"

TABLES: Final[Mapping[str, Mapping[Any, Mapping[ConditionStatus, tuple[Any, ...]]]]] = {
    names.POOL_KIND: names.POOL_REASONS,
    names.LEASE_KIND: names.LEASE_REASONS,
    names.REPORT_KIND: names.REPORT_REASONS,
}

WELL: Final[Mapping[str, frozenset[str]]] = {
    POD: frozenset({PodReason.ADMITTED, PodReason.NOT_ENFORCED}),
    REJECTION: frozenset(),
}
"""Reasons without a condition of ours that are no trouble."""

_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE

TROUBLE: Final[Mapping[tuple[str, Any], ConditionStatus]] = {
    (names.LEASE_KIND, LeaseCondition.ACCEPTED): _FALSE,
    (names.LEASE_KIND, LeaseCondition.ALLOCATED): _FALSE,
    (names.LEASE_KIND, LeaseCondition.CLAIMED): _FALSE,
    (names.LEASE_KIND, LeaseCondition.HOLDER_LIVE): _FALSE,
    (names.LEASE_KIND, LeaseCondition.EXPIRING_SOON): _TRUE,
    (names.LEASE_KIND, LeaseCondition.DISRUPTION_TARGET): _TRUE,
    (names.LEASE_KIND, LeaseCondition.DEGRADED): _TRUE,
    (names.LEASE_KIND, LeaseCondition.RELEASED): _FALSE,
    (names.LEASE_KIND, LeaseCondition.FINISHED): _TRUE,
    (names.POOL_KIND, PoolCondition.READY): _FALSE,
    (names.POOL_KIND, PoolCondition.CAPACITY_KNOWN): _FALSE,
    (names.POOL_KIND, PoolCondition.OVERCOMMITTED): _TRUE,
    (names.POOL_KIND, PoolCondition.LEDGER_CONSISTENT): _FALSE,
    (names.POOL_KIND, PoolCondition.DRAINING): _TRUE,
    (names.POOL_KIND, PoolCondition.DEGRADED): _TRUE,
    (names.POOL_KIND, PoolCondition.TENANTS_VALID): _FALSE,
    (names.REPORT_KIND, ReportCondition.READY): _FALSE,
    (names.REPORT_KIND, ReportCondition.CLOCK_SYNCED): _FALSE,
    (names.REPORT_KIND, ReportCondition.DISK_PRESSURE): _TRUE,
    (names.REPORT_KIND, ReportCondition.AGENT_DEGRADED): _TRUE,
}
"""The status of each condition that somebody may have to do something about, or to wait for."""

REMEDIES: Final[Mapping[str, Mapping[str, str]]] = {
    names.POOL_KIND: {
        "NoNodes": "Correct `spec.nodeSelector`, or label nodes: `kubectl get nodes --show-labels`.",
        "NoGrantableNodes": "See in `status.nodes` which it is: not ready, cordoned, stale, pressured, conflicting.",
        "PoolHeld": "Set `spec.stopPolicy: None` when it may lend again.",
        "PoolDraining": "Wait until its leases have gone; `spec.stopPolicy: None` takes it back, unless it is deleted.",
        "LedgerInconsistent": "See the runbook LeaseholdLedgerInconsistent. Held leases are not concerned.",
        "InvalidSpec": "Correct the field that the message names.",
        "Recovering": "Wait: seconds, or minutes with tens of thousands of leases.",
        "EnforcementOff": "Set `enforcement.enabled=true` of the chart, or mode `Advisory` of the pool.",
        "ReportMissing": "Look for the reporter on those nodes: `kubectl get nreport`, and the DaemonSet's pods.",
        "ReportStale": "The same; see the runbook LeaseholdReportsStale.",
        "ReportFromFuture": "Set right the clock of those nodes (NTP).",
        "CapacityLost": "Add nodes, or wait for leases to end; `capacityLossAction: Revoke` takes some back.",
        "Mismatch": "Keep the log and `kubectl get cpool,clease -A -o yaml`, report it, and restart the operator.",
        "StopPolicy": "Nothing: somebody asked for it. `spec.stopPolicy: None` ends it.",
        "PoolDeleted": "Wait: the object goes when its last lease has given back.",
        "NodesNotReady": "See the nodes: `kubectl get nodes`. The others lend on.",
        "NodesConflicting": "Let one pool's `spec.nodeSelector` let go of them.",
        "NodesPressured": "Wait until use falls to `lowPercent`, or see what uses those nodes.",
        "TenantsOverlap": "Correct the selectors or the namespaces' labels; leases can name `spec.tenant` meanwhile.",
        "GuaranteesExceedCapacity": "Guarantee less, or add nodes.",
    },
    names.LEASE_KIND: {
        "PoolNotFound": "Ask anew with the right `spec.poolRef.name`, or have the pool made: the lease will notice.",
        "NoMatchingPool": "Correct the labels of `spec.poolSelector`, or ask for less; the message has the reasons.",
        "NamespaceNotAllowed": "Have the namespace labelled for a tenant of the pool, or use another pool.",
        "TenantAmbiguous": "Name one of the tenants in `spec.tenant`.",
        "ExceedsTenantLimit": "Ask for less, or have the tenant's `limit` raised.",
        "DurationTooLong": "Ask for no more than the pool's `maxDurationSeconds`, and renew.",
        "ExceedsPoolMaximum": "Ask for smaller slices, and more of them (`spec.count`).",
        "UnitViolation": "Ask for a multiple of the resource's `step`, at least its `min`.",
        "ResourceNotOffered": "Leave that resource out, or use a pool that lends it.",
        "ParentNotFound": "Ask anew with the right name in `spec.parentRef`, or make the parent.",
        "ParentInOtherPool": "Ask anew without `spec.poolRef`: a sub-lease is in its parent's pool.",
        "ParentIsChild": "Ask anew and name the parent's parent: sub-leases have no sub-leases.",
        "ExceedsParent": "Ask for less than the parent holds.",
        "ParentNotReady": "Wait for the parent, or see its conditions.",
        "ParentFull": "Wait for other sub-leases or pods of the parent, or give them back.",
        "ParentEnded": "Ask anew, of a parent that is held.",
        "HeldByChildren": "Give back sub-leases, until the rest fits into what it was to shrink to.",
        "ChildrenLeaving": "Wait: its sub-leases have their grace.",
        "QueueFull": "Make fewer leases at once, or try again later; places are shared among tenants and namespaces.",
        "PendingEvaluation": "Wait a second. If it stays, no operator leads: see LeaseholdLeaderMissing.",
        "WaitingForCapacity": "Wait; `status.queue` says how long, `status.rejections` what is short. Or ask for less.",
        "WaitingForFreshReports": "Administrator: see why nodes do not report (LeaseholdReportsStale).",
        "BlockedByHead": "Wait; with `Backfill` a shorter term may pass.",
        "WaitingForQuota": "Give back other leases of the tenant, or have its `limit` or `maxLeases` raised.",
        "WaitingForVictims": "Wait: no longer than their grace and what they were given beyond it.",
        "WaitingForFairShare": "Wait; for long: see who waits within a guarantee, at the endpoint `/pools/NAME/queue`.",
        "StartTimeNotReached": "Nothing: it starts at `status.reservation.startTime`.",
        "RoomPromised": "Ask for a shorter term, or wait.",
        "DryRun": "Nothing: read `status.quote` and `status.counterOffer`.",
        "NoMatchingNodes": "Correct `spec.placement`: no node, even an empty one, would do.",
        "Fragmented": "Ask for smaller slices or another `placement.mode`, or wait; the pool's `largestFree` fits.",
        "PoolHeld": "Ask who runs the pool.",
        "PoolNotReady": "See the pool's conditions: `kubectl describe cpool NAME`.",
        "LedgerInconsistent": "Administrator: see the runbook LeaseholdLedgerInconsistent.",
        "WaitingForHolder": "Renew (`spec.renewTime`, or the session) before `status.deadlines.claimTime`.",
        "WaitingForPods": "Start a pod with the label before `status.deadlines.claimTime`.",
        "ClaimTimeout": "Ask again, and claim in time; or have `claimTimeoutSeconds` raised.",
        "Missed": "Renew at once: the lease is lost one grace period after `status.deadlines.heartbeatTime`.",
        "SessionGone": "Make the session again, with its label, and renew it, within the same time.",
        "Expiration": "Renew, or finish before `status.deadlines.expirationTime`.",
        "Maximum": "Finish, or ask for another lease: this one cannot be renewed further.",
        "Idle": "Use it, or give it back.",
        "PromisedStart": "Finish before the time in the message, or ask for another lease.",
        "Claim": "Show up: renew, or start a pod.",
        "Heartbeat": "Renew now.",
        "TermEnded": "Ask again, and renew in time.",
        "MaximumReached": "Ask for another lease.",
        "HeartbeatLost": "See why the holder stopped; ask again.",
        "PoolDraining": "Finish before `status.deadlines.revocationTime`; use another pool.",
        "NodeLost": "Ask again: the new lease lies on other nodes.",
        "CapacityLost": "Finish before `status.deadlines.revocationTime`; ask again.",
        "Preempted": "Finish, or ask for more time by `spec.deferSeconds`; ask again.",
        "TenantReclaim": "The same: what was borrowed is wanted back.",
        "StartDeadlineExceeded": "Ask again with more time (`startDeadlineSeconds`), or for less.",
        "AdminRevoked": "Read the message; finish before `status.deadlines.revocationTime`.",
        "ReleaseRequested": "Nothing: its holder wanted it so.",
        "PodsComplete": "Nothing: its work is done.",
        "NamespaceGone": "Nothing.",
        "NodeNotReady": "Expect to lose it after the pool's `nodeLossSeconds`, unless the node comes back.",
        "ReportStale": "Administrator: is the reporter running there? The lease stays.",
        "OverAllocated": "Administrator: the node lost capacity. The lease stays unless the pool revokes.",
        "UsageAboveGrant": "Use less, or ask for a larger lease.",
        "PodsAboveGrant": "Resize the pods back, or ask for a larger lease.",
        "RoomNotHeld": "Read the message: correct the quota or policy that refuses it, or wait for room.",
        "NotGranted": "Nothing.",
        "Held": "Nothing.",
        "Draining": "Finish before `status.deadlines.revocationTime`.",
        "CoolingDown": "Wait for the pool's `cooldownSeconds`.",
        "VerificationPending": "Wait; end what still runs for the lease on its nodes.",
        "PodsLeaving": "Wait; a PodDisruptionBudget can hold it for `evictionTimeoutSeconds`.",
        "Quarantined": "Administrator: look at the node in `status.release.lastError`; then force the release.",
        "Released": "Nothing.",
        "Expired": "Ask again if it is still needed; `DisruptionTarget` says which deadline it was.",
        "Revoked": "Ask again; `DisruptionTarget` says why.",
        "Failed": "Read `Accepted` or `DisruptionTarget`, correct the request, ask again.",
        "DryRunComplete": "Read `status.quote` and `status.counterOffer`.",
    },
    names.REPORT_KIND: {
        "Starting": "Wait for one window (`spec.windowSeconds`).",
        "ReadFailed": "See the reporter's log and the values `reporter.hostPaths`.",
        "Skewed": "Set right the node's clock (NTP).",
        "SpaceLow": "Free space on the filesystem that the message names.",
        "Partial": "See which figures the message names; mostly a host path that is not mounted.",
        "OverBudget": "Raise `spec.reportPeriodSeconds`, or look for very many processes or cgroups on the node.",
    },
    POD: {
        "LeaseNotFound": "Make the lease, or correct the label (in a new pod: it cannot be changed).",
        "LeasePending": "Wait; the message says what the lease waits for.",
        "LeaseEnded": "Name a lease that is held.",
        "ExceedsLease": "Request less, or wait for the lease's other pods to finish.",
        "NodesExcluded": "Give the lease the pod's nodeSelector, in `spec.placement`, or take it from the pod.",
        "OutsideLease": "Make the pod anew; see who lifted its gate.",
        "LeaseEnding": "Finish; or renew the lease.",
        "Evicted": "Ask for a new lease.",
        "EvictionRefused": "Correct the PodDisruptionBudget, or wait: it is deleted after `evictionTimeoutSeconds`.",
        "Deleted": "Ask for a new lease.",
    },
    REJECTION: {
        "Insufficient": "Ask for less; `shortBy` says how much less would fit.",
        "SelectorMismatch": "Correct `spec.placement.nodeSelector` or `topologyKey`.",
        "NodeNotReady": "Administrator: see the node.",
        "NodeCordoned": "Administrator: `kubectl uncordon NODE`, when it may lend again.",
        "NodeConflicting": "Administrator: let one pool let go of the node.",
        "NodeJoining": "Wait a few seconds.",
        "NodeExcluded": "Administrator: set the report's `spec.state: Active`, when it may lend again.",
        "ReportMissing": "Administrator: is the reporter running there?",
        "ReportStale": "Administrator: the same; see LeaseholdReportsStale.",
        "ReportFromFuture": "Administrator: set right the node's clock.",
        "PressureHigh": "Wait, or see what uses the node outside leases.",
        "UsageHigh": "The same.",
        "CoolingDown": "Wait for the pool's `cooldownSeconds`.",
        "OverAllocated": "Wait for leases there to end.",
    },
}

INTRODUCTION: Final = """
# Conditions and reasons

Every condition that Leasehold sets, with each of its reasons, what it means and what to do. Conditions are the
contract: programs read `status.conditions`, by type, status and reason; `status.phase` is a word for people. A
condition that is absent means *unknown*. `Ready=False` repeats the reason of the condition that is in the way. To
start from what you see go wrong, see [troubleshoot](../troubleshoot.md).

```sh
kubectl get clease NAME -n NAMESPACE \\
  -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\\n"}{end}'
```
"""


def troubles() -> Iterator[tuple[str, Named]]:
    """Yield each object, and each of its reasons that needs something to do."""
    for kind, table in TABLES.items():
        for condition, by_status in table.items():
            for reason in by_status.get(TROUBLE.get((kind, condition)), ()):
                yield kind, reason
    for kind, enum in ((POD, PodReason), (REJECTION, RejectionReason)):
        yield from ((kind, reason) for reason in enum if reason not in WELL[kind])


def missing() -> list[str]:
    """Return the reasons that tell of trouble and say nothing about what to do."""
    return [f"{kind}: {reason}" for kind, reason in troubles() if reason not in REMEDIES[kind]]


def unknown() -> list[str]:
    """Return what stands here about reasons that are no trouble, or none at all."""
    known = {(kind, str(reason)) for kind, reason in troubles()}
    return [
        f"{kind}: {reason}"
        for kind, remedies in REMEDIES.items()
        for reason in remedies
        if (kind, reason) not in known
    ]


def page(table: Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]) -> str:
    """Return the page as Markdown; `table` makes a table of a head and rows."""
    parts = [INTRODUCTION]
    for kind, conditions in TABLES.items():
        parts.append(f"## {kind}\n")
        for condition, by_status in conditions.items():
            parts += [f"### {kind} {condition}\n", f"True: {condition.meaning}.\n"]
            if any(by_status.values()):
                parts.append(
                    table(("Status", "Reason", "Meaning", "What to do"), _rows(kind, condition, by_status))
                )
    parts += [
        "## Pod\n",
        f"The condition `{names.POD_CONDITION}` of a pod that names a lease, and Events about it. True: it runs within"
        " its lease, or nothing holds it to one.\n",
        table(("Reason", "Meaning", "What to do"), _plain(POD, PodReason)),
        "## Why nodes were passed over\n",
        "`status.rejections[].reason` of a lease that waits.\n",
        table(("Reason", "Meaning", "What to do"), _plain(REJECTION, RejectionReason)),
        "## What comes next\n",
        "`status.deadlines.next.cause` of a lease: what happens at `status.deadlines.next.time`.\n",
        table(("Cause", "Meaning"), ((f"`{one}`", f"{one.meaning}.") for one in names.DeadlineCause)),
        "## Phases\n",
        "For people; no program should read them.\n",
        table(("Phase", "Meaning"), ((f"`{one}`", f"{one.meaning}.") for one in names.LeasePhase)),
    ]
    return "\n".join(parts)


def _rows(
    kind: str, condition: Any, by_status: Mapping[ConditionStatus, tuple[Named, ...]]
) -> Iterator[tuple[str, ...]]:
    for status, reasons in by_status.items():
        for reason in reasons:
            remedy = REMEDIES[kind].get(reason, "") if TROUBLE.get((kind, condition)) == status else ""
            yield f"`{status}`", f"`{reason}`", reason.meaning, remedy or "Nothing."


def _plain(kind: str, enum: type[Named]) -> Iterator[tuple[str, ...]]:
    for reason in enum:
        yield f"`{reason}`", reason.meaning, REMEDIES[kind].get(reason, "Nothing.")
