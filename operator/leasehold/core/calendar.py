"""A pool's known future: when what is held is free again, and what is promised to whom from when on.

Every lease has an end, so free capacity over time is known: what is free now, plus what ends, less what is promised.
A grant, a release or a renewal changes one entry. `Outlook` looks ahead from one instant; it is where backfill and
advance reservations find the earliest start, and what they may not take.

The planner's rule is EASY backfilling (Lifka, "The ANL/IBM SP scheduling system", 1995; Mu'alem and Feitelson, 2001),
on vectors of resources and on nodes instead of on one number of processors.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from heapq import merge
from typing import NamedTuple

from leasehold.core.amounts import Vector, times
from leasehold.core.capacity import NodeTable, Point, Scratch
from leasehold.core.request import NEVER, Shape

Slices = tuple[tuple[str, Vector], ...]


class Held(NamedTuple):
    """What a grant takes, until when (NEVER: nobody knows), and what a preemption must know about it.

    `since` is when it was granted; one that is `leaving` ends anyway.
    """

    until: int
    slices: Slices
    tenant: str = ""
    priority: int = 0
    since: int = 0
    leaving: bool = False


class Promise(NamedTuple):
    """Room that is kept for a request from `start` until `end`, node by node."""

    uid: str
    start: int
    end: int
    slices: Slices


class Slot(NamedTuple):
    """The earliest start of a request, and where: the position of the node of each slice.

    `rooms` is what is free on each of these nodes at the start, before the request itself.
    """

    start: int
    nodes: tuple[int, ...]
    rooms: Mapping[int, Sequence[int]]


class Calendar:
    """Ends and promises of one pool. Instants are milliseconds."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.ends: list[tuple[int, str]] = []
        self.on_node: dict[str, set[str]] = {}
        self.promises: dict[str, Promise] = {}

    def hold(self, uid: str, held: Held) -> None:
        """Note what a grant takes, in place of what it took before."""
        known = self.held.get(uid)
        if known == held:
            return
        if known is not None:
            self.drop(uid)
        self.held[uid] = held
        if held.until < NEVER:
            insort(self.ends, (held.until, uid))
        for node, _ in held.slices:
            self.on_node.setdefault(node, set()).add(uid)

    def drop(self, uid: str) -> Held | None:
        """Forget a grant; return what it took. One that is not known is no error."""
        held = self.held.pop(uid, None)
        if held is None:
            return None
        if held.until < NEVER:
            del self.ends[bisect_left(self.ends, (held.until, uid))]
        for node in {node for node, _ in held.slices}:
            uids = self.on_node[node]
            uids.discard(uid)
            if not uids:
                del self.on_node[node]
        return held

    def promise(self, promise: Promise) -> None:
        """Keep room for a request, in place of what was kept for it before."""
        self.promises[promise.uid] = promise

    def unpromise(self, uid: str) -> None:
        """Keep no more room for a request; none kept is no error."""
        self.promises.pop(uid, None)

    def copy(self) -> Calendar:
        """Return a calendar that can be played with."""
        made = Calendar()
        made.held = dict(self.held)
        made.ends = self.ends.copy()
        made.on_node = {node: set(uids) for node, uids in self.on_node.items()}
        made.promises = dict(self.promises)
        return made


