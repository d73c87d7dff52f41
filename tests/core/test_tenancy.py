"""Whose tenant a namespace is, and tenants that cannot be told apart or are promised too much."""

from __future__ import annotations

from typing import Any

import pytest

from leasehold.api.names import LeaseReason as R
from leasehold.core.policy import TenantRule
from leasehold.core.selectors import selector_of
from leasehold.core.tenancy import NOT_YET, Unplaced, guarantees_beyond, overlaps, tenant_of

WEB, LAB = {"team": "web"}, {"team": "lab"}
BOTH = {"team": "web", "shared": "yes"}


def tenant(name: str, guaranteed: tuple[int, ...] = (0, 0), **selector: Any) -> TenantRule:
    return TenantRule(name, selector_of(selector), guaranteed, (None, None), 1, None, ())


RULES = (
    tenant("web", matchLabels=WEB),
    tenant("lab", matchLabels=LAB),
    tenant("shared", matchExpressions=[{"key": "shared", "operator": "Exists"}]),
)


def test_without_tenants_all_are_one_whoever_asks() -> None:
    assert tenant_of("a", "", None, ()) == ""
    assert tenant_of("a", "web", WEB, ()) == ""


def test_a_namespace_that_was_not_heard_of_is_not_refused() -> None:
    found = tenant_of("new", "", None, RULES)
    assert found is NOT_YET
    assert found.reason is None


@pytest.mark.parametrize(
    ("asked", "labels", "tenant"),
    [("", WEB, "web"), ("lab", LAB, "lab"), ("web", BOTH, "web"), ("shared", BOTH, "shared")],
)
def test_a_lease_counts_for_the_tenant_of_its_namespace(
    asked: str, labels: dict[str, str], tenant: str
) -> None:
    assert tenant_of("a", asked, labels, RULES) == tenant


@pytest.mark.parametrize(
    ("asked", "labels", "reason", "words"),
    [
        ("", {}, R.NAMESPACE_NOT_ALLOWED, "Namespace a is in no tenant"),
        ("web", {}, R.NAMESPACE_NOT_ALLOWED, "Namespace a is in no tenant"),
        ("lab", WEB, R.NAMESPACE_NOT_ALLOWED, "not in tenant lab; it is in web."),
        ("lab", BOTH, R.NAMESPACE_NOT_ALLOWED, "not in tenant lab; it is in web, shared."),
        ("nobody", WEB, R.NAMESPACE_NOT_ALLOWED, "not in tenant nobody"),
        ("", BOTH, R.TENANT_AMBIGUOUS, "in tenants web, shared; name one of them"),
    ],
)
def test_a_lease_that_belongs_to_no_single_tenant_hears_why(
    asked: str, labels: dict[str, str], reason: R, words: str
) -> None:
    found = tenant_of("a", asked, labels, RULES)
    assert isinstance(found, Unplaced)
    assert found.reason == reason
    assert words in found.message


def test_a_long_list_of_tenants_is_cut() -> None:
    found = tenant_of("a", "", {}, [tenant(f"t{number}") for number in range(64)])
    assert isinstance(found, Unplaced)
    assert "t0, t1, t2 and 61 more" in found.message


def test_a_tenant_without_a_selector_takes_every_namespace() -> None:
    assert tenant_of("a", "", {}, [tenant("all")]) == "all"


def test_namespaces_in_several_tenants_are_named_in_order() -> None:
    namespaces = {"z": BOTH, "a": {**LAB, "shared": ""}, "m": WEB, "none": {}}
    assert overlaps(RULES, namespaces) == [("a", ("lab", "shared")), ("z", ("web", "shared"))]
    assert overlaps(RULES[:2], namespaces) == []
    assert overlaps((), namespaces) == []


NAMES = ("cpu", "memory")


def test_guarantees_that_the_pool_can_keep_are_fine() -> None:
    rules = [tenant("a", (2000, 1 << 30)), tenant("b", (2000, 0))]
    assert guarantees_beyond(rules, (4000, 1 << 30), NAMES) == ""
    assert guarantees_beyond((), (0, 0), NAMES) == ""


def test_guarantees_beyond_capacity_are_named_with_what_there_is() -> None:
    rules = [tenant("a", (2500, 1 << 30)), tenant("b", (2000, 1 << 30))]
    assert guarantees_beyond(rules, (4000, 2 << 30), NAMES) == (
        "The tenants are guaranteed 4500m of cpu, where the pool lends 4."
    )
    found = guarantees_beyond(rules, (-1, 1), NAMES)
    assert "4500m of cpu, where the pool lends 0; 2Gi of memory, where the pool lends 1." in found


def test_guarantees_beyond_any_quantity_are_still_said() -> None:
    rules = [tenant(str(number), (0, (1 << 63) - 1)) for number in range(2)]
    assert "of memory" in guarantees_beyond(rules, (0, 1), NAMES)
