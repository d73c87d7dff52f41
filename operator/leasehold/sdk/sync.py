"""The same without `await`, for programs of threads.

    from leasehold.sdk.sync import Client

    with Client() as client, client.lease(pool="ci", cpu=2, duration="10m") as lease:
        while work_to_do():
            lease.check()
            ...

An event loop in a thread of its own renews leases and watches over them, whatever the other threads do. Every method
works from any thread. What is asynchronous in `leasehold.sdk` blocks here, and Ctrl-C ends the wait and gives back.

One thing is weaker: **a thread cannot be interrupted.** When a lease is lost, `lease.lost` is set, `on_lost` is
called, and LeaseLost is raised by the next `lease.check()` and at the end of the block, not in the middle of it. So
call `check` often, and always before what cannot be taken back; it asks the clock, and is cheap. Callbacks are called
in the thread of the event loop: they must be quick.
"""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar, Unpack

from leasehold.sdk import client as _aio
from leasehold.sdk.asking import OnProgress, PendingLease
from leasehold.sdk.client import Wish
from leasehold.sdk.errors import LeaseOver, Misuse
from leasehold.sdk.health import Health
from leasehold.sdk.lease import Lease as AsyncLease
from leasehold.sdk.lease import OnEnding, OnLost
from leasehold.sdk.observing import Observer
from leasehold.sdk.values import Duration
from leasehold.sdk.views import Explanation, LeaseView, PoolView, Quote, Slice
from leasehold.sdk.watching import LeaseEvent

__all__ = ["Client", "Lease", "Pending"]

T = TypeVar("T")

_START_SECONDS: Final = 10.0


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="leasehold-sdk", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something on the loop and wait for it. What interrupts the wait cancels it, and waits for that."""
        if threading.current_thread() is self._thread:
            raise Misuse(
                "A callback of the client cannot wait for the client.", "Tell another thread to do it."
            )
        if not self._thread.is_alive():
            raise Misuse("The client is closed.", "Do this within its `with` block.")
        future = asyncio.run_coroutine_threadsafe(work(), self.loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                # Ctrl-C: the request is withdrawn before it goes on.
                finished = threading.Event()
                self.loop.call_soon_threadsafe(self._cancel, future, finished)
                finished.wait(_START_SECONDS)
            raise

    def _cancel(self, future: Any, finished: threading.Event) -> None:
        future.cancel()

        async def settle() -> None:
            others = asyncio.all_tasks(self.loop) - {asyncio.current_task()}
            cancelling = [task for task in others if task is not None and task.cancelling()]
            if cancelling:
                await asyncio.wait(cancelling, timeout=_START_SECONDS)
            finished.set()

        # The cancellation reaches the task in the next turn of the loop.
        self.loop.call_soon(lambda: self._keep(self.loop.create_task(settle())))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._settling = task

    def stop(self) -> None:
        """End the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_START_SECONDS)


