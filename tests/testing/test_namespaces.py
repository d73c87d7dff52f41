"""Whose node it was is told by its name, so that those of dead processes can be cleared away."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.testing.traces import Traces

from leasehold.testing import _node_keeper as keeper
from leasehold.testing import namespaces
from leasehold.testing.errors import SetupError, StartError
from leasehold.testing.namespaces import Namespaces
from leasehold.testing.processes import ProcessIdentity


def test_a_name_tells_its_owner() -> None:
    assert keeper.owner_of(keeper.name_for(12, "3456", "ab-cd")) == (12, "3456")
    for other in (
        "leasehold-node-",
        "leasehold-node-x-1-a",
        "leasehold-node-12-3456",
        "leasehold-cp-1-2-a",
        "user.slice",
    ):
        assert keeper.owner_of(other) is None


def test_only_what_dead_processes_own_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(keeper, "hierarchies", lambda: [tmp_path / "v1", tmp_path / "v2"])
    alive, dead = keeper.name_for(me.pid, me.started, "a"), keeper.name_for(me.pid, "1", "b")
    for name in (alive, dead, "user.slice", "leasehold-node-notes"):
        for root in ("tmp", "v1", "v2"):
            (tmp_path / root / name / "kubepods" / "pod1").mkdir(parents=True)
    (tmp_path / "tmp" / dead / "log").touch()
    namespaces.remove_abandoned()
    for root in ("tmp", "v1", "v2"):
        assert sorted(place.name for place in (tmp_path / root).iterdir()) == sorted(
            [alive, "leasehold-node-notes", "user.slice"]
        )


def test_a_directory_that_is_too_long_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 60)))
    with pytest.raises(SetupError, match="set TMPDIR to a shorter path"):
        Namespaces()


@pytest.mark.real_node
def test_what_runs_within_sees_a_network_and_processes_of_its_own_and_ends_with_it() -> None:
    within = Namespaces().start()
    try:
        shown = subprocess.run(
            [*within.within(), "sh", "-c", "sleep 600 >/dev/null 2>&1 & ps -o pid= -e; ip -o link; pwd"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        traces = Traces.of(within.name, within.pid, [])
    finally:
        within.stop()
    assert shown
    assert len(traces.processes) >= 3  # the keeper, the first process, and the sleeper that nobody waits for
    assert traces.left() == []


@pytest.mark.real_node
def test_the_keeper_clears_up_after_an_owner_that_fell_silent() -> None:
    """A dying process closes its pipes before it is seen dead, and what it started may still be writing."""
    spaces = Namespaces().start()
    assert spaces._keeper is not None
    assert spaces._keeper.stdin is not None
    writer = (
        "i=0; while [ $i -lt 2000 ]; do mkdir -p d$i && touch d$i/f 2>/dev/null || exit; i=$((i+1)); done"
    )
    with subprocess.Popen(["sh", "-c", writer], cwd=spaces.directory, stderr=subprocess.DEVNULL):
        spaces._keeper.stdin.close()
        spaces._keeper.stdin = None
        assert spaces._keeper.wait(20) == 0
    assert not spaces.directory.exists()
    assert Traces(spaces.name, frozenset(), frozenset()).left() == []
    spaces.stop()


@pytest.mark.real_node
def test_a_keeper_that_was_killed_leaves_its_work_to_stop() -> None:
    spaces = Namespaces().start()
    traces = Traces.of(spaces.name, spaces.pid, [])
    assert spaces._keeper is not None
    spaces._keeper.kill()
    spaces.stop()
    assert traces.left() == []


@pytest.mark.real_node
def test_what_goes_wrong_while_they_are_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = Namespaces()
    (spaces.directory / "stage").write_text("in the way")
    with pytest.raises(StartError, match="stage"):
        spaces.start()
    assert Traces(spaces.name, frozenset(), frozenset()).left() == []
