"""The stage itself: what the stories with pods rest on, with the operator beside it and nothing for it to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.cluster.harness import SMALL, Object, granted, is_
from tests.enforcement.harness import (
    POD_LEVEL_RESIZE,
    Enforcer,
    PodStage,
    bound_to,
    gated,
    going,
    in_phase,
    pod_stage_on,
    running,
    unscheduled,
    until,
)

from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError


def allowed(status: int, act: Callable[[], None]) -> Callable[[], bool]:
    """Try, and tell whether it was let, where it may be refused with this status."""

    def test() -> bool:
        try:
            act()
        except ApiError as error:
            if error.status != status:
                raise
            return False
        return True

    return test


def refusal(error: pytest.ExceptionInfo[ApiError]) -> str:
    return str(error.value.body.get("message"))


# --- pods and those who make them ---


def test_a_pod_without_a_lease_is_scheduled_and_runs(stage: PodStage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pod = stage.pod()
    stage.until_pod(pod, running)
    found = stage.settled_pod(pod, running)
    assert bound_to(node)(found)
    assert is_("Ready")(found)
    until(lambda: "Scheduled" in [event["reason"] for event in stage.events(pod)], "the scheduler's Event")


def test_a_pod_that_is_too_large_has_no_node(stage: PodStage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    first, second = stage.pod(cpu="3"), stage.pod(cpu="1500m")
    stage.until_pod(first, bound_to(node))
    stage.until_pod(second, unscheduled("Unschedulable"))
    stage.delete_pod(first)
    stage.until_pod(second, running)


def test_a_jobs_pods_run_until_they_are_told_to_finish(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    job = stage.job(pods=2)
    one, other = (pod["metadata"]["name"] for pod in stage.until_pods(job, 2, running))
    stage.settled_pod(one, running)
    stage.finish(one)
    stage.kube.wait("jobs", job, stage.namespace, until=lambda job: job["status"].get("succeeded") == 1)
    stage.finish(other)
    stage.kube.wait("jobs", job, stage.namespace, until=is_("Complete"))


def test_a_pod_can_fail_its_job(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    job = stage.job()
    (pod,) = stage.until_pods(job, 1, running)
    stage.finish(pod["metadata"]["name"], "Failed")
    stage.kube.wait("jobs", job, stage.namespace, until=is_("Failed", reason="BackoffLimitExceeded"))


def test_a_jobs_pod_finishes_with_its_sidecar(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    half = {"requests": {"cpu": "500m"}}
    first = {"name": "first", "image": "none", "resources": half}
    sidecar = {"name": "beside", "image": "none", "resources": half, "restartPolicy": "Always"}
    job = stage.job(initContainers=[first, sidecar])
    (pod,) = stage.until_pods(job, 1, running)
    assert [list(status["state"]) for status in pod["status"]["initContainerStatuses"]] == [
        ["terminated"],
        ["running"],
    ]
    stage.finish(pod["metadata"]["name"])
    stage.kube.wait("jobs", job, stage.namespace, until=is_("Complete"))


def test_a_deployment_runs_and_replaces_what_was_deleted(stage: PodStage) -> None:
    stage.nodes.create(2, SMALL)
    app = stage.deployment(replicas=2)
    first, _ = stage.until_pods(app, 2, running)
    stage.delete_pod(first["metadata"]["name"])
    stage.until_pod_gone(first["metadata"]["name"])
    stage.until_pods(app, 2, running)


def test_a_stateful_sets_pod_comes_back_with_its_name(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    app = stage.stateful_set()
    before = stage.until_pod(f"{app}-0", running)["metadata"]["uid"]
    stage.delete_pod(f"{app}-0")
    stage.until_pod_gone(f"{app}-0", before)
    assert stage.until_pod(f"{app}-0", running)["metadata"]["uid"] != before


# --- gates ---


def test_a_pod_with_the_gate_waits_for_somebody_to_remove_it(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pod = stage.pod(gated=True)
    stage.until_pod(pod, unscheduled("SchedulingGated"))
    assert not bound_to()(stage.settled_pod(pod, gated))
    stage.lift_gate(pod)
    assert not gated(stage.until_pod(pod, running))


def test_a_gated_pod_can_be_narrowed_to_a_node(stage: PodStage) -> None:
    """As the operator does it, which is what the API server lets a gated pod's affinity be changed to."""
    _, chosen, _ = stage.nodes.create(3, SMALL)
    pod = stage.pod(gated=True)
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [chosen]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    narrowed = {"affinity": {"nodeAffinity": required}, "schedulingGates": []}
    stage.kube.patch("pods", pod, {"spec": narrowed}, stage.namespace)
    assert bound_to(chosen)(stage.until_pod(pod, running))


# --- the end of pods ---


