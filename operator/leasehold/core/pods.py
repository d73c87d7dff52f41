"""Pods as far as leases go: what they request, where they may run, and what they were let go with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from sys import intern
from typing import Any, Final, NamedTuple

from leasehold.api.names import (
    CPU,
    ENDING_ANNOTATION,
    LEASE_GATE,
    LEASE_LABEL,
    MEMORY,
    PLACEHOLDER_ANNOTATION,
    POD_CONDITION,
    SLICE_ANNOTATION,
)
from leasehold.api.quantity import MAX_AMOUNT, QuantityError, amount
from leasehold.core.selectors import Labels, Requirement
from leasehold.core.times import parse_time

Json = Mapping[str, Any]

PODS: Final = "pods"
"""The resource by which a node says how many pods it takes."""

_POD_LEVEL: Final = frozenset({CPU, MEMORY})
"""What a pod can request as a whole, beside huge pages (KEP-2837)."""

_OVER: Final = frozenset({"Succeeded", "Failed"})


class SliceRef(NamedTuple):
    """Which slice of which lease a pod was given."""

    lease: str
    position: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod that names a lease. Instants are milliseconds; `node` is "" until it is bound.

    `terms`, `selector` and `tolerations` are kept while it is gated, as they are written: the placement it asks for
    itself. `told` is the reason and the message of our condition. `since` is when it finished, or else was made. Two
    that differ in their version alone are equal.
    """

    uid: str
    namespace: str
    name: str
    version: int = field(compare=False)
    lease: str
    node: str
    requests: Mapping[str, int]
    gated: bool
    over: bool
    failed: bool
    leaving: bool
    slice: SliceRef | None
    controller: str
    created: int
    since: int
    nominated: str
    warned: str
    told: tuple[str, str]
    selector: tuple[tuple[str, str], ...] = ()
    terms: tuple[Json, ...] = ()
    tolerations: tuple[Json, ...] = ()

    @property
    def key(self) -> str:
        """The pod's `namespace/name`, for people."""
        return f"{self.namespace}/{self.name}"


class Resident(NamedTuple):
    """A pod that is bound to a node and not over: what it takes there, and the slice it was let go with."""

    node: str
    requests: Mapping[str, int]
    slice: SliceRef | None


def pod_of(document: Json) -> Pod:
    """Read a Pod that has the lease label, as the API server sent it."""
    meta, spec, status = document["metadata"], document["spec"], document.get("status") or {}
    annotations = meta.get("annotations") or {}
    gated = any(gate["name"] == LEASE_GATE for gate in spec.get("schedulingGates") or ())
    over = is_over(document)
    created = parse_time(meta["creationTimestamp"])
    condition = next((c for c in status.get("conditions") or () if c["type"] == POD_CONDITION), None)
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}) if gated else {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    owner = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), None)
    return Pod(
        uid=meta["uid"],
        namespace=intern(meta["namespace"]),
        name=meta["name"],
        version=int(meta.get("resourceVersion") or 0),
        lease=(meta.get("labels") or {}).get(LEASE_LABEL, ""),
        node=intern(spec.get("nodeName") or ""),
        requests=_counted(effective_requests(spec, status)),
        gated=gated,
        over=over,
        failed=status.get("phase") == "Failed",
        leaving="deletionTimestamp" in meta,
        slice=_slice_of(annotations),
        controller="" if owner is None else intern(owner["kind"]),
        created=created,
        since=_over_since(status, created) if over else created,
        nominated=status.get("nominatedNodeName") or "",
        warned=annotations.get(ENDING_ANNOTATION, ""),
        told=("", "") if condition is None else (condition.get("reason", ""), condition.get("message", "")),
        selector=tuple(sorted((spec.get("nodeSelector") or {}).items())) if gated else (),
        terms=tuple(required.get("nodeSelectorTerms") or ()),
        tolerations=tuple(spec.get("tolerations") or ()) if gated else (),
    )


def resident_of(document: Json) -> Resident | None:
    """Read any Pod; None while it takes nothing on a node: not bound, or over."""
    spec = document["spec"]
    node = spec.get("nodeName")
    if not node or is_over(document):
        return None
    annotations = document["metadata"].get("annotations") or {}
    return Resident(
        intern(node),
        _counted(effective_requests(spec, document.get("status") or {})),
        _slice_of(annotations),
    )


class Placeholder(NamedTuple):
    """A pod that holds a part of a slice. `key` is its lease's namespace and name; `node` is "" until it is bound."""

    uid: str
    name: str
    namespace: str
    version: int
    key: tuple[str, str]
    slice: SliceRef
    node: str
    nominated: str
    requests: Mapping[str, int]
    over: bool
    leaving: bool
    created: int


