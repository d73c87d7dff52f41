"""The operator's composition root: builds everything, starts it in order, and ends it when one part fails."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import logging
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import kopf

from leasehold import __version__
from leasehold.adapters import logs
from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster, Namespaces, Nodes, Reports, Sessions
from leasehold.adapters.election import Elector, Leadership
from leasehold.adapters.enforcement.strays import StrayKeeper
from leasehold.adapters.enforcement.taints import NodeTaints
from leasehold.adapters.handlers import watching
from leasehold.adapters.homeless import HomelessWorker
from leasehold.adapters.http import STALE_SECONDS, UNHEALTHY_LAG, HealthServer, LoopLag, QueuePages
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import ApiError, NotFound
from leasehold.adapters.kube.informer import Informer
from leasehold.adapters.kueue import KueueBridge
from leasehold.adapters.leading import Pools
from leasehold.adapters.login import connect, election_namespace
from leasehold.adapters.metrics import ElectionGauges, Metrics, PoolGauges, ProcessGauges, WebhookGauges
from leasehold.adapters.pods import LeasedPods, OtherPods, Placeholders
from leasehold.adapters.recorder import Recorder
from leasehold.adapters.report_specs import ReportSpecs
from leasehold.adapters.routing import Router
from leasehold.adapters.tools import PlaceholderTerms, Tools
from leasehold.api.names import API_VERSION, LEASE_LABEL, PLACEHOLDER_LABEL, SESSION_LABEL
from leasehold.core.election import Terms
from leasehold.core.errors import LeaseholdError
from leasehold.core.ledger import HELD, QUARANTINED, RELEASING
from leasehold.core.pool_status import waiting_count, waiting_rows
from leasehold.core.times import SECOND
from leasehold.settings import BadSetting, Settings

if TYPE_CHECKING:
    from leasehold.adapters.webhook.keeper import Webhook

_BACKOFFS: Final = (1, 1, 2, 3, 5, 8, 13, *[20] * 30)
"""Pauses of kopf's watches while the API server is away (s): ten minutes, then the process ends with exit code 1."""

_RARELY: Final = (50_000, 10, 10)
"""After how many new objects garbage is searched for. Python's own 700 takes half of a start with many leases."""

_NO_DEFINITIONS: Final = (
    f"the API server does not know the resources of {API_VERSION}: install their definitions,"
    " by the chart's crds.enabled=true or by kubectl apply --server-side -f crds/"
)

_ON_NODES: Final = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
"""Which pods take something on a node."""

log = logging.getLogger(__name__)


