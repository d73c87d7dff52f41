"""Operators that are killed, deposed, restarted, cut off, and misled by clocks. Nothing is lent twice or lost."""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest
from tests.cluster.harness import (
    LEASES,
    POOLS,
    SMALL,
    ProcessOperator,
    Record,
    Stage,
    ThreadOperator,
    condition,
    finished,
    granted,
    holding,
    is_,
    nodes_of,
    until,
)

from leasehold.adapters.clock import SteadyClock
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.kubeconfig import Connection
from leasehold.testing.processes import wait_until

ROUNDS = 6
QUICK = 30.0
"""Seconds a stop may take on a busy machine: about 2 where nothing else runs, and Kubernetes gives so many."""
"""How often the operator is killed while it grants."""


def test_killed_again_and_again_while_it_grants(bare: Stage) -> None:
    bare.nodes.create(5, SMALL)
    allocatable = dict.fromkeys(bare.nodes.names, SMALL.resources())
    pool = bare.pool(wait="")
    record = Record(bare)
    dice = random.Random(20261122)
    kills = 0
    for round_ in range(ROUNDS):
        operator = ProcessOperator(bare.control_plane, writers=dice.choice((1, 4, 24)), election_seconds=60)
        with operator:
            for i in range(10):
                bare.lease(pool, name=f"l{round_}-{i}", durationSeconds=1 if i % 2 else 4)
            operator.wait_ready()
            seen = len(record.revisions)
            wait_until(lambda seen=seen: len(record.revisions) > seen + dice.randrange(12), 2, 0.001)
            time.sleep(dice.random() * 0.05)
            assert operator.child.running()
            operator.child.kill()
            kills += 1
    assert kills >= 5
    with ProcessOperator(bare.control_plane, election_seconds=60) as operator:
        operator.wait_ready()
        for round_ in range(ROUNDS):
            for i in range(10):
                over = bare.until(f"l{round_}-{i}", finished, 40)
                assert condition(over, "Finished")["reason"] == "Expired"
                assert len(nodes_of(over)) == 1
        quiet = bare.until_pool(pool, lambda o: not o["status"]["ledger"]["inFlight"])
        assert quiet["status"]["ledger"]["epoch"] == ROUNDS + 1
        assert is_("LedgerConsistent")(quiet)
        record.close()
    record.check(allocatable)


def test_what_was_held_before_a_restart_counts_after_it(bare: Stage) -> None:
    bare.nodes.create(2, SMALL)
    pool = bare.pool(wait="")
    with ThreadOperator(bare.control_plane.kubeconfig):
        held = [bare.lease(pool, cpu="3") for _ in range(2)]
        before = [bare.until(lease, granted)["status"] for lease in held]
    with ThreadOperator(bare.control_plane.kubeconfig):
        late = bare.lease(pool, cpu="3")
        bare.until(late, is_("Allocated", "False", "WaitingForCapacity"))
        assert [bare.get(lease)["status"] for lease in held] == before, "a restart rewrites nothing"
        bare.change(held[0], desiredState="Released")
        bare.until(late, granted)


def test_commitments_of_an_earlier_operator_are_finished_or_undone(bare: Stage) -> None:
    first, second = bare.nodes.create(2, SMALL)
    pool = bare.pool(wait="")
    kept, changed = bare.lease(pool, cpu="3"), bare.lease(pool, cpu="4")
    uids = {name: bare.get(name)["metadata"]["uid"] for name in (kept, changed)}

    def entry(uid: str, name: str, sequence: int, cpu: str, node: str) -> dict[str, object]:
        return {
            "uid": uid,
            "namespace": bare.namespace,
            "name": name,
            "sequence": sequence,
            "resources": {"cpu": cpu},
            "nodes": [node],
        }

    rows = [
        entry(uids[kept], kept, 40, "3", first),
        entry(uids[changed], changed, 41, "2", second),
        entry("00000000-0000-0000-0000-000000000000", "gone", 42, "1", second),
    ]
    ledger = {"ledger": {"epoch": 7, "sequence": 42, "inFlight": rows}}
    bare.kube.patch(POOLS, pool, {"status": ledger}, subresource="status")
    with ThreadOperator(bare.control_plane.kubeconfig):
        adopted = bare.until(kept, granted)
        assert adopted["status"]["fencingToken"] == 40
        assert nodes_of(adopted) == [first]
        assert condition(adopted, "Allocated")["reason"] == "Adopted"
        anew = bare.until(changed, granted)
        assert anew["status"]["fencingToken"] > 42
        assert nodes_of(anew) == [second]
        clean = bare.until_pool(pool, lambda o: o["status"]["ledger"]["inFlight"] == [])
        assert clean["status"]["ledger"]["epoch"] == 8


