"""What a lease is about to be lost for is looked up once more."""

from __future__ import annotations

from dataclasses import replace

from tests.adapters.fakes import (
    Scene,
    pool_document,
    status,
    version_of,
)
from tests.builders import pod_document

from leasehold.adapters.kube import paths
from leasehold.api.names import SESSION_LABEL
from leasehold.core.status import apply_patch


def with_session(scene: Scene, name: str = "s") -> None:
    """A session that was heard of just now."""
    path = paths.coordination("team", name)
    document = {"metadata": {"name": name, "namespace": "team", "labels": {SESSION_LABEL: ""}}, "spec": {}}
    scene.cluster.session_seen(scene.kube.add(path, document))


def silence(scene: Scene) -> int:
    """Let a session's time go by; return when it is over."""
    later = scene.clock.now() + 300_000
    scene.clock.follow(later)
    scene.worker.mark()
    return later


async def test_a_session_that_was_renewed_unheard_keeps_its_leases() -> None:
    terms = {"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 300}
    async with Scene(pool_document(leasePolicy=terms)) as scene:
        await scene.until(lambda: scene.worker.ready)
        with_session(scene)
        scene.ask("a", liveness="Session", holder={"sessionRef": {"name": "s"}})
        await scene.until(lambda: status(scene.lease("a"), "Claimed") == "True")
        scene.kube.touch(paths.coordination("team", "s"), {"spec": {"renewTime": "now"}})  # nobody tells us
        later = silence(scene)
        session = paths.coordination("team", "s")
        await scene.until(lambda: ("GET", session, None) in scene.kube.requests)
        await scene.until(lambda: not scene.worker.state.busy)
        assert status(scene.lease("a"), "Ready") == "True"
        assert scene.cluster.sessions["team", "s"].renewed_at >= later


async def test_a_session_that_is_silent_indeed_is_looked_up_once_for_all_its_leases() -> None:
    terms = {"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 300}
    async with Scene(pool_document(leasePolicy=terms)) as scene:
        await scene.until(lambda: scene.worker.ready)
        with_session(scene)
        for name in "abc":
            scene.ask(name, liveness="Session", holder={"sessionRef": {"name": "s"}})
        for name in "abc":
            await scene.until(lambda name=name: status(scene.lease(name), "Claimed") == "True")
        silence(scene)
        for name in "abc":
            await scene.until(lambda name=name: status(scene.lease(name), "Finished") == "True")
            assert scene.lease(name)["status"]["release"]["cause"] == "HeartbeatLost"
        session = paths.coordination("team", "s")
        assert 1 <= [at for _, at, _ in scene.kube.requests].count(session) <= 3


async def test_a_session_that_lost_its_label_or_is_gone_is_none() -> None:
    terms = {"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 300}
    async with Scene(pool_document(leasePolicy=terms)) as scene:
        await scene.until(lambda: scene.worker.ready)
        with_session(scene)
        scene.ask("a", liveness="Session", holder={"sessionRef": {"name": "s"}})
        await scene.until(lambda: status(scene.lease("a"), "Claimed") == "True")
        scene.kube.touch(paths.coordination("team", "s"), {"metadata": {"labels": {SESSION_LABEL: None}}})
        silence(scene)
        await scene.until(lambda: status(scene.lease("a"), "Finished") == "True")
        assert ("team", "s") not in scene.cluster.sessions


async def test_a_node_that_is_ready_again_unheard_loses_no_lease() -> None:
    async with Scene(pool_document(leasePolicy={"gracePeriodSeconds": 0, "nodeLossSeconds": 0})) as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a")
        await scene.granted("a")
        node = f"{paths.NODES}/n1"
        down = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
        stale = apply_patch(scene.kube.objects[node], down)
        scene.kube.touch(node, {"metadata": {"labels": {"seen": "later"}}})
        stale["metadata"] = {**stale["metadata"], "resourceVersion": str(version_of(scene, node) - 1)}
        scene.cluster.nodes["n1"] = replace(scene.cluster.nodes["n1"], version=0)
        scene.cluster.node_seen(stale)
        await scene.until(lambda: ("GET", node, None) in scene.kube.requests)
        await scene.until(lambda: not scene.worker.state.busy and not scene.worker.state.attention)
        assert status(scene.lease("a"), "Ready") == "True"
        scene.cluster.node_seen(scene.kube.touch(node, down))
        await scene.until(lambda: status(scene.lease("a"), "Finished") == "True")
        assert scene.lease("a")["status"]["release"]["cause"] == "NodeLost"


async def test_a_node_that_is_gone_indeed_loses_its_leases() -> None:
    async with Scene(nodes=2) as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("a", cpu="4")
        await scene.granted("a")
        node = scene.lease("a")["status"]["allocation"]["slices"][0]["nodeName"]
        scene.kube.remove(f"{paths.NODES}/{node}")
        scene.cluster.node_gone(node)
        await scene.until(lambda: status(scene.lease("a"), "Finished") == "True")
        assert scene.lease("a")["status"]["release"]["cause"] == "NodeLost"


async def test_a_pod_that_nobody_told_of_keeps_its_lease_from_being_taken_for_unclaimed() -> None:
    pool = pool_document(
        leasePolicy={"gracePeriodSeconds": 0, "claimTimeoutSeconds": 1}, enforcement={"mode": "Gate"}
    )
    async with Scene(pool) as scene:
        scene.cluster.pods.watched = True
        await scene.until(lambda: scene.worker.ready)
        made = scene.ask("a")
        await scene.until(lambda: status(scene.lease("a"), "Allocated") == "True")
        scene.kube.watchers.clear()  # from now on nothing is heard
        given = {"leasehold.dev/slice": f"{made['metadata']['uid']}/0"}
        pod = pod_document("worker", lease="a", namespace="team", node="n1", annotations=given)
        scene.kube.add(paths.pod("team", "worker"), pod)
        await scene.until(lambda: status(scene.lease("a"), "Claimed") == "True")
        assert status(scene.lease("a"), "Ready") == "True"


async def test_a_parent_that_stays_unheard_keeps_its_sub_leases() -> None:
    async with Scene(pool_document()) as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("all", cpu="3")
        await scene.until(lambda: status(scene.lease("all"), "Allocated") == "True")
        scene.ask("job", parentRef={"name": "all"})
        await scene.until(lambda: status(scene.lease("job"), "Allocated") == "True")
        parent = scene.cluster.named(("team", "all"))
        assert parent is not None
        scene.cluster.lease_gone(parent.uid)  # a watch that is mistaken
        scene.cluster._gone.clear()
        path = paths.lease("team", "all")
        await scene.until(lambda: ("GET", path, None) in scene.kube.requests)
        await scene.until(lambda: scene.cluster.named(("team", "all")) is not None)
        await scene.until(lambda: not scene.worker.state.busy)
        assert status(scene.lease("job"), "Ready") == "True"


async def test_a_parent_that_is_gone_indeed_takes_its_sub_leases_along() -> None:
    async with Scene(pool_document()) as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("all", cpu="3")
        await scene.until(lambda: status(scene.lease("all"), "Allocated") == "True")
        for name in ("job", "too"):
            scene.ask(name, parentRef={"name": "all"})
            await scene.until(lambda name=name: status(scene.lease(name), "Allocated") == "True")
        scene.kube.remove(paths.lease("team", "all"))
        for name in ("job", "too"):
            await scene.until(lambda name=name: status(scene.lease(name), "Finished") == "True")
            assert scene.lease(name)["status"]["release"]["cause"] == "ParentEnded"
