"""The operator in a process of its own, with a look at its inside that the product does not have.

`python -m tests.perf.watched --out FILE [--trace] -- [the operator's arguments]` runs the operator and adds one line of
JSON to the file about once a second, every five where memory is traced. Tasks, traced memory and the lag of the event
loop can only be seen from inside.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.cluster.harness import fetch, free_port, install

from leasehold import controller
from leasehold.testing.control_plane import OPERATOR_NAMESPACE, ControlPlane
from leasehold.testing.nodes import SimulatedNodes
from leasehold.testing.processes import Child, wait_until

_TICK = 0.01
_EVERY = 1.0
_EVERY_TRACED = 5.0  # for garbage is collected first, which takes its time
_FRAMES = 1
_REPORT_SECONDS = 30


class Sample(NamedTuple):
    """One look. Memory in kB, CPU in seconds, lags in ms: how late a sleep of 10 ms ended, each time it did.

    `traced` is what Python allocated and has not freed (0 where it is not traced), after a collection of garbage.
    """

    time: float
    resident: int
    cpu: float
    tasks: int
    traced: int
    lags: list[float]


async def keep_reporting(simulated: SimulatedNodes) -> None:
    """Let all nodes report from time to time, until cancelled: nothing is lent of a node that fell silent."""
    while True:
        await asyncio.sleep(_REPORT_SECONDS)
        await asyncio.to_thread(simulated.report_all)


def resident(pid: int | str = "self") -> int:
    """Return a process's resident memory in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


class _Watched(controller.Controller):
    """A controller that writes down what it looks like."""

    out: IO[str]

    async def run(self) -> int:
        looking = asyncio.create_task(self._look())
        try:
            return await super().run()
        finally:
            looking.cancel()

    async def _look(self) -> None:
        lags: list[float] = []
        every = _EVERY_TRACED if tracemalloc.is_tracing() else _EVERY
        due = time.monotonic() + every
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            lags.append(round((now - before - _TICK) * 1000, 1))
            if now < due:
                continue
            if tracemalloc.is_tracing():
                gc.collect()
            times = os.times()
            traced = tracemalloc.get_traced_memory()[0] // 1024
            sample = Sample(
                time.time(), resident(), times.user + times.system, len(asyncio.all_tasks()), traced, lags
            )
            self.out.write(json.dumps(sample._asdict()) + "\n")
            self.out.flush()
            lags = []
            due = time.monotonic() + every


class Operator:
    """The operator as its users run it: a process, by its service account, so under API priority and fairness."""

    def __init__(self, control_plane: ControlPlane, *, trace: bool = False, **env: Any) -> None:
        install(control_plane, "rbac-operator.yaml")
        account = control_plane.as_service_account(OPERATOR_NAMESPACE, "leasehold-operator", seconds=7200)
        self.kubeconfig = control_plane.write_kubeconfig(account)
        self.out = self.kubeconfig.with_suffix(".jsonl")
        self.port = free_port()
        self.started = time.monotonic()
        settings = {"log_level": "WARNING", "identity": "the-operator", **env}
        self.process = Child(
            [
                *(sys.executable, "-m", "tests.perf.watched", "--out", str(self.out)),
                *(["--trace"] if trace else []),
                *("--", "--kubeconfig", str(self.kubeconfig), "--http-port", str(self.port)),
            ],
            log=self.out.with_suffix(".log"),
            cwd=Path.cwd(),
            env={**os.environ, **{f"LEASEHOLD_{k.upper()}": str(v) for k, v in settings.items()}},
        )

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop(60)

    @property
    def pid(self) -> int:
        return self.process.pid

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it stand still for the length of the block; longer than its election lasts, and it leads no more."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def until_leading(self, seconds: float = 300) -> float:
        """Wait until every list is complete and it leads; return how long that took since its start, in seconds."""
        assert wait_until(self._leads, seconds), "the operator does not come to lead"
        return time.monotonic() - self.started

    def _leads(self) -> bool:
        assert self.process.running(), self.process.log_tail(40)
        with suppress(OSError):
            status, text = fetch(f"http://127.0.0.1:{self.port}/readyz")
            return status == 200 and "standing by" not in text
        return False

    def samples(self) -> list[Sample]:
        """Return all looks so far."""
        lines = self.out.read_text().splitlines() if self.out.exists() else []
        return [Sample(**json.loads(line)) for line in lines]

    def lags(self, since: float, until: float) -> list[float]:
        """Return the lags of the event loop between two moments of the clock, in ms."""
        return [lag for s in self.samples() if since <= s.time <= until + _EVERY for lag in s.lags]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trace", action="store_true", help="trace allocations too: several times slower")
    parser.add_argument("arguments", nargs="*")
    given = parser.parse_args()
    if given.trace:
        tracemalloc.start(_FRAMES)
    with given.out.open("a") as out:
        _Watched.out = out
        controller.Controller = _Watched  # type: ignore[misc]
        return controller.main(given.arguments)


if __name__ == "__main__":
    sys.exit(main())
