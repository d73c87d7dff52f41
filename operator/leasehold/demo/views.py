"""What people read of a lease or a pool: plain values drawn from the objects, no colour and no layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from leasehold.api.names import CPU, EPHEMERAL_STORAGE, MEMORY
from leasehold.api.names import LeaseCondition as C
from leasehold.api.quantity import amount
from leasehold.core.times import SECOND, parse_time

Object = Mapping[str, Any]

_GIB = 1 << 30
_SHORT_NAMES = {CPU: "cpu", MEMORY: "mem", EPHEMERAL_STORAGE: "disk"}


class LeaseView(NamedTuple):
    """One line about a lease. `finished` leases are history."""

    name: str
    pool: str
    holder: str
    asks: str
    phase: str
    reason: str
    where: str
    until: str
    finished: bool


class PoolView(NamedTuple):
    """One line about one resource of a pool. `share` is allocated per allocatable, 0 to 1."""

    pool: str
    ready: str
    resource: str
    total: str
    allocated: str
    free: str
    share: float
    nodes: str
    leases: str


def condition(obj: Object, type_: str) -> Mapping[str, str]:
    """Return a condition of an object; an absent one is empty, which reads as unknown."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == type_), {})


def is_true(obj: Object, type_: str) -> bool:
    """Tell whether a condition is True."""
    return condition(obj, type_).get("status") == "True"


def nodes_of(lease: Object) -> list[str]:
    """Return the nodes a lease has slices on, in order and once each."""
    slices = ((lease.get("status") or {}).get("allocation") or {}).get("slices") or ()
    return list(dict.fromkeys(part["nodeName"] for part in slices))


def human(resource: str, text: str | int) -> str:
    """Write a quantity briefly: cores, GiB, or pieces."""
    whole = amount(resource, text)
    if resource == CPU:
        return f"{whole / 1000:g}"
    if resource in (MEMORY, EPHEMERAL_STORAGE):
        return f"{whole / _GIB:.1f} GiB" if whole else "0"
    return str(whole)


def view_lease(lease: Object, now: int) -> LeaseView:
    """Draw a lease's line at a time (ms since the epoch)."""
    spec, status = lease["spec"], lease.get("status") or {}
    finished = is_true(lease, C.FINISHED)
    said = str(
        status["release"]["cause"]
        if finished and status.get("release")
        else condition(lease, C.READY).get("reason", "")
    )
    return LeaseView(
        name=lease["metadata"]["name"],
        pool=spec["poolRef"]["name"],
        holder=(spec.get("holder") or {}).get("identity", ""),
        asks=asked(spec),
        phase=status.get("phase", "") or "Pending",
        reason=said,
        where=_few(nodes_of(lease)),
        until="" if finished else _until(status, now),
        finished=finished,
    )


def asked(spec: Mapping[str, Any]) -> str:
    """Write what a lease asks for, such as "3 x 2 cpu, 8.0 GiB mem"."""
    parts = [
        f"{human(name, text)} {_SHORT_NAMES.get(name, name.rpartition('/')[2])}"
        for name, text in spec["resources"].items()
    ]
    count = int(spec.get("count", 1))
    return f"{count} x " * (count > 1) + ", ".join(parts)


def _until(status: Mapping[str, Any], now: int) -> str:
    following = (status.get("deadlines") or {}).get("next")
    if not following:
        return ""
    seconds = (parse_time(following["time"]) - now) / SECOND
    shown = f"{seconds:.0f} s" if abs(seconds) < 100 else f"{seconds / 60:.0f} min"
    return f"{shown} {following['cause']}"


def view_pool(pool: Object) -> list[PoolView]:
    """Draw a pool's lines, one per resource."""
    status = pool.get("status") or {}
    ready = condition(pool, C.READY)
    nodes, leases = status.get("nodes") or {}, status.get("leases") or {}
    return [
        PoolView(
            pool=pool["metadata"]["name"],
            ready="Ready" if ready.get("status") == "True" else ready.get("reason", ""),
            resource=row["name"],
            total=human(row["name"], row["total"]),
            allocated=human(row["name"], row["allocated"]),
            free=human(row["name"], row["free"]),
            share=_share(row),
            nodes=f"{nodes.get('grantable', 0)}/{nodes.get('total', 0)}",
            leases=f"{leases.get('held', 0)} held, {leases.get('pending', 0)} waiting",
        )
        for row in status.get("capacity") or ()
    ]


def _share(row: Mapping[str, str]) -> float:
    allocatable = amount(row["name"], row["allocatable"])
    return amount(row["name"], row["allocated"]) / allocatable if allocatable else 0.0


def _few(names: list[str]) -> str:
    """Write the first three names; of those that share all up to the last dash with the first, only the end."""
    if not names:
        return ""
    stem = names[0].rpartition("-")[0]
    rest = [name[len(stem) :] if stem and name.startswith(f"{stem}-") else name for name in names[1:3]]
    return ", ".join([names[0], *rest]) + (f" +{len(names) - 3}" if len(names) > 3 else "")
