"""The pods of a lease: who is let go with which slice, who waits and why, and how they end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given as drawn
from hypothesis import strategies as st
from tests.builders import (
    at,
    clock,
    edited,
    ending,
    granted,
    make_lease,
    make_node,
    make_pod,
    make_pool,
    written,
)

from leasehold.api.names import PodReason as R
from leasehold.core.families import Families, Part
from leasehold.core.gating import (
    LOOK_AGAIN,
    NO_PODS,
    RETRIES_WITHIN,
    RETRY,
    Action,
    Delete,
    Evict,
    Fail,
    Let,
    PodPlan,
    Tell,
    Unassign,
    Warn,
    ending_text,
    plan_pods,
    use_by_node,
    workload_of,
)
from leasehold.core.lease import Lease, Slice
from leasehold.core.lifecycle import end_without_pool
from leasehold.core.nodes import Node
from leasehold.core.pods import Pod, SliceRef
from leasehold.core.policy import PoolPolicy

GATE = make_pool(enforcement={"mode": "Gate", "evictionTimeoutSeconds": 60})


def held(**how: Any) -> Lease:
    """A lease of two cpu and 4Gi on node-1."""
    return granted(policy=GATE, **how)


def gang(count: int = 2, **how: Any) -> Lease:
    nodes = [f"node-{i + 1}" for i in range(count)]
    return granted(make_lease(count=count, **how), nodes=nodes, policy=GATE)


def plan(
    lease: Lease | None,
    *pods: Pod,
    policy: PoolPolicy | None = GATE,
    nodes: Iterable[Node] = (),
    refused: Mapping[str, int] | None = None,
    now: int | None = None,
) -> PodPlan:
    there = list(nodes) or [make_node("node-1"), make_node("node-2"), make_node("node-3")]
    moment = at("1m") if now is None else now
    return plan_pods(lease, pods, policy, {node.name: node for node in there}, refused or {}, moment)


def only(found: PodPlan) -> Action:
    assert len(found.actions) == 1, found.actions
    return found.actions[0]


def told(found: PodPlan) -> tuple[str, str]:
    action = only(found)
    assert isinstance(action, Tell)
    return action.reason, action.message


def places(found: PodPlan) -> dict[str, tuple[str, int]]:
    """Where each pod that is let go must run, and its slice."""
    return {
        action.pod.name: (action.node, action.slice.position)
        for action in found.actions
        if isinstance(action, Let) and action.slice is not None
    }


# --- before there is room ---


def test_a_pod_without_a_lease_waits_and_is_told() -> None:
    reason, message = told(plan(None, make_pod(lease="buidl")))
    assert reason == R.LEASE_NOT_FOUND
    assert "'buidl'" in message


def test_a_pod_of_a_waiting_lease_is_told_what_the_lease_waits_for() -> None:
    waiting = edited(
        make_lease(),
        status={"conditions": [{"type": "Allocated", "status": "False", "reason": "BlockedByHead"}]},
    )
    assert told(plan(waiting, make_pod())) == (
        R.LEASE_PENDING,
        "Lease build is not granted yet (BlockedByHead).",
    )


def test_nothing_is_told_twice() -> None:
    _, message = told(plan(None, make_pod()))
    assert plan(None, make_pod(told=("LeaseNotFound", message))).actions == ()


def test_a_pod_of_a_lease_without_a_pool_is_told_how_the_lease_stands() -> None:
    nowhere = edited(
        make_lease(pool="nowhere"),
        status={"conditions": [{"type": "Accepted", "status": "False", "reason": "PoolNotFound"}]},
    )
    assert told(plan(nowhere, make_pod(), policy=None)) == (
        R.LEASE_PENDING,
        "Lease build is not granted yet (PoolNotFound).",
    )
    over = written(held(), end_without_pool(held(), at("1m")))
    assert told(plan(over, make_pod(), policy=None))[0] == R.LEASE_ENDED
    running = make_pod(given=(held(), 0), node="node-1")
    assert plan(over, running, policy=None).actions == (), "no pool says how long its eviction may be held up"


def test_in_an_advisory_pool_the_gate_is_lifted_and_nothing_else_is_done() -> None:
    assert only(plan(held(), make_pod(), policy=make_pool())) == Let(make_pod(), R.NOT_ENFORCED)
    running = make_pod(node="elsewhere")
    assert plan(held(), running, policy=make_pool()).actions == ()


# --- room ---


def test_a_pod_is_let_go_to_the_node_of_its_lease() -> None:
    lease = held()
    assert only(plan(lease, make_pod())) == Let(make_pod(), R.ADMITTED, "node-1", SliceRef(lease.uid, 0))


def test_the_pods_of_a_gang_take_a_slice_each() -> None:
    pods = [make_pod(name, cpu="2", memory="4Gi") for name in ("a", "b", "c")]
    found = plan(gang(3), *pods)
    assert places(found) == {"a": ("node-1", 0), "b": ("node-2", 1), "c": ("node-3", 2)}


def test_small_pods_spread_over_the_slices_before_they_share_one() -> None:
    lease = gang(2)
    there = make_pod("there", given=(lease, 0), node="node-1")
    found = plan(lease, there, make_pod("a", age="3s"), make_pod("b", age="2s"), make_pod("c", age="1s"))
    assert places(found) == {"a": ("node-2", 1), "b": ("node-1", 0), "c": ("node-2", 1)}


def test_the_oldest_pod_comes_first_and_one_too_many_waits() -> None:
    pods = [make_pod("late", cpu="2", age="1s"), make_pod("early", cpu="2", age="5s")]
    found = plan(held(), *pods)
    assert places(found) == {"early": ("node-1", 0)}
    (waits,) = [action for action in found.actions if isinstance(action, Tell)]
    assert (waits.pod.name, waits.reason) == ("late", R.EXCEEDS_LEASE)
    assert "requests 2 cpu" in waits.message
    assert "at most 0 left" in waits.message


def test_a_pod_that_requests_what_the_lease_does_not_hold_waits() -> None:
    reason, message = told(plan(held(memory=None), make_pod(memory="1Gi")))
    assert reason == R.EXCEEDS_LEASE
    assert "1Gi memory" in message


def test_a_pool_can_lend_how_many_pods_a_node_takes() -> None:
    pool = make_pool({"name": "pods", "source": "Allocatable"}, enforcement={"mode": "Gate"})
    lease = granted(make_lease(resources={"pods": "2"}), policy=pool)
    found = plan(lease, *(make_pod(name) for name in ("a", "b", "c")), policy=pool)
    assert places(found).keys() == {"a", "b"}
    assert "at most 0 left" in next(a.message for a in found.actions if isinstance(a, Tell))


def test_what_the_pool_does_not_lend_is_no_business_of_the_lease() -> None:
    assert places(plan(held(), make_pod(requests={"example.com/gpu": "1"})))


def test_a_pod_that_finished_makes_room() -> None:
    lease = held()
    done = make_pod("done", cpu="2", given=(lease, 0), node="node-1", phase="Succeeded")
    leaving = make_pod("leaving", cpu="2", given=(lease, 0), node="node-1", deleted=True)
    assert places(plan(lease, done, make_pod(cpu="2")))
    assert told(plan(lease, leaving, make_pod(cpu="2")))[0] == R.EXCEEDS_LEASE, "it still runs"


def test_a_pod_let_go_under_an_earlier_lease_of_the_name_takes_no_room_and_is_no_longer_the_leases() -> None:
    before, lease = make_lease(), replace(held(), uid="uid-anew")
    old = make_pod("old", cpu="2", given=(before, 0), node="node-1")
    found = plan(lease, old, make_pod("new", cpu="2"))
    assert places(found) == {"new": ("node-1", 0)}
    assert [a.reason for a in found.actions if isinstance(a, Tell)] == [R.OUTSIDE_LEASE]


def test_a_slice_that_a_gated_pod_brings_along_is_not_believed_beyond_its_room() -> None:
    lease = gang(2)
    forged = make_pod("forged", cpu="9", given=(lease, 0), gated=True)
    honest = make_pod("honest", cpu="2", age="1s")
    found = plan(lease, forged, honest)
    assert places(found) == {"honest": ("node-1", 0)}
    assert [(a.pod.name, a.reason) for a in found.actions if isinstance(a, Tell)] == [
        ("forged", R.EXCEEDS_LEASE)
    ]
    fits = make_pod("fits", cpu="2", given=(lease, 1), gated=True)
    assert places(plan(lease, fits)) == {"fits": ("node-2", 1)}
    beyond = make_pod("beyond", cpu="2", given=(lease, 7), gated=True)
    assert places(plan(lease, beyond)) == {"beyond": ("node-1", 0)}


def test_a_pod_that_its_lease_has_shrunk_away_under_gives_its_nomination_back() -> None:
    lease = held(cpu="500m")
    nominated = make_pod(given=(lease, 0), gated=True, status={"nominatedNodeName": "node-1"})
    holding = make_pool(enforcement={"mode": "Placeholder"})
    assert only(plan(lease, nominated, policy=holding)) == Unassign(nominated)


def test_a_pod_whose_gate_somebody_removed_is_told_so() -> None:
    assert told(plan(held(), make_pod(node="node-2")))[0] == R.OUTSIDE_LEASE


def test_a_pod_goes_where_its_own_wishes_let_it() -> None:
    lease = gang(2)
    nodes = [make_node("node-1", labels={"disk": "hdd"}), make_node("node-2", labels={"disk": "ssd"})]
    assert places(plan(lease, make_pod(nodeSelector={"disk": "ssd"}), nodes=nodes)) == {
        "worker": ("node-2", 1)
    }
    excluded = plan(lease, make_pod(nodeSelector={"disk": "tape"}), nodes=nodes)
    assert told(excluded)[0] == R.NODES_EXCLUDED
    assert excluded.wake_at == at("1m") + LOOK_AGAIN, "nobody tells when nodes get other labels"


def test_a_running_pod_that_was_not_told_that_it_was_let_go_is_told_late() -> None:
    lease = held()
    running = make_pod(given=(lease, 0), node="node-1", told=(R.LEASE_PENDING, "Not yet."))
    assert told(plan(lease, running)) == (R.ADMITTED, R.ADMITTED.meaning)
    told_all = make_pod(given=(lease, 0), node="node-1", told=(R.ADMITTED, R.ADMITTED.meaning))
    assert plan(lease, told_all).actions == ()
    assert plan(lease, make_pod(given=(lease, 0), node="node-1")).actions == (), "it never had to wait"


@drawn(
    slices=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 2500), min_size=1, max_size=12),
    there=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2500)), max_size=4),
)
def test_pods_that_are_let_go_never_request_more_than_their_slice_holds(
    slices: int, sizes: list[int], there: list[tuple[int, int]]
) -> None:
    lease = gang(slices)
    running = [
        make_pod(
            f"r{i}",
            cpu=f"{cpu}m",
            memory=None,
            given=(lease, at_slice % slices),
            node=f"node-{at_slice % slices + 1}",
        )
        for i, (at_slice, cpu) in enumerate(there)
    ]
    new = [make_pod(f"n{i}", cpu=f"{cpu}m", memory=None) for i, cpu in enumerate(sizes)]
    nodes = [make_node(f"node-{i + 1}") for i in range(slices)]
    found = plan(lease, *running, *new, nodes=nodes)
    used = dict.fromkeys(range(slices), 0)
    for pod in running:
        assert pod.slice is not None
        used[pod.slice.position] += pod.requests["cpu"]
    before = dict(used)
    for action in found.actions:
        if isinstance(action, Let):
            assert action.slice is not None
            used[action.slice.position] += action.pod.requests["cpu"]
    assert all(used[i] <= 2000 or used[i] == before[i] for i in used), (before, used)
    waiting = [a.pod.requests["cpu"] for a in found.actions if isinstance(a, Tell)]
    assert all(used[i] + size > 2000 for size in waiting for i in used), "whoever waits fits nowhere"


# --- the end ---


def test_pods_are_warned_once_and_the_warning_is_taken_back() -> None:
    near = edited(
        held(),
        status={
            **held().status,
            "conditions": [
                *held().status["conditions"],
                {"type": "ExpiringSoon", "status": "True", "reason": "Expiration"},
            ],
        },
    )
    text = f"{clock('1h')} Expiration"
    assert ending_text(near) == text
    running = make_pod(given=(near, 0), node="node-1")
    assert only(plan(near, running)) == Warn(running, text)
    warned = make_pod(given=(near, 0), node="node-1", annotations={"leasehold.dev/lease-ending": text})
    assert plan(near, warned).actions == ()
    assert only(plan(held(), warned)) == Warn(warned, "")


def test_when_the_lease_is_over_its_pods_are_evicted() -> None:
    lease = ending(held())
    running = make_pod(given=(lease, 0), node="node-1")
    finished = make_pod("finished", given=(lease, 0), node="node-1", phase="Succeeded")
    leaving = make_pod("leaving", given=(lease, 0), node="node-1", deleted=True)
    assert plan(lease, running, finished, leaving).actions == (Evict(running),)


def test_a_refused_eviction_is_tried_again_until_the_pools_limit_and_then_it_is_deleted() -> None:
    lease = ending(held())
    running = make_pod(given=(lease, 0), node="node-1")
    refused = {running.uid: at("10s")}
    waits = plan(lease, running, refused=refused, now=at("12s"))
    assert (waits.actions, waits.wake_at) == ((), at("10s") + RETRY)
    assert only(plan(lease, running, refused=refused, now=at("15s"))) == Evict(running)
    late = {running.uid: at("58s")}
    assert plan(lease, running, refused=late, now=at("59s")).wake_at == at("60s")
    assert only(plan(lease, running, refused=late, now=at("60s"))) == Delete(running)


def test_a_deletion_is_not_asked_for_again_while_its_word_is_on_the_way() -> None:
    lease = ending(held())
    running = make_pod(given=(lease, 0), node="node-1")
    deleted = {running.uid: at("61s")}
    waits = plan(lease, running, refused=deleted, now=at("61s100ms"))
    assert (waits.actions, waits.wake_at) == ((), at("61s") + RETRY)
    assert only(plan(lease, running, refused=deleted, now=at("66s"))) == Delete(running)


def test_a_pod_that_comes_too_late_waits_or_fails_as_the_pool_says() -> None:
    lease = ending(held())
    assert told(plan(lease, make_pod()))[0] == R.LEASE_ENDED
    strict = make_pool(enforcement={"mode": "Gate", "strayPodAction": "Fail"})
    assert isinstance(only(plan(lease, make_pod(owner="Job"), policy=strict)), Fail)
    assert told(plan(lease, make_pod(owner="ReplicaSet"), policy=strict))[0] == R.LEASE_ENDED, (
        "no endless loop"
    )


def test_pods_without_a_lease_are_left_alone_at_its_end() -> None:
    lease = ending(held())
    outside = make_pod(node="node-1", told=(R.OUTSIDE_LEASE, R.OUTSIDE_LEASE.meaning))
    assert plan(lease, outside).actions == ()
    orphan = make_pod(given=(lease, 0), node="node-1")
    assert told(plan(None, orphan))[0] == R.OUTSIDE_LEASE, "nobody is evicted for a lease that is not there"


# --- what pods mean for their lease ---


def test_a_bound_pod_claims_and_is_left_until_it_is_over() -> None:
    lease = held()
    assert workload_of(lease, [make_pod()]) == NO_PODS, "a gated pod is nothing yet"
    unbound = workload_of(lease, [make_pod(given=(lease, 0))])
    assert (unbound.claimed, unbound.left_on) == (False, {"node-1"}), "it may be bound at any moment"
    bound = workload_of(lease, [make_pod(given=(lease, 0), node="node-1")])
    assert (bound.claimed, bound.left_on, bound.done_since) == (True, {"node-1"}, None)
    other = workload_of(lease, [make_pod(node="node-1")])
    assert other == NO_PODS, "a pod that was never let go is none of the lease's"


def test_pods_are_done_when_the_last_has_finished_by_itself() -> None:
    lease = held()

    def pod(name: str, **how: Any) -> Pod:
        return make_pod(name, given=(lease, 0), node="node-1", **how)

    done, running = pod("a", phase="Succeeded", ended="10s"), pod("b")
    assert workload_of(lease, [done, running]).done_since is None
    later = pod("b", phase="Succeeded", ended="20s")
    found = workload_of(lease, [done, later])
    assert (found.claimed, found.left_on, found.done_since) == (True, frozenset(), at("20s"))
    waiting = workload_of(lease, [done, later, make_pod("gated")])
    assert waiting.done_since is None, "one that waits to be let go is not done"
    assert workload_of(lease, [done, later, make_pod("gated", deleted=True)]).done_since == at("20s")
    removed = pod("c", phase="Succeeded", ended="20s", deleted=True)
    assert workload_of(lease, [removed]).done_since is None, "whoever deletes a pod may make another"


def test_a_failed_pod_of_a_job_is_done_only_when_the_job_tries_no_more() -> None:
    lease = held()
    alone = make_pod(given=(lease, 0), node="node-1", phase="Failed", ended="10s")
    of_job = make_pod(given=(lease, 0), node="node-1", phase="Failed", ended="10s", owner="Job")
    assert workload_of(lease, [alone]).done_since == at("10s")
    assert workload_of(lease, [of_job]).done_since == at("10s") + RETRIES_WITHIN


def test_pods_that_grew_in_place_beyond_their_slice_are_seen() -> None:
    lease = held()
    grown = make_pod(cpu="3", given=(lease, 0), node="node-1")
    assert workload_of(lease, [grown]).over_on == {"node-1"}
    assert workload_of(lease, [make_pod(cpu="2", given=(lease, 0), node="node-1")]).over_on == frozenset()


# --- leases within a lease ---


def test_what_sub_leases_hold_is_not_there_for_the_pods_of_their_parent() -> None:
    whole = granted(make_lease(cpu="4", memory=None))
    families = Families()
    families.take("part", Part(whole.uid, (Slice("node-1", {"cpu": 3000}),)))
    rest = families.rest(whole)
    nodes = {"node-1": make_node()}
    fits, large = (
        make_pod(name, lease=whole.name, cpu=cpu, memory=None)
        for name, cpu in (("fits", "1"), ("large", "2"))
    )
    (let,) = plan_pods(rest, [fits], GATE, nodes, {}, at("1m")).actions
    assert isinstance(let, Let)
    (told,) = plan_pods(rest, [large], GATE, nodes, {}, at("1m")).actions
    assert isinstance(told, Tell)
    assert told.reason == R.EXCEEDS_LEASE


def test_what_the_pods_of_a_lease_use_is_added_up_by_node() -> None:
    lease = granted(make_lease(cpu="4", memory=None, count=3), nodes=("n1", "n1", "n2"))
    pods = [
        make_pod(f"p{i}", lease=lease.name, cpu="1", node=part.node, given=(lease, i))
        for i, part in enumerate(lease.slices)
    ]
    used = use_by_node(lease, pods)
    assert {node: amounts["cpu"] for node, amounts in used.items()} == {"n1": 2000, "n2": 1000}
