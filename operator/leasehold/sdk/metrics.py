"""Metrics of a client, off unless asked for: how long it waits, how long it holds, how late it renews.

    client.observe(metrics.prometheus())                                 # needs prometheus-client
    client.observe(metrics.opentelemetry(get_meter("my-app")))           # a meter of OpenTelemetry's API

Names and units are the same in both. Labels are pools, outcomes and kinds of liveness: never names of leases.
"""

from __future__ import annotations

from typing import Any, Final

from leasehold.sdk.observing import Observer

__all__ = ["opentelemetry", "prometheus"]

WAIT: Final = ("leasehold_client_wait_seconds", "How long requests waited, until granted or given up.")
HOLD: Final = ("leasehold_client_hold_seconds", "How long leases were held, until given back or lost.")
LAG: Final = (
    "leasehold_client_renew_lag_seconds",
    "How long a heartbeat had to serve until the next was confirmed; beyond the pool's heartbeatTimeoutSeconds leases"
    " are lost.",
)

_MINUTES: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
_SECONDS: Final = (0.5, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 120, 300)


def prometheus(registry: Any = None) -> Observer:
    """Return an observer that fills histograms in a registry of prometheus-client (None: the default one)."""
    from prometheus_client import REGISTRY, Histogram

    class Prometheus:
        def __init__(self) -> None:
            into = registry if registry is not None else REGISTRY
            self.wait = Histogram(*WAIT, ("pool", "outcome"), registry=into, buckets=_MINUTES)
            self.hold = Histogram(*HOLD, ("pool", "outcome"), registry=into, buckets=_MINUTES)
            self.lag = Histogram(*LAG, ("liveness",), registry=into, buckets=_SECONDS)

        def waited(self, pool: str, outcome: str, seconds: float) -> None:
            self.wait.labels(pool, outcome).observe(seconds)

        def held(self, pool: str, outcome: str, seconds: float) -> None:
            self.hold.labels(pool, outcome).observe(seconds)

        def renewed(self, liveness: str, seconds: float) -> None:
            self.lag.labels(liveness).observe(seconds)

    return Prometheus()


def opentelemetry(meter: Any) -> Observer:
    """Return an observer that records into histograms of a meter (`opentelemetry.metrics.get_meter`, since 1.30).

    It advises the boundaries that `prometheus` has: OpenTelemetry's own are meant for milliseconds.
    """

    class OpenTelemetry:
        def __init__(self) -> None:
            self.wait, self.hold, self.lag = (
                meter.create_histogram(
                    name, unit="s", description=text, explicit_bucket_boundaries_advisory=boundaries
                )
                for (name, text), boundaries in ((WAIT, _MINUTES), (HOLD, _MINUTES), (LAG, _SECONDS))
            )

        def waited(self, pool: str, outcome: str, seconds: float) -> None:
            self.wait.record(seconds, {"pool": pool, "outcome": outcome})

        def held(self, pool: str, outcome: str, seconds: float) -> None:
            self.hold.record(seconds, {"pool": pool, "outcome": outcome})

        def renewed(self, liveness: str, seconds: float) -> None:
            self.lag.record(seconds, {"liveness": liveness})

    return OpenTelemetry()
