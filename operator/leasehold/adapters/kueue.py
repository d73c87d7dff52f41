"""Answers Kueue: hears of its Workloads, makes and gives back their leases, and writes what their check has come to.

Of a Workload and of an AdmissionCheck nothing is written but our own row of the status, by server-side apply, as
Kueue's own checks do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound, Refused
from leasehold.adapters.kube.informer import Informer
from leasehold.adapters.pauses import Pauses
from leasehold.api.names import KUEUE_WORKLOAD_LABEL
from leasehold.core.errors import LeaseholdError
from leasehold.core.kueue import (
    Check,
    Flavor,
    Plan,
    Terms,
    Workload,
    active_condition,
    answers_document,
    check_document,
    check_of,
    flavor_of,
    plan,
    refused,
    release_all,
    released_patch,
    terms_of,
    workload_of,
)
from leasehold.core.lease import Lease, lease_of

Json = Mapping[str, Any]

_LOOK_AGAIN_SECONDS = 2.0
"""Nobody tells of pools here."""

_REMEMBERED = 100

log = logging.getLogger(__name__)


class _Versioned(Protocol):
    @property
    def uid(self) -> str: ...

    @property
    def version(self) -> int: ...


class WorkloadLease(NamedTuple):
    """A lease that was made for a Workload, and the Workload's uid."""

    lease: Lease
    workload: str

    @property
    def uid(self) -> str:
        """The lease's uid."""
        return self.lease.uid

    @property
    def version(self) -> int:
        """The lease's version."""
        return self.lease.version


T = TypeVar("T", bound=_Versioned)


class Known(Generic[T]):
    """The objects of one kind as last heard, by uid: the audience of an informer. `changed` is told of each that came,
    changed or went.
    """

    def __init__(self, read: Callable[[Json], T], changed: Callable[[T], None]) -> None:
        self.by_uid: dict[str, T] = {}
        self._read = read
        self._changed = changed
        # An answer to our own write may come in after the watch said that the object is gone.
        self._gone: deque[str] = deque(maxlen=_REMEMBERED)

    def note(self, item: Json) -> tuple[str, T | None]:
        """Read an object; one that cannot be read is logged, and exists all the same."""
        meta = item["metadata"]
        try:
            return meta["uid"], self._read(item)
        except (LeaseholdError, KeyError, TypeError, ValueError) as error:
            log.error("%s/%s cannot be read: %s", meta.get("namespace", ""), meta["name"], error)
            return meta["uid"], None

    def seen(self, item: Json) -> None:
        """Take in an object, from the watch or from an answer to our own write."""
        self._take(self.note(item)[1])

    def gone(self, uid: str) -> None:
        """Take in that an object no longer exists."""
        self._gone.append(uid)
        known = self.by_uid.pop(uid, None)
        if known is not None:
            self._changed(known)

    def listed(self, items: list[tuple[str, T | None]], version: int) -> None:
        """Take in a complete list: what is not in it is gone, unless it was seen later."""
        here = {uid for uid, _ in items}
        for _, item in items:
            self._take(item)
        for uid, known in list(self.by_uid.items()):
            if uid not in here and known.version <= version:
                self.gone(uid)

    def changed(self, kind: str, item: dict[str, Any]) -> None:
        """Take in one change."""
        if kind == "DELETED":
            self.gone(item["metadata"]["uid"])
        else:
            self.seen(item)

    def _take(self, found: T | None) -> None:
        if found is None or found.uid in self._gone:
            return
        known = self.by_uid.get(found.uid)
        if known is None or known.version < found.version:
            self.by_uid[found.uid] = found
            self._changed(found)


