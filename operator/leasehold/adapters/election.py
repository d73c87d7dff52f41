"""Keeps the coordination Leases of this replica: in a thread of its own, so that a busy event loop cannot starve it.

The thread has its own event loop, its own connections, and a few requests a period. It tells the operator's loop what
it won and lost. What it may do is decided in `core.election`; times are of the boot clock, which goes on while a
machine sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound
from leasehold.core.election import (
    MOVE_AFTER_PERIODS,
    Candidate,
    Record,
    Seen,
    Terms,
    decide,
    living,
    observe,
    share_of,
)
from leasehold.core.errors import InvalidObject
from leasehold.core.times import SECOND, format_time, parse_time

LABEL = "leasehold.dev/election"
"""The label of our Leases; its value is `shard` or `replica`."""

INSTANCE, HEARD = "leasehold.dev/instance", "leasehold.dev/heard"
SHARD_PREFIX, REPLICA_PREFIX = "leasehold-shard-", "leasehold-replica-"
_FORGET_REPLICAS_AFTER = 20  # durations

log = logging.getLogger(__name__)


def boot_clock() -> int:
    """Return milliseconds since the machine started, its sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Leadership:
    """The right to lead a shard, as this replica knows it. Safe to read from any thread.

    `until` and `touched` are instants of the boot clock (ms): until when it may be used unless renewed, and when the
    API server answered last. `touched` moves only on the operator's loop, after an outage before it was made known
    there. `heard` is what the leader wants other replicas to know, written with each renewal.
    """

    def __init__(self, shard: int, until: int, terms: Terms, clock: Callable[[], int] = boot_clock) -> None:
        self.shard = shard
        self.until = until
        self.touched = clock()
        self.heard = ""
        self._terms = terms
        self._clock = clock

    def valid(self) -> bool:
        """Tell whether this replica may still write as leader of the shard."""
        return self._clock() < self.until

    def in_touch(self) -> bool:
        """Tell whether the API server answered lately: else who is silent may just not be heard."""
        return self._clock() - self.touched < self._terms.touch


class Electorate(Protocol):
    """Who is told, on the operator's loop."""

    async def shard_won(self, leadership: Leadership, alive: int | None) -> None:
        """Lead a shard from now on; `alive` is when its last leader was there (ms), None where there was none."""

    async def shard_lost(self, shard: int) -> None:
        """Stop leading a shard; return once nothing is written for it any more."""

    async def touched(self, at: int, outage: tuple[int, int] | None) -> None:
        """Take in that the API server answered (ms, boot clock), and since when and until when it had not (ms)."""

    async def others_heard(self, heard: Mapping[int, str]) -> None:
        """Take in what the leaders of the other shards had heard of; "" of a shard that nobody leads."""


