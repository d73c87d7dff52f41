"""Several replicas on a real API server: who leads, who takes over and how fast, and what holders notice of it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

from tests.cluster.harness import (
    POOLS,
    SESSIONS,
    SMALL,
    ProcessOperator,
    Record,
    Stage,
    ThreadOperator,
    condition,
    fetch,
    finished,
    granted,
    is_,
    nodes_of,
    until,
)

from leasehold.core.times import parse_time
from leasehold.testing.errors import ApiError

NAMESPACE = "leasehold-system"
WEST, EAST = "west", "east"
"""Pools of shard 0 and of shard 1, of two."""


def leads(operator: ProcessOperator) -> list[str]:
    """The shards a replica says it leads."""
    try:
        _, text = fetch(f"http://127.0.0.1:{operator.port}/readyz")
    except OSError:
        return ["?"]  # too busy to say
    found = text.partition("shard(s): ")[2].strip()
    return [] if "standing by" in found else found.split(", ")


def replica(stage: Stage, name: str, **settings: object) -> ProcessOperator:
    return ProcessOperator(stage.control_plane, identity=f"{stage.namespace}-{name}", **settings)


@contextlib.contextmanager
def leader_and_standby(stage: Stage, **settings: object) -> Iterator[tuple[ProcessOperator, ProcessOperator]]:
    """One replica that leads, and one that came later and stands by."""
    with replica(stage, "a", **settings) as first:
        first.wait_ready()
        with replica(stage, "b", **settings) as second:
            warm(second)
            yield first, second


def warm(operator: ProcessOperator) -> None:
    """Wait until a replica is ready, be it as a standby."""
    until(lambda: not operator.child.running() or _ready(operator), "the replica is warm", 60)
    assert operator.child.running(), operator.child.log_tail(40)


def _ready(operator: ProcessOperator) -> bool:
    try:
        return fetch(f"http://127.0.0.1:{operator.port}/readyz")[0] == 200
    except OSError:
        return False


def holders(stage: Stage) -> dict[str, str]:
    """Who holds which shard's Lease."""
    rows = stage.kube.list(SESSIONS, NAMESPACE, labelSelector="leasehold.dev/election=shard")
    return {row["metadata"]["name"]: row["spec"].get("holderIdentity", "") for row in rows}


def test_a_standby_takes_over_within_seconds_of_a_clean_stop(bare: Stage) -> None:
    bare.nodes.create(2, SMALL)
    pool = bare.pool(wait="")
    with leader_and_standby(bare, election_seconds=15) as (first, second):
        assert leads(second) == [], "one leads, the other stands by"
        held = bare.lease(pool)
        bare.until(held, granted)
        late = bare.lease(pool, name="after")
        bare.until(late, granted)
        first.child.signal(signal.SIGTERM)
        began = time.monotonic()
        until(lambda: leads(second) == ["0"], "the standby leads")
        new = bare.lease(pool)
        bare.until(new, granted)
        assert time.monotonic() - began < 12, "it need not wait until the other's time is over"
        until(lambda: not first.child.running(), "the first one ends")
        assert first.child.returncode() == 0
        assert is_("Ready")(bare.get(held))


def test_a_standby_takes_over_soon_after_the_duration_when_the_leader_is_killed(bare: Stage) -> None:
    seconds = 12
    bare.nodes.create(2, SMALL)
    pool = bare.pool(wait="")
    with leader_and_standby(bare, election_seconds=seconds) as (first, _):
        bare.until(bare.lease(pool), granted)
        first.child.kill()
        began = time.monotonic()
        new = bare.lease(pool)
        bare.until(new, granted, 60)
        assert time.monotonic() - began < seconds + 5, "and a grant takes some time of a busy machine's"
        ledger = bare.kube.get(POOLS, pool)["status"]["ledger"]
        assert ledger["epoch"] == 2
        lengths = [parse_time(row["endTime"]) - parse_time(row["startTime"]) for row in ledger["outages"]]
        assert max(lengths) >= (seconds - 1) * 1000, "nobody led for a while, and that is remembered"


def test_a_leader_that_sleeps_past_its_time_wakes_up_as_a_standby_and_writes_nothing(bare: Stage) -> None:
    bare.nodes.create(3, SMALL)
    pool = bare.pool(wait="")
    record = Record(bare)
    with leader_and_standby(bare, election_seconds=12) as (first, second):
        bare.until(bare.lease(pool, cpu="2"), granted)
        first.child.signal(signal.SIGSTOP)
        for _ in range(3):
            bare.lease(pool, cpu="2")
        until(lambda: leads(second) == ["0"], "the other one leads", 60)
        first.child.signal(signal.SIGCONT)
        for lease in [bare.lease(pool, cpu="2") for _ in range(2)]:
            bare.until(lease, granted)
        until(lambda: leads(first) == [], "it knows that it leads no more")
        assert bare.kube.get(POOLS, pool)["status"]["ledger"]["epoch"] == 2, "it took nothing back"
        record.close()
    record.check(dict.fromkeys(bare.nodes.names, SMALL.resources()))


def lead_one_each(*operators: ProcessOperator) -> bool:
    """Each is asked once: one that hands a shard over may lead two before it does and one after."""
    return all(len(leads(operator)) == 1 for operator in operators)


