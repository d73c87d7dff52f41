"""Holders that fall silent, never show up, or hold what they do not use."""

from __future__ import annotations

import threading

from tests.cluster.harness import SMALL, Stage, condition, finished, granted, is_, until

from leasehold.core.times import parse_time

LIVELY = {"heartbeatTimeoutSeconds": 5, "claimTimeoutSeconds": 30}


def test_a_holder_that_stops_renewing_loses_its_lease(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**LIVELY, "gracePeriodSeconds": 5})
    lease = stage.lease(pool, liveness="Renew")
    stage.until(lease, granted)
    stage.renew(lease)
    live = stage.until(lease, is_("HolderLive"))
    due = parse_time(live["status"]["deadlines"]["heartbeatTime"])
    missed = stage.until(lease, is_("HolderLive", "False", "Missed"))
    assert condition(missed, "ExpiringSoon")["reason"] == "Heartbeat"
    assert condition(missed, "Ready")["status"] == "True", "the grace is the holder's"
    since = parse_time(missed["status"]["deadlines"]["heartbeatTime"])
    assert since >= due, "later where the API server was silent meanwhile"
    over = stage.until(lease, finished)
    assert over["status"]["release"]["cause"] == "HeartbeatLost"
    assert since + 5000 <= parse_time(over["status"]["release"]["finishTime"]) < since + 10_000


def test_a_heartbeat_within_the_grace_saves_the_lease(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**LIVELY, "gracePeriodSeconds": 20})
    lease = stage.lease(pool, liveness="Renew")
    stage.until(lease, granted)
    stage.renew(lease)
    stage.until(lease, is_("HolderLive", "False"))
    stage.renew(lease)
    saved = stage.until(lease, is_("HolderLive"))
    assert "ExpiringSoon" not in {c["type"] for c in saved["status"]["conditions"]}


def test_one_session_keeps_many_leases_alive_and_its_loss_takes_them_all(stage: Stage) -> None:
    stage.nodes.create(2, SMALL)
    pool = stage.pool(policy=LIVELY)
    stage.session("worker")
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(1):
            stage.session("worker")

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        holder = {"identity": "worker", "sessionRef": {"name": "worker"}}
        leases = [stage.lease(pool, liveness="Session", holder=holder, durationSeconds=3) for _ in range(6)]
        for lease in leases:
            held = stage.until(lease, is_("Claimed"))
            assert condition(held, "Claimed")["reason"] == "SessionLive"
        for lease in leases:  # past the first term, which nobody renewed by hand
            renewed = stage.until(lease, lambda o: o["status"].get("renewal", {}).get("count", 0) >= 2)
            assert granted(renewed)
            assert "renewTime" not in renewed["spec"]
    finally:
        stop.set()
        beating.join()
    for lease in leases:
        over = stage.until(lease, finished)
        assert over["status"]["release"]["cause"] in ("HeartbeatLost", "TermEnded")


def test_a_session_that_is_deleted_takes_its_leases_at_once(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**LIVELY, "heartbeatTimeoutSeconds": 60})
    stage.session("brief")
    lease = stage.lease(pool, liveness="Session", holder={"sessionRef": {"name": "brief"}})
    stage.until(lease, is_("Claimed"))
    stage.kube.delete("leases.coordination.k8s.io", "brief", stage.namespace)
    over = stage.until(lease, finished)
    assert over["status"]["release"]["cause"] == "HeartbeatLost"


def test_a_coordination_lease_without_the_label_is_no_session(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**LIVELY, "claimTimeoutSeconds": 1})
    stage.kube.create(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "plain", "namespace": stage.namespace},
            "spec": {},
        }
    )
    lease = stage.lease(pool, liveness="Session", holder={"sessionRef": {"name": "plain"}})
    over = stage.until(lease, finished)
    assert over["status"]["release"]["cause"] == "ClaimTimeout"


def test_a_lease_nobody_claims_is_taken_back(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**LIVELY, "claimTimeoutSeconds": 5})
    lease = stage.lease(pool, liveness="Renew")
    bound = stage.until(lease, is_("Claimed", "False", "WaitingForHolder"))
    assert bound["status"]["deadlines"]["next"]["cause"] == "Claim"
    over = stage.until(lease, finished)
    assert over["status"]["release"]["cause"] == "ClaimTimeout"
    assert condition(over, "Finished")["reason"] == "Expired"


def test_an_idle_lease_is_warned_and_released_when_the_pool_says_so(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    idle = {"policy": "Release", "periodSeconds": 10, "belowPercent": 50}
    pool = stage.pool(policy={"idle": idle})
    lease = stage.lease(pool, cpu="2")
    uid = stage.until(lease, granted)["metadata"]["uid"]
    asked = stage.kube.wait(
        "nodereports", node, until=lambda o: uid in (o["spec"].get("leaseUIDs") or ()), timeout_seconds=30
    )
    assert asked["spec"]["leaseUIDs"] == [uid]
    stage.nodes.report(node, leases=[{"uid": uid, "state": "Present", "cpu": "100m", "memory": "0"}])
    over = stage.until(lease, finished, 40)
    assert over["status"]["release"]["cause"] == "Idle"
    until(
        lambda: stage.kube.get("nodereports", node)["spec"].get("leaseUIDs") in (None, []),
        "the reporter is not asked any more",
    )


def test_a_lease_in_use_is_not_idle(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"idle": {"policy": "Warn", "periodSeconds": 10, "belowPercent": 50}})
    lease = stage.lease(pool, cpu="2")
    uid = stage.until(lease, granted)["metadata"]["uid"]
    stage.nodes.report(node, leases=[{"uid": uid, "state": "Present", "cpu": "1500m", "memory": "0"}])
    stage.settled(lease, lambda o: is_("Ready")(o) and condition(o, "ExpiringSoon")["status"] == "", 1)
