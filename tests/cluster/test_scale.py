"""Many at once, and a pool that others write to at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.cluster.harness import LEASES, POOLS, SMALL, Record, Stage, granted, is_, until


def test_two_hundred_leases_at_once(stage: Stage) -> None:
    stage.nodes.create(45, SMALL)
    pool = stage.pool()
    record = Record(stage)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: stage.lease(pool), range(200)))

    def held() -> int:
        return sum(map(granted, stage.kube.list(LEASES, stage.namespace)))

    until(lambda: held() == 180, "every core is lent", 60)
    quiet = stage.until_pool(
        pool,
        lambda o: o["status"]["leases"]["held"] == 180 and o["status"]["leases"]["pending"] == 20,
    )
    cpu = next(row for row in quiet["status"]["capacity"] if row["name"] == "cpu")
    assert (cpu["allocated"], cpu["free"]) == ("180", "0")
    assert quiet["status"]["ledger"]["sequence"] == 180, "as many tokens as grants"
    stage.until_pool(pool, lambda o: not o["status"]["ledger"]["inFlight"])
    record.close()
    record.check(dict.fromkeys(stage.nodes.names, SMALL.resources()))


def test_a_pool_that_others_keep_writing_to_still_grants(stage: Stage) -> None:
    """Each foreign write makes a commit fail; the next pass must come by itself, without other news."""
    stage.nodes.create(5, SMALL)
    pool = stage.pool()
    stop = threading.Event()

    def scribble() -> None:
        number = 0
        while not stop.wait(0.005):
            number += 1
            stage.kube.patch(POOLS, pool, {"metadata": {"annotations": {"example.org/n": str(number)}}})

    scribbling = threading.Thread(target=scribble)
    scribbling.start()
    try:
        for _ in range(10):
            stage.until(stage.lease(pool), granted, 30)
    finally:
        stop.set()
        scribbling.join()
    stage.until_pool(pool, is_("LedgerConsistent"))
