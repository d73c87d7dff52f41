"""Pauses double with each failure in a row, end at a bound, and are forgotten after a success."""

from __future__ import annotations

from leasehold.adapters.pauses import FIRST, LONGEST, Pauses


def test_each_failure_in_a_row_doubles_the_pause() -> None:
    pauses = Pauses()
    now = 0
    lengths = []
    for attempt in range(12):
        assert pauses.failed("a", now) == (attempt == 0)
        until = pauses.next()
        assert until is not None
        lengths.append(until - now)
        assert "a" in pauses
        assert pauses.pop_due(until - 1) == set()
        assert pauses.pop_due(until) == {"a"}
        assert "a" not in pauses
        now = until
    assert lengths[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert lengths[-1] == LONGEST


def test_a_success_forgets_the_failures_of_one_key_alone() -> None:
    pauses = Pauses()
    pauses.failed("a", 0)
    pauses.failed("a", 0)
    pauses.failed("b", 0)
    assert len(pauses) == 2
    pauses.worked("a")
    pauses.worked("never failed")
    assert pauses.next() == FIRST
    assert pauses.pop_due(10 * FIRST) == {"b"}
    assert pauses.failed("a", 0)
    assert pauses.next() == FIRST
