from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from leasehold.api.lease import CapacityLease
from leasehold.api.meta import Condition
from leasehold.api.names import ConditionStatus, Liveness, StopPolicy
from leasehold.api.pool import CapacityPool
from leasehold.api.report import NodeReport

POOL: dict[str, Any] = {
    "apiVersion": "leasehold.dev/v1alpha1",
    "kind": "CapacityPool",
    "metadata": {"name": "ci"},
    "spec": {"nodeSelector": {"matchLabels": {"node-role": "ci"}}},
}
LEASE: dict[str, Any] = {
    "apiVersion": "leasehold.dev/v1alpha1",
    "kind": "CapacityLease",
    "metadata": {"name": "build-42", "namespace": "team-a"},
    "spec": {"poolRef": {"name": "ci"}, "resources": {"cpu": "2", "memory": "4Gi"}, "durationSeconds": 600},
}


def test_the_shortest_pool_has_the_defaults_a_user_would_expect() -> None:
    spec = CapacityPool.model_validate(POOL).spec
    assert [resource.name for resource in spec.resources] == ["cpu", "memory", "ephemeral-storage"]
    assert {resource.source for resource in spec.resources} == {"Measured"}
    assert spec.lease_policy.default_duration_seconds == 3600
    assert spec.lease_policy.max_duration_seconds == 86_400
    assert spec.lease_policy.max_total_seconds is None
    assert spec.lease_policy.warn_before_seconds == []
    assert spec.lease_policy.idle.policy == "Off"
    assert spec.queueing.max_pending == 10_000
    assert spec.placement.strategy == "BestFit"
    assert spec.freshness.max_age_seconds == 660
    assert spec.stop_policy is StopPolicy.NONE
    assert (spec.lease_policy.guaranteed_seconds, spec.lease_policy.max_defer_seconds) == (0, 0)
    assert spec.lease_policy.promise_conflict_action == "Cut"
    assert (spec.queueing.fairness, spec.queueing.usage_half_life_seconds) == ("DominantShare", 0)
    assert (spec.preemption.within_tenant, spec.preemption.borrowers) == ("Never", "Never")
    assert spec.tenants is None


def test_the_shortest_lease_has_the_defaults_a_user_would_expect() -> None:
    spec = CapacityLease.model_validate(LEASE).spec
    assert (spec.count, spec.priority, spec.holder) == (1, 0, None)
    assert spec.liveness is Liveness.NONE
    assert spec.placement.mode == "Any"
    assert spec.ttl_seconds_after_finished == 3600
    assert (spec.mode, spec.defer_seconds) == ("Reserve", 0)
    assert (spec.pool_selector, spec.start_time, spec.start_deadline_seconds, spec.tenant) == (None,) * 4


def test_a_lease_may_leave_the_pool_to_the_operator() -> None:
    selector = {"matchLabels": {"site": "north"}}
    spec = {"poolSelector": selector, "resources": {"cpu": "2"}}
    wire = CapacityLease.model_validate({**LEASE, "spec": spec}).to_wire()["spec"]
    assert wire["poolSelector"] == selector
    assert "poolRef" not in wire


def test_a_tenant_counts_once_unless_it_says_otherwise() -> None:
    tenant = {"name": "build", "namespaceSelector": {}, "guaranteed": {"cpu": 0}, "limit": {"cpu": "2"}}
    pool = CapacityPool.model_validate({**POOL, "spec": {**POOL["spec"], "tenants": [tenant]}})
    assert pool.to_wire()["spec"]["tenants"] == [{**tenant, "weight": 1}]


@pytest.mark.parametrize("name", ["", "Build", "-build", "build-", "a.b", "b" * 64])
def test_a_tenant_is_named_like_a_label(name: str) -> None:
    tenant = {"name": name, "namespaceSelector": {}}
    with pytest.raises(ValidationError, match=r"tenants\.0\.name"):
        CapacityPool.model_validate({**POOL, "spec": {**POOL["spec"], "tenants": [tenant]}})


