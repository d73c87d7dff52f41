"""pytest plugin: a real API server per test process, and a namespace per test.

Fixtures: `control_plane` (started once per process, with Leasehold's CRDs installed), `kube` (a client of its
administrator) and `namespace` (fresh and empty, removed afterwards). Where no API server can be had the test
fails and says what to install; it is never skipped. A process that a test started and left behind fails the
session.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# pytest loads this module wherever the package is installed: what costs time is imported where it is used.
if TYPE_CHECKING:
    from leasehold.testing.client import Client
    from leasehold.testing.control_plane import ControlPlane

_EMPTIED = ("capacityleases.leasehold.dev", "leases.coordination.k8s.io", "pods")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names a cluster."""
    parser.getgroup("leasehold").addoption(
        "--leasehold-kubeconfig",
        metavar="FILE",
        default=None,
        help="run cluster tests on this cluster, which they write to, instead of starting an API server",
    )


@pytest.fixture(scope="session", autouse=True)
def _no_process_left() -> Iterator[None]:
    """Fail when a started process outlives the fixtures and tests that could have stopped it."""
    yield
    from leasehold.testing import processes
    from leasehold.testing.errors import LeakError

    left = processes.still_running()
    for child in left:
        child.kill()
    if left:
        names = ", ".join(f"{child.name} (pid {child.pid})" for child in left)
        raise LeakError(f"started by this test run and never stopped: {names}; they have been killed now")


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest, _no_process_left: None) -> Iterator[ControlPlane]:
    """Provide an API server with Leasehold's CRDs, shared by the tests of this process."""
    from leasehold.testing.control_plane import ControlPlane
    from leasehold.testing.errors import ControlPlaneError

    def tell(line: str) -> None:
        from leasehold.testing.toolchain import print_progress

        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            print_progress(line)

    server = ControlPlane(kubeconfig=request.config.getoption("--leasehold-kubeconfig"), progress=tell)
    refusal = None
    try:
        server.start()
        server.install_crds()
    except ControlPlaneError as error:
        refusal = str(error)
    if refusal is None:
        if request.config.get_verbosity() > 0:
            tell(f"leasehold: {server.url} ({server.provider.source}) ready in {server.start_seconds:.1f} s")
        yield server
    server.stop()
    if refusal is not None:  # outside the except block, so that the report is the message alone
        pytest.fail(refusal, pytrace=False)


@pytest.fixture
def kube(control_plane: ControlPlane) -> Iterator[Client]:
    """Provide a client of the administrator."""
    with control_plane.client() as client:
        yield client


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """Provide a fresh namespace with its default service account; remove what could disturb others."""
    from leasehold.testing.client import Client
    from leasehold.testing.control_plane import ensure_service_account

    name = f"test-{secrets.token_hex(5)}"
    with Client(control_plane.connection) as client:
        client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        ensure_service_account(client, name, "default")
        yield name
        remove_namespace(client, name)


def remove_namespace(client: Client, name: str) -> None:
    """Empty a namespace of what an operator acts on, lifting finalizers, and delete it.

    No controller-manager runs here, so nobody else would empty it; where one runs, it does the rest.
    """
    from leasehold.testing.errors import UnknownResourceError

    for resource in _EMPTIED:
        try:
            client.resource(resource)
        except UnknownResourceError:
            continue
        for obj in client.list(resource, name):
            if obj["metadata"].get("finalizers"):
                client.patch(resource, obj["metadata"]["name"], {"metadata": {"finalizers": None}}, name)
        client.delete_all(resource, name)
    client.delete("namespaces", name)
