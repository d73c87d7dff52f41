"""Keeps the webhook's certificate in a Secret, and API servers told of it.

All replicas serve by what is in the Secret. One of them changes it, by compare-and-swap; what API servers should trust
follows from it alone. The configuration is read before the Secret and written only if it is still that version: so
whoever was overtaken, with an older Secret in hand, writes nothing, and two who both believe they lead cannot fight.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import logging
import re
import ssl
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from leasehold.adapters import certificates
from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import JSON_PATCH, KubeClient
from leasehold.adapters.kube.errors import ApiError, Conflict, NotFound, Refused
from leasehold.adapters.webhook.server import CannotSay, WebhookServer
from leasehold.core.certificates import Pair, Stock, bundle, plan, serves
from leasehold.core.pod_gate import holds_pods
from leasehold.core.times import format_time

Json = Mapping[str, Any]

GATE_WEBHOOK: Final = "gate.leasehold.dev"
"""The webhook's name in its configuration."""

_LOOK_SECONDS: Final = 5.0
"""How often the Secret is read, by each replica; the leader reads the configuration, too."""

_ANSWER_SECONDS: Final = 3.0
"""For a look at the pools; less than the API server waits for the answer."""

_CURRENT, _COMING, _FORMER = ("tls.crt", "tls.key"), ("coming.crt", "coming.key"), "former.crt"
_KEYS: Final = (*_CURRENT, *_COMING, _FORMER)
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)

log = logging.getLogger(__name__)


class _Trust(NamedTuple):
    """What a configuration says of our webhook: where it is called, by which hosts, and by what it is trusted."""

    version: str
    uid: str
    position: int
    names: frozenset[str]
    bundle: frozenset[str]


