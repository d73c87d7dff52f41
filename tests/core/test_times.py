import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.errors import InvalidObject
from leasehold.core.times import earliest, format_time, parse_time


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00.123456Z", 123),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_reads_an_instant_in_any_zone_down_to_the_millisecond(text: str, instant: int) -> None:
    assert parse_time(text) == instant


@pytest.mark.parametrize("text", ["", "noon", "2026-11-22T12:00:00", "9999-99-99T00:00:00Z", None, 17])
def test_refuses_what_is_no_instant_and_says_what_to_write(text: str) -> None:
    with pytest.raises(InvalidObject, match=r"write e\.g\. 2026-11-22T19:00:00Z"):
        parse_time(text)


def test_whole_seconds_are_written_without_a_fraction() -> None:
    assert format_time(1000) == "1970-01-01T00:00:01Z"
    assert format_time(1001) == "1970-01-01T00:00:01.001Z"


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (10**18, "9999-12-31T23:59:59.999Z"),
        (parse_time("9999-12-31T23:59:59-12:00"), "9999-12-31T23:59:59.999Z"),
        (-(10**18), "0001-01-01T00:00:00Z"),
        (parse_time("0050-01-01T00:00:00Z"), "0050-01-01T00:00:00Z"),
    ],
)
def test_what_no_calendar_has_is_written_as_its_first_or_last_instant(instant: int, text: str) -> None:
    assert format_time(instant) == text


@given(st.integers(-(10**12), 10**14))
def test_an_instant_survives_being_written_and_read(instant: int) -> None:
    assert parse_time(format_time(instant)) == instant


def test_the_earliest_ignores_what_is_not_set() -> None:
    assert earliest(None, 5, 3, None) == 3
    assert earliest(None) is None
    assert earliest() is None
