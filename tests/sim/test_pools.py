"""Pools and nodes that a replay runs on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from leasehold.sim.pools import default_spec, machine, nodes_of, pool_of, read_pool, scaled, shown, slim
from leasehold.sim.problems import BadInput


def names(nodes: list[Any]) -> list[str]:
    return [node["metadata"]["name"] for node in nodes]


@pytest.mark.parametrize("text", ["3x cpu=2,memory=1Gi", "3xcpu=2,memory=1Gi", "3x:cpu=2,memory=1Gi"])
def test_nodes_out_of_thin_air(text: str) -> None:
    nodes = nodes_of(text)
    assert names(nodes) == ["node-0", "node-1", "node-2"]
    pool = pool_of("p", default_spec(("cpu", "memory")), nodes)
    assert pool.capacity == 6_000
    assert shown(pool) == "3 nodes, 6 cpu"


@pytest.mark.parametrize(
    ("text", "message"),
    [("3x cpu=lots", "not a quantity"), ("nodes.yaml", "there is no file"), ("3x", "there is no file")],
)
def test_nodes_that_mean_nothing(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        nodes_of(text)


def test_nodes_as_kubectl_prints_them(tmp_path) -> None:
    listing = tmp_path / "nodes.yaml"
    listing.write_text(
        "kind: List\nitems:\n- kind: Node\n  metadata: {name: a}\n- kind: Pod\n  metadata: {name: b}\n"
    )
    assert names(nodes_of(str(listing))) == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind: Pod\n", "holds no Node"),
        ("[1, 2\n", "neither YAML nor JSON"),
        ("- 1\n- 2\n", "no Kubernetes object"),
    ],
)
def test_a_file_without_nodes_is_an_error(tmp_path, content, message) -> None:
    listing = tmp_path / "nodes.yaml"
    listing.write_text(content)
    with pytest.raises(BadInput, match=message):
        nodes_of(str(listing))


def test_a_node_without_a_name_is_an_error() -> None:
    with pytest.raises(BadInput, match="a node cannot be read"):
        pool_of("p", default_spec(("cpu",)), [{"kind": "Node", "metadata": {}}])


@pytest.mark.parametrize(
    ("factor", "kept"),
    [
        (1.0, ["a", "b", "c", "d"]),
        (0.5, ["a", "c"]),
        (0.01, ["a"]),
        (2.25, [*"abcd", *(f"{name}-copy1" for name in "abcd"), "a-copy2"]),
        (1.5, ["a", "b", "c", "d", "a-copy1", "c-copy1"]),
    ],
)
def test_nodes_are_scaled_evenly(factor: float, kept: list[str]) -> None:
    nodes = [{"metadata": {"name": name, "labels": {"zone": name}}} for name in "abcd"]
    assert names(scaled(nodes, factor)) == kept


def test_a_copy_is_like_its_node_but_for_the_name() -> None:
    (_, copy) = scaled(
        [{"metadata": {"name": "a", "labels": {"zone": "x", "kubernetes.io/hostname": "a"}}}], 2
    )
    assert copy["metadata"]["labels"] == {"zone": "x", "kubernetes.io/hostname": "a-copy1"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind: Pod\n", "0 CapacityPools"),
        ("kind: CapacityPool\nspec: {nodeSelector: {}, colour: red}\n", "colour"),
        ("kind: CapacityPool\n", "the record"),
    ],
)
def test_a_manifest_that_is_no_pool_is_an_error(tmp_path, content, message) -> None:
    manifest = tmp_path / "pool.yaml"
    manifest.write_text(content)
    with pytest.raises(BadInput, match=message):
        read_pool(manifest)


def test_a_file_that_is_no_text_is_an_error(tmp_path) -> None:
    manifest = tmp_path / "pool.yaml"
    manifest.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="no text file"):
        read_pool(manifest)


def test_a_machine_is_one_node_of_processors() -> None:
    pool = machine(80_640, "fcfs")
    assert (pool.capacity, pool.resource, pool.policy.queue_strategy) == (80_640, "processors", "StrictFIFO")
    assert shown(pool) == "80640 processors"


def test_a_recorded_node_is_all_that_a_replay_needs() -> None:
    document = {
        "metadata": {"name": "a", "labels": {"x": "y"}, "managedFields": [1]},
        "spec": {"unschedulable": True, "podCIDR": "10.0.0.0/24"},
        "status": {
            "allocatable": {"cpu": "4"},
            "images": [1],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}],
        },
    }
    kept = slim(document)
    assert len(json.dumps(kept)) < 250
    spare = {"metadata": {"name": "b", "labels": {}}, "status": {**document["status"]}}
    pool = pool_of("p", default_spec(("cpu",)), [kept, slim(spare)])
    assert (pool.closed, pool.capacity, pool.table.names) == (1, 4_000, ["a", "b"])
