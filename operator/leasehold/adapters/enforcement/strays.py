"""Pods that name a lease which does not exist, or whose pool does not: nobody's pool looks after them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from leasehold.adapters.enforcement.keeper import Keeper
from leasehold.adapters.pods import Key
from leasehold.adapters.tools import Tools
from leasehold.core.lease import Lease
from leasehold.core.policy import PoolPolicy


class StrayKeeper:
    """Keeps the pods whose lease, or whose lease's pool, does not exist; `pools` names the pools that do."""

    def __init__(self, tools: Tools, pools: Callable[[], set[str]], may_write: Callable[[], bool]) -> None:
        self._cluster = tools.cluster
        self._pools = pools
        self._keeper = Keeper(tools, self._look, may_write)

    async def run(self) -> None:
        """Keep stray pods until cancelled."""
        self._keeper.mark(self._cluster.pods.keys())
        async with asyncio.TaskGroup() as both:
            both.create_task(self._keeper.run())
            both.create_task(self._hear())

    async def _hear(self) -> None:
        while True:
            await self._cluster.stray_news.wait()
            self._cluster.stray_news.clear()
            news, self._cluster.strays = self._cluster.strays, set()
            self._keeper.mark(news)

    def _look(self, key: Key) -> tuple[Lease | None, PoolPolicy | None] | None:
        lease = self._cluster.named(key)
        return None if lease is not None and lease.pool in self._pools() else (lease, None)
