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
from heapq import heappop, heappush, merge
from typing import NamedTuple, Protocol

from leasehold.core.amounts import Vector, plus, times
from leasehold.core.capacity import NodeTable, Point, Scratch, Trail
from leasehold.core.request import NEVER, Shape

_MANY = 8
_FIRSTS = 16

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
        self.moves: Trail[str] = Trail()
        self.firsts: dict[object, _Firsts] = {}

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
            self.moves.note(node)

    def drop(self, uid: str) -> Held | None:
        """Forget a grant; return what it took. One that is not known is no error."""
        held = self.held.pop(uid, None)
        if held is None:
            return None
        if held.until < NEVER:
            del self.ends[bisect_left(self.ends, (held.until, uid))]
        for node in {node for node, _ in held.slices}:
            self.moves.note(node)
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


class _Firsts:
    """When each node first has room for one kind of slice (ms), as of a version of the table and of the calendar."""

    __slots__ = ("at", "calendar", "fresh", "rebuilds", "table")

    def __init__(self, rebuilds: int, at: list[int]) -> None:
        self.rebuilds = rebuilds
        self.at = at
        self.table = self.calendar = 0
        self.fresh = True


class Outlook:
    """Free capacity from `now` on: a scratch for what is free, the calendar for what changes, and this pass's starts.

    What should have ended before `now` has not given back yet and is expected at any moment.
    """

    def __init__(self, scratch: Scratch, calendar: Calendar, now: int) -> None:
        self.scratch = scratch
        self.calendar = calendar
        self.now = now
        self.kept: dict[str, Promise] = {}
        self.changes = 0
        self.asked: dict[str, Held] = {}
        self._on_node: dict[str, dict[str, Vector]] = {}
        self._started: list[tuple[int, str]] = []
        self._slices: dict[str, Slices] = {}
        self._starting: dict[str, list[tuple[int, Vector]]] = {}
        scratch.guard = {}
        for promise in calendar.promises.values():
            self._keep(promise)
        self._guard(self._on_node)

    # --- promised room ---

    def keep(self, promise: Promise) -> None:
        """Keep room from everybody who comes later in this pass and would still be there by its start."""
        self.give_way(promise.uid)
        self._keep(promise)
        self._guard({node for node, _ in promise.slices})

    def keep_slot(self, uid: str, slot: Slot, shape: Shape) -> Promise:
        """Keep a slot for a request; return the promise."""
        self.give_way(uid)
        names, guard = self.scratch.table.names, self.scratch.guard
        promise = Promise(
            uid, slot.start, later(slot.start, shape.span), tuple((names[i], shape.need) for i in slot.nodes)
        )
        self._keep(promise)
        for i in set(slot.nodes):
            if i in guard:
                guard[i] = self.points_on(names[i])
            else:
                room = list(slot.rooms[i])
                _add(room, times(shape.need, slot.nodes.count(i)), -1)
                guard[i] = [Point(max(slot.start, self.now + 1), room)]
        return promise

    def give_way(self, uid: str) -> Promise | None:
        """Let the room that is kept for a request be free for itself; `keep` takes it back."""
        promise = self.kept.pop(uid, None)
        if promise is not None:
            self.changes += 1
            nodes = {node for node, _ in promise.slices}
            for node in nodes:
                del self._on_node[node][uid]
            self._guard(nodes)
        return promise

    def ask(self, uids: Iterable[str], by: int) -> None:
        """Note that leases are asked in this pass to be gone by an instant; the calendar does not know yet."""
        nodes = set()
        for uid in uids:
            held = self.calendar.held[uid]
            self.asked[uid] = held._replace(until=min(held.until, by), leaving=True)
            nodes |= {node for node, _ in held.slices if self._on_node.get(node)}
        self._guard(nodes)

    def _keep(self, promise: Promise) -> None:
        self.changes += 1
        self.kept[promise.uid] = promise
        for node, amounts in promise.slices:
            shares = self._on_node.setdefault(node, {})
            known = shares.get(promise.uid)
            shares[promise.uid] = amounts if known is None else plus(known, amounts)

    def _guard(self, nodes: Iterable[str]) -> None:
        index, guard = self.scratch.table.index, self.scratch.guard
        for node in nodes:
            if node not in index:
                continue
            points = self.points_on(node)
            if points:
                guard[index[node]] = points
            else:
                guard.pop(index[node], None)

    def points_on(self, node: str, *also: int) -> list[Point]:
        """Return the room that others may hold on a node at each start of a promise there, and at other instants."""
        i = self.scratch.table.index[node]
        shares = [(self.kept[uid], amounts) for uid, amounts in self._on_node.get(node, {}).items()]
        soonest = self.now + 1
        ending = self._ending_on(node)
        points = []
        for at in sorted({*also, *(max(promise.start, soonest) for promise, _ in shares)}):
            room = self.scratch.free_on(i)
            for until, amounts in ending:
                if max(until, soonest) <= at:
                    _add(room, amounts, 1)
            for promise, amounts in shares:
                if promise.start <= at < max(promise.end, soonest + 1):
                    _add(room, amounts, -1)
            points.append(Point(at, room))
        return points

    def _ending_on(self, node: str) -> list[tuple[int, Vector]]:
        """Return what is held on a node, and what started there in this pass, each with when it ends."""
        held, asked = self.calendar.held, self.asked
        found = [
            (known.until, amounts)
            for uid in self.calendar.on_node.get(node, ())
            for known in (asked[uid] if uid in asked else held[uid],)
            for name, amounts in known.slices
            if name == node
        ]
        return found + self._starting.get(node, [])

    # --- what starts in this pass ---

    def start(self, uid: str, nodes: Sequence[int], need: Vector, until: int) -> None:
        """Note a start; its room was taken from the scratch already."""
        names = self.scratch.table.names
        self._slices[uid] = tuple((names[i], need) for i in nodes)
        if until < NEVER:
            insort(self._started, (until, uid))
            for i in nodes:
                self._starting.setdefault(names[i], []).append((until, need))

    def limit_of(self, nodes: Sequence[int], need: Vector, until: int) -> int | None:
        """Return until when slices that were just taken may stay at most; None where they are in nobody's way.

        Slices in the way are those that had to be gone by a promised start to be let in.
        """
        found = [
            point.at
            for i in set(nodes)
            for point in self.scratch.guard.get(i, ())
            if point.at >= until and _short(point.room, times(need, nodes.count(i)))
        ]
        return min(found, default=None)

    # --- looking ahead ---

    def earliest(
        self, shape: Shape, after: int, allowed: Set[int] | None, *, missed: bool = False
    ) -> Slot | None:
        """Return the earliest start from `after` on, or None if no known end makes enough room.

        `missed` tells that there is no room now. Walks through the ends in order, one addition for each, and looks
        only at the nodes that changed.
        """
        missed = missed and after <= self.now
        if missed and shape.slices == 1 and not self.kept and shape.mode != "SameDomain":
            if len(self.scratch.table.names) >= _MANY:
                return self._earliest_by_node(shape, allowed)
            return self._earliest_of_one(shape.need, allowed)
        walk = _Walk(self, shape, allowed, everywhere=shape.slices > 1 or not missed)
        for at, changes in self._changes():
            if at > after and (slot := walk.slot(max(after, walk.at))) is not None:
                return slot
            walk.go(at, changes)
        return walk.slot(max(after, walk.at))

    def _earliest_by_node(self, shape: Shape, allowed: Set[int] | None) -> Slot | None:
        """The same for many nodes: each node's first instant with room is kept from pass to pass, until it changes."""
        table, calendar = self.scratch.table, self.calendar
        key = (shape.need, shape.node_selector)
        firsts = calendar.firsts.get(key)
        if firsts is None or firsts.rebuilds != table.rebuilds:
            if len(calendar.firsts) >= _FIRSTS:
                calendar.firsts.clear()
            firsts = calendar.firsts[key] = _Firsts(table.rebuilds, [NEVER] * len(table.names))
        moved, touched = table.moves.since(firsts.table), calendar.moves.since(firsts.calendar)
        if firsts.fresh or moved is None or touched is None:
            stale: Iterable[int] = range(len(table.names)) if allowed is None else allowed
        else:
            stale = {*moved, *(table.index[node] for node in touched if node in table.index)}
        for i in stale:
            if table.names[i] not in self._starting:
                firsts.at[i] = self._first_on(i, shape.need)
        firsts.fresh, firsts.table, firsts.calendar = False, table.moves.version, calendar.moves.version
        soonest = self.now + 1
        best = (NEVER, -1)
        for i in range(len(table.names)) if allowed is None else allowed:
            at = firsts.at[i]
            if at <= best[0]:
                best = min(best, (max(at, soonest), i))
        for node in self._starting:
            i = table.index[node]
            firsts.at[i] = NEVER
            calendar.moves.note(node)
            if allowed is None or i in allowed:
                best = min(best, (max(self._first_on(i, shape.need), soonest), i))
        at, i = best
        if at >= NEVER:
            return None
        return Slot(at, (i,), {i: self.points_on(table.names[i], at)[0].room})

    def _first_on(self, i: int, need: Vector) -> int:
        """Return when a node has room for a slice by what is known to end there; NEVER if by nothing."""
        node = self.scratch.table.names[i]
        wanted = [(r, amount) for r, amount in enumerate(need) if amount]
        room = self.scratch.free_on(i)
        for until, amounts in sorted(self._ending_on(node)):
            if until >= NEVER:
                break
            for r, _ in wanted:
                room[r] += amounts[r]
            for r, amount in wanted:
                if room[r] < amount:
                    break
            else:
                return until
        return NEVER

    def _earliest_of_one(self, need: Vector, allowed: Set[int] | None) -> Slot | None:
        """The same for the plain case, a single slice that fits nowhere now and nothing promised: the head's."""
        index, free = self.scratch.table.index, self.scratch.free
        held, slices = self.calendar.held, self._slices
        every = range(len(need))
        wanted = [(r, amount) for r, amount in enumerate(need) if amount]
        rooms: dict[int, list[int]] = {}
        found: tuple[int, int] | None = None
        latest = NEVER
        for until, uid in self._ends():
            if until > latest:
                break
            known = held.get(uid)
            for node, amounts in slices[uid] if known is None else known.slices:
                i = index.get(node, -1)
                if i < 0 or (allowed is not None and i not in allowed):
                    continue
                room = rooms.get(i)
                if room is None:
                    room = rooms[i] = [column[i] for column in free]
                for r in every:
                    room[r] += amounts[r]
                if found is None:
                    for r, amount in wanted:
                        if room[r] < amount:
                            break
                    else:
                        found = until, i
                        latest = max(until, self.now + 1)
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
        for until, uid in self._ends():
            yield until, uid, 1, held[uid].slices if uid in held else self._slices[uid]

    def _ends(self) -> Iterable[tuple[int, str]]:
        """Return all known ends in order."""
        ends: Iterable[tuple[int, str]] = self.calendar.ends
        if self.asked:
            asked = sorted((held.until, uid) for uid, held in self.asked.items())
            ends = merge((end for end in ends if end[1] not in self.asked), asked)
        return merge(ends, self._started) if self._started else ends

    def _promising(self) -> Iterator[tuple[int, str, int, Slices]]:
        events = []
        for uid, promise in self.kept.items():
            events.append((promise.start, uid, -1, promise.slices))
            events.append((max(promise.end, self.now + 2), uid, 1, promise.slices))
        return iter(sorted(events))


