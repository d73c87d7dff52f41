"""Child processes that end with their parent, and process ids that cannot be mistaken for another's."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SHIM = Path(__file__).with_name("_exec_with_parent.py")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process id with the time its process started: the pair is never reused, the id alone is."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of a live process, or None when there is none (a zombie counts as none)."""
        started = _start_time(pid)
        return cls(pid, started) if started is not None else None

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        return _start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if this very process still runs; do nothing otherwise."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, grace_seconds: float) -> None:
        """Ask the process to end, and kill it when the grace is over. Works on any process, child or not."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        if not wait_until(lambda: not self.alive(), grace_seconds):
            self.signal(signal.SIGKILL)
            wait_until(lambda: not self.alive(), 5)


def _start_time(pid: int) -> str | None:
    """Return when a live process started, in the system's own unit; None for none and for a zombie."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        state, *fields = stat[stat.rindex(")") + 2 :].split()
        return None if state in "ZX" else fields[18]  # field 22 of proc(5): clock ticks since boot
    else:  # noqa: RET505 - so that the type checker sees a platform check
        command = ["ps", "-o", "state=,lstart=", "-p", str(pid)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split(maxsplit=1)
        return shown[1].strip() if len(shown) == 2 and not shown[0].startswith("Z") else None


def wait_until(condition: Callable[[], bool], timeout_seconds: float, step_seconds: float = 0.02) -> bool:
    """Poll until the condition holds, ten times a second where it takes long; return whether it did in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(step_seconds)
        # Many a condition asks an API server, which has other things to do.
        step_seconds = max(step_seconds, min(1.2 * step_seconds, 0.1))
    return True


class Child:
    """A process started here, writing to a log file; it ends at the latest when this process does.

    On Linux the kernel sees to that, however this process ends. Elsewhere (macOS) there is no such signal: a
    child then outlives a parent that was killed outright, and `ControlPlane.stop` and `atexit` are all there
    is.

    prefix: a command that becomes the program, such as nsenter with its options, or runs it; its path is
    absolute. pass_fds: file descriptors that the program inherits. name: what to call it, if not as its
    program.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        name: str | None = None,
    ) -> None:
        self.name = name or Path(command[0]).name
        self.log = log
        arguments = [str(part) for part in (*prefix, *command)]
        if sys.platform == "linux":
            arguments = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid()), *arguments]
        self._process = _launch(arguments, log=log, cwd=cwd, env=env, pass_fds=pass_fds)
        _started.append(self)

    @property
    def pid(self) -> int:
        """The process id, the program's own: the shim that starts it becomes it."""
        return self._process.pid

    def running(self) -> bool:
        """Tell whether the process has not ended yet."""
        return self._process.poll() is None

    def returncode(self) -> int | None:
        """Return the exit status, negative for a signal, or None while the process runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended already."""
        self._process.send_signal(number)

    def stop(self, grace_seconds: float) -> None:
        """End the process: SIGTERM, and SIGKILL once the grace is over. Safe to call again."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a paused process would never see the request
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self._process.wait()
        self._forget()

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._forget()

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the log, for error messages."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError as error:
            return f"(no log: {error})"

    def _forget(self) -> None:
        with contextlib.suppress(ValueError):
            _started.remove(self)


_started: list[Child] = []


def still_running() -> list[Child]:
    """Return the children that this process started, has not stopped, and that still run."""
    return [child for child in _started if child.running()]


_Work = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]
_launch_queue: queue.SimpleQueue[_Work] | None = None
_launch_lock = threading.Lock()


def _launch(
    arguments: list[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None,
    pass_fds: Sequence[int],
) -> subprocess.Popen[bytes]:
    """Start a process from a thread that lives as long as this process.

    The kernel sends the parent-death signal when the *thread* that forked ends, so a server started from a
    short-lived worker thread would die with it.
    """

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else dict(env),
                pass_fds=tuple(pass_fds),
                start_new_session=True,  # Ctrl-C is for the tests; they then stop the servers in order
            )

    future: Future[subprocess.Popen[bytes]] = Future()
    _launcher().put((start, future))
    return future.result()


def _launcher() -> queue.SimpleQueue[_Work]:
    global _launch_queue
    with _launch_lock:
        if _launch_queue is None:
            _launch_queue = queue.SimpleQueue()
            threading.Thread(
                target=_serve_launches, args=(_launch_queue,), name="leasehold-launcher", daemon=True
            ).start()
        return _launch_queue


def _serve_launches(work: queue.SimpleQueue[_Work]) -> None:
    while True:
        start, future = work.get()
        try:
            future.set_result(start())
        except BaseException as error:  # noqa: BLE001 - the caller gets it, whatever it is
            future.set_exception(error)


def _reset_after_fork(*_: Any) -> None:
    """Forget the parent's thread and children: neither belongs to a forked process."""
    global _launch_queue, _launch_lock
    _launch_queue, _launch_lock = None, threading.Lock()
    _started.clear()


os.register_at_fork(after_in_child=_reset_after_fork)
