"""One worker per pool: gather, plan, apply. The only module that knows both the decisions and the API server.

The commit protocol (docs/architecture.md), step by step:

1. `_take_over`   raise the pool's epoch by compare-and-swap, then list its leases by a quorum read
2. `_adopt`       finish what an earlier operator committed: write the lease first, then drop the entry
3. `plan`         decide in memory
4. `_commit`      one compare-and-swap of the pool: sequence += n, n in-flight entries
5. `_write_grant` one write per lease, with its resourceVersion; token = sequence
6. `_commit`      drops finished entries with the next batch, `_publish` when none follows

Capacity that a write frees counts as free only after that write is known to have happened. Nothing is written without a
look at whether this replica still leads the pool's shard. What rests on another object (a session, a node) is looked
up once more before it ends a lease.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from pydantic import ValidationError

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.confirmation import Confirmation
from leasehold.adapters.foresight import Foresight
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound, Refused, Unknown
from leasehold.adapters.metrics import Metrics
from leasehold.adapters.pauses import FIRST, Pauses, Rivals
from leasehold.adapters.recorder import Recorder, Subject
from leasehold.adapters.statuses import write_status
from leasehold.adapters.writers import Writers
from leasehold.api.names import (
    API_VERSION,
    LEASE_KIND,
    POOL_KIND,
    RELEASE_FINALIZER,
    LeaseReason,
    RejectionReason,
    StopPolicy,
)
from leasehold.api.pool import PoolSpec
from leasehold.api.quantity import amount
from leasehold.core.backlog import Backlog
from leasehold.core.calendar import Outlook, RenewalLimits
from leasehold.core.course import Notice, Step, World
from leasehold.core.deadlines import Deadlines
from leasehold.core.errors import InvalidObject, LeaseholdError
from leasehold.core.fairness import MILLION
from leasehold.core.lease import Lease, lease_of
from leasehold.core.membership import Membership
from leasehold.core.neighbours import Heard
from leasehold.core.nodes import Report, judge
from leasehold.core.outages import Outage, joined
from leasehold.core.planning import (
    BATCH,
    TOLD,
    Change,
    Grant,
    Plan,
    cancel_step,
    entry_of,
    grant_step,
    hold_of,
    plan,
    promise_step,
)
from leasehold.core.policy import PoolPolicy, policy_of
from leasehold.core.pool_status import Facts, ledger_document, outages_document, status_of
from leasehold.core.queueing import Wait
from leasehold.core.quote import Offer
from leasehold.core.request import NEVER
from leasehold.core.state import OVERDUE_PER_SECOND, Entry, PoolState, loss_plan
from leasehold.core.status import merge_patch
from leasehold.core.times import SECOND, earliest, parse_time

Json = Mapping[str, Any]

POOL_FINALIZER = "leasehold.dev/drain"
MAX_IN_FLIGHT = 128
_LEAST_BATCH = BATCH // 2
_URGENT, _LAZY = SECOND // 4, 10 * SECOND
_LOOK_AGAIN = 5 * SECOND
_FAREWELL_SECONDS = 1.0
_NOWHERE = {"matchExpressions": [{"key": "leasehold.dev/none", "operator": "Exists"}]}

log = logging.getLogger(__name__)


class Deposed(Exception):
    """This replica leads the pool no more: another raised the epoch, or its own right ran out. Its worker must end.

    No LeaseholdError, so that no handler of failed writes takes it for one.
    """


class Right(Protocol):
    """The right to lead a pool. It may run out between any two lines."""

    def valid(self) -> bool:
        """Tell whether the pool may still be written to."""
        ...

    def in_touch(self) -> bool:
        """Tell whether the API server answered lately."""
        ...


class Tools:
    """What every worker shares."""

    def __init__(
        self,
        client: KubeClient,
        clock: SteadyClock,
        cluster: Cluster,
        recorder: Recorder,
        metrics: Metrics,
        writers: int,
        debounce: float,
        elsewhere: Callable[[str, Lease], Offer | None] = lambda pool, lease: None,
        overdue_per_second: int = OVERDUE_PER_SECOND,
    ) -> None:
        self.client = client
        self.clock = clock
        self.cluster = cluster
        self.recorder = recorder
        self.metrics = metrics
        self.writers = Writers(writers)
        self.debounce = debounce
        self.elsewhere = elsewhere
        self.overdue_per_second = overdue_per_second


class PoolWorker:
    """Leads one pool, from take-over until the pool is gone or this replica is deposed.

    `absence` is the time in which nobody led it before, where it is known.
    """

    def __init__(self, tools: Tools, document: Json, right: Right, absence: Outage | None = None) -> None:
        self.tools = tools
        self.right = right
        self.name: str = document["metadata"]["name"]
        self.pool: Json = document
        self.invalid = ""
        self.policy = self._read_policy(document, None)
        self.outages: tuple[Outage, ...] = () if absence is None else (absence,)
        self._backlog = Backlog(tools.overdue_per_second)
        self.state = self._new_state()
        self.epoch = 0
        self.sequence = 0
        self.ready = False
        self.pauses = Pauses()
        self.mismatches: list[str] | None = None
        self.passes = 0
        self._settled: set[str] = set()
        self._words = 0
        self._dirty = asyncio.Event()
        self._dirty_nodes: set[str] = set()
        self._node_deadlines = Deadlines()
        self._pressured: dict[str, frozenset[str]] = {}
        self._ends: dict[str, LeaseReason] = {}
        self._published_at = 0
        self._spacing = _URGENT
        self._publish_due = True
        self._drift_at: int | None = None
        self._again: int | None = None
        self._took = 0.0
        self._foresight = Foresight()
        self._inherited: frozenset[str] = frozenset()
        self._taken_over_at = 0
        self._outages_due = bool(self.outages)
        self._confirm = Confirmation(tools.client, tools.cluster, tools.clock)
        self._unanswered: dict[str, int] = {}
        self._rivals = Rivals()
        self._held_off_until = 0
        self._swapping = False
        self._basis: Heard | None = None
        self._respec: Json | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._fatal: BaseException | None = None

    # --- what the pool's object says ---

    @property
    def uid(self) -> str:
        """The pool's uid: a pool made again under the same name is another pool."""
        return str(self.pool["metadata"]["uid"])

    @property
    def deleting(self) -> bool:
        """The pool is being deleted; it drains first."""
        return "deletionTimestamp" in self.pool["metadata"]

    def basis(self) -> Heard:
        """Return what the decisions that are under way rest on, and those to come."""
        return self._basis or self.tools.cluster.heard_of()

    def _new_state(self) -> PoolState:
        return PoolState(self.name, self.policy, self.tools.cluster.namespaces, self._backlog)

    def _version(self) -> int:
        return int(self.pool["metadata"]["resourceVersion"])

    def _status(self) -> Json:
        status: Json = self.pool.get("status") or {}
        return status

    def _read_policy(self, document: Json, before: PoolPolicy | None) -> PoolPolicy:
        """Read the spec. One that cannot be read leaves the policy as it was, and grants nothing: what is held stays.

        At a start there is no policy from before; then the pool selects no node, so that it takes none from others.
        """
        try:
            self.invalid = ""
            return policy_of(PoolSpec.model_validate(document["spec"]))
        except (ValidationError, ValueError, KeyError) as error:
            self.invalid = f"The spec cannot be read: {error}"[:500]
            log.error("pool %s: %s", self.name, self.invalid, extra={"pool": self.name})
            if before is not None:
                return dataclasses.replace(before, stop=str(StopPolicy.HOLD))
            return policy_of(PoolSpec.model_validate({"nodeSelector": _NOWHERE, "stopPolicy": "Hold"}))

    def pool_seen(self, document: Json) -> None:
        """Take in the pool's object, from a watch or an answer to our own write."""
        if int(document["metadata"]["resourceVersion"]) <= self._version():
            return
        changed = document["metadata"].get("generation") != self.pool["metadata"].get("generation")
        was_deleting = self.deleting
        foreign = self.ready and not self._swapping and document.get("status") != self.pool.get("status")
        self.pool = document
        self._read_ledger()
        if foreign and self._fatal is None:
            self._rival_seen("")
        if changed:
            self._respec = document
        if changed or self.deleting != was_deleting:
            self.mark()

    def _read_ledger(self) -> None:
        """Notice a higher epoch than ours, wherever it is seen first: another operator leads the pool now."""
        if not self.epoch:
            return
        ledger = self._status().get("ledger") or {}
        if ledger.get("epoch", 0) > self.epoch:
            self._overtaken(ledger["epoch"])
        self.sequence = max(self.sequence, ledger.get("sequence", 0))

    def _overtaken(self, epoch: int) -> None:
        self._fatal = Deposed(
            f"pool {self.name} is led by epoch {epoch}, ours is {self.epoch}: another replica took over"
        )
        self.mark()

    # --- news: note and return ---

    def mark(self) -> None:
        """Something changed: look at the pool again."""
        self._dirty.set()

    def lease_seen(self, lease: Lease) -> None:
        """Take in a lease of this pool."""
        answered = lease.version > self._unanswered.get(lease.uid, lease.version)
        if answered:
            del self._unanswered[lease.uid]
        fenced = lease.status.get("allocation", {}).get("ledgerEpoch", 0)
        if self.epoch and fenced > self.epoch:
            self._overtaken(fenced)
        known = self.state.leases.get(lease.uid)
        newer = known is not None and lease.version > known.version
        if known is not None and newer and self.ready and known.status != lease.status and not answered:
            self._status_changed(lease.uid)
        if self.state.observe(lease):
            self.mark()

    def _status_changed(self, uid: str) -> None:
        """Find out whether it was somebody else who wrote a status that is ours alone to write."""
        if uid not in self.state.busy and uid not in self.state.entries:
            self._rival_seen(uid)

    def _rival_seen(self, uid: str) -> None:
        """Somebody else writes what is ours. Correct it once, then less and less often: a fight helps nobody.

        `uid` is the lease's, or "" for the pool's own status.
        """
        now = self.tools.clock.now()
        pause = self._rivals.seen(uid, now)
        self._publish_due = True
        self.mark()
        if not pause:
            return
        self.tools.metrics.foreign_writes.labels(pool=self.name).inc()
        if uid:
            self.state.aside.add(uid)
            self.pauses.put(uid, now + pause)
        else:
            self._held_off_until = now + pause
        if pause == 2 * FIRST:
            lease = self.state.leases.get(uid)
            subject = self._subject() if lease is None else _subject(lease)
            text = (
                "Somebody else writes the status, which is the operator's alone. Find out who, and stop it."
            )
            log.warning("%s %s: %s", subject.kind, subject.name, text, extra={"pool": self.name})
            self.tools.recorder.note(subject, Notice("ForeignWrite", text, warning=True))

    def outage_over(self, outage: Outage) -> None:
        """Take in that the API server answers again: silence meanwhile counts against nobody."""
        self.outages = joined((*self.outages, outage))
        self._outages_due = self._publish_due = True
        self.mark()

    def lease_gone(self, uid: str) -> None:
        """Take in that a lease of this pool no longer exists."""
        self.state.forget(uid)
        self._unanswered.pop(uid, None)
        self.mark()

    def leases_listed(self) -> None:
        """A complete list came in."""
        self.mark()

    def node_changed(self, name: str) -> None:
        """Take in that a node, its report or its pools changed."""
        self._dirty_nodes.add(name)
        self.mark()

    def report_changed(self, report: Report) -> None:
        """Take in a node's new report."""
        self.state.note_usage(report, self.tools.clock.now())
        if self.policy.attributes_usage():
            self.state.touch_node(report.node)
        self.node_changed(report.node)

    def session_changed(self, key: tuple[str, str]) -> None:
        """Take in a session's heartbeat: only the leases that wait for it or lost it look up."""
        for uid in self._by_session(key):
            lease = self.state.leases[uid]
            waits = lease.allocated and not (lease.is_true("Claimed") and lease.is_true("HolderLive"))
            if waits or key not in self.tools.cluster.sessions:
                self.state.attention.add(uid)
                self.mark()

    def namespace_changed(self, name: str) -> None:
        """Take in that a namespace came, went, or has other labels: its leases look up."""
        self.state.attention |= self.tools.cluster.leases_in(name) & self.state.leases.keys()
        self.state.namespace_changed(name)
        if self.policy.tenants:
            self._publish_due = True
        self.mark()

    def _by_session(self, key: tuple[str, str]) -> list[str]:
        return [uid for uid in self.state.sessions.get(key, ()) if uid in self.state.leases]

    def holds_on(self, node: str) -> bool:
        """Tell whether this pool's leases hold something on a node, or may once it was taken over."""
        return bool(self.state.ledger.holders(node)) or node in self._inherited

    # --- the worker ---

    def join(self) -> None:
        """Claim the pool's nodes and count what its leases were last seen to hold.

        To be done for every pool before any of them decides: a node that two pools select, or where another pool's
        leases still are, must not be lent meanwhile.
        """
        rows = (self._status().get("ledger") or {}).get("inFlight") or ()
        self._inherited = frozenset(node for row in rows for node in row["nodes"])
        for lease in self.tools.cluster.leases.get(self.name, {}).values():
            self.state.observe(lease)
        self._join()

    def _join(self) -> None:
        generation = f"{self.uid}/{self.pool['metadata'].get('generation', 1)}"
        self.tools.cluster.pool_joined(self.name, self, self.policy.selector, generation)

    async def run(self) -> None:
        """Lead the pool until cancelled. Raises Deposed when another operator took it over."""
        try:
            await self._until_done(self._take_over, "take-over")
            while True:
                if self._fatal is not None:
                    raise self._fatal
                if await self._pass():
                    return
                await self._look_ahead()
                await self._sleep()
        finally:
            await self._finish()

    async def _finish(self) -> None:
        """Let the writes under way end, so that the next operator finds little half done; then give up the rest."""
        if self._tasks and self._fatal is None:
            await asyncio.wait(self._tasks, timeout=_FAREWELL_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _until_done(self, work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        pause = 0.1
        while True:
            try:
                return await work()
            except NotFound:
                raise
            except ApiError as error:
                log.warning("pool %s: %s: %s", self.name, what, error, extra={"pool": self.name})
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)

    async def _sleep(self) -> None:
        now = self.tools.clock.now()
        at = earliest(
            self.state.deadlines.next(),
            self._node_deadlines.next(),
            self.pauses.next(),
            self._publish_at(now),
            self._again,
            self._foresight.next(self.state),
        )
        timeout = None if at is None else max(0.0, (at - now) / 1000)
        try:
            async with asyncio.timeout(timeout):
                await self._dirty.wait()
            await asyncio.sleep(self.tools.debounce)
        except TimeoutError:
            pass
        self._dirty.clear()

    # --- step 1 and 2: take over ---

    async def _take_over(self) -> None:
        """Raise the epoch before listing: from here on an older operator's commits fail."""
        if "metadata" not in self.pool or not self._status():
            self.pool = await self.tools.client.get(paths.pool(self.name))
        await self._ensure_finalizer()
        ledger = self._status().get("ledger") or {}
        epoch = ledger.get("epoch", 0) + 1
        patch = {"epoch": epoch, "sequence": ledger.get("sequence", 0), **self._outages_told(ledger)}
        told = self.outages
        try:
            self.pool = await self._patch_pool({"ledger": patch})
        except (Conflict, Unknown):
            self.pool = await self.tools.client.get(paths.pool(self.name))
            raise
        self.epoch, self.sequence = epoch, patch["sequence"]
        self._outages_due = told != self.outages
        self.policy = self._read_policy(self.pool, self.policy)
        self._rebuild()
        # Joined before the list, so that nothing the watch says in between is lost.
        self._join()
        listed, version = await self._list_leases()
        self._taken_over_at = version
        # What somebody undid who took over since is seen in this list or makes our writes fail: only with the epoch
        # still ours are the entries that we know those to adopt.
        await self._reread()
        self.state.replace(listed, version)
        # A pool made anew under an old name must not repeat the tokens of leases that are still there.
        tokens = (lease.status.get("fencingToken", 0) for lease in listed)
        self.sequence = max(self.sequence, *tokens, 0)
        self._adopt()
        self._remember_tenants()
        self._judge_all()
        self.state.recover_holds(self.tools.clock.now())
        self._inherited = frozenset()
        self.mismatches = self.state.audit()
        self.ready = True
        log.info("pool %s taken over", self.name, extra={"pool": self.name, "epoch": epoch})

    def _outages_told(self, ledger: Json) -> dict[str, Any]:
        """Join the outages that the pool remembers with those this replica knows of; return what to write of them."""
        told = [
            Outage(parse_time(r["startTime"]), parse_time(r["endTime"])) for r in ledger.get("outages") or ()
        ]
        self.outages = joined((*told, *self.outages))
        return {"outages": outages_document(self.outages)} if self._outages_due else {}

    async def _list_leases(self) -> tuple[list[Lease], int]:
        """List the pool's leases by a quorum read and tell the cluster's memory of them."""
        cluster = self.tools.cluster
        items, version = await self.tools.client.list(
            paths.LEASES, {"fieldSelector": f"spec.poolRef.name={self.name}"}, read=cluster.read
        )
        # One whose end was already heard of while the list was on its way would stay for ever as a ghost.
        found = [lease for lease in items if lease is not None and not cluster.is_gone(lease.uid)]
        for lease in found:
            cluster.lease_seen(lease)
        return found, int(version)

    async def _ensure_finalizer(self) -> None:
        finalizers = list(self.pool["metadata"].get("finalizers", ()))
        if POOL_FINALIZER in finalizers or self.deleting:
            return
        meta = {"resourceVersion": str(self._version()), "finalizers": [*finalizers, POOL_FINALIZER]}
        try:
            self.pool = await self.tools.client.patch(paths.pool(self.name), {"metadata": meta})
        except Conflict:
            self.pool = await self.tools.client.get(paths.pool(self.name))
            raise

    def _adopt(self) -> None:
        """Finish commitments we did not make ourselves: write the lease, only then drop the entry."""
        for row in (self._status().get("ledger") or {}).get("inFlight") or ():
            entry = _entry(row)
            if entry.uid in self.state.entries or entry.uid in self._settled:
                continue
            lease = self.state.leases.get(entry.uid)
            if lease is None or _is_written(lease, entry):
                self._settled.add(entry.uid)
                continue
            entry = entry._replace(version=lease.version)
            self.state.assume(entry)
            self._spawn(self._write_grant(entry, adopted=True))

    def _remember_tenants(self) -> None:
        """Take up the tenants' past where the last operator left it."""
        now = self.tools.clock.now()
        for row in self._status().get("tenants") or ():
            account = self.state.shares.account(row["name"])
            account.past = row.get("usagePermille", 0) * MILLION // 1000
            account.waste = row.get("wastePermille", 0) * MILLION // 1000
            account.as_of = now

    def _judge_all(self) -> None:
        """Work out what every node may lend now, where something is to be decided before the first pass."""
        now = self.tools.clock.now()
        for name in self._dirty_nodes:
            self._judge(name, now)

    def _rebuild(self) -> None:
        """Start the memory anew, after a change of the pool's spec; commitments under way are kept."""
        before = self.state
        self.state = self._new_state()
        self.state.arrivals = before.arrivals
        self.state.seen_at = before.seen_at
        self.state.meters = before.meters
        for lease in before.leases.values():
            self.state.observe(lease)
        for entry in before.entries.values():
            self.state.assume(entry)
        self.state.busy = before.busy
        self.state.aside = before.aside
        self.state.idle = before.idle
        for tenant, account in before.shares.accounts.items():
            mine = self.state.shares.account(tenant)
            mine.past, mine.waste, mine.as_of = account.past, account.waste, account.as_of
        self._foresight = Foresight()
        self._dirty_nodes |= self.tools.cluster.membership.keys() | set(before.table.rows)
        if before.holds:
            self._judge_all()
            self.state.recover_holds(self.tools.clock.now())

    # --- gather ---

    def _gather(self, now: int) -> World:
        self.state.seen_at = now
        if self._respec is not None:
            self._respec = None
            self.policy = self._read_policy(self.pool, self.policy)
            self._rebuild()
            self._join()
            self._publish_due = True
        names, self._dirty_nodes = self._dirty_nodes, set()
        for name in names | self._node_deadlines.pop_due(now):
            self._judge(name, now)
        for uid in self.pauses.pop_due(now):
            self.state.aside.discard(uid)
            self.state.attention.add(uid)
            self.state.queue.retell(uid)
        self.state.settle_holds(now)
        self.state.shares.age(now)
        self._find_ends()
        cluster, state = self.tools.cluster, self.state
        limits = (
            RenewalLimits(Outlook(state.table.scratch(), state.calendar, now))
            if state.calendar.promises
            else None
        )
        return World(
            nodes=cluster.nodes,
            reports=cluster.reports,
            sessions=cluster.sessions,
            gone_namespaces=cluster.gone_namespaces,
            idle_since=self.state.idle_since() if self.policy.idle_policy != "Off" else {},
            ends=self._ends,
            over_nodes=frozenset(self.state.table.over),
            preemptors={victim: state.preemptor_of(victim) for victim in state.displaced()},
            limits=limits,
            bill=state.bill,
            in_touch=self.right.in_touch(),
            outages=self.outages,
        )

    def _judge(self, name: str, now: int) -> None:
        """Work out anew what one node may lend, and wake the leases on it if that could matter to them."""
        cluster = self.tools.cluster
        node = cluster.nodes.get(name)
        membership = cluster.membership.get(name, Membership(()))
        self.state.touch_node(name)
        if node is None or self.name not in membership.pools:
            self.state.table.remove(name)
            self._pressured.pop(name, None)
            self._node_deadlines.put(name, None)
            return
        verdict = judge(
            node,
            cluster.reports.get(name),
            self.policy,
            now,
            was_pressured=self._pressured.get(name, frozenset()),
        )
        self._pressured[name] = verdict.pressured
        if membership.conflicting or cluster.held_elsewhere(name, self.name):
            # Nobody tells when the other pool's last lease there ends: look again.
            again = earliest(verdict.revisit_at, now + _LOOK_AGAIN)
            verdict = verdict._replace(reason=RejectionReason.NODE_CONFLICTING, revisit_at=again)
        elif name in (cluster.joining or ()):
            verdict = verdict._replace(reason=RejectionReason.NODE_JOINING)
        self.state.put_node(name, node.labels, verdict)
        self._node_deadlines.put(name, verdict.revisit_at)

    def _find_ends(self) -> None:
        """Name the leases the pool itself must end: all when it drains, the least wanted when capacity was lost."""
        ends: dict[str, LeaseReason] = {}
        if self.deleting or self.policy.stop == StopPolicy.HOLD_AND_DRAIN:
            ends = {holding.uid: LeaseReason.POOL_DRAINING for holding in self.state.ledger}
        elif self.policy.revokes_on_loss and self.state.table.over:
            ends = dict.fromkeys(loss_plan(self.state), LeaseReason.CAPACITY_LOST)
        ends = {**self.state.displaced(), **ends}
        if ends != self._ends:
            self.state.attention |= ends.keys() ^ self._ends.keys()
            self._ends = ends

    # --- plan and apply ---

    async def _pass(self) -> bool:
        """Gather, plan, apply once; tell whether the pool is done with for good."""
        more = True
        while more:
            now = self.tools.clock.now()
            world = self._gather(now)
            self._basis = self.tools.cluster.heard_of()
            due = self.state.deadlines.pop_due(now)
            hold = self._hold()
            started = time.perf_counter()
            with self.tools.metrics.planning(self.name):
                decided = plan(
                    self.state,
                    world,
                    now,
                    due,
                    hold,
                    self._batch(),
                    self._foresight.quotes,
                    TOLD - self._words,
                )
            self._took = time.perf_counter() - started
            self.passes += 1
            self._note_wakes(decided)
            for uid, why in decided.unreadable:
                log.error("lease %s: %s", uid, why, extra={"pool": self.name})
                self._put_aside(uid)
            for change in decided.changes:
                self._start_change(change)
            for preemption in decided.preemptions:
                self.state.begin_hold(preemption)
            self._again = decided.again
            if decided.grants:
                await self._commit(decided.grants)
            goes_on = decided.more and self._batch() > 0 and (bool(decided.grants) or self._words < TOLD)
            more = bool(decided.preemptions) or goes_on
            await asyncio.sleep(0)
        await self._publish()
        self._basis = None
        return await self._leave_if_drained()

    async def _look_ahead(self) -> None:
        """Foretell starts while there is nothing more urgent: a fifth of the time at most, in short slices."""
        while True:
            now = self.tools.clock.now()
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
        return self.tools.elsewhere(self.name, lease)

    def _hold(self) -> Wait | None:
        """Say why the pool grants nothing at all, or None."""
        if self.invalid:
            return Wait(LeaseReason.POOL_NOT_READY, LeaseReason.POOL_NOT_READY.meaning)
        return hold_of(
            self.policy,
            deleting=self.deleting,
            consistent=not self.mismatches,
            nodes=len(self.state.table.rows),
        )

    def grants_nothing(self) -> bool:
        """Tell whether the pool grants nothing at all now."""
        return self._hold() is not None

    def _batch(self) -> int:
        """Return how many grants the next commit may carry: many, or none until enough earlier ones are written.

        A commit for each grant that finishes would double the writes.
        """
        if self.name in self.pauses:
            return 0
        room = MAX_IN_FLIGHT - len(self.state.entries)
        return min(room, BATCH) if room >= _LEAST_BATCH else 0

    def _note_wakes(self, decided: Plan) -> None:
        self.state.attention &= self.state.busy | self.state.entries.keys()
        for uid, at in decided.wakes:
            self.state.deadlines.put(uid, at)

    def _start_change(self, change: Change) -> None:
        self.state.busy.add(change.lease.uid)
        self._words += change.word
        self._spawn(self._write_change(change))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fatal = task.exception()
        self.mark()

    # --- step 4: commit ---

    async def _commit(self, grants: tuple[Grant, ...]) -> None:
        """Swap the pool's ledger: the grants' sequence numbers and in-flight entries go in, finished ones go out.

        When the swap fails nothing was granted, and the next pass decides anew on what is then true.
        """
        grants = self._fence(grants)
        entries = [entry_of(grant, self.sequence + i) for i, grant in enumerate(grants, start=1)]
        if not entries or not await self._swap_ledger(entries):
            return
        for entry in entries:
            self.state.assume(entry)
        for entry in entries:
            self._spawn(self._write_grant(entry, adopted=False))

    def _fence(self, grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
        """Put off promises that rest on an end that may still move.

        The end of a grant is known when it is written. And a renewal that is still on its way, from an earlier leader
        or because its answer was lost, carries the version of the lease from before: so each such lease is written to
        once, and what is late is refused from then on.
        """
        commitments = [entry.nodes for entry in self.state.entries.values() if entry.start is None]
        unwritten = {node for nodes in commitments for node in nodes}
        unwritten |= {node for grant in grants if grant.start is None for node in grant.nodes}
        kept = []
        for grant in grants:
            old = [] if grant.start is None else self._may_be_renewed(grant.nodes)
            for lease in old:
                if lease.uid not in self.state.busy and lease.uid not in self.state.aside:
                    self._start_change(Change(lease, Step({"allocation": {"ledgerEpoch": self.epoch}})))
            if grant.start is None or not (old or unwritten.intersection(grant.nodes)):
                kept.append(grant)
        return tuple(kept)

    def _may_be_renewed(self, nodes: tuple[str, ...]) -> list[Lease]:
        """Return the leases on some nodes for which a renewal may be on its way that nobody here knows of."""
        holders = {uid for node in nodes for uid in self.state.ledger.holders(node)}
        leases = [self.state.leases[uid] for uid in sorted(holders) if uid in self.state.leases]
        return [
            lease
            for lease in leases
            if lease.version <= max(self._taken_over_at, self._unanswered.get(lease.uid, 0))
        ]

    async def _swap_ledger(self, entries: list[Entry], **status: Any) -> bool:
        """Write the pool's status in one compare-and-swap; tell whether it is known to have happened."""
        settled = frozenset(self._settled)
        kept = [entry for uid, entry in self.state.entries.items() if uid not in settled]
        sequence = self.sequence + len(entries)
        ledger = ledger_document(self.epoch, sequence, [*kept, *entries])
        told = self.outages
        if self._outages_due:
            ledger["outages"] = outages_document(told)
        self._swapping = True
        try:
            answer = await self._patch_pool({**status, "ledger": ledger})
            self.pool_seen(answer)
        except NotFound:
            return False
        except ApiError as error:
            if not await self._swapped_after_all(error, entries):
                self.mark()
                return False
        finally:
            self._swapping = False
        self.sequence = max(self.sequence, sequence)
        self._outages_due = self._outages_due and told != self.outages
        self.pauses.worked(self.name)
        self._settled -= settled
        return True

    async def _swapped_after_all(self, error: ApiError, entries: list[Entry]) -> bool:
        """Find out whether a swap whose answer was an error happened; leave the pool alone for a while if not."""
        log.info("pool %s: %s", self.name, error, extra={"pool": self.name})
        self._count_failure(error)
        if isinstance(error, (Conflict, Unknown)):
            await self._reread()
        if isinstance(error, Unknown) and entries:
            return await self._out_of_doubt(entries)
        if not isinstance(error, Conflict):
            first = self.pauses.failed(self.name, self.tools.clock.now())
            if first and isinstance(error, Refused):
                self._tell_refused(self._subject(), error)
        return False

    async def _out_of_doubt(self, entries: list[Entry]) -> bool:
        """Wait until a commit whose answer was lost is known to have happened, or can never happen any more.

        It may be on its way still. So the pool is changed, by leaving out a number: the late commit finds another
        version then. Until that is done nothing is decided here.
        """
        pause = 0.1
        while True:
            rows = (self._status().get("ledger") or {}).get("inFlight") or ()
            written = {(row["uid"], row["sequence"]) for row in rows}
            if all((entry.uid, entry.sequence) in written for entry in entries):
                return True
            try:
                self.pool_seen(await self._patch_pool({"ledger": {"sequence": self.sequence + 1}}))
            except NotFound:
                return False
            except ApiError as error:
                self._count_failure(error)
                log.info("pool %s: %s", self.name, error, extra={"pool": self.name})
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
                await self._reread()
            else:
                return False

    def _count_failure(self, error: LeaseholdError) -> None:
        refused = isinstance(error, (Refused, InvalidObject))
        counter = self.tools.metrics.refusals if refused else self.tools.metrics.conflicts
        counter.labels(pool=self.name).inc()

    def _tell_refused(self, subject: Subject, error: LeaseholdError) -> None:
        log.error(
            "%s %s: a write was refused: %s", subject.kind, subject.name, error, extra={"pool": self.name}
        )
        self.tools.recorder.note(subject, Notice("WriteRefused", str(error)[:1000], warning=True))

    async def _reread(self) -> None:
        """Look the pool up after a conflict or a lost answer. A higher epoch than ours means stop."""
        await self._until_done(self._reread_once, "reading the pool again")

    async def _reread_once(self) -> None:
        try:
            self.pool_seen(await self.tools.client.get(paths.pool(self.name)))
        except NotFound as gone:
            raise Deposed(f"pool {self.name} is gone") from gone
        if self._fatal is not None:
            raise self._fatal

    def _check(self) -> None:
        """Raise Deposed unless this replica leads the pool at this moment. The last thing before each write."""
        if self._fatal is not None:
            raise self._fatal
        if not self.right.valid():
            self._fatal = Deposed(f"the right to lead pool {self.name} ran out; nothing more is written")
            self.mark()
            raise self._fatal

    async def _patch_pool(self, status: Mapping[str, Any]) -> dict[str, Any]:
        self._check()
        body = {"metadata": {"resourceVersion": str(self._version())}, "status": status}
        with self.tools.metrics.request("commit"):
            return await self.tools.client.patch(paths.status(paths.pool(self.name)), body)

    # --- step 5: write the leases ---

    async def _write_grant(self, entry: Entry, *, adopted: bool) -> None:
        """Make a committed grant the lease's own, or undo the commitment; only then is the entry finished.

        A grant that the API server refuses is undone, and its lease put aside.
        """
        pause = 0.05
        refused = False
        looked_at = entry.version
        while (lease := self.state.leases.get(entry.uid)) and not _is_written(lease, entry):
            try:
                if lease.version != looked_at:
                    # Whoever changed it may have undone this commitment: then the pool has a higher epoch.
                    await self._reread()
                    looked_at = lease.version
                async with self.tools.writers.turn():
                    await self._write_grant_once(lease, entry, adopted=adopted, refused=refused)
                break
            except NotFound:
                self.tools.cluster.lease_gone(entry.uid)
                break
            except LeaseholdError as error:
                self._count_failure(error)
                log.info("lease %s: grant: %s", lease.key, error, extra=_about(lease))
                if isinstance(error, Refused) and not refused:
                    refused = True
                    self._tell_refused(_subject(lease), error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)
            await self._refresh_if_possible(lease)
        if refused:
            self._put_aside(entry.uid)
        else:
            self.pauses.worked(entry.uid)
        self._settled.add(entry.uid)
        self.state.settle(entry.uid)
        self._publish_due = True
        self.mark()

    async def _write_grant_once(self, lease: Lease, entry: Entry, *, adopted: bool, refused: bool) -> None:
        now = self.tools.clock.now()
        cluster = self.tools.cluster
        if refused or not self._still_wanted(lease, entry):
            await self._patch_lease(lease, cancel_step(lease, now, promise=entry.start is not None))
            return
        if not lease.has_finalizer:
            lease = await self._add_finalizer(lease)
        tenant = self.state.tenant_of(lease)
        if entry.start is not None:
            await self._patch_lease(lease, promise_step(lease, entry, now, tenant))
            return
        needed = self._needed(entry.uid, now)
        if needed is not None and 2 * (needed - now) < self.policy.span_of(lease.duration):
            # So late that less than half of what was asked for is left before others were promised the room.
            await self._patch_lease(lease, cancel_step(lease, now))
            return
        world = World(sessions=cluster.sessions)
        step = grant_step(
            lease, entry, self.policy, world, now, adopted=adopted, tenant=tenant, needed=needed
        )
        written = await self._patch_lease(lease, step)
        self.tools.metrics.granted(self.name, waited=now - max(written.created, written.start_time or 0))

    def _needed(self, uid: str, now: int) -> int | None:
        """Return when a commitment's room is promised to others (ms), or None. A late grant must not reach beyond."""
        if not self.state.calendar.promises:
            return None
        outlook = Outlook(self.state.table.scratch(), self.state.calendar, now)
        return RenewalLimits(outlook).latest(uid)

    def _still_wanted(self, lease: Lease, entry: Entry) -> bool:
        """A commitment holds for the request it was made for; anything else is decided anew."""
        same = dict(lease.request) == dict(entry.amounts) and lease.count == len(entry.nodes)
        same = same and entry.generation in (0, lease.generation)
        return same and not lease.deleting and not lease.wants_release

    async def _add_finalizer(self, lease: Lease) -> Lease:
        self._check()
        meta = {"resourceVersion": str(lease.version), "finalizers": [*lease.finalizers, RELEASE_FINALIZER]}
        answer = await self.tools.client.patch(paths.lease(lease.namespace, lease.name), {"metadata": meta})
        return self._observe(answer)

    async def _write_change(self, change: Change) -> None:
        lease, step = change.lease, change.step
        try:
            if await self._confirm(lease, step):
                async with self.tools.writers.turn(patient=change.word):
                    await self._write_step(lease, step)
        except NotFound:
            self.tools.cluster.lease_gone(lease.uid)
        except LeaseholdError as error:
            self._count_failure(error)
            log.info("lease %s: %s", lease.key, error, extra=_about(lease))
            if isinstance(error, Unknown):
                self._unanswered[lease.uid] = lease.version
            doubtful = isinstance(error, (Conflict, Unknown))
            looked_up = doubtful and await self._refresh_if_possible(lease)
            if (
                not (looked_up and isinstance(error, Conflict))
                and self._put_aside(lease.uid)
                and isinstance(error, Refused)
            ):
                self._tell_refused(_subject(lease), error)
        else:
            self.pauses.worked(lease.uid)
        self._words -= change.word
        self.state.busy.discard(lease.uid)
        if lease.uid in self.state.leases:
            self.state.rebook(lease.uid)
            self.state.attention.add(lease.uid)
        self._publish_due = True

    def _put_aside(self, uid: str) -> bool:
        """Leave a lease alone for a while after a write failed; tell whether it is the first time in a row.

        What its write would have freed stays counted. The next try carries the version known by then, so a write
        that did happen after all shows as a conflict.
        """
        self.state.aside.add(uid)
        return self.pauses.failed(uid, self.tools.clock.now())

    async def _write_step(self, lease: Lease, step: Step) -> None:
        self._check()
        client, path = self.tools.client, paths.lease(lease.namespace, lease.name)
        if step.patch:
            before = lease
            lease = await self._patch_lease(lease, step)
            if before.allocated and not lease.allocated:
                self.tools.metrics.released(self.name, before, lease, self.tools.clock.now())
        self._check()
        if step.action == "drop-finalizer":
            kept = [name for name in lease.finalizers if name != RELEASE_FINALIZER]
            meta = {"resourceVersion": str(lease.version), "finalizers": kept}
            answer = await client.patch(path, {"metadata": meta})
            if kept:
                self._observe(answer)
            else:
                self.tools.cluster.lease_gone(lease.uid)
        elif step.action == "delete":
            await client.delete(path, lease.uid)

    async def _patch_lease(self, lease: Lease, step: Step) -> Lease:
        self._check()
        with self.tools.metrics.request("lease"):
            written = await write_status(self.tools.client, lease, step.patch)
        for notice in step.notices:
            self.tools.recorder.note(_subject(lease), notice)
            self.tools.metrics.noticed(self.name, notice)
        self.tools.cluster.lease_seen(written)
        return written

    def _observe(self, document: Json) -> Lease:
        lease = lease_of(document)
        self.tools.cluster.lease_seen(lease)
        return lease

    async def _refresh(self, lease: Lease) -> None:
        """Read a lease after a conflict or a lost answer; a 504 means unknown, not no."""
        try:
            answer = await self.tools.client.get(paths.lease(lease.namespace, lease.name))
        except NotFound:
            self.tools.cluster.lease_gone(lease.uid)
            return
        if answer["metadata"]["uid"] != lease.uid:
            self.tools.cluster.lease_gone(lease.uid)
        self._observe(answer)

    async def _refresh_if_possible(self, lease: Lease) -> bool:
        try:
            await self._refresh(lease)
        except LeaseholdError as error:
            log.info("lease %s: %s", lease.key, error, extra=_about(lease))
            return False
        return True

    # --- the pool's own status ---

    def _publish_at(self, now: int) -> int | None:
        if self.name in self.pauses:
            return None
        if self._publish_due or self._settled:
            return max(now + 1, self._published_at + self._spacing, self._held_off_until)
        return self._drift_at

    async def _publish(self) -> None:
        """Write the pool's status when it moved: soon when people would notice, seldom when only figures drift."""
        now = self.tools.clock.now()
        if now < max(self._published_at + self._spacing, self._held_off_until) or self.name in self.pauses:
            self._publish_due = True
            return
        before = self._status()
        facts = Facts(
            self.pool["metadata"].get("generation", 1), self.deleting, self.mismatches, self.invalid
        )
        draft = status_of(self.state, facts, before, now)
        patch = merge_patch(before, {**before, **draft})
        self.tools.metrics.pool(self.name, self.state, draft)
        self._spacing = max(_URGENT, 20 * (self.tools.clock.now() - now))
        drifting = patch.keys() <= {"capacity"} and _same_holdings(before, draft)
        self._publish_due = False
        self._drift_at = None
        bound = bool(self._settled) or self._outages_due
        if not bound and not patch:
            return
        if not bound and drifting and now < self._published_at + _LAZY:
            self._drift_at = self._published_at + _LAZY
            return
        self._published_at = now
        for notice in _pool_notices(before, draft):
            self.tools.recorder.note(self._subject(), notice)
        await self._swap_ledger([], **patch)

    def _subject(self) -> Subject:
        return Subject(API_VERSION, POOL_KIND, "", self.name, self.uid)

    async def _leave_if_drained(self) -> bool:
        """Let a deleted pool go once nothing is held in it any more."""
        if not self.deleting or len(self.state.ledger) or self._tasks:
            return False
        kept = [name for name in self.pool["metadata"].get("finalizers", ()) if name != POOL_FINALIZER]
        meta = {"resourceVersion": str(self._version()), "finalizers": kept}
        self._check()
        try:
            await self.tools.client.patch(paths.pool(self.name), {"metadata": meta})
        except NotFound:
            return True
        except ApiError as error:
            log.info("pool %s: %s", self.name, error, extra={"pool": self.name})
            await self._reread()
            self.mark()
            return False
        return not kept

    # --- the safety sweep ---

    async def sweep(self, *, relist: bool) -> None:
        """Audit the books; with `relist`, first compare what the watch said with what there is."""
        if not self.ready:
            return
        if relist:
            before = {uid: lease.version for uid, lease in self.state.leases.items()}
            listed, version = await self._list_leases()
            missed = sum(1 for lease in listed if lease.version > before.get(lease.uid, 0))
            self.tools.metrics.missed.labels(pool=self.name).inc(missed)
            for uid in before.keys() - {lease.uid for lease in listed}:
                if before[uid] <= version:
                    self.tools.cluster.lease_gone(uid)
                    self.state.forget(uid)
        found = self.state.audit()
        if found:
            log.error("pool %s: the books do not balance: %s", self.name, "; ".join(found)[:2000])
            self.tools.metrics.mismatches.labels(pool=self.name).inc()
            self._rebuild()  # the leases are the truth; grants resume once an audit finds nothing
        if found != self.mismatches:
            self.mismatches = found
            self._publish_due = True
        self._dirty_nodes |= self.state.table.rows.keys()
        self.mark()


def _entry(row: Json) -> Entry:
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
    )


def _is_written(lease: Lease, entry: Entry) -> bool:
    """Tell whether a commitment became the lease's own, or can no longer."""
    if lease.allocated or lease.finished:
        return True
    kept = lease.reservation
    return entry.start is not None and kept is not None and kept.sequence >= entry.sequence


def _subject(lease: Lease) -> Subject:
    return Subject(API_VERSION, LEASE_KIND, lease.namespace, lease.name, lease.uid)


def _about(lease: Lease) -> dict[str, Any]:
    return {"object": lease.key, "generation": lease.generation, "pool": lease.pool}


def _same_holdings(before: Json, after: Json) -> bool:
    def held(status: Json) -> dict[str, str]:
        return {row["name"]: row["allocated"] for row in status.get("capacity", ())}

    return held(before) == held(after)


def _pool_notices(before: Json, after: Json) -> list[Notice]:
    told = {c["type"]: c for c in before.get("conditions", ())}
    found = []
    for condition in after["conditions"]:
        was = told.get(condition["type"])
        if was is not None and was["status"] != condition["status"]:
            bad = (condition["status"] == "True") != (condition["type"] in _GOOD)
            text = condition["message"] or f"{condition['type']} is {condition['status']}"
            found.append(Notice(condition["reason"], text, warning=bad))
    return found


_GOOD = frozenset({"Ready", "CapacityKnown", "LedgerConsistent"})
