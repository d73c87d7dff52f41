"""The commit protocol as two operators play it, step by step, and a search through every interleaving.

Each step is named after the method in `adapters.pool` that does it, so that the two can be compared: `METHODS` says
what each does here. An operator may crash between any two steps; it loses its memory, never what is on
its way. A watch tells news late or never. Capacity is one lease's worth.

`Variant` names the rules of the protocol one by one. The tests take each away and see what breaks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Set
from typing import Final, NamedTuple

from tests.core.protocol.world import (
    ANY,
    CAPACITY,
    GONE,
    HELD,
    INVARIANTS,
    NOBODY,
    OVER,
    POOL,
    WAITING,
    Entry,
    Lease,
    Operator,
    Pool,
    Request,
    World,
    arrive,
    judge,
    orphan,
    send,
    wish,
)

METHODS: Final = {
    "_take_over": "raise the epoch",
    "list_leases": "list by a quorum read",
    "_adopt": "take up what an earlier operator committed",
    "_commit": "decide who starts or is promised a start, and send the swap",
    "fence": "write to a lease on whose end a promise will rely, so that older writes of it come to nothing",
    "publish": "send a swap that only drops finished entries",
    "swap_ledger": "the swap arrives",
    "_swapped_after_all": "the answer to a swap is lost",
    "_write_grant": "write to the lease what was committed, or undo it",
    "add_finalizer": "give a lease its finalizer before it is granted",
    "_write_change": "renew, end or remove a lease",
    "refresh": "the answer to a lease's write is lost",
    "_leave_if_drained": "let a deleted pool go",
    "lease_seen": "the watch tells of a lease",
    "pool_seen": "the watch tells of the pool",
}
"""The steps: methods of the parts of a pool's worker, and what they do here."""

TERM: Final = 2
"""How long a term lasts, counted from the decision to grant or to renew."""
_NEVER: Final = 99
_LISTING, _RAISING, _ADOPTING, _LEADING, _STANDBY = "listing", "raising", "adopting", "leading", "standby"


class Variant(NamedTuple):
    """The rules. With `checks_leadership` nobody sends anything once another was elected: that trusts clocks.

    The rules after it make that unnecessary: a pool that is read again after the list, and before a lease is written
    whose version is not the one at the commit; and an epoch in the leases that a promise relies on.
    """

    raises_epoch: bool = True
    raises_epoch_before_list: bool = True
    lists_before_deciding: bool = True
    keeps_in_flight: bool = True
    writes_inherited_first: bool = True
    versions_lease_writes: bool = True
    versions_ends: bool = True
    versions_pool_writes: bool = True
    counts_committed: bool = True
    counts_until_release_is_known: bool = True
    looks_up_unknown_grants: bool = True
    checks_request: bool = True
    stores_sequence: bool = True
    hears_pending_renewal: bool = True
    needs_finalizer: bool = True
    forgets_settled_when_deposed: bool = True
    waits_until_drained: bool = True
    fences_promises: bool = True
    fences_unknown_renewals: bool = True
    checks_inherited_promises: bool = True
    keeps_planned_end: bool = True
    expects_renewals: bool = True
    fences_parents: bool = True
    ends_children_first: bool = True
    commits_handovers: bool = True
    checks_holder: bool = True
    checks_leadership: bool = True
    rechecks_epoch: bool = True
    heeds_fence: bool = True


class Step(NamedTuple):
    """One step: who does it, the method or "" for what is not the operators' doing, and the world after it."""

    who: str
    method: str
    text: str
    after: World


def steps(v: Variant, w: World) -> Iterator[Step]:
    """Every step that may be taken next, by anybody."""
    for me in range(len(w.operators)):
        yield from _Operator(v, w, me).steps()
    for request in w.network:
        yield from _delivery(v, w, request)
    for text in sorted(set(w.wishes)):
        after = wish(w, text)
        if after is not None:
            yield Step("user", "", text, after)
    if w.ticks:
        yield Step("time", "", "passes", w._replace(now=w.now + 1, ticks=w.ticks - 1))


