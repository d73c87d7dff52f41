"""What a node's reporter says and when: readings in, the content of a NodeReport and "write now, because"
out.

``adapters.host`` and ``adapters.cgroups`` make the readings, ``leasehold.reporter`` asks and sends;
everything that is decided in between is decided here, from plain values. Times are monotonic seconds
(``at``, ``now``) except where a name says ``_ms``: those are milliseconds since the epoch and only ever
written down. CPU is counted in millicores, memory and disk in bytes.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from leasehold.api.names import (
    CPU,
    EPHEMERAL_STORAGE,
    MEMORY,
    ConditionStatus,
    Presence,
    ReportCondition,
    ReportReason,
    ReportState,
)
from leasehold.api.quantity import format_amount
from leasehold.core.estimators import ClockOffset, Latch, Trend, Window
from leasehold.core.times import format_time

Json = dict[str, Any]

NODE_FILESYSTEM: Final = "nodefs"
"""The filesystem that ephemeral-storage is counted on, by the kubelet's name for it."""

RESOURCES: Final = (CPU, MEMORY, EPHEMERAL_STORAGE)

TREND_SECONDS: Final = 5.0
"""Time constant of the trend: the best tracker of those measured."""

PLACEMENT_SECONDS: Final = 60.0
"""How far back the p90 looks that leases are placed by: rises within seconds, falls after a minute."""

SETTLE_SECONDS: Final = PLACEMENT_SECONDS / 2
"""Readings needed before a figure is called complete. Half a window, as koordlet's NodeMetric has it."""

MAX_LEASES: Final = 256
MAX_PODS: Final = 512
MAX_FILESYSTEMS: Final = 16
MAX_MESSAGE: Final = 240

_SHORTEST_CPU_SPAN: Final = 0.25
"""Kernel CPU counters tick every 10 ms: below this span (s) a rate is more error than figure."""

_MOST_LOST: Final = 1.1
"""More than a tenth of the time unaccounted for is no lost tick; a core was taken away."""

_CPU_GRAIN: Final = 10
_BYTE_GRAIN: Final = 1 << 20

_NO_CHANCE: Final = 0.5


# --- What was read ------------------------------------------------------------------------------------------


class Filesystem(NamedTuple):
    """One filesystem as ``statvfs`` sees it. ``available`` is what an ordinary user may still write."""

    name: str
    capacity: int
    available: int
    inodes: int
    inodes_free: int


class LeaseUse(NamedTuple):
    """What the cgroups of one lease have used: CPU seconds, which go on while cgroups come and go, and memory now,
    without idle page cache.
    """

    present: bool
    cpu_seconds: float
    memory: int


class Sample(NamedTuple):
    """One reading of what moves fast. CPU figures are seconds since boot, summed over all cores.

    ``cpu_counted`` is all that the kernel accounted for, idleness and steal included; 0 if it is not known.
    ``leases`` holds those leases whose presence or absence is certain; a lease asked about and not in it is
    unknown. ``problems`` says in plain words what could not be read.
    """

    at: float
    cpu_busy: float
    cpu_steal: float
    memory_total: int
    memory_available: int
    filesystems: tuple[Filesystem, ...] = ()
    leases: Mapping[str, LeaseUse] = {}
    problems: tuple[str, ...] = ()
    cpu_counted: float = 0.0


class Pressure(NamedTuple):
    """Kernel PSI over 60 s: thousandths of the time in which some, or all, tasks waited for the resource."""

    name: str
    some: int
    full: int


class Surroundings(NamedTuple):
    """One reading of what moves slowly or is only shown. None and () stand for what this kernel does not tell."""

    boot_id: str
    cores: int
    working_set: int | None = None
    pcp_cached: int | None = None
    swap_total: int = 0
    swap_used: int = 0
    load: tuple[int, int, int] = (0, 0, 0)
    pressure: tuple[Pressure, ...] = ()


class Cost(NamedTuple):
    """What the reporter itself uses: millionths of a core, and resident bytes."""

    cpu_micro: int
    resident: int


# --- What was asked -----------------------------------------------------------------------------------------


