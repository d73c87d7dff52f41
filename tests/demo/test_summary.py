from __future__ import annotations

import pytest

from leasehold.demo.observer import Figures
from leasehold.demo.summary import milliseconds, percentile, rows


@pytest.mark.parametrize(
    ("values", "percent", "found"),
    [([], 50, None), ([3.0], 95, 3.0), ([1.0, 2.0, 3.0, 4.0], 50, 2.0), ([1.0, 2.0, 3.0, 4.0], 95, 4.0)],
)
def test_percentiles_are_values_that_were_seen(
    values: list[float], percent: int, found: float | None
) -> None:
    assert percentile(values, percent) == found


def test_times_are_written_in_milliseconds() -> None:
    assert (milliseconds(0.0123), milliseconds(None)) == ("12 ms", "-")


def test_the_summary_counts_what_became_of_leases() -> None:
    figures = Figures()
    figures.granted = {"a", "b", "c"}
    figures.ended = {"a": "Expired", "b": "Revoked"}
    figures.renewals = {"a": 2, "c": 1}
    figures.ready_after = {"a": 0.010, "b": 0.030}
    figures.reclaim_after = {"a": 0.002}
    report = {"agent": {"cpuMicroPerSecond": 1500, "residentBytes": 20 << 20}}
    said = dict(rows(figures, chapters=7, checked=41, report=report))
    assert said["Shown"] == "7 chapters; 41 expectations held on the API server"
    assert said["Leases"] == "3 granted, 3 renewals, 0 released, 1 expired, 1 revoked"
    assert said["Asked to Ready"].startswith("p50 10 ms, p95 30 ms (2 seen;")
    assert said["Deadline to Released"] == "p50 2 ms, max 2 ms (1 seen, 0 before the deadline)"
    assert said["Reporter's own cost"] == "0.15 % of one core at a 1 s period, 20 MiB resident"


def test_a_host_without_a_report_has_no_cost() -> None:
    assert "Reporter's own cost" not in dict(rows(Figures(), chapters=1, checked=0, report={}))
