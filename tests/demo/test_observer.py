from __future__ import annotations

import pytest
from tests.demo.objects import condition, held, lease, node, over, pool

from leasehold.demo.observer import Figures, Line, Observer
from leasehold.demo.stage import POOLS
from leasehold.testing.errors import ApiError

REVOCATION = {"next": {"time": "2026-11-22T12:00:10Z", "cause": "Revocation"}}


def test_time_to_ready_counts_from_the_request() -> None:
    figures = Figures()
    figures.asked("build-1", 100.0)
    figures.see(lease(), 100.1)
    figures.see(held(), 100.25)
    figures.see(held(), 109.0)
    assert figures.ready_after == {"uid-build-1": pytest.approx(0.25)}


def test_a_lease_that_had_to_wait_says_nothing_about_speed() -> None:
    figures = Figures()
    figures.asked("build-1", 100.0)
    figures.see(lease("build-1", condition("Allocated", "False", "WaitingForCapacity")), 100.1)
    figures.see(held(), 130.0)
    assert figures.ready_after == {}
    assert figures.granted == {"uid-build-1"}


def test_reclaiming_is_timed_from_the_deadline_that_was_promised() -> None:
    figures = Figures()
    figures.see(held(deadlines=REVOCATION), 1.0)
    figures.see(over(), 2.0)
    figures.see(over(), 3.0)
    assert figures.reclaim_after == {"uid-build-1": 0.5}
    assert figures.ended == {"uid-build-1": "Expired"}
    assert figures.early == []


def test_an_end_before_the_deadline_is_held_against_the_operator() -> None:
    figures = Figures()
    figures.see(held(deadlines=REVOCATION), 1.0)
    figures.see(over(release={"cause": "TermEnded", "finishTime": "2026-11-22T12:00:09.999Z"}), 2.0)
    assert figures.early == ["build-1"]


class Shelf:
    """A client that serves what is put on it, and stops the observer when nothing is left."""

    def __init__(self) -> None:
        self.observer: Observer
        self.rounds = [
            {POOLS: [pool()], "nodes": [node("a"), node("b")]},
            {POOLS: [pool()], "nodes": [node("a", ready="Unknown")]},
        ]

    def list(self, resource: str, **_: str) -> list[object]:
        if resource == "nodes" and len(self.rounds) == 1:
            self.observer._stop.set()
        found = self.rounds[0][resource]
        if resource == "nodes":
            self.rounds.pop(0)
        return found

    def watch(self, *_: object, **__: object) -> object:
        self.observer._stop.set()
        raise ApiError("GET", "/", 410, "", {})


@pytest.fixture
def told() -> list[Line]:
    return []


@pytest.fixture
def observer(told: list[Line], monkeypatch: pytest.MonkeyPatch) -> Observer:
    monkeypatch.setattr("leasehold.demo.observer._POLL_SECONDS", 0.001)
    shelf = Shelf()
    made = Observer(shelf, told.append)  # type: ignore[arg-type]
    shelf.observer = made
    return made


def test_nodes_that_fall_silent_or_go_are_told(observer: Observer, told: list[Line]) -> None:
    observer._look()
    assert [(line.news.name, line.news.what) for line in told] == [
        ("a", "node is not ready"),
        ("b", "node is gone"),
    ]
    assert [each["metadata"]["name"] for each in observer.pools] == ["lab"]


def test_leases_keep_the_order_they_came_in(observer: Observer, told: list[Line]) -> None:
    observer.lease_event("ADDED", lease("zebra"))
    observer.lease_event("ADDED", lease("ant"))
    observer.lease_event("MODIFIED", held("zebra"))
    assert [each["metadata"]["name"] for each in observer.leases_in_order()] == ["zebra", "ant"]
    observer.lease_event("DELETED", held("zebra"))
    observer.lease_event("DELETED", held("zebra"))
    assert [line.news.what for line in told] == [
        "granted on node-a, fencing token 7",
        "object is gone",
    ]


def test_a_watch_that_breaks_ends_no_thread(observer: Observer) -> None:
    observer._watch()
    observer.say("told", "still here")


def test_the_observer_stops(observer: Observer, told: list[Line]) -> None:
    observer.start()
    observer.stop()
    assert observer.elapsed() >= 0
