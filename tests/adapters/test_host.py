"""Reading this very machine, checked against /proc and sysconf; and parsing, from text."""

import json
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from leasehold.adapters import host as host_module
from leasehold.adapters.host import (
    Host,
    HostReadError,
    Meter,
    Mount,
    default_mounts,
    parse_cores,
    parse_load,
    parse_meminfo,
    parse_overmounts,
    parse_pagesets,
    parse_pressure,
    resident_bytes,
    working_set,
)
from leasehold.core.reporting import LeaseUse, Pressure

MIB = 1 << 20
linux = pytest.mark.skipif(platform.system() != "Linux", reason="/proc is Linux's")


@pytest.fixture(autouse=True)
def _usual_procfs():
    yield
    psutil.PROCFS_PATH = "/proc"


def fake_procfs(tmp_path, **files):
    """A /proc with just these files; names are given with _ for /."""
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(tmp_path)


STAT = "cpu  100 10 50 900 5 3 2 7 0 0\ncpu0 50 5 25 450 2 1 1 3 0 0\ncpu1 50 5 25 450 3 2 1 4 0 0\nbtime 1700000000\n"
MEMINFO = """\
MemTotal:       16000000 kB
MemFree:         8000000 kB
MemAvailable:   12000000 kB
Buffers:          100000 kB
Cached:          3000000 kB
SwapCached:         1000 kB
Active:          2000000 kB
Inactive:        2000000 kB
Inactive(file):  1500000 kB
AnonPages:       2000000 kB
SwapTotal:        500000 kB
SwapFree:         400000 kB
HugePages_Total:       7
"""


@linux
class TestThisMachine:
    def test_memory_is_that_of_proc_meminfo(self):
        read = Host().sample()
        meminfo = parse_meminfo(Path("/proc/meminfo").read_text())
        assert read.memory_total == meminfo["MemTotal"]
        assert read.memory_total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
        assert abs(read.memory_available - meminfo["MemAvailable"]) < 512 * MIB

    def test_cores_are_those_online(self):
        assert Host().surroundings().cores == os.sysconf("SC_NPROCESSORS_ONLN")

    def test_affinity_of_the_process_does_not_change_the_cores(self):
        cores, before = Host().surroundings().cores, os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            assert Host().surroundings().cores == cores
        finally:
            os.sched_setaffinity(0, before)

    def test_cpu_counters_grow_with_work(self):
        host = Host()
        before = host.sample()
        spent = sum(os.times()[:2])
        while sum(os.times()[:2]) - spent < 0.15:
            pass
        after = host.sample()
        assert after.at > before.at
        assert after.cpu_busy - before.cpu_busy > 0.05

    def test_filesystem_is_that_of_statvfs(self):
        read = Host((Mount("nodefs", "/"), Mount("other", "/dev/shm"))).sample()
        root = os.statvfs("/")
        assert [f.name for f in read.filesystems] == ["nodefs", "other"]
        assert read.filesystems[0].capacity == root.f_blocks * root.f_frsize
        assert read.filesystems[0].inodes == root.f_files
        assert 0 < read.filesystems[0].available <= read.filesystems[0].capacity

    def test_surroundings_are_plausible(self):
        around = Host().surroundings()
        meminfo = parse_meminfo(Path("/proc/meminfo").read_text())
        assert around.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert 0 < around.working_set < meminfo["MemTotal"]
        assert 0 <= around.pcp_cached < meminfo["MemTotal"] / 4
        assert (around.swap_total == 0) == (meminfo["SwapTotal"] == 0)
        assert around.load[0] >= 0
        assert [p.name for p in around.pressure] == ["cpu", "memory", "io"][: len(around.pressure)]

    def test_working_set_is_near_what_the_root_cgroup_says(self):
        root = "/sys/fs/cgroup/memory/memory.stat"
        if not os.path.exists(root):
            pytest.skip(
                "cgroup version 1 is not mounted here, and the root of version 2 has no memory.current"
            )
        stat = dict(line.split() for line in Path(root).read_text().splitlines())
        used = int(stat["total_rss"]) + int(stat["total_cache"]) - int(stat["total_inactive_file"])
        assert Host().surroundings().working_set == pytest.approx(used, rel=0.2, abs=512 * MIB)

    def test_own_cost_is_this_process_even_under_another_procfs(self, tmp_path):
        Host(procfs=fake_procfs(tmp_path, stat=STAT, meminfo=MEMINFO))
        meter = Meter()
        spent = sum(os.times()[:2])
        while sum(os.times()[:2]) - spent < 0.1:
            pass
        cost = meter.read()
        assert cost.cpu_micro > 50_000
        assert abs(cost.resident - resident_bytes()) < 16 * MIB
        assert meter.read().cpu_micro >= 0

    def test_in_namespaces_of_its_own_it_still_sees_the_host(self):
        unshare = ["unshare", "--pid", "--mount", "--fork", "--mount-proc"]
        if (
            os.geteuid() != 0
            or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
        ):
            pytest.skip("needs root and namespaces, which this machine does not allow")
        code = """
            import json, os
            from leasehold.adapters.host import Host
            around, read = Host().surroundings(), Host().sample()
            print(json.dumps([os.getpid(), around.boot_id, around.cores, read.memory_total, read.problems]))
        """
        command = [*unshare, sys.executable, "-c", textwrap.dedent(code)]
        seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        here = Host()
        pid, boot_id, cores, total, problems = json.loads(seen)
        assert pid < 10
        assert [boot_id, cores] == list(here.surroundings()[:2])
        assert total == here.sample().memory_total
        assert problems == []


