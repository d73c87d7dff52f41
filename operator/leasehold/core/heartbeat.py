"""What keeps a lease: its holder shows up, stays alive, and renews.

`spec.renewTime` is one request whenever its text changes; what the text says is never compared with a clock. A
session's heartbeat counts from the moment the operator saw it. So no two machines' clocks are ever compared. Time in
which nobody could be heard does not count against a holder (`core.outages`).
"""

from __future__ import annotations

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.api.names import Liveness
from leasehold.core.course import Concern, Course, Session, World
from leasehold.core.lease import Lease
from leasehold.core.outages import moved
from leasehold.core.policy import PoolPolicy
from leasehold.core.status import Draft
from leasehold.core.times import SECOND, format_time, parse_time


def expect_holder(draft: Draft, lease: Lease, policy: PoolPolicy, world: World, now: int) -> None:
    """Begin to watch over the holder of a lease that is granted, or whose liveness was just turned on."""
    if lease.liveness == Liveness.NONE and not policy.enforces:
        return
    if lease.liveness == Liveness.SESSION and session_is_live(lease, policy, world, now):
        draft.say(C.CLAIMED, True, R.SESSION_LIVE)
        draft.say(C.HOLDER_LIVE, True, R.FRESH)
        return
    _say_awaited(draft, lease)
    if policy.claim_timeout is not None:
        draft.set_time("deadlines", claimTime=now + policy.claim_timeout)


def _say_awaited(draft: Draft, lease: Lease) -> None:
    if lease.liveness == Liveness.NONE:
        draft.say(C.CLAIMED, False, R.WAITING_FOR_PODS, R.WAITING_FOR_PODS.meaning)
    else:
        draft.say(C.CLAIMED, False, R.WAITING_FOR_HOLDER)


def follow_liveness(course: Course) -> None:
    """Catch up with `spec.liveness`, which its holder may change while the lease is held."""
    lease, draft, now = course.lease, course.draft, course.now
    if lease.liveness == Liveness.NONE:
        draft.unsay(C.HOLDER_LIVE)
        draft.set_time("deadlines", heartbeatTime=None)
        if not course.policy.enforces:
            draft.unsay(C.CLAIMED)
            draft.set_time("deadlines", claimTime=None)
            return
    if C.CLAIMED not in draft.conditions:
        expect_holder(draft, lease, course.policy, course.world, now)
    elif draft.holds(C.CLAIMED, "False"):
        _say_awaited(draft, lease)
    elif draft.holds(C.CLAIMED) and draft.deadline("heartbeatTime") is None and _turns(course):
        draft.set_time("deadlines", heartbeatTime=now + course.policy.heartbeat_timeout)


def _turns(course: Course) -> bool:
    """Tell whether a holder that was claimed in another way is to be heard from now on, and has yet to begin."""
    if course.lease.liveness == Liveness.SESSION:
        live = session_is_live(course.lease, course.policy, course.world, course.now)
        return not live and C.HOLDER_LIVE not in course.draft.conditions
    return course.lease.liveness == Liveness.RENEW


def claim(course: Course) -> None:
    """Note that the holder showed up: by renewing, by its session, by a pod that was bound, or by a sub-lease."""
    lease, draft = course.lease, course.draft
    if draft.holds(C.CLAIMED):
        return
    if lease.liveness == Liveness.RENEW and renewal_asked(lease):
        draft.say(C.CLAIMED, True, R.HOLDER_RENEWED)
    elif lease.liveness != Liveness.SESSION and course.policy.enforces and (sign := _sign_of_use(course)):
        draft.say(C.CLAIMED, True, sign)
        if lease.liveness == Liveness.RENEW:
            draft.set_time("deadlines", heartbeatTime=course.now + course.policy.heartbeat_timeout)
    elif lease.liveness == Liveness.SESSION and session_is_live(
        lease, course.policy, course.world, course.now
    ):
        draft.say(C.CLAIMED, True, R.SESSION_LIVE)
    else:
        return
    draft.set_time("deadlines", claimTime=None)


def _sign_of_use(course: Course) -> R | None:
    """Return what shows that a lease is used where pods are to: one of its own, or a sub-lease, which has its pods."""
    if course.world.pods(course.lease).claimed:
        return R.POD_BOUND
    return R.CHILD_GRANTED if course.has_children else None


