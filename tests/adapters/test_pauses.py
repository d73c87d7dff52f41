"""Pauses double with each failure in a row, end at a bound, and are forgotten after a success."""

from __future__ import annotations

from leasehold.adapters.pauses import FIRST, LONGEST, QUIET, Pauses, Rivals


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


def test_a_pause_may_be_set_without_a_failure() -> None:
    pauses = Pauses()
    pauses.put("a", 500)
    assert "a" in pauses
    assert pauses.pop_due(499) == set()
    assert pauses.pop_due(500) == {"a"}


def test_the_first_foreign_write_is_put_right_at_once_and_each_further_one_later() -> None:
    rivals = Rivals()
    assert [rivals.seen("a", 1000 * i) for i in range(5)] == [0, 200, 400, 800, 1600]
    assert [rivals.seen("a", 10_000) for _ in range(20)][-1] == LONGEST
    assert rivals.seen("b", 10_000) == 0


def test_a_rival_that_went_quiet_is_forgotten() -> None:
    rivals = Rivals()
    rivals.seen("a", 0)
    rivals.seen("b", 1)
    assert rivals.seen("c", QUIET + 2) == 0
    assert len(rivals) == 1
    assert rivals.seen("a", QUIET + 3) == 0
