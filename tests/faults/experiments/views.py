"""What an operator sees is old, has holes, or breaks off; what it writes is judged by the store."""

from __future__ import annotations

import http.client
import json
import random
import socket
import time
from pathlib import Path

from tests.cluster.harness import LEASES, POOLS, SESSIONS, finished, granted
from tests.faults.experiment import CPU_ONLY, NODE, Arena, Scale, Trial, experiment
from tests.faults.proxy import Call, CutWatch, Gone410, LoseEvents, Status, Tell

from leasehold.testing.control_plane import ControlPlane

SEEN = ("capacityleases", "capacitypools", "nodes", "nodereports", "namespaces", "leases")


# --- 4: the past ---


@experiment(4, "the operator sees the past", "no grant and no end by what is not true any more")
def stale_view(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for _ in range(scale.pick(1, 8)):
        _frozen_while_it_leads(arena, dice)
        _started_in_the_past(arena, dice)


def _frozen_while_it_leads(arena: Arena, dice: random.Random) -> None:
    """Sessions, nodes and leases stop to be told; what was renewed, came back or went must not be judged by that."""
    with arena.trial(sweep_seconds=600) as trial:
        stage, proxy = trial.stage, trial.proxy(dice)
        pool = trial.pool(
            3, leasePolicy={"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 5, "nodeLossSeconds": 1}
        )
        trial.operator("a", proxy).await_leading()
        stage.session("s")
        held = stage.lease(pool, liveness="Session", holder={"sessionRef": {"name": "s"}})
        renewed = stage.lease(pool, durationSeconds=3)
        released = stage.lease(pool, cpu="2")
        for lease in (held, renewed, released):
            stage.until(lease, granted)
        node = stage.nodes.names[0]
        stage.nodes.mark_not_ready(node)
        time.sleep(0.3)
        proxy.freeze("nodes", "capacityleases", "nodereports", "leases.coordination.k8s.io")
        stage.nodes.mark_ready(node)
        end = time.monotonic() + 7
        while time.monotonic() < end:
            stage.session("s")
            stage.renew(renewed)
            time.sleep(0.5)
        stage.change(released, desiredState="Released")
        waiting = [stage.lease(pool, cpu="4", durationSeconds=2) for _ in range(3)]
        time.sleep(1)
        for lease in (held, renewed):
            if finished(stage.get(lease)):
                trial.violate(f"{lease} was renewed all the time and ended")
        trial.deliver(proxy.delivered["event withheld"], "events withheld")
        proxy.thaw()
        stage.until(waiting[0], lambda lease: bool(lease.get("status")))


def _started_in_the_past(arena: Arena, dice: random.Random) -> None:
    """An operator starts on lists from before others were granted, released and deleted, and takes over."""
    with arena.trial(sweep_seconds=600) as trial:
        stage, proxy = trial.stage, trial.proxy(dice)
        pool = trial.pool(3)
        first = trial.operator("a").await_leading()
        old = [stage.lease(pool, cpu=dice.choice(("2", "3"))) for _ in range(3)]
        for lease in old:
            stage.until(lease, granted)
        proxy.freeze("nodes", "capacityleases", "capacitypools", "nodereports", "leases", "namespaces")
        stage.change(old[0], desiredState="Released")
        stage.until(old[0], finished)
        stage.kube.delete(LEASES, old[1], stage.namespace)
        stage.until_gone(old[1])
        gone = stage.nodes.names[2]
        stage.nodes.delete(gone)
        again = [stage.lease(pool, cpu="3") for _ in range(4)]
        stage.until(again[0], lambda lease: bool(lease.get("status")))
        first.kill()
        second = trial.operator("b", proxy)
        second.await_leading()
        time.sleep(2)
        trial.deliver(
            proxy.delivered["stale list"] + proxy.delivered["event withheld"], "lists and events of the past"
        )
        proxy.thaw()


# --- 5: events that never come ---


@experiment(5, "single watch events never come", "the next look at the whole heals it")
def lost_events(arena: Arena, scale: Scale, dice: random.Random) -> None:
    cases = [(resource, kind) for resource in SEEN for kind in ("ADDED", "MODIFIED", "DELETED")]
    if not scale.long:
        cases = [("capacityleases", kind) for kind in ("ADDED", "MODIFIED", "DELETED")]
        cases += dice.sample(
            [("nodes", "ADDED"), ("nodes", "MODIFIED"), ("nodes", "DELETED"), ("namespaces", "ADDED")], 1
        )
        with arena.trial() as trial:
            _lose_in_turn(trial, cases, dice)
        return
    for case in (*cases, ("capacityleases", "BOOKMARK"), ("nodes", "BOOKMARK")):
        with arena.trial() as trial:
            _lose_in_turn(trial, [case], dice)


def _lose_in_turn(trial: Trial, cases: list[tuple[str, str]], dice: random.Random) -> None:
    """Lose the next event of each kind, while something of each kind happens."""
    proxy = trial.proxy(dice)
    pool = trial.pool(2)
    trial.operator("a", proxy).await_leading()
    for number, (resource, kind) in enumerate(cases):
        rule = proxy.add(LoseEvents(frozenset({kind})), verbs=["watch"], resource=resource, times=1)
        _let_everything_happen(trial, pool, number)
        if kind != "BOOKMARK":
            proxy.await_delivered(rule, seconds=10)
        trial.deliver(rule.delivered, f"{resource} {kind} lost")
        rule.lift()


def _let_everything_happen(trial: Trial, pool: str, number: int) -> None:
    """Something is added, changed and deleted of every kind that an operator watches."""
    stage = trial.stage
    kept = stage.lease(pool, name=f"kept-{number}", cpu="1")
    gone = stage.lease(pool, name=f"gone-{number}", cpu="1", ttlSecondsAfterFinished=0)
    stage.nodes.create(1, NODE)
    short_lived = stage.nodes.create(1, NODE)[0]
    stage.nodes.cordon(stage.nodes.names[0])
    stage.nodes.uncordon(stage.nodes.names[0])
    stage.nodes.report(short_lived)
    stage.nodes.delete(short_lived)
    other = stage.pool(selector={"matchLabels": {"no": "node"}}, wait="", resources=CPU_ONLY)
    stage.change_pool(other, stopPolicy="Hold")
    stage.kube.delete(POOLS, other)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"{stage.namespace}-{number}"}}
    stage.kube.create(space)
    stage.kube.patch("namespaces", f"{stage.namespace}-{number}", {"metadata": {"labels": {"team": "x"}}})
    stage.kube.delete("namespaces", f"{stage.namespace}-{number}")
    stage.session(f"s-{number}")
    stage.session(f"s-{number}")
    stage.kube.delete(SESSIONS, f"s-{number}", stage.namespace)
    stage.until(gone, lambda lease: bool(lease.get("status")), 10)
    stage.kube.delete(LEASES, gone, stage.namespace)
    stage.change(kept, desiredState="Released")
    stage.until_gone(gone, 15)


