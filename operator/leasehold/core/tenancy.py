"""Which tenant of a pool a lease belongs to, by its namespace; and what is wrong with the tenants themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from leasehold.api.names import LeaseReason as R
from leasehold.api.quantity import MAX_AMOUNT, format_amount
from leasehold.core.amounts import Vector, plus, zero
from leasehold.core.policy import TenantRule
from leasehold.core.selectors import Labels


class Unplaced(NamedTuple):
    """A lease belongs to no tenant. `reason` is None where that is not known yet: wait for the namespace's labels."""

    reason: R | None
    message: str


NOT_YET: Final = Unplaced(None, "The labels of the lease's namespace are not known yet.")
"""The namespace was not heard of yet; nothing can be said of its leases."""


def tenant_of(
    namespace: str, asked: str, labels: Labels | None, rules: Sequence[TenantRule]
) -> str | Unplaced:
    """Return the tenant that a lease of a namespace counts against; "" in a pool without tenants.

    `asked` is the lease's `spec.tenant`, "" if it names none. `labels` are its namespace's, None if not heard of yet.
    """
    if not rules:
        return ""
    if labels is None:
        return NOT_YET
    matching = [rule.name for rule in rules if rule.selector.matches(labels)]
    if not matching:
        return Unplaced(R.NAMESPACE_NOT_ALLOWED, f"Namespace {namespace} is in no tenant of this pool.")
    if asked:
        if asked in matching:
            return asked
        message = f"Namespace {namespace} is not in tenant {asked}; it is in {_listed(matching)}."
        return Unplaced(R.NAMESPACE_NOT_ALLOWED, message)
    if len(matching) > 1:
        message = f"Namespace {namespace} is in tenants {_listed(matching)}; name one of them in spec.tenant."
        return Unplaced(R.TENANT_AMBIGUOUS, message)
    return matching[0]


def overlaps(
    rules: Sequence[TenantRule], namespaces: Mapping[str, Labels]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the namespaces that more than one tenant selects, by name, each with those tenants in the pool's order."""
    found = []
    for namespace in sorted(namespaces):
        labels = namespaces[namespace]
        tenants = tuple(rule.name for rule in rules if rule.selector.matches(labels))
        if len(tenants) > 1:
            found.append((namespace, tenants))
    return found


def guarantees_beyond(rules: Sequence[TenantRule], capacity: Vector, names: Sequence[str]) -> str:
    """Say where all guarantees together are more than there is; "" where they can be kept.

    `capacity` is what the pool lends, in the order of `names`.
    """
    promised = zero(len(names))
    for rule in rules:
        promised = plus(promised, rule.guaranteed)
    found = [
        f"{_amount(name, amount)} of {name}, where the pool lends {_amount(name, has)}"
        for name, amount, has in zip(names, promised, capacity, strict=True)
        if amount > has
    ]
    return f"The tenants are guaranteed {'; '.join(found)}."[:1000] if found else ""


def _amount(name: str, amount: int) -> str:
    return format_amount(name, min(max(amount, 0), MAX_AMOUNT))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
