"""Leases within a lease: they take from their parent alone, wait for it in order, and end with it at the latest."""

from __future__ import annotations

import random
import signal
import time

from tests.cluster.harness import (
    LEASES,
    POOLS,
    SMALL,
    ProcessOperator,
    Record,
    Stage,
    ThreadOperator,
    condition,
    finished,
    granted,
    holding,
    is_,
    nodes_of,
    until,
)

from leasehold.core.times import parse_time
from leasehold.testing.processes import wait_until


def cause(lease: dict) -> str:  # type: ignore[type-arg]
    return str(lease["status"]["release"]["cause"])


def allocated(stage: Stage, pool: str) -> str:
    status = stage.kube.get(POOLS, pool)["status"]
    return str(next(row["allocated"] for row in status["capacity"] if row["name"] == "cpu"))


def test_a_child_takes_from_its_parent_and_not_from_the_pool(stage: Stage) -> None:
    stage.nodes.create(2, SMALL)
    pool = stage.pool()
    parent = stage.lease(pool, cpu="3")
    held = stage.until(parent, granted)
    child = stage.child(parent, cpu="2")
    found = stage.until(child, is_("Ready"))
    assert found["spec"]["poolRef"] == {"name": pool}, "it borrows where its parent does"
    assert nodes_of(found) == nodes_of(held)
    assert found["status"]["allocation"]["parentUID"] == held["metadata"]["uid"]
    assert found["status"]["fencingToken"] > held["status"]["fencingToken"]
    counted = stage.until_pool(pool, lambda o: o["status"]["leases"].get("children") == 1)
    assert counted["status"]["leases"]["held"] == 1
    assert allocated(stage, pool) == "3"
    stage.change(child, desiredState="Released")
    assert cause(stage.until(child, finished)) == "ReleaseRequested"
    stage.until_pool(pool, lambda o: "children" not in o["status"]["leases"])
    assert allocated(stage, pool) == "3", "what a child gives back is its parent's"
    assert is_("Ready")(stage.get(parent))


