"""Under any history of requests, ends and time: promises are kept, heads are not delayed, guarantees come first.

What the planner decides is compared with a model that knows no shortcuts: it adds up, for every instant that
matters, who holds what on which node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.builders import make_pool

from leasehold.core.amounts import plus
from leasehold.core.calendar import Held, Outlook, Promise, later, total_of
from leasehold.core.capacity import NodeTable, Row
from leasehold.core.fairness import Shares
from leasehold.core.nodes import Verdict
from leasehold.core.placement import could_ever_fit
from leasehold.core.policy import PoolPolicy, TenantRule
from leasehold.core.request import NEVER, Request, Shape
from leasehold.core.selectors import selector_of
from leasehold.core.timeline import Moment, Timeline

MANY = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)

# --- the model ---


class Node(NamedTuple):
    limit: tuple[int, ...]
    labels: dict[str, str]
    closed: bool


class Model:
    """Who holds what and who was promised what, node by node; `now` is the present."""

    def __init__(
        self, nodes: Sequence[Node], held: dict[str, Held], promises: dict[str, Promise], now: int
    ) -> None:
        self.nodes = {f"n{i}": node for i, node in enumerate(nodes)}
        self.held = held
        self.promises = promises
        self.now = now

    def room(self, node: str, at: int) -> list[int]:
        """What is free on a node at an instant, promises left out."""
        room = list(self.nodes[node].limit)
        parts = [
            part
            for held in self.held.values()
            for part in held.slices
            if at == self.now or max(held.until, self.now + 1) > at
        ]
        parts += [
            part
            for promise in self.promises.values()
            for part in promise.slices
            if max(promise.start, self.now + 1) <= at < max(promise.end, self.now + 2)
        ]
        for name, amounts in parts:
            if name == node:
                room = [have - amount for have, amount in zip(room, amounts, strict=True)]
        return room

    def copies(self, node: str, shape: Shape, at: int) -> int:
        """How many slices a node takes from an instant on, until they are gone again."""
        here = self.nodes[node]
        if here.closed or any(here.labels.get(key) != value for key, value in shape.node_selector):
            return 0
        starts = {max(promise.start, self.now + 1) for promise in self.promises.values()}
        instants = [at, *(start for start in starts if at < start < later(at, shape.span))]
        return max(
            0,
            min(
                have // amount
                for instant in instants
                for have, amount in zip(self.room(node, instant), shape.need, strict=True)
                if amount
            ),
        )

    def fits(self, shape: Shape, at: int) -> bool:
        """Whether all slices of a request fit from an instant on."""
        found = {node: self.copies(node, shape, at) for node in self.nodes}
        if shape.mode == "SameNode":
            return max(found.values()) >= shape.slices
        if shape.mode == "DistinctNodes":
            return sum(copies > 0 for copies in found.values()) >= shape.slices
        if shape.mode == "SameDomain":
            domains: dict[str, int] = {}
            for node, copies in found.items():
                value = self.nodes[node].labels.get(shape.topology_key)
                if value is not None:
                    domains[value] = domains.get(value, 0) + copies
            return max(domains.values(), default=0) >= shape.slices
        return sum(found.values()) >= shape.slices

    def earliest(self, shape: Shape, after: int) -> int | None:
        """The first start from an instant on, by trying every instant at which room grows."""
        ends = {max(held.until, self.now + 1) for held in self.held.values()}
        ends |= {max(promise.end, self.now + 2) for promise in self.promises.values()}
        for at in sorted({after, *(end for end in ends if after < end < NEVER)}):
            if self.fits(shape, at):
                return at
        return None


# --- random pools and histories ---

MODES = ("Any", "SameNode", "DistinctNodes", "SameDomain")
TENANTS = ("red", "blue", "green")


class Case(NamedTuple):
    nodes: list[Node]
    policy: PoolPolicy
    steps: list[tuple[Any, ...]]
    single: bool


def shapes(size: int, tenants: Sequence[str]) -> st.SearchStrategy[Shape]:
    amounts = st.tuples(st.integers(1, 4), *[st.integers(0, 4)] * (size - 1))
    return st.builds(
        lambda tenant, need, slices, mode, zone, span: Shape(
            tenant,
            need,
            slices,
            mode,
            "zone" if mode == "SameDomain" else "",
            (("zone", zone),) if zone else (),
            span,
        ),
        st.sampled_from(tenants),
        amounts,
        st.sampled_from([1, 1, 1, 2, 3]),
        st.sampled_from(MODES),
        st.sampled_from(["", "", "", "x"]),
        st.sampled_from([1, 5, 10, 10, 20, 40, NEVER]),
    )


def nodes(size: int) -> st.SearchStrategy[list[Node]]:
    node = st.builds(
        Node,
        st.tuples(*[st.integers(2, 8)] * size),
        st.sampled_from([{}, {"zone": "x"}, {"zone": "x"}, {"zone": "y"}]),
        st.sampled_from([False, False, False, False, True]),
    )
    return st.lists(node, min_size=1, max_size=4)


def history(seed: int, *, queue: str | None = None, single: bool | None = None) -> Case:
    """A crowded pool and what happens to it; drawn by hand, for long histories in which much happens at once."""
    dice = Random(seed)
    one_of = dice.choice
    size = dice.randint(1, 3)
    alone = one_of([True, False]) if single is None else single
    tenants = ("",) if alone else TENANTS[: dice.randint(1, 3)]
    policy = replace(
        make_pool(
            *({"name": f"vendor.example/r{r}"} for r in range(size)),
            strategy=one_of(["BestFit", "Spread", "FirstFit"]),
            queue=queue or one_of(["Backfill", "StrictFIFO", "BestEffortFIFO"]),
        ),
        grace=one_of([0, 3]),
        cooldown=one_of([0, 2]),
        guaranteed_time=one_of([0, 4]),
        tenants=() if alone else tuple(_rule(dice, name, size) for name in TENANTS),
        preempts_within=not alone and one_of([True, False]),
        reclaims=not alone and one_of([True, False]),
        usage_half_life=0 if alone else one_of([0, 50]),
    )
    found = [
        Node(
            tuple(dice.randint(3, 8) for _ in range(size)),
            one_of([{}, {"zone": "x"}, {"zone": "x"}, {"zone": "y"}]),
            dice.random() < 0.1,
        )
        for _ in range(dice.randint(1, 4))
    ]
    many = dice.choice([4, 12, 40])
    known = [_shape(dice, size, tenants) for _ in range(many)]
    steps: list[tuple[Any, ...]] = []
    for _ in range(dice.randint(5, 40)):
        kind = dice.choices(("submit", "end", "withdraw", "wait"), (10, 2, 1, 4))[0]
        if kind == "submit":
            delay = one_of([0, 0, 0, 0, 4, 15]) if dice.random() < 0.5 else 0
            steps.append(("submit", one_of(known), one_of([0, 0, 1, 2]), delay))
        elif kind == "wait":
            steps.append(("wait", one_of([1, 2, 5, 12])))
        else:
            steps.append((kind, dice.randint(0, 20)))
    return Case(found, policy, steps, alone)


def _shape(dice: Random, size: int, tenants: Sequence[str]) -> Shape:
    mode = dice.choice(MODES)
    return Shape(
        dice.choice(tenants),
        (dice.randint(1, 5), *(dice.randint(0, 5) for _ in range(size - 1))),
        dice.choice([1, 1, 1, 2, 3]),
        mode,
        "zone" if mode == "SameDomain" else "",
        (("zone", "x"),) if dice.random() < 0.2 else (),
        dice.choice([1, 5, 10, 10, 20, 40, NEVER]),
    )


def _rule(dice: Random, name: str, size: int) -> TenantRule:
    guaranteed = tuple(dice.choice([0, 3, 6, 10]) for _ in range(size))
    limited = dice.random() < 0.4
    return TenantRule(
        name,
        selector_of({}),
        guaranteed,
        tuple(amount + dice.choice([0, 2, 8]) if limited else None for amount in guaranteed),
        dice.choice([1, 1, 3]),
        dice.choice([None, None, 2, 3]),
        (),
    )


def table_of(found: Sequence[Node], policy: PoolPolicy) -> NodeTable:
    table = NodeTable(len(policy.resources), policy.strategy)
    nothing = (0,) * len(policy.resources)
    for i, node in enumerate(found):
        reason = "NodeCordoned" if node.closed else ""
        verdict = Verdict(node.limit, node.limit, nothing, nothing, 0, reason, frozenset(), None)
        table.put(f"n{i}", Row(node.labels, verdict, nothing))
    table.settle()
    return table


def twin_of(line: Timeline, case: Case, now: int) -> Timeline:
    """A timeline that knows the same and remembers nothing; it hears of everything in the opposite order."""
    found = Timeline(table_of(case.nodes, case.policy), case.policy, now)
    for uid, held in reversed(list(line.calendar.held.items())):
        found.calendar.hold(uid, held)
        found.shares.add(held.tenant, total_of(held.slices, len(case.policy.resources)))
        for node, amounts in held.slices:
            found.scratch.take(found.table.index[node], amounts)
    for promise in reversed(list(line.calendar.promises.values())):
        found.calendar.promise(promise)
    for request in reversed(list(line.queue)):
        found.submit(request)
    found.holds = {uid: set(victims) for uid, victims in line.holds.items()}
    found.shares = line.shares.copy()
    return found


# --- a history that is held to the laws ---


class History:
    """Drives a timeline as a punctual world would: everybody leaves when they must, or before."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.policy = case.policy
        self.size = len(case.policy.resources)
        self.line = Timeline(table_of(case.nodes, case.policy), case.policy, 1000)
        self.now = 1000
        self.serial = 0
        self.reserved: tuple[str, int] | None = None

    def play(self) -> None:
        for kind, *how in self.case.steps:
            getattr(self, f"do_{kind}")(*how)

    def do_submit(self, shape: Shape, priority: int, delay: int) -> None:
        self.serial += 1
        if delay:
            shape = shape._replace(not_before=self.now + delay)
        if self.case.single:
            priority = 0
        self.line.submit(Request(f"r{self.serial:02}", (-priority, self.serial), shape, priority))
        self.look()

    def do_end(self, k: int) -> None:
        held = sorted(self.line.calendar.held)
        if held:
            self.line.end(held[k % len(held)])
            self.look()

    def do_withdraw(self, k: int) -> None:
        waiting = [request.uid for request in self.line.queue]
        if waiting:
            gone = waiting[k % len(waiting)]
            if self.reserved is not None and self.reserved[0] == gone:
                self.reserved = None
            self.line.withdraw(gone)
            self.look()

    def do_wait(self, span: int) -> None:
        end = self.now + span
        while self.now < end:
            known = [at for at in (self.line.next_end(), self.line.next_promise()) if at is not None]
            self.now = min([end, *(max(at, self.now + 1) for at in known)])
            self.look()

    def look(self) -> None:
        """Let the planner look, and hold what it decides to every law."""
        line = self.line
        line.now = self.now
        for uid in line.due():
            line.end(uid)
        held, promises = dict(line.calendar.held), dict(line.calendar.promises)
        holds, waiting = set(line.holds), {request.uid: request for request in line.queue}
        twin = twin_of(line, self.case, self.now)
        moment = line.run(self.now)
        same = twin.run(self.now)
        assert moment == same, f"what was remembered changed a decision: {moment} {same}"
        assert line.calendar.promises == twin.calendar.promises
        assert line.holds == twin.holds
        event(f"starts: {bool(moment.starts)}")
        self.nothing_is_lent_twice()
        self.promises_are_kept(moment, promises, waiting)
        self.limits_are_kept(moment, waiting)
        self.guarantees_come_first(moment, held, promises, waiting)
        self.nobody_goes_in_vain(moment, held, holds, waiting)
        self.the_head_is_not_delayed(moment, promises, waiting)
        if self.case.single:
            self.the_strategy_is_followed(moment, promises, waiting)

    def model(self, held: dict[str, Held] | None = None) -> Model:
        calendar = self.line.calendar
        return Model(
            self.case.nodes, calendar.held if held is None else held, dict(calendar.promises), self.now
        )

    # --- the laws ---

    def nothing_is_lent_twice(self) -> None:
        model = self.model()
        calendar = self.line.calendar
        instants = {self.now, *(max(p.start, self.now + 1) for p in calendar.promises.values())}
        for node, here in model.nodes.items():
            for at in instants:
                assert min(model.room(node, at)) >= 0, f"{node} at {at}"
            free = self.line.scratch.free_on(self.line.table.index[node])
            if not here.closed:
                assert free == Model(self.case.nodes, calendar.held, {}, self.now).room(node, self.now)

    def promises_are_kept(
        self, moment: Moment, before: dict[str, Promise], waiting: dict[str, Request]
    ) -> None:
        started = {start.uid for start in moment.starts}
        for uid, promise in before.items():
            if promise.start <= self.now:
                assert uid in started, f"{uid} was promised to start at {promise.start}"
            elif uid in started:
                assert waiting[uid].shape.not_before == 0, f"{uid} was promised a later start"
        for uid in started:
            assert waiting[uid].shape.not_before <= self.now
        for uid, promise in self.line.calendar.promises.items():
            if uid not in before and waiting[uid].shape.not_before:
                assert promise.start >= waiting[uid].shape.not_before

    def limits_are_kept(self, moment: Moment, waiting: dict[str, Request]) -> None:
        used = self.used(self.line.calendar.held)
        for rule in self.policy.tenants:
            if all(waiting[start.uid].shape.tenant != rule.name for start in moment.starts):
                continue
            amounts, leases = used.get(rule.name, ((0,) * self.size, 0))
            assert rule.max_leases is None or leases <= rule.max_leases
            for amount, most in zip(amounts, rule.limit, strict=True):
                assert most is None or amount <= most

    def used(self, held: dict[str, Held]) -> dict[str, tuple[tuple[int, ...], int]]:
        found: dict[str, tuple[tuple[int, ...], int]] = {}
        for one in held.values():
            amounts, leases = found.get(one.tenant, ((0,) * self.size, 0))
            found[one.tenant] = (plus(amounts, total_of(one.slices, self.size)), leases + 1)
        return found

    def shares(self, held: dict[str, Held]) -> Shares:
        shares = Shares({rule.name: rule for rule in self.policy.tenants}, self.line.table.capacity)
        for one in held.values():
            shares.add(one.tenant, total_of(one.slices, self.size))
        return shares

    def guarantees_come_first(
        self,
        moment: Moment,
        held: dict[str, Held],
        promises: dict[str, Promise],
        waiting: dict[str, Request],
    ) -> None:
        shares = self.shares(held)
        borrowers = []
        for start in moment.starts:
            shape = waiting[start.uid].shape
            if start.uid not in promises and not shares.entitled(shape.tenant, shape.total):
                borrowers.append(start.uid)
            shares.add(shape.tenant, shape.total)
        for request in self.line.queue if borrowers else ():
            shape = request.shape
            promised = request.uid in self.line.calendar.promises and request.uid not in self.line.holds
            if promised or shape.not_before > self.now or not self.possible(shape):
                continue
            if shares.over_limit(shape.tenant, shape.total) or self.is_promised_more(shape.tenant):
                continue
            assert not shares.entitled(shape.tenant, shape.total), (
                f"{request.uid} waits within its tenant's guarantee and {borrowers} borrow"
            )

    def is_promised_more(self, tenant: str) -> bool:
        """Whether a tenant with a limit must leave some of it for what was promised to it."""
        requests = self.line.queue.requests
        rule = self.line.shares.rules.get(tenant)
        limited = rule is not None and (rule.max_leases is not None or any(rule.limit))
        return limited and any(
            requests[uid].shape.tenant == tenant for uid in self.line.calendar.promises if uid in requests
        )

    def possible(self, shape: Shape) -> bool:
        table = self.line.table
        allowed = table.selected(shape.node_selector)
        return could_ever_fit(table, shape.need, shape.slices, shape.mode, allowed, shape.topology_key)

    def nobody_goes_in_vain(
        self, moment: Moment, held: dict[str, Held], holds: set[str], waiting: dict[str, Request]
    ) -> None:
        asked = [uid for uid, _ in moment.evictions]
        assert len(asked) == len(set(asked)), "one lease is asked twice"
        gone_at = self.now + self.policy.grace + self.policy.cooldown
        left = self.shares({uid: h for uid, h in self.line.calendar.held.items() if not h.leaving})
        preemptors = [uid for uid in self.line.holds if uid not in holds]
        for uid in preemptors:
            event("preemption")
            request = waiting[uid]
            for victim in self.line.holds[uid]:
                one = held[victim]
                assert self.now >= one.since + self.policy.guaranteed_time
                assert not one.leaving
                if one.tenant == request.shape.tenant:
                    assert self.policy.preempts_within
                    assert one.priority < request.priority
                    continue
                assert self.policy.reclaims
                amounts = total_of(one.slices, self.size)
                rule = self.line.shares.rules[one.tenant]
                for have, least, lost in zip(
                    left.account(one.tenant).used, rule.guaranteed, amounts, strict=True
                ):
                    assert not lost or have >= least, f"{one.tenant} falls below its guarantee"
        if len(preemptors) != 1 or moment.head is not None:
            return
        (uid,) = preemptors
        shape = waiting[uid].shape
        promise = self.line.calendar.promises.pop(uid)
        before = self.model({**self.line.calendar.held, **{v: held[v] for v in asked}})
        for at in range(self.now, gone_at + 1):
            assert not before.fits(shape, at), "waiting would have done"
        for stays in asked:
            model = self.model({**self.line.calendar.held, stays: held[stays]})
            assert not model.fits(shape, max(gone_at, self.now + 1)), f"{stays} might have stayed"
        self.line.calendar.promise(promise)

    def the_head_is_not_delayed(
        self, moment: Moment, before: dict[str, Promise], waiting: dict[str, Request]
    ) -> None:
        if self.policy.queue_strategy != "Backfill" or not self.case.single:
            return
        if self.reserved is not None:
            uid, latest = self.reserved
            ahead = [
                other
                for other in self.line.calendar.promises
                if other not in before and waiting[other].turn < waiting[uid].turn
            ]
            if uid in {start.uid for start in moment.starts}:
                assert self.now <= latest, f"{uid} was delayed"
            elif not ahead and moment.head is not None and moment.head.uid == uid:
                assert moment.head.start is not None
                assert moment.head.start <= latest, f"{uid} is delayed"
            elif not ahead:
                assert moment.head is not None, f"{uid} is not first in line any more"
                assert waiting[moment.head.uid].turn < waiting[uid].turn
        self.reserved = None
        if moment.head is not None and moment.head.start is not None:
            assert moment.head.start > self.now
            self.reserved = (moment.head.uid, moment.head.start)

    def the_strategy_is_followed(
        self, moment: Moment, before: dict[str, Promise], waiting: dict[str, Request]
    ) -> None:
        strategy, promises = self.policy.queue_strategy, self.line.calendar.promises
        idle = [
            request
            for request in self.line.queue
            if request.shape.not_before <= self.now and self.possible(request.shape)
        ]
        idle = [request for request in idle if request.uid not in promises]
        if strategy == "StrictFIFO":
            for start in moment.starts:
                for request in idle:
                    assert start.uid in before or waiting[start.uid].turn < request.turn
        model = self.model()
        for request in idle if strategy == "BestEffortFIFO" else idle[:1]:
            assert not model.fits(request.shape, self.now), f"{request.uid} fits and waits"