class Webhook:
    """One replica's part in the webhook: it serves, and where it leads it keeps the certificate.

    `name` is that of the MutatingWebhookConfiguration, and of the Secret in `namespace`. `pools` are those known; where
    none of them holds pods the API server is asked, because what one was not told of yet must not let a pod pass.
    """

    def __init__(
        self,
        client: KubeClient,
        clock: SteadyClock,
        name: str,
        namespace: str,
        address: tuple[str, int],
        pools: Callable[[], Iterable[Json]],
    ) -> None:
        self.client = client
        self.clock = clock
        self.name = name
        self.server = WebhookServer(*address, self._held, lambda: self._context)
        self.pause = _LOOK_SECONDS
        self._secret = paths.secret(namespace, name)
        self._secrets = paths.secret(namespace)
        self._namespace = namespace
        self._configuration = paths.webhook_configuration(name)
        self._pools = pools
        self._serving: Pair | None = None
        self._context: ssl.SSLContext | None = None
        self._complaint = ""
        self._present_look: asyncio.Task[bool | str] | None = None
        self._next_look: asyncio.Task[bool | str] | None = None

    # --- every replica ---

    def wrong(self) -> str:
        """Return why pods with a lease cannot be made through this replica, or ""."""
        if not self.server.listening:
            return "the webhook listens no longer"
        if self._serving is None:
            return f"the webhook has no certificate yet; {self._complaint or f'see Secret {self.name}'}"
        if not self._serving.certificate.good(self.clock.now()):
            return f"the webhook's certificate has expired; {self._complaint or f'see Secret {self.name}'}"
        return ""

    @property
    def answers(self) -> Mapping[str, int]:
        """How many pods this replica answered for, by the answer."""
        return self.server.answers

    @property
    def end(self) -> int | None:
        """When the certificate ends by which this replica serves (ms); None where it has none."""
        return None if self._serving is None else self._serving.certificate.end

    async def follow(self) -> None:
        """Serve by what is in the Secret until cancelled."""
        while True:
            try:
                _, stock = await self._read_secret()
            except ApiError as error:
                log.info("the webhook's certificate: %s", error)
            else:
                self._serve(stock)
            await asyncio.sleep(self.pause if self._serving else min(self.pause, 1.0))

    def _serve(self, stock: Stock) -> None:
        pair = serves(stock, self._serving, self.clock.now())
        if pair is not None and pair != self._serving:
            self._context = certificates.server_context(pair)
            self._serving = pair
            log.info(
                "the webhook serves by another certificate, good until %s", format_time(pair.certificate.end)
            )

    async def _held(self) -> bool:
        if any(map(holds_pods, self._pools())):
            return True
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                found = await self._look_after_now()
        except TimeoutError:
            found = "no answer"
        if isinstance(found, str):
            raise CannotSay(f"pools cannot be read: {found}")
        return found

    async def _look_after_now(self) -> bool | str:
        """Look at the pools as they are from now on. Who asks meanwhile shares a look: nobody here is known."""
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look(self._present_look), name="webhook look")
        return await asyncio.shield(self._next_look)

    async def _look(self, before: asyncio.Task[bool | str] | None) -> bool | str:
        """Tell whether the API server knows a pool that holds pods, or why that is not known."""
        if before is not None:
            await asyncio.wait({before})
        self._present_look, self._next_look = self._next_look, None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                pools, _ = await self.client.list(paths.POOLS)
        except (ApiError, TimeoutError) as error:
            return str(error) or "no answer"
        return any(map(holds_pods, pools))

    # --- whoever leads ---

    async def keep(self, may_write: Callable[[], bool] = lambda: True) -> None:
        """Make and renew the certificate, and tell API servers of it, until cancelled."""
        seen: object = None
        since = self.clock.now()
        while True:
            changed = False
            try:
                trust = await self._read_configuration()
                version, stock = await self._read_secret()
                found = stock, trust.names, trust.bundle  # others may write labels meanwhile
                if found != seen:
                    seen, since = found, self.clock.now()
                if may_write():
                    changed = await self._improve(trust, version, stock, since)
                self._complain("")
            except Conflict:
                pass  # somebody else was first: look again
            except ApiError as error:
                self._complain(str(error))
            await asyncio.sleep(min(self.pause, 0.2) if changed else self.pause)

    async def _improve(self, trust: _Trust, version: str, stock: Stock, since: int) -> bool:
        """Take the next step, if there is one; tell whether there was."""
        now = self.clock.now()
        mine = self._serving.certificate if self._serving and self._serving.certificate.good(now) else None
        wanted, make = plan(stock, trust.names, trust.bundle, mine, now, since)
        if make:
            wanted = wanted._replace(coming=self._make(trust.names, now))
        if wanted != stock or not version:
            await self._write_secret(wanted, version, trust.uid)
        self._serve(wanted)
        found = bundle(wanted, now)
        if trust.bundle == set(found):
            return wanted != stock
        await self._write_bundle(trust, found)
        return True

    def _make(self, names: frozenset[str], now: int) -> Pair:
        try:
            return certificates.make(names, now)
        except ValueError as error:
            what = f"no certificate can be made for {', '.join(names)} ({error}); correct where"
            raise Refused(f"{what} MutatingWebhookConfiguration {self.name} leads") from error

    def _complain(self, what: str) -> None:
        if what and what != self._complaint:
            log.error("the webhook's certificate cannot be kept: %s", what)
        self._complaint = what

    # --- the two objects ---

    async def _read_configuration(self) -> _Trust:
        """Return what the configuration says. Raises NotFound where our webhook is not in it."""
        document = await self.client.get(self._configuration)
        meta = document["metadata"]
        for position, webhook in enumerate(document.get("webhooks") or ()):
            if webhook["name"] == GATE_WEBHOOK:
                to = webhook["clientConfig"]
                text = _decoded(to.get("caBundle")).decode(errors="replace")
                return _Trust(
                    meta["resourceVersion"],
                    meta["uid"],
                    position,
                    frozenset({_host(to)}),
                    frozenset(_PEM.findall(text) or ([text] if text else [])),
                )
        raise NotFound(
            f"MutatingWebhookConfiguration {self.name} has no webhook {GATE_WEBHOOK}; install the chart's"
        )

    async def _write_bundle(self, trust: _Trust, found: Collection[str]) -> None:
        pem = base64.b64encode("".join(found).encode()).decode()
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": trust.version},
            {"op": "add", "path": f"/webhooks/{trust.position}/clientConfig/caBundle", "value": pem},
        ]
        await self.client.request("PATCH", self._configuration, patch, content_type=JSON_PATCH)
        log.info("API servers trust %d certificate(s) of the webhook", len(found))

    async def _read_secret(self) -> tuple[str, Stock]:
        """Return the Secret's version, "" where there is none, and what can be read of it."""
        try:
            document = await self.client.get(self._secret)
        except NotFound:
            return "", Stock()
        data = {key: _decoded(text) for key, text in (document.get("data") or {}).items()}
        current, coming = (certificates.read_pair(*map(data.get, keys)) for keys in (_CURRENT, _COMING))
        stock = Stock(current, coming, certificates.read_all(data.get(_FORMER)))
        return document["metadata"]["resourceVersion"], stock

    async def _write_secret(self, stock: Stock, version: str, owner: str) -> None:
        """Write what the Secret should hold, if it is still this version."""
        parts: dict[str, str | None] = dict.fromkeys(_KEYS)
        for keys, pair in ((_CURRENT, stock.current), (_COMING, stock.coming)):
            if pair is not None:
                parts |= zip(keys, (pair.certificate.pem, pair.key), strict=True)
        if stock.former:
            parts[_FORMER] = "".join(each.pem for each in stock.former)
        data = {k: None if v is None else base64.b64encode(v.encode()).decode() for k, v in parts.items()}
        if version:
            await self.client.patch(self._secret, {"metadata": {"resourceVersion": version}, "data": data})
        else:
            await self.client.create(
                self._secrets,
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {
                        "name": self.name,
                        "namespace": self._namespace,
                        # Goes with its configuration, when the chart is uninstalled.
                        "ownerReferences": [
                            {
                                "apiVersion": "admissionregistration.k8s.io/v1",
                                "kind": "MutatingWebhookConfiguration",
                                "name": self.name,
                                "uid": owner,
                            }
                        ],
                    },
                    "data": {key: text for key, text in data.items() if text},
                },
            )
        log.info("the webhook's Secret %s was written", self.name)


def _host(to: Json) -> str:
    """Return the host that API servers expect in the certificate."""
    if service := to.get("service"):
        return f"{service['name']}.{service['namespace']}.svc"
    host = urlsplit(to["url"]).hostname or ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _decoded(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "")
    except (binascii.Error, ValueError):
        return b""
