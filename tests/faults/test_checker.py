"""A checker that finds nothing is worthless: each promise is broken here once, by hand, and has to be found broken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.faults.checker import Violation, check, final_view, noise, rebuilt, unrest
from tests.faults.history import LEASE, NAMESPACE, NODE, POOL, Revision, Trace, Write

from leasehold.core.pool_status import Facts, status_of
from leasehold.core.state import PoolState
from leasehold.core.status import apply_patch
from leasehold.core.times import format_time

Object = dict[str, Any]
NOON = 1_795_348_800.0


def clock(seconds: float) -> str:
    return format_time(int((NOON + seconds) * 1000))


class Tale:
    """A record made by hand, one revision after the other."""

    def __init__(self, cpu: str = "4") -> None:
        self.revisions: list[Revision] = []
        self.objects: dict[tuple[str, str], Object] = {}
        self.seconds = 0.0
        self.add(NAMESPACE, {"metadata": {"name": "team", "labels": {}}})
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": clock(-9)}
        node_status = {"allocatable": {"cpu": cpu}, "conditions": [ready]}
        for node in ("n1", "n2"):
            self.add(
                NODE, {"metadata": {"name": node, "creationTimestamp": clock(-9)}, "status": node_status}
            )
        self.add(
            POOL,
            {
                "metadata": {"name": "ci", "generation": 1},
                "spec": {
                    "nodeSelector": {},
                    "resources": [{"name": "cpu", "source": "Allocatable"}],
                    "leasePolicy": {"gracePeriodSeconds": 0},
                },
                "status": {},
            },
        )

    def add(self, kind: str, item: Object, event: str = "ADDED", **who: str) -> Object:
        meta = item["metadata"]
        meta.setdefault("uid", f"{kind}-{meta['name']}")
        meta["resourceVersion"] = str(100 + len(self.revisions))
        self.objects[kind, meta["name"]] = item
        number, time = 100 + len(self.revisions), NOON + self.seconds
        self.revisions.append(Revision(number, kind, event, copy.deepcopy(item), time, **who))
        return item

    def change(self, kind: str, name: str, patch: Object, **who: str) -> Object:
        changed = apply_patch(self.objects[kind, name], patch)
        return self.add(kind, copy.deepcopy(changed), "MODIFIED", **who)

    def lease(self, name: str, cpu: str = "2", **spec: Any) -> str:
        self.add(
            LEASE,
            {
                "metadata": {
                    "name": name,
                    "namespace": "team",
                    "creationTimestamp": clock(0),
                    "generation": 1,
                    "finalizers": ["leasehold.dev/release"],
                },
                "spec": {"poolRef": {"name": "ci"}, "resources": {"cpu": cpu}, "durationSeconds": 60, **spec},
                "status": {},
            },
        )
        return name

    def ledger(self, epoch: int, sequence: int, *entries: tuple[str, int, str], **who: str) -> None:
        rows = [
            {
                "uid": f"{LEASE}-{name}",
                "namespace": "team",
                "name": name,
                "sequence": number,
                "resources": self.objects[LEASE, name]["spec"]["resources"],
                "nodes": [node],
            }
            for name, number, node in entries
        ]
        ledger = {"epoch": epoch, "sequence": sequence, "inFlight": rows}
        self.change(POOL, "ci", {"status": {"ledger": ledger}}, **who)

    def grant(self, name: str, token: int, node: str = "n1", **deadlines: str) -> None:
        resources = self.objects[LEASE, name]["spec"]["resources"]
        end = clock(self.seconds + 60)
        self.change(
            LEASE,
            name,
            {
                "status": {
                    "fencingToken": token,
                    "holder": self.objects[LEASE, name]["spec"].get("holder", {}),
                    "allocation": {
                        "ledgerSequence": token,
                        "allocationTime": clock(self.seconds),
                        "slices": [{"index": 0, "nodeName": node, "resources": resources}],
                    },
                    "deadlines": {
                        "expirationTime": end,
                        "next": {"time": end, "cause": "Expiration"},
                        **deadlines,
                    },
                    "conditions": conditions(Allocated="True", Ready="True"),
                }
            },
        )

    def end(self, name: str, cause: str, **status: Any) -> None:
        self.change(
            LEASE,
            name,
            {
                "status": {
                    "release": {"cause": cause, "startTime": clock(self.seconds)},
                    "conditions": conditions(
                        Allocated="True", Ready="False", Released="True", Finished="True"
                    ),
                    **status,
                }
            },
        )

    def granted(self, name: str = "a", **spec: Any) -> Tale:
        """One lease, granted as it should be, at second 1."""
        self.lease(name, **spec)
        self.ledger(1, 0)
        self.seconds = 1
        self.ledger(1, 1, (name, 1, "n1"))
        self.grant(name, 1)
        self.ledger(1, 1)
        return self

    def trace(self) -> Trace:
        return Trace(tuple(self.revisions), (), NOON + self.seconds)

    def broken(self) -> set[str]:
        return {violation.invariant for violation in check(self.trace(), at_rest=False)}

    def told(self) -> str:
        return "; ".join(map(str, check(self.trace(), at_rest=False)))


def conditions(**states: str) -> list[Object]:
    return [
        {"type": name, "status": status, "reason": "Because", "lastTransitionTime": clock(0)}
        for name, status in states.items()
    ]


def test_a_life_as_it_should_be_breaks_nothing() -> None:
    tale = Tale().granted()
    tale.seconds = 61
    tale.end("a", "TermEnded")
    tale.change(LEASE, "a", {"metadata": {"deletionTimestamp": clock(62)}})
    tale.add(LEASE, tale.objects[LEASE, "a"], "DELETED")
    assert check(tale.trace(), at_rest=False) == []


def test_a_node_that_holds_more_than_it_has_is_found() -> None:
    tale = Tale()
    for name in ("a", "b", "c"):
        tale.lease(name)
    tale.ledger(1, 0)
    tale.ledger(1, 3, ("a", 1, "n1"), ("b", 2, "n1"), ("c", 3, "n1"))
    tale.grant("a", 1)
    tale.grant("b", 2)
    assert tale.broken() == set()
    tale.grant("c", 3)
    assert tale.broken() == {"capacity"}
    assert "node n1 holds 6000 cpu and may lend 4000" in tale.told()


def test_what_two_pools_lend_of_one_node_is_added_up() -> None:
    tale = Tale().granted(cpu="4")
    tale.add(POOL, {**copy.deepcopy(tale.objects[POOL, "ci"]), "metadata": {"name": "other"}, "status": {}})
    tale.lease("b", cpu="1", poolRef={"name": "other"})
    row = {"uid": f"{LEASE}-b", "name": "b", "sequence": 1, "resources": {"cpu": "1"}, "nodes": ["n1"]}
    tale.change(POOL, "other", {"status": {"ledger": {"epoch": 1, "sequence": 0}}})
    tale.change(POOL, "other", {"status": {"ledger": {"sequence": 1, "inFlight": [row]}}})
    tale.grant("b", 1)
    assert tale.broken() == {"capacity"}


def promise(tale: Tale, name: str, start: float, node: str = "n1", cpu: str = "4") -> None:
    """Tell a lease that it starts at a second, for a minute."""
    kept = {
        "ledgerSequence": 9,
        "startTime": clock(start),
        "endTime": clock(start + 60),
        "slices": [{"index": 0, "nodeName": node, "resources": {"cpu": cpu}}],
    }
    tale.change(LEASE, name, {"status": {"reservation": kept}})


def later(tale: Tale, name: str = "later", start: float = 100) -> Tale:
    tale.lease(name, cpu="4", startTime=clock(start))
    promise(tale, name, start)
    return tale


def test_a_start_for_when_all_is_given_back_breaks_nothing() -> None:
    assert later(Tale().granted()).broken() == set()


def test_a_renewal_into_a_promised_start_is_found() -> None:
    tale = later(Tale().granted())
    tale.change(LEASE, "a", {"status": {"deadlines": {"expirationTime": clock(101)}}})
    assert tale.broken() == {"promised twice"}


def test_a_start_that_is_promised_before_the_room_is_free_is_found() -> None:
    assert later(Tale().granted(), start=30).broken() == {"promised twice"}


def test_two_starts_at_one_time_on_one_node_are_found() -> None:
    assert later(later(Tale()), "too").broken() == {"promised twice"}


def test_a_start_that_its_lease_asks_for_no_more_binds_nobody() -> None:
    tale = later(Tale().granted())
    tale.change(LEASE, "later", {"spec": {"resources": {"cpu": "1"}}})
    tale.change(LEASE, "a", {"status": {"deadlines": {"expirationTime": clock(101)}}})
    assert tale.broken() == set()


@pytest.mark.parametrize(("elsewhere", "broken"), [(True, set()), (False, {"promised twice"})])
def test_a_promise_is_over_with_the_commit_of_its_start_on_another_node(
    elsewhere: bool, broken: set[str]
) -> None:
    """The room that was kept may be lent in the same commit, and that be written first."""
    tale = later(Tale())
    tale.lease("a")
    tale.ledger(1, 0)
    tale.seconds = 101
    start = [("later", 1, "n2")] if elsewhere else []
    tale.ledger(1, 2, *start, ("a", 2, "n1"))
    tale.grant("a", 2)
    assert tale.broken() == broken


def test_a_lease_that_still_releases_counts() -> None:
    tale = Tale().granted(cpu="4")
    tale.change(LEASE, "a", {"spec": {"desiredState": "Released"}})
    tale.end("a", "ReleaseRequested", conditions=conditions(Allocated="True", Released="False"))
    tale.lease("b", cpu="1")
    tale.ledger(1, 2, ("b", 2, "n1"))
    tale.grant("b", 2)
    assert tale.broken() == {"capacity"}


def test_a_token_that_two_leases_have_is_found() -> None:
    tale = Tale().granted()
    tale.lease("b")
    tale.ledger(1, 2, ("b", 2, "n2"))
    tale.grant("b", 1, "n2")
    assert tale.broken() == {"token", "committed"}


def test_a_token_that_changes_is_found() -> None:
    tale = Tale().granted()
    tale.change(LEASE, "a", {"status": {"fencingToken": 9}})
    assert tale.broken() == {"token"}


def handed_over(tale: Tale, to: str = "you", **status: Any) -> Tale:
    """The spec names another holder, who gets token 2."""
    tale.change(LEASE, "a", {"spec": {"holder": {"identity": to}}})
    tale.ledger(1, 2, ("a", 2, "n1"))
    rows = copy.deepcopy(tale.objects[POOL, "ci"]["status"]["ledger"]["inFlight"])
    rows[0]["holder"] = {"identity": "you"}
    tale.change(POOL, "ci", {"status": {"ledger": {"inFlight": rows}}})
    tale.change(LEASE, "a", {"status": {"fencingToken": 2, "holder": {"identity": "you"}, **status}})
    return tale


def test_a_handover_as_it_should_be_breaks_nothing() -> None:
    assert handed_over(Tale().granted(holder={"identity": "me"})).broken() == set()
    assert handed_over(Tale().granted()).broken() == set()


def test_a_holder_that_changes_by_the_same_token_is_found() -> None:
    tale = Tale().granted(holder={"identity": "me"})
    tale.change(LEASE, "a", {"status": {"holder": {"identity": "you"}}})
    assert tale.broken() == {"token"}


@pytest.mark.parametrize(
    ("to", "status", "text"),
    [
        ("they", {}, "given to another holder than the lease names"),
        ("you", {"holder": {"identity": "they"}}, "committed for {'identity': 'you'}"),
        ("you", {"fencingToken": 3}, "no handover was committed"),
        ("you", {"allocation": {"slices": []}}, "did not stay as it was"),
    ],
)
def test_a_handover_that_is_not_what_was_asked_for_and_committed_is_found(
    to: str, status: Object, text: str
) -> None:
    assert text in handed_over(Tale().granted(), to, **status).told()


def with_child(cpu: str = "2", seconds: float = 61) -> Tale:
    """A lease of 2 cpu, and a sub-lease that ends at a second."""
    tale = Tale().granted()
    tale.lease("c", cpu=cpu, parentRef={"name": "a"})
    tale.ledger(1, 2, ("c", 2, "n1"))
    rows = copy.deepcopy(tale.objects[POOL, "ci"]["status"]["ledger"]["inFlight"])
    rows[0]["parentUID"] = f"{LEASE}-a"
    tale.change(POOL, "ci", {"status": {"ledger": {"inFlight": rows}}})
    tale.objects[LEASE, "c"]["status"] = {"allocation": {"parentUID": f"{LEASE}-a"}}
    tale.grant("c", 2, expirationTime=clock(seconds))
    return tale


def test_sub_leases_within_their_parent_break_nothing_and_count_once() -> None:
    tale = with_child()
    tale.lease("b")
    tale.ledger(1, 3, ("b", 3, "n1"))
    tale.grant("b", 3)
    assert tale.broken() == set()


def test_sub_leases_that_hold_more_than_their_parent_are_found() -> None:
    assert with_child(cpu="3").broken() == {"family"}


def test_a_sub_lease_that_ends_after_its_parent_is_found() -> None:
    assert with_child(seconds=62).broken() == {"family"}


def test_a_parent_that_gives_back_what_a_sub_lease_holds_is_found() -> None:
    tale = with_child()
    tale.change(LEASE, "a", {"spec": {"desiredState": "Released"}})
    tale.end("a", "ReleaseRequested")
    assert tale.broken() == {"family"}


def test_a_sub_lease_that_ends_with_a_parent_that_stays_is_found() -> None:
    tale = with_child()
    tale.end("c", "ParentEnded")
    assert "its parent is there to stay" in tale.told()


@pytest.mark.parametrize("ledger", [(1, 0), (0, 1)], ids=["sequence", "epoch"])
def test_books_that_run_backwards_are_found(ledger: tuple[int, int]) -> None:
    tale = Tale().granted()
    tale.ledger(*ledger)
    assert tale.broken() == {"ledger"}


def test_a_sequence_number_that_was_given_out_before_is_found() -> None:
    tale = Tale().granted()
    tale.lease("b")
    tale.ledger(1, 2, ("b", 1, "n2"))
    assert "ledger" in tale.broken()


def test_a_grant_that_was_never_committed_is_found() -> None:
    tale = Tale()
    tale.lease("a")
    tale.ledger(1, 1)
    tale.grant("a", 1)
    assert tale.broken() == {"committed"}


def test_a_grant_whose_commitment_was_undone_meanwhile_is_found() -> None:
    tale = Tale()
    tale.lease("a")
    tale.ledger(1, 0)
    tale.ledger(1, 1, ("a", 1, "n1"))
    tale.change(LEASE, "a", {"status": {"conditions": conditions(Allocated="False")}})
    tale.ledger(2, 1)
    assert tale.broken() == set()
    tale.grant("a", 1)
    assert tale.broken() == {"committed"}


def test_a_grant_on_another_node_than_was_committed_is_found() -> None:
    tale = Tale()
    tale.lease("a")
    tale.ledger(1, 0)
    tale.ledger(1, 1, ("a", 1, "n1"))
    tale.grant("a", 1, "n2")
    assert tale.broken() == {"committed"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"spec": {"resources": {"cpu": "1"}}}, "asks for 1 of {'cpu': 1000}"),
        ({"spec": {"count": 2}}, "asks for 2 of"),
        ({"spec": {"desiredState": "Released"}}, "does not want it any more"),
        ({"metadata": {"deletionTimestamp": clock(0)}}, "does not want it any more"),
        ({"metadata": {"finalizers": []}}, "without the finalizer"),
    ],
)
def test_a_grant_of_what_is_not_asked_for_is_found(change: Object, text: str) -> None:
    tale = Tale()
    tale.lease("a", cpu="2")
    tale.ledger(1, 0)
    tale.ledger(1, 1, ("a", 1, "n1"))
    slices = [{"index": 0, "nodeName": "n1", "resources": {"cpu": "2"}}]
    tale.change(LEASE, "a", change)
    allocation = {"ledgerSequence": 1, "allocationTime": clock(0), "slices": slices}
    granted = {"fencingToken": 1, "allocation": allocation, "conditions": conditions(Allocated="True")}
    tale.change(LEASE, "a", {"status": granted})
    assert text in tale.told()


def test_a_term_beyond_the_latest_end_is_found() -> None:
    tale = Tale().granted()
    late = {"expirationTime": clock(100), "maxExpirationTime": clock(90)}
    tale.change(LEASE, "a", {"status": {"deadlines": late}})
    assert tale.broken() == {"maximum"}


def test_a_commit_by_the_write_that_takes_over_is_found() -> None:
    tale = Tale()
    tale.lease("a")
    tale.ledger(1, 0)
    tale.ledger(2, 1, ("a", 1, "n1"))
    assert tale.broken() == {"epoch"}


def test_a_deposed_operator_that_writes_the_pool_is_found() -> None:
    tale = Tale()
    old = {"agent": "leasehold-operator/old", "subresource": "status"}
    new = {"agent": "leasehold-operator/new", "subresource": "status"}
    tale.ledger(1, 0, **old)
    tale.ledger(2, 0, **new)
    tale.change(POOL, "ci", {"metadata": {"labels": {"by": "a user"}}}, agent="kubectl")
    assert tale.broken() == set()
    tale.change(POOL, "ci", {"status": {"nodes": {"total": 2}}}, **old)
    assert tale.broken() == {"epoch"}


def test_an_inherited_commitment_that_is_forgotten_is_found() -> None:
    tale = Tale()
    tale.lease("a")
    tale.ledger(1, 0)
    tale.ledger(1, 1, ("a", 1, "n1"))
    tale.ledger(2, 1, ("a", 1, "n1"))
    assert tale.broken() == set()
    tale.ledger(2, 1)
    assert tale.broken() == {"lost"}


def test_who_committed_may_take_back_what_it_never_wrote() -> None:
    tale = Tale()
    tale.lease("a")
    tale.ledger(1, 0)
    tale.ledger(1, 1, ("a", 1, "n1"))
    tale.ledger(1, 1)
    assert tale.broken() == set()


def test_a_lease_that_vanishes_while_it_holds_something_is_found() -> None:
    tale = Tale().granted()
    tale.add(LEASE, tale.objects[LEASE, "a"], "DELETED")
    assert tale.broken() == {"lost"}


def test_a_grant_that_is_taken_back_without_a_release_is_found() -> None:
    tale = Tale().granted()
    tale.change(LEASE, "a", {"status": {"conditions": conditions(Allocated="False")}})
    assert tale.broken() == {"final"}


def test_a_finished_lease_that_lives_again_is_found() -> None:
    tale = Tale().granted()
    tale.seconds = 61
    tale.end("a", "TermEnded")
    tale.change(LEASE, "a", {"status": {"conditions": conditions(Allocated="True", Ready="True")}})
    assert tale.broken() == {"final"}
    assert "had finished and has not any more" in tale.told()


@pytest.mark.parametrize(
    ("cause", "deadlines"),
    [
        ("TermEnded", {"expirationTime": clock(60)}),
        ("MaximumReached", {"expirationTime": clock(60), "maxExpirationTime": clock(60)}),
        ("HeartbeatLost", {"heartbeatTime": clock(60)}),
        ("ClaimTimeout", {"claimTime": clock(60)}),
    ],
)
def test_an_end_before_its_deadline_is_found(cause: str, deadlines: dict[str, str]) -> None:
    for seconds, broken in ((58.0, {"early end"}), (60.0, set())):
        tale = Tale()
        tale.lease("a", liveness="Renew")
        tale.ledger(1, 0)
        tale.ledger(1, 1, ("a", 1, "n1"))
        tale.grant("a", 1, **deadlines)
        tale.seconds = seconds
        tale.end("a", cause)
        assert tale.broken() == broken, tale.told()


def test_an_end_within_the_grace_is_found() -> None:
    tale = Tale()
    tale.change(POOL, "ci", {"spec": {"leasePolicy": {"gracePeriodSeconds": 5}}})
    tale.granted()
    tale.seconds = 63
    tale.end("a", "TermEnded")
    assert tale.broken() == {"early end"}


def test_an_end_in_spite_of_a_renewal_is_found() -> None:
    tale = Tale().granted()
    tale.seconds = 59
    tale.change(LEASE, "a", {"spec": {"renewTime": clock(59)}})
    tale.seconds = 62
    tale.end("a", "TermEnded")
    assert tale.broken() == {"renewal"}


def test_an_end_by_a_session_that_was_renewed_is_found() -> None:
    tale = Tale()
    session = {"metadata": {"name": "s", "namespace": "team"}, "spec": {}}
    tale.add("Lease", session)
    tale.granted(liveness="Session", holder={"sessionRef": {"name": "s"}})
    tale.seconds = 50
    tale.add("Lease", session, "MODIFIED")
    tale.seconds = 70
    tale.end("a", "HeartbeatLost")
    assert tale.broken() == {"early end"}


@pytest.mark.parametrize(
    "cause", ["NodeLost", "ReleaseRequested", "NamespaceGone", "PoolDraining", "AdminRevoked"]
)
def test_an_end_without_a_cause_is_found(cause: str) -> None:
    tale = Tale().granted()
    tale.end("a", cause)
    assert tale.broken() == {"early end"}


# --- at rest ---


def at_rest(tale: Tale) -> list[str]:
    return unrest(final_view(tale.revisions), int((NOON + tale.seconds) * 1000))


def settled(tale: Tale) -> Tale:
    """Let the pool's status be what its operator would write now."""
    view = final_view(tale.revisions)
    now = int((NOON + tale.seconds) * 1000)
    state: PoolState = rebuilt(view, "ci", now)
    facts = Facts(1, False, [], unenforced=state.policy.enforces)
    tale.change(POOL, "ci", {"status": status_of(state, facts, view.pools["ci"]["status"], now)})
    return tale


