"""What a host needs so that a real node can run on it, and how to come by it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from leasehold.testing import _node_keeper as keeper
from leasehold.testing import packages, toolchain
from leasehold.testing.errors import NodeUnavailableError
from leasehold.testing.toolchain import CONTROL_PLANE, Progress

BINARIES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "pause",
)
"""What is built with Go."""

PLUGIN_DIRECTORIES = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))

_PLUGINS = ("bridge", "host-local", "loopback")

# Debian's package for each program that no Debian system must have.
_PACKAGES = {
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "openssl": "openssl",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
_PLUGINS_PACKAGE = "containernetworking-plugins"

_INSTALL_SECONDS = 600
_KERNEL_LOG = Path("/dev/kmsg")
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def unavailable() -> str | None:
    """Return why no real node can run here, or None when one can, perhaps after installing and building."""
    if sys.platform != "linux":
        return f"a real node needs Linux, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "a real node needs root: it makes namespaces, mounts and cgroups"
    return _no_cgroups() or _no_namespaces() or _no_programs() or _no_binaries()


def _no_cgroups() -> str | None:
    if not keeper.hierarchies():
        return "a real node needs cgroups, and none are mounted in /sys/fs/cgroup"
    name = f"leasehold-try-{secrets.token_hex(4)}"
    try:
        keeper.make_cgroups(name)
    except OSError as error:
        return f"a real node needs to make cgroups: {error}"
    finally:
        keeper.remove_cgroups(name, timeout_seconds=1)
    return None


def _no_namespaces() -> str | None:
    if not _KERNEL_LOG.exists():
        return "a real node needs /dev/kmsg: a kubelet reads there what ran out of memory"
    unshare = shutil.which("unshare", path=search_path())
    if unshare is None:
        return None  # told, or installed, with the other programs
    tried = subprocess.run(
        [unshare, "--mount", "--net", "--pid", "--fork", "mount", "-t", "proc", "proc", "/proc"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"a real node needs namespaces: {tried.stderr.strip()}" if tried.returncode != 0 else None


def _no_programs() -> str | None:
    absent = missing_programs()
    if not absent or shutil.which("apt-get") is not None:
        return None
    return (
        f"a real node needs {', '.join(absent)}: install them (Debian's packages are "
        f"{', '.join(sorted(set(absent.values())))})"
    )


def _no_binaries() -> str | None:
    absent = toolchain.missing(toolchain.cache_directory(CONTROL_PLANE, os.environ), BINARIES)
    if absent and shutil.which("go") is None:
        return (
            f"a real node needs {', '.join(absent)}, and no Go is there to build them: install it (go.dev/dl)"
        )
    return None


def search_path() -> str:
    """Return PATH with the directories for administrators, where Debian keeps some of the programs."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_PATH))


def environment() -> Mapping[str, str]:
    """Return the environment for programs of a node: no proxy, no setting meant for somebody else."""
    return {"PATH": search_path(), "HOME": "/root", "LANG": "C.UTF-8"}


def plugin_directory() -> Path | None:
    """Return the first directory that holds the network plugins."""
    return next((place for place in PLUGIN_DIRECTORIES if not toolchain.missing(place, _PLUGINS)), None)


def program(name: str) -> str:
    """Return the path of a program. Raises NodeUnavailableError when it is not there."""
    found = shutil.which(name, path=search_path())
    if found is None:
        raise NodeUnavailableError(f"{name} is not there: Debian's package is {_PACKAGES[name]}")
    return found


def missing_programs() -> dict[str, str]:
    """Return the programs that are not there, with the Debian package of each."""
    path = search_path()
    absent = {name: package for name, package in _PACKAGES.items() if shutil.which(name, path=path) is None}
    if plugin_directory() is None:
        absent |= {f"the network plugin {name}": _PLUGINS_PACKAGE for name in _PLUGINS}
    return absent


def install(progress: Progress) -> None:
    """Install Debian's packages of the programs that are not there. Raises NodeUnavailableError."""
    if not missing_programs():
        return
    try:
        packages.install(
            lambda: sorted(set(missing_programs().values())), "for a real node", progress, _INSTALL_SECONDS
        )
    except packages.InstallError as error:
        raise NodeUnavailableError(str(error)) from error
    absent = missing_programs()
    if absent:
        raise NodeUnavailableError(f"installed, and still not there: {', '.join(absent)}")


def build(progress: Progress) -> Path:
    """Build the binaries that are not there and return the directory of them all. Raises BuildError."""
    return toolchain.build(CONTROL_PLANE, BINARIES, progress=progress)
