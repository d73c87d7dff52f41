"""What happens next to one lease that has been granted or is over.

Each rule is a small function over a `Draft`: it may change the draft, warn, or ask to be woken. The order of the
rules is the policy: what ends a lease at once comes first, then what ends it with notice, then what keeps it alive.
Nothing here ends a lease before its deadline; a lease past its grace that was not yet ended may still be renewed,
because its capacity has not been promised to anybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from leasehold.api.names import DeadlineCause, IdlePolicy, Liveness
from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.core.lease import Lease
from leasehold.core.nodes import Node, Report
from leasehold.core.policy import PoolPolicy
from leasehold.core.status import Draft, Patch, amounts_document
from leasehold.core.times import SECOND, earliest, format_time, parse_time


class Session(NamedTuple):
    """A holder's coordination Lease. `renewed_at` is when the operator saw it change, by the operator's clock."""

    namespace: str
    name: str
    version: int
    renewed_at: int
    duration: int | None


@dataclass(frozen=True)
class World:
    """What a lease's fate depends on besides itself and its pool's policy.

    `ends` names leases that must go, with the reason (`PoolDraining`, `CapacityLost`). `idle_since` says since when
    a lease has been hardly used. `over_nodes` hold more than they now have.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    reports: Mapping[str, Report] = field(default_factory=dict)
    sessions: Mapping[tuple[str, str], Session] = field(default_factory=dict)
    gone_namespaces: Set[str] = frozenset()
    idle_since: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[str, R] = field(default_factory=dict)
    over_nodes: Set[str] = frozenset()


class Notice(NamedTuple):
    """Something worth a Kubernetes Event."""

    reason: str
    message: str
    warning: bool = False


class Step(NamedTuple):
    """What to do about one lease now, and when to look again (ms, or None for "when it changes").

    `patch` is for the status subresource; `action` is "" , "drop-finalizer" or "delete".
    """

    patch: Patch
    wake_at: int | None = None
    action: str = ""
    notices: tuple[Notice, ...] = ()


class _Warning(NamedTuple):
    at: int
    reason: R
    message: str


@dataclass
class _Course:
    """One lease's way through the rules."""

    lease: Lease
    policy: PoolPolicy
    world: World
    now: int
    draft: Draft
    wakes: list[int] = field(default_factory=list)
    warnings: list[_Warning] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    heartbeat_missed: bool = False
    losses: list[int] = field(default_factory=list)

    def wake(self, *instants: int | None) -> None:
        self.wakes.extend(at for at in instants if at is not None and at > self.now)

    def step(self) -> Step:
        return Step(self.draft.patch(), earliest(*self.wakes), notices=tuple(self.notices))


def advance(lease: Lease, policy: PoolPolicy, world: World, now: int) -> Step:
    """Return what to write about a lease that is granted, leaving or over. A pending lease is the queue's business,
    unless its holder no longer wants it.
    """
    if lease.finished:
        return _after_the_end(lease, now)
    course = _Course(lease, policy, world, now, Draft(lease, now))
    if not lease.allocated:
        return _give_up_waiting(course)
    if lease.releasing:
        _progress_release(course)
    elif not _ends(course):
        _keep(course)
    return course.step()


def end_without_pool(lease: Lease, now: int) -> Step:
    """Return what to write about a lease whose pool does not exist: wait if pending, else it is over."""
    if lease.finished:
        return _after_the_end(lease, now)
    draft = Draft(lease, now)
    if lease.deleting and not lease.allocated:
        return Step({}, action="drop-finalizer" if lease.has_finalizer else "")
    message = f"There is no CapacityPool {lease.pool!r}. Correct spec.poolRef.name, or create the pool."
    if lease.allocated:
        _mark_end(draft, R.POOL_DRAINING)
        _finish(draft, R.NOT_REQUIRED)
    else:
        draft.say(C.ACCEPTED, False, R.POOL_NOT_FOUND, message)
        draft.say(C.READY, False, R.POOL_NOT_FOUND)
    return Step(draft.patch())


