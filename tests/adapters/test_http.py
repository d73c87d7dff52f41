"""The probes and the metrics page over HTTP."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from leasehold.adapters.http import HealthServer, LoopLag


async def get(server: HealthServer, path: str) -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}{path}") as response,
    ):
        return response.status, await response.text(), response.headers["Content-Type"]


async def test_it_answers_what_the_checks_say() -> None:
    wrong = {"alive": "", "ready": ""}
    server = HealthServer(
        "127.0.0.1", 0, lambda: b"a_metric 1\n", lambda: wrong["alive"], lambda: wrong["ready"]
    )
    await server.start()
    try:
        assert server.port > 0
        assert (await get(server, "/healthz"))[:2] == (200, "ok\n")
        assert (await get(server, "/readyz"))[:2] == (200, "ok\n")
        wrong["ready"] = "not yet"
        assert (await get(server, "/readyz"))[:2] == (503, "not yet\n")
        assert (await get(server, "/healthz"))[0] == 200
        wrong["alive"] = "dead"
        assert (await get(server, "/healthz"))[:2] == (503, "dead\n")
        status, text, kind = await get(server, "/metrics")
        assert (status, text) == (200, "a_metric 1\n")
        assert kind.startswith("text/plain; version=0.0.4")
        assert (await get(server, "/other"))[0] == 404
    finally:
        await server.stop()


async def test_a_port_that_is_taken_is_an_error() -> None:
    first = HealthServer("127.0.0.1", 0, bytes, str, str)
    await first.start()
    second = HealthServer("127.0.0.1", first.port, bytes, str, str)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.stop()
    await first.stop()


async def test_a_server_that_never_started_stops() -> None:
    await HealthServer("127.0.0.1", 0, bytes, str, str).stop()


async def test_a_loop_that_is_held_up_shows() -> None:
    lag = LoopLag()
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(0.3)
    assert lag() < 0.2
    time.sleep(0.8)
    assert lag() > 0.4, "an overdue tick counts"
    await asyncio.sleep(0.01)
    assert lag.lag > 0.3
    task.cancel()
