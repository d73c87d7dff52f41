"""Others who write to the same objects: policies that fail, controllers that flip fields, appliers that never rest."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from tests.cluster.harness import LEASES, POOLS, Object, granted, is_
from tests.faults.experiment import Arena, Scale, Trial, experiment

from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError

MOST_PER_MINUTE: Final = 30
"""How often an operator may write to one object about which somebody else disagrees, within the first minute."""

_EAGER: Final = 0.02


@contextmanager
def _busy(trial: Trial, act: Callable[[Client], bool]) -> Iterator[list[int]]:
    """Let somebody act again and again while the block runs; the list counts how often it did something."""
    done = [0]
    closing = threading.Event()
    kube = Client(trial.control_plane.connection)

    def run() -> None:
        while not closing.wait(_EAGER):
            with suppress(ApiError, OSError):
                done[0] += act(kube)

    thread = threading.Thread(target=run, name="other writer", daemon=True)
    thread.start()
    try:
        yield done
    finally:
        closing.set()
        thread.join()
        kube.close()


def _writes(trial: Trial, name: str, since: float) -> int:
    """Count the operator's requests about one object, taken or refused."""
    found = trial.history.writes()
    return sum(1 for w in found if w.by_operator and w.changes and w.name == name and w.time >= since)


def _bounded(trial: Trial, what: str, name: str, since: float) -> None:
    seconds = time.time() - since
    count = _writes(trial, name, since)
    # The pauses double: a fight of any length costs about as much as its first minute allows.
    most = MOST_PER_MINUTE * max(1.0, seconds / 60)
    trial.tell(f"{what}: {count} writes of the operator to {name} in {seconds:.0f} s")
    if count > most:
        trial.violate(f"fight: {what}: the operator wrote {count} times to {name} in {seconds:.0f} s")


# --- 24 ---


def _flips_a_lease(trial: Trial, pool: str, seconds: float) -> None:
    stage = trial.stage
    name = stage.lease(pool, cpu="1")
    stage.until(name, granted)
    since = time.time()

    def flip(kube: Client) -> bool:
        if kube.get(LEASES, name, stage.namespace)["status"].get("phase") == "Hacked":
            return False
        kube.patch(LEASES, name, {"status": {"phase": "Hacked"}}, stage.namespace, subresource="status")
        return True

    with _busy(trial, flip) as flips:
        stage.until(name, lambda item: item["status"].get("phase") == "Hacked")
        began = time.monotonic()
        stage.until(stage.lease(pool, cpu="1"), granted)
        trial.tell(f"a bystander waited {time.monotonic() - began:.2f} s")
        time.sleep(seconds)
    trial.deliver(flips[0], "a lease's status was flipped")
    _bounded(trial, "a third party flips a lease's status", name, since)
    events = [event["reason"] for event in stage.events(name)]
    if flips[0] > 3 and "ForeignWrite" not in events:
        trial.violate(f"nobody was told of the other writer: {events}")
    if not granted(stage.get(name)):
        trial.violate("the lease was lost in the fight")


def _flips_a_pool(trial: Trial, pool: str, seconds: float) -> None:
    since = time.time()

    def flip(kube: Client) -> bool:
        known = kube.get(POOLS, pool)["status"]
        if known.get("leases", {}).get("held") == 777:
            return False
        kube.patch(
            POOLS, pool, {"status": {"leases": {**known["leases"], "held": 777}}}, subresource="status"
        )
        return True

    with _busy(trial, flip) as flips:
        time.sleep(seconds)
        trial.stage.until(trial.stage.lease(pool, cpu="1"), granted)
    trial.deliver(flips[0], "a pool's status was flipped")
    _bounded(trial, "a third party flips a pool's status", pool, since)


