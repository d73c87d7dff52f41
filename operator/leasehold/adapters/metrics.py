"""Prometheus metrics of the operator: every name with its help text, in base units.

docs/reference/metrics.md is generated from what is registered here. Labels come from closed sets: pools, tenants of a
pool, resources, reasons; never leases, namespaces or nodes.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from leasehold import __version__
from leasehold.api.names import CPU, EPHEMERAL_STORAGE, MEMORY, LeaseCondition, LeaseReason
from leasehold.core.course import Notice
from leasehold.core.fairness import MILLION
from leasehold.core.lease import Lease
from leasehold.core.pool_status import figures_of, node_counts, scheduled_count, waiting_count
from leasehold.core.state import PoolState
from leasehold.core.times import SECOND, parse_time

if TYPE_CHECKING:
    from leasehold.adapters.cluster import Cluster
    from leasehold.adapters.election import Elector, Leadership
    from leasehold.adapters.kube.client import KubeClient
    from leasehold.adapters.kube.informer import Informer
    from leasehold.adapters.recorder import Recorder

_MINUTES = (1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
_WITHOUT_DEADLINE = frozenset(
    {LeaseReason.RELEASE_REQUESTED, LeaseReason.NODE_LOST, LeaseReason.NAMESPACE_GONE}
)
_FAST = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_WRITE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RECLAIM = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_UNITS = {CPU: ("core", 1000), MEMORY: ("byte", 1), EPHEMERAL_STORAGE: ("byte", 1)}

disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each counter and histogram, which nobody asks for


class Metrics:
    """The operator's own registry; two operators in one process do not share it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.states: dict[str, PoolState] = {}
        self.conditions: dict[str, list[Mapping[str, Any]]] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"leasehold_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
            return Histogram(
                f"leasehold_{name}", text, labels, registry=self.registry, buckets=tuple(buckets)
            )

        self.grants = counter("lease_grants_total", "Leases granted.", "pool")
        self.ends = counter(
            "lease_ends_total", "Leases that gave their capacity back, by cause.", "pool", "cause"
        )
        self.events = counter(
            "lease_events_total", "State changes worth an Event, by reason.", "pool", "reason"
        )
        self.wait = histogram("lease_wait_seconds", "From a lease's creation to its grant.", _MINUTES, "pool")
        self.hold = histogram("lease_hold_seconds", "From a lease's grant to its release.", _MINUTES, "pool")
        self.receipts = counter(
            "lease_receipts_total",
            "Leases that gave their capacity back, by whose word freed it: Verified by the nodes' reports, NotRequired"
            " by the pool's policy, Forced by an administrator.",
            "pool",
            "receipt",
        )
        self.reclaim = histogram(
            "lease_reclaim_delay_seconds",
            "From the deadline that ended a lease to its release.",
            _RECLAIM,
            "pool",
        )
        self.lag = histogram(
            "event_loop_lag_seconds", "How late the event loop ran a tick; four ticks a second.", _LAG
        )
        self.decision = histogram("planning_seconds", "One pass of the planner over a pool.", _FAST, "pool")
        self.write = histogram("write_seconds", "One write to the API server, by kind.", _WRITE, "kind")
        self.conflicts = counter(
            "write_conflicts_total", "Writes that found a newer version or no answer.", "pool"
        )
        self.refusals = counter(
            "write_refusals_total",
            "Writes that the API server refused; each was put aside for a while.",
            "pool",
        )
        self.mismatches = counter(
            "ledger_mismatches_total", "Audits that found the books and the leases apart.", "pool"
        )
        self.foreign_writes = counter(
            "foreign_writes_total",
            "Writes by somebody else to a status that is the operator's alone, the first of each object aside.",
            "pool",
        )
        self.missed = counter(
            "watch_missed_total",
            "Changes of leases that a list of all showed before the watch did: on their way, or lost.",
            "pool",
        )
        self.pods = counter(
            "pod_actions_total",
            "What was done about pods of leases (Assign, Unassign, Let, Tell, Warn, Evict, Delete, Fail) and about"
            " placeholders (Create, Nominate, Shrink, Drop), by the API server's answer done.",
            "pool",
            "action",
        )
        self._troubles = (self.conflicts, self.refusals, self.mismatches, self.missed, self.foreign_writes)
        self._by_pool: tuple[Counter | Histogram, ...] = (
            *(self.grants, self.ends, self.receipts, self.events, *self._troubles),
            *(self.wait, self.hold, self.reclaim, self.decision, self.pods),
        )
        ProcessCollector(registry=self.registry)

    @contextmanager
    def planning(self, pool: str) -> Iterator[None]:
        """Time one pass of the planner."""
        started = time.perf_counter()
        yield
        self.decision.labels(pool=pool).observe(time.perf_counter() - started)

    @contextmanager
    def request(self, kind: str) -> Iterator[None]:
        """Time one write, successful or not."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.write.labels(kind=kind).observe(time.perf_counter() - started)

    def granted(self, pool: str, waited: int) -> None:
        """Count a grant; `waited` is in milliseconds since the lease was created."""
        self.grants.labels(pool=pool).inc()
        self.wait.labels(pool=pool).observe(max(0, waited) / SECOND)

    def released(self, pool: str, before: Lease, after: Lease, now: int) -> None:
        """Count a release, how long the lease was held, and how late it was taken back.

        `now` (ms) is when the release is known to be written. A lease that was given back, or lost with a node or
        its namespace, had no deadline that ended it.
        """
        cause = str(after.status.get("release", {}).get("cause", "Unknown"))
        self.ends.labels(pool=pool, cause=cause).inc()
        self.receipts.labels(pool=pool, receipt=after.reason(LeaseCondition.RELEASED) or "Unknown").inc()
        finished = after.instant("release", "finishTime")
        granted = after.instant("allocation", "allocationTime")
        if finished is not None and granted is not None:
            self.hold.labels(pool=pool).observe((finished - granted) / SECOND)
        due = before.status.get("deadlines", {}).get("next", {}).get("time")
        if due is not None and (before.releasing or cause not in _WITHOUT_DEADLINE):
            delay = now - parse_time(due)
            if delay >= 0:
                self.reclaim.labels(pool=pool).observe(delay / SECOND)

    def noticed(self, pool: str, notice: Notice) -> None:
        """Count a state change."""
        self.events.labels(pool=pool, reason=str(notice.reason)).inc()

    def pool(self, name: str, state: PoolState, status: Mapping[str, Any]) -> None:
        """Remember a pool for the gauges, which are worked out when they are read."""
        if name not in self.states:
            # From 0 on: what appears with its first count has, for Prometheus, not increased.
            for counter in self._troubles:
                counter.labels(pool=name)
        self.states[name] = state
        self.conditions[name] = status["conditions"]

    def forget(self, name: str) -> None:
        """Drop everything about a pool that is gone, so that pools that come and go leave nothing behind."""
        self.states.pop(name, None)
        self.conditions.pop(name, None)
        for family in self._by_pool:
            family.remove_by_labels({"pool": name})

    def page(self) -> bytes:
        """Return the metrics page (Prometheus text format)."""
        return generate_latest(self.registry)


class PoolGauges(Collector):
    """Gauges by pool, read from memory at scrape time, so that a pool that is gone leaves nothing behind."""

    def __init__(self, metrics: Metrics, cluster: Cluster) -> None:
        self.metrics = metrics
        self.cluster = cluster

    def describe(self) -> Iterable[Metric]:
        """Name no metrics ahead of time: pools come and go."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Work out the gauges."""
        now = self.cluster.clock.now()
        amounts = ("pool", "resource", "unit")
        capacity = _gauge(
            "pool_capacity",
            "Capacity by resource and kind: total, reserved, allocatable, allocated (which is held, releasing and"
            " quarantined), free, largest_free.",
            *amounts,
            "kind",
        )
        usage = _gauge(
            "pool_usage",
            "Measured use of the pool's nodes, by whoever: the 90th percentile of a minute.",
            *amounts,
        )
        nodes = _gauge("pool_nodes", "Nodes by why they get no new grants, or Grantable.", "pool", "state")
        leases = _gauge("pool_leases", "Leases by state.", "pool", "state")
        conditions = _gauge("pool_condition", "1 for the status a condition has.", "pool", "type", "status")
        age = _gauge("pool_report_age_seconds", "Age of the oldest node report in use.", "pool")
        oldest = _gauge("pool_queue_age_seconds", "How long the oldest waiting lease waits.", "pool")
        for name, state in list(self.metrics.states.items()):
            for figures in figures_of(state):
                unit, parts = _unit(figures.name)
                for kind in figures._fields[1:]:
                    capacity.add_metric([name, figures.name, unit, kind], getattr(figures, kind) / parts)
            reports = [self.cluster.reports[n] for n in state.table.rows if n in self.cluster.reports]
            for resource in state.policy.names:
                measured = [report.usage[resource].used for report in reports if resource in report.usage]
                if measured:
                    unit, parts = _unit(resource)
                    usage.add_metric([name, resource, unit], sum(measured) / parts)
            for reason, count in node_counts(state).items():
                nodes.add_metric([name, reason or "Grantable"], count)
            leases.add_metric([name, "Pending"], waiting_count(state))
            leases.add_metric([name, "Scheduled"], scheduled_count(state))
            for kind in ("held", "releasing", "quarantined"):
                leases.add_metric([name, kind.capitalize()], state.ledger.count(kind))
            for condition in self.metrics.conditions.get(name, ()):
                conditions.add_metric([name, condition["type"], condition["status"]], 1)
            if reports:
                age.add_metric([name], (now - min(report.time for report in reports)) / SECOND)
            waiting = min(
                (state.leases[uid].created for uid in state.queue.requests.keys() - state.calendar.promises),
                default=now,
            )
            oldest.add_metric([name], max(0, now - waiting) / SECOND)
        yield from (capacity, usage, nodes, leases, conditions, age, oldest)
        yield from self._tenants()

    def _tenants(self) -> Iterator[Metric]:
        capacity = _gauge(
            "tenant_capacity",
            "What a declared tenant of a pool has by resource and kind: allocated, guaranteed, limit (if any).",
            *("pool", "tenant", "resource", "unit", "kind"),
        )
        leases = _gauge("tenant_leases", "Leases of a declared tenant by state.", "pool", "tenant", "state")
        share = _gauge(
            "tenant_share_ratio",
            "Largest share of any resource of the pool that a tenant holds, divided by its weight: what ranks it.",
            "pool",
            "tenant",
        )
        for pool, state in list(self.metrics.states.items()):
            waiting = (
                Counts(request.shape.tenant for request in state.queue) if state.policy.tenants else Counts()
            )
            for rule in state.policy.tenants:
                account = state.shares.account(rule.name)
                vectors = {"allocated": account.used, "guaranteed": rule.guaranteed, "limit": rule.limit}
                for r, resource in enumerate(state.policy.names):
                    unit, parts = _unit(resource)
                    for kind, vector in vectors.items():
                        amount = vector[r]
                        if amount is not None:
                            capacity.add_metric([pool, rule.name, resource, unit, kind], amount / parts)
                leases.add_metric([pool, rule.name, "Held"], account.leases)
                leases.add_metric([pool, rule.name, "Pending"], waiting[rule.name])
                share.add_metric([pool, rule.name], state.shares.share(rule.name) / rule.weight / MILLION)
        yield from (capacity, leases, share)


