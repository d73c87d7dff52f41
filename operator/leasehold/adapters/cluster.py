"""The cluster as last heard: nodes, reports, sessions, namespaces, and every lease by its pool. It records and tells;
it does not decide.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, NamedTuple, Protocol

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.pods import Key, Pods
from leasehold.core.course import Session
from leasehold.core.errors import InvalidObject, LeaseholdError
from leasehold.core.lease import Lease, lease_of
from leasehold.core.membership import Membership, pools_of
from leasehold.core.neighbours import Heard, digest
from leasehold.core.nodes import Node, Report, node_of, report_of, with_history
from leasehold.core.selectors import Selector
from leasehold.core.times import SECOND

Json = Mapping[str, Any]

_REMEMBERED = 20_000

log = logging.getLogger(__name__)


class Member(Protocol):
    """A pool's worker, as far as news go."""

    def lease_seen(self, lease: Lease) -> None:
        """Take in a lease of the pool."""

    def lease_gone(self, uid: str) -> None:
        """Take in that a lease of the pool no longer exists."""

    def leases_listed(self) -> None:
        """Take in that a complete list was read."""

    def node_changed(self, name: str) -> None:
        """Take in that a node, its report or its pools changed."""

    def report_changed(self, report: Report) -> None:
        """Take in a node's new report."""

    def session_changed(self, key: tuple[str, str]) -> None:
        """Take in that a session was renewed, or is gone."""

    def namespace_changed(self, name: str) -> None:
        """Take in that a namespace came, went, or has other labels."""

    def pods_changed(self, key: Key) -> None:
        """Take in that pods that name a lease of the pool changed."""

    def holds_on(self, node: str) -> bool:
        """Tell whether the pool's leases hold something on a node."""
        ...


class Noted(NamedTuple):
    """A lease of a list, by its uid; None where it cannot be read."""

    uid: str
    lease: Lease | None


