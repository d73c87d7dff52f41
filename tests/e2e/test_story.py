"""Leasehold installed as a platform engineer does it, on a node that runs real pods, from the first day to the last."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.chart.conftest import CHART, Helm
from tests.cluster.harness import (
    LEASES,
    POOLS,
    REPORTS,
    condition,
    granted,
    is_,
    nodes_of,
    rights_given,
    rights_used,
    until,
)
from tests.e2e.conftest import Image
from tests.e2e.site import Site

from leasehold.api.quantity import amount
from leasehold.testing import audit
from leasehold.testing.client import has_condition

NAMESPACE = "leasehold-system"
TEAM = "team-a"
PATIENCE = 120.0

POOL = {
    "apiVersion": "leasehold.dev/v1alpha1",
    "kind": "CapacityPool",
    "metadata": {"name": "ci"},
    "spec": {
        "nodeSelector": {"matchLabels": {"node-role": "ci"}},
        # Memory as measured. Of cpu a machine that runs tests may have nothing left to lend.
        "resources": [{"name": "cpu", "source": "Allocatable"}, {"name": "memory"}],
        "leasePolicy": {"gracePeriodSeconds": 0},
    },
}


class Cluster:
    """The site, with short words for what an administrator does on it."""

    def __init__(self, site: Site, helm: Helm) -> None:
        self.site, self.helm = site, helm
        self.kube = site.client()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [self.site.kubectl, "--kubeconfig", self.site.kubeconfig, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def run_helm(self, *arguments: str | Path) -> str:
        where = ("--kubeconfig", self.site.kubeconfig, "--namespace", NAMESPACE)
        return self.helm.run(*arguments, *where).stdout

    def pods(self, component: str) -> list[dict[str, Any]]:
        """The pods that are not on their way out, oldest first."""
        selector = f"app.kubernetes.io/component={component}"
        found = self.kube.list("pods", NAMESPACE, labelSelector=selector)
        alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(alive, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def pod(self, component: str) -> dict[str, Any]:
        """The only pod, once it is ready."""

        def ready() -> bool:
            pods = self.pods(component)
            return len(pods) == 1 and has_condition(pods[0], "Ready")

        until(ready, f"one ready {component}: {self.why(component)}", PATIENCE)
        return self.pods(component)[0]

    def why(self, component: str) -> str:
        return json.dumps([pod.get("status") for pod in self.pods(component)])[:2000]

    def look(self, pod: dict[str, Any], code: str) -> Any:
        """What Python code prints in a pod, which has no shell, read as JSON."""
        name = pod["metadata"]["name"]
        return json.loads(self.kubectl("exec", "-n", NAMESPACE, name, "--", "python3", "-P", "-c", code))

    def lease(self, name: str, cpu: str = "100m", memory: str = "64Mi", seconds: int = 3600) -> None:
        document = {
            "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "CapacityLease",
            "metadata": {"name": name, "namespace": TEAM},
            "spec": {
                "poolRef": {"name": "ci"},
                "resources": {"cpu": cpu, "memory": memory},
                "durationSeconds": seconds,
            },
        }
        text = json.dumps(document)
        # For a moment after the finalizer policy was made the API server answers 503.
        self.apply_once_taken(text, "leases can be asked for", "ServiceUnavailable")

    def apply_once_taken(self, document: str, what: str, *passing: str) -> None:
        """Apply it when the API server takes it: refusals in which one of these words stands are waited out."""

        def taken() -> bool:
            try:
                self.kubectl("apply", "--dry-run=server", "-f", "-", stdin=document)
            except AssertionError as error:
                if not any(word in str(error) for word in passing):
                    raise
                return False
            return True

        until(taken, what, PATIENCE)
        self.kubectl("apply", "-f", "-", stdin=document)

    def until_held(self, name: str) -> dict[str, Any]:
        return self.kube.wait(LEASES, name, TEAM, until=granted, timeout_seconds=60)

    def report(self) -> dict[str, Any]:
        return self.kube.get(REPORTS, self.site.node)["status"]

    def refused(self) -> list[str]:
        """Every request that was refused, but for the kubelet's: it asks for what it has only just been given."""
        denied = audit.denied(self.site.audit())
        return [audit.describe(e) for e in denied if "system:nodes" not in e["user"].get("groups", ())]

    def tell(self) -> None:
        """Print what one would look at when something is wrong."""
        looks = [["get", kind, "-A", "-o", "wide"] for kind in ("pods", "events", "cpool", "clease")]
        for workload in ("deployment/leasehold-operator", "daemonset/leasehold-reporter"):
            looks.append(["logs", "-n", NAMESPACE, workload, "--tail=30"])
        for look in looks:
            with contextlib.suppress(AssertionError):
                print(self.kubectl(*look))


