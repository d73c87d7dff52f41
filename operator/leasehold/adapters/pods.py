"""The cluster's pods as last heard: those that name a lease by that lease, and all of them by the node they are on.

Little is kept of each, because there are many: of a pod without a lease its node and what it requests.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from leasehold.api.names import LEASE_LABEL
from leasehold.core.errors import LeaseholdError
from leasehold.core.lease import Lease
from leasehold.core.pods import Placeholder, Pod, Resident, SliceRef, placeholder_of, pod_of, resident_of

Json = Mapping[str, Any]

Key = tuple[str, str]
"""A namespace, and the name of a lease there."""

_REMEMBERED = 10_000

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What is kept of a listed pod; `pod` is None where it names no lease, or cannot be read."""

    uid: str
    pod: Pod | None
    resident: Resident | None


class Residents:
    """Pods of one kind by node. `changed` is told of each node where something did."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._by_uid: dict[str, Resident] = {}
        self._on: dict[str, set[str]] = {}

    def put(self, uid: str, resident: Resident | None) -> None:
        """Take in a pod; None where it takes nothing any more, or not yet."""
        known = self._by_uid.get(uid)
        if known == resident:
            return
        if known is not None:
            del self._by_uid[uid]
            there = self._on[known.node]
            there.discard(uid)
            if not there:
                del self._on[known.node]
            self._changed(known.node)
        if resident is not None:
            self._by_uid[uid] = resident
            self._on.setdefault(resident.node, set()).add(uid)
            self._changed(resident.node)

    def on(self, node: str) -> Iterator[Resident]:
        """Return the pods of a node."""
        return (self._by_uid[uid] for uid in self._on.get(node, ()))

    def uids_on(self, node: str) -> Iterator[tuple[str, Resident]]:
        """Return the pods of a node with their uids."""
        return ((uid, self._by_uid[uid]) for uid in self._on.get(node, ()))

    def nodes(self) -> Iterable[str]:
        """Return the nodes that have any."""
        return self._on.keys()

    def uids(self) -> Iterable[str]:
        """Return the pods there are."""
        return self._by_uid.keys()

    def __len__(self) -> int:
        return len(self._by_uid)


class Pods:
    """Shared memory of pods. It records and tells; it does not decide.

    `watched` tells whether pods are heard of at all, and `refusals` says, by a lease's uid, why it has no placeholder.
    `node_changed` and `lease_changed` are told what concerns them; `exists` is asked whether there is a lease of a uid.
    `letting` are the pods whose gate is being lifted, with what they are given and the version that was decided on.
    """

    def __init__(
        self,
        node_changed: Callable[[str], None],
        lease_changed: Callable[[Key], None],
        exists: Callable[[str], bool],
        now: Callable[[], int],
    ) -> None:
        self.watched = False
        self.letting: dict[str, tuple[SliceRef, int]] = {}
        self._now = now
        self.leased = Residents(node_changed)
        self.others = Residents(node_changed)
        self.holding = Residents(node_changed)
        self.refusals: dict[str, str] = {}
        self._placeholders: dict[Key, dict[str, Placeholder]] = {}
        self._placeholder_key: dict[str, Key] = {}
        self._lease_changed = lease_changed
        self._exists = exists
        self._by_lease: dict[Key, dict[str, Pod]] = {}
        self._key_of: dict[str, Key] = {}
        self._last_done: dict[str, Pod] = {}
        self._running: Mapping[str, Mapping[str, str]] | None = None
        self._awaited: set[str] = set()
        # An answer to our own write may come in after the watch said that the pod is gone.
        self._gone: OrderedDict[str, int] = OrderedDict()

    # --- what is asked ---

    def of(self, lease: Lease) -> list[Pod]:
        """Return the pods that name a lease; and the last of those that finished and were, or are being, removed, as
        it was before.
        """
        found = self.named((lease.namespace, lease.name))
        last = self._last_done.get(lease.uid)
        return found if last is None else [*found, last]

    def named(self, key: Key) -> list[Pod]:
        """Return the pods there are that name a lease by its name."""
        return list(self._by_lease.get(key, {}).values())

    def keys(self) -> list[Key]:
        """Return the names of leases that pods or placeholders name."""
        return [*self._by_lease.keys() | self._placeholders.keys()]

    def any(self, key: Key) -> bool:
        """Tell whether any pod or placeholder names a lease by its name."""
        return key in self._by_lease or key in self._placeholders

    def placeholders(self, key: Key) -> list[Placeholder]:
        """Return the placeholders of a lease, by its name."""
        return list(self._placeholders.get(key, {}).values())

    def running(self) -> Mapping[str, Mapping[str, str]]:
        """Return, by node, the pods that run there with a slice: the lease of each, by uids, the newest pod last."""
        if self._running is None:
            found: dict[str, list[Pod]] = {}
            for pods in self._by_lease.values():
                for pod in pods.values():
                    if pod.node and pod.slice is not None and not pod.over:
                        found.setdefault(pod.node, []).append(pod)
            for rows in found.values():
                rows.sort(key=lambda pod: (pod.created, pod.uid))
            self._running = {
                node: {pod.uid: pod.slice.lease for pod in rows if pod.slice} for node, rows in found.items()
            }
        return self._running

    def on(self, node: str) -> list[Resident]:
        """Return all pods that take something on a node."""
        return [*self.leased.on(node), *self.holding.on(node), *self.others.on(node)]

    # --- what is heard ---

    def seen(self, document: Json) -> None:
        """Take in a pod, from the watch or from an answer to our own write: that may have lost its label meanwhile."""
        if LEASE_LABEL in (document["metadata"].get("labels") or {}):
            self._take(self.note(document))

    def await_next(self, uid: str) -> None:
        """Tell of a pod's next version, whatever is different in it: a write waits for it."""
        if uid in self._key_of:
            self._awaited.add(uid)

    def let(self, pod: Pod, given: SliceRef) -> None:
        """Take in that a pod's gate is being lifted: it counts as there until more is heard of it, or `not_let`."""
        self.letting[pod.uid] = given, pod.version

    def not_let(self, uid: str) -> None:
        """Take in that a pod's gate was not lifted after all: the end of its lease may wait for that."""
        if self.letting.pop(uid, None) is not None and (key := self._key_of.get(uid)) is not None:
            self._lease_changed(key)

    def note(self, document: Json) -> Seen:
        """Read a pod that names a lease."""
        uid = document["metadata"]["uid"]
        try:
            return Seen(uid, pod_of(document), resident_of(document))
        except (LeaseholdError, KeyError, TypeError, ValueError) as error:
            meta = document["metadata"]
            log.error("Pod %s/%s cannot be read: %s", meta.get("namespace"), meta.get("name"), error)
            return Seen(uid, None, None)

    def _take(self, seen: Seen) -> None:
        pod = seen.pod
        if pod is None or pod.version <= self._gone.get(pod.uid, -1):
            return
        key = (pod.namespace, pod.lease)
        before = self._key_of.get(pod.uid)
        known = None if before is None else self._by_lease[before][pod.uid]
        if known is not None and pod.version < known.version:
            return
        if pod.over:
            # By this clock: what waits for pods to be over must not be early where a node's clock is behind.
            since = known.since if known is not None and known.over else self._now()
            pod = replace(pod, since=max(pod.since, since))
        decided_on = self.letting.get(pod.uid, (None, pod.version))[1]
        if decided_on < pod.version:
            del self.letting[pod.uid]  # that was it, or makes it fail
        if known is not None and pod.leaving:
            self._remember_done(known)
        if before is not None and before != key:
            self._drop(pod.uid)
            self._lease_changed(before)
        self._key_of[pod.uid] = key
        self._by_lease.setdefault(key, {})[pod.uid] = pod
        self.leased.put(pod.uid, seen.resident)
        awaited = pod.uid in self._awaited and known is not None and known.version < pod.version
        if known != pod or awaited or decided_on < pod.version:
            self._awaited.discard(pod.uid)
            self._running = None
            self._lease_changed(key)

    def gone(self, uid: str, version: int | None = None) -> None:
        """Take in that a pod no longer exists, or names no lease any more, as of a version (None: the one known)."""
        self.leased.put(uid, None)
        key = self._key_of.get(uid)
        if key is None:
            return
        known = self._by_lease[key][uid]
        self._remember_gone(uid, known.version if version is None else version)
        self._remember_done(known)
        self._drop(uid)
        self.letting.pop(uid, None)
        self._lease_changed(key)

    def _remember_gone(self, uid: str, version: int) -> None:
        self._gone[uid] = version
        if len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)

    def forget_lease(self, uid: str) -> None:
        """Take in that a lease no longer exists: what was remembered for it matters no more."""
        self._last_done.pop(uid, None)
        self.refusals.pop(uid, None)

    def _remember_done(self, pod: Pod) -> None:
        """Keep a pod that finished by itself: it may be removed before its lease has heard."""
        if pod.slice is None or pod.gated or not pod.over or pod.leaving:
            return
        lease = pod.slice.lease
        last = self._last_done.get(lease)
        if (last is None or last.since <= pod.since) and self._exists(lease):
            self._last_done[lease] = pod

    def _drop(self, uid: str) -> None:
        self._running = None
        self._awaited.discard(uid)
        key = self._key_of.pop(uid)
        del self._by_lease[key][uid]
        if not self._by_lease[key]:
            del self._by_lease[key]

    def listed(self, found: Iterable[Seen], version: int) -> None:
        """Take in a complete list of pods that name a lease: what is not in it is gone, unless it was seen later."""
        here = set()
        for seen in found:
            here.add(seen.uid)
            self._take(seen)
        for uid in self._key_of.keys() - here:
            if self._by_lease[self._key_of[uid]][uid].version <= version:
                self.gone(uid, version)

    # --- placeholders ---

    def refused(self, lease: Lease, why: str) -> None:
        """Note why the API server refuses a lease's placeholder; "" where it does not."""
        if self.refusals.get(lease.uid, "") != why:
            self.refusals[lease.uid] = why
            if not why:
                del self.refusals[lease.uid]
            self._lease_changed((lease.namespace, lease.name))

    def placeholder_seen(self, document: Json) -> None:
        """Take in a placeholder, from the watch or from an answer to our own write."""
        self._take_placeholder(document["metadata"]["uid"], self.note_placeholder(document))

    def note_placeholder(self, document: Json) -> Placeholder | None:
        """Read a placeholder; one that cannot be read holds nothing for anybody."""
        try:
            return placeholder_of(document)
        except (LeaseholdError, KeyError, TypeError, ValueError) as error:
            log.error("placeholder %s cannot be read: %s", document["metadata"]["name"], error)
            return None

    def _take_placeholder(self, uid: str, found: Placeholder | None) -> None:
        key = self._placeholder_key.get(uid)
        known = None if key is None else self._placeholders[key][uid]
        if found is None or found.version <= self._gone.get(uid, -1):
            return
        if known is not None and found.version < known.version:
            return
        self._placeholder_key[uid] = found.key
        self._placeholders.setdefault(found.key, {})[uid] = found
        on_node = found.node and not found.over
        self.holding.put(uid, Resident(found.node, found.requests, found.slice) if on_node else None)
        if known != found:
            self._lease_changed(found.key)

    def placeholder_gone(self, uid: str, version: int | None = None) -> None:
        """Take in that a placeholder no longer exists, as of a version (None: the one known)."""
        self.holding.put(uid, None)
        key = self._placeholder_key.pop(uid, None)
        if key is not None:
            known = self._placeholders[key].pop(uid)
            self._remember_gone(uid, known.version if version is None else version)
            if not self._placeholders[key]:
                del self._placeholders[key]
            self._lease_changed(key)

    def placeholders_listed(self, found: Iterable[Placeholder | None], version: int) -> None:
        """Take in a complete list: what is not in it is gone, unless it was seen later."""
        here = {one.uid: one for one in found if one is not None}
        for uid, one in here.items():
            self._take_placeholder(uid, one)
        for uid in self._placeholder_key.keys() - here.keys():
            if self._placeholders[self._placeholder_key[uid]][uid].version <= version:
                self.placeholder_gone(uid, version)


