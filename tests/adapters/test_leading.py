"""Which pools a replica leads and follows, what it does when shards come and go, and when a node may be lent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from tests.adapters.fakes import (
    FakeKube,
    Object,
    Replica,
    World,
    failing,
    pool_document,
    status,
)

from leasehold.adapters import leading
from leasehold.adapters.election import Leadership, boot_clock
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import NotFound, Unknown
from leasehold.adapters.leading import Pools
from leasehold.core.election import Terms, shard_of
from leasehold.core.neighbours import Heard

TERMS = Terms(600_000)
NEAR, FAR = "west", "east"  # pools of shard 0 and 1 of two


def test_the_names_below_are_of_different_shards() -> None:
    assert (shard_of(NEAR, 2), shard_of(FAR, 2)) == (0, 1)


def right(shard: int) -> Leadership:
    return Leadership(shard, boot_clock() + TERMS.renew_deadline, TERMS)


class Standby(Replica):
    """A replica with its pools, led or followed."""

    nodes_heard = 0

    def __init__(self, kube: FakeKube, shards: int) -> None:
        super().__init__(kube)
        self.cluster.nodes_heard = lambda: self.nodes_heard
        self.tasks: list[asyncio.Task[None]] = []
        self.chores: list[str] = []
        self.pools = Pools(self.tools, shards, self.watch, self.begin_chores)

    def watch(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self.tasks.append(task)
        return task

    def begin_chores(self, leadership: Leadership) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        async def chore() -> None:
            self.chores.append("begun")
            try:
                await asyncio.sleep(3600)
            finally:
                self.chores.append("ended")

        return [("chore", chore())]

    def hear(self, kind: str, document: Object) -> None:
        if document.get("kind") == "Node":
            self.node_heard(document)
        elif document.get("kind") == "NodeReport":
            self.cluster.report_seen(document)
        else:
            super().hear(kind, document)

    def node_heard(self, document: Object) -> None:
        super().node_heard(document)
        self.nodes_heard = int(document["metadata"]["resourceVersion"])

    def pool_heard(self, kind: str, document: Object) -> None:
        (self.pools.pool_gone if kind == "DELETED" else self.pools.pool_seen)(document)

    async def close(self) -> None:
        await self.pools.end()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Stage(World):
    """A fake API server with replicas, each of which hears all there is when it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.replicas: list[Standby] = []

    def replica(self, shards: int = 1) -> Standby:
        made = Standby(self.kube, shards)
        self.replicas.append(made)
        for path, document in list(self.kube.objects.items()):
            if path.startswith(paths.POOLS) or "capacityleases" in path:
                made.hear("ADDED", document)
        made.pools.begin()
        return made


def pool_of(name: str, **labels: str) -> Object:
    """A pool over the nodes with these labels."""
    return pool_document(name, nodeSelector={"matchLabels": labels})


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    yield made
    for replica in made.replicas:
        await replica.close()


async def test_a_standby_follows_and_leads_when_it_wins(stage: Stage) -> None:
    stage.node("n1")
    stage.add_pool(pool_of("ci"))
    replica = stage.replica()
    stage.ask("l", "ci", cpu="4")
    assert list(replica.pools.followers) == ["ci"]
    assert replica.cluster.homeless == set(), "a pool that is followed exists"
    await replica.pools.shard_won(right(0), None)
    await stage.granted("l")
    assert replica.pools.followers == {}
    assert replica.chores == ["begun"]
    await replica.pools.shard_lost(0)
    assert replica.pools.workers == {}
    assert replica.pools.followers["ci"].holds_on("n1")
    assert replica.chores == ["begun", "ended"]


async def test_one_replica_after_the_other_leads_and_the_time_between_is_an_outage(stage: Stage) -> None:
    stage.node("n1")
    stage.add_pool(pool_of("ci"))
    first, second = stage.replica(), stage.replica()
    await first.pools.shard_won(right(0), None)
    await stage.until(lambda: not first.pools.not_ready())
    await first.pools.shard_lost(0)
    await second.pools.shard_won(right(0), second.clock.now() - 60_000)
    await stage.until(lambda: not second.pools.not_ready())
    ledger = stage.pool("ci")["status"]["ledger"]
    assert ledger["epoch"] == 2
    assert len(ledger["outages"]) == 1
    await second.pools.shard_lost(0)
    await first.pools.shard_won(right(0), first.clock.now() - 100)
    await stage.until(lambda: not first.pools.not_ready())
    assert len(stage.pool("ci")["status"]["ledger"]["outages"]) == 1, "a moment is none"


