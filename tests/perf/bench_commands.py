"""How long a command takes that somebody waits for, beside kubectl on the same server in the same run.

What is installed is tried: a wheel in an environment of its own, with its bytecode, as people have it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.perf.figures import Figure, percentile, spread

from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane

ROOT = Path(__file__).resolve().parents[2]
FEW, MANY = 20, 2000


def run(*, quick: bool, control_plane: ControlPlane) -> Iterator[Figure]:
    """Time both, turn by turn, so that both meet the same machine."""
    rounds = 10 if quick else 40
    kubectl = control_plane.program("kubectl")
    with tempfile.TemporaryDirectory() as scratch, Client(control_plane.connection) as client:
        ours = _installed(Path(scratch))
        env = {**os.environ, "KUBECONFIG": str(control_plane.kubeconfig)}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        _fill(client, "cold-few", FEW)
        _fill(client, "cold-many", 200 if quick else MANY)
        for name, mine, theirs, target in (
            ("get --help", [str(ours), "get", "--help"], [str(kubectl), "get", "--help"], "< 150 ms"),
            (
                f"get, {FEW} leases",
                [str(ours), "get", "-n", "cold-few"],
                [str(kubectl), "get", "capacityleases", "-n", "cold-few"],
                "< 300 ms",
            ),
            (
                f"get, {200 if quick else MANY} leases",
                [str(ours), "get", "-n", "cold-many"],
                [str(kubectl), "get", "capacityleases", "-n", "cold-many"],
                "",
            ),
        ):
            yield from _compared(name, mine, theirs, env, rounds, target)


def _compared(
    name: str, mine: list[str], theirs: list[str], env: dict[str, str], rounds: int, target: str
) -> Iterator[Figure]:
    _timed(mine, env)  # the first has no bytecode yet
    _timed(theirs, env)
    ours, other = [], []
    for _ in range(rounds):
        ours.append(_timed(mine, env))
        other.append(_timed(theirs, env))
    yield Figure(
        f"{name}: leasehold to kubectl",
        percentile(ours, 50) / percentile(other, 50),
        "x",
        note="medians of wall time",
    )
    yield from spread(f"leasehold {name}", ours, "ms", target)
    yield from spread(f"kubectl {name}", other, "ms")


def _timed(command: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def _installed(scratch: Path) -> Path:
    """Install a wheel of what is here; return the command."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(scratch)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = scratch.glob("*.whl")
    venv = scratch / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run(
        [
            *(str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            f"leasehold[cli] @ {wheel.as_uri()}",
        ],
        check=True,
    )
    return venv / "bin" / "leasehold"


def _fill(client: Client, namespace: str, count: int) -> None:
    """Make leases that nobody grants: no operator runs here."""
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for number in range(count):
        client.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityLease",
                "metadata": {"name": f"lease-{number:05d}", "namespace": namespace},
                "spec": {"poolRef": {"name": "none"}, "resources": {"cpu": "1"}},
            }
        )