class Limits(Protocol):
    """What else than room a promised start needs: `core.limits`."""

    def latest(self, held: Held) -> int | None:
        """Return the last instant (ms) at which a lease must have ended, or None."""

    def extend(self, held: Held, until: int) -> None:
        """Note that a lease stays until an instant."""


class RenewalLimits:
    """How long leases may stay without standing in the way of a promised start, as renewals are decided one by one."""

    def __init__(self, outlook: Outlook, tenants: Limits | None = None) -> None:
        self._outlook = outlook
        self._tenants = tenants

    def latest(self, uid: str) -> int | None:
        """Return the last instant (ms) at which a lease's room must be free; None where nobody was promised a start
        for which it is needed, as room or within the tenant's limit.
        """
        held = self._outlook.calendar.held.get(uid)
        if held is None:
            return None
        by_limit = None if self._tenants is None else self._tenants.latest(held)
        found = [] if by_limit is None else [by_limit]
        found += [
            point.at
            for i, amounts in self._by_node(held).items()
            for point in self._outlook.scratch.guard.get(i, ())
            if point.at >= held.until and _short(point.room, amounts)
        ]
        return min(found, default=None)

    def extend(self, uid: str, until: int) -> None:
        """Note that a lease stays until an instant."""
        held = self._outlook.calendar.held.get(uid)
        if held is None:
            return
        for i, amounts in self._by_node(held).items():
            for point in self._outlook.scratch.guard.get(i, ()):
                if held.until <= point.at < until:
                    _add(point.room, amounts, -1)
        if self._tenants is not None:
            self._tenants.extend(held, until)

    def _by_node(self, held: Held) -> dict[int, Vector]:
        index = self._outlook.scratch.table.index
        found: dict[int, Vector] = {}
        for node, amounts in held.slices:
            if node in index:
                i = index[node]
                found[i] = plus(found[i], amounts) if i in found else amounts
        return found