class Outlook:
    """Free capacity from `now` on: a scratch for what is free, the calendar for what changes, and this pass's starts.

    What should have ended before `now` has not given back yet and is expected at any moment.
    """

    def __init__(self, scratch: Scratch, calendar: Calendar, now: int) -> None:
        self.scratch = scratch
        self.calendar = calendar
        self.now = now
        self.kept: dict[str, Promise] = dict(calendar.promises)
        self._started: list[tuple[int, str]] = []
        self._slices: dict[str, Slices] = {}
        scratch.guard = {}
        for promise in self.kept.values():
            self._guard(promise)

    # --- promised room ---

    def keep(self, promise: Promise) -> None:
        """Keep room from everybody who comes later in this pass and would still be there by its start."""
        self.kept[promise.uid] = promise
        self._guard(promise)

    def keep_slot(self, uid: str, slot: Slot, shape: Shape) -> Promise:
        """Keep a slot for a request; return the promise."""
        names, guard = self.scratch.table.names, self.scratch.guard
        promise = Promise(
            uid, slot.start, later(slot.start, shape.span), tuple((names[i], shape.need) for i in slot.nodes)
        )
        self.kept[uid] = promise
        for i in set(slot.nodes):
            if i in guard:
                guard[i] = self._points_on(names[i])
            else:
                room = list(slot.rooms[i])
                _add(room, times(shape.need, slot.nodes.count(i)), -1)
                guard[i] = [Point(max(slot.start, self.now + 1), room)]
        return promise

    def give_way(self, uid: str) -> Promise | None:
        """Let the room that is kept for a request be free for itself; `keep` takes it back."""
        promise = self.kept.pop(uid, None)
        if promise is not None:
            self._guard(promise)
        return promise

    def _guard(self, promise: Promise) -> None:
        index, guard = self.scratch.table.index, self.scratch.guard
        for node in {node for node, _ in promise.slices if node in index}:
            points = self._points_on(node)
            if points:
                guard[index[node]] = points
            else:
                guard.pop(index[node], None)

    def _points_on(self, node: str) -> list[Point]:
        """Return the room that others may hold on a node at each start of a promise there."""
        i = self.scratch.table.index[node]
        shares = [(promise, _sum(promise.slices, node)) for promise in self.kept.values()]
        shares = [(promise, amounts) for promise, amounts in shares if amounts is not None]
        soonest = self.now + 1
        ending = [(held.until, held.slices) for held in self._held_on(node)]
        ending += [(until, self._slices[uid]) for until, uid in self._started]
        points = []
        for at in sorted({max(promise.start, soonest) for promise, _ in shares}):
            room = self.scratch.free_on(i)
            for until, slices in ending:
                if max(until, soonest) <= at:
                    _add(room, _sum(slices, node), 1)
            for promise, amounts in shares:
                if promise.start <= at < max(promise.end, soonest + 1):
                    _add(room, amounts, -1)
            points.append(Point(at, room))
        return points

    def _held_on(self, node: str) -> list[Held]:
        return [self.calendar.held[uid] for uid in self.calendar.on_node.get(node, ())]

    # --- what starts in this pass ---

    def start(self, uid: str, nodes: Sequence[int], need: Vector, until: int) -> None:
        """Note a start; its room was taken from the scratch already."""
        names = self.scratch.table.names
        self._slices[uid] = tuple((names[i], need) for i in nodes)
        insort(self._started, (until, uid))

    def limit_of(self, nodes: Iterable[int], need: Vector) -> int | None:
        """Return until when slices that were just taken may stay at most; None where they are in nobody's way.

        A slice in the way is one that had to be gone by a promised start to be let in.
        """
        found = [
            point.at
            for i in set(nodes)
            for point in self.scratch.guard.get(i, ())
            if any(room < amount for room, amount in zip(point.room, need, strict=True) if amount)
        ]
        return min(found, default=None)

    # --- looking ahead ---

    def earliest(self, shape: Shape, after: int, allowed: Set[int] | None) -> Slot | None:
        """Return the earliest start from `after` on, or None if no known end makes enough room.

        Walks through the ends in order, one addition for each, and looks only at the nodes that changed.
        """
        if shape.slices == 1 and not self.kept and after <= self.now:
            return self._earliest_of_one(shape.need, allowed)
        walk = _Walk(self, shape, allowed)
        for at, changes in self._changes():
            if at > after and (slot := walk.slot(max(after, walk.at))) is not None:
                return slot
            walk.go(at, changes)
        return walk.slot(max(after, walk.at))

    def _earliest_of_one(self, need: Vector, allowed: Set[int] | None) -> Slot | None:
        """The same for the plain case, a single slice that fits nowhere now and nothing promised: the head's."""
        index, free = self.scratch.table.index, self.scratch.free
        held, slices = self.calendar.held, self._slices
        rooms: dict[int, list[int]] = {}
        found: tuple[int, int] | None = None
        for until, uid in merge(self.calendar.ends, self._started) if self._started else self.calendar.ends:
            if found is not None and until > max(found[0], self.now + 1):
                break
            if until == NEVER:
                break
            for node, amounts in held[uid].slices if uid in held else slices[uid]:
                i = index.get(node, -1)
                if i < 0 or (allowed is not None and i not in allowed):
                    continue
                room = rooms.get(i)
                if room is None:
                    room = rooms[i] = [column[i] for column in free]
                for r, amount in enumerate(amounts):
                    room[r] += amount
                if found is None and all(have >= want for have, want in zip(room, need, strict=True) if want):
                    found = until, i
        if found is None:
            return None
        at, i = found
        return Slot(max(at, self.now + 1), (i,), {i: rooms[i]})

    def _changes(self) -> Iterator[tuple[int, list[tuple[int, Vector, int]]]]:
        """Yield each instant at which free room changes, with (node, amounts, sign), in order."""
        index = self.scratch.table.index
        soonest = self.now + 1
        pending: list[tuple[int, Vector, int]] = []
        at = 0
        for instant, _, sign, slices in merge(self._ending(), self._promising()):
            when = max(instant, soonest)
            if when >= NEVER:
                break
            if pending and when != at:
                yield at, pending
                pending = []
            at = when
            pending += [(index[node], amounts, sign) for node, amounts in slices if node in index]
        if pending:
            yield at, pending

    def _ending(self) -> Iterator[tuple[int, str, int, Slices]]:
        held = self.calendar.held
        for until, uid in merge(self.calendar.ends, self._started):
            yield until, uid, 1, held[uid].slices if uid in held else self._slices[uid]

    def _promising(self) -> Iterator[tuple[int, str, int, Slices]]:
        events = []
        for uid, promise in self.kept.items():
            events.append((promise.start, uid, -1, promise.slices))
            events.append((max(promise.end, self.now + 2), uid, 1, promise.slices))
        return iter(sorted(events))


