"""Dry runs: where and when, at whose cost; else the nearest thing that can be had. Nothing is ever committed."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import at, clock, condition, edited, make_lease, make_node, make_pool, make_state
from tests.rehearsal import Rehearsal

from leasehold.core.forecast import Forecast
from leasehold.core.policy import PoolPolicy
from leasehold.core.quote import Offer, best, load_of, why_best


def asked(
    pool: Rehearsal, name: str = "asks", *, elsewhere: Offer | None = None, **how: Any
) -> dict[str, Any]:
    """Ask the pool what it could give; return the status that answers."""
    lease = pool.ask(name, mode="DryRun", **{"memory": "1Gi", **how})
    pool.look()
    state = pool.state
    look = Forecast(state, pool.now, [state.inquiries[lease.uid]])
    while not look.look():
        pass
    start, nodes = look.answers.starts.get(lease.uid), look.answers.nodes.get(lease.uid, ())
    held, promised = len(state.ledger), dict(state.calendar.promises)
    pool.quotes[lease.uid] = Offer(state.name, start, nodes, load_of(state)), elsewhere
    pool.look()
    assert (len(state.ledger), state.calendar.promises) == (held, promised)
    assert lease.uid not in pool.starts()
    answer = pool.lease(name)
    assert condition(answer, "Finished") == "True/DryRunComplete"
    assert condition(answer, "Released") == "True/NotRequired"
    assert condition(answer, "Allocated") == condition(answer, "Ready") == "False/DryRun"
    return dict(answer.status)


def held(pool: Rehearsal, name: str = "held", **how: Any) -> None:
    pool.ask(name, **{"memory": "1Gi", "durationSeconds": 3600, **how})
    pool.look()
    assert pool.says(name) == "True/Granted"


def pool_of(*nodes: Any, **how: Any) -> Rehearsal:
    return Rehearsal(make_pool(gracePeriodSeconds=60, **how), nodes)


def message(status: dict[str, Any]) -> str:
    return next(str(c["message"]) for c in status["conditions"] if c["type"] == "Allocated")


# --- quotes ---


def test_what_fits_now_is_quoted_with_its_nodes() -> None:
    status = asked(pool_of(make_node("a"), make_node("b", cpu="8")), cpu="12")
    assert status["quote"] == {"pool": "ci", "startTime": clock(), "nodes": ["a"]}
    assert "counterOffer" not in status
    assert message(status) == "It would start now. Nothing was committed."
    assert status["release"]["cause"] == "DryRun"


def test_what_fits_later_is_quoted_with_its_time() -> None:
    pool = pool_of()
    held(pool, cpu="12")
    status = asked(pool, cpu="8")
    assert status["quote"] == {"pool": "ci", "startTime": clock("1h1m"), "nodes": ["node-1"]}
    assert message(status) == (
        f"It would start at {clock('1h1m')}, if nobody comes or goes before. Nothing was committed."
    )


def test_a_quote_waits_its_turn_behind_those_who_wait_already() -> None:
    pool = pool_of(queue="StrictFIFO")
    held(pool, cpu="12")
    pool.ask("first", cpu="10", memory="1Gi", durationSeconds=600)
    pool.look()
    status = asked(pool, cpu="10")
    assert status["quote"]["startTime"] == clock("1h12m"), "the first, its grace, then this one"


def test_a_quote_for_a_start_in_the_future() -> None:
    pool = pool_of()
    held(pool, cpu="12", durationSeconds=1800)
    status = asked(pool, cpu="8", startTime=clock("1h"))
    assert status["quote"]["startTime"] == clock("1h")


def test_a_quote_names_whom_it_would_cost_its_room() -> None:
    pool = pool_of(preemption={"withinTenant": "LowerPriority"})
    held(pool, "a", cpu="10")
    pool.until("1s")
    held(pool, "b", cpu="6")
    status = asked(pool, cpu="5", priority=3)
    assert status["quote"] == {
        "pool": "ci",
        "startTime": clock("1m1s"),
        "nodes": ["node-1"],
        "victims": ["team-a/b"],
    }
    assert message(status) == f"It would start at {clock('1m1s')}, at the cost of 1 other leases."
    assert pool.says("b", "DisruptionTarget") == ""


def test_nobody_is_named_where_waiting_is_as_quick() -> None:
    pool = pool_of(preemption={"withinTenant": "LowerPriority"})
    held(pool, "long", cpu="8")
    held(pool, "short", cpu="8", durationSeconds=60)
    pool.until("1m30s")
    assert "victims" not in asked(pool, cpu="8", priority=3)["quote"]


# --- counter-offers ---


def test_fewer_slices_are_offered_where_they_keep_most_of_it() -> None:
    cpu, memory = (
        {"name": "cpu", "source": "Allocatable", "min": "5"},
        {"name": "memory", "source": "Allocatable"},
    )
    pool = Rehearsal(make_pool(cpu, memory, gracePeriodSeconds=60))
    held(pool, cpu="5")
    status = asked(pool, cpu="5", count=3)
    assert status["counterOffer"] == {
        "kind": "Smaller",
        "resources": {"cpu": "5", "memory": "1Gi"},
        "count": 2,
        "startTime": clock("1h1m"),
    }


def test_thinner_slices_keep_the_pools_steps_and_minimum() -> None:
    rows = (
        {"name": "cpu", "source": "Allocatable", "step": "2", "min": "4"},
        {"name": "memory", "source": "Allocatable"},
    )
    pool = Rehearsal(make_pool(*rows, gracePeriodSeconds=60), [make_node(cpu="15")])
    held(pool, cpu="4")
    offer = asked(pool, cpu="14", memory="14Gi")["counterOffer"]
    assert (offer["kind"], offer["count"], offer["resources"]["cpu"]) == ("Smaller", 1, "10")
    held(pool, "more", cpu="8")
    offer = asked(pool, "again", cpu="14", memory="14Gi")["counterOffer"]
    assert offer == {"kind": "Later", "startTime": clock("1h1m")}


def test_less_than_half_is_no_offer_where_waiting_helps() -> None:
    pool = pool_of()
    held(pool, cpu="12")
    offer = asked(pool, cpu="12")["counterOffer"]
    assert offer["kind"] == "Later"
    assert offer["startTime"] == clock("1h1m")


def test_anything_is_an_offer_where_no_end_makes_enough_room() -> None:
    status = asked(pool_of(), cpu="64")
    assert "quote" not in status
    assert status["counterOffer"]["kind"] == "Smaller"
    assert status["counterOffer"]["resources"]["cpu"] == "16"
    assert message(status) == "It would not start: no known end makes enough room. See status.counterOffer."


def test_nothing_is_offered_where_nothing_can_be() -> None:
    pool = pool_of(make_node(cordoned=True))
    status = asked(pool, cpu="1")
    assert not {"quote", "counterOffer"} & status.keys()


def test_another_pool_that_has_it_all_now_is_the_better_offer() -> None:
    pool = pool_of()
    held(pool, cpu="12")
    offer = asked(pool, cpu="8", elsewhere=Offer("spare", at()))["counterOffer"]
    assert (offer["kind"], offer["pool"], offer["startTime"]) == ("OtherPool", "spare", clock("1h1m"))


def test_another_pool_is_not_named_where_this_one_can_start_now() -> None:
    assert "counterOffer" not in asked(pool_of(), cpu="8", elsewhere=Offer("spare", at()))


@pytest.mark.parametrize("mode", ["SameNode", "DistinctNodes", "Any"])
def test_what_is_offered_as_smaller_is_granted_when_it_is_asked_for(mode: str) -> None:
    pool = pool_of(make_node("a", cpu="8"), make_node("b", cpu="6"), make_node("c", cpu="3"))
    held(pool, cpu="4")
    pool.ask("later", cpu="6", memory="1Gi", startTime=clock("30m"))
    pool.look()
    how: dict[str, Any] = {"placement": {"mode": mode}, "durationSeconds": 3600}
    offer = asked(pool, cpu="4", count=3, **how)["counterOffer"]
    assert offer["count"] * int(offer["resources"]["cpu"].removesuffix("m")) > 0
    pool.ask("takes", resources=offer["resources"], count=offer["count"], **how)
    pool.look()
    assert pool.says("takes") == "True/Granted"


# --- pools that cannot answer ---


def test_a_held_pool_answers_once_it_lends_again() -> None:
    pool = Rehearsal(make_pool(stop="Hold"))
    pool.ask("asks", mode="DryRun")
    pool.look()
    assert pool.says("asks") == "False/PoolHeld"
    assert not pool.lease("asks").finished
    assert len(pool.writes) == 1


def test_a_dry_run_that_is_given_up_or_being_written_gets_no_answer() -> None:
    pool = pool_of()
    lease = pool.ask("asks", mode="DryRun")
    pool.quotes[lease.uid] = Offer("ci", at()), None
    pool.state.busy.add(lease.uid)
    assert pool.decide().changes == ()
    pool.state.busy.clear()
    pool.change(edited(lease, desiredState="Released"))
    pool.look()
    assert pool.says("asks", "Finished") == "True/Released"


def test_a_dry_run_that_the_policy_does_not_allow_reads_why() -> None:
    pool = pool_of()
    pool.ask("asks", mode="DryRun", resources={"gpu": "1"})
    pool.look()
    assert pool.says("asks", "Accepted") == "False/ResourceNotOffered"


# --- which pool ---


def test_the_earliest_start_is_best_then_the_emptiest_pool_then_the_first_by_name() -> None:
    a, b, c = Offer("a", at("1h"), load=0), Offer("b", at(), load=9), Offer("c", at("-1m"), load=5)
    never, level = Offer("0", None), Offer("ab", at("1h"), load=0)
    assert best([a, b, c, never], at()) == c, "a start that has come is as good as any other"
    assert best([a, b], at()) == b
    assert best([level, a, never], at()) == a
    assert best([never], at()) == never
    assert best([], at()) is None


@pytest.mark.parametrize(
    ("offers", "text"),
    [
        ([Offer("a", at(), load=120_000)], "Pool a of 1 matching pool: it can start now."),
        (
            [Offer("a", at(), load=120_000), Offer("b", at(), load=130_000)],
            "Pool a of 2 matching pools: it can start now, the least loaded of 2 (12 %).",
        ),
        (
            [Offer("a", at("1h")), Offer("b", at("2h"))],
            f"Pool a of 2 matching pools: the earliest start, {clock('1h')}.",
        ),
        ([Offer("a", None)], "Pool a of 1 matching pool: no pool can tell a start."),
    ],
)
def test_a_choice_says_why(offers: list[Offer], text: str) -> None:
    assert why_best(offers[0], offers, at()) == text


def test_the_load_is_the_largest_share_of_any_resource() -> None:
    pool = pool_of(make_node("a", cpu="8"), make_node("b", cpu="8"))
    assert load_of(pool.state) == 0
    held(pool, cpu="4", memory="64Gi")
    assert load_of(pool.state) == 500_000
    policy: PoolPolicy = make_pool()
    assert load_of(make_state(policy, leases=[make_lease()])) == 0, "a pool without nodes is not loaded"
