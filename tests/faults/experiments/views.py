"""What an operator sees is old, has holes, or breaks off; what it writes is judged by the store."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.cluster.harness import LEASES, POOLS, SESSIONS, finished, granted, is_, nodes_of, until
from tests.faults.experiment import CPU_ONLY, NODE, Arena, Scale, Trial, experiment
from tests.faults.operators import Operator
from tests.faults.proxy import Call, CutWatch, FaultProxy, Gone410, Hold, LoseEvents, Status, Tell
from tests.faults.workload import told

from leasehold.core.election import shard_of
from leasehold.testing.control_plane import ControlPlane

Object = dict[str, Any]


# --- 4: the past ---


@experiment(4, "the operator sees the past", "no grant and no end by what is not true any more")
def stale_view(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for _ in range(scale.pick(1, 8)):
        _frozen_while_it_leads(arena, dice)
        _started_in_the_past(arena, dice)
        _taken_over_in_the_past(arena, dice)
        _a_node_moves_between_leaders(arena, dice)


def _frozen_while_it_leads(arena: Arena, dice: random.Random) -> None:
    """Sessions, nodes and leases stop to be told; what was renewed, came back or went must not be judged by that."""
    with arena.trial(sweep_seconds=600) as trial:
        stage, proxy = trial.stage, trial.proxy(dice)
        pool = trial.pool(
            3, leasePolicy={"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 5, "nodeLossSeconds": 4}
        )
        trial.operator("a", proxy).await_leading()
        stage.session("s")
        held = stage.lease(pool, liveness="Session", holder={"sessionRef": {"name": "s"}})
        renewed = stage.lease(pool, durationSeconds=5)
        released = stage.lease(pool, cpu="2")
        for lease in (held, renewed, released):
            stage.until(lease, granted)
        stage.session("s")
        stage.renew(renewed)
        node = nodes_of(stage.get(held))[0]
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


def _taken_over_in_the_past(arena: Arena, dice: random.Random) -> None:
    """What was granted and what went since its watch last spoke, a successor knows from the list of its take-over."""
    with arena.trial(sweep_seconds=600) as trial:
        stage, proxy = trial.stage, trial.proxy(dice)
        pool = trial.pool(2)
        first = trial.operator("a").await_leading()
        stage.lease(pool, name="gone", cpu="4")
        emptied = nodes_of(stage.until("gone", granted))[0]
        stage.change_pool(pool, stopPolicy="Hold")
        stage.until_pool(pool, is_("Ready", "False", "PoolHeld"))
        stage.lease(pool, name="waits", cpu="4")
        stage.until("waits", told)
        proxy.freeze("capacityleases")
        stage.lease(pool, name="unheard", cpu="4", priority=9)
        stage.nodes.cordon(emptied)
        stage.until_pool(pool, lambda found: found["status"]["nodes"]["cordoned"] == 1)
        stage.change_pool(pool, stopPolicy="None")
        stage.until("unheard", granted)
        stage.kube.delete(LEASES, "gone", stage.namespace)
        stage.until_gone("gone")
        stage.until_pool(pool, lambda found: not found["status"]["ledger"].get("inFlight"))
        first.kill()
        trial.operator("b", proxy).await_ready().await_leading()
        stage.nodes.uncordon(emptied)
        stage.until("waits", granted)
        trial.deliver(proxy.delivered["stale list"], "a take-over with a list of the past")
        proxy.thaw()
        for name in ("waits", "unheard"):
            stage.change(name, desiredState="Released")


def _a_node_moves_between_leaders(arena: Arena, dice: random.Random) -> None:
    """A node goes from one leader's pool to another's, and the one that loses it does not hear of that."""
    with arena.trial(sweep_seconds=600, shards=2) as trial:
        stage, proxies = trial.stage, [trial.proxy(dice), trial.proxy(dice)]
        (node,) = stage.nodes.create(1, NODE)
        names = [_of_shard(stage.namespace, shard) for shard in (0, 1)]
        for name in names:
            stage.pool_named(name, {"matchLabels": {"side": name}}, resources=CPU_ONLY)
        stage.kube.patch("nodes", node, {"metadata": {"labels": {"side": names[0]}}})
        both = [trial.operator(name, proxy) for name, proxy in zip("ab", proxies, strict=True)]
        until(lambda: sorted(map(_shards, both)) == [["0"], ["1"]], "one shard each", 40)
        stage.until(stage.lease(names[0], cpu="1", durationSeconds=1), finished)
        losers: list[Any] = []

        def found_out() -> bool:
            losers[:] = [proxy for one, proxy in zip(both, proxies, strict=True) if _shards(one) == ["0"]]
            return bool(losers)

        until(found_out, "one leads shard 0 alone", 40)
        loser = losers[0]
        loser.freeze("nodes")
        stage.kube.patch("nodes", node, {"metadata": {"labels": {"side": names[1]}}})
        stage.until_pool(names[1], lambda found: found["status"]["nodes"]["total"] == 1)
        there = stage.lease(names[1], cpu="3", durationSeconds=2)
        stage.until(there, told)
        here = stage.lease(names[0], cpu="3", durationSeconds=2)
        stage.until(here, granted)
        trial.deliver(
            loser.delivered["event withheld"], "one leader of two did not hear that a node had gone"
        )
        loser.thaw()
        for lease in (here, there):
            stage.until(lease, finished, 40)


def _of_shard(prefix: str, shard: int) -> str:
    """Return a pool's name that falls into a shard of two."""
    return next(name for i in itertools.count() if shard_of(name := f"{prefix}-{i}", 2) == shard)


