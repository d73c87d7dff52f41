"""Which writes of leases may still arrive, and what must not be promised meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from tests.adapters.fakes import (
    WRITES,
    Scene,
    failing,
    lease_path,
    soon,
    version_of,
)
from tests.builders import at, edited, granted, make_lease, make_node, make_state

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Conflict, Unknown
from leasehold.adapters.pool.fence import Fence
from leasehold.adapters.pool.memory import Memory
from leasehold.adapters.pool.worker import PoolWorker
from leasehold.core.lease import Lease
from leasehold.core.planning import Grant, entry_of
from leasehold.core.state import PoolState
from leasehold.core.times import format_time


class Known:
    """What the fence asks of a worker's memory."""

    def __init__(self, *leases: Lease) -> None:
        self.state: PoolState = make_state(nodes=[make_node()], leases=leases)

    def fence(self) -> Fence:
        return Fence(cast(Memory, self))


HELD = granted(make_lease())
PROMISE = Grant(make_lease("later"), ("node-1",), until=at("3h"), start=at("2h"))
NEWER = edited(HELD)


def test_a_promise_waits_for_who_may_have_been_renewed_by_an_earlier_leader_and_a_grant_does_not() -> None:
    fence = Known(HELD).fence()
    assert fence.fence((PROMISE,)) == ((PROMISE,), ())
    fence.taken_over_at = HELD.version
    assert fence.fence((PROMISE,)) == ((), (HELD,))
    grant = PROMISE._replace(start=None)
    assert fence.fence((grant,)) == ((grant,), ())


def test_a_promise_does_not_rest_on_the_end_of_a_grant_in_the_same_commit() -> None:
    grant = Grant(make_lease("now"), ("node-1",))
    assert Known().fence().fence((grant, PROMISE)) == ((grant,), ())


def test_a_promise_waits_for_what_an_earlier_leader_committed_and_nothing_is_written_to_that_meanwhile() -> (
    None
):
    waiting = make_lease("committed")
    known = Known(waiting)
    known.state.assume(entry_of(Grant(waiting, ("node-1",)), 1))
    fence = known.fence()
    fence.taken_over_at = waiting.version
    assert fence.fence((PROMISE,)) == ((), ())


def test_a_write_without_an_answer_is_waited_for_until_a_later_version_is_heard() -> None:
    known = Known(HELD)
    fence = known.fence()
    fence.unanswered(HELD)
    assert not fence.heard(HELD), "it may still arrive"
    assert fence.fence((PROMISE,)).unfenced == (HELD,)
    assert fence.heard(NEWER)
    assert not fence.heard(NEWER), "once"
    known.state.observe(NEWER)
    assert fence.fence((PROMISE,)) == ((PROMISE,), ())


def test_a_write_that_a_later_version_makes_fail_is_not_waited_for() -> None:
    fence = Known(NEWER).fence()
    fence.unanswered(HELD)
    assert not fence.heard(edited(NEWER))


def test_a_lease_that_is_gone_is_forgotten() -> None:
    known = Known(HELD)
    fence = known.fence()
    fence.unanswered(HELD)
    known.state.forget(HELD.uid)
    fence.forget(HELD.uid)
    assert not fence.heard(NEWER)
    fence.unanswered(HELD)
    assert not fence.heard(NEWER), "nobody would hear of it again"


# --- on a worker ---


async def test_a_renewal_whose_answer_was_lost_is_fenced_before_its_room_is_promised() -> None:
    async with Scene() as scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("held", cpu="4", durationSeconds=600)
        await scene.granted("held")
        await scene.until(lambda: not scene.worker.state.entries)
        late: list[Any] = []

        def delayed(method: str, path: str, body: Any) -> Any:
            if method == "PUT" and lease_path("held") in path and not late:
                late.append(body)
                scene.kube.faults.clear()
                scene.kube.faults.append(failing(Unknown("504", 504), method="PUT", path=lease_path("held")))
                return Unknown("504", 504)
            return None

        scene.kube.faults.append(delayed)
        scene.kube.touch(lease_path("held"), {"spec": {"renewTime": format_time(scene.clock.now())}})
        await scene.until(lambda: late)
        scene.ask("later", cpu="4", startTime=soon(scene, 3600))
        await asyncio.sleep(0.3)
        assert "reservation" not in scene.lease("later").get("status", {}), "it may still be renewed"
        scene.kube.faults.clear()
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        with pytest.raises(Conflict):
            await scene.kube.replace_status(lease_path("held"), late[0])


async def test_a_promise_on_inherited_room_waits_until_late_renewals_cannot_come_any_more() -> None:
    scene = Scene()
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.ask("held", cpu="3", durationSeconds=600)
        await scene.granted("held")
        await scene.until(lambda: scene.pool()["status"]["ledger"]["inFlight"] == [])
    before = version_of(scene, lease_path("held"))
    scene.workers = {"ci": PoolWorker(scene.tools, scene.pool(), scene.right)}
    async with scene:
        await scene.until(lambda: scene.worker.ready)
        scene.kube.requests.clear()
        scene.ask("later", cpu="3", startTime=soon(scene, 3600))
        await scene.until(lambda: "reservation" in scene.lease("later").get("status", {}))
        assert scene.lease("held")["status"]["allocation"]["ledgerEpoch"] == 2
        late = {"metadata": {"resourceVersion": str(before)}, "status": {"renewal": {"count": 1}}}
        with pytest.raises(Conflict):  # what an earlier leader sent before it was deposed
            await scene.kube.patch(paths.status(lease_path("held")), late)
        order = [at for method, at, body in scene.kube.requests if method in WRITES]
        assert order.index(paths.status(lease_path("held"))) < order.index(paths.status(lease_path("later")))
        scene.kube.requests.clear()
        scene.ask("again", cpu="1", startTime=soon(scene, 3700))
        await scene.until(lambda: "reservation" in scene.lease("again").get("status", {}))
        assert scene.kube.writes(lease_path("held")) == [], "once for each leader"
