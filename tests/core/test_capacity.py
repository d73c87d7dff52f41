from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.core.capacity import CLOSED, NodeTable, Row, Shortage, shortages
from leasehold.core.nodes import Verdict

STRATEGIES = ("BestFit", "Spread", "LeastUsed", "FirstFit")


def row(
    cpu: int = 100,
    memory: int = 100,
    *,
    held: tuple[int, int] = (0, 0),
    used: tuple[int, int] = (0, 0),
    unmanaged: tuple[int, int] = (0, 0),
    load: int = 0,
    reason: str = "",
    **labels: str,
) -> Row:
    limit = (cpu, memory)
    return Row(labels, Verdict(limit, limit, used, unmanaged, load, reason, frozenset(), None), held)


def table(strategy: str = "BestFit", **rows: Row) -> NodeTable:
    found = NodeTable(2, strategy)
    for name, entry in rows.items():
        found.put(name, entry)
    found.settle()
    return found


def preferred(found: NodeTable) -> str:
    return "".join(found.names[i] for _, i in found.order)


# --- what is free ---


@pytest.mark.parametrize(
    ("entry", "free"),
    [
        (row(), (100, 100)),
        (row(held=(30, 40)), (70, 60)),
        (row(held=(30, 40), used=(20, 40)), (70, 60)),  # leases within what they hold cost nothing twice
        (row(held=(30, 40), used=(50, 0)), (50, 60)),  # beyond that it is somebody else's
        (row(held=(30, 0), unmanaged=(20, 0), used=(10, 0)), (50, 100)),
        (row(held=(130, 0)), (-30, 100)),
    ],
)
def test_free_is_the_limit_less_what_is_held_or_used(entry: Row, free: tuple[int, int]) -> None:
    assert entry.free() == free


def test_a_node_holds_too_much_when_its_limit_fell_not_when_its_use_rose() -> None:
    assert row(50, 100, held=(60, 60)).hard_excess() == (10, 0)
    assert row(used=(999, 999), held=(100, 100)).hard_excess() == (0, 0)
    found = table(a=row(held=(101, 0)), b=row(used=(500, 0)))
    assert found.over == {"a"}
    found.hold("a", (100, 0))
    assert found.over == set()
    found.hold("a", (101, 0))
    found.remove("a")
    assert found.over == set()


def test_a_closed_node_shows_less_than_any_debt() -> None:
    assert row(reason="NodeCordoned").shown_free() == (CLOSED, CLOSED)


# --- order ---

NODES = {
    "a": row(100, 100, held=(10, 10), load=300),
    "b": row(50, 50, held=(10, 10), load=100),
    "c": row(100, 100, held=(80, 80), load=200),
    "d": row(100, 100, reason="NodeCordoned"),
}


@pytest.mark.parametrize(
    ("strategy", "order"),
    [("BestFit", "cba"), ("Spread", "abc"), ("LeastUsed", "bca"), ("FirstFit", "abc")],
)
def test_each_strategy_has_its_order(strategy: str, order: str) -> None:
    assert preferred(table(strategy, **NODES)) == order


def test_equal_use_falls_back_on_the_larger_free_share() -> None:
    found = table("LeastUsed", a=row(held=(50, 50)), b=row(held=(10, 10)))
    assert preferred(found) == "ba"


def test_resources_are_weighed_by_the_largest_node() -> None:
    found = table("BestFit", a=row(10, 1000, held=(5, 0)), b=row(10, 1000, held=(0, 100)))
    assert preferred(found) == "ab"


def test_a_node_that_grows_changes_how_resources_are_weighed() -> None:
    nodes = {"a": row(10, 10, held=(0, 5)), "b": row(10, 10, held=(4, 0)), "c": row(10, 10)}
    found = table("BestFit", **nodes)
    assert preferred(found) == "abc"
    found.put("c", row(10, 1000))
    assert found.differences() == []
    assert preferred(found) == "bac"


VALUES = st.integers(0, 40)
ROWS = st.builds(
    lambda cpu, memory, held, used, load, reason, zone: row(
        cpu, memory, held=held, used=used, load=load, reason=reason, **({"zone": zone} if zone else {})
    ),
    st.sampled_from([0, 20, 40]),
    st.sampled_from([20, 40]),
    st.tuples(VALUES, VALUES),
    st.tuples(VALUES, VALUES),
    st.integers(0, 1000),
    st.sampled_from(["", "", "ReportStale"]),
    st.sampled_from(["", "x", "y"]),
)
CHANGES = st.lists(
    st.tuples(st.sampled_from("abcde"), st.none() | ROWS | st.tuples(VALUES, VALUES)), max_size=20
)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(changes=CHANGES, settled=st.integers(0, 20))
@settings(max_examples=60)
def test_a_table_kept_node_by_node_equals_one_made_anew(
    strategy: str, changes: list[Any], settled: int
) -> None:
    kept = NodeTable(2, strategy)
    for step, (name, change) in enumerate(changes):
        if step == settled:
            kept.settle()
        if change is None:
            kept.remove(name)
        elif isinstance(change, Row):
            kept.put(name, change)
        else:
            kept.hold(name, change)
        if step > settled:
            assert kept.differences() == []
    assert kept.differences() == []


# --- labels ---