# --- over, or never begun ---


def _after_the_end(lease: Lease, now: int) -> Step:
    if lease.deleting:
        return Step({}, action="drop-finalizer" if lease.has_finalizer else "")
    finished = lease.instant("release", "finishTime") or now
    due = finished + lease.ttl
    return Step({}, action="delete") if now >= due else Step({}, wake_at=due)


def _give_up_waiting(course: _Course) -> Step:
    lease, draft = course.lease, course.draft
    if lease.deleting:
        return Step({}, action="drop-finalizer" if lease.has_finalizer else "")
    reason = R.NAMESPACE_GONE if lease.namespace in course.world.gone_namespaces else R.RELEASE_REQUESTED
    if not lease.wants_release and reason == R.RELEASE_REQUESTED:
        return Step({})
    draft.put("release", cause=str(reason), startTime=format_time(course.now))
    draft.say(C.READY, False, reason)
    draft.status.pop("rejections", None)
    _finish(draft, R.NOT_REQUIRED)
    return course.step()


# --- what ends a lease ---


def _ends(course: _Course) -> bool:
    """Apply the rules that end a lease; tell whether it is on its way out."""
    reason = next((found for rule in _AT_ONCE if (found := rule(course)) is not None), None)
    if reason is None:
        notice = next((found for rule in _WITH_NOTICE if (found := rule(course)) is not None), None)
        reason = _give_notice(course, notice)
    if reason is None:
        return False
    _begin_release(course, reason)
    return True


def _asked_to(course: _Course) -> R | None:
    return R.RELEASE_REQUESTED if course.lease.deleting or course.lease.wants_release else None


def _namespace_gone(course: _Course) -> R | None:
    return R.NAMESPACE_GONE if course.lease.namespace in course.world.gone_namespaces else None


def _node_lost(course: _Course) -> R | None:
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


def _unclaimed(course: _Course) -> R | None:
    """Without a claim there is nothing to be graceful to: the claim deadline is the holder's grace."""
    _claim(course)
    deadline = course.lease.deadline("claimTime")
    if deadline is None or course.draft.holds(C.CLAIMED):
        return None
    if course.now >= deadline:
        course.draft.say(C.CLAIMED, False, R.CLAIM_TIMEOUT, R.CLAIM_TIMEOUT.meaning)
        return R.CLAIM_TIMEOUT
    course.wake(deadline)
    return None


def _heartbeat_lost(course: _Course) -> R | None:
    if not course.draft.holds(C.CLAIMED):
        return None
    missed = _missed_heartbeat(course)
    if missed is None:
        return None
    reason, since = missed
    gone_at = since + course.policy.grace
    if course.now >= gone_at:
        return R.HEARTBEAT_LOST
    course.heartbeat_missed = True
    course.losses.append(gone_at)
    course.draft.say(C.HOLDER_LIVE, False, reason, reason.meaning)
    course.draft.set_time("deadlines", heartbeatTime=since)
    course.warnings.append(
        _Warning(
            gone_at,
            R.HEARTBEAT,
            f"No heartbeat since before {format_time(since)}; lost at {format_time(gone_at)}.",
        )
    )
    course.wake(gone_at)
    return None


def _term_over(course: _Course) -> R | None:
    end = course.lease.deadline("expirationTime")
    if end is None or _renewal_asked(course.lease) or not course.policy.ends_leases:
        return None
    if _session_renews(course, end):
        return None
    if course.now < end + course.policy.grace:
        return None
    return R.MAXIMUM_REACHED if end == course.lease.deadline("maxExpirationTime") else R.TERM_ENDED


_Rule = Callable[[_Course], R | None]
_AT_ONCE: tuple[_Rule, ...] = (
    _asked_to,
    _namespace_gone,
    _node_lost,
    _unclaimed,
    _heartbeat_lost,
    _term_over,
)


