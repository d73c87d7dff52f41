"""Kubernetes label selectors: whether an object with these labels matches.

Semantics: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Labels = Mapping[str, str]


class Requirement(NamedTuple):
    """One row of `matchExpressions`."""

    key: str
    operator: str
    values: frozenset[str]

    def matches(self, labels: Labels) -> bool:
        """Tell whether the labels meet this requirement; an absent key meets NotIn and DoesNotExist."""
        value = labels.get(self.key)
        if self.operator == "In":
            return value is not None and value in self.values
        if self.operator == "NotIn":
            return value is None or value not in self.values
        return (value is not None) == (self.operator == "Exists")


class Selector(NamedTuple):
    """A LabelSelector: all labels and all requirements must match. The empty selector matches everything."""

    labels: tuple[tuple[str, str], ...] = ()
    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Tell whether an object with these labels is selected."""
        return all(labels.get(key) == value for key, value in self.labels) and all(
            requirement.matches(labels) for requirement in self.requirements
        )


def selector_of(document: Mapping[str, Any]) -> Selector:
    """Read a LabelSelector as it is written on the wire."""
    return Selector(
        labels=tuple(sorted((document.get("matchLabels") or {}).items())),
        requirements=tuple(
            Requirement(row["key"], row["operator"], frozenset(row.get("values") or ()))
            for row in document.get("matchExpressions") or ()
        ),
    )