class _Walk:
    """Free room as time goes on, and how many slices of one shape it holds. Nodes that never change are never seen."""

    def __init__(self, outlook: Outlook, shape: Shape, allowed: Set[int] | None, *, everywhere: bool) -> None:
        self.scratch = outlook.scratch
        self.table: NodeTable = outlook.scratch.table
        self.shape = shape
        self.allowed = allowed
        self.at = outlook.now
        self.free: dict[int, list[int]] = {}
        self.tally = Tally(self.scratch, shape, allowed)
        if everywhere:
            self.tally.look_everywhere()
        self.guarded = self.scratch.guard.keys()
        self.unseen = set(self.guarded)
        self.views: list[tuple[int, int]] = []

    def go(self, at: int, changes: Iterable[tuple[int, Vector, int]]) -> None:
        """Let the changes of one instant happen."""
        self.at = at
        touched = set()
        for i, amounts, sign in changes:
            if i not in self.free:
                self.free[i] = self.scratch.free_on(i)
            _add(self.free[i], amounts, sign)
            touched.add(i)
        for i in touched:
            if i in self.guarded:
                self.unseen.add(i)
            else:
                self.tally.set(i, self.free[i])

    def slot(self, at: int) -> Slot | None:
        """Return a place for the request at an instant of the walk, or None."""
        while self.views and self.views[0][0] <= at:
            self.unseen.add(heappop(self.views)[1])
        for i in self.unseen:
            self._look(i, at)
        self.unseen.clear()
        if not self.tally.fits():
            return None
        nodes = self.tally.nodes()
        rooms = {i: self.free[i] if i in self.free else self.scratch.free_on(i) for i in nodes}
        return Slot(at, nodes, rooms)

    def _look(self, i: int, at: int) -> None:
        """Count what a guarded node holds from an instant on, and note when promises come into view or go out of it."""
        span = self.shape.span
        room = self.free[i] if i in self.free else self.scratch.free_on(i)
        changes = []
        for point in self.scratch.guard[i]:
            if point.at <= at:
                continue
            if point.at < later(at, span):
                room = [min(a, b) for a, b in zip(room, point.room, strict=True)]
                changes.append(point.at)
            else:
                changes.append(point.at - span + 1)
        self.tally.set(i, room)
        if changes:
            heappush(self.views, (min(changes), i))


class Tally:
    """How many slices of one shape each node holds, kept node by node as room changes: O(1) for each change.

    A node that was not looked at counts as one without room.
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
        self._scratch = scratch

    def look_everywhere(self) -> None:
        """Count what every node holds now."""
        found: Iterable[int] = range(len(self._scratch.keys)) if self.allowed is None else self.allowed
        for column, amount in zip(self._scratch.free, self.shape.need, strict=True):
            if amount:
                found = [i for i in found if column[i] >= amount]
        for i in found:
            self.set(i, self._scratch.free_on(i))

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


def _short(room: Sequence[int], need: Vector) -> bool:
    return any(have < want for have, want in zip(room, need, strict=True) if want)


def _add(room: list[int], amounts: Vector, sign: int) -> None:
    for r, amount in enumerate(amounts):
        room[r] += sign * amount


def total_of(slices: Slices, size: int) -> Vector:
    """Return what slices hold together."""
    sums = [0] * size
    for _, amounts in slices:
        _add(sums, amounts, 1)
    return tuple(sums)
