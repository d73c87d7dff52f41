"""`python -m leasehold.testing`: an API server to keep for a while, for the demo and for trying things out.

`up` starts one in the background and `down` ends it. A supervisor process owns the servers, so that none is
left behind when it dies, however it dies. What `down` may end is written down as process ids with their
start times: an id that now belongs to another process is never signalled.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from leasehold.testing import providers, toolchain
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ControlPlaneError, StartError
from leasehold.testing.kubeconfig import write_private
from leasehold.testing.processes import ProcessIdentity, wait_until
from leasehold.testing.real_node import RealNode

EXTRAS = {
    "scheduler": "kube-scheduler",
    "controller-manager": "kube-controller-manager",
    "kwok": "kwok",
    "kubectl": "kubectl",
    "helm": "helm",
    "helm3": "helm3",
}
NODE = "node"
"""Asks for a real node beside them, which brings a scheduler and a controller-manager."""

_FOR_PEOPLE = ("kubectl", "helm", "helm3")
"""Programs that are put into the run directory, where the others are started."""

_START_SECONDS = 420  # kind may have to pull an image; servers of our own take about 4
_STOP_SECONDS = 30
_NOT_UP = 3


@dataclass(frozen=True)
class State:
    """What runs, as written to the run directory."""

    url: str
    provider: str
    supervisor: ProcessIdentity
    processes: dict[str, ProcessIdentity]

    def alive(self) -> bool:
        """Tell whether the supervisor still runs, and with it everything else."""
        return self.supervisor.alive()


class RunDirectory:
    """The files that `up` and `down` share."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.kubeconfig = self.path / "kubeconfig"
        self.log = self.path / "control-plane.log"
        self.programs = self.path / "bin"
        self._state = self.path / "control-plane.json"

    def read(self) -> State | None:
        """Return what was written last, or None when there is nothing."""
        try:
            found = json.loads(self._state.read_text())
        except FileNotFoundError:
            return None
        return State(
            url=found["url"],
            provider=found["provider"],
            supervisor=ProcessIdentity(**found["supervisor"]),
            processes={name: ProcessIdentity(**entry) for name, entry in found["processes"].items()},
        )

    def write(self, state: State) -> None:
        """Write down what runs, in one step."""
        write_private(self._state, json.dumps(asdict(state), indent=2) + "\n")

    def clear(self) -> None:
        """Remove what only makes sense while something runs; the log stays."""
        for path in (self._state, self.kubeconfig, *self.programs.glob("*")):
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other `up` and `down` commands on this directory waiting."""
        self.path.mkdir(parents=True, exist_ok=True)
        why = f"another command works in {self.path}"
        with toolchain.lock(self.path / ".lock", why, toolchain.print_progress):
            yield


def up(run: RunDirectory, extras: Sequence[str]) -> int:
    """Start in the background and return once the API server answers; do nothing when it runs already."""
    with run.locked():
        state = run.read()
        if state is not None and state.alive():
            print(f"up already: {state.url} ({state.provider}); `down` ends it")
            return 0
        run.clear()
        prepare(extras)
        begun = time.monotonic()
        state = _start_supervisor(run, extras)
        print(f"up in {time.monotonic() - begun:.1f} s: {state.url} ({state.provider})")
        print(
            f"KUBECONFIG={shlex.quote(str(run.kubeconfig))}; `env` prints this for the shell, `down` ends it"
        )
        return 0


def prepare(extras: Sequence[str]) -> None:
    """Build and install what is missing, with progress, before anything starts."""
    providers.choose(providers.default_wish())
    for extra in extras:
        if extra != NODE:
            toolchain.build(toolchain.MODULES[EXTRAS[extra]], [EXTRAS[extra]])
    if NODE in extras:
        RealNode.prepare()


def build(extras: Sequence[str]) -> int:
    """Build what is missing; where no real node can run, say so and leave out what it needs."""
    reason = RealNode.unavailable() if NODE in extras else None
    if reason is not None:
        print(f"leasehold: NOT prepared: {reason}. What needs one will not run.", file=sys.stderr)
        extras = [extra for extra in extras if extra != NODE]
    prepare(extras)
    return 0


def _start_supervisor(run: RunDirectory, extras: Sequence[str]) -> State:
    command = [sys.executable, "-m", "leasehold.testing", "serve", "--dir", str(run.path)]
    with run.log.open("wb") as log:
        supervisor = subprocess.Popen(
            [*command, "--with", ",".join(extras)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ready = wait_until(lambda: run.read() is not None or supervisor.poll() is not None, _START_SECONDS)
    state = run.read()
    if state is None:
        supervisor.terminate()
        said = run.log.read_text(errors="replace")[-3000:]
        what = f"ended with status {supervisor.wait()}" if ready else f"was not ready in {_START_SECONDS} s"
        raise StartError(f"The control plane {what}. Its log, {run.log}, ends:\n{said}")
    supervisor.returncode = 0  # it goes on by itself: not ours to wait for
    return state


def serve(run: RunDirectory, extras: Sequence[str]) -> int:
    """Own the servers until a signal comes or one of them dies. This is what `up` starts."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        node = stack.enter_context(RealNode()) if NODE in extras else None
        control_plane = node.control_plane if node else stack.enter_context(ControlPlane())
        for extra in extras:
            if extra != NODE and EXTRAS[extra] not in control_plane.processes:
                _add(control_plane, run, EXTRAS[extra])
        control_plane.connection.write(run.kubeconfig)
        running = control_plane.processes | (node.processes if node else {})
        processes = {name: _identity(pid) for name, pid in running.items()}
        source = control_plane.provider.source
        if node:
            source += f", with the real node {node.name} in {node.directory}"
        run.write(State(control_plane.url, source, _identity(os.getpid()), processes))
        dead: list[str] = []
        while not dead and not stop.wait(0.5):
            dead = [name for name, process in processes.items() if not process.alive()]
    run.clear()
    if dead:
        print(f"ended, because it died: {', '.join(dead)}", flush=True)
    return 1 if dead else 0


