"""The command ``leasehold``: it finds its subcommands, and loads nothing else."""

import subprocess
import sys
import types

import pytest

from leasehold import __version__
from leasehold.cli import main as module
from leasehold.cli.main import main


@pytest.fixture
def fake_command(monkeypatch):
    """A subcommand that returns what the test wants."""

    def make(returned):
        seen = []

        def run(arguments):
            seen.append(arguments)
            return returned

        monkeypatch.setattr(module, "import_module", lambda name: types.SimpleNamespace(main=run, name=name))
        return seen

    return make


@pytest.mark.parametrize("arguments", [["version"]])
def test_version_is_printed(capsys, arguments):
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"leasehold {__version__}\n"


def test_version_as_an_option(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"leasehold {__version__}\n"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
@pytest.mark.parametrize("command", ["reporter", "operator"])
def test_options_are_passed_on_and_the_exit_code_passed_back(fake_command, command, returned, code):
    seen = fake_command(returned)
    assert main([command, "--once", "-o", "json", "--help"]) == code
    assert seen == [["--once", "-o", "json", "--help"]]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*module.COMMANDS, "version"))


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_a_wrong_command_line_is_one_line_and_exit_2(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("leasehold: ")
    assert error.count("\n") == 1


def test_a_missing_package_says_how_to_install_it(capsys, monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'kopf'", name="kopf")

    monkeypatch.setattr(module, "import_module", fail)
    assert main(["operator"]) == 1
    assert capsys.readouterr().err == (
        "leasehold operator: the Python package kopf is missing; install it with: pip install 'leasehold[operator]'\n"
    )


def test_asking_for_the_version_loads_no_room_but_this_one():
    code = (
        "import sys; from leasehold.cli.main import main; main(['version']);"
        "print([m for m in sys.modules if m.startswith(('psutil', 'kopf', 'pydantic', 'ssl', 'leasehold.core'))])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[1] == "[]"