class TestAnotherProcfs:
    def test_everything_is_read_from_it(self, tmp_path):
        procfs = fake_procfs(
            tmp_path,
            stat=STAT,
            meminfo=MEMINFO,
            vmstat="pswpin 0\npswpout 0\n",
            loadavg="0.50 1.25 2.00 1/100 12345\n",
            zoneinfo="  pagesets\n    cpu: 0\n              count: 10\n              high:  50\n",
            pressure__io="some avg10=0.00 avg60=1.23 avg300=0.00 total=5\nfull avg10=0 avg60=0.40 avg300=0 total=1\n",
            sys__kernel__random__boot_id="the-boot\n",
        )
        host = Host((Mount("nodefs", "/"),), procfs)
        read, around = host.sample(), host.surroundings()
        ticks = os.sysconf("SC_CLK_TCK")
        assert read.cpu_busy == pytest.approx(165 / ticks)
        assert read.cpu_steal == pytest.approx(7 / ticks)
        assert read.cpu_counted == pytest.approx((165 + 7 + 900 + 5) / ticks)
        assert (read.memory_total, read.memory_available) == (16_000_000 * 1024, 12_000_000 * 1024)
        assert around.boot_id == "the-boot"
        assert around.cores == 2
        assert around.working_set == (2_000_000 + 3_000_000 + 100_000 + 1_000 - 1_500_000) * 1024
        assert around.pcp_cached == 10 * os.sysconf("SC_PAGESIZE")
        assert (around.swap_total, around.swap_used) == (500_000 * 1024, 100_000 * 1024)
        assert around.load == (500, 1250, 2000)
        assert around.pressure == (Pressure("io", 12, 4),)

    def test_what_an_old_kernel_does_not_have_is_left_out(self, tmp_path):
        around = Host(procfs=fake_procfs(tmp_path, stat=STAT, meminfo="MemTotal: 5 kB\n")).surroundings()
        assert around.boot_id == "boot-1700000000"
        assert (around.working_set, around.pcp_cached, around.pressure) == (None, None, ())
        assert (around.swap_total, around.load) == (0, (0, 0, 0))

    @pytest.mark.parametrize("missing", ["stat", "meminfo"])
    def test_without_cpu_or_memory_it_says_what_to_look_at(self, tmp_path, missing):
        files = {"stat": STAT, "meminfo": MEMINFO}
        del files[missing]
        host = Host(procfs=fake_procfs(tmp_path, **files))
        with pytest.raises(
            HostReadError, match=rf"{tmp_path}/{missing} cannot be read .* is .* this node's /proc"
        ):
            host.sample()

    def test_a_stat_without_cores_is_no_node(self, tmp_path):
        host = Host(procfs=fake_procfs(tmp_path, stat="intr 5\n", meminfo=MEMINFO))
        with pytest.raises(HostReadError, match="no cpu lines"):
            host.surroundings()

    def test_a_file_that_refuses_to_be_read_is_left_out(self, tmp_path):
        procfs = fake_procfs(tmp_path, stat=STAT, meminfo=MEMINFO)
        (tmp_path / "zoneinfo").mkdir()
        assert Host(procfs=procfs).surroundings().pcp_cached is None

    def test_a_reading_that_was_interrupted_is_made_again(self, monkeypatch):
        times = iter((0.0, 0.5, 1.0, 1.001))
        monkeypatch.setattr(host_module.time, "monotonic", lambda: next(times))
        _, at = host_module._cpu_times()
        assert at == pytest.approx(1.0005)


