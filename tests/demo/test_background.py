from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from leasehold.demo import looking
from leasehold.demo.__main__ import main
from leasehold.demo.background import Run, State, _Follower
from leasehold.demo.errors import DemoError, NotAsExpected, PartEnded
from leasehold.demo.stage import Place, Say
from leasehold.testing import providers
from leasehold.testing.kubeconfig import Connection
from leasehold.testing.processes import ProcessIdentity
from leasehold.testing.providers import Existing

PLACE = Place("kubeconfig", "https://127.0.0.1:1", "test", False, "vm", "http://127.0.0.1:2", "logs")


def write_state(run: Run, supervisor: ProcessIdentity) -> None:
    run.directory.mkdir(parents=True, exist_ok=True)
    state = State(PLACE, supervisor, {"operator": supervisor})
    (run.directory / "demo.json").write_text(json.dumps(asdict(state)))


def myself() -> ProcessIdentity:
    found = ProcessIdentity.of(os.getpid())
    assert found is not None
    return found


def test_what_runs_is_read_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.read() is None
    write_state(run, myself())
    state = run.read()
    assert state is not None
    assert (state.place, state.processes) == (PLACE, {"operator": myself()})
    state.check()


def test_a_process_id_that_belongs_to_another_process_now_is_nothing_that_runs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    stale = ProcessIdentity(os.getpid(), "another time")
    write_state(run, stale)
    assert run.read() is None
    assert run.down() == ""
    with pytest.raises(PartEnded, match="has ended"):
        State(PLACE, stale, {}).check()


def test_a_directory_that_the_control_plane_command_uses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "control-plane.json").write_text("{}")
    with pytest.raises(DemoError, match="choose another directory"), Run(tmp_path).locked(print):
        pass


def test_lines_are_followed_once_they_are_whole(tmp_path: Path) -> None:
    log, said = tmp_path / "log", []
    log.write_text("one\ntw")
    follower = _Follower(log, said.append)
    assert follower() is False
    log.write_text("one\ntwo\n")
    follower()
    assert said == ["one", "two"]


def test_down_with_nothing_up_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--down", "--dir", str(tmp_path)]) == 0
    assert "nothing is up" in capsys.readouterr().out


def test_a_demo_beside_one_that_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_state(Run(tmp_path), myself())
    assert main(["--dir", str(tmp_path)]) == 1
    assert f"--down --dir {tmp_path}" in capsys.readouterr().out.replace("\n", "")


def test_up_twice_shows_where_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_state(Run(tmp_path), myself())
    assert main(["--keep", "--dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "up already: https://127.0.0.1:1" in shown
    assert "export KUBECONFIG=kubeconfig" in shown


def test_a_kubeconfig_that_does_not_exist_is_the_users_to_correct(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dir", str(tmp_path / "run"), "--kubeconfig", str(tmp_path / "none")]
    assert main(arguments) == 1
    assert main([*arguments, "--keep"]) == 1
    assert "does not exist" in capsys.readouterr().out


@pytest.mark.parametrize("speed", ["0", "-1", "fast", "100"])
def test_a_speed_beyond_reason_is_refused(speed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--speed", speed])
    assert ended.value.code == 2
    assert speed in capsys.readouterr().err


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A directory in which `up` starts at once and nothing; what becomes of it is noted."""
    noted: list[str] = []

    def up(run: Run, kubeconfig: Path | None, say: Say, *, with_pods: bool) -> State:
        noted.append("up")
        write_state(run, myself())
        found = run.read()
        assert found is not None
        return found

    def down(run: Run) -> str:
        noted.append("down")
        return PLACE.server

    monkeypatch.setattr(Run, "up", up)
    monkeypatch.setattr(Run, "down", down)
    monkeypatch.setattr(looking, "provide_kubectl", lambda *_: "")
    monkeypatch.setattr(providers, "choose", lambda _: None)
    return noted


def play_that(error: BaseException | None) -> Callable[..., None]:
    def play(*_: object, **__: object) -> None:
        if error is not None:
            raise error

    return play


@pytest.mark.parametrize(
    ("error", "code", "after"),
    [
        (None, 0, ["up"]),
        (NotAsExpected("not so"), 1, ["up"]),  # left running, to look at
        (KeyboardInterrupt(), 130, ["up", "down"]),
    ],
)
def test_up_ends_what_was_interrupted_and_keeps_what_failed(
    error: BaseException | None,
    code: int,
    after: list[str],
    started: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("leasehold.demo.__main__.play", play_that(error))
    assert main(["--keep", "--dir", str(tmp_path)]) == code
    assert started == after


@pytest.mark.parametrize(
    ("terminal", "answer", "code"), [(True, "yes", 0), (True, "y", 1), (False, "yes", 1)]
)
def test_somebodys_cluster_is_written_to_only_after_a_yes(
    terminal: bool,
    answer: str,
    code: int,
    started: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kubeconfig = Connection("https://10.0.0.1:6443").write(tmp_path / "kubeconfig")
    monkeypatch.setattr(providers, "choose", lambda _: Existing(kubeconfig, "argument"))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setattr("builtins.input", lambda _: answer)
    run = tmp_path / "run"
    assert main(["--keep", "--no-story", "--dir", str(run), "--kubeconfig", str(kubeconfig)]) == code
    assert started == ["up"] * (code == 0)
