"""The operator's clock: starts at the wall clock, then runs by the monotonic one.

A wall clock that jumps would end leases early or never. This one does not jump; how far the wall has moved away is
told, so that a metric and a log line can say so. TTL is a lower bound: when the API server's clock is behind ours at
the start, we start behind too, because late is allowed and early is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Milliseconds since the epoch that only ever grow."""

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._started = monotonic()
        self._anchor = wall()

    def now(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return int((self._anchor + self._monotonic() - self._started) * 1000)

    def hold_back(self, server_time: int) -> int:
        """Start no later than the API server's clock says (ms, of one-second resolution); return the step taken.

        To be called before anything is decided.
        """
        behind = self.now() - server_time - 1000
        if behind <= 1000:
            return 0
        self._anchor -= behind / 1000
        return behind

    def drift(self) -> int:
        """Return how many milliseconds the wall clock is ahead of this one."""
        return int(self._wall() * 1000) - self.now()
