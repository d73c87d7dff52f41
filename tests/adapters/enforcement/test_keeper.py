"""Pods are let go, told, warned and ended, pod by pod, and each write carries what was decided on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.adapters.fakes import (
    WRITERS,
    FakeKube,
    FakeRight,
    Object,
    Replica,
    condition,
    failing,
    lost,
    pod_path,
    reason,
    until,
    value,
)
from tests.builders import (
    NOON,
    clock,
    document_of,
    edited,
    ending,
    granted,
    make_lease,
    make_node,
    make_pool,
    pod_document,
)

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.enforcement.keeper import Keeper
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Busy, Conflict, Refused, Unknown
from leasehold.adapters.pods import Key
from leasehold.core.gating import LOOK_AGAIN, RETRY
from leasehold.core.lease import Lease, lease_of
from leasehold.core.policy import PoolPolicy
from leasehold.core.times import SECOND

BUILD: Key = ("team-a", "build")
GATE = make_pool(enforcement={"mode": "Gate", "evictionTimeoutSeconds": 60})
HELD = granted(make_lease(), policy=GATE)
OVER = ending(HELD)
CONDITION = "leasehold.dev/Leased"


class Ward(Replica):
    """The keeper of the pool `ci` on a fake API server, at noon by a clock that moves when it is told to."""

    def __init__(self, policy: PoolPolicy = GATE, kube: FakeKube | None = None) -> None:
        self.later = 0.0
        super().__init__(kube or FakeKube(), clock=SteadyClock(lambda: NOON / 1000, lambda: self.later))
        self.policy = policy
        self.right = FakeRight()
        self.looks = 0
        self.keeper = Keeper(self.tools, self.look_up, self.right.valid)
        self.cluster.workers["ci"] = Hearer(self.keeper)  # type: ignore[assignment]
        self.cluster.nodes["node-1"] = make_node()

    def look_up(self, key: Key) -> tuple[Lease, PoolPolicy] | None:
        self.looks += 1
        lease = self.cluster.named(key)
        return None if lease is None or lease.pool != "ci" else (lease, self.policy)

    def pool_heard(self, kind: str, document: Object) -> None:
        raise AssertionError("there is none")

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.keeper.run())
        yield
        assert not task.done(), task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def lease(self, lease: Lease) -> None:
        """The lease is as this from now on."""
        known = self.cluster.find(lease.uid)
        if known is not None and known.version >= lease.version:
            lease = lease_of({**document_of(lease), "metadata": self._newer(lease, known)})
        self.cluster.lease_seen(lease)

    def _newer(self, lease: Lease, known: Lease) -> dict[str, Any]:
        meta: dict[str, Any] = document_of(lease)["metadata"]
        return {**meta, "resourceVersion": str(known.version + 1)}

    def pod(self, name: str = "worker", **how: Any) -> Object:
        return self.kube.add(pod_path(name, "team-a"), pod_document(name, **how))

    def there(self, name: str = "worker") -> Object:
        """The pod as the API server has it."""
        return self.kube.objects[pod_path(name, "team-a")]

    def told(self, name: str = "worker") -> str:
        return reason(self.there(name), CONDITION)

    def gates(self, name: str = "worker") -> list[str]:
        return [gate["name"] for gate in self.there(name)["spec"].get("schedulingGates", ())]

    def is_leaving(self, name: str = "worker") -> bool:
        return "deletionTimestamp" in self.there(name)["metadata"]

    def asked(self, method: str = "", path: str = "") -> int:
        """How often something was asked of the API server."""
        return sum(method in found and path in at for found, at, _ in self.kube.requests)

    def done(self, action: str) -> float:
        """How often something was done, as the metrics have it."""
        return value(self.metrics.pods, pool="ci", action=action)

    def wait(self, milliseconds: int) -> None:
        """Let time pass; real time is not waited for."""
        self.later += milliseconds / 1000
        self.keeper.mark(())

    async def rest(self) -> None:
        """Return when the keeper has nothing to do any more."""
        quiet = 0
        while quiet < 20:
            before = (len(self.kube.requests), self.looks)
            await asyncio.sleep(0)
            quiet = quiet + 1 if before == (len(self.kube.requests), self.looks) else 0


class Hearer:
    """A pool's worker as far as its keeper goes."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def pods_changed(self, key: Key) -> None:
        self.keeper.mark([key])

    def lease_seen(self, lease: Lease) -> None:
        self.keeper.mark([(lease.namespace, lease.name)])

    def lease_gone(self, uid: str) -> None:
        pass

    def holds_on(self, node: str) -> bool:
        return False


