"""Every example with pods, as it stands: its pods run where their lease is, and what its first line says holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.harness import LEASES, POOLS, SMALL, Object, finished, granted, is_
from tests.enforcement.harness import PodStage, running, until

from leasehold.api.names import LEASE_LABEL
from leasehold.testing.errors import ApiError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "pods"
NAMESPACE = "team-a"


class Example:
    """An example on nodes of its own."""

    def __init__(self, stage: PodStage, file: str) -> None:
        self.stage = stage
        self.kube = stage.kube
        self.documents = [d for d in yaml.safe_load_all((EXAMPLES / file).read_text()) if d]
        pool = self.documents[0]
        self.pool: str = pool["metadata"]["name"]
        self.nodes = stage.nodes.create(3, SMALL, labels=pool["spec"]["nodeSelector"]["matchLabels"])
        self.lease: str = self.documents[1]["metadata"]["name"]
        with contextlib.suppress(ApiError):
            self.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self.kube.wait("serviceaccounts", "default", NAMESPACE, until=lambda account: True)

    def apply(self, *documents: Object) -> None:
        for document in documents or self.documents:
            self.kube.create(document)

    def pods(self) -> list[Object]:
        return self.kube.list("pods", NAMESPACE, labelSelector=f"{LEASE_LABEL}={self.lease}")

    def until_running(self, count: int) -> list[Object]:
        until(lambda: sum(map(running, self.pods())) == count, f"{count} pods of {self.lease} run")
        return [pod for pod in self.pods() if running(pod)]

    def held(self) -> Object:
        return self.kube.wait(LEASES, self.lease, NAMESPACE, until=granted)

    def end(self) -> None:
        for document in reversed(self.documents[2:]):
            resource = {"Job": "jobs.batch", "Deployment": "deployments.apps", "Pod": "pods"}[
                document["kind"]
            ]
            self.kube.delete(
                resource,
                document["metadata"]["name"],
                NAMESPACE,
                missing_ok=True,
                propagationPolicy="Background",
            )
        self.kube.delete(LEASES, self.lease, NAMESPACE, missing_ok=True)
        self.kube.wait_gone(LEASES, self.lease, NAMESPACE)
        until(lambda: not self.pods(), "its pods are gone")
        self.kube.delete(POOLS, self.pool)
        self.kube.wait_gone(POOLS, self.pool)


@pytest.fixture
def example(stage: PodStage, request: pytest.FixtureRequest) -> Iterator[Example]:
    made = Example(stage, request.param)
    try:
        yield made
    finally:
        made.end()


def played(file: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [file], indirect=True, ids=[file])


def slices(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["annotations"]["leasehold.dev/slice"] for pod in pods}


@played("01-ci-job.yaml")
def test_a_ci_job_gives_its_lease_back_when_it_is_done(example: Example, stage: PodStage) -> None:
    pool, *rest = example.documents
    terms = {
        **pool["spec"],
        "leasePolicy": {"gracePeriodSeconds": 0},
    }  # nobody wants to wait for the usual 30 s
    example.apply({**pool, "spec": terms}, *rest)
    (pod,) = example.until_running(1)
    with _in_namespace(stage):
        stage.finish(pod["metadata"]["name"])
    ended = example.kube.wait(LEASES, example.lease, NAMESPACE, until=finished)
    assert ended["status"]["release"]["cause"] == "PodsComplete"


@played("02-deployment.yaml")
def test_a_deployment_is_rolled_within_its_lease(example: Example) -> None:
    example.apply()
    before = {pod["metadata"]["uid"] for pod in example.until_running(2)}
    changed = {"spec": {"template": {"metadata": {"annotations": {"example.com/version": "2"}}}}}
    example.kube.patch("deployments.apps", "shop", changed, NAMESPACE)
    until(
        lambda: (
            len(now := example.pods()) == 2
            and all(map(running, now))
            and not before & {pod["metadata"]["uid"] for pod in now}
        ),
        "both replicas are new",
    )
    assert granted(example.held())


@played("03-gang.yaml")
def test_a_gang_has_a_slice_for_each(example: Example) -> None:
    example.apply()
    pods = example.until_running(3)
    assert {pod["spec"]["nodeName"] for pod in pods} == set(example.nodes)
    assert len(slices(pods)) == 3


@played("04-dedicated.yaml")
def test_a_dedicated_pool_keeps_others_off_its_nodes(example: Example) -> None:
    example.apply(*example.documents[:2])
    taint = {"key": "leasehold.dev/pool", "value": example.pool, "effect": "NoSchedule"}

    def tainted() -> bool:
        nodes = [example.kube.get("nodes", name) for name in example.nodes]
        return all(taint in (node["spec"].get("taints") or ()) for node in nodes)

    until(tainted, "its nodes are tainted")
    example.apply(*example.documents[2:])
    (pod,) = example.until_running(1)
    assert pod["spec"]["nodeName"] in example.nodes
    example.end()

    def clean() -> bool:
        nodes = [example.kube.get("nodes", name) for name in example.nodes]
        return all(taint not in (node["spec"].get("taints") or ()) for node in nodes)

    until(clean, "the taint goes with the pool")
    example.kube.create(example.documents[0])  # for its end


@played("05-placeholder.yaml")
def test_a_placeholder_keeps_the_room_until_the_pod_comes(example: Example) -> None:
    example.apply(*example.documents[:2])
    uid = example.held()["metadata"]["uid"]
    system, label = "leasehold-system", f"leasehold.dev/placeholder={uid}"
    until(
        lambda: any(map(running, example.kube.list("pods", system, labelSelector=label))), "the room is held"
    )
    example.apply(*example.documents[2:])
    example.until_running(1)
    example.kube.wait(LEASES, example.lease, NAMESPACE, until=is_("Claimed", "True", "PodBound"))


@contextlib.contextmanager
def _in_namespace(stage: PodStage) -> Iterator[None]:
    mine, stage.namespace = stage.namespace, NAMESPACE
    try:
        yield
    finally:
        stage.namespace = mine
