from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.deadlines import Deadlines


def test_what_is_due_comes_out_once() -> None:
    deadlines = Deadlines()
    deadlines.put("a", 10)
    deadlines.put("b", 20)
    assert deadlines.pop_due(9) == set()
    assert deadlines.pop_due(10) == {"a"}
    assert deadlines.pop_due(99) == {"b"}
    assert deadlines.pop_due(99) == set()
    assert deadlines.next() is None


def test_a_key_has_one_instant_the_last_that_was_put() -> None:
    deadlines = Deadlines()
    deadlines.put("a", 10)
    deadlines.put("a", 30)
    assert deadlines.next() == 30
    assert deadlines.pop_due(29) == set()
    deadlines.put("a", 5)
    assert deadlines.pop_due(40) == {"a"}
    assert len(deadlines) == 0


def test_none_forgets_and_forgetting_twice_is_no_error() -> None:
    deadlines = Deadlines()
    deadlines.put("a", 10)
    deadlines.put("a", None)
    deadlines.put("a", None)
    assert deadlines.pop_due(99) == set()
    deadlines.put("a", 10)
    assert deadlines.pop_due(10) == {"a"}


def test_a_lease_renewed_every_second_for_a_day_does_not_fill_the_memory() -> None:
    deadlines = Deadlines()
    for second in range(86_400):
        deadlines.put("lease", 86_400_000 + second)
    assert len(deadlines._heap) < 100


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.none() | st.integers(0, 50)), max_size=200),
    st.integers(0, 50),
)
def test_a_heap_of_any_history_says_what_a_plain_map_says(
    puts: list[tuple[str, int | None]], now: int
) -> None:
    deadlines, plain = Deadlines(), {}
    for key, instant in puts:
        deadlines.put(key, instant)
        plain[key] = instant
    want = {key: instant for key, instant in plain.items() if instant is not None}
    assert deadlines.next() == min(want.values(), default=None)
    assert len(deadlines) == len(want)
    assert deadlines.pop_due(now) == {key for key, instant in want.items() if instant <= now}
