"""Operators, and the API server, that end in the middle of what they do."""

from __future__ import annotations

import random

from tests.cluster.harness import granted
from tests.faults.experiment import Arena, Scale, Trial, experiment
from tests.faults.proxy import FaultProxy, Strike


def _story(trial: Trial, pool: str) -> None:
    """Every kind of write once: grants of two batches, waits, a renewal, an expiry, a release, a deletion."""
    stage = trial.stage
    for i in range(4):
        stage.lease(pool, name=f"kept-{i}", cpu="1", durationSeconds=3600)
    stage.lease(pool, name="short", cpu="2", durationSeconds=1)
    stage.lease(pool, name="pair", cpu="1", count=2, durationSeconds=2, ttlSecondsAfterFinished=0)
    stage.lease(pool, name="waits", cpu="4", durationSeconds=3600)


def _writes_of_a_run_without_faults(arena: Arena) -> int:
    with arena.trial() as trial:
        proxy = trial.proxy()
        pool = trial.pool(2)
        _story(trial, pool)
        trial.operator("a", proxy)
        trial.stage.until("kept-0", granted)
        trial.finish()
        return proxy.writes
    return 0


@experiment(1, "killed before and after each write", "granted once, nothing lost, same end")
def kill_at_each_write(arena: Arena, scale: Scale, dice: random.Random) -> None:
    total = _writes_of_a_run_without_faults(arena)
    numbers = range(1, total + 1)
    if not scale.long:
        numbers = sorted({1, total, *dice.sample(numbers, min(2, total))})
    for number in numbers:
        for after in (False, True):
            with arena.trial() as trial:
                proxy: FaultProxy = trial.proxy()
                pool = trial.pool(2)
                _story(trial, pool)
                operator = trial.operator("a", proxy)
                rule = proxy.on_write(number, Strike(operator.crash, after=after))
                proxy.await_delivered(rule)
                trial.deliver(
                    rule.delivered, f"killed {'after' if after else 'before'} write {number} of {total}"
                )
