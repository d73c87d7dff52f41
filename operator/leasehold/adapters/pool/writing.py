"""Writes what was decided to the leases, many at a time, and keeps at it until each is known to have happened or not.

Capacity that a write frees counts as free only after that write is known to have happened. What rests on another object
(a session, a node) is looked up once more before it ends a lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from leasehold.adapters.confirmation import Confirmation
from leasehold.adapters.kube.errors import Conflict, NotFound, Refused, Unknown
from leasehold.adapters.pauses import Pauses
from leasehold.adapters.pool.complaints import Complaints, subject_of
from leasehold.adapters.pool.fence import Fence
from leasehold.adapters.pool.leases import Leases, about
from leasehold.adapters.pool.memory import Memory
from leasehold.adapters.pool.object import PoolObject
from leasehold.adapters.tools import Tools
from leasehold.core.booking import Entry
from leasehold.core.course import Step, World
from leasehold.core.errors import LeaseholdError
from leasehold.core.lease import Lease
from leasehold.core.planning import Change, cancel_step, expect_end, grant_step, handover_step, promise_step

_FAREWELL_SECONDS = 1.0

log = logging.getLogger(__name__)


class Writing:
    """The writes of leases that are under way.

    `words` counts those that only tell a waiting lease how it stands. The planner keeps them few, because a lease is
    not granted while a word to it is under way, or waits for its turn; `adapters.writers` lets grants pass those few.
    """

    def __init__(
        self,
        tools: Tools,
        pool: PoolObject,
        memory: Memory,
        leases: Leases,
        fence: Fence,
        complaints: Complaints,
        pauses: Pauses,
        dirty: asyncio.Event,
    ) -> None:
        self.words = 0
        self._fencing: dict[str, asyncio.Lock] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._tools = tools
        self._pool = pool
        self._memory = memory
        self._leases = leases
        self._fence = fence
        self._complaints = complaints
        self._pauses = pauses
        self._dirty = dirty
        self._confirm = Confirmation(tools.client, tools.cluster, tools.clock)

    # --- in the background ---

    def start_change(self, change: Change) -> None:
        """Begin to write a change; its lease is left alone meanwhile."""
        self._memory.state.busy.add(change.lease.uid)
        self.words += change.word
        self._spawn(self._write_change(change))

    def start_grant(self, entry: Entry, *, adopted: bool) -> None:
        """Begin to write a commitment; it counts from now on."""
        self._memory.state.assume(entry)
        self._spawn(self._write_grant(entry, adopted=adopted))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._pool.fail(error)
        self._dirty.set()

    async def finish(self) -> None:
        """Let the writes under way end, so that the next operator finds little half done; then give up the rest."""
        if self.tasks and self._pool.failure is None:
            await asyncio.wait(self.tasks, timeout=_FAREWELL_SECONDS)
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def put_aside(self, uid: str) -> bool:
        """Leave a lease alone for a while after a write failed; tell whether it is the first time in a row.

        What its write would have freed stays counted. The next try carries the version known by then, so a write
        that did happen after all shows as a conflict.
        """
        self._memory.state.aside.add(uid)
        return self._pauses.failed(uid, self._tools.clock.now())

    # --- grants and promises ---

    async def _write_grant(self, entry: Entry, *, adopted: bool) -> None:
        """Make a committed grant the lease's own, or undo the commitment; only then is the entry finished.

        A grant that the API server refuses is undone, and its lease put aside.
        """
        pause = 0.05
        refused = False
        looked_at = entry.version
        while (lease := self._memory.state.leases.get(entry.uid)) and not is_written(lease, entry):
            try:
                if lease.version != looked_at:
                    # Whoever changed it may have undone this commitment: then the pool has a higher epoch.
                    await self._pool.reread()
                    looked_at = lease.version
                async with self._tools.writers.turn():
                    await self._write_grant_once(lease, entry, adopted=adopted, refused=refused)
                break
            except NotFound:
                self._tools.cluster.lease_gone(entry.uid)
                break
            except LeaseholdError as error:
                self._complaints.failed(error)
                log.info("lease %s: grant: %s", lease.key, error, extra=about(lease))
                if isinstance(error, Refused) and not refused:
                    refused = True
                    self._complaints.refused(subject_of(lease), error)
                    if entry.holder is not None:
                        break  # there is nothing to undo: the lease stays who has it
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)
            await self._leases.refresh(lease)
        if refused:
            self.put_aside(entry.uid)
        else:
            self._pauses.worked(entry.uid)
        self._pool.settled.add(entry.uid)
        self._memory.state.settle(entry.uid)
        self._pool.due = True
        self._dirty.set()

    async def _write_grant_once(self, lease: Lease, entry: Entry, *, adopted: bool, refused: bool) -> None:
        now = self._tools.clock.now()
        state = self._memory.state
        world = World(sessions=self._tools.cluster.sessions)
        if entry.holder is not None:
            await self._leases.patch_lease(lease, handover_step(lease, entry, state.policy, world, now))
            return
        if entry.parent:
            await self._write_child(lease, entry, now, adopted=adopted, refused=refused)
            return
        if refused or not _still_wanted(lease, entry):
            await self._leases.patch_lease(lease, cancel_step(lease, now, promise=entry.start is not None))
            return
        lease = await self._kept(lease)
        tenant = state.tenant_of(lease)
        if entry.start is not None:
            await self._leases.patch_lease(lease, promise_step(lease, entry, now, tenant))
            return
        needed = self._needed(entry.uid, now)
        span = state.policy.span_of(lease.duration)
        if needed is not None and not state.policy.is_worth(needed - now, span):
            # So late that less than half of what was asked for is left before others were promised the room.
            await self._leases.patch_lease(lease, cancel_step(lease, now))
            return
        step = grant_step(
            lease, entry, state.policy, world, now, adopted=adopted, tenant=tenant, needed=needed
        )
        # What is left beside a promised start can be had once: another that is late, too, must not count on it.
        expect_end(state, lease, step)
        await self._write_granted(lease, step, now)

    async def _write_child(
        self, lease: Lease, entry: Entry, now: int, *, adopted: bool, refused: bool
    ) -> None:
        """Write what a sub-lease gets of its parent, if that can still give it. The parent cannot go before this."""
        state = self._memory.state
        parent = await self._fenced_parent(entry.parent)
        ends = None if parent is None else parent.deadline("expirationTime")
        holds = parent is not None and parent.allocated and not parent.releasing
        if refused or not holds or (ends is not None and ends <= now) or not _still_wanted(lease, entry):
            await self._leases.patch_lease(lease, cancel_step(lease, now))
            return
        lease = await self._kept(lease)
        world = World(sessions=self._tools.cluster.sessions)
        step = grant_step(lease, entry, state.policy, world, now, adopted=adopted, parent=parent)
        await self._write_granted(lease, step, now)

    async def _fenced_parent(self, uid: str) -> Lease | None:
        """Return a parent that nobody but us writes to: what an earlier leader sent it comes to nothing.

        One that was overtaken may not know of the commitment, and end the parent, or let it shrink. So the parent is
        written to once in each epoch before anything is taken out of it: an older write finds another version, and
        whoever reads a higher epoch than its own there writes no more. A write of ours whose answer was lost is made
        to fail in the same way.
        """
        try:
            async with self._fencing.setdefault(uid, asyncio.Lock()):
                while (parent := self._open_parent(uid)) is not None:
                    await self._fence_parent(parent)
        finally:
            self._fencing.pop(uid, None)
        return self._memory.state.leases.get(uid)

    def _open_parent(self, uid: str) -> Lease | None:
        """Return a parent that is held and to which somebody else may still write; None where there is none."""
        parent = self._memory.state.leases.get(uid)
        if parent is None or not parent.allocated or parent.releasing:
            return None
        return parent if not self._is_ours(parent) or self._fence.is_unanswered(parent) else None

    def _is_ours(self, parent: Lease) -> bool:
        return bool(parent.status["allocation"].get("ledgerEpoch") == self._pool.epoch)

    async def _fence_parent(self, parent: Lease) -> None:
        busy = self._memory.state.busy
        if parent.uid in busy:
            raise Conflict(f"lease {parent.key} is being written to", 409)
        epoch = None if self._is_ours(parent) else self._pool.epoch  # the same once more would be no change
        busy.add(parent.uid)
        try:
            await self._leases.patch_lease(parent, Step({"allocation": {"ledgerEpoch": epoch}}))
        except NotFound:
            self._tools.cluster.lease_gone(parent.uid)  # here it is known which lease that is said of
        except (Conflict, Unknown) as error:
            if isinstance(error, Unknown):
                self._fence.unanswered(parent)
            await self._leases.refresh(parent)
            raise
        finally:
            busy.discard(parent.uid)
            self._memory.state.attention.add(parent.uid)

    async def _kept(self, lease: Lease) -> Lease:
        """Return a lease that is kept, once deleted, until what it holds is given back."""
        if not lease.has_finalizer:
            return await self._leases.add_finalizer(lease)
        return lease

    async def _write_granted(self, lease: Lease, step: Step, now: int) -> None:
        written = await self._leases.patch_lease(lease, step)
        waited = now - max(written.created, written.start_time or 0)
        self._tools.metrics.granted(self._pool.name, waited=waited)

    def _needed(self, uid: str, now: int) -> int | None:
        """Return when a commitment must have ended for promised starts (ms), or None: late grants reach no further."""
        limits = self._memory.state.renewal_limits(now)
        return None if limits is None else limits.latest(uid)

    # --- changes ---

    async def _write_change(self, change: Change) -> None:
        """Renew, end, remove or tell; a change that failed is decided anew."""
        lease, step = change.lease, change.step
        try:
            if await self._confirm(lease, step):
                async with self._tools.writers.turn(patient=change.word):
                    await self._leases.write_step(lease, step)
        except NotFound:
            self._tools.cluster.lease_gone(lease.uid)
        except LeaseholdError as error:
            await self._change_failed(lease, error)
        else:
            self._pauses.worked(lease.uid)
        self.words -= change.word
        state = self._memory.state
        state.busy.discard(lease.uid)
        if lease.uid in state.leases:
            state.rebook(lease.uid)
            state.attention.add(lease.uid)
        self._pool.due = True

    async def _change_failed(self, lease: Lease, error: LeaseholdError) -> None:
        """Find out what became of a write that failed, and leave its lease alone where that says nothing new."""
        self._complaints.failed(error)
        log.info("lease %s: %s", lease.key, error, extra=about(lease))
        if isinstance(error, Unknown):
            self._fence.unanswered(lease)
        looked_up = isinstance(error, (Conflict, Unknown)) and await self._leases.refresh(lease)
        if looked_up and isinstance(error, Conflict):
            return
        if self.put_aside(lease.uid) and isinstance(error, Refused):
            self._complaints.refused(subject_of(lease), error)


def _still_wanted(lease: Lease, entry: Entry) -> bool:
    """A commitment holds for the request it was made for; anything else is decided anew."""
    same = dict(lease.request) == dict(entry.amounts) and lease.count == len(entry.nodes)
    same = same and entry.generation in (0, lease.generation)
    return same and not lease.deleting and not lease.wants_release


def is_written(lease: Lease, entry: Entry) -> bool:
    """Tell whether a commitment became the lease's own, or can no longer."""
    if entry.holder is not None:
        gone = lease.deleting or lease.wants_release or not lease.changes_hands
        return gone or lease.token >= entry.sequence or lease.holder != entry.holder
    if lease.allocated or lease.finished:
        return True
    kept = lease.reservation
    return entry.start is not None and kept is not None and kept.sequence >= entry.sequence
