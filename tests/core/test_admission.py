"""Who may wait, and for whom: what the pool's policy and its tenants allow."""

import re
from typing import Any

import pytest
from tests.builders import at, clock, make_lease, make_node, make_pool, make_state, vector

from leasehold.core.admission import Refusal, admit, queue_full, refusal_of
from leasehold.core.audit import audit
from leasehold.core.lease import Lease
from leasehold.core.policy import PoolPolicy
from leasehold.core.request import Request

# --- what the policy allows ---

BOUNDED = make_pool({"name": "cpu", "min": "500m", "max": "4", "step": "500m"}, {"name": "memory"})


@pytest.mark.parametrize(
    ("lease", "policy", "reason", "message"),
    [
        (make_lease(resources={"cpu": "-1"}), make_pool(), "UnitViolation", "spec.resources.cpu: .*negative"),
        (
            make_lease(resources={"cpu": "1", "gpu": "1", "fpga": "1"}),
            make_pool(),
            "ResourceNotOffered",
            "The pool lends cpu, memory; not fpga, gpu.",
        ),
        (make_lease(cpu="4500m"), BOUNDED, "ExceedsPoolMaximum", "At most 4 cpu in one slice"),
        (make_lease(cpu="400m"), BOUNDED, "UnitViolation", "At least 500m cpu in one slice"),
        (make_lease(cpu="1200m"), BOUNDED, "UnitViolation", "cpu comes in multiples of 500m"),
        (
            make_lease(durationSeconds=7200),
            make_pool(maxDurationSeconds=3600),
            "DurationTooLong",
            "at most 3600 s at a time. Ask for less, and renew.",
        ),
    ],
)
def test_a_request_the_policy_does_not_allow_is_refused_and_told_what_to_do(
    lease: Lease, policy: PoolPolicy, reason: str, message: str
) -> None:
    refusal = refusal_of(lease, policy)
    assert refusal is not None
    assert refusal.reason == reason
    assert re.search(message, refusal.message)


@pytest.mark.parametrize(
    "lease",
    [make_lease(cpu="500m"), make_lease(cpu="4"), make_lease(cpu=None), make_lease(durationSeconds=86400)],
)
def test_a_request_within_the_policy_is_accepted(lease: Lease) -> None:
    assert refusal_of(lease, BOUNDED) is None


def test_a_full_queue_says_how_many_wait() -> None:
    assert queue_full(make_pool(max_pending=2)) == Refusal(
        "QueueFull",
        "2 leases wait already (maxPending of the pool); of each namespace its share, in order.",
    )


# --- for whom ---

BOTH = {
    "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["red", "blue"]}]}
}
TEAMS = make_pool(
    tenants=[
        {"name": "red", "limit": {"cpu": "4"}, "maxLeases": 1},
        {"name": "blue"},
        {"name": "guests", **BOTH},
    ],
    gracePeriodSeconds=30,
    cooldownSeconds=10,
)


def admitted(
    labels: dict[str, str] | None, policy: PoolPolicy = TEAMS, **how: Any
) -> Request | Refusal | None:
    return admit(make_lease(**how), policy, labels, (0, 1, 2))


def refused(labels: dict[str, str] | None, policy: PoolPolicy = TEAMS, **how: Any) -> Refusal:
    found = admitted(labels, policy, **how)
    assert isinstance(found, Refusal)
    return found


def test_a_lease_waits_for_the_tenant_it_names() -> None:
    found = admitted({"team": "red"}, tenant="guests", count=2, priority=7, durationSeconds=600)
    assert isinstance(found, Request)
    assert (found.uid, found.turn, found.priority) == ("uid-build", (0, 1, 2), 7)
    assert (found.shape.tenant, found.shape.slices) == ("guests", 2)
    assert found.shape.need == vector(TEAMS, cpu="2", memory="4Gi")
    assert found.shape.span == 640_000, "the term, the grace and the cool-down"


def test_a_lease_of_two_tenants_must_name_one() -> None:
    found = refused({"team": "red"})
    assert found.reason == "TenantAmbiguous"
    assert "red, guests" in found.message


