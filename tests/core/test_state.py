from dataclasses import replace

from tests.builders import (
    GIB,
    NOON,
    add_node,
    at,
    edited,
    ending,
    granted,
    make_lease,
    make_node,
    make_pool,
    make_report,
    make_state,
)
from tests.rehearsal import Rehearsal

from leasehold.core.audit import audit
from leasehold.core.booking import Entry, holding_state
from leasehold.core.lease import Lease
from leasehold.core.ledger import HELD, QUARANTINED, RELEASING, Holding
from leasehold.core.request import NEVER
from leasehold.core.state import PoolState


def entry_for(lease: Lease, *nodes: str, sequence: int = 1) -> Entry:
    return Entry(lease.uid, lease.namespace, lease.name, sequence, dict(lease.request), nodes or ("node-1",))


def held(state: PoolState, node: str = "node-1") -> int:
    return state.table.rows[node].held[0]


# --- leases ---


def test_a_waiting_lease_queues_and_a_granted_one_holds() -> None:
    state = make_state(nodes=[make_node()])
    waiting = make_lease()
    assert state.observe(waiting)
    assert [request.uid for request in state.queue] == ["uid-build"]
    state.observe(edited(granted(waiting)))
    assert not list(state.queue)
    assert held(state) == 2000
    assert state.attention == {"uid-build"}
    assert audit(state) == []


def test_an_older_version_of_a_lease_is_ignored() -> None:
    state = make_state(nodes=[make_node()], leases=[granted(version=5)])
    assert not state.observe(make_lease(version=4))
    assert held(state) == 2000
    assert state.attention == set()


def test_the_queue_stays_in_order_when_priorities_change() -> None:
    first, second = make_lease("a", age="9m"), make_lease("b")
    state = make_state(leases=[second, first])
    assert [request.uid for request in state.queue] == ["uid-a", "uid-b"]
    state.observe(edited(second, priority=1))
    assert [request.uid for request in state.queue] == ["uid-b", "uid-a"]
    assert audit(state) == []


def test_what_a_forgotten_lease_held_is_free() -> None:
    state = make_state(nodes=[make_node()], leases=[granted(), make_lease("next")])
    state.forget("uid-build")
    state.forget("uid-next")
    state.forget("uid-nobody")
    assert held(state) == 0
    assert not list(state.queue)
    assert audit(state) == []


def test_a_complete_list_removes_what_it_does_not_name_unless_it_was_seen_later() -> None:
    state = make_state(
        nodes=[make_node()], leases=[granted(name="old", version=5), granted(name="new", version=50)]
    )
    state.replace([make_lease("other", version=8)], list_version=10)
    assert state.leases.keys() == {"uid-new", "uid-other"}
    assert audit(state) == []


def test_sessions_are_known_by_the_leases_that_name_them_now() -> None:
    lease = make_lease(holder={"sessionRef": {"name": "one"}})
    state = make_state(leases=[lease])
    assert state.sessions == {("team-a", "one"): {"uid-build"}}
    state.observe(edited(lease, holder={"sessionRef": {"name": "two"}}))
    assert state.sessions == {("team-a", "two"): {"uid-build"}}
    state.forget("uid-build")
    assert state.sessions == {}


# --- commitments ---


def test_a_commitment_counts_before_its_lease_is_written() -> None:
    lease = make_lease()
    state = make_state(nodes=[make_node()], leases=[lease])
    state.assume(entry_for(lease))
    assert held(state) == 2000
    state.observe(edited(lease, priority=1))  # news of the lease do not take the commitment back
    assert held(state) == 2000
    assert audit(state) == []


def test_once_settled_the_leases_own_status_speaks() -> None:
    lease = make_lease()
    state = make_state(nodes=[make_node()], leases=[lease])
    state.assume(entry_for(lease))
    state.observe(edited(granted(lease)))
    assert audit(state) == []
    state.settle(lease.uid)
    assert (held(state), state.entries) == (2000, {})
    assert lease.uid in state.attention


def test_a_commitment_that_was_undone_is_free_again() -> None:
    lease = make_lease()
    state = make_state(nodes=[make_node()], leases=[lease])
    state.assume(entry_for(lease))
    state.settle(lease.uid)
    assert held(state) == 0
    assert [request.uid for request in state.queue] == [lease.uid]


def test_a_commitment_outlives_its_lease_until_it_is_settled() -> None:
    lease = make_lease()
    state = make_state(nodes=[make_node()], leases=[lease])
    state.assume(entry_for(lease))
    state.forget(lease.uid)
    assert held(state) == 2000
    assert audit(state) == []
    state.settle(lease.uid)
    assert held(state) == 0
    assert audit(state) == []


