from typing import Any

import pytest
from tests.builders import at, make_node, make_pool, make_request, make_table

from leasehold.core.calendar import Calendar, Held, Outlook, Promise
from leasehold.core.capacity import Row, Scratch
from leasehold.core.fairness import shares_of
from leasehold.core.nodes import Verdict
from leasehold.core.queue import Queue
from leasehold.core.request import Request
from leasehold.core.scheduling import Pass, Why, in_line, schedule

GIB = 1 << 30


class Pool:
    """One node of 16 cpu, or those named, as the operator keeps it: a table, a calendar, a queue and shares."""

    def __init__(self, *nodes: str, **how: Any) -> None:
        self.policy = make_pool(**how)
        self.table = make_table(self.policy, [make_node(name) for name in nodes or ("a",)])
        self.calendar = Calendar()
        self.queue = Queue()
        self.shares = shares_of(self.policy, self.table.capacity)

    def wait(self, *requests: Request) -> None:
        for request in requests:
            self.queue.add(request)

    def hold(self, uid: str, cpu: int, *, node: str = "a", until: str = "1h", tenant: str = "") -> None:
        amounts = (cpu * 1000, GIB)
        self.calendar.hold(uid, Held(at(until), ((node, amounts),), tenant))
        held = self.table.rows[node].held
        self.table.hold(node, tuple(h + a for h, a in zip(held, amounts, strict=True)))
        self.shares.add(tenant, amounts)

    def drop(self, uid: str) -> None:
        gone = self.calendar.drop(uid)
        assert gone is not None
        for node, amounts in gone.slices:
            held = self.table.rows[node].held
            self.table.hold(node, tuple(h - a for h, a in zip(held, amounts, strict=True)))
            self.shares.remove(gone.tenant, amounts)

    def look(self, now: str = "", **how: Any) -> Pass:
        outlook = Outlook(Scratch(self.table), self.calendar, at(now))
        shares = self.shares.copy()
        return schedule(outlook, self.queue, shares, self.policy, growth=self.table.growth, **how)


def started(found: Pass) -> list[str]:
    return [start.uid for start in found.starts]


def why(pool: Pool, found: Pass, uid: str) -> Why:
    return found.whys.get(pool.queue.requests[uid].shape, found.otherwise)


# --- strategies ---


@pytest.mark.parametrize(
    ("strategy", "goes", "reason"),
    [
        ("StrictFIFO", [], Why.BLOCKED),
        ("BestEffortFIFO", ["short", "long"], Why.ROOM),
        ("Backfill", ["short"], Why.ROOM),
    ],
)
def test_what_goes_ahead_of_a_head_that_does_not_fit(strategy: str, goes: list[str], reason: Why) -> None:
    pool = Pool(queue=strategy)
    pool.hold("runs", 10)
    pool.wait(make_request("head", cpu="16"))
    pool.wait(make_request("short", cpu="2", span="1h"), make_request("long", cpu="3", span="2h"))
    found = pool.look()
    assert started(found) == goes
    assert why(pool, found, "head") == Why.ROOM
    if "long" not in goes:
        assert why(pool, found, "long") == reason


@pytest.mark.parametrize("strategy", ["StrictFIFO", "Backfill"])
def test_what_no_empty_node_could_hold_is_no_head(strategy: str) -> None:
    pool = Pool(queue=strategy)
    pool.wait(make_request("giant", cpu="17"), make_request("small"))
    found = pool.look()
    assert started(found) == ["small"]
    assert found.head is None


def test_a_strict_pool_waits_behind_a_lease_that_waits_for_its_victims() -> None:
    pool = Pool(queue="StrictFIFO", preemption={"withinTenant": "LowerPriority"})
    pool.hold("low", 12)
    pool.wait(make_request("high", cpu="16", priority=5), make_request("small", cpu="1"))
    found = pool.look()
    assert [p.victims for p in found.preemptions] == [("low",)]
    assert started(found) == []
    pool.calendar.promise(found.preemptions[0].promise)
    again = pool.look("1s", holds={"high"})
    assert (started(again), again.preemptions) == ([], [])
    assert again.head == ("high", None)


# --- promises ---


def test_a_promised_lease_starts_on_time_wherever_there_is_room() -> None:
    pool = Pool("a", "b")
    pool.wait(make_request("later", cpu="16", not_before="1h"))
    (promise,) = pool.look().promises
    pool.calendar.promise(promise)
    pool.table.remove(promise.slices[0][0])
    pool.table.settle()
    found = pool.look("1h")
    assert started(found) == ["later"]
    assert found.starts[0].nodes == (0,)


def test_a_promise_whose_node_is_full_is_still_kept() -> None:
    pool = Pool()
    pool.hold("stays", 16, until="10m")
    pool.calendar.promise(Promise("later", at("10m"), at("1h"), (("a", (8000, GIB)),)))
    pool.wait(make_request("later", cpu="8", not_before="10m"), make_request("other", cpu="8"))
    found = pool.look("15m")
    assert (started(found), found.promises) == ([], [])
    pool.drop("stays")
    assert started(pool.look("20m")) == ["later", "other"]


