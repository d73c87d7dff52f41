"""Things tests tell stories with: pools, leases, nodes and reports with defaults that a reader can guess.

The day is always 22 November 2026, and it is noon: `at("10m")` is ten minutes past. Leases and nodes are built from
documents as the API server sends them, so that reading them is tested along the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import count as counter
from typing import Any

from leasehold.api.lease import LeaseStatus
from leasehold.api.names import (
    FORCE_RELEASE_ANNOTATION,
    KUEUE_CONTROLLER,
    LEASE_GATE,
    LEASE_LABEL,
    LEASE_REASONS,
    PLACEHOLDER_ANNOTATION,
    POD_CONDITION,
    POOL_REASONS,
    RELEASE_FINALIZER,
    REVOKE_ANNOTATION,
    SLICE_ANNOTATION,
    ConditionStatus,
    LeaseCondition,
    LeaseReason,
    PoolCondition,
)
from leasehold.api.pool import PoolSpec, PoolStatus
from leasehold.api.quantity import amount
from leasehold.core.booking import Entry
from leasehold.core.capacity import NodeTable, Row
from leasehold.core.course import Session, Step, World
from leasehold.core.lease import Lease, lease_of
from leasehold.core.nodes import Node, Report, judge, node_of, report_of
from leasehold.core.planning import grant_step
from leasehold.core.pods import Placeholder, Pod, placeholder_of, pod_of
from leasehold.core.policy import PoolPolicy, policy_of
from leasehold.core.pool_status import Facts, status_of
from leasehold.core.request import NEVER, Request, Shape
from leasehold.core.selectors import Selector
from leasehold.core.state import PoolState
from leasehold.core.status import amounts_document, apply_patch
from leasehold.core.timeline import Timeline
from leasehold.core.times import format_time, parse_time

Json = Mapping[str, Any]

NOON = parse_time("2026-11-22T12:00:00Z")
GIB = 1 << 30
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_serial = counter(1)


def span(text: str) -> int:
    """Milliseconds in a text such as `90s`, `1h30m` or `-250ms`."""
    found = sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)(ms|[smhd])", text))
    return -found if text.startswith("-") else found


def at(text: str = "") -> int:
    """The instant that long after noon."""
    return NOON + span(text)


def clock(text: str = "") -> str:
    """The same instant as it is written on the wire."""
    return format_time(at(text))


# --- pools ---

CPU_AND_MEMORY = ({"name": "cpu", "source": "Allocatable"}, {"name": "memory", "source": "Allocatable"})


def make_pool(
    *resources: Json,
    selector: Mapping[str, str] | None = None,
    strategy: str = "BestFit",
    queue: str = "BestEffortFIFO",
    max_pending: int = 10_000,
    fairness: str = "DominantShare",
    half_life: int = 0,
    tenants: Iterable[Json] = (),
    preemption: Json | None = None,
    max_usage: int | None = None,
    on_stale: str = "Hold",
    max_age: int = 660,
    stop: str = "None",
    enforcement: Json | None = None,
    **terms: Any,
) -> PoolPolicy:
    """A pool of cpu and memory as the Node objects tell them, with terms of one hour and 30 s of grace.

    `terms` are fields of `spec.leasePolicy` as on the wire: `gracePeriodSeconds=0`. So are `tenants`, except that
    one without a `namespaceSelector` has the namespaces with the label `team` of its own name.
    """
    shares = [{"namespaceSelector": {"matchLabels": {"team": row["name"]}}, **row} for row in tenants]
    spec = {
        "nodeSelector": {"matchLabels": dict(selector)} if selector else {},
        "resources": [dict(resource) for resource in resources or CPU_AND_MEMORY],
        "leasePolicy": terms,
        "queueing": {
            "strategy": queue,
            "maxPending": max_pending,
            "fairness": fairness,
            "usageHalfLifeSeconds": half_life,
        },
        "tenants": shares,
        "preemption": dict(preemption or {}),
        "placement": {
            "strategy": strategy,
            **({} if max_usage is None else {"maxUsagePercent": max_usage}),
        },
        "freshness": {"maxAgeSeconds": max_age, "onStale": on_stale},
        "stopPolicy": stop,
        "enforcement": dict(enforcement or {}),
    }
    return policy_of(PoolSpec.model_validate(spec, extra="forbid"))


# --- leases ---


def lease_document(
    name: str = "build",
    *,
    cpu: str | None = "2",
    memory: str | None = "4Gi",
    resources: Json | None = None,
    age: str = "1m",
    annotations: Mapping[str, str] | None = None,
    deleted: str | None = None,
    finalizers: tuple[str, ...] = (RELEASE_FINALIZER,),
    version: int = 1,
    generation: int = 1,
    status: Json | None = None,
    namespace: str = "team-a",
    pool: str | None = "ci",
    **spec: Any,
) -> dict[str, Any]:
    """A CapacityLease as the API server sends it; `spec` are its further fields as on the wire."""
    if pool is not None:
        spec = {"poolRef": {"name": pool}, **spec}
    if resources is None:
        resources = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v is not None}
    meta: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "generation": generation,
        "creationTimestamp": clock(f"-{age}"),
        "finalizers": list(finalizers),
    }
    if annotations:
        meta["annotations"] = dict(annotations)
    if deleted is not None:
        meta["deletionTimestamp"] = clock(deleted)
    document: dict[str, Any] = {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": meta,
        "spec": {"resources": dict(resources), **spec},
    }
    if status is not None:
        document["status"] = status
    return document


def make_lease(name: str = "build", **how: Any) -> Lease:
    """A lease that waits, created a minute before noon, for 2 cpu and 4Gi of memory."""
    return lease_of(lease_document(name, **how))


def document_of(lease: Lease) -> dict[str, Any]:
    """The document a lease was read from, as far as it was read."""
    annotations = {}
    if lease.revoke:
        annotations[REVOKE_ANNOTATION] = lease.revoke
    if lease.force_release:
        annotations[FORCE_RELEASE_ANNOTATION] = "true"
    meta: dict[str, Any] = {
        "name": lease.name,
        "namespace": lease.namespace,
        "uid": lease.uid,
        "resourceVersion": str(lease.version),
        "generation": lease.generation,
        "creationTimestamp": format_time(lease.created),
        "finalizers": list(lease.finalizers),
        "annotations": annotations,
    }
    if lease.deleting:
        meta["deletionTimestamp"] = clock()
    placement: dict[str, Any] = {"mode": lease.mode}
    if lease.topology_key:
        placement["topologyKey"] = lease.topology_key
    if lease.node_selector:
        placement["nodeSelector"] = dict(lease.node_selector)
    holder: dict[str, Any] = {}
    if lease.identity:
        holder["identity"] = lease.identity
    if lease.session:
        holder["sessionRef"] = {"name": lease.session}
    spec: dict[str, Any] = {
        "resources": amounts_document(lease.request),
        "count": lease.count,
        "placement": placement,
        "priority": lease.priority,
        "holder": holder,
        "liveness": lease.liveness,
        "desiredState": "Released" if lease.wants_release else "Held",
        "podCompletionAction": "Release" if lease.releases_when_done else "Keep",
        "ttlSecondsAfterFinished": lease.ttl // 1000,
        "mode": "DryRun" if lease.is_dry_run else "Reserve",
        "deferSeconds": lease.deferral // 1000,
    }
    optional = {
        "poolRef": {"name": lease.pool} if lease.pool else None,
        "parentRef": {"name": lease.parent} if lease.parent else None,
        "poolSelector": selector_document(lease.pool_selector),
        "startTime": None if lease.start_time is None else format_time(lease.start_time),
        "startDeadlineSeconds": None if lease.start_deadline is None else lease.start_deadline // 1000,
        "tenant": lease.tenant or None,
        "durationSeconds": None if lease.duration is None else lease.duration // 1000,
        "renewTime": lease.renew_time or None,
    }
    spec.update({name: value for name, value in optional.items() if value is not None})
    return {"metadata": meta, "spec": spec, "status": dict(lease.status)}


def selector_document(selector: Selector | None) -> dict[str, Any] | None:
    """The LabelSelector a selector was read from, or None where there was none."""
    if selector is None:
        return None
    rows = selector.requirements
    return {
        "matchLabels": dict(selector.labels),
        "matchExpressions": [
            {"key": row.key, "operator": row.operator, "values": sorted(row.values)} for row in rows
        ],
    }


def edited(
    lease: Lease,
    *,
    annotations: Mapping[str, str | None] | None = None,
    deleted: bool = False,
    status: Json | None = None,
    **spec: Any,
) -> Lease:
    """The lease after its owner changed it: `spec` as on the wire, None takes a field out."""
    document = document_of(lease)
    meta = document["metadata"]
    meta["resourceVersion"] = str(lease.version + 1)
    if spec or deleted:
        meta["generation"] = lease.generation + 1
    if deleted:
        meta["deletionTimestamp"] = clock()
    meta["annotations"] = apply_patch(meta["annotations"], annotations or {})
    if status is not None:
        document["status"] = status
    document["spec"] = apply_patch(document["spec"], spec)
    if "resources" in spec:
        document["spec"]["resources"] = dict(spec["resources"])
    return lease_of(document)


def renewed(lease: Lease) -> Lease:
    """The lease after its holder asked for a renewal."""
    return edited(lease, renewTime=f"2026-11-22T12:00:00.{next(_serial) % 1_000_000:06d}Z")


def written(lease: Lease, step: Step) -> Lease:
    """The lease after the step's status was written; checks that the API server would take it."""
    if not step.patch:
        return lease
    document = document_of(lease)
    document["status"] = apply_patch(lease.status, step.patch)
    document["metadata"]["resourceVersion"] = str(lease.version + 1)
    check_lease_status(document["status"])
    return lease_of(document)


