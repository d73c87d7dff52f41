"""The round of a worker: taking over, adopting, committing what was planned, and the sweep."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.adapters.fakes import (
    POOL_STATUS,
    Scene,
    failing,
    lease_document,
    lease_path,
    pool_document,
    reason,
    soon,
    status,
    value,
)

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError, Unknown
from leasehold.adapters.pool.worker import PoolWorker
from leasehold.core.audit import audit
from leasehold.core.holds import displaced
from leasehold.core.lease import Lease
from leasehold.core.state import PoolState
from leasehold.core.times import parse_time


def held_document(name: str, *, token: int, cpu: str = "1") -> Any:
    """A lease that an earlier operator granted, on n1, until long after this test."""
    held = lease_document(name, cpu=cpu)
    held["status"] = {
        "conditions": [{"type": "Allocated", "status": "True", "reason": "Granted"}],
        "fencingToken": token,
        "deadlines": {"expirationTime": "2126-11-22T19:00:00Z"},
        "allocation": {
            "ledgerSequence": token,
            "allocationTime": "2026-11-22T19:00:00Z",
            "slices": [{"index": 0, "nodeName": "n1", "resources": {"cpu": cpu}}],
        },
    }
    return held


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
    assert len(leases) == 1
    assert len({ledger["sequence"] for ledger in commits}) == 1, "one that publishes meanwhile names it again"
    assert leases[0]["metadata"]["resourceVersion"]
    assert [row["name"] for row in commits[0]["inFlight"]] == ["a"]
    assert commits[0]["sequence"] == leases[0]["status"]["fencingToken"] == 1


async def test_the_epoch_is_raised_before_the_leases_are_listed() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
    order = [
        "epoch" if method == "PATCH" and path == POOL_STATUS else method
        for method, path, _ in scene.kube.requests
        if path.startswith((POOL_STATUS, paths.LEASES))
    ]
    assert order[:2] == ["epoch", "LIST"]


async def test_a_take_over_of_a_pool_that_is_gone_ends() -> None:
    scene = Scene()
    scene.kube.remove(paths.pool("ci"))
    async with scene:
        with pytest.raises(ApiError, match="no /apis"):
            await scene.tasks["ci"]


async def test_a_take_over_books_no_lease_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    booked: Counter[tuple[str, int]] = Counter()
    book = PoolState._book

    def counted(self: PoolState, lease: Lease) -> None:
        booked[lease.name, lease.version] += 1
        book(self, lease)

    monkeypatch.setattr(PoolState, "_book", counted)
    scene = Scene()
    for i in range(3):
        scene.kube.add(lease_path(f"held{i}"), held_document(f"held{i}", token=i + 1))
    scene.ask("waits", cpu="4")
    there = {(lease.name, lease.version) for lease in scene.cluster.leases["ci"].values()}
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        assert {lease: booked[lease] for lease in there} == dict.fromkeys(there, 1)
        await scene.until(lambda: scene.reason("waits", "Allocated") == "WaitingForCapacity")
        assert audit(scene.worker.state) == []


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "unheard"])
async def test_a_spec_that_changes_between_join_and_take_over_is_what_the_books_are_made_for(
    heard: bool,
) -> None:
    scene = Scene(nodes=2)
    held = scene.kube.add(lease_path("held"), held_document("held", token=1))["metadata"]["uid"]
    scene.worker.join()
    before = scene.worker.state.calendar.held[held].until
    scene.kube.touch(f"{paths.NODES}/n2", {"metadata": {"labels": {"disk": "fast"}}})
    scene.cluster.node_seen(scene.kube.objects[f"{paths.NODES}/n2"])
    if not heard:
        scene.kube.watchers.clear()
    spec = {"nodeSelector": {"matchLabels": {"disk": "fast"}}, "leasePolicy": {"gracePeriodSeconds": 600}}
    scene.kube.touch(paths.pool("ci"), {"spec": spec})
    scene.tasks["ci"] = asyncio.create_task(scene.worker.run())
    try:
        await scene.until(lambda: scene.worker.ready)
        assert scene.worker.state.calendar.held[held].until == before + 600_000
        assert scene.worker.state.table.rows.keys() == {"n2"}
        assert audit(scene.worker.state) == []
        scene.cluster.changed("ADDED", scene.ask("a"))
        await scene.granted("a")
        assert scene.lease("a")["status"]["allocation"]["slices"][0]["nodeName"] == "n2"
    finally:
        await scene.__aexit__()


async def test_tokens_go_on_above_those_that_leases_still_carry() -> None:
    scene = Scene()
    scene.kube.add(lease_path("old"), held_document("old", token=17))
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
    assert scene.lease("a")["status"]["fencingToken"] == 18


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


async def test_a_promised_start_is_committed_told_and_kept() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("later", cpu="3", startTime=(start := soon(scene, 300)))
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        kept = scene.lease("later")["status"]["reservation"]
        assert (kept["startTime"], kept["ledgerSequence"]) == (start, 1)
        scene.ask("long", cpu="3")
        await scene.until(lambda: scene.reason("long", "Allocated") == "RoomPromised")
        scene.clock.follow(parse_time(start))
        scene.worker.mark()
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
        assert audit(next_one.state) == []


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
        await scene.granted("urgent")
        words = [reason(body, "Allocated") for body in scene.kube.writes(lease_path("urgent"))]
        assert "WaitingForVictims" in words
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
        assert displaced(scene.worker.state).keys() == {scene.lease("held")["metadata"]["uid"]}
        scene.kube.touch(paths.pool("ci"), {"spec": {"queueing": {"maxPending": 77}}})
        await scene.until(lambda: scene.worker.state.policy.max_pending == 77)
        await asyncio.sleep(0.1)
        assert displaced(scene.worker.state).keys() == {scene.lease("held")["metadata"]["uid"]}
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


async def test_a_promised_lease_that_is_given_up_does_not_end_the_worker() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("later", cpu="3", startTime=soon(scene, 3600))
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        scene.kube.touch(lease_path("later"), {"spec": {"desiredState": "Released"}})
        await scene.until(lambda: scene.reason("later", "Finished") == "Released")