class Cluster:
    """Shared memory of all pool workers in this process.

    `awaited` are the sub-leases without a pool, by the name of the parent that has none yet either, or is not there.
    `joining` are the nodes that may not be lent yet because they came to their pool a moment ago, with the version as
    of which they are in it; None where no other replica leads other pools. `nodes_heard` returns the version up to
    which Nodes were heard of, and `leases_heard` is the latest version of a lease seen. `arrivals` are the versions at
    which leases were first seen: what is written to them before their pool is led here costs nobody its turn.
    """

    def __init__(self, clock: SteadyClock) -> None:
        self.clock = clock
        self.nodes: dict[str, Node] = {}
        self.reports: dict[str, Report] = {}
        self.sessions: dict[tuple[str, str], Session] = {}
        self.leases: dict[str, dict[str, Lease]] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self.gone_namespaces: frozenset[str] = frozenset()
        self.selectors: dict[str, Selector] = {}
        self.generations: dict[str, str] = {}
        self._digest = ""
        self.joining: dict[str, int] | None = None
        self.nodes_heard: Callable[[], int] = lambda: 0
        self.leases_heard = 0
        self.membership: dict[str, Membership] = {}
        self.workers: dict[str, Member] = {}
        self.pods = Pods(
            self._tell_node, self._pods_changed, lambda uid: self.find(uid) is not None, clock.now
        )
        self.strays: set[Key] = set()
        self.stray_news = asyncio.Event()
        self.awaited: dict[Key, set[str]] = {}
        self.arrivals: dict[str, int] = {}
        self.homeless: set[str] = set()
        self.homeless_news = asyncio.Event()
        self.last_event = clock.now()
        self.events_seen = 0
        self._pool_of: dict[str, str] = {}
        self._by_namespace: dict[str, set[str]] = {}
        self._by_name: dict[Key, str] = {}
        # An answer to our own write may come in after the watch said that the object is gone.
        self._gone: OrderedDict[str, None] = OrderedDict()

    def heard(self) -> None:
        """Note that the API server told us something."""
        self.last_event = self.clock.now()
        self.events_seen += 1

    # --- nodes and reports ---

    def node_seen(self, document: Json) -> None:
        """Take in a Node; an older version than the one known is ignored, and one that cannot be read is logged."""
        try:
            node = node_of(document)
        except (LeaseholdError, ValueError, KeyError) as error:
            log.warning("Node %s cannot be read: %s", document["metadata"]["name"], error)
            return
        known = self.nodes.get(node.name)
        if known is not None and known.uid == node.uid and node.version < known.version:
            return
        self.nodes[node.name] = node
        if known is None or _differs(known, node):
            self._place(node.name)

    def node_gone(self, name: str) -> None:
        """Take in that a Node was deleted."""
        if self.nodes.pop(name, None) is not None:
            self._place(name)

    def nodes_listed(self, names: Iterable[str], version: int) -> None:
        """Drop the nodes that a complete list does not name; the watch may have missed their end.

        One that was seen after the list was made stays.
        """
        for name in self.nodes.keys() - set(names):
            if self.nodes[name].version <= version:
                self.node_gone(name)

    def report_seen(self, document: Json) -> None:
        """Take in a NodeReport. One that cannot be read is logged and counts as missing."""
        try:
            report = report_of(document)
        except (InvalidObject, ValueError, KeyError) as error:
            log.warning("NodeReport %s cannot be read: %s", document["metadata"]["name"], error)
            return
        if report is None:
            return
        known = self.reports.get(report.node)
        if known is not None and report.version < known.version:
            return
        self.reports[report.node] = report = with_history(report, known)
        for worker in self._workers_of(report.node):
            worker.report_changed(report)

    def report_gone(self, name: str) -> None:
        """Take in that a NodeReport was deleted."""
        if self.reports.pop(name, None) is not None:
            self._tell_node(name)

    def reports_listed(self, names: Iterable[str], version: int) -> None:
        """Drop the reports that a complete list does not name, but none that was seen after the list was made."""
        for name in self.reports.keys() - set(names):
            if self.reports[name].version <= version:
                self.report_gone(name)

    def _place(self, name: str) -> None:
        """Find out which pools select a node, and tell those that did or do."""
        node = self.nodes.get(name)
        self._move(name, Membership(()) if node is None else pools_of(node, self.selectors))

    def _place_in(self, pool: str) -> None:
        """Find out which nodes one pool selects: with many pools, asking all of them for each would take minutes."""
        worker, selector = self.workers.get(pool), self.selectors.get(pool)
        for name, node in self.nodes.items():
            known = self.membership.get(name, Membership(())).pools
            selected = selector is not None and selector.matches(node.labels)
            if selected and pool not in known:
                self._move(name, Membership(tuple(sorted((*known, pool)))))
            elif pool in known and not selected:
                self._move(name, Membership(tuple(other for other in known if other != pool)))
            elif worker is not None and (selected or worker.holds_on(name)):
                worker.node_changed(name)

    def _move(self, name: str, after: Membership) -> None:
        """Note which pools select a node now, and tell those that did or do, or hold something there."""
        before = self.membership.pop(name, Membership(()))
        if after.pools:
            self.membership[name] = after
        node = self.nodes.get(name)
        if self.joining is not None and before.pools != after.pools:
            if node is None or not after.pools:
                self.joining.pop(name, None)
            else:
                self.joining[name] = node.version
        concerned = {*before.pools, *after.pools}
        for pool, worker in self.workers.items():
            if pool in concerned or worker.holds_on(name):
                worker.node_changed(name)

    def _workers_of(self, node: str) -> list[Member]:
        return [worker for worker in self.workers.values() if self._concerns(worker, node)]

    def _concerns(self, worker: Member, node: str) -> bool:
        pools = self.membership.get(node, Membership(())).pools
        return any(self.workers.get(pool) is worker for pool in pools) or worker.holds_on(node)

    def _tell_node(self, name: str) -> None:
        for worker in self._workers_of(name):
            worker.node_changed(name)

    # --- pools ---

    def pool_joined(self, name: str, worker: Member, selector: Selector, generation: str = "") -> None:
        """Add a pool, or take in its changed selector, that of a generation of its spec."""
        self.workers[name] = worker
        self.selectors[name] = selector
        self.generations[name] = generation
        self._digest = ""
        self._place_in(name)

    def heard_of(self) -> Heard:
        """Return what decisions made now rest on."""
        self._digest = self._digest or digest(self.generations)
        return Heard(self.nodes_heard(), self._digest, self.leases_heard)

    def settle(self, level: int | None) -> None:
        """Let the nodes be lent that all others have heard of; `level` is up to which version (None: all of them)."""
        joining = self.joining or {}
        for name in [name for name, since in joining.items() if level is None or since <= level]:
            del joining[name]
            self._tell_node(name)

    def pool_left(self, name: str) -> None:
        """Forget a pool that no longer exists."""
        self.workers.pop(name, None)
        self.selectors.pop(name, None)
        self.generations.pop(name, None)
        self._digest = ""
        self._place_in(name)
        if self.leases.get(name):
            self.homeless |= self.leases[name].keys()
            self.homeless_news.set()

    def held_elsewhere(self, node: str, pool: str) -> bool:
        """Tell whether another pool's leases hold something on a node."""
        return any(worker.holds_on(node) for name, worker in self.workers.items() if name != pool)

    # --- namespaces ---

    def namespace_seen(self, name: str, labels: Mapping[str, str]) -> None:
        """Take in a namespace that lives."""
        known = self.namespaces.get(name)
        self.namespaces[name] = labels
        self._namespaces_gone(self.gone_namespaces - {name})
        if known != labels:
            self._tell_namespace(name)

    def namespace_gone(self, name: str) -> None:
        """Take in that a namespace was deleted, or is being deleted; what leases it has are to be given back."""
        known = self.namespaces.pop(name, None)
        if name in self._by_namespace:
            self._namespaces_gone(self.gone_namespaces | {name})
        if known is not None:
            self._tell_namespace(name)

    def doubtful_namespaces(self) -> frozenset[str]:
        """Return the namespaces of leases that are not known to live: gone, or newer than the last word of them."""
        return frozenset(self._by_namespace.keys() - self.namespaces.keys())

    def namespaces_missed(self, doubtful: Set[str], living: Set[str]) -> None:
        """Compare with a complete list, made after these were found doubtful, what lives: the others are gone."""
        still = doubtful & self.doubtful_namespaces()
        self._namespaces_gone(self.gone_namespaces - still | (still - living))

    def leases_in(self, namespace: str) -> Set[str]:
        """Return the uids of a namespace's leases, whatever their pool."""
        return self._by_namespace.get(namespace, frozenset())

    def _namespaces_gone(self, names: Set[str]) -> None:
        before, self.gone_namespaces = self.gone_namespaces, frozenset(names)
        for name in sorted(self.gone_namespaces - before):
            log.warning("namespace %s is gone or going; its leases are given back", name)
        for name in sorted(self.gone_namespaces ^ before):
            self._tell_namespace(name)

    def _tell_namespace(self, name: str) -> None:
        for worker in self.workers.values():
            worker.namespace_changed(name)

    # --- sessions ---

    def session_seen(self, item: Mapping[str, Any]) -> None:
        """A session is renewed when its object changes, at the moment we see it: no two clocks are compared."""
        meta, spec = item["metadata"], item.get("spec") or {}
        key = (meta["namespace"], meta["name"])
        known = self.sessions.get(key)
        version = int(meta["resourceVersion"])
        if known is not None and known.version >= version:
            return
        seconds = spec.get("leaseDurationSeconds")
        duration = seconds * SECOND if isinstance(seconds, int) and seconds > 0 else None
        self.sessions[key] = Session(*key, version, self.clock.now(), duration)
        for worker in self.workers.values():
            worker.session_changed(key)

    def session_gone(self, key: tuple[str, str]) -> None:
        """Take in that a session was deleted."""
        if self.sessions.pop(key, None) is not None:
            for worker in self.workers.values():
                worker.session_changed(key)

    # --- leases: the audience of the informer ---

    def note(self, item: dict[str, Any]) -> Noted:
        """Read a listed lease; one that cannot be read exists all the same."""
        return Noted(item["metadata"]["uid"], self.read(item))

    def listed(self, items: list[Noted], version: int) -> None:
        """Take in a complete list of leases: what is not in it is gone, unless it was seen later."""
        self.heard()
        seen = set()
        for uid, lease in items:
            seen.add(uid)
            if lease is not None:
                self.lease_seen(lease)
        for uid in self._pool_of.keys() - seen:
            if self.leases[self._pool_of[uid]][uid].version <= version:
                self._lease_gone(uid)
        for worker in self.workers.values():
            worker.leases_listed()

    def changed(self, kind: str, item: dict[str, Any]) -> None:
        """Take in one change of a lease."""
        self.heard()
        meta = item["metadata"]
        if kind == "DELETED":
            self._lease_gone(meta["uid"])
            return
        known = self.find(meta["uid"])
        if known is not None and _is_known(known, int(meta["resourceVersion"]), item.get("status") or {}):
            return  # mostly the echo of our own write, which need not be read in full
        lease = self.read(item)
        if lease is not None:
            self.lease_seen(lease)

    def lease_seen(self, lease: Lease) -> None:
        """Take in a lease, from a watch, a list or an answer to our own write, whichever comes first."""
        self.leases_heard = max(self.leases_heard, lease.version)
        known = self.find(lease.uid)
        if lease.uid in self._gone or (known is not None and _is_known(known, lease.version, lease.status)):
            return
        if known is None and lease.namespace in self.gone_namespaces:
            # Nothing can be created in a namespace that is going: it was made anew. The next look at it tells.
            self.gone_namespaces -= {lease.namespace}
        if known is not None and known.pool != lease.pool:
            self._leave_pool(known)
        self.leases.setdefault(lease.pool, {})[lease.uid] = lease
        self._pool_of[lease.uid] = lease.pool
        self._by_namespace.setdefault(lease.namespace, set()).add(lease.uid)
        key = (lease.namespace, lease.name)
        self._by_name[key] = lease.uid
        if self.awaited and lease.pool and key in self.awaited:
            self.homeless |= self.awaited.pop(key)
            self.homeless_news.set()
        self.arrivals.setdefault(lease.uid, lease.version)
        worker = self.workers.get(lease.pool)
        if worker is not None:
            worker.lease_seen(lease)
        else:
            self.homeless.add(lease.uid)
            self.homeless_news.set()
            if self.pods.any(key):
                self._pods_changed(key)

    def find(self, uid: str) -> Lease | None:
        """Return a lease by its uid."""
        pool = self._pool_of.get(uid)
        return None if pool is None else self.leases[pool].get(uid)

    def named(self, key: Key) -> Lease | None:
        """Return a lease by its namespace and name."""
        uid = self._by_name.get(key)
        return None if uid is None else self.find(uid)

    def is_gone(self, uid: str) -> bool:
        """Tell whether the end of a lease was heard of lately."""
        return uid in self._gone

    def lease_gone(self, uid: str) -> None:
        """Take in that a lease no longer exists."""
        self._lease_gone(uid)

    def _lease_gone(self, uid: str) -> None:
        self._gone[uid] = None
        if len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)
        lease = self.find(uid)
        if lease is None:
            return
        del self._pool_of[uid]
        key = (lease.namespace, lease.name)
        if self._by_name.get(key) == uid:
            del self._by_name[key]
        there = self._by_namespace[lease.namespace]
        there.discard(uid)
        if not there:
            del self._by_namespace[lease.namespace]
            self.gone_namespaces -= {lease.namespace}
        if lease.parent and not lease.pool:
            self._await_no_more(lease)
        self._leave_pool(lease)
        self.arrivals.pop(uid, None)
        self.pods.forget_lease(uid)
        if self.pods.any(key):
            self._pods_changed(key)

    def _await_no_more(self, child: Lease) -> None:
        waiting = self.awaited.get(child.parent_key, set())
        waiting.discard(child.uid)
        if not waiting:
            self.awaited.pop(child.parent_key, None)

    # --- pods ---

    def _pods_changed(self, key: Key) -> None:
        """Tell whoever looks after the pods of a lease; those of none, and of a pool that is not there, are strays."""
        lease = self.named(key)
        worker = None if lease is None else self.workers.get(lease.pool)
        if worker is not None:
            worker.pods_changed(key)
        elif self.pods.any(key):
            self.strays.add(key)
            self.stray_news.set()
        else:
            self.strays.discard(key)

    def _leave_pool(self, lease: Lease) -> None:
        del self.leases[lease.pool][lease.uid]
        worker = self.workers.get(lease.pool)
        if worker is not None:
            worker.lease_gone(lease.uid)

    def read(self, item: dict[str, Any]) -> Lease | None:
        """Read a lease; one that cannot be read is logged, and stays what it was.

        Of one that is known as it is here, the known is returned: no lease is kept in memory twice.
        """
        try:
            meta = item["metadata"]
            known = self.find(meta["uid"])
            if (
                known is not None
                and known.version == int(meta.get("resourceVersion") or 0)
                and known.status == (item.get("status") or {})
            ):
                return known
            return lease_of(item)
        except (InvalidObject, KeyError, TypeError, ValueError) as error:
            meta = item.get("metadata", {})
            log.error(
                "CapacityLease %s/%s cannot be read: %s", meta.get("namespace"), meta.get("name"), error
            )
            return None


