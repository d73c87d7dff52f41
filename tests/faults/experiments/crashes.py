"""Operators, the API server and its store, that end or stand still in the middle of what they do."""

from __future__ import annotations

import random
import time

from tests.cluster.harness import POOLS, Object, finished, granted, micro_now, until
from tests.faults.experiment import Arena, Scale, Trial, experiment
from tests.faults.operators import Operator, await_one_leader
from tests.faults.proxy import Drop, FaultProxy, Hold, Status, Strike
from tests.faults.workload import told

from leasehold.testing.processes import wait_until


def story(trial: Trial, pool: str, part: int = 0) -> None:
    """Every kind of write: grants, a wait, a renewal, an expiry, a release, a deletion, a sub-lease."""
    stage = trial.stage
    for i in range(2):
        stage.lease(pool, name=f"kept-{part}-{i}", durationSeconds=3600)
    stage.child(f"kept-{part}-0", name=f"part-{part}", durationSeconds=3600)
    stage.lease(pool, name=f"short-{part}", durationSeconds=1)
    stage.lease(pool, name=f"pair-{part}", count=2, durationSeconds=1, ttlSecondsAfterFinished=0)
    stage.lease(pool, name=f"waits-{part}", cpu="4", durationSeconds=1)


def give_back(trial: Trial, part: int) -> None:
    """Release what the story would keep for long, its sub-lease first; hand one over, and release it a story later."""
    for name in (f"part-{part}", f"kept-{part}-1"):
        trial.stage.until(name, granted, 60)
    trial.stage.change(f"kept-{part}-0", desiredState="Released")
    trial.stage.change(f"kept-{part}-1", holder={"identity": "next"})
    if part:
        trial.stage.change(f"kept-{part - 1}-1", desiredState="Released")


def _writes_without_faults(arena: Arena) -> int:
    with arena.trial() as trial:
        proxy = trial.proxy()
        pool = trial.pool(2)
        story(trial, pool)
        trial.operator("a", proxy)
        trial.stage.until("kept-0-0", granted)
        trial.finish()
        return proxy.writes
    raise AssertionError("the run without faults failed")


@experiment(1, "operator killed before and after each write", "granted once, nothing lost, same end")
def kill_at_each_write(arena: Arena, scale: Scale, dice: random.Random) -> None:
    if scale.long:
        total = _writes_without_faults(arena)
        for number in range(1, total + 1):
            for after in (False, True):
                with arena.trial() as trial:
                    proxy = trial.proxy()
                    pool = trial.pool(2)
                    story(trial, pool)
                    _kill_once(trial, proxy, trial.operator("a", proxy), number, after=after)
        return
    with arena.trial() as trial:
        proxy = trial.proxy()
        pool = trial.pool(3)
        operator = trial.operator("a", proxy, start=False)
        # The first writes of a life, then a sample: 4 is about the first grant, and from 8 on leases end.
        numbers = [1, *sorted(dice.sample(range(2, 14), 4))]
        for part, number in enumerate(numbers):
            story(trial, pool, part)
            if not part:
                operator.start()
            _kill_once(trial, proxy, operator, proxy.writes + number, after=bool(part % 2))
            give_back(trial, part)


def _kill_once(trial: Trial, proxy: FaultProxy, operator: Operator, number: int, *, after: bool) -> None:
    """Kill at a write. A run has sometimes a write less than another: then nothing was delivered, and none counts."""
    begun = proxy.writes
    rule = proxy.on_write(number, Strike(operator.crash, after=after))
    # An operator that is still starting writes nothing: that it is idle counts from its first write on.
    wait_until(lambda: rule.delivered > 0 or (begun < proxy.writes < number and _idle(proxy)), 20)
    rule.lift()
    if rule.delivered:
        trial.deliver(1, f"killed {'after' if after else 'before'} write {number}")


def _idle(proxy: FaultProxy) -> bool:
    writes = [call.time for call in list(proxy.calls) if call.write]
    return bool(writes) and time.monotonic() - writes[-1] > 3


