"""Two operators, and doubts about which of them leads."""

from __future__ import annotations

import random
import time

from tests.cluster.harness import LEASES, finished, granted, is_, until
from tests.faults.experiment import SYSTEM, Arena, Scale, Trial, experiment
from tests.faults.operators import Operator, await_one_leader, clock, one_leads
from tests.faults.proxy import Call, Hold, Status, Tell
from tests.faults.workload import told

from leasehold.core.times import format_time


@experiment(8, "two operators that both believe they lead", "nothing twice; they do not fight for long")
def two_actives(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for _ in range(scale.pick(1, 5)):
        with arena.trial() as trial:
            # Nobody renews beyond so much, whoever leads.
            pool = trial.pool(3, leasePolicy={"gracePeriodSeconds": 0, "maxTotalSeconds": 4})
            first = trial.operator("a").await_leading()
            longest = trial.stage.lease(pool, durationSeconds=4)
            trial.stage.until(longest, granted)
            trial.stage.renew(longest)
            trial.stage.until(longest, lambda found: "renewal" in found["status"] or finished(found))
            second = trial.operator("b", election_namespace="default")
            with trial.churn([pool], dice, per_second=15, most=50):
                second.await_leading()
                time.sleep(scale.pick(4, 20))
                trial.deliver(_until_deposed(first, second), "a leader was deposed")
            raised = _epoch(trial, pool)
            if raised > 12:
                trial.violate(f"the epoch was raised {raised} times: they fight")
            second.stop()
            first.crash()  # rather than wait for the end of its growing pause
        with arena.trial() as trial:
            _writes_that_come_after_a_take_over(trial, dice)
        with arena.trial() as trial:
            _take_overs_at_the_same_moment(trial, dice)
        with arena.trial() as trial:
            _a_list_that_is_old_when_it_arrives(trial, dice)
        with arena.trial() as trial:
            _a_renewal_that_comes_after_a_promise(trial, dice)


def _until_deposed(*operators: Operator) -> int:
    """Wait until one that was overtaken has noticed; return how often any did."""
    until(lambda: _deposed(*operators) > 0, "the one that is overtaken notices")
    return _deposed(*operators)


def _deposed(*operators: Operator) -> int:
    return sum(int(one.metric("leasehold_pools_deposed_total") or 0) for one in operators)


def _writes_that_come_after_a_take_over(trial: Trial, dice: random.Random) -> None:
    """A commit, a grant and an end are on their way for long; the next operator has done its own when they arrive."""
    stage, proxy = trial.stage, trial.proxy(dice)
    pool = trial.pool(2)
    first = trial.operator("a", proxy).await_leading()
    ends = stage.lease(pool, name="ends", durationSeconds=2)
    put = {"verbs": ["put"], "resource": "capacityleases", "subresource": "status", "times": 1}
    late = [
        proxy.add(Hold(), name=ends, where=lambda call: "release" in call.status(), **put),
        proxy.add(Hold(), name="grant", **put),
    ]
    stage.until(ends, granted)
    stage.lease(pool, name="grant", cpu="2")
    for rule in late:
        proxy.await_delivered(rule)
    stage.renew(ends)
    late.append(proxy.add(Hold(), verbs=["patch"], where=commits, times=1))
    others = [stage.lease(pool, cpu="1") for _ in range(3)]
    proxy.await_delivered(late[-1])
    second = trial.operator("b", election_namespace="default").await_leading()
    for lease in ("grant", *others):
        stage.until(lease, granted)
    stage.until(ends, lambda lease: lease["status"].get("renewal", {}).get("count", 0) > 0)
    stage.change("grant", desiredState="Released")
    stage.until("grant", finished)
    for rule in late:
        rule.lift()
        trial.deliver(rule.delivered, "a write came after a take-over")
    until(lambda: proxy.let_go == len(late), "what was held back arrives")
    first.kill()
    second.crash()


def _take_overs_at_the_same_moment(trial: Trial, dice: random.Random) -> None:
    """Both have read the same epoch, and both raise it by one; then there is a pool to be filled."""
    proxies = [trial.proxy(dice), trial.proxy(dice)]
    pool = trial.pool(2)
    rules = [
        proxy.add(Hold(), verbs=["patch"], resource="capacitypools", subresource="status", times=1)
        for proxy in proxies
    ]
    first = trial.operator("a", proxies[0])
    second = trial.operator("b", proxies[1], election_namespace="default")
    for proxy, rule in zip(proxies, rules, strict=True):
        proxy.await_delivered(rule)
    leases = [trial.stage.lease(pool, cpu="2", durationSeconds=3) for _ in range(8)]
    for rule in rules:
        rule.lift()
        trial.deliver(rule.delivered, "both took over at the same moment")
    for lease in leases:
        trial.stage.until(lease, finished, 30)
    second.kill()
    first.crash()


def _a_list_that_is_old_when_it_arrives(trial: Trial, dice: random.Random) -> None:
    """A successor's list takes long, and its watch tells nothing: what the first one does meanwhile must not count."""
    stage, proxy = trial.stage, trial.proxy(dice)
    pool = trial.pool(1, stopPolicy="Hold")
    first = trial.operator("a").await_leading()
    stage.lease(pool, name="known", cpu="4")
    stage.until("known", told)
    proxy.freeze("capacityleases")
    listed = proxy.add(
        Hold(after=True), verbs=["list"], resource="capacityleases", where=lambda c: c.selects, times=1
    )
    second = trial.operator("b", proxy, election_namespace="default")
    proxy.await_delivered(listed)
    stage.lease(pool, name="unheard", cpu="4", priority=9)
    stage.change_pool(pool, stopPolicy="None")

    def settled() -> bool:
        ledger = stage.kube.get("cpool", pool)["status"]["ledger"]
        return ledger["epoch"] > 1 or (granted(stage.get("unheard")) and not ledger.get("inFlight"))

    until(settled, "the first one is overtaken, or has granted")
    time.sleep(0.5)  # not for the first one: for the successor to hear what the pool has become
    listed.lift()
    trial.deliver(listed.delivered, "a list was old when it arrived")

    def gone_on() -> bool:
        """The successor grants what it knows, unless the first one took over again before and puts the other first."""
        return granted(stage.get("known")) or (granted(stage.get("unheard")) and _deposed(second) > 0)

    until(gone_on, "the successor goes by its list, or is overtaken")
    first.kill()
    proxy.thaw()
    for name in sorted(("known", "unheard"), key=lambda lease: not granted(stage.get(lease))):
        stage.until(name, granted)
        stage.change(name, desiredState="Released")


def _a_renewal_that_comes_after_a_promise(trial: Trial, dice: random.Random) -> None:
    """The first one's clock leapt ahead: it renews for a live session what its successor finds not due yet."""
    stage, proxy, file = trial.stage, trial.proxy(dice), trial.directory / "ahead"
    file.write_text("0")
    pool = trial.pool(1, leasePolicy={"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 3600})
    hooked = {"FAULTS_CLOCK_AHEAD": str(file)}
    first = trial.operator("a", proxy, environment=hooked, program="tests.faults.hooks").await_leading()
    stage.session("s")
    held = stage.lease(
        pool, cpu="4", durationSeconds=600, liveness="Session", holder={"sessionRef": {"name": "s"}}
    )
    stage.until(held, is_("HolderLive"))
    stage.until_pool(pool, lambda found: not found["status"]["ledger"].get("inFlight"))
    late = proxy.add(Hold(), verbs=["put"], name=held, where=lambda c: "renewal" in c.status())
    file.write_text("450000")
    stage.lease(pool, name="large", cpu="400")  # something to look up for
    proxy.await_delivered(late)
    trial.operator("b", election_namespace="default").await_leading()
    start = format_time(int((time.time() + 700) * 1000))
    stage.lease(pool, name="later", cpu="4", startTime=start, durationSeconds=60)
    stage.until("later", lambda found: "reservation" in (found.get("status") or {}))
    late.lift()
    until(lambda: proxy.let_go == late.delivered, "what was held back arrives")
    trial.deliver(late.delivered, "a renewal came after a promise")
    first.kill()
    for name in (held, "large", "later"):
        stage.change(name, desiredState="Released")


def commits(call: Call) -> bool:
    """A write that puts grants into a pool's ledger, or keeps them there."""
    return bool(call.entries())


def _epoch(trial: Trial, pool: str) -> int:
    return int(trial.stage.kube.get("cpool", pool)["status"]["ledger"]["epoch"])


@experiment(9, "the leader is frozen, and goes on later", "what it writes after the take-over is refused")
def paused_leader(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for _ in range(scale.pick(1, 6)):
        with arena.trial(election_seconds=7) as trial:
            pool = trial.pool(3)
            both = [trial.operator("a").await_leading(), trial.operator("b")]
            until(both[1].ready, "the standby is ready")
            with trial.churn([pool], dice, per_second=12, most=60):
                for _ in range(2):
                    leader, other = sorted(both, key=lambda one: not one.leads())
                    time.sleep(dice.uniform(0.2, 1))
                    _freeze_over_a_take_over(trial, leader, other, dice)
        with arena.trial(election_seconds=7) as trial:
            _frozen_between_commit_and_grant(trial, dice)


def _freeze_over_a_take_over(trial: Trial, leader: Operator, other: Operator, dice: random.Random) -> None:
    leader.freeze()
    begun = time.monotonic()
    other.await_leading(60)
    trial.outcome.notes.append(f"take-over after {time.monotonic() - begun:.1f} s of an election of 7 s")
    time.sleep(dice.uniform(0, 1))
    leader.thaw()
    trial.deliver(1, "frozen over a take-over")
    until(lambda: one_leads(leader, other) and other.leads(), "the frozen one stands by")


def _frozen_between_commit_and_grant(trial: Trial, dice: random.Random) -> None:
    """The worst moment: the pool says what is granted, the leases do not yet. Meanwhile one asks for less.

    Another has lost the finalizer that would keep it.
    """
    stage, proxy = trial.stage, trial.proxy(dice)
    pool = trial.pool(3, stopPolicy="Hold")
    leader = trial.operator("a", proxy).await_leading()
    other = trial.operator("b")
    until(other.ready, "the standby is ready")
    leases = [stage.lease(pool, cpu="2") for _ in range(5)]
    for lease in leases:
        stage.until(lease, told)
    stage.kube.patch(LEASES, leases[1], {"metadata": {"finalizers": None}}, stage.namespace)

    rule = proxy.add(Tell(lambda _: leader.freeze(), after=True), verbs=["patch"], where=commits, times=1)
    stage.change_pool(pool, stopPolicy="None")
    proxy.await_delivered(rule)
    stage.change(leases[0], resources={"cpu": "1"})
    other.await_leading(60)
    for lease in leases:
        stage.until(lease, granted)
    thawed = time.monotonic()
    leader.thaw()
    trial.deliver(rule.delivered, "frozen between commit and grant")
    until(lambda: one_leads(leader, other) and other.leads(), "the frozen one stands by")
    written = [call for call in list(proxy.calls) if call.ours and call.changes and call.time > thawed]
    if written:
        trial.violate(f"right: {len(written)} writes after its time to lead was over, first {written[0]}")


@experiment(10, "only the leader's network is slow", "it steps down before another may begin")
def slow_leader(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for _ in range(scale.pick(1, 5)):
        with arena.trial() as trial:
            proxy = trial.proxy(dice)
            pool = trial.pool(3)
            slow = trial.operator("a", proxy).await_leading()
            other = trial.operator("b")
            until(other.ready, "the standby is ready")
            with trial.churn([pool], dice, per_second=12, most=50):
                time.sleep(1)
                proxy.latency, proxy.jitter = 3.0, 2.0
                other.await_leading()
                if slow.leads():
                    trial.violate("both said that they lead")
                time.sleep(3)
                proxy.latency = proxy.jitter = 0.0
                time.sleep(1)
            trial.deliver(proxy.delivered["slowed"], "requests of the leader slowed")
            await_one_leader(slow, other)


@experiment(
    11, "equal identities; clocks that differ; nobody can be elected", "one leads; none is seen in a metric"
)
def doubtful_elections(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial() as trial:
        pool = trial.pool(2)
        both = [trial.operator("same").await_leading(), trial.operator("same")]
        with trial.churn([pool], dice, per_second=12, most=30):
            time.sleep(scale.pick(3, 20))
        trial.deliver(1, "two operators of one identity")
        await_one_leader(*both)
    for offset in scale.pick(("+90s",), ("+90s", "-90s", "+1h")):
        with arena.trial(slack=2.5, election_seconds=7) as trial:
            pool = trial.pool(2)
            first = trial.operator("a").await_leading()
            skewed = trial.operator("b", environment=clock(offset))
            until(skewed.ready, "the standby is ready")
            with trial.churn([pool], dice, per_second=12, most=30):
                time.sleep(scale.pick(2, 10))
                if not first.leads() or skewed.leads():
                    trial.violate(f"a clock that is off by {offset} changed who leads")
                first.kill()
                skewed.await_leading(60)
                first.start()
                until(first.ready, "it is ready again")
            trial.deliver(1, f"a clock off by {offset}")
            await_one_leader(first, skewed)
    with arena.trial() as trial:
        _nobody_can_be_elected(trial, dice)


def _nobody_can_be_elected(trial: Trial, dice: random.Random) -> None:
    proxy = trial.proxy(dice)
    pool = trial.pool(2)
    both = [trial.operator("a", proxy).await_leading(), trial.operator("b", proxy)]
    until(both[1].ready, "the standby is ready")
    rule = proxy.add(
        Status(503), where=lambda call: call.group == "coordination.k8s.io" and call.namespace == SYSTEM
    )
    until(lambda: sum(one.metric("leasehold_leading") or 0 for one in both) == 0, "nobody says that it leads")
    failures = sum(one.metric("leasehold_election_failures_total") or 0 for one in both)
    if not failures:
        trial.violate("no failure of the election was counted")
    waiting = trial.stage.lease(pool)
    rule.lift()
    trial.deliver(rule.delivered, "requests of the election failed")
    trial.stage.until(waiting, granted)
    await_one_leader(*both)
