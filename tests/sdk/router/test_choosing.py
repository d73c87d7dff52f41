from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sdk.router.builders import FIGURES, INSTANTS, NEEDS, facts, opened, quoted, sick, target, task

from leasehold.sdk.router.choosing import (
    Ask,
    Decision,
    GiveUp,
    Look,
    Mode,
    Start,
    Wait,
    affinity,
    decide,
    load,
)
from leasehold.sdk.router.circuit import Circuit, Step
from leasehold.sdk.router.facts import LOOK_AGE, LOOK_PATIENCE, QUOTE_AGE, Facts, Need, Quote, Task

NEED = Need.of(cpu=1000)


def chosen(decision: Decision) -> str:
    assert isinstance(decision, Start), decision
    return decision.target


# --- who may be chosen at all ---


def test_a_sick_pool_is_passed_over_and_a_lone_sick_pool_is_waited_for() -> None:
    assert chosen(decide(task(), [sick("a"), target("b")], Mode.EARLIEST, 0)) == "b"
    found = decide(task(), [sick("a", "PoolHeld")], Mode.EARLIEST, 0)
    assert found == Wait(LOOK_AGE, "no target is in use: a grants nothing (PoolHeld)")


def test_where_all_circuits_are_open_it_is_decided_again_when_the_first_may_be_tried() -> None:
    slow = Circuit(failures=4, worst=Step.ASK, openings=2, until=9000)
    found = decide(task(), [target("a", circuit=slow), target("b", circuit=opened())], Mode.SPREAD, 0)
    assert isinstance(found, Wait)
    assert found.until == 1000
    assert "left alone for 9.0 s" in found.why


def test_one_that_is_being_tried_is_waited_for() -> None:
    tried = opened().started(5, 1000)
    found = decide(task(), [target("a", circuit=tried, looked=1000)], Mode.EARLIEST, 1000)
    assert found == Wait(None, "no target is in use: a is being tried")


def test_a_task_that_every_target_refused_is_given_up() -> None:
    found = decide(task(excluded=frozenset({"a"})), [target("a")], Mode.EARLIEST, 0)
    assert found == GiveUp("every target has refused it")
    assert decide(task(), [], Mode.EARLIEST, 0) == GiveUp("there is no target")


def test_a_target_with_as_many_tasks_as_it_may_have_is_waited_for() -> None:
    found = decide(task(), [target("a", limit=2, running=1, starting=1)], Mode.EARLIEST, 0)
    assert found == Wait(None, "a: as many tasks as there may be")


def test_a_pool_is_looked_at_before_anything_rests_on_figures_that_are_old() -> None:
    targets = [target("a"), target("b", looked=LOOK_AGE)]
    assert decide(task(), targets, Mode.EARLIEST, LOOK_AGE) == Look(("a",), LOOK_AGE + LOOK_PATIENCE)


def test_nobody_waits_long_for_a_pool_that_does_not_answer() -> None:
    hangs = target("a", free=8000, looked=0, looking=5000)
    now = 5000 + LOOK_PATIENCE
    asked = decide(task(), [hangs, target("b", looked=now)], Mode.EARLIEST, now - 1)
    assert asked == Look(("a",), now)
    assert chosen(decide(task(), [hangs, target("b", free=0, looked=now)], Mode.EARLIEST, now)) == "b"
    assert decide(task(), [hangs], Mode.EARLIEST, now) == Wait(None, "no target is in use: a does not answer")


def test_where_a_lease_was_lost_before_others_are_tried_first() -> None:
    avoids = task(avoid=frozenset({"a"}))
    assert chosen(decide(avoids, [target("a"), target("b", free=0)], Mode.EARLIEST, 0)) == "b"
    assert chosen(decide(avoids, [target("a"), sick("b")], Mode.EARLIEST, 0)) == "a"


# --- the earliest start ---


def test_of_those_that_start_it_now_the_least_loaded_has_it() -> None:
    targets = [target("a", free=2000), target("b", free=6000), target("c", free=500)]
    assert chosen(decide(task(), targets, Mode.EARLIEST, 0)) == "b"


def test_what_was_sent_there_since_counts_although_the_figures_do_not_show_it() -> None:
    targets = [target("a", free=5000, assumed={"cpu": 4500}), target("b", free=2000)]
    assert chosen(decide(task(), targets, Mode.EARLIEST, 0)) == "b"


def test_a_pool_where_others_wait_starts_nothing_now() -> None:
    targets = [target("a", free=8000, pending=1), target("b", free=1000)]
    assert chosen(decide(task(), targets, Mode.EARLIEST, 0)) == "b"


