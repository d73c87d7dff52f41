"""Kubernetes Events for people: best effort, rate-limited, never in the way of a grant.

Events are writes like any other. In a storm they are counted and dropped; conditions and metrics carry the facts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from typing import Any, NamedTuple

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError
from leasehold.core.course import Notice
from leasehold.core.times import format_time

_QUEUE = 1000
_BURST = 25
CONTROLLER = "leasehold.dev/operator"

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """The object an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


class Recorder:
    """Writes Events one by one, at most so many per second after a first burst."""

    def __init__(self, client: KubeClient, clock: SteadyClock, per_second: int) -> None:
        self.client = client
        self.clock = clock
        self.per_second = max(1, per_second)
        self.dropped = 0
        self.written = 0
        self._waiting: deque[tuple[Subject, Notice, int]] = deque()
        self._news = asyncio.Event()
        self._instance = f"{socket.gethostname()}-{os.getpid()}"[:128]

    def note(self, subject: Subject, notice: Notice) -> None:
        """Queue one Event; drop it when too many wait."""
        if len(self._waiting) >= _QUEUE:
            self.dropped += 1
            return
        self._waiting.append((subject, notice, self.clock.now()))
        self._news.set()

    async def run(self) -> None:
        """Write what is queued until cancelled."""
        allowance = float(_BURST)
        last = self.clock.now()
        while True:
            await self._news.wait()
            now = self.clock.now()
            allowance = min(_BURST, allowance + (now - last) / 1000 * self.per_second)
            last = now
            if allowance < 1:
                await asyncio.sleep((1 - allowance) / self.per_second)
                continue
            allowance -= 1
            await self._write(*self._waiting.popleft())
            if not self._waiting:
                self._news.clear()

    async def _write(self, subject: Subject, notice: Notice, at: int) -> None:
        namespace = subject.namespace or "default"
        body: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{subject.name[:40].rstrip('-.')}-", "namespace": namespace},
            "eventTime": _micro(at),
            "type": "Warning" if notice.warning else "Normal",
            "reason": notice.reason[:128],
            "action": "Reconcile",
            "note": notice.message[:1000],
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "name": subject.name,
                "uid": subject.uid,
                **({"namespace": subject.namespace} if subject.namespace else {}),
            },
        }
        try:
            await self.client.create(paths.events(namespace), body)
            self.written += 1
        except ApiError as error:
            self.dropped += 1
            log.info("an Event was not written: %s", error)


def _micro(at: int) -> str:
    """Events take a MicroTime: six digits, always."""
    text = format_time(at)
    return text.replace("Z", "000Z" if "." in text else ".000000Z")
