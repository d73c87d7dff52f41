"""Every lease there is, then every change, through whatever happens to the API server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final, NamedTuple

from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError, Gone
from leasehold.sdk.door import explained
from leasehold.sdk.views import LeaseView

_SILENCE: Final = 90.0
_SECONDS: Final = 280
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0

log = logging.getLogger(__name__)


class LeaseEvent(NamedTuple):
    """One thing that a watch tells: `kind` is ADDED, MODIFIED or DELETED."""

    kind: str
    lease: LeaseView


class LeaseWatch:
    """Tells of the leases at a path that a query selects."""

    def __init__(self, kube: KubeClient, path: str, query: Mapping[str, str]) -> None:
        self._kube = kube
        self._path = path
        self._query = query
        self._known: dict[str, LeaseView] = {}
        self._version = ""

    async def events(self) -> AsyncGenerator[LeaseEvent, None]:
        """Yield what there is and what changes. Raises the SDK's errors where the API server refuses."""
        pause = _FIRST_PAUSE
        while True:
            try:
                if not self._version:
                    for event in await self._list():
                        yield event
                async with aclosing(self._changes()) as changes:
                    async for event in changes:
                        pause = _FIRST_PAUSE
                        yield event
            except ApiError as error:
                if isinstance(error, Gone):
                    self._version = ""
                elif 400 <= error.code < 429:
                    raise explained(error, "watch leases") from error
                else:
                    log.warning("%s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _list(self) -> list[LeaseEvent]:
        items, self._version = await self._kube.list(self._path, self._query)
        fresh = {view.uid: view for view in map(LeaseView.of, items)}
        events = [LeaseEvent("DELETED", view) for uid, view in self._known.items() if uid not in fresh]
        for uid, view in fresh.items():
            if uid not in self._known:
                events.append(LeaseEvent("ADDED", view))
            elif _version(self._known[uid]) != _version(view):
                events.append(LeaseEvent("MODIFIED", view))
        self._known = fresh
        return events

    async def _changes(self) -> AsyncGenerator[LeaseEvent, None]:
        query: dict[str, Any] = {
            **self._query,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _SECONDS,
        }
        async with aclosing(self._kube.watch(self._path, _SILENCE, **query)) as events:
            async for event in events:
                if event["type"] == "ERROR":
                    self._version = ""
                    item = event["object"]
                    raise Gone(f"the watch was ended: {item.get('message', item)}", item.get("code", 0))
                self._version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] == "BOOKMARK":
                    continue
                view = LeaseView.of(event["object"])
                if event["type"] == "DELETED":
                    self._known.pop(view.uid, None)
                else:
                    self._known[view.uid] = view
                yield LeaseEvent(event["type"], view)


def _version(view: LeaseView) -> str:
    return str((view.raw.get("metadata") or {}).get("resourceVersion", ""))
