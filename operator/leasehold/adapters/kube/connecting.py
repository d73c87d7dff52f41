"""A client of our own to whatever cluster was found: for the SDK and commands, where the operator uses kopf's login."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp

from leasehold.adapters.access import Access
from leasehold.adapters.credentials import CredentialsError, Identity
from leasehold.adapters.kube.client import KubeClient

_CONNECTIONS = 64


class _Identified:
    """Puts on each request what says who asks, headers and certificate, and has them anew where they are refused."""

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
        # The name that the server's certificate has, where that is not the one in its address.
        request.server_hostname = self.identity.credentials.server_name or request.server_hostname
        try:
            headers, tls = self._who() if self.identity.ready() else await asyncio.to_thread(self._who)
        except CredentialsError as error:
            raise aiohttp.ClientConnectionError(str(error)) from error
        # The library has no name for it. Connections are kept by it: one with the certificate of before is not used.
        request._ssl = tls
        for name in {name for name, _ in headers}:
            request.headers.popall(name, None)
        for name, value in headers:
            request.headers.add(name, value)

    def _who(self) -> tuple[list[tuple[str, str]], ssl.SSLContext]:
        return self.identity.headers(), self.identity.tls()


async def connect(access: Access, user_agent: str) -> KubeClient:
    """Open a session to a cluster. Raises CredentialsError where certificates cannot be used."""
    identity = access.identity()
    await asyncio.to_thread(identity.tls)  # what is wrong with it is known before the first request
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
        headers={"User-Agent": user_agent},
        middlewares=(_Identified(identity),),
        proxy=access.credentials.proxy or None,
    )
    return KubeClient(access.credentials.server, session)
