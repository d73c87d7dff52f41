"""Debian's packages of the programs that building an image needs."""

from __future__ import annotations

import os
import subprocess
from typing import Final

from leasehold.testing import toolchain

_SECONDS: Final = 900


class InstallError(RuntimeError):
    """A package could not be installed. The message has what apt-get said."""


def install(*names: str) -> None:
    """Install packages with apt-get. Raises InstallError."""
    cache = toolchain.cache_root(os.environ)
    cache.mkdir(parents=True, exist_ok=True)
    with toolchain.lock(
        cache / ".install-lock", "another process installs packages", toolchain.print_progress
    ):
        toolchain.print_progress(f"leasehold: installing {', '.join(names)} with apt-get, to build the image")
        if _apt("install", *names).returncode != 0:  # perhaps for want of package lists, or of new ones
            _apt("update")
            done = _apt("install", *names)
            if done.returncode != 0:
                raise InstallError(f"`apt-get install {' '.join(names)}` failed:\n{done.stdout[-2000:]}")


def _apt(command: str, *names: str) -> subprocess.CompletedProcess[str]:
    options = ["--quiet", "--yes", "--option", "DPkg::Lock::Timeout=120"]
    if command == "install":
        options += ["--no-install-recommends", "--no-remove", "--no-upgrade"]
    return subprocess.run(
        ["apt-get", command, *options, *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "SYSTEMD_OFFLINE": "1"},
        timeout=_SECONDS,
        text=True,
        check=False,
    )
