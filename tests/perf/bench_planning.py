"""How long one decision takes, by pool size, strategy, and number of leases already held."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from typing import Any

from tests.perf.figures import Figure, percentile, spread

from leasehold.api.pool import PoolSpec
from leasehold.core.course import World
from leasehold.core.lease import Lease, lease_of
from leasehold.core.nodes import Verdict
from leasehold.core.planning import plan
from leasehold.core.policy import policy_of
from leasehold.core.state import PoolState

GIB = 1 << 30
NOW = 1_800_000_000_000
STRATEGIES = ("BestFit", "Spread", "LeastUsed", "FirstFit")


def pool(nodes: int, held: int, strategy: str, seed: int = 1) -> PoolState:
    """Return a pool of unequal nodes on which `held` leases lie."""
    chance = random.Random(seed)
    state = PoolState(
        "bench", policy_of(PoolSpec.model_validate({"nodeSelector": {}, "placement": {"strategy": strategy}}))
    )
    for i in range(nodes):
        limit = (chance.choice((32_000, 64_000)), chance.choice((128, 256)) * GIB, 500 * GIB)
        used = (chance.randrange(4000), chance.randrange(16) * GIB, 0)
        verdict = Verdict(limit, limit, used, (0, 0, 0), chance.randrange(500), "", False, None)
        state.put_node(f"node-{i:05d}", {"zone": f"z{i % 3}"}, verdict)
    for i in range(held):
        node = f"node-{chance.randrange(nodes):05d}"
        state.observe(lease(f"held-{i}", "100m", "256Mi", node))
    state.attention.clear()
    state.table.settle()
    return state


def lease(uid: str, cpu: str, memory: str, node: str = "") -> Lease:
    """Return a waiting lease, or one that is held on a node."""
    status: dict[str, Any] = {}
    if node:
        slices = [{"index": 0, "nodeName": node, "resources": {"cpu": cpu, "memory": memory}}]
        status = {
            "conditions": [{"type": "Allocated", "status": "True", "reason": "Granted"}],
            "allocation": {"ledgerSequence": 1, "slices": slices},
        }
    return lease_of(
        {
            "metadata": {
                "uid": uid,
                "name": uid,
                "namespace": "bench",
                "resourceVersion": "1",
                "creationTimestamp": "2027-01-15T08:00:00Z",
            },
            "spec": {"poolRef": {"name": "bench"}, "resources": {"cpu": cpu, "memory": memory}},
            "status": status,
        }
    )


def decide(state: PoolState, rounds: int, cpu: str, memory: str) -> list[float]:
    """Time the decision about one newly arrived lease, in milliseconds."""
    took = []
    for i in range(rounds):
        fresh = lease(f"new-{i}", cpu, memory)
        state.observe(fresh)
        started = time.perf_counter()
        decided = plan(state, World(), NOW)
        took.append((time.perf_counter() - started) * 1000)
        assert len(decided.grants) + len(decided.changes) == 1
        state.forget(fresh.uid)
    return took


def run(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    rounds = 200 if quick else 1000
    gc.collect()
    gc.freeze()
    for nodes, target in ((1_000, "< 1 ms"), (10_000, "< 5 ms")):
        for strategy in STRATEGIES:
            state = pool(nodes, 2 * nodes, strategy)
            took = decide(state, rounds, "2", "4Gi")
            yield from spread(f"decision, {nodes:,} nodes, {strategy}, granted", took, "ms", target)
        took = decide(state, rounds, "500", "4Gi")
        yield from spread(f"decision, {nodes:,} nodes, refused and explained", took, "ms", target)
    few = percentile(decide(pool(1_000, 0, "BestFit"), rounds, "2", "4Gi"), 50)
    many = percentile(decide(pool(1_000, 50_000, "BestFit"), rounds, "2", "4Gi"), 50)
    yield Figure(
        "decision with 50,000 leases held / with none, 1,000 nodes", many / few, "x", "about 1", "medians"
    )


if __name__ == "__main__":
    for figure in run(quick=True):
        print(f"{figure.name:70s} {figure.value:10.3f} {figure.unit:4s} {figure.target}")
