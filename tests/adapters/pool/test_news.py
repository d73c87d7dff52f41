"""What is heard: of other leaders, of our own writes, and of those who write what is ours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.adapters.fakes import (
    Scene,
    failing,
    lease_path,
    lost,
    node_document,
    pool_document,
    status,
    value,
)

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Unknown
from leasehold.adapters.pool.object import Deposed
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