class ProcessGauges(Collector):
    """The operator's own health, read at scrape time."""

    def __init__(
        self,
        cluster: Cluster,
        client: KubeClient,
        recorder: Recorder,
        informers: Mapping[str, Informer],
        ready: Callable[[], bool],
    ) -> None:
        self.cluster = cluster
        self.client = client
        self.recorder = recorder
        self.informers = informers
        self.ready = ready

    def describe(self) -> Iterable[Metric]:
        """Name no metrics ahead of time."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the figures."""
        clock = self.cluster.clock
        info = _gauge("build_info", "1; the version is in the label.", "version")
        info.add_metric([__version__], 1)
        requests = CounterMetricFamily(
            "leasehold_api_requests", "Requests to the API server.", labels=("verb", "code")
        )
        for (verb, code), count in self.client.requests.items():
            requests.add_metric([verb, code], count)
        restarts = CounterMetricFamily(
            "leasehold_watch_restarts", "Watches that broke.", labels=("resource",)
        )
        relists = CounterMetricFamily("leasehold_watch_relists", "Complete lists read.", labels=("resource",))
        for name, informer in self.informers.items():
            restarts.add_metric([name], informer.restarts)
            relists.add_metric([name], informer.relists)
        events = CounterMetricFamily(
            "leasehold_events", "Kubernetes Events by what became of them.", labels=("result",)
        )
        events.add_metric(["written"], self.recorder.written)
        events.add_metric(["dropped"], self.recorder.dropped)
        yield from (info, requests, restarts, relists, events)
        for name, text, value in (
            ("ready", "1 while /readyz says so: this replica leads, or could at once.", self.ready()),
            (
                "last_event_age_seconds",
                "Since the API server last told us anything.",
                (clock.now() - self.cluster.last_event) / SECOND,
            ),
            (
                "clock_drift_seconds",
                "How far the wall clock is ahead of the operator's.",
                clock.drift() / SECOND,
            ),
        ):
            gauge = _gauge(name, text)
            gauge.add_metric([], value)
            yield gauge


