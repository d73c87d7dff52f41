"""What lets pods run in the demo: a scheduler, the controllers, kwok in place of kubelets, and an operator that may
hold pods to their leases. Nothing runs in such pods: kwok says that they run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from leasehold.demo.errors import DemoError, NotAsExpected
from leasehold.testing.client import Client
from leasehold.testing.control_plane import OPERATOR_NAMESPACE, ControlPlane, ensure_namespace
from leasehold.testing.errors import ApiError
from leasehold.testing.processes import wait_until

PROGRAMS: Final = ("kube-controller-manager", "kube-scheduler", "kwok")

_MANIFESTS: Final = Path(__file__).resolve().parents[3] / "manifests"
_FILES: Final = (
    "rbac-operator.yaml",
    "enforcement/rbac-operator.yaml",
    "enforcement/priorityclasses.yaml",
    "enforcement/policies.yaml",
)
_ACCOUNT: Final = "leasehold-operator"
_TOKEN_SECONDS: Final = 7 * 86_400
_POLICY_SECONDS: Final = 90.0  # the API server looks for new kinds every 30 seconds
_PROBE: Final = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "probe", "labels": {"leasehold.dev/lease": "none"}},
    "spec": {"containers": [{"name": "main", "image": "none"}]},
}


def start(control_plane: ControlPlane, client: Client, namespace: str) -> Path:
    """Start the programs and install what enforcement needs; return the operator's own kubeconfig.

    Raises DemoError where the repository's manifests are not there, NotOwnedError on somebody else's cluster.
    """
    missing = [name for name in _FILES if not (_MANIFESTS / name).exists()]
    if missing:
        raise DemoError(f"--pods needs the repository: {_MANIFESTS} lacks {', '.join(missing)}")
    for program in PROGRAMS:
        control_plane.start_program(program)
    ensure_namespace(client, OPERATOR_NAMESPACE)
    client.apply_files([_MANIFESTS / name for name in _FILES])
    account = control_plane.as_service_account(OPERATOR_NAMESPACE, _ACCOUNT, seconds=_TOKEN_SECONDS)
    if not wait_until(lambda: _may_be_made(client, namespace), _POLICY_SECONDS, step_seconds=0.5):
        raise NotAsExpected(f"Pods with a lease are refused after {_POLICY_SECONDS:.0f} s still.")
    return control_plane.write_kubeconfig(account)


def _may_be_made(client: Client, namespace: str) -> bool:
    """Tell whether pods with a lease are taken: they are refused until the API server knows of pools."""
    try:
        client.request("POST", client.resource("pods").path(namespace), _PROBE, dryRun="All")
    except ApiError as error:
        if "paramKind" not in str(error):
            raise
        return False
    return True
