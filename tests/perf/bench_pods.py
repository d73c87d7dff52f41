"""What holding pods to their leases costs: the lifting of gates, hand-overs among competitors, the watch of all pods.

On a control plane with the real scheduler and controllers; kubelets are played by kwok. Latencies are seen by one
process that creates and watches, so they are by one clock, and stand beside those of pods that have no gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any

from tests.enforcement.harness import Enforcer, whole_control_plane
from tests.perf.figures import Figure, percentile, spread
from tests.perf.watched import keep_reporting

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.login import connect
from leasehold.adapters.pods import OtherPods, Pods
from leasehold.api.names import LEASE_GATE, LEASE_LABEL
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.helpers import KWOK_NODE_ANNOTATION
from leasehold.testing.nodes import NodeShape, SimulatedNodes

NAMESPACE = "bench-pods"
_RATES = ((10, 1), (50, 10), (100, 10), (100, 1))
"""Pods a second, and how many of them share a lease."""

_LARGE = NodeShape(cpu="64", memory="256Gi")
_SMALL = NodeShape(cpu="4", memory="8Gi")
_PATIENCE = 60.0
_COMPETITORS = 5
_HANDOVER_NODES = 8

Object = dict[str, Any]


def run(*, quick: bool) -> Iterator[Figure]:
    """Measure all of it; `quick` takes samples of a tenth."""
    with whole_control_plane() as control_plane:
        yield from asyncio.run(_on(control_plane, quick=quick))
    yield from _watching_all_pods(5_000 if quick else 50_000)


async def _on(control_plane: ControlPlane, *, quick: bool) -> list[Figure]:
    kube = control_plane.client()
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    kube.wait("serviceaccounts", "default", NAMESPACE, until=lambda account: True)
    above = {"value": 1_000_000, "preemptionPolicy": "Never", "metadata": {"name": "leasehold-placeholder"}}
    kube.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", **above})
    annotations = {KWOK_NODE_ANNOTATION: "fake"}
    with (
        Enforcer(control_plane),
        SimulatedNodes(kube, annotations=annotations) as large,
        SimulatedNodes(kube, annotations=annotations) as small,
    ):
        large.create(20, _LARGE)
        names = small.create(_HANDOVER_NODES, _SMALL)
        client = connect(str(control_plane.kubeconfig))
        reporting = [asyncio.create_task(keep_reporting(nodes)) for nodes in (large, small)]
        try:
            bench = _Bench(client)
            async with bench.watching():
                await bench.pool("gate", large.selector, "Gate")
                await bench.pool("held", small.selector, "Placeholder")
                found = [figure async for figure in bench.gates(quick=quick)]
                found += [figure async for figure in bench.hand_overs(names, 40 if quick else 500)]
                return found
        finally:
            for task in reporting:
                task.cancel()
            await client.close()


class _Bench:
    """Creates pods and leases, and notes when each was seen to be bound or Ready."""

    def __init__(self, client: KubeClient) -> None:
        self.client = client
        self.asked: dict[str, float] = {}
        self.bound: dict[str, float] = {}
        self.nodes: dict[str, str] = {}
        self.ready: dict[str, float] = {}
        self.gone: set[str] = set()
        self.news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._watch(path, take))
            for path, take in (
                ("/api/v1/pods", self._pod),
                (paths.LEASES, self._lease),
            )
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def _watch(self, path: str, take: Callable[[str, Object], None]) -> None:
        version = (await self.client.request("GET", path, query={"limit": 1}))["metadata"]["resourceVersion"]
        while True:
            query = {"resourceVersion": version, "timeoutSeconds": 3000, "allowWatchBookmarks": "true"}
            async for event in self.client.watch(path, 120, **query):
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    take(event["type"], event["object"])
                    self.news.set()

    def _pod(self, kind: str, pod: Object) -> None:
        name, node = pod["metadata"]["name"], pod["spec"].get("nodeName")
        if node and name not in self.bound:
            self.bound[name] = time.monotonic()
            self.nodes[name] = node
        if kind == "DELETED":
            self.gone.add(name)

    def _lease(self, kind: str, lease: Object) -> None:
        name = lease["metadata"]["name"]
        conditions = (lease.get("status") or {}).get("conditions", ())
        if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
            self.ready.setdefault(name, time.monotonic())
        if kind == "DELETED":
            self.gone.add(name)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"not within {_PATIENCE} s: {what}"
            self.news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self.news.wait()

    # --- making things ---

    async def pool(self, name: str, selector: Mapping[str, Any], mode: str) -> None:
        resources = [{"name": "cpu", "source": "Allocatable"}]
        policy = {"gracePeriodSeconds": 0, "claimTimeoutSeconds": 0}
        spec = {
            "nodeSelector": selector,
            "resources": resources,
            "leasePolicy": policy,
            "enforcement": {"mode": mode},
            "placement": {"strategy": "Spread"},  # a node takes 110 pods
        }
        body = {"apiVersion": "leasehold.dev/v1alpha1", "kind": "CapacityPool", "spec": spec}
        await self.client.create(paths.POOLS, {**body, "metadata": {"name": name}})
        while True:
            status = (await self.client.get(paths.pool(name))).get("status") or {}
            if any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ())):
                return
            await asyncio.sleep(0.1)

    async def lease(self, name: str, pool: str, cpu: str, node: str = "", count: int = 1) -> None:
        placement = {"placement": {"nodeSelector": {"kubernetes.io/hostname": node}}} if node else {}
        spec = {"poolRef": {"name": pool}, "resources": {"cpu": cpu}, "count": count, **placement}
        body = {"apiVersion": "leasehold.dev/v1alpha1", "kind": "CapacityLease", "spec": spec}
        path = f"/apis/leasehold.dev/v1alpha1/namespaces/{NAMESPACE}/capacityleases"
        await self.client.create(path, {**body, "metadata": {"name": name, "namespace": NAMESPACE}})

    async def pod(self, name: str, cpu: str, lease: str = "", node: str = "") -> None:
        container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": cpu}}}
        spec: Object = {"containers": [container], "terminationGracePeriodSeconds": 0}
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        labels = {}
        if lease:  # what the admission policy of the chart does
            labels[LEASE_LABEL] = lease
            spec["schedulingGates"] = [{"name": LEASE_GATE}]
        meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
        self.asked[name] = time.monotonic()
        await self.client.create(
            paths.pod(NAMESPACE), {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        )

    async def remove(self, *paths_: str) -> None:
        async def one(path: str) -> None:
            await self.client.request("DELETE", path, {"gracePeriodSeconds": 0})

        await asyncio.gather(*(one(path) for path in paths_))

    # --- gates ---

    async def gates(self, *, quick: bool) -> AsyncIterator[Figure]:
        for rate, gang in _RATES:
            count = rate * 3 if quick else rate * 15
            plain = await self._steadily(rate, count, self._plain)
            waits = await self._steadily(rate / gang, count // gang, partial(self._leased, gang))
            alone = [(self.bound[n] - self.asked[n]) * 1000 for n in plain]
            gangs = [(lease, f"{lease}-{i}") for lease in waits for i in range(gang)]
            whole = [(self.bound[pod] - self.ready[lease]) * 1000 for lease, pod in gangs]
            for figure in spread(f"pod without gate, {rate}/s: created to bound", alone, "ms"):
                yield figure
            what = f"{rate}/s, {gang} to a lease"
            for figure in spread(f"pods with leases, {what}: lease Ready to bound", whole, "ms"):
                yield figure
            added = percentile(whole, 99) - percentile(alone, 99)
            yield Figure(f"added by the gate, {what}, p99", added, "ms", "< 100")

    async def _plain(self, name: str) -> None:
        await self.pod(name, "10m")

    async def _leased(self, gang: int, name: str) -> None:
        """The pods are there first, so that nothing but the gate is waited for when their lease is Ready."""
        await asyncio.gather(*(self.pod(f"{name}-{i}", "10m", lease=name) for i in range(gang)))
        await self.lease(name, "gate", "10m", count=gang)

    async def _steadily(
        self, rate: float, count: int, make: Callable[[str], Coroutine[Any, Any, None]]
    ) -> list[str]:
        mark = secrets.token_hex(3)
        names = [f"{mark}-{i}" for i in range(count)]
        start, under_way = time.monotonic(), []
        for i, name in enumerate(names):
            await asyncio.sleep(max(0.0, start + i / rate - time.monotonic()))
            under_way.append(asyncio.create_task(make(name)))
        await asyncio.gather(*under_way)
        pods = [name for name in self.asked if name.startswith(mark)]
        await self.until(lambda: all(name in self.bound for name in pods), "all pods are bound")
        if make == self._plain:
            await self.remove(*(paths.pod(NAMESPACE, name) for name in pods))
        else:
            await self.until(lambda: all(name in self.ready for name in names), "all leases are Ready")
            await self.remove(*(paths.lease(NAMESPACE, name) for name in names))
        await self.until(lambda: all(name in self.gone for name in (*names, *pods)), "all are gone again")
        return names

    # --- hand-overs ---

    async def hand_overs(self, nodes: list[str], count: int) -> AsyncIterator[Figure]:
        for what, cpu in (("the whole slice", "4"), ("half of it", "2")):
            took: list[float] = []
            lost = 0
            left = iter(range(count))

            async def on(
                node: str, left: Iterator[int] = left, cpu: str = cpu, took: list[float] = took
            ) -> int:
                lost = 0
                for _ in left:
                    lost += await self._hand_over(node, cpu, took)
                return lost

            lost = sum(await asyncio.gather(*(on(node) for node in nodes)))
            yield Figure(
                f"hand-overs of {what} lost to one of {_COMPETITORS} competitors",
                lost,
                "lost",
                "0",
                f"of {count}",
            )
            for figure in spread(f"hand-over of {what}: created to bound", took, "ms"):
                yield figure

    async def _hand_over(self, node: str, cpu: str, took: list[float]) -> int:
        """Let a pod take the place of its placeholder while others wait for the room; 1 if one of them got it."""
        name = f"h-{secrets.token_hex(4)}"
        await self.lease(name, "held", "4", node)
        await self.until(lambda: name in self.ready, "the lease is Ready")
        uid = (await self.client.get(paths.lease(NAMESPACE, name)))["metadata"]["uid"]
        holder = f"hold-{uid}-0-0"
        await self.until(lambda: holder in self.bound, "the room is held")
        rivals = [f"{name}-r{i}" for i in range(_COMPETITORS)]
        await asyncio.gather(*(self.pod(rival, cpu, node=node) for rival in rivals))
        await self.pod(name, cpu, lease=name)
        await self.until(
            lambda: name in self.bound or any(r in self.bound for r in rivals), "somebody is bound"
        )
        lost = any(rival in self.bound for rival in rivals)
        if not lost:
            took.append((self.bound[name] - self.asked[name]) * 1000)
        await self.remove(*(paths.pod(NAMESPACE, rival) for rival in rivals))
        await self.remove(paths.lease(NAMESPACE, name))
        await self.until(
            lambda: name in self.gone and all(r in self.gone for r in rivals), "all are gone again"
        )
        return int(lost)


# --- the watch of all pods ---


def _watching_all_pods(count: int) -> Iterator[Figure]:
    """Feed pods as the API server sends them to the memory of pods without leases, and see what it keeps."""
    changes: list[str] = []
    pods = Pods(changes.append, lambda key: None, lambda uid: False, lambda: 0)
    audience = OtherPods(pods, lambda: None)
    texts = [json.dumps(_ordinary(i)) for i in range(count)]
    started = time.perf_counter()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    audience.listed([audience.note(json.loads(text)) for text in texts], 1)
    kept = tracemalloc.get_traced_memory()[0] - before - 0
    tracemalloc.stop()
    traced_for = time.perf_counter() - started
    again = time.perf_counter()
    for text in texts:
        audience.changed("MODIFIED", json.loads(text))
    each = (time.perf_counter() - again) / count * 1e6
    size = sum(map(len, texts)) / count
    changes.clear()
    yield Figure(
        f"memory of {count:,} pods without a lease", kept / 1e6, "MB", "", f"{kept / count:.0f} bytes each"
    )
    yield Figure(
        "one change of such a pod, read and found to matter nothing",
        each,
        "µs",
        "",
        f"{size:.0f} bytes of JSON; the list was read in {traced_for:.1f} s with memory traced",
    )


def _ordinary(i: int) -> Object:
    """A pod of a Deployment as it is after it started: two containers, a volume, conditions and statuses."""
    name = f"app-{i % 500}-{i:05x}-{secrets.token_hex(2)}"

    def container(part: str) -> Object:
        return {
            "name": part,
            "image": f"registry.example/{part}:1.2.3",
            "resources": {"requests": {"cpu": f"{50 * (i % 8 + 1)}m", "memory": f"{64 * (i % 5 + 1)}Mi"}},
            "env": [{"name": f"VARIABLE_{n}", "value": f"value-{n}"} for n in range(8)],
            "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets", "readOnly": True}],
        }

    states = [
        {
            "name": part,
            "ready": True,
            "restartCount": 0,
            "image": f"registry.example/{part}:1.2.3",
            "imageID": f"sha256:{secrets.token_hex(16)}",
            "containerID": f"containerd://{secrets.token_hex(16)}",
            "state": {"running": {"startedAt": "2026-11-28T06:00:00Z"}},
        }
        for part in ("main", "log")
    ]
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": "2026-11-28T06:00:00Z"}
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    return {
        "metadata": {
            "name": name,
            "namespace": f"team-{i % 40}",
            "uid": f"{i:08x}-0000-4000-8000-{secrets.token_hex(6)}",
            "resourceVersion": str(i),
            "creationTimestamp": "2026-11-28T06:00:00Z",
            "labels": {"app": f"app-{i % 500}", "pod-template-hash": "abcdef"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": f"app-{i % 500}", "controller": True}],
        },
        "spec": {"nodeName": f"node-{i % 1000}", "containers": [container("main"), container("log")]},
        "status": {"phase": "Running", "conditions": conditions, "containerStatuses": states},
    }