def _policy(name: str, namespace: str, lease: str) -> list[Object]:
    """A policy whose rule fails for one lease's status: everything is refused that it is asked about."""
    rule = {
        "apiGroups": ["leasehold.dev"],
        "apiVersions": ["*"],
        "operations": ["UPDATE"],
        "resources": ["capacityleases/status"],
    }
    match = f"object.metadata.name == '{lease}' && object.metadata.namespace == '{namespace}'"
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    return [
        {
            **kind,
            "kind": "ValidatingAdmissionPolicy",
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [rule]},
                "matchConditions": [{"name": "cursed", "expression": match}],
                "validations": [{"expression": "object.metadata.labels['none'] == 'x'"}],
            },
        },
        {
            **kind,
            "kind": "ValidatingAdmissionPolicyBinding",
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]


def _cursed(trial: Trial, pool: str, seconds: float) -> None:
    """A ValidatingAdmissionPolicy that fails on one lease: the others are served, and it is once the policy is gone."""
    stage = trial.stage
    trial.cursed.add("cursed")
    probe = stage.lease(pool, cpu="1")
    stage.until(probe, granted)
    objects = _policy(f"fails-{stage.namespace}", stage.namespace, "cursed")
    for item in objects:
        stage.kube.create(item)
    try:
        stage.lease(f"{pool}-none", name="cursed")
        deadline = time.monotonic() + 20
        while _takes_status(trial):  # a policy is in force some time after it is made
            assert time.monotonic() < deadline, "the policy is never in force"
            time.sleep(0.1)
        stage.kube.delete(LEASES, "cursed", stage.namespace)
        stage._remove(LEASES, "cursed", stage.namespace)
        since = time.time()
        stage.lease(pool, name="cursed", cpu="1")
        began = time.monotonic()
        stage.until(stage.lease(pool, cpu="1"), granted)
        trial.tell(f"a bystander waited {time.monotonic() - began:.2f} s")
        time.sleep(seconds)
        refused = [
            w for w in trial.history.writes() if w.by_operator and w.name == "cursed" and w.code >= 400
        ]
        trial.deliver(
            len([w for w in refused if w.time >= since]), "a write was refused by a policy that fails"
        )
        _bounded(trial, "a policy fails", "cursed", since)
        if granted(stage.get("cursed")):
            trial.violate("it was granted against the policy")
    finally:
        for item in objects:
            stage.kube.delete(f"{item['kind']}.admissionregistration.k8s.io", item["metadata"]["name"])
    stage.until("cursed", granted, 45)


def _takes_status(trial: Trial) -> bool:
    kube, namespace = trial.stage.kube, trial.stage.namespace
    try:
        kube.patch(LEASES, "cursed", {"status": {"observedGeneration": 1}}, namespace, subresource="status")
    except ApiError as error:
        if error.status != 422:
            raise
        return False
    return True


@experiment(
    24, "a policy that fails, a third party that flips our status", "no write fight, others are served"
)
def other_writers(arena: Arena, scale: Scale, dice: random.Random) -> None:
    seconds = scale.pick(4.0, 60.0)
    for story in (_flips_a_lease, _flips_a_pool, _cursed):
        with arena.trial(patience=60.0) as trial:
            pool = trial.pool(2)
            trial.operator().await_ready()
            trial.stage.until_pool(pool, is_("Ready"))
            story(trial, pool, seconds)


# --- 26 ---


def _owners(item: Object) -> dict[tuple[str, str, str], Any]:
    """Who owns which fields, without the times."""
    return {
        (row["manager"], row["operation"], row.get("subresource", "")): row["fieldsV1"]
        for row in item["metadata"]["managedFields"]
    }


