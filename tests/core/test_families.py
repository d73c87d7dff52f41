from dataclasses import replace

from tests.builders import edited, granted, make_lease

from leasehold.core.families import Families, Part
from leasehold.core.lease import Slice

GIB = 1024**3


def part(parent: str, *slices: tuple[str, int, int]) -> Part:
    return Part(parent, tuple(Slice(node, {"cpu": cpu, "memory": mem * GIB}) for node, cpu, mem in slices))


def test_what_children_hold_is_added_up_by_node_and_given_back() -> None:
    families = Families()
    assert not families
    assert families.take("a", part("p", ("n1", 1000, 1), ("n1", 1000, 1)))
    assert families.take("b", part("p", ("n1", 500, 1), ("n2", 500, 2)))
    assert not families.take("b", part("p", ("n1", 500, 1), ("n2", 500, 2))), "that is no news"
    assert families.held_of("p") == {
        "n1": {"cpu": 2500, "memory": 3 * GIB},
        "n2": {"cpu": 500, "memory": 2 * GIB},
    }
    assert (families.holders("p"), families.on_node("n1"), families.on_node("n2")) == (
        {"a", "b"},
        {"a", "b"},
        {"b"},
    )
    assert families.take("a", part("p", ("n2", 1000, 1))), "one that shrank, or lies elsewhere now"
    assert families.on_node("n1") == {"b"}
    assert (families.give_back("b"), families.give_back("b"), families.give_back("a")) == ("p", "", "p")
    assert not families
    assert families.held_of("p") == {}
    assert families.on_node("n2") == frozenset()


def test_children_belong_to_a_name_until_they_are_over() -> None:
    families = Families()
    child = make_lease("child", parentRef={"name": "all"})
    parent = granted(name="all")
    families.leave(child)
    assert families.of(parent) == frozenset()
    families.join(child)
    assert families.of(parent) == {child.uid}
    assert list(families.due) == [("team-a", "all")]
    families.leave(child)
    assert families.members == {}


def test_a_parent_is_left_what_its_children_do_not_hold_slice_by_slice() -> None:
    families = Families()
    parent = granted(name="all", count=3, nodes=("n1", "n1", "n2"))  # of 2 cpu and 4 GiB each
    assert families.rest(parent) is parent
    families.take("a", part(parent.uid, ("n1", 3000, 1)))
    rest = families.rest(parent)
    assert [(row.node, row.amounts["cpu"]) for row in rest.slices] == [("n1", 0), ("n1", 1000), ("n2", 2000)]
    assert families.rest(parent) is rest, "it is the same as long as nothing changes"
    heard = replace(parent, status={**parent.status})
    assert families.rest(heard) is rest, "an answer and the watch may bring the same twice"
    newer = edited(parent, priority=1)
    assert families.rest(newer).version == newer.version
    families.give_back("a")
    assert families.rest(parent) is parent
