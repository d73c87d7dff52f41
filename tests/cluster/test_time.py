"""What a known future is good for, through the API alone: estimates, promises, tenants, preemption, quotes."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.harness import (
    LEASES,
    POOLS,
    SMALL,
    Object,
    Stage,
    ThreadOperator,
    condition,
    finished,
    granted,
    is_,
    nodes_of,
    stage_on,
    until,
)

from leasehold.api.quantity import amount
from leasehold.core.times import format_time, parse_time
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError

TOLERANCE = 5_000
"""How much later than foretold a start may be (ms) on a busy machine: the end is written, seen, and planned on."""


def now() -> int:
    return time.time_ns() // 1_000_000


def start_of(lease: Object) -> int:
    return parse_time(lease["status"]["allocation"]["allocationTime"])


def estimate_of(lease: Object) -> int | None:
    text = (lease.get("status") or {}).get("queue", {}).get("estimatedStartTime")
    return None if text is None else parse_time(text)


def expects_start(lease: Object) -> bool:
    return estimate_of(lease) is not None


def end_of(lease: Object) -> int:
    return parse_time(lease["status"]["deadlines"]["expirationTime"])


# --- estimates and backfill ---


def test_everybody_who_waits_is_told_a_place_and_a_time_and_the_times_come_true(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    stage.until(first := stage.lease(pool, cpu="4", durationSeconds=10), granted)
    second, third = (stage.lease(pool, cpu="4", durationSeconds=2) for _ in range(2))
    told = [stage.until(name, expects_start) for name in (second, third)]
    assert [lease["status"]["queue"]["approximatePosition"] for lease in told] == [1, 2]
    assert estimate_of(told[0]) == end_of(stage.get(first))
    started = [stage.until(name, granted) for name in (second, third)]
    for before, after in zip(told, started, strict=True):
        assert 0 <= start_of(after) - (estimate_of(before) or 0) <= TOLERANCE
        assert "queue" not in after["status"]


def test_a_short_lease_jumps_the_queue_and_a_long_one_does_not(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(queueing={"strategy": "Backfill"})
    stage.until(stage.lease(pool, cpu="3", durationSeconds=12), granted)
    head = stage.lease(pool, cpu="4", durationSeconds=2)
    reserved = estimate_of(stage.until(head, expects_start)) or 0
    long = stage.lease(pool, cpu="1", durationSeconds=60)
    stage.until(long, is_("Allocated", "False", "RoomPromised"))
    short = stage.until(stage.lease(pool, cpu="1", durationSeconds=2), granted)
    assert end_of(short) <= reserved
    started = stage.until(head, granted)
    assert 0 <= start_of(started) - reserved <= TOLERANCE
    assert start_of(stage.until(long, granted)) >= start_of(started)


def test_who_jumped_the_queue_cannot_stay_by_renewing(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(queueing={"strategy": "Backfill"})
    stage.until(stage.lease(pool, cpu="3", durationSeconds=12), granted)
    head = stage.lease(pool, cpu="4", durationSeconds=1)
    reserved = estimate_of(stage.until(head, expects_start)) or 0
    short = stage.lease(pool, cpu="1", durationSeconds=3)
    assert parse_time(stage.until(short, granted)["status"]["deadlines"]["maxExpirationTime"]) <= reserved
    stage.renew(short)
    renewed = stage.until(short, lambda lease: lease["status"].get("renewal", {}).get("count") == 1)
    assert end_of(renewed) <= reserved
    assert start_of(stage.until(head, granted, 30)) - reserved <= TOLERANCE


def test_the_endpoint_tells_exact_places(stage: Stage, operator: ThreadOperator) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    stage.until(stage.lease(pool, cpu="4", durationSeconds=60), granted)
    names = [stage.lease(pool, cpu="4", durationSeconds=60) for _ in range(3)]
    urgent = stage.lease(pool, cpu="4", priority=5)
    for name in (*names, urgent):
        stage.until(name, expects_start)
    code, page = operator.page(f"/pools/{pool}/queue?namespace={stage.namespace}")
    rows = json.loads(page)["waiting"]
    assert code == 200
    assert [(row["position"], row["name"]) for row in rows] == list(enumerate([urgent, *names], start=1))
    assert all(row["estimatedStartTime"] for row in rows)
    assert operator.page("/pools/nobody/queue")[0] == 404


# --- advance reservations ---


def test_a_start_in_the_future_is_promised_and_kept(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    at = now() + 10_000
    booked = stage.lease(pool, cpu="3", startTime=format_time(at), durationSeconds=5)
    promised = stage.until(booked, lambda lease: "reservation" in (lease.get("status") or {}))
    assert promised["status"]["phase"] == "Scheduled"
    assert condition(promised, "Allocated")["reason"] == "StartTimeNotReached"
    assert promised["status"]["deadlines"]["next"] == {"time": format_time(at), "cause": "Start"}
    assert stage.kube.get(POOLS, pool)["status"]["leases"]["held"] == 0
    long = stage.lease(pool, cpu="2", durationSeconds=600)
    stage.until(long, is_("Allocated", "False", "RoomPromised"))
    stage.until(beside := stage.lease(pool, cpu="1", durationSeconds=600), granted)
    stage.until(short := stage.lease(pool, cpu="3", durationSeconds=1), granted)
    started = stage.until(booked, granted)
    assert 0 <= start_of(started) - at <= TOLERANCE
    assert "reservation" not in started["status"]
    assert started["status"]["fencingToken"] > promised["status"]["reservation"]["ledgerSequence"]
    assert finished(stage.get(short))
    assert granted(stage.get(beside))


@pytest.mark.parametrize(("action", "count"), [("Cut", 1), ("Refuse", 0)])
def test_a_renewal_gives_way_to_a_promised_start(stage: Stage, action: str, count: int) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"promiseConflictAction": action})
    holder = stage.lease(pool, cpu="4", durationSeconds=10, liveness="Renew")
    since = start_of(stage.until(holder, granted))
    at = since + 12_000
    booked = stage.lease(pool, cpu="4", startTime=format_time(at), durationSeconds=2)
    stage.until(booked, lambda lease: "reservation" in (lease.get("status") or {}))
    until(lambda: now() > since + 2_100, "a new term would run into the promised start")
    stage.renew(holder)
    told = stage.until(holder, is_("ExpiringSoon", "True", "PromisedStart"))
    assert told["status"]["renewal"]["count"] == count
    assert end_of(told) <= at
    assert "promised to another lease" in condition(told, "ExpiringSoon")["message"]
    assert 0 <= start_of(stage.until(booked, granted)) - at <= TOLERANCE
    assert condition(stage.get(holder), "Finished")["reason"] == "Expired"


def test_a_start_that_has_passed_means_now_and_a_missed_deadline_is_final(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    past = stage.lease(pool, cpu="4", startTime=format_time(now() - 3_600_000), durationSeconds=60)
    stage.until(past, granted)
    late = stage.lease(pool, cpu="4", startDeadlineSeconds=1)
    over = stage.until(late, finished)
    assert condition(over, "Finished")["reason"] == "Failed"
    assert over["status"]["release"]["cause"] == "StartDeadlineExceeded"
    assert condition(over, "Released")["reason"] == "NotRequired"


def test_a_promise_outlives_the_operator_that_made_it(arena: ControlPlane) -> None:
    with stage_on(arena) as stage:
        stage.nodes.create(1, SMALL)
        with ThreadOperator(arena.kubeconfig):
            pool = stage.pool()
            at = now() + 15_000
            booked = stage.lease(pool, cpu="4", startTime=format_time(at), durationSeconds=2)
            stage.until(booked, lambda lease: "reservation" in (lease.get("status") or {}))
        with ThreadOperator(arena.kubeconfig):
            stage.until(
                stage.lease(pool, cpu="4", durationSeconds=600), is_("Allocated", "False", "RoomPromised")
            )
            assert 0 <= start_of(stage.until(booked, granted)) - at <= TOLERANCE


# --- tenants ---


@pytest.fixture
def neighbours(stage: Stage) -> Iterator[dict[str, str]]:
    """Two further namespaces, labelled team=red and team=blue."""
    made = {}
    for team in ("red", "blue"):
        made[team] = f"n-{team}-{secrets.token_hex(4)}"
        meta = {"name": made[team], "labels": {"team": team}}
        stage.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    yield made
    for namespace in made.values():
        for lease in stage.kube.list(LEASES, namespace):
            stage._remove(LEASES, lease["metadata"]["name"], namespace)
        stage.kube.delete("namespaces", namespace, missing_ok=True)


def tenant(name: str, **more: Any) -> Object:
    return {"name": name, "namespaceSelector": {"matchLabels": {"team": name}}, **more}


class Team:
    """A tenant's way to ask and look."""

    def __init__(self, stage: Stage, namespace: str, pool: str) -> None:
        self.stage, self.namespace, self.pool = stage, namespace, pool

    def ask(self, cpu: str, **spec: Any) -> str:
        name = f"l-{secrets.token_hex(4)}"
        body = {"poolRef": {"name": self.pool}, "resources": {"cpu": cpu}, **spec}
        self.stage.kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityLease",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": body,
            }
        )
        return name

    def until(self, name: str, test: Any) -> Object:
        return self.stage.kube.wait(LEASES, name, self.namespace, until=test)

    def change(self, name: str, **spec: Any) -> None:
        self.stage.kube.patch(LEASES, name, {"spec": spec}, self.namespace)