def granted(
    lease: Lease | None = None,
    *,
    nodes: Iterable[str] = ("node-1",),
    policy: PoolPolicy | None = None,
    since: str = "",
    token: int = 1,
    world: World | None = None,
    **how: Any,
) -> Lease:
    """The lease after it was granted, one slice on each named node, at noon."""
    lease = lease or make_lease(**how)
    entry = Entry(lease.uid, lease.namespace, lease.name, token, dict(lease.request), tuple(nodes))
    return written(lease, grant_step(lease, entry, policy or make_pool(), world or World(), at(since)))


def condition(lease: Lease, type_: str) -> str:
    """A condition in short: `True/Granted`, or "" where it is not set."""
    found = lease.conditions.get(type_)
    return "" if found is None else f"{found['status']}/{found['reason']}"


def make_session(
    name: str = "worker", *, renewed: str = "", timeout: str | None = None, namespace: str = "team-a"
) -> Session:
    """A holder's session, last seen to change at an instant."""
    return Session(namespace, name, 1, at(renewed), None if timeout is None else span(timeout))


# --- pods ---


def pod_document(
    name: str = "worker",
    *,
    lease: str | None = "build",
    cpu: str | None = "1",
    memory: str | None = "1Gi",
    node: str = "",
    gated: bool | None = None,
    given: tuple[Lease, int] | None = None,
    phase: str = "",
    ended: str | None = None,
    deleted: bool = False,
    age: str = "1m",
    owner: str = "",
    version: int = 1,
    annotations: Mapping[str, str] | None = None,
    told: tuple[str, str] | None = None,
    requests: Json | None = None,
    namespace: str = "team-a",
    status: Json | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A Pod as the API server sends it: gated until it has a node or a slice, with one container that requests this."""
    asked = requests or {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v is not None}
    meta: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "creationTimestamp": clock(f"-{age}"),
        "labels": {} if lease is None else {LEASE_LABEL: lease},
        "annotations": dict(annotations or {}),
    }
    if given is not None:
        meta["annotations"][SLICE_ANNOTATION] = f"{given[0].uid}/{given[1]}"
    if deleted:
        meta["deletionTimestamp"] = clock()
    if owner:
        meta["ownerReferences"] = [{"kind": owner, "name": "owner", "controller": True}]
    told_status: dict[str, Any] = {"phase": phase or ("Running" if node else "Pending")}
    if ended is not None:
        terminated = {"exitCode": 0, "finishedAt": clock(ended)}
        told_status["containerStatuses"] = [{"name": "main", "state": {"terminated": terminated}}]
    if told is not None:
        row = {"type": POD_CONDITION, "status": "False", "reason": told[0], "message": told[1]}
        told_status["conditions"] = [row]
    body: dict[str, Any] = {"containers": [{"name": "main", "resources": {"requests": asked}}], **spec}
    if node:
        body["nodeName"] = node
    if gated if gated is not None else not (node or given) and lease is not None:
        body["schedulingGates"] = [{"name": LEASE_GATE}]
    return {"kind": "Pod", "metadata": meta, "spec": body, "status": {**told_status, **(status or {})}}


def make_placeholder(
    lease: Lease,
    position: int = 0,
    *,
    number: int = 0,
    cpu: str | None = "2",
    memory: str | None = "4Gi",
    node: str = "node-1",
    nominated: str = "",
    phase: str = "Running",
    deleted: bool = False,
    age: str = "1m",
) -> Placeholder:
    """A placeholder that holds all of a slice of 2 cpu and 4Gi, bound to node-1."""
    asked = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v is not None}
    name = f"hold-{lease.uid}-{position}-{number}"
    annotations = {SLICE_ANNOTATION: f"{lease.uid}/{position}", PLACEHOLDER_ANNOTATION: lease.key}
    document = pod_document(
        name,
        lease=None,
        requests=asked,
        node=node,
        phase=phase,
        deleted=deleted,
        age=age,
        annotations=annotations,
        namespace="leasehold-system",
        status={"nominatedNodeName": nominated} if nominated else None,
    )
    found = placeholder_of(document)
    assert found is not None
    return found


def make_pod(name: str = "worker", **how: Any) -> Pod:
    """A pod of the lease `build` that requests 1 cpu and 1Gi; see `pod_document`."""
    return pod_of(pod_document(name, **how))


# --- nodes ---


def make_node(
    name: str = "node-1",
    *,
    cpu: str = "16",
    memory: str = "64Gi",
    labels: Mapping[str, str] | None = None,
    not_ready_since: str | None = None,
    cordoned: bool = False,
    more: Json | None = None,
) -> Node:
    """A ready node of 16 cpu and 64Gi."""
    state = "True" if not_ready_since is None else "Unknown"
    return node_of(
        {
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "resourceVersion": "1",
                "creationTimestamp": clock("-30d"),
                "labels": {"kubernetes.io/hostname": name, **(labels or {})},
            },
            "spec": {"unschedulable": True} if cordoned else {},
            "status": {
                "allocatable": {"cpu": cpu, "memory": memory, "pods": "110", **(more or {})},
                "conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": state, "lastTransitionTime": clock(not_ready_since or "-1d")},
                ],
            },
        }
    )


def make_report(
    node: str = "node-1",
    *,
    time: str = "",
    cpu: str = "1",
    memory: str = "4Gi",
    capacity: Json | None = None,
    unmanaged: Json | None = None,
    gone: Iterable[Lease] = (),
    present: Mapping[str, Json] | None = None,
    state: str = "Active",
    pods: Mapping[str, str] | None = None,
    generation: int = 1,
    observed: int | None = None,
) -> Report:
    """A report of a node that uses 1 cpu and 4Gi; `present` is what leases use there, by uid.

    `pods` is the lease of each pod asked about, by uids. It answers the spec it has, if not the one of `observed`.
    """
    spare = unmanaged or {}
    usage = [
        {"name": name, "current": "0", "p90": used, **({"unmanaged": spare[name]} if name in spare else {})}
        for name, used in (("cpu", cpu), ("memory", memory))
    ]
    leases = [{"uid": lease.uid, "state": "Gone"} for lease in gone]
    leases += [{"uid": uid, "state": "Present", **use} for uid, use in (present or {}).items()]
    report = report_of(
        {
            "metadata": {
                "name": node,
                "resourceVersion": "1",
                "generation": generation,
                "ownerReferences": [{"name": node}],
            },
            "spec": {
                "state": state,
                "leaseUIDs": [row["uid"] for row in leases],
                "pods": [{"uid": uid, "leaseUID": lease} for uid, lease in (pods or {}).items()],
            },
            "status": {
                "observedGeneration": generation if observed is None else observed,
                "reportTime": clock(time),
                "bootID": "boot-1",
                "sequence": 7,
                "capacity": dict(capacity or {}),
                "usage": usage,
                "leases": leases,
            },
        }
    )
    assert report is not None
    return report


# --- the pool's memory ---


def ending(lease: Lease, reason: str = "VerificationPending") -> Lease:
    """The lease after its end began; what it held is not free yet."""
    row = {
        "type": "Released",
        "status": "False",
        "reason": reason,
        "message": "",
        "lastTransitionTime": clock(),
    }
    release = {"cause": "Idle", "startTime": clock()}
    return edited(
        lease, status={**lease.status, "release": release, "conditions": [*lease.status["conditions"], row]}
    )


def make_state(
    policy: PoolPolicy | None = None, nodes: Iterable[Node] = (), leases: Iterable[Lease] = ()
) -> PoolState:
    """A pool's memory at noon, with all its leases already looked at."""
    state = PoolState("ci", policy or make_pool())
    for node in nodes:
        add_node(state, node)
    for lease in leases:
        state.observe(lease)
    state.attention.clear()
    return state


def add_node(state: PoolState, node: Node, report: Report | None = None, now: int = NOON) -> None:
    """Let the pool know of a node, or of a change to it."""
    state.put_node(node.name, node.labels, judge(node, report, state.policy, now))


def make_world(nodes: Iterable[Node] = (), reports: Iterable[Report] = (), **more: Any) -> World:
    """What a lease's fate depends on; without `nodes`, one healthy node-1."""
    found = list(nodes) or [make_node()]
    return World(
        nodes={node.name: node for node in found},
        reports={report.node: report for report in reports},
        **more,
    )


def vector(policy: PoolPolicy, **amounts: str) -> tuple[int, ...]:
    """Amounts in the pool's order, from texts."""
    return policy.vector({name: amount(name, text) for name, text in amounts.items()})


# --- Kueue ---


def pod_set_document(
    name: str = "main", *, pods: int = 1, cpu: str | None = "1", memory: str | None = "1Gi", **spec: Any
) -> dict[str, Any]:
    """A pod set of a Workload: one container that requests this, unless `spec` says otherwise."""
    asked = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v is not None}
    body = {"containers": [{"name": "main", "resources": {"requests": asked}}], **spec}
    return {"name": name, "count": pods, "template": {"metadata": {}, "spec": body}}


