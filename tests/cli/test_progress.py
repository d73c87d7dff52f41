"""What a person at a terminal sees while something is waited for; and that nobody else sees anything."""

import os
import pty
from types import SimpleNamespace

import pytest

from leasehold.cli.output import terminal_width
from leasehold.cli.progress import Progress


def use(monkeypatch, stream):
    """Let the commands have this as standard error. Not all of us: pytest puts its own there between fixtures."""
    for module in ("progress", "options"):
        monkeypatch.setattr(f"leasehold.cli.{module}.sys", SimpleNamespace(stderr=stream))


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as standard error; call it to read what is on it."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        use(monkeypatch, stream)
        monkeypatch.setenv("TERM", "xterm")

        def read():
            stream.write("THE END")
            stream.flush()
            found = ""
            while not found.endswith("THE END"):
                found += os.read(ours, 4096).decode()
            return found.removesuffix("THE END")

        yield read
    os.close(ours)


def test_each_text_is_written_over_the_one_before_and_taken_away(terminal):
    progress = Progress()
    progress.say("one")
    progress.say("one")
    progress.say("two\x07")
    progress.done()
    progress.done()
    assert terminal() == "\r\x1b[Kone\r\x1b[Ktwo\\x07\r\x1b[K"


def test_a_long_text_is_cut_to_the_line(terminal, monkeypatch):
    monkeypatch.setattr("leasehold.cli.progress.terminal_width", lambda stream: 10)
    Progress().say("0123456789")
    assert terminal() == "\r\x1b[K01234567…"


def test_letters_that_take_two_columns_are_counted_as_two(terminal, monkeypatch):
    """A line that is wrapped could not be taken away again."""
    monkeypatch.setattr("leasehold.cli.progress.terminal_width", lambda stream: 10)
    Progress().say("借借借借借借")
    assert terminal() == "\r\x1b[K借借借借…"


@pytest.mark.parametrize("why", ["quiet", "no terminal", "a dumb one"])
def test_otherwise_there_is_nothing(terminal, monkeypatch, why):
    if why == "a dumb one":
        monkeypatch.setenv("TERM", "dumb")
    with open(os.devnull, "w") as null:
        if why == "no terminal":
            use(monkeypatch, null)
        progress = Progress(quiet=why == "quiet")
        progress.say("one")
        progress.done()
    assert terminal() == ""


def test_what_is_no_terminal_has_a_width_all_the_same():
    with open(os.devnull) as stream:
        assert terminal_width(stream) == 100
