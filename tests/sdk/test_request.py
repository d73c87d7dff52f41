from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from leasehold.api.lease import CapacityLease
from leasehold.sdk.errors import Misuse
from leasehold.sdk.request import Placement, name_of, request_of


def test_a_wish_is_a_lease_that_the_api_takes() -> None:
    request = request_of(
        pool="ci",
        cpu=2,
        memory="4Gi",
        count=3,
        placement=Placement("SameDomain", "zone", {"disk": "ssd"}),
        duration="10m",
        start=datetime(2026, 1, 2, tzinfo=UTC),
        start_within="1h",
        priority=5,
        tenant="a",
        key="job/17",
        defer="30s",
        keep="5m",
        labels={"app": "x"},
        annotations={"why": "y"},
    )
    document = request.document("team", "session-1", "me")
    model = CapacityLease.model_validate(document)
    assert model.spec.duration_seconds == 600
    assert model.spec.holder is not None
    assert model.spec.holder.session_ref is not None
    assert model.spec.holder.session_ref.name == "session-1"
    assert document["metadata"]["labels"] == {"app": "x", "leasehold.dev/client": "session-1"}
    assert document["metadata"]["annotations"] == {"why": "y", "leasehold.dev/request": request.digest}
    assert request.term == 600_000
    assert request.pool == "ci"


def test_any_pool_will_do() -> None:
    request = request_of(pool_selector={}, cpu=1, placement="SameNode", liveness="Renew", identity="you")
    spec = request.document("team", "s", "me")["spec"]
    assert spec["poolSelector"] == {"matchLabels": {}}
    assert spec["holder"] == {"identity": "you", "sessionRef": {"name": "s"}}
    assert request.pool is None


def test_a_key_gives_the_same_name_and_the_same_wish_the_same_digest() -> None:
    def ask(**wish: Any) -> Any:
        return request_of(pool="ci", key="Job #17", **wish)

    assert ask(cpu=1).name == ask(cpu=2).name == name_of(None, "Job #17", None)
    assert ask(cpu=1).name.startswith("job-17-")
    assert ask(cpu=1, timeout=5.0).digest == ask(cpu=1, timeout=9.0, identity="b").digest
    assert ask(cpu=1).digest != ask(cpu=2).digest
    assert request_of(pool="ci", cpu=1).name != request_of(pool="ci", cpu=1).name


def test_a_request_does_not_outlive_its_caller_for_long() -> None:
    assert request_of(pool="ci", cpu=1, timeout=30.0).spec["startDeadlineSeconds"] == 90
    assert "startDeadlineSeconds" not in request_of(pool="ci", cpu=1).spec


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"pool": "a", "pool_selector": {}},
        {"pool": "a", "name": "x", "key": "y"},
        {"pool": "a", "liveness": "Maybe"},
        {"pool": "a", "count": 0},
        {"pool": "a", "count": "3"},
        {"pool": "a", "placement": "Somewhere"},
        {"pool": "a", "placement": "SameDomain"},
        {"pool": "a", "placement": Placement("Any", "zone")},
        {"pool": "A B"},
        {"pool": "a", "key": ""},
        {"pool": "a", "key": 7},
        {"pool": "a", "name": "-x"},
        {"pool": "a", "duration": "soon"},
    ],
)
def test_a_wish_that_cannot_be_says_what_is_right(wish: dict[str, Any]) -> None:
    with pytest.raises(Misuse) as caught:
        request_of(cpu=1, **wish)
    assert caught.value.remedy
