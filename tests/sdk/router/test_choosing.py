from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sdk.router.builders import figures, opened, quoted, sick, target, task

from leasehold.sdk.router.choosing import (
    QUOTE_AGE,
    Ask,
    Decision,
    GiveUp,
    Mode,
    Start,
    Wait,
    affinity,
    decide,
    load,
)
from leasehold.sdk.router.circuit import Circuit, Step
from leasehold.sdk.router.facts import Facts, Need, Quote

NEED = Need.of(cpu=1000)


def chosen(decision: Decision) -> str:
    assert isinstance(decision, Start), decision
    return decision.target


# --- who may be chosen at all ---


def test_a_sick_pool_is_passed_over_and_a_lone_sick_pool_is_waited_for() -> None:
    assert chosen(decide(task(), [sick("a"), target("b")], Mode.EARLIEST, 0)) == "b"
    found = decide(task(), [sick("a", "PoolHeld")], Mode.EARLIEST, 0)
    assert found == Wait(None, "no target is in use: a grants nothing (PoolHeld)")


def test_where_all_circuits_are_open_it_is_decided_again_when_the_first_may_be_tried() -> None:
    slow = Circuit(failures=4, worst=Step.ASK, openings=2, until=9000)
    found = decide(task(), [target("a", circuit=slow), target("b", circuit=opened())], Mode.SPREAD, 0)
    assert isinstance(found, Wait)
    assert found.until == 1000
    assert "left alone for 9.0 s" in found.why


def test_one_that_is_being_tried_is_waited_for() -> None:
    tried = opened().started(5, 1000)
    found = decide(task(), [target("a", circuit=tried)], Mode.EARLIEST, 1000)
    assert found == Wait(None, "no target is in use: a is being tried")


def test_a_task_that_every_target_refused_is_given_up() -> None:
    found = decide(task(excluded=frozenset({"a"})), [target("a")], Mode.EARLIEST, 0)
    assert found == GiveUp("every target has refused it")
    assert decide(task(), [], Mode.EARLIEST, 0) == GiveUp("there is no target")


def test_a_target_with_as_many_tasks_as_it_may_have_is_waited_for() -> None:
    found = decide(task(), [target("a", limit=2, running=1, starting=1)], Mode.EARLIEST, 0)
    assert found == Wait(None, "a has as many tasks as it may have")


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
        target("a", free=0, quotes={NEED: Quote(60_000, 0)}),
        target("b", free=0, quotes={NEED: Quote(60_000, 1)}),
    ]
    assert decide(task(), targets, Mode.EARLIEST, QUOTE_AGE) == Ask(("a",))


def test_the_only_target_in_use_is_not_asked() -> None:
    assert chosen(decide(task(), [sick("a"), target("b", free=0)], Mode.EARLIEST, 0)) == "b"
    assert chosen(decide(task(), [target("a", cpu=10), target("b", free=0)], Mode.EARLIEST, 0)) == "b"


def test_where_no_target_can_tell_a_start_the_least_loaded_has_it() -> None:
    quotes = quoted({"a": None, "b": None}, NEED)
    targets = [target("a", free=0, pending=2, quotes=quotes["a"]), target("b", free=0, quotes=quotes["b"])]
    assert chosen(decide(task(), targets, Mode.EARLIEST, 0)) == "b"


def test_a_pool_that_cannot_be_read_is_asked_too() -> None:
    targets = [target("a", free=0), Facts(name="b")]
    assert decide(task(), targets, Mode.EARLIEST, 0) == Ask(("a", "b"))


# --- load ---


def test_load_counts_what_is_lent_what_was_sent_and_what_others_wait_for() -> None:
    assert load(NEED, target("a", free=6000)) == 250_000
    assert load(NEED, target("a", free=6000, assumed={"cpu": 2000})) == 500_000
    assert load(NEED, target("a", free=6000, pending=3, starting=1, assumed={"cpu": 1000})) == 625_000
    assert load(Need.of(gpu=1), target("a")) > load(NEED, target("a", free=0, pending=1000))
    assert load(NEED, Facts(name="a")) == 1_000_000


