"""An API server that has no time, and a network that is slow, loses, repeats and mixes up."""

from __future__ import annotations

import itertools
import random
import threading
import time
from pathlib import Path

import yaml
from tests.cluster.harness import finished, granted
from tests.faults.experiment import SYSTEM, Arena, Scale, Trial, experiment
from tests.faults.proxy import BlackHole, Call, Delay, Drop, Duplicate, FaultProxy, Overtake, Status, Truncate

from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError
from leasehold.testing.kubeconfig import Connection

MANIFESTS = Path(__file__).parents[3] / "manifests"
_HOG = 24


# --- 22: too many requests ---


@experiment(
    22, "429, injected and by the API server's own fairness", "Retry-After is obeyed; nothing is lost"
)
def too_many_requests(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for _ in range(scale.pick(1, 4)):
        with arena.trial() as trial:
            proxy = trial.proxy(dice)
            pool = trial.pool(2)
            trial.operator("a", proxy).await_leading()
            rule = proxy.add(Status(429, retry_after=1), where=_about_us, chance=0.3)
            with trial.churn([pool], dice, per_second=12, most=25):
                time.sleep(scale.pick(3, 15))
            trial.deliver(rule.delivered, "429 injected")
            rule.lift()
        with arena.trial() as trial:
            _told_to_wait(trial, dice)
    with arena.trial(patience=60) as trial:
        _real_fairness(trial, scale.pick(3, 20))


def _about_us(call: Call) -> bool:
    return call.ours and call.verb != "watch"


def _told_to_wait(trial: Trial, dice: random.Random) -> None:
    """Between a 429 and the next try of the same request lies at least what Retry-After says."""
    proxy = trial.proxy(dice)
    pool = trial.pool(2)
    trial.operator("a", proxy).await_leading()
    lease = "patient"

    def grants(call: Call) -> bool:
        return call.verb == "put" and call.resource == "capacityleases" and call.name == lease

    rule = proxy.add(Status(429, retry_after=2), where=grants, times=2)
    trial.stage.lease(pool, name=lease)
    trial.stage.until(lease, granted)
    times = [call.time for call in list(proxy.calls) if grants(call)][:3]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    if len(gaps) < 2 or any(gap < 2.0 for gap in gaps):
        trial.violate(f"Retry-After said 2 s, the next tries came after {gaps}")
    trial.deliver(rule.delivered, "429 with Retry-After: 2")


def _real_fairness(trial: Trial, seconds: float) -> None:
    """The API server itself refuses: one seat for the operator's account, which others of that account take."""
    stage = trial.stage
    for document in yaml.safe_load_all((MANIFESTS / "rbac-operator.yaml").read_text()):
        stage.kube.apply(document)
    account = trial.control_plane.as_service_account(SYSTEM, "leasehold-operator")
    pool = trial.pool(2)
    operator = trial.operator("a", kubeconfig=trial.control_plane.write_kubeconfig(account)).await_leading()
    for i in range(15):
        stage.kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityPool",
                "metadata": {"name": f"{stage.namespace}-{i}", "annotations": {"fill": "x" * 160_000}},
                "spec": {"nodeSelector": {"matchLabels": {"no": "node"}}},
            }
        )
        stage.pools.append(f"{stage.namespace}-{i}")
    _one_seat_for(stage.kube, stage.namespace)
    refused = [0]
    stop = threading.Event()
    hogs = [threading.Thread(target=_hog, args=(account, stop, refused), daemon=True) for _ in range(_HOG)]
    try:
        for hog in hogs:
            hog.start()
        names = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            names.append(stage.lease(pool, durationSeconds=1))
            time.sleep(0.25)
    finally:
        stop.set()
        for hog in hogs:
            hog.join()
        for kind in ("flowschemas", "prioritylevelconfigurations"):
            stage.kube.delete(f"{kind}.flowcontrol.apiserver.k8s.io", stage.namespace)
    for name in names:
        stage.until(name, finished, 40)
    limited = sum(
        1
        for w in trial.history.writes()
        if w.code == 429 and w.by_operator and w.user.endswith("leasehold-operator")
    )
    trial.outcome.notes.append(f"fairness refused {refused[0]} requests, {limited} of the operator's")
    trial.deliver(refused[0], "refused by the API server's own fairness")
    if not operator.running():
        trial.violate("the operator ended over 429")


