"""What `make docs` adds to MkDocs: pages from beside docs/, links that lead there, and the pages as Markdown.

The addresses of runbooks in alerts end with `.md`, so each page is on the site as its text, too; llms.txt lists them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.docs import pages

_texts: dict[str, str] = {}
_sections: list[tuple[str, list[tuple[str, str]]]] = []


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors that forges give them."""
    config.mdx_configs["toc"] = {**config.mdx_configs.get("toc", {}), "slugify": pages.slugify}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that come from beside docs/."""
    for path, text in pages.generated():
        files.append(File.generated(config, path, content=text))
    return files


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Remember what is where, for llms.txt."""
    _sections.clear()
    for item in nav.items:
        found = list(_pages(item))
        _sections.append((item.title or "Start", found))
    return nav


def _pages(item: Any) -> list[tuple[str, str]]:
    if item.is_page:
        return [(item.title or "Leasehold", item.file.src_uri)]
    return [page for child in item.children or () for page in _pages(child)]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to what the site has."""
    path = page.file.src_uri
    made_here = page.file.generated_by is not None
    text = markdown if made_here else pages.for_site(markdown, path, f"docs/{path}")
    _texts[path] = text
    return text


def on_post_build(config: MkDocsConfig) -> None:
    """Put each page beside its HTML as Markdown, and the index of them."""
    site = Path(config.site_dir)
    for path, text in _texts.items():
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    (site / "llms.txt").write_text(pages.index_for_machines(_sections), encoding="utf-8")
