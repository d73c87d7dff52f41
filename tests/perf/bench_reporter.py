"""What the node reporter costs, how exact it is and how soon it tells, beside node_exporter in the same run.

    python -m tests.perf.bench_reporter [--quick] [--json FILE]

node_exporter is built from hack/node-exporter into Leasehold's cache, once, and runs with only the collectors
that read what the reporter reads. CPU time is the kernel's, in nanoseconds, over all threads. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from tests.perf.figures import percentile

from leasehold.adapters.host import Host
from leasehold.api.quantity import amount
from leasehold.core.estimators import ClockOffset
from leasehold.core.reporting import (
    Conditions,
    Cost,
    Filesystem,
    History,
    Instructions,
    Pace,
    Pacing,
    Sample,
    facts_of,
    merge_patch,
    status_of,
)
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.processes import Child, wait_until
from leasehold.testing.toolchain import Module, build, cache_root

Row = dict[str, Any]

NODE_EXPORTER = Module(
    name="node-exporter",
    directory=Path(__file__).resolve().parents[2] / "hack" / "node-exporter",
    pinned="github.com/prometheus/node_exporter",
    packages={"node_exporter": "github.com/prometheus/node_exporter"},
    linker_flags="-s -w",
)
COLLECTORS = ("cpu", "meminfo", "filesystem", "pressure", "vmstat")
WARM_SCRAPES = 600
"""Scrapes before anything is counted: node_exporter's memory grows for that long, the reporter's does not."""

_GRACE = 3.0


def run(quick: bool, control_plane: ControlPlane) -> list[Row]:
    """Measure everything; return one row per figure, ratios first."""
    rows = [
        *beside_node_exporter(control_plane, seconds=40 if quick else 180),
        *accuracy(seconds=15 if quick else 60),
        *steps(control_plane, count=8 if quick else 40),
        *reading(times=300 if quick else 3000),
        *size(),
        *simulated_writes(hours=1 if quick else 8),
    ]
    return sorted(rows, key=lambda row: row["unit"] != "x")


def row(name: str, value: float, unit: str, target: str = "", *, ratio_of: str = "", note: str = "") -> Row:
    """Make one figure."""
    return {"name": name, "value": value, "unit": unit, "target": target, "ratio_of": ratio_of, "note": note}


# --- Cost, beside node_exporter -----------------------------------------------------------------------------


def beside_node_exporter(control_plane: ControlPlane, *, seconds: float) -> Iterator[Row]:
    """Run a reporter at 1 s, one at 5 s, and node_exporter scraped every second, all at the same time."""
    with (
        reporter(control_plane, "bench-1s", period=1) as fast,
        reporter(control_plane, "bench-5s", period=5) as slow,
        node_exporter(control_plane.directory) as (exporter, port),
        control_plane.client() as client,
    ):
        children = (fast, slow, exporter)
        names = ("bench-1s", "bench-5s")
        for _ in range(WARM_SCRAPES):
            scrape(port)
        before = [cpu_seconds(child.pid) for child in children]
        first = [client.get("nodereports", name)["status"]["sequence"] for name in names]
        begun = time.monotonic()
        scrapes = 0
        while time.monotonic() - begun < seconds:
            scrape(port)
            scrapes += 1
            time.sleep(max(begun + scrapes - time.monotonic(), 0))
        elapsed = time.monotonic() - begun
        used = [cpu_seconds(child.pid) - start for child, start in zip(children, before, strict=True)]
        resident = [resident_bytes(child.pid) for child in children]
        writes = [
            client.get("nodereports", name)["status"]["sequence"] - start
            for name, start in zip(names, first, strict=True)
        ]
    per_sample, per_scrape = used[0] / elapsed, used[2] / scrapes
    other = f"node_exporter, {', '.join(COLLECTORS)}"
    yield row(
        "reporter CPU per sample, writes included",
        per_sample / per_scrape,
        "x",
        "<= 0.25",
        ratio_of=other,
        note=f"{per_sample * 1000:.2f} ms beside {per_scrape * 1000:.2f} ms per scrape, {writes[0]} writes",
    )
    yield row(
        "reporter resident memory",
        max(resident[:2]) / resident[2],
        "x",
        "<= 1.0",
        ratio_of=other,
        note=f"{max(resident[:2]) / 2**20:.1f} MiB beside {resident[2] / 2**20:.1f} MiB",
    )
    for period, cpu, wrote in zip((1, 5), used[:2], writes, strict=True):
        yield row(
            f"reporter CPU at {period} s, writes included",
            cpu / elapsed * 100,
            "% of a core",
            "<= 0.05" if period == 5 else "",
            note=f"{wrote} writes in {elapsed:.0f} s",
        )


@contextmanager
def reporter(
    control_plane: ControlPlane, node: str, *, period: int, options: tuple[str, ...] = ()
) -> Iterator[Child]:
    """Run a reporter as a pod would: by CA and token file. It has written once when this is entered."""
    directory = control_plane.directory
    token = directory / "reporter-token"
    token.write_text(control_plane.service_account_token("default", "bench-reporter"))
    with control_plane.client() as client:
        client.apply(role_binding())
        client.delete("nodereports", node) if client.find("nodereports", node) else None
        client.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "NodeReport",
                "metadata": {"name": node},
                "spec": {"reportPeriodSeconds": period},
            }
        )
        child = Child(
            (
                *(sys.executable, "-m", "leasehold.cli.main", "reporter", "--node-name", node),
                *("--server", control_plane.url, "--ca-file", control_plane.ca_path, "--token-file", token),
                *options,
            ),
            log=directory / f"{node}.log",
            cwd=directory,
            env=compiled(),
        )
        try:
            client.wait("nodereports", node, until=lambda report: "status" in report)
            yield child
        finally:
            child.stop(_GRACE)
            client.delete("nodereports", node)


@cache
def compiled() -> dict[str, str]:
    """Return an environment in which the reporter is compiled, as in an image: compiling leaves memory behind."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache_root(os.environ) / "bytecode")
    arguments = ("-c", "import leasehold.cli.main, leasehold.reporter.main")
    subprocess.run([sys.executable, *arguments], env=environment, check=True)
    return environment


