"""The commit protocol, searched through every interleaving of two operators.

Two operators believe that they lead one pool, in which there is room for one lease. Each write is one
compare-and-swap, and anything may happen between two steps. The steps are named as in `adapters.reconcile`. A search
is no proof for every size, but each weakened variant here fails within sixteen steps, so the search has power.

The pool: resource version, epoch, and the uids in flight. A lease: waiting, held, or over, and its resource version.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pytest

WAITING, HELD, OVER = "waiting", "held", "over"
LEASES = (0, 1)
BOUND = 12
"""How many writes of the pool are looked at."""


class LeaseModel(NamedTuple):
    state: str = WAITING
    version: int = 0


class Cluster(NamedTuple):
    version: int = 0
    epoch: int = 0
    in_flight: frozenset[int] = frozenset()
    leases: tuple[LeaseModel, ...] = (LeaseModel(), LeaseModel())

    def write_lease(self, i: int, state: str) -> Cluster:
        changed = LeaseModel(state, self.leases[i].version + 1)
        return self._replace(leases=(*self.leases[:i], changed, *self.leases[i + 1 :]))

    def write_pool(self, in_flight: frozenset[int]) -> Cluster:
        return self._replace(version=self.version + 1, in_flight=in_flight)


class Pool(NamedTuple):
    """The pool's object as an operator read it."""

    version: int
    epoch: int
    in_flight: frozenset[int]


class Operator(NamedTuple):
    does: str = "take over"
    epoch: int = 0
    seen: tuple[LeaseModel, ...] = (LeaseModel(), LeaseModel())
    pool: Pool | None = None
    picked: int = -1

    def learn(self, i: int, lease: LeaseModel) -> Operator:
        return self._replace(seen=(*self.seen[:i], lease, *self.seen[i + 1 :]))

    def rest(self) -> Operator:
        return self._replace(does="rest", pool=None, picked=-1)


class Variant(NamedTuple):
    """What the protocol insists on. All of it is needed."""

    takes_epoch: bool = True
    writes_inherited_first: bool = True
    keeps_in_flight: bool = True


SHIPPED = Variant()
Step = tuple[str, Cluster, Operator]


def steps(variant: Variant, c: Cluster, o: Operator) -> Iterator[Step]:
    """Every step an operator may take next."""
    if o.does == "take over":
        if variant.takes_epoch:
            taken = c._replace(version=c.version + 1, epoch=c.epoch + 1)
            yield "take_over", taken, o._replace(does="list", epoch=taken.epoch)
        else:
            yield "take_over", c, o._replace(does="list")
    elif o.does == "list":
        yield "list", c, o._replace(seen=c.leases).rest()
    elif o.does == "rest":
        yield from _at_rest(c, o)
    elif o.does == "decide":
        yield from _decide(variant, c, o)
    elif o.does in ("commit", "drop"):
        yield _commit(variant, c, o)
    elif o.does in ("write_grant", "adopt"):
        yield from _write(c, o)


def _at_rest(c: Cluster, o: Operator) -> Iterator[Step]:
    yield "read pool", c, o._replace(does="decide", pool=Pool(c.version, c.epoch, c.in_flight))
    if c.leases != o.seen:
        yield "watch", c, o._replace(seen=c.leases)
    for i in LEASES:
        if o.seen[i].state != HELD:
            continue
        if c.leases[i] == o.seen[i]:
            after = c.write_lease(i, OVER)
            yield f"release {i}", after, o.learn(i, after.leases[i])
        else:
            yield f"release {i}: conflict", c, o.learn(i, c.leases[i])


def _decide(variant: Variant, c: Cluster, o: Operator) -> Iterator[Step]:
    assert o.pool is not None
    if o.pool.epoch != o.epoch:
        yield "deposed", c, o._replace(does="dead", pool=None)
        return
    for i in sorted(o.pool.in_flight):
        if o.seen[i].state == WAITING and variant.writes_inherited_first:
            yield f"adopt {i}", c, o._replace(does="adopt", picked=i)
        else:
            yield f"drop {i}", c, o._replace(does="drop", picked=i)
        return
    if any(lease.state == HELD for lease in o.seen):
        yield "full", c, o.rest()
        return
    for i in LEASES:
        if o.seen[i].state == WAITING:
            yield f"plan {i}", c, o._replace(does="commit", picked=i)


def _commit(variant: Variant, c: Cluster, o: Operator) -> Step:
    assert o.pool is not None
    if c.version != o.pool.version:
        return f"{o.does}: conflict", c, o.rest()
    if o.does == "drop":
        return "drop", c.write_pool(c.in_flight - {o.picked}), o.rest()
    in_flight = c.in_flight | {o.picked} if variant.keeps_in_flight else c.in_flight
    return "commit", c.write_pool(in_flight), o._replace(does="write_grant", pool=None)


def _write(c: Cluster, o: Operator) -> Iterator[Step]:
    i = o.picked
    if c.leases[i] != o.seen[i]:
        yield f"{o.does}: conflict", c, o.learn(i, c.leases[i]).rest()
        return
    after = c.write_lease(i, HELD)
    yield f"{o.does} {i}", after, o.learn(i, after.leases[i]).rest()
    if o.does == "adopt":
        # The lease changed since, so the commitment is undone; a cancelled lease waits again, with a new version.
        after = c.write_lease(i, OVER)
        yield f"cancel {i}", after, o.learn(i, after.leases[i]).rest()


def search(variant: Variant) -> tuple[int, tuple[str, ...] | None]:
    """Look at every state that can be reached; return how many there are, and a way to lend twice if one exists."""
    start = (Cluster(), (Operator(), Operator()))
    came_from: dict[tuple[Cluster, tuple[Operator, Operator]], tuple[object, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        cluster, operators = state
        if sum(lease.state == HELD for lease in cluster.leases) > 1:
            return len(came_from), _way_to(came_from, state)
        if cluster.version > BOUND:
            continue
        for who in (0, 1):
            for name, after, operator in steps(variant, cluster, operators[who]):
                pair = (operator, operators[1]) if who == 0 else (operators[0], operator)
                if (after, pair) not in came_from:
                    came_from[after, pair] = (state, f"{'AB'[who]} {name}")
                    queue.append((after, pair))
    return len(came_from), None


def _way_to(came_from: dict[object, tuple[object, str] | None], state: object) -> tuple[str, ...]:
    way = []
    while (step := came_from[state]) is not None:
        state, name = step
        way.append(name)
    return tuple(reversed(way))


def test_the_shipped_protocol_lends_nothing_twice_in_any_interleaving() -> None:
    states, way = search(SHIPPED)
    assert way is None, " | ".join(way or ())
    assert states > 1000, "the search looked at too little to mean anything"


@pytest.mark.parametrize(
    ("variant", "missing"),
    [
        (Variant(takes_epoch=False), "an epoch taken before the leases are listed"),
        (Variant(writes_inherited_first=False), "inherited entries written before they are dropped"),
        (Variant(keeps_in_flight=False), "entries in flight"),
    ],
)
def test_a_protocol_without_one_of_its_rules_lends_twice(variant: Variant, missing: str) -> None:
    _, way = search(variant)
    assert way is not None, f"without {missing} the search should have found a way to lend twice"
    assert len(way) <= 16