class KueueBridge:
    """Answers the AdmissionChecks with our controllerName, for as long as it runs. `pools` says, by name, what each
    pool lends.
    """

    def __init__(
        self,
        client: KubeClient,
        clock: SteadyClock,
        pools: Callable[[], Mapping[str, tuple[str, ...]]],
        may_write: Callable[[], bool] = lambda: True,
        resync: int | None = None,
    ) -> None:
        self.client = client
        self.clock = clock
        self.pools = pools
        self.may_write = may_write
        self.pauses = Pauses()
        self.pause = _LOOK_AGAIN_SECONDS
        self.workloads: Known[Workload] = Known(workload_of, self._workload_changed)
        self.leases: Known[WorkloadLease] = Known(_lease_of, self._lease_changed)
        self.checks: Known[Check] = Known(check_of, lambda check: self._news.set())
        self.flavors: Known[Flavor] = Known(flavor_of, lambda flavor: self._mark(*self.workloads.by_uid))
        self._terms: dict[str, Terms] = {}
        self._leases_of: dict[str, dict[str, Lease]] = {}
        self._gone: set[str] = set()
        self._marked: set[str] = set()
        self._news = asyncio.Event()
        self._informers = {
            path: Informer(client, path, known, clock.now, label, resync=resync, read=known.note)
            for path, known, label in (
                (paths.WORKLOADS, self.workloads, ""),
                (paths.LEASES, self.leases, KUEUE_WORKLOAD_LABEL),
                (paths.ADMISSION_CHECKS, self.checks, ""),
                (paths.RESOURCE_FLAVORS, self.flavors, ""),
            )
        }

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as parts:
            # Workloads first: whatever one of them names is then in the lists that are made later.
            for informer in self._informers.values():
                parts.create_task(informer.run())
                await informer.synced.wait()
            while True:
                await self._pass()
                await self._sleep()

    def _mark(self, *uids: str) -> None:
        self._marked.update(uids)
        self._news.set()

    def _workload_changed(self, one: Workload) -> None:
        if one.uid not in self.workloads.by_uid:
            self._gone.add(one.uid)
        self._mark(one.uid)

    def _lease_changed(self, one: WorkloadLease) -> None:
        mine = self._leases_of.setdefault(one.workload, {})
        if one.uid in self.leases.by_uid:
            mine[one.uid] = one.lease
        else:
            mine.pop(one.uid, None)
        if not mine:
            del self._leases_of[one.workload]
        self._mark(one.workload)

    async def _sleep(self) -> None:
        at = self.pauses.next()
        until = self.pause if at is None else min(self.pause, max(0.0, (at - self.clock.now()) / 1000))
        try:
            async with asyncio.timeout(until):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    async def _pass(self) -> None:
        due = self.pauses.pop_due(self.clock.now()) - self.checks.by_uid.keys()
        await self._judge_checks()
        marked, self._marked = self._marked, set()
        for uid in sorted(marked | due):
            if uid not in self.pauses and self.may_write():
                await self._look_after(uid)

    async def _judge_checks(self) -> None:
        """Find out which pool each check means, and say whether it works."""
        pools, now = self.pools(), self.clock.now()
        ours = [check for check in self.checks.by_uid.values() if check.is_ours]
        terms = {check.name: terms_of(check, pools) for check in ours}
        if terms != self._terms:
            self._terms = terms
            self._mark(*self.workloads.by_uid)
        for check in ours:
            condition = active_condition(check, terms[check.name], now)
            if condition is None or check.uid in self.pauses or not self.may_write():
                continue
            path = paths.status(paths.admission_check(check.name))
            try:
                self.checks.seen(await self.client.apply(path, dict(check_document(check, condition))))
            except ApiError as error:
                if not isinstance(error, Conflict):  # mostly Kueue, which puts its finalizer there
                    log.warning("AdmissionCheck %s: %s", check.name, error, extra={"object": check.name})
                self.pauses.failed(check.uid, now)
            else:
                self.pauses.worked(check.uid)

    async def _look_after(self, uid: str) -> None:
        workload = self.workloads.by_uid.get(uid)
        leases = self._leases_of.get(uid, {}).values()
        try:
            if workload is None and uid in self._gone:
                await self._release(release_all(leases))
                self._gone.discard(uid)
            elif workload is not None:  # one that was not heard of yet may have leases all the same
                flavors = {flavor.name: flavor.labels for flavor in self.flavors.by_uid.values()}
                await self._carry_out(
                    workload, plan(workload, self._terms, leases, flavors, self.clock.now())
                )
        except (Conflict, NotFound):
            self.pauses.failed(uid, self.clock.now())  # the watch brings what is there by then
        except ApiError as error:
            name = f"{workload.namespace}/{workload.name}" if workload else uid
            log.warning("Workload %s: %s", name, error, extra={"object": name})
            self.pauses.failed(uid, self.clock.now())
        else:
            self.pauses.worked(uid)

    async def _carry_out(self, workload: Workload, found: Plan) -> None:
        if await self._is_there(workload, found.doubtful):
            return  # it was marked, and is looked at again
        for document in found.create:
            try:
                await self._create(workload, document)
            except Refused as error:
                for_good = error.code in (400, 422)
                why = refused(workload, self._terms, str(error), self.clock.now(), for_good=for_good)
                await self._answer(workload, why)
                raise
        await self._answer(workload, found)  # first, so that Kueue ends the pods in its own way
        await self._release(found)

    async def _is_there(self, workload: Workload, names: Iterable[str]) -> bool:
        """Look at the API server itself for leases that are taken for gone: the watch may be behind."""
        for name in names:
            with contextlib.suppress(NotFound):
                if await self._find(workload, name):
                    return True
        return False

    async def _find(self, workload: Workload, name: str) -> bool:
        """Read a lease, and take it in if it was made for the Workload."""
        document = await self.client.get(paths.lease(workload.namespace, name))
        if (document["metadata"].get("labels") or {}).get(KUEUE_WORKLOAD_LABEL) != workload.uid:
            return False
        self.leases.seen(document)
        return True

    async def _create(self, workload: Workload, document: Json) -> None:
        name = document["metadata"]["name"]
        try:
            self.leases.seen(await self.client.create(paths.lease(workload.namespace), dict(document)))
        except Conflict:  # mostly it was made before, and its answer got lost
            if not await self._find(workload, name):
                raise Refused(f"{name} exists, and is not of this Workload", 409) from None

    async def _release(self, found: Plan) -> None:
        for lease in found.release:
            path = paths.lease(lease.namespace, lease.name)
            try:
                self.leases.seen(await self.client.patch(path, dict(released_patch(lease))))
            except NotFound:
                self.leases.gone(lease.uid)

    async def _answer(self, workload: Workload, found: Plan) -> None:
        if not found.answers:
            return
        path = paths.status(paths.workload(workload.namespace, workload.name))
        document = answers_document(workload, found.answers)
        self.workloads.seen(await self.client.apply(path, dict(document)))
        name = f"{workload.namespace}/{workload.name}"
        for answer in found.answers:
            text = "Workload %s: %s is %s: %s"
            log.info(text, name, answer.check, answer.state, answer.message, extra={"object": name})


def _lease_of(document: Json) -> WorkloadLease:
    return WorkloadLease(lease_of(document), document["metadata"]["labels"][KUEUE_WORKLOAD_LABEL])
