"""Tests that share something dear run in one process, whatever else runs in others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TELL = """
import os
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(12))
def test_it(number):
    with Path(os.environ["TOLD"]).open("a") as told:
        told.write(f"{Path(__file__).parent.name} {os.environ['PYTEST_XDIST_WORKER']}\\n")
"""


def workers(directory: Path, *arguments: str) -> dict[str, set[str]]:
    """Run twelve tests in each of three directories by two processes, and return who ran which."""
    for name in ("cluster", "enforcement", "faults"):
        place = directory / "tests" / name
        place.mkdir(parents=True)
        (place / f"test_{name}.py").write_text(TELL)
    (directory / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    (directory / "conftest.py").write_text("from tests.conftest import pytest_xdist_make_scheduler\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TOLD": str(directory / "told")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "36 passed" in ran.stdout, ran.stdout + ran.stderr
    told = [line.split() for line in (directory / "told").read_text().splitlines()]
    assert len(told) == 36
    return {
        name: {worker for place, worker in told if place == name}
        for name in ("cluster", "enforcement", "faults")
    }


def test_all_of_a_directory_go_to_the_process_that_gets_the_first(tmp_path: Path) -> None:
    seen = workers(tmp_path)
    assert len(seen["enforcement"]) == 1
    assert len(seen["cluster"]) == 2


def test_another_way_of_dealing_is_left_alone(tmp_path: Path) -> None:
    assert [len(seen) for seen in workers(tmp_path, "--dist", "loadfile").values()] == [1, 1, 1]