class Placeholders:
    """The audience of the informer for placeholders."""

    def __init__(self, pods: Pods, heard: Callable[[], None]) -> None:
        self._pods = pods
        self._heard = heard

    def listed(self, items: list[Placeholder | None], version: int) -> None:
        """Take in a complete list."""
        self._heard()
        self._pods.placeholders_listed(items, version)

    def changed(self, kind: str, item: dict[str, Any]) -> None:
        """Take in one change of a placeholder."""
        self._heard()
        if kind == "DELETED":
            self._pods.placeholder_gone(item["metadata"]["uid"], int(item["metadata"]["resourceVersion"]))
        else:
            self._pods.placeholder_seen(item)


class LeasedPods:
    """The audience of the informer for pods that name a lease."""

    def __init__(self, pods: Pods, heard: Callable[[], None]) -> None:
        self._pods = pods
        self._heard = heard

    def listed(self, items: list[Seen], version: int) -> None:
        """Take in a complete list."""
        self._heard()
        self._pods.listed(items, version)

    def changed(self, kind: str, item: dict[str, Any]) -> None:
        """Take in one change of a pod."""
        self._heard()
        if kind == "DELETED":
            self._pods.gone(item["metadata"]["uid"], int(item["metadata"]["resourceVersion"]))
        else:
            self._pods.seen(item)


class OtherPods:
    """The audience of the informer for pods that name no lease. One that is over leaves its selection."""

    def __init__(self, pods: Pods, heard: Callable[[], None]) -> None:
        self._pods = pods
        self._heard = heard

    def note(self, item: Json) -> Seen:
        """Read a pod; one that cannot be read takes nothing."""
        meta = item["metadata"]
        try:
            return Seen(meta["uid"], None, resident_of(item))
        except (KeyError, TypeError, ValueError) as error:
            log.error("Pod %s/%s cannot be read: %s", meta.get("namespace"), meta.get("name"), error)
            return Seen(meta["uid"], None, None)

    def listed(self, items: list[Seen], version: int) -> None:
        """Take in a complete list: what is not in it takes nothing any more."""
        self._heard()
        others = self._pods.others
        for uid in set(others.uids()) - {seen.uid for seen in items}:
            others.put(uid, None)
        for seen in items:
            others.put(seen.uid, seen.resident)

    def changed(self, kind: str, item: dict[str, Any]) -> None:
        """Take in one change of a pod."""
        self._heard()
        seen = self.note(item)
        self._pods.others.put(seen.uid, None if kind == "DELETED" else seen.resident)