def role_binding() -> dict[str, Any]:
    """Let the bench's service account do everything: what a reporter may do is tested elsewhere."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "bench-reporter"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "bench-reporter", "namespace": "default"}],
    }


@contextmanager
def node_exporter(directory: Path) -> Iterator[tuple[Child, int]]:
    """Run node_exporter with only the collectors compared, on loopback."""
    program = build(NODE_EXPORTER, ["node_exporter"]) / "node_exporter"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = Child(
        (
            *(program, f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults"),
            *(f"--collector.{name}" for name in COLLECTORS),
        ),
        log=directory / "node_exporter.log",
        cwd=directory,
    )
    try:
        if not wait_until(lambda: _answers(port), 10):
            raise RuntimeError(f"node_exporter does not answer:\n{child.log_tail()}")
        yield child, port
    finally:
        child.stop(_GRACE)


def _answers(port: int) -> bool:
    try:
        scrape(port)
    except OSError:
        return False
    return True


def scrape(port: int) -> None:
    """Fetch the metrics, compressed, as Prometheus does."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=5) as response:
        response.read()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, in nanosecond steps, over all of its threads."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE


# --- Accuracy -----------------------------------------------------------------------------------------------


def accuracy(*, seconds: int) -> Iterator[Row]:
    """Compare CPU use over 1 s with the kernel's own nanosecond counter, under a load that comes and goes."""
    truth = _truth()
    if truth is None:
        yield row("CPU error at 1 s", float("nan"), "cores", "<= 0.03", note="no cgroup counter on this host")
        return
    host, history = Host(), History(Instructions(period=1))
    cores = host.surroundings().cores
    errors, naive, memory = [], [], []
    with burning():
        first, sample = truth(), host.sample()
        counted, at = (first + truth()) / 2, sample.at
        history.add(sample, cores)
        psutil.cpu_percent()
        for _ in range(seconds):
            time.sleep(max(at + 1 - time.monotonic(), 0))
            first = truth()
            sample = host.sample()
            counted_before, counted = counted, (first + truth()) / 2  # between them, as the sample is
            percent = psutil.cpu_percent()
            elapsed, at = sample.at - at, sample.at
            history.add(sample, cores)
            real = (counted - counted_before) / elapsed
            errors.append(abs(history.figures()["cpu"].current / 1000 - real))
            naive.append(abs(percent / 100 * cores - real))
            memory.append(abs(sample.memory_available - psutil.virtual_memory().available) / 2**20)
    mean, mean_naive = sum(errors) / len(errors), sum(naive) / len(naive)
    yield row(
        "CPU error at 1 s",
        mean / mean_naive,
        "x",
        ratio_of="psutil.cpu_percent",
        note=f"{mean:.3f} beside {mean_naive:.3f} cores",
    )
    yield row("CPU error at 1 s, mean", mean, "cores", "<= 0.03", note=f"n = {seconds}, of {cores} cores")
    yield row("CPU error at 1 s, p99", percentile(errors, 99), "cores")
    yield row("memory beside MemAvailable read next, p50", percentile(memory, 50), "MiB", "0")


def _truth() -> Callable[[], float] | None:
    v1, v2 = Path("/sys/fs/cgroup/cpuacct/cpuacct.usage"), Path("/sys/fs/cgroup/cpu.stat")
    if v1.exists():
        return lambda: int(v1.read_text()) / 1e9
    if v2.exists():
        return lambda: int(v2.read_text().split()[1]) / 1e6
    return None