def test_what_is_held_is_told_apart_by_where_the_lease_stands() -> None:
    state = make_state(
        nodes=[make_node()],
        leases=[
            granted(name="a"),
            ending(granted(name="b", token=2)),
            ending(granted(name="c", token=3), "Quarantined"),
        ],
    )
    assert [holding_state(state.leases[f"uid-{x}"]) for x in "abc"] == [HELD, RELEASING, QUARANTINED]
    assert [state.ledger.count(kind) for kind in (HELD, RELEASING, QUARANTINED)] == [1, 1, 1]


def test_a_lease_from_a_pool_that_lent_more_kinds_still_counts_for_what_is_left() -> None:
    lease = granted(resources={"cpu": "2", "vendor.example/gpu": "1"})
    state = make_state(make_pool(), [make_node()], [lease])
    assert state.ledger.get(lease.uid) == Holding(lease.uid, (("node-1", (2000, 0)),))
    assert audit(state) == []


def test_slices_on_a_node_outside_the_pool_are_kept_in_the_books() -> None:
    state = make_state(nodes=[make_node("node-2")], leases=[granted()])
    assert state.ledger.on_node("node-1") == (2000, 4 * GIB)
    assert audit(state) == []
    add_node(state, make_node("node-1"))
    assert held(state, "node-1") == 2000


# --- nodes ---


def test_leases_on_a_node_are_looked_at_when_it_changes() -> None:
    state = make_state(
        nodes=[make_node()], leases=[granted(name="a"), granted(name="b", nodes=["node-2"], token=2)]
    )
    state.touch_node("node-1")
    assert state.attention == {"uid-a"}
    state.touch_all()
    assert state.attention == {"uid-a", "uid-b"}


def test_leases_on_a_node_are_looked_at_when_it_stops_holding_too_much() -> None:
    state = make_state(nodes=[make_node(cpu="3")], leases=[granted(name="a"), granted(name="b", token=2)])
    assert state.table.over == {"node-1"}
    state.forget("uid-a")
    assert state.table.over == set()
    assert state.attention == {"uid-b"}


def test_a_node_that_says_the_same_again_moves_nothing() -> None:
    state = make_state(nodes=[make_node()])
    row = state.table.rows["node-1"]
    add_node(state, make_node())
    assert state.table.rows["node-1"] is row


# --- idleness ---


def watched(**use: str) -> tuple[PoolState, dict[str, int]]:
    state = make_state(make_pool(idle={"policy": "Warn"}), [make_node()], [granted()])
    state.note_usage(make_report(present={"uid-build": use}), at("1m"))
    return state, dict(state.idle_since())


def test_a_lease_that_uses_hardly_anything_is_idle_since_that_was_first_seen() -> None:
    state, idle = watched(cpu="10m", memory="1Mi")
    assert idle == {"uid-build": at("1m")}
    assert "uid-build" in state.attention
    state.attention.clear()
    state.note_usage(make_report(present={"uid-build": {"cpu": "5m"}}), at("2m"))
    assert state.idle_since()["uid-build"] == at("1m")
    assert state.attention == set()


def test_any_resource_that_is_used_keeps_a_lease_from_being_idle() -> None:
    assert watched(cpu="10m", memory="2Gi")[1] == {}
    assert watched(cpu="1", memory="1Mi")[1] == {}


def test_a_lease_whose_use_nobody_measured_is_not_called_idle() -> None:
    assert watched()[1] == {}


def test_a_lease_without_any_workload_is_idle() -> None:
    state = make_state(make_pool(idle={"policy": "Warn"}), [make_node()], [lease := granted()])
    state.note_usage(make_report(gone=[lease]), at("1m"))
    assert dict(state.idle_since()) == {lease.uid: at("1m")}


def test_use_ends_idleness_and_the_lease_is_looked_at() -> None:
    state, _ = watched(cpu="10m")
    state.attention.clear()
    state.note_usage(make_report(present={"uid-build": {"cpu": "2"}}), at("3m"))
    assert dict(state.idle_since()) == {}
    assert state.attention == {"uid-build"}


def test_a_lease_on_two_nodes_is_idle_when_it_is_on_both() -> None:
    lease = granted(nodes=("node-1", "node-2"), count=2)
    state = make_state(leases=[lease])
    state.note_usage(make_report("node-1", present={lease.uid: {"cpu": "1m"}}), at("1m"))
    assert len(state.idle_since()) == 0
    state.note_usage(make_report("node-2", present={lease.uid: {"cpu": "1m"}}), at("2m"))
    assert dict(state.idle_since()) == {lease.uid: at("2m")}
    state.forget(lease.uid)
    assert len(state.idle_since()) == 0


