"""Every example, on a real API server: accepted as it stands, and the shortest one granted by an operator.

What the others promise is played by the demo, see tests/demo/test_run.py.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.harness import LEASES, POOLS, Stage

from leasehold.testing.client import Client, has_condition
from leasehold.testing.errors import ApiError

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))
NAMESPACE = "team-a"


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def make_namespace(client: Client) -> None:
    with contextlib.suppress(
        ApiError
    ):  # an earlier test made it: a namespace does not end without a controller
        client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_api_server_accepts_an_example_and_keeps_every_field(bare: Stage, path: Path) -> None:
    make_namespace(bare.kube)
    made = []
    try:
        for document in documents(path):
            stored = bare.kube.create(document)  # strict: a field that nobody knows is refused
            made.append(stored)
            assert contains(stored["spec"], document["spec"])
    finally:
        for stored in made:
            resource = f"{stored['kind']}.{stored['apiVersion'].rpartition('/')[0]}"
            name, namespace = stored["metadata"]["name"], stored["metadata"].get("namespace")
            bare.kube.patch(resource, name, {"metadata": {"finalizers": None}}, namespace)
            bare.kube.delete(resource, name, namespace)


def contains(stored: object, written: object) -> bool:
    """Tell whether everything written is stored; defaults may have been added."""
    if isinstance(written, dict):
        return isinstance(stored, dict) and all(
            key in stored and contains(stored[key], value) for key, value in written.items()
        )
    if isinstance(written, list):
        return isinstance(stored, list) and all(map(contains, stored, written))
    return stored == written


def test_the_shortest_use_works_as_it_stands(stage: Stage) -> None:
    make_namespace(stage.kube)
    nodes = stage.nodes.create(2, labels={"node-role": "ci"})
    for document in documents(EXAMPLES[0]):
        stage.kube.create(document)
    lease = stage.kube.wait(LEASES, "build-42", NAMESPACE, until=lambda found: has_condition(found, "Ready"))
    assert lease["status"]["allocation"]["slices"][0]["nodeName"] in nodes
    stage.kube.delete(LEASES, "build-42", NAMESPACE)
    stage.kube.wait_gone(LEASES, "build-42", NAMESPACE)
    stage.kube.delete(POOLS, "ci")
    stage.kube.wait_gone(POOLS, "ci")
