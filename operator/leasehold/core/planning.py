"""One pass over a pool: what to grant, what to end, what to say, and when to look again.

`plan` changes nothing but notes that save work: it reads the state, works on a scratch copy of the free columns,
and returns values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import StopPolicy
from leasehold.core.admission import queue_full
from leasehold.core.backlog import AGE
from leasehold.core.booking import Entry
from leasehold.core.calendar import Outlook, Promise
from leasehold.core.children import serve_children
from leasehold.core.course import Notice, Step, World
from leasehold.core.errors import InvalidObject
from leasehold.core.heartbeat import expect_holder
from leasehold.core.lease import Lease
from leasehold.core.lifecycle import advance, say_next
from leasehold.core.policy import PoolPolicy
from leasehold.core.preemption import Preemption
from leasehold.core.queue import Group
from leasehold.core.queueing import (
    EXPLAINED_REASONS,
    Place,
    Wait,
    explain,
    keep_waiting,
    refuse,
    wait_beyond_start,
    wait_for,
    wait_for_start,
    wait_for_victims,
)
from leasehold.core.quote import Offer, answer_step
from leasehold.core.request import NEVER, Shape, Start
from leasehold.core.scheduling import Pass, Why, schedule
from leasehold.core.state import PoolState
from leasehold.core.status import Draft, Patch, holder_document, slices_document
from leasehold.core.times import SECOND, earliest, format_time, parse_time

BATCH = 64
"""Grants in one commit. Their in-flight entries must fit the pool's `status.ledger.inFlight`, twice."""

SLICES = 512
"""Slices in one commit, so that the pool object stays small."""

TOLD = 64
"""Waiting leases that may be about to get a new status at once; the rest hear when these have.

A lease with such a word on its way cannot be granted. That grants pass words in line (`adapters.writers`) is not enough
therefore: with a word to everybody in line nobody would be left to grant.
"""

EXPLAINED = 64
"""Shapes whose wait is explained node by node in one pass, because somebody of them was not told yet."""

_LOOKED_AT_AGAIN = 16


class Grant(NamedTuple):
    """A place for a waiting lease; its sequence comes with the commit.

    `until` is when its room is free again (ms), unless it is renewed, which it cannot be beyond `not_after`. One with
    a `start` is a promise: its room is kept from then on. One with a `parent` (a uid) is a sub-lease's, and one that
    `hands_over` a lease that is held gives it a new token, and nothing else; it names no nodes.
    """

    lease: Lease
    nodes: tuple[str, ...]
    until: int = NEVER
    not_after: int | None = None
    start: int | None = None
    parent: str = ""
    hands_over: bool = False

    @property
    def takes_room(self) -> bool:
        """Room of the pool is taken, now and not by a promise."""
        return self.start is None and not self.parent and not self.hands_over


class Change(NamedTuple):
    """Something to do about one lease that takes no capacity. A `word` only tells a waiting lease how it stands."""

    lease: Lease
    step: Step
    word: bool = False


class Plan(NamedTuple):
    """What one pass decided. `wakes` are (uid, when) for leases that need nothing now; `more` asks for another pass
    at once, because this one reached its bounds. `preemptions` name whom to ask to go. At `again` (ms) the queue is
    to be looked at even if nothing changes.
    """

    grants: tuple[Grant, ...]
    changes: tuple[Change, ...]
    wakes: tuple[tuple[str, int | None], ...]
    more: bool
    unreadable: tuple[tuple[str, str], ...] = ()
    preemptions: tuple[Preemption, ...] = ()
    again: int | None = None


