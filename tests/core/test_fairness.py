from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import make_pool

from leasehold.core.fairness import MILLION, Shares, beyond, dominant_share, faded, shares_of

CAPACITY = (100_000, 1000)
HOUR = 3_600_000


def shares(*tenants: dict[str, Any], **pool: Any) -> Shares:
    """Shares of a pool of 100 cpu and 1000 bytes."""
    return shares_of(make_pool(tenants=tenants, **pool), CAPACITY)


# --- rank ---


def test_a_share_is_that_of_the_resource_a_tenant_has_most_of() -> None:
    assert dominant_share((20_000, 500), CAPACITY) == MILLION // 2
    assert dominant_share((20_000, 0), CAPACITY) == MILLION // 5
    assert dominant_share((5, 0), (0, 10)) == 0


def test_who_holds_the_smaller_share_comes_first_and_weight_divides_it() -> None:
    found = shares({"name": "red"}, {"name": "blue", "weight": 4})
    found.add("red", (10_000, 0))
    found.add("blue", (20_000, 0))
    assert found.rank("blue") < found.rank("red")
    found.add("blue", (40_000, 0))
    assert found.rank("blue") > found.rank("red")
    assert found.rank("nobody yet") == 0


def test_waste_makes_a_share_count_for_more_where_the_pool_says_so() -> None:
    for fairness, grows in (("DominantShare", False), ("DominantShareAndWaste", True)):
        found = shares({"name": "red"}, fairness=fairness)
        found.add("red", (10_000, 0))
        before = found.rank("red")
        found.note_waste("red", MILLION, MILLION // 2)
        assert found.account("red").waste == MILLION // 2
        assert (found.rank("red") > before) == grows


# --- the past ---


def test_past_use_counts_and_is_half_forgotten_after_a_half_life() -> None:
    found = shares({"name": "red"}, half_life=3600)
    found.age(HOUR)
    found.add("red", (100_000, 0))
    found.age(2 * HOUR)
    assert found.account("red").past == MILLION // 2
    found.remove("red", (100_000, 0))
    found.age(2 * HOUR)
    found.age(3 * HOUR)
    assert found.account("red").past == MILLION // 4
    assert found.rank("red") == 1000 * MILLION // 4


def test_who_gives_back_just_before_the_books_are_made_up_has_held_until_then() -> None:
    found = shares({"name": "red"}, half_life=3600)
    found.age(HOUR)
    found.add("red", (100_000, 0))
    found.remove("red", (100_000, 0))
    found.age(2 * HOUR)
    assert found.account("red").past == MILLION // 2


def test_looking_often_forgets_no_faster_and_no_slower_than_looking_once() -> None:
    often, once = (shares({"name": "red"}, half_life=3600) for _ in range(2))
    for found in (often, once):
        found.age(HOUR)
        found.add("red", (100_000, 0))
        found.age(3 * HOUR)
        found.remove("red", (100_000, 0))
        found.age(3 * HOUR + 1)
    for at in range(3 * HOUR, 4 * HOUR + 1, 997):
        often.age(at)
    often.age(4 * HOUR)
    once.age(4 * HOUR)
    assert abs(often.account("red").past - once.account("red").past) <= 1
    assert once.account("red").past == pytest.approx(MILLION * 3 / 8, abs=2)


def test_a_pool_without_a_half_life_forgets_at_once() -> None:
    found = shares({"name": "red"})
    found.age(HOUR)
    found.add("red", (100_000, 0))
    found.age(2 * HOUR)
    found.remove("red", (100_000, 0))
    assert found.rank("red") == 0


ENDS = st.integers(0, MILLION << 32)
TIMES = st.integers(0, 1 << 36)
LIVES = st.integers(1, 365 * 24 * HOUR)


def tolerance(past: int, present: int) -> int:
    """The error that is stated: one for each 2^30 of the step, and one for rounding."""
    return (abs(past - present) >> 30) + 1


@given(ENDS, ENDS, TIMES, TIMES, LIVES)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_fading_moves_one_way_and_never_past_the_present(
    past: int, present: int, a: int, b: int, life: int
) -> None:
    sooner, later = (faded(past, present, t, life) for t in sorted((a, b)))
    low, high = sorted((past, present))
    assert low <= sooner <= high
    assert abs(later - present) <= abs(sooner - present) + tolerance(past, present)
    assert faded(past, present, 0, life) == past


@given(ENDS, ENDS, TIMES, TIMES, LIVES)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_two_steps_of_fading_are_one(past: int, present: int, a: int, b: int, life: int) -> None:
    two = faded(faded(past, present, a, life), present, b, life)
    assert abs(two - faded(past, present, a + b, life)) <= 3 * tolerance(past, present)


@given(ENDS, ENDS, st.integers(0, 50), LIVES)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_each_half_life_halves_the_gap(past: int, present: int, halvings: int, life: int) -> None:
    gap = abs(faded(past, present, halvings * life, life) - present)
    assert gap == abs(past - present) >> halvings


# --- guarantee and limit ---


def test_a_tenant_is_entitled_up_to_its_guarantee_in_every_resource_it_asks_for() -> None:
    found = shares({"name": "red", "guaranteed": {"cpu": "10"}}, {"name": "blue"})
    assert found.entitled("red", (10_000, 0))
    assert not found.entitled("red", (10_001, 0))
    assert not found.entitled("red", (1, 1)), "no memory is guaranteed"
    found.add("red", (4000, 7))
    assert found.entitled("red", (6000, 0)), "memory it holds beyond its guarantee is not asked for now"
    assert not found.entitled("blue", (0, 0))
    assert not found.entitled("unknown", (1, 0))
    assert found.guarantees
    assert not shares({"name": "blue"}).guarantees


def test_a_limit_counts_amounts_and_leases() -> None:
    found = shares({"name": "red", "limit": {"cpu": "10"}, "maxLeases": 2})
    assert not found.over_limit("red", (10_000, 1 << 40)), "memory has no limit"
    assert found.over_limit("red", (10_001, 0))
    found.add("red", (1000, 0))
    found.add("red", (1000, 0))
    assert found.over_limit("red", (1, 0)), "a third lease"
    found.remove("red", (1000, 0))
    assert not found.over_limit("red", (9000, 0))
    assert not found.over_limit("unknown", (1 << 60, 0))


def test_what_is_not_asked_for_is_not_beyond_a_limit() -> None:
    assert not beyond((0, 5), (0, None))
    assert beyond((1, 5), (0, None))


def test_a_borrower_can_lose_what_it_has_beyond_its_guarantee_and_no_more() -> None:
    found = shares({"name": "red", "guaranteed": {"cpu": "10"}})
    found.add("red", (15_000, 9))
    assert found.can_lose("red", (5000, 9))
    assert not found.can_lose("red", (5001, 0))
    assert found.can_lose("unknown", (1, 1)), "who is no tenant has no guarantee"


def test_a_copy_can_be_played_with() -> None:
    found = shares({"name": "red"}, half_life=3600)
    found.age(HOUR)
    found.add("red", (1000, 1))
    played = found.copy()
    assert played == found
    played.add("red", (1000, 1))
    played.age(2 * HOUR)
    assert (found.account("red").leases, found.account("red").past, found.as_of) == (1, 0, HOUR)
