"""What is wrong with an input, counted by reason, so that a log of a million lines gives one short answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from leasehold.core.errors import LeaseholdError

_SHOWN: Final = 5


class BadInput(LeaseholdError):
    """A file or an option says something that cannot be replayed; the message names it."""


class Problem(NamedTuple):
    """One kind of bad line: what was done about it, how many there were, and the first line numbers."""

    reason: str
    action: str
    times: int
    lines: tuple[int, ...]


class Problems:
    """The bad lines of one file. With `strict` the first one is an error instead."""

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        self.path = path
        self.strict = strict
        self._found: dict[tuple[str, str], list[int]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def note(self, line: int, reason: str, action: str = "skipped", *, allowed: bool = False) -> None:
        """Count a line. Raises BadInput when strict, unless the format allows for it."""
        if self.strict and not allowed:
            raise BadInput(f"{self.path}:{line}: {reason}")
        key = reason, action
        self._counts[key] = self._counts.get(key, 0) + 1
        lines = self._found.setdefault(key, [])
        if len(lines) < _SHOWN:
            lines.append(line)

    def total(self, action: str) -> int:
        """Count the lines that something was done about: skipped, clipped, assumed."""
        return sum(count for (_, done), count in self._counts.items() if done == action)

    def listed(self) -> list[Problem]:
        """Return every kind that was found, the most frequent first."""
        rows = (
            Problem(reason, action, count, tuple(self._found[reason, action]))
            for (reason, action), count in self._counts.items()
        )
        return sorted(rows, key=lambda row: (-row.times, row.reason))

    def document(self) -> list[dict[str, Any]]:
        """Return the same for JSON."""
        return [
            {"reason": row.reason, "action": row.action, "count": row.times, "lines": list(row.lines)}
            for row in self.listed()
        ]
