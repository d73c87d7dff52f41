"""One pass over a pool: what to grant, what to end, what to say, and when to look again.

`plan` changes nothing: it reads the state, works on a scratch copy of the free columns, and returns values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import QueueStrategy, StopPolicy
from leasehold.core.amounts import Vector
from leasehold.core.course import Notice, Step, World
from leasehold.core.errors import InvalidObject
from leasehold.core.heartbeat import expect_holder
from leasehold.core.lease import Lease
from leasehold.core.lifecycle import advance, say_next
from leasehold.core.placement import place
from leasehold.core.policy import PoolPolicy
from leasehold.core.queueing import Refusal, Wait, explain, keep_waiting, refusal_of, refuse, told_why
from leasehold.core.state import Entry, PoolState
from leasehold.core.status import Draft, Patch, slices_document

BATCH = 64
"""Grants in one commit. Their in-flight entries must fit the pool's `status.ledger.inFlight`, twice."""

SLICES = 512
"""Slices in one commit, so that the pool object stays small."""

TOLD = 64
"""Waiting leases that get a new status in one pass; the rest hear in the next."""


EXPLAINED = 64
"""Different requests whose wait is explained anew in one pass; those further back keep what they were told."""

_MISSES = 64


class Grant(NamedTuple):
    """A place for a waiting lease; its sequence comes with the commit."""

    lease: Lease
    nodes: tuple[str, ...]


class Change(NamedTuple):
    """Something to do about one lease that takes no capacity."""

    lease: Lease
    step: Step


class Plan(NamedTuple):
    """What one pass decided. `wakes` are (uid, when) for leases that need nothing now; `more` asks for another pass
    at once, because this one reached its bounds.
    """

    grants: tuple[Grant, ...]
    changes: tuple[Change, ...]
    wakes: tuple[tuple[str, int | None], ...]
    more: bool
    unreadable: tuple[tuple[str, str], ...] = ()


def plan(
    state: PoolState,
    world: World,
    now: int,
    due: Iterable[str] = (),
    hold: Wait | None = None,
    batch: int = BATCH,
) -> Plan:
    """Decide about the leases that changed or are due, then about the queue.

    At most `batch` leases are granted; 0 leaves the queue alone. `hold` is why the pool grants nothing now (None
    when it does). Leases with a write under way, or put aside, are left alone. A lease whose status cannot be read
    keeps what it holds and is named in `unreadable`; it does not stop the others.
    """
    changes: list[Change] = []
    wakes: list[tuple[str, int | None]] = []
    unreadable: list[tuple[str, str]] = []
    for uid in sorted({*state.attention, *due} - state.busy - state.aside - state.entries.keys()):
        lease = state.leases.get(uid)
        if lease is None:
            continue
        try:
            step = advance(lease, state.policy, world, now)
        except InvalidObject as error:
            unreadable.append((uid, str(error)))
            continue
        if step.patch or step.action:
            changes.append(Change(lease, step))
        wakes.append((uid, step.wake_at))
    if not batch or not state.queue:
        return Plan((), tuple(changes), tuple(wakes), more=False, unreadable=tuple(unreadable))
    queue = _QueuePass(state, now, hold, batch)
    more = queue.run(leaving={change.lease.uid for change in changes})
    return Plan(tuple(queue.grants), (*changes, *queue.told), tuple(wakes), more, tuple(unreadable))


