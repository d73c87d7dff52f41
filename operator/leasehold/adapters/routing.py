"""Which pool a lease goes to that leaves the choice to the operator: every matching pool is asked when it could start.

The answers are the pools' own: each looks ahead with the lease standing in its queue. So this is the load balancing
of a task router, by earliest start and then by load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from leasehold.adapters.clock import SteadyClock
from leasehold.core.admission import Refusal, admit
from leasehold.core.calendar import Outlook
from leasehold.core.forecast import Forecast
from leasehold.core.lease import Lease
from leasehold.core.placement import place
from leasehold.core.policy import PoolPolicy
from leasehold.core.quote import Offer, best, load_of, offer_told, why_best
from leasehold.core.request import Request
from leasehold.core.state import PoolState

_SLICES = 200


class Pool(Protocol):
    """A pool that is led here."""

    name: str

    @property
    def document(self) -> Mapping[str, Any]:
        """The pool's object as last seen."""
        ...

    @property
    def state(self) -> PoolState:
        """The pool in memory."""
        ...

    @property
    def ready(self) -> bool:
        """The pool is taken over."""
        ...

    def grants_nothing(self) -> bool:
        """Tell whether the pool grants nothing at all now."""
        ...


class Followed(Protocol):
    """A pool that another replica leads. `policy` is None while its spec cannot be read."""

    name: str
    document: Mapping[str, Any]
    policy: PoolPolicy | None


class Choice(NamedTuple):
    """The pool that was chosen ("" for none) and why; `wait` says that some pool cannot be asked yet."""

    pool: str
    why: str
    wait: bool = False


class Router:
    """Asks the pools that are led here; of the others it knows what their status tells."""

    def __init__(
        self,
        clock: SteadyClock,
        pools: Callable[[], Iterable[Pool]],
        followed: Callable[[], Iterable[Followed]] = tuple,
        namespaces: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.clock = clock
        self.pools = pools
        self.followed = followed
        self.namespaces = namespaces or {}

    async def choose(self, lease: Lease) -> Choice:
        """Choose a pool for a lease with a `poolSelector`."""
        now = self.clock.now()
        offers: list[Offer] = []
        refusals: list[str] = []
        matching = sorted(
            (pool for pool in self.pools() if self._matches(pool, lease)), key=lambda pool: pool.name
        )
        if any(not pool.ready for pool in matching):
            return Choice("", "A matching pool is just being taken over.", wait=True)
        for pool in matching:
            request = _request(pool.state, lease)
            if request is None:
                return Choice("", "The labels of the namespace are not known yet.", wait=True)
            if isinstance(request, Refusal):
                refusals.append(f"{pool.name}: {request.message}")
            elif pool.grants_nothing():
                refusals.append(f"{pool.name} grants nothing now")
            else:
                offers.append(await self._offer(pool, request, now))
        for other in sorted(self.followed(), key=lambda pool: pool.name):
            if not self._matches(other, lease) or other.policy is None:
                continue
            found = admit(lease, other.policy, self.namespaces.get(lease.namespace), lease.turn())
            if isinstance(found, Refusal):
                refusals.append(f"{other.name}: {found.message}")
            elif found is not None:
                offers.append(
                    offer_told(other.name, other.document.get("status") or {}, found, other.policy, now)
                )
        chosen = best(offers, now)
        if chosen is not None:
            return Choice(chosen.pool, why_best(chosen, offers, now))
        if refusals:
            return Choice("", f"No pool that matches spec.poolSelector takes it. {'; '.join(refusals)}")
        return Choice(
            "", "No CapacityPool has the labels of spec.poolSelector. Correct them, or label a pool."
        )

    def elsewhere(self, pool: str, lease: Lease) -> Offer | None:
        """Return what the best other pool would grant at once, or None where none would.

        Where the lease names pools by their labels, only those are asked.
        """
        now = self.clock.now()
        found: list[tuple[Offer, PoolState, Request]] = []
        for other in self.pools():
            if other.name == pool or not other.ready or other.grants_nothing():
                continue
            if lease.pool_selector is not None and not self._matches(other, lease):
                continue
            request = _request(other.state, lease)
            if isinstance(request, Request) and _fits_now(other.state, request, now):
                found.append((Offer(other.name, now, load=load_of(other.state)), other.state, request))
        for offer, state, request in sorted(found, key=lambda row: (row[0].load, row[0].pool)):
            if _starts_now(state, request, now):
                return offer
        return None

    def _matches(self, pool: Pool | Followed, lease: Lease) -> bool:
        labels = pool.document["metadata"].get("labels") or {}
        leaving = "deletionTimestamp" in pool.document["metadata"]
        return lease.pool_selector is not None and not leaving and lease.pool_selector.matches(labels)

    async def _offer(self, pool: Pool, request: Request, now: int) -> Offer:
        look = Forecast(pool.state, now, [request])
        for _ in range(_SLICES):
            if look.look():
                break
            await asyncio.sleep(0)
        start = look.answers.starts.get(request.uid)
        return Offer(pool.name, start, look.answers.nodes.get(request.uid, ()), load_of(pool.state))


def _request(state: PoolState, lease: Lease) -> Request | Refusal | None:
    return admit(lease, state.policy, state.namespaces.get(lease.namespace), lease.turn())


def _starts_now(state: PoolState, request: Request, now: int) -> bool:
    """Tell whether a pool's own planner would start a request now, with all those who wait there already."""
    look = Forecast(state, now, [request])
    look.look(1)
    return look.answers.starts.get(request.uid) == now


def _fits_now(state: PoolState, request: Request, now: int) -> bool:
    """Tell at little cost whether a pool may have room for a request now."""
    shape = request.shape
    scratch = state.table.scratch()
    Outlook(scratch, state.calendar, now)
    allowed = state.table.selected(shape.node_selector)
    if state.shares.over_limit(shape.tenant, shape.total):
        return False
    until = now + shape.span
    found = place(scratch, shape.need, shape.slices, shape.mode, allowed, shape.topology_key, until)
    return found is not None
