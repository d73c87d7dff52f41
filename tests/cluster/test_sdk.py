"""The SDK in the hands of a program, with a real operator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import yaml
from tests.cluster.harness import LEASES, SESSIONS, SMALL, Stage, condition, finished, granted, is_

from leasehold.sdk import Client, LeaseLost, LostCause, Progress, WaitTimeout

LIVELY = {"heartbeatTimeoutSeconds": 6, "gracePeriodSeconds": 6, "claimTimeoutSeconds": 30}


def client(stage: Stage, **options: Any) -> Client:
    return Client(kubeconfig=stage.control_plane.kubeconfig, namespace=stage.namespace, **options)


async def eventually(test: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await asyncio.to_thread(test)):
            await asyncio.sleep(0.05)
        return found


async def test_a_block_holds_a_lease_and_gives_it_back(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage, identity="job-1") as sdk:
        async with sdk.lease(pool=pool, cpu="2", memory="1Gi", duration="10m") as lease:
            assert lease.nodes == (node,)
            assert lease.slices[0].resources == {"cpu": "2", "memory": "1Gi"}
            assert lease.token > 0
            assert 0 < lease.remaining() <= 6
            found = await asyncio.to_thread(stage.until, lease.name, is_("Claimed"))
            assert found["spec"]["holder"]["identity"] == "job-1"
            assert found["status"]["fencingToken"] == lease.token
        over = await asyncio.to_thread(stage.until, lease.name, finished)
        assert over["status"]["release"]["cause"] == "ReleaseRequested"
        assert len(stage.kube.list(SESSIONS, stage.namespace)) == 1
    assert stage.kube.list(SESSIONS, stage.namespace) == []


async def test_a_lease_is_kept_alive_over_many_periods_and_terms(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**LIVELY, "heartbeatTimeoutSeconds": 5})
    async with client(stage) as sdk, sdk.lease(pool=pool, cpu=1, duration="10s") as lease:
        renewed = await asyncio.to_thread(
            stage.until, lease.name, lambda o: o["status"].get("renewal", {}).get("count", 0) >= 3, 60
        )
        assert granted(renewed)
        assert lease.held


@pytest.mark.parametrize("liveness", ["Renew", "None"])
async def test_without_a_session_the_lease_itself_is_renewed(stage: Stage, liveness: str) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**LIVELY, "heartbeatTimeoutSeconds": 5})
    async with client(stage) as sdk, sdk.lease(pool=pool, cpu=1, duration="10s", liveness=liveness) as lease:
        await asyncio.to_thread(
            stage.until, lease.name, lambda o: o["status"].get("renewal", {}).get("count", 0) >= 4, 60
        )
        assert lease.held
        found = stage.get(lease.name)
        assert condition(found, "HolderLive")["status"] == ("True" if liveness == "Renew" else "")


async def test_who_waits_is_told_why_and_in_which_place(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    told: list[Progress] = []
    async with client(stage) as sdk:
        first = await sdk.acquire(pool=pool, cpu=4, duration="10m")
        waiting = asyncio.ensure_future(sdk.acquire(pool=pool, cpu=3, on_progress=told.append))
        await eventually(lambda: any(p.position == 1 for p in told), "a place in the queue")
        assert "WaitingForCapacity" in {p.reason for p in told}
        await first.release()
        second = await asyncio.wait_for(waiting, 20)
        assert second.token > first.token
        await second.release()


async def test_a_wait_that_is_too_long_ends_with_the_reason_and_leaves_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leasehold.sdk.asking._OFFER_SECONDS", 20)
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage) as sdk, sdk.lease(pool=pool, cpu=3):
        with pytest.raises(WaitTimeout) as caught:
            await sdk.acquire(pool=pool, cpu=2, timeout=6, name="late")
        assert caught.value.reason == "WaitingForCapacity"
        assert caught.value.counter_offer is not None
        assert "could be had" in str(caught.value)
        await eventually(lambda: stage.kube.find(LEASES, "late", stage.namespace) is None, "it is withdrawn")


async def test_a_revoked_lease_tells_how_much_time_is_left_and_then_cancels_the_block(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**LIVELY, "gracePeriodSeconds": 12})
    endings: list[Any] = []
    async with client(stage) as sdk:
        with pytest.raises(LeaseLost) as caught:
            async with sdk.lease(pool=pool, cpu=3, on_ending=endings.append) as lease:
                stage.annotate(lease.name, revoke="maintenance")
                await asyncio.sleep(30)
        assert caught.value.cause is LostCause.REVOKED
        (ending,) = endings
        assert ending.reason == "AdminRevoked"
        assert 0 < ending.seconds <= 12
        held = stage.get(lease.name)
        assert not finished(held), "the holder stops before the capacity is taken"


async def test_a_deleted_lease_is_lost_at_once(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage) as sdk:
        with pytest.raises(LeaseLost) as caught:
            async with sdk.lease(pool=pool, cpu=3) as lease:
                stage.kube.delete(LEASES, lease.name, stage.namespace)
                await asyncio.sleep(30)
        assert caught.value.cause is LostCause.DELETED


class Tunnel:
    """A proxy that speaks CONNECT, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            yield f"http://{host}:{port}"
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        host, _, port = head.split()[1].rpartition(":")
        beyond, to = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, to))
                both.create_task(self._pass_on(beyond, writer))
        finally:
            to.close()
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_the_cluster_behind_a_proxy_is_reached_through_it_and_it_sees_no_secret(stage: Stage) -> None:
    """`proxy-url` of a kubeconfig, as kubectl has it."""
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    plane = stage.control_plane
    config = yaml.safe_load(plane.kubeconfig.read_text())
    token = config["users"][0]["user"]["token"]
    tunnel = Tunnel()
    async with tunnel.running() as url:
        config["clusters"][0]["cluster"]["proxy-url"] = url
        path = plane.kubeconfig.with_name(f"{stage.namespace}.proxied")
        path.write_text(yaml.safe_dump(config))
        async with (
            Client(kubeconfig=path, namespace=stage.namespace) as sdk,
            sdk.lease(pool=pool, cpu=1) as lease,
        ):
            assert lease.held
    server = config["clusters"][0]["cluster"]["server"].removeprefix("https://")
    assert {asked.splitlines()[0] for asked in tunnel.asked} == {f"CONNECT {server} HTTP/1.1"}
    assert not [asked for asked in tunnel.asked if "authorization" in asked.lower() or token in asked]