@pytest.fixture
def cluster(site: Site, helm: Helm) -> Cluster:
    return Cluster(site, helm)


def test_the_life_of_an_installation(cluster: Cluster, built: Image) -> None:
    try:
        live_through(cluster, built)
    except BaseException:
        cluster.tell()
        raise


def live_through(cluster: Cluster, built: Image) -> None:
    install(cluster, built.name)
    the_pods_are_restricted(cluster)
    the_report_says_what_the_host_says(cluster)
    held = leases_are_granted_of_what_was_measured(cluster)
    an_upgrade_and_a_rollback_keep_what_is_lent(cluster, held)
    killed_pods_come_back_and_lend_on(cluster, held)
    a_drain_is_let_through_and_survived(cluster, held)
    assert cluster.refused() == []
    # From here on the operator may be refused: an uninstall takes its rights away while it still runs.
    an_uninstall_leaves_nothing_stuck(cluster)
    for who in ("operator", "reporter"):
        own = [
            e for e in cluster.site.audit() if e["user"]["username"].endswith(f":{NAMESPACE}:leasehold-{who}")
        ]
        assert own, f"the {who} used its own service account"
        spare = rights_given(f"rbac-{who}.yaml") - rights_used(own)
        assert who == "operator" or spare == set(), "the operator's are proved in tests/cluster/test_rbac.py"


def install(cluster: Cluster, image: str) -> None:
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    path, _, tag = image.rpartition(":")
    registry, _, repository = path.partition("/")
    chosen = f"image.registry={registry},image.repository={repository},image.tag={tag}"
    cluster.run_helm(
        *("install", "leasehold", CHART, "--set", f"{chosen},image.pullPolicy=Never"),
        *("--wait", "--timeout", f"{PATIENCE:.0f}s"),
    )


def the_pods_are_restricted(cluster: Cluster) -> None:
    look = """
import json, os
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":", 1) for line in lines)
try:
    open("/opt/leasehold/x", "w")
    written = "yes"
except OSError as error:
    written = error.strerror
print(json.dumps({
    "user": [os.getuid(), os.getgid()], "capabilities": int(status["CapEff"], 16),
    "privileges": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(), "written": written,
}))
"""
    for component in ("operator", "reporter"):
        pod = cluster.pod(component)
        assert pod["spec"]["serviceAccountName"] == f"leasehold-{component}"
        assert not [volume for volume in pod["spec"]["volumes"] if "hostPath" in volume]
        assert cluster.look(pod, look) == {
            "user": [65532, 65532],
            "capabilities": 0,
            "privileges": "1",
            "seccomp": "2",
            "written": "Read-only file system",
        }


