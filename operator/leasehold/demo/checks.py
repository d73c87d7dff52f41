"""What the story expects of objects: each check is a sentence and a test on the object as the API server has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import PoolCondition as P
from leasehold.api.quantity import amount
from leasehold.core.times import parse_time
from leasehold.demo.views import condition, is_true, nodes_of

Object = Mapping[str, Any]


class Check(NamedTuple):
    """`text` completes "NAME is expected to …"; `holds` looks at the object."""

    text: str
    holds: Callable[[Object], bool]


def granted(*, nodes: int = 1) -> Check:
    """The lease is held, on so many nodes."""
    return Check(
        f"be granted on {nodes} node{'s' * (nodes > 1)}",
        lambda lease: is_true(lease, C.READY) and len(nodes_of(lease)) == nodes,
    )


def granted_on(node: str) -> Check:
    """The lease is held on this node and no other."""
    return Check(f"be granted on {node}", lambda lease: is_true(lease, C.READY) and nodes_of(lease) == [node])


def waiting(reason: R) -> Check:
    """The lease is not granted, says why, and by how much it is short where that is the reason."""

    def holds(lease: Object) -> bool:
        said = condition(lease, C.READY)
        if (said.get("status"), said.get("reason")) != ("False", reason):
            return False
        rejections = lease["status"].get("rejections") or ()
        return reason != R.WAITING_FOR_CAPACITY or any("shortBy" in row for row in rejections)

    return Check(f"wait with the reason {reason}", holds)


def condition_is(type_: C, reason: R) -> Check:
    """A condition has this reason."""
    return Check(f"say {type_} {reason}", lambda lease: condition(lease, type_).get("reason") == reason)


def finished(word: R, cause: R) -> Check:
    """The lease is over for good, its capacity is given back, and it says why; never before its deadline."""

    def holds(lease: Object) -> bool:
        if not (is_true(lease, C.FINISHED) and is_true(lease, C.RELEASED)):
            return False
        said = condition(lease, C.FINISHED)["reason"], lease["status"]["release"]["cause"]
        return said == (word, cause) and not ended_early(lease)

    return Check(f"end as {word} because of {cause}", holds)


def ended_early(lease: Object) -> bool:
    """Tell whether a lease that ended with its term did so before it."""
    status = lease["status"]
    if status["release"]["cause"] != R.TERM_ENDED:
        return False
    return parse_time(status["release"]["finishTime"]) < parse_time(status["deadlines"]["expirationTime"])


def renewed(times: int, beyond: int) -> Check:
    """The lease is held, was renewed so often, and its term reaches beyond an instant (ms)."""

    def holds(lease: Object) -> bool:
        status = lease["status"]
        return (
            is_true(lease, C.READY)
            and (status.get("renewal") or {}).get("count", 0) >= times
            and parse_time(status["deadlines"]["expirationTime"]) > beyond
        )

    return Check(f"be held beyond its first term, renewed {times} times or more", holds)


def serving(*, nodes: int) -> Check:
    """The pool grants, and so many of its nodes can lend."""
    return Check(
        f"be Ready with {nodes} nodes that can lend",
        lambda pool: is_true(pool, P.READY) and pool["status"]["nodes"]["grantable"] == nodes,
    )


def allocated(resource: str, quantity: str) -> Check:
    """The pool says that leases hold so much."""
    return Check(f"count {quantity} {resource} as allocated", lambda pool: _held(pool, resource) == quantity)


def balanced(leases: Sequence[Object]) -> Check:
    """The pool's books agree with the sum over these leases, for each of its resources."""

    def holds(pool: Object) -> bool:
        mine = [lease for lease in leases if lease["spec"]["poolRef"]["name"] == pool["metadata"]["name"]]
        return condition(pool, P.LEDGER_CONSISTENT).get("reason") in ("Consistent", "NotChecked") and all(
            amount(row["name"], row["allocated"]) == sum(holding(lease, row["name"]) for lease in mine)
            and amount(row["name"], row["free"]) >= 0
            for row in pool["status"]["capacity"]
        )

    return Check("hold what its leases hold, no more and no less", holds)


def holding(lease: Object, resource: str) -> int:
    """Return how much of a resource a lease holds, in whole units."""
    if not is_true(lease, C.ALLOCATED) or is_true(lease, C.RELEASED):
        return 0
    slices = lease["status"]["allocation"]["slices"]
    return sum(amount(resource, part["resources"].get(resource, 0)) for part in slices)


def reported_by(version: str, cores: str) -> Check:
    """The report was written by the real reporter and has this machine's number of cores."""
    return Check(
        f"be measured by reporter {version}, with {cores} cores",
        lambda report: (
            (report.get("status") or {}).get("agentVersion") == version
            and report["status"]["capacity"].get("cpu") == cores
        ),
    )


def _held(pool: Object, resource: str) -> str | None:
    rows = (pool.get("status") or {}).get("capacity") or ()
    return next((row["allocated"] for row in rows if row["name"] == resource), None)


def in_words(obj: Object | None) -> str:
    """Say in one line what an object says of itself, for an expectation that does not hold."""
    if obj is None:
        return "there is no such object"
    conditions = (obj.get("status") or {}).get("conditions") or ()
    said = [
        f"{c['type']}={c['status']} {c['reason']}" + (f" ({c['message']})" if c.get("message") else "")
        for c in conditions
    ]
    return "; ".join(said) or "its status says nothing yet"
