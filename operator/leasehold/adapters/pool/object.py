"""The pool's own object: what it says, and every write of it. Each is a compare-and-swap.

`status.ledger` is what makes two operators safe: an epoch that only the latest leader has, a sequence that only grows,
and the commitments that are in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound, Refused, Unknown
from leasehold.adapters.pauses import Pauses
from leasehold.adapters.pool.complaints import Complaints
from leasehold.adapters.recorder import Subject
from leasehold.adapters.tools import Json, Tools
from leasehold.api.names import API_VERSION, POOL_KIND
from leasehold.core.booking import Entry
from leasehold.core.outages import Outage, joined
from leasehold.core.pool_status import ledger_document, outages_document
from leasehold.core.times import parse_time

POOL_FINALIZER = "leasehold.dev/drain"

log = logging.getLogger(__name__)


class Deposed(Exception):
    """This replica leads the pool no more: another raised the epoch, or its own right ran out. Its worker must end.

    No LeaseholdError, so that no handler of failed writes takes it for one.
    """


class Right(Protocol):
    """The right to lead a pool. It may run out between any two lines."""

    def valid(self) -> bool:
        """Tell whether the pool may still be written to."""
        ...

    def in_touch(self) -> bool:
        """Tell whether the API server answered lately."""
        ...


class PoolObject:
    """The pool's object as last seen, and the writes of its status.

    `epoch` is ours, 0 before the take-over. `settled` are the commitments that are finished and still stand in the
    ledger, and `outages_due` says that it does not name all `outages` yet. `due` says that something may have changed
    that the status tells; until `held_off_until` (ms) it is left alone, because somebody else writes it too. `failure`
    is why nothing more may be written. `dirty` is set when the worker must look.
    """

    def __init__(
        self,
        tools: Tools,
        document: Json,
        right: Right,
        absence: Outage | None,
        complaints: Complaints,
        pauses: Pauses,
        dirty: asyncio.Event,
    ) -> None:
        self.document = document
        self.name: str = document["metadata"]["name"]
        self.right = right
        self.epoch = 0
        self.sequence = 0
        self.taken_over = False
        self.settled: set[str] = set()
        self.outages: tuple[Outage, ...] = () if absence is None else (absence,)
        self.due = True
        self.held_off_until = 0
        self.failure: BaseException | None = None
        self.outages_due = bool(self.outages)
        self._swapping = False
        self._tools = tools
        self._complaints = complaints
        self._pauses = pauses
        self._dirty = dirty

    # --- what it says ---

    @property
    def uid(self) -> str:
        """The pool's uid: a pool made again under the same name is another pool."""
        return str(self.document["metadata"]["uid"])

    @property
    def generation(self) -> str:
        """Which spec of which pool this is."""
        return generation_of(self.document)

    @property
    def deleting(self) -> bool:
        """The pool is being deleted; it drains first."""
        return "deletionTimestamp" in self.document["metadata"]

    @property
    def status(self) -> Json:
        """The status, empty before the first write."""
        status: Json = self.document.get("status") or {}
        return status

    @property
    def ledger(self) -> Json:
        """The ledger, empty before the first take-over."""
        ledger: Json = self.status.get("ledger") or {}
        return ledger

    @property
    def subject(self) -> Subject:
        """The pool as Events name it."""
        return Subject(API_VERSION, POOL_KIND, "", self.name, self.uid)

    @property
    def in_flight(self) -> Iterable[Json]:
        """The commitments that the ledger names, ours and those that an earlier operator left."""
        return self.ledger.get("inFlight") or ()

    @property
    def paused(self) -> bool:
        """Writes of it failed; it is left alone for a while."""
        return self.name in self._pauses

    def pool_seen(self, document: Json) -> None:
        """Take in the pool's object, from a watch or an answer to our own write."""
        if int(document["metadata"]["resourceVersion"]) <= self._version():
            return
        changed = generation_of(document) != self.generation
        was_deleting = self.deleting
        foreign = (
            self.taken_over and not self._swapping and document.get("status") != self.document.get("status")
        )
        self.document = document
        self._read_ledger()
        if foreign and self.failure is None:
            self._foreign_write()
        if changed or self.deleting != was_deleting:
            self._dirty.set()

    def _version(self) -> int:
        return int(self.document["metadata"]["resourceVersion"])

    def _read_ledger(self) -> None:
        """Notice a higher epoch than ours, wherever it is seen first: another operator leads the pool now."""
        if not self.epoch:
            return
        ledger = self.ledger
        if ledger.get("epoch", 0) > self.epoch:
            self.overtaken(ledger["epoch"])
        self.sequence = max(self.sequence, ledger.get("sequence", 0))

    def _foreign_write(self) -> None:
        pause = self._complaints.foreign_write(self.subject)
        if pause:
            self.held_off_until = self._tools.clock.now() + pause
        self.due = True
        self._dirty.set()

    def outage_over(self, outage: Outage) -> None:
        """Take in that the API server answers again: silence meanwhile counts against nobody."""
        self.outages = joined((*self.outages, outage))
        self.outages_due = self.due = True
        self._dirty.set()

    # --- the right to write it ---

    def overtaken(self, epoch: int) -> None:
        """Take in that another replica leads the pool, with a higher epoch than ours."""
        self.fail(
            Deposed(
                f"pool {self.name} is led by epoch {epoch}, ours is {self.epoch}: another replica took over"
            )
        )

    def fail(self, why: BaseException) -> None:
        """Let nothing more be written, and the worker end."""
        self.failure = why
        self._dirty.set()

    def check(self) -> None:
        """Raise Deposed unless this replica leads the pool at this moment. The last thing before each write."""
        if self.failure is not None:
            raise self.failure
        if not self.right.valid():
            why = Deposed(f"the right to lead pool {self.name} ran out; nothing more is written")
            self.fail(why)
            raise why

    # --- the take-over, and the end ---

    async def raise_epoch(self) -> None:
        """Make the pool ours: from here on an older operator's commits fail. Raises ApiError when it did not happen.

        The pool is read just before, for what a watch told may be old, and an older operator that is still busy would
        be quicker each time.
        """
        self.pool_seen(await self._get())
        await self._ensure_finalizer()
        ledger = self.ledger
        patch: dict[str, Any] = {"epoch": ledger.get("epoch", 0) + 1, "sequence": ledger.get("sequence", 0)}
        told = self._join_outages(ledger)
        if self.outages_due:
            patch["outages"] = outages_document(told)
        self.document = await self._patch_pool({"ledger": patch})
        self.epoch, self.sequence = patch["epoch"], patch["sequence"]
        self.outages_due = told != self.outages

    def _join_outages(self, ledger: Json) -> tuple[Outage, ...]:
        """Join the outages that the pool remembers with those this replica knows of."""
        told = [
            Outage(parse_time(r["startTime"]), parse_time(r["endTime"])) for r in ledger.get("outages") or ()
        ]
        self.outages = joined((*told, *self.outages))
        return self.outages

    async def _ensure_finalizer(self) -> None:
        finalizers = list(self.document["metadata"].get("finalizers", ()))
        if POOL_FINALIZER in finalizers or self.deleting:
            return
        self.document = await self._patch_finalizers([*finalizers, POOL_FINALIZER])

    async def drop_finalizer(self) -> bool:
        """Let the deleted pool go; tell whether it is gone, or will be before anybody looks at it again."""
        kept = [name for name in self.document["metadata"].get("finalizers", ()) if name != POOL_FINALIZER]
        try:
            await self._patch_finalizers(kept)
        except NotFound:
            return True
        except ApiError as error:
            log.info("pool %s: %s", self.name, error, extra={"pool": self.name})
            await self.reread()
            self._dirty.set()
            return False
        return not kept

    async def _patch_finalizers(self, finalizers: list[str]) -> dict[str, Any]:
        self.check()
        meta = {"resourceVersion": str(self._version()), "finalizers": finalizers}
        return await self._tools.client.patch(paths.pool(self.name), {"metadata": meta})

    # --- the ledger ---

    async def swap_ledger(self, entries: list[Entry], committed: Iterable[Entry], **status: Any) -> bool:
        """Write the status in one compare-and-swap; tell whether it is known to have happened.

        New `entries` go in, those `committed` before stay until they are settled.
        """
        settled = frozenset(self.settled)
        kept = [entry for entry in committed if entry.uid not in settled]
        sequence = self.sequence + len(entries)
        ledger = ledger_document(self.epoch, sequence, [*kept, *entries])
        told = self.outages
        if self.outages_due:
            ledger["outages"] = outages_document(told)
        self._swapping = True
        try:
            self.pool_seen(await self._patch_pool({**status, "ledger": ledger}))
        except NotFound:
            return False
        except ApiError as error:
            if not await self._swapped_after_all(error, entries):
                self._dirty.set()
                return False
        finally:
            self._swapping = False
        self.sequence = max(self.sequence, sequence)
        self.outages_due = self.outages_due and told != self.outages
        self._pauses.worked(self.name)
        self.settled -= settled
        return True

    async def _swapped_after_all(self, error: ApiError, entries: list[Entry]) -> bool:
        """Find out whether a swap whose answer was an error happened; leave the pool alone for a while if not."""
        log.info("pool %s: %s", self.name, error, extra={"pool": self.name})
        self._complaints.failed(error)
        if isinstance(error, (Conflict, Unknown)):
            await self.reread()
        if isinstance(error, Unknown) and entries:
            return await self._out_of_doubt(entries)
        if not isinstance(error, Conflict):
            first = self._pauses.failed(self.name, self._tools.clock.now())
            if first and isinstance(error, Refused):
                self._complaints.refused(self.subject, error)
        return False

    async def _out_of_doubt(self, entries: list[Entry]) -> bool:
        """Wait until a commit whose answer was lost is known to have happened, or can never happen any more.

        It may be on its way still. So the pool is changed, by leaving out a number: the late commit finds another
        version then. Until that is done nothing is decided here.
        """
        pause = 0.1
        while True:
            written = {(row["uid"], row["sequence"]) for row in self.in_flight}
            if all((entry.uid, entry.sequence) in written for entry in entries):
                return True
            try:
                self.pool_seen(await self._patch_pool({"ledger": {"sequence": self.sequence + 1}}))
            except NotFound:
                return False
            except ApiError as error:
                self._complaints.failed(error)
                log.info("pool %s: %s", self.name, error, extra={"pool": self.name})
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
                await self.reread()
            else:
                return False

    async def _patch_pool(self, status: Mapping[str, Any]) -> dict[str, Any]:
        self.check()
        body = {"metadata": {"resourceVersion": str(self._version())}, "status": status}
        with self._tools.metrics.request("commit"):
            return await self._tools.client.patch(paths.status(paths.pool(self.name)), body)

    # --- looking at it ---

    async def reread(self) -> None:
        """Look the pool up after a conflict or a lost answer. A higher epoch than ours raises Deposed."""
        await self.until_done(self._reread_once, "reading the pool again")

    async def _reread_once(self) -> None:
        try:
            self.pool_seen(await self._get())
        except NotFound as gone:
            raise Deposed(f"pool {self.name} is gone") from gone
        if self.failure is not None:
            raise self.failure

    async def _get(self) -> dict[str, Any]:
        return await self._tools.client.get(paths.pool(self.name))

    async def until_done(self, work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        """Do something again and again until no request of it fails; what is not there raises NotFound at once."""
        pause = 0.1
        while True:
            try:
                return await work()
            except NotFound:
                raise
            except ApiError as error:
                log.warning("pool %s: %s: %s", self.name, what, error, extra={"pool": self.name})
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)


def generation_of(document: Json) -> str:
    """Return which spec of which pool a document has."""
    meta = document["metadata"]
    return f"{meta['uid']}/{meta.get('generation', 1)}"