def plan(
    state: PoolState,
    world: World,
    now: int,
    due: Iterable[str] = (),
    hold: Wait | None = None,
    batch: int = BATCH,
    quotes: Mapping[str, tuple[Offer, Offer | None]] | None = None,
    words: int = TOLD,
) -> Plan:
    """Decide about the leases that changed or are due, then about the queue.

    At most `batch` leases are granted; 0 leaves the queue alone. At most `words` waiting leases are told how they
    stand. Of both the queue has half, whatever sub-leases and handovers there are. `hold` is why the pool grants
    nothing now (None when it does). `quotes` are what was found out for dry runs: by this pool, and the best of the
    others. Leases with a write under way, or put aside, are left alone, and those whose end is long overdue end in
    turn. A lease whose status cannot be read keeps what it holds and is named in `unreadable`; it does not stop the
    others.
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
        if step.due is not None and now - step.due >= AGE:
            later = state.backlog.turn(uid, now)
            if later is not None:
                wakes.append((uid, later))
                continue
        if step.patch or step.action:
            changes.append(Change(lease, step))
            expect_end(state, lease, step)
        wakes.append((uid, step.wake_at))
    leaving = {change.lease.uid for change in changes}
    changes += _answers(state, now, hold, quotes or {}, leaving)
    grants: list[Grant] = []
    state.families.awake(now)
    if batch and (state.handovers or state.families.due):
        grants = _handovers(state, leaving, max(1, batch // 4))
        share = max(1, batch // 2 - len(grants))
        served = serve_children(state, world, now, share, (words + 1) // 2, leaving, hold)
        grants += [Grant(lease, nodes, parent=parent) for lease, nodes, parent in served.grants]
        changes += [
            Change(lease, Step(patch, notices=notices), word=True) for lease, patch, notices in served.words
        ]
        batch, words = max(0, batch - len(grants)), words - len(served.words)
    decided = Plan(tuple(grants), tuple(changes), tuple(wakes), more=False, unreadable=tuple(unreadable))
    if batch and (state.queue or state.refused):
        decided = _QueuePass(state, now, hold, batch, leaving, words).run(decided)
    return decided._replace(again=earliest(decided.again, state.families.next()))


def _handovers(state: PoolState, leaving: set[str], most: int) -> list[Grant]:
    """Return the leases that go to another holder. Whatever else is to be written to one of them goes first."""
    found: list[Grant] = []
    for uid in state.handovers:
        if len(found) == most:
            break
        if uid in state.busy or uid in state.aside or uid in state.entries or uid in leaving:
            continue
        lease = state.leases[uid]
        if not lease.deleting and not lease.wants_release:
            found.append(Grant(lease, (), hands_over=True))
    return found


def expect_end(state: PoolState, lease: Lease, step: Step) -> None:
    """Let the queue be looked at with the end that a step tells: no start may be promised for the time until then."""
    told = (step.patch.get("deadlines") or {}).get("expirationTime")
    if told:
        state.expect_until(lease.uid, parse_time(told))


def _answers(
    state: PoolState,
    now: int,
    hold: Wait | None,
    quotes: Mapping[str, tuple[Offer, Offer | None]],
    leaving: set[str],
) -> Iterator[Change]:
    """Answer the dry runs for which something was found out; a held pool has no answer yet."""
    for uid, request in sorted(state.inquiries.items()):
        if uid in state.busy or uid in state.aside or uid in leaving:
            continue
        lease = state.leases[uid]
        if hold is not None:
            patch = keep_waiting(lease, hold, now)
            if patch:
                yield Change(lease, Step(patch))
        elif uid in quotes:
            yield Change(lease, answer_step(state, lease, request, *quotes[uid], now))


class _QueuePass:
    """One way through the queue: the scheduler says who starts, the rest hear why not."""

    def __init__(
        self, state: PoolState, now: int, hold: Wait | None, batch: int, leaving: set[str], words: int
    ) -> None:
        self.state = state
        self.words = words
        self.policy = state.policy
        self.now = now
        self.hold = hold
        self.batch = batch
        self.outlook = Outlook(state.table.scratch(), state.calendar, now)
        self.leaving = leaving
        state.seat()
        self.absent = leaving | state.aside | state.entries.keys() | state.without_place.keys()
        self.told: list[Change] = []
        self.explained = 0
        self.again: set[Shape] = set()
        self.stale = False
        self.found = Pass()
        self.shares = state.shares.copy()

    def run(self, decided: Plan) -> Plan:
        """Schedule and tell."""
        state = self.state
        if self.hold is None and state.queue:
            self.found = self._schedule()
        found = self.found
        grants = [self._grant(start) for start in found.starts]
        promises = [self._promise(promise) for promise in found.promises][: self.batch - len(grants)]
        started = {start.uid for start in (*found.starts, *found.kept_back)}
        started |= {promise.uid for promise in found.promises}
        more = found.more or len(promises) < len(found.promises)
        more = self._tell(started) or more
        return decided._replace(
            grants=(*decided.grants, *grants, *promises),
            changes=(*decided.changes, *self.told),
            more=more,
            preemptions=tuple(found.preemptions),
            again=min((at for at in self._upcoming() if at > self.now), default=None),
        )

    def _upcoming(self) -> Iterator[int]:
        """Yield when time alone changes what can be decided: promised and asked starts, and the end of a protection."""
        state, policy = self.state, self.policy
        yield from (promise.start for promise in state.calendar.promises.values())
        yield from (shape.not_before for shape in state.queue.later)
        if state.queue and policy.guaranteed_time and (policy.preempts_within or policy.reclaims):
            yield from (held.since + policy.guaranteed_time for held in state.calendar.held.values())
        if self.stale:
            yield self.now + SECOND

    def _schedule(self) -> Pass:
        state = self.state
        return schedule(
            self.outlook,
            state.queue,
            self.shares,
            self.policy,
            growth=state.table.growth,
            batch=self.batch,
            slices=SLICES,
            absent=self.absent,
            busy=state.busy,
            holds=state.holds,
        )

    def _grant(self, start: Start) -> Grant:
        names = self.state.table.names
        nodes = tuple(names[i] for i in start.nodes)
        return Grant(self.state.leases[start.uid], nodes, start.until, start.not_after)

    def _promise(self, promise: Promise) -> Grant:
        lease = self.state.leases[promise.uid]
        return Grant(lease, tuple(node for node, _ in promise.slices), promise.end, start=promise.start)

    # --- who is not served now ---

    def _tell(self, started: set[str]) -> bool:
        """Draft what waiting leases hear; tell whether some were left for the next pass."""
        for group in self._groups():
            if group.shape in self.found.undecided:
                continue  # the next pass may start it
            if all(uid in started or uid in self.absent for _, uid in group.items):
                continue
            wait = self._wait_of(group)
            if wait is None:
                return True
            if group.why is None or group.why.key != wait.key:
                self.state.queue.retell_group(group)
            group.why = wait
            for uid in sorted(group.untold):
                if uid in started or uid in self.absent or uid in self.state.busy:
                    continue
                if len(self.told) >= self.words:
                    return True
                self._tell_one(uid, wait)
        return self._refuse()

    def _refuse(self) -> bool:
        """Tell those that may not wait why; whoever is known to read it is not looked at again."""
        state = self.state
        full = queue_full(self.policy)
        for uid in list(state.unheard):
            if uid in state.busy or uid in state.aside or uid in state.entries or uid in self.leaving:
                continue
            lease = state.leases[uid]
            refusal = state.refused.get(uid, full)
            patch = refuse(lease, refusal, self.now)
            if not patch:
                del state.unheard[uid]
            elif len(self.told) >= self.words:
                return True
            else:
                self._note(lease, refusal.reason, refusal.message, patch)
        return False

    def _groups(self) -> list[Group]:
        """Return whom to tell: the groups with members that were not told, and some of the others in turn.

        Room is looked at again only where the nodes changed; who holds a group back may change without them.
        """
        queue, version = self.state.queue, self.state.table.version
        others = queue.some(_LOOKED_AT_AGAIN)
        self.again = {group.shape for group in others if group.looked_at != version}
        self.stale = len(self.again) == _LOOKED_AT_AGAIN
        groups = {group.shape: group for group in (*queue.untold.values(), *others)}
        return sorted(groups.values(), key=lambda group: group.items[0])

    def _wait_of(self, group: Group) -> Wait | None:
        """Return what a group waits for; None when that would be one explanation too many for this pass."""
        if self.hold is not None:
            return self.hold
        why = self.found.whys.get(group.shape) or self._unasked(group)
        if why != Why.ROOM:
            return wait_for(why, group.shape.tenant)
        known: Wait | None = group.why
        if known is not None and group.shape not in self.again and known.reason in EXPLAINED_REASONS:
            return known
        if self.explained >= EXPLAINED:
            return None
        self.explained += 1
        group.looked_at = self.state.table.version
        uid = group.items[0][1]
        promise = self.outlook.kept.get(uid)
        if promise is not None:
            self.outlook.give_way(uid)  # what is kept for itself is in nobody's way
        allowed = self.state.table.selected(group.shape.node_selector)
        wait = explain(
            self.outlook.scratch, self.state.leases[uid], group.shape.need, self.policy.names, allowed
        )
        if promise is not None:
            self.outlook.keep(promise)
        return wait

    def _unasked(self, group: Group) -> Why:
        """Return why a group waits that the scheduler had no need to look at: no room, or blocked by who is first."""
        if self.shares.over_limit(group.shape.tenant, group.total):
            return Why.QUOTA
        head = self.found.head
        if group.shape in self.found.blocked:
            return Why.BLOCKED
        if self.found.otherwise == Why.BLOCKED and head is not None:
            first = self.state.queue.requests[head[0]].turn
            return Why.ROOM if group.items[0][0] < first else Why.BLOCKED
        return Why.ROOM

    def _tell_one(self, uid: str, wait: Wait) -> None:
        lease = self.state.leases[uid]
        hold = self.state.holds.get(uid)
        promise = self.state.calendar.promises.get(uid)
        start = self.state.answers.starts.get(uid)
        late = promise is not None and promise.start <= self.now
        if hold is not None and promise is not None and self.hold is None:
            wait, start = wait_for_victims(len(hold.victims), promise.start), promise.start
        elif promise is not None and late and self.hold is None:
            wait = wait_beyond_start(promise.start, wait)
        elif promise is not None and self.hold is None:
            wait, start = wait_for_start(promise.start), promise.start
        elif self.found.head is not None and self.found.head[0] == uid and self.found.head[1] is not None:
            start = self.found.head[1].start
        place = None
        if late or (lease.reservation is None and (uid in self.state.answers.looked_at or start is not None)):
            place = Place(self.state.place_of(uid), start)
        patch = keep_waiting(lease, wait, self.now, place, promised=promise is not None)
        if patch:
            self._note(lease, wait.reason, wait.message, patch)
        else:
            self.state.queue.told(uid)

    def _note(self, lease: Lease, reason: str, message: str, patch: Patch) -> None:
        notices = () if lease.status else (Notice(reason, message, warning=True),)
        self.told.append(Change(lease, Step(patch, notices=notices), word=True))


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
    """Return what the pool's commit says about a grant, a promise or a handover."""
    lease = grant.lease
    return Entry(
        lease.uid,
        lease.namespace,
        lease.name,
        sequence,
        dict(lease.slices[0].amounts if grant.hands_over else lease.request),
        grant.nodes,
        lease.generation,
        until=grant.until,
        not_after=grant.not_after,
        start=grant.start,
        end=None if grant.start is None else grant.until,
        version=lease.version,
        parent=grant.parent,
        holder=lease.holder if grant.hands_over else None,
    )


