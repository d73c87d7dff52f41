"""The SDK for programs of threads."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.harness import LEASES, SESSIONS, SMALL, Stage, finished, until

from leasehold.sdk import LeaseLost, LostCause, Misuse, WaitTimeout
from leasehold.sdk.sync import Client
from leasehold.testing.processes import Child

LIVELY = {"heartbeatTimeoutSeconds": 6, "gracePeriodSeconds": 6, "claimTimeoutSeconds": 30}


def client(stage: Stage, **options: Any) -> Client:
    return Client(kubeconfig=stage.control_plane.kubeconfig, namespace=stage.namespace, **options)


@pytest.fixture
def pool(stage: Stage) -> str:
    stage.nodes.create(1, SMALL)
    return stage.pool(policy=LIVELY)


def test_many_threads_take_turns(stage: Stage, pool: str) -> None:
    with client(stage) as sdk, ThreadPoolExecutor(6) as threads:

        def work(_: int) -> int:
            with sdk.lease(pool=pool, cpu=2, timeout=60) as lease:
                assert lease.held
                lease.check()
                assert lease.nodes
                return lease.token

        tokens = list(threads.map(work, range(6)))
        assert len(set(tokens)) == 6
        assert sum(sdk.requests.values()) > 6
    assert stage.kube.list(SESSIONS, stage.namespace) == []


def test_the_same_names_without_await(stage: Stage, pool: str) -> None:
    with client(stage) as sdk:
        assert sdk.namespace == stage.namespace
        lease = sdk.acquire(pool=pool, cpu=3, duration="10m", memory="1Gi")
        assert sdk.get(lease.name).granted
        assert [view.name for view in sdk.list(pool=pool)] == [lease.name]
        assert "Held" in sdk.explain(lease.name).reason
        assert next(iter(sdk.watch(pool=pool))).lease.name == lease.name
        assert sdk.quote(pool=pool, cpu=1).granted
        assert pool in {view.name for view in sdk.pools()}
        assert sdk.availability(pool).ready
        assert sdk.renew(lease.name).name == lease.name
        lease.renew()
        with lease.sublease(cpu=1) as part:
            assert part.nodes == lease.nodes
            assert part.pool == lease.pool == pool
        with pytest.raises(WaitTimeout):
            sdk.acquire(pool=pool, cpu=3, timeout=0.5)
        assert lease.slices[0].resources["cpu"] == "3"
        assert 0 < lease.remaining() <= 6
        assert lease.namespace == stage.namespace
        assert lease.view is not None
        assert lease.wait_lost(0.01) is None
        with client(stage) as other, other.attach(lease.name) as taken:
            assert taken.token > 0
            lost = lease.wait_lost(30)
            assert isinstance(lost, LeaseLost)
            assert lost.cause is LostCause.HANDED_OVER
        other_lease = sdk.acquire(pool=pool, cpu=1)
        other_lease.hand_over(session=sdk.session(), identity="me")
        sdk.release(other_lease.name)


def test_a_lost_lease_says_so_at_the_next_check_and_at_the_end(stage: Stage, pool: str) -> None:
    told = threading.Event()
    with client(stage) as sdk:
        with (
            pytest.raises(LeaseLost) as caught,
            sdk.lease(pool=pool, cpu=1, on_lost=lambda _: told.set()) as lease,
        ):
            stage.kube.delete(LEASES, lease.name, stage.namespace)
            assert told.wait(20)
            with pytest.raises(LeaseLost):
                lease.check()
            assert lease.lost is not None
            assert lease.remaining() == 0
        assert caught.value.cause is LostCause.DELETED


def test_misuse(stage: Stage, pool: str) -> None:
    sdk = client(stage)
    with pytest.raises(Misuse, match="with Client"):
        sdk.get("x")
    with sdk:
        with pytest.raises(Misuse, match="once"):
            sdk.__enter__()
        # The pool is full: one that is granted at once may have no progress to tell.
        with sdk.lease(pool=pool, cpu=4), pytest.raises(Misuse, match="callback"):
            sdk.acquire(pool=pool, cpu=1, on_progress=lambda _: sdk.get("x"))
    sdk.close()
    with pytest.raises(Misuse, match="closed"):
        sdk.get("x")


INTERRUPTED = textwrap.dedent(
    """
    import sys
    from leasehold.sdk.sync import Client

    kubeconfig, namespace, pool, cpu = sys.argv[1:]
    with Client(kubeconfig=kubeconfig, namespace=namespace) as client:
        print("asking", flush=True)
        tell = lambda progress: print("waits", progress, flush=True)
        with client.lease(pool=pool, cpu=cpu, name="mine", on_progress=tell) as lease:
            print("held", flush=True)
            lease.wait_lost()
    """
)

ABANDONED = textwrap.dedent(
    """
    import sys
    from leasehold.sdk.sync import Client

    kubeconfig, namespace, pool, cpu = sys.argv[1:]
    client = Client(kubeconfig=kubeconfig, namespace=namespace).__enter__()
    lease = client.acquire(pool=pool, cpu=cpu, name="mine")
    print("held", flush=True)
    """
)


def run(stage: Stage, pool: str, cpu: str, program: str, log: Path) -> Child:
    return Child(
        [sys.executable, "-c", program, str(stage.control_plane.kubeconfig), stage.namespace, pool, cpu],
        log=log,
        cwd=Path.cwd(),
        env=dict(os.environ),
    )


@pytest.mark.parametrize(("cpu", "word"), [("1", "held"), ("64", "waits")])
def test_ctrl_c_gives_back(stage: Stage, pool: str, tmp_path: Path, cpu: str, word: str) -> None:
    child = run(stage, pool, cpu, INTERRUPTED, tmp_path / "log")
    try:
        until(lambda: word in child.log_tail(20) or not child.running(), "it has got that far", 30)
        child.signal(signal.SIGINT)
        until(lambda: not child.running(), "it ends", 30)
        assert "KeyboardInterrupt" in child.log_tail(60)
        if word == "held":
            assert finished(stage.until("mine", finished))
        else:
            stage.until_gone("mine")
        assert stage.kube.list(SESSIONS, stage.namespace) == []
    finally:
        child.kill()


def test_an_interpreter_that_ends_with_a_client_open_gives_back(
    stage: Stage, pool: str, tmp_path: Path
) -> None:
    child = run(stage, pool, "1", ABANDONED, tmp_path / "log")
    try:
        until(lambda: not child.running(), "it ends", 60)
        assert "held" in child.log_tail(20), child.log_tail(40)
        stage.until_gone("mine")
        assert stage.kube.list(SESSIONS, stage.namespace) == []
    finally:
        child.kill()