def workload_document(
    name: str = "train",
    *pod_sets: Json,
    reserved: str | None = "-10s",
    checks: Iterable[Json] | None = None,
    assigned: Mapping[str, Json] | None = None,
    conditions: Iterable[str] = (),
    deleted: bool = False,
    owner: str = "Job",
    version: int = 1,
    namespace: str = "team-a",
    status: Json | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A Workload of Kueue that has its quota for ten seconds, and one check, `lease`, that waits.

    `assigned` are fields of its pod sets' assignments, and `conditions` further ones that are True.
    """
    sets = list(pod_sets) or [pod_set_document()]
    rows = [{"type": type_, "status": "True", "lastTransitionTime": clock()} for type_ in conditions]
    told: dict[str, Any] = {"admissionChecks": list(checks if checks is not None else [check_state()])}
    if reserved is not None:
        since = clock(reserved)
        rows.append({"type": "QuotaReserved", "status": "True", "lastTransitionTime": since})
        told["admission"] = {
            "clusterQueue": "queue",
            "podSetAssignments": [
                {"name": one["name"], "count": one["count"], **(assigned or {}).get(one["name"], {})}
                for one in sets
            ],
        }
    meta: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "ownerReferences": [{"kind": owner, "name": "owner"}],
    }
    if deleted:
        meta["deletionTimestamp"] = clock()
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": meta,
        "spec": {"podSets": sets, "active": True, **spec},
        "status": {"conditions": rows, **told, **(status or {})},
    }


def check_state(name: str = "lease", state: str = "Pending", message: str = "", **more: Any) -> Json:
    """A row of a Workload's `status.admissionChecks`."""
    since = clock("-10s")
    return {"name": name, "state": state, "message": message, "lastTransitionTime": since, **more}


def check_document(
    name: str = "lease", *, pool: str | None = "ci", controller: str = KUEUE_CONTROLLER, **more: Any
) -> dict[str, Any]:
    """An AdmissionCheck that names a pool; `more` is what else its parameters have."""
    named = (
        None if pool is None else {"apiGroup": "leasehold.dev", "kind": "CapacityPool", "name": pool, **more}
    )
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "AdmissionCheck",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 1},
        "spec": {"controllerName": controller, **({} if named is None else {"parameters": named})},
    }


