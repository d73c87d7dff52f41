"""JSON requests to the API server through one shared session."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp

from leasehold.adapters.kube import paths, wire
from leasehold.adapters.kube.errors import Busy, Unknown, error_of

Json = dict[str, Any]

MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
FIELD_MANAGER: Final = "leasehold-operator"
TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=10)
_TRIES: Final = 5
_PAGE, _METADATA_PAGE = 500, 2000
"""Items asked for at once: about a megabyte of leases."""
_LONGEST_WAIT: Final = 30.0
_GOODBYE_SECONDS: Final = 0.1
_NO_ANSWER: Final = (aiohttp.ClientError, OSError, RuntimeError)
"""What the library raises where no answer came; TimeoutError is an OSError, and a closed session a RuntimeError."""


_CHANCE = random.Random()


def _as_it_is(item: Json) -> Json:
    return item


class KubeClient:
    """One API server. Errors are those of `adapters.kube.errors`, whatever the library below raises."""

    def __init__(self, server: str, session: aiohttp.ClientSession) -> None:
        self.server = server.rstrip("/")
        self.session = session
        self.requests: dict[tuple[str, str], int] = {}

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str | int] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        decode: Callable[[bytes], Json] = wire.decode,
    ) -> Json:
        """Send one request and return the answer as `decode` reads it. 429 is waited out and tried again, a few times.

        Raises ApiError. Only `Unknown` leaves open whether a write happened.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._once(method, path, body, query, content_type, accept, decode)
            except Busy as busy:
                if attempt == _TRIES:
                    raise
                wait = min(max(busy.retry_after, 0.1 * 2**attempt), _LONGEST_WAIT)
                await asyncio.sleep(wait * _CHANCE.uniform(1.0, 1.25))  # so that not all come back at once
        raise AssertionError("unreachable")

    async def _once(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, str | int] | None,
        content_type: str,
        accept: str,
        decode: Callable[[bytes], Json],
    ) -> Json:
        try:
            async with self.session.request(
                method,
                self.server + path,
                params=query,
                data=None if body is None else wire.encode(body),
                headers={"Accept": accept, **({} if body is None else {"Content-Type": content_type})},
                timeout=TIMEOUT,
            ) as response:
                payload = await response.read()
                status = response.status
                retry_after = response.headers.get("Retry-After", "")
        except _NO_ANSWER as error:
            self._count(method, "none")
            raise Unknown(f"{method} {path}: no answer ({type(error).__name__}: {error})") from error
        self._count(method, str(status))
        if status < 300:
            return _parsed(payload, decode, method, path)
        message = _message(payload) or f"HTTP {status}"
        wait = float(retry_after) if retry_after.isdecimal() else 0.0
        raise error_of(status, f"{method} {path}: {message}", wait)

    def _count(self, method: str, code: str) -> None:
        self.requests[method, code] = self.requests.get((method, code), 0) + 1

    async def get(self, path: str) -> Json:
        """Read one object from the API server's store (a quorum read)."""
        return await self.request("GET", path)

    async def patch(self, path: str, patch: Json) -> Json:
        """Apply a merge patch (RFC 7386). Give `metadata.resourceVersion` to make it a compare-and-swap."""
        return await self.request(
            "PATCH", path, patch, content_type=MERGE_PATCH, query={"fieldManager": FIELD_MANAGER}
        )

    async def merge(self, path: str, patch: Json) -> Json:
        """Apply a strategic merge patch, in which lists of built-in kinds are merged by their keys."""
        return await self.request(
            "PATCH", path, patch, content_type=STRATEGIC_PATCH, query={"fieldManager": FIELD_MANAGER}
        )

    async def apply(self, path: str, document: Json) -> Json:
        """Apply a document (server-side apply): of a list with keys only the rows that it names are written.

        Fields that others own are taken over; what an earlier document named and this one does not is given up. Give
        `metadata.resourceVersion` to make it a compare-and-swap.
        """
        return await self.request(
            "PATCH",
            path,
            document,
            content_type=APPLY_PATCH,
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
        )

    async def evict(self, namespace: str, name: str, uid: str) -> None:
        """Ask for the eviction of a pod, once. Raises Busy when a PodDisruptionBudget does not allow it now."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        path = f"{paths.pod(namespace, name)}/eviction"
        await self._once("POST", path, body, None, "application/json", "application/json", wire.decode)

    async def replace_status(self, path: str, document: Json) -> str:
        """Write an object's whole status, if it is still the version and the uid that the document names.

        Return its new resourceVersion. The document needs no spec and no other metadata: what is there stays. This
        costs the API server less than a patch, which it reads, merges and reads again.
        """
        answer = await self.request(
            "PUT", f"{path}/status", document, query={"fieldManager": FIELD_MANAGER}, accept=_METADATA_ONLY
        )
        version: str = answer["metadata"]["resourceVersion"]
        return version

    async def create(self, path: str, body: Json) -> Json:
        """Create an object."""
        return await self.request("POST", path, body, query={"fieldManager": FIELD_MANAGER})

    async def delete(self, path: str, uid: str) -> None:
        """Delete an object if it is still the one with this uid."""
        await self.request("DELETE", path, {"preconditions": {"uid": uid}})

    async def list(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        metadata_only: bool = False,
        read: Callable[[Json], Any] = _as_it_is,
    ) -> tuple[list[Any], str]:
        """List everything by quorum reads, page by page; return the items and the list's resourceVersion.

        Each item is read as soon as its page is there, so that of a long list what was read is kept and nothing else.
        The next page is asked for before, so that the API server works on it meanwhile.
        """
        items: list[Any] = []
        version = ""
        accept = METADATA_ONLY if metadata_only else "application/json"
        limit = _METADATA_PAGE if metadata_only else _PAGE

        def ask(token: str) -> asyncio.Task[Json]:
            asked: dict[str, str | int] = {"limit": limit, **(query or {})}
            if token:
                asked["continue"] = token
            return asyncio.create_task(
                self.request("GET", path, query=asked, accept=accept, decode=wire.decode_list)
            )

        asking: asyncio.Task[Json] | None = ask("")
        try:
            while asking is not None:
                page = await asking
                # The first page's version: what changed between pages must be watched again.
                version = version or page["metadata"].get("resourceVersion", "")
                token = page["metadata"].get("continue", "")
                asking = ask(token) if token else None
                await asyncio.sleep(0)  # so that it is sent before this page is read
                items.extend(map(read, page.get("items") or ()))
        finally:
            if asking is not None:
                asking.cancel()
        return items, version

    async def watch(
        self, path: str, idle_timeout: float, *, metadata_only: bool = False, **query: str | int
    ) -> AsyncGenerator[Json, None]:
        """Yield watch events until the server ends the stream. A silent connection is given up after a while.

        Raises Unknown when the connection breaks or stays silent, and what an error answer means otherwise.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=idle_timeout)
        try:
            async with self.session.get(
                self.server + path,
                params={"watch": "true", **query},
                headers={"Accept": _METADATA_ONLY if metadata_only else "application/json"},
                timeout=timeout,
            ) as response:
                if response.status >= 300:
                    payload = await response.read()
                    raise error_of(response.status, f"watch {path}: {_message(payload) or response.status}")
                buffer = b""
                async for chunk in response.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield wire.decode_event(line)
        except (*_NO_ANSWER, ValueError) as error:
            raise Unknown(f"watch {path}: broken off ({type(error).__name__})") from error

    async def close(self) -> None:
        """Hang up at once: a stop must not wait for the farewell of a server that may be gone."""
        if self.session.connector is not None:
            await self.session.connector.close(abort_ssl=True)
        await self.session.close()
        # Watches that were closed just now say goodbye in TLS, which takes a round trip that nothing tells the end of.
        await asyncio.sleep(_GOODBYE_SECONDS)

    async def server_time(self) -> int:
        """Return the API server's clock in milliseconds (its Date header: one second fine)."""
        try:
            async with self.session.get(f"{self.server}/version", timeout=TIMEOUT) as response:
                date = response.headers.get("Date", "")
                await response.read()
            return int(parsedate_to_datetime(date).timestamp() * 1000)
        except (*_NO_ANSWER, ValueError) as error:
            raise Unknown(f"GET /version: no time to be had ({type(error).__name__}: {error})") from error


def _parsed(payload: bytes, decode: Callable[[bytes], Json], method: str, path: str) -> Json:
    try:
        return decode(payload)
    except ValueError as error:
        raise Unknown(f"{method} {path}: the answer is no JSON") from error


def _message(payload: bytes) -> str:
    try:
        return str(wire.decode(payload).get("message", ""))[:2000]
    except (ValueError, AttributeError):
        return payload[:200].decode(errors="replace")