def unclaimed(course: Course) -> R | None:
    """End a lease nobody claimed. Its claim deadline was its holder's grace, so there is no other."""
    if course.lease.changes_hands:
        return None  # the deadlines of the holder before mean nothing any more, and the new one gets its own
    claim(course)
    awaited = course.draft.conditions.get(C.CLAIMED)  # since the grant, or since the handover to this holder
    deadline = course.draft.deadline("claimTime")
    if deadline is not None and awaited is not None:
        since = parse_time(awaited["lastTransitionTime"])
        deadline = _forgive(course, "claimTime", deadline, since, deadline)
    if deadline is None:
        return None
    if course.now >= deadline and _may_judge(course):
        course.due = deadline
        course.draft.say(C.CLAIMED, False, R.CLAIM_TIMEOUT, R.CLAIM_TIMEOUT.meaning)
        return R.CLAIM_TIMEOUT
    course.wake(deadline)
    return None


def heartbeat_lost(course: Course) -> R | None:
    """End a lease whose holder has been silent beyond its time-out and the pool's grace."""
    lease = course.lease
    if lease.liveness == Liveness.NONE or lease.changes_hands or not course.draft.holds(C.CLAIMED):
        return None
    missed = _missed_heartbeat(course)
    if missed is None:
        return None
    reason, since = missed
    gone_at = since + course.policy.grace
    if course.now >= gone_at and _may_judge(course):
        course.due = gone_at
        return R.HEARTBEAT_LOST
    course.heartbeat_missed = True
    course.losses.append(gone_at)
    course.draft.say(C.HOLDER_LIVE, False, reason, reason.meaning)
    course.draft.set_time("deadlines", heartbeatTime=since)
    text = f"No heartbeat since before {format_time(since)}; lost at {format_time(gone_at)}."
    course.concerns.append(Concern(gone_at, R.HEARTBEAT, text))
    course.wake(gone_at)
    return None


def _may_judge(course: Course) -> bool:
    """Tell whether silence means anything now: while the API server does not answer, nobody is heard."""
    if not course.world.in_touch:
        course.wake(course.now + SECOND)
    return course.world.in_touch


def _forgive(course: Course, name: str, deadline: int, since: int, end: int) -> int:
    """Move a deadline that has come by the outages before its `end`, and write it down; return what it is now.

    Written only then: most deadlines are overtaken by a heartbeat long before.
    """
    if course.now < deadline or not course.world.outages:
        return deadline
    before = course.draft.deadline("amnestyTime") or 0
    later = deadline + moved(end, since, course.world.outages, after=before) - end
    if later > deadline:
        last = course.world.outages[-1].end
        course.draft.set_time("deadlines", **{name: later}, amnestyTime=last)
    return later


def _missed_heartbeat(course: Course) -> tuple[R, int] | None:
    """Return why and since when the heartbeat is missing, or None while it is there."""
    lease, grace = course.lease, course.policy.grace
    stored = course.draft.deadline("heartbeatTime")
    if lease.liveness == Liveness.RENEW:
        if renewal_asked(lease) or stored is None:
            return None
        began = stored - course.policy.heartbeat_timeout
        stored = _forgive(course, "heartbeatTime", stored, began, stored + grace)
        course.wake(stored)
        return (R.MISSED, stored) if course.now >= stored else None
    session = course.world.sessions.get((lease.namespace, lease.session))
    if stored is not None:
        stored = _forgive(course, "heartbeatTime", stored, stored, stored + grace)
    due = course.now
    if session is not None:
        due = _session_deadline(session, course.policy)
        due += moved(due + grace, session.renewed_at, course.world.outages) - due - grace
        if course.now < due:
            course.wake(due)
            course.draft.set_time("deadlines", heartbeatTime=None, amnestyTime=None)
            return None
    if stored is not None and course.now < stored:
        course.wake(stored)  # so much time it was told to have before it turned to this session
        return None
    return R.SESSION_GONE if session is None else R.MISSED, due if stored is None else stored


def say_live(course: Course) -> None:
    """Say that the holder is alive, where it has shown up and its heartbeat is not missing."""
    if course.lease.liveness == Liveness.NONE or course.lease.changes_hands:
        return  # a pod claimed the lease, and nobody is asked for a heartbeat
    if course.draft.holds(C.CLAIMED) and not course.heartbeat_missed:
        course.draft.say(C.HOLDER_LIVE, True, R.FRESH)


def session_is_live(lease: Lease, policy: PoolPolicy, world: World, now: int) -> bool:
    """Tell whether the session a lease names exists and was renewed in time."""
    session = world.sessions.get((lease.namespace, lease.session))
    return session is not None and now < _session_deadline(session, policy)


def _session_deadline(session: Session, policy: PoolPolicy) -> int:
    """A session may ask for a shorter time-out than the pool's, never for a longer one."""
    timeout = policy.heartbeat_timeout
    return session.renewed_at + (min(session.duration, timeout) if session.duration else timeout)


