"""A tenant's leases stay no longer than its limit leaves place for the starts that it was promised."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import at, clock, edited, make_node, make_pool
from tests.rehearsal import Rehearsal

TEAMS = {"team-a": "blue", "team-b": "red"}


def pool_of(*, terms: dict[str, Any] | None = None, **limit: Any) -> Rehearsal:
    tenants = [{"name": "blue", **limit}, {"name": "red"}]
    policy = make_pool(gracePeriodSeconds=0, tenants=tenants, **(terms or {}))
    return Rehearsal(policy, [make_node("n1"), make_node("n2")], teams=TEAMS)


def renew(pool: Rehearsal, *names: str) -> None:
    for name in names:
        pool.change(edited(pool.lease(name), renewTime=clock("9m")))
    pool.look()


def end(pool: Rehearsal, name: str) -> int | None:
    return pool.lease(name).deadline("expirationTime")


def promised(pool: Rehearsal) -> Rehearsal:
    """One lease is held until 10m, and another one was promised a start at 15m."""
    pool.ask("held", cpu="2", durationSeconds=600)
    pool.look()
    pool.ask("later", cpu="2", startTime=clock("15m"), durationSeconds=600)
    return pool.until("9m")


@pytest.mark.parametrize("limit", [{"maxLeases": 1}, {"limit": {"cpu": "3"}}])
def test_no_renewal_takes_the_place_of_a_promised_start_within_the_limit(limit: dict[str, Any]) -> None:
    pool = promised(pool_of(**limit))
    renew(pool, "held")
    assert end(pool, "held") == at("15m")
    assert pool.says("held", "ExpiringSoon") == "True/PromisedStart"
    pool.until("15m")
    assert pool.starts()["uid-later"] == at("15m")


def test_where_such_a_renewal_is_refused_the_present_term_stays() -> None:
    pool = promised(pool_of(maxLeases=1, terms={"promiseConflictAction": "Refuse"}))
    renew(pool, "held")
    assert end(pool, "held") == at("10m")


@pytest.mark.parametrize("limit", [{}, {"maxLeases": 2}, {"limit": {"cpu": "4"}}])
def test_a_limit_that_has_place_for_both_cuts_nothing(limit: dict[str, Any]) -> None:
    pool = promised(pool_of(**limit))
    renew(pool, "held")
    assert end(pool, "held") == at("19m")


def test_of_two_that_renew_at_once_one_finds_the_place_taken() -> None:
    pool = pool_of(maxLeases=2)
    for name in ("first", "second"):
        pool.ask(name, cpu="2", durationSeconds=600)
    pool.ask("other", cpu="2", durationSeconds=600, namespace="team-b")
    pool.look()
    pool.ask("later", cpu="2", startTime=clock("15m"), durationSeconds=600)
    pool.until("9m")
    for name in ("first", "second", "other"):
        pool.change(edited(pool.lease(name), renewTime=clock("9m")))
    pool.look()
    assert sorted([end(pool, "first"), end(pool, "second")]) == [at("15m"), at("19m")]
    assert end(pool, "other") == at("19m"), "another tenant's limit is its own"


def test_what_is_written_late_leaves_its_place_in_time() -> None:
    pool = pool_of(maxLeases=1)
    pool.ask("late", cpu="2", durationSeconds=600)
    (entry,) = pool.commit(pool.decide())
    pool.ask("later", cpu="2", startTime=clock("10m"), durationSeconds=600)
    pool.look()
    pool.now = at("2m")
    pool.write(entry)
    assert end(pool, "late") == at("10m")
    pool.until("10m")
    assert pool.starts()["uid-later"] == at("10m")
