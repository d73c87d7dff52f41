"""When a node that came to a pool may be lent: once the leaders of all other shards have heard of it.

Leaders of different shards see the same Nodes and pools, but not at the same moment. A node moves from pool A to pool
B, B's leader hears of it first and lends it, while A's leader, a little behind, lends it too: both ledgers are right,
and the node is lent twice. So each leader tells, with every renewal of its shard's Lease, what it has heard of and
decides by (`Heard`); a node that came to a pool waits until every other leader has heard at least of that.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from typing import NamedTuple, Self


class Heard(NamedTuple):
    """What one leader's decisions rest on from now on.

    `nodes` is the resourceVersion up to which it heard of every Node; `pools` stands for the specs of all pools that it
    knows; `leases` is the latest version of a lease that it has seen, its own writes included.
    """

    nodes: int
    pools: str
    leases: int

    def __str__(self) -> str:
        return f"{self.nodes},{self.pools},{self.leases}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what another replica wrote; None where it is nothing that can be read."""
        parts = text.split(",")
        if len(parts) != 3 or not (parts[0].isdecimal() and parts[2].isdecimal()):
            return None
        return cls(int(parts[0]), parts[1], int(parts[2]))


def digest(generations: Mapping[str, str]) -> str:
    """Return a short text that stands for which pools there are, at which generation of their specs."""
    text = "\n".join(f"{name}={generation}" for name, generation in sorted(generations.items()))
    return f"{zlib.crc32(text.encode()):08x}-{len(generations)}"


def level_of(others: Collection[Heard | None], mine: Heard) -> int | None:
    """Return up to which version of Nodes all others heard, or None while one must be waited for.

    One that nobody leads may have a leader that just does not know it is none any more; one whose pools differ has not
    heard of a change, or we have not; one whose leases we have not all seen may hold what we do not know of.
    """
    level: int | None = None
    for other in others:
        if other is None or other.pools != mine.pools or other.leases > mine.leases:
            return None
        level = other.nodes if level is None else min(level, other.nodes)
    return level
