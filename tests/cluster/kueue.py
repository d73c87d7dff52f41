"""Kueue's own definitions, and its part in a story: it gives quota to Workloads, and evicts them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.harness import LEASES, Object, Right, Stage, is_, until

from leasehold.api.names import KUEUE_CONTROLLER, KUEUE_WORKLOAD_LABEL
from leasehold.testing.client import APPLY_PATCH, Client
from leasehold.testing.control_plane import OPERATOR_NAMESPACE

WORKLOADS = "workloads.kueue.x-k8s.io"
CHECKS = "admissionchecks.kueue.x-k8s.io"
FLAVORS = "resourceflavors.kueue.x-k8s.io"

CLUSTER_QUEUES = "clusterqueues.kueue.x-k8s.io"
LOCAL_QUEUES = "localqueues.kueue.x-k8s.io"

API = "kueue.x-k8s.io/v1beta2"
RBAC = "rbac.authorization.k8s.io"

MODULE = "sigs.k8s.io/kueue"
_HERE = Path(__file__).resolve().parents[2] / "hack" / "kueue"


def definitions() -> Iterator[Object]:
    """The definitions of the pinned Kueue, as its module has them, but for older versions of the API."""
    asked = subprocess.run(
        ["go", "mod", "download", "-json", MODULE],
        cwd=_HERE,
        env={**os.environ, "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, f"Go could not get {MODULE}: {asked.stdout}{asked.stderr}"
    directory = Path(json.loads(asked.stdout)["Dir"], "config", "components", "crd", "bases")
    for name in (WORKLOADS, CHECKS, FLAVORS, CLUSTER_QUEUES, LOCAL_QUEUES):
        plural, _, group = name.partition(".")
        # In plain Python the largest of them takes ten seconds to read.
        document = yaml.load((directory / f"{group}_{plural}.yaml").read_text(), yaml.CSafeLoader)
        spec = document["spec"]
        spec["versions"] = [version for version in spec["versions"] if f"{group}/{version['name']}" == API]
        yield document


RIGHTS: set[Right] = {
    ("kueue.x-k8s.io", "workloads", "list"),
    ("kueue.x-k8s.io", "workloads", "watch"),
    ("kueue.x-k8s.io", "workloads/status", "patch"),
    ("kueue.x-k8s.io", "admissionchecks", "list"),
    ("kueue.x-k8s.io", "admissionchecks", "watch"),
    ("kueue.x-k8s.io", "admissionchecks/status", "patch"),
    ("kueue.x-k8s.io", "resourceflavors", "list"),
    ("kueue.x-k8s.io", "resourceflavors", "watch"),
    ("leasehold.dev", "capacityleases", "create"),
}
"""What the operator needs beside its other rights."""


def grant_rights(kube: Client, account: str) -> None:
    """Let an account in the operator's namespace do what answering Kueue takes."""
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
        for group, resource, verb in sorted(RIGHTS)
    ]
    name = f"{account}-kueue"
    role = {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    kube.apply(role)
    bind(kube, account, "ClusterRole", name)


def bind(kube: Client, account: str, kind: str, role: str) -> None:
    """Give an account in the operator's namespace a ClusterRole, or a Role there."""
    local = {"namespace": OPERATOR_NAMESPACE} if kind == "Role" else {}
    kube.apply(
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": f"{kind}Binding",
            "metadata": {"name": f"{account}-has-{role}", **local},
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": OPERATOR_NAMESPACE}],
        }
    )


def install(kube: Client) -> None:
    """Install Kueue's definitions, and nothing that acts."""
    kube.wait_established([kube.apply(document)["metadata"]["name"] for document in definitions()])


