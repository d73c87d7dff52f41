"""What is to be done about the pods that name one lease: let them go, tell them why not, warn them, end them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import PodReason as R
from leasehold.api.names import StrayPodAction
from leasehold.api.quantity import format_amount
from leasehold.core.lease import Lease, Slice
from leasehold.core.nodes import Node
from leasehold.core.pods import PODS, Placeholder, Pod, SliceRef, add, admits, held_by
from leasehold.core.policy import PoolPolicy
from leasehold.core.times import SECOND, earliest, format_time

RETRY: Final = 5 * SECOND
"""How long after an eviction was refused it is tried again (ms); the eviction API's own clients wait as long."""

PATIENCE: Final = 2 * SECOND
"""How long a pod waits before it is told that it does (ms); its time of creation is rounded down to seconds."""

_WAITING: Final = frozenset({R.LEASE_PENDING, R.LEASE_NOT_FOUND})

LOOK_AGAIN: Final = 30 * SECOND
"""How long after a pod excluded its lease's nodes they are looked at again (ms): nobody tells of their labels."""

REPLACING: Final = frozenset({"ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"})
"""Controllers that make a failed pod anew at once, without end."""

RETRIES_WITHIN: Final = 360 * SECOND
"""How long after a pod failed, or was deleted, its controller may make another: a Job's longest back-off (ms).

https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-backoff-failure-policy
"""


class Let(NamedTuple):
    """Lift a pod's gate. `node` is where it must run, "" where anywhere, and `slice` what it may use there."""

    pod: Pod
    reason: R
    node: str = ""
    slice: SliceRef | None = None


class Assign(NamedTuple):
    """Give a gated pod a slice, and have the scheduler keep room for it on the node until its gate is lifted."""

    pod: Pod
    node: str
    slice: SliceRef


class Unassign(NamedTuple):
    """Take back what a gated pod was assigned: the scheduler need keep no room for it any more."""

    pod: Pod


class Tell(NamedTuple):
    """Say in a pod's condition, and by an Event, how it stands."""

    pod: Pod
    reason: R
    message: str


class Warn(NamedTuple):
    """Write onto a pod when its lease will end and why; "" takes that back."""

    pod: Pod
    text: str


class Fail(NamedTuple):
    """End a pod that has never run."""

    pod: Pod
    reason: R
    message: str


class Evict(NamedTuple):
    """Ask the Eviction API to end a pod."""

    pod: Pod


class Delete(NamedTuple):
    """Delete a pod that PodDisruptionBudgets held up for too long."""

    pod: Pod


Action = Let | Assign | Unassign | Tell | Warn | Fail | Evict | Delete


class PodPlan(NamedTuple):
    """What to do now, and when to look again (ms, or None for "when something changes")."""

    actions: tuple[Action, ...]
    wake_at: int | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """What the pods of one lease mean for it.

    `claimed` tells that one of them was bound. `left_on` are the nodes where some that were let go still are, and
    `over_on` those where they request more than the lease holds. `done_since` is since when all have ended for good,
    and none waits to be let go. `unheld_since` is since when a placeholder of the lease waits to be bound, and
    `refusal` why none could be made.
    """

    claimed: bool = False
    left_on: frozenset[str] = frozenset()
    over_on: frozenset[str] = frozenset()
    done_since: int | None = None
    unheld_since: int | None = None
    refusal: str = ""


NO_PODS: Final = Workload()


