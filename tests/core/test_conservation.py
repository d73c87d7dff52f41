"""Under any history whatever: nothing is lent twice, nothing ends early, and the pool comes to rest.

A pure simulation of the API server and of one pool's worker. Leases live as documents with resource versions; the
worker plans, commits and writes them as patches, and reads back what came of it. Writes may arrive late, in any
order, twice decided, or not at all; answers may get lost; the worker may die at any moment, and the writes it left
behind may still arrive after its successor took over.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.builders import (
    NOON,
    check_lease_status,
    condition,
    edited,
    granted,
    lease_document,
    make_lease,
    make_node,
    make_pool,
    make_report,
    make_session,
    make_state,
    make_world,
    written,
)

from leasehold.api.names import LeaseReason as R
from leasehold.core.audit import audit
from leasehold.core.booking import Entry
from leasehold.core.calendar import Outlook
from leasehold.core.course import Step, World
from leasehold.core.deadlines import Deadlines
from leasehold.core.holds import displaced, preemptors, recover_holds, settle_holds
from leasehold.core.lease import Lease, lease_of
from leasehold.core.ledger import HELD
from leasehold.core.lifecycle import advance
from leasehold.core.loss import loss_plan
from leasehold.core.nodes import Node, Report, judge
from leasehold.core.placement import place
from leasehold.core.planning import (
    Plan,
    cancel_step,
    entry_of,
    expect_end,
    grant_step,
    handover_step,
    hold_of,
    plan,
    promise_step,
)
from leasehold.core.policy import PoolPolicy
from leasehold.core.state import PoolState
from leasehold.core.status import apply_patch
from leasehold.core.times import format_time

CPU, MEMORY = "cpu", "memory"
KEYS = (CPU, MEMORY)
SESSION = ("team-a", "worker")
NAMESPACES = {"team-a": {"team": "red"}, "team-b": {"team": "blue"}}


class Conflict(Exception):
    """The object changed meanwhile, or is gone."""


class Write(NamedTuple):
    """A status write under way. A grant is worked out anew whenever it is tried, as the worker does."""

    uid: str
    entry: Entry | None
    adopted: bool
    lease: Lease | None = None
    step: Step | None = None
    policy: PoolPolicy | None = None


class Server:
    """The API server: leases as documents, and the pool's ledger."""

    def __init__(self) -> None:
        self.version = 1
        self.documents: dict[str, dict[str, Any]] = {}
        self.epoch = 0
        self.sequence = 0
        self.in_flight: dict[str, Entry] = {}
        self.tokens: dict[int, str] = {}
        self.renewals: Counter[str] = Counter()
        self.history: list[dict[str, Any]] = []

    def touch(self, document: dict[str, Any], *, generation: bool) -> None:
        self.history.append(copy.deepcopy(document))
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        document["metadata"]["generation"] += generation

    def add(self, document: dict[str, Any]) -> None:
        self.documents[document["metadata"]["uid"]] = document
        self.touch(document, generation=False)

    def edit(self, uid: str, **spec: Any) -> None:
        document = self.documents[uid]
        document["spec"].update(spec)
        self.touch(document, generation=True)

    def patch(self, lease: Lease, step: Step) -> Lease:
        document = self.documents.get(lease.uid)
        if document is None or int(document["metadata"]["resourceVersion"]) != lease.version:
            raise Conflict
        before, after = lease_of(document), apply_patch(document.get("status") or {}, step.patch)
        check_lease_status(after)
        self._final_is_final(before, after)
        document["status"] = copy.deepcopy(after)
        self.touch(document, generation=False)
        return lease_of(document)

    def _final_is_final(self, before: Lease, after: dict[str, Any]) -> None:
        """The rules that the CRD holds status writes to."""
        now = {c["type"]: c["status"] for c in after["conditions"]}
        for type_ in ("Finished", "Released"):
            assert not before.is_true(type_) or now.get(type_) == "True"
        assert after.get("fencingToken", 0) >= before.token
        if "holder" in before.status and after["holder"] != before.status["holder"]:
            assert after["fencingToken"] > before.token
        was, is_ = before.status.get("allocation"), after.get("allocation")
        if was is not None:
            same_nodes = [s["nodeName"] for s in was["slices"]] == [s["nodeName"] for s in is_["slices"]]
            assert same_nodes or is_["ledgerSequence"] > was["ledgerSequence"]

    def leases(self) -> list[Lease]:
        return [lease_of(document) for document in self.documents.values()]

    def committed(self) -> Counter[tuple[str, str]]:
        """What counts as lent, by node and resource: what leases hold, and what is committed to others."""
        found: Counter[tuple[str, str]] = Counter()
        for lease in self.leases():
            for part in () if lease.parent else lease.slices:
                for key, amount in part.amounts.items():
                    found[part.node, key] += amount
        for entry in self.in_flight.values():
            if not entry.takes_room:
                continue
            document = self.documents.get(entry.uid)
            if document is None or not lease_of(document).pending:
                continue
            for node in entry.nodes:
                for key, amount in entry.amounts.items():
                    found[node, key] += amount
        return found


