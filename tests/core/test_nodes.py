from collections.abc import Mapping
from typing import Any

import pytest
from tests.builders import GIB, NOON, at, clock, make_lease, make_node, make_pool, make_report

from leasehold.core.nodes import Node, Report, Verdict, judge, node_of, report_of, with_history

MEASURED = ({"name": "cpu"}, {"name": "memory"})


def judged(
    node: Node | None = None,
    report: Report | None = None,
    now: str = "",
    was: set[str] | None = None,
    requested: Mapping[str, int] | None = None,
    **pool: Any,
) -> Verdict:
    policy = make_pool(*pool.pop("resources", MEASURED), **pool)
    return judge(
        node or make_node(), report, policy, at(now), was_pressured=was or set(), requested=requested or {}
    )


def node_document(**status: Any) -> dict[str, Any]:
    meta = {"name": "n", "uid": "u", "resourceVersion": "1", "creationTimestamp": clock("-1h")}
    return {"metadata": meta, "status": status}


# --- reading ---


def test_a_node_without_a_ready_condition_is_not_ready_since_it_was_created() -> None:
    node = node_of(node_document())
    assert (node.ready, node.not_ready_since) == (False, at("-1h"))


def test_a_node_that_its_kubelet_left_is_not_ready_since_then() -> None:
    node = make_node(not_ready_since="-5m")
    assert (node.ready, node.not_ready_since) == (False, at("-5m"))
    assert make_node().not_ready_since is None


def test_a_node_that_is_being_deleted_is_not_ready_since_then() -> None:
    document = node_document(
        conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": clock("-1h")}]
    )
    document["metadata"]["deletionTimestamp"] = clock("-2m")
    node = node_of(document)
    assert (node.ready, node.not_ready_since) == (False, at("-2m"))


def test_an_amount_that_cannot_be_read_counts_as_absent() -> None:
    assert node_of(node_document(allocatable={"cpu": "4", "memory": "-5Gi"})).allocatable == {"cpu": 4000}


def test_a_reporter_that_has_not_written_yet_has_no_report() -> None:
    assert report_of({"metadata": {"name": "n"}, "spec": {"state": "Active"}}) is None


def test_a_report_without_a_percentile_counts_with_its_current_use() -> None:
    report = report_of(
        {
            "metadata": {"name": "n", "resourceVersion": "4"},
            "status": {"reportTime": clock(), "usage": [{"name": "cpu", "current": "700m"}]},
        }
    )
    assert report is not None
    assert (report.version, report.usage["cpu"]) == (4, (700, None))
    assert (report.excluded, report.has_owner, report.asked) == (False, False, frozenset())
    assert (report.generation, report.observed_generation, report.pods) == (0, 0, {})


def test_a_report_says_what_is_asked_now_and_which_spec_it_answers() -> None:
    build = make_lease("build")
    report = make_report(gone=[build], pods={"p1": build.uid, "p2": build.uid}, generation=5, observed=4)
    assert (report.generation, report.observed_generation) == (5, 4)
    assert report.pods == {"p1": build.uid, "p2": build.uid}
    assert report.asked == {build.uid}


def test_a_generation_ahead_of_the_objects_own_was_an_earlier_objects_and_counts_as_none() -> None:
    assert make_report(generation=1, observed=7).observed_generation == 0
    assert make_report(generation=7, observed=7).observed_generation == 7


def test_a_leases_uid_is_kept_once_however_many_pods_it_has() -> None:
    asked = "".join(["the-uid-", "of-a-lease"])
    rows = [{"uid": f"p{n}", "leaseUID": "".join(["the-uid-", "of-a-lease"])} for n in range(3)]
    report = report_of(
        {
            "metadata": {"name": "n", "generation": 2},
            "spec": {"leaseUIDs": [asked], "pods": rows},
            "status": {"reportTime": clock()},
        }
    )
    assert report is not None
    assert {id(lease) for lease in report.pods.values()} == {id(asked)}


# --- amounts ---


def test_measured_capacity_is_the_smaller_of_what_is_allocatable_and_what_was_measured() -> None:
    report = make_report(capacity={"cpu": "12", "memory": "100Gi"}, cpu="1", memory="4Gi")
    verdict = judged(report=report)
    assert verdict.total == (12_000, 64 * GIB)
    assert verdict.used == (1000, 4 * GIB)
    assert verdict.grantable


