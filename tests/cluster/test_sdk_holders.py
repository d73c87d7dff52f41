"""Keys that survive a crash, leases that change hands, and parts of leases."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from pathlib import Path

import pytest
from tests.cluster.harness import LEASES, SMALL, Stage, finished, granted, until
from tests.cluster.test_sdk import client

from leasehold.sdk import KeyConflict, Lease, LeaseLost, LeaseNotFound, LostCause, Misuse, Refused
from leasehold.testing.processes import Child

LIVELY = {"heartbeatTimeoutSeconds": 60, "gracePeriodSeconds": 30}

CRASHING = textwrap.dedent(
    """
    import asyncio, os, sys
    from leasehold.sdk import Client

    async def main(kubeconfig, namespace, pool):
        async with Client(kubeconfig=kubeconfig, namespace=namespace) as client:
            async with client.lease(pool=pool, cpu=3, key="job-17", duration="10m") as lease:
                print("token", lease.token, flush=True)
                os._exit(9)

    asyncio.run(main(*sys.argv[1:]))
    """
)


async def test_a_key_survives_the_crash_of_its_caller(stage: Stage, tmp_path: Path) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    child = Child(
        [sys.executable, "-c", CRASHING, str(stage.control_plane.kubeconfig), stage.namespace, pool],
        log=tmp_path / "crash.log",
        cwd=Path.cwd(),
        env=dict(os.environ),
    )
    await asyncio.to_thread(until, lambda: not child.running(), "it crashed", 60)
    assert "token" in child.log_tail(5), child.log_tail(40)
    before = int(child.log_tail(1).split()[1])
    async with (
        client(stage) as sdk,
        sdk.lease(pool=pool, cpu=3, key="job-17", duration="10m", timeout=60) as lease,
    ):
        assert len(stage.kube.list(LEASES, stage.namespace)) == 1
        assert lease.token > before, "what the crashed caller still has under way is fenced off"
        assert lease.remaining() > 0
    over = await asyncio.to_thread(stage.until, lease.name, finished)
    assert over["status"]["release"]["cause"] == "ReleaseRequested"


async def test_a_key_belongs_to_one_wish_and_once_over_can_be_used_again(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage) as sdk, client(stage) as other:
        async with sdk.lease(pool=pool, cpu=1, key="k") as lease:
            with pytest.raises(KeyConflict, match="already"):
                await sdk.acquire(pool=pool, cpu=1, key="k")
            with pytest.raises(KeyConflict, match="other wishes"):
                await other.acquire(pool=pool, cpu=2, key="k")
            assert lease.held
            uid = stage.get(lease.name)["metadata"]["uid"]
        async with sdk.lease(pool=pool, cpu=2, key="k") as lease:
            assert stage.get(lease.name)["metadata"]["uid"] != uid


@pytest.mark.parametrize("liveness", ["Session", "Renew", "None"])
async def test_who_attaches_gets_a_new_token_and_the_former_holder_loses_it(
    stage: Stage, liveness: str
) -> None:
    """Though both go by one name."""
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage, identity="one") as first, client(stage, identity="one") as second:

        async def take(name: str) -> Lease:
            return await second.attach(name, liveness=liveness)

        with pytest.raises(LeaseLost) as caught:
            async with first.lease(pool=pool, cpu=3, duration="10m", liveness=liveness) as lease:
                # Not in the block itself, which is cancelled as soon as it is taken.
                taking = asyncio.ensure_future(take(lease.name))
                await asyncio.sleep(60)
        taken = await taking
        assert taken.token > lease.token
        assert taken.nodes == lease.nodes
        assert caught.value.cause is LostCause.HANDED_OVER
        await asyncio.sleep(0.5)
        found = stage.get(taken.name)
        assert granted(found)
        assert "desiredState" not in found["spec"] or found["spec"]["desiredState"] == "Held"
        assert found["status"]["holder"]["sessionRef"]["name"] == second.session()
        assert taken.held
        await taken.release()


async def test_a_lease_is_handed_over_without_a_gap(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage) as first, client(stage) as second:
        async with first.lease(pool=pool, cpu=3, duration="10m") as lease:
            token = lease.token
            with pytest.raises(Misuse):
                await lease.hand_over()
            await lease.hand_over(session=second.session(), identity="two")
            assert not lease.held
        async with second.attach(lease.name) as taken:
            assert taken.token > token
            assert granted(stage.get(taken.name))
        await asyncio.to_thread(stage.until, taken.name, finished)


async def test_what_is_not_there_or_over_cannot_be_attached_to(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage) as sdk:
        with pytest.raises(LeaseNotFound):
            await sdk.attach("nobody")
        lease = await sdk.acquire(pool=pool, cpu=1)
        await lease.release()
        with pytest.raises(LeaseLost):
            await sdk.attach(lease.name)


async def test_a_lease_is_lent_on_in_parts(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage) as sdk, sdk.lease(pool=pool, cpu=3, memory="3Gi", duration="10m") as lease:
        async with (
            lease.sublease(cpu=2, memory="1Gi") as one,
            lease.sublease(cpu=1, memory="1Gi") as two,
        ):
            assert one.nodes == two.nodes == lease.nodes
            assert len({one.token, two.token, lease.token}) == 3
            with pytest.raises(Refused) as caught:
                await lease.sublease(cpu=8)
            assert caught.value.reason == "ExceedsParent"
        await asyncio.to_thread(stage.until, one.name, finished)