def test_a_pod_is_evicted_unless_a_budget_says_no(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    app = stage.deployment()
    (pod,) = stage.until_pods(app, 1, running)
    name = pod["metadata"]["name"]
    stage.budget(app, maxUnavailable=0)
    with pytest.raises(ApiError) as refused:
        stage.evict(name)
    assert refused.value.status == 429
    assert "disruption budget" in refusal(refused)
    assert not going(stage.get_pod(name))
    stage.kube.delete("poddisruptionbudgets", app, stage.namespace)
    # The API server hears a little later that the budget is gone.
    until(allowed(429, lambda: stage.evict(name)), "it may be evicted")
    stage.until_pod_gone(name)


def test_a_pod_that_hangs_stays_until_it_lets_go_or_is_killed(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    one, other = stage.pod(hangs=True), stage.pod(hangs=True)
    for pod in (one, other):
        stage.until_pod(pod, running)
        stage.delete_pod(pod)
        stage.settled_pod(pod, going)
    stage.let_go(one)
    stage.until_pod_gone(one)
    stage.delete_pod(other, gracePeriodSeconds=0)
    stage.until_pod_gone(other)


# --- nodes ---


def test_a_silent_node_keeps_its_pods_as_they_are_until_it_is_back(stage: PodStage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pod = stage.pod()
    stage.until_pod(pod, running)
    with stage.silent(node):
        stage.kube.wait("nodes", node, until=lambda found: "node.kubernetes.io/unreachable" in taints(found))
        stage.delete_pod(pod)
        late = stage.pod(nodeName=node)
        stage.settled_pod(pod, going)
        assert in_phase("Pending")(stage.settled_pod(late, bound_to(node)))
    stage.until_pod_gone(pod)
    stage.until_pod(late, running)
    stage.kube.wait("nodes", node, until=lambda found: not taints(found))


def taints(node: Object) -> set[str]:
    return {taint["key"] for taint in node["spec"].get("taints", ())}


def test_a_container_is_resized_in_place(stage: PodStage) -> None:
    """What is given back is free for others at once."""
    (node,) = stage.nodes.create(1, SMALL)
    pod, other = stage.pod(cpu="3"), stage.pod(cpu="2")
    stage.until_pod(pod, bound_to(node))
    stage.until_pod(other, unscheduled("Unschedulable"))
    before = stage.until_pod(pod, running)["status"]["containerStatuses"]
    stage.resize(pod, cpu="1", memory="128Mi")
    stage.until_pod(other, running)
    (after,) = stage.get_pod(pod)["status"]["containerStatuses"]
    has = {"cpu": "1", "memory": "128Mi"}
    assert after == {**before[0], "resources": {"requests": has}, "allocatedResources": has}


def test_a_pods_own_resources_are_resized_where_its_node_says_that_it_can(stage: PodStage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pod = stage.pod(cpu="", memory="", resources={"requests": {"cpu": "2"}})
    stage.until_pod(pod, running)
    with pytest.raises(ApiError) as refused:
        stage.resize_whole(pod, cpu="1")
    assert refused.value.status == 403
    assert f"requires features {POD_LEVEL_RESIZE} which are not available on node" in refusal(refused)
    stage.declare(node, POD_LEVEL_RESIZE)
    # The API server asks its own copy of the node.
    until(allowed(403, lambda: stage.resize_whole(pod, cpu="1")), "it may be resized")
    stage.until_pod(pod, lambda pod: pod["status"]["resources"]["requests"] == {"cpu": "1"})


def test_controllers_see_that_kwok_keeps_nodes_alive(stage: PodStage) -> None:
    """They look at a node's Lease, which kwok renews every 5 s; a node is lost after 50."""
    (node,) = stage.nodes.create(1, SMALL)
    lease = stage.kube.wait("leases.coordination.k8s.io", node, "kube-node-lease", until=lambda lease: True)
    then = lease["spec"]["renewTime"]
    stage.kube.wait(
        "leases.coordination.k8s.io",
        node,
        "kube-node-lease",
        until=lambda lease: lease["spec"]["renewTime"] > then,
    )
    assert is_("Ready")(stage.kube.get("nodes", node))


# --- the operator ---


def test_the_operator_grants_leases_beside_all_that(stage: PodStage, enforcer: Enforcer) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool)
    stage.until(lease, granted)
    with enforcer.away():
        late = stage.lease(pool)
        stage.settled(late, lambda lease: "status" not in lease)
    stage.until(late, granted)


def test_a_stage_leaves_nothing_behind(whole: ControlPlane) -> None:
    with pod_stage_on(whole) as made:
        made.nodes.create(2, SMALL)
        kube, namespace, nodes = whole.client(), made.namespace, list(made.nodes.names)
        made.job(pods=2)
        made.until_pods(made.deployment(), 1, running)
        made.until_pod(made.stateful_set(hangs=True) + "-0", running)
        made.pod(gated=True)
        made.until_pod(made.pod(finalizers=["test.leasehold.dev/held"]), running)
    assert kube.list("pods", namespace) == []
    assert "deletionTimestamp" in kube.get("namespaces", namespace)["metadata"]
    assert not {node["metadata"]["name"] for node in kube.list("nodes")} & set(nodes)
