from __future__ import annotations

import pytest
from tests.demo.objects import condition, held, lease, over, pool

from leasehold.core.times import parse_time
from leasehold.demo.views import asked, human, nodes_of, view_lease, view_pool

NOON = parse_time("2026-11-22T12:00:00Z")


@pytest.mark.parametrize(
    ("resource", "text", "shown"),
    [
        ("cpu", "1500m", "1.5"),
        ("cpu", "8", "8"),
        ("memory", "4Gi", "4.0 GiB"),
        ("memory", "0", "0"),
        ("vendor.example/gpu", "3", "3"),
    ],
)
def test_quantities_are_written_for_people(resource: str, text: str, shown: str) -> None:
    assert human(resource, text) == shown


def test_a_request_is_written_with_its_count_and_short_names() -> None:
    spec = {"resources": {"vendor.example/gpu": "4", "memory": "1Gi"}, "count": 2}
    assert asked(spec) == "2 x 4 gpu, 1.0 GiB mem"


def test_a_held_lease_says_what_comes_next() -> None:
    following = {"time": "2026-11-22T12:00:30Z", "cause": "Heartbeat"}
    view = view_lease(held(deadlines={"next": following}), NOON)
    assert (view.phase, view.reason, view.where, view.until) == ("Active", "Held", "node-a", "30 s Heartbeat")


def test_a_distant_deadline_is_told_in_minutes() -> None:
    following = {"time": "2026-11-22T13:00:00Z", "cause": "Expiration"}
    assert view_lease(held(deadlines={"next": following}), NOON).until == "60 min Expiration"


def test_a_lease_nobody_has_looked_at_is_pending() -> None:
    view = view_lease(lease(), NOON)
    assert (view.phase, view.reason, view.where, view.until) == ("Pending", "", "", "")


def test_a_finished_lease_says_why_and_has_no_deadline() -> None:
    view = view_lease(over(deadlines={"next": {"time": "2026-11-22T12:00:30Z", "cause": "Cooldown"}}), NOON)
    assert (view.finished, view.reason, view.until) == (True, "TermEnded", "")


def test_nodes_of_one_set_are_written_by_their_ends() -> None:
    view = view_lease(held(nodes=("sim-1", "sim-2", "other", "sim-4")), NOON)
    assert view.where == "sim-1, -2, other +1"


def test_a_node_with_several_slices_counts_once() -> None:
    assert nodes_of(held(nodes=("a", "a", "b"))) == ["a", "b"]


def test_a_pool_has_a_line_for_each_resource() -> None:
    (view,) = view_pool(pool())
    assert (view.ready, view.nodes, view.total, view.allocated, view.free) == ("Ready", "1/2", "8", "2", "6")
    assert view.share == 0.25
    assert view.leases == "1 held, 0 waiting"


def test_a_pool_that_is_not_ready_says_why() -> None:
    held_back = pool()
    held_back["status"]["conditions"] = [condition("Ready", "False", "NoNodes")]
    held_back["status"]["capacity"][0]["allocatable"] = "0"
    (view,) = view_pool(held_back)
    assert (view.ready, view.share) == ("NoNodes", 0.0)


def test_a_pool_without_a_status_has_no_lines() -> None:
    assert view_pool({"metadata": {"name": "new"}}) == []
