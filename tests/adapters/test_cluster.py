"""The cluster as last heard: what is older is ignored, what a list lacks is gone, and those concerned are told."""

from __future__ import annotations

from typing import Any

import pytest
from tests.adapters.fakes import lease_document, node_document, report_document
from tests.builders import make_pool, pod_document

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster, Namespaces, Nodes, Reports, Sessions
from leasehold.core.lease import with_status
from leasehold.core.selectors import Selector
from leasehold.core.state import PoolState

NOW = 1795374000000
ALL = Selector((), ())


class Listener:
    """A worker that writes down what it is told."""

    def __init__(self, *holds: str) -> None:
        self.told: list[Any] = []
        self.holds = holds

    def holds_on(self, node: str) -> bool:
        return node in self.holds

    def leases_listed(self) -> None:
        self.told.append("listed")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def note(what: Any) -> None:
            self.told.append((name, getattr(what, "uid", getattr(what, "node", what))))

        return note


class Leaving(Listener):
    """A worker that forgets in its books who leaves."""

    def __init__(self, state: PoolState) -> None:
        super().__init__()
        self.state = state

    def lease_gone(self, uid: str) -> None:
        self.state.forget(uid)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(SteadyClock(lambda: NOW / 1000, lambda: 0.0))


def stamped(document: dict[str, Any], version: int, uid: str = "u1") -> dict[str, Any]:
    meta = {"uid": uid, "resourceVersion": str(version), "creationTimestamp": "2026-11-22T19:00:00Z"}
    return {**document, "metadata": {**document["metadata"], **meta}}


def lease(version: int, uid: str = "u1", pool: str = "ci", **spec: Any) -> dict[str, Any]:
    return stamped(lease_document(f"l-{uid}", pool, **spec), version, uid)


def test_a_node_that_did_not_change_in_what_matters_tells_nobody(cluster: Cluster) -> None:
    pool = Listener()
    cluster.pool_joined("ci", pool, ALL)
    cluster.node_seen(stamped(node_document(), 5))
    cluster.node_seen(stamped(node_document(), 6))
    assert pool.told == [("node_changed", "n1")]
    cluster.node_seen(stamped(node_document(cpu="8"), 7))
    assert len(pool.told) == 2


def test_an_older_node_is_ignored_and_one_made_anew_is_not(cluster: Cluster) -> None:
    cluster.node_seen(stamped(node_document(cpu="8"), 7))
    cluster.node_seen(stamped(node_document(cpu="4"), 6))
    assert cluster.nodes["n1"].allocatable["cpu"] == 8000
    cluster.node_seen(stamped(node_document(cpu="2"), 6, uid="u2"))
    assert cluster.nodes["n1"].allocatable["cpu"] == 2000


def test_a_node_or_report_that_cannot_be_read_is_passed_over(cluster: Cluster) -> None:
    broken = node_document("odd")
    broken["status"]["conditions"][0] |= {"status": "False", "lastTransitionTime": "yesterday"}
    cluster.node_seen(stamped(broken, 5))
    assert cluster.nodes == {}
    report = report_document("n1", at=NOW)
    report["status"]["reportTime"] = "soon"
    cluster.report_seen(stamped(report, 5))
    cluster.report_seen({"metadata": {"name": "empty"}})
    assert cluster.reports == {}


def test_a_list_of_nodes_drops_what_it_lacks_but_not_what_is_newer(cluster: Cluster) -> None:
    cluster.node_seen(stamped(node_document("gone"), 5))
    cluster.node_seen(stamped(node_document("kept"), 6))
    cluster.node_seen(stamped(node_document("newer"), 50))
    cluster.nodes_listed(["kept"], 40)
    assert cluster.nodes.keys() == {"kept", "newer"}


