from typing import Any

import pytest
from tests.builders import (
    GIB,
    add_node,
    at,
    clock,
    granted,
    make_lease,
    make_node,
    make_pool,
    make_report,
    make_state,
    pool_status,
)

from leasehold.api.pool import Ledger
from leasehold.core.pool_status import figures_of, ledger_document, node_counts
from leasehold.core.state import Entry, PoolState


def said(state: PoolState, type_: str, **facts: Any) -> str:
    found = {c["type"]: c for c in pool_status(state, **facts)["conditions"]}[type_]
    return f"{found['status']}/{found['reason']}"


def test_figures_sum_the_nodes() -> None:
    policy = make_pool({"name": "cpu", "source": "Allocatable", "reserved": "1", "allocationPercent": 200})
    state = make_state(
        policy,
        [make_node("a", cpu="8"), make_node("b", cpu="4"), make_node("c", cpu="2", cordoned=True)],
        [granted(nodes=["a"], memory=None, cpu="3")],
    )
    figures = figures_of(state)[0]
    assert (figures.total, figures.reserved, figures.allocatable) == (14_000, 3000, 22_000)
    assert (figures.allocated, figures.free, figures.largest_free) == (3000, 11_000 + 6000, 11_000)


def test_what_is_allocatable_does_not_move_with_load() -> None:
    state = make_state(make_pool({"name": "cpu"}))
    for used in ("0", "15"):
        add_node(state, make_node(), make_report(cpu=used))
        assert figures_of(state)[0].allocatable == 16_000
    assert figures_of(state)[0].free == 1000


def test_a_node_in_debt_takes_nothing_from_what_others_have_free() -> None:
    state = make_state(
        nodes=[make_node("a", cpu="1"), make_node("b", cpu="4")], leases=[granted(nodes=["a"])]
    )
    assert (figures_of(state)[0].free, figures_of(state)[0].largest_free) == (4000, 4000)


def test_a_pool_without_nodes_has_nothing() -> None:
    status = pool_status(make_state())
    assert {row["free"] for row in status["capacity"]} == {"0"}
    assert status["nodes"]["total"] == 0


def test_sums_beyond_any_quantity_do_not_stop_the_pool() -> None:
    gpu = {"name": "cpu", "source": "Fixed", "fixedQuantity": "1P", "allocationPercent": 1000}
    status = pool_status(make_state(make_pool(gpu), [make_node(f"n{i}") for i in range(9)]))
    assert status["capacity"][0]["allocatable"] == "9223372036854775807m"


def test_nodes_are_counted_by_why_they_may_not_lend() -> None:
    state = make_state(make_pool({"name": "cpu"}, max_usage=50))
    add_node(state, make_node("ok"), make_report("ok"))
    add_node(state, make_node("down", not_ready_since="-1m"), make_report("down"))
    add_node(state, make_node("cordoned", cordoned=True), make_report("cordoned"))
    add_node(state, make_node("excluded"), make_report("excluded", state="Excluded"))
    add_node(state, make_node("silent"))
    add_node(state, make_node("stale"), make_report("stale", time="-1d"))
    add_node(state, make_node("early"), make_report("early", time="1d"))
    add_node(state, make_node("busy"), make_report("busy", cpu="9"))
    assert pool_status(state)["nodes"] == {
        "total": 8,
        "grantable": 1,
        "notReady": 1,
        "cordoned": 2,
        "stale": 3,
        "pressured": 1,
        "conflicting": 0,
    }
    assert node_counts(state)[""] == 1


def test_leases_are_counted_by_where_they_stand() -> None:
    state = make_state(nodes=[make_node()], leases=[granted(name="held"), make_lease("waiting")])
    assert pool_status(state)["leases"] == {
        "pending": 1,
        "scheduled": 0,
        "held": 1,
        "releasing": 0,
        "quarantined": 0,
    }


@pytest.mark.parametrize(
    ("nodes", "stop", "facts", "ready"),
    [
        ([make_node()], "None", {}, "True/Serving"),
        ([], "None", {}, "False/NoNodes"),
        ([make_node(cordoned=True)], "None", {}, "False/NoGrantableNodes"),
        ([make_node()], "Hold", {}, "False/PoolHeld"),
        ([make_node()], "HoldAndDrain", {}, "False/PoolDraining"),
        ([make_node()], "None", {"deleting": True}, "False/PoolDraining"),
        ([make_node()], "None", {"mismatches": ["a"]}, "False/LedgerInconsistent"),
        ([make_node()], "None", {"invalid": "spec.x"}, "False/InvalidSpec"),
    ],
)
def test_ready_says_whether_leases_are_granted(nodes: Any, stop: str, facts: Any, ready: str) -> None:
    assert said(make_state(make_pool(stop=stop), nodes), "Ready", **facts) == ready


