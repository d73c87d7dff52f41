"""One line per event, and no flood."""

import io
import json

import pytest

from leasehold.reporter.log import Log


@pytest.fixture
def stream():
    return io.StringIO()


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_a_line_of_json_with_its_time(stream):
    Log("info", stream).info("started", node="n1")
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "event": "started", "node": "n1"}


def test_what_is_below_the_level_is_not_written(stream):
    log = Log("warning", stream)
    log.debug("a")
    log.info("b")
    log.trouble(0, "c")
    assert [line["event"] for line in lines(stream)] == ["c"]


def test_trouble_is_told_at_once_then_once_a_minute_then_over(stream):
    log = Log("info", stream)
    for second in range(0, 130, 10):
        log.trouble(second, "no server", why="refused")
    log.over("no server")
    log.over("no server")
    log.over("something else")
    told = lines(stream)
    assert [(line["event"], line.get("repeated")) for line in told] == [
        ("no server", None),
        ("no server", 5),
        ("no server", 5),
        ("no server is over", None),
    ]


def test_trouble_that_comes_back_is_told_at_once(stream):
    log = Log("info", stream)
    log.trouble(0, "x")
    log.over("x")
    log.trouble(1, "x")
    assert [line["event"] for line in lines(stream)] == ["x", "x is over", "x"]


def test_a_broken_stream_ends_the_logging_and_nothing_else():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    log = Log("debug", Broken())
    log.info("a")
    log.trouble(0, "b")