def test_a_higher_epoch_is_believed_and_after_a_pause_taken_over(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    pool = bare.pool(wait="")
    operator = ProcessOperator(bare.control_plane)
    with operator:
        operator.wait_ready()
        bare.kube.patch(POOLS, pool, {"status": {"ledger": {"epoch": 99}}}, subresource="status")
        lease = bare.lease(pool)
        bare.until(lease, granted)
        assert bare.kube.get(POOLS, pool)["status"]["ledger"]["epoch"] == 100
        assert any("epoch 99" in line["message"] for line in operator.lines())
        assert operator.child.running(), "a replica that is overtaken stands by"


def test_a_stop_that_is_asked_for_is_quick_and_clean(bare: Stage) -> None:
    bare.nodes.create(10, SMALL)
    pool = bare.pool(wait="")
    operator = ProcessOperator(bare.control_plane, writers=2)
    with operator:
        operator.wait_ready()
        names = [bare.lease(pool) for _ in range(40)]
        bare.until(names[0], granted)
        operator.child.signal(signal.SIGTERM)
        until(lambda: not operator.child.running(), "the operator ends", QUICK)
        assert operator.child.returncode() == 0, operator.child.log_tail(40)
    in_flight = {row["name"] for row in bare.kube.get(POOLS, pool)["status"]["ledger"].get("inFlight", ())}
    for lease in bare.kube.list(LEASES, bare.namespace):
        whole = granted(lease) == bool(holding(lease)) == is_("Ready")(lease)
        assert whole or lease["metadata"]["name"] in in_flight


def test_a_stop_while_the_api_server_is_away(arena: ControlPlane) -> None:
    nowhere = arena.write_kubeconfig(Connection(url="https://127.0.0.1:1", ca=arena.connection.ca, token="x"))
    operator = ProcessOperator(arena, kubeconfig=nowhere)
    with operator:
        until(lambda: "waiting for the API server" in operator.log.read_text(), "it tries")
        operator.child.signal(signal.SIGTERM)
        until(lambda: not operator.child.running(), "the operator ends", QUICK)
        assert operator.child.returncode() == 0, operator.child.log_tail(40)


def test_an_api_server_that_restarts_and_forgot_the_watched_version(bare: Stage) -> None:
    bare.nodes.create(2, SMALL)
    pool = bare.pool(wait="")
    with ThreadOperator(bare.control_plane.kubeconfig) as operator:
        held = bare.lease(pool, cpu="3")
        short = bare.lease(pool, cpu="3", durationSeconds=1)
        bare.until(held, granted)
        bare.until(short, granted)
        relists = operator.controller.informers["capacityleases"].relists
        for i in range(20):  # revisions that the watch of leases does not hear of
            bare.kube.create(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": f"revision-{i}", "namespace": bare.namespace},
                }
            )
        bare.control_plane.kill_apiserver()
        bare.control_plane.restart_apiserver()
        bare.kube.close()
        bare.until(short, finished)
        late = bare.served_again(pool, cpu="3")
        bare.until(late, granted)
        assert is_("Ready")(bare.get(held))
        until(
            lambda: operator.controller.informers["capacityleases"].relists > relists,
            "the leases were listed anew",
        )
        until(operator.ready, "the operator is ready again")
        status, _ = operator.page("/healthz")
        assert status == 200


