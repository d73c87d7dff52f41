"""Objects that are deleted, with whatever hangs on them, and made anew under the same name."""

from __future__ import annotations

import random
import time

from tests.cluster.harness import LEASES, POOLS, Object, Stage, finished, granted, is_, until
from tests.faults.experiment import Arena, Scale, experiment

from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError

_SOON = 30.0


def _pool_with_borrowers(arena: Arena, leases: int) -> None:
    with arena.trial() as trial:
        stage = trial.stage
        pool, other = trial.pool(2), trial.pool(0, selector={"matchLabels": {"no": "node"}})
        trial.operator().await_ready()
        held = [stage.lease(pool, cpu="1") for _ in range(leases)]
        waits = stage.lease(pool, cpu="4", count=2)
        for name in held:
            stage.until(name, granted)
        stage.kube.delete(POOLS, pool)
        trial.deliver(1, "a pool with borrowers was deleted")
        for name in held:
            cause = stage.until(name, finished)["status"]["release"]["cause"]
            if cause != "PoolDraining":
                trial.violate(f"{name} ended for {cause}")
        stage.kube.wait_gone(POOLS, pool, timeout_seconds=_SOON)
        stage.until(waits, is_("Accepted", "False", "PoolNotFound"))
        if stage.kube.find(POOLS, other) is None:
            trial.violate("another pool went too")


def _while_nobody_is_there(arena: Arena) -> None:
    """Deletions that no operator sees: the finalizer keeps what counts until one comes."""
    with arena.trial() as trial:
        stage = trial.stage
        pool, drained = trial.pool(2), trial.pool(0, selector={"matchLabels": {"no": "node"}})
        first = trial.operator("a").await_ready()
        held, kept = stage.lease(pool, cpu="2"), stage.lease(pool, cpu="2")
        waits = stage.lease(pool, cpu="4", count=2)
        for name in (held, kept):
            stage.until(name, granted)
        stage.until(waits, is_("Allocated", "False"))
        stage.kube.wait(POOLS, drained, until=lambda item: bool(item["metadata"].get("finalizers")))
        first.kill()
        for resource, name, namespace in (
            (LEASES, held, stage.namespace),
            (LEASES, waits, stage.namespace),
            (POOLS, drained, None),
        ):
            stage.kube.delete(resource, name, namespace)
            trial.deliver(1, f"{resource} deleted with nobody there")
            if stage.kube.find(resource, name, namespace) is None:
                trial.violate(f"{name} went at once: nothing kept it")
        trial.operator("b").await_ready()
        for name in (held, waits):
            stage.until_gone(name, _SOON)
        stage.kube.wait_gone(POOLS, drained, timeout_seconds=_SOON)
        if not granted(stage.get(kept)):
            trial.violate("who was not deleted lost the lease")
        stage.until(stage.lease(pool, cpu="2"), granted)


def _same_name_again(arena: Arena, times: int) -> None:
    """Nothing of an object goes over to the next one of its name: the checker compares by uid."""
    with arena.trial() as trial:
        stage = trial.stage
        pool = trial.pool(1)
        trial.operator().await_ready()
        tokens = []
        for i in range(times):
            name = stage.lease(pool, name="again", cpu="3", durationSeconds=3600)
            made = stage.until(name, granted)
            tokens.append(made["status"]["fencingToken"])
            if i % 2:
                stage.change(name, desiredState="Released")
            stage.kube.delete(LEASES, name, stage.namespace)
            trial.deliver(1)
            _gone(trial.stage, name)
        if tokens != sorted(set(tokens)):
            trial.violate(f"tokens did not grow: {tokens}")
        held = stage.lease(pool, cpu="1")
        token = stage.until(held, granted)["status"]["fencingToken"]
        node = stage.nodes.names[0]
        stage.nodes.delete(node)
        stage.until(held, finished)
        stage.kube.delete(POOLS, pool)
        stage.kube.wait_gone(POOLS, pool, timeout_seconds=_SOON)
        stage.nodes.create(1)
        spec = {"nodeSelector": stage.nodes.selector, "leasePolicy": {"gracePeriodSeconds": 0}}
        stage.kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityPool",
                "metadata": {"name": pool},
                "spec": {**spec, "resources": [{"name": "cpu", "source": "Allocatable"}]},
            }
        )
        trial.deliver(1, "a pool was made again under its name")
        anew = stage.until(stage.lease(pool, cpu="1"), granted)["status"]["fencingToken"]
        if anew <= token:
            trial.violate(f"a pool made anew gave token {anew}, and {token} is on a lease still there")


def _gone(stage: Stage, name: str) -> None:
    """Wait without a pause in between, so that the next one of the name comes at once."""
    deadline = time.monotonic() + _SOON
    while stage.kube.find(LEASES, name, stage.namespace) is not None:
        assert time.monotonic() < deadline, f"{name} is still there"


def _namespace(arena: Arena) -> None:
    """A namespace that goes: its leases are given back, and then nothing keeps it any more."""
    with arena.trial() as trial:
        stage = trial.stage
        pool = trial.pool(1)
        trial.operator().await_ready()
        kube = stage.kube
        other = f"{stage.namespace}-other"
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
        lease = {
            "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "CapacityLease",
            "metadata": {"name": "leaves", "namespace": other},
            "spec": {"poolRef": {"name": pool}, "resources": {"cpu": "4"}},
        }
        kube.create(lease)
        kube.wait(LEASES, "leaves", other, until=granted)
        waits = stage.lease(pool, cpu="4")
        stage.until(waits, is_("Allocated", "False"))
        kube.delete("namespaces", other)
        trial.deliver(1, "a namespace with a lease was deleted")
        stage.until(waits, granted)
        over = kube.wait(LEASES, "leaves", other, until=finished)
        if over["status"]["release"]["cause"] != "NamespaceGone":
            trial.violate(f"it ended for {over['status']['release']['cause']}")
        # What a kube-controller-manager would do next.
        kube.delete_all(LEASES, other)
        kube.wait_gone(LEASES, "leaves", other, _SOON)
        empty = {**kube.get("namespaces", other), "spec": {"finalizers": []}}
        kube.request("PUT", f"/api/v1/namespaces/{other}/finalize", empty)
        kube.wait_gone("namespaces", other, timeout_seconds=_SOON)
        try:
            kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
            anew = {**lease, "spec": {"poolRef": {"name": pool}, "resources": {"cpu": "1"}}}
            until(lambda: _may_be_made(kube, anew), "the API server knows the new namespace", _SOON)
        except ApiError as error:
            trial.violate(f"the namespace cannot be made again: {error}")
        stage.change(waits, desiredState="Released")
        kube.wait(LEASES, "leaves", other, until=granted)
        kube.delete(LEASES, "leaves", other)
        kube.wait_gone(LEASES, "leaves", other, _SOON)


def _may_be_made(kube: Client, lease: Object) -> bool:
    """Make a lease, unless the API server's admission still knows the namespace that went."""
    try:
        kube.create(lease)
    except ApiError as error:
        if error.status != 403 or "being terminated" not in str(error):
            raise
        return False
    return True


@experiment(
    15, "deletions that race", "everything goes in time, and nothing of it goes over to its name's next"
)
def deletion_races(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for _ in range(scale.pick(1, 8)):
        _pool_with_borrowers(arena, dice.randint(3, 6))
        _while_nobody_is_there(arena)
        _same_name_again(arena, scale.pick(4, 40))
        _namespace(arena)
