"""The page about the SDK, from signatures and docstrings: tried on a small SDK of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hack import generate, sdk_page

SMALL = '''"""Leases for programs.

    lease = acquire("ci")

That is all.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypedDict

__all__ = ["Gone", "Holder", "Kind", "Quote", "Wish", "acquire"]


class Wish(TypedDict, total=False):
    """What may be asked for."""

    cpu: str | int
    """Cores."""


class Kind(enum.StrEnum):
    """What is asked for."""

    WHOLE = "Whole"
    """All of it."""


class Gone(Exception):
    """It was lost. Ask again."""


@dataclass(frozen=True)
class Quote:
    """An answer."""

    cpu: str
    """As a quantity."""
    nodes: int = 1
    _hidden: int = 0


class Holder:
    """Who holds."""

    def __init__(self, name: str, *, strict: bool = True) -> None:
        pass

    @property
    def token(self) -> int:
        """It only ``grows``."""
        return 1

    async def release(self) -> None:
        """Give it back."""

    def _private(self) -> None:
        pass


def acquire(pool: str, *, kind: Kind = Kind.WHOLE, count: int | None = None) -> Holder:
    """Take one."""
    return Holder(pool)
'''


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package below ours, for as long as a test runs."""
    name = "small_sdk_of_a_test"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(SMALL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sdk_page, "PACKAGE", name)
    monkeypatch.setattr(sdk_page, "OURS", name)
    yield name
    sys.modules.pop(name, None)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, *rows))


def test_the_page_has_what_is_public_and_nothing_else(small: str) -> None:
    page = sdk_page.page(table)
    headings = [line for line in page.splitlines() if line.startswith("###")]
    assert headings == [
        "### acquire",
        "### Holder",
        "#### Holder.token",
        "#### Holder.release",
        "### Kind",
        "### Quote",
        "### Wish",
        "### Gone",
    ]


def test_the_page_says_how_it_is_called(small: str) -> None:
    page = sdk_page.page(table)
    assert "acquire(pool: str, *, kind: Kind = 'Whole', count: int | None = None) -> Holder\n" in page
    assert "Holder(name: str, *, strict: bool = True)\n" in page
    assert "async release()\n" in page
    assert "token: int\n" in page
    assert "An error; a kind of `Exception`." in page


def test_the_page_says_what_docstrings_say(small: str) -> None:
    page = sdk_page.page(table)
    assert '    lease = acquire("ci")\n' in page
    assert "It only `grows`." in page
    assert "| `cpu` | `str` |  | As a quantity. |" in page
    assert "| `nodes` | `int` | `1` |  |" in page
    assert "| `WHOLE` | `Whole` | All of it. |" in page
    assert "| `cpu` | `str | int` | Cores. |" in page
    assert "_hidden" not in page


def test_a_long_signature_has_a_line_for_each_argument() -> None:
    def ask(
        pool: str, *, duration: str = "a very long text by default", because: str = "it is so long"
    ) -> str:
        """Ask."""
        return pool

    assert sdk_page.signature("ask", ask).splitlines() == [
        "ask(",
        "    pool: str,",
        "    *,",
        "    duration: str = 'a very long text by default',",
        "    because: str = 'it is so long',",
        ") -> str",
    ]


def test_whoever_is_silent_is_named(small: str, tmp_path: Path) -> None:
    assert sdk_page.silent() == []
    sys.modules.pop(small, None)
    (tmp_path / small / "__init__.py").write_text(
        SMALL.replace('        """Give it back."""\n', "        pass\n")
    )
    assert sdk_page.silent() == [f"{small}.Holder.release"]


def test_the_real_one_is_on_its_page_and_says_what_it_does() -> None:
    """Where there is an SDK; until it is merged there is no page either."""
    path = Path("docs/reference/sdk.md")
    assert (path in generate.generated()) == sdk_page.exists() == (generate.ROOT / path).exists()
    assert not sdk_page.exists() or sdk_page.silent() == []
