"""The task router on real pools, with a real operator."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest
from tests.cluster.harness import (
    LEASES,
    SMALL,
    ProcessOperator,
    Stage,
    finished,
    is_,
    let_hold,
)
from tests.cluster.test_sdk_cancellation import cancel_everywhere

from leasehold.sdk import (
    Client,
    Forbidden,
    Lease,
    LeaseLost,
    LostCause,
    Misuse,
    PoolNotFound,
    Refused,
    WaitTimeout,
)
from leasehold.sdk.router import (
    CircuitRule,
    CircuitState,
    Health,
    Mode,
    Outcome,
    Router,
    Target,
    TaskClass,
)
from leasehold.testing.nodes import NodeShape

PATIENT = {"heartbeatTimeoutSeconds": 300, "gracePeriodSeconds": 0, "claimTimeoutSeconds": 300}
QUICK = CircuitRule(first_pause=0.2, longest_pause=2.0)


def client(stage: Stage, **options: Any) -> Client:
    return Client(**{"kubeconfig": stage.control_plane.kubeconfig, "namespace": stage.namespace, **options})


def pool_on(stage: Stage, nodes: int = 1, shape: NodeShape = SMALL, **spec: Any) -> str:
    """A pool over nodes of its own."""
    name = f"half-{len(stage.pools)}"
    stage.nodes.create(nodes, shape, labels={"half": name})
    selector = {"matchLabels": {**stage.nodes.selector["matchLabels"], "half": name}}
    pool = stage.pool(selector=selector, policy=PATIENT, **spec)
    if spec.get("wait") != "":
        stage.until_pool(pool, lambda found: lends(found) == nodes * int(shape.cpu))
    return pool


def lends(pool: dict[str, Any]) -> int:
    """How much cpu a pool could lend, with all its nodes known."""
    rows = pool.get("status", {}).get("capacity", ())
    return sum(int(row["allocatable"]) for row in rows if row["name"] == "cpu")


async def eventually(test: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    try:
        async with asyncio.timeout(seconds):
            while not (found := test()):
                await asyncio.sleep(0.05)
            return found
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None


def unfinished(stage: Stage) -> list[dict[str, Any]]:
    """Leases that hold, or may come to hold, anything."""
    return [
        found
        for found in stage.kube.list(LEASES, stage.namespace)
        if not finished(found) and "deletionTimestamp" not in found["metadata"]
    ]


async def nothing_left(stage: Stage) -> None:
    try:
        await eventually(lambda: not unfinished(stage), "")
    except AssertionError:
        assert unfinished(stage) == []


@contextlib.asynccontextmanager
async def routing(stage: Stage, *targets: Target | str, **options: Any) -> AsyncIterator[Router]:
    """A router over pools of a stage; at its end it must have left nothing behind."""
    async with client(stage) as sdk:
        made = [target if isinstance(target, Target) else Target(sdk, target) for target in targets]
        async with Router(made, **{"circuit": QUICK, **options}) as router:
            await router.refresh()  # a decision waits a second for this, and then does without
            yield router
            await eventually(lambda: router.under_way == 0, "nothing is under way")
            assert router.waiting == 0
            assert all(state.waiting == state.running == 0 for state in router.targets())
    await nothing_left(stage)


def state_of(router: Router, name: str) -> Any:
    return next(state for state in router.targets() if state.name == name)


# --- where tasks go ---


async def test_a_task_gets_a_lease_where_there_is_room_and_hooks_hear_how_it_went(stage: Stage) -> None:
    small, large = pool_on(stage), pool_on(stage, nodes=3)
    heard: list[tuple[str, Outcome]] = []

    async def slowly(lease: Lease, outcome: Outcome) -> None:
        await asyncio.sleep(0)
        heard.append(("slowly", outcome))

    def badly(lease: Lease, outcome: Outcome) -> None:
        raise RuntimeError("a hook that fails harms nothing")

    hooks = [badly, lambda lease, outcome: heard.append((lease.name, outcome)), slowly]
    async with routing(stage, small, large, on_release=hooks) as router:
        async with router.lease(cpu=3, duration="10m") as lease:
            assert lease.pool == large
            assert router.under_way == 1
            assert state_of(router, large).running == 1
        await eventually(lambda: len(heard) == 2, "both hooks ran")
        (name, outcome), (_, again) = heard
        assert name == lease.name
        assert outcome == again
        assert (outcome.target, outcome.error, outcome.lost) == (large, None, False)
        assert outcome.held >= 0 <= outcome.waited
        found = state_of(router, large)
        assert (found.health, found.circuit, found.reason) == (
            Health.HEALTHY,
            CircuitState.CLOSED,
            "Serving",
        )


async def test_two_hundred_tasks_share_two_pools_within_their_bounds(stage: Stage) -> None:
    pools = pool_on(stage, nodes=2), pool_on(stage, nodes=2)
    held: Counter[str] = Counter()
    most: Counter[str] = Counter()
    served: Counter[str] = Counter()
    classes = {"batch": TaskClass(limit=6), "live": TaskClass(weight=3)}

    async def work(lease: Lease, task_class: str) -> None:
        for name in ("all", lease.pool, task_class):
            held[name] += 1
            most[name] = max(most[name], held[name])
            served[name] += 1
        await asyncio.sleep(0.02)
        lease.check()
        for name in ("all", lease.pool, task_class):
            held[name] -= 1

    async with client(stage) as sdk:
        targets = [Target(sdk, pools[0], concurrency=7), Target(sdk, pools[1])]
        async with (
            routing(stage, *targets, concurrency=14, classes=classes) as router,
            asyncio.TaskGroup() as group,
        ):
            for number in range(200):
                task_class = "live" if number % 4 == 0 else "batch"
                group.create_task(
                    router.run(
                        lambda lease, task_class=task_class: work(lease, task_class),
                        cpu=1,
                        duration="10m",
                        task_class=task_class,
                    )
                )
    assert served["all"] == 200
    assert most["all"] <= 14
    assert most[pools[0]] <= 7
    assert most["batch"] <= 6
    assert min(served[pool] for pool in pools) >= 20


async def test_where_nothing_is_free_the_pool_that_says_the_earliest_start_is_asked(stage: Stage) -> None:
    pools = pool_on(stage), pool_on(stage)
    async with routing(stage, *pools) as router, client(stage) as others:
        late = await others.acquire(pool=pools[0], cpu=4, duration="3h", liveness="None")
        soon = await others.acquire(pool=pools[1], cpu=4, duration="5m", liveness="None")
        offers = await router.quote(cpu=2, duration="1m")
        assert [offer.target for offer in offers] == [pools[1], pools[0]]
        assert offers[0].start_in is not None
        waiting = asyncio.create_task(router.run(pool_of, cpu=2, duration="1m"))
        await eventually(lambda: state_of(router, pools[1]).waiting == 1, "it waits at the second")
        await soon.release()
        assert await waiting == pools[1]
        await late.release()


async def pool_of(lease: Lease) -> str:
    return lease.pool


async def test_a_key_sticks_to_its_pool_and_leaves_it_only_while_it_is_sick(stage: Stage) -> None:
    pools = pool_on(stage, nodes=3), pool_on(stage, nodes=3)
    keys = [f"customer-{i}" for i in range(20)]  # all of them have one home once in 500,000 runs
    async with routing(stage, *pools, mode="sticky") as router:

        async def homes() -> dict[str, str]:
            found = await asyncio.gather(*(router.run(pool_of, cpu=1, sticky=key) for key in keys))
            return dict(zip(keys, found, strict=True))

        before = await homes()
        assert set(before.values()) == set(pools)
        assert await homes() == before
        stage.change_pool(pools[0], stopPolicy="Hold")
        await asyncio.to_thread(stage.until_pool, pools[0], is_("Ready", "False"))
        await router.refresh()
        assert set((await homes()).values()) == {pools[1]}
        stage.change_pool(pools[0], stopPolicy="None")
        await asyncio.to_thread(stage.until_pool, pools[0], is_("Ready"))
        await router.refresh()
        assert await homes() == before


async def test_tasks_are_spread_by_weight(stage: Stage) -> None:
    pools = pool_on(stage, nodes=3), pool_on(stage, nodes=3)
    async with client(stage) as sdk:
        targets = [Target(sdk, pools[0], weight=3), Target(sdk, pools[1])]
        async with routing(stage, *targets, mode=Mode.SPREAD) as router, contextlib.AsyncExitStack() as stack:
            for _ in range(8):
                await stack.enter_async_context(router.lease(cpu=1))
            assert [state.running for state in router.targets()] == [6, 2]


# --- what goes wrong ---


async def test_who_waits_at_a_pool_that_falls_sick_goes_elsewhere_and_the_pool_is_used_again(
    stage: Stage,
) -> None:
    pools = pool_on(stage), pool_on(stage)
    async with routing(stage, *pools) as router:
        async with router.lease(cpu=4) as first, router.lease(cpu=4) as second:
            assert {first.pool, second.pool} == set(pools)
            waiting = asyncio.create_task(router.run(pool_of, cpu=4))
            await eventually(lambda: sum(state.waiting for state in router.targets()) == 1, "it waits")
            sick = next(state.name for state in router.targets() if state.waiting)
            well = first if second.pool == sick else second
            stage.change_pool(sick, stopPolicy="Hold")
            await eventually(lambda: state_of(router, well.pool).waiting == 1, "it waits elsewhere")
            found = state_of(router, sick)
            assert (found.health, found.reason) == (Health.SICK, "PoolHeld")
            await well.release()
            assert await waiting == well.pool
        stage.change_pool(sick, stopPolicy="None")
        await asyncio.to_thread(stage.until_pool, sick, is_("Ready"))
        async with router.lease(cpu=4) as third, router.lease(cpu=4) as fourth:
            assert {third.pool, fourth.pool} == set(pools)


async def test_a_lone_sick_pool_is_waited_for_as_long_as_the_caller_says(stage: Stage) -> None:
    pool = pool_on(stage, stopPolicy="Hold", wait="False")
    async with routing(stage, pool) as router:
        with pytest.raises(WaitTimeout, match="grants nothing \\(PoolHeld\\)"):
            async with router.lease(cpu=1, timeout=3):
                raise AssertionError("granted")
        waiting = asyncio.create_task(router.run(pool_of, cpu=1))
        await eventually(lambda: "PoolHeld" in "".join(router.why_waiting()), "it is told why")
        stage.change_pool(pool, stopPolicy="None")
        assert await asyncio.wait_for(waiting, 30) == pool


async def test_leases_that_are_lost_soon_open_the_circuit_and_one_that_is_kept_closes_it(
    stage: Stage,
) -> None:
    pools = pool_on(stage), pool_on(stage)
    rule = CircuitRule(failures=2, first_pause=5, soon=60)
    asked: list[str] = []

    async def revoked(lease: Lease) -> None:
        asked.append(lease.pool)
        stage.annotate(lease.name, revoke="maintenance")
        await asyncio.sleep(60)

    async with client(stage) as sdk:
        targets = [Target(sdk, pools[0], weight=1000), Target(sdk, pools[1])]
        async with routing(stage, *targets, circuit=rule, mode="spread") as router:
            for _ in range(2):
                with pytest.raises(LeaseLost) as caught:
                    await router.run(revoked, cpu=1)
                assert caught.value.cause is LostCause.REVOKED
            assert asked == [pools[0]] * 2
            found = state_of(router, pools[0])
            assert (found.health, found.failures) == (Health.FAILING, 2)
            async with router.lease(cpu=1) as lease:
                assert lease.pool == pools[1]
            await eventually(
                lambda: state_of(router, pools[0]).circuit == CircuitState.HALF_OPEN, "its pause is over"
            )
            async with router.lease(cpu=1) as trial, router.lease(cpu=1) as other:
                assert (trial.pool, other.pool) == pools
            assert state_of(router, pools[0]).circuit == CircuitState.CLOSED


async def test_work_that_may_be_done_again_is_done_elsewhere_when_its_lease_is_lost(stage: Stage) -> None:
    pools = pool_on(stage), pool_on(stage)
    tried: list[str] = []

    async def work(lease: Lease) -> int:
        tried.append(lease.pool)
        if len(tried) == 1:
            stage.annotate(lease.name, revoke="maintenance")  # without notice: the pool has no grace
            await asyncio.sleep(60)
        return 42

    async with routing(stage, *pools) as router:
        assert await router.run(work, cpu=1, retry=True) == 42
        assert sorted(tried) == sorted(pools)
        tried.clear()
        with pytest.raises(LeaseLost):
            await router.run(work, cpu=1)
        assert len(tried) == 1


async def test_an_error_of_the_work_is_no_failure_of_the_pool_and_is_not_tried_again(stage: Stage) -> None:
    pool = pool_on(stage)
    tried = 0

    async def work(lease: Lease) -> None:
        nonlocal tried
        tried += 1
        raise ValueError("of the work")

    async with routing(stage, pool) as router:
        with pytest.raises(ValueError, match="of the work"):
            await router.run(work, cpu=1, retry=True)
        assert tried == 1
        assert state_of(router, pool).failures == 0


async def test_what_one_pool_refuses_another_may_grant_and_what_all_refuse_is_raised(stage: Stage) -> None:
    strict = pool_on(stage, nodes=4, resources=[{"name": "cpu", "max": "1"}])
    free = pool_on(stage)
    async with routing(stage, strict, free) as router:
        async with router.lease(cpu=2) as lease:
            assert lease.pool == free
        assert state_of(router, strict).failures == 0
    async with routing(stage, strict) as router:
        with pytest.raises(Refused) as caught:
            async with router.lease(cpu=2):
                raise AssertionError("granted")
        assert caught.value.reason == "ExceedsPoolMaximum"
        assert state_of(router, strict).health == Health.HEALTHY


async def test_a_pool_whose_nodes_are_too_small_is_left_for_one_with_a_node_for_it(stage: Stage) -> None:
    many_small = pool_on(stage, nodes=4, shape=NodeShape(cpu="1", memory="8Gi"))
    large = pool_on(stage)
    async with routing(stage, many_small, large) as router, client(stage) as others:
        all_of_it = await others.acquire(pool=large, cpu=4)
        waiting = asyncio.create_task(router.run(pool_of, cpu=2, duration="1m"))
        await eventually(lambda: state_of(router, large).waiting == 1, "it waits where it can fit")
        await all_of_it.release()
        assert await asyncio.wait_for(waiting, 30) == large


async def test_a_pool_that_is_not_there_is_passed_over_and_named_where_there_is_no_other(
    stage: Stage,
) -> None:
    pool = pool_on(stage)
    async with routing(stage, pool, "no-such-pool") as router:
        async with router.lease(cpu=1) as lease:
            assert lease.pool == pool
        assert state_of(router, "no-such-pool").health == Health.MISCONFIGURED
    async with routing(stage, "no-such-pool") as router:
        with pytest.raises(PoolNotFound, match="no-such-pool"):
            async with router.lease(cpu=1):
                raise AssertionError("granted")


async def test_a_cluster_that_lets_one_do_nothing_is_passed_over(stage: Stage) -> None:
    """Two identities on one server stand for two clusters."""
    pool, other = pool_on(stage, nodes=4), pool_on(stage)
    nobody = stage.control_plane.kubeconfig_for("nobody-in-particular")
    async with client(stage) as sdk, client(stage, kubeconfig=nobody) as stranger:
        both = routing(stage, Target(stranger, pool), Target(sdk, other))
        async with both as router, router.lease(cpu=1) as lease:
            assert lease.pool == other
        async with routing(stage, Target(stranger, pool)) as router:
            with pytest.raises(Forbidden):
                async with router.lease(cpu=1):
                    raise AssertionError("granted")


async def test_who_may_not_read_pools_is_routed_by_what_they_quote(stage: Stage) -> None:
    full, free = pool_on(stage), pool_on(stage)
    verbs = ["get", "list", "watch", "create", "patch", "delete"]
    mine = await asyncio.to_thread(let_hold, stage.control_plane, "a-tenant", stage.namespace, verbs)
    async with client(stage) as others, client(stage, kubeconfig=mine) as sdk:
        held = await others.acquire(pool=full, cpu=4, duration="1h")
        async with routing(stage, Target(sdk, full), Target(sdk, free)) as router:
            await router.refresh()
            assert state_of(router, free).pool is None
            assert "Could not read pool" in state_of(router, free).message
            assert await router.run(pool_of, cpu=4, duration="1m") == free
            assert [offer.target for offer in await router.quote(cpu=4)] == [free, full]
            await held.release()


async def test_a_key_comes_back_to_its_lease_after_a_crash_and_to_no_other_pool(stage: Stage) -> None:
    pools = pool_on(stage), pool_on(stage, nodes=2)
    async with client(stage) as sdk, Router([Target(sdk, pool) for pool in pools]) as gone:
        before = gone.lease(cpu=1, key="job-17", on_lost=lambda error: None)
        first = await before.__aenter__()
        token = first.token
        others = [await sdk.acquire(pool=first.pool, cpu=1) for _ in range(2)]  # the other is less loaded now
        async with routing(stage, *pools) as router:
            async with router.lease(cpu=1, key="job-17") as lease:
                assert (lease.name, lease.pool) == (first.name, first.pool)
                assert lease.token > token
                lost = await asyncio.wait_for(first.wait_lost(), 30)
                assert isinstance(lost, LeaseLost)
                assert lost.cause is LostCause.HANDED_OVER
            for other in others:
                await other.release()
        with pytest.raises(LeaseLost):
            await before.__aexit__(None, None, None)


async def test_retries_say_what_to_install_where_their_library_is_missing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_on(stage)
    monkeypatch.setitem(sys.modules, "stamina", None)
    async with routing(stage, pool) as router:
        with pytest.raises(Misuse, match=r"pip install leasehold\[router\]"):
            await router.run(pool_of, cpu=1, retry=True)
        assert await router.run(pool_of, cpu=1) == pool


# --- misuse ---


async def test_misuse_says_what_would_be_right(stage: Stage) -> None:
    pool = pool_on(stage)
    with pytest.raises(Misuse, match="needs a target"):
        Router([])
    async with client(stage) as sdk:
        target = Target(sdk, pool)
        for wrong, why in (
            ({"targets": [target, target]}, "Give each a name"),
            ({"mode": "fastest"}, "earliest, least_loaded, spread, sticky"),
            ({"concurrency": 0}, "at least 1"),
        ):
            with pytest.raises(Misuse, match=why):
                Router(**{"targets": [target], **wrong})  # type: ignore[arg-type]
        for wrong in ({"weight": 0}, {"concurrency": 0}):
            with pytest.raises(Misuse):
                Target(sdk, pool, **wrong)  # type: ignore[arg-type]
        router = Router([target])
        with pytest.raises(Misuse, match="not open"):
            await router.run(pool_of, cpu=1)
        async with router:
            for wrong, why in (
                ({}, "Nothing is asked for"),
                ({"cpu": "much"}, "no amount|Write 2"),
                ({"cpu": 1, "task_class": "typo"}, "no class 'typo'"),
                ({"cpu": 1, "pool": pool}, "pool= cannot be chosen here"),
            ):
                with pytest.raises(Misuse, match=why):
                    await router.run(pool_of, **wrong)  # type: ignore[arg-type]
            with pytest.raises(Misuse, match="opened once"):
                await router.__aenter__()
        with pytest.raises(Misuse, match="closed"):
            await router.run(pool_of, cpu=1)
        await nothing_left(stage)


async def test_the_end_of_the_router_is_the_end_of_all_waits_and_not_of_leases_that_are_held(
    stage: Stage,
) -> None:
    pool = pool_on(stage)
    async with client(stage) as sdk:
        async with contextlib.AsyncExitStack() as stack:
            async with Router([Target(sdk, pool)], concurrency=2) as router:
                lease = await stack.enter_async_context(router.lease(cpu=4))
                waits = [asyncio.create_task(router.run(pool_of, cpu=4)) for _ in range(2)]
                await eventually(lambda: (router.under_way, router.waiting) == (2, 1), "both wait")
            found = await asyncio.gather(*waits, return_exceptions=True)
            assert all(isinstance(error, Misuse) and "closed" in str(error) for error in found), found
            assert lease.held
        await nothing_left(stage)


# --- cancellation ---


@pytest.mark.parametrize("seed", range(4))
async def test_cancelled_at_any_moment_a_task_leaves_nothing_behind(stage: Stage, seed: int) -> None:
    """Tasks are cancelled while they wait for their turn, in the pool's queue, while they hold, while they release."""
    pools = pool_on(stage), pool_on(stage)
    chance = Random(seed)
    held = most = 0

    async def work(lease: Lease) -> None:
        nonlocal held, most
        held += 1
        most = max(most, held)
        try:
            await asyncio.sleep(chance.random() * 0.1)
        finally:
            held -= 1

    async with routing(stage, *pools, concurrency=5) as router:
        tasks = [
            asyncio.create_task(router.run(work, cpu=chance.choice([1, 2, 4]), duration="5m"))
            for _ in range(40)
        ]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(chance.random() * 0.03)
            chance.choice(tasks).cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(error is None or isinstance(error, asyncio.CancelledError) for error in found), found
        assert most <= 5
        await nothing_left(stage)
        # Nothing is held any more: the pools are as empty as they were.
        async with router.lease(cpu=4, timeout=30), router.lease(cpu=4, timeout=30):
            pass