def _delivery(v: Variant, w: World, request: Request) -> Iterator[Step]:
    who = _who(request.sender)
    text = request.kind if request.target == POOL else f"{request.kind} {request.target}"
    after, taken = arrive(w, request)
    if request.sender != NOBODY:
        after = _answered(v, after, request, taken=taken)
    yield Step(who, request.method, f"{text} arrives", after)
    if w.lost_answers and request.sender != NOBODY:
        method = "_swapped_after_all" if request.target == POOL else "refresh"
        late = w._replace(
            network=tuple(r for r in w.network if r != request), lost_answers=w.lost_answers - 1
        )
        late = send(late, request._replace(sender=NOBODY))
        yield Step(who, method, f"{text} has no answer", _unanswered(v, late, request))


def _who(me: int) -> str:
    return "late" if me == NOBODY else "AB"[me]


# --- what comes to pass with an operator's memory ---


def _put(w: World, me: int, o: Operator) -> World:
    return w._replace(operators=(o, w.operators[1]) if me == 0 else (w.operators[0], o))


def _depose(v: Variant, w: World, me: int) -> World:
    """Forget everything; what is on its way stays so."""
    kept = () if v.forgets_settled_when_deposed else w.operators[me].settled
    return _put(orphan(w, me), me, Operator(settled=kept))


def _learn_pool(v: Variant, w: World, me: int) -> World:
    """Take in the pool as it is. A higher epoch than ours means stop."""
    o = w.operators[me]
    if w.pool.gone or (v.raises_epoch and w.pool.epoch > o.epoch):
        return _depose(v, w, me)
    return _put(w, me, o._replace(pool=w.pool, sequence=max(o.sequence, w.pool.sequence)))


def _learn_lease(v: Variant, w: World, me: int, i: int) -> World:
    """Take in a lease as it is; a commitment to it that was written is done with."""
    o, lease = w.operators[me], w.leases[i]
    if v.heeds_fence and lease.fence > o.epoch:
        return _depose(v, w, me)
    unsure = tuple(row for row in o.unsure if row[0] != i or row[1] == lease.version)
    w = _put(w, me, o._replace(seen=(*o.seen[:i], lease, *o.seen[i + 1 :]), unsure=unsure))
    if any(entry.lease == i and _is_written(lease, entry) for entry in o.entries):
        w = _settle(w, me, i)
    return w


def _is_written(lease: Lease, entry: Entry) -> bool:
    if entry.holder != NOBODY:
        served = lease.holder != entry.holder or lease.told == lease.holder or lease.token >= entry.sequence
        return lease.state != HELD or served
    return lease.state != WAITING or bool(entry.start and lease.promised)


def _settle(w: World, me: int, i: int) -> World:
    """Be done with the commitment to a lease; the next swap drops it from the pool."""
    o = w.operators[me]
    left = tuple(entry for entry in o.entries if entry.lease != i)
    return _put(w, me, o._replace(entries=left, settled=tuple(sorted({*o.settled, i}))))


def _answered(v: Variant, w: World, request: Request, *, taken: bool) -> World:
    """Hear that a write was taken, or that it met a newer version, and then look at what is there."""
    me, i = request.sender, request.target
    if i != POOL:
        if taken and request.kind == "cancel":
            w = _settle(w, me, i)
        return _learn_lease(v, w, me, i)
    w = _learn_pool(v, w, me)
    o = w.operators[me]
    if taken and o.phase == _LEADING:
        settled = tuple(j for j in o.settled if j not in request.settled)
        sequence = max([o.sequence, *(entry.sequence for entry in request.entries)])
        entries = (*o.entries, *request.entries)
        w = _put(w, me, o._replace(entries=entries, settled=settled, sequence=sequence))
    return w


def _unanswered(v: Variant, w: World, request: Request) -> World:
    """Hear nothing: the write may have been taken, may be yet, or never. Look before anything is done again."""
    me, i = request.sender, request.target
    if i == POOL:
        return _learn_pool(v, w, me)
    o = w.operators[me]
    if request.kind == "renew":
        w = _put(w, me, o._replace(unsure=(*o.unsure, (i, request.version))))
    if request.kind == "grant" and not v.looks_up_unknown_grants:
        return _settle(w, me, i)
    return _learn_lease(v, w, me, i)