def _appliers(trial: Trial, pool: str, seconds: float) -> None:
    """Somebody applies the same manifest again and again, and somebody else annotates: nothing flips, nobody fights."""
    stage = trial.stage
    label = {"pool": stage.namespace}
    stage.kube.patch(POOLS, pool, {"metadata": {"labels": label}})
    meta = {"name": "applied", "namespace": stage.namespace}
    manifest = {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": {**meta, "labels": {"app": "x"}},
        "spec": {
            "poolSelector": {"matchLabels": label},
            "resources": {"cpu": "1"},
            "durationSeconds": 3600,
            "holder": {"identity": "argo"},
        },
    }
    stage.kube.apply(manifest, manager="argocd-controller")
    stage.until("applied", granted)
    before = stage.until("applied", is_("Ready"))
    since = time.time()
    count = [0]

    def act(kube: Client) -> bool:
        count[0] += 1
        kube.apply(manifest, manager=("argocd-controller", "helm", "kubectl")[count[0] % 3])
        note = {"metadata": {"annotations": {"seen": str(count[0] % 2)}}}
        kube.patch(LEASES, "applied", note, stage.namespace)
        return True

    with _busy(trial, act) as done:
        time.sleep(seconds)
    trial.deliver(done[0], "applied and annotated")
    written = _writes(trial, "applied", since)
    trial.tell(f"{written} writes of the operator meanwhile")
    if written > 2:
        trial.violate(f"the operator wrote {written} times to a lease in which nothing of its own changed")
    after = stage.get("applied")
    if after["spec"] != before["spec"]:
        trial.violate(f"its spec went from {before['spec']} to {after['spec']}")
    if not granted(after) or after["status"]["fencingToken"] != before["status"]["fencingToken"]:
        trial.violate("the grant changed")
    mine = [key for key in _owners(before) if key[0] == "leasehold-operator"]
    for key in mine:
        if _owners(after).get(key) != _owners(before)[key]:
            trial.violate(
                f"the fields of {key} were {_owners(before)[key]} and are {_owners(after).get(key)}"
            )
    stage.change("applied", renewTime="2026-11-22T12:00:00Z")
    stage.until("applied", lambda item: (item["status"].get("renewal") or {}).get("count") == 1)
    stage.kube.apply(manifest, manager="argocd-controller")
    if "renewTime" not in stage.get("applied")["spec"]:
        trial.violate("an applier took back a renewal that is not its own")


def _replacer(trial: Trial, pool: str) -> None:
    """Somebody writes whole objects back, from a copy of before: what is final is refused, what is not is heard."""
    stage = trial.stage
    name = stage.lease(pool, cpu="2", durationSeconds=3600)
    old = stage.get(name)
    held = stage.until(name, granted)
    refused = 0
    for change in (
        {"resources": {"cpu": "3"}},
        {"poolRef": {"name": "other"}},
        {"count": 2},
        {"mode": "DryRun"},
    ):
        body = {**old, "spec": {**old["spec"], **change}, "status": {}}
        body["metadata"] = {
            **old["metadata"],
            "resourceVersion": stage.get(name)["metadata"]["resourceVersion"],
        }
        try:
            stage.kube.replace(body)
            trial.violate(f"{change} of a granted lease was taken")
        except ApiError as error:
            refused += error.status == 422
    trial.deliver(refused, "a whole object with a change that is final was refused")
    body["spec"] = {**old["spec"], "resources": {"cpu": "1"}}
    stage.kube.replace(body)
    trial.deliver(1, "a whole object with an empty status was written back")
    shrunk = stage.until(
        name, lambda item: item["status"]["allocation"]["slices"][0]["resources"] == {"cpu": "1"}
    )
    if shrunk["status"]["fencingToken"] != held["status"]["fencingToken"]:
        trial.violate("its token changed")
    body["metadata"]["resourceVersion"] = stage.get(name)["metadata"]["resourceVersion"]
    body["metadata"] = {**body["metadata"], "finalizers": ["example.org/mine"]}
    stage.kube.replace(body)
    trial.deliver(1, "the finalizer was replaced by another one")


@experiment(26, "kubectl, Helm and Argo CD edit the same objects", "one owner per field, nothing flips")
def foreign_edits(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial() as trial:
        pool = trial.pool(2)
        trial.operator().await_ready()
        _appliers(trial, pool, scale.pick(3.0, 30.0))
    with arena.trial() as trial:
        pool = trial.pool(1)
        trial.operator().await_ready()
        _replacer(trial, pool)
