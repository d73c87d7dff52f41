"""The audit log: whole lines only, and which requests were refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from leasehold.testing import audit


def entry(code: int, **fields: Any) -> dict[str, Any]:
    base = {"user": {"username": "alice"}, "verb": "list", "requestURI": "/api/v1/secrets"}
    return {**base, "responseStatus": {"code": code}, **fields}


def test_a_line_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    assert audit.read(log) == []
    log.write_text(json.dumps(entry(200)) + "\n" + json.dumps(entry(403))[:20])
    assert [line["responseStatus"]["code"] for line in audit.read(log)] == [200]


def test_denied_is_what_wanted_identity_or_rights() -> None:
    entries = [entry(code) for code in (200, 401, 403, 404, 409, 422)]
    stages = [{**entry(200), "responseStatus": None}]
    assert [found["responseStatus"]["code"] for found in audit.denied([*entries, *stages])] == [401, 403]


def test_an_entry_is_told_in_one_line() -> None:
    refused = entry(403, responseStatus={"code": 403, "message": "secrets is forbidden"})
    assert audit.describe(refused) == "alice list /api/v1/secrets: 403 secrets is forbidden"
