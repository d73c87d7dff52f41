"""What is wrong with values, or missing on the server, is said with its name, and nothing is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.chart.conftest import CHART, Helm
from tests.chart.test_rendering import LIVE, OLD, POLICY, everything, set_at

VALIDATING = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"

WRONG = [
    ("operator.replicas", -1),
    ("operator.replicas", "two"),
    ("operator.settings.shards", 65),
    ("operator.settings.shards", 0),
    ("operator.settings.logLevel", "debug"),
    ("operator.settings.electionSeconds", 1),
    ("operator.port", 0),
    ("operator.resources.limits", {"memory": "much"}),
    ("operator.listenAddress", "localhost"),
    ("operator.podDisruptionBudget.maxUnavailable", "some"),
    ("operator.extraEnv", [{"name": "LEASEHOLD_SHARDS", "value": "2"}]),
    ("operator.topologySpreadConstraints", [{"maxSkew": 1}]),
    ("operator.tolerations", [{"effect": "Never"}]),
    ("image.digest", "sha256:abc"),
    ("image.pullPolicy", "Sometimes"),
    ("image.repository", ""),
    ("crds.keep", "no"),
    ("enforcement.enabled", "on"),
    ("enforcement.admission", "Both"),
    ("enforcement.webhookPort", 0),
    ("operator.settings", {"enforcement": "on"}),
    ("reporter.thresholdPercent", 0),
    ("reporter.logLevel", "INFO"),
    ("reporter.hostPaths.filesystems", {"scratch": "relative"}),
    ("reporter.hostPaths.filesystems", {"a b": "/x"}),
    ("networkPolicy.egress.cidrs", ["10.0.0.1"]),
    ("commonLabels", {"a": "not a label!"}),
    ("imagePullSecrets", ["registry"]),
    ("priorityClasses.operator", 2_000_000_000),
    ("fullnameOverride", "Not_A_Name"),
]


@pytest.mark.parametrize(
    ("path", "value"), WRONG, ids=lambda item: json.dumps(item) if not isinstance(item, str) else item
)
def test_a_wrong_value_is_refused_by_its_name(helm: Helm, path: str, value: Any) -> None:
    said = helm.refusal(set_at(path, value))
    assert f"/{path.replace('.', '/')}" in said or f"{path}:" in said, said


def levels(node: Any, path: str = "") -> Iterator[str]:
    """Yield every level of the schema that knows its keys; free maps only know what keys look like."""
    if node.get("additionalProperties") is False and "patternProperties" not in node:
        yield path
    for key, part in node.get("properties", {}).items():
        yield from levels(part, f"{path}.{key}".lstrip("."))


def test_a_key_that_nobody_knows_is_refused_at_every_level(helm: Helm) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = list(levels(schema))
    assert len(known) == 27
    values: dict[str, Any] = {}
    for path in known:
        level = values
        for key in filter(None, path.split(".")):
            level = level.setdefault(key, {})
        level["typo"] = 1
    said = helm.refusal(values)
    places = [f"at '/{path.replace('.', '/')}'" if path else "at ''" for path in known]
    missed = [place for place in places if f"{place}: additional properties 'typo' not allowed" not in said]
    assert missed == [], said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"operator": {"extraEnv": [{"name": "A"}, {"name": "A"}]}}, "operator.extraEnv: A is set twice"),
        (
            {"reporter": {"extraEnv": [{"name": "NODE_NAME"}]}},
            "reporter.extraEnv: NODE_NAME is set twice, or is set by the chart",
        ),
        (
            {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
            "every metric would be there twice",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(helm: Helm, values: dict[str, Any], words: str) -> None:
    assert words in helm.refusal(values)


def test_an_old_server_is_told_what_it_lacks_and_what_to_do(helm: Helm) -> None:
    said = helm.refusal({}, *LIVE)
    assert "has no admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy; Kubernetes 1.30 has it" in said
    assert "Set policies.enabled=false: any reporter can then write every node's report" in said
    said = helm.refusal({"enforcement": {"enabled": True, "admission": "Policy"}}, *OLD)
    assert (
        f"enforcement.admission=Policy: this server (Kubernetes v1.35.0) has no {POLICY}; Kubernetes 1.36 has it"
        in said
    )
    assert "Set enforcement.admission=Auto: API servers then ask the operator about pods with a lease" in said
    helm.template({}, *OLD)
    assert "incompatible with Kubernetes v1.31" in helm.refusal({}, "--kube-version", "1.31.0")


@pytest.mark.parametrize(
    ("value", "api"),
    [
        ("metrics.podMonitor.enabled", "PodMonitor"),
        ("metrics.serviceMonitor.enabled", "ServiceMonitor"),
    ],
)
def test_without_the_prometheus_operator_its_objects_are_not_tried(helm: Helm, value: str, api: str) -> None:
    server = (*LIVE, "--api-versions", f"{POLICY},{VALIDATING}")
    said = helm.refusal(set_at(value, True), *server)
    assert (
        f"has no monitoring.coreos.com/v1/{api}; the Prometheus operator brings it. Set {value}=false" in said
    )
    helm.template(set_at(value, True), *server, "--api-versions", f"monitoring.coreos.com/v1/{api}")


def test_without_its_definitions_it_is_not_installed(helm: Helm) -> None:
    server = (*LIVE, "--api-versions", f"{POLICY},{VALIDATING}")
    said = helm.refusal({"crds": {"enabled": False}}, *server)
    assert "crds.enabled=false, and the server does not know leasehold.dev/v1alpha1 CapacityPool" in said
    helm.template(
        {"crds": {"enabled": False}}, *server, "--api-versions", "leasehold.dev/v1alpha1/CapacityPool"
    )


def test_without_a_server_everything_is_rendered_unseen(helm: Helm) -> None:
    """As GitOps tools do."""
    helm.template(everything())
    helm.template({**everything(), "checkServer": False}, *LIVE)
