"""Tells each node's reporter which leases to look after, and makes the Node own its report.

One writer: the operator writes a NodeReport's spec and owner, its reporter writes the status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError

_EVERY_SECONDS = 2.0
_MOST = 256

log = logging.getLogger(__name__)


class ReportSpecs:
    """Compares what reporters are asked with what they should be, every few seconds."""

    def __init__(
        self,
        client: KubeClient,
        cluster: Cluster,
        wanted: Callable[[], Mapping[str, frozenset[str]]],
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.may_write = may_write
        self.client = client
        self.cluster = cluster
        self.wanted = wanted
        self.pause = _EVERY_SECONDS

    async def run(self) -> None:
        """Write what differs until cancelled."""
        while True:
            await asyncio.sleep(self.pause)
            await self.write_once()

    async def write_once(self) -> None:
        """Write each report's spec or owner that is not as it should be; one that fails is tried next time."""
        wanted = self.wanted()
        for name, report in list(self.cluster.reports.items()):
            patch: dict[str, Any] = {}
            uids = sorted(wanted.get(name, ()))[:_MOST]
            if frozenset(uids) != report.asked:
                patch["spec"] = {"leaseUIDs": uids}
            node = self.cluster.nodes.get(name)
            if node is not None and not report.has_owner:
                owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid}
                patch["metadata"] = {"ownerReferences": [owner]}
            if not patch or not self.may_write():
                continue
            try:
                self.cluster.report_seen(await self.client.patch(paths.report(name), patch))
            except ApiError as error:
                log.info("NodeReport %s: %s", name, error)