class TestFilesystems:
    def test_one_that_is_gone_is_a_problem_and_the_others_stay(self, tmp_path):
        read = Host((Mount("nodefs", str(tmp_path / "gone")), Mount("imagefs", "/"))).sample()
        assert [f.name for f in read.filesystems] == ["imagefs"]
        assert read.problems == (f"filesystem nodefs: {tmp_path}/gone: No such file or directory",)

    def test_leases_and_problems_of_others_are_passed_on(self):
        leases = {"a": LeaseUse(True, 1.0, 2)}
        read = Host((Mount("nodefs", "/"),)).sample(leases, ("cgroups: none",))
        assert read.leases == leases
        assert read.problems[-1] == "cgroups: none"

    @pytest.mark.parametrize(("exists", "path"), [(True, "/var/lib/kubelet"), (False, "/")])
    def test_the_kubelets_directory_is_nodefs_where_there_is_one(self, monkeypatch, exists, path):
        monkeypatch.setattr(host_module.os.path, "isdir", lambda _: exists)
        assert default_mounts() == (Mount("nodefs", path),)


LXCFS = """\
22 1 0:20 / /proc rw,nosuid - proc proc rw
90 22 0:50 /proc/meminfo /proc/meminfo rw,nosuid shared:1 - fuse.lxcfs lxcfs rw
91 22 0:50 /proc/uptime /proc/uptime rw - fuse.lxcfs lxcfs rw
"""


class TestParsing:
    def test_a_containers_view_over_proc_is_noticed(self, monkeypatch):
        assert parse_overmounts(LXCFS, "/proc") == {"meminfo": "fuse.lxcfs", "uptime": "fuse.lxcfs"}
        assert parse_overmounts(LXCFS + "broken line\n", "/host/proc") == {}
        monkeypatch.setattr(host_module, "parse_overmounts", lambda *_: {"meminfo": "fuse.lxcfs"})
        assert "shows a container; give the node's /proc by --procfs" in Host().sample().problems[0]

    def test_meminfo_in_bytes_and_counts(self):
        assert parse_meminfo("A: 2 kB\nHugePages_Total: 7\nBroken\nWorse: x kB\n\n") == {
            "A": 2048,
            "HugePages_Total": 7,
        }

    def test_working_set_needs_all_of_its_parts(self):
        assert working_set({"AnonPages": 5}) is None
        assert working_set({"AnonPages": 5, "Cached": 0, "Buffers": 0, "Inactive(file)": 9}) == 0

    def test_pagesets_are_summed(self):
        page = os.sysconf("SC_PAGESIZE")
        text = "  pagesets\n    cpu: 0\n       count: 5\n       high: 9\n    cpu: 1\n       count:    7\n discount: 3\n"
        assert parse_pagesets(text) == 12 * page
        assert parse_pagesets("") is None

    @pytest.mark.parametrize("text", ["", "x y z", "0.1 0.2"])
    def test_a_broken_loadavg_is_zero(self, text):
        assert parse_load(text) == (0, 0, 0)

    def test_cores_are_counted_not_believed(self):
        assert parse_cores(STAT) == 2
        assert parse_cores("cpufreq 1\n") == 0

    def test_pressure_without_full(self):
        assert parse_pressure("cpu", "some avg10=9 avg60=10.05 total=1\n") == Pressure("cpu", 100, 0)
        assert parse_pressure("cpu", "") is None