def test_allocatable_capacity_leaves_measured_use_aside() -> None:
    verdict = judged(
        report=make_report(capacity={"cpu": "12"}, cpu="9"),
        resources=({"name": "cpu", "source": "Allocatable"},),
    )
    assert (verdict.total, verdict.used) == ((16_000,), (0,))


def test_fixed_capacity_is_the_same_on_every_node() -> None:
    gpu = {"name": "vendor.example/gpu", "source": "Fixed", "fixedQuantity": "4"}
    assert judged(resources=(gpu,)).total == (4,)


def test_a_resource_the_node_does_not_have_is_zero() -> None:
    assert judged(resources=({"name": "vendor.example/gpu", "source": "Allocatable"},)).limit == (0,)


def test_reservation_and_overcommit_make_the_limit() -> None:
    cpu = {"name": "cpu", "source": "Allocatable", "reserved": "1", "allocationPercent": 200}
    memory = {"name": "memory", "source": "Allocatable", "reservedPercent": 25}
    assert judged(resources=(cpu, memory)).limit == (30_000, 48 * GIB)


def test_use_that_no_lease_explains_is_told_apart() -> None:
    verdict = judged(report=make_report(unmanaged={"memory": "3Gi"}))
    assert verdict.unmanaged == (0, 3 * GIB)


def test_what_pods_without_a_lease_request_is_used_by_others_or_what_was_measured_if_it_is_more() -> None:
    report = make_report(unmanaged={"cpu": "2", "memory": "3Gi"})
    asked = {"cpu": 5000, "memory": GIB, "ephemeral-storage": 7}
    assert judged(report=report, requested=asked).unmanaged == (5000, 3 * GIB)
    assert judged(report=make_report(), requested=asked).unmanaged == (5000, GIB), "nothing was told apart"
    assert judged(report=None, requested=asked).unmanaged == (5000, GIB)


def test_requests_count_where_nothing_is_measured() -> None:
    resources = (
        {"name": "cpu", "source": "Allocatable"},
        {"name": "vendor.example/gpu", "source": "Fixed", "fixedQuantity": "4"},
    )
    asked = {"cpu": 3000, "vendor.example/gpu": 1}
    report = make_report(unmanaged={"cpu": "9"})
    verdict = judged(report=report, requested=asked, resources=resources)
    assert verdict.unmanaged == (3000, 1)
    assert verdict.limit == (16_000, 4), "what the node may lend at all does not move with it"


# --- the taint of a dedicated pool ---


@pytest.mark.parametrize(
    ("taints", "pool"),
    [
        (None, ""),
        ([{"key": "other", "value": "ci", "effect": "NoSchedule"}], ""),
        (
            [
                {"key": "other", "effect": "NoExecute"},
                {"key": "leasehold.dev/pool", "value": "ci", "effect": "NoSchedule"},
            ],
            "ci",
        ),
    ],
)
def test_a_nodes_taint_says_which_pool_it_is_kept_for(taints: Any, pool: str) -> None:
    document = node_document()
    document["spec"] = {"taints": taints}
    assert node_of(document).dedicated_to == pool
    assert make_node().dedicated_to == ""


# --- reasons ---


@pytest.mark.parametrize(
    ("node", "report", "reason"),
    [
        (make_node(), make_report(), ""),
        (make_node(not_ready_since="-1m", cordoned=True), make_report(), "NodeNotReady"),
        (make_node(cordoned=True), None, "NodeCordoned"),
        (make_node(), None, "ReportMissing"),
        (make_node(), make_report(time="-11m"), "ReportStale"),
        (make_node(), make_report(time="2m"), "ReportFromFuture"),
        (make_node(), make_report(state="Excluded"), "NodeExcluded"),
        (make_node(), make_report(state="Excluded", time="-1h"), "NodeExcluded"),
    ],
)
def test_a_node_that_may_not_lend_says_why(node: Node, report: Report | None, reason: str) -> None:
    verdict = judged(node, report)
    assert verdict.reason == reason
    assert verdict.grantable is (reason == "")


def test_an_excluded_node_lends_nothing_even_where_nothing_is_measured() -> None:
    cpu = {"name": "cpu", "source": "Allocatable"}
    assert judged(report=make_report(state="Excluded"), resources=(cpu,)).reason == "NodeExcluded"
    assert judged(report=None, resources=(cpu,)).reason == ""


@pytest.mark.parametrize("report", [None, make_report(time="-1d"), make_report(time="1d")])
def test_a_pool_that_ignores_age_lends_whatever_the_report_says_of_its_time(report: Report | None) -> None:
    assert judged(report=report, on_stale="Ignore").grantable


