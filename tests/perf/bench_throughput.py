"""How many leases are granted per second, as a ratio of what the API server takes in raw status PATCHes.

Both are measured in one run against one server. The raw rate is that of a tiny custom resource's status, written
by the operator's own HTTP client with as many connections as the operator uses. The operator runs by its own service
account, so under API priority and fairness.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.perf.figures import Figure, percentile, spread
from tests.perf.watched import Operator, keep_reporting

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import Unknown
from leasehold.adapters.login import connect
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.nodes import SimulatedNodes

CONNECTIONS = 24
NAMESPACE = "bench"
POOL = "bench"
_TINIES = 2_000
TINY = "/apis/bench.leasehold.dev/v1/namespaces/bench/tinies"
_TINY_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "tinies.bench.leasehold.dev"},
    "spec": {
        "group": "bench.leasehold.dev",
        "scope": "Namespaced",
        "names": {"kind": "Tiny", "plural": "tinies", "singular": "tiny"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "properties": {"a": {"type": "string"}}},
                            "status": {"type": "object", "properties": {"b": {"type": "string"}}},
                        },
                    }
                },
            }
        ],
    },
}


async def _at_once(work: list[Callable[[], Awaitable[Any]]], connections: int = CONNECTIONS) -> list[float]:
    """Do everything with so many under way at once; return how long each took, in milliseconds."""
    took: list[float] = []
    waiting = iter(work)

    async def hand() -> None:
        for piece in waiting:
            started = time.perf_counter()
            await piece()
            took.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(hand() for _ in range(connections)))
    return took


async def _make_tinies(client: KubeClient, count: int) -> None:
    def make(i: int) -> Callable[[], Awaitable[Any]]:
        body = {"apiVersion": "bench.leasehold.dev/v1", "kind": "Tiny", "metadata": {"name": f"t{i}"}}
        return lambda: client.create(TINY, {**body, "spec": {"a": "x"}})

    await _at_once([make(i) for i in range(count)])


async def _raw_rate(client: KubeClient, count: int, mark: str) -> tuple[float, list[float]]:
    """Return raw status PATCHes per second, and how long each took."""

    def write(i: int) -> Callable[[], Awaitable[Any]]:
        return lambda: client.patch(f"{TINY}/t{i}/status", {"status": {"b": f"{mark}{i}"}})

    started = time.perf_counter()
    took = await _at_once([write(i) for i in range(count)])
    return count / (time.perf_counter() - started), took


def _lease(name: str, pool: str, seconds: int) -> dict[str, Any]:
    return {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": {"name": name},
        "spec": {
            "poolRef": {"name": pool},
            "resources": {"cpu": "100m", "memory": "128Mi"},
            "durationSeconds": seconds,
        },
    }


async def _make_leases(client: KubeClient, pool: str, count: int, seconds: int, mark: str) -> None:
    path = f"/apis/leasehold.dev/v1alpha1/namespaces/{NAMESPACE}/capacityleases"

    def make(i: int) -> Callable[[], Awaitable[Any]]:
        return lambda: client.create(path, _lease(f"{mark}-{i}", pool, seconds))

    await _at_once([make(i) for i in range(count)])


async def lease_events(client: KubeClient, version: str) -> AsyncGenerator[dict[str, Any], None]:
    """Yield each change of a lease after a version, for ever.

    An API server ends the watch of a reader that falls behind, and with it what it had for it. So it goes on where the
    last event left off: whoever went on from now would never hear of what came between.
    """
    path = f"/apis/leasehold.dev/v1alpha1/namespaces/{NAMESPACE}/capacityleases"
    while True:
        try:
            async for event in client.watch(
                path, 120, resourceVersion=version, timeoutSeconds=3000, allowWatchBookmarks="true"
            ):
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    yield event["object"]
        except Unknown:
            await asyncio.sleep(0.1)


class _Watch:
    """Sees each lease's first moment in a condition, by this process's clock."""

    def __init__(self, client: KubeClient, condition: str) -> None:
        self.client = client
        self.condition = condition
        self.seen: dict[str, float] = {}
        self.documents: dict[str, dict[str, Any]] = {}

    async def until(self, count: int, version: str) -> None:
        """Return once so many leases have the condition."""
        async for document in lease_events(self.client, version):
            name = document["metadata"]["name"]
            for condition in (document.get("status") or {}).get("conditions", ()):
                if (
                    condition["type"] == self.condition
                    and condition["status"] == "True"
                    and name not in self.seen
                ):
                    self.seen[name] = time.time()
                    self.documents[name] = document
            if len(self.seen) >= count:
                return


async def _watch_from_now(
    client: KubeClient, condition: str, count: int
) -> tuple[_Watch, asyncio.Task[None]]:
    """Start to watch before anything is made, so that nothing is too old to be told."""
    page = await client.request("GET", paths.LEASES, query={"limit": 1})
    watch = _Watch(client, condition)
    return watch, asyncio.create_task(watch.until(count, page["metadata"]["resourceVersion"]))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(control_plane: ControlPlane, *, leases: tuple[int, ...], nodes: int) -> list[Figure]:
    """Measure the raw rate, the grant rate at each number of waiting leases, and reclaim after the end."""
    client = connect(str(control_plane.kubeconfig))
    kube = control_plane.client()
    found: list[Figure] = []
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    kube.apply(_TINY_CRD)
    kube.wait_established(["tinies.bench.leasehold.dev"])
    with SimulatedNodes(kube, parallel=24) as simulated:
        simulated.create(nodes)
        reporting = asyncio.create_task(keep_reporting(simulated))
        kube.apply(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityPool",
                "metadata": {"name": POOL},
                "spec": {
                    "nodeSelector": simulated.selector,
                    "leasePolicy": {"gracePeriodSeconds": 0},
                    "stopPolicy": "Hold",
                },
            }
        )
        try:
            await _make_tinies(client, _TINIES)
            with Operator(control_plane) as operator:
                await asyncio.to_thread(operator.until_leading)
                for count in leases:
                    found += await _grants(client, operator, count)
                found += await _one_by_one(client)
                found += await _reclaims(client)
        finally:
            reporting.cancel()
            await client.close()
    return found


async def _grants(client: KubeClient, operator: Operator, leases: int) -> list[Figure]:
    """Let so many leases wait, and let the pool go at once."""
    await client.patch(paths.pool(POOL), {"spec": {"stopPolicy": "Hold"}})
    await _make_leases(client, POOL, leases, 3600, f"pending-{leases}")
    await _until_told(client)
    with operator.paused():  # it is the API server's rate that is wanted, not what is left beside an operator
        raw_before, _ = await _raw_rate(client, _TINIES, "a")
    before = cpu_seconds(operator.pid)
    began = time.time()
    _, version = await client.list(paths.LEASES)
    watch = _Watch(client, "Ready")
    await client.patch(paths.pool(POOL), {"spec": {"stopPolicy": "None"}})
    await watch.until(leases, version)
    lags = operator.lags(began, time.time())
    used = cpu_seconds(operator.pid) - before
    times = sorted(watch.seen.values())
    rate = len(times) / (times[-1] - times[0])
    with operator.paused():
        raw_after, raw_took = await _raw_rate(client, _TINIES, "b")
    raw = (raw_before + raw_after) / 2
    sizes = [_size(document) for document in watch.documents.values()]
    again = await _rewrite(client, list(watch.documents.values())[:_TINIES])
    waiting = f"{leases:,} leases waiting, the pool let go at once"
    beside = f"mean of {raw_before:.0f} before and {raw_after:.0f} after"
    return [
        Figure(f"grants / raw status PATCHes, {leases:,} waiting", rate / raw, "x", ">= 0.85", waiting),
        Figure(f"grants, {leases:,} waiting", rate, "/s", "", "first to last Ready seen by a watch"),
        Figure(f"raw status PATCHes beside {leases:,}", raw, "/s", "", beside),
        Figure(f"operator CPU for each of {leases:,}", 1000 * used / leases, "ms", "", "while granting"),
        Figure(f"event loop lag granting {leases:,}, p99", percentile(lags, 99), "ms", "< 100 ms"),
        Figure(
            f"granted lease without managedFields, p99 of {leases:,}", percentile(sizes, 99), "B", "< 2048"
        ),
        Figure(
            "status write of a granted lease / of a tiny object",
            percentile(again, 50) / percentile(raw_took, 50),
            "x",
            "< 1.5",
            "medians, same connections",
        ),
    ]


async def _until_told(client: KubeClient) -> None:
    """Wait until every lease has been told that it waits, so that only grants are measured."""
    while True:
        items, _ = await client.list(paths.LEASES)
        if items and all("status" in item for item in items):
            return
        await asyncio.sleep(2)


async def _rewrite(client: KubeClient, documents: list[dict[str, Any]]) -> list[float]:
    """Write something small into each granted lease's status, as a renewal does."""

    def write(document: dict[str, Any]) -> Callable[[], Awaitable[Any]]:
        meta = document["metadata"]
        patch = {"status": {"renewal": {"count": 1, "lastRenewTime": "2026-11-22T19:00:00.000Z"}}}
        return lambda: client.patch(paths.status(paths.lease(meta["namespace"], meta["name"])), patch)

    return await _at_once([write(document) for document in documents])


