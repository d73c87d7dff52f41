"""An operator with three hooks for faults that cannot be had from outside; otherwise it is `leasehold operator`.

SIGUSR2 keeps its event loop busy for FAULTS_BLOCK_SECONDS: Python runs the handler in the main thread. A file named by
FAULTS_BOOT_OFFSET says by how many milliseconds the boot clock is ahead, as it is after a machine slept: the wall's and
the boot clock went on, the monotonic one did not. (libfaketime can falsify that clock only together with the monotonic
one, and then the interpreter's own timed waits never end.) A file named by FAULTS_CLOCK_AHEAD says by how many
milliseconds the operator's own clock is ahead of what it was at its start, as one that runs too fast would be in time.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def _block(*_: Any) -> None:
    until = time.monotonic() + float(os.environ.get("FAULTS_BLOCK_SECONDS", "1"))
    while time.monotonic() < until:
        pass


def _sleep_through(file: Path) -> None:
    real = time.clock_gettime_ns

    def clock_gettime_ns(number: int) -> int:
        ahead = int(file.read_text()) if number == time.CLOCK_BOOTTIME else 0
        return real(number) + ahead * 1_000_000

    time.clock_gettime_ns = clock_gettime_ns  # type: ignore[assignment]


def _run_ahead(file: Path) -> None:
    from leasehold.adapters.clock import SteadyClock

    true = SteadyClock.now

    def now(clock: SteadyClock) -> int:
        return true(clock) + int(file.read_text() or 0)

    SteadyClock.now = now  # type: ignore[method-assign]


def main() -> int:
    """Hook in, and be the operator."""
    signal.signal(signal.SIGUSR2, _block)
    if file := os.environ.get("FAULTS_BOOT_OFFSET"):
        _sleep_through(Path(file))
    from leasehold.cli.main import main as command

    if file := os.environ.get("FAULTS_CLOCK_AHEAD"):
        _run_ahead(Path(file))
    return command()


if __name__ == "__main__":
    sys.exit(main())
