"""A forecast that costs little, tells few at a time, and answers dry runs first."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from tests.builders import at, clock, make_pool
from tests.rehearsal import Rehearsal

from leasehold.adapters import foresight
from leasehold.adapters.foresight import Foresight
from leasehold.core.forecast import Forecast
from leasehold.core.lease import Lease
from leasehold.core.quote import Offer


def nowhere(lease: Lease) -> Offer | None:
    return None


def full_pool(waiting: int = 3, **how: Any) -> Rehearsal:
    """A lease holds all of node-1 for an hour, and some wait for all of it, each for ten minutes."""
    pool = Rehearsal(make_pool(gracePeriodSeconds=0, **how))
    pool.ask("held", cpu="16", memory="1Gi", durationSeconds=3600)
    pool.look()
    for i in range(waiting):
        pool.ask(f"w{i:02d}", cpu="16", memory="1Gi", durationSeconds=600)
    pool.look()
    return pool


def finish(seer: Foresight, pool: Rehearsal, elsewhere: Any = nowhere) -> int:
    """Look until there is nothing to look at; return how many slices that took."""
    for slices in range(1000):
        if seer.look(pool.state, pool.now, elsewhere) is None:
            return slices
    raise AssertionError("it looks for ever")


def told(pool: Rehearsal, name: str) -> Any:
    return pool.lease(name).status.get("queue")


def test_those_who_wait_are_told_their_place_and_their_start() -> None:
    pool, seer = full_pool(), Foresight()
    assert told(pool, "w00") is None
    assert seer.next(pool.state) == 0
    assert finish(seer, pool) > 0
    assert seer.news
    pool.look()
    assert [told(pool, name) for name in ("w00", "w01", "w02")] == [
        {"approximatePosition": 1, "estimatedStartTime": clock("1h")},
        {"approximatePosition": 2, "estimatedStartTime": clock("1h10m")},
        {"approximatePosition": 3, "estimatedStartTime": clock("1h20m")},
    ]


def test_nothing_is_looked_at_while_nothing_changes_and_nobody_waits() -> None:
    pool, seer = full_pool(0), Foresight()
    assert seer.next(pool.state) is None
    assert seer.look(pool.state, pool.now, nowhere) is None
    pool, seer = full_pool(1), Foresight()
    finish(seer, pool)
    pool.look()
    pool.now = at("5m")
    finish(seer, pool)  # what was told came back as a change
    seer.news = False
    pool.look()
    assert seer.next(pool.state) is None
    assert seer.look(pool.state, at("10m"), nowhere) is None
    assert not seer.news


def test_a_change_is_looked_at_after_a_rest_and_the_same_estimates_are_told_to_nobody() -> None:
    pool, seer = full_pool(), Foresight()
    finish(seer, pool)
    pool.look()
    seer.news = False
    wake = seer.next(pool.state)
    assert wake is not None
    assert wake >= at("1s")
    assert seer.look(pool.state, at() + 10, nowhere) is None, "it rests"
    pool.now = wake
    assert finish(seer, pool) > 0
    assert not seer.news


def test_many_are_told_a_few_at_a_time_the_first_in_line_first() -> None:
    pool, seer = full_pool(40), Foresight()
    rounds = []
    for _ in range(10):
        finish(seer, pool)
        pool.look()
        rounds.append(sum(told(pool, f"w{i:02d}") is not None for i in range(40)))
        pool.now = max(pool.now, seer.next(pool.state) or pool.now)
    assert rounds[:3] == [16, 32, 40]
    assert rounds[-1] == 40
    assert told(pool, "w15") is not None


def test_a_long_look_rests_four_times_as_long_as_it_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr(foresight, "time", SimpleNamespace(perf_counter=lambda: 0.4 * next(ticks)))
    pool, seer = full_pool(), Foresight()
    spent = 0.0
    while (took := seer.look(pool.state, pool.now, nowhere, 5.0)) is not None:
        spent += took
    assert spent > 2, "more than one slice of a second"
    pool.state.changes += 1
    assert seer.next(pool.state) == at() + round(4000 * spent)


def test_a_dry_run_is_answered_before_estimates_are_refreshed_and_only_once() -> None:
    pool, seer = full_pool(), Foresight()
    finish(seer, pool)
    pool.ask("asks", cpu="16", memory="1Gi", mode="DryRun")
    pool.look()
    assert seer.next(pool.state) is not None
    finish(seer, pool, lambda lease: Offer("spare", at()))
    assert seer.quotes == {
        "uid-asks": (Offer("ci", at("1h30m"), ("node-1",), 1_000_000), Offer("spare", at()))
    }
    pool.quotes = seer.quotes
    pool.look()
    answer = pool.lease("asks").status
    assert answer["quote"]["startTime"] == clock("1h30m")
    assert answer["counterOffer"]["pool"] == "spare"
    seer.look(pool.state, pool.now, nowhere)
    pool.now = at("1h")
    finish(seer, pool)
    assert seer.quotes == {}


def test_nobody_asks_around_for_a_dry_run_that_could_start_now() -> None:
    pool, seer = Rehearsal(), Foresight()
    pool.ask("asks", mode="DryRun")
    pool.look()
    finish(seer, pool, pytest.fail)
    assert seer.quotes["uid-asks"][0].start == at()


def test_a_dry_run_that_is_gone_when_its_answer_comes_is_not_answered() -> None:
    pool, seer = full_pool(), Foresight()
    pool.ask("asks", cpu="16", mode="DryRun")
    pool.look()
    seer._looking = Forecast(pool.state, pool.now, list(pool.state.inquiries.values()))
    pool.state.forget("uid-asks")
    finish(seer, pool)
    assert seer.quotes == {}


def test_a_lease_with_a_promise_is_told_its_place_by_nobody_else() -> None:
    pool, seer = Rehearsal(), Foresight()
    pool.ask("later", startTime=clock("1h"))
    pool.look()
    finish(seer, pool)
    assert not seer.news
    writes = len(pool.writes)
    pool.look()
    assert len(pool.writes) == writes


def test_one_whose_start_nobody_knows_reads_only_its_place() -> None:
    pool, seer = full_pool(0, expirationAction="NotifyOnly"), Foresight()
    pool.ask("waits", cpu="16")
    pool.look()
    finish(seer, pool)
    pool.look()
    assert told(pool, "waits") == {"approximatePosition": 1}
