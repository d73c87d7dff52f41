from __future__ import annotations

from typing import Any

from tests.sdk.router.builders import RULE, task

from leasehold.sdk.errors import PoolNotFound
from leasehold.sdk.router.circuit import CircuitState, Step
from leasehold.sdk.router.facts import LOOK_AGE, Quote
from leasehold.sdk.router.targets import SHOWN, Health, Post, Target, figures_of
from leasehold.sdk.views import PoolView


def view(cpu: str = "8", free: str = "8", ready: str = "True", pending: int = 0) -> PoolView:
    return PoolView.of(
        {
            "metadata": {"name": "ci"},
            "status": {
                "conditions": [{"type": "Ready", "status": ready, "reason": "Serving"}],
                "capacity": [
                    {"name": "cpu", "allocatable": cpu, "allocated": "0", "free": free, "largestFree": free},
                    {"name": "memory", "allocatable": "8Gi", "allocated": "6Gi", "free": "2Gi"},
                ],
                "leases": {"pending": pending},
            },
        }
    )


def post(**more: Any) -> Post:
    return Post(Target(None, "ci", **more), RULE)  # type: ignore[arg-type] - nobody is asked here


def test_figures_are_whole_units_and_capacity_is_rounded_down() -> None:
    found = figures_of(view(free="1500.5m", pending=3))
    assert found.free == {"cpu": 1500, "memory": 2 * 1024**3}
    assert (found.ready, found.pending) == (True, 3)


def test_what_was_sent_there_is_assumed_until_a_look_begins_that_must_show_it() -> None:
    one, at = task(cpu=2000, count=2), post()
    at.saw(view(), 0, 0)
    at.started(one, 10)
    assert at.facts().assumed == {"cpu": 4000}
    at.saw(view(), 5000, 5000)
    assert at.facts().assumed == {"cpu": 4000}, "it has not been granted"
    at.granted(one, 6000)
    at.saw(view(), 6000 + SHOWN - 1, 9000)
    assert at.facts().assumed == {"cpu": 4000}
    at.saw(view(), 6000 + SHOWN, 9000)
    assert at.facts().assumed == {}
    at.left(one.id)
    assert (at.facts().starting, at.facts().running) == (0, 0)


def test_who_leaves_leaves_nothing_assumed_and_no_trial() -> None:
    one, at = task(), post()
    for _ in range(RULE.failures):
        at.failed(Step.ASK, 0, 0.0)
    at.started(one, 60_000)
    assert at.circuit.trial == one.id
    at.left(one.id)
    at.left(one.id)
    assert at.facts().assumed == {}
    assert at.circuit.trial is None


def test_its_state_is_told_in_one_word() -> None:
    at = post()
    assert at.state(0).health is Health.UNKNOWN
    at.saw(view(), 0, 0)
    found = at.state(500)
    assert (found.health, found.reason, found.load, found.age) == (Health.HEALTHY, "Serving", 75, 0.5)
    at.saw(view(ready="False"), 0, 0)
    assert at.state(0).health is Health.SICK
    at.missed("no answer", 0, 0.5)
    found = at.state(0)
    assert (found.health, found.message, found.circuit) == (
        Health.UNREACHABLE,
        "no answer",
        CircuitState.CLOSED,
    )
    for _ in range(2):
        at.missed("no answer", 0, 1.0)
    found = at.state(400)
    assert (found.health, found.reason, found.failures, found.retry_in) == (
        Health.FAILING,
        "LookFailed",
        3,
        0.6,
    )
    at.saw(view(), 1000, 1000)
    assert at.state(1000).health is Health.HEALTHY
    at.out_of_order(PoolNotFound("no such pool"), 1000)
    found = at.state(1000)
    assert (found.health, found.reason, found.message) == (
        Health.MISCONFIGURED,
        "PoolNotFound",
        "no such pool",
    )
    assert found.load is None
    at.hidden("may not be read", 60_000)
    assert (at.state(1000).health, at.state(1000).message) == (Health.HEALTHY, "may not be read")
    assert not at.facts().stale(1000 + LOOK_AGE), "it is not asked again soon"


def test_one_that_does_not_answer_while_it_is_looked_at_is_not_called_healthy() -> None:
    at = post()
    at.saw(view(), 0, 0)
    at.looking = 1500
    assert at.state(2400).health is Health.HEALTHY, "decisions wait for the answer"
    found = at.state(2500)
    assert (found.health, found.message) == (Health.UNREACHABLE, "No answer for 1.0 s.")
    at.looking = None
    at.saw(view(), 2600, 2600)
    assert at.state(2600).health is Health.HEALTHY


def test_why_it_fails_is_told_for_as_long_as_it_is_not_forgiven() -> None:
    at = post()
    for _ in range(RULE.failures):
        at.last_error = "the lease was revoked"
        at.failed(Step.HOLD, 0, 1.0)
    at.saw(view(), 1000, 1000)
    assert (at.state(1000).health, at.state(1000).message) == (Health.FAILING, "the lease was revoked")
    at.started(task(), 1000)
    at.proved(Step.HOLD, 1000, task().id)
    at.saw(view(), 2000, 2000)
    assert (at.state(2000).health, at.state(2000).message) == (Health.HEALTHY, "")


def test_quotes_are_kept_by_need_used_up_and_thrown_away_when_they_are_old() -> None:
    one, at = task(), post()
    at.said(one.need, Quote(5000, 0, uses=2))
    at.started(one, 0)
    assert at.facts().quotes[one.need].uses == 1
    for cpu in range(1, 600):
        at.said(task(cpu=cpu).need, Quote(None, 100_000 * cpu))
    assert len(at.quotes) <= 257


def test_a_target_is_called_by_its_name_or_by_its_pool() -> None:
    assert Target(None, "ci").label == "ci"  # type: ignore[arg-type]
    assert Target(None, "ci", name="east").label == "east"  # type: ignore[arg-type]