class _QueuePass:
    """One way through the queue, in order. What does not fit once will not fit again: room only shrinks."""

    def __init__(self, state: PoolState, now: int, hold: Wait | None, batch: int) -> None:
        self.state = state
        self.policy = state.policy
        self.now = now
        self.hold = hold
        self.batch = batch
        self.scratch = state.table.scratch()
        self.grants: list[Grant] = []
        self.told: list[Change] = []
        self.slices = 0
        self.waiting = 0
        self.blocked = False
        self.explained = 0
        self.waits: dict[tuple[Any, ...], Wait] = {}
        self.misses: dict[tuple[Any, ...], list[Vector]] = {}

    def run(self, leaving: set[str]) -> bool:
        """Grant and tell; return whether the pass stopped at its bounds before the end of the queue."""
        state = self.state
        for _, uid in state.queue:
            lease = state.leases[uid]
            if uid in state.entries or uid in leaving or uid in state.aside:
                continue
            if lease.deleting or lease.wants_release:
                continue
            busy = uid in state.busy
            if not busy and len(self.told) >= TOLD:
                return True
            refusal = refusal_of(lease, self.policy, self.waiting)
            if refusal is not None:
                if not busy:
                    self._tell(lease, refusal, refuse(lease, refusal, self.now))
                continue
            if not self.hold and not self.blocked:
                if len(self.grants) == self.batch or (self.grants and self.slices + lease.count > SLICES):
                    return True
                if self._place(lease, grant=not busy):
                    continue
            self.waiting += 1
            wait = None if busy else self._wait_of(lease)
            if wait is not None:
                self._tell(lease, wait, keep_waiting(lease, wait, self.now))
            strict = self.policy.queue_strategy == QueueStrategy.STRICT_FIFO
            if strict and (wait is None or wait.reason != R.NO_MATCHING_NODES):
                # A request that no empty pool could meet would hold back the others for ever.
                self.blocked = True
        return False

    def _place(self, lease: Lease, *, grant: bool) -> bool:
        """Take room for a lease; tell whether there was any.

        A lease whose last status is still being written cannot be granted yet. Its room is taken all the same, so
        that nobody behind it gets in first.
        """
        need = self.policy.vector(lease.request)
        misses = self.misses.setdefault(lease.shape[1:], [])
        if any(all(m <= n for m, n in zip(missed, need, strict=True)) for missed in misses):
            return False
        allowed = self.state.table.selected(lease.node_selector)
        found = place(self.scratch, need, lease.count, lease.mode, allowed, lease.topology_key)
        if found is None:
            if len(misses) < _MISSES:
                misses.append(need)
            return False
        if grant:
            names = self.state.table.names
            self.grants.append(Grant(lease, tuple(names[i] for i in found)))
            self.slices += lease.count
        return True

    def _wait_of(self, lease: Lease) -> Wait | None:
        """Return why a lease waits, or None to leave it with what it was told before."""
        if self.hold is not None:
            return self.hold
        if self.blocked:
            return _BLOCKED
        shape = lease.shape
        if shape not in self.waits:
            if self.explained >= EXPLAINED and told_why(lease):
                return None
            self.explained += 1
            need = self.policy.vector(lease.request)
            allowed = self.state.table.selected(lease.node_selector)
            self.waits[shape] = explain(self.scratch, lease, need, self.policy.names, allowed)
        return self.waits[shape]

    def _tell(self, lease: Lease, why: Wait | Refusal, patch: Patch) -> None:
        if patch:
            notices = () if lease.status else (Notice(why.reason, why.message, warning=True),)
            self.told.append(Change(lease, Step(patch, notices=notices)))


_BLOCKED = Wait(R.BLOCKED_BY_HEAD, R.BLOCKED_BY_HEAD.meaning)


def hold_of(policy: PoolPolicy, *, deleting: bool, consistent: bool, nodes: int) -> Wait | None:
    """Return why a pool grants nothing at all, or None when it does."""
    if not consistent:
        return Wait(R.LEDGER_INCONSISTENT, R.LEDGER_INCONSISTENT.meaning)
    if deleting:
        return Wait(R.POOL_HELD, "The pool is being deleted. Use another one.")
    if policy.stop != StopPolicy.NONE:
        return Wait(R.POOL_HELD, R.POOL_HELD.meaning)
    if not nodes:
        return Wait(R.POOL_NOT_READY, "The pool has no nodes: nothing matches its nodeSelector.")
    return None


def entry_of(grant: Grant, sequence: int) -> Entry:
    """Return what the pool's commit says about a grant."""
    lease = grant.lease
    return Entry(
        lease.uid, lease.namespace, lease.name, sequence, dict(lease.request), grant.nodes, lease.generation
    )


def grant_step(
    lease: Lease, entry: Entry, policy: PoolPolicy, world: World, now: int, *, adopted: bool = False
) -> Step:
    """Return the one status write that makes a committed grant the lease's own.

    Deadlines are absolute and written here once; the token is the commit's sequence, so it only grows.
    """
    draft = Draft(lease, now)
    for old in ("rejections", "release"):
        draft.status.pop(old, None)
    draft.unsay(C.ACCEPTED)
    draft.status["fencingToken"] = entry.sequence
    draft.put("allocation", ledgerSequence=entry.sequence, slices=slices_document(entry.amounts, entry.nodes))
    draft.set_time("allocation", allocationTime=now)
    end = now + policy.term_of(lease.duration)
    maximum = None if policy.max_total is None else now + policy.max_total
    draft.set_time(
        "deadlines",
        expirationTime=end if maximum is None else min(end, maximum),
        maxExpirationTime=maximum,
    )
    if lease.renew_time:
        draft.put("renewal", count=0, observedRenewTime=lease.renew_time)
    draft.say(C.ALLOCATED, True, R.ADOPTED if adopted else R.GRANTED)
    draft.say(C.READY, True, R.HELD)
    expect_holder(draft, lease, policy, world, now)
    say_next(draft)
    return Step(
        draft.patch(),
        notices=(Notice(R.GRANTED, f"Granted on {_few(entry.nodes)} with fencing token {entry.sequence}."),),
    )


def cancel_step(lease: Lease, now: int) -> Step:
    """Return a write that undoes a commitment whose lease changed meanwhile.

    It must change the object, so that a late write of the same grant by an older operator is refused: the condition
    is dated anew.
    """
    draft = Draft(lease, now)
    draft.unsay(C.ALLOCATED)
    draft.say(
        C.ALLOCATED, False, R.PENDING_EVALUATION, "A commitment from before was undone; it is decided anew."
    )
    draft.say(C.READY, False, R.PENDING_EVALUATION)
    return Step(draft.patch())


def _few(nodes: tuple[str, ...]) -> str:
    distinct = sorted(set(nodes))
    return ", ".join(distinct[:3]) + (f" and {len(distinct) - 3} more" if len(distinct) > 3 else "")
