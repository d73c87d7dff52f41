"""What lets pods run in the demo; the tutorial's test sees them run."""

from __future__ import annotations

from pathlib import Path

import pytest

from leasehold.demo import pods
from leasehold.demo.__main__ import main
from leasehold.demo.errors import DemoError
from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane


def test_it_is_not_for_somebodys_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--keep", "--pods", "--kubeconfig", str(tmp_path / "kubeconfig"), "--dir", str(tmp_path)])
    assert "leave out --kubeconfig" in capsys.readouterr().err


@pytest.mark.cluster
def test_without_the_repository_it_says_what_is_missing(
    control_plane: ControlPlane, kube: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods, "_MANIFESTS", tmp_path)
    with pytest.raises(DemoError, match=r"needs the repository: .* lacks rbac-operator\.yaml"):
        pods.start(control_plane, kube, "default")