class Worker:
    """The pool's worker, as `adapters.pool` has it, without a clock or a network."""

    def __init__(self, server: Server, policy: PoolPolicy, nodes: dict[str, Node]) -> None:
        self.server = server
        self.policy = policy
        self.state = PoolState("ci", policy, NAMESPACES)
        self.recovers = True
        self.writes: list[Write] = []
        self.settled: set[str] = set()
        self.dirty = set(nodes)
        self.node_deadlines = Deadlines()
        self.pressured: dict[str, frozenset[str]] = {}
        self.ends: dict[str, R] = {}
        server.epoch += 1
        self.epoch, self.sequence = server.epoch, server.sequence
        self.state.replace(server.leases(), server.version)
        for entry in server.in_flight.values():
            lease = self.state.leases.get(entry.uid)
            if lease is None or is_written(lease, entry):
                self.settled.add(entry.uid)
            else:
                entry = inherited(entry)
                self.state.assume(entry)
                self.writes.append(Write(entry.uid, entry, adopted=True))

    def watch(self) -> None:
        """Hear of everything that changed, and of nothing else: what is due must be found by the deadlines."""
        for lease in self.server.leases():
            known = self.state.leases.get(lease.uid)
            if known is None or known.version < lease.version:
                self.state.observe(lease)
        for uid in self.state.leases.keys() - self.server.documents.keys():
            self.state.forget(uid)

    def respec(self, policy: PoolPolicy, nodes: dict[str, Node]) -> None:
        before, self.policy = self.state, policy
        self.state = PoolState("ci", policy, NAMESPACES)
        self.state.arrivals = before.arrivals
        self.state.seen_at, self.state.meters = before.seen_at, before.meters
        self.recovers = self.recovers or bool(before.holds)
        for lease in before.leases.values():
            self.state.observe(lease)
        for entry in before.entries.values():
            self.state.assume(entry)
        self.state.busy, self.state.idle = before.busy, before.idle
        self.dirty |= set(nodes) | set(before.table.rows)

    def gather(self, world: World, now: int) -> World:
        names, self.dirty = self.dirty, set()
        for name in names | self.node_deadlines.pop_due(now):
            self.state.touch_node(name)
            node = world.nodes.get(name)
            if node is None:
                self.state.remove_node(name)
                self.node_deadlines.put(name, None)
                continue
            verdict = judge(
                node,
                world.reports.get(name),
                self.policy,
                now,
                was_pressured=self.pressured.get(name, frozenset()),
            )
            self.pressured[name] = verdict.pressured
            self.state.put_node(name, node.labels, verdict)
            self.node_deadlines.put(name, verdict.revisit_at)
        if self.recovers:
            recover_holds(self.state, now)
            self.recovers = False
        self.state.seen_at = now
        settle_holds(self.state, now)
        self.state.shares.age(now)
        ends: dict[str, R] = {}
        if self.policy.stop == "HoldAndDrain":
            ends = {holding.uid: R.POOL_DRAINING for holding in self.state.ledger}
        elif self.policy.revokes_on_loss:
            ends = dict.fromkeys(loss_plan(self.state), R.CAPACITY_LOST)
        ends = {**displaced(self.state), **ends}
        self.state.attention |= ends.keys() ^ self.ends.keys()
        self.ends = ends
        return self.sees(world, now)

    def sees(self, world: World, now: int) -> World:
        state = self.state
        return World(
            nodes=world.nodes,
            reports=world.reports,
            sessions=world.sessions,
            idle_since=state.idle_since(),
            ends=self.ends,
            over_nodes=frozenset(state.table.over),
            preemptors=preemptors(state),
            limits=state.renewal_limits(now),
            bill=state.bill,
            families=state.families,
            named=self.named,
        )

    def named(self, key: tuple[str, str]) -> Lease | None:
        found = (lease for lease in self.state.leases.values() if (lease.namespace, lease.name) == key)
        return next(found, None)

    def run_once(self, world: World, now: int) -> Plan:
        """Gather, plan, commit, and start the writes."""
        world = self.gather(world, now)
        due = self.state.deadlines.pop_due(now)
        hold = self.hold()
        again = replace(world, limits=self.sees(world, now).limits)
        held = dict(self.state.calendar.held)
        decided = plan(self.state, world, now, due, hold)
        for uid, before in held.items():  # the renewals it noted are news to the second
            self.state.calendar.hold(uid, before)
        same = plan(self.state, again, now, due, hold)
        assert decided.grants == same.grants, "planning twice grants the same"
        assert decided.preemptions == same.preemptions
        # What is told rests on what was looked at before, so the second plan may tell more, and other reasons.
        assert [one for one in decided.changes if not one.word and one not in same.changes] == []
        assert decided.again is None or decided.again > now, "a wake that has passed would spin"
        self.state.attention &= self.state.busy | self.state.entries.keys()
        for uid, wake_at in decided.wakes:
            assert wake_at is None or wake_at > now, "a wake that has passed would spin"
            self.state.deadlines.put(uid, wake_at)
        for change in decided.changes:
            assert change.lease.uid not in self.state.busy, "one write at a time for a lease"
            self.nodes_gave_their_word(change.lease, change.step, world)
            self.renewals_count(change.lease, change.step, world)
            self.state.busy.add(change.lease.uid)
            expect_end(self.state, change.lease, change.step)
            self.writes.append(Write(change.lease.uid, None, False, change.lease, change.step, self.policy))
        for preemption in decided.preemptions:
            self.state.begin_hold(preemption)
        if decided.grants:
            self.commit(decided)
        return decided

    def nodes_gave_their_word(self, lease: Lease, step: Step, world: World) -> None:
        """A lease that waits for its nodes to confirm leaves that state by their word alone, or by force."""
        if condition(lease, "Released") not in ("False/VerificationPending", "False/Quarantined"):
            return
        after = apply_patch(lease.status, step.patch)
        told = next(c for c in after["conditions"] if c["type"] == "Released")
        if told["reason"] not in ("Verified", "CoolingDown") or not self.policy.verifies_release:
            return
        began = lease.instant("release", "startTime")
        assert began is not None
        for part in lease.slices:
            if part.node in world.nodes:
                report = world.reports[part.node]
                assert report.leases[lease.uid].gone
                assert report.time > began

    def renewals_count(self, lease: Lease, step: Step, world: World) -> None:
        """A term ends in spite of a renewal only where none is to be had, as at the maximum: for a promised start."""
        if (step.patch.get("release") or {}).get("cause") == "TermEnded" and asks_renewal(lease):
            assert world.limits is not None
            assert world.limits.latest(lease.uid) is not None

    def hold(self) -> Any:
        return hold_of(self.policy, deleting=False, consistent=True, nodes=len(self.state.table.rows))

    def commit(self, decided: Plan) -> None:
        server = self.server
        assert server.epoch == self.epoch
        entries = [entry_of(grant, self.sequence + i) for i, grant in enumerate(decided.grants, start=1)]
        before = self.sequence
        self.sequence = server.sequence = self.sequence + len(entries)
        for uid in self.settled:
            server.in_flight.pop(uid, None)
        self.settled.clear()
        for entry in entries:
            assert entry.sequence > before, "a token is larger than all before it"
            assert entry.uid not in server.in_flight, "one commitment at a time for a lease"
            assert entry.uid not in self.state.busy, "one write at a time for a lease"
            server.in_flight[entry.uid] = entry
            self.state.assume(entry)
            self.writes.append(Write(entry.uid, entry, adopted=False))

    def unfenced(self, write: Write) -> tuple[Lease, Step] | None:
        """A write to the parent before anything is taken out of it: what an earlier worker sent it comes to nothing."""
        parent = None if write.entry is None else self.state.leases.get(write.entry.parent)
        if parent is None or not parent.allocated or parent.releasing:
            return None
        if parent.status["allocation"].get("ledgerEpoch") == self.epoch:
            return None
        return parent, Step({"allocation": {"ledgerEpoch": self.epoch}})

    def grant(self, write: Write, world: World, now: int) -> tuple[Lease, Step] | None:
        """Work out what a commitment comes to now; None when nothing is left to write."""
        lease, entry = self.state.leases.get(write.uid), write.entry
        assert entry is not None
        if lease is None or is_written(lease, entry):
            return None
        if entry.holder is not None:
            return lease, handover_step(lease, entry, self.policy, world, now)
        wanted = dict(lease.request) == dict(entry.amounts) and lease.count == len(entry.nodes)
        wanted = wanted and entry.generation in (0, lease.generation)
        parent = self.state.leases.get(entry.parent)
        if entry.parent:
            end = None if parent is None else parent.deadline("expirationTime")
            wanted = wanted and parent is not None and parent.allocated and not parent.releasing
            wanted = wanted and end is not None and end > now
        if not wanted or lease.deleting or lease.wants_release:
            return lease, cancel_step(lease, now, promise=entry.start is not None)
        tenant = self.state.tenant_of(lease)
        if entry.start is not None:
            return lease, promise_step(lease, entry, now, tenant)
        needed = None if parent else self.needed(entry.uid, now)
        if needed is not None and not self.policy.is_worth(needed - now, self.policy.span_of(lease.duration)):
            return lease, cancel_step(lease, now)
        step = grant_step(
            *(lease, entry, self.policy, world, now),
            adopted=write.adopted,
            tenant="" if parent else tenant,
            needed=needed,
            parent=parent,
        )
        return lease, step

    def needed(self, uid: str, now: int) -> int | None:
        """When a commitment's room is promised to others: what is written late must be gone by then."""
        limits = self.state.renewal_limits(now)
        return None if limits is None else limits.latest(uid)

    def finish_grant(self, write: Write) -> None:
        self.writes.remove(write)
        self.settled.add(write.uid)
        self.state.settle(write.uid)

    def finish_change(self, write: Write) -> None:
        self.writes.remove(write)
        self.state.busy.discard(write.uid)
        if write.uid in self.state.leases:
            self.state.rebook(write.uid)
            self.state.attention.add(write.uid)

    def refresh(self, uid: str) -> None:
        document = self.server.documents.get(uid)
        if document is None:
            self.state.forget(uid)
        else:
            self.state.observe(lease_of(document))


