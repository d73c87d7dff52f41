from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.builders import (
    GIB,
    NOON,
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
)
from tests.rehearsal import Rehearsal

from leasehold.api.names import LeaseReason
from leasehold.core.admission import Refusal
from leasehold.core.lease import Lease
from leasehold.core.ledger import HELD, QUARANTINED, RELEASING, Holding
from leasehold.core.request import NEVER
from leasehold.core.state import Entry, PoolState, free_at, holding_state, loss_plan


def entry_for(lease: Lease, *nodes: str, sequence: int = 1) -> Entry:
    return Entry(lease.uid, lease.namespace, lease.name, sequence, dict(lease.request), nodes or ("node-1",))


def held(state: PoolState, node: str = "node-1") -> int:
    return state.table.rows[node].held[0]


def ending(lease: Lease, reason: str = "VerificationPending") -> Lease:
    row = {
        "type": "Released",
        "status": "False",
        "reason": reason,
        "message": "",
        "lastTransitionTime": clock(),
    }
    release = {"cause": "Idle", "startTime": clock()}
    return edited(
        lease, status={**lease.status, "release": release, "conditions": [*lease.status["conditions"], row]}
    )


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
    assert state.audit() == []


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
    assert state.audit() == []


def test_what_a_forgotten_lease_held_is_free() -> None:
    state = make_state(nodes=[make_node()], leases=[granted(), make_lease("next")])
    state.forget("uid-build")
    state.forget("uid-next")
    state.forget("uid-nobody")
    assert held(state) == 0
    assert not list(state.queue)
    assert state.audit() == []


def test_a_complete_list_removes_what_it_does_not_name_unless_it_was_seen_later() -> None:
    state = make_state(
        nodes=[make_node()], leases=[granted(name="old", version=5), granted(name="new", version=50)]
    )
    state.replace([make_lease("other", version=8)], list_version=10)
    assert state.leases.keys() == {"uid-new", "uid-other"}
    assert state.audit() == []


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
    assert state.audit() == []


def test_once_settled_the_leases_own_status_speaks() -> None:
    lease = make_lease()
    state = make_state(nodes=[make_node()], leases=[lease])
    state.assume(entry_for(lease))
    state.observe(edited(granted(lease)))
    assert state.audit() == []
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
    assert state.audit() == []
    state.settle(lease.uid)
    assert held(state) == 0
    assert state.audit() == []


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
    assert state.audit() == []


def test_slices_on_a_node_outside_the_pool_are_kept_in_the_books() -> None:
    state = make_state(nodes=[make_node("node-2")], leases=[granted()])
    assert state.ledger.on_node("node-1") == (2000, 4 * GIB)
    assert state.audit() == []
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


# --- capacity that was lost ---


def test_capacity_lost_is_taken_from_the_least_wanted_first_then_the_youngest() -> None:
    leases = [
        granted(name="vital", priority=9, since="5m"),
        granted(name="old", token=2, since="1m"),
        granted(name="young", token=3, since="3m"),
        granted(name="ballast", token=4, priority=-1),
    ]
    for size, chosen in (
        (8, []),
        (7, ["ballast"]),
        (4, ["ballast", "young"]),
        (2, ["ballast", "young", "old"]),
    ):
        state = make_state(make_pool(), [make_node(cpu=str(size))], leases)
        assert loss_plan(state) == [f"uid-{name}" for name in chosen]


def test_a_lease_on_its_way_out_counts_as_gone() -> None:
    leases = [ending(granted(name="a", priority=5)), granted(name="b", token=2)]
    assert loss_plan(make_state(nodes=[make_node(cpu="3")], leases=leases)) == []
    assert loss_plan(make_state(nodes=[make_node(cpu="1")], leases=leases)) == ["uid-b"]


def test_a_lease_that_does_not_hold_what_is_short_is_left_alone() -> None:
    leases = [
        granted(name="memory", cpu=None, memory="8Gi", priority=-5),
        granted(name="cpu", cpu="4", memory=None, token=2),
    ]
    assert loss_plan(make_state(nodes=[make_node(cpu="2")], leases=leases)) == ["uid-cpu"]


def test_a_lease_over_two_short_nodes_is_chosen_once() -> None:
    lease = granted(nodes=("node-1", "node-2"), count=2)
    nodes = [make_node("node-1", cpu="1"), make_node("node-2", cpu="1")]
    assert loss_plan(make_state(nodes=nodes, leases=[lease])) == [lease.uid]


def test_measured_use_alone_costs_nobody_a_lease() -> None:
    state = make_state(make_pool({"name": "cpu"}), leases=[granted(memory=None)])
    add_node(state, make_node(), make_report(cpu="16"))
    assert loss_plan(state) == []


# --- audit ---


