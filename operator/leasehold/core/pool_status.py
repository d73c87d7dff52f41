"""What a pool says of itself: capacity by resource, counts, and conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import PoolCondition as P
from leasehold.api.names import PoolReason as R
from leasehold.api.names import RejectionReason, StopPolicy
from leasehold.core.booking import Entry
from leasehold.core.fairness import MILLION
from leasehold.core.lease import Lease
from leasehold.core.ledger import HELD, QUARANTINED, RELEASING
from leasehold.core.nodes import NOT_FRESH
from leasehold.core.outages import Outage
from leasehold.core.request import NEVER
from leasehold.core.scheduling import in_line
from leasehold.core.state import PoolState
from leasehold.core.status import amount_text, amounts_document, holder_document
from leasehold.core.tenancy import guarantees_beyond, overlaps
from leasehold.core.times import format_time

Json = Mapping[str, Any]


class Facts(NamedTuple):
    """What the pool's status depends on besides its state. `mismatches` is None until the first audit."""

    generation: int
    deleting: bool
    mismatches: Sequence[str] | None
    invalid: str = ""
    unenforced: bool = False


class Figures(NamedTuple):
    """One resource of a pool, summed over its nodes, in base units."""

    name: str
    total: int
    reserved: int
    allocatable: int
    allocated: int
    releasing: int
    quarantined: int
    free: int
    largest_free: int


def figures_of(state: PoolState) -> list[Figures]:
    """Sum the pool's nodes. `free` counts nodes that may get new grants; `largest_free` is the largest single hole.

    allocatable = total less what is reserved, times allocationPercent, whatever the rest of the node uses now: it
    moves with the nodes, not with their load. A node without room for anything counts no debt against the others.
    """
    state.table.settle()
    totals = Counter([row.verdict.total for row in state.table.rows.values()])
    limits = state.table.shapes(None)
    found = []
    for r, rule in enumerate(state.policy.resources):
        open_frees = [free for free in state.table.free[r] if free > 0]
        found.append(
            Figures(
                name=rule.name,
                total=sum(total[r] * count for total, count in totals.items()),
                reserved=sum(rule.kept(total[r]) * count for total, count in totals.items()),
                allocatable=sum(limit[r] * count for limit, count in limits.items()),
                allocated=sum(state.ledger.total(kind)[r] for kind in (HELD, RELEASING, QUARANTINED)),
                releasing=state.ledger.total(RELEASING)[r],
                quarantined=state.ledger.total(QUARANTINED)[r],
                free=sum(open_frees),
                largest_free=max(open_frees, default=0),
            )
        )
    return found


def capacity_document(figures: Sequence[Figures]) -> list[dict[str, str]]:
    """Write the figures as `status.capacity`."""
    return [
        {
            "name": f.name,
            **{
                key: amount_text(f.name, value)
                for key, value in (
                    ("total", f.total),
                    ("reserved", f.reserved),
                    ("allocatable", f.allocatable),
                    ("allocated", f.allocated),
                    ("releasing", f.releasing),
                    ("quarantined", f.quarantined),
                    ("free", f.free),
                    ("largestFree", f.largest_free),
                )
            },
        }
        for f in figures
    ]


def scheduled_count(state: PoolState) -> int:
    """Count the leases that wait for a start that they were promised.

    One that gave up while its promise was being committed has one as well, until that is undone.
    """
    requests = state.queue.requests
    return sum(1 for uid in state.calendar.promises if uid in requests and uid not in state.holds)


def waiting_count(state: PoolState) -> int:
    """Count the leases that wait and were promised nothing yet."""
    waiting = len(state.queue) + len(state.refused) + len(state.unplaced) + len(state.inquiries)
    return waiting - scheduled_count(state)


def waiting_rows(state: PoolState, offset: int, limit: int, namespace: str = "") -> list[dict[str, Any]]:
    """Return who waits, in the order in which the planner looks at them now, with what is known of their turn.

    Positions count everybody; `offset` and `limit` count within a namespace, if one is named.
    """
    numbered = enumerate(in_line(state.queue, state.shares.copy()), start=1)
    wanted = (
        (position, lease)
        for position, request in numbered
        if namespace in ("", (lease := state.leases[request.uid]).namespace)
    )
    return [_waiting_row(state, *row) for row in islice(wanted, offset, offset + limit)]


def _waiting_row(state: PoolState, position: int, lease: Lease) -> dict[str, Any]:
    request = state.queue.requests[lease.uid]
    promise = state.calendar.promises.get(lease.uid)
    start = state.answers.starts.get(lease.uid) if promise is None else promise.start
    return {
        "position": position,
        "namespace": lease.namespace,
        "name": lease.name,
        "uid": lease.uid,
        "tenant": request.shape.tenant,
        "priority": lease.priority,
        "resources": amounts_document(lease.request),
        "count": lease.count,
        "reason": lease.reason(C.ALLOCATED),
        "estimatedStartTime": None if start is None else format_time(start),
    }


