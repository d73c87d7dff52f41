"""The TLS endpoint that the API server asks about new pods with a lease.

It knows nobody who calls: whoever reaches the port may ask, learns whether some pool holds pods, and changes nothing.
So what a caller can cost is bounded: the size of a question, the time for it, and the number of connections.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any, Final

from aiohttp import web

from leasehold.core.pod_gate import gate_patch, wants_gate

PATH: Final = "/gate"

_LARGEST: Final = 4 * 1024 * 1024
"""Bytes of a question: an API server takes 3 MiB for an object, and etcd half of that."""

_SMALL: Final = 64 * 1024
"""Bytes of a question that is read at once: nearly every pod is smaller."""

_LARGE_ONES: Final = 8
"""How many larger ones are read at once; the others wait. All together must fit into the operator's memory."""

_CONNECTIONS: Final = 1024
"""Open at once. An API server opens one for each request that it has under way, some hundreds."""

_HANDSHAKES: Final = 64
_HANDSHAKE_SECONDS: Final = 5.0
_QUESTION_SECONDS: Final = 10.0

_IDLE_SECONDS: Final = 120.0
"""Longer than an API server keeps an idle connection (90 s), so that it is never closed under a question."""

_FAREWELL_SECONDS: Final = 1.0
_OUT_OF_FILES_SECONDS: Final = 0.1
_REFUSED: Final = (OSError, RuntimeError)
"""uvloop raises RuntimeError where a connection gets the file descriptor of one that it has not noticed to be dead."""

log = logging.getLogger(__name__)


class CannotSay(Exception):
    """Whether the pod is to be held is not known now; the message says why."""


class WebhookServer:
    """Answers AdmissionReviews. `port` is the real one once started.

    `held` tells whether some pool holds pods; it raises CannotSay. `context` is asked for each connection, so that a
    new certificate needs no restart; without one nobody is served.
    """

    def __init__(
        self,
        host: str,
        port: int,
        held: Callable[[], Awaitable[bool]],
        context: Callable[[], ssl.SSLContext | None],
    ) -> None:
        self.host = host
        self.port = port
        self.answers = {"gated": 0, "passed": 0, "refused": 0}
        self._held = held
        self._context = context
        self._runner: web.AppRunner | None = None
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_HANDSHAKES)
        self._large = asyncio.Semaphore(_LARGE_ONES)

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._socket = socket.create_server((self.host, self.port), family=family, backlog=256)
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        app = web.Application(client_max_size=_LARGEST)
        app.router.add_post(PATH, self._answer)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=0,
            auto_decompress=False,  # an API server compresses nothing, and others could send a bomb
            shutdown_timeout=_FAREWELL_SECONDS,
        )
        await self._runner.setup()
        self._accepting = asyncio.create_task(self._accept(self._socket), name="webhook")

    @property
    def listening(self) -> bool:
        """Whether connections are taken."""
        return self._accepting is not None and not self._accepting.done()

    async def stop(self) -> None:
        """Stop listening; what was asked gets a moment to be answered."""
        accepting, self._accepting = self._accepting, None
        tasks = [*self._greeting, *([accepting] if accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _accept(self, listening: socket.socket) -> None:
        """Take connections one by one: the library's own loop bounds neither them nor their handshakes."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                connection, _ = await loop.sock_accept(listening)
            except _REFUSED as error:
                self._room.release()
                log.warning("the webhook cannot take a connection: %s", error)
                await asyncio.sleep(_OUT_OF_FILES_SECONDS)
                continue
            except asyncio.CancelledError:
                self._room.release()
                raise
            connection.setblocking(False)
            task = asyncio.create_task(self._greet(connection), name="webhook handshake")
            self._greeting.add(task)
            task.add_done_callback(self._greeted)

    def _greeted(self, task: asyncio.Task[None]) -> None:
        self._greeting.discard(task)
        self._room.release()

    async def _greet(self, connection: socket.socket) -> None:
        assert self._runner is not None
        server, context = self._runner.server, self._context()
        if server is None or context is None or len(server.connections) >= _CONNECTIONS:
            connection.close()
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                server,
                connection,
                ssl=context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_FAREWELL_SECONDS,
            )
        except OSError:  # they hung up, were silent, or do not speak TLS
            pass
        except RuntimeError as error:
            connection.close()
            log.warning("the webhook cannot take a connection: %s", error)

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_QUESTION_SECONDS):
                length = request.content_length  # none where it comes in pieces, as from no API server
                small = length is not None and length <= _SMALL
                async with nullcontext() if small else self._large:
                    text = await request.read()
        except TimeoutError:
            return web.Response(status=408, text="the question did not arrive in time\n")
        try:
            review = json.loads(text)
            asked = review["request"]
            uid, pod = asked["uid"], asked["object"]
            new = asked["operation"] == "CREATE" and asked["resource"]["resource"] == "pods"
            wanted = new and not asked.get("subResource") and wants_gate(pod)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return web.Response(status=400, text="this is no AdmissionReview of a pod\n")
        try:
            gated = wanted and await self._held()
        except CannotSay as why:
            self.answers["refused"] += 1
            return _review(review, {"uid": uid, "allowed": False, "status": _refusal(str(why))})
        self.answers["gated" if gated else "passed"] += 1
        response = {"uid": uid, "allowed": True}
        if gated:
            patch = json.dumps(gate_patch(pod)).encode()
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
        return _review(review, response)


def _review(asked: Mapping[str, Any], response: Mapping[str, Any]) -> web.Response:
    body = {"apiVersion": asked.get("apiVersion"), "kind": asked.get("kind"), "response": response}
    return web.json_response(body)


def _refusal(why: str) -> dict[str, Any]:
    message = (
        f"Leasehold cannot tell now whether this pod has to wait for its lease ({why}); it would run outside it."
        " Try again in a moment"
    )
    return {"code": 503, "reason": "ServiceUnavailable", "message": message}