class Nodes:
    """The audience of the informer for Nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def listed(self, items: list[dict[str, Any]], version: int) -> None:
        """Take in a complete list of nodes."""
        self.cluster.heard()
        for item in items:
            self.cluster.node_seen(item)
        self.cluster.nodes_listed((item["metadata"]["name"] for item in items), version)

    def changed(self, kind: str, item: dict[str, Any]) -> None:
        """Take in one change of a node."""
        self.cluster.heard()
        if kind == "DELETED":
            self.cluster.node_gone(item["metadata"]["name"])
        else:
            self.cluster.node_seen(item)


class Reports:
    """The audience of the informer for NodeReports."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def listed(self, items: list[dict[str, Any]], version: int) -> None:
        """Take in a complete list of reports."""
        self.cluster.heard()
        for item in items:
            self.cluster.report_seen(item)
        self.cluster.reports_listed((item["metadata"]["name"] for item in items), version)

    def changed(self, kind: str, item: dict[str, Any]) -> None:
        """Take in one change of a report."""
        self.cluster.heard()
        if kind == "DELETED":
            self.cluster.report_gone(item["metadata"]["name"])
        else:
            self.cluster.report_seen(item)


class Sessions:
    """The audience of the informer for labelled coordination Leases."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def listed(self, items: list[dict[str, Any]], version: int) -> None:
        """Take in a complete list of sessions."""
        seen = {(i["metadata"]["namespace"], i["metadata"]["name"]) for i in items}
        for item in items:
            self.cluster.session_seen(item)
        for key in self.cluster.sessions.keys() - seen:
            self.cluster.session_gone(key)

    def changed(self, kind: str, item: dict[str, Any]) -> None:
        """Take in one change of a session."""
        self.cluster.heard()
        if kind == "DELETED":
            self.cluster.session_gone((item["metadata"]["namespace"], item["metadata"]["name"]))
        else:
            self.cluster.session_seen(item)


class Namespaces:
    """The audience of the informer for namespaces."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def listed(self, items: list[dict[str, Any]], version: int) -> None:
        """Take in a complete list of namespaces."""
        self.cluster.heard()
        for item in items:
            self._seen(item)
        for name in self.cluster.namespaces.keys() - {item["metadata"]["name"] for item in items}:
            self.cluster.namespace_gone(name)

    def changed(self, kind: str, item: dict[str, Any]) -> None:
        """Take in one change of a namespace."""
        self.cluster.heard()
        if kind == "DELETED":
            self.cluster.namespace_gone(item["metadata"]["name"])
        else:
            self._seen(item)

    def _seen(self, item: dict[str, Any]) -> None:
        """One that is being deleted takes nothing in any more: it counts as gone."""
        meta = item["metadata"]
        if "deletionTimestamp" in meta:
            self.cluster.namespace_gone(meta["name"])
        else:
            self.cluster.namespace_seen(meta["name"], meta.get("labels") or {})


def _is_known(known: Lease, version: int, status: Json) -> bool:
    """Tell whether a version of a lease says nothing new.

    Of our own write we know the version and what was sent. What was stored may differ: an older definition drops fields
    that it does not have.
    """
    return version < known.version or (version == known.version and status == known.status)


def _differs(before: Node, after: Node) -> bool:
    """Tell whether anything that matters changed; kubelets touch their Node every few minutes."""
    return (before.uid, before.labels, before.not_ready_since, before.cordoned, before.allocatable) != (
        after.uid,
        after.labels,
        after.not_ready_since,
        after.cordoned,
        after.allocatable,
    )
