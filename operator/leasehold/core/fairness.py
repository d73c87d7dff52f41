"""Who of the tenants comes next: what each holds against its guarantee, its limit and its weight.

Tenants are ranked by dominant resource share (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011): the largest of
a tenant's shares of the pool's resources, divided by its weight. The smallest comes first. Past use may count too and
fades by half in every half-life, as in Slurm's fair-share factor; and so may what was held and not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt

from leasehold.api.names import Fairness
from leasehold.core.amounts import Vector, minus, plus, zero
from leasehold.core.policy import PoolPolicy, TenantRule

MILLION = 1_000_000
_FINE = 32
_FRACTION = 48


@dataclass(slots=True)
class Account:
    """What one tenant holds now, and its past: the faded average of its share and of what it wasted, in millionths.

    `as_of` is when the averages were brought up to date (ms; 0: never), `peak` the largest share held since then,
    and `rest` what `past` leaves out, in parts of 2^-32 of a millionth.
    """

    used: Vector
    leases: int = 0
    past: int = 0
    waste: int = 0
    as_of: int = 0
    peak: int = 0
    rest: int = 0


@dataclass(slots=True)
class Shares:
    """All tenants of a pool. `capacity` is what the pool's nodes may lend in all."""

    rules: Mapping[str, TenantRule]
    capacity: Vector
    counts_waste: bool = False
    half_life: int = 0
    accounts: dict[str, Account] = field(default_factory=dict)
    as_of: int = 0

    def account(self, tenant: str) -> Account:
        """Return a tenant's account, opened on first use."""
        found = self.accounts.get(tenant)
        if found is None:
            found = self.accounts[tenant] = Account(zero(len(self.capacity)), as_of=self.as_of)
        return found

    def add(self, tenant: str, amounts: Vector) -> None:
        """Count a grant."""
        account = self.account(tenant)
        account.used = plus(account.used, amounts)
        account.leases += 1
        self._note_peak(account)

    def remove(self, tenant: str, amounts: Vector) -> None:
        """Count a grant no more."""
        account = self.account(tenant)
        account.used = minus(account.used, amounts)
        account.leases -= 1

    def copy(self) -> Shares:
        """Return shares that can be played with."""
        accounts = {
            name: Account(a.used, a.leases, a.past, a.waste, a.as_of, a.peak, a.rest)
            for name, a in self.accounts.items()
        }
        return Shares(self.rules, self.capacity, self.counts_waste, self.half_life, accounts, self.as_of)

    def _note_peak(self, account: Account) -> None:
        if self.half_life:
            account.peak = max(account.peak, dominant_share(account.used, self.capacity))

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
        """Let the past fade up to an instant: the average moves towards what was held, half way in a half-life.

        What was held is the most since the last time: whoever gives back before this is asked held it until then.
        """
        if not self.half_life:
            return
        for tenant, account in self.accounts.items():
            elapsed = now - account.as_of
            if elapsed < 0:
                continue
            present = self.share(tenant)
            if account.as_of and elapsed:
                past = (account.past << _FINE) + account.rest
                past = faded(past, max(account.peak, present) << _FINE, elapsed, self.half_life)
                account.past, account.rest = past >> _FINE, past & ((1 << _FINE) - 1)
            account.as_of, account.peak = now, present
        self.as_of = max(self.as_of, now)

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

    It is off by 1 at most for each 2^30 of the step, and by one more for rounding; so many small steps come to the
    same as a large one.
    """
    halvings, rest = divmod(elapsed, half_life)
    if halvings > 60:
        return present
    gap = abs(past - present) * _half_to(rest, half_life) >> (_FRACTION + halvings)
    return present + (gap if past > present else -gap)


def _half_to(part: int, whole: int) -> int:
    """Return 2^(-part/whole) in parts of 2^-48, for a part below the whole: a product of square roots of a half."""
    found = 1 << _FRACTION
    for root in _ROOTS:
        part *= 2
        if part >= whole:
            part -= whole
            found = found * root >> _FRACTION
        if not part:
            break
    return found


def _roots() -> list[int]:
    """Return 2^(-1/2), 2^(-1/4) and so on, in parts of 2^-48."""
    found = []
    root = 1 << (_FRACTION - 1)
    for _ in range(_FRACTION):
        root = isqrt(root << _FRACTION)
        found.append(root)
    return found


_ROOTS = _roots()
