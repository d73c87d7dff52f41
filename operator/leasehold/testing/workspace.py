"""Private directories that are removed even when their owner could not do it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from leasehold.testing.kubeconfig import write_private
from leasehold.testing.processes import ProcessIdentity

_PREFIX = "leasehold-cp-"
_OWNER = "owner.json"


def make() -> Path:
    """Make a directory for this process that nobody else can enter, and clear away those of dead processes."""
    remove_abandoned()
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    owner = ProcessIdentity.of(os.getpid())
    if owner is not None:
        write_private(directory / _OWNER, json.dumps([owner.pid, owner.started]))
    return directory


def remove(directory: Path) -> None:
    """Remove a directory made here with all that is in it."""
    shutil.rmtree(directory, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the directories whose owner was killed before it could."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):  # not finished, not ours, or gone meanwhile
            pid, started = json.loads((directory / _OWNER).read_text())
            ours = directory.lstat().st_uid == os.getuid()
            if ours and not ProcessIdentity(pid, started).alive():
                remove(directory)
