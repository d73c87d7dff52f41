"""The rows of `get`: what a lease, a pool and a report are to somebody who looks at many of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from leasehold.cli.cluster import LEASES, POOLS, REPORTS, Kind, condition
from leasehold.cli.output import NONE, age, moment, resources, span

Json = Mapping[str, Any]


class Columns(NamedTuple):
    """Headings, those that only `-o wide` shows, and the cells of one object at a time."""

    always: tuple[str, ...]
    wide: tuple[str, ...]
    cells: Callable[[Json, float], tuple[str, ...]]


def lease_cells(lease: Json, now: float) -> tuple[str, ...]:
    """Return the cells of a lease."""
    spec, status = lease.get("spec") or {}, lease.get("status") or {}
    ready = condition(lease, "Ready")
    slices = (status.get("allocation") or {}).get("slices") or ()
    nodes = ",".join(dict.fromkeys(str(part.get("nodeName")) for part in slices))
    count = spec.get("count", 1)
    wanted = resources(spec.get("resources"))
    return (
        _name(lease),
        pool_of(lease),
        _text((spec.get("holder") or {}).get("identity")),
        _text(ready.get("status")),
        _text(ready.get("reason")),
        expires(lease, now),
        age(_made(lease), now),
        f"{count}x {wanted}" if count != 1 else wanted,
        nodes or NONE,
        _text(status.get("fencingToken")),
        turn(lease, now),
    )


def parent_of(lease: Json) -> str:
    """Return the name of the lease that a lease is part of; "" for one of the pool itself."""
    return str((lease["spec"].get("parentRef") or {}).get("name") or "")


def pool_of(lease: Json) -> str:
    """Return the name of a lease's pool, or what its pool is to be chosen by."""
    spec = lease.get("spec") or {}
    named = (spec.get("poolRef") or {}).get("name")
    if named:
        return str(named)
    matched = ((spec.get("poolSelector") or {}).get("matchLabels")) or {}
    return "(" + ",".join(f"{key}={value}" for key, value in matched.items()) + ")"


def expires(lease: Json, now: float) -> str:
    """Return how long a lease is still held; "-" of one that is not."""
    held = condition(lease, "Allocated").get("status") == "True"
    over = condition(lease, "Finished").get("status") == "True"
    end = moment(((lease.get("status") or {}).get("deadlines") or {}).get("expirationTime"))
    if not held or over or end is None:
        return "-"
    return span(end - now) if end > now else "over"


def turn(lease: Json, now: float) -> str:
    """Return the place and the expected wait of a lease that waits; "-" of any other."""
    status = lease.get("status") or {}
    if (
        condition(lease, "Allocated").get("status") == "True"
        or condition(lease, "Finished").get("status") == "True"
    ):
        return "-"
    start = moment((status.get("reservation") or {}).get("startTime"))
    queue = status.get("queue") or {}
    if start is None or start < now:  # none was promised, or it is late
        start = moment(queue.get("estimatedStartTime"))
    place = queue.get("approximatePosition")
    parts = [f"#{place}" if place else "", f"~{span(max(start - now, 0))}" if start is not None else ""]
    return " ".join(part for part in parts if part) or "-"


def pool_cells(pool: Json, now: float) -> tuple[str, ...]:
    """Return the cells of a pool."""
    status = pool.get("status") or {}
    ready = condition(pool, "Ready")
    by_name = {row.get("name"): row for row in status.get("capacity") or ()}
    cpu, memory = by_name.get("cpu") or {}, by_name.get("memory") or {}
    nodes, leases = status.get("nodes") or {}, status.get("leases") or {}
    of_nodes = f"{nodes.get('grantable', 0)}/{nodes.get('total', 0)}" if nodes else NONE
    return (
        _name(pool),
        _text(ready.get("status")),
        _text(ready.get("reason")),
        of_nodes,
        _text(cpu.get("free")),
        rounded(memory.get("free")),
        _text(leases.get("held")),
        _text(leases.get("pending")),
        age(_made(pool), now),
        _text(cpu.get("allocated")),
        rounded(memory.get("allocated")),
        _text(leases.get("releasing")),
        _text(leases.get("quarantined")),
        _text((status.get("ledger") or {}).get("epoch")),
    )


def report_cells(report: Json, now: float) -> tuple[str, ...]:
    """Return the cells of a report."""
    status = report.get("status") or {}
    by_name = {row.get("name"): row for row in status.get("usage") or ()}
    offset = status.get("clockOffsetMilliseconds")
    return (
        _name(report),
        _text(condition(report, "Ready").get("status")),
        _text((by_name.get("cpu") or {}).get("p90")),
        rounded((by_name.get("memory") or {}).get("p90")),
        age(status.get("reportTime"), now) if status.get("reportTime") else NONE,
        age(_made(report), now),
        _text((report.get("spec") or {}).get("state", "Active")),
        NONE if offset is None else f"{offset}ms",
        _text(status.get("sequence")),
        _text(status.get("agentVersion")),
    )


def rounded(text: object) -> str:
    """Return bytes for people: three digits at most, and a binary suffix."""
    if text is None:
        return NONE
    from leasehold.api.quantity import QuantityError, amount

    try:
        value = float(amount("memory", str(text)))
    except QuantityError:
        return str(text)
    for suffix in ("", "Ki", "Mi", "Gi", "Ti"):
        if value < 1000 or suffix == "Ti":
            break
        value /= 1024
    shown = f"{value:.1f}" if suffix and value < 9.95 else f"{value:.0f}"
    return shown.removesuffix(".0") + suffix


def _name(document: Json) -> str:
    return str((document.get("metadata") or {}).get("name", ""))


def _made(document: Json) -> object:
    return (document.get("metadata") or {}).get("creationTimestamp")


def _text(value: object) -> str:
    return NONE if value in (None, "") else str(value)


COLUMNS: Final[Mapping[str, Columns]] = {
    LEASES.plural: Columns(
        ("NAME", "POOL", "HOLDER", "READY", "REASON", "EXPIRES", "AGE"),
        ("RESOURCES", "NODES", "TOKEN", "TURN"),
        lease_cells,
    ),
    POOLS.plural: Columns(
        ("NAME", "READY", "REASON", "NODES", "CPU FREE", "MEMORY FREE", "HELD", "WAITING", "AGE"),
        ("CPU LENT", "MEMORY LENT", "RELEASING", "QUARANTINED", "EPOCH"),
        pool_cells,
    ),
    REPORTS.plural: Columns(
        ("NAME", "READY", "CPU", "MEMORY", "REPORT", "AGE"),
        ("STATE", "CLOCK", "SEQUENCE", "VERSION"),
        report_cells,
    ),
}


def columns_of(kind: Kind) -> Columns:
    """Return the columns of a kind."""
    return COLUMNS[kind.plural]
