import json
from typing import Any

import pytest
from tests.builders import (
    NOON,
    add_node,
    at,
    clock,
    condition,
    document_of,
    edited,
    granted,
    make_lease,
    make_node,
    make_pool,
    make_session,
    make_state,
    make_world,
    renewed,
    written,
)
from tests.rehearsal import Rehearsal

from leasehold.core.audit import audit
from leasehold.core.booking import Entry
from leasehold.core.course import World
from leasehold.core.holds import displaced
from leasehold.core.lease import Lease
from leasehold.core.planning import (
    BATCH,
    EXPLAINED,
    SLICES,
    TOLD,
    Plan,
    cancel_step,
    entry_of,
    grant_step,
    hold_of,
    plan,
)
from leasehold.core.queueing import Wait
from leasehold.core.quote import Offer
from leasehold.core.state import PoolState


def decide(state: PoolState, **how: Any) -> Plan:
    return plan(state, how.pop("world", make_world()), NOON, **how)


def carry_out(state: PoolState, decided: Plan) -> None:
    """Write everything a plan says."""
    for i, grant in enumerate(decided.grants, start=1):
        entry = entry_of(grant, i)
        state.assume(entry)
        state.observe(written(grant.lease, grant_step(grant.lease, entry, state.policy, World(), NOON)))
        state.settle(entry.uid)
    for change in decided.changes:
        state.observe(written(change.lease, change.step))


def names(decided: Plan) -> list[str]:
    return [grant.lease.name for grant in decided.grants]


def told(decided: Plan) -> dict[str, str]:
    return {
        change.lease.name: condition(written(change.lease, change.step), "Ready").split("/")[1]
        for change in decided.changes
    }


# --- the queue ---


def test_the_higher_priority_is_granted_first_then_the_older() -> None:
    leases = [
        make_lease("young"),
        make_lease("old", age="9m"),
        make_lease("urgent", priority=1, age="0m"),
    ]
    assert names(decide(make_state(nodes=[make_node()], leases=leases))) == ["urgent", "old", "young"]


def test_what_does_not_fit_is_passed_over_by_default() -> None:
    leases = [
        make_lease("big", cpu="12", age="9m"),
        make_lease("bigger", cpu="14", age="8m"),
        make_lease("small"),
    ]
    decided = decide(make_state(nodes=[make_node()], leases=leases))
    assert names(decided) == ["big", "small"]
    assert told(decided) == {"bigger": "WaitingForCapacity"}


def test_strict_fifo_lets_nobody_past_the_head() -> None:
    state = make_state(
        make_pool(queue="StrictFIFO"),
        [make_node()],
        [granted(name="held", cpu="8"), make_lease("head", cpu="12", age="9m"), make_lease("small")],
    )
    decided = decide(state)
    assert names(decided) == []
    assert told(decided) == {"head": "WaitingForCapacity", "small": "BlockedByHead"}


def test_whom_the_head_of_another_tenant_holds_back_is_told_so_whatever_its_priority() -> None:
    pool = Rehearsal(
        make_pool(queue="StrictFIFO", tenants=[{"name": "red"}, {"name": "blue"}]),
        teams={"team-r": "red", "team-b": "blue"},
    )
    pool.ask("held", cpu="8", namespace="team-b")
    pool.look()
    pool.ask("head", cpu="12", namespace="team-r")
    pool.ask("small", cpu="2", namespace="team-b", priority=5)
    pool.look()
    assert pool.says("head") == "False/WaitingForCapacity"
    assert pool.says("small") == "False/BlockedByHead", "it would fit"


def test_who_was_short_of_room_hears_that_it_is_held_back_now() -> None:
    pool = Rehearsal(make_pool(queue="StrictFIFO"))
    pool.ask("held", cpu="8")
    later = pool.ask("later", cpu="8", startTime=clock("1h"))
    pool.ask("long", cpu="8", durationSeconds=7200)
    pool.look()
    assert pool.says("long") == "False/RoomPromised"
    pool.ask("head", cpu="12", priority=5)
    pool.change(edited(pool.lease(later.name), desiredState="Released"))
    pool.look()
    assert pool.says("head") == "False/WaitingForCapacity"
    assert pool.says("long") == "False/BlockedByHead", "nothing is promised any more"


def test_a_head_that_is_being_written_still_stands_at_the_head() -> None:
    state = make_state(
        make_pool(queue="StrictFIFO"),
        [make_node()],
        [granted(name="held", cpu="8"), make_lease("head", cpu="12", age="9m"), make_lease("small")],
    )
    state.busy.add("uid-head")
    assert names(decide(state)) == []


@pytest.mark.parametrize("queue", ["StrictFIFO", "BestEffortFIFO"])
def test_a_lease_that_is_being_written_keeps_its_turn_and_its_room(queue: str) -> None:
    leases = [
        make_lease("first", cpu="12", age="9m"),
        make_lease("second", cpu="12", age="8m"),
        make_lease("third"),
    ]
    state = make_state(make_pool(queue=queue), [make_node()], leases)
    state.busy.add("uid-first")
    decided = decide(state)
    assert names(decided) == ([] if queue == "StrictFIFO" else ["third"])
    assert "first" not in told(decided)


def test_a_request_no_empty_pool_could_meet_does_not_hold_back_a_strict_queue() -> None:
    state = make_state(
        make_pool(queue="StrictFIFO"),
        [make_node()],
        [make_lease("absurd", cpu="1000", age="9m"), make_lease()],
    )
    decided = decide(state)
    assert names(decided) == ["build"]
    assert told(decided) == {"absurd": "NoMatchingNodes"}


def test_refused_leases_neither_block_a_strict_queue_nor_fill_it() -> None:
    policy = make_pool(queue="StrictFIFO", max_pending=1)
    wrong = [make_lease(f"wrong-{i}", resources={"gpu": "1"}, age="9m") for i in range(3)]
    state = make_state(policy, [make_node()], [*wrong, make_lease()])
    decided = decide(state)
    assert names(decided) == ["build"]
    assert set(told(decided).values()) == {"ResourceNotOffered"}


def test_a_queue_takes_only_so_many() -> None:
    leases = [make_lease(f"l{i}", cpu="16", age=f"{9 - i}m") for i in range(4)]
    state = make_state(make_pool(max_pending=2), [make_node()], [granted(name="held"), *leases])
    assert list(told(decide(state)).values()) == ["WaitingForCapacity"] * 2 + ["QueueFull"] * 2


def test_a_flood_of_one_namespace_takes_no_place_from_another() -> None:
    flood = [make_lease(f"flood-{i}", cpu="99", age="9m", namespace="loud") for i in range(10)]
    state = make_state(make_pool(max_pending=4), [make_node()], [*flood, make_lease(namespace="quiet")])
    decided = decide(state)
    assert names(decided) == ["build"]
    carry_out(state, decided)
    state.observe(make_lease("late", cpu="99", namespace="quiet"))
    carry_out(state, decide(state))
    reasons = {lease.name: lease.reason("Ready") for lease in state.leases.values() if lease.pending}
    assert [name for name, reason in reasons.items() if reason != "QueueFull"] == [
        *("flood-0", "flood-1", "flood-2"),
        "late",
    ]


def test_within_a_tenant_each_namespace_has_its_share_of_the_places() -> None:
    tenants = [{"name": "red"}, {"name": "blue"}]
    leases = [
        *(make_lease(f"a{i}", cpu="99", age="9m", namespace="a", tenant="red") for i in range(4)),
        *(make_lease(f"b{i}", cpu="99", age="8m", namespace="b", tenant="red") for i in range(4)),
        *(make_lease(f"c{i}", cpu="99", age="7m", namespace="c", tenant="blue") for i in range(8)),
    ]
    state = make_state(make_pool(max_pending=8, tenants=tenants), [make_node()])
    state.namespaces = {"a": {"team": "red"}, "b": {"team": "red"}, "c": {"team": "blue"}}
    for lease in leases:
        state.observe(lease)
    waiting = {name for name, reason in told(decide(state)).items() if reason != "QueueFull"}
    assert waiting == {"a0", "a1", "b0", "b1", "c0", "c1", "c2", "c3"}


