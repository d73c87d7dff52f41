"""The small client, against a real API server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leasehold.testing.client import JSON_PATCH, Client, Event
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError, UnknownResourceError

pytestmark = pytest.mark.cluster


def config_map(name: str, namespace: str, **data: str) -> dict[str, object]:
    metadata = {"name": name, "namespace": namespace, "labels": {"made-by": "test"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def test_an_object_lives_its_life(kube: Client, namespace: str) -> None:
    made = kube.create(config_map("a", namespace, step="1"))
    made["data"]["step"] = "2"
    assert kube.replace(made)["data"] == {"step": "2"}
    with pytest.raises(ApiError) as conflict:
        kube.replace(made)
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
    assert kube.patch("configmap", "a", {"data": {"step": "3"}}, namespace)["data"] == {"step": "3"}
    change = [{"op": "remove", "path": "/data/step"}]
    assert "data" not in kube.patch("cm", "a", change, namespace, content_type=JSON_PATCH)
    assert [o["metadata"]["name"] for o in kube.list("cm", namespace, labelSelector="made-by=test")] == ["a"]
    kube.delete("ConfigMap", "a", namespace)
    kube.wait_gone("configmaps", "a", namespace)
    assert kube.find("configmaps", "a", namespace) is None


def test_apply_creates_and_changes(kube: Client, namespace: str, tmp_path: Path) -> None:
    manifest = tmp_path / "two.yaml"
    document = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {0}, namespace: {1}}}\ndata: {{key: '{2}'}}\n"
    )
    for value in ("1", "2"):
        documents = (document.format(name, namespace, value) for name in ("a", "b"))
        manifest.write_text("---\n" + "---\n".join(documents))
        applied = kube.apply_files([manifest])
        assert [obj["data"]["key"] for obj in applied] == [value, value]


def test_unknown_fields_are_refused(kube: Client, namespace: str) -> None:
    with pytest.raises(ApiError, match="strict decoding error") as refused:
        kube.create({**config_map("a", namespace), "dato": {}})
    assert refused.value.status == 400


def test_same_name_in_two_groups_is_told_apart_by_the_group(kube: Client) -> None:
    assert kube.resource("events.events.k8s.io").group == "events.k8s.io"
    assert kube.resource("events").group == ""
    assert kube.resource("leases.coordination.k8s.io").path("a", "b").endswith("/namespaces/a/leases/b")


def test_an_unknown_resource_is_named(kube: Client) -> None:
    with pytest.raises(UnknownResourceError, match="'unicorns': is its CRD installed"):
        kube.list("unicorns")


def test_watch_tells_what_is_there_and_what_changes(kube: Client, namespace: str) -> None:
    kube.create(config_map("before", namespace))
    seen: list[Event] = []
    first = threading.Event()

    def follow() -> None:
        for event in kube.watch("configmaps", namespace, timeout_seconds=20, labelSelector="made-by=test"):
            seen.append(event)
            first.set()
            if event.type == "DELETED":
                return

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(follow)
        assert first.wait(10)
        kube.create(config_map("after", namespace))
        kube.patch("configmaps", "after", {"data": {"key": "value"}}, namespace)
        kube.delete("configmaps", "after", namespace)
        done.result(timeout=20)
    told = [(event.type, event.object["metadata"]["name"]) for event in seen]
    assert told == [("ADDED", "before"), ("ADDED", "after"), ("MODIFIED", "after"), ("DELETED", "after")]


def test_watch_ends_with_its_time(kube: Client, namespace: str) -> None:
    version = kube.list_object("configmaps", namespace)["metadata"]["resourceVersion"]
    assert list(kube.watch("configmaps", namespace, resource_version=version, timeout_seconds=1)) == []


def test_waiting_in_vain_shows_the_last_state(kube: Client, namespace: str) -> None:
    kube.create(config_map("a", namespace, key="value"))
    with pytest.raises(TimeoutError, match='"key": "value"'):
        kube.wait("configmaps", "a", namespace, until=lambda obj: False, timeout_seconds=0.1)
    with pytest.raises(TimeoutError, match="still there"):
        kube.wait_gone("configmaps", "a", namespace, timeout_seconds=0.1)


def test_a_new_resource_is_served_once_it_is_established(kube: Client, namespace: str) -> None:
    group = f"{namespace}.example.com"  # a group of its own: other tests share the server
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    kube.create(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"widgets.{group}"},
            "spec": {
                "group": group,
                "names": names,
                "scope": "Namespaced",
                "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
            },
        }
    )
    kube.wait_established([f"widgets.{group}"])
    kube.create({"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "a"}}, namespace)
    assert len(kube.list(f"widgets.{group}", namespace)) == 1
    kube.delete("crd", f"widgets.{group}")


def test_threads_share_a_client(control_plane: ControlPlane, namespace: str) -> None:
    with control_plane.client() as client:
        client.resource("configmaps")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: client.create(config_map(f"m-{number}", namespace)), range(40)))
        assert len(client.list("configmaps", namespace, labelSelector="made-by=test")) == 40


def test_leaseholds_own_resources_are_there(kube: Client) -> None:
    words = ("clease", "cpool", "nreport")
    assert [kube.resource(word).kind for word in words] == ["CapacityLease", "CapacityPool", "NodeReport"]
