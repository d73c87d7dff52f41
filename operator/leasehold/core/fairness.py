"""Who of the tenants comes next: what each holds against its guarantee, its limit and its weight.

Tenants are ranked by dominant resource share (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011): the largest of
a tenant's shares of the pool's resources, divided by its weight. The smallest comes first. Past use may count too and
fades by half in every half-life, as in Slurm's fair-share factor; and so may what was held and not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from leasehold.api.names import Fairness
from leasehold.core.amounts import Vector, minus, plus, zero
from leasehold.core.policy import PoolPolicy, TenantRule

MILLION = 1_000_000


@dataclass(slots=True)
class Account:
    """What one tenant holds now, and its past: the faded average of its share and of what it wasted, in millionths.

    `as_of` is when the averages were brought up to date (ms).
    """

    used: Vector
    leases: int = 0
    past: int = 0
    waste: int = 0
    as_of: int = 0


@dataclass(slots=True)
class Shares:
    """All tenants of a pool. `capacity` is what the pool's nodes may lend in all."""

    rules: Mapping[str, TenantRule]
    capacity: Vector
    counts_waste: bool = False
    half_life: int = 0
    accounts: dict[str, Account] = field(default_factory=dict)

    def account(self, tenant: str) -> Account:
        """Return a tenant's account, opened on first use."""
        found = self.accounts.get(tenant)
        if found is None:
            found = self.accounts[tenant] = Account(zero(len(self.capacity)))
        return found

    def add(self, tenant: str, amounts: Vector) -> None:
        """Count a grant."""
        account = self.account(tenant)
        account.used = plus(account.used, amounts)
        account.leases += 1

    def remove(self, tenant: str, amounts: Vector) -> None:
        """Count a grant no more."""
        account = self.account(tenant)
        account.used = minus(account.used, amounts)
        account.leases -= 1

    def copy(self) -> Shares:
        """Return shares that can be played with."""
        accounts = {
            name: Account(a.used, a.leases, a.past, a.waste, a.as_of) for name, a in self.accounts.items()
        }
        return Shares(self.rules, self.capacity, self.counts_waste, self.half_life, accounts)

    # --- rank ---

    def share(self, tenant: str) -> int:
        """Return the dominant share of what a tenant holds now, in millionths of the pool."""
        account = self.accounts.get(tenant)
        return 0 if account is None else dominant_share(account.used, self.capacity)

    def rank(self, tenant: str) -> int:
        """Return a tenant's place in line; the smallest comes first."""
        account = self.accounts.get(tenant)
        if account is None:
            return 0
        held = dominant_share(account.used, self.capacity) + (account.past if self.half_life else 0)
        if self.counts_waste:
            held += held * account.waste // MILLION
        return held * 1000 // self.weight(tenant)

    def weight(self, tenant: str) -> int:
        """Return a tenant's weight; one that is not declared has 1."""
        rule = self.rules.get(tenant)
        return 1 if rule is None else rule.weight

    def age(self, now: int) -> None:
        """Let the past fade up to an instant: the average moves towards the present share, half way in a half-life."""
        if not self.half_life:
            return
        for tenant, account in self.accounts.items():
            elapsed = now - account.as_of
            if account.as_of and elapsed > 0:
                account.past = faded(account.past, self.share(tenant), elapsed, self.half_life)
            if elapsed > 0:
                account.as_of = now

    def note_waste(self, tenant: str, wasted: int, weight: int) -> None:
        """Move a tenant's waste towards that of a lease that ended: `wasted` in millionths, `weight` too."""
        account = self.account(tenant)
        account.waste += (wasted - account.waste) * min(weight, MILLION) // MILLION

    # --- guarantee and limit ---

    def entitled(self, tenant: str, amounts: Vector) -> bool:
        """Tell whether a tenant would still be within its guarantee with so much more."""
        rule = self.rules.get(tenant)
        if rule is None or not any(rule.guaranteed):
            return False
        used = self.account(tenant).used
        return all(
            have + more <= most
            for have, more, most in zip(used, amounts, rule.guaranteed, strict=True)
            if more
        )

    def over_limit(self, tenant: str, amounts: Vector) -> bool:
        """Tell whether so much more would be beyond a tenant's limit."""
        rule = self.rules.get(tenant)
        if rule is None:
            return False
        account = self.account(tenant)
        if rule.max_leases is not None and account.leases >= rule.max_leases:
            return True
        return beyond(plus(account.used, amounts), rule.limit)

    def can_lose(self, tenant: str, amounts: Vector) -> bool:
        """Tell whether a tenant borrows and, with so much less, would still have all it is guaranteed."""
        rule = self.rules.get(tenant)
        if rule is None:
            return True
        used = self.account(tenant).used
        return all(
            have - less >= least
            for have, less, least in zip(used, amounts, rule.guaranteed, strict=True)
            if less
        )

    @property
    def guarantees(self) -> bool:
        """Some tenant has a guarantee."""
        return any(any(rule.guaranteed) for rule in self.rules.values())


def shares_of(policy: PoolPolicy, capacity: Vector) -> Shares:
    """Return the shares of a pool in which nothing is held."""
    return Shares(
        {rule.name: rule for rule in policy.tenants},
        capacity,
        policy.fairness == Fairness.DOMINANT_SHARE_AND_WASTE,
        policy.usage_half_life,
    )


def dominant_share(used: Sequence[int], capacity: Sequence[int]) -> int:
    """Return the largest share of any resource, in millionths; of what there is none of, nothing can be had."""
    return max((have * MILLION // most for have, most in zip(used, capacity, strict=True) if most), default=0)


def beyond(amounts: Sequence[int], limit: Sequence[int | None]) -> bool:
    """Tell whether any amount is above its limit; None is no limit."""
    return any(
        most is not None and amount > most for amount, most in zip(amounts, limit, strict=True) if amount
    )


def faded(past: int, present: int, elapsed: int, half_life: int) -> int:
    """Return the average after a time: past x 2^(-t/h) + present x (1 - 2^(-t/h)), in integers.

    Between halvings the curve is followed by its chord, so it is at most 6 % of the step away from it.
    """
    halvings, rest = divmod(elapsed, half_life)
    if halvings > 60:
        return present
    gap = past - present
    sign = -1 if gap < 0 else 1
    gap = abs(gap) << 20
    gap >>= halvings
    gap -= gap * rest // (2 * half_life)
    return present + sign * (gap >> 20)
