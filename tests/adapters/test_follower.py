"""A pool that another replica leads: which nodes it holds something on."""

from __future__ import annotations

from tests.adapters.fakes import pool_document
from tests.builders import granted, make_lease, make_node

from leasehold.adapters.follower import Follower


def document(version: int = 1, generation: int = 1, **spec: object) -> dict[str, object]:
    found = pool_document("far", **spec)
    found["metadata"] |= {"uid": "far-uid", "generation": generation, "resourceVersion": str(version)}
    return found


def test_it_holds_where_its_leases_do_and_where_its_leader_committed() -> None:
    follower = Follower(document())
    follower.lease_seen(granted(make_lease("a", count=2), nodes=["n1", "n2"]))
    other = granted(make_lease("b"), nodes=["n1"])
    follower.lease_seen(other)
    assert [follower.holds_on(node) for node in ("n1", "n2", "n3")] == [True, True, False]
    follower.lease_gone(other.uid)
    follower.lease_gone(other.uid)
    assert follower.holds_on("n1")
    assert follower.nodes().keys() == {"n1", "n2"}
    told = document(2)
    told["status"] = {"ledger": {"epoch": 1, "sequence": 1, "inFlight": [{"nodes": ["n3"]}]}}
    assert not follower.pool_seen(told)
    assert follower.holds_on("n3")


def test_a_lease_that_waits_or_is_over_holds_nothing() -> None:
    follower = Follower(document())
    lease = granted(make_lease("a"), nodes=["n1"])
    follower.lease_seen(lease)
    follower.lease_seen(make_lease("a"))
    assert follower.nodes() == {} or lease.uid not in follower.nodes().get("n1", ())


def test_a_changed_spec_changes_which_nodes_it_selects() -> None:
    follower = Follower(document(nodeSelector={"matchLabels": {"role": "ci"}}))
    assert follower.selector.matches(make_node(labels={"role": "ci"}).labels)
    assert follower.pool_seen(document(2, 2, nodeSelector={"matchLabels": {"role": "gpu"}}))
    assert not follower.selector.matches(make_node(labels={"role": "ci"}).labels)
    assert follower.generation == "far-uid/2"


def test_a_spec_that_cannot_be_read_leaves_it_as_it_was_and_selects_nothing_at_the_start() -> None:
    broken = document(2, 2, nodeSelector={"matchExpressions": [{"key": "a", "operator": "Sometimes"}]})
    assert not Follower(broken).selector.matches(make_node(labels={"a": "b"}).labels)
    follower = Follower(document(nodeSelector={"matchLabels": {"role": "ci"}}))
    follower.pool_seen(broken)
    assert follower.selector.matches(make_node(labels={"role": "ci"}).labels)
