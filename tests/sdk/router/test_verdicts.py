import pytest

from leasehold.api.names import LeaseReason
from leasehold.sdk.errors import (
    BadConfig,
    Forbidden,
    KeyConflict,
    LeaseholdError,
    LeaseLost,
    LostCause,
    Misuse,
    NotConnected,
    PoolNotFound,
    Refused,
    ServerUnavailable,
    WaitTimeout,
)
from leasehold.sdk.router.circuit import CircuitRule, Step
from leasehold.sdk.router.verdicts import (
    Fault,
    Verdict,
    fits_nowhere,
    misconfigured,
    of_loss,
    of_request,
    serves,
    worth_another_try,
)

RULE = CircuitRule(soon=30)


def lost(cause: LostCause) -> LeaseLost:
    return LeaseLost("lost", cause=cause)


@pytest.mark.parametrize(
    "error",
    [
        Misuse("wrong"),
        KeyConflict("taken"),
        WaitTimeout("too long"),
        ValueError("of a callback"),
        lost(LostCause.DELETED),
        LeaseholdError("something else"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_task_is_to_blame_for_never_counts_against_a_target(error: Exception) -> None:
    assert of_request(error).fault is Fault.TASK
    assert of_request(error, healthy=False).fault is Fault.TASK


def test_a_refusal_is_a_matter_of_pool_and_task_unless_the_pool_is_sick() -> None:
    too_large = Refused("no", reason="ExceedsPoolMaximum")
    assert of_request(too_large) == Verdict(Fault.MATCH, excluded=True)
    assert of_request(too_large, healthy=False) == Verdict(Fault.TARGET)
    held = Refused("no", reason=LeaseReason.POOL_HELD)
    assert of_request(held) == Verdict(Fault.TARGET)


@pytest.mark.parametrize("error", [Forbidden("no"), PoolNotFound("no"), NotConnected("no"), BadConfig("no")])
def test_what_waiting_will_not_mend_is_not_tried_again_by_the_same_task(error: LeaseholdError) -> None:
    assert of_request(error) == Verdict(Fault.TARGET, excluded=True)
    assert misconfigured(error) == (not isinstance(error, Forbidden))


def test_a_server_that_does_not_answer_is_tried_again() -> None:
    assert of_request(ServerUnavailable("away")) == Verdict(Fault.TARGET)


@pytest.mark.parametrize("cause", LostCause)
def test_a_loss_counts_only_soon_after_the_grant_and_only_where_a_target_can_do_for_it(
    cause: LostCause,
) -> None:
    blamed = cause in (LostCause.NOT_RENEWED, LostCause.UNHEARD, LostCause.REVOKED)
    assert (of_loss(lost(cause), 29_999, RULE) == Verdict(Fault.TARGET, Step.HOLD)) == blamed
    assert of_loss(lost(cause), 30_000, RULE).fault is Fault.TASK
    assert of_request(lost(cause)) == of_loss(lost(cause), 0, RULE)


def test_work_is_not_tried_again_where_its_lease_lives_on_or_its_term_is_too_short() -> None:
    for cause in (LostCause.HANDED_OVER, LostCause.EXPIRED, LostCause.CLOSED, LostCause.BROKEN):
        assert not worth_another_try(lost(cause))
    for cause in (LostCause.REVOKED, LostCause.NOT_RENEWED, LostCause.UNHEARD, LostCause.DELETED):
        assert worth_another_try(lost(cause))


def test_what_a_pool_says_to_one_that_waits() -> None:
    assert serves(LeaseReason.WAITING_FOR_CAPACITY)
    assert not serves(LeaseReason.POOL_HELD)
    assert fits_nowhere(LeaseReason.NO_MATCHING_NODES)
    assert not fits_nowhere(LeaseReason.FRAGMENTED)
