"""The Grafana dashboards, as the dictionaries that Grafana reads. `make generate` writes them to the chart's files.

Plain dictionaries: a library that types them would have to be pinned to one Grafana, and these work from 10 on.
tests/observability asks every query of a Prometheus that scrapes a running operator and reporter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]

_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 24
_HEIGHT: Final = 8
_STAT_HEIGHT: Final = 4
_SCHEMA: Final = 39

NS: Final = 'namespace=~"$namespace"'
POOL: Final = f'{NS}, pool=~"$pool"'
TENANT: Final = f'{POOL}, tenant=~"$tenant"'
REPORTER: Final = f'{NS}, instance=~"$instance"'
RATE: Final = "[$__rate_interval]"


@dataclass(frozen=True)
class Query:
    """One expression, and the legend of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture. `unit` is one of Grafana's; `kind` is one of its panels; `width` counts in 24ths."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """A heading, and the panels under it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """A page of rows. `variables` are names with the query that lists their values."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: dict[str, str] = field(default_factory=dict)


_NAMESPACES: Final = "label_values(leasehold_build_info, namespace)"
_POOLS: Final = f"label_values(leasehold_pool_leases{{{NS}}}, pool)"
_TENANTS: Final = f"label_values(leasehold_tenant_leases{{{POOL}}}, tenant)"
_INSTANCES: Final = f"label_values(leasehold_reporter_build_info{{{NS}}}, instance)"


def _p(quantile: float, metric: str, where: str, *by: str) -> Query:
    """Return a quantile of a histogram over the last while."""
    labels = ", ".join((*by, "le"))
    legend = " ".join((f"p{quantile * 100:g}", *(f"{{{{{label}}}}}" for label in by)))
    return Query(
        f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket{{{where}}}{RATE})))", legend
    )


def _stat(title: str, description: str, expr: str, unit: str = "short") -> Panel:
    return Panel(title, description, unit, (Query(expr),), kind="stat", width=4)


def _amounts(resource: str) -> tuple[Query, Query]:
    """Return a pool's capacity of one resource by kind, and what is measured to be in use."""
    where = f'{POOL}, resource="{resource}"'
    return (
        Query(f'sum by (kind) (leasehold_pool_capacity{{{where}, kind!="largest_free"}})', "{{kind}}"),
        Query(f"sum(leasehold_pool_usage{{{where}}})", "measured use"),
    )


def _in_use(resource: str) -> Query:
    where = f'{REPORTER}, resource="{resource}"'
    return Query(
        f'sum by (instance) (leasehold_reporter_node_usage{{{where}, figure="p90"}})'
        f" / sum by (instance) (leasehold_reporter_node_capacity{{{where}}})",
        "{{instance}}",
    )


def _capacity(kind: str, where: str = POOL, by: str = "pool, resource") -> str:
    return f'sum by ({by}) (leasehold_pool_capacity{{{where}, kind="{kind}"}})'


def _of(who: str, expr: str) -> str:
    """Keep the processes that are operators, or reporters: the metrics of processes have the same names."""
    return f"{expr} and on (instance) leasehold_{who}build_info"