class Elector:
    """Campaigns for this replica until stopped. `failed` is called on the operator's loop when it ends by a bug."""

    def __init__(
        self,
        connect: Callable[[], KubeClient],
        clock: SteadyClock,
        electorate: Electorate,
        *,
        namespace: str,
        identity: str,
        instance: str,
        terms: Terms,
        shards: int,
        failed: Callable[[str], None] = lambda why: None,
        local: Callable[[], int] = boot_clock,
    ) -> None:
        self.namespace = namespace
        self.identity = identity
        self.instance = instance
        self.terms = terms
        self.shards = shards
        self.held: dict[int, Leadership] = {}
        self.members: frozenset[str] = frozenset()
        self.failures = 0
        self.beaten = 0
        self._connect = connect
        self._clock = clock
        self._electorate = electorate
        self._failed = failed
        self._local = local
        self._client: KubeClient
        self._main: asyncio.AbstractEventLoop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()
        self._woken: asyncio.Event
        self._thread: threading.Thread | None = None
        self._seen: dict[str, Seen] = {}
        self._fresh = True
        self._answered = local()
        self._steady_since = local()
        self._announced = -terms.duration
        self._complaint = ""

    # --- life ---

    def start(self) -> None:
        """Begin to campaign. To be called on the operator's loop."""
        self._main = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Give back what is held and end the thread. What was led must have been let go before."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop ended by itself
                self._loop.call_soon_threadsafe(self._woken.set)
        await asyncio.to_thread(thread.join)

    def _run(self) -> None:
        try:
            asyncio.run(self._campaign())
        except Exception as error:
            # Without it nobody here may lead, and nobody would ever again.
            log.exception("the election ended")
            for shard in list(self.held):
                self._lose(shard)
            self._main.call_soon_threadsafe(self._failed, f"election: {error}")

    async def _campaign(self) -> None:
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._client = self._connect()
        try:
            while not self._stop.is_set():
                began = self._local()
                await self.look()
                rest = self.pace() - (self._local() - began)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(rest, self.terms.period // 10) / SECOND):
                        await self._woken.wait()
            await self._say_goodbye()
        finally:
            await self._client.close()

    def pace(self) -> int:
        """Return how long to wait from look to look (ms): while another leads, its last renewal must be seen soon."""
        return self.terms.period if len(self.held) == self.shards else self.terms.period // 4

    # --- one look: list, renew, claim, hand on ---

    async def look(self) -> None:
        """Do what is due once. A failure is logged, and counts for nothing but itself."""
        self._step_down_if_late()  # before a renewal: whoever slept past the deadline begins anew
        await self._renew_all()  # before the list: it needs none, and must not wait for one that hangs
        try:
            async with asyncio.timeout(self.terms.patience / SECOND):
                await self._list()
        except (ApiError, TimeoutError) as error:
            self._complain(f"the Leases in namespace {self.namespace} cannot be listed", error)
            self._step_down_if_late()
            return
        if not self.held:
            self._note_answer()
        self._step_down_if_late()
        await self._announce()
        moves = decide(
            self._shards(),
            self.held.keys(),
            Candidate(self.identity, self.instance, self._fresh),
            self._share(),
            self._local(),
            settled=self._local() - self._steady_since >= MOVE_AFTER_PERIODS * self.terms.period,
        )
        self._fresh = False
        for shard in moves.claim:
            await self._claim(shard)
        if moves.hand_on is not None:
            log.info("handing shard %d on to another replica", moves.hand_on)
            await self._give_back(moves.hand_on)
        if self.shards > 1:
            self._tell(self._electorate.others_heard(self._others()))

    async def _list(self) -> None:
        items, _ = await self._client.list(paths.coordination(self.namespace), {"labelSelector": LABEL})
        listed = {item["metadata"]["name"]: _record(item) for item in items}
        # Seen when the answer is here, not when it was asked for: a Lease may have been renewed in between.
        self._seen = observe(self._seen, listed, self._local())
        members = living(self._replicas(), self._shards().values(), self._local())
        if members != self.members:
            self.members, self._steady_since = members, self._local()
        for shard in list(self.held):
            record = self._shards()[shard].record
            if record is not None and record.holder and not self._is_mine(record):
                self.beaten += 1
                log.error(
                    "shard %d is held by %s (%s) now; standing by", shard, record.holder, record.instance
                )
                self._lose(shard)

    async def _renew_all(self) -> None:
        deadline = self.terms.renew_deadline
        due = [one for one in self.held.values() if self._is_due(one.until - deadline)]
        answers = await asyncio.gather(*map(self._renew, due))
        if any(answers):
            self._note_answer()

    def _is_due(self, renewed: int) -> bool:
        """Tell whether a Lease that was renewed then (ms) is to be renewed in this look."""
        return self._local() - renewed >= self.terms.period * 3 // 4

    def _note_answer(self) -> None:
        """The API server answered: make an outage before that known first, then that it is over."""
        now = self._local()
        silent, self._answered = now - self._answered, now
        outage = None
        if silent >= self.terms.touch and self.held:
            end = self._clock.now()
            outage = (end - silent, end)
            log.warning("the API server did not answer for %.1f s", silent / SECOND)
        self._tell(self._electorate.touched(self._local(), outage))

    async def _renew(self, leadership: Leadership) -> bool:
        sent = self._local()
        name = f"{SHARD_PREFIX}{leadership.shard}"
        record = self._seen[name].record if name in self._seen else None
        if record is None:
            return False
        try:
            async with asyncio.timeout(self.terms.patience / SECOND):
                await self._write(name, record, {"renewTime": self._stamp()}, heard=leadership.heard)
        except (ApiError, TimeoutError) as error:
            self._complain(f"shard {leadership.shard} was not renewed", error)
            return False
        leadership.until = max(leadership.until, sent + self.terms.renew_deadline)
        return True

    async def _announce(self) -> None:
        """Show the other replicas that this one is there; with one shard nobody asks."""
        if self.shards == 1:
            return
        name = f"{REPLICA_PREFIX}{_slug(self.identity)}"
        record = self._seen[name].record if name in self._seen else None
        if not self._is_due(self._announced):
            return
        sent = self._local()
        try:
            async with asyncio.timeout(self.terms.patience / SECOND):
                await self._write(name, record, {"renewTime": self._stamp()}, kind="replica")
                self._announced = sent
                for other, seen in self._replicas().items():
                    if self._local() - seen.since > _FORGET_REPLICAS_AFTER * self.terms.duration:
                        await self._remove(other)
        except (ApiError, TimeoutError) as error:
            self._complain("this replica could not show itself", error)

    async def _claim(self, shard: int) -> None:
        name = f"{SHARD_PREFIX}{shard}"
        record = self._seen[name].record if name in self._seen else None
        sent = self._local()
        stamp = self._stamp()
        transitions = 0 if record is None else record.transitions + 1
        spec = {"acquireTime": stamp, "renewTime": stamp, "leaseTransitions": transitions}
        try:
            async with asyncio.timeout(self.terms.patience / SECOND):
                await self._write(name, record, spec)
        except Conflict:
            return  # another one was quicker
        except (ApiError, TimeoutError) as error:
            self._complain(f"shard {shard} was not claimed", error)
            return
        leadership = Leadership(shard, sent + self.terms.renew_deadline, self.terms, self._local)
        self.held[shard] = leadership
        self._answered = self._local()
        log.info("leading shard %d of %d as %s", shard, self.shards, self.identity)
        self._tell(self._electorate.shard_won(leadership, None if record is None else record.renewed))

    def _step_down_if_late(self) -> None:
        """Stop before anyone else may begin: after the renew deadline, which is well before the duration."""
        for shard, leadership in list(self.held.items()):
            if not leadership.valid():
                log.error("shard %d was not renewed in time; standing by", shard)
                self._lose(shard)

    def _lose(self, shard: int) -> None:
        self.held.pop(shard).until = 0
        self._tell(self._electorate.shard_lost(shard))

    async def _give_back(self, shard: int) -> None:
        """Let go first, then say so. A loop that is too busy to let go may write nothing more all the same."""
        leadership = self.held.pop(shard)
        told = self._tell(self._electorate.shard_lost(shard))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.terms.patience / SECOND):
                await asyncio.shield(asyncio.wrap_future(told))
        leadership.until = 0
        await self._free(shard)

    async def _free(self, shard: int) -> None:
        name = f"{SHARD_PREFIX}{shard}"
        record = self._seen[name].record if name in self._seen else None
        if record is None or not self._is_mine(record):
            return
        try:
            async with asyncio.timeout(self.terms.patience / SECOND):
                await self._write(name, record, {"renewTime": self._stamp(), "holderIdentity": ""})
        except (ApiError, TimeoutError) as error:
            self._complain(f"shard {shard} was not given back", error)

    async def _say_goodbye(self) -> None:
        for shard in list(self.held):
            self.held.pop(shard).until = 0
            await self._free(shard)
        if self.shards > 1:
            name = f"{REPLICA_PREFIX}{_slug(self.identity)}"
            with contextlib.suppress(ApiError, TimeoutError):
                async with asyncio.timeout(self.terms.patience / SECOND):
                    await self._remove(name)

    async def _remove(self, name: str) -> None:
        record = self._seen[name].record if name in self._seen else None
        if record is not None:
            await self._client.delete(paths.coordination(self.namespace, name), record.uid)

    # --- details ---

    async def _write(
        self,
        name: str,
        record: Record | None,
        spec: Mapping[str, Any],
        *,
        kind: str = "shard",
        heard: str = "",
    ) -> None:
        """Write a Lease if it is still as it was seen; remember what it became."""
        annotations = {INSTANCE: self.instance, HEARD: heard or None}
        whole = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.terms.duration // SECOND,
            **spec,
        }
        if record is None:
            meta: dict[str, Any] = {"name": name, "labels": {LABEL: kind}}
            meta["annotations"] = {key: value for key, value in annotations.items() if value is not None}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": whole}
            answer = await self._client.create(paths.coordination(self.namespace), body)
        else:
            meta = {"resourceVersion": record.version, "annotations": annotations}
            body = {"metadata": meta, "spec": whole}
            answer = await self._client.patch(paths.coordination(self.namespace, name), body)
        self._seen[name] = Seen(_record(answer), self._local())

    def _is_mine(self, record: Record) -> bool:
        return record.holder == self.identity and record.instance == self.instance

    def _shards(self) -> dict[int, Seen]:
        nobody = Seen(None, 0)
        return {i: self._seen.get(f"{SHARD_PREFIX}{i}", nobody) for i in range(self.shards)}

    def _replicas(self) -> dict[str, Seen]:
        return {name: seen for name, seen in self._seen.items() if name.startswith(REPLICA_PREFIX)}

    def _share(self) -> int:
        return share_of(self.identity, self.members, self.shards) if self.shards > 1 else 1

    def _others(self) -> dict[int, str]:
        """Return what the leaders of the other shards had heard of; "" where nobody leads."""
        now = self._local()
        return {
            shard: "" if seen.is_over(now) or seen.record is None else seen.record.heard
            for shard, seen in self._shards().items()
            if shard not in self.held
        }

    def _stamp(self) -> str:
        text = format_time(self._clock.now())
        return text.replace("Z", "000Z" if "." in text else ".000000Z")

    def _tell(self, news: Coroutine[Any, Any, None]) -> Future[None]:
        """Have something done on the operator's loop, in order, and do not wait: that loop may be late."""
        return asyncio.run_coroutine_threadsafe(news, self._main)

    def _complain(self, what: str, error: Exception) -> None:
        """Log a failure; the same one again and again only once."""
        self.failures += 1
        said = f"{what}: {error or type(error).__name__}"
        if isinstance(error, NotFound):
            said += (
                f". Create the namespace {self.namespace}, or name another in LEASEHOLD_ELECTION_NAMESPACE"
            )
        level = logging.INFO if said == self._complaint else logging.WARNING
        self._complaint = said
        log.log(level, "election: %s", said)


def _record(item: Mapping[str, Any]) -> Record:
    meta, spec = item["metadata"], item.get("spec") or {}
    annotations = meta.get("annotations") or {}
    try:
        renewed = parse_time(spec["renewTime"]) if spec.get("renewTime") else None
    except InvalidObject:
        renewed = None
    return Record(
        holder=spec.get("holderIdentity") or "",
        instance=annotations.get(INSTANCE, ""),
        duration=(spec.get("leaseDurationSeconds") or 0) * SECOND,
        version=meta["resourceVersion"],
        uid=meta["uid"],
        transitions=spec.get("leaseTransitions") or 0,
        renewed=renewed,
        heard=annotations.get(HEARD, ""),
    )


def _slug(identity: str) -> str:
    """Return an identity as a part of an object's name."""
    return re.sub(r"[^a-z0-9.-]+", "-", identity.lower()).strip("-.")[:200] or "unnamed"
