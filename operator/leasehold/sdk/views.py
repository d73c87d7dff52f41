"""What is read from the cluster, as frozen values. Fields that this version does not know are passed over.

`raw` keeps the whole object, for what is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from leasehold.api.names import CounterOfferKind, LeaseCondition, LeaseReason, PoolCondition
from leasehold.core.times import SECOND, parse_time

Json = Mapping[str, Any]

_NEVER_THERE: Final[Json] = {}


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of an object. `status` is True, False or Unknown, as text."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None

    @property
    def true(self) -> bool:
        """Whether it holds."""
        return self.status == "True"


@dataclass(frozen=True, slots=True)
class Slice:
    """One part of a grant: a node, and what is held there."""

    index: int
    node: str
    resources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Deadline:
    """When something happens if nobody does anything, by the operator's clock, and what."""

    time: datetime
    cause: str


@dataclass(frozen=True, slots=True)
class CounterOffer:
    """What could be had instead. `kind` is Smaller, OtherPool or Later. Nothing of it is kept: ask for it anew."""

    kind: str
    resources: Mapping[str, str] | None = None
    count: int | None = None
    pool: str | None = None
    start_time: datetime | None = None

    def __str__(self) -> str:
        """Say it in a sentence."""
        what = ", ".join(f"{name} {text}" for name, text in (self.resources or {}).items())
        if self.kind == CounterOfferKind.SMALLER:
            parts = [what or "the same", f"in {self.count} slices" if self.count else ""]
            return f"{' '.join(filter(None, parts))} could be had now"
        if self.kind == CounterOfferKind.OTHER_POOL:
            return f"the same could be had from pool {self.pool}"
        return f"the same could be had from {_text(self.start_time)} on"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why so many nodes were passed over."""

    reason: str
    nodes: int
    resource: str | None = None
    short_by: str | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """Whether a request could be granted, without asking for it.

    `granted` tells whether it could be, now or later. Then `start_time`, `pool`, `nodes` and `victims` (the leases that
    would be ended for it) say how; else `reason`, `rejections` and `counter_offer` say why not, and what could.
    """

    granted: bool
    reason: str = ""
    message: str = ""
    pool: str | None = None
    start_time: datetime | None = None
    nodes: tuple[str, ...] = ()
    victims: tuple[str, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    counter_offer: CounterOffer | None = None


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease as it was last seen."""

    name: str
    namespace: str
    uid: str
    pool: str | None
    resources: Mapping[str, str]
    count: int
    identity: str | None
    phase: str
    conditions: Mapping[str, Condition]
    token: int | None
    slices: tuple[Slice, ...]
    queue_position: int | None
    estimated_start: datetime | None
    expires: datetime | None
    next_deadline: Deadline | None
    rejections: tuple[Rejection, ...]
    counter_offer: CounterOffer | None
    raw: Json = field(repr=False, compare=False, default_factory=dict)

    @classmethod
    def of(cls, document: Json) -> LeaseView:
        """Read an object of the API server."""
        meta, spec, status = _parts(document)
        deadlines, queue = _map(status, "deadlines"), _map(status, "queue")
        holder = _map(spec, "holder")
        return cls(
            name=str(meta.get("name", "")),
            namespace=str(meta.get("namespace", "")),
            uid=str(meta.get("uid", "")),
            pool=_map(spec, "poolRef").get("name"),
            resources=_amounts(spec.get("resources")),
            count=int(spec.get("count", 1)),
            identity=holder.get("identity"),
            phase=str(status.get("phase", "")),
            conditions=_conditions(status),
            token=status.get("fencingToken"),
            slices=tuple(
                Slice(int(row.get("index", 0)), str(row.get("nodeName", "")), _amounts(row.get("resources")))
                for row in _map(status, "allocation").get("slices") or ()
            ),
            queue_position=queue.get("approximatePosition"),
            estimated_start=_time(queue.get("estimatedStartTime"))
            or _time(_map(status, "reservation").get("startTime")),
            expires=_time(deadlines.get("expirationTime")),
            next_deadline=_deadline(deadlines.get("next")),
            rejections=_rejections(status),
            counter_offer=_counter_offer(status.get("counterOffer")),
            raw=document,
        )

    def is_(self, type_: str, status: str = "True") -> bool:
        """Tell whether a condition stands at a status; one that is not there does not."""
        found = self.conditions.get(type_)
        return found is not None and found.status == status

    def reason(self, type_: str = LeaseCondition.READY) -> str:
        """Return a condition's reason, "" where it is not there."""
        found = self.conditions.get(type_)
        return "" if found is None else found.reason

    def message(self, type_: str = LeaseCondition.READY) -> str:
        """Return a condition's message, or what its reason means."""
        found = self.conditions.get(type_)
        return "" if found is None else found.message or meaning_of(found.reason)

    @property
    def granted(self) -> bool:
        """Whether it holds its capacity."""
        return self.is_(LeaseCondition.ALLOCATED) and not self.is_(LeaseCondition.RELEASED)

    @property
    def ready(self) -> bool:
        """Whether its capacity may be used now."""
        return self.is_(LeaseCondition.READY)

    @property
    def finished(self) -> bool:
        """Whether it is over for good."""
        return self.is_(LeaseCondition.FINISHED)

    @property
    def deleting(self) -> bool:
        """Whether it is being deleted."""
        return bool(_map(self.raw, "metadata").get("deletionTimestamp"))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The node of each slice."""
        return tuple(part.node for part in self.slices)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a lease is where it is: in words, and in the parts that the words are made of."""

    summary: str
    lease: LeaseView
    reason: str
    message: str
    position: int | None
    estimated_start: datetime | None
    rejections: tuple[Rejection, ...]
    counter_offer: CounterOffer | None

    @classmethod
    def of(cls, view: LeaseView) -> Explanation:
        """Explain a lease."""
        reason, message = view.reason(), view.message()
        parts = [f"{view.namespace}/{view.name}: {view.phase or 'not seen by the operator yet'}."]
        if message:
            parts.append(message if message.endswith(".") else f"{message}.")
        if view.queue_position is not None and not view.granted:
            parts.append(f"About number {view.queue_position} in the queue.")
        if view.estimated_start is not None and not view.granted:
            parts.append(f"It should start at {_text(view.estimated_start)}.")
        for found in view.rejections:
            short = f" (short by {found.short_by} {found.resource})" if found.short_by else ""
            parts.append(f"{found.nodes} nodes: {found.reason}{short}.")
        if view.counter_offer is not None:
            parts.append(f"Instead, {view.counter_offer}.")
        return cls(
            summary=" ".join(parts),
            lease=view,
            reason=reason,
            message=message,
            position=view.queue_position,
            estimated_start=view.estimated_start,
            rejections=view.rejections,
            counter_offer=view.counter_offer,
        )

    def __str__(self) -> str:
        """Return the words."""
        return self.summary