async def test_a_right_that_ran_out_before_it_was_heard_of_begins_nothing(stage: Stage) -> None:
    stage.add_pool(pool_of("ci"))
    replica = stage.replica()
    late = right(0)
    late.until = 0
    await replica.pools.shard_won(late, None)
    assert replica.pools.workers == {}
    assert replica.pools.led == {}


async def test_an_epoch_that_is_overtaken_is_believed_and_tried_again_after_a_pause(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leading, "_FIRST_PAUSE", 0.05)
    stage.node("n1")
    stage.add_pool(pool_of("ci"))
    replica = stage.replica()
    await replica.pools.shard_won(right(0), None)
    await stage.until(lambda: not replica.pools.not_ready())
    stage.kube.touch(paths.pool("ci"), {"status": {"ledger": {"epoch": 9}}})
    await stage.until(lambda: "ci" in replica.pools.followers)
    assert replica.pools.deposed == 1
    await stage.until(lambda: "ci" in replica.pools.workers and not replica.pools.not_ready())
    assert stage.pool("ci")["status"]["ledger"]["epoch"] == 10
    stage.ask("l", "ci", cpu="4")
    await stage.granted("l")


async def test_an_overtaken_pool_is_not_tried_again_once_its_shard_is_lost(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leading, "_FIRST_PAUSE", 0.05)
    stage.add_pool(pool_of("ci"))
    replica = stage.replica()
    await replica.pools.shard_won(right(0), None)
    await stage.until(lambda: not replica.pools.not_ready())
    stage.kube.touch(paths.pool("ci"), {"status": {"ledger": {"epoch": 9}}})
    await stage.until(lambda: "ci" in replica.pools.followers)
    await replica.pools.shard_lost(0)
    await stage.until(lambda: all(task.done() for task in replica.tasks if "pause" in task.get_name()))
    assert replica.pools.workers == {}


async def test_pools_that_come_and_go_are_led_or_followed_by_their_shard(stage: Stage) -> None:
    replica = stage.replica(2)
    await replica.pools.shard_won(right(0), None)
    stage.add_pool(pool_of(NEAR))
    stage.add_pool(pool_of(FAR))
    assert set(replica.pools.workers) == {NEAR}
    assert set(replica.pools.followers) == {FAR}
    stage.kube.remove(paths.pool(NEAR))
    stage.kube.remove(paths.pool(FAR))
    assert not replica.pools.workers
    assert not replica.pools.followers


async def test_a_pool_that_is_gone_when_it_is_taken_over_ends_quietly(stage: Stage) -> None:
    stage.add_pool(pool_of("ci"))
    replica = stage.replica()
    stage.kube.faults.append(failing(NotFound("gone", 404), path=paths.pool("ci")))
    await replica.pools.shard_won(right(0), None)
    await stage.until(lambda: not replica.pools.workers)


# --- shards ---


async def two(stage: Stage) -> tuple[Standby, Standby]:
    """Two replicas that lead a shard each and have heard of each other."""
    near, far = stage.replica(2), stage.replica(2)
    await near.pools.shard_won(right(0), None)
    await far.pools.shard_won(right(1), None)
    await stage.until(lambda: not near.pools.not_ready() and not far.pools.not_ready())
    return near, far


async def exchange(near: Standby, far: Standby) -> None:
    """What the election does with each renewal."""
    for replica in (near, far):
        await replica.pools.touched(boot_clock(), None)
    for replica, other in ((near, far), (far, near)):
        (theirs,) = other.pools.led.values()
        await replica.pools.others_heard({theirs.shard: theirs.heard})