def test_tenants_share_by_weight_within_guarantee_and_limit(stage: Stage, neighbours: dict[str, str]) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(tenants=[tenant("red", weight=3), tenant("blue", limit={"cpu": "1"})])
    red, blue = Team(stage, neighbours["red"], pool), Team(stage, neighbours["blue"], pool)
    first = blue.ask("1", durationSeconds=60)
    assert blue.until(first, granted)["status"]["tenant"] == "blue"
    more = blue.ask("1", durationSeconds=60)
    waits = blue.until(more, is_("Allocated", "False", "WaitingForQuota"))
    assert "blue" in condition(waits, "Allocated")["message"]
    for _ in range(3):
        red.until(red.ask("1", durationSeconds=60), granted)
    outside = stage.lease(pool, cpu="1")
    stage.until(outside, is_("Accepted", "False", "NamespaceNotAllowed"))
    red.until(red.ask("1", tenant="blue"), is_("Accepted", "False", "NamespaceNotAllowed"))
    blue.until(blue.ask("2"), is_("Accepted", "False", "ExceedsTenantLimit"))
    told = stage.until_pool(
        pool, lambda found: [row.get("leases") for row in found["status"].get("tenants", ())] == [3, 1]
    )
    rows = {row["name"]: row for row in told["status"]["tenants"]}
    assert rows["red"]["sharePermille"] == 250  # three quarters of the pool, with three times the weight
    assert rows["blue"]["sharePermille"] == 250
    assert rows["blue"]["allocated"]["cpu"] == "1"
    assert condition(told, "TenantsValid")["reason"] == "Valid"


