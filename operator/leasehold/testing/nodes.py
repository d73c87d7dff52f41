"""Simulated nodes: Node objects with the reports that a reporter on them would write, and no machine behind
them.
"""

from __future__ import annotations

import itertools
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from leasehold.testing.client import Client

POOL_LABEL = "leasehold.dev/simulated"
"""Every simulated node carries this label; its value is the prefix of the set it belongs to."""

_REPORTS = "nodereports.leasehold.dev"


@dataclass(frozen=True)
class NodeShape:
    """What a simulated node has, as quantities. `extended` are further resources, such as
    vendor.example/gpu.
    """

    cpu: str = "8"
    memory: str = "32Gi"
    ephemeral_storage: str = "100Gi"
    extended: Mapping[str, str] = field(default_factory=dict)

    def resources(self) -> dict[str, str]:
        """Return resource names with quantities, as in a node's capacity, without pods."""
        return {
            "cpu": self.cpu,
            "memory": self.memory,
            "ephemeral-storage": self.ephemeral_storage,
            **self.extended,
        }


@dataclass
class _Reporter:
    """What a reporter keeps between two reports."""

    shape: NodeShape
    boot_id: str
    node_uid: str = ""
    sequence: int = 0
    known: bool = False


class SimulatedNodes:
    """A set of simulated nodes that are made, reported on and removed together.

    The prefix of the names is random unless given, so that tests sharing an API server do not meet.
    `selector` is a node selector that matches this set and nothing else. Used in a `with` block, the nodes
    are removed at its end.

    Nothing runs behind the nodes: without kwok no pod starts on them, and where a controller-manager runs
    it finds them not ready after 40 seconds unless kwok keeps them alive
    (annotations={KWOK_NODE_ANNOTATION: "fake"}).
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str | None = None,
        annotations: Mapping[str, str] | None = None,
        parallel: int = 16,
    ) -> None:
        self.prefix = prefix or f"sim-{secrets.token_hex(3)}"
        self.names: list[str] = []
        self._client = client
        self._annotations = dict(annotations or {})
        self._parallel = parallel
        self._numbers = itertools.count()
        self._reporters: dict[str, _Reporter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def selector(self) -> dict[str, Any]:
        """A label selector for exactly these nodes."""
        return {"matchLabels": {POOL_LABEL: self.prefix}}

    def create(
        self,
        count: int,
        shape: NodeShape | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        usage: Mapping[str, str] | None = None,
        report: bool = True,
    ) -> list[str]:
        """Make ready nodes, each with a report of `usage` (nothing in use by default), and return their
        names.
        """
        made = [f"{self.prefix}-{next(self._numbers):04d}" for _ in range(count)]
        self.names += made
        for name in made:
            self._reporters[name] = _Reporter(shape or NodeShape(), str(uuid.uuid4()))

        def make(name: str) -> None:
            self._make_node(name, labels or {})
            if report:
                self.report(name, usage)

        self._client.resource("nodes")  # discovery once, not once per thread
        self._each(make, made)
        return made

    def report(
        self,
        name: str,
        usage: Mapping[str, str] | None = None,
        *,
        at: datetime | None = None,
        leases: Sequence[Mapping[str, Any]] = (),
        conditions: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write the node's next report, at a time of choice to simulate a silent or a lying reporter.

        `usage` names the quantity in use by resource; all of it counts as outside leases. `leases` are the
        entries of the report's own list: uid, state, cpu, memory; they answer the spec that the report has now.
        """
        reporter = self._reporters[name]
        reporter.sequence += 1
        status = {
            "bootID": reporter.boot_id,
            "agentVersion": "simulated",
            "reportTime": _stamp(at or datetime.now(UTC)),
            "sequence": reporter.sequence,
            "clockOffsetMilliseconds": 0,
            "capacity": reporter.shape.resources(),
            "usage": [
                _usage(resource, amount) for resource, amount in _filled(reporter.shape, usage).items()
            ],
            "leases": [dict(entry) for entry in leases],
            "conditions": [dict(entry) for entry in conditions],
        }
        if not reporter.known:
            self._make_report(name)
            reporter.known = True
        if leases:  # an answer to what is asked now
            status["observedGeneration"] = self._client.get(_REPORTS, name)["metadata"]["generation"]
        self._client.patch(_REPORTS, name, {"status": status}, subresource="status")

    def report_all(self, usage: Mapping[str, str] | None = None) -> None:
        """Write the next report of every node."""
        self._each(lambda name: self.report(name, usage), self.names)

    def reboot(self, name: str) -> None:
        """Let the node's next report come from another boot, with its sequence begun anew."""
        reporter = self._reporters[name]
        reporter.boot_id, reporter.sequence = str(uuid.uuid4()), 0

    def mark_ready(self, name: str) -> None:
        """Set the node's Ready condition to True."""
        self._set_ready(name, "True")

    def mark_not_ready(self, name: str, status: str = "False") -> None:
        """Set the node's Ready condition to False, or to Unknown as for a node that fell silent."""
        self._set_ready(name, status)

    def cordon(self, name: str) -> None:
        """Mark the node unschedulable."""
        self._client.patch("nodes", name, {"spec": {"unschedulable": True}})

    def uncordon(self, name: str) -> None:
        """Mark the node schedulable again."""
        self._client.patch("nodes", name, {"spec": {"unschedulable": None}})

    def delete(self, name: str) -> None:
        """Delete the node and its report, which no garbage collector would remove here."""
        self.names.remove(name)
        reporter = self._reporters.pop(name)
        self._client.delete("nodes", name, missing_ok=True)
        if reporter.known:
            self._client.delete(_REPORTS, name, missing_ok=True)

    def remove(self) -> None:
        """Delete all nodes of the set."""
        self._each(self.delete, list(self.names))

    def _each(self, act: Callable[[str], None], names: Iterable[str]) -> None:
        with ThreadPoolExecutor(self._parallel) as pool:
            list(pool.map(act, names))  # list() raises what a thread raised

    def _make_node(self, name: str, labels: Mapping[str, str]) -> None:
        has = {**self._reporters[name].shape.resources(), "pods": "110"}
        made = self._client.create(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "labels": {"kubernetes.io/hostname": name, POOL_LABEL: self.prefix, **labels},
                    "annotations": self._annotations,
                },
                "status": {"capacity": has, "allocatable": has, "conditions": [_ready("True")]},
            }
        )
        self._reporters[name].node_uid = made["metadata"]["uid"]
        if made["spec"].get("taints"):
            # Admission taints every new node as not ready; lifting that is the controller-manager's work.
            self._client.patch("nodes", name, {"spec": {"taints": None}})

    def _make_report(self, name: str) -> None:
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": self._reporters[name].node_uid}
        self._client.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "NodeReport",
                "metadata": {"name": name, "labels": {POOL_LABEL: self.prefix}, "ownerReferences": [owner]},
                "spec": {},
            }
        )

    def _set_ready(self, name: str, status: str) -> None:
        self._client.patch("nodes", name, {"status": {"conditions": [_ready(status)]}}, subresource="status")


def _filled(shape: NodeShape, usage: Mapping[str, str] | None) -> dict[str, str]:
    return dict.fromkeys(shape.resources(), "0") | dict(usage or {})


def _usage(resource: str, amount: str) -> dict[str, str]:
    figures = ("current", "trend", "p90", "p95", "max", "unmanaged")
    return {"name": resource, **dict.fromkeys(figures, amount)}


def _ready(status: str) -> dict[str, str]:
    now = _stamp(datetime.now(UTC))
    reason = {"True": "KubeletReady", "False": "KubeletNotReady"}.get(status, "NodeStatusUnknown")
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": "simulated",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }


def _stamp(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
