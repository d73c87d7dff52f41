"""Operators as processes: killed, frozen, with clocks of their own, and kept alive as a kubelet would."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.cluster.harness import fetch, free_port, until

from leasehold.testing import packages
from leasehold.testing.processes import Child
from leasehold.testing.toolchain import print_progress

FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
"""The library that falsifies clocks (Debian's package libfaketime)."""

SETTINGS: Final[Mapping[str, Any]] = {
    "sweep_seconds": 1,
    "relist_sweeps": 2,
    "events_per_second": 100,
    "election_seconds": 4,
    "election_namespace": "leasehold-system",
}
"""Settings under which what takes minutes takes seconds."""

_RESTART_SECONDS: Final = 0.3
_WATCH_SECONDS: Final = 0.05


class Operator:
    """One replica: a process, and the next one under the same identity when it ended by itself."""

    def __init__(
        self,
        directory: Path,
        kubeconfig: Path,
        identity: str,
        environment: Mapping[str, str] | None = None,
        *,
        program: str = "leasehold.cli.main",
        **settings: Any,
    ) -> None:
        self.identity = identity
        self.program = program
        self.kubeconfig = kubeconfig
        self.directory = directory
        self.settings = {**SETTINGS, "identity": identity, **settings}
        self.environment = dict(environment or {})
        self.port = free_port()
        self.logs: list[Path] = []
        self.starts = 0
        self.ends: list[int] = []
        self.wanted = False
        self._child: Child | None = None
        self._lock = threading.RLock()

    def start(self) -> Operator:
        """Start the process, and from now on start it again whenever it ends by itself."""
        with self._lock:
            self.wanted = True
            self.starts += 1
            log = self.directory / f"operator-{self.identity}-{self.starts}-{secrets.token_hex(3)}.log"
            self.logs.append(log)
            self._child = Child(
                [
                    *(sys.executable, "-m", self.program, "operator"),
                    *("--kubeconfig", str(self.kubeconfig), "--http-port", str(self.port)),
                ],
                log=log,
                cwd=Path.cwd(),
                env={
                    **_unmeasured(os.environ),
                    **{f"LEASEHOLD_{key.upper()}": str(value) for key, value in self.settings.items()},
                    **self.environment,
                },
            )
        return self

    @property
    def child(self) -> Child:
        """The process."""
        assert self._child is not None, "the operator was never started"
        return self._child

    def running(self) -> bool:
        """Tell whether the process runs (a frozen one does)."""
        return self._child is not None and self._child.running()

    def revive(self) -> None:
        """Start the process anew if it ended by itself, as a kubelet would."""
        with self._lock:
            if self.wanted and self._child is not None and not self._child.running():
                self.ends.append(self._child.returncode() or 0)
                self._child.kill()
                time.sleep(_RESTART_SECONDS)
                self.start()

    def crash(self) -> None:
        """End the process as a crash would; it is started again."""
        self.child.signal(signal.SIGKILL)

    def kill(self) -> None:
        """End the process as a crash would, for good."""
        with self._lock:
            self.wanted = False
            if self._child is not None:
                self._child.kill()

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Ask the process to end, for good."""
        with self._lock:
            self.wanted = False
            if self._child is not None:
                self._child.stop(grace_seconds)

    def freeze(self) -> None:
        """Stop the process from running, as a long pause of its machine would."""
        self.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self.child.signal(signal.SIGCONT)

    def block(self) -> None:
        """Keep the event loop of a process that runs under `tests.faults.hooks` busy for a while."""
        self.child.signal(signal.SIGUSR2)

    def ready(self) -> bool:
        """Tell whether it says that it is ready."""
        return self.page("/readyz")[0] == 200

    def await_ready(self, seconds: float = 30.0) -> Operator:
        """Wait until it is ready. Raises AssertionError when it is not in time."""
        until(self.ready, f"operator {self.identity} is ready\n{self.child.log_tail(5)}", seconds)
        return self

    def leads(self) -> bool:
        """Tell whether it leads at least one shard."""
        return bool(self.metric("leasehold_leading"))

    def await_leading(self, seconds: float = 30.0) -> Operator:
        """Wait until it leads. Raises AssertionError when it does not in time."""
        until(self.leads, f"operator {self.identity} leads\n{self.child.log_tail(5)}", seconds)
        return self

    def page(self, path: str) -> tuple[int, str]:
        """Read a page of its HTTP server; status 0 when there is no answer."""
        with contextlib.suppress(OSError):
            return fetch(f"http://127.0.0.1:{self.port}{path}")
        return 0, ""

    def metric(self, name: str) -> float | None:
        """Return the sum of a metric over its labels; None where it is not told."""
        pattern = re.compile(rf"^{name}(?:\{{.*\}})? (\S+)$", re.MULTILINE)
        found = pattern.findall(self.page("/metrics")[1])
        return sum(map(float, found)) if found else None

    def lines(self) -> list[dict[str, Any]]:
        """Return what it logged, over all its processes."""
        return [
            json.loads(line)
            for log in self.logs
            if log.exists()
            for line in log.read_text(errors="replace").splitlines()
            if line.startswith("{") and line.endswith("}")
        ]


class Kubelet:
    """Starts operators again that ended by themselves, until it is closed."""

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(_WATCH_SECONDS):
            for operator in list(self.operators):
                operator.revive()

    def close(self) -> None:
        """Stop to revive, and end every operator."""
        self._closing.set()
        self._thread.join()
        for operator in self.operators:
            operator.kill()


def one_leads(*operators: Operator) -> bool:
    """Tell whether exactly one of the operators says that it leads."""
    return sum(operator.leads() for operator in operators) == 1


def await_one_leader(*operators: Operator) -> None:
    """Wait until exactly one of the operators says that it leads. Raises AssertionError when it is not in time."""
    until(lambda: one_leads(*operators), "exactly one leads")


def _have_faketime() -> None:
    """Have the library that falsifies clocks, on a new machine too."""
    if not FAKETIME.exists() and packages.may_install():
        packages.install(_faketime_wanted, "for clocks that are wrong", print_progress, 300)
    assert FAKETIME.exists(), f"{FAKETIME} is missing: install Debian's package libfaketime"


def _faketime_wanted() -> list[str]:
    return [] if FAKETIME.exists() else ["libfaketime"]


def clock(offset: str, *, monotonic: bool = False, file: Path | None = None) -> dict[str, str]:
    """Return the environment in which a process has a false clock: an offset such as `+90s`, or `+0 x2` for a rate.

    Its monotonic clock stays true unless told otherwise. With a `file`, the offset is read from there again at every
    look, so that it can be changed while the process runs.
    """
    _have_faketime()
    environment = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "0" if monotonic else "1"}
    if file is None:
        return {**environment, "FAKETIME": offset}
    file.write_text(offset + "\n")
    return {**environment, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}


def _unmeasured(environment: Mapping[str, str]) -> dict[str, str]:
    """Return it without what has coverage measured: an operator under load would be half as fast."""
    return {key: value for key, value in environment.items() if not key.startswith("COVERAGE_")}
