"""Workloads of Kueue on a real API server with Kueue's own definitions; Kueue itself is played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.harness import (
    POOLS,
    SMALL,
    Object,
    Stage,
    ThreadOperator,
    condition,
    finished,
    granted,
    install,
    is_,
    nodes_of,
    requests_of,
    rights_used,
)
from tests.cluster.kueue import CHECKS, RIGHTS, WORKLOADS, Kueue, bind, grant_rights, pods
from tests.cluster.kueue import install as install_kueue

from leasehold.api.names import LEASE_LABEL
from leasehold.testing.control_plane import OPERATOR_NAMESPACE, ControlPlane
from leasehold.testing.kubeconfig import Connection

ACCOUNT = "operator-with-kueue"
"""One of its own: another test counts what the operator's account asks for."""


@pytest.fixture(scope="module")
def _kueue_installed(arena: ControlPlane) -> None:
    with arena.client() as kube:
        install_kueue(kube)


@pytest.fixture
def kueue(bare: Stage, _kueue_installed: None) -> Iterator[Kueue]:
    bare.nodes.create(2, SMALL)
    yield Kueue(bare)
    for kind in (WORKLOADS, CHECKS):
        bare.kube.delete_all(kind, bare.namespace if kind == WORKLOADS else None)


@pytest.fixture
def operator(bare: Stage, kueue: Kueue) -> Iterator[ThreadOperator]:
    with ThreadOperator(bare.control_plane.kubeconfig, kueue="on") as running:
        yield running


def labels(told: Object) -> dict[str, str]:
    return {one["name"]: one["labels"][LEASE_LABEL] for one in told.get("podSetUpdates", ())}


def test_a_workload_waits_runs_is_evicted_comes_again_and_finishes(
    bare: Stage, kueue: Kueue, audit_log: Path
) -> None:
    """All of it with no right that is missing, and none that is spare."""
    account = _account_with_rights(bare)
    here = bare.nodes.names[0]
    bare.kube.patch("nodes", here, {"metadata": {"labels": {"tier": "spot"}}})
    with ThreadOperator(bare.control_plane.write_kubeconfig(account), kueue="on"):
        pool = bare.pool()
        check, flavor = kueue.check(pool), kueue.flavor(tier="spot")
        kueue.until_active(check)

        # It waits for what another has.
        other = bare.lease(pool, cpu="3", count=2)
        bare.until(other, granted)
        workload = kueue.workload(pods("leader", cpu="500m"), pods("workers", 2, cpu="1"), priority=7)
        kueue.reserve(workload, check, "somebody-elses", flavor=flavor)
        kueue.until_told(workload, check, "Pending", "WaitingForCapacity")
        bare.change(other, desiredState="Released")
        first = labels(kueue.until_told(workload, check, "Ready"))
        assert first.keys() == {"leader", "workers"}
        workers = bare.get(first["workers"])
        assert (workers["spec"]["count"], workers["spec"]["priority"]) == (2, 7)
        assert set(nodes_of(workers)) == {here}, "where its flavor is"
        assert workers["metadata"]["ownerReferences"][0]["uid"] == kueue.get(workload)["metadata"]["uid"]

        # Kueue evicts it, say for one of a higher priority. What it held is free, and it asks anew.
        kueue.evict(workload)
        for name in first.values():
            bare.until(name, is_("Finished", "True", "Released"))
        kueue.reserve(workload, check, "somebody-elses", flavor=flavor)
        second = labels(kueue.until_told(workload, check, "Ready"))
        assert second.keys() == first.keys()
        assert not set(first.values()) & set(second.values())

        kueue.finish(workload)
        for name in second.values():
            bare.until(name, is_("Finished", "True", "Released"))
        assert kueue.told(workload, "somebody-elses")["state"] == "Pending", (
            "others' checks are others' business"
        )
        assert len(kueue.leases(workload)) == 4

    requests = requests_of(audit_log, ACCOUNT)
    denied = [(r["verb"], r["requestURI"]) for r in requests if r["responseStatus"]["code"] == 403]
    assert denied == []
    assert rights_used(requests) >= RIGHTS


def _account_with_rights(stage: Stage) -> Connection:
    """An account that may do what the operator may, and beside it what it needs for Kueue."""
    install(stage.control_plane, "rbac-operator.yaml")
    bind(stage.kube, ACCOUNT, "ClusterRole", "leasehold-operator")
    bind(stage.kube, ACCOUNT, "Role", "leasehold-operator")
    grant_rights(stage.kube, ACCOUNT)
    return stage.control_plane.as_service_account(OPERATOR_NAMESPACE, ACCOUNT)


