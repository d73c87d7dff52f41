"""The SDK for programs of threads, without any API server."""

from __future__ import annotations

import aiohttp
import pytest

from leasehold.adapters.kube.client import KubeClient
from leasehold.sdk import LeaseLost, LostCause, Misuse, sync
from leasehold.sdk.door import Door
from leasehold.sdk.keeper import Keeper
from leasehold.sdk.lease import Lease as AsyncLease
from leasehold.sdk.request import request_of


def test_a_lease_that_went_with_its_client_says_that_it_is_lost() -> None:
    loop = sync._Loop()

    async def lose() -> AsyncLease:
        async with aiohttp.ClientSession() as session:
            keeper = Keeper(Door(KubeClient("http://127.0.0.1:9", session)), "here", identity="me")
            lease = AsyncLease(keeper, request_of(pool="ci", cpu=1), None, None)
            lease._lose(LostCause.CLOSED)
            return lease

    lease = sync.Lease(loop, loop.call(lose))
    loop.stop()
    with pytest.raises(LeaseLost) as lost:
        lease.check()
    assert lost.value.cause is LostCause.CLOSED
    with pytest.raises(Misuse, match="closed"):
        lease.renew()
