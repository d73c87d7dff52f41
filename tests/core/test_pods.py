"""What pods request, where they may run, and what they take that no lease explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.builders import GIB, at, clock, granted, make_lease, make_pod, pod_document

from leasehold.api.quantity import MAX_AMOUNT
from leasehold.core.pods import (
    Resident,
    SliceRef,
    admits,
    effective_requests,
    pinned,
    resident_of,
    slice_text,
    unleased,
)


def container(name: str = "main", *, sidecar: bool = False, **requests: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "resources": {"requests": requests}}
    return {**found, "restartPolicy": "Always"} if sidecar else found


def state_of(name: str, *, allocated: Mapping[str, str], actual: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "allocatedResources": dict(allocated), "resources": {"requests": dict(actual)}}


INFEASIBLE = {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}


@pytest.mark.parametrize(
    ("what", "spec", "status", "counts"),
    [
        (
            "containers add up",
            {"containers": [container(cpu="1"), container("b", cpu="500m")]},
            {},
            {"cpu": 1500},
        ),
        (
            "the largest init container counts where it is more",
            {
                "containers": [container(cpu="1", memory="1Gi")],
                "initContainers": [container("i", cpu="3"), container("j", memory="512Mi")],
            },
            {},
            {"cpu": 3000, "memory": GIB},
        ),
        (
            "a sidecar runs beside the containers, and beside the init containers after it",
            {
                "containers": [container(cpu="1")],
                "initContainers": [
                    container("early", cpu="2"),
                    container("side", sidecar=True, cpu="500m"),
                    container("late", cpu="2"),
                ],
            },
            {},
            {"cpu": 2500},
        ),
        (
            "the overhead of the runtime class comes on top",
            {"containers": [container(cpu="1")], "overhead": {"cpu": "250m", "memory": "64Mi"}},
            {},
            {"cpu": 1250, "memory": GIB // 16},
        ),
        (
            "requests of the pod as a whole replace those of its containers",
            {
                "containers": [container(cpu="1", memory="1Gi")],
                "resources": {"requests": {"cpu": "4"}},
                "overhead": {"cpu": "1"},
            },
            {},
            {"cpu": 5000, "memory": GIB},
        ),
        (
            "storage is not requested for a pod as a whole",
            {
                "containers": [container(cpu="1")],
                "resources": {"requests": {"cpu": "2", "ephemeral-storage": "1Gi"}},
            },
            {},
            {"cpu": 2000},
        ),
        (
            "while it shrinks the larger counts",
            {"containers": [container(cpu="1")]},
            {"containerStatuses": [state_of("main", allocated={"cpu": "1"}, actual={"cpu": "3"})]},
            {"cpu": 3000},
        ),
        (
            "while it grows what is asked for counts",
            {"containers": [container(cpu="4")]},
            {"containerStatuses": [state_of("main", allocated={"cpu": "1"}, actual={"cpu": "1"})]},
            {"cpu": 4000},
        ),
        (
            "what cannot be had is not asked for",
            {"containers": [container(cpu="400")]},
            {
                "conditions": [INFEASIBLE],
                "containerStatuses": [state_of("main", allocated={"cpu": "1"}, actual={"cpu": "2"})],
            },
            {"cpu": 2000},
        ),
        (
            "a pod as a whole that is resized",
            {"containers": [container(cpu="1")], "resources": {"requests": {"cpu": "2"}}},
            {"allocatedResources": {"cpu": "3"}, "resources": {"requests": {"cpu": "4"}}},
            {"cpu": 4000},
        ),
        ("nothing requested is nothing", {"containers": [container()]}, {}, {}),
        (
            "what cannot be read is more than anybody has",
            {"containers": [container(cpu="1e30")]},
            {},
            {"cpu": MAX_AMOUNT},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_requests_are_counted_as_the_scheduler_does(
    what: str, spec: Mapping[str, Any], status: Mapping[str, Any], counts: Mapping[str, int]
) -> None:
    assert effective_requests(spec, status) == counts, what


def test_pods_that_request_the_same_share_one_object() -> None:
    assert make_pod("a").requests is make_pod("b").requests


def test_a_pod_is_read_with_what_it_was_let_go_with() -> None:
    lease = granted(make_lease())
    pod = make_pod(given=(lease, 0), node="node-1", owner="Job")
    assert pod.slice == SliceRef(lease.uid, 0)
    assert slice_text(pod.slice) == f"{lease.uid}/0"
    assert (pod.gated, pod.over, pod.controller, pod.node) == (False, False, "Job", "node-1")


@pytest.mark.parametrize("text", ["", "nonsense", "/1", "uid/", "uid/-1", "uid/1e9", "uid/99999999999"])
def test_an_annotation_that_says_nothing_is_no_slice(text: str) -> None:
    assert make_pod(node="n", annotations={"leasehold.dev/slice": text}).slice is None


def test_a_pod_that_is_over_tells_since_when() -> None:
    pod = make_pod(node="node-1", phase="Succeeded", ended="30s")
    assert (pod.over, pod.failed, pod.since) == (True, False, at("30s"))
    ended = {"name": "init", "state": {"terminated": {"exitCode": 1, "finishedAt": clock("40s")}}}
    waits = {"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}
    states = {"initContainerStatuses": [ended], "containerStatuses": [waits]}
    failed = make_pod(node="node-1", phase="Failed", status=states)
    assert (failed.over, failed.failed, failed.since) == (True, True, at("40s")), (
        "it never came to the others"
    )
    never_ran = make_pod(node="node-1", phase="Failed")
    assert never_ran.since == never_ran.created
    assert resident_of(pod_document(node="node-1", phase="Failed")) is None
    assert resident_of(pod_document()) is None, "it is on no node"


# --- where it may run ---


def rule(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def affinity(*terms: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    }


LABELS = {"zone": "a", "disk": "ssd", "generation": "7"}


@pytest.mark.parametrize(
    ("spec", "may"),
    [
        ({}, True),
        ({"nodeSelector": {"zone": "a"}}, True),
        ({"nodeSelector": {"zone": "b"}}, False),
        ({"affinity": affinity({"matchExpressions": [rule("zone", "In", "a", "b")]})}, True),
        ({"affinity": affinity({"matchExpressions": [rule("zone", "NotIn", "a")]})}, False),
        ({"affinity": affinity({"matchExpressions": [rule("generation", "Gt", "6")]})}, True),
        ({"affinity": affinity({"matchExpressions": [rule("generation", "Lt", "6")]})}, False),
        ({"affinity": affinity({"matchExpressions": [rule("zone", "Gt", "6")]})}, False),
        ({"affinity": affinity({"matchFields": [rule("metadata.name", "In", "node-1")]})}, True),
        ({"affinity": affinity({"matchFields": [rule("metadata.name", "In", "node-2")]})}, False),
        (
            {
                "affinity": affinity(
                    {"matchExpressions": [rule("zone", "In", "b")]},
                    {"matchExpressions": [rule("disk", "Exists")]},
                )
            },
            True,
        ),
        ({"affinity": affinity({})}, False),
    ],
)
def test_a_pods_own_wishes_decide_where_it_may_run(spec: Mapping[str, Any], may: bool) -> None:
    assert admits(make_pod(**spec), "node-1", LABELS) is may


def test_each_term_is_narrowed_and_none_is_dropped() -> None:
    zone, disk = rule("zone", "In", "a"), rule("disk", "Exists")
    only = {"key": "metadata.name", "operator": "In", "values": ["node-1"]}
    pod = make_pod(affinity=affinity({"matchExpressions": [zone]}, {"matchFields": [disk]}, {}))
    assert pinned(pod, "node-1") == [
        {"matchExpressions": [zone], "matchFields": [only]},
        {"matchFields": [disk, only]},
        {},
    ], "an empty term matches nothing, and must not begin to"
    assert pinned(make_pod(), "node-1") == [{"matchFields": [only]}]


# --- what no lease explains ---


def test_pods_count_beyond_what_their_slices_hold() -> None:
    mine, lost = SliceRef("uid-a", 0), SliceRef("uid-gone", 0)
    pods = [
        Resident("n", {"cpu": 500}, None),
        Resident("n", {"cpu": 1000, "memory": 1}, mine),
        Resident("n", {"cpu": 1500}, mine),
        Resident("n", {"cpu": 300}, lost),
    ]
    held = {mine: {"cpu": 2000}}
    assert unleased(pods, held.get) == {"cpu": 500 + 500 + 300, "memory": 1}
    assert unleased([], held.get) == {}
