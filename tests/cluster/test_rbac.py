"""The operator under exactly the rights it is given: none is missing, none is spare."""

from __future__ import annotations

import asyncio
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from tests.cluster.harness import (
    LEASES,
    MANIFESTS,
    POOLS,
    SMALL,
    Stage,
    ThreadOperator,
    condition,
    finished,
    granted,
    install,
    is_,
    nodes_of,
    requests_of,
    rights_given,
    rights_used,
    until,
)

from leasehold.testing.client import Client
from leasehold.testing.control_plane import OPERATOR_NAMESPACE as NAMESPACE
from leasehold.testing.errors import ApiError

ENFORCEMENT = "enforcement/rbac-operator.yaml"


def test_a_whole_story_without_a_missing_or_a_spare_right(bare: Stage, audit_log: Path) -> None:
    given = install(bare.control_plane, "rbac-operator.yaml")
    account = bare.control_plane.as_service_account(NAMESPACE, "leasehold-operator")
    bare.nodes.create(2, SMALL)
    bare.kube.patch("nodereports", bare.nodes.names[0], {"metadata": {"ownerReferences": None}})
    with ThreadOperator(bare.control_plane.write_kubeconfig(account), shards=2) as operator:
        policy = {
            "verification": "NodeReport",
            "verificationTimeoutSeconds": 1,
            "heartbeatTimeoutSeconds": 5,
            "nodeLossSeconds": 0,
        }
        pool = bare.pool(policy=policy)
        bare.session("s")
        lease = bare.lease(
            pool, liveness="Session", holder={"sessionRef": {"name": "s"}}, ttlSecondsAfterFinished=0
        )
        bare.until(lease, is_("Claimed"))
        worker = operator.controller.pools.workers[pool][0]
        known = next(iter(worker.state.leases.values()))
        looking = asyncio.run_coroutine_threadsafe(worker.leases.refresh(known), operator._loop)
        looking.result(10)  # what a conflict does
        bare.change(lease, desiredState="Released")
        bare.until(lease, is_("Released", "False", "Quarantined"))
        bare.annotate(lease, force_release="true")
        bare.until_gone(lease)
        other = bare.lease(pool)
        bare.until(other, granted)
        bare.kube.delete(LEASES, other, bare.namespace)
        bare.until(other, is_("Released", "False", "Quarantined"))
        bare.annotate(other, force_release="true")
        bare.until_gone(other)
        bare.session("silent")
        silent = bare.lease(pool, liveness="Session", holder={"sessionRef": {"name": "silent"}})
        bare.until(silent, is_("Released", "False"))
        bare.annotate(silent, force_release="true")
        stranded = bare.lease(pool)
        lost = nodes_of(bare.until(stranded, granted))[0]
        bare.nodes.mark_not_ready(lost)
        bare.until(stranded, is_("Ready", "False", "NodeLost"))
        bare.nodes.mark_ready(lost)
        bare.annotate(stranded, force_release="true")
        bare.until(stranded, finished)
        homeless = bare.lease("no-such-pool")
        bare.until(homeless, is_("Accepted", "False", "PoolNotFound"))
        until(lambda: bool(bare.events(lease)), "Events")
        owned = bare.nodes.names[0]
        until(
            lambda: bool(bare.kube.get("nodereports", owned)["metadata"].get("ownerReferences")), "an owner"
        )
        bare.kube.delete(POOLS, pool)
        bare.kube.wait_gone(POOLS, pool)
    requests = requests_of(audit_log, "leasehold-operator")
    denied = [(r["verb"], r["requestURI"]) for r in requests if r["responseStatus"]["code"] == 403]
    assert denied == []
    used = rights_used(requests)
    assert given - used == set(), "rights that the operator has no use for"
    assert used - given == set()


