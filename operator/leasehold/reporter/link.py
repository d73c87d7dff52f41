"""Requests run beside the sampling: one worker thread, one request at a time, and a wake-up when it is
answered.

A thread rather than short timeouts in the loop: a server that takes two seconds to answer is still served,
and a server that never answers delays no reading.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from types import FrameType
from typing import Any, Final, NamedTuple, Protocol

from leasehold.adapters.credentials import CredentialsError
from leasehold.adapters.lean_http import JSON, Response, UnreachableError

_ENDS: Final = (signal.SIGTERM, signal.SIGINT)


class Request(NamedTuple):
    """One request to the API server."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    content_type: str = JSON


class Answer(NamedTuple):
    """What became of a request. Without an answer ``status`` is 0 and ``error`` says why."""

    status: int
    document: dict[str, Any]
    error: str = ""
    retry_after: float | None = None
    sent: float = 0.0
    received: float = 0.0
    date: float | None = None


class Caller(Protocol):
    """The part of ``lean_http.Client`` that is used here."""

    def call(self, method: str, path: str, body: object = None, content_type: str = JSON) -> Response:
        """Send a request and return the answer."""


class Link:
    """Sends one request at a time from a thread of its own."""

    def __init__(
        self, client: Caller, wake: Callable[[], None], wall: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._wake = wake
        self._wall = wall
        self._requests: SimpleQueue[Request] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._busy = False
        # A daemon: the process may end while a request is under way.
        threading.Thread(target=self._work, name="requests", daemon=True).start()

    @property
    def busy(self) -> bool:
        """A request is under way, or its answer has not been taken yet."""
        return self._busy

    def submit(self, request: Request) -> None:
        """Send a request. Only to be called while not busy."""
        assert not self._busy, "one request at a time"
        self._busy = True
        self._requests.put(request)

    def take(self) -> Answer | None:
        """Return the answer if it is there."""
        if self._answers.empty():
            return None
        self._busy = False
        return self._answers.get()

    def _work(self) -> None:
        while True:
            self._answers.put(self._answer(self._requests.get()))
            self._wake()

    def _answer(self, request: Request) -> Answer:
        sent = self._wall()
        try:
            response = self._client.call(*request)
        except (UnreachableError, CredentialsError) as error:
            return Answer(0, {}, str(error))
        except Exception as error:  # noqa: BLE001  our bug: say so, and let the next request have its chance
            return Answer(0, {}, f"bug in the reporter's client: {error!r}")
        return Answer(
            response.status,
            response.document(),
            retry_after=response.retry_after(),
            sent=sent,
            received=self._wall(),
            date=response.date(),
        )


class Alarm:
    """Sleeping that ends early when an answer has come or the process is told to end."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.stopped = False

    def ring(self) -> None:
        """End the sleep under way, or the next one. From any thread."""
        with suppress(OSError):  # full: it rings already; closed: the process is ending
            os.write(self._writer, b"\0")

    def stop(self) -> None:
        """Ask for the end."""
        self.stopped = True
        self.ring()

    def sleep(self, seconds: float) -> bool:
        """Sleep so long, or until it rings; return whether to go on."""
        if not self.stopped and select.select([self._reader], [], [], max(seconds, 0.0))[0]:
            with suppress(BlockingIOError):
                os.read(self._reader, 1024)
        return not self.stopped

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._reader)
        os.close(self._writer)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT. For the main thread."""

        def handle(_signal: int, _frame: FrameType | None) -> None:
            self.stopped = True

        before = {number: signal.signal(number, handle) for number in _ENDS}
        # The interpreter writes to the pipe by itself, so a signal between check and sleep is not slept over.
        wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
