"""Which cgroups belong to which lease, and what they use. Both cgroup versions.

A cgroup belongs to a lease if its name holds ``leasehold-<uid>`` or is the uid, or if it is that of a pod of the
lease: the kubelet names it ``pod<uid>``, or with systemd's driver ``kubepods-burstable-pod<uid>.slice``. Systemd
writes ``-`` as ``_`` in the names of slices; both are understood. Nothing is read unless a lease was asked about, and
a search is bounded in depth and in directories.

A lease is gone on the word of a whole search only, made when it was first missed or later. What a search did not see,
and what cannot be read, is unknown and not gone.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from leasehold.core.reporting import LeaseUse

CGROUP_ROOT: Final = "/sys/fs/cgroup"
CGROUP_NAMESPACE: Final = "/proc/self/ns/cgroup"
PID_NAMESPACE: Final = "/proc/self/ns/pid"
MARK: Final = "leasehold-"
POD: Final = "pod"

MAX_DEPTH: Final = 8
"""How many directories below the root are searched. Kubernetes nests six at most (slice, QoS, pod,
container, inner).
"""

MAX_DIRECTORIES: Final = 20_000
"""How many directories one search opens."""

FOUND_SECONDS: Final = 30.0
"""How old a search may be that found every lease asked about: a lease's further cgroups are seen after
that. Its further pods are seen at once.
"""

MISSING_SECONDS: Final = 10.0
"""How old a search may be that did not find every lease."""

_HOST_CGROUPS: Final = "cgroup:[4026531835]"
_HOST_PIDS: Final = "pid:[4026531836]"
"""The host's own namespaces have fixed inode numbers: ``PROC_CGROUP_INIT_INO`` and ``PROC_PID_INIT_INO`` in the
kernel's ``proc_ns.h``.
"""

_V1_CPU: Final = ("cpuacct", "cpu,cpuacct", "cpuacct,cpu")
_UNIT_SUFFIXES: Final = (".slice", ".scope", ".service")
_POD_FOLDERS: Final = ("kubepods", "burstable", "besteffort")
"""How the names of those cgroups end in which the kubelet makes those of pods, one for each class of service."""

_NO_PODS: Final[Mapping[str, str]] = {}
_REMOVED: Final = (errno.ENOENT, errno.ENODEV, errno.ENOTDIR)


class Reading(NamedTuple):
    """What is certain about the leases asked for, and what could not be found out, in plain words."""

    leases: Mapping[str, LeaseUse]
    problems: tuple[str, ...] = ()


class Tree(NamedTuple):
    """One cgroup hierarchy and how it is read. Version 1 has one for CPU and one for memory, version 2 one for both.

    ``populated`` tells whether a cgroup, or one below it, has processes; None when that cannot be seen from here.
    """

    root: str
    populated: Callable[[str], bool | None]
    cpu_seconds: Callable[[str], float] | None
    memory: Callable[[str], int] | None


class Names:
    """What the directories of leases and of their pods are called.

    ``owners`` maps what tells a directory apart to its lease: the uid of the lease, or ``pod`` and the uid of the pod,
    both spelt with dashes. ``pods`` are those of pods.
    """

    __slots__ = ("_lengths", "owners", "pods")

    def __init__(self, leases: Iterable[str], pods: Mapping[str, str]) -> None:
        self.owners = {spelt(uid): uid for uid in leases}
        self._lengths = sorted({len(uid) for uid in self.owners})
        asked = frozenset(self.owners.values())
        of_pods = {f"{POD}{spelt(uid)}": lease for uid, lease in pods.items() if lease in asked}
        self.owners |= of_pods
        self.pods = frozenset(of_pods)

    def key_of(self, name: str) -> str:
        """Return what a directory of this name, spelt with dashes, is known by in ``owners``; "" if it is not."""
        if name in self.owners:
            return name
        _, mark, uid = name.rpartition(f"-{POD}")
        if mark and f"{POD}{uid}" in self.pods:
            return f"{POD}{uid}"
        _, mark, rest = name.partition(MARK)
        if mark:
            for length in self._lengths:
                if rest[:length] in self.owners and not rest[length : length + 1].isalnum():
                    return rest[:length]
        return ""


class Place(NamedTuple):
    """A cgroup of a lease. ``inside`` is the other lease whose cgroup it lies in, "" if there is none."""

    tree: Tree
    path: str
    key: str
    inside: str


class PodFolder(NamedTuple):
    """A cgroup in which the kubelet makes those of pods, and the lease whose cgroup it lies in, if any."""

    tree: Tree
    path: str
    inside: str


class Search(NamedTuple):
    """What one search found: the places of each lease, where pods are made, and what kept it from seeing everything."""

    places: dict[str, list[Place]]
    pod_folders: list[PodFolder]
    problem: str = ""


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
        self._pods: Mapping[str, str] = {}
        self._names = Names((), {})
        self._search = Search({}, [])
        self._searched_at = 0.0
        self._missed: frozenset[str] = frozenset()
        self._counters: dict[str, float] = {}
        self._spent: dict[str, float] = {}

    def read(self, uids: Iterable[str], pods: Mapping[str, str] = _NO_PODS) -> Reading:
        """Return what the leases use, and their ``pods``: the lease of each, by uids. Costs nothing without leases."""
        asked = frozenset(uids)
        if not asked:
            return Reading({})
        if self._blind:
            return Reading({}, (self._blind,))
        changed = asked != self._asked or pods != self._pods
        if changed:
            self._asked, self._pods, self._names = asked, pods, Names(asked, pods)
        searched = changed or self._outdated()
        if searched:
            self._look()
        else:
            self._follow_pods()
        uses, counters = self._count()
        if not searched and not _absent(uses) <= self._missed:
            # One that was there a moment ago may have moved to a place that is not known yet.
            self._look()
            uses, counters = self._count()
        self._missed, self._counters = _absent(uses), counters
        self._spent = {uid: use.cpu_seconds for uid, use in uses.items() if use.present}
        return self._certain(uses)

    def _certain(self, uses: Mapping[str, LeaseUse]) -> Reading:
        problems = []
        if len(uses) < len(self._asked):
            number = len(self._asked) - len(uses)
            problems.append(f"leases: whether {number} of them have processes left cannot be read")
        if self._search.problem:
            problems.append(self._search.problem)
            uses = {uid: use for uid, use in uses.items() if use.present}
        return Reading(uses, tuple(problems))

    def _outdated(self) -> bool:
        """Tell whether to search again. A place that is gone asks for it: its lease may live on elsewhere.

        Pods are told apart by their uids and do not move.
        """
        places = self._search.places
        patience = FOUND_SECONDS if len(places) == len(self._asked) else MISSING_SECONDS
        return self._clock() - self._searched_at >= patience or not all(
            place.key in self._names.pods or os.path.isdir(place.path)
            for known in places.values()
            for place in known
        )

    def _look(self) -> None:
        self._search, self._searched_at = search(self._trees, self._names), self._clock()

    def _follow_pods(self) -> None:
        """Forget pods that are gone, and see those that came: a few directories, where a search opens hundreds."""
        names, places = self._names, self._search.places
        if not names.pods:
            return
        for uid, known in list(places.items()):
            left = [place for place in known if place.key not in names.pods or os.path.isdir(place.path)]
            if left:
                places[uid] = left
            else:
                del places[uid]
        paths = {place.path for known in places.values() for place in known if place.key in names.pods}
        if len(paths) >= len(names.pods) * len(self._trees):
            return
        for tree, folder, inside in self._search.pod_folders:
            with suppress(OSError):  # the next search says so
                for name in _subdirectories(folder):
                    path, key = f"{folder}/{name}", names.key_of(spelt(name))
                    if key in names.pods and path not in paths and names.owners[key] != inside:
                        places.setdefault(names.owners[key], []).append(Place(tree, path, key, inside))

    def _count(self) -> tuple[dict[str, LeaseUse], dict[str, float]]:
        """Return the use of each lease whose presence can be told, and the CPU counter of each place.

        A lease's CPU time goes on from what it was by what its places used since the last reading. Those that are new
        count from now, or what a pod used before it was found would look like a burst.
        """
        sums = {uid: _Sum() for uid in self._asked}
        counters: dict[str, float] = {}
        for uid, places in self._search.places.items():
            for tree, path, _, inside in places:
                if not sums[uid].present:
                    populated = _populated(tree, path)  # what is unknown stays so, unless another is there
                    sums[uid].present = None if sums[uid].present is None and not populated else populated
                before = self._counters.get(path)
                cpu, memory = _use(tree, path, before or 0.0)
                grown = 0.0 if before is None else max(cpu - before, 0.0)
                counters[path] = cpu
                sums[uid].add(cpu, grown, memory)
                if inside:  # where it is counted, too
                    sums[inside].add(-cpu, -grown, -memory)
        uses = {uid: use for uid, one in sums.items() if (use := one.use(self._spent.get(uid))) is not None}
        return uses, counters


class _Sum:
    """What the places of one lease amount to."""

    __slots__ = ("cpu", "grown", "memory", "present")

    def __init__(self) -> None:
        self.present: bool | None = False
        self.cpu = self.grown = 0.0
        self.memory = 0

    def add(self, cpu: float, grown: float, memory: int) -> None:
        self.cpu += cpu
        self.grown += grown
        self.memory += memory

    def use(self, spent: float | None) -> LeaseUse | None:
        """Return the use of a lease, None if its presence cannot be told.

        ``spent`` is the CPU time (s) it had at the last reading, None if it was not there.
        """
        if self.present is None:
            return None
        if not self.present:
            return LeaseUse(present=False, cpu_seconds=0.0, memory=0)
        cpu = self.cpu if spent is None else spent + max(self.grown, 0.0)
        return LeaseUse(present=True, cpu_seconds=max(cpu, 0.0), memory=max(self.memory, 0))


def _absent(uses: Mapping[str, LeaseUse]) -> frozenset[str]:
    return frozenset(uid for uid, use in uses.items() if not use.present)


def trees_under(root: str) -> tuple[Tree, ...]:
    """Return the hierarchies at ``root`` that say what a cgroup uses; none if there are no cgroups."""
    if os.path.exists(f"{root}/cgroup.controllers"):
        return (Tree(root, _populated_v2, _cpu_seconds_v2, _memory_v2),)
    found = []
    cpu = next((name for name in _V1_CPU if os.path.exists(f"{root}/{name}/cpuacct.usage")), None)
    if cpu is not None:
        found.append(Tree(f"{root}/{cpu}", _populated_v1(root, cpu), _cpu_seconds_v1, None))
    if os.path.exists(f"{root}/memory/memory.usage_in_bytes"):
        found.append(Tree(f"{root}/memory", _populated_v1(root, "memory"), None, _memory_v1))
    return tuple(found)


def _blindness(root: str | None, trees: tuple[Tree, ...]) -> str:
    if not trees:
        return f"leases: no cgroups at {root or CGROUP_ROOT}"
    if root is None and not _in_namespace(CGROUP_NAMESPACE, _HOST_CGROUPS):
        return "leases: only this container's cgroups are visible; give the node's by --cgroup-root"
    return ""


def _in_namespace(link: str, namespace: str) -> bool:
    try:
        return os.readlink(link) == namespace
    except OSError:  # a kernel without such namespaces
        return True


def search(trees: Iterable[Tree], names: Names, budget: int = MAX_DIRECTORIES) -> Search:
    """Look for the cgroups of the leases and pods, opening at most ``budget`` directories.

    What lies in a lease's cgroup is counted in it already, unless it is another lease's.
    """
    places: dict[str, list[Place]] = {}
    folders: list[PodFolder] = []
    refused = ""
    for tree in trees:
        unopened = [(tree.root, 0, "")]
        while unopened:
            if not budget:
                problem = f"leases: only {MAX_DIRECTORIES} cgroups of this node were searched"
                return Search(places, folders, problem)
            budget -= 1
            folder, depth, inside = unopened.pop()
            try:
                children = _subdirectories(folder)
            except OSError as error:
                refused = f"leases: not all cgroups of this node can be opened: {error}"
                continue
            for child in children:
                path, name = f"{folder}/{child}", spelt(child)
                key = names.key_of(name)
                owner = names.owners[key] if key else ""
                if owner and owner != inside:
                    places.setdefault(owner, []).append(Place(tree, path, key, inside))
                elif name.endswith(_POD_FOLDERS):
                    folders.append(PodFolder(tree, path, inside))
                if depth + 1 < MAX_DEPTH:
                    unopened.append((path, depth + 1, owner or inside))
    return Search(places, folders, refused)


def spelt(name: str) -> str:
    """Return a directory's name, or a uid, with dashes and without the kind of a systemd unit."""
    name = name.replace("_", "-")
    for suffix in _UNIT_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _subdirectories(path: str) -> list[str]:
    """Return the names of the cgroups in a cgroup; none if it was removed. Raises OSError if it cannot be opened."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in _REMOVED:
            return []
        raise


def _populated(tree: Tree, path: str) -> bool | None:
    try:
        return tree.populated(path)
    except OSError as error:
        return False if error.errno in _REMOVED else None
    except (ValueError, LookupError):
        return None


def _use(tree: Tree, path: str, cpu: float) -> tuple[float, int]:
    """Return CPU seconds and bytes; a figure whose file is not there stays ``cpu``, or is 0.

    The cgroup was removed meanwhile, or its controller is switched off.
    """
    memory = 0
    with suppress(OSError, ValueError, LookupError):
        cpu = tree.cpu_seconds(path) if tree.cpu_seconds else 0.0
    with suppress(OSError, ValueError, LookupError):
        memory = tree.memory(path) if tree.memory else 0
    return cpu, memory


# --- The files of the two versions --------------------------------------------------------------------------


def _read(path: str) -> str:
    # Four files of each of a hundred pods at every reading: a file object would take three times as long.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(file, 65536):
            parts.append(part)
    finally:
        os.close(file)
    return b"".join(parts).decode("ascii")


def _keyed(path: str, key: str) -> int:
    """Return one number of a file of names and numbers. Raises LookupError if it is not there."""
    _, found, rest = f"\n{_read(path)}".partition(f"\n{key} ")
    if not found:
        raise LookupError(key)
    return int(rest.partition("\n")[0])


def _populated_v2(path: str) -> bool:
    return bool(_keyed(f"{path}/cgroup.events", "populated"))


def _cpu_seconds_v2(path: str) -> float:
    return _keyed(f"{path}/cpu.stat", "usage_usec") / 1e6


def _memory_v2(path: str) -> int:
    return _less_idle(int(_read(f"{path}/memory.current")), f"{path}/memory.stat", "inactive_file")


def _less_idle(used: int, stat: str, idle: str) -> int:
    with suppress(LookupError):
        return max(used - _keyed(stat, idle), 0)
    return used


def _populated_v1(root: str, tree: str) -> Callable[[str], bool | None]:
    """Return how to tell whether cgroups of one hierarchy have processes.

    ``cgroup.procs`` names only the processes of the reader's own PID namespace: in a pod, those of other pods are left
    out, and every cgroup looks empty. The pids controller counts them all.
    """
    return partial(_has_processes, f"{root}/{tree}", f"{root}/pids")


def _has_processes(tree: str, pids: str, path: str) -> bool | None:
    counted = False
    with suppress(OSError, ValueError):
        if int(_read(f"{pids}{path.removeprefix(tree)}/pids.current")):
            return True
        counted = True
    unopened = [(path, 0)]
    while unopened:
        folder, depth = unopened.pop()
        try:
            if _read(f"{folder}/cgroup.procs"):
                return True
        except OSError as error:
            if error.errno not in _REMOVED:
                raise
        if depth < MAX_DEPTH:
            unopened.extend((f"{folder}/{name}", depth + 1) for name in _subdirectories(folder))
    certain = counted or _in_namespace(PID_NAMESPACE, _HOST_PIDS) or not os.path.isdir(path)
    return False if certain else None


def _cpu_seconds_v1(path: str) -> float:
    return int(_read(f"{path}/cpuacct.usage")) / 1e9


def _memory_v1(path: str) -> int:
    used = int(_read(f"{path}/memory.usage_in_bytes"))
    return _less_idle(used, f"{path}/memory.stat", "total_inactive_file")
