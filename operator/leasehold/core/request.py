"""What the planner knows of one waiting lease, whether a cluster or a trace asks for it."""

from __future__ import annotations

from typing import NamedTuple

from leasehold.core.amounts import Vector, times

NEVER = 1 << 62
"""An instant (ms) after everything: where a lease's end is not known."""


class Shape(NamedTuple):
    """What makes two waiting requests the same to the planner.

    `need` is one slice, in the pool's order of resources, and `slices` how many there are. `span` is how long (ms)
    their room is taken, from the start until it is free again, if nobody renews or gives back early. `not_before` is
    the earliest start (ms), and no start after `no_later` is promised.
    """

    tenant: str
    need: Vector
    slices: int = 1
    mode: str = "Any"
    topology_key: str = ""
    node_selector: tuple[tuple[str, str], ...] = ()
    span: int = NEVER
    not_before: int = 0
    no_later: int = NEVER

    @property
    def total(self) -> Vector:
        """All slices together."""
        return times(self.need, self.slices)


class Request(NamedTuple):
    """One waiting lease. Smaller turns come first; a turn is never shared. `crowd` is with whom it shares places."""

    uid: str
    turn: tuple[int, ...]
    shape: Shape
    priority: int = 0
    crowd: str = ""


class Start(NamedTuple):
    """A place for a waiting request: the positions of its nodes in the table, one for each slice.

    `until` is when its room is free again (ms). One that was let past an earlier request may not stay beyond
    `not_after`, however often it is renewed; None where nobody waits for that room.
    """

    uid: str
    nodes: tuple[int, ...]
    until: int
    not_after: int | None = None
