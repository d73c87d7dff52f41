"""What happens next to one lease that has been granted or is over.

Each rule is a small function over a `Course`: it may change the draft, warn, or ask to be woken. The order of the
rules is the policy: what ends a lease at once comes first, then what ends it with notice, then what keeps it alive.
Nothing here ends a lease before its deadline. A renewal that is there when the end is decided still counts, however
late the decision: the holder may have asked in time while the operator was away, and until the end is written the
capacity is promised to nobody else. Once it is written there is no way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from leasehold.api.names import DeadlineCause, IdlePolicy
from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.core import release
from leasehold.core.course import Concern, Course, Notice, Step, World
from leasehold.core.families import by_node
from leasehold.core.heartbeat import (
    awaits_parent,
    follow_liveness,
    heartbeat_lost,
    renew,
    renewal_of,
    say_live,
    unclaimed,
)
from leasehold.core.lease import Lease
from leasehold.core.policy import PoolPolicy
from leasehold.core.status import Draft, amounts_document, holder_document
from leasehold.core.times import SECOND, format_time, parse_time


def advance(lease: Lease, policy: PoolPolicy, world: World, now: int) -> Step:
    """Return what to write about a lease that is granted, leaving or over. A pending lease is the queue's business,
    unless its holder no longer wants it.
    """
    if lease.finished:
        return _after_the_end(lease, now)
    if not lease.allocated:
        parent = world.parent_of(lease)
        return _while_it_waits(
            lease,
            now,
            namespace_gone=lease.namespace in world.gone_namespaces,
            parent_over=parent is not None and (parent.finished or parent.releasing),
        )
    course = Course(lease, policy, world, now, Draft(lease, now))
    if lease.changes_hands:  # until the handover is written, what is written is about the spec from before
        course.draft.generation = lease.status.get("observedGeneration", lease.generation)
    if lease.releasing:
        release.progress(course)
    elif not _ends(course):
        _keep(course)
    if course.draft.holds(C.RELEASED) and (bill := world.bill(lease, now)):
        course.draft.status["accounting"] = bill
    step = course.step()
    if step.patch and "holder" not in lease.status and not (lease.changes_hands or lease.releasing):
        step.patch["holder"] = holder_document(lease.holder)  # granted before it was written down
    return step


def end_without_pool(lease: Lease, now: int, unmatched: str = "") -> Step:
    """Return what to write about a lease whose pool does not exist: wait if pending, else it is over.

    `unmatched` is why none was chosen, for a lease that leaves the choice to the operator.
    """
    if lease.finished:
        return _after_the_end(lease, now)
    if not lease.allocated:
        if lease.deleting or lease.wants_release:
            return _while_it_waits(lease, now, namespace_gone=False)
        late = start_deadline(lease)
        if late is not None and now >= late:
            return _while_it_waits(lease, now, namespace_gone=False)
        return Step(_without_pool(lease, now, unmatched).patch(), wake_at=late)
    draft = Draft(lease, now)
    if not lease.releasing:
        asked = lease.deleting or lease.wants_release
        release.mark_end(draft, R.RELEASE_REQUESTED if asked else R.POOL_DRAINING)
    release.finish(draft, R.NOT_REQUIRED)
    return Step(draft.patch())


# --- over, or never begun ---


def _after_the_end(lease: Lease, now: int) -> Step:
    if lease.deleting:
        return Step({}, action="drop-finalizer" if lease.has_finalizer else "")
    since = lease.instant("release", "finishTime")
    if since is None:
        since = parse_time(lease.conditions[C.FINISHED]["lastTransitionTime"])
    if now >= since + lease.ttl:
        return Step({}, action="delete")
    return Step(Draft(lease, now).patch(), wake_at=since + lease.ttl)


def _while_it_waits(lease: Lease, now: int, *, namespace_gone: bool, parent_over: bool = False) -> Step:
    """End a wait that is not wanted any more, or that lasted beyond its deadline."""
    if lease.deleting:
        return Step({}, action="drop-finalizer" if lease.has_finalizer else "")
    deadline = start_deadline(lease)
    if lease.wants_release or namespace_gone:
        reason = R.NAMESPACE_GONE if namespace_gone else R.RELEASE_REQUESTED
    elif parent_over:
        reason = R.PARENT_ENDED
    elif deadline is not None and now >= deadline:
        reason = R.START_DEADLINE_EXCEEDED
    else:
        return Step({}, wake_at=deadline)
    draft = Draft(lease, now)
    release.mark_end(draft, reason)
    release.finish(draft, R.NOT_REQUIRED)
    is_news = parent_over or release.final_reason(reason) == R.FAILED
    notices = (Notice(reason, reason.meaning, warning=True),) if is_news else ()
    return Step(draft.patch(), notices=notices)


def start_deadline(lease: Lease) -> int | None:
    """Return until when a lease wants to have started (ms), or None if it waits as long as it takes."""
    if lease.start_deadline is None:
        return None
    return max(lease.created, lease.start_time or 0) + lease.start_deadline


def choose_pool_step(lease: Lease, why: str, now: int) -> Step:
    """Return the status write that says which pool was chosen for a lease, and why."""
    draft = Draft(lease, now)
    draft.say(C.ACCEPTED, True, R.POOL_CHOSEN, why[:512])
    draft.say(C.READY, False, R.PENDING_EVALUATION)
    return Step(draft.patch(), notices=(Notice(R.POOL_CHOSEN, why),))


def _without_pool(lease: Lease, now: int, unmatched: str) -> Draft:
    draft = Draft(lease, now)
    message = f"There is no CapacityPool {lease.pool!r}. Correct spec.poolRef.name, or create the pool."
    reason = R.POOL_NOT_FOUND
    if not lease.pool:
        reason = R.NO_MATCHING_POOL if lease.pool_selector is not None else R.PARENT_NOT_FOUND
    draft.say(C.ACCEPTED, False, reason, message if lease.pool else unmatched[:512])
    draft.say(C.READY, False, reason)
    draft.unsay(C.ALLOCATED)
    draft.status.pop("rejections", None)
    return draft


# --- what ends a lease ---


def _ends(course: Course) -> bool:
    """Apply the rules that end a lease; tell whether it is on its way out."""
    if not course.lease.changes_hands:
        follow_liveness(course)
    reason = next((found for rule in _AT_ONCE if (found := rule(course)) is not None), None)
    if reason is None:
        notice = next((found for rule in _WITH_NOTICE if (found := rule(course)) is not None), None)
        reason = _give_notice(course, notice)
    if reason is None:
        return False
    course.draft.generation = course.lease.generation
    release.begin(course, reason)
    return True


def _asked_to(course: Course) -> R | None:
    return R.RELEASE_REQUESTED if course.lease.deleting or course.lease.wants_release else None


def _namespace_gone(course: Course) -> R | None:
    return R.NAMESPACE_GONE if course.lease.namespace in course.world.gone_namespaces else None


def _parent_gone(course: Course) -> R | None:
    """End a sub-lease at once with its parent, whose own grace is over by then."""
    if not course.lease.parent:
        return None
    parent = course.parent
    return R.PARENT_ENDED if parent is None or not parent.allocated or parent.releasing else None


def _node_lost(course: Course) -> R | None:
    for part in course.lease.slices:
        node = course.world.nodes.get(part.node)
        if node is None:
            return R.NODE_LOST
        if node.not_ready_since is not None:
            lost_at = node.not_ready_since + course.policy.node_loss
            if course.now >= lost_at:
                return R.NODE_LOST
            course.wake(lost_at)
    return None


def _pods_complete(course: Course) -> R | None:
    if not (course.policy.enforces and course.lease.releases_when_done) or course.has_children:
        return None
    since = course.world.pods(course.lease).done_since
    if since is None:
        return None
    due = since + course.policy.grace
    if course.now < due:
        course.wake(due)  # until then another pod may come: of a Job with more to do, say
        return None
    course.due = due
    return R.PODS_COMPLETE


def _term_over(course: Course) -> R | None:
    end = course.lease.deadline("expirationTime")
    if end is None or not course.policy.ends_leases or course.now < end + course.policy.grace:
        return None
    if awaits_parent(course):
        return None
    renewed = renewal_of(course)
    if renewed is not None and renewed > end:  # at the maximum one may ask again and again
        return None
    course.due = end + course.policy.grace
    return R.MAXIMUM_REACHED if end == course.lease.deadline("maxExpirationTime") else R.TERM_ENDED


BINDING_TIME = 5 * SECOND
"""How long a placeholder may wait to be bound before its lease says so (ms)."""

_Rule = Callable[[Course], R | None]
_AT_ONCE: tuple[_Rule, ...] = (
    _asked_to,
    _namespace_gone,
    _parent_gone,
    _node_lost,
    unclaimed,
    heartbeat_lost,
    _pods_complete,
    _term_over,
)


def _revoked_by_admin(course: Course) -> R | None:
    return R.ADMIN_REVOKED if course.lease.revoke else None


def _parent_leaves(course: Course) -> R | None:
    parent = course.parent
    return R.PARENT_ENDED if parent is not None and parent.is_true(C.DISRUPTION_TARGET) else None


def _ended_by_pool(course: Course) -> R | None:
    return course.world.ends.get(course.lease.uid)


def _idle(course: Course) -> R | None:
    since = course.world.idle_since.get(course.lease.uid)
    if since is None or course.policy.idle_policy == IdlePolicy.OFF:
        return None
    due = since + course.policy.idle_period
    if course.now < due:
        course.wake(due)
        return None
    if course.policy.idle_policy == IdlePolicy.RELEASE:
        return R.IDLE
    text = f"Hardly used since {format_time(since)}. Use it or give it back."
    course.concerns.append(Concern(course.now, R.IDLE, text))
    return None


_WITH_NOTICE: tuple[_Rule, ...] = (_revoked_by_admin, _parent_leaves, _ended_by_pool, _idle)


def _give_notice(course: Course, notice: R | None) -> R | None:
    """Start, keep or take back a notice; return the reason once its grace is over.

    A notice whose cause went away before the end (a drain called off, a lease used again) is taken back.
    """
    draft = course.draft
    given = course.lease.deadline("revocationTime")
    if notice is None:
        if given is not None:
            draft.unsay(C.DISRUPTION_TARGET)
            draft.set_time("deadlines", revocationTime=None)
            draft.status.pop("revocation", None)
        return None
    at = _within_parents_time(course, notice, _give_time(course, notice, given))
    if course.now >= at:
        return notice
    why = course.lease.revoke if notice == R.ADMIN_REVOKED else notice.meaning
    message = f"Taken back at {format_time(at)}. {why}"[:1000]
    if not draft.holds(C.DISRUPTION_TARGET):
        course.notices.append(Notice(notice, message, warning=True))
    draft.say(C.DISRUPTION_TARGET, True, notice, message)
    draft.set_time("deadlines", revocationTime=at)
    course.wake(at)
    return None


def _give_time(course: Course, notice: R, given: int | None) -> int:
    """Return when a notice is over: after the grace, and as much longer as the holder asks and the pool allows.

    Nobody can put off the end of an idle lease, whose holder has had its time.
    """
    lease, policy = course.lease, course.policy
    told = lease.instant("revocation", "noticeTime")
    if given is not None and told is None:
        return given
    since = course.now if given is None or told is None else told
    more = 0 if notice in (R.IDLE, R.PARENT_ENDED) else min(lease.deferral, policy.max_defer)
    course.draft.put(
        "revocation",
        noticeTime=format_time(since),
        preemptorUID=course.world.preemptors.get(lease.uid),
        deferSeconds=more // SECOND or None,
    )
    return since + policy.grace + more


def _within_parents_time(course: Course, notice: R, at: int) -> int:
    """Return when a notice is over: for a sub-lease no later than for its parent, and just then if it goes with it."""
    parent = course.parent
    limit = None if parent is None else parent.deadline("revocationTime")
    if limit is None:
        return at
    return limit if notice == R.PARENT_ENDED else min(at, limit)


# --- while it is held ---


def _keep(course: Course) -> None:
    _shrink(course)
    if not awaits_parent(course):
        renew(course)
    _degraded(course)
    _warn(course)
    say_live(course)
    course.draft.say(C.READY, True, R.HELD)
    say_next(course.draft, course.losses)


def _shrink(course: Course) -> None:
    """A smaller request gives the difference back at once.

    The API server refuses every other change of a granted request. Should one get past it, nothing moves: to grow
    is to be granted, and that is the ledger's business alone.
    """
    lease = course.lease
    if lease.problem or all(part.amounts == lease.request for part in lease.slices):
        return
    if not all(_within(lease.request, part.amounts) for part in lease.slices):
        return
    if _children_need_more(course):
        return
    resources = amounts_document(lease.request)
    rows = lease.status["allocation"]["slices"]
    course.draft.put("allocation", slices=[{**row, "resources": resources} for row in rows])
    course.notices.append(Notice("Shrunk", "The lease holds less now; the difference is free."))


def _children_need_more(course: Course) -> bool:
    """Tell whether sub-leases hold more of a node than a lease will have there once it has shrunk."""
    lease = course.lease
    if not course.has_children:
        return False
    left = by_node(part._replace(amounts=lease.request) for part in lease.slices)
    return any(
        units > left.get(node, {}).get(name, 0)
        for node, held in course.world.families.held_of(lease.uid).items()
        for name, units in held.items()
    )


def _shrink_waits(course: Course) -> tuple[R, str] | None:
    lease = course.lease
    if (
        lease.problem
        or not course.has_children
        or all(part.amounts == lease.request for part in lease.slices)
    ):
        return None
    return (R.HELD_BY_CHILDREN, R.HELD_BY_CHILDREN.meaning) if _children_need_more(course) else None


def _within(request: Mapping[str, int], held: Mapping[str, int]) -> bool:
    return request.keys() == held.keys() and all(amount <= held[name] for name, amount in request.items())


def _degraded(course: Course) -> None:
    found = (
        next((bad for part in course.lease.slices if (bad := _trouble(course, part.node)) is not None), None)
        or _not_held(course)
        or _shrink_waits(course)
    )
    if found is not None:
        reason, message = found
        course.draft.say(C.DEGRADED, True, reason, message)
    elif C.DEGRADED in course.draft.conditions:
        course.draft.say(C.DEGRADED, False, R.HEALTHY)


def _not_held(course: Course) -> tuple[R, str] | None:
    """Say so where the pool's placeholders cannot hold the room; they have some seconds to be bound."""
    if not course.policy.holds_room:
        return None
    pods = course.world.pods(course.lease)
    if pods.refusal:
        return R.ROOM_NOT_HELD, f"Its placeholder was refused: {pods.refusal}"[:1000]
    if pods.unheld_since is None:
        return None
    due = pods.unheld_since + BINDING_TIME
    if course.now < due:
        course.wake(due)
        return None
    return R.ROOM_NOT_HELD, "Its placeholder waits to be bound: other pods took the room first."