async def test_cancelled_at_every_await_a_task_leaves_nothing_behind(stage: Stage) -> None:
    pools = pool_on(stage), pool_on(stage)
    entered = 0

    async def work(lease: Lease) -> None:
        nonlocal entered
        entered += 1
        await asyncio.sleep(0)

    async def once() -> None:
        async with client(stage) as sdk, Router([Target(sdk, pool) for pool in pools]) as router:
            await router.run(work, cpu=4, duration="10m", key="job")
            assert router.under_way == 0

    assert await cancel_everywhere(stage, once) >= 8
    assert entered >= 2, "in the block, and without any cancellation"


async def test_cancelled_while_it_waits_for_its_turn_or_in_the_queue_a_task_leaves_its_place(
    stage: Stage,
) -> None:
    pool = pool_on(stage)
    async with routing(stage, pool, concurrency=2) as router, router.lease(cpu=4):
        queued, waiting = (asyncio.create_task(router.run(pool_of, cpu=4)) for _ in range(2))
        await eventually(lambda: (router.under_way, router.waiting) == (2, 1), "one waits for its turn")
        waiting.cancel()
        await eventually(waiting.cancelled, "it is gone")
        assert router.waiting == 0
        third = asyncio.create_task(router.run(pool_of, cpu=4))
        await eventually(lambda: router.waiting == 1, "another waits for its turn")
        queued.cancel()
        await eventually(lambda: router.waiting == 0, "it has its turn")
        third.cancel()
        await asyncio.wait({queued, third})


