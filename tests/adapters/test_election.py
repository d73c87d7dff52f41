"""The keeper of this replica's coordination Leases, on a fake API server and a clock that a test turns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
from tests.adapters.fakes import FakeKube, failing, lost

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.election import HEARD, INSTANCE, Elector, Leadership, boot_clock
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Busy, NotFound, Unknown
from leasehold.core.election import Terms

NAMESPACE = "leasehold-system"
TERMS = Terms(15_000)


def shard_path(shard: int = 0) -> str:
    return paths.coordination(NAMESPACE, f"leasehold-shard-{shard}")


class Electors:
    """Replicas of one fake API server, and a clock for all of them that stands still unless a test moves it."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.kube.close = self._close  # type: ignore[attr-defined]
        self.now = 1_000_000

    async def _close(self) -> None: ...

    def replica(self, name: str, shards: int = 1, instance: str = "") -> Replica:
        return Replica(self, name, shards, instance or f"{name}-1")

    def lease(self, shard: int = 0) -> Mapping[str, Any]:
        return self.kube.objects[shard_path(shard)]

    def holder(self, shard: int = 0) -> str:
        return str(self.lease(shard)["spec"]["holderIdentity"])


class Replica:
    """An elector that looks when it is told to, and what its operator was told."""

    def __init__(self, electors: Electors, name: str, shards: int, instance: str) -> None:
        self.told: list[str] = []
        self.leads: dict[int, Leadership] = {}
        self.outages: list[tuple[int, int]] = []
        self.alive: dict[int, int | None] = {}
        self.heard: Mapping[int, str] = {}
        self.elector = Elector(
            lambda: electors.kube,  # type: ignore[arg-type,return-value]
            SteadyClock(wall=lambda: electors.now / 1000, monotonic=lambda: electors.now / 1000),
            self,
            namespace=NAMESPACE,
            identity=name,
            instance=instance,
            terms=TERMS,
            shards=shards,
            local=lambda: electors.now,
        )
        self.elector._client = electors.kube  # type: ignore[assignment]
        self.elector._main = asyncio.get_running_loop()

    async def look(self) -> Replica:
        await self.elector.look()
        await asyncio.sleep(0.01)  # what is told goes through the loop
        return self

    async def shard_won(self, leadership: Leadership, alive: int | None) -> None:
        self.leads[leadership.shard] = leadership
        self.alive[leadership.shard] = alive

    async def shard_lost(self, shard: int) -> None:
        self.leads.pop(shard, None)

    async def touched(self, at: int, outage: tuple[int, int] | None) -> None:
        self.told.append("touched")
        if outage is not None:
            self.outages.append(outage)

    async def others_heard(self, heard: Mapping[int, str]) -> None:
        self.heard = heard


@pytest.fixture
def electors() -> Electors:
    return Electors()


async def test_the_first_to_look_leads_and_the_other_stands_by(electors: Electors) -> None:
    first, second = electors.replica("a"), electors.replica("b")
    await first.look()
    await second.look()
    assert first.leads[0].valid()
    assert first.alive == {0: None}, "nobody led before"
    assert second.leads == {}
    assert electors.holder() == "a"
    assert electors.lease()["metadata"]["annotations"][INSTANCE] == "a-1"


async def test_a_leader_that_is_gone_is_followed_after_the_duration_and_not_before(
    electors: Electors,
) -> None:
    first, second = electors.replica("a"), electors.replica("b")
    await first.look()
    await second.look()
    electors.now += 14_999
    await second.look()
    assert second.leads == {}
    assert not first.leads[0].valid(), "the old one stopped long before"
    electors.now += 1
    await second.look()
    assert second.leads[0].valid()
    assert second.alive[0] == 1_000_000, "when the last leader was there"
    assert electors.lease()["spec"]["leaseTransitions"] == 1


async def test_a_leader_that_goes_gives_back_at_once(electors: Electors) -> None:
    first, second = electors.replica("a"), electors.replica("b")
    await first.look()
    await second.look()
    await first.elector._say_goodbye()
    assert electors.holder() == ""
    await second.look()
    assert electors.holder() == "b"


async def test_a_leader_that_cannot_renew_stops_in_time_and_comes_back_when_nobody_took_over(
    electors: Electors,
) -> None:
    replica = await electors.replica("a").look()
    right = replica.leads[0]
    electors.kube.faults.append(failing(Unknown("away")))
    for _ in range(5):
        electors.now += 2000
        await replica.look()
    assert not right.valid()
    assert replica.leads == {}
    electors.kube.faults.clear()
    electors.now += 1000
    await replica.look()
    assert replica.leads[0].valid()
    assert not right.valid(), "an old right does not come back to life"
    assert replica.alive[0] == 1_000_000


async def test_one_that_slept_past_its_deadline_begins_anew_instead_of_renewing(electors: Electors) -> None:
    replica = await electors.replica("a").look()
    right = replica.leads[0]
    electors.now += 12_000
    await replica.look()
    assert not right.valid()
    assert replica.leads[0] is not right
    assert electors.lease()["spec"]["leaseTransitions"] == 1


async def test_an_outage_shorter_than_the_deadline_is_told_before_its_end_is(electors: Electors) -> None:
    replica = await electors.replica("a").look()
    electors.now += 2000
    await replica.look()
    assert replica.outages == []
    electors.kube.faults.append(failing(Busy("too many", 429)))
    electors.now += 2000
    await replica.look()
    electors.now += 3000
    electors.kube.faults.clear()
    await replica.look()
    assert replica.outages == [(1_002_000, 1_007_000)]
    assert replica.leads[0].valid()


