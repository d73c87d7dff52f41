"""Runs our commands as people do: each in a process of its own, on a real API server."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.cluster.harness import Stage

from leasehold.testing.processes import Child

SECONDS = 60
"""For a command on a loaded machine: only to end what hangs."""


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The cells of a table, without its headings."""
        return [line.split() for line in self.out.splitlines()[1:]]


class Commands:
    """`leasehold …` against the stage's API server, in the stage's namespace."""

    def __init__(self, stage: Stage | None, kubeconfig: Path | None = None) -> None:
        self._stage = stage
        self.env = {**os.environ, "KUBECONFIG": str(kubeconfig or self.stage.control_plane.kubeconfig)}

    @property
    def stage(self) -> Stage:
        assert self._stage is not None, "there is no stage here: say namespaced=False"
        return self._stage

    def line(self, *arguments: str, namespaced: bool = True) -> list[str]:
        command, *rest = arguments
        where = ["-n", self.stage.namespace] if namespaced else []
        return [sys.executable, "-m", "leasehold.cli.main", command, *where, *rest]

    def __call__(self, *arguments: str, namespaced: bool = True, **env: str) -> Said:
        ended = subprocess.run(
            self.line(*arguments, namespaced=namespaced),
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Said(ended.returncode, ended.stdout, ended.stderr)

    @contextmanager
    def start(self, *arguments: str, **env: str) -> Iterator[Child]:
        """Start a command that goes on; what it says is in its log. It is gone when the block ends."""
        log = self.stage.control_plane.directory / f"command-{secrets.token_hex(4)}.log"
        child = Child(self.line(*arguments), log=log, cwd=Path.cwd(), env={**self.env, **env})
        try:
            yield child
        finally:
            child.kill()

    def as_user(self, user: str) -> Commands:
        """The same as somebody whom nobody has given any right."""
        return Commands(self.stage, self.stage.control_plane.kubeconfig_for(user))
