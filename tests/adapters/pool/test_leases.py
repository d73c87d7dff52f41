"""One request about one lease, and what is told to the memory of the cluster."""

from __future__ import annotations

from typing import Any

import pytest
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


def asked(scene: Scene, method: str, path: str) -> int:
    return sum(found == method and at == path for found, at, _ in scene.kube.requests)


async def test_a_list_reads_only_what_is_not_known_in_that_version() -> None:
    async with Scene() as scene:
        for name in "abc":
            scene.ask(name)
        for name in "abc":
            await scene.granted(name)
        await scene.until(lambda: not scene.worker.writing.tasks)
        scene.kube.watchers.clear()  # from now on nothing is heard
        scene.kube.touch(lease_path("b"), {"metadata": {"labels": {"new": "label"}}})
        scene.kube.remove(lease_path("c"))
        scene.kube.add(lease_path("d"), lease_document("d"))
        scene.kube.requests.clear()
        found, _ = await scene.worker.leases.list_leases()
        assert sorted(lease.name for lease in found) == ["a", "b", "d"]
        latest = {lease.name: str(lease.version) for lease in found}
        assert latest == {
            name: scene.kube.objects[lease_path(name)]["metadata"]["resourceVersion"] for name in "abd"
        }
        assert [asked(scene, "GET", lease_path(name)) for name in "abd"] == [0, 1, 1]


async def test_a_lease_that_goes_while_a_list_is_read_is_not_in_it() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.watchers.clear()
        scene.kube.add(lease_path("a"), lease_document("a"))
        scene.kube.add(lease_path("b"), lease_document("b"))

        def goes(method: str, path: str, body: Any) -> Any:
            if method == "GET" and path == lease_path("a") and path in scene.kube.objects:
                scene.kube.remove(path)
            if method == "GET" and path == lease_path("b"):
                scene.kube.remove(path)
                scene.kube.add(path, lease_document("b"))  # another one of its name
                scene.kube.faults.clear()
            return None

        scene.kube.faults.append(goes)
        found, _ = await scene.worker.leases.list_leases()
        assert found == []


async def test_where_much_is_new_all_is_listed_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leasehold.adapters.pool.leases._FEW", 2)
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.watchers.clear()
        for name in "abc":
            scene.kube.add(lease_path(name), lease_document(name))
        scene.kube.requests.clear()
        found, _ = await scene.worker.leases.list_leases()
        assert sorted(lease.name for lease in found) == ["a", "b", "c"]
        # The worker may still say what its pool is like.
        assert [method for method, _, _ in scene.kube.requests if method != "PATCH"] == ["LIST", "LIST"]
