"""Holds pods to their leases: what `core.gating` decides about the pods of a lease is done here, pod by pod."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from leasehold.adapters.enforcement.writing import PodWriting
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound
from leasehold.adapters.pauses import Pauses
from leasehold.adapters.pods import Key
from leasehold.adapters.tools import Tools
from leasehold.core.deadlines import Deadlines
from leasehold.core.gating import Action, Assign, Let, plan_pods
from leasehold.core.lease import Lease
from leasehold.core.placeholders import Create, Drop, Holding, Nominate, Shrink, plan_placeholders
from leasehold.core.pods import Pod, SliceRef
from leasehold.core.policy import PoolPolicy
from leasehold.core.times import SECOND, earliest

_LOOK_AGAIN = SECOND

log = logging.getLogger(__name__)


class Keeper:
    """Keeps the pods of some leases. `look` returns a lease by its name and the policy of its pool, either of them None
    where there is none, or None where the lease is another keeper's. `may_write` is asked before each write.
    """

    def __init__(
        self,
        tools: Tools,
        look: Callable[[Key], tuple[Lease | None, PoolPolicy | None] | None],
        may_write: Callable[[], bool],
    ) -> None:
        self._tools = tools
        self._look = look
        self._may_write = may_write
        self._marked: set[Key] = set()
        self._news = asyncio.Event()
        self._wakes = Deadlines()
        self._pauses = Pauses()
        self._busy: set[str] = set()
        self._writing = PodWriting(tools)
        self._given: dict[str, SliceRef] = {}
        self._outdated: dict[str, tuple[int, int]] = {}
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
        found = self._look(key)
        if found is None or _text(key) in self._pauses:
            return
        cluster = self._tools.cluster
        lease, policy = found
        pods, placeholders = self._known(key), cluster.pods.placeholders(key)
        plan = plan_pods(lease, pods, policy, cluster.nodes, self._writing.refused, now, placeholders)
        self._wakes.put(_text(key), plan.wake_at)
        holds = policy is not None and policy.holds_room
        held = plan_placeholders(lease, pods, placeholders, self._writing.rigid, wanted=holds)
        for action in (*plan.actions, *held):
            subject = _subject(action)
            if subject not in self._busy and not self._is_outdated(subject, action, now):
                self._busy.add(subject)
                if isinstance(action, Let | Assign) and action.slice is not None:
                    self._given[subject] = action.slice
                task = asyncio.create_task(
                    self._act(key, action, policy, "" if lease is None else lease.pool)
                )
                self._tasks.add(task)
                task.add_done_callback(self._done)

    def _is_outdated(self, subject: str, action: Action | Holding, now: int) -> bool:
        """Tell whether an action rests on what is known to be no longer so, a moment after that was found out."""
        version, until = self._outdated.get(subject, (-1, 0))
        return _version(action) <= version and now < until

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

    async def _act(self, key: Key, action: Action | Holding, policy: PoolPolicy | None, pool: str) -> None:
        subject = _subject(action)
        try:
            async with self._tools.writers.turn():
                if self._may_write():
                    await self._writing.write(action, policy, pool)
        except NotFound:
            self._given.pop(subject, None)
            self._tools.cluster.pods.gone(subject)
            self._tools.cluster.pods.placeholder_gone(subject)
        except Conflict:
            # The watch brings what is there by then. It may be behind, so the same is not tried again at once.
            again = self._tools.clock.now() + _LOOK_AGAIN
            self._outdated[subject] = _version(action), again
            self._wakes.put(_text(key), again)
        except ApiError as error:
            log.warning("pods of lease %s: %s", _text(key), error, extra={"object": _text(key)})
            self._pauses.failed(_text(key), self._tools.clock.now())
        else:
            self._pauses.worked(_text(key))
            self._outdated.pop(subject, None)
        finally:
            self._busy.discard(subject)
            self._marked.add(key)


def _subject(action: Action | Holding) -> str:
    """Return what an action is about: one thing is done at a time to a pod, and to the placeholders of a slice."""
    match action:
        case Create(ref):
            return f"{ref.lease}/{ref.position}"
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