def grant_step(
    lease: Lease,
    entry: Entry,
    policy: PoolPolicy,
    world: World,
    now: int,
    *,
    adopted: bool = False,
    tenant: str = "",
    needed: int | None = None,
    parent: Lease | None = None,
) -> Step:
    """Return the one status write that makes a committed grant the lease's own.

    Deadlines are absolute and written here once; the token is the commit's sequence, so it only grows. A lease that
    jumped the queue gets the instant at which another needs its room as its last end, whatever it renews. One that is
    written later than planned ends in time for those who were promised its room: at `needed` (ms) it must be free.
    A sub-lease has no end beyond that of its `parent`.
    """
    draft = Draft(lease, now)
    for old in ("rejections", "release", "queue", "reservation"):
        draft.status.pop(old, None)
    if lease.reason(C.ACCEPTED) != R.POOL_CHOSEN:
        draft.unsay(C.ACCEPTED)
    if tenant:
        draft.status["tenant"] = tenant
    draft.status["fencingToken"] = entry.sequence
    draft.status["holder"] = holder_document(lease.holder)
    draft.put("allocation", ledgerSequence=entry.sequence, slices=slices_document(entry.amounts, entry.nodes))
    draft.set_time("allocation", allocationTime=now)
    end = now + policy.term_of(lease.duration)
    if needed is not None:
        end = min(end, needed - policy.grace - policy.cooldown)
    maximum = None if policy.max_total is None else now + policy.max_total
    if entry.not_after is not None:
        promised = max(end, entry.not_after - policy.grace - policy.cooldown)
        maximum = promised if maximum is None else min(maximum, promised)
    whence = ""
    if parent is not None:
        draft.put("allocation", parentUID=parent.uid)
        whence = f" out of lease {parent.name}"
        end, maximum = _within_parent(parent, end, maximum)
    draft.set_time(
        "deadlines",
        startTime=None,
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
        notices=(
            Notice(R.GRANTED, f"Granted{whence} on {_few(entry.nodes)} with fencing token {entry.sequence}."),
        ),
    )


