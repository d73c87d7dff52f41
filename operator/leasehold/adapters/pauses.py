"""How long something that keeps failing is left alone: twice as long each time, until it works.

A write that the API server refuses is refused again a millisecond later. Without a pause it would be tried without
end, at the cost of everybody else's writes.
"""

from __future__ import annotations

from typing import Final

from leasehold.core.deadlines import Deadlines

FIRST: Final = 100
"""The first pause, in milliseconds."""

LONGEST: Final = 30_000
"""No pause is longer (ms)."""


class Pauses:
    """The pauses under way, by key. Instants are milliseconds."""

    def __init__(self) -> None:
        self._lengths: dict[str, int] = {}
        self._deadlines = Deadlines()
        self._paused: set[str] = set()

    def __contains__(self, key: str) -> bool:
        """Tell whether a key is being left alone."""
        return key in self._paused

    def __len__(self) -> int:
        return len(self._paused)

    def failed(self, key: str, now: int) -> bool:
        """Leave a key alone for a while; tell whether this is its first failure in a row."""
        first = key not in self._lengths
        length = self._lengths[key] = min(2 * self._lengths.get(key, FIRST // 2), LONGEST)
        self._deadlines.put(key, now + length)
        self._paused.add(key)
        return first

    def worked(self, key: str) -> None:
        """Forget a key's failures."""
        self._lengths.pop(key, None)
        self._deadlines.put(key, None)
        self._paused.discard(key)

    def put(self, key: str, until: int) -> None:
        """Leave a key alone until then (ms), whatever its failures."""
        self._deadlines.put(key, until)
        self._paused.add(key)

    def pop_due(self, now: int) -> set[str]:
        """Take out the keys whose pause is over; their next failure begins a longer one."""
        due = self._deadlines.pop_due(now)
        self._paused -= due
        return due

    def next(self) -> int | None:
        """Return when the next pause is over, or None."""
        return self._deadlines.next()


QUIET: Final = 600_000
"""Whoever has written nothing for so long (ms) is forgotten."""


class Rivals:
    """How often somebody else wrote what is ours, by key, and how long to wait before it is put right again.

    The first time nothing is waited for: it may have been a mistake. From then on twice as long each time, so that two
    writers who disagree write a few times a minute and not a few hundred.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def seen(self, key: str, now: int) -> int:
        """Note a foreign write; return how long to leave its object alone (ms)."""
        count, last = self._seen.pop(key, (0, now))
        count = 0 if now - last > QUIET else count
        self._seen[key] = (count + 1, now)
        self._forget(now)
        return 0 if not count else min(FIRST << min(count, 20), LONGEST)

    def _forget(self, now: int) -> None:
        """Drop the oldest that are quiet: a dict keeps the order in which keys were put in."""
        while now - next(iter(self._seen.values()))[1] > QUIET:
            del self._seen[next(iter(self._seen))]

    def __len__(self) -> int:
        return len(self._seen)
