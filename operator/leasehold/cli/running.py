"""Runs a command under a lease: in a process group of its own, which ends before the lease is lost."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from leasehold.cli.options import FAILED, LOST, REFUSED, TOO_LATE, CliError, complain
from leasehold.cli.progress import Progress
from leasehold.cli.request import LOOK_SECONDS, amounts, identity, lease_of
from leasehold.cli.watchdog import Watchdog, now
from leasehold.cli.words import standing
from leasehold.sdk import errors
from leasehold.sdk.client import Client
from leasehold.sdk.lease import Lease
from leasehold.sdk.request import Placement
from leasehold.sdk.views import Ending
from leasehold.sdk.views import Progress as Waiting

NOT_FOUND: Final = 127
NOT_RUNNABLE: Final = 126
_BY_SIGNAL: Final = 128

_FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_TICK_SECONDS: Final = 0.5
_SOONEST_SECONDS: Final = 0.02
_UNENDING_SECONDS: Final = 5.0


def run_under(options: argparse.Namespace) -> int:
    """Wait for a lease, run the command under it, give it back; return the exit code."""
    if not options.run:
        raise CliError("say which command to run, after --", 2)
    if options.cluster or options.user:
        raise CliError("--cluster and --user do not go with a command: name a context that has both", 2)
    if options.output:
        raise CliError("-o does not go with a command: the lease is in its environment", 2)
    lease_of(options, "")  # says what is missing or cannot be read
    command = shutil.which(options.run[0])
    if command is None:
        there = os.path.exists(options.run[0])
        raise CliError(
            f"{options.run[0]}: {'it cannot be executed' if there else 'no such command'}",
            NOT_RUNNABLE if there else NOT_FOUND,
        )
    logging.getLogger("leasehold").addHandler(logging.NullHandler())
    with Watchdog(options.kill_after) as watchdog:  # before there are threads: it is forked off
        return asyncio.run(_run(options, command, watchdog))


async def _run(options: argparse.Namespace, command: str, watchdog: Watchdog) -> int:
    signals = _Signals()
    try:
        client = Client(
            options.context or None,
            options.namespace or None,
            options.kubeconfig or None,
            identity=(options.holder or identity())[:253],
        )
        async with client:
            ending = asyncio.Event()
            lease = await _take(client, options, ending)
            try:
                return await _Command(lease, options, command, watchdog, ending).run(signals)
            finally:
                await lease.release()
    except asyncio.CancelledError:
        if not signals.ended_by:
            raise
        return _BY_SIGNAL + signals.ended_by
    except errors.LeaseholdError as error:
        complain("acquire", error)
        return _code_of(error)


class _Signals:
    """What we are sent: it ends the wait for the lease, goes on to the command, or is too late to matter."""

    def __init__(self) -> None:
        self.ended_by = 0
        self._waiting = asyncio.current_task()
        self._group: int | None = None
        self._early: list[int] = []
        for number in _FORWARDED:
            asyncio.get_running_loop().add_signal_handler(number, self._got, number)

    def hold(self) -> None:
        """Keep what comes: the command is being started."""
        self._waiting = None

    def pass_on(self, group: int) -> None:
        """Send to a process group what came, and what comes."""
        self._group = group
        for number in self._early:
            _send(group, number)

    def ignore(self) -> None:
        """The command is over, and giving back the lease is not to be interrupted."""
        self._group = 0

    def _got(self, number: int) -> None:
        if self._group is not None:
            _send(self._group, number)
        elif self._waiting is None:
            self._early.append(number)
        elif number in _ENDING:
            self.ended_by = number
            self._waiting.cancel()


def _send(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(group, number)


def _code_of(error: errors.LeaseholdError) -> int:
    if isinstance(error, errors.NotGranted | _NotAtOnce):
        return TOO_LATE
    if isinstance(error, errors.Refused | errors.KeyConflict):
        return REFUSED
    if isinstance(error, errors.LeaseOver):
        return LOST
    return 2 if isinstance(error, errors.Misuse) else FAILED


class _NotAtOnce(errors.LeaseholdError):
    """It would have to wait, and nobody wants to."""


async def _take(client: Client, options: argparse.Namespace, ending: asyncio.Event) -> Lease:
    progress = Progress(quiet=options.quiet)

    def tell(waiting: Waiting) -> None:
        said = standing(waiting.lease.raw, datetime.now(UTC).timestamp())
        if options.timeout == 0 and waiting.reason:
            raise _NotAtOnce(f"not granted at once: {waiting.lease.name} {said}; the request was withdrawn")
        progress.say(f"{waiting.lease.name} {said}")

    def ends(_: Ending) -> None:
        ending.set()

    wish: dict[str, Any] = {
        "resources": amounts(options),
        "count": options.count,
        "priority": options.priority,
    }
    said = {
        "pool": options.pool,
        "pool_selector": options.pool_selector,
        "duration": options.duration,
        "tenant": options.tenant,
        "name": options.name,
    }
    wish |= {name: value for name, value in said.items() if value}
    if options.placement or options.node_selector or options.topology_key:
        wish["placement"] = Placement(
            options.placement or "Any", options.topology_key or None, options.node_selector or None
        )
    try:
        # Who does not want to wait for room still waits for the operator to say that there is none.
        limit = LOOK_SECONDS if options.timeout == 0 else options.timeout
        return await client.lease(timeout=limit, on_progress=tell, on_ending=ends, **wish)
    finally:
        progress.done()


def environment(lease: Lease) -> dict[str, str]:
    """Return what the command is told of its lease."""
    return {
        "LEASEHOLD_LEASE": lease.name,
        "LEASEHOLD_NAMESPACE": lease.namespace,
        "LEASEHOLD_POOL": lease.pool,
        "LEASEHOLD_TOKEN": str(lease.token),
        "LEASEHOLD_NODES": ",".join(lease.nodes),
    }


class _Command:
    """A command, for as long as it runs. Its process group goes with it."""

    def __init__(
        self,
        lease: Lease,
        options: argparse.Namespace,
        command: str,
        watchdog: Watchdog,
        ending: asyncio.Event,
    ) -> None:
        self._lease = lease
        self._line = options.run
        self._program = command
        self._kill_after = float(options.kill_after)
        self._watchdog = watchdog
        self._ending = ending
        self._most = 0.0
        self._told = False
        self._group = 0

    async def run(self, signals: _Signals) -> int:
        signals.hold()
        ends_at = self._ends_at()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._line,
                executable=self._program,
                env={**os.environ, **environment(self._lease)},
                process_group=0,
                # It says itself whom to watch, before it becomes the command: should we be killed right now.
                preexec_fn=lambda: self._watchdog.watch(os.getpid(), ends_at),
            )
        except OSError as error:
            raise CliError(f"{self._line[0]}: {error.strerror or error}", NOT_RUNNABLE) from error
        self._group = process.pid
        signals.pass_on(self._group)
        try:
            with _foreground(self._group):
                while not await self._ended(process):
                    self._look()
                await self._end_rest()
        except BaseException:
            self._signal(signal.SIGKILL)
            raise
        signals.ignore()
        self._watchdog.watch(0, None)
        if self._told or self._lease.lost is not None:
            why = self._lease.lost or "it was about to be taken back, or could not be renewed"
            complain("acquire", f"the lease was lost, and the command ended for that: {why}")
            return LOST
        code = process.returncode
        assert code is not None
        return _BY_SIGNAL - code if code < 0 else code

    async def _ended(self, process: asyncio.subprocess.Process) -> bool:
        """Wait for the command until it is time to look at the lease again; tell whether it has ended."""
        left = self._lease.remaining()
        pause = min(max(left - self._margin(left), _SOONEST_SECONDS), _TICK_SECONDS)
        waiting = [asyncio.ensure_future(process.wait())]
        if not self._told:
            waiting.append(asyncio.ensure_future(self._ending.wait()))
        try:
            await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        return process.returncode is not None

    def _margin(self, left: float) -> float:
        """Return how long before the lease is lost the command is told to end (s).

        As long as was asked for, but never so long that a heartbeat which is merely late would end it.
        """
        if left != float("inf"):
            self._most = max(self._most, left)
        return min(self._kill_after, self._most / 3)

    def _look(self) -> None:
        """Look at the lease, and end the command in time."""
        left = self._lease.remaining()
        margin = self._margin(left)
        self._watchdog.watch(self._group, self._ends_at())
        if self._lease.lost is not None or left <= margin / 5:
            self._told = True
            self._signal(signal.SIGKILL)
        elif not self._told and (left <= margin or self._ending.is_set()):
            self._told = True
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
        elif _is_stopped(self._group):
            self._signal(signal.SIGCONT)  # under a lease nobody rests

    def _ends_at(self) -> float | None:
        left = self._lease.remaining()
        return None if left == float("inf") else now() + left

    def _signal(self, number: int) -> None:
        _send(self._group, number)

    async def _end_rest(self) -> None:
        """End what the command has left running: the lease is given back after that."""
        deadline = asyncio.get_running_loop().time() + min(self._kill_after, max(self._lease.remaining(), 0))
        self._signal(signal.SIGTERM)
        while _is_there(self._group):
            late = asyncio.get_running_loop().time() - deadline
            if late >= _UNENDING_SECONDS:
                complain("acquire", "what the command left running cannot be ended; the lease is given back")
                return
            if late >= 0:
                self._signal(signal.SIGKILL)
            await asyncio.sleep(_SOONEST_SECONDS)


@contextlib.contextmanager
def _foreground(group: int) -> Iterator[None]:
    """Give the terminal to the command for as long as it runs, where we have it."""
    try:
        terminal = sys.stdin.fileno()
        ours = os.getpgrp() if os.isatty(terminal) and os.tcgetpgrp(terminal) == os.getpgrp() else 0
    except (OSError, ValueError):
        ours = 0
    if not ours:
        yield
        return
    # From the background, to take it back, one would be stopped.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.tcsetpgrp(terminal, group)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, ours)
        signal.signal(signal.SIGTTOU, before)


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is not None
    return False


def _is_there(group: int) -> bool:
    # As the first process of a container we are the one who has to wait for orphans.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-group, os.WNOHANG)
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
