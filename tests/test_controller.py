"""The composition root: order of the start, parts that fail, exit codes, sweeps, and the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kopf
import pytest
from tests.adapters.fakes import (
    FakeKube,
    failing,
    lease_document,
    lease_path,
    node_document,
    pod_path,
    pool_document,
    reason,
    report_document,
    status,
    waiting_pod,
)

from leasehold import controller as module
from leasehold.adapters.election import Leadership, boot_clock
from leasehold.adapters.http import HealthServer
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import NotFound, Unknown
from leasehold.api.names import LEASE_LABEL
from leasehold.controller import Controller, main
from leasehold.core.election import Terms
from leasehold.settings import BadSetting, Settings

PODS = ["leased pods", "other pods", "placeholders"]


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    named = {"cluster": {"server": "http://127.0.0.1:1"}, "name": "x"}
    path = tmp_path / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "clusters": [named],
                "users": [{"name": "x", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "current-context": "x",
            }
        )
    )
    return str(path)


class Server(FakeKube):
    """A fake API server with the rest of a client's port."""

    def __init__(self) -> None:
        super().__init__()
        self.server = "http://127.0.0.1:1"
        self.silent = 0

    async def server_time(self) -> int:
        if self.silent:
            self.silent -= 1
            raise Unknown("away")
        return 10**15


