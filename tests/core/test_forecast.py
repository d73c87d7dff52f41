"""Estimates are what happens: if everybody leaves when they must and nobody comes, each starts when it was told."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import clock, make_node, make_pool
from tests.rehearsal import Rehearsal

from leasehold.core.forecast import Forecast
from leasehold.core.state import PoolState

HELD = st.fixed_dictionaries(
    {
        "cpu": st.integers(1, 6),
        "count": st.sampled_from([1, 1, 2]),
        "seconds": st.sampled_from([60, 90, 120, 300, 301, 600]),
        "team": st.sampled_from(["red", "blue"]),
    }
)
WAITING = st.fixed_dictionaries(
    {
        "cpu": st.integers(1, 9),
        "count": st.sampled_from([1, 1, 1, 2, 3]),
        "mode": st.sampled_from(["Any", "Any", "SameNode", "DistinctNodes", "SameDomain"]),
        "disk": st.sampled_from([None, None, None, "ssd"]),
        "seconds": st.sampled_from([60, 100, 240, 300, 600]),
        "priority": st.sampled_from([0, 0, 3]),
        "team": st.sampled_from(["red", "blue"]),
        "start": st.sampled_from([None, None, None, "2m", "7m", "20m"]),
    }
)
RED_AND_BLUE: list[dict[str, Any]] = [
    {"name": "red", "weight": 3, "limit": {"cpu": "14"}},
    {"name": "blue", "guaranteed": {"cpu": "6"}, "maxLeases": 4},
]


def ask(pool: Rehearsal, i: int, row: dict[str, Any]) -> str:
    placement: dict[str, Any] = {"mode": row.get("mode", "Any")}
    if placement["mode"] == "SameDomain":
        placement["topologyKey"] = "zone"
    if row.get("disk"):
        placement["nodeSelector"] = {"disk": row["disk"]}
    lease = pool.ask(
        f"l{i}",
        cpu=str(row["cpu"]),
        memory=None,
        count=row["count"],
        durationSeconds=row["seconds"],
        priority=row.get("priority", 0),
        namespace=row["team"],
        placement=placement,
        **({"startTime": clock(row["start"])} if row.get("start") else {}),
    )
    return lease.uid


def looked(state: PoolState, now: int, budget: int = 40) -> Forecast:
    found = Forecast(state, now)
    for _ in range(10_000):
        if found.look(budget):
            return found
    raise AssertionError("the look never ends")


def rehearsal(queue: str, tenants: bool, cooldown: int, strategy: str = "BestFit") -> Rehearsal:
    policy = make_pool(
        queue=queue,
        strategy=strategy,
        tenants=RED_AND_BLUE if tenants else (),
        gracePeriodSeconds=30,
        cooldownSeconds=cooldown,
    )
    nodes = [
        make_node("n1", cpu="8", labels={"zone": "a", "disk": "ssd"}),
        make_node("n2", cpu="8", labels={"zone": "a"}),
        make_node("n3", cpu="6", labels={"zone": "b"}),
    ]
    return Rehearsal(policy, nodes, teams={"red": "red", "blue": "blue"})


@given(
    queue=st.sampled_from(["StrictFIFO", "BestEffortFIFO", "Backfill"]),
    tenants=st.booleans(),
    cooldown=st.sampled_from([0, 45]),
    strategy=st.sampled_from(["BestFit", "Spread"]),
    held=st.lists(HELD, max_size=5),
    waiting=st.lists(WAITING, min_size=1, max_size=8),
    budget=st.sampled_from([1, 3, 40]),
)
@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_with_no_early_releases_and_no_arrivals_every_estimate_is_exact(
    queue: str,
    tenants: bool,
    cooldown: int,
    strategy: str,
    held: list[dict[str, Any]],
    waiting: list[dict[str, Any]],
    budget: int,
) -> None:
    pool = rehearsal(queue, tenants, cooldown, strategy)
    for i, row in enumerate(held):
        ask(pool, i, row)
    pool.look()
    for i, row in enumerate(waiting, len(held)):
        ask(pool, i, row)
    pool.look()
    waits = set(pool.state.queue.requests)
    told = looked(pool.state, pool.now, budget).answers
    before = pool.starts()
    pool.until("3h")
    happened = {uid: start for uid, start in pool.starts().items() if uid not in before}
    assert told.starts == happened
    assert waits <= told.looked_at
