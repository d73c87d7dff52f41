import pytest
from tests.builders import GIB, make_pool, span

from leasehold.api.pool import PoolSpec
from leasehold.core.policy import policy_of


def test_the_shortest_pool_has_the_defaults_that_the_api_promises() -> None:
    policy = policy_of(PoolSpec.model_validate({"nodeSelector": {}}))
    assert policy.names == ("cpu", "memory", "ephemeral-storage")
    assert {rule.source for rule in policy.resources} == {"Measured"}
    assert (policy.default_duration, policy.max_duration, policy.max_total) == (span("1h"), span("1d"), None)
    assert (policy.claim_timeout, policy.heartbeat_timeout, policy.grace) == (
        span("5m"),
        span("1m"),
        span("30s"),
    )
    assert policy.ends_leases
    assert not policy.verifies_release
    assert not policy.revokes_on_loss
    assert policy.queue_strategy == "BestEffortFIFO"
    assert policy.holds_on_stale
    assert not policy.attributes_usage()


def test_a_claim_timeout_of_zero_is_no_claim_timeout() -> None:
    assert make_pool(claimTimeoutSeconds=0).claim_timeout is None


def test_warnings_come_longest_first() -> None:
    assert make_pool(warnBeforeSeconds=[60, 600]).warn_before == (span("10m"), span("1m"))


def test_a_term_is_what_was_asked_else_the_default_and_never_beyond_the_longest() -> None:
    policy = make_pool(defaultDurationSeconds=600, maxDurationSeconds=1200)
    assert policy.term_of(None) == span("10m")
    assert policy.term_of(span("1m")) == span("1m")
    assert policy.term_of(span("1h")) == span("20m")


@pytest.mark.parametrize("terms", [{"verification": "NodeReport"}, {"idle": {"policy": "Warn"}}])
def test_reporters_attribute_use_only_where_something_depends_on_it(terms: dict[str, object]) -> None:
    assert make_pool(**terms).attributes_usage()


def test_a_vector_lies_in_the_order_of_the_pool_and_leaves_out_what_it_does_not_lend() -> None:
    assert make_pool().vector({"memory": 7, "gpu": 1}) == (0, 7)


@pytest.mark.parametrize(
    ("resource", "total", "lendable"),
    [
        ({}, 16_000, 16_000),
        ({"reserved": "1500m"}, 16_000, 14_500),
        ({"reserved": "20"}, 16_000, 0),
        ({"reservedPercent": 10}, 16_001, 14_401),
        ({"allocationPercent": 150}, 16_001, 24_001),
        ({"reserved": "1", "allocationPercent": 200}, 16_000, 30_000),
        ({"allocationPercent": 1}, 99, 0),
    ],
)
def test_a_node_lends_its_total_less_what_is_reserved_times_the_overcommit(
    resource: dict[str, object], total: int, lendable: int
) -> None:
    rule = make_pool({"name": "cpu", **resource}).resources[0]
    assert rule.lendable(total) == lendable


def test_bounds_are_read_so_that_no_inexact_amount_promises_too_much() -> None:
    rule = make_pool({"name": "memory", "min": "1.5", "max": "2.5", "step": "1Gi"}).resources[0]
    assert (rule.minimum, rule.maximum, rule.step) == (2, 2, GIB)


def test_labels_and_expressions_of_the_selector_are_kept() -> None:
    spec = {
        "nodeSelector": {
            "matchLabels": {"role": "ci"},
            "matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}],
        }
    }
    selector = policy_of(PoolSpec.model_validate(spec)).selector
    assert selector.matches({"role": "ci"})
    assert not selector.matches({"role": "ci", "gpu": "1"})
