"""Spreads the ends of leases that are long overdue, so that an outage is not followed by a mass expiry.

After an outage, many deadlines have passed at once. Ending all these leases in one go would bury the API server under
writes just when it comes back, and leave nobody the time to notice a mistake. A lease whose end is fresh never waits
here.
"""

from __future__ import annotations

from typing import Final

from leasehold.core.times import SECOND

AGE: Final = 10 * SECOND
"""An end that is later than this is overdue (ms)."""


class Backlog:
    """Gives each overdue lease its turn, so many a second, the first burst of one second at once."""

    def __init__(self, per_second: int) -> None:
        self._interval = SECOND / per_second
        self._next = float("-inf")
        self._turns: dict[str, float] = {}

    def turn(self, uid: str, now: int) -> int | None:
        """Return None when an overdue lease may end now, else when to ask again (ms)."""
        at = self._turns.get(uid)
        if at is None:
            at = max(self._next, float(now - SECOND))
            self._next = at + self._interval
        if at <= now:
            self._turns.pop(uid, None)
            return None
        self._turns[uid] = at
        return int(at) + 1

    def forget(self, uid: str) -> None:
        """Drop the turn of a lease that does not end, or ended otherwise."""
        self._turns.pop(uid, None)

    def __len__(self) -> int:
        return len(self._turns)
