import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.test_capacity import STRATEGIES, row, table

from leasehold.core.capacity import NodeTable, Scratch
from leasehold.core.placement import could_ever_fit, place

# Free, in order: a 80 of 100, b 40 of 50, c 20 of 100. Use: b 10 %, c 20 %, a 30 %.
NODES = {
    "a": row(100, 100, held=(20, 20), load=300, zone="x"),
    "b": row(50, 50, held=(10, 10), load=100, zone="y"),
    "c": row(100, 100, held=(80, 80), load=200, zone="x"),
}


def put(strategy: str, size: int, count: int, mode: str = "Any") -> str | None:
    """Place on the nodes above; answer with their names in order of slices."""
    found = table(strategy, **NODES)
    positions = place(
        found.scratch(), (size, size), count, mode, None, "zone" if mode == "SameDomain" else ""
    )
    return None if positions is None else "".join(found.names[i] for i in positions)


@pytest.mark.parametrize(
    ("mode", "size", "count", "best_fit", "spread", "least_used", "first_fit"),
    [
        # one slice: the preferred node of each strategy
        ("Any", 10, 1, "c", "a", "b", "a"),
        ("SameNode", 10, 1, "c", "a", "b", "a"),
        ("DistinctNodes", 10, 1, "c", "a", "b", "a"),
        ("SameDomain", 10, 1, "b", "b", "b", "b"),
        # three slices: fill a node, spread over shares, or each on its own
        ("Any", 10, 3, "ccb", "aba", "bbb", "aaa"),
        ("SameNode", 10, 3, "b", "a", "b", "a"),
        ("DistinctNodes", 10, 3, "cba", "abc", "bca", "abc"),
        ("SameDomain", 10, 3, "bbb", "bbb", "bbb", "bbb"),
        # only the larger domain has room for six
        ("SameDomain", 10, 6, "ccaaaa", "aaaaaa", "ccaaaa", "aaaaaa"),
        # does not fit as asked
        ("SameNode", 50, 2, None, None, None, None),
        ("DistinctNodes", 10, 4, None, None, None, None),
        ("SameDomain", 20, 6, None, None, None, None),
        ("Any", 30, 4, None, None, None, None),
    ],
)
def test_every_strategy_places_every_mode(
    mode: str, size: int, count: int, best_fit: str, spread: str, least_used: str, first_fit: str
) -> None:
    found = [put(strategy, size, count, mode) for strategy in STRATEGIES]
    want = [best_fit, spread, least_used, first_fit]
    if mode == "SameNode":
        want = [node and node * count for node in want]
    assert found == want


def snapshot(scratch: Scratch) -> tuple[list[list[int]], list[tuple[int, int]]]:
    return [column.copy() for column in scratch.free], scratch.order.copy()


@pytest.mark.parametrize("mode", ["Any", "SameNode", "DistinctNodes", "SameDomain"])
def test_all_slices_or_none_and_none_leaves_no_trace(mode: str) -> None:
    scratch = table("Spread", **NODES).scratch()
    before = snapshot(scratch)
    assert place(scratch, (15, 15), 20, mode, None, "zone") is None
    assert snapshot(scratch) == before


def test_slices_keep_to_the_nodes_the_lease_allows() -> None:
    found = table(**NODES)
    assert place(found.scratch(), (10, 10), 2, "Any", found.selected((("zone", "y"),))) == [1, 1]
    assert place(found.scratch(), (10, 10), 1, "SameNode", frozenset()) is None
    assert place(found.scratch(), (10, 10), 2, "SameDomain", {0, 1}, "zone") == [1, 1]
    assert place(found.scratch(), (10, 10), 1, "SameDomain", None, "rack") is None


@pytest.mark.parametrize(
    ("need", "count", "mode", "fits"),
    [
        ((100, 100), 1, "Any", True),
        ((101, 1), 1, "Any", False),
        ((50, 50), 5, "Any", True),
        ((50, 50), 6, "Any", False),
        ((50, 50), 2, "SameNode", True),
        ((50, 50), 3, "SameNode", False),
        ((50, 50), 3, "DistinctNodes", True),
        ((51, 50), 3, "DistinctNodes", False),
        ((50, 50), 4, "SameDomain", True),
        ((50, 50), 5, "SameDomain", False),
    ],
)
def test_what_even_an_empty_pool_could_not_hold_is_known(
    need: tuple[int, int], count: int, mode: str, fits: bool
) -> None:
    assert could_ever_fit(table(**NODES), need, count, mode, None, "zone") is fits


def test_what_could_ever_fit_depends_on_the_nodes_allowed() -> None:
    found = table(**NODES)
    assert not could_ever_fit(found, (60, 60), 1, "Any", {1}, "")
    assert could_ever_fit(found, (60, 60), 1, "SameDomain", {0}, "zone")
    assert not could_ever_fit(found, (60, 60), 1, "SameDomain", {1}, "zone")


TABLES = st.builds(
    table,
    st.sampled_from(STRATEGIES),
    **{
        name: st.builds(
            lambda cpu, memory, held, zone: row(cpu, memory, held=(held, held), zone=zone),
            st.integers(0, 30),
            st.integers(0, 30),
            st.integers(0, 20),
            st.sampled_from("xy"),
        )
        for name in "abcd"
    },
)


@given(
    TABLES,
    st.tuples(st.integers(1, 15), st.integers(0, 15)),
    st.integers(1, 6),
    st.sampled_from(["Any", "SameNode", "DistinctNodes", "SameDomain"]),
)
def test_a_placement_keeps_its_mode_and_never_takes_what_is_not_there(
    found: NodeTable, need: tuple[int, int], count: int, mode: str
) -> None:
    scratch = found.scratch()
    free = [[column[i] for column in scratch.free] for i in range(4)]
    copies = [min(f // n for f, n in zip(row_, need, strict=True) if n) for row_ in free]
    copies = [max(0, c) for c in copies]
    zones = found.domains("zone").values()
    possible = {
        "Any": sum(copies) >= count,
        "SameNode": max(copies) >= count,
        "DistinctNodes": sum(c > 0 for c in copies) >= count,
        "SameDomain": any(sum(copies[i] for i in zone) >= count for zone in zones),
    }[mode]
    placed = place(scratch, need, count, mode, None, "zone")
    assert (placed is not None) is possible
    if placed is None:
        return
    assert len(placed) == count
    assert all(placed.count(i) <= copies[i] for i in placed)
    assert mode != "SameNode" or len(set(placed)) == 1
    assert mode != "DistinctNodes" or len(set(placed)) == count
    assert mode != "SameDomain" or any(set(placed) <= zone for zone in zones)
    assert could_ever_fit(found, need, count, mode, None, "zone")
