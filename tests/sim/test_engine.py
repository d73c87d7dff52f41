"""The event loop on the operator's planner, against schedulers of thirty lines that know nothing of it."""

from __future__ import annotations

import heapq
from bisect import insort
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.api.pool import PoolSpec
from leasehold.core.request import Request, Shape
from leasehold.core.timeline import Timeline
from leasehold.sim.engine import Outcome, replay
from leasehold.sim.job import Finished, Job, Situation
from leasehold.sim.pools import Pool, machine, nodes_of, pool_of

MACHINE = 16


class Row(NamedTuple):
    """A job of a log, in seconds."""

    submit: int
    processors: int
    run: int
    estimate: int


@st.composite
def logs(draw: st.DrawFn) -> list[Row]:
    # Few different times: what happens at one instant is what schedulers disagree about.
    submits = sorted(draw(st.lists(st.integers(0, 30), min_size=1, max_size=40)))
    rows = []
    for submit in submits:
        run = draw(st.integers(1, 20))
        rows.append(
            Row(submit, draw(st.integers(1, MACHINE)), run, run + draw(st.sampled_from([0, 0, 1, 5, 30])))
        )
    return rows


class Waits:
    """Notes when each job started, and how things stood."""

    def __init__(self) -> None:
        self.starts: dict[str, int] = {}
        self.order: list[str] = []
        self.stands: list[Situation] = []
        self.ends: dict[str, int] = {}

    def moment(self, at: Situation) -> None:
        self.stands.append(at)

    def ended(self, found: Finished) -> None:
        self.starts[found.job.name] = found.start // 1000
        self.order.append(found.job.name)
        assert found.end - found.start == found.job.run


def jobs(rows: list[Row], turns: list[int] | None = None) -> list[Job]:
    found = []
    for i, row in enumerate(rows):
        turn = (0 if turns is None else turns[i], i)
        shape = Shape("", (row.processors,), span=row.estimate * 1000)
        found.append(
            Job(Request(f"{i}", turn, shape), f"{i}", "me", row.submit * 1000, row.run * 1000, row.processors)
        )
    return found


def simulate(
    rows: list[Row], policy: str, turns: list[int] | None = None
) -> tuple[list[int], Waits, Outcome]:
    pool = machine(MACHINE, policy)
    waits = Waits()
    outcome = replay(Timeline(pool.table, pool.policy), jobs(rows, turns), [waits])
    return [waits.starts[f"{i}"] for i in range(len(rows))], waits, outcome


def naive(rows: list[Row], *, easy: bool) -> list[int]:
    """EASY or first come, first served on one number of processors, one pass an event."""
    free, queue, running = MACHINE, [], []  # running: (estimated end, processors, i)
    starts: dict[int, int] = {}
    events = [(row.submit, 0, i) for i, row in enumerate(rows)]
    heapq.heapify(events)
    serial = len(rows)

    def begin(i: int, now: int) -> None:
        nonlocal free, serial
        free -= rows[i].processors
        starts[i] = now
        serial += 1
        insort(running, (now + rows[i].estimate, rows[i].processors, i))
        heapq.heappush(events, (now + rows[i].run, serial, i))

    while events:
        now, order, i = heapq.heappop(events)
        if order:
            free += rows[i].processors
            running.remove((starts[i] + rows[i].estimate, rows[i].processors, i))
        else:
            queue.append(i)
        while queue and rows[queue[0]].processors <= free:
            begin(queue.pop(0), now)
        if not queue or not easy:
            continue
        head, room = rows[queue[0]].processors, free
        for shadow, processors, _ in running:  # noqa: B007
            room += processors
            if room >= head:
                break
        extra = free + sum(p for end, p, _ in running if end <= shadow) - head
        for i in queue[1:]:
            ends_in_time = now + rows[i].estimate <= shadow
            if rows[i].processors <= free and (ends_in_time or rows[i].processors <= extra):
                extra -= 0 if ends_in_time else rows[i].processors
                queue.remove(i)
                begin(i, now)
    return [starts[i] for i in range(len(rows))]


@settings(max_examples=150, deadline=None)
@given(logs())
def test_easy_starts_every_job_when_an_independent_scheduler_does(rows: list[Row]) -> None:
    assert simulate(rows, "easy")[0] == naive(rows, easy=True)


@settings(max_examples=100, deadline=None)
@given(logs())
def test_first_come_first_served_starts_every_job_when_an_independent_scheduler_does(rows: list[Row]) -> None:
    assert simulate(rows, "fcfs")[0] == naive(rows, easy=False)


