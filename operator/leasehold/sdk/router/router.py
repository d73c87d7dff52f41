"""The router: has what it knows decided on, and does it. Nothing is decided here."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack

from leasehold.adapters.clock import SteadyClock
from leasehold.api.names import LeaseCondition
from leasehold.api.quantity import amount
from leasehold.core.times import SECOND
from leasehold.sdk import clock
from leasehold.sdk.errors import (
    Forbidden,
    LeaseholdError,
    LeaseLost,
    LeaseNotFound,
    Misuse,
    Refused,
    WaitTimeout,
)
from leasehold.sdk.request import Placement, name_of, request_of
from leasehold.sdk.router.choosing import Mode, load, starts_now
from leasehold.sdk.router.circuit import CircuitRule, Step
from leasehold.sdk.router.facts import Asking, Need, Quote, Task
from leasehold.sdk.router.line import Line, TaskClass
from leasehold.sdk.router.planning import plan
from leasehold.sdk.router.targets import Post, Target, TargetState
from leasehold.sdk.router.verdicts import (
    Fault,
    fits_nowhere,
    misconfigured,
    of_loss,
    of_request,
    serves,
    worth_another_try,
)
from leasehold.sdk.values import Duration, Quantity, seconds_of

if TYPE_CHECKING:
    from leasehold.sdk.asking import OnProgress
    from leasehold.sdk.lease import Lease, OnEnding, OnLost
    from leasehold.sdk.views import Progress

T = TypeVar("T")

_LOOK_SECONDS: Final = 10.0
_QUOTE_SECONDS: Final = 3.0
_HIDDEN: Final = 60_000
"""How long until a pool that may not be read is tried again (ms)."""
_WITHDRAW_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 15.0
_FIND_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


class TaskWish(TypedDict, total=False):
    """What a task may ask for: that of `Client.lease`, but for the pool, which is the router's to choose."""

    cpu: Quantity
    memory: Quantity
    disk: Quantity
    resources: Mapping[str, Quantity]
    count: int
    placement: str | Placement
    duration: Duration
    priority: int
    tenant: str
    liveness: str
    identity: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    defer: Duration
    keep: Duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task's lease ended.

    `waited` and `held` are seconds: from the request to the grant, and from then on. `error` is what came out of the
    block, None where it ended well; it is a LeaseLost where the lease was lost.
    """

    target: str
    task_class: str
    waited: float
    held: float
    error: BaseException | None = None

    @property
    def lost(self) -> bool:
        """Whether the lease was lost before it was given back."""
        return isinstance(self.error, LeaseLost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a target could do for a task now. Nothing is kept.

    `start_in` is in how many seconds it could start, None where that is not known; `load` is how full its pool would be
    with it, in hundredths.
    """

    target: str
    usable: bool
    start_in: float | None
    load: int


Hook = Callable[["Lease", Outcome], Awaitable[None] | None]