SEEDS = st.integers(0, 1 << 32)


@given(SEEDS)
@MANY
def test_any_history_keeps_every_law(seed: int) -> None:
    History(history(seed)).play()


@given(SEEDS)
@MANY
def test_backfill_never_delays_the_head(seed: int) -> None:
    History(history(seed, queue="Backfill", single=True)).play()


@given(SEEDS)
@MANY
def test_tenants_get_what_they_are_guaranteed_and_no_more_than_their_limit(seed: int) -> None:
    History(history(seed, single=False)).play()


# --- looking ahead ---


@st.composite
def futures(
    draw: st.DrawFn,
) -> tuple[list[Node], PoolPolicy, list[tuple[Shape, int]], list[tuple[Shape, int]]]:
    size = draw(st.integers(1, 3))
    pool = make_pool(*({"name": f"vendor.example/r{r}"} for r in range(size)))
    timed = st.tuples(shapes(size, ("",)), st.integers(-5, 40))
    return (
        draw(nodes(size)),
        pool,
        draw(st.lists(timed, max_size=8)),
        draw(st.lists(timed, min_size=1, max_size=5)),
    )


@given(futures(), st.sampled_from([0, 0, 7, 30]))
@settings(MANY, max_examples=300)
def test_the_earliest_start_is_the_first_at_which_the_slices_fit(
    future: tuple[list[Node], PoolPolicy, list[tuple[Shape, int]], list[tuple[Shape, int]]], delay: int
) -> None:
    found, policy, holders, wishes = future
    line = Timeline(table_of(found, policy), policy, 1000)
    for i, (shape, rest) in enumerate(holders):
        line.submit(Request(f"h{i}", (i,), shape._replace(span=NEVER)))
        for start in line.run(1000).starts:
            held = line.calendar.held[start.uid]
            line.calendar.hold(start.uid, held._replace(until=1000 + rest))
        line.withdraw(f"h{i}")
    outlook = Outlook(line.scratch, line.calendar, 1000)
    for i, (shape, wish) in enumerate(wishes):
        after = max(1000, 1000 + (wish if delay else 0))
        model = Model(found, line.calendar.held, dict(outlook.kept), 1000)
        slot = outlook.earliest(shape, after, line.table.selected(shape.node_selector))
        assert (None if slot is None else slot.start) == model.earliest(shape, after)
        if slot is None or slot.start == 1000:
            continue
        promise = outlook.keep_slot(f"p{i}", slot, shape)
        kept = Model(found, line.calendar.held, dict(outlook.kept), 1000)
        at = [promise.start, *(p.start for p in outlook.kept.values())]
        assert all(min(kept.room(node, t)) >= 0 for t in at for node, _ in promise.slices)
