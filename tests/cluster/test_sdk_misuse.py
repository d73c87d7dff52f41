"""What a program can do wrong, or its administrator, and what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.harness import LEASES, SMALL, Stage
from tests.cluster.test_sdk import client, eventually

from leasehold.sdk import (
    BadConfig,
    Client,
    Forbidden,
    KeyConflict,
    LeaseholdError,
    LeaseNotFound,
    Misuse,
    NotConnected,
    PoolNotFound,
    Refused,
    ServerUnavailable,
    StartDeadlineExceeded,
    WaitTimeout,
)
from leasehold.testing.kubeconfig import Connection


@pytest.fixture
def pool(stage: Stage) -> str:
    stage.nodes.create(1, SMALL)
    return stage.pool(policy={"maxDurationSeconds": 3600})


async def test_requests_that_no_pool_can_grant(stage: Stage, pool: str) -> None:
    async with client(stage) as sdk:
        with pytest.raises(PoolNotFound, match="no-such-pool"):
            await sdk.acquire(pool="no-such-pool", cpu=1)
        with pytest.raises(Refused) as caught:
            await sdk.acquire(pool=pool, cpu=1, duration="2h")
        assert caught.value.reason == "DurationTooLong"
        with pytest.raises(Refused) as caught:
            await sdk.acquire(pool=pool, resources={"example.com/none": 1})
        assert caught.value.reason == "ResourceNotOffered"
        with pytest.raises(Refused) as caught:
            await sdk.acquire(pool_selector={"no": "pool"}, cpu=1)
        assert caught.value.reason == "NoMatchingPool"
        with pytest.raises(Refused) as caught:
            await sdk.acquire(pool=pool, cpu=1, count=10_000)
        assert caught.value.reason == "Invalid"
        with pytest.raises(StartDeadlineExceeded):
            await sdk.acquire(pool=pool, cpu=64, start_within="1s", timeout=30)
        assert await sdk.list() == [] or all(view.finished for view in await sdk.list())


async def test_a_request_that_is_used_twice_or_outside(stage: Stage, pool: str) -> None:
    sdk = client(stage)
    with pytest.raises(Misuse, match="async with Client"):
        sdk.lease(pool=pool, cpu=1)
    async with sdk:
        with pytest.raises(Misuse, match="once"):
            await sdk.__aenter__()
        pending = sdk.lease(pool=pool, cpu=1)
        async with pending as lease:
            with pytest.raises(Misuse, match="another block"):
                await lease.__aenter__()
            with pytest.raises(Misuse, match="used already"):
                await pending
            with pytest.raises(KeyConflict):
                await sdk.attach(lease.name)
        with pytest.raises(Misuse, match="not held"):
            lease.check()
        with pytest.raises(Misuse, match="Which lease"):
            sdk.attach()
        await lease.release()
        assert lease.remaining() == 0
        assert not lease.held
        assert await lease.wait_lost() is None
    await sdk.close()
    with pytest.raises(Misuse, match="closed"):
        await sdk.get("x")


async def test_another_event_loop(stage: Stage, pool: str) -> None:
    async with client(stage) as sdk:
        lease = await sdk.acquire(pool=pool, cpu=1)

        def elsewhere(work: Callable[[], Any]) -> None:
            async def run() -> None:
                await work()

            with pytest.raises(Misuse, match="another event loop"):
                asyncio.run(run())

        await asyncio.to_thread(elsewhere, lambda: sdk.get("x"))
        await asyncio.to_thread(elsewhere, lease.release)
        await lease.release()


def test_no_way_to_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_and_close(**options: Any) -> None:
        async with Client(**options) as sdk:
            await sdk.get("x")

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(BadConfig, match="kubeconfig"):
        asyncio.run(open_and_close())
    with pytest.raises(BadConfig):
        asyncio.run(open_and_close(kubeconfig=tmp_path / "none"))
    with pytest.raises(Misuse):
        Client(namespace="No Namespace")
    with pytest.raises(Misuse):
        Client(session="1s")
    nowhere = Connection(url="http://127.0.0.1:9").write(tmp_path / "nowhere")
    with pytest.raises(ServerUnavailable):
        asyncio.run(open_and_close(kubeconfig=nowhere))


async def test_identities_without_rights(stage: Stage, pool: str) -> None:
    plane = stage.control_plane
    nobody = Client(kubeconfig=plane.kubeconfig_for("nobody"), namespace=stage.namespace)
    async with nobody as sdk:
        with pytest.raises(Forbidden, match="leasehold-editor"):
            await sdk.acquire(pool=pool, cpu=1)
        with pytest.raises(Forbidden):
            await sdk.list()
        with pytest.raises(Forbidden):
            await sdk.quote(pool=pool, cpu=1)
        with pytest.raises(Forbidden):
            await anext(sdk.watch())
    wrong = Connection(url=plane.connection.url, ca=plane.connection.ca, token="wrong")
    async with Client(kubeconfig=plane.write_kubeconfig(wrong), namespace=stage.namespace) as sdk:
        with pytest.raises(NotConnected):
            await sdk.get("x")


async def test_things_that_are_not_there(stage: Stage, pool: str) -> None:
    async with client(stage) as sdk:
        for call in (sdk.get, sdk.explain, sdk.release, sdk.renew):
            with pytest.raises(LeaseNotFound):
                await call("nobody")
        with pytest.raises(PoolNotFound):
            await sdk.availability("no-such-pool")
        with pytest.raises(BadConfig, match="no such namespace"):
            await sdk.acquire(pool=pool, cpu=1, namespace="no-such-namespace")


async def test_what_progress_raises_ends_the_wait_and_withdraws(stage: Stage, pool: str) -> None:
    class Bored(Exception):
        pass

    def bored(_: object) -> None:
        raise Bored

    async with client(stage) as sdk, sdk.lease(pool=pool, cpu=4):
        with pytest.raises(Bored):
            await sdk.acquire(pool=pool, cpu=4, on_progress=bored, name="bored")
        await eventually(lambda: stage.kube.find(LEASES, "bored", stage.namespace) is None, "it is withdrawn")


async def test_where_nobody_decides_the_wait_says_so(bare: Stage) -> None:
    async with Client(kubeconfig=bare.control_plane.kubeconfig, namespace=bare.namespace) as sdk:
        with pytest.raises(WaitTimeout, match="Does it run") as caught:
            await sdk.acquire(pool="any", cpu=1, timeout=5)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, LeaseholdError)
        with pytest.raises(WaitTimeout, match="Does the operator run"):
            await sdk.quote(pool="any", cpu=1, timeout=5)