@pytest.mark.parametrize(
    ("labels", "asked", "message"),
    [
        ({"team": "green"}, None, "Namespace team-a is in no tenant of this pool."),
        ({}, "red", "Namespace team-a is in no tenant of this pool."),
        ({"team": "blue"}, "red", "Namespace team-a is not in tenant red; it is in blue, guests."),
        ({"team": "blue"}, "nobody", "Namespace team-a is not in tenant nobody; it is in blue, guests."),
    ],
)
def test_a_namespace_outside_of_a_tenant_may_not_wait_for_it(
    labels: dict[str, str], asked: str | None, message: str
) -> None:
    found = refused(labels, **({} if asked is None else {"tenant": asked}))
    assert found == Refusal("NamespaceNotAllowed", message)


def test_a_request_beyond_all_that_its_tenant_may_hold_is_refused_at_once() -> None:
    found = refused({"team": "red"}, tenant="red", cpu="2", count=3)
    assert (found.reason, found.message) == (
        "ExceedsTenantLimit",
        "More than tenant red may hold in all. Ask for less.",
    )
    assert isinstance(admitted({"team": "red"}, tenant="red", cpu="2", count=2), Request)


def test_nobody_is_placed_before_the_labels_of_its_namespace_are_known() -> None:
    assert admitted(None) is None
    assert refused(None, resources={"gpu": "1"}).reason == "ResourceNotOffered"
    assert isinstance(admitted(None, make_pool()), Request), "a pool without tenants asks for no labels"


@pytest.mark.parametrize(("start", "kept"), [("1h", at("1h")), ("-30s", at("-30s")), ("-1h", 0)])
def test_a_start_time_that_had_passed_at_creation_asks_for_nothing(start: str, kept: int) -> None:
    found = admitted({}, make_pool(), startTime=clock(start))
    assert isinstance(found, Request)
    assert found.shape.not_before == kept


# --- namespaces that change ---


def test_a_lease_waits_once_its_namespace_is_heard_of_and_for_the_tenant_it_belongs_to_now() -> None:
    namespaces: dict[str, dict[str, str]] = {}
    state = make_state(TEAMS, [make_node()])
    state.namespaces = namespaces
    state.observe(make_lease(tenant="blue"))
    assert state.unplaced == {"uid-build"}
    assert not state.queue

    namespaces["team-a"] = {"team": "blue"}
    state.namespace_changed("team-a")
    assert state.queue.requests["uid-build"].shape.tenant == "blue"
    assert not state.unplaced
    assert state.attention == {"uid-build"}

    namespaces["team-a"] = {"team": "red"}
    state.attention.clear()
    state.namespace_changed("team-b")
    assert not state.attention
    state.namespace_changed("team-a")
    assert not state.queue
    assert state.refused["uid-build"].reason == "NamespaceNotAllowed"
    assert audit(state) == []

    namespaces["team-a"] = {"team": "blue"}
    state.namespace_changed("team-a")
    assert list(state.queue.requests) == ["uid-build"]
    assert not state.refused


def test_a_pool_without_tenants_does_not_care_about_namespaces() -> None:
    state = make_state(leases=[make_lease()])
    state.namespace_changed("team-a")
    assert not state.attention


def test_a_dry_run_is_admitted_like_any_other_and_stands_in_no_queue() -> None:
    state = make_state(TEAMS)
    state.namespaces = {"team-a": {"team": "blue"}}
    state.observe(make_lease("asks", mode="DryRun", tenant="blue"))
    state.observe(make_lease("wrong", mode="DryRun", tenant="red"))
    assert list(state.inquiries) == ["uid-asks"]
    assert list(state.refused) == ["uid-wrong"]
    state.namespaces = {"team-a": {"team": "red"}}
    state.namespace_changed("team-a")
    assert list(state.inquiries) == ["uid-wrong"], state.inquiries
    assert list(state.refused) == ["uid-asks"]
    assert audit(state) == []
