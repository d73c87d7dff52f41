"""Cancelled anywhere, the SDK leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
from tests.cluster.harness import LEASES, SESSIONS, SMALL, Stage, holding, until

from leasehold.sdk import Client, WaitTimeout


@types.coroutine
def cancelled_at(
    number: int, work: Coroutine[Any, Any, None], reached: list[int]
) -> Generator[Any, Any, None]:
    """Run something, and cancel its task where it waits for the n-th time."""
    step: Callable[[], Any] = lambda: work.send(None)  # noqa: E731
    count = 0
    while True:
        try:
            waits_for = step()
        except StopIteration:
            return
        count += 1
        if count == number:
            reached.append(number)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            value = yield waits_for
        except BaseException as error:  # noqa: BLE001 - it goes where it belongs
            caught = error
            step = lambda: work.throw(caught)  # noqa: E731, B023
        else:
            step = lambda: work.send(value)  # noqa: E731, B023


LIVELY = {"heartbeatTimeoutSeconds": 30, "gracePeriodSeconds": 30}


async def nothing_is_left(stage: Stage) -> None:
    def clean() -> bool:
        leases = stage.kube.list(LEASES, stage.namespace)
        wanted = [
            lease
            for lease in leases
            if lease["spec"].get("desiredState") != "Released"
            and "deletionTimestamp" not in lease["metadata"]
        ]
        sessions = stage.kube.list(SESSIONS, stage.namespace)
        return not wanted and not sessions and not any(map(holding, leases))

    await asyncio.to_thread(until, clean, "no lease, no capacity and no session is left behind")


async def cancel_everywhere(stage: Stage, work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run it again and again, cancelled at each place in turn where it waits; return how many there are.

    How many a run has varies by a few: an answer comes in one piece or in two. So it ends when three in turn were not
    reached.
    """
    number = last = 0
    while number < last + 3:
        number += 1
        reached: list[int] = []
        task = asyncio.ensure_future(cancelled_at(number, work(), reached))
        done, _ = await asyncio.wait({task}, timeout=60)
        assert done, f"cancelled at await {number} it hangs"
        assert task.cancelled() or not task.exception(), task.exception()
        # A cancellation is never swallowed, wherever it comes.
        assert task.cancelled() == bool(reached), f"await {number}"
        await nothing_is_left(stage)
        if reached:
            last = number
    return last


@pytest.mark.parametrize("liveness", ["Session", "Renew", "None"])
async def test_cancelled_at_every_await_nothing_stays_behind(stage: Stage, liveness: str) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    entered = 0

    async def work() -> None:
        nonlocal entered
        async with (
            Client(kubeconfig=stage.control_plane.kubeconfig, namespace=stage.namespace) as sdk,
            sdk.lease(pool=pool, cpu=4, duration="10m", liveness=liveness),
        ):
            entered += 1
            await asyncio.sleep(0)

    assert await cancel_everywhere(stage, work) >= 8
    assert entered >= 3, "in the block, at its end, and without any cancellation"


async def test_cancelled_at_every_await_of_a_wait_nothing_stays_behind(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    told = 0

    async def progress(_: object) -> None:
        nonlocal told
        told += 1
        await asyncio.sleep(0)

    async def work() -> None:
        async with Client(kubeconfig=stage.control_plane.kubeconfig, namespace=stage.namespace) as sdk:
            first = await sdk.acquire(pool=pool, cpu=4)
            with contextlib.suppress(WaitTimeout):
                await sdk.acquire(pool=pool, cpu=4, timeout=1, on_progress=progress)
            await first.release()

    assert await cancel_everywhere(stage, work) >= 12
    assert told
