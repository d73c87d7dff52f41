"""Simulated nodes and their reports, on a real API server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from leasehold.testing.client import Client, has_condition
from leasehold.testing.nodes import NodeShape, SimulatedNodes

pytestmark = pytest.mark.cluster


def test_nodes_are_ready_and_report(kube: Client) -> None:
    with SimulatedNodes(kube) as nodes:
        shape = NodeShape(cpu="4", memory="16Gi", extended={"vendor.example/gpu": "2"})
        names = nodes.create(3, shape, labels={"disk": "ssd"}, usage={"cpu": "1500m"})
        assert nodes.names == names
        found = kube.list("nodes", labelSelector=f"leasehold.dev/simulated={nodes.prefix}")
        assert sorted(node["metadata"]["name"] for node in found) == names
        for node in found:
            assert has_condition(node, "Ready")
            assert node["metadata"]["labels"]["disk"] == "ssd"
            assert node["status"]["allocatable"]["vendor.example/gpu"] == "2"
            assert "taints" not in node["spec"]
            report = kube.get("nodereports", node["metadata"]["name"])
            assert report["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
            figures = {entry["name"]: entry for entry in report["status"]["usage"]}
            assert figures["cpu"]["p90"] == "1500m"
            assert figures["memory"]["p90"] == "0"
            assert report["status"]["sequence"] == 1
    assert kube.list("nodes", labelSelector=f"leasehold.dev/simulated={nodes.prefix}") == []
    assert kube.list("nodereports", labelSelector=f"leasehold.dev/simulated={nodes.prefix}") == []


def test_nodes_fail_and_come_back(kube: Client) -> None:
    with SimulatedNodes(kube) as nodes:
        first, second = nodes.create(2)
        nodes.mark_not_ready(first)
        assert has_condition(kube.get("nodes", first), "Ready", "False")
        assert has_condition(kube.get("nodes", second), "Ready")
        nodes.mark_not_ready(first, "Unknown")
        assert has_condition(kube.get("nodes", first), "Ready", "Unknown")
        nodes.mark_ready(first)
        assert has_condition(kube.get("nodes", first), "Ready")
        nodes.cordon(first)
        assert kube.get("nodes", first)["spec"]["unschedulable"] is True
        nodes.uncordon(first)
        assert "unschedulable" not in kube.get("nodes", first)["spec"]
        nodes.delete(first)
        assert kube.find("nodes", first) is None
        assert kube.find("nodereports", first) is None
        assert nodes.names == [second]


def test_reports_follow_each_other_and_a_reboot_begins_anew(kube: Client) -> None:
    with SimulatedNodes(kube) as nodes:
        (name,) = nodes.create(1)
        late = datetime.now(UTC) - timedelta(hours=1)
        nodes.report(name, {"memory": "1Gi"}, at=late)
        before = kube.get("nodereports", name)["status"]
        assert before["sequence"] == 2
        assert before["reportTime"].startswith(late.strftime("%Y-%m-%dT%H:%M:%S"))
        nodes.reboot(name)
        nodes.report_all()
        after = kube.get("nodereports", name)["status"]
        assert after["sequence"] == 1
        assert after["bootID"] != before["bootID"]


def test_sets_do_not_meet(kube: Client) -> None:
    with SimulatedNodes(kube) as one, SimulatedNodes(kube) as other:
        assert set(one.create(2, report=False)).isdisjoint(other.create(2, report=False))
        assert one.selector != other.selector