class _Walk:
    """Free room as time goes on, and how many slices of one shape it holds. Nodes that never change are never seen."""

    def __init__(self, outlook: Outlook, shape: Shape, allowed: Set[int] | None) -> None:
        self.scratch = outlook.scratch
        self.table: NodeTable = outlook.scratch.table
        self.shape = shape
        self.allowed = allowed
        self.at = outlook.now
        self.free: dict[int, list[int]] = {}
        self.tally = Tally(self.scratch, shape, allowed)
        self.guarded = set(self.scratch.guard)

    def go(self, at: int, changes: Iterable[tuple[int, Vector, int]]) -> None:
        """Let the changes of one instant happen."""
        self.at = at
        touched = set()
        for i, amounts, sign in changes:
            if i not in self.free:
                self.free[i] = self.scratch.free_on(i)
            _add(self.free[i], amounts, sign)
            touched.add(i)
        for i in touched - self.guarded:
            self.tally.set(i, self.free[i])

    def slot(self, at: int) -> Slot | None:
        """Return a place for the request at an instant of the walk, or None."""
        until = later(at, self.shape.span)
        for i in self.guarded:
            room = self.free[i] if i in self.free else self.scratch.free_on(i)
            for point in self.scratch.guard[i]:
                if at < point.at < until:
                    room = [min(a, b) for a, b in zip(room, point.room, strict=True)]
            self.tally.set(i, room)
        if not self.tally.fits():
            return None
        nodes = self.tally.nodes()
        rooms = {i: self.free[i] if i in self.free else self.scratch.free_on(i) for i in nodes}
        return Slot(at, nodes, rooms)


