"""What cannot run on a machine is said aloud at the end, or fails where it is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# One test that needs a real node, seen by a user who is not root.
AS_A_USER = """
import os, sys
os.geteuid = lambda: 1000
import pytest
sys.exit(pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[1:]]))
"""
REASON = "a real node needs root: it makes namespaces, mounts and cgroups"


def run_as_a_user(test: str, **env: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name != "LEASEHOLD_REQUIRE_REAL_NODE"}
    return subprocess.run(
        [sys.executable, "-c", AS_A_USER, test],
        cwd=ROOT,
        env={**plain, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="another reason is given elsewhere")
def test_tests_that_need_a_real_node_are_listed_where_none_can_run() -> None:
    test = "tests/testing/test_real_node.py::test_a_node_that_cannot_start_says_why_and_leaves_nothing"
    ran = run_as_a_user(test)
    assert ran.returncode == 0
    assert "= not run =" in ran.stdout
    assert f"\n1 tests NOT RUN here: {REASON}\n" in ran.stdout

    required = run_as_a_user(test, LEASEHOLD_REQUIRE_REAL_NODE="1")
    assert required.returncode == 1
    assert f"NodeUnavailableError: {REASON}" in required.stdout
