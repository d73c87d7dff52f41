"""What the workers of all pools share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.metrics import Metrics
from leasehold.adapters.recorder import Recorder
from leasehold.adapters.writers import Writers
from leasehold.core.lease import Lease
from leasehold.core.quote import Offer
from leasehold.core.state import OVERDUE_PER_SECOND

Json = Mapping[str, Any]


class PlaceholderTerms(NamedTuple):
    """Where placeholders are made, of what image, and with which PriorityClass unless a pool names another."""

    namespace: str = "leasehold-system"
    image: str = "registry.k8s.io/pause:3.10.1"
    priority_class: str = "leasehold-placeholder"


class Tools:
    """What every worker shares. `elsewhere` says what the best other pool could do for a lease now."""

    def __init__(
        self,
        client: KubeClient,
        clock: SteadyClock,
        cluster: Cluster,
        recorder: Recorder,
        metrics: Metrics,
        writers: int,
        debounce: float,
        elsewhere: Callable[[str, Lease], Offer | None] = lambda pool, lease: None,
        overdue_per_second: int = OVERDUE_PER_SECOND,
        placeholders: PlaceholderTerms | None = None,
    ) -> None:
        self.client = client
        self.clock = clock
        self.cluster = cluster
        self.recorder = recorder
        self.metrics = metrics
        self.writers = Writers(writers)
        self.debounce = debounce
        self.elsewhere = elsewhere
        self.overdue_per_second = overdue_per_second
        self.placeholders = placeholders or PlaceholderTerms()