def _revoked_by_admin(course: _Course) -> R | None:
    return R.ADMIN_REVOKED if course.lease.revoke else None


def _ended_by_pool(course: _Course) -> R | None:
    return course.world.ends.get(course.lease.uid)


def _idle(course: _Course) -> R | None:
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
    course.warnings.append(_Warning(course.now, R.IDLE, text))
    return None


_WITH_NOTICE: tuple[_Rule, ...] = (_revoked_by_admin, _ended_by_pool, _idle)


def _give_notice(course: _Course, notice: R | None) -> R | None:
    """Start, keep or take back a notice; return the reason once its grace is over.

    A notice whose cause went away before the end (a drain called off, a lease used again) is taken back.
    """
    draft = course.draft
    given = course.lease.deadline("revocationTime")
    if notice is None:
        if given is not None:
            draft.unsay(C.DISRUPTION_TARGET)
            draft.set_time("deadlines", revocationTime=None)
        return None
    at = given if given is not None else course.now + course.policy.grace
    if course.now >= at:
        return notice
    message = f"Taken back at {format_time(at)}. {course.lease.revoke if notice == R.ADMIN_REVOKED else notice.meaning}"
    if not draft.holds(C.DISRUPTION_TARGET):
        course.notices.append(Notice(notice, message[:1000], warning=True))
    draft.say(C.DISRUPTION_TARGET, True, notice, message[:1000])
    draft.set_time("deadlines", revocationTime=at)
    course.wake(at)
    return None


# --- what keeps it alive ---


def _keep(course: _Course) -> None:
    draft = course.draft
    _shrink(course)
    _renew(course)
    _degraded(course)
    _warn(course)
    if course.lease.liveness != Liveness.NONE and draft.holds(C.CLAIMED) and not course.heartbeat_missed:
        draft.say(C.HOLDER_LIVE, True, R.FRESH)
    draft.say(C.READY, True, R.HELD)
    say_next(draft, min(course.losses, default=None))


def _claim(course: _Course) -> None:
    lease, draft = course.lease, course.draft
    if draft.holds(C.CLAIMED) or lease.liveness == Liveness.NONE:
        return
    if _renewal_asked(lease):
        draft.say(C.CLAIMED, True, R.HOLDER_RENEWED)
    elif lease.liveness == Liveness.SESSION and session_is_live(
        lease, course.policy, course.world, course.now
    ):
        draft.say(C.CLAIMED, True, R.SESSION_LIVE)
    else:
        return
    draft.set_time("deadlines", claimTime=None)


def session_is_live(lease: Lease, policy: PoolPolicy, world: World, now: int) -> bool:
    """Tell whether the session a lease names exists and was renewed in time."""
    session = world.sessions.get((lease.namespace, lease.session))
    return session is not None and now < _session_deadline(session, policy)


def _session_deadline(session: Session, policy: PoolPolicy) -> int:
    """A session may ask for a shorter time-out than the pool's, never for a longer one."""
    timeout = policy.heartbeat_timeout
    return session.renewed_at + (min(session.duration, timeout) if session.duration else timeout)


def _missed_heartbeat(course: _Course) -> tuple[R, int] | None:
    """Return why and since when the heartbeat is missing, or None while it is there."""
    lease = course.lease
    stored = lease.deadline("heartbeatTime")
    if lease.liveness == Liveness.RENEW:
        if _renewal_asked(lease) or stored is None:
            return None
        course.wake(stored)
        return (R.MISSED, stored) if course.now >= stored else None
    if lease.liveness != Liveness.SESSION:
        return None
    session = course.world.sessions.get((lease.namespace, lease.session))
    if session is None:
        return R.SESSION_GONE, course.now if stored is None else stored
    due = _session_deadline(session, course.policy)
    if course.now >= due:
        return R.MISSED, due if stored is None else min(stored, due)
    course.wake(due)
    if stored is not None:
        course.draft.set_time("deadlines", heartbeatTime=None)
    return None


