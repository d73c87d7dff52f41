"""Leases for programs: ask, wait, hold, give back; and know in time when a lease is lost.

    from leasehold.sdk import Client

    async with Client() as client:
        async with client.lease(pool="ci", cpu="2", memory="4Gi", duration="10m") as lease:
            print(lease.nodes, lease.token)

`leasehold.sdk.sync` is the same without `await`, `leasehold.sdk.health` for an application's health endpoint, and
`leasehold.sdk.errors` draws the errors. Needs the extra `sdk` (aiohttp and PyYAML), never the operator's framework.

The parts: `holding` decides until when a lease may be used, `keeper` looks after all leases of a process, `asking` gets
one, `lease` is what the program holds, `client` the door to it all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leasehold.sdk.asking import PendingLease
    from leasehold.sdk.client import Client, Wish
    from leasehold.sdk.errors import (
        BadConfig,
        Forbidden,
        KeyConflict,
        LeaseEnding,
        LeaseholdError,
        LeaseLost,
        LeaseNotFound,
        LeaseOver,
        LostCause,
        Misuse,
        NotConnected,
        NotGranted,
        PoolNotFound,
        Refused,
        ServerUnavailable,
        StartDeadlineExceeded,
        WaitTimeout,
    )
    from leasehold.sdk.health import Health, LeaseHealth, PoolHealth
    from leasehold.sdk.lease import Lease
    from leasehold.sdk.request import Placement
    from leasehold.sdk.views import (
        Condition,
        CounterOffer,
        Deadline,
        Ending,
        Explanation,
        LeaseView,
        PoolView,
        Progress,
        Quote,
        Rejection,
        ResourceAvailability,
        Slice,
    )
    from leasehold.sdk.watching import LeaseEvent

_HOMES = {
    "asking": ("PendingLease",),
    "client": ("Client", "Wish"),
    "health": ("Health", "LeaseHealth", "PoolHealth"),
    "errors": (
        *("BadConfig", "Forbidden", "KeyConflict", "LeaseEnding", "LeaseLost", "LeaseNotFound", "LeaseOver"),
        *("LeaseholdError", "LostCause", "Misuse", "NotConnected", "NotGranted", "PoolNotFound", "Refused"),
        *("ServerUnavailable", "StartDeadlineExceeded", "WaitTimeout"),
    ),
    "lease": ("Lease",),
    "request": ("Placement",),
    "views": (
        *(
            "Condition",
            "CounterOffer",
            "Deadline",
            "Ending",
            "Explanation",
            "LeaseView",
            "PoolView",
            "Progress",
        ),
        *("Quote", "Rejection", "ResourceAvailability", "Slice"),
    ),
    "watching": ("LeaseEvent",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BadConfig",
    "Client",
    "Condition",
    "CounterOffer",
    "Deadline",
    "Ending",
    "Explanation",
    "Forbidden",
    "Health",
    "KeyConflict",
    "Lease",
    "LeaseEnding",
    "LeaseEvent",
    "LeaseHealth",
    "LeaseLost",
    "LeaseNotFound",
    "LeaseOver",
    "LeaseView",
    "LeaseholdError",
    "LostCause",
    "Misuse",
    "NotConnected",
    "NotGranted",
    "PendingLease",
    "Placement",
    "PoolHealth",
    "PoolNotFound",
    "PoolView",
    "Progress",
    "Quote",
    "Refused",
    "Rejection",
    "ResourceAvailability",
    "ServerUnavailable",
    "Slice",
    "StartDeadlineExceeded",
    "WaitTimeout",
    "Wish",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, then: an HTTP library is no small thing to import."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
