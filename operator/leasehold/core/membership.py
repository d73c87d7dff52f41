"""Which node belongs to which pool. A node that two pools select belongs to neither until that is mended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from leasehold.core.nodes import Node
from leasehold.core.selectors import Selector


class Membership(NamedTuple):
    """The pools whose selectors match a node, by name. Only a single one may lend it."""

    pools: tuple[str, ...]

    @property
    def conflicting(self) -> bool:
        """More than one pool selects the node."""
        return len(self.pools) > 1


def pools_of(node: Node, selectors: Mapping[str, Selector]) -> Membership:
    """Return the pools (by name) that select a node."""
    return Membership(tuple(sorted(name for name, found in selectors.items() if found.matches(node.labels))))
