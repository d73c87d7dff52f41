"""`make soak`: the operator for minutes or hours under churn, and whether anything in it grows.

About 20 leases are made every second: a third ends by itself, a third is renewed a few times and then falls silent, a
third is deleted by its holder; what is over is removed by the operator. Once the churn is steady, nothing may grow: not
the memory, not the number of tasks, not what is written onto objects. Memory grows until the operator remembers the
20,000 leases that were deleted last, some seventeen minutes; so a longer run tells more, and its last two fifths count.
Allocations are traced unless `--resident` is given: tracing itself takes memory and several times the CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.cluster.harness import micro_now
from tests.perf.bench_throughput import _lease
from tests.perf.watched import Operator, Sample, keep_reporting

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError, NotFound, Unknown
from leasehold.adapters.login import connect
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.nodes import SimulatedNodes

NAMESPACE = "soak"
POOL = "soak"
_PATH = f"/apis/leasehold.dev/v1alpha1/namespaces/{NAMESPACE}/capacityleases"
_OUT = Path("bench-out/soak.json")
_STEADY = 0.6  # of the run is warm-up
_CHANCE = random.Random(5)


class Churn:
    """Makes leases and lives with them; counts what happened."""

    def __init__(self, client: KubeClient, rate: float) -> None:
        self.client = client
        self.rate = rate
        self.counts: Counter[str] = Counter()
        self.lives: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> None:
        """Make leases at a steady rate, whatever becomes of them, and wait for the last."""
        start = time.monotonic()
        number = 0
        kinds: Sequence[Callable[[str], Coroutine[Any, Any, None]]] = (
            self._ends,
            self._renewed,
            self._deleted,
        )
        while (elapsed := time.monotonic() - start) < seconds:
            while number < elapsed * self.rate:
                life = asyncio.create_task(self._live(kinds[number % 3](f"soak-{number}")))
                self.lives.add(life)
                life.add_done_callback(self.lives.discard)
                number += 1
            await asyncio.sleep(0.02)
        await asyncio.gather(*self.lives)

    async def _live(self, life: Coroutine[Any, Any, None]) -> None:
        """Take it as it comes: on a loaded machine an answer can fail to come, and the churn goes on."""
        try:
            await life
        except Unknown:
            self.counts["unanswered"] += 1

    async def _make(self, name: str, seconds: int, **spec: Any) -> None:
        document = _lease(name, POOL, seconds)
        document["spec"] |= {"ttlSecondsAfterFinished": 2, **spec}
        await self.client.create(_PATH, document)
        self.counts["made"] += 1

    async def _ends(self, name: str) -> None:
        await self._make(name, _CHANCE.randrange(2, 15))

    async def _renewed(self, name: str) -> None:
        await self._make(name, 60, liveness="Renew")
        for _ in range(3):
            await asyncio.sleep(_CHANCE.uniform(1.5, 3.0))
            try:
                await self.client.patch(paths.lease(NAMESPACE, name), {"spec": {"renewTime": micro_now()}})
                self.counts["renewed"] += 1
            except ApiError:
                self.counts["not renewed"] += 1

    async def _deleted(self, name: str) -> None:
        await self._make(name, 60)
        await asyncio.sleep(_CHANCE.uniform(1, 8))
        with suppress(NotFound):
            await self.client.request("DELETE", paths.lease(NAMESPACE, name))
            self.counts["deleted"] += 1


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope of (seconds, amount) for each minute."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 60 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


async def _written(client: KubeClient) -> dict[str, int]:
    """Return the most annotations, finalizers and conditions found on one object of each kind."""
    most: dict[str, int] = {}
    for path in (paths.LEASES, paths.POOLS, paths.REPORTS, paths.NODES):
        items, _ = await client.list(path)
        kind = path.rsplit("/", 1)[1]
        most[f"{kind}: objects"] = len(items)
        for item in items:
            meta, status = item["metadata"], item.get("status") or {}
            found = {
                "annotations": len(meta.get("annotations") or ()),
                "finalizers": len(meta.get("finalizers") or ()),
                "conditions": len(status.get("conditions") or ()),
                "bytes of status": len(json.dumps(status)),
            }
            for name, count in found.items():
                most[f"{kind}: {name}"] = max(count, most.get(f"{kind}: {name}", 0))
    return most


def report(samples: Sequence[Sample], since: float) -> dict[str, float]:
    """Say what grew after a moment."""
    late = [sample for sample in samples if sample.time >= since]
    tasks = [sample.tasks for sample in late]
    lags = sorted(lag for sample in late for lag in sample.lags)
    return {
        "minutes counted": (late[-1].time - late[0].time) / 60,
        "traced memory, kB a minute": slope([(s.time, s.traced) for s in late]),
        "traced memory at first, kB": late[0].traced,
        "traced memory at last, kB": late[-1].traced,
        "resident memory, kB a minute": slope([(s.time, s.resident) for s in late]),
        "resident memory at first, kB": late[0].resident,
        "resident memory at last, kB": late[-1].resident,
        "tasks, fewest": min(tasks),
        "tasks, most": max(tasks),
        "tasks a minute": slope([(s.time, s.tasks) for s in late]),
        "CPU, percent of a core": 100 * (late[-1].cpu - late[0].cpu) / (late[-1].time - late[0].time),
        "event loop lag p99, ms": lags[int(0.99 * (len(lags) - 1))],
    }


async def _soak(
    control_plane: ControlPlane, simulated: SimulatedNodes, given: argparse.Namespace
) -> dict[str, Any]:
    reporting = asyncio.create_task(keep_reporting(simulated))
    client = connect(str(control_plane.kubeconfig))
    seconds = given.minutes * 60
    try:
        with Operator(control_plane, trace=not given.resident) as operator:
            await asyncio.to_thread(operator.until_leading)
            churn = Churn(client, given.rate)
            began = time.time()
            churning = asyncio.create_task(churn.run(seconds))
            steady = began + seconds * _STEADY
            await asyncio.wait([churning], timeout=seconds * _STEADY)
            at_first = at_last = await _written(client)
            while not churning.done():
                await asyncio.wait([churning], timeout=min(60, seconds / 4))
                if time.time() < began + seconds:  # afterwards fewer and fewer are left
                    at_last = await _written(client)
                result = {
                    "minutes": (time.time() - began) / 60,
                    "leases": dict(churn.counts),
                    "steady": report([s for s in operator.samples() if s.time < began + seconds], steady),
                    "objects at first": at_first,
                    "objects at last": at_last,
                }
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(result, indent=2) + "\n")
            await churning
            return result
    finally:
        reporting.cancel()
        await client.close()


def main() -> int:
    """Churn, and say what grew."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--rate", type=float, default=20, help="leases made a second")
    parser.add_argument(
        "--resident", action="store_true", help="trace nothing: resident memory as it is in use"
    )
    parser.add_argument("--out", type=Path, default=_OUT)
    given = parser.parse_args()
    with ControlPlane() as control_plane:
        control_plane.install_crds()
        kube = control_plane.client()
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        with SimulatedNodes(kube) as simulated:
            simulated.create(50)
            kube.apply(
                {
                    "apiVersion": "leasehold.dev/v1alpha1",
                    "kind": "CapacityPool",
                    "metadata": {"name": POOL},
                    "spec": {
                        "nodeSelector": simulated.selector,
                        "leasePolicy": {"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 5},
                    },
                }
            )
            print(json.dumps(asyncio.run(_soak(control_plane, simulated, given)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
