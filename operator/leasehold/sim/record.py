"""Writes what a cluster's leases did into a trace that can be replayed without the cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import NotFound, Refused
from leasehold.api.names import POOL_KIND
from leasehold.core.errors import InvalidObject
from leasehold.core.lease import Lease, lease_of
from leasehold.core.policy import policy_of
from leasehold.core.times import SECOND, format_time
from leasehold.sim.pools import slim, spec_of
from leasehold.sim.problems import BadInput
from leasehold.sim.trace import Record, header_line

Json = dict[str, Any]

_UNOWNED: Final = ""


async def header(client: KubeClient, pool_name: str, now: int) -> str:
    """Return a trace's first line: the pools, their nodes, and the labels of namespaces where they may be read.

    With a pool's name only that pool and its nodes. Raises BadInput when there is no such pool, and ApiError.
    """
    if pool_name:
        try:
            pools = [await client.get(paths.pool(pool_name))]
        except NotFound as error:
            raise BadInput(f"there is no pool {pool_name} in this cluster") from error
    else:
        pools, _ = await client.list(paths.POOLS)
    nodes, _ = await client.list(paths.NODES)
    if pool_name:
        selector = policy_of(spec_of(pools[0], "the cluster", strict=False)[1]).selector
        nodes = [node for node in nodes if selector.matches(node["metadata"].get("labels") or {})]
    try:
        namespaces, _ = await client.list(paths.NAMESPACES, metadata_only=True)
    except Refused:  # labels matter only to pools with tenants; who may not read them can record all the same
        namespaces = []
    return header_line(
        {
            "recorded": format_time(now),
            "pools": [
                {"kind": POOL_KIND, "metadata": {"name": pool["metadata"]["name"]}, "spec": pool["spec"]}
                for pool in pools
            ],
            "nodes": [slim(node) for node in nodes],
            "namespaces": {
                item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in namespaces
            },
        }
    )


def record_of(document: Mapping[str, Any], gone_at: int | None = None) -> Record:
    """Return what a trace says of a lease as the API server has it.

    `gone_at` is when its object was seen to be gone (ms), which ends what it still held. Raises InvalidObject when
    the document is no lease.
    """
    lease = lease_of(document)
    granted = lease.instant("allocation", "allocationTime")
    over = lease.instant("release", "finishTime") or gone_at
    held: float | None = None
    if over is not None or lease.finished:
        held = 0.0 if granted is None or over is None else max(0, over - granted) / SECOND
    spec = document["spec"]
    fields: dict[str, Any] = {
        "submit": lease.created,
        "namespace": lease.namespace,
        "name": lease.name,
        "pool": lease.pool,
        "resources": spec.get("resources") or {},
        "count": lease.count,
        "placement": spec.get("placement") or {},
        "priority": lease.priority,
        "tenant": lease.told_tenant or lease.tenant,
        "holder": lease.identity,
        "start_time": lease.start_time,
        "duration_seconds": spec.get("durationSeconds"),
        "granted": granted,
        "held_seconds": held,
        "end_cause": lease.status.get("release", {}).get("cause", "Deleted" if gone_at else ""),
    }
    try:
        return Record.model_validate(fields)
    except ValueError as error:
        raise InvalidObject(f"{lease.key} cannot be recorded: {error}") from error


class Recording:
    """Follows leases and writes each once, when it is over; `close` writes the others as they stand.

    In memory are the leases that are not over, and the uids of those that are and still exist. `unreadable` counts
    what could not be recorded.
    """

    def __init__(self, write: Callable[[str], object], pool_name: str, now: Callable[[], int]) -> None:
        self.written = 0
        self.unreadable = 0
        self._write = write
        self._pool_name = pool_name
        self._now = now
        self._open: dict[str, Json] = {}
        self._over: set[str] = set()

    def listed(self, items: list[Json], version: int) -> None:
        """Take in everything there is; what is not there any more is over."""
        here = {item["metadata"]["uid"] for item in items}
        for uid in self._open.keys() - here:
            self._finish(uid, self._open[uid], self._now())
        self._over &= here
        for item in items:
            self._take(item)

    def changed(self, kind: str, item: Json) -> None:
        """Take in one change."""
        if kind != "DELETED":
            self._take(item)
            return
        uid = item["metadata"]["uid"]
        if uid in self._open:
            self._finish(uid, item, self._now())
        self._over.discard(uid)

    def close(self) -> None:
        """Write the leases that are not over yet."""
        for uid in list(self._open):
            self._finish(uid, self._open[uid], None)

    def _take(self, item: Json) -> None:
        uid = item["metadata"]["uid"]
        lease = self._read(item)
        if lease is None or uid in self._over:
            return
        if lease.parent:  # it takes nothing of the pool, whose queue is replayed
            return
        if self._pool_name not in (_UNOWNED, lease.pool):
            return
        self._open[uid] = item
        if lease.finished:
            self._finish(uid, item, None)
            self._over.add(uid)

    def _read(self, item: Json) -> Lease | None:
        try:
            return lease_of(item)
        except InvalidObject:
            return None

    def _finish(self, uid: str, item: Json, gone_at: int | None) -> None:
        self._open.pop(uid, None)
        try:
            line = record_of(item, gone_at).line()
        except InvalidObject:
            self.unreadable += 1
            return
        self._write(line)
        self.written += 1
