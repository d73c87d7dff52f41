"""What the story's verbs act with: a client, the observer, holders that send heartbeats, and the pace."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable

from leasehold.adapters.clock import SteadyClock
from leasehold.api.names import LEASE_KIND
from leasehold.core.times import SECOND, format_time
from leasehold.demo.checks import Check, in_words
from leasehold.demo.errors import NotAsExpected
from leasehold.demo.examples import NAMESPACE
from leasehold.demo.observer import Observer
from leasehold.demo.stage import LEASES, SESSIONS, Place
from leasehold.testing.client import Client, Object
from leasehold.testing.errors import ApiError

WITHIN_SECONDS = 30.0
"""How long an expectation may take beyond what the story itself waits for. Far more than needed, so that a busy
machine does not fail it; what was needed is in the summary.
"""

_NAMESPACED = {"clease": LEASES, "lease": SESSIONS}


class Scene:
    """One run of the story. `speed` divides its pauses and terms, not the API's own lower bounds."""

    def __init__(
        self,
        place: Place,
        client: Client,
        observer: Observer,
        *,
        speed: float = 1.0,
        check: Callable[[], None],
    ) -> None:
        self.place = place
        self.client = client
        self.observer = observer
        self.clock = SteadyClock()
        self.speed = speed
        self.checked = 0
        self._check = check
        self._hearts: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    # Pace

    def seconds(self, seconds: float) -> float:
        """Return how long a pause of so many seconds is at this speed."""
        return seconds / self.speed

    def term(self, seconds: int, least: int = 1) -> int:
        """Return a whole number of seconds for a field of the API, at this speed."""
        return max(least, round(seconds / self.speed))

    def stamp(self, *, micro: bool = False) -> str:
        """Return the time as the API wants it: whole seconds, or a MicroTime with six digits."""
        now = self.clock.now()
        whole = format_time(now - now % SECOND)
        return whole.replace("Z", f".{now % SECOND:03d}000Z") if micro else whole

    def pause(self, seconds: float) -> None:
        """Give people time to look."""
        time.sleep(self.seconds(seconds))

    # Acting

    def apply(self, documents: Iterable[Object]) -> None:
        """Apply manifests, in order."""
        manifests = list(documents)
        named = ", ".join(f"{each['kind']} {each['metadata']['name']}" for each in manifests)
        self.observer.say("asked", f"kubectl apply: {named}")
        for manifest in manifests:
            if manifest["kind"] == LEASE_KIND:
                self.observer.asking(manifest["metadata"]["name"])
            self.client.apply(manifest)

    def patch_lease(self, name: str, spec: Object) -> None:
        """Change a lease's spec."""
        self.client.patch(LEASES, name, {"spec": spec}, NAMESPACE)

    def beat(self, target: str, every: float) -> None:
        """Renew "clease/NAME" or the session "lease/NAME" now and then, until `stop_beating`."""
        kind, _, name = target.partition("/")
        stop = self._hearts[target] = threading.Event()
        pause = self.seconds(every)

        def holder() -> None:
            while not stop.is_set():
                with contextlib.suppress(ApiError, OSError):  # a beat that is lost is followed by the next
                    self.client.patch(_NAMESPACED[kind], name, self._renewal(), NAMESPACE)
                stop.wait(pause)

        thread = threading.Thread(target=holder, name=f"holder of {target}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _renewal(self) -> Object:
        return {"spec": {"renewTime": self.stamp(micro=True)}}

    def stop_beating(self, *targets: str) -> None:
        """Let holders fall silent."""
        for target in targets:
            self._hearts.pop(target).set()

    def close(self) -> None:
        """Let all holders fall silent and wait for their threads."""
        self.stop_beating(*self._hearts)
        for thread in self._threads:
            thread.join()

    # Checking

    def get(self, target: str) -> Object | None:
        """Read "clease/NAME", "cpool/NAME" and so on from the API server."""
        kind, _, name = target.partition("/")
        namespace = NAMESPACE if kind in _NAMESPACED else None
        return self.client.find(_NAMESPACED.get(kind, kind), name, namespace)

    def expect(self, target: str, check: Check, within: float = WITHIN_SECONDS) -> Object:
        """Wait until a check holds on the API server, and return the object. Raises NotAsExpected."""
        deadline = time.monotonic() + within
        while True:
            found = self.get(target)
            if found is not None and check.holds(found):
                self.checked += 1
                return found
            self._check()
            if time.monotonic() >= deadline:
                raise NotAsExpected(
                    f"{target} was expected to {check.text} within {within:.0f} s. It says: {in_words(found)}"
                )
            time.sleep(0.05)

    def expect_gone(self, target: str, within: float = WITHIN_SECONDS) -> None:
        """Wait until an object does not exist any more. Raises NotAsExpected."""
        deadline = time.monotonic() + within
        while (found := self.get(target)) is not None:
            self._check()
            if time.monotonic() >= deadline:
                raise NotAsExpected(
                    f"{target} was expected to be gone within {within:.0f} s: {in_words(found)}"
                )
            time.sleep(0.05)
        self.checked += 1