# --- what an operator does ---


class _Operator:
    """One operator's next steps."""

    def __init__(self, v: Variant, w: World, me: int) -> None:
        self.v, self.w, self.me = v, w, me
        self.o = w.operators[me]

    def steps(self) -> Iterator[Step]:
        o, w = self.o, self.w
        if o.phase == _STANDBY:
            # The two are alike: let A be the first.
            if w.take_overs and not w.pool.gone and (self.me == 0 or w.leader != NOBODY):
                yield self._step("_take_over", "", self._take_over())
            return
        if w.take_overs:  # else it is as if it did nothing any more, which is looked at anyway
            fresh = self.v._replace(forgets_settled_when_deposed=True)
            yield self._step("", "crashes", _depose(fresh, w, self.me))
        if o.phase == _LISTING:
            yield self._step("list_leases", "", self._list_leases())
        elif o.phase == _RAISING:
            yield self._step("_take_over", "at last", self._raise_epoch(o, _ADOPTING))
        elif o.phase == _ADOPTING:
            yield self._step("_adopt", "", self._adopt())
        else:
            yield from self._lead()

    def _step(self, method: str, text: str, after: World) -> Step:
        return Step(_who(self.me), method, text, after)

    def _take_over(self) -> World:
        v, w = self.v, self.w
        w = w._replace(take_overs=w.take_overs - 1, leader=self.me)
        o = self.o._replace(
            phase=_LISTING, epoch=w.pool.epoch, sequence=w.pool.sequence, pool=w.pool, seen=w.leases
        )
        if not v.lists_before_deciding:
            seen = tuple(Lease(version=lease.version, start=lease.start) for lease in w.leases)
            o = o._replace(phase=_ADOPTING, seen=seen, listed=tuple(lease.version for lease in seen))
        self.w = w
        if v.raises_epoch and v.raises_epoch_before_list:
            return self._raise_epoch(o, o.phase)
        return _put(w, self.me, o)

    def _raise_epoch(self, o: Operator, phase: str) -> World:
        before = self.w.pool
        pool = before._replace(version=before.version + 1, epoch=before.epoch + 1)
        raised = o._replace(phase=phase, epoch=pool.epoch, sequence=pool.sequence, pool=pool)
        return _put(self.w._replace(pool=pool), self.me, raised)

    def _list_leases(self) -> World:
        late = self.v.raises_epoch and not self.v.raises_epoch_before_list
        found = self.w.leases
        versions = tuple(lease.version for lease in found)
        phase = _RAISING if late else _ADOPTING
        return _put(self.w, self.me, self.o._replace(phase=phase, seen=found, listed=versions))

    def _adopt(self) -> World:
        """Take up inherited commitments: those that were written are done with, the others become ours to write."""
        w = _learn_pool(self.v, self.w, self.me) if self.v.rechecks_epoch else self.w
        o = w.operators[self.me]
        if o.phase != _ADOPTING:
            return w
        entries, settled = [], set(o.settled)
        for entry in o.pool.in_flight:
            lease = o.seen[entry.lease]
            if entry.lease in settled or _is_written(lease, entry) or not self.v.writes_inherited_first:
                settled.add(entry.lease)
            else:
                entries.append(entry._replace(until=_NEVER, version=lease.version))
        return _put(
            w,
            self.me,
            o._replace(phase=_LEADING, entries=tuple(entries), settled=tuple(sorted(settled))),
        )

    # --- while it leads ---

    def _lead(self) -> Iterator[Step]:
        o, w, me = self.o, self.w, self.me
        for i, lease in enumerate(w.leases):
            if lease != o.seen[i]:
                yield self._step("lease_seen", str(i), _learn_lease(self.v, w, me, i))
        if o.pool != w.pool:
            yield self._step("pool_seen", "", _learn_pool(self.v, w, me))
        if self.v.checks_leadership and w.leader != me:
            return
        self.busy = {r.target for r in w.network if r.sender == me}
        self.committed = {entry.lease for entry in o.entries}
        for entry in o.entries:
            if entry.lease not in self.busy:
                yield from self._write_grant(entry)
        if POOL not in self.busy:  # a pass waits for its commit
            for i in range(len(o.seen)):
                if i not in self.busy and i not in self.committed:
                    yield from self._write_change(i)
            yield from self._commit()

    def _to_lease(self, method: str, kind: str, i: int, *entries: Entry, **fields: object) -> Step:
        v, o = self.v, self.o
        bare = not v.versions_lease_writes or (kind in ("expire", "release") and not v.versions_ends)
        version = ANY if bare else o.seen[i].version
        sent = Request(self.me, method, kind, i, version, tuple(sorted(fields.items())), o.epoch, entries)
        return self._step(method, f"{kind} {i}", send(self.w, sent))

    def _write_grant(self, entry: Entry) -> Iterator[Step]:
        v, i = self.v, entry.lease
        lease = self.o.seen[i]
        if v.rechecks_epoch and lease.version != entry.version:
            yield self._step("_write_grant", f"is {i} still ours to write", self._look_again(entry))
            return
        if entry.holder != NOBODY:
            if v.checks_holder and _is_written(lease, entry):
                yield self._step("_write_grant", f"{i} is another's", _settle(self.w, self.me, i))
                return
            yield self._hand_over(i, entry.sequence, entry.holder, entry)
            return
        wanted = not lease.deleting and not lease.wants_release
        if lease.parent != NOBODY:
            parent = self.o.seen[lease.parent]
            if v.fences_parents and parent.state == HELD and parent.fence != self.o.epoch:
                yield self._fence(lease.parent)
                return
            wanted = wanted and parent.state == HELD and parent.term > self.w.now
        wanted = wanted and (lease.request == entry.request or not v.checks_request)
        # An inherited one is also undone where the API server refuses it, which may be at any time.
        if not wanted or entry.until == _NEVER:
            yield self._cancel(entry)
        if not wanted:
            return
        if v.needs_finalizer and not lease.finalizer:
            yield self._to_lease("add_finalizer", "finalizer", i, finalizer=True)
        elif entry.start:
            yield self._tell_promise(entry)
        else:
            term = self.w.now + TERM
            term = min(term, entry.until) if v.keeps_planned_end else term
            if lease.parent != NOBODY:
                term = min(self.w.now + TERM, self.o.seen[lease.parent].term)
            yield self._to_lease(
                *("_write_grant", "grant", i, entry),
                state=HELD,
                token=entry.sequence,
                term=term,
                promised=0,
                heard=lease.asked,
            )

    def _hand_over(self, i: int, token: int, holder: int, *entries: Entry) -> Step:
        return self._to_lease("_write_grant", "hand over", i, *entries, token=token, told=holder)

    def _look_again(self, entry: Entry) -> World:
        """Read the pool once more: whoever changed the lease since may lead now."""
        w = _learn_pool(self.v, self.w, self.me)
        o = w.operators[self.me]
        mine = entry._replace(version=o.seen[entry.lease].version) if o.seen else entry
        return _put(
            w, self.me, o._replace(entries=tuple(mine if other == entry else other for other in o.entries))
        )

    def _cancel(self, entry: Entry) -> Step:
        return self._to_lease("_write_grant", "cancel", entry.lease, entry, undone=entry.sequence, promised=0)

    def _tell_promise(self, entry: Entry) -> Step:
        """Tell a lease its start. What was promised by another is looked at first: it may have been overtaken."""
        held = [i for i, one in enumerate(self.o.seen) if one.state == HELD and one.parent == NOBODY]
        if entry.until == _NEVER and self.v.checks_inherited_promises:
            if any(self.o.seen[i].term > entry.start for i in held):
                return self._cancel(entry)
            for i in held:
                if self._may_lengthen(i):
                    return self._fence(i)
        return self._to_lease("_write_grant", "promise", entry.lease, entry, promised=entry.start)

    def _may_lengthen(self, i: int) -> bool:
        """Tell whether a renewal of a lease may be on its way that this operator knows nothing of."""
        o, v, lease = self.o, self.v, self.o.seen[i]
        if v.fences_unknown_renewals and i in {j for j, _ in o.unsure}:
            return True
        if not v.fences_promises:
            return False
        return lease.fence != o.epoch if v.heeds_fence else lease.version <= o.listed[i]

    def _fence(self, i: int) -> Step:
        if i in self.busy:
            return self._step("fence", f"waits for {i}", self.w)
        return self._to_lease("fence", "fence", i, fence=self.o.epoch)

    def _write_change(self, i: int) -> Iterator[Step]:
        o, v, now = self.o, self.v, self.w.now
        lease = o.seen[i]
        pending = lease.asked > lease.heard
        if lease.state == HELD:
            if v.ends_children_first and self._has_children(i) and self._is_ending(i):
                return
            if lease.parent != NOBODY and self._is_ending(lease.parent):
                yield self._to_lease("_write_change", "end with parent", i, state=OVER)
            elif lease.deleting or lease.wants_release or o.pool.deleting:
                yield self._to_lease("_write_change", "release", i, state=OVER)
            elif now >= lease.term and not (pending and v.hears_pending_renewal):
                yield self._to_lease("_write_change", "expire", i, state=OVER)
            elif pending:
                term = max(lease.term, min([now + TERM, *self._promises(besides=i)]))
                yield self._to_lease("_write_change", "renew", i, heard=lease.asked, term=term)
        elif lease.state == WAITING and lease.wants_release and not lease.deleting:
            yield self._to_lease("_write_change", "release", i, state=OVER)
        elif lease.deleting and lease.finalizer and lease.state != GONE:
            yield self._to_lease("_write_change", "drop finalizer", i, finalizer=False)

    def _is_ending(self, i: int) -> bool:
        lease = self.o.seen[i]
        asked = lease.deleting or lease.wants_release or self.o.pool.deleting
        return lease.state != HELD or asked or self.w.now >= lease.term

    def _has_children(self, i: int) -> bool:
        children = [j for j, lease in enumerate(self.o.seen) if lease.parent == i]
        return any(self.o.seen[j].state == HELD or j in self.committed for j in children)

    def _promises(self, besides: int) -> list[int]:
        """The starts that were promised to others, as far as this operator knows."""
        committed = [entry.start for entry in self.o.entries if entry.start and entry.lease != besides]
        told = [
            lease.promised
            for i, lease in enumerate(self.o.seen)
            if lease.promised and lease.state == WAITING and i != besides
        ]
        return committed + told

    def _commit(self) -> Iterator[Step]:
        o, now = self.o, self.w.now
        taken = self._taken()
        for i, lease in enumerate(o.seen):
            if lease.state == HELD and lease.holder != lease.told:
                yield from self._commit_handover(i, lease)
            if lease.parent != NOBODY:
                yield from self._commit_child(i, lease)
                continue
            gone = lease.state != WAITING or lease.deleting or lease.wants_release
            if gone or i in self.committed or i in self.busy or o.pool.deleting:
                continue
            others = self._promises(besides=i)
            if now >= (lease.promised or lease.start):
                if len(taken) < CAPACITY and all(now + TERM <= start for start in others):
                    yield self._step("_commit", f"grant {i}", self._swap(self._entry(i, 0)))
            elif not lease.promised and not others and self._free_from(lease.start, taken):
                old = [j for j in sorted(taken) if j not in self.committed and self._may_lengthen(j)]
                if old:
                    yield self._fence(old[0])
                else:
                    yield self._step("_commit", f"promise {i}", self._swap(self._entry(i, lease.start)))
        if o.settled:
            yield self._step("publish", "", self._swap(None))
        drained = not (taken or self.committed or self.busy)
        if o.pool.deleting and (drained or not self.v.waits_until_drained):
            method, gone = "_leave_if_drained", (("gone", True),)
            leave = Request(self.me, method, "leave", POOL, o.pool.version, gone, o.epoch)
            yield self._step(method, "", send(self.w, leave))

    def _commit_handover(self, i: int, lease: Lease) -> Iterator[Step]:
        if i in self.committed or i in self.busy or lease.deleting or lease.wants_release:
            return
        if not self.v.commits_handovers:
            yield self._hand_over(i, self.o.sequence + 1, lease.holder)
            return
        entry = self._entry(i, 0)._replace(until=0, holder=lease.holder)
        yield self._step("_commit", f"hand over {i}", self._swap(entry))

    def _commit_child(self, i: int, lease: Lease) -> Iterator[Step]:
        """Take room out of a parent that is there to stay, as far as this operator knows."""
        gone = lease.state != WAITING or lease.deleting or lease.wants_release
        if gone or i in self.committed or i in self.busy or lease.parent in self.busy | self.committed:
            return
        if self._is_ending(lease.parent) or self._has_children(lease.parent):
            return
        yield self._step("_commit", f"grant {i} of {lease.parent}", self._swap(self._entry(i, 0)))

    def _taken(self) -> set[int]:
        """The leases that hold the room, as far as this operator knows."""
        roots = {i for i, lease in enumerate(self.o.seen) if lease.parent == NOBODY}
        taken = {i for i in roots if self.o.seen[i].state == HELD}
        if self.v.counts_committed:
            taken |= roots & {entry.lease for entry in self.o.entries if not entry.start}
        if not self.v.counts_until_release_is_known:
            ending = ("expire", "release")
            taken -= {r.target for r in self.w.network if r.sender == self.me and r.kind in ending}
        return taken

    def _free_from(self, start: int, taken: Set[int]) -> bool:
        """Tell whether whatever holds the room, or will, is known to end before a start."""
        for j in taken:
            until = max([self.o.seen[j].term, *(e.until for e in self.o.entries if e.lease == j)])
            if self.v.expects_renewals:
                sent = (r for r in self.w.network if r.sender == self.me and r.target == j)
                until = max([until, *(dict(request.fields).get("term", 0) for request in sent)])
            if until > start:
                return False
        return True

    def _entry(self, i: int, start: int) -> Entry:
        o, lease = self.o, self.o.seen[i]
        until = 0 if start else self.w.now + TERM
        return Entry(i, o.sequence + 1, lease.request, start, o.epoch, until, lease.version)

    def _swap(self, new: Entry | None) -> World:
        o, v = self.o, self.v
        added = () if new is None else (new,)
        kept = [entry for entry in o.entries if entry.lease not in o.settled]
        fields = {
            "epoch": o.epoch,
            "in_flight": tuple(sorted([*kept, *added])) if v.keeps_in_flight else (),
            "sequence": o.sequence + len(added) if v.stores_sequence else o.pool.sequence,
        }
        version = o.pool.version if v.versions_pool_writes else ANY
        written = tuple(sorted(fields.items()))
        return send(
            self.w,
            Request(self.me, "swap_ledger", "swap", POOL, version, written, o.epoch, added, o.settled),
        )