OVERVIEW: Final = Dashboard(
    "overview",
    "Leasehold / Overview",
    "Is it there, is the capacity used, does it come back, and what does it cost.",
    (
        Row(
            "Availability",
            (
                _stat(
                    "Operators ready",
                    "Replicas that lead, or could at once.",
                    f"sum(leasehold_ready{{{NS}}})",
                ),
                _stat(
                    "Shards without one leader",
                    "0, unless leaders change just now.",
                    f"count(sum by (shard) (leasehold_leading{{{NS}}}) != 1) or vector(0)",
                ),
                _stat(
                    "Pools that serve",
                    "Pools that are Ready, of all pools.",
                    f'count(leasehold_pool_condition{{{NS}, type="Ready", status="True"}})'
                    f' / count(leasehold_pool_condition{{{NS}, type="Ready"}})',
                    "percentunit",
                ),
                _stat(
                    "Held", "Leases that hold capacity.", f'sum(leasehold_pool_leases{{{NS}, state="Held"}})'
                ),
                _stat("Waiting", "Leases that wait.", f'sum(leasehold_pool_leases{{{NS}, state="Pending"}})'),
                _stat(
                    "Quarantined",
                    "Leases that are over and whose nodes do not confirm it.",
                    f'sum(leasehold_pool_leases{{{NS}, state="Quarantined"}})',
                ),
            ),
        ),
        Row(
            "Utilisation",
            (
                Panel(
                    "Lent, of what may be lent",
                    "Allocated of allocatable. Near 100 % with a queue: add nodes. Low with a queue: see the pool.",
                    "percentunit",
                    (
                        Query(
                            f"{_capacity('allocated', NS)} / ({_capacity('allocatable', NS)} > 0)",
                            "{{pool}} {{resource}}",
                        ),
                    ),
                ),
                Panel(
                    "Used, of what is there",
                    "Measured use of the nodes, by whoever, of their total.",
                    "percentunit",
                    (
                        Query(
                            f"sum by (pool, resource) (leasehold_pool_usage{{{NS}}}) / ({_capacity('total', NS)} > 0)",
                            "{{pool}} {{resource}}",
                        ),
                    ),
                ),
                Panel(
                    "Waiting",
                    "Leases that wait, by pool.",
                    "short",
                    (Query(f'sum by (pool) (leasehold_pool_leases{{{NS}, state="Pending"}})', "{{pool}}"),),
                ),
                Panel(
                    "Granted and ended",
                    "Leases a second.",
                    "ops",
                    (
                        Query(f"sum(rate(leasehold_lease_grants_total{{{NS}}}{RATE}))", "granted"),
                        Query(
                            f"sum by (cause) (rate(leasehold_lease_ends_total{{{NS}}}{RATE}))", "{{cause}}"
                        ),
                    ),
                ),
                Panel(
                    "From request to grant",
                    "How long leases waited that were granted.",
                    "s",
                    (
                        _p(0.5, "leasehold_lease_wait_seconds", NS),
                        _p(0.95, "leasehold_lease_wait_seconds", NS),
                    ),
                ),
                Panel(
                    "Oldest in line",
                    "How long the oldest waiting lease waits.",
                    "s",
                    (Query(f"max by (pool) (leasehold_pool_queue_age_seconds{{{NS}}})", "{{pool}}"),),
                ),
            ),
        ),
        Row(
            "Cleanup",
            (
                Panel(
                    "Taken back within a second",
                    "Of the leases that ended by a deadline.",
                    "percentunit",
                    (
                        Query(
                            f'sum(rate(leasehold_lease_reclaim_delay_seconds_bucket{{{NS}, le="1.0"}}{RATE}))'
                            f" / sum(rate(leasehold_lease_reclaim_delay_seconds_count{{{NS}}}{RATE}))",
                            "in time",
                        ),
                    ),
                ),
                Panel(
                    "From deadline to release",
                    "How late capacity comes back.",
                    "s",
                    (
                        _p(0.5, "leasehold_lease_reclaim_delay_seconds", NS),
                        _p(0.99, "leasehold_lease_reclaim_delay_seconds", NS),
                    ),
                ),
                Panel(
                    "By whose word",
                    "Releases a second: verified by the nodes' reports, required by no policy, or forced.",
                    "ops",
                    (
                        Query(
                            f"sum by (receipt) (rate(leasehold_lease_receipts_total{{{NS}}}{RATE}))",
                            "{{receipt}}",
                        ),
                    ),
                    stacked=True,
                ),
            ),
        ),
        Row(
            "What it costs",
            (
                Panel(
                    "CPU of operators",
                    "Cores.",
                    "none",
                    (Query(_of("", f"rate(process_cpu_seconds_total{{{NS}}}{RATE})"), "{{instance}}"),),
                    width=6,
                ),
                Panel(
                    "CPU of reporters",
                    "Cores: of all of them together, and of the busiest.",
                    "none",
                    (
                        Query(
                            f"sum({_of('reporter_', f'rate(process_cpu_seconds_total{{{NS}}}{RATE})')})",
                            "all",
                        ),
                        Query(
                            f"max({_of('reporter_', f'rate(process_cpu_seconds_total{{{NS}}}{RATE})')})",
                            "busiest",
                        ),
                    ),
                    width=6,
                ),
                Panel(
                    "Event loop",
                    "How late the operator's event loop runs. Above a second, everything is late.",
                    "s",
                    (
                        _p(0.5, "leasehold_event_loop_lag_seconds", NS, "instance"),
                        _p(0.99, "leasehold_event_loop_lag_seconds", NS, "instance"),
                    ),
                    width=6,
                ),
                Panel(
                    "Requests to the API server",
                    "By operators, a second; errors are codes from 500 on, 429, and no answer.",
                    "reqps",
                    (
                        Query(
                            f"sum by (verb) (rate(leasehold_api_requests_total{{{NS}}}{RATE}))", "{{verb}}"
                        ),
                        Query(
                            f'sum(rate(leasehold_api_requests_total{{{NS}, code=~"5..|429|none"}}{RATE})) or vector(0)',
                            "errors",
                        ),
                    ),
                    width=6,
                ),
                Panel(
                    "Memory of operators",
                    "Resident.",
                    "bytes",
                    (Query(_of("", f"process_resident_memory_bytes{{{NS}}}"), "{{instance}}"),),
                    width=6,
                ),
                Panel(
                    "One pass of the planner",
                    "Seconds, in the slowest pool of a hundred passes.",
                    "s",
                    (_p(0.99, "leasehold_planning_seconds", NS, "pool"),),
                    width=6,
                ),
                Panel(
                    "One write",
                    "How long the API server takes.",
                    "s",
                    (_p(0.99, "leasehold_write_seconds", NS, "kind"),),
                    width=6,
                ),
                Panel(
                    "Watches",
                    "Broken and listed anew, an hour. A few are usual.",
                    "short",
                    (
                        Query(
                            f"sum by (resource) (increase(leasehold_watch_restarts_total{{{NS}}}[1h]))",
                            "{{resource}} broken",
                        ),
                        Query(
                            f"sum by (resource) (increase(leasehold_watch_relists_total{{{NS}}}[1h]))",
                            "{{resource}} listed",
                        ),
                    ),
                    width=6,
                ),
            ),
        ),
    ),
    {"namespace": _NAMESPACES},
)