def test_a_child_waits_for_its_parent_and_then_for_room_in_it(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(queueing={"strategy": "StrictFIFO"})
    early = stage.child("all", cpu="2")
    told = stage.until(early, is_("Accepted", "False", "ParentNotFound"))
    assert condition(told, "Ready")["reason"] == "ParentNotFound"
    blocker = stage.lease(pool, cpu="4")
    stage.until(blocker, granted)
    stage.lease(pool, name="all", cpu="4")
    stage.until(early, is_("Ready", "False", "ParentNotReady"))
    stage.change(blocker, desiredState="Released")
    stage.until(early, granted)
    big, small = stage.child("all", cpu="3"), stage.child("all", cpu="1")
    full = stage.until(big, is_("Ready", "False", "ParentFull"))
    row = next(row for row in full["status"]["rejections"] if row.get("resource") == "cpu")
    assert (row["reason"], row["shortBy"]) == ("Insufficient", "1")
    stage.until(small, is_("Ready", "False", "BlockedByHead"))
    stage.change(early, desiredState="Released")
    stage.until(big, granted)
    stage.until(small, granted)


def test_what_can_never_be_is_refused_in_words(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool, other = stage.pool(), stage.pool(selector={"matchLabels": {"no": "node"}}, wait="")
    parent = stage.lease(pool, cpu="2")
    stage.until(parent, granted)
    child = stage.child(parent, cpu="1")
    stage.until(child, granted)
    stage.until(stage.child(parent, cpu="3"), is_("Accepted", "False", "ExceedsParent"))
    stage.until(stage.child(child, cpu="1"), is_("Accepted", "False", "ParentIsChild"))
    elsewhere = stage.child(parent, cpu="1", poolRef={"name": other})
    stage.until(elsewhere, is_("Accepted", "False", "ParentInOtherPool"))
    unknown = stage.child(parent, resources={"vendor.example/gpu": 1})
    stage.until(unknown, is_("Accepted", "False", "ResourceNotOffered"))


def test_a_childs_term_is_cut_to_its_parents_and_grows_with_it(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"gracePeriodSeconds": 60})
    parent = stage.lease(pool, cpu="2", durationSeconds=60)
    first = stage.until(parent, granted)["status"]["deadlines"]["expirationTime"]
    child = stage.child(parent, cpu="1", durationSeconds=600)
    assert stage.until(child, granted)["status"]["deadlines"]["expirationTime"] == first
    stage.change(parent, durationSeconds=300)
    stage.renew(parent)
    later = stage.until(parent, lambda o: o["status"]["deadlines"]["expirationTime"] != first)
    stage.renew(child)
    renewed = stage.until(child, lambda o: o["status"]["deadlines"]["expirationTime"] != first)
    end = later["status"]["deadlines"]["expirationTime"]
    assert renewed["status"]["deadlines"]["expirationTime"] == end
    stage.change(parent, durationSeconds=1)
    stage.renew(parent)
    stage.until(parent, lambda o: o["status"]["renewal"]["count"] == 2)
    assert stage.get(parent)["status"]["deadlines"]["expirationTime"] == end, "a child's end rests on it"


def test_a_parent_ends_its_children_first_and_gives_back_after_them(bare: Stage) -> None:
    node, *_ = bare.nodes.create(1, SMALL)
    pool = bare.pool(wait="", policy={"verification": "NodeReport", "verificationTimeoutSeconds": 3600})
    record = Record(bare)
    with ThreadOperator(bare.control_plane.kubeconfig):
        bare.nodes.report(node)
        parent = bare.lease(pool, cpu="3")
        bare.until(parent, granted)
        child = bare.child(parent, cpu="2")
        bare.until(child, granted)
        waiting = bare.child(parent, cpu="2")
        bare.until(waiting, is_("Ready", "False", "ParentFull"))
        bare.kube.delete(LEASES, parent, bare.namespace)
        bare.until(parent, is_("Released", "False", "ChildrenLeaving"))
        gone = bare.until(child, is_("Released", "False", "VerificationPending"))
        assert cause(gone) == "ParentEnded"
        assert cause(bare.until(waiting, finished)) == "ParentEnded"
        assert holding(bare.get(parent)), "a child may still be at work in it"
        bare.annotate(parent, force_release="true")
        over = bare.until(child, finished)
        assert condition(over, "Released")["reason"] == "Forced", "a parent's force is its children's too"
        bare.until_gone(parent)
        record.close()
    record.check({node: SMALL.resources()})
    order = [
        event["metadata"]["name"]
        for kind, event in record.revisions
        if is_("Released")(event) and kind != "DELETED"
    ]
    assert order.index(child) < order.index(parent)


def test_a_revoked_parent_tells_its_children_when_it_goes(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"gracePeriodSeconds": 10})
    parent = stage.lease(pool, cpu="2")
    stage.until(parent, granted)
    child = stage.child(parent, cpu="1")
    stage.until(child, granted)
    stage.annotate(parent, revoke="maintenance")
    told = stage.until(child, is_("DisruptionTarget", "True", "ParentEnded"))
    assert is_("Ready")(told), "the grace is its holder's"
    notice = stage.get(parent)["status"]["deadlines"]["revocationTime"]
    assert told["status"]["deadlines"]["revocationTime"] == notice
    late = stage.child(parent, cpu="1")
    stage.until(late, is_("Ready", "False", "ParentNotReady"))
    over = stage.until(parent, finished)
    assert cause(over) == "AdminRevoked"
    ended = stage.get(child)
    assert finished(ended)
    assert parse_time(ended["status"]["release"]["finishTime"]) >= parse_time(notice)
    assert cause(stage.until(late, finished)) == "ParentEnded"


