"""What is read is read whatever else is there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from leasehold.sdk.views import (
    CounterOffer,
    Explanation,
    LeaseView,
    PoolView,
    Progress,
    meaning_of,
    quote_of,
)

WAITING: dict[str, Any] = {
    "metadata": {"name": "a", "namespace": "n", "uid": "u", "future": 1},
    "spec": {
        "poolRef": {"name": "ci"},
        "resources": {"cpu": 2},
        "count": 2,
        "holder": {"identity": "me"},
        "new": {},
    },
    "status": {
        "phase": "Pending",
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "WaitingForCapacity", "message": "", "more": 1},
            {"type": "Accepted", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05.678Z"},
            "not a condition",
        ],
        "queue": {"approximatePosition": 3, "estimatedStartTime": "2026-01-02T03:04:05Z"},
        "rejections": [{"reason": "Insufficient", "nodes": 4, "resource": "cpu", "shortBy": "500m", "x": 1}],
        "counterOffer": {"kind": "Smaller", "resources": {"cpu": "1"}, "count": 2},
        "deadlines": {"next": {"time": "2026-01-02T03:04:05Z", "cause": "Start"}},
        "whatever": [1, 2],
    },
}


def test_a_lease_that_waits() -> None:
    view = LeaseView.of(WAITING)
    assert (view.pool, view.count, view.identity, view.resources) == ("ci", 2, "me", {"cpu": "2"})
    assert view.queue_position == 3
    assert view.estimated_start == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert view.next_deadline is not None
    assert view.next_deadline.cause == "Start"
    assert not any((view.granted, view.ready, view.finished, view.deleting))
    assert view.is_("Accepted")
    assert view.reason() == "WaitingForCapacity"
    assert view.message() == "Not enough is free. It is granted when others give back."
    assert view.nodes == ()


def test_an_explanation_says_it_all() -> None:
    text = str(Explanation.of(LeaseView.of(WAITING)))
    for part in (
        "n/a: Pending",
        "Not enough is free",
        "number 3",
        "03:04:05",
        "4 nodes: Insufficient (short by 500m cpu)",
        "cpu 1 in 2 slices could be had now",
    ):
        assert part in text


def test_progress_in_a_line() -> None:
    view = LeaseView.of(WAITING)
    line = str(Progress("WaitingForCapacity", "", 3, view.estimated_start, 1.5, view))
    assert line == "a: WaitingForCapacity, number 3 in the queue, expected 2026-01-02T03:04:05Z"
    assert str(Progress("", "", None, None, 0, view)) == "a: Requested"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"metadata": {"name": "x"}},
        {"metadata": None, "spec": None, "status": None},
        {
            "status": {
                "conditions": None,
                "allocation": {},
                "deadlines": "?",
                "counterOffer": 7,
                "rejections": None,
            }
        },
    ],
)
def test_anything_can_be_missing(document: dict[str, Any]) -> None:
    view = LeaseView.of(document)
    assert not view.granted
    assert view.message() == view.reason() == ""
    assert "not seen by the operator yet" in Explanation.of(view).summary
    assert PoolView.of(document).ready is False


def test_a_grant() -> None:
    view = LeaseView.of(
        {
            "metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"},
            "status": {
                "conditions": [{"type": "Allocated", "status": "True"}],
                "fencingToken": 7,
                "allocation": {"slices": [{"index": 0, "nodeName": "n1", "resources": {"cpu": "1"}}]},
                "deadlines": {"expirationTime": "2026-01-02T03:04:05Z"},
            },
        }
    )
    assert view.granted
    assert view.deleting
    assert (view.token, view.nodes) == (7, ("n1",))
    assert view.slices[0].resources == {"cpu": "1"}
    assert view.expires == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_counter_offers_in_words() -> None:
    assert str(CounterOffer("OtherPool", pool="b")) == "the same could be had from pool b"
    assert str(CounterOffer("Later")) == "the same could be had from some time on"
    assert str(CounterOffer("Smaller")) == "the same could be had now"


def test_a_quote() -> None:
    found = quote_of(
        LeaseView.of(
            {
                "status": {
                    "conditions": [
                        {"type": "Allocated", "status": "False", "reason": "DryRun", "message": "Now."}
                    ],
                    "quote": {
                        "pool": "ci",
                        "startTime": "2026-01-02T03:04:05Z",
                        "nodes": ["n"],
                        "victims": ["a/b"],
                    },
                }
            }
        )
    )
    assert (found.granted, found.reason, found.message) == (True, "DryRun", "Now.")
    assert (found.pool, found.nodes, found.victims) == ("ci", ("n",), ("a/b",))
    refused = quote_of(
        LeaseView.of(
            {"status": {"conditions": [{"type": "Accepted", "status": "False", "reason": "PoolNotFound"}]}}
        )
    )
    assert not refused.granted
    assert refused.message.startswith("No such pool")


def test_a_pool() -> None:
    view = PoolView.of(
        {
            "metadata": {"name": "ci", "labels": {"a": "b"}},
            "spec": {"leasePolicy": {"heartbeatTimeoutSeconds": 7, "expirationAction": "NotifyOnly"}},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": "Serving"}],
                "capacity": [{"name": "cpu", "free": "3", "largestFree": "1500m", "total": "8", "extra": 1}],
                "nodes": {"total": 2, "later": "?"},
                "leases": {"held": 4, "pending": 1},
            },
        }
    )
    assert (view.heartbeat_timeout, view.grace, view.ends_leases) == (7, 30, False)
    assert (view.held, view.pending, view.nodes) == (4, 1, {"total": 2})
    assert view.fits(cpu="1500m")
    assert not view.fits(cpu="1501m")
    assert not view.fits(cpu=1, disk="1Gi")


def test_reasons_explain_themselves() -> None:
    assert meaning_of("DurationTooLong").startswith("Longer than")
    assert meaning_of("SomethingNew") == ""