def placeholder_of(document: Json) -> Placeholder | None:
    """Read a placeholder as the API server sent it; None where it does not say what it holds for whom."""
    meta, spec, status = document["metadata"], document["spec"], document.get("status") or {}
    annotations = meta.get("annotations") or {}
    ref = _slice_of(annotations)
    namespace, _, name = annotations.get(PLACEHOLDER_ANNOTATION, "").partition("/")
    if ref is None or not name:
        return None
    return Placeholder(
        uid=meta["uid"],
        name=meta["name"],
        namespace=meta["namespace"],
        version=int(meta.get("resourceVersion") or 0),
        key=(namespace, name),
        slice=ref,
        node=spec.get("nodeName") or "",
        nominated=status.get("nominatedNodeName") or "",
        requests=effective_requests(spec, status),
        over=is_over(document),
        leaving="deletionTimestamp" in meta,
        created=parse_time(meta["creationTimestamp"]),
    )


def held_by(placeholders: Iterable[Placeholder]) -> dict[str, int]:
    """Return what placeholders request together."""
    total: dict[str, int] = {}
    for one in placeholders:
        add(total, one.requests)
    return total


def is_over(document: Json) -> bool:
    """Tell whether a Pod's containers have all ended for good: it takes nothing any more."""
    return (document.get("status") or {}).get("phase") in _OVER


def slice_text(ref: SliceRef) -> str:
    """Write a slice as the pod's annotation has it."""
    return f"{ref.lease}/{ref.position}"


def _slice_of(annotations: Json) -> SliceRef | None:
    text = annotations.get(SLICE_ANNOTATION, "")
    uid, _, index = text.rpartition("/")
    return SliceRef(intern(uid), int(index)) if uid and index.isdecimal() and len(index) < 6 else None


def _over_since(status: Json, created: int) -> int:
    ends = [
        parse_time(ended["finishedAt"])
        for name in ("containerStatuses", "initContainerStatuses")
        for row in status.get(name) or ()
        if (ended := (row.get("state") or {}).get("terminated")) and ended.get("finishedAt")
    ]
    return max(ends, default=created)


# --- what a pod requests ---


def effective_requests(spec: Json, status: Json) -> Mapping[str, int]:
    """Return what the scheduler counts for a pod, in whole units by resource.

    As `PodRequests` of k8s.io/component-helpers v0.37 (resource/helpers.go) with the status in use, which is how the
    scheduler calls it: containers and sidecars together, or the largest moment of the start if that is more; while a
    pod is resized in place the largest of what is asked, allocated and in effect; pod-level requests instead of the
    containers' where there are any; and the overhead of its runtime class. Claims of dynamic resource allocation that
    take from the node's own cpu and memory are not counted.
    """
    infeasible = _is_infeasible(status)
    found = dict(_aggregate(spec, lambda c: _amounts((c.get("resources") or {}).get("requests"))))
    rows = {
        row["name"]: row
        for name in ("containerStatuses", "initContainerStatuses")
        for row in status.get(name) or ()
        if "allocatedResources" in row or (row.get("resources") or {}).get("requests")
    }
    of_pod = status.get("allocatedResources"), (status.get("resources") or {}).get("requests")
    if rows or None not in of_pod:
        if None not in of_pod:
            allocated, actual = _amounts(of_pod[0]), _amounts(of_pod[1])
        else:
            allocated = _aggregate(spec, lambda c: _allocated(c, rows.get(c["name"]), infeasible))
            actual = _aggregate(spec, lambda c: _actual(c, rows.get(c["name"]), infeasible))
        found = _largest(*([] if infeasible else [found]), actual, allocated)
    whole = _amounts((spec.get("resources") or {}).get("requests"))
    if any(map(_is_pod_level, whole)):
        if "resources" in status:
            asked = {} if infeasible else whole
            whole = _largest(asked, _amounts(of_pod[1]), _amounts(of_pod[0]))
        found.update((name, units) for name, units in whole.items() if _is_pod_level(name))
    add(found, _amounts(spec.get("overhead")))
    return _shared(tuple(sorted(found.items())))


def _is_pod_level(name: str) -> bool:
    return name in _POD_LEVEL or name.startswith("hugepages-")