def test_a_pool_that_ignores_age_goes_by_the_last_figures_it_has() -> None:
    verdict = judged(report=make_report(time="-1d", cpu="5", capacity={"cpu": "8"}), on_stale="Ignore")
    assert (verdict.total[0], verdict.used[0]) == (8000, 5000)


def test_a_node_that_fell_silent_does_not_seem_to_have_grown() -> None:
    report = make_report(capacity={"cpu": "8"})
    assert judged(report=report, now="1h").total[0] == 8000


def test_a_report_is_fresh_until_the_very_end_of_its_age() -> None:
    assert judged(report=make_report(), now="10m59s").reason == ""
    assert judged(report=make_report(), now="11m").reason == "ReportStale"


def test_a_clock_a_minute_ahead_is_believed_and_no_more() -> None:
    assert judged(report=make_report(time="60s")).reason == ""
    assert judged(report=make_report(time="61s")).reason == "ReportFromFuture"


def test_a_verdict_says_when_time_alone_will_change_it() -> None:
    assert judged(report=make_report()).revisit_at == at("11m")
    assert judged(report=make_report(), now="11m").revisit_at is None
    assert judged(report=make_report(time="5m")).revisit_at == at("4m")
    assert judged(report=None).revisit_at is None


# --- load ---

HOT = (
    {"name": "cpu", "highPercent": 80, "lowPercent": 60},
    {"name": "memory", "highPercent": 90, "lowPercent": 70},
)


@pytest.mark.parametrize(
    ("cpu", "was", "pressured"),
    [
        ("12800m", set(), {"cpu"}),
        ("12799m", set(), {"cpu"}),  # 79.99 % is rounded up: a threshold is never missed
        ("12600m", set(), set()),
        ("12600m", {"cpu"}, {"cpu"}),
        ("9601m", {"cpu"}, {"cpu"}),
        ("9600m", {"cpu"}, set()),
    ],
)
def test_pressure_begins_at_the_high_mark_and_ends_at_the_low_one(
    cpu: str, was: set[str], pressured: set[str]
) -> None:
    verdict = judged(report=make_report(cpu=cpu, memory="1Gi"), was=was, resources=HOT)
    assert verdict.pressured == pressured
    assert verdict.reason == ("PressureHigh" if pressured else "")


def test_pressure_of_one_resource_does_not_keep_another_pressed() -> None:
    verdict = judged(report=make_report(cpu="1", memory="50Gi"), was={"cpu"}, resources=HOT)
    assert verdict.pressured == set()


def test_a_ceiling_on_use_bars_a_node_above_it() -> None:
    assert judged(report=make_report(cpu="8", memory="1Gi"), max_usage=50).reason == ""
    assert judged(report=make_report(cpu="8001m", memory="1Gi"), max_usage=50).reason == "UsageHigh"


def test_use_is_a_share_of_what_the_node_has() -> None:
    assert judged(report=make_report(cpu="2", memory="32Gi")).use_permille == 500
    report = make_report(cpu="2", memory="0", capacity={"cpu": "4"})
    assert judged(report=report).use_permille == 500
    assert judged(report=None).use_permille == 0


def test_a_node_that_has_none_of_a_resource_uses_no_share_of_it() -> None:
    verdict = judged(make_node(cpu="0", memory="0"), make_report(cpu="0", memory="0"))
    assert (verdict.use_permille, verdict.limit) == (0, (0, 0))


def test_use_of_what_the_pool_does_not_lend_does_not_matter() -> None:
    report = make_report(cpu="16", memory="1Gi")
    assert judge(make_node(), report, make_pool({"name": "memory"}), NOON).use_permille == 20


# --- since when a report knows of a lease's pods ---


def test_a_report_knows_as_of_which_question_a_leases_pods_are_all_asked_about() -> None:
    first = with_history(make_report(pods={"a1": "a", "b1": "b"}, generation=3), None)
    assert first.asked_since == {"a": 3, "b": 3}
    same = with_history(make_report(pods={"a1": "a", "b1": "b"}, generation=4), first)
    assert same.asked_since == {"a": 3, "b": 3}, "something else was asked"
    more = with_history(make_report(pods={"a1": "a", "b1": "b", "b2": "b", "c1": "c"}, generation=5), same)
    assert more.asked_since == {"a": 3, "b": 5, "c": 5}
    less = with_history(make_report(pods={"b2": "b"}, generation=6), more)
    assert less.asked_since == {"b": 6}
    assert with_history(make_report(generation=7), less).asked_since == {}
