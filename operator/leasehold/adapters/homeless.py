"""Leases without a pool: for those that leave the choice to the operator one is chosen, and a sub-lease gets that of
its parent; of those whose pool does not exist the waiting hear so, and those that still held something are ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import Conflict, NotFound
from leasehold.adapters.pauses import Pauses
from leasehold.adapters.recorder import Recorder, Subject
from leasehold.adapters.routing import Choice, Router
from leasehold.adapters.statuses import write_status
from leasehold.api.names import API_VERSION, LEASE_KIND, RELEASE_FINALIZER
from leasehold.core.course import Step
from leasehold.core.deadlines import Deadlines
from leasehold.core.errors import LeaseholdError
from leasehold.core.lease import Lease, lease_of
from leasehold.core.lifecycle import choose_pool_step, end_without_pool
from leasehold.core.times import SECOND, earliest

_SOON, _LOOK_AGAIN = SECOND // 2, 5 * SECOND

log = logging.getLogger(__name__)


class HomelessWorker:
    """Looks after such leases one at a time; `pools` names the pools that exist."""

    def __init__(
        self,
        client: KubeClient,
        clock: SteadyClock,
        cluster: Cluster,
        pools: Callable[[], set[str]],
        router: Router,
        recorder: Recorder,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.may_write = may_write
        self.router = router
        self.recorder = recorder
        self.client = client
        self.clock = clock
        self.cluster = cluster
        self.pools = pools
        self.pauses = Pauses()
        self._deadlines = Deadlines()

    async def run(self) -> None:
        """Look after homeless leases until cancelled."""
        while True:
            await self._sleep()
            now = self.clock.now()
            news, self.cluster.homeless = self.cluster.homeless, set()
            existing = self.pools()
            due = news | self._deadlines.pop_due(now) | self.pauses.pop_due(now)
            found = [lease for lease in map(self.cluster.find, due) if lease is not None]
            for lease in sorted(found, key=self._turn_of):
                known = self.cluster.find(lease.uid)  # while others were written to it may have changed
                if known is None or known.pool in existing or known.uid in self.pauses:
                    continue
                if self.may_write():
                    await self._look_after(known)

    def _turn_of(self, lease: Lease) -> tuple[int, int, int]:
        """Who asked first is sent to the pool first: it may grant something between two of these writes."""
        return lease.turn(self.cluster.arrivals.get(lease.uid, 0))

    async def _sleep(self) -> None:
        at = earliest(self._deadlines.next(), self.pauses.next())
        timeout = None if at is None else max(0.0, (at - self.clock.now()) / 1000)
        try:
            async with asyncio.timeout(timeout):
                await self.cluster.homeless_news.wait()
        except TimeoutError:
            pass
        self.cluster.homeless_news.clear()

    async def _look_after(self, lease: Lease) -> None:
        try:
            await self._write(lease)
        except NotFound:
            self.cluster.lease_gone(lease.uid)
        except Conflict:
            self.pauses.failed(lease.uid, self.clock.now())  # the watch brings what is there by then
        except LeaseholdError as error:
            log.warning("lease %s: %s", lease.key, error, extra={"object": lease.key, "pool": lease.pool})
            self.pauses.failed(lease.uid, self.clock.now())
        else:
            self.pauses.worked(lease.uid)

    async def _write(self, lease: Lease) -> None:
        unmatched = ""
        if lease.parent and not lease.pool and lease.pending and not _gives_up(lease):
            parent = self.cluster.named(lease.parent_key)
            if parent is not None and parent.pool:
                await self._name_pool(lease, lease.version, parent.pool)
                return
            self.cluster.awaited.setdefault(lease.parent_key, set()).add(lease.uid)
            unmatched = f"There is no CapacityLease {lease.parent!r} in this namespace."
            if parent is not None:
                unmatched = f"For lease {lease.parent} no pool was chosen yet."
        elif lease.pool_selector is not None and not lease.pool and lease.pending and not _gives_up(lease):
            choice = await self.router.choose(lease)
            if choice.pool:
                await self._send_to(lease, choice)
                return
            if choice.wait:
                self._deadlines.put(lease.uid, self.clock.now() + _SOON)
                return
            unmatched = choice.why
        step = end_without_pool(lease, self.clock.now(), unmatched)
        # Nobody tells when a pool gets other labels, or room in its policy: look again.
        again = self.clock.now() + _LOOK_AGAIN if unmatched and not lease.parent else None
        self._deadlines.put(lease.uid, earliest(step.wake_at, again))
        path = paths.lease(lease.namespace, lease.name)
        meta: dict[str, Any] = {"resourceVersion": str(lease.version)}
        if step.patch:
            self.cluster.lease_seen(await write_status(self.client, lease, step.patch))
            self._tell(lease, step)
        elif step.action == "drop-finalizer":
            kept = [name for name in lease.finalizers if name != RELEASE_FINALIZER]
            await self.client.patch(path, {"metadata": {**meta, "finalizers": kept}})
        elif step.action == "delete":
            await self.client.delete(path, lease.uid)

    async def _send_to(self, lease: Lease, choice: Choice) -> None:
        """Say why, then name the pool: from that write on the lease is the pool's."""
        step = choose_pool_step(lease, choice.why, self.clock.now())
        version = lease.version
        if step.patch:
            version = (await write_status(self.client, lease, step.patch)).version
        await self._name_pool(lease, version, choice.pool)
        self._tell(lease, step)

    async def _name_pool(self, lease: Lease, version: int, pool: str) -> None:
        path = paths.lease(lease.namespace, lease.name)
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        answer = await self.client.patch(path, {"metadata": meta, "spec": {"poolRef": {"name": pool}}})
        self.cluster.lease_seen(lease_of(answer))

    def _tell(self, lease: Lease, step: Step) -> None:
        for notice in step.notices:
            subject = Subject(API_VERSION, LEASE_KIND, lease.namespace, lease.name, lease.uid)
            self.recorder.note(subject, notice)


def _gives_up(lease: Lease) -> bool:
    return lease.deleting or lease.wants_release
