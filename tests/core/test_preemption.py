from typing import Any

from tests.builders import at, make_node, make_pool, make_request, make_table

from leasehold.core.calendar import Calendar, Held, Outlook, Promise
from leasehold.core.fairness import Shares, shares_of
from leasehold.core.policy import PoolPolicy
from leasehold.core.preemption import MOST_VICTIMS, Preemption, choose_victims, room_left_by
from leasehold.core.request import NEVER, Request

GIB = 1 << 30
WITHIN = {"withinTenant": "LowerPriority"}
RECLAIM = {"borrowers": "Reclaim"}


class Pool:
    """Nodes of 16 cpu, and who holds what on them since a day."""

    def __init__(self, *nodes: str, policy: PoolPolicy | None = None, cpu: str = "16", **how: Any) -> None:
        self.policy = policy or make_pool(strategy="FirstFit", **how)
        self.table = make_table(self.policy, [make_node(name, cpu=cpu) for name in nodes or ("a",)])
        self.calendar = Calendar()
        self.scratch = self.table.scratch()
        self.shares: Shares = shares_of(self.policy, self.table.capacity)

    def hold(
        self,
        uid: str,
        cpu: int,
        *nodes: str,
        until: str | None = "9h",
        tenant: str = "",
        priority: int = 0,
        since: str = "-24h",
        leaving: bool = False,
    ) -> None:
        slices = tuple((node, (cpu * 1000, GIB)) for node in nodes or ("a",))
        end = NEVER if until is None else at(until)
        self.calendar.hold(uid, Held(end, slices, tenant, priority, at(since), leaving))
        for node, amounts in slices:
            self.scratch.take(self.table.index[node], amounts)
            self.shares.add(tenant, amounts)

    @property
    def outlook(self) -> Outlook:
        return Outlook(self.scratch, self.calendar, at())

    def ask(self, request: Request) -> Preemption | None:
        return choose_victims(self.outlook, request, self.shares, self.policy)

    def victims(self, **request: Any) -> list[str]:
        found = self.ask(make_request(**request))
        return [] if found is None else sorted(found.victims)


# --- within a tenant ---


def test_only_leases_of_lower_priority_go_and_only_where_the_pool_says_so() -> None:
    for rules, gone in ((WITHIN, ["low"]), (RECLAIM, []), ({}, [])):
        pool = Pool(preemption=rules)
        pool.hold("low", 8, priority=1)
        pool.hold("same", 8, priority=5)
        assert pool.victims(cpu="8", priority=5) == gone


def test_the_least_wanted_goes_lowest_priority_then_the_youngest() -> None:
    pool = Pool(preemption=WITHIN)
    pool.hold("old", 5, since="-9h")
    pool.hold("young", 5, since="-1h")
    pool.hold("wanted", 5, since="-1m", priority=3)
    assert pool.victims(cpu="5", priority=5) == ["young"]
    assert pool.victims(cpu="11", priority=5) == ["old", "young"]


def test_nobody_goes_who_is_younger_than_the_pool_guarantees() -> None:
    pool = Pool(preemption=WITHIN, guaranteedSeconds=3600)
    pool.hold("young", 16, since="-59m")
    assert pool.victims(cpu="8", priority=5) == []
    pool = Pool(preemption=WITHIN, guaranteedSeconds=3600)
    pool.hold("old enough", 16, since="-60m")
    assert pool.victims(cpu="8", priority=5) == ["old enough"]


def test_one_large_victim_is_enough_where_small_ones_would_be_many() -> None:
    pool = Pool(preemption=WITHIN)
    for i in range(8):
        pool.hold(f"small{i}", 1)
    pool.hold("large", 8, priority=1)
    found = pool.victims(cpu="8", priority=5)
    assert len(found) == 8, "the least wanted go first, however many"
    assert "large" not in found


def test_victims_lie_where_they_help() -> None:
    pool = Pool("a", "b", preemption=WITHIN)
    pool.hold("on a", 16, "a")
    pool.hold("on b", 16, "b", priority=1)
    assert pool.victims(cpu="8", priority=5, node_selector={"kubernetes.io/hostname": "b"}) == ["on b"]


def test_one_request_may_not_displace_half_the_pool() -> None:
    pool = Pool(preemption=WITHIN, cpu="100")
    for i in range(MOST_VICTIMS + 1):
        pool.hold(f"l{i}", 1)
    pool.hold("rest", 100 - MOST_VICTIMS - 1, priority=9)
    assert len(pool.victims(cpu=str(MOST_VICTIMS), priority=5)) == MOST_VICTIMS
    assert pool.victims(cpu=str(MOST_VICTIMS + 1), priority=5) == []


# --- what comes anyway ---


def test_nobody_goes_where_a_known_end_comes_within_the_grace() -> None:
    for until, gone in (("30s", []), ("31s", ["low"])):
        pool = Pool(preemption=WITHIN, gracePeriodSeconds=30)
        pool.hold("low", 8)
        pool.hold("ends", 8, until=until, priority=9)
        assert pool.victims(cpu="8", priority=5) == gone


