"""`leasehold simulate` as it is typed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from leasehold.cli import simulate
from leasehold.sim import screen

NODES = "2x cpu=16,memory=64Gi"
LOG = """; MaxProcs: 10
1 0 -1 100 8 -1 -1 8 100 -1 1 7 1 1 1 1 -1 -1
2 5 -1 50 8 -1 -1 8 50 -1 1 8 1 1 1 1 -1 -1
3 6 -1 20 2 -1 -1 2 90 -1 1 9 1 1 1 1 -1 -1
4 6 -1 20 2 -1 -1 12 500 -1 1 9 1 1 1 1 -1 -1
5 -9 -1 20 2 -1 -1 2 90 -1 1 9 1 1 1 1 -1 -1
"""


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "small.swf"
    path.write_text(LOG)
    return str(path)


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert simulate.main([*arguments, "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_figures_of_a_log_as_json(capsys, log) -> None:
    found = figures(capsys, "--swf", log, "--processors", "10", "--policy", "easy")
    assert found["jobs"] == 4
    assert found["avg_wait_seconds"] == (0 + 95 + 0 + 144) / 4
    assert found["makespan_seconds"] == 170
    assert found["avg_bounded_slowdown"] == pytest.approx((1 + 145 / 50 + 1 + 164 / 20) / 4)
    assert found["utilization"] == pytest.approx((800 + 400 + 40 + 200) / 1700)
    assert found["replay_seconds"] > 0
    assert (found["skipped"], found["clipped"]) == (1, 1)
    assert found["problems"] == [
        {"reason": "larger than the machine", "action": "clipped", "count": 1, "lines": [5]},
        {"reason": "negative submit time", "action": "skipped", "count": 1, "lines": [6]},
    ]


def test_the_log_says_how_large_its_machine_is(capsys, log) -> None:
    assert figures(capsys, "--swf", log)["pool"] == "10 processors"


def test_flags_skip_clip_and_limit(capsys, log) -> None:
    assert figures(capsys, "--swf", log, "--oversized", "skip")["jobs"] == 3
    assert figures(capsys, "--swf", log, "--negative-times", "clip", "--limit", "9")["jobs"] == 5
    assert figures(capsys, "--swf", log, "--limit", "2")["jobs"] == 2


@pytest.mark.parametrize("policy", ["fcfs", "easy", "best-effort"])
@pytest.mark.parametrize("sort", ["submit", "shortest", "longest", "smallest", "largest"])
def test_every_policy_and_order_runs_all_jobs(capsys, log, policy, sort) -> None:
    assert figures(capsys, "--swf", log, "--policy", policy, "--sort", sort)["jobs"] == 4


def test_a_table_for_people(capsys, log) -> None:
    assert simulate.main(["--swf", log, "--sort", "shortest"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("small.swf on 10 processors (easy, shortest first)")
    for label in (
        "makespan",
        "utilization",
        "mean wait",
        "p99 wait",
        "average bounded slowdown",
        "replayed in",
    ):
        assert label in shown.out
    assert "1 skipped: negative submit time (line 6)" in shown.out
    assert shown.err == ""


def test_a_bar_is_shown_on_a_terminal_and_nowhere_else() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, wanted, shown in (
        (Terminal(), True, True),
        (Terminal(), False, False),
        (io.StringIO(), True, False),
    ):
        with screen.bar(stream, 10, wanted=wanted) as tick:
            assert (tick is not None) == shown
            if tick is not None:
                tick(5)
        assert ("replaying" in stream.getvalue()) == shown


def test_the_picture_and_the_table_of_jobs_are_written(capsys, log, tmp_path) -> None:
    picture, table = tmp_path / "out.svg", tmp_path / "out.csv"
    figures(capsys, "--swf", log, "--gantt", str(picture), "--jobs", str(table))
    assert "small.swf on 10 processors (easy)" in "".join(ElementTree.parse(picture).getroot().itertext())
    with table.open() as stream:
        rows = {row["name"]: float(row["wait_seconds"]) for row in csv.DictReader(stream)}
    assert rows == {"job 1": 0, "job 2": 95, "job 3": 0, "job 4": 144}


def test_made_up_leases_need_nodes_and_no_file(capsys) -> None:
    found = figures(capsys, "--synthetic", "200", "--nodes", NODES, "--scale-nodes", "2")
    assert (found["jobs"], found["pool"]) == (200, "4 nodes, 64 cpu")
    again = figures(capsys, "--synthetic", "200", "--nodes", NODES, "--scale-nodes", "2")
    assert {**found, "replay_seconds": 0, "jobs_per_second": 0} == {
        **again,
        "replay_seconds": 0,
        "jobs_per_second": 0,
    }
    assert figures(capsys, "--synthetic", "200", "--nodes", NODES, "--limit", "7")["jobs"] == 7


def test_a_trace_is_replayed_by_the_pools_own_policy_or_another(capsys, tmp_path) -> None:
    pool = {"metadata": {"name": "ci"}, "spec": {"nodeSelector": {}, "queueing": {"strategy": "StrictFIFO"}}}
    node = {
        "metadata": {"name": "a"},
        "status": {
            "allocatable": {"cpu": "4", "memory": "1Gi", "ephemeral-storage": "1Gi"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    path = tmp_path / "ci.trace"
    path.write_text(
        json.dumps({"format": "leasehold-trace", "version": 1, "pools": [pool], "nodes": [node]})
        + '\n{"submit":0,"name":"a","pool":"ci","resources":{"cpu":"4"}}\n'
    )
    assert figures(capsys, "--trace", str(path))["policy"] == "StrictFIFO"
    assert figures(capsys, "--trace", str(path), "--policy", "easy")["policy"] == "Backfill"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments"),
        (["--swf", "a", "--trace", "b"], "not allowed with"),
        (["--swf", "a", "--processors", "0"], "no whole number above 0"),
        (["--swf", "a", "--nodes", NODES], "--nodes means nothing with --swf"),
        (["--swf", "a", "--scale-nodes", "2"], "--processors"),
        (["--trace", "a", "--processors", "4"], "--processors means nothing without --swf"),
        (["--trace", "a", "--scale-nodes", "none"], "no number above 0"),
        (["--synthetic", "4", "--sort", "shortest"], "--sort means nothing without --swf"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(capsys, arguments, message) -> None:
    with pytest.raises(SystemExit) as ended:
        simulate.main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--swf", "/none.swf"], "/none.swf cannot be read: No such file or directory"),
        (["--synthetic", "4"], "give --nodes"),
        (["--synthetic", "4", "--nodes", "2x cpu=1m,memory=1"], "too small"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys, arguments, message) -> None:
    assert simulate.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("leasehold simulate: ")
    assert message in error


def test_the_first_bad_line_is_an_error_when_strict(capsys, log) -> None:
    assert simulate.main(["--swf", log, "--strict"]) == 2
    assert capsys.readouterr().err == f"leasehold simulate: {log}:5: larger than the machine\n"


def test_a_picture_that_cannot_be_written_is_told_before_the_replay(capsys, log, tmp_path) -> None:
    assert simulate.main(["--swf", log, "--gantt", str(tmp_path / "none" / "out.svg")]) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_ctrl_c_is_no_traceback(capsys, log, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "replay", interrupted)
    assert simulate.main(["--swf", log]) == 130
    assert capsys.readouterr().err == "leasehold simulate: interrupted\n"