def test_nodes_are_found_by_their_labels() -> None:
    found = table(a=row(zone="x", disk="ssd"), b=row(zone="x"), c=row(zone="y", disk="ssd"))
    assert found.selected(()) is None
    assert found.selected((("zone", "x"),)) == {0, 1}
    assert found.selected((("disk", "ssd"), ("zone", "x"))) == {0}
    assert found.selected((("disk", "ssd"), ("zone", "x"))) == {0}
    assert found.selected((("rack", "1"),)) == frozenset()
    assert dict(found.domains("zone")) == {"x": {0, 1}, "y": {2}}
    assert found.domains("zone") is found.domains("zone"), "worked out once"
    assert found.domains("rack") == {}


def test_a_node_that_changes_its_labels_is_found_by_the_new_ones() -> None:
    found = table(a=row(zone="x"))
    assert found.selected((("zone", "x"),)) == {0}
    found.put("a", row(zone="y"))
    assert found.selected((("zone", "x"),)) == frozenset()
    assert found.domains("zone").keys() == {"y"}
    found.remove("a")
    assert found.domains("zone") == {}


def test_what_tenants_ask_for_does_not_fill_the_memory() -> None:
    found = table(a=row(zone="x"))
    for i in range(2000):
        assert not found.selected((("zone", f"made-up-{i}"),))
        assert not found.domains(f"made-up-{i}")
    assert len(found._selected) <= 256
    assert len(found._domains) <= 1


# --- planning on a copy ---


def test_what_is_taken_from_a_scratch_is_not_taken_from_the_table() -> None:
    found = table(a=row())
    scratch = found.scratch()
    scratch.take(0, (60, 60))
    assert scratch.find((50, 50)) is None
    assert found.scratch().find((50, 50)) == 0
    assert found.differences() == []


def test_giving_back_undoes_taking() -> None:
    scratch = table(**NODES).scratch()
    before = ([column.copy() for column in scratch.free], scratch.order.copy(), scratch.keys.copy())
    scratch.take(1, (7, 9))
    scratch.take(1, (-7, -9))
    assert (scratch.free, scratch.order, scratch.keys) == before


def test_a_node_taken_from_moves_in_the_order() -> None:
    scratch = table("Spread", a=row(), b=row(held=(10, 10))).scratch()
    assert scratch.find((5, 5)) == 0
    scratch.take(0, (20, 20))
    assert scratch.find((5, 5)) == 1


def test_debt_in_what_is_not_asked_for_is_no_obstacle() -> None:
    assert table(a=row(held=(200, 0))).scratch().find((0, 50)) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("size", [300, 40])
def test_the_node_found_is_the_first_in_order_that_fits_however_far_back_it_is(
    strategy: str, size: int
) -> None:
    nodes = {
        f"n{i:03d}": row(
            100 + i % 7, 100 + i % 3, held=(40 + (i * 37) % 60, (i * 11) % 90), load=i * 17 % 1000
        )
        for i in range(size)
    }
    found = table(strategy, **nodes, zz=row(reason="NodeCordoned"))
    scratch = found.scratch()
    for need in ((1, 1), (30, 0), (0, 99), (60, 60), (59, 80), (66, 1), (200, 1)):
        for allowed in (None, {3, 5, 8}, set(range(0, size, 3)), set(range(size - 20)), set()):
            for barred in (frozenset(), {i for _, i in found.order[: size // 2]}):
                fits = [
                    i
                    for _, i in found.order
                    if all(scratch.free[r][i] >= need[r] for r in (0, 1) if need[r])
                    and (allowed is None or i in allowed)
                    and i not in barred
                ]
                assert scratch.find(need, allowed, barred) == (fits[0] if fits else None)


# --- why not ---


def test_a_shortage_names_how_many_nodes_lack_how_much_at_least() -> None:
    found = table(
        a=row(held=(90, 0)), b=row(held=(95, 99)), c=row(reason="NodeCordoned"), d=row(reason="ReportStale")
    )
    assert shortages(found.scratch(), (20, 10), ("cpu", "memory"), "Insufficient", None) == [
        Shortage("NodeCordoned", 1),
        Shortage("ReportStale", 1),
        Shortage("Insufficient", 2, "cpu", 10),
        Shortage("Insufficient", 1, "memory", 9),
    ]


def test_a_shortage_counts_only_the_nodes_that_were_asked_about() -> None:
    found = table(a=row(held=(90, 0)), b=row(held=(95, 0)), c=row(reason="NodeCordoned"))
    assert shortages(found.scratch(), (20, 0), ("cpu", "memory"), "Insufficient", {1}) == [
        Shortage("Insufficient", 1, "cpu", 15)
    ]


def test_nodes_that_open_and_close_are_counted_as_they_are() -> None:
    found = table(a=row(), b=row())
    found.put("a", row(reason="NodeCordoned"))
    found.put("b", row(reason="NodeCordoned"))
    found.put("a", row(reason="ReportStale"))
    assert found.closed == {"NodeCordoned": 1, "ReportStale": 1}
    found.put("a", row())
    found.put("b", row())
    assert not found.closed
    assert found.differences() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.free[0].__setitem__(0, 7),
        lambda t: t.keys.__setitem__(0, 7),
        lambda t: t.order.pop(),
        lambda t: t.over.add("a"),
        lambda t: t.closed.update(["NodeCordoned"]),
        lambda t: t.names.pop(),
    ],
)
def test_an_audit_of_the_table_finds_damage(damage: Any) -> None:
    found = table(a=row(), b=row(50, 50))
    assert found.differences() == []
    damage(found)
    assert found.differences()
