"""Pods whose lease, or whose lease's pool, does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.adapters.fakes import (
    FakeKube,
    FakeRight,
    Object,
    Replica,
    condition,
    lease_document,
    lease_path,
    pod_path,
    reason,
    until,
    waiting_pod,
)
from tests.builders import granted, make_lease

from leasehold.adapters.enforcement.strays import StrayKeeper

CONDITION = "leasehold.dev/Leased"


class Shelter(Replica):
    def __init__(self) -> None:
        super().__init__(FakeKube())
        self.right = FakeRight()
        self.pools: set[str] = set()
        self.strays = StrayKeeper(self.tools, lambda: self.pools, self.right.valid)

    def pool_heard(self, kind: str, document: Object) -> None:
        raise AssertionError("there is none")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.strays.run())
        yield
        assert not task.done(), task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def pod(self, name: str = "worker", lease: str = "build", **how: Any) -> Object:
        return self.kube.add(pod_path(name), waiting_pod(name, lease, **how))

    def ask(self, name: str = "build", pool: str = "ci") -> Object:
        return self.kube.add(lease_path(name), lease_document(name, pool))

    def told(self, name: str = "worker") -> str:
        return reason(self.kube.objects[pod_path(name)], CONDITION)

    async def rest(self) -> None:
        """Return when nothing is asked of the API server any more."""
        quiet = 0
        while quiet < 20:
            before = len(self.kube.requests)
            await asyncio.sleep(0)
            quiet = quiet + 1 if before == len(self.kube.requests) else 0


async def test_a_pod_whose_lease_does_not_exist_is_told_once() -> None:
    shelter = Shelter()
    async with shelter.running():
        shelter.pod(lease="buidl")
        await until(lambda: shelter.told() == "LeaseNotFound")
        shelter.kube.touch(pod_path("worker"), {"metadata": {"annotations": {"a": "b"}}})
        await shelter.rest()
    assert "'buidl'" in condition(shelter.kube.objects[pod_path("worker")], CONDITION)["message"]
    assert shelter.recorder.reasons() == ["LeaseNotFound"]
    assert len(shelter.kube.requests) == 1


async def test_pods_that_were_there_before_are_looked_at_too() -> None:
    shelter = Shelter()
    shelter.pod()
    shelter.cluster.strays.clear()
    shelter.cluster.stray_news.clear()
    async with shelter.running():
        await until(lambda: shelter.told() == "LeaseNotFound")


async def test_a_pod_is_told_that_its_lease_waits_for_a_pool() -> None:
    shelter = Shelter()
    async with shelter.running():
        shelter.pod()
        await until(lambda: shelter.told() == "LeaseNotFound")
        shelter.ask(pool="nowhere")
        await until(lambda: shelter.told() == "LeasePending")
        shelter.kube.touch(
            lease_path("build"),
            {"status": {"conditions": [{"type": "Accepted", "status": "False", "reason": "PoolNotFound"}]}},
        )
        await until(
            lambda: (
                "PoolNotFound" in condition(shelter.kube.objects[pod_path("worker")], CONDITION)["message"]
            )
        )


async def test_pods_of_a_pool_that_exists_are_its_own_business() -> None:
    shelter = Shelter()
    shelter.pools = {"ci"}
    shelter.ask()
    async with shelter.running():
        shelter.pod()
        await shelter.rest()
        assert shelter.kube.requests == []
        shelter.kube.remove(lease_path("build"))
        await until(lambda: shelter.told() == "LeaseNotFound")
        shelter.kube.requests.clear()
        shelter.ask()
        shelter.kube.touch(pod_path("worker"), {"metadata": {"labels": {"x": "y"}}})
        await shelter.rest()
    assert shelter.kube.requests == []


async def test_a_pod_that_outlives_its_lease_runs_on_and_is_told() -> None:
    shelter = Shelter()
    shelter.pools = {"ci"}
    lease = granted(make_lease())
    shelter.ask()
    async with shelter.running():
        shelter.pod(given=(lease, 0), node="node-1")
        shelter.kube.remove(lease_path("build"))
        await until(lambda: shelter.told() == "OutsideLease")
        await shelter.rest()
    assert [method for method, _, _ in shelter.kube.requests] == ["PATCH"], "it is not evicted"


async def test_nothing_is_told_without_the_right_to_lead() -> None:
    shelter = Shelter()
    shelter.right.is_valid = False
    async with shelter.running():
        shelter.pod()
        await shelter.rest()
    assert shelter.kube.requests == []
