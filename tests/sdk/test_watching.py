"""Watching leases of a server that ends every watch."""

from __future__ import annotations

import asyncio
import json

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.sdk.watching import LeaseWatch


async def test_a_server_that_ends_every_watch_is_not_stormed() -> None:
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        if "watch" in request.query:
            return web.Response(
                text=json.dumps({"type": "ERROR", "object": {"code": 410, "message": "gone"}}) + "\n"
            )
        asked += 1
        return web.Response(text=json.dumps({"metadata": {"resourceVersion": "7"}, "items": []}))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        watch = LeaseWatch(KubeClient(str(server.make_url("/")), session), paths.lease("here"), {})
        waiting = asyncio.ensure_future(anext(watch.events()))
        await asyncio.wait({waiting}, timeout=1.5)
        waiting.cancel()
        await asyncio.wait({waiting})
    assert 1 <= asked <= 5, "pauses grow: 0.2, 0.4, 0.8 s"
