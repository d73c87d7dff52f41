"""What a host needs for a real node: what it lacks is named, and Debian's packages are installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.testing.programs import script

from leasehold.testing import _node_keeper as keeper
from leasehold.testing import node_host, toolchain
from leasehold.testing.errors import NodeUnavailableError
from leasehold.testing.real_node import RealNode

PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "ip", "openssl")
TOOLS = ("nsenter", "setpriv", "unshare")
PLUGINS = ("bridge", "host-local", "loopback")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of which all is well, made of files; returns the directory that is its PATH."""
    path = tmp_path / "path"
    for name in (*PROGRAMS, *TOOLS):
        script(path, name)
    for name in PLUGINS:
        script(tmp_path / "plugins", name)
    for name in node_host.BINARIES:
        script(tmp_path / "binaries", name)
    (tmp_path / "cgroup").mkdir()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv("LEASEHOLD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(keeper, "hierarchies", lambda: [tmp_path / "cgroup"])
    monkeypatch.setattr(node_host, "_SYSTEM_PATH", ())
    monkeypatch.setattr(node_host, "_KERNEL_LOG", tmp_path)
    monkeypatch.setattr(node_host, "PLUGIN_DIRECTORIES", (tmp_path / "plugins",))
    monkeypatch.setattr(toolchain, "cache_directory", lambda module, env: tmp_path / "binaries")
    return path


def test_a_node_can_run_where_nothing_is_missing(host: Path) -> None:
    assert RealNode.unavailable() is None


def test_it_needs_linux(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert RealNode.unavailable() == "a real node needs Linux, and this is darwin"


def test_it_needs_root(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    reason = RealNode.unavailable() or ""
    assert reason.startswith("a real node needs root")
    with pytest.raises(NodeUnavailableError, match="needs root"):
        RealNode().start()


def test_it_needs_cgroups_that_can_be_written(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "hierarchies", list)
    assert "none are mounted" in (RealNode.unavailable() or "")
    monkeypatch.setattr(keeper, "hierarchies", lambda: [Path("/proc/self")])
    assert "a real node needs to make cgroups: " in (RealNode.unavailable() or "")


def test_with_version_2_of_cgroups_the_controllers_are_handed_down(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cgroup"
    monkeypatch.setattr(keeper, "_CGROUPS", root)
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma")
    handed_down = root / "cgroup.subtree_control"
    handed_down.write_text("cpuset cpu io memory")
    assert RealNode.unavailable() is None
    assert handed_down.read_text() == "+pids"  # the only one that was wanted and missing
    assert not list(root.glob("leasehold-*"))

    handed_down.unlink()
    handed_down.symlink_to("/proc/version")  # as in a container without rights over its cgroups
    assert "a real node needs to make cgroups: " in (RealNode.unavailable() or "")


def test_it_needs_the_kernels_log(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_host, "_KERNEL_LOG", host / "absent")
    assert "a kubelet reads there" in (RealNode.unavailable() or "")


def test_it_needs_namespaces(host: Path) -> None:
    script(host, "unshare", "echo 'unshare: Operation not permitted' >&2; exit 1")
    assert RealNode.unavailable() == "a real node needs namespaces: unshare: Operation not permitted"


def test_without_apt_the_missing_programs_are_named_with_their_packages(host: Path) -> None:
    (host / "runc").unlink()
    reason = RealNode.unavailable() or ""
    assert reason == "a real node needs runc: install them (Debian's packages are runc)"
    script(host, "apt-get")
    assert RealNode.unavailable() is None  # it will be installed


def test_without_go_the_missing_binaries_are_named(host: Path, tmp_path: Path) -> None:
    (tmp_path / "binaries" / "kubelet").unlink()
    assert "needs kubelet, and no Go is there to build them" in (RealNode.unavailable() or "")
    script(host, "go")
    assert RealNode.unavailable() is None  # it will be built


def test_missing_packages_are_installed_with_nothing_removed_and_nothing_started(
    host: Path, tmp_path: Path
) -> None:
    (host / "runc").unlink()
    (tmp_path / "plugins" / "bridge").unlink()
    repair = f"cp {host}/ctr {host}/runc; cp {host}/ctr {tmp_path}/plugins/bridge"
    calls = tmp_path / "calls"
    script(host, "apt-get", f"PATH=/usr/bin:/bin; echo $SYSTEMD_OFFLINE $* >> {calls}; {repair}")
    said: list[str] = []
    node_host.install(said.append)
    (call,) = calls.read_text().splitlines()
    assert call.startswith("1 install ")
    assert call.endswith("--no-install-recommends --no-remove --no-upgrade containernetworking-plugins runc")
    assert said[0] == "leasehold: installing containernetworking-plugins, runc with apt-get, for a real node"
    node_host.install(said.append)
    assert len(said) == 2  # nothing to do any more


def test_old_package_lists_are_made_new(host: Path, tmp_path: Path) -> None:
    (host / "runc").unlink()
    updated = tmp_path / "updated"
    body = (
        f"PATH=/usr/bin:/bin; [ $1 = update ] && {{ touch {updated}; exit 0; }}\n"
        f"[ -e {updated} ] || {{ echo no such package; exit 100; }}\n"
        f"cp {host}/ctr {host}/runc"
    )
    script(host, "apt-get", body)
    said: list[str] = []
    node_host.install(said.append)
    assert "leasehold: once more, with new package lists" in said


def test_a_failed_installation_tells_what_apt_said(host: Path) -> None:
    (host / "runc").unlink()
    script(host, "apt-get", "echo Unable to locate package runc; exit 100")
    with pytest.raises(NodeUnavailableError, match="Unable to locate package runc"):
        node_host.install(lambda line: None)
    script(host, "apt-get")
    with pytest.raises(NodeUnavailableError, match="installed, and still not there: runc"):
        node_host.install(lambda line: None)
