"""Reads the audit log of an API server: one JSON line per request."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


def read(path: Path) -> list[Entry]:
    """Return the entries that are written in full, oldest first; none where there is no file yet."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def denied(entries: Iterable[Entry]) -> list[Entry]:
    """Return the requests that the API server refused for want of identity or rights."""
    return [entry for entry in entries if (entry.get("responseStatus") or {}).get("code") in (401, 403)]


def describe(entry: Entry) -> str:
    """Return one line: who asked for what, and what came of it."""
    status = entry.get("responseStatus") or {}
    outcome = " ".join(str(part) for part in (status.get("code"), status.get("message")) if part)
    return f"{entry['user'].get('username')} {entry['verb']} {entry['requestURI']}: {outcome}"