def test_a_watch_of_nodes_tells_what_came_changed_and_went(cluster: Cluster) -> None:
    nodes = Nodes(cluster)
    nodes.listed([stamped(node_document("a"), 5), stamped(node_document("b"), 6)], 10)
    assert cluster.nodes.keys() == {"a", "b"}
    nodes.changed("ADDED", stamped(node_document("c"), 11))
    nodes.changed("MODIFIED", stamped(node_document("a", cpu="8"), 12))
    nodes.changed("DELETED", stamped(node_document("b"), 13))
    assert {name: node.allocatable["cpu"] for name, node in cluster.nodes.items()} == {"a": 8000, "c": 4000}
    nodes.listed([stamped(node_document("c"), 11)], 20)
    assert cluster.nodes.keys() == {"c"}, "what a relist lacks is gone"


def test_a_watch_of_reports_tells_what_came_changed_and_went(cluster: Cluster) -> None:
    pool, reports = Listener("a"), Reports(cluster)
    cluster.pool_joined("ci", pool, ALL)
    reports.listed([stamped(report_document(name, at=NOW), 5) for name in ("a", "b", "c")], 10)
    assert cluster.reports.keys() == {"a", "b", "c"}
    reports.changed("MODIFIED", stamped(report_document("a", at=NOW + 1000), 11))
    assert cluster.reports["a"].time == NOW + 1000
    reports.changed("DELETED", stamped(report_document("b", at=NOW), 12))
    assert cluster.reports.keys() == {"a", "c"}
    pool.told.clear()
    reports.listed([], 11)
    assert cluster.reports == {}, "what a relist lacks is gone"
    assert pool.told == [("node_changed", "a")]


def test_a_list_of_reports_drops_none_that_is_newer(cluster: Cluster) -> None:
    cluster.report_seen(stamped(report_document("answered", at=NOW), 50))
    Reports(cluster).listed([], 40)
    assert cluster.reports.keys() == {"answered"}


def test_reports_tell_the_pools_of_their_node_and_those_that_hold_there(cluster: Cluster) -> None:
    mine, holder, other = Listener(), Listener("n1"), Listener()
    cluster.pool_joined("mine", mine, Selector((("team", "a"),), ()))
    cluster.pool_joined("holder", holder, Selector((("team", "b"),), ()))
    cluster.pool_joined("other", other, Selector((("team", "c"),), ()))
    cluster.node_seen(stamped(node_document("n1", team="a"), 5))
    for told in (mine, holder, other):
        told.told.clear()
    cluster.report_seen(stamped(report_document("n1", at=NOW), 6))
    cluster.report_seen(stamped(report_document("n1", at=NOW - 5000), 5))
    assert mine.told == holder.told == [("report_changed", "n1")]
    cluster.report_gone("n1")
    cluster.report_gone("n1")
    assert mine.told[-1] == ("node_changed", "n1")
    assert len(mine.told) == 2
    assert other.told == []


def test_a_node_that_leaves_a_pool_tells_it_and_the_holders(cluster: Cluster) -> None:
    left, holder = Listener(), Listener("n1")
    cluster.pool_joined("left", left, Selector((("team", "a"),), ()))
    cluster.pool_joined("holder", holder, Selector((("team", "x"),), ()))
    cluster.node_seen(stamped(node_document("n1", team="a"), 5))
    cluster.node_seen(stamped(node_document("n1", team="b"), 6))
    assert left.told == [("node_changed", "n1")] * 2
    assert holder.told == [("node_changed", "n1")] * 2
    assert "n1" not in cluster.membership
    cluster.node_gone("n1")
    cluster.node_gone("n1")
    assert holder.told == [("node_changed", "n1")] * 3


def test_a_lease_is_told_once_for_each_version_whoever_brings_it(cluster: Cluster) -> None:
    pool = Listener()
    cluster.pool_joined("ci", pool, ALL)
    cluster.changed("ADDED", lease(5))
    cluster.changed("MODIFIED", lease(5))
    cluster.changed("MODIFIED", lease(4))
    cluster.changed("MODIFIED", lease(6))
    assert pool.told == [("lease_seen", "u1")] * 2


