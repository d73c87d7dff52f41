"""Grants and changes are written until each is known to have happened or not, under faults that are seldom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.adapters.fakes import (
    POOL_STATUS,
    Scene,
    failing,
    lease_document,
    lease_path,
    lost,
    pool_document,
    soon,
    status,
    value,
)

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Conflict, Refused, Unknown
from leasehold.adapters.pool.object import Deposed
from leasehold.adapters.pool.worker import PoolWorker
from leasehold.core.audit import audit
from leasehold.core.times import parse_time


async def test_a_commitment_stays_in_the_ledger_until_its_lease_is_known_to_be_written() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        away = failing(Unknown("away"), path=lease_path("a"))
        scene.kube.faults.append(away)
        scene.ask("a")
        await scene.until(lambda: scene.worker.state.entries)
        scene.ask("b")
        await scene.granted("b")
        await scene.until(lambda: scene.worker.pool.settled == set())
        assert [row["name"] for row in scene.pool()["status"]["ledger"]["inFlight"]] == ["a"]
        scene.kube.faults.remove(away)
        await scene.until(lambda: scene.pool()["status"]["ledger"]["inFlight"] == [])
        assert status(scene.lease("a"), "Allocated") == "True"


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
        await scene.until(lambda: scene.recorder.reasons().count("WriteRefused") >= 1)
        await asyncio.sleep(1)
        assert 1 <= refused_grants[0] <= 6, "no endless tries"
        await scene.until(lambda: value(scene.metrics.refusals, pool="ci") == refused_grants[0])
        await scene.until(lambda: scene.reason("a", "Allocated") == "PendingEvaluation")
        await scene.until(lambda: scene.worker.state.ledger.count("held") == 1)
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


async def test_a_stop_lets_the_writes_under_way_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leasehold.adapters.pool.writing._FAREWELL_SECONDS", 20)
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
            await asyncio.wait_for(scene.tasks["ci"], 20)


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
        assert audit(scene.worker.state) == []


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


async def test_a_grant_that_is_written_late_breaks_no_promise_on_its_room() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.faults.append(
            failing(Conflict("slow", 409), method="PUT", path=lease_path("now"), times=6)
        )
        scene.ask("now", cpu="4", durationSeconds=600)
        await scene.until(lambda: scene.worker.state.entries)
        scene.ask("later", cpu="4", startTime=soon(scene, 600.5), durationSeconds=60)
        await scene.granted("now")
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        end = scene.lease("now")["status"]["deadlines"]["expirationTime"]
        assert end <= scene.lease("later")["status"]["reservation"]["startTime"]


async def test_a_grant_that_is_written_late_ends_in_time_for_those_who_were_promised_its_room() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("later", cpu="4", startTime=soon(scene, 602), durationSeconds=60)
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        scene.kube.faults.append(
            failing(Conflict("slow", 409), method="PUT", path=lease_path("now"), times=6)
        )
        scene.ask("now", cpu="4", durationSeconds=600)
        await scene.granted("now")
        start = scene.lease("later")["status"]["reservation"]["startTime"]
        assert scene.lease("now")["status"]["deadlines"]["expirationTime"] == start
        assert scene.pool()["status"]["ledger"]["sequence"] == 2


@pytest.mark.parametrize(("late", "granted"), [(25, True), (130, False)])
async def test_a_grant_that_a_dead_operator_left_ends_in_time_for_those_who_were_promised_its_room(
    late: int, granted: bool
) -> None:
    scene = Scene(pool_document(leasePolicy={"gracePeriodSeconds": 200}))
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("later", cpu="4", startTime=soon(scene, 320), durationSeconds=60)
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        scene.kube.faults.append(failing(Unknown("away"), path=lease_path("now")))
        scene.ask("now", cpu="4", durationSeconds=100)
        await scene.until(lambda: scene.worker.state.entries)
    scene.kube.faults.clear()
    scene.clock.follow(scene.clock.now() + 1000 * late)  # time passes
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        start = scene.lease("later")["status"]["reservation"]["startTime"]
        if granted:
            await scene.granted("now")
            end = scene.lease("now")["status"]["deadlines"]["expirationTime"]
            assert parse_time(end) == parse_time(start) - 200_000
        else:
            await scene.until(lambda: scene.reason("now", "Allocated") == "RoomPromised")
            assert "fencingToken" not in scene.lease("now")["status"]


async def test_of_two_grants_that_are_written_late_together_one_takes_the_room_that_is_left() -> None:
    """Beside the promised start there is room for one of them to stay longer, and not for both."""
    both = ("first", "second")
    scene = Scene()
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("later", cpu="3", startTime=soon(scene, 110), durationSeconds=60)
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        for name in both:
            scene.kube.faults.append(failing(Unknown("away"), path=lease_path(name)))
            scene.ask(name, cpu="1", durationSeconds=100)
        await scene.until(lambda: len(scene.worker.state.entries) == 2)
    scene.kube.faults.clear()
    scene.clock.follow(scene.clock.now() + 20_000)  # time passes
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        start = scene.lease("later")["status"]["reservation"]["startTime"]
        for name in both:
            await scene.granted(name)
        ends = sorted(scene.lease(name)["status"]["deadlines"]["expirationTime"] for name in both)
    assert ends[0] == start < ends[1]


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


# --- sub-leases ---


async def a_parent(scene: Scene, name: str = "all") -> None:
    await scene.until(lambda: scene.worker.ready)
    scene.ask(name, cpu="3")
    await scene.granted(name)


def fenced(scene: Scene, name: str = "all") -> int:
    return int(scene.lease(name)["status"]["allocation"].get("ledgerEpoch", 0))


async def test_a_parent_is_written_to_once_in_an_epoch_before_anything_is_taken_out_of_it() -> None:
    async with Scene() as scene:
        await a_parent(scene)
        assert fenced(scene) == 0
        written_before = len(scene.kube.writes(lease_path("all")))
        for name in ("x", "y", "z"):
            scene.ask(name, parentRef={"name": "all"})
        for name in ("x", "y", "z"):
            await scene.granted(name)
            assert (
                scene.lease(name)["status"]["allocation"]["parentUID"]
                == scene.lease("all")["metadata"]["uid"]
            )
        assert fenced(scene) == scene.worker.pool.epoch
        assert len(scene.kube.writes(lease_path("all"))) == written_before + 1
        assert len(scene.worker.state.ledger) == 1
        assert audit(scene.worker.state) == []
        assert scene.recorder.reasons().count("ForeignWrite") == 0


async def test_a_parent_that_another_leader_ended_meanwhile_gives_nothing() -> None:
    async with Scene() as scene:
        await a_parent(scene)

        def ended(method: str, path: str, body: Any) -> Any:
            if path == f"{lease_path('all')}/status" and body["status"]["allocation"].get("ledgerEpoch"):
                scene.kube.faults.clear()
                over = {
                    "release": {"cause": "ReleaseRequested", "startTime": "2026-11-22T19:00:00Z"},
                    "conditions": [
                        {
                            "type": kind,
                            "status": told,
                            "reason": "",
                            "lastTransitionTime": "2026-11-22T19:00:00Z",
                        }
                        for kind, told in (("Allocated", "True"), ("Released", "False"))
                    ],
                }
                scene.kube.touch(lease_path("all"), {"status": over})

        scene.kube.faults.append(ended)
        scene.ask("x", parentRef={"name": "all"})
        await scene.until(
            lambda: scene.lease("x").get("status", {}).get("release", {}).get("cause") == "ParentEnded"
        )
        assert "allocation" not in scene.lease("x")["status"]


async def test_a_parent_that_is_found_to_be_gone_takes_no_child_with_it() -> None:
    async with Scene() as scene:
        await a_parent(scene)

        def gone(method: str, path: str, body: Any) -> Any:
            if path == f"{lease_path('all')}/status" and body["status"]["allocation"].get("ledgerEpoch"):
                scene.kube.faults.clear()
                del scene.kube.objects[lease_path("all")]  # and nobody was told

        scene.kube.faults.append(gone)
        scene.ask("x", parentRef={"name": "all"})
        await scene.until(lambda: scene.reason("x", "Accepted") == "ParentNotFound")
        assert len(scene.worker.state.ledger) == 0
        scene.ask("all", cpu="3")
        await scene.granted("x")


async def test_a_write_to_a_parent_without_an_answer_is_made_to_fail_before_it_gives_anything() -> None:
    async with Scene() as scene:
        await a_parent(scene)
        scene.ask("x", parentRef={"name": "all"})
        await scene.granted("x")
        parent = scene.cluster.named(("team", "all"))
        assert parent is not None
        scene.worker.fence.unanswered(parent)
        scene.ask("y", parentRef={"name": "all"})
        await scene.granted("y")
        after = scene.cluster.named(("team", "all"))
        assert after is not None
        assert after.version > parent.version
        assert fenced(scene) == scene.worker.pool.epoch
        assert not scene.worker.fence.is_unanswered(after)


# --- handovers ---


def hand(scene: Scene, identity: str, name: str = "a") -> None:
    scene.kube.touch(lease_path(name), {"spec": {"holder": {"identity": identity}}})


def told(scene: Scene, name: str = "a") -> str:
    return str(scene.lease(name)["status"]["holder"].get("identity", ""))


async def test_a_handover_is_committed_and_written_once() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", holder={"identity": "one"})
        await scene.granted("a")
        scene.kube.faults.append(lost(Unknown("504", 504), path=lease_path("a")))
        hand(scene, "two")
        await scene.until(lambda: told(scene) == "two")
        await scene.until(lambda: scene.pool()["status"]["ledger"]["inFlight"] == [])
        assert scene.lease("a")["status"]["fencingToken"] == 2
        assert scene.pool()["status"]["ledger"]["sequence"] == 2
        assert audit(scene.worker.state) == []


async def test_a_handover_that_the_api_server_refuses_leaves_the_lease_who_has_it() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", holder={"identity": "one"})
        await scene.granted("a")
        refusing = failing(Refused("no", 422), method="PUT", path=lease_path("a"))
        scene.kube.faults.append(refusing)
        hand(scene, "two")
        await scene.until(lambda: not scene.worker.state.entries and "uid" in scene.lease("a")["metadata"])
        await scene.until(lambda: scene.worker.state.aside)
        assert (told(scene), scene.lease("a")["status"]["fencingToken"]) == ("one", 1)
        assert status(scene.lease("a"), "Allocated") == "True"
        assert len(scene.worker.state.ledger) == 1
        scene.kube.faults.remove(refusing)
        await scene.until(lambda: told(scene) == "two", 10)


async def test_a_lease_that_goes_to_a_third_before_the_second_was_told_gets_another_token() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", holder={"identity": "one"})
        await scene.granted("a")

        def again(method: str, path: str, body: Any) -> Any:
            rows = (
                body["status"].get("ledger", {}).get("inFlight")
                if path == POOL_STATUS and method == "PATCH"
                else []
            )
            if rows and rows[0].get("holder") == {"identity": "two"}:
                scene.kube.faults.clear()
                hand(scene, "three")

        scene.kube.faults.append(again)
        hand(scene, "two")
        await scene.until(lambda: told(scene) == "three")
        assert scene.lease("a")["status"]["fencingToken"] == 3, "2 was for the second, who never got it"


async def test_a_first_write_to_a_parent_whose_answer_is_lost_or_that_meets_another_is_made_again() -> None:
    async with Scene() as scene:
        await a_parent(scene)
        scene.kube.faults.append(lost(Unknown("504", 504), path=lease_path("all")))
        scene.ask("x", parentRef={"name": "all"})
        await scene.granted("x")
        assert fenced(scene) == scene.worker.pool.epoch
    async with Scene() as scene:
        await a_parent(scene)
        scene.kube.faults.append(failing(Conflict("409", 409), times=1, method="PUT", path=lease_path("all")))
        scene.ask("x", parentRef={"name": "all"})
        await scene.granted("x")
        assert fenced(scene) == scene.worker.pool.epoch
        assert "ForeignWrite" not in scene.recorder.reasons()
