"""The pool's status for people: written soon when they would notice, seldom when only figures drift."""

from __future__ import annotations

from leasehold.adapters.pool.memory import Memory
from leasehold.adapters.pool.object import PoolObject
from leasehold.adapters.tools import Json, Tools
from leasehold.core.course import Notice
from leasehold.core.pool_status import Facts, status_of
from leasehold.core.status import merge_patch
from leasehold.core.times import SECOND

_URGENT, _LAZY = SECOND // 4, 10 * SECOND
_GOOD = frozenset({"Ready", "CapacityKnown", "LedgerConsistent"})


class Publisher:
    """When the status was written last, and when it is to be written again."""

    def __init__(self, tools: Tools, pool: PoolObject, memory: Memory) -> None:
        self._tools = tools
        self._pool = pool
        self._memory = memory
        self._published_at = 0
        self._spacing = _URGENT
        self._drift_at: int | None = None

    def next(self, now: int) -> int | None:
        """Return when there is something to write (ms), or None."""
        if self._pool.paused:
            return None
        if self._pool.due or self._pool.settled:
            return max(now + 1, self._published_at + self._spacing, self._pool.held_off_until)
        return self._drift_at

    async def publish(self) -> None:
        """Write the pool's status when it moved, and with it what the ledger has yet to say."""
        pool, state = self._pool, self._memory.state
        now = self._tools.clock.now()
        if now < max(self._published_at + self._spacing, pool.held_off_until) or pool.paused:
            pool.due = True
            return
        before = pool.status
        facts = Facts(
            pool.document["metadata"].get("generation", 1),
            pool.deleting,
            self._memory.mismatches,
            self._memory.invalid,
            self._memory.unenforced,
        )
        draft = status_of(state, facts, before, now)
        patch = merge_patch(before, {**before, **draft})
        self._tools.metrics.pool(pool.name, state, draft)
        self._spacing = max(_URGENT, 20 * (self._tools.clock.now() - now))
        drifting = patch.keys() <= {"capacity"} and _same_holdings(before, draft)
        pool.due = False
        self._drift_at = None
        bound = self._behind()
        if not bound and not patch:
            return
        if not bound and drifting and now < self._published_at + _LAZY:
            self._drift_at = self._published_at + _LAZY
            return
        self._published_at = now
        for notice in _notices(before, draft):
            self._tools.recorder.note(pool.subject, notice)
        await pool.swap_ledger([], state.entries.values(), **patch)

    def _behind(self) -> bool:
        """Tell whether the ledger itself is: commitments are finished, or an outage was heard of that may count.

        Where nobody holds anything an outage waits for the next write, a grant's at the latest. The API server that
        was slow to answer would be the slower for a write to each of many pools, and that be the next outage.
        """
        state = self._memory.state
        return bool(self._pool.settled or (self._pool.outages_due and (state.ledger or state.entries)))


def _same_holdings(before: Json, after: Json) -> bool:
    def held(status: Json) -> dict[str, str]:
        return {row["name"]: row["allocated"] for row in status.get("capacity", ())}

    return held(before) == held(after)


def _notices(before: Json, after: Json) -> list[Notice]:
    """Return what Events tell of conditions that changed; a condition that is new is no news."""
    told = {c["type"]: c for c in before.get("conditions", ())}
    found = []
    for condition in after["conditions"]:
        was = told.get(condition["type"])
        if was is not None and was["status"] != condition["status"]:
            bad = (condition["status"] == "True") != (condition["type"] in _GOOD)
            text = condition["message"] or f"{condition['type']} is {condition['status']}"
            found.append(Notice(condition["reason"], text, warning=bad))
    return found