def test_a_lease_that_ends_too_soon_has_the_workload_evicted(
    bare: Stage, kueue: Kueue, operator: ThreadOperator
) -> None:
    check = kueue.check(bare.pool())
    workload = kueue.workload(pods("a", cpu="1"), pods("b", cpu="1"))
    kueue.reserve(workload, check)
    held = labels(kueue.until_told(workload, check, "Ready"))
    bare.annotate(held["a"], revoke="the rack is moved")
    told = kueue.until_told(workload, check, "Retry", "AdminRevoked")
    assert held["a"] in told["message"]
    bare.until(held["b"], is_("Finished", "True", "Released"))
    kueue.evict(workload)
    kueue.reserve(workload, check)
    assert labels(kueue.until_told(workload, check, "Ready"))["a"] != held["a"]


def test_a_lease_lasts_as_long_as_the_workload_may_run(
    bare: Stage, kueue: Kueue, operator: ThreadOperator
) -> None:
    check = kueue.check(bare.pool())
    workload = kueue.workload(pods(cpu="1"), maximumExecutionTimeSeconds=1)
    kueue.reserve(workload, check)
    kueue.until_told(workload, check, "Retry", "TermEnded")
    (lease,) = kueue.leases(workload)
    assert lease["spec"]["durationSeconds"] == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (pods(cpu="3"), "ExceedsPoolMaximum"),
        (pods(count=65, cpu="1m"), "should be less than or equal to 64"),
    ],
    ids=["too large", "too many"],
)
def test_what_can_never_be_lent_rejects_the_workload(
    bare: Stage, kueue: Kueue, operator: ThreadOperator, asked: Object, words: str
) -> None:
    pool = bare.pool(resources=[{"name": "cpu", "source": "Allocatable", "max": "2"}])
    check = kueue.check(pool)
    workload = kueue.workload(asked)
    kueue.reserve(workload, check)
    kueue.until_told(workload, check, "Rejected", words)
    for lease in kueue.leases(workload):
        bare.until(lease["metadata"]["name"], finished)


def test_two_checks_for_leases_are_one_too_many(bare: Stage, kueue: Kueue, operator: ThreadOperator) -> None:
    pool = bare.pool()
    checks = kueue.check(pool), kueue.check(pool)
    workload = kueue.workload(pods(cpu="1"))
    kueue.reserve(workload, *checks)
    for check in checks:
        kueue.until_told(workload, check, "Rejected", "Keep one of these checks")
    assert kueue.leases(workload) == []


def test_a_check_without_a_pool_says_what_is_wrong(
    bare: Stage, kueue: Kueue, operator: ThreadOperator
) -> None:
    for check, words in (
        (kueue.check(None), "spec.parameters is missing"),
        (kueue.check("x", kind="ConfigMap"), "names no CapacityPool"),
        (late := kueue.check(f"late-{bare.namespace}"), "There is no CapacityPool"),
    ):
        found = condition(kueue.until_active(check, "False"), "Active")
        assert (found["reason"], words in found["message"]) == ("BadParametersRef", True)
    bare.pool_named(f"late-{bare.namespace}", bare.nodes.selector)
    kueue.until_active(late)
    bare.kube.delete(POOLS, f"late-{bare.namespace}")
    kueue.until_active(late, "False")


def test_the_leases_of_a_workload_that_is_deleted_are_given_back(
    bare: Stage, kueue: Kueue, operator: ThreadOperator
) -> None:
    check = kueue.check(bare.pool())
    workload = kueue.workload(pods(cpu="1"))
    kueue.reserve(workload, check)
    (held,) = labels(kueue.until_told(workload, check, "Ready")).values()
    bare.kube.delete(WORKLOADS, workload, bare.namespace)
    bare.until(held, finished)


def test_while_the_operator_is_away_nothing_is_lost_and_nothing_made_twice(bare: Stage, kueue: Kueue) -> None:
    pool = bare.pool(wait="")
    check = kueue.check(pool)
    waiting, running, over, again = (kueue.workload(pods(cpu="1")) for _ in range(4))
    with ThreadOperator(bare.control_plane.kubeconfig, kueue="on"):
        for workload in (running, over, again):
            kueue.reserve(workload, check)
        held = {w: labels(kueue.until_told(w, check, "Ready"))["main"] for w in (running, over, again)}
    kueue.reserve(waiting, check)
    kueue.finish(over)
    kueue.evict(again)
    kueue.reserve(again, check)
    with ThreadOperator(bare.control_plane.kubeconfig, kueue="on"):
        kueue.until_told(waiting, check, "Ready")
        bare.until(held[over], finished)
        bare.until(held[again], finished)
        assert labels(kueue.until_told(again, check, "Ready"))["main"] != held[again]
        assert labels(kueue.told(running, check)) == {"main": held[running]}
        assert granted(bare.get(held[running]))
    assert [len(kueue.leases(w)) for w in (waiting, running, over, again)] == [1, 1, 1, 2]
