"""One request about one lease: writes with its resourceVersion after a look at the right to lead, and reads."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import NotFound
from leasehold.adapters.pool.complaints import subject_of
from leasehold.adapters.pool.object import PoolObject
from leasehold.adapters.statuses import write_status
from leasehold.adapters.tools import Json, Tools
from leasehold.api.names import RELEASE_FINALIZER
from leasehold.core.course import Step
from leasehold.core.errors import LeaseholdError
from leasehold.core.lease import Lease, lease_of

_FEW = 200
"""So many leases are read one by one; of more, all are listed in full."""

log = logging.getLogger(__name__)


class _Head(NamedTuple):
    """A lease in a list of names and versions."""

    uid: str
    namespace: str
    name: str
    version: int


def _head(item: Json) -> _Head:
    meta = item["metadata"]
    return _Head(meta["uid"], meta["namespace"], meta["name"], int(meta["resourceVersion"]))


class Leases:
    """The leases of a pool on the API server. What is written or read is told to the cluster's memory."""

    def __init__(self, tools: Tools, pool: PoolObject) -> None:
        self._tools = tools
        self._pool = pool

    async def list_leases(self) -> tuple[list[Lease], int]:
        """List the pool's leases by a quorum read; return them with the version of the list.

        The list tells names and versions. What is known in that version is what the API server has; the rest is read
        one by one, or all in full where it is much. At a start nearly all is known.
        """
        cluster, client = self._tools.cluster, self._tools.client
        query = {"fieldSelector": f"spec.poolRef.name={self._pool.name}"}
        heads, version = await client.list(paths.LEASES, query, metadata_only=True, read=_head)
        known = [cluster.find(head.uid) for head in heads]
        pairs = list(zip(heads, known, strict=True))
        news = [head for head, lease in pairs if lease is None or lease.version != head.version]
        if len(news) > _FEW:
            items, version = await client.list(paths.LEASES, query, read=cluster.read)
        else:
            items = [lease for head, lease in pairs if lease is not None and lease.version == head.version]
            items += await asyncio.gather(*map(self._read, news))
        # One whose end was already heard of while the list was on its way would stay for ever as a ghost.
        found = [lease for lease in items if lease is not None and not cluster.is_gone(lease.uid)]
        for lease in found:
            cluster.lease_seen(lease)
        return found, int(version)

    async def _read(self, head: _Head) -> Lease | None:
        """Read one lease of a list; None where it is gone meanwhile, or cannot be read."""
        try:
            async with self._tools.writers.turn():
                document = await self._tools.client.get(paths.lease(head.namespace, head.name))
        except NotFound:
            return None
        return self._tools.cluster.read(document) if document["metadata"]["uid"] == head.uid else None

    async def add_finalizer(self, lease: Lease) -> Lease:
        """Have the lease kept, once deleted, until what it holds is given back."""
        return self._observe(await self._patch_finalizers(lease, [*lease.finalizers, RELEASE_FINALIZER]))

    async def write_step(self, lease: Lease, step: Step) -> None:
        """Write a step to a lease: its status, and what is to be done about the object."""
        if step.patch:
            before = lease
            lease = await self.patch_lease(lease, step)
            if before.allocated and not lease.allocated:
                metrics = self._tools.metrics
                metrics.released(self._pool.name, before, lease, self._tools.clock.now())
        if step.action == "drop-finalizer":
            kept = [name for name in lease.finalizers if name != RELEASE_FINALIZER]
            answer = await self._patch_finalizers(lease, kept)
            if kept:
                self._observe(answer)
            else:
                self._tools.cluster.lease_gone(lease.uid)
        elif step.action == "delete":
            self._pool.check()
            await self._tools.client.delete(paths.lease(lease.namespace, lease.name), lease.uid)

    async def patch_lease(self, lease: Lease, step: Step) -> Lease:
        """Write a step's status; return the lease as it is then."""
        self._pool.check()
        with self._tools.metrics.request("lease"):
            written = await write_status(self._tools.client, lease, step.patch)
        for notice in step.notices:
            self._tools.recorder.note(subject_of(lease), notice)
            self._tools.metrics.noticed(self._pool.name, notice)
        self._tools.cluster.lease_seen(written)
        return written

    async def _patch_finalizers(self, lease: Lease, finalizers: list[str]) -> Json:
        self._pool.check()
        meta = {"resourceVersion": str(lease.version), "finalizers": finalizers}
        path = paths.lease(lease.namespace, lease.name)
        return await self._tools.client.patch(path, {"metadata": meta})

    def _observe(self, document: Json) -> Lease:
        lease = lease_of(document)
        self._tools.cluster.lease_seen(lease)
        return lease

    async def refresh(self, lease: Lease) -> bool:
        """Read a lease after a conflict or a lost answer, for a 504 means unknown, not no; tell whether it was read."""
        try:
            answer = await self._tools.client.get(paths.lease(lease.namespace, lease.name))
            if answer["metadata"]["uid"] != lease.uid:
                self._tools.cluster.lease_gone(lease.uid)
            self._observe(answer)
        except NotFound:
            self._tools.cluster.lease_gone(lease.uid)
        except LeaseholdError as error:
            log.info("lease %s: %s", lease.key, error, extra=about(lease))
            return False
        return True


def about(lease: Lease) -> dict[str, Any]:
    """Return what log records about a lease carry."""
    return {"object": lease.key, "generation": lease.generation, "pool": lease.pool}
