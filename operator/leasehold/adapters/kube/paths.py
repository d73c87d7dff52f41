"""Where objects live on the API server."""

from __future__ import annotations

from leasehold.api.names import API_VERSION, KUEUE_API_VERSION, LEASE_PLURAL, POOL_PLURAL, REPORT_PLURAL

POOLS = f"/apis/{API_VERSION}/{POOL_PLURAL}"
LEASES = f"/apis/{API_VERSION}/{LEASE_PLURAL}"
REPORTS = f"/apis/{API_VERSION}/{REPORT_PLURAL}"
NODES = "/api/v1/nodes"
NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/pods"
SESSIONS = "/apis/coordination.k8s.io/v1/leases"
WORKLOADS = f"/apis/{KUEUE_API_VERSION}/workloads"
ADMISSION_CHECKS = f"/apis/{KUEUE_API_VERSION}/admissionchecks"
RESOURCE_FLAVORS = f"/apis/{KUEUE_API_VERSION}/resourceflavors"


def pool(name: str) -> str:
    """Return the path of a CapacityPool."""
    return f"{POOLS}/{name}"


def lease(namespace: str, name: str = "") -> str:
    """Return the path of a CapacityLease, or of all of a namespace."""
    return _one_of(f"/apis/{API_VERSION}/namespaces/{namespace}/{LEASE_PLURAL}", name)


def report(name: str) -> str:
    """Return the path of a NodeReport."""
    return f"{REPORTS}/{name}"


def events(namespace: str) -> str:
    """Return the path of a namespace's Events."""
    return f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"


def status(path: str) -> str:
    """Return the path of an object's status subresource."""
    return f"{path}/status"


def coordination(namespace: str, name: str = "") -> str:
    """Return the path of a coordination Lease, or of all of a namespace."""
    return _one_of(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", name)


def pod(namespace: str, name: str = "") -> str:
    """Return the path of a Pod, or of all of a namespace."""
    return _one_of(f"/api/v1/namespaces/{namespace}/pods", name)


def secret(namespace: str, name: str = "") -> str:
    """Return the path of a Secret, or of all of a namespace."""
    return _one_of(f"/api/v1/namespaces/{namespace}/secrets", name)


def webhook_configuration(name: str) -> str:
    """Return the path of a MutatingWebhookConfiguration."""
    return f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"


def node(name: str) -> str:
    """Return the path of a Node."""
    return f"{NODES}/{name}"


def workload(namespace: str, name: str) -> str:
    """Return the path of a Kueue Workload."""
    return f"/apis/{KUEUE_API_VERSION}/namespaces/{namespace}/workloads/{name}"


def admission_check(name: str) -> str:
    """Return the path of a Kueue AdmissionCheck."""
    return f"{ADMISSION_CHECKS}/{name}"


def _one_of(collection: str, name: str) -> str:
    return f"{collection}/{name}" if name else collection
