"""Processes that end with their parent, and ids that cannot be mistaken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from leasehold.testing import processes
from leasehold.testing.processes import Child, ProcessIdentity, wait_until

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def child(tmp_path: Path, *command: str) -> Child:
    return Child(command or ("/bin/sleep", "60"), log=tmp_path / "log", cwd=tmp_path)


def test_runs_the_program_itself_with_its_own_id(tmp_path: Path) -> None:
    sleeper = child(tmp_path)
    became = wait_until(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n", 5)
    sleeper.stop(5)
    assert became
    assert sleeper.returncode() == -signal.SIGTERM
    assert not sleeper.running()


def test_a_program_that_does_not_exist_is_told_in_the_log(tmp_path: Path) -> None:
    missing = child(tmp_path, "/no/such/program")
    assert wait_until(lambda: not missing.running(), 5)
    missing.stop(0)
    assert missing.returncode() == 1
    assert "No such file" in missing.log_tail()


def test_a_program_may_be_run_by_another_and_inherit_a_file(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as said:
        greet = f"import os, time; os.write({writing}, os.environb[b'GREETING']); time.sleep(60)"
        prefix = ["/usr/bin/env", "GREETING=hello\n"]
        child = Child(
            [sys.executable, "-c", greet],
            log=tmp_path / "log",
            cwd=tmp_path,
            prefix=prefix,
            pass_fds=[writing],
            name="greeter",
        )
        os.close(writing)
        assert said.readline() == "hello\n"
    assert child.name == "greeter"
    child.stop(5)
    assert child.returncode() == -signal.SIGTERM


def test_one_that_ignores_the_request_is_killed_after_the_grace(tmp_path: Path) -> None:
    deaf = child(tmp_path, sys.executable, "-c", DEAF)
    assert wait_until(lambda: "deaf" in deaf.log_tail(), 10)
    begun = time.monotonic()
    deaf.stop(0.3)
    assert deaf.returncode() == -signal.SIGKILL
    assert 0.3 <= time.monotonic() - begun < 5


def test_a_paused_one_is_stopped_too(tmp_path: Path) -> None:
    paused = child(tmp_path)
    paused.signal(signal.SIGSTOP)
    paused.stop(5)
    assert paused.returncode() == -signal.SIGTERM


def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    sleeper = child(tmp_path)
    sleeper.stop(5)
    sleeper.stop(5)
    sleeper.kill()


def test_what_runs_is_known_until_it_is_stopped(tmp_path: Path) -> None:
    sleeper = child(tmp_path)
    assert sleeper in processes.still_running()
    sleeper.stop(5)
    assert sleeper not in processes.still_running()


def test_lives_on_when_its_starting_thread_ends(tmp_path: Path) -> None:
    started: list[Child] = []
    thread = threading.Thread(target=lambda: started.append(child(tmp_path)))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert started[0].running()
    started[0].stop(5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_dies_with_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import time\nfrom pathlib import Path\nfrom leasehold.testing.processes import Child\n"
        f"directory = Path({str(tmp_path)!r})\n"
        "print(Child(['/bin/sleep', '600'], log=directory / 'log', cwd=directory).pid, flush=True)\n"
        # A signal that comes just before a sleep begins is looked at when that is over.
        "while True:\n    time.sleep(0.1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        sleeper = ProcessIdentity.of(int(parent.stdout.readline()))
        assert sleeper is not None
        parent.send_signal(number)
    assert wait_until(lambda: not sleeper.alive(), 5)


def test_an_id_used_again_is_another_process() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    assert me.alive()
    stranger = ProcessIdentity(me.pid, "1")
    assert not stranger.alive()
    stranger.signal(signal.SIGKILL)  # had it been sent, this test would not end
    stranger.end(0)


def test_a_zombie_counts_as_gone() -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        assert wait_until(lambda: ProcessIdentity.of(ended.pid) is None, 5)


def test_ends_a_process_that_is_not_a_child_of_ours() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as other:
        identity = ProcessIdentity.of(other.pid)
        assert identity is not None
        identity.end(5)
        assert other.wait() == -signal.SIGTERM
