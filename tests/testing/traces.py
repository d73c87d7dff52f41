"""What a real node could leave on the machine: found by its name, its namespaces and its cgroups."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from leasehold.testing.processes import ProcessIdentity

_NAMESPACES = ("mnt", "net", "pid")

# What any kubelet, containerd or network plugin writes to, wherever it is told to keep its files.
_PATHS = (
    *("/etc/cni", "/opt/cni", "/opt/containerd", "/run/containerd", "/run/netns", "/usr/libexec/kubernetes"),
    *("/var/lib/cni", "/var/lib/containerd", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods"),
)

# What a kubelet sets for the whole machine.
_SETTINGS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "net/ipv4/ip_forward"),
)


@dataclass(frozen=True)
class Traces:
    """A node by its name, with the namespaces and processes that it was seen to have while it ran."""

    name: str
    namespaces: frozenset[str]
    processes: frozenset[ProcessIdentity]

    @classmethod
    def of(cls, name: str, first: int, known: Iterable[int]) -> Traces:
        """Look at a running node.

        first: the id of the first process within. known: processes that are not within and belong to it.
        """
        namespaces = frozenset(os.readlink(f"/proc/{first}/ns/{kind}") for kind in _NAMESPACES)
        traces = cls(name, namespaces, frozenset())
        found = (ProcessIdentity.of(pid) for pid in (*traces._pids(), *known))
        return cls(name, namespaces, frozenset(process for process in found if process is not None))

    def left(self) -> list[str]:
        """Return everything that is still there, in words; empty when nothing is."""
        return [
            *(f"process {process.pid} of then" for process in self.processes if process.alive()),
            *(f"process {pid}: {_read(pid, 'cmdline')}" for pid in self._pids()),
            *(f"mount seen by {pid}" for pid in _processes() if self.name in _read(pid, "mountinfo")),
            *(f"cgroup {place}" for place, _, _ in os.walk("/sys/fs/cgroup") if self.name in place),
            *(f"directory {place}" for place in Path(tempfile.gettempdir()).glob(f"*{self.name}*")),
        ]

    def _pids(self) -> Iterator[int]:
        for pid in _processes():
            if pid == os.getpid():
                continue
            links = set()
            for kind in _NAMESPACES:
                with contextlib.suppress(OSError):
                    links.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
            named = self.name in _read(pid, "cgroup") or self.name in _read(pid, "cmdline")
            ours = named or bool(links & self.namespaces)
            if ours and ProcessIdentity.of(pid) is not None:  # a zombie is no process any more
                yield pid


def of_the_machine() -> dict[str, object]:
    """Return what a node must leave as it found it: named networks, links, settings, fixed paths, mounts.

    Of links and mounts, those of a kind that a node makes: other tests make others meanwhile.
    """
    links = [line.split()[1] for line in _said("ip", "-oneline", "link").splitlines()]
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return {
        "networks": _said("ip", "netns", "list"),
        "links": [name for name in links if name.startswith(("lh", "veth", "cni"))],
        "settings": {name: Path("/proc/sys", name).read_text() for name in _SETTINGS},
        "paths": {path: _listing(Path(path)) for path in _PATHS},
        "mounts": [place for place in mounts if place.startswith((*_PATHS, "/proc/sys"))],
    }


def _listing(path: Path) -> list[str] | None:
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else None


def _processes() -> Iterator[int]:
    yield from (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
