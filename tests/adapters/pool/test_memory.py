"""What a worker knows: the spec as far as it can be read, its nodes, and the past of tenants."""

from __future__ import annotations

from tests.adapters.fakes import (
    Scene,
    failing,
    gate_document,
    lease_document,
    lease_path,
    pod_path,
    pool_document,
    reason,
    status,
)

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Unknown
from leasehold.adapters.pool.worker import PoolWorker


async def test_one_lease_that_cannot_be_read_stops_nobody_and_keeps_what_it_holds() -> None:
    scene = Scene()
    odd = lease_document("odd")
    odd["status"] = {
        "conditions": [{"type": "Allocated", "status": "True", "reason": "Granted"}],
        "fencingToken": 1,
        "deadlines": {"expirationTime": "some day"},
        "allocation": {"slices": [{"index": 0, "nodeName": "n1", "resources": {"cpu": "3"}}]},
    }
    scene.kube.add(lease_path("odd"), odd)
    no_lease = {"kind": "CapacityLease", "metadata": {"name": "no", "namespace": "team"}, "spec": {}}
    scene.kube.objects[lease_path("no")] = {
        **no_lease,
        "metadata": {**no_lease["metadata"], "uid": "x", "resourceVersion": "1"},
        "spec": {"poolRef": {"name": "ci"}},
    }
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", cpu="1")
        await scene.granted("a")
        scene.ask("b", cpu="1")
        await scene.until(lambda: scene.reason("b", "Allocated") == "WaitingForCapacity")


async def test_a_spec_that_cannot_be_read_keeps_what_is_held_and_grants_nothing() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        scene.kube.touch(paths.pool("ci"), {"spec": {"leasePolicy": {"gracePeriodSeconds": "soon"}}})
        await scene.until(lambda: reason(scene.pool(), "Ready") == "InvalidSpec")
        scene.ask("b")
        await scene.until(lambda: scene.reason("b", "Allocated") == "PoolNotReady")
        assert status(scene.lease("a"), "Ready") == "True"
        assert scene.worker.state.ledger.count("held") == 1
        scene.kube.touch(paths.pool("ci"), {"spec": {"leasePolicy": {"gracePeriodSeconds": 0}}})
        await scene.granted("b")
        await scene.until(lambda: reason(scene.pool(), "Ready") == "Serving")


async def test_a_spec_that_cannot_be_read_at_the_start_takes_no_node_from_other_pools() -> None:
    scene = Scene()
    scene.lead(pool_document("broken", placement={"strategy": "Guess"}))
    async with scene:
        await scene.until(lambda: reason(scene.pool("broken"), "Ready") == "InvalidSpec")
        scene.ask("a")
        await scene.granted("a")


async def test_no_pool_lends_a_contested_node_while_another_is_still_being_taken_over() -> None:
    scene = Scene()
    scene.lead(pool_document("other"))
    scene.kube.faults.append(failing(Unknown("slow"), path=paths.pool("other")))
    async with scene:
        await scene.until(lambda: scene.workers["ci"].ready)
        scene.ask("a")
        await scene.until(lambda: scene.reason("a", "Allocated") != "")
        assert scene.lease("a")["status"]["rejections"][0]["reason"] == "NodeConflicting"


async def test_tenants_hear_of_their_namespaces_and_their_past_survives_a_restart() -> None:
    tenants = [{"name": "red", "namespaceSelector": {"matchLabels": {"team": "red"}}}]
    more = {"queueing": {"usageHalfLifeSeconds": 3600}, "tenants": tenants}
    scene = Scene(pool_document(**more))
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", cpu="2")
        await scene.until(lambda: scene.reason("a", "Accepted") == "NamespaceNotAllowed")
        scene.cluster.namespace_seen("team", {"team": "red"})
        await scene.granted("a")
        assert scene.lease("a")["status"]["tenant"] == "red"
        await scene.until(lambda: scene.pool()["status"]["tenants"][0]["sharePermille"] == 500)
        await scene.until(lambda: reason(scene.pool(), "TenantsValid") == "Valid")
    scene.kube.touch(paths.pool("ci"), {"status": {"tenants": [{"name": "red", "usagePermille": 300}]}})
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        assert 290_000 < scene.worker.state.shares.account("red").past <= 310_000


# --- what pods take ---


async def waiting(scene: Scene, name: str) -> None:
    await scene.until(lambda: scene.reason(name, "Allocated") == "WaitingForCapacity")