def test_tenants_that_overlap_or_promise_too_much_are_named_on_the_pool(
    stage: Stage, neighbours: dict[str, str]
) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(
        tenants=[
            tenant("red"),
            {
                "name": "all",
                "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]},
            },
        ]
    )
    told = stage.until_pool(pool, is_("TenantsValid", "False", "TenantsOverlap"))
    assert neighbours["red"] in condition(told, "TenantsValid")["message"]
    red = Team(stage, neighbours["red"], pool)
    lost = red.ask("1")
    red.until(lost, is_("Accepted", "False", "TenantAmbiguous"))
    red.change(lost, tenant="red")
    red.until(lost, granted)
    stage.change_pool(
        pool, tenants=[tenant("red", guaranteed={"cpu": "3"}), tenant("blue", guaranteed={"cpu": "2"})]
    )
    told = stage.until_pool(pool, is_("TenantsValid", "False", "GuaranteesExceedCapacity"))
    assert "5 of cpu" in condition(told, "TenantsValid")["message"]


def test_what_is_borrowed_comes_back_with_notice_and_the_holder_may_ask_for_time(
    stage: Stage, neighbours: dict[str, str]
) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(
        policy={"gracePeriodSeconds": 8, "maxDeferSeconds": 2},
        preemption={"borrowers": "Reclaim"},
        tenants=[tenant("red", guaranteed={"cpu": "2"}), tenant("blue", guaranteed={"cpu": "2"})],
    )
    red, blue = Team(stage, neighbours["red"], pool), Team(stage, neighbours["blue"], pool)
    borrowed = [blue.ask("1", durationSeconds=600) for _ in range(4)]
    for name in borrowed:
        blue.until(name, granted)
    mine = red.ask("2", durationSeconds=600)
    red.until(mine, is_("Allocated", "False", "WaitingForVictims"))
    red.until(mine, expects_start)

    def asked_to_go() -> list[str]:
        return [
            name for name in borrowed if is_("DisruptionTarget")(stage.kube.get(LEASES, name, blue.namespace))
        ]

    stage.until_pool(pool, lambda _: len(asked_to_go()) == 2)
    victim, other = asked_to_go()
    told = blue.until(victim, is_("DisruptionTarget", "True", "TenantReclaim"))
    uid = stage.kube.get(LEASES, mine, red.namespace)["metadata"]["uid"]
    assert told["status"]["revocation"]["preemptorUID"] == uid
    notice = parse_time(told["status"]["revocation"]["noticeTime"])
    blue.change(victim, deferSeconds=60)
    deferred = blue.until(victim, lambda lease: lease["status"]["revocation"].get("deferSeconds") == 2)
    assert parse_time(deferred["status"]["deadlines"]["revocationTime"]) == notice + 10_000
    started = red.until(mine, granted)
    assert start_of(started) >= notice + 10_000
    for name in (victim, other):
        over = blue.until(name, finished)
        assert condition(over, "Finished")["reason"] == "Revoked"
    assert (
        sum(
            granted(stage.kube.get(LEASES, n, blue.namespace))
            and not finished(stage.kube.get(LEASES, n, blue.namespace))
            for n in borrowed
        )
        == 2
    )


