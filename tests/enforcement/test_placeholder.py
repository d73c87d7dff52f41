"""Room that is held against every other pod: placeholders, and how pods of the lease take their place."""

from __future__ import annotations

import pytest
from tests.cluster.harness import SMALL, Object, finished, granted, is_
from tests.enforcement.harness import PodStage, bound_to, running, until

SYSTEM = "leasehold-system"


def placeholders(stage: PodStage, lease: str) -> list[Object]:
    uid = stage.get(lease)["metadata"]["uid"]
    return stage.kube.list("pods", SYSTEM, labelSelector=f"leasehold.dev/placeholder={uid}")


def held_by(stage: PodStage, lease: str) -> dict[str, list[str]]:
    """What is requested by the bound placeholders of a lease, of cpu, by node."""
    found: dict[str, list[str]] = {}
    for pod in placeholders(stage, lease):
        if pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]:
            cpu = pod["spec"]["containers"][0]["resources"]["requests"].get("cpu", "0")
            found.setdefault(pod["spec"]["nodeName"], []).append(cpu)
    return found


def pool(stage: PodStage, **more: object) -> str:
    return stage.pool(enforcement={"mode": "Placeholder", **more})


def test_what_a_lease_has_is_held_against_other_pods(stage: PodStage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    lease = stage.lease(pool(stage), cpu="3")
    stage.until(lease, granted)
    until(lambda: held_by(stage, lease) == {node: ["3"]}, "the room is held")
    stranger = stage.pod(cpu="2")
    stage.settled_pod(stranger, lambda pod: not bound_to()(pod), 1)
    stage.change(lease, desiredState="Released")
    stage.until_pod(stranger, running)
    until(lambda: not placeholders(stage, lease), "the placeholder goes at once")
    stage.until(lease, finished)


def test_a_pod_of_the_lease_takes_the_place_of_its_placeholder(stage: PodStage) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    lease = stage.lease(pool(stage), cpu="3")
    stage.until(lease, granted)
    until(lambda: held_by(stage, lease) == {node: ["3"]}, "the room is held")
    strangers = [stage.pod(cpu="3") for _ in range(3)]
    pod = stage.pod(lease, cpu="3", memory="")
    stage.until_pod(pod, running)
    assert not any(bound_to()(stage.get_pod(name)) for name in strangers)
    until(lambda: not placeholders(stage, lease), "nothing is left to hold")
    stage.finish(pod)


@pytest.mark.parametrize("more", [{}, {"ephemeral-storage": "1Gi"}], ids=["in place", "by another one"])
def test_the_rest_of_a_slice_stays_held(stage: PodStage, more: dict[str, str]) -> None:
    (node,) = stage.nodes.create(1, SMALL)
    lease = stage.lease(pool(stage), resources={"cpu": "3", **more})  # storage cannot be resized
    stage.until(lease, granted)
    until(lambda: held_by(stage, lease) == {node: ["3"]}, "the room is held")
    (before,) = placeholders(stage, lease)
    pod = stage.pod(lease, cpu="1", memory="")
    stage.until_pod(pod, running)
    (after,) = placeholders(stage, lease)
    assert (after["metadata"]["uid"] == before["metadata"]["uid"]) == (not more)
    until(lambda: held_by(stage, lease) == {node: ["2"]}, "the rest is held")
    stage.finish(pod)
    until(lambda: sorted(held_by(stage, lease).get(node, [])) == ["1", "2"], "all is held again")


def test_a_placeholder_that_cannot_be_made_is_a_condition(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(pool(stage, placeholderPriorityClassName="nowhere"), cpu="3")
    stage.until(lease, granted)
    told = stage.until(lease, is_("Degraded", "True", "RoomNotHeld"))
    assert "nowhere" in str(told["status"]["conditions"])
