"""Holders, operators and networks that fail: the capacity comes back, never before its holder has stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.harness import SMALL, ProcessOperator, Stage, ThreadOperator, finished, until
from tests.cluster.sdk_cuts import run_many

from leasehold.core.times import parse_time
from leasehold.sdk import Client
from leasehold.testing.processes import Child

HOLDER = textwrap.dedent(
    """
    import asyncio, sys
    from leasehold.sdk import Client

    async def main(kubeconfig, namespace, pool):
        async with Client(kubeconfig=kubeconfig, namespace=namespace) as client:
            async with client.lease(pool=pool, cpu=3, name="held", duration="10m") as lease:
                print("held", lease.token, flush=True)
                await asyncio.sleep(600)

    asyncio.run(main(*sys.argv[1:]))
    """
)


@pytest.fixture
def holder(stage: Stage, tmp_path: Path) -> Iterator[tuple[Child, str]]:
    """A process that holds a lease, and its pool."""
    stage.nodes.create(1, SMALL)
    policy = {"heartbeatTimeoutSeconds": 6, "gracePeriodSeconds": 2}
    pool = stage.pool(policy=policy)
    child = Child(
        [sys.executable, "-c", HOLDER, str(stage.control_plane.kubeconfig), stage.namespace, pool],
        log=tmp_path / "holder.log",
        cwd=Path.cwd(),
        env=dict(os.environ),
    )
    try:
        until(lambda: "held" in child.log_tail(5) or not child.running(), "it holds its lease", 30)
        assert child.running(), child.log_tail(40)
        yield child, pool
    finally:
        child.kill()


async def test_what_a_killed_holder_held_comes_back_after_heartbeat_and_grace_and_no_earlier(
    stage: Stage, holder: tuple[Child, str], operator: ThreadOperator
) -> None:
    child, pool = holder
    killed = operator.controller.clock.now()
    child.kill()
    async with (
        Client(kubeconfig=stage.control_plane.kubeconfig, namespace=stage.namespace) as sdk,
        sdk.lease(pool=pool, cpu=3, timeout=60),
    ):
        over = stage.get("held")
    assert finished(over)
    assert over["status"]["release"]["cause"] == "HeartbeatLost"
    # Its last heartbeat was sent less than a third of six seconds before it was killed, and two of grace follow.
    assert parse_time(over["status"]["release"]["startTime"]) >= killed + 4000 + 2000 - 500


def test_a_holder_that_is_told_to_stop_gives_back_at_once(stage: Stage, holder: tuple[Child, str]) -> None:
    child, _ = holder
    child.signal(signal.SIGINT)
    over = stage.until("held", finished)
    assert over["status"]["release"]["cause"] == "ReleaseRequested"


async def test_a_holder_keeps_its_lease_while_the_operator_is_killed_and_replaced(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    with ProcessOperator(bare.control_plane) as first:
        await asyncio.to_thread(first.wait_ready)
        pool = bare.pool(policy={"heartbeatTimeoutSeconds": 30, "gracePeriodSeconds": 20})
        async with (
            Client(kubeconfig=bare.control_plane.kubeconfig, namespace=bare.namespace) as sdk,
            sdk.lease(pool=pool, cpu=3, duration="10m") as lease,
        ):
            token = lease.token
            first.child.kill()
            await asyncio.sleep(12)  # longer than a beat, and than a look
            assert lease.held
            with ProcessOperator(bare.control_plane) as second:
                await asyncio.to_thread(second.wait_ready)
                assert lease.held
                assert lease.token == token
                await lease.release()
                await asyncio.to_thread(bare.until, lease.name, finished)


async def test_the_holder_stops_before_the_operator_reclaims_whatever_is_cut(
    stage: Stage, operator: ThreadOperator, tmp_path: Path
) -> None:
    cuts = await run_many(stage, operator, tmp_path, 12, seed=8, graces=(2, 12))
    told = "\n".join(map(str, cuts))
    assert all(cut.ahead > 0 for cut in cuts), told
    # The others could still say goodbye, which is no proof of anything.
    assert sum(cut.taken in ("HeartbeatLost", "AdminRevoked") for cut in cuts) >= 6, told
    assert {cut.cause for cut in cuts} <= {"NotRenewed", "Unheard", "Expired"}, told
