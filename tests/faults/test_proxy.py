"""The proxy does what it says, before a real API server: a fault that is not delivered proves nothing."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults.experiment import Arena
from tests.faults.proxy import (
    BlackHole,
    Call,
    CutWatch,
    Delay,
    Drop,
    Duplicate,
    FaultProxy,
    Gone410,
    Hold,
    LoseEvents,
    Overtake,
    Status,
    Strike,
    Truncate,
)

from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError
from leasehold.testing.kubeconfig import Connection
from leasehold.testing.processes import wait_until

pytestmark = pytest.mark.cluster

POOL = "capacitypools.leasehold.dev"
BROKEN = (OSError, http.client.HTTPException)


class Setting:
    """A proxy, a client through it, and one straight at the API server."""

    def __init__(self, arena: Arena) -> None:
        self.proxy = FaultProxy(arena.control_plane.connection, random.Random(1)).start()
        connection = Connection(url=f"http://127.0.0.1:{self.proxy.port}", token=arena.control_plane.token)
        self.through = Client(connection, timeout_seconds=10)
        self.straight = Client(arena.control_plane.connection)
        self.names: list[str] = []
        self.through.resource(POOL)

    def pool(self, client: Client, name: str = "") -> str:
        name = name or f"x-{random.getrandbits(40):x}"
        self.names.append(name)
        spec = {"nodeSelector": {"matchLabels": {"no": "node"}}}
        client.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityPool",
                "metadata": {"name": name},
                "spec": spec,
            }
        )
        return name

    def hold(self, client: Client, name: str, policy: str = "Hold") -> Any:
        return client.patch(POOL, name, {"spec": {"stopPolicy": policy}})

    def generation(self, name: str) -> int:
        return int(self.straight.get(POOL, name)["metadata"]["generation"])

    def watch(self, seconds: float = 2) -> Iterator[tuple[str, str]]:
        version = self.straight.list_object(POOL)["metadata"]["resourceVersion"]
        events = self.through.watch(POOL, resource_version=version, timeout_seconds=seconds)
        for event in events:
            yield event.type, event.object["metadata"].get("name", "")

    def close(self) -> None:
        for name in self.names:
            self.straight.delete(POOL, name, missing_ok=True)
        self.through.close()
        self.straight.close()
        self.proxy.close()


@pytest.fixture
def setting(faults_arena: Arena) -> Iterator[Setting]:
    made = Setting(faults_arena)
    yield made
    made.close()


def test_without_rules_everything_passes_and_is_understood(setting: Setting) -> None:
    name = setting.pool(setting.through)
    setting.hold(setting.through, name)
    setting.through.patch(
        POOL, name, {"status": {"ledger": {"epoch": 3, "sequence": 0}}}, subresource="status"
    )
    setting.through.get(POOL, name)
    setting.through.delete(POOL, name)
    calls = [call for call in setting.proxy.calls if call.ours]
    assert [(c.verb, c.resource, c.name, c.subresource, c.write) for c in calls] == [
        ("create", "capacitypools", "", "", 1),
        ("patch", "capacitypools", name, "", 2),
        ("patch", "capacitypools", name, "status", 3),
        ("get", "capacitypools", name, "", 0),
        ("delete", "capacitypools", name, "", 4),
    ]
    assert calls[2].document() == {"status": {"ledger": {"epoch": 3, "sequence": 0}}}
    assert calls[2].status() == {"ledger": {"epoch": 3, "sequence": 0}}
    assert [call.entries() for call in calls] == [[]] * 5
    assert setting.proxy.delivered == {}


@pytest.mark.parametrize(
    ("fault", "happened"), [(Drop(), False), (Drop(after=True), True), (BlackHole(), False)]
)
def test_a_lost_write_happened_only_if_its_answer_was_lost(
    setting: Setting, fault: Any, happened: bool
) -> None:
    name = setting.pool(setting.straight)
    rule = setting.proxy.add(fault, verbs=["patch"], name=name, times=1)
    lifted = threading.Thread(target=lambda: (setting.proxy.await_delivered(rule), rule.lift()))
    lifted.start()
    with pytest.raises(BROKEN):
        setting.hold(setting.through, name)
    lifted.join()
    assert setting.generation(name) == 1 + happened
    assert setting.proxy.delivered == {fault.name: 1}
    setting.hold(setting.through, name)
    assert setting.generation(name) == 2


@pytest.mark.parametrize("code", [409, 429, 500, 503, 504])
def test_a_status_is_answered_instead_of_the_api_server(setting: Setting, code: int) -> None:
    name = setting.pool(setting.straight)
    setting.proxy.add(Status(code, retry_after=7), verbs=["patch"], times=1)
    with pytest.raises(ApiError) as refused:
        setting.hold(setting.through, name)
    assert refused.value.status == code
    assert setting.generation(name) == 1
    setting.proxy.add(Status(code, after=True), verbs=["patch"], times=1)
    with pytest.raises(ApiError):
        setting.hold(setting.through, name)
    assert setting.generation(name) == 2


def test_a_duplicated_compare_and_swap_succeeds_once(setting: Setting) -> None:
    name = setting.pool(setting.straight)
    version = setting.straight.get(POOL, name)["metadata"]["resourceVersion"]
    swap = {"metadata": {"resourceVersion": version}, "spec": {"stopPolicy": "Hold"}}
    setting.proxy.add(Duplicate(second=True), verbs=["patch"], times=1)
    with pytest.raises(ApiError) as conflict:
        setting.through.patch(POOL, name, swap)
    assert conflict.value.status == 409, "the second of the two found the first"
    assert setting.generation(name) == 2


def test_a_held_write_is_overtaken(setting: Setting) -> None:
    first, second = setting.pool(setting.straight), setting.pool(setting.straight)
    rule = setting.proxy.add(Overtake(5), verbs=["patch"], name=first, times=1)
    held = threading.Thread(target=setting.hold, args=(setting.through, first))
    held.start()
    setting.proxy.await_delivered(rule)
    setting.hold(setting.through, second)
    held.join()
    versions = [int(setting.straight.get(POOL, n)["metadata"]["resourceVersion"]) for n in (first, second)]
    assert versions[0] > versions[1]
    assert rule.delivered == 1


def test_a_write_that_nobody_overtakes_is_not_counted(setting: Setting) -> None:
    name = setting.pool(setting.straight)
    rule = setting.proxy.add(Overtake(0.05), verbs=["patch"], times=1)
    setting.hold(setting.through, name)
    assert rule.delivered == 0


def test_a_request_that_was_told_to_have_failed_arrives_later(setting: Setting) -> None:
    name = setting.pool(setting.straight)
    rule = setting.proxy.add(Hold(code=504), verbs=["patch"], times=1)
    with pytest.raises(ApiError) as told:
        setting.hold(setting.through, name)
    assert told.value.status == 504
    assert setting.generation(name) == 1
    rule.lift()
    assert wait_until(lambda: setting.proxy.let_go == 1, 5)
    assert setting.generation(name) == 2
    assert setting.proxy.delivered == {"504, and late": 1}


def test_an_answer_that_is_held_back_is_about_something_that_happened(setting: Setting) -> None:
    name = setting.pool(setting.straight)
    rule = setting.proxy.add(Hold(after=True), verbs=["patch"], times=1)
    held = threading.Thread(target=setting.hold, args=(setting.through, name))
    held.start()
    assert wait_until(lambda: setting.generation(name) == 2, 5)
    assert held.is_alive()
    rule.lift()
    held.join(5)
    assert not held.is_alive()


def test_a_watch_of_long_ago_is_refused_by_the_api_server_itself(setting: Setting) -> None:
    setting.proxy.watch_from = 1
    events = setting.through.watch(POOL, resource_version="1", timeout_seconds=2)
    with pytest.raises(ApiError) as gone:
        list(events)
    assert gone.value.status == 410
    assert setting.proxy.expired + setting.proxy.codes[410] >= 1


def test_a_truncated_answer_breaks_off(setting: Setting) -> None:
    name = setting.pool(setting.straight)
    setting.proxy.add(Truncate(0.5), verbs=["get"], name=name, times=1)
    with pytest.raises(BROKEN):
        setting.through.get(POOL, name)
    assert setting.through.get(POOL, name)["metadata"]["name"] == name


def test_slowness_is_felt(setting: Setting) -> None:
    name = setting.pool(setting.straight)
    setting.proxy.add(Delay(0.2), verbs=["get"], name=name, times=1)
    began = time.monotonic()
    setting.through.get(POOL, name)
    assert time.monotonic() - began >= 0.2
    size = len(setting.through.raw("GET", f"/apis/leasehold.dev/v1alpha1/capacitypools/{name}"))
    setting.proxy.bytes_per_second = size * 5
    began = time.monotonic()
    setting.through.get(POOL, name)
    assert time.monotonic() - began >= 0.15
    setting.proxy.bytes_per_second = None
    setting.proxy.latency = 0.1
    began = time.monotonic()
    setting.through.get(POOL, name)
    assert time.monotonic() - began >= 0.1
    assert setting.proxy.delivered["slowed"] >= 2


def test_the_nth_write_strikes_before_or_after(setting: Setting) -> None:
    name = setting.pool(setting.straight)
    struck: list[int] = []
    setting.proxy.on_write(2, Strike(lambda: struck.append(setting.generation(name))))
    setting.proxy.on_write(3, Strike(lambda: struck.append(setting.generation(name)), after=True))
    setting.hold(setting.through, name)
    for policy in ("None", "HoldAndDrain"):
        with pytest.raises(BROKEN):
            setting.hold(setting.through, name, policy)
    assert struck == [2, 3], "the second write never came to be, the third did"
    assert setting.generation(name) == 3


def test_single_events_of_a_watch_are_lost(setting: Setting) -> None:
    setting.proxy.add(LoseEvents(frozenset({"MODIFIED"})), verbs=["watch"], times=1)
    found: list[tuple[str, str]] = []

    def read() -> None:
        for event in setting.watch(20):
            found.append(event)
            if event[0] == "DELETED":
                break

    reader = threading.Thread(target=read)
    reader.start()
    until_watched(setting)
    name = setting.pool(setting.straight)
    setting.hold(setting.straight, name)
    setting.hold(setting.straight, name, "None")
    setting.straight.delete(POOL, name)
    reader.join()
    assert found == [("ADDED", name), ("MODIFIED", name), ("DELETED", name)]
    assert setting.proxy.delivered == {"event lost": 1}


@pytest.mark.parametrize("midline", [False, True])
def test_a_watch_is_cut_after_so_many_events(setting: Setting, midline: bool) -> None:
    setting.proxy.add(CutWatch(1, midline=midline), verbs=["watch"], times=1)
    found: list[tuple[str, str]] = []
    broken: list[bool] = []

    def read() -> None:
        try:
            for event in setting.watch(20):
                found.append(event)
        except (*BROKEN, ValueError):
            broken.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    until_watched(setting)
    name = setting.pool(setting.straight)
    setting.hold(setting.straight, name)
    reader.join(10)
    assert not reader.is_alive()
    assert found == [("ADDED", name)]
    assert bool(broken) == midline, "half a line is no JSON"


def test_a_watch_is_told_that_its_version_is_gone(setting: Setting) -> None:
    setting.proxy.add(Gone410(), verbs=["watch"], times=1)
    maker = threading.Thread(target=lambda: (until_watched(setting), setting.pool(setting.straight)))
    maker.start()
    with pytest.raises(ApiError) as gone:
        list(setting.watch(20))
    maker.join()
    assert gone.value.status == 410


def test_a_frozen_view_is_old_while_writes_go_live(setting: Setting) -> None:
    before = setting.pool(setting.straight)
    found: list[tuple[str, str]] = []
    reader = threading.Thread(target=lambda: found.append(next(setting.watch(20))))
    reader.start()
    until_watched(setting)
    setting.proxy.freeze("capacitypools")
    after = setting.pool(setting.through)
    names = {pool["metadata"]["name"] for pool in setting.through.list(POOL)}
    assert before in names
    assert after not in names, "the list is old"
    chosen = setting.through.list(POOL, fieldSelector=f"metadata.name={after}")
    assert [pool["metadata"]["name"] for pool in chosen] == [after], "a read of some is live"
    assert setting.through.get(POOL, after)["metadata"]["name"] == after
    time.sleep(0.3)
    assert found == []
    setting.proxy.thaw()
    reader.join()
    assert found == [("ADDED", after)]
    assert setting.proxy.delivered == {"stale list": 1, "event withheld": 1}


def test_open_watches_are_hung_up_on(setting: Setting) -> None:
    ended = threading.Event()

    def read() -> None:
        with contextlib.suppress(*BROKEN):
            list(setting.watch(20))
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    until_watched(setting)
    setting.proxy.cut_watches()
    assert ended.wait(5)


def test_a_closed_proxy_answers_nobody(faults_arena: Arena) -> None:
    with FaultProxy(faults_arena.control_plane.connection) as proxy:
        port = proxy.port
        socket.create_connection(("127.0.0.1", port), 1).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)


def until_watched(setting: Setting) -> None:
    def watched(call: Call) -> bool:
        return call.verb == "watch"

    deadline = time.monotonic() + 5
    while not any(map(watched, list(setting.proxy.calls))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)  # its first bytes have no mark of their own: the headers come with the first event