def _aggregate(spec: Json, requests_of: Callable[[Json], Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        add(total, requests_of(container))
    starting: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        mine = requests_of(container)
        if container.get("restartPolicy") == "Always":
            add(total, mine)
            add(sidecars, mine)
            moment = sidecars
        else:
            moment = dict(sidecars)
            add(moment, mine)
        starting = _largest(starting, moment)
    return _largest(total, starting)


def _allocated(container: Json, row: Json | None, infeasible: bool) -> Mapping[str, int]:
    if row is not None and "allocatedResources" in row:
        return _amounts(row["allocatedResources"])
    return {} if infeasible else _amounts((container.get("resources") or {}).get("requests"))


def _actual(container: Json, row: Json | None, infeasible: bool) -> Mapping[str, int]:
    in_effect = None if row is None else (row.get("resources") or {}).get("requests")
    return _allocated(container, row, infeasible) if in_effect is None else _amounts(in_effect)


def _is_infeasible(status: Json) -> bool:
    pending = next((c for c in status.get("conditions") or () if c["type"] == "PodResizePending"), None)
    return pending is not None and pending.get("reason") == "Infeasible"


def _amounts(resources: Json | None) -> Mapping[str, int]:
    return _read(tuple(resources.items())) if resources else {}


@lru_cache(4096, typed=True)
def _read(resources: tuple[tuple[str, Any], ...]) -> Mapping[str, int]:
    return {intern(name): _units(name, text) for name, text in resources}


def _units(name: str, text: str | int) -> int:
    """Return an amount; one that cannot be read is more than anybody has."""
    try:
        return amount(name, text)
    except QuantityError:
        return MAX_AMOUNT


def _counted(requests: Mapping[str, int]) -> Mapping[str, int]:
    """Return requests with the pod itself, of which a node has room for so many: pools can lend that, too."""
    return _shared(tuple(sorted({**requests, PODS: 1}.items())))


@lru_cache(4096)
def _shared(amounts: tuple[tuple[str, int], ...]) -> Mapping[str, int]:
    """Return one object for all pods that request the same: most are copies of a few."""
    return dict(amounts)


def add(total: dict[str, int], amounts: Mapping[str, int]) -> None:
    """Add amounts to a total, resource by resource."""
    for name, units in amounts.items():
        total[name] = total.get(name, 0) + units


def _largest(*maps: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for amounts in maps:
        for name, units in amounts.items():
            found[name] = max(found.get(name, 0), units)
    return found


# --- where a pod may run ---


def admits(pod: Pod, node: str, labels: Labels) -> bool:
    """Tell whether a gated pod's own nodeSelector and required node affinity let it run on a node."""
    if any(labels.get(key) != value for key, value in pod.selector):
        return False
    return not pod.terms or any(_term_matches(term, node, labels) for term in pod.terms)


def _term_matches(term: Json, node: str, labels: Labels) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False  # an empty term matches nothing
    name = {"metadata.name": node}
    return all(_matches(row, labels) for row in expressions) and all(_matches(row, name) for row in fields)


def _matches(row: Json, labels: Labels) -> bool:
    operator = row["operator"]
    values: list[str] = row.get("values") or []
    if operator not in ("Gt", "Lt"):
        return Requirement(row["key"], operator, frozenset(values)).matches(labels)
    try:
        mine, bound = int(labels.get(row["key"], "")), int(values[0])
    except (ValueError, IndexError):
        return False
    return mine > bound if operator == "Gt" else mine < bound


def pinned_to(node: str) -> Json:
    """Return a node selector term that only one node matches."""
    return {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}


def pinned(pod: Pod, node: str) -> list[Json]:
    """Return a gated pod's node selector terms, each narrowed to one node: the API server allows no other change."""
    if not pod.terms:
        return [pinned_to(node)]
    only = pinned_to(node)["matchFields"][0]
    return [_narrowed(term, only) for term in pod.terms]


def _narrowed(term: Json, only: Json) -> Json:
    if not (term.get("matchExpressions") or term.get("matchFields")):
        return term  # it matches nothing, and must not begin to
    return {**term, "matchFields": [*(term.get("matchFields") or ()), only]}


# --- what pods take of a node that leases do not explain ---


def unleased(
    residents: Iterable[Resident], held: Callable[[SliceRef], Mapping[str, int] | None]
) -> dict[str, int]:
    """Return what the pods of one node request beyond what their leases hold there.

    `held` gives what a slice holds on the node; None where its lease holds nothing there any more.
    """
    total: dict[str, int] = {}
    within: dict[SliceRef, dict[str, int]] = {}
    for resident in residents:
        ref = resident.slice
        if ref is None or held(ref) is None:
            add(total, resident.requests)
        else:
            add(within.setdefault(ref, {}), resident.requests)
    for ref, requested in within.items():
        room = held(ref) or {}
        add(
            total,
            {
                name: units - room.get(name, 0)
                for name, units in requested.items()
                if units > room.get(name, 0)
            },
        )
    return total