def test_a_higher_priority_takes_from_a_lower_one_after_its_guaranteed_time(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(
        policy={"gracePeriodSeconds": 1, "guaranteedSeconds": 6}, preemption={"withinTenant": "LowerPriority"}
    )
    stage.until(kept := stage.lease(pool, cpu="2", priority=9, durationSeconds=600), granted)
    lowly = stage.lease(pool, cpu="2", durationSeconds=600)
    since = start_of(stage.until(lowly, granted))
    urgent = stage.lease(pool, cpu="1", priority=9, durationSeconds=600)
    stage.until(urgent, is_("Allocated", "False"))
    told = stage.until(lowly, is_("DisruptionTarget", "True", "Preempted"))
    assert parse_time(told["status"]["revocation"]["noticeTime"]) >= since + 6_000
    stage.until(urgent, granted)
    assert not is_("DisruptionTarget")(stage.get(kept))
    assert condition(stage.until(lowly, finished), "Finished")["reason"] == "Revoked"


def test_a_notice_survives_a_restart_and_is_taken_back_when_the_cause_goes(arena: ControlPlane) -> None:
    with stage_on(arena) as stage:
        stage.nodes.create(1, SMALL)
        with ThreadOperator(arena.kubeconfig):
            pool = stage.pool(policy={"gracePeriodSeconds": 60}, preemption={"withinTenant": "LowerPriority"})
            stage.until(lowly := stage.lease(pool, cpu="4", durationSeconds=600), granted)
            urgent = stage.lease(pool, cpu="4", priority=9)
            told = stage.until(lowly, is_("DisruptionTarget", "True", "Preempted"))
        with ThreadOperator(arena.kubeconfig):
            same = stage.settled(lowly, is_("DisruptionTarget", "True", "Preempted"))
            assert same["status"]["revocation"] == told["status"]["revocation"]
            assert (
                same["status"]["deadlines"]["revocationTime"] == told["status"]["deadlines"]["revocationTime"]
            )
            stage.change(urgent, desiredState="Released")
            spared = stage.until(lowly, lambda lease: not is_("DisruptionTarget")(lease))
            assert "revocation" not in spared["status"]


# --- dry runs ---


def test_a_dry_run_says_where_and_when_and_holds_nothing(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    asked = stage.until(stage.lease(pool, cpu="4", durationSeconds=60, mode="DryRun"), finished)
    assert condition(asked, "Finished")["reason"] == "DryRunComplete"
    assert asked["status"]["quote"]["nodes"] == stage.nodes.names
    assert "counterOffer" not in asked["status"]
    assert "allocation" not in asked["status"]
    held = stage.until(stage.lease(pool, cpu="3", durationSeconds=60), granted)
    later = stage.until(stage.lease(pool, cpu="2", durationSeconds=60, mode="DryRun"), finished)
    assert parse_time(later["status"]["quote"]["startTime"]) == end_of(held)
    offer = later["status"]["counterOffer"]
    assert offer["kind"] == "Smaller"
    assert 900 <= amount("cpu", offer["resources"]["cpu"]) <= 1000


def test_a_dry_run_names_who_would_pay_and_which_pool_has_room(stage: Stage) -> None:
    names = stage.nodes.create(2, SMALL)
    hosts = [{"matchLabels": {"kubernetes.io/hostname": name}} for name in stage.nodes.names]
    assert names is None or names
    full = stage.pool(selector=hosts[0], preemption={"withinTenant": "LowerPriority"})
    stage.until(poor := stage.lease(full, cpu="4", durationSeconds=3600), granted)
    empty = stage.pool(selector=hosts[1])
    asked = stage.until(stage.lease(full, cpu="4", priority=3, mode="DryRun"), finished)
    assert asked["status"]["quote"]["victims"] == [f"{stage.namespace}/{poor}"]
    assert asked["status"]["counterOffer"]["kind"] == "OtherPool"
    assert asked["status"]["counterOffer"]["pool"] == empty
    assert not is_("DisruptionTarget")(stage.get(poor))


# --- pools to choose from ---


def test_the_operator_chooses_the_pool_that_starts_first_and_says_why(stage: Stage) -> None:
    stage.nodes.create(3, SMALL)
    kind = {"site": secrets.token_hex(4)}
    pools = []
    for name in stage.nodes.names:
        pools.append(f"p-{secrets.token_hex(4)}")
        stage.pool_named(pools[-1], {"matchLabels": {"kubernetes.io/hostname": name}}, labels=kind)
        stage.until_pool(pools[-1], is_("Ready"))
    busy, loaded, idle = pools
    stage.until(stage.lease(busy, cpu="4", durationSeconds=600), granted)
    stage.until(stage.lease(loaded, cpu="2", durationSeconds=600), granted)
    lease = anywhere(stage, kind)
    got = stage.until(lease, granted)
    assert got["spec"]["poolRef"]["name"] == idle
    assert condition(got, "Accepted")["reason"] == "PoolChosen"
    assert (
        f"Pool {idle} of 3 matching pools: it can start now, the least loaded of 2"
        in condition(got, "Accepted")["message"]
    )
    assert nodes_of(got) == stage.nodes.names[2:]
    with pytest.raises(ApiError, match="cannot be changed"):
        stage.change(lease, poolRef={"name": busy})


def anywhere(stage: Stage, labels: dict[str, str], **spec: Any) -> str:
    name = f"l-{secrets.token_hex(4)}"
    stage.kube.create(
        {
            "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "CapacityLease",
            "metadata": {"name": name, "namespace": stage.namespace},
            "spec": {"poolSelector": {"matchLabels": labels}, "resources": {"cpu": "1"}, **spec},
        }
    )
    return name


def test_a_choice_that_no_pool_matches_waits_until_one_does(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    kind = {"site": secrets.token_hex(4)}
    lease = anywhere(stage, kind)
    stage.until(lease, is_("Accepted", "False", "NoMatchingPool"))
    pool = stage.pool()
    stage.kube.patch(POOLS, pool, {"metadata": {"labels": kind}})
    stage.until(lease, granted)


# --- accounting ---


def test_the_account_is_written_once_at_the_end(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, cpu="2", durationSeconds=6)
    assert "accounting" not in stage.until(lease, granted)["status"]
    account = stage.until(lease, finished)["status"]["accounting"]
    assert account["heldSeconds"] >= 6
    assert {"name": "cpu", "reserved": "2"} in account["resources"]
