"""What goes wrong around pods, and what others do to them: nothing is promised twice, nobody is evicted for nothing."""

from __future__ import annotations

import subprocess
import time

import pytest
from tests.cluster.harness import LEASES, SMALL, condition, finished, granted, is_, nodes_of
from tests.enforcement.harness import (
    Enforcer,
    PodStage,
    bound_to,
    condition_of,
    gated,
    going,
    not_leased,
    running,
    until,
)

from leasehold.core.times import parse_time
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError


def held(stage: PodStage, pool: str = "", cpu: str = "2", **spec: object) -> str:
    lease = stage.lease(pool or stage.pool(), cpu=cpu, **spec)
    stage.until(lease, granted)
    return lease


def run(stage: PodStage, lease: str, cpu: str = "1", **wish: object) -> str:
    pod = stage.pod(lease, cpu=cpu, memory="", **wish)
    stage.until_pod(pod, running)
    return pod


# --- the operator ---


def test_while_the_operator_is_away_pods_wait_or_run_and_nobody_is_evicted(
    stage: PodStage, enforcer: Enforcer
) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    brief = held(stage, pool, durationSeconds=10)
    end = parse_time(stage.get(brief)["status"]["deadlines"]["expirationTime"])
    pod = run(stage, brief)
    other = held(stage, pool)
    with enforcer.away():
        late = stage.pod(other, memory="")
        until(lambda: time.time() * 1000 > end, "its term is over")
        stage.settled_pod(pod, lambda pod: running(pod) and not going(pod), 1)
        assert gated(stage.get_pod(late))
    stage.until_pod(late, running)
    stage.until_pod_gone(pod)
    stage.until(brief, finished)


def test_a_slice_is_given_once_although_the_operator_was_killed_meanwhile(
    stage: PodStage, enforcer: Enforcer
) -> None:
    stage.nodes.create(3, SMALL)
    lease = stage.lease(stage.pool(), cpu="3", count=3)
    stage.until(lease, granted)
    job = stage.job(lease, pods=3, cpu="3", memory="")
    with enforcer.away():
        pass
    pods = stage.until_pods(job, 3, running)
    assert len({pod["metadata"]["annotations"]["leasehold.dev/slice"] for pod in pods}) == 3


# --- nodes ---


def test_on_a_node_that_is_silent_the_room_of_an_ended_lease_is_kept_aside(stage: PodStage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"verificationTimeoutSeconds": 1}, enforcement={"evictionTimeoutSeconds": 1})
    lease = held(stage, pool, cpu="4")
    pod = run(stage, lease, cpu="4")
    with stage.silent(node):
        stage.change(lease, desiredState="Released")
        stage.until(lease, is_("Released", "False", "Quarantined"))
        waits = stage.lease(pool, cpu="4")
        stage.until(waits, is_("Allocated", "False"))
    stage.until_pod_gone(pod)
    stage.until(lease, finished)
    stage.until(waits, granted)


# --- leases and pods that change ---


