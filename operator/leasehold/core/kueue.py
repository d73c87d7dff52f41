"""What an admission check of Kueue is answered: a Workload that has its quota waits until it has its leases, too.

Each of its pod sets is one lease of the pool that the check names. When all are granted, the pods get the label that
holds them to it. When one ends before the Workload does, Kueue is asked to evict the Workload and to try again.

A Workload that has quota reserved anew asks anew: the names of its leases say for which reservation they are, so
nothing need be remembered, and what was made before a crash is found again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from leasehold.api.names import (
    API_VERSION,
    GROUP,
    KUEUE_API_VERSION,
    KUEUE_CONTROLLER,
    KUEUE_WORKLOAD_LABEL,
    LEASE_KIND,
    LEASE_LABEL,
    POOL_KIND,
    DesiredState,
    LeaseReason,
    Liveness,
    Named,
    PodCompletionAction,
)
from leasehold.api.names import LeaseCondition as C
from leasehold.api.quantity import amount
from leasehold.core.lease import Lease
from leasehold.core.pods import PODS, effective_requests
from leasehold.core.status import amounts_document
from leasehold.core.times import SECOND, format_time

Json = Mapping[str, Any]

_MESSAGE: Final = 1024
_NAME: Final = 63
"""How long a label's value may be: pods name their lease by one."""

_HIGHEST: Final = 1_000_000_000
_THERE_BEFORE: Final = frozenset({"Pod", "StatefulSet", "LeaderWorkerSet"})
"""Owners of Workloads whose pods exist before they are admitted, gated by Kueue; pods of Deployments are among them."""

_FOR_NOW: Final = frozenset({LeaseReason.QUEUE_FULL, LeaseReason.POOL_NOT_FOUND})
"""Refusals that need no other request to pass."""


class State(Named):
    """How an admission check stands for one Workload."""

    PENDING = "Pending", "it waits"
    READY = "Ready", "it may start"
    RETRY = "Retry", "it is evicted, and tried again"
    REJECTED = "Rejected", "it is evicted and deactivated"


# --- what is known ---


@dataclass(frozen=True, slots=True)
class PodSet:
    """Pods of one template, as they were admitted: how many, and what each requests, in whole units by resource."""

    name: str
    count: int
    requests: Mapping[str, int]
    node_selector: tuple[tuple[str, str], ...]
    flavors: tuple[str, ...]


class Told(NamedTuple):
    """What a Workload says of one of its checks. `since` is a time as it is written; `updates` name their leases."""

    state: str
    message: str
    since: str
    updates: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """A Workload of Kueue at one resourceVersion.

    `reserved` is since when it has its quota, as it is written, or "" while it has none. It is `over` when it needs no
    lease any more, for now or for good. `time_left` is for how long it may still run (s), None for as long as it takes.
    Pod sets are read only of one that has its quota. `has_pods` tells that its pods are there before it may start.
    """

    uid: str
    namespace: str
    name: str
    version: int
    reserved: str
    over: bool
    priority: int
    time_left: int | None
    checks: Mapping[str, Told]
    pod_sets: tuple[PodSet, ...]
    has_pods: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """An AdmissionCheck at one resourceVersion. `told` is its condition Active, {} where it has none."""

    uid: str
    name: str
    version: int
    generation: int
    is_ours: bool
    parameters: Json
    told: Json


class Flavor(NamedTuple):
    """A ResourceFlavor: the labels that its nodes have, and that Kueue asks for in its pods' nodeSelector."""

    uid: str
    name: str
    version: int
    labels: Mapping[str, str]


class Terms(NamedTuple):
    """The pool that a check names, "" where it names none that is there, and the resources that the pool lends."""

    pool: str
    lends: tuple[str, ...] = ()