def _shards(operator: Operator) -> list[str]:
    found = operator.page("/readyz")[1].partition("shard(s): ")[2].strip()
    return [] if "standing by" in found else found.split(", ")


# --- 5: events that never come ---

Act = Callable[["Loss"], None]


@experiment(5, "the one event that matters never comes", "the next look at the whole heals it")
def lost_events(arena: Arena, scale: Scale, dice: random.Random) -> None:
    acts = list(_ACTS)
    if not scale.long:
        acts = [*acts[:3], *dice.sample(acts[3:], 4)]
        with arena.trial() as trial:
            Loss(trial, dice).suffer(acts)
        return
    for act in acts:
        with arena.trial() as trial:
            Loss(trial, dice).suffer([act])
    with arena.trial() as trial:
        proxy = trial.proxy(dice)
        pool = trial.pool(2)
        trial.operator("a", proxy).await_leading()
        rule = proxy.add(LoseEvents(frozenset({"BOOKMARK"})), verbs=["watch"])
        proxy.await_delivered(rule, 3, 90)
        trial.deliver(rule.delivered, "bookmarks lost")
        trial.stage.until(trial.stage.lease(pool, durationSeconds=1), finished)


class Loss:
    """A pool with one node, an operator behind a proxy, and what happens without the operator hearing of it.

    After each act everything hangs on a look at the whole: the event that was lost is the last there is about it.
    """

    def __init__(self, trial: Trial, dice: random.Random) -> None:
        self.trial = trial
        self.stage = trial.stage
        self.proxy = trial.proxy(dice)
        self.pool = trial.pool(1, leasePolicy={"gracePeriodSeconds": 0, "heartbeatTimeoutSeconds": 5})
        self.node = self.stage.nodes.names[0]

    def suffer(self, acts: list[Act]) -> None:
        """Let each act happen, once the operator has seen what there was before."""
        self.trial.operator("a", self.proxy).await_leading()
        self.stage.until(self.stage.lease(self.pool, name="first"), granted)
        for act in acts:
            act(self)

    @contextlib.contextmanager
    def lose(
        self, resource: str, *kinds: str, about: Callable[[Object], bool] = lambda _: True
    ) -> Iterator[None]:
        """Lose all events of these kinds that are about something, until the first was lost and a moment longer."""
        self._until_watched_anew(resource)
        rule = self.proxy.add(LoseEvents(frozenset(kinds), about), verbs=["watch"], resource=resource)
        yield
        self.proxy.await_delivered(rule, seconds=10)
        time.sleep(0.3)
        rule.lift()
        self.trial.deliver(rule.delivered, f"{resource}: {', '.join(kinds)} lost")

    def _until_watched_anew(self, resource: str) -> None:
        """Go on right after a planned list, for one in between would tell what the watch is not to tell."""
        if resource in ("capacityleases", "capacitypools"):
            return  # their watches are not ended for a list

        def begun() -> int:
            return sum((call.verb, call.resource) == ("watch", resource) for call in list(self.proxy.calls))

        before = begun()
        until(lambda: begun() > before, f"{resource} are listed from time to time")


