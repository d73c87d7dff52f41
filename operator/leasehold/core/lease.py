"""One lease as decisions see it: the request, and the status as it stands on the API server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from sys import intern
from typing import Any, Final, NamedTuple

from leasehold.api.names import (
    FORCE_RELEASE_ANNOTATION,
    FORCE_RELEASE_VALUE,
    RELEASE_FINALIZER,
    REVOKE_ANNOTATION,
    LeaseMode,
    PodCompletionAction,
)
from leasehold.api.names import LeaseCondition as C
from leasehold.api.quantity import QuantityError, amount
from leasehold.core.errors import InvalidObject
from leasehold.core.selectors import Selector, selector_of
from leasehold.core.times import FAR_FUTURE, SECOND, parse_time

Json = Mapping[str, Any]

Key = tuple[str, str]
"""A namespace and a name."""

_SHAPES: Final = 4096
"""How many different amounts are kept to be shared; most leases of a pool ask for one of a few."""

_WORD: Final = 40
"""Texts no longer than this are words of which there are few, if they are no times."""


class Slice(NamedTuple):
    """A part of a grant: so much on one node. Amounts by resource name, in base units."""

    node: str
    amounts: Mapping[str, int]


class Reservation(NamedTuple):
    """A promised start, as the status tells it. `sequence` is the commit that made the promise; instants in ms."""

    sequence: int
    start: int
    end: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """A CapacityLease at one resourceVersion. Durations and instants are milliseconds.

    `pool` is "" until the operator chose one of the pools that `pool_selector` matches, or wrote that of the parent.
    `parent` names the lease that this one is a part of; "" for one that borrows from its pool. `tenant` is the one the
    holder names and `told_tenant` the one the lease counted for when its status was written; "" is none.

    `slices` is what the lease holds by its status: empty unless capacity counts against it, that is from
    `Allocated=True` until `Released=True`, and by nothing else.
    """

    uid: str
    namespace: str
    name: str
    version: int
    generation: int
    created: int
    deleting: bool
    finalizers: tuple[str, ...]
    pool: str
    pool_selector: Selector | None
    parent: str
    request: Mapping[str, int]
    count: int
    mode: str
    topology_key: str
    node_selector: tuple[tuple[str, str], ...]
    priority: int
    identity: str
    session: str
    liveness: str
    duration: int | None
    start_time: int | None
    start_deadline: int | None
    tenant: str
    is_dry_run: bool
    deferral: int
    renew_time: str
    wants_release: bool
    releases_when_done: bool
    ttl: int
    revoke: str
    force_release: bool
    problem: str
    status: Json
    conditions: Mapping[str, Json]
    told_tenant: str
    reservation: Reservation | None
    slices: tuple[Slice, ...] = field(default=())

    @property
    def key(self) -> str:
        """The lease's `namespace/name`, for people."""
        return f"{self.namespace}/{self.name}"

    @property
    def parent_key(self) -> Key:
        """Namespace and name of the lease that this one is a part of."""
        return self.namespace, self.parent

    @property
    def parent_uid(self) -> str:
        """The uid of the lease out of which the slices were taken; "" for those of the pool."""
        return str(self.status.get("allocation", {}).get("parentUID", ""))

    @property
    def token(self) -> int:
        """The fencing token; 0 before the first grant."""
        return int(self.status.get("fencingToken", 0))

    @property
    def holder(self) -> tuple[str, str]:
        """Whom the spec names as the holder: identity and session, "" for none."""
        return self.identity, self.session

    def turn(self, arrived: int = 0) -> tuple[int, int, int]:
        """Return where a lease stands among those that wait: higher priority first, then the older.

        Creation times are whole seconds. Within one, the version `arrived` at which a lease was first seen says which
        came first; the present one where that is not known.
        """
        return (-self.priority, self.created, arrived or self.version)

    @property
    def changes_hands(self) -> bool:
        """The lease is held, and its token is for another holder than the spec names.

        A lease that was granted before status told the holder has one that nobody could change; where its spec was
        changed since, nobody can tell what was, and a new token is never wrong.
        """
        if not self.slices:
            return False
        told = self.status.get("holder")
        if told is None:
            differs = self.status.get("observedGeneration", self.generation) != self.generation
        else:
            session = told["sessionRef"]["name"] if "sessionRef" in told else ""
            differs = self.identity != told.get("identity", "") or self.session != session
        return differs and not self.releasing

    @property
    def has_finalizer(self) -> bool:
        """Deleting the object waits for its capacity to be given back."""
        return RELEASE_FINALIZER in self.finalizers

    @property
    def shape(self) -> tuple[Any, ...]:
        """What makes two requests the same to the planner."""
        return (
            tuple(sorted(self.request.items())),
            self.count,
            self.mode,
            self.topology_key,
            self.node_selector,
        )

    def is_true(self, condition: str) -> bool:
        """Tell whether a condition stands at True."""
        found = self.conditions.get(condition)
        return found is not None and found["status"] == "True"

    def reason(self, condition: str) -> str:
        """Return a condition's reason, or "" where it is not set."""
        found = self.conditions.get(condition)
        return "" if found is None else str(found.get("reason", ""))

    @property
    def finished(self) -> bool:
        """The lease is over for good."""
        return self.is_true(C.FINISHED)

    @property
    def allocated(self) -> bool:
        """Capacity counts against this lease."""
        return self.is_true(C.ALLOCATED) and not self.is_true(C.RELEASED)

    @property
    def pending(self) -> bool:
        """The lease waits for a grant."""
        return not self.finished and not self.is_true(C.ALLOCATED)

    @property
    def releasing(self) -> bool:
        """The lease still counts, and is on its way out."""
        return self.allocated and "startTime" in self.status.get("release", {})

    def deadline(self, name: str) -> int | None:
        """Return one of `status.deadlines` in milliseconds, by its name on the wire."""
        text = self.status.get("deadlines", {}).get(name)
        return None if text is None else parse_time(text)

    def instant(self, part: str, name: str) -> int | None:
        """Return a time from another part of the status (`allocation`, `renewal`, `release`)."""
        text = self.status.get(part, {}).get(name)
        return None if text is None else parse_time(text)