def _add(control_plane: ControlPlane, run: RunDirectory, program: str) -> None:
    if program not in _FOR_PEOPLE:
        control_plane.start_program(program)
        return
    run.programs.mkdir(exist_ok=True)
    link = run.programs / program
    link.unlink(missing_ok=True)
    link.symlink_to(control_plane.program(program))


def _identity(pid: int) -> ProcessIdentity:
    found = ProcessIdentity.of(pid)
    if found is None:
        raise StartError(f"process {pid} ended while starting")
    return found


def down(run: RunDirectory) -> int:
    """End what `up` started, and only that."""
    with run.locked():
        state = run.read()
        if state is None:
            print(f"nothing is up in {run.path}")
            return 0
        state.supervisor.end(_STOP_SECONDS)
        for process in state.processes.values():  # they end with it; on macOS not when it was killed outright
            process.end(_STOP_SECONDS)
        run.clear()
        print(f"down: {state.url}")
        return 0


def status(run: RunDirectory) -> int:
    """Say what runs; the exit status is 3 when nothing does."""
    state = run.read()
    if state is None or not state.alive():
        print(f"nothing is up in {run.path}")
        return _NOT_UP
    print(f"up: {state.url} ({state.provider})")
    for name, process in {"supervisor": state.supervisor, **state.processes}.items():
        print(f"  {name}: pid {process.pid}{'' if process.alive() else ', dead'}")
    return 0


def env(run: RunDirectory) -> int:
    """Print shell commands that point kubectl and the tests at what runs."""
    state = run.read()
    if state is None or not state.alive():
        print(f"nothing is up in {run.path}", file=sys.stderr)
        return _NOT_UP
    kubeconfig = shlex.quote(str(run.kubeconfig))
    print(f"export KUBECONFIG={kubeconfig} LEASEHOLD_KUBECONFIG={kubeconfig}")
    if run.programs.is_dir():
        print(f'export PATH={shlex.quote(str(run.programs))}:"$PATH"')
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    run = RunDirectory(options.dir)
    try:
        match options.command:
            case "up":
                return up(run, options.extras)
            case "serve":
                return serve(run, options.extras)
            case "down":
                return down(run)
            case "status":
                return status(run)
            case "env":
                return env(run)
            case _:
                return build(options.extras)
    except ControlPlaneError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leasehold.testing", description="A real Kubernetes API server."
    )
    parser.add_argument(
        "command",
        choices=("up", "down", "status", "env", "build", "serve"),
        help="up: start in the background; down: end it; status: what runs; env: shell commands to use it; "
        "build: only build what is missing; serve: run in the foreground",
    )
    parser.add_argument("--dir", type=Path, default=Path(".run"), help="where its files are (default: .run)")
    parser.add_argument(
        "--with",
        dest="extras",
        type=_extras,
        default=(),
        metavar="NAME,…",
        help=f"what to add: {', '.join((*EXTRAS, NODE))}; {NODE} is a real one, with containerd and kubelet, "
        "and needs root on Linux",
    )
    return parser


def _extras(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    unknown = [name for name in names if name not in (*EXTRAS, NODE)]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join((*EXTRAS, NODE))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