def test_who_gets_a_place_after_all_hears_what_it_waits_for() -> None:
    leases = [make_lease(f"l{i}", cpu="99", age=f"{9 - i}m") for i in range(3)]
    state = make_state(make_pool(max_pending=2), [make_node()], leases)
    carry_out(state, decide(state))
    assert state.leases["uid-l2"].reason("Ready") == "QueueFull"
    state.forget("uid-l0")
    assert told(decide(state)) == {"l2": "NoMatchingNodes"}


def test_who_reads_that_it_is_refused_is_not_looked_at_again() -> None:
    wrong = [make_lease(f"wrong-{i}", resources={"gpu": "1"}) for i in range(3)]
    full = [make_lease(f"l{i}", cpu="99", age=f"{9 - i}m") for i in range(4)]
    state = make_state(make_pool(max_pending=2), [make_node()], [*wrong, *full])
    carry_out(state, decide(state))
    carry_out(state, decide(state))
    assert state.unheard == {}
    state.observe(edited(state.leases["uid-l3"], priority=-1))
    assert list(state.unheard) == ["uid-l3"]


def test_grants_of_one_pass_do_not_take_the_same_room_twice() -> None:
    leases = [make_lease(f"l{i}", cpu="6") for i in range(4)]
    state = make_state(nodes=[make_node("a"), make_node("b", cpu="8")], leases=leases)
    decided = decide(state)
    assert len(decided.grants) == 3
    carry_out(state, decided)
    assert state.table.over == set()
    assert audit(state) == []


def test_what_a_commitment_holds_is_not_granted_again() -> None:
    first, second = make_lease("a", cpu="10"), make_lease("b", cpu="10")
    state = make_state(nodes=[make_node()], leases=[first, second])
    state.assume(Entry(first.uid, "team-a", "a", 1, dict(first.request), ("node-1",)))
    decided = decide(state)
    assert names(decided) == []
    assert told(decided) == {"b": "WaitingForCapacity"}


def test_what_ends_in_this_pass_is_free_only_in_the_next() -> None:
    state = make_state(nodes=[make_node()], leases=[granted(name="held", cpu="16")])
    state.observe(edited(state.leases["uid-held"], desiredState="Released"))
    state.observe(make_lease("next", cpu="16"))
    decided = decide(state)
    assert names(decided) == []
    carry_out(state, decided)
    assert names(decide(state)) == ["next"]


def test_leases_that_nobody_wants_any_more_are_not_granted() -> None:
    leases = [
        make_lease("released", desiredState="Released"),
        make_lease("deleted", deleted=""),
        make_lease("gone", namespace="old"),
    ]
    state = make_state(nodes=[make_node()])
    for lease in leases:
        state.observe(lease)
    decided = decide(state, world=make_world(gone_namespaces={"old"}))
    assert names(decided) == []
    assert {change.lease.name: change.step.action for change in decided.changes} == {
        "released": "",
        "deleted": "drop-finalizer",
        "gone": "",
    }


def test_leases_put_aside_are_left_alone() -> None:
    state = make_state(nodes=[make_node()], leases=[make_lease()])
    state.observe(edited(granted(name="held", token=9), desiredState="Released"))
    state.aside |= {"uid-build", "uid-held"}
    assert decide(state) == Plan((), (), (), more=False)


def test_a_lease_that_cannot_be_read_stops_nobody_else() -> None:
    broken = granted(name="broken")
    broken = edited(broken, status={**broken.status, "deadlines": {"expirationTime": "soon"}})
    state = make_state(nodes=[make_node()], leases=[make_lease()])
    state.observe(broken)
    decided = decide(state)
    assert names(decided) == ["build"]
    assert [uid for uid, _ in decided.unreadable] == ["uid-broken"]
    assert state.ledger.holders("node-1") == {"uid-broken"}


def test_news_of_leases_that_are_gone_or_being_written_are_no_work() -> None:
    state = make_state(nodes=[make_node()], leases=[granted()])
    state.attention |= {"uid-build", "uid-nobody"}
    state.busy.add("uid-build")
    assert decide(state, due={"uid-other"}) == Plan((), (), (), more=False)


def test_an_empty_batch_leaves_the_queue_alone() -> None:
    state = make_state(nodes=[make_node()], leases=[make_lease()])
    assert decide(state, batch=0) == Plan((), (), (), more=False)


# --- holds ---


@pytest.mark.parametrize(
    ("stop", "deleting", "consistent", "nodes", "reason"),
    [
        ("None", False, True, 1, None),
        ("None", False, False, 1, "LedgerInconsistent"),
        ("None", True, True, 1, "PoolHeld"),
        ("Hold", False, True, 1, "PoolHeld"),
        ("HoldAndDrain", False, True, 1, "PoolHeld"),
        ("None", False, True, 0, "PoolNotReady"),
    ],
)
def test_a_pool_that_grants_nothing_says_why(
    stop: str, deleting: bool, consistent: bool, nodes: int, reason: str | None
) -> None:
    hold = hold_of(make_pool(stop=stop), deleting=deleting, consistent=consistent, nodes=nodes)
    assert (None if hold is None else hold.reason) == reason
    state = make_state(nodes=[make_node()], leases=[make_lease()])
    decided = decide(state, hold=hold)
    assert (names(decided), told(decided)) == (([], {"build": reason}) if reason else (["build"], {}))


def test_a_held_pool_still_refuses_what_it_would_never_take() -> None:
    state = make_state(nodes=[make_node()], leases=[make_lease(resources={"gpu": "1"})])
    hold = hold_of(make_pool(stop="Hold"), deleting=False, consistent=True, nodes=1)
    assert told(decide(state, hold=hold)) == {"build": "ResourceNotOffered"}


# --- bounds ---


def many(number: int, **how: Any) -> list[Lease]:
    return [make_lease(f"l{i:04d}", **how) for i in range(number)]


def test_a_pass_grants_one_batch_and_asks_for_another() -> None:
    state = make_state(
        nodes=[make_node(cpu="1000", memory="1Ti")], leases=many(BATCH + 1, cpu="1", memory="1Mi")
    )
    decided = decide(state)
    assert (len(decided.grants), decided.more) == (BATCH, True)
    assert len(decide(state, batch=3).grants) == 3
    carry_out(state, decided)
    assert (len(decide(state).grants), decide(state).more) == (1, False)


def test_who_may_start_in_the_next_pass_is_told_nothing_meanwhile() -> None:
    """A word would be wrong a moment later, and each one is a write that a grant has to wait for."""
    big = make_lease("big", cpu="2000", age="9m")
    state = make_state(
        nodes=[make_node(cpu="1000", memory="1Ti")],
        leases=[big, *many(BATCH + 9, cpu="1", memory="1Mi")],
    )
    decided = decide(state)
    assert (len(decided.grants), decided.more) == (BATCH, True)
    assert told(decided) == {"big": "NoMatchingNodes"}, "of this one it is known"
    carry_out(state, decided)
    assert told(decide(state)) == {}


def test_what_is_known_to_fit_nowhere_is_told_though_the_pass_stopped_early() -> None:
    state = make_state(
        nodes=[make_node(cpu="1000", memory="64Gi")],
        leases=[
            granted(name="held", memory="30Gi"),
            make_lease("late", cpu="1", memory="60Gi", age="0m"),
            *many(BATCH + 9, cpu="1", memory="1Mi"),
        ],
    )
    decided = decide(state)
    assert decided.more
    assert told(decided) == {"late": "WaitingForCapacity"}