def test_the_echo_of_our_own_write_is_not_read_and_what_was_stored_otherwise_is(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Listener()
    cluster.pool_joined("ci", pool, ALL)
    cluster.changed("ADDED", lease(5))
    known = cluster.find("u1")
    assert known is not None
    cluster.lease_seen(with_status(known, {"phase": "Active", "later": "x"}, 6))
    stored = {**lease(6), "status": {"phase": "Active"}}
    with monkeypatch.context() as patched:
        patched.setattr(cluster, "read", None)
        cluster.changed("MODIFIED", {**lease(6), "status": {"phase": "Active", "later": "x"}})
        cluster.changed("MODIFIED", lease(5))
    assert len(pool.told) == 2
    cluster.changed("MODIFIED", stored)
    found = cluster.find("u1")
    assert found is not None
    assert found.status == {"phase": "Active"}, "an older definition knows no field `later`"
    assert len(pool.told) == 3


def test_a_late_answer_does_not_bring_a_deleted_lease_back(cluster: Cluster) -> None:
    pool = Listener()
    cluster.pool_joined("ci", pool, ALL)
    cluster.changed("ADDED", lease(5))
    cluster.changed("DELETED", lease(6))
    cluster.changed("MODIFIED", lease(7))
    assert pool.told == [("lease_seen", "u1"), ("lease_gone", "u1")]
    assert cluster.is_gone("u1")
    assert cluster.find("u1") is None


def test_a_relist_removes_what_it_lacks_but_not_what_was_seen_later(cluster: Cluster) -> None:
    pool = Listener()
    cluster.pool_joined("ci", pool, ALL)
    for version, uid in ((5, "old"), (6, "kept"), (99, "newer")):
        cluster.changed("ADDED", lease(version, uid))
    cluster.listed([cluster.note(lease(6, "kept"))], 50)
    assert cluster.leases["ci"].keys() == {"kept", "newer"}
    assert pool.told[-2:] == [("lease_gone", "old"), "listed"]


def test_a_listed_lease_that_cannot_be_read_stays_what_it_was(cluster: Cluster) -> None:
    cluster.changed("ADDED", lease(5))
    broken = {"metadata": lease(7)["metadata"], "spec": {}}
    cluster.listed([cluster.note(broken)], 10)
    cluster.changed("MODIFIED", broken)
    found = cluster.find("u1")
    assert found is not None
    assert found.version == 5


def test_leases_without_a_pool_wait_for_whoever_looks_after_them(cluster: Cluster) -> None:
    cluster.changed("ADDED", lease(5, "a", pool="none"))
    assert cluster.homeless == {"a"}
    assert cluster.homeless_news.is_set()
    cluster.homeless.clear()
    cluster.pool_joined("ci", Listener(), ALL)
    cluster.changed("ADDED", lease(6, "b", pool="ci"))
    assert cluster.homeless == set()
    cluster.pool_left("ci")
    assert cluster.homeless == {"b"}
    cluster.pool_left("never there")


def test_the_memory_of_deleted_leases_is_bounded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leasehold.adapters.cluster._REMEMBERED", 3)
    for number in range(5):
        cluster.lease_gone(f"u{number}")
    assert [cluster.is_gone(f"u{n}") for n in range(5)] == [False, False, True, True, True]


def test_a_new_lease_shows_that_its_namespace_was_made_anew(cluster: Cluster) -> None:
    cluster.changed("ADDED", lease(5, "before"))
    cluster.gone_namespaces = frozenset({"team", "other"})
    cluster.changed("MODIFIED", lease(6, "before"))
    assert "team" in cluster.gone_namespaces
    cluster.changed("ADDED", lease(7, "after"))
    assert cluster.gone_namespaces == {"other"}


def test_a_lease_whose_pool_is_chosen_later_moves_to_it(cluster: Cluster) -> None:
    first, second = Listener(), Listener()
    cluster.pool_joined("a", first, ALL)
    cluster.pool_joined("b", second, ALL)
    cluster.changed("ADDED", lease(5, pool="a"))
    cluster.changed("MODIFIED", lease(6, pool="b"))
    assert first.told == [("lease_seen", "u1"), ("lease_gone", "u1")]
    assert second.told == [("lease_seen", "u1")]
    assert cluster.leases == {"a": {}, "b": {"u1": cluster.find("u1")}}
    cluster.changed("MODIFIED", lease(5, pool="a"))
    assert cluster.leases["a"] == {}, "an older word does not bring it back"
    assert not cluster.is_gone("u1")


def test_a_lease_is_found_by_its_name_and_one_made_anew_under_it_is_the_one(cluster: Cluster) -> None:
    key = ("team", "l")

    def named(version: int, uid: str) -> dict[str, Any]:
        return stamped(lease_document("l"), version, uid)

    assert cluster.named(key) is None
    cluster.changed("ADDED", named(5, "old"))
    assert cluster.named(key) is cluster.find("old")
    cluster.listed([cluster.note(named(8, "anew"))], 9)  # its end and its beginning in one list
    assert cluster.named(key) is cluster.find("anew")
    assert cluster.find("old") is None
    cluster.changed("DELETED", named(10, "anew"))
    assert cluster.named(key) is None
    cluster.changed("ADDED", named(11, "third"))
    cluster.lease_gone("anew")  # a late word about the one before
    assert cluster.named(key) is cluster.find("third")
    assert cluster.named(("other", "l")) is None


# --- pods ---


def pod(version: int = 5, name: str = "w", lease: str = "l-u1", **how: Any) -> dict[str, Any]:
    return pod_document(name, lease=lease, namespace="team", version=version, **how)


def test_pods_are_told_to_the_pool_of_their_lease(cluster: Cluster) -> None:
    mine, other = Listener(), Listener()
    cluster.pool_joined("ci", mine, ALL)
    cluster.pool_joined("other", other, ALL)
    cluster.changed("ADDED", lease(5))
    mine.told.clear()
    cluster.pods.seen(pod())
    assert mine.told == [("pods_changed", ("team", "l-u1"))]
    assert (other.told, cluster.strays) == ([], set())


def test_pods_of_no_lease_or_of_no_pool_are_strays(cluster: Cluster) -> None:
    cluster.changed("ADDED", lease(5, "u1", pool="none"))
    cluster.pods.seen(pod())
    cluster.pods.seen(pod(name="x", lease="nobodys"))
    assert cluster.strays == {("team", "l-u1"), ("team", "nobodys")}
    assert cluster.stray_news.is_set()
    cluster.pods.gone("uid-x")
    assert cluster.strays == {("team", "l-u1")}, "where nobody takes them they must not pile up"


def test_strays_hear_of_their_lease_that_has_no_pool(cluster: Cluster) -> None:
    cluster.pods.seen(pod())
    cluster.strays.clear()
    cluster.stray_news.clear()
    cluster.changed("ADDED", lease(5, "u2", pool="none"))
    assert cluster.strays == set()
    cluster.changed("ADDED", lease(6, "u1", pool="none"))
    assert cluster.strays == {("team", "l-u1")}
    assert cluster.stray_news.is_set()


def test_pods_that_outlive_their_lease_are_strays_and_those_that_finished_are_forgotten(
    cluster: Cluster,
) -> None:
    pool = Listener()
    cluster.pool_joined("ci", pool, ALL)
    for uid in ("u1", "u2"):
        cluster.changed("ADDED", lease(5, uid))
        done = pod(name=f"done-{uid}", lease=f"l-{uid}", phase="Succeeded", ended="10s", node="n1")
        done["metadata"]["annotations"]["leasehold.dev/slice"] = f"{uid}/0"
        cluster.pods.seen(done)
        cluster.pods.gone(f"uid-done-{uid}")
    cluster.pods.seen(pod(lease="l-u1"))
    known = [cluster.find(uid) for uid in ("u1", "u2")]
    assert all(
        len(cluster.pods.of(found)) == count for found, count in zip(known, (2, 1), strict=True) if found
    )
    pool.told.clear()
    for uid in ("u1", "u2"):
        cluster.changed("DELETED", lease(6, uid))
    assert cluster.strays == {("team", "l-u1")}
    assert pool.told == [("lease_gone", "u1"), ("lease_gone", "u2")]
    assert [len(cluster.pods.of(found)) for found in known if found] == [1, 0]


def test_nodes_hear_of_what_pods_take_there(cluster: Cluster) -> None:
    pool, elsewhere = Listener(), Listener()
    cluster.pool_joined("ci", pool, Selector((("team", "a"),), ()))
    cluster.pool_joined("elsewhere", elsewhere, Selector((("team", "b"),), ()))
    cluster.node_seen(stamped(node_document("n1", team="a"), 5))
    pool.told.clear()
    cluster.pods.seen(pod(node="n1"))
    assert pool.told == [("node_changed", "n1")]
    assert elsewhere.told == []


# --- namespaces ---


def namespace(name: str, *, going: bool = False, **labels: str) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "resourceVersion": "5"}
    if labels:
        meta["labels"] = labels
    if going:
        meta["deletionTimestamp"] = "2026-11-22T19:00:00Z"
    return {"metadata": meta}


