"""What people must hear of when writes fail, or when somebody else writes what is the operator's alone."""

from __future__ import annotations

import logging

from leasehold.adapters.kube.errors import Refused
from leasehold.adapters.pauses import FIRST, Rivals
from leasehold.adapters.recorder import Subject
from leasehold.adapters.tools import Tools
from leasehold.api.names import API_VERSION, LEASE_KIND
from leasehold.core.course import Notice
from leasehold.core.errors import InvalidObject, LeaseholdError
from leasehold.core.lease import Lease

_FOREIGN = "Somebody else writes the status, which is the operator's alone. Find out who, and stop it."

log = logging.getLogger(__name__)


class Complaints:
    """Counts, logs and tells, for one pool."""

    def __init__(self, tools: Tools, pool: str) -> None:
        self._tools = tools
        self._pool = pool
        self._rivals = Rivals()

    def failed(self, error: LeaseholdError) -> None:
        """Count a write that failed."""
        metrics = self._tools.metrics
        counter = metrics.refusals if isinstance(error, (Refused, InvalidObject)) else metrics.conflicts
        counter.labels(pool=self._pool).inc()

    def refused(self, subject: Subject, error: LeaseholdError) -> None:
        """Tell that the API server refuses a write: without somebody's doing it always will."""
        log.error("%s %s: a write was refused: %s", subject.kind, subject.name, error, extra=self._about())
        self._tools.recorder.note(subject, Notice("WriteRefused", str(error)[:1000], warning=True))

    def foreign_write(self, subject: Subject) -> int:
        """Note that somebody else writes what is ours; return for how long to leave it alone (ms).

        It is corrected once, then less and less often: a fight helps nobody.
        """
        pause = self._rivals.seen(subject.uid, self._tools.clock.now())
        if pause:
            self._tools.metrics.foreign_writes.labels(pool=self._pool).inc()
        if pause == 2 * FIRST:
            log.warning("%s %s: %s", subject.kind, subject.name, _FOREIGN, extra=self._about())
            self._tools.recorder.note(subject, Notice("ForeignWrite", _FOREIGN, warning=True))
        return pause

    def _about(self) -> dict[str, str]:
        return {"pool": self._pool}


def subject_of(lease: Lease) -> Subject:
    """Return a lease as Events name it."""
    return Subject(API_VERSION, LEASE_KIND, lease.namespace, lease.name, lease.uid)
