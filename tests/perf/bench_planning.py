"""How long one decision takes, by pool size, strategy, and number of leases already held."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from typing import Any

from tests.perf.figures import Figure, percentile, spread

from leasehold.adapters.foresight import Foresight
from leasehold.api.pool import PoolSpec
from leasehold.core.course import World
from leasehold.core.lease import Lease, lease_of
from leasehold.core.nodes import Verdict
from leasehold.core.planning import plan
from leasehold.core.policy import policy_of
from leasehold.core.state import PoolState
from leasehold.core.times import format_time

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


def lease(
    uid: str,
    cpu: str,
    memory: str,
    node: str = "",
    *,
    ends_in: int = 3600,
    seconds: int = 3600,
    priority: int = 0,
) -> Lease:
    """Return a waiting lease, or one that is held on a node until so many seconds from now."""
    status: dict[str, Any] = {}
    if node:
        slices = [{"index": 0, "nodeName": node, "resources": {"cpu": cpu, "memory": memory}}]
        status = {
            "conditions": [{"type": "Allocated", "status": "True", "reason": "Granted"}],
            "allocation": {
                "ledgerSequence": 1,
                "slices": slices,
                "allocationTime": "2027-01-15T07:00:00Z",
            },
            "deadlines": {"expirationTime": format_time(NOW + 1000 * ends_in)},
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
            "spec": {
                "poolRef": {"name": "bench"},
                "resources": {"cpu": cpu, "memory": memory},
                "durationSeconds": seconds,
                "priority": priority,
            },
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


def crowded(nodes: int, held: int, waiting: int, shapes: int, queue: str, **spec: Any) -> PoolState:
    """Return a pool that is full: what is held fills the nodes, and requests of so many shapes wait."""
    chance = random.Random(nodes + shapes)
    resources = [{"name": "cpu"}, {"name": "memory"}]
    policy = {"nodeSelector": {}, "resources": resources, "queueing": {"strategy": queue}, **spec}
    state = PoolState("bench", policy_of(PoolSpec.model_validate(policy)))
    share = held // nodes
    for i in range(nodes):
        limit = (share * 1000 + 200, share * 4 * GIB)
        verdict = Verdict(limit, limit, (0, 0), (0, 0), 0, "", frozenset(), None)
        state.put_node(f"node-{i:05d}", {}, verdict)
    for i in range(held):
        state.observe(
            lease(f"held-{i}", "1", "4Gi", f"node-{i % nodes:05d}", ends_in=chance.randrange(60, 36_000))
        )
    sizes = [
        (f"{chance.randrange(2, 9 * min(share, 16)) * 100 + k}m", f"{chance.randrange(1, 4 * share)}Gi")
        for k in range(shapes)
    ]
    for i in range(waiting):
        cpu, memory = sizes[i % shapes]
        state.observe(lease(f"waits-{i}", cpu, memory, seconds=60 * (1 + i % shapes % 50), priority=i % 3))
    state.attention.clear()
    state.table.settle()
    return state


def churn(state: PoolState, rounds: int) -> tuple[list[float], list[float]]:
    """Let one lease end and another be granted over and over: time each pass, and the look ahead beside it (ms).

    What waiting leases read is taken as written, as it is once the queue has been told.
    """
    chance = random.Random(7)
    held = [uid for uid, lease in state.leases.items() if lease.allocated]
    for uid in list(state.queue.requests):
        state.queue.told(uid)
    passes, looks = [], []
    ahead = Foresight()
    for round_ in range(rounds):
        state.forget(held.pop(chance.randrange(len(held))))
        started = time.perf_counter()
        decided = plan(state, World(), NOW + round_)
        passed = time.perf_counter() - started
        passes.append(1000 * passed)
        for grant in decided.grants:
            fresh = lease(grant.lease.uid, "1", "4Gi", grant.nodes[0], ends_in=chance.randrange(60, 36_000))
            state.observe(fresh)
            held.append(fresh.uid)
        for change in decided.changes:
            state.queue.told(change.lease.uid)
        for preemption in decided.preemptions:
            state.begin_hold(preemption)
            for victim in preemption.victims:
                state.forget(victim)
                held.remove(victim)
        took = ahead.look(state, NOW + round_, lambda lease: None, passed)
        looks.append(1000 * (took or 0.0))
    return passes, looks


def crowds(*, quick: bool) -> Iterator[Figure]:
    """Measure passes over full pools: by queue strategy, by how many shapes wait, and by size."""
    rounds = 100 if quick else 500
    for name, shapes, queue, spec in (
        ("100 shapes, BestEffortFIFO", 100, "BestEffortFIFO", {}),
        ("100 shapes, Backfill", 100, "Backfill", {}),
        ("1,000 shapes, Backfill", 1_000, "Backfill", {}),
        ("10,000 shapes, BestEffortFIFO", 10_000, "BestEffortFIFO", {}),
        ("10,000 shapes, Backfill", 10_000, "Backfill", {}),
        ("100 shapes, preemption", 100, "BestEffortFIFO", {"preemption": {"withinTenant": "LowerPriority"}}),
    ):
        passes, looks = churn(crowded(1_000, 10_000, 10_000, shapes, queue, **spec), rounds)
        text = f"pass, 10,000 wait and hold, 1,000 nodes, {name}"
        yield from spread(text, passes, "ms", "< 50 ms")
        yield Figure(f"look ahead beside it, {name}", sum(looks) / sum(passes), "x", "< 0.2", "of the passes")
    base = 0.0
    for factor in (1, 10, 100):
        passes, _ = churn(crowded(10 * factor, 100 * factor, 100 * factor, 100, "Backfill"), rounds)
        middle = percentile(passes, 50)
        base = base or middle
        text = f"pass, {100 * factor:,} wait and hold, {10 * factor:,} nodes, Backfill / with 100"
        yield Figure(text, middle / base, "x", "", "medians")


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
    yield from crowds(quick=quick)


if __name__ == "__main__":
    for figure in run(quick=True):
        print(f"{figure.name:70s} {figure.value:10.3f} {figure.unit:4s} {figure.target}")