@pytest.mark.parametrize(
    ("report", "known"),
    [
        (make_report(), "True/AllReported"),
        (None, "False/ReportMissing"),
        (make_report(time="-1d"), "False/ReportStale"),
        (make_report(time="1d"), "False/ReportFromFuture"),
    ],
)
def test_capacity_is_known_when_every_node_reported(report: Any, known: str) -> None:
    state = make_state(make_pool({"name": "cpu"}))
    add_node(state, make_node(), report)
    assert said(state, "CapacityKnown") == known


def test_capacity_of_no_nodes_is_not_known() -> None:
    assert said(make_state(), "CapacityKnown") == "False/NoNodes"


def test_a_pool_that_holds_more_than_it_has_says_where() -> None:
    leases = [granted(name=f"l{i}", nodes=[f"n{i}"], token=i + 1) for i in range(5)]
    state = make_state(nodes=[make_node(f"n{i}", cpu="1") for i in range(5)], leases=leases)
    found = {c["type"]: c for c in pool_status(state)["conditions"]}["Overcommitted"]
    assert (found["status"], found["message"]) == ("True", "Held beyond capacity on n0, n1, n2 and 2 more.")
    assert said(make_state(nodes=[make_node()]), "Overcommitted") == "False/WithinCapacity"


@pytest.mark.parametrize(
    ("mismatches", "said_of_it"),
    [(None, "Unknown/NotChecked"), ([], "True/Consistent"), (["x" * 2000], "False/Mismatch")],
)
def test_the_books_are_unchecked_then_right_or_wrong(mismatches: Any, said_of_it: str) -> None:
    assert said(make_state(nodes=[make_node()]), "LedgerConsistent", mismatches=mismatches) == said_of_it


def test_draining_says_why() -> None:
    assert said(make_state(), "Draining") == "False/NotDraining"
    assert said(make_state(), "Draining", deleting=True) == "True/PoolDeleted"
    assert said(make_state(make_pool(stop="HoldAndDrain")), "Draining") == "True/StopPolicy"


def test_degraded_names_the_worst_that_ails_the_nodes() -> None:
    state = make_state(make_pool({"name": "cpu"}, max_usage=50))
    assert said(state, "Degraded") == "False/Healthy"
    add_node(state, make_node("busy"), make_report("busy", cpu="9"))
    assert said(state, "Degraded") == "True/NodesPressured"
    add_node(state, make_node("down", not_ready_since="-1m"))
    assert said(state, "Degraded") == "True/NodesNotReady"
    verdict = state.table.rows["down"].verdict._replace(reason="NodeConflicting")
    state.put_node("down", {}, verdict)
    assert said(state, "Degraded") == "True/NodesConflicting"


def test_a_status_that_says_the_same_is_the_same_later_on() -> None:
    state = make_state(nodes=[make_node()])
    before = pool_status(state)
    assert pool_status(state, before, at("5m")) == before
    assert pool_status(state, before, at("5m"), generation=2)["conditions"][0]["observedGeneration"] == 2


def test_the_transition_time_moves_with_the_status_of_a_condition() -> None:
    before = pool_status(make_state())
    after = pool_status(make_state(nodes=[make_node()]), before, at("5m"))
    times = {c["type"]: c["lastTransitionTime"] for c in after["conditions"]}
    assert (times["Ready"], times["Draining"]) == (clock("5m"), clock())


def test_a_condition_that_somebody_else_keeps_on_the_pool_stays() -> None:
    theirs = {
        "type": "Billed",
        "status": "True",
        "reason": "Paid",
        "message": "",
        "lastTransitionTime": clock(),
    }
    before = {"conditions": [theirs]}
    assert pool_status(make_state(), before)["conditions"][-1] == theirs


def test_the_ledger_is_written_as_the_api_has_it() -> None:
    entry = Entry("uid-a", "team-a", "a", 7, {"cpu": 1500, "memory": GIB}, ("n1", "n1"))
    document = ledger_document(3, 7, [entry])
    assert document == {
        "epoch": 3,
        "sequence": 7,
        "inFlight": [
            {
                "uid": "uid-a",
                "namespace": "team-a",
                "name": "a",
                "sequence": 7,
                "resources": {"cpu": "1500m", "memory": "1Gi"},
                "nodes": ["n1", "n1"],
            }
        ],
    }
    Ledger.model_validate(document, extra="forbid")
