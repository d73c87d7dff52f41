from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    GIB,
    add_node,
    at,
    clock,
    edited,
    granted,
    make_lease,
    make_node,
    make_pool,
    make_report,
    make_state,
    pool_status,
)
from tests.rehearsal import Rehearsal

from leasehold.api.pool import Ledger
from leasehold.core.booking import Entry
from leasehold.core.forecast import Forecast
from leasehold.core.planning import Grant, entry_of
from leasehold.core.pool_status import figures_of, ledger_document, node_counts, waiting_rows
from leasehold.core.state import PoolState


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
        ([make_node()], "None", {"unenforced": True}, "False/EnforcementOff"),
        ([make_node()], "Hold", {"unenforced": True}, "False/EnforcementOff"),
        ([make_node()], "None", {"unenforced": True, "invalid": "spec.x"}, "False/InvalidSpec"),
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


# --- tenants ---

TEAMS = [
    {"name": "red", "guaranteed": {"cpu": "8"}, "weight": 2},
    {"name": "blue", "limit": {"cpu": "12"}},
]


def shared_pool(tenants: Any = TEAMS, **how: Any) -> Rehearsal:
    teams = {"team-r": "red", "team-b": "blue", "team-x": "none"}
    return Rehearsal(make_pool(tenants=tenants, **how), teams=teams)


def tenants_of(pool: Rehearsal) -> dict[str, Any]:
    return {row["name"]: row for row in pool_status(pool.state, now=pool.now)["tenants"]}


def test_each_tenant_reads_what_it_holds_who_waits_and_its_share() -> None:
    pool = shared_pool()
    pool.ask("a", cpu="4", memory="16Gi", namespace="team-r")
    pool.ask("b", cpu="4", memory="32Gi", namespace="team-b")
    pool.ask("c", cpu="9", memory="1Gi", namespace="team-b")
    pool.ask("d", cpu="9", memory="1Gi", namespace="team-x")
    pool.look()
    assert tenants_of(pool) == {
        "red": {
            "name": "red",
            "allocated": {"cpu": "4", "memory": "16Gi"},
            "leases": 1,
            "pending": 0,
            "sharePermille": 125,
        },
        "blue": {
            "name": "blue",
            "allocated": {"cpu": "4", "memory": "32Gi"},
            "leases": 1,
            "pending": 1,
            "sharePermille": 500,
        },
    }
    assert pool_status(pool.state)["leases"]["pending"] == 2
    assert pool.says("c") == "False/WaitingForQuota"
    assert pool.says("d", "Accepted") == "False/NamespaceNotAllowed"


def test_past_use_and_waste_are_told_where_they_count() -> None:
    pool = shared_pool(half_life=3600, fairness="DominantShareAndWaste")
    pool.ask("a", cpu="8", memory="1Gi", namespace="team-b", durationSeconds=3600)
    pool.until("1h")
    row = tenants_of(pool)["blue"]
    assert (row["sharePermille"], row["usagePermille"], row["wastePermille"]) == (500, 250, 0)
    pool.until("2h")
    row = tenants_of(pool)["blue"]
    assert row["sharePermille"] == 0
    assert 100 < row["usagePermille"] < 250


def test_tenants_that_were_taken_out_of_the_pool_leave_its_status() -> None:
    pool = shared_pool()
    before = pool_status(pool.state)
    status = pool_status(make_state(nodes=[make_node()]), before)
    assert status["tenants"] == []
    assert "tenants" not in pool_status(make_state())


def tenants_valid(tenants: Any) -> tuple[str, str]:
    found = {c["type"]: c for c in pool_status(shared_pool(tenants).state)["conditions"]}["TenantsValid"]
    return f"{found['status']}/{found['reason']}", found["message"]


def test_tenants_are_valid_where_they_are_apart_and_their_guarantees_can_be_kept() -> None:
    assert tenants_valid(TEAMS) == ("True/Valid", "")
    assert "TenantsValid" not in {c["type"] for c in pool_status(make_state())["conditions"]}


def test_tenants_that_overlap_are_named_with_a_namespace() -> None:
    everybody = {"name": "all", "namespaceSelector": {}}
    said_of_it, message = tenants_valid([*TEAMS, everybody])
    assert said_of_it == "False/TenantsOverlap"
    assert message.endswith("Namespace team-b is in blue, all; team-r is in red, all.")


def test_many_namespaces_of_two_tenants_are_counted() -> None:
    policy = make_pool(
        tenants=[{"name": "a", "namespaceSelector": {}}, {"name": "b", "namespaceSelector": {}}]
    )
    pool = Rehearsal(policy, teams={f"ns-{i}": "x" for i in range(8)})
    found = {c["type"]: c for c in pool_status(pool.state)["conditions"]}["TenantsValid"]
    assert found["message"].endswith("; ns-4 is in a, b, and 3 more.")


def test_guarantees_above_what_there_is_are_named() -> None:
    said_of_it, message = tenants_valid([*TEAMS, {"name": "green", "guaranteed": {"cpu": "9"}}])
    assert said_of_it == "False/GuaranteesExceedCapacity"
    assert message == "The tenants are guaranteed 17 of cpu, where the pool lends 16."


