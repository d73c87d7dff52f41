"""How a block learns that its lease is lost, and how that goes together with every other cancellation."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.cluster.harness import LEASES, SMALL, Stage, finished, let_hold
from tests.cluster.test_sdk import client, eventually

from leasehold.sdk import Client, Lease, LeaseEnding, LeaseLost, LostCause

LIVELY = {"heartbeatTimeoutSeconds": 30, "gracePeriodSeconds": 30}


@pytest.fixture
def pool(stage: Stage) -> str:
    stage.nodes.create(1, SMALL)
    return stage.pool(policy=LIVELY)


def delete(stage: Stage, lease: Lease) -> None:
    stage.kube.delete(LEASES, lease.name, stage.namespace)


def lose_soon(stage: Stage, lease: Lease) -> asyncio.Future[Any]:
    return asyncio.ensure_future(asyncio.to_thread(delete, stage, lease))


async def test_a_cancellation_from_outside_stays_one_even_when_the_lease_is_lost_too(
    stage: Stage, pool: str
) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with client(stage) as sdk, sdk.lease(pool=pool, cpu=1) as lease:
            entered.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.to_thread(delete, stage, lease)
                assert await lease.wait_lost() is lease.lost
                raise

    task = asyncio.ensure_future(work())
    await entered.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_a_timeout_around_and_within_a_block_is_its_own(stage: Stage, pool: str) -> None:
    async with client(stage) as sdk:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2), sdk.lease(pool=pool, cpu=1):
                await asyncio.sleep(60)
        async with sdk.lease(pool=pool, cpu=1) as lease:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await asyncio.sleep(60)
            assert lease.held


async def test_a_loss_goes_through_timeouts_and_groups_of_the_block(stage: Stage, pool: str) -> None:
    cancelled = []

    async def part() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with client(stage) as sdk:
        with pytest.raises(LeaseLost) as caught:
            async with (
                sdk.lease(pool=pool, cpu=1) as lease,
                asyncio.timeout(60),
                asyncio.TaskGroup() as group,
            ):
                group.create_task(part())
                group.create_task(part())
                losing = lose_soon(stage, lease)
        assert caught.value.cause is LostCause.DELETED
        assert cancelled == [True, True]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "nothing of it is left in the task"
        await losing


async def test_a_block_that_swallows_its_cancellation_is_told_at_its_end(stage: Stage, pool: str) -> None:
    async with client(stage) as sdk:
        with pytest.raises(LeaseLost):
            async with sdk.lease(pool=pool, cpu=1) as lease:
                losing = lose_soon(stage, lease)
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.sleep(60)
        await losing
        await asyncio.sleep(0)


async def test_an_error_of_the_block_goes_before_the_loss(stage: Stage, pool: str) -> None:
    async with client(stage) as sdk:
        with pytest.raises(ZeroDivisionError):
            async with sdk.lease(pool=pool, cpu=1) as lease:
                losing = lose_soon(stage, lease)
                try:
                    await asyncio.sleep(60)
                finally:
                    raise ZeroDivisionError
        await losing
        await asyncio.sleep(0)


async def test_two_blocks_that_are_lost_together_end_together(stage: Stage, pool: str) -> None:
    async with client(stage) as sdk:
        with pytest.raises(LeaseLost):
            async with sdk.lease(pool=pool, cpu=1) as outer, sdk.lease(pool=pool, cpu=1) as inner:
                losing = asyncio.gather(lose_soon(stage, outer), lose_soon(stage, inner))
                await asyncio.sleep(60)
        await losing
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_with_a_callback_the_block_goes_on(stage: Stage, pool: str) -> None:
    told: list[Any] = []
    async with client(stage) as sdk:
        with pytest.raises(LeaseLost):
            async with sdk.lease(pool=pool, cpu=1, on_lost=told.append) as lease:
                delete(stage, lease)
                assert await lease.wait_lost() is lease.lost
                await asyncio.sleep(0.1)
                assert told == [lease.lost]
                with pytest.raises(LeaseLost):
                    lease.check()


async def test_an_end_that_is_announced_can_be_raised_at_once(stage: Stage, pool: str) -> None:
    async with client(stage) as sdk:
        with pytest.raises(LeaseEnding) as caught:
            async with sdk.lease(pool=pool, cpu=1, on_ending="raise") as lease:
                stage.annotate(lease.name, revoke="maintenance")
                await asyncio.sleep(60)
        assert caught.value.reason == "AdminRevoked"
        assert 10 < caught.value.seconds <= 30
        over = await asyncio.to_thread(stage.until, lease.name, finished)
        assert over["status"]["release"]["cause"] == "ReleaseRequested", (
            "it was given back before it was taken"
        )


async def test_callbacks_may_wait_and_may_fail(stage: Stage, pool: str) -> None:
    told: list[Any] = []

    async def slow(ending: Any) -> None:
        await asyncio.sleep(0)
        told.append(ending)
        raise RuntimeError("a mistake in the callback")

    def broken(_: object) -> None:
        raise RuntimeError("another")

    async with client(stage) as sdk:
        lease = await sdk.acquire(pool=pool, cpu=1, on_ending=slow, on_lost=broken)
        stage.annotate(lease.name, revoke="maintenance")
        await eventually(lambda: bool(told), "it is told")
        delete(stage, lease)
        assert isinstance(await lease.wait_lost(), LeaseLost)


async def test_a_machine_that_slept_too_long_has_lost_its_leases(stage: Stage, pool: str) -> None:
    """Time that passed in a suspension counts, though no timer ran. The clock is set forward; the rest is real."""
    slept = 0
    async with client(stage) as sdk:
        door = sdk._check()
        real = door.now
        door.now = lambda: real() + slept
        with pytest.raises(LeaseLost) as caught:
            async with sdk.lease(pool=pool, cpu=1) as lease:
                assert lease.held
                slept = 3_600_000
                assert not lease.held, "the clock is asked, not a timer"
                await asyncio.sleep(60)
        assert caught.value.cause in (LostCause.NOT_RENEWED, LostCause.UNHEARD)
        assert lease.remaining() == 0


async def test_a_block_that_lets_nobody_else_run_can_ask(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"heartbeatTimeoutSeconds": 5, "gracePeriodSeconds": 10})
    async with client(stage) as sdk:
        with pytest.raises(LeaseLost) as caught:
            async with sdk.lease(pool=pool, cpu=1) as lease:
                while True:
                    time.sleep(0.2)
                    lease.check()
        assert caught.value.cause is LostCause.NOT_RENEWED


async def test_a_client_that_is_closed_under_a_block(stage: Stage, pool: str) -> None:
    sdk = await client(stage).__aenter__()
    with pytest.raises(LeaseLost) as caught:
        async with sdk.lease(pool=pool, cpu=1):
            closing = asyncio.ensure_future(sdk.close())
            await asyncio.sleep(60)
    assert caught.value.cause is LostCause.CLOSED
    await closing


async def test_a_pool_that_goes_takes_its_leases_with_notice(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"heartbeatTimeoutSeconds": 30, "gracePeriodSeconds": 6})
    endings: list[Any] = []
    async with client(stage) as sdk:
        with pytest.raises(LeaseLost) as caught:
            async with sdk.lease(pool=pool, cpu=1, on_ending=endings.append):
                stage.kube.delete("capacitypools", pool)
                await asyncio.sleep(60)
        assert caught.value.cause is LostCause.REVOKED
        assert [ending.reason for ending in endings] == ["PoolDraining"]


async def test_who_may_not_read_pools_takes_them_for_the_strictest(stage: Stage, pool: str) -> None:
    config = await asyncio.to_thread(let_hold, stage.control_plane, "holder", stage.namespace, ["*"])
    async with (
        Client(kubeconfig=config, namespace=stage.namespace) as sdk,
        sdk.lease(pool=pool, cpu=1, timeout=30) as lease,
    ):
        assert 0 < lease.remaining() <= 5
        await asyncio.sleep(6)
        assert lease.held