@dataclass(frozen=True, slots=True)
class ResourceAvailability:
    """What a pool has of one resource. `largest_free` is the most that one slice can get."""

    name: str
    total: str
    allocatable: str
    allocated: str
    free: str
    largest_free: str


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as it was last seen. Times are those of its leasePolicy, in seconds."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    reason: str
    message: str
    conditions: Mapping[str, Condition]
    capacity: Mapping[str, ResourceAvailability]
    nodes: Mapping[str, int]
    pending: int
    held: int
    heartbeat_timeout: int
    grace: int
    ends_leases: bool
    raw: Json = field(repr=False, compare=False, default_factory=dict)

    @classmethod
    def of(cls, document: Json) -> PoolView:
        """Read an object of the API server."""
        meta, spec, status = _parts(document)
        policy, leases = _map(spec, "leasePolicy"), _map(status, "leases")
        conditions = _conditions(status)
        ready = conditions.get(PoolCondition.READY)
        return cls(
            name=str(meta.get("name", "")),
            labels=dict(meta.get("labels") or {}),
            ready=ready is not None and ready.true,
            reason="" if ready is None else ready.reason,
            message="" if ready is None else ready.message,
            conditions=conditions,
            capacity={
                str(row["name"]): ResourceAvailability(
                    name=str(row["name"]),
                    **{
                        word: str(row.get(key, "0"))
                        for word, key in (
                            ("total", "total"),
                            ("allocatable", "allocatable"),
                            ("allocated", "allocated"),
                            ("free", "free"),
                            ("largest_free", "largestFree"),
                        )
                    },
                )
                for row in status.get("capacity") or ()
            },
            nodes={k: v for k, v in _map(status, "nodes").items() if isinstance(v, int)},
            pending=int(leases.get("pending", 0)),
            held=int(leases.get("held", leases.get("active", 0))),
            heartbeat_timeout=int(policy.get("heartbeatTimeoutSeconds", 60)),
            grace=int(policy.get("gracePeriodSeconds", 30)),
            ends_leases=policy.get("expirationAction", "Release") != "NotifyOnly",
            raw=document,
        )

    def fits(self, **resources: str | int) -> bool:
        """Tell whether one slice of these would fit now, as far as the pool's status says; a `Quote` knows better."""
        from leasehold.api.quantity import amount

        if not self.ready:
            return False
        for word, text in resources.items():
            name = "ephemeral-storage" if word == "disk" else word
            row = self.capacity.get(name)
            if row is None or amount(name, text) > amount(name, row.largest_free, round_up=False):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Progress:
    """How a request waits. `waited` are seconds."""

    reason: str
    message: str
    position: int | None
    estimated_start: datetime | None
    waited: float
    lease: LeaseView

    def __str__(self) -> str:
        """Say it in a line."""
        parts = [f"{self.lease.name}: {self.reason or 'Requested'}"]
        if self.position is not None:
            parts.append(f"number {self.position} in the queue")
        if self.estimated_start is not None:
            parts.append(f"expected {_text(self.estimated_start)}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Ending:
    """A lease is about to end. `seconds` are left, by the holder's own clock; `reason` is the operator's."""

    name: str
    reason: str
    message: str
    seconds: float


def quote_of(view: LeaseView) -> Quote:
    """Read the answer to a lease of mode DryRun."""
    status = _map(view.raw, "status")
    found = _map(status, "quote")
    return Quote(
        granted=bool(found),
        reason=view.reason(LeaseCondition.ACCEPTED)
        if view.is_(LeaseCondition.ACCEPTED, "False")
        else view.reason(LeaseCondition.ALLOCATED),
        message=view.message(LeaseCondition.ACCEPTED)
        if view.is_(LeaseCondition.ACCEPTED, "False")
        else view.message(LeaseCondition.ALLOCATED),
        pool=found.get("pool"),
        start_time=_time(found.get("startTime")),
        nodes=tuple(str(node) for node in found.get("nodes") or ()),
        victims=tuple(str(name) for name in found.get("victims") or ()),
        rejections=view.rejections,
        counter_offer=view.counter_offer,
    )


def meaning_of(reason: str) -> str:
    """Return the sentence that explains a reason of a lease's condition, "" for one that is not known."""
    try:
        return LeaseReason(reason).meaning
    except ValueError:
        return ""


def stamp(status: Json, part: str, name: str) -> int | None:
    """Return a time of a status in ms, by the operator's clock."""
    return _millis(_map(status, part).get(name))


def millis_of(at: datetime) -> int:
    """Return a time in ms, as `stamp` does."""
    return round(at.timestamp() * SECOND)


def _parts(document: Json) -> tuple[Json, Json, Json]:
    return _map(document, "metadata"), _map(document, "spec"), _map(document, "status")


def _map(document: Json, name: str) -> Json:
    found = document.get(name)
    return found if isinstance(found, Mapping) else _NEVER_THERE


def _amounts(found: Any) -> Mapping[str, str]:
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, Mapping) else {}


