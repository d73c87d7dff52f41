"""The second process that ends a command when the first one no longer can: real processes, really killed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from leasehold.testing.processes import wait_until

OWNER = """
import os, subprocess, sys, time
from leasehold.cli.watchdog import Watchdog, now
with Watchdog(kill_after={kill_after}) as watchdog:
    command = subprocess.Popen(["sh", "-c", {script!r}], process_group=0)
    watchdog.watch(command.pid, {until})
    print(command.pid, watchdog._pid, flush=True)
    {then}
"""

STUBBORN = "trap 'echo told > told' TERM; echo > ready; while :; do sleep 0.02; done"


def there(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


@pytest.fixture
def owner(tmp_path):
    """Starts a process that owns a watchdog; returns it, its command's and its watchdog's process ids."""
    started = []

    def start(*, until="None", then="time.sleep(60)", kill_after=1.0, script=STUBBORN):
        code = OWNER.format(until=until, then=then, kill_after=kill_after, script=script)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        command, watchdog = map(int, process.stdout.readline().split())
        started.append((process, command, watchdog))
        assert wait_until((tmp_path / "ready").exists, 30)
        return process, command, watchdog

    yield start
    for process, command, watchdog in started:
        process.kill()
        process.wait()
        process.stdout.close()
        assert wait_until(lambda pid=watchdog: not there(pid), 40), "no watchdog is left behind"
        if there(command):
            os.killpg(command, signal.SIGKILL)


def test_when_its_owner_is_killed_it_ends_the_command_politely_first(owner, tmp_path):
    process, command, _ = owner(kill_after=2)
    process.kill()
    assert wait_until(lambda: not there(command), 30)
    assert (tmp_path / "told").exists()


def test_at_the_time_it_was_told_it_ends_the_command_though_its_owner_is_stopped(owner):
    process, command, _ = owner(until="now() + 1.0")
    process.send_signal(signal.SIGSTOP)
    assert wait_until(lambda: not there(command), 30)


def test_a_later_time_stands_in_for_an_earlier_one(owner, tmp_path):
    then = "time.sleep(0.1); watchdog.watch(command.pid, None); open('later', 'w').close(); time.sleep(60)"
    _, command, _ = owner(until="now() + 2.0", then=then)
    assert wait_until((tmp_path / "later").exists, 30)
    assert not wait_until(lambda: not there(command), 3), "it goes on for as long as nothing ends the lease"


def test_when_nothing_is_to_be_watched_any_more_it_goes_and_ends_nothing(owner):
    process, command, watchdog = owner(then="watchdog.watch(0, None)")
    assert process.wait(30) == 0
    assert wait_until(lambda: not there(watchdog), 30)
    assert there(command)


def test_what_ends_a_terminal_does_not_end_it(owner):
    _, command, watchdog = owner()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(watchdog, number)
    assert there(watchdog)
    assert there(command)


def test_without_it_its_owner_goes_on(owner, tmp_path):
    then = (
        "os.kill(watchdog._pid, 9); time.sleep(0.2); watchdog.watch(command.pid, 1.0);"
        " command.kill(); command.wait(); open('done', 'w').close()"
    )
    process, _, _ = owner(then=then)
    assert process.wait(30) == 0
    assert (tmp_path / "done").exists()


def test_a_command_that_tells_of_itself_is_watched_whenever_its_owner_is_killed(tmp_path):
    """As `acquire` starts its command: there is no moment at which it runs and nobody would end it."""
    code = """
    import os, signal, subprocess
    from leasehold.cli.watchdog import Watchdog
    with Watchdog(kill_after=0.2) as watchdog:
        def last_words():
            watchdog.watch(os.getpid(), None)
            open("pid", "w").write(str(os.getpid()))
            os.kill(os.getppid(), signal.SIGKILL)
        subprocess.Popen(["sleep", "600"], process_group=0, preexec_fn=last_words)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=False)
    assert ended.returncode == -signal.SIGKILL
    pid = int((tmp_path / "pid").read_text())
    assert wait_until(lambda: not there(pid), 30)


def test_one_that_is_stopped_holds_nobody_up(owner):
    then = """
    import signal
    os.kill(watchdog._pid, signal.SIGSTOP)
    for _ in range(100_000):
        watchdog.watch(command.pid, None)
    os.kill(watchdog._pid, signal.SIGCONT)
    command.kill()
    """
    process, _, watchdog = owner(then=textwrap.indent(textwrap.dedent(then), "    ").strip())
    try:
        assert process.wait(20) == 0
    finally:
        if there(watchdog):
            os.kill(watchdog, signal.SIGCONT)
