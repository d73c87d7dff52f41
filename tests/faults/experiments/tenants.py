"""Tenants who ask for too much, or for what is not theirs: large objects, floods, attacks, quotas that are used up."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tests.cluster.harness import (
    LEASES,
    POOLS,
    REPORTS,
    SESSIONS,
    Object,
    Stage,
    finished,
    granted,
    is_,
    micro_now,
    until,
)
from tests.faults.experiment import SYSTEM, Arena, Scale, Trial, experiment
from tests.faults.history import LEASE, Write

from leasehold.core.planning import BATCH, TOLD
from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError
from leasehold.testing.nodes import NodeShape

BOUND_SECONDS: Final = 5.0
"""How long a small lease may take beside large ones, on a machine that has time for it."""

BOUND_WRITES: Final = 20
"""The same in writes, for an API server that has so little of its machine that each takes long by itself.

Four lie in a lease's way one after the other: it is made, an earlier commit ends, it is committed, it is granted.
"""

BOUND_OTHERS: Final = 2 * (BATCH + TOLD)
"""How many writes to a flooding tenant's leases may come before the grant of a tenant with room.

What is under way when the lease is made, and what is decided together with it: a quick machine and a slow one have the
same bound.
"""

_VAST: Final = NodeShape(cpu="100k", memory="100Ti", ephemeral_storage="100Ti")
_QUOTA: Final = "limit-leases"
_COUNT: Final = "count/capacityleases.leasehold.dev"


def _namespace(stage: Stage, suffix: str, **labels: str) -> str:
    name = f"{stage.namespace}-{suffix}"
    meta = {"name": name, "labels": labels}
    stage.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    return name


def _lease(namespace: str, name: str, pool: str, meta: Object | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": {"name": name, "namespace": namespace, **(meta or {})},
        "spec": {"poolRef": {"name": pool}, "resources": {"cpu": "1"}, **spec},
    }


def _emptied(stage: Stage, namespace: str) -> None:
    """Remove what a tenant made."""
    names = [item["metadata"]["name"] for item in stage.kube.list(LEASES, namespace)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: stage._remove(LEASES, name, namespace), names))
    stage.kube.delete_all(SESSIONS, namespace)
    stage.kube.delete("namespaces", namespace, missing_ok=True)


def _served_in(trial: Trial, namespace: str, pool: str, name: str) -> float:
    """Ask for one lease and return how long it took (s)."""
    began = time.monotonic()
    trial.stage.kube.create(_lease(namespace, name, pool))
    trial.stage.kube.wait(LEASES, name, namespace, until=granted, timeout_seconds=60)
    return time.monotonic() - began


def _put_before(trial: Trial, namespace: str, other: str) -> dict[str, int]:
    """Return how often the operator wrote to another namespace's leases after each lease was made, before its grant."""
    made: dict[str, int] = {}
    grants: dict[str, int] = {}
    words = []
    for revision in trial.history.trace().revisions:
        at, meta = revision.number, revision.object["metadata"]
        if revision.kind == LEASE and meta["namespace"] == namespace:
            made.setdefault(meta["name"], at)
            if granted(revision.object):
                grants.setdefault(meta["name"], at)
        elif revision.kind == LEASE and meta["namespace"] == other and revision.subresource == "status":
            words.append(at)
    return {
        name: sum(1 for at in words if made[name] < at < granted_at) for name, granted_at in grants.items()
    }


