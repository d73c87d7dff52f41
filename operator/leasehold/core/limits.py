"""How long a tenant's leases may stay so that it is not over its limit when a start comes that it was promised."""

from __future__ import annotations

from collections.abc import Mapping

from leasehold.core.amounts import Vector, plus, zero
from leasehold.core.calendar import Calendar, Held, Promise, total_of
from leasehold.core.fairness import Shares, beyond


class _Point:
    """What a tenant holds at one promised start, what was promised included, as far as is known."""

    __slots__ = ("at", "leases", "used")

    def __init__(self, at: int, used: Vector) -> None:
        self.at = at
        self.used = used
        self.leases = 0

    def add(self, amounts: Vector) -> None:
        self.used = plus(self.used, amounts)
        self.leases += 1


class TenantLimits:
    """The limits of tenants that were promised starts; `tenants` says whose each promise is, by uid.

    A tenant's points are worked out when one of its leases first asks, and follow what is decided after that.
    """

    def __init__(self, calendar: Calendar, shares: Shares, tenants: Mapping[str, str], now: int) -> None:
        self._calendar = calendar
        self._shares = shares
        self._soonest = now + 1
        self._points: dict[str, list[_Point]] = {}
        self._promised: dict[str, list[Promise]] = {}
        for uid, tenant in tenants.items():
            rule = shares.rules.get(tenant)
            if rule is not None and (rule.max_leases is not None or any(m is not None for m in rule.limit)):
                self._promised.setdefault(tenant, []).append(calendar.promises[uid])

    def latest(self, held: Held) -> int | None:
        """Return the last instant (ms) at which a lease must have ended; None where its tenant's limit asks nothing."""
        if held.tenant not in self._promised:
            return None
        rule, total = self._shares.rules[held.tenant], self._total(held)
        for point in self._of(held.tenant):
            if point.at < held.until:
                continue
            if rule.max_leases is not None and point.leases >= rule.max_leases:
                return point.at
            if beyond(plus(point.used, total), rule.limit):
                return point.at
        return None

    def extend(self, held: Held, until: int) -> None:
        """Note that a lease stays until an instant."""
        if held.tenant in self._promised:
            for point in self._of(held.tenant):
                if held.until <= point.at < until:
                    point.add(self._total(held))

    def _of(self, tenant: str) -> list[_Point]:
        if tenant not in self._points:
            promised = self._promised[tenant]
            starts = sorted({max(promise.start, self._soonest) for promise in promised})
            points = self._points[tenant] = [_Point(at, zero(len(self._shares.capacity))) for at in starts]
            for promise in promised:
                begin, end = max(promise.start, self._soonest), max(promise.end, self._soonest + 1)
                for point in points:
                    if begin <= point.at < end:
                        point.add(total_of(promise.slices, len(point.used)))
            for held in self._calendar.held.values():
                for point in points if held.tenant == tenant else ():
                    if max(held.until, self._soonest) <= point.at:
                        break
                    point.add(self._total(held))
        return self._points[tenant]

    def _total(self, held: Held) -> Vector:
        return total_of(held.slices, len(self._shares.capacity))
