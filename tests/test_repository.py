"""The repository keeps its promises: pages that link, commands that explain themselves, examples that are valid."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from leasehold.api.lease import CapacityLease
from leasehold.api.pool import CapacityPool
from leasehold.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
MODELS: dict[str, type[CapacityPool | CapacityLease]] = {
    "CapacityPool": CapacityPool,
    "CapacityLease": CapacityLease,
}

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def anchors(page: Path) -> set[str]:
    """The anchors that forges give to headings."""
    text = FENCED.sub("", page.read_text())
    return {re.sub(r"[^\w\- ]", "", found.lower()).replace(" ", "-") for found in HEADING.findall(text)}


def links(page: Path) -> Iterator[tuple[str, str]]:
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, anchor = target.partition("#")
            yield path, anchor


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_there(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {path}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


def test_the_source_folder_is_no_package() -> None:
    """operator/__init__.py would shadow the standard library's operator."""
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_every_target_is_explained_by_make_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    explained = {
        line.split()[0]
        for line in re.sub(r"\x1b\[[0-9;]*m", "", shown.stdout).splitlines()
        if len(line.split()) > 2
    }
    assert explained == set(phony[1].split())


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def test_examples_are_numbered_without_gaps() -> None:
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))


def unknown_fields(written: object, read: object, at: str = "") -> Iterator[str]:
    """What a model read past: it leaves out fields that it does not know."""
    if isinstance(written, dict):
        for name, value in written.items():
            if not isinstance(read, dict) or name not in read:
                yield f"{at}.{name}".lstrip(".")
            else:
                yield from unknown_fields(value, read[name], f"{at}.{name}")
    elif isinstance(written, list) and isinstance(read, (list, tuple)):
        for one, other in zip(written, read, strict=True):
            yield from unknown_fields(one, other, f"{at}[]")


def check(document: dict[str, Any]) -> None:
    read = MODELS[document["kind"]].model_validate(document)
    spec = read.model_dump(mode="json", by_alias=True)["spec"]
    assert list(unknown_fields(document["spec"], spec, "spec")) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_what_the_models_accept(path: Path) -> None:
    for document in documents(path):
        if document["kind"] in MODELS:
            check(document)


def test_a_field_that_no_model_knows_is_found() -> None:
    (document,) = documents(EXAMPLES[1])
    document["spec"]["leasePolicy"]["gracePeriodSecond"] = 1
    with pytest.raises(AssertionError, match=re.escape("spec.leasePolicy.gracePeriodSecond")):
        check(document)


SHOWN = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{k}")
    for page in tracked("*.md")
    for k, block in enumerate(YAML.findall(page.read_text()), start=1)
    if "apiVersion: leasehold.dev/" in block
]


@pytest.mark.parametrize("block", SHOWN)
def test_what_pages_show_is_what_the_models_accept(block: str) -> None:
    for document in yaml.safe_load_all(block):
        check(document)


def test_the_readme_shows_the_shortest_example_as_it_stands() -> None:
    (shown,) = YAML.findall((ROOT / "README.md").read_text())
    assert list(yaml.safe_load_all(shown)) == documents(EXAMPLES[0])


def table_names(page: Path, section: str) -> set[str]:
    """The names in code in the first column of a section's table."""
    text = page.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def test_the_settings_page_names_every_setting() -> None:
    shown = table_names(ROOT / "docs" / "operations.md", "Settings of the operator")
    assert shown == {f"LEASEHOLD_{field.name.upper()}" for field in fields(Settings)}


@pytest.mark.parametrize("path", sorted((ROOT / "changelog.d").glob("*")), ids=lambda path: path.name)
def test_changelog_fragments_are_named_for_an_issue_and_a_kind(path: Path) -> None:
    kinds = "feature|bugfix|doc|removal|misc"
    assert path.name == "README.md" or re.fullmatch(rf"\d+\.({kinds})(\.\d+)?\.md", path.name)
