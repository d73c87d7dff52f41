"""A Prometheus that scrapes a running operator and a running reporter, with leases that come and go."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from os import cpu_count
from pathlib import Path
from typing import Any, Self

import psutil
import yaml
from tests.cluster.harness import SMALL, Object, ProcessOperator, Stage, fetch, free_port, granted, is_, until
from tests.observability.tools import built

from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError
from leasehold.testing.nodes import NodeShape, SimulatedNodes
from leasehold.testing.processes import Child, wait_until

NAMESPACE = "leasehold-system"
TENANTS = ("web", "batch")
CI, LAB, METAL = "ci", "lab", "metal"


class Prometheus:
    """A Prometheus on loopback; `answer` asks its API."""

    def __init__(self, directory: Path, targets: dict[str, int], rules: Object | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        rule_file = directory / "rules.yaml"
        rule_file.write_text(yaml.safe_dump(rules or {"groups": []}))
        jobs = [
            {
                "job_name": name,
                "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": NAMESPACE}}],
            }
            for name, port in targets.items()
        ]
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = directory / "prometheus.yaml"
        config.write_text(
            yaml.safe_dump({"global": every, "rule_files": [str(rule_file)], "scrape_configs": jobs})
        )
        self.child = Child(
            [
                built("prometheus") / "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
            log=directory / "prometheus.log",
            cwd=directory,
        )

    def wait_ready(self) -> Self:
        def ready() -> bool:
            with contextlib.suppress(OSError):
                return fetch(f"http://127.0.0.1:{self.port}/-/ready")[0] == 200
            return False

        assert wait_until(lambda: ready() or not self.child.running(), 60), "Prometheus is not ready"
        assert self.child.running(), self.child.log_tail(40)
        return self

    def answer(self, path: str, **query: str | float) -> Any:
        """Return the data of an answer. What Prometheus cannot evaluate fails with its words."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{path} {query}: {error.read().decode()}") from None

    def series(
        self, expr: str, seconds: float, step: float = 2
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Evaluate an expression over the last while; return each series with its points that are numbers."""
        now = time.time()
        found = self.answer("query_range", query=expr, start=now - seconds, end=now, step=step)["result"]
        kept = []
        for one in found:
            points = [
                (at, float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf", "-Inf")
            ]
            if points:
                kept.append((one["metric"], points))
        return kept

    def firing(self) -> set[tuple[str, str]]:
        """Return (alert, pool) of all that fire."""
        alerts = self.answer("alerts")["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("pool", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }


class Scene:
    """An API server, an operator, a reporter on this host, a Prometheus, two pools and two tenants."""

    def __init__(self, directory: Path, rules: Object | None = None) -> None:
        self.directory = directory
        self.rules = rules
        self.numbers = itertools.count()
        self.control_plane = ControlPlane(local=True)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.control_plane)
            self.control_plane.install_crds()
            self.stage = Stage(self.control_plane)
            stack.callback(self.stage.kube.close)
            self.kube = self.stage.kube
            self.lab_nodes, self.host_node = SimulatedNodes(self.kube), SimulatedNodes(self.kube)
            self.operator_port, self.reporter_port = free_port(), free_port()
            stack.callback(self.stop_operator)
            self.start_operator()
            self._world()
            stack.callback(lambda: self.reporter.stop(5))
            self.reporter = self._reporter()
            targets = {"operator": self.operator_port, "reporter": self.reporter_port}
            self.prometheus = Prometheus(self.directory, targets, self.rules)
            stack.callback(lambda: self.prometheus.child.stop(5))
            self.prometheus.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_operator(self) -> None:
        self.operator = ProcessOperator(self.control_plane, http_port=self.operator_port)
        self.operator.port = self.operator_port
        self.operator.wait_ready()

    def stop_operator(self) -> None:
        self.operator.child.stop(10)

    def _world(self) -> None:
        """Make three pools: of simulated nodes with tenants; of one whose reporter never confirms; of this host."""
        kube = self.kube
        self.stage.nodes.create(3, SMALL, usage={"cpu": "500m", "memory": "1Gi"})
        self.lab_nodes.create(1, SMALL)
        memory, disk = psutil.virtual_memory().total, psutil.disk_usage("/").total
        shape = NodeShape(cpu=str(cpu_count()), memory=str(memory), ephemeral_storage=str(disk))
        (self.host,) = self.host_node.create(1, shape, report=False)
        for tenant in TENANTS:
            meta = {"name": tenant, "labels": {"team": tenant}}
            kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        tenants = [
            {
                "name": tenant,
                "namespaceSelector": {"matchLabels": {"team": tenant}},
                "guaranteed": {"cpu": "4", "memory": "4Gi"},
                "limit": {"cpu": "9", "memory": "24Gi"},
            }
            for tenant in TENANTS
        ]
        self.stage.pool_named(CI, self.stage.nodes.selector, tenants=tenants)
        self.stage.pool_named(
            LAB, self.lab_nodes.selector, {"verification": "NodeReport", "verificationTimeoutSeconds": 1}
        )
        # This host may be busy with anything: how much of it is in use must not decide here.
        self.stage.pool_named(
            METAL,
            self.host_node.selector,
            {"verification": "NodeReport", "verificationTimeoutSeconds": 120},
            resources=[{"name": name, "source": "Allocatable"} for name in ("cpu", "memory")],
        )
        for pool in (CI, LAB):
            self.stage.until_pool(pool, is_("Ready"))

    def _reporter(self) -> Child:
        return Child(
            [
                *(sys.executable, "-m", "leasehold.cli.main", "reporter", "--node-name", self.host),
                *("--kubeconfig", self.control_plane.kubeconfig, "--http-port", str(self.reporter_port)),
                *("--silence-seconds", "10"),
            ],
            log=self.directory / "reporter.log",
            cwd=self.directory,
        )

    def lease(self, pool: str, tenant: str = TENANTS[0], **spec: Any) -> str:
        name = f"l-{next(self.numbers)}"
        self.kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityLease",
                "metadata": {"name": name, "namespace": tenant},
                "spec": {"poolRef": {"name": pool}, "resources": {"cpu": "1", "memory": "1Gi"}, **spec},
            }
        )
        return name

    def _release(self, name: str, tenant: str) -> None:
        """Give a lease back, unless its term is over and it is gone: they are short, and machines may stand still."""
        try:
            self.kube.patch("clease", name, {"spec": {"desiredState": "Released"}}, tenant)
        except ApiError as error:
            if error.status != 404:
                raise

    def live(self, seconds: float) -> Iterator[float]:
        """Let leases come and go for a while, a crowd of them in the middle; yield the seconds that are left."""
        end = time.monotonic() + seconds
        for k in itertools.count():
            left = end - time.monotonic()
            if left <= 0:
                return
            for i in range(2 if 0.4 * seconds < left < 0.7 * seconds else 1):
                tenant = TENANTS[(k + i) % 3 % 2]
                count = 1 + (k % 4 == 0)
                name = self.lease(
                    CI, tenant, durationSeconds=2 + k % 5, count=count, ttlSecondsAfterFinished=0
                )
                if k % 5 == 0:
                    self._release(name, tenant)
            if k % 8 == 0:
                self._measure(cpu=f"{k // 8 % 5 * 200}m", memory=f"{1 + k // 8 % 3}Gi")
            if k % 10 == 0:
                self.lease(
                    METAL,
                    durationSeconds=3,
                    resources={"cpu": "100m", "memory": "16Mi"},
                    ttlSecondsAfterFinished=0,
                )
            yield left
            time.sleep(0.5)

    def _measure(self, **usage: str) -> None:
        for name in self.stage.nodes.names:
            self.stage.nodes.report(name, usage)

    def quarantine(self) -> str:
        """Let a lease end whose node never says that its work is gone; return its name."""
        name = self.lease(LAB, durationSeconds=1, resources={"cpu": "1"})
        self.kube.wait("clease", name, TENANTS[0], until=granted)
        self.kube.wait("clease", name, TENANTS[0], until=is_("Released", "False", "Quarantined"))
        return name

    def until_fires(self, alert: str, pool: str = "", *, fires: bool = True, seconds: float = 60) -> None:
        what = f"{alert} {'fires' if fires else 'is over'}"
        until(lambda: ((alert, pool) in self.prometheus.firing()) == fires, what, seconds)
