"""A lease goes from one holder to another: the capacity stays, the token rises, and the one before is fenced."""

from __future__ import annotations

import threading

import pytest
from tests.cluster.harness import (
    POOLS,
    SMALL,
    Object,
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
from tests.cluster.test_crashes import ROUNDS

from leasehold.testing.errors import ApiError


def held_by(identity: str):  # type: ignore[no-untyped-def]
    return lambda o: o["status"].get("holder", {}).get("identity") == identity


def holder(identity: str, session: str = "") -> Object:
    return {"identity": identity, **({"sessionRef": {"name": session}} if session else {})}


def test_a_change_of_the_holder_gives_a_larger_token_and_moves_nothing(stage: Stage) -> None:
    stage.nodes.create(2, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, cpu="4", holder=holder("first"))
    before = stage.until(lease, granted)
    assert before["status"]["holder"] == holder("first")
    waiting = [stage.lease(pool, cpu="4") for _ in range(2)]  # whoever finds a moment in which it is free
    stage.until(waiting[1], is_("Ready", "False", "WaitingForCapacity"))
    stage.change(lease, holder=holder("second"))
    after = stage.until(lease, held_by("second"))
    assert after["status"]["fencingToken"] > before["status"]["fencingToken"]
    assert after["status"]["allocation"]["slices"] == before["status"]["allocation"]["slices"]
    assert after["status"]["deadlines"] == before["status"]["deadlines"], "nothing is extended"
    assert after["status"]["observedGeneration"] == after["metadata"]["generation"]
    assert is_("Ready")(after)
    assert not granted(stage.get(waiting[1]))
    until(lambda: any(event["reason"] == "HandedOver" for event in stage.events(lease)), "an Event says so")
    stage.change(lease, holder=None)
    nobody = stage.until(lease, lambda o: o["status"]["holder"] == {})
    assert nobody["status"]["fencingToken"] > after["status"]["fencingToken"]


def test_the_holder_before_cannot_write_itself_back(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(), holder=holder("first"))
    token = stage.until(lease, granted)["status"]["fencingToken"]
    stage.change(lease, holder=holder("second"))
    stage.until(lease, held_by("second"))
    with pytest.raises(ApiError, match="a token belongs to one holder"):
        stage.kube.patch(
            "capacityleases.leasehold.dev",
            lease,
            {"status": {"holder": holder("first")}},
            stage.namespace,
            subresource="status",
        )
    assert stage.get(lease)["status"]["fencingToken"] > token


def test_a_dead_holders_lease_lives_on_with_the_session_of_the_next(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(
        policy={"heartbeatTimeoutSeconds": 5, "claimTimeoutSeconds": 30, "gracePeriodSeconds": 30}
    )
    stage.session("one")
    lease = stage.lease(pool, liveness="Session", holder=holder("one", "one"))
    stage.until(lease, is_("HolderLive"))
    stage.until(lease, is_("HolderLive", "False", "Missed"))
    stage.change(lease, holder=holder("two", "two"))
    taken = stage.until(lease, held_by("two"))
    assert condition(taken, "Claimed")["reason"] == "WaitingForHolder"
    assert "HolderLive" not in {row["type"] for row in taken["status"]["conditions"]}
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.5):
            stage.session("two")

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        stage.until(lease, is_("HolderLive"))
        stage.settled(lease, is_("Ready"), 7)
    finally:
        stop.set()
        beating.join()


def test_who_takes_over_and_does_not_show_up_loses_the_lease(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"heartbeatTimeoutSeconds": 60, "claimTimeoutSeconds": 8})
    lease = stage.lease(pool, liveness="Renew", holder=holder("one"))
    stage.until(lease, granted)
    stage.renew(lease)
    stage.until(lease, is_("HolderLive"))
    stage.change(lease, holder=holder("two"))
    over = stage.until(lease, finished)
    assert over["status"]["release"]["cause"] == "ClaimTimeout"
    assert over["status"]["holder"] == holder("two")


