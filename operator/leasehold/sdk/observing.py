"""What a client tells of its doings to whoever measures it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Someone who measures. Called on the event loop: it must be quick."""

    def waited(self, pool: str, outcome: str, seconds: float) -> None:
        """A request ended: `outcome` is Granted, Cancelled, or the name of the error."""

    def held(self, pool: str, outcome: str, seconds: float) -> None:
        """A lease that was held ended: `outcome` is Released, or the cause of its loss."""

    def renewed(self, liveness: str, seconds: float) -> None:
        """A heartbeat was confirmed: that is how long the one before had to serve."""


class Observers:
    """All who measure a client. What they raise is logged and goes no further."""

    def __init__(self) -> None:
        self._all: list[Observer] = []

    def add(self, observer: Observer) -> None:
        """Tell one more."""
        self._all.append(observer)

    def waited(self, pool: str, outcome: str, seconds: float) -> None:
        """Tell that a request ended."""
        self._tell(lambda observer: observer.waited(pool, outcome, seconds))

    def held(self, pool: str, outcome: str, seconds: float) -> None:
        """Tell that a lease ended."""
        self._tell(lambda observer: observer.held(pool, outcome, seconds))

    def renewed(self, liveness: str, seconds: float) -> None:
        """Tell that a heartbeat was confirmed."""
        self._tell(lambda observer: observer.renewed(liveness, seconds))

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in self._all:
            try:
                what(observer)
            except Exception:
                log.exception("an observer failed")
