"""Who may wait when more want to than a queue has places.

Places are shared evenly: first among tenants, and those of a tenant among its namespaces. Who needs fewer than an even
share leaves the rest to the others (max-min fairness; Bertsekas and Gallager, Data Networks, 1987, section 6.5.2). So
nobody who makes leases by the thousands can keep others from waiting, and from being granted.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def shared(wanted: Mapping[Key, int], places: int) -> dict[Key, int]:
    """Share places among those who want some; nobody gets more than wanted, and none is left that somebody wants.

    No two shares differ by more than one place, unless the smaller is all that was wanted. The order of `wanted` says
    who goes without the last place.
    """
    found: dict[Key, int] = {}
    order = sorted(wanted, key=wanted.__getitem__)  # stable
    for i, key in enumerate(order):
        found[key] = min(wanted[key], places // (len(order) - i))
        places -= found[key]
    return found