def workload_of(document: Json) -> Workload:
    """Read a Workload as the API server sent it."""
    meta, spec, status = document["metadata"], document["spec"], document.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or () if c["status"] == "True"}
    over = (
        "deletionTimestamp" in meta
        or not spec.get("active", True)
        or not conditions.keys().isdisjoint({"Finished", "Evicted"})
    )
    reserved = conditions.get("QuotaReserved", {}).get("lastTransitionTime", "")
    limit = spec.get("maximumExecutionTimeSeconds")
    used = status.get("accumulatedPastExecutionTimeSeconds") or 0
    admission = status.get("admission") or {}
    assigned = {row["name"]: row for row in admission.get("podSetAssignments") or ()}
    return Workload(
        uid=meta["uid"],
        namespace=meta["namespace"],
        name=meta["name"],
        version=int(meta["resourceVersion"]),
        reserved=reserved,
        over=over,
        priority=spec.get("priority") or 0,
        time_left=None if limit is None else max(1, limit - used),
        checks={row["name"]: _told(row) for row in status.get("admissionChecks") or ()},
        pod_sets=tuple(_pod_set(row, assigned.get(row["name"], {})) for row in spec["podSets"])
        if reserved and not over
        else (),
        has_pods=any(owner["kind"] in _THERE_BEFORE for owner in meta.get("ownerReferences") or ()),
    )


def _told(row: Json) -> Told:
    updates = row.get("podSetUpdates") or ()
    return Told(
        state=row["state"],
        message=row.get("message", ""),
        since=row.get("lastTransitionTime", ""),
        updates=tuple((one["name"], (one.get("labels") or {}).get(LEASE_LABEL, "")) for one in updates),
    )


def _pod_set(document: Json, assigned: Json) -> PodSet:
    spec = document["template"]["spec"]
    count = assigned.get("count", document.get("count", 1))
    return PodSet(
        name=document["name"],
        count=count,
        requests=_requests(spec, assigned.get("resourceUsage") or {}, count),
        node_selector=tuple(sorted((spec.get("nodeSelector") or {}).items())),
        flavors=tuple(sorted(set((assigned.get("flavors") or {}).values()))),
    )


