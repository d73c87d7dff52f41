"""The story, top to bottom: what is done and what is then expected of the API server.

A chapter is a title and a function of the scene. `scene.expect` waits until something holds and fails the story when
it does not; everything else acts like a user with kubectl would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from leasehold import __version__
from leasehold.api.names import CPU, MEMORY
from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.quantity import amount, format_amount
from leasehold.core.times import parse_time
from leasehold.demo.checks import (
    Check,
    allocated,
    balanced,
    condition_is,
    finished,
    granted,
    granted_on,
    renewed,
    reported_by,
    serving,
    waiting,
)
from leasehold.demo.examples import NAMESPACE, staged
from leasehold.demo.nodes import GPU_NODES, LAB_NODES, REPORTS
from leasehold.demo.scene import Scene
from leasehold.demo.stage import LEASES
from leasehold.demo.views import human, is_true, nodes_of


class Chapter(NamedTuple):
    """A part of the story: what it shows, in a sentence, and how."""

    title: str
    play: Callable[[Scene], None]


def fits(scene: Scene) -> None:
    """Pools over nine nodes, and three leases that fit."""
    terms = {
        "heartbeatTimeoutSeconds": 5,  # the shortest the API allows
        "gracePeriodSeconds": scene.term(2),
        "nodeLossSeconds": scene.term(8, least=3),
        "warnBeforeSeconds": [scene.term(4)],
    }
    scene.apply(staged("02-pool.yaml", terms=terms))
    scene.expect("cpool/lab", serving(nodes=LAB_NODES + 1))
    scene.apply(staged("03-builds.yaml"))
    for name in ("build-1", "build-2", "build-3"):
        scene.expect(f"clease/{name}", granted())
    scene.expect("cpool/lab", allocated(CPU, "6500m"))
    scene.pause(3)


def measured(scene: Scene) -> None:
    """This host lends what psutil finds free, and no more."""
    host = scene.place.host
    cores = scene.client.get("nodes", host)["status"]["capacity"][CPU]
    report = scene.expect(f"{REPORTS}/{host}", reported_by(__version__, cores))["status"]
    used = next(row for row in report["usage"] if row["name"] == MEMORY)["p90"]
    total = report["capacity"][MEMORY]
    scene.observer.say(
        "told",
        f"psutil: {cores} cores, {human(MEMORY, total)} memory, of which {human(MEMORY, used)} are in use",
        host,
    )
    scene.apply(staged("04-chosen-node.yaml"))
    scene.expect("clease/cache-here", granted_on(host))
    # All this host may lend when nothing runs on it: its memory less the pool's reserve of 256 MiB.
    everything = format_amount(MEMORY, amount(MEMORY, total) - amount(MEMORY, "256Mi"))
    greedy = {"resources": {MEMORY: everything}}
    scene.apply(staged("04-chosen-node.yaml", lease=greedy, renamed={"cache-here": "greedy-here"}))
    scene.expect("clease/greedy-here", waiting(R.WAITING_FOR_CAPACITY))
    scene.pause(2.5)
    scene.patch_lease("greedy-here", {"desiredState": "Released"})
    scene.expect("clease/greedy-here", finished(R.RELEASED, R.RELEASE_REQUESTED))
    scene.pause(1)


def queue(scene: Scene) -> None:
    """A full pool: leases wait, say why, and get their turn when another is given back."""
    scene.apply(staged("05-queue.yaml", only=("gpu", "train-1")))
    scene.expect("cpool/gpu", serving(nodes=GPU_NODES))
    scene.expect("clease/train-1", granted(nodes=2))
    scene.apply(staged("05-queue.yaml", only=("train-2", "train-3")))
    scene.expect("clease/train-2", waiting(R.WAITING_FOR_CAPACITY))
    scene.expect("clease/train-3", waiting(R.BLOCKED_BY_HEAD))
    scene.pause(3.5)
    scene.observer.say("told", "alice is done: desiredState Released", "train-1")
    scene.patch_lease("train-1", {"desiredState": "Released"})
    scene.expect("clease/train-1", finished(R.RELEASED, R.RELEASE_REQUESTED))
    scene.expect("clease/train-2", granted())
    scene.expect("clease/train-3", granted())
    scene.pause(2)


def terms(scene: Scene) -> None:
    """Two terms: one is renewed by its holder and goes on, the other ends on time and not before."""
    scene.apply(
        staged("06-renew.yaml", only=("one-shot",), lease={"durationSeconds": scene.term(8, least=4)})
    )
    # Longer than a missed heartbeat takes to be noticed, so that in the next chapter silence ends it, not its term.
    scene.apply(staged("06-renew.yaml", only=("report",), lease={"durationSeconds": scene.term(10, least=7)}))
    scene.expect("clease/one-shot", granted())
    first = scene.expect("clease/report", granted())
    end = parse_time(first["status"]["deadlines"]["expirationTime"])
    scene.beat("clease/report", every=2)
    scene.expect("clease/one-shot", condition_is(C.EXPIRING_SOON, R.EXPIRATION))
    scene.expect("clease/one-shot", finished(R.EXPIRED, R.TERM_ENDED))
    scene.expect(
        "clease/report",
        Check(
            "live beyond its first term",
            lambda lease: is_true(lease, C.READY) and scene.clock.now() > end,
        ),
    )
    scene.expect("clease/report", renewed(times=2, beyond=end))
    scene.pause(1)


def silence(scene: Scene) -> None:
    """Holders that stop: one lease of its own heartbeat, and three that share a session."""
    scene.apply(staged("07-session.yaml", only=("agent-7",)))
    scene.beat("lease/agent-7", every=1)
    scene.apply(staged("07-session.yaml", only=_SESSION))
    for name in _SESSION:
        scene.expect(f"clease/{name}", granted())
        scene.expect(f"clease/{name}", condition_is(C.CLAIMED, R.SESSION_LIVE))
    scene.pause(3)
    scene.observer.say("told", "the holders of report and agent-7 crash: no more heartbeats")
    scene.stop_beating("clease/report", "lease/agent-7")
    for name in ("report", *_SESSION):
        scene.expect(f"clease/{name}", finished(R.EXPIRED, R.HEARTBEAT_LOST))
    scene.pause(2)


_SESSION = ("agent-7-plan", "agent-7-fetch", "agent-7-solve")


def node_loss(scene: Scene) -> None:
    """A node goes away: its lease is warned, then revoked as a whole, and a new one finds other nodes."""
    scene.apply(staged("08-spread.yaml"))
    nodes = nodes_of(scene.expect("clease/render", granted(nodes=3)))
    scene.pause(2)
    lost = nodes[0]
    scene.observer.say("told", "loses power", lost)
    not_ready = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
    now = scene.stamp()
    condition = {**not_ready, "message": "loses power", "lastHeartbeatTime": now, "lastTransitionTime": now}
    scene.client.patch("nodes", lost, {"status": {"conditions": [condition]}}, subresource="status")
    scene.expect("clease/render", condition_is(C.DEGRADED, R.NODE_NOT_READY))
    scene.expect("clease/render", finished(R.REVOKED, R.NODE_LOST))
    scene.client.delete("nodes", lost)
    scene.expect("cpool/lab", serving(nodes=LAB_NODES))
    scene.apply(staged("08-spread.yaml", renamed={"render": "render-again"}))
    scene.expect("clease/render-again", granted(nodes=3))
    scene.expect(
        "clease/render-again", Check(f"not lie on {lost}", lambda lease: lost not in nodes_of(lease))
    )
    scene.pause(2)


def books(scene: Scene) -> None:
    """A lease that is deleted gives back first; then the pools' books agree with the leases, to the byte."""
    scene.observer.say("told", "kubectl delete clease", "build-3")
    scene.client.delete(LEASES, "build-3", NAMESPACE)
    scene.expect_gone("clease/build-3")
    leases = scene.client.list(LEASES, NAMESPACE)
    for pool in ("lab", "gpu"):
        scene.expect(f"cpool/{pool}", balanced(leases))
    scene.pause(2)


STORY = (
    Chapter("What fits is granted at once", fits),
    Chapter("This host is a node too, and what it lends is measured", measured),
    Chapter("What does not fit waits, says why, and gets its turn", queue),
    Chapter("A term is renewed by its holder, or it ends: on time, never early", terms),
    Chapter("A holder that falls silent loses what it holds", silence),
    Chapter("A node goes away", node_loss),
    Chapter("Deleting gives back, and the books agree", books),
)