def is_written(lease: Lease, entry: Entry) -> bool:
    """Whether a commitment became the lease's own, or can no longer."""
    if entry.holder is not None:
        theirs = lease.holder == entry.holder and lease.token < entry.sequence
        return not (theirs and lease.changes_hands) or lease.deleting or lease.wants_release
    kept = lease.reservation
    promised = entry.start is not None and kept is not None and kept.sequence >= entry.sequence
    return not lease.pending or promised


def asks_renewal(lease: Lease) -> bool:
    observed = lease.status.get("renewal", {}).get("observedRenewTime")
    return bool(lease.renew_time) and lease.renew_time != observed


def inherited(entry: Entry) -> Entry:
    """What the pool's ledger keeps of an entry."""
    plain = Entry(entry.uid, entry.namespace, entry.name, entry.sequence, entry.amounts, entry.nodes)
    plain = plain._replace(parent=entry.parent, holder=entry.holder, until=entry.until)
    return plain._replace(not_after=entry.not_after, start=entry.start, end=entry.end)


def tenant_rows() -> st.SearchStrategy[list[dict[str, Any]]]:
    amounts = st.sampled_from([None, {"cpu": "4"}, {"cpu": "8"}])
    red = st.fixed_dictionaries({"guaranteed": amounts, "weight": st.sampled_from([1, 3])})
    blue = st.fixed_dictionaries({"limit": amounts, "maxLeases": st.sampled_from([None, 2])})

    def rows(red: dict[str, Any], blue: dict[str, Any], some: bool) -> list[dict[str, Any]]:
        both = [{"name": "red", **red}, {"name": "blue", **blue}]
        return [{key: v for key, v in row.items() if v is not None} for row in both] if some else []

    return st.builds(rows, red, blue, st.booleans())