def _named(name: str) -> Callable[[Object], bool]:
    return lambda item: bool(item["metadata"]["name"] == name)


def _lease_added(loss: Loss) -> None:
    with loss.lose("capacityleases", "ADDED", about=_named("unheard")):
        loss.stage.lease(loss.pool, name="unheard")


def _lease_released(loss: Loss) -> None:
    lease = loss.stage.lease(loss.pool)
    loss.stage.until(lease, granted)
    with loss.lose("capacityleases", "MODIFIED", about=_named(lease)):
        loss.stage.change(lease, desiredState="Released")


def _lease_deleted(loss: Loss) -> None:
    """One that waits, whose finalizer somebody lifted by hand: nobody but the watch tells of its end."""
    lease = loss.stage.lease(loss.pool, cpu="400")
    loss.stage.until(lease, lambda found: bool(found.get("status")))
    with loss.lose("capacityleases", "MODIFIED", "DELETED", about=_named(lease)):
        loss.stage._remove(LEASES, lease, loss.stage.namespace)


def _pool_added(loss: Loss) -> None:
    loss.stage.nodes.create(1, NODE, labels={"for": "another"})
    name = "another"
    with loss.lose("capacitypools", "ADDED", about=lambda item: item["metadata"]["name"] != loss.pool):
        name = loss.stage.pool(selector={"matchLabels": {"for": "another"}}, wait="", resources=CPU_ONLY)
    loss.stage.change_pool(loss.pool, nodeSelector=_only(loss.node))
    loss.stage.lease(name)


def _pool_resumed(loss: Loss) -> None:
    loss.stage.change_pool(loss.pool, stopPolicy="Hold")
    loss.stage.until_pool(loss.pool, is_("Ready", "False", "PoolHeld"))
    loss.stage.lease(loss.pool)
    with loss.lose("capacitypools", "MODIFIED", about=lambda item: item["spec"].get("stopPolicy") == "None"):
        loss.stage.change_pool(loss.pool, stopPolicy="None")


def _pool_deleted(loss: Loss) -> None:
    """A second pool had the node too, so that neither lent it; somebody forces the second away."""
    other = loss.stage.pool(selector=_only(loss.node), wait="", resources=CPU_ONLY)
    loss.stage.until_pool(loss.pool, is_("Degraded", "True", "NodesConflicting"))
    loss.stage.lease(loss.pool)
    with loss.lose("capacitypools", "MODIFIED", "DELETED", about=_named(other)):
        loss.stage._remove(POOLS, other, None)


def _only(node: str) -> Object:
    return {"matchLabels": {"kubernetes.io/hostname": node}}


def _node_added(loss: Loss) -> None:
    loss.stage.lease(loss.pool, cpu="4")
    with loss.lose("nodes", "ADDED", "MODIFIED", about=lambda item: item["metadata"]["name"] != loss.node):
        loss.stage.nodes.create(1, NODE)


def _node_uncordoned(loss: Loss) -> None:
    loss.stage.nodes.cordon(loss.node)
    loss.stage.until_pool(loss.pool, lambda found: found["status"]["nodes"]["cordoned"] > 0)
    loss.stage.lease(loss.pool)
    with loss.lose("nodes", "MODIFIED", about=_named(loss.node)):
        loss.stage.nodes.uncordon(loss.node)


def _node_deleted(loss: Loss) -> None:
    made = loss.stage.nodes.create(1, NODE)[0]
    loss.stage.until_pool(loss.pool, lambda found: found["status"]["nodes"]["total"] > 1)
    with loss.lose("nodes", "DELETED", about=_named(made)):
        loss.stage.nodes.delete(made)


