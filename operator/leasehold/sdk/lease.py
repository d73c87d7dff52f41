"""A lease in the hands of its holder."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Protocol, TypeAlias

from leasehold.api.names import DesiredState, LeaseReason
from leasehold.api.names import LeaseCondition as C
from leasehold.sdk import holding
from leasehold.sdk.errors import REMEDIES, LeaseEnding, LeaseLost, LeaseOver, LostCause, Misuse
from leasehold.sdk.holding import Facts, OperatorClock, State, Verdict
from leasehold.sdk.request import Request
from leasehold.sdk.views import Ending, LeaseView, Slice, stamp

Json = dict[str, Any]

OnEnding: TypeAlias = Callable[[Ending], Awaitable[None] | None] | Literal["raise"] | None
OnLost: TypeAlias = Callable[[LeaseOver], Awaitable[None] | None] | None

_CAUSES: Final[dict[str, LostCause]] = {
    LeaseReason.TERM_ENDED: LostCause.EXPIRED,
    LeaseReason.MAXIMUM_REACHED: LostCause.EXPIRED,
    LeaseReason.HEARTBEAT_LOST: LostCause.NOT_RENEWED,
    LeaseReason.SESSION_GONE: LostCause.NOT_RENEWED,
    LeaseReason.CLAIM_TIMEOUT: LostCause.NOT_RENEWED,
    LeaseReason.RELEASE_REQUESTED: LostCause.DELETED,
}

_OURS: Final = frozenset({LostCause.NOT_RENEWED, LostCause.UNHEARD, LostCause.EXPIRED, LostCause.REVOKED})
"""After these the lease may still be there, and ours."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stamps:
    """What a lease's object says of its end, read once for each version of it. Times are the operator's (ms)."""

    end: int | None = None
    span: int = 1
    at_maximum: bool = False
    revoked: int | None = None
    notice: int = 0
    over: LostCause | None = None

    @classmethod
    def of(cls, view: LeaseView) -> Stamps:
        """Read them."""
        status = view.raw.get("status") or {}
        end = stamp(status, "deadlines", "expirationTime")
        began = stamp(status, "renewal", "lastRenewTime") or stamp(status, "allocation", "allocationTime")
        revoked = stamp(status, "deadlines", "revocationTime") if view.is_(C.DISRUPTION_TARGET) else None
        told = stamp(status, "revocation", "noticeTime")
        return cls(
            end=end,
            span=1 if end is None or began is None else max(1, end - began),
            at_maximum=end is not None and end == stamp(status, "deadlines", "maxExpirationTime"),
            revoked=revoked,
            notice=0 if revoked is None or told is None else revoked - told,
            over=_over_of(view),
        )


def _over_of(view: LeaseView) -> LostCause | None:
    if view.deleting:
        return LostCause.DELETED
    cause = ((view.raw.get("status") or {}).get("release") or {}).get("cause")
    if cause:
        return _CAUSES.get(cause, LostCause.REVOKED)
    if (view.raw.get("spec") or {}).get("desiredState") == DesiredState.RELEASED:
        return LostCause.DELETED
    return None if view.granted else LostCause.REVOKED


class _Terms(Protocol):
    @property
    def grace(self) -> int: ...
    @property
    def ends_leases(self) -> bool: ...


