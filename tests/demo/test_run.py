"""The demo as people run it, on real API servers."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from leasehold.api.names import LeaseReason as R
from leasehold.demo.background import Run
from leasehold.demo.checks import granted, waiting
from leasehold.demo.errors import NotAsExpected, NotWelcome, PartEnded
from leasehold.demo.examples import LABEL, NAMESPACE, staged
from leasehold.demo.play import play
from leasehold.demo.scene import Scene
from leasehold.demo.stage import LEASES, POOLS, Stage
from leasehold.demo.story import STORY, Chapter
from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.processes import wait_until

pytestmark = pytest.mark.cluster

DEMO = (sys.executable, "-m", "leasehold.demo")


@pytest.fixture
def somebodys() -> Iterator[ControlPlane]:
    """A cluster that runs already and knows nothing of Leasehold."""
    with ControlPlane(local=True) as control_plane:
        yield control_plane


def knows_leases(client: Client) -> bool:
    definition = "customresourcedefinitions.apiextensions.k8s.io"
    return client.find(definition, LEASES) is not None


def test_without_consent_nothing_is_written(somebodys: ControlPlane, tmp_path: Path) -> None:
    asked = subprocess.run(
        [*DEMO, "--kubeconfig", str(somebodys.kubeconfig), "--dir", str(tmp_path)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert asked.returncode == 1
    assert "Nothing was written" in asked.stdout
    with Client(somebodys.connection) as client:
        assert client.find("namespaces", NAMESPACE) is None
        assert not knows_leases(client)


def test_the_story_holds_and_leaves_nothing_on_somebodys_cluster(
    somebodys: ControlPlane, tmp_path: Path
) -> None:
    """The whole story in a short form, as a process, then what is left of it."""
    picture = tmp_path / "demo.svg"
    command = [*DEMO, "--kubeconfig", str(somebodys.kubeconfig), "--yes", "--dir", str(tmp_path)]
    played = subprocess.run(
        [*command, "--speed", "8", "--svg", str(picture)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert played.returncode == 0, played.stdout + played.stderr
    assert re.search(rf"Shown +{len(STORY)} chapters; 4\d expectations held", played.stdout), played.stdout
    assert re.search(r"Leases +14 granted, .* 3 released, 5 expired, 1 revoked", played.stdout)
    assert "0 before the deadline" in played.stdout
    assert "waits: WaitingForCapacity" in played.stdout
    assert "\x1b" not in played.stdout
    assert picture.read_text().startswith("<svg")
    with Client(somebodys.connection) as client:
        assert client.list("nodes") == []
        assert wait_until(lambda: not knows_leases(client), 30)
        namespace = client.find("namespaces", NAMESPACE)
        # Nothing empties a namespace where no controller-manager runs; it is on its way out.
        assert namespace is None or "deletionTimestamp" in namespace["metadata"]


def test_what_leasehold_is_used_for_is_left_alone(somebodys: ControlPlane, tmp_path: Path) -> None:
    somebodys.install_crds()
    with Client(somebodys.connection) as client:
        (pool,) = staged("02-pool.yaml")
        del pool["metadata"]["labels"]
        client.create(pool)
        stage = Stage(tmp_path, kubeconfig=somebodys.kubeconfig, say=lambda _: None, consent=lambda _: True)
        with pytest.raises(NotWelcome, match="would take them over"), stage:
            pass
        client.delete(POOLS, "lab")


def test_an_expectation_that_fails_fails_the_demo_and_a_dead_part_is_noticed(tmp_path: Path) -> None:
    def wrong(scene: Scene) -> None:
        scene.apply(staged("02-pool.yaml"))
        scene.apply(staged("03-builds.yaml", only=("build-1",)))
        scene.expect("clease/build-1", granted())
        scene.expect("clease/build-1", waiting(R.WAITING_FOR_CAPACITY), within=0.3)

    def gone(scene: Scene) -> None:
        scene.expect_gone("clease/build-1", within=0.3)

    console = Console(file=io.StringIO(), width=100)
    with Stage(tmp_path, say=lambda _: None) as stage:
        assert stage.place is not None
        with pytest.raises(NotAsExpected, match="expected to wait with the reason WaitingForCapacity"):
            play(stage.place, console, story=[Chapter("Wrong", wrong)], check=stage.check)
        with pytest.raises(NotAsExpected, match="expected to be gone"):
            play(stage.place, console, story=[Chapter("Wrong", gone)], check=stage.check)
        stage.parts["reporter"].stop()
        with pytest.raises(PartEnded, match="The reporter ended with status"):
            play(stage.place, console, story=[Chapter("Dead", gone)], check=stage.check)
        kubeconfig = Path(stage.place.kubeconfig)
    assert isinstance(console.file, io.StringIO)
    assert "FAILED: clease/build-1 was expected" in console.file.getvalue()
    assert not kubeconfig.exists()


def test_up_keeps_it_running_and_down_ends_just_that(tmp_path: Path) -> None:
    up = subprocess.run(
        [*DEMO, "--keep", "--no-story", "--dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert up.returncode == 0, up.stdout + up.stderr
    assert f"export KUBECONFIG={tmp_path}/kubeconfig" in up.stdout
    state = Run(tmp_path).read()
    assert state is not None
    assert {"etcd", "kube-apiserver", "operator", "reporter"} <= state.processes.keys()
    with state.place.client() as client:
        labelled = client.list("nodes", labelSelector=LABEL)
        assert len(labelled) == 9
    down = subprocess.run(
        [*DEMO, "--down", "--dir", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert down.returncode == 0, down.stdout + down.stderr
    assert not any(process.alive() for process in (state.supervisor, *state.processes.values()))
    assert Run(tmp_path).read() is None


def test_control_c_ends_everything(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*DEMO, "--dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert demo.stdout is not None
    try:
        for line in demo.stdout:
            if "granted on" in line:
                demo.send_signal(signal.SIGINT)
                break
        rest, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130, rest
    assert "everything the demo started has ended" in rest
    assert not (tmp_path / "kubeconfig").exists()
