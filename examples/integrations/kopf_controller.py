"""A kopf controller that takes a lease for each of its own objects, here a Batch: see batch-crd.yaml.

    LEASEHOLD_POOLS=ci,burst kopf run kopf_controller.py --namespace team-a

The key is the object's uid, so a controller that was restarted comes back to the leases it had. When the object is
deleted its daemon is cancelled, and the lease is given back.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Any

import kopf

from leasehold.sdk import Client, Lease, LeaseLost, Progress
from leasehold.sdk.router import Router, Target


@kopf.on.login()
def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Log in as a pod, or by a kubeconfig."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


@kopf.on.startup()
async def open_router(memo: kopf.Memo, settings: kopf.OperatorSettings, **_: Any) -> None:
    """Have one router for all objects."""
    settings.persistence.finalizer = "batches.example.com/lease"
    memo.stack = AsyncExitStack()
    client = await memo.stack.enter_async_context(Client(os.environ.get("LEASEHOLD_CONTEXT")))
    pools = os.environ.get("LEASEHOLD_POOLS", "ci").split(",")
    memo.router = await memo.stack.enter_async_context(Router([Target(client, pool) for pool in pools]))


@kopf.on.cleanup()
async def close_router(memo: kopf.Memo, **_: Any) -> None:
    """Give back what is held."""
    await memo.stack.aclose()


@kopf.daemon("example.com", "v1", "batches", cancellation_timeout=10.0)
async def run_batch(
    body: kopf.Body,
    spec: kopf.Spec,
    status: kopf.Status,
    uid: str,
    patch: kopf.Patch,
    memo: kopf.Memo,
    **_: Any,
) -> None:
    """Run a batch under a lease; say in an Event what it waits for, and in its status that it is done."""
    if status.get("phase") == "Done":
        return

    def waits(progress: Progress) -> None:
        if progress.reason:
            kopf.info(body, reason="WaitsForLease", message=f"{progress}: {progress.message}")

    try:
        async with memo.router.lease(
            cpu=spec["cpu"], duration="10m", key=uid, on_progress=waits, sticky=spec.get("dataset")
        ) as lease:
            await work(lease, spec)
            patch.status.update(phase="Done", nodes=list(lease.nodes), token=lease.token)
    except LeaseLost as error:
        raise kopf.TemporaryError(str(error), delay=1) from error


async def work(lease: Lease, spec: kopf.Spec) -> None:
    """Do what a batch is there for."""
    await asyncio.sleep(spec.get("seconds", 1))
    lease.check()
