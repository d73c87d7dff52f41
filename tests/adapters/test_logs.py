"""Log lines: one JSON object each, whatever the message holds."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from leasehold.adapters import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    found = logging.getLogger()
    handlers, level = found.handlers[:], found.level
    yield found
    found.handlers[:], found.level = handlers, level


def logged(monkeypatch: pytest.MonkeyPatch, style: str, message: str, *args: Any, **options: Any) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(logs.sys, "stderr", stream)
    logs.set_up("INFO", style)
    logging.getLogger("leasehold.test").error(message, *args, **options)
    return stream.getvalue()


def test_a_newline_cannot_forge_a_second_line(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    text = logged(monkeypatch, "json", "lease %s", 'a\n{"level": "INFO", "message": "all is well"}\r\n')
    assert text.count("\n") == 1
    line = json.loads(text)
    assert line["message"].startswith("lease a\n")
    assert (line["level"], line["logger"]) == ("ERROR", "leasehold.test")


def test_a_line_says_what_it_is_about_and_when_in_utc(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"object": "team/a", "generation": 3, "pool": "ci", "secret": "not shown"}
    record = logging.LogRecord("n", logging.INFO, "f", 1, "hello", (), None)
    record.created, record.msecs = 1795374005.25, 250.0
    record.__dict__.update(about)
    line = json.loads(logs.JsonFormatter().format(record))
    assert line["time"] == "2026-11-22T19:00:05.250Z"
    assert {key: line[key] for key in ("object", "generation", "pool")} == {
        "object": "team/a",
        "generation": 3,
        "pool": "ci",
    }
    assert "secret" not in line


def test_an_exception_is_part_of_its_line(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        raise ValueError("bad")
    except ValueError as error:
        text = logged(monkeypatch, "json", "it failed", exc_info=error)
    assert text.count("\n") == 1
    assert "ValueError: bad" in json.loads(text)["exception"]


def test_text_is_for_people(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ERROR   leasehold.test: it failed" in logged(monkeypatch, "text", "it failed")


def test_the_frameworks_chatter_stays_out_unless_debugging(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(monkeypatch, "json", "x")
    assert logging.getLogger("kopf.objects").level == logging.WARNING
    logs.set_up("DEBUG", "json")
    assert logging.getLogger("kopf.objects").level == logging.DEBUG
    logs.set_up("INFO", "json")
