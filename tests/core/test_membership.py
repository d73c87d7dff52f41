from tests.builders import make_node

from leasehold.core.membership import pools_of
from leasehold.core.selectors import Selector

POOLS = {"ci": Selector((("role", "ci"),)), "all-ssd": Selector((("disk", "ssd"),))}


def test_a_node_belongs_to_the_pool_that_selects_it() -> None:
    found = pools_of(make_node(labels={"role": "ci"}), POOLS)
    assert found.pools == ("ci",)
    assert not found.conflicting


def test_a_node_that_two_pools_select_is_in_conflict() -> None:
    found = pools_of(make_node(labels={"role": "ci", "disk": "ssd"}), POOLS)
    assert found.pools == ("all-ssd", "ci")
    assert found.conflicting


def test_a_node_that_no_pool_selects_belongs_to_none() -> None:
    assert pools_of(make_node(), POOLS).pools == ()
