"""What can be read through the SDK, and how well it says it is."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.cluster.harness import LEASES, SESSIONS, SMALL, Stage, until
from tests.cluster.test_sdk import LIVELY, client, eventually

from leasehold.sdk import LeaseEvent, LeaseLost
from leasehold.sdk.keeper import Keeper
from leasehold.sdk.metrics import prometheus


async def test_what_there_is_and_why(stage: Stage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with (
        client(stage, identity="reader") as sdk,
        sdk.lease(pool=pool, cpu=3, labels={"app": "x"}) as lease,
    ):
        waiting = asyncio.ensure_future(sdk.acquire(pool=pool, cpu=2, name="second"))
        await eventually(lambda: stage.kube.find(LEASES, "second", stage.namespace), "it is asked for")
        await asyncio.to_thread(
            until, lambda: stage.get("second").get("status", {}).get("queue") is not None, "it waits"
        )
        assert {view.name for view in await sdk.list()} == {lease.name, "second"}
        assert [view.name for view in await sdk.list(labels={"app": "x"})] == [lease.name]
        assert len(await sdk.list(identity="reader", pool=pool, all_namespaces=True)) == 2
        explained = await sdk.explain("second")
        assert explained.reason == "WaitingForCapacity"
        assert "number 1" in explained.summary
        await asyncio.to_thread(stage.until_pool, pool, lambda o: o["status"]["leases"]["held"] == 1)
        available = await sdk.availability(pool)
        assert (available.held, available.capacity["cpu"].free) == (1, "1")
        assert available.fits(cpu=1)
        fits = await sdk.quote(pool=pool, cpu=1)
        assert (fits.granted, fits.nodes) == (True, (node,))
        none = await sdk.quote(pool=pool, cpu=64)
        assert not none.granted
        assert none.counter_offer is not None
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await eventually(
            lambda: stage.kube.find(LEASES, "second", stage.namespace) is None, "it is withdrawn"
        )


def ask_again(stage: Stage) -> str:
    with contextlib.suppress(OSError):
        return stage.served_again("none")
    return ""


async def test_a_watch_goes_on_through_a_restart_of_the_api_server(bare: Stage) -> None:
    told: list[LeaseEvent] = []

    async with client(bare) as sdk:

        async def listen() -> None:
            async for event in sdk.watch():
                told.append(event)

        listening = asyncio.ensure_future(listen())
        first = await asyncio.to_thread(bare.lease, "none")
        await eventually(lambda: any(event.lease.name == first for event in told), "it is told of")
        await asyncio.to_thread(bare.control_plane.restart_apiserver)
        second = await eventually(lambda: ask_again(bare), "the API server is there again", 60)
        await asyncio.to_thread(bare._remove, LEASES, first, bare.namespace)
        await eventually(lambda: any(event.lease.name == second for event in told), "the next is told of", 60)
        await eventually(
            lambda: ("DELETED", first) in {(e.kind, e.lease.name) for e in told}, "it is gone", 60
        )
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening


async def test_health_and_metrics_of_a_client(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    registry = CollectorRegistry()
    async with client(stage) as sdk:
        sdk.observe(prometheus(registry))
        assert (await sdk.health()).status == "ok"
        lease = await sdk.acquire(pool=pool, cpu=4)
        waiting = asyncio.ensure_future(sdk.acquire(pool=pool, cpu=2))
        await eventually(lambda: len(stage.kube.list(LEASES, stage.namespace)) == 2, "another waits")
        await asyncio.to_thread(stage.until_pool, pool, lambda o: o["status"]["leases"]["held"] == 1)
        found = await sdk.health([pool, "no-such-pool"], timeout=20)
        assert (found.status, found.http_status) == ("degraded", 200)
        assert found.reasons == ("pool no-such-pool does not lend (NotReadable)",)
        assert {(row.name, row.state) for row in found.leases} >= {(lease.name, "held")}
        assert found.pools[0].free["cpu"] == "0"
        assert found.as_dict()["pools"][0]["ready"]
        stage.annotate(lease.name, revoke="maintenance")
        await eventually(lambda: lease._verdict().state == "Ending", "its end is told")
        assert f"lease {lease.name} is ending" in (await sdk.health()).reasons
        assert isinstance(await lease.wait_lost(), LeaseLost)
        lost = await sdk.health()
        assert (lost.status, lost.http_status) == ("failing", 503)
        await lease.release()
        waiting.cancel()
        await asyncio.wait({waiting})
    text = generate_latest(registry).decode()
    assert f'leasehold_client_wait_seconds_count{{outcome="Granted",pool="{pool}"}} 1.0' in text
    assert f'leasehold_client_wait_seconds_count{{outcome="Cancelled",pool="{pool}"}} 1.0' in text
    assert f'leasehold_client_hold_seconds_count{{outcome="Revoked",pool="{pool}"}} 1.0' in text
    assert "leasehold_client_renew_lag_seconds_count" in text


async def test_sessions_of_the_dead_are_collected_and_those_of_the_living_stay(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage) as sdk, client(stage) as other, other.lease(pool=pool, cpu=1):
        document = stage.kube.get(SESSIONS, other.session(), stage.namespace)
        dead = {"name": "dead-1", "namespace": stage.namespace, "labels": document["metadata"]["labels"]}
        body = {key: document[key] for key in ("apiVersion", "kind", "spec")}
        stage.kube.create({**body, "metadata": dead})
        async with sdk.lease(pool=pool, cpu=1):
            (keeper,) = sdk._keepers.values()
            assert isinstance(keeper, Keeper)

            living = other.session()

            def version() -> str:
                found: str = stage.kube.get(SESSIONS, living, stage.namespace)["metadata"]["resourceVersion"]
                return found

            async def wait(millis: int) -> None:
                assert millis == 2 * 60_000
                before = version()
                await eventually(lambda: version() != before, "the living renews its session")

            await keeper.collect(wait)
        names = {session["metadata"]["name"] for session in stage.kube.list(SESSIONS, stage.namespace)}
        assert names == {sdk.session(), other.session()}


async def test_a_session_goes_with_its_pod(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "worker", "namespace": stage.namespace},
        "spec": {"containers": [{"name": "a", "image": "none"}]},
    }
    account = {"name": "default", "namespace": stage.namespace}
    stage.kube.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    uid = stage.kube.create(pod)["metadata"]["uid"]
    for name, value in (("POD_NAME", "worker"), ("POD_UID", uid), ("POD_NAMESPACE", stage.namespace)):
        monkeypatch.setenv(name, value)
    async with client(stage) as sdk, sdk.lease(pool=pool, cpu=1):
        session = stage.kube.get(SESSIONS, sdk.session(), stage.namespace)
        assert session["metadata"]["ownerReferences"][0]["uid"] == uid
        assert session["spec"]["holderIdentity"].endswith(str(os.getpid()))


async def test_a_session_that_somebody_deletes_is_made_anew_in_time(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={**LIVELY, "gracePeriodSeconds": 20})
    async with client(stage) as sdk, sdk.lease(pool=pool, cpu=1) as lease:
        session = sdk.session()
        stage.kube.delete(SESSIONS, session, stage.namespace)
        await eventually(lambda: stage.kube.find(SESSIONS, session, stage.namespace), "it is there again")
        await asyncio.to_thread(
            stage.until,
            lease.name,
            lambda o: any(
                c["type"] == "HolderLive" and c["status"] == "True" for c in o["status"]["conditions"]
            ),
        )
        assert lease.held


async def test_a_lease_that_arrives_after_it_was_given_up_is_removed(stage: Stage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    async with client(stage) as sdk, sdk.lease(pool=pool, cpu=1):
        stray = {
            "name": "stray",
            "namespace": stage.namespace,
            "labels": {"leasehold.dev/client": sdk.session()},
        }
        spec = {"poolRef": {"name": pool}, "resources": {"cpu": "1"}}
        stage.kube.create(
            {"apiVersion": "leasehold.dev/v1alpha1", "kind": "CapacityLease", "metadata": stray, "spec": spec}
        )
        await eventually(lambda: stage.kube.find(LEASES, "stray", stage.namespace) is None, "it is removed")
