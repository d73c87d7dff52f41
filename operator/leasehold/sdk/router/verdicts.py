"""Whose fault a failure is, and what follows: pure."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from leasehold.api.names import LeaseReason
from leasehold.sdk.errors import (
    BadConfig,
    Forbidden,
    LeaseholdError,
    LeaseLost,
    LostCause,
    NotConnected,
    PoolNotFound,
    Refused,
    ServerUnavailable,
)
from leasehold.sdk.router.circuit import CircuitRule, Step


class Fault(StrEnum):
    """Whose fault it is that a task has no lease, or has lost it."""

    TASK = "Task"
    """The task's, or nobody's: it hears of it, and no target is worse for it."""
    MATCH = "Match"
    """The target will not serve this task, and is well: it goes elsewhere."""
    TARGET = "Target"
    """The target's: it goes elsewhere, and the target has failed once more."""


class Verdict(NamedTuple):
    """What a failure means.

    `step` is where a target failed, `excluded` that this task need not try it again.
    """

    fault: Fault
    step: Step = Step.ASK
    excluded: bool = False


_SICK = frozenset(
    {
        LeaseReason.POOL_HELD,
        LeaseReason.POOL_NOT_READY,
        LeaseReason.LEDGER_INCONSISTENT,
        LeaseReason.POOL_DRAINING,
    }
)
"""A pool that says so grants nothing to anybody."""

_TARGETS_LOSS = frozenset({LostCause.NOT_RENEWED, LostCause.UNHEARD, LostCause.REVOKED})
"""What a target can do for. That a term is over, or that somebody gave a lease back, is the task's own affair."""

_LOST_FOR_GOOD = frozenset({LostCause.HANDED_OVER, LostCause.CLOSED, LostCause.BROKEN, LostCause.EXPIRED})


def of_request(error: BaseException, *, healthy: bool = True) -> Verdict:
    """Judge why a target gave no lease. `healthy` is what its pool says of itself.

    Identities and names that one target does not know are excluded for this task: waiting will not mend them.
    """
    if isinstance(error, (Forbidden, PoolNotFound, NotConnected, BadConfig)):
        return Verdict(Fault.TARGET, excluded=True)
    if isinstance(error, Refused):
        if error.reason in _SICK or not healthy:
            return Verdict(Fault.TARGET)
        return Verdict(Fault.MATCH, excluded=True)
    if isinstance(error, ServerUnavailable):
        return Verdict(Fault.TARGET)
    if isinstance(error, LeaseLost):
        return of_loss(error, 0, CircuitRule())
    return Verdict(Fault.TASK)


def serves(reason: str) -> bool:
    """Tell whether what a pool says to one that waits proves that it serves."""
    return reason not in _SICK


def fits_nowhere(reason: str) -> bool:
    """Tell whether a pool says that none of its nodes will ever do."""
    return reason == LeaseReason.NO_MATCHING_NODES


def misconfigured(error: LeaseholdError) -> bool:
    """Tell whether a look failed for what somebody has to correct: there is no such pool, or no way in."""
    return isinstance(error, (PoolNotFound, NotConnected, BadConfig))


def of_loss(error: LeaseLost, held: int, rule: CircuitRule) -> Verdict:
    """Judge why a lease was lost that was held for so long (ms)."""
    if error.cause in _TARGETS_LOSS and held < 1000 * rule.soon:
        return Verdict(Fault.TARGET, Step.HOLD)
    return Verdict(Fault.TASK)


def worth_another_try(error: LeaseLost) -> bool:
    """Tell whether the same work may go better under another lease.

    A lease that was handed over goes on elsewhere; a term that was too short will be too short again.
    """
    return error.cause not in _LOST_FOR_GOOD
