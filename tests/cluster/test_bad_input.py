"""What people get wrong: each with a clear message, and nothing lost."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.harness import SMALL, Stage, condition, granted, is_

from leasehold.testing.errors import ApiError


def test_an_unknown_pool_is_named_and_serves_once_it_exists(stage: Stage) -> None:
    lease = stage.lease("no-such-pool-yet")
    waiting = stage.until(lease, is_("Accepted", "False", "PoolNotFound"))
    assert "no-such-pool-yet" in condition(waiting, "Accepted")["message"]
    assert condition(waiting, "Ready")["reason"] == "PoolNotFound"
    stage.kube.delete("clease", lease, stage.namespace)
    stage.until_gone(lease)


@pytest.mark.parametrize(
    "spec",
    [
        {"resources": {"cpu": "-1"}},
        {"resources": {"cpu": "0"}},
        {"resources": {"cpu": "1e30"}},
        {"resources": {"cpu": "lots"}},
        {"resources": {}},
        {"resources": {f"vendor.example/r{i}": "1" for i in range(17)}},
        {"durationSeconds": 0},
        {"durationSeconds": -5},
        {"count": 0},
        {"count": 65},
        {"liveness": "Session"},
        {"placement": {"mode": "SameDomain"}},
        {"surprise": True},
    ],
    ids=str,
)
def test_the_api_server_refuses(stage: Stage, spec: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        stage.lease("any", **spec)
    assert refused.value.status in (400, 422)
    assert len(refused.value.message) > 20


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"resources": {"vendor.example/gpu": "1"}}, "ResourceNotOffered", "vendor.example/gpu"),
        ({"durationSeconds": 100000}, "DurationTooLong", "86400"),
        ({"resources": {"cpu": "3"}}, "ExceedsPoolMaximum", "At most 2"),
        ({"resources": {"cpu": "100m"}}, "UnitViolation", "At least 500m"),
        ({"resources": {"cpu": "750m"}}, "UnitViolation", "multiples of 500m"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_pools_policy_refuses_and_says_what_is_allowed(
    stage: Stage, spec: dict[str, Any], reason: str, words: str
) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(resources=[{"name": "cpu", "min": "500m", "max": "2", "step": "500m"}])
    lease = stage.lease(pool, **spec)
    refused = stage.until(lease, is_("Accepted", "False", reason))
    assert words in condition(refused, "Accepted")["message"]


def test_a_request_that_is_corrected_is_granted(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(resources=[{"name": "cpu", "max": "2"}])
    lease = stage.lease(pool, cpu="3")
    stage.until(lease, is_("Accepted", "False"))
    stage.change(lease, resources={"cpu": "2"})
    stage.until(lease, granted)


def test_a_full_queue_says_so(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(queueing={"maxPending": 1})
    stage.until(stage.lease(pool, cpu="4"), granted)
    stage.until(stage.lease(pool, cpu="2", priority=5), is_("Allocated", "False"))
    stage.until(stage.lease(pool, cpu="2"), is_("Accepted", "False", "QueueFull"))


def test_a_pool_that_selects_nothing_says_so(stage: Stage) -> None:
    pool = stage.pool(wait="False")
    stage.until_pool(pool, is_("Ready", "False", "NoNodes"))
    stage.until(stage.lease(pool), is_("Allocated", "False", "PoolNotReady"))


def test_a_large_object_is_handled_like_any_other(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    lease = stage.lease(pool, annotations={"example.org/big": "y" * 250_000})
    stage.until(lease, granted)
    stage.change(lease, desiredState="Released")
    stage.until(lease, is_("Finished"))
