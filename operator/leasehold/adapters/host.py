"""The node as psutil and /proc show it, as plain values. Reads only; what the values mean is decided in
``core``.

Why no host path is needed inside a container: the kernel does not namespace /proc/meminfo, /proc/stat,
/proc/pressure and /proc/zoneinfo, so they show the host there too, and ``statvfs`` of a container's
directory shows the filesystem that backs it. What does follow the container is left alone: cgroup limits,
``sysconf`` (affinity and cpuset, depending on the C library) and ``psutil.Process`` (another process
altogether once ``PROCFS_PATH`` is set). Hosts that do put a container's view over /proc (lxcfs) are noticed
and said aloud; there, give the host's own /proc by ``procfs``.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import psutil

from leasehold.core.reporting import (
    NODE_FILESYSTEM,
    Cost,
    Filesystem,
    LeaseUse,
    Pressure,
    Sample,
    Surroundings,
)

PROCFS: Final = "/proc"
KUBELET_ROOT: Final = "/var/lib/kubelet"
PRESSURES: Final = ("cpu", "memory", "io")

_PAGE: Final = os.sysconf("SC_PAGESIZE")
_UNCLEAR_SECONDS: Final = 0.002
_VIRTUALISED: Final = ("meminfo", "stat")

Value = TypeVar("Value")


class HostReadError(OSError):
    """Memory or CPU of the host cannot be read. The machine or the way the reporter is mounted into it is at fault."""


class Mount(NamedTuple):
    """A filesystem to report: its name in the report and any path on it."""

    name: str
    path: str


def default_mounts() -> tuple[Mount, ...]:
    """Return where the node's pods keep their ephemeral storage: the kubelet's directory, or ``/`` without
    one.

    In a container without a host path, ``/`` is on the filesystem that backs the image, and an emptyDir on
    nodefs; the DaemonSet names both explicitly.
    """
    return (Mount(NODE_FILESYSTEM, KUBELET_ROOT if os.path.isdir(KUBELET_ROOT) else "/"),)


class Host:
    """The machine this process runs on, read through ``procfs``."""

    def __init__(self, mounts: tuple[Mount, ...] | None = None, procfs: str = PROCFS) -> None:
        self._mounts = default_mounts() if mounts is None else mounts
        self._procfs = procfs
        psutil.PROCFS_PATH = procfs
        self._lasting = tuple(_virtualised(procfs))

    def sample(self, leases: Mapping[str, LeaseUse] | None = None, problems: Iterable[str] = ()) -> Sample:
        """Read what moves: CPU counters, memory, filesystems. ``leases`` and ``problems`` of others are
        passed on.

        Raises:
            HostReadError: CPU or memory cannot be read.
        """
        cpu, at = self._essential("stat", _cpu_times)
        memory = self._essential("meminfo", lambda: _quietly(psutil.virtual_memory))
        filesystems, gone = _filesystems(self._mounts)
        busy = cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq  # guest is in user already
        return Sample(
            at=at,
            cpu_busy=busy,
            cpu_steal=cpu.steal,
            cpu_counted=busy + cpu.idle + cpu.iowait + cpu.steal,
            memory_total=memory.total,
            memory_available=memory.available,
            filesystems=tuple(filesystems),
            leases=leases or {},
            problems=(*self._lasting, *gone, *problems),
        )

    def surroundings(self) -> Surroundings:
        """Read what moves slowly or is only shown. What this kernel does not have is left out.

        Raises:
            HostReadError: the number of cores cannot be read.
        """
        cores = self._essential("stat", self._cores)
        swap = self._swap()
        meminfo = parse_meminfo(self._text("meminfo"))
        return Surroundings(
            boot_id=self._text("sys/kernel/random/boot_id").strip() or self._boot_time(),
            cores=cores,
            working_set=working_set(meminfo),
            pcp_cached=parse_pagesets(self._text("zoneinfo")),
            swap_total=swap[0],
            swap_used=swap[1],
            load=parse_load(self._text("loadavg")),
            pressure=tuple(self._pressures()),
        )

    def _essential(self, name: str, read: Callable[[], Value]) -> Value:
        try:
            return read()
        except (OSError, ValueError, RuntimeError, LookupError) as error:
            raise HostReadError(
                f"{self._procfs}/{name} cannot be read ({error}); is {self._procfs} this node's /proc?"
            ) from error

    def _text(self, name: str) -> str:
        # One read: these files are made anew on every read, and a second one could see another moment.
        try:
            descriptor = os.open(f"{self._procfs}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            return _drain(descriptor)
        except OSError:  # PSI that is compiled in but switched off says so on reading
            return ""
        finally:
            os.close(descriptor)

    def _cores(self) -> int:
        # Counted where the CPU times come from: sysconf, and so psutil.cpu_count, may follow affinity or
        # cpuset.
        cores = parse_cores(self._text("stat"))
        if not cores:
            raise ValueError("no cpu lines")
        return cores

    def _boot_time(self) -> str:
        return f"boot-{int(self._essential('stat', psutil.boot_time))}"

    def _swap(self) -> tuple[int, int]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # psutil warns when vmstat lacks counters that are not used here
                swap = psutil.swap_memory()
        except (OSError, ValueError, RuntimeError, LookupError):
            return 0, 0
        return swap.total, swap.used

    def _pressures(self) -> Iterable[Pressure]:
        for name in PRESSURES:
            pressure = parse_pressure(name, self._text(f"pressure/{name}"))
            if pressure is not None:
                yield pressure


class Meter:
    """What this process costs, from one question to the next."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._at = time.monotonic()

    def read(self) -> Cost:
        """Return the CPU share since the last question and the resident memory now.

        Asks the kernel about this very process; ``psutil.Process`` would look it up by number in
        ``PROCFS_PATH``.
        """
        cpu, at = time.process_time(), time.monotonic()
        elapsed = max(at - self._at, 1e-3)
        micro = round((cpu - self._cpu) / elapsed * 1_000_000)
        self._cpu, self._at = cpu, at
        return Cost(micro, resident_bytes())


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE


def _cpu_times() -> tuple[Any, float]:
    """Return the CPU counters and when they were taken; again, once, if that took so long that it is unclear."""
    for _ in range(2):
        before = time.monotonic()
        cpu = psutil.cpu_times()
        after = time.monotonic()
        if after - before <= _UNCLEAR_SECONDS:
            break
    return cpu, (before + after) / 2


def _quietly(read: Callable[[], Value]) -> Value:
    """Psutil warns of counters this kernel does not have; those that matter here are missed elsewhere, aloud."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read()


def _drain(descriptor: int) -> str:
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts).decode("ascii", "replace")


def _filesystems(mounts: Iterable[Mount]) -> tuple[list[Filesystem], list[str]]:
    # statvfs itself rather than psutil.disk_usage: the same call also knows the inodes.
    found, gone = [], []
    for name, path in mounts:
        try:
            fs = os.statvfs(path)
        except OSError as error:
            gone.append(f"filesystem {name}: {path}: {error.strerror}")
            continue
        size = fs.f_frsize
        found.append(Filesystem(name, fs.f_blocks * size, fs.f_bavail * size, fs.f_files, fs.f_ffree))
    return found, gone


def _virtualised(procfs: str) -> Iterable[str]:
    """Say which files of ``procfs`` show a container instead of the host."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mountinfo:
            text = mountinfo.read()
    except OSError:
        return
    over = parse_overmounts(text, procfs)
    for name in _VIRTUALISED:
        if name in over:
            yield f"{procfs}/{name} is {over[name]} and shows a container; give the node's /proc by --procfs"


# --- Parsing: text in, values out ---------------------------------------------------------------------------


def parse_meminfo(text: str) -> dict[str, int]:
    """Read /proc/meminfo into bytes by key. Lines that are no amounts are passed over."""
    amounts = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            amounts[key] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return amounts


def working_set(meminfo: Mapping[str, int]) -> int | None:
    """Return the node's memory use as the kubelet counts it for eviction, in bytes; None if a figure is
    missing.

    The root cgroup's usage is ``anon + file`` of its memory.stat (opencontainers/cgroups,
    ``rootStatsFromMeminfo``), the working set that less ``inactive_file`` (cAdvisor). A container does not
    see the root's memory.stat, but the same counters are in meminfo: ``file`` is page cache, buffers and
    swap cache together.
    """
    keys = ("AnonPages", "Cached", "Buffers", "Inactive(file)")
    if not all(key in meminfo for key in keys):
        return None
    anon, cached, buffers, inactive = (meminfo[key] for key in keys)
    return max(anon + cached + buffers + meminfo.get("SwapCached", 0) - inactive, 0)


def parse_pagesets(text: str) -> int | None:
    """Sum the free pages that /proc/zoneinfo counts in per-CPU lists, in bytes; None if it shows none.

    They are free, but in neither MemFree nor MemAvailable: on recent kernels up to several percent of
    memory, for tens of seconds after a large release (``docs/performance.md``).
    """
    pages = [
        int(words[1])
        for words in (line.split() for line in text.splitlines() if "count:" in line)
        if len(words) == 2 and words[0] == "count:" and words[1].isdecimal()
    ]
    return sum(pages) * _PAGE if pages else None


def parse_load(text: str) -> tuple[int, int, int]:
    """Read /proc/loadavg into thousandths; zeros if it is not there."""
    try:
        one, five, fifteen = (round(float(word) * 1000) for word in text.split()[:3])
    except ValueError:
        return 0, 0, 0
    return one, five, fifteen


def parse_cores(text: str) -> int:
    """Count the cores that /proc/stat has times of, which are those online."""
    return sum(line.startswith("cpu") and line[3:4].isdecimal() for line in text.splitlines())


def parse_pressure(name: str, text: str) -> Pressure | None:
    """Read the 60 s averages of one PSI file, in thousandths; None if the kernel does not keep them."""
    shares = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        for field in fields:
            key, _, value = field.partition("=")
            if key == "avg60":
                shares[kind] = round(float(value) * 10)
    return Pressure(name, shares["some"], shares.get("full", 0)) if "some" in shares else None


def parse_overmounts(mountinfo: str, procfs: str) -> dict[str, str]:
    """Return which files right under ``procfs`` have something mounted over them, and of what kind (proc(5))."""
    over = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and kind:
            folder, _, name = fields[4].rpartition("/")
            if folder == procfs.rstrip("/"):
                over[name] = kind[0]
    return over
