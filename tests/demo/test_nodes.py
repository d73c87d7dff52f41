from __future__ import annotations

from typing import Any

import pytest
from tests.demo.objects import node

from leasehold.adapters.host import Host
from leasehold.api.quantity import amount
from leasehold.core.times import parse_time
from leasehold.demo.examples import LABEL
from leasehold.demo.nodes import Nodes, host_capacity, host_name, host_node
from leasehold.testing.processes import wait_until

NOON = parse_time("2026-11-22T12:00:00.5Z")


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("vm", "vm"),
        ("Build_Box.local", "build-box.local"),
        ("-.odd.-", "odd"),
        ("___", "this-host"),
    ],
)
def test_a_hostname_becomes_a_node_name(hostname: str, name: str) -> None:
    assert host_name(hostname) == name


def test_the_host_is_measured() -> None:
    capacity = host_capacity(Host())
    assert amount("cpu", capacity["cpu"]) >= 1000
    assert amount("memory", capacity["memory"]) > 1 << 26
    assert amount("ephemeral-storage", capacity["ephemeral-storage"]) > 0


def test_the_hosts_node_is_labelled_ready_and_allocates_what_was_measured() -> None:
    made = host_node("vm", {"cpu": "2"}, NOON)
    assert LABEL in made["metadata"]["labels"]
    assert made["status"]["allocatable"] == {"cpu": "2", "pods": "110"}
    (ready,) = made["status"]["conditions"]
    assert (ready["status"], ready["lastHeartbeatTime"]) == ("True", "2026-11-22T12:00:00Z")


class OneNode:
    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.patches: list[dict[str, Any]] = []

    def get(self, *_: object) -> dict[str, Any]:
        return self.found

    def patch(self, _resource: str, _name: str, patch: dict[str, Any], **_: object) -> None:
        self.patches.append(patch)


def test_a_heartbeat_keeps_the_time_since_when_a_node_is_ready() -> None:
    client = OneNode(node())
    Nodes(client, guarded=False).beat("node-a", NOON)  # type: ignore[arg-type]
    (patch,) = client.patches
    (ready,) = patch["status"]["conditions"]
    assert ready["lastTransitionTime"] == "2026-11-22T11:00:00Z"
    assert patch["metadata"] == {"resourceVersion": "1"}


def test_a_node_that_is_not_ready_is_not_brought_back() -> None:
    client = OneNode(node(ready="Unknown"))
    Nodes(client, guarded=False).beat("node-a", NOON)  # type: ignore[arg-type]
    assert client.patches == []


def test_nodes_are_kept_alive_until_they_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leasehold.demo.nodes._HEARTBEAT_SECONDS", 0.001)
    monkeypatch.setattr("leasehold.demo.nodes._REPORT_SECONDS", 0.0)
    client = OneNode(node())
    nodes = Nodes(client, guarded=False)  # type: ignore[arg-type]
    nodes.host = "host"
    nodes.simulated.names.append("sim")
    reported: list[str] = []
    monkeypatch.setattr(nodes.simulated, "report", lambda name, usage: reported.append(name))
    nodes.keep_alive(lambda: NOON)
    assert wait_until(lambda: len(reported) > 1, 10)
    nodes.rest()
    nodes.rest()
    assert set(reported) == {"sim"}  # the host has a reporter of its own
    assert len(client.patches) > 2