def _renewal_asked(lease: Lease) -> bool:
    """Any change of `spec.renewTime` is one request; what the text says is never trusted."""
    return bool(lease.renew_time) and lease.renew_time != lease.status.get("renewal", {}).get(
        "observedRenewTime"
    )


def _session_renews(course: _Course, end: int) -> bool:
    """A live session renews the term by itself once two thirds of it are over: one write per term, however many
    heartbeats there are.
    """
    lease = course.lease
    if lease.liveness != Liveness.SESSION or not course.draft.holds(C.CLAIMED):
        return False
    if not session_is_live(lease, course.policy, course.world, course.now):
        return False
    maximum = lease.deadline("maxExpirationTime")
    if maximum is not None and end >= maximum:
        return False
    due = end - _term(course) // 3
    course.wake(due)
    return course.now >= due


def _term(course: _Course) -> int:
    return min(course.policy.duration_of(course.lease.duration), course.policy.max_duration)


def _renew(course: _Course) -> None:
    """Renewal counts from now, by the operator's clock, and never beyond the maximum."""
    lease, draft, now = course.lease, course.draft, course.now
    asked = _renewal_asked(lease)
    end = lease.deadline("expirationTime")
    if end is None or not (asked or _session_renews(course, end)):
        return
    if draft.holds(C.DISRUPTION_TARGET):
        draft.put("renewal", observedRenewTime=lease.renew_time or None)
        return
    maximum = lease.deadline("maxExpirationTime")
    renewed = now + _term(course) if maximum is None else min(now + _term(course), maximum)
    count = lease.status.get("renewal", {}).get("count", 0) + 1
    draft.put(
        "renewal", count=count, lastRenewTime=format_time(now), observedRenewTime=lease.renew_time or None
    )
    draft.set_time("deadlines", expirationTime=renewed)
    if asked and lease.liveness == Liveness.RENEW:
        draft.set_time("deadlines", heartbeatTime=now + course.policy.heartbeat_timeout)


def _shrink(course: _Course) -> None:
    """A smaller request gives the difference back at once. Growing is refused by the API server."""
    lease = course.lease
    if lease.problem or all(part.amounts == lease.request for part in lease.slices):
        return
    if any(
        lease.request.get(name, 0) > amount for part in lease.slices for name, amount in part.amounts.items()
    ):
        return
    resources = amounts_document(lease.request)
    rows = lease.status["allocation"]["slices"]
    course.draft.put("allocation", slices=[{**row, "resources": resources} for row in rows])
    course.notices.append(Notice("Shrunk", "The lease holds less now; the difference is free."))


def _degraded(course: _Course) -> None:
    found = next(
        (bad for part in course.lease.slices if (bad := _trouble(course, part.node)) is not None), None
    )
    if found is not None:
        reason, message = found
        course.draft.say(C.DEGRADED, True, reason, message)
    elif C.DEGRADED in course.draft.conditions:
        course.draft.say(C.DEGRADED, False, R.HEALTHY)


def _trouble(course: _Course, name: str) -> tuple[R, str] | None:
    node, report = course.world.nodes[name], course.world.reports.get(name)
    if not node.ready:
        lost_at = (node.not_ready_since or course.now) + course.policy.node_loss
        return R.NODE_NOT_READY, f"Node {name} is not ready; the lease is revoked at {format_time(lost_at)}."
    if name in course.world.over_nodes:
        return R.OVER_ALLOCATED, f"Node {name} holds more than it now has."
    if report is not None and course.lease.uid in report.leases:
        used = report.leases[course.lease.uid].amounts.get("memory", 0)
        granted = sum(part.amounts.get("memory", 0) for part in course.lease.slices if part.node == name)
        if used > granted > 0:
            return R.USAGE_ABOVE_GRANT, f"More memory is used on node {name} than the lease holds there."
    return None


