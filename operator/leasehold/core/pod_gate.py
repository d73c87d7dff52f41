"""Which pods get the scheduling gate at creation: the webhook's decision, the same as the admission policy's.

helm/leasehold/templates/policies/gate.yaml says it in CEL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leasehold.api.names import LEASE_GATE, LEASE_LABEL, EnforcementMode

Json = Mapping[str, Any]


def holds_pods(pool: Json) -> bool:
    """Tell whether a CapacityPool holds pods to their leases."""
    enforcement = (pool.get("spec") or {}).get("enforcement") or {}
    return bool(enforcement.get("mode", EnforcementMode.ADVISORY) != EnforcementMode.ADVISORY)


def wants_gate(pod: Json) -> bool:
    """Tell whether a pod that is being created gets the gate where a pool holds pods: it names a lease, and has none.

    Static pods are bound, and a pod that is bound cannot have a gate.
    """
    meta, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    gates = spec.get("schedulingGates") or ()
    return (
        LEASE_LABEL in (meta.get("labels") or {})
        and not spec.get("nodeName")
        and all(gate.get("name") != LEASE_GATE for gate in gates)
    )


def gate_patch(pod: Json) -> list[dict[str, Any]]:
    """Return the JSON patch that adds the gate to a pod."""
    gate = {"name": LEASE_GATE}
    if (pod.get("spec") or {}).get("schedulingGates"):
        return [{"op": "add", "path": "/spec/schedulingGates/-", "value": gate}]
    return [{"op": "add", "path": "/spec/schedulingGates", "value": [gate]}]
