from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sdk.router.builders import facts, opened, sick, target, task

from leasehold.sdk.router.choosing import Mode
from leasehold.sdk.router.facts import LOOK_AGE, QUOTE_USES, SETTLED, Asking, Facts, Need, Quote, Task
from leasehold.sdk.router.line import Line, TaskClass
from leasehold.sdk.router.planning import Plan, after_start, plan

ONE = {"": TaskClass()}


def line_of(*tasks: tuple[int, str], limit: int = 100, **classes: TaskClass) -> Line:
    line = Line(limit, classes or ONE)
    for name, task_class in tasks:
        line.add(task(name, task_class=task_class))
    return line


def some(count: int, limit: int = 100) -> Line:
    return line_of(*((name, "") for name in range(count)), limit=limit)


def by_name(*targets: Facts) -> dict[str, Facts]:
    return {one.name: one for one in targets}


def sent(found: Plan) -> Counter[str]:
    return Counter(start.target for _, start in found.starts)


def test_each_start_is_assumed_for_those_behind_it() -> None:
    found = plan(some(6), by_name(target("a", cpu=4000), target("b", cpu=2000)), Mode.EARLIEST, 0)
    assert sent(found) == {"a": 4, "b": 2}
    assert not found.questions


def test_what_fits_nowhere_now_has_its_targets_asked_and_those_behind_it_go() -> None:
    line = Line(10, ONE)
    line.add(task(1, cpu=3000))
    line.add(task(2, cpu=500))
    found = plan(line, by_name(target("a", cpu=4000, free=1000), target("b", free=0)), Mode.EARLIEST, 0)
    assert [one.id for one, _ in found.starts] == [2]
    assert found.questions == {("a", Need.of(cpu=3000)), ("b", Need.of(cpu=3000))}


def test_a_burst_asks_again_before_all_of_it_has_gone_to_the_pool_that_was_first() -> None:
    need = Need.of(cpu=1000)
    targets = by_name(
        target("a", free=0, quotes={need: Quote(5_000, 0)}),
        target("b", free=0, quotes={need: Quote(60_000, 0)}),
    )
    found = plan(some(50), targets, Mode.EARLIEST, 0)
    assert sent(found) == {"a": QUOTE_USES}
    assert found.questions == {("a", need)}


def test_no_more_start_than_may_be_under_way() -> None:
    line = some(5, limit=3)
    line.started(next(line.turns()))
    found = plan(line, by_name(target("a")), Mode.EARLIEST, 0)
    assert [one.id for one, _ in found.starts] == [1, 2]


def test_where_every_target_is_full_the_line_is_not_gone_through() -> None:
    found = plan(some(5), by_name(target("a", limit=1, running=1)), Mode.EARLIEST, 0)
    assert (found.starts, found.waits, found.wake_at) == ([], {}, None)


def test_a_class_at_its_limit_does_not_hold_up_another() -> None:
    line = line_of((1, "a"), (2, "a"), (3, "b"), a=TaskClass(limit=1), b=TaskClass())
    found = plan(line, by_name(target("x")), Mode.EARLIEST, 0)
    assert {one.id for one, _ in found.starts} == {1, 3}
    assert list(found.waits.values()) == ["1 tasks of class 'a' are under way, as many as may be"]


def test_a_circuit_that_may_be_tried_gets_one_trial() -> None:
    found = plan(some(3), by_name(target("a", circuit=opened(), looked=1000)), Mode.EARLIEST, 1000)
    assert len(found.starts) == 1


def test_it_is_looked_again_when_the_first_pause_is_over() -> None:
    found = plan(some(3), by_name(target("a", circuit=opened()), sick("b")), Mode.EARLIEST, 0)
    assert (found.starts, found.wake_at) == ([], 1000)


def test_tasks_that_all_targets_refused_are_given_up() -> None:
    line = Line(4, ONE)
    line.add(task(1, excluded=frozenset("a")))
    found = plan(line, by_name(target("a")), Mode.EARLIEST, 0)
    assert [one.id for one, _ in found.gives_up] == [1]


