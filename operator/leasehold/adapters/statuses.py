"""How the status of a lease is written: the one place."""

from __future__ import annotations

from typing import Any

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.api.names import API_VERSION, LEASE_KIND
from leasehold.core.lease import Lease, with_status
from leasehold.core.status import apply_patch


async def write_status(client: KubeClient, lease: Lease, patch: dict[str, Any]) -> Lease:
    """Write a lease's changed status, if nobody wrote to the lease since; return the lease as it is then.

    Raises ApiError; Conflict when the lease is another version, or another lease of the same name.
    """
    path = paths.lease(lease.namespace, lease.name)
    status = apply_patch(lease.status, patch)
    document = {
        "apiVersion": API_VERSION,
        "kind": LEASE_KIND,
        "metadata": {
            "name": lease.name,
            "namespace": lease.namespace,
            "uid": lease.uid,
            "resourceVersion": str(lease.version),
        },
        "status": status,
    }
    version = await client.replace_status(path, document)
    return with_status(lease, status, int(version))
