"""Finding the cgroups of leases and what they use: in made-up trees of both versions, and in real ones."""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import MappingProxyType

import pytest

from leasehold.adapters import cgroups as module
from leasehold.adapters.cgroups import Cgroups, owner_of, search, trees_under
from leasehold.core.reporting import LeaseUse

UID = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
OTHER = "11111111-2222-3333-4444-555555555555"


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


def v1(root, path, *, procs="12\n", nanoseconds=0, memory=0, idle=0):
    """Make a version 1 cgroup in both hierarchies."""
    for tree, files in (
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
    OWNERS = MappingProxyType({UID: UID, OTHER: OTHER})

    @pytest.mark.parametrize(
        "name",
        [
            UID,
            f"leasehold-{UID}",
            f"leasehold-{UID}.scope",
            f"cri-leasehold-{UID}-web.scope",
            f"kubepods-leasehold-{UID.replace('-', '_')}.slice",
            f"{UID.replace('-', '_')}.slice",
        ],
    )
    def test_these_belong_to_the_lease(self, name):
        assert owner_of(name, self.OWNERS, [36]) == UID

    @pytest.mark.parametrize(
        "name", [f"pod{UID}", f"leasehold-{UID}0", "leasehold-", "leasehold", "system.slice"]
    )
    def test_these_do_not(self, name):
        assert owner_of(name, self.OWNERS, [36]) is None

    def test_a_uid_that_begins_another_is_not_taken_for_it(self):
        owners = {"a-1": "a_1", "a-1-2": "a-1-2"}
        assert owner_of("leasehold-a-1x", owners, [3, 5]) is None
        assert owner_of("leasehold-a_1.scope", owners, [3, 5]) == "a_1"


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
        monkeypatch.setattr(module, "search", lambda trees, asked: search(trees, asked, budget=1))
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


@pytest.fixture
def real_cgroup():
    """A cgroup of a lease, made for real, with a process that burns CPU and holds 50 MiB."""
    uid = str(uuid.uuid4())
    roots = [tree.root for tree in trees_under(module.CGROUP_ROOT)]
    made = [Path(root, f"leasehold-{uid}") for root in roots]
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
        yield uid, burner
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
    uid, burner = real_cgroup
    cgroups = Cgroups()
    begun, before = time.monotonic(), cgroups.read([uid]).leases[uid]
    assert before.present
    deadline = time.monotonic() + 20
    while (
        cgroups.read([uid]).leases[uid].cpu_seconds - before.cpu_seconds < 0.2 and time.monotonic() < deadline
    ):
        pass
    after, elapsed = cgroups.read([uid]).leases[uid], time.monotonic() - begun
    assert 0.2 <= after.cpu_seconds - before.cpu_seconds <= elapsed + 0.1
    assert 50 << 20 <= after.memory <= 120 << 20
    burner.kill()
    burner.wait()
    deadline = time.monotonic() + 5
    while cgroups.read([uid]).leases[uid].present and time.monotonic() < deadline:
        pass
    assert cgroups.read([uid]).leases[uid] == LeaseUse(False, 0.0, 0)
