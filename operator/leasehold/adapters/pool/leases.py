"""One request about one lease: writes with its resourceVersion after a look at the right to lead, and reads."""

from __future__ import annotations

import logging
from typing import Any

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

log = logging.getLogger(__name__)


class Leases:
    """The leases of a pool on the API server. What is written or read is told to the cluster's memory."""

    def __init__(self, tools: Tools, pool: PoolObject) -> None:
        self._tools = tools
        self._pool = pool

    async def list_leases(self) -> tuple[list[Lease], int]:
        """List the pool's leases by a quorum read; return them with the version of the list."""
        cluster = self._tools.cluster
        items, version = await self._tools.client.list(
            paths.LEASES, {"fieldSelector": f"spec.poolRef.name={self._pool.name}"}, read=cluster.read
        )
        # One whose end was already heard of while the list was on its way would stay for ever as a ghost.
        found = [lease for lease in items if lease is not None and not cluster.is_gone(lease.uid)]
        for lease in found:
            cluster.lease_seen(lease)
        return found, int(version)

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
