"""What a lease stands for in the books follows from its status."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import (
    at,
    clock,
    edited,
    ending,
    granted,
    make_pool,
)

from leasehold.core.booking import free_at
from leasehold.core.request import NEVER


@pytest.mark.parametrize(
    ("policy", "change", "free"),
    [
        ({}, {}, "1h30s"),
        ({"cooldownSeconds": 60}, {}, "1h1m30s"),
        ({"expirationAction": "NotifyOnly"}, {}, None),
        ({}, {"cooldownTime": "5m"}, "5m"),
        ({}, {"verificationTime": "6m"}, "6m"),
        ({}, {"verificationTime": "6m", "cooldownTime": "5m"}, "5m"),
        ({}, {"leaving": "1"}, None),
    ],
)
def test_when_room_is_free_again_follows_from_the_deadlines(
    policy: dict[str, Any], change: dict[str, str], free: str | None
) -> None:
    rules = make_pool(gracePeriodSeconds=30, **policy)
    lease = granted(policy=rules)
    if change:
        deadlines = {name: clock(text) for name, text in change.items() if name.endswith("Time")}
        lease = edited(ending(lease), status={**ending(lease).status, "deadlines": deadlines})
    assert free_at(lease, rules) == (NEVER if free is None else at(free))


def test_what_a_node_does_not_confirm_is_free_at_no_known_time() -> None:
    lease = ending(granted(), "Quarantined")
    assert free_at(lease, make_pool()) == NEVER


@pytest.mark.parametrize(
    ("policy", "later"),
    [
        ({}, 0),
        ({"cooldownSeconds": 60}, 60_000),
        ({"verification": "NodeReport", "verificationTimeoutSeconds": 90}, 90_000),
    ],
)
def test_what_waits_for_its_sub_leases_is_free_when_they_are_gone(policy: dict[str, Any], later: int) -> None:
    rules = make_pool(**policy)
    lease = ending(granted(policy=rules), "ChildrenLeaving")
    began = lease.instant("release", "startTime")
    assert began is not None
    assert free_at(lease, rules) == began + later
