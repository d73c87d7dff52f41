"""The pool's own object: compare-and-swap, the epoch, and commits of which nobody knows whether they happened."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from tests.adapters.fakes import (
    POOL_STATUS,
    Scene,
    failing,
    lease_document,
    lease_path,
    lost,
    reason,
    status,
    value,
)

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError, Busy, Conflict, Refused, Unknown
from leasehold.adapters.pool.object import Deposed
from leasehold.adapters.pool.worker import PoolWorker
from leasehold.core.outages import Outage
from leasehold.core.times import format_time


@pytest.mark.parametrize("error", [Conflict("c", 409), Unknown("u", 504), Busy("b", 429), Refused("r", 403)])
async def test_a_take_over_that_fails_is_tried_again(error: ApiError) -> None:
    scene = Scene()
    scene.kube.faults.append(failing(error, times=2, path=POOL_STATUS))
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")


async def test_a_take_over_succeeds_while_an_earlier_leader_is_busy_and_no_watch_tells() -> None:
    """It goes by what was read just now, not by what was read before a pause."""
    scene = Scene()

    async def commit_often() -> None:
        for i in itertools.count():
            scene.kube.touch(paths.pool("ci"), {"status": {"ledger": {"epoch": 1, "sequence": i}}})
            await asyncio.sleep(0.02)

    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.watchers.clear()
        rival = asyncio.create_task(commit_often())
        try:
            scene.kube.requests.clear()
            await asyncio.wait_for(
                scene.worker.pool.until_done(scene.worker.pool.raise_epoch, "take-over"), 5
            )
        finally:
            rival.cancel()
        assert scene.worker.pool.epoch == 2
        assert len(scene.kube.writes(POOL_STATUS)) <= 3


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
        await scene.until(lambda: "capacity" in scene.pool().get("status", {}))  # no other swap is on its way
        scene.kube.faults.append(failing(Unknown("504", 504), times=1, path=POOL_STATUS))
        scene.ask("a")
        await scene.granted("a")
    assert scene.pool()["status"]["ledger"]["sequence"] == 2


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


async def test_a_higher_epoch_seen_in_the_watch_deposes() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.touch(paths.pool("ci"), {"status": {"ledger": {"epoch": 9}}})
        with pytest.raises(Deposed, match="epoch 9, ours is 1"):
            await asyncio.wait_for(scene.tasks["ci"], 20)
    assert all(body["status"]["ledger"]["epoch"] == 1 for body in scene.kube.writes(POOL_STATUS))


async def test_a_higher_epoch_found_out_by_a_conflict_deposes() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.watchers.clear()
        scene.kube.touch(paths.pool("ci"), {"status": {"ledger": {"epoch": 9}}})
        scene.cluster.changed("ADDED", scene.kube.add(lease_path("a"), lease_document("a")))
        with pytest.raises(Deposed):
            await asyncio.wait_for(scene.tasks["ci"], 20)
    assert scene.kube.writes(lease_path("a")) == []


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
        await asyncio.wait_for(scene.tasks["ci"], 20)
    assert paths.pool("ci") not in scene.kube.objects


async def test_nothing_is_written_once_the_right_to_lead_ran_out() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        await scene.until(lambda: not scene.worker.writing.tasks)
        scene.right.is_valid = False
        scene.kube.requests.clear()
        scene.ask("b")
        with pytest.raises(Deposed, match="ran out"):
            await asyncio.wait_for(scene.tasks.pop("ci"), 5)
        assert [row for row in scene.kube.requests if row[0] != "GET"] == []


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
        scene.ask("a")
        await scene.granted("a")
        scene.worker.pool.outage_over(Outage(now + 1000, now + 5000))
        await scene.until(lambda: len(scene.pool()["status"]["ledger"]["outages"]) == 2)
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        assert len(scene.worker.pool.outages) == 2, "the next leader reads them"


async def test_an_outage_of_a_pool_that_nobody_holds_anything_of_is_written_with_the_next_grant() -> None:
    async with Scene() as scene:
        await scene.until(lambda: status(scene.pool(), "LedgerConsistent") == "True")
        await scene.until(lambda: not scene.worker.pool.due)
        now = scene.clock.now()
        scene.kube.requests.clear()
        scene.worker.pool.outage_over(Outage(now - 5000, now))
        await scene.until(lambda: not scene.worker.pool.due)
        assert scene.kube.writes(POOL_STATUS) == []
        scene.ask("a")
        await scene.granted("a")
        commit = scene.kube.writes(POOL_STATUS)[0]["status"]["ledger"]
        assert [row["name"] for row in commit["inFlight"]] == ["a"]
        assert [row["endTime"] for row in commit["outages"]] == [format_time(now)]
        scene.worker.pool.outage_over(Outage(now + 1000, now + 5000))
        await scene.until(lambda: len(scene.pool()["status"]["ledger"]["outages"]) == 2)


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
