"""Which pods are given the gate; that API servers decide the same by policy is in tests/enforcement."""

from __future__ import annotations

from typing import Any

import pytest

from leasehold.core.pod_gate import gate_patch, holds_pods, wants_gate

GATE = {"name": "leasehold.dev/lease"}


def pod(lease: str | None = "build-7", **spec: Any) -> dict[str, Any]:
    labels = {"app": "x"} if lease is None else {"app": "x", "leasehold.dev/lease": lease}
    return {"metadata": {"labels": labels}, "spec": spec}


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (pod(), True),
        (pod(schedulingGates=[{"name": "other"}]), True),
        (pod(""), True),  # what no lease can be called is refused by another policy, if at all
        (pod(None), False),
        ({"metadata": {}}, False),
        (pod(nodeName="n1"), False),
        (pod(schedulingGates=[{"name": "other"}, GATE]), False),
    ],
)
def test_a_pod_that_names_a_lease_gets_the_gate_unless_it_has_it_or_is_bound(
    asked: dict[str, Any], wanted: bool
) -> None:
    assert wants_gate(asked) is wanted


def test_gates_of_others_stay_before_it() -> None:
    assert gate_patch(pod()) == [{"op": "add", "path": "/spec/schedulingGates", "value": [GATE]}]
    assert gate_patch(pod(schedulingGates=[{"name": "other"}])) == [
        {"op": "add", "path": "/spec/schedulingGates/-", "value": GATE}
    ]


@pytest.mark.parametrize(
    ("spec", "holds"),
    [
        ({"enforcement": {"mode": "Gate"}}, True),
        ({"enforcement": {"mode": "Placeholder"}}, True),
        ({"enforcement": {"mode": "Advisory"}}, False),
        ({"enforcement": {}}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_pool_holds_pods_if_it_has_a_mode_other_than_advisory(spec: Any, holds: bool) -> None:
    assert holds_pods({"spec": spec}) is holds
