"""A lease's next status, drafted from the one it has, and the merge patch between the two.

Conditions are the contract. `phase` is drawn from them for people; no code reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeasePhase, LeaseReason
from leasehold.api.quantity import MAX_AMOUNT, format_amount
from leasehold.core.lease import Lease
from leasehold.core.times import format_time, parse_time

Patch = dict[str, Any]

_ORDER = (
    C.READY,
    C.ACCEPTED,
    C.ALLOCATED,
    C.CLAIMED,
    C.HOLDER_LIVE,
    C.EXPIRING_SOON,
    C.DISRUPTION_TARGET,
    C.DEGRADED,
    C.RELEASED,
    C.FINISHED,
)


class Draft:
    """The status a lease will have. Starts as a copy of what it has; `patch` is what must be written.

    `generation` is that of the spec for which the draft is made.
    """

    def __init__(self, lease: Lease, now: int) -> None:
        self.lease = lease
        self.now = now
        self.generation = lease.generation
        self.status: dict[str, Any] = dict(lease.status)
        self.conditions: dict[str, Mapping[str, Any]] = dict(lease.conditions)

    def say(self, type_: str, value: bool | None, reason: str, message: str = "") -> None:
        """Set a condition; None is Unknown. The transition time moves only when the status does."""
        status = "Unknown" if value is None else str(value)
        before = self.conditions.get(type_)
        if before is not None and (before["status"], before.get("reason"), before.get("message", "")) == (
            status,
            reason,
            message,
        ):
            return
        moved = before is None or before["status"] != status
        condition: dict[str, Any] = {
            "type": type_,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": format_time(self.now) if moved else before["lastTransitionTime"],  # type: ignore[index]
            "observedGeneration": self.generation,
        }
        self.conditions[type_] = condition

    def unsay(self, type_: str) -> None:
        """Drop a condition that no longer means anything; absent is unknown."""
        self.conditions.pop(type_, None)

    def holds(self, type_: str, value: str = "True") -> bool:
        """Tell whether a condition stands at this status in the draft."""
        return self.conditions.get(type_, {}).get("status") == value

    def deadline(self, name: str) -> int | None:
        """Return one of `status.deadlines` in the draft (ms), by its name on the wire."""
        text = self.status.get("deadlines", {}).get(name)
        return None if text is None else parse_time(text)

    def put(self, part: str, **fields: Any) -> None:
        """Set fields of one part of the status (`deadlines`, `renewal`, ...); None takes a field out."""
        merged = {**self.status.get(part, {}), **fields}
        kept = {key: value for key, value in merged.items() if value is not None}
        if kept:
            self.status[part] = kept
        else:
            self.status.pop(part, None)

    def set_time(self, part: str, **instants: int | None) -> None:
        """Set times of one part of the status, in milliseconds; None takes a time out."""
        self.put(part, **{key: None if at is None else format_time(at) for key, at in instants.items()})

    def next_deadline(self, at: int | None, cause: str) -> None:
        """Say what comes next and why: the answer to "when and why will I lose this?"."""
        self.put("deadlines", next=None if at is None else {"time": format_time(at), "cause": cause})

    def patch(self) -> Patch:
        """Return the merge patch (RFC 7386) that turns the lease's status into the draft; {} when nothing moved.

        A changed spec that needs nothing else still gets its `observedGeneration` written, in each condition too:
        `kubectl wait` does not believe a condition that was observed of an older generation.
        """
        self.status["conditions"] = self._conditions()
        self.status["phase"] = phase_of(self.conditions, self.status)
        self.status["observedGeneration"] = self.generation
        return merge_patch(self.lease.status, self.status)

    def _conditions(self) -> list[Mapping[str, Any]]:
        """Return our conditions in order, then those that others keep on the lease, untouched."""
        known: list[str] = [t for t in _ORDER if t in self.conditions]
        others = [t for t in self.conditions if t not in known]
        return [*(self._observed(self.conditions[t]) for t in known), *(self.conditions[t] for t in others)]

    def _observed(self, condition: Mapping[str, Any]) -> Mapping[str, Any]:
        if condition.get("observedGeneration") == self.generation:
            return condition
        return {**condition, "observedGeneration": self.generation}


def phase_of(conditions: Mapping[str, Mapping[str, Any]], status: Mapping[str, Any]) -> str:
    """Name the lease's phase for people."""

    def at(type_: str, value: str = "True") -> bool:
        return conditions.get(type_, {}).get("status") == value

    if at(C.FINISHED):
        return str(conditions[C.FINISHED]["reason"])
    if not at(C.ALLOCATED):
        return LeasePhase.SCHEDULED if "reservation" in status else LeasePhase.PENDING
    if at(C.RELEASED, "False"):
        quarantined = conditions[C.RELEASED]["reason"] == LeaseReason.QUARANTINED
        return LeasePhase.QUARANTINED if quarantined else LeasePhase.RELEASING
    if at(C.DISRUPTION_TARGET):
        return LeasePhase.DRAINING
    if C.CLAIMED in conditions and not at(C.CLAIMED):
        return LeasePhase.BOUND
    return LeasePhase.ACTIVE


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Patch:
    """Return the merge patch (RFC 7386) from one JSON object to another; {} when they are the same."""
    patch: Patch = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if old == value:
            continue
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            inner = merge_patch(old, value)
            if inner:
                patch[key] = inner
        else:
            patch[key] = value
    return patch


def apply_patch(before: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a merge patch (RFC 7386); neither argument is changed."""
    result = dict(before)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            old = result.get(key)
            result[key] = apply_patch(old if isinstance(old, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def slices_document(amounts: Mapping[str, int], nodes: Sequence[str]) -> list[dict[str, Any]]:
    """Write a grant's slices as the API has them: one row for each, in order."""
    resources = amounts_document(amounts)
    return [{"index": i, "nodeName": node, "resources": resources} for i, node in enumerate(nodes)]


def amounts_document(amounts: Mapping[str, int]) -> dict[str, str]:
    """Write amounts by name as Kubernetes quantities."""
    return {name: format_amount(name, amount) for name, amount in amounts.items()}


def amount_text(name: str, amount: int) -> str:
    """Write an amount as a quantity; a sum beyond what a quantity can say is written as the largest there is."""
    return format_amount(name, min(amount, MAX_AMOUNT))


def holder_document(holder: tuple[str, str]) -> dict[str, Any]:
    """Write a holder, identity and session, as the API has it; {} for nobody."""
    identity, session = holder
    named: dict[str, Any] = {"identity": identity} if identity else {}
    return {**named, "sessionRef": {"name": session}} if session else named


def rejections_document(rows: Iterable[tuple[str, int, str, int]]) -> list[dict[str, Any]]:
    """Write (reason, nodes, resource, short by) rows as `status.rejections`: most nodes first, at most 16."""
    found = []
    for reason, nodes, resource, short_by in sorted(rows, key=lambda row: -row[1]):
        row: dict[str, Any] = {"reason": reason, "nodes": nodes}
        if resource:
            row |= {"resource": resource, "shortBy": amount_text(resource, short_by)}
        found.append(row)
    return found[:16]
