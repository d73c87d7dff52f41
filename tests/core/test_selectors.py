import pytest

from leasehold.core.selectors import Requirement, Selector, selector_of

NODE = {"zone": "a", "disk": "ssd"}


def test_the_empty_selector_takes_every_node() -> None:
    assert Selector().matches({})
    assert Selector().matches(NODE)


def test_all_labels_must_be_there_with_their_values() -> None:
    assert Selector((("zone", "a"), ("disk", "ssd"))).matches(NODE)
    assert not Selector((("zone", "b"),)).matches(NODE)
    assert not Selector((("rack", "1"),)).matches(NODE)


@pytest.mark.parametrize(
    ("operator", "key", "values", "matches"),
    [
        ("In", "zone", {"a", "b"}, True),
        ("In", "zone", {"b"}, False),
        ("In", "rack", {"a"}, False),
        ("NotIn", "zone", {"b"}, True),
        ("NotIn", "zone", {"a"}, False),
        ("NotIn", "rack", {"a"}, True),
        ("Exists", "zone", set(), True),
        ("Exists", "rack", set(), False),
        ("DoesNotExist", "rack", set(), True),
        ("DoesNotExist", "zone", set(), False),
    ],
)
def test_requirements_mean_what_kubernetes_means(
    operator: str, key: str, values: set[str], matches: bool
) -> None:
    assert Requirement(key, operator, frozenset(values)).matches(NODE) is matches
    assert (
        Selector((("zone", "a"),), (Requirement(key, operator, frozenset(values)),)).matches(NODE) is matches
    )


def test_a_selector_is_read_as_it_is_written_on_the_wire() -> None:
    document = {
        "matchLabels": {"zone": "a", "disk": "ssd"},
        "matchExpressions": [
            {"key": "rack", "operator": "In", "values": ["1", "2"]},
            {"key": "spot", "operator": "DoesNotExist"},
        ],
    }
    assert selector_of(document) == Selector(
        (("disk", "ssd"), ("zone", "a")),
        (
            Requirement("rack", "In", frozenset({"1", "2"})),
            Requirement("spot", "DoesNotExist", frozenset()),
        ),
    )


@pytest.mark.parametrize("document", [{}, {"matchLabels": None, "matchExpressions": None}])
def test_a_selector_without_conditions_takes_everything(document: dict[str, None]) -> None:
    assert selector_of(document).matches(NODE)
