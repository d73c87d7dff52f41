"""What a series of readings says: trend, percentile, maximum, a clock's offset, a threshold with
hysteresis.

Times are seconds on one monotonic scale, chosen by the caller. Readings are integers in whatever unit the
caller counts. Which estimator serves which purpose was measured (``docs/performance.md``): an exponentially
weighted mean over 5 s tracks best, the p90 over 60 s is the safe figure to place work by, and the maximum
is for people.
"""

from collections import deque
from math import exp
from typing import Final

DRIFT: Final = 1e-4
"""How far two clocks may part per second, as a share: 100 ppm, five times what a quartz oscillator is sold
with.
"""

_DATE_RESOLUTION: Final = 1.0
"""An HTTP Date header is cut to whole seconds (RFC 9110, 5.6.7)."""


class Trend:
    """An exponentially weighted mean of readings that need not be evenly spaced.

    A reading that stands for ``elapsed`` seconds gets the weight ``1 - exp(-elapsed / time_constant)``,
    which is what a first-order low-pass filter gives it; how often one reads therefore does not change how
    fast the trend follows.
    """

    __slots__ = ("_at", "_time_constant", "value")

    def __init__(self, time_constant: float) -> None:
        self._time_constant = time_constant
        self._at: float | None = None
        self.value = 0.0
        """The trend, or 0 before the first reading."""

    def add(self, at: float, reading: float) -> None:
        """Take in one reading made at ``at``."""
        if self._at is None:
            self.value = reading
        else:
            weight = 1 - exp(-max(at - self._at, 0.0) / self._time_constant)
            self.value += weight * (reading - self.value)
        self._at = at


class Window:
    """The readings of the last ``seconds``, each kept until it is that old and never dropped earlier."""

    __slots__ = ("_readings", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._readings: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        """How many readings are held."""
        return len(self._readings)

    def resize(self, seconds: float) -> None:
        """Make the window another length. A longer one fills with time; a shorter one forgets with the next reading."""
        self._seconds = seconds

    def add(self, at: float, reading: int) -> None:
        """Take in one reading and forget those that are ``seconds`` old by now."""
        readings = self._readings
        readings.append((at, reading))
        oldest = at - self._seconds
        while readings[0][0] <= oldest:
            readings.popleft()

    def percentile(self, percent: int, over: float | None = None) -> int | None:
        """Return the exact percentile by nearest rank, always one of the readings; None while there is none.

        ``over`` looks at no more than the last so many seconds, counted back from the newest reading.
        """
        readings = self._recent(over)
        if not readings:
            return None
        readings.sort()
        rank = -(-len(readings) * percent // 100)
        return readings[max(rank, 1) - 1]

    def maximum(self) -> int | None:
        """Return the largest reading, or None while there is none."""
        return max((reading for _, reading in self._readings), default=None)

    def _recent(self, over: float | None) -> list[int]:
        if over is None or not self._readings:
            return [reading for _, reading in self._readings]
        oldest = self._readings[-1][0] - over
        recent = []
        for at, reading in reversed(self._readings):
            if at <= oldest:
                break
            recent.append(reading)
        return recent


class Latch:
    """A yes/no answer with hysteresis: on at ``high`` and above, off at ``low`` and below, else what it was."""

    __slots__ = ("_high", "_low", "on")

    def __init__(self, *, low: float, high: float) -> None:
        self._low = low
        self._high = high
        self.on = False

    def update(self, value: float) -> bool:
        """Take in one value and return the answer."""
        if value >= self._high:
            self.on = True
        elif value <= self._low:
            self.on = False
        return self.on


class ClockOffset:
    """How far the local wall clock is ahead of a server's, from the ``Date`` of its answers.

    One answer only bounds the offset: the server stamped it, to the second, between sending and receiving.
    The bounds of later answers fall elsewhere within the second, and the offset lies in all of them, so
    their intersection narrows (the idea of Marzullo's algorithm). It is widened by ``DRIFT`` as time
    passes, and begun anew when a bound contradicts it, which means that one of the clocks was set.
    """

    __slots__ = ("_at", "_high", "_low")

    def __init__(self) -> None:
        self._at: float | None = None
        self._low = 0.0
        self._high = 0.0

    def observe(self, at: float, sent: float, received: float, server: float) -> None:
        """Take in one answer: local wall clock at sending and receiving, and the server's Date, in epoch seconds."""
        low, high = sent - server - _DATE_RESOLUTION, received - server
        if received < sent:  # the local clock was set back in between: this answer says nothing
            return
        if self._at is not None:
            slack = DRIFT * max(at - self._at, 0.0)
            kept_low, kept_high = max(low, self._low - slack), min(high, self._high + slack)
            if kept_low <= kept_high:
                low, high = kept_low, kept_high
        self._at, self._low, self._high = at, low, high

    @property
    def seconds(self) -> float | None:
        """The best guess, the middle of what is possible; None before the first answer."""
        return None if self._at is None else (self._low + self._high) / 2

    @property
    def at_least(self) -> float | None:
        """How far the clocks are apart for certain, in seconds; None before the first answer."""
        return None if self._at is None else max(self._low, -self._high, 0.0)
