import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sdk.router.builders import task

from leasehold.sdk.router.line import Line, TaskClass

ONE = {"": TaskClass()}


def order(line: Line) -> list[int]:
    return [one.id for one in line.turns()]


def test_first_come_first_served_within_a_class() -> None:
    line = Line(4, ONE)
    for name in (3, 1, 2):
        line.add(task(name))
    assert order(line) == [3, 1, 2]


def test_a_class_that_comes_late_need_not_wait_for_all_of_another_ones_backlog() -> None:
    line = Line(4, {"batch": TaskClass(), "live": TaskClass()})
    for name in range(10):
        line.add(task(name, task_class="batch"))
    line.add(task(100, task_class="live"))
    assert order(line).index(100) <= 1


def test_turns_are_shared_by_weight() -> None:
    line = Line(100, {"heavy": TaskClass(weight=3), "light": TaskClass()})
    for name in range(40):
        line.add(task(name, task_class="heavy"))
        line.add(task(100 + name, task_class="light"))
    first = order(line)[:40]
    assert sum(name < 100 for name in first) == pytest.approx(30, abs=1)


def test_a_task_that_goes_back_has_its_old_place() -> None:
    line = Line(4, ONE)
    one, *_ = [line.add(task(name)) for name in (1, 2, 3)]
    line.started(one)
    assert order(line) == [2, 3]
    line.back(one)
    assert (order(line), line.under_way) == ([1, 2, 3], 0)


def test_who_leaves_from_anywhere_leaves_nothing_behind() -> None:
    line = Line(1, ONE)
    one, two = line.add(task(1)), line.add(task(2))
    line.started(one)
    assert line.full
    for gone in (one, two, one):
        line.left(gone)
    assert (len(line), line.under_way, line.count(""), line.full) == (0, 0, 0, False)


def test_bounds_are_those_of_the_class_and_of_all() -> None:
    line = Line(2, {"a": TaskClass(limit=1), "b": TaskClass()})
    line.started(line.add(task(1, task_class="a")))
    assert (line.may_start("a"), line.may_start("b")) == (False, True)
    line.started(line.add(task(2, task_class="b")))
    assert not line.may_start("b")


def test_a_class_that_makes_no_sense_is_refused() -> None:
    for wrong in ({"limit": 0}, {"weight": 0}, {"weight": 1001}):
        with pytest.raises(ValueError, match="a class"):
            TaskClass(**wrong)


WEIGHTS = {"a": 1, "b": 2, "c": 5}


@given(st.lists(st.sampled_from(["a", "b", "c", "start", "start and back"]), max_size=120))
def test_no_waiter_starves_a_bounded_number_of_later_ones_goes_before_it(moves: list[str]) -> None:
    """Of a class of weight w no more later ones pass a task than its own lag behind where the line stands allows."""
    line = Line(10_000, {name: TaskClass(weight=weight) for name, weight in WEIGHTS.items()})
    came: dict[int, int] = {}
    lag: dict[int, int] = {}
    passed: dict[int, dict[str, int]] = {}
    waiting: dict[int, str] = {}
    for at, move in enumerate(moves):
        if move in WEIGHTS:
            tagged = line.add(task(at, task_class=move))
            came[at], waiting[at], passed[at] = at, move, dict.fromkeys(WEIGHTS, 0)
            lag[at] = tagged.tag - line._stands
            continue
        one = next(line.turns(), None)
        if one is None:
            continue
        line.started(one)
        if move == "start and back":
            line.back(one)
            continue
        del waiting[one.id]
        for other in waiting:
            if came[other] < came[one.id]:
                passed[other][one.task_class] += 1
    for name, counts in passed.items():
        for task_class, count in counts.items():
            assert count <= lag[name] * WEIGHTS[task_class] // (1 << 20) + WEIGHTS[task_class] + 1


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["add", "start", "back", "leave"])), max_size=60)
)
def test_the_count_of_those_under_way_is_never_off(moves: list[tuple[int, str]]) -> None:
    line, known, where = Line(3, ONE), {}, {}  # type: ignore[var-annotated]
    for name, move in moves:
        if move == "add" and name not in where:
            known[name], where[name] = line.add(task(name)), "waits"
        elif move == "start" and where.get(name) == "waits" and line.may_start(""):
            line.started(known[name])
            where[name] = "under way"
        elif move == "back" and where.get(name) == "under way":
            line.back(known[name])
            where[name] = "waits"
        elif move == "leave" and name in where:
            line.left(known[name])
            del where[name]
        assert sorted(order(line)) == sorted(n for n, at in where.items() if at == "waits")
        assert line.under_way == line.count("") == sum(at == "under way" for at in where.values()) <= 3
