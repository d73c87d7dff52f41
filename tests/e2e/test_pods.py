"""Pods held to their leases on a real kubelet: real use, real grace, and the node's own word that they are gone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.chart.conftest import CHART, Helm
from tests.cluster.harness import LEASES, condition, finished, is_, until
from tests.e2e.conftest import ON_KIND, Image
from tests.e2e.site import Site
from tests.e2e.test_story import NAMESPACE, PATIENCE, POOL, TEAM, Cluster

from leasehold.api.quantity import amount
from leasehold.testing.real_node import PAUSE_IMAGE

BUSY = """
import signal, sys, time
held = bytearray(48 << 20)
def end(*_):
    time.sleep(6)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
while True:
    sum(range(10_000))
"""
"""Uses a core and some memory, and takes three seconds to end."""


@pytest.fixture
def cluster(site: Site, helm: Helm) -> Cluster:
    return Cluster(site, helm)


def test_pods_are_held_to_their_leases(cluster: Cluster, built: Image) -> None:
    try:
        install(cluster, built.name)
        use_is_attributed_and_a_receipt_is_given(cluster, built.name)
        room_is_held_and_handed_over(cluster, built.name)
        assert cluster.refused() == []
    except BaseException:
        cluster.tell()
        print(json.dumps(cluster.kube.list("pods", TEAM), indent=1)[:6000])
        raise


def install(cluster: Cluster, image: str) -> None:
    cluster.kubectl("create", "namespace", NAMESPACE)
    path, _, tag = image.rpartition(":")
    registry, _, repository = path.partition("/")
    chosen = [
        f"image.registry={registry},image.repository={repository},image.tag={tag},image.pullPolicy=Never",
        "enforcement.enabled=true,reporter.hostPaths.cgroups=true",
        f"operator.settings.placeholderImage={PAUSE_IMAGE}",
    ]
    wait = ("--wait", "--timeout", f"{PATIENCE:.0f}s")
    cluster.run_helm("install", "leasehold", CHART, "--set", ",".join(chosen), *wait)
    cluster.kubectl("label", "node", cluster.site.node, "node-role=ci")
    cluster.kubectl("create", "namespace", TEAM)
    pool = {**POOL, "spec": {**POOL["spec"], "enforcement": {"mode": "Gate"}}}
    pool["spec"]["leasePolicy"] = {"gracePeriodSeconds": 0, "verification": "NodeReport"}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pool))
    cluster.kubectl("wait", "cpool/ci", "--for=condition=Ready", "--timeout=60s")


def pod(cluster: Cluster, name: str, image: str, lease: str, cpu: str, memory: str) -> None:
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", BUSY],
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": "500m"}},
    }
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": TEAM, "labels": {"leasehold.dev/lease": lease}},
        "spec": {"containers": [container], "restartPolicy": "Never"},
    }
    # For some seconds after its start an API server may not know of pools, and refuses such pods.
    cluster.apply_once_taken(json.dumps(document), "pods with a lease may be made", "paramKind", "default")


def running(cluster: Cluster, name: str) -> dict[str, Any]:
    return cluster.kube.wait(
        "pods", name, TEAM, until=lambda p: p["status"].get("phase") == "Running", timeout_seconds=60
    )


def use_is_attributed_and_a_receipt_is_given(cluster: Cluster, image: str) -> None:
    cluster.lease("busy", cpu="200m", memory="128Mi")
    cluster.until_held("busy")
    pod(cluster, "busy", image, "busy", "200m", "128Mi")
    found = running(cluster, "busy")
    uid = cluster.kube.get(LEASES, "busy", TEAM)["metadata"]["uid"]
    assert found["metadata"]["annotations"]["leasehold.dev/slice"] == f"{uid}/0"
    cluster.kube.wait(LEASES, "busy", TEAM, until=is_("Claimed", "True", "PodBound"))

    def row() -> dict[str, Any]:
        rows = cluster.report().get("leases") or ()
        return next((row for row in rows if row["uid"] == uid), {})

    def in_use() -> bool:
        use = row()
        return (
            use.get("state") == "Present"
            and amount("cpu", use.get("cpu", "0")) > 50
            and amount("memory", use.get("memory", "0")) > 40 << 20
        )

    until(in_use, "the node says what the lease uses", PATIENCE)
    cluster.kubectl(
        "patch", "clease", "busy", "-n", TEAM, "--type=merge", "-p", '{"spec":{"desiredState":"Released"}}'
    )
    going = cluster.kube.wait(
        "pods", "busy", TEAM, until=lambda p: "deletionTimestamp" in p["metadata"], timeout_seconds=30
    )
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30, "it has the grace it asked for"
    waiting = cluster.kube.get(LEASES, "busy", TEAM)
    assert condition(waiting, "Released")["reason"] == "PodsLeaving"
    cluster.kube.wait_gone("pods", "busy", TEAM, timeout_seconds=60)
    # A kubelet removes a pod's cgroup first and then the pod, so the node may have said so by now.
    said = row().get("state") in ("Gone", None)
    assert said or not finished(cluster.kube.get(LEASES, "busy", TEAM)), "the node has not said so yet"
    ended = cluster.kube.wait(LEASES, "busy", TEAM, until=finished, timeout_seconds=PATIENCE)
    assert condition(ended, "Released")["reason"] == "Verified"
    assert row().get("state") in ("Gone", None)


def room_is_held_and_handed_over(cluster: Cluster, image: str) -> None:
    """With a real kubelet a placeholder is shrunk in place, and ends when it is told to."""
    change = {"spec": {"enforcement": {"mode": "Placeholder"}, "leasePolicy": {"verification": "None"}}}
    cluster.kubectl("patch", "cpool", "ci", "--type=merge", "-p", json.dumps(change))
    cluster.lease("held", cpu="300m", memory="256Mi")
    uid = cluster.until_held("held")["metadata"]["uid"]

    def placeholders() -> list[dict[str, Any]]:
        return cluster.kube.list("pods", NAMESPACE, labelSelector=f"leasehold.dev/placeholder={uid}")

    def holds(cpu: str) -> bool:
        found = placeholders()
        return len(found) == 1 and all(
            p["status"].get("phase") == "Running"
            and p["status"]["containerStatuses"][0].get("resources", {}).get("requests", {}).get("cpu") == cpu
            for p in found
        )

    until(lambda: holds("300m"), "the room is held", 60)
    (before,) = placeholders()
    pod(cluster, "half", image, "held", "100m", "128Mi")
    running(cluster, "half")
    until(lambda: holds("200m"), "the rest is held", 60)
    assert placeholders()[0]["metadata"]["uid"] == before["metadata"]["uid"], "it was shrunk in place"
    pod(cluster, "rest", image, "held", "200m", "128Mi")
    running(cluster, "rest")
    until(lambda: placeholders() == [], "nothing is left to hold", 30)
    cluster.kubectl("delete", "clease", "held", "-n", TEAM, "--wait", "--timeout=90s")
    until(lambda: cluster.kube.list("pods", TEAM) == [], "its pods are gone", 30)


if ON_KIND:
    # kind's nodes pull no image that only this machine has.
    test_pods_are_held_to_their_leases = pytest.mark.skip("NOT RUN on kind: no pause image there")(
        test_pods_are_held_to_their_leases
    )
