"""Looking after leases where news and answers come late, crosswise or never: against a small server that can wait."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.api.names import CLIENT_LABEL, SESSION_LABEL, LeaseReason
from leasehold.core.times import SECOND, format_time
from leasehold.sdk import Ending, LeaseholdError, LeaseLost, LostCause, Misuse
from leasehold.sdk import keeper as module
from leasehold.sdk.asking import acquire
from leasehold.sdk.door import Door
from leasehold.sdk.keeper import Keeper, Terms
from leasehold.sdk.lease import Lease
from leasehold.sdk.request import request_of

Json = dict[str, Any]

NOON = 1_700_000_000_000


class Hands:
    """A clock whose hands are moved by the test (ms)."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return int(asyncio.get_running_loop().time() * SECOND) + self.ahead


class Shelf:
    """Objects by path, as an API server keeps them. Every lease is granted when it is created.

    What is in `held` is not answered until it is lifted: a method, and whether the write is done before.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.version = 0
        self.held: dict[str, asyncio.Event] = {}
        self.waiting = 0
        self.failures: dict[str, int] = {}

    def hold(self, method: str) -> asyncio.Event:
        """Answer this method no more until the event is set."""
        self.held[method] = asyncio.Event()
        return self.held[method]

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path
        if "watch" in request.query:
            await asyncio.sleep(0.2)
            return web.Response()
        body = await request.json() if request.can_read_body else {}
        if "capacityleases" in path and self.failures.get(request.method, 0) > 0:
            self.failures[request.method] -= 1
            return web.Response(status=500, text="{}")
        gate = self.held.get(request.method) if "capacityleases" in path else None
        if gate is not None and request.method != "POST" and request.method != "PATCH":
            self.waiting += 1
            await gate.wait()
        status, answer = self.do(request.method, path, body, unquote(request.query.get("labelSelector", "")))
        if gate is not None and request.method in ("POST", "PATCH"):
            self.waiting += 1
            await gate.wait()
        return web.Response(status=status, text=json.dumps(answer))

    def do(self, method: str, path: str, body: Json, selector: str) -> tuple[int, Json]:
        self.version += 1
        if method == "POST":
            return self._create(f"{path}/{body['metadata']['name']}", body)
        found = self.objects.get(path)
        if method == "GET" and found is None and path.endswith(("leases",)):
            items = [item for at, item in self.objects.items() if at.startswith(f"{path}/")]
            label, _, value = selector.partition("=")
            items = [item for item in items if item["metadata"].get("labels", {}).get(label) == value]
            return 200, {"metadata": {"resourceVersion": str(self.version)}, "items": items}
        if found is None:
            return 404, {"message": "not found"}
        if method == "GET":
            return 200, found
        wanted = body.get("preconditions") or body.get("metadata") or {}
        if any(found["metadata"][k] != wanted[k] for k in ("uid", "resourceVersion") if k in wanted):
            return 409, {"message": "it is another one"}
        if method == "DELETE":
            return 200, self.objects.pop(path)
        labels = {**found["metadata"].get("labels", {}), **body.get("metadata", {}).get("labels", {})}
        found["metadata"]["labels"] = {name: text for name, text in labels.items() if text is not None}
        found["metadata"]["resourceVersion"] = str(self.version)
        found["spec"] = {**found["spec"], **body.get("spec", {})}
        return 200, found

    def _create(self, path: str, body: Json) -> tuple[int, Json]:
        if path in self.objects:
            return 409, {"message": "it is there"}
        body["metadata"] |= {"uid": f"uid-{self.version}", "resourceVersion": str(self.version)}
        if "poolRef" in body["spec"]:
            granted = {"type": "Allocated", "status": "True", "reason": str(LeaseReason.GRANTED)}
            body["status"] = {
                "conditions": [granted, {"type": "Ready", "status": "True", "reason": "Held"}],
                "fencingToken": self.version,
                "holder": body["spec"]["holder"],
                "allocation": {"allocationTime": format_time(NOON)},
            }
        self.objects[path] = body
        return 201, body


class Place:
    """One keeper, and the server that it talks to."""

    def __init__(self, shelf: Shelf, keeper: Keeper, hands: Hands) -> None:
        self.shelf, self.keeper, self.hands = shelf, keeper, hands

    def wish(self, **more: Any) -> Lease:
        request = request_of(**{"pool": "ci", "cpu": 1, **more})
        return Lease(self.keeper, request, None, None)

    async def get(self, **more: Any) -> Lease:
        async with asyncio.timeout(30):
            return await acquire(self.keeper, self.wish(**more), timeout=None, on_progress=None)

    def on_shelf(self, lease: Lease) -> Json:
        return self.shelf.objects[paths.lease("here", lease.name)]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    shelf, hands, app = Shelf(), Hands(), web.Application()
    app.router.add_route("*", "/{path:.*}", shelf.answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        keeper = Keeper(Door(KubeClient(str(server.make_url("/")), session), hands), "here", identity="me")
        yield Place(shelf, keeper, hands)
        for gate in shelf.held.values():
            gate.set()
        await keeper.close()


async def soon(holds: Any, what: str) -> None:
    for _ in range(3000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(what)


# --- of one name ---


async def test_late_news_of_the_one_that_had_the_name_before_says_nothing_of_the_new_one(
    place: Place,
) -> None:
    lease = await place.get(key="k")
    before = json.loads(json.dumps(place.on_shelf(lease)))
    before["metadata"] |= {
        "uid": "uid-before",
        "resourceVersion": "1",
        "deletionTimestamp": "2026-01-01T00:00:00Z",
    }
    place.keeper.changed("MODIFIED", before)
    lease.check()
    before["metadata"]["resourceVersion"] = str(place.shelf.version + 1)
    place.keeper.changed("ADDED", before)
    with pytest.raises(LeaseLost) as lost:
        lease.check()
    assert lost.value.cause is LostCause.DELETED


async def test_who_asks_again_with_a_key_is_not_hit_by_what_takes_the_first_request_back(
    place: Place,
) -> None:
    await place.get()
    created, deleted = place.shelf.hold("POST"), place.shelf.hold("DELETE")
    first = asyncio.ensure_future(place.get(key="k"))
    await soon(lambda: place.shelf.waiting == 1, "the request arrives, and its answer does not")
    first.cancel()
    await soon(lambda: place.shelf.waiting == 2, "it is being taken back")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    created.set()
    again = asyncio.ensure_future(place.get(key="k"))
    await asyncio.wait({again}, timeout=0.5)
    deleted.set()
    lease = await again
    await asyncio.wait(place.keeper._tasks or {asyncio.ensure_future(asyncio.sleep(0))}, timeout=5)
    lease.check()
    assert place.on_shelf(lease)["metadata"]["uid"] == lease.uid


async def test_a_request_of_which_no_answer_came_is_taken_back_though_that_fails_at_first(
    place: Place,
) -> None:
    await place.get()
    created = place.shelf.hold("POST")
    first = asyncio.ensure_future(place.get(key="k"))
    await soon(lambda: place.shelf.waiting == 1, "the request arrives, and its answer does not")
    place.shelf.failures["DELETE"] = 2
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    created.set()
    assert not any("/k-" in path for path in place.shelf.objects)
    assert place.shelf.failures["DELETE"] == 0


async def test_who_waits_for_a_lease_that_is_given_back_by_its_name_hears_of_it(place: Place) -> None:
    waiting = asyncio.ensure_future(place.get(pool=None, pool_selector={}, name="mine"))
    await soon(lambda: any(path.endswith("/mine") for path in place.shelf.objects), "it is asked for")
    await place.keeper.leases["mine"].release()
    with pytest.raises(LeaseLost, match="given back"):
        await waiting


# --- the end of a block ---


async def test_a_block_that_is_cancelled_while_it_takes_a_loss_in_gives_the_lease_back(place: Place) -> None:
    lease = await place.get()

    async def work() -> None:
        me = asyncio.current_task()
        assert me is not None
        async with lease:
            lease._lose(LostCause.UNHEARD)
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                me.cancel()
                raise ValueError("of the block") from None

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(work())
    assert lease.name not in place.keeper.leases
    await soon(lambda: place.on_shelf(lease)["spec"].get("desiredState") == "Released", "it is given back")


async def test_a_loss_that_a_blocked_event_loop_did_not_notice_comes_out_of_the_block(place: Place) -> None:
    lease = await place.get()
    with pytest.raises(LeaseLost) as lost:
        async with lease:
            place.hands.ahead += 3600 * SECOND
    assert lost.value.cause is LostCause.NOT_RENEWED


async def test_a_notice_that_was_taken_back_is_told_when_it_is_given_again(place: Place) -> None:
    told: list[Ending] = []
    lease = Lease(place.keeper, request_of(pool="ci", cpu=1), told.append, None)
    async with asyncio.timeout(30):
        await acquire(place.keeper, lease, timeout=None, on_progress=None)
    document = json.loads(json.dumps(place.on_shelf(lease)))
    usual = document["status"]
    notice = {"type": "DisruptionTarget", "status": "True", "reason": "PoolDraining"}
    given = {
        **usual,
        "conditions": [*usual["conditions"], notice],
        "deadlines": {"revocationTime": format_time(NOON + 3600 * SECOND)},
        "revocation": {"noticeTime": format_time(NOON)},
    }
    for status in (given, given, usual, given):
        place.shelf.version += 1
        document["metadata"]["resourceVersion"] = str(place.shelf.version)
        place.keeper.changed("MODIFIED", {**document, "status": status})
        lease._judge(place.hands())
    assert [ending.reason for ending in told] == ["PoolDraining"] * 2
    lease.check()


# --- handing over ---


async def test_news_of_a_handover_may_come_before_its_answer(place: Place) -> None:
    lease = await place.get()
    answered = place.shelf.hold("PATCH")
    handing = asyncio.ensure_future(lease.hand_over(session="other"))
    await soon(lambda: place.shelf.waiting == 1, "it arrives")
    place.keeper.changed("MODIFIED", json.loads(json.dumps(place.on_shelf(lease))))
    lease._judge(place.hands())
    answered.set()
    await handing
    assert lease.lost is None
    assert await lease.wait_lost() is None


async def test_who_hands_over_what_somebody_else_took_meanwhile_hears_of_it(place: Place) -> None:
    lease = await place.get()
    place.shelf.do("PATCH", paths.lease("here", lease.name), {"spec": {"holder": {"identity": "thief"}}}, "")
    with pytest.raises(LeaseLost) as lost:
        await lease.hand_over(identity="friend")
    assert lost.value.cause is LostCause.HANDED_OVER
    assert place.on_shelf(lease)["spec"]["holder"] == {"identity": "thief"}


async def test_what_was_handed_over_carries_our_label_no_more(place: Place) -> None:
    lease = await place.get()
    await lease.hand_over(identity="somebody")
    assert CLIENT_LABEL not in place.on_shelf(lease)["metadata"]["labels"]
    assert place.on_shelf(lease)["spec"]["holder"]["identity"] == "somebody"


# --- heartbeats ---


async def test_a_renewal_counts_no_longer_than_the_pool_said_when_it_was_sent(place: Place) -> None:
    place.keeper._pools["ci"] = place.hands(), Terms(20_000, 0, True)
    lease = place.wish(liveness="Renew")
    place.keeper.leases[lease.name] = lease
    _, document = place.shelf.do("POST", paths.lease("here"), lease.request.document("here", "s", "me"), "")
    lease._take(document, place.hands())
    lease._hold(place.hands())
    await place.keeper.renew_once(lease)
    sent = lease.renewed_sent or 0
    place.keeper._pools["ci"] = place.hands(), Terms(600_000, 0, True)
    assert place.keeper.heartbeat_of(lease) == (sent, 20_000), "the operator counts it as it saw it"
    assert (place.keeper._renewal_due(lease, sent) or 0) <= sent + 20_000 // 3
    await place.keeper.renew_once(lease)
    assert place.keeper.heartbeat_of(lease)[1] == 600_000
    place.keeper._pools["ci"] = place.hands(), Terms(5_000, 0, True)
    assert place.keeper.heartbeat_of(lease)[1] == 5_000
    place.keeper.forget(lease)


async def test_a_pool_that_asks_for_more_heartbeats_than_an_idle_client_sends_gets_one(place: Place) -> None:
    place.shelf.objects[paths.pool("ci")] = {
        "metadata": {"name": "ci"},
        "spec": {"leasePolicy": {"heartbeatTimeoutSeconds": 10, "gracePeriodSeconds": 0}},
    }
    await (await place.get()).release()
    place.hands.ahead += 15 * SECOND
    lease = await place.get()
    lease.check()


async def test_many_that_are_granted_late_and_at_once_are_kept_by_one_heartbeat(place: Place) -> None:
    place.shelf.objects[paths.pool("ci")] = {
        "metadata": {"name": "ci"},
        "spec": {"leasePolicy": {"heartbeatTimeoutSeconds": 10, "gracePeriodSeconds": 0}},
    }
    gate = place.shelf.hold("POST")
    asked = [asyncio.create_task(place.get()) for _ in range(20)]
    await soon(lambda: place.shelf.waiting == len(asked), "all have asked")
    place.hands.ahead += 15 * SECOND
    requests = place.keeper.door.kube.requests
    before = requests["PATCH", "200"]
    gate.set()
    for lease in await asyncio.gather(*asked):
        lease.check()
    # The client's own next one may fall into the same moment.
    assert 1 <= requests["PATCH", "200"] - before <= 3


async def test_who_takes_over_what_cannot_be_renewed_knows_when_its_term_ends(place: Place) -> None:
    """As where its room is promised to another lease: the operator hears the renewal, and grants no more."""
    path = paths.lease("here", "mine")
    wish = request_of(pool="ci", cpu=1, name="mine").document("here", "before", "me")
    place.shelf.do("POST", paths.lease("here"), wish, "")
    place.shelf.objects[path]["status"]["deadlines"] = {"expirationTime": format_time(NOON + 600 * SECOND)}

    async def operate() -> None:
        await soon(lambda: place.keeper.leases["mine"].uid, "it takes the lease over")
        for heard in (False, True):
            if heard:
                await soon(lambda: "renewTime" in place.shelf.objects[path]["spec"], "it renews")
            found = json.loads(json.dumps(place.shelf.objects[path]))
            place.shelf.version += 1
            found["metadata"]["resourceVersion"] = str(place.shelf.version)
            claimed = {
                "type": "Claimed",
                "status": "True",
                "lastTransitionTime": format_time(NOON + 300 * SECOND),
            }
            found["status"]["conditions"] = [*found["status"]["conditions"][:2], claimed]
            found["status"] |= {"holder": found["spec"]["holder"], "fencingToken": 1000}
            if heard:
                found["status"]["renewal"] = {"observedRenewTime": found["spec"]["renewTime"]}
            place.shelf.objects[path] = found
            place.keeper.changed("MODIFIED", json.loads(json.dumps(found)))

    operator = asyncio.ensure_future(operate())
    lease = Lease(place.keeper, request_of(pool="ci", cpu=1, name="mine"), None, None)
    async with asyncio.timeout(30):
        await acquire(place.keeper, lease, timeout=None, on_progress=None, attach=True)
    await operator
    stop_at = lease._facts().term_ends
    assert stop_at is not None
    assert 250 * SECOND < stop_at - place.hands() <= 300 * SECOND


async def test_a_session_whose_label_somebody_removed_has_it_again(place: Place) -> None:
    await place.keeper.beat()
    path = paths.coordination("here", place.keeper.session)
    label = place.shelf.objects[path]["metadata"]["labels"].pop(SESSION_LABEL)
    await place.keeper.beat()
    assert place.shelf.objects[path]["metadata"]["labels"][SESSION_LABEL] == label


async def test_a_renewal_without_an_answer_tells_of_no_clock(place: Place) -> None:
    lease = await place.get(liveness="None")
    answered = place.shelf.hold("PATCH")
    renewing = asyncio.ensure_future(lease.renew())
    await soon(lambda: place.shelf.waiting == 1, "it arrives")
    renewing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await renewing
    answered.set()
    # A session renewed the term before, which was not heard of; then the operator saw this one and granted no more.
    clock = place.keeper.clock_of("ci")
    known = clock.earliest(NOON)
    seen = json.loads(json.dumps(place.on_shelf(lease)))
    seen["metadata"]["resourceVersion"] = str(place.shelf.version + 1)
    seen["spec"]["poolRef"] = {"name": "ci"}
    seen["status"]["renewal"] = {
        "observedRenewTime": seen["spec"]["renewTime"],
        "lastRenewTime": format_time(NOON - 60 * SECOND),
    }
    place.keeper.changed("MODIFIED", seen)
    assert clock.earliest(NOON) == known
    lease.check()


# --- the end of a client ---


async def test_a_server_that_hangs_at_the_end_is_no_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await place.get()).release()
    monkeypatch.setattr(module, "_FAREWELL_SECONDS", 0.1)
    place.shelf.hold("GET")
    await place.keeper.close()


async def test_a_session_of_years_keeps_nobody_from_removing_those_that_were_left_behind(
    place: Place,
) -> None:
    for name, seconds in (("left", 60), ("of-years", 10**9)):
        place.shelf.do(
            "POST",
            paths.coordination("here"),
            {
                "metadata": {"name": name, "labels": {CLIENT_LABEL: ""}},
                "spec": {"leaseDurationSeconds": seconds},
            },
            "",
        )
    watched = []

    async def wait(millis: int) -> None:
        watched.append(millis)

    await place.keeper.collect(wait)
    assert 120 * SECOND <= watched[0] <= 3600 * SECOND
    assert [path.rpartition("/")[2] for path in place.shelf.objects] == ["of-years"]


async def test_who_cannot_be_looked_after_gets_no_lease(place: Place) -> None:
    lease = await place.get()
    place.keeper._loops[1].cancel()
    await lease.wait_lost()
    with pytest.raises(LeaseholdError, match="look after"):
        await place.get()
    await place.keeper.close()
    with pytest.raises(Misuse, match="closed"):
        await place.get()
