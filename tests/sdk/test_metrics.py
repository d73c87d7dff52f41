from __future__ import annotations

from typing import Any

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


class Meter:
    """As much of OpenTelemetry's API as is used; the library itself is no dependency, and the meter is given."""

    def __init__(self) -> None:
        self.recorded: list[Any] = []

    def create_histogram(self, name: str, unit: str = "", description: str = "") -> Any:
        meter = self

        class Histogram:
            def record(self, amount: float, attributes: Any = None) -> None:
                meter.recorded.append((name, unit, amount, attributes))

        assert description
        return Histogram()


def test_histograms_for_opentelemetry() -> None:
    meter = Meter()
    observers = Observers()
    observers.add(opentelemetry(meter))
    tell(observers)
    assert meter.recorded == [
        ("leasehold_client_wait_seconds", "s", 1.5, {"pool": "ci", "outcome": "Granted"}),
        ("leasehold_client_hold_seconds", "s", 60.0, {"pool": "ci", "outcome": "Released"}),
        ("leasehold_client_renew_lag_seconds", "s", 20.0, {"liveness": "Session"}),
    ]


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