@dataclass(eq=False, slots=True)
class _Job:
    """One request, from its call to its end."""

    task: Task
    wish: dict[str, Any]
    key: str | None
    deadline: int | None
    callbacks: dict[str, Any]
    on_progress: OnProgress
    asked: int
    turn: asyncio.Future[Post]
    back: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: LeaseholdError | None = None
    heard: bool = False
    stuck: bool = False
    seen_off: asyncio.Task[None] | None = None


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
        self._posts = {target.label: Post(target, self.rule) for target in targets}
        self._line = Line(concurrency, {"": TaskClass(), **(classes or {})})
        self._hooks = tuple(on_release)
        self._ids = count(1)
        self._jobs: dict[int, _Job] = {}
        self._waits: dict[tuple[object, ...], str] = {}
        self._asked: set[tuple[str, Need]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._looks: set[asyncio.Task[None]] = set()
        self._pending_pass: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._chance = random.Random()
        self._wall = SteadyClock()

    # --- beginning and end ---

    async def __aenter__(self) -> Router:
        """Look at every target once, so that `targets()` has something to show. One that fails is no error."""
        if self._loop is not None:
            raise Misuse("A router can be opened once.", "Make a new one.")
        self._loop = asyncio.get_running_loop()
        for post in self._posts.values():
            self._look(post)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: who waits gets Misuse, what was asked for is withdrawn, hooks that run come to their end."""
        self._closed = True
        for job in list(self._jobs.values()):
            job.back.set()
            if not job.turn.done():
                job.turn.set_exception(self._over())
        for timer in (self._alarm, self._pending_pass):
            if timer is not None:
                timer.cancel()
        for task in self._looks:
            task.cancel()
        if self._background or self._looks:
            await asyncio.wait({*self._background, *self._looks}, timeout=_CLOSE_SECONDS)

    @staticmethod
    def _over() -> Misuse:
        return Misuse("The router was closed.", "Ask for leases within its `async with` block.")

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
        same key comes back to the lease it had, wherever that is. The callbacks are those of `Client.lease`.

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
        posts = list(self._posts.values())
        in_use = [post for post in posts if post.facts().usable(self._now())]
        await asyncio.gather(
            *(
                self._quoted(post, job.task.need, job.wish)
                for post in in_use
                if not starts_now(job.task.need, post.facts())
            )
        )
        now = self._now()
        offers = [self._offer(post, job.task.need, now) for post in posts]
        return sorted(
            offers,
            key=lambda offer: (not offer.usable, offer.start_in is None, offer.start_in or 0.0, offer.load),
        )

    def targets(self) -> tuple[TargetState, ...]:
        """Return what is known of every target, for a status page. Nobody is asked; see `refresh`."""
        now = self._now()
        return tuple(post.state(now) for post in self._posts.values())

    async def refresh(self) -> tuple[TargetState, ...]:
        """Look at every target that is not being left alone, and return what is known then."""
        now = self._now()
        looks = [self._look(post) for post in self._posts.values() if post.circuit.permits(now)]
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
        return tuple(sorted({self._why(task) for task in self._line.turns()}))

    # --- a request ---

    def _now(self) -> int:
        return clock.now()

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
    ) -> _Job:
        """Check a request. Raises Misuse."""
        if self._loop is None:
            raise Misuse("The router is not open.", "Write: async with Router(…) as router: …")
        if self._closed:
            raise self._over()
        if asyncio.get_running_loop() is not self._loop:
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
        now = self._now()
        return _Job(
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
            turn=self._loop.create_future(),
        )

    @asynccontextmanager
    async def _held(self, job: _Job) -> AsyncIterator[Lease]:
        """Hold a lease for the length of a block, and see what becomes of it."""
        lease, post = await self._get(job)
        granted = self._now()
        soon = self._loop_().call_later(self.rule.soon, self._kept, post, job.task.id)
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
        post.proved(Step.HOLD, self._now(), task_id)
        self._kick()

    def _ended(self, job: _Job, post: Post, lease: Lease, granted: int, error: BaseException | None) -> None:
        now = self._now()
        over = lease.lost
        if isinstance(over, LeaseLost):
            verdict = of_loss(over, now - granted, self.rule)
            if verdict.fault is Fault.TARGET:
                post.last_error = str(over)
                post.failed(verdict.step, now, self._chance.random(), job.task.id)
        elif over is None:
            post.proved(Step.HOLD, now, job.task.id)
        post.left(job.task.id)
        self._leave(job)
        outcome = Outcome(
            target=post.name,
            task_class=job.task.task_class,
            waited=(granted - job.asked) / SECOND,
            held=(now - granted) / SECOND,
            error=over if over is not None and isinstance(error, asyncio.CancelledError) else error,
        )
        if self._hooks:
            self._later(self._tell(lease, outcome))

    async def _tell(self, lease: Lease, outcome: Outcome) -> None:
        for hook in self._hooks:
            try:
                found = hook(lease, outcome)
                if inspect.isawaitable(found):
                    await found
            except Exception:
                log.exception("a release hook failed for lease %s", lease.name)

    async def _get(self, job: _Job) -> tuple[Lease, Post]:
        """Return a lease and where it is from. Whatever goes wrong, nothing stays behind."""
        if job.key is not None:
            await self._find(job)
        job.task = self._line.add(job.task)
        self._jobs[job.task.id] = job
        self._kick()
        try:
            while True:
                post = await self._turn(job)
                lease = await self._ask(job, post)
                if lease is not None:
                    return lease, post
        except BaseException:
            self._leave(job)
            raise

    def _leave(self, job: _Job) -> None:
        """Forget a request, wherever it is. While it is being withdrawn it counts."""
        self._jobs.pop(job.task.id, None)
        if job.seen_off is not None and not job.seen_off.done():
            job.seen_off.add_done_callback(lambda _: self._left_for_good(job))
        else:
            self._left_for_good(job)

    def _left_for_good(self, job: _Job) -> None:
        self._line.left(job.task)
        for post in self._posts.values():
            post.left(job.task.id)
        job.turn.cancel()
        self._kick()

    async def _turn(self, job: _Job) -> Post:
        """Wait until a target was chosen. Raises WaitTimeout, and the refusal of the last target that was left."""
        try:
            async with asyncio.timeout(self._left(job)):
                return await job.turn
        except TimeoutError:
            raise WaitTimeout(
                f"No target was chosen in time: {self._why(job.task)}.",
                "Wait longer, allow more tasks, or add a target.",
                reason="NoTarget",
            ) from job.refusal

    def _left(self, job: _Job) -> float | None:
        return None if job.deadline is None else max(0.0, (job.deadline - self._now()) / SECOND)

    def _why(self, task: Task) -> str:
        if self._line.full:
            return f"{self._line.limit} tasks are under way, as many as may be"
        if all(post.full for post in self._posts.values()):
            return "every target has as many tasks as it may have"
        return self._waits.get(task.kind, "it was not decided yet")

    async def _ask(self, job: _Job, post: Post) -> Lease | None:
        """Ask a target. None: it goes back into the line. Raises what the request is to blame for."""
        job.heard = job.stuck = False
        left = self._left(job)
        ask = self._loop_().create_task(self._acquire(job, post, left))
        back = self._loop_().create_task(job.back.wait())
        silence = self._loop_().call_later(self.rule.silence, self._fell_silent, job, post)
        try:
            await asyncio.wait({ask, back}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._withdraw(job, ask)  # even if it has just been granted: nobody will use it
            raise
        finally:
            silence.cancel()
            back.cancel()
        withdrawn = not ask.done()
        if withdrawn:
            await self._withdraw(job, ask)
        if withdrawn or ask.cancelled():
            post.left(job.task.id)
            here, task = {post.name} if job.stuck else set(), job.task
            # What has no node for it never will; where nobody answered, somebody may yet.
            self._back(
                job,
                replace(task, excluded=task.excluded | here)
                if job.heard
                else replace(task, avoid=task.avoid | here),
            )
            return None
        error = ask.exception()
        if error is not None:
            self._failed(job, post, error)
            return None
        post.granted(job.task, self._now())
        self._kick()
        return ask.result()

    async def _acquire(self, job: _Job, post: Post, left: float | None) -> Lease:
        target = post.target
        key = None if job.key is None else _key_at(job.key, post.name)
        wish = job.wish if key is None else {**job.wish, "key": key}
        if left is not None and left <= 0:
            raise WaitTimeout("There is no time left.", "Wait longer.", reason="NoTarget")
        return await target.client.acquire(
            pool=target.pool,
            namespace=target.namespace,
            timeout=left,
            on_progress=lambda progress: self._heard(job, post, progress),
            **job.callbacks,
            **wish,
        )

    async def _withdraw(self, job: _Job, ask: asyncio.Task[Lease]) -> None:
        """Take a request back. Nobody else is asked before it is; if its server is away, not for long."""
        ask.cancel()
        job.seen_off = self._later(self._see_off(ask))
        await asyncio.wait({job.seen_off}, timeout=_WITHDRAW_SECONDS)

    @staticmethod
    async def _see_off(ask: asyncio.Task[Lease]) -> None:
        """Wait until a request is withdrawn; a lease that came all the same is given back."""
        await asyncio.wait({ask})
        if not ask.cancelled() and ask.exception() is None:
            await ask.result().release()

    def _failed(self, job: _Job, post: Post, error: BaseException) -> None:
        """Judge why there is no lease. Raises it if that is the request's own fault."""
        facts = post.facts()
        verdict = of_request(error, healthy=facts.healthy)
        now = self._now()
        if verdict.fault is Fault.TARGET:
            post.last_error = str(error)
            post.failed(verdict.step, now, self._chance.random(), job.task.id)
        post.left(job.task.id)
        if verdict.fault is Fault.TASK:
            raise error
        log.info("%s gave no lease, trying elsewhere: %s", post.name, error)
        job.refusal = error if isinstance(error, LeaseholdError) else None
        out = {post.name} if verdict.excluded else set()
        self._back(job, replace(job.task, excluded=job.task.excluded | out))

    def _back(self, job: _Job, task: Task) -> None:
        """Put a request back into the line, at its old place."""
        if self._closed:
            raise self._over()
        job.task = task
        job.turn = self._loop_().create_future()
        job.back.clear()
        self._line.back(task)
        self._kick()

    def _heard(self, job: _Job, post: Post, progress: Progress) -> Awaitable[None] | None:
        if progress.reason:
            job.heard, job.stuck = True, fits_nowhere(progress.reason)
            if serves(progress.reason):
                post.proved(Step.ASK, self._now(), job.task.id)
            self._kick()
        return None if job.on_progress is None else job.on_progress(progress)

    def _fell_silent(self, job: _Job, post: Post) -> None:
        if not job.heard:
            job.stuck = True
            post.last_error = "A request was not answered. Does the operator run?"
            post.failed(Step.ASK, self._now(), self._chance.random(), job.task.id)
            self._kick()

    async def _find(self, job: _Job) -> None:
        """Look for the lease that a key has already: the request goes there and nowhere else."""

        async def has(post: Post) -> bool:
            name = name_of(None, _key_at(job.key or "", post.name), None)
            try:
                async with asyncio.timeout(_FIND_SECONDS):
                    view = await post.target.client.get(name, namespace=post.target.namespace)
            except LeaseNotFound:
                return False
            except (LeaseholdError, TimeoutError) as error:
                # Its holder is gone, so whatever is there ends with its session.
                log.warning("cannot look for key %s at %s: %s", job.key, post.name, error or "no answer")
                return False
            return not (view.finished or view.deleting or view.is_(LeaseCondition.DISRUPTION_TARGET))

        posts = list(self._posts.values())
        found = await asyncio.gather(*map(has, posts))
        if any(found):
            home = posts[found.index(True)].name
            job.task = replace(job.task, excluded=frozenset(self._posts) - {home})

    async def _retried(
        self, work: Callable[[Lease], Awaitable[T]], job: _Job, attempts: int, timeout: Duration | None
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

    def _again(self, job: _Job, avoid: frozenset[str], timeout: Duration | None) -> _Job:
        """Return a request like another, for another attempt."""
        if self._closed:
            raise self._over()
        now = self._now()
        return replace(
            job,
            task=replace(job.task, id=next(self._ids), avoid=avoid),
            asked=now,
            deadline=None if timeout is None else now + int(seconds_of(timeout, "timeout") * SECOND),
            turn=self._loop_().create_future(),
            back=asyncio.Event(),
        )

    def _where(self, job: _Job) -> str:
        return job.turn.result().name

    # --- the pass ---

    def _loop_(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None
        return self._loop

    def _kick(self) -> None:
        """Decide anew, once all that happens at this moment has happened."""
        if self._pending_pass is None and not self._closed:
            self._pending_pass = self._loop_().call_soon(self._pass)

    def _pass(self) -> None:
        self._pending_pass = None
        try:
            self._plan_and_act(self._now())
        except Exception as error:
            log.exception("the router cannot decide; please report this")
            for job in self._jobs.values():
                if not job.turn.done():
                    job.turn.set_exception(error)

    def _plan_and_act(self, now: int) -> None:
        facts = {name: post.facts() for name, post in self._posts.items()}
        asking = [
            Asking(task, post.name, since, self._jobs[task.id].stuck)
            for post in self._posts.values()
            for task, since in post.asking.values()
            if task.id in self._jobs and not self._jobs[task.id].back.is_set()
        ]
        found = plan(self._line, facts, self.mode, now, asking)
        self._waits = found.waits
        for task, start in found.starts:
            job, post = self._jobs[task.id], self._posts[start.target]
            if job.turn.done():
                continue  # it was cancelled, and is about to leave
            log.debug("task %d goes to %s: %s", task.id, start.target, start.why)
            self._line.started(task)
            post.started(task, now)
            job.turn.set_result(post)
        for task in found.moves:
            log.info("task %d is taken back: it is better off elsewhere", task.id)
            self._jobs[task.id].back.set()
        for task, why in found.gives_up:
            self._give_up(self._jobs[task.id], why)
        for name in found.looks:
            self._look(self._posts[name])
        for name, need in found.questions - self._asked:
            self._asked.add((name, need))
            self._later(self._question(self._posts[name], need), look=True)
        self._wake_at(found.wake_at, now)

    def _wake_at(self, at: int | None, now: int) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        if at is not None:
            self._alarm = self._loop_().call_later(max(0, at - now) / SECOND + 0.001, self._kick)

    def _give_up(self, job: _Job, why: str) -> None:
        if not job.turn.done():
            broken = next((post.broken for post in self._posts.values() if post.broken is not None), None)
            job.turn.set_exception(
                job.refusal
                or broken
                or Refused(f"No lease: {why}.", "Ask for less, or add a target.", reason="NoTarget")
            )

    def _later(self, work: Coroutine[Any, Any, None], *, look: bool = False) -> asyncio.Task[None]:
        """Let something go on by itself. The end of the router waits for it, unless it is only a look."""
        task = self._loop_().create_task(work)
        kept = self._looks if look else self._background
        kept.add(task)
        task.add_done_callback(kept.discard)
        return task

    # --- looks and questions ---

    def _look(self, post: Post) -> asyncio.Task[Any]:
        """Look at a pool, unless that is being done."""
        if post.look is None or post.look.done():
            post.looking = self._now()
            post.look = self._later(self._look_at(post), look=True)
        return post.look

    async def _look_at(self, post: Post) -> None:
        asked, target = self._now(), post.target
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                view = await target.client.availability(target.pool)
        except (Forbidden, Misuse) as error:  # whoever asks for a lease hears what is wrong
            post.hidden(str(error), self._now() + (_HIDDEN if isinstance(error, Forbidden) else 0))
        except (LeaseholdError, TimeoutError) as error:
            if isinstance(error, LeaseholdError) and misconfigured(error):
                post.out_of_order(error, self._now())
            else:
                post.missed(str(error) or "No answer in time.", self._now(), self._chance.random())
        else:
            post.saw(view, asked, self._now())
        finally:
            post.looking = None
            self._kick()

    async def _question(self, post: Post, need: Need) -> None:
        """Ask a pool when it could start a need that somebody waits with."""
        wish = next((job.wish for job in self._jobs.values() if job.task.need == need), {})
        try:
            await self._quoted(post, need, wish)
        finally:
            self._asked.discard((post.name, need))
            self._kick()

    async def _quoted(self, post: Post, need: Need, wish: dict[str, Any]) -> None:
        target, start = post.target, None
        try:
            found = await target.client.quote(
                timeout=_QUOTE_SECONDS, namespace=target.namespace, pool=target.pool, **wish
            )
        except LeaseholdError as error:
            log.debug("%s cannot say when it could start: %s", post.name, error)
        else:
            if found.start_time is not None:
                ahead = int(found.start_time.timestamp() * SECOND) - self._wall.now()
                start = self._now() + max(0, ahead)
        post.said(need, Quote(start, self._now()))

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


def _key_at(key: str, target: str) -> str:
    """Return what a key is called at one target: the same key may have been to several."""
    return f"{key}@{target}"