async def test_a_renewal_whose_answer_was_lost_does_not_lose_the_shard(electors: Electors) -> None:
    replica = await electors.replica("a").look()
    electors.kube.faults.append(lost(Unknown("lost")))
    electors.now += 2000
    await replica.look()
    electors.now += 2000
    await replica.look()
    assert replica.leads[0].valid()
    assert replica.leads[0].until == electors.now + TERMS.renew_deadline


async def test_two_of_one_name_do_not_lead_together(electors: Electors) -> None:
    first = await electors.replica("twin", instance="1").look()
    electors.now += 2000
    second = await electors.replica("twin", instance="2").look()
    assert second.leads[0].valid(), "a process that starts takes what its name left behind"
    assert first.leads[0].valid(), "and the other one does not know yet: epochs are for that"
    await first.look()
    assert first.leads == {}
    assert first.elector.beaten == 1
    for _ in range(10):
        electors.now += 2000
        await second.look()
        await first.look()
    assert first.leads == {}
    assert second.leads[0].valid()


async def test_shards_are_dealt_and_move_when_a_replica_comes_or_goes(electors: Electors) -> None:
    a, b = electors.replica("a", 4), electors.replica("b", 4)
    await a.look()
    assert len(a.leads) == 4
    for _ in range(8):
        electors.now += 2000
        await a.look()
        await b.look()
    assert (len(a.leads), len(b.leads)) == (2, 2)
    assert set(a.leads) | set(b.leads) == {0, 1, 2, 3}
    await b.elector._say_goodbye()
    electors.now += 2000
    await a.look()
    assert len(a.leads) == 4


async def test_a_replica_that_dies_leaves_its_shards_to_the_others(electors: Electors) -> None:
    a, b = electors.replica("a", 2), electors.replica("b", 2)
    for _ in range(8):
        await a.look()
        await b.look()
        electors.now += 2000
    assert (len(a.leads), len(b.leads)) == (1, 1)
    died = electors.now - 2000
    while len(a.leads) < 2:
        electors.now += a.elector.pace()
        await a.look()
    assert electors.now - died <= TERMS.duration + 2 * 2000
    for _ in range(160):
        electors.now += 2000
        await a.look()
    names = [path.rpartition("/")[2] for path in electors.kube.objects]
    assert "leasehold-replica-b" not in names, "one that is long gone is tidied away"


async def test_what_a_leader_heard_is_told_to_the_others(electors: Electors) -> None:
    a, b = electors.replica("a", 2), electors.replica("b", 2)
    for _ in range(8):
        await a.look()
        await b.look()
        electors.now += 2000
    (mine,) = a.leads.values()
    mine.heard = "5,abc-1,7"
    await a.look()
    await b.look()
    assert b.heard == {mine.shard: "5,abc-1,7"}
    assert electors.lease(mine.shard)["metadata"]["annotations"][HEARD] == "5,abc-1,7"
    electors.now += 20_000
    await b.look()
    assert b.heard.get(mine.shard, "") == "", "who is gone has heard of nothing"


async def test_a_missing_namespace_is_named_once(
    electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    electors.kube.faults.append(failing(NotFound("no such namespace", 404), method="POST"))
    replica = electors.replica("a")
    for _ in range(3):
        await replica.look()
    warnings = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "LEASEHOLD_ELECTION_NAMESPACE" in warnings[0].getMessage()
    assert replica.elector.failures == 3


async def test_a_claim_that_another_one_wins_is_no_failure(electors: Electors) -> None:
    a = electors.replica("a")

    def quicker(method: str, path: str, body: Any) -> None:
        if method == "POST":
            electors.kube.faults.clear()
            spec = {"holderIdentity": "b", "leaseDurationSeconds": 15, "renewTime": "not a time"}
            electors.kube.add(shard_path(), {"metadata": {"name": "leasehold-shard-0"}, "spec": spec})

    electors.kube.faults.append(quicker)
    await a.look()
    assert a.leads == {}
    assert a.elector.failures == 0
    await a.look()
    assert a.leads == {}


async def test_an_event_loop_that_is_blocked_costs_no_leadership() -> None:
    """The thread renews while the operator's loop does nothing for longer than the deadline."""
    electors = Electors()
    others = set(threading.enumerate())
    terms = Terms(6000)
    told = Replica(electors, "a", 1, "a-1")
    elector = Elector(
        lambda: electors.kube,  # type: ignore[arg-type,return-value]
        SteadyClock(),
        told,
        namespace=NAMESPACE,
        identity="a",
        instance="a-1",
        terms=terms,
        shards=1,
    )
    elector.start()
    async with asyncio.timeout(30):
        while not told.leads:
            await asyncio.sleep(0.01)
    right = told.leads[0]
    before, first = electors.lease()["metadata"]["resourceVersion"], right.until
    while boot_clock() <= first:
        time.sleep(0.05)  # nothing else runs on this loop meanwhile
    assert right.valid()
    assert electors.lease()["metadata"]["resourceVersion"] != before
    await elector.stop()
    assert electors.holder() == ""
    assert not right.valid()
    assert not {thread for thread in threading.enumerate() if thread.name == "election"} - others


async def test_a_bug_in_the_election_is_loud_and_ends_the_operator(caplog: pytest.LogCaptureFixture) -> None:
    electors = Electors()
    failures: list[str] = []
    told = Replica(electors, "a", 1, "a-1")

    def broken() -> Any:
        raise ZeroDivisionError("a bug")

    elector = Elector(
        broken,
        SteadyClock(),
        told,
        namespace=NAMESPACE,
        identity="a",
        instance="a-1",
        terms=TERMS,
        shards=1,
        failed=failures.append,
    )
    elector.start()
    await elector.stop()
    await asyncio.sleep(0)
    assert failures == ["election: a bug"]
    assert "the election ended" in caplog.text


def test_the_boot_clock_grows() -> None:
    first = boot_clock()
    assert boot_clock() >= first > 0
