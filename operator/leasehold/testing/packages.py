"""Installs Debian's packages, for whatever here needs their programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

from leasehold.testing import toolchain
from leasehold.testing.toolchain import Progress


class InstallError(RuntimeError):
    """A package could not be installed. The message has what apt-get said."""


def may_install() -> bool:
    """Tell whether this process can install packages: it is root, where there is apt-get."""
    return shutil.which("apt-get") is not None and os.geteuid() == 0


def install(
    wanted: Callable[[], Sequence[str]], why: str, progress: Progress, timeout_seconds: float
) -> None:
    """Install the packages that are wanted by the time that no other process installs any. Raises InstallError.

    Nothing is removed for them, and no service is started. Each run of apt-get may take `timeout_seconds`.
    """
    cache = toolchain.cache_root(os.environ)
    cache.mkdir(parents=True, exist_ok=True)
    with toolchain.lock(cache / ".install-lock", "another process installs packages", progress):
        names = wanted()
        if not names:
            return
        progress(f"leasehold: installing {', '.join(names)} with apt-get, {why}")
        if _apt(timeout_seconds, "install", *names).returncode != 0:  # perhaps for want of package lists
            progress("leasehold: once more, with new package lists")
            _apt(timeout_seconds, "update")
            done = _apt(timeout_seconds, "install", *names)
            if done.returncode != 0:
                raise InstallError(f"`apt-get install {' '.join(names)}` failed:\n{done.stdout[-2000:]}")
        progress(f"leasehold: installed {', '.join(names)}")


def _apt(timeout_seconds: float, command: str, *names: str) -> subprocess.CompletedProcess[str]:
    options = ["--quiet", "--yes", "--option", "DPkg::Lock::Timeout=120"]
    if command == "install":
        options += ["--no-install-recommends", "--no-remove", "--no-upgrade"]
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "SYSTEMD_OFFLINE": "1"}  # no service is to be started
    return subprocess.run(
        ["apt-get", command, *options, *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **quiet},
        timeout=timeout_seconds,
        text=True,
        check=False,
    )