# --- 6: versions that are not kept ---


def compact(control_plane: ControlPlane) -> int:
    """Let etcd forget every version before the present one, over its socket; return that version."""
    path = Path(control_plane.directory) / "etcd.sock"
    assert path.exists(), f"{path} is missing: etcd listens elsewhere"
    revision = int(_etcd(path, "/v3/maintenance/status", {})["header"]["revision"])
    _etcd(path, "/v3/kv/compaction", {"revision": str(revision), "physical": True})
    return revision


def _etcd(path: Path, target: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    try:
        connection.request("POST", target, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        # Somebody else may have been quicker to compact.
        assert response.status == 200 or b"has been compacted" in answer, (
            f"etcd: {target}: {response.status} {answer!r}"
        )
        return dict(json.loads(answer))
    finally:
        connection.close()


@experiment(
    6, "versions are not kept (410) or not there yet", "a new list without a gap; never a silent zombie"
)
def versions_gone(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for _ in range(scale.pick(1, 5)):
        _watches_told_410(arena, dice)
        _compacted_between_pages(arena, dice)
        _too_large(arena, dice)
    if scale.long:
        _compacted_while_cut_off(arena, dice)


def _watches_told_410(arena: Arena, dice: random.Random) -> None:
    with arena.trial() as trial:
        proxy = trial.proxy(dice)
        pool = trial.pool(2)
        operator = trial.operator("a", proxy).await_leading()
        rule = proxy.add(Gone410(), verbs=["watch"], chance=0.2)
        with trial.churn([pool], dice, per_second=12, most=30):
            time.sleep(3)
            trial.stage.nodes.create(1, NODE)
        trial.deliver(rule.delivered, "410 within a watch")
        rule.lift()
        trial.stage.until(trial.stage.lease(pool, durationSeconds=1), finished)
        trial.outcome.notes.append(f"410 in watches: the operator ended by itself {len(operator.ends)} times")


def _compacted_between_pages(arena: Arena, dice: random.Random) -> None:
    """The store forgets the version of a list between two of its pages."""
    with arena.trial() as trial:
        proxy = trial.proxy(dice)
        pool = trial.pool(4)
        for _ in range(8):
            trial.stage.lease(pool)
        proxy.page_size = 2
        compacted: list[int] = []

        def forget(call: Call) -> None:
            trial.stage.annotate(
                trial.stage.kube.list(LEASES, trial.stage.namespace)[0]["metadata"]["name"], a="b"
            )
            compacted.append(compact(trial.control_plane))

        rule = proxy.add(
            Tell(forget), verbs=["list"], where=lambda call: "continue" in call.query, times=3, chance=0.5
        )
        trial.operator("a", proxy).await_leading()
        proxy.cut_watches()
        proxy.await_delivered(rule)
        trial.deliver(len(compacted), "compacted between two pages")


def _too_large(arena: Arena, dice: random.Random) -> None:
    """A watch is refused because its version is not there yet, as after a restored backup, until a list is made."""
    with arena.trial() as trial:
        proxy = trial.proxy(dice)
        pool = trial.pool(2)
        trial.operator("a", proxy).await_leading()
        rule = proxy.add(Status(504), verbs=["watch"], resource="capacityleases", times=6)
        proxy.cut_watches()
        proxy.await_delivered(rule, 5, 30)
        trial.deliver(rule.delivered, "watch refused as of a version to come")
        trial.stage.until(trial.stage.lease(pool, durationSeconds=1), finished)


def _compacted_while_cut_off(arena: Arena, dice: random.Random) -> None:
    """Watches are gone, the store forgets, the API server restarts and does not know the old version: a real 410."""
    with arena.trial(patience=60) as trial:
        proxy = trial.proxy(dice)
        pool = trial.pool(2)
        trial.operator("a", proxy).await_leading()
        rule = proxy.add(Status(503), verbs=["watch"])
        proxy.cut_watches()
        proxy.await_delivered(rule)
        for _ in range(10):
            trial.stage.lease(pool, durationSeconds=1)
        time.sleep(1)
        compact(trial.control_plane)
        rule.lift()
        trial.deliver(1, "compacted while every watch was cut off")
        trial.stage.until(trial.stage.lease(pool, durationSeconds=1), finished, 40)


# --- 7: streams that break off ---


@experiment(7, "watches cut at and after the first list", "everything there is gets seen")
def cut_at_the_start(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for events in scale.pick((0, 2), range(6)):
        for midline in (False, True):
            with arena.trial() as trial:
                stage, proxy = trial.stage, trial.proxy(dice)
                pool = trial.pool(2)
                _lease_in_both_orders(trial, pool)
                rule = proxy.add(CutWatch(events, midline=midline), verbs=["watch"], times=12, chance=0.7)
                trial.operator("a", proxy)
                stage.until("a-first", granted)
                with trial.churn([pool], dice, per_second=15, most=15):
                    stage.nodes.create(2, NODE)
                    time.sleep(1.5)
                trial.deliver(rule.delivered, f"watch cut after {events} events")


def _lease_in_both_orders(trial: Trial, pool: str) -> None:
    """Names ascend with versions, then descend: what is told in the order of names is not in that of versions."""
    for name in ("a-first", "b-second", "z-third", "y-fourth"):
        trial.stage.lease(pool, name=name, cpu="1", durationSeconds=1)
