"""One worker per pool: gather, plan, apply.

It goes through the commit protocol (docs/architecture.md) step by step:

1. `_take_over`   `PoolObject.raise_epoch` by compare-and-swap, then `Leases.list_leases` by a quorum read
2. `_adopt`       finish what an earlier operator committed: write the lease first, then drop the entry
3. `plan`         decide in memory
4. `_commit`      `PoolObject.swap_ledger`: one compare-and-swap of the pool, sequence += n, n in-flight entries
5. `Writing`      one write per lease, with its resourceVersion; token = sequence
6. `_commit`      drops finished entries with the next batch, `Publisher.publish` when none follows
"""

from __future__ import annotations

import asyncio
import logging
import time

from leasehold.adapters.enforcement.keeper import Keeper
from leasehold.adapters.foresight import Foresight
from leasehold.adapters.pauses import Pauses
from leasehold.adapters.pods import Key
from leasehold.adapters.pool.complaints import Complaints
from leasehold.adapters.pool.fence import Fence
from leasehold.adapters.pool.leases import Leases
from leasehold.adapters.pool.memory import Memory
from leasehold.adapters.pool.news import News
from leasehold.adapters.pool.object import PoolObject, Right
from leasehold.adapters.pool.publisher import Publisher
from leasehold.adapters.pool.writing import Writing, is_written
from leasehold.adapters.tools import Json, Tools
from leasehold.api.quantity import amount
from leasehold.core.audit import audit
from leasehold.core.booking import Entry
from leasehold.core.course import Step
from leasehold.core.holds import recover_holds
from leasehold.core.lease import Lease
from leasehold.core.neighbours import Heard
from leasehold.core.outages import Outage
from leasehold.core.planning import BATCH, TOLD, Change, Grant, Plan, entry_of, plan
from leasehold.core.policy import PoolPolicy
from leasehold.core.quote import Offer
from leasehold.core.request import NEVER
from leasehold.core.state import PoolState
from leasehold.core.times import earliest, parse_time

MAX_IN_FLIGHT = 128
_LEAST_BATCH = BATCH // 2

log = logging.getLogger(__name__)


