"""Which cgroups belong to which lease, and what they use. Both cgroup versions.

A cgroup belongs to a lease if its name holds ``leasehold-<uid>``, or is the uid. Systemd writes ``-`` as
``_`` in the names of slices; both are understood. Nothing is read unless a lease was asked about, and a
search is bounded in depth and in directories: if it had to stop early, leases it did not find are unknown,
not gone.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from leasehold.core.reporting import LeaseUse

CGROUP_ROOT: Final = "/sys/fs/cgroup"
CGROUP_NAMESPACE: Final = "/proc/self/ns/cgroup"
MARK: Final = "leasehold-"

MAX_DEPTH: Final = 8
"""How many directories below the root are searched. Kubernetes nests six at most (slice, QoS, pod,
container, inner).
"""

MAX_DIRECTORIES: Final = 20_000
"""How many directories one search opens."""

FOUND_SECONDS: Final = 30.0
"""How old a search may be that found every lease asked about: a lease's further cgroups are seen after
that.
"""

MISSING_SECONDS: Final = 10.0
"""How old a search may be that did not find every lease."""

_HOST_NAMESPACE: Final = "cgroup:[4026531835]"
"""The host's own cgroup namespace has a fixed inode number: ``PROC_CGROUP_INIT_INO`` in the kernel's
``proc_ns.h``.
"""

_V1_CPU: Final = ("cpuacct", "cpu,cpuacct", "cpuacct,cpu")
_UNIT_SUFFIXES: Final = (".slice", ".scope", ".service")


class Reading(NamedTuple):
    """What is certain about the leases asked for, and what could not be found out, in plain words."""

    leases: Mapping[str, LeaseUse]
    problems: tuple[str, ...] = ()


class Tree(NamedTuple):
    """One cgroup hierarchy and how it is read. Version 1 has one for CPU and one for memory, version 2 one for both."""

    root: str
    populated: Callable[[str], bool]
    cpu_seconds: Callable[[str], float] | None
    memory: Callable[[str], int] | None


class Search(NamedTuple):
    """What one search found: the places of each lease, and whether it saw everything."""

    places: Mapping[str, list[tuple[Tree, str]]]
    complete: bool


class Cgroups:
    """The cgroups of the leases asked about, under ``root``. Places are remembered, use is read every time.

    Without ``root`` the usual place is taken, and believed only in the host's own cgroup namespace: in
    another one it shows the container, in which no lease would ever be found.
    """

    def __init__(self, root: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._trees = trees_under(root or CGROUP_ROOT)
        self._blind = _blindness(root, self._trees)
        self._asked: frozenset[str] = frozenset()
        self._search = Search({}, complete=False)
        self._searched_at = 0.0

    def read(self, uids: Iterable[str]) -> Reading:
        """Return what the leases use. Costs nothing when there are no uids."""
        asked = frozenset(uids)
        if not asked:
            return Reading({})
        if self._blind:
            return Reading({}, (self._blind,))
        if self._outdated(asked):
            self._asked, self._search, self._searched_at = asked, search(self._trees, asked), self._clock()
        uses = {uid: _use(self._search.places.get(uid, ())) for uid in asked}
        if self._search.complete:
            return Reading(uses)
        present = {uid: use for uid, use in uses.items() if use.present}
        return Reading(present, (f"leases: only {MAX_DIRECTORIES} cgroups of this node were searched",))

    def _outdated(self, asked: frozenset[str]) -> bool:
        """Tell whether to search again. A place that is gone always asks for it: its lease may live on elsewhere."""
        if asked != self._asked:
            return True
        places = self._search.places
        patience = FOUND_SECONDS if len(places) == len(asked) else MISSING_SECONDS
        return self._clock() - self._searched_at >= patience or not all(
            os.path.isdir(path) for known in places.values() for _, path in known
        )


def trees_under(root: str) -> tuple[Tree, ...]:
    """Return the hierarchies at ``root`` that say what a cgroup uses; none if there are no cgroups."""
    if os.path.exists(f"{root}/cgroup.controllers"):
        return (Tree(root, _populated_v2, _cpu_seconds_v2, _memory_v2),)
    found = []
    cpu = next((name for name in _V1_CPU if os.path.exists(f"{root}/{name}/cpuacct.usage")), None)
    if cpu is not None:
        found.append(Tree(f"{root}/{cpu}", _populated_v1, _cpu_seconds_v1, None))
    if os.path.exists(f"{root}/memory/memory.usage_in_bytes"):
        found.append(Tree(f"{root}/memory", _populated_v1, None, _memory_v1))
    return tuple(found)


def _blindness(root: str | None, trees: tuple[Tree, ...]) -> str:
    if not trees:
        return f"leases: no cgroups at {root or CGROUP_ROOT}"
    if root is None and _namespace() != _HOST_NAMESPACE:
        return "leases: only this container's cgroups are visible; give the node's by --cgroup-root"
    return ""


def _namespace() -> str:
    try:
        return os.readlink(CGROUP_NAMESPACE)
    except OSError:  # a kernel without cgroup namespaces
        return _HOST_NAMESPACE


def search(trees: Iterable[Tree], asked: Iterable[str], budget: int = MAX_DIRECTORIES) -> Search:
    """Look for the cgroups of the leases ``asked`` about, opening at most ``budget`` directories."""
    owners = {uid.replace("_", "-"): uid for uid in asked}
    lengths = sorted({len(uid) for uid in owners})
    places: dict[str, list[tuple[Tree, str]]] = {}
    for tree in trees:
        unopened = [(tree.root, 0)]
        while unopened:
            if not budget:
                return Search(places, complete=False)
            budget -= 1
            folder, depth = unopened.pop()
            for name in _subdirectories(folder):
                path = f"{folder}/{name}"
                uid = owner_of(name, owners, lengths)
                if uid is not None:  # what lies below is counted in it already
                    places.setdefault(uid, []).append((tree, path))
                elif depth + 1 < MAX_DEPTH:
                    unopened.append((path, depth + 1))
    return Search(places, complete=True)


def owner_of(name: str, owners: Mapping[str, str], lengths: Iterable[int]) -> str | None:
    """Return the lease that a directory's name gives it to. ``owners`` maps uids, spelt with dashes, to uids."""
    spelt = name.replace("_", "-")
    for suffix in _UNIT_SUFFIXES:
        spelt = spelt.removesuffix(suffix)
    if spelt in owners:
        return owners[spelt]
    _, mark, rest = spelt.partition(MARK)
    if mark:
        for length in lengths:
            if rest[:length] in owners and not rest[length : length + 1].isalnum():
                return owners[rest[:length]]
    return None