def workload_of(
    lease: Lease,
    pods: Sequence[Pod],
    placeholders: Sequence[Placeholder] = (),
    refusal: str = "",
    letting: Iterable[SliceRef] = (),
) -> Workload:
    """Return what these pods, all that name a lease, and its placeholders mean for it.

    `letting` is what pods are being given at this moment: they may be let go already, so they are left, too.
    """
    waiting = [one.created for one in placeholders if one.slice.lease == lease.uid and not one.node]
    unheld = min(waiting, default=None)
    places = {i: part.node for i, part in enumerate(lease.slices)}
    left = {places.get(ref.position, "") for ref in letting if ref.lease == lease.uid}
    mine = [pod for pod in pods if _is_of(pod, lease)]
    if not mine:
        return Workload(left_on=frozenset(left), unheld_since=unheld, refusal=refusal)
    # One that is over and being deleted may have been ended by whoever deletes it.
    ended = [_done(pod) for pod in mine if pod.over and not pod.leaving]
    here = [pod for pod in mine if not pod.over]
    more = here or any(pod.gated and not (pod.over or pod.leaving) for pod in pods)
    used = Use(lease, pods)
    return Workload(
        claimed=any(pod.node for pod in mine),
        left_on=frozenset(
            left | {pod.node or places.get(pod.slice.position, "") for pod in here if pod.slice}
        ),
        over_on=frozenset(part.node for i, part in enumerate(lease.slices) if used.exceeds(i, part)),
        done_since=None if more else max(ended, default=None),
        unheld_since=unheld,
        refusal=refusal,
    )


def plan_pods(
    lease: Lease | None,
    pods: Sequence[Pod],
    policy: PoolPolicy | None,
    nodes: Mapping[str, Node],
    refused: Mapping[str, int],
    now: int,
    placeholders: Sequence[Placeholder] = (),
) -> PodPlan:
    """Decide about all pods that name a lease, by its name.

    `lease` is None where there is none, and `policy` where its pool does not exist. `refused` says, by a pod's uid,
    when its end was last asked for (ms): if it is still there, that was refused, or is not heard of yet.
    `placeholders` are those that hold room for the lease.
    """
    plan = _Plan(lease, pods, policy, nodes, refused, now, placeholders)
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.name)):
        if not pod.over and not pod.leaving:
            plan.decide(pod)
    return PodPlan(tuple(plan.actions), earliest(*plan.wakes))


class Use:
    """What the pods of a lease were given of each slice, whether they run already or are still gated."""

    def __init__(self, lease: Lease, pods: Sequence[Pod]) -> None:
        self.amounts: dict[int, dict[str, int]] = {}
        self.counts: dict[int, int] = {}
        for pod in pods:
            if pod.slice is not None and pod.slice.lease == lease.uid and not pod.over:
                self.take(pod, pod.slice.position)

    def take(self, pod: Pod, index: int) -> None:
        """Count a pod in a slice."""
        self.counts[index] = self.counts.get(index, 0) + 1
        add(self.amounts.setdefault(index, {}), pod.requests)

    def drop(self, pod: Pod, index: int) -> None:
        """Count a pod no more that was counted in a slice."""
        self.counts[index] -= 1
        used = self.amounts[index]
        for name, units in pod.requests.items():
            used[name] -= units

    def lacks(self, pod: Pod, index: int, part: Slice, names: Sequence[str]) -> str:
        """Return the first resource of the pool of which a slice has too little left for a pod, or ""."""
        used = self.amounts.get(index, {})
        return next(
            (
                name
                for name in names
                if pod.requests.get(name, 0)
                and used.get(name, 0) + pod.requests[name] > part.amounts.get(name, 0)
            ),
            "",
        )

    def left(self, index: int, part: Slice, name: str) -> int:
        """Return how much of a resource a slice has left."""
        return max(0, part.amounts.get(name, 0) - self.amounts.get(index, {}).get(name, 0))

    def exceeds(self, index: int, part: Slice) -> bool:
        """Tell whether pods request more than a slice holds of what it holds."""
        used = self.amounts.get(index, {})
        return any(used.get(name, 0) > units for name, units in part.amounts.items())


def use_by_node(lease: Lease, pods: Sequence[Pod]) -> dict[str, dict[str, int]]:
    """Return what the pods of a lease were given of its slices, by node."""
    found: dict[str, dict[str, int]] = {}
    for i, amounts in Use(lease, pods).amounts.items():
        if i < len(lease.slices):
            add(found.setdefault(lease.slices[i].node, {}), amounts)
    return found