def test_a_pass_grants_only_so_many_slices_but_never_less_than_one_lease() -> None:
    state = make_state(
        nodes=[make_node(cpu="1000", memory="1Ti")], leases=many(9, cpu="1", memory="1Mi", count=60)
    )
    decided = decide(state)
    assert (len(decided.grants), decided.more) == (SLICES // 60, True)


def test_a_pass_tells_only_so_many_and_the_next_one_tells_the_rest() -> None:
    state = make_state(nodes=[make_node(cordoned=True)], leases=many(TOLD + 5))
    decided = decide(state)
    assert (len(decided.changes), decided.more) == (TOLD, True)
    carry_out(state, decided)
    decided = decide(state)
    assert (len(decided.changes), decided.more) == (5, False)


def test_no_more_words_are_drafted_than_may_be_on_their_way() -> None:
    state = make_state(nodes=[make_node(cordoned=True)], leases=many(9))
    decided = decide(state, words=4)
    assert (len(decided.changes), decided.more) == (4, True)
    assert all(change.word for change in decided.changes)
    assert decide(state, words=0).changes == ()
    refused = make_state(nodes=[make_node()], leases=many(3, resources={"gpu": "1"}))
    assert (len(decide(refused, words=2).changes), decide(refused, words=2).more) == (2, True)


def test_an_end_is_no_word_and_waits_for_none() -> None:
    lease = granted(make_lease(desiredState="Released"))
    state = make_state(nodes=[make_node()], leases=[lease])
    (change,) = decide(state, words=0, due=[lease.uid]).changes
    assert not change.word


def test_a_flood_of_different_requests_is_told_once_and_explained_anew_only_in_front() -> None:
    leases = [
        make_lease(f"l{i:04d}", cpu=f"{17_000 + i}m", memory=f"{900 - i}Mi") for i in range(2 * EXPLAINED)
    ]
    state = make_state(nodes=[make_node()], leases=leases)
    passes = 0
    while (decided := decide(state)).changes:
        carry_out(state, decided)
        passes += 1
    assert passes == 2 * EXPLAINED // TOLD
    assert all(lease.reason("Allocated") == "NoMatchingNodes" for lease in state.leases.values())
    add_node(state, make_node("node-2", cpu="32", cordoned=True))
    decided = decide(state)
    assert 0 < len(decided.changes) < EXPLAINED
    assert decided.again == at("1s")
    while (decided := decide(state)).changes:
        carry_out(state, decided)
    assert all(
        lease.reason("Allocated") == "WaitingForCapacity"
        for lease in state.leases.values()
        if "cpu" in lease.request and lease.request["cpu"] <= 17_000
    )


def test_a_smaller_request_is_still_tried_after_a_larger_one_did_not_fit() -> None:
    leases = [
        make_lease("a", cpu="12", age="9m"),
        make_lease("b", cpu="8", age="8m"),
        make_lease("c", cpu="9", age="7m"),
        make_lease("d", cpu="4", age="6m"),
    ]
    decided = decide(make_state(nodes=[make_node()], leases=leases))
    assert names(decided) == ["a", "d"]
    assert told(decided) == {"b": "WaitingForCapacity", "c": "WaitingForCapacity"}


def test_a_first_word_is_worth_an_event_and_later_ones_are_not() -> None:
    state = make_state(nodes=[make_node(cordoned=True)], leases=[make_lease()])
    decided = decide(state)
    assert [notice.reason for notice in decided.changes[0].step.notices] == ["WaitingForCapacity"]
    carry_out(state, decided)
    state.observe(edited(state.leases["uid-build"], priority=2))
    decided = decide(state)
    assert decided.changes[0].step.notices == ()


# --- the same again ---


def test_planning_changes_nothing_so_planning_twice_gives_the_same() -> None:
    leases = [*many(5, cpu="4"), granted(name="held", token=9), make_lease("never", cpu="99")]
    state = make_state(nodes=[make_node()])
    for lease in leases:
        state.observe(lease)
    assert decide(state) == decide(state)
    assert audit(state) == []


def test_once_a_plan_is_carried_out_there_is_nothing_left_to_write() -> None:
    state = make_state(nodes=[make_node()], leases=[*many(5, cpu="4"), make_lease("never", cpu="99")])
    carry_out(state, decide(state))
    decided = decide(state)
    assert (decided.grants, decided.changes, decided.more) == ((), (), False)


# --- grants ---


def test_a_grant_says_everything_in_one_write() -> None:
    policy = make_pool(maxTotalSeconds=7200)
    lease = granted(make_lease(durationSeconds=600, renewTime="2026-11-22T11:59:00Z"), policy=policy, token=7)
    assert condition(lease, "Allocated") == "True/Granted"
    assert condition(lease, "Ready") == "True/Held"
    assert lease.status["fencingToken"] == lease.status["allocation"]["ledgerSequence"] == 7
    assert lease.deadline("expirationTime") == at("10m")
    assert lease.deadline("maxExpirationTime") == at("2h")
    assert lease.status["deadlines"]["next"]["cause"] == "Expiration"
    assert lease.status["renewal"] == {"count": 0, "observedRenewTime": "2026-11-22T11:59:00Z"}
    assert lease.status["phase"] == "Active"


def test_a_granted_lease_forgets_what_it_read_while_it_waited() -> None:
    state = make_state(nodes=[make_node(cordoned=True)], leases=[make_lease()])
    carry_out(state, decide(state))
    assert "rejections" in state.leases["uid-build"].status
    add_node(state, make_node())
    carry_out(state, decide(state))
    assert "rejections" not in state.leases["uid-build"].status


def test_a_total_shorter_than_the_term_ends_the_lease_at_its_maximum() -> None:
    lease = granted(policy=make_pool(maxTotalSeconds=60))
    assert lease.deadline("expirationTime") == lease.deadline("maxExpirationTime") == at("1m")
    assert lease.status["deadlines"]["next"]["cause"] == "Maximum"


def test_a_term_granted_late_is_still_no_longer_than_the_pool_allows() -> None:
    lease = granted(make_lease(durationSeconds=7200), policy=make_pool(maxDurationSeconds=3600))
    assert lease.deadline("expirationTime") == at("1h")


def test_a_grant_finished_by_another_operator_says_so() -> None:
    lease = make_lease()
    entry = Entry(lease.uid, "team-a", "build", 3, dict(lease.request), ("node-1",))
    step = grant_step(lease, entry, make_pool(), World(), NOON, adopted=True)
    assert condition(written(lease, step), "Allocated") == "True/Adopted"


@pytest.mark.parametrize("liveness", ["Renew", "Session"])
def test_a_holder_that_must_show_up_has_until_the_claim_deadline(liveness: str) -> None:
    lease = granted(liveness=liveness, holder={"sessionRef": {"name": "worker"}})
    assert condition(lease, "Claimed") == "False/WaitingForHolder"
    assert lease.deadline("claimTime") == at("5m")
    assert lease.status["phase"] == "Bound"
    assert lease.status["deadlines"]["next"]["cause"] == "Claim"


def test_a_pool_without_claim_deadline_waits_for_the_holder_for_the_whole_term() -> None:
    lease = granted(liveness="Renew", policy=make_pool(claimTimeoutSeconds=0))
    assert lease.deadline("claimTime") is None
    assert condition(lease, "Claimed") == "False/WaitingForHolder"


def test_a_holder_whose_session_is_live_has_claimed_at_once() -> None:
    world = World(sessions={("team-a", "worker"): make_session()})
    lease = granted(liveness="Session", holder={"sessionRef": {"name": "worker"}}, world=world)
    assert condition(lease, "Claimed") == "True/SessionLive"
    assert condition(lease, "HolderLive") == "True/Fresh"
    assert lease.status["phase"] == "Active"


def test_a_granted_lease_is_smaller_than_two_kib() -> None:
    lease = granted(
        make_lease(
            "nightly-integration-tests-0123456789",
            namespace="team-with-a-rather-long-name",
            resources={"cpu": "1500m", "memory": "1536Mi", "ephemeral-storage": "10Gi"},
            liveness="Session",
            holder={"identity": "ci-runner-0123456789", "sessionRef": {"name": "runner-0123456789"}},
            renewTime="2026-11-22T12:00:00.000000Z",
            count=2,
        ),
        nodes=("ip-10-0-123-123.eu-central-1.compute.internal",) * 2,
        policy=make_pool(maxTotalSeconds=86_400),
        token=123_456_789,
    )
    document = {"apiVersion": "leasehold.dev/v1alpha1", "kind": "CapacityLease", **document_of(lease)}
    assert len(json.dumps(document, separators=(",", ":"))) < 2048


def test_the_event_of_a_grant_names_a_few_nodes() -> None:
    lease = make_lease(count=5)
    entry = Entry(lease.uid, "team-a", "build", 3, dict(lease.request), tuple("edcba"))
    step = grant_step(lease, entry, make_pool(), World(), NOON)
    assert step.notices[0].message == "Granted on a, b, c and 2 more with fencing token 3."


def test_an_entry_says_what_its_grant_says() -> None:
    decided = decide(make_state(nodes=[make_node()], leases=[make_lease(count=2)]))
    entry = entry_of(decided.grants[0], 9)
    assert (entry.uid, entry.name, entry.sequence, entry.nodes) == (
        "uid-build",
        "build",
        9,
        ("node-1", "node-1"),
    )
    assert entry.amounts == decided.grants[0].lease.request


def test_undoing_a_commitment_always_changes_the_lease() -> None:
    lease = make_lease()
    once = written(lease, cancel_step(lease, at()))
    twice = written(once, cancel_step(once, at("1ms")))
    assert condition(once, "Allocated") == "False/PendingEvaluation"
    assert once.status != lease.status
    assert twice.status != once.status


def test_what_a_wait_says_is_cut_to_what_a_condition_takes() -> None:
    state = make_state(nodes=[make_node()], leases=[make_lease()])
    decided = decide(state, hold=Wait("PoolHeld", "x" * 2000))
    assert (
        len(written(decided.changes[0].lease, decided.changes[0].step).conditions["Allocated"]["message"])
        == 512
    )


# --- promised starts ---


def pool_of(queue: str = "BestEffortFIFO", cpu: str = "16", **how: Any) -> Rehearsal:
    terms = {"gracePeriodSeconds": 30, **how}
    return Rehearsal(make_pool(queue=queue, **terms), [make_node(cpu=cpu)])


def test_no_start_is_promised_for_the_time_that_a_renewal_takes_in_the_same_pass() -> None:
    held = granted(name="held", cpu="12", durationSeconds=600)
    later = make_lease("later", cpu="12", startTime=clock("12m"), durationSeconds=60)
    state = make_state(nodes=[make_node()], leases=[renewed(held), later])
    state.attention.add(held.uid)
    decided = plan(state, make_world(), at("5m"))
    renewal = next(change for change in decided.changes if change.lease.uid == held.uid)
    promise = next(grant for grant in decided.grants if grant.lease.uid == later.uid)
    assert renewal.step.patch["deadlines"]["expirationTime"] == clock("15m")
    assert promise.start is not None
    assert promise.start >= at("15m") + state.policy.grace


def test_a_start_in_the_future_is_promised_kept_and_redeemed() -> None:
    pool = pool_of()
    pool.ask("later", cpu="12", startTime=clock("1h"), durationSeconds=1800)
    pool.look()
    told = pool.lease("later")
    assert told.status["phase"] == "Scheduled"
    assert pool.says("later") == "False/StartTimeNotReached"
    assert told.status["reservation"] == {
        "ledgerSequence": 1,
        "startTime": clock("1h"),
        "endTime": clock("1h30m30s"),
        "slices": [{"index": 0, "nodeName": "node-1", "resources": {"cpu": "12", "memory": "4Gi"}}],
    }
    assert told.status["deadlines"]["next"] == {"time": clock("1h"), "cause": "Start"}
    assert told.status["queue"]["estimatedStartTime"] == clock("1h")
    assert "fencingToken" not in told.status
    assert len(pool.state.ledger) == 0
    assert pool.writes == [(at(), "later")], "one write says it all"

    pool.ask("long", cpu="8", durationSeconds=7200)
    pool.ask("short", cpu="8", durationSeconds=1800)
    pool.until("59m59s")
    assert pool.says("long") == "False/RoomPromised"
    assert pool.says("short") == "True/Granted" or pool.lease("short").finished

    pool.until("1h")
    held = pool.lease("later")
    assert pool.starts()["uid-later"] == at("1h")
    assert held.status["phase"] == "Active"
    assert not {"reservation", "queue"} & held.status.keys()
    assert "startTime" not in held.status["deadlines"]
    assert held.deadline("expirationTime") == at("1h30m")
    assert pool.state.calendar.promises == {}


def test_who_is_looked_at_late_gets_half_of_its_term_at_least_or_waits() -> None:
    rules = make_pool(gracePeriodSeconds=30, cooldownSeconds=45)
    for late, starts in ((30, True), (35, False), (65, False)):
        pool = Rehearsal(rules)
        pool.ask("first", cpu="12", startTime=clock("1h"), durationSeconds=60)
        pool.look()
        pool.ask("second", cpu="12", startTime=clock("1h2m15s"), durationSeconds=60)
        pool.look()
        assert pool.state.calendar.promises["uid-second"].start == at("1h2m15s"), "when the first has gone"
        pool.now = at("1h") + 1000 * late
        pool.look()
        assert pool.lease("first").allocated == starts
        if starts:
            assert pool.lease("first").deadline("expirationTime") == at("1h1m")
        pool.until("1h4m30s")
        first, second = (pool.starts()[f"uid-{name}"] for name in ("first", "second"))
        assert second == at("1h2m15s"), "it is kept what it was promised"
        assert starts or first == at("1h4m30s"), "and the other is next"


def test_who_was_promised_one_room_one_after_the_other_all_start_after_an_outage() -> None:
    pool = pool_of(gracePeriodSeconds=0)
    for i in range(4):
        pool.ask(f"l{i}", cpu="12", startTime=clock(f"1h{i}m"), durationSeconds=60)
        pool.look()
    pool.now = at("1h2m10s")
    pool.until("1h10m")
    minutes = {"l0": "1h4m", "l1": "1h5m", "l2": "1h2m10s", "l3": "1h3m"}
    assert pool.starts() == {f"uid-{name}": at(text) for name, text in minutes.items()}


def test_what_was_promised_and_no_node_can_hold_any_more_keeps_nobody_out() -> None:
    pool = pool_of()
    pool.ask("later", cpu="12", startTime=clock("1h"))
    pool.look()
    pool.nodes["node-1"] = make_node(cpu="8")
    add_node(pool.state, pool.nodes["node-1"])
    pool.until("1h")
    pool.ask("small", cpu="6")
    pool.look()
    assert pool.says("later") == "False/NoMatchingNodes"
    assert pool.says("small") == "True/Granted"


def test_a_promised_start_that_is_late_reads_what_keeps_it() -> None:
    pool = pool_of()
    resident = pool.ask("resident", cpu="6", durationSeconds=36_000)
    pool.ask("later", cpu="8", startTime=clock("1h"))
    pool.look()
    pool.nodes["node-1"] = make_node(cpu="12")
    add_node(pool.state, pool.nodes["node-1"])
    pool.until("59m")
    assert pool.says("later") == "False/StartTimeNotReached"

    pool.until("1h")
    told = pool.lease("later")
    assert pool.says("later") == "False/WaitingForCapacity"
    message = told.conditions["Allocated"]["message"]
    assert message.startswith(f"Promised from {clock('1h')}, and late. ")
    assert told.status["rejections"] == [
        {"reason": "Insufficient", "resource": "cpu", "nodes": 1, "shortBy": "2"}
    ]
    assert told.status["reservation"]["startTime"] == clock("1h")
    assert "estimatedStartTime" not in told.status["queue"], "when is not known"

    pool.change(edited(pool.lease(resident.name), desiredState="Released"))
    pool.until("1h10m")
    assert pool.says("later") == "True/Granted"
    assert not {"rejections", "reservation", "queue"} & pool.lease("later").status.keys()


def test_a_promised_start_that_is_late_for_its_tenants_limit_says_so() -> None:
    policy = make_pool(tenants=[{"name": "red", "limit": {"cpu": "8"}}])
    pool = Rehearsal(policy, teams={"team-a": "red"})
    pool.ask("resident", cpu="4", durationSeconds=36_000)
    pool.ask("later", cpu="4", startTime=clock("1h"))
    pool.look()
    pool.policy = make_pool(tenants=[{"name": "red", "limit": {"cpu": "6"}}])
    pool.restart()
    pool.until("1h")
    assert pool.says("later") == "False/WaitingForQuota"
    assert "and late" in pool.lease("later").conditions["Allocated"]["message"]


def test_a_promise_outlives_its_operator() -> None:
    pool = pool_of()
    pool.ask("later", cpu="12", startTime=clock("1h"))
    pool.look()
    pool.restart()
    assert pool.state.calendar.promises["uid-later"].start == at("1h")
    pool.ask("long", cpu="8", durationSeconds=7200)
    pool.until("1h")
    assert pool.starts() == {"uid-later": at("1h")}


def test_a_promise_that_was_committed_but_not_written_is_finished_by_the_next_operator() -> None:
    pool = pool_of()
    pool.ask("later", cpu="12", startTime=clock("1h"))
    entries = pool.commit(pool.decide())
    assert [(entry.start, entry.end) for entry in entries] == [(at("1h"), at("2h30s"))]
    assert pool.state.calendar.promises["uid-later"].start == at("1h")
    assert len(pool.state.ledger) == 0, "nothing is held before its start"
    assert audit(pool.state) == []
    pool.restart(entries)
    assert pool.lease("later").status["reservation"]["ledgerSequence"] == 1
    pool.until("1h")
    assert pool.starts() == {"uid-later": at("1h")}


def test_a_promise_whose_lease_changed_before_it_was_written_is_undone_and_made_anew() -> None:
    pool = pool_of()
    pool.ask("later", cpu="12", startTime=clock("1h"))
    (entry,) = pool.commit(pool.decide())
    pool.change(edited(pool.lease("later"), resources={"cpu": "4", "memory": "1Gi"}))
    pool.write(entry)
    assert pool.says("later") == "False/PendingEvaluation"
    assert "reservation" not in pool.lease("later").status
    assert pool.state.calendar.promises == {}, "what was undone keeps no room"
    assert audit(pool.state) == []
    pool.look()
    assert pool.lease("later").status["reservation"]["slices"][0]["resources"]["cpu"] == "4"


@pytest.mark.parametrize(
    "change",
    [
        {"resources": {"cpu": "10", "memory": "4Gi"}},
        {"count": 2},
        {"durationSeconds": 7200},
        {"placement": {"mode": "DistinctNodes"}, "count": 2},
    ],
)
def test_a_lease_that_asks_for_something_else_after_its_promise_gets_another(change: dict[str, Any]) -> None:
    pool = Rehearsal(make_pool(), [make_node("a", cpu="8"), make_node("b", cpu="16")])
    pool.ask("later", cpu="4", startTime=clock("1h"), durationSeconds=3600)
    pool.look()
    pool.change(edited(pool.lease("later"), **change))
    pool.look()
    asks = pool.lease("later")
    kept = asks.status["reservation"]
    assert kept["ledgerSequence"] == 2
    assert len(kept["slices"]) == asks.count
    assert all(row["resources"]["cpu"] == f"{asks.request['cpu'] // 1000}" for row in kept["slices"])
    pool.until("1h")
    assert pool.starts() == {"uid-later": at("1h")}


def test_who_is_given_up_before_its_start_gives_the_room_back() -> None:
    pool = pool_of()
    pool.ask("later", cpu="12", startTime=clock("1h"))
    pool.ask("long", cpu="8", durationSeconds=7200)
    pool.look()
    pool.change(edited(pool.lease("later"), desiredState="Released"))
    pool.look()
    assert pool.says("later", "Finished") == "True/Released"
    assert "reservation" not in pool.lease("later").status
    assert pool.says("long") == "True/Granted"


def test_a_promise_whose_node_is_gone_is_kept_elsewhere() -> None:
    pool = Rehearsal(make_pool(), [make_node("a"), make_node("b")])
    pool.ask("later", cpu="12", startTime=clock("1h"))
    pool.look()
    node = pool.lease("later").status["reservation"]["slices"][0]["nodeName"]
    del pool.nodes[node]
    pool.state.table.remove(node)
    pool.until("1h")
    assert pool.starts() == {"uid-later": at("1h")}
    assert pool.lease("later").slices[0].node == next(iter(pool.nodes))


def test_a_start_time_in_the_past_starts_now() -> None:
    pool = pool_of()
    pool.ask("late", startTime=clock("-1h"))
    pool.look()
    assert pool.says("late") == "True/Granted"


def test_a_start_that_passes_while_nobody_leads_the_pool_starts_at_once() -> None:
    pool = pool_of()
    lease = pool.ask("late", startTime=clock("10m"))
    pool.now = at("20m")
    pool.change(lease)
    pool.look()
    assert pool.starts() == {"uid-late": at("20m")}


def test_a_promise_counts_against_its_tenants_limit_from_its_start_on() -> None:
    policy = make_pool(tenants=[{"name": "red", "limit": {"cpu": "8"}}])
    pool = Rehearsal(policy, teams={"team-a": "red"})
    pool.ask("later", cpu="6", startTime=clock("1h"))
    pool.ask("across", cpu="4", durationSeconds=7200)
    pool.ask("before", cpu="4", durationSeconds=1800)
    pool.look()
    assert pool.lease("later").status["tenant"] == "red"
    assert pool.says("across") == "False/WaitingForQuota"
    assert pool.says("before") == "True/Granted"
    pool.until("1h")
    assert pool.says("later") == "True/Granted"


@pytest.mark.parametrize(
    ("how", "due"),
    [({}, "10m"), ({"startTime": clock("1h")}, "1h10m"), ({"startTime": clock("-1h"), "age": "1m"}, "9m")],
)
def test_a_lease_that_did_not_start_in_time_has_failed(how: dict[str, Any], due: str) -> None:
    pool = pool_of()
    pool.ask("held", cpu="16", durationSeconds=86_000)
    pool.look()
    pool.ask("waits", cpu="16", startDeadlineSeconds=600, **how)
    pool.look()
    pool.now = at(due) - 1
    pool.look()
    assert not pool.lease("waits").finished
    pool.until(due)
    assert pool.says("waits", "Finished") == "True/Failed"
    assert pool.lease("waits").status["release"]["cause"] == "StartDeadlineExceeded"
    assert pool.lease("waits").status["phase"] == "Failed"
    assert ("waits", "StartDeadlineExceeded") in pool.notices


# --- renewals against promises ---


def promised_pool(action: str, **how: Any) -> Rehearsal:
    """Two leases of 8 cpu hold node-1 for an hour from noon; 12 cpu are promised from half past one on."""
    pool = pool_of(promiseConflictAction=action, maxDurationSeconds=7200, **how)
    for name in ("a", "b"):
        pool.ask(name, cpu="8", durationSeconds=3600, memory="1Gi")
    pool.look()
    pool.ask("later", cpu="12", memory="1Gi", startTime=clock("1h30m"), durationSeconds=3600)
    pool.look()
    assert pool.state.calendar.promises["uid-later"].start == at("1h30m")
    return pool


def renew(pool: Rehearsal, *names: str) -> None:
    for name in names:
        pool.change(renewed(pool.lease(name)))
    pool.look()


def test_a_renewal_is_cut_where_a_promise_begins() -> None:
    pool = promised_pool("Cut").until("50m")
    renew(pool, "a")
    lease = pool.lease("a")
    assert lease.deadline("expirationTime") == at("1h29m30s"), "the grace must be over by the start"
    assert pool.says("a", "ExpiringSoon") == "True/PromisedStart"
    pool.until("1h20m")
    renew(pool, "a")
    assert pool.lease("a").deadline("expirationTime") == at("1h29m30s")
    pool.until("1h30m")
    assert pool.lease("a").finished
    assert pool.starts()["uid-later"] == at("1h30m")


def test_a_renewal_into_a_promise_is_refused_where_the_pool_says_so() -> None:
    pool = promised_pool("Refuse").until("50m")
    renew(pool, "a")
    lease = pool.lease("a")
    assert lease.deadline("expirationTime") == at("1h")
    assert lease.status["renewal"]["count"] == 0
    assert pool.says("a", "ExpiringSoon") == "True/PromisedStart"
    pool.until("1h30s")
    assert pool.says("a", "Finished") == "True/Expired", "a renewal that was refused keeps nothing"
    assert pool.lease("a").status["release"]["cause"] == "TermEnded"


def test_a_lease_past_its_end_that_asks_again_ends_when_it_can_have_no_more() -> None:
    pool = promised_pool("Cut").until("50m")
    renew(pool, "a")
    pool.until("1h29m45s")
    renew(pool, "a")
    pool.until("1h30m")
    assert pool.lease("a").finished
    assert pool.starts()["uid-later"] == at("1h30m")


def test_of_two_renewals_that_only_together_break_a_promise_one_is_cut() -> None:
    pool = pool_of(maxDurationSeconds=7200)
    for name in ("a", "b"):
        pool.ask(name, cpu="4", memory="1Gi", durationSeconds=3600)
    pool.look()
    pool.ask("later", cpu="10", memory="1Gi", startTime=clock("1h30m"), durationSeconds=3600)
    pool.until("50m")
    renew(pool, "a", "b")
    ends = [pool.lease(name).deadline("expirationTime") for name in ("a", "b")]
    assert ends == [at("1h50m"), at("1h29m30s")]
    pool.until("1h30m")
    assert pool.starts()["uid-later"] == at("1h30m")


def test_a_renewal_out_of_the_way_of_a_promise_is_as_long_as_ever() -> None:
    pool = promised_pool("Refuse")
    pool.change(edited(pool.lease("later"), desiredState="Released"))
    pool.until("50m")
    renew(pool, "a")
    assert pool.lease("a").deadline("expirationTime") == at("1h50m")


@pytest.mark.parametrize("grace", [0, 30])
def test_a_renewal_asked_for_when_the_promise_is_due_keeps_the_lease_for_no_instant(grace: int) -> None:
    pool = pool_of(gracePeriodSeconds=grace)
    pool.ask("a", cpu="8", durationSeconds=3600 - grace)
    pool.look()
    pool.ask("later", cpu="12", startTime=clock("1h"), durationSeconds=600)
    pool.until("59m59s")
    pool.now = at("1h")
    pool.change(renewed(pool.lease("a")))
    pool.look()
    assert pool.lease("a").finished
    assert pool.starts()["uid-later"] == at("1h")


@pytest.mark.parametrize(("action", "end"), [("Cut", "1h29m30s"), ("Refuse", "1h")])
def test_a_session_renews_no_further_than_a_promise_allows(action: str, end: str) -> None:
    pool = pool_of(promiseConflictAction=action, heartbeatTimeoutSeconds=3600)
    pool.sessions = {("team-a", "worker"): make_session(renewed="1h")}
    pool.ask(
        "a", cpu="8", durationSeconds=3600, liveness="Session", holder={"sessionRef": {"name": "worker"}}
    )
    pool.look()
    pool.ask("later", cpu="12", startTime=clock("1h30m"), durationSeconds=600)
    pool.until("59m")
    assert pool.lease("a").deadline("expirationTime") == at(end)
    assert pool.says("a", "ExpiringSoon") == "True/PromisedStart"
    pool.until("1h30m")
    assert pool.lease("a").finished
    assert pool.starts()["uid-later"] == at("1h30m")


def test_a_lease_that_jumped_the_queue_may_not_stay_beyond_the_start_it_was_let_past() -> None:
    pool = pool_of("Backfill")
    pool.ask("held", cpu="8", memory="1Gi", durationSeconds=3600)
    pool.look()
    pool.ask("head", cpu="12", memory="1Gi", durationSeconds=600)
    pool.look()
    pool.ask("jumps", cpu="8", memory="1Gi", durationSeconds=1200)
    pool.look()
    assert pool.says("head") == "False/WaitingForCapacity"
    assert pool.lease("head").status["queue"] == {
        "approximatePosition": 1,
        "estimatedStartTime": clock("1h30s"),
    }
    jumper = pool.lease("jumps")
    assert (jumper.deadline("expirationTime"), jumper.deadline("maxExpirationTime")) == (at("20m"), at("1h"))
    pool.until("19m")
    renew(pool, "jumps")
    pool.until("38m")
    renew(pool, "jumps")
    pool.until("57m")
    renew(pool, "jumps")
    assert pool.lease("jumps").deadline("expirationTime") == at("1h")
    pool.until("1h30s")
    assert pool.starts()["uid-head"] == at("1h30s")


def test_who_jumped_the_queue_keeps_its_end_when_the_next_operator_finishes_its_grant() -> None:
    pool = pool_of("Backfill")
    pool.ask("held", cpu="8", memory="1Gi", durationSeconds=3600)
    pool.look()
    pool.ask("head", cpu="12", memory="1Gi")
    pool.ask("jumps", cpu="8", memory="1Gi", durationSeconds=1200)
    entries = pool.commit(pool.decide())
    assert [(entry.name, entry.not_after) for entry in entries] == [("jumps", at("1h30s"))]
    pool.restart(entries)
    assert pool.lease("jumps").deadline("maxExpirationTime") == at("1h")


# --- room that others must make ---

URGENT = {"withinTenant": "LowerPriority"}


def contested(cpu: str = "16", **how: Any) -> Rehearsal:
    """A lease holds `cpu` of node-1 for an hour; an urgent one for 8 cpu has just come."""
    pool = Rehearsal(make_pool(gracePeriodSeconds=60, maxDeferSeconds=120, preemption=URGENT, **how))
    pool.ask("held", cpu=cpu, memory="1Gi", durationSeconds=3600)
    pool.look()
    pool.ask("urgent", cpu="8", memory="1Gi", priority=5, durationSeconds=600)
    pool.look()
    return pool


def test_a_lease_is_asked_to_go_for_a_more_urgent_one_and_has_its_grace() -> None:
    pool = contested()
    assert pool.says("held", "DisruptionTarget") == "True/Preempted"
    assert pool.lease("held").status["revocation"] == {"noticeTime": clock(), "preemptorUID": "uid-urgent"}
    assert pool.lease("held").status["deadlines"]["next"] == {"time": clock("1m"), "cause": "Revocation"}
    assert pool.says("urgent") == "False/WaitingForVictims"
    assert pool.lease("urgent").status["queue"] == {
        "approximatePosition": 1,
        "estimatedStartTime": clock("1m"),
    }
    text = pool.lease("urgent").conditions["Allocated"]["message"]
    assert text == f"One lease was asked to go by {clock('1m')}; the room is kept for this one."
    pool.ask("other", cpu="1", memory="1Gi", priority=9)
    pool.until("59s")
    assert pool.lease("held").allocated
    pool.until("1m")
    assert pool.lease("held").status["release"]["cause"] == "Preempted"
    assert pool.says("held", "Finished") == "True/Revoked"
    assert pool.starts()["uid-urgent"] == at("1m")
    assert pool.state.holds == {}
    assert pool.state.calendar.promises == {}


def test_a_borrower_is_called_back_by_whoever_is_guaranteed_the_room() -> None:
    policy = make_pool(
        gracePeriodSeconds=60,
        preemption={"borrowers": "Reclaim"},
        tenants=[{"name": "red", "guaranteed": {"cpu": "8", "memory": "8Gi"}}, {"name": "blue"}],
    )
    pool = Rehearsal(policy, teams={"team-r": "red", "team-b": "blue"})
    pool.ask("borrows", cpu="16", memory="1Gi", namespace="team-b", priority=9)
    pool.look()
    pool.ask("owns", cpu="6", memory="1Gi", namespace="team-r")
    pool.look()
    assert pool.says("borrows", "DisruptionTarget") == "True/TenantReclaim"
    pool.ask("more", cpu="6", memory="1Gi", namespace="team-b", priority=9)
    pool.until("1m")
    assert pool.starts()["uid-owns"] == at("1m")
    assert pool.lease("borrows").status["release"]["cause"] == "TenantReclaim"
    pool.restart()
    assert displaced(pool.state) == {}


@pytest.mark.parametrize(("asked", "gone"), [(90, "2m30s"), (600, "3m")])
def test_a_deferral_moves_the_room_that_is_being_made(asked: int, gone: str) -> None:
    pool = contested()
    pool.until("30s")
    pool.change(edited(pool.lease("held"), deferSeconds=asked))
    pool.look()
    assert pool.lease("held").deadline("revocationTime") == at(gone)
    assert pool.lease("held").status["revocation"] == {
        "noticeTime": clock(),
        "preemptorUID": "uid-urgent",
        "deferSeconds": min(asked, 120),
    }
    assert pool.state.calendar.promises["uid-urgent"].start == at(gone)
    pool.until("2m29s")
    assert pool.lease("urgent").status["queue"]["estimatedStartTime"] == clock(gone)
    pool.until(gone)
    assert pool.starts()["uid-urgent"] == at(gone)


def test_who_leaves_early_makes_room_at_once() -> None:
    pool = contested()
    pool.until("10s")
    pool.change(edited(pool.lease("held"), desiredState="Released"))
    pool.look()
    assert pool.starts()["uid-urgent"] == at("10s")


@pytest.mark.parametrize("how", ["released", "deleted", "less", "gone"])
def test_a_notice_is_taken_back_when_whom_it_was_for_needs_it_no_more(how: str) -> None:
    pool = contested("10")
    assert pool.says("held", "DisruptionTarget") == "True/Preempted"
    pool.until("10s")
    if how == "released":
        pool.change(edited(pool.lease("urgent"), desiredState="Released"))
    elif how == "less":
        pool.change(edited(pool.lease("urgent"), resources={"cpu": "6", "memory": "1Gi"}))
    elif how == "deleted":
        pool.change(edited(pool.lease("urgent"), deleted=True))
    else:
        pool.state.forget("uid-urgent")
    pool.look()
    assert pool.says("held", "DisruptionTarget") == ""
    assert "revocation" not in pool.lease("held").status
    assert "revocationTime" not in pool.lease("held").status["deadlines"]
    assert pool.lease("held").status["deadlines"]["next"]["cause"] == "Expiration"
    assert pool.state.calendar.promises == {}
    pool.until("10m")
    assert pool.lease("held").allocated


def test_a_notice_outlives_its_operator() -> None:
    pool = contested()
    pool.until("30s")
    pool.restart()
    assert displaced(pool.state) == {"uid-held": "Preempted"}
    assert pool.state.calendar.promises["uid-urgent"].start == at("1m")
    writes = len(pool.writes)
    pool.look()
    assert len(pool.writes) == writes, "nobody is told twice"
    pool.until("1m")
    assert pool.starts()["uid-urgent"] == at("1m")


def test_a_notice_for_somebody_who_is_gone_is_taken_back_by_the_next_operator() -> None:
    pool = contested()
    pool.state.forget("uid-urgent")
    pool.restart()
    pool.look()
    assert pool.says("held", "DisruptionTarget") == ""
    pool.until("10m")
    assert pool.lease("held").allocated


def test_a_notice_that_no_longer_makes_enough_room_is_not_taken_up_after_a_restart() -> None:
    pool = contested()
    pool.nodes = {"node-1": make_node(cpu="6")}
    pool.restart()
    assert pool.state.holds == {}


def test_room_that_was_made_in_vain_is_kept_no_longer() -> None:
    pool = contested()
    pool.nodes["node-1"] = make_node(cpu="6")
    add_node(pool.state, pool.nodes["node-1"])
    pool.until("1m")
    assert pool.lease("held").finished
    assert pool.state.holds == {}
    assert pool.says("urgent") == "False/NoMatchingNodes"
    assert pool.state.calendar.promises == {}
    pool.ask("small", cpu="6", memory="1Gi")
    pool.look()
    assert pool.says("small") == "True/Granted"


def test_nobody_is_asked_to_go_before_its_protection_ends_and_then_at_once() -> None:
    pool = contested(guaranteedSeconds=300)
    assert pool.says("held", "DisruptionTarget") == ""
    pool.until("4m59s")
    assert pool.says("held", "DisruptionTarget") == ""
    pool.until("5m")
    assert pool.says("held", "DisruptionTarget") == "True/Preempted"
    pool.until("6m")
    assert pool.starts()["uid-urgent"] == at("6m")


def test_the_room_that_is_being_made_goes_to_nobody_else() -> None:
    pool = Rehearsal(make_pool(gracePeriodSeconds=60, preemption=URGENT))
    pool.ask("held", cpu="10", memory="1Gi")
    pool.look()
    pool.ask("urgent", cpu="14", memory="1Gi", priority=5)
    pool.look()
    pool.ask("large", cpu="4", memory="1Gi")
    pool.ask("small", cpu="2", memory="1Gi")
    pool.look()
    assert pool.says("large") == "False/RoomPromised"
    assert pool.says("small") == "True/Granted"
    pool.until("1m")
    assert pool.starts()["uid-urgent"] == at("1m")


def test_a_renewal_of_a_lease_that_is_asked_to_go_changes_nothing() -> None:
    pool = contested()
    renew(pool, "held")
    assert pool.lease("held").deadline("expirationTime") == at("1h")
    pool.until("1m")
    assert pool.starts()["uid-urgent"] == at("1m")


@pytest.mark.parametrize("how", [{"resources": {"gpu": "1"}}, {"mode": "DryRun"}])
def test_a_wait_that_ends_in_this_pass_is_not_written_about_twice(how: dict[str, Any]) -> None:
    pool = pool_of()
    lease = pool.ask("late", startDeadlineSeconds=60, **how)
    pool.quotes[lease.uid] = Offer("ci", at()), None
    pool.now = at("2m")
    decided = pool.decide()
    assert [change.lease.name for change in decided.changes] == ["late"]
    pool.put(lease, decided.changes[0].step)
    assert pool.says("late", "Finished") == "True/Failed"


# --- handovers ---


def handing(**how: Any) -> Rehearsal:
    """A lease that "one" holds, and that is to go to "two"."""
    play = Rehearsal(how.pop("policy", None) or make_pool(gracePeriodSeconds=30))
    play.sessions = how.pop("sessions", {})
    play.ask("a", holder={"identity": "one", **how.pop("first", {})}, **how)
    play.look()
    return play


def give(play: Rehearsal, identity: str = "two", **spec: Any) -> None:
    holder = {"identity": identity, **spec.pop("holder", {})}
    play.change(edited(play.lease("a"), holder=holder, **spec))


def test_a_new_holder_gets_a_larger_token_and_nothing_else_moves() -> None:
    play = handing()
    before = play.lease("a")
    assert before.status["holder"] == {"identity": "one"}
    play.until("1m")
    give(play)
    play.look()
    after = play.lease("a")
    assert (after.token, after.status["holder"]) == (before.token + 1, {"identity": "two"})
    assert (after.slices, after.status["deadlines"]) == (before.slices, before.status["deadlines"])
    assert ("a", "HandedOver") in play.notices
    assert after.status["observedGeneration"] == after.generation
    play.change(edited(after, holder=None))
    play.look()
    assert (play.lease("a").token, play.lease("a").status["holder"]) == (after.token + 1, {})


def test_what_is_said_before_the_handover_is_about_the_spec_from_before() -> None:
    play = handing()
    told = play.lease("a").status["observedGeneration"]
    give(play, resources={"cpu": "1", "memory": "4Gi"})
    (change,) = play.decide().changes
    shrunk = written(change.lease, change.step)
    assert shrunk.slices[0].amounts["cpu"] == 1000
    assert shrunk.status["observedGeneration"] == told
    assert {row["observedGeneration"] for row in shrunk.status["conditions"]} == {told}
    play.change(shrunk)
    play.look()
    assert play.lease("a").status["observedGeneration"] > told
    assert play.lease("a").slices[0].amounts["cpu"] == 1000


@pytest.mark.parametrize("spec", [{"desiredState": "Released"}, {"deleted": True}])
def test_a_lease_that_ends_is_handed_to_nobody(spec: dict[str, Any]) -> None:
    play = handing()
    token = play.lease("a").token
    give(play, **spec)
    assert play.decide().grants == ()
    play.state.attention.add("uid-a")
    (change,) = play.decide().changes
    over = written(change.lease, change.step)
    assert over.finished
    assert (over.token, over.status["holder"]) == (token, {"identity": "one"})
    assert over.status["observedGeneration"] == over.generation


def test_a_notice_goes_on_for_the_next_holder() -> None:
    play = handing()
    play.change(edited(play.lease("a"), annotations={"leasehold.dev/revoke": "why"}))
    play.look()
    give(play)
    play.until("10s")
    assert play.lease("a").status["holder"] == {"identity": "two"}
    assert play.lease("a").deadline("revocationTime") == at("30s")
    play.until("30s")
    assert play.says("a", "Finished") == "True/Revoked"


def test_the_next_holder_must_show_up_and_the_one_before_no_longer_counts() -> None:
    one, two = make_session(name="one"), make_session(name="two", renewed="10s")
    live = {("team-a", "one"): one}
    policy = make_pool(gracePeriodSeconds=30, claimTimeoutSeconds=60, heartbeatTimeoutSeconds=60)
    first = {"sessionRef": {"name": "one"}}
    play = handing(policy=policy, sessions=live, first=first, liveness="Session")
    assert play.says("a", "HolderLive") == "True/Fresh"
    play.until("5s")
    give(play, holder={"sessionRef": {"name": "two"}})
    play.look()
    assert (play.says("a", "Claimed"), play.says("a", "HolderLive")) == ("False/WaitingForHolder", "")
    assert play.lease("a").deadline("claimTime") == at("65s")
    play.sessions = {**live, ("team-a", "two"): two}
    play.state.attention.add("uid-a")
    play.until("11s")
    assert (play.says("a", "Claimed"), play.says("a", "HolderLive")) == ("True/SessionLive", "True/Fresh")


def test_nobody_is_taken_for_silent_while_a_lease_changes_hands() -> None:
    policy = make_pool(gracePeriodSeconds=0, heartbeatTimeoutSeconds=5)
    play = handing(policy=policy, sessions={("team-a", "one"): make_session(name="one")}, liveness="Session",
                   first={"sessionRef": {"name": "one"}})  # fmt: skip
    give(play, holder={"sessionRef": {"name": "nobody"}})
    world = play.world()
    decided = plan(play.state, world, at("10m"), {"uid-a"}, None, batch=0)
    assert decided.changes == ()
    assert list(play.state.handovers) == ["uid-a"], "it is done as soon as there is a commit"


def test_a_renewal_that_came_with_the_change_counts_for_the_term_and_is_no_sign_of_the_next_holder() -> None:
    policy = make_pool(gracePeriodSeconds=0, heartbeatTimeoutSeconds=60, claimTimeoutSeconds=60)
    play = handing(policy=policy, liveness="Renew", durationSeconds=600)
    play.change(renewed(play.lease("a")))
    play.until("30s")
    assert play.says("a", "HolderLive") == "True/Fresh"
    give(play, renewTime="2026-11-22T12:00:45Z")
    play.look()
    after = play.lease("a")
    assert after.deadline("expirationTime") == at("10m30s")
    assert play.says("a", "Claimed") == "False/WaitingForHolder"
    assert after.deadline("heartbeatTime") is None
    assert after.status["renewal"]["count"] == 2
    play.change(renewed(after))
    play.look()
    assert play.says("a", "Claimed") == "True/HolderRenewed"


def test_a_lease_granted_before_holders_were_written_down() -> None:
    play = handing(liveness="Renew")
    play.change(renewed(play.lease("a")))
    play.look()
    old = play.lease("a")
    old = edited(old, status={key: v for key, v in old.status.items() if key != "holder"})
    play.state.forget("uid-a")
    play.change(old)
    writes = len(play.writes)
    play.look()
    assert len(play.writes) == writes, "it is its holder's, and need not be told"
    play.change(edited(play.lease("a"), annotations={"leasehold.dev/revoke": "why"}))
    play.look()
    assert play.lease("a").status["holder"] == {"identity": "one"}, "with the next write"
    play.state.forget("uid-a")
    play.change(edited(old, priority=3))
    play.look()
    new = play.lease("a")
    assert (new.token, new.status["holder"]) == (old.token + 1, {"identity": "one"}), (
        "nobody can tell what changed"
    )
    assert play.says("a", "Claimed") == "True/HolderRenewed"


def test_nobody_is_named_beside_the_token_of_another_when_the_end_has_begun() -> None:
    play = handing(policy=make_pool(cooldownSeconds=60))
    old = play.lease("a")
    old = edited(old, status={key: v for key, v in old.status.items() if key != "holder"})
    play.change(edited(old, holder={"identity": "two"}, desiredState="Released"))
    play.look()
    assert play.lease("a").releasing
    play.until("2m")
    assert play.lease("a").finished
    assert "holder" not in play.lease("a").status


def test_who_asked_first_is_handed_over_first_however_often_others_ask_again() -> None:
    play = Rehearsal()
    for name in ("a", "b", "c"):
        play.ask(name, cpu="1", memory=None, holder={"identity": "one"})
    play.look()

    def ask(name: str, identity: str) -> None:
        play.change(edited(play.lease(name), holder={"identity": identity}))

    for name in ("c", "b", "a"):
        ask(name, "two")
    for i in range(3):
        (entry,) = play.commit(plan(play.state, play.world(), play.now, (), None, batch=1))
        assert entry.name == "cba"[i]
        play.write(entry)
        ask(entry.name, f"more-{i}")


def test_a_handover_is_a_short_entry_whatever_the_lease_holds() -> None:
    play = handing(count=8, cpu="1", memory=None)
    give(play)
    (grant,) = play.decide().grants
    assert (grant.hands_over, grant.nodes) == (True, ()), "the pool object is bounded for grants alone"


def test_a_handover_that_was_committed_counts_for_nothing_but_itself() -> None:
    play = handing()
    held = play.state.ledger.get("uid-a")
    give(play)
    (entry,) = play.commit(play.decide())
    assert (entry.holder, entry.takes_room) == (("two", ""), False)
    assert play.state.ledger.get("uid-a") == held
    assert audit(play.state) == []
    assert play.decide().grants == (), "once"
    play.state.forget("uid-a")
    assert audit(play.state) == []
    assert len(play.state.ledger) == 0
