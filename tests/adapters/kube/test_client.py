"""The client against a server that misbehaves in every way a real one does now and then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from leasehold.adapters.kube import client as module
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import (
    ApiError,
    Busy,
    Conflict,
    Gone,
    NotFound,
    Refused,
    Unknown,
    error_of,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield KubeClient(str(server.make_url("/")), session)


def answering(
    *answers: tuple[int, Any] | tuple[int, Any, dict[str, str]],
) -> tuple[Handler, list[web.Request]]:
    """A handler that gives these answers in turn, the last one for ever."""
    left, seen = list(answers), []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        await request.read()  # the request keeps it
        status, body, *rest = left.pop(0) if len(left) > 1 else left[0]
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers=rest[0] if rest else None)

    return handler, seen


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.05)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Refused),
        (401, Refused),
        (403, Refused),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (413, Refused),
        (422, Refused),
        (429, Busy),
        (500, Unknown),
        (503, Unknown),
        (504, Unknown),
    ],
)
async def test_each_status_has_its_error(status: int, kind: type[ApiError]) -> None:
    handler, _ = answering((status, {"message": "the reason"}))
    async with serving(handler) as client:
        with pytest.raises(kind, match="the reason") as caught:
            await client.get("/api/v1/things/a")
    assert type(caught.value) is kind
    assert caught.value.code == status
    assert "/api/v1/things/a" in str(caught.value)


async def test_what_is_applied_takes_over_what_it_names() -> None:
    handler, seen = answering((200, {"ok": 1}))
    async with serving(handler) as client:
        assert await client.apply("/apis/things/a/status", {"status": {}}) == {"ok": 1}
    (request,) = seen
    assert (request.method, request.content_type) == ("PATCH", "application/apply-patch+yaml")
    assert dict(request.query) == {"fieldManager": "leasehold-operator", "force": "true"}


def test_what_is_no_client_error_leaves_the_outcome_open() -> None:
    assert type(error_of(307, "elsewhere")) is Unknown


async def test_a_session_that_was_closed_meanwhile_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, _ = answering((200, {}))
    async with serving(handler) as client:

        def refused(*_: Any, **__: Any) -> None:
            raise RuntimeError("Session is closed")

        monkeypatch.setattr(client.session, "request", refused)
        monkeypatch.setattr(client.session, "get", refused)
        with pytest.raises(Unknown, match="Session is closed"):
            await client.get("/api/v1/things/a")
        with pytest.raises(Unknown, match="Session is closed"):
            await client.server_time()
        with pytest.raises(Unknown):
            await anext(client.watch("/api/v1/things", 1))


async def test_a_busy_server_is_asked_again_after_the_time_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAIT", 30.0)
    waits: list[float] = []

    async def no_sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", no_sleep)
    handler, seen = answering((429, {}, {"Retry-After": "7"}), (429, {}), (200, {"ok": 1}))
    async with serving(handler) as client:
        assert await client.get("/a") == {"ok": 1}
    assert len(seen) == 3
    assert 7 <= waits[0] <= 9
    assert 0.4 <= waits[1] <= 0.5
    assert client.requests == {("GET", "429"): 2, ("GET", "200"): 1}


async def test_a_server_that_stays_busy_is_given_up_and_its_wish_is_bounded() -> None:
    handler, seen = answering((429, {}, {"Retry-After": "86400"}))
    async with serving(handler) as client:
        with pytest.raises(Busy) as caught:
            await asyncio.wait_for(client.get("/a"), 5)
    assert caught.value.retry_after == 86400
    assert len(seen) == 5


async def test_a_date_as_retry_after_is_no_number_of_seconds() -> None:
    handler, _ = answering((503, {}, {"Retry-After": "Sun, 22 Nov 2026 19:00:00 GMT"}))
    async with serving(handler) as client:
        with pytest.raises(Unknown) as caught:
            await client.get("/a")
    assert caught.value.retry_after == 0


async def test_a_connection_that_breaks_leaves_the_outcome_open() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with serving(handler) as client:
        with pytest.raises(Unknown, match="no answer"):
            await client.patch("/a", {})
        assert client.requests == {("PATCH", "none"): 1}


async def test_a_half_open_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    done = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await done.wait()
        return web.Response()

    async with serving(handler) as client:
        with pytest.raises(Unknown, match="no answer"):
            await client.get("/a")
        done.set()


async def test_a_server_that_is_not_there() -> None:
    async with aiohttp.ClientSession() as session:
        client = KubeClient("http://127.0.0.1:1", session)
        with pytest.raises(Unknown):
            await client.get("/a")
        with pytest.raises(Unknown, match="no time"):
            await client.server_time()
        with pytest.raises(Unknown):
            await anext(client.watch("/a", 1))


@pytest.mark.parametrize("body", ["<html>proxy</html>", ""])
async def test_an_answer_that_is_no_json_leaves_the_outcome_open(body: str) -> None:
    handler, _ = answering((200, body))
    async with serving(handler) as client:
        with pytest.raises(Unknown, match="no JSON"):
            await client.get("/a")


@pytest.mark.parametrize("body", ["<html>a proxy says no</html>", "[1]"])
async def test_an_error_that_is_no_status_object_is_quoted(body: str) -> None:
    handler, _ = answering((403, body))
    async with serving(handler) as client:
        with pytest.raises(Refused) as caught:
            await client.get("/a")
    assert body[:10] in str(caught.value)


async def test_a_patch_names_its_kind_and_its_manager() -> None:
    handler, seen = answering((200, {}))
    async with serving(handler) as client:
        await client.patch("/a", {"metadata": {"resourceVersion": "5"}})
        await client.create("/a", {"kind": "Event"})
        await client.delete("/a", "the-uid")
    patch, create, delete = seen
    assert patch.content_type == "application/merge-patch+json"
    assert patch.query == {"fieldManager": "leasehold-operator"}
    assert await patch.json() == {"metadata": {"resourceVersion": "5"}}
    assert (create.method, create.content_type) == ("POST", "application/json")
    assert await delete.json() == {"preconditions": {"uid": "the-uid"}}


async def test_a_strategic_patch_names_its_kind_and_its_manager() -> None:
    handler, seen = answering((200, {"kind": "Pod"}))
    gates = {"schedulingGates": [{"$patch": "delete", "name": "g"}]}
    async with serving(handler) as client:
        assert await client.merge("/a", {"spec": gates}) == {"kind": "Pod"}
    assert (seen[0].method, seen[0].content_type) == ("PATCH", "application/strategic-merge-patch+json")
    assert seen[0].query == {"fieldManager": "leasehold-operator"}
    assert await seen[0].json() == {"spec": gates}


async def test_an_eviction_is_for_one_pod_and_is_asked_for_once() -> None:
    handler, seen = answering((201, {"kind": "Status"}), (429, {"message": "the budget"}))
    async with serving(handler) as client:
        await client.evict("team", "w", "the-uid")
        with pytest.raises(Busy, match="the budget"):
            await client.evict("team", "w", "the-uid")
    assert len(seen) == 2, "a budget does not give way within a second: whoever asks knows when to ask again"
    assert (seen[0].method, seen[0].path) == ("POST", "/api/v1/namespaces/team/pods/w/eviction")
    assert await seen[0].json() == {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "w", "namespace": "team"},
        "deleteOptions": {"preconditions": {"uid": "the-uid"}},
    }


def item(number: int) -> dict[str, Any]:
    return {"metadata": {"name": f"l{number}", "resourceVersion": str(number)}}


async def test_a_list_is_read_page_by_page_with_the_version_of_the_first() -> None:
    first = {"metadata": {"resourceVersion": "10", "continue": "more"}, "items": [item(1)]}
    second = {"metadata": {"resourceVersion": "12"}, "items": [item(2)]}
    handler, seen = answering((200, first), (200, second))
    async with serving(handler) as client:
        found = await client.list("/a", {"labelSelector": "x"}, metadata_only=True)
    assert found == ([item(1), item(2)], "10")
    assert [request.query.get("continue") for request in seen] == [None, "more"]
    assert all("PartialObjectMetadataList" in request.headers["Accept"] for request in seen)
    assert "resourceVersion" not in seen[0].query, "a list without a version is a quorum read"


async def test_the_next_page_is_on_its_way_while_one_is_read_and_given_up_when_that_fails() -> None:
    first = {"metadata": {"resourceVersion": "10", "continue": "more"}, "items": [item(1)]}
    handler, _ = answering((200, first), (200, first))
    asked = []

    def read(_: dict[str, Any]) -> None:
        asked.extend(task for task in asyncio.all_tasks() if "KubeClient.request" in repr(task.get_coro()))
        raise KeyError("unreadable")

    async with serving(handler) as client:
        with pytest.raises(KeyError):
            await client.list("/a", read=read)
        (next_page,) = asked
        with pytest.raises(asyncio.CancelledError):
            await next_page


async def test_an_empty_list_may_have_no_items() -> None:
    handler, _ = answering((200, {"metadata": {"resourceVersion": "3"}, "items": None}))
    async with serving(handler) as client:
        assert await client.list("/a") == ([], "3")


def streaming(*chunks: bytes, hang: bool = False) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0.01)
        if hang:
            await asyncio.sleep(30)
        return response

    return handler


def event(number: int) -> dict[str, Any]:
    return {"type": "ADDED", "object": item(number)}


async def test_a_watch_puts_lines_together_however_they_are_cut() -> None:
    first, second, third = (json.dumps(event(number)).encode() + b"\n" for number in (1, 2, 3))
    async with serving(streaming(first + second[:20], second[20:] + b"\n", third)) as client:
        found = [event async for event in client.watch("/a", 5, resourceVersion="1")]
    assert found == [event(1), event(2), event(3)]


@pytest.mark.parametrize("metadata_only", [True, False])
async def test_a_watch_asks_for_metadata_alone_where_that_is_enough(*, metadata_only: bool) -> None:
    handler, seen = answering((200, f"{json.dumps(event(1))}\n"))
    async with serving(handler) as client:
        events = [event async for event in client.watch("/a", 5, metadata_only=metadata_only)]
    assert events == [event(1)]
    assert ("as=PartialObjectMetadata;" in seen[0].headers["Accept"]) == metadata_only
    assert dict(seen[0].query) == {"watch": "true"}


async def test_a_watch_that_falls_silent_is_given_up() -> None:
    async with serving(streaming(json.dumps(event(1)).encode() + b"\n", hang=True)) as client:
        events = client.watch("/a", 1.0)
        assert await anext(events) == event(1)
        with pytest.raises(Unknown, match="broken off"):
            await anext(events)


@pytest.mark.parametrize(
    "line", [b"not json\n", b"[]\n", b'{"type": "ADDED"}\n', b'{"type": "ADDED", "object": "\xff"}\n']
)
async def test_a_watch_of_garbage_is_given_up(line: bytes) -> None:
    async with serving(streaming(line)) as client:
        with pytest.raises(Unknown):
            await anext(client.watch("/a", 5))


@pytest.mark.parametrize(("status", "kind"), [(410, Gone), (403, Refused), (500, Unknown)])
async def test_a_watch_that_is_refused(status: int, kind: type[ApiError]) -> None:
    handler, _ = answering((status, {"message": "no"}))
    async with serving(handler) as client:
        with pytest.raises(kind):
            await anext(client.watch("/a", 5))


async def test_the_servers_clock_is_read_from_its_date() -> None:
    handler, _ = answering((200, {}, {"Date": "Sun, 22 Nov 2026 19:00:05 GMT"}))
    async with serving(handler) as client:
        assert await client.server_time() == 1795374005000


async def test_a_server_without_a_date_has_no_clock() -> None:
    handler, _ = answering((200, {}, {"Date": "yesterday"}))
    async with serving(handler) as client:
        with pytest.raises(Unknown, match="no time"):
            await client.server_time()


async def test_closing_hangs_up() -> None:
    handler, _ = answering((200, {}))
    async with serving(handler) as client:
        await client.get("/a")
        await client.close()
        assert client.session.closed
        await client.close()


async def test_a_status_is_replaced_whole_and_only_the_new_version_is_read() -> None:
    handler, seen = answering((200, {"metadata": {"resourceVersion": "8"}}))
    document = {"metadata": {"name": "a", "resourceVersion": "7"}, "status": {"phase": "Active"}}
    async with serving(handler) as client:
        assert await client.replace_status("/apis/x/a", document) == "8"
    (request,) = seen
    assert (request.method, request.path) == ("PUT", "/apis/x/a/status")
    assert request.query["fieldManager"] == "leasehold-operator"
    assert "PartialObjectMetadata" in request.headers["Accept"]
    assert json.loads(await request.read()) == document