def test_pools_hear_of_namespaces_that_come_go_or_change_their_labels(cluster: Cluster) -> None:
    pool, namespaces = Listener(), Namespaces(cluster)
    cluster.pool_joined("ci", pool, ALL)
    namespaces.listed([namespace("team", a="1"), namespace("plain"), namespace("off", going=True)], 9)
    assert cluster.namespaces == {"team": {"a": "1"}, "plain": {}}
    assert pool.told == [("namespace_changed", "team"), ("namespace_changed", "plain")]
    pool.told.clear()
    namespaces.changed("MODIFIED", namespace("team", a="1"))
    assert pool.told == [], "something else about it changed"
    namespaces.changed("MODIFIED", namespace("team", a="2"))
    namespaces.changed("DELETED", namespace("plain"))
    namespaces.changed("ADDED", namespace("late", b="1"))
    assert pool.told == [("namespace_changed", name) for name in ("team", "plain", "late")]
    assert cluster.namespaces == {"team": {"a": "2"}, "late": {"b": "1"}}
    namespaces.listed([namespace("team", a="2")], 20)
    assert cluster.namespaces == {"team": {"a": "2"}}


@pytest.mark.parametrize("how", ["going", "deleted", "missing in a list"])
def test_a_namespace_with_leases_that_goes_is_gone_at_once(cluster: Cluster, how: str) -> None:
    pool, namespaces = Listener(), Namespaces(cluster)
    cluster.pool_joined("ci", pool, ALL)
    namespaces.listed([namespace("team"), namespace("empty")], 1)
    cluster.changed("ADDED", lease(5))
    pool.told.clear()
    for name in ("team", "empty"):
        if how == "going":
            namespaces.changed("MODIFIED", namespace(name, going=True))
        elif how == "deleted":
            namespaces.changed("DELETED", namespace(name))
    if how == "missing in a list":
        namespaces.listed([], 9)
    assert cluster.gone_namespaces == {"team"}
    assert cluster.namespaces == {}
    assert ("namespace_changed", "team") in pool.told