async def test_a_node_is_lent_only_once_the_other_leaders_have_heard_of_it(stage: Stage) -> None:
    stage.add_pool(pool_of(NEAR, role="near"))
    stage.add_pool(pool_of(FAR, role="far"))
    near, far = await two(stage)
    stage.node("n1", role="near")
    stage.ask("l", NEAR, cpu="4")
    await stage.until(lambda: status(stage.lease("l"), "Allocated") == "False")
    (row,) = stage.lease("l")["status"]["rejections"]
    assert row["reason"] == "NodeJoining"
    await exchange(near, far)
    await exchange(near, far)
    await stage.granted("l")


async def test_a_node_that_moves_between_shards_is_not_lent_by_both(stage: Stage) -> None:
    """The old leader is behind: it has not heard that the node moved, and goes on lending it."""
    stage.add_pool(pool_of(NEAR, role="near"))
    stage.add_pool(pool_of(FAR, role="far"))
    near, far = await two(stage)
    stage.node("n1", role="near")
    for _ in range(2):
        await exchange(near, far)
    near.deaf = True
    stage.kube.touch(f"{paths.NODES}/n1", {"metadata": {"labels": {"role": "far"}}})
    near.deaf = False
    stage.ask("new", FAR, cpu="4")
    stage.ask("old", NEAR, cpu="4")
    await stage.granted("old")
    for _ in range(3):
        await exchange(near, far)
    assert not stage.is_granted("new")
    near.hear("MODIFIED", stage.kube.objects[f"{paths.NODES}/n1"])
    for _ in range(3):
        await exchange(near, far)
    assert not stage.is_granted("new"), "what the other pool lent there is still held"
    await stage.until(lambda: stage.lease("new")["status"]["rejections"][0]["reason"] == "NodeConflicting")


async def test_a_shard_that_nobody_leads_is_waited_for(stage: Stage) -> None:
    stage.add_pool(pool_of(NEAR, role="near"))
    near = stage.replica(2)
    await near.pools.shard_won(right(0), None)
    stage.node("n1", role="near")
    stage.ask("l", NEAR, cpu="4")
    await near.pools.others_heard({1: ""})
    await stage.until(lambda: status(stage.lease("l"), "Allocated") == "False")
    await near.pools.shard_won(right(1), None)
    await stage.granted("l")


async def test_pools_that_cannot_be_read_again_are_asked_for_later(stage: Stage) -> None:
    stage.add_pool(pool_of(NEAR, role="near"))
    stage.add_pool(pool_of(FAR, role="far"))
    near, far = await two(stage)
    stage.node("n1", role="near")
    stage.kube.faults.append(failing(Unknown("away"), times=1, method="LIST", path=paths.POOLS))
    stage.ask("l", NEAR, cpu="4")
    await exchange(near, far)
    await exchange(near, far)
    await exchange(near, far)
    await stage.granted("l")


async def test_a_leader_tells_nothing_before_all_its_pools_are_taken_over(stage: Stage) -> None:
    stage.add_pool(pool_of(NEAR))
    near = stage.replica(2)
    stage.kube.faults.append(failing(Unknown("away"), path=paths.pool(NEAR)))
    await near.pools.shard_won(right(0), None)
    await near.pools.touched(boot_clock(), None)
    assert near.pools.led[0].heard == ""
    stage.kube.faults.clear()
    await stage.until(lambda: not near.pools.not_ready())
    await near.pools.touched(boot_clock(), None)
    assert Heard.parse(near.pools.led[0].heard) is not None


async def test_an_outage_reaches_every_pool_that_is_led(stage: Stage) -> None:
    replica = stage.replica()
    for name in "xy":
        stage.node(f"n-{name}", role=name)
        stage.add_pool(pool_of(name, role=name))
        stage.ask(f"l-{name}", name)
    await replica.pools.shard_won(right(0), None)
    for name in "xy":
        await stage.granted(f"l-{name}")
    now = replica.clock.now()
    await replica.pools.touched(boot_clock(), (now - 9000, now))
    for name in "xy":
        await stage.until(lambda name=name: stage.pool(name)["status"]["ledger"].get("outages"))


