"""How the operator writes a status: it replaces the status, and nothing else of the object moves."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.harness import Stage, finished, granted

_APPLY = "application/apply-patch+yaml"


def apply_as(stage: Stage, manager: str, lease: dict[str, Any]) -> dict[str, Any]:
    """Apply a lease on the server's side, as Argo CD, Flux or Helm do."""
    path = f"/apis/leasehold.dev/v1alpha1/namespaces/{stage.namespace}/capacityleases/{lease['metadata']['name']}"
    answer = stage.kube._request("PATCH", path, lease, query={"fieldManager": manager}, content_type=_APPLY)
    return dict(json.loads(answer))


def owners(lease: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Who owns which fields, by manager and subresource."""
    return {
        (entry["manager"], entry.get("subresource", "")): entry["fieldsV1"]
        for entry in lease["metadata"]["managedFields"]
    }


def test_what_others_own_stays_theirs_whatever_the_operator_writes(stage: Stage) -> None:
    stage.nodes.create(1)
    pool = stage.pool()
    lease = {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": {
            "name": "from-git",
            "labels": {"app.kubernetes.io/instance": "shop"},
            "annotations": {"argocd.argoproj.io/tracking-id": "shop:leasehold.dev/CapacityLease:from-git"},
        },
        "spec": {"poolRef": {"name": pool}, "resources": {"cpu": "1"}, "durationSeconds": 3600},
    }
    before = apply_as(stage, "argocd-controller", lease)
    held = stage.until("from-git", granted)
    assert owners(held)["argocd-controller", ""] == owners(before)["argocd-controller", ""]
    assert owners(held)["leasehold-operator", "status"] == {"f:status": {}}
    assert set(owners(held)) == set(owners(before)) | {("leasehold-operator", "status")}
    for part in ("labels", "annotations", "finalizers", "generation", "uid", "creationTimestamp"):
        assert held["metadata"][part] == before["metadata"][part]
    assert held["spec"] == before["spec"]
    again = apply_as(stage, "argocd-controller", lease)
    assert again["metadata"]["generation"] == held["metadata"]["generation"], "nothing is out of sync"
    stage.change("from-git", desiredState="Released")
    over = stage.until("from-git", finished)
    assert owners(over)["argocd-controller", ""] == owners(before)["argocd-controller", ""]
    assert set(owners(over)) == {*owners(held), ("leasehold-testing", "")}


def test_conditions_that_others_keep_on_a_lease_survive_every_write(stage: Stage) -> None:
    stage.nodes.create(1)
    lease = stage.lease(stage.pool(), durationSeconds=3600)
    held = stage.until(lease, granted)
    theirs = {
        "type": "Audited",
        "status": "True",
        "reason": "Seen",
        "message": "",
        "lastTransitionTime": "2026-11-22T19:00:00Z",
    }
    stage.kube.patch(
        "capacityleases.leasehold.dev",
        lease,
        {"status": {"conditions": [*held["status"]["conditions"], theirs]}},
        stage.namespace,
        subresource="status",
    )
    stage.change(lease, desiredState="Released")
    over = stage.until(lease, finished)
    assert theirs in over["status"]["conditions"]
