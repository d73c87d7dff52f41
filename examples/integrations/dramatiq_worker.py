"""A Dramatiq worker whose tasks hold a lease each, from whichever pool starts them first.

    LEASEHOLD_POOLS=ci,burst REDIS_URL=redis://localhost dramatiq dramatiq_worker

Needs `pip install "leasehold[router]" "dramatiq[redis]"`. Where Redis is not named, a broker in memory does.
A lost lease ends the task with LeaseLost; Dramatiq tries it again, and it goes where there is room.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Any

import dramatiq
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, Middleware

from leasehold.sdk import Client
from leasehold.sdk.router import Router, Target


class Leases(Middleware):
    """Opens one router for each worker process, on the event loop on which its tasks run, and closes it."""

    def __init__(self, pools: list[str]) -> None:
        self.pools = pools
        self.router: Router
        self._stack = AsyncExitStack()

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Open it, before the first task."""
        get_event_loop_thread().run_coroutine(self._open())

    async def _open(self) -> None:
        client = await self._stack.enter_async_context(Client())
        targets = [Target(client, pool) for pool in self.pools]
        self.router = await self._stack.enter_async_context(Router(targets))

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Give back what is held."""
        get_event_loop_thread().run_coroutine(self._stack.aclose())


def broker_of(environ: Any = os.environ) -> dramatiq.Broker:
    """Return the broker that the environment names."""
    if "REDIS_URL" in environ:
        from dramatiq.brokers.redis import RedisBroker

        return RedisBroker(url=environ["REDIS_URL"])
    return StubBroker()


leases = Leases(os.environ.get("LEASEHOLD_POOLS", "ci").split(","))
broker = broker_of()
broker.add_middleware(AsyncIO())
broker.add_middleware(leases)  # after AsyncIO, which brings the event loop
dramatiq.set_broker(broker)

rendered: dict[int, str] = {}


@dramatiq.actor(max_retries=5, min_backoff=100)
async def render(frame: int) -> None:
    """Render a frame where there is room for it."""
    async with leases.router.lease(cpu="1", duration="10m", timeout="10m") as lease:
        rendered[frame] = f"frame {frame} on {lease.nodes[0]}, as number {lease.token}"
