"""Room that is being made for a waiting lease: kept until those who were asked to go for it are gone."""

from __future__ import annotations

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.core.calendar import Outlook
from leasehold.core.preemption import Preemption, room_left_by
from leasehold.core.request import NEVER
from leasehold.core.state import PoolState


def settle_holds(state: PoolState, now: int) -> None:
    """Move each hold to when the last of its victims will be gone; end those whose victims all are, in vain."""
    for uid, hold in list(state.holds.items()):
        hold.victims = {victim for victim in hold.victims if victim in state.calendar.held}
        promise = state.calendar.promises.get(uid)
        if not hold.victims or promise is None:
            state.end_hold(uid)
            continue
        leaving = [held for victim in hold.victims if (held := state.calendar.held[victim]).leaving]
        start = max([now + 1, *(held.until for held in leaving if held.until < NEVER)])
        if leaving and start != promise.start and start > now + 1:
            state.calendar.promise(promise._replace(start=start, end=start + promise.end - promise.start))
            state.queue.retell(uid)


def recover_holds(state: PoolState, now: int) -> None:
    """Keep room again for leases for which others were asked to go by an operator before this one."""
    victims: dict[str, set[str]] = {}
    reclaims = {}
    for lease in state.leases.values():
        preemptor = lease.status.get("revocation", {}).get("preemptorUID", "")
        if lease.allocated and not lease.releasing and preemptor in state.queue:
            victims.setdefault(preemptor, set()).add(lease.uid)
            reclaims[preemptor] = lease.reason(C.DISRUPTION_TARGET) == R.TENANT_RECLAIM
    for uid in sorted(victims, key=lambda uid: state.queue.requests[uid].turn):
        outlook = Outlook(state.table.scratch(), state.calendar, now)
        promise = room_left_by(outlook, state.queue.requests[uid], victims[uid])
        if promise is not None:
            state.begin_hold(Preemption(uid, tuple(sorted(victims[uid])), promise, reclaims[uid]))


def displaced(state: PoolState) -> dict[str, R]:
    """Return who is asked to go for others, and why."""
    return {
        victim: R.TENANT_RECLAIM if hold.reclaims else R.PREEMPTED
        for hold in state.holds.values()
        for victim in hold.victims
    }


def preemptors(state: PoolState) -> dict[str, str]:
    """Return the uid of the lease for which each of them is asked to go."""
    return {victim: uid for uid, hold in reversed(state.holds.items()) for victim in hold.victims}
