"""A lease in a sentence: where it stands, as the commands say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leasehold.cli.cluster import condition
from leasehold.cli.output import clock, moment, span
from leasehold.cli.rows import parent_of, pool_of

Json = Mapping[str, Any]

_PATIENCE_SECONDS = 5.0


def is_true(document: Json, type_: str) -> bool:
    """Tell whether a condition is True."""
    return condition(document, type_).get("status") == "True"


def is_over(lease: Json) -> bool:
    """Tell whether a lease is finished."""
    return is_true(lease, "Finished")


def is_refused(lease: Json) -> bool:
    """Tell whether a lease cannot be granted as it is: the pool's policy refuses it, or no node could ever."""
    return (
        condition(lease, "Accepted").get("status") == "False"
        or condition(lease, "Allocated").get("reason") == "NoMatchingNodes"
    )


def in_the_way(lease: Json) -> Json:
    """Return the condition that says most about why a lease is not ready; empty where none does."""
    if is_over(lease):
        return condition(lease, "Finished")
    for type_ in ("DisruptionTarget",):
        if is_true(lease, type_):
            return condition(lease, type_)
    for type_ in ("Accepted", "Allocated", "Claimed", "HolderLive", "Ready"):
        found = condition(lease, type_)
        if found.get("status") == "False":
            return found
    return {}


def standing(lease: Json, now: float) -> str:
    """Return where a lease stands, in one sentence without its name."""
    status = lease.get("status") or {}
    why = in_the_way(lease)
    if is_over(lease):
        return f"is over: {_cause(lease)}"
    if is_true(lease, "DisruptionTarget"):
        end = (status.get("deadlines") or {}).get("revocationTime")
        return f"is being taken back ({why.get('reason')}){_at(end, now, 'and ends')}"
    if is_true(lease, "Allocated"):
        end = (status.get("deadlines") or {}).get("expirationTime")
        return f"holds its room in {_lender(lease)}{_at(end, now, 'until')}"
    if is_refused(lease):
        return f"cannot be granted as it is ({why.get('reason')})"
    reserved = (status.get("reservation") or {}).get("startTime")
    if reserved and (moment(reserved) or now) >= now:
        return f"is promised its room in {_lender(lease)}{_at(reserved, now, 'from')}"
    if reserved:
        return f"waits for the room in {_lender(lease)} that it was promised{_at(reserved, now, 'from')}"
    queue = status.get("queue") or {}
    place = queue.get("approximatePosition")
    said = f"waits for room in {_lender(lease)}" + (f", as number {place} in line" if place else "")
    start = queue.get("estimatedStartTime")
    if start:
        return said + _at(start, now, "; its turn is expected at")
    if why:
        return said
    made = moment(lease["metadata"].get("creationTimestamp"))
    asked = made is not None and now - made > _PATIENCE_SECONDS
    return "has not been looked at yet" + (
        "; is the operator running? See `leasehold doctor`" if asked else ""
    )


def _lender(lease: Json) -> str:
    parent = parent_of(lease)
    return f"lease {parent}" if parent else f"pool {pool_of(lease)}"


def _cause(lease: Json) -> str:
    over, cause = condition(lease, "Finished"), condition(lease, "DisruptionTarget")
    reason = str(over.get("reason", ""))
    why = str(cause.get("reason", "")) if cause.get("status") == "True" else ""
    return f"{reason} ({why})" if why and why != reason else reason


def _at(time: object, now: float, word: str) -> str:
    at = moment(time)
    if at is None:
        return ""
    away = f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"
    return f"{'' if word.startswith(';') else ' '}{word} {clock(time, now)} ({away})"
