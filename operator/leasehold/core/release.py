"""How a lease gives back: the end begins, nodes confirm, capacity rests, and only then it counts no more."""

from __future__ import annotations

from leasehold.api.names import DeadlineCause
from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.core.course import Course, Notice
from leasehold.core.nodes import FUTURE_TOLERANCE
from leasehold.core.status import Draft
from leasehold.core.times import format_time

_EXPIRED = frozenset({R.TERM_ENDED, R.MAXIMUM_REACHED, R.HEARTBEAT_LOST, R.IDLE, R.CLAIM_TIMEOUT})


_BY_HOLDER = frozenset({R.RELEASE_REQUESTED, R.PODS_COMPLETE})
_OTHERWISE: dict[str, R] = {R.START_DEADLINE_EXCEEDED: R.FAILED, R.DRY_RUN: R.DRY_RUN_COMPLETE}


def begin(course: Course, reason: R) -> None:
    """Start the end of a held lease, and finish it at once where nothing is left to wait for."""
    mark_end(course.draft, reason)
    final = final_reason(reason)
    course.notices.append(Notice(final, reason.meaning, warning=final != R.RELEASED))
    course.wakes.clear()
    if course.has_children:
        _await_children(course)
    elif _is_forced(course):
        finish(course.draft, R.FORCED)
    elif not (course.policy.verifies_release or _left_on(course)) or _all_nodes_gone(course):
        _rest(course)
    else:
        due = course.now + _patience(course)
        _say_waiting(course)
        course.draft.set_time("deadlines", verificationTime=due)
        course.draft.next_deadline(due, DeadlineCause.VERIFICATION)
        course.wake(due)


def progress(course: Course) -> None:
    """Take a lease that is on its way out one step further."""
    cooled_at = course.lease.deadline("cooldownTime")
    if course.has_children:
        _await_children(course)
    elif _is_forced(course):
        finish(course.draft, R.FORCED)
    elif cooled_at is not None:
        if course.now >= cooled_at:
            finish(course.draft, _word_of(course))
        course.wake(cooled_at)
    elif not (silent := _silent_nodes(course)):
        _rest(course)
    else:
        _await_verification(course, silent)


def mark_end(draft: Draft, reason: R) -> None:
    """Say why the lease ends, and drop what mattered only while it was held."""
    draft.put("release", cause=str(reason), startTime=format_time(draft.now))
    if reason in _BY_HOLDER:
        draft.unsay(C.DISRUPTION_TARGET)
    else:
        draft.say(C.DISRUPTION_TARGET, True, reason, reason.meaning)
    draft.say(C.READY, False, reason, reason.meaning)
    draft.unsay(C.EXPIRING_SOON)
    draft.unsay(C.DEGRADED)
    for part in ("rejections", "queue", "reservation"):
        draft.status.pop(part, None)
    draft.set_time("deadlines", startTime=None, claimTime=None, heartbeatTime=None, revocationTime=None)
    draft.set_time("deadlines", amnestyTime=None)
    draft.next_deadline(None, "")


def finish(draft: Draft, released: R) -> None:
    """Free the capacity: from this write on it counts no more. The cause must have been marked before."""
    draft.say(C.RELEASED, True, released)
    draft.say(C.FINISHED, True, final_reason(draft.status["release"]["cause"]))
    draft.set_time("deadlines", cooldownTime=None, verificationTime=None)
    draft.next_deadline(None, "")
    draft.put("release", finishTime=format_time(draft.now), lastError=None)


def final_reason(cause: str) -> R:
    """Return the last word on a lease that ended for this cause."""
    if cause in _BY_HOLDER:
        return R.RELEASED
    if cause in _OTHERWISE:
        return _OTHERWISE[cause]
    return R.EXPIRED if cause in _EXPIRED else R.REVOKED


def _await_children(course: Course) -> None:
    """Give nothing back while sub-leases hold some of it. They are told by seeing that this one ends."""
    course.draft.say(C.RELEASED, False, R.CHILDREN_LEAVING, R.CHILDREN_LEAVING.meaning)


