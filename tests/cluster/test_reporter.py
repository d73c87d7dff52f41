"""The reporter as a process against a real API server, as the identity and with the rights a pod of it would have."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.cluster.harness import fetch

from leasehold.adapters.cgroups import CGROUP_ROOT
from leasehold.api.quantity import amount
from leasehold.api.report import NodeReport
from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.processes import Child, wait_until

MIB = 1 << 20
V1_TREES = ("cpuacct", "memory", "pids")
ACCOUNT = "reporter-under-test"
ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": ACCOUNT},
    "rules": [
        {"apiGroups": ["leasehold.dev"], "resources": ["nodereports"], "verbs": ["get", "create"]},
        {"apiGroups": ["leasehold.dev"], "resources": ["nodereports/status"], "verbs": ["patch"]},
    ],
}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": ACCOUNT},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT},
    "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}],
}


class Node:
    """One node's reporter, its report, and its log."""

    def __init__(self, server: ControlPlane, client: Client, folder: Path) -> None:
        self.server = server
        self.client = client
        self.folder = folder
        self.name = f"node-{secrets.token_hex(4)}"
        self.token = folder / "token"
        self.child: Child | None = None
        self.starts = 0

    def start(self, *options: str, prefix: tuple[str, ...] = ()) -> Node:
        if not self.token.exists():
            self.token.write_text(self.server.service_account_token("default", ACCOUNT))
        self.starts += 1
        self.child = Child(
            (
                *(sys.executable, "-m", "leasehold.cli.main", "reporter", "--node-name", self.name),
                *("--server", self.server.url, "--ca-file", self.server.ca_path, "--token-file", self.token),
                *("--log-level", "debug", *options),
            ),
            log=self.folder / f"log-{self.starts}",
            cwd=self.folder,
            prefix=prefix,
        )
        return self

    def stop(self) -> int | None:
        assert self.child is not None
        self.child.signal(signal.SIGTERM)
        assert wait_until(lambda: not self.running, 10)
        code = self.child.returncode()
        self.child.stop(1)
        return code

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.running()

    def log(self) -> list[dict[str, Any]]:
        lines = (self.folder / f"log-{self.starts}").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == event]

    def create(self, **spec: Any) -> Node:
        manifest = {
            "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "NodeReport",
            "metadata": {"name": self.name},
        }
        self.client.create({**manifest, "spec": {"reportPeriodSeconds": 1, **spec}})
        return self

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("nodereports", self.name).get("status", {})
        return found

    def wait(self, until: Callable[[dict[str, Any]], bool], seconds: float = 30) -> dict[str, Any]:
        """Wait until the status is so, and return it."""
        assert self.running, self.log()[-3:]
        report = self.client.wait(
            "nodereports", self.name, until=lambda r: until(r.get("status", {})), timeout_seconds=seconds
        )
        status: dict[str, Any] = report["status"]
        return status

    def written(self) -> dict[str, Any]:
        return self.wait(lambda status: "sequence" in status)


@pytest.fixture
def node_on(tmp_path: Path) -> Iterator[Callable[[ControlPlane], Node]]:
    """Make nodes on a server, and end their reporters."""
    made: list[Node] = []

    def make(server: ControlPlane) -> Node:
        folder = tmp_path / f"{len(made)}"
        folder.mkdir()
        client = server.client()
        for manifest in (ROLE, BINDING):
            client.apply(manifest)
        made.append(Node(server, client, folder))
        return made[-1]

    yield make
    for node in made:
        if node.child is not None:
            node.child.stop(5)


@pytest.fixture
def node(control_plane: ControlPlane, node_on: Callable[[ControlPlane], Node]) -> Node:
    return node_on(control_plane)


