"""What a trial's record takes from the API server's audit log, while that is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.faults.history import Audit


def entry(name: str, stage: str = "ResponseComplete") -> str:
    """One line of an audit log."""
    told = {
        "stage": stage,
        "verb": "update",
        "user": {"username": "alice"},
        "userAgent": "leasehold-operator/1",
        "objectRef": {"apiGroup": "leasehold.dev", "resource": "capacityleases", "name": name},
        "requestReceivedTimestamp": "2026-11-29T08:00:00.000000Z",
        "stageTimestamp": "2026-11-29T08:00:00.250000Z",
        "responseStatus": {"code": 200},
        "responseObject": {"kind": "CapacityLease", "metadata": {"resourceVersion": "7"}},
    }
    return json.dumps(told) + "\n"


def names(audit: Audit) -> list[str]:
    return [write.name for write in audit.read()]


def test_it_is_read_as_it_grows_from_where_it_stood(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    log.write_text(entry("before"))
    audit = Audit(log)
    assert audit.read() == []
    half, rest = entry("b")[:40], entry("b")[40:]
    with log.open("a") as file:
        file.write(entry("a") + entry("answered later", "ResponseStarted") + half)
    assert names(audit) == ["a"]
    with log.open("a") as file:
        file.write(rest)
    (_, write) = audit.read()
    assert (write.name, write.version, write.done - write.time) == ("b", 7, 0.25)
    assert write.by_operator
    assert write.changes
    assert write.ours


def test_a_log_that_begins_anew_makes_the_record_useless(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    log.write_text(entry("before") * 3)
    audit = Audit(log)
    log.rename(tmp_path / "audit-old.jsonl")
    log.write_text(entry("a"))
    with pytest.raises(AssertionError, match="has a gap"):
        audit.read()
