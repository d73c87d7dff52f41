"""What a lease held and used: exact sums, samples that count as long as they are believed, clocks that jump."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import GIB, NOON, at, clock, make_lease, span

from leasehold.api.lease import Accounting
from leasehold.core.accounting import Meter, held_by, wasted_permille
from leasehold.core.lease import Lease

LONGEST = span("10m")


def held(*nodes: str, **resources: str) -> Lease:
    """A lease that was granted at noon, with a slice on each node."""
    amounts = resources or {"cpu": "2", "memory": "4Gi"}
    slices = [{"index": i, "nodeName": node, "resources": amounts} for i, node in enumerate(nodes or ("n1",))]
    return make_lease(
        resources=amounts,
        count=len(slices),
        status={
            "allocation": {"allocationTime": clock(), "slices": slices},
            "conditions": [{"type": "Allocated", "status": "True", "reason": "Granted"}],
        },
    )


def meter(since: str = "") -> Meter:
    return Meter(at(since), LONGEST)


def bill(found: Meter, lease: Lease, when: str) -> dict[str, Any]:
    """The bill, checked to be what the API takes; resources by name."""
    written = found.bill(lease, at(when))
    Accounting.model_validate(written, extra="forbid")
    rows = {
        row["name"]: {k: v for k, v in row.items() if k != "name"} for row in written.get("resources", ())
    }
    return {**written, **({"resources": rows} if rows else {})}


def test_a_lease_that_was_never_observed_has_only_a_time() -> None:
    assert bill(meter(), held(), "1h") == {
        "heldSeconds": 3600,
        "observedSeconds": 0,
        "resources": {"cpu": {"reserved": "2"}, "memory": {"reserved": "4Gi"}},
    }


def test_a_lease_that_held_nothing_has_no_bill() -> None:
    assert meter().bill(make_lease(), at("1h")) == {}


def test_a_sample_counts_until_the_next_one() -> None:
    found, lease = meter(), held()
    found.observe(at(), "n1", {"cpu": 1000, "memory": GIB})
    found.observe(at("5m"), "n1", {"cpu": 2000, "memory": GIB})
    assert bill(found, lease, "10m") == {
        "heldSeconds": 600,
        "observedSeconds": 600,
        "resources": {
            "cpu": {"reserved": "2", "used": "1500m", "usedPercent": 75},
            "memory": {"reserved": "4Gi", "used": "1Gi", "usedPercent": 25},
        },
    }


def test_a_sample_counts_no_longer_than_a_report_is_believed() -> None:
    found, lease = meter(), held()
    found.observe(at(), "n1", {"cpu": 2000})
    found.observe(at("40m"), "n1", {"cpu": 0})
    told = bill(found, lease, "1h")
    assert told["observedSeconds"] == 1200
    assert told["resources"] == {
        "cpu": {"reserved": "2", "used": "1", "usedPercent": 50},
        "memory": {"reserved": "4Gi"},
    }


def test_what_was_measured_before_the_grant_does_not_count() -> None:
    found, lease = meter(), held()
    found.observe(at("-5m"), "n1", {"cpu": 2000})
    found.observe(at("1m"), "n1", {"cpu": 0})
    told = bill(found, lease, "2m")
    assert told["observedSeconds"] == 120
    assert told["resources"]["cpu"]["used"] == "1"


def test_nodes_add_up() -> None:
    found, lease = meter(), held("n1", "n2", cpu="1")
    found.observe(at(), "n1", {"cpu": 1000})
    found.observe(at(), "n2", {"cpu": 500})
    assert bill(found, lease, "10m") == {
        "heldSeconds": 600,
        "observedSeconds": 600,
        "resources": {"cpu": {"reserved": "2", "used": "1500m", "usedPercent": 75}},
    }


def test_a_silent_node_is_taken_to_be_like_the_others() -> None:
    found, lease = meter(), held("n1", "n2", cpu="1")
    found.observe(at(), "n1", {"cpu": 500})
    told = bill(found, lease, "10m")
    assert told["observedSeconds"] == 300
    assert told["resources"]["cpu"] == {"reserved": "2", "used": "1", "usedPercent": 50}


def test_two_slices_on_one_node_are_observed_as_one() -> None:
    found, lease = meter(), held("n1", "n1", cpu="1")
    found.observe(at(), "n1", {"cpu": 1500})
    told = bill(found, lease, "10m")
    assert told["observedSeconds"] == 600
    assert told["resources"]["cpu"] == {"reserved": "2", "used": "1500m", "usedPercent": 75}


def test_use_beyond_what_was_reserved_shows() -> None:
    found = meter()
    found.observe(at(), "n1", {"cpu": 3000})
    assert bill(found, held(), "1m")["resources"]["cpu"]["usedPercent"] == 150
    found = meter()
    found.observe(at(), "n1", {"cpu": 1 << 62})
    assert bill(found, held(cpu="1m"), "1m")["resources"]["cpu"]["usedPercent"] == 2**31 - 1


def test_use_of_what_the_lease_does_not_hold_is_not_billed() -> None:
    found = meter()
    found.observe(at(), "n1", {"memory": GIB})
    assert bill(found, held(cpu="1"), "1m")["resources"] == {"cpu": {"reserved": "1"}}


def test_a_lease_that_shrank_reserved_the_average() -> None:
    found, big, small = meter(), held(cpu="4"), held(cpu="2")
    found.observe(at(), "n1", {"cpu": 1000})
    found.hold(big, at())
    found.hold(big, at("2m"))
    found.hold(small, at("5m"))
    assert bill(found, small, "10m")["resources"]["cpu"] == {
        "reserved": "3",
        "used": "1",
        "usedPercent": 33,
    }


def test_a_meter_begun_after_a_restart_takes_it_to_have_held_the_same_all_the_time() -> None:
    found, lease = meter(), held(cpu="2")
    found.hold(lease, at("30m"))
    found.observe(at("50m"), "n1", {"cpu": 1000})
    assert bill(found, lease, "1h") == {
        "heldSeconds": 3600,
        "observedSeconds": 600,
        "resources": {"cpu": {"reserved": "2", "used": "1", "usedPercent": 50}},
    }


def test_a_lease_that_holds_no_more_is_billed_by_what_it_held() -> None:
    found = meter()
    found.hold(held(cpu="2"), at())
    found.observe(at(), "n1", {"cpu": 1000})
    assert bill(found, make_lease(), "10m")["resources"]["cpu"]["reserved"] == "2"


def test_a_clock_that_is_set_back_starts_anew_and_takes_nothing_away() -> None:
    found, lease = meter(), held(cpu="2")
    found.observe(at("10m"), "n1", {"cpu": 2000})
    found.observe(at("20m"), "n1", {"cpu": 2000})
    found.observe(at("15m"), "n1", {"cpu": 0})
    found.observe(at("25m"), "n1", {"cpu": 0})
    assert bill(found, lease, "25m")["resources"]["cpu"] == {"reserved": "2", "used": "1", "usedPercent": 50}
    early = found.bill(lease, at("-1h"))
    assert (early["heldSeconds"], early["observedSeconds"]) == (0, 0)


def test_the_average_so_far_is_told_while_it_is_held() -> None:
    found = meter()
    assert found.average_use(1, at("1m")) == {}
    found.observe(at(), "n1", {"cpu": 300})
    assert found.average_use(1, at()) == {}, "no time has passed"
    assert found.average_use(2, at("1m")) == {"cpu": 600}


def test_what_is_kept_does_not_grow_with_time() -> None:
    found = meter()
    for minute in range(1000):
        found.observe(at() + minute * 60_000, f"n{minute % 2}", {"cpu": minute})
    assert (len(found._last), len(found._spans), len(found._used)) == (2, 1, 1)


# --- waste ---


def test_what_is_not_used_by_the_best_used_resource_is_wasted() -> None:
    assert wasted_permille({"cpu": 4000, "memory": 8}, {"cpu": 1000, "memory": 6}) == 250
    assert wasted_permille({"cpu": 4000}, {"cpu": 0}) == 1000
    assert wasted_permille({"cpu": 4000}, {"cpu": 9000}) == 0


def test_where_nothing_is_measured_nothing_is_wasted() -> None:
    assert wasted_permille({"cpu": 4000}, {}) == 0
    assert wasted_permille({"cpu": 4000}, {"memory": 1}) == 0
    assert wasted_permille({"cpu": 0}, {"cpu": 1}) == 0


# --- laws ---

instants = st.integers(-100_000, 5_000_000).map(lambda ms: NOON + ms)
uses = st.dictionaries(st.sampled_from(["cpu", "memory", "gpu"]), st.integers(0, 1 << 62), max_size=3)
samples = st.lists(st.tuples(instants, st.sampled_from(["n1", "n2", "n3"]), uses), max_size=20)
PLACES = held("n1", "n2", "n3")


@given(samples, instants)
def test_no_figure_is_negative_or_beyond_its_bound(news: list[Any], now: int) -> None:
    found = meter()
    for sample in news:
        found.observe(*sample)
    written = found.bill(PLACES, now)
    Accounting.model_validate(written, extra="forbid")
    assert 0 <= written["observedSeconds"] <= written["heldSeconds"]
    for name, used in found.average_use(1, now).items():
        assert used <= max(amounts.get(name, 0) for _, _, amounts in news)


@given(samples, instants)
def test_a_look_changes_nothing(news: list[Any], now: int) -> None:
    looked, other = meter(), meter()
    for sample in news:
        looked.observe(*sample)
        looked.bill(PLACES, now)
        other.observe(*sample)
    assert looked.bill(PLACES, now) == other.bill(PLACES, now)


@given(samples, instants)
def test_nodes_are_counted_each_for_itself(news: list[Any], now: int) -> None:
    """The sums of all nodes together are the sums of each node added up."""
    whole = meter()
    parts = {node: meter() for node in ("n1", "n2", "n3")}
    for time, node, amounts in news:
        whole.observe(time, node, amounts)
        parts[node].observe(time, node, amounts)
    observed, spans, used = whole._observed_until(now)
    each = [part._observed_until(now) for part in parts.values()]
    assert observed == sum(one[0] for one in each)
    for name in ("cpu", "memory", "gpu"):
        assert spans.get(name, 0) == sum(one[1].get(name, 0) for one in each)
        assert used.get(name, 0) == sum(one[2].get(name, 0) for one in each)


@given(st.lists(st.integers(0, 3_600_000), min_size=1, max_size=20), uses)
def test_saying_the_same_more_often_adds_nothing_as_long_as_it_is_believed(
    offsets: list[int], amounts: dict[str, int]
) -> None:
    """One sample that is believed for all the time counts as much as any number of the same in between."""
    once, often = Meter(NOON, 10**8), Meter(NOON, 10**8)
    once.observe(NOON, "n1", amounts)
    often.observe(NOON, "n1", amounts)
    for offset in sorted(offsets):
        often.observe(NOON + offset, "n1", amounts)
    end = NOON + 3_600_000
    assert once._observed_until(end) == often._observed_until(end)


@given(st.lists(st.tuples(st.integers(0, 3_600_000), st.integers(1, 8)), max_size=10))
def test_what_is_reserved_lies_between_the_least_and_the_most_it_held(steps: list[tuple[int, int]]) -> None:
    found = meter()
    cores = [8]
    found.hold(held(cpu="8"), NOON)
    for offset, cpu in sorted(steps):
        found.hold(held(cpu=str(cpu)), NOON + offset)
        cores.append(cpu)
    end = NOON + 3_600_001
    total = found._held_until(end)["cpu"]
    assert min(cores) * 1000 * 3_600_001 <= total <= max(cores) * 1000 * 3_600_001


def test_what_a_lease_holds_is_all_its_slices() -> None:
    assert held_by(held("n1", "n2", cpu="1500m")) == {"cpu": 3000}