def test_a_slice_must_fit_on_one_node() -> None:
    targets = [target("a", free=8000, largest_free={"cpu": 900}), target("b", free=1000)]
    assert chosen(decide(task(), targets, Mode.EARLIEST, 0)) == "b"


def test_all_slices_must_fit_in_all() -> None:
    targets = [target("a", free=2500), target("b", free=3000)]
    assert chosen(decide(task(count=3), targets, Mode.EARLIEST, 0)) == "b"


def test_where_none_starts_it_now_those_large_enough_are_asked() -> None:
    targets = [target("a", free=0), target("b", free=0), target("c", cpu=500, free=500)]
    assert decide(task(), targets, Mode.EARLIEST, 0) == Ask(("a", "b"))


def test_the_earliest_start_that_was_quoted_wins() -> None:
    quotes = quoted({"a": 60_000, "b": 20_000, "c": None}, NEED)
    targets = [target(name, free=0, quotes=quotes[name]) for name in quotes]
    found = decide(task(), targets, Mode.EARLIEST, 0)
    assert found == Start("b", "the earliest start, in 20 s")


def test_starts_that_are_nearly_alike_are_told_apart_by_load() -> None:
    quotes = quoted({"a": 20_000, "b": 23_000}, NEED)
    targets = [target("a", free=0, pending=4, quotes=quotes["a"]), target("b", free=0, quotes=quotes["b"])]
    assert chosen(decide(task(), targets, Mode.EARLIEST, 0)) == "b"


def test_an_old_quote_is_asked_for_anew() -> None:
    targets = [
        target("a", free=0, quotes={NEED: Quote(60_000, 0)}, looked=QUOTE_AGE),
        target("b", free=0, quotes={NEED: Quote(60_000, 1)}, looked=QUOTE_AGE),
    ]
    assert decide(task(), targets, Mode.EARLIEST, QUOTE_AGE) == Ask(("a",))


def test_a_quote_is_used_up_by_the_tasks_that_went_there() -> None:
    spent = Quote(20_000, 0, uses=0)
    targets = [
        target("a", free=0, quotes={NEED: spent}),
        target("b", free=0, quotes={NEED: Quote(60_000, 0)}),
    ]
    assert decide(task(), targets, Mode.EARLIEST, 0) == Ask(("a",))


def test_a_pool_whose_last_look_failed_is_not_in_use() -> None:
    targets = [target("a", answered=False), target("b", free=0)]
    assert chosen(decide(task(), targets, Mode.EARLIEST, 0)) == "b"
    found = decide(task(), targets[:1], Mode.EARLIEST, 0)
    assert found == Wait(LOOK_AGE, "no target is in use: a does not answer")


def test_the_only_target_in_use_is_not_asked() -> None:
    assert chosen(decide(task(), [sick("a"), target("b", free=0)], Mode.EARLIEST, 0)) == "b"
    assert chosen(decide(task(), [target("a", cpu=10), target("b", free=0)], Mode.EARLIEST, 0)) == "b"


def test_where_no_target_can_tell_a_start_the_least_loaded_has_it() -> None:
    quotes = quoted({"a": None, "b": None}, NEED)
    targets = [target("a", free=0, pending=2, quotes=quotes["a"]), target("b", free=0, quotes=quotes["b"])]
    assert chosen(decide(task(), targets, Mode.EARLIEST, 0)) == "b"


def test_a_pool_that_cannot_be_read_is_asked_too() -> None:
    targets = [target("a", free=0), Facts(name="b", looked=0)]
    assert decide(task(), targets, Mode.EARLIEST, 0) == Ask(("a", "b"))


# --- load ---


def test_load_counts_what_is_lent_what_was_sent_what_others_wait_for_and_the_task_itself() -> None:
    assert load(NEED, target("a", free=6000)) == 375_000
    assert load(NEED, target("a", free=6000, assumed={"cpu": 2000})) == 625_000
    assert load(NEED, target("a", free=6000, pending=3, starting=1, assumed={"cpu": 1000})) == 750_000
    assert load(Need.of(gpu=1), target("a")) > load(NEED, target("a", free=0, pending=1000))
    assert load(NEED, Facts(name="a")) == 1_000_000


def test_of_empty_pools_the_larger_one_is_the_less_loaded() -> None:
    assert chosen(decide(task(), [target("a", cpu=2000), target("b")], Mode.EARLIEST, 0)) == "b"


def test_least_loaded_chooses_by_load_among_pools_that_are_large_enough() -> None:
    targets = [target("a", free=4000), target("b", free=6000), target("c", cpu=500)]
    assert chosen(decide(task(), targets, Mode.LEAST_LOADED, 0)) == "b"


