"""Which pool a lease goes to that leaves the choice to the operator."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.builders import NOON, at, clock, make_lease, make_node, make_pool
from tests.rehearsal import Rehearsal

from leasehold.adapters.routing import Choice, Router
from leasehold.core.lease import Lease
from leasehold.core.quote import Offer
from leasehold.core.state import PoolState

FAST: dict[str, Any] = {"poolSelector": {"matchLabels": {"tier": "fast"}}}


class Stopped:
    """A clock that stands still at noon."""

    def now(self) -> int:
        return NOON


class Led:
    """A pool that is led here, with the label tier=fast."""

    def __init__(self, name: str, rehearsal: Rehearsal | None = None, **labels: str) -> None:
        self.name = name
        self.rehearsal = rehearsal or Rehearsal(make_pool(gracePeriodSeconds=0))
        self.document: Mapping[str, Any] = {"metadata": {"name": name, "labels": labels or {"tier": "fast"}}}
        self.ready = True
        self.held = False

    @property
    def state(self) -> PoolState:
        return self.rehearsal.state

    def grants_nothing(self) -> bool:
        return self.held

    def holding(self, cpu: str, seconds: int = 3600, name: str = "held") -> Led:
        self.rehearsal.ask(name, cpu=cpu, memory="1Gi", durationSeconds=seconds)
        self.rehearsal.look()
        return self


def router(*pools: Led) -> Router:
    return Router(Stopped(), lambda: pools)  # type: ignore[arg-type]


def choose(*pools: Led, **how: Any) -> Choice:
    lease = make_lease(**{"memory": "1Gi", "pool": None, **FAST, **how})
    return asyncio.run(router(*pools).choose(lease))


# --- the choice ---


def test_the_pool_with_the_earliest_start_is_chosen_and_the_choice_says_why() -> None:
    found = choose(Led("a").holding("16"), Led("b").holding("16", 1800), cpu="8")
    assert found == Choice("b", f"Pool b of 2 matching pools: the earliest start, {clock('30m')}.")


def test_of_those_that_can_start_now_the_least_loaded_is_chosen() -> None:
    found = choose(Led("a").holding("8"), Led("b").holding("4"), Led("c").holding("16"), cpu="8")
    assert found == Choice("b", "Pool b of 3 matching pools: it can start now, the least loaded of 2 (25 %).")


def test_of_equal_pools_the_first_by_name_is_chosen() -> None:
    assert choose(Led("b"), Led("a"), cpu="8").pool == "a"


def test_who_waits_in_a_pool_already_comes_first_there() -> None:
    crowded = Led("a").holding("16", 600)
    crowded.rehearsal.ask("waits", cpu="16", memory="1Gi", durationSeconds=3600, age="9m")
    assert choose(crowded, Led("b").holding("16", 1200), cpu="8").pool == "b"


def test_a_pool_that_can_tell_no_start_is_the_last_choice() -> None:
    small = Led("a", Rehearsal(nodes=[make_node(cpu="4")]))
    assert choose(small, Led("b").holding("16"), cpu="8").pool == "b"
    alone = choose(small, cpu="8")
    assert alone == Choice("a", "Pool a of 1 matching pool: no pool can tell a start.")


def test_only_pools_with_the_labels_are_asked_and_none_that_goes() -> None:
    going = Led("a")
    going.document["metadata"]["deletionTimestamp"] = clock()
    slow = Led("b", tier="slow")
    found = choose(going, slow)
    assert (found.pool, found.wait) == ("", False)
    assert found.why.startswith("No CapacityPool has the labels of spec.poolSelector.")


def test_each_pool_that_refuses_says_why() -> None:
    bounded = Led("a", Rehearsal(make_pool({"name": "cpu", "source": "Allocatable", "max": "4"})))
    held = Led("b")
    held.held = True
    found = choose(bounded, held, resources={"cpu": "8"})
    assert (found.pool, found.wait) == ("", False)
    assert found.why == (
        "No pool that matches spec.poolSelector takes it. "
        "a: At most 4 cpu in one slice of this pool.; b grants nothing now"
    )
    assert choose(bounded, held, Led("c"), resources={"cpu": "8"}).pool == "c"


def test_nothing_is_chosen_while_a_matching_pool_is_being_taken_over() -> None:
    coming = Led("b")
    coming.ready = False
    found = choose(Led("a"), coming)
    assert (found.pool, found.wait) == ("", True)
    other = Led("c", tier="slow")
    other.ready = False
    assert choose(Led("a"), other).pool == "a"


def test_nothing_is_chosen_before_the_namespace_is_known() -> None:
    shared = Led("a", Rehearsal(make_pool(tenants=[{"name": "red"}])))
    assert choose(shared).wait
    shared.rehearsal.namespaces["team-a"] = {"team": "red"}
    assert choose(shared).pool == "a"
    shared.rehearsal.namespaces["team-a"] = {"team": "blue"}
    assert "is in no tenant of this pool" in choose(shared).why


# --- what another pool could do ---


def elsewhere(lease: Lease, *others: Led) -> str | None:
    found = router(Led("here"), *others).elsewhere("here", lease)
    assert found is None or found == Offer(found.pool, at(), load=found.load)
    return None if found is None else found.pool


def test_the_emptiest_other_pool_that_could_start_it_now_is_named() -> None:
    lease = make_lease(cpu="8", memory="1Gi")
    assert elsewhere(lease, Led("a").holding("4"), Led("b"), Led("c").holding("12")) == "b"
    assert elsewhere(lease, Led("c").holding("12")) is None
    assert elsewhere(lease) is None


def test_a_pool_that_is_held_or_being_taken_over_is_not_named() -> None:
    held, coming = Led("a"), Led("b")
    held.held, coming.ready = True, False
    assert elsewhere(make_lease(), held, coming) is None


def test_a_pool_that_would_refuse_it_is_not_named() -> None:
    shared = Led(
        "a", Rehearsal(make_pool(tenants=[{"name": "red", "limit": {"cpu": "8"}}]), teams={"team-a": "red"})
    )
    shared.holding("6")
    assert elsewhere(make_lease(cpu="2", memory="1Gi"), shared) == "a"
    assert elsewhere(make_lease(cpu="4", memory="1Gi"), shared) is None
    assert elsewhere(make_lease(cpu="12", memory="1Gi"), shared) is None


def test_room_that_is_promised_to_others_is_not_offered() -> None:
    busy = Led("a")
    busy.rehearsal.ask("later", cpu="12", memory="1Gi", startTime=clock("10m"))
    busy.rehearsal.look()
    assert elsewhere(make_lease(cpu="8", memory="1Gi", durationSeconds=3600), busy) is None
    assert elsewhere(make_lease(cpu="8", memory="1Gi", durationSeconds=300), busy) == "a"


def test_a_strict_pool_in_which_others_wait_is_not_named() -> None:
    strict = Led("a", Rehearsal(make_pool(queue="StrictFIFO"))).holding("8")
    lease = make_lease(cpu="2", memory="1Gi", age="0m")
    assert elsewhere(lease, strict) == "a"
    strict.rehearsal.ask("head", cpu="12", memory="1Gi", age="9m")
    assert elsewhere(lease, strict) is None
    assert elsewhere(lease, strict, Led("b").holding("12")) == "b"


def test_a_lease_that_asks_for_pools_by_label_is_shown_no_other() -> None:
    lease = make_lease(memory="1Gi", **FAST)
    assert elsewhere(lease, Led("a", tier="slow")) is None
    assert elsewhere(lease, Led("a")) == "a"
