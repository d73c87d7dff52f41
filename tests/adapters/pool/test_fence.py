"""Which writes of leases may still arrive, and what must not be promised meanwhile."""

from __future__ import annotations

from typing import cast

from tests.builders import at, edited, granted, make_lease, make_node, make_state

from leasehold.adapters.pool.fence import Fence
from leasehold.adapters.pool.memory import Memory
from leasehold.core.lease import Lease
from leasehold.core.planning import Grant
from leasehold.core.state import PoolState


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
