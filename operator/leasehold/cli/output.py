"""What commands print: tables as kubectl's, ages as kubectl's, and JSON, YAML or names for programs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import IO, Any, Final

GAP: Final = "   "
NONE: Final = "<none>"

_WIDTH: Final = 100
_MINUTE: Final = 60
_HOUR: Final = 3600
_NO_TEXT: Final = re.compile(r"[yYnN]|[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+|[-+]?0[oO][0-7]+")
"""To kubectl these are booleans and numbers, where they stand without quotes."""

_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "31", "32", "33"
STYLES: Final = {"bold": _BOLD, "dim": _DIM, "bad": _RED, "good": _GREEN, "warn": _YELLOW}


def plain(text: str, *, lines: bool = False) -> str:
    """Return a text with nothing in it that a terminal would act on: others wrote it."""
    return "".join(
        letter if letter.isprintable() or (lines and letter == "\n") else f"\\x{ord(letter):02x}"
        for letter in text
    )


def columns(text: str) -> int:
    """Return how many columns of a terminal a plain text takes: some letters take two, some none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(letter) else 2 if east_asian_width(letter) in ("W", "F") else 1 for letter in text
    )


def styled(text: str, style: str, stream: IO[str] | None = None) -> str:
    """Return a text in a style, on a terminal and where NO_COLOR is not set; else the text."""
    stream = stream or sys.stdout
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def terminal_width(stream: IO[str]) -> int:
    """Return how many columns a stream has: a terminal's, or 100 where it is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH
    except (OSError, ValueError):
        return _WIDTH


class Table:
    """Rows under headings, as kubectl aligns them. What is printed later keeps the widths of what was before."""

    def __init__(
        self, headings: Sequence[str], stream: IO[str] | None = None, *, headed: bool = True
    ) -> None:
        self._headings = tuple(headings)
        self._stream = stream
        self._widths = [len(heading) if headed else 0 for heading in headings]
        self._begun = not headed

    def write(self, rows: Iterable[Sequence[str]], indent: str = "") -> None:
        """Print rows, after the headings if they are the first."""
        cells = [[plain(str(cell)) for cell in row] for row in rows]
        for row in cells:
            self._widths = [max(width, columns(cell)) for width, cell in zip(self._widths, row, strict=True)]
        if not self._begun:
            cells.insert(0, list(self._headings))
            self._begun = True
        stream = self._stream or sys.stdout
        for row in cells:
            padded = (
                cell + " " * (width - columns(cell)) for cell, width in zip(row, self._widths, strict=True)
            )
            stream.write(indent + GAP.join(padded).rstrip() + "\n")
        stream.flush()


def json_text(document: object) -> str:
    """Return a document as JSON."""
    return json.dumps(document, indent=4) + "\n"


def yaml_text(document: object) -> str:
    """Return a document as YAML."""
    import yaml  # only who asks for it pays for it

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):  # type: ignore[misc]
        """Quotes what PyYAML reads as text and kubectl as something else."""

    def text(dumper: Any, value: str) -> Any:
        style = "'" if _NO_TEXT.fullmatch(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=True))


def write_document(document: object, form: str) -> None:
    """Print a document in a form for programs."""
    sys.stdout.write(json_text(document) if form == "json" else yaml_text(document))


def moment(text: object) -> float | None:
    """Return a time on the wire in seconds since the epoch; None where there is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def age(created: object, now: float) -> str:
    """Return how long ago something was made."""
    made = moment(created)
    return "<unknown>" if made is None else span(now - made)


def span(seconds: float) -> str:
    """Return a length of time as kubectl writes it: two units at most, and fewer the longer it is."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 2 * _MINUTE:
        return f"{max(whole, 0)}s"
    minutes, hours = whole // _MINUTE, whole // _HOUR
    if minutes < 10:
        return _two(minutes, "m", whole % _MINUTE, "s")
    if minutes < 3 * 60:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 2 * 365:
        return f"{days}d"
    if days < 8 * 365:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, of_large: str, small: int, of_small: str) -> str:
    return f"{large}{of_large}" + (f"{small}{of_small}" if small else "")


def resources(amounts: Mapping[str, object] | None) -> str:
    """Return amounts in one word: cpu=2,memory=4Gi."""
    return ",".join(f"{name}={amount}" for name, amount in (amounts or {}).items()) or NONE


def clock(text: object, now: float) -> str:
    """Return a time on the wire as people here read it: one on the day of ``now`` with the hour only."""
    at = moment(text)
    if at is None:
        return NONE
    local = datetime.fromtimestamp(at).astimezone()
    today = datetime.fromtimestamp(now).astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M:%S")
