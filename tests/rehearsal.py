"""An operator without an API server: it plans, commits, and every write arrives at once, in time that tests move.

It goes about its work as `adapters.pool.worker` does, so stories of many passes can be told in a few lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tests.builders import NOON, add_node, at, make_lease, make_node, make_pool, written

from leasehold.api.names import LeaseReason
from leasehold.core.audit import audit
from leasehold.core.booking import Entry
from leasehold.core.course import Session, World
from leasehold.core.holds import displaced, preemptors, recover_holds, settle_holds
from leasehold.core.lease import Lease
from leasehold.core.nodes import Node
from leasehold.core.planning import (
    Plan,
    cancel_step,
    entry_of,
    grant_step,
    handover_step,
    hold_of,
    plan,
    promise_step,
)
from leasehold.core.policy import PoolPolicy
from leasehold.core.quote import Offer
from leasehold.core.state import PoolState
from leasehold.core.times import earliest

_BOUND = 200


class Rehearsal:
    """One pool from noon on; without `nodes`, one node-1 of 16 cpu and 64Gi."""

    def __init__(
        self,
        policy: PoolPolicy | None = None,
        nodes: Iterable[Node] = (),
        *,
        teams: Mapping[str, str] | None = None,
    ) -> None:
        self.policy = policy or make_pool()
        self.nodes = {node.name: node for node in list(nodes) or [make_node()]}
        self.namespaces = {name: {"team": team} for name, team in (teams or {}).items()}
        self.now = NOON
        self.sequence = 0
        self.version = 1
        self.sessions: dict[tuple[str, str], Session] = {}
        self.quotes: dict[str, tuple[Offer, Offer | None]] = {}
        self.writes: list[tuple[int, str]] = []
        self.notices: list[tuple[str, str]] = []
        self.ends: dict[str, LeaseReason] = {}
        self.again: int | None = None
        self.granted: dict[str, int] = {}
        self.pod_use: dict[str, dict[str, dict[str, int]] | None] = {}
        self.state = self.new_state()

    def new_state(self) -> PoolState:
        state = PoolState("ci", self.policy, self.namespaces)
        for node in self.nodes.values():
            add_node(state, node, now=self.now)
        return state

    # --- people ---

    def ask(self, name: str = "build", *, after: str | None = None, **how: Any) -> Lease:
        """Somebody asks for a lease, now."""
        self.version += 1
        lease = replace(make_lease(name, version=self.version, **how))
        if "age" not in how:
            lease = replace(lease, created=self.now)
        self.state.observe(lease)
        return lease

    def lease(self, name: str) -> Lease:
        return self.state.leases[f"uid-{name}"]

    def change(self, lease: Lease) -> None:
        """An object changed."""
        self.state.observe(lease)

    def says(self, name: str, type_: str = "Allocated") -> str:
        found = self.lease(name).conditions.get(type_)
        return "" if found is None else f"{found['status']}/{found['reason']}"

    def starts(self) -> dict[str, int]:
        """When each lease that was ever granted was."""
        return dict(self.granted)

    # --- the operator ---

    def world(self) -> World:
        """What `Memory.gather` of `adapters.pool` finds out."""
        state = self.state
        state.seen_at = self.now
        settle_holds(state, self.now)
        state.shares.age(self.now)
        ends: dict[str, LeaseReason] = displaced(state)
        if ends != self.ends:
            state.attention |= ends.keys() ^ self.ends.keys()
            self.ends = ends
        return World(
            nodes=self.nodes,
            sessions=self.sessions,
            ends=ends,
            preemptors=preemptors(state),
            limits=state.renewal_limits(self.now),
            bill=state.bill,
            families=state.families,
            named=self.named,
            pod_use=lambda lease: self.pod_use.get(lease.name, {}),
        )

    def named(self, key: tuple[str, str]) -> Lease | None:
        found = (lease for lease in self.state.leases.values() if (lease.namespace, lease.name) == key)
        return next(found, None)

    def decide(self) -> Plan:
        """One pass; nothing is carried out."""
        world = self.world()
        due = self.state.deadlines.pop_due(self.now)
        hold = hold_of(self.policy, deleting=False, consistent=True, nodes=len(self.state.table.rows))
        decided = plan(self.state, world, self.now, due, hold, quotes=self.quotes)
        self.state.attention &= self.state.busy | self.state.entries.keys()
        for uid, wake_at in decided.wakes:
            assert wake_at is None or wake_at > self.now
            self.state.deadlines.put(uid, wake_at)
        self.again = decided.again
        return decided

    def look(self) -> None:
        """Plan and carry out until nothing is left to do at this instant."""
        for _ in range(_BOUND):
            decided = self.decide()
            for change in decided.changes:
                self.put(change.lease, change.step)
                if change.step.action:
                    self.state.forget(change.lease.uid)
            for preemption in decided.preemptions:
                self.state.begin_hold(preemption)
            entries = self.commit(decided)
            for entry in entries:
                self.write(entry)
            assert audit(self.state) == []
            if not (decided.changes or entries or decided.preemptions):
                return
        raise AssertionError("the pool never comes to rest")

    def put(self, lease: Lease, step: Any) -> None:
        """A status write arrives."""
        self.writes.append((self.now, lease.name))
        self.notices += [(lease.name, str(notice.reason)) for notice in step.notices]
        self.state.observe(written(lease, step))

    def commit(self, decided: Plan) -> list[Entry]:
        """The pool's ledger is swapped."""
        entries = [entry_of(grant, self.sequence + i) for i, grant in enumerate(decided.grants, start=1)]
        self.sequence += len(entries)
        for entry in entries:
            self.state.assume(entry)
        return entries

    def write(self, entry: Entry, *, adopted: bool = False) -> None:
        """What was committed is written to its lease, or undone."""
        lease = self.state.leases.get(entry.uid)
        if lease is not None and entry.holder is not None:
            if lease.changes_hands and lease.holder == entry.holder:
                world = World(sessions=self.sessions)
                self.put(lease, handover_step(lease, entry, self.policy, world, self.now))
        elif lease is not None and lease.pending:
            wanted = dict(lease.request) == dict(entry.amounts) and lease.count == len(entry.nodes)
            wanted = wanted and entry.generation in (0, lease.generation) and not lease.wants_release
            tenant = self.state.tenant_of(lease)
            if not wanted:
                step = cancel_step(lease, self.now, promise=entry.start is not None)
            elif entry.start is not None:
                step = promise_step(lease, entry, self.now, tenant)
            else:
                world = World(sessions=self.sessions)
                parent = self.state.leases[entry.parent] if entry.parent else None
                limits = self.state.renewal_limits(self.now)
                step = grant_step(
                    lease,
                    entry,
                    self.policy,
                    world,
                    self.now,
                    adopted=adopted,
                    tenant="" if parent else tenant,
                    needed=None if limits is None else limits.latest(entry.uid),
                    parent=parent,
                )
                self.granted[lease.uid] = self.now
            self.put(lease, step)
        self.state.settle(entry.uid)

    def next(self) -> int | None:
        """When the operator asked to be woken."""
        return earliest(self.state.deadlines.next(), self.again)

    def until(self, text: str) -> Rehearsal:
        """Let time go on to so long after noon, from one wake-up to the next."""
        goal = at(text)
        self.look()
        while (wake := self.next()) is not None and wake <= goal:
            assert wake > self.now, "a wake that has passed would spin"
            self.now = wake
            self.look()
        self.now = goal
        self.look()
        return self

    def restart(self, entries: Iterable[Entry] = ()) -> Rehearsal:
        """Another operator takes over: it knows what the API server has, and what was committed."""
        leases = list(self.state.leases.values())
        self.state = PoolState("ci", self.policy, self.namespaces)
        self.state.replace(leases, max((lease.version for lease in leases), default=1))
        adopted = [entry._replace(generation=0) for entry in entries]
        for entry in adopted:
            self.state.assume(entry)
        for node in self.nodes.values():
            add_node(self.state, node, now=self.now)
        self.ends = {}
        recover_holds(self.state, self.now)
        for entry in adopted:
            self.write(entry, adopted=True)
        assert audit(self.state) == []
        return self
