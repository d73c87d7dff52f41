"""A Job that Kueue starts: its pods run within the lease that its Workload waited for. Kueue itself is played."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.harness import LEASES, SMALL, Object, ProcessOperator, finished
from tests.cluster.kueue import CHECKS, CLUSTER_QUEUES, FLAVORS, LOCAL_QUEUES, Kueue, grant_rights
from tests.cluster.kueue import install as install_kueue
from tests.enforcement.harness import Enforcer, PodStage, running, until

from leasehold.api.names import LEASE_LABEL
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pods" / "06-kueue.yaml"
NAMESPACE = "team-a"
JOB = "nightly"


@pytest.fixture
def _bridged(whole: ControlPlane, enforcer: Enforcer) -> Iterator[None]:
    """For a while the operator is one that answers Kueue, too."""
    with whole.client() as kube:
        install_kueue(kube)
        grant_rights(kube, "leasehold-operator")
    mine = enforcer._kubeconfig
    with enforcer.away(), ProcessOperator(whole, mine, enforcement="on", kueue="on") as operator:
        operator.wait_ready()
        yield


@pytest.fixture
def example(stage: PodStage, _bridged: None) -> Iterator[list[Object]]:
    """The example as it stands, on nodes of its own, in its own namespace."""
    documents = [document for document in yaml.safe_load_all(EXAMPLE.read_text()) if document]
    stage.nodes.create(2, SMALL, labels=documents[0]["spec"]["nodeSelector"]["matchLabels"])
    with contextlib.suppress(ApiError):
        stage.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    mine, stage.namespace = stage.namespace, NAMESPACE
    for document in documents:
        stage.kube.create(document)
    stage.pools.append(documents[0]["metadata"]["name"])
    try:
        yield documents
    finally:
        stage.kube.delete("jobs.batch", JOB, NAMESPACE, missing_ok=True, propagationPolicy="Background")
        stage.kube.delete_all("workloads.kueue.x-k8s.io", NAMESPACE)
        for kind in (CHECKS, FLAVORS, CLUSTER_QUEUES):
            stage.kube.delete_all(kind)
        stage.kube.delete_all(LOCAL_QUEUES, NAMESPACE)
        until(lambda: not stage.kube.list("pods", NAMESPACE), "its pods are gone")
        until(lambda: all(map(finished, stage.kube.list(LEASES, NAMESPACE))), "its leases are over")
        stage.kube.delete_all(LEASES, NAMESPACE)
        stage.namespace = mine


def test_a_job_of_a_queue_runs_within_its_lease(stage: PodStage, example: list[Object]) -> None:
    kueue = Kueue(stage)
    check, job = example[1]["metadata"]["name"], example[-1]
    kueue.until_active(check)
    spec = job["spec"]
    template = {"spec": spec["template"]["spec"]}
    workload = kueue.workload(
        {"name": "main", "count": spec["parallelism"], "template": template},
        maximumExecutionTimeSeconds=int(job["metadata"]["labels"]["kueue.x-k8s.io/max-exec-time-seconds"]),
    )
    kueue.reserve(workload, check, flavor="batch")
    told = kueue.until_told(workload, check, "Ready")
    (update,) = told["podSetUpdates"]

    # What Kueue does then.
    placed = {"nodeSelector": example[2]["spec"]["nodeLabels"]}
    started = {"suspend": False, "template": {"metadata": {"labels": update["labels"]}, "spec": placed}}
    stage.kube.patch("jobs.batch", JOB, {"spec": started}, NAMESPACE)

    name = update["labels"][LEASE_LABEL]
    pods = _until_running(stage, name, 2)
    uid = stage.get(name)["metadata"]["uid"]
    assert {pod["metadata"]["annotations"]["leasehold.dev/slice"] for pod in pods} == {f"{uid}/0", f"{uid}/1"}
    assert stage.get(name)["spec"]["durationSeconds"] == 3600

    for pod in pods:
        stage.finish(pod["metadata"]["name"])
    kueue.finish(workload)
    stage.until(name, finished)


def _until_running(stage: PodStage, lease: str, count: int) -> list[Object]:
    def found() -> list[Object]:
        return [
            pod
            for pod in stage.kube.list("pods", NAMESPACE, labelSelector=f"{LEASE_LABEL}={lease}")
            if running(pod)
        ]

    until(lambda: len(found()) == count, f"{count} pods of {lease} run")
    return found()
