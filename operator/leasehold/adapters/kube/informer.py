"""One lean list-and-watch: complete lists, then every change, for as long as it runs.

A relist hands over the whole list, so that what vanished while nobody watched is known to be gone; watches alone
never tell (nolar/kopf#698). A watch that stays silent past the server's bookmarks is taken for dead. Watches have been
known to lose an event (etcd-io/etcd#17529), so everything can be listed anew from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any, Protocol

from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError, Gone, Refused
from leasehold.core.times import SECOND

Json = dict[str, Any]

_CHANCE = random.Random()
_WATCH_SECONDS = 290
_SILENCE_SECONDS = 90.0  # bookmarks come about once a minute
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_PATIENCE = 5

log = logging.getLogger(__name__)


class Audience(Protocol):
    """Who is told. Called on the event loop, one at a time, in the order of the server's versions."""

    def listed(self, items: list[Any], version: int) -> None:
        """Take in everything there was at a version; what is not in the list is gone."""

    def changed(self, kind: str, item: Json) -> None:
        """Take in one change: ADDED, MODIFIED or DELETED."""


class Informer:
    """Keeps an audience informed about one resource. `synced` is set after the first complete list.

    `heard_version` is the resourceVersion up to which the audience has heard everything: of the last list, change or
    bookmark, whichever came last. It is 0 before the first list, and falls when the server's store was set back.
    With `metadata_only` the audience is told of metadata and of nothing else. About every `resync` milliseconds all is
    listed anew, whatever the watch told (None: never). Listed items are handed over as `read` makes them.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        audience: Audience,
        now: Callable[[], int],
        label_selector: str = "",
        field_selector: str = "",
        *,
        metadata_only: bool = False,
        resync: int | None = None,
        read: Callable[[Json], Any] = lambda item: item,
    ) -> None:
        self.client = client
        self.path = path
        self.audience = audience
        self.now = now
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self.query = {name: selector for name, selector in query.items() if selector}
        self.metadata_only = metadata_only
        self.resync = resync
        self.read = read
        self.synced = asyncio.Event()
        self.heard_version = 0
        self.last_event = 0
        self.relists = 0
        self.restarts = 0
        self._resync_at: int | None = None

    async def run(self) -> None:
        """List and watch until cancelled. Failures are waited out with growing pauses; a refusal is logged."""
        pause = _FIRST_PAUSE
        version = ""
        failures = 0
        while True:
            try:
                version = version or await self._list()
                events = self.client.watch(
                    self.path,
                    _SILENCE_SECONDS,
                    metadata_only=self.metadata_only,
                    resourceVersion=version,
                    allowWatchBookmarks="true",
                    timeoutSeconds=self._watch_seconds(),
                    **self.query,
                )
                async with contextlib.aclosing(events):
                    async for event in events:
                        version = self._take(event)
                        pause, failures = _FIRST_PAUSE, 0
                if self._resync_at is not None and self.now() >= self._resync_at:
                    await self._list(planned=True)
                    version = str(self.heard_version)
            except ApiError as error:
                level = logging.ERROR if isinstance(error, Refused) else logging.WARNING
                log.log(level, "watch of %s: %s", self.path, error)
                failures += 1
                if isinstance(error, Gone) or failures >= _PATIENCE:
                    # A version from before a restored backup is refused for ever, though not as gone.
                    version, failures = "", 0
                self.restarts += 1
                await asyncio.sleep(pause * _CHANCE.uniform(0.5, 1.5))
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _watch_seconds(self) -> int:
        seconds = _WATCH_SECONDS + _CHANCE.randrange(20)
        if self._resync_at is None:
            return seconds
        return min(seconds, max(1, (self._resync_at - self.now()) // SECOND + 1))

    async def _list(self, *, planned: bool = False) -> str:
        items, version = await self.client.list(
            self.path, self.query, metadata_only=self.metadata_only, read=self.read
        )
        self.audience.listed(items, int(version or 0))
        self.heard_version = int(version or 0)
        self.relists += not planned
        self.last_event = self.now()
        if self.resync is not None:
            self._resync_at = self.now() + int(self.resync * _CHANCE.uniform(0.9, 1.1))
        self.synced.set()
        return version

    def _take(self, event: Json) -> str:
        kind, item = event["type"], event["object"]
        self.last_event = self.now()
        if kind == "ERROR":
            if item.get("code") == 410:
                raise Gone("the watched version is no longer kept", 410)
            raise ApiError(f"the watch was ended: {item.get('message', item)}", item.get("code", 0))
        if kind != "BOOKMARK":
            self.audience.changed(kind, item)
        version: str = item["metadata"]["resourceVersion"]
        self.heard_version = int(version)
        return version