def test_the_line_and_the_facts_stay_as_they_are() -> None:
    line, targets = some(3), by_name(target("a"))
    assert plan(line, targets, Mode.EARLIEST, 0).starts == plan(line, targets, Mode.EARLIEST, 0).starts


# --- those that wait at a target already ---


def waiting_at(where: str, stuck: bool = False, **more: Any) -> list[Asking]:
    return [Asking(task(7, **more), where, 0, stuck)]


def test_who_waits_at_a_pool_that_fell_sick_is_taken_back_if_another_would_have_it() -> None:
    ill, well = sick("a"), target("b")
    moved = plan(some(0), by_name(ill, well), Mode.EARLIEST, 0, waiting_at("a"))
    assert [one.id for one in moved.moves] == [7]
    for other in (sick("b"), target("b", limit=1, running=1), target("b", circuit=opened())):
        assert not plan(some(0), by_name(ill, other), Mode.EARLIEST, 0, waiting_at("a")).moves
    refused = waiting_at("a", excluded=frozenset("b"))
    assert not plan(some(0), by_name(ill, well), Mode.EARLIEST, 0, refused).moves


def test_who_waits_at_a_pool_that_is_well_stays_and_the_pool_is_looked_at_now_and_then() -> None:
    targets = by_name(target("a", free=0, pending=5), target("b"))
    found = plan(some(0), targets, Mode.EARLIEST, 0, waiting_at("a"))
    assert (found.moves, found.looks, found.wake_at) == ([], set(), LOOK_AGE)
    assert plan(some(0), targets, Mode.EARLIEST, LOOK_AGE, waiting_at("a")).looks == {"a"}


def test_who_has_waited_for_a_while_goes_where_it_starts_at_once() -> None:
    here = target("a", free=0, pending=5, looked=SETTLED)
    other = target("b", looked=SETTLED)
    at = waiting_at("a")
    assert not plan(some(0), by_name(here, other), Mode.EARLIEST, SETTLED - 1, at).moves
    assert plan(some(0), by_name(here, other), Mode.EARLIEST, SETTLED, at).moves
    busy = target("b", free=0, looked=SETTLED)
    assert not plan(some(0), by_name(here, busy), Mode.EARLIEST, SETTLED, at).moves
    keyed = waiting_at("a", sticky="k")
    assert not plan(some(0), by_name(here, other), Mode.EARLIEST, SETTLED, keyed).moves
    old = plan(some(0), by_name(here, target("b")), Mode.EARLIEST, SETTLED, at)
    assert (old.moves, old.looks) == ([], {"b"})


def test_a_pool_that_waiters_are_at_is_looked_at_when_it_may_be_and_nobody_wakes_for_what_is_past() -> None:
    closed = by_name(target("a", circuit=opened()))
    found = plan(some(0), closed, Mode.EARLIEST, 500, waiting_at("a"))
    assert (found.looks, found.wake_at) == (set(), 1000)
    ill = by_name(sick("a"))
    assert plan(some(0), ill, Mode.EARLIEST, 500, waiting_at("a")).wake_at == LOOK_AGE
    assert plan(some(0), ill, Mode.EARLIEST, LOOK_AGE, waiting_at("a")).looks == {"a"}


@given(st.data(), st.integers(0, 20_000), st.sampled_from(Mode))
@settings(deadline=None)
def test_it_never_wakes_for_what_is_past(data: st.DataObject, now: int, mode: Mode) -> None:
    """A router that did would go round and round without a pause."""
    need = Need.of(cpu=1000)
    known = by_name(*(data.draw(facts(name, need)) for name in "abc"))
    instants = st.none() | st.integers(0, now)
    known = {
        name: replace(one, looked=data.draw(instants), looking=data.draw(instants))
        for name, one in known.items()
    }
    asking = [
        Asking(task(100 + i), name, data.draw(st.integers(0, now)), data.draw(st.booleans()))
        for i, name in enumerate(data.draw(st.lists(st.sampled_from("abc"), max_size=4)))
    ]
    found = plan(some(data.draw(st.integers(0, 3))), known, mode, now, asking)
    assert found.wake_at is None or found.wake_at > now