class Kueue:
    """Kueue's part on a stage. It writes what the real one writes, and in its way: by server-side apply."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.kube = stage.kube

    def check(self, pool: str | None, **more: Any) -> str:
        """Make an AdmissionCheck that names a pool; `more` is what else its parameters have."""
        name = f"check-{secrets.token_hex(4)}"
        parameters = {"apiGroup": "leasehold.dev", "kind": "CapacityPool", "name": pool, **more}
        spec = {"controllerName": KUEUE_CONTROLLER, **({"parameters": parameters} if pool else {})}
        self._make("AdmissionCheck", name, spec)
        return name

    def flavor(self, **labels: str) -> str:
        name = f"flavor-{secrets.token_hex(4)}"
        self._make("ResourceFlavor", name, {"nodeLabels": labels})
        return name

    def workload(self, *pod_sets: Mapping[str, Any], **spec: Any) -> str:
        name = f"job-{secrets.token_hex(4)}"
        self._make("Workload", name, {"podSets": list(pod_sets), **spec}, self.stage.namespace)
        return name

    def _make(self, kind: str, name: str, spec: Mapping[str, Any], namespace: str | None = None) -> None:
        meta = {"name": name, **({"namespace": namespace} if namespace else {})}
        self.kube.create({"apiVersion": API, "kind": kind, "metadata": meta, "spec": dict(spec)})

    def reserve(self, workload: str, *checks: str, flavor: str = "") -> None:
        """Give it its quota. Its checks wait, as they do after each reservation."""
        found = self.get(workload)
        sets = [{"name": one["name"], "count": one["count"]} for one in found["spec"]["podSets"]]
        admission = {
            "clusterQueue": "queue",
            "podSetAssignments": [{**one, "flavors": {"cpu": flavor} if flavor else {}} for one in sets],
        }
        rows = [
            {"name": name, "state": "Pending", "message": "", "lastTransitionTime": now()} for name in checks
        ]
        conditions = [_condition("QuotaReserved", "True"), _condition("Evicted", "False")]
        self._apply(workload, {"admission": admission, "conditions": conditions, "admissionChecks": rows})

    def evict(self, workload: str) -> None:
        """Take it back: its checks are reset, and once its pods are gone it has no quota."""
        found = self.get(workload)["status"]
        rows = [
            {
                "name": row["name"],
                "state": "Pending",
                "message": f"Reset to Pending after eviction. Previously: {row['state']}",
                "lastTransitionTime": now(),
            }
            for row in found["admissionChecks"]
        ]
        held = next(row for row in found["conditions"] if row["type"] == "QuotaReserved")
        evicted = [held, _condition("Evicted", "True")]
        self._apply(
            workload, {"admission": found["admission"], "conditions": evicted, "admissionChecks": rows}
        )
        without = [_condition("QuotaReserved", "False"), _condition("Evicted", "True")]
        self._apply(workload, {"conditions": without, "admissionChecks": rows})
        # Its times are whole seconds, and a reservation is known by its time.
        until(lambda: now() != held["lastTransitionTime"], "the next second")

    def finish(self, workload: str) -> None:
        found = self.get(workload)["status"]
        rows = [*found["conditions"], _condition("Finished", "True")]
        self.kube.patch(
            WORKLOADS, workload, {"status": {"conditions": rows}}, self.stage.namespace, subresource="status"
        )

    def _apply(self, workload: str, status: Mapping[str, Any]) -> None:
        path = self.kube.resource(WORKLOADS).path(self.stage.namespace, workload, "status")
        meta = {"name": workload, "namespace": self.stage.namespace}
        document = {"apiVersion": API, "kind": "Workload", "metadata": meta, "status": dict(status)}
        query = {"fieldManager": "kueue-admission", "force": "true"}
        self.kube._json("PATCH", path, document, query=query, content_type=APPLY_PATCH)

    # What has come of it

    def get(self, workload: str) -> Object:
        return self.kube.get(WORKLOADS, workload, self.stage.namespace)

    def told(self, workload: str, check: str) -> Object:
        rows = self.get(workload)["status"]["admissionChecks"]
        return next(dict(row) for row in rows if row["name"] == check)

    def until_told(self, workload: str, check: str, state: str, words: str = "") -> Object:
        def found() -> bool:
            row = self.told(workload, check)
            return row["state"] == state and words in row["message"]

        until(found, f"{workload} is {state} {words}")
        return self.told(workload, check)

    def until_active(self, check: str, status: str = "True") -> Object:
        return self.kube.wait(CHECKS, check, until=is_("Active", status))

    def leases(self, workload: str) -> list[Object]:
        """All that were made for it."""
        uid = self.get(workload)["metadata"]["uid"]
        return self.kube.list(LEASES, self.stage.namespace, labelSelector=f"{KUEUE_WORKLOAD_LABEL}={uid}")


def pods(name: str = "main", count: int = 1, **requests: str) -> Object:
    """A pod set: so many pods that request this each."""
    container = {"name": "main", "image": "none", "resources": {"requests": requests}}
    return {"name": name, "count": count, "template": {"spec": {"containers": [container]}}}


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _condition(type_: str, status: str) -> Object:
    return {"type": type_, "status": status, "reason": "Story", "message": "", "lastTransitionTime": now()}
