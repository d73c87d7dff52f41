"""Building into the cache: once, whole, and never silently."""

from __future__ import annotations

import fcntl
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from tests.testing.programs import script

from leasehold.testing import toolchain
from leasehold.testing.errors import BuildError
from leasehold.testing.toolchain import Module

SLOW_GO = """
PATH=/usr/bin:/bin
echo run >> {runs}
[ "$1" = list ] && {{ echo {source}; exit 0; }}
echo k8s.io/some/package >&2
sleep 0.5
while [ $# -gt 1 ]; do [ "$1" = -o ] && {{ echo built > "$2"; chmod 755 "$2"; }}; shift; done
"""


@pytest.fixture
def module(tmp_path: Path) -> Module:
    directory = tmp_path / "module"
    directory.mkdir()
    (directory / "go.mod").write_text("module x\n\nrequire example.com/server v1.2.3\n")
    (directory / "go.sum").write_text("")
    return Module(
        name="example",
        directory=directory,
        pinned="example.com/server",
        packages={"server": "example.com/server/cmd", "other": "example.com/other"},
        linker_flags="-X v={version} -X minor={minor}",
    )


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    body = SLOW_GO.format(runs=tmp_path / "runs", source=tmp_path)
    script(tmp_path / "path", "go", body)
    return {"PATH": str(tmp_path / "path"), "LEASEHOLD_CACHE_DIR": str(tmp_path / "cache")}


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text().splitlines())


def test_builds_what_is_missing_and_nothing_twice(
    module: Module, env: dict[str, str], tmp_path: Path
) -> None:
    said: list[str] = []
    directory = toolchain.build(module, ["server"], env, said.append)
    assert directory == tmp_path / "cache" / "example" / directory.name
    assert directory.name.startswith("v1.2.3-")
    assert sorted(path.name for path in directory.iterdir()) == [".lock", "server"]
    assert "building server (for example.com/server v1.2.3)" in said[0]
    assert "takes minutes" in said[0]
    assert said[-1].startswith("leasehold: built server in ")

    assert toolchain.build(module, ["server"], env, said.append) == directory
    assert runs(tmp_path) == 1
    toolchain.build(module, ["server", "other"], env, said.append)
    assert runs(tmp_path) == 2


def test_build_tags_reach_the_compiler_and_change_what_is_built(module: Module) -> None:
    tagged = replace(module, tags="small")
    assert "-tags" not in module.flags()
    assert tagged.flags()[tagged.flags().index("-tags") + 1] == "small"
    assert tagged.cache_name() != module.cache_name()


def test_says_how_far_it_is(module: Module, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_EVERY_SECONDS", 0.2)
    said: list[str] = []
    toolchain.build(module, ["server"], env, said.append)
    expected = re.compile(r"leasehold: server: \d:\d\d min, 1 packages compiled, now k8s.io/some/package")
    assert any(map(expected.fullmatch, said)), said


def test_of_several_at_once_one_builds_and_the_others_wait_and_say_so(
    module: Module, env: dict[str, str], tmp_path: Path
) -> None:
    # The lock is one of open files: threads that open the file each meet it as processes do.
    said: list[list[str]] = [[], [], []]
    with ThreadPoolExecutor(3) as pool:
        built = pool.map(lambda lines: toolchain.build(module, ["server"], env, lines.append), said)
        assert len(set(built)) == 1
    assert runs(tmp_path) == 1
    first_words = sorted(lines[0].split()[1] for lines in said if lines)
    assert first_words == ["building", "waiting,", "waiting,"]


def test_a_lock_held_elsewhere_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    holder = (tmp_path / "lock").open("a")
    fcntl.flock(holder, fcntl.LOCK_EX)

    def tell(line: str) -> None:
        said.append(line)
        holder.close()

    with toolchain.lock(tmp_path / "lock", "somebody builds", tell):
        assert said == ["leasehold: waiting, 0:00 min: somebody builds"]


def test_a_failed_build_shows_the_compilers_words_and_leaves_nothing(
    module: Module, env: dict[str, str], tmp_path: Path
) -> None:
    script(tmp_path / "path", "go", "echo 'go.mod: needs go 1.99' >&2; exit 1")
    with pytest.raises(BuildError, match=r"(?s)go build example.com/server/cmd.*status 1.*needs go 1\.99"):
        toolchain.build(module, ["server"], env, lambda line: None)
    directory = toolchain.cache_directory(module, env)
    assert [path.name for path in directory.iterdir()] == [".lock"]


def test_without_go_it_says_what_it_is_needed_for(module: Module, tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "LEASEHOLD_CACHE_DIR": str(tmp_path)}
    with pytest.raises(BuildError, match="Go is needed to build server: install it"):
        toolchain.build(module, ["server"], env, lambda line: None)


def test_another_pin_is_another_cache(module: Module, env: dict[str, str]) -> None:
    before = toolchain.cache_directory(module, env)
    (module.directory / "go.sum").write_text("example.com/server v1.2.3 h1:other\n")
    assert toolchain.cache_directory(module, env) != before
    before = toolchain.cache_directory(module, env)
    (module.directory / "own").mkdir()
    (module.directory / "own" / "main.go").write_text("package main\n")
    assert toolchain.cache_directory(module, env) != before
    (module.directory / "go.mod").write_text("require example.com/server v1.2.4\n")
    assert toolchain.cache_directory(module, env).name.startswith("v1.2.4-")


def test_files_of_the_module_are_kept_beside_the_program(
    module: Module, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "a.yaml").write_text("kind: Stage\n")
    with_files = Module(**{**vars(module), "files": {"kept.yaml": "stages/a.yaml"}})
    directory = toolchain.build(with_files, ["server"], env, lambda line: None)
    assert (directory / "kept.yaml").read_text() == "kind: Stage\n"


@pytest.mark.parametrize(
    ("env", "root"),
    [
        ({"LEASEHOLD_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/leasehold")),
        ({}, Path("~/.cache/leasehold").expanduser()),
    ],
)
def test_the_cache_is_the_users_own(env: dict[str, str], root: Path) -> None:
    assert toolchain.cache_root(env) == root


def test_every_program_is_pinned_by_a_module_of_the_repository() -> None:
    for program, module in toolchain.MODULES.items():
        package = module.packages[program]
        ours = package.startswith("./") and (module.directory / package / "main.go").is_file()
        assert ours or package in (module.directory / "go.mod").read_text()
        assert module.version.startswith("v")
