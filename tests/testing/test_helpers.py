"""The programs beside the API server, for real."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from leasehold.testing import helpers
from leasehold.testing.client import Client, has_condition
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ControlPlaneError, NotOwnedError
from leasehold.testing.helpers import KWOK_NODE_ANNOTATION
from leasehold.testing.nodes import SimulatedNodes
from leasehold.testing.processes import ProcessIdentity
from leasehold.testing.toolchain import KWOK


def names(arguments: list[str]) -> list[str]:
    return [Path(argument.removeprefix("--config=")).name for argument in arguments]


def test_kwok_is_given_its_own_stages_or_others_for_pods() -> None:
    own = names(helpers.files("kwok", Path("/built")))
    assert own == list(KWOK.files)
    others = names(helpers.files("kwok", Path("/built"), [Path("/mine/lazy.yaml")]))
    assert others == [name for name in own if name.startswith("node-")] + ["lazy.yaml"]
    assert helpers.files("kube-scheduler", Path("/built")) == []


@pytest.fixture(scope="module")
def whole() -> Iterator[ControlPlane]:
    """A control plane with all its parts, and kwok in place of nodes."""
    with ControlPlane(local=True) as control_plane:
        for program in ("kube-controller-manager", "kube-scheduler", "kwok"):
            control_plane.start_program(program)
        yield control_plane


@pytest.mark.cluster
def test_a_pod_is_scheduled_and_runs_on_a_simulated_node(whole: ControlPlane) -> None:
    client = whole.client()
    kept_alive = {KWOK_NODE_ANNOTATION: "fake"}
    with SimulatedNodes(client, annotations=kept_alive) as nodes:
        (name,) = nodes.create(1, report=False)
        client.wait("serviceaccounts", "default", "default", until=lambda account: True)
        container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "1"}}}
        client.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "a", "namespace": "default"},
                "spec": {"containers": [container]},
            }
        )
        running = client.wait(
            "pods",
            "a",
            "default",
            until=lambda pod: pod["status"].get("phase") == "Running",
            timeout_seconds=60,
        )
        assert running["spec"]["nodeName"] == name
        lease = client.wait("leases.coordination.k8s.io", name, "kube-node-lease", until=lambda lease: True)
        assert lease["spec"]["leaseDurationSeconds"] == 40
        assert has_condition(client.get("nodes", name), "Ready")
        client.delete("pods", "a", "default")
        client.wait_gone("pods", "a", "default")


@pytest.mark.cluster
def test_a_namespace_is_emptied_by_the_controller_manager(whole: ControlPlane) -> None:
    client = whole.client()
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "brief"}})
    client.wait("serviceaccounts", "default", "brief", until=lambda account: True)
    client.delete("namespaces", "brief")
    client.wait_gone("namespaces", "brief", timeout_seconds=60)


@pytest.mark.cluster
def test_programs_end_with_their_control_plane() -> None:
    with ControlPlane(local=True) as control_plane:
        control_plane.start_program("kube-scheduler")
        scheduler = ProcessIdentity.of(control_plane.processes["kube-scheduler"])
        assert scheduler is not None
    assert not scheduler.alive()


@pytest.mark.cluster
def test_kubectl_speaks_to_it(control_plane: ControlPlane, kube: Client, namespace: str) -> None:
    kubectl = [control_plane.program("kubectl"), "--kubeconfig", control_plane.kubeconfig_for("alice")]
    asked = subprocess.run(
        [*kubectl, "auth", "whoami"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "alice" in asked.stdout


@pytest.mark.cluster
def test_only_parts_of_a_control_plane_of_ours_are_started(control_plane: ControlPlane) -> None:
    with ControlPlane(kubeconfig=control_plane.kubeconfig) as guest, pytest.raises(NotOwnedError):
        guest.start_program("kube-scheduler")
    if control_plane.owned:
        with pytest.raises(ControlPlaneError, match="not a part of a control plane"):
            control_plane.start_program("kubectl")
