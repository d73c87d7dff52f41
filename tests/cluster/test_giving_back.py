"""The ways in which capacity comes back when its holder does not simply give it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.cluster.harness import (
    PATIENCE,
    POOLS,
    SMALL,
    Stage,
    ThreadOperator,
    condition,
    finished,
    granted,
    is_,
)

from leasehold.controller import Controller
from leasehold.core.times import parse_time

VERIFIED = {"verification": "NodeReport", "verificationTimeoutSeconds": 30}


def test_a_node_confirms_before_the_capacity_is_free(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=VERIFIED)
    lease = stage.lease(pool, cpu="4")
    stage.until(lease, granted)
    late = stage.lease(pool, cpu="4")
    uid = stage.until(lease, granted)["metadata"]["uid"]
    stage.nodes.report(node, leases=[{"uid": uid, "state": "Gone"}])  # from before: proves nothing
    stage.change(lease, desiredState="Released")
    pending = stage.until(lease, is_("Released", "False", "VerificationPending"))
    assert pending["status"]["deadlines"]["next"]["cause"] == "Verification"
    stage.nodes.report(node, leases=[{"uid": uid, "state": "Present"}])
    stage.settled(lease, is_("Released", "False"), 0.3)
    assert not granted(stage.get(late))
    start = parse_time(pending["status"]["release"]["startTime"])
    confirm(stage, node, uid, after=start)
    assert condition(stage.until(lease, finished), "Released")["reason"] == "Verified"
    stage.until(late, granted)


def confirm(stage: Stage, node: str, uid: str, *, after: int) -> None:
    """Report the lease as gone, at a whole second (all a simulated reporter writes) after the release began."""
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(after // 1000 + 1, UTC)
    stage.nodes.report(node, at=at, leases=[{"uid": uid, "state": "Gone"}])


def test_without_the_nodes_word_the_capacity_is_quarantined_until_someone_forces_it(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**VERIFIED, "verificationTimeoutSeconds": 1})
    lease = stage.lease(pool, cpu="4")
    stage.until(lease, granted)
    late = stage.lease(pool, cpu="4")
    stage.until(lease, granted)
    stage.kube.delete("clease", lease, stage.namespace)
    stuck = stage.until(lease, is_("Released", "False", "Quarantined"))
    assert stuck["status"]["phase"] == "Quarantined"
    assert stage.nodes.names[0] in stuck["status"]["release"]["lastError"]
    stage.until_pool(pool, lambda o: o["status"]["leases"]["quarantined"] == 1)
    assert not granted(stage.get(late))
    stage.annotate(lease, force_release="true")
    stage.until_gone(lease)
    stage.until(late, granted)


def test_a_node_that_is_gone_needs_no_word(stage: Stage) -> None:
    (node, _) = stage.nodes.create(2, SMALL)
    pool = stage.pool(
        policy={**VERIFIED, "verificationTimeoutSeconds": 1}, placement={"strategy": "FirstFit"}
    )
    lease = stage.lease(pool, cpu="4")
    stage.until(lease, granted)
    stage.change(lease, desiredState="Released")
    stage.until(lease, is_("Released", "False", "Quarantined"))
    stage.nodes.delete(node)
    assert condition(stage.until(lease, finished), "Released")["reason"] == "NodeGone"


def test_an_administrator_takes_a_lease_back_and_says_why(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(policy={"gracePeriodSeconds": 5}))
    stage.until(lease, granted)
    stage.annotate(lease, revoke="maintenance at noon")
    target = stage.until(lease, is_("DisruptionTarget", "True", "AdminRevoked"))
    assert "maintenance at noon" in condition(target, "DisruptionTarget")["message"]
    over = stage.until(lease, finished)
    assert condition(over, "Finished")["reason"] == "Revoked"


def test_stop_policy_hold_grants_nothing_and_drain_takes_all(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"gracePeriodSeconds": 1})
    held = stage.lease(pool)
    stage.until(held, granted)
    stage.change_pool(pool, stopPolicy="Hold")
    stage.until_pool(pool, is_("Ready", "False", "PoolHeld"))
    late = stage.lease(pool)
    stage.until(late, is_("Allocated", "False", "PoolHeld"))
    assert is_("Ready")(stage.get(held))
    stage.change_pool(pool, stopPolicy="HoldAndDrain")
    stage.until_pool(pool, is_("Draining"))
    over = stage.until(held, finished)
    assert over["status"]["release"]["cause"] == "PoolDraining"
    stage.change_pool(pool, stopPolicy="None")
    stage.until(late, granted)


def test_a_drain_that_is_called_off_spares_the_lease(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"gracePeriodSeconds": 60})
    held = stage.lease(pool)
    stage.until(held, granted)
    stage.change_pool(pool, stopPolicy="HoldAndDrain")
    stage.until(held, is_("DisruptionTarget"))
    stage.change_pool(pool, stopPolicy="None")
    spared = stage.until(held, lambda o: condition(o, "DisruptionTarget")["status"] == "")
    assert "revocationTime" not in spared["status"]["deadlines"]


def test_a_deleted_pool_drains_and_then_goes(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"gracePeriodSeconds": 5})
    held = stage.lease(pool, cpu="3")
    stage.until(held, granted)
    waiting = stage.lease(pool, cpu="3")
    stage.until(held, granted)
    stage.until(waiting, is_("Allocated", "False"))
    assert "leasehold.dev/drain" in stage.kube.get(POOLS, pool)["metadata"]["finalizers"]
    stage.kube.delete(POOLS, pool)
    stage.until_pool(pool, is_("Ready", "False", "PoolDraining"))
    over = stage.until(held, finished)
    assert over["status"]["release"]["cause"] == "PoolDraining"
    stage.kube.wait_gone(POOLS, pool)
    stage.until(waiting, is_("Accepted", "False", "PoolNotFound"))


def test_a_pool_that_is_deleted_while_it_is_swept_does_not_wait_for_the_frameworks_next_look(
    bare: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep lists all leases, which takes a while; the finalizer of the framework goes when the sweep is over."""
    sweep, swept = Controller.sweep, threading.Event()

    async def slowly(self: Controller, name: str) -> None:
        await sweep(self, name)
        swept.set()
        await asyncio.sleep(1)

    monkeypatch.setattr(Controller, "sweep", slowly)
    bare.nodes.create(1, SMALL)
    with ThreadOperator(bare.control_plane.kubeconfig):
        pool = bare.pool()
        assert swept.wait(PATIENCE)
        bare.kube.delete(POOLS, pool)
        bare.kube.wait_gone(POOLS, pool, timeout_seconds=PATIENCE)


def test_a_pool_made_anew_serves_those_that_waited_and_repeats_no_token(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    kept = stage.lease(pool)
    token = stage.until(kept, granted)["status"]["fencingToken"]
    stage.kube.delete(POOLS, pool)
    stage.until(kept, finished)
    stage.kube.wait_gone(POOLS, pool)
    waiting = stage.lease(pool)
    stage.until(waiting, is_("Accepted", "False", "PoolNotFound"))
    stage.kube.create(
        {
            "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "CapacityPool",
            "metadata": {"name": pool},
            "spec": {"nodeSelector": stage.nodes.selector},
        }
    )
    held = stage.until(waiting, granted)
    assert condition(held, "Accepted")["status"] == ""
    assert held["status"]["fencingToken"] > token


def test_leases_of_a_namespace_that_goes_are_given_back(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, cpu="4")
    stage.until(lease, granted)
    waiting = stage.lease(pool, cpu="4")
    stage.kube.delete("namespaces", stage.namespace)  # nobody empties it here: its leases are orphans
    for name in (lease, waiting):
        assert stage.until(name, finished)["status"]["release"]["cause"] == "NamespaceGone"
    stage.until_pool(pool, lambda o: o["status"]["leases"]["held"] == 0)
