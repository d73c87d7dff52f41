"""A real log against the published figures and against the wait of every job in another simulator."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
from tests.unmeasured import unmeasured

from leasehold.core.timeline import Timeline
from leasehold.sim import scenario
from leasehold.sim.engine import replay
from leasehold.sim.job import Finished, Situation
from leasehold.sim.results import Statistics
from leasehold.sim.swf import Rules

DATA = Path(__file__).parent / "data"


class Waits:
    """Notes the wait of every job, in seconds."""

    def __init__(self) -> None:
        self.by_job: dict[int, float] = {}

    def moment(self, at: Situation) -> None:
        pass

    def ended(self, found: Finished) -> None:
        self.by_job[int(found.job.name.removeprefix("job "))] = found.wait / 1000


def test_easy_gives_every_job_of_the_curie_log_the_wait_that_another_simulator_gives_it() -> None:
    found = scenario.of_log(DATA / "CEA-Curie-sample.swf.gz", Rules(machine=80_640), "easy", "submit")
    statistics, waits = Statistics(80_640), Waits()
    with unmeasured():
        replay(Timeline(found.pool.table, found.pool.policy), found.jobs, [statistics, waits])

    with gzip.open(DATA / "CEA-Curie-sample.easy-waits.csv.gz", "rt") as table:
        published = {int(row["job"]): float(row["wait_seconds"]) for row in csv.DictReader(table)}
    assert found.size == len(published) == 29_998
    assert waits.by_job == published

    figures = statistics.document()
    assert figures["jobs"] == 29_998
    assert figures["avg_bounded_slowdown"] == pytest.approx(8.760, rel=0.001)
    assert figures["avg_wait_seconds"] == pytest.approx(950.7, rel=0.001)
    assert not found.problems.listed()
