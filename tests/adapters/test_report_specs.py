"""What reporters are asked, and who owns their reports."""

from __future__ import annotations

import asyncio

from tests.adapters.fakes import FakeKube, failing, node_document, report_document

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Unknown
from leasehold.adapters.report_specs import ReportSpecs


class Office:
    def __init__(self) -> None:
        self.kube = FakeKube()
        self.cluster = Cluster(SteadyClock())
        self.wanted: dict[str, frozenset[str]] = {}
        for name in ("n1", "n2"):
            self.cluster.node_seen(self.kube.add(f"{paths.NODES}/{name}", node_document(name)))
            self.cluster.report_seen(
                self.kube.add(paths.report(name), report_document(name, at=self.cluster.clock.now()))
            )
        self.specs = ReportSpecs(self.kube, self.cluster, lambda: self.wanted)  # type: ignore[arg-type]

    def asked(self, name: str) -> object:
        return self.kube.objects[paths.report(name)]["spec"].get("leaseUIDs")


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
    async with asyncio.timeout(2):
        while office.asked("n1") != ["a"] or office.asked("n2") != ["b"]:
            await asyncio.sleep(0.005)
    task.cancel()