def _report_changed(loss: Loss) -> None:
    """An administrator had excluded the node, and takes that back."""
    loss.stage.kube.patch("nodereports", loss.node, {"spec": {"state": "Excluded"}})
    loss.stage.until_pool(loss.pool, lambda found: found["status"]["nodes"]["grantable"] == 0)
    loss.stage.lease(loss.pool)
    with loss.lose("nodereports", "MODIFIED", about=_named(loss.node)):
        loss.stage.kube.patch("nodereports", loss.node, {"spec": {"state": "Active"}})


def _namespace_labelled(loss: Loss) -> None:
    """A pool for tenants: whose namespace has no label may not borrow, until it has one."""
    loss.stage.nodes.create(1, NODE, labels={"for": "tenants"})
    loss.stage.change_pool(loss.pool, nodeSelector=_only(loss.node))
    tenant = {"name": "x", "namespaceSelector": {"matchLabels": {"team": "x"}}}
    pool = loss.stage.pool(
        selector={"matchLabels": {"for": "tenants"}}, wait="", resources=CPU_ONLY, tenants=[tenant]
    )
    lease = loss.stage.lease(pool)
    loss.stage.until(lease, is_("Accepted", "False"))
    with loss.lose("namespaces", "MODIFIED", about=_named(loss.stage.namespace)):
        loss.stage.kube.patch("namespaces", loss.stage.namespace, {"metadata": {"labels": {"team": "x"}}})


def _session_begun(loss: Loss) -> None:
    lease = loss.stage.lease(loss.pool, liveness="Session", holder={"sessionRef": {"name": "unheard"}})
    loss.stage.until(lease, granted)
    with loss.lose("leases", "ADDED", about=_named("unheard")):
        loss.stage.session("unheard")


def _session_ended(loss: Loss) -> None:
    loss.stage.session("brief")
    lease = loss.stage.lease(loss.pool, liveness="Session", holder={"sessionRef": {"name": "brief"}})
    loss.stage.until(lease, granted)
    with loss.lose("leases", "DELETED", about=_named("brief")):
        loss.stage.kube.delete(SESSIONS, "brief", loss.stage.namespace)
    loss.stage.until(lease, finished)


_ACTS: tuple[Act, ...] = (
    _lease_added,
    _lease_released,
    _lease_deleted,
    _pool_added,
    _pool_resumed,
    _pool_deleted,
    _node_added,
    _node_uncordoned,
    _node_deleted,
    _report_changed,
    _namespace_labelled,
    _session_begun,
    _session_ended,
)


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
        _pages_refused(arena, dice)
        _too_large(arena, dice)
        _gone_while_nobody_watched(arena, dice)
    _compacted_while_cut_off(arena, dice)


def _watches_told_410(arena: Arena, dice: random.Random) -> None:
    with arena.trial(sweep_seconds=600) as trial:
        proxy = trial.proxy(dice)
        pool = trial.pool(2)
        operator = trial.operator("a", proxy).await_leading()
        before = _relists(operator)
        rule = proxy.add(Gone410(), verbs=["watch"], chance=0.2)
        with trial.churn([pool], dice, per_second=12, most=30):
            time.sleep(3)
            trial.stage.nodes.create(1, NODE)
        trial.deliver(rule.delivered, "410 within a watch")
        rule.lift()
        until(lambda: _relists(operator) > before, "what was told 410 is listed anew")
        trial.stage.until(trial.stage.lease(pool, durationSeconds=1), finished)
        trial.outcome.notes.append(f"410 in watches: the operator ended by itself {len(operator.ends)} times")


def _compacted_between_pages(arena: Arena, dice: random.Random) -> None:
    """The store forgets the version of a list between two of its pages."""
    with arena.trial(sweep_seconds=600) as trial:
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
        trial.outcome.notes.append(f"the API server answered 410 to {proxy.codes[410]} pages")


def _pages_refused(arena: Arena, dice: random.Random) -> None:
    """An API server that keeps no snapshots says 410 to the second page; the list begins anew."""
    with arena.trial(sweep_seconds=600) as trial:
        proxy = trial.proxy(dice)
        pool = trial.pool(4)
        names = [trial.stage.lease(pool) for _ in range(8)]
        proxy.page_size = 2
        rule = proxy.add(Status(410), verbs=["list"], where=lambda call: "continue" in call.query, times=4)
        trial.operator("a", proxy).await_leading()
        proxy.await_delivered(rule, 4)
        trial.deliver(rule.delivered, "410 for a page that is not the first")
        for name in names:
            trial.stage.until(name, granted)


