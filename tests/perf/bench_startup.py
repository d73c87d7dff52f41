"""How long a start takes with many leases, what each costs in memory, and what listing all of them anew costs.

The leases are granted ones, copied from one that the operator granted; so a start finds books that are right. The
operator runs by its own service account.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from tests.perf.bench_throughput import _lease, cpu_seconds
from tests.perf.figures import Figure
from tests.perf.watched import Operator, resident

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError
from leasehold.adapters.login import connect
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.nodes import SimulatedNodes

NAMESPACE = "bench-startup"
POOL = "bench-startup"
_LEASES = f"/apis/leasehold.dev/v1alpha1/namespaces/{NAMESPACE}/capacityleases"
_PATTERN = "held-000000"
_TOGETHER = 100  # etcd takes at most 128 operations in one
_SETTLES = 3.0
_AT_REST = 0.3  # of a core, for etcd and the API server together


class Store:
    """etcd, into which copies of objects are written as the API server would have stored them.

    What is copied was made by the API server and granted by the operator. Names and uids are replaced by others of the
    same length, so that it does not matter how an object is encoded. Their times differ, as those of leases do, so that
    nothing looks cheaper because all are alike. Thousands take seconds, where creating them takes many minutes.
    """

    def __init__(self, control_plane: ControlPlane) -> None:
        connector = aiohttp.UnixConnector(str(control_plane.directory / "etcd.sock"))
        self.session = aiohttp.ClientSession(connector=connector)

    async def copy(self, key: str, copies: Iterable[Mapping[str, str]]) -> None:
        """Store copies of the object at a key, each with some texts replaced, in its key too."""
        found = await self._post("range", {"key": _base64(f"/registry/{key}".encode())})
        value = base64.b64decode(found["kvs"][0]["value"])
        puts = []
        for replaced in copies:
            name, body = f"/registry/{key}".encode(), value
            for old, new in replaced.items():
                assert len(old) == len(new) or body.startswith(b"{"), "a length is written down somewhere"
                name, body = (
                    name.replace(old.encode(), new.encode()),
                    body.replace(old.encode(), new.encode()),
                )
            puts.append({"requestPut": {"key": _base64(name), "value": _base64(body)}})
        for i in range(0, len(puts), _TOGETHER):
            await self._post("txn", {"success": puts[i : i + _TOGETHER]})

    async def _post(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self.session.post(f"http://etcd/v3/kv/{what}", json=body) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer


class World:
    """Nodes with reports, and granted leases that any operator would take over as they are."""

    def __init__(self, client: KubeClient, store: Store, node: str) -> None:
        self.client = client
        self.store = store
        self.node = node
        self.nodes = [node]
        self.leases = 1
        self.lease: dict[str, Any] = {}

    async def add_nodes(self, count: int) -> None:
        """Copy the first node and its report until there are so many."""
        first = await self.client.get(f"/api/v1/nodes/{self.node}")
        names = {f"{self.node[:-4]}{i:04d}": str(uuid.uuid4()) for i in range(1, count)}
        uid = first["metadata"]["uid"]
        copies = [{self.node: name, uid: new} for name, new in names.items()]
        await self.store.copy(f"minions/{self.node}", copies)
        report = await self.client.get(f"{paths.REPORTS}/{self.node}")
        own = report["metadata"]["uid"]
        await self.store.copy(
            f"leasehold.dev/nodereports/{self.node}", [{**c, own: str(uuid.uuid4())} for c in copies]
        )
        self.nodes += names
        await self._until_served(paths.REPORTS, count)

    async def grant_first(self) -> None:
        """Let the operator grant one lease, the pattern of all."""
        await self.client.create(_LEASES, _lease(_PATTERN, POOL, 86_400))
        async with asyncio.timeout(60):
            while not (self.lease.get("status") or {}).get("allocation"):
                await asyncio.sleep(0.2)
                self.lease = await self.client.get(paths.lease(NAMESPACE, _PATTERN))

    async def grow(self, count: int) -> None:
        """Copy the granted lease until there are so many."""
        held = self.lease["status"]["allocation"]["slices"][0]["nodeName"]
        key = f"leasehold.dev/capacityleases/{NAMESPACE}/{_PATTERN}"
        millis = self.lease["status"]["allocation"]["allocationTime"][-5:]
        token = self.lease["status"]["fencingToken"]
        copies = [
            {
                _PATTERN: f"held-{i:06d}",
                self.lease["metadata"]["uid"]: str(uuid.uuid4()),
                held: self.nodes[i % len(self.nodes)],
                millis: f".{i % 1000:03d}Z",
                f'"fencingToken":{token}': f'"fencingToken":{token + i}',
                f'"ledgerSequence":{token}': f'"ledgerSequence":{token + i}',
            }
            for i in range(self.leases, count)
        ]
        await self.store.copy(key, copies)
        self.leases = max(self.leases, count)
        await self._until_served(paths.LEASES, self.leases)

    async def _until_served(self, path: str, count: int) -> None:
        """Wait until the API server itself has read what was stored behind its back."""
        async with asyncio.timeout(300):
            while True:
                with suppress(ApiError):
                    page = await self.client.request("GET", path, query={"limit": 1})
                    if 1 + page["metadata"].get("remainingItemCount", 0) >= count:
                        return
                await asyncio.sleep(1)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


async def _relist(kubeconfig: str) -> tuple[float, float, int]:
    """List all leases into a memory that knows them already; return seconds, CPU seconds, and bytes read."""
    client: KubeClient = connect(kubeconfig)
    try:
        cluster = Cluster(SteadyClock())
        cluster.listed(*_numbered(await client.list(paths.LEASES, read=cluster.note)))
        started, cpu = time.monotonic(), time.process_time()
        cluster.listed(*_numbered(await client.list(paths.LEASES, read=cluster.note)))
        return time.monotonic() - started, time.process_time() - cpu, len(cluster.leases.get(POOL, ()))
    finally:
        await client.close()


def _numbered(listed: tuple[list[Any], str]) -> tuple[list[Any], int]:
    return listed[0], int(listed[1])


def _until_at_rest(control_plane: ControlPlane) -> None:
    """Wait until the API server has taken in what was stored behind its back.

    It reads 50,000 leases anew and collects the garbage of that, for half a minute on two cores. No start of an
    operator finds it so busy.
    """
    before = None
    for _ in range(120):
        used = sum(map(cpu_seconds, control_plane.processes.values()))
        if before is not None and used - before < _SETTLES * _AT_REST:
            return
        before = used
        time.sleep(_SETTLES)
    raise TimeoutError("the API server does not come to rest")


def _start(control_plane: ControlPlane) -> tuple[float, float, int, Operator]:
    """Start the operator until it leads; return seconds, its CPU seconds, and what it keeps in memory in kB."""
    _until_at_rest(control_plane)
    with Operator(control_plane) as operator:
        took = operator.until_leading()
        cpu = cpu_seconds(operator.pid)
        time.sleep(_SETTLES)
        return took, cpu, resident(operator.pid), operator


def run(*, quick: bool, control_plane: ControlPlane) -> Iterator[Figure]:
    """Measure. The control plane must be one of this machine: its store is filled directly."""
    sizes, nodes = ((2_000,), 500) if quick else ((10_000, 50_000), 5_000)
    kube = control_plane.client()
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    simulated = SimulatedNodes(kube)
    (first,) = simulated.create(1)
    kube.apply(
        {
            "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "CapacityPool",
            "metadata": {"name": POOL},
            "spec": {"nodeSelector": simulated.selector, "leasePolicy": {"gracePeriodSeconds": 0}},
        }
    )

    async def begin() -> World:
        world = World(connect(str(control_plane.kubeconfig)), Store(control_plane), first)
        with Operator(control_plane) as operator:
            await asyncio.to_thread(operator.until_leading)
            await world.grant_first()
        await world.add_nodes(nodes)
        return world

    with asyncio.Runner() as runner:
        world = runner.run(begin())
        took, cpu, empty, _ = _start(control_plane)
        yield Figure(f"start with one lease, {nodes:,} nodes", took, "s", "", f"{cpu:.1f} s of CPU")
        for count in sizes:
            runner.run(world.grow(count))
            took, cpu, kept, operator = _start(control_plane)
            target = "< 20 s" if count == 50_000 else ""
            note = f"to ready and leading, by the service account; {cpu:.1f} s of CPU, {kept / 1024:.0f} MiB"
            yield Figure(f"start with {count:,} leases", took, "s", target, note)
            yield Figure(
                f"memory of each lease, {count:,} leases",
                (kept - empty) / count,
                "kB",
                "< 6 kB",
                "resident, against a start with one lease",
            )
            wall, used, seen = runner.run(_relist(str(operator.kubeconfig)))
            yield Figure(
                f"listing {seen:,} leases anew", wall, "s", "", f"{used:.2f} s of CPU of the operator"
            )
        runner.run(world.store.session.close())
        runner.run(world.client.close())


if __name__ == "__main__":
    with ControlPlane(local=True) as started:
        started.install_crds()
        for figure in run(quick="--quick" in sys.argv, control_plane=started):
            print(
                f"{figure.name:50s} {figure.value:10.3f} {figure.unit:4s} {figure.target:10s} {figure.note}",
                flush=True,
            )
