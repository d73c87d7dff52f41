"""Two workers that both believe that they lead a pool, step by step: what the search of the protocol found worth a try.

They share an API server, and each has a memory of its own, which may be deaf.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.adapters.fakes import (
    FakeKube,
    FakeRight,
    Object,
    Replica,
    World,
    condition,
    lease_path,
    pool_document,
    status,
    until,
)

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Sessions
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Refused, Unknown
from leasehold.adapters.pool.object import Deposed
from leasehold.adapters.pool.worker import PoolWorker
from leasehold.core.times import SECOND, format_time

POOL = paths.pool("ci")
SESSION = paths.coordination("team", "s")


class Leader(Replica):
    """A replica that believes that it leads: a worker with a memory, a clock and a right of its own."""

    def __init__(self, kube: FakeKube) -> None:
        self.ahead = 0.0
        clock = SteadyClock(monotonic=lambda: time.monotonic() + self.ahead)
        super().__init__(kube, client=self, clock=clock)
        self.right = FakeRight()
        self.held: asyncio.Event | None = None
        self.arrived = 0
        self.worker = PoolWorker(self.tools, kube.objects[POOL], self.right)
        self.writes: list[tuple[str, Any]] = []
        self.task: asyncio.Task[None] | None = None

    def pool_heard(self, kind: str, document: Object) -> None:
        self.worker.pool.pool_seen(document)

    async def start(self) -> None:
        self.worker.join()
        self.task = asyncio.create_task(self.worker.run())
        await until(lambda: self.worker.ready or self.task.done())

    # --- the client it uses: what it sent is on its way, whether it still waits for the answer or not ---

    async def patch(self, path: str, body: Object) -> Object:
        return await self._send(self.kube.patch, path, body)

    async def replace_status(self, path: str, document: Object) -> str:
        return await self._send(self.kube.replace_status, path, document)

    async def _send(self, write: Callable[[str, Object], Awaitable[Any]], path: str, body: Object) -> Any:
        self.writes.append((path, body))
        return await asyncio.shield(asyncio.create_task(self._deliver(write, path, body)))

    async def _deliver(self, write: Callable[[str, Object], Awaitable[Any]], path: str, body: Object) -> Any:
        if self.held is not None and path.startswith(lease_path("")):
            await self.held.wait()
        try:
            return await write(path, body)
        finally:
            self.arrived += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kube, name)


class Duo(World):
    """A pool with one node of 4 cores, and leaders that come as they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.replicas: list[Leader] = []
        self.node()
        self.add_pool(pool_document())

    async def replica(self, *, start: bool = True) -> Leader:
        found = Leader(self.kube)
        self.replicas.append(found)
        if start:
            await found.start()
        return found

    def session(self, name: str, seconds: int) -> Object:
        meta = {"name": name, "namespace": "team", "labels": {"leasehold.dev/session": ""}}
        spec = {"renewTime": "1", "leaseDurationSeconds": seconds}
        return self.kube.add(
            paths.coordination("team", name), {"kind": "Lease", "metadata": meta, "spec": spec}
        )

    def holders(self) -> list[str]:
        rows = ((path, one) for path, one in self.kube.objects.items() if "/capacityleases/" in path)
        held = [
            path
            for path, one in rows
            if status(one, "Allocated") == "True" and not condition(one, "Released")
        ]
        return [path.rpartition("/")[2] for path in held]


