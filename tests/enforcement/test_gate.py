"""Pods that name a lease: they wait for its room, run in it and within it, and go when it ends."""

from __future__ import annotations

from tests.cluster.harness import SMALL, finished, granted, is_, nodes_of
from tests.enforcement.harness import (
    PodStage,
    bound_to,
    condition_of,
    gated,
    going,
    leased,
    not_leased,
    running,
    until,
)


def reasons(stage: PodStage, about: str) -> set[str]:
    return {event["reason"] for event in stage.events(about)}


# --- from the gate to the node ---


def test_a_pod_runs_where_its_lease_is(stage: PodStage) -> None:
    stage.nodes.create(2, SMALL)
    lease = stage.lease(stage.pool(), cpu="2")
    (node,) = nodes_of(stage.until(lease, granted))
    pod = stage.pod(lease, memory="")
    found = stage.until_pod(pod, running)
    assert bound_to(node)(found)
    uid = stage.get(lease)["metadata"]["uid"]
    assert found["metadata"]["annotations"]["leasehold.dev/slice"] == f"{uid}/0"
    stage.until(lease, is_("Claimed", "True", "PodBound"))


def test_a_pod_waits_for_its_lease_and_is_told_why(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    first = stage.lease(pool, cpu="4")
    stage.until(first, granted)
    lease = stage.lease(pool, cpu="4")
    pod = stage.pod(lease, memory="")
    told = stage.until_pod(pod, not_leased("LeasePending"))
    assert gated(told)
    stage.until_pod(pod, lambda pod: "WaitingForCapacity" in condition_of(pod)["message"])
    stage.change(first, desiredState="Released")
    stage.until_pod(pod, running)
    stage.until_pod(pod, leased)


def test_a_pod_may_come_before_its_lease(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    pod = stage.pod("late", memory="")
    stage.until_pod(pod, not_leased("LeaseNotFound"))
    until(lambda: "LeaseNotFound" in reasons(stage, pod), "an Event says so")
    stage.lease(pool, "late", cpu="2")
    stage.until_pod(pod, running)


def test_in_an_advisory_pool_pods_only_pass(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(enforcement={"mode": "Advisory"}), cpu="1")
    stage.until(lease, granted)
    pod = stage.pod(lease, cpu="3", gated=True)  # as where another pool holds pods
    found = stage.until_pod(pod, running)
    assert "affinity" not in found["spec"]


# --- room ---


def test_excess_pods_wait_until_others_have_finished(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(), cpu="2")
    stage.until(lease, granted)
    first = stage.pod(lease, cpu="1500m", memory="")
    stage.until_pod(first, running)
    second = stage.pod(lease, cpu="1", memory="")
    told = stage.until_pod(second, not_leased("ExceedsLease"))
    assert "500m left" in condition_of(told)["message"]
    stage.finish(first)
    stage.until_pod(second, running)


def test_the_pods_of_a_job_take_a_slice_each(stage: PodStage) -> None:
    nodes = stage.nodes.create(3, SMALL)
    lease = stage.lease(stage.pool(), cpu="3", count=3)
    stage.until(lease, granted)
    job = stage.job(lease, pods=3, cpu="3", memory="")
    pods = stage.until_pods(job, 3, running)
    assert {pod["spec"]["nodeName"] for pod in pods} == set(nodes)
    assert len({pod["metadata"]["annotations"]["leasehold.dev/slice"] for pod in pods}) == 3


def test_pods_without_a_lease_leave_less_to_lend(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    stranger = stage.pod(cpu="3")
    stage.until_pod(stranger, running)
    lease = stage.lease(pool, cpu="2")
    stage.until(lease, is_("Allocated", "False", "WaitingForCapacity"))
    stage.delete_pod(stranger)
    stage.until(lease, granted)


def test_a_gate_removed_by_hand_is_seen_and_counts_as_no_lease(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    waits = stage.lease(pool, "waits", cpu="2", startTime="2099-01-01T00:00:00Z")
    pod = stage.pod(waits, cpu="3", memory="")
    stage.until_pod(pod, not_leased("LeasePending"))
    stage.lift_gate(pod)
    stage.until_pod(pod, running)
    lease = stage.lease(pool, cpu="2")
    stage.until(lease, is_("Allocated", "False", "WaitingForCapacity"))


# --- the end ---


def test_pods_are_evicted_when_their_lease_ends_and_only_then_it_is_given_back(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, cpu="4")
    stage.until(lease, granted)
    pod = stage.pod(lease, cpu="4", memory="", hangs=True)
    stage.until_pod(pod, running)
    stage.change(lease, desiredState="Released")
    stage.until_pod(pod, going)
    stage.until(lease, is_("Released", "False", "PodsLeaving"))
    next_ = stage.lease(pool, cpu="4")
    stage.until(next_, is_("Allocated", "False"))
    stage.let_go(pod)
    stage.until(lease, finished)
    stage.until(next_, granted)
    until(lambda: "Evicted" in reasons(stage, pod), "an Event says so")


def test_pods_are_warned_before_their_lease_ends(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(policy={"warnBeforeSeconds": [3600]}), cpu="1", durationSeconds=60)
    stage.until(lease, granted)
    pod = stage.pod(lease, memory="")
    ending = "leasehold.dev/lease-ending"
    found = stage.until_pod(pod, lambda pod: ending in pod["metadata"].get("annotations", {}))
    assert found["metadata"]["annotations"][ending].endswith("Expiration")
    until(lambda: "LeaseEnding" in reasons(stage, pod), "an Event says so")


def test_a_budget_is_respected_until_the_pools_limit(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(enforcement={"evictionTimeoutSeconds": 12}), cpu="2")
    stage.until(lease, granted)
    pod = stage.pod(lease, memory="")
    stage.until_pod(pod, running)
    stage.budget(pod, minAvailable=1)
    stage.change(lease, desiredState="Released")
    until(lambda: "EvictionRefused" in reasons(stage, pod), "an Event says so")
    stage.settled_pod(pod, running)
    stage.until_pod_gone(pod)
    stage.until(lease, finished)


def test_a_lease_whose_pods_have_finished_is_given_back_if_it_says_so(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(), cpu="2", podCompletionAction="Release")
    stage.until(lease, granted)
    job = stage.job(lease, pods=2, memory="")
    for pod in stage.until_pods(job, 2, running):
        stage.finish(pod["metadata"]["name"])
    stage.until(lease, finished)
    assert stage.get(lease)["status"]["release"]["cause"] == "PodsComplete"


# --- leases within a lease ---


def test_pods_of_a_lease_and_of_its_parts_share_what_it_has(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    whole = stage.lease(pool, cpu="4")
    (node,) = nodes_of(stage.until(whole, granted))
    part = stage.child(whole, cpu="2")
    stage.until(part, granted)
    worker = stage.pod(part, cpu="2", memory="")
    assert bound_to(node)(stage.until_pod(worker, running))
    large = stage.pod(whole, cpu="3", memory="")
    stage.until_pod(large, not_leased("ExceedsLease"))
    small = stage.pod(whole, cpu="1", memory="")
    stage.until_pod(small, running)
    greedy = stage.child(whole, cpu="2")
    stage.until(greedy, is_("Ready", "False", "ParentFull"))
    stage.kube.delete("pods", large, stage.namespace)
    stage.kube.delete("pods", small, stage.namespace)
    stage.until(greedy, granted)


def test_the_pods_of_a_part_go_before_the_whole_is_given_back(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    whole = stage.lease(stage.pool(), cpu="4")
    stage.until(whole, granted)
    part = stage.child(whole, cpu="2")
    stage.until(part, granted)
    stage.until_pod(stage.pod(part, cpu="2", memory=""), running)
    stage.change(whole, desiredState="Released")
    assert stage.until(part, finished)["status"]["release"]["cause"] == "ParentEnded"
    stage.until(whole, finished)
    assert not [pod for pod in stage.kube.list("pods", stage.namespace) if running(pod)]