def _conditions(status: Json) -> Mapping[str, Condition]:
    return {
        str(row["type"]): Condition(
            str(row["type"]),
            str(row.get("status", "Unknown")),
            str(row.get("reason", "")),
            str(row.get("message", "")),
            _time(row.get("lastTransitionTime")),
        )
        for row in status.get("conditions") or ()
        if isinstance(row, Mapping) and "type" in row
    }


def _deadline(found: Any) -> Deadline | None:
    at = _time(found.get("time")) if isinstance(found, Mapping) else None
    return None if at is None else Deadline(at, str(found.get("cause", "")))


def _rejections(status: Json) -> tuple[Rejection, ...]:
    return tuple(
        Rejection(
            str(row.get("reason", "")), int(row.get("nodes", 0)), row.get("resource"), row.get("shortBy")
        )
        for row in status.get("rejections") or ()
    )


def _counter_offer(found: Any) -> CounterOffer | None:
    if not isinstance(found, Mapping):
        return None
    return CounterOffer(
        kind=str(found.get("kind", "")),
        resources=_amounts(found["resources"]) if found.get("resources") else None,
        count=found.get("count"),
        pool=found.get("pool"),
        start_time=_time(found.get("startTime")),
    )


def _millis(found: Any) -> int | None:
    return parse_time(found) if isinstance(found, str) else None


def _time(found: Any) -> datetime | None:
    at = _millis(found)
    return None if at is None else datetime.fromtimestamp(at / SECOND, UTC)


def _text(at: datetime | None) -> str:
    return "some time" if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")
