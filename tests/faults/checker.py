"""The one checker of every trial: replays a record revision by revision and says what was broken, and where.

It is pure: the same record gives the same verdict, today and from a file. It shares the reading of objects with the
operator (`leasehold.core`), and none of its memory: what it knows, it knows from the API server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tests.faults.history import (
    LEASE,
    NODE,
    OPERATOR,
    POOL,
    REPORT,
    Revision,
    Trace,
    Write,
)

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import Liveness, RejectionReason, StopPolicy
from leasehold.api.pool import PoolSpec
from leasehold.core.booking import free_at
from leasehold.core.course import Session, World
from leasehold.core.families import by_node
from leasehold.core.heartbeat import renewal_asked
from leasehold.core.lease import Lease, lease_of
from leasehold.core.membership import Membership, pools_of
from leasehold.core.nodes import Node, Report, judge, node_of, report_of
from leasehold.core.outages import Outage, moved
from leasehold.core.planning import hold_of, plan
from leasehold.core.policy import PoolPolicy, policy_of
from leasehold.core.pool_status import Facts, status_of
from leasehold.core.queueing import Wait
from leasehold.core.request import NEVER
from leasehold.core.state import PoolState
from leasehold.core.times import SECOND, parse_time

Object = dict[str, Any]

SLACK: Final = 0.25
"""How much earlier than its deadline a lease may seem to end (s), where the operator's clock is the API server's.

The operator starts its clock by the wall's and the API server stamps the arrival of a write by its own: on one machine
they differ by what the wall is corrected meanwhile. Where the operator's clock is falsified the slack is larger: a
clock that is less than two seconds ahead is not told from the API server's, whose Date header has whole seconds.
"""


class Violation(NamedTuple):
    """A promise that was broken, at a revision (0: at the end), in words."""

    invariant: str
    revision: int
    text: str

    def __str__(self) -> str:
        where = f" at revision {self.revision}" if self.revision else " at the end"
        return f"{self.invariant}{where}: {self.text}"


def check(trace: Trace, *, slack: float = SLACK, at_rest: bool = True) -> list[Violation]:
    """Return every violation in a trace, in the order of the revisions; [] when all promises were kept.

    With `at_rest` the end is looked at too: nothing under way, and every status what it has to be.
    """
    replay = _Replay(slack)
    found = [violation for revision in trace.revisions for violation in replay.take(revision)]
    if at_rest:
        found += [Violation("at rest", 0, text) for text in unrest(replay.view, int(trace.ended * 1000))]
    return found


# --- the cluster at one revision ---


@dataclass
class View:
    """The cluster as the API server had it at one revision. Sessions say when they last changed (ms)."""

    pools: dict[str, Object] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    sessions: dict[tuple[str, str], Session] = field(default_factory=dict)
    ended_sessions: dict[tuple[str, str], int] = field(default_factory=dict)
    namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict)
    going: set[str] = field(default_factory=set)
    policies: dict[str, PoolPolicy] = field(default_factory=dict)

    def in_flight(self) -> Iterator[Mapping[str, Any]]:
        """Yield the commitments that the ledgers of all pools name."""
        for pool in self.pools.values():
            yield from ledger_of(pool).get("inFlight") or ()

    def take(self, revision: Revision) -> None:
        """Take in one revision."""
        item, name, gone = revision.object, revision.object["metadata"]["name"], revision.event == "DELETED"
        match revision.kind:
            case "CapacityPool":
                self._take_pool(name, None if gone else item)
            case "CapacityLease":
                if gone:
                    self.leases.pop(revision.uid, None)
                else:
                    self.leases[revision.uid] = lease_of(item)
            case "Node":
                _put(self.nodes, name, None if gone else node_of(item))
            case "NodeReport":
                _put(self.reports, name, None if gone else report_of(item))
            case "Namespace":
                _put(self.namespaces, name, None if gone else item["metadata"].get("labels") or {})
                if "deletionTimestamp" in item["metadata"]:
                    self.going.add(name)
            case "Lease":
                self._take_session(revision, gone=gone)

    def _take_pool(self, name: str, item: Object | None) -> None:
        if item is None:
            self.pools.pop(name, None)
            self.policies.pop(name, None)
            return
        before = self.pools.get(name)
        if before is None or before["spec"] != item["spec"]:
            self.policies[name] = policy_of(PoolSpec.model_validate(item["spec"]))
        self.pools[name] = item

    def _take_session(self, revision: Revision, *, gone: bool) -> None:
        meta, spec = revision.object["metadata"], revision.object.get("spec") or {}
        key = (meta["namespace"], meta["name"])
        at = int(revision.time * 1000)
        if gone:
            self.sessions.pop(key, None)
            self.ended_sessions[key] = at
            return
        seconds = spec.get("leaseDurationSeconds")
        duration = seconds * SECOND if isinstance(seconds, int) and seconds > 0 else None
        self.sessions[key] = Session(*key, revision.number, at, duration)

    def ledger(self, pool: str) -> Mapping[str, Any]:
        """Return `status.ledger` of a pool, {} where there is none."""
        return ledger_of(self.pools.get(pool))


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value


def ledger_of(pool: Object | None) -> Mapping[str, Any]:
    """Return `status.ledger` of a pool's object, {} where there is none."""
    found: Mapping[str, Any] = ((pool or {}).get("status") or {}).get("ledger") or {}
    return found