def test_room_that_comes_by_itself_spares_a_victim() -> None:
    pool = Pool(preemption=WITHIN, gracePeriodSeconds=30)
    pool.hold("ends", 8, until="10s", priority=9)
    pool.hold("low", 4)
    pool.hold("other", 4, priority=1)
    assert pool.victims(cpu="12", priority=5) == ["low"]


def test_an_end_in_the_next_moment_is_waited_for_where_there_is_no_grace() -> None:
    pool = Pool(preemption=WITHIN, gracePeriodSeconds=0)
    pool.hold("late", 8, until="-1m", priority=9)
    pool.hold("low", 8)
    assert pool.victims(cpu="8", priority=5) == []


def test_the_room_is_kept_from_when_the_victims_must_be_gone() -> None:
    pool = Pool(preemption=WITHIN, gracePeriodSeconds=30, cooldownSeconds=15)
    pool.hold("low", 16)
    found = pool.ask(make_request("high", cpu="8", span="1h", priority=5))
    assert found is not None
    assert found.promise == Promise("high", at("45s"), at("1h45s"), (("a", (8000, GIB)),))
    assert not found.reclaims


def test_what_is_promised_to_others_is_not_there_while_it_is_needed() -> None:
    for start, end, gone in (("1h", "2h", ["low", "other"]), ("2h", "3h", ["low"])):
        pool = Pool(preemption=WITHIN)
        pool.hold("low", 8)
        pool.hold("other", 8, priority=1, until=None)
        pool.calendar.promise(Promise("p", at(start), at(end), (("a", (8000, GIB)),)))
        assert pool.victims(cpu="8", priority=5, span="90m") == gone


def test_no_lease_is_asked_twice() -> None:
    pool = Pool(preemption=WITHIN)
    pool.hold("leaving", 8, leaving=True)
    pool.hold("low", 8)
    assert pool.victims(cpu="8", priority=5) == ["low"]
    outlook = pool.outlook
    outlook.ask(["low"], at("30s"))
    assert choose_victims(outlook, make_request(cpu="8", priority=5), pool.shares, pool.policy) is None


# --- of borrowers ---

TENANTS = (
    {"name": "red", "guaranteed": {"cpu": "8", "memory": "60Gi"}},
    {"name": "blue", "guaranteed": {"cpu": "8"}},
)


def test_a_guarantee_is_taken_back_from_who_borrowed_it() -> None:
    pool = Pool(preemption=RECLAIM, tenants=TENANTS)
    pool.hold("b1", 8, tenant="blue", since="-2h")
    pool.hold("b2", 8, tenant="blue", since="-1h")
    found = pool.ask(make_request(cpu="8", tenant="red"))
    assert found is not None
    assert (found.victims, found.reclaims) == (("b2",), True)


def test_beyond_its_guarantee_a_tenant_takes_nothing_back() -> None:
    pool = Pool(preemption=RECLAIM, tenants=TENANTS)
    pool.hold("b1", 16, tenant="blue")
    assert pool.victims(cpu="9", tenant="red", priority=9) == []


def test_what_was_already_claimed_counts_against_the_guarantee() -> None:
    pool = Pool(preemption=RECLAIM, tenants=TENANTS)
    pool.hold("b1", 8, tenant="blue")
    pool.hold("b2", 8, tenant="blue")
    wish = make_request(cpu="8", tenant="red")
    for claimed, gone in (((0, 0), True), ((1000, 0), False)):
        found = choose_victims(pool.outlook, wish, pool.shares, pool.policy, claimed)
        assert (found is not None) == gone


def test_nobody_falls_below_its_guarantee() -> None:
    pool = Pool(preemption=RECLAIM, tenants=TENANTS)
    pool.hold("b1", 9, tenant="blue")
    pool.hold("b2", 7, tenant="blue", since="-1h")
    assert pool.victims(cpu="7", tenant="red") == ["b2"]
    assert pool.victims(cpu="8", tenant="red") == [], "both would have to go"


def test_a_borrower_whose_lease_leaves_anyway_has_less_to_lose() -> None:
    pool = Pool(preemption=RECLAIM, tenants=TENANTS)
    pool.hold("b1", 8, tenant="blue", until=None)
    pool.hold("b2", 8, tenant="blue", until=None, leaving=True)
    assert pool.victims(cpu="4", tenant="red") == []


# --- after a restart ---


def test_room_that_is_being_made_is_found_again_from_who_leaves() -> None:
    pool = Pool("a", "b")
    pool.hold("victim", 8, "a", until="30s", leaving=True)
    pool.hold("stays", 8, "a")
    pool.hold("other", 16, "b")
    wish = make_request("high", cpu="8", span="1h")
    assert room_left_by(pool.outlook, wish, {"victim"}) == Promise(
        "high", at("30s"), at("1h30s"), (("a", (8000, GIB)),)
    )
    assert room_left_by(pool.outlook, make_request(cpu="9"), {"victim"}) is None
