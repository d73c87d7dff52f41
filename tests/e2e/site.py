"""Where the chart is installed for real: a real node on this machine, or kind."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import yaml

from leasehold.testing import audit
from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.kubeconfig import Connection
from leasehold.testing.real_node import RealNode

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class Site(Protocol):
    """A cluster with one node that runs real pods."""

    node: str
    kubeconfig: Path
    kubectl: Path
    storage: Path | None
    """Where the kubelet keeps the pods' storage, by a path on this host; None where that is out of sight."""

    def client(self) -> Client:
        """A client of the administrator."""
        ...

    def load(self, archive: Path) -> None:
        """Bring an image to the node."""
        ...

    def audit(self) -> list[dict[str, Any]]:
        """Every request so far."""
        ...


class _OnRealNode:
    def __init__(self, real: RealNode) -> None:
        self.real = real
        self.node = real.name
        self.kubeconfig = real.kubeconfig
        self.kubectl = real.control_plane.program("kubectl")
        self.storage = real.directory

    def client(self) -> Client:
        return self.real.client()

    def load(self, archive: Path) -> None:
        self.real.load_image(archive)

    def audit(self) -> list[dict[str, Any]]:
        return self.real.audit()


class _OnKind:
    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.directory = name, directory
        self.node = f"{name}-control-plane"
        self.kubeconfig = directory / "kubeconfig"
        self.kubectl = Path(shutil.which("kubectl") or ControlPlane().program("kubectl"))
        self.storage = None
        self._clients: list[Client] = []

    def client(self) -> Client:
        self._clients.append(Client(Connection.read(self.kubeconfig)))
        return self._clients[-1]

    def load(self, archive: Path) -> None:
        kind("load", "image-archive", str(archive), "--name", self.name)

    def audit(self) -> list[dict[str, Any]]:
        return audit.read(self.directory / "audit" / "audit.jsonl")

    def close(self) -> None:
        for client in self._clients:
            client.close()


def kind(*arguments: str) -> str:
    done = subprocess.run(["kind", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"kind {' '.join(arguments)}:\n{done.stderr}"
    return done.stdout


@contextmanager
def on_real_node() -> Iterator[Site]:
    with RealNode() as real:
        yield _OnRealNode(real)


@contextmanager
def on_kind(directory: Path) -> Iterator[Site]:
    """A kind cluster that writes down every request, removed at the end."""
    name = f"leasehold-{secrets.token_hex(4)}"
    (directory / "audit").mkdir()
    (directory / "audit" / "policy.yaml").write_text(json.dumps(AUDIT_POLICY))
    patch = {
        "kind": "ClusterConfiguration",
        "apiServer": {
            "extraArgs": [
                {"name": "audit-policy-file", "value": "/audit/policy.yaml"},
                {"name": "audit-log-path", "value": "/audit/audit.jsonl"},
            ],
            "extraVolumes": [
                {
                    "name": "audit",
                    "hostPath": "/audit",
                    "mountPath": "/audit",
                    "readOnly": False,
                    "pathType": "Directory",
                }
            ],
        },
    }
    mount = {"hostPath": str(directory / "audit"), "containerPath": "/audit"}
    config = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [
            {"role": "control-plane", "extraMounts": [mount], "kubeadmConfigPatches": [yaml.safe_dump(patch)]}
        ],
    }
    (directory / "kind.yaml").write_text(yaml.safe_dump(config))
    site = _OnKind(name, directory)
    chosen = ["--image", image] if (image := os.environ.get("LEASEHOLD_KIND_IMAGE")) else []
    try:
        kind(
            *("create", "cluster", "--name", name, "--wait", "180s", *chosen),
            *("--config", str(directory / "kind.yaml"), "--kubeconfig", str(site.kubeconfig)),
        )
        yield site
    finally:
        site.close()
        kind("delete", "cluster", "--name", name)