# --- two clusters ---


@contextlib.asynccontextmanager
async def two_clusters(
    stage: Stage, bare: Stage, **options: Any
) -> AsyncIterator[tuple[Router, str, str, ProcessOperator]]:
    """Two real control planes, each with an operator of its own; tasks go to the second, as long as it is in use."""
    here = await asyncio.to_thread(pool_on, stage)
    there = await asyncio.to_thread(pool_on, bare, wait="")
    with ProcessOperator(bare.control_plane) as operator:
        await asyncio.to_thread(operator.wait_ready)
        await asyncio.to_thread(
            bare.until_pool, there, lambda found: is_("Ready")(found) and lends(found) == 4
        )
        async with client(stage) as sdk, client(bare) as away:
            targets = [Target(sdk, here, name="here"), Target(away, there, name="there", weight=1000)]
            async with Router(targets, mode="spread", **options) as router:
                await router.refresh()
                yield router, here, there, operator
                await eventually(lambda: router.under_way == 0, "nothing is under way")


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_cluster_that_goes_is_left_for_another_and_used_again_when_it_is_back(
    stage: Stage, bare: Stage, fault: str
) -> None:
    plane = bare.control_plane
    stop, go_on = {
        "killed": (plane.kill_apiserver, plane.restart_apiserver),
        "frozen": (plane.pause_etcd, plane.resume_etcd),
    }[fault]
    async with two_clusters(stage, bare, circuit=QUICK) as (router, here, there, _):
        async with router.lease(cpu=4) as held:
            assert held.pool == there
            waiting = asyncio.create_task(router.run(pool_of, cpu=4))
            await eventually(lambda: state_of(router, "there").waiting == 1, "one waits there")
            await asyncio.to_thread(stop)
            try:
                assert await asyncio.wait_for(waiting, 60) == here, "it is taken back"
                for _ in range(3):
                    assert await asyncio.wait_for(router.run(pool_of, cpu=1), 60) == here
                found = state_of(router, "there")
                assert found.health in (Health.UNREACHABLE, Health.FAILING)
                assert found.message
            finally:
                await asyncio.to_thread(go_on)
            bare.kube.close()
            assert held.held, "an outage costs nobody a lease"
        async with asyncio.timeout(60):
            while await router.run(pool_of, cpu=1) != there:
                await asyncio.sleep(0.2)
        assert state_of(router, "there").health == Health.HEALTHY
        await nothing_left(bare)  # while there is an operator to take it back
    await nothing_left(stage)


