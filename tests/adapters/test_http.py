"""The probes, the metrics page and the queues over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import aiohttp
import pytest

from leasehold.adapters.http import HealthServer, LoopLag, QueuePages


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


# --- queues ---


class Pools:
    """Two pools: in `ci` so many wait, by turns of two namespaces; in `idle` nobody."""

    def __init__(self, waiting: int = 5) -> None:
        self.waiting = waiting
        self.asked: list[tuple[str, int, int, str]] = []
        self.names = ["idle", "ci"]
        self.yielded = 0

    def pools(self) -> Iterable[Mapping[str, Any]]:
        return [{"name": name, "waiting": 0} for name in self.names]

    def queue(self, pool: str, offset: int, limit: int, namespace: str) -> Iterable[Mapping[str, Any]] | None:
        self.asked.append((pool, offset, limit, namespace))
        if pool not in self.names:
            return None
        return self.rows() if pool == "ci" else ()

    def rows(self) -> Iterable[Mapping[str, Any]]:
        for position in range(1, self.waiting + 1):
            self.yielded += 1
            yield {
                "position": position,
                "namespace": f"team-{position % 2}",
                "name": f"bäuild-{position}",
                "uid": f"0b7c1d9e-6f1a-4d0c-9d55-{position:012d}",
                "tenant": "web",
                "priority": 0,
                "resources": {"cpu": "1", "memory": "4Gi"},
                "count": 1,
                "reason": "WaitingForCapacity",
                "estimatedStartTime": None,
            }


@pytest.fixture
async def desk() -> AsyncIterator[tuple[Pools, HealthServer]]:
    pools = Pools()
    pages = QueuePages(lambda: 1795374005250, pools.pools, pools.queue)
    server = HealthServer("127.0.0.1", 0, bytes, str, str, pages)
    await server.start()
    yield pools, server
    await server.stop()


async def answer(server: HealthServer, path: str) -> tuple[int, Any]:
    status, text, kind = await get(server, path)
    assert kind.startswith("application/json")
    return status, json.loads(text)


async def test_who_waits_is_told_in_turn(desk: tuple[Pools, HealthServer]) -> None:
    pools, server = desk
    status, found = await answer(server, "/pools/ci/queue")
    assert status == 200
    assert (found["pool"], found["time"]) == ("ci", "2026-11-22T19:00:05.250Z")
    assert found["waiting"] == list(pools.rows())
    assert pools.asked == [("ci", 0, 500, "")]
    assert await answer(server, "/pools/idle/queue") == (
        200,
        {"pool": "idle", "time": "2026-11-22T19:00:05.250Z", "waiting": []},
    )


async def test_a_part_of_a_queue_is_asked_for_by_offset_limit_and_namespace(
    desk: tuple[Pools, HealthServer],
) -> None:
    pools, server = desk
    _, found = await answer(server, "/pools/ci/queue?offset=7&limit=2&namespace=team-1")
    assert pools.asked == [("ci", 7, 2, "team-1")]
    assert len(found["waiting"]) == 2
    assert pools.yielded == 2, "what was not asked for is not worked out"


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=10001", "limit=", "limit=ten", "limit=1.5", "limit=-1", "limit=%D9%A3"),
        *("offset=-1", "offset=1000000001", "offset=" + "9" * 5000, "offset=0x1", "limit=5&offset=%00"),
    ],
)
async def test_a_number_that_is_none_is_said_plainly(desk: tuple[Pools, HealthServer], query: str) -> None:
    pools, server = desk
    status, found = await answer(server, f"/pools/ci/queue?{query}")
    assert status == 400
    assert "is no whole number from" in found["error"]
    assert len(found["error"]) < 120
    assert pools.asked == []


async def test_an_unknown_pool_is_told_which_there_are(desk: tuple[Pools, HealthServer]) -> None:
    pools, server = desk
    status, found = await answer(server, "/pools/ci%2F..%2Fx/queue")
    assert (status, found) == (404, {"error": "There is no pool 'ci/../x'. There is: ci, idle."})
    pools.names = [f"p{number:02}" for number in range(25)]
    assert (await answer(server, "/pools/x/queue"))[1]["error"].endswith("p19 and 5 more.")
    pools.names = []
    assert (await answer(server, "/pools/x/queue"))[1] == {"error": "There is no pool 'x'. There is: none."}


async def test_pools_are_listed_with_their_figures(desk: tuple[Pools, HealthServer]) -> None:
    pools, server = desk
    status, found = await answer(server, "/pools")
    assert (status, found["pools"]) == (200, list(pools.pools()))


async def test_nobody_keeps_or_guesses_at_an_answer(desk: tuple[Pools, HealthServer]) -> None:
    _, server = desk
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        for path in ("/pools", "/pools/ci/queue", "/pools/none/queue", "/pools/ci/queue?limit=x"):
            async with session.get(path) as response:
                assert response.headers["Cache-Control"] == "no-store"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert "Access-Control-Allow-Origin" not in response.headers
        async with session.post("/pools/ci/queue") as response:
            assert response.status == 405


async def test_thousands_of_rows_let_others_have_their_turn(desk: tuple[Pools, HealthServer]) -> None:
    pools, server = desk
    pools.waiting = 20_000
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += pools.yielded > 0

    task = asyncio.create_task(others())
    _, found = await answer(server, "/pools/ci/queue?limit=10000")
    task.cancel()
    assert [row["position"] for row in found["waiting"]] == list(range(1, 10_001))
    assert turns >= 20


async def test_without_queues_there_are_no_pages() -> None:
    server = HealthServer("127.0.0.1", 0, bytes, str, str)
    await server.start()
    assert (await get(server, "/pools"))[0] == 404
    await server.stop()


# --- lag ---


async def test_a_loop_that_is_held_up_shows() -> None:
    seen: list[float] = []
    lag = LoopLag(seen.append)
    task = asyncio.create_task(lag.run())
    async with asyncio.timeout(20):
        while not seen or lag() >= 0.2:  # a busy machine may hold it up by itself
            await asyncio.sleep(0.01)
    time.sleep(0.8)
    assert lag() > 0.4, "an overdue tick counts"
    await asyncio.sleep(0.01)
    assert lag.lag > 0.3
    assert seen[-1] == lag.lag, "and is told to who counts"
    task.cancel()
