"""Keeps the namespaces of a real node, and clears up behind it however its owner ended. Linux only.

Usage, as a script: `python -I -S _node_keeper.py DIRECTORY`. The name of the directory is the node's and that
of its cgroups. It makes the cgroups and starts the first process of new mount, network and process
namespaces, `_node_init.py`, of which it prints the process id once all is set up. When its standard input
closes or the process that started it dies, it kills that first process, and with it the kernel ends every
process within, takes away every mount and the network. What the kernel leaves is removed here: the cgroups,
and the directory, which an owner that is not done with the node keeps, to read what went wrong. When this
process is killed itself, the kernel still does its part; the rest falls to `remove_abandoned`, which the next
node calls.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "leasehold-node-"

_CGROUPS = Path("/sys/fs/cgroup")
_HERE = Path(__file__).resolve().parent
_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")  # of version 2, those a kubelet uses
_REMOVE_SECONDS = 10.0


def hierarchies() -> list[Path]:
    """Return where cgroups are mounted: one place with version 2, one for each controller with version 1."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    places = [Path(fields[1]) for fields in mounts if fields[2] in ("cgroup", "cgroup2")]
    return [place for place in places if place == _CGROUPS or _CGROUPS in place.parents]


def make_cgroups(name: str) -> None:
    """Make a cgroup of this name at the root of every hierarchy, able to hold processes. Raises OSError."""
    for root in hierarchies():
        if (root / "cgroup.subtree_control").exists() and root == _CGROUPS:
            _delegate(root)
        (root / name).mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):  # with version 1 they start empty, and nothing may run
            if (root / setting).is_file():
                (root / name / setting).write_text((root / setting).read_text())


def _delegate(root: Path) -> None:
    there = (root / "cgroup.controllers").read_text().split()
    enabled = (root / "cgroup.subtree_control").read_text().split()
    for controller in _CONTROLLERS:
        if controller in there and controller not in enabled:
            (root / "cgroup.subtree_control").write_text(f"+{controller}")


def cgroups(prefix: str) -> Iterator[Path]:
    """Yield the cgroups at the roots whose names begin so."""
    for root in hierarchies():
        yield from root.glob(f"{prefix}*")


def remove_cgroups(name: str, timeout_seconds: float = _REMOVE_SECONDS) -> bool:
    """Remove the cgroups of this name with all below; return whether none is left.

    A process that is being ended keeps its cgroup for a moment. One that runs keeps it for good: nothing
    is killed here.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        left = [root / name for root in hierarchies() if (root / name).is_dir()]
        for place in left:
            for directory, _, _ in os.walk(place, topdown=False):
                with contextlib.suppress(OSError):  # busy, or gone meanwhile
                    Path(directory).rmdir()
        if not any(place.is_dir() for place in left):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def name_for(pid: int, started: str, unique: str) -> str:
    """Return the name of a node that the process with this id and start time owns."""
    return f"{PREFIX}{pid}-{started}-{unique}"


def owner_of(name: str) -> tuple[int, str] | None:
    """Return the process id and start time of a node's owner, or None where the name tells none."""
    pid, _, rest = name.removeprefix(PREFIX).partition("-")
    started, _, unique = rest.partition("-")
    return (int(pid), started) if name.startswith(PREFIX) and pid.isdecimal() and unique else None


def keep(directory: Path) -> int:
    """Make cgroups and namespaces, hold them until the owner is done or dead, and clear up."""
    owner = _owner(directory.name)
    if owner is None:
        shutil.rmtree(directory, ignore_errors=True)
        return 0
    done = False
    try:
        make_cgroups(directory.name)
        done = _hold(directory, owner)
    finally:
        removed = remove_cgroups(directory.name)
        # A dying process closes its pipes before it is seen dead: its silence says nothing of the owner.
        if done or _readable(owner):
            removed = _remove(directory) and removed
    return 0 if removed else 1


def _remove(directory: Path) -> bool:
    """Remove a directory in which a child of the dead owner may still be writing; return whether it is gone."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while directory.exists():
        shutil.rmtree(directory, ignore_errors=True)
        if time.monotonic() >= deadline:
            return not directory.exists()
        time.sleep(0.05)
    return True


def _owner(name: str) -> int | None:
    """Return a descriptor of the process that started this one and owns the node; None when it is dead."""
    named = owner_of(name)
    try:
        owner = os.pidfd_open(named[0] if named else os.getppid())
    except ProcessLookupError:
        return None
    # Only while it lives is it the parent, so the descriptor is not that of a later process of the same id.
    return owner if named and os.getppid() == named[0] else None


def _hold(directory: Path, owner: int) -> bool:
    """Hold the namespaces; return whether their owner is done with them, and not they at their end."""
    unshare = shutil.which("unshare") or "/usr/bin/unshare"
    maker = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", str(_HERE / "_exec_with_parent.py"), str(os.getpid()), unshare),
            *("--mount", "--net", "--pid", "--propagation", "private", "--fork", "--kill-child"),
            *(sys.executable, "-I", "-S", str(_HERE / "_node_init.py"), str(directory)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert maker.stdout is not None
    said = maker.stdout.readline()  # "ready", or nothing where the first process gave up
    try:
        if not said:
            return False
        first = _child_of(maker.pid)
        within = os.pidfd_open(first)
        print(first, flush=True)
        while not _readable(sys.stdin.fileno(), owner, within, wait=True):
            pass
        # The first process is gone only when all others in its namespace are.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(within, signal.SIGKILL)
        _readable(within, wait=True)
        return _readable(sys.stdin.fileno(), owner)
    finally:
        maker.kill()
        maker.wait()


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _readable(*descriptors: int, wait: bool = False) -> bool:
    """Tell whether one of them can be read: a pipe was closed, or a process is gone."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(None if wait else 0))


if __name__ == "__main__":
    sys.exit(keep(Path(sys.argv[1])))
