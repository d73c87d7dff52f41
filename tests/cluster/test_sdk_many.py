"""Five hundred leases of one process."""

from __future__ import annotations

import asyncio

from tests.cluster.harness import SESSIONS, Stage, finished
from tests.cluster.test_sdk import client

from leasehold.testing.nodes import NodeShape

LARGE = NodeShape(cpu="100", memory="400Gi", ephemeral_storage="1000Gi")
MANY = 500


async def test_one_session_keeps_five_hundred_leases_with_a_few_requests_a_second(stage: Stage) -> None:
    stage.nodes.create(4, LARGE)
    pool = stage.pool(
        policy={"heartbeatTimeoutSeconds": 30, "gracePeriodSeconds": 30, "claimTimeoutSeconds": 60}
    )
    async with client(stage) as sdk:
        leases = await asyncio.gather(
            *(
                sdk.acquire(pool=pool, cpu="500m", memory="1Gi", duration="1h", timeout=300)
                for _ in range(MANY)
            )
        )
        assert len({lease.token for lease in leases}) == MANY
        assert len(stage.kube.list(SESSIONS, stage.namespace)) == 1
        # Past a heartbeat's time-out: whatever it takes to keep them was done.
        before, seconds = sum(sdk.requests.values()), 32
        await asyncio.sleep(seconds)
        asked = sum(sdk.requests.values()) - before
        assert all(lease.held for lease in leases)
        # A beat and a look each 10 s, and a look at the pool: not one of them per lease.
        assert asked <= 2 * seconds, f"{asked} requests in {seconds} s"
        await asyncio.gather(*(lease.release() for lease in leases))
    views = stage.kube.list("capacityleases.leasehold.dev", stage.namespace)
    assert all(view["spec"]["desiredState"] == "Released" for view in views)
    await asyncio.to_thread(stage.until, leases[-1].name, finished, 60)
