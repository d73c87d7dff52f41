"""One more look, at the API server itself, at what a lease is about to be lost for.

A watch can be behind, or dead and not know it. A holder must not lose its lease for that. So where the reason is
other objects (a session that is silent, a node or a parent that is gone, pods that are not there), those are read
before the end is written.
"""

from __future__ import annotations

from collections.abc import Iterable

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import NotFound
from leasehold.api.names import LEASE_LABEL, SESSION_LABEL, LeaseCondition, LeaseReason, Liveness
from leasehold.core.course import Step
from leasehold.core.lease import Lease, lease_of
from leasehold.core.pods import Pod
from leasehold.core.times import SECOND

_SILENT = frozenset({LeaseReason.HEARTBEAT_LOST, LeaseReason.CLAIM_TIMEOUT})
_WITHOUT_PODS = frozenset({LeaseReason.CLAIM_TIMEOUT, LeaseReason.PODS_COMPLETE})
_REMEMBERED = 10_000


class Confirmation:
    """Looks things up once for all leases that are lost for the same thing at the same time."""

    def __init__(self, client: KubeClient, cluster: Cluster, clock: SteadyClock) -> None:
        self._client = client
        self._cluster = cluster
        self._clock = clock
        self._seen: dict[tuple[str, str, str], int] = {}

    async def __call__(self, lease: Lease, step: Step) -> bool:
        """Tell whether what a step rests on is as was heard; where it is not, the cluster's memory is put right.

        Raises ApiError when it cannot be looked up.
        """
        cause = (step.patch.get("release") or {}).get("cause") if not lease.releasing else None
        if cause in _SILENT and lease.liveness == Liveness.SESSION:
            return await self._session(lease, step.due or 0)
        if cause in _WITHOUT_PODS and self._cluster.pods.watched:
            return await self._pods(lease)
        if cause == LeaseReason.PARENT_ENDED:
            return await self._parent(lease)
        if cause == LeaseReason.NODE_LOST:
            for name in sorted({part.node for part in lease.slices}):
                if not await self._node(name):
                    return False
        return True

    async def _session(self, lease: Lease, due: int) -> bool:
        """A look that was made after the deadline speaks for every lease of the session."""
        key = ("session", lease.namespace, lease.session)
        if self._seen.get(key, 0) > due:
            return True
        now = self._clock.now()
        known = self._cluster.sessions.get(key[1:])
        try:
            document = await self._client.get(paths.coordination(lease.namespace, lease.session))
            if SESSION_LABEL not in (document["metadata"].get("labels") or {}):
                raise NotFound("without the label it is no session", 404)
        except NotFound:
            self._cluster.session_gone(key[1:])
            same = known is None
        else:
            self._cluster.session_seen(document)
            same = self._cluster.sessions.get(key[1:]) == known
        if same:
            self._remember(key, now)
        return same

    async def _pods(self, lease: Lease) -> bool:
        """Look for pods that the watch has not told of."""
        before = _what_matters(self._cluster.pods.of(lease))
        query = {"labelSelector": f"{LEASE_LABEL}={lease.name}"}
        documents, _ = await self._client.list(paths.pod(lease.namespace), query)
        for document in documents:
            self._cluster.pods.seen(document)
        return _what_matters(self._cluster.pods.of(lease)) == before

    async def _parent(self, lease: Lease) -> bool:
        key = ("parent", *lease.parent_key)
        now = self._clock.now()
        if self._seen.get(key, 0) <= now - SECOND:
            known = self._cluster.named(lease.parent_key)
            try:
                self._cluster.lease_seen(lease_of(await self._client.get(paths.lease(*lease.parent_key))))
            except NotFound:
                if known is not None:
                    self._cluster.lease_gone(known.uid)
            self._remember(key, now)
        parent = self._cluster.named(lease.parent_key)
        if parent is None or lease.parent_uid not in ("", parent.uid):
            return True
        if parent.finished or parent.releasing:
            return True
        return lease.allocated and (not parent.allocated or parent.is_true(LeaseCondition.DISRUPTION_TARGET))

    async def _node(self, name: str) -> bool:
        key = ("node", "", name)
        now = self._clock.now()
        if self._seen.get(key, 0) > now - SECOND:
            return True
        known = self._cluster.nodes.get(name)
        try:
            self._cluster.node_seen(await self._client.get(paths.node(name)))
        except NotFound:
            self._cluster.node_gone(name)
        found = self._cluster.nodes.get(name)
        same = (found and found.not_ready_since) == (known and known.not_ready_since)
        if same and (found is None) == (known is None):
            self._remember(key, now)
            return True
        return False

    def _remember(self, key: tuple[str, str, str], at: int) -> None:
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()
        self._seen[key] = at


def _what_matters(pods: Iterable[Pod]) -> set[tuple[str, str, bool, bool]]:
    return {(pod.uid, pod.node, pod.gated, pod.over) for pod in pods}
