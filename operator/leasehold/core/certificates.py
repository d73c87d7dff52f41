"""By which certificate the webhook serves, by which API servers trust it, and when both change.

Each certificate is self-signed, and is itself what API servers trust: there is no authority whose key could sign more.
A new one comes in three steps, so that no pod is refused because of it: it is trusted, it serves, and only then is the
one before it trusted no longer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from leasehold.core.times import SECOND

LIFETIME: Final = 90 * 24 * 3600 * SECOND
"""How long a certificate is good (ms). It is renewed when two thirds of that are over."""

SKEW: Final = 3600 * SECOND
"""How much earlier than made a certificate is good (ms): clocks of API servers may be behind."""

SETTLE: Final = 15 * SECOND
"""How long a certificate is trusted before it serves (ms): every API server has to hear of it."""

RETIRE: Final = 600 * SECOND
"""How long the certificate before is trusted still (ms): every replica has to hear of the new one."""

_MOST_FORMER: Final = 8
"""More of them there are only if somebody breaks the Secret again and again."""


class Certificate(NamedTuple):
    """A certificate as PEM, the hosts it is for, and from when until when it is good (ms)."""

    pem: str
    names: frozenset[str]
    start: int
    end: int

    def good(self, now: int) -> bool:
        """Tell whether it can be served by now."""
        return self.start <= now < self.end

    @property
    def renewal(self) -> int:
        """When it should be replaced (ms)."""
        return self.end - (self.end - self.start) // 3


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its private key, as PEM. The key is never shown."""

    certificate: Certificate
    key: str = field(repr=False)


class Stock(NamedTuple):
    """What is kept in the Secret. A part that cannot be read is None, as one that is not there."""

    current: Pair | None = None
    """Serves."""

    coming: Pair | None = None
    """Is trusted, and will serve."""

    former: tuple[Certificate, ...] = ()
    """Served until lately, and are trusted still."""


class Plan(NamedTuple):
    """What the Secret should hold, and by which certificates API servers should trust the webhook.

    `make` asks for a new pair to come; `stock` is then without it.
    """

    stock: Stock
    make: bool = False


def serves(stock: Stock, until_now: Pair | None, now: int) -> Pair | None:
    """Return by what a replica serves; None where there is nothing.

    What it served until now is better than what API servers may not trust yet: somebody may have emptied the Secret.
    """
    for pair in (stock.current, until_now, stock.coming):
        if pair is not None and pair.certificate.good(now):
            return pair
    return None


def bundle(stock: Stock, now: int) -> tuple[str, ...]:
    """Return by which certificates API servers should trust whoever serves from this stock."""
    found = [pair.certificate for pair in (stock.current, stock.coming) if pair is not None]
    found += stock.former
    return tuple(sorted({each.pem for each in found if now < each.end}))


def plan(
    stock: Stock,
    names: frozenset[str],
    trusted: Collection[str],
    serving: Certificate | None,
    now: int,
    since: int,
) -> Plan:
    """Return what is to be done about the webhook's certificates.

    `names` are the hosts under which API servers call, `trusted` is by what they trust it now, `serving` by what this
    replica serves, and `since` is since when all that was seen to be so (ms).
    """
    current, coming, former = stock
    if current is not None and now >= current.certificate.end:
        current = None
    former = tuple(each for each in former if now < each.end)
    if coming is not None and not _fits(coming, names, now):
        coming = None
    if coming is None:
        if current is None:
            return Plan(Stock(None, None, _with(former, serving)), make=True)
        if not _fits(current, names, now) or now >= current.certificate.renewal:
            return Plan(Stock(current, None, former), make=True)
        if now >= since + RETIRE:
            former = ()
        return Plan(Stock(current, None, former))
    if coming.certificate.pem not in trusted:
        return Plan(Stock(current, coming, former))
    # Who has nothing else to serve by has nothing to wait for.
    alone = current is None and serving in (None, coming.certificate)
    if not alone and now < since + SETTLE:
        return Plan(Stock(current, coming, former))
    return Plan(Stock(coming, None, former if current is None else _with(former, current.certificate)))


def _with(former: tuple[Certificate, ...], one: Certificate | None) -> tuple[Certificate, ...]:
    return former if one is None or one in former else (*former, one)[-_MOST_FORMER:]


def _fits(pair: Pair, names: frozenset[str], now: int) -> bool:
    return pair.certificate.good(now) and names <= pair.certificate.names