def lease_of(document: Json) -> Lease:
    """Read a lease as the API server sent it.

    What the API server would refuse today but an older CRD may have let in does not raise: it is noted in
    `problem`, and such a lease is never granted. Raises InvalidObject only when the object is no lease at all.
    """
    try:
        meta, spec = document["metadata"], document["spec"]
        uid, pool, pool_selector = meta["uid"], *_pools(spec)
    except (KeyError, TypeError) as error:
        raise InvalidObject(f"not a CapacityLease: {error} is missing") from error
    status: Json = _compact(document.get("status") or {}, {})
    request, problem = _amounts(spec.get("resources") or {})
    if not problem and not (request and all(request.values())):
        problem = "spec.resources: write at least one amount greater than 0, and none of 0"
    start_time = None
    try:
        start_time = min(parse_time(spec["startTime"]), FAR_FUTURE) if "startTime" in spec else None
    except InvalidObject as error:
        problem = problem or f"spec.startTime: {error}"
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    holder = spec.get("holder") or {}
    placement = spec.get("placement") or {}
    annotations = meta.get("annotations") or {}
    duration, start_deadline = spec.get("durationSeconds"), spec.get("startDeadlineSeconds")
    return Lease(
        uid=uid,
        namespace=intern(meta["namespace"]),
        name=meta["name"],
        version=int(meta.get("resourceVersion") or 0),
        generation=meta.get("generation", 1),
        created=parse_time(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        finalizers=tuple(map(intern, meta.get("finalizers", ()))),
        pool=intern(pool),
        pool_selector=pool_selector,
        parent=_parent(spec, status),
        request=request,
        count=spec.get("count", 1),
        mode=intern(placement.get("mode", "Any")),
        topology_key=placement.get("topologyKey", ""),
        node_selector=tuple(sorted((placement.get("nodeSelector") or {}).items())),
        priority=spec.get("priority", 0),
        identity=holder.get("identity", ""),
        session=(holder.get("sessionRef") or {}).get("name", ""),
        liveness=intern(spec.get("liveness", "None")),
        duration=None if duration is None else duration * SECOND,
        start_time=start_time,
        start_deadline=None if start_deadline is None else start_deadline * SECOND,
        tenant=spec.get("tenant", ""),
        is_dry_run=spec.get("mode") == LeaseMode.DRY_RUN,
        deferral=spec.get("deferSeconds", 0) * SECOND,
        renew_time=spec.get("renewTime", ""),
        wants_release=spec.get("desiredState", "Held") == "Released",
        releases_when_done=spec.get("podCompletionAction") == PodCompletionAction.RELEASE,
        ttl=spec.get("ttlSecondsAfterFinished", 3600) * SECOND,
        revoke=annotations.get(REVOKE_ANNOTATION, ""),
        force_release=annotations.get(FORCE_RELEASE_ANNOTATION, "") == FORCE_RELEASE_VALUE,
        problem=problem,
        status=status,
        conditions=conditions,
        told_tenant=status.get("tenant", ""),
        reservation=_reservation(status),
        slices=_slices(status, conditions),
    )


def with_status(lease: Lease, status: Json, version: int) -> Lease:
    """Return a lease as it is once this status was written to it and nothing else changed."""
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    return replace(
        lease,
        version=version,
        status=status,
        conditions=conditions,
        told_tenant=status.get("tenant", ""),
        reservation=_reservation(status),
        slices=_slices(status, conditions),
    )


def _pools(spec: Json) -> tuple[str, Selector | None]:
    """Return the pool's name, "" where it is to be chosen, and the selector to choose by."""
    selector = spec.get("poolSelector")
    if selector is None:
        return (spec.get("poolRef") or {}).get("name", "") if "parentRef" in spec else spec["poolRef"][
            "name"
        ], None
    return (spec.get("poolRef") or {}).get("name", ""), selector_of(selector)


def _parent(spec: Json, status: Json) -> str:
    """Return the parent's name. What an operator that knew no sub-leases granted is the pool's: there it has none."""
    allocation = status.get("allocation")
    if allocation is not None and "parentUID" not in allocation:
        return ""
    return intern((spec.get("parentRef") or {}).get("name", ""))


def _reservation(status: Json) -> Reservation | None:
    found = status.get("reservation")
    if found is None:
        return None
    return Reservation(
        sequence=found["ledgerSequence"],
        start=parse_time(found["startTime"]),
        end=parse_time(found["endTime"]),
        slices=_rows(found["slices"]),
    )


def _slices(status: Json, conditions: Mapping[str, Json]) -> tuple[Slice, ...]:
    if conditions.get(C.ALLOCATED, {}).get("status") != "True":
        return ()
    if conditions.get(C.RELEASED, {}).get("status") == "True":
        return ()
    return _rows(status.get("allocation", {}).get("slices", ()))


def _rows(rows: Iterable[Json]) -> tuple[Slice, ...]:
    return tuple(Slice(row["nodeName"], _amounts(row["resources"])[0]) for row in rows)


def _amounts(resources: Mapping[str, Any]) -> tuple[Mapping[str, int], str]:
    return _amounts_of(tuple(resources.items()))


@lru_cache(_SHAPES, typed=True)
def _amounts_of(resources: tuple[tuple[str, Any], ...]) -> tuple[Mapping[str, int], str]:
    amounts: dict[str, int] = {}
    for name, text in resources:
        try:
            amounts[intern(name)] = amount(name, text)
        except QuantityError as error:
            return {}, f"spec.resources.{name}: {error}"
    return amounts, ""


def _compact(value: Any, texts: dict[str, str]) -> Any:
    """Return equal JSON that shares its texts: words with all leases, times within one. A third of its memory is saved.

    `texts` are those that were met in this lease.
    """
    if type(value) is list:
        return [_compact(inner, texts) for inner in value]
    if type(value) is not dict:
        return value
    made = {}
    for key, inner in value.items():
        kind = type(inner)
        if kind is str:  # nearly all that there is, so no call for each
            is_word = len(inner) <= _WORD and inner[:2] != "20"
            inner = intern(inner) if is_word else texts.setdefault(inner, inner)
        elif kind is dict or kind is list:
            inner = _compact(inner, texts)
        made[intern(key)] = inner
    return made