def _is_forced(course: Course) -> bool:
    """Tell whether capacity is to be freed without any node's word; a parent's force is its children's too."""
    parent = course.parent
    return course.lease.force_release or (parent is not None and parent.force_release)


def _rest(course: Course) -> None:
    """Let the capacity rest for the pool's cool-down, then free it. What a parent gets back that ends rests with it."""
    with_parent = bool(course.lease.parent) and (course.parent is None or course.parent.releasing)
    if not course.policy.cooldown or with_parent:
        finish(course.draft, _word_of(course))
        return
    due = course.now + course.policy.cooldown
    course.draft.say(C.RELEASED, False, R.COOLING_DOWN, R.COOLING_DOWN.meaning)
    course.draft.set_time("deadlines", cooldownTime=due, verificationTime=None)
    course.draft.put("release", lastError=None)
    course.draft.next_deadline(due, DeadlineCause.COOLDOWN)
    course.wake(due)


def _await_verification(course: Course, silent: list[str]) -> None:
    due = course.lease.deadline("verificationTime")
    if due is None:
        due = course.now + _patience(course)
        course.draft.set_time("deadlines", verificationTime=due)
    if course.now < due:
        _say_waiting(course)
        course.wake(due)
        return
    error = f"No word that the workload is gone from {', '.join(silent)}"[:240]
    if course.lease.reason(C.RELEASED) != R.QUARANTINED:
        course.notices.append(Notice(R.QUARANTINED, error, warning=True))
    course.draft.say(C.RELEASED, False, R.QUARANTINED, R.QUARANTINED.meaning)
    course.draft.put("release", lastError=error)
    course.draft.next_deadline(None, "")


def _patience(course: Course) -> int:
    """Return how long nodes have to confirm: where pods are evicted, budgets may hold those up first."""
    policy = course.policy
    return policy.verification_timeout + (policy.eviction_timeout if policy.enforces else 0)


def _say_waiting(course: Course) -> None:
    """Say what a lease that is over waits for. One that is quarantined stays so until that is there."""
    if course.lease.reason(C.RELEASED) != R.QUARANTINED:
        reason = R.PODS_LEAVING if _left_on(course) else R.VERIFICATION_PENDING
        course.draft.say(C.RELEASED, False, reason, reason.meaning)


def _word_of(course: Course) -> R:
    """Return on whose word the capacity is free."""
    if _all_nodes_gone(course):
        return R.NODE_GONE
    return R.VERIFIED if course.policy.verifies_release else R.NOT_REQUIRED


def _all_nodes_gone(course: Course) -> bool:
    return all(part.node not in course.world.nodes for part in course.lease.slices)


def _silent_nodes(course: Course) -> list[str]:
    """Return the nodes that exist and where pods of the lease are left, or which did not say, since the release began,
    that its workload is gone.
    """
    left = _left_on(course)
    if not course.policy.verifies_release:
        return sorted(left)
    since = course.lease.instant("release", "startTime") or course.now
    nodes = {part.node for part in course.lease.slices if part.node in course.world.nodes}
    return sorted(node for node in nodes if node in left or not _confirmed(course, node, since))


def _left_on(course: Course) -> frozenset[str]:
    """Return the nodes that exist and where the API server still knows of pods of the lease."""
    if not course.policy.enforces:
        return frozenset()
    return course.world.pods(course.lease).left_on & course.world.nodes.keys()


def _confirmed(course: Course, node: str, since: int) -> bool:
    report = course.world.reports.get(node)
    if report is None or not since < report.time <= course.now + FUTURE_TOLERANCE:
        return False
    uid = course.lease.uid
    if report.observed_generation < report.asked_since.get(uid, 0):
        return False  # it does not know all pods of the lease yet
    seen = report.leases.get(uid)
    return seen is not None and seen.gone