def test_a_pool_whose_status_is_what_the_objects_make_it_is_at_rest() -> None:
    assert at_rest(settled(Tale().granted())) == []


def test_figures_that_are_not_what_the_leases_hold_are_found() -> None:
    tale = settled(Tale().granted())
    tale.change(POOL, "ci", {"status": {"leases": {"held": 2}}})
    assert any("status.leases" in text for text in at_rest(tale))


def test_entries_in_flight_at_the_end_are_found() -> None:
    tale = Tale().granted()
    tale.lease("b")
    tale.ledger(1, 2, ("b", 2, "n2"))
    assert any("1 entries are in flight" in text for text in at_rest(tale))


def test_a_lease_that_waits_though_there_is_room_is_found() -> None:
    tale = Tale().granted()
    tale.lease("b")
    found = at_rest(settled(tale))
    assert any("lease team/b waits and there is room" in text for text in found)
    assert any("lease team/b waits and was told nothing" in text for text in found)


def test_a_lease_whose_term_is_over_and_that_is_held_is_found() -> None:
    tale = settled(Tale().granted())
    tale.seconds = 120
    assert any("are to be written" in text for text in at_rest(tale))


def test_a_pool_that_wants_pods_held_to_leases_lends_nothing_and_is_at_rest() -> None:
    tale = Tale()
    tale.change(POOL, "ci", {"spec": {"enforcement": {"mode": "Gate"}}})
    tale.lease("waits")
    tale.change(LEASE, "waits", {"status": {"conditions": conditions(Allocated="False")}})
    tale.ledger(1, 0)
    assert at_rest(settled(tale)) == []
    tale.change(POOL, "ci", {"spec": {"enforcement": {"mode": "Advisory"}}})
    found = at_rest(tale)
    assert any("its conditions are" in text and "EnforcementOff" in text for text in found)
    assert any("lease team/waits waits and there is room" in text for text in found)


