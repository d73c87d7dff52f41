"""What people write on command lines, read or refused in one line."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.cli.lines import LINES
from leasehold.cli.main import COMMANDS
from leasehold.cli.options import labels, program, seconds


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d1h1m1s", 176_461),
        ("0", 0),
        ("365d", 31_536_000),
    ],
)
def test_times(text, found):
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5h", "10 m", "1m1h", "1h30", "366d", "9" * 40])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 90s, 10m or 1h30m"):
        seconds(text)


@given(st.integers(0, 300), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times_add_up(d, h, m, s):
    assert seconds(f"{d}d{h}h{m}m{s}s") == d * 86_400 + h * 3600 + m * 60 + s


def test_labels():
    assert labels("zone=a,example.com/disk=ssd,empty=") == {
        "zone": "a",
        "example.com/disk": "ssd",
        "empty": "",
    }


@pytest.mark.parametrize("text", ["", "a", "=b", "a=b,", "a b=c", "a=b=c\n"])
def test_what_are_no_labels_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not KEY=VALUE"):
        labels(text)


@pytest.mark.parametrize(
    ("argv", "called"),
    [
        ("/usr/bin/leasehold", "leasehold"),
        ("/x/main.py", "leasehold"),
        ("/home/u/.krew/bin/kubectl-leasehold", "kubectl leasehold"),
    ],
)
def test_help_names_what_people_typed(monkeypatch, argv, called):
    monkeypatch.setattr("sys.argv", [argv])
    assert program() == called
    assert LINES["get"]().format_help().startswith(f"usage: {called} get")


def test_every_command_for_people_has_a_line_and_no_other():
    assert {name for name, command in COMMANDS.items() if command.for_people} == set(LINES)


@pytest.mark.parametrize("name", LINES)
def test_help_fits_a_terminal_and_ends_well(name, capsys):
    with pytest.raises(SystemExit) as ended:
        LINES[name]().parse_args(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 112


@pytest.mark.parametrize("name", LINES)
def test_every_option_is_explained(name):
    for action in LINES[name]()._actions:
        assert action.help, action
