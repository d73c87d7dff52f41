"""A long replay holds what waits and runs, and nothing of what is over."""

from __future__ import annotations

import gc
from itertools import islice

from tests.unmeasured import unmeasured

from leasehold.core.timeline import Timeline
from leasehold.sim import scenario
from leasehold.sim.engine import replay
from leasehold.sim.gantt import MOST, Picture
from leasehold.sim.job import Job, Situation
from leasehold.sim.results import Statistics
from leasehold.sim.scenario import PoolChoice


class Census:
    """Counts the jobs that are alive, every so many passes, beyond those that wait and run."""

    def __init__(self) -> None:
        self.passes = 0
        self.most = 0
        self.most_alive = 0

    def moment(self, at: Situation) -> None:
        self.passes += 1
        if self.passes % 10_000 == 0:
            alive = sum(type(found) is Job for found in gc.get_objects())
            self.most = max(self.most, alive - at.waiting - at.running)
            self.most_alive = max(self.most_alive, alive)

    def ended(self, found: object) -> None:
        pass


def test_forty_thousand_leases_leave_nothing_behind() -> None:
    found = scenario.of_nothing(
        40_000, PoolChoice(nodes=("20x cpu=16,memory=64Gi",)), seed=1, load_percent=80
    )
    timeline = Timeline(found.pool.table, found.pool.policy)
    statistics, census = Statistics(found.pool.capacity), Census()
    picture = Picture(found.pool, "t")
    gc.collect()
    gc.disable()  # as the command does: whatever is freed must be freed without looking for cycles
    try:
        with unmeasured():
            replay(timeline, found.jobs, [statistics, census, picture])
    finally:
        gc.enable()
    assert statistics.jobs == 40_000
    assert census.passes == 80_000
    # What is left beyond those that wait and run: the few that a picture draws, and the one about to be submitted.
    assert census.most <= MOST + 2
    assert (timeline.waiting, timeline.held) == (0, 0)
    assert len(timeline.shares.accounts) == 1


def test_made_up_leases_are_the_same_for_the_same_seed() -> None:
    def some(seed: int) -> list[Job]:
        found = scenario.of_nothing(1_000, PoolChoice(nodes=("2x cpu=16,memory=64Gi",)), seed, 90)
        return list(islice(found.jobs, 20))

    assert some(1) == some(1)
    assert some(1) != some(2)
