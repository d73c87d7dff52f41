"""The client: asks for leases, looks after them, and reads what there is."""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import socket
import weakref
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, Unpack

from leasehold import __version__
from leasehold.adapters.access import Access, find
from leasehold.adapters.credentials import CredentialsError
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.connecting import connect
from leasehold.adapters.kube.errors import ApiError, NotFound, Unknown
from leasehold.api.names import DesiredState, LeaseMode, Liveness
from leasehold.sdk import errors
from leasehold.sdk.asking import OnProgress, PendingLease, ask_quote
from leasehold.sdk.door import Door, explained
from leasehold.sdk.health import Health, PoolHealth, health_of, pool_health
from leasehold.sdk.keeper import Keeper
from leasehold.sdk.lastwill import LastWill
from leasehold.sdk.lease import Lease, OnEnding, OnLost
from leasehold.sdk.observing import Observer, Observers
from leasehold.sdk.request import Request, TaskWish, name_of, request_of
from leasehold.sdk.values import Duration, checked_name, seconds_of, whole_seconds
from leasehold.sdk.views import Explanation, LeaseView, PoolView, Quote
from leasehold.sdk.watching import LeaseEvent, LeaseWatch

Json = dict[str, Any]

_QUOTE_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 60.0
_SHORTEST_SESSION: Final = 5

log = logging.getLogger(__name__)


class Wish(TaskWish, total=False):
    """What may be asked for: one of `pool`, `pool_selector` and `parent` (the name of a lease to be a part of), and at
    least one of `cpu`, `memory`, `disk` and `resources`.

    Amounts are of one slice, and `count` slices are granted all or none. `key` makes the request idempotent.
    """

    pool: str
    pool_selector: Mapping[str, str]
    parent: str
    start: datetime
    start_within: Duration
    key: str
    name: str