async def test_reporters_are_asked_for_leases_of_all_pools_whoever_leads_them(stage: Stage) -> None:
    stage.node("n1", role="near")
    stage.node("n2", role="far")
    for name, role in ((NEAR, "near"), (FAR, "far")):
        spec = {
            "nodeSelector": {"matchLabels": {"role": role}},
            "leasePolicy": {"verification": "NodeReport"},
        }
        stage.add_pool(pool_document(name, **spec))
    near, far = await two(stage)
    for _ in range(2):
        await exchange(near, far)
    stage.ask("l1", NEAR, cpu="4")
    stage.ask("l2", FAR, cpu="4")
    await stage.until(lambda: stage.is_granted("l1") and stage.is_granted("l2"))
    uids = {name: stage.lease(name)["metadata"]["uid"] for name in ("l1", "l2")}
    await stage.until(lambda: near.pools.asking() == {"n1": {uids["l1"]}, "n2": {uids["l2"]}})
    assert far.pools.asking() == near.pools.asking()


async def test_nodes_are_kept_for_dedicated_pools_whoever_leads_them(stage: Stage) -> None:
    kept = {"mode": "Gate", "nodeTaint": "Dedicated"}

    def pool(name: str, role: str, enforcement: Object) -> None:
        selector = {"matchLabels": {"role": role}}
        stage.add_pool(pool_document(name, nodeSelector=selector, enforcement=enforcement))

    pool(NEAR, "near", kept)
    pool(FAR, "far", kept)
    pool("shared", "shared", {"mode": "Gate"})
    pool("broken", "broken", {"mode": "Guess"})
    near, far = await two(stage)
    for role in ("near", "far", "shared", "broken", "nobodys"):
        stage.node(f"n-{role}", role=role)
    assert near.pools.dedicated() == far.pools.dedicated() == {"n-near": NEAR, "n-far": FAR}
    stage.add_pool(pool_of("second", role="far"))
    assert near.pools.dedicated() == {"n-near": NEAR}, "two pools select that node: it is nobody's alone"
    stage.kube.touch(paths.pool(NEAR), {"spec": {"enforcement": {"nodeTaint": "None"}}})
    await stage.until(lambda: near.pools.dedicated() == {})
    await stage.until(lambda: far.pools.dedicated() == {})


async def test_what_pools_lend_is_known_whoever_leads_them(stage: Stage) -> None:
    stage.add_pool(pool_document(NEAR, resources=[{"name": "cpu"}, {"name": "pods"}]))
    stage.add_pool(pool_document(FAR))
    near, far = await two(stage)
    known = {NEAR: ("cpu", "pods"), FAR: ("cpu", "memory", "ephemeral-storage")}
    assert near.pools.lending() == far.pools.lending() == known
    stage.kube.remove(paths.pool(FAR))
    await stage.until(lambda: far.pools.lending().keys() == {NEAR})


async def test_reporters_are_asked_the_same_while_a_pool_is_taken_over(stage: Stage) -> None:
    """What they are not asked for a moment is forgotten: which pods had ended, for one."""
    stage.node("n1")
    stage.add_pool(pool_document("ci", leasePolicy={"verification": "NodeReport"}))
    stage.add_pool(pool_document("other", nodeSelector={"matchLabels": {"no": "node"}}))
    first = stage.replica()
    await first.pools.shard_won(right(0), None)
    stage.ask("l", "ci", cpu="4")
    await stage.granted("l")
    asked = {"n1": {stage.lease("l")["metadata"]["uid"]}}
    await stage.until(lambda: first.pools.asking() == asked)
    second = stage.replica()
    assert second.pools.asking() == asked, "of a pool that another leads"
    held_up = failing(Unknown("504", 504), method="PATCH", path=paths.pool("ci"))
    stage.kube.faults.append(held_up)
    await second.pools.shard_won(right(0), None)
    await stage.until(lambda: second.pools.not_ready() == ["ci"])
    assert second.pools.asking() == asked, "of one whose books are not made yet"
    stage.kube.faults.remove(held_up)
    await stage.until(lambda: not second.pools.not_ready())
    assert second.pools.asking() == asked, "of its own"
