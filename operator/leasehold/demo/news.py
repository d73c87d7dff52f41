"""What changed between two versions of a lease, a pool or a node, in one line each for the timeline."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.demo.views import condition, is_true, nodes_of

Object = Mapping[str, Any]

_STAMP = re.compile(r"\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d)(?:\.\d+)?Z")


class News(NamedTuple):
    """One thing that happened. `kind` is a word to colour by; `what` is about `name`."""

    kind: str
    name: str
    what: str


def of_lease(before: Object | None, after: Object) -> Iterator[News]:
    """Yield what happened to a lease."""
    name = after["metadata"]["name"]
    status = after.get("status") or {}
    old: Object = before or {}
    if is_true(after, C.FINISHED):
        if not is_true(old, C.FINISHED):
            word = condition(after, C.FINISHED)["reason"]
            cause = (status.get("release") or {}).get("cause", "")
            yield News(word.lower(), name, f"{word.lower()}: {cause}" if cause else word.lower())
        return
    yield from _granted_or_waiting(old, after, name)
    yield from _renewed(old, after, name)
    for type_, kind in (
        (C.EXPIRING_SOON, "warned"),
        (C.DEGRADED, "degraded"),
        (C.DISRUPTION_TARGET, "ending"),
    ):
        now, was = condition(after, type_), condition(old, type_)
        if now.get("status") == "True" and now.get("reason") != was.get("reason"):
            yield News(kind, name, _said(f"{type_} {now['reason']}", now))


def _granted_or_waiting(old: Object, after: Object, name: str) -> Iterator[News]:
    allocated = condition(after, C.ALLOCATED)
    if allocated.get("status") == "True":
        if not is_true(old, C.ALLOCATED):
            token = after["status"]["fencingToken"]
            yield News("granted", name, f"granted on {', '.join(nodes_of(after))}, fencing token {token}")
        return
    refused = condition(after, C.ACCEPTED)
    said = refused if refused.get("status") == "False" else allocated
    was = condition(old, C.ACCEPTED) if said is refused else condition(old, C.ALLOCATED)
    if said and said.get("reason") != was.get("reason"):
        yield News("waiting", name, _said(f"waits: {said['reason']}", said))


def _renewed(old: Object, after: Object, name: str) -> Iterator[News]:
    count = ((after.get("status") or {}).get("renewal") or {}).get("count", 0)
    if count > ((old.get("status") or {}).get("renewal") or {}).get("count", 0):
        end = after["status"]["deadlines"]["expirationTime"]
        yield News("renewed", name, f"renewed, {count} so far; the term now ends at {end[11:19]}")


def _said(title: str, said: Mapping[str, str]) -> str:
    """Add a condition's message; of the times in it, the hour is enough."""
    message = _STAMP.sub(r"\1", said.get("message", ""))
    return f"{title}: {message}" if message else title


def of_node(before: Object | None, after: Object) -> Iterator[News]:
    """Yield what happened to a node that was known."""
    if before is None:
        return
    name = after["metadata"]["name"]
    now, was = is_true(after, "Ready"), is_true(before, "Ready")
    if was and not now:
        yield News("degraded", name, "node is not ready")
    elif now and not was:
        yield News("granted", name, "node is ready again")