def _warn(course: _Course) -> None:
    """Say the most urgent thing that will end the lease, once it is near."""
    draft = course.draft
    ends = draft.status.get("deadlines", {}).get("expirationTime")
    if ends is not None:
        _warn_of_term(course)
    warning = min(course.warnings, default=None)
    if warning is None:
        draft.unsay(C.EXPIRING_SOON)
        return
    if draft.conditions.get(C.EXPIRING_SOON, {}).get("message") != warning.message:
        course.notices.append(Notice(f"ExpiringSoon{warning.reason}", warning.message, warning=True))
    draft.say(C.EXPIRING_SOON, True, warning.reason, warning.message)


def _warn_of_term(course: _Course) -> None:
    lease_after = course.draft.status["deadlines"]
    end = parse_time(lease_after["expirationTime"])
    at_maximum = lease_after["expirationTime"] == lease_after.get("maxExpirationTime")
    reason = R.MAXIMUM if at_maximum else R.EXPIRATION
    reap = end + course.policy.grace
    if course.now >= end:
        if course.policy.ends_leases:
            course.losses.append(reap)
            text = f"The term ended at {format_time(end)}; taken back at {format_time(reap)} unless renewed."
        else:
            text = f"The term ended at {format_time(end)}. The pool only notifies; please give it back."
        course.warnings.append(_Warning(reap, reason, text))
        course.wake(reap)
        return
    course.wake(end)
    passed = [before for before in course.policy.warn_before if course.now >= end - before]
    course.wake(*(end - before for before in course.policy.warn_before))
    if passed:
        text = f"The term ends at {format_time(end)}, in {min(passed) // SECOND} s or less."
        course.warnings.append(_Warning(reap, reason, text))


def say_next(draft: Draft, lost_at: int | None = None) -> None:
    """Write `deadlines.next`: when and why the lease will be lost.

    `lost_at` is the end of the grace of a deadline that has passed; the deadlines that stand count otherwise.
    """
    if lost_at is not None:
        draft.next_deadline(lost_at, DeadlineCause.REVOCATION)
        return
    deadlines = draft.status.get("deadlines", {})
    at_maximum = deadlines.get("expirationTime") == deadlines.get("maxExpirationTime")
    causes = (
        ("revocationTime", DeadlineCause.REVOCATION),
        ("claimTime", DeadlineCause.CLAIM),
        ("heartbeatTime", DeadlineCause.HEARTBEAT),
        ("expirationTime", DeadlineCause.MAXIMUM if at_maximum else DeadlineCause.EXPIRATION),
    )
    found = min(
        ((parse_time(deadlines[key]), cause) for key, cause in causes if key in deadlines), default=None
    )
    draft.next_deadline(*(found if found is not None else (None, "")))


# --- giving back ---

_EXPIRED = frozenset(
    {R.TERM_ENDED, R.MAXIMUM_REACHED, R.HEARTBEAT_LOST, R.SESSION_GONE, R.IDLE, R.CLAIM_TIMEOUT}
)


def _mark_end(draft: Draft, reason: R) -> None:
    draft.put("release", cause=str(reason), startTime=format_time(draft.now))
    if reason != R.RELEASE_REQUESTED:
        draft.say(C.DISRUPTION_TARGET, True, reason)
    else:
        draft.unsay(C.DISRUPTION_TARGET)
    draft.say(C.READY, False, reason)
    draft.unsay(C.EXPIRING_SOON)
    draft.unsay(C.DEGRADED)
    draft.set_time("deadlines", claimTime=None, heartbeatTime=None, revocationTime=None)
    draft.next_deadline(None, "")


