import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sdk.router.builders import RULE, opened

from leasehold.sdk.router.circuit import Circuit, CircuitRule, CircuitState, Step

SECOND = 1000


def test_a_few_failures_in_a_row_open_it_and_one_success_between_them_does_not() -> None:
    found = Circuit()
    for _ in range(RULE.failures - 1):
        found = found.failed(Step.ASK, 0, 0.5, RULE)
    assert found.permits(0)
    assert not found.failed(Step.ASK, 0, 0.5, RULE).permits(0)
    assert found.proved(Step.ASK, 0).failed(Step.ASK, 0, 0.5, RULE).permits(0)


def test_after_the_pause_one_trial_goes_and_its_success_closes_it() -> None:
    found = opened(step=Step.ASK)
    assert not found.permits(SECOND - 1)
    assert found.permits(SECOND)
    tried = found.started(7, SECOND)
    assert tried.trial == 7
    assert not tried.permits(SECOND)
    assert tried.proved(Step.ASK, SECOND, 7) == Circuit()


def test_a_trial_that_fails_opens_it_for_twice_as_long() -> None:
    found = opened().started(7, SECOND).failed(Step.ASK, SECOND, 1.0, RULE, 7)
    assert found.state(SECOND) == CircuitState.OPEN
    assert found.until == SECOND + 2 * SECOND
    assert found.trial is None


def test_a_trial_that_proves_nothing_lets_the_next_one_go() -> None:
    found = opened().started(7, SECOND)
    assert found.ended(8) == found
    assert found.ended(7).permits(SECOND)
    assert found.ended(7).openings == 1


def test_what_was_under_way_before_it_opened_neither_closes_it_nor_prolongs_the_pause() -> None:
    found = opened()
    assert found.proved(Step.HOLD, 10, task=3) == found
    assert found.failed(Step.ASK, 10, 1.0, RULE, task=3).until == found.until
    tried = found.started(7, SECOND)
    assert tried.proved(Step.HOLD, SECOND, task=3) == tried
    late = tried.failed(Step.HOLD, SECOND, 1.0, RULE, task=3)
    assert (late.until, late.trial, late.worst) == (tried.until, 7, Step.HOLD)


def test_a_pool_that_can_be_read_is_not_forgiven_for_losing_leases() -> None:
    found = opened(step=Step.HOLD).started(7, SECOND)
    assert found.proved(Step.LOOK, SECOND) == found
    assert found.proved(Step.ASK, SECOND, 7) == found
    assert found.proved(Step.HOLD, SECOND, 7) == Circuit()
    once = Circuit().failed(Step.ASK, 0, 0.5, RULE)
    assert once.proved(Step.LOOK, 0) == once


def test_a_look_that_succeeds_after_the_pause_closes_what_failed_looks_opened() -> None:
    found = opened(step=Step.LOOK)
    assert found.proved(Step.LOOK, SECOND - 1) == found
    assert found.proved(Step.LOOK, SECOND) == Circuit()
    assert found.failed(Step.LOOK, SECOND, 1.0, RULE).until == 3 * SECOND


def test_a_rule_that_makes_no_sense_is_refused() -> None:
    for wrong in ({"failures": 0}, {"first_pause": 0.0}, {"longest_pause": 0.5}, {"soon": -1.0}):
        with pytest.raises(ValueError, match="a circuit needs"):
            CircuitRule(**wrong)  # type: ignore[arg-type]


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_pauses_grow_to_a_bound_and_vary_within_their_upper_half(
    openings: int, chance: float, other: float
) -> None:
    pause = RULE.pause(openings, chance)
    assert 0 < pause <= 1000 * RULE.longest_pause
    assert RULE.pause(openings + 1, chance) >= pause
    assert 2 * RULE.pause(openings, other) >= pause - 1


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["start", "fail", "prove", "end"]), st.sampled_from(Step), st.integers(0, 30_000)
    ),
    max_size=40,
)


@given(EVENTS)
def test_while_it_is_not_closed_there_is_never_more_than_one_trial_and_it_always_comes_back(
    events: list[tuple[str, Step, int]],
) -> None:
    found, now, task = Circuit(), 0, 0
    trials: set[int] = set()
    for what, step, later in events:
        now += later
        if what == "start" and found.permits(now):
            task += 1
            found = found.started(task, now)
            if found.trial == task:
                trials.add(task)
        elif what == "fail":
            found = found.failed(step, now, 0.5, RULE, task or None)
        elif what == "prove":
            found = found.proved(step, now, task or None)
        else:
            found = found.ended(task)
        trials = {one for one in trials if found.trial == one}
        assert len(trials) <= 1
    # Whatever happened: once the trial has ended and the pause is over, somebody may go.
    assert found.ended(found.trial or 0).permits(now + 60_001)
