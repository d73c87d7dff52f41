"""What `top` shows: of each pool what it lends and has left, of each node what it uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from leasehold.api.quantity import QuantityError, amount
from leasehold.cli.cluster import LEASES, POOLS, REPORTS, Cluster, Refused, condition
from leasehold.cli.output import NONE, age
from leasehold.cli.rows import rounded
from leasehold.cli.words import is_true

Json = Mapping[str, Any]

POOL_HEADINGS: Final = (
    "POOL",
    "RESOURCE",
    "TOTAL",
    "LENT",
    "FREE",
    "LARGEST",
    "LENT%",
    "HELD",
    "WAITING",
    "READY",
)
NODE_HEADINGS: Final = ("NODE", "CPU", "CPU%", "MEMORY", "MEMORY%", "DISK%", "LEASES", "REPORT", "READY")


class Figures(NamedTuple):
    """Rows of cells for both tables, and what could not be looked at."""

    pools: list[tuple[str, ...]]
    nodes: list[tuple[str, ...]]
    unknown: str = ""


def look(cluster: Cluster, what: str = "", names: tuple[str, ...] = (), selector: str = "") -> Figures:
    """Return the present figures of pools, nodes, or both. Raises Refused."""
    query = {"labelSelector": selector} if selector else {}
    pools: list[tuple[str, ...]] = []
    nodes: list[tuple[str, ...]] = []
    unknown = ""
    if what != "nodes":
        for pool in _chosen(cluster.list(POOLS.path(), **query), names):
            pools += pool_rows(pool)
    if what != "pools":
        counted, unknown = _leases_by_node(cluster)
        reports = _chosen(cluster.list(REPORTS.path(), **query), names)
        nodes = [node_row(report, counted, cluster.now()) for report in reports]
    return Figures(pools, nodes, unknown)


def _chosen(items: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [item for item in items if not names or item["metadata"]["name"] in names]


def _leases_by_node(cluster: Cluster) -> tuple[dict[str, int] | None, str]:
    """Return how many leases hold something on each node; None where not all of them may be seen."""
    try:
        leases = cluster.list(LEASES.path())
    except Refused as refusal:
        if refusal.status != 403:
            raise
        return None, "You may not look at leases of all namespaces, so nodes' leases are not counted."
    counted: dict[str, int] = {}
    for lease in leases:
        if is_true(lease, "Allocated") and not is_true(lease, "Released"):
            for node in {part["nodeName"] for part in lease["status"]["allocation"]["slices"]}:
                counted[node] = counted.get(node, 0) + 1
    return counted, ""


def pool_rows(pool: Json) -> list[tuple[str, ...]]:
    """Return a pool's rows, one for each resource."""
    status, name = pool.get("status") or {}, str(pool["metadata"]["name"])
    leases = status.get("leases") or {}
    ready = condition(pool, "Ready")
    state = "True" if ready.get("status") == "True" else str(ready.get("reason") or NONE)
    counts = (str(leases.get("held", NONE)), str(leases.get("pending", NONE)), state)
    rows: list[tuple[str, ...]] = [
        (
            name,
            str(row["name"]),
            shown(row["name"], row.get("allocatable")),
            shown(row["name"], row.get("allocated")),
            shown(row["name"], row.get("free")),
            shown(row["name"], row.get("largestFree")),
            percent(row["name"], row.get("allocated"), row.get("allocatable")),
            *counts,
        )
        for row in status.get("capacity") or ()
    ]
    return rows or [(name, *[NONE] * 6, *counts)]


def node_row(report: Json, counted: Mapping[str, int] | None, now: float) -> tuple[str, ...]:
    """Return a node's row, from its report."""
    status, name = report.get("status") or {}, str(report["metadata"]["name"])
    used = {row["name"]: row.get("current") for row in status.get("usage") or ()}
    has = status.get("capacity") or {}
    return (
        name,
        shown("cpu", used.get("cpu")),
        percent("cpu", used.get("cpu"), has.get("cpu")),
        shown("memory", used.get("memory")),
        percent("memory", used.get("memory"), has.get("memory")),
        percent("ephemeral-storage", used.get("ephemeral-storage"), has.get("ephemeral-storage")),
        NONE if counted is None else str(counted.get(name, 0)),
        f"{age(status['reportTime'], now)} ago" if status.get("reportTime") else "never",
        str(condition(report, "Ready").get("status") or NONE),
    )


def shown(resource: str, text: object) -> str:
    """Return an amount for people."""
    if text is None:
        return NONE
    return str(text) if resource == "cpu" or not _bytes(resource) else rounded(text)


def percent(resource: str, part: object, whole: object) -> str:
    """Return a share in percent."""
    if part is None or whole is None:
        return NONE
    try:
        of = amount(resource, str(whole))
        return f"{100 * amount(resource, str(part)) / of:.0f}%" if of else NONE
    except QuantityError:
        return NONE


def _bytes(resource: str) -> bool:
    return resource in ("memory", "ephemeral-storage", "storage") or resource.startswith("hugepages-")
