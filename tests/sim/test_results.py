"""The figures of a replay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.request import Request, Shape
from leasehold.sim.job import Finished, Job, Situation
from leasehold.sim.results import Histogram, Statistics


def finished(submit: int, start: int, end: int, units: int = 1) -> Finished:
    """Times in seconds."""
    request = Request("1", (1,), Shape("", (units,)))
    job = Job(request, "job", "me", submit * 1000, (end - start) * 1000, units)
    return Finished(job, start * 1000, end * 1000, (0,))


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200), st.integers(1, 100))
def test_a_percentile_is_within_a_thousandth_of_the_exact_one(values: list[int], percent: int) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[-(-len(values) * percent // 100) - 1]
    assert abs(histogram.percentile(percent) - exact) <= exact / 1000


@given(st.lists(st.integers(0, 2047), min_size=1), st.integers(1, 100))
def test_a_percentile_of_small_values_is_exact(values: list[int], percent: int) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert histogram.percentile(percent) == sorted(values)[-(-len(values) * percent // 100) - 1]


def test_the_percentile_of_nothing_is_zero() -> None:
    assert Histogram().percentile(50) == 0


def test_figures_of_three_jobs() -> None:
    found = Statistics(capacity=4)
    found.moment(Situation(0, 1, 2, 3))
    found.moment(Situation(5_000, 2, 1, 3))
    found.ended(finished(0, 0, 100, units=2))  # slowdown 1
    found.ended(finished(0, 30, 31, units=4))  # 31 / 10
    found.ended(finished(10, 110, 210, units=1))  # 200 / 100
    document = found.document()
    assert document["jobs"] == 3
    assert document["makespan_seconds"] == 210
    assert document["avg_wait_seconds"] == pytest.approx(130 / 3)
    assert document["avg_bounded_slowdown"] == pytest.approx((1 + 3.1 + 2) / 3)
    assert document["utilization"] == pytest.approx((200 + 4 + 100) / (4 * 210))
    assert (document["peak_waiting"], document["peak_running"]) == (2, 2)
    assert document["p50_wait_seconds"] == pytest.approx(30, rel=0.001)


def test_nothing_at_all_is_no_division_by_zero() -> None:
    assert Statistics(4).document()["utilization"] == 0