def test_a_lease_that_is_deleted_goes_when_its_pods_are_gone(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    lease = held(stage)
    pod = run(stage, lease, hangs=True)
    stage.kube.delete(LEASES, lease, stage.namespace)
    stage.until_pod(pod, going)
    assert not finished(stage.get(lease))
    stage.let_go(pod)
    stage.until_gone(lease)


def test_a_lease_made_anew_under_its_name_has_nothing_to_do_with_the_pods_of_before(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    stage.lease(pool, "twice", cpu="2")
    stage.until("twice", granted)
    pod = run(stage, "twice", cpu="2", hangs=True)
    stage.annotate("twice", force_release="true")
    stage.kube.delete(LEASES, "twice", stage.namespace)
    stage.until_gone("twice")
    stage.lease(pool, "twice", cpu="2")
    stage.until("twice", granted)
    assert going(stage.get_pod(pod)), "it still runs, and counts as a pod without a lease"
    other = stage.lease(pool, cpu="1")
    stage.until(other, is_("Allocated", "False", "WaitingForCapacity"))
    stage.let_go(pod)
    stage.until(other, granted)


def test_a_pod_made_anew_under_its_name_takes_the_room_of_the_first(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    lease = held(stage)
    app = stage.stateful_set(lease, cpu="2", memory="")
    (first,) = stage.until_pods(app, 1, running)
    stage.delete_pod(first["metadata"]["name"])
    until(
        lambda: (
            [p["metadata"]["uid"] for p in stage.pods_of(app) if running(p)]
            not in ([], [first["metadata"]["uid"]])
        ),
        "another of the name runs",
    )
    assert granted(stage.get(lease))


def test_a_pod_cannot_be_moved_from_one_lease_to_another(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    first, second = held(stage, pool), held(stage, pool)
    pod = run(stage, first)
    with pytest.raises(ApiError) as refused:
        stage.kube.patch(
            "pods", pod, {"metadata": {"labels": {"leasehold.dev/lease": second}}}, stage.namespace
        )
    assert refused.value.status == 403


def test_a_pod_that_grows_in_place_beyond_its_lease_is_seen_and_counted(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = held(stage, pool, cpu="2")
    pod = run(stage, lease, cpu="2")
    stage.resize(pod, cpu="3")
    stage.until(lease, is_("Degraded", "True", "PodsAboveGrant"))
    waits = stage.lease(pool, cpu="2")
    stage.until(waits, is_("Allocated", "False", "WaitingForCapacity"))
    stage.resize(pod, cpu="2")
    stage.until(lease, is_("Degraded", "False"))
    stage.until(waits, granted)


# --- those who make pods ---


def test_more_replicas_than_the_lease_has_room_for_wait_with_the_reason(stage: PodStage) -> None:
    """As when an HPA wants more: it is not fought, and not served beyond the lease."""
    stage.nodes.create(2, SMALL)
    lease = stage.lease(stage.pool(), cpu="1", count=2)
    stage.until(lease, granted)
    app = stage.deployment(lease, replicas=2, cpu="1", memory="")
    stage.until_pods(app, 2, running)
    stage.kube.patch("deployments.apps", app, {"spec": {"replicas": 4}}, stage.namespace)
    stage.until_pods(app, 2, not_leased("ExceedsLease"))
    assert stage.kube.get("deployments.apps", app, stage.namespace)["spec"]["replicas"] == 4
    stage.kube.patch("deployments.apps", app, {"spec": {"replicas": 2}}, stage.namespace)
    until(lambda: len(stage.pods_of(app)) == 2, "those that wait go")


def test_a_quota_that_lets_no_pod_be_made_costs_nobody_the_room_for_long(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"claimTimeoutSeconds": 3})
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": {"pods": "0"}}}
    stage.kube.create({**quota, "metadata": {"name": "none", "namespace": stage.namespace}})
    stage.kube.wait("resourcequotas", "none", stage.namespace, until=lambda q: "hard" in q.get("status", {}))
    lease = held(stage, pool, cpu="4")
    job = stage.job(lease, cpu="4", memory="")
    ended = stage.until(lease, finished)
    assert ended["status"]["release"]["cause"] == "ClaimTimeout"
    assert stage.pods_of(job) == []


def test_defaults_of_a_limit_range_count_as_requests(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    limits = {"limits": [{"type": "Container", "defaultRequest": {"cpu": "3"}, "default": {"cpu": "3"}}]}
    meta = {"name": "defaults", "namespace": stage.namespace}
    stage.kube.create({"apiVersion": "v1", "kind": "LimitRange", "metadata": meta, "spec": limits})
    lease = held(stage)
    pod = stage.pod(lease, cpu="", memory="")
    told = stage.until_pod(pod, not_leased("ExceedsLease"))
    assert "requests 3 cpu" in condition_of(told)["message"]


def test_kubectl_run_with_a_label_is_enough(stage: PodStage, whole: ControlPlane) -> None:
    stage.nodes.create(2, SMALL)
    lease = stage.lease(stage.pool(), cpu="1")
    (node,) = nodes_of(stage.until(lease, granted))
    where = ["--kubeconfig", str(whole.kubeconfig), "-n", stage.namespace]
    label = f"--labels=leasehold.dev/lease={lease}"
    subprocess.run(
        [whole.program("kubectl"), *where, "run", "mine", "--image=none", label],
        check=True,
        capture_output=True,
        timeout=60,
    )
    found = stage.until_pod("mine", running)
    assert bound_to(node)(found)
    assert condition(found, "PodScheduled")["status"] == "True"
