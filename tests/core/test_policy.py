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
    assert (policy.guaranteed_time, policy.max_defer, policy.cuts_renewals) == (0, 0, True)
    assert (policy.fairness, policy.usage_half_life, policy.tenants) == ("DominantShare", 0, ())
    assert not policy.preempts_within
    assert not policy.reclaims


def test_a_claim_timeout_of_zero_is_no_claim_timeout() -> None:
    assert make_pool(claimTimeoutSeconds=0).claim_timeout is None


def test_warnings_come_longest_first() -> None:
    assert make_pool(warnBeforeSeconds=[60, 600]).warn_before == (span("10m"), span("1m"))


def test_a_term_is_what_was_asked_else_the_default_and_never_beyond_the_longest() -> None:
    policy = make_pool(defaultDurationSeconds=600, maxDurationSeconds=1200)
    assert policy.term_of(None) == span("10m")
    assert policy.term_of(span("1m")) == span("1m")
    assert policy.term_of(span("1h")) == span("20m")


def test_a_grant_takes_room_for_its_term_its_grace_and_its_cool_down() -> None:
    policy = make_pool(
        defaultDurationSeconds=600, maxDurationSeconds=1200, gracePeriodSeconds=30, cooldownSeconds=5
    )
    assert policy.span_of(None) == span("10m35s")
    assert policy.span_of(span("1m")) == span("1m35s")
    assert policy.span_of(span("1h")) == span("20m35s")


def test_the_terms_of_taking_back_and_of_promises_are_kept() -> None:
    policy = make_pool(
        guaranteedSeconds=600,
        maxDeferSeconds=90,
        promiseConflictAction="Refuse",
        preemption={"withinTenant": "LowerPriority", "borrowers": "Reclaim"},
    )
    assert (policy.guaranteed_time, policy.max_defer) == (span("10m"), span("90s"))
    assert not policy.cuts_renewals
    assert policy.preempts_within
    assert policy.reclaims


def test_the_order_and_the_rank_of_tenants_are_kept() -> None:
    policy = make_pool(queue="Backfill", fairness="DominantShareAndWaste", half_life=3600)
    assert policy.queue_strategy == "Backfill"
    assert (policy.fairness, policy.usage_half_life) == ("DominantShareAndWaste", span("1h"))


def test_a_tenant_is_guaranteed_nothing_and_limited_by_nothing_unless_it_says_so() -> None:
    (tenant,) = make_pool(tenants=[{"name": "build"}]).tenants
    assert (tenant.name, tenant.weight, tenant.max_leases) == ("build", 1, None)
    assert (tenant.guaranteed, tenant.limit, tenant.unknown) == ((0, 0), (None, None), ())
    assert tenant.selector.matches({"team": "build"})
    assert not tenant.selector.matches({"team": "test"})


def test_a_tenant_s_vectors_lie_in_the_order_of_the_pool() -> None:
    everyone: dict[str, object] = {}
    build, test = make_pool(
        tenants=[
            {
                "name": "build",
                "namespaceSelector": everyone,
                "guaranteed": {"memory": "8Gi"},
                "limit": {"memory": "16Gi", "cpu": "4"},
                "weight": 3,
                "maxLeases": 5,
            },
            {"name": "test", "guaranteed": {"cpu": "500m"}},
        ]
    ).tenants
    assert (build.guaranteed, build.limit) == ((0, 8 * GIB), (4000, 16 * GIB))
    assert (build.weight, build.max_leases) == (3, 5)
    assert build.selector.matches({})
    assert (test.guaranteed, test.limit) == ((500, 0), (None, None))


def test_resources_that_the_pool_does_not_lend_are_named_and_left_out_of_the_vectors() -> None:
    tenant = {"name": "build", "guaranteed": {"gpu": 1, "cpu": 1}, "limit": {"disk": 1, "gpu": 2}}
    (rule,) = make_pool(tenants=[tenant]).tenants
    assert (rule.guaranteed, rule.limit) == ((1000, 0), (None, None))
    assert rule.unknown == ("disk", "gpu")


def test_no_tenant_is_guaranteed_more_than_it_was_said_because_an_amount_is_inexact() -> None:
    tenant = {"name": "build", "guaranteed": {"memory": "1.5"}, "limit": {"memory": "2.5"}}
    (rule,) = make_pool(tenants=[tenant]).tenants
    assert (rule.guaranteed[1], rule.limit[1]) == (1, 2)


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