def _too_large(arena: Arena, dice: random.Random) -> None:
    """A watch is refused because its version is not there yet, as after a restored backup, until a list is made."""
    with arena.trial(sweep_seconds=600) as trial:
        proxy = trial.proxy(dice)
        pool = trial.pool(2)
        trial.operator("a", proxy).await_leading()
        rule = proxy.add(Status(504), verbs=["watch"], resource="capacityleases", times=6)
        proxy.cut_watches()
        proxy.await_delivered(rule, 5, 30)
        trial.deliver(rule.delivered, "watch refused as of a version to come")
        trial.stage.until(trial.stage.lease(pool, durationSeconds=1), finished)


def _gone_while_nobody_watched(arena: Arena, dice: random.Random) -> None:
    """What vanished without a word is missing in the next list; what vanished before an answer does not come back."""
    with arena.trial(sweep_seconds=600) as trial:
        stage, proxy = trial.stage, trial.proxy(dice)
        pool = trial.pool(1)
        operator = trial.operator("a", proxy).await_leading()
        ghost = stage.lease(pool, cpu="400")
        stage.until(ghost, told)
        before = _relists(operator)
        away = proxy.add(Status(503), verbs=["watch"], resource="capacityleases")
        proxy.cut_watches()
        proxy.await_delivered(away)
        stage._remove(LEASES, ghost, stage.namespace)
        gone = proxy.add(Status(410), verbs=["watch"], resource="capacityleases", times=1)
        away.lift()
        proxy.await_delivered(gone)
        until(lambda: _relists(operator) > before, "leases are listed anew")
        trial.deliver(gone.delivered, "410 for a watch, after something had vanished")

        answer = proxy.add(Hold(after=True), verbs=["put"], name="late", times=1)
        stage.lease(pool, name="late", cpu="400")
        stage.until("late", told)
        stage._remove(LEASES, "late", stage.namespace)
        after = stage.lease(pool, cpu="400")
        stage.until(after, told)  # by the same watch, so that the end before it was heard
        count = len(_about(proxy, "late"))
        answer.lift()
        until(lambda: proxy.let_go == 1, "the answer arrives")
        trial.deliver(answer.delivered, "an answer came after the end of what it was about")
        stage.until(stage.lease(pool, durationSeconds=1), finished)
        if more := _about(proxy, "late")[count:]:
            trial.violate(f"revived: an answer brought back what was gone: {more[0]}")


def _compacted_while_cut_off(arena: Arena, dice: random.Random) -> None:
    """Watches are gone, the store forgets, and the version from which they go on is too old: a true 410."""
    with arena.trial(sweep_seconds=600) as trial:
        proxy = trial.proxy(dice)
        pool = trial.pool(2)
        operator = trial.operator("a", proxy).await_leading()
        before = _relists(operator)
        rule = proxy.add(Status(503), verbs=["watch"])
        proxy.cut_watches()
        proxy.await_delivered(rule)
        leases = [trial.stage.lease(pool, durationSeconds=1) for _ in range(10)]
        compact(trial.control_plane)
        proxy.watch_from = 1
        rule.lift()
        until(lambda: proxy.expired > 0 and _relists(operator) > before, "a 410, and a new list")
        proxy.watch_from = None
        trial.deliver(proxy.expired, "410 by the API server for a watch of what is not kept")
        for lease in leases:
            trial.stage.until(lease, finished)


def _about(proxy: FaultProxy, name: str) -> list[Call]:
    return [call for call in list(proxy.calls) if call.name == name]


def _relists(operator: Operator) -> float:
    return operator.metric("leasehold_watch_relists_total") or 0


# --- 7: streams that break off ---


@experiment(7, "watches cut at and after the first list", "everything there is gets seen")
def cut_at_the_start(arena: Arena, scale: Scale, dice: random.Random) -> None:
    for events in scale.pick((0, 2), range(6)):
        for midline in scale.pick((bool(events),), (False, True)):
            with arena.trial(sweep_seconds=600) as trial:
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
