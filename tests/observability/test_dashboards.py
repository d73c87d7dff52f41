"""The dashboards as files: they import anywhere, and their panels lie side by side."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

FILES = sorted((Path(__file__).resolve().parents[2] / "helm/leasehold/files/dashboards").glob("*.json"))
WINDOW = re.compile(r"(?:rate|increase)\(\w+(?:\{[^}]*\})?\[([^\]]+)\]")


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def page(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text())
    return found


def targets(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in page["panels"] for target in panel.get("targets", ())]


def uids(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["uid"]} if "uid" in value else set()
        return own.union(*map(uids, value.values()))
    return set().union(*map(uids, value)) if isinstance(value, list) else set()


def test_there_are_four() -> None:
    assert [path.stem for path in FILES] == ["overview", "pool", "reporter", "tenant"]


def test_the_data_source_is_chosen_and_never_written_down(page: dict[str, Any]) -> None:
    assert uids(page) == {"${datasource}"}
    assert "id" not in page
    first = page["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")


def test_every_query_is_of_one_installation_and_of_what_was_chosen(page: dict[str, Any]) -> None:
    names = {variable["name"] for variable in page["templating"]["list"]} - {"datasource"}
    assert "namespace" in names
    for target in targets(page):
        for selector in re.findall(r"\bleasehold_\w+\{([^}]*)\}", target["expr"]):
            assert 'namespace=~"$namespace"' in selector, target["expr"]
        used = set(re.findall(r"\$(\w+)", target["expr"]))
        assert used <= names | {"__rate_interval"}, target["expr"]
    asked = " ".join(target["expr"] for target in targets(page))
    assert all(f"${name}" in asked for name in names)


def test_rates_are_over_what_the_resolution_asks_for(page: dict[str, Any]) -> None:
    for target in targets(page):
        assert set(WINDOW.findall(target["expr"])) <= {"$__rate_interval", "1h"}, target["expr"]
        assert "irate" not in target["expr"]


def test_panels_say_what_they_mean_and_do_not_overlap(page: dict[str, Any]) -> None:
    panels = page["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    for one, other in itertools.combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)