def _within_parent(parent: Lease, end: int, maximum: int | None) -> tuple[int, int | None]:
    """Cut a sub-lease's first end, and the latest it may ever have, to those of its parent (ms)."""
    ends = parent.deadline("expirationTime"), parent.deadline("maxExpirationTime")
    most = [at for at in (maximum, ends[1]) if at is not None]
    return end if ends[0] is None else min(end, ends[0]), min(most, default=None)


def handover_step(lease: Lease, entry: Entry, policy: PoolPolicy, world: World, now: int) -> Step:
    """Return the one status write that makes a lease its new holder's: a larger token, and whom it is for.

    It extends nothing. The new holder has to show up as after a grant; what the one before wrote or renewed until now
    is no sign of it.
    """
    draft = Draft(lease, now)
    draft.status["fencingToken"] = entry.sequence
    draft.status["holder"] = holder_document(lease.holder)
    if "holder" in lease.status:
        draft.unsay(C.CLAIMED)
        draft.unsay(C.HOLDER_LIVE)
        draft.set_time("deadlines", claimTime=None, heartbeatTime=None)
        if lease.renew_time:
            draft.put("renewal", observedRenewTime=lease.renew_time)
            draft.status["renewal"].setdefault("count", 0)
        expect_holder(draft, lease, policy, world, now)
    say_next(draft)
    text = f"Handed over to {lease.identity or 'nobody by name'} with fencing token {entry.sequence}."
    return Step(draft.patch(), notices=(Notice("HandedOver", text),))


