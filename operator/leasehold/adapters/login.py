"""How the operator reaches its cluster: a kubeconfig that was named, or the pod's service account.

One session serves kopf and our own client. A service account's token is read again before it grows old, since the
kubelet renews the file about hourly.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from aiohttp.connector import Connection

from leasehold.adapters.kube.client import KubeClient
from leasehold.settings import BadSetting

_TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TOKEN_AGE_SECONDS = 60.0
USER_AGENT = "leasehold-operator"
DEFAULT_NAMESPACE = "leasehold-system"
_ENVIRONMENT = threading.Lock()

log = logging.getLogger(__name__)


class _FreshToken:
    """Puts the current content of a token file on each request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read_at = -math.inf
        self.header = ""

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if not self.header or time.monotonic() - self.read_at > _TOKEN_AGE_SECONDS:
            self._read()
        request.headers["Authorization"] = self.header
        response = await handler(request)
        if response.status == 401:
            self.read_at = -math.inf
        return response

    def _read(self) -> None:
        try:
            self.header = f"Bearer {self.path.read_text().strip()}"
        except OSError as error:
            if not self.header:
                raise aiohttp.ClientConnectionError(f"no token to be had: {error}") from error
            log.warning(
                "the token in %s cannot be read again: %s; using the one from before", self.path, error
            )
        self.read_at = time.monotonic()


class _Connector(aiohttp.TCPConnector):
    """Connections of which one that the event loop refuses is a failed one, as any other is.

    uvloop raises RuntimeError where a new connection gets the file descriptor of one that it has not yet noticed to be
    dead (seen when an API server was killed). No library expects that: it would end the operator.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the library's own name
    ) -> Connection:
        try:
            return await super().connect(req, traces, timeout)
        except RuntimeError as error:
            raise aiohttp.ClientConnectionError(f"the event loop refused a connection: {error}") from error


def election_namespace(named: str, file: Path = _NAMESPACE_FILE) -> str:
    """Return the namespace of the election's Leases: the one that was named, the pod's, or the one we install into."""
    if named:
        return named
    try:
        return file.read_text().strip() or DEFAULT_NAMESPACE
    except OSError:
        return DEFAULT_NAMESPACE


def connect(kubeconfig: str, identity: str = "", token_file: Path = _TOKEN_FILE) -> KubeClient:
    """Open a session to the cluster of a kubeconfig file, or of the pod when none is named.

    `identity` tells replicas apart in the API server's audit log. Never falls back to the user's current context.
    Raises BadSetting when there is neither.
    """
    settings = kopf.OperatorSettings()
    if kubeconfig:
        if not Path(kubeconfig).is_file():
            raise BadSetting(f"there is no kubeconfig at {kubeconfig}; correct --kubeconfig")
        info = _read(kubeconfig, settings)
        middlewares: tuple[aiohttp.ClientMiddlewareType, ...] = ()
    else:
        info = _in_pod(settings)
        middlewares = (_FreshToken(token_file),)
    if info is None or not info.server:
        raise BadSetting(
            "no cluster to talk to: give --kubeconfig FILE, or run in a pod with a service account"
        )
    session = aiohttp.ClientSession(
        connector=_Connector(limit=0, ssl=info.as_ssl_context()),
        headers={
            **info.as_http_headers(),
            "User-Agent": f"{USER_AGENT}/{identity}".rstrip("/"),
            # Else the API server compresses every long list, which costs it more than it saves inside a cluster.
            "Accept-Encoding": "identity",
        },
        middlewares=middlewares,
    )
    return KubeClient(info.server, session)


def _in_pod(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo | None:
    """Return what the pod's service account says, at the address that the kubelet gives to every container.

    kopf takes the API server's name instead, which needs the cluster's DNS; that may be down, or out of reach.
    """
    info = kopf.login_with_service_account(settings=settings)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if info is None or not host:
        return info
    authority = f"[{host}]" if ":" in host else host
    return dataclasses.replace(info, server=f"https://{authority}:{port}")


def _read(kubeconfig: str, settings: kopf.OperatorSettings) -> kopf.ConnectionInfo | None:
    """Read a kubeconfig file as kopf does: it takes the name from the environment, which all threads share."""
    with _ENVIRONMENT:
        before = os.environ.get("KUBECONFIG")
        os.environ["KUBECONFIG"] = kubeconfig
        try:
            return kopf.login_with_kubeconfig(settings=settings)
        except Exception as error:  # a YAML error, a missing key, a wrong type: whatever the file provokes
            raise BadSetting(f"the kubeconfig {kubeconfig} cannot be used: {error!r}; correct it") from error
        finally:
            if before is None:
                del os.environ["KUBECONFIG"]
            else:
                os.environ["KUBECONFIG"] = before