async def _one_by_one(client: KubeClient) -> list[Figure]:
    """From the create of one lease to its Ready, with nothing else going on."""
    took = []
    for i in range(30):
        watch, seen = await _watch_from_now(client, "Ready", 1)
        started = time.time()
        await _make_leases(client, POOL, 1, 3600, f"single-{i}")
        await seen
        took.append((next(iter(watch.seen.values())) - started) * 1000)
    return spread("create to Ready, one lease at a time", took, "ms")


async def _reclaims(client: KubeClient) -> list[Figure]:
    """From a lease's end to Released, one at a time and many at once."""
    found: list[Figure] = []
    for count, rounds, name in ((1, 20, "one lease"), (1000, 1, "1,000 leases at once")):
        delays: list[float] = []
        ends: list[float] = []
        for i in range(rounds):
            watch, seen_all = await _watch_from_now(client, "Released", count)
            seconds = 1 if count == 1 else 30
            await _make_leases(client, POOL, count, seconds, f"ends-{count}-{i}")
            await seen_all
            for lease, seen in watch.seen.items():
                end = watch.documents[lease]["status"]["deadlines"]["expirationTime"]
                ends.append(datetime.fromisoformat(end).timestamp())
                delays.append((seen - ends[-1]) * 1000)
        note = "" if count == 1 else f"their deadlines lie within {max(ends) - min(ends):.1f} s"
        target = "< 100 ms" if count == 1 else ""
        found += spread(f"deadline to Released seen, {name}", delays, "ms", target, note)
    return found


def _size(document: dict[str, Any]) -> int:
    meta = {key: value for key, value in document["metadata"].items() if key != "managedFields"}
    return len(json.dumps({**document, "metadata": meta}, separators=(",", ":")).encode())


def run(*, quick: bool, control_plane: ControlPlane) -> Iterator[Figure]:
    """Measure."""
    yield from asyncio.run(
        measure(control_plane, leases=(500,) if quick else (2_000, 10_000), nodes=200 if quick else 1000)
    )


if __name__ == "__main__":
    with ControlPlane() as started:
        started.install_crds()
        for figure in run(quick="--quick" in sys.argv, control_plane=started):
            print(
                f"{figure.name:60s} {figure.value:10.3f} {figure.unit:4s} {figure.target:10s} {figure.note}"
            )
