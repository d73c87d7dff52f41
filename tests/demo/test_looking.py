from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from tests.testing import programs

from leasehold.demo import looking
from leasehold.demo.stage import Place
from leasehold.testing import toolchain
from leasehold.testing.errors import BuildError

PLACE = Place(
    "/tmp/a dir/kubeconfig", "https://127.0.0.1:1", "test", False, "vm", "http://127.0.0.1:2", "/tmp"
)


def test_the_users_kubectl_comes_first(tmp_path: Path) -> None:
    mine = programs.script(tmp_path, "kubectl")
    assert looking.find_kubectl({"PATH": str(tmp_path)}) == mine


def test_else_the_one_that_was_built(tmp_path: Path) -> None:
    environ = {"PATH": "", "LEASEHOLD_CACHE_DIR": str(tmp_path)}
    assert looking.find_kubectl(environ) is None
    built = toolchain.cache_directory(toolchain.MODULES["kubectl"], environ)
    assert looking.find_kubectl(environ) is None
    assert looking.find_kubectl(environ) is None
    program = programs.script(built, "kubectl")
    assert looking.find_kubectl(environ) == program


def test_nothing_is_built_where_kubectl_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.script(tmp_path, "kubectl")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert looking.provide_kubectl(tmp_path / "run", print) == ""


def test_a_built_kubectl_is_linked_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = programs.script(tmp_path / "cache", "kubectl")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(toolchain, "build", lambda *_, **__: built.parent)
    for _ in range(2):  # a link that is there already is no error
        line = looking.provide_kubectl(tmp_path / "my run", print)
    link = tmp_path / "my run" / "bin" / "kubectl"
    assert link.resolve() == built
    assert line == f'export PATH={shlex.quote(str(link.parent))}:"$PATH"'


def test_without_kubectl_and_go_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Path:
        raise BuildError("Go is needed")

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(toolchain, "build", fails)
    said: list[str] = []
    assert looking.provide_kubectl(tmp_path, said.append) == ""
    assert said == ["no kubectl: Go is needed"]


def test_the_commands_name_this_cluster_and_quote_paths() -> None:
    lines = looking.commands(PLACE, "export PATH=here")
    assert lines[0] == "export KUBECONFIG='/tmp/a dir/kubeconfig'"
    assert lines[1] == "export PATH=here"
    assert any(line.startswith("curl -s http://127.0.0.1:2/metrics") for line in lines)
    assert looking.commands(PLACE)[1] == "kubectl get cpool"


def test_what_kubectl_says_is_shown_whether_it_works_or_not(tmp_path: Path) -> None:
    works = programs.script(tmp_path, "kubectl", 'echo "$3"')
    fails = programs.script(tmp_path, "broken", "echo no >&2; exit 1")
    assert looking.shown(PLACE, works, "get", "cpool") == "get\n"
    assert looking.shown(PLACE, fails, "get") == "no\n"


def test_a_shell_reads_where_everything_is(tmp_path: Path) -> None:
    path = looking.write_environment(tmp_path, PLACE, 'export PATH=/tmp/bin:"$PATH"')
    asked = f'. {shlex.quote(str(path))} && echo "$KUBECONFIG $OPERATOR ${{PATH%%:*}}"'
    told = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout
    assert told == "/tmp/a dir/kubeconfig http://127.0.0.1:2 /tmp/bin\n"
