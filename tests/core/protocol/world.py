"""What the protocol plays on: objects with versions, a network that delays, users, time, and what must always hold.

Everything that is decided is sent as a `Request`. It reaches the API server at any later moment or never, whether its
sender still lives or not, and is one compare-and-swap there. Time is a small integer, the same for everybody.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WAITING, HELD, OVER, GONE = "waiting", "held", "over", "gone"
POOL: Final = -1
"""The target of a request that is for the pool and not for a lease."""
NOBODY: Final = -1
"""The sender of a request whose answer nobody waits for any more."""
ANY: Final = -1
"""The version of a request without a precondition."""
CAPACITY: Final = 1

DOUBLE = "more is held than there is"
EARLY = "a lease was ended as expired that was renewed, or whose term was not over"
TOKEN = "a token was given twice, fell, or is above the ledger's sequence"
LOST = "a commitment of an earlier operator left the ledger before anybody answered for it"
STALE = "a request was granted that is no longer asked for"
VANISHED = "an object went while something was held"
PROMISE = "a lease stays longer than the start that was promised for its room"
ORPHAN = "a sub-lease holds what its parent gave back"
HOLDER = "a token was given to another holder than the lease names"
INVARIANTS: Final = frozenset({DOUBLE, EARLY, TOKEN, LOST, STALE, VANISHED, PROMISE, ORPHAN, HOLDER})


class Lease(NamedTuple):
    """A lease's object.

    `request` is what it asks for, `asked` and `heard` count renewals in spec and status. `start` is the start it asks
    for (0: at once); `promised` is the one its status promises. `undone` is the sequence of the last commitment that
    was cancelled. `fence` is the epoch that last made sure that older writes of this lease come to nothing. `parent` is
    the lease that this one is a part of. `holder` is whom the spec names, and `told` whom the token is for.
    """

    state: str = WAITING
    version: int = 0
    finalizer: bool = True
    request: int = 0
    deleting: bool = False
    wants_release: bool = False
    asked: int = 0
    heard: int = 0
    term: int = 0
    token: int = 0
    start: int = 0
    promised: int = 0
    undone: int = 0
    fence: int = 0
    parent: int = NOBODY
    holder: int = 0
    told: int = 0


class Entry(NamedTuple):
    """A commitment in the pool: a grant, with a `start` the promise of one, or with a `holder` a handover.

    `epoch` says who made it, `until` when its room is expected to be free again. `version` is the lease's when it was
    last certain that the commitment is ours to write.
    """

    lease: int
    sequence: int
    request: int
    start: int
    epoch: int
    until: int
    version: int
    holder: int = NOBODY


class Pool(NamedTuple):
    """The pool's object."""

    version: int = 0
    epoch: int = 0
    sequence: int = 0
    in_flight: tuple[Entry, ...] = ()
    deleting: bool = False
    gone: bool = False


class Request(NamedTuple):
    """A write on its way. `fields` are what it sets, `entries` and `settled` what its sender then takes up or drops."""

    sender: int
    method: str
    kind: str
    target: int
    version: int
    fields: tuple[tuple[str, object], ...]
    epoch: int
    entries: tuple[Entry, ...] = ()
    settled: tuple[int, ...] = ()


class Operator(NamedTuple):
    """An operator's memory. `pool` and `seen` are objects as they were last heard of.

    `listed` are the versions that the leases had in its list. `unsure` are renewals whose answer never came: the lease,
    and the version it had.
    """

    phase: str = "standby"
    epoch: int = 0
    sequence: int = 0
    pool: Pool = Pool()
    seen: tuple[Lease, ...] = ()
    entries: tuple[Entry, ...] = ()
    settled: tuple[int, ...] = ()
    listed: tuple[int, ...] = ()
    unsure: tuple[tuple[int, int], ...] = ()


class World(NamedTuple):
    """Everything there is. `leader` is whom the election names.

    What may still happen is bounded: so many take-overs, lost answers and ticks, and these wishes of users.
    """

    pool: Pool
    leases: tuple[Lease, ...]
    operators: tuple[Operator, ...] = (Operator(), Operator())
    network: tuple[Request, ...] = ()
    given: tuple[int, ...] = ()
    leader: int = NOBODY
    now: int = 0
    broken: str = ""
    take_overs: int = 2
    lost_answers: int = 0
    ticks: int = 0
    wishes: tuple[str, ...] = ()


# --- the network ---


def send(w: World, request: Request) -> World:
    """Put a request on its way."""
    return w._replace(network=tuple(sorted({*w.network, request})))


def orphan(w: World, me: int) -> World:
    """Let nobody wait any more for the answers to an operator's requests. They may still arrive."""
    found = {r._replace(sender=NOBODY) if r.sender == me else r for r in w.network}
    return w._replace(network=tuple(sorted(found)))


