from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from leasehold.sdk.metrics import opentelemetry, prometheus
from leasehold.sdk.observing import Observers


def tell(observers: Observers) -> None:
    observers.waited("ci", "Granted", 1.5)
    observers.held("ci", "Released", 60.0)
    observers.renewed("Session", 20.0)


def test_histograms_for_prometheus() -> None:
    registry = CollectorRegistry()
    observers = Observers()
    observers.add(prometheus(registry))
    tell(observers)
    text = generate_latest(registry).decode()
    assert 'leasehold_client_wait_seconds_sum{outcome="Granted",pool="ci"} 1.5' in text
    assert 'leasehold_client_hold_seconds_sum{outcome="Released",pool="ci"} 60.0' in text
    assert 'leasehold_client_renew_lag_seconds_sum{liveness="Session"} 20.0' in text


def test_histograms_for_opentelemetry() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    observers = Observers()
    observers.add(opentelemetry(provider.get_meter("tests")))
    tell(observers)
    data = reader.get_metrics_data()
    assert data is not None
    recorded = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        assert metric.unit == "s"
        assert metric.description
        [point] = metric.data.data_points
        assert isinstance(point, HistogramDataPoint)
        recorded[metric.name] = (point.sum, point.count, dict(point.attributes or {}))
    assert recorded == {
        "leasehold_client_wait_seconds": (1.5, 1, {"pool": "ci", "outcome": "Granted"}),
        "leasehold_client_hold_seconds": (60.0, 1, {"pool": "ci", "outcome": "Released"}),
        "leasehold_client_renew_lag_seconds": (20.0, 1, {"liveness": "Session"}),
    }
    provider.shutdown()


def test_opentelemetry_counts_in_the_same_steps_as_prometheus() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    registry = CollectorRegistry()
    observers = Observers()
    observers.add(opentelemetry(provider.get_meter("tests")))
    observers.add(prometheus(registry))
    tell(observers)
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        [point] = metric.data.data_points
        assert isinstance(point, HistogramDataPoint)
        [family] = [one for one in registry.collect() if one.name == metric.name]
        steps = [float(sample.labels["le"]) for sample in family.samples if sample.name.endswith("_bucket")]
        assert list(point.explicit_bounds) == steps[:-1], metric.name
    provider.shutdown()


def test_an_observer_that_fails_harms_nobody() -> None:
    class Broken:
        def waited(self, *_: object) -> None:
            raise RuntimeError

        held = renewed = waited

    registry, observers = CollectorRegistry(), Observers()
    observers.add(Broken())
    observers.add(prometheus(registry))
    tell(observers)
    assert b"leasehold_client_wait_seconds_count" in generate_latest(registry)