class Instructions(NamedTuple):
    """A NodeReport's ``spec``: what the operator asks of the reporter.

    ``pods`` says, by the uid of a pod, to which of the leases it belongs. ``generation`` counts the specs of the
    object with ``object_uid``; 0 where it is not known.
    """

    period: float = 5.0
    window: float = 300.0
    excluded: bool = False
    lease_uids: tuple[str, ...] = ()
    pods: Mapping[str, str] = {}
    generation: int = 0
    object_uid: str = ""


def instructions_of(spec: object, generation: int = 0, object_uid: str = "") -> Instructions:
    """Read a ``spec`` as the API server sent it. A field that is missing or unreadable keeps its default.

    The API server has checked the object already; this only keeps a broken or newer one from stopping the
    node's reports.
    """
    if not isinstance(spec, dict):
        return Instructions(generation=generation, object_uid=object_uid)
    uids = (uid for uid in _rows(spec.get("leaseUIDs")) if isinstance(uid, str) and uid)
    asked = tuple(dict.fromkeys(uids))[:MAX_LEASES]
    return Instructions(
        period=_bounded(spec.get("reportPeriodSeconds"), 1, 300, 5),
        window=_bounded(spec.get("windowSeconds"), PLACEMENT_SECONDS, 3600, 300),
        excluded=spec.get("state") == ReportState.EXCLUDED,
        lease_uids=asked,
        pods=_pods(_rows(spec.get("pods")), frozenset(asked)),
        generation=generation,
        object_uid=object_uid,
    )


