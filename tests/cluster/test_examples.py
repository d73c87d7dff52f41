"""Every example, on a real API server: accepted as it stands; and what some promise, kept by an operator.

What the others promise is played by the demo, see tests/demo/test_run.py.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.harness import LEASES, POOLS, SMALL, Object, Stage, condition, finished, granted, is_

from leasehold.core.times import format_time, parse_time
from leasehold.testing.client import Client, has_condition
from leasehold.testing.errors import ApiError

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))
NAMESPACE = "team-a"
GRACE = 30_000
"""The grace of a pool that names none (ms)."""
SOON = 2_000
"""A grant's term begins when it is written, a moment after it was planned on (ms)."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def make_namespace(client: Client, name: str = NAMESPACE) -> None:
    with contextlib.suppress(
        ApiError
    ):  # an earlier test made it: a namespace does not end without a controller
        client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


def remove(client: Client, made: Object) -> None:
    resource = f"{made['kind']}.{made['apiVersion'].rpartition('/')[0]}"
    name, namespace = made["metadata"]["name"], made["metadata"].get("namespace")
    client.patch(resource, name, {"metadata": {"finalizers": None}}, namespace)
    client.delete(resource, name, namespace)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_api_server_accepts_an_example_and_keeps_every_field(bare: Stage, path: Path) -> None:
    made = []
    try:
        for document in documents(path):
            make_namespace(bare.kube, document["metadata"].get("namespace", NAMESPACE))
            stored = bare.kube.create(document)  # strict: a field that nobody knows is refused
            made.append(stored)
            assert contains(stored["spec"], document["spec"])
    finally:
        for stored in made:
            remove(bare.kube, stored)


def contains(stored: object, written: object) -> bool:
    """Tell whether everything written is stored; defaults may have been added."""
    if isinstance(written, dict):
        return isinstance(stored, dict) and all(
            key in stored and contains(stored[key], value) for key, value in written.items()
        )
    if isinstance(written, list):
        return isinstance(stored, list) and all(map(contains, stored, written))
    return stored == written


def test_the_shortest_use_works_as_it_stands(stage: Stage) -> None:
    make_namespace(stage.kube)
    nodes = stage.nodes.create(2, labels={"node-role": "ci"})
    for document in documents(EXAMPLES[0]):
        stage.kube.create(document)
    lease = stage.kube.wait(LEASES, "build-42", NAMESPACE, until=lambda found: has_condition(found, "Ready"))
    assert lease["status"]["allocation"]["slices"][0]["nodeName"] in nodes
    stage.kube.delete(LEASES, "build-42", NAMESPACE)
    stage.kube.wait_gone(LEASES, "build-42", NAMESPACE)
    stage.kube.delete(POOLS, "ci")
    stage.kube.wait_gone(POOLS, "ci")


class Play:
    """An example on a stage: its documents are made in their order, each with changes if need be."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.namespaces: dict[str, str] = {}

    def make(self, number: int, *, leave_out: Collection[str] = (), **changes: dict[str, Any]) -> None:
        """Make an example's objects, but for those left out; `changes` are fields of specs, by object."""
        for document in documents(EXAMPLES[number - 1]):
            name, namespace = document["metadata"]["name"], document["metadata"].get("namespace")
            if name in leave_out:
                continue
            document["spec"] |= changes.get(name, {})
            if namespace is None:
                self.stage.pools.append(name)
            else:
                make_namespace(self.stage.kube, namespace)
                self.namespaces[name] = namespace
            self.stage.kube.create(document)

    def until(self, name: str, test: Any) -> Object:
        return self.stage.kube.wait(LEASES, name, self.namespaces[name], until=test)


@pytest.fixture
def play(stage: Stage) -> Iterator[Play]:
    playing = Play(stage)
    yield playing
    for name, namespace in playing.namespaces.items():
        stage._remove(LEASES, name, namespace)


def one_node(play: Play, pool: str) -> str:
    (name,) = play.stage.nodes.create(1, SMALL, labels={"example.com/pool": pool})
    return name


def test_backfill_lets_the_short_one_pass_and_not_the_long_one(play: Play) -> None:
    one_node(play, "batch")
    play.make(9, leave_out={"large", "short", "long"})
    play.until("running", granted)  # what is planned on is known to the second once it is written
    play.make(9, leave_out={"batch", "running"})
    play.until("short", granted)
    large = play.until("large", lambda lease: "queue" in (lease.get("status") or {}))
    running = play.until("running", granted)
    end = parse_time(running["status"]["deadlines"]["expirationTime"])
    assert abs(parse_time(large["status"]["queue"]["estimatedStartTime"]) - end - GRACE) < SOON
    play.until("long", is_("Allocated", "False", "RoomPromised"))


