"""Keeps the taint on the nodes of dedicated pools, and takes it from all others.

One writer: of a Node the operator writes this one taint and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError
from leasehold.api.names import POOL_TAINT

_EVERY_SECONDS = 2.0

log = logging.getLogger(__name__)


class NodeTaints:
    """Compares the nodes' taints with what they should be, every few seconds. `wanted` names the pool of each node
    that is to be kept for one.
    """

    def __init__(
        self,
        client: KubeClient,
        cluster: Cluster,
        wanted: Callable[[], Mapping[str, str]],
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.client = client
        self.cluster = cluster
        self.wanted = wanted
        self.may_write = may_write
        self.pause = _EVERY_SECONDS

    async def run(self) -> None:
        """Write what differs until cancelled."""
        while True:
            await asyncio.sleep(self.pause)
            await self.write_once()

    async def write_once(self) -> None:
        """Write each taint that is not as it should be; one that fails is tried next time."""
        wanted = self.wanted()
        for name, node in list(self.cluster.nodes.items()):
            pool = wanted.get(name, "")
            if node.dedicated_to == pool or not self.may_write():
                continue
            try:
                await self._write(name, pool)
            except ApiError as error:
                log.info("Node %s: %s", name, error)

    async def _write(self, name: str, pool: str) -> None:
        """Taints are one list that others write to as well: read it, and write it if nobody did meanwhile."""
        document = await self.client.get(paths.node(name))
        spec = document.get("spec") or {}
        taints = [row for row in spec.get("taints") or () if row["key"] != POOL_TAINT]
        if pool:
            taints.append({"key": POOL_TAINT, "value": pool, "effect": "NoSchedule"})
        meta = {"resourceVersion": document["metadata"]["resourceVersion"]}
        patch = {"metadata": meta, "spec": {"taints": taints or None}}
        self.cluster.node_seen(await self.client.patch(paths.node(name), patch))
        log.info("node %s is kept for %s", name, pool or "nobody")
