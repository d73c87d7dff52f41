"""What one node may lend right now, and why not more: Node + NodeReport + policy + now -> verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from leasehold.api.names import POOL_TAINT, CapacitySource, RejectionReason, ReportState
from leasehold.api.quantity import QuantityError, amount
from leasehold.core.amounts import Vector
from leasehold.core.policy import PoolPolicy, ResourceRule
from leasehold.core.times import earliest, parse_time

Json = Mapping[str, Any]

FUTURE_TOLERANCE = 60_000
"""How far ahead of the operator's clock a report's time may lie before the report is not believed (ms)."""


_NOTHING: Mapping[str, Any] = {}

NOT_FRESH = (
    RejectionReason.REPORT_MISSING,
    RejectionReason.REPORT_STALE,
    RejectionReason.REPORT_FROM_FUTURE,
)
"""Why a node's figures are not to be relied on."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Kubernetes Node, as far as lending goes. `not_ready_since` is None while the node is ready, and `dedicated_to`
    the pool that its taint keeps it for, "" where it has none.
    """

    name: str
    uid: str
    version: int
    labels: Mapping[str, str]
    ready: bool
    not_ready_since: int | None
    cordoned: bool
    allocatable: Mapping[str, int]
    dedicated_to: str = ""


class Usage(NamedTuple):
    """Measured use of one resource: for placement (p90 over 60 s), and what no lease explains, if known."""

    used: int
    unmanaged: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """A NodeReport's status. `leases` says, for each lease the reporter was asked about, whether it is gone.

    `asked` and `pods` (the lease of each pod, by uids) are what the reporter is asked now, in `generation`; the status
    answers what it was asked in `observed_generation`. Both are 0 where they are not known. `asked_since` says, by
    lease, in which generation its pods were asked about for the first time as they are now.
    """

    node: str
    version: int
    time: int
    boot_id: str
    sequence: int
    excluded: bool
    capacity: Mapping[str, int]
    usage: Mapping[str, Usage]
    leases: Mapping[str, LeaseUse]
    asked: frozenset[str]
    has_owner: bool
    generation: int
    observed_generation: int
    pods: Mapping[str, str]
    asked_since: Mapping[str, int] = field(default_factory=dict)


class LeaseUse(NamedTuple):
    """What the reporter saw of one lease on its node."""

    gone: bool
    amounts: Mapping[str, int]


class Verdict(NamedTuple):
    """What a node may lend. `limit` is before use and holdings; vectors are in the pool's order.

    `reason` names why the node gets no new grants ("" when it may get some). `pressured` names the resources whose
    measured use passed `highPercent` and has not fallen to `lowPercent` yet. `revisit_at` is when the verdict
    changes by the mere passing of time (a report going stale), or None.
    """

    total: Vector
    limit: Vector
    used: Vector
    unmanaged: Vector
    use_permille: int
    reason: str
    pressured: frozenset[str]
    revisit_at: int | None

    @property
    def grantable(self) -> bool:
        """New grants may go to this node."""
        return not self.reason


def node_of(document: Json) -> Node:
    """Read a Node as the API server sent it. Amounts that cannot be read count as absent.

    A node that is being deleted counts as not ready from then on.
    """
    meta, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    ready = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), None)
    leaving_since = meta.get("deletionTimestamp")
    is_ready = ready is not None and ready["status"] == "True" and leaving_since is None
    since = None
    if not is_ready:
        changed = None if ready is None or ready["status"] == "True" else ready.get("lastTransitionTime")
        since = parse_time(changed or leaving_since or meta["creationTimestamp"])
    return Node(
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta.get("resourceVersion") or 0),
        labels=meta.get("labels") or {},
        ready=is_ready,
        not_ready_since=since,
        cordoned=bool(spec.get("unschedulable")),
        allocatable=_readable(status.get("allocatable") or {}),
        dedicated_to=next(
            (t.get("value", "") for t in spec.get("taints") or () if t["key"] == POOL_TAINT), ""
        ),
    )


def report_of(document: Json) -> Report | None:
    """Read a NodeReport; None when its reporter has not written yet."""
    meta, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    if "reportTime" not in status:
        return None
    asked = {uid: uid for uid in spec.get("leaseUIDs") or ()}
    generation, observed = int(meta.get("generation") or 0), int(status.get("observedGeneration") or 0)
    return Report(
        node=meta["name"],
        version=int(meta.get("resourceVersion") or 0),
        time=parse_time(status["reportTime"]),
        boot_id=status.get("bootID", ""),
        sequence=status.get("sequence", 0),
        excluded=spec.get("state") == ReportState.EXCLUDED,
        capacity=_readable(status.get("capacity") or {}),
        usage={row["name"]: _usage(row) for row in status.get("usage", ())},
        leases={
            row["uid"]: LeaseUse(
                row["state"] == "Gone", _readable({k: row[k] for k in ("cpu", "memory") if k in row})
            )
            for row in status.get("leases", ())
        },
        asked=frozenset(asked),
        has_owner=bool(meta.get("ownerReferences")),
        generation=generation,
        # Ahead of the object's own it was of an earlier object of this name.
        observed_generation=observed if observed <= generation else 0,
        pods=_pods(spec.get("pods") or (), asked),
    )


def with_history(report: Report, before: Report | None) -> Report:
    """Return a report that knows as of which generation of its spec each lease's pods are asked about, all of them.

    `before` is the report known until now. What was asked before anybody here knew the report counts as asked now.
    """
    if not report.pods:
        return report
    old, since = (before.pods, before.asked_since) if before is not None else ({}, _NOTHING)
    if old == report.pods:
        return replace(report, asked_since=since)
    changed = {lease for _, lease in old.items() ^ report.pods.items()}
    found = {
        lease: report.generation if lease in changed else since.get(lease, report.generation)
        for lease in report.pods.values()
    }
    return replace(report, asked_since=found)


def judge(
    node: Node,
    report: Report | None,
    policy: PoolPolicy,
    now: int,
    *,
    was_pressured: Set[str] = frozenset(),
    requested: Mapping[str, int] = _NOTHING,
) -> Verdict:
    """Decide what a node may lend.

    Per resource: limit = (total - reserved) x allocationPercent, where total is the smaller of what the node
    allocates and what was measured (`Measured`), the node's allocatable, or a fixed quantity. Measured use is
    kept apart, because how much of it is explained by leases depends on what they hold. A report that is too old
    bars new grants (`onStale: Hold`), yet its figures are the best there are: without them a silent node would seem
    to have grown. What pods without a lease have `requested` counts as used by others, or what was measured of
    that, if it is more.
    """
    total = tuple(_total(rule, node, report) for rule in policy.resources)
    usage = {} if report is None else report.usage
    measured = {
        r.name: usage[r.name]
        for r in policy.resources
        if r.source == CapacitySource.MEASURED and r.name in usage
    }
    percents = _percents(policy, usage, node, report)
    pressured = _pressured(policy, percents, was_pressured)
    reason = (
        _node_reason(node) or _report_reason(policy, report, now) or _load_reason(policy, percents, pressured)
    )
    return Verdict(
        total=total,
        limit=tuple(rule.lendable(amount) for rule, amount in zip(policy.resources, total, strict=True)),
        used=tuple(measured[n].used if n in measured else 0 for n in policy.names),
        unmanaged=tuple(
            max((measured[n].unmanaged or 0) if n in measured else 0, requested.get(n, 0))
            for n in policy.names
        ),
        use_permille=max((p * 10 for p in percents.values()), default=0),
        reason=reason,
        pressured=pressured,
        revisit_at=_revisit_at(policy, report, now),
    )


def _node_reason(node: Node) -> str:
    if not node.ready:
        return RejectionReason.NODE_NOT_READY
    return RejectionReason.NODE_CORDONED if node.cordoned else ""


def _report_reason(policy: PoolPolicy, report: Report | None, now: int) -> str:
    if report is not None and report.excluded:
        return RejectionReason.NODE_EXCLUDED
    measures = any(rule.source == CapacitySource.MEASURED for rule in policy.resources)
    if not measures or not policy.holds_on_stale:
        return ""
    if report is None:
        return RejectionReason.REPORT_MISSING
    if report.time > now + FUTURE_TOLERANCE:
        return RejectionReason.REPORT_FROM_FUTURE
    return RejectionReason.REPORT_STALE if now >= report.time + policy.max_report_age else ""


def _revisit_at(policy: PoolPolicy, report: Report | None, now: int) -> int | None:
    """Return when the report becomes believable, or else when it goes stale; None when that is over."""
    if report is None:
        return None
    instants = (report.time - FUTURE_TOLERANCE, report.time + policy.max_report_age)
    return earliest(*(at for at in instants if at > now))


def _load_reason(policy: PoolPolicy, percents: Mapping[str, int], pressured: frozenset[str]) -> str:
    if pressured:
        return RejectionReason.PRESSURE_HIGH
    ceiling = policy.max_usage_percent
    if ceiling is not None and any(percent > ceiling for percent in percents.values()):
        return RejectionReason.USAGE_HIGH
    return ""


def _total(rule: ResourceRule, node: Node, report: Report | None) -> int:
    if rule.source == CapacitySource.FIXED:
        return rule.fixed
    allocatable = node.allocatable.get(rule.name, 0)
    if rule.source == CapacitySource.MEASURED and report is not None and rule.name in report.capacity:
        return min(allocatable, report.capacity[rule.name])
    return allocatable


def _percents(
    policy: PoolPolicy, usage: Mapping[str, Usage], node: Node, report: Report | None
) -> dict[str, int]:
    """Return measured use in whole percent of what the node has, rounded up: a threshold is never missed."""
    percents = {}
    for rule in policy.resources:
        if rule.name not in usage or report is None:
            continue
        capacity = report.capacity.get(rule.name) or node.allocatable.get(rule.name) or 0
        if capacity:
            percents[rule.name] = -(-100 * usage[rule.name].used // capacity)
    return percents


def _pressured(policy: PoolPolicy, percents: Mapping[str, int], before: Set[str]) -> frozenset[str]:
    """Apply the thresholds with hysteresis: pressure begins at `highPercent` and ends at `lowPercent`."""
    found = set()
    for rule in policy.resources:
        if rule.high_percent is None or rule.low_percent is None or rule.name not in percents:
            continue
        percent = percents[rule.name]
        if percent >= rule.high_percent or (rule.name in before and percent > rule.low_percent):
            found.add(rule.name)
    return frozenset(found)


def _pods(rows: Iterable[Json], known: Mapping[str, str]) -> Mapping[str, str]:
    """Return the lease of each pod. Texts that are `known` are kept once: a lease has many pods."""
    return {row["uid"]: known.get(row["leaseUID"], row["leaseUID"]) for row in rows} or _NOTHING


def _usage(row: Json) -> Usage:
    name = row["name"]
    used = row.get("p90", row.get("current", 0))
    unmanaged = row.get("unmanaged")
    return Usage(amount(name, used), None if unmanaged is None else amount(name, unmanaged))


def _readable(resources: Mapping[str, Any]) -> dict[str, int]:
    amounts = {}
    for name, text in resources.items():
        try:
            amounts[name] = amount(name, text, round_up=False)
        except QuantityError:
            continue
    return amounts
