"""From a wish to a lease that is held: create, wait, and make sure of it; or leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, TypeAlias

from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError, Busy, Conflict, NotFound, Unknown
from leasehold.api.names import (
    CLIENT_LABEL,
    REQUEST_ANNOTATION,
    DesiredState,
    LeaseMode,
    LeaseReason,
    Liveness,
)
from leasehold.api.names import LeaseCondition as C
from leasehold.core.times import SECOND
from leasehold.sdk import errors, holding
from leasehold.sdk.door import explained
from leasehold.sdk.errors import LostCause
from leasehold.sdk.holding import State
from leasehold.sdk.keeper import Keeper
from leasehold.sdk.lease import Lease
from leasehold.sdk.request import name_of
from leasehold.sdk.views import CounterOffer, LeaseView, Progress, Quote, quote_of, stamp

Json = dict[str, Any]

OnProgress: TypeAlias = Callable[[Progress], Awaitable[None] | None] | None

_TRIES: Final = 6
_SYNC_SECONDS: Final = 10.0
_OFFER_SECONDS: Final = 3.0
_PASSING: Final = frozenset({str(LeaseReason.QUEUE_FULL)})
"""Refusals that go away by themselves."""

_CHANCE: Final = random.Random()

log = logging.getLogger(__name__)


class PendingLease:
    """A request that was not sent yet: `async with` it, or `await` it."""

    def __init__(
        self, keeper: Keeper, lease: Lease, timeout: float | None, on_progress: OnProgress, attach: bool
    ) -> None:
        self._keeper = keeper
        self._lease = lease
        self._timeout = timeout
        self._on_progress = on_progress
        self._attach = attach
        self._used = False

    async def _acquire(self) -> Lease:
        if self._used:
            raise errors.Misuse(
                "This request was used already.", "Call client.lease(…) again for each lease you want."
            )
        self._used = True
        return await acquire(
            self._keeper,
            self._lease,
            timeout=self._timeout,
            on_progress=self._on_progress,
            attach=self._attach,
        )

    def __await__(self) -> Generator[Any, None, Lease]:
        """Return the lease once it is held. It is yours to release."""
        return self._acquire().__await__()

    async def __aenter__(self) -> Lease:
        """Wait until the lease is held, and bind the block."""
        lease = await self._acquire()
        try:
            return await lease.__aenter__()
        except BaseException:
            await lease.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        await self._lease.__aexit__(kind, error, trace)


async def acquire(
    keeper: Keeper, lease: Lease, *, timeout: float | None, on_progress: OnProgress, attach: bool = False
) -> Lease:
    """Return the lease once it is held. Whatever goes wrong, and wherever it is cancelled, it is withdrawn.

    With `attach` the lease is there already and is taken over; from then on it is ours to give back, too.
    """
    keeper.check_loop()
    if lease.name in keeper.leases:
        raise errors.KeyConflict(
            f"Lease {lease.name} is asked for or held by this client already.",
            "Use that one, or another key or name.",
        )
    keeper.leases[lease.name] = lease
    lease.began_at = keeper.now()
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            await _acquire(keeper, lease, on_progress, attach=attach)
    except BaseException as error:
        _observe(keeper, lease, error, expired=limit.expired())
        await keeper.release(lease)
        if isinstance(error, TimeoutError) and limit.expired():
            raise _too_late(lease, timeout, await _offer_instead(keeper, lease)) from error
        if isinstance(error, ApiError):
            raise explained(error, f"{'attach to' if attach else 'ask for'} lease {lease.name}") from error
        raise
    _observe(keeper, lease, None)
    return lease


def _observe(keeper: Keeper, lease: Lease, error: BaseException | None, *, expired: bool = False) -> None:
    if error is None:
        outcome = "Granted"
    elif expired:
        outcome = errors.WaitTimeout.__name__
    elif isinstance(error, asyncio.CancelledError):
        outcome = "Cancelled"
    else:
        outcome = type(explained(error, "") if isinstance(error, ApiError) else error).__name__
    pool = (lease.view.pool if lease.view is not None else None) or lease.request.pool or ""
    keeper.observers.waited(pool, outcome, (keeper.now() - lease.began_at) / SECOND)


async def _acquire(keeper: Keeper, lease: Lease, on_progress: OnProgress, *, attach: bool) -> None:
    await keeper.open()
    if lease.request.liveness == Liveness.SESSION:
        await keeper.freshen()
    await keeper.read_pool(lease.request.pool)
    await keeper.left(lease.name)
    if attach:
        _, document = await keeper.door.get(paths.lease(keeper.namespace, lease.name))
        await _take_over(keeper, lease, document)
    else:
        await _create(keeper, lease)
    await _granted(keeper, lease, on_progress)
    await _make_sure(keeper, lease)
    lease._hold(keeper.door.now())
    verdict = lease._judge(keeper.door.now())
    keeper.kick()
    if verdict.state is State.LOST:
        assert lease.lost is not None
        raise lease.lost


# --- asking ---


async def _create(keeper: Keeper, lease: Lease) -> None:
    document = lease.request.document(keeper.namespace, keeper.session, keeper.identity)
    path = paths.lease(keeper.namespace)
    lease.asked_at, lease.sent = keeper.door.now(), True
    pause, tries = 0.2, 0
    while True:
        _raise_if_over(lease)
        try:
            sent, answer = await keeper.door.create(path, document)
        except Conflict:
            if await _is_there(keeper, lease):
                return
            pause = min(pause * 1.5, 2.0)
        except (Unknown, Busy) as error:
            tries += 1
            if tries == _TRIES:
                raise
            log.warning("lease %s: %s; trying again", lease.name, error)
            pause = min(pause * 2, 5.0)
        else:
            lease._take(answer, sent)
            return
        await asyncio.sleep(pause * _CHANCE.uniform(0.5, 1.0))


async def _is_there(keeper: Keeper, lease: Lease) -> bool:
    """Tell whether the lease is there and ours: created by an attempt whose answer was lost, or of the same key.

    One that is over makes way for a new one.
    """
    request, path = lease.request, paths.lease(keeper.namespace, lease.name)
    try:
        sent, document = await keeper.door.get(path)
    except NotFound:
        return False
    meta, view = document["metadata"], LeaseView.of(document)
    ours = (meta.get("labels") or {}).get(CLIENT_LABEL) == keeper.session
    over = view.deleting or view.finished or _given_back(document)
    before = keeper.is_done(meta["uid"])  # it was held by this client once, and was given up
    if ours and not over and not before:
        lease._take(document, sent)
        return True
    if request.key is None and not (ours and over):
        lease.sent = False
        raise errors.KeyConflict(
            f"There is a lease {lease.name} already.", "Choose another name, or attach to it."
        )
    if view.deleting:
        return False
    if over:
        keeper.done(meta["uid"])
        await _forget_missing(keeper, path, meta["uid"])
        return False
    if (meta.get("annotations") or {}).get(REQUEST_ANNOTATION) != request.digest:
        lease.sent = False
        raise errors.KeyConflict(
            f"The key {request.key!r} belongs to lease {lease.name}, which was asked for with other wishes.",
            "Use another key, ask for the same, or release that lease first.",
        )
    await _take_over(keeper, lease, document)
    return True


def _given_back(document: Json) -> bool:
    found: bool = (document.get("spec") or {}).get("desiredState") == DesiredState.RELEASED
    return found


async def _forget_missing(keeper: Keeper, path: str, uid: str) -> None:
    with contextlib.suppress(NotFound, Conflict):
        await keeper.door.delete(path, uid)


async def _take_over(keeper: Keeper, lease: Lease, document: Json) -> None:
    """Become the holder of a lease that is there. Whoever held it gets to know, and its fencing token is worth less."""
    path = paths.lease(keeper.namespace, lease.name)
    lease.asked_here, lease.sent = False, False
    while True:
        view = LeaseView.of(document)
        if view.finished or view.deleting or _given_back(document):
            raise errors.LeaseLost(
                f"Lease {lease.name} is over ({view.phase or 'deleted'}).",
                "Ask for a new one.",
                name=lease.name,
                cause=LostCause.EXPIRED if view.finished else LostCause.DELETED,
            )
        meta = document["metadata"]
        body = {
            "metadata": {
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
                "labels": {CLIENT_LABEL: keeper.session},
            },
            "spec": {"holder": keeper.holder_of(lease), "liveness": lease.request.liveness},
        }
        try:
            sent, answer = await keeper.door.patch(path, body)
        except Conflict:
            _, document = await keeper.door.get(path)
            continue
        lease.sent, lease.taken = True, (sent, LeaseView.of(answer).token)
        lease._take(answer, sent)
        await keeper.read_pool(view.pool)
        return


# --- waiting ---


async def _granted(keeper: Keeper, lease: Lease, on_progress: OnProgress) -> None:
    """Wait until the lease is granted to us. Raises what ends the wait."""
    told: Any = None
    while True:
        lease.changed.clear()
        view = lease.view
        _raise_if_over(lease)
        if lease.gone or (view is not None and view.deleting):
            raise errors.LeaseLost(
                f"Lease {lease.name} was deleted by somebody.",
                "Ask again if it was not meant.",
                name=lease.name,
                cause=LostCause.DELETED,
            )
        if view is not None:
            _raise_refusal(lease, view)
            if view.granted and view.token is not None and keeper.holds(lease) and _token_is_ours(view):
                return
            stand = (view.reason(), view.queue_position, view.estimated_start)
            if on_progress is not None and stand != told:
                told = stand
                waited = (keeper.door.now() - lease.asked_at) / SECOND
                found = on_progress(Progress(view.reason(), view.message(), *stand[1:], waited, view))
                if inspect.isawaitable(found):
                    await found
        await lease.changed.wait()


def _raise_if_over(lease: Lease) -> None:
    """Raise where the client was closed, or the request was taken back by its name, while it waits."""
    if lease.lost is not None:
        raise lease.lost
    if lease._released:
        raise errors.LeaseLost(
            f"Lease {lease.name} was given back while it was waited for.",
            "Ask again if it was not meant.",
            name=lease.name,
            cause=LostCause.DELETED,
        )


def _token_is_ours(view: LeaseView) -> bool:
    """Tell whether the token is for the present holder: after a handover it is that of the former one for a moment."""
    status, spec = view.raw.get("status") or {}, view.raw.get("spec") or {}
    return "holder" not in status or status["holder"] == spec.get("holder", {})


def _raise_refusal(lease: Lease, view: LeaseView) -> None:
    if view.is_(C.ACCEPTED, "False") and view.reason(C.ACCEPTED) not in _PASSING:
        reason, message = view.reason(C.ACCEPTED), view.message(C.ACCEPTED)
        kind = errors.PoolNotFound if reason == LeaseReason.POOL_NOT_FOUND else errors.Refused
        text = f"Lease {lease.name} was refused ({reason}): {message}"
        raise kind(text, _offer(view), reason=reason)
    cause = ((view.raw.get("status") or {}).get("release") or {}).get("cause")
    if not cause:
        return
    if cause == LeaseReason.START_DEADLINE_EXCEEDED:
        raise errors.StartDeadlineExceeded(
            f"Lease {lease.name} was not granted before its start deadline.",
            _offer(view) or "Ask again, with more time or for less.",
            reason=cause,
            counter_offer=view.counter_offer,
            view=view,
        )
    raise errors.NotGranted(
        f"Lease {lease.name} was not granted: {view.message()}", _offer(view), reason=cause, view=view
    )


def _offer(view: LeaseView) -> str:
    return "" if view.counter_offer is None else f"But {view.counter_offer}."


def _too_late(lease: Lease, timeout: float | None, offer: CounterOffer | None) -> errors.LeaseholdError:
    view = lease.view
    if view is None:
        return errors.WaitTimeout(
            f"Lease {lease.name} could not be asked for within {timeout:g} s.",
            "Is the API server within reach? Wait longer.",
            reason="NoAnswer",
        )
    reason = view.reason() or "NotSeen"
    why = view.message() or "The operator has not seen it yet. Does it run?"
    place = f" It was about number {view.queue_position} in the queue." if view.queue_position else ""
    return errors.WaitTimeout(
        f"Lease {lease.name} was not granted within {timeout:g} s ({reason}): {why}{place}",
        "Wait longer, or ask for less." if offer is None else f"But {offer}.",
        reason=reason,
        position=view.queue_position,
        counter_offer=offer,
        view=view,
    )


async def ask_quote(keeper: Keeper, lease: Lease, seconds: float) -> Quote:
    """Return the answer to a request of mode DryRun, and remove it. Raises ApiError and TimeoutError."""
    keeper.leases[lease.name] = lease
    try:
        async with asyncio.timeout(seconds):
            await keeper.open()
            lease.sent = True
            document = lease.request.document(keeper.namespace, keeper.session, keeper.identity)
            sent, answer = await keeper.door.create(paths.lease(keeper.namespace), document)
            lease._take(answer, sent)
            while not (lease.view is not None and _is_answered(lease.view)):
                lease.changed.clear()
                await lease.changed.wait()
            return quote_of(lease.view)
    finally:
        await keeper.release(lease)


def _is_answered(view: LeaseView) -> bool:
    return view.finished or view.is_(C.ACCEPTED, "False") or "quote" in (view.raw.get("status") or {})


async def _offer_instead(keeper: Keeper, lease: Lease) -> CounterOffer | None:
    """Ask what could be had instead of what was not granted in time; None where that cannot be told at once."""
    view, request = lease.view, lease.request
    if view is None or view.is_(C.ACCEPTED, "False") or not view.reason() or "startTime" in request.spec:
        return None
    spec = {**request.spec, "mode": str(LeaseMode.DRY_RUN), "ttlSecondsAfterFinished": 60}
    asked = replace(
        request, name=name_of(None, None, "quote"), spec=spec, liveness=str(Liveness.NONE), key=None
    )
    try:
        return (await ask_quote(keeper, Lease(keeper, asked, None, None), _OFFER_SECONDS)).counter_offer
    except (ApiError, TimeoutError):
        return None


# --- making sure ---


async def _make_sure(keeper: Keeper, lease: Lease) -> None:
    """Have everything confirmed that the deadlines count from."""
    view = lease.view
    assert view is not None
    terms = await keeper.read_pool(view.pool)
    if lease.request.liveness == Liveness.SESSION:
        # The pool may ask for more heartbeats than a client that held nothing has sent.
        await keeper.beat_where(lambda: lease.is_late(0.5))
    if lease.request.liveness == Liveness.RENEW or (terms.ends_leases and _is_loose(keeper, lease, view)):
        await _renew_and_hear(keeper, lease)
    usable = keeper.strict and terms.grace >= holding.USABLE_GRACE
    if usable and keeper.door.now() - lease.viewed > terms.grace // 3:
        await keeper.read(lease)


def _is_loose(keeper: Keeper, lease: Lease, view: LeaseView) -> bool:
    """Tell whether too little is known of the operator's clock to say when the term ends."""
    status = view.raw.get("status") or {}
    end = stamp(status, "deadlines", "expirationTime")
    began = stamp(status, "renewal", "lastRenewTime") or stamp(status, "allocation", "allocationTime")
    if end is None or began is None:
        return False
    loose = keeper.clock_of(view.pool).loose_by(began, keeper.door.now())
    return loose is None or loose > max(SECOND, (end - began) // 20)


async def _renew_and_hear(keeper: Keeper, lease: Lease) -> None:
    """Renew, and wait until the operator has seen it: its answer tells of its clock."""
    text = await keeper.renew_once(lease)
    try:
        async with asyncio.timeout(_SYNC_SECONDS):
            while text in lease.renewals and not lease.gone:
                lease.changed.clear()
                await lease.changed.wait()
    except TimeoutError:
        log.warning("lease %s: the operator has not seen its renewal within %g s", lease.name, _SYNC_SECONDS)
