from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import GIB, at, clock, edited, granted, make_lease, written

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.core.course import Step
from leasehold.core.status import (
    Draft,
    amount_text,
    apply_patch,
    merge_patch,
    phase_of,
    rejections_document,
    slices_document,
)

# JSON without null, which a merge patch cannot write, and without booleans, which Python takes for numbers.
LEAVES = st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
OBJECTS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), LEAVES | inner, max_size=3),
    max_leaves=12,
)


@given(OBJECTS, OBJECTS)
def test_applying_a_merge_patch_gives_what_it_was_made_from(before: Any, after: Any) -> None:
    patch = merge_patch(before, after)
    assert apply_patch(before, patch) == after
    assert (patch == {}) is (before == after)


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        # The examples of RFC 7386, appendix A, as far as they are objects.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ],
)
def test_patches_apply_as_the_rfc_says(before: Any, patch: Any, after: Any) -> None:
    assert apply_patch(before, patch) == after


def test_a_patch_changes_neither_of_its_arguments() -> None:
    before: dict[str, Any] = {"a": {"b": 1}}
    after = apply_patch(before, {"a": {"c": 2}})
    assert before == {"a": {"b": 1}}
    assert after == {"a": {"b": 1, "c": 2}}


def test_a_draft_that_says_nothing_new_writes_nothing() -> None:
    lease = granted()
    draft = Draft(lease, at("5m"))
    draft.say(C.READY, True, R.HELD)
    assert draft.patch() == {}


def test_the_transition_time_moves_only_with_the_status() -> None:
    lease = granted()
    draft = Draft(lease, at("5m"))
    draft.say(C.READY, True, R.HELD, "still yours")
    lease = written(lease, Step(draft.patch()))
    assert lease.conditions[C.READY]["lastTransitionTime"] == clock()
    draft = Draft(lease, at("6m"))
    draft.say(C.READY, False, R.NODE_LOST)
    assert draft.conditions[C.READY]["lastTransitionTime"] == clock("6m")


def test_unknown_is_a_status_of_its_own() -> None:
    draft = Draft(make_lease(), at())
    draft.say(C.HOLDER_LIVE, None, R.NOT_REQUIRED)
    assert draft.conditions[C.HOLDER_LIVE]["status"] == "Unknown"
    draft.unsay(C.HOLDER_LIVE)
    draft.unsay(C.HOLDER_LIVE)
    assert C.HOLDER_LIVE not in draft.conditions


def test_every_condition_is_observed_of_the_latest_generation() -> None:
    # `kubectl wait --for=condition=Ready` does not believe one observed of an older generation.
    lease = edited(granted(), priority=7)
    lease = written(lease, Step(Draft(lease, at("1m")).patch()))
    assert lease.status["observedGeneration"] == 2
    assert {found["observedGeneration"] for found in lease.conditions.values()} == {2}


def test_a_condition_that_somebody_else_keeps_stays_as_it_is() -> None:
    lease = granted()
    theirs = {
        "type": "BillingOpen",
        "status": "True",
        "reason": "Invoiced",
        "message": "",
        "lastTransitionTime": clock(),
    }
    lease = edited(
        lease, status={**lease.status, "conditions": [theirs, *lease.status["conditions"]]}, priority=1
    )
    draft = Draft(lease, at("1m"))
    draft.say(C.READY, False, R.IDLE)
    lease = written(lease, Step(draft.patch()))
    assert lease.conditions["BillingOpen"] == theirs
    assert Draft(lease, at("2m")).patch() == {}


def test_conditions_come_in_the_order_of_a_leases_life() -> None:
    draft = Draft(make_lease(), at())
    for type_, value, reason in (
        (C.FINISHED, True, R.RELEASED),
        (C.READY, False, R.RELEASED),
        (C.RELEASED, True, R.NOT_REQUIRED),
    ):
        draft.say(type_, value, reason)
    assert [found["type"] for found in draft.patch()["conditions"]] == ["Ready", "Released", "Finished"]


def test_a_part_of_the_status_without_fields_is_left_out() -> None:
    draft = Draft(make_lease(), at())
    draft.set_time("deadlines", claimTime=at("5m"))
    assert draft.deadline("claimTime") == at("5m")
    draft.set_time("deadlines", claimTime=None)
    assert draft.deadline("claimTime") is None
    assert "deadlines" not in draft.status


def shown(*conditions: tuple[str, str, str]) -> str:
    return phase_of({t: {"status": s, "reason": r} for t, s, r in conditions}, {})


HELD = ("Allocated", "True", "Granted")


@pytest.mark.parametrize(
    ("conditions", "phase"),
    [
        ([], "Pending"),
        ([("Allocated", "False", "WaitingForCapacity")], "Pending"),
        ([HELD], "Active"),
        ([HELD, ("Claimed", "False", "WaitingForHolder")], "Bound"),
        ([HELD, ("Claimed", "True", "HolderRenewed")], "Active"),
        ([HELD, ("DisruptionTarget", "True", "AdminRevoked")], "Draining"),
        ([HELD, ("Released", "False", "VerificationPending")], "Releasing"),
        ([HELD, ("Released", "False", "CoolingDown")], "Releasing"),
        ([HELD, ("Released", "False", "Quarantined")], "Quarantined"),
        ([HELD, ("Released", "True", "Verified"), ("Finished", "True", "Expired")], "Expired"),
        ([("Finished", "True", "Released")], "Released"),
    ],
)
def test_the_phase_is_drawn_from_the_conditions(conditions: list[tuple[str, str, str]], phase: str) -> None:
    assert shown(*conditions) == phase


def test_slices_are_numbered_from_zero() -> None:
    assert slices_document({"cpu": 1500, "memory": GIB}, ["b", "a"]) == [
        {"index": 0, "nodeName": "b", "resources": {"cpu": "1500m", "memory": "1Gi"}},
        {"index": 1, "nodeName": "a", "resources": {"cpu": "1500m", "memory": "1Gi"}},
    ]


def test_rejections_come_most_nodes_first_and_are_sixteen_at_most() -> None:
    rows = [("NodeCordoned", i, "", 0) for i in range(20)] + [("Insufficient", 30, "cpu", 1500)]
    found = rejections_document(rows)
    assert found[0] == {"reason": "Insufficient", "nodes": 30, "resource": "cpu", "shortBy": "1500m"}
    assert [row["nodes"] for row in found[1:]] == list(range(19, 4, -1))


def test_a_sum_beyond_any_quantity_is_written_as_the_largest_there_is() -> None:
    assert amount_text("cpu", 10**19) == amount_text("cpu", 2**63 - 1)
