from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.places import shared

wishes = st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 50), max_size=8)


def test_who_needs_little_gets_it_and_the_rest_is_shared_evenly() -> None:
    assert shared({"loud": 20_000, "quiet": 3, "other": 9_000}, 10_000) == {
        "quiet": 3,
        "other": 4_998,
        "loud": 4_999,
    }


def test_all_are_served_where_there_is_enough() -> None:
    assert shared({"a": 2, "b": 5}, 100) == {"a": 2, "b": 5}
    assert shared({}, 3) == {}


@given(wishes, st.integers(0, 200))
def test_no_place_is_given_twice_and_none_is_left_that_somebody_wants(
    wanted: dict[str, int], places: int
) -> None:
    found = shared(wanted, places)
    assert found.keys() == wanted.keys()
    assert sum(found.values()) == min(places, sum(wanted.values()))
    assert all(0 <= found[key] <= wanted[key] for key in wanted)


@given(wishes, st.integers(0, 200))
def test_nobody_goes_short_while_somebody_has_more_than_one_place_more(
    wanted: dict[str, int], places: int
) -> None:
    found = shared(wanted, places)
    short = [found[key] for key in wanted if found[key] < wanted[key]]
    assert all(more - few <= 1 for few in short for more in found.values())
