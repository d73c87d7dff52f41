"""Two API servers of our own for each worker: one with an operator that stays, one for operators that come and go.

The shared `control_plane` has none, because an operator would write to every lease on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.harness import SESSIONS, Stage, ThreadOperator, stage_on

from leasehold.testing.control_plane import OPERATOR_NAMESPACE, ControlPlane

AUDIT_LOG = "audit.jsonl"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/cluster/" in str(item.path):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="package")
def home() -> Iterator[ControlPlane]:
    """An API server for the operator that stays."""
    with ControlPlane(local=True) as server:
        server.install_crds()
        yield server


@pytest.fixture(scope="package")
def operator(home: ControlPlane) -> Iterator[ThreadOperator]:
    """An operator that runs through all the stories, in this process."""
    running = ThreadOperator(home.kubeconfig).start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def stage(home: ControlPlane, operator: ThreadOperator) -> Iterator[Stage]:
    """A stage on which the operator that stays plays."""
    with stage_on(home) as made:
        yield made
    assert not operator.exit_code.done(), "the operator ended"


@pytest.fixture(scope="package")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server without an operator: each test starts and ends its own. It writes down every request."""
    with ControlPlane(local=True, audit_log=tmp_path_factory.mktemp("arena") / AUDIT_LOG) as server:
        server.install_crds()
        yield server


@pytest.fixture(scope="package")
def audit_log(arena: ControlPlane) -> Path:
    """The requests to the arena, one JSON object in each line."""
    found = arena._audit_log
    assert found is not None
    return found


@pytest.fixture
def bare(arena: ControlPlane) -> Iterator[Stage]:
    """A stage without an operator. What killed ones left behind in the election is tidied away."""
    with stage_on(arena) as made:
        yield made
        made.kube.delete_all(SESSIONS, OPERATOR_NAMESPACE)