def test_a_namespace_that_was_made_anew_is_not_gone(cluster: Cluster) -> None:
    namespaces = Namespaces(cluster)
    namespaces.listed([namespace("team")], 1)
    cluster.changed("ADDED", lease(5))
    namespaces.changed("DELETED", namespace("team"))
    pool = Listener()
    cluster.pool_joined("ci", pool, ALL)
    namespaces.changed("ADDED", namespace("team"))
    assert cluster.gone_namespaces == frozenset()
    assert ("namespace_changed", "team") in pool.told


def test_a_gone_namespace_is_forgotten_with_its_last_lease(cluster: Cluster) -> None:
    namespaces = Namespaces(cluster)
    for uid in ("a", "b"):
        cluster.changed("ADDED", lease(5, uid))
    assert cluster.leases_in("team") == {"a", "b"}
    namespaces.changed("DELETED", namespace("team"))
    cluster.changed("DELETED", lease(6, "a"))
    assert cluster.gone_namespaces == {"team"}
    cluster.changed("DELETED", lease(6, "b"))
    assert cluster.gone_namespaces == frozenset()
    assert cluster.leases_in("team") == frozenset()
    assert cluster.doubtful_namespaces() == frozenset()


def test_a_namespace_that_no_watch_told_of_is_doubtful_until_a_list_says(cluster: Cluster) -> None:
    for number, name in enumerate(("gone", "living", "heard")):
        document = lease(5, f"u{number}")
        document["metadata"]["namespace"] = name
        cluster.changed("ADDED", document)
    doubtful = cluster.doubtful_namespaces()
    assert doubtful == {"gone", "living", "heard"}
    cluster.namespace_seen("heard", {})  # while the list is on its way
    pool = Listener()
    cluster.pool_joined("ci", pool, ALL)
    cluster.namespaces_missed(doubtful, {"living"})
    assert cluster.gone_namespaces == {"gone"}
    assert pool.told == [("namespace_changed", "gone")]
    cluster.namespaces_missed(doubtful, {"living", "gone"})
    assert cluster.gone_namespaces == frozenset(), "it was made anew"