async def running(scene: Scene, lease: str, cpu: str) -> None:
    """Have a lease granted and a pod run that takes all it holds."""
    scene.ask(lease, cpu=cpu)
    await scene.granted(lease)
    scene.start(f"of-{lease}", lease, cpu=cpu)
    await scene.until(lambda: not scene.is_gated(f"of-{lease}"))
    scene.bind(f"of-{lease}")
    await scene.until(lambda: scene.reason(lease, "Claimed") == "PodBound")


async def test_what_pods_without_a_lease_request_is_not_lent() -> None:
    async with Scene(gate_document()) as scene:
        scene.start("plain", None, cpu="3", node="n1")
        scene.ask("a", cpu="2")
        await waiting(scene, "a")
        scene.ask("b", cpu="1")
        await scene.granted("b")
        scene.kube.remove(pod_path("plain"))
        await scene.granted("a")


async def test_pods_of_leases_are_not_counted_twice() -> None:
    async with Scene(gate_document()) as scene:
        await running(scene, "a", "3")
        scene.ask("b", cpu="1")
        await scene.granted("b")


async def test_what_a_pod_requests_beyond_its_lease_is_not_lent() -> None:
    async with Scene(gate_document()) as scene:
        await running(scene, "a", "1")
        containers = [{"name": "main", "resources": {"requests": {"cpu": "3"}}}]
        scene.kube.touch(pod_path("of-a"), {"spec": {"containers": containers}})  # it grew in place
        await scene.until(lambda: scene.reason("a", "Degraded") == "PodsAboveGrant")
        scene.ask("b", cpu="2")
        await waiting(scene, "b")


async def test_what_a_parents_pod_requests_beyond_what_its_sub_leases_leave_is_not_lent() -> None:
    async with Scene(gate_document()) as scene:
        scene.ask("a", cpu="2")
        scene.start("of-a", "a", cpu="1")
        await scene.until(lambda: not scene.is_gated("of-a"))
        scene.bind("of-a")
        scene.ask("part", cpu="1", parentRef={"name": "a"})
        await scene.granted("part")
        containers = [{"name": "main", "resources": {"requests": {"cpu": "2"}}}]
        scene.kube.touch(pod_path("of-a"), {"spec": {"containers": containers}})
        await scene.until(lambda: scene.reason("a", "Degraded") == "PodsAboveGrant")
        scene.ask("b", cpu="2")
        await waiting(scene, "b")
        scene.kube.touch(lease_path("part"), {"spec": {"desiredState": "Released"}})
        await scene.granted("b")


async def test_pods_that_outlive_a_lease_that_was_forced_to_end_count_as_others() -> None:
    async with Scene(gate_document()) as scene:
        await running(scene, "a", "4")
        scene.ask("b", cpu="4")
        await waiting(scene, "b")
        forced = {"leasehold.dev/force-release": "true"}
        scene.kube.touch(
            lease_path("a"), {"metadata": {"annotations": forced}, "spec": {"desiredState": "Released"}}
        )
        await scene.until(lambda: scene.is_leaving("of-a"))
        assert scene.reason("a", "Released") == "Forced"
        scene.worker.mark()
        await scene.until(lambda: not scene.worker.state.busy and not scene.worker.state.attention)
        assert not scene.is_granted("b"), "the pod is still on the node"
        scene.kube.remove(pod_path("of-a"))
        await scene.granted("b")


async def test_pods_that_outlive_the_object_of_their_lease_count_as_others() -> None:
    async with Scene(gate_document()) as scene:
        await running(scene, "a", "4")
        scene.ask("b", cpu="4")
        await waiting(scene, "b")
        scene.kube.remove(lease_path("a"))  # somebody took its finalizer away
        passes = scene.worker.passes
        await scene.until(lambda: scene.worker.passes > passes + 1 or scene.is_granted("b"))
        assert not scene.is_granted("b")
        scene.kube.remove(pod_path("of-a"))
        await scene.granted("b")


async def test_a_pool_whose_pods_nobody_hears_of_grants_nothing_and_says_so() -> None:
    scene = Scene(gate_document(), pods=False)
    async with scene:
        await scene.until(lambda: reason(scene.pool(), "Ready") == "EnforcementOff")
        scene.ask("a")
        await scene.until(lambda: scene.reason("a", "Allocated") == "PoolNotReady")
        scene.kube.touch(paths.pool("ci"), {"spec": {"enforcement": {"mode": "Advisory"}}})
        await scene.granted("a")
        await scene.until(lambda: reason(scene.pool(), "Ready") == "Serving")
