"""Room that is held: by placeholders until a pod of the lease takes it, and again when that pod is over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import given as drawn
from hypothesis import strategies as st
from tests.builders import (
    GIB,
    at,
    ending,
    granted,
    make_lease,
    make_node,
    make_placeholder,
    make_pod,
    make_pool,
    pod_document,
)

from leasehold.api.names import PodReason as R
from leasehold.api.quantity import format_amount
from leasehold.core.gating import Assign, Let, Tell, Unassign, plan_pods, workload_of
from leasehold.core.lease import Lease
from leasehold.core.placeholders import Create, Drop, Holding, Nominate, Shrink, plan_placeholders
from leasehold.core.pods import Placeholder, Pod, SliceRef, placeholder_of

HOLDING = make_pool(enforcement={"mode": "Placeholder"})
NODES = {"node-1": make_node("node-1")}


def held() -> Lease:
    return granted(policy=HOLDING)


def plan(
    lease: Lease | None,
    *there: Placeholder,
    pods: Iterable[Pod] = (),
    rigid: Iterable[str] = (),
    wanted: bool = True,
) -> list[Holding]:
    return plan_placeholders(lease, list(pods), there, set(rigid), wanted=wanted)


def actions(lease: Lease | None, *pods: Pod, there: Iterable[Placeholder] = ()) -> tuple[Any, ...]:
    return plan_pods(lease, pods, HOLDING, NODES, {}, at("1m"), list(there)).actions


WHOLE = {"cpu": 2000, "memory": 4 * GIB}


# --- without pods ---


def test_all_that_a_lease_has_is_held_from_its_grant_on() -> None:
    lease = held()
    assert plan(lease) == [Create(SliceRef(lease.uid, 0), 0, "node-1", WHOLE)]
    assert plan(lease, make_placeholder(lease)) == []
    assert plan(lease, wanted=False) == [], "in a pool that holds nothing"
    assert plan(make_lease()) == [], "before there is anything to hold"


def test_every_slice_is_held_on_its_own_node() -> None:
    lease = granted(make_lease(count=2), nodes=["node-1", "node-2"], policy=HOLDING)
    first = make_placeholder(lease, 0)
    assert plan(lease, first) == [Create(SliceRef(lease.uid, 1), 0, "node-2", WHOLE)]


def test_the_scheduler_keeps_room_for_a_placeholder_that_is_not_bound_yet() -> None:
    lease = held()
    new = make_placeholder(lease, node="")
    assert plan(lease, new) == [Nominate(new, "node-1")]
    assert plan(lease, make_placeholder(lease, node="", nominated="node-1")) == []


def test_nothing_is_held_for_a_lease_that_is_over_or_gone_or_was_made_anew() -> None:
    lease = held()
    there = make_placeholder(lease)
    assert plan(ending(lease), there) == [Drop(there)]
    assert plan(None, there) == [Drop(there)]
    assert plan(lease, there, wanted=False) == [Drop(there)], "the pool no longer holds room"
    assert Drop(there) in plan(replace(lease, uid="uid-anew"), there)
    assert plan(ending(lease), make_placeholder(lease, deleted=True)) == []


def test_a_placeholder_that_ended_is_replaced() -> None:
    lease = held()
    ended = make_placeholder(lease, phase="Failed")
    assert plan(lease, ended) == [Drop(ended), Create(SliceRef(lease.uid, 0), 0, "node-1", WHOLE)]


def test_a_pod_that_is_no_placeholder_is_none() -> None:
    assert placeholder_of(pod_document(lease=None, node="n")) is None
    assert placeholder_of(pod_document(lease=None, annotations={"leasehold.dev/slice": "uid/0"})) is None


# --- the hand-over ---


def test_a_pod_is_nominated_before_anything_is_let_go() -> None:
    lease = held()
    pod, there = make_pod(cpu="2", memory="4Gi"), make_placeholder(lease)
    assert actions(lease, pod, there=[there]) == (Assign(pod, "node-1", SliceRef(lease.uid, 0)),)
    assert plan(lease, there, pods=[pod]) == [], (
        "the placeholder stays until the scheduler keeps the room for the pod"
    )


def assigned(lease: Lease, **how: Any) -> Pod:
    return make_pod(given=(lease, 0), gated=True, status={"nominatedNodeName": "node-1"}, **how)


def test_a_pod_that_takes_the_whole_slice_is_let_go_once_the_placeholder_is_gone() -> None:
    lease, there = held(), make_placeholder(held())
    pod = assigned(lease, cpu="2", memory="4Gi")
    assert plan(lease, there, pods=[pod]) == [Drop(there)]
    leaving = make_placeholder(lease, deleted=True)
    assert actions(lease, pod, there=[leaving]) == (), "it still has its room"
    assert plan(lease, leaving, pods=[pod]) == []
    assert actions(lease, pod) == (Let(pod, R.ADMITTED, "node-1", SliceRef(lease.uid, 0)),)
    assert plan(lease, pods=[pod]) == []


def test_the_rest_of_a_slice_stays_held_in_place_where_the_node_can() -> None:
    lease = held()
    there, pod = make_placeholder(lease), assigned(lease, cpu="500m", memory="1Gi")
    rest = {"cpu": 1500, "memory": 3 * GIB}
    assert plan(lease, there, pods=[pod]) == [Shrink(there, rest)]
    shrunk = make_placeholder(lease, cpu="1500m", memory="3Gi")
    assert plan(lease, shrunk, pods=[pod]) == []
    assert actions(lease, pod, there=[there]) == ()
    assert isinstance(actions(lease, pod, there=[shrunk])[0], Let)


def test_where_it_cannot_a_smaller_placeholder_is_made_first() -> None:
    lease = held()
    there, pod = make_placeholder(lease), assigned(lease, cpu="500m", memory="1Gi")
    rest = {"cpu": 1500, "memory": 3 * GIB}
    ref = SliceRef(lease.uid, 0)
    assert plan(lease, there, pods=[pod], rigid=["node-1"]) == [Create(ref, 1, "node-1", rest)]
    new = make_placeholder(lease, number=1, cpu="1500m", memory="3Gi", node="")
    assert plan(lease, there, new, pods=[pod], rigid=["node-1"]) == [Nominate(new, "node-1")]
    kept = make_placeholder(lease, number=1, cpu="1500m", memory="3Gi", node="", nominated="node-1")
    assert plan(lease, there, kept, pods=[pod], rigid=["node-1"]) == [Drop(there)]
    assert actions(lease, pod, there=[there, kept]) == ()
    assert isinstance(actions(lease, pod, there=[kept])[0], Let)


def test_what_a_pod_gives_back_is_held_again() -> None:
    lease = held()
    rest = make_placeholder(lease, cpu="1500m", memory="3Gi")
    over = make_pod(cpu="500m", memory="1Gi", given=(lease, 0), node="node-1", phase="Succeeded")
    assert plan(lease, rest, pods=[over]) == [
        Create(SliceRef(lease.uid, 0), 1, "node-1", {"cpu": 500, "memory": GIB})
    ]


def test_a_pod_whose_lease_ends_before_it_was_let_go_gives_its_nomination_back() -> None:
    lease = held()
    pod = assigned(lease)
    assert actions(ending(lease), pod) == (Unassign(pod),)
    assert actions(None, pod) == (Unassign(pod),)
    (then,) = actions(ending(lease), make_pod())
    assert isinstance(then, Tell)


def test_a_lease_knows_since_when_its_room_waits_to_be_held() -> None:
    lease = held()
    waiting = make_placeholder(lease, node="", age="10s")
    assert workload_of(lease, [], [waiting, make_placeholder(lease)]).unheld_since == at("-10s")
    assert workload_of(lease, [], [make_placeholder(lease)]).unheld_since is None
    assert workload_of(lease, [], [], "quota exceeded").refusal == "quota exceeded"


# --- as laws ---


class Site:
    """A node with a scheduler that binds what fits, and the operator's decisions carried out on it one by one."""

    def __init__(self, *, resizes: bool) -> None:
        self.lease = held()
        self.pods: dict[str, dict[str, Any]] = {}
        self.there: dict[str, Placeholder] = {}
        self.rigid = set() if resizes else {"node-1"}

    def known(self) -> list[Pod]:
        return [make_pod(name, **how) for name, how in self.pods.items()]

    def round(self) -> bool:
        """Do all that is to be done now; tell whether there was anything."""
        pods, there = self.known(), list(self.there.values())
        found = [
            *plan_pods(self.lease, pods, HOLDING, NODES, {}, at("1m"), there).actions,
            *plan_placeholders(self.lease, pods, there, self.rigid, wanted=True),
        ]
        done = [self._do(action) for action in found]
        self._schedule()
        self._check()
        return any(done)

    def _do(self, action: Any) -> bool:
        match action:
            case Assign(pod, node, ref):
                self.pods[pod.name] |= {
                    "given": (self.lease, ref.position),
                    "gated": True,
                    "status": {"nominatedNodeName": node},
                }
            case Let(pod):
                self.pods[pod.name] |= {"gated": False}
            case Create(ref, number, _, amounts):
                one = make_placeholder(
                    self.lease,
                    ref.position,
                    number=number,
                    node="",
                    **{
                        name: format_amount(name, units)
                        for name, units in {"cpu": 0, "memory": 0, **amounts}.items()
                    },
                )
                assert one.uid not in self.there, "a name is used once at a time"
                self.there[one.uid] = one
            case Nominate(one, node):
                self.there[one.uid] = one._replace(nominated=node)
            case Shrink(one, amounts):
                self.there[one.uid] = one._replace(requests=amounts)
            case Drop(one):
                del self.there[one.uid]
            case Tell(pod, reason, message):
                self.pods[pod.name]["told"] = (str(reason), message)
        return True

    def bound(self) -> dict[str, int]:
        total = {"cpu": 0, "memory": 0}
        running = [p for p in self.known() if p.node and not p.over]
        for one in [*running, *(h for h in self.there.values() if h.node)]:
            for name in total:
                total[name] += one.requests.get(name, 0)
        return total

    def _schedule(self) -> None:
        for name, how in self.pods.items():
            if how.get("gated") is False and not how.get("node") and self._fits(make_pod(name, **how)):
                how["node"] = "node-1"
        for uid, one in self.there.items():
            if not one.node and self._fits(one):
                self.there[uid] = one._replace(node="node-1")

    def _fits(self, one: Any) -> bool:
        taken = self.bound()
        return all(taken[name] + one.requests.get(name, 0) <= WHOLE[name] for name in WHOLE)

    def _check(self) -> None:
        """What is bound never exceeds the slice; what could be taken by others is kept by a nomination."""
        taken = self.bound()
        assert all(taken[name] <= WHOLE[name] for name in WHOLE), taken
        kept = dict(taken)
        waiting = [p for p in self.known() if p.nominated and not p.node]
        for one in [*waiting, *(h for h in self.there.values() if h.nominated and not h.node)]:
            for name in kept:
                kept[name] += one.requests.get(name, 0)
        if self.there or waiting:
            assert all(kept[name] >= WHOLE[name] for name in WHOLE), "a gap that a third pod could take"

    def settle(self) -> None:
        for _ in range(60):
            if not self.round():
                return
        raise AssertionError("it never rests")


@drawn(
    resizes=st.booleans(),
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 20), st.integers(1, 16)), min_size=1, max_size=8
    ),
)
def test_a_hand_over_never_leaves_a_gap_and_comes_to_rest(
    resizes: bool, steps: list[tuple[int, int, int]]
) -> None:
    site = Site(resizes=resizes)
    site.settle()
    for i, (kind, cpu, memory) in enumerate(steps):
        running = [name for name, how in site.pods.items() if how.get("node") and not how.get("phase")]
        if kind < 4 or not running:
            site.pods[f"p{i}"] = {"cpu": f"{cpu}00m", "memory": f"{memory * 256}Mi"}
        else:
            site.pods[running[0]] |= {"phase": "Succeeded", "ended": "30s"}
            # Between the end of a pod and the placeholder that takes its room nothing can be held.
            continue
        site.settle()
        assert all(h.node for h in site.there.values())