def test_a_list_takes_back_no_end_that_was_heard_of_meanwhile(cluster: Cluster) -> None:
    cluster.namespace_seen("team", {})
    cluster.changed("ADDED", lease(5))
    doubtful = cluster.doubtful_namespaces()
    cluster.namespace_gone("team")
    cluster.namespaces_missed(doubtful, {"team"})
    assert cluster.gone_namespaces == {"team"}


def session(version: int, seconds: object = 15) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "team", "name": "w", "resourceVersion": str(version)},
        "spec": {"leaseDurationSeconds": seconds},
    }


def test_sessions_are_renewed_when_they_change_and_when_we_see_it(cluster: Cluster) -> None:
    pool = Listener()
    cluster.pool_joined("ci", pool, ALL)
    sessions = Sessions(cluster)
    sessions.listed([session(5)], 5)
    sessions.changed("MODIFIED", session(5))
    sessions.changed("MODIFIED", session(6, None))
    key = ("team", "w")
    assert pool.told == [("session_changed", key)] * 2
    assert cluster.sessions[key].renewed_at == NOW
    assert cluster.sessions[key].duration is None
    sessions.changed("DELETED", session(7))
    sessions.changed("DELETED", session(7))
    assert pool.told == [("session_changed", key)] * 3
    sessions.changed("ADDED", session(8, 15))
    assert cluster.sessions[key].duration == 15_000
    sessions.listed([], 9)
    assert cluster.sessions == {}


def test_what_a_lease_is_told_before_its_pool_is_led_here_costs_it_no_turn(cluster: Cluster) -> None:
    for version, uid in (
        (5, "early"),
        (6, "late"),
        (7, "early"),
    ):  # the early one was told that its pool is not there
        cluster.changed("MODIFIED", lease(version, uid))
    state = PoolState("ci", make_pool(), arrivals=cluster.arrivals)
    for one in cluster.leases["ci"].values():
        state.observe(one)
    assert sorted(state.leases.values(), key=state.turn_of)[0].uid == "early"


def test_who_is_gone_and_who_goes_to_another_pool_arrives_anew(cluster: Cluster) -> None:
    cluster.changed("ADDED", lease(5, "a"))
    cluster.changed("ADDED", lease(6, "b"))
    state = PoolState("ci", make_pool(), arrivals=cluster.arrivals)
    for one in cluster.leases["ci"].values():
        state.observe(one)
    cluster.pool_joined("ci", Leaving(state), ALL)
    cluster.changed("DELETED", lease(7, "a"))
    cluster.changed("MODIFIED", lease(8, "b", pool="other"))
    assert cluster.arrivals == {"b": 8}