@asynccontextmanager
async def duo() -> AsyncIterator[Duo]:
    made = Duo()
    try:
        yield made
    finally:
        for replica in made.replicas:
            if replica.task is not None:
                replica.task.cancel()
        tasks = [replica.task for replica in made.replicas if replica.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_was_committed_is_granted_by_the_successor_and_the_late_write_comes_to_nothing() -> None:
    async with duo() as both:
        first = await both.replica()
        first.held = asyncio.Event()
        both.ask("a", cpu="4")
        await both.until(lambda: first.worker.state.entries)
        first.deaf = True
        second = await both.replica()
        both.ask("b", cpu="4", priority=5)
        await both.granted("a")
        assert condition(both.lease("a"), "Allocated")["reason"] == "Adopted"
        written = both.lease("a")
        first.held.set()
        await both.until(lambda: first.arrived and (first.task.done() or not first.worker.state.entries))
        assert both.lease("a") == written
        await both.until(lambda: both.pool()["status"]["ledger"]["inFlight"] == [])
        assert both.holders() == ["a"]
        assert not second.task.done()


async def test_a_successor_knows_what_is_held_from_its_list_and_not_from_its_watch() -> None:
    async with duo() as both:
        await both.replica()
        both.ask("a", cpu="4")
        await both.granted("a")
        await both.replica()
        both.ask("b", cpu="4")
        await both.until(
            lambda: condition(both.lease("b"), "Allocated").get("reason") == "WaitingForCapacity"
        )
        assert both.holders() == ["a"]


async def test_a_right_that_runs_out_stops_every_write() -> None:
    async with duo() as both:
        only = await both.replica()
        both.ask("a", cpu="1", durationSeconds=1)
        await both.granted("a")
        await both.until(lambda: both.pool()["status"]["ledger"]["inFlight"] == [])
        only.right.is_valid = False
        only.writes.clear()
        both.ask("b", cpu="1")
        with pytest.raises(Deposed):
            await asyncio.wait_for(only.task, 5)
        assert only.writes == []
        assert both.holders() == ["a"]


async def test_a_right_that_runs_out_while_a_write_waits_stops_it_too() -> None:
    async with duo() as both:
        only = await both.replica()
        both.kube.faults.append(
            lambda method, path, body: Unknown("away") if path.startswith(lease_path("a")) else None
        )
        both.ask("a", cpu="4")

        def waits_to_try_again() -> bool:
            refused = any(path.startswith(lease_path("a")) for path, _ in only.writes)
            return refused and only.arrived == len(only.writes)

        await both.until(waits_to_try_again)
        only.right.is_valid = False
        both.kube.faults.clear()
        with pytest.raises(Deposed):
            await asyncio.wait_for(only.task, 5)
        assert both.holders() == []


async def test_what_went_while_a_standby_was_deaf_holds_nothing_for_its_successor() -> None:
    async with duo() as both:
        first = await both.replica()
        second = await both.replica(start=False)
        both.ask("a", cpu="4")
        await both.granted("a")
        second.deaf = True
        first.task.cancel()
        both.kube.remove(lease_path("a"))
        await second.start()
        second.deaf = False
        both.ask("b", cpu="4")
        await both.granted("b")


async def test_room_is_not_lent_again_before_the_end_of_who_holds_it_is_known_to_be_written() -> None:
    async with duo() as both:
        only = await both.replica()
        both.ask("a", cpu="4")
        await both.granted("a")
        await both.until(lambda: not only.worker.state.entries)
        only.held = asyncio.Event()
        both.kube.touch(lease_path("a"), {"spec": {"desiredState": "Released"}})
        await both.until(lambda: any("release" in body.get("status", {}) for _, body in only.writes))
        both.ask("b", cpu="4")
        await asyncio.sleep(0.1)
        assert only.worker.state.entries == {}
        assert only.worker.state.ledger.count("held") == 1
        only.held.set()
        await both.granted("b")


async def test_no_start_is_promised_while_an_earlier_leader_may_still_renew_who_holds_the_room() -> None:
    """The first one's clock is ahead: it renews by the session when the successor finds no renewal due yet."""
    async with duo() as both:
        first = await both.replica()
        Sessions(first.cluster).changed("ADDED", both.session("s", 300))
        both.ask("a", cpu="4", durationSeconds=600, liveness="Session", holder={"sessionRef": {"name": "s"}})
        await both.granted("a")
        await both.until(lambda: both.pool()["status"]["ledger"]["inFlight"] == [])
        first.held = asyncio.Event()
        first.ahead = 450.0
        Sessions(first.cluster).changed("MODIFIED", both.kube.touch(SESSION, {"spec": {"renewTime": "2"}}))
        first.worker.state.touch_all()
        first.worker.mark()
        await both.until(lambda: any("renewal" in body.get("status", {}) for _, body in first.writes))
        first.right.is_valid, first.deaf = False, True
        second = await both.replica(start=False)
        Sessions(second.cluster).changed("ADDED", both.kube.objects[SESSION])
        await second.start()
        later = format_time(second.clock.now() + 700 * SECOND)
        both.ask("later", cpu="4", startTime=later, durationSeconds=60)
        await both.until(lambda: "reservation" in (both.lease("later").get("status") or {}))
        start = both.lease("later")["status"]["reservation"]["startTime"]
        arrived = first.arrived
        first.held.set()
        await both.until(lambda: first.arrived > arrived)
        assert both.lease("a")["status"]["deadlines"]["expirationTime"] <= start


async def test_a_session_that_the_watch_lost_is_looked_up_before_its_leases_end() -> None:
    async with duo() as both:
        only = await both.replica()
        Sessions(only.cluster).changed("ADDED", both.session("s", 1))
        both.ask("a", liveness="Session", holder={"sessionRef": {"name": "s"}})
        await both.granted("a")
        for beat in range(8):
            await asyncio.sleep(0.3)
            both.kube.touch(SESSION, {"spec": {"renewTime": str(beat + 2)}})  # and no watch tells
        assert status(both.lease("a"), "Ready") == "True"
        both.kube.remove(SESSION)
        await both.until(lambda: status(both.lease("a"), "Finished") == "True")
        assert both.lease("a")["status"]["release"]["cause"] == "HeartbeatLost"


async def test_a_commitment_that_a_successor_undid_is_not_written_again_by_who_made_it() -> None:
    """Both believe in their right to lead: clocks have failed. The epoch alone must do."""
    async with duo() as both:
        first = await both.replica()
        first.held = asyncio.Event()
        both.ask("a", cpu="4")
        await both.until(lambda: first.worker.state.entries)
        first.worker.pool.pool_seen = lambda document: None  # type: ignore[method-assign]
        refused = [0]

        def refuses(method: str, path: str, body: Any) -> Any:
            told = (body or {}).get("status", {}) if isinstance(body, dict) else {}
            if (
                method == "PUT"
                and lease_path("a") in path
                and "allocation" in told
                and not first.held.is_set()
            ):
                refused[0] += 1
                return Refused("a policy says no", 422)
            return None

        both.kube.faults.append(refuses)
        await both.replica()
        await both.until(lambda: condition(both.lease("a"), "Allocated").get("status") == "False")
        assert refused[0]
        both.ask("b", cpu="4", priority=5)
        await both.granted("b")
        del first.worker.pool.pool_seen  # it reads the pool again when its write finds another version
        both.kube.faults.clear()
        first.held.set()
        with pytest.raises(Deposed):
            await asyncio.wait_for(asyncio.shield(first.task), 5)
        assert both.holders() == ["b"]


async def test_one_that_was_overtaken_while_it_listed_adopts_nothing() -> None:
    async with duo() as both:
        dead = await both.replica()
        dead.held = asyncio.Event()
        both.ask("a", cpu="4")
        await both.until(lambda: dead.worker.state.entries)
        dead.task.cancel()
        late = await both.replica(start=False)
        listed = asyncio.Event()

        async def slow(*arguments: Any, **more: Any) -> Any:
            found = await both.kube.list(*arguments, **more)
            late.deaf = True
            await listed.wait()
            return found

        late.list = slow  # type: ignore[attr-defined]
        late.worker.join()
        late.task = asyncio.create_task(late.worker.run())
        await both.until(lambda: late.deaf)
        await both.replica()
        await both.granted("a")
        listed.set()
        with pytest.raises(Deposed):
            await asyncio.wait_for(asyncio.shield(late.task), 5)
        assert not late.worker.state.entries