def node_counts(state: PoolState) -> Counter[str]:
    """Count the pool's nodes by why they get no new grants; "" are those that may."""
    return Counter(row.verdict.reason for row in state.table.rows.values())


def status_of(state: PoolState, facts: Facts, before: Json, now: int) -> dict[str, Any]:
    """Draft the pool's status, all but its ledger."""
    state.table.settle()
    counts = node_counts(state)
    told = {c["type"]: c for c in before.get("conditions", ())}
    conditions: list[Json] = [
        _condition(told.get(type_), type_, value, reason, message, facts.generation, now)
        for type_, value, reason, message in _judgements(state, facts, counts)
    ]
    ours = {condition["type"] for condition in conditions}
    conditions += [condition for type_, condition in told.items() if type_ not in ours]
    return {
        "observedGeneration": facts.generation,
        "conditions": conditions,
        "capacity": capacity_document(figures_of(state)),
        "nodes": {
            "total": len(state.table.rows),
            "grantable": counts[""],
            "notReady": counts[RejectionReason.NODE_NOT_READY],
            "cordoned": counts[RejectionReason.NODE_CORDONED] + counts[RejectionReason.NODE_EXCLUDED],
            "stale": _stale(counts),
            "pressured": counts[RejectionReason.PRESSURE_HIGH] + counts[RejectionReason.USAGE_HIGH],
            "conflicting": counts[RejectionReason.NODE_CONFLICTING],
        },
        "leases": {
            "pending": waiting_count(state),
            "scheduled": scheduled_count(state),
            "held": state.ledger.count(HELD),
            "releasing": state.ledger.count(RELEASING),
            "quarantined": state.ledger.count(QUARANTINED),
            **({"children": len(state.families.parts)} if state.families.parts else {}),
        },
        **({"tenants": tenants_document(state)} if state.policy.tenants or before.get("tenants") else {}),
    }


def tenants_document(state: PoolState) -> list[dict[str, Any]]:
    """Write what each declared tenant holds, and its rank's parts, as `status.tenants`."""
    waiting = Counter(request.shape.tenant for request in state.queue)
    rows = []
    for rule in state.policy.tenants:
        account = state.shares.account(rule.name)
        row: dict[str, Any] = {
            "name": rule.name,
            "allocated": {
                name: amount_text(name, amount)
                for name, amount in zip(state.policy.names, account.used, strict=True)
            },
            "leases": account.leases,
            "pending": waiting[rule.name],
            "sharePermille": state.shares.share(rule.name) // rule.weight * 1000 // MILLION,
        }
        if state.policy.usage_half_life:
            row["usagePermille"] = account.past * 1000 // MILLION
        if state.shares.counts_waste:
            row["wastePermille"] = account.waste * 1000 // MILLION
        rows.append(row)
    return rows


def ledger_document(epoch: int, sequence: int, entries: Sequence[Entry]) -> dict[str, Any]:
    """Write the pool's ledger: the epoch of its operator, the last token, and what is committed but not written."""
    return {"epoch": epoch, "sequence": sequence, "inFlight": [_entry_document(entry) for entry in entries]}


def outages_document(outages: Sequence[Outage]) -> list[dict[str, str]]:
    """Write the outages that the ledger remembers."""
    return [
        {"startTime": format_time(outage.start), "endTime": format_time(outage.end)} for outage in outages
    ]


def _entry_document(entry: Entry) -> dict[str, Any]:
    end = entry.until if entry.start is None else entry.end
    instants = {
        "startTime": entry.start,
        "endTime": None if end == NEVER else end,
        "notAfterTime": entry.not_after,
    }
    more: dict[str, Any] = {"parentUID": entry.parent} if entry.parent else {}
    if entry.holder is not None:
        more["holder"] = holder_document(entry.holder)
    return {
        "uid": entry.uid,
        "namespace": entry.namespace,
        "name": entry.name,
        "sequence": entry.sequence,
        "resources": amounts_document(entry.amounts),
        "nodes": list(entry.nodes),
        **{name: format_time(at) for name, at in instants.items() if at is not None},
        **more,
    }


_Judgement = tuple[P, bool | None, R, str]


def _judgements(state: PoolState, facts: Facts, counts: Counter[str]) -> list[_Judgement]:
    """State each condition of the pool. Overcommitted and the like appear once they first mean something."""
    found = [_ready(state, facts, counts), _capacity_known(state, counts), _ledger(facts)]
    if state.table.over:
        names = sorted(state.table.over)
        found.append((P.OVERCOMMITTED, True, R.CAPACITY_LOST, f"Held beyond capacity on {_few(names)}."))
    else:
        found.append((P.OVERCOMMITTED, False, R.WITHIN_CAPACITY, ""))
    if facts.deleting:
        found.append((P.DRAINING, True, R.POOL_DELETED, R.POOL_DELETED.meaning))
    elif state.policy.stop == StopPolicy.HOLD_AND_DRAIN:
        found.append((P.DRAINING, True, R.STOP_POLICY, R.STOP_POLICY.meaning))
    else:
        found.append((P.DRAINING, False, R.NOT_DRAINING, ""))
    found.append(_degraded(counts))
    if state.policy.tenants:
        found.append(_tenants(state))
    return found


