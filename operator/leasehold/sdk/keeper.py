"""Looks after all leases of one client in one namespace: one session, one watch, one clockwork.

Three things are asked of the API server, however many leases there are: the session is renewed, the leases are listed
now and then (metadata only), and changes are watched. What is asked for hangs on nothing else: the clockwork waits for
no answer, so a deadline is kept while requests hang.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound, Unknown
from leasehold.adapters.kube.errors import Refused as Denied
from leasehold.adapters.kube.informer import Informer
from leasehold.api.names import CLIENT_LABEL, SESSION_LABEL, DesiredState, Liveness
from leasehold.api.names import LeaseCondition as C
from leasehold.core.times import SECOND, earliest, format_time
from leasehold.sdk import holding
from leasehold.sdk.door import Door, explained
from leasehold.sdk.errors import LeaseholdError, LostCause, Misuse
from leasehold.sdk.holding import OperatorClock, State
from leasehold.sdk.lease import Lease
from leasehold.sdk.observing import Observers
from leasehold.sdk.views import PoolView, millis_of, stamp

Json = dict[str, Any]

_TICK: Final = 1000
"""The clockwork looks up at least so often (ms): timers stand still while the machine is suspended."""

_MOMENT: Final = 0.02
"""How long news wait for more news (s)."""

_LOOK: Final = 20_000
"""How often leases are looked at where no grace asks for more (ms): a watch can lose an event."""

_POOLS: Final = 30_000
"""How old what is known of a pool may be (ms)."""

_RELEASE_SECONDS: Final = 10.0
_FAREWELL_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 3.0
_AT_ONCE: Final = 16
_COLLECT_SECONDS: Final = 600.0
_LONGEST_WATCH: Final = 3600 * SECOND

_CHANCE: Final = random.Random()
_NOT_A_NAME: Final = re.compile(r"[^a-z0-9-]+")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a pool asks of holders and grants them (ms)."""

    heartbeat: int
    grace: int
    ends_leases: bool
    known: bool = True


UNKNOWN: Final = Terms(holding.SHORTEST_HEARTBEAT, 0, True, known=False)
"""What is assumed of a pool that cannot be read: the shortest heartbeat there is, and no notice."""


def session_name(host: str | None = None) -> str:
    """Return a name for a session that no other process has: of the host, the process and chance."""
    where = (
        _NOT_A_NAME.sub("-", (host or socket.gethostname()).split(".")[0].lower()).strip("-")[:30] or "host"
    )
    return f"{where}-{os.getpid()}-{secrets.token_hex(4)}"


def _duration_of(session: Json) -> int:
    return int((session.get("spec") or {}).get("leaseDurationSeconds") or 0)


class _Duty:
    """Something to do again and again: when it was begun last, and whether it is being done or was in vain.

    When it is due follows from the period at the moment, which may have become shorter since.
    """

    def __init__(self) -> None:
        self.began: int | None = None
        self.again_at: int | None = None
        self.doing = False
        self.jitter = 1.0

    def due(self, period: int) -> int:
        """Return when it is due; 0 is at once."""
        if self.again_at is not None:
            return self.again_at
        return 0 if self.began is None else self.began + int(period * self.jitter)

    def begin(self, now: int) -> None:
        """Note that it is being done."""
        self.began, self.again_at, self.doing = now, None, True
        self.jitter = _CHANCE.uniform(0.8, 1.0)