def _rows(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _pods(rows: list[Any], asked: frozenset[str]) -> dict[str, str]:
    pairs = ((row.get("uid"), row.get("leaseUID")) for row in rows if isinstance(row, dict))
    named = (
        (pod, lease)
        for pod, lease in pairs
        if isinstance(pod, str) and pod and isinstance(lease, str) and lease in asked
    )
    return dict(islice(named, MAX_PODS))


def _bounded(value: object, least: float, most: float, default: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float(default)
    return float(min(max(value, least), most))


# --- What follows from the readings -------------------------------------------------------------------------


class Figures(NamedTuple):
    """The use of one resource: now, its trend, its p90 over a minute, and the p90 of what no lease explains."""

    current: int
    trend: int
    p90: int
    unmanaged: int | None


class Verdict(NamedTuple):
    """One condition, before it is known since when it holds."""

    type: ReportCondition
    status: ConditionStatus
    reason: ReportReason
    message: str = ""

    def same_as(self, other: "Verdict") -> bool:
        """Tell whether only the message differs, if anything."""
        return self[:3] == other[:3]


class Facts(NamedTuple):
    """Everything a decision to write looks at, at one moment."""

    boot_id: str
    capacity: Mapping[str, int]
    figures: Mapping[str, Figures]
    verdicts: tuple[Verdict, ...]
    leases: Mapping[str, Presence]
    failed: bool = False
    """The host could not be read; capacity and figures are those of the last reading."""
    generation: int = 0
    """The spec that the last reading followed."""


class _Track:
    """The readings of one resource."""

    __slots__ = ("current", "trend", "unmanaged", "window")

    def __init__(self, window: float) -> None:
        self.current: int | None = None
        self.trend = Trend(TREND_SECONDS)
        self.window = Window(window)
        self.unmanaged = Window(PLACEMENT_SECONDS)

    def add(self, at: float, reading: int, unmanaged: int | None) -> None:
        self.current = reading
        self.trend.add(at, reading)
        self.window.add(at, reading)
        if unmanaged is not None:
            self.unmanaged.add(at, max(unmanaged, 0))

    def figures(self, *, attributed: bool) -> Figures | None:
        p90 = self.window.percentile(90, PLACEMENT_SECONDS)
        if self.current is None or p90 is None:
            return None
        unmanaged = self.unmanaged.percentile(90) if attributed else None
        return Figures(self.current, round(self.trend.value), p90, unmanaged)


class _LeaseTrack:
    """The readings of one lease, since it was last not there."""

    __slots__ = ("_at", "_seconds", "cpu", "memory", "present")

    def __init__(self) -> None:
        self.present = False
        self._at = self._seconds = 0.0
        self.cpu = Window(PLACEMENT_SECONDS)
        self.memory = Window(PLACEMENT_SECONDS)

    @property
    def measured(self) -> bool:
        """Two readings give a CPU figure; before that, what the lease uses would count as unmanaged."""
        return not self.present or len(self.cpu) > 0

    def add(self, at: float, use: LeaseUse) -> int:
        """Take in one reading and return the millicores used since the last one."""
        millicores = 0
        if self.present and at > self._at:
            millicores = max(round((use.cpu_seconds - self._seconds) / (at - self._at) * 1000), 0)
            self.cpu.add(at, millicores)
        self.present, self._at, self._seconds = True, at, use.cpu_seconds
        self.memory.add(at, use.memory)
        return millicores


class History:
    """The readings of the window and what they amount to. Nothing in it depends on whether anything was written."""

    def __init__(self, instructions: Instructions) -> None:
        self._asked = instructions
        self._tracks = {name: _Track(instructions.window) for name in RESOURCES}
        self._steal = Trend(TREND_SECONDS)
        self._leases: dict[str, _LeaseTrack] = {}
        self._last: Sample | None = None
        self._cpu_base: Sample | None = None
        self._began = 0.0
        self._cores = 0
        self._generation = 0
        self.failure = ""
        """Why the last reading failed, in plain words; empty when it did not."""

    def instruct(self, instructions: Instructions) -> None:
        """Follow a changed spec from the next reading on. Readings already made are kept."""
        if instructions.object_uid != self._asked.object_uid:  # made anew, its generations count from 1 again
            self._generation = 0
        self._asked = instructions
        for track in self._tracks.values():
            track.window.resize(instructions.window)
        for uid in self._leases.keys() - set(instructions.lease_uids):
            del self._leases[uid]

    def fail(self, why: str) -> None:
        """Note that the host could not be read this time."""
        self.failure = why

    def add(self, sample: Sample, cores: int) -> None:
        """Take in one reading. ``cores`` is how many the node has."""
        self.failure = ""
        self._cores = cores
        self._generation = self._asked.generation
        attributed = self._add_leases(sample)
        self._add_cpu(sample, None if attributed is None else attributed[0])
        used = sample.memory_total - sample.memory_available
        self._tracks[MEMORY].add(sample.at, used, None if attributed is None else used - attributed[1])
        self._add_disk(sample)
        self._last = sample

    def _add_leases(self, sample: Sample) -> tuple[int, int] | None:
        """Return the millicores and bytes that leases explain, or None when nobody asked or not all is known."""
        cpu = memory = 0
        for uid in self._asked.lease_uids:
            use = sample.leases.get(uid)
            if use is None:
                self._leases.pop(uid, None)
            elif use.present:
                cpu += self._leases.setdefault(uid, _LeaseTrack()).add(sample.at, use)
                memory += use.memory
            else:
                self._leases[uid] = _LeaseTrack()
        return (cpu, memory) if self._attributed() else None

    def _attributed(self) -> bool:
        asked, known = self._asked.lease_uids, self._leases.values()
        return bool(asked) and len(known) == len(asked) and all(track.measured for track in known)

    def _add_cpu(self, sample: Sample, attributed: int | None) -> None:
        """Busy is user, nice, system, irq and softirq over monotonic time; steal is another's use and kept apart.

        psutil and top divide by what the fields sum up to, steal counted as busy. That sum is wrong both ways: steal is
        counted beside the time it was stolen from, and time is lost when cores go idle within a tick. Only the second
        is put right here. Beside the kernel's nanosecond counter that halves the error (``docs/performance.md``).
        """
        base = self._cpu_base
        if base is None:
            self._cpu_base, self._began = sample, sample.at
            return
        elapsed = sample.at - base.at
        if elapsed < _SHORTEST_CPU_SPAN:
            return
        self._cpu_base = sample
        most = self._cores * 1000
        counted = sample.cpu_counted - base.cpu_counted
        lost = self._cores * elapsed / counted if counted > 0 else 1.0
        found = min(max(lost, 1.0), _MOST_LOST) / elapsed * 1000
        busy = min(max(round((sample.cpu_busy - base.cpu_busy) * found), 0), most)
        steal = min(max((sample.cpu_steal - base.cpu_steal) / elapsed * 1000, 0), most)
        self._tracks[CPU].add(sample.at, busy, None if attributed is None else busy - attributed)
        self._steal.add(sample.at, steal)

    def _add_disk(self, sample: Sample) -> None:
        track = self._tracks[EPHEMERAL_STORAGE]
        node = _node_filesystem(sample)
        if node is None:
            track.current = None
            return
        track.add(sample.at, node.capacity - node.available, None)

    def capacity(self) -> dict[str, int]:
        """Return what the node has, rounded down to what is written."""
        if self._last is None:
            return {}
        capacity = {CPU: self._cores * 1000, MEMORY: _down(MEMORY, self._last.memory_total)}
        node = _node_filesystem(self._last)
        if node is not None:
            capacity[EPHEMERAL_STORAGE] = _down(EPHEMERAL_STORAGE, node.capacity)
        return capacity

    def figures(self) -> dict[str, Figures]:
        """Return the figures of every resource that has been read."""
        attributed = self._attributed()
        found = ((name, track.figures(attributed=attributed)) for name, track in self._tracks.items())
        return {name: figures for name, figures in found if figures is not None}

    def presence(self) -> dict[str, Presence]:
        """Return which of the leases asked about are there. Those that are not certain are left out."""
        return {
            uid: Presence.PRESENT if track.present else Presence.GONE
            for uid, track in self._leases.items()
            if track.measured
        }

    @property
    def generation(self) -> int:
        """The generation of the spec that the newest reading followed; 0 where there is none."""
        return self._generation

    @property
    def last(self) -> Sample | None:
        """The newest reading."""
        return self._last

    @property
    def settled(self) -> bool:
        """There are enough readings for the figures to mean what they say."""
        return self._last is not None and self._last.at - self._began >= SETTLE_SECONDS

    @property
    def steal_permille(self) -> int:
        """The share of all CPU time that the hypervisor gave to others, as a trend, in thousandths."""
        return min(round(self._steal.value / self._cores), 1000) if self._cores else 0

    def usage_rows(self) -> list[Json]:
        """Return ``status.usage``: used amounts rounded up to 10 millicores or 1 MiB, so that nothing flutters."""
        return [self._usage_row(name, figures) for name, figures in self.figures().items()]

    def _usage_row(self, name: str, figures: Figures) -> Json:
        window = self._tracks[name].window
        row = {
            "name": name,
            "current": _up(name, figures.current),
            "trend": _up(name, figures.trend),
            "p90": _up(name, figures.p90),
            "p95": _up(name, window.percentile(95) or 0),
            "max": _up(name, window.maximum() or 0),
        }
        if figures.unmanaged is not None:
            row["unmanaged"] = _up(name, figures.unmanaged)
        return row

    def lease_rows(self) -> list[Json]:
        """Return ``status.leases``: the p90 over a minute of those present, in the order they were asked for."""
        known = self.presence()
        return [_lease_row(uid, self._leases[uid]) for uid in self._asked.lease_uids if uid in known]


def _lease_row(uid: str, track: _LeaseTrack) -> Json:
    if not track.present:
        return {"uid": uid, "state": Presence.GONE.value}
    return {
        "uid": uid,
        "state": Presence.PRESENT.value,
        CPU: _up(CPU, track.cpu.percentile(90) or 0),
        MEMORY: _up(MEMORY, track.memory.percentile(90) or 0),
    }


def _node_filesystem(sample: Sample) -> Filesystem | None:
    return next((f for f in sample.filesystems if f.name == NODE_FILESYSTEM), None)


def _grain(name: str) -> int:
    return _CPU_GRAIN if name == CPU else _BYTE_GRAIN


def _down(name: str, amount: int) -> int:
    return amount - amount % _grain(name)


def _up(name: str, amount: int) -> str:
    grain = _grain(name)
    return format_amount(name, -(-max(amount, 0) // grain) * grain)


def _bytes_down(amount: int) -> str:
    return format_amount(MEMORY, _down(MEMORY, amount))


# --- Conditions ---------------------------------------------------------------------------------------------

_YES, _NO, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN

_SPACE_PERMILLE: Final = (880, 900)
_INODE_PERMILLE: Final = (930, 950)
"""Used share at which pressure ends and begins. The upper marks are the kubelet's hard eviction defaults
for nodefs.
"""

_SKEW_SECONDS: Final = (1.0, 2.0)
_CPU_BUDGET_MICRO: Final = (5_000, 10_000)
_MEMORY_BUDGET: Final = (48 << 20, 64 << 20)


class Conditions:
    """The conditions of a report, each with hysteresis where a figure decides, and since when it holds."""

    def __init__(self) -> None:
        self._disk: dict[str, Latch] = {}
        self._skew = _latch(_SKEW_SECONDS)
        self._cpu_budget = _latch(_CPU_BUDGET_MICRO)
        self._memory_budget = _latch(_MEMORY_BUDGET)
        self._since: dict[str, tuple[str, str]] = {}

    def adopt(self, written: object) -> None:
        """Take over since when conditions hold from a report that an earlier process wrote."""
        for row in written if isinstance(written, list) else ():
            if isinstance(row, dict) and {"type", "status", "lastTransitionTime"} <= row.keys():
                self._since.setdefault(row["type"], (row["status"], row["lastTransitionTime"]))

    def judge(self, history: History, offset: ClockOffset, cost: Cost) -> tuple[Verdict, ...]:
        """Return the conditions as they are now. DiskPressure is left out while no filesystem can be read."""
        disk = self._disk_pressure(history.last)
        return (
            _ready(history),
            self._clock(offset),
            *(() if disk is None else (disk,)),
            self._agent(history, cost),
        )

    def _clock(self, offset: ClockOffset) -> Verdict:
        apart = offset.at_least
        if apart is None:
            return Verdict(ReportCondition.CLOCK_SYNCED, _UNKNOWN, ReportReason.NOT_MEASURED)
        if self._skew.update(apart):
            message = (
                f"The clock is at least {apart:.0f} s off the API server's; check the node's time service."
            )
            return Verdict(ReportCondition.CLOCK_SYNCED, _NO, ReportReason.SKEWED, message)
        return Verdict(ReportCondition.CLOCK_SYNCED, _YES, ReportReason.SYNCED)

    def _disk_pressure(self, sample: Sample | None) -> Verdict | None:
        if sample is None or not sample.filesystems:
            return None
        low = [what for filesystem in sample.filesystems for what in self._short_of(filesystem)]
        if low:
            message = _cut(f"Nearly full: {', '.join(low)}.")
            return Verdict(ReportCondition.DISK_PRESSURE, _YES, ReportReason.SPACE_LOW, message)
        return Verdict(ReportCondition.DISK_PRESSURE, _NO, ReportReason.SPACE_SUFFICIENT)

    def _short_of(self, filesystem: Filesystem) -> Iterable[str]:
        space = filesystem.capacity - filesystem.available, filesystem.capacity, _SPACE_PERMILLE
        inodes = filesystem.inodes - filesystem.inodes_free, filesystem.inodes, _INODE_PERMILLE
        for what, (used, total, marks) in (("space", space), ("inodes", inodes)):
            if not total:  # btrfs and others count no inodes
                continue
            latch = self._disk.setdefault(f"{filesystem.name} {what}", _latch(marks))
            if latch.update(used * 1000 / total):
                yield f"{what} of {filesystem.name}"

    def _agent(self, history: History, cost: Cost) -> Verdict:
        problems = history.last.problems if history.last else ()
        over = [self._cpu_budget.update(cost.cpu_micro), self._memory_budget.update(cost.resident)]
        if not history.settled:  # starting up costs more than going on
            over = []
        if problems:
            message = _cut("; ".join(problems))
            return Verdict(ReportCondition.AGENT_DEGRADED, _YES, ReportReason.PARTIAL, message)
        if any(over):
            message = f"The reporter uses {cost.cpu_micro} µs/s of CPU and {cost.resident >> 20} MiB."
            return Verdict(ReportCondition.AGENT_DEGRADED, _YES, ReportReason.OVER_BUDGET, message)
        return Verdict(ReportCondition.AGENT_DEGRADED, _NO, ReportReason.HEALTHY)

    def rows(self, verdicts: Iterable[Verdict], now_ms: int) -> list[Json]:
        """Return ``status.conditions``; ``lastTransitionTime`` moves only when the status does."""
        return [self._row(verdict, format_time(now_ms - now_ms % 1000)) for verdict in verdicts]

    def _row(self, verdict: Verdict, now: str) -> Json:
        status, since = self._since.get(verdict.type, ("", now))
        if status != verdict.status:
            since = now
        self._since[verdict.type] = (verdict.status.value, since)
        return {
            "type": verdict.type.value,
            "status": verdict.status.value,
            "reason": verdict.reason.value,
            "message": verdict.message,
            "lastTransitionTime": since,
        }


def _latch(marks: tuple[float, float]) -> Latch:
    low, high = marks
    return Latch(low=low, high=high)


def _ready(history: History) -> Verdict:
    if history.failure:
        return Verdict(ReportCondition.READY, _NO, ReportReason.READ_FAILED, _cut(history.failure))
    if not history.settled:
        return Verdict(ReportCondition.READY, _NO, ReportReason.STARTING)
    return Verdict(ReportCondition.READY, _YES, ReportReason.REPORTING)


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…"


# --- The report ---------------------------------------------------------------------------------------------

_STATUS_KEYS: Final = (
    "observedGeneration",
    "bootID",
    "agentVersion",
    "reportTime",
    "sequence",
    "clockOffsetMilliseconds",
    "capacity",
    "usage",
    "pressure",
    "filesystems",
    "memory",
    "swap",
    "load",
    "stealPermille",
    "agent",
    "leases",
    "conditions",
)


def facts_of(history: History, surroundings: Surroundings, verdicts: tuple[Verdict, ...]) -> Facts:
    """Gather what the decision to write looks at."""
    return Facts(
        boot_id=surroundings.boot_id,
        capacity=history.capacity(),
        figures=history.figures(),
        verdicts=verdicts,
        leases=history.presence(),
        failed=bool(history.failure),
        generation=history.generation,
    )


def status_of(
    history: History,
    surroundings: Surroundings,
    conditions: list[Json],
    *,
    cost: Cost,
    offset: ClockOffset,
    sequence: int,
    now_ms: int,
    version: str,
) -> Json:
    """Return a NodeReport's whole ``status``. What could not be read is not in it."""
    sample = history.last
    status: Json = {
        "bootID": surroundings.boot_id,
        "agentVersion": version,
        "reportTime": format_time(now_ms),
        "sequence": sequence,
        "capacity": {name: format_amount(name, whole) for name, whole in history.capacity().items()},
        "usage": history.usage_rows(),
        "pressure": [
            {"name": p.name, "some60Permille": p.some, "full60Permille": p.full}
            for p in surroundings.pressure
        ],
        "filesystems": [_filesystem_row(f) for f in sample.filesystems[:MAX_FILESYSTEMS]] if sample else [],
        "memory": _memory(sample, surroundings),
        "load": dict(zip(("load1Milli", "load5Milli", "load15Milli"), surroundings.load, strict=True)),
        "stealPermille": history.steal_permille,
        "agent": {"cpuMicroPerSecond": cost.cpu_micro, "residentBytes": cost.resident},
        "conditions": conditions,
    }
    if surroundings.swap_total:
        total, used = surroundings.swap_total, surroundings.swap_used
        status["swap"] = {"total": _bytes_down(total), "used": _up(MEMORY, used)}
    if offset.seconds is not None:
        status["clockOffsetMilliseconds"] = round(offset.seconds * 1000)
    leases = history.lease_rows()
    if leases:
        status["leases"] = leases
    if history.generation:
        status["observedGeneration"] = history.generation
    return status


def merge_patch(status: Json) -> Json:
    """Return the merge-patch that makes the object's status exactly this one (RFC 7386: null removes)."""
    full: Json = {key: status.get(key) for key in _STATUS_KEYS}
    full["capacity"] = {name: status["capacity"].get(name) for name in RESOURCES}
    full["memory"] = {key: status["memory"].get(key) for key in ("available", "workingSet", "pcpCached")}
    return {"status": full}


def _filesystem_row(filesystem: Filesystem) -> Json:
    row: Json = {
        "name": filesystem.name,
        "capacity": _bytes_down(filesystem.capacity),
        "available": _bytes_down(filesystem.available),
    }
    if filesystem.inodes:
        row |= {"inodes": filesystem.inodes, "inodesFree": filesystem.inodes_free}
    return row


def _memory(sample: Sample | None, surroundings: Surroundings) -> Json:
    memory: Json = {}
    if sample is not None:
        memory["available"] = _bytes_down(sample.memory_available)
    if surroundings.working_set is not None:
        memory["workingSet"] = _up(MEMORY, surroundings.working_set)
    if surroundings.pcp_cached is not None:
        memory["pcpCached"] = _bytes_down(surroundings.pcp_cached)
    return memory


# --- When to write ------------------------------------------------------------------------------------------


class Pacing(NamedTuple):
    """How much has to move and how long to be silent: thousandths of capacity, and seconds."""

    threshold_permille: int = 50
    silence: float = 300.0
    silence_jitter: float = 0.2
    longest_floor: float = 5.0


class Pace:
    """When the next report is due. A report refused or lost is due again at once; how soon to try is the sender's."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._written: Facts | None = None
        self._written_at = 0.0
        self._tried_at: float | None = None
        self._silence = pacing.silence

    def due(self, now: float, facts: Facts, asked: Instructions) -> str:
        """Return why a report should be written now, in a few words for the log; empty when it should not.

        An excluded node takes no part in placement, so its figures may move unsaid: it writes when its
        conditions, its leases or what is asked change, and to show that it is alive. While the host cannot be read only
        that is said, once: a heartbeat would make old figures look fresh.
        """
        if self._tried_at is not None and now - self._tried_at < self._floor(asked.period):
            return ""
        before = self._written
        if before is None:
            return "first report"
        changed = _changed(before, facts)
        if changed or facts.failed:
            return changed
        if now - self._written_at >= self._silence:
            return "silence is over"
        return "" if asked.excluded else self._moved(now, before, facts)

    def tried(self, now: float) -> None:
        """Note that a report was sent, whatever becomes of it."""
        self._tried_at = now

    def written(self, now: float, facts: Facts, chance: float = _NO_CHANCE) -> None:
        """Note that the API server has the report. ``chance``, evenly from 0 to 1, spreads the nodes' heartbeats."""
        self._written, self._written_at = facts, now
        self._silence = self._pacing.silence * (1 + self._pacing.silence_jitter * (2 * chance - 1))

    def forget(self) -> None:
        """Note that the API server no longer has the report."""
        self._written = None

    def _floor(self, period: float) -> float:
        # Half of it, because reports go with readings, which are on a grid: measured in full, one that came late would
        # silence the next one too.
        return min(self._pacing.longest_floor, period) / 2

    def _moved(self, now: float, before: Facts, after: Facts) -> str:
        for name, new in after.figures.items():
            old = before.figures.get(name)
            threshold = after.capacity.get(name, 0) * self._pacing.threshold_permille // 1000
            how = "newly measured" if old is None else _movement(old, new, threshold, now - self._written_at)
            if how:
                return f"{name} {how}"
        return ""


def _changed(before: Facts, after: Facts) -> str:
    if before.boot_id != after.boot_id:
        return "node restarted"
    if before.capacity != after.capacity:
        return "capacity changed"
    if len(before.verdicts) != len(after.verdicts) or not all(
        old.same_as(new) for old, new in zip(before.verdicts, after.verdicts, strict=True)
    ):
        return "condition changed"
    if before.leases != after.leases:
        return "lease came or went"
    if before.generation != after.generation:  # whoever asked waits to hear that nothing changed, too
        return "spec changed"
    return ""


def _movement(old: Figures, new: Figures, threshold: int, since: float) -> str:
    """Say how one resource moved beyond the threshold since it was last written, if it did.

    What leases are placed by counts in both directions. A step up counts at once, before the p90 sees it;
    having been written it is no news when it comes again, so a node that spikes does not write at every
    spike. A trend that has gone elsewhere is put right after a minute, so that no report shows a passing
    spike until the silence is over.
    """
    if abs(new.p90 - old.p90) > threshold:
        return "p90 moved"
    if abs((new.unmanaged or 0) - (old.unmanaged or 0)) > threshold or (new.unmanaged is None) != (
        old.unmanaged is None
    ):
        return "unmanaged use moved"
    if new.current > old.current + threshold and new.trend > old.trend:
        return "stepped up"
    if since >= PLACEMENT_SECONDS and abs(new.trend - old.trend) > 2 * threshold:
        return "trend moved"
    return ""