class PoolWorker:
    """Leads one pool, from take-over until the pool is gone or this replica is deposed.

    `absence` is the time in which nobody led it before, where it is known.
    """

    def __init__(self, tools: Tools, document: Json, right: Right, absence: Outage | None = None) -> None:
        self.name: str = document["metadata"]["name"]
        self.passes = 0
        self._tools = tools
        self._dirty = dirty = asyncio.Event()
        self._pauses = pauses = Pauses()
        complaints = Complaints(tools, self.name)
        self.pool = pool = PoolObject(tools, document, right, absence, complaints, pauses, dirty)
        self.memory = memory = Memory(tools, pool, pauses)
        self.leases = Leases(tools, pool)
        self.fence = Fence(memory)
        self.keeper = keeper = Keeper(tools, self._named, self._may_write, self._is_busy)
        self.news = News(tools, pool, memory, self.fence, complaints, pauses, dirty, keeper)
        self.writing = Writing(tools, pool, memory, self.leases, self.fence, complaints, pauses, dirty)
        self._publisher = Publisher(tools, pool, memory)
        self._foresight = Foresight()
        self._basis: Heard | None = None
        self._again: int | None = None
        self._took = 0.0

    # --- what others ask ---

    @property
    def document(self) -> Json:
        """The pool's object as last seen."""
        return self.pool.document

    @property
    def state(self) -> PoolState:
        """The pool in memory."""
        return self.memory.state

    @property
    def ready(self) -> bool:
        """The pool is taken over."""
        return self.pool.taken_over

    def basis(self) -> Heard:
        """Return what the decisions that are under way rest on, and those to come."""
        return self._basis or self._tools.cluster.heard_of()

    def grants_nothing(self) -> bool:
        """Tell whether the pool grants nothing at all now."""
        return self.memory.hold() is not None

    def mark(self) -> None:
        """Something changed: look at the pool again."""
        self._dirty.set()

    # --- life ---

    def join(self) -> None:
        """Claim the pool's nodes and count what its leases were last seen to hold.

        To be done for every pool before any of them decides: a node that two pools select, or where another pool's
        leases still are, must not be lent meanwhile.
        """
        self.news.inherited = frozenset(node for row in self.pool.in_flight for node in row["nodes"])
        for lease in self._tools.cluster.leases.get(self.name, {}).values():
            self.state.observe(lease)
        self._join()

    def _join(self) -> None:
        selector = self.state.policy.selector
        self._tools.cluster.pool_joined(self.name, self.news, selector, self.pool.generation)

    async def run(self) -> None:
        """Lead the pool until cancelled. Raises Deposed when another operator took it over."""
        keeping: asyncio.Task[None] | None = None
        try:
            await self.pool.until_done(self._take_over, "take-over")
            self._mark_pods()
            keeping = asyncio.create_task(self.keeper.run(), name=f"pods of pool {self.name}")
            keeping.add_done_callback(self._pods_left)
            while True:
                if self.pool.failure is not None:
                    raise self.pool.failure
                if await self._pass():
                    return
                await self._look_ahead()
                await self._sleep()
        finally:
            if keeping is not None:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
            await self.writing.finish()

    def _mark_pods(self) -> None:
        """Look at the pods of every lease, and at all leases where those without pods have something, too."""
        self.keeper.mark(self._tools.cluster.pods.keys())
        if self.state.policy.holds_room and self._tools.cluster.pods.watched:
            self.keeper.mark((lease.namespace, lease.name) for lease in self.state.leases.values())

    def _pods_left(self, keeping: asyncio.Task[None]) -> None:
        """Nobody looks after the pods any more: neither can the pool be led."""
        if not keeping.cancelled() and (error := keeping.exception()) is not None:
            self.pool.fail(error)

    def _is_busy(self, uid: str) -> bool:
        return uid in self.state.busy

    def _may_write(self) -> bool:
        return self.pool.failure is None and self.pool.right.valid()

    def _named(self, key: Key) -> tuple[Lease, PoolPolicy] | None:
        """Return a lease of this pool by its name, with what sub-leases leave of it, and the pool's policy."""
        lease = self._tools.cluster.named(key)
        if lease is None or lease.pool != self.name:
            return None
        return self.state.families.rest(lease), self.state.policy

    async def _sleep(self) -> None:
        now = self._tools.clock.now()
        at = earliest(
            self.memory.next(),
            self._pauses.next(),
            self._publisher.next(now),
            self._again,
            self._foresight.next(self.state),
        )
        timeout = None if at is None else max(0.0, (at - now) / 1000)
        try:
            async with asyncio.timeout(timeout):
                await self._dirty.wait()
            await asyncio.sleep(self._tools.debounce)
        except TimeoutError:
            pass
        self._dirty.clear()

    # --- step 1 and 2: take over ---

    async def _take_over(self) -> None:
        """Raise the epoch before listing: from here on an older operator's commits fail."""
        await self.pool.raise_epoch()
        policy = self.memory.read_spec(self.state.policy)
        if policy != self.state.policy:  # else the books are as `join` made them, and need not be made again
            self._rebuild(policy)
        # Joined before the list, so that nothing the watch says in between is lost.
        self._join()
        listed, version = await self.leases.list_leases()
        self.fence.taken_over_at = version
        # What somebody undid who took over since is seen in this list or makes our writes fail: only with the epoch
        # still ours are the entries that we know those to adopt.
        await self.pool.reread()
        self.state.replace(listed, version)
        # A pool made anew under an old name must not repeat the tokens of leases that are still there.
        tokens = (lease.status.get("fencingToken", 0) for lease in listed)
        self.pool.sequence = max(self.pool.sequence, *tokens, 0)
        self._adopt()
        self.memory.remember_tenants()
        self.memory.judge_all()
        recover_holds(self.state, self._tools.clock.now())
        self.news.inherited = frozenset()
        self.memory.mismatches = audit(self.state)
        self.pool.taken_over = True
        log.info("pool %s taken over", self.name, extra={"pool": self.name, "epoch": self.pool.epoch})

    def _adopt(self) -> None:
        """Finish commitments we did not make ourselves: write the lease, only then drop the entry."""
        for row in self.pool.in_flight:
            entry = _entry(row)
            if entry.uid in self.state.entries or entry.uid in self.pool.settled:
                continue
            lease = self.state.leases.get(entry.uid)
            if lease is None or is_written(lease, entry):
                self.pool.settled.add(entry.uid)
                continue
            self.writing.start_grant(entry._replace(version=lease.version), adopted=True)

    def _rebuild(self, policy: PoolPolicy) -> None:
        self.memory.rebuild(policy)
        self._foresight = Foresight()

    def _follow_spec(self) -> None:
        """Start the memory anew where the pool's spec is not the one that it was made for."""
        if self.memory.generation == self.pool.generation:
            return
        self._rebuild(self.memory.read_spec(self.state.policy))
        self._join()
        self._mark_pods()
        self.pool.due = True

    # --- step 3: gather, plan and apply ---

    async def _pass(self) -> bool:
        """Gather, plan, apply once; tell whether the pool is done with for good."""
        more = True
        while more:
            self._follow_spec()
            now = self._tools.clock.now()
            world = self.memory.gather(now)
            self._basis = self._tools.cluster.heard_of()
            due = self.state.deadlines.pop_due(now)
            hold = self.memory.hold()
            words = TOLD - self.writing.words
            started = time.perf_counter()
            with self._tools.metrics.planning(self.name):
                decided = plan(
                    self.state, world, now, due, hold, self._batch(), self._foresight.quotes, words
                )
            self._took = time.perf_counter() - started
            self.passes += 1
            self._note_wakes(decided)
            for uid, why in decided.unreadable:
                log.error("lease %s: %s", uid, why, extra={"pool": self.name})
                self.writing.put_aside(uid)
            for change in decided.changes:
                self.writing.start_change(change)
            for preemption in decided.preemptions:
                self.state.begin_hold(preemption)
            self._again = decided.again
            if decided.grants:
                await self._commit(decided.grants)
            on_the_way = self.writing.words
            goes_on = decided.more and self._batch() > 0 and (bool(decided.grants) or on_the_way < TOLD)
            more = bool(decided.preemptions) or goes_on
            await asyncio.sleep(0)
        await self._publisher.publish()
        self._basis = None
        return await self._leave_if_drained()

    def _batch(self) -> int:
        """Return how many grants the next commit may carry: many, or none until enough earlier ones are written.

        A commit for each grant that finishes would double the writes.
        """
        if self.pool.paused:
            return 0
        room = MAX_IN_FLIGHT - len(self.state.entries)
        return min(room, BATCH) if room >= _LEAST_BATCH else 0

    def _note_wakes(self, decided: Plan) -> None:
        self.state.attention &= self.state.busy | self.state.entries.keys()
        for uid, at in decided.wakes:
            self.state.deadlines.put(uid, at)

    async def _look_ahead(self) -> None:
        """Foretell starts while there is nothing more urgent: a fifth of the time at most, in short slices."""
        while True:
            now = self._tools.clock.now()
            took = self._foresight.look(self.state, now, self._elsewhere, self._took)
            if took is None:
                return
            if self._foresight.news:
                self._foresight.news = False
                self.mark()
            if self._dirty.is_set():
                return
            await asyncio.sleep(4 * took)

    def _elsewhere(self, lease: Lease) -> Offer | None:
        """Return what the best other pool could do for a lease now."""
        return self._tools.elsewhere(self.name, lease)

    # --- step 4: commit ---

    async def _commit(self, grants: tuple[Grant, ...]) -> None:
        """Swap the pool's ledger: the grants' sequence numbers and in-flight entries go in, finished ones go out.

        When the swap fails nothing was granted, and the next pass decides anew on what is then true.
        """
        fenced = self.fence.fence(grants)
        for lease in fenced.unfenced:
            if lease.uid not in self.state.busy and lease.uid not in self.state.aside:
                step = Step({"allocation": {"ledgerEpoch": self.pool.epoch}})
                self.writing.start_change(Change(lease, step))
        first = self.pool.sequence + 1
        entries = [entry_of(grant, sequence) for sequence, grant in enumerate(fenced.grants, start=first)]
        committed = self.state.entries.values()
        # Until it is known what children have got, no more pods of their parents are let go.
        parents = {grant.parent for grant in fenced.grants if grant.parent} - self.state.busy
        self.state.busy |= parents
        try:
            if not entries or not await self.pool.swap_ledger(entries, committed):
                return
            for entry in entries:
                self.writing.start_grant(entry, adopted=False)
        finally:
            self.state.busy -= parents

    # --- the end, and the safety sweep ---

    async def _leave_if_drained(self) -> bool:
        """Let a deleted pool go once nothing is held in it any more."""
        if (
            not self.pool.deleting
            or len(self.state.ledger)
            or self.state.families.parts
            or self.writing.tasks
        ):
            return False
        return await self.pool.drop_finalizer()

    async def sweep(self, *, relist: bool) -> None:
        """Audit the books; with `relist`, first compare what the watch said with what there is."""
        if not self.ready:
            return
        if relist:
            before = {uid: lease.version for uid, lease in self.state.leases.items()}
            listed, version = await self.leases.list_leases()
            missed = sum(1 for lease in listed if lease.version > before.get(lease.uid, 0))
            self._tools.metrics.missed.labels(pool=self.name).inc(missed)
            for uid in before.keys() - {lease.uid for lease in listed}:
                if before[uid] <= version:
                    self._tools.cluster.lease_gone(uid)
                    self.state.forget(uid)
        found = audit(self.state)
        if found:
            log.error("pool %s: the books do not balance: %s", self.name, "; ".join(found)[:2000])
            self._tools.metrics.mismatches.labels(pool=self.name).inc()
            self._rebuild(
                self.state.policy
            )  # the leases are the truth; grants resume once an audit finds nothing
        if found != self.memory.mismatches:
            self.memory.mismatches = found
            self.pool.due = True
        self.memory.dirty_nodes |= self.state.table.rows.keys()
        self.mark()


def _entry(row: Json) -> Entry:
    """Read a commitment as the ledger has it."""
    amounts = {name: amount(name, text) for name, text in row["resources"].items()}
    start, end, not_after = (
        parse_time(row[name]) if name in row else None for name in ("startTime", "endTime", "notAfterTime")
    )
    return Entry(
        row["uid"],
        row["namespace"],
        row["name"],
        row["sequence"],
        amounts,
        tuple(row["nodes"]),
        not_after=not_after,
        start=start,
        end=None if start is None else end,
        until=NEVER if end is None else end,
        parent=row.get("parentUID", ""),
        holder=_holder(row["holder"]) if "holder" in row else None,
    )


def _holder(row: Json) -> tuple[str, str]:
    return row.get("identity", ""), (row.get("sessionRef") or {}).get("name", "")
