"""The audit of a pool's books: everything that is kept up to date change by change is worked out anew, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Set

from leasehold.core.admission import Refusal, admit
from leasehold.core.amounts import Vector, plus, zero
from leasehold.core.booking import committed_holding, holding_of, part_of, promise_of, slices_of
from leasehold.core.calendar import Promise, Slices, total_of
from leasehold.core.families import Families, Part
from leasehold.core.ledger import Ledger, differences
from leasehold.core.request import Request
from leasehold.core.state import PoolState


def audit(state: PoolState) -> list[str]:
    """Rebuild the books from the leases and name every difference; [] when they agree."""
    return [
        *_of_the_ledger(state),
        *_of_the_table(state),
        *_of_the_future(state),
        *_of_the_families(state),
        *_of_the_shares(state),
        *_of_the_tokens(state),
    ]


def _of_the_ledger(state: PoolState) -> list[str]:
    rebuilt = Ledger(state.ledger.size)
    for lease in state.leases.values():
        if lease.slices and not lease.parent:
            rebuilt.put(holding_of(lease, state.policy))
    for entry in state.entries.values():
        known = state.leases.get(entry.uid)
        if entry.takes_room and (known is None or not known.allocated):
            rebuilt.put(committed_holding(entry, state.policy))
    return differences(state.ledger, rebuilt, lambda uid: _key(state, uid))


def _key(state: PoolState, uid: str) -> str:
    lease = state.leases.get(uid)
    return uid if lease is None else lease.key


def _of_the_table(state: PoolState) -> list[str]:
    found = [
        f"node {name}: the table holds {row.held}, the books {state.ledger.on_node(name)}"
        for name, row in state.table.rows.items()
        if row.held != state.ledger.on_node(name)
    ]
    return found + state.table.differences()


def _of_the_future(state: PoolState) -> list[str]:
    """Work out anew who waits, what is held until when, and what was promised, and say what differs."""
    waiting: dict[str, Request] = {}
    asking: dict[str, Request] = {}
    refused: dict[str, Refusal] = {}
    promised: dict[str, Promise] = {}
    held_by: dict[str, tuple[Slices, str]] = {}
    for lease in state.leases.values():
        if lease.parent:
            continue
        if lease.slices:
            held_by[lease.uid] = slices_of(lease, state.policy), state.tenant_of(lease)
        if not lease.pending or lease.deleting or lease.wants_release:
            continue
        found = admit(lease, state.policy, state.namespaces.get(lease.namespace), state.turn_of(lease))
        if isinstance(found, Refusal):
            refused[lease.uid] = found
        elif found is not None:
            (asking if lease.is_dry_run else waiting)[lease.uid] = found
            promise = promise_of(lease, found.shape, state.policy, state.table.rows)
            if promise is not None and not lease.is_dry_run:
                promised[lease.uid] = promise
    wrong = []
    order = sorted((request.turn, uid) for uid, request in waiting.items())
    if waiting != state.queue.requests or order != state.queue.order:
        wrong.append("the queue is not the leases that wait, in order")
    if (refused, asking) != (state.refused, state.inquiries):
        wrong.append("those refused or asking are not the leases that are")
    committed = state.entries.keys()
    known = {
        uid: (held.slices, held.tenant) for uid, held in state.calendar.held.items() if uid not in committed
    }
    if known != {uid: held for uid, held in held_by.items() if uid not in committed}:
        wrong.append("the calendar is not what the leases hold")
    kept = {uid: promise for uid, promise in state.calendar.promises.items() if uid not in state.holds}
    if _without(kept, committed) != _without(promised, committed):
        wrong.append("the promises are not what the leases were promised")
    return wrong


def _of_the_families(state: PoolState) -> list[str]:
    """Work out anew who is part of whom and holds what of it."""
    rebuilt = Families()
    for lease in state.leases.values():
        if not lease.parent:
            continue
        if not lease.finished:
            rebuilt.join(lease)
        if lease.slices:
            rebuilt.take(lease.uid, Part(lease.parent_uid, lease.slices))
    for entry in state.entries.values():
        known = state.leases.get(entry.uid)
        if entry.parent and (known is None or not known.allocated):
            rebuilt.take(entry.uid, part_of(entry))
    if (rebuilt.members, rebuilt.parts) != (state.families.members, state.families.parts):
        return ["the sub-leases are not those that the leases say there are"]
    return []


def _without(promises: Mapping[str, Promise], committed: Set[str]) -> dict[str, Promise]:
    return {uid: promise for uid, promise in promises.items() if uid not in committed}


def _of_the_shares(state: PoolState) -> list[str]:
    sums: dict[str, Vector] = {}
    for held in state.calendar.held.values():
        before = sums.get(held.tenant, zero(state.ledger.size))
        sums[held.tenant] = plus(before, total_of(held.slices, state.ledger.size))
    return [
        f"tenant {tenant!r}: the shares count {account.used}, the calendar {sums.get(tenant)}"
        for tenant, account in state.shares.accounts.items()
        if any(account.used) and account.used != sums.get(tenant)
    ]


def _of_the_tokens(state: PoolState) -> list[str]:
    """Look only at leases that hold something: those of an earlier pool of this name may have had the same tokens."""
    found = []
    tokens: dict[int, str] = {}
    for lease in state.leases.values():
        token = lease.status.get("fencingToken")
        if lease.allocated and token is not None and tokens.setdefault(token, lease.uid) != lease.uid:
            found.append(f"{lease.key}: fencing token {token} was given twice")
    return found