def promised_one_after_the_other() -> Pool:
    pool = Pool()
    for uid, start, end in (("first", "10m", "20m"), ("second", "20m", "30m")):
        pool.wait(make_request(uid, cpu="10", span="10m", not_before=start))
        pool.calendar.promise(Promise(uid, at(start), at(end), (("a", (10_000, GIB)),)))
    return pool


def test_a_promised_start_that_comes_late_ends_in_time_for_whoever_is_promised_what_follows() -> None:
    (start,) = promised_one_after_the_other().look("11m").starts
    assert (start.uid, start.until) == ("first", at("20m"))


def test_a_promised_start_that_would_lose_more_than_half_of_its_time_is_none() -> None:
    assert started(promised_one_after_the_other().look("16m")) == []


def test_a_promise_beyond_the_limit_waits_for_the_tenants_other_leases() -> None:
    pool = Pool(tenants=[{"name": "red", "limit": {"cpu": "8"}}])
    pool.hold("late", 4, until="1h", tenant="red")
    pool.wait(make_request("later", cpu="8", tenant="red", not_before="30m"))
    (promise,) = pool.look().promises
    assert promise.start == at("1h")
    pool.calendar.promise(promise)
    assert started(pool.look("1h")) == [], "it has not gone yet"
    pool.drop("late")
    assert started(pool.look("1h")) == ["later"]


def test_two_promises_of_a_tenant_may_follow_each_other_in_any_order() -> None:
    pool = Pool(tenants=[{"name": "red", "limit": {"cpu": "4"}}])
    for name, not_before in (("noon", "2h"), ("before", "1h")):
        pool.wait(make_request(name, cpu="4", tenant="red", not_before=not_before, span="1h"))
        (promise,) = pool.look().promises
        assert promise.start == at(not_before)
        pool.calendar.promise(promise)


# --- tenants ---


def test_nobody_borrows_while_a_tenant_within_its_guarantee_waits() -> None:
    pool = Pool(tenants=[{"name": "red", "guaranteed": {"cpu": "16", "memory": "64Gi"}}, {"name": "blue"}])
    pool.hold("runs", 8, tenant="blue")
    pool.wait(make_request("borrows", cpu="1", tenant="blue", age="9h"))
    pool.wait(make_request("entitled", cpu="16", tenant="red"))
    found = pool.look()
    assert started(found) == []
    assert why(pool, found, "borrows") == Why.FAIR_SHARE
    assert why(pool, found, "entitled") == Why.ROOM
    pool.queue.remove("entitled")
    assert started(pool.look()) == ["borrows"]


def test_who_is_stuck_within_its_guarantee_counts_even_behind_others_that_are_stuck() -> None:
    guarantee = {"cpu": "12", "memory": "64Gi"}
    pool = Pool("a", "b", tenants=[{"name": "red", "guaranteed": guarantee}, {"name": "blue"}])
    on_b = {"kubernetes.io/hostname": "b"}
    pool.hold("runs", 16, node="b")
    pool.wait(make_request("large", cpu="10", tenant="red", node_selector=on_b))
    pool.wait(make_request("small", cpu="2", tenant="red", node_selector=on_b))
    assert started(pool.look()) == []
    pool.wait(make_request("first", cpu="4", tenant="red", age="9h"))
    pool.wait(make_request("borrows", cpu="1", tenant="blue"))
    assert started(pool.look()) == ["first"]


def test_a_lease_over_its_tenants_limit_holds_nobody_back() -> None:
    pool = Pool(queue="StrictFIFO", tenants=[{"name": "red", "maxLeases": 1}, {"name": "blue"}])
    pool.wait(make_request("r1", tenant="red"), make_request("r2", tenant="red"))
    pool.wait(make_request("b", tenant="blue"))
    found = pool.look()
    assert sorted(started(found)) == ["b", "r1"]
    assert why(pool, found, "r2") == Why.QUOTA


def test_the_tenant_that_holds_least_comes_next() -> None:
    pool = Pool(tenants=[{"name": "red"}, {"name": "blue"}])
    pool.wait(*(make_request(f"r{i}", cpu="4", tenant="red", age="9h") for i in range(3)))
    pool.wait(*(make_request(f"b{i}", cpu="4", tenant="blue") for i in range(3)))
    assert started(pool.look()) == ["r0", "b0", "r1", "b1"]
    assert [request.uid for request in in_line(pool.queue, pool.shares.copy())] == [
        "r0", "b0", "r1", "b1", "r2", "b2",
    ]  # fmt: skip


# --- one commit ---


def test_a_pass_stops_at_its_bounds_and_says_so() -> None:
    pool = Pool()
    pool.wait(*(make_request(f"l{i}", cpu="1") for i in range(5)))
    found = pool.look(batch=2)
    assert (started(found), found.more) == (["l0", "l1"], True)
    found = pool.look(slices=3)
    assert (started(found), found.more) == (["l0", "l1", "l2"], True)
    assert not pool.look().more


