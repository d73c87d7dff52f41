"""The operator and the reporter as processes, as they run anywhere: `leasehold operator`, `leasehold reporter`."""

from __future__ import annotations

import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

from leasehold.demo.errors import PartEnded
from leasehold.demo.examples import NAMESPACE
from leasehold.testing.control_plane import OPERATOR_NAMESPACE
from leasehold.testing.processes import Child, wait_until

_PROGRAM = (sys.executable, "-m", "leasehold.cli.main")
_LISTENING = re.compile(r"listening on port (\d+)")
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0


class Part:
    """One process of the demo."""

    def __init__(self, name: str, directory: Path, *arguments: str, **env: str) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.log.unlink(missing_ok=True)
        self._child = Child(
            [*_PROGRAM, name, *arguments], log=self.log, cwd=directory, env={**os.environ, **env}
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    def check(self) -> None:
        """Raise PartEnded when the process is gone."""
        if not self._child.running():
            raise PartEnded(
                f"The {self.name} ended with status {self._child.returncode()}. Its log, {self.log}, ends:\n"
                f"{self._child.log_tail()}"
            )

    def stop(self) -> None:
        """End the process; it gets some seconds to do so in order."""
        self._child.stop(_STOP_SECONDS)


class Operator(Part):
    """The operator's process and its HTTP endpoint."""

    def __init__(self, directory: Path, kubeconfig: Path, *, enforcement: bool = False) -> None:
        # One that may touch pods has an account of its own, which elects where the manifests allow it to.
        home = OPERATOR_NAMESPACE if enforcement else NAMESPACE
        options = ("--kubeconfig", str(kubeconfig), "--http-port", "0", "--election-namespace", home)
        switch = {"LEASEHOLD_ENFORCEMENT": "on"} if enforcement else {}
        super().__init__("operator", directory, *options, **switch)
        self.url = ""

    def wait_ready(self) -> None:
        """Wait until it listens and says that it is ready. Raises PartEnded."""
        if wait_until(self._ready, _START_SECONDS, step_seconds=0.1):
            return
        raise PartEnded(f"The operator was not ready in {_START_SECONDS:.0f} s. See {self.log}.")

    def _ready(self) -> bool:
        self.check()
        if not self.url:
            found = _LISTENING.search(self.log.read_text(errors="replace"))
            if found is None:
                return False
            self.url = f"http://127.0.0.1:{found[1]}"
        return answers(f"{self.url}/readyz")


class Reporter(Part):
    """The reporter's process: measures this host by psutil."""

    def __init__(self, directory: Path, kubeconfig: Path, node: str) -> None:
        super().__init__("reporter", directory, "--kubeconfig", str(kubeconfig), "--node-name", node)


def answers(url: str) -> bool:
    """Tell whether a page is there and says OK."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - always http on loopback
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