class Controller:
    """One operator process. `run` returns the exit code: 0 after a stop that was asked for, 1 after a failure."""

    def __init__(self, settings: Settings, clock: SteadyClock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SteadyClock()
        self.cluster = Cluster(self.clock)
        self.metrics = Metrics()
        self.lag = LoopLag(self.metrics.lag.observe)
        self.identity = settings.identity or f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self.client = connect(settings.kubeconfig, self.identity)
        self.recorder = Recorder(self.client, self.clock, settings.events_per_second)
        # Leases are listed anew pool by pool, see `sweep`.
        self.resync = settings.sweep_seconds * settings.relist_sweeps * SECOND
        self.informers = {
            "capacityleases": Informer(
                self.client, paths.LEASES, self.cluster, self.clock.now, read=self.cluster.note
            ),
            "nodes": Informer(
                self.client, paths.NODES, Nodes(self.cluster), self.clock.now, resync=self.resync
            ),
            "nodereports": Informer(
                self.client, paths.REPORTS, Reports(self.cluster), self.clock.now, resync=self.resync
            ),
            "sessions": Informer(
                self.client,
                paths.SESSIONS,
                Sessions(self.cluster),
                self.clock.now,
                SESSION_LABEL,
                resync=self.resync,
            ),
            "namespaces": Informer(
                self.client,
                paths.NAMESPACES,
                Namespaces(self.cluster),
                self.clock.now,
                metadata_only=True,
                resync=self.resync,
            ),
        }
        if settings.enforcement == "on":
            self._watch_pods()
        self.cluster.nodes_heard = lambda: self.informers["nodes"].heard_version
        self.router = Router(
            self.clock,
            lambda: [worker for worker, _ in self.pools.workers.values()],
            lambda: self.pools.followers.values(),
            self.cluster.namespaces,
        )
        self.tools = Tools(
            self.client,
            self.clock,
            self.cluster,
            self.recorder,
            self.metrics,
            settings.writers,
            settings.debounce_milliseconds / 1000,
            self.router.elsewhere,
            settings.overdue_ends_per_second,
            PlaceholderTerms(
                election_namespace(settings.election_namespace),
                settings.placeholder_image,
                settings.placeholder_priority_class,
            ),
        )
        self.pools = Pools(self.tools, settings.shards, self._watch, self._chores)
        self.elector = Elector(
            partial(connect, settings.kubeconfig, self.identity),
            self.clock,
            self.pools,
            namespace=election_namespace(settings.election_namespace),
            identity=self.identity,
            instance=secrets.token_hex(8),
            terms=Terms(settings.election_seconds * SECOND),
            shards=settings.shards,
            failed=self._fail,
        )
        self.server = HealthServer(
            settings.http_host,
            settings.http_port,
            self.metrics.page,
            self._wrong,
            self._not_ready,
            QueuePages(self.clock.now, self._pool_rows, self._waiting_rows),
            self._about,
        )
        self.webhook = self._make_webhook() if settings.webhook else None
        self.metrics.registry.register(PoolGauges(self.metrics, self.cluster))
        self.metrics.registry.register(
            ProcessGauges(
                self.cluster, self.client, self.recorder, self.informers, lambda: not self._not_ready()
            )
        )
        self.metrics.registry.register(ElectionGauges(self.elector, self.pools))
        self.metrics.registry.register(WebhookGauges(self.webhook))
        self.stop = asyncio.Event()
        self.started = asyncio.Event()
        self.failure = ""
        self.hindrance = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._sweeps: dict[str, int] = {}
        self._namespaces_swept = 0

    def _watch_pods(self) -> None:
        """Hear of pods, too: of those that name a lease, and of what all others take of their nodes."""
        cluster = self.cluster
        cluster.pods.watched = True
        others = OtherPods(cluster.pods, cluster.heard)
        self.informers["leased pods"] = Informer(
            self.client,
            paths.PODS,
            LeasedPods(cluster.pods, cluster.heard),
            self.clock.now,
            LEASE_LABEL,
            resync=self.resync,
            read=cluster.pods.note,
        )
        self.informers["other pods"] = Informer(
            self.client,
            paths.PODS,
            others,
            self.clock.now,
            f"!{LEASE_LABEL},!{PLACEHOLDER_LABEL}",
            _ON_NODES,
            resync=self.resync,
            read=others.note,
        )
        self.informers["placeholders"] = Informer(
            self.client,
            paths.pod(election_namespace(self.settings.election_namespace)),
            Placeholders(cluster.pods, cluster.heard),
            self.clock.now,
            PLACEHOLDER_LABEL,
            resync=self.resync,
            read=cluster.pods.note_placeholder,
        )

    def _make_webhook(self) -> Webhook:
        # Most have a policy instead, and need not pay for the library that makes certificates (8 MiB).
        from leasehold.adapters.webhook.keeper import Webhook

        return Webhook(
            self.client,
            self.clock,
            self.settings.webhook,
            election_namespace(self.settings.election_namespace),
            (self.settings.http_host, self.settings.webhook_port),
            self.pools.documents.values,
        )

    # --- life ---

    async def run(self) -> int:
        """Run until stopped or until a part fails. Raises BadSetting when the HTTP port cannot be had."""
        registry = kopf.OperatorRegistry()
        watching.register(registry, self.cluster, self, self.settings.sweep_seconds)
        kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)(self._start)
        kopf.on.cleanup(registry=registry)(self._cleanup)
        kopf.on.login(registry=registry)(self._login)
        self._watch(self.lag.run(), "loop lag")
        before = asyncio.all_tasks()  # kopf waits for the end of all others when it stops
        try:
            await self._listen()
            tasks = await kopf.spawn_tasks(
                registry=registry,
                settings=_kopf_settings(),
                clusterwide=True,
                standalone=True,
                stop_flag=self.stop,
            )
            self._take_signals()
            await kopf.run_tasks(tasks, ignored=before)
        except BadSetting:
            raise
        except Exception as error:
            log.exception("the operator framework ended")
            self.failure = self.failure or str(error) or type(error).__name__
        finally:
            await self._cleanup()
        return 1 if self.failure else 0

    async def _listen(self) -> None:
        host, port = self.settings.http_host, self.settings.http_port
        try:
            await self.server.start()
        except OSError as error:
            raise BadSetting(f"cannot listen on {host}:{port} ({error}); set LEASEHOLD_HTTP_PORT") from error
        if self.webhook is None:
            return
        try:
            await self.webhook.server.start()
        except OSError as error:
            port = self.settings.webhook_port
            raise BadSetting(
                f"cannot listen on {host}:{port} ({error}); set LEASEHOLD_WEBHOOK_PORT"
            ) from error

    def _take_signals(self) -> None:
        """Turn signals into a stop that was asked for. kopf's own handlers leave a task behind and wait 5 s for it."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self.stop.set)

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=self.client.server, aiohttp_session=self.client.session)

    async def _start(self, **_: Any) -> None:
        """Hear everything once before anything is decided."""
        await self._first_word()
        for name, informer in self.informers.items():
            self._watch(informer.run(), f"watch of {name}")
        self._watch(self.recorder.run(), "recorder")
        if self.webhook is not None:
            self._watch(self.webhook.follow(), "webhook")
        self._watch(self._begin(), "start of the pools")
        log.info("leasehold %s, listening on port %d", __version__, self.server.port)

    async def _first_word(self) -> None:
        """Wait for the API server; start by its clock where ours is off."""
        pause = 0.2
        while True:
            try:
                step = self.clock.follow(await self.client.server_time())
                break
            except ApiError as error:
                log.warning("waiting for the API server: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5)
        if step:
            side = "ahead of" if step > 0 else "behind"
            log.warning(
                "this clock is %.1f s %s the API server's; following the API server's",
                abs(step) / SECOND,
                side,
            )

    async def _begin(self) -> None:
        """Start the pools once every list was complete: kopf tells no such moment, so pools are listed here."""
        await self._patiently(self._list_pools)
        for informer in self.informers.values():
            await informer.synced.wait()
        await self._patiently(self._look_for_namespaces)
        self.pools.begin()
        self._watch(self._resync(), "look at the whole")
        self.elector.start()
        self.started.set()

    def _chores(self, leadership: Leadership) -> Iterable[tuple[str, Coroutine[Any, Any, None]]]:
        """Return the work of whoever leads the first shard."""
        homeless = HomelessWorker(
            self.client,
            self.clock,
            self.cluster,
            lambda: set(self.pools.documents),
            self.router,
            self.recorder,
            leadership.valid,
        )
        specs = ReportSpecs(
            self.client, self.cluster, self.pools.asking, leadership.valid, self.cluster.pods.running
        )
        yield from (("homeless leases", homeless.run()), ("report specs", specs.run()))
        if self.webhook is not None:
            yield "webhook's certificate", self.webhook.keep(leadership.valid)
        if self.settings.kueue == "on":
            kueue = KueueBridge(
                self.client, self.clock, self.pools.lending, leadership.valid, resync=self.resync
            )
            yield "kueue", kueue.run()
        if not self.cluster.pods.watched:
            return
        strays = StrayKeeper(self.tools, lambda: set(self.pools.documents), leadership.valid)
        taints = NodeTaints(self.client, self.cluster, self.pools.dedicated, leadership.valid)
        yield from (("stray pods", strays.run()), ("node taints", taints.run()))

    async def _patiently(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        pause = 0.2
        while True:
            try:
                return await work()
            except NotFound:
                self.hindrance = _NO_DEFINITIONS
            except ApiError as error:
                self.hindrance = f"listing the cluster: {error}"
            log.warning("%s", self.hindrance)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5)

    async def _list_pools(self) -> None:
        """Take in all pools there are, and that those are gone which an older version was known of."""
        pools, version = await self.client.list(paths.POOLS)
        for pool in pools:
            self.pool_seen(pool)
        for name in self.pools.documents.keys() - {pool["metadata"]["name"] for pool in pools}:
            known = self.pools.documents[name]
            if int(known["metadata"]["resourceVersion"]) <= int(version):
                self.pool_gone(known)

    async def _resync(self) -> None:
        """Look from time to time for what a watch missed: pools, and leases of none; pools list their own leases."""
        while True:
            await asyncio.sleep(self.resync / SECOND)
            try:
                await self._list_pools()
                await self._look_for_homeless()
            except ApiError as error:
                log.warning("looking at the whole: %s", error)

    async def _look_for_homeless(self) -> None:
        others = ",".join(f"spec.poolRef.name!={name}" for name in sorted(self.pools.documents))
        items, _ = await self.client.list(paths.LEASES, {"fieldSelector": others} if others else None)
        for item in items:
            lease = self.cluster.read(item)
            if lease is not None:
                self.cluster.lease_seen(lease)

    async def _look_for_namespaces(self) -> None:
        """Find out whether namespaces that have leases and that no watch told of are gone."""
        # Named before the list is made: the namespace of a lease that is seen meanwhile may be newer than the list.
        doubtful = self.cluster.doubtful_namespaces()
        if doubtful:
            items, _ = await self.client.list(paths.NAMESPACES, metadata_only=True)
            living = {i["metadata"]["name"] for i in items if "deletionTimestamp" not in i["metadata"]}
            self.cluster.namespaces_missed(doubtful, living)

    async def _cleanup(self, **_: Any) -> None:
        await self.pools.end()
        await self.elector.stop()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.webhook is not None:
            await self.webhook.server.stop()
        await self.server.stop()
        if not self.client.session.closed:
            await self.client.close()

    def _watch(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a part in the background; when it fails, the process ends and is restarted by whoever runs it."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        if task.cancelled() or task.exception() is None:
            return
        log.error("%s failed; stopping", task.get_name(), exc_info=task.exception())
        self._fail(f"{task.get_name()}: {task.exception()}")

    def _fail(self, why: str) -> None:
        self.failure = why
        self.stop.set()

    # --- pools: told by the handlers ---

    def pool_seen(self, document: Mapping[str, Any]) -> None:
        """Take in a pool."""
        self.pools.pool_seen(document)

    def pool_gone(self, document: Mapping[str, Any]) -> None:
        """Take in that a pool no longer exists."""
        self._sweeps.pop(document["metadata"]["name"], None)
        self.pools.pool_gone(document)

    async def sweep(self, name: str) -> None:
        """Audit a pool; every so often list everything anew."""
        led = self.pools.workers.get(name)
        if led is None:
            self._sweeps.pop(name, None)
            return
        count = self._sweeps[name] = self._sweeps.get(name, 0) + 1
        try:
            await self._sweep_namespaces()
            await led[0].sweep(relist=count % self.settings.relist_sweeps == 0)
        except ApiError as error:
            log.warning("sweep of pool %s: %s", name, error, extra={"pool": name})

    async def _sweep_namespaces(self) -> None:
        """Look for namespaces whose end nobody told; once for all pools that are swept about now.

        The informer lists all anew from time to time, but finds only that those went which it once knew of.
        """
        now = self.clock.now()
        if now < self._namespaces_swept + self.settings.sweep_seconds * SECOND // 2:
            return
        self._namespaces_swept = now
        await self._look_for_namespaces()

    # --- who waits, for the endpoint ---

    def _pool_rows(self) -> Iterable[Mapping[str, Any]]:
        for name, (worker, _) in sorted(self.pools.workers.items()):
            ledger = worker.state.ledger
            yield {
                "name": name,
                "ready": worker.ready,
                "waiting": waiting_count(worker.state),
                **{state: ledger.count(state) for state in (HELD, RELEASING, QUARANTINED)},
            }

    def _waiting_rows(
        self, pool: str, offset: int, limit: int, namespace: str
    ) -> Iterable[Mapping[str, Any]] | None:
        led = self.pools.workers.get(pool)
        return None if led is None else waiting_rows(led[0].state, offset, limit, namespace)

    # --- health ---

    def _wrong(self) -> str:
        if self.failure:
            return self.failure
        lag = self.lag()
        return f"the event loop is {lag:.1f} s late" if lag > UNHEALTHY_LAG else ""

    def _not_ready(self) -> str:
        if wrong := self._wrong():
            return wrong
        if not self.started.is_set():
            return self.hindrance or "not every list was complete yet"
        waiting = self.pools.not_ready()
        if waiting:
            return f"not leading yet: {', '.join(waiting[:10])}"
        if self.webhook is not None and (wrong := self.webhook.wrong()):
            return wrong
        silent = (self.clock.now() - min(i.last_event for i in self.informers.values())) / SECOND
        return f"the API server was silent for {silent:.0f} s" if silent > STALE_SECONDS else ""

    def _about(self) -> str:
        """Say which shards this replica leads: a standby is ready, too."""
        led = ", ".join(str(shard) for shard in sorted(self.pools.led)) or "none, standing by"
        return f"{self.identity} leads of {self.settings.shards} shard(s): {led}"


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps kopf from copying every object for a comparison that `on.event` never makes: half its time."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return nothing to compare."""
        return cast(kopf.BodyEssence, {})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Return what was stored: nothing."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""


