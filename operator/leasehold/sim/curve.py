"""A value over time, in a fixed number of bins: however long a replay is, its curve takes the same memory."""

from __future__ import annotations

from typing import Final

BINS: Final = 960


class Curve:
    """Averages of a value over equal stretches of time. When time runs out of bins, two become one each."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.width = 1
        self._sums = [0] * BINS

    def add(self, begin: int, end: int, value: int) -> None:
        """Note that the value was this from one instant to the next (ms, from the curve's start on)."""
        begin -= self.start
        end -= self.start
        while end > BINS * self.width:
            pairs = zip(self._sums[::2], self._sums[1::2], strict=True)
            self._sums = [a + b for a, b in pairs] + [0] * (BINS // 2)
            self.width *= 2
        if not value:
            return
        while begin < end:
            bin_ = begin // self.width
            until = min(end, (bin_ + 1) * self.width)
            self._sums[bin_] += value * (until - begin)
            begin = until

    def points(self, end: int) -> list[tuple[int, float]]:
        """Return (instant, average from there on) for each bin up to an instant."""
        span = end - self.start
        found = []
        for i, total in enumerate(self._sums):
            begin = i * self.width
            if begin >= span:
                break
            found.append((self.start + begin, total / (min(self.width, span - begin))))
        return found