def _subdirectories(path: str) -> Iterator[str]:
    with suppress(OSError), os.scandir(path) as entries:  # removed meanwhile, or not ours to open
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name


def _use(places: Iterable[tuple[Tree, str]]) -> LeaseUse:
    present, cpu, memory = False, 0.0, 0
    for tree, path in places:
        # A file that is not there: the cgroup was removed meanwhile, or its controller is switched off.
        with suppress(OSError, ValueError, LookupError):
            present = tree.populated(path) or present
        with suppress(OSError, ValueError, LookupError):
            cpu += tree.cpu_seconds(path) if tree.cpu_seconds else 0.0
        with suppress(OSError, ValueError, LookupError):
            memory += tree.memory(path) if tree.memory else 0
    return LeaseUse(present, cpu, memory) if present else LeaseUse(present=False, cpu_seconds=0.0, memory=0)


# --- The files of the two versions --------------------------------------------------------------------------


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _keyed(path: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in _read(path).splitlines())}


def _populated_v2(path: str) -> bool:
    return bool(_keyed(f"{path}/cgroup.events")["populated"])


def _cpu_seconds_v2(path: str) -> float:
    return _keyed(f"{path}/cpu.stat")["usage_usec"] / 1e6


def _memory_v2(path: str) -> int:
    idle = _keyed(f"{path}/memory.stat").get("inactive_file", 0)
    return max(int(_read(f"{path}/memory.current")) - idle, 0)


def _populated_v1(path: str) -> bool:
    unopened = [(path, 0)]
    while unopened:
        folder, depth = unopened.pop()
        with suppress(OSError):
            if _read(f"{folder}/cgroup.procs"):
                return True
        if depth < MAX_DEPTH:
            unopened.extend((f"{folder}/{name}", depth + 1) for name in _subdirectories(folder))
    return False


def _cpu_seconds_v1(path: str) -> float:
    return int(_read(f"{path}/cpuacct.usage")) / 1e9


def _memory_v1(path: str) -> int:
    idle = _keyed(f"{path}/memory.stat").get("total_inactive_file", 0)
    return max(int(_read(f"{path}/memory.usage_in_bytes")) - idle, 0)
