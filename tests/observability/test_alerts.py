"""Every alert against promtool: it fires, it does not, it is over again, and what happens when its metric is absent."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.observability.tools import built

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "helm/leasehold/files/alerts/leasehold.yaml"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}

pytestmark = pytest.mark.cluster  # promtool has to be built first, as the API server has

GOOD_MINUTES, BAD_MINUTES = 60, 60
POOL = {"namespace": "leasehold-system", "pool": "ci"}
WHERE = 'namespace="leasehold-system",pod="a",pool="ci"'


@dataclass(frozen=True)
class Story:
    """An hour in which all is well, one in which it is not, and then all is well for long.

    `series` have for each phase what promtool adds each minute: `1+0` stays at 1. `shown` is the value as the texts
    show it, where they do. `fires_after` is how many minutes of trouble it takes; the alert must not fire before.
    """

    alert: str
    series: dict[str, tuple[str, str]]
    labels: dict[str, str]
    fires_after: int
    shown: str = ""
    over_after: int = 5


def gauge(good: float, bad: float) -> tuple[str, str]:
    return f"{good}+0", f"{bad}+0"


STORIES = [
    Story(
        "LeaseholdOperatorUnavailable",
        {'leasehold_ready{namespace="leasehold-system",pod="a"}': gauge(1, 0)},
        {},
        fires_after=5,
    ),
    Story(
        "LeaseholdLeaderMissing",
        {
            'leasehold_leading{namespace="leasehold-system",pod="a",shard="0"}': gauge(1, 0),
            'leasehold_leading{namespace="leasehold-system",pod="b",shard="0"}': gauge(0, 0),
        },
        {"namespace": "leasehold-system", "shard": "0"},
        fires_after=2,
        shown="0",
    ),
    Story(
        "LeaseholdLeaderMissing",
        {
            'leasehold_leading{namespace="leasehold-system",pod="a",shard="1"}': gauge(1, 1),
            'leasehold_leading{namespace="leasehold-system",pod="b",shard="1"}': gauge(0, 1),
        },
        {"namespace": "leasehold-system", "shard": "1"},
        fires_after=2,
        shown="2",
    ),
    Story(
        "LeaseholdLedgerInconsistent",
        {f'leasehold_pool_condition{{{WHERE},type="LedgerConsistent",status="False"}}': gauge(0, 1)},
        POOL,
        fires_after=1,
    ),
    Story(
        "LeaseholdPoolNotServing",
        {
            f'leasehold_pool_condition{{{WHERE},type="Ready",status="False"}}': gauge(0, 1),
            f'leasehold_pool_condition{{{WHERE},type="Draining",status="False"}}': gauge(1, 1),
        },
        POOL,
        fires_after=10,
    ),
    Story(
        "LeaseholdReportsStale",
        {
            f'leasehold_pool_nodes{{{WHERE},state="ReportStale"}}': gauge(0, 2),
            f'leasehold_pool_nodes{{{WHERE},state="ReportMissing"}}': gauge(0, 1),
            f'leasehold_pool_nodes{{{WHERE},state="NodeCordoned"}}': gauge(4, 4),
        },
        POOL,
        fires_after=15,
        shown="3",
    ),
    Story(
        "LeaseholdLeasesQuarantined",
        {
            f'leasehold_pool_leases{{{WHERE},state="Quarantined"}}': gauge(0, 3),
            f'leasehold_pool_leases{{{WHERE},state="Held"}}': gauge(5, 5),
        },
        POOL,
        fires_after=15,
        shown="3",
    ),
    Story(
        "LeaseholdReclaimsLate",
        {
            f'leasehold_lease_reclaim_delay_seconds_bucket{{{WHERE},le="1.0"}}': ("0+100", "6000+80"),
            f"leasehold_lease_reclaim_delay_seconds_count{{{WHERE}}}": ("0+100", "6000+100"),
        },
        POOL,
        # A quarter of an hour is looked at: four minutes of it are 5 % of all, and then ten minutes.
        fires_after=13,
        shown="80%",
        over_after=16,
    ),
    Story(
        "LeaseholdWritesRefused",
        {f"leasehold_write_refusals_total{{{WHERE}}}": ("7+0", "8+1")},
        POOL,
        fires_after=5,
        over_after=21,
    ),
    Story(
        "LeaseholdForeignWrites",
        {f"leasehold_foreign_writes_total{{{WHERE}}}": ("2+0", "3+1")},
        POOL,
        fires_after=0,
        over_after=62,
    ),
    Story(
        "LeaseholdQueueOld",
        {f"leasehold_pool_queue_age_seconds{{{WHERE}}}": gauge(1800, 7200)},
        POOL,
        fires_after=10,
        shown="2h 0m 0s",
    ),
]


def expected(story: Story) -> dict[str, Any]:
    """The alert as it must arrive: all its labels, and its texts with everything filled in."""
    rule = ALERTS[story.alert]

    def filled(text: str) -> str:
        text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: story.labels[found[1]], text)
        return re.sub(r"\{\{ \$value[^}]* \}\}", lambda _: story.shown, text)

    annotations = {key: filled(text) for key, text in rule["annotations"].items()}
    return {"exp_labels": {**story.labels, **rule["labels"]}, "exp_annotations": annotations}


def case(story: Story) -> dict[str, Any]:
    def values(good: str, bad: str) -> str:
        begun, step = map(float, bad.split("+"))
        counts = "+0" not in bad
        back = f"{begun + step * BAD_MINUTES}+{good.partition('+')[2]}" if counts else good
        return f"{good}x{GOOD_MINUTES - 1} {bad}x{BAD_MINUTES} {back}x{3 * GOOD_MINUTES}"

    begin, end = GOOD_MINUTES, GOOD_MINUTES + BAD_MINUTES
    at = {
        begin - 1: [],
        begin + story.fires_after - 1: [],
        end - 1: [expected(story)],
        end + story.over_after + 1: [],
    }
    return {
        "name": story.alert,
        "interval": "1m",
        "input_series": [{"series": name, "values": values(*both)} for name, both in story.series.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": story.alert, "exp_alerts": alerts}
            for minute, alerts in at.items()
        ],
    }


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [built("promtool") / "promtool", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(tests: list[dict[str, Any]], directory: Path) -> None:
    path = directory / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", path)


def test_promtool_finds_nothing_to_say_about_the_rules() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@pytest.mark.parametrize(
    "story", STORIES, ids=lambda story: f"{story.alert}-{'-'.join(story.labels.values())}"
)
def test_it_fires_not_too_early_and_ends(story: Story, tmp_path: Path) -> None:
    run([case(story)], tmp_path)


def test_a_story_in_which_the_alert_is_awaited_too_early_fails(tmp_path: Path) -> None:
    story = STORIES[0]
    early = case(story)
    early["alert_rule_test"][1]["exp_alerts"] = [expected(story)]
    with pytest.raises(AssertionError, match="FAILED"):
        run([early], tmp_path)


def test_without_any_metric_one_alert_says_so_and_no_other_fires(tmp_path: Path) -> None:
    """An operator that is gone takes all its metrics along: that must not pass in silence."""
    missing = STORIES[0]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": "up", "values": "0x120"}],
            "alert_rule_test": [
                {
                    "eval_time": "60m",
                    "alertname": name,
                    "exp_alerts": [expected(missing)] * (name == missing.alert),
                }
                for name in ALERTS
            ],
        }
    ]
    run(tests, tmp_path)


def test_a_pool_that_is_emptied_on_purpose_wakes_nobody(tmp_path: Path) -> None:
    story = next(story for story in STORIES if story.alert == "LeaseholdPoolNotServing")
    quiet = case(story)
    quiet["input_series"].append(
        {"series": f'leasehold_pool_condition{{{WHERE},type="Draining",status="True"}}', "values": "1x400"}
    )
    for moment in quiet["alert_rule_test"]:
        moment["exp_alerts"] = []
    run([quiet], tmp_path)


def test_every_alert_has_its_story_its_texts_and_its_runbook() -> None:
    assert {story.alert for story in STORIES} == set(ALERTS)
    assert len(ALERTS) <= 10
    pages = {path.stem for path in (ROOT / "docs/runbooks").glob("Leasehold*.md")}
    assert pages == set(ALERTS)
    for name, rule in ALERTS.items():
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{name}.md")
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        page = (ROOT / "docs/runbooks" / f"{name}.md").read_text()
        headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
        assert headings == ["Meaning", "Impact", "Diagnosis", "Mitigation", "Escalation"], name
        assert "```sh" in page.partition("## Diagnosis")[2].partition("## ")[0], name
