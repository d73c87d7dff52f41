"""Networks that are cut between holders and the API server, and the order of what follows, from the record.

In a test a dozen at random; `python -m tests.cluster.sdk_cuts --runs 200 --seed 7` runs more, and prints the
order of each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.harness import SMALL, Stage, ThreadOperator, finished, stage_on
from tests.faults.proxy import BlackHole, Drop, FaultProxy, Hold, Status, Truncate

from leasehold.core.times import parse_time
from leasehold.sdk import Client, LeaseLost
from leasehold.sdk.holding import USABLE_GRACE
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.nodes import SimulatedNodes

HEARTBEAT = 14
AT_ONCE = 10
PATIENCE = 60.0


@dataclass
class Cut:
    """One run: what was cut, when the holder stopped, and when the operator began to take back (ms, its clock)."""

    fault: str
    liveness: str
    grace: int
    cause: str = ""
    taken: str = ""
    stopped: int = 0
    reclaimed: int = 0

    @property
    def ahead(self) -> int:
        """By how much the holder was ahead (ms)."""
        return self.reclaimed - self.stopped

    def __str__(self) -> str:
        what = f"{self.fault:20} {self.liveness:8} grace {self.grace} s"
        return f"{what}: {self.cause}, {self.ahead} ms before the operator ({self.taken})"


def anything(dice: random.Random) -> Any:
    return dice.choice(
        [
            BlackHole(),
            BlackHole(after=True),
            Drop(),
            Drop(after=True),
            Status(503),
            Status(429, retry_after=1),
            Truncate(),
            Hold(after=True),
        ]
    )


def nothing_passes(dice: random.Random) -> Any:
    """A fault that lets no request through, so that the operator hears nothing of the holder, not even its farewell."""
    return dice.choice([BlackHole(), Drop(), Status(503), Status(429, retry_after=1)])


async def run_one(
    stage: Stage, operator: ThreadOperator, pool: str, grace: int, folder: Path, dice: random.Random
) -> Cut:
    """Hold a lease through a proxy, let the network flap, and cut it for good."""
    upstream = stage.control_plane.connection
    fault = nothing_passes(dice) if dice.random() < 0.8 else anything(dice)
    cut = Cut(fault.name, dice.choice(["Session", "Session", "Renew"]), grace)
    with FaultProxy(upstream, random.Random(dice.random())) as proxy:
        config = proxy.kubeconfig(folder / f"{dice.getrandbits(64):x}.kubeconfig")
        async with Client(kubeconfig=config, namespace=stage.namespace) as sdk:
            name = ""
            try:
                async with asyncio.timeout(PATIENCE):
                    async with sdk.lease(
                        pool=pool, cpu="10m", duration=dice.choice(["20s", "10m"]), liveness=cut.liveness
                    ) as lease:
                        name = lease.name
                        await asyncio.sleep(dice.uniform(0, 3))
                        flap = proxy.add(anything(dice), chance=dice.uniform(0, 0.3))
                        await asyncio.sleep(dice.uniform(0, 3))
                        flap.lift()
                        rule = proxy.add(fault)
                        proxy.cut_watches()
                        if grace * 1000 >= USABLE_GRACE and dice.random() < 0.6:
                            # Taken back while nobody can tell the holder. Shorter graces promise nothing there.
                            await asyncio.sleep(dice.uniform(0, 2))
                            await asyncio.to_thread(stage.annotate, name, revoke="maintenance")
                        await asyncio.sleep(PATIENCE)
            except LeaseLost as lost:
                cut.stopped, cut.cause = operator.controller.clock.now(), str(lost.cause)
            over = await asyncio.to_thread(stage.until, name, finished, PATIENCE)
            cut.reclaimed = parse_time(over["status"]["release"]["startTime"])
            cut.taken = over["status"]["release"]["cause"]
            rule.lift()
            proxy.clear()
    return cut


async def run_many(
    stage: Stage, operator: ThreadOperator, folder: Path, count: int, seed: int, graces: tuple[int, ...]
) -> list[Cut]:
    """Run some at a time, until there are so many."""
    dice = random.Random(seed)
    nodes = {grace: SimulatedNodes(stage.kube) for grace in graces}
    pools = {}
    for grace in graces:
        nodes[grace].create(1, SMALL)
        policy = {
            "heartbeatTimeoutSeconds": HEARTBEAT,
            "claimTimeoutSeconds": 30,
            "gracePeriodSeconds": grace,
        }
        pools[grace] = stage.pool(selector=nodes[grace].selector, policy=policy)
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(grace: int, own: random.Random) -> Cut:
        async with limit:
            return await run_one(stage, operator, pools[grace], grace, folder, own)

    try:
        return await asyncio.gather(
            *(one(dice.choice(graces), random.Random(dice.random())) for _ in range(count))
        )
    finally:
        for own in nodes.values():
            own.remove()


def main() -> None:
    """Run them on an API server of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ControlPlane(local=True))
        server.install_crds()
        operator = stack.enter_context(ThreadOperator(server.kubeconfig))
        stage = stack.enter_context(stage_on(server))
        cuts = asyncio.run(run_many(stage, operator, server.directory, asked.runs, asked.seed, (0, 1, 3, 6)))
        for cut in sorted(cuts, key=lambda cut: cut.ahead):
            print(cut)
        late = [cut for cut in cuts if cut.ahead < 0]
        print(f"{len(cuts)} runs, {len(late)} in the wrong order")
        for taken in sorted({cut.taken for cut in cuts}):
            ahead = sorted(cut.ahead for cut in cuts if cut.taken == taken)
            print(f"{taken}: {len(ahead)} times, the holder ahead by {ahead[0]} to {ahead[-1]} ms")
        raise SystemExit(bool(late))


if __name__ == "__main__":
    main()
