"""Tells each node's reporter which leases and which of their pods to look after, and makes the Node own its report.

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
from leasehold.core.reporting import MAX_LEASES, MAX_PODS

_EVERY_SECONDS = 2.0

log = logging.getLogger(__name__)


class ReportSpecs:
    """Compares what reporters are asked with what they should be, every few seconds.

    `wanted` says, by node, which leases are to be looked after, by uid; `pods` which pods of leases run there now: the
    lease of each, by uids, the newest pod last.
    """

    def __init__(
        self,
        client: KubeClient,
        cluster: Cluster,
        wanted: Callable[[], Mapping[str, frozenset[str]]],
        may_write: Callable[[], bool] = lambda: True,
        pods: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
    ) -> None:
        self.may_write = may_write
        self.client = client
        self.cluster = cluster
        self.wanted = wanted
        self.pods = pods
        self.pause = _EVERY_SECONDS

    async def run(self) -> None:
        """Write what differs until cancelled."""
        while True:
            await asyncio.sleep(self.pause)
            await self.write_once()

    async def write_once(self) -> None:
        """Write each report's spec or owner that is not as it should be; one that fails is tried next time."""
        wanted, running = self.wanted(), self.pods()
        for name, report in list(self.cluster.reports.items()):
            patch: dict[str, Any] = {}
            uids = sorted(wanted.get(name, ()))[:MAX_LEASES]
            pods = pods_to_ask(report.pods, running.get(name, {}), frozenset(uids))
            if frozenset(uids) != report.asked:
                patch["spec"] = {"leaseUIDs": uids}
            if pods != report.pods:
                rows = [{"uid": uid, "leaseUID": lease} for uid, lease in pods.items()]
                # Those that have ended are known from the report alone: from an old copy of it some would be forgotten.
                patch["metadata"] = {"resourceVersion": str(report.version)}
                patch["spec"] = {"leaseUIDs": uids, "pods": rows}
            node = self.cluster.nodes.get(name)
            if node is not None and not report.has_owner:
                owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid}
                patch.setdefault("metadata", {})["ownerReferences"] = [owner]
            if not patch or not self.may_write():
                continue
            try:
                self.cluster.report_seen(await self.client.patch(paths.report(name), patch))
            except ApiError as error:
                log.info("NodeReport %s: %s", name, error)


def pods_to_ask(
    before: Mapping[str, str], running: Mapping[str, str], leases: frozenset[str]
) -> dict[str, str]:
    """Return the pods to ask about, the newest last: those asked about `before` and those `running`, of `leases` alone.

    A pod that has left the API may still have containers, so it stays until its lease is over. Where they are too many,
    those that have ended go first, the oldest of them before others.
    """
    ended = {uid: lease for uid, lease in before.items() if uid not in running}
    of_leases = [(uid, lease) for uid, lease in (ended | {**running}).items() if lease in leases]
    return dict(of_leases[-MAX_PODS:])
