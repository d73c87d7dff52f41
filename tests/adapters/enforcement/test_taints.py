"""The taint on the nodes of dedicated pools: kept where it should be, taken away elsewhere, nothing else touched."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.adapters.fakes import FakeKube, failing, node_document, until

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.enforcement.taints import NodeTaints
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Unknown

OTHER = {"key": "example.com/gpu", "effect": "NoExecute"}


def taint(pool: str) -> dict[str, str]:
    return {"key": "leasehold.dev/pool", "value": pool, "effect": "NoSchedule"}


class Yard:
    """Two nodes, the second with somebody else's taint."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.cluster = Cluster(SteadyClock())
        self.wanted: dict[str, str] = {}
        self.may_write = True
        self.put("n1")
        self.put("n2", OTHER)
        self.taints = NodeTaints(
            self.kube,  # type: ignore[arg-type]
            self.cluster,
            lambda: self.wanted,
            lambda: self.may_write,
        )

    def put(self, name: str, *taints: dict[str, str]) -> None:
        document = {**node_document(name), "spec": {"taints": list(taints), "podCIDR": "10.0.0.0/24"}}
        self.cluster.node_seen(self.kube.add(paths.node(name), document))

    def on(self, name: str) -> Any:
        return self.kube.objects[paths.node(name)]["spec"].get("taints")

    def writes(self) -> list[str]:
        return [path for method, path, _ in self.kube.requests if method == "PATCH"]


async def test_the_nodes_of_a_dedicated_pool_carry_its_taint_beside_those_of_others() -> None:
    yard = Yard()
    yard.wanted = {"n1": "ci", "n2": "ci", "gone": "ci"}
    await yard.taints.write_once()
    assert (yard.on("n1"), yard.on("n2")) == ([taint("ci")], [OTHER, taint("ci")])
    assert len(yard.writes()) == 2
    await yard.taints.write_once()
    assert len(yard.kube.requests) == 4, "what is as it should be is not even read"
    assert yard.kube.objects[paths.node("n1")]["spec"]["podCIDR"] == "10.0.0.0/24"


async def test_a_node_that_goes_to_another_pool_or_to_none_has_its_taint_changed() -> None:
    yard = Yard()
    yard.put("n1", taint("old"))
    yard.put("n2", taint("old"), OTHER)
    yard.wanted = {"n1": "new"}
    await yard.taints.write_once()
    assert (yard.on("n1"), yard.on("n2")) == ([taint("new")], [OTHER])
    yard.wanted = {}
    await yard.taints.write_once()
    assert yard.on("n1") is None
    assert len(yard.writes()) == 3


async def test_a_node_without_a_spec_can_be_tainted() -> None:
    yard = Yard()
    yard.cluster.node_seen(yard.kube.add(paths.node("n3"), node_document("n3")))
    yard.wanted = {"n3": "ci"}
    await yard.taints.write_once()
    assert yard.on("n3") == [taint("ci")]


async def test_a_taint_that_comes_in_between_is_not_overwritten() -> None:
    yard = Yard()
    yard.wanted = {"n1": "ci"}
    added = []

    def somebody_else(method: str, path: str, body: Any) -> None:
        if method == "PATCH" and not added:
            added.append(yard.kube.touch(paths.node("n1"), {"spec": {"taints": [OTHER]}}))

    yard.kube.faults.append(somebody_else)
    await yard.taints.write_once()
    assert yard.on("n1") == [OTHER]
    await yard.taints.write_once()
    assert yard.on("n1") == [OTHER, taint("ci")]


async def test_one_that_fails_is_tried_next_time_and_holds_up_no_other() -> None:
    yard = Yard()
    yard.wanted = {"n1": "ci", "n2": "ci"}
    yard.kube.faults.append(failing(Unknown("504", 504), times=1, method="GET", path=paths.node("n1")))
    yard.taints.pause = 0.01
    task = asyncio.create_task(yard.taints.run())
    await until(lambda: yard.on("n1") == [taint("ci")] and yard.on("n2") == [OTHER, taint("ci")])
    task.cancel()
    assert yard.writes() == [paths.node("n2"), paths.node("n1")]


async def test_nothing_is_written_without_the_right_to_lead() -> None:
    yard = Yard()
    yard.wanted = {"n1": "ci"}
    yard.may_write = False
    await yard.taints.write_once()
    assert yard.kube.requests == []
