"""Targets and tasks in few words: amounts of cpu are millicores, times ms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from leasehold.sdk.router.circuit import Circuit, CircuitRule, Step
from leasehold.sdk.router.facts import Facts, Figures, Need, Quote, Task

RULE = CircuitRule()


def figures(cpu: int = 8000, free: int | None = None, **more: Any) -> Figures:
    left = cpu if free is None else free
    given: dict[str, Any] = {
        "ready": True,
        "allocatable": {"cpu": cpu},
        "allocated": {"cpu": cpu - left},
        "free": {"cpu": left},
        "largest_free": {"cpu": left},
    }
    return Figures(**{**given, **more})


def target(name: str, cpu: int = 8000, free: int | None = None, **more: Any) -> Facts:
    """A pool with so much in all and so much free, that serves."""
    pool = {key: more.pop(key) for key in ("ready", "reason", "pending", "largest_free") if key in more}
    return Facts(**{"name": name, "figures": figures(cpu, free, **pool), "looked": 0, **more})


def sick(name: str, reason: str = "NoNodes") -> Facts:
    return target(name, ready=False, reason=reason)


def quoted(starts: Mapping[str, int | None], need: Need, now: int = 0) -> dict[str, dict[Need, Quote]]:
    return {name: {need: Quote(start, now)} for name, start in starts.items()}


def task(id_: int = 1, cpu: int = 1000, count: int = 1, **more: Any) -> Task:
    return Task(id=id_, need=Need.of(count, cpu=cpu), **more)


def opened(now: int = 0, step: Step = Step.ASK, chance: float = 1.0) -> Circuit:
    """A circuit that has just opened."""
    found = Circuit()
    for _ in range(RULE.failures):
        found = found.failed(step, now, chance, RULE)
    return found


# --- anything that can be ---

AMOUNTS = st.integers(0, 4000)
INSTANTS = st.none() | st.integers(0, 20_000)
CIRCUITS = st.builds(
    Circuit,
    failures=st.integers(0, 5),
    worst=st.sampled_from(Step),
    openings=st.integers(0, 3),
    until=st.integers(0, 20_000),
    trial=st.none() | st.integers(100, 102),
)
NEEDS = st.builds(lambda cpu, count: Need.of(count, cpu=cpu), st.integers(1, 3000), st.integers(1, 3))
QUOTES = st.builds(Quote, st.none() | st.integers(0, 50_000), st.integers(0, 20_000))
FIGURES = AMOUNTS.flatmap(
    lambda cpu: st.builds(
        figures, st.just(cpu), st.integers(0, cpu), ready=st.booleans(), pending=st.integers(0, 3)
    )
)


@st.composite
def facts(draw: st.DrawFn, name: str, need: Need) -> Facts:
    return Facts(
        name=name,
        weight=draw(st.integers(1, 5)),
        limit=draw(st.none() | st.integers(1, 3)),
        figures=draw(st.none() | FIGURES),
        answered=draw(st.booleans()),
        looked=draw(INSTANTS),
        looking=draw(INSTANTS),
        circuit=draw(CIRCUITS),
        starting=draw(st.integers(0, 2)),
        running=draw(st.integers(0, 2)),
        assumed={"cpu": draw(AMOUNTS)},
        quotes=draw(st.dictionaries(st.just(need), QUOTES)),
    )