class Caretaker(Protocol):
    """What a lease needs of the one that looks after it."""

    namespace: str
    strict: bool

    @property
    def now(self) -> Callable[[], int]:
        """The holder's clock."""

    def check_loop(self) -> None:
        """Raise Misuse on another event loop."""

    def terms_of(self, pool: str | None) -> _Terms:
        """Return what is known of a pool."""

    def clock_of(self, pool: str | None) -> OperatorClock:
        """Return what is known of the clock of a pool's leader."""

    def heartbeat_of(self, lease: Lease) -> tuple[int | None, int | None]:
        """Return when the last heartbeat was sent, and how long it counts."""

    def holds(self, lease: Lease) -> bool:
        """Tell whether the lease's object names us as its holder."""

    def learn(self, lease: Lease) -> None:
        """Take in a new status."""

    def kick(self) -> None:
        """Let the clockwork look up."""

    def background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let something go on by itself."""

    async def renew(self, lease: Lease) -> None:
        """Ask for a new term."""

    async def release(self, lease: Lease) -> None:
        """Give it back."""

    def give_back(self, lease: Lease) -> asyncio.Task[Any]:
        """Begin to give it back."""

    async def hand_over(self, lease: Lease, holder: Json) -> bool:
        """Name another holder; tell whether it is."""

    def ask(self, **wish: Any) -> Any:
        """Ask for another lease in this namespace."""

    def forget(self, lease: Lease) -> None:
        """Look after it no more."""


class Lease:
    """Capacity that is held, kept alive in the background until it is released.

    Use it in an `async with` block: when it is lost, the block is cancelled and LeaseLost comes out of it, before the
    capacity can be given to somebody else. A lease from `Client.acquire` that is used in no block tells by `lost`,
    `check()`, `wait_lost()` and the callback `on_lost`.
    """

    def __init__(self, keeper: Caretaker, request: Request, on_ending: OnEnding, on_lost: OnLost) -> None:
        self.request = request
        self._keeper = keeper
        self._on_ending = on_ending
        self._on_lost = on_lost
        self.view: LeaseView | None = None
        self.stamps = Stamps()
        self.lost: LeaseOver | None = None
        self.changed = asyncio.Event()
        self.began_at = self.asked_at = keeper.now()
        self.granted_at: int | None = None
        self.asked_here = True
        self.taken: tuple[int, int | None] | None = None
        self.sent = False
        self.created = False
        self.created_at = 0
        self.uid = ""
        self.version = 0
        self.viewed = 0
        self.renewed_sent: int | None = None
        self.renewed_for: int | None = None
        self.renewals: dict[str, int] = {}
        self.last_renewed: int | None = None
        self.jitter = 0.9
        self.renewing = False
        self.giving_back: asyncio.Task[Any] | None = None
        self.renew_at: int | None = None
        self.gone = False
        self._token: int | None = None
        self._released = False
        self._handing_over = False
        self._ended = asyncio.Event()
        self._told_ending = ""
        self._body: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._interruption: LeaseOver | None = None

    def __repr__(self) -> str:
        """Name it, and say what it is."""
        return f"<Lease {self.namespace}/{self.name} {self._word()}>"

    def _word(self) -> str:
        if self.lost is not None:
            return "lost"
        if self._released:
            return "released"
        return "held" if self.granted_at is not None else "requested"

    # --- what it is ---

    @property
    def name(self) -> str:
        """The name of the CapacityLease."""
        return self.request.name

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self._keeper.namespace

    @property
    def key(self) -> str | None:
        """The key it was asked for with."""
        return self.request.key

    @property
    def pool(self) -> str:
        """The pool that gives it."""
        return self._seen().pool or self.request.pool or ""

    @property
    def token(self) -> int:
        """The fencing token: larger with every grant in the pool.

        Give it to what the lease protects; that refuses any token smaller than the largest it has seen.
        """
        self._seen()
        assert self._token is not None
        return self._token

    @property
    def slices(self) -> tuple[Slice, ...]:
        """What is held, and where."""
        return self._seen().slices

    @property
    def nodes(self) -> tuple[str, ...]:
        """The node of each slice."""
        return self._seen().nodes

    @property
    def held(self) -> bool:
        """Whether it may be used at this moment, by the holder's own clock. Never waits for anything."""
        return self.granted_at is not None and not self._released and self._verdict().state is not State.LOST

    def remaining(self) -> float:
        """Return for how many seconds it may be used if nothing more is heard; `inf` where nothing ends it.

        By the holder's own clock, and on the safe side. It grows again with every heartbeat.
        """
        if not self.held:
            return 0.0
        stop_at = self._verdict().stop_at
        return float("inf") if stop_at is None else max(0, stop_at - self._keeper.now()) / 1000

    def is_late(self, share: float) -> bool:
        """Tell whether the last heartbeat that is known to have arrived has served this share of its time."""
        sent, timeout = self._keeper.heartbeat_of(self)
        return timeout is not None and (sent is None or self._keeper.now() - sent > timeout * share)

    def check(self) -> None:
        """Raise LeaseLost if it must not be used any more. To be called before what cannot be taken back.

        It asks the clock itself, so it is right even where the event loop was blocked or the machine was suspended.
        """
        if self.lost is None and self.granted_at is not None and not self._released:
            self._judge(self._keeper.now())
        if self.lost is not None:
            raise self.lost
        if self._released or self.granted_at is None:
            raise Misuse(f"{self!r} is not held.", "Use it within its `async with` block.")

    async def wait_lost(self) -> LeaseOver | None:
        """Wait until it is lost, and return why; None when it was released instead."""
        await self._ended.wait()
        return self.lost

    def _seen(self) -> LeaseView:
        if self.view is None or self.granted_at is None:
            raise Misuse(f"{self!r} is not granted yet.", "Use it within its `async with` block.")
        return self.view

    # --- what the holder does ---

    async def renew(self) -> None:
        """Ask for a new term now, and wait until the API server has taken it in.

        Not needed: it is done in the background. Raises ServerUnavailable.
        """
        self.check()
        await self._keeper.renew(self)

    async def release(self) -> None:
        """Give it back. Safe to call again, and when it is lost."""
        self._keeper.check_loop()
        if not self._released:
            self._released = True
            self._ended.set()
            self.changed.set()
            await self._keeper.release(self)

    def sublease(self, **wish: Any) -> Any:
        """Ask for a part of this lease: `async with lease.sublease(cpu=1) as part:`.

        Arguments and errors are those of `Client.lease`, without a pool. A part has a fencing token and a term of its
        own, lies on the same nodes, and ends with this lease at the latest.
        """
        self.check()
        return self._keeper.ask(parent=self.name, **wish)

    async def hand_over(self, *, session: str | None = None, identity: str | None = None) -> None:
        """Give it to another holder, without a gap: the capacity stays where it is.

        `session` is that of the other client (`Client.session()`), which then gets it by `attach`, with a new fencing
        token. Without one the new holder has to renew the lease's object itself. Here it is over, as after a release.
        Raises ServerUnavailable, Forbidden and LeaseLost.
        """
        self.check()
        if session is None and identity is None:
            raise Misuse("Hand it over to whom?", "Give session= (of Client.session()), identity=, or both.")
        holder: Json = {"identity": identity or session}
        if session is not None:
            holder["sessionRef"] = {"name": session}
        self._handing_over = True
        try:
            went = await self._keeper.hand_over(self, holder)
        finally:
            self._handing_over = False
        if not went:
            self.check()  # it was lost before
        self._released = True
        self._ended.set()
        self.changed.set()
        self._keeper.forget(self)

    async def __aenter__(self) -> Lease:
        """Bind the block: it is cancelled when the lease is lost."""
        self._keeper.check_loop()
        if self._body is not None:
            raise Misuse(f"{self!r} is in use by another block.", "Use one block for each lease.")
        self.check()
        task = asyncio.current_task()
        assert task is not None
        self._body, self._cancelling = task, task.cancelling()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back, and turn the cancellation that a loss was into the error that says so."""
        task, self._body = self._body, None
        lost = None
        try:
            lost = await self._settle(task, kind) if task is not None else None
            if lost is None and kind is None:
                lost = self._lost_by_now()  # what the block did last may have come too late
        finally:
            await self.release()
        if lost is not None:
            raise lost from error

    async def _settle(self, task: asyncio.Task[Any], kind: type[BaseException] | None) -> LeaseOver | None:
        """Take back our own cancellation of the block; return what to raise in its place."""
        interruption, self._interruption = self._interruption, None
        if interruption is None:
            return None
        outer = task.uncancel() > self._cancelling
        if kind is None or not issubclass(kind, asyncio.CancelledError):
            # It may not have been delivered yet, and would hit the next thing that waits.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if outer or task.cancelling() > self._cancelling:
                    raise
            return interruption if kind is None else None
        return None if outer else interruption

    def _lost_by_now(self) -> LeaseOver | None:
        """Return why it is lost, by the clock: the event loop may have been blocked, so that nobody noticed."""
        if self.lost is None and self.granted_at is not None and not self._released:
            verdict = self._verdict()
            if verdict.state is State.LOST and verdict.cause is not None:
                self._lose(verdict.cause)
        return self.lost

    # --- what happens to it ---

    def _take(self, document: Json, sent: int | None) -> None:
        """Take in the lease's object. `sent` is when it was asked for, None where the watch told."""
        meta = document["metadata"]
        version = int(meta["resourceVersion"])
        if self.uid and meta["uid"] != self.uid:
            if version > self.version:  # else it is late news of the one that had the name before
                self._take_gone()
            return
        if sent is not None and version >= self.version:
            self.viewed = max(self.viewed, sent)
        if version <= self.version:
            return
        if not self.created:
            self.created, self.created_at = True, self._keeper.now()
        self.uid, self.version = meta["uid"], version
        self.view = LeaseView.of(document)
        self.stamps = Stamps.of(self.view)
        self._keeper.learn(self)
        self.changed.set()

    def _take_gone(self) -> None:
        """Take in that there is no such lease any more."""
        self.gone = True
        self.changed.set()

    def _hold(self, now: int) -> None:
        """It is granted: from now on it is looked after."""
        assert self.view is not None
        self.granted_at, self._token = now, self.view.token
        self.renew_at = None

    def _facts(self) -> Facts:
        """Return what is known of it."""
        keeper, view, stamps = self._keeper, self.view, self.stamps
        assert view is not None
        terms = keeper.terms_of(view.pool)
        clock = keeper.clock_of(view.pool)
        sent, timeout = keeper.heartbeat_of(self)
        term_ends = revoked_at = None
        if stamps.end is not None and terms.ends_leases:
            found = holding.end_of_term(clock, stamps.end, stamps.span)
            term_ends = self.viewed if found is None else found
        if stamps.revoked is not None:
            found = holding.end_of_term(clock, stamps.revoked, stamps.notice)
            revoked_at = self.viewed if found is None else found
        grace = terms.grace if keeper.strict else 0
        return Facts(sent, timeout, self.viewed, grace, term_ends, revoked_at, self._over(view))

    def _over(self, view: LeaseView) -> LostCause | None:
        if self.gone:
            return LostCause.DELETED
        if self.stamps.over is not None:
            return self.stamps.over
        if not self._keeper.holds(self):
            return LostCause.HANDED_OVER
        return LostCause.SUPERSEDED if view.token != self._token else None

    def _verdict(self) -> Verdict:
        """Return what it is at this moment."""
        now = self._keeper.now()
        if self.lost is not None:
            return Verdict(State.LOST, getattr(self.lost, "cause", None), now)
        return holding.judge(self._facts(), now)

    def _judge(self, now: int) -> Verdict:
        """Judge it, and act: tell that it ends, or that it is lost."""
        verdict = holding.judge(self._facts(), now)
        if verdict.state is State.LOST:
            assert verdict.cause is not None
            self._lose(verdict.cause)
        elif verdict.state is State.ENDING and verdict.stop_at is not None:
            self._tell_ending((verdict.stop_at - now) / 1000)
        else:
            self._told_ending = ""  # a notice that was taken back may be given again
        return verdict

    def _tell_ending(self, seconds: float) -> None:
        view = self.view
        assert view is not None
        reason = view.reason(C.DISRUPTION_TARGET)
        if reason == self._told_ending:
            return
        self._told_ending = reason
        message = view.message(C.DISRUPTION_TARGET)
        if self._on_ending == "raise":
            self._end(
                LeaseEnding(
                    f"Lease {self.name} is being taken back ({reason}) in {seconds:.0f} s: {message}",
                    "Finish what runs under it, and ask for a new one.",
                    name=self.name,
                    reason=reason,
                    seconds=seconds,
                )
            )
        elif self._on_ending is not None:
            self._tell(self._on_ending, Ending(self.name, reason, message, seconds))

    def _lose(self, cause: LostCause, why: str = "") -> None:
        """It must not be used from now on."""
        if self._handing_over and cause is LostCause.HANDED_OVER:
            return  # that it went is heard before the answer
        if self.lost is None and not self._released:
            text = f"Lease {self.name} is lost ({cause}){': ' if why else ''}{why or self._why(cause)}."
            self._end(LeaseLost(text, REMEDIES[cause], name=self.name, cause=cause, token=self._token))

    def _why(self, cause: LostCause) -> str:
        view = self.view
        if view is not None and cause in (LostCause.REVOKED, LostCause.EXPIRED) and not view.ready:
            return f": {view.reason()}. {view.message()}".rstrip(".")
        return ""

    def _end(self, over: LeaseOver) -> None:
        self.lost = over
        self._ended.set()
        self.changed.set()
        self._keeper.kick()
        if self._on_lost is not None:
            self._tell(self._on_lost, over)
        elif self._body is not None:
            self._interruption = over
            self._body.cancel(str(over))
            return
        if isinstance(over, LeaseLost) and over.cause in _OURS and self.granted_at is not None:
            # Nobody is at the end of a block to do it, and a session that lives would keep it.
            self._keeper.give_back(self)

    def _tell(self, callback: Callable[[Any], Any], what: Any) -> None:
        """Call back. What it raises is logged: it is called from where nobody could catch it."""
        try:
            found = callback(what)
        except Exception:
            log.exception("lease %s: the callback failed", self.name)
        else:
            if inspect.isawaitable(found):
                self._keeper.background(_awaited(found))


async def _awaited(found: Awaitable[Any]) -> None:
    try:
        await found
    except Exception:
        log.exception("a callback of a lease failed")
