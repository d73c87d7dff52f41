"""The site that `make docs` builds: every link leads somewhere, and nothing is loaded from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from leasehold.testing.toolchain import lock, print_progress

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".run" / "docs"
RULES = ROOT / "helm" / "leasehold" / "files" / "alerts" / "leasehold.yaml"
ADDRESS = "https://leasehold.dev/docs/"


@pytest.fixture(scope="session")
def mkdocs() -> Path:
    """The docs tool, which has an environment of its own; it is made where it is missing."""
    TOOLS.parent.mkdir(exist_ok=True)
    with lock(TOOLS.parent / ".docs.lock", "another test makes the docs tool ready", print_progress):
        subprocess.run(["make", "--no-print-directory", ".run/docs/ready"], cwd=ROOT, check=True, timeout=300)
    return TOOLS / "bin" / "mkdocs"


def build(mkdocs: Path, target: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", target],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="session")
def site(mkdocs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("docs") / "site"
    built = build(mkdocs, target)
    assert built.returncode == 0, built.stderr
    return target


_CODE = frozenset({"code", "pre", "script", "style"})


class Seen(HTMLParser):
    """What a page links to, what it loads, and what can be linked to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {""}
        self.prose: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag in _CODE
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif "src" in found:
            self.loads.append(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loads.append(found["href"])

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in _CODE

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.prose.append(data)


def read(page: Path) -> Seen:
    seen = Seen()
    seen.feed(page.read_text(encoding="utf-8"))
    return seen


def dead_links(site: Path) -> Iterator[str]:
    pages = {path: read(path) for path in site.rglob("*.html")}
    for path, seen in pages.items():
        if path.name == "404.html":  # its links are absolute: nobody knows where it is shown
            continue
        for link in (*seen.links, *seen.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield f"{path.relative_to(site)}: {link}"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(site)}: {link} has no such heading"


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    assert list(dead_links(site)) == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = {load for page in site.rglob("*.html") for load in read(page).loads}
    assert {load for load in loads if urlsplit(load).netloc} == set()
    assert {path.name for path in site.rglob("*.css") if "url(http" in path.read_text()} == set()


def not_understood(seen: Seen) -> list[str]:
    """Markdown that stands on a page as it was written."""
    mark = re.compile(r"\]\(|\| ---|```|\*\*\w|^ *[-*] \w", re.MULTILINE)
    return [found[0] for text in seen.prose for found in mark.finditer(text)]


def test_all_markdown_is_understood(site: Path) -> None:
    """What the tool does not take for a table, a list or a link it shows as it is written."""
    left = {page.name: not_understood(read(page)) for page in site.rglob("*.html")}
    assert {page: marks for page, marks in left.items() if marks} == {}


def test_markdown_that_is_not_understood_is_seen() -> None:
    seen = Seen()
    seen.feed("<p>A list:\n- one</p><p>[x](y)</p><p>| --- |</p><pre><code>[a](b)</code></pre><p>**so**</p>")
    assert not_understood(seen) == ["- o", "](", "| ---", "**s"]


def test_every_alert_leads_to_its_runbook(site: Path) -> None:
    rules = yaml.safe_load(RULES.read_text())
    addresses = [rule["annotations"]["runbook_url"] for group in rules["groups"] for rule in group["rules"]]
    assert addresses
    for address in addresses:
        path = address.removeprefix(ADDRESS)
        assert (site / path).is_file(), address
        assert (site / path).with_suffix(".html").is_file(), address


def test_machines_find_every_page(site: Path) -> None:
    listed = {
        line.partition(f"({ADDRESS}")[2].rstrip(")")
        for line in (site / "llms.txt").read_text().splitlines()
        if line.startswith("- ")
    }
    pages = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert listed == pages - {"404.md"}
    assert all((site / path).is_file() for path in listed)


@pytest.mark.parametrize("dead", ["[gone](gone.md)", "[no such heading](install.md#nowhere)"])
def test_a_link_that_leads_nowhere_stops_the_build(mkdocs: Path, tmp_path: Path, dead: str) -> None:
    for name in ("docs", "hack", "examples", "mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "capacity.md"
    page.write_text(f"{page.read_text()}\n{dead}\n")
    built = build(mkdocs, tmp_path / "site", tmp_path)
    assert built.returncode != 0
    assert "capacity.md" in built.stderr