def _trouble(course: Course, name: str) -> tuple[R, str] | None:
    node, report = course.world.nodes[name], course.world.reports.get(name)
    if node.not_ready_since is not None:
        lost_at = node.not_ready_since + course.policy.node_loss
        return R.NODE_NOT_READY, f"Node {name} is not ready; the lease is revoked at {format_time(lost_at)}."
    if name in course.world.over_nodes:
        return R.OVER_ALLOCATED, f"Node {name} holds more than it now has."
    if course.policy.enforces and name in course.world.pods(course.lease).over_on:
        return R.PODS_ABOVE_GRANT, f"Its pods request more on node {name} than the lease holds there."
    if report is not None and course.lease.uid in report.leases:
        used = report.leases[course.lease.uid].amounts.get("memory", 0)
        granted = sum(part.amounts.get("memory", 0) for part in course.lease.slices if part.node == name)
        if used > granted > 0:
            return R.USAGE_ABOVE_GRANT, f"More memory is used on node {name} than the lease holds there."
    return None


def _warn(course: Course) -> None:
    """Say the most urgent thing that will end the lease, once it is near."""
    draft = course.draft
    end = draft.deadline("expirationTime")
    if end is not None:
        _warn_of_term(course, end)
    concern = min(course.concerns, default=None)
    if concern is None:
        draft.unsay(C.EXPIRING_SOON)
        return
    if draft.conditions.get(C.EXPIRING_SOON, {}).get("message") != concern.message:
        course.notices.append(Notice(f"ExpiringSoon{concern.reason}", concern.message, warning=True))
    draft.say(C.EXPIRING_SOON, True, concern.reason, concern.message)


