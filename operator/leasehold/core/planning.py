"""One pass over a pool: what to grant, what to end, what to say, and when to look again.

`plan` changes nothing: it reads the state, works on a scratch copy of the free columns, and returns values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import Liveness, StopPolicy
from leasehold.core.capacity import Scratch
from leasehold.core.errors import InvalidObject
from leasehold.core.lease import Lease
from leasehold.core.lifecycle import Notice, Step, World, advance, say_next, session_is_live
from leasehold.core.placement import place
from leasehold.core.policy import PoolPolicy
from leasehold.core.queueing import Wait, explain, keep_waiting, refusal_of, refuse
from leasehold.core.state import Entry, PoolState
from leasehold.core.status import Draft, Patch, slices_document

BATCH = 64
"""Grants in one commit. Their in-flight entries must fit the pool's `status.ledger.inFlight`, twice."""

SLICES = 512
"""Slices in one commit, so that the pool object stays small."""

TOLD = 64
"""Waiting leases that get a new status in one pass; the rest hear in the next."""


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
    leaving = {change.lease.uid for change in changes}
    if not batch:
        return Plan((), tuple(changes), tuple(wakes), more=False, unreadable=tuple(unreadable))
    grants, told, more = _queue_pass(state, now, leaving, hold, batch)
    return Plan(tuple(grants), (*changes, *told), tuple(wakes), more, tuple(unreadable))


def _queue_pass(
    state: PoolState, now: int, leaving: set[str], hold: Wait | None, batch: int
) -> tuple[list[Grant], list[Change], bool]:
    """Go through the queue in order. What does not fit once will not fit again in this pass: room only shrinks."""
    grants: list[Grant] = []
    told: list[Change] = []
    if not state.queue:
        return grants, told, False
    scratch = state.table.scratch()
    refused: dict[tuple[Any, ...], Wait] = {}
    blocked = False
    slices = 0
    for position, (_, uid) in enumerate(state.queue):
        lease = state.leases[uid]
        if uid in state.entries or uid in leaving or uid in state.aside:
            continue
        if lease.deleting or lease.wants_release:
            continue
        if uid in state.busy:
            # It is being told that it waits; until then it still stands at its place.
            blocked = blocked or state.policy.strict_fifo
            continue
        if len(told) >= TOLD:
            return grants, told, True
        refusal = refusal_of(lease, state.policy, position)
        if refusal is not None:
            _tell(told, lease, refuse(lease, refusal, now))
            continue
        wait = hold or (_BLOCKED if blocked else refused.get(lease.shape))
        if wait is None:
            if len(grants) == batch or (grants and slices + lease.count > SLICES):
                return grants, told, True
            nodes = _place(state, scratch, lease)
            if nodes is not None:
                grants.append(Grant(lease, nodes))
                slices += lease.count
                continue
            wait = refused[lease.shape] = _explained(state, scratch, lease)
        if state.policy.strict_fifo:
            blocked = True
        _tell(told, lease, keep_waiting(lease, wait, now))
    return grants, told, False


_BLOCKED = Wait(R.BLOCKED_BY_HEAD, R.BLOCKED_BY_HEAD.meaning)


def _place(state: PoolState, scratch: Scratch, lease: Lease) -> tuple[str, ...] | None:
    need = state.policy.vector(lease.request)
    allowed = state.table.selected(lease.node_selector)
    found = place(scratch, need, lease.count, lease.mode, allowed, lease.topology_key)
    return None if found is None else tuple(state.table.names[i] for i in found)


def _explained(state: PoolState, scratch: Scratch, lease: Lease) -> Wait:
    need = state.policy.vector(lease.request)
    return explain(scratch, lease, need, state.policy.names, state.table.selected(lease.node_selector))


def _tell(told: list[Change], lease: Lease, patch: Patch) -> None:
    if patch:
        first = not lease.status
        reason = patch["conditions"][0]["reason"] if "conditions" in patch else ""
        message = patch["conditions"][-1]["message"] if "conditions" in patch else ""
        notices = (Notice(reason, message, warning=True),) if first else ()
        told.append(Change(lease, Step(patch, notices=notices)))


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
    return Entry(lease.uid, lease.namespace, lease.name, sequence, dict(lease.request), grant.nodes)


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
    end = now + policy.duration_of(lease.duration)
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
    _expect_holder(draft, lease, policy, world, now)
    say_next(draft)
    return Step(
        draft.patch(),
        notices=(Notice(R.GRANTED, f"Granted on {_few(entry.nodes)} with fencing token {entry.sequence}."),),
    )


def _expect_holder(draft: Draft, lease: Lease, policy: PoolPolicy, world: World, now: int) -> None:
    if lease.liveness == Liveness.NONE:
        return
    if lease.liveness == Liveness.SESSION and session_is_live(lease, policy, world, now):
        draft.say(C.CLAIMED, True, R.SESSION_LIVE)
        draft.say(C.HOLDER_LIVE, True, R.FRESH)
        return
    draft.say(C.CLAIMED, False, R.WAITING_FOR_HOLDER)
    if policy.claim_timeout is not None:
        draft.set_time("deadlines", claimTime=now + policy.claim_timeout)


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