def _one_seat_for(kube: Client, name: str) -> None:
    group = "flowcontrol.apiserver.k8s.io/v1"
    kube.create(
        {
            "apiVersion": group,
            "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name},
            "spec": {
                "type": "Limited",
                "limited": {
                    "nominalConcurrencyShares": 1,
                    "lendablePercent": 0,
                    "borrowingLimitPercent": 0,
                    "limitResponse": {"type": "Reject"},
                },
            },
        }
    )
    account = {
        "kind": "ServiceAccount",
        "serviceAccount": {"namespace": SYSTEM, "name": "leasehold-operator"},
    }
    everything = {
        "verbs": ["*"],
        "apiGroups": ["*"],
        "resources": ["*"],
        "clusterScope": True,
        "namespaces": ["*"],
    }
    kube.create(
        {
            "apiVersion": group,
            "kind": "FlowSchema",
            "metadata": {"name": name},
            "spec": {
                "priorityLevelConfiguration": {"name": name},
                "matchingPrecedence": 2,
                "distinguisherMethod": {"type": "ByUser"},
                "rules": [{"subjects": [account], "resourceRules": [everything]}],
            },
        }
    )


def _hog(account: Connection, stop: threading.Event, refused: list[int]) -> None:
    with Client(account, timeout_seconds=20) as client:
        while not stop.is_set():
            try:
                client.raw("GET", "/apis/leasehold.dev/v1alpha1/capacitypools")
            except ApiError as error:
                refused[0] += error.status == 429
                stop.wait(0.02)
            except OSError:
                stop.wait(0.1)


# --- 23: slow and lossy ---


@experiment(23, "slow, lossy, repeating, half-open network", "late is allowed; twice and never are not")
def bad_network(arena: Arena, scale: Scale, dice: random.Random) -> None:
    seconds = scale.pick(3, 30)
    for spoil in (_lossy, _slow):
        with arena.trial(patience=60) as trial:
            proxy = trial.proxy(dice)
            pool = trial.pool(2)
            trial.operator("a", proxy, election_seconds=15).await_leading()
            spoil(proxy)
            with trial.churn([pool], dice, per_second=10, most=scale.pick(30, 150)):
                time.sleep(seconds)
                proxy.cut_watches()
                time.sleep(1)
            for what, count in proxy.delivered.items():
                trial.deliver(count, what)
    with arena.trial(patience=60) as trial:
        _half_open(trial, dice, scale)


def _lossy(proxy: FaultProxy) -> None:
    for fault, chance in (
        (Drop(), 0.05),
        (Drop(after=True), 0.1),
        (Duplicate(), 0.08),
        (Duplicate(second=True), 0.08),
        (Truncate(), 0.05),
        (Status(500, after=True), 0.05),
        (Overtake(0.3), 0.1),
    ):
        writes_only = isinstance(fault, (Duplicate, Overtake))
        proxy.add(fault, where=_write_of_ours if writes_only else _request_of_ours, chance=chance)


def _slow(proxy: FaultProxy) -> None:
    proxy.latency, proxy.jitter = 0.3, 0.25
    proxy.bytes_per_second = 50_000
    proxy.add(Delay(0.5, 0.5, after=True), where=_write_of_ours, chance=0.3)


def _write_of_ours(call: Call) -> bool:
    return call.ours and call.changes


def _request_of_ours(call: Call) -> bool:
    return call.ours and call.verb != "watch"


def _half_open(trial: Trial, dice: random.Random, scale: Scale) -> None:
    """A connection that takes requests and says nothing, then all of them for a while."""
    proxy = trial.proxy(dice)
    pool = trial.pool(2)
    operator = trial.operator("a", proxy).await_leading()
    hole = proxy.add(BlackHole(), where=_write_of_ours, times=3)
    leases = [trial.stage.lease(pool, durationSeconds=1) for _ in range(4)]
    proxy.await_delivered(hole)
    time.sleep(scale.pick(2, 35))
    hole.lift()
    for lease in leases:
        trial.stage.until(lease, finished, 60)
    trial.deliver(hole.delivered, "half-open")
    if scale.long:
        # Watches that live and tell nothing, not even bookmarks: found out by their silence.
        silence = proxy.add(BlackHole(), verbs=["watch"])
        proxy.cut_watches()
        late = trial.stage.lease(pool, durationSeconds=1)
        trial.stage.until(late, finished, 180)
        silence.lift()
        trial.deliver(silence.delivered, "a watch without a word")
    if not operator.running():
        trial.violate("the operator ended")