def test_a_frozen_store_delays_and_loses_nothing(bare: Stage) -> None:
    bare.nodes.create(2, SMALL)
    pool = bare.pool(wait="")
    with ThreadOperator(bare.control_plane.kubeconfig):
        names = [bare.lease(pool) for _ in range(8)]
        bare.control_plane.pause_etcd()
        thaw = threading.Timer(2, bare.control_plane.resume_etcd)
        thaw.start()
        try:
            for name in names:
                bare.until(name, granted)
        finally:
            thaw.join()


def test_a_wall_clock_that_jumps_ends_no_lease(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    pool = bare.pool(wait="")
    jump = [0.0]
    clock = SteadyClock(wall=lambda: time.time() + jump[0])
    with ThreadOperator(bare.control_plane.kubeconfig, clock) as operator:
        lease = bare.lease(pool, durationSeconds=60)
        bare.until(lease, granted)
        jump[0] = 86_400
        bare.settled(lease, is_("Ready"), 1)
        _, page = operator.page("/metrics")
        drift = next(line for line in page.splitlines() if line.startswith("leasehold_clock_drift_seconds"))
        assert float(drift.split()[1]) == pytest.approx(86_400, abs=5)
        jump[0] = -86_400
        late = bare.lease(pool, durationSeconds=1)
        bare.until(late, finished)


def test_a_clock_ahead_of_the_api_servers_is_held_back(bare: Stage) -> None:
    bare.nodes.create(1, SMALL)
    pool = bare.pool(wait="")
    with ThreadOperator(bare.control_plane.kubeconfig):
        lease = bare.lease(pool, durationSeconds=600)
        bare.until(lease, granted)
    ahead = SteadyClock(wall=lambda: time.time() + 3600)
    with ThreadOperator(bare.control_plane.kubeconfig, ahead) as operator:
        assert abs(operator.controller.clock.now() / 1000 - time.time()) < 5
        bare.settled(lease, is_("Ready"), 1)


def test_leases_and_pools_that_went_while_no_operator_ran(bare: Stage) -> None:
    bare.nodes.create(2, SMALL)
    pool, gone = bare.pool(wait=""), bare.pool(selector={"matchLabels": {"no": "node"}}, wait="")
    with ThreadOperator(bare.control_plane.kubeconfig):
        leases = [bare.lease(pool, cpu="4", durationSeconds=seconds) for seconds in (600, 1)]
        for lease in leases:
            bare.until(lease, granted)
    node = nodes_of(bare.get(leases[0]))[0]
    bare.nodes.delete(node)
    bare._remove(POOLS, gone, None)
    with ThreadOperator(bare.control_plane.kubeconfig):
        causes = {bare.until(lease, finished)["status"]["release"]["cause"] for lease in leases}
    assert causes == {"NodeLost", "TermEnded"}


def test_a_pool_that_was_forced_away_ends_what_it_held(bare: Stage) -> None:
    """The way out when an operator is gone for good: lift the pool's finalizers by hand."""
    bare.nodes.create(1, SMALL)
    pool = bare.pool(wait="")
    with ThreadOperator(bare.control_plane.kubeconfig):
        lease = bare.lease(pool)
        bare.until(lease, granted)
        until(lambda: len(bare.kube.get(POOLS, pool)["metadata"]["finalizers"]) == 2, "both finalizers")
    bare.kube.delete(POOLS, pool)
    bare.kube.patch(POOLS, pool, {"metadata": {"finalizers": None}})
    bare.kube.wait_gone(POOLS, pool)
    with ThreadOperator(bare.control_plane.kubeconfig):
        over = bare.until(lease, finished)
        assert over["status"]["release"]["cause"] == "PoolDraining"