@dataclass
class _Plan:
    lease: Lease | None
    pods: Sequence[Pod]
    policy: PoolPolicy | None
    nodes: Mapping[str, Node]
    refused: Mapping[str, int]
    now: int
    placeholders: Sequence[Placeholder] = ()
    actions: list[Action] = field(default_factory=list)
    wakes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.use = None if self.lease is None else Use(self.lease, self.pods)

    def decide(self, pod: Pod) -> None:
        lease, policy = self.lease, self.policy
        if lease is None:
            self._without_lease(pod)
        elif policy is None and lease.finished:
            if pod.gated:
                self._tell(pod, R.LEASE_ENDED, _over(lease))
        elif policy is None or lease.pending:
            if pod.gated:
                why = lease.reason(C.ALLOCATED) or lease.reason(C.ACCEPTED) or R.LEASE_PENDING
                self._tell(pod, R.LEASE_PENDING, f"Lease {lease.name} is not granted yet ({why}).")
        elif not policy.enforces:
            if pod.gated:
                self.actions.append(Let(pod, R.NOT_ENFORCED))
        elif pod.gated:
            self._gated(pod, lease, policy)
        elif not _is_of(pod, lease):
            self._tell(pod, R.OUTSIDE_LEASE, R.OUTSIDE_LEASE.meaning)
        elif not lease.allocated or lease.releasing:
            self._end(pod, lease, policy)
        else:
            self._while_it_runs(pod, lease)

    def _without_lease(self, pod: Pod) -> None:
        if pod.gated and pod.nominated:
            self.actions.append(Unassign(pod))
        elif pod.gated:
            text = f"There is no CapacityLease {pod.lease!r} in this namespace."
            self._tell(pod, R.LEASE_NOT_FOUND, f"{text} Create it, or correct the label leasehold.dev/lease.")
        else:
            self._tell(pod, R.OUTSIDE_LEASE, R.OUTSIDE_LEASE.meaning)

    def _gated(self, pod: Pod, lease: Lease, policy: PoolPolicy) -> None:
        if lease.allocated and not lease.releasing:
            self._let(pod, lease, policy)
            return
        message = _over(lease)
        if pod.nominated:
            self.actions.append(Unassign(pod))
        elif policy.stray_pods == StrayPodAction.FAIL and pod.controller not in REPLACING:
            self.actions.append(Fail(pod, R.LEASE_ENDED, message))
        else:
            self._tell(pod, R.LEASE_ENDED, message)

    def _let(self, pod: Pod, lease: Lease, policy: PoolPolicy) -> None:
        """Give a pod the least used slice that has room for it, an empty one first; or say what is missing."""
        assert self.use is not None
        given = pod.slice
        if given is not None and given.lease == lease.uid and given.position < len(lease.slices):
            node = lease.slices[given.position].node
            if not self._still_fits(pod, lease, given.position, policy):
                if pod.nominated:
                    self.actions.append(Unassign(pod))
                    return
            elif policy.holds_room and pod.nominated != node:
                self.actions.append(Assign(pod, node, given))
                return
            else:
                if self._room_is_left(lease, given):
                    self.actions.append(Let(pod, R.ADMITTED, node, given))
                return
        fitting = [i for i, part in enumerate(lease.slices) if self._may_run(pod, part.node)]
        if not fitting:
            self._tell(pod, R.NODES_EXCLUDED, R.NODES_EXCLUDED.meaning)
            self.wakes.append(self.now + LOOK_AGAIN)
            return
        lacking: dict[int, str] = {}
        for i in sorted(fitting, key=lambda i: (self.use.counts.get(i, 0) if self.use else 0, i)):
            lacking[i] = self.use.lacks(pod, i, lease.slices[i], policy.names)
            if not lacking[i]:
                self.use.take(pod, i)
                ref = SliceRef(lease.uid, i)
                node = lease.slices[i].node
                self.actions.append(
                    Assign(pod, node, ref) if policy.holds_room else Let(pod, R.ADMITTED, node, ref)
                )
                return
        name = lacking[fitting[0]]
        most = max(self.use.left(i, lease.slices[i], name) for i in fitting)
        text = (
            f"It requests {format_amount(name, pod.requests[name])} {name}; the lease has at most"
            f" {format_amount(name, most)} left on one node."
        )
        self._tell(pod, R.EXCEEDS_LEASE, text)

    def _still_fits(self, pod: Pod, lease: Lease, index: int, policy: PoolPolicy) -> bool:
        """Tell whether a pod fits into the slice it was given. Its annotation may be somebody else's, and a lease may
        have shrunk since; one that does not fit is not counted there any more.
        """
        assert self.use is not None
        self.use.drop(pod, index)
        if self.use.lacks(pod, index, lease.slices[index], policy.names):
            return False
        self.use.take(pod, index)
        return True

    def _room_is_left(self, lease: Lease, given: SliceRef) -> bool:
        """Tell whether placeholders have left the room that pods were given, so that the scheduler finds it free."""
        assert self.use is not None
        part = lease.slices[given.position]
        held = held_by(one for one in self.placeholders if one.slice == given and not one.over)
        names = part.amounts.keys() - {PODS}
        return all(held.get(n, 0) <= self.use.left(given.position, part, n) for n in names)

    def _may_run(self, pod: Pod, name: str) -> bool:
        node = self.nodes.get(name)
        return node is not None and admits(pod, name, node.labels)

    def _while_it_runs(self, pod: Pod, lease: Lease) -> None:
        if pod.told[0] not in ("", R.ADMITTED):  # mostly it was told when its gate was lifted
            self._tell(pod, R.ADMITTED, R.ADMITTED.meaning)
        text = ending_text(lease)
        if text != pod.warned:
            self.actions.append(Warn(pod, text))

    def _end(self, pod: Pod, lease: Lease, policy: PoolPolicy) -> None:
        since = lease.instant("release", "startTime") or self.now
        limit = since + policy.eviction_timeout
        last = self.refused.get(pod.uid)
        if last is None:
            self.actions.append(Evict(pod))
            return
        again = last + RETRY if last >= limit else min(limit, last + RETRY)
        if self.now < again:
            self.wakes.append(again)
        else:
            self.actions.append(Evict(pod) if self.now < limit else Delete(pod))

    def _tell(self, pod: Pod, reason: R, message: str) -> None:
        """Tell a pod how it stands. One that only waits is told when it has waited for a moment: most need not."""
        due = pod.created + PATIENCE if reason in _WAITING else 0
        if pod.told == (reason, message):
            return
        if self.now < due:
            self.wakes.append(due)
        else:
            self.actions.append(Tell(pod, reason, message))


def ending_text(lease: Lease) -> str:
    """Return what pods of a held lease are told of its end: when and why, or "" while none is near."""
    for condition in (C.DISRUPTION_TARGET, C.EXPIRING_SOON):
        if lease.is_true(condition):
            at = lease.deadline("revocationTime") or lease.deadline("expirationTime")
            when = "" if at is None else f"{format_time(at)} "
            return f"{when}{lease.reason(condition)}"
    return ""


def _over(lease: Lease) -> str:
    return f"Lease {lease.name} is over. Name one that is held."


def _is_of(pod: Pod, lease: Lease) -> bool:
    """Tell whether a pod was let go under a lease, and not under an earlier one of its name."""
    return pod.slice is not None and pod.slice.lease == lease.uid and not pod.gated


def _done(pod: Pod) -> int:
    """Return from when on a pod that is over counts as finished: its controller may make another in place of a failed
    one.
    """
    return pod.since + RETRIES_WITHIN if pod.failed and pod.controller else pod.since
