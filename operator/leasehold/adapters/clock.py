"""The operator's clock: starts at the wall clock, then runs by the monotonic one.

A wall clock that jumps would end leases early or never. This one does not jump; how far the wall has moved away is
told, so that a metric and a log line can say so. Deadlines are absolute times that one replica writes and another may
read. So each starts at the API server's time where its own differs from it: they need not trust each other's clocks.
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

    def follow(self, server_time: int) -> int:
        """Start at the API server's time (ms, of one-second resolution) where this clock is off; return the step taken.

        A step is negative where this clock was behind. To be called before anything is decided.
        """
        ahead = self.now() - server_time - 1000
        if ahead > 1000:
            step = ahead
        elif self.now() < server_time - 1000:
            step = self.now() - server_time
        else:
            return 0
        self._anchor -= step / 1000
        return step

    def drift(self) -> int:
        """Return how many milliseconds the wall clock is ahead of this one."""
        return int(self._wall() * 1000) - self.now()
