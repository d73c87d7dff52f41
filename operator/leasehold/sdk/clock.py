"""The holder's own clock: milliseconds that only grow, and that go on while the machine is suspended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def _boot() -> int:
    assert _BOOTTIME is not None
    return time.clock_gettime_ns(_BOOTTIME) // 1_000_000


def _monotonic() -> int:
    return time.monotonic_ns() // 1_000_000


now: Final[Callable[[], int]] = _monotonic if _BOOTTIME is None else _boot
"""Return the time in ms. On Linux a suspended laptop or machine counts (CLOCK_BOOTTIME); elsewhere it may not."""