def promise_step(lease: Lease, entry: Entry, now: int, tenant: str = "") -> Step:
    """Return the one status write that tells a lease the start it was promised; nothing counts as held before."""
    start, end = entry.start or now, entry.end or now
    draft = Draft(lease, now)
    for old in ("rejections", "queue"):
        draft.status.pop(old, None)
    if tenant:
        draft.status["tenant"] = tenant
    draft.put(
        "reservation", ledgerSequence=entry.sequence, slices=slices_document(entry.amounts, entry.nodes)
    )
    draft.set_time("reservation", startTime=start, endTime=end)
    draft.set_time("deadlines", startTime=start)
    draft.set_time("queue", estimatedStartTime=start)
    text = f"Promised from {format_time(start)} on {_few(entry.nodes)}."
    draft.say(C.ALLOCATED, False, R.START_TIME_NOT_REACHED, text)
    draft.say(C.READY, False, R.START_TIME_NOT_REACHED)
    say_next(draft)
    return Step(draft.patch(), notices=(Notice("Scheduled", text),))


def cancel_step(lease: Lease, now: int, *, promise: bool = False) -> Step:
    """Return a write that undoes a commitment whose lease changed meanwhile: a grant, or the promise of a start.

    It must change the object, so that a late write of the same grant by an older operator is refused: the condition
    is dated anew.
    """
    draft = Draft(lease, now)
    draft.unsay(C.ALLOCATED)
    if promise:
        draft.status.pop("reservation", None)
        draft.set_time("deadlines", startTime=None)
    draft.say(
        C.ALLOCATED, False, R.PENDING_EVALUATION, "A commitment from before was undone; it is decided anew."
    )
    draft.say(C.READY, False, R.PENDING_EVALUATION)
    return Step(draft.patch())


def _few(nodes: tuple[str, ...]) -> str:
    distinct = sorted(set(nodes))
    return ", ".join(distinct[:3]) + (f" and {len(distinct) - 3} more" if len(distinct) > 3 else "")
