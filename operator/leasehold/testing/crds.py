"""Finds Leasehold's own resource definitions and installs them."""

from __future__ import annotations

from pathlib import Path

from leasehold.testing.client import Client

_PACKAGE = Path(__file__).resolve().parents[1]


def definition_files() -> list[Path]:
    """Return the manifests to install before anything else: the repository's, else the packaged ones."""
    for directory in (_PACKAGE.parents[1] / "crds", _PACKAGE / "api" / "crds"):
        found = sorted(directory.glob("*.yaml"))
        if found:
            return found
    return []


def install(client: Client, files: list[Path] | None = None) -> None:
    """Apply the definitions, with the policy that guards finalizers, and wait until the API serves them."""
    applied = client.apply_files(definition_files() if files is None else files)
    client.wait_established(
        obj["metadata"]["name"] for obj in applied if obj["kind"] == "CustomResourceDefinition"
    )