def corrupt_books(state: PoolState) -> None:
    state.ledger.put(Holding("uid-build", (("node-1", (1, 1)),)))


def lose_a_lease(state: PoolState) -> None:
    state.ledger.drop("uid-build")


def invent_a_holding(state: PoolState) -> None:
    state._hold(state.ledger.put(Holding("uid-ghost", (("node-1", (1, 1)),))))


def forget_a_commitment(state: PoolState) -> None:
    lease = make_lease("next")
    state.assume(entry_for(lease))
    state._hold(state.ledger.drop(lease.uid))


def corrupt_the_table(state: PoolState) -> None:
    state.table.hold("node-1", (1, 1))


def corrupt_a_column(state: PoolState) -> None:
    state.table.free[0][0] += 1


def lose_a_place_in_the_queue(state: PoolState) -> None:
    state.queue.remove(next(iter(state.queue)).uid)


def give_a_token_twice(state: PoolState) -> None:
    state.observe(granted(name="twin", token=1, nodes=["node-1"]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (corrupt_books, "team-a/build: the books say"),
        (lose_a_lease, "the books say nothing"),
        (invent_a_holding, "uid-ghost: the books say"),
        (forget_a_commitment, "uid-next: the books say nothing"),
        (corrupt_the_table, "node node-1: the table holds"),
        (corrupt_a_column, "node-1: its columns"),
        (lose_a_place_in_the_queue, "the queue is not"),
        (give_a_token_twice, "fencing token 1 was given twice"),
    ],
)
def test_the_audit_finds_every_kind_of_damage(damage: Any, words: str) -> None:
    state = make_state(nodes=[make_node()], leases=[granted(), make_lease("waiting")])
    assert state.audit() == []
    damage(state)
    assert any(words in line for line in state.audit())


def test_a_token_of_a_lease_that_is_over_may_come_again() -> None:
    # A pool deleted and made again under its name counts anew, while old leases are kept to be read.
    old = granted(name="old", token=1)
    over = [*old.status["conditions"], {"type": "Released", "status": "True", "reason": "NotRequired"}]
    old = edited(old, status={**old.status, "conditions": over})
    assert make_state(nodes=[make_node()], leases=[old, granted(name="new", token=1)]).audit() == []


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
    assert state.audit() == []


@pytest.mark.parametrize(
    ("policy", "change", "free"),
    [
        ({}, {}, "1h30s"),
        ({"cooldownSeconds": 60}, {}, "1h1m30s"),
        ({"expirationAction": "NotifyOnly"}, {}, None),
        ({}, {"cooldownTime": "5m"}, "5m"),
        ({}, {"verificationTime": "6m"}, "6m"),
        ({}, {"verificationTime": "6m", "cooldownTime": "5m"}, "5m"),
        ({}, {"leaving": "1"}, None),
    ],
)
def test_when_room_is_free_again_follows_from_the_deadlines(
    policy: dict[str, Any], change: dict[str, str], free: str | None
) -> None:
    rules = make_pool(gracePeriodSeconds=30, **policy)
    lease = granted(policy=rules)
    if change:
        deadlines = {name: clock(text) for name, text in change.items() if name.endswith("Time")}
        lease = edited(ending(lease), status={**ending(lease).status, "deadlines": deadlines})
    assert free_at(lease, rules) == (NEVER if free is None else at(free))


def test_what_a_node_does_not_confirm_is_free_at_no_known_time() -> None:
    lease = ending(granted(), "Quarantined")
    assert free_at(lease, make_pool()) == NEVER


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
    assert state.audit() == []


def wrong_queue(state: PoolState) -> None:
    request = next(iter(state.queue))
    state.queue.requests[request.uid] = request._replace(priority=9)


def wrong_refusals(state: PoolState) -> None:
    state.refused["uid-w"] = Refusal(LeaseReason.QUEUE_FULL, "")


def wrong_calendar(state: PoolState) -> None:
    state.calendar.drop("uid-h")


def wrong_promises(state: PoolState) -> None:
    state.calendar.unpromise("uid-l")


def wrong_shares(state: PoolState) -> None:
    state.shares.add("", (1, 0))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (wrong_queue, "the queue is not the leases that wait"),
        (wrong_refusals, "those refused or asking"),
        (wrong_calendar, "the calendar is not what the leases hold"),
        (wrong_promises, "the promises are not what the leases were promised"),
        (wrong_shares, "tenant '': the shares count"),
    ],
)
def test_an_audit_finds_what_is_wrong_with_the_future(spoil: Callable[[PoolState], None], word: str) -> None:
    pool = Rehearsal()
    pool.ask("h")
    pool.ask("l", startTime=clock("1h"))
    pool.ask("w", cpu="16")
    pool.look()
    spoil(pool.state)
    assert any(found.startswith(word) for found in pool.state.audit())
