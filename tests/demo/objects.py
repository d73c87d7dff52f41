"""Leases, pools and nodes as the API server shows them, with what the demo looks at and nothing else."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def condition(type_: str, status: str, reason: str, message: str = "") -> Object:
    return {"type": type_, "status": status, "reason": reason, "message": message}


def lease(name: str = "build-1", *conditions: Object, spec: Object | None = None, **status: Any) -> Object:
    asked = {"poolRef": {"name": "lab"}, "resources": {"cpu": "2", "memory": "4Gi"}}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "creationTimestamp": "2026-11-22T12:00:00Z"},
        "spec": asked | (spec or {}),
        "status": {"conditions": list(conditions), **status} if conditions or status else {},
    }


def held(name: str = "build-1", *more: Object, nodes: tuple[str, ...] = ("node-a",), **status: Any) -> Object:
    slices = [
        {"index": i, "nodeName": node, "resources": {"cpu": "2", "memory": "4Gi"}}
        for i, node in enumerate(nodes)
    ]
    return lease(
        name,
        condition("Ready", "True", "Held"),
        condition("Allocated", "True", "Granted"),
        *more,
        **({"fencingToken": 7, "allocation": {"slices": slices}, "phase": "Active"} | status),
    )


def over(name: str = "build-1", word: str = "Expired", cause: str = "TermEnded", **status: Any) -> Object:
    ended = held(name, condition("Released", "True", "NotRequired"), condition("Finished", "True", word))
    ended["status"]["conditions"][0] = condition("Ready", "False", cause)
    ended["status"] |= {"phase": word, "release": {"cause": cause, "finishTime": "2026-11-22T12:00:10.5Z"}}
    ended["status"] |= status
    return ended


def pool(name: str = "lab", *, allocated: str = "2", free: str = "6") -> Object:
    row = {"name": "cpu", "total": "8", "allocatable": "8", "allocated": allocated, "free": free}
    return {
        "metadata": {"name": name, "creationTimestamp": "2026-11-22T12:00:00Z"},
        "status": {
            "conditions": [
                condition("Ready", "True", "Serving"),
                condition("LedgerConsistent", "True", "Consistent"),
            ],
            "capacity": [row],
            "nodes": {"total": 2, "grantable": 1},
            "leases": {"held": 1, "pending": 0},
        },
    }


def node(name: str = "node-a", ready: str = "True") -> Object:
    return {
        "metadata": {"name": name, "resourceVersion": "1"},
        "status": {
            "conditions": [
                {
                    **condition("Ready", ready, "KubeletReady"),
                    "lastTransitionTime": "2026-11-22T11:00:00Z",
                }
            ]
        },
    }
