"""The page about conditions has every reason that the code can set, and says what to do about each that is trouble."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hack import conditions, generate

from leasehold.api import names
from leasehold.api.names import (
    LeaseCondition,
    LeaseReason,
    PodReason,
    PoolReason,
    RejectionReason,
    ReportReason,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "conditions.md").read_text()
REASONS = (LeaseReason, PoolReason, ReportReason, PodReason, RejectionReason)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("| `")
    ]


def test_whoever_reads_of_trouble_reads_what_to_do() -> None:
    assert conditions.missing() == [], "say in hack/conditions.py what to do about these"


def test_nothing_is_said_about_reasons_that_nobody_sets() -> None:
    assert conditions.unknown() == []


@pytest.mark.parametrize("kind", conditions.TABLES)
def test_every_reason_of_an_object_has_a_line_with_its_condition_and_status(kind: str) -> None:
    for condition, by_status in conditions.TABLES[kind].items():
        told = section(kind).partition(f"### {kind} {condition}\n")[2].partition("\n### ")[0]
        expected = [[f"`{status}`", f"`{reason}`"] for status, all_ in by_status.items() for reason in all_]
        assert [[row[0].lstrip("| "), row[1]] for row in rows(told)] == expected


@pytest.mark.parametrize(
    ("title", "enum"), [("Pod", PodReason), ("Why nodes were passed over", RejectionReason)]
)
def test_reasons_without_a_condition_of_ours_have_a_line(title: str, enum: type[names.Named]) -> None:
    assert [row[0].lstrip("| ") for row in rows(section(title))] == [f"`{reason}`" for reason in enum]


def used() -> Iterator[tuple[Path, str, str]]:
    """Every member of an enum of reasons that the operator's and the reporter's code names."""
    by_name = {enum.__name__: enum for enum in REASONS}
    for path in sorted((ROOT / "operator" / "leasehold").rglob("*.py")):
        if path.name == "names.py" or "demo" in path.parts or "testing" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        local = {
            alias.asname or alias.name: by_name[alias.name]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.name in by_name
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in local
            ):
                enum = local[node.value.id]
                yield path, enum.__name__, str(getattr(enum, node.attr))


def test_every_reason_that_the_code_names_is_on_the_page() -> None:
    found = list(used())
    assert len({(enum, reason) for _, enum, reason in found}) > 80, "the code is not read as it should be"
    on_page = set(re.findall(r"^\| (?:`\w+` \| )?`(\w+)` \|", PAGE, re.MULTILINE))
    assert [(path.name, reason) for path, _, reason in found if reason not in on_page] == []


def test_a_new_reason_without_a_word_about_what_to_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = {
        reason: text
        for reason, text in conditions.REMEDIES["CapacityLease"].items()
        if reason != "Fragmented"
    }
    monkeypatch.setattr(conditions, "REMEDIES", {**conditions.REMEDIES, "CapacityLease": lease})
    assert conditions.missing() == ["CapacityLease: Fragmented"]


def test_trouble_is_told_apart_for_every_condition_but_the_summary() -> None:
    told = set(conditions.TROUBLE)
    every = {(kind, condition) for kind, table in conditions.TABLES.items() for condition in table}
    assert every - told == {("CapacityLease", LeaseCondition.READY)}


def test_what_is_committed_is_what_the_names_say() -> None:
    assert generate.conditions_page() == PAGE
