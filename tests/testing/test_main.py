"""`python -m leasehold.testing`, run as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leasehold.testing.client import Client
from leasehold.testing.kubeconfig import Connection
from leasehold.testing.processes import ProcessIdentity, wait_until

PLAIN = {name: value for name, value in os.environ.items() if name != "LEASEHOLD_KUBECONFIG"}


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leasehold.testing", *arguments, "--dir", str(directory / "run")],
        cwd=directory,
        env=PLAIN,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def state(directory: Path) -> dict[str, ProcessIdentity]:
    found = json.loads((directory / "run" / "control-plane.json").read_text())
    supervisor = ProcessIdentity(**found["supervisor"])
    return {
        "supervisor": supervisor,
        **{name: ProcessIdentity(**entry) for name, entry in found["processes"].items()},
    }


@pytest.mark.cluster
def test_up_then_down(tmp_path: Path) -> None:
    up = run(tmp_path, "up")
    assert up.returncode == 0, up.stderr
    try:
        assert up.stdout.startswith("up in ")
        processes = state(tmp_path)
        assert set(processes) == {"supervisor", "etcd", "kube-apiserver"}
        assert all(process.alive() for process in processes.values())
        kubeconfig = tmp_path / "run" / "kubeconfig"
        assert kubeconfig.stat().st_mode & 0o777 == 0o600
        with Client(Connection.read(kubeconfig)) as client:
            assert client.get("namespaces", "default")

        again = run(tmp_path, "up")
        assert again.returncode == 0
        assert again.stdout.startswith("up already: https://127.0.0.1:")
        assert state(tmp_path) == processes
        shown = run(tmp_path, "status")
        assert shown.returncode == 0
        assert f"etcd: pid {processes['etcd'].pid}" in shown.stdout
        assert f"export KUBECONFIG={kubeconfig} " in run(tmp_path, "env").stdout
    finally:
        down = run(tmp_path, "down")
    assert down.returncode == 0
    assert down.stdout.startswith("down: https://")
    assert not any(process.alive() for process in processes.values())
    assert not kubeconfig.exists()


@pytest.mark.cluster
def test_nothing_stays_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    assert run(tmp_path, "up").returncode == 0
    processes = state(tmp_path)
    processes["supervisor"].signal(signal.SIGKILL)
    assert wait_until(lambda: not any(process.alive() for process in processes.values()), 10)
    assert run(tmp_path, "status").returncode == 3
    assert run(tmp_path, "down").returncode == 0


@pytest.mark.cluster
@pytest.mark.real_node
def test_a_real_node_is_kept_until_down(tmp_path: Path) -> None:
    assert run(tmp_path, "build", "--with", "node").returncode == 0
    up = run(tmp_path, "up", "--with", "node,kubectl")
    assert up.returncode == 0, up.stderr
    try:
        processes = state(tmp_path)
        assert {"kubelet", "containerd", "kube-apiserver", "kube-scheduler"} < set(processes)
        with Client(Connection.read(tmp_path / "run" / "kubeconfig")) as client:
            (node,) = client.list("nodes")
        assert f"with the real node {node['metadata']['name']} in /" in run(tmp_path, "status").stdout
    finally:
        assert run(tmp_path, "down").returncode == 0
    assert not any(process.alive() for process in processes.values())


def test_down_never_touches_a_process_that_only_has_the_same_id(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        entry = {"pid": stranger.pid, "started": "1"}
        written = {"url": "https://x", "provider": "x", "supervisor": entry, "processes": {"etcd": entry}}
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "control-plane.json").write_text(json.dumps(written))
        assert run(tmp_path, "status").returncode == 3
        assert run(tmp_path, "down").returncode == 0
        assert stranger.poll() is None
        stranger.kill()
    assert not (tmp_path / "run" / "control-plane.json").exists()


def test_with_nothing_up_it_says_so(tmp_path: Path) -> None:
    for command, status in (("status", 3), ("env", 3), ("down", 0)):
        ran = run(tmp_path, command)
        assert ran.returncode == status
        assert "nothing is up in" in ran.stdout + ran.stderr


def test_an_unknown_extra_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    ran = run(tmp_path, "up", "--with", "scheduler,kubelet")
    assert ran.returncode == 2
    assert "kubelet: not one of scheduler, controller-manager, kwok, kubectl, helm, helm3, node" in ran.stderr


def test_an_error_is_one_message_and_no_traceback(tmp_path: Path) -> None:
    misled = {**PLAIN, "KUBEBUILDER_ASSETS": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-m", "leasehold.testing", "build"],
        cwd=tmp_path,
        env=misled,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("KUBEBUILDER_ASSETS=")
    assert "Traceback" not in ran.stderr
