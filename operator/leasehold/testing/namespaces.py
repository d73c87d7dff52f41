"""Linux namespaces in which a node's processes, mounts and network live, and with which they vanish."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from leasehold.testing import _node_keeper as keeper
from leasehold.testing._node_init import API_ADDRESS, NODE_ADDRESS
from leasehold.testing.errors import SetupError, StartError
from leasehold.testing.processes import ProcessIdentity, wait_until

__all__ = ["API_ADDRESS", "NODE_ADDRESS", "Namespaces", "remove_abandoned"]

_KEEPER = Path(keeper.__file__)
_LONGEST = 72  # the path of a socket has at most 107 bytes, of which a kubelet adds 35
_SET_UP_SECONDS = 30.0
_STOP_SECONDS = 30.0


class Namespaces:
    """Mount, network and process namespaces, a cgroup of each kind, and a directory, all of one name.

    A keeper process holds them (`_node_keeper.py`): it clears up when told to and when this process dies.
    The root of the file system is the host's, but for what nodes would share: see `_node_init.py`.
    """

    def __init__(self) -> None:
        """Make the directory, and clear away those of dead processes. Raises SetupError."""
        remove_abandoned()
        me = ProcessIdentity.of(os.getpid())
        assert me is not None
        self.name = keeper.name_for(me.pid, me.started, secrets.token_hex(4))
        self.directory = Path(tempfile.gettempdir()).resolve() / self.name
        if len(str(self.directory)) > _LONGEST:
            raise SetupError(
                f"{self.directory} is too long for sockets below it: set TMPDIR to a shorter path"
            )
        self.directory.mkdir(mode=0o700)
        self.pid = 0
        self._first: ProcessIdentity | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Make them and return when programs can be started within. Raises StartError."""
        log = self.directory / "keeper.log"
        with log.open("wb") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), str(self.directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the tests
            )
        assert self._keeper.stdout is not None
        answered, _, _ = select.select([self._keeper.stdout], [], [], _SET_UP_SECONDS)
        said = self._keeper.stdout.readline() if answered else b""
        if not said:
            told = log.read_text(errors="replace").strip() or f"nothing was said in {_SET_UP_SECONDS:.0f} s"
            self.stop()
            raise StartError(f"The namespaces of a node could not be made:\n{told[-2000:]}")
        self.pid = int(said)
        self._first = ProcessIdentity.of(self.pid)
        return self

    def stop(self) -> None:
        """End all that runs within, and remove what is left. Safe to call again."""
        if self._keeper is not None:
            try:
                self._keeper.communicate(timeout=_STOP_SECONDS)  # closes its standard input, the sign to end
            except subprocess.TimeoutExpired:  # the kernel then ends what runs within
                self._keeper.kill()
                self._keeper.communicate()
            if self._keeper.returncode != 0:  # or it was killed by somebody else
                first = self._first
                wait_until(lambda: first is None or not first.alive(), _STOP_SECONDS)
                keeper.remove_cgroups(self.name)
            self._keeper = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def network(self) -> list[str]:
        """Return the beginning of a command that runs the rest in the network, else on the host."""
        return [_program("nsenter"), "--target", str(self.pid), "--net", "--"]

    def within(self) -> list[str]:
        """Return the beginning of a command that runs the rest within, and ends it when it ends itself."""
        enter = [_program("nsenter"), "--target", str(self.pid), "--mount", "--net", "--pid", "--"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", "--"]


def remove_abandoned() -> None:
    """Remove the cgroups and directories of nodes whose owner and keeper were both killed."""
    directories = Path(tempfile.gettempdir()).glob(f"{keeper.PREFIX}*")
    for name in {place.name for place in (*directories, *keeper.cgroups(keeper.PREFIX))}:
        owner = keeper.owner_of(name)
        if owner is not None and not ProcessIdentity(*owner).alive():
            keeper.remove_cgroups(name, timeout_seconds=1)
            directory = Path(tempfile.gettempdir(), name)
            if directory.is_dir() and directory.lstat().st_uid == os.getuid():
                shutil.rmtree(directory, ignore_errors=True)


def _program(name: str) -> str:
    return shutil.which(name) or f"/usr/bin/{name}"
