"""The pool's status: soon when people would notice, seldom when only figures drift."""

from __future__ import annotations

import asyncio

import pytest
from tests.adapters.fakes import (
    POOL_STATUS,
    Scene,
    failing,
    reason,
    report_document,
)

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Conflict


async def test_figures_that_only_drift_are_written_seldom_but_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("leasehold.adapters.pool.publisher._LAZY", 800)
    async with Scene() as scene:
        await scene.until(lambda: "capacity" in scene.pool().get("status", {}))
        await asyncio.sleep(0.3)
        scene.kube.requests.clear()
        for _ in range(5):
            used = report_document("n1", at=scene.clock.now(), cpu="1")
            scene.cluster.report_seen(scene.kube.add(paths.report("n1"), used))
            await asyncio.sleep(0.02)
        await scene.until(lambda: scene.pool()["status"]["capacity"][0]["free"] == "3")
        assert len(scene.kube.writes(POOL_STATUS)) == 1


async def test_a_status_that_was_not_written_is_written_later() -> None:
    async with Scene() as scene:
        await scene.until(lambda: "capacity" in scene.pool().get("status", {}))
        scene.kube.faults.append(failing(Conflict("409", 409), times=1, path=POOL_STATUS))
        scene.cluster.node_gone("n1")
        await scene.until(lambda: reason(scene.pool(), "Ready") == "NoNodes")