def test_shards_are_dealt_to_replicas_and_move_when_one_goes(bare: Stage) -> None:
    bare.nodes.create(4, SMALL)
    for name, number in ((WEST, 0), (EAST, 1)):
        node = bare.nodes.names[number]
        bare.kube.patch("nodes", node, {"metadata": {"labels": {"side": name}}})
        bare.pool_named(name, {"matchLabels": {"side": name}})
    with replica(bare, "a", shards=2) as first, replica(bare, "b", shards=2) as second:
        warm(first)
        warm(second)
        until(lambda: lead_one_each(first, second), "one each", 30)
        assert set(holders(bare).values()) == {f"{bare.namespace}-a", f"{bare.namespace}-b"}
        for pool in (WEST, EAST):
            bare.until(bare.lease(pool, cpu="2"), granted)
        first.child.kill()
        for pool in (WEST, EAST):
            bare.until(bare.lease(pool, cpu="2"), granted, 30)
        assert sorted(leads(second)) == ["0", "1"]


def test_a_node_that_moves_to_a_pool_of_another_shard_is_lent_once(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    (node,) = bare.nodes.names
    for name in (WEST, EAST):
        bare.pool_named(name, {"matchLabels": {"side": name}})
    record = Record(bare)
    with replica(bare, "a", shards=2) as first, replica(bare, "b", shards=2) as second:
        warm(first)
        warm(second)
        until(lambda: lead_one_each(first, second), "one each", 30)
        for i in range(6):
            here, there = (WEST, EAST) if i % 2 else (EAST, WEST)
            bare.kube.patch("nodes", node, {"metadata": {"labels": {"side": there}}})
            for pool in (here, there, here, there):
                bare.lease(pool, cpu="3", durationSeconds=1)
            time.sleep(0.3)  # not to wait for anything: to let the node move while leases come and go
        last = bare.lease(EAST if i % 2 else WEST, name="last", cpu="3", durationSeconds=1, priority=9)
        bare.until(last, granted, 40)
        record.close()
    record.check({node: SMALL.resources()})


def test_a_pool_selector_finds_room_in_a_pool_that_another_replica_leads(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    label = {"tier": bare.namespace}
    for name in (WEST, EAST):
        selector = bare.nodes.selector if name == EAST else {"matchLabels": {"no": "node"}}
        bare.pool_named(name, selector, labels=label)
    with replica(bare, "a", shards=2) as first, replica(bare, "b", shards=2) as second:
        warm(first)
        warm(second)
        until(lambda: lead_one_each(first, second), "one each", 30)
        bare.until_pool(EAST, is_("Ready"))
        lease = bare.lease_by({"matchLabels": label})
        found = bare.until(lease, granted, 30)
        assert found["spec"]["poolRef"]["name"] == EAST


def test_two_of_one_name_do_not_fight(bare: Stage) -> None:
    """A mistake in a manifest: both replicas got the same identity. One stands by; nothing is lent twice."""
    bare.nodes.create(2, SMALL)
    pool = bare.pool(wait="")
    terms = {"election_seconds": 15}
    with (
        replica(bare, "twin", **terms).wait_ready() as first,
        replica(bare, "twin", **terms).wait_ready() as second,
    ):
        assert second.child.running()
        until(lambda: leads(first) == [], "the first one gives way", 60)
        bare.until(bare.lease(pool), granted)
        epoch = bare.kube.get(POOLS, pool)["status"]["ledger"]["epoch"]
        for _ in range(10):
            bare.until(bare.lease(pool, cpu="100m", durationSeconds=1), granted)
        assert bare.kube.get(POOLS, pool)["status"]["ledger"]["epoch"] == epoch
        assert any("is held by" in line["message"] for line in first.lines())


def test_silent_holders_are_forgiven_an_outage_of_the_operator(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    pool = bare.pool(policy={"heartbeatTimeoutSeconds": 5, "gracePeriodSeconds": 0}, wait="")
    with replica(bare, "a", election_seconds=2) as operator:
        operator.wait_ready()
        lease = bare.lease(pool, liveness="Renew", durationSeconds=3600)
        bare.until(lease, granted)
        bare.renew(lease)
        bare.until(lease, is_("HolderLive"))
        operator.child.kill()
    time.sleep(6)  # the time-out passes, and nobody could have heard a heartbeat
    with replica(bare, "a", election_seconds=2) as operator:
        operator.wait_ready()
        found = bare.until(lease, lambda o: "amnestyTime" in o["status"]["deadlines"])
        assert is_("Ready")(found)
        over = bare.until(lease, finished, 40)
        assert over["status"]["release"]["cause"] == "HeartbeatLost", "forgiven once, not for ever"


def test_silent_holders_are_forgiven_an_outage_of_the_api_server(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    pool = bare.pool(policy={"heartbeatTimeoutSeconds": 5, "gracePeriodSeconds": 0}, wait="")
    with ThreadOperator(bare.control_plane.kubeconfig, election_seconds=2):
        lease = bare.lease(pool, liveness="Renew", durationSeconds=3600)
        bare.until(lease, granted)
        bare.renew(lease)
        bare.until(lease, is_("HolderLive"))
        bare.control_plane.pause_etcd()
        try:
            time.sleep(6)  # the heartbeat falls due meanwhile, and nobody could have written one
        finally:
            bare.control_plane.resume_etcd()
        found = bare.until(lease, lambda o: "amnestyTime" in o["status"]["deadlines"] or finished(o))
        assert is_("Ready")(found), found["status"]
        for _ in range(20):
            try:
                bare.renew(lease)
                break
            except ApiError:
                time.sleep(0.2)
        bare.until(lease, lambda o: "amnestyTime" not in o["status"]["deadlines"])
        assert condition(bare.get(lease), "HolderLive")["status"] == "True"
        assert nodes_of(bare.get(lease)) == bare.nodes.names
