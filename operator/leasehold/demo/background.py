"""`make up` and `make down`: a supervisor process owns the stage, so that nothing is left behind when it dies.

What `down` may end is written down as process ids with their start times: an id that now belongs to another
process is never signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from leasehold.demo.errors import DemoError, PartEnded
from leasehold.demo.stage import Place, Say, Stage
from leasehold.testing.kubeconfig import write_private
from leasehold.testing.processes import ProcessIdentity, wait_until
from leasehold.testing.toolchain import lock

_START_SECONDS = 480  # kind may have to pull an image; servers of our own take about 4
_STOP_SECONDS = 120  # kind takes its time, and objects on somebody else's cluster are removed one by one
_CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class State:
    """What runs, as written to the run directory."""

    place: Place
    supervisor: ProcessIdentity
    processes: dict[str, ProcessIdentity]

    def check(self) -> None:
        """Raise PartEnded when the supervisor is gone, and with it everything else."""
        if not self.supervisor.alive():
            log = Path(self.place.logs) / "demo.log"
            raise PartEnded(f"What `up` started has ended. Its log, {log}, says why.")


class Run:
    """One run directory: `.run` unless said otherwise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.log = self.directory / "demo.log"
        self._state = self.directory / "demo.json"

    def read(self) -> State | None:
        """Return what runs, or None."""
        try:
            found = json.loads(self._state.read_text())
        except FileNotFoundError:
            return None
        state = State(
            place=Place(**found["place"]),
            supervisor=ProcessIdentity(**found["supervisor"]),
            processes={name: ProcessIdentity(**entry) for name, entry in found["processes"].items()},
        )
        return state if state.supervisor.alive() else None

    @contextmanager
    def locked(self, say: Say) -> Iterator[None]:
        """Keep other commands on this directory waiting. Raises DemoError when another program uses it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with lock(self.directory / ".lock", f"another command works in {self.directory}", say):
            if (self.directory / "control-plane.json").exists():
                raise DemoError(
                    f"`python -m leasehold.testing up` uses {self.directory}: end it with `down`, "
                    "or choose another directory by --dir"
                )
            yield

    def up(self, kubeconfig: Path | None, say: Say, *, with_pods: bool = False) -> State:
        """Start a supervisor in the background and return once the operator is ready.

        Raises PartEnded with the supervisor's log when it fails.
        """
        command = [sys.executable, "-m", "leasehold.demo", "--serve", "--yes", "--dir", str(self.directory)]
        self._state.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            supervisor = subprocess.Popen(  # noqa: S603 - this very program
                [
                    *command,
                    *(["--kubeconfig", str(kubeconfig)] if kubeconfig else []),
                    *(["--pods"] if with_pods else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            told = _Follower(self.log, say)
            wait_until(
                lambda: told() or self._state.exists() or supervisor.poll() is not None, _START_SECONDS, 0.1
            )
            state = self.read()
        except BaseException:
            supervisor.terminate()
            supervisor.wait(_STOP_SECONDS)
            raise
        if state is None:
            supervisor.terminate()
            status = supervisor.wait(_STOP_SECONDS)
            said = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise PartEnded(f"The demo did not start (status {status}). Its log, {self.log}, ends:\n{said}")
        supervisor.returncode = 0  # it goes on by itself: not ours to wait for
        return state

    def serve(self, stage: Stage) -> int:
        """Own a stage until a signal comes or a part of it dies; return the exit status."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: stop.set())
        with stage:
            assert stage.place is not None
            self._write(stage.place, stage.processes)
            try:
                while not stop.wait(_CHECK_SECONDS):
                    stage.check()
            finally:
                self._state.unlink(missing_ok=True)
        return 0

    def _write(self, place: Place, processes: dict[str, int]) -> None:
        identities = {name: _identity(pid) for name, pid in processes.items()}
        state = State(place, _identity(os.getpid()), identities)
        write_private(self._state, json.dumps(asdict(state), indent=2) + "\n")

    def down(self) -> str:
        """End what `up` started, and only that; return the server's address, "" when nothing was up."""
        state = self.read()
        if state is None:
            return ""
        (self.directory / "env").unlink(missing_ok=True)
        state.supervisor.end(_STOP_SECONDS)
        for process in state.processes.values():  # they end with it; on macOS not when it was killed outright
            process.end(_STOP_SECONDS)
        self._state.unlink(missing_ok=True)
        return state.place.server


class _Follower:
    """Says each new line of a log; always false, so that it can be called while waiting."""

    def __init__(self, log: Path, say: Say) -> None:
        self._log, self._say, self._told = log, say, 0

    def __call__(self) -> bool:
        lines = self._log.read_text(errors="replace").splitlines(keepends=True)
        for line in lines[self._told :]:
            if not line.endswith("\n"):
                break
            self._say(line.rstrip())
            self._told += 1
        return False


def _identity(pid: int) -> ProcessIdentity:
    found = ProcessIdentity.of(pid)
    if found is None:
        raise PartEnded(f"process {pid} ended while starting")
    return found