def test_promises_count_as_well_as_those_that_are_redeemed() -> None:
    pool = Pool()
    pool.wait(*(make_request(f"l{i}", cpu="1", not_before="1h") for i in range(3)))
    found = pool.look(batch=2)
    assert ([p.uid for p in found.promises], found.more) == (["l0", "l1"], True)
    for promise in pool.look().promises:
        pool.calendar.promise(promise)
    found = pool.look("1h", batch=2)
    assert (started(found), found.more) == (["l0", "l1"], True)


def test_who_cannot_be_written_now_takes_its_room_and_does_not_start() -> None:
    pool = Pool()
    pool.wait(make_request("busy", cpu="10"), make_request("other", cpu="10"))
    found = pool.look(busy={"busy"})
    assert ([s.uid for s in found.kept_back], started(found)) == (["busy"], [])
    assert started(pool.look()) == ["busy"]
    assert started(pool.look(absent={"busy"})) == ["other"]


# --- what is remembered ---


def test_room_a_busy_lease_gives_up_is_tried_again() -> None:
    pool = Pool("a", "b")
    pool.hold("a", 16)
    pool.hold("b", 16, node="b")
    pool.wait(make_request("stuck", cpu="10"))
    assert started(pool.look()) == []
    pool.drop("a")
    pool.wait(make_request("busy", cpu="16", priority=9, not_before="-1m"))
    assert started(pool.look(busy={"busy"})) == []
    pool.queue.remove("busy")
    assert started(pool.look()) == ["stuck"]


def test_room_that_a_redeemed_promise_did_not_take_after_all_is_tried_again() -> None:
    pool = Pool()
    pool.hold("runs", 16)
    pool.wait(make_request("stuck", cpu="10"))
    pool.look()
    pool.drop("runs")
    pool.wait(make_request("promised", cpu="16"))
    pool.calendar.promise(Promise("promised", at(), at("1h"), (("a", (16_000, GIB)),)))
    assert started(pool.look()) == ["promised"]
    pool.queue.remove("promised")
    pool.calendar.unpromise("promised")
    assert started(pool.look()) == ["stuck"]


def test_a_node_that_gets_the_wanted_label_is_tried_at_once() -> None:
    pool = Pool(queue="StrictFIFO")
    pool.wait(make_request("picky", node_selector={"disk": "fast"}))
    assert started(pool.look()) == []
    row = pool.table.rows["a"]
    pool.table.put("a", row._replace(labels={**row.labels, "disk": "fast"}))
    assert started(pool.look()) == ["picky"]


def test_a_node_that_opens_is_tried_at_once() -> None:
    pool = Pool()
    row = pool.table.rows["a"]
    pool.table.put("a", closed(row, "NodeCordoned"))
    pool.wait(make_request("waits"))
    assert started(pool.look()) == []
    pool.table.put("a", closed(row, ""))
    assert started(pool.look()) == ["waits"]


def closed(row: Row, reason: str) -> Row:
    verdict: Verdict = row.verdict._replace(reason=reason)
    return row._replace(verdict=verdict)


def test_who_could_take_nobodys_place_before_may_when_they_are_old_enough() -> None:
    pool = Pool(preemption={"withinTenant": "LowerPriority"}, guaranteedSeconds=600)
    pool.calendar.hold("low", Held(at("9h"), (("a", (16_000, GIB)),), "", 0, at()))
    pool.table.hold("a", (16_000, GIB))
    pool.wait(make_request("high", cpu="4", priority=5))
    assert pool.look("9m").preemptions == []
    assert [p.victims for p in pool.look("10m").preemptions] == [("low",)]


def test_two_preemptors_of_one_pass_ask_different_leases() -> None:
    pool = Pool("a", "b", preemption={"withinTenant": "LowerPriority"})
    pool.hold("on a", 16)
    pool.hold("on b", 16, node="b")
    pool.wait(make_request("p1", cpu="16", priority=5), make_request("p2", cpu="16", priority=4))
    found = pool.look()
    assert sorted(victim for p in found.preemptions for victim in p.victims) == ["on a"]
    assert why(pool, found, "p1") == Why.VICTIMS
    pool.wait(make_request("p2", cpu="15", priority=4))
    found = pool.look()
    assert sorted(victim for p in found.preemptions for victim in p.victims) == ["on a", "on b"]


def test_leases_that_were_asked_to_go_still_count_against_their_tenants_limit() -> None:
    tenants = [{"name": "red", "limit": {"cpu": "18"}}]
    pool = Pool("a", "b", tenants=tenants, preemption={"withinTenant": "LowerPriority"})
    pool.hold("low", 14, tenant="red")
    pool.hold("blue", 8, node="b")
    pool.wait(make_request("high", cpu="4", tenant="red", priority=5, node_selector=on("a")))
    pool.wait(make_request("more", cpu="5", tenant="red", node_selector=on("b")))
    found = pool.look()
    assert [p.victims for p in found.preemptions] == [("low",)]
    assert started(found) == []
    assert why(pool, found, "more") == Why.QUOTA


def on(node: str) -> dict[str, str]:
    return {"kubernetes.io/hostname": node}