def _warn_of_term(course: Course, end: int) -> None:
    reason = R.MAXIMUM if end == course.draft.deadline("maxExpirationTime") else R.EXPIRATION
    reap = end + course.policy.grace
    if course.now >= end:
        if course.policy.ends_leases:
            course.losses.append(reap)
            course.wake(reap)
            text = f"The term ended at {format_time(end)}; taken back at {format_time(reap)} unless renewed."
        else:
            text = f"The term ended at {format_time(end)}. The pool only notifies; please give it back."
        course.concerns.append(Concern(reap, reason, text))
        return
    course.wake(end, *(end - before for before in course.policy.warn_before))
    passed = [before for before in course.policy.warn_before if course.now >= end - before]
    if passed:
        text = f"The term ends at {format_time(end)}, in {min(passed) // SECOND} s or less."
        course.concerns.append(Concern(reap, reason, text))


def say_next(draft: Draft, losses: list[int] | None = None) -> None:
    """Write `deadlines.next`: when and why the lease will be lost.

    `losses` are the ends of the grace of deadlines that have passed; of the others, those still to come count.
    """
    at_maximum = draft.deadline("expirationTime") == draft.deadline("maxExpirationTime")
    causes = (
        ("startTime", DeadlineCause.START),
        ("revocationTime", DeadlineCause.REVOCATION),
        ("claimTime", DeadlineCause.CLAIM),
        ("heartbeatTime", DeadlineCause.HEARTBEAT),
        ("expirationTime", DeadlineCause.MAXIMUM if at_maximum else DeadlineCause.EXPIRATION),
    )
    found = [(at, DeadlineCause.REVOCATION) for at in losses or ()]
    found += [
        (at, cause) for name, cause in causes if (at := draft.deadline(name)) is not None and at > draft.now
    ]
    draft.next_deadline(*min(found, default=(None, "")))
