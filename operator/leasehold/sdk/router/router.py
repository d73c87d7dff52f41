"""The router, as its users see it: checks requests, holds leases for the length of a block, and tries work again."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from leasehold.api.quantity import amount
from leasehold.core.times import SECOND
from leasehold.sdk import clock
from leasehold.sdk.errors import LeaseLost, Misuse
from leasehold.sdk.request import TaskWish, request_of
from leasehold.sdk.router.choosing import Mode, load, starts_now
from leasehold.sdk.router.circuit import CircuitRule, Step
from leasehold.sdk.router.dispatch import Dispatch
from leasehold.sdk.router.facts import Need, Task
from leasehold.sdk.router.jobs import Hook, Job, Offer, Outcome
from leasehold.sdk.router.line import Line, TaskClass
from leasehold.sdk.router.targets import Post, Target, TargetState
from leasehold.sdk.router.verdicts import Fault, of_loss, worth_another_try
from leasehold.sdk.values import Duration, seconds_of

if TYPE_CHECKING:
    from leasehold.sdk.asking import OnProgress
    from leasehold.sdk.lease import Lease, OnEnding, OnLost

T = TypeVar("T")

log = logging.getLogger(__name__)


class Router:
    """Gives tasks their leases: from the pool where they start first, within bounds, and elsewhere when a pool fails.

    Args:
        targets: where tasks may go. Their clients stay yours to open and close, around the router.
        mode: how to choose: "earliest" (start, then load), "least_loaded", "spread" or "sticky"; see `Mode`. A `sticky`
            key of a request counts in every mode.
        concurrency: how many tasks may ask for or hold a lease at once.
        classes: classes of tasks, with bounds and weights; those without a class are in one of their own, "".
        circuit: when a target that fails is left alone, and for how long.
        on_release: called after each lease with it and its `Outcome`, in the order given; may be coroutine functions.
            What they raise is logged and goes nowhere else.

    Use it in an `async with` block, in the event loop of its clients. At its end nobody waits any more; leases that are
    held stay so to the end of their own blocks.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        mode: Mode | str = Mode.EARLIEST,
        concurrency: int = 64,
        classes: Mapping[str, TaskClass] | None = None,
        circuit: CircuitRule | None = None,
        on_release: Sequence[Hook] = (),
    ) -> None:
        names = [target.label for target in targets]
        if not names:
            raise Misuse("A router needs a target.", 'Write: Router([Target(client, pool="ci")]).')
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Misuse(f"Several targets are called {twice[0]}.", "Give each a name: Target(…, name=…).")
        if mode not in set(Mode):
            raise Misuse(f"mode={mode!r} is not known.", f"Use one of {', '.join(Mode)}.")
        if concurrency < 1:
            raise Misuse(f"concurrency={concurrency!r}.", "Let at least 1 task hold a lease.")
        self.mode = Mode(mode)
        self.rule = circuit or CircuitRule()
        self._targets = tuple(targets)
        self._line = Line(concurrency, {"": TaskClass(), **(classes or {})})
        self._hooks = tuple(on_release)
        self._ids = count(1)
        self._opened: Dispatch | None = None

    # --- beginning and end ---

    async def __aenter__(self) -> Router:
        """Look at every target once, so that `targets()` has something to show. One that fails is no error."""
        if self._opened is not None:
            raise Misuse("A router can be opened once.", "Make a new one.")
        self._opened = Dispatch(self._targets, self._line, self.mode, self.rule)
        for post in self._opened.posts.values():
            self._opened.look(post)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: who waits gets Misuse, what was asked for is withdrawn, hooks that run come to their end."""
        await self._dispatch.close()

    @property
    def _dispatch(self) -> Dispatch:
        if self._opened is None:
            raise Misuse("The router is not open.", "Write: async with Router(…) as router: …")
        return self._opened

    # --- what users call ---

    @asynccontextmanager
    async def lease(
        self,
        *,
        timeout: Duration | None = None,
        sticky: str | None = None,
        task_class: str = "",
        key: str | None = None,
        on_progress: OnProgress = None,
        on_ending: OnEnding = None,
        on_lost: OnLost = None,
        **wish: Unpack[TaskWish],
    ) -> AsyncIterator[Lease]:
        """Have a lease from some target for the length of a block: `async with router.lease(cpu="2") as lease:`.

        `timeout` bounds the whole wait: for its turn, and in the pool's queue. `sticky` sends all of a key to one
        target, `task_class` names one of the router's classes. A `key` makes the request idempotent: after a crash the
        same key comes back to the lease it had, wherever that is; twice at once it is a KeyConflict. The callbacks are
        those of `Client.lease`.

        A target that fails is left for another, as long as there is one; what the request itself is to blame for is
        raised at once. Never more than one target is asked at a time.

        Raises: what `Client.lease` raises. Refused and Forbidden only once no target is left that may grant it.
        """
        async with self._held(
            self._job(wish, timeout, sticky, task_class, key, on_progress, on_ending, on_lost)
        ) as lease:
            yield lease

    async def run(
        self,
        work: Callable[[Lease], Awaitable[T]],
        *,
        retry: bool = False,
        attempts: int = 3,
        timeout: Duration | None = None,
        sticky: str | None = None,
        task_class: str = "",
        key: str | None = None,
        **wish: Unpack[TaskWish],
    ) -> T:
        """Run a coroutine function under a lease, and return what it returns. It is called with the lease.

        With `retry` it is run again, elsewhere if there is an elsewhere, when its lease was lost: only for work that
        may be done twice, in part. Between attempts there are pauses that grow and vary. Needs the extra `router`.

        Raises what `lease` raises, and what the work raises.
        """
        job = self._job(wish, timeout, sticky, task_class, key, None, None, None)
        if not retry:
            async with self._held(job) as lease:
                return await work(lease)
        return await self._retried(work, job, attempts, timeout)

    async def quote(self, **wish: Unpack[TaskWish]) -> list[Offer]:
        """Ask every target what it could do for a task now: the best first. Nothing is taken or kept."""
        job = self._job(wish, None, None, "", None, None, None, None)
        await self.refresh()
        posts = list(self._dispatch.posts.values())
        in_use = [post for post in posts if post.facts().usable(clock.now())]
        await asyncio.gather(
            *(
                self._dispatch.quoted(post, job.task.need, job.wish)
                for post in in_use
                if not starts_now(job.task.need, post.facts())
            )
        )
        now = clock.now()
        offers = [self._offer(post, job.task.need, now) for post in posts]
        return sorted(
            offers,
            key=lambda offer: (not offer.usable, offer.start_in is None, offer.start_in or 0.0, offer.load),
        )

    def targets(self) -> tuple[TargetState, ...]:
        """Return what is known of every target, for a status page. Nobody is asked; see `refresh`."""
        now = clock.now()
        return tuple(post.state(now) for post in self._dispatch.posts.values())

    async def refresh(self) -> tuple[TargetState, ...]:
        """Look at every target that is not being left alone, and return what is known then."""
        now = clock.now()
        looks = [
            self._dispatch.look(post) for post in self._dispatch.posts.values() if post.circuit.permits(now)
        ]
        if looks:
            await asyncio.wait(looks)
        return self.targets()

    @property
    def waiting(self) -> int:
        """How many tasks wait for their turn; those in a pool's queue are not among them."""
        return len(self._line)

    @property
    def under_way(self) -> int:
        """How many tasks ask for or hold a lease."""
        return self._line.under_way

    def why_waiting(self) -> tuple[str, ...]:
        """Say what those that wait for their turn wait for: each reason once."""
        return tuple(sorted({self._dispatch.why(task) for task in self._line.turns()}))

    # --- a request ---

    def _job(
        self,
        wish: Mapping[str, Any],
        timeout: Duration | None,
        sticky: str | None,
        task_class: str,
        key: str | None,
        on_progress: OnProgress,
        on_ending: OnEnding,
        on_lost: OnLost,
    ) -> Job:
        """Check a request. Raises Misuse."""
        dispatch = self._dispatch
        if dispatch.closed:
            raise dispatch.over()
        if asyncio.get_running_loop() is not dispatch.loop:
            raise Misuse("The router belongs to another event loop.", "Make one router in each loop.")
        if task_class not in self._line.classes:
            known = ", ".join(repr(name) for name in self._line.classes)
            raise Misuse(
                f"There is no class {task_class!r}.", f"Use one of {known}, or give it to the router."
            )
        for name in ("pool", "pool_selector", "name", "start", "start_within", "namespace"):
            if name in wish:
                raise Misuse(f"{name}= cannot be chosen here.", "The router does; or use Client.lease.")
        request = request_of(pool="any", **wish)
        units = tuple((name, amount(name, text)) for name, text in sorted(request.spec["resources"].items()))
        now = clock.now()
        return Job(
            task=Task(
                id=next(self._ids),
                need=Need(units, request.spec["count"], (request.digest,)),
                task_class=task_class,
                sticky=sticky,
            ),
            wish=dict(wish),
            key=key,
            deadline=None if timeout is None else now + int(seconds_of(timeout, "timeout") * SECOND),
            callbacks={"on_ending": on_ending, "on_lost": on_lost},
            on_progress=on_progress,
            asked=now,
            turn=dispatch.loop.create_future(),
        )

    @asynccontextmanager
    async def _held(self, job: Job) -> AsyncIterator[Lease]:
        """Hold a lease for the length of a block, and see what becomes of it."""
        lease, post = await self._dispatch.get(job)
        granted = clock.now()
        soon = self._dispatch.loop.call_later(self.rule.soon, self._kept, post, job.task.id)
        error: BaseException | None = None
        try:
            async with lease:
                yield lease
        except BaseException as raised:
            error = raised
            raise
        finally:
            soon.cancel()
            try:
                await lease.release()  # done already, unless it was lost before the block began
            finally:
                self._ended(job, post, lease, granted, error)

    def _kept(self, post: Post, task_id: int) -> None:
        post.proved(Step.HOLD, clock.now(), task_id)
        self._dispatch.kick()

    def _ended(self, job: Job, post: Post, lease: Lease, granted: int, error: BaseException | None) -> None:
        now = clock.now()
        over = lease.lost
        if isinstance(over, LeaseLost):
            verdict = of_loss(over, now - granted, self.rule)
            if verdict.fault is Fault.TARGET:
                self._dispatch.failed(post, verdict.step, str(over), job.task.id)
        elif over is None:
            post.proved(Step.HOLD, now, job.task.id)
        post.left(job.task.id)
        self._dispatch.leave(job)
        outcome = Outcome(
            target=post.name,
            task_class=job.task.task_class,
            waited=(granted - job.asked) / SECOND,
            held=(now - granted) / SECOND,
            error=over if over is not None and isinstance(error, asyncio.CancelledError) else error,
        )
        if self._hooks:
            self._dispatch.later(self._tell(lease, outcome))

    async def _tell(self, lease: Lease, outcome: Outcome) -> None:
        for hook in self._hooks:
            try:
                found = hook(lease, outcome)
                if inspect.isawaitable(found):
                    await found
            except Exception:
                log.exception("a release hook failed for lease %s", lease.name)

    async def _retried(
        self, work: Callable[[Lease], Awaitable[T]], job: Job, attempts: int, timeout: Duration | None
    ) -> T:
        try:
            import stamina
        except ImportError as error:
            raise Misuse("retry=True needs a library.", "pip install leasehold[router]") from error
        mine: list[Lease] = []

        def again(error: Exception) -> bool:
            return (
                isinstance(error, LeaseLost)
                and bool(mine)
                and error is mine[-1].lost
                and worth_another_try(error)
            )

        lost: frozenset[str] = frozenset()
        async for attempt in stamina.retry_context(on=again, attempts=attempts, timeout=None):
            with attempt:
                one = self._again(job, lost, timeout)
                async with self._held(one) as lease:
                    mine.append(lease)
                    lost |= {self._where(one)}
                    return await work(lease)
        raise AssertionError("stamina raises the last error")

    def _again(self, job: Job, avoid: frozenset[str], timeout: Duration | None) -> Job:
        """Return a request like another, for another attempt."""
        if self._dispatch.closed:
            raise self._dispatch.over()
        now = clock.now()
        return replace(
            job,
            task=replace(job.task, id=next(self._ids), avoid=avoid),
            asked=now,
            deadline=None if timeout is None else now + int(seconds_of(timeout, "timeout") * SECOND),
            turn=self._dispatch.loop.create_future(),
            back=asyncio.Event(),
        )

    def _where(self, job: Job) -> str:
        return job.turn.result().name

    def _offer(self, post: Post, need: Need, now: int) -> Offer:
        facts = post.facts()
        quote = facts.quotes.get(need)
        start = quote.start if quote is not None and quote.believed(now) else None
        if starts_now(need, facts):
            start = now
        return Offer(
            target=post.name,
            usable=facts.usable(now) and not facts.full,
            start_in=None if start is None else max(0, start - now) / SECOND,
            load=min(load(need, facts) // 10_000, 100),
        )
