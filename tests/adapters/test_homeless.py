"""Leases whose pool does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.adapters.fakes import (
    FakeKube,
    FakeRecorder,
    condition,
    failing,
    lease_document,
    lease_path,
    reason,
    status,
)
from tests.adapters.test_routing import Led

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.homeless import HomelessWorker
from leasehold.adapters.kube.errors import Conflict, Refused, Unknown
from leasehold.adapters.routing import Router


class House:
    def __init__(self) -> None:
        self.kube = FakeKube()
        self.clock = SteadyClock()
        self.cluster = Cluster(self.clock)
        self.kube.watchers.append(self.cluster.changed)
        self.recorder = FakeRecorder()
        self.led: list[Led] = []
        self.router = Router(self.clock, lambda: self.led)
        self.pools: set[str] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HomelessWorker]:
        worker = HomelessWorker(
            self.kube,  # type: ignore[arg-type]
            self.clock,
            self.cluster,
            lambda: self.pools,
            self.router,
            self.recorder,  # type: ignore[arg-type]
        )
        task = asyncio.create_task(worker.run())
        yield worker
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def ask(self, name: str = "a", *, held: bool = False, **more: object) -> None:
        document = lease_document(name, "none", **more)
        if document["spec"]["poolRef"] is None:
            del document["spec"]["poolRef"]
        if held:
            slices = [{"index": 0, "nodeName": "n1", "resources": {"cpu": "1"}}]
            document["status"] = {
                "conditions": [{"type": "Allocated", "status": "True", "reason": "Granted"}],
                "fencingToken": 1,
                "allocation": {"ledgerSequence": 1, "slices": slices},
            }
        self.kube.add(lease_path(name), document)

    async def until(self, test: object, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not test():  # type: ignore[operator]
                await asyncio.sleep(0.002)

    def lease(self, name: str = "a") -> dict[str, Any]:
        return self.kube.objects[lease_path(name)]


async def test_a_waiting_lease_hears_it_once() -> None:
    house = House()
    house.ask()
    async with house.running():
        await house.until(lambda: reason(house.lease(), "Accepted") == "PoolNotFound")
        await asyncio.sleep(0.05)
        house.kube.touch(lease_path("a"), {"metadata": {"labels": {"a": "b"}}})
        await asyncio.sleep(0.05)
    assert len(house.kube.writes(lease_path("a"))) == 1


async def test_a_lease_that_held_something_is_ended_and_removed_in_time() -> None:
    house = House()
    house.ask(held=True, ttlSecondsAfterFinished=0)
    async with house.running():
        await house.until(lambda: lease_path("a") not in house.kube.objects)


async def test_a_lease_is_kept_for_its_ttl() -> None:
    house = House()
    house.ask(held=True, ttlSecondsAfterFinished=1)
    async with house.running():
        await house.until(lambda: status(house.lease(), "Finished") == "True")
        assert lease_path("a") in house.kube.objects
        await house.until(lambda: lease_path("a") not in house.kube.objects)


async def test_a_deleted_lease_may_go() -> None:
    house = House()
    house.ask()
    async with house.running():
        house.kube.touch(lease_path("a"), {"metadata": {"deletionTimestamp": "2026-11-22T19:00:00Z"}})
        await house.until(lambda: lease_path("a") not in house.kube.objects)


async def test_a_pool_that_appears_takes_its_leases_over() -> None:
    house = House()
    house.pools = {"none"}
    house.ask()
    async with house.running():
        await asyncio.sleep(0.05)
    assert house.kube.requests == []


async def test_what_fails_is_tried_again_and_holds_up_nobody() -> None:
    house = House()
    for name, error in (("a", Conflict("409", 409)), ("b", Refused("422", 422)), ("c", Unknown("504", 504))):
        house.kube.faults.append(failing(error, times=2, path=lease_path(name)))
        house.ask(name)
    house.ask("d")
    async with house.running() as worker:
        for name in "abcd":
            await house.until(lambda name=name: reason(house.lease(name), "Accepted") == "PoolNotFound")
        assert len(house.kube.writes(lease_path("b"))) == 3
        await house.until(lambda: len(worker.pauses) == 0)


async def test_a_lease_that_is_gone_is_forgotten() -> None:
    house = House()
    house.ask()
    house.kube.watchers.clear()
    house.kube.remove(lease_path("a"))
    async with house.running():
        await house.until(lambda: not house.cluster.leases["none"])


# --- leases that leave the choice of the pool to the operator ---

ANY_FAST: dict[str, Any] = {"poolRef": None, "poolSelector": {"matchLabels": {"tier": "fast"}}}


def led(house: House, name: str, **labels: str) -> Led:
    pool = Led(name, **labels)
    pool.rehearsal.state.namespaces = {}
    house.led.append(pool)
    house.pools.add(name)
    return pool


async def test_a_pool_is_chosen_and_the_lease_says_which_and_why() -> None:
    house = House()
    led(house, "a").holding("16")
    led(house, "b")
    house.ask(**ANY_FAST)
    async with house.running():
        await house.until(lambda: house.lease()["spec"].get("poolRef") == {"name": "b"})
        await house.until(lambda: "PoolChosen" in house.recorder.reasons())
    assert condition(house.lease(), "Accepted")["reason"] == "PoolChosen"
    assert condition(house.lease(), "Accepted")["message"].startswith(
        "Pool b of 2 matching pools: it can start"
    )
    assert list(house.cluster.leases["b"]) == [house.lease()["metadata"]["uid"]]
    first, second = house.kube.writes(lease_path("a"))
    assert ("status" in first, list(second)) == (True, ["metadata", "spec"])


async def test_a_choice_that_was_interrupted_between_its_two_writes_is_finished() -> None:
    house = House()
    led(house, "a")
    house.ask(**ANY_FAST)
    house.kube.faults.append(failing(Unknown("504", 504), times=1, path=f"{lease_path('a')}"))
    crash = [1]

    def second_write(method: str, path: str, body: Any) -> Any:
        if method == "PATCH" and "spec" in body and crash[0]:
            crash[0] = 0
            return Unknown("crashed", 504)
        return None

    house.kube.faults.append(second_write)
    async with house.running():
        await house.until(lambda: not crash[0])
    assert condition(house.lease(), "Accepted")["reason"] == "PoolChosen"
    assert "poolRef" not in house.lease()["spec"]
    house.cluster.homeless.add(str(house.lease()["metadata"]["uid"]))
    house.cluster.homeless_news.set()
    async with house.running():
        await house.until(lambda: house.lease()["spec"].get("poolRef") == {"name": "a"})
    statuses = [body for body in house.kube.writes(lease_path("a")) if "status" in body]
    assert len(statuses) == 2, (
        "one that failed, one that was done; what it reads already is not written again"
    )


async def test_a_lease_that_no_pool_takes_hears_why_and_is_looked_at_again(monkeypatch: Any) -> None:
    monkeypatch.setattr("leasehold.adapters.homeless._LOOK_AGAIN", 20)
    house = House()
    house.ask(**ANY_FAST)
    async with house.running():
        await house.until(lambda: reason(house.lease(), "Accepted") == "NoMatchingPool")
        await asyncio.sleep(0.1)
        assert len(house.kube.writes(lease_path("a"))) == 1
        led(house, "late")
        await house.until(lambda: house.lease()["spec"].get("poolRef") == {"name": "late"})
    assert reason(house.lease(), "Accepted") == "PoolChosen"


async def test_a_choice_waits_for_a_pool_that_is_being_taken_over(monkeypatch: Any) -> None:
    monkeypatch.setattr("leasehold.adapters.homeless._SOON", 20)
    house = House()
    pool = led(house, "a")
    pool.ready = False
    house.ask(**ANY_FAST)
    async with house.running():
        await asyncio.sleep(0.1)
        assert house.kube.writes(lease_path("a")) == []
        pool.ready = True
        await house.until(lambda: house.lease()["spec"].get("poolRef") == {"name": "a"})


async def test_nobody_chooses_for_a_lease_that_is_given_up_or_late() -> None:
    house = House()
    led(house, "a")
    house.ask("released", desiredState="Released", **ANY_FAST)
    house.pools.clear()
    house.led.clear()
    house.ask("late", startDeadlineSeconds=1, **ANY_FAST)
    async with house.running():
        await house.until(lambda: reason(house.lease("released"), "Finished") == "Released")
        await house.until(lambda: reason(house.lease("late"), "Finished") == "Failed")
    assert "poolRef" not in house.lease("released")["spec"]


async def test_a_sub_lease_gets_the_pool_of_its_parent_as_soon_as_that_has_one() -> None:
    house = House()
    house.ask("job", poolRef=None, parentRef={"name": "all"})
    async with house.running():
        await house.until(lambda: reason(house.lease("job"), "Accepted") == "ParentNotFound")
        house.kube.add(lease_path("all"), lease_document("all", "ci"))
        await house.until(lambda: house.lease("job")["spec"].get("poolRef") == {"name": "ci"})
        assert house.cluster.awaited == {}


async def test_who_asked_first_is_sent_to_the_pool_first_within_one_second_too() -> None:
    house = House()
    house.pools = {"ci"}
    house.kube.add(lease_path("all"), lease_document("all", "ci"))
    for name, uid in (("big", "uid-z"), ("small", "uid-a")):
        document = lease_document(name, parentRef={"name": "all"})
        del document["spec"]["poolRef"]
        document["metadata"]["uid"] = uid
        house.kube.add(lease_path(name), document)
    async with house.running():
        await house.until(lambda: all("poolRef" in house.lease(name)["spec"] for name in ("big", "small")))
    versions = [int(house.lease(name)["metadata"]["resourceVersion"]) for name in ("big", "small")]
    assert versions == sorted(versions), "the pool may grant the one before it hears of the other"


async def test_a_sub_lease_that_waits_for_a_parent_and_goes_leaves_nothing_behind() -> None:
    house = House()
    for name in ("job", "other"):
        house.ask(name, poolRef=None, parentRef={"name": "all"})
    async with house.running():
        await house.until(lambda: len(house.cluster.awaited.get(("team", "all"), ())) == 2)
        for name in ("job", "other"):
            house.kube.remove(lease_path(name))
        await house.until(lambda: house.cluster.awaited == {})
