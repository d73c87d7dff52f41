"""When the leaders of other shards have heard enough."""

from __future__ import annotations

import pytest

from leasehold.core.neighbours import Heard, digest, level_of

MINE = Heard(100, "abc-1", 50)


def test_what_is_heard_survives_being_written() -> None:
    assert Heard.parse(str(MINE)) == MINE


@pytest.mark.parametrize("text", ["", "1,2", "x,abc,3", "1,abc,-3", "1,abc,2,3"])
def test_what_cannot_be_read_is_nothing(text: str) -> None:
    assert Heard.parse(text) is None


def test_pools_are_told_apart_by_their_specs() -> None:
    assert digest({"a": "u1/1"}) == digest({"a": "u1/1"})
    assert (
        len({digest(found) for found in ({}, {"a": "u1/1"}, {"a": "u1/2"}, {"a": "u2/1"}, {"b": "u1/1"})})
        == 5
    )


def test_the_slowest_counts() -> None:
    assert level_of([Heard(90, "abc-1", 1), Heard(120, "abc-1", 2)], MINE) == 90
    assert level_of([], MINE) is None


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (None, "nobody leads it, or its leader is not done taking over"),
        (Heard(200, "other-2", 1), "it knows other specs"),
        (Heard(200, "abc-1", 51), "it wrote to leases that we have not seen yet"),
    ],
)
def test_one_that_is_not_there_yet_is_waited_for(other: Heard | None, why: str) -> None:
    assert level_of([Heard(300, "abc-1", 1), other], MINE) is None, why