def _begin_release(course: _Course, reason: R) -> None:
    course.draft.status.pop("rejections", None)
    _mark_end(course.draft, reason)
    final = _final_reason(reason)
    course.notices.append(Notice(final, f"{reason.meaning}", warning=final != R.RELEASED))
    course.wakes.clear()
    if course.lease.force_release:
        _finish(course.draft, R.FORCED)
    elif course.policy.verifies_release and not _gone_from_nodes(course, since=None):
        due = course.now + course.policy.verification_timeout
        course.draft.say(C.RELEASED, False, R.VERIFICATION_PENDING, R.VERIFICATION_PENDING.meaning)
        course.draft.set_time("deadlines", verificationTime=due)
        course.draft.next_deadline(due, DeadlineCause.VERIFICATION)
        course.wake(due)
    else:
        _rest(course, R.NODE_GONE if _all_nodes_gone(course) else R.NOT_REQUIRED)


def _progress_release(course: _Course) -> None:
    lease, draft = course.lease, course.draft
    cooled_at = lease.deadline("cooldownTime")
    if lease.force_release:
        _finish(draft, R.FORCED)
    elif cooled_at is not None:
        if course.now >= cooled_at:
            verified = course.policy.verifies_release and not _all_nodes_gone(course)
            _finish(draft, R.VERIFIED if verified else R.NOT_REQUIRED)
        course.wake(cooled_at)
    elif _gone_from_nodes(course, since=lease.instant("release", "startTime")):
        _rest(course, R.NODE_GONE if _all_nodes_gone(course) else R.VERIFIED)
    else:
        _await_verification(course)


def _await_verification(course: _Course) -> None:
    due = course.lease.deadline("verificationTime")
    if due is None:
        due = course.now + course.policy.verification_timeout
        course.draft.set_time("deadlines", verificationTime=due)
    if course.now < due:
        course.wake(due)
        return
    silent = sorted({part.node for part in course.lease.slices})
    error = f"No word that the workload is gone from {', '.join(silent)}"[:240]
    if course.lease.reason(C.RELEASED) != R.QUARANTINED:
        course.notices.append(Notice(R.QUARANTINED, error, warning=True))
    course.draft.say(C.RELEASED, False, R.QUARANTINED, R.QUARANTINED.meaning)
    course.draft.put("release", lastError=error)
    course.draft.next_deadline(None, "")


def _rest(course: _Course, released: R) -> None:
    """Let the capacity rest for the pool's cool-down, then free it."""
    if not course.policy.cooldown:
        _finish(course.draft, released)
        return
    due = course.now + course.policy.cooldown
    course.draft.say(C.RELEASED, False, R.COOLING_DOWN, R.COOLING_DOWN.meaning)
    course.draft.set_time("deadlines", cooldownTime=due, verificationTime=None)
    course.draft.next_deadline(due, DeadlineCause.COOLDOWN)
    course.wake(due)


def _finish(draft: Draft, released: R) -> None:
    cause = draft.status.get("release", {}).get("cause", R.RELEASE_REQUESTED)
    draft.say(C.RELEASED, True, released)
    draft.say(C.FINISHED, True, _final_reason(cause))
    draft.set_time("deadlines", cooldownTime=None, verificationTime=None)
    draft.next_deadline(None, "")
    draft.set_time("release", finishTime=draft.now)


def _final_reason(cause: str) -> R:
    if cause == R.RELEASE_REQUESTED:
        return R.RELEASED
    return R.EXPIRED if cause in _EXPIRED else R.REVOKED


def _all_nodes_gone(course: _Course) -> bool:
    return all(part.node not in course.world.nodes for part in course.lease.slices)


def _gone_from_nodes(course: _Course, since: int | None) -> bool:
    """Tell whether every node that still exists said, after the release began, that the workload is gone."""
    uid = course.lease.uid
    for part in course.lease.slices:
        if part.node not in course.world.nodes:
            continue
        report = course.world.reports.get(part.node)
        if report is None or since is None or report.time <= since:
            return False
        seen = report.leases.get(uid)
        if seen is None or not seen.gone:
            return False
    return True