def test_a_pool_that_nobody_leads_is_found() -> None:
    assert at_rest(Tale()) == ["pool ci: nobody leads it"]


def test_only_writes_of_operators_to_our_objects_are_noise() -> None:
    def write(agent: str = "leasehold-operator/a", **other: Any) -> Write:
        fields = {
            "time": 10.0,
            "done": 10.0,
            "agent": agent,
            "user": "u",
            "verb": "patch",
            "group": "leasehold.dev",
            "resource": "capacityleases",
            "subresource": "status",
            "namespace": "",
            "name": "a",
            "code": 200,
            "version": 1,
        }
        return Write(**{**fields, **other})

    quiet = [write("kubectl"), write(verb="get"), write(group="coordination.k8s.io"), write(done=4.0)]
    loud = [write(), write(time=4.0)]
    assert noise([*quiet, *loud], 5.0) == loud


def test_a_trace_is_the_same_after_it_was_saved(tmp_path: Any) -> None:
    trace = Tale().granted().trace()
    assert Trace.load(trace.save(tmp_path / "trace.jsonl")) == trace


def test_a_violation_says_where() -> None:
    assert str(Violation("token", 7, "twice")) == "token at revision 7: twice"
    assert str(Violation("at rest", 0, "busy")) == "at rest at the end: busy"
