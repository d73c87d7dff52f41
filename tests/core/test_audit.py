"""The audit finds whatever is wrong in the books."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.builders import (
    clock,
    edited,
    granted,
    make_lease,
    make_node,
    make_state,
)
from tests.rehearsal import Rehearsal

from leasehold.api.names import LeaseReason
from leasehold.core.admission import Refusal
from leasehold.core.audit import audit
from leasehold.core.booking import Entry
from leasehold.core.lease import Lease
from leasehold.core.ledger import Holding
from leasehold.core.state import PoolState


def entry_for(lease: Lease, *nodes: str, sequence: int = 1) -> Entry:
    return Entry(lease.uid, lease.namespace, lease.name, sequence, dict(lease.request), nodes or ("node-1",))


def corrupt_books(state: PoolState) -> None:
    state.ledger.put(Holding("uid-build", (("node-1", (1, 1)),)))


def lose_a_lease(state: PoolState) -> None:
    state.ledger.drop("uid-build")


def invent_a_holding(state: PoolState) -> None:
    state._hold(state.ledger.put(Holding("uid-ghost", (("node-1", (1, 1)),))))


def forget_a_commitment(state: PoolState) -> None:
    lease = make_lease("next")
    state.assume(entry_for(lease))
    state._hold(state.ledger.drop(lease.uid))


def corrupt_the_table(state: PoolState) -> None:
    state.table.hold("node-1", (1, 1))


def corrupt_a_column(state: PoolState) -> None:
    state.table.free[0][0] += 1


def lose_a_place_in_the_queue(state: PoolState) -> None:
    state.queue.remove(next(iter(state.queue)).uid)


def give_a_token_twice(state: PoolState) -> None:
    state.observe(granted(name="twin", token=1, nodes=["node-1"]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (corrupt_books, "team-a/build: the books say"),
        (lose_a_lease, "the books say nothing"),
        (invent_a_holding, "uid-ghost: the books say"),
        (forget_a_commitment, "uid-next: the books say nothing"),
        (corrupt_the_table, "node node-1: the table holds"),
        (corrupt_a_column, "node-1: its columns"),
        (lose_a_place_in_the_queue, "the queue is not"),
        (give_a_token_twice, "fencing token 1 was given twice"),
    ],
)
def test_the_audit_finds_every_kind_of_damage(damage: Any, words: str) -> None:
    state = make_state(nodes=[make_node()], leases=[granted(), make_lease("waiting")])
    assert audit(state) == []
    damage(state)
    assert any(words in line for line in audit(state))


def test_a_token_of_a_lease_that_is_over_may_come_again() -> None:
    # A pool deleted and made again under its name counts anew, while old leases are kept to be read.
    old = granted(name="old", token=1)
    over = [*old.status["conditions"], {"type": "Released", "status": "True", "reason": "NotRequired"}]
    old = edited(old, status={**old.status, "conditions": over})
    assert audit(make_state(nodes=[make_node()], leases=[old, granted(name="new", token=1)])) == []


def wrong_queue(state: PoolState) -> None:
    request = next(iter(state.queue))
    state.queue.requests[request.uid] = request._replace(priority=9)


def wrong_refusals(state: PoolState) -> None:
    state.refused["uid-w"] = Refusal(LeaseReason.QUEUE_FULL, "")


def wrong_calendar(state: PoolState) -> None:
    state.calendar.drop("uid-h")


def wrong_promises(state: PoolState) -> None:
    state.calendar.unpromise("uid-l")


def wrong_shares(state: PoolState) -> None:
    state.shares.add("", (1, 0))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (wrong_queue, "the queue is not the leases that wait"),
        (wrong_refusals, "those refused or asking"),
        (wrong_calendar, "the calendar is not what the leases hold"),
        (wrong_promises, "the promises are not what the leases were promised"),
        (wrong_shares, "tenant '': the shares count"),
    ],
)
def test_an_audit_finds_what_is_wrong_with_the_future(spoil: Callable[[PoolState], None], word: str) -> None:
    pool = Rehearsal()
    pool.ask("h")
    pool.ask("l", startTime=clock("1h"))
    pool.ask("w", cpu="16")
    pool.look()
    spoil(pool.state)
    assert any(found.startswith(word) for found in audit(pool.state))
