"""Holds pods to their leases: what `core.gating` decides about the pods of a lease is done here, pod by pod.

Of a pod the operator writes the removal of its gate and what goes with it (node affinity, toleration), annotations
and a condition of its own, and nothing else. Each write carries the version or the uid that was decided on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound
from leasehold.adapters.pauses import Pauses
from leasehold.adapters.pods import Key
from leasehold.adapters.pool.tools import Tools
from leasehold.adapters.recorder import Subject
from leasehold.api.names import (
    ENDING_ANNOTATION,
    LEASE_GATE,
    POD_CONDITION,
    POOL_TAINT,
    SLICE_ANNOTATION,
    PodReason,
)
from leasehold.core.course import Notice
from leasehold.core.deadlines import Deadlines
from leasehold.core.gating import Action, Delete, Evict, Fail, Let, Tell, Warn, plan_pods
from leasehold.core.lease import Lease
from leasehold.core.pods import Pod, pinned, slice_text
from leasehold.core.policy import PoolPolicy
from leasehold.core.times import earliest, format_time

_QUIET = frozenset({PodReason.LEASE_PENDING, PodReason.ADMITTED, PodReason.NOT_ENFORCED})
"""Reasons that are no cause for concern."""

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
        self._asked: dict[Key, dict[str, int]] = {}
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
        if _text(key) in self._pauses:
            return
        cluster = self._tools.cluster
        found = self._look(key)
        pods = [] if found is None else cluster.pods.named(key)
        self._forget(key, pods)
        if found is None or not pods:
            self._wakes.put(_text(key), None)
            return
        lease, policy = found
        plan = plan_pods(lease, pods, policy, cluster.nodes, self._asked.get(key, {}), now)
        self._wakes.put(_text(key), plan.wake_at)
        taint = "" if lease is None or policy is None or not policy.taints_nodes else lease.pool
        for action in plan.actions:
            if action.pod.uid not in self._busy:
                self._busy.add(action.pod.uid)
                task = asyncio.create_task(self._act(key, action, lease, taint))
                self._tasks.add(task)
                task.add_done_callback(self._done)

    def _forget(self, key: Key, pods: Iterable[Pod]) -> None:
        """Forget of pods that are gone when their end was asked for."""
        asked = self._asked.pop(key, {})
        kept = {pod.uid: asked[pod.uid] for pod in pods if pod.uid in asked}
        if kept:
            self._asked[key] = kept

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
        self._news.set()

    async def _act(self, key: Key, action: Action, lease: Lease | None, taint: str) -> None:
        """Write what was decided, unless the lease it was decided for is another when its turn has come."""
        pod = action.pod
        worked = False
        try:
            async with self._tools.writers.turn(patient=isinstance(action, (Tell, Warn))):
                if self._may_write():
                    found = self._look(key)
                    if found is not None and found[0] is lease:
                        await self._write(key, action, taint)
                    worked = True
        except NotFound:
            self._tools.cluster.pods.gone(pod.uid)
            worked = True
        except Conflict:
            pass  # the watch brings what is there by then
        except ApiError as error:
            log.warning("pod %s: %s", pod.key, error, extra={"object": pod.key})
        finally:
            if worked:
                self._pauses.worked(_text(key))
            else:
                self._pauses.failed(_text(key), self._tools.clock.now())
            self._busy.discard(pod.uid)
            self._marked.add(key)

    # --- the writes ---

    async def _write(self, key: Key, action: Action, taint: str) -> None:
        pod = action.pod
        match action:
            case Let():
                await self._let(action, taint)
            case Tell(_, reason, message):
                await self._say(pod, reason, message)
            case Warn(_, text):
                await self._patch(pod, {"metadata": {"annotations": {ENDING_ANNOTATION: text or None}}})
                if text:
                    self._event(
                        pod, PodReason.LEASE_ENDING, f"Its lease ends: {text}. The pod is evicted then."
                    )
            case Fail(_, reason, message):
                status = {"phase": "Failed", "reason": str(reason), "message": message}
                await self._patch(pod, {"status": status}, status=True)
                self._event(pod, reason, message)
            case Evict():
                await self._evict(key, pod)
            case Delete():
                await self._tools.client.delete(paths.pod(pod.namespace, pod.name), pod.uid)
                self._note_asked(key, pod)
                self._event(pod, PodReason.DELETED, PodReason.DELETED.meaning)

    async def _let(self, action: Let, taint: str) -> None:
        pod = action.pod
        spec: dict[str, Any] = {"schedulingGates": [{"$patch": "delete", "name": LEASE_GATE}]}
        meta: dict[str, Any] = {}
        if action.slice is not None:
            meta["annotations"] = {SLICE_ANNOTATION: slice_text(action.slice)}
            required = {"nodeSelectorTerms": pinned(pod, action.node)}
            spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
        if taint and action.slice is not None:
            mine = {"key": POOL_TAINT, "operator": "Equal", "value": taint, "effect": "NoSchedule"}
            spec["tolerations"] = [*pod.tolerations, *([] if mine in pod.tolerations else [mine])]
        await self._patch(pod, {"metadata": meta, "spec": spec})
        if pod.told[0]:
            await self._say(pod, action.reason, action.reason.meaning, fenced=False)

    async def _say(self, pod: Pod, reason: PodReason, message: str, *, fenced: bool = True) -> None:
        met = reason in (PodReason.ADMITTED, PodReason.NOT_ENFORCED)
        condition = {
            "type": POD_CONDITION,
            "status": "True" if met else "False",
            "reason": str(reason),
            "message": message,
            "lastTransitionTime": format_time(self._tools.clock.now() // 1000 * 1000),
        }
        await self._patch(pod, {"status": {"conditions": [condition]}}, status=True, fenced=fenced)
        if pod.told[0] != reason:
            self._event(pod, reason, message)

    async def _evict(self, key: Key, pod: Pod) -> None:
        """Ask once. Whatever the answer is but none at all, a pod that stays is asked again, and deleted in the end: a
        budget that does not allow it is a 429, but two for one pod are a 500.
        """
        try:
            await self._tools.client.evict(pod.namespace, pod.name, pod.uid)
        except ApiError as error:
            if not error.code or isinstance(error, (NotFound, Conflict)):
                raise
            log.info("pod %s: %s", pod.key, error, extra={"object": pod.key})
            if pod.uid not in self._asked.get(key, {}):
                text = f"{PodReason.EVICTION_REFUSED.meaning} {error}"
                self._event(pod, PodReason.EVICTION_REFUSED, text[:1000])
        else:
            self._event(pod, PodReason.EVICTED, PodReason.EVICTED.meaning)
        self._note_asked(key, pod)

    def _note_asked(self, key: Key, pod: Pod) -> None:
        self._asked.setdefault(key, {})[pod.uid] = self._tools.clock.now()

    async def _patch(
        self, pod: Pod, patch: dict[str, Any], *, status: bool = False, fenced: bool = True
    ) -> None:
        """Write to a pod if it is still the one that was decided on; with `fenced`, the very version."""
        meta = {**patch.get("metadata", {}), "uid": pod.uid}
        if fenced:
            meta["resourceVersion"] = str(pod.version)
        path = paths.pod(pod.namespace, pod.name)
        answer = await self._tools.client.merge(
            paths.status(path) if status else path, {**patch, "metadata": meta}
        )
        self._tools.cluster.pods.seen(answer)

    def _event(self, pod: Pod, reason: PodReason, message: str) -> None:
        subject = Subject("v1", "Pod", pod.namespace, pod.name, pod.uid)
        self._tools.recorder.note(subject, Notice(str(reason), message, warning=reason not in _QUIET))


def _text(key: Key) -> str:
    return f"{key[0]}/{key[1]}"


def _key(text: str) -> Key:
    namespace, _, name = text.partition("/")
    return namespace, name
