"""Leasehold's own definitions, installed on a real API server."""

from __future__ import annotations

import pytest

from leasehold.testing import crds
from leasehold.testing.client import Client
from leasehold.testing.errors import SetupError


@pytest.mark.cluster
def test_they_act_as_soon_as_they_are_installed(kube: Client, namespace: str) -> None:
    lease = {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": {"name": "a", "namespace": namespace},
        "spec": {"poolRef": {"name": "ci"}, "resources": {"cpu": "1"}},
    }
    assert kube.create(lease)["metadata"]["finalizers"] == ["leasehold.dev/release"]


@pytest.mark.cluster
def test_installing_again_changes_nothing(kube: Client) -> None:
    name = "capacitypools.leasehold.dev"
    before = kube.get("crd", name)["metadata"]["generation"]
    crds.install(kube)
    assert kube.get("crd", name)["metadata"]["generation"] == before


def test_without_manifests_it_says_where_it_looked(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path_factory.mktemp("a") / "b" / "c"
    monkeypatch.setattr(crds, "_PACKAGE", empty)
    with pytest.raises(SetupError, match=f"neither {empty.parents[1]}/crds nor {empty}/api/crds"):
        crds.definition_files()
