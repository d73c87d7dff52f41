from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.amounts import plus, zero
from leasehold.core.ledger import HELD, QUARANTINED, RELEASING, Holding, Ledger, differences


def test_a_holding_counts_on_its_nodes_and_in_its_state() -> None:
    ledger = Ledger(2)
    touched = ledger.put(Holding("a", (("n1", (1, 2)), ("n1", (1, 2)), ("n2", (3, 4)))))
    assert touched == {"n1", "n2"}
    assert (ledger.on_node("n1"), ledger.on_node("n2"), ledger.on_node("n3")) == ((2, 4), (3, 4), (0, 0))
    assert (ledger.total(HELD), ledger.count(HELD), len(ledger)) == ((5, 8), 1, 1)
    assert ledger.holders("n1") == {"a"}


def test_a_new_holding_replaces_the_one_before() -> None:
    ledger = Ledger(1)
    ledger.put(Holding("a", (("n1", (5,)),)))
    assert ledger.put(Holding("a", (("n2", (3,)),), RELEASING)) == {"n1", "n2"}
    assert (ledger.on_node("n1"), ledger.on_node("n2")) == ((0,), (3,))
    assert (ledger.count(HELD), ledger.count(RELEASING)) == (0, 1)
    assert list(ledger.nodes()) == ["n2"]


def test_dropping_undoes_putting() -> None:
    ledger = Ledger(1)
    ledger.put(Holding("a", (("n1", (5,)),), QUARANTINED))
    assert ledger.drop("a") == {"n1"}
    assert ledger.drop("a") == frozenset()
    assert differences(ledger, Ledger(1), str) == []
    assert ledger.holders("n1") == frozenset()
    assert ledger.total(QUARANTINED) == (0,)


def test_differences_name_the_lease_and_the_node() -> None:
    kept, rebuilt = Ledger(1), Ledger(1)
    kept.put(Holding("uid-a", (("n1", (5,)),)))
    rebuilt.put(Holding("uid-a", (("n1", (4,)),)))
    kept.put(Holding("uid-b", (("n2", (1,)),)))
    assert differences(kept, rebuilt, lambda uid: {"uid-a": "team-a/build"}.get(uid, uid)) == [
        "team-a/build: the books say (5,) on n1 (held), the lease says (4,) on n1 (held)",
        "uid-b: the books say (1,) on n2 (held), the lease says nothing",
        "node n1: the books add up to (5,), the leases to (4,)",
        "node n2: the books add up to (1,), the leases to (0,)",
    ]


HOLDINGS = st.builds(
    Holding,
    st.sampled_from("abcd"),
    st.lists(
        st.tuples(st.sampled_from(["n1", "n2", "n3"]), st.tuples(st.integers(0, 9), st.integers(0, 9))),
        min_size=1,
    ).map(tuple),
    st.sampled_from([HELD, RELEASING, QUARANTINED]),
)


@given(st.lists(HOLDINGS | st.sampled_from("abcd"), max_size=30))
def test_books_kept_change_by_change_equal_books_made_anew(history: list[Holding | str]) -> None:
    ledger, last = Ledger(2), {}
    for change in history:
        if isinstance(change, str):
            ledger.drop(change)
            last.pop(change, None)
        else:
            ledger.put(change)
            last[change.uid] = change
    fresh = Ledger(2)
    for holding in last.values():
        fresh.put(holding)
    assert differences(ledger, fresh, str) == []
    assert {h.uid for h in ledger} == set(last)
    for state in (HELD, RELEASING, QUARANTINED):
        mine = [h for h in last.values() if h.state == state]
        total = zero(2)
        for holding in mine:
            for _, amounts in holding.slices:
                total = plus(total, amounts)
        assert (ledger.total(state), ledger.count(state)) == (total, len(mine))
