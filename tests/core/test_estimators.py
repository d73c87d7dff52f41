"""The estimators against plain references that are slow and obviously right."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.estimators import DRIFT, ClockOffset, Latch, Trend, Window

gaps_and_readings = st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 2**50)), min_size=1, max_size=120)


def timed(series):
    at = 0.0
    for gap, reading in series:
        at += gap
        yield at, reading


class TestTrend:
    def test_first_reading_is_the_trend(self):
        trend = Trend(5)
        trend.add(100.0, 700)
        assert trend.value == 700

    def test_one_time_constant_after_a_step_63_percent_are_followed(self):
        trend = Trend(5)
        trend.add(0, 0)
        trend.add(5, 1000)
        assert trend.value == pytest.approx(1000 * (1 - 1 / math.e))

    @pytest.mark.parametrize("reads", [1, 5, 50])
    def test_reading_more_often_does_not_follow_faster(self, reads):
        trend = Trend(5)
        trend.add(0, 0)
        for index in range(1, reads + 1):
            trend.add(10 * index / reads, 1000)
        assert trend.value == pytest.approx(1000 * (1 - math.exp(-2)))

    @given(gaps_and_readings)
    def test_stays_between_the_smallest_and_the_largest_reading(self, series):
        trend = Trend(5)
        for at, reading in timed(series):
            trend.add(at, reading)
        readings = [reading for _, reading in series]
        tolerance = 1e-9 * max(readings) + 1e-9
        assert min(readings) - tolerance <= trend.value <= max(readings) + tolerance

    def test_a_clock_that_stands_still_changes_nothing(self):
        trend = Trend(5)
        trend.add(10, 100)
        trend.add(10, 900)
        trend.add(9, 900)
        assert trend.value == 100


class TestWindow:
    @given(gaps_and_readings, st.floats(1, 400))
    def test_holds_exactly_the_readings_younger_than_its_length(self, series, seconds):
        window = Window(seconds)
        seen = []
        for at, reading in timed(series):
            window.add(at, reading)
            seen.append((at, reading))
            kept = [r for t, r in seen if t > at - seconds]
            assert len(window) == len(kept)
            assert window.maximum() == max(kept)

    @given(gaps_and_readings, st.integers(1, 100), st.floats(1, 400))
    def test_percentile_is_the_nearest_rank_of_the_sorted_readings(self, series, percent, over):
        window = Window(1e9)
        points = list(timed(series))
        for at, reading in points:
            window.add(at, reading)
        newest = points[-1][0]
        recent = sorted(reading for at, reading in points if at > newest - over)
        assert window.percentile(percent, over) == recent[math.ceil(len(recent) * percent / 100) - 1]
        everything = sorted(reading for _, reading in points)
        assert window.percentile(percent) == everything[math.ceil(len(everything) * percent / 100) - 1]

    def test_an_empty_window_has_no_figures(self):
        window = Window(60)
        assert window.percentile(90) is None
        assert window.percentile(90, 60) is None
        assert window.maximum() is None

    def test_growing_keeps_what_is_there_and_shrinking_forgets_with_the_next_reading(self):
        window = Window(10)
        for second in range(20):
            window.add(second, second)
        assert len(window) == 10
        window.resize(15)
        for second in range(20, 30):
            window.add(second, second)
        assert len(window) == 15
        window.resize(3)
        window.add(30, 30)
        assert len(window) == 3

    def test_p90_of_a_minute_rises_within_seven_seconds_of_a_step_and_falls_after_a_minute(self):
        window = Window(300)
        for second in range(60):
            window.add(second, 100)
        risen = next(s for s in range(60, 120) if (window.add(s, 900), window.percentile(90, 60))[1] == 900)
        assert risen - 60 == 6
        for second in range(risen + 1, 200):
            window.add(second, 900)
        fallen = next(s for s in range(200, 300) if (window.add(s, 100), window.percentile(90, 60))[1] == 100)
        assert 50 <= fallen - 200 <= 60


class TestLatch:
    def test_switches_on_at_high_and_off_at_low_and_holds_in_between(self):
        latch = Latch(low=8, high=10)
        assert [latch.update(v) for v in (0, 9, 10, 9, 8.1, 8, 9.9, 12)] == [
            False, False, True, True, True, False, False, True,
        ]  # fmt: skip

    @given(st.lists(st.floats(8.01, 9.99)))
    def test_a_value_that_flutters_between_the_marks_never_switches(self, values):
        latch = Latch(low=8, high=10)
        assert not any(latch.update(value) for value in values)


class TestClockOffset:
    def test_nothing_is_known_before_the_first_answer(self):
        offset = ClockOffset()
        assert offset.seconds is None
        assert offset.at_least is None

    @given(st.floats(-1000, 1000), st.lists(st.floats(0, 30), min_size=1, max_size=50), st.floats(0.001, 2))
    def test_the_true_offset_is_never_farther_than_the_bounds_allow(self, true, gaps, trip):
        offset = ClockOffset()
        server = 1_000_000.0
        for gap in gaps:
            server += gap
            stamped = math.floor(server + trip / 2)
            offset.observe(server, server + true, server + trip + true, stamped)
            assert offset.at_least <= abs(true) + 1e-6
            assert abs(offset.seconds - true) <= (1 + trip) / 2 + 1e-6 + DRIFT * 30

    def test_many_answers_are_sharper_than_one(self):
        offset = ClockOffset()
        for tick in range(100):
            server = 1000 + tick * 30.37
            offset.observe(server, server + 7.2, server + 7.21, math.floor(server + 0.005))
        assert offset.seconds == pytest.approx(7.2, abs=0.1)

    def test_a_clock_that_was_set_starts_the_estimate_anew(self):
        offset = ClockOffset()
        offset.observe(0, 1000.5, 1000.6, 1000)
        assert offset.at_least == 0
        offset.observe(30, 1100.5, 1100.6, 1030)
        assert offset.seconds == pytest.approx(70, abs=1)
        assert offset.at_least > 69

    def test_an_answer_during_which_the_clock_was_set_back_is_ignored(self):
        offset = ClockOffset()
        offset.observe(0, 1000.5, 900.0, 1000)
        assert offset.seconds is None