def renewal_asked(lease: Lease) -> bool:
    """Any change of `spec.renewTime` is one request; what the text says is never trusted."""
    observed = lease.status.get("renewal", {}).get("observedRenewTime")
    return bool(lease.renew_time) and lease.renew_time != observed


def session_renews(course: Course, end: int) -> bool:
    """A live session renews the term by itself once two thirds of it are over: one write per term, however many
    heartbeats there are.
    """
    if not _session_asks(course):
        return False
    lease = course.lease
    most = _at_most(course)
    if most is not None and end >= most:
        return False
    due = end - course.policy.term_of(lease.duration) // 3
    course.wake(due)
    return course.now >= due


def _session_asks(course: Course) -> bool:
    lease = course.lease
    if lease.liveness != Liveness.SESSION or lease.changes_hands or not course.draft.holds(C.CLAIMED):
        return False
    return session_is_live(lease, course.policy, course.world, course.now)


def awaits_parent(course: Course) -> bool:
    """Tell whether a sub-lease is to be renewed whose parent's term is over, too: that one is decided about before.

    Until then its renewal would come to nothing. What is written to its parent has it looked at again.
    """
    end = None if course.parent is None else course.parent.deadline("expirationTime")
    if end is None or not course.policy.ends_leases or course.now < end + course.policy.grace:
        return False
    return renewal_asked(course.lease) or _session_asks(course)


def renewal_of(course: Course) -> int | None:
    """Return the end of the term that a renewal would start now, or None where nobody asks or none can be had.

    It reaches neither beyond the maximum nor into room that is promised to others; the pool says whether such a
    renewal is cut or refused.
    """
    lease = course.lease
    end = lease.deadline("expirationTime")
    if end is None or not (renewal_asked(lease) or session_renews(course, end)):
        return None
    most = _at_most(course)
    renewed = course.now + course.policy.term_of(lease.duration)
    if most is not None:
        renewed = min(renewed, most)
    if course.has_children:
        renewed = max(end, renewed)  # the ends of its sub-leases rest on it
    last = _last_end(course)
    if last is None or renewed <= last:
        return renewed
    # A promise that is due is expected from one instant to the next: no term reaches up to that.
    return last if course.policy.cuts_renewals and last > max(end, course.now + 1) else None


def _at_most(course: Course) -> int | None:
    """Return the latest end that any renewal reaches now: the maximum, and for a sub-lease its parent's end."""
    parent = course.parent
    ends = [course.lease.deadline("maxExpirationTime")]
    if parent is not None:
        ends.append(parent.deadline("expirationTime"))
    return min((end for end in ends if end is not None), default=None)


def _last_end(course: Course) -> int | None:
    """Return the latest end that leaves promised room in time, or None where none is promised."""
    limits = course.world.limits
    needed = None if limits is None else limits.latest(course.lease.uid)
    return None if needed is None else needed - course.policy.grace - course.policy.cooldown


def renew(course: Course) -> None:
    """Start a new term from now, by the operator's clock, never beyond the maximum or a promised start.

    A lease that is being taken away gets no new term, but its holder is still heard: if the cause goes away before
    the end, it must not be taken for dead.
    """
    lease, draft, now = course.lease, course.draft, course.now
    count = lease.status.get("renewal", {}).get("count", 0)
    if renewal_asked(lease):
        draft.put("renewal", count=count, observedRenewTime=lease.renew_time)
        if lease.liveness == Liveness.RENEW:
            draft.set_time("deadlines", heartbeatTime=now + course.policy.heartbeat_timeout, amnestyTime=None)
    if draft.holds(C.DISRUPTION_TARGET):
        return
    renewed = renewal_of(course)
    if renewed is not None:
        draft.put("renewal", count=count + 1, lastRenewTime=format_time(now))
        draft.set_time("deadlines", expirationTime=renewed)
        if course.world.limits is not None:
            course.world.limits.extend(lease.uid, renewed + course.policy.wind_down)
    _warn_of_promise(course)


def _warn_of_promise(course: Course) -> None:
    """Tell a holder who renews that the next term would run into a promised start."""
    end = course.draft.deadline("expirationTime")
    last = _last_end(course)
    if last is None or end is None or not (course.lease.renew_time or course.lease.session):
        return
    if course.now + course.policy.term_of(course.lease.duration) > last:
        text = f"It cannot be renewed beyond {format_time(max(last, end))}: the room is promised to another lease."
        course.concerns.append(Concern(end + course.policy.grace, R.PROMISED_START, text))
