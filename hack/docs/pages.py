"""What the site has beside the pages in docs/, and how their links lead within it. Standard library only.

Pages are written so that they read well in the repository: they link to files beside docs/ too. On the site those are
pages of their own where people look for them (the examples, how to contribute, the changes), and plain text otherwise.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

ADDRESS: Final = "https://leasehold.dev/docs/"
EXAMPLES: Final = "examples.md"
FROM_THE_ROOT: Final = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "README.md": "index.md",
}
"""Pages of the site that are files at the root of the repository; README.md is there for links to it."""

_FOLDERS: Final = {
    "": "",
    "pods": "For pools that hold pods to their leases, see [pods](pods.md).",
    "integrations": "For programs that take leases, see [integrate a task router](integrate-task-router.md).",
}
_LANGUAGES: Final = {".yaml": "yaml", ".py": "python"}

_LINK: Final = re.compile(r"(?P<mark>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_CODE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

SUMMARY: Final = (
    "A Kubernetes operator that lends out a cluster's capacity for a time: pools over nodes, leases with an end, queues"
    " that know when it is whose turn, and capacity measured on the nodes."
)


def slug(text: str) -> str:
    """Return the anchor that forges give to a heading, so that one link works in the repository and on the site."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def slugify(text: str, separator: str) -> str:
    """Return the anchor of a heading, as Markdown's table of contents asks for it."""
    return slug(re.sub(r"<[^>]*>", "", text))


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Return the page with its text changed and its fenced blocks as they are."""
    parts, at = [], 0
    for block in _CODE.finditer(markdown):
        parts += [change(markdown[at : block.start()]), block[0]]
        at = block.end()
    return "".join((*parts, change(markdown[at:])))


def for_site(markdown: str, page: str, source: str) -> str:
    """Return a page as the site has it: every link leads to what the site has.

    page: its path on the site. source: its path in the repository.
    """

    def lead(found: re.Match[str]) -> str:
        target, hash_, anchor = found["target"].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        on_site, anchor = _on_site(there, anchor)
        if on_site is None:  # a file that only the repository has
            return found["text"]
        way = posixpath.relpath(on_site, posixpath.dirname(page) or ".")
        return f"{found['mark']}[{found['text']}]({way}{'#' * bool(hash_ or anchor)}{anchor})"

    return outside_code(markdown, lambda text: _LINK.sub(lead, text))


def _on_site(path: str, anchor: str) -> tuple[str | None, str]:
    """Return where a path of the repository is on the site, and the anchor there."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/"), anchor
    if path in FROM_THE_ROOT:
        return FROM_THE_ROOT[path], anchor
    if path == "examples" or path.startswith("examples/"):
        return EXAMPLES, anchor or slug(path.removeprefix("examples").removeprefix("/"))
    return None, anchor


def generated() -> Iterator[tuple[str, str]]:
    """Yield the pages that docs/ does not have: path on the site, and text."""
    for source, page in FROM_THE_ROOT.items():
        if source != "README.md":
            yield page, for_site((ROOT / source).read_text(encoding="utf-8"), page, source)
    yield EXAMPLES, examples_page()


def examples_page() -> str:
    """Return all of examples/ as one page."""
    parts = [
        "# Examples\n",
        "The folder `examples/` of the repository. Tests apply every manifest, and run every program, on a real API"
        " server.\n",
    ]
    for folder, about in _FOLDERS.items():
        if about:
            parts.append(f"## {folder}\n\n{about}\n")
        for path in sorted((ROOT / "examples" / folder).iterdir()):
            language = _LANGUAGES.get(path.suffix)
            if language:
                name = path.relative_to(ROOT / "examples").as_posix()
                parts.append(f"## {name}\n\n```{language}\n{path.read_text(encoding='utf-8').strip()}\n```\n")
    return "\n".join(parts)


def index_for_machines(sections: list[tuple[str, list[tuple[str, str]]]]) -> str:
    """Return llms.txt: the pages, as Markdown, by section; each as its title and its path."""
    lines = ["# Leasehold", "", f"> {SUMMARY}", ""]
    for title, pages in sections:
        lines += [f"## {title}", "", *(f"- [{name}]({ADDRESS}{path})" for name, path in pages), ""]
    return "\n".join(lines)