class Desk:
    """A controller on a fake API server; its framework is not run."""

    def __init__(self, kubeconfig: str, **settings: Any) -> None:
        self.controller = Controller(Settings(kubeconfig=kubeconfig, http_port=0, **settings))
        self.session = self.controller.client.session
        self.kube = Server()
        self.controller.client = self.kube  # type: ignore[assignment]
        self.controller.tools.client = self.kube  # type: ignore[assignment]
        self.controller.elector.start = lambda: None  # type: ignore[method-assign]
        self.kube.add(f"{paths.NODES}/n1", node_document())
        self.kube.add(paths.report("n1"), report_document(at=self.controller.clock.now()))
        self.kube.add("/api/v1/namespaces/team", {"metadata": {"name": "team"}})
        self.kube.watchers.append(self.hear)

    def hear(self, kind: str, document: dict[str, Any]) -> None:
        if document.get("kind") == "CapacityLease":
            self.controller.cluster.changed(kind, document)
        elif document.get("kind") == "CapacityPool":
            told = self.controller.pool_gone if kind == "DELETED" else self.controller.pool_seen
            told(document)
        elif document.get("kind") == "Pod":
            labelled = LEASE_LABEL in document["metadata"]["labels"]
            self.controller.informers["leased pods" if labelled else "other pods"].audience.changed(
                kind, document
            )

    async def begin(self) -> None:
        for name in ("nodes", "nodereports"):
            self.controller.informers[name].client = self.kube  # type: ignore[assignment]
            await self.controller.informers[name]._list()
        for informer in self.controller.informers.values():
            informer.synced.set()
            informer.last_event = self.controller.clock.now()
        await self.controller._begin()
        await self.controller.pools.shard_won(self.leadership(), None)

    def leadership(self, shard: int = 0) -> Leadership:
        """The right to lead a shard for as long as a test lasts."""
        terms = Terms(600_000)
        return Leadership(shard, boot_clock() + terms.renew_deadline, terms)

    async def close(self) -> None:
        self.session_closed = await self.session.close()
        self.controller.client = type("Closed", (), {"session": self.session})()  # type: ignore[assignment]
        await self.controller._cleanup()

    async def until(self, test: Any, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not test():
                await asyncio.sleep(0.005)


@pytest.fixture
async def desk(kubeconfig: str) -> Any:
    made = Desk(kubeconfig)
    yield made
    await made.close()


@pytest.fixture
async def enforcing(kubeconfig: str) -> Any:
    """A desk of an operator that may hold pods to their leases."""
    made = Desk(kubeconfig, enforcement="on")
    yield made
    await made.close()


async def test_pools_are_led_once_every_list_is_complete(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    assert desk.controller.pools.workers == {}
    assert "not every list" in desk.controller._not_ready()
    await desk.begin()
    await desk.until(lambda: desk.controller.pools.workers["ci"][0].ready)
    assert desk.controller._not_ready() == ""
    desk.kube.add(paths.pool("later"), pool_document("later"))
    assert "not leading yet: later" in desk.controller._not_ready()
    await desk.until(lambda: desk.controller.pools.workers["later"][0].ready)


async def test_lists_that_fail_are_waited_for(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    desk.kube.watchers.clear()  # the watch tells nothing of it
    desk.kube.faults.append(failing(Unknown("away"), times=1, method="LIST", path=paths.POOLS))
    await desk.begin()
    assert desk.controller.started.is_set()
    assert "ci" in desk.controller.pools.workers


@pytest.mark.parametrize("late", ["nodes", "nodereports", "capacityleases", "sessions", "namespaces"])
async def test_no_pool_is_led_before_the_last_list_is_complete(desk: Desk, late: str) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    for name, informer in desk.controller.informers.items():
        if name != late:
            informer.synced.set()
    begun: list[str] = []
    desk.controller.elector.start = lambda: begun.append("campaign")  # type: ignore[method-assign]
    beginning = asyncio.create_task(desk.controller._begin())
    await desk.until(lambda: (paths.POOLS, None) in [(at, body) for _, at, body in desk.kube.requests])
    for _ in range(10):
        await asyncio.sleep(0)
    assert not desk.controller.started.is_set()
    assert begun == [], "nobody stands for election who knows only half"
    desk.controller.informers[late].synced.set()
    await beginning
    assert begun == ["campaign"]
    assert "ci" in desk.controller.pools.followers


@pytest.mark.parametrize("late", PODS)
async def test_no_pool_is_led_before_the_lists_of_pods_are_complete(enforcing: Desk, late: str) -> None:
    for name, informer in enforcing.controller.informers.items():
        if name != late:
            informer.synced.set()
    beginning = asyncio.create_task(enforcing.controller._begin())
    await enforcing.until(lambda: (paths.POOLS, None) in [(at, b) for _, at, b in enforcing.kube.requests])
    for _ in range(10):
        await asyncio.sleep(0)
    assert not enforcing.controller.started.is_set()
    enforcing.controller.informers[late].synced.set()
    await beginning
    assert enforcing.controller.started.is_set()


async def test_the_first_word_is_waited_for_and_the_clock_follows_the_server(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.kube.silent = 1
    await desk.controller._first_word()
    assert "waiting for the API server" in caplog.text

    async def behind() -> int:
        return desk.controller.clock.now() - 3_600_000

    monkeypatch.setattr(desk.kube, "server_time", behind)
    before = desk.controller.clock.now()
    await desk.controller._first_word()
    assert desk.controller.clock.now() < before - 3_500_000
    assert "ahead of the API server's" in caplog.text


async def test_a_pool_made_anew_under_an_old_name_is_another_pool(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    await desk.begin()
    first = desk.controller.pools.workers["ci"]
    desk.kube.watchers.clear()  # its end is not heard of
    desk.kube.objects.pop(paths.pool("ci"))
    anew = desk.kube.add(paths.pool("ci"), pool_document())
    desk.controller.pool_seen(anew)
    await desk.until(lambda: desk.controller.pools.workers["ci"][0].ready)
    assert desk.controller.pools.workers["ci"][0] is not first[0]
    assert first[1].cancelled()
    desk.controller.pool_gone(first[0].document)  # a late word about the old one
    assert "ci" in desk.controller.pools.workers


async def test_an_older_word_about_a_pool_changes_nothing(desk: Desk) -> None:
    old = dict(desk.kube.add(paths.pool("ci"), pool_document()))
    await desk.begin()
    await desk.until(lambda: desk.controller.pools.workers["ci"][0].ready)
    desk.controller.pool_seen(old)
    assert desk.controller.pools.documents["ci"] is not old


async def test_pools_that_came_and_went_and_nobody_told(desk: Desk) -> None:
    desk.controller.resync = 20
    desk.kube.add(paths.pool("ci"), pool_document())
    await desk.begin()
    desk.kube.watchers.clear()  # from here on the watch has holes
    desk.kube.add(paths.pool("late"), pool_document("late"))
    desk.kube.faults.append(failing(Unknown("away"), times=1, method="LIST", path=paths.POOLS))
    await desk.until(lambda: "late" in desk.controller.pools.workers)
    desk.kube.remove(paths.pool("ci"))
    await desk.until(lambda: "ci" not in desk.controller.pools.workers)


async def test_a_pool_that_is_gone_before_it_was_taken_over(desk: Desk) -> None:
    desk.kube.faults.append(failing(NotFound("gone", 404), path=paths.pool("ci")))
    desk.kube.add(paths.pool("ci"), pool_document())
    await desk.begin()
    await desk.until(lambda: not desk.controller.pools.workers)
    assert desk.controller.failure == ""


async def test_a_part_that_fails_stops_the_process(desk: Desk) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("a bug")

    desk.controller._watch(broken(), "a part")
    await desk.until(desk.controller.stop.is_set)
    assert desk.controller.failure == "a part: a bug"
    assert desk.controller._wrong() == "a part: a bug"
    assert desk.controller._not_ready() == "a part: a bug"


async def test_a_loop_that_is_late_is_unhealthy(desk: Desk) -> None:
    assert desk.controller._wrong() == ""
    desk.controller.lag.lag = 11.0
    assert "11.0 s late" in desk.controller._wrong()


async def test_one_watch_that_is_silent_makes_it_unready(desk: Desk) -> None:
    await desk.begin()
    assert desk.controller._not_ready() == ""
    desk.controller.informers["sessions"].last_event = desk.controller.clock.now() - 200_000
    assert "silent for 200 s" in desk.controller._not_ready()


async def test_a_sweep_finds_namespaces_that_went(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    desk.kube.add(lease_path("a"), lease_document("a"))
    await desk.begin()
    await desk.until(lambda: status(desk.kube.objects[lease_path("a")], "Allocated") == "True")
    desk.kube.remove("/api/v1/namespaces/team")
    await desk.controller.sweep("ci")
    await desk.until(lambda: status(desk.kube.objects[lease_path("a")], "Finished") == "True")


async def test_a_namespace_that_is_newer_than_the_list_is_not_gone(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    await desk.begin()
    desk.kube.add(lease_path("a"), lease_document("a"))
    assert desk.controller.cluster.doubtful_namespaces() == {"team"}

    def made_meanwhile(method: str, path: str, body: Any) -> None:
        if path == paths.NAMESPACES:
            desk.kube.faults.clear()
            fresh = lease_document("b")
            fresh["metadata"]["namespace"] = "fresh"
            desk.kube.add(paths.lease("fresh", "b"), fresh)

    desk.kube.faults.append(made_meanwhile)
    await desk.controller.sweep("ci")
    assert desk.kube.faults == [], "the namespaces were listed"
    assert desk.controller.cluster.gone_namespaces == frozenset()


async def test_namespaces_that_are_known_to_live_are_not_listed_again(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    await desk.begin()
    desk.controller.cluster.namespace_seen("team", {})
    desk.kube.add(lease_path("a"), lease_document("a"))
    desk.kube.requests.clear()
    await desk.controller.sweep("ci")
    assert {path for _, path, _ in desk.kube.requests} & {paths.NAMESPACES, paths.NODES} == set()


async def test_leases_of_a_namespace_that_went_while_nobody_looked_are_given_back(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    desk.kube.add(lease_path("a"), lease_document("a"))
    desk.kube.remove("/api/v1/namespaces/team")
    desk.kube.faults.append(failing(Unknown("away"), times=1, method="LIST", path=paths.NAMESPACES))
    await desk.begin()
    assert desk.controller.cluster.gone_namespaces == {"team"}
    await desk.until(lambda: status(desk.kube.objects[lease_path("a")], "Finished") == "True")


async def test_nodes_that_went_are_found_by_the_watchs_own_list(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    desk.kube.add(lease_path("a"), lease_document("a"))
    await desk.begin()
    await desk.until(lambda: status(desk.kube.objects[lease_path("a")], "Allocated") == "True")
    desk.kube.remove(f"{paths.NODES}/n1")
    nodes = desk.controller.informers["nodes"]
    assert nodes.resync == desk.controller.resync
    await nodes._list(planned=True)
    assert desk.controller.cluster.nodes == {}
    await desk.until(lambda: status(desk.kube.objects[lease_path("a")], "Finished") == "True")


async def test_a_lease_of_no_pool_that_no_watch_told_of_is_found(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    desk.controller.resync = 20
    desk.kube.watchers.clear()
    await desk.begin()
    desk.kube.add(lease_path("lost"), lease_document("lost", "no-such-pool"))
    desk.kube.add(lease_path("mine"), lease_document("mine"))
    await desk.until(lambda: status(desk.kube.objects[lease_path("lost")], "Accepted") == "False")
    asked = [body for method, path, body in desk.kube.requests if (method, path) == ("LIST", paths.LEASES)]
    assert {"fieldSelector": "spec.poolRef.name!=ci"} in asked, "those of pools are listed pool by pool"


async def test_pools_that_are_swept_together_look_for_namespaces_once(desk: Desk) -> None:
    for name in ("a", "b"):
        desk.kube.add(paths.pool(name), pool_document(name))
    await desk.begin()
    desk.kube.add(lease_path("of-no-known-namespace"), lease_document("of-no-known-namespace"))
    desk.kube.requests.clear()
    for name in ("a", "b", "never there"):
        await desk.controller.sweep(name)
    assert sum(path == paths.NAMESPACES for _, path, _ in desk.kube.requests) == 1


async def test_a_sweep_that_fails_is_told_and_done_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    await desk.begin()
    desk.kube.add(lease_path("a"), lease_document("a"))
    desk.kube.faults.append(failing(Unknown("away"), times=1, method="LIST", path=paths.NAMESPACES))
    await desk.controller.sweep("ci")
    assert "sweep of pool ci" in caplog.text


async def test_reporters_are_asked_only_where_the_pool_wants_to_know(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document(leasePolicy={"verification": "NodeReport"}))
    await desk.begin()
    desk.kube.add(lease_path("a"), lease_document("a"))
    uid = desk.kube.objects[lease_path("a")]["metadata"]["uid"]
    await desk.until(lambda: desk.controller.pools.asking() == {"n1": {uid}})
    desk.kube.touch(paths.pool("ci"), {"spec": {"leasePolicy": {"verification": "None"}}})
    await desk.until(lambda: desk.controller.pools.asking() == {})


async def test_who_waits_can_be_looked_up(desk: Desk) -> None:
    desk.kube.add(paths.pool("ci"), pool_document())
    await desk.begin()
    for name, spec in (("big", {"cpu": "4"}), ("second", {"priority": 5}), ("third", {})):
        desk.kube.add(lease_path(name), lease_document(name, **spec))
        await desk.until(lambda name=name: status(desk.kube.objects[lease_path(name)], "Allocated"))
    desk.kube.add(lease_path("refused"), lease_document("refused", resources={"fpga": "1"}))
    elsewhere = lease_document("elsewhere")
    elsewhere["metadata"]["namespace"] = "other"
    desk.kube.add(paths.lease("other", "elsewhere"), elsewhere)
    await desk.until(
        lambda: status(desk.kube.objects[paths.lease("other", "elsewhere")], "Allocated") == "False"
    )
    await desk.until(lambda: status(desk.kube.objects[lease_path("refused")], "Accepted") == "False")
    find = desk.controller._waiting_rows
    await desk.until(lambda: all(row["estimatedStartTime"] for row in find("ci", 0, 10, "") or ()))
    rows = list(find("ci", 0, 10, "") or ())
    assert [(row["position"], row["name"]) for row in rows] == [(1, "second"), (2, "third"), (3, "elsewhere")]
    assert rows[0].pop("estimatedStartTime")
    assert rows[0] == {
        "position": 1,
        "namespace": "team",
        "name": "second",
        "uid": desk.kube.objects[lease_path("second")]["metadata"]["uid"],
        "tenant": "",
        "priority": 5,
        "resources": {"cpu": "1"},
        "count": 1,
        "reason": "WaitingForCapacity",
    }
    assert [row["name"] for row in find("ci", 1, 1, "") or ()] == ["third"]
    assert [row["name"] for row in find("ci", 0, 10, "other") or ()] == ["elsewhere"]
    assert find("never there", 0, 10, "") is None
    begun = iter(find("ci", 0, 10, "") or ())
    next(begun)
    desk.kube.remove(lease_path("third"))
    assert [row["name"] for row in begun] == ["third", "elsewhere"], "as it was when it was asked for"
    (pool,) = desk.controller._pool_rows()
    assert (pool["name"], pool["ready"], pool["held"]) == ("ci", True, 1)
    assert pool["waiting"] == 3, "the refused one is pending too"


# --- pods ---

GATE = {"mode": "Gate", "nodeTaint": "Dedicated"}


def chores() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()} & {"stray pods", "node taints", "report specs"}


async def test_an_operator_that_may_not_touch_pods_does_not_even_look_at_them(desk: Desk) -> None:
    assert not set(PODS) & desk.controller.informers.keys()
    desk.kube.add(paths.pool("ci"), pool_document(enforcement=GATE))
    desk.kube.add(paths.pool("free"), pool_document("free", nodeSelector={"matchLabels": {"no": "such"}}))
    await desk.begin()
    assert chores() == {"report specs"}
    desk.kube.add(lease_path("a"), lease_document("a"))
    await desk.until(lambda: reason(desk.kube.objects[lease_path("a")], "Allocated") == "PoolNotReady")
    await desk.until(lambda: reason(desk.kube.objects[paths.pool("ci")], "Ready") == "EnforcementOff")
    await desk.until(lambda: reason(desk.kube.objects[paths.pool("free")], "Ready") == "NoNodes")
    assert not any("/pods" in path for _, path, _ in desk.kube.requests)


@pytest.mark.parametrize("kueue", ["off", "on"])
async def test_kueue_is_answered_where_that_was_asked_for(kubeconfig: str, kueue: str) -> None:
    desk = Desk(kubeconfig, kueue=kueue)
    await desk.begin()
    running = {task.get_name() for task in asyncio.all_tasks()}
    assert ("kueue" in running) == (kueue == "on")
    asked = paths.WORKLOADS in [path for _, path, _ in desk.kube.requests]
    assert not asked or kueue == "on"
    await desk.close()
    assert "kueue" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_an_operator_that_may_touch_pods_hears_of_all_that_take_something(enforcing: Desk) -> None:
    informers = enforcing.controller.informers
    assert informers["leased pods"].query == {"labelSelector": "leasehold.dev/lease"}
    assert informers["other pods"].query == {
        "labelSelector": "!leasehold.dev/lease,!leasehold.dev/placeholder",
        "fieldSelector": "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed",
    }
    assert informers["placeholders"].query == {"labelSelector": "leasehold.dev/placeholder"}
    assert informers["placeholders"].path == "/api/v1/namespaces/leasehold-system/pods"
    assert {informers[name].resync for name in PODS} == {enforcing.controller.resync}


async def test_an_operator_that_may_touch_pods_holds_them_to_their_leases(
    enforcing: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leasehold.adapters.enforcement.taints._EVERY_SECONDS", 0.01)
    kube = enforcing.kube
    kube.add(paths.pool("ci"), pool_document(enforcement=GATE))
    await enforcing.begin()
    assert chores() == {"stray pods", "node taints", "report specs"}

    def start(name: str, lease: str | None, **how: Any) -> str:
        kube.add(pod_path(name), waiting_pod(name, lease, **how))
        return pod_path(name)

    plain = start("plain", None, cpu="3", node="n1")
    for name in ("a", "b"):
        kube.add(lease_path(name), lease_document(name))
    await enforcing.until(
        lambda: (
            sorted(status(kube.objects[lease_path(name)], "Allocated") for name in ("a", "b"))
            == ["False", "True"]
        )
    )
    kube.remove(plain)
    await enforcing.until(lambda: status(kube.objects[lease_path("b")], "Allocated") == "True")
    mine, stray = start("mine", "a"), start("stray", "nobodys")
    await enforcing.until(lambda: "schedulingGates" not in kube.objects[mine]["spec"])
    await enforcing.until(lambda: reason(kube.objects[stray], "leasehold.dev/Leased") == "LeaseNotFound")
    await enforcing.until(lambda: kube.objects[f"{paths.NODES}/n1"].get("spec"))
    (taint,) = kube.objects[f"{paths.NODES}/n1"]["spec"]["taints"]
    (tolerated,) = kube.objects[mine]["spec"]["tolerations"]
    assert (
        (taint["key"], taint["value"])
        == (tolerated["key"], tolerated["value"])
        == ("leasehold.dev/pool", "ci")
    )
    assert reason(kube.objects[paths.pool("ci")], "Ready") == "Serving"


# --- the process ---


async def test_a_framework_that_fails_is_exit_code_one(
    kubeconfig: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("a watch failed")

    monkeypatch.setattr(kopf, "run_tasks", fails)

    async def no_tasks(**_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(kopf, "spawn_tasks", no_tasks)
    controller = Controller(Settings(kubeconfig=kubeconfig, http_port=0))
    assert await controller.run() == 1
    assert controller.failure == "a watch failed"
    assert controller.client.session.closed


async def test_a_stop_before_the_api_server_answers_is_exit_code_zero(kubeconfig: str) -> None:
    controller = Controller(Settings(kubeconfig=kubeconfig, http_port=0))
    asyncio.get_running_loop().call_later(0.3, controller.stop.set)
    async with asyncio.timeout(20):
        assert await controller.run() == 0


async def test_a_port_that_is_taken_is_said_plainly(kubeconfig: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = HealthServer("127.0.0.1", 0, bytes, str, str)
    await taken.start()
    controller = Controller(Settings(kubeconfig=kubeconfig, http_port=taken.port))
    with pytest.raises(BadSetting, match="LEASEHOLD_HTTP_PORT"):
        await controller.run()
    assert controller.client.session.closed
    await taken.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kubeconfig", "/nowhere"], "no kubeconfig at /nowhere"),
        (["--http-port", "99999"], "LEASEHOLD_HTTP_PORT"),
    ],
)
def test_a_bad_start_is_one_line_and_exit_code_two(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.logs, "set_up", lambda *_: None)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("leasehold operator: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("uvloop", [True, False])
def test_it_runs_with_and_without_uvloop(
    kubeconfig: str, monkeypatch: pytest.MonkeyPatch, *, uvloop: bool
) -> None:
    seen: list[str] = []

    async def run(self: Controller) -> int:
        seen.append(type(asyncio.get_running_loop()).__module__)
        await self.client.close()
        return 0

    monkeypatch.setattr(Controller, "run", run)
    monkeypatch.setattr(module.logs, "set_up", lambda *_: None)
    monkeypatch.setattr(
        module.gc, "set_threshold", lambda *_: None
    )  # or whoever leaks later is not the one who fails
    if not uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    assert main(["--kubeconfig", kubeconfig, "--http-port", "0"]) == 0
    assert seen[0].startswith("uvloop" if uvloop else "asyncio")


def test_help_names_every_option() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "leasehold.cli.main", "operator", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for option in ("--kubeconfig", "--http-host", "--http-port", "--log-format", "--log-level"):
        assert option in done.stdout