def _bound(trial: Trial, since: float) -> float:
    """Return how long a lease with room may have waited since an instant (s)."""
    took = sorted(w.done - w.time for w in trial.history.writes() if w.changes and w.time >= since)
    return max(BOUND_SECONDS, BOUND_WRITES * took[len(took) // 2])


# --- 17 ---


def _loopholes(size: int) -> dict[str, Object]:
    """What the schema of a kind cannot bound: its metadata."""
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x" * 200, "controller": False}
    return {
        "annotations": {"annotations": {"example.org/big": "y" * size}},
        "labels": {"labels": {f"example.org/l{i}": "z" * 60 for i in range(size // 85)}},
        "finalizers": {"finalizers": [f"example.org/{'f' * 40}-{i}" for i in range(size // 62)]},
        "owners": {"ownerReferences": [{**owner, "uid": f"uid-{i}"} for i in range(size // 280)]},
    }


@experiment(17, "objects that are too large", "the schema refuses, the rest is served and costs nobody else")
def large_objects(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial(patience=60.0) as trial:
        stage = trial.stage
        pool = trial.pool(0)
        stage.nodes.create(1, _VAST)
        trial.operator().await_ready()
        usual = [_served_in(trial, stage.namespace, pool, f"before-{i}") for i in range(5)]
        taken = []
        for size in scale.pick(
            (250_000, 1_400_000), (200_000, 250_000, 262_000, 300_000, 1_000_000, 1_400_000)
        ):
            taken += _tried(trial, pool, size, maps=scale.long or size < 300_000)
        trial.tell(f"taken for all their size: {', '.join(taken)}")
        if not any("250000" in name for name in taken):
            trial.violate("no large object got in: nothing was tried")
        since = time.time()
        for name in taken:
            stage.until(name, granted)
        slower = [_served_in(trial, stage.namespace, pool, f"after-{i}") for i in range(5)]
        trial.tell(f"a small lease took at most {max(usual):.2f} s before and {max(slower):.2f} s after")
        half = sorted(slower)[2]  # whatever large leases cost they cost every time
        if half > _bound(trial, since):
            trial.violate(f"small leases took {half:.1f} s beside large ones")
        time.sleep(scale.pick(2, 60))
        for name in taken:
            writes = [w for w in trial.history.writes() if w.by_operator and w.changes and w.name == name]
            if len(writes) > 4 or any(w.time > since + 30 for w in writes):
                trial.violate(f"{len(writes)} writes to {name}")
        for name in taken:
            stage.change(name, desiredState="Released")
        for name in taken:
            stage.until(name, finished)


def _tried(trial: Trial, pool: str, size: int, *, maps: bool) -> list[str]:
    """Try objects of a size; return the names of those that were taken.

    The API server takes 17 s to refuse a map of 1.4 MB, whoever sends it, so `maps` may be left out.
    """
    namespace = trial.stage.namespace
    specs: dict[str, Object] = {"identity": {"holder": {"identity": "x" * size}}}
    if maps:
        specs["resources"] = {"resources": {f"r{i}": "1" for i in range(size // 12)}}
        specs["labels"] = {"placement": {"nodeSelector": {f"k{i}": "v" for i in range(size // 12)}}}
    patient = Client(trial.stage.control_plane.connection, timeout_seconds=300)
    with contextlib.closing(patient):
        for field, spec in specs.items():
            if _taken(trial, patient, _lease(namespace, f"{field}-{size}", pool, **spec)):
                trial.violate(f"{size} bytes in {field} of the spec were taken")
        return [
            f"meta-{field}-{size}"
            for field, meta in _loopholes(size).items()
            if _taken(trial, patient, _lease(namespace, f"meta-{field}-{size}", pool, meta))
        ]


def _taken(trial: Trial, kube: Client, item: Object) -> bool:
    trial.deliver(1)
    try:
        kube.create(item)
    except ApiError as error:
        if error.status not in (400, 413, 422, 500) or (
            error.status == 500 and "too large" not in error.message
        ):
            trial.violate(f"{item['metadata']['name']}: {error.status} {error.message[:200]}")
        return False
    return True


# --- 18 ---


@experiment(18, "one tenant floods a pool", "another tenant is served in time, and a quota stops the flood")
def flood(arena: Arena, scale: Scale, dice: random.Random) -> None:
    count = scale.pick(600, 20_000)
    with arena.trial(patience=scale.pick(90.0, 900.0), election_seconds=15) as trial:
        stage = trial.stage
        loud, quiet = _namespace(stage, "loud", team="loud"), _namespace(stage, "quiet", team="quiet")
        stage.nodes.create(4, NodeShape(cpu="16", memory="64Gi", ephemeral_storage="10Gi"))
        tenants = [
            {"name": team, "namespaceSelector": {"matchLabels": {"team": team}}, "limit": {"cpu": limit}}
            for team, limit in (("loud", "32"), ("quiet", "32"))
        ]
        pool = trial.pool(0, tenants=tenants, queueing={"maxPending": count // 3})
        operator = trial.operator()
        operator.await_ready()
        try:
            usual = [_served_in(trial, quiet, pool, f"usual-{i}") for i in range(5)]
            began = time.monotonic()
            with ThreadPoolExecutor(16) as threads:
                flooding = [
                    threads.submit(stage.kube.create, _lease(loud, f"f{i}", pool, durationSeconds=3600))
                    for i in range(count)
                ]
                waited = []
                while not all(one.done() for one in flooding):
                    waited.append(_served_in(trial, quiet, pool, f"meanwhile-{len(waited)}"))
                    stage.kube.patch(
                        LEASES, f"meanwhile-{len(waited) - 1}", {"spec": {"desiredState": "Released"}}, quiet
                    )
                    time.sleep(0.2)
            made = sum(1 for one in flooding if one.exception() is None)
            trial.deliver(made, f"leases asked for in {time.monotonic() - began:.0f} s")
            after = [_served_in(trial, quiet, pool, f"after-{i}") for i in range(5)]
            _state_latency(trial, "before", usual)
            _state_latency(trial, "while the flood comes", waited)
            _state_latency(trial, f"beside {made} leases", after)
            before: dict[str, int] = {}

            def all_counted() -> bool:
                before.update(_put_before(trial, quiet, loud))
                return len(before) == len([*usual, *waited, *after])

            until(all_counted, "every grant is in the record")
            last = max(before, key=lambda name: before[name])
            trial.tell(
                f"before the grant of {last} {before[last]} writes to the other's leases, at most of all"
            )
            if not before[last]:
                trial.violate("nothing was written to the flooding tenant's leases: nothing was tried")
            if before[last] > BOUND_OTHERS:
                trial.violate(
                    f"{last} of the quiet tenant had to wait for {before[last]} writes to the other's leases, which "
                    f"is more than {BOUND_OTHERS}"
                )
            _quota_stops(trial, loud, pool, made)
        finally:
            trial.finish()
            _emptied(stage, loud)
            _emptied(stage, quiet)


def _state_latency(trial: Trial, when: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    half = ordered[len(ordered) // 2]
    trial.tell(
        f"{when}: {len(ordered)} leases of the quiet tenant, p50 {half:.3f} s, at most {ordered[-1]:.3f} s"
    )


def _quota(stage: Stage, namespace: str, hard: int, used: int) -> None:
    """Make a quota on the number of leases, which stands when this returns."""
    meta = {"name": _QUOTA, "namespace": namespace}
    stage.kube.create(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {_COUNT: str(hard)}}}
    )
    # A quota of which admission knows no status yet lets everything in, uncounted. One that is full shows that it does.
    for count in (hard, used):
        _state_used(stage, namespace, hard, count)


def _state_used(stage: Stage, namespace: str, hard: int, used: int) -> None:
    """Say what is used, as the kube-controller-manager would, and wait until admission goes by it."""
    status = {"status": {"hard": {_COUNT: str(hard)}, "used": {_COUNT: str(used)}}}
    stage.kube.patch("resourcequotas", _QUOTA, status, namespace, subresource="status")
    until(
        lambda: _lets_in(stage, namespace) == (used < hard), f"admission knows {used} of {hard} leases used"
    )


def _lets_in(stage: Stage, namespace: str) -> bool:
    """Tell whether one more lease would be let in."""
    path = f"/apis/leasehold.dev/v1alpha1/namespaces/{namespace}/capacityleases"
    try:
        stage.kube.request("POST", path, _lease(namespace, "probe", "none"), dryRun="All")
    except ApiError as error:
        if error.status != 403:
            raise
        return False
    return True


def _until_refused(ask: Callable[[int], Any], most: int = 200) -> int:
    """Ask until a quota refuses; return how often it was granted before. -1 when it never refuses."""
    for i in range(most):
        try:
            ask(i)
        except ApiError as error:
            if error.status != 403:
                raise
            return i
        time.sleep(0.02)
    return -1


def _quota_stops(trial: Trial, namespace: str, pool: str, made: int) -> None:
    stage = trial.stage
    _quota(stage, namespace, made + 10, made)
    granted_more = _until_refused(lambda i: stage.kube.create(_lease(namespace, f"more-{i}", pool)))
    trial.tell(f"the quota let {granted_more} more in")
    if granted_more < 0:
        trial.violate("a quota on the number of leases does not stop a flood")
    trial.deliver(1, "refused by a quota")


# --- 20 ---

_EDIT: Final = [
    {
        "apiGroups": ["leasehold.dev"],
        "resources": ["capacityleases"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
    },
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["configmaps", "events"], "verbs": ["get", "list", "create", "delete"]},
]
"""What the ClusterRole `edit` would give a tenant in its own namespace."""


def _as_tenant(trial: Trial, namespace: str) -> Client:
    kube = trial.stage.kube
    kind = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "edit", "namespace": namespace},
    }
    kube.create({**kind, "kind": "Role", "rules": _EDIT})
    kube.create(
        {
            **kind,
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "edit"},
            "subjects": [{"kind": "ServiceAccount", "name": "mallory", "namespace": namespace}],
        }
    )
    return Client(trial.control_plane.as_service_account(namespace, "mallory"))


@experiment(
    20, "a tenant reaches for what is another's", "refused, or ignored without one write for the other"
)
def attacks(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial() as trial:
        stage = trial.stage
        victim, attacker = (
            _namespace(stage, "victim", team="victim"),
            _namespace(stage, "mallory", team="mallory"),
        )
        tenants = [
            {"name": team, "namespaceSelector": {"matchLabels": {"team": team}}}
            for team in ("victim", "mallory")
        ]
        pool = trial.pool(2, tenants=tenants)
        trial.operator().await_ready()
        kube = stage.kube
        mallory = _as_tenant(trial, attacker)
        try:
            _session(kube, victim, "s")
            kube.create(
                _lease(victim, "held", pool, liveness="Session", holder={"sessionRef": {"name": "s"}})
            )
            kube.create(_lease(victim, "waits", pool, count=8))
            kube.wait(LEASES, "held", victim, until=granted)
            kube.wait(LEASES, "waits", victim, until=is_("Allocated", "False"))
            time.sleep(1)
            before = {item["metadata"]["name"]: item for item in kube.list(LEASES, victim)}
            since = time.time()
            _refused(trial, mallory, victim, attacker, pool)
            _ignored(trial, mallory, victim, attacker, pool, before)
            time.sleep(1)
            after = {item["metadata"]["name"]: item for item in kube.list(LEASES, victim)}
            for name, item in before.items():
                if _without_queue(after[name]) != _without_queue(item):
                    trial.violate(f"{name} of the victim changed: {item['status']} {after[name]['status']}")
            _no_writes(trial, victim, since)
        finally:
            trial.finish()
            mallory.close()
            _emptied(stage, attacker)
            _emptied(stage, victim)


def _session(kube: Client, namespace: str, name: str, duration: int = 60) -> None:
    meta = {"name": name, "namespace": namespace, "labels": {"leasehold.dev/session": ""}}
    spec = {"renewTime": micro_now(), "leaseDurationSeconds": duration, "holderIdentity": "x"}
    kube.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec})


def _without_queue(item: Object) -> Object:
    """Where one stands in a queue, and how many nodes lack what, is what others may change."""
    status = {key: part for key, part in item["status"].items() if key not in ("queue", "rejections")}
    conditions = [(row["type"], row["status"], row["reason"]) for row in status.pop("conditions")]
    return {"spec": item["spec"], "status": status, "conditions": conditions}


def _no_writes(trial: Trial, victim: str, since: float) -> None:
    found = trial.history.writes()
    mine = [w for w in found if w.namespace == victim and w.time >= since and w.changes and w.code < 300]
    wrote = [f"{w.agent} {w.verb} {w.resource}/{w.name}/{w.subresource}" for w in mine]
    # The one who waits may be told a new place in the queue, which is what a shared queue is.
    told = [w for w in mine if w.by_operator and w.name == "waits" and w.subresource == "status"]
    trial.tell(f"{len(mine)} writes in the victim's namespace, {len(told)} of them its place in the queue")
    if len(mine) > len(told):
        trial.violate(f"writes in the victim's namespace: {wrote}")


def _refused(trial: Trial, kube: Client, victim: str, own: str, pool: str) -> None:
    """What RBAC or the schema must refuse."""
    status = {"status": {"phase": "Active"}}
    node = trial.stage.nodes.names[0]
    kube.create(_lease(own, "own", pool))
    tries: dict[str, Callable[[], Any]] = {
        "read another's lease": lambda: kube.get(LEASES, "held", victim),
        "list another's leases": lambda: kube.list(LEASES, victim),
        "list everybody's leases": lambda: kube.list(LEASES),
        "release another's lease": lambda: kube.patch(
            LEASES, "held", {"spec": {"desiredState": "Released"}}, victim
        ),
        "revoke another's lease": lambda: kube.patch(
            LEASES, "held", {"metadata": {"annotations": {"leasehold.dev/revoke": "x"}}}, victim
        ),
        "delete another's lease": lambda: kube.delete(LEASES, "held", victim),
        "delete all of another's leases": lambda: kube.delete_all(LEASES, victim),
        "lift another's finalizer": lambda: kube.patch(
            LEASES, "held", {"metadata": {"finalizers": None}}, victim
        ),
        "make a lease for another": lambda: kube.create(_lease(victim, "forged", pool)),
        "write its own status": lambda: kube.patch(LEASES, "own", status, own, subresource="status"),
        "write another's status": lambda: kube.patch(LEASES, "held", status, victim, subresource="status"),
        "renew another's session": lambda: kube.patch(
            SESSIONS, "s", {"spec": {"renewTime": micro_now()}}, victim
        ),
        "delete another's session": lambda: kube.delete(SESSIONS, "s", victim),
        "hold the election": lambda: kube.patch(
            SESSIONS, "leasehold-shard-0", {"spec": {"holderIdentity": "mallory"}}, SYSTEM
        ),
        "make an election Lease": lambda: _session(kube, SYSTEM, "leasehold-shard-7"),
        "change the pool": lambda: kube.patch(POOLS, pool, {"spec": {"stopPolicy": "HoldAndDrain"}}),
        "write the pool's ledger": lambda: kube.patch(
            POOLS, pool, {"status": {"ledger": {"epoch": 10**6}}}, subresource="status"
        ),
        "delete the pool": lambda: kube.delete(POOLS, pool),
        "make a pool": lambda: kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityPool",
                "metadata": {"name": f"{own}-greedy"},
                "spec": {"nodeSelector": {}},
            }
        ),
        "forge a node's report": lambda: kube.patch(
            REPORTS, node, {"status": {"sequence": 10**6}}, subresource="status"
        ),
        "cordon a node": lambda: kube.patch("nodes", node, {"spec": {"unschedulable": True}}),
        "relabel its own namespace": lambda: kube.patch(
            "namespaces", own, {"metadata": {"labels": {"team": "victim"}}}
        ),
        "act as the operator": lambda: kube.request(
            "POST",
            f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/leasehold-operator/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        ),
        "move its lease to another pool": lambda: kube.patch(
            LEASES, "own", {"spec": {"poolRef": {"name": "x"}}}, own
        ),
        "take a lease without an amount": lambda: kube.create(
            _lease(own, "nothing", pool, resources={"cpu": "0"})
        ),
    }
    for what, act in tries.items():
        trial.deliver(1)
        try:
            act()
            trial.violate(f"a tenant could {what}")
        except ApiError as error:
            if error.status not in (403, 422):
                trial.violate(f"{what}: {error.status} {error.message[:200]}")
    trial.tell(f"{len(tries)} attempts were refused by RBAC or by the schema: {', '.join(tries)}")


def _ignored(trial: Trial, kube: Client, victim: str, own: str, pool: str, before: dict[str, Object]) -> None:
    """What gets past RBAC, because it is the tenant's own object, and must move nothing of another's."""
    held = before["held"]["metadata"]
    owner = {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "name": "held",
        "uid": held["uid"],
    }
    ours = {"leasehold.dev/force-release": "true", "leasehold.dev/revoke": "held"}
    sets: dict[str, Object] = {
        "forged-owner": _lease(own, "forged-owner", pool, {"ownerReferences": [owner]}),
        "another-tenant": _lease(own, "another-tenant", pool, tenant="victim"),
        "same-name": _lease(own, "held", pool),
        "their-session": _lease(
            own, "their-session", pool, liveness="Session", holder={"sessionRef": {"name": "s"}}
        ),
        "path-session": _lease(
            own, "path-session", pool, liveness="Session", holder={"sessionRef": {"name": f"../{victim}/s"}}
        ),
        "our-annotations": _lease(own, "our-annotations", pool, {"annotations": ours, "labels": ours}),
        "first-of-all": _lease(own, "first-of-all", pool, count=64, priority=10**9),
        "path-pool": _lease(own, "path-pool", f"../{pool}"),
    }
    for item in sets.values():
        kube.create(item)
        trial.deliver(1)
    trial.stage.kube.wait(LEASES, "our-annotations", own, until=lambda item: bool(item.get("status")))
    _session(kube, own, "leasehold-shard-0", 1)
    kube.patch(LEASES, "held", {"spec": {"desiredState": "Released"}}, own)
    trial.stage.kube.wait(LEASES, "held", own, until=finished)
    told = trial.stage.kube.wait(LEASES, "another-tenant", own, until=lambda item: bool(item.get("status")))
    if granted(told):
        trial.violate("a lease was granted on another tenant's account")
    session = trial.stage.kube.wait(LEASES, "their-session", own, until=lambda item: bool(item.get("status")))
    if is_("Claimed")(session):
        trial.violate("another namespace's session claimed a lease")
    trial.tell(
        f"{len(sets)} objects of the tenant's own were taken and moved nothing else: {', '.join(sets)}"
    )


# --- 25 ---


def _no_events(trial: Trial, namespace: str) -> list[Object]:
    """Refuse every Event in a namespace; quotas do not count them."""
    name = f"no-events-{namespace}"
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    rule = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["events"]}
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [{"name": "here", "expression": f"request.namespace == '{namespace}'"}],
        "validations": [{"expression": "false"}],
    }
    binding = {"policyName": name, "validationActions": ["Deny"]}
    made = [
        {**kind, "kind": "ValidatingAdmissionPolicy", "spec": spec},
        {**kind, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding},
    ]
    for item in made:
        trial.stage.kube.create(item)
    meta = {"generateName": "probe-", "namespace": namespace}
    about = {"kind": "Namespace", "name": namespace, "namespace": namespace}
    probe = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": meta,
        "involvedObject": about,
        "reason": "Probe",
    }
    deadline = time.monotonic() + 20
    while True:  # a policy is in force some time after it is made
        try:
            trial.stage.kube.create(probe)
        except ApiError as error:
            if error.status != 422:
                raise
            return made
        assert time.monotonic() < deadline, "the policy is never in force"
        time.sleep(0.1)


@experiment(25, "quotas that are used up", "nothing leaks: all capacity comes back")
def exhausted_quotas(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial() as trial:
        stage = trial.stage
        pool = trial.pool(2)
        operator = trial.operator()
        operator.await_ready()
        tight = _namespace(stage, "tight")
        try:
            refusal = _no_events(trial, tight)
            _quota(stage, tight, 6, 0)
            got = _until_refused(lambda i: stage.kube.create(_lease(tight, f"l{i}", pool)))
            trial.tell(f"the quota let {got} leases in")
            if got != 6:
                trial.violate(f"a quota of 6 leases let {got} in")
            trial.deliver(1, "a lease was refused by a quota")
            for i in range(6):
                stage.kube.wait(LEASES, f"l{i}", tight, until=granted)

            def refusals() -> list[Write]:
                writes = trial.history.writes()
                return [w for w in writes if w.by_operator and w.resource == "events" and w.code == 422]

            with contextlib.suppress(AssertionError):
                until(lambda: bool(refusals()), "an Event is refused, some time after what it tells")
            refused = refusals()
            trial.deliver(len(refused), "an Event was refused")
            if not refused or [
                e for e in stage.kube.list("events.events.k8s.io", tight) if e["reason"] == "Granted"
            ]:
                trial.violate("Events were written although every one is to be refused")
            for i in range(6):
                change = {"spec": {"desiredState": "Released"}}
                stage.kube.patch(LEASES, f"l{i}", change, tight)
            for i in range(6):
                stage.kube.wait(LEASES, f"l{i}", tight, until=finished)
            stage.until_pool(pool, lambda item: item["status"]["capacity"][0]["free"] == "8")
            for i in range(scale.pick(3, 20)):
                stage.kube.delete(LEASES, f"l{i % 6}", tight, missing_ok=True)
                stage.kube.wait_gone(LEASES, f"l{i % 6}", tight)
                _state_used(stage, tight, 6, 5)
                stage.kube.create(_lease(tight, f"l{i % 6}", pool, resources={"cpu": "4"}))
                stage.kube.wait(LEASES, f"l{i % 6}", tight, until=granted)
                stage.kube.patch(LEASES, f"l{i % 6}", {"spec": {"desiredState": "Released"}}, tight)
                stage.kube.wait(LEASES, f"l{i % 6}", tight, until=finished)
            whole = stage.until(stage.lease(pool, cpu="4", count=2), granted)
            trial.tell(f"in the end all is free: {json.dumps(whole['status']['allocation']['slices'])[:200]}")
        finally:
            for item in refusal:
                stage.kube.delete(f"{item['kind']}.admissionregistration.k8s.io", item["metadata"]["name"])
            trial.finish()
            _emptied(stage, tight)
