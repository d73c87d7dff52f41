"""A client of our own to whatever cluster was found: for the SDK and commands, where the operator uses kopf's login."""

from __future__ import annotations

import asyncio

import aiohttp

from leasehold.adapters.access import Access
from leasehold.adapters.credentials import CredentialsError, Identity
from leasehold.adapters.kube.client import KubeClient

_CONNECTIONS = 64


class _Identified:
    """Puts on each request the headers that say who asks, and asks for new ones where they are refused."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        await self._put_on(request)
        response = await handler(request)
        if response.status == 401 and self.identity.renewable:
            response.release()
            self.identity.forget()
            await self._put_on(request)
            response = await handler(request)
        return response

    async def _put_on(self, request: aiohttp.ClientRequest) -> None:
        try:
            ready = self.identity.ready()
            headers = self.identity.headers() if ready else await asyncio.to_thread(self.identity.headers)
        except CredentialsError as error:
            raise aiohttp.ClientConnectionError(str(error)) from error
        for name in {name for name, _ in headers}:
            request.headers.popall(name, None)
        for name, value in headers:
            request.headers.add(name, value)


async def connect(access: Access, user_agent: str) -> KubeClient:
    """Open a session to a cluster. Raises CredentialsError where certificates cannot be used."""
    identity = access.identity()
    tls = await asyncio.to_thread(identity.tls)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=tls),
        headers={"User-Agent": user_agent},
        middlewares=(_Identified(identity),),
        proxy=access.credentials.proxy or None,
    )
    return KubeClient(access.credentials.server, session)
