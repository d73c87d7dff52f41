"""The watch of pools, the few, and the slow sweep as a timer on each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import kopf

from leasehold.adapters.cluster import Cluster
from leasehold.api.names import GROUP, POOL_PLURAL, VERSION


class Leadership(Protocol):
    """Who starts and stops the pools' workers."""

    def pool_seen(self, document: Mapping[str, Any]) -> None:
        """Take in a pool."""

    def pool_gone(self, document: Mapping[str, Any]) -> None:
        """Take in that a pool no longer exists."""

    async def sweep(self, name: str) -> None:
        """Audit a pool."""


def register(
    registry: kopf.OperatorRegistry, cluster: Cluster, leadership: Leadership, sweep_seconds: float
) -> None:
    """Register the handlers. Only `on.event`: other kinds write progress onto the object.

    All are coroutines: kopf runs plain functions in threads, where memory that the event loop owns is not safe.
    """

    @kopf.on.event(GROUP, VERSION, POOL_PLURAL, registry=registry)
    async def pool_event(event: kopf.RawEvent, **_: Any) -> None:
        cluster.heard()
        if event["type"] == "DELETED":
            leadership.pool_gone(event["object"])
        else:
            leadership.pool_seen(event["object"])

    @kopf.timer(
        GROUP, VERSION, POOL_PLURAL, registry=registry, interval=sweep_seconds, initial_delay=sweep_seconds
    )
    async def sweep(name: str, **_: Any) -> None:
        await leadership.sweep(name)