def test_a_lease_that_ends_goes_to_nobody(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(), holder=holder("one"))
    token = stage.until(lease, granted)["status"]["fencingToken"]
    stage.change(lease, holder=holder("two"), desiredState="Released")
    over = stage.until(lease, finished)
    assert (over["status"]["holder"], over["status"]["fencingToken"]) == (holder("one"), token)


def test_a_notice_runs_on_for_the_next_holder(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(policy={"gracePeriodSeconds": 8}), holder=holder("one"))
    stage.until(lease, granted)
    stage.annotate(lease, revoke="maintenance")
    notice = stage.until(lease, is_("DisruptionTarget"))["status"]["deadlines"]["revocationTime"]
    stage.change(lease, holder=holder("two"))
    taken = stage.until(lease, held_by("two"))
    assert taken["status"]["deadlines"]["revocationTime"] == notice
    assert stage.until(lease, finished)["status"]["release"]["cause"] == "AdminRevoked"


def test_a_handover_that_an_earlier_operator_committed_is_finished(bare: Stage) -> None:
    (node,) = bare.nodes.create(1, SMALL)
    pool = bare.pool(wait="")
    with ThreadOperator(bare.control_plane.kubeconfig):
        lease = bare.lease(pool, cpu="3", holder=holder("one"))
        stale = bare.lease(pool, cpu="1", holder=holder("one"))
        uids = [bare.until(name, granted)["metadata"]["uid"] for name in (lease, stale)]
    rows = [
        {
            "uid": uid,
            "namespace": bare.namespace,
            "name": name,
            "sequence": sequence,
            "resources": {"cpu": cpu},
            "nodes": [node],
            "holder": holder("two"),
        }
        for uid, name, sequence, cpu in ((uids[0], lease, 40, "3"), (uids[1], stale, 41, "1"))
    ]
    bare.change(lease, holder=holder("two"))
    bare.change(stale, holder=holder("three"))  # it was to go to another, and changed its mind
    ledger = {"ledger": {"epoch": 7, "sequence": 41, "inFlight": rows}}
    bare.kube.patch(POOLS, pool, {"status": ledger}, subresource="status")
    with ThreadOperator(bare.control_plane.kubeconfig):
        taken = bare.until(lease, held_by("two"))
        assert (taken["status"]["fencingToken"], nodes_of(taken)) == (40, [node])
        anew = bare.until(stale, held_by("three"))
        assert anew["status"]["fencingToken"] > 41
        bare.until_pool(pool, lambda o: o["status"]["ledger"]["inFlight"] == [])


def test_killed_again_and_again_while_it_hands_over(bare: Stage) -> None:
    bare.nodes.create(2, SMALL)
    pool = bare.pool(wait="")
    record = Record(bare)
    leases = [f"l{i}" for i in range(6)]
    with ThreadOperator(bare.control_plane.kubeconfig):
        for lease in leases:
            bare.lease(pool, name=lease, holder=holder("h"))
        for lease in leases:
            bare.until(lease, granted)
    for round_ in range(ROUNDS):
        with ProcessOperator(bare.control_plane, writers=1) as operator:
            for lease in leases:
                bare.change(lease, holder=holder(f"h{round_}"))
            operator.wait_ready()
            bare.until(leases[round_], held_by(f"h{round_}"))
            operator.child.kill()
    with ProcessOperator(bare.control_plane) as operator:
        operator.wait_ready()
        for lease in leases:
            last = bare.until(lease, held_by(f"h{ROUNDS - 1}"))
            assert holding(last), "it was held all the time"
        bare.until_pool(pool, lambda o: not o["status"]["ledger"]["inFlight"])
        record.close()
    record.check(dict.fromkeys(bare.nodes.names, SMALL.resources()))
    assert len(record.revisions) > ROUNDS * len(leases) / 2
    for lease in leases:
        seen_tokens = [
            o["status"]["fencingToken"]
            for _, o in record.revisions
            if o["metadata"]["name"] == lease and "fencingToken" in (o.get("status") or {})
        ]
        assert seen_tokens == sorted(seen_tokens)
        assert all(holding(o) for _, o in record.revisions if o["metadata"]["name"] == lease and granted(o))