def test_no_more_go_there_than_start_at_once() -> None:
    waiting = [Asking(task(name), "a") for name in range(5)]
    targets = by_name(target("a", free=0, pending=5, looked=SETTLED), target("b", free=2000, looked=SETTLED))
    assert len(plan(some(0), targets, Mode.EARLIEST, SETTLED, waiting).moves) == 2


def test_who_hears_nothing_is_taken_back_if_another_would_have_it() -> None:
    targets = by_name(target("a"), target("b"))
    assert plan(some(0), targets, Mode.EARLIEST, 0, waiting_at("a", stuck=True)).moves
    assert not plan(some(0), by_name(target("a")), Mode.EARLIEST, 0, waiting_at("a", stuck=True)).moves


def test_who_waits_where_others_fail_is_taken_back_but_the_trial_stays() -> None:
    closed = by_name(target("a", circuit=opened()), target("b"))
    assert plan(some(0), closed, Mode.EARLIEST, 0, waiting_at("a")).moves
    tried = by_name(target("a", circuit=opened().started(7, 1000), looked=1000), target("b", looked=1000))
    assert not plan(some(0), tried, Mode.EARLIEST, 1000, waiting_at("a")).moves


def test_no_more_are_taken_back_than_another_target_may_have() -> None:
    waiting = [Asking(task(name), "a") for name in range(5)]
    found = plan(some(0), by_name(sick("a"), target("b", limit=2)), Mode.EARLIEST, 0, waiting)
    assert len(found.moves) == 2


def test_before_anybody_is_moved_the_other_pool_is_looked_at_and_asked() -> None:
    old = plan(some(0), by_name(sick("a"), target("b", looked=None)), Mode.EARLIEST, 0, waiting_at("a"))
    assert (old.moves, old.looks) == ([], {"b"})
    full = by_name(sick("a"), target("b", free=0), target("c", free=0))
    asked = plan(some(0), full, Mode.EARLIEST, 0, waiting_at("a"))
    assert {name for name, _ in asked.questions} == {"b", "c"}


@given(st.integers(0, 2**32), st.sampled_from(Mode))
@settings(deadline=None)
def test_no_bound_is_ever_passed_and_everyone_is_served(seed: int, mode: Mode) -> None:
    """Play a router to the end: tasks come, are started as planned, and end in any order."""
    chance = Random(seed)
    limits = {"a": TaskClass(limit=chance.randint(1, 3)), "b": TaskClass(weight=3)}
    line = Line(chance.randint(1, 5), limits)
    facts = by_name(*(target(name, cpu=100_000, limit=chance.choice([None, 1, 2])) for name in "xy"))
    to_come, served = chance.randint(1, 30), set()
    under_way: dict[int, tuple[Task, str]] = {}
    while to_come or len(line) or under_way:
        for _ in range(min(to_come, chance.randint(0, 4))):
            to_come -= 1
            line.add(task(to_come, task_class=chance.choice("ab"), sticky=chance.choice([None, "k", "l"])))
        for one, start in plan(line, facts, mode, 0).starts:
            line.started(one)
            facts[start.target] = after_start(facts[start.target], one, 0)
            under_way[one.id] = one, start.target
        assert line.under_way <= line.limit
        assert line.count("a") <= (limits["a"].limit or 0)
        assert all(one.limit is None or one.starting + one.running <= one.limit for one in facts.values())
        # Work-conserving: who waits, waits for somebody who will end.
        assert under_way or not len(line)
        if under_way:
            ended, at = under_way.pop(chance.choice(sorted(under_way)))
            line.left(ended)
            facts[at] = replace(facts[at], starting=facts[at].starting - 1)
            served.add(ended.id)
    assert served == set(range(max(served) + 1))
