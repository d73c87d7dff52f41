"""Logs in Standard Workload Format: what is read, and what is done about lines that make no sense."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from leasehold.sim.problems import BadInput
from leasehold.sim.swf import Rules, SwfJob, SwfLog


def line(
    number: int | str = 1,
    *,
    submit: object = 0,
    run: object = 100,
    allocated: object = 4,
    requested: object = 4,
    asked: object = 200,
    user: object = 7,
    status: int = 1,
) -> str:
    return (
        f"{number} {submit} -1 {run} {allocated} -1 -1 {requested} {asked} -1 {status} {user} 1 1 1 1 -1 -1\n"
    )


@pytest.fixture
def log(tmp_path: Path):
    def make(*rows: str, **rules: object) -> SwfLog:
        path = tmp_path / "log.swf"
        path.write_text("".join(rows))
        return SwfLog(path, Rules(**{"machine": 64, **rules}))  # type: ignore[arg-type]

    return make


def only(found: SwfLog) -> SwfJob:
    (job,) = found.jobs()
    return job


def reasons(found: SwfLog) -> dict[str, tuple[str, int, tuple[int, ...]]]:
    return {row.reason: (row.action, row.times, row.lines) for row in found.problems.listed()}


def test_a_job_is_read_in_milliseconds(log) -> None:
    assert only(log(line(3, submit=5))) == SwfJob("3", "7", 5_000, 100_000, 200_000, 4)


def test_header_comments_are_kept_and_size_the_machine(log) -> None:
    found = log(
        "; Version: 2.2\n", ";MaxProcs: 128 and more\n", "; UnixStartTime: 100\n", line(), machine=None
    )
    assert found.header["Version"] == "2.2"
    assert found.machine == 128
    assert found.unix_start == 100_000


def test_a_log_that_does_not_say_how_large_its_machine_is_needs_to_be_told(log) -> None:
    with pytest.raises(BadInput, match="--processors"):
        log("; Note: none\n", "\n", line(), machine=None)


@pytest.mark.parametrize(
    ("fields", "run", "estimate"),
    [
        ({"run": 0}, 1, 200),
        ({"run": -1}, 1, 200),
        ({"run": 300}, 200, 200),
        ({"asked": -1}, 100, 100),
        ({"asked": 0}, 100, 100),
        ({"run": "12.0", "asked": "30.5"}, 12, 30.5),
        ({"run": 10, "asked": "0.25"}, 1, 1),
    ],
)
def test_run_time_is_at_least_a_second_and_cut_at_the_requested_time(log, fields, run, estimate) -> None:
    job = only(log(line(**fields)))
    assert (job.run, job.estimate) == (run * 1000, estimate * 1000)


@pytest.mark.parametrize(
    ("requested", "allocated", "processors"), [(8, 4, 8), (-1, 4, 4), (0, 4, 4), ("2.0", 4, 2), ("2.5", 4, 3)]
)
def test_processors_are_those_requested_or_else_those_allocated(
    log, requested, allocated, processors
) -> None:
    assert only(log(line(requested=requested, allocated=allocated))).processors == processors


def test_an_oversized_job_is_clipped_or_skipped_and_counted(log) -> None:
    rows = (line(1, requested=65), line(2))
    clipped = log(*rows)
    assert [job.processors for job in clipped.jobs()] == [64, 4]
    assert reasons(clipped) == {"larger than the machine": ("clipped", 1, (1,))}
    skipped = log(*rows, clips_oversized=False)
    assert [job.number for job in skipped.jobs()] == ["2"]
    assert skipped.size == 1
    assert skipped.problems.total("skipped") == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1 0 -1 100 4\n", "fewer than 18 fields"),
        (line(submit="soon"), "a field is no number"),
        (line(run="nan"), "a field is no number"),
        (line(run="inf"), "a field is no number"),
        (line(submit=-5), "negative submit time"),
        (line(submit=-1), "negative submit time"),
        (line(run=-7), "negative run time"),
        (line(asked=-7), "negative requested time"),
        (line(run=10**30, asked=-1), "a time is beyond all calendars"),
        (line(requested=-1, allocated=0), "no processors requested and none allocated"),
    ],
)
def test_a_bad_line_is_skipped_counted_and_named(log, row, reason) -> None:
    found = log("; a comment\n", row, line(2))
    assert [job.number for job in found.jobs()] == ["2"]
    assert reasons(found) == {reason: ("skipped", 1, (2,))}
    with pytest.raises(BadInput, match=f"log.swf:2: {reason}"):
        log("; a comment\n", row, line(2), strict=True)


def test_negative_times_can_be_clipped_instead(log) -> None:
    found = log(line(1, submit=-5), line(2, run=-7), line(3, asked=-7), clips_negative=True)
    assert [(job.submit, job.run, job.estimate) for job in found.jobs()] == [
        (0, 100_000, 200_000),
        (0, 1_000, 200_000),
        (0, 100_000, 100_000),
    ]
    assert found.problems.total("clipped") == 3


def test_an_unknown_run_time_is_the_formats_own_and_no_error_even_when_strict(log) -> None:
    found = log(line(run=-1), strict=True)
    assert reasons(found) == {"run time unknown: taken as 1 s": ("assumed", 1, (1,))}


def test_the_parts_of_an_interrupted_job_are_not_jobs_of_their_own(log) -> None:
    rows = (line(1, run=90), line(1, run=40, status=2), line(1, run=50, status=3), line(2, status=4))
    found = log(*rows, strict=True)
    assert [(job.number, job.run) for job in found.jobs()] == [("1", 90_000), ("2", 100_000)]
    assert found.problems.total("skipped") == 2


def test_only_the_first_few_lines_of_a_problem_are_listed(log) -> None:
    found = log(*(line(i, submit=-5) for i in range(20)), line(21))
    assert reasons(found) == {"negative submit time": ("skipped", 20, (1, 2, 3, 4, 5))}


def test_jobs_come_in_submit_order_and_in_the_order_of_the_file_within_a_second(log) -> None:
    found = log(line(1, submit=9), line(2, submit=3), line(3, submit=3), line(4, submit=0))
    assert [job.number for job in found.jobs()] == ["4", "2", "3", "1"]


def test_the_limit_counts_jobs_not_lines(log) -> None:
    found = log("; c\n", line(1, run=-7), line(2), line(3), limit=1)
    assert [job.number for job in found.jobs()] == ["2"]
    assert found.size == 1


@pytest.mark.parametrize("content", ["", "; only: comments\n", "\n\n", line(submit=-5)])
def test_a_log_without_jobs_is_an_error(log, content) -> None:
    with pytest.raises(BadInput, match="no job that could be replayed"):
        log(content)


def test_a_file_that_is_not_there_is_an_error(tmp_path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        SwfLog(tmp_path / "none.swf", Rules(4))


@pytest.mark.parametrize("name", ["log.swf.gz", "log.swf", "log"])
def test_a_compressed_log_is_known_by_its_content(tmp_path, name) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(line().encode()))
    assert SwfLog(path, Rules(4)).size == 1


def test_a_plain_log_may_be_called_gz(tmp_path) -> None:
    path = tmp_path / "log.gz"
    path.write_text(line())
    assert SwfLog(path, Rules(4)).size == 1


def test_a_compressed_log_that_breaks_off_gives_what_came_before(tmp_path) -> None:
    path = tmp_path / "log.swf.gz"
    whole = gzip.compress("".join(line(i, submit=i, user=i * 7919 % 1009) for i in range(5000)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    found = SwfLog(path, Rules(4))
    assert 0 < found.size < 5000
    ((reason, row),) = reasons(found).items()
    assert "breaks off" in reason
    # Where it breaks off may lie within a line, which then has too few fields or is cut off silently.
    assert row[0] == "ended"
    with pytest.raises(BadInput, match=r"log\.swf\.gz:\d+: the compressed file is damaged"):
        SwfLog(path, Rules(4, strict=True))


def test_bytes_that_are_no_text_do_not_end_the_reading(tmp_path) -> None:
    path = tmp_path / "log.swf"
    path.write_bytes(b"\xff\xfe\x00 1 2\n" + line().encode())
    assert SwfLog(path, Rules(4)).size == 1
