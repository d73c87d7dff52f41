"""The pytest plugin as its users meet it: pytest run on a file of theirs, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDS_ONE = "def test_it(control_plane):\n    assert control_plane.url\n"

LEAVES_A_PROCESS = """
from leasehold.testing.processes import Child

def test_it(tmp_path):
    Child(["/bin/sleep", "60"], log=tmp_path / "log", cwd=tmp_path)
"""


def run(directory: Path, text: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_theirs.py").write_text(text)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", directory, *options],
        cwd=directory,
        env={**plain, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def nothing_to_be_had(directory: Path) -> dict[str, str]:
    unset = dict.fromkeys(("KUBEBUILDER_ASSETS", "LEASEHOLD_KUBECONFIG"), "")
    return {"PATH": str(directory), "LEASEHOLD_CACHE_DIR": str(directory / "cache"), **unset}


def test_without_any_control_plane_tests_fail_with_advice_and_are_not_skipped(tmp_path: Path) -> None:
    ran = run(tmp_path, NEEDS_ONE, **nothing_to_be_had(tmp_path))
    assert ran.returncode == 1
    assert "No Kubernetes API server can be had here" in ran.stdout
    assert "install Go" in ran.stdout
    assert "Traceback" not in ran.stdout
    assert "skipped" not in ran.stdout


def test_the_option_names_a_cluster(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    ran = run(tmp_path, NEEDS_ONE, "--leasehold-kubeconfig", str(missing), **nothing_to_be_had(tmp_path))
    assert ran.returncode == 1
    assert f"The kubeconfig {missing} (argument) does not exist" in ran.stdout


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_process_left_behind_fails_the_session(tmp_path: Path, workers: str) -> None:
    ran = run(tmp_path, LEAVES_A_PROCESS, "-n", workers)
    assert ran.returncode == 1
    assert "never stopped: sleep (pid " in ran.stdout


def test_progress_shows_although_output_is_captured(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    go.chmod(0o755)
    ran = run(tmp_path, NEEDS_ONE, **nothing_to_be_had(tmp_path))
    assert "leasehold: building etcd" in ran.stderr
    assert "broken" in ran.stdout


def test_a_session_that_needs_no_server_starts_none(tmp_path: Path) -> None:
    ran = run(tmp_path, "def test_it():\n    pass\n", **nothing_to_be_had(tmp_path))
    assert ran.returncode == 0


@pytest.mark.cluster
def test_a_namespace_is_fresh_and_goes_away(tmp_path: Path, control_plane: object) -> None:
    text = (
        "def test_it(kube, namespace):\n"
        "    lease = {'apiVersion': 'coordination.k8s.io/v1', 'kind': 'Lease', 'spec': {},\n"
        "             'metadata': {'name': 'a', 'namespace': namespace, 'finalizers': ['example.com/never']}}\n"
        "    kube.create(lease)\n"
        "    assert kube.get('serviceaccounts', 'default', namespace)\n"
        "    print('made', namespace)\n"
    )
    kubeconfig = str(control_plane.kubeconfig)  # type: ignore[attr-defined]
    ran = run(tmp_path, text, "--leasehold-kubeconfig", kubeconfig, "-s")
    assert ran.returncode == 0, ran.stdout
    namespace = ran.stdout.partition("made ")[2].split()[0]
    with control_plane.client() as client:  # type: ignore[attr-defined]
        assert client.list("leases.coordination.k8s.io", namespace) == []
        left = client.find("namespaces", namespace)
        assert left is None or left["status"]["phase"] == "Terminating"
