from typing import Any

import pytest
from tests.builders import (
    GIB,
    at,
    clock,
    document_of,
    edited,
    granted,
    lease_document,
    make_lease,
    span,
)

from leasehold.core.errors import InvalidObject
from leasehold.core.lease import lease_of


def test_the_shortest_lease_has_the_defaults_that_the_api_promises() -> None:
    lease = make_lease(cpu="2", memory="4Gi")
    assert lease.request == {"cpu": 2000, "memory": 4 * GIB}
    assert (lease.count, lease.mode, lease.priority, lease.liveness) == (1, "Any", 0, "None")
    assert (lease.duration, lease.ttl) == (None, span("1h"))
    assert not lease.wants_release
    assert lease.key == "team-a/build"
    assert lease.pending


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
        annotations={"leasehold.dev/revoke": "maintenance", "leasehold.dev/force-release": "true"},
        deleted="5m",
    )
    assert (lease.count, lease.priority, lease.mode, lease.topology_key) == (3, 5, "SameDomain", "zone")
    assert lease.node_selector == (("a", "b"), ("disk", "ssd"))
    assert (lease.identity, lease.session, lease.liveness) == ("ci", "worker", "Session")
    assert (lease.duration, lease.ttl) == (span("1m"), span("10s"))
    assert (lease.revoke, lease.force_release, lease.deleting) == ("maintenance", True, True)
    assert lease.wants_release


@pytest.mark.parametrize("value", ["", "false", "True", "yes"])
def test_only_the_exact_word_true_forces_a_release(value: str) -> None:
    assert not make_lease(annotations={"leasehold.dev/force-release": value}).force_release


def test_a_lease_survives_being_written_down_and_read_again() -> None:
    lease = granted(make_lease(count=2, liveness="Renew"), nodes=("node-1", "node-2"))
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
