"""Events: written in order, at a bounded rate, dropped in a storm, never in the way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube.errors import NotFound
from leasehold.adapters.recorder import Recorder, Subject
from leasehold.core.lifecycle import Notice

LEASE = Subject("leasehold.dev/v1alpha1", "CapacityLease", "team", "build-42", "uid-1")
POOL = Subject("leasehold.dev/v1alpha1", "CapacityPool", "", "ci", "uid-2")


class Writes:
    def __init__(self, error: Exception | None = None) -> None:
        self.made: list[tuple[str, Any]] = []
        self.error = error

    async def create(self, path: str, body: Any) -> None:
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        self.made.append((path, body))


async def run_until(recorder: Recorder, count: int, seconds: float = 5) -> None:
    task = asyncio.create_task(recorder.run())
    async with asyncio.timeout(seconds):
        while recorder.written + recorder.dropped < count:
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def recorder_of(writes: Writes, per_second: int = 10, clock: SteadyClock | None = None) -> Recorder:
    return Recorder(writes, clock or SteadyClock(), per_second)  # type: ignore[arg-type]


async def test_an_event_says_what_is_about_what() -> None:
    writes = Writes()
    recorder = recorder_of(writes)
    recorder.note(LEASE, Notice("Granted", "Granted on n1."))
    recorder.note(POOL, Notice("NoNodes", "x" * 5000, warning=True))
    await run_until(recorder, 2)
    (path, event), (pool_path, pool_event) = writes.made
    assert path == "/apis/events.k8s.io/v1/namespaces/team/events"
    assert event["regarding"]["namespace"] == "team"
    assert (event["type"], event["reason"], event["note"]) == ("Normal", "Granted", "Granted on n1.")
    assert event["metadata"]["generateName"] == "build-42-"
    assert len(event["eventTime"]) == len("2026-11-22T19:00:00.000000Z")
    assert pool_path == "/apis/events.k8s.io/v1/namespaces/default/events"
    assert "namespace" not in pool_event["regarding"]
    assert pool_event["type"] == "Warning"
    assert len(pool_event["note"]) == 1000


async def test_whole_seconds_get_their_six_digits_too() -> None:
    writes = Writes()
    clock = SteadyClock(wall=lambda: 1795374005.0, monotonic=lambda: 0.0)
    recorder = recorder_of(writes, clock=clock)
    recorder.note(LEASE, Notice("Granted", ""))
    await run_until(recorder, 1)
    assert writes.made[0][1]["eventTime"] == "2026-11-22T19:00:05.000000Z"


async def test_after_a_burst_the_rate_is_bounded() -> None:
    writes = Writes()
    recorder = recorder_of(writes, per_second=20)
    for number in range(40):
        recorder.note(LEASE, Notice("Granted", str(number)))
    task = asyncio.create_task(recorder.run())
    async with asyncio.timeout(20):
        while recorder.written < 25:
            await asyncio.sleep(0)
    before = time.monotonic()
    await asyncio.sleep(0.3)
    assert recorder.written <= 25 + 20 * (time.monotonic() - before) + 2
    async with asyncio.timeout(5):
        while recorder.written < 40:
            await asyncio.sleep(0.01)
    task.cancel()
    assert [event["note"] for _, event in writes.made] == [str(n) for n in range(40)]


async def test_in_a_storm_events_are_counted_and_dropped() -> None:
    recorder = recorder_of(Writes())
    for _ in range(1500):
        recorder.note(LEASE, Notice("Granted", ""))
    assert recorder.dropped == 500


async def test_an_event_that_is_refused_is_dropped_and_the_next_one_written() -> None:
    writes = Writes(NotFound("the namespace is gone", 404))
    recorder = recorder_of(writes)
    recorder.note(LEASE, Notice("Granted", ""))
    await run_until(recorder, 1)
    assert (recorder.written, recorder.dropped) == (0, 1)
    writes.error = None
    recorder.note(LEASE, Notice("Granted", ""))
    await run_until(recorder, 2)
    assert recorder.written == 1