def test_a_reservation_is_promised_and_its_room_lent_until_then(play: Play) -> None:
    node = one_node(play, "studio")
    at = time.time_ns() // 1_000_000_000 * 1000 + 3_600_000
    play.make(10, launch={"startTime": format_time(at)})
    launch = play.until("launch", lambda lease: "reservation" in (lease.get("status") or {}))
    assert launch["status"]["phase"] == "Scheduled"
    assert parse_time(launch["status"]["reservation"]["startTime"]) == at
    assert launch["status"]["reservation"]["slices"][0]["nodeName"] == node
    assert not granted(launch)
    rehearsal = play.until("rehearsal", granted)
    assert parse_time(rehearsal["status"]["deadlines"]["expirationTime"]) + GRACE <= at


def test_what_blue_borrowed_is_called_back_for_red(play: Play) -> None:
    one_node(play, "shared")
    play.make(11, leave_out={"blue-1", "blue-2", "red-1"})
    for name in ("blue-1", "blue-2"):  # one after the other: the youngest is asked to go
        play.make(11, leave_out={"shared", "blue-1", "blue-2", "red-1"} - {name})
        assert play.until(name, granted)["status"]["tenant"] == "blue"
    play.make(11, leave_out={"shared", "blue-1", "blue-2"})
    play.until("red-1", is_("Allocated", "False", "WaitingForVictims"))
    later = play.until("blue-2", is_("DisruptionTarget", "True", "TenantReclaim"))
    notice = parse_time(later["status"]["revocation"]["noticeTime"])
    assert parse_time(later["status"]["deadlines"]["revocationTime"]) == notice + 180_000
    assert not is_("DisruptionTarget")(play.until("blue-1", granted))


def test_a_question_is_answered(play: Play) -> None:
    node = one_node(play, "batch")
    play.make(9, leave_out={"large", "short", "long"})
    running = play.until("running", granted)
    play.make(12)
    answered = play.until("what-if", finished)
    assert condition(answered, "Finished")["reason"] == "DryRunComplete"
    quote, offer = answered["status"]["quote"], answered["status"]["counterOffer"]
    assert (quote["pool"], quote["nodes"]) == ("batch", [node] * 3)
    end = parse_time(running["status"]["deadlines"]["expirationTime"])
    assert abs(parse_time(quote["startTime"]) - end - GRACE) < SOON
    assert (offer["kind"], offer["count"], offer["resources"]) == ("Smaller", 2, {"cpu": "1"})


def test_any_pool_will_do_and_the_lease_says_which(play: Play) -> None:
    nodes = {pool: one_node(play, pool) for pool in ("spot-east", "spot-west")}
    play.make(13)
    got = play.until("anywhere", granted)
    pool = got["spec"]["poolRef"]["name"]
    assert got["status"]["allocation"]["slices"][0]["nodeName"] == nodes[pool]
    assert condition(got, "Accepted")["reason"] == "PoolChosen"


def lab(play: Play) -> None:
    one_node(play, "lab")
    play.stage.pool_named("lab", play.stage.nodes.selector)
    play.stage.until_pool("lab", is_("Ready"))


def test_parts_of_a_lease_are_given_out_one_after_the_other(play: Play) -> None:
    lab(play)
    play.make(14)
    batch = play.until("batch", granted)
    first = play.until("batch-job-1", granted)
    assert first["status"]["allocation"]["parentUID"] == batch["metadata"]["uid"]
    play.until("batch-job-2", is_("Ready", "False", "ParentFull"))
    play.stage.kube.patch(LEASES, "batch-job-1", {"spec": {"desiredState": "Released"}}, NAMESPACE)
    play.until("batch-job-2", granted)


def test_a_lease_goes_to_another_router(play: Play) -> None:
    lab(play)
    play.make(15)
    token = play.until("router", granted)["status"]["fencingToken"]
    play.stage.kube.patch(LEASES, "router", {"spec": {"holder": {"identity": "router-2"}}}, NAMESPACE)
    taken = play.until("router", lambda lease: lease["status"]["holder"] == {"identity": "router-2"})
    assert taken["status"]["fencingToken"] > token
