"""Who of those that wait for some of a lease gets it: sub-leases are served within their parent, in order.

What a parent has left is a table of its nodes like a pool's, so slices are placed in it by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any, NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import PlacementMode, QueueStrategy, RejectionReason
from leasehold.core.admission import Refusal, queue_full, refusal_of, shape_of
from leasehold.core.amounts import times, zero
from leasehold.core.booking import held_of
from leasehold.core.calendar import Held, later
from leasehold.core.capacity import NodeTable, Row, Scratch, shortages
from leasehold.core.course import Notice, World
from leasehold.core.families import by_node
from leasehold.core.forecast import Look
from leasehold.core.lease import Key, Lease
from leasehold.core.nodes import Verdict
from leasehold.core.placement import could_ever_fit, place
from leasehold.core.queueing import Place, Wait, keep_waiting, refuse
from leasehold.core.request import NEVER, Request
from leasehold.core.state import PoolState
from leasehold.core.status import Patch, amount_text
from leasehold.core.timeline import Timeline

MOST_SLICES = 256
"""Slices of sub-leases in one commit, beside those of others."""

FORETOLD = 16
"""How many of those that wait for one parent hear when their turn comes, the first in line first."""


class Served(NamedTuple):
    """Who is granted: (lease, nodes, uid of the parent); and who is told how it stands: (lease, patch, notices)."""

    grants: list[tuple[Lease, tuple[str, ...], str]]
    words: list[tuple[Lease, Patch, tuple[Notice, ...]]]


def serve_children(
    state: PoolState,
    world: World,
    now: int,
    batch: int,
    words: int,
    leaving: Set[str],
    hold: Wait | None = None,
) -> Served:
    """Look at the families that are due: at most `batch` children are granted, and `words` told.

    Those that cannot be served yet, because of writes under way, a hold or these bounds, stay due; who was served
    comes after the others then. A `hold` of the pool's grants keeps nobody from giving what it has to its children,
    unless the pool cannot trust its books or its reach.
    """
    served = Served([], [])
    for key in list(state.families.due):
        family = _Family(state, world, now, key, leaving, served)
        before = len(served.grants) + len(served.words)
        done = family.serve(batch, words, hold)
        if done or len(served.grants) + len(served.words) > before:
            state.families.due.pop(key, None)
        if not done:
            state.families.due[key] = None
    return served


class _Family:
    """The children that wait for one parent."""

    def __init__(
        self, state: PoolState, world: World, now: int, key: Key, leaving: Set[str], served: Served
    ) -> None:
        self.state = state
        self.policy = state.policy
        self.world = world
        self.now = now
        self.key = key
        self.leaving = leaving
        self.served = served
        self.parent = world.named(key)
        self.left_out = False
        members = state.families.members.get(key, set()) - state.entries.keys()
        waiting = [state.leases[uid] for uid in members if uid in state.leases]
        self.waiting = sorted(
            (one for one in waiting if one.pending and not one.deleting and not one.wants_release),
            key=state.turn_of,
        )

    def serve(self, batch: int, words: int, hold: Wait | None) -> bool:
        """Grant and tell; return whether nothing is left to do until something changes."""
        if not self.waiting:
            return True
        refusal = self._refusal_of_all()
        if refusal is not None:
            for child in self.waiting:
                self._refuse(child, refusal, words)
            return not self.left_out
        assert self.parent is not None
        wait = self._wait_of_all(self.parent, hold)
        if wait is not None:
            for place_, child in enumerate(self.waiting, start=1):
                self._wait(child, wait, words, Place(place_, None))
            return not self.left_out and wait is not hold  # nobody tells a family that a hold is over
        if self._is_busy(self.parent.uid):
            return False
        room = self._room(self.parent)
        if room is None:
            return False
        self._share_out(self.parent, room, batch, words)
        return not self.left_out

    # --- what holds for all of them ---

    def _refusal_of_all(self) -> Refusal | None:
        parent = self.parent
        if parent is None:
            return Refusal(
                R.PARENT_NOT_FOUND, f"There is no CapacityLease {self.key[1]!r} in this namespace."
            )
        if parent.parent:
            return Refusal(R.PARENT_IS_CHILD, R.PARENT_IS_CHILD.meaning)
        if parent.pool and parent.pool != self.state.name:
            text = f"Lease {parent.name} borrows from pool {parent.pool}. Leave out poolRef in a new lease."
            return Refusal(R.PARENT_IN_OTHER_POOL, text)
        return None

    def _wait_of_all(self, parent: Lease, hold: Wait | None) -> Wait | None:
        if not parent.allocated:
            return Wait(R.PARENT_NOT_READY, f"Lease {parent.name} is not granted yet.")
        if parent.releasing or parent.deleting or parent.wants_release or parent.is_true(C.DISRUPTION_TARGET):
            return Wait(R.PARENT_NOT_READY, f"Lease {parent.name} is ending.")
        end = parent.deadline("expirationTime")
        if end is not None and self.now >= end:
            return Wait(R.PARENT_NOT_READY, f"The term of lease {parent.name} is over. Renew it.")
        if hold is not None and hold.reason in (R.LEDGER_INCONSISTENT, R.POOL_NOT_READY):
            return hold
        return None

    def _is_busy(self, uid: str) -> bool:
        state = self.state
        return uid in state.busy or uid in state.aside or uid in state.entries or uid in self.leaving

    def _room(self, parent: Lease) -> NodeTable | None:
        """Return what a parent has, by node, less what its children hold and its own pods request.

        None while some of its pods are on their way. One that is to shrink has only what it asks for now.
        """
        policy, size = self.policy, len(self.policy.names)
        pods: Mapping[str, Mapping[str, int]] | None = self.world.pod_use(parent)
        if pods is None:
            return None
        keeps = [
            part._replace(
                amounts={n: min(units, parent.request.get(n, units)) for n, units in part.amounts.items()}
            )
            for part in parent.slices
        ]
        held = self.state.families.held_of(parent.uid)
        table = NodeTable(size, policy.strategy)
        for name, amounts in by_node(keeps).items():
            limit = policy.vector(amounts)
            used = policy.vector(pods.get(name, {}))
            verdict = Verdict(limit, limit, zero(size), used, 0, "", frozenset(), None)
            node = self.world.nodes.get(name)
            labels = {} if node is None else node.labels
            table.put(name, Row(labels, verdict, policy.vector(held.get(name, {}))))
        table.settle()
        return table

    # --- one after the other ---

    def _share_out(self, parent: Lease, room: NodeTable, batch: int, words: int) -> None:
        """Go through them in order. Where the pool lets nobody pass in its queue, nobody passes here."""
        blocked = False
        missed: dict[tuple[Any, ...], Wait] = {}
        waits: list[tuple[Lease, Wait]] = []
        scratch = room.scratch()
        for place_, child in enumerate(self.waiting):
            refusal = queue_full(self.policy) if place_ >= self.policy.max_pending else None
            refusal = refusal or refusal_of(child, self.policy)
            if refusal is None and child.shape not in missed:
                refusal = self._too_much(child, room, parent)
            if refusal is not None:
                self._refuse(child, refusal, words)
            elif blocked:
                text = f"An earlier sub-lease of {parent.name} waits."
                waits.append((child, Wait(R.BLOCKED_BY_HEAD, text)))
            elif child.shape in missed:  # room only shrinks while they are served
                waits.append((child, missed[child.shape]))
            elif not self._grant(child, scratch, parent, batch):
                missed[child.shape] = self._shortage(child, scratch, parent)
                waits.append((child, missed[child.shape]))
                blocked = self.policy.queue_strategy != QueueStrategy.BEST_EFFORT_FIFO
        if waits:
            starts = self._starts(parent, room, [child for child, _ in waits[:FORETOLD]])
            for place_, (child, wait) in enumerate(waits, start=1):
                self._wait(child, wait, words, Place(place_, starts.get(child.uid)))

    def _allowed(self, child: Lease, table: NodeTable) -> Set[int] | None:
        return table.selected(child.node_selector)

    def _too_much(self, child: Lease, table: NodeTable, parent: Lease) -> Refusal | None:
        need, allowed = self.policy.vector(child.request), self._allowed(child, table)
        if could_ever_fit(table, need, child.count, child.mode, allowed, child.topology_key):
            return None
        text = f"Lease {parent.name} never has that much where it is asked for. Ask for less."
        return Refusal(R.EXCEEDS_PARENT, text)

    def _grant(self, child: Lease, scratch: Scratch, parent: Lease, batch: int) -> bool:
        """Take room for a child; tell whether there is some. Whether it is granted now is a matter of bounds."""
        need, allowed = self.policy.vector(child.request), self._allowed(child, scratch.table)
        found = place(scratch, need, child.count, child.mode, allowed, child.topology_key)
        if found is None:
            return False
        grants = self.served.grants
        slices = sum(len(nodes) for _, nodes, _ in grants)
        full = len(grants) >= batch or (bool(grants) and slices + child.count > MOST_SLICES)
        if full or self._is_busy(child.uid):
            self.left_out = True
        else:
            names = scratch.table.names
            grants.append((child, tuple(names[i] for i in found), parent.uid))
            self.left_out = True  # until its commitment is known to stand
        return True

    def _shortage(self, child: Lease, scratch: Scratch, parent: Lease) -> Wait:
        need, allowed = self.policy.vector(child.request), self._allowed(child, scratch.table)
        one = times(need, child.count) if child.mode == PlacementMode.SAME_NODE else need
        rows = shortages(scratch, one, self.policy.names, RejectionReason.INSUFFICIENT, allowed)
        said = ", ".join(
            f"{row.resource} (by {amount_text(row.resource, row.short_by)} or more on each of {row.nodes} nodes)"
            for row in rows
        )
        text = f"Lease {parent.name} has too little {said} left."
        if not said:
            text = f"One slice would fit into what lease {parent.name} has left, but not all {child.count} at once."
        return Wait(R.PARENT_FULL, text, tuple(rows[:16]))

    # --- when ---

    def _starts(self, parent: Lease, room: NodeTable, waiting: list[Lease]) -> Mapping[str, int]:
        """Return when those that wait will start (ms), or what they read of it, if that was found out just now."""
        if self.state.families.may_foretell(self.key, self.now):
            return self._foretell(parent, room, waiting)
        told = {child.uid: child.instant("queue", "estimatedStartTime") for child in waiting}
        return {uid: at for uid, at in told.items() if at is not None}

    def _foretell(self, parent: Lease, room: NodeTable, waiting: list[Lease]) -> Mapping[str, int]:
        """Return when those that wait will start (ms), if everybody leaves when they must and the parent ends then.

        The planner is asked, as for the pool's own queue, about a pool without tenants that has the parent's room.
        """
        strategy = self.policy.queue_strategy
        if strategy != QueueStrategy.BEST_EFFORT_FIFO:
            strategy = QueueStrategy.STRICT_FIFO
        line = Timeline(room, replace(self.policy, tenants=(), queue_strategy=strategy), self.now)
        for uid in self.state.families.holders(parent.uid):
            line.calendar.hold(uid, self._held(uid))
        for child, nodes, uid in self.served.grants:
            if uid == parent.uid:
                shape = shape_of(child, self.policy)
                for node in nodes:
                    line.scratch.take(room.index[node], shape.need)
                slices = tuple((node, shape.need) for node in nodes)
                line.calendar.hold(child.uid, Held(later(self.now, shape.span), slices))
        for child in waiting:
            line.submit(
                Request(child.uid, self.state.turn_of(child), shape_of(child, self.policy), child.priority)
            )
        look = Look(line)
        look.look()
        end = parent.deadline("expirationTime")
        return {uid: at for uid, at in look.answers.starts.items() if end is None or at < end}

    def _held(self, uid: str) -> Held:
        """Return what a calendar would say of a child that holds some of its parent."""
        parts = self.state.families.parts[uid].slices
        slices = tuple((node, self.policy.vector(amounts)) for node, amounts in parts)
        entry, child = self.state.entries.get(uid), self.state.leases.get(uid)
        if entry is not None and entry.parent:
            return Held(entry.until, slices)
        return Held(NEVER if child is None else held_of(child, self.policy, "").until, slices)

    # --- words ---

    def _refuse(self, child: Lease, refusal: Refusal, words: int) -> None:
        if self._may_tell(words):
            self._say(child, refusal, refuse(child, refusal, self.now))

    def _wait(self, child: Lease, wait: Wait, words: int, place_: Place) -> None:
        if self._may_tell(words):
            self._say(child, wait, keep_waiting(child, wait, self.now, place_))

    def _may_tell(self, words: int) -> bool:
        """Tell whether one more may be told something. If not it is not drafted either: thousands may wait."""
        if len(self.served.words) < words:
            return True
        self.left_out = True
        return False

    def _say(self, child: Lease, why: Refusal | Wait, patch: Patch) -> None:
        if not patch:
            return
        self.left_out = True  # until it is known to have read that
        if self._is_busy(child.uid):
            return
        notices = () if child.status else (Notice(why.reason, why.message, warning=True),)
        self.served.words.append((child, patch, notices))
