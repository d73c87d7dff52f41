"""The tutorial, from `make up` to `make down`: its commands run in one shell as they stand, and print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.blocks import ROOT, Block, blocks_of

pytestmark = pytest.mark.cluster

PAGE = ROOT / "docs" / "tutorial.md"
_SECONDS = 600

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository as a reader has it, but for a `.run` of its own, so that it meets nobody's."""
    for path in ROOT.iterdir():
        if path.name not in (".run", ".venv"):
            (tmp_path / path.name).symlink_to(path)
    # The environment that runs this test, which make is not to set up anew.
    environment = tmp_path / ".venv"
    environment.mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != "ready":
            (environment / path.name).symlink_to(path)
    (environment / "ready").touch()
    return tmp_path


def steps() -> list[tuple[Block, str]]:
    """Each block of commands, and what the page shows of what it prints, "" where it shows nothing."""
    blocks = list(blocks_of(PAGE))
    shown = {block.number: block.text for block in blocks if block.language == "text"}
    return [(block, shown.get(block.number + 1, "")) for block in blocks if block.language == "sh"]


def pattern(shown: str) -> re.Pattern[str]:
    """What a command prints, by what the page shows: … is anything, a time is any time, room between columns any room.

    The page shows the end of what is printed, or all of it.
    """
    lines = []
    for line in shown.splitlines():
        parts = []
        for word in re.split(r"(\s+|…)", _TIME.sub("\0", line)):
            if word == "…":
                parts.append(r".*")
            elif word.isspace():
                parts.append(r"\s+")
            else:
                parts.append(re.escape(word).replace(re.escape("\0"), _TIME.pattern))
        lines.append("".join(parts) if line != "…" else r"(?:.*\n)*.*")
    return re.compile(r"(?:^|\n)" + r"\n".join(lines) + r"\s*\Z")


def test_the_tutorial_works_as_it_stands(checkout: Path) -> None:
    marker = "--- end of block {} ---"
    script = "".join(f"{block.text}\necho '{marker.format(block.number)}'\n" for block, _ in steps())
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=checkout,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        printed = done.stdout
        for block, shown in steps():
            own, end, printed = printed.partition(marker.format(block.number) + "\n")
            assert end, f"{PAGE.name}, line {block.line}:\n{block.text}\nprinted\n{own}\n{done.stderr}"
            assert pattern(shown).search(own), (
                f"{PAGE.name}, line {block.line}: shown\n{shown}\nprinted\n{own}"
            )
        assert done.returncode == 0
        assert not (checkout / ".run" / "demo.json").exists()
        assert not (checkout / ".run" / "env").exists()
    finally:
        subprocess.run(["make", "down"], cwd=checkout, capture_output=True, timeout=120, check=False)


def test_what_the_page_shows_is_compared_with_what_is_printed() -> None:
    shown = "NAME   READY   AGE\nci     True    …\n"
    assert pattern(shown).search("created\nNAME  READY  AGE\nci    True   3s\n")
    assert not pattern(shown).search("NAME  READY  AGE\nci    False   3s\n")
    assert not pattern(shown).search("NAME  READY  AGE\nci    True   3s\nother   True   3s\n")
    assert pattern("until 2026-11-28T10:55:40.456Z\n").search("until 2030-01-01T00:00:00Z\n")
    assert not pattern("until 2026-11-28T10:55:40.456Z\n").search("until tomorrow\n")


def test_every_command_of_the_tutorial_is_tried() -> None:
    assert len(steps()) >= 12
    assert [block.line for block in blocks_of(PAGE) if block.not_run] == []
