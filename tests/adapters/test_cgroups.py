"""Finding the cgroups of leases and what they use: in made-up trees of both versions, and in real ones."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from leasehold.adapters import cgroups as module
from leasehold.adapters.cgroups import Cgroups, Names, search, spelt, trees_under
from leasehold.core.reporting import LeaseUse

UID = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
LEASE = "the-lease-of-a-real-pod"
OTHER = "11111111-2222-3333-4444-555555555555"
POD = "0a0a0a0a-1b1b-2c2c-3d3d-4e4e4e4e4e4e"
POD2 = "99999999-8888-7777-6666-000000000000"
GONE = LeaseUse(False, 0.0, 0)


def cgroupfs(pod, qos="burstable"):
    """Return where the kubelet makes a pod's cgroup with the cgroupfs driver."""
    return "/".join(filter(None, ("kubepods", qos, f"pod{pod}")))


def systemd(pod, qos="burstable", root=""):
    """The same with the systemd driver; ``root`` is what kubelets have that are themselves in a slice."""
    base = f"{root}kubepods"
    name = "-".join(filter(None, (base, qos, f"pod{pod.replace('-', '_')}")))
    folders = [f"{base}.slice", *([f"{base}-{qos}.slice"] if qos else []), f"{name}.slice"]
    return "/".join(([f"{root.removesuffix('-')}.slice"] if root else []) + folders)


WHERE = {
    f"{driver.__name__}, {qos or 'guaranteed'}": (driver, qos)
    for driver in (cgroupfs, systemd)
    for qos in ("burstable", "besteffort", "")
}


