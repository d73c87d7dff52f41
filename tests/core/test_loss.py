"""Whom to take capacity from when a node may lend less than is held on it."""

from __future__ import annotations

from tests.builders import (
    add_node,
    ending,
    granted,
    make_node,
    make_pool,
    make_report,
    make_state,
)

from leasehold.core.loss import loss_plan


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
