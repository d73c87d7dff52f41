"""One request about one lease, and what is told to the memory of the cluster."""

from __future__ import annotations

from typing import Any

from tests.adapters.fakes import (
    Scene,
    lease_document,
    lease_path,
)

from leasehold.core.lease import lease_of


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


async def test_a_name_that_was_taken_by_another_lease_meanwhile() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        first = lease_of(scene.ask("a"))
        await scene.granted("a")
        scene.kube.watchers.clear()
        scene.kube.remove(lease_path("a"))
        scene.kube.add(lease_path("a"), lease_document("a"))
        await scene.worker.leases.refresh(first)
        await scene.granted("a")
        assert first.uid not in scene.worker.state.leases
