"""The bridge to Kueue: what it hears, what it writes, and what it does when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from tests.adapters.fakes import FakeKube, FakeRight, failing, lost, until
from tests.builders import check_document, pod_set_document, workload_document

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Conflict, NotFound, Refused, Unknown
from leasehold.adapters.kueue import KueueBridge
from leasehold.core.times import format_time

Object = dict[str, Any]

LABEL = "leasehold.dev/kueue-workload"
TRAIN = paths.workload("team-a", "train")
KINDS = {
    "workloads": "Workload",
    "capacityleases": "CapacityLease",
    "admissionchecks": "AdmissionCheck",
    "resourceflavors": "ResourceFlavor",
}


class Server(FakeKube):
    """A fake API server that can be watched, unless it is `mute`."""

    def __init__(self) -> None:
        super().__init__()
        self.mute: set[str] = set()

    async def list(self, path: str, query: Any = None, **how: Any) -> tuple[list[Any], str]:
        read = how.pop("read")
        found, version = await super().list(path, None, **how)
        wanted = (query or {}).get("labelSelector", "")
        return [read(item) for item in found if _has(item, wanted)], version

    async def watch(self, path: str, idle: float, **query: Any) -> AsyncIterator[Object]:
        kind, news = KINDS[path.rpartition("/")[2]], asyncio.Queue[Object]()
        since, wanted = int(query["resourceVersion"]), query.get("labelSelector", "")

        def hear(type_: str, item: Object) -> None:
            if item["kind"] == kind and kind not in self.mute and _has(item, wanted):
                news.put_nowait({"type": type_, "object": item})

        for item in self.objects.values():
            if int(item["metadata"]["resourceVersion"]) > since:
                hear("MODIFIED", item)
        self.watchers.append(hear)
        while True:
            yield await news.get()


def _has(item: Object, label: str) -> bool:
    return not label or label in (item["metadata"].get("labels") or {})


class Bridge:
    """A bridge on a fake API server with a check for the pool `ci`, and short words for what happens there."""

    def __init__(self) -> None:
        self.kube = Server()
        self.clock = SteadyClock()
        self.right = FakeRight()
        self.pools = {"ci": ("cpu", "memory")}
        self.kube.add(paths.admission_check("lease"), check_document())
        self.bridge: KueueBridge

    @asynccontextmanager
    async def running(self) -> AsyncIterator[KueueBridge]:
        self.bridge = KueueBridge(
            self.kube,  # type: ignore[arg-type]
            self.clock,
            lambda: self.pools,
            self.right.valid,
        )
        self.bridge.pause = 0.02
        task = asyncio.create_task(self.bridge.run())
        try:
            yield self.bridge
            assert not task.done(), task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def reserve(self, *pod_sets: Any, **how: Any) -> Object:
        return self.kube.add(TRAIN, workload_document("train", *pod_sets, **how))

    @property
    def workload(self) -> Object:
        return self.kube.objects[TRAIN]

    @property
    def told(self) -> Object:
        row: Object = self.workload["status"]["admissionChecks"][0]
        return row

    def leases(self) -> list[Object]:
        return [item for path, item in self.kube.objects.items() if path.startswith(paths.lease("team-a"))]

    def say(self, lease: Object, *conditions: tuple[str, str, str], **status: Any) -> None:
        """Let the operator say something about a lease."""
        rows = [{"type": t, "status": s, "reason": r, "message": "so it is"} for t, s, r in conditions]
        path = paths.lease("team-a", lease["metadata"]["name"])
        self.kube.touch(path, {"status": {"conditions": rows, **status}})

    def grant(self) -> None:
        rows = [{"index": 0, "nodeName": "n1", "resources": {"cpu": "1", "memory": "1Gi"}}]
        for lease in self.leases():
            self.say(
                lease,
                ("Ready", "True", "Held"),
                ("Allocated", "True", "Granted"),
                allocation={"ledgerSequence": 1, "slices": rows},
            )

    async def until(self, test: Callable[[], Any]) -> None:
        await until(test)

    async def until_state(self, state: str) -> None:
        await until(lambda: self.told["state"] == state)

    async def until_ready(self) -> None:
        await until(self.leases)
        self.grant()
        await self.until_state("Ready")

    def posts(self) -> int:
        return sum(method == "POST" for method, _, _ in self.kube.requests)

    def applied(self, path: str) -> list[Object]:
        return [body for method, at, body in self.kube.requests if (method, at) == ("APPLY", path)]

    @contextmanager
    def quiet(self, kind: str) -> Iterator[None]:
        """Let news of a kind get lost."""
        self.kube.mute.add(kind)
        yield
        self.kube.mute.discard(kind)


@pytest.fixture
def at() -> Bridge:
    return Bridge()


def released(lease: Object) -> bool:
    return bool(lease["spec"].get("desiredState") == "Released")


async def test_from_the_quota_to_the_end(at: Bridge) -> None:
    async with at.running():
        at.reserve(pod_set_document("a"), pod_set_document("b"))
        await at.until(lambda: len(at.leases()) == 2)
        for lease in at.leases():
            at.say(lease, ("Allocated", "False", "WaitingForCapacity"))
        await at.until(lambda: "WaitingForCapacity" in at.told["message"])
        at.grant()
        await at.until_state("Ready")
        names = {lease["metadata"]["name"] for lease in at.leases()}
        assert {one["labels"]["leasehold.dev/lease"] for one in at.told["podSetUpdates"]} == names
        done = {"type": "Finished", "status": "True", "lastTransitionTime": format_time(at.clock.now())}
        at.kube.touch(TRAIN, {"status": {"conditions": [*at.workload["status"]["conditions"], done]}})
        await at.until(lambda: all(map(released, at.leases())))
    assert at.posts() == 2
    assert len(at.applied(f"{TRAIN}/status")) == 2


async def test_a_check_says_whether_it_works(at: Bridge) -> None:
    def active() -> str:
        status = at.kube.objects[paths.admission_check("lease")].get("status") or {}
        rows = status.get("conditions") or [{"status": "", "message": ""}]
        return str(rows[0]["status"])

    other = at.kube.add(paths.admission_check("other"), check_document("other", controller="example.com/x"))
    async with at.running():
        await at.until(lambda: active() == "True")
        at.reserve()
        await at.until(at.leases)
        at.pools = {}
        await at.until(lambda: active() == "False")
        await at.until(lambda: "not active" in at.told["message"])
        at.pools = {"ci": ("cpu",)}
        await at.until(lambda: active() == "True")
    assert len(at.applied(f"{paths.admission_check('lease')}/status")) == 3
    assert at.kube.objects[paths.admission_check("other")] == other


@pytest.mark.parametrize("error", [Refused("403", 403), Conflict("409", 409)])
async def test_a_check_that_cannot_be_written_is_tried_again(at: Bridge, error: Exception) -> None:
    path = f"{paths.admission_check('lease')}/status"
    at.kube.faults.append(failing(error, times=2, method="APPLY", path=path))
    async with at.running() as bridge:
        bridge.pause = 60
        await at.until(lambda: at.kube.objects[paths.admission_check("lease")].get("status"))
        assert len(bridge.pauses) == 0
    assert len(at.applied(path)) == 3


async def test_flavors_say_where_leases_lie(at: Bridge) -> None:
    flavor = {
        "kind": "ResourceFlavor",
        "metadata": {"name": "spot"},
        "spec": {"nodeLabels": {"tier": "spot"}},
    }
    async with at.running() as bridge:
        at.reserve(assigned={"main": {"flavors": {"cpu": "spot"}}})
        await at.until(lambda: bridge.workloads.by_uid and not bridge._marked)
        assert at.leases() == []
        at.kube.add(f"{paths.RESOURCE_FLAVORS}/spot", flavor)
        await at.until(at.leases)
    assert at.leases()[0]["spec"]["placement"] == {"nodeSelector": {"tier": "spot"}}


# --- crashes, and answers that get lost ---


@pytest.mark.parametrize("moment", ["created", "granted", "ready"])
async def test_another_leader_makes_no_second_lease(at: Bridge, moment: str) -> None:
    at.reserve(pod_set_document("a"), pod_set_document("b"))
    async with at.running():
        await at.until(lambda: len(at.leases()) == 2)
        if moment == "ready":
            at.grant()
            await at.until_state("Ready")
    if moment == "granted":
        at.grant()
    async with at.running() as bridge:
        await at.until(lambda: len(bridge.leases.by_uid) == 2 and not bridge._marked)
        at.grant()
        await at.until_state("Ready")
    assert (len(at.leases()), at.posts()) == (2, 2)


async def test_a_lease_whose_answer_got_lost_is_found(at: Bridge) -> None:
    at.kube.faults.append(lost(Unknown("504", 504), method="POST"))
    at.kube.mute.add("CapacityLease")
    async with at.running():
        at.reserve()
        await at.until(lambda: at.posts() == 2)
        at.kube.mute.clear()
        at.grant()
        await at.until_state("Ready")
    assert len(at.leases()) == 1


async def test_one_that_is_somebody_elses_is_left_alone(at: Bridge) -> None:
    async with at.running():
        at.reserve()
        await at.until(at.leases)
    (lease,) = at.leases()
    path = paths.lease("team-a", lease["metadata"]["name"])
    theirs = {**lease, "metadata": {**lease["metadata"], "labels": {LABEL: "another"}}}
    at.kube.objects[path] = theirs
    async with at.running():
        await at.until(lambda: "is not of this Workload" in at.told["message"])
        assert at.told["state"] == "Pending"
    assert at.kube.objects[path] == theirs


async def test_a_lease_that_went_evicts_the_workload_and_the_others_go_too(at: Bridge) -> None:
    at.reserve(pod_set_document("a"), pod_set_document("b"))
    async with at.running():
        await at.until(lambda: len(at.leases()) == 2)
        at.grant()
        await at.until_state("Ready")
        first = at.leases()[0]["metadata"]["name"]
        at.kube.remove(paths.lease("team-a", first))
        await at.until_state("Retry")
        assert at.told["message"] == f"CapacityLease {first} is gone."
        assert "podSetUpdates" not in at.told
        await at.until(lambda: all(map(released, at.leases())))


async def test_one_that_is_only_not_heard_of_is_looked_for(at: Bridge) -> None:
    at.reserve()
    async with at.running():
        await at.until_ready()
    (lease,) = at.leases()
    hidden = at.kube.objects.pop(paths.lease("team-a", lease["metadata"]["name"]))
    listed: list[str] = []

    def after_the_list(method: str, path: str, body: Any) -> None:
        """It is not in the list, and is there by the time that somebody looks."""
        if method == "LIST":
            listed.append(path)
        if path == paths.lease("team-a", lease["metadata"]["name"]):
            at.kube.objects[path] = hidden

    at.kube.faults.append(after_the_list)
    async with at.running() as bridge:
        await at.until(lambda: bridge.leases.by_uid)
        await at.until(lambda: not bridge._marked)
    assert listed.index(paths.WORKLOADS) < listed.index(paths.LEASES)
    assert at.told["state"] == "Ready"


# --- what fails ---


@pytest.mark.parametrize(
    ("code", "state"), [(422, "Rejected"), (403, "Pending")], ids=["wrong", "not allowed for now"]
)
async def test_a_lease_that_the_server_refuses_is_told(at: Bridge, code: int, state: str) -> None:
    refusal = Refused(f"{code}: no", code)
    at.kube.faults.append(failing(refusal, times=1, method="POST"))
    async with at.running():
        at.reserve()
        await at.until(lambda: f"{code}: no" in at.told["message"])
        assert at.told["state"] == state
        if state == "Pending":
            await at.until_ready()


async def test_who_writes_in_between_wins(at: Bridge) -> None:
    path = f"{TRAIN}/status"
    at.kube.faults.append(failing(Conflict("409", 409), times=2, method="APPLY", path=path))
    at.reserve()
    async with at.running():
        await at.until_ready()
    assert len(at.applied(path)) == 3


async def test_an_eviction_that_cannot_be_written_yet_keeps_the_other_leases(at: Bridge) -> None:
    """Kueue hears first, so that it ends the pods in its own way."""
    at.reserve(pod_set_document("a"), pod_set_document("b"))
    async with at.running():
        await at.until(lambda: len(at.leases()) == 2)
        at.grant()
        await at.until_state("Ready")
        at.kube.faults.append(failing(Unknown("504", 504), times=1, method="APPLY", path="/status"))
        first, second = at.leases()
        at.say(first, ("Finished", "True", "Expired"), release={"cause": "TermEnded"})
        await at.until(lambda: released(at.leases()[1]))
    steps = [
        m for m, path, _ in at.kube.requests if path.startswith(TRAIN) or second["metadata"]["name"] in path
    ]
    assert steps[-3:] == ["APPLY", "APPLY", "PATCH"]


async def test_a_lease_that_is_gone_by_then_need_not_be_given_back(at: Bridge) -> None:
    at.reserve()
    async with at.running() as bridge:
        await at.until_ready()
        (lease,) = at.leases()
        with at.quiet("CapacityLease"):
            at.kube.remove(paths.lease("team-a", lease["metadata"]["name"]))
            at.kube.remove(TRAIN)
            await at.until(lambda: not bridge.leases.by_uid)
        assert bridge._leases_of == {}


async def test_the_leases_of_a_deleted_workload_are_given_back(at: Bridge) -> None:
    at.reserve()
    async with at.running():
        await at.until_ready()
        at.kube.remove(TRAIN)
        await at.until(lambda: released(at.leases()[0]))


async def test_an_answer_that_comes_late_brings_nobody_back(at: Bridge) -> None:
    at.reserve()
    async with at.running() as bridge:
        await at.until_ready()
        late = at.workload
        at.kube.remove(TRAIN)
        await at.until(lambda: released(at.leases()[0]))
        bridge.workloads.seen({**late, "metadata": {**late["metadata"], "resourceVersion": "1000"}})
        assert bridge.workloads.by_uid == {}


async def test_what_a_watch_missed_is_learned_from_the_next_list(at: Bridge) -> None:
    at.reserve()
    async with at.running() as bridge:
        await at.until_ready()
        with at.quiet("Workload"):
            at.kube.remove(TRAIN)
        await bridge._informers[paths.WORKLOADS]._list()
        await at.until(lambda: released(at.leases()[0]))


async def test_what_cannot_be_read_is_left_alone(at: Bridge) -> None:
    at.reserve()
    at.kube.add(paths.workload("team-a", "other"), workload_document("other", reserved=None))
    async with at.running() as bridge:
        await at.until_ready()
        del at.workload["spec"]["podSets"]
        for path in (TRAIN, paths.workload("team-a", "other")):
            at.kube.touch(path, {"metadata": {"labels": {"a": "b"}}})
        await at.until(lambda: bridge.workloads.by_uid["uid-other"].version > 10)
        await bridge._informers[paths.WORKLOADS]._list()
        await at.until(lambda: not bridge._marked)
    assert not released(at.leases()[0])


async def test_kueues_definitions_may_come_later(at: Bridge) -> None:
    at.kube.faults.append(failing(NotFound("404", 404), times=1, method="LIST", path=paths.ADMISSION_CHECKS))
    at.reserve()
    async with at.running():
        await at.until_ready()


async def test_who_may_not_write_does_not(at: Bridge) -> None:
    at.right.is_valid = False
    at.reserve()
    async with at.running() as bridge:
        await at.until(lambda: bridge.workloads.by_uid and not bridge._marked)
    assert {method for method, _, _ in at.kube.requests} == {"LIST"}