@contextmanager
def burning() -> Iterator[None]:
    """Burn CPU in bursts of different lengths, in another process."""
    code = (
        "import random, time\n"
        "while True:\n"
        " end = time.monotonic() + random.choice((0.05, 0.2, 1.5))\n"
        " while time.monotonic() < end: pass\n"
        " time.sleep(random.choice((0.05, 0.2, 1.5)))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


# --- How soon a step is told ---------------------------------------------------------------------------------


class Steps:
    """Something that grows by a step at a time, and what is in use of it now."""

    resource = "memory"
    size = 256 << 20
    threshold_percent = 0.3  # of memory: well below a step
    note = "memory; whatever else this machine frees meanwhile hides steps"

    def __init__(self) -> None:
        self._blocks: list[mmap.mmap] = []

    def options(self) -> tuple[str, ...]:
        """Return the reporter's options."""
        return ("--threshold-percent", str(self.threshold_percent))

    def used(self) -> int:
        """Return the bytes in use."""
        memory = psutil.virtual_memory()
        return memory.total - memory.available

    def grow(self) -> None:
        """Take one step."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        self._blocks.append(mmap.mmap(-1, self.size, flags=flags))

    def close(self) -> None:
        """Give all of it back."""
        for block in self._blocks:
            block.close()


class DiskSteps(Steps):
    """A filesystem of our own, in memory, that nobody else writes to. Needs root."""

    resource = "ephemeral-storage"
    size = 16 << 20
    threshold_percent = 1.0
    note = "disk, on a filesystem that nothing else uses"

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.mkdtemp(prefix="leasehold-bench-")
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", self._folder], check=True)
        except (OSError, subprocess.CalledProcessError):
            os.rmdir(self._folder)
            raise
        self._file = os.open(f"{self._folder}/ballast", os.O_CREAT | os.O_WRONLY)
        self._steps = 0

    def options(self) -> tuple[str, ...]:
        return (*super().options(), "--filesystem", f"nodefs={self._folder}")

    def used(self) -> int:
        return self._steps * self.size

    def grow(self) -> None:
        os.posix_fallocate(self._file, self._steps * self.size, self.size)
        self._steps += 1

    def close(self) -> None:
        os.close(self._file)
        subprocess.run(["umount", self._folder], check=True)
        os.rmdir(self._folder)


def steps(control_plane: ControlPlane, *, count: int) -> Iterator[Row]:
    """Take steps of disk and of memory at random moments; watch the API server for the report that says so."""
    for kind in (DiskSteps, Steps):
        name = f"{kind.resource} step to report, 1 s period"
        try:
            taken = kind()
        except (OSError, subprocess.CalledProcessError):
            yield row(name, float("nan"), "s", "<= 1.2", note="NOT RUN: needs root, to mount a filesystem")
            continue
        with contextlib.closing(taken):
            latencies, missed = latencies_of(control_plane, taken, count)
        if not latencies:
            yield row(name, float("nan"), "s", "<= 1.2", note="none was seen")
            continue
        note = f"n = {len(latencies)}, missed {missed}; {kind.note}"
        yield row(f"{name}, p50", percentile(latencies, 50), "s")
        yield row(f"{name}, p99", percentile(latencies, 99), "s", "<= 1.2", note=note)


def latencies_of(control_plane: ControlPlane, taken: Steps, count: int) -> tuple[list[float], int]:
    """Return the seconds from the middle of each step to its report's arrival, and how many never came."""
    latencies: list[float] = []
    with (
        reporter(control_plane, "bench-step", period=1, options=taken.options()),
        Sightings(control_plane, "bench-step", taken.resource) as sightings,
    ):
        time.sleep(3)
        for _ in range(count):
            time.sleep(1.5 + random.random())
            half = taken.used() + taken.size // 2
            begun = time.monotonic()
            taken.grow()
            middle = (begun + time.monotonic()) / 2
            seen = sightings.wait_for(half, after=begun, seconds=4)
            if seen is not None:
                latencies.append(seen - middle)
    return latencies, count - len(latencies)


class Sightings:
    """The use of one resource in a node's reports, with when each report came over a watch."""

    def __init__(self, control_plane: ControlPlane, node: str, resource: str) -> None:
        self._client = control_plane.client()
        self._node = node
        self._resource = resource
        self._seen: list[tuple[float, int]] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Sightings:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _watch(self) -> None:
        fields = f"metadata.name={self._node}"
        with contextlib.suppress(Exception):  # the watch ends with its server
            for event in self._client.watch("nodereports", timeout_seconds=600, fieldSelector=fields):
                rows = event.object.get("status", {}).get("usage", ())
                used = next((r["current"] for r in rows if r["name"] == self._resource), "0")
                with self._changed:
                    self._seen.append((time.monotonic(), amount(self._resource, used)))
                    self._changed.notify_all()

    def wait_for(self, used: int, *, after: float, seconds: float) -> float | None:
        """Return when a report first said that so much is in use."""
        with self._changed:
            self._changed.wait_for(lambda: self._first(used, after) is not None, seconds)
            return self._first(used, after)

    def _first(self, used: int, after: float) -> float | None:
        return next((at for at, said in self._seen if at > after and said >= used), None)


# --- One reading, one object, one hour ----------------------------------------------------------------------


def reading(*, times: int) -> Iterator[Row]:
    """Time whole readings, with pauses that let the caches go cold as in the real loop."""
    host, took, busy = Host(), [], []
    for _ in range(times):
        time.sleep(0.01)
        begun, cpu = time.perf_counter(), time.thread_time()
        host.sample()
        host.surroundings()
        took.append((time.perf_counter() - begun) * 1000)
        busy.append((time.thread_time() - cpu) * 1000)
    yield row("one full reading, p50", percentile(took, 50), "ms", note=f"n = {times}")
    yield row("one full reading, p99", percentile(took, 99), "ms", "< 5")
    yield row("one full reading, CPU, p50", percentile(busy, 50), "ms")


def size() -> Iterator[Row]:
    """Count the bytes of a report's status."""
    host, history, conditions = Host(), History(Instructions()), Conditions()
    around = host.surroundings()
    for _ in range(2):
        history.add(host.sample(), around.cores)
        time.sleep(0.3)
    verdicts = conditions.judge(history, ClockOffset(), Cost(0, 0))
    status = status_of(
        history,
        around,
        conditions.rows(verdicts, 0),
        cost=Cost(300, 20 << 20),
        offset=ClockOffset(),
        sequence=1000,
        now_ms=int(time.time() * 1000),
        version="0.1.0",
    )
    yield row("report, status as JSON", len(json.dumps(status, separators=(",", ":"))), "bytes", "< 1024")
    yield row(
        "report, body of its PATCH", len(json.dumps(merge_patch(status), separators=(",", ":"))), "bytes"
    )


def simulated_writes(*, hours: int) -> Iterator[Row]:
    """Count the writes of a noisy node under the real rules: steps, noise and spikes of 1 to 3 s. Invented load."""
    for period in (1, 5):
        for threshold in (50, 100):
            wrote = sum(_writes_of_an_hour(period, threshold, seed) for seed in range(hours)) / hours
            yield row(
                f"writes per node and hour at {period} s, threshold {threshold // 10} %",
                wrote / 60,
                "x",
                ratio_of="a write every 60 s",
                note=f"{wrote:.0f} writes; every sample would be {3600 // period}",
            )


def _writes_of_an_hour(period: int, threshold: int, seed: int) -> int:
    dice = random.Random(seed)
    asked = Instructions(period=period)
    history, pace, conditions = History(asked), Pace(Pacing(threshold_permille=threshold)), Conditions()
    around = Host().surroundings()
    cores, total, wrote = 4, 16 << 30, 0
    busy_seconds, level, until, spike = 0.0, 0.3, 0.0, 0.0
    for second in range(3600):
        if second >= until:
            level, until = dice.uniform(0.05, 0.8), second + dice.expovariate(1 / 300)
        if dice.random() < 1 / 60:
            spike = second + dice.randint(1, 3)
        use = min(max(level + dice.gauss(0, 0.03) + (0.4 if second < spike else 0), 0), 1)
        busy_seconds += use * cores
        if second % period:
            continue
        free = int(total * (1 - min(level + dice.gauss(0, 0.003), 0.95)))
        disk = Filesystem("nodefs", 100 << 30, 60 << 30, 10**6, 10**6 // 2)
        history.add(Sample(float(second), busy_seconds, 0.0, total, free, (disk,)), cores)
        verdicts = conditions.judge(history, ClockOffset(), Cost(0, 0))
        facts = facts_of(history, around, verdicts)
        if pace.due(second, facts, asked):
            pace.tried(second)
            pace.written(second, facts, dice.random())
            wrote += 1
    return wrote


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.bench_reporter", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes instead of eight")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    given = parser.parse_args()
    with ControlPlane() as control_plane:
        control_plane.install_crds()
        rows = run(given.quick, control_plane)
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    for each in rows:
        aim = f"  target {each['target']}" if each["target"] else ""
        of = f"  of {each['ratio_of']}" if each["ratio_of"] else ""
        print(f"{each['name']:52} {each['value']:10.3f} {each['unit']}{of}{aim}  {each['note']}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