def _requests(spec: Json, usage: Json, count: int) -> Mapping[str, int]:
    """Return what one pod of a template will request.

    The API server takes limits for requests that are missing. Kueue's own sums, where they are more, tell what a
    LimitRange or a RuntimeClass will add.
    """
    filled = {
        **spec,
        **{
            part: [_with_limits(container) for container in spec[part]]
            for part in ("containers", "initContainers")
            if spec.get(part)
        },
    }
    found = {**effective_requests(filled, {}), PODS: 1}
    for name, text in usage.items() if count else ():
        found[name] = max(found.get(name, 0), -(-amount(name, text) // count))
    return found


def _with_limits(container: Json) -> Json:
    resources = container.get("resources") or {}
    requests = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {**container, "resources": {**resources, "requests": requests}}


def check_of(document: Json) -> Check:
    """Read an AdmissionCheck as the API server sent it."""
    meta, spec = document["metadata"], document["spec"]
    rows = (document.get("status") or {}).get("conditions") or ()
    return Check(
        uid=meta["uid"],
        name=meta["name"],
        version=int(meta["resourceVersion"]),
        generation=meta.get("generation", 1),
        is_ours=spec["controllerName"] == KUEUE_CONTROLLER,
        parameters=spec.get("parameters") or {},
        told=next((row for row in rows if row["type"] == "Active"), {}),
    )


def flavor_of(document: Json) -> Flavor:
    """Read a ResourceFlavor as the API server sent it."""
    meta = document["metadata"]
    labels = (document.get("spec") or {}).get("nodeLabels") or {}
    return Flavor(meta["uid"], meta["name"], int(meta["resourceVersion"]), labels)


# --- the check itself ---


def terms_of(check: Check, pools: Mapping[str, tuple[str, ...]]) -> Terms:
    """Return the pool that a check names; `pools` says, by name, what each lends."""
    name = check.parameters.get("name", "")
    usable = not _misnamed(check) and name in pools
    return Terms(name, pools[name]) if usable else Terms("")


def active_condition(check: Check, terms: Terms, now: int) -> Json | None:
    """Return the condition that says whether a check works, and if not why; None where it says so already."""
    name = check.parameters.get("name", "")
    missing = (
        f"There is no CapacityPool {name!r} that can be read. Create it, or correct spec.parameters.name."
    )
    status, reason, message = (
        ("True", "Active", f"Workloads wait for leases of CapacityPool {name}.")
        if terms.pool
        else ("False", "BadParametersRef", _misnamed(check) or missing)
    )
    fresh = {"type": "Active", "status": status, "reason": reason, "message": message}
    told = check.told
    if fresh.items() <= told.items() and told.get("observedGeneration") == check.generation:
        return None
    since = told["lastTransitionTime"] if told.get("status") == status else _written(now)
    return {**fresh, "lastTransitionTime": since, "observedGeneration": check.generation}


def _misnamed(check: Check) -> str:
    wanted = f"{{apiGroup: {GROUP}, kind: {POOL_KIND}, name: …}}"
    named = check.parameters.get("apiGroup"), check.parameters.get("kind")
    if named == (None, None):
        return f"spec.parameters is missing. Name a pool there: {wanted}."
    return "" if named == (GROUP, POOL_KIND) else f"spec.parameters names no {POOL_KIND}. Write {wanted}."


# --- what to do about a Workload ---


class Answer(NamedTuple):
    """What to write about one check of a Workload; `updates` name the leases of its pod sets."""

    check: str
    state: State
    message: str
    since: str
    updates: tuple[tuple[str, str], ...] = ()


class Plan(NamedTuple):
    """What to do now about one Workload: leases to create, as documents, leases to give back, and what to answer.

    `doubtful` are the names of leases that the answer takes for gone: to be looked for once more before it is written.
    """

    create: tuple[Json, ...] = ()
    release: tuple[Lease, ...] = ()
    answers: tuple[Answer, ...] = ()
    doubtful: tuple[str, ...] = ()


def plan(
    workload: Workload,
    checks: Mapping[str, Terms],
    leases: Iterable[Lease],
    flavors: Mapping[str, Mapping[str, str]],
    now: int,
) -> Plan:
    """Decide about one Workload. `checks` are those that are ours, `leases` those that were made for this Workload, and
    `flavors` the labels of the nodes of each ResourceFlavor.
    """
    known = {lease.name: lease for lease in leases}
    held = tuple(lease for lease in known.values() if not _is_ended(lease))
    mine = sorted(workload.checks.keys() & checks.keys())
    if not mine or workload.over or not workload.reserved:
        return Plan(release=held)
    if workload.has_pods or len(mine) > 1:
        text = (
            "Its pods are there already, and a pod cannot get its lease later. Queue a Job, or another kind whose"
            " pods are made when it starts."
            if workload.has_pods
            else f"A pod runs within one lease, and {', '.join(mine)} ask for one each. Keep one of these checks."
        )
        answers = (_answer(workload, name, State.REJECTED, text, now) for name in mine)
        return Plan(release=held, answers=_news(workload, *answers))
    (check,) = mine
    told = workload.checks[check]
    if told.state == State.READY:
        return _while_it_runs(workload, check, known, held, now)
    if told.state != State.PENDING:
        return Plan(release=held)
    return _while_it_waits(workload, check, checks[check], known, held, flavors, now)


def release_all(leases: Iterable[Lease]) -> Plan:
    """Return what to do about the leases of a Workload that is gone."""
    return Plan(release=tuple(lease for lease in leases if not _is_ended(lease)))


def refused(workload: Workload, checks: Iterable[str], why: str, now: int, *, for_good: bool) -> Plan:
    """Return what to say where the API server does not take a lease for a Workload."""
    state = State.REJECTED if for_good else State.PENDING
    text = f"No CapacityLease could be created: {why}"
    names = [name for name in checks if name in workload.checks]
    return Plan(answers=_news(workload, *(_answer(workload, name, state, text, now) for name in names)))


def _while_it_runs(
    workload: Workload, check: str, known: Mapping[str, Lease], held: Sequence[Lease], now: int
) -> Plan:
    """Once it may start it must keep the leases that its pods were told."""
    names = [name for _, name in workload.checks[check].updates if name]
    missing = tuple(name for name in names if name not in known)
    ended = next((known[name] for name in names if name in known and _is_ended(known[name])), None)
    if ended is None and not missing:
        return Plan(release=tuple(lease for lease in held if lease.name not in names))
    again = _again(workload, check, _end_of(ended) if ended else f"CapacityLease {missing[0]} is gone.", now)
    return Plan(release=tuple(held), answers=_news(workload, again), doubtful=() if ended else missing)


def _while_it_waits(
    workload: Workload,
    check: str,
    terms: Terms,
    known: Mapping[str, Lease],
    held: Sequence[Lease],
    flavors: Mapping[str, Mapping[str, str]],
    now: int,
) -> Plan:
    names = {lease_name(workload, pods): pods for pods in workload.pod_sets}
    theirs = [known[name] for name in names if name in known]
    ended = next(filter(_is_ended, theirs), None)
    if ended is not None:
        return Plan(
            release=tuple(held), answers=_news(workload, _again(workload, check, _end_of(ended), now))
        )
    stale = tuple(lease for lease in held if lease.name not in names)
    wrong = next(filter(_is_refused, theirs), None)
    if wrong is not None:
        text = f"CapacityLease {wrong.name}: {wrong.reason(C.ACCEPTED)}: {wrong.conditions[C.ACCEPTED]['message']}"
        return Plan(
            release=tuple(held), answers=_news(workload, _answer(workload, check, State.REJECTED, text, now))
        )
    if not terms.pool:
        text = f"AdmissionCheck {check} is not active; its own condition says why."
        return Plan(
            release=stale, answers=_news(workload, _answer(workload, check, State.PENDING, text, now))
        )
    needed = {name: pods for name, pods in names.items() if pods.count and _borrowed(pods, terms.lends)}
    missing = [name for name in needed if name not in known]
    if missing:
        if any(flavor not in flavors for name in missing for flavor in needed[name].flavors):
            return Plan(release=stale)  # Kueue has heard of it, we shall
        made = (_lease_document(workload, name, needed[name], terms, flavors) for name in missing)
        return Plan(create=tuple(made), release=stale)
    waiting = next((lease for lease in theirs if not lease.is_true(C.READY)), None)
    if waiting is None:
        return Plan(release=stale, answers=_news(workload, _ready(workload, check, needed, now)))
    if not waiting.conditions:
        return Plan(release=stale)  # mostly it is granted at once
    # What the reason means: the message of the condition would change from moment to moment.
    reason = waiting.reason(C.ALLOCATED) or waiting.reason(C.ACCEPTED) or LeaseReason.PENDING_EVALUATION
    text = f"CapacityLease {waiting.name} waits: {_meaning(reason)}"
    return Plan(release=stale, answers=_news(workload, _answer(workload, check, State.PENDING, text, now)))


def lease_name(workload: Workload, pods: PodSet) -> str:
    """Return the name of a pod set's lease: the same for as long as the Workload keeps its quota, and never again."""
    key = "/".join((workload.uid, workload.reserved, pods.name))
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    words = f"{workload.name}-{pods.name}"[: _NAME - len(digest) - 1].rstrip("-.")
    return f"{words}-{digest}"


def _lease_document(
    workload: Workload, name: str, pods: PodSet, terms: Terms, flavors: Mapping[str, Mapping[str, str]]
) -> Json:
    selector = dict(pods.node_selector)
    for flavor in pods.flavors:
        selector |= flavors[flavor]
    owner = {"apiVersion": KUEUE_API_VERSION, "kind": "Workload", "name": workload.name, "uid": workload.uid}
    return {
        "apiVersion": API_VERSION,
        "kind": LEASE_KIND,
        "metadata": {
            "name": name,
            "namespace": workload.namespace,
            "labels": {KUEUE_WORKLOAD_LABEL: workload.uid},
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": {
            "poolRef": {"name": terms.pool},
            "resources": amounts_document(_borrowed(pods, terms.lends)),
            "count": pods.count,
            "priority": max(-_HIGHEST, min(workload.priority, _HIGHEST)),
            "holder": {"identity": f"kueue/{workload.name}"[:253]},
            "liveness": str(Liveness.NONE),
            "podCompletionAction": str(PodCompletionAction.KEEP),
            **({} if workload.time_left is None else {"durationSeconds": workload.time_left}),
            **({"placement": {"nodeSelector": selector}} if selector else {}),
        },
    }


def _borrowed(pods: PodSet, lends: Iterable[str]) -> Mapping[str, int]:
    """Return what of a pod's requests the pool lends: no more is counted against a lease."""
    return {name: pods.requests[name] for name in lends if pods.requests.get(name, 0)}


def released_patch(lease: Lease) -> Json:
    """Return the merge patch by which a lease is given back, if it is still this one."""
    return {"metadata": {"uid": lease.uid}, "spec": {"desiredState": str(DesiredState.RELEASED)}}


def answers_document(workload: Workload, answers: Iterable[Answer]) -> Json:
    """Return a Workload with nothing but our answers in it, to be applied if it is still this version."""
    meta = {
        "name": workload.name,
        "namespace": workload.namespace,
        "uid": workload.uid,
        "resourceVersion": str(workload.version),
    }
    kind = {"apiVersion": KUEUE_API_VERSION, "kind": "Workload"}
    return {**kind, "metadata": meta, "status": {"admissionChecks": [_row(answer) for answer in answers]}}


def _row(answer: Answer) -> Json:
    updates = [{"name": name, "labels": {LEASE_LABEL: lease}} for name, lease in answer.updates]
    return {
        "name": answer.check,
        "state": str(answer.state),
        "message": answer.message,
        "lastTransitionTime": answer.since,
        **({"podSetUpdates": updates} if updates else {}),
    }


def check_document(check: Check, condition: Json) -> Json:
    """Return an AdmissionCheck with nothing but its condition in it, to be applied if it is still this version."""
    meta = {"name": check.name, "uid": check.uid, "resourceVersion": str(check.version)}
    kind = {"apiVersion": KUEUE_API_VERSION, "kind": "AdmissionCheck"}
    return {**kind, "metadata": meta, "status": {"conditions": [condition]}}


def _is_ended(lease: Lease) -> bool:
    return lease.deleting or lease.wants_release or lease.finished or lease.releasing


def _is_refused(lease: Lease) -> bool:
    said = lease.conditions.get(C.ACCEPTED)
    return said is not None and said["status"] == "False" and said["reason"] not in _FOR_NOW


def _ready(workload: Workload, check: str, needed: Mapping[str, PodSet], now: int) -> Answer:
    text = (
        f"Granted: CapacityLease {', '.join(needed)}."
        if needed
        else "Its pods request nothing that the pool lends."
    )
    updates = tuple((pods.name, name) for name, pods in needed.items())
    return _answer(workload, check, State.READY, text, now, updates)


def _again(workload: Workload, check: str, why: str, now: int) -> Answer:
    """Have the Workload evicted and tried again: at once, because the pool's queue is all there is to wait for.

    With `requeueAfterSeconds` Kueue (0.17) evicts it only when that time is over, and its pods would wait as long.
    """
    return _answer(workload, check, State.RETRY, why, now)


def _answer(
    workload: Workload,
    check: str,
    state: State,
    message: str,
    now: int,
    updates: tuple[tuple[str, str], ...] = (),
) -> Answer:
    told = workload.checks[check]
    since = told.since if told.state == state and told.since else _written(now)
    return Answer(check, state, message[:_MESSAGE], since, updates)


def _news(workload: Workload, *answers: Answer) -> tuple[Answer, ...]:
    """Return the answers unless the Workload says all of them already. What was applied once and is not named the next
    time is taken away, so it is all or none.
    """
    return answers if any(_differs(workload.checks[answer.check], answer) for answer in answers) else ()


def _differs(told: Told, answer: Answer) -> bool:
    return (told.state, told.message, told.updates) != (answer.state, answer.message, answer.updates)


def _end_of(lease: Lease) -> str:
    cause = lease.status.get("release", {}).get("cause", "") or LeaseReason.RELEASE_REQUESTED
    return f"CapacityLease {lease.name} ended: {_meaning(cause)}"


def _meaning(reason: str) -> str:
    with contextlib.suppress(ValueError):
        return f"{reason}: {LeaseReason(reason).meaning}"
    return reason


def _written(now: int) -> str:
    """Kueue's times are whole seconds."""
    return format_time(now // SECOND * SECOND)