def pool_policies(*, calm: bool = False) -> st.SearchStrategy[PoolPolicy]:
    cpu = st.sampled_from(
        [
            {"name": "cpu"},
            {"name": "cpu", "source": "Allocatable"},
            {"name": "cpu", "reserved": "1"},
            {"name": "cpu", "allocationPercent": 150, "highPercent": 90, "lowPercent": 50},
        ]
    )
    memory = st.sampled_from([{"name": "memory"}, {"name": "memory", "max": "6Gi", "step": "1Gi"}])

    def build(cpu: Any, memory: Any, terms: Any, how: Any, verifies: bool, kinds: int) -> PoolPolicy:
        more = {"verification": "NodeReport", "verificationTimeoutSeconds": 50} if verifies else {}
        if calm:
            more = {"expirationAction": "Release"}
            terms = {key: value for key, value in terms.items() if key != "expirationAction"}
            how = {**how, "stop": "None", "on_stale": "Ignore", "preemption": {}}
        return make_pool(*(cpu, memory)[:kinds], **terms, **how, **more)

    terms = st.fixed_dictionaries(
        {
            "gracePeriodSeconds": st.sampled_from([0, 30, 30]),
            "cooldownSeconds": st.sampled_from([0, 0, 45]),
            "claimTimeoutSeconds": st.sampled_from([0, 120]),
            "maxDurationSeconds": st.sampled_from([600, 600, 300]),
            "defaultDurationSeconds": st.just(300),
            "maxTotalSeconds": st.sampled_from([None, 350]),
            "warnBeforeSeconds": st.sampled_from([[], [60, 200]]),
            "capacityLossAction": st.sampled_from(["Keep", "Revoke"]),
            "expirationAction": st.sampled_from(["Release", "Release", "NotifyOnly"]),
            "nodeLossSeconds": st.sampled_from([0, 100]),
            "guaranteedSeconds": st.sampled_from([0, 0, 100]),
            "maxDeferSeconds": st.sampled_from([0, 60]),
            "promiseConflictAction": st.sampled_from(["Cut", "Refuse"]),
        }
    )
    how = st.fixed_dictionaries(
        {
            "strategy": st.sampled_from(["BestFit", "Spread", "LeastUsed", "FirstFit"]),
            "queue": st.sampled_from(["BestEffortFIFO", "Backfill", "StrictFIFO"]),
            "max_pending": st.sampled_from([3, 10_000]),
            "on_stale": st.sampled_from(["Hold", "Ignore"]),
            "stop": st.sampled_from(["None"] * 12 + ["Hold", "HoldAndDrain"]),
            "tenants": tenant_rows(),
            "fairness": st.sampled_from(["DominantShare", "DominantShareAndWaste"]),
            "half_life": st.sampled_from([0, 600]),
            "preemption": st.sampled_from(
                [
                    {},
                    {"withinTenant": "LowerPriority"},
                    {"withinTenant": "LowerPriority", "borrowers": "Reclaim"},
                ]
            ),
        }
    )
    return st.builds(build, cpu, memory, terms, how, st.booleans(), st.sampled_from([1, 2, 2, 2]))


PICK = st.integers(0, 1000)
WAITS_FOR_OTHERS = (
    "WaitingForQuota",
    "WaitingForFairShare",
    "WaitingForVictims",
    "RoomPromised",
    "StartTimeNotReached",
    "BlockedByHead",
)
REQUESTS = st.fixed_dictionaries(
    {
        "cpu": st.integers(1, 6),
        "memory": st.integers(1, 12),
        "count": st.sampled_from([1, 1, 1, 2, 3]),
        "mode": st.sampled_from(["Any", "Any", "SameNode", "DistinctNodes", "SameDomain"]),
        "priority": st.sampled_from([0, 0, 5]),
        "liveness": st.sampled_from(["None", "Renew", "Renew", "Session"]),
        "duration": st.sampled_from([None, 60, 300, 600]),
        "namespace": st.sampled_from(["team-a", "team-b"]),
        "start": st.sampled_from([None, None, None, -60, 90, 400]),
        "deadline": st.sampled_from([None, None, 200]),
        "defer": st.sampled_from([0, 0, 45]),
    }
)


