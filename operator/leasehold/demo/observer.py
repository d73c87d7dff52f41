"""Watches the API server beside the story: the latest objects for the screen, the timeline, and the figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from leasehold.api.names import DeadlineCause
from leasehold.api.names import LeaseCondition as C
from leasehold.core.times import SECOND, parse_time
from leasehold.demo import news
from leasehold.demo.examples import LABEL, NAMESPACE
from leasehold.demo.news import News
from leasehold.demo.stage import LEASES, POOLS
from leasehold.demo.views import condition, is_true
from leasehold.testing.client import Client
from leasehold.testing.errors import ControlPlaneError

Object = dict[str, Any]

_WATCH_SECONDS = 30
_POLL_SECONDS = 0.25


class Line(NamedTuple):
    """One line of the timeline; `at` is in seconds since the story began."""

    at: float
    news: News


class Figures:
    """What was seen of the leases of one story, kept by uid."""

    def __init__(self) -> None:
        self.ready_after: dict[str, float] = {}
        self.waited: set[str] = set()
        self.granted: set[str] = set()
        self.ended: dict[str, str] = {}
        self.renewals: dict[str, int] = {}
        self.reclaim_after: dict[str, float] = {}
        self.early: list[str] = []
        self._asked: dict[str, float] = {}
        self._due: dict[str, int] = {}

    def asked(self, name: str, at: float) -> None:
        """Note when a lease was asked for: just before the request was sent (monotonic seconds)."""
        self._asked[name] = at

    def see(self, lease: Mapping[str, Any], at: float) -> None:
        """Take in one version of a lease, seen at a time (monotonic seconds)."""
        uid, name, status = lease["metadata"]["uid"], lease["metadata"]["name"], lease.get("status") or {}
        if condition(lease, C.ALLOCATED).get("status") == "False":
            self.waited.add(uid)
        if is_true(lease, C.ALLOCATED):
            self.granted.add(uid)
        if is_true(lease, C.READY) and name in self._asked and uid not in self.waited:
            self.ready_after.setdefault(uid, at - self._asked[name])
        self.renewals[uid] = (status.get("renewal") or {}).get("count", 0)
        following = (status.get("deadlines") or {}).get("next")
        if following and following["cause"] == DeadlineCause.REVOCATION:
            self._due[uid] = parse_time(following["time"])
        if is_true(lease, C.FINISHED) and uid not in self.ended:
            self._ended(uid, lease)

    def _ended(self, uid: str, lease: Mapping[str, Any]) -> None:
        release = lease["status"].get("release") or {}
        self.ended[uid] = condition(lease, C.FINISHED)["reason"]
        if uid in self._due and "finishTime" in release:
            late = (parse_time(release["finishTime"]) - self._due[uid]) / SECOND
            self.reclaim_after[uid] = late
            if late < 0:
                self.early.append(lease["metadata"]["name"])


class Observer:
    """Follows leases by a watch, pools and nodes by looking now and then. Threads, until `stop`."""

    def __init__(self, client: Client, tell: Callable[[Line], None]) -> None:
        self.client = client
        self.figures = Figures()
        self.leases: dict[str, Object] = {}
        self.pools: list[Object] = []
        self.nodes: dict[str, Object] = {}
        self._order: dict[str, int] = {}
        self._tell = tell
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"demo-{name}", daemon=True)
            for name, work in (("watch", self._watch), ("look", self._look))
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop watching. The watch's own thread ends with its connection."""
        self._stop.set()
        self._threads[1].join()
        self._threads[0].join(timeout=0.1)

    def elapsed(self) -> float:
        """Return the seconds since the story began."""
        return time.monotonic() - self._begun

    def say(self, kind: str, what: str, name: str = "") -> None:
        """Put a line of the story's own on the timeline."""
        with self._lock:
            self._tell(Line(self.elapsed(), News(kind, name, what)))

    def leases_in_order(self) -> list[Object]:
        """Return the leases as they first came."""
        with self._lock:
            return sorted(self.leases.values(), key=lambda obj: self._order[obj["metadata"]["uid"]])

    def asking(self, name: str) -> None:
        """Note that a lease is being asked for now."""
        with self._lock:
            self.figures.asked(name, time.monotonic())

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                for event in self.client.watch(LEASES, NAMESPACE, timeout_seconds=_WATCH_SECONDS):
                    if self._stop.is_set():
                        return
                    self.lease_event(event.type, event.object)
            except (ControlPlaneError, OSError, ValueError):
                self._stop.wait(0.5)  # the server is away or went away: what counts is checked elsewhere

    def lease_event(self, type_: str, lease: Object) -> None:
        """Take in one event of the watch."""
        uid, at = lease["metadata"]["uid"], time.monotonic()
        with self._lock:
            before = self.leases.get(uid)
            if type_ == "DELETED":
                if self.leases.pop(uid, None) is not None:
                    self._tell_all([News("deleted", lease["metadata"]["name"], "object is gone")])
                return
            self._order.setdefault(uid, len(self._order))
            self.leases[uid] = lease
            self.figures.see(lease, at)
            self._tell_all(news.of_lease(before, lease))

    def _tell_all(self, found: Iterable[News]) -> None:
        for each in found:
            self._tell(Line(self.elapsed(), each))

    def _look(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                pools, nodes = self.client.list(POOLS), self.client.list("nodes", labelSelector=LABEL)
            except (ControlPlaneError, OSError, ValueError):
                continue
            self.pools = pools
            with self._lock:
                for node in nodes:
                    self._tell_all(news.of_node(self.nodes.get(node["metadata"]["name"]), node))
                gone = self.nodes.keys() - {node["metadata"]["name"] for node in nodes}
                self._tell_all(News("degraded", name, "node is gone") for name in sorted(gone))
                self.nodes = {node["metadata"]["name"]: node for node in nodes}
