"""Finds Leasehold's own resource definitions and installs them."""

from __future__ import annotations

from pathlib import Path

import yaml

from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError, SetupError, StartError, UnknownResourceError
from leasehold.testing.processes import wait_until

_PACKAGE = Path(__file__).resolve().parents[1]
_ACTIVE_SECONDS = 30
_POLICY = "MutatingAdmissionPolicy"

_PROBE = {
    "apiVersion": "leasehold.dev/v1alpha1",
    "kind": "CapacityLease",
    "metadata": {"name": "probe", "namespace": "default"},
    "spec": {"poolRef": {"name": "probe"}, "resources": {"cpu": "1"}},
}


def definition_files() -> list[Path]:
    """Return the manifests to install before anything else: the repository's, else the packaged ones."""
    for directory in (_PACKAGE.parents[1] / "crds", _PACKAGE / "api" / "crds"):
        found = sorted(directory.glob("*.yaml"))
        if found:
            return found
    raise SetupError(f"No CRDs: neither {_PACKAGE.parents[1]}/crds nor {_PACKAGE}/api/crds holds a YAML file")


def install(client: Client) -> None:
    """Apply the definitions and wait until they act: resources are served, and leases get their finalizer.

    A server that has no MutatingAdmissionPolicy goes without the last; the operator then adds it with the grant.
    """
    documents = [
        document
        for path in definition_files()
        for document in yaml.safe_load_all(path.read_text())
        if not document["kind"].startswith(_POLICY) or _knows_policies(client)
    ]
    applied = [client.apply(document) for document in documents]
    client.wait_established(
        obj["metadata"]["name"] for obj in applied if obj["kind"] == "CustomResourceDefinition"
    )
    adds_finalizer = any(obj["kind"] == _POLICY for obj in applied)
    if adds_finalizer and not wait_until(lambda: _gets_finalizer(client), _ACTIVE_SECONDS, step_seconds=0.1):
        raise StartError(
            f"The policy that adds the finalizer to leases had no effect for {_ACTIVE_SECONDS} s"
        )


def _knows_policies(client: Client) -> bool:
    try:
        client.resource("mutatingadmissionpolicies")
    except UnknownResourceError:
        return False
    return True


def _gets_finalizer(client: Client) -> bool:
    """Tell whether a new lease would get a finalizer. The API server takes up a policy a moment after it is
    made.
    """
    path = client.resource("capacityleases.leasehold.dev").path("default")
    try:
        would_be = client.request("POST", path, _PROBE, dryRun="All")
    except ApiError as error:
        if error.status == 503:  # the policy is there, and does not know the new kind yet
            return False
        raise
    return bool(would_be["metadata"].get("finalizers"))