def test_a_guarantee_of_what_the_pool_does_not_lend_is_named() -> None:
    said_of_it, message = tenants_valid([{"name": "red", "guaranteed": {"nvidia.com/gpu": "1"}}])
    assert said_of_it == "False/GuaranteesExceedCapacity"
    assert message == "The pool does not lend nvidia.com/gpu."


# --- who waits ---


def test_those_who_wait_are_listed_with_their_place_and_expected_start() -> None:
    pool = shared_pool(gracePeriodSeconds=0)
    pool.ask("held", cpu="12", memory="1Gi", namespace="team-b", durationSeconds=3600)
    pool.look()
    pool.ask("b", cpu="6", memory="1Gi", namespace="team-b", count=2)
    pool.ask("r", cpu="6", memory="1Gi", namespace="team-r", priority=1)
    pool.ask("later", cpu="2", memory="1Gi", namespace="team-r", startTime=clock("3h"))
    pool.look()
    look = Forecast(pool.state, pool.now)
    while not look.look():
        pass
    pool.state.answers = look.answers
    rows = waiting_rows(pool.state, 0, 10)
    assert [(row["position"], row["name"], row["tenant"], row["estimatedStartTime"]) for row in rows] == [
        (1, "r", "red", clock("1h")),
        (2, "later", "red", clock("3h")),
        (3, "b", "blue", clock("2h")),
    ]
    assert rows[2] == {
        "position": 3,
        "namespace": "team-b",
        "name": "b",
        "uid": "uid-b",
        "tenant": "blue",
        "priority": 0,
        "resources": {"cpu": "6", "memory": "1Gi"},
        "count": 2,
        "reason": "WaitingForQuota",
        "estimatedStartTime": clock("2h"),
    }
    assert [row["position"] for row in waiting_rows(pool.state, 0, 10, "team-b")] == [3]
    assert [row["name"] for row in waiting_rows(pool.state, 1, 1)] == ["later"]
    assert waiting_rows(pool.state, 5, 5) == []


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["team-r", "team-b"]), st.sampled_from([1, 2, 3]), st.sampled_from([0, 0, 5])
        ),
        min_size=1,
        max_size=12,
    ),
    before=st.lists(st.sampled_from(["team-r", "team-b"]), max_size=3),
)
@settings(max_examples=80, derandomize=True, deadline=None)
def test_the_order_in_which_those_who_wait_are_listed_is_the_order_in_which_they_are_granted(
    rows: list[tuple[str, int, int]], before: list[str]
) -> None:
    pool = Rehearsal(
        make_pool(tenants=[{"name": "red", "guaranteed": {"cpu": "8"}, "weight": 2}, {"name": "blue"}]),
        [make_node(cpu="64")],
        teams={"team-r": "red", "team-b": "blue"},
    )
    for i, namespace in enumerate(before):
        pool.ask(f"h{i}", cpu="3", memory="1Gi", namespace=namespace)
    pool.look()
    for i, (namespace, cpu, priority) in enumerate(rows):
        pool.ask(f"l{i:02d}", cpu=str(cpu), memory="1Gi", namespace=namespace, priority=priority)
    listed = [row["uid"] for row in waiting_rows(pool.state, 0, 100)]
    assert [grant.lease.uid for grant in pool.decide().grants] == listed


def test_promised_starts_are_counted_and_room_that_is_being_made_is_not() -> None:
    pool = Rehearsal(make_pool(gracePeriodSeconds=60, preemption={"withinTenant": "LowerPriority"}))
    pool.ask("held", cpu="16")
    pool.look()
    pool.ask("urgent", cpu="2", priority=1)
    pool.ask("later", cpu="2", startTime=clock("2h"))
    pool.look()
    assert pool.says("urgent") == "False/WaitingForVictims"
    found = pool_status(pool.state)["leases"]
    assert (found["pending"], found["scheduled"], found["held"]) == (1, 1, 1)


def test_a_promise_in_flight_tells_its_start_and_end() -> None:
    entry = Entry("u", "ns", "n", 1, {"cpu": 1000}, ("n1",), not_after=at("1h"), start=at("2h"), end=at("3h"))
    (row,) = ledger_document(1, 1, [entry])["inFlight"]
    assert (row["startTime"], row["endTime"], row["notAfterTime"]) == (clock("2h"), clock("3h"), clock("1h"))
    Ledger.model_validate(ledger_document(1, 1, [entry]), extra="forbid")


def test_who_gives_up_while_its_promise_is_committed_is_neither_waiting_nor_less_than_that() -> None:
    state = make_state(nodes=[make_node()])
    lease = make_lease("later", startTime=clock("2h"))
    state.observe(lease)
    state.observe(edited(lease, desiredState="Released"))
    state.assume(entry_of(Grant(lease, ("node-1",), until=at("3h"), start=at("2h")), 1))
    found = pool_status(state)["leases"]
    assert (found["pending"], found["scheduled"]) == (0, 0)
