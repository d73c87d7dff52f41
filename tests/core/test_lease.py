from dataclasses import replace
from typing import Any

import pytest
from tests.builders import (
    GIB,
    at,
    check_lease_status,
    clock,
    document_of,
    edited,
    granted,
    lease_document,
    make_lease,
    span,
)

from leasehold.core.errors import InvalidObject
from leasehold.core.lease import Reservation, Slice, lease_of, with_status
from leasehold.core.times import FAR_FUTURE


def test_the_shortest_lease_has_the_defaults_that_the_api_promises() -> None:
    lease = make_lease(cpu="2", memory="4Gi")
    assert lease.request == {"cpu": 2000, "memory": 4 * GIB}
    assert (lease.count, lease.mode, lease.priority, lease.liveness) == (1, "Any", 0, "None")
    assert (lease.duration, lease.ttl) == (None, span("1h"))
    assert not lease.wants_release
    assert lease.key == "team-a/build"
    assert lease.pending
    assert (lease.pool, lease.pool_selector, lease.tenant, lease.told_tenant) == ("ci", None, "", "")
    assert (lease.start_time, lease.start_deadline, lease.deferral) == (None, None, 0)
    assert not lease.is_dry_run
    assert lease.reservation is None


def test_every_field_of_the_spec_is_read() -> None:
    lease = make_lease(
        count=3,
        priority=5,
        placement={"mode": "SameDomain", "topologyKey": "zone", "nodeSelector": {"disk": "ssd", "a": "b"}},
        holder={"identity": "ci", "sessionRef": {"name": "worker"}},
        liveness="Session",
        durationSeconds=60,
        renewTime="2026-11-22T12:00:00Z",
        desiredState="Released",
        ttlSecondsAfterFinished=10,
        startTime=clock("2h"),
        startDeadlineSeconds=90,
        tenant="build",
        mode="DryRun",
        deferSeconds=45,
        annotations={"leasehold.dev/revoke": "maintenance", "leasehold.dev/force-release": "true"},
        deleted="5m",
    )
    assert (lease.count, lease.priority, lease.mode, lease.topology_key) == (3, 5, "SameDomain", "zone")
    assert lease.node_selector == (("a", "b"), ("disk", "ssd"))
    assert (lease.identity, lease.session, lease.liveness) == ("ci", "worker", "Session")
    assert (lease.duration, lease.ttl) == (span("1m"), span("10s"))
    assert (lease.revoke, lease.force_release, lease.deleting) == ("maintenance", True, True)
    assert lease.wants_release
    assert (lease.start_time, lease.start_deadline) == (at("2h"), span("90s"))
    assert (lease.tenant, lease.is_dry_run, lease.deferral) == ("build", True, span("45s"))
    assert lease.problem == ""


GPU_POOLS = {
    "matchLabels": {"site": "north"},
    "matchExpressions": [{"key": "kind", "operator": "In", "values": ["gpu", "any"]}],
}


def test_a_lease_may_leave_the_pool_to_the_operator() -> None:
    lease = make_lease(pool=None, poolSelector=GPU_POOLS)
    assert lease.pool == ""
    assert lease.pool_selector is not None
    assert lease.pool_selector.matches({"site": "north", "kind": "gpu"})
    assert not lease.pool_selector.matches({"site": "north", "kind": "cpu"})


def test_the_chosen_pool_stands_beside_the_selector() -> None:
    lease = make_lease(pool="north-1", poolSelector={})
    assert lease.pool == "north-1"
    assert lease.pool_selector is not None
    assert lease.pool_selector.matches({})


def test_a_start_beyond_every_calendar_is_one_in_the_far_future() -> None:
    for text in ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00"):
        assert make_lease(startTime=text).start_time == FAR_FUTURE


def test_a_start_time_that_cannot_be_read_is_noted_and_does_not_raise() -> None:
    lease = make_lease(startTime="tomorrow")
    assert lease.start_time is None
    assert lease.problem.startswith("spec.startTime: 'tomorrow' is not an RFC 3339 time")


def test_of_two_problems_the_request_s_comes_first() -> None:
    assert make_lease(resources={}, startTime="tomorrow").problem.startswith("spec.resources")


