"""The operator's own HTTP endpoint: /metrics, /healthz, /readyz.

Healthy: the event loop turns and no task died. Ready: every list was complete once, every pool is led, and the API
server was heard of lately. An API server that is away makes the operator unready, never unhealthy: a restart would
not bring it back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

_TICK = 0.25
UNHEALTHY_LAG = 10.0
STALE_SECONDS = 180.0

Check = Callable[[], str]
"""Returns what is wrong, or ""."""


class LoopLag:
    """Measures how late the event loop runs."""

    def __init__(self) -> None:
        self.lag = 0.0
        self._ticked = time.monotonic()

    def __call__(self) -> float:
        """Return the lag in seconds, a tick that is overdue included."""
        return max(self.lag, time.monotonic() - self._ticked - _TICK, 0.0)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            started = time.monotonic()
            await asyncio.sleep(_TICK)
            self._ticked = time.monotonic()
            self.lag = max(0.0, self._ticked - started - _TICK)


class HealthServer:
    """Serves the endpoint; `port` is the real one once started."""

    def __init__(self, host: str, port: int, page: Callable[[], bytes], alive: Check, ready: Check) -> None:
        self.host = host
        self.port = port
        self._page = page
        self._alive = alive
        self._ready = ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return _answer(self._alive())

    async def _readyz(self, request: web.Request) -> web.Response:
        return _answer(self._ready())

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._page(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _answer(wrong: str) -> web.Response:
    return web.Response(text=(wrong or "ok") + "\n", status=503 if wrong else 200)