class Tally:
    """How many slices of one shape each node holds, kept node by node as room changes: O(1) for each change.

    For a single slice only the nodes that changed are known: it is asked where the others have no room.
    """

    def __init__(self, scratch: Scratch, shape: Shape, allowed: Set[int] | None) -> None:
        self.shape = shape
        self.allowed = allowed
        self.table = scratch.table
        self.rooms: dict[int, list[int]] = {}
        self.copies: dict[int, int] = {}
        self.total = 0
        self.nodes_with = 0
        self.enough = 0
        self.by_domain: dict[str, int] = {}
        self._domains = self.table.domains(shape.topology_key) if shape.mode == "SameDomain" else {}
        self._domain_of = {i: value for value, found in self._domains.items() for i in found}
        if shape.slices > 1:
            everywhere = range(len(scratch.keys)) if allowed is None else allowed
            for i in everywhere:
                self.set(i, scratch.free_on(i))

    def set(self, i: int, room: Sequence[int]) -> None:
        """Note the room on a node."""
        if self.allowed is not None and i not in self.allowed:
            return
        before = self.copies.get(i, 0)
        wanted = self.shape.slices
        after = wanted
        for have, amount in zip(room, self.shape.need, strict=True):
            if amount:
                after = min(after, have // amount)
        after = max(after, 0)
        self.rooms[i] = list(room)
        if after == before:
            return
        self.copies[i] = after
        self.total += after - before
        self.nodes_with += (after > 0) - (before > 0)
        self.enough += (after >= wanted) - (before >= wanted)
        domain = self._domain_of.get(i)
        if domain is not None:
            self.by_domain[domain] = self.by_domain.get(domain, 0) + after - before

    def fits(self) -> bool:
        """Tell whether all slices fit as the shape wants them to lie."""
        shape = self.shape
        if shape.mode == "SameNode":
            return self.enough > 0
        if shape.mode == "DistinctNodes":
            return self.nodes_with >= shape.slices
        if shape.mode == "SameDomain":
            return any(found >= shape.slices for found in self.by_domain.values())
        return self.total >= shape.slices

    def nodes(self) -> tuple[int, ...]:
        """Return a node for each slice, those with the least room first; the slices must fit."""
        shape = self.shape
        found = [i for i, copies in self.copies.items() if copies > 0]
        if shape.mode == "SameNode":
            found = [i for i in found if self.copies[i] >= shape.slices]
        elif shape.mode == "SameDomain":
            domain = min((count, value) for value, count in self.by_domain.items() if count >= shape.slices)[
                1
            ]
            found = [i for i in found if self._domain_of.get(i) == domain]
        found.sort(key=lambda i: (self.table.room(self.rooms[i]), i))
        if shape.mode == "SameNode":
            return (found[0],) * shape.slices
        most = 1 if shape.mode == "DistinctNodes" else shape.slices
        chosen: list[int] = []
        for i in found:
            chosen += [i] * min(self.copies[i], most, shape.slices - len(chosen))
            if len(chosen) == shape.slices:
                break
        return tuple(chosen)


def later(at: int, span: int) -> int:
    """Return the instant that long after another; what never ends stays never."""
    return min(at + span, NEVER)


def _sum(slices: Slices, node: str) -> Vector | None:
    """Return what slices hold on a node together, or None if nothing."""
    found: Vector | None = None
    for name, amounts in slices:
        if name == node:
            found = amounts if found is None else tuple(a + b for a, b in zip(found, amounts, strict=True))
    return found


def _add(room: list[int], amounts: Vector | None, sign: int) -> None:
    if amounts is not None:
        for r, amount in enumerate(amounts):
            room[r] += sign * amount


def total_of(slices: Slices, size: int) -> Vector:
    """Return what slices hold together."""
    sums = [0] * size
    for _, amounts in slices:
        _add(sums, amounts, 1)
    return tuple(sums)
