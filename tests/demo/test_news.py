from __future__ import annotations

from tests.demo.objects import condition, held, lease, node, over

from leasehold.demo.news import News, of_lease, of_node


def test_a_grant_is_told_once() -> None:
    granted = held(nodes=("a", "b"))
    assert list(of_lease(lease(), granted)) == [
        News("granted", "build-1", "granted on a, b, fencing token 7")
    ]
    assert list(of_lease(granted, granted)) == []


def test_waiting_is_told_with_its_reason_and_again_when_the_reason_changes() -> None:
    short = lease("train", condition("Allocated", "False", "WaitingForCapacity", "1 lacks cpu"))
    blocked = lease("train", condition("Allocated", "False", "BlockedByHead"))
    assert list(of_lease(None, short)) == [News("waiting", "train", "waits: WaitingForCapacity: 1 lacks cpu")]
    assert list(of_lease(short, short)) == []
    assert list(of_lease(short, blocked)) == [News("waiting", "train", "waits: BlockedByHead")]


def test_a_refused_request_is_told_by_the_condition_accepted() -> None:
    refused = lease("x", condition("Accepted", "False", "PoolNotFound", "There is no pool."))
    assert list(of_lease(None, refused)) == [News("waiting", "x", "waits: PoolNotFound: There is no pool.")]


def test_a_renewal_tells_the_count_and_the_new_end() -> None:
    deadlines = {"expirationTime": "2026-11-22T12:34:56.789Z"}
    before, after = held(deadlines=deadlines), held(deadlines=deadlines, renewal={"count": 2})
    assert list(of_lease(before, after)) == [
        News("renewed", "build-1", "renewed, 2 so far; the term now ends at 12:34:56")
    ]


def test_trouble_is_told_with_short_times() -> None:
    late = condition("ExpiringSoon", "True", "Heartbeat", "lost at 2026-11-22T12:00:09.123Z.")
    sick = condition("Degraded", "True", "NodeNotReady")
    assert [*of_lease(held(), held("build-1", late, sick))] == [
        News("warned", "build-1", "ExpiringSoon Heartbeat: lost at 12:00:09."),
        News("degraded", "build-1", "Degraded NodeNotReady"),
    ]


def test_the_end_is_told_with_its_cause_and_nothing_after_it() -> None:
    assert list(of_lease(held(), over())) == [News("expired", "build-1", "expired: TermEnded")]
    assert list(of_lease(over(), over())) == []
    failed = over(word="Failed")
    del failed["status"]["release"]
    assert list(of_lease(None, failed)) == [News("failed", "build-1", "failed")]


def test_nodes_that_come_are_no_news_and_those_that_change_are() -> None:
    assert list(of_node(None, node())) == []
    assert [each.what for each in of_node(node(), node(ready="Unknown"))] == ["node is not ready"]
    assert [each.what for each in of_node(node(ready="False"), node())] == ["node is ready again"]
    assert list(of_node(node(), node())) == []
