"""Who leads which shard: decided from coordination Leases as they were seen, by local time alone.

A shard is a part of the pools. One Lease stands for each shard; its holder leads the shard's pools. The times written
in a Lease are for people: a Lease is over when it has not changed for its duration by the clock of whoever looks, so
no two machines' clocks are compared (as in client-go's leaderelection; the tolerated difference in clock *rate* is
that of the duration to the renew deadline). Election decides only who works; that nothing is lent twice is up to the
epochs.

With several shards, replicas show themselves by a Lease each, and every replica computes from these how many shards are
its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

MOVE_AFTER_PERIODS = 3
"""A shard is handed on only after the set of replicas stood for so many periods."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The times of an election, all derived from one duration (ms)."""

    duration: int

    @property
    def renew_deadline(self) -> int:
        """After so long without a renewal a leader stops (ms); the rest of the duration is the margin."""
        return self.duration * 2 // 3

    @property
    def period(self) -> int:
        """How often a leader renews and a standby looks (ms)."""
        return self.duration * 2 // 15

    @property
    def patience(self) -> int:
        """How long one request of the election may take (ms): two must fit before the deadline."""
        return self.renew_deadline // 2

    @property
    def touch(self) -> int:
        """After so long without an answer the API server counts as out of reach (ms)."""
        return 2 * self.period


class Record(NamedTuple):
    """One coordination Lease as the API server has it.

    `instance` tells two processes of one identity apart. `renewed` is when its holder says it renewed it last (ms, the
    holder's clock): it is never used to decide who leads. `heard` says what the holder had heard of, see `Heard`.
    """

    holder: str
    instance: str
    duration: int
    version: str
    uid: str = ""
    transitions: int = 0
    renewed: int | None = None
    heard: str = ""


class Seen(NamedTuple):
    """A record and since when it has stood unchanged (ms, the local clock); None where there is no such Lease."""

    record: Record | None
    since: int

    def is_over(self, now: int) -> bool:
        """Tell whether nobody holds it: it is missing, was given back, or was not renewed for its duration."""
        record = self.record
        return record is None or not record.holder or now - self.since >= record.duration


class Candidate(NamedTuple):
    """Who asks. `fresh` until its first look is over: then a Lease of its identity is what it left behind."""

    identity: str
    instance: str
    fresh: bool = False


class Moves(NamedTuple):
    """What to do: shards to claim, and one to hand on, if any."""

    claim: tuple[int, ...] = ()
    hand_on: int | None = None


def shard_of(pool: str, shards: int) -> int:
    """Return the shard of a pool. It depends on the name alone, so that all replicas agree."""
    return int.from_bytes(blake2b(pool.encode(), digest_size=8).digest()) % shards


def observe(before: Mapping[str, Seen], listed: Mapping[str, Record], now: int) -> dict[str, Seen]:
    """Take in a complete list of Leases by name: what changed was seen now, the rest when it was."""
    found: dict[str, Seen] = {}
    for name, record in listed.items():
        known = before.get(name)
        same = known is not None and known.record is not None and known.record.version == record.version
        found[name] = Seen(record, known.since if same and known is not None else now)
    return found


def living(replicas: Mapping[str, Seen], shards: Iterable[Seen], now: int) -> frozenset[str]:
    """Return the identities of the replicas that are there.

    Whoever let a shard's Lease run out is gone, even if its own Lease has a moment left.
    """
    failed = {
        seen.record.holder
        for seen in shards
        if seen.record is not None and seen.record.holder and seen.is_over(now)
    }
    return frozenset(
        seen.record.holder
        for seen in replicas.values()
        if seen.record is not None and not seen.is_over(now) and seen.record.holder not in failed
    )


def share_of(identity: str, replicas: Set[str], shards: int) -> int:
    """Return how many shards are a replica's share: as equal as they can be, the first by name one more."""
    everyone = sorted(replicas | {identity})
    rank = everyone.index(identity)
    return shards // len(everyone) + (rank < shards % len(everyone))


def decide(
    shards: Mapping[int, Seen],
    leading: Set[int],
    me: Candidate,
    share: int,
    now: int,
    *,
    settled: bool = False,
) -> Moves:
    """Return what a candidate does after a look at the shards' Leases.

    What it lost by being late it takes back at once if nobody else has it, and so it does, when it has just started,
    with what its identity left behind: a kubelet restarts a container only after its end. Free shards it claims up to
    its share, and beyond it those that nobody took for another half of a duration: an unled shard is worse than an
    unequal one. Beyond its share it hands one on, once the set of replicas is `settled`.
    """
    claim: list[int] = []
    for shard, seen in sorted(shards.items()):
        if shard in leading:
            continue
        record = seen.record
        mine = (
            record is not None
            and record.holder == me.identity
            and (me.fresh or record.instance == me.instance)
        )
        if not mine and not seen.is_over(now):
            continue
        if mine or len(leading) + len(claim) < share or _forsaken(seen, now):
            claim.append(shard)
    surplus = len(leading) > share and settled and not claim
    return Moves(tuple(claim), max(leading) if surplus else None)


def _forsaken(seen: Seen, now: int) -> bool:
    record = seen.record
    if record is None:
        return False
    free_since = seen.since if not record.holder else seen.since + record.duration
    return now - free_since >= record.duration // 2
