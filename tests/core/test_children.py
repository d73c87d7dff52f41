"""Sub-leases as a pool's operator serves them, from their request to their end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import (
    add_node,
    at,
    clock,
    condition,
    edited,
    granted,
    lease_document,
    make_lease,
    make_node,
    make_pool,
    make_report,
    make_session,
    renewed,
)
from tests.rehearsal import Rehearsal

from leasehold.api.names import LeaseReason
from leasehold.core import children
from leasehold.core.audit import audit
from leasehold.core.booking import Entry
from leasehold.core.children import MOST_SLICES, serve_children
from leasehold.core.course import Step
from leasehold.core.lease import Lease, lease_of
from leasehold.core.planning import plan
from leasehold.core.pool_status import Facts, figures_of, status_of
from leasehold.core.queueing import Wait
from leasehold.core.times import format_time


def house(*, cpu: str = "8", policy: Any = None, nodes: Any = (), **how: Any) -> Rehearsal:
    """A pool with a lease "all" that is held."""
    play = Rehearsal(policy, nodes)
    play.ask("all", cpu=cpu, memory=None, **how)
    play.look()
    return play


def child(play: Rehearsal, name: str, cpu: str = "2", parent: str = "all", **how: Any) -> Lease:
    how.setdefault("memory", None)
    return play.ask(name, cpu=cpu, parentRef={"name": parent}, **how)


def held(play: Rehearsal, name: str) -> list[tuple[str, int]]:
    return [(part.node, part.amounts["cpu"]) for part in play.lease(name).slices]


def test_a_child_is_granted_out_of_its_parent_and_the_pool_lends_nothing_more() -> None:
    play = house()
    before = (figures_of(play.state), status_of(play.state, Facts(1, False, []), {}, play.now)["leases"])
    child(play, "job")
    play.look()
    assert held(play, "job") == [("node-1", 2000)]
    assert play.lease("job").parent_uid == "uid-all"
    assert play.lease("job").token > play.lease("all").token
    leases = status_of(play.state, Facts(1, False, []), {}, play.now)["leases"]
    assert (figures_of(play.state), leases) == (before[0], {**before[1], "children": 1})
    assert "tenant" not in play.lease("job").status
    assert ("job", "Granted") in play.notices


def test_slices_lie_on_the_parents_nodes_as_the_child_wants_them() -> None:
    nodes = [make_node(name, cpu="4") for name in ("n1", "n2", "n3")]
    play = house(cpu="4", nodes=nodes, count=2, placement={"mode": "DistinctNodes"})
    mine = {part.node for part in play.lease("all").slices}
    child(play, "spread", "1", count=2, placement={"mode": "DistinctNodes"})
    child(play, "chosen", "1", placement={"nodeSelector": {"kubernetes.io/hostname": min(mine)}})
    child(play, "elsewhere", "1", placement={"nodeSelector": {"kubernetes.io/hostname": "nowhere"}})
    play.look()
    assert {node for node, _ in held(play, "spread")} == mine
    assert held(play, "chosen") == [(min(mine), 1000)]
    assert play.says("elsewhere", "Accepted") == "False/ExceedsParent"


def test_the_higher_priority_is_served_first_and_who_waits_is_told_what_is_short() -> None:
    play = house(cpu="4")
    child(play, "late", "3", age="1m")
    child(play, "urgent", "3", age="1m", priority=5)
    play.look()
    assert held(play, "urgent")
    assert play.says("late", "Ready") == "False/ParentFull"
    (row,) = play.lease("late").status["rejections"]
    assert (row["reason"], row["resource"], row["shortBy"]) == ("Insufficient", "cpu", "2")
    play.change(edited(play.lease("urgent"), desiredState="Released"))
    play.look()
    assert held(play, "late")
    assert "rejections" not in play.lease("late").status


@pytest.mark.parametrize(
    ("strategy", "passes"), [("BestEffortFIFO", True), ("StrictFIFO", False), ("Backfill", False)]
)
def test_whether_a_small_one_may_pass_is_the_pools_policy(strategy: str, passes: bool) -> None:
    play = house(cpu="4", policy=make_pool(queue=strategy))
    child(play, "first", "2")
    play.look()
    child(play, "big", "4", age="2m")
    child(play, "small", "1", age="1m")
    play.look()
    assert play.says("big") == "False/ParentFull"
    assert play.says("small") == ("True/Granted" if passes else "False/BlockedByHead")


def queue_of(play: Rehearsal, name: str) -> tuple[int | None, str | None]:
    told = play.lease(name).status.get("queue", {})
    return told.get("approximatePosition"), told.get("estimatedStartTime")


@pytest.mark.parametrize(
    ("strategy", "second"), [("BestEffortFIFO", "10m"), ("StrictFIFO", "30m"), ("Backfill", "30m")]
)
def test_who_waits_is_told_its_place_and_when_its_turn_comes(strategy: str, second: str) -> None:
    play = house(policy=make_pool(queue=strategy, gracePeriodSeconds=0), durationSeconds=7200)
    child(play, "short", "4", durationSeconds=600)
    child(play, "long", "4", durationSeconds=1200)
    play.look()
    child(play, "big", "8", durationSeconds=600, priority=1)
    child(play, "small", "4", durationSeconds=600)
    play.look()
    assert queue_of(play, "big") == (1, clock("20m"))
    assert queue_of(play, "small") == (2, clock(second))
    play.until(second)
    assert held(play, "small")
    assert "queue" not in play.lease("small").status


def test_nobody_is_told_a_start_after_the_end_of_the_parent() -> None:
    play = house(policy=make_pool(gracePeriodSeconds=0), durationSeconds=900)
    child(play, "first", "8", durationSeconds=600)
    play.look()
    child(play, "second", "8", durationSeconds=600)
    child(play, "third", "8", durationSeconds=600)
    play.look()
    assert queue_of(play, "second") == (1, clock("10m"))
    assert queue_of(play, "third") == (2, None), "the parent ends at 15m, unless it is renewed"


def test_only_the_first_in_line_hear_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FORETOLD", 2)
    play = house(policy=make_pool(gracePeriodSeconds=0), durationSeconds=7200)
    child(play, "first", "8", durationSeconds=600)
    play.look()
    for i in range(4):
        child(play, f"w{i}", "8", durationSeconds=600)
    play.look()
    assert [queue_of(play, f"w{i}") for i in range(4)] == [
        (1, clock("10m")),
        (2, clock("20m")),
        (3, None),
        (4, None),
    ]
    play.until("10m")
    assert held(play, "w0")
    assert queue_of(play, "w2") == (2, clock("30m"))


def test_when_turns_come_is_found_out_once_a_second_and_not_forgotten() -> None:
    play = house(policy=make_pool(gracePeriodSeconds=0), durationSeconds=7200)
    child(play, "first", "8", durationSeconds=600)
    play.look()
    child(play, "second", "8", durationSeconds=600)
    play.look()
    child(play, "third", "8", durationSeconds=600)
    play.look()
    assert queue_of(play, "third") == (2, None), "it was found out in this very second"
    assert play.next() == at("1s")
    play.until("1s")
    assert queue_of(play, "second") == (1, clock("10m"))
    assert queue_of(play, "third") == (2, clock("20m"))
    play.until("2s")
    assert play.next() == at("10m"), "it comes to rest"


SUB_LEASES = st.fixed_dictionaries(
    {
        "cpu": st.sampled_from(["1", "2", "3", "5", "8"]),
        "count": st.sampled_from([1, 1, 1, 2, 3]),
        "durationSeconds": st.sampled_from([60, 90, 300, 301, 600]),
        "priority": st.sampled_from([0, 0, 3]),
        "placement": st.sampled_from([{}, {"mode": "SameNode"}, {"mode": "DistinctNodes"}]),
    }
)


@given(
    queue=st.sampled_from(["StrictFIFO", "BestEffortFIFO", "Backfill"]),
    cooldown=st.sampled_from([0, 45]),
    strategy=st.sampled_from(["BestFit", "Spread"]),
    first=st.lists(SUB_LEASES, max_size=5),
    then=st.lists(SUB_LEASES, min_size=1, max_size=8),
)
@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_with_no_early_releases_and_no_arrivals_every_estimate_of_a_sub_lease_is_exact(
    queue: str, cooldown: int, strategy: str, first: list[dict[str, Any]], then: list[dict[str, Any]]
) -> None:
    policy = make_pool(queue=queue, strategy=strategy, gracePeriodSeconds=30, cooldownSeconds=cooldown)
    nodes = [make_node("n1", cpu="8"), make_node("n2", cpu="8"), make_node("n3", cpu="6")]
    play = house(
        cpu="6",
        policy=policy,
        nodes=nodes,
        count=2,
        placement={"mode": "DistinctNodes"},
        durationSeconds=72_000,
    )
    for i, how in enumerate(first):
        found = child(play, f"c{i}", **how)
        play.look()
        if play.lease(found.name).pending:
            play.change(edited(play.lease(found.name), desiredState="Released"))
    for i, how in enumerate(then, len(first)):
        child(play, f"c{i}", **how)
    play.until("1s")
    waiting = [lease for lease in play.state.leases.values() if lease.parent and lease.pending]
    told = {
        lease.uid: queue_of(play, lease.name)[1]
        for lease in waiting
        if lease.reason("Ready") != "ExceedsParent"
    }
    assert None not in told.values()
    play.until("6h")
    assert told == {uid: format_time(instant) for uid, instant in play.starts().items() if uid in told}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"cpu": "9"}, "ExceedsParent"),
        ({"cpu": None, "resources": {"vendor.example/gpu": 1}}, "ResourceNotOffered"),
        ({"durationSeconds": 10**7}, "DurationTooLong"),
        ({"parent": "nobody"}, "ParentNotFound"),
        ({"parent": "middle"}, "ParentIsChild"),
        ({"parent": "other"}, "ParentInOtherPool"),
    ],
)
def test_what_can_never_be_is_refused(how: dict[str, Any], reason: str) -> None:
    play = house()
    child(play, "middle", "1")
    play.ask("other", pool="elsewhere", cpu="1", memory=None)
    play.look()
    child(play, "job", **how)
    play.look()
    assert play.says("job", "Accepted") == f"False/{reason}"
    assert play.says("job") == ""


def test_a_refusal_is_taken_back_when_there_is_a_parent_after_all() -> None:
    play = Rehearsal()
    child(play, "job")
    play.look()
    assert play.says("job", "Ready") == "False/ParentNotFound"
    play.ask("all", cpu="8", memory=None)
    play.look()
    assert (play.says("job"), play.says("job", "Accepted")) == ("True/Granted", "")


def test_children_wait_while_the_parent_does_and_while_it_is_ending() -> None:
    play = Rehearsal(make_pool(gracePeriodSeconds=60))
    play.ask("blocker", cpu="16", memory=None)
    play.look()
    play.ask("all", cpu="16", memory=None)
    child(play, "job")
    play.look()
    assert play.says("job") == "False/ParentNotReady"
    play.change(edited(play.lease("blocker"), desiredState="Released"))
    play.look()
    assert held(play, "job")
    play.change(edited(play.lease("all"), annotations={"leasehold.dev/revoke": "why"}))
    child(play, "late")
    play.look()
    assert play.says("late") == "False/ParentNotReady"
    assert play.says("job", "DisruptionTarget") == "True/ParentEnded"
    assert play.lease("job").deadline("revocationTime") == at("1m")
    play.change(edited(play.lease("all"), annotations={"leasehold.dev/revoke": None}))
    play.look()
    assert (play.says("job", "DisruptionTarget"), play.says("late")) == ("", "True/Granted")


def test_a_parent_whose_term_is_over_gives_nothing_until_it_is_renewed() -> None:
    play = house(policy=make_pool(gracePeriodSeconds=60), durationSeconds=60)
    play.until("1m30s")
    child(play, "job")
    play.look()
    assert play.says("job") == "False/ParentNotReady"
    play.change(renewed(play.lease("all")))
    play.look()
    assert held(play, "job")


def test_what_a_parents_own_pods_use_is_not_given_away_nor_anything_while_one_is_let_go() -> None:
    play = house(cpu="4")
    play.pod_use["all"] = {"node-1": {"cpu": 3000}}
    child(play, "job")
    play.look()
    assert play.says("job") == "False/ParentFull"
    play.pod_use["all"] = None
    play.state.families.due["team-a", "all"] = None
    assert play.decide().grants == ()
    play.pod_use["all"] = {}
    play.look()
    assert held(play, "job")


def test_a_pool_that_is_held_lets_parents_share_and_one_with_wrong_books_does_not() -> None:
    play = house()
    child(play, "job")
    state, world = play.state, play.world()
    wrong = Wait(LeaseReason.LEDGER_INCONSISTENT, "wrong")
    served = serve_children(state, world, play.now, 9, 9, frozenset(), wrong)
    assert served.grants == []
    assert [patch["conditions"][0]["reason"] for _, patch, _ in served.words] == ["LedgerInconsistent"]
    braked = Wait(LeaseReason.POOL_HELD, "held")
    assert len(serve_children(state, world, play.now, 9, 9, frozenset(), braked).grants) == 1


def test_who_waited_because_the_books_were_wrong_is_served_when_they_are_right_again() -> None:
    play = house()
    child(play, "job")
    wrong = Wait(LeaseReason.LEDGER_INCONSISTENT, "wrong")
    served = serve_children(play.state, play.world(), play.now, 9, 9, frozenset(), wrong)
    for lease, patch, notices in served.words:
        play.put(lease, Step(patch, notices=notices))
    assert serve_children(play.state, play.world(), play.now, 9, 9, frozenset(), wrong).words == []
    play.look()
    assert held(play, "job"), "nobody tells of that but the books themselves"


def test_who_waits_for_a_parent_that_waits_reads_that_whether_the_pool_is_held_or_not() -> None:
    play = Rehearsal()
    play.ask("all", resources={"vendor.example/gpu": 1})
    child(play, "early")
    play.look()
    play.nodes = {}
    play.state.remove_node("node-1")
    play.look()
    child(play, "late")
    play.look()
    assert (play.says("all", "Ready"), play.says("all")) == ("False/ResourceNotOffered", "")
    assert (play.says("early"), play.says("late")) == ("False/ParentNotReady", "False/ParentNotReady")
    assert not play.state.families.due, "the hold is not why they wait, so its end is no news to them"


def test_who_waits_gets_what_was_committed_to_one_that_is_gone() -> None:
    play = house(cpu="4")
    child(play, "gone", "3", age="3m")
    (entry,) = play.commit(play.decide())
    child(play, "job", "3")
    play.look()
    play.state.forget(entry.uid)
    play.look()
    assert play.says("job") == "False/ParentFull", "the commitment stands until it is undone"
    play.write(entry)
    play.look()
    assert held(play, "job")


def test_who_waits_for_a_label_is_served_when_a_node_of_the_parent_gets_it() -> None:
    play = house(cpu="4")
    child(play, "job", placement={"nodeSelector": {"zone": "a"}})
    play.look()
    assert play.says("job", "Accepted") == "False/ExceedsParent"
    play.nodes["node-1"] = make_node(labels={"zone": "a"})
    add_node(play.state, play.nodes["node-1"], now=play.now)
    play.look()
    assert held(play, "job") == [("node-1", 2000)]


def test_labels_of_a_node_that_left_the_pool_count_for_children_of_who_stays_there() -> None:
    play = house(cpu="4")
    child(play, "job", placement={"nodeSelector": {"zone": "a"}})
    play.nodes["node-2"] = make_node("node-2")
    add_node(play.state, play.nodes["node-2"], now=play.now)
    play.look()
    play.nodes["node-1"] = make_node(labels={"zone": "a"})
    play.state.remove_node("node-1")
    play.look()
    assert held(play, "job") == [("node-1", 2000)]


def test_a_large_family_keeps_no_other_waiting() -> None:
    play = house(cpu="8")
    play.ask("small", cpu="8", memory=None)
    play.look()
    for i in range(6):
        child(play, f"job-{i}", "1")
    child(play, "one", "1", parent="small")
    for _ in range(2):
        for entry in play.commit(plan(play.state, play.world(), play.now, (), None, batch=4)):
            play.write(entry)
    assert held(play, "one"), "the others were served before it once, and not again"


def test_bounds_leave_the_rest_for_the_next_pass() -> None:
    play = house(cpu="16")
    for i in range(4):
        child(play, f"job-{i}", "1", count=4 if i < 2 else 1)
    world = play.world()
    few = serve_children(play.state, world, play.now, 2, 9, frozenset())
    assert [lease.name for lease, _, _ in few.grants] == ["job-0", "job-1"]
    assert play.state.families.due
    child(play, "big", "20")
    mute = serve_children(play.state, world, play.now, 9, 0, frozenset())
    assert mute.words == []
    assert play.state.families.due
    play.look()
    assert all(held(play, f"job-{i}") for i in range(4))
    assert not play.state.families.due
    assert MOST_SLICES >= 64, "any child fits into one commit"


def test_children_and_handovers_leave_the_queue_its_half_of_a_commit() -> None:
    play = house(cpu="8")
    for i in range(6):
        child(play, f"job-{i}", "1")
    for i in range(6):
        play.ask(f"other-{i}", cpu="100m", memory=None)
    decided = plan(play.state, play.world(), play.now, (), None, batch=4)
    assert len(decided.grants) == 4
    assert sum(1 for grant in decided.grants if grant.parent) == 2
    for i in range(4):
        play.ask(f"mine-{i}", cpu="100m", memory=None, holder={"identity": "one"})
    play.until("1s")
    for i in range(4):
        play.change(edited(play.lease(f"mine-{i}"), holder={"identity": "two"}))
    for i in range(4):
        child(play, f"more-{i}", "100m")
        play.ask(f"others-{i}", cpu="100m", memory=None)
    decided = plan(play.state, play.world(), play.now, (), None, batch=4)
    kinds = [(grant.hands_over, bool(grant.parent)) for grant in decided.grants]
    assert kinds == [(True, False), (False, True), (False, False), (False, False)]


def test_what_nobody_may_be_told_now_is_not_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    play = house(cpu="4")
    for i in range(40):
        child(play, f"job-{i}", "3" if i % 2 else "9")
    drafts: list[str] = []

    def counted(name: str) -> Any:
        draft = getattr(children, name)
        return lambda lease, *more: drafts.append(lease.name) or draft(lease, *more)

    for name in ("keep_waiting", "refuse"):
        monkeypatch.setattr(children, name, counted(name))
    served = serve_children(play.state, play.world(), play.now, 9, 4, frozenset())
    assert len(served.words) == len(drafts) == 4


def test_words_to_children_leave_the_queue_its_half() -> None:
    play = house(cpu="4")
    for i in range(6):
        child(play, f"job-{i}", "9")
        play.ask(f"other-{i}", cpu="99", memory=None)
    decided = plan(play.state, play.world(), play.now, (), None, words=4)
    told = [change.lease.parent for change in decided.changes if change.word]
    assert (told.count("all"), told.count("")) == (2, 2)


# --- terms ---


def test_a_childs_ends_are_its_parents_at_the_latest() -> None:
    policy = make_pool(maxTotalSeconds=900, maxDurationSeconds=900)
    play = house(policy=policy, durationSeconds=600)
    play.until("5m")
    child(play, "job", durationSeconds=900)
    child(play, "short", "1", durationSeconds=60)
    play.look()
    assert play.lease("job").deadline("expirationTime") == at("10m")
    assert play.lease("job").deadline("maxExpirationTime") == at("15m"), (
        "its parent's, not fifteen minutes from now"
    )
    assert play.lease("short").deadline("expirationTime") == at("6m")
    play.change(renewed(play.lease("job")))
    play.until("5m30s")
    assert play.lease("job").deadline("expirationTime") == at("10m")
    assert play.lease("job").status["renewal"]["count"] == 1
    play.change(renewed(play.lease("all")))
    play.look()
    play.change(renewed(play.lease("job")))
    play.look()
    assert play.lease("job").deadline("expirationTime") == at("15m")


def test_a_session_renews_a_child_only_as_far_as_its_parent_and_comes_to_rest() -> None:
    play = house(durationSeconds=60, policy=make_pool(heartbeatTimeoutSeconds=3600, gracePeriodSeconds=0))
    play.sessions = {("team-a", "s"): make_session(name="s")}
    child(play, "job", durationSeconds=60, liveness="Session", holder={"sessionRef": {"name": "s"}})
    play.look()
    play.until("50s")
    assert play.lease("job").deadline("expirationTime") == at("1m")
    writes = len(play.writes)
    play.until("59s")
    assert len(play.writes) == writes
    play.change(edited(renewed(play.lease("all")), durationSeconds=600))
    play.look()
    assert play.lease("job").deadline("expirationTime") == at("1m59s")


@pytest.mark.parametrize("liveness", ["None", "Renew", "Session"])
@pytest.mark.parametrize("name", ["a", "z"])
def test_both_renewals_that_were_there_when_the_operator_came_back_count(name: str, liveness: str) -> None:
    policy = make_pool(heartbeatTimeoutSeconds=86400, claimTimeoutSeconds=86400, gracePeriodSeconds=5)
    how = {"durationSeconds": 60, "liveness": liveness}
    if liveness == "Session":
        how["holder"] = {"sessionRef": {"name": "s"}}
    play = Rehearsal(policy)
    play.sessions = {("team-a", "s"): make_session(name="s")}
    play.ask("all", cpu="8", memory=None, **how)
    play.look()
    child(play, name, **how)
    child(play, f"{name}-quiet", durationSeconds=60)
    play.look()
    if liveness != "Session":
        for one in (name, "all"):
            play.change(renewed(play.lease(one)))
    play.now = at("10m")
    play.look()
    assert (play.says("all", "Ready"), play.says(name, "Ready")) == ("True/Held", "True/Held")
    assert play.lease(name).deadline("expirationTime") == at("11m")
    assert play.says(f"{name}-quiet", "Finished") == "True/Expired"


def test_a_renewal_never_shortens_a_parent_below_its_children() -> None:
    play = house(durationSeconds=600)
    child(play, "job", durationSeconds=600)
    play.look()
    play.change(edited(renewed(play.lease("all")), durationSeconds=60))
    play.look()
    assert play.lease("all").deadline("expirationTime") == at("10m")
    play.change(edited(play.lease("job"), desiredState="Released"))
    play.look()
    play.change(renewed(play.lease("all")))
    play.look()
    assert play.lease("all").deadline("expirationTime") == at("1m")


# --- shrinking ---


def test_a_parent_shrinks_as_far_as_its_children_let_it() -> None:
    play = house(cpu="8")
    child(play, "job", "4")
    play.look()
    play.change(edited(play.lease("all"), resources={"cpu": "3"}))
    child(play, "late", "2")
    play.look()
    assert held(play, "all") == [("node-1", 8000)]
    assert play.says("all", "Degraded") == "True/HeldByChildren"
    assert play.says("late", "Ready") == "False/ParentFull", "what it wants to give up is not given out"
    play.change(edited(play.lease("job"), resources={"cpu": "1"}))
    play.look()
    assert held(play, "all") == [("node-1", 3000)]
    assert play.says("all", "Degraded") == "False/Healthy"
    assert held(play, "late") == [("node-1", 2000)]


# --- ends ---


@pytest.mark.parametrize("deletes", [True, False])
def test_a_parent_that_is_given_back_ends_its_children_first(deletes: bool) -> None:
    play = house(policy=make_pool(cooldownSeconds=60))
    child(play, "job")
    child(play, "hungry", "7")
    play.look()
    gone = {"deleted": True} if deletes else {"desiredState": "Released"}
    play.change(edited(play.lease("all"), **gone))
    play.state.busy.add("uid-job")  # a write to it is under way, which takes its time
    play.look()
    assert play.says("all", "Released") == "False/ChildrenLeaving"
    assert play.says("hungry", "Finished") == "True/Revoked"
    assert ("hungry", "ParentEnded") in play.notices
    assert held(play, "job"), "its parent's room counts as long as it does"
    play.state.busy.discard("uid-job")
    play.state.attention.add("uid-job")
    play.look()
    assert play.says("job", "Finished") == "True/Revoked"
    assert play.lease("job").status["release"]["cause"] == "ParentEnded"
    assert play.says("all", "Released") == "False/CoolingDown", "the room rests once, with the parent"
    play.until("2m")
    assert "uid-all" not in play.state.leases or play.says("all", "Released").startswith("True")


def test_a_child_that_is_given_back_rests_before_a_sibling_gets_its_room() -> None:
    play = house(cpu="2", policy=make_pool(cooldownSeconds=60))
    child(play, "job", "2")
    play.look()
    child(play, "next", "2")
    play.change(edited(play.lease("job"), desiredState="Released"))
    play.until("30s")
    assert play.says("next", "Ready") == "False/ParentFull"
    play.until("61s")
    assert held(play, "next")


def test_a_parents_term_ends_its_children_by_then() -> None:
    play = house(policy=make_pool(gracePeriodSeconds=30), durationSeconds=60)
    child(play, "job", durationSeconds=3600)
    play.look()
    play.until("89s")
    assert held(play, "job")
    play.until("90s")
    assert (play.says("all", "Finished"), play.says("job", "Finished")) == ("True/Expired", "True/Expired")


def test_a_held_child_whose_parent_is_another_ends_at_once() -> None:
    play = house()
    child(play, "job")
    play.look()
    document = lease_document("all", cpu="8", memory=None, version=99)
    document["metadata"]["uid"] = "uid-another"
    play.state.forget("uid-all")  # somebody lifted its finalizer
    play.change(lease_of(document))
    play.look()
    assert play.lease("job").status["release"]["cause"] == "ParentEnded"


def test_a_parent_whose_children_are_at_work_is_not_idle() -> None:
    play = house(
        cpu="4", policy=make_pool(idle={"policy": "Release", "periodSeconds": 60, "belowPercent": 10})
    )
    child(play, "job", "2")
    play.look()
    report = make_report(present={"uid-all": {"cpu": "0"}, "uid-job": {"cpu": "1"}})
    play.state.note_usage(report, play.now)
    assert "uid-all" not in play.state.idle_since()
    quiet = make_report(present={"uid-all": {"cpu": "0"}, "uid-job": {"cpu": "0"}})
    play.state.note_usage(quiet, play.now)
    assert {"uid-all", "uid-job"} <= play.state.idle_since().keys()


def test_a_parent_of_which_only_children_run_pods_is_not_lost_for_that() -> None:
    policy = make_pool(enforcement={"mode": "Gate"}, claimTimeoutSeconds=60, gracePeriodSeconds=0)
    play = house(policy=policy)
    assert play.says("all", "Claimed") == "False/WaitingForPods"
    play.until("30s")
    child(play, "job", liveness="Renew")
    play.look()
    assert (play.says("all", "Claimed"), play.says("job", "Claimed")) == (
        "True/SubLeaseGranted",
        "False/WaitingForHolder",
    )
    play.until("89s")
    assert (play.says("all"), play.says("job")) == ("True/Granted", "True/Granted")
    play.until("5m")
    assert (play.says("all", "Finished"), play.says("job", "Finished")) == ("", "True/Expired")


# --- restarts ---


def test_a_new_operator_counts_what_was_committed_to_a_child_and_finishes_it() -> None:
    play = house(cpu="4")
    child(play, "job", "3")
    (entry,) = play.commit(play.decide())
    assert (entry.parent, entry.nodes) == ("uid-all", ("node-1",))
    child(play, "late", "2")
    play.restart([entry])
    assert held(play, "job") == [("node-1", 3000)]
    assert play.says("job") == "True/Adopted"
    play.look()
    assert play.says("late", "Ready") == "False/ParentFull"


def test_what_an_operator_without_sub_leases_granted_is_the_pools() -> None:
    lease = make_lease("job", parentRef={"name": "all"})
    entry = Entry(lease.uid, lease.namespace, lease.name, 1, dict(lease.request), ("node-1",))
    old = granted(lease)
    assert (lease.parent, old.parent) == ("all", "")
    assert condition(old, "Allocated") == "True/Granted"
    play = Rehearsal()
    play.change(old)
    play.look()
    assert play.state.ledger.get(old.uid) is not None
    assert entry.takes_room


def test_one_that_waited_and_was_granted_by_such_an_operator_is_its_parents_no_more() -> None:
    play = house()
    waiting = child(play, "job", "9")
    play.look()
    play.change(granted(play.lease("job"), token=99))
    assert audit(play.state) == []
    assert play.state.families.members == {}
    assert play.state.ledger.get(waiting.uid) is not None


def test_a_family_has_no_more_places_than_the_pools_queue() -> None:
    play = house(cpu="4", policy=make_pool(max_pending=2))
    for name in ("a", "b", "c"):
        child(play, name, "3")
    play.look()
    assert [play.says(name, "Ready") for name in "abc"][:2] == ["True/Held", "False/ParentFull"]
    child(play, "d", "3")
    play.look()
    assert (play.says("c", "Ready"), play.says("d", "Accepted")) == ("False/ParentFull", "False/QueueFull")
    play.change(edited(play.lease("a"), desiredState="Released"))
    play.look()
    assert play.says("d", "Ready") == "False/ParentFull"
