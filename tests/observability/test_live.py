"""A real Prometheus scrapes a running operator and a running reporter: nothing is empty, and what is wrong rings."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.cluster.harness import fetch, until
from tests.observability.scene import CI, LAB, NAMESPACE, TENANTS, Scene
from tests.observability.tools import built

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = sorted((ROOT / "helm/leasehold/files/dashboards").glob("*.json"))
RULES = ROOT / "helm/leasehold/files/alerts/leasehold.yaml"
SECONDS = 20

pytestmark = pytest.mark.cluster


def hurried(rules: Any) -> Any:
    """The rules as they are, but for how long they wait before they ring."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["for"] = "1s"
    return rules


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    rules = hurried(yaml.safe_load(RULES.read_text()))
    with Scene(tmp_path_factory.mktemp("observed"), rules) as made:
        for _ in made.live(SECONDS):
            pass
        yield made


def filled(text: str) -> str:
    """A query as Grafana would send it, with everything chosen."""
    values = {
        "namespace": NAMESPACE,
        "pool": ".*",
        "tenant": ".*",
        "instance": ".*",
        "__rate_interval": "10s",
    }
    text = re.sub(r"\$(\w+)", lambda found: values[found[1]], text)
    assert "$" not in text
    return text


def test_no_panel_is_empty(scene: Scene) -> None:
    seen = 0
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                found = scene.prometheus.series(filled(target["expr"]), SECONDS)
                assert found, f"{path.stem}: {panel['title']}: {target['expr']}"
                seen += 1
    assert seen > 70


def test_every_variable_has_values(scene: Scene) -> None:
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert found is not None
                values = scene.prometheus.answer(f"label/{found[2]}/values", **{"match[]": filled(found[1])})
                assert values, f"{path.stem}: {variable['name']}"
    assert scene.prometheus.answer("label/tenant/values") == sorted(TENANTS)


def rows(section: str) -> dict[str, tuple[str, frozenset[str]]]:
    """The table of metrics: name to kind and labels."""
    text = (
        (ROOT / "docs/reference/metrics.md").read_text().partition(f"## {section}")[2].partition("\n## ")[0]
    )
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): (row[1], frozenset(re.findall(r"`(\w+)`", row[2]))) for row in cells}


@pytest.mark.parametrize(("section", "part"), [("Operator", "operator_port"), ("Reporter", "reporter_port")])
def test_the_table_of_metrics_says_what_is_served(scene: Scene, section: str, part: str) -> None:
    told = rows(section)
    status, page = fetch(f"http://127.0.0.1:{getattr(scene, part)}/metrics")
    assert status == 200
    served = {}
    for family in text_string_to_metric_families(page):
        name = family.name + "_total" * (family.type == "counter")
        served[name] = family
        kind, labels = told[name]
        assert (family.type, family.documentation != "") == (kind, True)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels, sample
    assert served.keys() == told.keys()
    assert lint(page) == ""


def lint(page: str) -> str:
    """Return what promtool has to say about names, units and help texts."""
    done = subprocess.run(
        [built("promtool") / "promtool", "check", "metrics"],
        input=page,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_linter_sees_names_that_are_against_convention() -> None:
    name = "leasehold_lag_milliseconds"
    assert name in lint(f"# HELP {name} Lag.\n# TYPE {name} gauge\n{name} 1\n")


def test_no_series_names_a_lease_or_its_namespace_and_few_name_anything(scene: Scene) -> None:
    """Leases come by the thousand. What grows with them would end in the alert that Prometheus is out of memory."""
    _, page = fetch(f"http://127.0.0.1:{scene.operator_port}/metrics")
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if re.search(r'"l-\d+"', line) or scene.host in line]
    before = len(lines)
    for _ in scene.live(5):
        pass
    _, page = fetch(f"http://127.0.0.1:{scene.operator_port}/metrics")
    after = [line for line in page.splitlines() if not line.startswith("#")]
    assert len(after) <= before + 20, set(after) - set(lines)


def test_what_is_wrong_rings_and_falls_silent_again(scene: Scene) -> None:
    """A lease that no node confirms, a pool that has no room, a status that is forged, an operator that is gone."""
    # A machine that stands still for seconds makes the others ring for a moment, and ReclaimsLate for its 15 minutes.
    late = {"LeaseholdReclaimsLate"}
    until(lambda: {alert for alert, _ in scene.prometheus.firing()} <= late, "nothing rings", 60)
    lease = scene.quarantine()
    scene.until_fires("LeaseholdLeasesQuarantined", LAB)
    (node,) = scene.lab_nodes.names
    scene.lab_nodes.cordon(node)
    scene.until_fires("LeaseholdPoolNotServing", LAB)
    mark = {"metadata": {"annotations": {"leasehold.dev/force-release": "true"}}}
    scene.kube.patch("clease", lease, mark, TENANTS[0])
    scene.until_fires("LeaseholdLeasesQuarantined", LAB, fires=False)
    scene.lab_nodes.uncordon(node)
    scene.until_fires("LeaseholdPoolNotServing", LAB, fires=False)
    held = scene.lease(CI)
    for forged in (7, 8, 9):
        status = {"status": {"observedGeneration": forged}}
        scene.kube.patch("clease", held, status, TENANTS[0], subresource="status")
        scene.kube.wait(
            "clease", held, TENANTS[0], until=lambda item: item["status"]["observedGeneration"] < 5
        )
    scene.until_fires("LeaseholdForeignWrites", CI)
    scene.stop_operator()
    scene.until_fires("LeaseholdOperatorUnavailable")
    scene.start_operator()
    scene.until_fires("LeaseholdOperatorUnavailable", fires=False)
