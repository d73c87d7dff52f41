"""The errors of the SDK: what happened, and what to do about it.

LeaseholdError
├── Misuse                  the program: a call that cannot be right, or a value that cannot be read
├── BadConfig               the environment: no kubeconfig, no such context, Leasehold is not installed
├── NotConnected            the environment: the API server does not know who is asking
├── Forbidden               the administrator: this identity may not do that
├── ServerUnavailable       the world: the API server does not answer; try again later
├── LeaseNotFound           nobody: no lease of that name
├── Refused                 the request: the pool's policy, or the API server, does not allow it
│   └── PoolNotFound        the request: there is no such pool
├── KeyConflict             the program: the key is taken by another request
├── NotGranted              nobody: it was not granted
│   ├── WaitTimeout         ... within the time the caller gave
│   └── StartDeadlineExceeded   ... within the time the request itself gave
└── LeaseOver               the lease must not be used any more
    ├── LeaseEnding         ... soon: it is being taken back
    └── LeaseLost           ... now; `cause` says why

Each message ends with a remedy, which is also in `remedy`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from leasehold.core.errors import LeaseholdError as _Base

if TYPE_CHECKING:
    from leasehold.sdk.views import CounterOffer, LeaseView


class LeaseholdError(_Base):
    """Base of all errors that the SDK raises on purpose. `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.remedy = remedy


class Misuse(LeaseholdError):
    """The SDK was called in a way that cannot be right; nothing was sent to the API server."""


class BadConfig(LeaseholdError):
    """There is no way to an API server that has Leasehold, as far as the configuration says."""


class NotConnected(LeaseholdError):
    """The API server does not accept the credentials."""


class Forbidden(LeaseholdError):
    """The identity has no right to do this."""


class ServerUnavailable(LeaseholdError):
    """The API server did not answer, or not in time. What was asked for may or may not have been done."""


class LeaseNotFound(LeaseholdError):
    """There is no lease of this name."""


class Refused(LeaseholdError):
    """The request cannot be granted as it is. `reason` is that of the lease's condition Accepted, or Invalid."""

    def __init__(self, message: str, remedy: str = "", *, reason: str = "Invalid") -> None:
        super().__init__(message, remedy)
        self.reason = reason


class PoolNotFound(Refused):
    """There is no such pool."""


class KeyConflict(LeaseholdError):
    """The key belongs to another request: of this client, or with other wishes."""


class NotGranted(LeaseholdError):
    """The lease was not granted in time, and the request was withdrawn.

    `reason` is the last one that the operator gave, `counter_offer` what could be had instead, where it said.
    """

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        reason: str = "",
        position: int | None = None,
        counter_offer: CounterOffer | None = None,
        view: LeaseView | None = None,
    ) -> None:
        super().__init__(message, remedy)
        self.reason = reason
        self.position = position
        self.counter_offer = counter_offer
        self.view = view


class WaitTimeout(NotGranted, TimeoutError):
    """It was not granted within the caller's `timeout`."""


class StartDeadlineExceeded(NotGranted):
    """It was not granted before its start deadline."""


class LostCause(StrEnum):
    """Why a lease must not be used any more."""

    NOT_RENEWED = "NotRenewed"
    """No heartbeat was confirmed in time: the capacity may go to somebody else soon."""
    UNHEARD = "Unheard"
    """Nothing was heard of the lease for longer than the pool's grace: it may have been revoked meanwhile."""
    EXPIRED = "Expired"
    """Its term is over, and it could not be renewed."""
    REVOKED = "Revoked"
    """It was taken back: by an administrator, for another lease, with its node or its pool."""
    DELETED = "Deleted"
    """Somebody deleted it, or gave it back."""
    HANDED_OVER = "HandedOver"
    """It has another holder now."""
    SUPERSEDED = "Superseded"
    """It has another fencing token now."""
    CLOSED = "Closed"
    """Its client was closed."""
    BROKEN = "Broken"
    """The SDK cannot look after it any more, by a fault of its own; please report it."""


class LeaseOver(LeaseholdError):
    """The lease must not be used any more, or soon must not."""

    def __init__(self, message: str, remedy: str = "", *, name: str = "", token: int | None = None) -> None:
        super().__init__(message, remedy)
        self.name = name
        self.token = token


class LeaseEnding(LeaseOver):
    """The lease is being taken back. `seconds` are left to finish in, `reason` is the operator's."""

    def __init__(
        self, message: str, remedy: str = "", *, name: str = "", reason: str = "", seconds: float = 0.0
    ) -> None:
        super().__init__(message, remedy, name=name)
        self.reason = reason
        self.seconds = seconds


class LeaseLost(LeaseOver):
    """The lease must not be used from now on: stop, before the capacity is given to somebody else."""

    def __init__(
        self, message: str, remedy: str = "", *, name: str = "", cause: LostCause, token: int | None = None
    ) -> None:
        super().__init__(message, remedy, name=name, token=token)
        self.cause = cause


REMEDIES: dict[LostCause, str] = {
    LostCause.NOT_RENEWED: (
        "Is the API server within reach, and the event loop free? Stop what runs under the lease and ask for a new one."
    ),
    LostCause.UNHEARD: "Is the API server within reach? Stop what runs under the lease and ask for a new one.",
    LostCause.EXPIRED: "Ask for a longer duration, or for a new lease.",
    LostCause.REVOKED: "Stop what runs under the lease and ask for a new one.",
    LostCause.DELETED: "Stop what runs under the lease; ask for a new one if it was not meant.",
    LostCause.HANDED_OVER: "Stop what runs under the lease here; its new holder goes on.",
    LostCause.SUPERSEDED: "Stop what runs under the lease; attach to it again if it is still yours.",
    LostCause.CLOSED: "Keep the client open for as long as its leases are used.",
    LostCause.BROKEN: "Stop what runs under the lease, and please report this.",
}
