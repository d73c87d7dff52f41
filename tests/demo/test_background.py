from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from leasehold.demo.__main__ import main
from leasehold.demo.background import Run, State, _Follower
from leasehold.demo.errors import DemoError, PartEnded
from leasehold.demo.stage import Place
from leasehold.testing.processes import ProcessIdentity

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
    assert "make down" in capsys.readouterr().out


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