class Pool(RuleBasedStateMachine):
    """Everything that can happen to a pool, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.again: int | None = None
        self.nodes = {name: make_node(name, cpu="8", memory="16Gi") for name in ("n1", "n2")}
        self.reports: dict[str, Report] = {
            name: make_report(name, cpu="0", memory="0") for name in self.nodes
        }
        self.sessions = {SESSION: make_session()}
        self.policy = make_pool({"name": "cpu"}, {"name": "memory"}, defaultDurationSeconds=300)
        self.server = Server()
        self.worker = Worker(self.server, self.policy, self.nodes)
        self.ghosts: list[Write] = []
        self.turned: set[str] = set()
        self.allowance: Counter[tuple[str, str]] = Counter()
        self.born = 0
        self.run_worker()

    # --- people ---

    @initialize(policy=pool_policies(), asks=st.lists(REQUESTS, min_size=3, max_size=6))
    def the_day_begins(self, policy: PoolPolicy, asks: list[dict[str, Any]]) -> None:
        self.the_pool_is_changed(policy)
        for ask in asks:
            self.ask(**ask)
        self.the_worker_does_its_work()

    @rule(asks=st.lists(REQUESTS, min_size=1, max_size=3))
    def people_ask(self, asks: list[dict[str, Any]]) -> None:
        for ask in asks:
            self.ask(**ask)
        self.the_worker_hears_the_news()

    def ask(
        self,
        duration: int | None,
        mode: str,
        cpu: int,
        memory: int,
        start: int | None,
        deadline: int | None,
        defer: int,
        **spec: Any,
    ) -> None:
        self.born += 1
        placement = {
            "mode": mode,
            **({"topologyKey": "kubernetes.io/hostname"} if mode == "SameDomain" else {}),
        }
        document = lease_document(
            f"l{self.born}",
            cpu=str(cpu),
            memory=f"{memory}Gi",
            placement=placement,
            holder={"sessionRef": {"name": "worker"}},
            ttlSecondsAfterFinished=600,
            **({} if duration is None else {"durationSeconds": duration}),
            **({} if start is None else {"startTime": format_time(self.now + 1000 * start)}),
            **({} if deadline is None else {"startDeadlineSeconds": deadline}),
            deferSeconds=defer,
            **spec,
        )
        document["metadata"]["creationTimestamp"] = format_time(self.now)
        self.server.add(document)

    def someone(self, pick: int) -> str | None:
        """Pick a lease: mostly one that is not over."""
        uids = sorted(self.server.documents)
        alive = [lease.uid for lease in self.server.leases() if not lease.finished]
        chosen = alive if alive and pick % 4 else uids
        return chosen[pick % len(chosen)] if chosen else None

    @rule(pick=PICK, everybody=st.booleans())
    def a_holder_renews(self, pick: int, everybody: bool) -> None:
        for uid in sorted(self.server.documents) if everybody else [self.someone(pick)]:
            if uid is None:
                continue
            self.server.renewals[uid] += 1
            self.server.edit(uid, renewTime=f"2026-11-22T12:00:{self.server.renewals[uid] % 60:02d}Z")

    @rule(pick=PICK, deletes=st.booleans())
    def a_holder_gives_back(self, pick: int, deletes: bool) -> None:
        if uid := self.someone(pick):
            if deletes:
                self.delete(uid)
            else:
                self.server.edit(uid, desiredState="Released")

    def delete(self, uid: str) -> None:
        document = self.server.documents[uid]
        if "deletionTimestamp" not in document["metadata"]:
            document["metadata"]["deletionTimestamp"] = format_time(self.now)
            self.server.touch(document, generation=True)

    @rule(pick=PICK)
    def one_that_waits_vanishes(self, pick: int) -> None:
        """A lease has no finalizer until its grant is written: deleting it is its end, whatever is committed to it."""
        uid = self.someone(pick)
        if uid is not None and lease_of(self.server.documents[uid]).pending:
            del self.server.documents[uid]

    @rule(
        pick=PICK,
        cpu=st.integers(1, 3),
        liveness=st.sampled_from([None, None, None, "None", "Renew", "Session"]),
    )
    def a_holder_changes_its_mind(self, pick: int, cpu: int, liveness: str | None) -> None:
        """Anything goes while a lease waits; once it is granted, the API server lets it only shrink."""
        if uid := self.someone(pick):
            if liveness is not None:
                self.server.edit(uid, liveness=liveness)
                self.turned.add(uid)
                return
            resources = dict(self.server.documents[uid]["spec"]["resources"])
            granted_before = "allocation" in self.server.documents[uid].get("status", {})
            if not granted_before or cpu <= int(resources["cpu"]):
                self.server.edit(uid, resources={**resources, "cpu": str(cpu)})

    @rule(pick=PICK, why=st.sampled_from(["", "maintenance"]), force=st.booleans())
    def an_administrator_steps_in(self, pick: int, why: str, force: bool) -> None:
        if uid := self.someone(pick):
            document = self.server.documents[uid]
            document["metadata"]["annotations"] = {
                **({"leasehold.dev/revoke": why} if why else {}),
                **({"leasehold.dev/force-release": "true"} if force else {}),
            }
            self.server.touch(document, generation=False)

    @rule(beats=st.sampled_from([True, True, False]))
    def the_session_beats(self, beats: bool) -> None:
        """Or ends."""
        for uid in self.worker.state.sessions.get(SESSION, ()):
            self.worker.state.attention.add(uid)
        if not beats:
            self.sessions = {}
            return
        self.sessions = {SESSION: make_session()._replace(renewed_at=self.now)}

    @rule(policy=pool_policies())
    def the_pool_is_changed(self, policy: PoolPolicy) -> None:
        self.policy = policy
        self.worker.respec(policy, self.nodes)

    @rule(stop=st.sampled_from(["None", "None", "Hold", "HoldAndDrain"]))
    def an_administrator_brakes(self, stop: str) -> None:
        self.the_pool_is_changed(replace(self.policy, stop=stop))

    # --- nodes ---

    @rule(
        name=st.sampled_from(["n1", "n2", "n3"]),
        cpu=st.sampled_from(["3", "8", "16"]),
        memory=st.sampled_from(["8Gi", "16Gi"]),
        cordoned=st.booleans(),
        ready=st.sampled_from([True, True, False]),
    )
    def a_node_comes_or_changes(self, name: str, cpu: str, memory: str, cordoned: bool, ready: bool) -> None:
        node = make_node(
            name, cpu=cpu, memory=memory, cordoned=cordoned, not_ready_since=None if ready else "-1s"
        )
        if not ready:
            object.__setattr__(node, "not_ready_since", self.now)
        self.nodes = {**self.nodes, name: node}
        self.worker.dirty.add(name)

    @rule(name=st.sampled_from(["n1", "n2", "n3"]), for_good=st.sampled_from([True, False, False]))
    def a_node_goes(self, name: str, for_good: bool) -> None:
        if not for_good:
            return
        self.nodes = {key: node for key, node in self.nodes.items() if key != name}
        self.worker.dirty.add(name)

    @rule(name=st.sampled_from(["n1", "n2", "n3"]), cpu=st.integers(0, 8), says_gone=st.booleans())
    def a_node_reports(self, name: str, cpu: int, says_gone: bool) -> None:
        self.report(name, cpu=cpu, says_gone=says_gone)

    def report(self, name: str, *, cpu: int, says_gone: bool) -> None:
        here = [x for x in self.server.leases() if any(part.node == name for part in x.slices)]
        gone = [lease for lease in here if lease.releasing] if says_gone else []
        present = {lease.uid: {"cpu": "10m", "memory": "1Mi"} for lease in here if lease not in gone}
        report = make_report(name, cpu=str(cpu), memory="1Gi", gone=gone, present=present)
        object.__setattr__(report, "time", self.now)
        self.reports = {**self.reports, name: report}
        self.worker.state.note_usage(report, self.now)
        self.worker.dirty.add(name)

    # --- time and the worker ---

    @rule(
        seconds=st.sampled_from([1, 30, 60, 120, 300, 700]), nodes_say=st.sampled_from(["gone", "here", ""])
    )
    def time_passes(self, seconds: int, nodes_say: str) -> None:
        self.now += 1000 * seconds
        for name in self.nodes if nodes_say else ():
            self.report(name, cpu=0, says_gone=nodes_say == "gone")
        self.the_worker_does_its_work()

    @rule(times=st.integers(1, 5))
    def the_worker_wakes_when_it_asked_to(self, times: int) -> None:
        for _ in range(times):
            instant = self.worker.state.deadlines.next()
            if instant is not None:
                self.now = max(self.now, instant)
                self.the_worker_does_its_work()

    @precondition(lambda self: self.server.history)
    @rule(pick=PICK)
    def old_news_arrives(self, pick: int) -> None:
        document = self.server.history[-1 - pick % min(5, len(self.server.history))]
        known = self.worker.state.leases.get(document["metadata"]["uid"])
        if known is not None:
            self.worker.state.observe(lease_of(document))
            assert self.worker.state.leases[known.uid].version >= known.version, (
                "what is known is not unlearned"
            )
            self.run_worker()

    def the_worker_hears_the_news(self) -> None:
        self.worker.watch()

    @rule()
    def the_worker_does_its_work(self) -> None:
        """Hear, decide, and see every write arrive; twice, because an end makes room."""
        for _ in range(2):
            self.worker.watch()
            self.run_worker()
            for write in list(self.worker.writes):
                self.try_write(write, "arrives")

    @rule()
    def run_worker(self) -> None:
        """Decide on what was last heard, and start the writes."""
        before = self.server.sequence
        in_flight = len(self.server.in_flight)
        decided = self.worker.run_once(self.world(), self.now)
        self.again = decided.again
        assert self.server.sequence == before + len(decided.grants)
        assert len(self.server.in_flight) <= in_flight + len(decided.grants)

    @precondition(lambda self: self.worker.writes)
    @rule(pick=PICK, fate=st.sampled_from(["arrives", "arrives", "arrives", "lost", "answer lost"]))
    def a_write_is_tried(self, pick: int, fate: str) -> None:
        self.try_write(self.worker.writes[pick % len(self.worker.writes)], fate)

    @rule()
    def the_worker_dies_and_another_takes_over(self) -> None:
        for write in self.worker.writes:
            late = write
            if write.entry is not None:
                made = self.worker.unfenced(write) or self.worker.grant(write, self.world(), self.now)
                if made is None:
                    continue
                late = write._replace(lease=made[0], step=made[1], policy=self.policy)
            self.ghosts.append(late)
        self.worker = Worker(self.server, self.policy, self.nodes)
        self.worker.node_deadlines = Deadlines()

    @precondition(lambda self: self.ghosts)
    @rule(pick=PICK)
    def a_dead_workers_write_arrives(self, pick: int) -> None:
        ghost = self.ghosts.pop(pick % len(self.ghosts))
        assert ghost.lease is not None
        assert ghost.step is not None
        if ghost.step.patch:
            with contextlib.suppress(Conflict):
                self.land(ghost.lease, ghost.step, ghost.policy, ghost.entry)

    @rule()
    def the_pool_comes_to_rest(self) -> None:
        """With every write arriving, a few passes later there is nothing left to do, and everyone knows why."""
        for _ in range(60):
            self.worker.watch()
            decided = self.worker.run_once(self.world(), self.now)
            self.again = decided.again
            if not (decided.grants or decided.changes or decided.preemptions or self.worker.writes):
                break
            for write in list(self.worker.writes):
                self.try_write(write, "arrives")
        else:
            raise AssertionError("the pool never comes to rest: writes without end")
        state = self.worker.state
        assert not state.busy
        assert not state.entries
        for lease in state.leases.values():
            step = advance(lease, self.policy, self.seen_world(), self.now)
            if "PromisedStart" in (lease.reason("ExpiringSoon"), self.expiring_soon(lease, step)):
                continue  # that a renewal would be cut is told when the holder asks, not whenever others come and go
            assert (step.patch, step.action) == ({}, ""), f"{lease.name} was forgotten: {step}"
        self.everyone_waits_for_a_reason()
        self.nobody_holds_beyond_the_end()

    def expiring_soon(self, lease: Lease, step: Step) -> str:
        after = apply_patch(lease.status, step.patch)
        return next((c["reason"] for c in after.get("conditions", ()) if c["type"] == "ExpiringSoon"), "")

    def nobody_holds_beyond_the_end(self) -> None:
        session = self.sessions.get(SESSION)
        live = session is not None and self.now < session.renewed_at + 60_000
        for lease in self.worker.state.leases.values():
            if not lease.allocated or lease.releasing:
                continue
            end, grace = lease.deadline("expirationTime"), self.policy.grace
            assert end is not None
            if self.policy.ends_leases:
                assert self.now < end + grace, f"{lease.name} is held beyond its end"
            if lease.liveness == "Session" and lease.is_true("Claimed") and not live:
                since = lease.deadline("heartbeatTime")
                assert since is not None
                assert self.now < since + grace
                if lease.uid not in self.turned:
                    assert since <= self.now
                    assert session is None or since <= session.renewed_at + 60_000

    def everyone_waits_for_a_reason(self) -> None:
        self.nobody_waits_for_what_was_promised_in_vain()
        state = self.worker.state
        for uid, refusal in state.refused.items():
            assert state.leases[uid].reason("Ready") == refusal.reason
        without_place = set(state.queue.without_place(self.policy.max_pending))
        for waiting, request in enumerate(state.queue):
            lease = state.leases[request.uid]
            reason = lease.reason("Ready")
            assert reason, f"{lease.name} waits and was not told why"
            hold = self.worker.hold()
            if request.uid in state.calendar.promises:
                continue
            if request.uid in without_place:
                assert reason == "QueueFull"
            elif hold is not None:
                assert reason == hold.reason
            elif reason in WAITS_FOR_OTHERS:
                assert self.has_cause(reason), f"{lease.name} waits for nothing: {reason}"
            elif (
                self.policy.queue_strategy == "BestEffortFIFO"
                or not waiting
                or reason in ("WaitingForCapacity", "Fragmented")
            ):
                need = self.policy.vector(lease.request)
                found = place(state.table.scratch(), need, lease.count, lease.mode, None, lease.topology_key)
                assert found is None, f"{lease.name} fits and waits: {reason}"

    def nobody_waits_for_what_was_promised_in_vain(self) -> None:
        """Of those whose promised start has come the next one starts, unless there is no room for it."""
        state = self.worker.state
        due = [promise for promise in state.calendar.promises.values() if promise.start <= self.now]
        if not due or self.worker.hold() is not None:
            return
        outlook = Outlook(state.table.scratch(), state.calendar, self.now)
        for promise in due:
            outlook.give_way(promise.uid)
        uid = min(due, key=lambda promise: (promise.end <= self.now, promise.start, promise.uid)).uid
        shape = state.queue.requests[uid].shape
        until = self.now + shape.span
        found = place(outlook.scratch, shape.need, shape.slices, shape.mode, None, shape.topology_key, until)
        assert found is None or state.shares.over_limit(shape.tenant, shape.total), f"{uid} could start"

    def has_cause(self, reason: str) -> bool:
        """There must be something for which a lease waits that room alone does not help."""
        state = self.worker.state
        if reason in ("WaitingForQuota", "WaitingForFairShare"):
            return bool(self.policy.tenants)
        if reason == "RoomPromised":
            return bool(state.calendar.promises) or self.policy.queue_strategy == "Backfill"
        if reason == "WaitingForVictims":
            return bool(state.holds)
        if reason == "BlockedByHead":
            return self.policy.queue_strategy == "StrictFIFO"
        return any(request.shape.not_before for request in state.queue)

    def world(self) -> World:
        return World(nodes=self.nodes, reports=self.reports, sessions=self.sessions)

    def seen_world(self) -> World:
        return self.worker.sees(self.world(), self.now)

    # --- writes ---

    def try_write(self, write: Write, fate: str) -> None:
        if write.entry is None:
            self.try_change(write, fate)
            return
        if (fence := self.worker.unfenced(write)) is not None:
            with contextlib.suppress(Conflict):
                if fate != "lost":
                    self.land(*fence, self.policy, None)
            self.worker.refresh(fence[0].uid)
            return
        made = self.worker.grant(write, self.world(), self.now)
        if made is None:
            self.worker.finish_grant(write)
            return
        try:
            if fate == "lost":
                raise Conflict
            after = self.land(*made, self.policy, write.entry)
            if fate == "answer lost":
                raise Conflict
        except Conflict:
            self.worker.refresh(write.uid)
            return
        self.worker.state.observe(after)
        self.worker.finish_grant(write)

    def try_change(self, write: Write, fate: str) -> None:
        lease, step = write.lease, write.step
        assert lease is not None
        assert step is not None
        try:
            if fate == "lost":
                raise Conflict
            if step.patch:
                lease = self.land(lease, step, write.policy, None)
            if step.action == "delete" and lease.uid in self.server.documents:
                self.delete(lease.uid)
            if step.action == "drop-finalizer":
                document = self.server.documents.get(lease.uid)
                if document is None or int(document["metadata"]["resourceVersion"]) != lease.version:
                    raise Conflict
                assert not lease.allocated
                del self.server.documents[lease.uid]
            if fate == "answer lost":
                raise Conflict
        except Conflict:
            pass
        self.worker.refresh(write.uid)
        self.worker.finish_change(write)

    def land(self, lease: Lease, step: Step, policy: PoolPolicy | None, entry: Entry | None) -> Lease:
        """Let a write take effect, and hold it to what it must never do."""
        assert policy is not None
        before = self.server.documents.get(lease.uid)
        was = None if before is None else lease_of(before)
        after = self.server.patch(lease, step)
        assert was is not None
        if was.pending and after.allocated:
            token = after.status["fencingToken"]
            assert token not in self.server.tokens, "a token is given once"
            assert entry is not None
            assert token == entry.sequence <= self.server.sequence
            self.server.tokens[token] = lease.uid
        elif after.token != was.token:
            assert after.token not in self.server.tokens, "a token is given once"
            assert entry is not None
            assert after.token == entry.sequence <= self.server.sequence
            self.server.tokens[after.token] = lease.uid
        if not was.releasing and "release" in after.status and was.allocated:
            self.nothing_ends_early(was, after, policy)
        if was.allocated and not after.allocated:
            assert after.finished
        if after.reason("DisruptionTarget") in ("Preempted", "TenantReclaim") and not was.is_true(
            "DisruptionTarget"
        ):
            granted_at = was.instant("allocation", "allocationTime")
            assert granted_at is not None
            assert self.now >= granted_at + policy.guaranteed_time, "its first hours are its own"
        end, maximum = after.deadline("expirationTime"), after.deadline("maxExpirationTime")
        assert maximum is None or (end is not None and end <= maximum)
        return after

    def nothing_ends_early(self, was: Lease, after: Lease, policy: PoolPolicy) -> None:
        cause = after.status["release"]["cause"]
        began = after.instant("release", "startTime")
        assert began is not None
        end, grace = was.deadline("expirationTime"), policy.grace
        if cause in ("TermEnded", "MaximumReached"):
            assert end is not None
            assert began >= end + grace
            assert policy.ends_leases
            assert (cause == "MaximumReached") == (end == was.deadline("maxExpirationTime"))
        elif cause == "HeartbeatLost":
            assert was.liveness != "None"
            missed = was.deadline("heartbeatTime")
            assert began >= (missed or was.created) + grace
            assert not (was.liveness == "Renew" and asks_renewal(was))
        elif cause == "ClaimTimeout":
            assert was.liveness != "None"
            assert began >= (was.deadline("claimTime") or began + 1)
        elif cause == "ReleaseRequested":
            assert was.wants_release or was.deleting
        elif cause in ("AdminRevoked", "PoolDraining", "CapacityLost", "Preempted", "TenantReclaim"):
            notice = was.deadline("revocationTime")
            assert policy.grace == 0 or (notice is not None and began >= notice)
            assert cause != "AdminRevoked" or was.revoke
        elif cause == "ParentEnded":
            self.its_parent_is_ending(was, began)
        else:
            assert cause == "NodeLost", cause

    def its_parent_is_ending(self, was: Lease, began: int) -> None:
        raise AssertionError("there are no sub-leases here")

    # --- always ---

    @invariant()
    def nothing_is_lent_twice(self) -> None:
        """What counts as lent never passes what a node may lend, unless the node itself has less than before."""
        lent = self.server.committed()
        for name in {*self.nodes, *(node for node, _ in lent)}:
            node = self.nodes.get(name)
            limit = (0,) * len(self.policy.names)
            if node is not None:
                limit = judge(node, self.reports.get(name), self.policy, self.now).limit
            lends = dict(zip(self.policy.names, limit, strict=True))
            for key in KEYS:
                place_ = (name, key)
                self.allowance[place_] = max(lends.get(key, 0), min(self.allowance[place_], lent[place_]))
                if key not in lends:
                    self.allowance[place_] = max(self.allowance[place_], lent[place_])
                assert lent[place_] <= self.allowance[place_], f"{place_} lends more than it has"

    @invariant()
    def the_books_balance(self) -> None:
        found = audit(self.worker.state)
        assert found == [], found

    def teardown(self) -> None:
        """Nobody does anything any more, and time goes on: what is due must be found without being told."""
        for seconds in (0, 31, 31, 200, 700):
            self.now += 1000 * seconds
            self.the_pool_comes_to_rest()
            self.nothing_is_lent_twice()
        self.an_administrator_brakes("HoldAndDrain")
        for seconds in (0, 31, 60):
            self.now += 1000 * seconds
            self.the_pool_comes_to_rest()
        assert self.worker.state.ledger.count(HELD) == 0, "a drained pool is empty in the end"


class Promises(Pool):
    """The same while nodes, policies and administrators stand still: then a promised start is always kept."""

    @initialize(policy=pool_policies(calm=True), asks=st.lists(REQUESTS, min_size=3, max_size=6))
    def the_day_begins(self, policy: PoolPolicy, asks: list[dict[str, Any]]) -> None:
        super().the_day_begins(policy, asks)

    @rule(policy=st.none())
    def the_pool_is_changed(self, policy: PoolPolicy | None) -> None:
        if policy is not None:
            super().the_pool_is_changed(policy)

    def an_administrator_brakes(self, stop: str) -> None:
        self.the_pool_is_changed(replace(self.policy, stop=stop))

    def an_administrator_steps_in(self, pick: int, why: str, force: bool) -> None:
        raise NotImplementedError

    a_node_comes_or_changes = a_node_goes = a_node_reports = an_administrator_steps_in
    a_dead_workers_write_arrives = the_worker_wakes_when_it_asked_to = an_administrator_steps_in

    @rule(seconds=st.sampled_from([1, 30, 60, 120, 300, 700]))
    def time_passes(self, seconds: int) -> None:
        """Nobody is late: the worker looks at every instant it asked for, and its writes arrive."""
        goal = self.now + 1000 * seconds
        while True:
            self.the_pool_comes_to_rest()
            self.promises_that_are_due_were_kept()
            deadlines = [self.worker.state.deadlines.next(), self.again]
            instant = min((at for at in deadlines if at is not None), default=goal)
            self.now = min(max(self.now, instant), goal)
            if self.now >= goal:
                self.the_pool_comes_to_rest()
                return

    @rule(seconds=st.sampled_from([20, 60, 300]))
    def commitments_take_their_time(self, seconds: int) -> None:
        """Grants and promises arrive late; all else in time, and the worker looks when it asked to."""
        for _ in range(6):
            self.worker.watch()
            self.run_worker()
            for write in list(self.worker.writes):
                if write.entry is None:
                    self.try_write(write, "arrives")
        starts = [promise.start for promise in self.worker.state.calendar.promises.values()]
        instants = [self.now + 1000 * seconds, self.worker.state.deadlines.next(), self.again, *starts]
        self.now = max(self.now, min(at for at in instants if at is not None))

    def promises_that_are_due_were_kept(self) -> None:
        for promise in self.worker.state.calendar.promises.values():
            assert promise.start > self.now, f"{promise.uid} was promised {promise.start}"

    @invariant()
    def what_is_promised_can_be_redeemed(self) -> None:
        state = self.worker.state
        soonest = self.now + 1
        for promise in state.calendar.promises.values():
            at = max(promise.start, soonest)
            taken: Counter[tuple[str, int]] = Counter()
            for uid, held in state.calendar.held.items():
                # What is promised and committed, but not written yet, counts as the one or the other.
                if uid not in state.calendar.promises and max(held.until, soonest) > at:
                    self.count(taken, held.slices)
            for other in state.calendar.promises.values():
                if max(other.start, soonest) <= at < other.end:
                    self.count(taken, other.slices)
            for (node, r), amount in taken.items():
                limit = judge(self.nodes[node], self.reports.get(node), self.policy, self.now).limit
                assert amount <= limit[r], f"{promise.uid} on {node}"

    def count(self, taken: Counter[tuple[str, int]], slices: Any) -> None:
        for node, amounts in slices:
            for r, amount in enumerate(amounts):
                taken[node, r] += amount

    def teardown(self) -> None:
        for seconds in (1, 700, 700):
            self.time_passes(seconds)


TestPromises = Promises.TestCase
TestPromises.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestPool = Pool.TestCase
TestPool.settings = settings(
    max_examples=25,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 17), st.integers(1, 3)), min_size=1, max_size=6),
    st.sampled_from(["BestFit", "Spread", "LeastUsed", "FirstFit"]),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_release_undoes_grant_exactly(requests: list[tuple[int, int, int]], strategy: str) -> None:
    nodes = [make_node("a", cpu="20"), make_node("b")]
    leases = [
        make_lease(f"l{i}", cpu=str(cpu), memory=f"{memory}Gi", count=count)
        for i, (cpu, memory, count) in enumerate(requests)
    ]
    state = make_state(make_pool(strategy=strategy), nodes, leases)
    state.table.settle()
    empty = (copy.deepcopy(state.table.free), list(state.table.order))
    decided = plan(state, make_world(nodes), NOON)
    for i, grant in enumerate(decided.grants, start=1):
        state.observe(granted(grant.lease, nodes=grant.nodes, token=i))
    assert bool(decided.grants) == (len(state.ledger) > 0)
    for grant in decided.grants:
        given_back = edited(state.leases[grant.lease.uid], desiredState="Released")
        state.observe(written(given_back, advance(given_back, state.policy, make_world(nodes), NOON)))
    assert len(state.ledger) == 0
    assert (state.table.free, state.table.order) == empty
    assert audit(state) == []