class Pods:
    """Cgroups as a kubelet makes them for pods, and in each a process that holds 20 MiB."""

    MEMORY = 20 * MIB

    def __init__(self) -> None:
        self.name = f"test-{secrets.token_hex(4)}"
        first = Path(CGROUP_ROOT, "cgroup.controllers")
        self.is_v2 = first.exists()
        self.roots = [Path(CGROUP_ROOT)] if self.is_v2 else [Path(CGROUP_ROOT, tree) for tree in V1_TREES]
        self.made: list[Path] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> str:
        """Start one and return its uid."""
        uid, code = str(uuid.uuid4()), f"block = b'x' * {self.MEMORY}\nprint(flush=True)\ninput()"
        command = [sys.executable, "-c", f"input()\n{code}"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.processes[uid] = child
        assert child.stdin
        assert child.stdout
        for root in self.roots:
            folder = root
            for name in (self.name, "kubepods", "burstable", f"pod{uid}", "container"):
                if self.is_v2 and folder != root:
                    (folder / "cgroup.subtree_control").write_text("+memory")
                folder /= name
                if not folder.exists():
                    folder.mkdir()
                    self.made.append(folder)
            (folder / "cgroup.procs").write_text(f"{child.pid}\n")
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        return uid

    def end(self, uid: str) -> None:
        """End one. Its cgroups stay for a while, as they do with a kubelet."""
        with self.processes.pop(uid) as child:
            child.kill()

    def close(self) -> None:
        for uid in list(self.processes):
            self.end(uid)
        for folder in reversed(self.made):
            assert wait_until(lambda folder=folder: _removed(folder), 5), folder  # type: ignore[misc]


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # the kernel needs a moment to let the last process go
        folder.rmdir()
    return not folder.exists()


@pytest.fixture
def pods() -> Iterator[Pods]:
    made = Pods()
    try:
        made.end(made.start())
    except OSError as error:
        made.close()
        pytest.skip(f"cgroups cannot be made here ({error}): pods were looked for in made-up trees only")
    yield made
    made.close()


def memory_used(status: dict[str, Any], figure: str = "current") -> int:
    row = next((row for row in status.get("usage", ()) if row["name"] == "memory"), None)
    return amount("memory", row[figure]) if row else 0


def test_it_creates_its_report_with_the_smallest_role_and_the_model_reads_it(node: Node) -> None:
    node.start()
    status = node.written()
    report = NodeReport.model_validate(node.client.get("nodereports", node.name))
    assert report.status is not None
    assert report.status.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert status["capacity"].keys() == {"cpu", "memory", "ephemeral-storage"}
    assert {row["type"]: row["status"] for row in status["conditions"]}["ClockSynced"] == "True"
    assert abs(status["clockOffsetMilliseconds"]) <= 1500
    assert node.logged("created")
    assert not [line for line in node.log() if line["level"] == "warning"]


def test_a_step_is_written_at_once_and_nothing_else_is(node: Node) -> None:
    # Half a percent of this machine's memory; the rest of the machine may well move by more than that.
    node.create().start("--threshold-percent", "0.5")
    before = node.written()
    total = amount("memory", before["capacity"]["memory"])
    step = max(total * 2 // 100, 1024 * MIB)  # more than an API server gives back that ends meanwhile
    used = memory_used(before)
    block = mmap.mmap(-1, step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    try:
        after = node.wait(lambda status: memory_used(status) >= used + step // 2, seconds=15)
    finally:
        block.close()
    assert after["sequence"] > before["sequence"]
    whys = {line["why"] for line in node.logged("writing")}
    assert any("stepped up" in why or "moved" in why for why in whys)


def test_it_is_silent_while_nothing_moves(node: Node) -> None:
    node.create().start("--threshold-percent", "100")
    first = node.written()
    assert wait_until(lambda: bool(node.logged("written")), 10)
    time.sleep(4)  # there is nothing to wait for: this is about what does not happen
    assert node.status()["sequence"] == first["sequence"]


def test_the_silence_is_broken_by_a_heartbeat(node: Node) -> None:
    node.create().start("--threshold-percent", "100", "--silence-seconds", "2")
    first = node.written()
    node.wait(lambda status: status["sequence"] >= first["sequence"] + 2, seconds=20)
    assert "silence is over" in {line["why"] for line in node.logged("writing")}


def test_sequences_go_on_over_restarts_and_after_a_kill(node: Node) -> None:
    node.start()
    first = node.written()["sequence"]
    assert node.stop() == 0
    node.start()
    second = node.wait(lambda status: status["sequence"] > first)["sequence"]
    assert node.child is not None
    node.child.kill()
    node.start()
    node.wait(lambda status: status["sequence"] > second)
    assert not node.logged("cannot write the report")


def test_an_older_sequence_is_refused_by_the_server_and_caught_up_with(node: Node) -> None:
    node.create().start("--threshold-percent", "100", "--silence-seconds", "2")
    status = node.written()
    forward = {"status": {"sequence": status["sequence"] + 1000}}
    node.client.patch("nodereports", node.name, forward, subresource="status")
    caught_up = node.wait(lambda s: s["sequence"] > status["sequence"] + 1000, seconds=30)
    assert caught_up["bootID"] == status["bootID"]
    assert node.logged("cannot write the report")[0]["status"] == 422


def test_the_spec_is_followed_and_a_lease_nobody_runs_is_gone(node: Node) -> None:
    uid = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
    node.create(leaseUIDs=[uid], windowSeconds=60).start()
    status = node.wait(lambda s: bool(s.get("leases")))
    assert status["leases"] == [{"uid": uid, "state": "Gone"}]
    assert all("unmanaged" in row for row in status["usage"] if row["name"] != "ephemeral-storage")


def test_another_spec_is_answered_although_nothing_else_moved(node: Node) -> None:
    node.create().start("--threshold-percent", "100", "--silence-seconds", "2")
    assert node.written()["observedGeneration"] == 1
    changed = node.client.patch("nodereports", node.name, {"spec": {"windowSeconds": 60}})
    assert changed["metadata"]["generation"] == 2
    answered = node.wait(lambda s: s.get("observedGeneration") == 2, seconds=20)
    assert answered.get("leases") is None
    assert wait_until(lambda: "spec changed" in {line["why"] for line in node.logged("writing")}, 10)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="making cgroups needs root: pods were looked for in made-up trees only"
)
@pytest.mark.parametrize("pid_namespace", ["the host's", "its own"])
def test_a_lease_is_there_while_one_of_its_pods_is(node: Node, pods: Pods, pid_namespace: str) -> None:
    """In a PID namespace of its own, as in a pod, the reporter sees none of their processes."""
    lease, other = "lease-of-the-pods", "lease-without-any"
    first, second, ended = pods.start(), pods.start(), "0b0b0b0b-0000-4000-8000-000000000000"
    asked = [{"uid": uid, "leaseUID": lease} for uid in (first, second, ended)]
    around = () if pid_namespace == "the host's" else ("/usr/bin/unshare", "--pid", "--fork", "--kill-child")
    node.create(leaseUIDs=[lease, other], pods=asked)
    node.start("--cgroup-root", CGROUP_ROOT, "--silence-seconds", "1", prefix=around)
    status = node.wait(lambda s: len(s.get("leases") or ()) == 2)
    there = {row["uid"]: row for row in status["leases"]}
    assert (there[lease]["state"], there[other]["state"]) == ("Present", "Gone")
    assert amount("memory", there[lease]["memory"]) >= 2 * Pods.MEMORY, "of both"
    assert status["observedGeneration"] == 1
    assert {row["type"]: row["status"] for row in status["conditions"]}["AgentDegraded"] == "False"
    pods.end(first)
    sequence = node.status()["sequence"]
    for row in node.wait(lambda s: s["sequence"] >= sequence + 3)["leases"]:
        assert row["state"] == there[row["uid"]]["state"], "one of two is left"
    pods.end(second)
    gone = node.wait(lambda s: all(row["state"] == "Gone" for row in s["leases"]), seconds=15)
    assert gone["observedGeneration"] == 1
    assert node.child is not None
    node.child.kill()  # unshare passes no other signal on


def test_a_deleted_report_comes_back(node: Node) -> None:
    node.create().start("--threshold-percent", "100", "--silence-seconds", "2")
    node.written()
    node.client.delete("nodereports", node.name)
    assert wait_until(lambda: node.client.find("nodereports", node.name) is not None, 20)
    node.written()


def test_a_token_that_is_refused_is_read_again_when_it_is_rotated(node: Node) -> None:
    node.token.write_text("worthless")
    node.create().start()
    assert wait_until(lambda: bool(node.logged("cannot read the report")), 15)
    assert node.logged("cannot read the report")[0]["status"] == 401
    node.token.write_text(node.server.service_account_token("default", ACCOUNT))
    node.written()
    assert "worthless" not in json.dumps(node.log())


def test_without_its_role_it_says_which_rights_it_needs(node: Node) -> None:
    node.token.write_text(node.server.service_account_token("default", "without-a-role"))
    node.start()
    assert wait_until(lambda: bool(node.logged("cannot read the report")), 15)
    (event,) = node.logged("cannot read the report")
    assert event["status"] == 403
    assert "nodereports get and create, nodereports/status patch" in event["why"]
    assert node.stop() == 0


def test_its_metrics_and_health_are_served_when_asked_for(node: Node) -> None:
    node.create().start("--http-port", "0")
    status = node.written()
    (event,) = node.logged("listening")
    assert wait_until(lambda: bool(node.logged("written")), 10), "it counts a write when it is answered"
    page = f"http://127.0.0.1:{event['port']}"
    assert fetch(f"{page}/healthz") == (200, "ok\n")
    _, text = fetch(f"{page}/metrics")
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    requests = {
        s.labels["method"]: s.value
        for s in families["leasehold_reporter_requests"]
        if s.labels["code"] == "200"
    }
    assert requests["PATCH"] >= 1
    assert families["leasehold_reporter_report_timestamp_seconds"][0].value == pytest.approx(
        time.time(), abs=60
    )
    capacity = {s.labels["resource"]: s.value for s in families["leasehold_reporter_node_capacity"]}
    assert capacity["memory"] == amount("memory", status["capacity"]["memory"])
    assert 4 * MIB < families["process_resident_memory_bytes"][0].value < 100 * MIB
    taken = subprocess.run(
        (
            sys.executable,
            "-m",
            "leasehold.cli.main",
            "reporter",
            "--server",
            "http://127.0.0.1:9",
            "--http-port",
            str(event["port"]),
        ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert taken.returncode == 1
    assert f"cannot listen on 127.0.0.1:{event['port']}" in taken.stderr


def test_a_lost_filesystem_takes_its_capacity_along_and_is_named(node: Node, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    node.create().start("--filesystem", f"nodefs={disk}", "--filesystem", "imagefs=/")
    assert "ephemeral-storage" in node.written()["capacity"]
    disk.rmdir()
    status = node.wait(lambda s: "ephemeral-storage" not in s["capacity"], seconds=15)
    assert [row["name"] for row in status["usage"]] == ["cpu", "memory"]
    degraded = next(row for row in status["conditions"] if row["type"] == "AgentDegraded")
    assert "filesystem nodefs" in degraded["message"]


def test_a_kubeconfig_is_enough_to_reach_the_server(node: Node) -> None:
    config = node.server.write_kubeconfig(node.server.as_service_account("default", ACCOUNT))
    command = (
        sys.executable,
        "-m",
        "leasehold.cli.main",
        "reporter",
        "--node-name",
        node.name,
        "--kubeconfig",
        config,
    )
    node.child = Child(command, log=node.folder / "log-0", cwd=node.folder)
    node.written()


class TestFaults:
    """On a server of our own, because others would mind."""

    @pytest.fixture
    def node(self, arena: ControlPlane, node_on: Callable[[ControlPlane], Node]) -> Node:
        return node_on(arena)

    def test_an_absent_server_loses_nothing_of_the_window(self, node: Node, arena: ControlPlane) -> None:
        node.create().start("--threshold-percent", "0.5", "--request-timeout", "2")
        before = node.written()
        arena.kill_apiserver()  # which frees hundreds of MiB of its own
        block = mmap.mmap(-1, 2048 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        try:
            assert wait_until(lambda: bool(node.logged("cannot write the report")), 20)
            time.sleep(1.5)  # at least one more reading with the block held
        finally:
            block.close()
        arena.restart_apiserver()
        after = node.wait(lambda status: status["sequence"] > before["sequence"], seconds=60)
        assert memory_used(after, "max") >= memory_used(before) + 1024 * MIB
        assert node.running
        assert wait_until(lambda: bool(node.logged("cannot write the report is over")), 10)

    def test_a_server_that_hangs_is_waited_for_and_no_longer_than_the_timeout(
        self, node: Node, arena: ControlPlane
    ) -> None:
        node.create().start("--threshold-percent", "100", "--silence-seconds", "1", "--request-timeout", "2")
        before = node.written()
        arena.pause_etcd()
        try:
            assert wait_until(lambda: bool(node.logged("cannot write the report")), 20)
            begun = time.monotonic()
            assert node.stop() == 0
            assert time.monotonic() - begun < 5
        finally:
            arena.resume_etcd()
        node.start("--silence-seconds", "1")
        node.wait(lambda status: status["sequence"] > before["sequence"], seconds=60)


def test_once_needs_no_server() -> None:
    command = [
        sys.executable,
        "-m",
        "leasehold.cli.main",
        "reporter",
        "--once",
        "-o",
        "json",
        "--interval",
        "0.3",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["capacity"]
    assert shown.stderr == ""
