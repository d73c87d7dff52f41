"""A Workload of Kueue waits for its leases, keeps them while it runs, and gives them back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.builders import (
    at,
    check_document,
    check_state,
    clock,
    condition,
    edited,
    granted,
    make_pool,
    pod_set_document,
    workload_document,
    written,
)

from leasehold.api.lease import CapacityLease
from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.core.kueue import (
    Answer,
    Check,
    Plan,
    Terms,
    Workload,
    active_condition,
    answers_document,
    check_of,
    flavor_of,
    lease_name,
    plan,
    refused,
    release_all,
    terms_of,
    workload_of,
)
from leasehold.core.kueue import check_document as check_patch
from leasehold.core.lease import Lease, lease_of
from leasehold.core.lifecycle import end_without_pool
from leasehold.core.status import Draft

POOL = Terms("ci", ("cpu", "memory"))
NEVER_ENDING = make_pool()


def waiting(*pod_sets: Mapping[str, Any], **how: Any) -> Workload:
    return workload_of(workload_document("train", *pod_sets, **how))


def decide(
    workload: Workload,
    leases: Sequence[Lease] = (),
    *,
    checks: Mapping[str, Terms] | None = None,
    flavors: Mapping[str, Mapping[str, str]] | None = None,
    now: int | None = None,
) -> Plan:
    found = {"lease": POOL} if checks is None else checks
    return plan(workload, found, leases, flavors or {}, at() if now is None else now)


def only(found: Plan) -> Answer:
    assert len(found.answers) == 1, found
    return found.answers[0]


def made(workload: Workload, terms: Terms = POOL) -> list[Lease]:
    """The leases that were created for a Workload, as the API server has them: nobody has looked at them yet."""
    return [
        lease_of(
            {
                **document,
                "metadata": {
                    **document["metadata"],
                    "uid": f"uid-{document['metadata']['name']}",
                    "resourceVersion": "1",
                    "creationTimestamp": clock(),
                },
            }
        )
        for document in decide(workload, checks={"lease": terms}).create
    ]


def held(workload: Workload) -> list[Lease]:
    return [granted(lease, nodes=["node-1"] * lease.count) for lease in made(workload)]


def running(*pod_sets: Mapping[str, Any], **how: Any) -> tuple[Workload, list[Lease]]:
    """A Workload whose check is Ready, and its leases."""
    workload = waiting(*pod_sets, **how)
    leases = held(workload)
    answer = only(decide(workload, leases))
    row = answers_document(workload, [answer])["status"]["admissionChecks"][0]
    return waiting(*pod_sets, **{"version": 2, "checks": [row], **how}), leases


def saying(lease: Lease, type_: C, value: bool, reason: R, message: str = "") -> Lease:
    """A lease of which the operator said something."""
    draft = Draft(lease, at())
    draft.say(type_, value, reason, message)
    return edited(lease, status={**lease.status, **draft.patch()})


def ended(lease: Lease) -> Lease:
    """A held lease whose pool went away."""
    return written(lease, end_without_pool(lease, at("1m")))


# --- what is asked for ---


def test_each_pod_set_gets_a_lease_of_its_own() -> None:
    workload = waiting(
        pod_set_document("leader", cpu="500m", memory="1Gi"),
        pod_set_document("workers", pods=8, cpu="2", memory="4Gi"),
    )
    found = decide(workload)
    assert not found.answers
    leader, workers = found.create
    assert leader["spec"] == {
        "poolRef": {"name": "ci"},
        "resources": {"cpu": "500m", "memory": "1Gi"},
        "count": 1,
        "priority": 0,
        "holder": {"identity": "kueue/train"},
        "liveness": "None",
        "podCompletionAction": "Keep",
    }
    assert (workers["spec"]["count"], workers["spec"]["resources"]) == (8, {"cpu": "2", "memory": "4Gi"})
    assert workers["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "Workload",
            "name": "train",
            "uid": "uid-train",
            "controller": True,
        }
    ]
    assert workers["metadata"]["labels"] == {"leasehold.dev/kueue-workload": "uid-train"}
    for document in found.create:
        CapacityLease.model_validate(document, extra="forbid")


def test_nothing_is_asked_for_without_quota() -> None:
    assert decide(waiting(reserved=None)) == Plan()


def test_other_checks_are_none_of_our_business() -> None:
    assert decide(waiting(checks=[check_state("other")])) == Plan()


def test_what_was_asked_for_already_is_not_asked_for_again() -> None:
    workload = waiting(pod_set_document("a"), pod_set_document("b"))
    first, second = made(workload)
    assert [document["metadata"]["name"] for document in decide(workload, [first]).create] == [second.name]
    assert decide(workload, [first, second]) == Plan()


def test_a_pod_requests_what_its_limits_say_where_it_says_nothing_else() -> None:
    containers = [
        {"name": "a", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}}},
        {"name": "b"},
    ]
    (lease,) = made(waiting(pod_set_document(containers=containers)))
    assert lease.request == {"cpu": 1000, "memory": 1 << 30}


def test_what_kueue_counts_beyond_the_template_is_asked_for() -> None:
    """A LimitRange and a RuntimeClass add to a pod when it is made."""
    usage = {"cpu": "4500m", "memory": "3Gi"}
    workload = waiting(
        pod_set_document(pods=3, cpu="1", memory="2Gi"), assigned={"main": {"resourceUsage": usage}}
    )
    (lease,) = made(workload)
    assert lease.request == {"cpu": 1500, "memory": 2 << 30}


def test_only_what_the_pool_lends_is_asked_for() -> None:
    asked = {"cpu": "1", "example.com/gpu": "2"}
    workload = waiting(pod_set_document(containers=[{"name": "a", "resources": {"requests": asked}}]))
    assert made(workload)[0].request == {"cpu": 1000}
    (lease,) = made(workload, Terms("ci", ("example.com/gpu", "pods")))
    assert lease.request == {"example.com/gpu": 2, "pods": 1}


def test_as_many_pods_as_were_admitted_are_asked_for() -> None:
    workload = waiting(
        pod_set_document("a", pods=8),
        pod_set_document("b", pods=3),
        assigned={"a": {"count": 5}, "b": {"count": 0}},
    )
    assert [lease.count for lease in made(workload)] == [5]


def test_pods_that_request_nothing_need_no_lease() -> None:
    answer = only(decide(waiting(pod_set_document(cpu=None, memory=None))))
    assert (answer.state, answer.updates) == ("Ready", ())
    assert answer.message == "Its pods request nothing that the pool lends."


def test_the_lease_lies_where_the_pods_may_run() -> None:
    workload = waiting(
        pod_set_document(nodeSelector={"disk": "ssd"}),
        assigned={"main": {"flavors": {"cpu": "spot", "memory": "spot"}}},
    )
    assert decide(workload) == Plan(), "the flavor was not heard of yet"
    spot = flavor_of(
        {
            "metadata": {"name": "spot", "uid": "u", "resourceVersion": "1"},
            "spec": {"nodeLabels": {"tier": "spot"}},
        }
    )
    (document,) = decide(workload, flavors={spot.name: spot.labels}).create
    assert document["spec"]["placement"] == {"nodeSelector": {"disk": "ssd", "tier": "spot"}}


@pytest.mark.parametrize(
    ("used", "left"), [(None, 3600), (600, 3000), (4000, 1)], ids=["new", "tried before", "late"]
)
def test_the_lease_lasts_as_long_as_the_workload_may_run(used: int | None, left: int) -> None:
    status = {} if used is None else {"accumulatedPastExecutionTimeSeconds": used}
    (lease,) = made(waiting(maximumExecutionTimeSeconds=3600, status=status))
    assert lease.duration == left * 1000


def test_kueues_order_is_the_pools_order() -> None:
    assert made(waiting(priority=7))[0].priority == 7
    assert made(waiting(priority=2_000_000_000))[0].priority == 1_000_000_000


def test_a_lease_is_named_for_its_reservation_and_fits_into_a_label() -> None:
    pods = pod_set_document("workers")
    name = made(waiting(pods))[0].name
    assert re.fullmatch(r"train-workers-[0-9a-f]{10}", name)
    assert made(waiting(pods))[0].name == name, "the same for the same"
    assert made(waiting(pods, reserved="-9s"))[0].name != name, "a reservation later, another"
    long = workload_of(workload_document("job-" + "x.-" * 40, pods))
    found = lease_name(long, long.pod_sets[0])
    assert len(found) <= 63
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", found)


# --- waiting ---


def test_it_waits_with_the_reason_of_its_lease() -> None:
    workload = waiting()
    (lease,) = made(workload)
    lease = saying(lease, C.ALLOCATED, False, R.WAITING_FOR_CAPACITY, "changes from moment to moment")
    answer = only(decide(workload, [lease]))
    assert (answer.state, answer.since) == ("Pending", clock("-10s"))
    assert answer.message == (
        f"CapacityLease {lease.name} waits: WaitingForCapacity: "
        "Not enough is free. It is granted when others give back."
    )
    told = waiting(checks=[check_state(message=answer.message)])
    assert decide(told, [lease]) == Plan(), "what was said is not said again"


def test_it_starts_once_all_its_leases_are_granted() -> None:
    workload = waiting(pod_set_document("a"), pod_set_document("b"))
    first, second = made(workload)
    assert decide(workload, [granted(first), second]) == Plan()
    found = decide(workload, [granted(first), granted(second)], now=at("1s") + 250)
    answer = only(found)
    assert (answer.state, answer.since) == ("Ready", clock("1s"))
    assert answers_document(workload, [answer]) == {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {
            "name": "train",
            "namespace": "team-a",
            "uid": "uid-train",
            "resourceVersion": "1",
        },
        "status": {
            "admissionChecks": [
                {
                    "name": "lease",
                    "state": "Ready",
                    "message": f"Granted: CapacityLease {first.name}, {second.name}.",
                    "lastTransitionTime": clock("1s"),
                    "podSetUpdates": [
                        {"name": "a", "labels": {"leasehold.dev/lease": first.name}},
                        {"name": "b", "labels": {"leasehold.dev/lease": second.name}},
                    ],
                }
            ]
        },
    }


def test_a_lease_that_the_pool_will_never_grant_rejects_the_workload() -> None:
    workload = waiting(pod_set_document("a"), pod_set_document("b"))
    first, second = made(workload)
    first = granted(first)
    second = saying(second, C.ACCEPTED, False, R.EXCEEDS_POOL_MAXIMUM, "At most 1 cpu in one slice.")
    found = decide(workload, [first, second])
    assert only(found).state == "Rejected"
    assert only(found).message == (
        f"CapacityLease {second.name}: ExceedsPoolMaximum: At most 1 cpu in one slice."
    )
    assert found.release == (first, second)


def test_a_full_queue_is_waited_for() -> None:
    workload = waiting()
    lease = saying(made(workload)[0], C.ACCEPTED, False, R.QUEUE_FULL, "100 leases wait already.")
    answer = only(decide(workload, [lease]))
    assert answer.state == "Pending"
    assert "QueueFull" in answer.message


def test_a_check_whose_pool_is_missing_keeps_its_workloads_waiting() -> None:
    workload = waiting()
    answer = only(decide(workload, checks={"lease": Terms("")}))
    assert answer.state == "Pending"
    assert answer.message == "AdmissionCheck lease is not active; its own condition says why."
    (lease,) = held(workload)
    assert decide(workload, [lease], checks={"lease": Terms("")}).release == ()


def test_a_lease_that_ended_before_the_others_came_is_tried_again() -> None:
    """Nobody claimed it meanwhile: so two Workloads that each have a half of what both need do not wait for ever."""
    workload = waiting(pod_set_document("a"), pod_set_document("b"))
    first, second = held(workload)
    found = decide(workload, [ended(first), second])
    assert only(found).state == "Retry"
    assert found.release == (second,)


def test_two_checks_that_ask_for_a_lease_each_are_one_too_many() -> None:
    workload = waiting(checks=[check_state("a"), check_state("b")])
    found = decide(workload, checks={"a": POOL, "b": POOL})
    assert [(answer.check, answer.state) for answer in found.answers] == [
        ("a", "Rejected"),
        ("b", "Rejected"),
    ]
    assert found.create == ()


@pytest.mark.parametrize("owner", ["Pod", "StatefulSet"])
def test_pods_that_are_there_already_cannot_get_a_lease(owner: str) -> None:
    found = decide(waiting(owner=owner))
    assert (only(found).state, found.create) == ("Rejected", ())
    assert only(found).message.startswith("Its pods are there already")


@pytest.mark.parametrize(("for_good", "state"), [(True, "Rejected"), (False, "Pending")])
def test_a_lease_that_cannot_be_created_is_told(for_good: bool, state: str) -> None:
    found = refused(waiting(), {"lease": POOL, "other": POOL}, "count: at most 64", at(), for_good=for_good)
    assert (only(found).state, only(found).message) == (
        state,
        "No CapacityLease could be created: count: at most 64",
    )


# --- while it runs, and after ---


def test_while_all_is_well_nothing_is_done() -> None:
    workload, leases = running(pod_set_document("a"), pod_set_document("b"))
    assert decide(workload, leases) == Plan()
    assert decide(workload, leases, checks={"lease": Terms("")}) == Plan(), "whatever becomes of the check"
    assert decide(workload, leases, checks={"lease": Terms("ci", ("cpu", "pods"))}) == Plan()


def test_a_lease_that_ends_too_soon_evicts_the_workload() -> None:
    workload, (first, second) = running(pod_set_document("a"), pod_set_document("b"))
    found = decide(workload, [ended(first), second], now=at("1m"))
    assert only(found) == Answer(
        "lease",
        only(found).state,
        f"CapacityLease {first.name} ended: PoolDraining: An administrator drains the pool, or deletes it.",
        clock("1m"),
    )
    assert only(found).state == "Retry"
    assert found.release == (second,), "its other leases are given back"
    assert found.doubtful == ()
    row = answers_document(workload, found.answers)["status"]["admissionChecks"][0]
    assert row.keys() == {"name", "state", "message", "lastTransitionTime"}


def test_a_lease_that_somebody_gives_back_or_deletes_evicts_the_workload() -> None:
    workload, (lease,) = running()
    for change in ({"desiredState": "Released"}, {"deleted": True}):
        found = decide(workload, [edited(lease, **change)])  # type: ignore[arg-type]
        assert only(found).state == "Retry"
        assert "ReleaseRequested" in only(found).message


def test_a_lease_that_is_gone_is_looked_for_before_the_workload_is_evicted() -> None:
    workload, (first, second) = running(pod_set_document("a"), pod_set_document("b"))
    found = decide(workload, [second])
    assert (only(found).state, found.doubtful) == ("Retry", (first.name,))
    assert only(found).message == f"CapacityLease {first.name} is gone."


@pytest.mark.parametrize(
    "how",
    [
        {"conditions": ["Finished"]},
        {"conditions": ["Evicted"]},
        {"active": False},
        {"deleted": True},
        {"reserved": None},
        {"checks": []},
        {"checks": [check_state(state="Retry")]},
        {"checks": [check_state(state="Rejected")]},
    ],
    ids=["finished", "evicted", "deactivated", "deleted", "no quota", "no check", "retry", "rejected"],
)
def test_what_a_workload_needs_no_more_is_given_back_once(how: dict[str, Any]) -> None:
    workload, leases = running()
    over = waiting(**{"version": 3, "checks": [check_state(state="Ready")], **how})
    assert decide(over, leases) == Plan(release=tuple(leases))
    given_back = [edited(lease, desiredState="Released") for lease in leases]
    assert decide(over, given_back) == Plan()
    assert release_all(leases).release == tuple(leases)
    assert release_all(given_back) == Plan()
    assert workload.uid == over.uid


def test_a_workload_that_comes_again_asks_anew() -> None:
    """Also when nobody was there to see that it was evicted: what it held then is given back."""
    before, leases = running()
    again = waiting(reserved="5m", checks=[check_state(message="Reset to Pending after eviction.")])
    found = decide(again, leases)
    assert found.release == tuple(leases)
    (document,) = found.create
    assert document["metadata"]["name"] not in {lease.name for lease in leases}
    assert before.reserved != again.reserved


def test_a_label_that_is_left_from_before_is_taken_back() -> None:
    """Server-side apply keeps what we wrote when Kueue resets a check: until the next answer."""
    _, (old,) = running()
    left = [{"name": "main", "labels": {"leasehold.dev/lease": old.name}}]
    said = "CapacityLease x waits"
    workload = waiting(reserved="5m", checks=[check_state(message=said, podSetUpdates=left)])
    (lease,) = made(workload)
    lease = saying(lease, C.ALLOCATED, False, R.WAITING_FOR_CAPACITY)
    assert only(decide(workload, [lease])).updates == ()
    assert only(decide(workload, [granted(lease)])).updates == (("main", lease.name),)


# --- the check itself ---


def checked(document: Mapping[str, Any], *pools: str) -> tuple[Check, Terms, Mapping[str, Any]]:
    check = check_of(document)
    terms = terms_of(check, dict.fromkeys(pools, ("cpu",)))
    condition = active_condition(check, terms, at() + 1)
    assert condition is not None
    return check, terms, condition


def test_a_check_that_names_a_pool_is_active() -> None:
    check, terms, condition = checked(check_document(), "ci")
    assert terms == Terms("ci", ("cpu",))
    assert check.is_ours
    assert condition == {
        "type": "Active",
        "status": "True",
        "reason": "Active",
        "message": "Workloads wait for leases of CapacityPool ci.",
        "lastTransitionTime": clock(),
        "observedGeneration": 1,
    }
    assert check_patch(check, condition)["status"] == {"conditions": [condition]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (check_document(pool=None), "spec.parameters is missing"),
        (check_document(kind="ConfigMap"), "names no CapacityPool"),
        (check_document(apiGroup="example.com"), "names no CapacityPool"),
        (check_document(pool="none"), "no CapacityPool 'none'"),
    ],
)
def test_one_that_does_not_says_why(document: dict[str, Any], words: str) -> None:
    _, terms, condition = checked(document, "ci")
    assert terms == Terms("")
    assert (condition["status"], condition["reason"]) == ("False", "BadParametersRef")
    assert words in condition["message"]


def test_it_is_said_once_and_again_when_it_changes() -> None:
    document = check_document()
    _, terms, said = checked(document, "ci")
    document["status"] = {"conditions": [{"type": "Other"}, dict(said)]}
    assert active_condition(check_of(document), terms, at("1h")) is None
    document["metadata"]["generation"] = 2
    again = active_condition(check_of(document), terms, at("1h"))
    assert again == {**said, "observedGeneration": 2}, "since then it is active"
    lost = active_condition(check_of(document), Terms(""), at("1h"))
    assert lost is not None
    assert (lost["status"], lost["lastTransitionTime"]) == ("False", clock("1h"))


def test_other_controllers_checks_are_not_ours() -> None:
    assert not check_of(check_document(controller="kueue.x-k8s.io/multikueue")).is_ours


def test_conditions_in_the_stories_are_those_of_the_api() -> None:
    (lease,) = held(waiting())
    assert condition(lease, "Ready") == "True/Held"
