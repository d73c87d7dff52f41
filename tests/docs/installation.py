"""Leasehold as a user has it: manifests applied, an operator at work, nodes, pools and leases with the pages' names."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.cluster.harness import LEASES, POOLS, Object, is_, until
from tests.enforcement.harness import Enforcer, pods_may_be_made

from leasehold.testing import toolchain
from leasehold.testing.client import Client
from leasehold.testing.control_plane import OPERATOR_NAMESPACE, ControlPlane
from leasehold.testing.helpers import KWOK_NODE_ANNOTATION
from leasehold.testing.nodes import SimulatedNodes

ROOT = Path(__file__).resolve().parents[2]

STANDS_FOR = {
    "NAMESPACE": "namespace",
    "NAME": "name",
    "POOL": "pool",
    "NODE": "simulated-0000",
    "POD": "pod",
    "LEASE": "name",
    "KEY": "node-role",
    "VALUE": "ci",
    "FILE": "kubeconfig",
}
"""What pages write in capitals for the reader's own, and what it is here."""

NAMESPACES = ("namespace", "team-a", OPERATOR_NAMESPACE)
_LEASES = (
    ("name", "namespace", "pool"),
    ("name", "team-a", "pool"),
    ("build-42", "team-a", "ci"),
    ("batch", "team-a", "ci"),
)
_RESOURCES = {"cpu": "2", "memory": "4Gi"}
"""Those of examples/01-shortest.yaml, which blocks apply over it: a lease that is granted may only shrink."""
_POOLS = {"ci": {"node-role": "ci"}, "pool": {"pool": "pool"}, "name": {"pool": "name"}}


_OF_A_HOME = (
    ".local/bin",
    ".local/share/bash-completion/completions",
    ".config/fish/completions",
    ".zfunc",
)
"""Where a shell looks for what pages write there."""


class Installation:
    """A cluster where Leasehold is installed. Nothing really runs in its pods: kwok plays the kubelets."""

    def __init__(self, control_plane: ControlPlane, operator: Enforcer, directory: Path) -> None:
        self.control_plane = control_plane
        self.kube: Client = control_plane.client()
        self.operator = operator
        self._directory = directory
        self._bin = directory / "bin"
        self._tools = {
            name: toolchain.build(toolchain.MODULES[name], [name]) / name for name in ("kubectl", "helm")
        }
        self._nodes = SimulatedNodes(
            self.kube, prefix="simulated", annotations={KWOK_NODE_ANNOTATION: "fake"}
        )
        self._put_commands()

    def _put_commands(self) -> None:
        from tests.docs.commands import COMMANDS

        self._bin.mkdir()
        for name in COMMANDS:
            shim = self._bin / name
            shim.write_text(
                f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {ROOT}/tests/docs/commands.py {name} "$@"\n'
            )
            shim.chmod(0o755)

    def install(self) -> None:
        """Make the nodes, and apply what `kubectl apply -f manifests/` applies."""
        # In this order: once the policies are there nobody but reporters may write reports.
        self._nodes.create(2, labels={"node-role": "ci"})
        for labels in list(_POOLS.values())[1:]:
            self._nodes.create(1, labels=labels)
        # What stands there was put there by the test's own client, whose fields these are otherwise.
        for where in (("-f", "crds/", "-f", "manifests/"), ("-f", "manifests/enforcement/")):
            subprocess.run(
                [self._tools["kubectl"], "apply", "--server-side", "--force-conflicts", *where],
                cwd=ROOT,
                env={**os.environ, "KUBECONFIG": str(self.control_plane.kubeconfig)},
                check=True,
                stdout=subprocess.DEVNULL,
                timeout=120,
            )
        until(lambda: pods_may_be_made(self.kube, "default"), "pods with a lease may be made", 60)

    def tidy(self) -> None:
        """Make what is not there, or is on its way out."""
        for name in NAMESPACES:
            self._have("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for name, labels in _POOLS.items():
            spec = {
                "nodeSelector": {"matchLabels": labels},
                "leasePolicy": {"gracePeriodSeconds": 0},
                "freshness": {"maxAgeSeconds": 86400},  # nobody but a reporter may report anew
            }
            self._have(POOLS, _ours("CapacityPool", name, None, spec))
        for name, namespace, pool in _LEASES:
            spec = {"poolRef": {"name": pool}, "resources": _RESOURCES, "durationSeconds": 600}
            self._have(LEASES, _ours("CapacityLease", name, namespace, spec))
        for name, namespace in (("name", "team-a"), ("pod", OPERATOR_NAMESPACE)):
            self._have("pods", _pod(name, namespace))
        self.kube.wait(POOLS, "ci", until=is_("Ready"))
        self.kube.wait(LEASES, "build-42", "team-a", until=is_("Ready"))

    def _have(self, resource: str, wanted: Object) -> None:
        meta = wanted["metadata"]
        name, namespace = meta["name"], meta.get("namespace")
        found = self.kube.find(resource, name, namespace)
        if found is not None and (_over(found) or "deletionTimestamp" in found["metadata"]):
            self.kube.delete(resource, name, namespace, missing_ok=True)
            self.kube.wait_gone(resource, name, namespace, 30)
            found = None
        if found is None:
            self.kube.create(wanted)

    def shell(self, script: str, work: Path, *, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a block of a page in a shell, as from the repository's root, with what stands in capitals replaced."""
        for name in ("examples", "crds", "manifests", "helm", "Makefile"):
            if not (work / name).exists():
                (work / name).symlink_to(ROOT / name)
        (work / "kubeconfig").write_text(self.control_plane.kubeconfig.read_text())
        here = ("config", "set-context", "--current", "--namespace=team-a")
        env = self.environment(work)
        subprocess.run([self._tools["kubectl"], *here], env=env, check=True, stdout=subprocess.DEVNULL)
        for path in _OF_A_HOME:
            (work / path).mkdir(parents=True, exist_ok=True)
        pattern = rf"\b({'|'.join(STANDS_FOR)})\b"
        text = re.sub(pattern, lambda found: STANDS_FOR[found[0]], script)
        # grep finds nothing where nothing is wrong.
        guard = 'set -eu\ngrep() { command grep "$@" || test $? = 1; }\n'
        return subprocess.run(
            ["bash", "-c", guard + text],
            cwd=work,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def environment(self, work: Path) -> dict[str, str]:
        return {
            "HOME": str(work),
            "LANG": "C.UTF-8",
            "PATH": f"{self._bin}:/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT / 'operator'}",
            "KUBECONFIG": str(work / "kubeconfig"),
            "DOCS_LOOKED_AT": str(work / "looked-at"),
            "DOCS_OPERATOR": f"http://127.0.0.1:{self.operator.process.port}",
            "DOCS_KUBECTL": str(self._tools["kubectl"]),
            "DOCS_HELM": str(self._tools["helm"]),
        }

    def know_kueue(self) -> None:
        """Install Kueue's definitions."""
        from tests.cluster import kueue

        kueue.install(self.kube)


def _over(found: Mapping[str, Any]) -> bool:
    return found.get("kind") == "CapacityLease" and is_("Finished")(dict(found))


def _ours(kind: str, name: str, namespace: str | None, spec: Mapping[str, Any]) -> Object:
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "leasehold.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": dict(spec)}


def _pod(name: str, namespace: str) -> Object:
    secure = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "main", "image": "none", "securityContext": secure}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [container]},
    }


@contextlib.contextmanager
def installation_on(control_plane: ControlPlane, directory: Path) -> Iterator[Installation]:
    with Enforcer(control_plane) as operator:
        made = Installation(control_plane, operator, directory)
        made.install()
        yield made
        operator.check()
