"""What reporters are asked, and who owns their reports."""

from __future__ import annotations

import asyncio

from tests.adapters.fakes import FakeKube, failing, node_document, report_document

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Unknown
from leasehold.adapters.report_specs import ReportSpecs, pods_to_ask


class Office:
    def __init__(self) -> None:
        self.kube = FakeKube()
        self.cluster = Cluster(SteadyClock())
        self.wanted: dict[str, frozenset[str]] = {}
        self.running: dict[str, dict[str, str]] = {}
        for name in ("n1", "n2"):
            self.cluster.node_seen(self.kube.add(f"{paths.NODES}/{name}", node_document(name)))
            self.cluster.report_seen(
                self.kube.add(paths.report(name), report_document(name, at=self.cluster.clock.now()))
            )
        self.specs = ReportSpecs(
            self.kube,  # type: ignore[arg-type]
            self.cluster,
            lambda: self.wanted,
            pods=lambda: self.running,
        )

    def asked(self, name: str) -> object:
        return self.kube.objects[paths.report(name)]["spec"].get("leaseUIDs")

    def pods(self, name: str = "n1") -> dict[str, str]:
        """Return the pods that the report asks about, in its order."""
        rows = self.kube.objects[paths.report(name)]["spec"].get("pods", ())
        return {row["uid"]: row["leaseUID"] for row in rows}

    def patches(self, name: str = "n1") -> list[dict[str, object]]:
        return [body["spec"] for body in self.kube.writes(paths.report(name)) if "spec" in body]


async def test_each_report_is_written_once_when_what_is_wanted_changes() -> None:
    office = Office()
    office.wanted = {"n1": frozenset({"b", "a"})}
    await office.specs.write_once()
    assert office.asked("n1") == ["a", "b"]
    assert office.asked("n2") is None
    owners = [office.kube.objects[paths.report(n)]["metadata"]["ownerReferences"][0] for n in ("n1", "n2")]
    assert [owner["name"] for owner in owners] == ["n1", "n2"]
    assert len(office.kube.requests) == 2
    await office.specs.write_once()
    assert len(office.kube.requests) == 2
    office.wanted = {}
    await office.specs.write_once()
    assert office.asked("n1") == []


async def test_more_leases_than_a_report_holds_are_cut_the_same_way_each_time() -> None:
    office = Office()
    office.wanted = {"n1": frozenset(f"u{i:03d}" for i in range(300))}
    await office.specs.write_once()
    assert len(office.asked("n1")) == 256  # type: ignore[arg-type]
    count = len(office.kube.requests)
    await office.specs.write_once()
    assert len(office.kube.requests) == count


async def test_one_that_fails_is_tried_next_time_and_holds_up_no_other() -> None:
    office = Office()
    office.wanted = {"n1": frozenset("a"), "n2": frozenset("b")}
    office.kube.faults.append(failing(Unknown("504", 504), times=1, path=paths.report("n1")))
    office.specs.pause = 0.01
    task = asyncio.create_task(office.specs.run())
    async with asyncio.timeout(20):
        while office.asked("n1") != ["a"] or office.asked("n2") != ["b"]:
            await asyncio.sleep(0.005)
    task.cancel()


# --- pods ---


async def test_leases_and_their_pods_are_asked_about_in_one_write() -> None:
    office = Office()
    office.wanted = {"n1": frozenset({"a", "b"})}
    office.running = {"n1": {"p1": "a", "p2": "b", "p3": "whose lease is not wanted"}, "n2": {"p4": "a"}}
    await office.specs.write_once()
    assert office.patches() == [
        {
            "leaseUIDs": ["a", "b"],
            "pods": [{"uid": "p1", "leaseUID": "a"}, {"uid": "p2", "leaseUID": "b"}],
        }
    ]
    assert office.patches("n2") == [], "its lease holds nothing on that node"
    await office.specs.write_once()
    assert len(office.patches()) == 1


async def test_a_pod_that_left_the_api_is_asked_about_until_its_lease_is_over() -> None:
    office = Office()
    office.wanted, office.running = {"n1": frozenset({"a", "b"})}, {"n1": {"p1": "a", "p2": "b"}}
    await office.specs.write_once()
    office.running = {"n1": {"p3": "a"}}
    await office.specs.write_once()
    assert office.pods() == {"p1": "a", "p2": "b", "p3": "a"}
    office.running = {}
    await office.specs.write_once()
    assert len(office.patches()) == 2, "that pods end is no reason to write"
    office.wanted = {"n1": frozenset({"b"})}
    await office.specs.write_once()
    assert (office.asked("n1"), office.pods()) == (["b"], {"p2": "b"})
    office.wanted = {}
    await office.specs.write_once()
    assert (office.asked("n1"), office.pods()) == ([], {})


async def test_a_report_that_was_written_in_between_is_not_made_to_forget_pods() -> None:
    office = Office()
    office.wanted, office.running = {"n1": frozenset({"a"})}, {"n1": {"p1": "a"}}
    await office.specs.write_once()
    rows = [{"uid": uid, "leaseUID": "a"} for uid in ("p1", "p2")]
    others = office.kube.touch(
        paths.report("n1"), {"spec": {"pods": rows}}
    )  # by an earlier leader, unheard of
    office.running = {"n1": {"p3": "a"}}
    await office.specs.write_once()
    assert office.pods() == {"p1": "a", "p2": "a"}
    office.cluster.report_seen(others)
    await office.specs.write_once()
    assert office.pods() == {"p1": "a", "p2": "a", "p3": "a"}


async def test_pods_of_a_lease_that_is_cut_off_are_not_asked_about() -> None:
    office = Office()
    office.wanted = {"n1": frozenset(f"u{i:03d}" for i in range(300))}
    office.running = {"n1": {"first": "u000", "last": "u299"}}
    await office.specs.write_once()
    assert office.pods() == {"first": "u000"}


async def test_an_owner_and_pods_are_written_together() -> None:
    office = Office()
    office.wanted, office.running = {"n1": frozenset({"a"})}, {"n1": {"p1": "a"}}
    await office.specs.write_once()
    (body,) = office.kube.writes(paths.report("n1"))
    assert body["metadata"]["ownerReferences"][0]["name"] == "n1"
    assert body["metadata"]["resourceVersion"]


def test_of_too_many_pods_the_newest_are_kept_and_those_that_ended_go_first() -> None:
    leases = frozenset("a")
    running = {f"r{n:03d}": "a" for n in range(300)}
    before = {f"e{n:03d}": "a" for n in range(300)} | running
    kept = pods_to_ask(before, running, leases)
    assert list(kept) == [*(f"e{n:03d}" for n in range(88, 300)), *running]
    assert pods_to_ask(kept, running, leases) == kept
    newer = running | {"new": "a"}
    assert list(pods_to_ask(kept, newer, leases)) == [*list(kept)[1:], "new"]
    many = {f"m{n:03d}": "a" for n in range(600)}
    most = pods_to_ask(kept, many, leases)
    assert list(most) == list(many)[-512:]
    assert pods_to_ask(most, many, leases) == most, "nothing takes turns"


def test_a_pods_lease_is_the_one_it_has_now() -> None:
    assert pods_to_ask({"p": "a"}, {"p": "b"}, frozenset("ab")) == {"p": "b"}