class Led(Protocol):
    """What this replica leads."""

    led: dict[int, Leadership]
    deposed: int


class ElectionGauges(Collector):
    """What this replica leads, read at scrape time. Summed over replicas, each shard must have exactly one leader."""

    def __init__(self, elector: Elector, pools: Led) -> None:
        self.elector = elector
        self.pools = pools

    def describe(self) -> Iterable[Metric]:
        """Name no metrics ahead of time."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the figures."""
        leading = _gauge("leading", "1 where this replica leads the shard.", "shard")
        for shard in range(self.elector.shards):
            found = self.pools.led.get(shard)
            leading.add_metric([str(shard)], found is not None and found.valid())
        yield leading
        for name, text, value in (
            ("election_failures", "Requests of the election that failed.", self.elector.failures),
            ("election_lost", "Shards that another replica took while this one led.", self.elector.beaten),
            ("pools_deposed", "Pools that another replica took over while this one led.", self.pools.deposed),
        ):
            counter = CounterMetricFamily(f"leasehold_{name}", text)
            counter.add_metric([], value)
            yield counter


class Answering(Protocol):
    """The admission webhook of this replica."""

    @property
    def answers(self) -> Mapping[str, int]:
        """How many pods it answered for, by the answer."""

    @property
    def end(self) -> int | None:
        """When its certificate ends (ms); None where it has none."""


class WebhookGauges(Collector):
    """What the admission webhook of this replica did; nothing where there is none."""

    def __init__(self, webhook: Answering | None) -> None:
        self.webhook = webhook

    def describe(self) -> Iterable[Metric]:
        """Name no metrics ahead of time."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the figures."""
        answers = CounterMetricFamily(
            "leasehold_webhook_answers",
            "Pods that the admission webhook answered for: gated, passed or refused.",
            labels=["answer"],
        )
        end = _gauge(
            "webhook_certificate_end_timestamp_seconds", "When the certificate of the admission webhook ends."
        )
        if self.webhook is not None:
            for answer, count in self.webhook.answers.items():
                answers.add_metric([answer], count)
            if self.webhook.end is not None:
                end.add_metric([], self.webhook.end / SECOND)
        yield from (answers, end)


def _unit(resource: str) -> tuple[str, int]:
    """Return the base unit of a resource, "" where it is counted, and how many of our units make one of it."""
    return _UNITS.get(resource, ("", 1))


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"leasehold_{name}", text, labels=labels)
