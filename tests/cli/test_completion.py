"""The scripts, run by the shells themselves, with a cluster that knows some leases and pools."""

import os
import shutil
import subprocess
import sys

import pytest

from leasehold.cli import completion
from leasehold.cli.main import COMMANDS
from leasehold.testing import packages
from leasehold.testing.toolchain import print_progress

ASKED = """#!/bin/sh
echo "$@" >> {log}
case "$2" in
  leases) echo capacitylease.leasehold.dev/build-42; echo capacitylease.leasehold.dev/test-1 ;;
  pools) echo capacitypool.leasehold.dev/ci; echo 'capacitypool.leasehold.dev/$(touch {folder}/evil)' ;;
esac
"""


@pytest.fixture
def shell(tmp_path):
    """Runs a script of a shell, with our commands in its PATH."""
    for name in ("leasehold", "kubectl-leasehold"):
        (tmp_path / name).write_text(ASKED.format(log=tmp_path / "asked", folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "home").mkdir()

    def run(program, text):
        env = {
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path / "home"),
            "TERM": "dumb",
        }
        ended = subprocess.run(
            [program, "-c", text], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ended.stderr == ""
        assert not (tmp_path / "evil").exists()
        return ended.stdout.split()

    run.folder = tmp_path
    return run


LINES = [
    (["get", "re"], ["reports"]),
    (["get", "-o", ""], ["json", "name", "wide", "yaml"]),
    (["acquire", "--pool", ""], ["ci"]),
    (["acquire", "--pool-"], ["--pool-selector"]),
    (["acquire", "--placement", "Same"], ["SameDomain", "SameNode"]),
    (["release", "b"], ["build-42"]),
    (["drain", ""], ["ci"]),
    (["completion", ""], ["bash", "fish", "kubectl", "zsh"]),
    (["exp"], ["explain"]),
]


def offered(found):
    return sorted(word for word in found if not word.startswith("$") and word not in ("evil)", "touch"))


@pytest.mark.parametrize(("words", "expected"), LINES)
def test_bash_completes(shell, words, expected):
    typed = " ".join(f"'{word}'" for word in ["leasehold", *words])
    script = completion.bash(completion.lines())
    shown = shell(
        "bash", f"{script}\nCOMP_WORDS=({typed}) COMP_CWORD={len(words)}\n_leasehold\necho ${{COMPREPLY[@]}}"
    )
    assert offered(shown) == expected


@pytest.mark.parametrize(("words", "expected"), LINES)
def test_kubectl_completes(shell, words, expected):
    program = shell.folder / "kubectl_complete-leasehold"
    program.write_text(completion.kubectl(completion.lines()))
    program.chmod(0o755)
    *shown, directive = shell("bash", " ".join(f"'{word}'" for word in [str(program), *words]))
    assert directive == ":4"
    assert offered(shown) == expected


def need(program):
    """Have a shell, on a new machine too: whoever may install it does."""

    def wanted():
        return [] if shutil.which(program) else [program]

    if wanted() and packages.may_install():
        packages.install(wanted, "to try what it completes", print_progress, 300)
    if wanted():
        pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize(("words", "expected"), LINES)
def test_fish_completes(shell, words, expected):
    need("fish")
    script = shell.folder / "leasehold.fish"
    script.write_text(completion.fish(completion.lines()))
    typed = " ".join(["leasehold", *words])
    shown = subprocess.run(
        ["fish", "-c", f"source {script}; complete -C '{typed}'"],
        env={"PATH": f"{shell.folder}{os.pathsep}{os.environ['PATH']}", "HOME": str(shell.folder / "home")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {line.split("\t")[0] for line in shown.splitlines()}
    assert set(expected) <= found


def test_zsh_takes_the_script(shell):
    need("zsh")
    script = shell.folder / "_leasehold"
    script.write_text(completion.zsh(completion.lines()))
    assert shell(
        "zsh", f"autoload -U compinit; compinit -u -D; source {script}; echo $_comps[leasehold]"
    ) == ["_leasehold"]


def test_namespace_and_context_go_along_when_names_are_asked_for(shell):
    typed = "leasehold release -n team-a --context dev ''"
    script = completion.bash(completion.lines())
    shell("bash", f"{script}\nCOMP_WORDS=({typed}) COMP_CWORD=6\n_leasehold")
    assert "-n team-a --context dev" in (shell.folder / "asked").read_text()


@pytest.mark.parametrize("made", [completion.bash, completion.zsh, completion.fish, completion.kubectl])
def test_every_command_and_option_is_in_every_script(made):
    text = made(completion.lines())
    for name, command in COMMANDS.items():
        assert name in text, command
    for word in ("kill-after", "pool-selector", "kubeconfig"):
        assert word in text


def test_it_is_printed(capsys):
    from leasehold.cli.main import main

    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == completion.bash(completion.lines())


def test_making_it_needs_no_library():
    code = (
        "import sys; from leasehold.cli.main import main; main(['completion', 'bash']);"
        "sys.stderr.write(repr([m for m in sys.modules if m.split('.')[0] in ('aiohttp', 'yaml', 'pydantic')]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == "[]"
