"""The writes about pods: what `core.gating` and `core.placeholders` decided, done to one pod.

Of a pod the operator writes the removal of its gate and what goes with it (node affinity, toleration, nomination),
annotations and a condition of its own, and nothing else; placeholders are its own altogether. Each write carries the
version or the uid that was decided on.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound, Refused
from leasehold.adapters.recorder import Subject
from leasehold.adapters.tools import Tools
from leasehold.api.names import (
    ENDING_ANNOTATION,
    LEASE_GATE,
    PLACEHOLDER_ANNOTATION,
    PLACEHOLDER_LABEL,
    POD_CONDITION,
    POOL_TAINT,
    SLICE_ANNOTATION,
    PodReason,
)
from leasehold.core.course import Notice
from leasehold.core.gating import Action, Assign, Delete, Evict, Fail, Let, Tell, Unassign, Warn
from leasehold.core.placeholders import Create, Drop, Holding, Nominate, Shrink
from leasehold.core.pods import Placeholder, Pod, pinned, pinned_to, slice_text
from leasehold.core.policy import PoolPolicy
from leasehold.core.status import amounts_document
from leasehold.core.times import format_time

_QUIET: Final = frozenset({PodReason.LEASE_PENDING, PodReason.ADMITTED, PodReason.NOT_ENFORCED})
"""Reasons that are no cause for concern."""

_WHOLE: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
"""What can be requested without a limit of the same size."""


log = logging.getLogger(__name__)


class PodWriting:
    """Writes to pods. `refused` says when the end of each was last asked for (ms), and `rigid` are the nodes on which
    placeholders cannot be shrunk in place.
    """

    def __init__(self, tools: Tools) -> None:
        self.refused: dict[str, int] = {}
        self.rigid: set[str] = set()
        self._tools = tools

    async def write(self, action: Action | Holding, policy: PoolPolicy | None, pool: str) -> None:
        """Do what was decided. `policy` and the name are those of the lease's pool, where there is one."""
        match action:
            case Create() | Nominate() | Shrink() | Drop():
                done = await self._hold(action, policy)
            case _:
                done = await self._keep(action, pool if policy is not None and policy.taints_nodes else "")
        if done and policy is not None:
            self._tools.metrics.pods.labels(pool=pool, action=type(action).__name__).inc()

    async def _keep(self, action: Action, taint: str) -> bool:
        """Tell whether it was done: an eviction may be refused."""
        pod = action.pod
        match action:
            case Assign(_, node, ref):
                meta = {"annotations": {SLICE_ANNOTATION: slice_text(ref)}}
                await self._patch(pod, {"metadata": meta, "status": {"nominatedNodeName": node}}, status=True)
            case Unassign():
                away: dict[str, Any] = {"annotations": {SLICE_ANNOTATION: None}}
                await self._patch(pod, {"metadata": away, "status": {"nominatedNodeName": None}}, status=True)
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
                return await self._evict(pod)
            case Delete():
                await self._tools.client.delete(paths.pod(pod.namespace, pod.name), pod.uid)
                self.refused[pod.uid] = self._tools.clock.now()
                self._event(pod, PodReason.DELETED, PodReason.DELETED.meaning)
        return True

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

    async def _evict(self, pod: Pod) -> bool:
        """Ask once, and tell whether it was allowed. Whatever the answer is but none at all, a pod that stays is asked
        again, and deleted in the end: a budget that does not allow it is a 429, but two for one pod are a 500.
        """
        refused = False
        try:
            await self._tools.client.evict(pod.namespace, pod.name, pod.uid)
        except ApiError as error:
            if not error.code or isinstance(error, (NotFound, Conflict)):
                raise
            refused = True
            log.info("pod %s: %s", pod.key, error, extra={"object": pod.key})
            if pod.uid not in self.refused:
                text = f"{PodReason.EVICTION_REFUSED.meaning} {error}"
                self._event(pod, PodReason.EVICTION_REFUSED, text[:1000])
        else:
            self._event(pod, PodReason.EVICTED, PodReason.EVICTED.meaning)
        self.refused[pod.uid] = self._tools.clock.now()
        return not refused

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

    # --- placeholders ---

    async def _hold(self, action: Holding, policy: PoolPolicy | None) -> bool:
        """Tell whether it was done: a node may not be able to shrink a placeholder in place."""
        pods, client = self._tools.cluster.pods, self._tools.client
        match action:
            case Create():
                await self._create(action, "" if policy is None else policy.placeholder_priority)
            case Nominate(one, node):
                answer = await client.merge(
                    paths.status(paths.pod(one.namespace, one.name)),
                    {"metadata": {"uid": one.uid}, "status": {"nominatedNodeName": node}},
                )
                pods.placeholder_seen(answer)
            case Shrink(one, amounts):
                return await self._shrink(one, amounts)
            case Drop(one):
                await client.delete(paths.pod(one.namespace, one.name), one.uid)
        return True

    async def _create(self, action: Create, priority: str) -> None:
        terms, cluster = self._tools.placeholders, self._tools.cluster
        lease = cluster.find(action.slice.lease)
        if lease is None:
            return
        requests = amounts_document(action.amounts)
        limits = {name: text for name, text in requests.items() if name not in _WHOLE}
        container = {
            "name": "placeholder",
            "image": terms.image,
            "resources": {"requests": requests, **({"limits": limits} if limits else {})},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
        }
        required = {"nodeSelectorTerms": [pinned_to(action.node)]}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"hold-{lease.uid}-{action.slice.position}-{action.number}",
                "labels": {PLACEHOLDER_LABEL: lease.uid, "app.kubernetes.io/component": "placeholder"},
                "annotations": {
                    SLICE_ANNOTATION: slice_text(action.slice),
                    PLACEHOLDER_ANNOTATION: lease.key,
                },
            },
            "spec": {
                "containers": [container],
                "priorityClassName": priority or terms.priority_class,
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
                "tolerations": [{"operator": "Exists"}],
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "runAsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            },
        }
        try:
            answer = await self._tools.client.create(paths.pod(terms.namespace), body)
        except Refused as error:
            cluster.pods.refused(lease, str(error))
            raise
        cluster.pods.refused(lease, "")
        cluster.pods.placeholder_seen(answer)

    async def _shrink(self, one: Placeholder, amounts: Any) -> bool:
        """Resize in place; where the node cannot, another placeholder will be made instead."""
        row = {"name": "placeholder", "resources": {"requests": amounts_document(amounts)}}
        patch = {"metadata": {"uid": one.uid}, "spec": {"containers": [row]}}
        path = f"{paths.pod(one.namespace, one.name)}/resize"
        try:
            answer = await self._tools.client.merge(path, patch)
        except Refused:
            self.rigid.add(one.node)
            return False
        self._tools.cluster.pods.placeholder_seen(answer)
        return True
