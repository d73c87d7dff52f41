"""How long a start takes with many leases, what each costs in memory, and what listing all of them anew costs.

The leases are granted ones, copied from one that the operator granted; so a start finds books that are right. The
operator runs by its own service account.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from tests.perf.bench_throughput import CONNECTIONS, _at_once, _lease, cpu_seconds
from tests.perf.figures import Figure
from tests.perf.watched import Operator, resident

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.login import connect
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.nodes import SimulatedNodes

NAMESPACE = "bench-startup"
POOL = "bench-startup"
_LEASES = f"/apis/leasehold.dev/v1alpha1/namespaces/{NAMESPACE}/capacityleases"
_TENTHS = 80  # of a core, on each node
_SETTLES = 3.0


class Store:
    """The API server's store, filled with granted leases that any operator would take over as they are.

    Their times differ, as those of leases do, so that nothing looks cheaper because all are alike.
    """

    def __init__(self, client: KubeClient, nodes: list[str]) -> None:
        self.client = client
        self.nodes = nodes
        self.count = 0
        self.pattern: dict[str, Any] = {}

    async def take_pattern(self) -> None:
        """Let the operator grant one lease, and take that for a pattern of all."""
        await self.client.create(_LEASES, _lease("pattern", POOL, 86_400))
        path = paths.lease(NAMESPACE, "pattern")
        async with asyncio.timeout(30):
            while not (self.pattern.get("status") or {}).get("allocation"):
                await asyncio.sleep(0.2)
                self.pattern = await self.client.get(path)
        self.count = 1

    async def grow(self, count: int) -> None:
        """Make granted leases until there are so many."""
        await _at_once([self._make(i) for i in range(self.count, count)], CONNECTIONS)
        self.count = max(self.count, count)

    def _make(self, number: int) -> Callable[[], Awaitable[Any]]:
        async def make() -> None:
            name = f"held-{number}"
            document = _lease(name, POOL, 86_400)
            document["metadata"]["finalizers"] = self.pattern["metadata"].get("finalizers", [])
            made = await self.client.create(_LEASES, document)
            text = re.sub(r"\.\d{3}Z", f".{number % 1000:03d}Z", json.dumps(self.pattern["status"]))
            status = {**json.loads(text), "fencingToken": number + 1}
            status["allocation"]["ledgerSequence"] = number + 1
            status["allocation"]["slices"][0]["nodeName"] = self.nodes[number % len(self.nodes)]
            document["metadata"] = {
                k: made["metadata"][k] for k in ("name", "namespace", "uid", "resourceVersion")
            }
            await self.client.replace_status(
                paths.lease(NAMESPACE, name), {**document, "spec": made["spec"], "status": status}
            )

        return make


async def _relist(kubeconfig: str) -> tuple[float, float, int]:
    """List all leases into a memory that knows them already; return seconds, CPU seconds, and bytes read."""
    client: KubeClient = connect(kubeconfig)
    try:
        cluster = Cluster(SteadyClock())
        cluster.listed(*_numbered(await client.list(paths.LEASES)))
        started, cpu = time.monotonic(), time.process_time()
        cluster.listed(*_numbered(await client.list(paths.LEASES)))
        return time.monotonic() - started, time.process_time() - cpu, len(cluster.leases.get(POOL, ()))
    finally:
        await client.close()


def _numbered(listed: tuple[list[Any], str]) -> tuple[list[Any], int]:
    return listed[0], int(listed[1])


def _start(control_plane: ControlPlane) -> tuple[float, float, int, Operator]:
    """Start the operator until it leads; return seconds, its CPU seconds, and what it keeps in memory in kB."""
    with Operator(control_plane) as operator:
        took = operator.until_leading()
        cpu = cpu_seconds(operator.pid)
        time.sleep(_SETTLES)
        return took, cpu, resident(operator.pid), operator


def run(*, quick: bool, control_plane: ControlPlane) -> Iterator[Figure]:
    """Measure."""
    sizes, nodes = ((2_000,), 500) if quick else ((10_000, 50_000), 5_000)
    kube = control_plane.client()
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    with SimulatedNodes(kube, parallel=24) as simulated:
        names = simulated.create(nodes)
        kube.apply(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityPool",
                "metadata": {"name": POOL},
                "spec": {"nodeSelector": simulated.selector, "leasePolicy": {"gracePeriodSeconds": 0}},
            }
        )
        yield from _measure(control_plane, names, sizes)


def _measure(control_plane: ControlPlane, nodes: list[str], sizes: tuple[int, ...]) -> Iterator[Figure]:
    async def begin() -> Store:
        store = Store(connect(str(control_plane.kubeconfig)), nodes)
        with Operator(control_plane) as operator:
            await asyncio.to_thread(operator.until_leading)
            await store.take_pattern()
        return store

    with asyncio.Runner() as runner:
        store = runner.run(begin())
        took, cpu, empty, _ = _start(control_plane)
        yield Figure(f"start without leases, {len(nodes):,} nodes", took, "s", "", f"{cpu:.1f} s of CPU")
        for count in sizes:
            runner.run(store.grow(count))
            took, cpu, kept, operator = _start(control_plane)
            target = "< 20 s" if count == 50_000 else ""
            note = f"to ready and leading, by the service account; {cpu:.1f} s of CPU, {kept / 1024:.0f} MiB"
            yield Figure(f"start with {count:,} leases", took, "s", target, note)
            yield Figure(
                f"memory of each lease, {count:,} leases",
                (kept - empty) / count,
                "kB",
                "< 6 kB",
                "resident, against a start without leases",
            )
            wall, used, seen = runner.run(_relist(str(operator.kubeconfig)))
            yield Figure(
                f"listing {seen:,} leases anew", wall, "s", "", f"{used:.2f} s of CPU of the operator"
            )
        runner.run(store.client.close())


if __name__ == "__main__":
    with ControlPlane() as started:
        started.install_crds()
        for figure in run(quick="--quick" in sys.argv, control_plane=started):
            print(
                f"{figure.name:50s} {figure.value:10.3f} {figure.unit:4s} {figure.target:10s} {figure.note}",
                flush=True,
            )
