"""The commit protocol and the worker around it, under faults that a real API server seldom shows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.adapters.fakes import (
    WRITES,
    Scene,
    failing,
    lease_document,
    lease_path,
    lost,
    node_document,
    pool_document,
    reason,
    report_document,
    status,
)

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError, Busy, Conflict, Refused, Unknown
from leasehold.adapters.reconcile import Deposed, PoolWorker
from leasehold.api.names import SESSION_LABEL
from leasehold.core.lease import lease_of
from leasehold.core.outages import Outage
from leasehold.core.status import apply_patch
from leasehold.core.times import format_time

POOL_STATUS = f"{paths.pool('ci')}/status"


def value(counter: Any, **labels: str) -> float:
    return float(counter.labels(**labels)._value.get())


async def test_a_grant_is_one_commit_and_one_write() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.requests.clear()
        scene.ask("a")
        await scene.granted("a")
        await scene.until(lambda: scene.pool()["status"]["ledger"]["inFlight"] == [])
        leases = scene.kube.writes(lease_path("a"))
        commits = [body["status"]["ledger"] for body in scene.kube.writes(POOL_STATUS)]
    commits = [
        ledger for ledger in commits if ledger["inFlight"]
    ]  # without those that publish and drop entries
    assert (len(leases), len(commits)) == (1, 1)
    assert leases[0]["metadata"]["resourceVersion"]
    assert [row["name"] for row in commits[0]["inFlight"]] == ["a"]
    assert commits[0]["sequence"] == leases[0]["status"]["fencingToken"] == 1


async def test_a_commitment_stays_in_the_ledger_until_its_lease_is_known_to_be_written() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        away = failing(Unknown("away"), path=lease_path("a"))
        scene.kube.faults.append(away)
        scene.ask("a")
        await scene.until(lambda: scene.worker.state.entries)
        scene.ask("b")
        await scene.granted("b")
        await scene.until(lambda: scene.worker._settled == set())
        assert [row["name"] for row in scene.pool()["status"]["ledger"]["inFlight"]] == ["a"]
        scene.kube.faults.remove(away)
        await scene.until(lambda: scene.pool()["status"]["ledger"]["inFlight"] == [])
        assert status(scene.lease("a"), "Allocated") == "True"


async def test_the_epoch_is_raised_before_the_leases_are_listed() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
    order = [
        "epoch" if method == "PATCH" and path == POOL_STATUS else method
        for method, path, _ in scene.kube.requests
        if path.startswith((POOL_STATUS, paths.LEASES))
    ]
    assert order[:2] == ["epoch", "LIST"]


@pytest.mark.parametrize("error", [Conflict("c", 409), Unknown("u", 504), Busy("b", 429), Refused("r", 403)])
async def test_a_take_over_that_fails_is_tried_again(error: ApiError) -> None:
    scene = Scene()
    scene.kube.faults.append(failing(error, times=2, path=POOL_STATUS))
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")


async def test_a_take_over_of_a_pool_that_is_gone_ends() -> None:
    scene = Scene()
    scene.kube.remove(paths.pool("ci"))
    async with scene:
        with pytest.raises(ApiError, match="no /apis"):
            await scene.tasks["ci"]


async def test_a_commit_whose_answer_is_lost_is_looked_up_and_used() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(lost(Unknown("504", 504), path=POOL_STATUS))
        scene.ask("a")
        await scene.granted("a")
    assert scene.lease("a")["status"]["fencingToken"] == 1, "the commit was not made twice"


async def test_a_commit_that_did_not_happen_is_made_again() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(failing(Unknown("504", 504), times=2, path=POOL_STATUS))
        scene.ask("a")
        await scene.granted("a")
        assert value(scene.metrics.conflicts, pool="ci") >= 2


async def test_a_commit_that_may_happen_yet_is_followed_by_another_one() -> None:
    """The next swap leaves a number out, so that it changes the object in any case and the late one is refused."""
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(failing(Unknown("504", 504), times=1, path=POOL_STATUS))
        scene.ask("a")
        await scene.granted("a")
    assert scene.kube.objects[paths.pool("ci")]["status"]["ledger"]["sequence"] == 2


async def test_a_commit_that_conflicts_is_made_again_without_other_news() -> None:
    """Somebody annotates the pool: no new generation, so nothing but the conflict itself tells."""
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        await asyncio.sleep(0.4)  # nothing left to publish
        scene.kube.watchers.clear()
        scene.kube.touch(paths.pool("ci"), {"metadata": {"annotations": {"n": "1"}}})
        scene.cluster.changed("ADDED", scene.kube.add(lease_path("a"), lease_document("a")))
        await scene.granted("a")


@pytest.mark.parametrize("error", [Refused("422", 422), Busy("429", 429)])
async def test_commits_that_keep_failing_are_few_and_do_not_end_the_worker(error: ApiError) -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        fault = failing(error, path=POOL_STATUS)
        scene.kube.faults.append(fault)
        scene.kube.requests.clear()
        scene.ask("a")
        await asyncio.sleep(1)
        assert 1 <= len(scene.kube.writes(POOL_STATUS)) <= 6
        assert scene.kube.writes(lease_path("a")) == []
        scene.kube.faults.remove(fault)
        await scene.granted("a")
    if isinstance(error, Refused):
        assert scene.recorder.reasons().count("WriteRefused") == 1


async def test_a_grant_whose_answer_is_lost_is_not_given_twice() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(lost(Unknown("504", 504), path=lease_path("a")))
        scene.ask("a")
        await scene.granted("a")
        await scene.until(lambda: scene.pool()["status"]["ledger"]["inFlight"] == [])
        assert scene.pool()["status"]["ledger"]["sequence"] == 1
        assert len(scene.worker.state.ledger) == 1


async def test_an_api_server_that_is_away_in_the_middle_of_a_grant() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        away = [
            failing(Unknown("away"), path=lease_path("a")),
            failing(Unknown("away"), method="GET", path=lease_path("a")),
        ]
        scene.kube.faults += away
        scene.ask("a")
        await scene.until(lambda: len(scene.kube.writes(lease_path("a"))) >= 3)
        assert scene.worker.state.ledger.count("held") == 1, "what may have been granted counts"
        for fault in away:
            scene.kube.faults.remove(fault)
        await scene.granted("a")


async def test_a_lease_that_asks_for_another_place_after_the_commit_is_decided_anew() -> None:
    async with Scene(nodes=2) as scene:
        await scene.until(lambda: scene.worker.ready)

        def moved(method: str, path: str, body: Any) -> Any:
            if path == POOL_STATUS and method == "PATCH" and body["status"].get("ledger", {}).get("inFlight"):
                scene.kube.faults.clear()
                scene.kube.touch(lease_path("a"), {"spec": {"placement": {"nodeSelector": {"disk": "fast"}}}})

        scene.kube.touch(f"{paths.NODES}/n2", {"metadata": {"labels": {"disk": "fast"}}})
        scene.cluster.node_seen(scene.kube.objects[f"{paths.NODES}/n2"])
        scene.kube.faults.append(moved)
        scene.ask("a")
        await scene.granted("a")
        assert [row["nodeName"] for row in scene.lease("a")["status"]["allocation"]["slices"]] == ["n2"]
        assert scene.lease("a")["status"]["fencingToken"] == 2


async def test_a_grant_that_is_refused_is_undone_and_its_lease_put_aside() -> None:
    refused_grants = [0]

    def no_grants(method: str, path: str, body: Any) -> Any:
        if path.startswith(lease_path("a")) and method == "PUT" and "fencingToken" in body["status"]:
            refused_grants[0] += 1
            return Refused("422: a rule", 422)
        return None

    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(no_grants)
        scene.ask("a")
        scene.ask("b")
        await scene.granted("b")
        await asyncio.sleep(1)
        assert 1 <= refused_grants[0] <= 6, "no endless tries"
        assert value(scene.metrics.refusals, pool="ci") == refused_grants[0]
        assert scene.recorder.reasons().count("WriteRefused") >= 1
        assert scene.reason("a", "Allocated") == "PendingEvaluation"
        assert scene.worker.state.ledger.count("held") == 1
        scene.kube.faults.clear()
        await scene.granted("a")
        tokens = [scene.lease(name)["status"]["fencingToken"] for name in "ab"]
        assert tokens[0] > tokens[1]


async def test_a_status_that_is_refused_is_not_written_without_end() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(failing(Refused("422", 422), path=lease_path("big")))
        scene.ask("big", cpu="64")
        await asyncio.sleep(1)
        assert 1 <= len(scene.kube.writes(lease_path("big"))) <= 6
        scene.ask("small")
        await scene.granted("small")


async def test_an_expiry_that_is_refused_keeps_the_capacity_counted() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", cpu="4", durationSeconds=1)
        await scene.granted("a")
        scene.kube.faults.append(failing(Unknown("away"), path=lease_path("a")))
        scene.kube.requests.clear()
        await asyncio.sleep(2)
        assert 1 <= len(scene.kube.writes(lease_path("a"))) <= 6
        scene.ask("b", cpu="4")
        await scene.until(lambda: scene.reason("b", "Allocated") == "WaitingForCapacity")
        scene.kube.faults.clear()
        await scene.granted("b")
    assert status(scene.lease("a"), "Finished") == "True"


async def test_a_renewal_that_comes_between_decision_and_write_wins() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", durationSeconds=1)
        await scene.granted("a")

        def renewed_just_before(method: str, path: str, body: Any) -> Any:
            if method == "PUT" and path.startswith(lease_path("a")) and "release" in body["status"]:
                scene.kube.faults.clear()
                scene.kube.touch(lease_path("a"), {"spec": {"renewTime": "2026-11-22T20:00:00Z"}})
            return None

        scene.kube.faults.append(renewed_just_before)
        await scene.until(lambda: "renewal" in scene.lease("a")["status"])
        assert status(scene.lease("a"), "Ready") == "True"
        assert "release" not in scene.lease("a")["status"]


async def test_a_request_that_changes_between_commit_and_write_is_decided_anew() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)

        def changed_just_before(method: str, path: str, body: Any) -> Any:
            if method == "PUT" and path.startswith(lease_path("a")):
                scene.kube.faults.clear()
                scene.kube.touch(lease_path("a"), {"spec": {"resources": {"cpu": "2"}}})
            return None

        scene.kube.faults.append(changed_just_before)
        scene.ask("a", cpu="3")
        await scene.granted("a")
    assert scene.lease("a")["status"]["allocation"]["slices"][0]["resources"] == {"cpu": "2"}
    assert scene.lease("a")["status"]["fencingToken"] == 2


async def test_a_lease_that_is_deleted_between_commit_and_write_leaves_nothing() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)

        def gone_just_before(method: str, path: str, body: Any) -> Any:
            if method == "PUT" and path.startswith(lease_path("a")):
                scene.kube.faults.clear()
                scene.kube.remove(lease_path("a"))
            return None

        scene.kube.faults.append(gone_just_before)
        scene.ask("a", cpu="4")
        scene.ask("b", cpu="4", priority=-1)
        await scene.granted("b")


async def test_a_lease_without_the_finalizer_gets_it_before_the_grant() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        bare = lease_document("a")
        bare["metadata"]["finalizers"] = ["example.org/other"]
        scene.kube.add(lease_path("a"), bare)
        await scene.granted("a")
    assert scene.lease("a")["metadata"]["finalizers"] == ["example.org/other", "leasehold.dev/release"]


async def test_a_higher_epoch_seen_in_the_watch_deposes() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.touch(paths.pool("ci"), {"status": {"ledger": {"epoch": 9}}})
        with pytest.raises(Deposed, match="epoch 9, ours is 1"):
            await asyncio.wait_for(scene.tasks["ci"], 2)
    assert all(body["status"]["ledger"]["epoch"] == 1 for body in scene.kube.writes(POOL_STATUS))


async def test_a_higher_epoch_found_out_by_a_conflict_deposes() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.watchers.clear()
        scene.kube.touch(paths.pool("ci"), {"status": {"ledger": {"epoch": 9}}})
        scene.cluster.changed("ADDED", scene.kube.add(lease_path("a"), lease_document("a")))
        with pytest.raises(Deposed):
            await asyncio.wait_for(scene.tasks["ci"], 2)
    assert scene.kube.writes(lease_path("a")) == []


async def test_a_lease_whose_end_was_heard_while_the_list_was_on_its_way_is_no_ghost() -> None:
    scene = Scene()
    scene.ask("ghost", cpu="4")
    scene.kube.touch(
        lease_path("ghost"),
        {
            "status": {
                "conditions": [{"type": "Allocated", "status": "True", "reason": "Granted"}],
                "fencingToken": 1,
                "allocation": {"slices": [{"index": 0, "nodeName": "n1", "resources": {"cpu": "4"}}]},
            }
        },
    )

    def ends_meanwhile(method: str, path: str, body: Any) -> Any:
        if method == "LIST" and lease_path("ghost") in scene.kube.objects:
            scene.kube.remove(lease_path("ghost"))
        return None

    scene.kube.faults.append(ends_meanwhile)
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        assert not scene.worker.state.leases
        scene.ask("a", cpu="4")
        await scene.granted("a")


async def test_tokens_go_on_above_those_that_leases_still_carry() -> None:
    scene = Scene()
    held = lease_document("old")
    held["status"] = {
        "conditions": [{"type": "Allocated", "status": "True", "reason": "Granted"}],
        "fencingToken": 17,
        "allocation": {
            "ledgerSequence": 17,
            "allocationTime": "2026-11-22T19:00:00Z",
            "slices": [{"index": 0, "nodeName": "n1", "resources": {"cpu": "1"}}],
        },
    }
    scene.kube.add(lease_path("old"), held)
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
    assert scene.lease("a")["status"]["fencingToken"] == 18


async def test_one_lease_that_cannot_be_read_stops_nobody_and_keeps_what_it_holds() -> None:
    scene = Scene()
    odd = lease_document("odd")
    odd["status"] = {
        "conditions": [{"type": "Allocated", "status": "True", "reason": "Granted"}],
        "fencingToken": 1,
        "deadlines": {"expirationTime": "some day"},
        "allocation": {"slices": [{"index": 0, "nodeName": "n1", "resources": {"cpu": "3"}}]},
    }
    scene.kube.add(lease_path("odd"), odd)
    no_lease = {"kind": "CapacityLease", "metadata": {"name": "no", "namespace": "team"}, "spec": {}}
    scene.kube.objects[lease_path("no")] = {
        **no_lease,
        "metadata": {**no_lease["metadata"], "uid": "x", "resourceVersion": "1"},
        "spec": {"poolRef": {"name": "ci"}},
    }
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", cpu="1")
        await scene.granted("a")
        scene.ask("b", cpu="1")
        await scene.until(lambda: scene.reason("b", "Allocated") == "WaitingForCapacity")


async def test_a_spec_that_cannot_be_read_keeps_what_is_held_and_grants_nothing() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        scene.kube.touch(paths.pool("ci"), {"spec": {"leasePolicy": {"gracePeriodSeconds": "soon"}}})
        await scene.until(lambda: reason(scene.pool(), "Ready") == "InvalidSpec")
        scene.ask("b")
        await scene.until(lambda: scene.reason("b", "Allocated") == "PoolNotReady")
        assert status(scene.lease("a"), "Ready") == "True"
        assert scene.worker.state.ledger.count("held") == 1
        scene.kube.touch(paths.pool("ci"), {"spec": {"leasePolicy": {"gracePeriodSeconds": 0}}})
        await scene.granted("b")
        await scene.until(lambda: reason(scene.pool(), "Ready") == "Serving")


async def test_a_spec_that_cannot_be_read_at_the_start_takes_no_node_from_other_pools() -> None:
    scene = Scene()
    scene.add_pool(pool_document("broken", placement={"strategy": "Guess"}))
    async with scene:
        await scene.until(lambda: reason(scene.pool("broken"), "Ready") == "InvalidSpec")
        scene.ask("a")
        await scene.granted("a")


async def test_no_pool_lends_a_contested_node_while_another_is_still_being_taken_over() -> None:
    scene = Scene()
    scene.add_pool(pool_document("other"))
    scene.kube.faults.append(failing(Unknown("slow"), path=paths.pool("other")))
    async with scene:
        await scene.until(lambda: scene.workers["ci"].ready)
        scene.ask("a")
        await scene.until(lambda: scene.reason("a", "Allocated") != "")
        assert scene.lease("a")["status"]["rejections"][0]["reason"] == "NodeConflicting"


async def test_a_commitment_another_pool_has_not_adopted_yet_holds_its_node() -> None:
    scene = Scene(pool_document("ci", nodeSelector={"matchLabels": {"team": "b"}}))
    scene.cluster.node_seen(
        scene.kube.add(f"{paths.NODES}/n1", {**node_document("n1", team="b")}),
    )
    row = {
        "uid": "u",
        "namespace": "team",
        "name": "x",
        "sequence": 1,
        "resources": {"cpu": "4"},
        "nodes": ["n1"],
    }
    other = pool_document("other", nodeSelector={"matchLabels": {"team": "a"}})
    other["status"] = {"ledger": {"epoch": 1, "sequence": 1, "inFlight": [row]}}
    scene.add_pool(other)
    fault = failing(Unknown("slow"), path=paths.pool("other"))
    scene.kube.faults.append(fault)
    async with scene:
        scene.ask("a")
        await scene.until(lambda: scene.reason("a", "Allocated") != "")
        assert status(scene.lease("a"), "Allocated") == "False"
        scene.kube.faults.remove(fault)
        await scene.until(lambda: scene.workers["other"].ready)
        scene.workers["ci"].node_changed("n1")
        await scene.granted("a")


async def test_a_sweep_finds_what_the_watch_did_not_tell() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("gone", cpu="4")
        await scene.granted("gone")
        scene.kube.watchers.clear()
        scene.kube.remove(lease_path("gone"))
        scene.kube.add(lease_path("new"), lease_document("new", cpu="4"))
        await scene.worker.sweep(relist=False)
        assert "new" not in {lease.name for lease in scene.worker.state.leases.values()}
        await scene.worker.sweep(relist=True)
        await scene.granted("new")
        assert value(scene.metrics.missed, pool="ci") == 1


async def test_a_sweep_before_the_take_over_does_nothing() -> None:
    scene = Scene()
    await scene.worker.sweep(relist=True)
    assert scene.kube.requests == []


async def test_books_that_do_not_balance_stop_grants_until_they_do() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", cpu="2")
        await scene.granted("a")
        await scene.until(lambda: not scene.worker.state.entries)
        scene.worker.state.ledger.drop(next(iter(scene.worker.state.leases)))
        await scene.worker.sweep(relist=False)
        await scene.until(lambda: reason(scene.pool(), "LedgerConsistent") == "Mismatch")
        assert "team/a" in str(scene.pool()["status"]["conditions"])
        scene.ask("b", cpu="1")
        await scene.until(lambda: scene.reason("b", "Allocated") == "LedgerInconsistent")
        assert value(scene.metrics.mismatches, pool="ci") == 1
        await scene.worker.sweep(relist=False)
        await scene.granted("b")
        await scene.until(lambda: reason(scene.pool(), "LedgerConsistent") == "Consistent")


async def test_figures_that_only_drift_are_written_seldom_but_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("leasehold.adapters.reconcile._LAZY", 800)
    async with Scene() as scene:
        await scene.until(lambda: "capacity" in scene.pool().get("status", {}))
        await asyncio.sleep(0.3)
        scene.kube.requests.clear()
        for _ in range(5):
            used = report_document("n1", at=scene.clock.now(), cpu="1")
            scene.cluster.report_seen(scene.kube.add(paths.report("n1"), used))
            await asyncio.sleep(0.02)
        await scene.until(lambda: scene.pool()["status"]["capacity"][0]["free"] == "3", 3)
        assert len(scene.kube.writes(POOL_STATUS)) == 1


async def test_a_status_that_was_not_written_is_written_later() -> None:
    async with Scene() as scene:
        await scene.until(lambda: "capacity" in scene.pool().get("status", {}))
        scene.kube.faults.append(failing(Conflict("409", 409), times=1, path=POOL_STATUS))
        scene.cluster.node_gone("n1")
        await scene.until(lambda: reason(scene.pool(), "Ready") == "NoNodes")


async def test_a_pool_leaves_when_nothing_is_held_and_keeps_the_finalizers_of_others() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        other = {"metadata": {"finalizers": ["example.org/mine", "leasehold.dev/drain"]}}
        scene.kube.touch(paths.pool("ci"), other)
        scene.kube.faults.append(failing(Conflict("409", 409), times=1, path=f"{paths.pool('ci')}"))
        scene.kube.touch(paths.pool("ci"), {"metadata": {"deletionTimestamp": "2026-11-22T20:00:00Z"}})
        await scene.until(lambda: scene.pool()["metadata"]["finalizers"] == ["example.org/mine"])
        assert status(scene.lease("a"), "Finished") == "True"
        assert not scene.tasks["ci"].done()


async def test_a_pool_without_other_finalizers_ends_its_worker() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.touch(paths.pool("ci"), {"metadata": {"deletionTimestamp": "2026-11-22T20:00:00Z"}})
        await asyncio.wait_for(scene.tasks["ci"], 2)
    assert paths.pool("ci") not in scene.kube.objects


async def test_a_stop_lets_the_writes_under_way_end() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        slow = asyncio.Event()
        write = scene.kube.replace_status

        async def slowly(path: str, document: Any) -> str:
            slow.set()
            await asyncio.sleep(0.2)
            return await write(path, document)

        scene.kube.replace_status = slowly  # type: ignore[method-assign]
        scene.ask("a")
        await slow.wait()
    assert status(scene.lease("a"), "Allocated") == "True"


async def test_a_bug_in_a_write_ends_the_worker_loudly() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(failing(ZeroDivisionError("a bug"), path=lease_path("a")))
        scene.ask("a")
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(scene.tasks["ci"], 2)


async def test_a_name_that_was_taken_by_another_lease_meanwhile() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        first = lease_of(scene.ask("a"))
        await scene.granted("a")
        scene.kube.watchers.clear()
        scene.kube.remove(lease_path("a"))
        scene.kube.add(lease_path("a"), lease_document("a"))
        await scene.worker._refresh(first)
        await scene.granted("a")
        assert first.uid not in scene.worker.state.leases


async def test_an_echo_of_our_own_write_is_not_planned_again() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        await asyncio.sleep(0.6)
        passes = scene.worker.passes
        scene.cluster.changed("MODIFIED", scene.lease("a"))
        await asyncio.sleep(0.05)
        assert scene.worker.passes == passes


# --- the future ---


def soon(scene: Scene, seconds: float) -> str:
    return format_time(scene.clock.now() + int(1000 * seconds))


async def test_a_promised_start_is_committed_told_and_kept() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("later", cpu="3", startTime=(start := soon(scene, 0.7)))
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        kept = scene.lease("later")["status"]["reservation"]
        assert (kept["startTime"], kept["ledgerSequence"]) == (start, 1)
        scene.ask("long", cpu="3")
        await scene.until(lambda: scene.reason("long", "Allocated") == "RoomPromised")
        await scene.granted("later")
    rows = [
        row for body in scene.kube.writes(POOL_STATUS) for row in body["status"]["ledger"].get("inFlight", ())
    ]
    assert next(row for row in rows if row["sequence"] == 1)["startTime"] == start
    assert "startTime" not in next(row for row in rows if row["sequence"] == 2)
    assert scene.lease("later")["status"]["fencingToken"] == 2


async def test_a_promise_that_was_committed_by_a_dead_operator_is_finished_by_the_next() -> None:
    scene = Scene()
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(failing(Unknown("away"), path=lease_path("later")))
        scene.ask("later", cpu="3", startTime=(start := soon(scene, 3600)))
        await scene.until(lambda: scene.worker.state.entries)
    scene.kube.faults.clear()
    row = scene.pool()["status"]["ledger"]["inFlight"][0]
    assert row["startTime"] == start
    assert row["endTime"] > start
    assert "reservation" not in scene.lease("later").get("status", {})
    next_one = PoolWorker(scene.tools, scene.pool(), scene.right)
    scene.workers = {"ci": next_one}
    async with scene:
        await scene.until(lambda: next_one.ready)
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        await scene.until(lambda: scene.pool()["status"]["ledger"]["inFlight"] == [])
        assert scene.lease("later")["status"]["reservation"]["ledgerSequence"] == row["sequence"]
        assert len(next_one.state.ledger) == 0
        assert next_one.state.audit() == []


async def test_a_promise_whose_lease_changes_before_it_is_written_is_made_anew() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)

        def shrinks(method: str, path: str, body: Any) -> Any:
            if path == POOL_STATUS and method == "PATCH" and body["status"].get("ledger", {}).get("inFlight"):
                scene.kube.faults.clear()
                scene.kube.touch(lease_path("later"), {"spec": {"resources": {"cpu": "2"}}})

        scene.kube.faults.append(shrinks)
        scene.ask("later", cpu="3", startTime=soon(scene, 3600))
        await scene.until(
            lambda: scene.lease("later").get("status", {}).get("reservation", {}).get("ledgerSequence") == 2
        )
        rows = scene.lease("later")["status"]["reservation"]["slices"]
        assert [row["resources"] for row in rows] == [{"cpu": "2"}]
        await scene.until(lambda: not scene.worker.state.entries)
        assert scene.worker.state.audit() == []


async def test_who_jumps_the_queue_keeps_its_last_end_through_a_crash() -> None:
    scene = Scene(pool_document(queueing={"strategy": "Backfill"}))
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("held", cpu="2", durationSeconds=3600)
        await scene.granted("held")
        scene.ask("head", cpu="3", durationSeconds=3600)
        await scene.until(lambda: scene.reason("head", "Allocated") == "WaitingForCapacity")
        scene.kube.faults.append(failing(Unknown("away"), path=lease_path("jumps")))
        scene.ask("jumps", cpu="2", durationSeconds=60)
        await scene.until(lambda: scene.worker.state.entries)
    scene.kube.faults.clear()
    last = scene.pool()["status"]["ledger"]["inFlight"][0]["notAfterTime"]
    assert last == scene.lease("held")["status"]["deadlines"]["expirationTime"]
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.granted("jumps")
        assert scene.lease("jumps")["status"]["deadlines"]["maxExpirationTime"] == last


async def test_a_victim_is_asked_to_go_and_its_room_goes_to_whom_it_was_made_for() -> None:
    terms = {"gracePeriodSeconds": 1}
    async with Scene(pool_document(leasePolicy=terms, preemption={"withinTenant": "LowerPriority"})) as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("held", cpu="4")
        await scene.granted("held")
        urgent = scene.ask("urgent", cpu="2", priority=5)
        await scene.until(lambda: scene.reason("held", "DisruptionTarget") == "Preempted")
        assert scene.lease("held")["status"]["revocation"]["preemptorUID"] == urgent["metadata"]["uid"]
        await scene.until(lambda: scene.reason("urgent", "Allocated") == "WaitingForVictims")
        await scene.granted("urgent")
        assert scene.lease("held")["status"]["release"]["cause"] == "Preempted"


async def test_a_notice_given_by_a_dead_operator_is_kept_by_the_next_and_by_a_changed_pool() -> None:
    pool = pool_document(
        leasePolicy={"gracePeriodSeconds": 600}, preemption={"withinTenant": "LowerPriority"}
    )
    scene = Scene(pool)
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("held", cpu="4")
        await scene.granted("held")
        scene.ask("urgent", cpu="2", priority=5)
        await scene.until(lambda: scene.reason("held", "DisruptionTarget") == "Preempted")
        await scene.until(lambda: scene.reason("urgent", "Allocated") == "WaitingForVictims")
    told = scene.lease("held")["status"]["revocation"]
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        await asyncio.sleep(0.1)
        assert scene.worker.state.displaced().keys() == {scene.lease("held")["metadata"]["uid"]}
        scene.kube.touch(paths.pool("ci"), {"spec": {"queueing": {"maxPending": 77}}})
        await scene.until(lambda: scene.worker.policy.max_pending == 77)
        await asyncio.sleep(0.1)
        assert scene.worker.state.displaced().keys() == {scene.lease("held")["metadata"]["uid"]}
        assert scene.lease("held")["status"]["revocation"] == told
        assert status(scene.lease("held"), "DisruptionTarget") == "True"


async def test_a_dry_run_is_answered_and_commits_nothing() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("held", cpu="3", durationSeconds=3600)
        await scene.granted("held")
        scene.ask("asks", cpu="3", mode="DryRun")
        await scene.until(lambda: scene.reason("asks", "Finished") == "DryRunComplete")
        answer = scene.lease("asks")["status"]
        assert answer["quote"]["startTime"] == scene.lease("held")["status"]["deadlines"]["expirationTime"]
        assert answer["counterOffer"]["kind"] == "Later"
        assert scene.pool()["status"]["ledger"]["sequence"] == 1


async def test_those_who_wait_read_their_place_and_when_they_will_start() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("held", cpu="4", durationSeconds=3600)
        await scene.granted("held")
        scene.ask("a", cpu="4", durationSeconds=600)
        scene.ask("b", cpu="4", durationSeconds=600)
        await scene.until(lambda: "estimatedStartTime" in scene.lease("b").get("status", {}).get("queue", {}))
        end = scene.lease("held")["status"]["deadlines"]["expirationTime"]
        assert scene.lease("a")["status"]["queue"] == {"approximatePosition": 1, "estimatedStartTime": end}
        assert scene.lease("b")["status"]["queue"]["approximatePosition"] == 2
        await asyncio.sleep(1.2)
        writes = [len(scene.kube.writes(lease_path(name))) for name in "ab"]
        await asyncio.sleep(1.2)
        assert [len(scene.kube.writes(lease_path(name))) for name in "ab"] == writes


async def test_tenants_hear_of_their_namespaces_and_their_past_survives_a_restart() -> None:
    tenants = [{"name": "red", "namespaceSelector": {"matchLabels": {"team": "red"}}}]
    more = {"queueing": {"usageHalfLifeSeconds": 3600}, "tenants": tenants}
    scene = Scene(pool_document(**more))
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", cpu="2")
        await scene.until(lambda: scene.reason("a", "Accepted") == "NamespaceNotAllowed")
        scene.cluster.namespace_seen("team", {"team": "red"})
        await scene.granted("a")
        assert scene.lease("a")["status"]["tenant"] == "red"
        await scene.until(lambda: scene.pool()["status"]["tenants"][0]["sharePermille"] == 500)
        await scene.until(lambda: reason(scene.pool(), "TenantsValid") == "Valid")
    scene.kube.touch(paths.pool("ci"), {"status": {"tenants": [{"name": "red", "usagePermille": 300}]}})
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        assert 290_000 < scene.worker.state.shares.account("red").past <= 310_000


async def test_a_promised_lease_that_is_given_up_does_not_end_the_worker() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("later", cpu="3", startTime=soon(scene, 3600))
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        scene.kube.touch(lease_path("later"), {"spec": {"desiredState": "Released"}})
        await scene.until(lambda: scene.reason("later", "Finished") == "Released")


# --- the right to lead, outages, and what others write ---


async def test_nothing_is_written_once_the_right_to_lead_ran_out() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        await scene.until(lambda: not scene.worker._tasks)
        scene.right.is_valid = False
        scene.kube.requests.clear()
        scene.ask("b")
        with pytest.raises(Deposed, match="ran out"):
            await asyncio.wait_for(scene.tasks.pop("ci"), 5)
        assert [row for row in scene.kube.requests if row[0] != "GET"] == []


async def test_a_right_that_runs_out_between_commit_and_write_leaves_the_grant_to_the_next() -> None:
    scene = Scene()
    async with scene:
        await scene.until(lambda: scene.worker.ready)

        def runs_out(method: str, path: str, body: Any) -> None:
            if path == POOL_STATUS and body["status"].get("ledger", {}).get("inFlight"):
                scene.right.is_valid = False

        scene.kube.faults.append(runs_out)
        scene.ask("a")
        with pytest.raises(Deposed):
            await asyncio.wait_for(scene.tasks.pop("ci"), 5)
        assert status(scene.lease("a"), "Allocated") == ""
        (row,) = scene.pool()["status"]["ledger"]["inFlight"]
    scene.kube.faults.clear()
    scene.right.is_valid = True
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.granted("a")
        assert scene.lease("a")["status"]["fencingToken"] == row["sequence"]
        assert scene.reason("a", "Allocated") == "Adopted"


async def test_an_absence_is_remembered_in_the_pool_with_the_take_over() -> None:
    scene = Scene()
    now = scene.clock.now()
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right, Outage(now - 90_000, now))}
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        (first,) = [body for body in scene.kube.writes(POOL_STATUS) if "epoch" in body["status"]["ledger"]][
            :1
        ]
        assert len(first["status"]["ledger"]["outages"]) == 1
        (row,) = scene.pool()["status"]["ledger"]["outages"]
        assert row["endTime"] == format_time(now)
        scene.worker.outage_over(Outage(now + 1000, now + 5000))
        await scene.until(lambda: len(scene.pool()["status"]["ledger"]["outages"]) == 2)
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        assert len(scene.worker.outages) == 2, "the next leader reads them"


def with_session(scene: Scene, name: str = "s", *, age: int = 0) -> None:
    """A session that was last heard of so many milliseconds ago."""
    path = paths.coordination("team", name)
    document = {"metadata": {"name": name, "namespace": "team", "labels": {SESSION_LABEL: ""}}, "spec": {}}
    scene.cluster.session_seen(scene.kube.add(path, document))
    known = scene.cluster.sessions["team", name]
    scene.cluster.sessions["team", name] = known._replace(renewed_at=scene.clock.now() - age)


async def test_a_session_that_was_renewed_unheard_keeps_its_leases() -> None:
    terms = {"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 5}
    async with Scene(pool_document(leasePolicy=terms)) as scene:
        await scene.until(lambda: scene.worker.ready)
        with_session(scene, age=4000)
        scene.ask("a", liveness="Session", holder={"sessionRef": {"name": "s"}})
        await scene.until(lambda: status(scene.lease("a"), "Claimed") == "True")
        scene.kube.touch(paths.coordination("team", "s"), {"spec": {"renewTime": "now"}})  # nobody tells us
        session = paths.coordination("team", "s")
        await scene.until(lambda: ("GET", session, None) in scene.kube.requests)
        await scene.until(lambda: not scene.worker.state.busy)
        assert status(scene.lease("a"), "Ready") == "True"
        assert scene.cluster.sessions["team", "s"].renewed_at > scene.clock.now() - 2000


async def test_a_session_that_is_silent_indeed_is_looked_up_once_for_all_its_leases() -> None:
    terms = {"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 5}
    async with Scene(pool_document(leasePolicy=terms)) as scene:
        await scene.until(lambda: scene.worker.ready)
        with_session(scene, age=4000)
        for name in "abc":
            scene.ask(name, liveness="Session", holder={"sessionRef": {"name": "s"}})
        for name in "abc":
            await scene.until(lambda name=name: status(scene.lease(name), "Claimed") == "True")
        for name in "abc":
            await scene.until(lambda name=name: status(scene.lease(name), "Finished") == "True")
            assert scene.lease(name)["status"]["release"]["cause"] == "HeartbeatLost"
        session = paths.coordination("team", "s")
        assert 1 <= [at for _, at, _ in scene.kube.requests].count(session) <= 3


async def test_a_session_that_lost_its_label_or_is_gone_is_none() -> None:
    terms = {"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 5}
    async with Scene(pool_document(leasePolicy=terms)) as scene:
        await scene.until(lambda: scene.worker.ready)
        with_session(scene, age=4000)
        scene.ask("a", liveness="Session", holder={"sessionRef": {"name": "s"}})
        await scene.until(lambda: status(scene.lease("a"), "Claimed") == "True")
        scene.kube.touch(paths.coordination("team", "s"), {"metadata": {"labels": {SESSION_LABEL: None}}})
        await scene.until(lambda: status(scene.lease("a"), "Finished") == "True")
        assert ("team", "s") not in scene.cluster.sessions


async def test_a_node_that_is_ready_again_unheard_loses_no_lease() -> None:
    async with Scene(pool_document(leasePolicy={"gracePeriodSeconds": 0, "nodeLossSeconds": 0})) as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        node = f"{paths.NODES}/n1"
        down = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
        stale = apply_patch(scene.kube.objects[node], down)
        scene.kube.touch(node, {"metadata": {"labels": {"seen": "later"}}})
        stale["metadata"] = {**stale["metadata"], "resourceVersion": str(_version_of(scene, node) - 1)}
        scene.cluster.nodes["n1"] = replace(scene.cluster.nodes["n1"], version=0)
        scene.cluster.node_seen(stale)
        await scene.until(lambda: ("GET", node, None) in scene.kube.requests)
        await scene.until(lambda: not scene.worker.state.busy and not scene.worker.state.attention)
        assert status(scene.lease("a"), "Ready") == "True"
        scene.cluster.node_seen(scene.kube.touch(node, down))
        await scene.until(lambda: status(scene.lease("a"), "Finished") == "True")
        assert scene.lease("a")["status"]["release"]["cause"] == "NodeLost"


def _version_of(scene: Scene, path: str) -> int:
    return int(scene.kube.objects[path]["metadata"]["resourceVersion"])


async def test_a_node_that_is_gone_indeed_loses_its_leases() -> None:
    async with Scene(nodes=2) as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", cpu="4")
        await scene.granted("a")
        node = scene.lease("a")["status"]["allocation"]["slices"][0]["nodeName"]
        scene.kube.remove(f"{paths.NODES}/{node}")
        scene.cluster.node_gone(node)
        await scene.until(lambda: status(scene.lease("a"), "Finished") == "True")
        assert scene.lease("a")["status"]["release"]["cause"] == "NodeLost"


async def test_a_foreign_writer_is_corrected_less_and_less_often_and_reported() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        await scene.until(lambda: not scene.worker.state.entries)
        vandal = {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Vandal"}]}}
        fixed = 0
        for _ in range(5):
            scene.kube.touch(lease_path("a"), vandal)
            began = scene.clock.now()
            await scene.until(lambda: status(scene.lease("a"), "Ready") == "True")
            fixed += 1
        assert fixed == 5
        assert scene.clock.now() - began >= 700, "the fifth time it waits"
        assert scene.recorder.reasons().count("ForeignWrite") == 1
        page = scene.metrics.page().decode()
        assert 'leasehold_foreign_writes_total{pool="ci"} 4.0' in page


async def test_our_own_write_whose_answer_was_lost_is_no_foreign_one() -> None:
    async with Scene(
        pool_document(leasePolicy={"gracePeriodSeconds": 600, "warnBeforeSeconds": []})
    ) as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", durationSeconds=1)
        await scene.granted("a")
        await scene.until(lambda: not scene.worker.state.entries)
        for _ in range(3):
            scene.kube.faults.append(lost(Unknown("lost"), path=lease_path("a")))
            scene.kube.touch(lease_path("a"), {"spec": {"renewTime": format_time(scene.clock.now())}})
            await scene.until(lambda: not scene.worker.state.attention and not scene.worker.state.busy)
            scene.kube.faults.clear()
        assert value(scene.metrics.foreign_writes, pool="ci") == 0


async def test_a_foreign_writer_of_the_pools_status_is_corrected_less_and_less_often() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        await scene.until(lambda: status(scene.pool(), "Ready") == "True")
        began = scene.clock.now()
        for _ in range(5):
            conditions = [{**row, "reason": "Vandal"} for row in scene.pool()["status"]["conditions"]]
            scene.kube.touch(paths.pool("ci"), {"status": {"conditions": conditions}})
            await scene.until(lambda: reason(scene.pool(), "Ready") == "Serving")
        assert scene.clock.now() - began >= 200 + 400 + 800 + 1600
        assert scene.recorder.reasons().count("ForeignWrite") == 1


async def test_a_commit_that_may_happen_yet_is_made_impossible_before_anything_else_is_decided() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        late: list[Any] = []

        def delayed(method: str, path: str, body: Any) -> Any:
            if path == POOL_STATUS and body["status"].get("ledger", {}).get("inFlight") and not late:
                late.append(body)
                return Unknown("504", 504)
            return None

        scene.kube.faults.append(delayed)
        scene.ask("a")
        await scene.granted("a")
        assert scene.lease("a")["status"]["fencingToken"] == 2, "number 1 was left out"
        with pytest.raises(Conflict):
            await scene.kube.patch(POOL_STATUS, late[0])


async def test_a_commit_that_happened_after_all_is_found_while_it_is_made_impossible() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        late: list[Any] = []

        def delayed(method: str, path: str, body: Any) -> Any:
            if path != POOL_STATUS or method != "PATCH":
                return None
            if body["status"].get("ledger", {}).get("inFlight") and not late:
                late.append(body)
                return Unknown("504", 504)
            if late and body["status"] == {"ledger": {"sequence": 1}}:
                scene.kube.faults.clear()
                asyncio.get_running_loop().create_task(scene.kube.patch(POOL_STATUS, late[0]))
                return Unknown("503", 503)
            return None

        scene.kube.faults.append(delayed)
        scene.ask("a")
        await scene.granted("a")
        assert scene.lease("a")["status"]["fencingToken"] == 1, "the late commit arrived first, and counts"
        await scene.until(lambda: scene.pool()["status"]["ledger"]["inFlight"] == [])


async def test_a_grant_that_is_written_late_breaks_no_promise_on_its_room() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(
            failing(Conflict("slow", 409), method="PUT", path=lease_path("now"), times=6)
        )
        scene.ask("now", cpu="4", durationSeconds=5)
        await scene.until(lambda: scene.worker.state.entries)
        scene.ask("later", cpu="4", startTime=soon(scene, 5.5), durationSeconds=60)
        await scene.granted("now")
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        end = scene.lease("now")["status"]["deadlines"]["expirationTime"]
        assert end <= scene.lease("later")["status"]["reservation"]["startTime"]


async def test_a_grant_that_is_written_late_ends_in_time_for_those_who_were_promised_its_room() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("later", cpu="4", startTime=soon(scene, 6), durationSeconds=60)
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        scene.kube.faults.append(
            failing(Conflict("slow", 409), method="PUT", path=lease_path("now"), times=6)
        )
        scene.ask("now", cpu="4", durationSeconds=5)
        await scene.granted("now")
        start = scene.lease("later")["status"]["reservation"]["startTime"]
        assert scene.lease("now")["status"]["deadlines"]["expirationTime"] == start
        assert scene.pool()["status"]["ledger"]["sequence"] == 2


async def test_a_grant_that_is_written_too_late_is_undone() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("later", cpu="4", startTime=soon(scene, 2.5), durationSeconds=60)
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        scene.kube.faults.append(
            failing(Conflict("slow", 409), method="PUT", path=lease_path("now"), times=6)
        )
        scene.ask("now", cpu="4", durationSeconds=1)
        await scene.granted("later")
        assert "fencingToken" not in scene.lease("now")["status"]


async def test_a_renewal_whose_answer_was_lost_is_fenced_before_its_room_is_promised() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("held", cpu="4", durationSeconds=600)
        await scene.granted("held")
        await scene.until(lambda: not scene.worker.state.entries)
        late: list[Any] = []

        def delayed(method: str, path: str, body: Any) -> Any:
            if method == "PUT" and lease_path("held") in path and not late:
                late.append(body)
                scene.kube.faults.clear()
                scene.kube.faults.append(failing(Unknown("504", 504), method="PUT", path=lease_path("held")))
                return Unknown("504", 504)
            return None

        scene.kube.faults.append(delayed)
        scene.kube.touch(lease_path("held"), {"spec": {"renewTime": format_time(scene.clock.now())}})
        await scene.until(lambda: late)
        scene.ask("later", cpu="4", startTime=soon(scene, 3600))
        await asyncio.sleep(0.3)
        assert "reservation" not in scene.lease("later").get("status", {}), "it may still be renewed"
        scene.kube.faults.clear()
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        with pytest.raises(Conflict):
            await scene.kube.replace_status(lease_path("held"), late[0])


async def test_a_lease_that_a_later_leader_fenced_deposes() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        scene.kube.touch(lease_path("a"), {"status": {"allocation": {"ledgerEpoch": 9}}})
        with pytest.raises(Deposed, match="epoch 9"):
            await asyncio.wait_for(scene.tasks.pop("ci"), 5)


async def test_a_promise_on_inherited_room_waits_until_late_renewals_cannot_come_any_more() -> None:
    scene = Scene()
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("held", cpu="3", durationSeconds=600)
        await scene.granted("held")
        await scene.until(lambda: scene.pool()["status"]["ledger"]["inFlight"] == [])
    before = _version_of(scene, lease_path("held"))
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.requests.clear()
        scene.ask("later", cpu="3", startTime=soon(scene, 3600))
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        assert scene.lease("held")["status"]["allocation"]["ledgerEpoch"] == 2
        late = {"metadata": {"resourceVersion": str(before)}, "status": {"renewal": {"count": 1}}}
        with pytest.raises(Conflict):  # what an earlier leader sent before it was deposed
            await scene.kube.patch(paths.status(lease_path("held")), late)
        order = [at for method, at, body in scene.kube.requests if method in WRITES]
        assert order.index(paths.status(lease_path("held"))) < order.index(paths.status(lease_path("later")))
        scene.kube.requests.clear()
        scene.ask("again", cpu="1", startTime=soon(scene, 3700))
        await scene.until(lambda: "reservation" in scene.lease("again").get("status", {}))
        assert scene.kube.writes(lease_path("held")) == [], "once for each leader"
