"""The webhook's endpoint, over TLS as an API server speaks to it, and as somebody hostile does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import json
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from leasehold.adapters import certificates
from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.webhook import server as module
from leasehold.adapters.webhook.server import PATH, CannotSay, WebhookServer
from leasehold.core.certificates import Pair

PATIENCE = 20.0


def review(lease: str = "build-7", operation: str = "CREATE", **spec: Any) -> dict[str, Any]:
    """What an API server asks."""
    pod = {"metadata": {"name": "p", "labels": {"leasehold.dev/lease": lease} if lease else {}}, "spec": spec}
    asked = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": operation,
        "object": pod,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


class Served:
    """A webhook, whether its pools hold pods, and the certificate that it serves by."""

    def __init__(self) -> None:
        self.pair: Pair | None = certificates.make({"127.0.0.1"}, SteadyClock().now())
        self.held: Callable[[], Awaitable[bool]] = self.yes
        self.server = WebhookServer("127.0.0.1", 0, lambda: self.held(), self.context)

    def context(self) -> ssl.SSLContext | None:
        return None if self.pair is None else certificates.server_context(self.pair)

    async def yes(self) -> bool:
        return True

    async def no(self) -> bool:
        return False

    async def unknown(self) -> bool:
        raise CannotSay("pools cannot be read: no answer")

    def trust(self) -> ssl.SSLContext:
        assert self.pair is not None
        return ssl.create_default_context(cadata=self.pair.certificate.pem)

    async def post(self, body: Any, path: str = PATH, **headers: str) -> tuple[int, str]:
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        url = f"https://127.0.0.1:{self.server.port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=data, ssl=self.trust(), headers=headers) as answer,
        ):
            return answer.status, await answer.text()

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        status, text = await self.post(question)
        assert status == 200, text
        answer = json.loads(text)
        assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        assert answer["response"]["uid"] == "u-1"
        return dict(answer["response"])

    async def still_serves(self) -> None:
        assert (await self.ask(review()))["allowed"]

    async def serves_soon(self) -> None:
        """Ask until it answers: those who are in the way may have to be hung up on first."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    return await self.still_serves()
                await asyncio.sleep(0.02)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    await made.server.start()
    yield made
    await made.server.stop()


# --- what an API server asks ---


async def test_a_pod_with_a_lease_gets_the_gate_where_a_pool_holds_pods(served: Served) -> None:
    answer = await served.ask(review())
    assert answer["allowed"]
    assert answer["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(answer["patch"]))
    assert patch == [
        {"op": "add", "path": "/spec/schedulingGates", "value": [{"name": "leasehold.dev/lease"}]}
    ]
    served.held = served.no
    assert await served.ask(review()) == {"uid": "u-1", "allowed": True}
    assert served.server.answers == {"gated": 1, "passed": 1, "refused": 0}


@pytest.mark.parametrize(
    "question",
    [review(""), review(nodeName="n1"), review(operation="UPDATE")],
    ids=["lease", "node", "update"],
)
async def test_any_other_pod_is_let_pass_without_a_look_at_the_pools(
    served: Served, question: dict[str, Any]
) -> None:
    served.held = served.unknown
    assert await served.ask(question) == {"uid": "u-1", "allowed": True}


async def test_where_pools_cannot_be_read_the_pod_is_refused_and_told_why(served: Served) -> None:
    served.held = served.unknown
    answer = await served.ask(review())
    assert not answer["allowed"]
    assert answer["status"]["code"] == 503
    assert "pools cannot be read: no answer" in answer["status"]["message"]
    assert served.server.answers["refused"] == 1


async def test_another_certificate_serves_new_connections_and_disturbs_no_old_one(served: Served) -> None:
    url = f"https://127.0.0.1:{served.server.port}{PATH}"
    async with aiohttp.ClientSession() as session:
        async with session.post(url, json=review(), ssl=(before := served.trust())) as answer:
            assert answer.status == 200
        served.pair = certificates.make({"127.0.0.1"}, SteadyClock().now())
        async with session.post(url, json=review(), ssl=before) as answer:  # the same connection
            assert answer.status == 200
    await served.still_serves()


# --- what others send ---


BAD = [
    b"",
    b"garbage",
    b"[]",
    b"{}",
    b"null",
    b'{"request": 1}',
    b'{"request": {"uid": "u", "object": [], "operation": "CREATE", "resource": {"resource": "pods"}}}',
    b'{"request": {"uid": "u", "object": {"metadata": 3}, "operation": "CREATE", "resource": {"resource": "pods"}}}',
    b"[" * 100_000,
    b"1" * 100_000,
    b"\xff\xfe",
]


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
async def test_what_is_no_question_is_told_so(served: Served, body: bytes) -> None:
    status, text = await served.post(body)
    assert (status, text) == (400, "this is no AdmissionReview of a pod\n")
    await served.still_serves()


async def test_a_huge_body_is_refused_packed_or_not(served: Served) -> None:
    with contextlib.suppress(aiohttp.ClientError):  # it may hang up before all of it was sent
        status, _ = await served.post(b"x" * (module._LARGEST + 1))
        assert status == 413
    bomb = gzip.compress(b"[" * 50_000_000)
    status, _ = await served.post(bomb, **{"Content-Encoding": "gzip"})
    assert status == 400  # never unpacked
    await served.still_serves()


async def test_other_paths_and_methods_are_not_there(served: Served) -> None:
    assert (await served.post(review(), "/"))[0] == 404
    url = f"https://127.0.0.1:{served.server.port}{PATH}"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=served.trust()) as answer:
        assert answer.status == 405


