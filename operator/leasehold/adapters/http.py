"""The operator's own HTTP endpoint: /metrics, /healthz, /readyz, /pools and /pools/NAME/queue.

Healthy: the event loop turns and no task died. Ready: every list was complete once, every pool is led, and the API
server was heard of lately. An API server that is away makes the operator unready, never unhealthy: a restart would
not bring it back.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final

from aiohttp import web

from leasehold.core.times import format_time

_TICK = 0.25
UNHEALTHY_LAG = 10.0
STALE_SECONDS = 180.0
DEFAULT_LIMIT: Final = 500
MAX_LIMIT: Final = 10_000
_MAX_OFFSET: Final = 10**9
_CHUNK = 500
_NAMED = 20

Check = Callable[[], str]
"""Returns what is wrong, or ""."""

Row = Mapping[str, Any]
Queue = Callable[[str, int, int, str], Iterable[Row] | None]
"""Called with a pool, an offset, a limit and a namespace ("" for all); yields who waits, the first in turn first, as
JSON objects. None for a pool that is not led here. Others have their turn between rows, so what is yielded must be
settled by the call."""


class LoopLag:
    """Measures how late the event loop runs, and tells `observe` of every tick, in seconds."""

    def __init__(self, observe: Callable[[float], None] = lambda _: None) -> None:
        self.lag = 0.0
        self._observe = observe
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
            self._observe(self.lag)


class QueuePages:
    """The pools and who waits in them, as JSON. They are never cached, for they name leases of all namespaces.

    `pools` yields a JSON object with a `name` for each pool.
    """

    def __init__(self, now: Callable[[], int], pools: Callable[[], Iterable[Row]], queue: Queue) -> None:
        self._now = now
        self._pools = pools
        self._queue = queue

    async def pools(self, request: web.Request) -> web.Response:
        """Answer with the pools and how many leases each has, by state."""
        return _json({"time": format_time(self._now()), "pools": list(self._pools())})

    async def queue(self, request: web.Request) -> web.Response:
        """Answer with who waits in a pool, in turn; 404 for an unknown pool, 400 for a number that is none."""
        try:
            offset = _number(request, "offset", 0, 0, _MAX_OFFSET)
            limit = _number(request, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        except ValueError as error:
            return _json({"error": str(error)}, 400)
        name = request.match_info["pool"]
        found = self._queue(name, offset, limit, request.query.get("namespace", ""))
        if found is None:
            return _json({"error": self._unknown(name)}, 404)
        head = _encode({"pool": name, "time": format_time(self._now())})
        rows, parts = islice(found, limit), []
        while chunk := list(islice(rows, _CHUNK)):
            parts.append(_encode(chunk)[1:-1])
            await asyncio.sleep(0)  # thousands of rows must not hold up a renewal
        return _json_text(f'{head[:-1]},"waiting":[{",".join(parts)}]}}\n')

    def _unknown(self, name: str) -> str:
        names = sorted(row["name"] for row in self._pools())
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"There is no pool {name!r}. There is: {', '.join(names[:_NAMED]) or 'none'}{more}."


class HealthServer:
    """Serves the endpoint; `port` is the real one once started."""

    def __init__(
        self,
        host: str,
        port: int,
        page: Callable[[], bytes],
        alive: Check,
        ready: Check,
        queues: QueuePages | None = None,
        about: Callable[[], str] = lambda: "ok",
    ) -> None:
        self.host = host
        self.port = port
        self._page = page
        self._alive = alive
        self._ready = ready
        self._queues = queues
        self._about = about
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        if self._queues is not None:
            app.router.add_get("/pools", self._queues.pools)
            app.router.add_get("/pools/{pool}/queue", self._queues.queue)
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
        return _answer(self._ready(), self._about())

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._page(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _answer(wrong: str, right: str = "ok") -> web.Response:
    return web.Response(text=(wrong or right) + "\n", status=503 if wrong else 200)


def _number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """Read a whole number from the query. Raises ValueError, with what to write instead, when it is none."""
    text = request.query.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    raise ValueError(f"{name}={text[:40]!r} is no whole number from {least} to {most}")


def _encode(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _json(value: Any, status: int = 200) -> web.Response:
    return _json_text(_encode(value) + "\n", status)


def _json_text(text: str, status: int = 200) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(text=text, status=status, content_type="application/json", headers=headers)