# --- the search ---


class Found(NamedTuple):
    """How many states there are, which methods were at work, and the shortest way to break something, if any."""

    states: int
    methods: frozenset[str]
    broken: str = ""
    way: tuple[str, ...] = ()


def search(variant: Variant, start: World, invariants: Set[str] = INVARIANTS) -> Found:
    """Look at every state that can be reached, nearest first, until one breaks an invariant."""
    came_from: dict[World, tuple[World, Step] | None] = {start: None}
    queue = deque([start])
    methods = set()
    while queue:
        world = queue.popleft()
        for step in steps(variant, world):
            if step.after in came_from:
                continue
            came_from[step.after] = (world, step)
            methods.add(step.method)
            broken = judge(step.after)
            if broken in invariants:
                return Found(len(came_from), frozenset(methods), broken, _way_to(came_from, step.after))
            queue.append(step.after)
    return Found(len(came_from), frozenset(methods))


def _way_to(came_from: dict[World, tuple[World, Step] | None], world: World) -> tuple[str, ...]:
    way = []
    while (found := came_from[world]) is not None:
        world, step = found
        way.append(" ".join(part for part in (step.who, step.method, step.text) if part))
    return tuple(reversed(way))


def new_pool(*leases: Lease, **bounds: object) -> World:
    """A pool with these leases and no operator yet."""
    return World(Pool(sequence=max(lease.token for lease in leases)), leases, **bounds)