def test_a_parent_shrinks_when_its_children_have_given_back(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    parent = stage.lease(pool, cpu="4")
    stage.until(parent, granted)
    child = stage.child(parent, cpu="3")
    stage.until(child, granted)
    stage.change(parent, resources={"cpu": "2"})
    stage.until(parent, is_("Degraded", "True", "HeldByChildren"))
    assert holding(stage.get(parent))[0][1] == {"cpu": "4"}
    late = stage.child(parent, cpu="1")
    stage.until(late, is_("Ready", "False", "ParentFull"))
    stage.change(child, resources={"cpu": "1"})
    shrunk = stage.until(parent, lambda o: holding(o)[0][1] == {"cpu": "2"})
    assert not is_("Degraded")(stage.until(parent, is_("Degraded", "False"))), shrunk
    stage.until(late, granted)


ROUNDS = 4


def test_killed_again_and_again_while_it_shares_out(bare: Stage) -> None:
    bare.nodes.create(2, SMALL)
    pool = bare.pool(wait="")
    record = Record(bare)
    dice = random.Random(20261128)
    with ProcessOperator(bare.control_plane) as operator:
        operator.wait_ready()
        parents = [bare.lease(pool, name=f"p{i}", cpu="4", durationSeconds=3600) for i in range(2)]
        for parent in parents:
            bare.until(parent, granted)
        operator.child.kill()
    for round_ in range(ROUNDS):
        with ProcessOperator(bare.control_plane, writers=dice.choice((1, 4, 24))) as operator:
            for i in range(8):
                bare.child(parents[i % 2], name=f"c{round_}-{i}", durationSeconds=1 if i % 2 else 3)
            if round_ == ROUNDS - 1:
                bare.change(parents[0], desiredState="Released")
            operator.wait_ready()
            seen = len(record.revisions)
            wait_until(lambda seen=seen: len(record.revisions) > seen + dice.randrange(10), 2, 0.001)
            time.sleep(dice.random() * 0.05)
            assert operator.child.running()
            operator.child.kill()
    with ProcessOperator(bare.control_plane) as operator:
        operator.wait_ready()
        for round_ in range(ROUNDS):
            for i in range(8):
                assert cause(bare.until(f"c{round_}-{i}", finished, 40)) in ("TermEnded", "ParentEnded")
        bare.until(parents[0], finished)
        assert is_("Ready")(bare.get(parents[1]))
        quiet = bare.until_pool(pool, lambda o: not o["status"]["ledger"]["inFlight"])
        assert is_("LedgerConsistent")(quiet)
        record.close()
    record.check(dict.fromkeys(bare.nodes.names, SMALL.resources()))


def test_a_leader_that_slept_does_not_end_a_parent_whose_children_it_does_not_know(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    pool = bare.pool(wait="")
    record = Record(bare)

    def replica(name: str) -> ProcessOperator:
        return ProcessOperator(bare.control_plane, identity=f"{bare.namespace}-{name}")

    with replica("a") as first, replica("b") as second:
        until(lambda: first.ready() or second.ready(), "one of them leads")
        leader, other = (first, second) if first.ready() else (second, first)
        parent = bare.lease(pool, cpu="4")
        bare.until(parent, granted)
        leader.child.signal(signal.SIGSTOP)
        child = bare.child(parent, cpu="3")
        bare.until(child, granted, 40)
        assert other.ready(), "the other one granted it"
        fenced = bare.get(parent)["status"]["allocation"]["ledgerEpoch"]
        assert fenced == bare.kube.get(POOLS, pool)["status"]["ledger"]["epoch"]
        other.child.signal(signal.SIGSTOP)
        bare.change(parent, desiredState="Released")
        leader.child.signal(signal.SIGCONT)
        other.child.signal(signal.SIGCONT)
        assert cause(bare.until(child, finished, 40)) == "ParentEnded"
        bare.until(parent, finished, 40)
        record.close()
    record.check(dict.fromkeys(bare.nodes.names, SMALL.resources()))