def outages_of(pool: Object | None) -> list[Outage]:
    """Return the outages that a pool's ledger remembers."""
    rows = ledger_of(pool).get("outages") or ()
    return [Outage(parse_time(row["startTime"]), parse_time(row["endTime"])) for row in rows]


def _rows(ledger: Mapping[str, Any]) -> dict[tuple[str, int], Mapping[str, Any]]:
    return {(row["uid"], row["sequence"]): row for row in ledger.get("inFlight") or ()}


@dataclass(frozen=True)
class _Commit:
    """When an entry was committed: under which epoch, and what its lease's version was."""

    epoch: int
    lease_version: int


# --- the replay ---


class _Replay:
    """What is known after each revision, and what was wrong with it."""

    def __init__(self, slack: float) -> None:
        self.slack = slack
        self.view = View()
        self.tokens: dict[tuple[str, int], tuple[str, str]] = {}
        self.commits: dict[tuple[str, str, int], _Commit] = {}
        self.leaders: dict[tuple[str, int], str] = {}
        self.limits: dict[str, dict[str, int]] = {}

    def take(self, revision: Revision) -> Iterator[Violation]:
        """Take in one revision and yield what it broke."""
        before_pool = self.view.pools.get(revision.object["metadata"]["name"])
        before_lease = self.view.leases.get(revision.uid)
        self.view.take(revision)
        if revision.kind in (NODE, REPORT, POOL):
            self._learn_limits(revision)
        if revision.kind == POOL:
            found = self._pool(revision, before_pool)
        elif revision.kind == LEASE:
            found = self._lease(revision, before_lease)
        else:
            return
        for invariant, text in found:
            yield Violation(invariant, revision.number, f"{revision.kind} {revision.key}: {text}")

    # --- pools ---

    def _pool(self, revision: Revision, before: Object | None) -> Iterator[tuple[str, str]]:
        item = revision.object
        if revision.event in ("LISTED", "DELETED"):
            return
        if before is not None and before["metadata"]["uid"] != item["metadata"]["uid"]:
            before = None
        was, now = ledger_of(before), ledger_of(item)
        for name in ("epoch", "sequence"):
            if now.get(name, 0) < was.get(name, 0):
                yield "ledger", f"{name} fell from {was[name]} to {now.get(name, 0)}"
        yield from self._leadership(revision, was, now)
        yield from self._committed(revision, was, now)
        yield from self._dropped(revision, was, now)

    def _leadership(
        self, revision: Revision, was: Mapping[str, Any], now: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """A pool's status is written only by the operator that raised the epoch last."""
        epoch = now.get("epoch", 0)
        if not revision.agent.startswith(f"{OPERATOR}/") or revision.subresource != "status":
            return
        if epoch > was.get("epoch", 0):
            self.leaders[revision.uid, epoch] = revision.agent
            return
        leader = self.leaders.get((revision.uid, epoch), revision.agent)
        if leader != revision.agent:
            yield "epoch", f"{revision.agent} wrote while epoch {epoch} of {leader} stood"

    def _committed(
        self, revision: Revision, was: Mapping[str, Any], now: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """A commit carries the epoch that stood before it, and sequence numbers that nobody had."""
        added = _rows(now).keys() - _rows(was).keys()
        epoch = now.get("epoch", 0)
        if added and epoch != was.get("epoch", 0):
            yield "epoch", f"entries were added by the write that raised the epoch to {epoch}"
        for uid, sequence in sorted(added, key=lambda key: key[1]):
            first, last = was.get("sequence", 0) + 1, now.get("sequence", 0)
            if not first <= sequence <= last:
                yield "ledger", f"entry {sequence} was added by a write that gave out {first} to {last}"
            lease = self.view.leases.get(uid)
            version = 0 if lease is None else lease.version
            self.commits[revision.uid, uid, sequence] = _Commit(epoch, version)

    def _dropped(
        self, revision: Revision, was: Mapping[str, Any], now: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """What an earlier operator committed leaves the ledger only once it was granted, or visibly undone."""
        for uid, sequence in sorted(_rows(was).keys() - _rows(now).keys(), key=lambda key: key[1]):
            lease = self.view.leases.get(uid)
            if lease is None or lease.finished or lease.is_true(C.ALLOCATED):
                continue
            if lease.reservation is not None and lease.reservation.sequence >= sequence:
                continue
            commit = self.commits.get((revision.uid, uid, sequence))
            # The operator that committed may drop what it knows it never wrote: a commit whose answer was lost.
            if commit is None or commit.epoch == now.get("epoch", 0) or lease.version > commit.lease_version:
                continue
            yield (
                "lost",
                f"entry {sequence} of {lease.key}, committed under epoch {commit.epoch}, was dropped under epoch "
                f"{now.get('epoch', 0)} and its lease is as it was",
            )

    # --- leases ---

    def _lease(self, revision: Revision, before: Lease | None) -> Iterator[tuple[str, str]]:
        after = self.view.leases.get(revision.uid)
        if revision.event == "LISTED":
            return
        if after is None:
            if before is not None and before.allocated:
                yield "lost", "the object went while capacity counted against it"
            return
        yield from self._final(before, after)
        yield from self._token(before, after)
        end, most = after.deadline("expirationTime"), after.deadline("maxExpirationTime")
        if end is not None and most is not None and end > most:
            yield (
                "maximum",
                f"its term ends {(end - most) / 1000:.3f} s after the latest end that it was told",
            )
        if after.allocated and (before is None or not before.is_true(C.ALLOCATED)):
            yield from self._granted(after)
        if before is not None and _begins_to_end(before, after):
            yield from self._ended(revision, before, after)
        if after.allocated and (before is None or after.slices != before.slices):
            yield from self._fits(after)
        yield from self._family(after)
        yield from self._promised_twice(before, after, int((revision.time + self.slack) * 1000))

    @staticmethod
    def _final(before: Lease | None, after: Lease) -> Iterator[tuple[str, str]]:
        if before is None:
            return
        if before.is_true(C.ALLOCATED) and not after.is_true(C.ALLOCATED):
            yield "final", "it was allocated and is not any more, without having been released"
        if before.is_true(C.RELEASED) and not after.is_true(C.RELEASED):
            yield "final", "it was released and is not any more"
        if before.finished:
            for part in ("allocation", "fencingToken", "release", "accounting"):
                if before.status.get(part) != after.status.get(part):
                    yield "final", f"{part} changed after it had finished"
            if not after.finished:
                yield "final", "it had finished and has not any more"

    def _token(self, before: Lease | None, after: Lease) -> Iterator[tuple[str, str]]:
        token = after.status.get("fencingToken")
        earlier = None if before is None else before.status.get("fencingToken")
        if before is not None and earlier is not None and token != earlier:
            yield from self._handed_over(before, after)
        if token is None:
            return
        whose = after.uid, json.dumps(after.status.get("holder"), sort_keys=True)
        owner = self.tokens.setdefault((after.pool, token), whose)
        if owner != whose and owner[0] in self.view.leases:
            yield "token", f"token {token} was given to {self.view.leases[owner[0]].key}, {owner[1]}, before"
        self.tokens[after.pool, token] = whose

    def _handed_over(self, before: Lease, after: Lease) -> Iterator[tuple[str, str]]:
        """A token changes only for a handover that the pool's ledger names, to whom the lease names; all else stays."""
        if after.token < before.token:
            yield "token", f"its token fell from {before.token} to {after.token}"
        row = _rows(self.view.ledger(after.pool)).get((after.uid, after.token), {})
        if "holder" not in row:
            yield (
                "token",
                f"its token changed from {before.token} to {after.token}, and no handover was committed",
            )
        elif row["holder"] != after.status.get("holder"):
            yield "token", f"handed over to {after.status.get('holder')}, and committed for {row['holder']}"
        if after.changes_hands:
            yield "token", f"token {after.token} was given to another holder than the lease names"
        if not before.allocated or not after.allocated or before.slices != after.slices:
            yield "token", "it was handed over, and what it holds did not stay as it was"

    def _granted(self, after: Lease) -> Iterator[tuple[str, str]]:
        """A grant is written only while the pool's ledger says that it was committed, and as it says."""
        token = after.status.get("fencingToken")
        row = _rows(self.view.ledger(after.pool)).get((after.uid, token or 0))
        if row is None:
            yield "committed", f"granted with token {token}, which the pool's ledger does not name"
            return
        nodes = [part.node for part in after.slices]
        if nodes != list(row["nodes"]):
            yield "committed", f"granted on {nodes}, and committed on {row['nodes']}"
        if len(nodes) != after.count or any(dict(p.amounts) != dict(after.request) for p in after.slices):
            granted = [dict(part.amounts) for part in after.slices]
            yield "committed", f"granted {granted}, and it asks for {after.count} of {dict(after.request)}"
        if row.get("parentUID", "") != after.parent_uid:
            yield (
                "committed",
                f"granted out of {after.parent_uid!r}, and committed out of {row.get('parentUID')}",
            )
        if after.deleting or after.wants_release:
            yield "committed", "granted to who does not want it any more"
        if not after.has_finalizer:
            yield "lost", "granted without the finalizer that keeps it"

    def _fits(self, after: Lease) -> Iterator[tuple[str, str]]:
        """No node holds more than it may lend, summed over all pools. What sub-leases hold is their parent's."""
        if after.parent:
            return
        for node in sorted({part.node for part in after.slices}):
            held: dict[str, int] = {}
            for lease in self.view.leases.values():
                for part in () if lease.parent else lease.slices:
                    if part.node == node:
                        for name, amount in part.amounts.items():
                            held[name] = held.get(name, 0) + amount
            most = self.limits.get(node, {})
            for name, total in sorted(held.items()):
                if total > most.get(name, 0):
                    yield "capacity", f"node {node} holds {total} {name} and may lend {most.get(name, 0)}"

    def _family(self, after: Lease) -> Iterator[tuple[str, str]]:
        """What sub-leases hold is within what their parent holds, on each node, and ends with it at the latest."""
        uid = after.parent_uid if after.parent and after.slices else after.uid
        children = [
            one for one in self.view.leases.values() if one.slices and one.parent and one.parent_uid == uid
        ]
        if not children:
            return
        parent = self.view.leases.get(uid)
        if parent is None or not parent.allocated:
            yield "family", f"{children[0].key} holds some of a lease that holds nothing"
            return
        has = by_node(parent.slices)
        for node, used in by_node(part for child in children for part in child.slices).items():
            for name, total in sorted(used.items()):
                most = has.get(node, {}).get(name, 0)
                if total > most:
                    yield (
                        "family",
                        f"sub-leases hold {total} {name} of the {most} that {parent.key} has on {node}",
                    )
        limit = parent.deadline("expirationTime")
        for child in children:
            end = child.deadline("expirationTime")
            if end is not None and limit is not None and end > limit:
                yield "family", f"{child.key} ends {(end - limit) / 1000:.3f} s after {parent.key}"

    def _promised_twice(self, before: Lease | None, after: Lease, now: int) -> Iterator[tuple[str, str]]:
        """No room is held beyond the start for which another was told that it is kept, nor kept for two at once.

        Looked at whenever a lease is told more than before: a new end, a grant, a start. One that is late starts as
        soon as it can, and what should have ended by `now` (ms) is expected to go at any moment.
        """
        more = set()
        if (
            after.slices
            and not after.parent
            and self._until(after) > (self._until(before) if before is not None and before.slices else 0)
        ):
            more = {part.node for part in after.slices}
        if after.reservation is not None and (before is None or before.reservation != after.reservation):
            more |= {part.node for part in after.reservation.slices}
        if not more:
            return
        starting = {  # whose start is committed, on the nodes that were kept or on others
            row["uid"] for row in self.view.in_flight() if "startTime" not in row
        }
        there = [lease for lease in self.view.leases.values() if lease.uid not in starting]
        promised = [lease for lease in there if self._stands(lease)]
        for node in sorted(more):
            for lease in promised:
                kept = lease.reservation
                if kept is not None and any(part.node == node for part in kept.slices):
                    yield from self._room_at(node, max(kept.start, now), lease, promised)

    def _room_at(
        self, node: str, instant: int, whose: Lease, promised: list[Lease]
    ) -> Iterator[tuple[str, str]]:
        needed: dict[str, int] = {}
        parts = [
            part
            for lease in self.view.leases.values()
            if lease.slices and not lease.parent and self._until(lease) > instant
            for part in lease.slices
        ]
        for lease in promised:
            kept = lease.reservation
            if kept is not None and kept.start <= instant < kept.end:
                parts += kept.slices
        for part in parts:
            if part.node == node:
                for name, amount in part.amounts.items():
                    needed[name] = needed.get(name, 0) + amount
        for name, total in sorted(needed.items()):
            most = self.limits.get(node, {}).get(name, 0)
            if total > most:
                yield (
                    "promised twice",
                    f"when {whose.key} is to start, node {node} is to hold {total} {name} and may lend {most}",
                )

    def _until(self, lease: Lease) -> int:
        """Return when what a lease holds is free again as far as it was told (ms)."""
        policy = self.view.policies.get(lease.pool)
        return NEVER if policy is None else free_at(lease, policy)

    def _stands(self, lease: Lease) -> bool:
        """Tell whether a lease is told a start, and still asks for just that."""
        kept, policy = lease.reservation, self.view.policies.get(lease.pool)
        if kept is None or policy is None or not lease.pending or lease.deleting or lease.wants_release:
            return False
        asked = [dict(lease.request)] * lease.count
        long_enough = kept.end - kept.start >= policy.span_of(lease.duration)
        return (
            [dict(part.amounts) for part in kept.slices] == asked
            and long_enough
            and kept.start >= (lease.start_time or 0)
        )

    # --- ends ---

    def _ended(self, revision: Revision, before: Lease, after: Lease) -> Iterator[tuple[str, str]]:
        cause = after.status["release"].get("cause", "")
        at = int((revision.time + self.slack) * 1000)
        policy = self.view.policies.get(before.pool)
        rule = _RULES.get(cause)
        if rule is None or policy is None:
            return
        for text in rule(_End(self.view, before, policy, at)):
            yield "early end" if "renew" not in text else "renewal", f"{cause}: {text}"

    # --- what nodes may lend ---

    def _learn_limits(self, revision: Revision) -> None:
        """Keep the most that each node could lend so far: who decides may not have heard of a change yet."""
        names = [revision.object["metadata"]["name"]] if revision.kind != POOL else list(self.view.nodes)
        for name in names:
            node = self.view.nodes.get(name)
            if node is None:
                continue
            for policy in self.view.policies.values():
                if not policy.selector.matches(node.labels):
                    continue
                limit = judge(node, self.view.reports.get(name), policy, 0).limit
                most = self.limits.setdefault(name, {})
                for resource, amount in zip(policy.names, limit, strict=True):
                    most[resource] = max(most.get(resource, 0), amount)


def _begins_to_end(before: Lease, after: Lease) -> bool:
    return "startTime" in after.status.get("release", {}) and "startTime" not in before.status.get(
        "release", {}
    )


class _End(NamedTuple):
    """A lease that ends: the cluster then, the lease as it was, its pool's policy, and the latest it can have been."""

    view: View
    lease: Lease
    policy: PoolPolicy
    at: int

    def session(self) -> Session | None:
        return self.view.sessions.get((self.lease.namespace, self.lease.session))

    def session_due(self, session: Session) -> int:
        timeout = self.policy.heartbeat_timeout
        due = session.renewed_at + (min(session.duration, timeout) if session.duration else timeout)
        return moved(due, session.renewed_at, outages_of(self.view.pools.get(self.lease.pool)))

    def forgiven(self, due: int | None, since: int) -> int | None:
        """Move a deadline by the outages that its pool knows of, as far as it was not moved by them already."""
        after = self.lease.deadline("amnestyTime") or 0
        return (
            None
            if due is None
            else moved(due, since, outages_of(self.view.pools.get(self.lease.pool)), after=after)
        )

    def too_early(self, due: int | None, what: str) -> Iterator[str]:
        if due is None:
            yield f"no {what} was written"
        elif self.at < due:
            yield f"{(due - self.at) / 1000:.3f} s before its {what}"


def _term(end: _End) -> Iterator[str]:
    expiration = end.lease.deadline("expirationTime")
    yield from end.too_early(
        None if expiration is None else expiration + end.policy.grace, "term and grace were over"
    )
    promised = any(lease.reservation is not None for lease in end.view.leases.values()) or any(
        "startTime" in row  # committed, and not written to its lease yet
        for row in end.view.in_flight()
    )
    if renewal_asked(end.lease) and not promised and expiration != end.lease.deadline("maxExpirationTime"):
        yield f"it had asked to renew ({end.lease.renew_time})"


def _heartbeat(end: _End) -> Iterator[str]:
    stored = end.lease.deadline("heartbeatTime")
    if end.lease.liveness == Liveness.RENEW:
        stored = end.forgiven(stored, (stored or 0) - end.policy.heartbeat_timeout)
        yield from end.too_early(None if stored is None else stored + end.policy.grace, "heartbeat and grace")
        if renewal_asked(end.lease):
            yield f"it had asked to renew ({end.lease.renew_time})"
        return
    session = end.session()
    if session is not None:
        yield from end.too_early(end.session_due(session) + end.policy.grace, "session's time and grace")
        return
    gone = end.view.ended_sessions.get((end.lease.namespace, end.lease.session))
    yield from end.too_early(None if gone is None else gone, "session's end")


def _claim(end: _End) -> Iterator[str]:
    granted = end.lease.instant("allocation", "allocationTime") or 0
    yield from end.too_early(end.forgiven(end.lease.deadline("claimTime"), granted), "claim")
    if end.lease.liveness == Liveness.RENEW and renewal_asked(end.lease):
        yield f"it had asked to renew ({end.lease.renew_time})"
    session = end.session() if end.lease.liveness == Liveness.SESSION else None
    if session is not None and end.at < end.session_due(session):
        yield "its session was renewed in time"


def _node_lost(end: _End) -> Iterator[str]:
    for part in end.lease.slices:
        node = end.view.nodes.get(part.node)
        if node is None:
            return
        if node.not_ready_since is not None and end.at >= node.not_ready_since + end.policy.node_loss:
            return
    yield "all its nodes are there, or were not away for long enough"


def _asked(end: _End) -> Iterator[str]:
    if not end.lease.deleting and not end.lease.wants_release:
        yield "nobody had asked for its release"


def _namespace_gone(end: _End) -> Iterator[str]:
    if end.lease.namespace in end.view.namespaces and end.lease.namespace not in end.view.going:
        yield "its namespace is there"


def _draining(end: _End) -> Iterator[str]:
    pool = end.view.pools.get(end.lease.pool)
    if (
        pool is None
        or "deletionTimestamp" in pool["metadata"]
        or end.policy.stop == StopPolicy.HOLD_AND_DRAIN
    ):
        return
    yield "its pool does not drain"


def _revoked(end: _End) -> Iterator[str]:
    if not end.lease.revoke:
        yield "nobody had revoked it"


def _parent(end: _End) -> Iterator[str]:
    parent = named(end.view, end.lease.parent_key)
    if parent is None or parent.uid != (end.lease.parent_uid or parent.uid):
        return
    ending = parent.releasing or parent.finished or (end.lease.allocated and not parent.allocated)
    notice = end.lease.deadline("revocationTime")
    told = end.lease.reason(C.DISRUPTION_TARGET) == R.PARENT_ENDED and notice is not None and end.at >= notice
    if not (ending or told or parent.is_true(C.DISRUPTION_TARGET)):
        yield "its parent is there to stay"


_RULES: Final = {
    R.PARENT_ENDED: _parent,
    R.TERM_ENDED: _term,
    R.MAXIMUM_REACHED: _term,
    R.HEARTBEAT_LOST: _heartbeat,
    R.CLAIM_TIMEOUT: _claim,
    R.NODE_LOST: _node_lost,
    R.RELEASE_REQUESTED: _asked,
    R.NAMESPACE_GONE: _namespace_gone,
    R.POOL_DRAINING: _draining,
    R.ADMIN_REVOKED: _revoked,
}
"""What must be true when a lease begins to end for a cause."""


# --- at rest ---


def final_view(revisions: Iterable[Revision]) -> View:
    """Return the cluster as the last revision left it."""
    view = View()
    for revision in revisions:
        view.take(revision)
    return view


def unrest(view: View, now: int) -> list[str]:
    """Return what keeps a cluster from being at rest at an instant (ms); [] when nothing does.

    At rest, every pool's status is what its spec and the world make it, nothing is in flight, everybody who waits is
    told why, and a look at the whole by the planner itself decides nothing.
    """
    found = []
    for name, pool in sorted(view.pools.items()):
        found += [f"pool {name}: {text}" for text in _pool_unrest(view, name, pool, now)]
    for lease in view.leases.values():
        if (
            lease.pool in view.pools
            and lease.pending
            and not lease.deleting
            and not lease.status.get("conditions")
        ):
            found.append(f"lease {lease.key} waits and was told nothing")
    return found


def named(view: View, key: tuple[str, str]) -> Lease | None:
    """Return the lease of this namespace and name."""
    return next((one for one in view.leases.values() if (one.namespace, one.name) == key), None)


def rebuilt(view: View, name: str, now: int) -> PoolState:
    """Return a pool's memory as a new operator would make it from the objects alone."""
    policy = view.policies[name]
    state = PoolState(name, policy, view.namespaces)
    for lease in sorted(
        (one for one in view.leases.values() if one.pool == name), key=lambda one: one.version
    ):
        state.observe(lease)
    state.seen_at = now
    selectors = {other: view.policies[other].selector for other in view.pools}
    elsewhere = {part.node for lease in view.leases.values() if lease.pool != name for part in lease.slices}
    for node in view.nodes.values():
        membership: Membership = pools_of(node, selectors)
        if name not in membership.pools:
            continue
        verdict = judge(node, view.reports.get(node.name), policy, now)
        if membership.conflicting or node.name in elsewhere:
            verdict = verdict._replace(reason=RejectionReason.NODE_CONFLICTING)
        state.put_node(node.name, node.labels, verdict)
    return state


def _pool_unrest(view: View, name: str, pool: Object, now: int) -> Iterator[str]:
    status = pool.get("status") or {}
    ledger = status.get("ledger") or {}
    if not ledger:
        yield "nobody leads it"
        return
    if ledger.get("inFlight"):
        yield f"{len(ledger['inFlight'])} entries are in flight"
    state = rebuilt(view, name, now)
    deleting = "deletionTimestamp" in pool["metadata"]
    generation = pool["metadata"].get("generation", 1)
    # No operator of the campaign may touch pods: a pool that wants them held to their leases lends nothing.
    facts = Facts(generation, deleting, [], unenforced=state.policy.enforces)
    wanted = status_of(state, facts, status, now)
    for part in ("observedGeneration", "capacity", "nodes", "leases"):
        if wanted[part] != status.get(part):
            yield f"status.{part} is {status.get(part)}, and the objects make it {wanted[part]}"
    if _judgements(wanted) != _judgements(status):
        yield f"its conditions are {_judgements(status)}, and the objects make them {_judgements(wanted)}"
    yield from _undecided(view, name, state, deleting=deleting, now=now)


def _judgements(status: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {row["type"]: (row["status"], row["reason"]) for row in status.get("conditions", ())}


def _undecided(view: View, name: str, state: PoolState, *, deleting: bool, now: int) -> Iterator[str]:
    """Yield what the planner itself would still do."""
    world = World(
        nodes=view.nodes,
        reports=view.reports,
        sessions=view.sessions,
        gone_namespaces=frozenset(view.going),
        over_nodes=frozenset(state.table.over),
        bill=state.bill,
        families=state.families,
        named=lambda key: named(view, key),
        outages=outages_of(view.pools.get(name)),
    )
    if state.policy.enforces:
        hold: Wait | None = Wait(R.POOL_NOT_READY, R.POOL_NOT_READY.meaning)
    else:
        hold = hold_of(state.policy, deleting=deleting, consistent=True, nodes=len(state.table.rows))
    decided = plan(state, world, now, (), hold)
    for grant in decided.grants:
        if grant.hands_over:
            yield f"lease {grant.lease.key} is to be handed over"
        else:
            yield f"lease {grant.lease.key} waits and there is room on {', '.join(grant.nodes)}"
    for change in decided.changes:
        if change.step.action:
            yield f"lease {change.lease.key}: {change.step.action} is due"
        elif _matters(change.step.patch):
            yield f"lease {change.lease.key}: {sorted(change.step.patch)} of its status are to be written"


def _matters(patch: Mapping[str, Any]) -> bool:
    """A place in the queue and what it is guessed from may differ from operator to operator."""
    return bool(patch.keys() - {"queue", "rejections", "phase", "observedGeneration"} - _WORDS)


_WORDS: Final = {"conditions"}
"""Why a lease waits may be told in other words by a planner that never looked ahead."""


# --- quiet ---


def noise(writes: Iterable[Write], since: float) -> list[Write]:
    """Return what operators wrote to our objects since an instant (s). In a steady state that is nothing.

    A write counts when it is answered, which is when the record has it: a slow API server may take seconds for one.
    """
    return [
        write for write in writes if write.by_operator and write.ours and write.changes and write.done > since
    ]
