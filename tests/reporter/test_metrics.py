"""The reporter's metrics, as any Prometheus would read them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from leasehold.api.names import ConditionStatus, Presence, ReportCondition, ReportReason
from leasehold.core.reporting import Facts, Figures, Verdict
from leasehold.reporter.metrics import FAMILIES, Metrics

FACTS = Facts(
    boot_id="b",
    capacity={"cpu": 2000, "memory": 8 << 30, "vendor.example/gpu": 4},
    figures={"cpu": Figures(500, 250, 750, None), "memory": Figures(1 << 30, 1 << 30, 2 << 30, 3 << 20)},
    verdicts=(Verdict(ReportCondition.READY, ConditionStatus.TRUE, ReportReason.REPORTING),),
    leases={"u1": Presence.GONE, "u2": Presence.PRESENT, "u3": Presence.GONE},
)


def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    families = list(text_string_to_metric_families(metrics.page().decode()))
    names = [family.name + "_total" * (family.type == "counter") for family in families]
    assert names == [family.name for family in FAMILIES]
    assert [(f.type, f.documentation) for f in families] == [(f.kind, f.text) for f in FAMILIES]
    labels = {family.name: set(family.labels) for family in FAMILIES}
    found = {}
    for family in families:
        for sample in family.samples:
            assert set(sample.labels) == labels[sample.name]
            found[(sample.name.removeprefix("leasehold_reporter_"), *sample.labels.values())] = sample.value
    return found


def test_before_the_first_look_it_says_what_it_knows_and_nothing_else() -> None:
    found = read(Metrics("1.2", resident=lambda: 4096, wall=lambda: 1000.5))
    assert found.pop(("process_cpu_seconds_total",)) > 0
    assert found == {
        ("build_info", "1.2"): 1,
        ("readings_total", "ok"): 0,
        ("readings_total", "failed"): 0,
        ("leases", "Present"): 0,
        ("leases", "Gone"): 0,
        ("process_resident_memory_bytes",): 4096,
        ("process_start_time_seconds",): 1000.5,
    }


def test_what_was_seen_is_in_base_units() -> None:
    metrics = Metrics()
    metrics.looked(FACTS, -0.25)
    found = read(metrics)
    assert found["node_capacity", "cpu", "core"] == 2
    assert found["node_capacity", "memory", "byte"] == 8 << 30
    assert found["node_capacity", "vendor.example/gpu", ""] == 4
    assert found["node_usage", "cpu", "core", "p90"] == 0.75
    assert ("node_usage", "cpu", "core", "unmanaged") not in found
    assert found["node_usage", "memory", "byte", "unmanaged"] == 3 << 20
    assert found["condition", "Ready", "True"] == 1
    assert (found["leases", "Gone"], found["leases", "Present"]) == (2, 1)
    assert found["clock_offset_seconds",] == -0.25


def test_readings_and_requests_are_counted_and_a_write_that_was_taken_is_a_report() -> None:
    now = [50.0]
    metrics = Metrics(wall=lambda: now[0])
    metrics.read()
    metrics.read(failed=True)
    for method, status in (("GET", 404), ("POST", 201), ("PATCH", 0), ("PATCH", 422)):
        metrics.answered(method, status)
    assert ("report_timestamp_seconds",) not in read(metrics)
    now[0] = 60.0
    metrics.answered("PATCH", 200)
    metrics.answered("PATCH", 200)
    found = read(metrics)
    assert found["report_timestamp_seconds",] == 60
    assert (found["readings_total", "ok"], found["readings_total", "failed"]) == (1, 1)
    assert found["requests_total", "PATCH", "200"] == 2
    assert found["requests_total", "PATCH", "0"] == 1


def test_a_label_may_hold_anything() -> None:
    assert read(Metrics('a"b\\c\nd'))["build_info", 'a"b\\c\nd'] == 1