def arrive(w: World, request: Request) -> tuple[World, bool]:
    """Let a request reach the API server; tell whether it was taken or met a newer version."""
    w = w._replace(network=tuple(r for r in w.network if r != request))
    if request.target == POOL:
        if w.pool.gone or request.version not in (ANY, w.pool.version):
            return w, False
        return _without_hopeless(_take_pool(w, request)), True
    lease = w.leases[request.target]
    if lease.state == GONE or request.version not in (ANY, lease.version):
        return w, False
    return _without_hopeless(_take_lease(w, request)), True


def _without_hopeless(w: World) -> World:
    """Forget requests that nobody waits for and that will be refused: versions only grow."""
    left = tuple(r for r in w.network if r.sender != NOBODY or r.version in (ANY, _version(w, r.target)))
    return w if left == w.network else w._replace(network=left)


def _version(w: World, target: int) -> int:
    return w.pool.version if target == POOL else w.leases[target].version


def _take_pool(w: World, request: Request) -> World:
    before = w.pool
    after = before._replace(version=before.version + 1, **dict(request.fields))
    broken = w.broken
    if after.sequence < before.sequence or after.epoch < before.epoch:
        broken = broken or TOKEN
    if after.gone and any(lease.state == HELD for lease in w.leases):
        broken = broken or VANISHED
    kept = {entry.sequence for entry in after.in_flight}
    for entry in before.in_flight:
        inherited = entry.epoch < request.epoch
        if entry.sequence not in kept and inherited and not _answered(w.leases[entry.lease], entry):
            broken = broken or LOST
    return w._replace(pool=after, broken=broken)


def _answered(lease: Lease, entry: Entry) -> bool:
    if entry.holder != NOBODY:
        return True  # the spec still says who is to have it
    if lease.state in (OVER, GONE) or max(lease.token, lease.undone) >= entry.sequence:
        return True
    return bool(entry.start and lease.promised)


def _take_lease(w: World, request: Request) -> World:
    i = request.target
    before = w.leases[i]
    after = before._replace(version=before.version + 1, **dict(request.fields))
    broken, given = w.broken, w.given
    if request.kind == "expire" and (before.asked > before.heard or before.term > w.now):
        broken = broken or EARLY
    elif request.kind == "drop finalizer" and before.deleting:
        after = after._replace(state=GONE)
        broken = broken or (VANISHED if before.state == HELD else "")
    elif request.kind == "grant":
        if after.token in given or after.token > w.pool.sequence or after.token <= before.token:
            broken = broken or TOKEN
        if request.entries[0].request != before.request:
            broken = broken or STALE
        given = (*given, after.token)
    elif request.kind == "hand over":
        if after.token in given or after.token > w.pool.sequence or after.token <= before.token:
            broken = broken or TOKEN
        if after.told != before.holder:
            broken = broken or HOLDER
        given = (*given, after.token)
    leases = (*w.leases[:i], after, *w.leases[i + 1 :])
    return w._replace(leases=leases, given=given, broken=broken)


# --- users ---


def wish(w: World, text: str) -> World | None:
    """Let a user change an object; None while that makes no sense."""
    what, number = text.split()
    left = list(w.wishes)
    left.remove(text)
    w = w._replace(wishes=tuple(left))
    if what == "drain":
        return w._replace(pool=w.pool._replace(version=w.pool.version + 1, deleting=True))
    i = int(number)
    lease = w.leases[i]
    changed = _changed(lease, what)
    if changed is None:
        return None
    vanishes = changed.state == GONE and lease.state == HELD
    leases = (*w.leases[:i], changed._replace(version=lease.version + 1), *w.leases[i + 1 :])
    return _without_hopeless(w._replace(leases=leases, broken=w.broken or (VANISHED if vanishes else "")))


def _changed(lease: Lease, what: str) -> Lease | None:
    if lease.state == GONE:
        return None
    if what == "renew" and lease.state == HELD:
        return lease._replace(asked=lease.asked + 1)
    if what == "release" and not lease.wants_release and lease.state != OVER:
        return lease._replace(wants_release=True)
    if what == "change" and lease.state == WAITING:
        return lease._replace(request=1 - lease.request)
    if what == "hand" and lease.state == HELD:
        return lease._replace(holder=lease.holder + 1)
    if what == "delete" and not lease.deleting:
        return lease._replace(deleting=True, state=lease.state if lease.finalizer else GONE)
    return None


# --- what must hold ---


def judge(w: World) -> str:
    """Return the worst that does not hold, or ""."""
    terms = [lease.term for lease in w.leases if lease.state == HELD and lease.parent == NOBODY]
    parents = [lease.parent for lease in w.leases if lease.state == HELD and lease.parent != NOBODY]
    if len(terms) > CAPACITY or len(set(parents)) < len(parents):
        return DOUBLE
    if any(w.leases[parent].state != HELD for parent in parents):
        return ORPHAN
    if w.broken:
        return w.broken
    for lease in w.leases:
        waits = lease.state == WAITING and not lease.deleting and not lease.wants_release
        if waits and lease.promised and any(term > lease.promised for term in terms):
            return PROMISE
    return ""