# --- what may be written ---


def check_lease_status(status: Json) -> None:
    """Fail when a lease's status has a field, value or reason that the API does not know."""
    LeaseStatus.model_validate(status, extra="forbid")
    for found in status.get("conditions", ()):
        if found["type"] not in set(LeaseCondition):
            continue
        state = ConditionStatus(found["status"])
        allowed: Iterable[str] = LEASE_REASONS[LeaseCondition(found["type"])].get(state, ())
        if found["type"] == LeaseCondition.READY and state == ConditionStatus.FALSE:
            allowed = list(LeaseReason)
        assert found["reason"] in allowed, f"{found['type']}={state} may not say {found['reason']}"


def check_pool_status(status: Json) -> None:
    """Fail when a pool's status has a field, value or reason that the API does not know."""
    PoolStatus.model_validate(status, extra="forbid")
    for found in status.get("conditions", ()):
        if found["type"] in set(PoolCondition):
            allowed = POOL_REASONS[PoolCondition(found["type"])].get(ConditionStatus(found["status"]), ())
            assert found["reason"] in allowed, f"{found['type']} may not say {found['reason']}"


def pool_status(
    state: PoolState, before: Json | None = None, now: int = NOON, **facts: Any
) -> dict[str, Any]:
    """The pool's next status, checked."""
    known = {"generation": 1, "deleting": False, "mismatches": (), **facts}
    status = status_of(state, Facts(**known), before or {}, now)
    check_pool_status(status)
    return status