def test_least_loaded_chooses_by_load_among_pools_that_are_large_enough() -> None:
    targets = [target("a", free=4000), target("b", free=6000), target("c", cpu=500)]
    assert chosen(decide(task(), targets, Mode.LEAST_LOADED, 0)) == "b"


def test_spread_counts_this_routers_own_tasks_by_weight() -> None:
    targets = [target("a", running=3, weight=4), target("b", running=1)]
    assert chosen(decide(task(), targets, Mode.SPREAD, 0)) == "a"
    targets = [target("a", running=4, weight=4), target("b", starting=1, free=7000), target("c", running=1)]
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

AMOUNTS = st.integers(0, 4000)
CIRCUITS = st.builds(
    Circuit,
    failures=st.integers(0, 5),
    worst=st.sampled_from(Step),
    openings=st.integers(0, 3),
    until=st.integers(0, 20_000),
    trial=st.none() | st.integers(100, 102),
)
NEEDS = st.builds(lambda cpu, count: Need.of(count, cpu=cpu), st.integers(1, 3000), st.integers(1, 3))


@st.composite
def facts(draw: st.DrawFn, name: str, need: Need) -> Facts:
    cpu = draw(AMOUNTS)
    return Facts(
        name=name,
        weight=draw(st.integers(1, 5)),
        limit=draw(st.none() | st.integers(1, 3)),
        figures=draw(
            st.none()
            | st.builds(
                figures, st.just(cpu), st.integers(0, cpu), ready=st.booleans(), pending=st.integers(0, 3)
            )
        ),
        circuit=draw(CIRCUITS),
        starting=draw(st.integers(0, 2)),
        running=draw(st.integers(0, 2)),
        assumed={"cpu": draw(AMOUNTS)},
        quotes=draw(
            st.dictionaries(
                st.just(need), st.builds(Quote, st.none() | st.integers(0, 50_000), st.integers(0, 20_000))
            )
        ),
    )


@given(st.data(), NEEDS, st.sampled_from(Mode), st.integers(0, 20_000), st.booleans())
def test_never_an_open_circuit_a_sick_pool_a_full_target_or_one_that_refused(
    data: st.DataObject, need: Need, mode: Mode, now: int, sticky: bool
) -> None:
    names = ["a", "b", "c", "d"][: data.draw(st.integers(0, 4))]
    targets = [data.draw(facts(name, need)) for name in names]
    excluded = frozenset(data.draw(st.sets(st.sampled_from(names)))) if names else frozenset()
    one = task(cpu=1, sticky="k" if sticky else None, excluded=excluded)
    one = type(one)(id=1, need=need, sticky=one.sticky, excluded=excluded)
    found = decide(one, targets, mode, now)
    by_name = {target.name: target for target in targets}
    may = {
        name
        for name, target in by_name.items()
        if name not in excluded and target.healthy and target.circuit.permits(now)
    }
    if isinstance(found, Start):
        assert found.target in may
        assert not by_name[found.target].full
    elif isinstance(found, Ask):
        assert set(found.targets) <= may
        # Once they have answered, whatever they say, there is a choice: nobody asks for ever.
        answered = [
            target
            if target.name not in found.targets
            else type(target)(
                **{
                    **{field: getattr(target, field) for field in target.__dataclass_fields__},
                    "quotes": {need: Quote(data.draw(st.none() | st.integers(0, 9)), now)},
                }
            )
            for target in targets
        ]
        assert isinstance(decide(one, answered, mode, now), Start)
    elif isinstance(found, Wait):
        # Whoever waits has a target that will do later, and is woken no later than the first pause ends.
        assert set(by_name) - excluded
        assert sticky or not any(not by_name[name].full for name in may)
        assert found.until is None or found.until > now
    else:
        assert not set(by_name) - excluded