@settings(max_examples=50, deadline=None)
@given(logs(), st.sampled_from(["easy", "fcfs", "best-effort"]))
def test_a_replay_comes_out_the_same_every_time_and_never_lends_more_than_there_is(rows, policy) -> None:
    first, waits, outcome = simulate(rows, policy)
    again, waits_again, outcome_again = simulate(rows, policy)
    assert (first, waits.order, outcome) == (again, waits_again.order, outcome_again)
    assert all(0 <= stand.used <= MACHINE for stand in waits.stands)
    assert waits.stands[-1][1:] == (0, 0, 0)
    assert outcome == Outcome(passes=2 * len(rows), preempted=0, never_started=0)


def test_best_effort_lets_the_small_ones_pass_the_head() -> None:
    rows = [Row(0, 10, 100, 100), Row(1, 16, 10, 10), Row(2, 6, 500, 500)]
    assert simulate(rows, "best-effort")[0] == [0, 502, 2]
    assert simulate(rows, "easy")[0] == [0, 100, 110]
    assert simulate(rows, "fcfs")[0] == [0, 100, 110]


def test_a_turn_decides_who_is_first_in_line() -> None:
    rows = [Row(0, 16, 10, 10), Row(1, 16, 30, 30), Row(2, 16, 5, 5)]
    assert simulate(rows, "easy", turns=[row.estimate for row in rows])[0] == [0, 15, 10]


def test_at_one_instant_a_submission_comes_before_an_end() -> None:
    # The last one is submitted just when the first ends. Its two processors are free already, so it starts, and the
    # one that has waited longer finds two too few.
    rows = [Row(0, 14, 10, 12), Row(1, 16, 5, 5), Row(10, 2, 2, 2)]
    assert simulate(rows, "easy")[0] == [0, 12, 10]


def test_progress_is_told_now_and_then() -> None:
    told: list[int] = []
    pool = machine(MACHINE, "easy")
    replay(Timeline(pool.table, pool.policy), jobs([Row(i, 1, 1, 1) for i in range(600)]), [], told.append)
    assert told == [256, 512]


def test_a_start_time_that_was_asked_for_is_kept_though_nothing_happens_then() -> None:
    pool = machine(MACHINE, "easy")
    shape = Shape("", (16,), span=5_000, not_before=60_000)
    waits = Waits()
    job = Job(Request("1", (1,), shape), "0", "me", 0, 5_000, 16)
    replay(Timeline(pool.table, pool.policy), [job], [waits])
    assert waits.starts == {"0": 60}


def shared_pool() -> Pool:
    """A node of 4 cpu, half of it guaranteed to each of two tenants, which may borrow and are called back."""
    tenants = [
        {"name": name, "namespaceSelector": {"matchLabels": {"team": name}}, "guaranteed": {"cpu": "2"}}
        for name in ("a", "b")
    ]
    spec = {
        "nodeSelector": {},
        "resources": [{"name": "cpu", "source": "Allocatable"}],
        "leasePolicy": {"gracePeriodSeconds": 30},
        "queueing": {"strategy": "Backfill"},
        "tenants": tenants,
        "preemption": {"borrowers": "Reclaim"},
    }
    return pool_of("shared", PoolSpec.model_validate(spec), nodes_of("1x cpu=4"))


def test_a_borrower_that_is_called_back_ends_after_its_grace_and_is_counted() -> None:
    pool = shared_pool()

    def lease(name: str, tenant: str, submit: int, cpu: int = 2_000) -> Job:
        shape = Shape(tenant, (cpu,), span=3_600_000)
        return Job(Request(name, (submit,), shape), name, tenant, submit, 3_600_000, cpu)

    class Ends(Waits):
        def ended(self, found: Finished) -> None:
            self.starts[found.job.name] = found.start
            self.ends[found.job.name] = found.end

    told = Ends()
    outcome = replay(
        Timeline(pool.table, pool.policy),
        [lease("own", "a", 0), lease("borrowed", "a", 1_000), lease("due", "b", 60_000)],
        [told],
    )
    assert outcome.preempted == 1
    assert told.starts == {"own": 0, "borrowed": 1_000, "due": 90_000}
    assert told.ends["borrowed"] == 90_000
    assert told.ends["own"] == 3_600_000


def test_what_can_never_start_is_counted() -> None:
    outcome = replay_one_too_large()
    assert outcome.never_started == 1


def replay_one_too_large() -> Outcome:
    pool = machine(MACHINE, "easy")
    job = Job(Request("1", (1,), Shape("", (MACHINE + 1,), span=1000)), "0", "me", 0, 1000, MACHINE + 1)
    return replay(Timeline(pool.table, pool.policy), [job], [])


@pytest.mark.parametrize("policy", ["fcfs", "easy", "best-effort"])
def test_no_jobs_are_no_error(policy: str) -> None:
    pool = machine(MACHINE, policy)
    assert replay(Timeline(pool.table, pool.policy), [], []) == Outcome(0, 0, 0)
