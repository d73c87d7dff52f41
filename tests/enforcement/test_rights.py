"""The operator holds pods under exactly the rights that enforcement adds: none is missing, none is spare."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.harness import POOLS, SMALL, finished, granted, requests_of, rights_given, rights_used
from tests.enforcement.harness import PodStage, not_leased, running, until


def test_a_whole_story_without_a_missing_or_a_spare_right(stage: PodStage, audit_log: Path) -> None:
    begun = len(requests_of(audit_log, "leasehold-operator"))
    (node,) = stage.nodes.create(1, SMALL)
    holding = {"mode": "Placeholder", "nodeTaint": "Dedicated", "evictionTimeoutSeconds": 0}
    pool = stage.pool(enforcement=holding)
    early = stage.pod("held", cpu="1", memory="")
    stage.until_pod(early, not_leased("LeaseNotFound"))
    stage.lease(pool, "held", cpu="3")
    stage.until("held", granted)
    stage.until_pod(early, running)
    second = stage.pod("held", cpu="1", memory="")
    stage.until_pod(second, running)
    until(lambda: stage.kube.get("nodes", node)["spec"].get("taints"), "the pool's node is tainted")
    stage.budget(second, minAvailable=1)
    stage.change("held", desiredState="Released")
    stage.until("held", finished)
    stage.kube.delete(POOLS, pool)
    stage.kube.wait_gone(POOLS, pool)
    until(lambda: not stage.kube.get("nodes", node)["spec"].get("taints"), "the taint is gone with the pool")
    requests = requests_of(audit_log, "leasehold-operator")[begun:]
    refused = [(r["verb"], r["requestURI"]) for r in requests if r["responseStatus"]["code"] == 403]
    assert refused == []
    given = rights_given("enforcement/rbac-operator.yaml")
    # Lists and watches of pods began with the operator, before this story.
    used = rights_used(requests) | {("", "pods", "list"), ("", "pods", "watch")}
    assert given - used == set(), "rights that the operator has no use for"
    assert used - given - rights_given("rbac-operator.yaml") == set()
