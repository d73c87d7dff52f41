"""Clocks that jump, run too fast or too slow, and a machine that slept."""

from __future__ import annotations

import random
import time

from tests.cluster.harness import finished, granted, is_
from tests.faults.experiment import Arena, Scale, Trial, experiment
from tests.faults.operators import clock

SLACK = 2.5
"""By the API server's Date, of whole seconds, an operator finds out at its start how far ahead its clock is (s)."""


@experiment(
    12, "the wall clock jumps, runs double or half; the machine slept", "no end too early, and none never"
)
def clocks(arena: Arena, scale: Scale, dice: random.Random) -> None:
    jumps = ["+3600s", "-3600s", "-1d", "+0 x2", "+0 x0.5"]
    # The first ends what it should not, by whoever goes by it; the others are tried in turn.
    for jump in scale.pick(["+3600s", dice.choice(jumps[1:])], jumps):
        with arena.trial(slack=SLACK) as trial:
            _while_it_runs(trial, jump, dice)
    for offset in scale.pick(["+3600s"], ["+3600s", "-3600s", "-1d"]):
        with arena.trial(slack=SLACK) as trial:
            _at_its_start(trial, offset)
    with arena.trial(slack=SLACK) as trial:
        _a_machine_that_slept(trial)


def _while_it_runs(trial: Trial, jump: str, dice: random.Random) -> None:
    stage, file = trial.stage, trial.directory / "clock"
    pool = trial.pool(2)
    # Through a proxy without TLS: by a clock a day behind, the API server's certificate is not valid yet.
    operator = trial.operator("a", trial.proxy(), environment=clock("+0", file=file)).await_leading()
    long, short = stage.lease(pool, durationSeconds=600), stage.lease(pool, durationSeconds=6)
    for lease in (long, short):
        stage.until(lease, granted)
    file.write_text(jump + "\n")
    trial.deliver(1, f"wall clock {jump}")
    late = stage.lease(pool, durationSeconds=2)
    with trial.churn([pool], dice, per_second=10, most=15):
        time.sleep(2)
    stage.until(late, finished)
    stage.until(short, finished)
    if not is_("Ready")(stage.get(long)):
        trial.violate("a lease of ten minutes ended within seconds")
    drift = operator.metric("leasehold_clock_drift_seconds")
    if drift is None or abs(drift) < 1:
        trial.violate(f"the drift of the clock is not told: {drift}")


def _at_its_start(trial: Trial, offset: str) -> None:
    """A clock that was wrong before the start: one that is ahead is held back, one that is behind only delays."""
    stage = trial.stage
    pool = trial.pool(2)
    first = trial.operator("a").await_leading()
    long, short = stage.lease(pool, durationSeconds=600), stage.lease(pool, durationSeconds=4)
    for lease in (long, short):
        stage.until(lease, granted)
    first.kill()
    trial.operator("a", trial.proxy(), environment=clock(offset)).await_leading()  # see _while_it_runs
    trial.deliver(1, f"started with a clock off by {offset}")
    late = stage.lease(pool, durationSeconds=2)
    stage.until(late, granted)
    if not is_("Ready")(stage.get(long)):
        trial.violate("a lease of ten minutes ended within seconds")
    time.sleep(2)
    # What was granted by a clock that was right ends by one: the last operator's.
    for operator in trial.kubelet.operators:
        operator.kill()
    trial.operator("a").await_leading()
    stage.until(short, finished)


def _a_machine_that_slept(trial: Trial) -> None:
    """The boot clock leaps ahead: a leader finds its time over and begins anew; leases only last longer."""
    stage, file = trial.stage, trial.directory / "boot"
    file.write_text("0")
    pool = trial.pool(2)
    operator = trial.operator(
        "a", environment={"FAULTS_BOOT_OFFSET": str(file)}, program="tests.faults.hooks"
    ).await_leading()
    lease = stage.lease(pool, durationSeconds=600)
    stage.until(lease, granted)
    epoch = int(stage.kube.get("cpool", pool)["status"]["ledger"]["epoch"])
    file.write_text("3600000")
    trial.deliver(1, "slept for an hour")
    stage.until_pool(pool, lambda found: found["status"]["ledger"]["epoch"] > epoch)
    operator.await_leading()
    if not is_("Ready")(stage.get(lease)):
        trial.violate("a lease of ten minutes ended within seconds")
    stage.until(stage.lease(pool, durationSeconds=1), finished)