@asynccontextmanager
async def every_turn(ward: Ward) -> AsyncIterator[asyncio.Semaphore]:
    """Take every turn to write there is; nobody else gets one until it is released."""
    leave = asyncio.Semaphore(0)

    async def hold() -> None:
        async with ward.tools.writers.turn():
            await leave.acquire()

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(hold())
        await asyncio.sleep(0)
        yield leave
        for _ in range(WRITERS):
            leave.release()


class Slow(FakeKube):
    """Answers no write before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.writes_of: list[str] = []

    @property
    def under_way(self) -> int:
        return len(self.writes_of)

    async def merge(self, path: str, patch: Object) -> Object:
        self.writes_of.append(path)
        await self.go.wait()
        return await super().merge(path, patch)

    async def evict(self, namespace: str, name: str, uid: str) -> None:
        self.writes_of.append(name)
        await self.go.wait()
        await super().evict(namespace, name, uid)


RUNS: dict[str, Any] = {"given": (HELD, 0), "node": "node-1"}
GATE_ROW = {"name": "leasehold.dev/lease"}


# --- letting go ---


async def test_a_pod_is_let_go_in_one_write_with_its_slice_and_its_node() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod()
    async with ward.keeping():
        await until(lambda: not ward.gates())
        await ward.rest()
    meta, spec = ward.there()["metadata"], ward.there()["spec"]
    assert meta["annotations"] == {"leasehold.dev/slice": f"{HELD.uid}/0"}
    only = {"key": "metadata.name", "operator": "In", "values": ["node-1"]}
    assert spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == {
        "nodeSelectorTerms": [{"matchFields": [only]}]
    }
    assert "tolerations" not in spec
    assert len(ward.kube.requests) == 1
    assert ward.recorder.notes == [], "it never had to wait"


async def test_what_a_pod_brings_along_stays() -> None:
    ward = Ward()
    ward.lease(HELD)
    ssd = {"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}
    prefers = [{"weight": 1, "preference": ssd}]
    affinity = {
        "podAntiAffinity": {"x": 1},
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [ssd]},
            "preferredDuringSchedulingIgnoredDuringExecution": prefers,
        },
    }
    gates = [{"name": "example.com/other"}, GATE_ROW]
    ward.pod(affinity=affinity, schedulingGates=gates, gated=False, annotations={"a": "b"})
    async with ward.keeping():
        await until(lambda: ward.gates() == ["example.com/other"])
    spec = ward.there()["spec"]
    assert spec["affinity"]["podAntiAffinity"] == {"x": 1}
    node = spec["affinity"]["nodeAffinity"]
    assert node["preferredDuringSchedulingIgnoredDuringExecution"] == prefers
    (term,) = node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == ssd["matchExpressions"]
    assert term["matchFields"][0]["values"] == ["node-1"]
    assert ward.there()["metadata"]["annotations"]["a"] == "b"


@pytest.mark.parametrize("mine", [[], [{"key": "gpu", "operator": "Exists"}]])
async def test_in_a_dedicated_pool_pods_tolerate_its_taint_and_keep_what_they_tolerate(
    mine: list[Any],
) -> None:
    ward = Ward(make_pool(enforcement={"mode": "Gate", "nodeTaint": "Dedicated"}))
    ward.lease(HELD)
    ward.pod(tolerations=mine)
    async with ward.keeping():
        await until(lambda: not ward.gates())
    taint = {"key": "leasehold.dev/pool", "operator": "Equal", "value": "ci", "effect": "NoSchedule"}
    assert ward.there()["spec"]["tolerations"] == [*mine, taint]


async def test_a_pod_that_tolerates_the_taint_already_is_left_with_that() -> None:
    ward = Ward(make_pool(enforcement={"mode": "Gate", "nodeTaint": "Dedicated"}))
    ward.lease(HELD)
    taint = {"key": "leasehold.dev/pool", "operator": "Equal", "value": "ci", "effect": "NoSchedule"}
    ward.pod(tolerations=[taint])
    async with ward.keeping():
        await until(lambda: not ward.gates())
    assert ward.there()["spec"]["tolerations"] == [taint]


async def test_in_an_advisory_pool_the_gate_is_lifted_and_nothing_else() -> None:
    ward = Ward(make_pool())
    ward.lease(make_lease())
    ward.pod()
    async with ward.keeping():
        await until(lambda: ward.told() == "LeasePending")
        ward.lease(HELD)
        await until(lambda: ward.told() == "NotEnforced")
        await ward.rest()
    assert (ward.gates(), ward.there()["metadata"]["annotations"]) == ([], {})
    assert "affinity" not in ward.there()["spec"]
    assert condition(ward.there(), CONDITION)["status"] == "True"


async def test_pods_of_other_pools_are_left_alone() -> None:
    ward = Ward()
    ward.lease(make_lease("deploy", pool="other"))
    ward.pod(lease="deploy")
    async with ward.keeping():
        ward.keeper.mark([("team-a", "deploy")])
        await ward.rest()
    assert (ward.kube.requests, ward.looks) == ([], 1)


async def test_a_pod_that_its_lease_excludes_is_let_go_once_the_nodes_labels_fit() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod(nodeSelector={"disk": "ssd"})
    async with ward.keeping():
        await until(lambda: ward.told() == "NodesExcluded")
        await ward.rest()
        ward.cluster.nodes["node-1"] = make_node(labels={"disk": "ssd"})
        ward.wait(LOOK_AGAIN - 1)
        await ward.rest()
        assert ward.gates()
        ward.wait(1)
        await until(lambda: not ward.gates())
        await until(lambda: ward.told() == "Admitted")


# --- telling ---


async def test_a_pod_hears_why_it_waits_with_one_event_for_each_reason_and_when_it_may_go() -> None:
    ward = Ward()
    ward.lease(make_lease())
    ward.pod()
    async with ward.keeping():
        await until(lambda: ward.told() == "LeasePending")
        await ward.rest()
        assert condition(ward.there(), CONDITION) == {
            "type": CONDITION,
            "status": "False",
            "reason": "LeasePending",
            "message": "Lease build is not granted yet (LeasePending).",
            "lastTransitionTime": clock(),
        }
        why = [{"type": "Allocated", "status": "False", "reason": "BlockedByHead"}]
        ward.lease(edited(make_lease(), status={"conditions": why}))
        await until(lambda: "BlockedByHead" in condition(ward.there(), CONDITION)["message"])
        await ward.rest()
        assert ward.recorder.reasons() == ["LeasePending"], "another message is no other reason"
        assert len(ward.kube.requests) == 2
        ward.lease(HELD)
        await until(lambda: ward.told() == "Admitted")
        await ward.rest()
    assert condition(ward.there(), CONDITION)["status"] == "True"
    assert (ward.gates(), ward.recorder.reasons()) == ([], ["LeasePending", "Admitted"])
    assert [notice.warning for _, notice in ward.recorder.notes] == [False, False]
    subject = ward.recorder.notes[0][0]
    assert (subject.kind, subject.namespace, subject.name, subject.uid) == (
        "Pod",
        "team-a",
        "worker",
        "uid-worker",
    )
    assert len(ward.kube.requests) == 4


async def test_other_conditions_of_a_pod_stay() -> None:
    ward = Ward()
    ward.lease(HELD)
    mine = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    ward.pod(cpu="9", status={"conditions": [mine]})
    async with ward.keeping():
        await until(lambda: ward.told() == "ExceedsLease")
    assert ward.there()["status"]["conditions"][0] == mine
    assert [notice.warning for _, notice in ward.recorder.notes] == [True]


async def test_a_word_that_got_lost_after_the_gate_was_lifted_is_said_later() -> None:
    ward = Ward()
    ward.lease(make_lease())
    ward.pod()
    async with ward.keeping():
        await until(lambda: ward.told() == "LeasePending")
        await ward.rest()
        ward.kube.faults.append(failing(Unknown("504", 504), times=1, path="/status"))
        ward.lease(HELD)
        await until(lambda: not ward.gates())
        await ward.rest()
        assert ward.told() == "LeasePending"
        ward.wait(SECOND)
        await until(lambda: ward.told() == "Admitted")


# --- warning ---


async def test_a_pod_is_warned_of_the_end_and_the_warning_is_taken_back() -> None:
    near = {"type": "ExpiringSoon", "status": "True", "reason": "Expiration"}
    soon = edited(HELD, status={**HELD.status, "conditions": [*HELD.status["conditions"], near]})
    ward = Ward()
    ward.lease(HELD)
    ward.pod(**RUNS)

    def warning() -> Any:
        return ward.there()["metadata"]["annotations"].get("leasehold.dev/lease-ending")

    async with ward.keeping():
        ward.lease(soon)
        await until(lambda: warning() == f"{clock('1h')} Expiration")
        await ward.rest()
        assert ward.recorder.reasons() == ["LeaseEnding"]
        ward.lease(HELD)
        await until(lambda: warning() is None)
        await ward.rest()
    assert ward.recorder.reasons() == ["LeaseEnding"]
    assert len(ward.kube.requests) == 2
    assert ward.there()["metadata"]["annotations"] == {"leasehold.dev/slice": f"{HELD.uid}/0"}


# --- ending ---


async def test_a_new_pod_of_a_lease_that_is_over_fails_where_the_pool_says_so() -> None:
    ward = Ward(make_pool(enforcement={"mode": "Gate", "strayPodAction": "Fail"}))
    ward.lease(OVER)
    ward.pod()
    ward.pod("replica", owner="ReplicaSet")
    async with ward.keeping():
        await until(lambda: ward.there()["status"].get("phase") == "Failed")
        await until(lambda: ward.told("replica") == "LeaseEnded")
        await ward.rest()
    assert ward.there()["status"]["reason"] == "LeaseEnded"
    assert ward.there()["status"]["message"] == "Lease build is over. Name one that is held."
    assert ward.recorder.reasons() == ["LeaseEnded"] * 2
    assert len(ward.kube.requests) == 2


async def test_pods_of_a_lease_that_is_over_are_evicted_once() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod(**RUNS)
    ward.pod("unbound", given=(HELD, 0))
    async with ward.keeping():
        await ward.rest()
        assert ward.kube.requests == []
        ward.lease(OVER)
        await until(ward.is_leaving)
        await until(lambda: pod_path("unbound", "team-a") not in ward.kube.objects)
        ward.wait(3600 * SECOND)
        await ward.rest()
    assert [(method, path) for method, path, _ in ward.kube.requests] == [
        ("POST", f"{pod_path(name, 'team-a')}/eviction") for name in ("unbound", "worker")
    ]
    assert ward.recorder.reasons() == ["Evicted", "Evicted"]


@pytest.mark.parametrize(
    "refusal",
    [
        Busy("the budget does not allow it", 429),
        Unknown("more than one budget", 500),
        Refused("a webhook says no", 403),
    ],
)
async def test_an_eviction_that_is_refused_is_tried_again_and_at_the_limit_the_pod_is_deleted(
    refusal: Exception,
) -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod(**RUNS)
    ward.kube.faults.append(failing(refusal, method="POST", path="/eviction"))
    async with ward.keeping():
        ward.lease(OVER)
        await until(lambda: ward.recorder.reasons() == ["EvictionRefused"])
        await ward.rest()
        assert str(refusal) in ward.recorder.notes[0][1].message
        ward.wait(RETRY - 1)
        await ward.rest()
        assert ward.asked("POST") == 1
        for tries in range(2, 13):
            ward.wait(1 if tries == 2 else RETRY)
            await ward.rest()
            assert ward.asked("POST") == tries
        assert ward.recorder.reasons() == ["EvictionRefused"]
        ward.wait(RETRY - 1)
        await ward.rest()
        assert (ward.asked("POST"), ward.asked("DELETE")) == (12, 0)
        ward.wait(1)
        await until(lambda: pod_path("worker", "team-a") not in ward.kube.objects)
        await ward.rest()
    assert ward.recorder.reasons() == ["EvictionRefused", "Deleted"]
    assert (ward.asked("POST"), ward.asked("DELETE")) == (12, 1)
    assert (ward.done("Evict"), ward.done("Delete")) == (0, 1)


async def test_a_budget_that_gives_way_lets_the_pod_be_evicted() -> None:
    ward = Ward()
    ward.lease(OVER)
    ward.pod(**RUNS)
    ward.kube.faults.append(failing(Busy("no", 429), times=2, method="POST", path="/eviction"))
    async with ward.keeping():
        for tries in (1, 2, 3):
            await until(lambda tries=tries: ward.asked("POST") == tries)
            await ward.rest()
            ward.wait(RETRY)
        await until(ward.is_leaving)
    assert ward.recorder.reasons() == ["EvictionRefused", "Evicted"]
    assert ward.done("Evict") == 1


async def test_a_pod_that_is_deleted_is_not_asked_for_again_before_the_word_of_it_is_there() -> None:
    ward = Ward()
    ward.lease(OVER)
    ward.pod(**RUNS)
    ward.kube.faults.append(failing(Busy("no", 429), method="POST", path="/eviction"))
    async with ward.keeping():
        await until(lambda: ward.asked("POST") == 1)
        ward.deaf = True
        ward.wait(60 * SECOND)
        await until(lambda: ward.asked("DELETE") == 1)
        await ward.rest()
        assert ward.asked("DELETE") == 1
        ward.wait(RETRY)
        await until(lambda: ward.asked("DELETE") == 2)
        await ward.rest()
    assert ward.cluster.pods.named(BUILD) == [], "that it is not there is as good as the word of it"
    assert ward.recorder.reasons() == ["EvictionRefused", "Deleted"]


async def test_when_the_end_of_a_pod_was_asked_for_is_forgotten_with_the_pod_or_with_its_lease() -> None:
    ward = Ward()
    ward.lease(OVER)
    ward.pod("a", **RUNS)
    ward.pod("b", **RUNS)
    ward.kube.faults.append(failing(Busy("no", 429), method="POST", path="b/eviction"))
    async with ward.keeping():
        await until(lambda: ward.asked("POST") == 2)
        await ward.rest()
        assert ward.keeper._writing.refused.keys() == {"uid-a", "uid-b"}
        ward.kube.remove(pod_path("a", "team-a"))
        await ward.rest()
        assert ward.keeper._writing.refused.keys() == {"uid-b"}
        ward.cluster.lease_gone(OVER.uid)
        ward.keeper.mark([BUILD])
        await ward.rest()
    assert (ward.keeper._writing.refused, ward.keeper._touched) == ({}, {})


# --- what goes wrong ---


async def test_a_write_is_for_the_version_that_was_decided_on_and_is_decided_anew_for_another() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod(nodeSelector={"kubernetes.io/hostname": "node-1"})
    ward.deaf = True
    ward.kube.touch(pod_path("worker", "team-a"), {"metadata": {"labels": {"leasehold.dev/lease": "deploy"}}})
    ward.deaf = False
    async with ward.keeping():
        await until(lambda: ward.asked("PATCH") == 1)
        await ward.rest()
        assert ward.gates(), "it names another lease by now"
        ward.hear("MODIFIED", ward.there())
        ward.wait(SECOND)
        await ward.rest()
        assert ward.gates()
        assert ward.cluster.strays == {("team-a", "deploy")}


async def test_a_pod_of_the_same_name_that_was_made_anew_is_not_written_to() -> None:
    ward = Ward()
    ward.lease(OVER)
    ward.pod(**RUNS)
    ward.deaf = True
    ward.kube.remove(pod_path("worker", "team-a"))
    anew = pod_document("worker", **RUNS)
    anew["metadata"]["uid"] = "uid-anew"
    ward.kube.add(pod_path("worker", "team-a"), anew)
    async with ward.keeping():
        await until(lambda: ward.asked("POST") == 1)
        await ward.rest()
    assert not ward.is_leaving()
    assert ward.recorder.notes == []


async def test_a_word_after_the_gate_is_not_said_to_another_pod_of_the_name() -> None:
    ward = Ward()
    ward.lease(make_lease())
    ward.pod()

    def made_anew(method: str, path: str, body: Any) -> None:
        if not ward.gates() and ward.there()["metadata"]["uid"] == "uid-worker":
            anew = pod_document("worker")
            anew["metadata"]["uid"] = "uid-anew"
            ward.deaf = True
            ward.kube.remove(pod_path("worker", "team-a"))
            ward.kube.add(pod_path("worker", "team-a"), anew)

    async with ward.keeping():
        await until(lambda: ward.told() == "LeasePending")
        ward.kube.faults.append(made_anew)
        ward.lease(HELD)
        await until(lambda: ward.there()["metadata"]["uid"] == "uid-anew")
        await ward.rest()
    assert ward.told() == ""


async def test_what_an_answer_says_is_known_before_the_watch_tells() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod()
    async with ward.keeping():
        ward.deaf = True
        await until(lambda: not ward.gates())
        await ward.rest()
        ward.wait(SECOND)
        await ward.rest()
    assert ward.asked("PATCH") == 1
    assert not ward.cluster.pods.named(BUILD)[0].gated


async def test_an_answer_that_got_lost_is_not_done_again() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod()
    ward.kube.faults.append(lost(Unknown("504", 504)))
    async with ward.keeping():
        await until(lambda: not ward.gates())
        await ward.rest()
        ward.wait(SECOND)
        await ward.rest()
    assert ward.asked("PATCH") == 1


async def test_what_conflicts_is_tried_again_when_the_watch_brought_something_or_after_a_second() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod("a")
    ward.pod("b")
    ward.kube.faults.append(failing(Conflict("409", 409), times=2, path="pods/a"))
    async with ward.keeping():
        await until(lambda: not ward.gates("b"))
        await ward.rest()
        assert ward.asked("PATCH", "pods/a") == 1, "others of the lease need not wait for it"
        ward.kube.touch(pod_path("a", "team-a"), {"metadata": {"labels": {"x": "y"}}})
        await ward.rest()
        assert ward.asked("PATCH", "pods/a") == 2, "it is another version"
        ward.wait(SECOND - 1)
        await ward.rest()
        assert ward.asked("PATCH", "pods/a") == 2
        ward.wait(1)
        await until(lambda: not ward.gates("a"))
        await ward.rest()
    assert ward.keeper._outdated == {}


@pytest.mark.parametrize("error", [Unknown("no answer"), Refused("422", 422)])
async def test_a_write_that_fails_is_tried_again_after_longer_and_longer_pauses(error: Exception) -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod()
    ward.kube.faults.append(failing(error, times=3))
    async with ward.keeping():
        await until(lambda: ward.asked("PATCH") == 1)
        for pause, tries in ((100, 2), (200, 3), (400, 4)):
            await ward.rest()
            ward.wait(pause - 1)
            await ward.rest()
            assert ward.asked("PATCH") == tries - 1
            ward.wait(1)
            await until(lambda tries=tries: ward.asked("PATCH") == tries)
        await until(lambda: not ward.gates())


async def test_an_eviction_without_an_answer_is_neither_refused_nor_done() -> None:
    ward = Ward()
    ward.lease(OVER)
    ward.pod(**RUNS)
    ward.kube.faults.append(failing(Unknown("no answer"), times=1, method="POST"))
    async with ward.keeping():
        await until(lambda: ward.asked("POST") == 1)
        await ward.rest()
        assert (ward.recorder.notes, ward.keeper._writing.refused) == ([], {})
        ward.wait(SECOND)
        await until(ward.is_leaving)
    assert ward.recorder.reasons() == ["Evicted"]


async def test_a_pod_that_went_before_it_was_let_go_leaves_its_slice_to_others() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod("a", cpu="2")
    ward.kube.faults.append(failing(Unknown("no answer"), times=1))
    async with ward.keeping():
        await until(lambda: ward.asked("PATCH") == 1)
        await ward.rest()
        ward.kube.remove(pod_path("a", "team-a"))
        ward.pod("b", cpu="2")
        ward.wait(SECOND)
        await until(lambda: not ward.gates("b"))
        await ward.rest()
    assert ward.keeper._given == {}


async def test_a_pod_that_is_not_there_any_more_is_forgotten() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod()
    ward.deaf = True
    ward.kube.remove(pod_path("worker", "team-a"))
    async with ward.keeping():
        await until(lambda: ward.cluster.pods.keys() == [])
        await ward.rest()
    assert ward.asked("PATCH") == 1


async def test_nothing_is_written_without_the_right_to_lead_and_nobody_spins() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod()
    ward.right.is_valid = False
    async with ward.keeping():
        await ward.rest()
        assert (ward.kube.requests, ward.looks) == ([], 1), "it is asked again after a pause"
        ward.right.is_valid = True
        ward.wait(SECOND)
        await until(lambda: not ward.gates())


async def test_each_pod_has_one_write_at_a_time() -> None:
    kube = Slow()
    ward = Ward(kube=kube)
    ward.lease(HELD)
    ward.pod("a")
    ward.pod("b")
    async with ward.keeping():
        await until(lambda: kube.under_way == 2)
        for _ in range(5):
            ward.keeper.mark([BUILD])
            await ward.rest()
        assert kube.under_way == 2
        kube.go.set()
        await until(lambda: not ward.gates("a") and not ward.gates("b"))
        await ward.rest()
    assert kube.under_way == 2


@pytest.mark.parametrize("answered", [True, False])
async def test_what_a_pod_is_being_given_is_nobody_elses(answered: bool) -> None:
    kube = Slow()
    ward = Ward(kube=kube)
    ward.lease(HELD)
    ward.pod("a", cpu="2")
    a, b = (pod_path(name, "team-a") for name in "ab")
    async with ward.keeping():
        await until(lambda: kube.writes_of == [a])
        ward.pod("b", cpu="2", age="1h")
        await ward.rest()
        assert kube.writes_of == [a, f"{b}/status"], "it waits, although it is older"
        if not answered:
            kube.faults.append(failing(Unknown("no answer"), times=1, path=a))
        kube.go.set()
        await until(lambda: ward.told("b") == "ExceedsLease")
        await ward.rest()
        ward.wait(SECOND)
        await until(lambda: not ward.gates("a"))
        await ward.rest()
        assert ward.gates("b")
    assert ward.keeper._given == {}


async def test_nothing_is_noted_of_a_pod_that_went_while_its_end_was_asked_for() -> None:
    kube = Slow()
    ward = Ward(kube=kube)
    ward.lease(OVER)
    ward.pod(**RUNS)
    async with ward.keeping():
        await until(lambda: kube.writes_of == ["worker"])
        kube.remove(pod_path("worker", "team-a"))
        await ward.rest()
        kube.faults.append(failing(Busy("no", 429), method="POST"))
        kube.go.set()
        await until(lambda: ward.asked("POST") == 1)
        await ward.rest()
    assert (ward.keeper._writing.refused, ward.keeper._touched) == ({}, {})


async def test_a_pod_whose_lease_ended_while_it_waited_for_its_turn_is_not_let_go() -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod()
    async with ward.keeping():
        async with every_turn(ward):
            await ward.rest()
            ward.lease(OVER)
        await until(lambda: ward.told() == "LeaseEnded")
    assert (ward.gates(), ward.keeper._given) == (["leasehold.dev/lease"], {})


async def test_words_to_pods_let_grants_pass() -> None:
    ward = Ward()
    ward.lease(make_lease())
    ward.pod()
    order: list[str] = []

    async def urgent() -> None:
        async with ward.tools.writers.turn():
            order.append(f"grant before {ward.asked('PATCH')} words")

    async with ward.keeping(), asyncio.TaskGroup() as group, every_turn(ward) as leave:
        await ward.rest()  # the pod's word waits for its turn
        group.create_task(urgent())
        await ward.rest()
        leave.release()
        await until(lambda: ward.told() == "LeasePending")
    assert order == ["grant before 0 words"]


async def test_a_mistake_of_ours_ends_the_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    ward = Ward()
    ward.lease(HELD)
    ward.pod()

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ward.keeper._writing, "write", broken)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(ward.keeper.run(), 5)


async def test_writes_under_way_end_with_the_keeper() -> None:
    kube = Slow()
    ward = Ward(kube=kube)
    ward.lease(HELD)
    ward.pod()
    async with ward.keeping():
        await until(lambda: kube.under_way == 1)
    assert ward.keeper._tasks == set()
    assert ward.gates()


# --- placeholders ---

HOLDING = make_pool(enforcement={"mode": "Placeholder", "placeholderPriorityClassName": "held"})
HELD_FIRST = paths.pod("leasehold-system", f"hold-{HELD.uid}-0-0")
HELD_NEXT = paths.pod("leasehold-system", f"hold-{HELD.uid}-0-1")


class Site(Ward):
    """A ward of a pool that holds room, where the scheduler binds placeholders only when it is told to."""

    def __init__(self, kube: FakeKube | None = None) -> None:
        super().__init__(HOLDING, kube)
        self.lease(HELD)
        self.keeper.mark([BUILD])

    def holds(self, path: str = HELD_FIRST) -> Any:
        """What a placeholder requests, or None where it is not there."""
        found = self.kube.objects.get(path)
        return found and found["spec"]["containers"][0]["resources"]["requests"]

    def nominated(self, path: str) -> str:
        return str(self.kube.objects[path].get("status", {}).get("nominatedNodeName", ""))

    def bind(self, path: str = HELD_FIRST) -> None:
        self.kube.touch(path, {"spec": {"nodeName": "node-1"}, "status": {"phase": "Running"}})

    async def held(self) -> None:
        """Until the whole slice is held."""
        await until(lambda: self.holds() and self.nominated(HELD_FIRST) == "node-1")
        self.bind()
        await self.rest()
        self.kube.requests.clear()

    def writes_in_order(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in self.kube.requests]


async def test_a_lease_without_pods_has_its_room_held() -> None:
    site = Site()
    async with site.keeping():
        await until(lambda: site.holds() and site.nominated(HELD_FIRST) == "node-1")
        await site.rest()
        assert len(site.kube.requests) == 2, "made, and nominated until it is bound"
        site.bind()
        site.wait(3600 * SECOND)
        await site.rest()
    made = site.kube.objects[HELD_FIRST]
    assert site.holds() == {"cpu": "2", "memory": "4Gi"}
    assert made["metadata"]["labels"]["leasehold.dev/placeholder"] == HELD.uid
    assert made["metadata"]["annotations"] == {
        "leasehold.dev/slice": f"{HELD.uid}/0",
        "leasehold.dev/placeholder-of": "team-a/build",
    }
    assert made["spec"]["priorityClassName"] == "held"
    required = made["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"][0]["matchFields"][0]["values"] == ["node-1"]
    assert len(site.kube.requests) == 2


async def test_a_pod_that_takes_it_all_is_nominated_before_and_let_go_after_the_room_is_left() -> None:
    site = Site()
    async with site.keeping():
        await site.held()
        site.pod(cpu="2", memory="4Gi")
        await until(lambda: not site.gates())
        await site.rest()
    worker = pod_path("worker", "team-a")
    assert site.writes_in_order() == [
        ("PATCH", f"{worker}/status"),
        ("DELETE", HELD_FIRST),
        ("PATCH", worker),
    ]
    assert site.there()["status"]["nominatedNodeName"] == "node-1"
    assert site.there()["metadata"]["annotations"]["leasehold.dev/slice"] == f"{HELD.uid}/0"


async def test_a_pod_that_takes_a_part_has_the_placeholder_shrunk_in_place() -> None:
    site = Site()
    async with site.keeping():
        await site.held()
        site.pod(cpu="500m", memory="1Gi")
        await until(lambda: not site.gates())
        await site.rest()
        assert site.holds() == {"cpu": "1500m", "memory": "3Gi"}
        assert [path for _, path in site.writes_in_order()][1] == f"{HELD_FIRST}/resize"
        site.wait(3600 * SECOND)
        await site.rest()
    assert len(site.kube.requests) == 3


async def test_where_the_node_cannot_shrink_it_a_smaller_one_is_made_first() -> None:
    site = Site()
    site.kube.faults.append(failing(Refused("no resize", 422), path="/resize"))
    async with site.keeping():
        await site.held()
        site.pod(cpu="500m", memory="1Gi")
        await until(lambda: site.holds(HELD_NEXT) and site.nominated(HELD_NEXT) == "node-1")
        assert site.holds(HELD_NEXT) == {"cpu": "1500m", "memory": "3Gi"}
        await until(lambda: site.holds() is None)
        await until(lambda: not site.gates())
        site.bind(HELD_NEXT)
        await site.rest()
    assert site.asked("PATCH", "/resize") == 1, "the node is asked once"
    assert {what: site.done(what) for what in ("Shrink", "Create", "Nominate", "Drop", "Let")} == {
        "Shrink": 0,
        "Create": 2,
        "Nominate": 2,
        "Drop": 1,
        "Let": 1,
    }


async def test_a_placeholder_that_shrinks_slowly_is_not_asked_again_and_again() -> None:
    site = Site()
    async with site.keeping():
        await site.held()
        allocated = {"name": "placeholder", "allocatedResources": {"cpu": "2", "memory": "4Gi"}}
        slow = {
            "containerStatuses": [{**allocated, "resources": {"requests": allocated["allocatedResources"]}}]
        }
        site.kube.touch(HELD_FIRST, {"status": slow})
        site.pod(cpu="500m", memory="1Gi")
        await until(lambda: site.asked("PATCH", "/resize") > 0)
        await site.rest()
        assert site.asked("PATCH", "/resize") <= 2
        assert site.gates(), "it still has its room"
        site.kube.touch(HELD_FIRST, {"status": {"containerStatuses": []}})
        await until(lambda: not site.gates())


async def test_a_placeholder_is_not_deleted_again_before_the_word_of_it_is_there() -> None:
    site = Site()
    async with site.keeping():
        await site.held()
        site.deaf = True
        site.lease(OVER)
        await until(lambda: site.asked("DELETE") == 1)
        await site.rest()
        assert site.asked("DELETE") == 1
        site.wait(SECOND)
        await until(lambda: site.cluster.pods.placeholders(BUILD) == [])
    assert site.asked("DELETE") == 2, "that it is not there is as good as the word of it"


async def test_a_name_that_somebody_else_took_is_tried_again_after_a_second() -> None:
    kube = FakeKube()
    kube.add(HELD_FIRST, pod_document("mine", lease=None, namespace="leasehold-system"))
    site = Site(kube)
    async with site.keeping():
        await until(lambda: site.asked("POST") == 1)
        await site.rest()
        site.wait(SECOND - 1)
        await site.rest()
        assert site.asked("POST") == 1
        kube.remove(HELD_FIRST)
        site.wait(1)
        await until(lambda: site.nominated(HELD_FIRST) == "node-1" if site.holds() else False)


async def test_a_placeholder_that_is_refused_is_tried_again_and_its_lease_knows() -> None:
    site = Site()
    site.kube.faults.append(failing(Refused("quota exceeded", 403), times=1, method="POST"))
    async with site.keeping():
        await until(lambda: site.cluster.pods.refusals == {HELD.uid: "quota exceeded"})
        await site.rest()
        site.wait(100)
        await until(lambda: site.holds() and site.cluster.pods.refusals == {})


async def test_room_is_held_no_more_when_the_lease_ends_or_the_pool_holds_none() -> None:
    for ends in (True, False):
        site = Site()
        async with site.keeping():
            await site.held()
            if ends:
                site.lease(OVER)
            else:
                site.policy = GATE
                site.keeper.mark([BUILD])
            await until(lambda site=site: site.holds() is None)
            await site.rest()
        assert site.writes_in_order() == [("DELETE", HELD_FIRST)]


# --- what is under way ---


async def test_a_pod_counts_from_the_moment_that_its_gate_is_being_lifted() -> None:
    kube = Slow()
    ward = Ward(kube=kube)
    async with ward.keeping():
        ward.lease(HELD)
        ward.pod()
        await until(lambda: kube.under_way)
        assert [ref.lease for ref, _ in ward.cluster.pods.letting.values()] == [HELD.uid]
        kube.go.set()
        await until(lambda: not ward.gates())
        await until(lambda: not ward.cluster.pods.letting)


async def test_no_gate_is_lifted_while_the_end_of_the_lease_may_be_on_its_way() -> None:
    busy = {HELD.uid}
    ward = Ward()
    ward.keeper = Keeper(ward.tools, ward.look_up, ward.right.valid, busy.__contains__)
    ward.cluster.workers["ci"] = Hearer(ward.keeper)  # type: ignore[assignment]
    async with ward.keeping():
        ward.lease(HELD)
        ward.pod()
        await ward.rest()
        assert ward.gates()
        busy.clear()
        ward.wait(25)
        await until(lambda: not ward.gates())