class Keeper:
    """The one that looks after leases. `leases` are those asked for and not given back, by name."""

    def __init__(
        self,
        door: Door,
        namespace: str,
        *,
        identity: str,
        session_seconds: int = 60,
        strict: bool = True,
        owner: Json | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.observers = observers or Observers()
        self.door = door
        self.now = door.now
        self.namespace = namespace
        self.identity = identity
        self.strict = strict
        self.session = session_name()
        self.session_duration = session_seconds * SECOND
        self.session_sent: int | None = None
        self.leases: dict[str, Lease] = {}
        self.asker: Callable[..., Any] | None = None
        self.closing = False
        self._owner = owner
        self._session_there = False
        self._clock = SteadyClock()
        self._ticks = 0
        self._clocks: dict[str, OperatorClock] = {}
        self._pools: dict[str, tuple[int, Terms]] = {}
        self._done: set[str] = set()
        self._leaving: dict[str, asyncio.Task[Any]] = {}
        self._beat, self._look, self._pool_duty = _Duty(), _Duty(), _Duty()
        self._kick = asyncio.Event()
        self._beating = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None

    # --- beginning and end ---

    def check_loop(self) -> None:
        """Raise Misuse on another event loop than that of the client."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if not here:
            raise Misuse(
                "The client belongs to another event loop.",
                "Make one client in each loop, or use leasehold.sdk.sync, which works from any thread.",
            )

    async def open(self) -> None:
        """Have the session and the watch going, once. Raises ApiError, and LeaseholdError where they have ended."""
        if self.closing:
            raise Misuse("The client is closed.", "Do this within its `async with` block.")
        if any(task.done() for task in self._loops):
            raise LeaseholdError(
                "The client cannot look after leases any more: a part of it has failed.",
                "Make a new client, and please report what the log says.",
            )
        while self._opening is None or (self._opening.done() and self._failed(self._opening)):
            self._opening = self._loop.create_task(self._open(), name="leasehold-open")
        await asyncio.shield(self._opening)

    @staticmethod
    def _failed(task: asyncio.Task[None]) -> bool:
        return task.cancelled() or task.exception() is not None

    async def _open(self) -> None:
        await self.beat()
        await self.door.list(paths.lease(self.namespace), self._selector)  # says what is forbidden
        informer = Informer(
            self.door.kube, paths.lease(self.namespace), self, self._clock.now, label_selector=self._selector
        )
        for name, work in (
            ("watch", informer.run()),
            ("clockwork", self._tend()),
            ("collector", self._collect_now_and_then()),
        ):
            task = self._loop.create_task(work, name=f"leasehold-{name}")
            task.add_done_callback(self._ended)
            self._loops.append(task)

    @property
    def _selector(self) -> str:
        return f"{CLIENT_LABEL}={self.session}"

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A loop that ends by itself leaves nobody to look after the leases."""
        if self.closing:
            return
        error = None if task.cancelled() else task.exception()
        log.error("%s ended: %r", task.get_name(), error)
        for lease in list(self.leases.values()):
            lease._lose(LostCause.BROKEN, f": {task.get_name()} ended ({error!r})")

    async def close(self) -> None:
        """Give back what is held, withdraw what is asked for, end the session. Bounded."""
        leases = list(self.leases.values())
        for lease in leases:
            lease._lose(LostCause.CLOSED)
        try:
            await asyncio.gather(*(self.release(lease) for lease in leases))
            self.closing = True
            while self._tasks:  # for as long as it gets on
                done, _ = await asyncio.wait(
                    set(self._tasks), timeout=_FAREWELL_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
        finally:
            self.closing = True
            for task in (*self._loops, *self._tasks, *filter(None, [self._opening])):
                task.cancel()
        await asyncio.gather(*self._loops, *self._tasks, return_exceptions=True)
        try:
            if self._opening is not None:
                await self._sweep()
        except (ApiError, TimeoutError) as error:
            why = error or "no answer in time"
            log.warning("the session %s stays until it is collected: %s", self.session, why)

    async def _sweep(self) -> None:
        """Remove what may have come into being after it was given up, and the session."""
        async with asyncio.timeout(_FAREWELL_SECONDS):
            _, items = await self.door.list(paths.lease(self.namespace), self._selector, metadata_only=True)
            for item in items:
                meta = item["metadata"]
                if meta["uid"] not in self._done and not meta.get("deletionTimestamp"):
                    await self._forget_errors(
                        self.door.delete(paths.lease(self.namespace, meta["name"]), meta["uid"])
                    )
            await self._forget_errors(self.door.delete(paths.coordination(self.namespace, self.session)))

    async def collect(self, wait: Callable[[int], Awaitable[None]]) -> None:
        """Delete sessions that processes of the SDK left behind: those that do not change for twice their duration.

        No clocks are compared: what matters is how long nothing was seen to change here. Raises ApiError.
        """
        path, seen = paths.coordination(self.namespace), {}
        _, items = await self.door.list(path, CLIENT_LABEL)
        for item in items:
            if item["metadata"]["name"] != self.session:
                seen[item["metadata"]["uid"]] = item
        if not seen:
            return
        patience = {uid: 2 * SECOND * _duration_of(item) for uid, item in seen.items()}
        watched = min(max(patience.values()), _LONGEST_WATCH)  # one of years keeps nobody from the others
        await wait(watched)
        _, items = await self.door.list(path, CLIENT_LABEL)
        for item in items:
            meta = item["metadata"]
            before = seen.get(meta["uid"], item)["metadata"]
            unchanged = before is not meta and before["resourceVersion"] == meta["resourceVersion"]
            if unchanged and patience[meta["uid"]] <= watched:
                log.info("session %s was left behind; removing it", meta["name"])
                await self._forget_errors(
                    self.door.delete(f"{path}/{meta['name']}", meta["uid"], version=meta["resourceVersion"])
                )

    async def _collect_now_and_then(self) -> None:
        async def wait(millis: int) -> None:
            await asyncio.sleep(millis / SECOND)

        while True:
            # Short-lived processes leave it to others.
            await asyncio.sleep(_COLLECT_SECONDS * _CHANCE.uniform(0.5, 1.5))
            try:
                await self.collect(wait)
            except ApiError as error:
                log.debug("sessions that were left behind cannot be collected: %s", error)

    @staticmethod
    async def _forget_errors(work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except (NotFound, Conflict):
            pass
        except ApiError as error:
            log.warning("%s", error)

    def background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let something go on by itself; the end of the client waits for it."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- what is known ---

    def clock_of(self, pool: str | None) -> OperatorClock:
        """Return what is known of the clock by which a pool's leases end."""
        return self._clocks.setdefault(pool or "", OperatorClock())

    def terms_of(self, pool: str | None) -> Terms:
        """Return what is known of a pool."""
        return self._pools.get(pool or "", (0, UNKNOWN))[1]

    def heartbeat_of(self, lease: Lease) -> tuple[int | None, int | None]:
        """Return when a lease's last heartbeat was sent, and how long it counts; None where nobody asks for one."""
        terms = self.terms_of(lease.view.pool if lease.view else None)
        if lease.request.liveness == Liveness.SESSION:
            return self.session_sent, min(self.session_duration, terms.heartbeat)
        if lease.request.liveness == Liveness.RENEW:
            # It counts for as long as the pool granted when it was renewed, but not longer than now.
            return lease.renewed_sent, min(lease.renewed_for or terms.heartbeat, terms.heartbeat)
        return None, None

    def holds(self, lease: Lease) -> bool:
        """Tell whether the lease's object still names us as its holder."""
        view = lease.view
        assert view is not None
        holder = (view.raw.get("spec") or {}).get("holder") or {}
        return bool((holder.get("sessionRef") or {}).get("name") == self.session)

    def holder_of(self, lease: Lease) -> Json:
        """Return who holds a lease of ours, as the API wants it."""
        return lease.request.holder(self.session, self.identity)

    def learn(self, lease: Lease) -> None:
        """Take from a lease's new status what it says of the operator's clock."""
        view = lease.view
        assert view is not None
        status = view.raw.get("status") or {}
        clock = self.clock_of(view.pool)
        granted = stamp(status, "allocation", "allocationTime")
        for seen in (granted, stamp(status, "renewal", "lastRenewTime")):
            if seen is not None:
                clock.hear(self.now(), seen)
        if granted is not None and lease.asked_here:
            clock.learn(lease.asked_at, granted)
        claimed = view.conditions.get(C.CLAIMED)
        if lease.taken is not None and view.token != lease.taken[1] and claimed is not None:
            # With the token of a new holder the operator begins to wait for it anew.
            if claimed.last_transition_time is not None:
                clock.learn(lease.taken[0], millis_of(claimed.last_transition_time))
            lease.taken = None
        renewal = status.get("renewal") or {}
        sent = lease.renewals.pop(renewal.get("observedRenewTime", ""), None)
        renewed = stamp(status, "renewal", "lastRenewTime")
        if sent is not None:
            if renewed is not None and renewed != lease.last_renewed:
                clock.learn(sent, renewed)
            lease.renewals = {text: at for text, at in lease.renewals.items() if at > sent}
        lease.last_renewed = renewed

    async def read_pool(self, name: str | None, *, fresh: bool = False) -> Terms:
        """Read what a pool asks and grants. One that cannot be read is taken for the strictest there is."""
        if not name:
            return UNKNOWN
        known = self._pools.get(name)
        now = self.now()
        if known is not None and not fresh and now - known[0] < _POOLS:
            return known[1]
        try:
            _, document = await self.door.get(paths.pool(name))
        except (Denied, NotFound):
            self._pools[name] = now, UNKNOWN
        except ApiError as error:
            log.warning("pool %s cannot be read: %s", name, error)
        else:
            view = PoolView.of(document)
            terms = Terms(view.heartbeat_timeout * SECOND, view.grace * SECOND, view.ends_leases)
            self._pools[name] = now, terms
        return self.terms_of(name)

    # --- the audience of the watch ---

    def listed(self, items: list[Json], version: int) -> None:
        """Take in everything there was at a version. What is missing is asked for by name before it is believed."""
        for item in items:
            self.changed("ADDED", item)
        self._look.again_at = 0
        self._kick.set()

    def changed(self, kind: str, item: Json) -> None:
        """Take in one change."""
        name = item["metadata"]["name"]
        lease = self.leases.get(name)
        if lease is None:
            if kind != "DELETED":
                self._stray(item["metadata"], item.get("spec"))
            return
        if kind == "DELETED":
            # Gone, or of another client now: a watch of labels tells these apart in nothing.
            if lease.uid == item["metadata"]["uid"]:
                self.background(self._forget_errors(self.read(lease)))
        elif lease.uid or (item["metadata"]["uid"] not in self._done and name not in self._leaving):
            lease._take(item, None)  # else it is the one before, of the same key
        self._kick.set()

    def done(self, uid: str) -> None:
        """Take in that a lease is no business of ours any more."""
        self._done.add(uid)

    def is_done(self, uid: str) -> bool:
        """Tell whether a lease is no business of ours any more."""
        return uid in self._done

    async def left(self, name: str) -> None:
        """Wait until the one before of a name is given back: what is sent for that would hit the new one, too."""
        while (task := self._leaving.get(name)) is not None:
            await asyncio.wait({task})

    def _stray(self, meta: Json, spec: Json | None) -> None:
        """Remove a lease of ours that nobody waits for: a create that arrived after it was given up."""
        over = spec is not None and spec.get("desiredState") == DesiredState.RELEASED
        if (
            meta["uid"] in self._done
            or over
            or meta.get("deletionTimestamp")
            or meta["name"] in self._leaving
        ):
            return
        log.info("lease %s is there though it was given up; removing it", meta["name"])
        self._done.add(meta["uid"])
        self.background(
            self._forget_errors(self.door.delete(paths.lease(self.namespace, meta["name"]), meta["uid"]))
        )

    # --- the clockwork ---

    async def _tend(self) -> None:
        while True:
            self._kick.clear()
            now = self.now()
            wake = [now + _TICK]
            for lease in list(self.leases.values()):
                if lease.granted_at is not None and lease.lost is None:
                    verdict = lease._judge(now)
                    if verdict.state is not State.LOST and verdict.stop_at is not None:
                        wake.append(verdict.stop_at)
            wake += self._start_due(now)
            pause = max(0, (earliest(*wake) or now) - self.now()) / SECOND
            try:
                async with asyncio.timeout(pause):
                    await self._kick.wait()
                # News come in crowds: all that come within a moment are judged together.
                await asyncio.sleep(_MOMENT)
            except TimeoutError:
                pass

    def _start_due(self, now: int) -> list[int]:
        """Start what is due; return when what is not will be."""
        held = [lease for lease in self.leases.values() if lease.lost is None]
        beat, look = self._periods(held)
        wake = []
        # Not for those that are lost: the session shall run out if they cannot be given back otherwise.
        if any(lease.request.liveness == Liveness.SESSION for lease in held):
            wake.append(self._do(self._beat, now, beat, self.beat))
        if held:
            wake.append(self._do(self._look, now, look, self.look))
            wake.append(self._do(self._pool_duty, now, _POOLS, self._read_pools))
        free = _AT_ONCE - sum(lease.renewing for lease in held)
        for lease in held:
            due = self._renewal_due(lease, now)
            if due is None or lease.renewing:
                continue
            if due > now:
                wake.append(due)
            elif free > 0:
                free -= 1
                lease.renewing = True
                self.background(self._renew_in_background(lease))
        return wake

    def _periods(self, held: list[Lease]) -> tuple[int, int]:
        """Return how often to renew the session and how often to look (ms)."""
        timeouts, graces = [self.session_duration], []
        for lease in held:
            terms = self.terms_of(lease.view.pool if lease.view else lease.request.pool)
            if lease.granted_at is not None or terms.known:
                timeouts.append(terms.heartbeat)
            if self.strict and terms.grace >= holding.USABLE_GRACE:
                graces.append(terms.grace)
        beat, look = holding.beat_every(min(timeouts), min(graces, default=0))
        return beat, min(look or _LOOK, _LOOK)

    def _do(self, duty: _Duty, now: int, period: int, work: Any) -> int:
        """Start a duty that is due, unless it is being done; return when to see to it again."""
        due = duty.due(period)
        if duty.doing:
            return now + period
        if now < due:
            return due
        duty.begin(now)

        async def do() -> None:
            try:
                async with asyncio.timeout(min(10.0, max(1.0, period / 2 / SECOND))):
                    await work()
            except (ApiError, TimeoutError) as error:
                log.warning("%s: %s", getattr(work, "__name__", "request"), error or "no answer in time")
                duty.again_at = self.now() + int(min(SECOND, period / 4) * _CHANCE.uniform(0.5, 1.0))
            finally:
                duty.doing = False
                self._kick.set()

        self.background(do())
        return now + period

    async def beat(self) -> None:
        """Renew the session, making it where it is not there. Raises ApiError."""
        name = paths.coordination(self.namespace, self.session)
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.session_duration // SECOND,
            "renewTime": self.new_text(),
        }
        if self._session_there:
            try:
                # The operator knows sessions by their label: without it no heartbeat is heard.
                sent, _ = await self.door.patch(name, {"metadata": {"labels": self._labels}, "spec": spec})
            except NotFound:
                log.warning("the session %s was deleted by somebody; making it anew", self.session)
                self._session_there = False
        if not self._session_there:
            sent = await self._make_session(name, spec)
        self._session_there = True
        if self.session_sent is not None:
            self.observers.renewed(Liveness.SESSION, (self.now() - self.session_sent) / SECOND)
        self.session_sent = max(self.session_sent or 0, sent)

    @property
    def _labels(self) -> dict[str, str]:
        return {SESSION_LABEL: "sdk", CLIENT_LABEL: self.session}

    async def freshen(self) -> None:
        """Renew the session if it was left alone for a while, as when nothing was held. Raises ApiError."""
        await self.beat_where(
            lambda: self.session_sent is None or self.now() - self.session_sent > self.session_duration // 3
        )

    async def beat_where(self, is_late: Callable[[], bool]) -> None:
        """Renew the session if it is late; where many ask at once, one request serves them all. Raises ApiError."""
        async with self._beating:
            if is_late():
                await self.beat()

    async def _make_session(self, path: str, spec: Json) -> int:
        meta: Json = {
            "name": self.session,
            "namespace": self.namespace,
            "labels": self._labels,
        }
        if self._owner is not None:
            meta["ownerReferences"] = [self._owner]
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": {**spec, "acquireTime": spec["renewTime"]},
        }
        try:
            sent, _ = await self.door.create(paths.coordination(self.namespace), body)
        except Conflict:  # an earlier attempt arrived after all
            spec = {**spec, "renewTime": self.new_text()}
            sent, _ = await self.door.patch(path, {"metadata": {"labels": self._labels}, "spec": spec})
        return sent

    def new_text(self) -> str:
        """Return the time as text, never the same twice: a text that does not change would be no heartbeat."""
        self._ticks += 1
        now = self._clock.now()
        whole = format_time(now // SECOND * SECOND)
        return f"{whole[:-1]}.{now % SECOND:03d}{self._ticks % 1000:03d}Z"

    async def look(self) -> None:
        """Look at all leases: what is as it was last seen is known to be so; what is not is read. Raises ApiError."""
        sent, items = await self.door.list(paths.lease(self.namespace), self._selector, metadata_only=True)
        found = {item["metadata"]["name"]: item["metadata"] for item in items}
        asked = [lease for lease in self.leases.values() if lease.created and lease.created_at < sent]
        news = []
        for lease in asked:
            meta = found.get(lease.name)
            if (
                meta is not None
                and meta["uid"] == lease.uid
                and int(meta["resourceVersion"]) <= lease.version
            ):
                lease.viewed = max(lease.viewed, sent)
            else:
                news.append(lease)
        self._done &= {meta["uid"] for meta in found.values()} | {lease.uid for lease in self.leases.values()}
        for name, meta in found.items():
            if name not in self.leases and meta["uid"] not in self._done:
                self._stray(meta, None)
        limit = asyncio.Semaphore(_AT_ONCE)

        async def read(lease: Lease) -> None:
            async with limit:
                await self.read(lease)

        await asyncio.gather(*map(read, news))

    async def read(self, lease: Lease) -> None:
        """Read one lease. Raises ApiError, but not for one that is gone."""
        try:
            sent, document = await self.door.get(paths.lease(self.namespace, lease.name))
        except NotFound:
            lease._take_gone()
        else:
            lease._take(document, sent)

    async def _read_pools(self) -> None:
        names = {lease.view.pool for lease in self.leases.values() if lease.view is not None}
        for name in names:
            await self.read_pool(name, fresh=True)

    # --- renewals of one lease ---

    def _renewal_due(self, lease: Lease, now: int) -> int | None:
        """Return when a lease's own renewal is due, None where none is needed or none can be had."""
        view = lease.view
        if lease.granted_at is None or view is None:
            return None
        stamps, periods = lease.stamps, []
        if lease.request.liveness == Liveness.RENEW:
            periods.append((self.heartbeat_of(lease)[1] or 0) // 3)
        if stamps.end is not None and not stamps.at_maximum and lease.request.liveness != Liveness.SESSION:
            periods.append(stamps.span // 3)
        if lease.renew_at is not None and lease.renew_at > now:
            return lease.renew_at
        if periods:
            since = lease.renewed_sent if lease.renewed_sent is not None else lease.granted_at
            return since + int(min(periods) * lease.jitter)
        if stamps.end is None or stamps.at_maximum or stamps.revoked is not None:
            return None
        # A live session renews the term by itself once two thirds are over. Where that is not heard of, or where the
        # operator's clock is known too loosely to be sure, ask.
        term_ends = lease._facts().term_ends
        return None if term_ends is None else term_ends - stamps.span // 5

    async def renew(self, lease: Lease) -> None:
        """Ask for a new term. Raises the SDK's errors."""
        try:
            await self.renew_once(lease)
        except ApiError as error:
            raise explained(error, f"renew lease {lease.name}") from error

    async def renew_once(self, lease: Lease) -> str:
        """Ask for a new term; return the text by which the operator's answer is known. Raises ApiError."""
        text = self.new_text()
        counts_for = self.terms_of(lease.view.pool if lease.view else None).heartbeat
        # Of renewals that nobody answers the last few are enough.
        lease.renewals = {**dict(list(lease.renewals.items())[-8:]), text: self.now()}
        body = {"metadata": {"uid": lease.uid}, "spec": {"renewTime": text}}
        try:
            sent, document = await self.door.patch(paths.lease(self.namespace, lease.name), body)
        except BaseException:
            # Should it have arrived: how the lease was when it did is not known, so its effect tells of no clock.
            lease.renewals.pop(text, None)
            raise
        if lease.renewed_sent is not None and lease.request.liveness == Liveness.RENEW:
            self.observers.renewed(Liveness.RENEW, (self.now() - lease.renewed_sent) / SECOND)
        if lease.renewed_sent is None or sent >= lease.renewed_sent:
            lease.renewed_sent, lease.renewed_for = sent, counts_for
        lease._take(document, sent)
        return text

    async def _renew_in_background(self, lease: Lease) -> None:
        period = self._periods([lease])[0]
        try:
            async with asyncio.timeout(min(10.0, max(1.0, period / 2 / SECOND))):
                await self.renew_once(lease)
            lease.jitter = _CHANCE.uniform(0.8, 1.0)
            if lease.request.liveness == Liveness.SESSION:
                # Nothing was heard of it yet, perhaps because there is no operator now: it is no use to hurry.
                lease.renew_at = self.now() + max(SECOND, lease.stamps.span // 20)
        except (NotFound, Conflict):
            await self._forget_errors(self.read(lease))
            lease.renew_at = self.now() + SECOND
        except (ApiError, TimeoutError) as error:
            log.warning("lease %s could not be renewed: %s", lease.name, error or "no answer in time")
            lease.renew_at = self.now() + int(min(SECOND, period / 4) * _CHANCE.uniform(0.5, 1.0))
        finally:
            lease.renewing = False
            self._kick.set()

    def kick(self) -> None:
        """Let the clockwork look up now."""
        self._kick.set()

    def ask(self, **wish: Any) -> Any:
        """Ask for another lease in this namespace."""
        assert self.asker is not None
        return self.asker(namespace=self.namespace, **wish)

    async def hand_over(self, lease: Lease, holder: Json) -> bool:
        """Name another holder, if we still are the one; tell whether it is that now. Raises the SDK's errors."""
        path = paths.lease(self.namespace, lease.name)
        while True:
            meta = {
                "uid": lease.uid,
                "resourceVersion": str(lease.version),
                # What goes by our label is ours to remove, even when the interpreter ends.
                "labels": {CLIENT_LABEL: None},
            }
            liveness = str(Liveness.SESSION if "sessionRef" in holder else Liveness.RENEW)
            # A merge patch keeps what is not named.
            spec = {"holder": {"sessionRef": None, **holder}, "liveness": liveness}
            try:
                await self.door.patch(path, {"metadata": meta, "spec": spec})
            except Conflict:
                await self._read_or_explain(lease)
                over = lease._facts().over
                if over is not None:
                    named = ((lease.view.raw.get("spec") or {}).get("holder") or {}) if lease.view else {}
                    return over is LostCause.HANDED_OVER and holder.items() <= named.items()
            except ApiError as error:
                raise explained(error, f"hand lease {lease.name} over") from error
            else:
                return True

    async def _read_or_explain(self, lease: Lease) -> None:
        try:
            await self.read(lease)
        except ApiError as error:
            raise explained(error, f"read lease {lease.name}") from error

    # --- giving back ---

    def forget(self, lease: Lease) -> None:
        """Look after a lease no more."""
        if self.leases.get(lease.name) is lease:
            del self.leases[lease.name]
            if lease.granted_at is not None:
                outcome = "Released" if lease.lost is None else str(getattr(lease.lost, "cause", "Ending"))
                pool = (lease.view.pool if lease.view is not None else None) or ""
                self.observers.held(pool, outcome, (self.now() - lease.granted_at) / SECOND)
        if lease.uid:
            self._done.add(lease.uid)

    async def release(self, lease: Lease) -> None:
        """Give a lease back, or withdraw its request. Returns when that is done, or after a while; it goes on then.

        For one that is lost nothing is waited for: whoever held it wants to know.
        """
        self.forget(lease)
        over = lease.lost is not None and getattr(lease.lost, "cause", None) in (
            LostCause.HANDED_OVER,
            LostCause.SUPERSEDED,
            LostCause.DELETED,
        )
        if over or lease.gone or not lease.sent:
            return
        task = self.give_back(lease)
        if lease.lost is None:
            await asyncio.wait({task}, timeout=_RELEASE_SECONDS)

    def give_back(self, lease: Lease) -> asyncio.Task[Any]:
        """Begin to give a lease back, if that has not begun, and return what does it."""
        if lease.giving_back is None:
            task = lease.giving_back = self.background(self._give_back(lease))
            self._leaving[lease.name] = task
            task.add_done_callback(lambda _: self._leaving.pop(lease.name, None))
        return lease.giving_back

    async def _give_back(self, lease: Lease) -> None:
        pause = 0.1
        while True:
            try:
                if lease.granted_at is not None:
                    await self._say_released(lease)
                else:
                    await self._withdraw(lease)
                return
            except NotFound:
                return
            except Denied as error:
                log.error("lease %s cannot be given back: %s", lease.name, error)
                return
            except ApiError as error:
                log.warning("lease %s is not given back yet: %s", lease.name, error)
            await asyncio.sleep(pause * _CHANCE.uniform(0.5, 1.5))
            pause = min(pause * 2, 5.0)

    async def _say_released(self, lease: Lease) -> None:
        """Say so, unless the lease has another holder by now."""
        path = paths.lease(self.namespace, lease.name)
        for _ in range(20):
            meta = {"uid": lease.uid, "resourceVersion": str(lease.version)}
            body = {"metadata": meta, "spec": {"desiredState": str(DesiredState.RELEASED)}}
            try:
                await self.door.patch(path, body)
                return
            except Conflict:
                sent, document = await self.door.get(path)
                lease._take(document, sent)
                if lease.gone or not self.holds(lease):
                    return
        raise Unknown(f"lease {lease.name} changes all the time")

    async def _withdraw(self, lease: Lease) -> None:
        """Delete a request, and make sure that none arrives later where its answer never came.

        Where it is not known what there is of this name, only what carries our label is deleted.
        """
        path = paths.lease(self.namespace, lease.name)
        deadline = self.now() + int(_SETTLE_SECONDS * SECOND)
        pause = 0.05
        while True:
            try:
                uid = lease.uid or await self._uid_of_ours(path)
                if uid:
                    lease.uid = uid
                    self._done.add(uid)
                    await self.door.delete(path, uid)
                return
            except Conflict:  # another one of this name by now
                return
            except NotFound:
                if lease.created or self.now() >= deadline:
                    return
            await asyncio.sleep(pause)
            pause *= 2

    async def _uid_of_ours(self, path: str) -> str:
        _, document = await self.door.get(path)
        meta = document["metadata"]
        ours = (meta.get("labels") or {}).get(CLIENT_LABEL) == self.session and meta["uid"] not in self._done
        return str(meta["uid"]) if ours else ""
