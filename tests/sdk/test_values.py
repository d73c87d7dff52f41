from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from leasehold.sdk.errors import Misuse
from leasehold.sdk.values import checked_name, moment, resources_of, seconds_of, whole_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1.5m", 90),
        ("250ms", 0.25),
        (7, 7),
        (0.5, 0.5),
        (timedelta(minutes=2), 120),
    ],
)
def test_durations_people_write(text: Any, seconds: float) -> None:
    assert seconds_of(text, "duration") == seconds


@pytest.mark.parametrize(
    "text", ["", "ten minutes", "10", "10 m", "-5s", 0, -1, float("inf"), float("nan"), True, None, []]
)
def test_a_duration_that_is_none_is_refused_with_what_is_right(text: Any) -> None:
    with pytest.raises(Misuse, match=r'duration=.*"10m"'):
        seconds_of(text, "duration")


def test_whole_seconds_are_never_fewer_than_asked() -> None:
    assert [whole_seconds(value, "x") for value in ("1500ms", 0.1, "2s", 2.0)] == [2, 1, 2, 2]


def test_amounts_people_write() -> None:
    found = resources_of(0.5, "4Gi", "10Gi", {"nvidia.com/gpu": 1})
    assert found == {"cpu": "0.5", "memory": "4Gi", "ephemeral-storage": "10Gi", "nvidia.com/gpu": "1"}
    assert resources_of(2.0, None, None, None) == {"cpu": "2"}


@pytest.mark.parametrize(
    ("cpu", "more"),
    [("two", None), (0, None), (-1, None), (True, None), ("1", {"cpu": 2}), (None, None), ([1], None)],
)
def test_amounts_that_cannot_be_are_refused(cpu: Any, more: Any) -> None:
    with pytest.raises(Misuse) as caught:
        resources_of(cpu, None, None, more)
    assert caught.value.remedy


def test_a_time_needs_a_zone() -> None:
    assert moment(datetime(2026, 1, 2, tzinfo=UTC), "start") == "2026-01-02T00:00:00+00:00"
    with pytest.raises(Misuse, match="time zone"):
        moment(datetime(2026, 1, 2), "start")


def test_names() -> None:
    assert checked_name("a-1.b", "name") == "a-1.b"
    for bad in ("", "A", "-a", "a_b", "x" * 254, None):
        with pytest.raises(Misuse):
            checked_name(bad, "name")  # type: ignore[arg-type]
