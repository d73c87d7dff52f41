"""The page that starts from symptoms names reasons exactly, and every reason that somebody has to act on."""

from __future__ import annotations

import re

import pytest
import yaml
from tests.docs.blocks import ROOT

from leasehold.api import names
from leasehold.api.names import ConditionStatus, LeaseCondition, Named, PodReason, PoolCondition

PAGE = (ROOT / "docs" / "troubleshoot.md").read_text()
RULES = yaml.safe_load((ROOT / "helm" / "leasehold" / "files" / "alerts" / "leasehold.yaml").read_text())

KNOWN = {
    str(member)
    for enum in vars(names).values()
    if isinstance(enum, type) and issubclass(enum, Named)
    for member in enum
} | {rule["alert"] for group in RULES["groups"] for rule in group["rules"]}

OTHERS = frozenset(
    {
        "Lease",  # the kind of coordination.k8s.io
        "NotifyOnly",
        "SchedulingGated",  # what kubectl shows of a pod
        "ForeignWrite",  # an Event's reason
    }
)
"""Names in this form that are no conditions, reasons or values of ours."""

CLOSED = frozenset(
    {PodReason.ADMITTED, PodReason.NOT_ENFORCED, PodReason.EVICTION_REFUSED, PodReason.DELETED}
)
"""Reasons of pods that leave nothing to be done."""


def named() -> set[str]:
    """Every word of the page in code that looks like a condition or a reason."""
    code = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL))
    return {
        word
        for text in code
        for word in re.findall(r"(?<![\w.-])([A-Z][a-z]+(?:[A-Z][a-z]+)*)(?![\w-])", text)
    }


def test_every_name_on_the_page_exists() -> None:
    ours = {word for word in named() if re.search(r"[a-z][A-Z]", word)}
    assert ours - KNOWN - OTHERS == set()


@pytest.mark.parametrize(
    ("table", "condition", "status"),
    [
        (names.LEASE_REASONS, LeaseCondition.ACCEPTED, ConditionStatus.FALSE),
        (names.LEASE_REASONS, LeaseCondition.ALLOCATED, ConditionStatus.FALSE),
        (names.LEASE_REASONS, LeaseCondition.RELEASED, ConditionStatus.FALSE),
        (names.LEASE_REASONS, LeaseCondition.DISRUPTION_TARGET, ConditionStatus.TRUE),
        (names.POOL_REASONS, PoolCondition.READY, ConditionStatus.FALSE),
        (names.POOL_REASONS, PoolCondition.CAPACITY_KNOWN, ConditionStatus.FALSE),
        (names.POOL_REASONS, PoolCondition.DEGRADED, ConditionStatus.TRUE),
        (names.POOL_REASONS, PoolCondition.TENANTS_VALID, ConditionStatus.FALSE),
    ],
)
def test_whoever_looks_for_a_reason_finds_it(
    table: object, condition: Named, status: ConditionStatus
) -> None:
    not_asked_for = {
        "DryRun",
        "NotGranted",
        "Held",
        "ReleaseRequested",
        "PodsComplete",
        "StartDeadlineExceeded",
    }
    reasons = {str(reason) for reason in table[condition][status]}  # type: ignore[index]
    assert reasons - not_asked_for - named() == set()


def test_every_reason_of_a_pod_that_does_not_start_is_there() -> None:
    assert {str(reason) for reason in PodReason if reason not in CLOSED} - {"LeaseEnding"} - named() == set()
