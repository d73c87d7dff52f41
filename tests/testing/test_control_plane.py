"""The control plane, for real."""

from __future__ import annotations

import pytest

from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


def test_fixture_serves(kube: Client, namespace: str, control_plane: ControlPlane) -> None:
    kube.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": namespace}})
    assert [obj["metadata"]["name"] for obj in kube.list("cm", namespace)] == ["a"]
    print(control_plane.start_seconds)
