"""Has what is known decided on, and does it: asks targets for leases, takes requests back, looks at pools.

Nothing is decided here. Every change of what is known leads to one pass through `planning`, once all that happens at
that moment has happened.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from leasehold.adapters.clock import SteadyClock
from leasehold.api.names import LeaseCondition
from leasehold.core.times import SECOND
from leasehold.sdk import clock
from leasehold.sdk.errors import (
    Forbidden,
    KeyConflict,
    LeaseholdError,
    LeaseNotFound,
    Misuse,
    Refused,
    WaitTimeout,
)
from leasehold.sdk.request import name_of
from leasehold.sdk.router.choosing import Mode
from leasehold.sdk.router.circuit import CircuitRule, Step
from leasehold.sdk.router.facts import Asking, Need, Quote, Task
from leasehold.sdk.router.jobs import Job
from leasehold.sdk.router.line import Line
from leasehold.sdk.router.planning import plan
from leasehold.sdk.router.targets import Post, Target
from leasehold.sdk.router.verdicts import Fault, fits_nowhere, misconfigured, of_request, serves

if TYPE_CHECKING:
    from leasehold.sdk.lease import Lease
    from leasehold.sdk.views import PoolView, Progress

_LOOK_SECONDS: Final = 10.0
_QUOTE_SECONDS: Final = 3.0
_HIDDEN: Final = 60_000
"""How long until a pool that may not be read is tried again (ms)."""
_WITHDRAW_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 15.0
_FIND_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


class Dispatch:
    """All requests of one router, and its targets."""

    def __init__(self, targets: Sequence[Target], line: Line, mode: Mode, rule: CircuitRule) -> None:
        self.loop = asyncio.get_running_loop()
        self.line = line
        self.mode = mode
        self.rule = rule
        self.posts = {target.label: Post(target, rule) for target in targets}
        self.closed = False
        self._jobs: dict[int, Job] = {}
        self._waits: dict[tuple[object, ...], str] = {}
        self._keys: set[str] = set()
        self._asked: set[tuple[str, Need]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._looks: set[asyncio.Task[None]] = set()
        self._pending_pass: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._chance = random.Random()
        self._wall = SteadyClock()

    async def close(self) -> None:
        """End all waits, withdraw what was asked for, let hooks that run come to their end."""
        self.closed = True
        for job in list(self._jobs.values()):
            job.back.set()
            if not job.turn.done():
                job.turn.set_exception(self.over())
        for timer in (self._alarm, self._pending_pass):
            if timer is not None:
                timer.cancel()
        for task in self._looks:
            task.cancel()
        if self._background or self._looks:
            await asyncio.wait({*self._background, *self._looks}, timeout=_CLOSE_SECONDS)

    @staticmethod
    def over() -> Misuse:
        """Return what is raised once the router is closed."""
        return Misuse("The router was closed.", "Ask for leases within its `async with` block.")

    @staticmethod
    def now() -> int:
        """Return the time, in ms."""
        return clock.now()

    def failed(self, post: Post, step: Step, error: str, task_id: int) -> None:
        """Note that a target failed."""
        post.last_error = error
        post.failed(step, self.now(), self._chance.random(), task_id)

    # --- a request ---

    async def get(self, job: Job) -> tuple[Lease, Post]:
        """Return a lease and where it is from. Whatever goes wrong, nothing stays behind."""
        if job.key in self._keys:
            raise KeyConflict(
                f"The key {job.key!r} is asked for or held by this router already.",
                "Wait until it is given back, or use another key.",
            )
        try:
            if job.key is not None:
                self._keys.add(job.key)
                await self._find(job)
            if self.closed:
                raise self.over()
            job.task = self.line.add(job.task)
            self._jobs[job.task.id] = job
            self.kick()
            while True:
                post = await self._turn(job)
                lease = await self._ask(job, post)
                if lease is not None:
                    return lease, post
        except BaseException:
            self.leave(job)
            raise

    def leave(self, job: Job) -> None:
        """Forget a request, wherever it is. While it is being withdrawn it counts."""
        self._jobs.pop(job.task.id, None)
        if job.key is not None:
            self._keys.discard(job.key)
        if job.seen_off is not None and not job.seen_off.done():
            job.seen_off.add_done_callback(lambda _: self._left_for_good(job))
        else:
            self._left_for_good(job)

    def _left_for_good(self, job: Job) -> None:
        self.line.left(job.task)
        for post in self.posts.values():
            post.left(job.task.id)
        job.turn.cancel()
        self.kick()

    async def _turn(self, job: Job) -> Post:
        """Wait until a target was chosen. Raises WaitTimeout, and the refusal of the last target that was left."""
        try:
            async with asyncio.timeout(self._left(job)):
                return await job.turn
        except TimeoutError:
            raise WaitTimeout(
                f"No target was chosen in time: {self.why(job.task)}.",
                "Wait longer, allow more tasks, or add a target.",
                reason="NoTarget",
            ) from job.refusal

    def _left(self, job: Job) -> float | None:
        return None if job.deadline is None else max(0.0, (job.deadline - self.now()) / SECOND)

    def why(self, task: Task) -> str:
        """Say what a task that waits for its turn waits for."""
        if self.line.full:
            return f"{self.line.limit} tasks are under way, as many as may be"
        if all(post.full for post in self.posts.values()):
            return "every target has as many tasks as it may have"
        return self._waits.get(task.kind, "it was not decided yet")

    async def _ask(self, job: Job, post: Post) -> Lease | None:
        """Ask a target. None: it goes back into the line. Raises what the request is to blame for."""
        job.heard = job.stuck = False
        left = self._left(job)
        ask = self.loop.create_task(self._acquire(job, post, left))
        back = self.loop.create_task(job.back.wait())
        silence = self.loop.call_later(self.rule.silence, self._fell_silent, job, post)
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
        post.granted(job.task, self.now())
        self.kick()
        return ask.result()

    async def _acquire(self, job: Job, post: Post, left: float | None) -> Lease:
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

    async def _withdraw(self, job: Job, ask: asyncio.Task[Lease]) -> None:
        """Take a request back. Nobody else is asked before it is; if its server is away, not for long."""
        ask.cancel()
        job.seen_off = self.later(self._see_off(ask))
        await asyncio.wait({job.seen_off}, timeout=_WITHDRAW_SECONDS)

    @staticmethod
    async def _see_off(ask: asyncio.Task[Lease]) -> None:
        """Wait until a request is withdrawn; a lease that came all the same is given back."""
        await asyncio.wait({ask})
        if not ask.cancelled() and ask.exception() is None:
            await ask.result().release()

    def _failed(self, job: Job, post: Post, error: BaseException) -> None:
        """Judge why there is no lease. Raises it if that is the request's own fault."""
        facts = post.facts()
        verdict = of_request(error, healthy=facts.healthy)
        if verdict.fault is Fault.TARGET:
            self.failed(post, verdict.step, str(error), job.task.id)
        post.left(job.task.id)
        if verdict.fault is Fault.TASK:
            raise error
        log.info("%s gave no lease, trying elsewhere: %s", post.name, error)
        job.refusal = error if isinstance(error, LeaseholdError) else None
        out = {post.name} if verdict.excluded else set()
        self._back(job, replace(job.task, excluded=job.task.excluded | out))

    def _back(self, job: Job, task: Task) -> None:
        """Put a request back into the line, at its old place."""
        if self.closed:
            raise self.over()
        job.task = task
        job.turn = self.loop.create_future()
        job.back.clear()
        self.line.back(task)
        self.kick()

    def _heard(self, job: Job, post: Post, progress: Progress) -> Awaitable[None] | None:
        if progress.reason:
            job.heard, job.stuck = True, fits_nowhere(progress.reason)
            if serves(progress.reason):
                post.proved(Step.ASK, self.now(), job.task.id)
            self.kick()
        return None if job.on_progress is None else job.on_progress(progress)

    def _fell_silent(self, job: Job, post: Post) -> None:
        if not job.heard:
            job.stuck = True
            self.failed(post, Step.ASK, "A request was not answered. Does the operator run?", job.task.id)
            self.kick()

    async def _find(self, job: Job) -> None:
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

        posts = list(self.posts.values())
        found = await asyncio.gather(*map(has, posts))
        if any(found):
            home = posts[found.index(True)].name
            job.task = replace(job.task, excluded=frozenset(self.posts) - {home})

    # --- the pass ---

    def kick(self) -> None:
        """Decide anew, once all that happens at this moment has happened."""
        if self._pending_pass is None and not self.closed:
            self._pending_pass = self.loop.call_soon(self._pass)

    def _pass(self) -> None:
        self._pending_pass = None
        try:
            self._plan_and_act(self.now())
        except Exception as error:
            log.exception("the router cannot decide; please report this")
            for job in self._jobs.values():
                if not job.turn.done():
                    job.turn.set_exception(error)

    def _plan_and_act(self, now: int) -> None:
        facts = {name: post.facts() for name, post in self.posts.items()}
        asking = [
            Asking(task, post.name, since, self._jobs[task.id].stuck)
            for post in self.posts.values()
            for task, since in post.asking.values()
            if task.id in self._jobs and not self._jobs[task.id].back.is_set()
        ]
        found = plan(self.line, facts, self.mode, now, asking)
        self._waits = found.waits
        for task, start in found.starts:
            job, post = self._jobs[task.id], self.posts[start.target]
            if job.turn.done():
                continue  # it was cancelled, and is about to leave
            log.debug("task %d goes to %s: %s", task.id, start.target, start.why)
            self.line.started(task)
            post.started(task, now)
            job.turn.set_result(post)
        for task in found.moves:
            log.info("task %d is taken back: it is better off elsewhere", task.id)
            self._jobs[task.id].back.set()
        for task, why in found.gives_up:
            self._give_up(self._jobs[task.id], why)
        for name in found.looks:
            self.look(self.posts[name])
        for name, need in found.questions - self._asked:
            self._asked.add((name, need))
            self.later(self._question(self.posts[name], need), look=True)
        self._wake_at(found.wake_at, now)

    def _wake_at(self, at: int | None, now: int) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        if at is not None:
            self._alarm = self.loop.call_later(max(0, at - now) / SECOND + 0.001, self.kick)

    def _give_up(self, job: Job, why: str) -> None:
        if not job.turn.done():
            broken = next((post.broken for post in self.posts.values() if post.broken is not None), None)
            job.turn.set_exception(
                job.refusal
                or broken
                or Refused(f"No lease: {why}.", "Ask for less, or add a target.", reason="NoTarget")
            )

    def later(self, work: Coroutine[Any, Any, None], *, look: bool = False) -> asyncio.Task[None]:
        """Let something go on by itself. The end of the router waits for it, unless it is only a look."""
        task = self.loop.create_task(work)
        kept = self._looks if look else self._background
        kept.add(task)
        task.add_done_callback(kept.discard)
        return task

    # --- looks and questions ---

    def look(self, post: Post) -> asyncio.Task[Any]:
        """Look at a pool, unless that is being done."""
        if post.look is None or post.look.done():
            post.looking = self.now()
            post.look = self.later(self._look_at(post), look=True)
        return post.look

    async def _look_at(self, post: Post) -> None:
        asked, target = self.now(), post.target
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                view = await target.client.availability(target.pool)
        except (Forbidden, Misuse) as error:  # whoever asks for a lease hears what is wrong
            post.hidden(str(error), self.now() + (_HIDDEN if isinstance(error, Forbidden) else 0))
        except (LeaseholdError, TimeoutError) as error:
            if isinstance(error, LeaseholdError) and misconfigured(error):
                post.out_of_order(error, self.now())
            else:
                post.missed(str(error) or "No answer in time.", self.now(), self._chance.random())
        else:
            self._take_in(post, view, asked)
        finally:
            post.looking = None
            self.kick()

    def _take_in(self, post: Post, view: PoolView, asked: int) -> None:
        try:
            post.saw(view, asked, self.now())
        except Exception as error:
            log.exception("%s: what its pool says cannot be read; please report this", post.name)
            post.missed(str(error), self.now(), self._chance.random())

    async def _question(self, post: Post, need: Need) -> None:
        """Ask a pool when it could start a need that somebody waits with."""
        wish = next((job.wish for job in self._jobs.values() if job.task.need == need), {})
        try:
            await self.quoted(post, need, wish)
        finally:
            self._asked.discard((post.name, need))
            self.kick()

    async def quoted(self, post: Post, need: Need, wish: dict[str, Any]) -> None:
        """Ask a pool when it could start a need, and keep the answer for a while."""
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
                start = self.now() + max(0, ahead)
        post.said(need, Quote(start, self.now()))


def _key_at(key: str, target: str) -> str:
    """Return what a key is called at one target: the same key may have been to several."""
    return f"{key}@{target}"
