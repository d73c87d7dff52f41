"""What the operator knows of namespaces, on a real API server: their labels, and their end."""

from __future__ import annotations

import json
import secrets

from tests.cluster.harness import SMALL, Stage, ThreadOperator, granted, is_, until


def labels_known(operator: ThreadOperator, name: str) -> dict[str, str] | None:
    found = operator.call(lambda: operator.controller.cluster.namespaces.get(name))
    return None if found is None else {k: v for k, v in found.items() if k != "kubernetes.io/metadata.name"}


def test_labels_are_known_from_the_first_and_followed(stage: Stage, operator: ThreadOperator) -> None:
    until(lambda: labels_known(operator, stage.namespace) == {}, "the namespace is heard of")
    stage.kube.patch("namespaces", stage.namespace, {"metadata": {"labels": {"team": "web"}}})
    until(lambda: labels_known(operator, stage.namespace) == {"team": "web"}, "the label is heard of")
    stage.kube.patch("namespaces", stage.namespace, {"metadata": {"labels": {"team": None}}})
    until(lambda: labels_known(operator, stage.namespace) == {}, "its end is heard of")


def test_a_namespace_of_its_own_comes_and_goes(stage: Stage, operator: ThreadOperator) -> None:
    name = f"n-{secrets.token_hex(4)}"
    meta = {"name": name, "labels": {"team": "lab"}}
    stage.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    until(lambda: labels_known(operator, name) == {"team": "lab"}, "it is heard of")
    stage.kube.delete("namespaces", name)  # nobody empties it here, so it stays for ever on its way out
    until(lambda: labels_known(operator, name) is None, "its end is heard of")


def test_a_namespace_that_is_on_its_way_out_at_the_start_is_gone(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    with ThreadOperator(bare.control_plane.kubeconfig):
        pool = bare.pool()
        lease = bare.lease(pool)
        bare.until(lease, granted)
    bare.kube.delete("namespaces", bare.namespace)
    with ThreadOperator(bare.control_plane.kubeconfig) as operator:
        over = bare.until(lease, is_("Finished"))
        assert over["status"]["release"]["cause"] == "NamespaceGone"
        watch = operator.controller.informers["namespaces"]
        assert operator.call(lambda: (watch.relists, watch.restarts)) == (1, 0)


def test_who_waits_is_told_at_the_endpoint(stage: Stage, operator: ThreadOperator) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    stage.until(stage.lease(pool, cpu="4"), granted)
    waiting = stage.lease(pool, cpu="4")
    stage.until(waiting, is_("Allocated", "False"))

    def rows() -> list[tuple[int, str, str]]:
        status, text = operator.page(f"/pools/{pool}/queue?namespace={stage.namespace}")
        assert status == 200
        return [(row["position"], row["name"], row["reason"]) for row in json.loads(text)["waiting"]]

    # The page is of what the operator knows, and it hears later than we do that its words were written.
    until(lambda: rows() == [(1, waiting, "WaitingForCapacity")], "the page tells it, too")
    assert pool in [row["name"] for row in json.loads(operator.page("/pools")[1])["pools"]]
    assert operator.page("/pools/none/queue")[0] == 404
