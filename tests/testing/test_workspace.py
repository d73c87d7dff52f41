"""Private directories, and those that a killed process left."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from leasehold.testing import workspace
from leasehold.testing.processes import ProcessIdentity


def test_is_for_its_owner_alone_until_it_is_removed() -> None:
    directory = workspace.make()
    assert directory.stat().st_mode & 0o077 == 0
    workspace.remove_abandoned()
    assert directory.is_dir()
    workspace.remove(directory)
    assert not directory.exists()


def test_only_abandoned_directories_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    owners = {"alive": [me.pid, me.started], "dead": [me.pid, "1"], "broken": "?"}
    for name, owner in owners.items():
        (tmp_path / f"leasehold-cp-{name}").mkdir()
        (tmp_path / f"leasehold-cp-{name}" / "owner.json").write_text(json.dumps(owner))
    (tmp_path / "leasehold-cp-new").mkdir()
    (tmp_path / "other").mkdir()
    workspace.remove_abandoned()
    left = sorted(path.name.removeprefix("leasehold-cp-") for path in tmp_path.iterdir())
    assert left == ["alive", "broken", "new", "other"]