class Lease:
    """Capacity that is held, kept alive in the background until it is released. Use it in a `with` block."""

    def __init__(self, loop: _Loop, lease: AsyncLease) -> None:
        self._loop = loop
        self._lease = lease

    def __repr__(self) -> str:
        """Name it, and say what it is."""
        return repr(self._lease)

    @property
    def name(self) -> str:
        """The name of the CapacityLease."""
        return self._lease.name

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self._lease.namespace

    @property
    def pool(self) -> str:
        """The pool that gives it."""
        return self._lease.pool

    @property
    def token(self) -> int:
        """The fencing token: larger with every grant in the pool."""
        return self._lease.token

    @property
    def slices(self) -> tuple[Slice, ...]:
        """What is held, and where."""
        return self._lease.slices

    @property
    def nodes(self) -> tuple[str, ...]:
        """The node of each slice."""
        return self._lease.nodes

    @property
    def view(self) -> LeaseView | None:
        """The lease as it was last seen."""
        return self._lease.view

    @property
    def held(self) -> bool:
        """Whether it may be used at this moment, by the holder's own clock."""
        return self._lease.held

    @property
    def lost(self) -> LeaseOver | None:
        """Why it is lost; None while it is not."""
        return self._lease.lost

    def remaining(self) -> float:
        """Return for how many seconds it may be used if nothing more is heard."""
        return self._lease.remaining()

    def check(self) -> None:
        """Raise LeaseLost if it must not be used any more. Cheap: it asks the clock and nothing else."""
        if self._lease.lost is not None:
            raise self._lease.lost  # whatever has become of the client
        if not self._lease.held:
            self._loop.call(self._check)

    async def _check(self) -> None:
        self._lease.check()

    def wait_lost(self, timeout: float | None = None) -> LeaseOver | None:
        """Wait until it is lost, and return why; None when it was released instead, or not lost in time (s)."""

        async def wait() -> LeaseOver | None:
            try:
                async with asyncio.timeout(timeout):
                    return await self._lease.wait_lost()
            except TimeoutError:
                return None

        return self._loop.call(wait)

    def renew(self) -> None:
        """Ask for a new term now. Not needed: it is done in the background."""
        self._loop.call(self._lease.renew)

    def release(self) -> None:
        """Give it back. Safe to call again, and when it is lost."""
        self._loop.call(self._lease.release)

    def sublease(self, **wish: Any) -> Pending:
        """Ask for a part of this lease: `with lease.sublease(cpu=1) as part:`."""

        async def ask() -> PendingLease:
            found: PendingLease = self._lease.sublease(**wish)
            return found

        return Pending(self._loop, self._loop.call(ask))

    def hand_over(self, *, session: str | None = None, identity: str | None = None) -> None:
        """Give it to another holder, without a gap."""
        self._loop.call(lambda: self._lease.hand_over(session=session, identity=identity))

    def __enter__(self) -> Lease:
        """Return it. The block is not interrupted when it is lost."""
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back. Raises LeaseLost when it was lost meanwhile, and the block raised nothing else."""
        self._loop.call(lambda: self._lease.__aexit__(kind, error, trace))


class Pending:
    """A request that was not sent yet: use it in a `with` block, or call `acquire`."""

    def __init__(self, loop: _Loop, pending: PendingLease) -> None:
        self._loop = loop
        self._pending = pending
        self._lease: Lease | None = None

    def acquire(self) -> Lease:
        """Wait until the lease is held. It is yours to release."""

        async def wait() -> AsyncLease:
            return await self._pending

        self._lease = Lease(self._loop, self._loop.call(wait))
        return self._lease

    def __enter__(self) -> Lease:
        """Wait until the lease is held."""
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        assert self._lease is not None
        self._lease.__exit__(kind, error, trace)


class Client:
    """One connection to a cluster, and all leases that this process takes through it. Use it in a `with` block.

    Arguments are those of `leasehold.sdk.Client`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = _aio.Client(*arguments, **options)
        self._loop: _Loop | None = None

    def __enter__(self) -> Client:
        """Find the cluster. Raises BadConfig."""
        if self._loop is not None:
            raise Misuse("A client can be opened once.", "Make a new one.")
        loop = _Loop()
        try:
            loop.call(self._client.__aenter__)
        except BaseException:
            loop.stop()
            raise
        self._loop = loop
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back every lease and end the session."""
        self.close()

    def close(self) -> None:
        """Give back every lease and end the session. Safe to call again."""
        loop = self._loop
        if loop is not None and loop.loop.is_running():
            try:
                loop.call(self._client.close)
            finally:
                loop.stop()

    def _open(self) -> _Loop:
        if self._loop is None:
            raise Misuse("The client is not open.", "Write: with Client() as client: …")
        return self._loop

    def _call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._open().call(work)

    @property
    def namespace(self) -> str:
        """The namespace that is used where none is named."""

        async def read() -> str:
            return self._client.namespace

        return self._call(read)

    def session(self, namespace: str | None = None) -> str:
        """Return the name of this client's session: whom to hand a lease over to."""

        async def read() -> str:
            return self._client.session(namespace)

        return self._call(read)

    def lease(
        self,
        *,
        timeout: Duration | None = None,
        on_progress: OnProgress = None,
        on_ending: OnEnding = None,
        on_lost: OnLost = None,
        namespace: str | None = None,
        **wish: Unpack[Wish],
    ) -> Pending:
        """Ask for a lease, wait until it is granted, and keep it: `with client.lease(…) as lease:`."""

        async def ask() -> PendingLease:
            return self._client.lease(
                timeout=timeout,
                on_progress=on_progress,
                on_ending=on_ending,
                on_lost=on_lost,
                namespace=namespace,
                **wish,
            )

        return Pending(self._open(), self._call(ask))

    def acquire(self, **wish: Any) -> Lease:
        """Return a lease that is held, and yours to release. Arguments and errors are those of `lease`."""
        return self.lease(**wish).acquire()

    def attach(self, name: str | None = None, **options: Any) -> Pending:
        """Take over a lease that is there, by its name or its key."""

        async def ask() -> PendingLease:
            return self._client.attach(name, **options)

        return Pending(self._open(), self._call(ask))

    def release(self, name: str, *, namespace: str | None = None) -> None:
        """Give back a lease by its name, whoever holds it."""
        self._call(lambda: self._client.release(name, namespace=namespace))

    def renew(self, name: str, *, namespace: str | None = None) -> LeaseView:
        """Ask for a new term of a lease by its name, whoever holds it."""
        return self._call(lambda: self._client.renew(name, namespace=namespace))

    def get(self, name: str, *, namespace: str | None = None) -> LeaseView:
        """Read a lease."""
        return self._call(lambda: self._client.get(name, namespace=namespace))

    def list(self, **selection: Any) -> builtins.list[LeaseView]:
        """Read the leases of a namespace, or of all."""
        return self._call(lambda: self._client.list(**selection))

    def watch(self, **selection: Any) -> Iterator[LeaseEvent]:
        """Yield every lease there is (ADDED), then every change, until the iteration ends."""
        events = self._client.watch(**selection)
        try:
            while True:
                try:
                    yield self._call(lambda: _next(events))
                except StopAsyncIteration:
                    return
        finally:
            self._call(events.aclose)

    def explain(self, name: str, *, namespace: str | None = None) -> Explanation:
        """Say why a lease waits, or what will end it."""
        return self._call(lambda: self._client.explain(name, namespace=namespace))

    def quote(self, **wish: Any) -> Quote:
        """Ask whether a wish could be granted, where, when and at whose cost, without asking for it."""
        return self._call(lambda: self._client.quote(**wish))

    def pools(self) -> builtins.list[PoolView]:
        """Read all pools."""
        return self._call(self._client.pools)

    def availability(self, pool: str) -> PoolView:
        """Read what a pool has, and what of it is free."""
        return self._call(lambda: self._client.availability(pool))

    def observe(self, observer: Observer) -> None:
        """Tell somebody how long requests wait, leases are held and heartbeats serve."""
        self._client.observe(observer)

    def health(self, pools: Iterable[str] = (), *, timeout: Duration = "2s") -> Health:
        """Say how this client's leases are, and these pools."""
        return self._call(lambda: self._client.health(pools, timeout=timeout))

    @property
    def requests(self) -> Mapping[tuple[str, str], int]:
        """How many requests were answered, by method and HTTP status."""

        async def read() -> Mapping[tuple[str, str], int]:
            return self._client.requests

        return self._call(read)


async def _next(events: Any) -> LeaseEvent:
    found: LeaseEvent = await anext(events)
    return found
