"""A second process that ends a command should the first one no longer be able to.

The one that holds the lease can be killed, stopped or starved; then nobody would end the command before its capacity is
given to somebody else. The watchdog is told until when the lease may be used. It ends the command's process group at
that time, and when its owner is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import time
from types import TracebackType
from typing import Final, Self

_MESSAGE: Final = struct.Struct("<qd")
_NEVER: Final = -1.0
_TICK_SECONDS: Final = 1.0
_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def now() -> float:
    """Return seconds that only grow, and that go on while the machine is suspended where it tells."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class Watchdog:
    """Forked off when the block begins, while there are no threads; gone when it ends."""

    def __init__(self, kill_after: float) -> None:
        self._kill_after = kill_after
        self._pipe = -1
        self._pid = 0

    def __enter__(self) -> Self:
        reader, self._pipe = os.pipe()
        os.set_blocking(
            self._pipe, False
        )  # should it be stopped: whoever renews the lease must not wait for it
        self._pid = os.fork()
        if not self._pid:
            os.close(self._pipe)
            _watch(reader, self._kill_after)
        os.close(reader)
        return self

    def watch(self, group: int, until: float | None) -> None:
        """Say which process group to end, and when by `now` unless told otherwise; group 0 is none."""
        with contextlib.suppress(OSError):  # it was killed, or listens no more: then there is only us
            os.write(self._pipe, _MESSAGE.pack(group, _NEVER if until is None else until))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._pipe)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _watch(reader: int, kill_after: float) -> None:
    """Watch until told that there is nothing to watch. Never returns."""
    try:
        os.setsid()  # what ends a terminal's processes must not end this one
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # whoever waits for the end of our output must not wait for us
            os.dup2(null, descriptor)
        group, until = _follow(reader)
        if group:
            _end(group, min(kill_after, kill_after if until is None else until - now()))
    finally:
        os._exit(0)


def _follow(reader: int) -> tuple[int, float | None]:
    """Follow what the owner says, until it says no more; return what it said last."""
    group, until = 0, None
    while True:
        pause = _TICK_SECONDS if until is None else min(max(until - now(), 0.0), _TICK_SECONDS)
        if select.select([reader], [], [], pause)[0]:
            message = os.read(reader, _MESSAGE.size)
            if len(message) < _MESSAGE.size:
                return group, until
            group, at = _MESSAGE.unpack(message)
            until = None if at == _NEVER else at
        elif group and until is not None and now() >= until:
            _kill(group, signal.SIGKILL)
            until = None


def _end(group: int, seconds: float) -> None:
    """End a process group: first politely, then not."""
    _kill(group, signal.SIGTERM)
    _kill(group, signal.SIGCONT)
    deadline = now() + seconds
    while now() < deadline and _kill(group, 0):
        time.sleep(0.02)
    _kill(group, signal.SIGKILL)


def _kill(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True