async def closed(reader: asyncio.StreamReader) -> bytes:
    """Whatever comes until the other side hangs up."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), PATIENCE)
    return b""


@pytest.mark.parametrize(
    "said",
    [b"\x00" * 100, b"POST /gate HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\x01" * 500],
)
async def test_who_speaks_no_tls_is_hung_up_on(served: Served, said: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(said)
    assert b"HTTP" not in await closed(reader)
    writer.close()
    await served.still_serves()


async def test_who_says_nothing_is_hung_up_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    assert await closed(reader) == b""
    writer.close()
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", PATIENCE)
    await served.still_serves()


async def test_those_who_say_nothing_keep_nobody_out(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 0.5)
    silent = []
    for _ in range(3 * module._HANDSHAKES):
        one = socket.create_connection(("127.0.0.1", served.server.port))
        silent.append(one)
    await served.serves_soon()
    for one in silent:
        one.close()


async def test_above_its_number_of_connections_it_takes_no_more(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CONNECTIONS", 3)
    open_ = [
        await asyncio.open_connection("127.0.0.1", served.server.port, ssl=served.trust()) for _ in range(3)
    ]
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await asyncio.open_connection("127.0.0.1", served.server.port, ssl=served.trust())
    for _, writer in open_:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
    await served.serves_soon()


async def test_without_file_descriptors_it_waits_for_some(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket()
    waiting.setblocking(False)
    free = os.dup(0)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        waiting.connect_ex(("127.0.0.1", served.server.port))
        async with asyncio.timeout(PATIENCE):
            while "cannot take a connection" not in caplog.text:
                await asyncio.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        waiting.close()
    await served.still_serves()


async def test_without_a_certificate_nobody_is_served_until_there_is_one(served: Served) -> None:
    pair, served.pair = served.pair, None
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    assert await closed(reader) == b""
    writer.close()
    served.pair = pair
    await served.still_serves()


async def test_a_question_that_never_ends_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUESTION_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port, ssl=served.trust())
    writer.write(b"POST /gate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert b" 408 " in await asyncio.wait_for(reader.readline(), PATIENCE)
    await closed(reader)
    writer.close()
    monkeypatch.setattr(module, "_QUESTION_SECONDS", PATIENCE)
    await served.still_serves()


async def test_large_questions_wait_for_each_other_and_keep_no_small_one_out(served: Served) -> None:
    """A thousand of four megabytes at once would be more memory than the operator has."""
    length = module._SMALL + 1
    slow = []
    for _ in range(module._LARGE_ONES + 1):
        if len(slow) == module._LARGE_ONES:
            async with asyncio.timeout(PATIENCE):
                while not served.server._large.locked():
                    await asyncio.sleep(0.01)
        one = await asyncio.open_connection("127.0.0.1", served.server.port, ssl=served.trust())
        one[1].write(b"POST /gate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{" % length)
        slow.append(one)
    await served.still_serves()
    reader, writer = slow.pop()
    writer.write(b" " * (length - 1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), 0.2)  # all of it is sent, and it waits for its turn
    slow[0][1].write(b" " * (length - 1))
    for answered in (slow[0][0], reader):
        assert b" 400 " in await asyncio.wait_for(answered.readline(), PATIENCE)
    for _, open_ in (*slow, (reader, writer)):
        open_.close()


# --- the beginning and the end ---


async def test_a_port_that_is_taken_is_an_error(served: Served) -> None:
    second = WebhookServer("127.0.0.1", served.server.port, served.yes, served.context)
    with pytest.raises(OSError, match="in use"):
        await second.start()
    await second.stop()


async def test_it_stops_while_others_are_connected(served: Served) -> None:
    silent = await asyncio.open_connection("127.0.0.1", served.server.port)
    idle = await asyncio.open_connection("127.0.0.1", served.server.port, ssl=served.trust())
    assert served.server.listening
    await served.server.stop()
    assert not served.server.listening
    for reader, writer in (silent, idle):
        assert await closed(reader) == b""
        writer.close()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", served.server.port)
