"""Who waits, in order, and which of them are the same to the planner.

Requests of one shape stand in one group: when one of them does not fit, neither do those behind it. So a pass costs
by the number of groups, not by the number that wait.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from typing import Any

from leasehold.core.places import shared
from leasehold.core.request import Request, Shape

Turn = tuple[int, ...]


class Group:
    """The waiting requests of one shape, in order. `least` is what one node must have free for any of them.

    What else is kept here are notes that save work and change no decision: `stuck_at` is the table's growth when no
    node had room for one slice (-1: not known), `possible` whether empty nodes would do, as of the table's rebuild
    `possible_at`, `why` what its members were last found to wait for, `looked_at` the version of the table then, and
    `untold` those not known to read it.
    """

    __slots__ = (
        "items",
        "least",
        "looked_at",
        "possible",
        "possible_at",
        "shape",
        "stuck_at",
        "total",
        "untold",
        "why",
    )

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.total = shape.total
        self.least = shape.total if shape.mode == "SameNode" else shape.need
        self.items: list[tuple[Turn, str]] = []
        self.stuck_at = -1
        self.possible = True
        self.possible_at = -1
        self.why: Any = None
        self.looked_at = -1
        self.untold: set[str] = set()

    def copy(self) -> Group:
        """Return the group for another table: its members, none of the notes but `possible`."""
        made = Group(self.shape)
        made.items = self.items.copy()
        made.possible, made.possible_at = self.possible, self.possible_at
        return made


class Queue:
    """The waiting requests. Adding and removing one takes O(log n) comparisons."""

    def __init__(self) -> None:
        self.order: list[tuple[Turn, str]] = []
        self.requests: dict[str, Request] = {}
        self.tenants: dict[str, dict[Shape, Group]] = {}
        self.crowds: dict[str, dict[str, list[tuple[Turn, str]]]] = {}
        self.untold: dict[Shape, Group] = {}
        self.later: set[Shape] = set()
        self._turns: deque[Shape] = deque()
        self._turning: set[Shape] = set()

    def __len__(self) -> int:
        return len(self.requests)

    def __contains__(self, uid: object) -> bool:
        return uid in self.requests

    def __iter__(self) -> Iterator[Request]:
        return (self.requests[uid] for _, uid in self.order)

    def add(self, request: Request) -> None:
        """Let a request wait, in place of what it was before; what it was told may be out of date."""
        known = self.requests.get(request.uid)
        if known != request:
            if known is not None:
                self.remove(request.uid)
            self.requests[request.uid] = request
            insort(self.order, (request.turn, request.uid))
            crowds = self.crowds.setdefault(request.shape.tenant, {})
            insort(crowds.setdefault(request.crowd, []), (request.turn, request.uid))
            groups = self.tenants.setdefault(request.shape.tenant, {})
            group = groups.get(request.shape)
            if group is None:
                group = groups[request.shape] = Group(request.shape)
                if request.shape not in self._turning:
                    self._turning.add(request.shape)
                    self._turns.append(request.shape)
                if request.shape.not_before:
                    self.later.add(request.shape)
            insort(group.items, (request.turn, request.uid))
        self.retell(request.uid)

    def remove(self, uid: str) -> None:
        """Take a request out; one that does not wait is no error."""
        request = self.requests.pop(uid, None)
        if request is None:
            return
        item = (request.turn, uid)
        del self.order[bisect_left(self.order, item)]
        self._leave_crowd(request, item)
        groups = self.tenants[request.shape.tenant]
        group = groups[request.shape]
        del group.items[bisect_left(group.items, item)]
        group.untold.discard(uid)
        if not group.items:
            del groups[request.shape]
            self.later.discard(request.shape)
            if not groups:
                del self.tenants[request.shape.tenant]
        if not group.untold:
            self.untold.pop(request.shape, None)

    def _leave_crowd(self, request: Request, item: tuple[Turn, str]) -> None:
        crowds = self.crowds[request.shape.tenant]
        crowd = crowds[request.crowd]
        del crowd[bisect_left(crowd, item)]
        if not crowd:
            del crowds[request.crowd]
            if not crowds:
                del self.crowds[request.shape.tenant]

    def without_place(self, places: int) -> list[str]:
        """Return the uids for which no place is left when so many may wait: of each crowd the last."""
        if len(self.requests) <= places:
            return []
        wanted = {tenant: sum(map(len, crowds.values())) for tenant, crowds in self.crowds.items()}
        found = []
        for tenant, share in shared(wanted, places).items():
            crowds = self.crowds[tenant]
            for name, most in shared({name: len(crowd) for name, crowd in crowds.items()}, share).items():
                found += [uid for _, uid in crowds[name][most:]]
        return found

    def group_of(self, uid: str) -> Group:
        """Return the group of a waiting request."""
        shape = self.requests[uid].shape
        return self.tenants[shape.tenant][shape]

    def groups(self) -> Iterator[Group]:
        """Return every group, in no order that means anything but always the same."""
        return (group for groups in self.tenants.values() for group in groups.values())

    def some(self, most: int) -> list[Group]:
        """Return a few groups, each time others, so that in the end every group has its turn."""
        found: list[Group] = []
        for _ in range(len(self._turns)):
            if len(found) == most:
                break
            shape = self._turns.popleft()
            group = self.tenants.get(shape.tenant, {}).get(shape)
            if group is None:
                self._turning.discard(shape)
            else:
                found.append(group)
                self._turns.append(shape)
        return found

    def retell(self, uid: str) -> None:
        """Note that a waiting request may not read what it waits for."""
        if uid in self.requests:
            group = self.group_of(uid)
            group.untold.add(uid)
            self.untold[group.shape] = group

    def retell_group(self, group: Group) -> None:
        """Note that what a group waits for has changed."""
        group.untold.update(uid for _, uid in group.items)
        self.untold[group.shape] = group

    def told(self, uid: str) -> None:
        """Note that a waiting request reads what it waits for."""
        if uid in self.requests:
            group = self.group_of(uid)
            group.untold.discard(uid)
            if not group.untold:
                self.untold.pop(group.shape, None)

    def position(self, uid: str) -> int:
        """Return how many requests stand ahead of a waiting one by priority and age alone."""
        return bisect_left(self.order, (self.requests[uid].turn, uid))

    def copy(self) -> Queue:
        """Return a queue of the same requests that can be played with."""
        made = Queue()
        made.order = self.order.copy()
        made.requests = dict(self.requests)
        made.tenants = {
            tenant: {shape: group.copy() for shape, group in groups.items()}
            for tenant, groups in self.tenants.items()
        }
        made.crowds = {
            tenant: {name: crowd.copy() for name, crowd in crowds.items()}
            for tenant, crowds in self.crowds.items()
        }
        made.later = set(self.later)
        return made