async def test_a_cluster_whose_operator_is_gone_is_left_after_some_silence(stage: Stage, bare: Stage) -> None:
    rule = CircuitRule(failures=1, first_pause=60, silence=5.0)
    async with two_clusters(stage, bare, circuit=rule) as (router, here, there, operator):
        assert await router.run(pool_of, cpu=1) == there
        operator.child.kill()
        assert await asyncio.wait_for(router.run(pool_of, cpu=1), 60) == here
        found = state_of(router, "there")
        assert (found.health, found.reason) == (Health.FAILING, "AskFailed")
        assert "Does the operator run?" in found.message
        assert await asyncio.wait_for(router.run(pool_of, cpu=1), 60) == here
    await nothing_left(stage)


# --- the operator ---


async def test_an_operator_that_is_killed_midway_costs_no_task_its_lease_and_no_waiter_its_turn(
    bare: Stage,
) -> None:
    def make() -> list[str]:
        return [pool_on(bare, wait="") for _ in range(2)]

    pools = await asyncio.to_thread(make)
    done: list[str] = []

    async def work(lease: Lease) -> None:
        await asyncio.sleep(0.05)
        lease.check()
        done.append(lease.name)

    with ProcessOperator(bare.control_plane) as first:
        await asyncio.to_thread(first.wait_ready)
        for pool in pools:
            await asyncio.to_thread(bare.until_pool, pool, is_("Ready"))
        async with routing(bare, *pools, concurrency=8) as router, router.lease(cpu=1) as kept:
            tasks = [asyncio.create_task(router.run(work, cpu=2)) for _ in range(24)]
            await eventually(lambda: len(done) >= 3, "some are done")
            first.child.kill()
            with ProcessOperator(bare.control_plane) as second:
                await asyncio.wait_for(asyncio.gather(*tasks), 90)
                assert len(done) == 24
                assert kept.held
                assert second.child.running()
                await kept.release()
                await eventually(lambda: finished(bare.get(kept.name)), "it is given back")
                await nothing_left(bare)  # while there is an operator to take it back
