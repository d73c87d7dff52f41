"""A FastAPI service that takes a lease for each request, by the request's class.

    LEASEHOLD_POOLS=ci,burst uvicorn fastapi_service:app

Interactive requests get three turns for each of batch, which never has more than two leases. Who would wait too long
hears 503 and when to come again; so does who loses the lease. `/healthz` and `/targets` tell what the router knows.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from leasehold.sdk import Client, Lease, LeaseLost, WaitTimeout
from leasehold.sdk.router import Health, Router, Target, TaskClass

CLASSES = {"interactive": TaskClass(weight=3), "batch": TaskClass(limit=2)}
PATIENCE = {"interactive": "2s", "batch": "60s"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Have one router for as long as the service runs."""
    pools = os.environ.get("LEASEHOLD_POOLS", "ci").split(",")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client())
        targets = [Target(client, pool) for pool in pools]
        app.state.router = await stack.enter_async_context(Router(targets, classes=CLASSES))
        yield


app = FastAPI(lifespan=lifespan)


@asynccontextmanager
async def leased(request: Request, task_class: str, **wish: Any) -> AsyncIterator[Lease]:
    """Hold a lease while a request is worked on."""
    router: Router = request.app.state.router
    try:
        async with router.lease(task_class=task_class, timeout=PATIENCE[task_class], **wish) as lease:
            yield lease
    except WaitTimeout as error:
        raise HTTPException(503, str(error), headers={"Retry-After": "5"}) from error
    except LeaseLost as error:
        raise HTTPException(503, str(error), headers={"Retry-After": "0"}) from error


@app.get("/answer")
async def answer(request: Request, question: str) -> dict[str, Any]:
    """Answer somebody who waits."""
    async with leased(request, "interactive", cpu="500m", duration="1m") as lease:
        return {"answer": question[::-1], "nodes": lease.nodes, "token": lease.token}


@app.post("/report")
async def report(request: Request) -> dict[str, Any]:
    """Make a report of what is sent; nobody waits for it."""
    async with leased(request, "batch", cpu="2", duration="10m") as lease:
        size = 0
        async for part in request.stream():
            lease.check()  # before what cannot be taken back
            size += len(part)
        return {"bytes": size, "nodes": lease.nodes}


@app.get("/targets")
async def targets(request: Request) -> list[dict[str, Any]]:
    """Show the router's targets."""
    return [
        {"name": t.name, "health": t.health, "reason": t.reason, "load": t.load, "running": t.running}
        for t in request.app.state.router.targets()
    ]


@app.get("/healthz")
async def healthz(request: Request) -> dict[str, str]:
    """Be healthy while a target is."""
    states = await request.app.state.router.refresh()
    if not any(state.health is Health.HEALTHY for state in states):
        raise HTTPException(503, "; ".join(f"{state.name}: {state.health}" for state in states))
    return {"status": "ok"}
