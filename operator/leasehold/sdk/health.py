"""Whether leases and pools are well, for an application's own health endpoint.

    @app.get("/healthz")
    async def healthz():
        found = await client.health(pools=["ci"])
        return JSONResponse(found.as_dict(), found.http_status)

`ok`: everything is as it should be. `degraded`: it works, but a lease is ending, heartbeats are late, or a pool does
not lend. `failing`: a lease is lost, so what runs under it has to stop; only then is 503 suggested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from leasehold.sdk.holding import State
from leasehold.sdk.lease import Lease
from leasehold.sdk.views import PoolView

Status = Literal["ok", "degraded", "failing"]

__all__ = ["Health", "LeaseHealth", "PoolHealth", "health_of", "lease_health", "pool_health"]

_LATE: Final = 0.5


@dataclass(frozen=True, slots=True)
class LeaseHealth:
    """One lease. `remaining` are the seconds it may be used if nothing more is heard; None: no end, or not held."""

    name: str
    pool: str
    state: Literal["waiting", "held", "late", "ending", "lost"]
    remaining: float | None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """One pool. `free` is what it could lend now, by resource."""

    name: str
    ready: bool
    reason: str
    free: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Health:
    """All of it, and why it is not ok."""

    status: Status
    reasons: tuple[str, ...]
    leases: tuple[LeaseHealth, ...]
    pools: tuple[PoolHealth, ...]

    @property
    def http_status(self) -> int:
        """503 where a lease is lost, else 200: whoever is only late shall not be restarted."""
        return 503 if self.status == "failing" else 200

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON wants it."""
        return asdict(self)


def lease_health(lease: Lease) -> LeaseHealth:
    """Look at one lease; nothing is asked of the API server."""
    pool = (lease.view.pool if lease.view is not None else None) or lease.request.pool or ""
    if lease.lost is not None:
        cause = getattr(lease.lost, "cause", None) or getattr(lease.lost, "reason", "")
        return LeaseHealth(lease.name, pool, "lost", 0.0, str(cause))
    if lease.granted_at is None:
        return LeaseHealth(
            lease.name, pool, "waiting", None, "" if lease.view is None else lease.view.reason()
        )
    verdict, remaining = lease._verdict(), lease.remaining()
    cause = "" if verdict.cause is None else str(verdict.cause)
    if verdict.state is State.LOST:
        return LeaseHealth(lease.name, pool, "lost", 0.0, cause)
    left = None if remaining == float("inf") else round(remaining, 3)
    if verdict.state is State.ENDING:
        return LeaseHealth(lease.name, pool, "ending", left, cause)
    return LeaseHealth(lease.name, pool, "late" if lease.is_late(_LATE) else "held", left)


def pool_health(name: str, view: PoolView | None) -> PoolHealth:
    """Look at one pool; None is one that could not be read."""
    if view is None:
        return PoolHealth(name, False, "NotReadable", {})
    free = {row.name: row.free for row in view.capacity.values()}
    return PoolHealth(name, view.ready, view.reason, free)


def health_of(leases: Iterable[Lease], pools: Iterable[PoolHealth] = ()) -> Health:
    """Put it together."""
    looked, rows = tuple(map(lease_health, leases)), tuple(pools)
    lost = [f"lease {found.name} is lost ({found.cause})" for found in looked if found.state == "lost"]
    ill = [f"lease {found.name} is {found.state}" for found in looked if found.state in ("late", "ending")]
    ill += [f"pool {row.name} does not lend ({row.reason})" for row in rows if not row.ready]
    status: Status = "failing" if lost else "degraded" if ill else "ok"
    return Health(status, (*lost, *ill), looked, rows)