POOLS: Final = Dashboard(
    "pool",
    "Leasehold / Pool",
    "One pool: its capacity, its nodes, its queue, and how leases end.",
    (
        Row(
            "Capacity",
            (
                Panel(
                    "CPU",
                    "Cores. Allocated is what leases hold, what is being released and what is quarantined.",
                    "none",
                    _amounts("cpu"),
                ),
                Panel(
                    "Memory",
                    "Bytes.",
                    "bytes",
                    _amounts("memory"),
                ),
                Panel(
                    "Largest hole",
                    "What the roomiest node has free, of what all have. Low with much free: room in crumbs.",
                    "percentunit",
                    (
                        Query(
                            f"{_capacity('largest_free')} / ({_capacity('free')} > 0)",
                            "{{pool}} {{resource}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Nodes",
            (
                Panel(
                    "Nodes",
                    "By why they get no new leases; Grantable do.",
                    "short",
                    (Query(f"sum by (state) (leasehold_pool_nodes{{{POOL}}})", "{{state}}"),),
                    stacked=True,
                ),
                Panel(
                    "Oldest report",
                    "Beyond the pool's freshness.maxAgeSeconds, its node gets no new leases.",
                    "s",
                    (Query(f"max by (pool) (leasehold_pool_report_age_seconds{{{POOL}}})", "{{pool}}"),),
                ),
                Panel(
                    "Conditions",
                    "True or not. Ready, CapacityKnown, LedgerConsistent and TenantsValid should be, the others not.",
                    "none",
                    (
                        Query(
                            f'max by (pool, type) (leasehold_pool_condition{{{POOL}, status="True"}}'
                            f" or 0 * leasehold_pool_condition{{{POOL}}})",
                            "{{pool}} {{type}}",
                        ),
                    ),
                    kind="state-timeline",
                ),
            ),
        ),
        Row(
            "Leases",
            (
                Panel(
                    "Leases",
                    "By state.",
                    "short",
                    (Query(f"sum by (state) (leasehold_pool_leases{{{POOL}}})", "{{state}}"),),
                    stacked=True,
                ),
                Panel(
                    "Oldest in line",
                    "How long the oldest waiting lease waits.",
                    "s",
                    (Query(f"max by (pool) (leasehold_pool_queue_age_seconds{{{POOL}}})", "{{pool}}"),),
                ),
                Panel(
                    "From request to grant",
                    "How long leases waited that were granted.",
                    "s",
                    tuple(_p(q, "leasehold_lease_wait_seconds", POOL) for q in (0.5, 0.95)),
                ),
                Panel(
                    "Granted and ended",
                    "Leases a second, by why they ended.",
                    "ops",
                    (
                        Query(f"sum(rate(leasehold_lease_grants_total{{{POOL}}}{RATE}))", "granted"),
                        Query(
                            f"sum by (cause) (rate(leasehold_lease_ends_total{{{POOL}}}{RATE}))", "{{cause}}"
                        ),
                    ),
                ),
                Panel(
                    "From grant to release",
                    "How long leases are held.",
                    "s",
                    tuple(_p(q, "leasehold_lease_hold_seconds", POOL) for q in (0.5, 0.95)),
                ),
                Panel(
                    "From deadline to release",
                    "How late capacity comes back.",
                    "s",
                    tuple(_p(q, "leasehold_lease_reclaim_delay_seconds", POOL) for q in (0.5, 0.99)),
                ),
                Panel(
                    "What happened",
                    "State changes a second, by reason.",
                    "ops",
                    (
                        Query(
                            f"sum by (reason) (rate(leasehold_lease_events_total{{{POOL}}}{RATE}))",
                            "{{reason}}",
                        ),
                    ),
                    width=12,
                ),
                Panel(
                    "Trouble",
                    "In an hour: audits that found the books wrong, writes refused or by others, news a list told.",
                    "short",
                    tuple(
                        Query(f"sum(increase(leasehold_{name}_total{{{POOL}}}[1h])) or vector(0)", legend)
                        for name, legend in (
                            ("ledger_mismatches", "books wrong"),
                            ("write_refusals", "refused"),
                            ("foreign_writes", "by others"),
                            ("watch_missed", "listed first"),
                        )
                    ),
                    width=12,
                ),
            ),
        ),
    ),
    {"namespace": _NAMESPACES, "pool": _POOLS},
)

TENANTS: Final = Dashboard(
    "tenant",
    "Leasehold / Tenant",
    "What the declared tenants of a pool hold, of what they were promised.",
    (
        Row(
            "Now",
            (
                _stat(
                    "Held",
                    "Leases that hold capacity.",
                    f'sum(leasehold_tenant_leases{{{TENANT}, state="Held"}})',
                ),
                _stat(
                    "Waiting",
                    "Leases that wait.",
                    f'sum(leasehold_tenant_leases{{{TENANT}, state="Pending"}})',
                ),
                _stat(
                    "Largest share",
                    "Of any resource, divided by the tenant's weight: what ranks it in line.",
                    f"max(leasehold_tenant_share_ratio{{{TENANT}}})",
                    "percentunit",
                ),
            ),
        ),
        Row(
            "Over time",
            (
                Panel(
                    "CPU",
                    "Cores held, guaranteed and at most.",
                    "none",
                    (
                        Query(
                            f'sum by (tenant, kind) (leasehold_tenant_capacity{{{TENANT}, resource="cpu"}})',
                            "{{tenant}} {{kind}}",
                        ),
                    ),
                    width=12,
                ),
                Panel(
                    "Memory",
                    "Bytes held, guaranteed and at most.",
                    "bytes",
                    (
                        Query(
                            f'sum by (tenant, kind) (leasehold_tenant_capacity{{{TENANT}, resource="memory"}})',
                            "{{tenant}} {{kind}}",
                        ),
                    ),
                    width=12,
                ),
                Panel(
                    "Beyond the guarantee",
                    "Cores borrowed from what others leave. Preemption may ask for them back.",
                    "none",
                    (
                        Query(
                            f'clamp_min(sum by (tenant) (leasehold_tenant_capacity{{{TENANT}, resource="cpu",'
                            ' kind="allocated"}) - sum by (tenant) (leasehold_tenant_capacity{'
                            f'{TENANT}, resource="cpu", kind="guaranteed"}}), 0)',
                            "{{tenant}}",
                        ),
                    ),
                ),
                Panel(
                    "Share",
                    "Largest share of any resource, divided by weight. Who has least is served first.",
                    "percentunit",
                    (
                        Query(
                            f"sum by (pool, tenant) (leasehold_tenant_share_ratio{{{TENANT}}})",
                            "{{pool}} {{tenant}}",
                        ),
                    ),
                ),
                Panel(
                    "Leases",
                    "Held and waiting.",
                    "short",
                    (
                        Query(
                            f"sum by (tenant, state) (leasehold_tenant_leases{{{TENANT}}})",
                            "{{tenant}} {{state}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
    {"namespace": _NAMESPACES, "pool": _POOLS, "tenant": _TENANTS},
)

REPORTERS: Final = Dashboard(
    "reporter",
    "Leasehold / Reporter",
    "The reporters on the nodes: what they see, whether they are heard, and what they cost.",
    (
        Row(
            "Are they heard",
            (
                _stat("Reporters", "That answer.", f"count(leasehold_reporter_build_info{{{REPORTER}}})"),
                _stat(
                    "Ready",
                    "Whose figures are current.",
                    f'count(leasehold_reporter_condition{{{REPORTER}, type="Ready", status="True"}}) or vector(0)',
                ),
                _stat(
                    "Longest silence",
                    "Since the API server last took a report. 300 s is usual on a node where nothing moves.",
                    f"max(time() - leasehold_reporter_report_timestamp_seconds{{{REPORTER}}})",
                    "s",
                ),
                _stat(
                    "Largest clock offset",
                    "To the API server's clock.",
                    f"max(abs(leasehold_reporter_clock_offset_seconds{{{REPORTER}}}))",
                    "s",
                ),
                _stat(
                    "Readings that failed",
                    "Of all, in the last hour.",
                    f'sum(increase(leasehold_reporter_readings_total{{{REPORTER}, result="failed"}}[1h]))'
                    f" / sum(increase(leasehold_reporter_readings_total{{{REPORTER}}}[1h]))",
                    "percentunit",
                ),
            ),
        ),
        Row(
            "What they see",
            (
                Panel(
                    "CPU in use",
                    "90th percentile of a minute, of the node's cores.",
                    "percentunit",
                    (_in_use("cpu"),),
                ),
                Panel(
                    "Memory in use",
                    "90th percentile of a minute, of the node's memory.",
                    "percentunit",
                    (_in_use("memory"),),
                ),
                Panel(
                    "Leases asked about",
                    "Present: their workload is there. Gone: it is not, and they may be released.",
                    "short",
                    (Query(f"sum by (state) (leasehold_reporter_leases{{{REPORTER}}})", "{{state}}"),),
                    stacked=True,
                ),
            ),
        ),
        Row(
            "What they do, and cost",
            (
                Panel(
                    "Requests",
                    "To the API server, a second, by method and status code; 0 is no answer.",
                    "reqps",
                    (
                        Query(
                            f"sum by (method, code) (rate(leasehold_reporter_requests_total{{{REPORTER}}}{RATE}))",
                            "{{method}} {{code}}",
                        ),
                    ),
                ),
                Panel(
                    "CPU",
                    "Cores.",
                    "none",
                    (
                        Query(
                            _of("reporter_", f"rate(process_cpu_seconds_total{{{REPORTER}}}{RATE})"),
                            "{{instance}}",
                        ),
                    ),
                ),
                Panel(
                    "Memory",
                    "Resident.",
                    "bytes",
                    (
                        Query(
                            _of("reporter_", f"process_resident_memory_bytes{{{REPORTER}}}"), "{{instance}}"
                        ),
                    ),
                ),
            ),
        ),
    ),
    {"namespace": _NAMESPACES, "instance": _INSTANCES},
)

DASHBOARDS: Final = (OVERVIEW, POOLS, TENANTS, REPORTERS)


def document(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana reads it."""
    return json.dumps(_dashboard(dashboard), indent=2, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> Json:
    return {
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["leasehold"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "links": [
            {
                "type": "dashboards",
                "title": "Leasehold",
                "tags": ["leasehold"],
                "includeVars": True,
                "keepTime": True,
                "asDropdown": True,
            }
        ],
        "templating": {"list": [_DATASOURCES, *map(_variable, dashboard.variables.items())]},
        "annotations": {"list": []},
        "panels": list(_panels(dashboard)),
    }


_DATASOURCES: Final = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
    "refresh": 1,
    "hide": 0,
}


def _variable(entry: tuple[str, str]) -> Json:
    name, query = entry
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "hide": 0,
    }


def _panels(dashboard: Dashboard) -> Iterator[Json]:
    number, y = 0, 0
    for row in dashboard.rows:
        number += 1
        place = {"h": 1, "w": _WIDTH, "x": 0, "y": y}
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        y, x, height = y + 1, 0, 0
        for panel in row.panels:
            number += 1
            if x + panel.width > _WIDTH:
                y, x, height = y + height, 0, 0
            tall = _STAT_HEIGHT if panel.kind == "stat" else _HEIGHT
            yield _panel(panel, number, {"h": tall, "w": panel.width, "x": x, "y": y})
            x, height = x + panel.width, max(height, tall)
        y += height


def _defaults(panel: Panel) -> Json:
    """Return how a panel's figures are shown, in Grafana's words for each kind."""
    if panel.kind == "stat":
        return {"unit": panel.unit}
    if panel.kind == "state-timeline":
        words = {"0": {"text": "not True", "color": "#8e8e8e"}, "1": {"text": "True", "color": "#56a64b"}}
        return {"unit": panel.unit, "mappings": [{"type": "value", "options": words}]}
    custom = {"fillOpacity": 30 if panel.stacked else 10, "lineWidth": 1, "showPoints": "never"}
    custom["stacking"] = {"mode": "normal" if panel.stacked else "none"}
    return {"unit": panel.unit, "min": 0, "custom": custom}


_OPTIONS: Final[dict[str, Json]] = {
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"},
    "state-timeline": {"mergeValues": True, "showValue": "never", "legend": {"showLegend": True}},
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
}


def _panel(panel: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "range": True,
                "instant": False,
            }
            for i, query in enumerate(panel.queries)
        ],
    }
