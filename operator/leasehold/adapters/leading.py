"""Which pools this replica leads: those of the shards it won. The others it follows, so that it could lead them at
once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from leasehold.adapters.election import Leadership
from leasehold.adapters.follower import Follower
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError
from leasehold.adapters.pool.object import Deposed
from leasehold.adapters.pool.worker import PoolWorker
from leasehold.adapters.tools import Tools
from leasehold.core.election import shard_of
from leasehold.core.neighbours import Heard, level_of
from leasehold.core.outages import Outage
from leasehold.core.policy import PoolPolicy
from leasehold.core.times import SECOND, parse_time

Json = Mapping[str, Any]

LEAST_ABSENCE = SECOND
"""A pool that nobody led for less than this (ms) was not without a leader."""

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 120.0
_CALM_SECONDS = 600.0
_CHANCE = random.Random()

log = logging.getLogger(__name__)


class Pools:
    """Every pool, led or followed. Told of pools by the handlers and of shards by the election.

    `watch` runs a part of the operator in the background, under a name. `chores` are done by whoever leads the first
    shard: work that is no single pool's.
    """

    def __init__(
        self,
        tools: Tools,
        shards: int,
        watch: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        chores: Callable[[Leadership], Iterable[tuple[str, Coroutine[Any, Any, None]]]] = lambda _: (),
    ) -> None:
        self.tools = tools
        self.cluster = tools.cluster
        self.shards = shards
        self.workers: dict[str, tuple[PoolWorker, asyncio.Task[None]]] = {}
        self.followers: dict[str, Follower] = {}
        self.documents: dict[str, Json] = {}
        self.led: dict[int, Leadership] = {}
        self.deposed = 0
        self._absences: dict[int, Outage] = {}
        self._watch = watch
        self._chores = chores
        self._chore_tasks: list[asyncio.Task[None]] = []
        self._listed = False
        self._turn = asyncio.Lock()
        self._defeats: dict[str, tuple[int, float]] = {}
        if shards > 1:
            self.cluster.joining = {}

    def begin(self) -> None:
        """Follow all pools, now that every list is complete."""
        self._listed = True
        for document in list(self.documents.values()):
            self._take_up(document)

    async def end(self) -> None:
        """Stop leading everything; what is being written gets a moment to end."""
        async with self._turn:
            for shard in list(self.led):
                await self._let_go(shard)

    # --- pools ---

    def pool_seen(self, document: Json) -> None:
        """Take in a pool; an older version than the one known is ignored."""
        name = document["metadata"]["name"]
        known = self.documents.get(name)
        if known is not None and _older(document, known):
            return
        if known is not None and known["metadata"]["uid"] != document["metadata"]["uid"]:
            self.pool_gone(known)
        self.documents[name] = document
        if name in self.workers:
            self.workers[name][0].pool.pool_seen(document)
        elif name in self.followers:
            follower = self.followers[name]
            if follower.pool_seen(document):
                self._join(follower)
        elif self._listed:
            self._take_up(document)

    def pool_gone(self, document: Json) -> None:
        """Take in that a pool no longer exists."""
        name, uid = document["metadata"]["name"], document["metadata"]["uid"]
        if self.documents.get(name, document)["metadata"]["uid"] != uid:
            return
        self.documents.pop(name, None)
        self.followers.pop(name, None)
        led = self.workers.pop(name, None)
        if led is not None:
            led[1].cancel()
        self.cluster.pool_left(name)
        self.tools.metrics.forget(name)

    def _take_up(self, document: Json) -> None:
        shard = shard_of(document["metadata"]["name"], self.shards)
        if shard in self.led:
            self._begin(self._prepare(document, shard))
        else:
            self._follow(document)

    def _follow(self, document: Json) -> None:
        follower = self._followed(document)
        self.followers[follower.name] = follower
        self._join(follower)

    def _followed(self, document: Json) -> Follower:
        follower = Follower(document)
        for lease in self.cluster.leases.get(follower.name, {}).values():
            follower.lease_seen(lease)
        return follower

    def _join(self, follower: Follower) -> None:
        self.cluster.pool_joined(follower.name, follower, follower.selector, follower.generation)

    def _prepare(self, document: Json, shard: int) -> PoolWorker:
        absence = self._absences.get(shard)
        if absence is not None:
            made = parse_time(document["metadata"]["creationTimestamp"])
            absence = None if made >= absence.end else absence._replace(start=max(made, absence.start))
        worker = PoolWorker(self.tools, document, self.led[shard], absence)
        self.followers.pop(worker.name, None)
        worker.join()
        return worker

    def _begin(self, worker: PoolWorker) -> None:
        task = self._watch(self._lead(worker), f"pool {worker.name}")
        self.workers[worker.name] = worker, task

    async def _lead(self, worker: PoolWorker) -> None:
        try:
            await worker.run()
        except ApiError as error:
            if error.code != 404:
                raise
        except Deposed as why:
            self._stand_by(worker, str(why))
            return
        self.pool_gone(worker.document)

    def _stand_by(self, worker: PoolWorker, why: str) -> None:
        """Follow a pool that another replica took over; if the shard is ours all the same, lead it again after a while.

        Two that both believe they lead a shard must not take turns at full speed: the pauses grow.
        """
        log.error("%s; standing by", why, extra={"pool": worker.name})
        self.deposed += 1
        del self.workers[worker.name]
        self.tools.metrics.forget(worker.name)
        document = self.documents.get(worker.name)
        if document is None:
            return
        self._follow(document)
        now = asyncio.get_running_loop().time()
        count, last = self._defeats.get(worker.name, (0, now))
        count = 0 if now - last > _CALM_SECONDS else count
        self._defeats[worker.name] = count + 1, now
        pause = min(_FIRST_PAUSE * 2**count, _LONGEST_PAUSE) * _CHANCE.uniform(1.0, 1.5)
        self._watch(self._try_again(worker.name, pause), f"pause of pool {worker.name}")

    async def _try_again(self, name: str, pause: float) -> None:
        await asyncio.sleep(pause)
        async with self._turn:
            shard = shard_of(name, self.shards)
            document = self.documents.get(name)
            if document is not None and name in self.followers and shard in self.led:
                self._begin(self._prepare(document, shard))

    # --- shards: told by the election ---

    async def shard_won(self, leadership: Leadership, alive: int | None) -> None:
        """Lead a shard from now on; `alive` is when its last leader was there (ms), None where there was none."""
        async with self._turn:
            shard = leadership.shard
            if not leadership.valid():
                return  # lost again before this was heard
            await self._let_go(shard)
            now = self.tools.clock.now()
            self._absences.pop(shard, None)
            if alive is not None and now - alive >= LEAST_ABSENCE:
                self._absences[shard] = Outage(alive, now)
            self.led[shard] = leadership
            mine = [d for d in self.documents.values() if self._listed and self._shard(d) == shard]
            # Each joins before any decides: a node where another pool's leases are must not be lent meanwhile.
            workers = [self._prepare(document, shard) for document in mine]
            for worker in workers:
                self._begin(worker)
            if shard == 0:
                self._chore_tasks = [self._watch(work, name) for name, work in self._chores(leadership)]
            if len(self.led) == self.shards:
                self.cluster.settle(None)

    async def shard_lost(self, shard: int) -> None:
        """Stop leading a shard; return once nothing is written for it any more."""
        async with self._turn:
            await self._let_go(shard)

    async def touched(self, at: int, outage: tuple[int, int] | None) -> None:
        """Take in that the API server answers, and since when and until when it had not."""
        if outage is not None:
            for worker, _ in self.workers.values():
                worker.pool.outage_over(Outage(*outage))
        for leadership in self.led.values():
            leadership.touched = at
            leadership.heard = str(self._heard(leadership.shard) or "")

    async def others_heard(self, heard: Mapping[int, str]) -> None:
        """Lend the nodes that the leaders of all other shards have heard of."""
        mine = self.cluster.heard_of()
        others = [Heard.parse(text) for shard, text in heard.items() if shard not in self.led]
        level = level_of(others, mine)
        if not self.cluster.joining or (others and level is None):
            return
        if others:
            # What they committed before they said so is in their pools now, or was written to leases we have seen.
            try:
                documents, _ = await self.tools.client.list(paths.POOLS)
            except ApiError as error:
                log.info("pools of other shards: %s", error)
                return
            for document in documents:
                self.pool_seen(document)
            if self.cluster.heard_of().pools != mine.pools:
                return
        self.cluster.settle(level)

    def _heard(self, shard: int) -> Heard | None:
        """Return what all decisions for a shard rest on from now on; None until all its pools are taken over."""
        found = [self.cluster.heard_of()]
        for document in self.documents.values():
            if self._shard(document) != shard:
                continue
            led = self.workers.get(document["metadata"]["name"])
            if led is None or not led[0].ready:
                return None
            found.append(led[0].basis())
        if len({heard.pools for heard in found}) > 1:
            return None
        nodes = min(heard.nodes for heard in found)
        return Heard(nodes, found[0].pools, max(heard.leases for heard in found))

    async def _let_go(self, shard: int) -> None:
        """End the workers of a shard, and follow its pools."""
        self.led.pop(shard, None)
        if shard == 0:
            tasks, self._chore_tasks = self._chore_tasks, []
            await _ended(tasks)
        mine = {name: led for name, led in self.workers.items() if shard_of(name, self.shards) == shard}
        await _ended(task for _, task in mine.values())
        for name in mine:
            self.workers.pop(name, None)
            self.tools.metrics.forget(name)
            document = self.documents.get(name)
            if document is not None and name not in self.followers:
                self._follow(document)

    def _shard(self, document: Json) -> int:
        return shard_of(document["metadata"]["name"], self.shards)

    # --- what others ask ---

    def asking(self) -> dict[str, frozenset[str]]:
        """Return, by node, the leases that reporters must look after, whoever leads their pools."""
        asked: dict[str, set[str]] = {}
        # Of a pool that is being taken over the books are not made yet: it is asked for as if another led it still,
        # because what a reporter is not asked for a moment it forgets.
        others = list(self.followers.values())
        for worker, _ in self.workers.values():
            if not worker.ready:
                others.append(self._followed(worker.document))
            elif worker.state.policy.attributes_usage():
                for node in worker.state.ledger.nodes():
                    asked.setdefault(node, set()).update(worker.state.holders_on(node))
        for follower in others:
            if follower.policy is not None and follower.policy.attributes_usage():
                for node, uids in follower.nodes().items():
                    asked.setdefault(node, set()).update(uids)
        return {node: frozenset(uids) for node, uids in asked.items()}

    def dedicated(self) -> dict[str, str]:
        """Return the nodes that a pool wants for its leases' pods alone, with the pool, whoever leads it."""
        policies = self._policies()
        wanting = {name for name, policy in policies.items() if policy.enforces and policy.taints_nodes}
        if not wanting:
            return {}
        rows = self.cluster.membership.items()
        return {
            node: found.pools[0]
            for node, found in rows
            if len(found.pools) == 1 and found.pools[0] in wanting
        }

    def lending(self) -> dict[str, tuple[str, ...]]:
        """Return the resources that each pool lends, whoever leads it."""
        return {name: policy.names for name, policy in self._policies().items()}

    def _policies(self) -> dict[str, PoolPolicy]:
        policies = {name: worker.state.policy for name, (worker, _) in self.workers.items()}
        return policies | {name: one.policy for name, one in self.followers.items() if one.policy}

    def not_ready(self) -> list[str]:
        """Return the pools of our shards that are not taken over yet."""
        return sorted(name for name, (worker, _) in self.workers.items() if not worker.ready)


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    gathered = list(tasks)
    for task in gathered:
        task.cancel()
    await asyncio.gather(*gathered, return_exceptions=True)


def _older(document: Json, known: Json) -> bool:
    return int(document["metadata"]["resourceVersion"]) < int(known["metadata"]["resourceVersion"])
