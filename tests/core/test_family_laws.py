"""Under any history whatever of parents, children and handovers: children stay within their parent, and each token has
one holder.

The simulation of `test_conservation`, with sub-leases beside the leases it has, and holders that change.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from tests.builders import lease_document
from tests.core.test_conservation import PICK, REQUESTS, Pool, pool_policies

from leasehold.api.names import LeaseReason as R
from leasehold.core.booking import Entry
from leasehold.core.children import serve_children
from leasehold.core.course import Step
from leasehold.core.lease import Lease, lease_of
from leasehold.core.policy import PoolPolicy
from leasehold.core.times import format_time

CHILDREN = st.fixed_dictionaries(
    {
        "cpu": st.integers(1, 4),
        "memory": st.integers(1, 6),
        "count": st.sampled_from([1, 1, 1, 2]),
        "mode": st.sampled_from(["Any", "Any", "SameNode", "DistinctNodes"]),
        "priority": st.sampled_from([0, 0, 5]),
        "liveness": st.sampled_from(["None", "Renew", "Session"]),
        "duration": st.sampled_from([None, 60, 300, 600]),
        "zone": st.sampled_from([None, None, "a", "b"]),
    }
)


class Families(Pool):
    """Everything that can happen to a pool, its parents and their children, in any order."""

    def __init__(self) -> None:
        self.owners: dict[int, tuple[str, str]] = {}
        super().__init__()

    @initialize(
        policy=pool_policies(),
        asks=st.lists(REQUESTS, min_size=2, max_size=4),
        children=st.lists(st.tuples(PICK, CHILDREN), min_size=2, max_size=5),
    )
    def the_day_begins(
        self,
        policy: PoolPolicy,
        asks: list[dict[str, Any]],
        children: list[tuple[int, dict[str, Any]]] = (),  # type: ignore[assignment]
    ) -> None:
        super().the_day_begins(policy, asks)
        for pick, child in children:
            self.ask_for_some(pick, **child)
        self.the_worker_does_its_work()

    @rule(pick=PICK, child=CHILDREN)
    def somebody_asks_for_some_of_a_lease(self, pick: int, child: dict[str, Any]) -> None:
        self.ask_for_some(pick, **child)
        self.the_worker_hears_the_news()

    def ask_for_some(
        self, pick: int, duration: int | None, mode: str, cpu: int, memory: int, zone: str | None, **spec: Any
    ) -> None:
        uid = self.someone(pick)
        if uid is None:
            return
        parent = lease_of(self.server.documents[uid])
        self.born += 1
        document = lease_document(
            f"c{self.born}",
            cpu=str(cpu),
            memory=f"{memory}Gi",
            namespace=parent.namespace,
            parentRef={"name": parent.name},
            placement={"mode": mode, **({} if zone is None else {"nodeSelector": {"zone": zone}})},
            holder={"sessionRef": {"name": "worker"}},
            ttlSecondsAfterFinished=600,
            **({} if duration is None else {"durationSeconds": duration}),
            **spec,
        )
        document["metadata"]["creationTimestamp"] = format_time(self.now)
        self.server.add(document)

    @rule(pick=PICK, identity=st.sampled_from(["me", "you", None]))
    def a_lease_is_handed_over(self, pick: int, identity: str | None) -> None:
        uid = self.someone(pick)
        if uid is not None:
            named = {} if identity is None else {"identity": identity}
            self.server.edit(uid, holder={**named, "sessionRef": {"name": "worker"}})

    @rule(name=st.sampled_from(["n1", "n2"]), zone=st.sampled_from(["a", "b"]))
    def a_node_gets_another_label(self, name: str, zone: str) -> None:
        node = self.nodes.get(name)
        if node is not None:
            self.nodes = {**self.nodes, name: replace(node, labels={**node.labels, "zone": zone})}
            self.worker.dirty.add(name)

    # --- what a write must never do ---

    def land(self, lease: Lease, step: Step, policy: PoolPolicy | None, entry: Entry | None) -> Lease:
        was = lease_of(self.server.documents[lease.uid]) if lease.uid in self.server.documents else None
        after = super().land(lease, step, policy, entry)
        assert was is not None
        if after.token:
            whose = after.uid, str(after.status.get("holder"))
            assert self.owners.setdefault(after.token, whose) == whose, "a token belongs to one holder"
        if was.allocated and after.status.get("holder") != was.status.get("holder"):
            ends = ("expirationTime", "maxExpirationTime", "revocationTime")
            assert [after.deadline(name) for name in ends] == [was.deadline(name) for name in ends]
            assert after.slices == was.slices, "the capacity stays where it is"
            assert (after.identity, after.session) == entry.holder if entry else False
        return after

    def its_parent_is_ending(self, was: Lease, began: int) -> None:
        parent = self.parent_of(was)
        if parent is None or parent.releasing or not parent.allocated:
            return
        # It had its notice when the parent had one, which may have been called off since; or that one was over already.
        notice = was.deadline("revocationTime")
        told = was.reason("DisruptionTarget") == "ParentEnded" and notice is not None and began >= notice
        over = parent.deadline("revocationTime")
        late = parent.is_true("DisruptionTarget") and over is not None and began >= over
        assert told or late or (parent.is_true("DisruptionTarget") and self.policy.grace == 0)

    def parent_of(self, child: Lease) -> Lease | None:
        for lease in self.server.leases():
            if (lease.namespace, lease.name) == child.parent_key and child.parent_uid in ("", lease.uid):
                return lease
        return None

    # --- always ---

    @invariant()
    def children_stay_within_their_parent(self) -> None:
        taken: dict[str, Counter[tuple[str, str]]] = {}
        for child in self.server.leases():
            if not (child.parent and child.slices):
                continue
            parent = self.parent_of(child)
            assert parent is not None
            assert parent.allocated, f"{child.name} holds what {parent.name} gave back"
            end, limit = child.deadline("expirationTime"), parent.deadline("expirationTime")
            assert end is not None
            assert limit is not None
            assert end <= limit, f"{child.name} ends after {parent.name}"
            count(taken.setdefault(parent.uid, Counter()), child)
        for entry in self.server.in_flight.values():
            document = self.server.documents.get(entry.uid)
            if not entry.parent or document is None or not lease_of(document).pending:
                continue
            if lease_of(self.server.documents[entry.parent]).allocated:
                found = taken.setdefault(entry.parent, Counter())
                for node in entry.nodes:
                    for name, amount in entry.amounts.items():
                        found[node, name] += amount
        for uid, used in taken.items():
            has: Counter[tuple[str, str]] = Counter()
            count(has, lease_of(self.server.documents[uid]))
            assert all(units <= has[place] for place, units in used.items()), f"{uid}: {used} of {has}"

    @invariant()
    def the_pool_lends_nothing_to_children(self) -> None:
        state = self.worker.state
        children = {uid for uid, lease in state.leases.items() if lease.parent}
        assert children.isdisjoint(holding.uid for holding in state.ledger)
        assert children.isdisjoint(
            state.queue.requests.keys() | state.calendar.held.keys() | state.refused.keys()
        )

    @rule()
    def the_pool_comes_to_rest(self) -> None:
        super().the_pool_comes_to_rest()
        state = self.worker.state
        for lease in state.leases.values():
            assert not lease.changes_hands, f"{lease.name} waits for its new holder"
            if lease.parent and lease.pending and not lease.deleting:
                assert lease.reason("Ready"), f"{lease.name} waits and was not told why"
        hold = self.worker.hold()
        trusted = hold is None or hold.reason not in (R.LEDGER_INCONSISTENT, R.POOL_NOT_READY)
        assert not (state.families.due and trusted), "nobody else tells a family that such a hold is over"
        state.families.due.update(dict.fromkeys(state.families.members))
        served = serve_children(state, self.seen_world(), self.now, 9, 9, frozenset(), hold)
        assert served == ([], []), "who waits knows why, and there is no room"
        state.families.due.clear()


def count(found: Counter[tuple[str, str]], lease: Lease) -> None:
    for part in lease.slices:
        for name, amount in part.amounts.items():
            found[part.node, name] += amount


TestFamilies = Families.TestCase
TestFamilies.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
