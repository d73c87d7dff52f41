"""Requests of commands for people: one lean connection, and refusals that say what to do.

Nothing but the standard library, since each command starts anew: kopf, aiohttp and pydantic would each cost more than
the request.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, urlencode

from leasehold import __version__
from leasehold.adapters.access import Access, find
from leasehold.adapters.lean_http import MERGE_PATCH, Client, Response, UnreachableError
from leasehold.cli.options import CliError

Json = dict[str, Any]

API: Final = "leasehold.dev/v1alpha1"
GROUP: Final = "leasehold.dev"
MANAGER: Final = "leasehold-cli"
MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of one answer: a page of 500 leases that hold 64 slices each is below."""

_PAGE: Final = 500
_WATCH_SECONDS: Final = 300
_SPARE_SECONDS: Final = 15.0
"""After so long beyond its end a silent stream is a dead connection."""
AGAIN_SECONDS: Final = 1.0
_EDITS: Final = frozenset({"POST", "PATCH", "PUT", "DELETE"})


class Refused(CliError):
    """The API server answered and did not do it. `status` is the HTTP status, `reason` its one word for it."""

    def __init__(self, message: str, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def passing(self) -> bool:
        """Whether it may be over in a while: the server is busy or not well."""
        return self.status == 429 or self.status >= 500


class Kind:
    """One of our kinds, and how people may call it."""

    def __init__(self, plural: str, kind: str, namespaced: bool, *called: str) -> None:
        self.plural = plural
        self.kind = kind
        self.namespaced = namespaced
        self.called = frozenset({plural, kind.lower(), f"{plural}.{GROUP}", *called})

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return the path of one object, of all in a namespace, or of all."""
        within = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        return f"/apis/{API}{within}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")


LEASES: Final = Kind("capacityleases", "CapacityLease", True, "lease", "leases", "clease", "cleases")
POOLS: Final = Kind("capacitypools", "CapacityPool", False, "pool", "pools", "cpool", "cpools")
REPORTS: Final = Kind("nodereports", "NodeReport", False, "report", "reports", "nreport", "nreports")
KINDS: Final = (LEASES, POOLS, REPORTS)


class Cluster:
    """The API server that a person means, as that person."""

    def __init__(self, access: Access, timeout: float = 30.0) -> None:
        self.access = access
        self._client = Client(
            access.credentials,
            user_agent=f"leasehold/{__version__}",
            timeout=timeout,
            max_body=MAX_ANSWER,
        )
        self._server_time = 0.0
        self._asked_at = 0.0

    def now(self) -> float:
        """Return the time in seconds since the epoch, by the server's clock once it has answered.

        Ages and ends are counted by it, as kubectl does: this machine's clock may be off.
        """
        if not self._server_time:
            return time.time()
        return self._server_time + time.monotonic() - self._asked_at

    def get(self, path: str, **query: str | int) -> Json:
        """Read one document. Raises Refused."""
        return self.ask("GET", path, query=query)

    def create(self, path: str, body: Json) -> Json:
        """Create an object. Raises Refused."""
        return self.ask("POST", path, body, query={"fieldManager": MANAGER})

    def patch(self, path: str, body: Json) -> Json:
        """Apply a merge patch. Raises Refused."""
        return self.ask("PATCH", path, body, MERGE_PATCH, {"fieldManager": MANAGER})

    def delete(self, path: str, uid: str = "") -> None:
        """Delete an object, only that of the uid if one is given. One that is gone already is no matter."""
        body = {"preconditions": {"uid": uid}} if uid else None
        try:
            self.ask("DELETE", path, body)
        except Refused as refusal:
            if refusal.status not in (404, 409):
                raise

    def pages(self, path: str, **query: str | int) -> Iterator[tuple[list[Json], str]]:
        """Yield the items of a list page by page, and the version from which to watch on. Raises Refused."""
        version, token = "", ""
        while True:
            asked = {**query, "limit": _PAGE, **({"continue": token} if token else {})}
            page = self.ask("GET", path, query=asked)
            metadata = page.get("metadata") or {}
            version = version or metadata.get("resourceVersion", "")
            yield page.get("items") or [], version
            token = metadata.get("continue", "")
            if not token:
                return

    def list(self, path: str, **query: str | int) -> list[Json]:
        """Return all items of a list. Raises Refused."""
        return [item for items, _ in self.pages(path, **query) for item in items]

    def watch(
        self,
        path: str,
        version: str,
        seconds: float = _WATCH_SECONDS,
        query: Mapping[str, str | int] = MappingProxyType({}),
    ) -> Iterator[tuple[str, Json]]:
        """Yield what changes from a version on, until the server ends the stream, after so many seconds at most.

        Raises Refused, with status 410 where the version is too old: list again.
        """
        whole = max(1, int(seconds))
        asked = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": whole,
        }
        for line in self._client.lines(f"{path}?{urlencode(asked)}", whole + _SPARE_SECONDS):
            try:
                event = json.loads(line)
            except ValueError as error:
                server = self.access.credentials.server
                raise UnreachableError(
                    f"{server}: what came is no watch; is a gateway in between?"
                ) from error
            if event.get("kind") == "Status":
                raise self._refused("GET", path, event, event.get("code", 0))
            if event["type"] == "ERROR":
                raise self._refused("GET", path, event["object"], event["object"].get("code", 0))
            yield event["type"], event["object"]

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        query: Mapping[str, str | int] | None = None,
    ) -> Json:
        """Send a request and return the answer's document. Raises Refused."""
        response = self.answer(method, path, body, content_type, query)
        if response.status >= 300:
            raise self._refused(method, path, response.document(), response.status)
        return response.document()

    def answer(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        query: Mapping[str, str | int] | None = None,
    ) -> Response:
        """Send a request and return the answer, whatever it is. One that comes too early is sent again, once."""
        target = f"{path}?{urlencode(query)}" if query else path
        response = self._client.call(method, target, body, content_type)
        if response.status == 429:
            time.sleep(min(response.retry_after() or 1.0, 10.0))
            response = self._client.call(method, target, body, content_type)
        date = response.date()
        if date is not None:
            self._asked_at, self._server_time = time.monotonic(), date
        return response

    def date(self) -> float | None:
        """Return the server's time at its last answer, in seconds since the epoch; None where it told none."""
        return self._server_time or None

    def until(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        test: Callable[[Json], bool],
        *,
        timeout: float | None,
        look: Callable[[Json], None] = lambda _: None,
    ) -> Json | None:
        """Wait until an object passes a test; return it, or None when the time is over.

        `look` is shown every state on the way. A connection that breaks is made anew for as long as there is time.
        Raises Refused, with status 404 when the object is gone.
        """
        ends = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                for found in self._states(kind, namespace, name, ends):
                    look(found)
                    if test(found):
                        return found
                    if time.monotonic() >= ends:
                        return None
            except UnreachableError:
                if time.monotonic() >= ends:
                    raise
                time.sleep(AGAIN_SECONDS)
            except Refused as refusal:
                if refusal.status != 410 and not refusal.passing:
                    raise
                time.sleep(AGAIN_SECONDS)

    def _states(self, kind: Kind, namespace: str, name: str, ends: float) -> Iterator[Json]:
        """Yield an object as it is, then as it changes, until it is gone or the server ends the stream."""
        found = self.get(kind.path(namespace, name))
        yield found
        seconds = max(min(ends - time.monotonic(), _WATCH_SECONDS), 0)
        version, which = found["metadata"]["resourceVersion"], {"fieldSelector": f"metadata.name={name}"}
        for type_, item in self.watch(kind.path(namespace), version, seconds, which):
            if type_ == "DELETED":
                return  # the read that follows says whether another has its name
            if type_ != "BOOKMARK":
                yield item

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _refused(self, method: str, path: str, status: Json, code: int) -> Refused:
        message = str(status.get("message") or f"the server answered {method} {path} with {code}")
        return Refused(
            message + self._remedy(method, path, status, code), code, str(status.get("reason") or "")
        )

    def _remedy(self, method: str, path: str, status: Json, code: int) -> str:
        context = f"context {self.access.context!r}" if self.access.context else "the service account"
        if code == 401:
            server = self.access.credentials.server
            return f"\n{server} does not know you: log in again, or correct the user of {context}."
        if code == 403:
            role = "leasehold-editor" if method in _EDITS else "leasehold-viewer"
            if POOLS.plural in path and method in _EDITS:
                role = "leasehold-admin"
            return f"\nAsk whoever runs the cluster for the ClusterRole {role}."
        if code == 404 and GROUP in path and not status.get("details", {}).get("name"):
            return f"\nLeasehold is not installed in the cluster of {context}; `leasehold doctor` tells more."
        if code >= 500 or code == 429:
            return "\nThe server is busy or not well; try again in a while."
        return ""


def connect(options: argparse.Namespace) -> Cluster:
    """Return the cluster that the options name."""
    access = find(options.kubeconfig, options.context, cluster=options.cluster, user=options.user)
    return Cluster(access, options.request_timeout or 30)


def namespace_of(options: argparse.Namespace, cluster: Cluster) -> str:
    """Return the namespace to work in; "" is all of them."""
    if getattr(options, "all_namespaces", False):
        return ""
    return str(options.namespace or cluster.access.namespace)


def condition(document: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """Return one of an object's conditions; empty where it is not there."""
    with suppress(AttributeError, TypeError):
        for row in (document.get("status") or {}).get("conditions") or ():
            if row.get("type") == type_:
                found: Mapping[str, Any] = row
                return found
    return {}