def test_python_names_and_wire_names_are_both_read() -> None:
    named = CapacityLease.model_validate(
        {**LEASE, "spec": {"pool_ref": {"name": "ci"}, "resources": {"cpu": 1}}}
    )
    assert named.to_wire()["spec"]["poolRef"] == {"name": "ci"}


def test_unset_fields_are_left_out_on_the_wire() -> None:
    wire = CapacityLease.model_validate(LEASE).to_wire()
    assert "status" not in wire
    assert "holder" not in wire["spec"]
    assert wire["spec"]["resources"] == {"cpu": "2", "memory": "4Gi"}


def test_what_was_read_is_written_again() -> None:
    once = CapacityLease.model_validate(LEASE).to_wire()
    assert CapacityLease.model_validate(once).to_wire() == once


def test_fields_of_a_newer_version_are_ignored() -> None:
    lease = CapacityLease.model_validate({**LEASE, "spec": {**LEASE["spec"], "share": "Half"}})
    assert "share" not in lease.to_wire()["spec"]


def test_initialisms_keep_their_capitals() -> None:
    report = NodeReport.model_validate(
        {
            "metadata": {"name": "node-1"},
            "spec": {"leaseUIDs": ["a"], "pods": [{"uid": "p", "leaseUID": "a"}]},
            "status": {"bootID": "b"},
        }
    )
    assert report.spec.lease_uids == ["a"]
    assert report.spec.pods is not None
    assert report.spec.pods[0].lease_uid == "a"
    assert report.status is not None
    assert report.status.boot_id == "b"
    wire = report.to_wire()
    assert wire["spec"]["leaseUIDs"] == ["a"]
    assert wire["spec"]["pods"] == [{"uid": "p", "leaseUID": "a"}]
    assert wire["status"] == {"bootID": "b"}
    revocation = {"preemptorUID": "u", "noticeTime": "2026-01-01T00:00:00.000000Z"}
    lease = CapacityLease.model_validate({**LEASE, "status": {"revocation": revocation}})
    assert lease.status is not None
    assert lease.status.revocation is not None
    assert lease.status.revocation.preemptor_uid == "u"
    assert lease.to_wire()["status"]["revocation"] == revocation


def test_times_are_written_in_utc_with_microseconds() -> None:
    condition = Condition(
        type="Ready",
        status=ConditionStatus.TRUE,
        reason="Held",
        message="",
        last_transition_time=datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    )
    assert condition.to_wire()["lastTransitionTime"] == "2026-01-01T00:00:00.000000Z"
    assert Condition.model_validate(condition.to_wire()).last_transition_time == datetime(
        2026, 1, 1, tzinfo=UTC
    )


def test_a_time_without_a_zone_is_refused() -> None:
    wire = {"type": "Ready", "status": "True", "reason": "Held", "message": ""}
    with pytest.raises(ValidationError, match="timezone"):
        Condition.model_validate({**wire, "lastTransitionTime": "2026-01-01T00:00:00"})


def test_the_renew_time_is_kept_as_it_was_written() -> None:
    text = "2026-01-01T00:00:00.123456789+02:00"
    lease = CapacityLease.model_validate({**LEASE, "spec": {**LEASE["spec"], "renewTime": text}})
    assert lease.to_wire()["spec"]["renewTime"] == text


@pytest.mark.parametrize(
    ("amount", "refusal"),
    [
        ("0", "is zero"),
        (0, "is zero"),
        ("-1", "is negative"),
        ("2 cores", "is not a quantity"),
        ("2P", "more than 1P"),
    ],
)
def test_a_lease_asks_for_an_amount_greater_than_nothing(amount: str | int, refusal: str) -> None:
    with pytest.raises(ValidationError, match=refusal):
        CapacityLease.model_validate({**LEASE, "spec": {**LEASE["spec"], "resources": {"cpu": amount}}})


def test_a_pool_may_reserve_nothing() -> None:
    spec = {**POOL["spec"], "resources": [{"name": "cpu", "reserved": 0}]}
    assert CapacityPool.model_validate({**POOL, "spec": spec}).spec.resources[0].reserved == 0