# --- the future ---


def make_table(policy: PoolPolicy, nodes: Iterable[Node] = ()) -> NodeTable:
    """The pool's nodes as columns, with nothing held on them; without `nodes`, one node-1."""
    table = NodeTable(len(policy.resources), policy.strategy)
    for node in list(nodes) or [make_node()]:
        verdict = judge(node, None, policy, NOON)
        table.put(node.name, Row(node.labels, verdict, (0,) * len(policy.resources)))
    table.settle()
    return table


def make_timeline(nodes: Iterable[Node] = (), policy: PoolPolicy | None = None) -> Timeline:
    """A pool as time goes on from noon; without `nodes`, one node-1 of 16 cpu and 64Gi."""
    policy = policy or make_pool(queue="Backfill")
    return Timeline(make_table(policy, nodes), policy, NOON)


def make_request(
    uid: str = "build",
    *,
    cpu: str = "2",
    memory: str = "1Gi",
    slices: int = 1,
    mode: str = "Any",
    topology_key: str = "",
    node_selector: Mapping[str, str] | None = None,
    span: str = "1h",
    not_before: str | None = None,
    tenant: str = "",
    priority: int = 0,
    age: str = "1m",
) -> Request:
    """A request that waits, created a minute before noon, for 2 cpu and 1Gi of memory; its room is taken an hour."""
    shape = Shape(
        tenant=tenant,
        need=(amount("cpu", cpu), amount("memory", memory)),
        slices=slices,
        mode=mode,
        topology_key=topology_key,
        node_selector=tuple(sorted((node_selector or {}).items())),
        span=NEVER if span == "for ever" else _span(span),
        not_before=0 if not_before is None else at(not_before),
    )
    return Request(uid, (-priority, at(f"-{age}"), next(_serial)), shape, priority)


_span = span