def test_spread_counts_this_routers_own_tasks_by_weight() -> None:
    targets = [target("a", running=3, weight=4), target("b", running=1)]
    assert chosen(decide(task(), targets, Mode.SPREAD, 0)) == "a"
    assert chosen(decide(task(), [target("a"), target("b", weight=2)], Mode.SPREAD, 0)) == "b"
    targets = [target("a", running=7, weight=4), target("b", starting=1, free=7000), target("c", running=1)]
    assert chosen(decide(task(), targets, Mode.SPREAD, 0)) == "a"


# --- sticky ---


def test_a_key_stays_where_it_is_in_every_mode_while_another_pool_is_emptier() -> None:
    for mode in Mode:
        found = {
            chosen(decide(task(sticky="k"), [target("a", free=free), target("b", free=8000 - free)], mode, 0))
            for free in (0, 4000, 8000)
        }
        assert len(found) == 1


def test_a_key_waits_for_its_own_target_when_that_is_full_and_leaves_it_when_it_is_sick() -> None:
    home = chosen(decide(task(sticky="k"), [target("a"), target("b")], Mode.STICKY, 0))
    other = "b" if home == "a" else "a"
    full = [target(home, limit=1, running=1), target(other)]
    assert isinstance(decide(task(sticky="k"), full, Mode.STICKY, 0), Wait)
    assert chosen(decide(task(sticky="k"), [sick(home), target(other)], Mode.STICKY, 0)) == other


def test_a_task_without_a_key_goes_where_it_starts_first_in_the_sticky_mode() -> None:
    assert chosen(decide(task(), [target("a", free=0), target("b")], Mode.STICKY, 0)) == "b"


def homes(names: list[str], weights: dict[str, int] | None = None, keys: int = 300) -> dict[str, str]:
    targets = [target(name, weight=(weights or {}).get(name, 1)) for name in names]
    return {f"key-{i}": chosen(decide(task(sticky=f"key-{i}"), targets, Mode.STICKY, 0)) for i in range(keys)}


@given(st.sets(st.text("abcdefgh/", min_size=1, max_size=6), min_size=2, max_size=6), st.data())
def test_a_target_that_goes_takes_only_its_own_keys_away(names: set[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(names)))
    before, after = homes(sorted(names), keys=60), homes(sorted(names - {gone}), keys=60)
    moved = {key for key in before if before[key] != after[key]}
    assert moved == {key for key in before if before[key] == gone}


def test_keys_are_spread_by_weight() -> None:
    found = Counter(homes(["a", "b", "c"], {"c": 4}, keys=3000).values())
    assert found["c"] == pytest.approx(2000, abs=200)
    assert found["a"] == pytest.approx(500, abs=120)


def test_names_that_run_together_are_told_apart() -> None:
    assert affinity("ab", "c") != affinity("a", "bc")


# --- laws ---


@given(st.data(), NEEDS, st.sampled_from(Mode), st.integers(0, 20_000), st.sampled_from([None, "k"]))
@settings(deadline=None)
def test_never_an_open_circuit_a_sick_pool_a_full_target_or_one_that_refused(
    data: st.DataObject, need: Need, mode: Mode, now: int, sticky: str | None
) -> None:
    names = ["a", "b", "c", "d"][: data.draw(st.integers(0, 4))]
    known = {name: data.draw(facts(name, need)) for name in names}
    excluded = frozenset(name for name in names if data.draw(st.booleans()))
    one = Task(id=1, need=need, sticky=sticky, excluded=excluded)
    for _ in range(3):
        found = decide(one, tuple(known.values()), mode, now)
        permitted = {name for name in known if name not in excluded and known[name].circuit.permits(now)}
        if isinstance(found, Look):
            assert set(found.targets) <= permitted
            assert now < found.until
            answers = {name: data.draw(st.none() | FIGURES) for name in found.targets}
            known |= {
                name: replace(known[name], figures=answer, answered=True, looked=now, looking=None)
                for name, answer in answers.items()
            }
        elif isinstance(found, Ask):
            assert set(found.targets) <= permitted
            known |= {
                name: replace(known[name], quotes={need: Quote(data.draw(INSTANTS), now)})
                for name in found.targets
            }
        else:
            break
    # Once they have answered, whatever they say, there is a choice: nobody looks or asks for ever.
    assert not isinstance(found, (Look, Ask))
    in_use = {name for name in permitted if known[name].healthy and not known[name].stale(now)}
    if isinstance(found, Start):
        assert found.target in in_use
        assert not known[found.target].full
    elif isinstance(found, Wait):
        assert set(known) - excluded
        assert sticky or all(known[name].full for name in in_use)
        assert found.until is None or found.until > now
    else:
        assert not set(known) - excluded