def _kopf_settings() -> kopf.OperatorSettings:
    """Bound what kopf leaves unbounded, and keep it from writing onto objects or posting Events."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.enforce_retry_after = True
    settings.networking.error_backoffs = _BACKOFFS
    settings.watching.server_timeout = 300
    settings.persistence.finalizer = "leasehold.dev/sweep"
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.queueing.exit_timeout = 1.0
    # A pool that is deleted while its sweep is under way: kopf looks again when it is over, or else in a minute.
    settings.background.instant_exit_timeout = 3.0
    settings.process.ultimate_exiting_timeout = 30
    return settings


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="leasehold operator",
        description="Lend out a cluster's capacity: watch pools and leases, and grant.",
    )
    made.add_argument("--version", action="version", version=f"leasehold {__version__}")
    made.add_argument(
        "--kubeconfig", default=None, help="cluster to serve (default: the pod's service account)"
    )
    made.add_argument("--http-host", default=None, help="address of /metrics, /healthz, /readyz, /pools")
    made.add_argument("--http-port", type=int, default=None, help="their port; 0 takes a free one")
    made.add_argument(
        "--identity", default=None, help="this replica's name in elections, unique among replicas"
    )
    made.add_argument("--election-namespace", default=None, help="where the Leases of the election are")
    made.add_argument(
        "--shards", type=int, default=None, help="into how many parts pools are dealt to replicas"
    )
    made.add_argument("--log-format", choices=("json", "text"), default=None)
    made.add_argument("--log-level", choices=("DEBUG", "INFO", "WARNING", "ERROR"), default=None)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the operator from a command line; return its exit code."""
    given = {key: value for key, value in vars(parser().parse_args(arguments)).items() if value is not None}
    try:
        settings = dataclasses.replace(Settings.from_environment(), **given)
        logs.set_up(settings.log_level, settings.log_format)
        return _run(settings)
    except LeaseholdError as error:
        print(f"leasehold operator: {error}", file=sys.stderr)  # noqa: T201
        return 2


async def _settle(controller: Controller) -> None:
    """Take what was listed at the start out of the search for garbage: it is never garbage in a cycle.

    With 50,000 leases each full search would hold up everything else for half a second.
    """
    await controller.started.wait()
    gc.collect()
    gc.freeze()


def _run(settings: Settings) -> int:
    async def operate() -> int:
        controller = Controller(settings)
        settling = asyncio.create_task(_settle(controller))
        try:
            return await controller.run()
        finally:
            settling.cancel()

    gc.set_threshold(*_RARELY)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(operate())
    return uvloop.run(operate())