def test_use_by_leases_that_hold_nothing_is_ignored() -> None:
    state = make_state(leases=[make_lease()])
    state.note_usage(make_report(present={"uid-build": {"cpu": "1m"}, "uid-gone": {}}), at())
    assert state.idle == {}


def test_the_queue_goes_by_priority_then_age_then_arrival() -> None:
    old, young = make_lease("b", age="9m"), make_lease("a", age="1m")
    twin, urgent = make_lease("c", age="9m"), make_lease("d", age="0m", priority=1)
    first = make_state(leases=[urgent, old, twin, young])
    assert [first.leases[uid].name for uid in [r.uid for r in first.queue]] == list("dbca")


def test_leases_of_one_second_keep_their_turn_when_they_are_written_to() -> None:
    # Creation times are whole seconds: the order in which the watch told of them decides.
    leases = [make_lease(name, age="1m") for name in "zyx"]
    state = make_state(leases=[replace(lease, version=10 + i) for i, lease in enumerate(leases)])
    state.observe(replace(leases[0], version=99))
    assert [state.leases[uid].name for uid in [r.uid for r in state.queue]] == list("zyx")


# --- what a lease that ends held and used ---


def test_the_bill_is_written_once_at_the_end_and_waste_counts_for_the_tenant() -> None:
    pool = Rehearsal(
        make_pool(tenants=[{"name": "red"}], fairness="DominantShareAndWaste", cooldownSeconds=60),
        teams={"team-a": "red"},
    )
    lease = pool.ask(cpu="4", memory="8Gi")
    pool.look()
    for minute in range(0, 60, 10):
        pool.now = at(f"{minute}m")
        used = {"cpu": "1", "memory": "1Gi"}
        pool.state.note_usage(make_report(time=f"{minute}m", present={lease.uid: used}), pool.now)
    pool.now = at("1h")
    pool.change(edited(pool.lease("build"), desiredState="Released"))
    pool.look()
    assert "accounting" not in pool.lease("build").status, "it still rests"
    assert pool.state.shares.account("red").waste == 0
    pool.until("1h1m")
    bill = pool.lease("build").status["accounting"]
    assert bill["heldSeconds"] == 3660
    rows = {row["name"]: row for row in bill["resources"]}
    assert rows["cpu"] == {"name": "cpu", "reserved": "4", "used": "1", "usedPercent": 25}
    assert pool.state.shares.account("red").waste == 750_000 // 8
    assert pool.state.meters == {}
    pool.until("30m")
    assert pool.lease("build").status["accounting"] == bill


def test_a_lease_that_never_held_anything_has_no_bill() -> None:
    pool = Rehearsal()
    pool.ask(cpu="99")
    pool.look()
    pool.change(edited(pool.lease("build"), desiredState="Released"))
    pool.look()
    assert pool.lease("build").finished
    assert "accounting" not in pool.lease("build").status
    assert pool.state.bill(pool.lease("build"), NOON) == {}


# --- the future ---


def test_a_renewal_counts_from_its_decision_and_only_if_it_is_written() -> None:
    policy = make_pool(gracePeriodSeconds=30)
    state = make_state(policy, [make_node()], [granted(policy=policy)])
    before = state.calendar.held["uid-build"].until
    assert before == at("1h30s")
    state.expect_until("uid-build", at("2h"))
    assert state.calendar.held["uid-build"].until == at("2h30s")
    state.expect_until("uid-build", at("90m"))
    assert state.calendar.held["uid-build"].until == at("2h30s")
    state.rebook("uid-build")
    assert state.calendar.held["uid-build"].until == before
    state.expect_until("uid-nobody", at("2h"))
    state.rebook("uid-nobody")
    assert audit(state) == []


def test_a_lease_that_cannot_be_read_is_free_at_no_known_time_and_safe_from_preemption() -> None:
    broken = granted()
    broken = edited(broken, status={**broken.status, "deadlines": {"expirationTime": "soon"}})
    state = make_state(nodes=[make_node()], leases=[broken])
    found = state.calendar.held["uid-build"]
    assert (found.until, found.since) == (NEVER, NEVER)
    assert state.meters == {}
    assert state.bill(broken, NOON) == {}


def test_a_commitment_of_a_lease_that_is_gone_is_undone_with_its_promise() -> None:
    state = make_state(nodes=[make_node()], leases=[make_lease()])
    entry = entry_for(make_lease())._replace(start=at("1h"))
    state.assume(entry)
    assert state.calendar.promises["uid-build"].end == NEVER
    state.forget("uid-build")
    state.settle("uid-build")
    assert state.calendar.promises == {}
    assert audit(state) == []
