"""What is heard: of other leaders, of our own writes, and of those who write what is ours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.adapters.fakes import (
    Scene,
    failing,
    gate_document,
    lease_path,
    lost,
    node_document,
    pod_path,
    pool_document,
    reason,
    soon,
    status,
    value,
)

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Busy, Unknown
from leasehold.adapters.pool.object import Deposed
from leasehold.adapters.pool.worker import PoolWorker
from leasehold.core.times import format_time


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
    scene.lead(other)
    fault = failing(Unknown("slow"), path=paths.pool("other"))
    scene.kube.faults.append(fault)
    async with scene:
        scene.ask("a")
        await scene.until(lambda: scene.reason("a", "Allocated") != "")
        assert status(scene.lease("a"), "Allocated") == "False"
        scene.kube.faults.remove(fault)
        await scene.until(lambda: scene.workers["other"].ready)
        scene.workers["ci"].news.node_changed("n1")
        await scene.granted("a")


async def test_an_echo_of_our_own_write_is_not_planned_again() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        await scene.until(lambda: not (scene.worker.pool.due or scene.worker.pool.settled))
        await asyncio.sleep(0.6)
        passes = scene.worker.passes
        scene.cluster.changed("MODIFIED", scene.lease("a"))
        await asyncio.sleep(0.05)
        assert scene.worker.passes == passes


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


async def test_our_own_write_that_arrives_after_it_was_looked_for_is_no_foreign_one() -> None:
    terms = {"gracePeriodSeconds": 600, "warnBeforeSeconds": []}
    async with Scene(pool_document(leasePolicy=terms)) as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", durationSeconds=600)
        await scene.granted("a")
        await scene.until(lambda: not scene.worker.state.entries)
        late: list[Any] = []

        def delayed(method: str, path: str, body: Any) -> Any:
            if method == "PUT" and lease_path("a") in path:
                late.append(body)
                return Unknown("504", 504)
            return None

        for _ in range(3):
            scene.kube.faults.append(delayed)
            scene.kube.touch(lease_path("a"), {"spec": {"renewTime": format_time(scene.clock.now())}})
            await scene.until(lambda: late and not scene.worker.state.busy)
            scene.kube.faults.clear()
            await scene.kube.replace_status(lease_path("a"), late.pop())
            await scene.until(lambda: not scene.worker.state.attention and not scene.worker.state.busy)
            await asyncio.sleep(1.1)  # another renewal is known by its second
        assert value(scene.metrics.foreign_writes, pool="ci") == 0


async def test_a_lease_that_a_later_leader_fenced_deposes() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        scene.kube.touch(lease_path("a"), {"status": {"allocation": {"ledgerEpoch": 9}}})
        with pytest.raises(Deposed, match="epoch 9"):
            await asyncio.wait_for(scene.tasks.pop("ci"), 5)


async def test_a_lease_that_is_over_says_nothing_about_who_leads_the_pool() -> None:
    async with Scene() as scene:  # the pool may have been made anew under its name since, and counts from 1
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        scene.kube.touch(lease_path("a"), {"spec": {"desiredState": "Released"}})
        await scene.until(lambda: status(scene.lease("a"), "Finished") == "True")
        scene.kube.touch(lease_path("a"), {"status": {"allocation": {"ledgerEpoch": 9}}})
        assert scene.worker.pool.failure is None
        scene.ask("b")
        await scene.granted("b")


# --- pods ---


def told(scene: Scene, name: str) -> str:
    return reason(scene.pod(name), "leasehold.dev/Leased")


async def test_a_pod_waits_for_its_lease_runs_under_it_and_ends_with_it() -> None:
    async with Scene(gate_document()) as scene:
        scene.start("w", cpu="2")
        assert scene.cluster.strays == {("team", "a")}, "its lease is not there yet"
        scene.ask("a", cpu="2")
        await scene.granted("a")
        await scene.until(lambda: not scene.is_gated("w"))
        assert scene.reason("a", "Claimed") == "WaitingForPods"
        scene.bind("w")
        await scene.until(lambda: scene.reason("a", "Claimed") == "PodBound")
        scene.kube.touch(lease_path("a"), {"spec": {"desiredState": "Released"}})
        await scene.until(lambda: scene.is_leaving("w"))
        assert scene.reason("a", "Released") == "PodsLeaving"
        assert scene.worker.state.ledger.count("releasing") == 1
        scene.kube.remove(pod_path("w"))
        await scene.until(lambda: scene.reason("a", "Finished") == "Released")
        scene.start("late")
        await scene.until(lambda: told(scene, "late") == "LeaseEnded")
        assert scene.is_gated("late")


async def test_a_pod_of_a_waiting_lease_is_told_so_and_let_go_with_the_grant() -> None:
    async with Scene(gate_document()) as scene:
        scene.ask("a", cpu="4")
        await scene.granted("a")
        scene.ask("b", cpu="4")
        scene.start("w", "b", cpu="4")
        await scene.until(lambda: told(scene, "w") == "LeasePending")
        scene.kube.touch(lease_path("a"), {"spec": {"desiredState": "Released"}})
        await scene.until(lambda: told(scene, "w") == "Admitted")
        assert not scene.is_gated("w")


async def test_a_lease_is_given_back_when_its_pods_are_done_and_gone() -> None:
    async with Scene(gate_document()) as scene:
        scene.ask("a", podCompletionAction="Release")
        await scene.granted("a")
        scene.start("w")
        await scene.until(lambda: not scene.is_gated("w"))
        scene.bind("w")
        ended = {"name": "main", "state": {"terminated": {"finishedAt": soon(scene, 0)}}}
        # It is removed before anybody has looked at what it came to.
        scene.kube.touch(pod_path("w"), {"status": {"phase": "Succeeded", "containerStatuses": [ended]}})
        scene.kube.remove(pod_path("w"))
        await scene.until(
            lambda: scene.lease("a")["status"].get("release", {}).get("cause") == "PodsComplete"
        )
        assert scene.reason("a", "Finished") == "Released"


async def test_pods_are_looked_at_anew_when_the_pool_has_other_rules_for_them() -> None:
    async with Scene(gate_document()) as scene:
        scene.ask("a")
        await scene.granted("a")
        scene.start("w", cpu="3")
        await scene.until(lambda: told(scene, "w") == "ExceedsLease")
        scene.kube.touch(lease_path("a"), {"spec": {"desiredState": "Released"}})
        await scene.until(lambda: told(scene, "w") == "LeaseEnded")
        scene.kube.touch(paths.pool("ci"), {"spec": {"enforcement": {"strayPodAction": "Fail"}}})
        await scene.until(lambda: scene.pod("w")["status"]["phase"] == "Failed")


async def test_a_release_waits_for_a_pod_that_may_be_bound_any_moment() -> None:
    async with Scene(gate_document()) as scene:
        scene.ask("a")
        await scene.granted("a")
        scene.start("w")
        await scene.until(lambda: not scene.is_gated("w"))
        fault = failing(Busy("a budget", 429), method="POST", path="/eviction")
        scene.kube.faults.append(fault)
        scene.kube.touch(lease_path("a"), {"spec": {"desiredState": "Released"}})
        await scene.until(lambda: scene.reason("a", "Released") == "PodsLeaving")
        await scene.until(lambda: "EvictionRefused" in scene.recorder.reasons())
        await scene.until(lambda: not scene.worker.state.busy and not scene.worker.state.attention)
        scene.kube.remove(pod_path("w"))
        await scene.until(lambda: scene.reason("a", "Finished") == "Released")


async def test_an_advisory_pool_lets_pods_go_and_takes_no_notice_of_them() -> None:
    async with Scene() as scene:
        scene.ask("a")
        await scene.granted("a")
        scene.start("w", cpu="3")
        await scene.until(lambda: not scene.is_gated("w"))
        scene.bind("w")
        scene.start("plain", None, cpu="3", node="n1")
        scene.ask("b", cpu="3")
        await scene.granted("b")
        scene.kube.touch(lease_path("a"), {"spec": {"desiredState": "Released"}})
        await scene.until(lambda: scene.reason("a", "Finished") == "Released")
        assert not scene.is_leaving("w")


async def test_pods_that_wait_are_looked_at_by_whoever_begins_to_lead() -> None:
    scene = Scene(gate_document())
    async with scene:
        scene.ask("a")
        await scene.granted("a")
        await scene.until(lambda: not scene.worker.state.busy)
    scene.start("w")
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.until(lambda: not scene.is_gated("w"))


@pytest.mark.parametrize("later", [True, False])
async def test_the_room_of_leases_without_pods_is_held_where_the_pool_says_so(later: bool) -> None:
    async with Scene(gate_document(mode="Gate" if later else "Placeholder")) as scene:
        scene.ask("a")
        await scene.granted("a")
        if later:
            scene.kube.touch(paths.pool("ci"), {"spec": {"enforcement": {"mode": "Placeholder"}}})
        uid = scene.lease("a")["metadata"]["uid"]
        placeholder = paths.pod("leasehold-system", f"hold-{uid}-0-0")
        await scene.until(lambda: placeholder in scene.kube.objects)
        scene.kube.touch(lease_path("a"), {"spec": {"desiredState": "Released"}})
        await scene.until(lambda: placeholder not in scene.kube.objects)


async def test_a_keeper_that_fails_ends_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(gate_document())

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(scene.worker.keeper._writing, "write", broken)
    async with scene:
        scene.ask("a")
        scene.start("w")
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(scene.tasks.pop("ci"), 5)


async def test_pods_are_left_alone_by_whoever_may_lead_no_more() -> None:
    async with Scene(gate_document()) as scene:
        scene.ask("a")
        await scene.granted("a")
        pool, writing = scene.worker.pool, scene.worker.writing
        await scene.until(
            lambda: not (pool.due or pool.settled or writing.tasks)
        )  # or one of these would depose it
        scene.right.is_valid = False
        scene.start("w")
        await asyncio.sleep(0.05)
        assert scene.is_gated("w")
        scene.right.is_valid = True
        await scene.until(lambda: not scene.is_gated("w"))
