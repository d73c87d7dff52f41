"""One control plane with all its parts, and an operator that may touch pods, for the process that tells these stories.

It is one process, see tests/together.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.enforcement.harness import Enforcer, PodStage, pod_stage_on, whole_control_plane

from leasehold.testing.control_plane import ControlPlane


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/enforcement/" in str(item.path):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="package")
def audit_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The requests to the control plane, one JSON object in each line."""
    return tmp_path_factory.mktemp("whole") / "audit.jsonl"


@pytest.fixture(scope="package")
def whole(audit_log: Path) -> Iterator[ControlPlane]:
    """A control plane with a scheduler, the controllers, and kwok in place of kubelets."""
    with whole_control_plane(audit_log) as control_plane:
        yield control_plane


@pytest.fixture(scope="package")
def enforcer(whole: ControlPlane) -> Iterator[Enforcer]:
    """The operator that runs through all the stories, and that a story can take away for a while."""
    with Enforcer(whole) as operator:
        yield operator


@pytest.fixture
def stage(whole: ControlPlane, enforcer: Enforcer) -> Iterator[PodStage]:
    """A stage with the operator."""
    with pod_stage_on(whole) as made:
        yield made
    enforcer.check()