def the_report_says_what_the_host_says(cluster: Cluster) -> None:
    until(lambda: cluster.kube.find(REPORTS, cluster.site.node) is not None, "a report", PATIENCE)
    found = cluster.kube.wait(
        REPORTS,
        cluster.site.node,
        until=lambda o: bool(o.get("status", {}).get("capacity")),
        timeout_seconds=60,
    )["status"]
    meminfo = memory()
    assert found["bootID"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert 0 <= meminfo["MemTotal"] - amount("memory", found["capacity"]["memory"]) < 2**20
    assert amount("cpu", found["capacity"]["cpu"]) == 1000 * (os.cpu_count() or 0)
    if cluster.site.storage is not None:
        (nodefs,) = (row for row in found["filesystems"] if row["name"] == "nodefs")
        there = os.statvfs(cluster.site.storage)
        capacity = amount("ephemeral-storage", nodefs["capacity"])
        assert abs(capacity - there.f_blocks * there.f_frsize) < 2**20, (
            "an emptyDir shows the node's filesystem"
        )

    def agree() -> bool:
        now, rows = memory(), cluster.kube.get(REPORTS, cluster.site.node)["status"]["usage"]
        (used,) = (amount("memory", row["current"]) for row in rows if row["name"] == "memory")
        return abs(used - (now["MemTotal"] - now["MemAvailable"])) < 0.1 * now["MemTotal"]

    until(agree, "both say the same of memory in use, which others on this machine change meanwhile", 60)


def memory() -> dict[str, int]:
    """What the kernel says of this machine's memory (bytes)."""
    lines = (line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return {key: int(value.split()[0]) * 1024 for key, value in lines}


def leases_are_granted_of_what_was_measured(cluster: Cluster) -> dict[str, Any]:
    cluster.kubectl("label", "node", cluster.site.node, "node-role=ci")
    cluster.kubectl("create", "namespace", TEAM)
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(POOL))
    cluster.kubectl("wait", "cpool/ci", "--for=condition=Ready", "--timeout=60s")
    pool = cluster.kube.get(POOLS, "ci")
    free = {row["name"]: amount(row["name"], row["free"]) for row in pool["status"]["capacity"]}
    total = amount("memory", cluster.report()["capacity"]["memory"])
    assert 0 < free["memory"] < total
    cluster.lease("build-42")
    cluster.kubectl("wait", "clease/build-42", "-n", TEAM, "--for=condition=Ready", "--timeout=60s")
    held = cluster.until_held("build-42")
    assert nodes_of(held) == [cluster.site.node]
    # The Node object would allow this much; only what the reporter measured stands between it and a grant.
    allocatable = cluster.kube.get("nodes", cluster.site.node)["status"]["allocatable"]["memory"]
    asked = amount("memory", allocatable) - 256 * 2**20
    assert asked > free["memory"]
    cluster.lease("too-much", memory=str(asked))
    waiting = cluster.kube.wait(LEASES, "too-much", TEAM, until=is_("Ready", "False"), timeout_seconds=60)
    assert condition(waiting, "Ready")["reason"] in ("WaitingForCapacity", "NoMatchingNodes")
    cluster.kubectl("delete", "clease", "too-much", "-n", TEAM, "--wait", "--timeout=60s")
    return held


def an_upgrade_and_a_rollback_keep_what_is_lent(cluster: Cluster, held: dict[str, Any]) -> None:
    def levels() -> set[str]:
        (container,) = cluster.pod("operator")["spec"]["containers"]
        return {e["value"] for e in container["env"] if e["name"] == "LEASEHOLD_LOG_LEVEL"}

    wait = ("--wait", "--timeout", f"{PATIENCE:.0f}s")
    change = ("--reuse-values", "--set", "operator.settings.logLevel=DEBUG,reporter.logLevel=debug")
    cluster.run_helm("upgrade", "leasehold", CHART, *change, *wait)
    assert levels() == {"DEBUG"}
    still_held(cluster, held)
    cluster.run_helm("rollback", "leasehold", "1", *wait)
    assert levels() == {"INFO"}
    still_held(cluster, held)
    lend_and_return(cluster, "after-rollback")


def killed_pods_come_back_and_lend_on(cluster: Cluster, held: dict[str, Any]) -> None:
    before = cluster.report()["sequence"]
    for component in ("operator", "reporter"):
        name = cluster.pod(component)["metadata"]["name"]
        cluster.kubectl("delete", "pod", name, "-n", NAMESPACE, "--grace-period=0", "--force")
        assert cluster.pod(component)["metadata"]["name"] != name
    until(lambda: cluster.report()["sequence"] != before, "the next reporter reports", PATIENCE)
    still_held(cluster, held)
    lend_and_return(cluster, "after-kill")


def a_drain_is_let_through_and_survived(cluster: Cluster, held: dict[str, Any]) -> None:
    node = cluster.site.node
    drain = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
    cluster.kubectl("drain", node, *drain, "--pod-selector=app.kubernetes.io/name=leasehold")
    until(
        lambda: not any(has_condition(p, "Ready") for p in cluster.pods("operator")),
        "nobody operates",
        PATIENCE,
    )
    still_held(cluster, held)
    cluster.kubectl("uncordon", node)
    cluster.pod("operator")
    still_held(cluster, held)
    lend_and_return(cluster, "after-drain")


def an_uninstall_leaves_nothing_stuck(cluster: Cluster) -> None:
    cluster.kubectl("delete", "clease", "--all", "-n", TEAM, "--timeout=60s")
    cluster.kubectl("delete", "cpool", "--all", "--timeout=60s")
    cluster.run_helm("uninstall", "leasehold", "--wait", "--timeout", f"{PATIENCE:.0f}s")
    until(lambda: cluster.kube.list("pods", NAMESPACE) == [], "no pod is left", PATIENCE)
    names = {d["metadata"]["name"] for d in cluster.kube.list("customresourcedefinitions")}
    assert {LEASES, POOLS, REPORTS} <= names
    cluster.kubectl("delete", "namespace", TEAM, NAMESPACE, "--timeout=120s")
    cluster.kubectl("delete", "crd", LEASES, POOLS, REPORTS, "--timeout=60s")


def still_held(cluster: Cluster, held: dict[str, Any]) -> None:
    now = cluster.kube.get(LEASES, held["metadata"]["name"], TEAM)
    assert condition(now, "Ready")["status"] == "True"
    assert now["status"]["fencingToken"] == held["status"]["fencingToken"]
    assert now["status"]["allocation"] == held["status"]["allocation"]


def lend_and_return(cluster: Cluster, name: str) -> None:
    """That it lends shows that it leads, and believes the reports."""
    cluster.lease(name)
    cluster.until_held(name)
    cluster.kubectl("delete", "clease", name, "-n", TEAM, "--wait", "--timeout=60s")