def v2(root, path, *, populated=1, usec=0, memory=0, idle=0):
    """Make a version 2 cgroup as the kernel shows it."""
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (root / "cgroup.controllers").write_text("cpu memory\n")
    (folder / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
    (folder / "cpu.stat").write_text(f"usage_usec {usec}\nuser_usec 0\n")
    (folder / "memory.current").write_text(f"{memory}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {idle}\n")
    return folder


def v1(root, path, *, procs="12\n", nanoseconds=0, memory=0, idle=0, tasks=None):
    """Make a version 1 cgroup in its hierarchies. ``procs`` are those that are seen from here, ``tasks`` all."""
    tasks = int(bool(procs)) if tasks is None else tasks
    for tree, files in (
        ("pids", {"pids.current": tasks, "cgroup.procs": procs}),
        ("cpuacct", {"cpuacct.usage": nanoseconds, "cgroup.procs": procs}),
        (
            "memory",
            {
                "memory.usage_in_bytes": memory,
                "memory.stat": f"cache 5\ntotal_inactive_file {idle}",
                "cgroup.procs": procs,
            },
        ),
    ):
        (root / tree / path).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (root / tree / path / name).write_text(f"{text}".strip() + ("\n" if text else ""))


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class TestNames:
    NAMES = Names((UID, OTHER), {POD: UID, POD2: "another's"})

    def owner_of(self, name, names=NAMES):
        return names.owners.get(names.key_of(spelt(name)))

    @pytest.mark.parametrize(
        "name",
        [
            UID,
            f"leasehold-{UID}",
            f"leasehold-{UID}.scope",
            f"cri-leasehold-{UID}-web.scope",
            f"kubepods-leasehold-{UID.replace('-', '_')}.slice",
            f"{UID.replace('-', '_')}.slice",
            f"pod{POD}",
            f"kubepods-pod{POD.replace('-', '_')}.slice",
            f"kubepods-burstable-pod{POD.replace('-', '_')}.slice",
            f"kubelet-kubepods-besteffort-pod{POD.replace('-', '_')}.slice",
        ],
    )
    def test_these_belong_to_the_lease(self, name):
        assert self.owner_of(name) == UID

    @pytest.mark.parametrize(
        "name",
        [
            f"pod{UID}",
            f"leasehold-{UID}0",
            "leasehold-",
            "leasehold",
            "system.slice",
            "kubepods.slice",
            POD,
            f"pod{POD}0",
            f"leasehold-{POD}",
            f"tripod{POD}",
            f"kubepods-burstable-pod{POD2}.slice",
        ],
    )
    def test_these_do_not(self, name):
        assert self.owner_of(name) is None

    def test_a_uid_that_begins_another_is_not_taken_for_it(self):
        names = Names(("a_1", "a-1-2"), {})
        assert self.owner_of("leasehold-a-1x", names) is None
        assert self.owner_of("leasehold-a_1.scope", names) == "a_1"


class TestVersion2:
    def test_use_is_read_without_idle_page_cache(self, tmp_path):
        v2(tmp_path, f"kubepods.slice/pod.slice/leasehold-{UID}.scope", usec=2_500_000, memory=1000, idle=300)
        reading = Cgroups(str(tmp_path)).read([UID, OTHER])
        assert reading == ({UID: LeaseUse(True, 2.5, 700), OTHER: LeaseUse(False, 0.0, 0)}, ())

    def test_several_cgroups_of_a_lease_add_up_and_what_lies_below_is_not_counted_twice(self, tmp_path):
        v2(tmp_path, f"a/leasehold-{UID}", usec=1_000_000, memory=10)
        v2(tmp_path, f"a/leasehold-{UID}/leasehold-{UID}-inner", usec=1_000_000, memory=10)
        v2(tmp_path, f"b/{UID}", usec=2_000_000, memory=20)
        assert Cgroups(str(tmp_path)).read([UID]).leases == {UID: LeaseUse(True, 3.0, 30)}

    def test_a_cgroup_left_without_processes_is_gone(self, tmp_path):
        v2(tmp_path, f"leasehold-{UID}", populated=0, usec=5, memory=9)
        assert Cgroups(str(tmp_path)).read([UID]).leases[UID] == LeaseUse(False, 0.0, 0)

    def test_a_controller_that_is_off_leaves_its_figure_at_zero(self, tmp_path):
        folder = v2(tmp_path, f"leasehold-{UID}", usec=1_000_000)
        (folder / "memory.current").unlink()
        assert Cgroups(str(tmp_path)).read([UID]).leases[UID] == LeaseUse(True, 1.0, 0)


class TestVersion1:
    def test_cpu_and_memory_come_from_their_own_trees(self, tmp_path):
        v1(tmp_path, "", procs="")
        v1(tmp_path, f"kubepods/leasehold-{UID}", nanoseconds=1_500_000_000, memory=900, idle=100)
        assert Cgroups(str(tmp_path)).read([UID]).leases == {UID: LeaseUse(True, 1.5, 800)}

    def test_processes_in_a_cgroup_below_count(self, tmp_path):
        v1(tmp_path, "", procs="")
        v1(tmp_path, f"leasehold-{UID}", procs="")
        assert Cgroups(str(tmp_path)).read([UID]).leases[UID].present is False
        v1(tmp_path, f"leasehold-{UID}/inner", procs="7\n")
        assert Cgroups(str(tmp_path)).read([UID]).leases[UID].present is True

    def test_processes_that_cannot_be_seen_from_a_pod_are_counted_all_the_same(self, tmp_path, monkeypatch):
        """In another PID namespace the processes of others are left out of cgroup.procs: every cgroup looks empty."""
        monkeypatch.setattr(module.os, "readlink", lambda _: "pid:[4026532000]")
        v1(tmp_path, "", procs="")
        v1(tmp_path, cgroupfs(POD), procs="", tasks=3, memory=7)
        cgroups = Cgroups(str(tmp_path))
        assert cgroups.read([UID], {POD: UID}).leases == {UID: LeaseUse(True, 0.0, 7)}
        v1(tmp_path, cgroupfs(POD), procs="", tasks=0)
        assert cgroups.read([UID], {POD: UID}) == ({UID: GONE}, ())

    def test_where_nobody_counts_them_for_a_pod_it_is_unknown_and_said(self, tmp_path, monkeypatch):
        v1(tmp_path, "", procs="")
        v1(tmp_path, cgroupfs(POD), procs="")
        shutil.rmtree(tmp_path / "pids")
        assert Cgroups(str(tmp_path)).read([UID], {POD: UID}).leases == {UID: GONE}
        monkeypatch.setattr(module.os, "readlink", lambda _: "pid:[4026532000]")
        cgroups = Cgroups(str(tmp_path))
        unknown = ("leases: whether 1 of them have processes left cannot be read",)
        assert cgroups.read([UID, OTHER], {POD: UID}) == ({OTHER: GONE}, unknown)
        for tree in ("cpuacct", "memory"):
            shutil.rmtree(tmp_path / tree / cgroupfs(POD))
        assert cgroups.read([UID, OTHER], {POD: UID}) == ({UID: GONE, OTHER: GONE}, ())

    def test_joined_controllers_are_found_by_their_joined_name(self, tmp_path):
        (tmp_path / "cpu,cpuacct").mkdir()
        (tmp_path / "cpu,cpuacct" / "cpuacct.usage").write_text("5\n")
        assert [tree.root for tree in trees_under(str(tmp_path))] == [f"{tmp_path}/cpu,cpuacct"]


class TestBoundsAndMemory:
    def test_nobody_asked_nothing_is_read(self, tmp_path, monkeypatch):
        v2(tmp_path, f"leasehold-{UID}")
        cgroups = Cgroups(str(tmp_path))
        monkeypatch.setattr(module, "search", pytest.fail)
        assert cgroups.read([]) == ({}, ())

    def test_a_search_that_stopped_early_calls_nothing_gone(self, tmp_path, monkeypatch):
        v2(tmp_path, f"leasehold-{UID}", usec=1_000_000)
        v2(tmp_path, "x/y")
        monkeypatch.setattr(module, "search", lambda trees, names: search(trees, names, budget=1))
        leases, problems = Cgroups(str(tmp_path)).read([UID, OTHER])
        assert leases == {UID: LeaseUse(True, 1.0, 0)}
        assert problems == ("leases: only 20000 cgroups of this node were searched",)

    def test_nothing_deeper_than_eight_is_searched(self, tmp_path):
        v2(tmp_path, "1/2/3/4/5/6/7/" + f"leasehold-{UID}")
        assert Cgroups(str(tmp_path)).read([UID]).leases[UID].present
        v2(tmp_path, "1/2/3/4/5/6/7/8/" + f"leasehold-{OTHER}")
        assert not Cgroups(str(tmp_path)).read([OTHER]).leases[OTHER].present

    def test_links_are_not_followed(self, tmp_path):
        v2(tmp_path, "real")
        (tmp_path / "loop").symlink_to(tmp_path)
        assert Cgroups(str(tmp_path)).read([UID]).leases[UID].present is False

    def test_places_are_remembered_and_searched_again_now_and_then(self, tmp_path, monkeypatch):
        clock, searches = Clock(), []
        v2(tmp_path, f"leasehold-{UID}")
        cgroups = Cgroups(str(tmp_path), clock)
        monkeypatch.setattr(module, "search", lambda *a: (searches.append(clock.now), search(*a))[1])
        for clock.now in (0, 5, 29, 30, 59, 60):
            cgroups.read([UID])
        assert searches == [0, 30, 60]
        for clock.now in (61, 66, 71):
            cgroups.read([UID, OTHER])
        assert searches == [0, 30, 60, 61, 71]

    def test_a_lease_that_moved_is_not_called_gone(self, tmp_path):
        folder = v2(tmp_path, f"leasehold-{UID}", usec=1)
        cgroups = Cgroups(str(tmp_path), Clock())
        assert cgroups.read([UID]).leases[UID].present
        folder.rename(tmp_path / f"leasehold-{UID}.again")
        assert cgroups.read([UID]).leases[UID].present

    def test_without_cgroups_it_says_so(self, tmp_path):
        assert Cgroups(str(tmp_path)).read([UID]) == ({}, (f"leases: no cgroups at {tmp_path}",))

    def test_in_a_containers_namespace_it_does_not_believe_what_it_sees(self, tmp_path, monkeypatch):
        v2(tmp_path, f"leasehold-{UID}")
        monkeypatch.setattr(module, "CGROUP_ROOT", str(tmp_path))
        monkeypatch.setattr(module.os, "readlink", lambda _: "cgroup:[4026532000]")
        leases, problems = Cgroups().read([UID])
        assert leases == {}
        assert "only this container's cgroups are visible" in problems[0]
        assert Cgroups(str(tmp_path)).read([UID]).leases[UID].present

    def test_a_kernel_without_cgroup_namespaces_shows_the_host(self, tmp_path, monkeypatch):
        def refuse(_):
            raise OSError

        v2(tmp_path, f"leasehold-{UID}")
        monkeypatch.setattr(module, "CGROUP_ROOT", str(tmp_path))
        monkeypatch.setattr(module.os, "readlink", refuse)
        assert Cgroups().read([UID]).leases[UID].present


class TestPods:
    """Pods of leases, as the kubelet makes their cgroups."""

    @pytest.mark.parametrize("make", [v1, v2])
    @pytest.mark.parametrize(("driver", "qos"), WHERE.values(), ids=WHERE)
    def test_a_pod_counts_for_its_lease_and_its_end_for_the_leases(self, tmp_path, make, driver, qos):
        make(tmp_path, "")
        make(tmp_path, driver(POD, qos), memory=30)
        make(tmp_path, f"{driver(POD, qos)}/cri-containerd-4e07408562be.scope", memory=20)
        make(tmp_path, driver(POD2, qos), memory=500)
        cgroups = Cgroups(str(tmp_path), Clock())
        asked = ([UID, OTHER], {POD: UID})
        assert cgroups.read(*asked) == ({UID: LeaseUse(True, 0.0, 30), OTHER: GONE}, ())
        for place in tmp_path.glob(f"**/{driver(POD, qos)}"):
            shutil.rmtree(place)
        assert cgroups.read(*asked) == ({UID: GONE, OTHER: GONE}, ())

    def test_a_kubelet_in_a_slice_of_its_own_is_understood(self, tmp_path):
        v2(tmp_path, systemd(POD, root="kubelet-"), memory=5)
        assert Cgroups(str(tmp_path)).read([UID], {POD: UID}).leases == {UID: LeaseUse(True, 0.0, 5)}

    def test_pods_and_other_cgroups_of_a_lease_add_up_and_each_is_counted_once(self, tmp_path):
        v2(tmp_path, cgroupfs(POD), usec=1_000_000, memory=10)
        v2(tmp_path, cgroupfs(POD2, "besteffort"), usec=2_000_000, memory=20)
        v2(tmp_path, f"leasehold-{UID}", usec=4_000_000, memory=40)
        v2(tmp_path, f"leasehold-{UID}/{cgroupfs('inner')}", usec=3_000_000, memory=30)
        v2(tmp_path, f"{cgroupfs(POD)}/leasehold-{UID}", usec=1_000_000, memory=10)
        pods = {POD: UID, POD2: UID, "inner": UID}
        assert Cgroups(str(tmp_path)).read([UID], pods).leases == {UID: LeaseUse(True, 7.0, 70)}

    def test_a_lease_is_there_as_long_as_one_of_its_pods_is(self, tmp_path):
        first, second = v2(tmp_path, cgroupfs(POD)), v2(tmp_path, cgroupfs(POD2))
        cgroups, pods = Cgroups(str(tmp_path), Clock()), {POD: UID, POD2: UID}
        assert cgroups.read([UID], pods).leases[UID].present
        shutil.rmtree(first)
        assert cgroups.read([UID], pods).leases[UID].present
        (second / "cgroup.events").write_text("populated 0\n")
        assert cgroups.read([UID], pods).leases[UID] == GONE

    def test_a_pod_in_another_leases_cgroup_is_its_own_leases(self, tmp_path):
        v2(tmp_path, f"leasehold-{OTHER}", usec=9_000_000, memory=90)
        v2(tmp_path, f"leasehold-{OTHER}/{cgroupfs(POD)}", usec=2_000_000, memory=20)
        assert Cgroups(str(tmp_path)).read([UID, OTHER], {POD: UID}).leases == {
            UID: LeaseUse(True, 2.0, 20),
            OTHER: LeaseUse(True, 7.0, 70),
        }

    @pytest.mark.parametrize("make", [v1, v2])
    def test_a_pod_that_starts_between_two_searches_is_seen_at_once(self, tmp_path, monkeypatch, make):
        make(tmp_path, "")
        make(tmp_path, "kubepods/burstable")
        clock = Clock()
        cgroups, asked = Cgroups(str(tmp_path), clock), ([UID], {POD: UID, POD2: UID})
        assert cgroups.read(*asked).leases[UID] == GONE
        monkeypatch.setattr(module, "search", pytest.fail)
        make(tmp_path, cgroupfs(POD), memory=3)
        assert cgroups.read(*asked).leases[UID] == LeaseUse(True, 0.0, 3)
        make(tmp_path, cgroupfs(POD2), memory=4)
        assert cgroups.read(*asked).leases[UID] == LeaseUse(True, 0.0, 7)

    def test_asked_about_another_pod_it_searches_at_once(self, tmp_path):
        v2(tmp_path, f"elsewhere/pod{POD2}")
        cgroups = Cgroups(str(tmp_path), Clock())
        assert cgroups.read([UID], {POD: UID}).leases[UID] == GONE
        assert cgroups.read([UID], {POD: UID, POD2: UID}).leases[UID].present

    def test_while_all_pods_are_found_nothing_is_searched_and_one_that_ends_needs_no_search(
        self, tmp_path, monkeypatch
    ):
        first, second = v2(tmp_path, cgroupfs(POD)), v2(tmp_path, cgroupfs(POD2))
        cgroups, asked = Cgroups(str(tmp_path), Clock()), ([UID], {POD: UID, POD2: UID})
        assert cgroups.read(*asked).leases[UID].present
        monkeypatch.setattr(module, "search", pytest.fail)
        opened = []
        look = module._subdirectories
        monkeypatch.setattr(module, "_subdirectories", lambda path: (opened.append(path), look(path))[1])
        cgroups.read(*asked)
        assert opened == []
        shutil.rmtree(second)
        assert cgroups.read(*asked).leases[UID].present
        assert {os.path.basename(path) for path in opened} == {"kubepods", "burstable"}
        assert first.exists()

    def test_a_lease_is_called_gone_after_a_search_that_was_made_since_it_was_there(self, tmp_path):
        """Its known cgroup is empty; meanwhile it has got another in a place that no pod is looked for in."""
        known = v2(tmp_path, cgroupfs(POD))
        cgroups, asked = Cgroups(str(tmp_path), Clock()), ([UID], {POD: UID})
        assert cgroups.read(*asked).leases[UID].present
        (known / "cgroup.events").write_text("populated 0\n")
        v2(tmp_path, f"system.slice/leasehold-{UID}.scope", memory=8)
        assert cgroups.read(*asked).leases[UID] == LeaseUse(True, 0.0, 8)

    def test_one_that_is_gone_is_not_searched_for_at_every_reading(self, tmp_path, monkeypatch):
        searches = []
        monkeypatch.setattr(module, "search", lambda *a: (searches.append(a), search(*a))[1])
        v2(tmp_path, cgroupfs(POD), populated=0)
        cgroups = Cgroups(str(tmp_path), Clock())
        for _ in range(5):
            assert cgroups.read([UID], {POD: UID, POD2: UID}).leases[UID] == GONE
        assert len(searches) == 1

    def test_what_a_pod_used_before_it_was_found_is_no_burst(self, tmp_path):
        first = v2(tmp_path, cgroupfs(POD), usec=1_000_000)
        cgroups, asked = Cgroups(str(tmp_path), Clock()), ([UID], {POD: UID, POD2: UID})
        readings = [cgroups.read(*asked).leases[UID].cpu_seconds]
        second = v2(tmp_path, cgroupfs(POD2), usec=500_000_000)
        readings.append(cgroups.read(*asked).leases[UID].cpu_seconds)
        v2(tmp_path, cgroupfs(POD), usec=3_000_000)
        (second / "cpu.stat").write_text("usage_usec 501000000\n")
        readings.append(cgroups.read(*asked).leases[UID].cpu_seconds)
        shutil.rmtree(first)
        (second / "cpu.stat").write_text("usage_usec 505000000\n")
        readings.append(cgroups.read(*asked).leases[UID].cpu_seconds)
        assert readings == [1.0, 1.0, 4.0, 8.0], "nor does the end of another take away what it used"

    def test_a_counter_that_cannot_be_read_once_is_no_burst_when_it_is_back(self, tmp_path):
        place = v2(tmp_path, cgroupfs(POD), usec=100_000_000)
        cgroups, asked = Cgroups(str(tmp_path), Clock()), ([UID], {POD: UID})
        readings = [cgroups.read(*asked).leases[UID].cpu_seconds]
        for text in ("", "usage_usec 103000000\n"):
            (place / "cpu.stat").write_text(text)
            readings.append(cgroups.read(*asked).leases[UID].cpu_seconds)
        assert readings == [100.0, 100.0, 103.0]

    def test_a_lease_that_comes_back_counts_anew(self, tmp_path):
        first = v2(tmp_path, cgroupfs(POD), usec=5_000_000)
        cgroups, asked = Cgroups(str(tmp_path), Clock()), ([UID], {POD: UID, POD2: UID})
        assert cgroups.read(*asked).leases[UID].cpu_seconds == 5.0
        shutil.rmtree(first)
        assert cgroups.read(*asked).leases[UID] == GONE
        v2(tmp_path, cgroupfs(POD2), usec=2_000_000)
        assert cgroups.read(*asked).leases[UID].cpu_seconds == 2.0

    def test_a_search_that_stopped_early_calls_no_pod_gone(self, tmp_path, monkeypatch):
        v2(tmp_path, cgroupfs(POD))
        monkeypatch.setattr(module, "search", lambda trees, names: search(trees, names, budget=2))
        leases, problems = Cgroups(str(tmp_path)).read([UID], {POD: UID})
        assert leases == {}
        assert problems == ("leases: only 20000 cgroups of this node were searched",)

    def test_a_cgroup_that_may_not_be_opened_makes_absence_unknown_and_is_named(self, tmp_path, monkeypatch):
        v2(tmp_path, cgroupfs(POD))
        v2(tmp_path, "closed")
        monkeypatch.setattr(module.os, "scandir", refusing(module.os.scandir, "closed"))
        leases, problems = Cgroups(str(tmp_path)).read([UID, OTHER], {POD: UID})
        assert leases == {UID: LeaseUse(True, 0.0, 0)}
        (problem,) = problems
        assert problem.startswith("leases: not all cgroups of this node can be opened: ")
        assert "closed" in problem

    @pytest.mark.parametrize("events", ["", "populated maybe\n"])
    def test_a_cgroup_that_does_not_say_whether_it_is_empty_is_not_called_gone(self, tmp_path, events):
        (v2(tmp_path, cgroupfs(POD)) / "cgroup.events").write_text(events)
        leases, problems = Cgroups(str(tmp_path)).read([UID, OTHER], {POD: UID})
        assert leases == {OTHER: GONE}
        assert problems == ("leases: whether 1 of them have processes left cannot be read",)

    def test_nor_is_one_whose_files_may_not_be_read(self, tmp_path, monkeypatch):
        v1(tmp_path, "", procs="")
        v1(tmp_path, cgroupfs(POD), procs="")
        v1(tmp_path, f"{cgroupfs(POD)}/container", procs="")
        read = module._read

        def refuse(path):
            if path.endswith("container/cgroup.procs"):
                raise PermissionError(errno.EACCES, "refused", path)
            return read(path)

        monkeypatch.setattr(module, "_read", refuse)
        leases, problems = Cgroups(str(tmp_path)).read([UID], {POD: UID})
        assert (leases, len(problems)) == ({}, 1)

    def test_pods_of_leases_nobody_asked_about_are_passed_over(self, tmp_path):
        v2(tmp_path, cgroupfs(POD))
        assert Cgroups(str(tmp_path)).read([UID], {POD: OTHER}).leases == {UID: GONE}


def refusing(scandir, name):
    """Return a scandir to which one directory is closed, which root would open all the same."""

    def refuse(path):
        if path.endswith(f"/{name}"):
            raise PermissionError(errno.EACCES, "refused", path)
        return scandir(path)

    return refuse


@pytest.fixture(params=["leasehold-", "pod"])
def real_cgroup(request):
    """A cgroup of a lease, or of a pod, made for real, with a process that burns CPU and holds 50 MiB."""
    uid = str(uuid.uuid4())
    roots = [tree.root for tree in trees_under(module.CGROUP_ROOT)]
    made = [Path(root, f"{request.param}{uid}") for root in roots]
    try:
        for folder in made:
            folder.mkdir()
    except OSError as error:
        pytest.skip(f"cgroups cannot be made here ({error}): attribution was checked on made-up trees only")
    if not made:
        pytest.skip("no cgroups are mounted here: attribution was checked on made-up trees only")
    code = "block = bytearray(50 << 20)\nprint(flush=True)\nwhile True: pass"
    burner = subprocess.Popen(
        [sys.executable, "-c", f"input()\n{code}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        for folder in made:
            (folder / "cgroup.procs").write_text(f"{burner.pid}\n")
        burner.stdin.write(b"\n")
        burner.stdin.flush()
        burner.stdout.readline()
        yield uid if request.param == "leasehold-" else LEASE, {uid: LEASE}, burner
    finally:
        burner.kill()
        burner.wait()
        burner.stdin.close()
        burner.stdout.close()
        for folder in made:
            _remove(folder)


def _remove(folder):
    deadline = time.monotonic() + 5
    while folder.exists() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # the kernel needs a moment to let the last process go
            folder.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="making cgroups needs root: checked on made-up trees only")
def test_a_real_lease_is_seen_measured_and_seen_to_go(real_cgroup):
    uid, pods, burner = real_cgroup
    cgroups = Cgroups()

    def seen():
        return cgroups.read([uid], pods).leases[uid]

    begun, before = time.monotonic(), seen()
    assert before.present
    deadline = time.monotonic() + 20
    while seen().cpu_seconds - before.cpu_seconds < 0.2 and time.monotonic() < deadline:
        pass
    after, elapsed = seen(), time.monotonic() - begun
    assert 0.2 <= after.cpu_seconds - before.cpu_seconds <= elapsed + 0.1
    assert 50 << 20 <= after.memory <= 120 << 20
    burner.kill()
    burner.wait()
    deadline = time.monotonic() + 5
    while seen().present and time.monotonic() < deadline:
        pass
    assert seen() == GONE
