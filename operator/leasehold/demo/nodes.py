"""The nodes of the demo: this host, measured, and simulated ones that say so."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping

from leasehold.adapters.host import Host
from leasehold.api.names import CPU, EPHEMERAL_STORAGE, MEMORY
from leasehold.api.quantity import format_amount
from leasehold.core.reporting import NODE_FILESYSTEM
from leasehold.core.times import format_time
from leasehold.demo.examples import LABEL
from leasehold.testing.client import Client, Object, has_condition
from leasehold.testing.errors import ApiError
from leasehold.testing.helpers import KWOK_NODE_ANNOTATION
from leasehold.testing.nodes import NodeShape, SimulatedNodes

POOL_LABEL = "example.com/pool"
ZONE_LABEL = "topology.kubernetes.io/zone"
REPORTS = "nodereports.leasehold.dev"
PREFIX = "simulated"
GPU = "vendor.example/gpu"

LAB_NODES, GPU_NODES = 6, 2
_HEARTBEAT_SECONDS = 10.0
_REPORT_SECONDS = 120.0  # well within the 660 s after which a pool takes a report for stale


def host_name(hostname: str) -> str:
    """Return a hostname as a node's name may be written."""
    return re.sub(r"[^a-z0-9.-]+", "-", hostname.lower()).strip("-.")[:240] or "this-host"


def host_capacity(host: Host) -> dict[str, str]:
    """Return what psutil sees of this machine, as quantities. Raises HostReadError."""
    sample, surroundings = host.sample(), host.surroundings()
    disk = next((fs.capacity for fs in sample.filesystems if fs.name == NODE_FILESYSTEM), 0)
    return {
        CPU: format_amount(CPU, 1000 * surroundings.cores),
        MEMORY: format_amount(MEMORY, sample.memory_total),
        EPHEMERAL_STORAGE: format_amount(EPHEMERAL_STORAGE, disk),
    }


def host_node(name: str, capacity: Mapping[str, str], now: int) -> Object:
    """Return the Node that stands for this machine; a kubelet would have registered it."""
    has = {**capacity, "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                LABEL: "",
                "kubernetes.io/hostname": name,
                POOL_LABEL: "lab",
                ZONE_LABEL: "here",
            },
        },
        "status": {"capacity": has, "allocatable": has, "conditions": [_ready(now)]},
    }


def _ready(now: int, since: str = "") -> dict[str, str]:
    stamp = format_time(now - now % 1000)
    return {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "kept ready by the demo; there is no kubelet",
        "lastHeartbeatTime": stamp,
        "lastTransitionTime": since or stamp,
    }


class Nodes:
    """Registers the nodes and keeps them alive until `remove` or `rest`.

    Whatever else happens to a node stays: one that is not ready or gone is not brought back. `guarded` taints the
    nodes, so that a scheduler leaves them alone. With `run_pods` those that are simulated run pods, if kwok is there.
    """

    def __init__(self, client: Client, *, guarded: bool, run_pods: bool = False) -> None:
        self.client = client
        self.guarded = guarded
        self.host = ""
        self.capacity = host_capacity(Host())
        self.simulated = SimulatedNodes(
            client, prefix=PREFIX, annotations={KWOK_NODE_ANNOTATION: "fake"} if run_pods else None
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def register(self, now: int) -> None:
        """Make all nodes, and the report that this host's reporter will fill."""
        self._sweep()
        self.host = self._register_host(now)
        lab = {LABEL: "", POOL_LABEL: "lab", ZONE_LABEL: "sim-a"}
        gpu = {LABEL: "", POOL_LABEL: "gpu", ZONE_LABEL: "sim-b"}
        self.simulated.create(LAB_NODES, labels=lab, usage={CPU: "350m", MEMORY: "2Gi"})
        self.simulated.create(
            GPU_NODES, NodeShape(cpu="32", memory="128Gi", extended={GPU: "4"}), labels=gpu, usage={CPU: "1"}
        )
        if self.guarded:
            for name in (self.host, *self.simulated.names):
                taint = {"key": LABEL, "effect": "NoSchedule"}
                self.client.patch("nodes", name, {"spec": {"taints": [taint]}})

    def _sweep(self) -> None:
        """Remove the nodes of a demo that could not do it itself."""
        for node in self.client.list("nodes", labelSelector=LABEL):
            self.client.delete(REPORTS, node["metadata"]["name"], missing_ok=True)
            self.client.delete("nodes", node["metadata"]["name"], missing_ok=True)

    def _register_host(self, now: int) -> str:
        name = host_name(socket.gethostname())
        found = self.client.find("nodes", name)
        if found is not None and LABEL not in found["metadata"].get("labels", {}):
            name = f"{name}-leasehold-demo"  # this machine is a node of that cluster already
        made = self.client.create(host_node(name, self.capacity, now))
        if made["spec"].get("taints"):  # admission taints every new node as not ready
            self.client.patch("nodes", name, {"spec": {"taints": None}})
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": made["metadata"]["uid"]}
        self.client.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "NodeReport",
                "metadata": {"name": name, "labels": {LABEL: ""}, "ownerReferences": [owner]},
                "spec": {"reportPeriodSeconds": 1},  # a story of a minute wants quick figures
            }
        )
        return name

    # Alive

    def keep_alive(self, wall: Callable[[], int]) -> None:
        """Renew readiness and simulated reports in the background; `wall` returns the time in milliseconds."""
        self._thread = threading.Thread(target=self._keep, args=(wall,), name="demo-nodes", daemon=True)
        self._thread.start()

    def rest(self) -> None:
        """Stop keeping the nodes alive."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _keep(self, wall: Callable[[], int]) -> None:
        reported = time.monotonic()
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            due = time.monotonic() - reported >= _REPORT_SECONDS
            for name in (self.host, *self.simulated.names):
                # A server that is away, a node that was deleted, a write that lost a race: next time.
                with contextlib.suppress(ApiError, OSError):
                    self.beat(name, wall())
                    if due and name != self.host:
                        self.simulated.report(name, {CPU: "350m", MEMORY: "2Gi"})
            if due:
                reported = time.monotonic()

    def beat(self, name: str, now: int) -> None:
        """Renew one node's readiness, unless it is not ready. Raises ApiError 404 or 409."""
        node = self.client.get("nodes", name)
        if not has_condition(node, "Ready"):
            return
        before = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
        patch = {
            "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
            "status": {"conditions": [_ready(now, before["lastTransitionTime"])]},
        }
        self.client.patch("nodes", name, patch, subresource="status")

    def remove(self) -> None:
        """Delete all nodes and their reports."""
        self.rest()
        self.simulated.remove()
        if self.host:
            self.client.delete(REPORTS, self.host, missing_ok=True)
            self.client.delete("nodes", self.host, missing_ok=True)