class Client:
    """One connection to a cluster, and all leases that this process takes through it.

    `context`, `kubeconfig` and `namespace` are those of kubectl; in a pod nothing need be given. `identity` is the
    name that people see as the holder. `session` is how long this process may be silent before its leases are lost,
    where their pools do not ask for less. With `strict` (the default) a lease is also lost when nothing was heard of
    it for longer than its pool's grace, since it may have been revoked meanwhile.

    Use it in an `async with` block, in one event loop.
    """

    def __init__(
        self,
        context: str | None = None,
        namespace: str | None = None,
        kubeconfig: str | os.PathLike[str] | None = None,
        identity: str | None = None,
        *,
        session: Duration = "60s",
        strict: bool = True,
    ) -> None:
        self._context = context
        self._namespace = None if namespace is None else checked_name(namespace, "namespace")
        self._kubeconfig = "" if kubeconfig is None else os.fspath(kubeconfig)
        self.identity = identity or f"{socket.gethostname()}-{os.getpid()}"
        self._session_seconds = whole_seconds(session, "session")
        if self._session_seconds < _SHORTEST_SESSION:
            raise errors.Misuse(f"session={session!r} is too short.", f"Use {_SHORTEST_SESSION} s or more.")
        self._strict = strict
        self._door: Door | None = None
        self._access: Access | None = None
        self._keepers: dict[str, Keeper] = {}
        self._observers = Observers()
        self._state: Literal["new", "open", "closed"] = "new"
        self._will: LastWill | None = None
        self._finalizer: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- beginning and end ---

    async def __aenter__(self) -> Client:
        """Find the cluster. Raises BadConfig."""
        if self._state != "new":
            raise errors.Misuse("A client can be opened once.", "Make a new one.")
        try:
            self._access = await asyncio.to_thread(find, self._kubeconfig, self._context or "")
            kube = await connect(self._access, f"leasehold-sdk/{__version__}")
        except CredentialsError as error:
            raise errors.BadConfig(
                f"{error}.", "Give kubeconfig= and context=, or set KUBECONFIG."
            ) from error
        self._door, self._loop, self._state = Door(kube), asyncio.get_running_loop(), "open"
        self._will = LastWill(self._access)
        self._finalizer = weakref.finalize(self, self._will)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back every lease and end the session. It goes on to its end when it is cancelled."""
        await self.close()

    async def close(self) -> None:
        """Give back every lease and end the session. Safe to call again."""
        if self._state != "open":
            return
        self._check()
        self._state = "closed"
        closing = asyncio.ensure_future(self._close())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                if closing.done():
                    break
                cancelled = error  # bounded anyway; what is held must be given back
        if cancelled is not None:
            raise cancelled
        closing.result()

    async def _close(self) -> None:
        assert self._door is not None
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(keeper.close() for keeper in self._keepers.values()))
        except TimeoutError:
            log.warning(
                "the API server does not answer; what is held comes back when the session has run out"
            )
        finally:
            if self._finalizer is not None:
                self._finalizer.detach()
            await self._door.kube.close()

    def _check(self) -> Door:
        if self._state == "new":
            raise errors.Misuse("The client is not open.", "Write: async with Client() as client: …")
        if self._state == "closed" or self._door is None:
            raise errors.Misuse("The client is closed.", "Do this within its `async with` block.")
        try:
            same = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            same = False
        if not same:
            raise errors.Misuse(
                "The client belongs to another event loop.",
                "Make one client in each loop, or use leasehold.sdk.sync, which works from any thread.",
            )
        return self._door

    @property
    def namespace(self) -> str:
        """The namespace that is used where none is named."""
        if self._namespace is not None:
            return self._namespace
        self._check()
        assert self._access is not None
        return self._access.namespace

    @property
    def requests(self) -> Mapping[tuple[str, str], int]:
        """How many requests were answered, by method and HTTP status."""
        return dict(self._check().kube.requests)

    def session(self, namespace: str | None = None) -> str:
        """Return the name of this client's session in a namespace: whom to hand a lease over to."""
        return self._keeper(namespace).session

    def _keeper(self, namespace: str | None) -> Keeper:
        door = self._check()
        where = self.namespace if namespace is None else checked_name(namespace, "namespace")
        if where not in self._keepers:
            keeper = Keeper(
                door,
                where,
                identity=self.identity,
                session_seconds=self._session_seconds,
                strict=self._strict,
                owner=_owner(where),
                observers=self._observers,
            )
            self._keepers[where] = keeper
            keeper.asker = self.lease
            assert self._will is not None
            self._will.sessions[where] = keeper.session
        return self._keepers[where]

    @property
    def leases(self) -> builtins.list[Lease]:
        """The leases that this client holds, or waits for."""
        return [lease for keeper in self._keepers.values() for lease in keeper.leases.values()]

    # --- leases ---

    def lease(
        self,
        *,
        timeout: Duration | None = None,
        on_progress: OnProgress = None,
        on_ending: OnEnding = None,
        on_lost: OnLost = None,
        namespace: str | None = None,
        **wish: Unpack[Wish],
    ) -> PendingLease:
        """Ask for a lease, wait until it is granted, and keep it: `async with client.lease(…) as lease:`.

        `timeout` bounds the wait. `on_progress` is told how it waits; what it raises ends the wait. `on_ending` is
        told when the lease is being taken back, and how much time is left ("raise": LeaseEnding is raised into the
        block at once). When the lease is lost the block is cancelled and LeaseLost is raised out of it; with `on_lost`
        that is called instead and the block goes on.

        Raises: Misuse here; later PoolNotFound, Refused, WaitTimeout, StartDeadlineExceeded, KeyConflict, Forbidden,
        NotConnected, BadConfig, ServerUnavailable, and out of the block LeaseLost and LeaseEnding.
        """
        keeper = self._keeper(namespace)
        seconds = None if timeout is None else seconds_of(timeout, "timeout")
        request = request_of(timeout=seconds, **wish)
        return PendingLease(keeper, Lease(keeper, request, on_ending, on_lost), seconds, on_progress, False)

    async def acquire(
        self,
        *,
        timeout: Duration | None = None,
        on_progress: OnProgress = None,
        on_ending: OnEnding = None,
        on_lost: OnLost = None,
        namespace: str | None = None,
        **wish: Unpack[Wish],
    ) -> Lease:
        """Return a lease that is held, and yours to release. Arguments and errors are those of `lease`."""
        return await self.lease(
            timeout=timeout,
            on_progress=on_progress,
            on_ending=on_ending,
            on_lost=on_lost,
            namespace=namespace,
            **wish,
        )

    def attach(
        self,
        name: str | None = None,
        *,
        key: str | None = None,
        timeout: Duration | None = "60s",
        on_progress: OnProgress = None,
        on_ending: OnEnding = None,
        on_lost: OnLost = None,
        namespace: str | None = None,
        liveness: str = Liveness.SESSION,
        identity: str | None = None,
    ) -> PendingLease:
        """Take over a lease that is there, by its name or its key: `async with client.attach("name") as lease:`.

        This process becomes its holder and gets a new fencing token; whoever held it until now loses it (HandedOver).
        Raises LeaseNotFound, LeaseLost when it is over, and what `lease` raises.
        """
        if (name is None) == (key is None):
            raise errors.Misuse("Which lease?", "Give its name or its key.")
        keeper = self._keeper(namespace)
        seconds = None if timeout is None else seconds_of(timeout, "timeout")
        request = Request(
            name=name_of(name, key, None),
            spec={},
            liveness=str(liveness),
            identity=identity,
            key=key,
            term=None,
        )
        return PendingLease(keeper, Lease(keeper, request, on_ending, on_lost), seconds, on_progress, True)

    async def release(self, name: str, *, namespace: str | None = None) -> None:
        """Give back a lease by its name, whoever holds it. Raises LeaseNotFound."""
        keeper = self._keepers.get(self._where(namespace))
        lease = None if keeper is None else keeper.leases.get(name)
        if lease is not None:
            await lease.release()
            return
        await self._change(name, namespace, {"desiredState": str(DesiredState.RELEASED)}, "release")

    async def renew(self, name: str, *, namespace: str | None = None) -> LeaseView:
        """Ask for a new term of a lease by its name, whoever holds it. Raises LeaseNotFound."""
        return await self._change(name, namespace, {"renewTime": self._keeper(namespace).new_text()}, "renew")

    async def _change(self, name: str, namespace: str | None, spec: Json, word: str) -> LeaseView:
        door = self._check()
        try:
            _, document = await door.patch(paths.lease(self._where(namespace), name), {"spec": spec})
        except ApiError as error:
            raise explained(error, f"{word} lease {name}") from error
        return LeaseView.of(document)

    def _where(self, namespace: str | None) -> str:
        return self.namespace if namespace is None else checked_name(namespace, "namespace")

    # --- reading ---

    async def get(self, name: str, *, namespace: str | None = None) -> LeaseView:
        """Read a lease. Raises LeaseNotFound."""
        door = self._check()
        try:
            _, document = await door.get(paths.lease(self._where(namespace), name))
        except ApiError as error:
            raise explained(error, f"read lease {name}") from error
        return LeaseView.of(document)

    async def list(
        self,
        *,
        pool: str | None = None,
        identity: str | None = None,
        labels: Mapping[str, str] | str | None = None,
        namespace: str | None = None,
        all_namespaces: bool = False,
    ) -> builtins.list[LeaseView]:
        """Read the leases of a namespace, or of all: those of a pool, of a holder, or with labels."""
        door = self._check()
        path, query = self._collection(pool, identity, labels, namespace, all_namespaces)
        try:
            async with asyncio.timeout(60):
                items, _ = await door.kube.list(path, query)
        except ApiError as error:
            raise explained(error, "list leases") from error
        except TimeoutError as error:
            raise explained(Unknown(f"GET {path}: no answer within 60 s"), "list leases") from error
        return [LeaseView.of(item) for item in items]

    async def watch(
        self,
        *,
        pool: str | None = None,
        identity: str | None = None,
        labels: Mapping[str, str] | str | None = None,
        namespace: str | None = None,
        all_namespaces: bool = False,
    ) -> AsyncGenerator[LeaseEvent, None]:
        """Yield every lease there is (ADDED), then every change, until the iteration ends.

        It goes on through an API server that is away: what was missed comes as changes, and what has gone as DELETED.
        """
        door = self._check()
        watch = LeaseWatch(door.kube, *self._collection(pool, identity, labels, namespace, all_namespaces))
        async with aclosing(watch.events()) as events:
            async for event in events:
                yield event

    def _collection(
        self,
        pool: str | None,
        identity: str | None,
        labels: Mapping[str, str] | str | None,
        namespace: str | None,
        all_namespaces: bool,
    ) -> tuple[str, dict[str, str]]:
        fields = [
            f"{name}={value}"
            for name, value in (("spec.poolRef.name", pool), ("spec.holder.identity", identity))
            if value is not None
        ]
        query = {}
        if fields:
            query["fieldSelector"] = ",".join(fields)
        if labels:
            text = labels if isinstance(labels, str) else ",".join(f"{k}={v}" for k, v in labels.items())
            query["labelSelector"] = text
        return (paths.LEASES if all_namespaces else paths.lease(self._where(namespace))), query

    async def explain(self, name: str, *, namespace: str | None = None) -> Explanation:
        """Say why a lease waits, or what will end it. Raises LeaseNotFound."""
        return Explanation.of(await self.get(name, namespace=namespace))

    async def quote(
        self, *, timeout: Duration = _QUOTE_SECONDS, namespace: str | None = None, **wish: Unpack[Wish]
    ) -> Quote:
        """Ask whether a wish could be granted, where, when and at whose cost, without asking for it (a dry run).

        Raises WaitTimeout when the operator does not answer in time, and what `lease` raises.
        """
        keeper, seconds = self._keeper(namespace), seconds_of(timeout, "timeout")
        wish["liveness"] = Liveness.NONE
        request = request_of(mode=LeaseMode.DRY_RUN, timeout=seconds, **wish)
        try:
            return await ask_quote(keeper, Lease(keeper, request, None, None), seconds)
        except TimeoutError as error:
            raise errors.WaitTimeout(
                f"There was no answer within {seconds:g} s.",
                "Does the operator run? Wait longer.",
                reason="NoAnswer",
            ) from error
        except ApiError as error:
            raise explained(error, "ask for a quote") from error

    async def pools(self) -> builtins.list[PoolView]:
        """Read all pools."""
        door = self._check()
        try:
            _, items = await door.list(paths.POOLS)
        except ApiError as error:
            raise explained(error, "list pools") from error
        return [PoolView.of(item) for item in items]

    async def availability(self, pool: str) -> PoolView:
        """Read what a pool has, and what of it is free. Raises PoolNotFound."""
        door = self._check()
        try:
            _, document = await door.get(paths.pool(checked_name(pool, "pool")))
        except NotFound as error:
            raise errors.PoolNotFound(
                f"There is no pool {pool}.",
                "Correct its name; client.pools() lists them.",
                reason="PoolNotFound",
            ) from error
        except ApiError as error:
            raise explained(error, f"read pool {pool}") from error
        return PoolView.of(document)

    # --- how it goes ---

    def observe(self, observer: Observer) -> None:
        """Tell somebody how long requests wait, leases are held and heartbeats serve (see `leasehold.sdk.metrics`)."""
        self._observers.add(observer)

    async def health(self, pools: Iterable[str] = (), *, timeout: Duration = "2s") -> Health:
        """Say how this client's leases are, and these pools: for an application's own health endpoint.

        Never raises for what it finds; a pool that cannot be read in time is not ready.
        """
        seconds = seconds_of(timeout, "timeout")

        async def look(name: str) -> PoolHealth:
            try:
                async with asyncio.timeout(seconds):
                    return pool_health(name, await self.availability(name))
            except (errors.LeaseholdError, TimeoutError):
                return pool_health(name, None)

        return health_of(self.leases, await asyncio.gather(*map(look, pools)))


def _owner(namespace: str) -> Json | None:
    """Return the pod we run in, with which the session goes; None where the downward API does not say.

    An owner has to be in the same namespace.
    """
    name, uid = os.environ.get("POD_NAME"), os.environ.get("POD_UID")
    if not name or not uid or os.environ.get("POD_NAMESPACE") != namespace:
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