def test_a_promised_start_is_read_from_the_status() -> None:
    status = {
        "tenant": "build",
        "reservation": {
            "ledgerSequence": 12,
            "startTime": clock("1h"),
            "endTime": clock("2h"),
            "slices": [
                {"index": 0, "nodeName": "node-1", "resources": {"cpu": "2"}},
                {"index": 1, "nodeName": "node-2", "resources": {"cpu": "1500m"}},
            ],
        },
    }
    check_lease_status(status)
    lease = make_lease(status=status)
    assert lease.told_tenant == "build"
    assert lease.reservation == Reservation(
        12, at("1h"), at("2h"), (Slice("node-1", {"cpu": 2000}), Slice("node-2", {"cpu": 1500}))
    )
    assert lease.slices == (), "what is promised is not held"


@pytest.mark.parametrize("value", ["", "false", "True", "yes"])
def test_only_the_exact_word_true_forces_a_release(value: str) -> None:
    assert not make_lease(annotations={"leasehold.dev/force-release": value}).force_release


def test_a_lease_survives_being_written_down_and_read_again() -> None:
    lease = granted(make_lease(count=2, liveness="Renew"), nodes=("node-1", "node-2"))
    assert lease_of(document_of(lease)) == lease


def test_a_lease_with_every_choice_survives_being_written_down_and_read_again() -> None:
    lease = make_lease(
        pool=None,
        poolSelector=GPU_POOLS,
        startTime=clock("1h"),
        startDeadlineSeconds=60,
        tenant="build",
        mode="DryRun",
        deferSeconds=30,
        durationSeconds=60,
        renewTime=clock(),
        holder={"identity": "me"},
        status={"tenant": "build"},
    )
    assert lease_of(document_of(lease)) == lease


@pytest.mark.parametrize(
    "resources",
    [{}, {"cpu": "0"}, {"cpu": "-1"}, {"cpu": "1", "memory": "lots"}, {"cpu": "9" * 40}, {"cpu": 1.5}],
)
def test_a_request_that_cannot_be_lent_is_noted_and_does_not_raise(resources: dict[str, Any]) -> None:
    lease = make_lease(resources=resources)
    assert lease.problem.startswith("spec.resources")


@pytest.mark.parametrize("broken", ["metadata", "spec"])
def test_what_is_no_lease_at_all_is_refused(broken: str) -> None:
    document = lease_document()
    del document[broken]
    with pytest.raises(InvalidObject, match="not a CapacityLease"):
        lease_of(document)


def test_a_lease_of_no_pool_and_no_choice_of_pools_is_no_lease() -> None:
    with pytest.raises(InvalidObject, match="'poolRef' is missing"):
        make_lease(pool=None)


def test_a_pool_selector_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidObject, match="'key' is missing"):
        make_lease(pool=None, poolSelector={"matchExpressions": [{"operator": "Exists"}]})


def test_capacity_counts_from_allocated_until_released_and_by_nothing_else() -> None:
    waiting, held = make_lease(), granted()
    assert (waiting.pending, waiting.allocated, waiting.slices) == (True, False, ())
    assert (held.pending, held.allocated) == (False, True)
    assert [(part.node, dict(part.amounts)) for part in held.slices] == [
        ("node-1", {"cpu": 2000, "memory": 4 * GIB})
    ]
    over = edited(
        held,
        status={
            **held.status,
            "conditions": [
                *held.status["conditions"],
                {"type": "Released", "status": "True", "reason": "Forced"},
            ],
        },
    )
    assert (over.pending, over.allocated, over.slices) == (False, False, ())


def test_a_lease_is_releasing_once_its_release_began() -> None:
    lease = granted()
    assert not lease.releasing
    lease = edited(lease, status={**lease.status, "release": {"cause": "Idle", "startTime": clock()}})
    assert lease.releasing


def test_leases_that_ask_for_the_same_have_the_same_shape() -> None:
    assert make_lease("a").shape == make_lease("b", priority=9).shape
    assert make_lease("a").shape != make_lease("a", count=2).shape
    assert make_lease("a").shape != make_lease("a", cpu="3").shape


def test_deadlines_and_instants_are_read_in_milliseconds() -> None:
    lease = granted(make_lease(durationSeconds=60))
    assert lease.deadline("expirationTime") == at("1m")
    assert lease.deadline("claimTime") is None
    assert lease.instant("allocation", "allocationTime") == at()
    assert lease.instant("release", "startTime") is None


def test_a_lease_with_another_status_is_what_reading_the_object_would_give() -> None:
    before = make_lease(tenant="a")
    status = {**granted(before).status, "tenant": "a"}
    read = edited(before, status=status)
    assert with_status(before, status, read.version) == read
    assert with_status(read, {}, 99) == replace(edited(before, status={}), version=99)
