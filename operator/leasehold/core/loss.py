"""Whom to take capacity from when a node may lend less than is held on it."""

from __future__ import annotations

from leasehold.core.amounts import Vector
from leasehold.core.lease import Lease
from leasehold.core.state import PoolState


def loss_plan(state: PoolState) -> list[str]:
    """Return the leases to revoke so that no node holds more than it may lend, in order.

    Lowest priority first, then the youngest grant; measured use does not count, because it may fall again. Leases
    already on their way out count as gone.
    """
    chosen: list[str] = []
    for name in sorted(state.table.over):
        excess = list(state.table.rows[name].hard_excess())
        for lease in sorted(_on_node(state, name), key=_least_wanted):
            if all(amount <= 0 for amount in excess):
                break
            amounts = _share(state, lease, name)
            if any(have > 0 and short > 0 for have, short in zip(amounts, excess, strict=True)):
                excess = [short - have for short, have in zip(excess, amounts, strict=True)]
                if not lease.releasing and lease.uid not in chosen:
                    chosen.append(lease.uid)
    return chosen


def _on_node(state: PoolState, name: str) -> list[Lease]:
    return [state.leases[uid] for uid in state.ledger.holders(name) if uid in state.leases]


def _least_wanted(lease: Lease) -> tuple[bool, int, int, str]:
    granted = lease.instant("allocation", "allocationTime") or 0
    return (not lease.releasing, lease.priority, -granted, lease.uid)


def _share(state: PoolState, lease: Lease, name: str) -> Vector:
    holding = state.ledger.get(lease.uid)
    parts = () if holding is None else holding.slices
    return tuple(sum(amounts[r] for node, amounts in parts if node == name) for r in range(state.ledger.size))
