"""How long a lease waits for its grant: at steady rates, and while another tenant floods the operator.

Both are seen by one process that creates and watches, so create to Ready is by one clock. Beside them stands what the
API server alone takes for a create and a status PATCH in the same run. The operator runs by its own service account.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator

from tests.perf.bench_throughput import (
    _TINY_CRD,
    CONNECTIONS,
    NAMESPACE,
    TINY,
    _at_once,
    _lease,
    _make_tinies,
    lease_events,
)
from tests.perf.figures import Figure, percentile, spread
from tests.perf.watched import Operator, keep_reporting

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.login import connect
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.nodes import SimulatedNodes

_POOL = "crowd"
_OTHER = "bench-flood"
_RATES = (25, 100)
_PATIENCE = 40.0


class Waiting:
    """Creates leases and notes when each was asked for, was made, and was seen to be Ready."""

    def __init__(self, client: KubeClient) -> None:
        self.client = client
        self.asked: dict[str, float] = {}
        self.created: dict[str, float] = {}
        self.ready: dict[str, float] = {}
        self.watching: asyncio.Task[None]

    async def begin(self) -> None:
        """Watch the namespace from now on."""
        page = await self.client.request("GET", paths.LEASES, query={"limit": 1})
        self.watching = asyncio.create_task(self._watch(page["metadata"]["resourceVersion"]))

    async def _watch(self, version: str) -> None:
        async for item in lease_events(self.client, version):
            name = item["metadata"]["name"]
            if name in self.ready:
                continue
            for condition in (item.get("status") or {}).get("conditions", ()):
                if condition["type"] == "Ready" and condition["status"] == "True":
                    self.ready[name] = time.monotonic()

    async def make(self, name: str) -> None:
        """Ask for one lease."""
        path = f"/apis/leasehold.dev/v1alpha1/namespaces/{NAMESPACE}/capacityleases"
        self.asked[name] = time.monotonic()
        await self.client.create(path, _lease(name, _POOL, 3600))
        self.created[name] = time.monotonic()

    async def steadily(self, mark: str, rate: float, count: int) -> list[str]:
        """Ask for leases at a steady rate, whether earlier ones are granted or not; wait for all."""
        names = [f"{mark}-{i}" for i in range(count)]
        start = time.monotonic()
        under_way = []
        for i, name in enumerate(names):
            await asyncio.sleep(max(0.0, start + i / rate - time.monotonic()))
            under_way.append(asyncio.create_task(self.make(name)))
        await asyncio.gather(*under_way)
        deadline = time.monotonic() + _PATIENCE
        while not all(name in self.ready for name in names):
            missing = [name for name in names if name not in self.ready]
            assert time.monotonic() < deadline, f"the watch tells nothing of {missing[:5]} and others"
            assert not self.watching.done(), self.watching.exception()
            await asyncio.sleep(0.05)
        return names

    def took(self, names: list[str]) -> tuple[list[float], list[float]]:
        """Return how long creates took, and create to Ready, in ms."""
        return (
            [(self.created[n] - self.asked[n]) * 1000 for n in names],
            [(self.ready[n] - self.asked[n]) * 1000 for n in names],
        )


async def _measure(
    control_plane: ControlPlane, simulated: SimulatedNodes, *, seconds: int, flood: int
) -> list[Figure]:
    reporting = asyncio.create_task(keep_reporting(simulated))
    client = connect(str(control_plane.kubeconfig))
    found: list[Figure] = []
    try:
        with Operator(control_plane) as operator:
            await asyncio.to_thread(operator.until_leading)
            waiting = Waiting(client)
            await waiting.begin()
            await waiting.steadily("warm", 10, 20)
            for rate in _RATES:
                found += await _at_rate(client, waiting, operator, rate, rate * seconds)
            found += await _flooded(client, waiting, flood)
            waiting.watching.cancel()
    finally:
        reporting.cancel()
        await client.close()
    return found


async def _at_rate(
    client: KubeClient, waiting: Waiting, operator: Operator, rate: int, count: int
) -> list[Figure]:
    began = time.time()
    names = await waiting.steadily(f"rate-{rate}", rate, count)
    created, ready = waiting.took(names)
    patched = []
    start = time.monotonic()
    for i in range(min(count, 200)):  # at the same rate, the operator idle
        await asyncio.sleep(max(0.0, start + i / rate - time.monotonic()))
        before = time.monotonic()
        await client.patch(f"{TINY}/t{i}/status", {"status": {"b": f"{rate}-{time.time()}"}})
        patched.append((time.monotonic() - before) * 1000)
    lags = operator.lags(began, time.time())
    beside = (
        f"{len(names):,} leases; "
        f"beside create p50 {percentile(created, 50):.0f}, p99 {percentile(created, 99):.0f} ms; "
        f"tiny status PATCH p50 {percentile(patched, 50):.0f}, p99 {percentile(patched, 99):.0f} ms"
    )
    return [
        *spread(f"create to Ready at {rate}/s", ready, "ms", "", beside),
        Figure(f"event loop lag at {rate}/s, p99", percentile(lags, 99), "ms", "< 100 ms"),
    ]


async def _flooded(client: KubeClient, waiting: Waiting, flood: int) -> list[Figure]:
    """A tenant makes many leases that fit nowhere as fast as it can; another one asks five times a second."""
    path = f"/apis/leasehold.dev/v1alpha1/namespaces/{_OTHER}/capacityleases"
    made = 0

    async def one(number: int) -> None:
        nonlocal made
        document = _lease(f"flood-{number}", _POOL, 3600)
        document["spec"]["resources"]["cpu"] = "1000"
        await client.create(path, document)
        made += 1

    took = {"before": waiting.took(await waiting.steadily("before", 5, 50))[1]}
    flooding = asyncio.create_task(
        _at_once([lambda i=i: one(i) for i in range(flood)], CONNECTIONS)  # type: ignore[misc]
    )
    during: list[str] = []
    while not flooding.done():
        during += await waiting.steadily(f"during-{len(during)}", 5, 10)
    await flooding
    took["during"] = waiting.took(during)[1]
    took["after, all of it waiting"] = waiting.took(await waiting.steadily("after", 5, 50))[1]
    base = percentile(took["before"], 99)
    figures = []
    for when, sample in took.items():
        note = f"{percentile(sample, 99) / base:.1f} x before at p99; {made:,} leases of the other tenant"
        figures += spread(f"create to Ready, {when} another's flood", sample, "ms", "", note)
    return figures


def run(*, quick: bool, control_plane: ControlPlane) -> Iterator[Figure]:
    """Measure."""
    kube = control_plane.client()
    for name in (NAMESPACE, _OTHER):
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    kube.apply(_TINY_CRD)
    kube.wait_established(["tinies.bench.leasehold.dev"])
    with SimulatedNodes(kube, parallel=24) as simulated:
        simulated.create(100)
        kube.apply(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityPool",
                "metadata": {"name": _POOL},
                "spec": {"nodeSelector": simulated.selector, "leasePolicy": {"gracePeriodSeconds": 0}},
            }
        )

        async def tinies() -> None:
            client = connect(str(control_plane.kubeconfig))
            await _make_tinies(client, 200)
            await client.close()

        asyncio.run(tinies())
        yield from asyncio.run(
            _measure(control_plane, simulated, seconds=6 if quick else 20, flood=2_000 if quick else 20_000)
        )


if __name__ == "__main__":
    with ControlPlane() as started:
        started.install_crds()
        for figure in run(quick="--quick" in sys.argv, control_plane=started):
            print(
                f"{figure.name:60s} {figure.value:10.3f} {figure.unit:4s} {figure.target:10s} {figure.note}",
                flush=True,
            )
