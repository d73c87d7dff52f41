"""The list-and-watch: relists, versions that are gone, errors in the stream, silence, and pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from leasehold.adapters.kube import informer as module
from leasehold.adapters.kube.errors import Gone, Refused, Unknown
from leasehold.adapters.kube.informer import Informer


class Script:
    """A client whose lists and watches follow a script; at its end the watch stays quiet."""

    def __init__(self, lists: list[Any], watches: list[Any]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[str] = []
        self.queries: list[dict[str, Any]] = []
        self.selections: list[dict[str, str]] = []
        self.only_metadata: list[bool] = []
        self.finished = asyncio.Event()

    async def list(
        self, path: str, query: dict[str, str], *, metadata_only: bool, **_: Any
    ) -> tuple[list[Any], str]:
        self.asked.append("list")
        self.selections.append(query)
        self.only_metadata.append(metadata_only)
        found = self.lists.pop(0) if self.lists else ([], "999")
        if isinstance(found, Exception):
            raise found
        return found

    async def watch(self, path: str, idle: float, *, metadata_only: bool, **query: Any) -> AsyncIterator[Any]:
        self.only_metadata.append(metadata_only)
        self.asked.append(query["resourceVersion"])
        self.queries.append(query)
        if not self.watches:
            self.finished.set()
            await asyncio.sleep(60)
        for event in self.watches.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event


class Heard:
    def __init__(self) -> None:
        self.news: list[Any] = []

    def listed(self, items: list[Any], version: int) -> None:
        self.news.append(("listed", [i["n"] for i in items], version))

    def changed(self, kind: str, item: Any) -> None:
        self.news.append((kind, item["n"]))


def event(kind: str, n: int, version: int) -> dict[str, Any]:
    return {"type": kind, "object": {"n": n, "metadata": {"resourceVersion": str(version)}}}


def bookmark(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


def error(code: int) -> dict[str, Any]:
    return {"type": "ERROR", "object": {"code": code, "message": "no"}}


@asynccontextmanager
async def running(script: Script, **how: Any) -> AsyncIterator[tuple[Informer, Heard]]:
    heard = Heard()
    informer = Informer(script, "/things", heard, lambda: 42, "label", **how)  # type: ignore[arg-type]
    task = asyncio.create_task(informer.run())
    async with asyncio.timeout(5):
        await script.finished.wait()
    yield informer, heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.004)


async def test_it_lists_and_then_tells_every_change() -> None:
    script = Script([([{"n": 1}], "10")], [[event("ADDED", 2, 11), bookmark(15), event("DELETED", 1, 16)]])
    async with running(script) as (informer, heard):
        assert heard.news == [("listed", [1], 10), ("ADDED", 2), ("DELETED", 1)]
        assert informer.synced.is_set()
        assert informer.last_event == 42
        assert script.asked == ["list", "10", "16"], "the next watch goes on where the last one ended"
        assert script.queries[0]["labelSelector"] == "label"
        assert "fieldSelector" not in script.queries[0]


async def test_lists_and_watches_ask_for_the_same_selection() -> None:
    script = Script([([], "10")], [])
    async with running(script, field_selector="spec.nodeName!="):
        assert script.selections == [{"labelSelector": "label", "fieldSelector": "spec.nodeName!="}]
        assert script.queries[0].items() >= script.selections[0].items()


@pytest.mark.parametrize("metadata_only", [True, False])
async def test_lists_and_watches_ask_for_the_same_part_of_an_object(*, metadata_only: bool) -> None:
    script = Script([([], "10")], [[bookmark(50)]])
    async with running(script, metadata_only=metadata_only):
        assert script.only_metadata == [metadata_only] * 3


async def test_all_is_listed_anew_from_time_to_time() -> None:
    script = Script([([], "10"), ([{"n": 7}], "30")], [[event("ADDED", 2, 11)]])
    async with running(script, resync=0) as (informer, heard):
        assert heard.news == [("listed", [], 10), ("ADDED", 2), ("listed", [7], 30)]
        assert script.asked == ["list", "10", "list", "30"], "what the watch told last no longer matters"
        assert script.queries[0]["timeoutSeconds"] == 1, "the server ends the watch when the list is due"
        assert informer.relists == 1, "a list that was planned is no sign of trouble"


async def test_a_planned_list_that_fails_is_tried_again_and_the_watch_goes_on() -> None:
    script = Script([([], "10"), Unknown("away"), ([{"n": 7}], "30")], [[event("ADDED", 2, 11)], []])
    async with running(script, resync=0) as (_, heard):
        assert script.asked == ["list", "10", "list", "11", "list", "30"]
        assert heard.news[-1] == ("listed", [7], 30)


async def test_a_bookmark_moves_the_version_on() -> None:
    script = Script([([], "10")], [[bookmark(50)]])
    async with running(script) as (informer, _):
        assert script.asked[-1] == "50"
        assert informer.heard_version == 50


async def test_what_the_audience_heard_is_known_by_its_version() -> None:
    """Never ahead of the audience: a version counts as heard only after it was told."""
    script = Script([([], "10")], [[event("ADDED", 1, 11), event("MODIFIED", 1, 14), error(410)]])
    heard_before: list[int] = []

    class Asking(Heard):
        def listed(self, items: list[Any], version: int) -> None:
            heard_before.append(informer.heard_version)

        def changed(self, kind: str, item: Any) -> None:
            heard_before.append(informer.heard_version)

    informer = Informer(script, "/things", Asking(), lambda: 42)  # type: ignore[arg-type]
    assert informer.heard_version == 0
    task = asyncio.create_task(informer.run())
    async with asyncio.timeout(5):
        await script.finished.wait()
    assert heard_before == [0, 10, 11, 14]
    assert informer.heard_version == 999, "the second list"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("gone", [error(410), Gone("too old", 410)])
async def test_a_version_that_is_gone_is_listed_anew(gone: Any) -> None:
    script = Script([([{"n": 1}], "10"), ([{"n": 2}], "90")], [[gone]])
    async with running(script) as (informer, heard):
        assert heard.news == [("listed", [1], 10), ("listed", [2], 90)]
        assert informer.relists == 2


async def test_another_error_in_the_stream_is_watched_again_from_the_same_version() -> None:
    script = Script([([], "10")], [[event("ADDED", 1, 11), error(500)]])
    async with running(script) as (informer, _):
        assert script.asked == ["list", "10", "11"]
        assert informer.restarts == 1


@pytest.mark.parametrize("broken", [Unknown("silent"), Refused("403", 403)])
async def test_a_broken_watch_goes_on(broken: Exception) -> None:
    script = Script([([], "10")], [[broken], [broken], [event("ADDED", 1, 11)]])
    async with running(script) as (informer, heard):
        assert heard.news[-1] == ("ADDED", 1)
        assert informer.restarts == 2
        assert informer.relists == 1


async def test_a_version_that_keeps_failing_is_listed_anew() -> None:
    """After a restore from a backup the old version lies in the future: an error for ever, and not a 410."""
    script = Script([([], "9999"), ([], "20")], [[error(504)] for _ in range(5)])
    async with running(script) as (informer, _):
        assert script.asked == ["list", *["9999"] * 5, "list", "20"]
        assert informer.relists == 2


async def test_lists_that_fail_are_tried_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.3)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def no_sleep(seconds: float) -> None:
        if seconds < 50:
            pauses.append(seconds)
            seconds = 0
        await sleep(seconds)

    monkeypatch.setattr(module._CHANCE, "uniform", lambda low, high: 1.0)
    monkeypatch.setattr(module.asyncio, "sleep", no_sleep)
    script = Script([Unknown("away")] * 4 + [([], "10")], [])
    async with running(script) as (informer, _):
        assert pauses == [0.1, 0.2, 0.3, 0.3]
        assert informer.synced.is_set()


async def test_a_list_whose_pages_expire_is_begun_anew_after_a_pause() -> None:
    script = Script([Gone("continue expired", 410), ([], "10")], [])
    async with running(script) as (informer, _):
        assert script.asked == ["list", "list", "10"]
        assert informer.restarts == 1