def test_the_election_has_a_line_of_its_own_at_the_api_server(bare: Stage) -> None:
    install(bare.control_plane, "rbac-operator.yaml")
    schema = yaml.safe_load((MANIFESTS / "flowschema.yaml").read_text())
    applied = bare.kube.apply(schema)
    account = bare.control_plane.as_service_account(NAMESPACE, "leasehold-operator")

    def schema_of(path: str) -> str:
        request = urllib.request.Request(f"{account.url}{path}")
        request.add_header("Authorization", f"Bearer {account.token}")
        context = ssl.create_default_context(cadata=account.ca)
        try:
            with urllib.request.urlopen(request, context=context) as answer:
                return str(answer.headers["X-Kubernetes-PF-FlowSchema-UID"])
        except urllib.error.HTTPError as error:
            with error:
                return str(error.code)  # rights that were given a moment ago may not be known yet

    election = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
    until(lambda: schema_of(election) == applied["metadata"]["uid"], "the election goes its own way")
    assert schema_of("/apis/coordination.k8s.io/v1/leases") != applied["metadata"]["uid"]
    bare.kube.delete("flowschemas.flowcontrol.apiserver.k8s.io", schema["metadata"]["name"])


def test_the_operator_may_not_do_what_it_need_not(bare: Stage) -> None:
    install(bare.control_plane, "rbac-operator.yaml")
    account = bare.control_plane.as_service_account(NAMESPACE, "leasehold-operator")
    with Client(account) as client:
        for resource in ("secrets", "pods", "configmaps"):
            with pytest.raises(ApiError) as refused:
                client.list(resource, bare.namespace)
            assert refused.value.status == 403


def test_without_enforcement_the_operator_reaches_no_pod_and_changes_no_node() -> None:
    plain, more = rights_given("rbac-operator.yaml"), rights_given(ENFORCEMENT)
    assert not [right for right in plain if right[1].startswith("pods")]
    assert ("", "nodes", "patch") not in plain
    assert plain & more == set(), "what it has anyway is not given twice"


def test_a_reporter_writes_its_report_and_nothing_else(bare: Stage, audit_log: Path) -> None:
    given = install(bare.control_plane, "rbac-reporter.yaml")
    account = bare.control_plane.as_service_account(NAMESPACE, "leasehold-reporter")
    (node,) = bare.nodes.create(1, SMALL, report=False)
    with Client(account) as client:
        report = {
            "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "NodeReport",
            "metadata": {"name": node},
            "spec": {},
        }
        client.create(report)
        client.get("nodereports.leasehold.dev", node)
        client.patch(
            "nodereports.leasehold.dev",
            node,
            {"status": {"bootID": "b", "sequence": 1}},
            subresource="status",
        )
        for change in ({"spec": {"state": "Excluded"}}, {"metadata": {"labels": {"a": "b"}}}):
            with pytest.raises(ApiError) as refused:
                client.patch("nodereports.leasehold.dev", node, change)
            assert refused.value.status == 403
        with pytest.raises(ApiError):
            client.list("nodes")
    used = {
        right
        for right in rights_used(
            [r for r in requests_of(audit_log, "leasehold-reporter") if r["responseStatus"]["code"] < 400]
        )
        if right[0] == "leasehold.dev"
    }
    assert used == given
    bare.kube.delete("nodereports.leasehold.dev", node)


def test_a_right_that_is_missing_is_told_and_waited_for(bare: Stage) -> None:
    """Rights may come a little later than the operator: it says what is refused and goes on when it is not."""
    given = bare.control_plane.as_service_account(NAMESPACE_LATE, "late")
    with ThreadOperator(bare.control_plane.write_kubeconfig(given), wait=False) as operator:
        until(lambda: operator.controller.client.requests.get(("GET", "403"), 0) > 0, "it is refused")
        assert not operator.controller.started.is_set()
        bare.kube.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"late-{bare.namespace}"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "cluster-admin",
                },
                "subjects": [{"kind": "ServiceAccount", "name": "late", "namespace": NAMESPACE_LATE}],
            }
        )
        until(operator.ready, "it goes on")
        bare.nodes.create(1, SMALL)
        lease = bare.lease(bare.pool(), durationSeconds=1)
        over = bare.until(lease, finished)
        assert condition(over, "Finished")["reason"] == "Expired"
    bare.kube.delete("clusterrolebindings", f"late-{bare.namespace}")


NAMESPACE_LATE = "default"