@experiment(2, "operator killed again and again under load", "nothing twice, nothing lost, nothing grows")
def kill_storm(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial(patience=60) as trial:
        pools = [trial.pool(2), trial.pool(2, selector={"matchLabels": {"no": "node"}})]
        operator = trial.operator("a")
        recovery: list[float] = []
        seconds = scale.pick(10, 300)
        end = time.monotonic() + seconds
        with trial.churn(pools[:1], dice, per_second=12, most=scale.pick(80, 1500), later=0.2):
            while time.monotonic() < end:
                begun = time.monotonic()
                if dice.random() < 0.5:
                    operator.await_leading()
                    recovery.append(time.monotonic() - begun)
                time.sleep(dice.uniform(0.2, scale.pick(1.0, 3.0)))
                operator.crash()
                trial.deliver()
                until(lambda: operator.running(), "it is started again")
        operator.await_leading()
        recovery.sort()
        if recovery:
            at = recovery[int(len(recovery) * 0.95)] if len(recovery) > 1 else recovery[0]
            trial.outcome.notes.append(f"{trial.outcome.delivered} kills; start to leading, p95: {at:.1f} s")
        pool = trial.stage.kube.get(POOLS, pools[0])["metadata"]
        if len(pool["finalizers"]) > 2 or len(pool.get("annotations", {})) > 1:
            trial.violate(f"the pool grew: {pool}")


@experiment(3, "API server killed and started again", "nobody loses what was told before or after")
def api_server_crash(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial(patience=60) as trial:
        pool = trial.pool(2)
        operator = trial.operator("a").await_leading()
        with trial.churn([pool], dice, per_second=15, most=scale.pick(80, 600)):
            for _ in range(scale.pick(1, 6)):
                time.sleep(dice.uniform(1, 3))
                trial.control_plane.kill_apiserver()
                trial.deliver(1, "API server killed")
                time.sleep(dice.uniform(0, scale.pick(1, 4)))
                trial.control_plane.restart_apiserver()
                trial.stage.kube.close()
            time.sleep(1)
        late = trial.stage.served_again(pool, durationSeconds=1)
        trial.stage.until(late, lambda lease: bool(lease.get("status")), 40)
        trial.outcome.notes.append(f"the operator ended by itself {len(operator.ends)} times")


@experiment(13, "etcd stands still; answers are 504", "unknown is looked up, never written twice")
def etcd_pause(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial(patience=60) as trial:
        _store_away(trial, dice, scale)
    with arena.trial() as trial:
        _unknown_is_not_no(trial, dice)
    for after in (False, True):
        with arena.trial() as trial:
            proxy = trial.proxy(dice)
            pool = trial.pool(2)
            trial.operator("a", proxy).await_leading()
            writes = ["patch", "put"]
            rule = proxy.add(Status(504, after=after), verbs=writes, where=lambda c: c.ours, chance=0.3)
            with trial.churn([pool], dice, per_second=15, most=scale.pick(30, 200)):
                time.sleep(scale.pick(2, 30))
            trial.deliver(rule.delivered, f"504 {'after' if after else 'before'} it was written")


def _store_away(trial: Trial, dice: random.Random, scale: Scale) -> None:
    """Meanwhile a holder's heartbeat falls due, which it could not send; a term that began before it ends as told."""
    stage, proxy = trial.stage, trial.proxy(dice)
    pool = trial.pool(3, leasePolicy={"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 7})
    # An election that outlasts the shortest pause, so that the leader is out of touch and goes on.
    operator = trial.operator("a", proxy, election_seconds=15).await_leading()
    unhealthy = 0
    silent = stage.lease(pool, liveness="Renew", durationSeconds=3600)
    stage.until(silent, granted)
    with trial.churn([pool], dice, per_second=12, most=scale.pick(50, 300)):
        for seconds in scale.pick((9,), (9, 40, 90)):
            # It ends soon after the outage, when that is known: an end that falls into one is decided before.
            ends = stage.lease(pool, durationSeconds=seconds + 4, priority=9)
            stage.until(ends, granted)
            renewed = micro_now()
            stage.change(silent, renewTime=renewed)
            stage.until(silent, lambda found, text=renewed: _heard(found, text))
            trial.control_plane.pause_etcd()
            try:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    unhealthy += operator.page("/healthz")[0] not in (200, 0)
                    time.sleep(0.5)
            finally:
                trial.control_plane.resume_etcd()
            trial.deliver(1, f"etcd paused for {seconds} s")
            witness = stage.served_again(pool, durationSeconds=6, priority=9)
            found = stage.until(
                silent, lambda lease: finished(lease) or "amnestyTime" in lease["status"]["deadlines"]
            )
            if finished(found):
                trial.violate("silence: a holder that nobody could hear was taken for dead")
            while not finished(stage.get(witness)):
                stage.renew(silent)  # it is heard again, and has no more than its usual time
                time.sleep(0.5)
            if not finished(stage.get(ends)):
                trial.violate("absolute end: a lease outlived one that was to end more than 2 s after it")
    if unhealthy:
        trial.violate("the liveness probe failed while only the store was away")


def _heard(lease: Object, renewed: str) -> bool:
    return bool((lease["status"].get("renewal") or {}).get("observedRenewTime") == renewed)


def _unknown_is_not_no(trial: Trial, dice: random.Random) -> None:
    """A commit whose answer is lost, a grant that is told to have failed and comes late, an end that takes its time."""
    stage, proxy = trial.stage, trial.proxy(dice)
    pool = trial.pool(1)
    trial.operator("a", proxy).await_leading()
    lost = proxy.add(Drop(after=True), verbs=["patch"], where=lambda call: bool(call.entries()), times=1)
    first = stage.lease(pool, cpu="4", durationSeconds=1)
    uid = stage.until(first, finished)["metadata"]["uid"]
    sequences = {e["sequence"] for call in list(proxy.calls) for e in call.entries() if e["uid"] == uid}
    if len(sequences) != 1:
        trial.violate(f"committed twice: a commit whose answer was lost was made again: {sorted(sequences)}")

    late = proxy.add(Hold(code=504), verbs=["put"], name="slow", where=lambda c: "allocation" in c.status())
    stage.lease(pool, name="slow", cpu="4")
    proxy.await_delivered(late, 2)
    stage.lease(pool, name="other", cpu="4", priority=9)
    stage.until("other", told)
    count = late.delivered + 2
    until(lambda: late.delivered >= count or granted(stage.get("other")), "it is tried again")
    if granted(stage.get("other")):
        trial.violate("committed twice: room was lent again while its grant might still be written")
    late.lift()
    stage.until("slow", granted)

    ending = proxy.add(Hold(), verbs=["put"], name="slow", where=lambda c: "release" in c.status())
    stage.change("slow", desiredState="Released")
    proxy.await_delivered(ending)
    stage.lease(pool, name="third", cpu="4")
    stage.until("third", told)
    ending.lift()
    stage.until("other", granted)
    for rule, what in ((lost, "answer of a commit lost"), (late, "504, and late"), (ending, "end held back")):
        trial.deliver(rule.delivered, what)
    for name in ("other", "third"):
        stage.change(name, desiredState="Released")


@experiment(28, "event loop blocked", "the election goes on, or leadership is lost and fenced")
def blocked_loop(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for seconds in scale.pick((4,), (1, 4, 8, 30)):
        with arena.trial(patience=60) as trial:
            pool = trial.pool(2)
            hooked = {"FAULTS_BLOCK_SECONDS": str(seconds)}
            blocked = trial.operator("a", environment=hooked, program="tests.faults.hooks").await_leading()
            other = trial.operator("b")
            until(other.ready, "the standby is ready")
            with trial.churn([pool], dice, per_second=12, most=40):
                time.sleep(1)
                blocked.block()
                trial.deliver(1, f"event loop blocked for {seconds} s")
                time.sleep(seconds + 1)
            await_one_leader(blocked, other)
            trial.outcome.notes.append(
                f"blocked {seconds} s: {'kept' if blocked.leads() else 'lost'} the lead"
            )
