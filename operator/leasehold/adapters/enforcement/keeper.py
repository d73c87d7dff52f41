"""Holds pods to their leases: what `core.gating` decides about the pods of a lease is done here, pod by pod."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Set
from dataclasses import replace
from typing import NamedTuple

from leasehold.adapters.enforcement.writing import PodWriting
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound, Unknown
from leasehold.adapters.pauses import Pauses
from leasehold.adapters.pods import Key
from leasehold.adapters.tools import Tools
from leasehold.core.deadlines import Deadlines
from leasehold.core.gating import Action, Assign, Let, Tell, Warn, plan_pods
from leasehold.core.lease import Lease
from leasehold.core.placeholders import Create, Drop, Holding, Nominate, Shrink, plan_placeholders
from leasehold.core.pods import Pod, SliceRef, slice_text
from leasehold.core.policy import PoolPolicy
from leasehold.core.times import SECOND, earliest

_LOOK_AGAIN = SECOND
_SOON = 25

log = logging.getLogger(__name__)


class _Outdated(NamedTuple):
    """What is not done to something until then (ms), as long as it has no later version."""

    version: int
    until: int
    kind: type


class Keeper:
    """Keeps the pods of some leases. `look` returns a lease by its name and the policy of its pool, either of them None
    where there is none, or None where the lease is another keeper's. `may_write` is asked before each write.
    """

    def __init__(
        self,
        tools: Tools,
        look: Callable[[Key], tuple[Lease | None, PoolPolicy | None] | None],
        may_write: Callable[[], bool],
        is_busy: Callable[[str], bool] = lambda uid: False,
    ) -> None:
        self._tools = tools
        self._look = look
        self._may_write = may_write
        self._is_busy = is_busy
        self._marked: set[Key] = set()
        self._news = asyncio.Event()
        self._wakes = Deadlines()
        self._pauses = Pauses()
        self._busy: set[str] = set()
        self._writing = PodWriting(tools)
        self._given: dict[str, SliceRef] = {}
        self._outdated: dict[str, _Outdated] = {}
        self._touched: dict[Key, set[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def mark(self, keys: Iterable[Key]) -> None:
        """Look at the pods of some leases again."""
        self._marked.update(keys)
        self._news.set()

    async def run(self) -> None:
        """Keep pods until cancelled."""
        try:
            while True:
                await self._sleep()
                if self._failure is not None:
                    raise self._failure
                now = self._tools.clock.now()
                keys, self._marked = self._marked, set()
                woken = self._wakes.pop_due(now) | self._pauses.pop_due(now)
                for key in keys | {_key(text) for text in woken}:
                    self._keep(key, now)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for subject in [subject for touched in self._touched.values() for subject in touched]:
                self._tools.cluster.pods.not_let(subject)

    async def _sleep(self) -> None:
        at = earliest(self._wakes.next(), self._pauses.next())
        timeout = None if at is None else max(0.0, (at - self._tools.clock.now()) / 1000)
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    def _keep(self, key: Key, now: int) -> None:
        if _text(key) in self._pauses:
            return
        cluster = self._tools.cluster
        found = self._look(key)
        if found is None:
            self._forget(key, frozenset())
            self._wakes.put(_text(key), None)
            return
        lease, policy = found
        pods, placeholders = self._known(key), cluster.pods.placeholders(key)
        there = {pod.uid for pod in pods} | {one.uid for one in placeholders}
        if lease is not None:
            there |= {slice_text(SliceRef(lease.uid, i)) for i in range(len(lease.slices))}
        self._forget(key, there)
        plan = plan_pods(lease, pods, policy, cluster.nodes, self._writing.refused, now, placeholders)
        wake_at = plan.wake_at
        holds = policy is not None and policy.holds_room
        held = plan_placeholders(lease, pods, placeholders, self._writing.rigid, wanted=holds)
        for action in (*plan.actions, *held):
            subject = _subject(action)
            until = self._outdated_until(subject, action, now)
            if until is None and isinstance(action, Let) and lease is not None and self._is_busy(lease.uid):
                until = now + _SOON  # it may be ending
            if until is not None:
                wake_at = earliest(wake_at, until)
            elif subject not in self._busy:
                self._start(key, action, lease, policy)
        self._wakes.put(_text(key), wake_at)

    def _start(
        self, key: Key, action: Action | Holding, lease: Lease | None, policy: PoolPolicy | None
    ) -> None:
        subject = _subject(action)
        self._busy.add(subject)
        self._touched.setdefault(key, set()).add(subject)
        if isinstance(action, Let | Assign) and action.slice is not None:
            self._given[subject] = action.slice
        if isinstance(action, Let) and action.slice is not None:
            self._tools.cluster.pods.let(action.pod, action.slice)
        task = asyncio.create_task(self._act(key, action, lease, policy))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _forget(self, key: Key, there: Set[str]) -> None:
        """Forget what was noted about subjects that are gone."""
        touched = self._touched.get(key, set())
        for subject in touched - there - self._busy:
            touched.discard(subject)
            self._given.pop(subject, None)
            self._outdated.pop(subject, None)
            self._writing.refused.pop(subject, None)
        if not touched:
            self._touched.pop(key, None)

    def _leave_alone(self, subject: str, action: Action | Holding, kind: type | None = None) -> None:
        """Do nothing, or not the same, about a subject for a moment if it is as it was when this was decided."""
        self._outdated[subject] = _Outdated(
            _version(action), self._tools.clock.now() + _LOOK_AGAIN, kind or object
        )

    def _outdated_until(self, subject: str, action: Action | Holding, now: int) -> int | None:
        """Return until when (ms) an action is left alone, if what it rests on was just found to be no longer so."""
        found = self._outdated.get(subject)
        if found is None or now >= found.until or _version(action) > found.version:
            return None
        return found.until if isinstance(action, found.kind) else None

    def _known(self, key: Key) -> list[Pod]:
        """Return the pods of a lease with what they are being given: until that is heard of nobody else may get it.

        A write that failed may have happened all the same, so its pod is given the same again.
        """
        pods = self._tools.cluster.pods.named(key)
        for pod in pods:
            if pod.slice is not None or pod.over or pod.leaving:
                self._given.pop(pod.uid, None)
        return [replace(pod, slice=self._given[pod.uid]) if pod.uid in self._given else pod for pod in pods]

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
        self._news.set()

    async def _act(
        self, key: Key, action: Action | Holding, lease: Lease | None, policy: PoolPolicy | None
    ) -> None:
        """Write what was decided, unless the lease it was decided for is another when its turn has come."""
        subject = _subject(action)
        pods = self._tools.cluster.pods
        worked = False
        try:
            async with self._tools.writers.turn(patient=isinstance(action, (Tell, Warn))):
                may_write = self._may_write()
                if may_write and self._stands(key, lease):
                    await self._writing.write(action, policy, "" if lease is None else lease.pool)
                    if isinstance(action, (Nominate, Shrink, Drop)):
                        self._leave_alone(subject, action, type(action))  # until it is heard what came of it
                    else:
                        self._outdated.pop(subject, None)
                else:
                    self._given.pop(subject, None)
                    pods.not_let(subject)
                worked = may_write
        except NotFound:
            self._given.pop(subject, None)
            pods.gone(subject)
            pods.placeholder_gone(subject)
            worked = True
        except Conflict:
            pods.not_let(subject)
            # The watch brings what is there by then. It may be behind, so the same is not tried again at once.
            self._leave_alone(subject, action)
            pods.await_next(subject)
            worked = True
        except ApiError as error:
            if not isinstance(error, Unknown):
                pods.not_let(subject)
            log.warning("pods of lease %s: %s", _text(key), error, extra={"object": _text(key)})
        finally:
            if worked:
                self._pauses.worked(_text(key))
            else:
                self._pauses.failed(_text(key), self._tools.clock.now())
            self._busy.discard(subject)
            self._marked.add(key)

    def _stands(self, key: Key, lease: Lease | None) -> bool:
        """Tell whether a lease is still as it was when it was decided about."""
        found = self._look(key)
        return found is not None and found[0] is lease


def _subject(action: Action | Holding) -> str:
    """Return what an action is about: one thing is done at a time to a pod, and to the placeholders of a slice."""
    match action:
        case Create(ref):
            return slice_text(ref)
        case Nominate(one) | Shrink(one) | Drop(one):
            return one.uid
        case _:
            return action.pod.uid


def _version(action: Action | Holding) -> int:
    match action:
        case Create():
            return 0
        case Nominate(one) | Shrink(one) | Drop(one):
            return one.version
        case _:
            return action.pod.version


def _text(key: Key) -> str:
    return f"{key[0]}/{key[1]}"


def _key(text: str) -> Key:
    namespace, _, name = text.partition("/")
    return namespace, name
