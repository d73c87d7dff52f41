"""Pods as last heard: by the lease they name and by the node they are on; who is told, and what is forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.builders import GIB, at, granted, make_lease, pod_document

from leasehold.adapters import pods as module
from leasehold.adapters.pods import Key, LeasedPods, OtherPods, Placeholders, Pods
from leasehold.core.gating import workload_of
from leasehold.core.lease import Lease
from leasehold.core.pods import Resident, SliceRef

BUILD: Key = ("team-a", "build")
LEASE = granted(make_lease())


class Registry:
    """A memory of pods with both of its watches, that writes down who was told."""

    def __init__(self) -> None:
        self.told: list[str | Key] = []
        self.leases = {LEASE.uid}
        self.heard = 0
        self.now = 0
        self.pods = Pods(self.told.append, self.told.append, lambda uid: uid in self.leases, lambda: self.now)
        self.leased = LeasedPods(self.pods, self.hear)
        self.others = OtherPods(self.pods, self.hear)
        self.holding = Placeholders(self.pods, self.hear)

    def hear(self) -> None:
        self.heard += 1

    def see(self, name: str = "worker", version: int = 1, kind: str = "MODIFIED", **how: Any) -> None:
        """The watch of pods that name a lease tells of one."""
        self.leased.changed(kind, pod_document(name, version=version, **how))

    def list(self, *documents: Mapping[str, Any], version: int) -> None:
        """The watch of pods that name a lease lists them all anew."""
        self.leased.listed([self.pods.note(document) for document in documents], version)

    def names(self, key: Key = BUILD) -> list[str]:
        return sorted(pod.name for pod in self.pods.named(key))

    def news(self) -> list[str | Key]:
        """Who was told since the last look."""
        told = list(self.told)
        self.told.clear()
        return told

    def done_since(self, lease: Lease = LEASE) -> int | None:
        return workload_of(lease, self.pods.of(lease)).done_since


@pytest.fixture
def registry() -> Registry:
    return Registry()


def other(name: str = "plain", **how: Any) -> dict[str, Any]:
    return pod_document(name, lease=None, **{"node": "n1", **how})


DONE: dict[str, Any] = {"given": (LEASE, 0), "node": "n1", "phase": "Succeeded"}


# --- those that name a lease ---


def test_pods_are_found_by_the_lease_they_name(registry: Registry) -> None:
    registry.see("a")
    registry.see("b")
    registry.see("elsewhere", namespace="team-b")
    registry.see("c", lease="deploy")
    assert registry.names() == ["a", "b"]
    assert registry.names(("team-b", "build")) == ["elsewhere"]
    assert sorted(registry.pods.keys()) == [BUILD, ("team-a", "deploy"), ("team-b", "build")]
    assert registry.names(("team-a", "nobody's")) == []
    assert registry.heard == 4


def test_an_older_version_changes_nothing(registry: Registry) -> None:
    registry.see(version=7, node="n1")
    registry.see(version=6)
    (pod,) = registry.pods.named(BUILD)
    assert (pod.version, pod.node) == (7, "n1")


def test_somebody_is_told_only_when_something_changed(registry: Registry) -> None:
    registry.see(version=1)
    assert registry.news() == [BUILD]
    registry.see(version=1)
    registry.see(version=2)
    assert registry.news() == [], "nothing that matters is different"
    assert registry.pods.named(BUILD)[0].version == 2, "a write must carry it all the same"
    registry.see(version=3, given=(LEASE, 0))
    assert registry.news() == [BUILD]
    registry.see(version=4, given=(LEASE, 0), node="n1")
    assert registry.news() == ["n1", BUILD], "it takes something there now"
    registry.see(version=5, kind="DELETED")
    assert registry.news() == ["n1", BUILD]
    registry.see(version=5, kind="DELETED")
    assert registry.news() == []


def test_whoever_waits_for_the_next_version_is_told_of_it_once(registry: Registry) -> None:
    registry.see(version=1)
    registry.news()
    registry.pods.await_next("uid-worker")
    registry.pods.await_next("never heard of")
    registry.see(version=1)
    assert registry.news() == []
    registry.see(version=2)
    assert registry.news() == [BUILD]
    registry.see(version=3)
    assert registry.news() == []
    registry.pods.await_next("uid-worker")
    registry.see(version=4, kind="DELETED")
    assert registry.pods._awaited == set()


def test_both_leases_hear_of_a_pod_that_names_another(registry: Registry) -> None:
    registry.see(version=1, node="n1")
    registry.news()
    registry.see(version=2, node="n1", lease="deploy")
    assert sorted(registry.news()) == [BUILD, ("team-a", "deploy")]
    assert (registry.names(), registry.names(("team-a", "deploy"))) == ([], ["worker"])
    registry.see(version=1, node="n1")
    assert registry.names() == [], "an older word does not bring it back"
    assert registry.pods.keys() == [("team-a", "deploy")]


def test_a_list_drops_what_it_lacks_but_not_what_was_seen_later(registry: Registry) -> None:
    registry.see("gone", version=5, node="n1")
    registry.see("kept", version=6)
    registry.see("newer", version=50)
    registry.news()
    registry.list(pod_document("kept", version=6), version=40)
    assert registry.names() == ["kept", "newer"]
    assert registry.news() == ["n1", BUILD]


def test_a_late_answer_does_not_bring_a_pod_back(registry: Registry) -> None:
    registry.see(version=5)
    registry.see(version=8, kind="DELETED")
    registry.pods.seen(pod_document(version=7))
    assert registry.names() == []
    registry.see("listed", version=5)
    registry.list(version=9)
    registry.pods.seen(pod_document("listed", version=7))
    assert registry.names() == []
    registry.see("lost", version=9)
    registry.pods.gone("uid-lost")
    registry.pods.seen(pod_document("lost", version=9))
    assert registry.names() == []


def test_a_pod_that_gets_its_label_back_is_heard_of_again(registry: Registry) -> None:
    registry.see(version=5)
    registry.see(version=6, kind="DELETED")  # it left the selection
    registry.pods.seen(pod_document(lease=None, version=7))
    assert registry.pods.keys() == [], "an answer that came without the label"
    registry.see(version=8, kind="ADDED")
    assert registry.names() == ["worker"]


def test_the_memory_of_pods_that_are_gone_is_bounded(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    for number in range(9):
        registry.see(f"p{number}", version=1)
        registry.see(f"p{number}", version=2, kind="DELETED")
    assert len(registry.pods._gone) == 3


def test_a_pod_that_cannot_be_read_stays_what_it_was(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.see(version=5)
    registry.news()
    broken = pod_document(version=6)
    broken["metadata"]["creationTimestamp"] = "yesterday"
    registry.leased.changed("MODIFIED", broken)
    registry.list(broken, version=9)
    assert (registry.names(), registry.news()) == (["worker"], [])
    assert "Pod team-a/worker cannot be read" in caplog.text
    registry.leased.changed("DELETED", {"metadata": broken["metadata"]})
    assert registry.names() == []


def test_an_empty_label_names_a_lease_that_does_not_exist(registry: Registry) -> None:
    registry.see(lease="")
    assert registry.names(("team-a", "")) == ["worker"]


# --- those that finished ---


def test_the_last_pod_that_finished_is_remembered_when_it_is_removed(registry: Registry) -> None:
    for name, ended in (("first", "10s"), ("last", "20s")):
        registry.see(name, version=1, given=(LEASE, 0), node="n1")
        registry.see(name, version=2, ended=ended, **DONE)
    assert registry.done_since() == at("20s")
    registry.see("last", version=3, kind="DELETED")
    registry.see("first", version=4, kind="DELETED")
    assert registry.names() == []
    assert registry.done_since() == at("20s")
    assert workload_of(LEASE, registry.pods.of(LEASE)).claimed
    registry.see("next", version=5, given=(LEASE, 0), node="n1")
    assert registry.done_since() is None


def test_a_pod_that_finished_is_done_while_its_removal_waits_for_a_finalizer(registry: Registry) -> None:
    registry.see(version=1, ended="10s", **DONE)
    registry.see(version=2, ended="10s", deleted=True, **DONE)
    assert registry.done_since() == at("10s")
    registry.see(version=3, kind="DELETED")
    assert registry.done_since() == at("10s")


def test_a_pod_that_was_deleted_while_it_ran_is_not_taken_for_done(registry: Registry) -> None:
    registry.see(version=1, given=(LEASE, 0), node="n1")
    registry.see(version=2, given=(LEASE, 0), node="n1", deleted=True)
    registry.see(version=3, ended="10s", deleted=True, **DONE)
    registry.see(version=4, kind="DELETED")
    assert registry.pods.of(LEASE) == []
    registry.see("b", version=5, given=(LEASE, 0), node="n1")
    registry.list(version=9)
    assert registry.pods.of(LEASE) == []


def test_a_pod_that_was_never_let_go_does_not_displace_one_that_was(registry: Registry) -> None:
    registry.see("mine", version=1, ended="10s", **DONE)
    registry.see("outside", version=1, node="n1", phase="Succeeded", ended="20s")
    registry.see("mine", version=2, kind="DELETED")
    registry.see("outside", version=2, kind="DELETED")
    assert registry.done_since() == at("10s")


def test_what_finished_under_an_earlier_lease_of_the_name_is_not_the_new_ones(registry: Registry) -> None:
    anew = granted(make_lease(version=9))
    object.__setattr__(anew, "uid", "uid-anew")
    registry.leases.add("uid-anew")
    registry.see("mine", version=1, given=(anew, 0), node="n1", phase="Succeeded", ended="10s")
    registry.see("old", version=1, ended="20s", **DONE)
    registry.see("mine", version=2, kind="DELETED")
    registry.see("old", version=2, kind="DELETED")
    assert (registry.done_since(anew), registry.done_since()) == (at("10s"), at("20s"))


def test_nothing_is_remembered_for_leases_that_do_not_exist(registry: Registry) -> None:
    registry.see(version=1, ended="10s", **DONE)
    registry.see(version=2, kind="DELETED")
    registry.leases.clear()
    registry.pods.forget_lease(LEASE.uid)
    registry.pods.forget_lease("never heard of")
    registry.see("late", version=3, ended="20s", **DONE)
    registry.see("late", version=4, kind="DELETED")
    assert registry.pods.of(LEASE) == []


# --- placeholders ---


def hold(name: str = "hold", version: int = 1, of: str = "team-a/build", **how: Any) -> dict[str, Any]:
    """A placeholder of the lease `build`; one that says nothing of itself where `of` is empty."""
    whose = {"leasehold.dev/placeholder-of": of} if of else {}
    given = {"given": (LEASE, 0), "gated": False, "namespace": "leasehold-system"}
    return pod_document(name, lease=None, version=version, annotations=whose, **{**given, **how})


def test_placeholders_are_known_by_their_lease_and_take_room_once_they_are_bound(registry: Registry) -> None:
    registry.holding.changed("ADDED", hold(version=1))
    assert registry.news() == [BUILD]
    assert (registry.pods.any(BUILD), registry.pods.keys(), registry.names()) == (True, [BUILD], [])
    assert registry.pods.on("n1") == []
    registry.holding.changed("MODIFIED", hold(version=2, node="n1"))
    assert registry.news() == ["n1", BUILD]
    assert [found.slice for found in registry.pods.on("n1")] == [SliceRef(LEASE.uid, 0)]
    registry.holding.changed("MODIFIED", hold(version=1))
    assert registry.pods.placeholders(BUILD)[0].node == "n1", "an older version changes nothing"
    registry.holding.changed("MODIFIED", hold(version=3, node="n1", phase="Failed"))
    assert (registry.pods.on("n1"), registry.pods.placeholders(BUILD)[0].over) == ([], True)
    registry.holding.changed("DELETED", hold(version=4))
    assert (registry.pods.any(BUILD), registry.pods.keys()) == (False, [])


def test_a_late_answer_does_not_bring_a_placeholder_back(registry: Registry) -> None:
    registry.holding.changed("ADDED", hold(version=1))
    registry.holding.changed("DELETED", hold(version=4))
    registry.pods.placeholder_seen(hold(version=3))
    assert registry.pods.placeholders(BUILD) == []


def test_a_list_of_placeholders_drops_what_it_lacks_but_not_what_was_seen_later(registry: Registry) -> None:
    for name, version in (("gone", 5), ("kept", 6), ("newer", 50)):
        registry.holding.changed("ADDED", hold(name, version))
    documents = [hold("kept", 6), hold("stranger", 7, of="")]
    registry.holding.listed([registry.pods.note_placeholder(document) for document in documents], 40)
    assert sorted(one.name for one in registry.pods.placeholders(BUILD)) == ["kept", "newer"]


def test_a_placeholder_that_cannot_be_read_holds_nothing(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    broken = hold()
    broken["metadata"]["creationTimestamp"] = "yesterday"
    registry.holding.changed("ADDED", broken)
    assert not registry.pods.any(BUILD)
    assert "placeholder hold cannot be read" in caplog.text


def test_why_a_placeholder_is_refused_is_told_when_it_changes_and_forgotten_with_the_lease(
    registry: Registry,
) -> None:
    registry.pods.refused(LEASE, "")
    assert registry.news() == []
    registry.pods.refused(LEASE, "quota")
    registry.pods.refused(LEASE, "quota")
    assert (registry.news(), registry.pods.refusals) == ([BUILD], {LEASE.uid: "quota"})
    registry.pods.refused(LEASE, "")
    assert (registry.news(), registry.pods.refusals) == ([BUILD], {})
    registry.pods.refused(LEASE, "quota")
    registry.pods.forget_lease(LEASE.uid)
    assert registry.pods.refusals == {}


def test_the_pods_that_run_with_a_slice_are_known_by_their_node_the_newest_last(registry: Registry) -> None:
    assert registry.pods.running() == {}
    registry.see("young", given=(LEASE, 0), node="n1", age="1s")
    registry.see("old", given=(LEASE, 0), node="n1", age="1h")
    registry.see("unbound", given=(LEASE, 0))
    registry.see("outside", node="n1")
    assert {node: list(pods) for node, pods in registry.pods.running().items()} == {
        "n1": ["uid-old", "uid-young"]
    }
    registry.see("old", version=2, age="1h", **DONE)
    assert registry.pods.running() == {"n1": {"uid-young": LEASE.uid}}
    registry.see("young", version=2, kind="DELETED")
    assert registry.pods.running() == {}


# --- by node ---


def test_pods_of_both_kinds_take_something_on_their_nodes(registry: Registry) -> None:
    registry.see("leased", given=(LEASE, 0), node="n1", cpu="2", memory=None)
    registry.see("elsewhere", given=(LEASE, 1), node="n2")
    registry.others.changed("ADDED", other(cpu="500m", memory="1Gi"))
    assert registry.pods.on("n1") == [
        Resident("n1", {"cpu": 2000, "pods": 1}, SliceRef(LEASE.uid, 0)),
        Resident("n1", {"cpu": 500, "memory": GIB, "pods": 1}, None),
    ]
    assert len(registry.pods.on("n2")) == 1
    assert registry.pods.on("n3") == []


def test_a_pod_takes_nothing_before_it_is_bound_and_after_it_is_over(registry: Registry) -> None:
    registry.see(version=1, given=(LEASE, 0))
    assert list(registry.pods.leased.nodes()) == []
    registry.see(version=2, given=(LEASE, 0), node="n1")
    assert list(registry.pods.leased.nodes()) == ["n1"]
    registry.see(version=3, ended="10s", **DONE)
    assert (list(registry.pods.leased.nodes()), len(registry.pods.leased)) == ([], 0)


def test_others_come_grow_move_and_go(registry: Registry) -> None:
    registry.others.changed("ADDED", other())
    assert registry.news() == ["n1"]
    registry.others.changed("MODIFIED", other())
    assert registry.news() == []
    registry.others.changed("MODIFIED", other(cpu="2"))
    assert set(registry.news()) == {"n1"}
    assert registry.pods.on("n1")[0].requests["cpu"] == 2000
    registry.others.changed("MODIFIED", other(cpu="2", node="n2"))
    assert registry.news() == ["n1", "n2"]
    registry.others.changed("DELETED", other(cpu="2", node="n2"))
    assert (registry.news(), list(registry.pods.others.nodes())) == (["n2"], [])
    registry.others.changed("DELETED", other(cpu="2", node="n2"))
    assert registry.news() == []
    assert registry.heard == 6


def test_a_list_of_others_drops_what_it_lacks(registry: Registry) -> None:
    def listed(*documents: dict[str, Any]) -> None:
        registry.others.listed([registry.others.note(document) for document in documents], 9)

    listed(other("a"), other("b", node="n2"))
    assert registry.news() == ["n1", "n2"]
    listed(other("b", node="n2"), other("c", node="n3"))
    assert registry.news() == ["n1", "n3"]
    assert sorted(registry.pods.others.uids()) == ["uid-b", "uid-c"]
    assert [uid for uid, _ in registry.pods.others.uids_on("n3")] == ["uid-c"]


def test_another_pod_that_cannot_be_read_takes_nothing(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.others.changed("ADDED", {"metadata": {"uid": "u", "namespace": "x", "name": "odd"}})
    assert len(registry.pods.others) == 0
    assert "Pod x/odd cannot be read" in caplog.text


def test_a_pod_that_gets_the_label_counts_once(registry: Registry) -> None:
    registry.others.changed("ADDED", other("worker"))
    registry.see("worker", version=2, node="n1")
    registry.others.changed("DELETED", other("worker", version=2))
    assert len(registry.pods.on("n1")) == 1


def test_a_pod_is_over_by_this_clock_where_its_nodes_clock_is_behind(registry: Registry) -> None:
    registry.see(given=(LEASE, 0), node="n1", ended=None)
    registry.now = at("10m")
    registry.see(version=2, ended="1m", **DONE)
    assert registry.done_since() == at("10m")
    registry.now = at("20m")
    registry.see(version=3, ended="1m", annotations={"more": "news"}, **DONE)
    assert registry.done_since() == at("10m"), "it is over since then, however often it is heard of"


def test_a_gate_that_is_being_lifted_counts_until_the_next_word_of_its_pod(registry: Registry) -> None:
    registry.see(version=5)
    (pod,) = registry.pods.named(BUILD)
    registry.pods.let(pod, SliceRef(LEASE.uid, 0))
    registry.see(version=5)
    assert pod.uid in registry.pods.letting
    letting = [ref for ref, _ in registry.pods.letting.values()]
    assert workload_of(LEASE, [pod], letting=letting).left_on == {"node-1"}
    assert workload_of(LEASE, [], letting=letting).left_on == {"node-1"}
    registry.news()
    registry.see(version=6)
    assert not registry.pods.letting, "it was that write, or makes it fail"
    assert registry.news() == [BUILD], "the end of the lease may wait for it"
    registry.pods.let(pod, SliceRef(LEASE.uid, 0))
    registry.see(version=7, kind="DELETED")
    assert not registry.pods.letting


def test_a_gate_that_was_not_lifted_after_all_is_told_to_whom_waits(registry: Registry) -> None:
    registry.see(version=5)
    (pod,) = registry.pods.named(BUILD)
    registry.pods.let(pod, SliceRef(LEASE.uid, 0))
    registry.news()
    registry.pods.not_let(pod.uid)
    assert not registry.pods.letting
    assert registry.news() == [BUILD]
    registry.pods.not_let(pod.uid)
    assert registry.news() == [], "there was nothing to tell"
