"""The code blocks of the pages, and what the pages say about them.

A comment in the line above a block says how it is tried, for readers of the page's text to see:

- `<!-- not run: WHY -->`: it is only shown.
- `<!-- part of a KIND -->`: YAML that is tried within an object of that kind, the least that the API server takes.

A page with `<!-- run as a whole -->` is one story, which tests/docs/test_tutorial.py plays in one shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
WHOLE = "<!-- run as a whole -->"

LANGUAGES = frozenset({"yaml", "sh", "python", "text", "console"})
"""`text` and `console` are for eyes: drawings, and what a command prints."""

_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?P<mark>not run: .+|part of an? \w+) -->\n+\Z")


@dataclass(frozen=True)
class Block:
    page: str
    number: int
    """From 1, among all of its page."""
    line: int
    language: str
    text: str
    mark: str
    """What the comment above it says; "" without one."""

    @property
    def name(self) -> str:
        return f"{self.page}-{self.number}"

    @property
    def not_run(self) -> str:
        """Why it is not run; "" for one that is."""
        return self.mark.partition("not run: ")[2]

    @property
    def part_of(self) -> str:
        """The kind of the object that it is part of; "" for one that stands by itself."""
        return self.mark.rpartition(" ")[2] if self.mark.startswith("part of ") else ""


def blocks_of(path: Path) -> Iterator[Block]:
    page = path.read_text()
    for number, found in enumerate(_FENCE.finditer(page), start=1):
        mark = _MARK.search(page[: found.start()])
        yield Block(
            page=path.relative_to(ROOT).as_posix(),
            number=number,
            line=page.count("\n", 0, found.start()) + 1,
            language=found["language"],
            text=found["text"],
            mark=mark["mark"] if mark else "",
        )


def told_as_a_whole(path: Path) -> bool:
    return WHOLE in path.read_text()


BLOCKS = tuple(block for path in PAGES for block in blocks_of(path))
APART = tuple(
    block for path in PAGES if not told_as_a_whole(path) for block in blocks_of(path) if not block.not_run
)
"""Those that are tried one by one."""


def of(language: str) -> list[Block]:
    return [block for block in APART if block.language == language]