def _tenants(state: PoolState) -> _Judgement:
    rules = state.policy.tenants
    shared = overlaps(rules, state.namespaces)
    if shared:
        said = [f"{namespace} is in {_few(tenants)}" for namespace, tenants in shared[:5]]
        more = f", and {len(shared) - 5} more" if len(shared) > 5 else ""
        text = f"{R.TENANTS_OVERLAP.meaning} Namespace {'; '.join(said)}{more}."
        return P.TENANTS_VALID, False, R.TENANTS_OVERLAP, text
    beyond = guarantees_beyond(rules, state.table.capacity, state.policy.names)
    unknown = sorted({name for rule in rules for name in rule.unknown})
    if unknown:
        beyond = f"{beyond} The pool does not lend {', '.join(unknown)}.".strip()
    if beyond:
        return P.TENANTS_VALID, False, R.GUARANTEES_EXCEED_CAPACITY, beyond
    return P.TENANTS_VALID, True, R.VALID, ""


def _ready(state: PoolState, facts: Facts, counts: Counter[str]) -> _Judgement:
    if facts.invalid:
        return P.READY, False, R.INVALID_SPEC, facts.invalid
    if facts.unenforced:
        return P.READY, False, R.ENFORCEMENT_OFF, R.ENFORCEMENT_OFF.meaning
    if facts.mismatches:
        return P.READY, False, R.LEDGER_INCONSISTENT, R.LEDGER_INCONSISTENT.meaning
    if facts.deleting or state.policy.stop == StopPolicy.HOLD_AND_DRAIN:
        return P.READY, False, R.POOL_DRAINING, R.POOL_DRAINING.meaning
    if state.policy.stop == StopPolicy.HOLD:
        return P.READY, False, R.POOL_HELD, R.POOL_HELD.meaning
    if not state.table.rows:
        return P.READY, False, R.NO_NODES, R.NO_NODES.meaning
    if not counts[""]:
        return P.READY, False, R.NO_GRANTABLE_NODES, R.NO_GRANTABLE_NODES.meaning
    return P.READY, True, R.SERVING, ""


def _capacity_known(state: PoolState, counts: Counter[str]) -> _Judgement:
    if not state.table.rows:
        return P.CAPACITY_KNOWN, False, R.NO_NODES, R.NO_NODES.meaning
    for kind, reason in (
        (RejectionReason.REPORT_MISSING, R.REPORT_MISSING),
        (RejectionReason.REPORT_STALE, R.REPORT_STALE),
        (RejectionReason.REPORT_FROM_FUTURE, R.REPORT_FROM_FUTURE),
    ):
        if counts[kind]:
            return (
                P.CAPACITY_KNOWN,
                False,
                reason,
                f"{counts[kind]} of {len(state.table.rows)} nodes. {reason.meaning}",
            )
    return P.CAPACITY_KNOWN, True, R.ALL_REPORTED, ""


def _ledger(facts: Facts) -> _Judgement:
    if facts.mismatches is None:
        return P.LEDGER_CONSISTENT, None, R.NOT_CHECKED, ""
    if facts.mismatches:
        return P.LEDGER_CONSISTENT, False, R.MISMATCH, "; ".join(facts.mismatches)[:1000]
    return P.LEDGER_CONSISTENT, True, R.CONSISTENT, ""


def _degraded(counts: Counter[str]) -> _Judgement:
    for kinds, reason in (
        ((RejectionReason.NODE_CONFLICTING,), R.NODES_CONFLICTING),
        ((RejectionReason.NODE_NOT_READY,), R.NODES_NOT_READY),
        ((RejectionReason.PRESSURE_HIGH, RejectionReason.USAGE_HIGH), R.NODES_PRESSURED),
    ):
        number = sum(counts[kind] for kind in kinds)
        if number:
            return P.DEGRADED, True, reason, f"{number} of {counts.total()} nodes. {reason.meaning}"
    return P.DEGRADED, False, R.HEALTHY, ""


def _stale(counts: Counter[str]) -> int:
    return sum(counts[reason] for reason in NOT_FRESH)


def _condition(
    before: Json | None, type_: P, value: bool | None, reason: R, message: str, generation: int, now: int
) -> dict[str, Any]:
    status = "Unknown" if value is None else str(value)
    same = before is not None and before["status"] == status
    return {
        "type": str(type_),
        "status": status,
        "reason": str(reason),
        "message": message[:1000],
        "lastTransitionTime": before["lastTransitionTime"] if same and before else format_time(now),
        "observedGeneration": generation,
    }


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
