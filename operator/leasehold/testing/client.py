"""A small synchronous Kubernetes client on the standard library, for tests and the demo.

Resources are named as on kubectl's command line: by plural, singular, short name, kind, or with the group
behind a dot ("leases.coordination.k8s.io"). Objects are plain dictionaries.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode, urlsplit

import yaml

from leasehold.testing.errors import ApiError, UnknownResourceError
from leasehold.testing.kubeconfig import Connection

Object = dict[str, Any]
Objects = list[Object]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_FIELD_MANAGER = "leasehold-testing"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_IDLE_SECONDS = 30  # well below the 90 s after which the API server closes an idle connection


class Event(NamedTuple):
    """One watch event: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: Object


@dataclass(frozen=True)
class Resource:
    """Where the objects of one kind live."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    names: frozenset[str]

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """Return the path of a collection, of one object, or of its subresource."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(quote(part, safe="") for part in parts)


class Client:
    """Speaks to one API server as one identity; threads may share it. Close it, or use it in a `with`."""

    def __init__(self, connection: Connection, *, timeout_seconds: float = 30) -> None:
        self.connection = connection
        self._timeout = timeout_seconds
        self._ssl = connection.ssl_context() if connection.url.startswith("https:") else None
        self._address = urlsplit(connection.url)
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._resources: list[Resource] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections. The client can still be used: it opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    # Objects

    def get(self, resource: str, name: str, namespace: str | None = None) -> Object:
        """Read one object."""
        return self._json("GET", self.resource(resource).path(namespace, name))

    def find(self, resource: str, name: str, namespace: str | None = None) -> Object | None:
        """Read one object; None when there is none."""
        try:
            return self.get(resource, name, namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, resource: str, namespace: str | None = None, **query: str | int) -> Objects:
        """Read all objects of a kind, in one namespace or everywhere; `labelSelector=` and such narrow it."""
        return list(self.list_object(resource, namespace, **query)["items"])

    def list_object(self, resource: str, namespace: str | None = None, **query: str | int) -> Object:
        """Read the list object itself; its `metadata.resourceVersion` is where a watch can start."""
        return self._json("GET", self.resource(resource).path(namespace), query=query)

    def create(self, manifest: Mapping[str, Any], namespace: str | None = None) -> Object:
        """Create an object. The namespace is the manifest's own, else the one given here."""
        resource, namespace, _ = self._place(manifest, namespace)
        query = {"fieldManager": _FIELD_MANAGER, "fieldValidation": "Strict"}
        return self._json("POST", resource.path(namespace), manifest, query=query)

    def replace(self, manifest: Mapping[str, Any], *, subresource: str | None = None) -> Object:
        """Write a whole object back; its resourceVersion must still be current."""
        resource, namespace, name = self._place(manifest, None)
        query = {"fieldManager": _FIELD_MANAGER, "fieldValidation": "Strict"}
        return self._json("PUT", resource.path(namespace, name, subresource), manifest, query=query)

    def patch(
        self,
        resource: str,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        content_type: str = MERGE_PATCH,
    ) -> Object:
        """Change an object, by a merge patch unless another content type is given."""
        path = self.resource(resource).path(namespace, name, subresource)
        query = {"fieldManager": _FIELD_MANAGER, "fieldValidation": "Strict"}
        return self._json("PATCH", path, patch, query=query, content_type=content_type)

    def delete(
        self,
        resource: str,
        name: str,
        namespace: str | None = None,
        *,
        missing_ok: bool = False,
        **options: Any,
    ) -> None:
        """Ask for an object's deletion; `propagationPolicy=`, `gracePeriodSeconds=` and such are options."""
        try:
            self._json("DELETE", self.resource(resource).path(namespace, name), options or None)
        except ApiError as error:
            if error.status != 404 or not missing_ok:
                raise

    def delete_all(self, resource: str, namespace: str | None = None, **query: str | int) -> None:
        """Ask for the deletion of all objects of a kind, in a namespace if the kind lives in one."""
        self._json("DELETE", self.resource(resource).path(namespace), query=query)

    def apply(
        self, manifest: Mapping[str, Any], namespace: str | None = None, *, manager: str = _FIELD_MANAGER
    ) -> Object:
        """Create or change an object by server-side apply, taking over fields that others own."""
        resource, namespace, name = self._place(manifest, namespace)
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        return self._json(
            "PATCH", resource.path(namespace, name), manifest, query=query, content_type=APPLY_PATCH
        )

    def apply_files(self, paths: Iterable[Path]) -> Objects:
        """Apply every document of the YAML files, in order."""
        return [
            self.apply(document)
            for path in paths
            for document in yaml.safe_load_all(path.read_text())
            if document
        ]

    def watch(
        self,
        resource: str,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
        timeout_seconds: float = 30,
        **query: str | int,
    ) -> Iterator[Event]:
        """Yield changes until the time is over or the server ends the watch.

        Without a resource version the stream starts with an ADDED event for everything there is. A version
        that is too old raises ApiError 410.
        """
        query |= {"watch": "true", "timeoutSeconds": max(1, round(timeout_seconds))}
        if resource_version is not None:
            query["resourceVersion"] = resource_version
        path = self.resource(resource).path(namespace)
        connection = self._connect(timeout_seconds + 5)
        try:
            response = self._send(connection, "GET", _with_query(path, query), None, {})
            if response.status >= 400:
                raise _error("GET", path, response.status, response.read())
            while line := response.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError("GET", path, int(event["object"].get("code", 500)), "", event["object"])
                yield Event(event["type"], event["object"])
        finally:
            connection.close()

    def wait(
        self,
        resource: str,
        name: str,
        namespace: str | None = None,
        *,
        until: Callable[[Object], bool],
        timeout_seconds: float = 30,
    ) -> Object:
        """Poll an object until it exists and the condition holds; raise TimeoutError with its last state."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = self.find(resource, name, namespace)
            if found is not None and until(found):
                return found
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{resource}/{name} after {timeout_seconds} s: {json.dumps(found, indent=2)}"
                )
            time.sleep(0.05)

    def wait_gone(
        self, resource: str, name: str, namespace: str | None = None, timeout_seconds: float = 30
    ) -> None:
        """Poll until an object does not exist any more."""
        deadline = time.monotonic() + timeout_seconds
        while (found := self.find(resource, name, namespace)) is not None:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{resource}/{name} is still there after {timeout_seconds} s: {found['metadata']}"
                )
            time.sleep(0.05)

    def wait_established(self, names: Iterable[str], timeout_seconds: float = 30) -> None:
        """Wait until custom resource definitions are served: established, and answering a list."""
        for name in names:
            definition = self.wait(
                "customresourcedefinitions.apiextensions.k8s.io",
                name,
                until=lambda crd: has_condition(crd, "Established"),
                timeout_seconds=timeout_seconds,
            )
            spec = definition["spec"]
            version = next(v["name"] for v in spec["versions"] if v["served"])
            path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"
            self._wait_served(path, timeout_seconds)
        self._resources = []

    def _wait_served(self, path: str, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                self._json("GET", path, query={"limit": 1})
            except ApiError as error:
                if error.status != 404 or time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    # Discovery

    def resource(self, name: str) -> Resource:
        """Return the resource that a kubectl-like name means; ask the server when it is not known yet."""
        for _ in range(2):
            for resource in self._resources:
                if name.lower() in resource.names:
                    return resource
            self._resources = list(self._discover())
        raise UnknownResourceError(
            f"{self.connection.url} serves no resource named {name!r}: is its CRD installed?"
        )

    def _place(
        self, manifest: Mapping[str, Any], namespace: str | None
    ) -> tuple[Resource, str | None, str | None]:
        group, _, version = str(manifest["apiVersion"]).rpartition("/")
        resource = self.resource(".".join(filter(None, (str(manifest["kind"]), version, group))))
        metadata = manifest["metadata"]
        return resource, metadata.get("namespace") or namespace, metadata.get("name")

    def _discover(self) -> Iterator[Resource]:
        for path in ("/api", "/apis"):
            found = self._json("GET", path, headers={"Accept": _DISCOVERY})
            for group in found["items"]:
                group_name = group["metadata"].get("name", "")
                for order, version in enumerate(group["versions"]):
                    for entry in version["resources"]:
                        yield _resource(group_name, version["version"], entry, preferred=order == 0)

    # Transport

    def raw(self, method: str, path: str, body: Any = None, **query: str | int) -> bytes:
        """Send one request to a path as it stands and return the body of the answer."""
        return self._request(method, path, body, query=query)

    def request(self, method: str, path: str, body: Any = None, **query: str | int) -> Object:
        """Send one request to a path as it stands and return the object in the answer."""
        return self._json(method, path, body, query=query)

    def _json(self, method: str, path: str, body: Any = None, **options: Any) -> Object:
        answer = self._request(method, path, body, **options)
        return dict(json.loads(answer))

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str | int] | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        extra = dict(headers or {}) | ({"Content-Type": content_type} if data is not None else {})
        with self._borrow() as connection:
            response = self._send(connection, method, _with_query(path, query or {}), data, extra)
            answer = response.read()
        if response.status >= 400:
            raise _error(method, path, response.status, answer)
        return answer

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        data: bytes | None,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        connection.putrequest(method, target)
        for key, value in (
            {"Accept": "application/json"} | self.connection.headers() | dict(headers)
        ).items():
            connection.putheader(key, value)
        for group in self.connection.impersonate_groups:  # one header per group
            connection.putheader("Impersonate-Group", group)
        if data is not None:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        return connection.getresponse()

    @contextmanager
    def _borrow(self) -> Iterator[http.client.HTTPConnection]:
        connection = self._take_idle() or self._connect(self._timeout)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append((time.monotonic(), connection))

    def _take_idle(self) -> http.client.HTTPConnection | None:
        with self._lock:
            idle, self._idle = self._idle, []
            oldest = time.monotonic() - _IDLE_SECONDS
            fresh = [entry for entry in idle if entry[0] >= oldest]
            stale = [entry for entry in idle if entry[0] < oldest]
            taken = fresh.pop()[1] if fresh else None
            self._idle = fresh
        for _, connection in stale:
            connection.close()
        return taken

    def _connect(self, timeout_seconds: float) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._ssl is None:
            return http.client.HTTPConnection(host, port, timeout=timeout_seconds)
        return http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=self._ssl)


def has_condition(obj: Mapping[str, Any], condition: str, status: str = "True") -> bool:
    """Tell whether an object's status carries a condition with this status."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(entry["type"] == condition and entry["status"] == status for entry in conditions)


def _resource(group: str, version: str, entry: Mapping[str, Any], *, preferred: bool) -> Resource:
    kind, plural = entry["responseKind"]["kind"], entry["resource"]
    words = {plural, kind.lower(), entry.get("singularResource") or plural, *entry.get("shortNames", ())}
    names = {".".join(filter(None, (word, version, group))) for word in words}
    if preferred:
        names |= words | {f"{word}.{group}" for word in words if group}
    return Resource(group, version, plural, kind, entry["scope"] == "Namespaced", frozenset(names))


def _with_query(path: str, query: Mapping[str, str | int]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _error(method: str, path: str, status: int, answer: bytes) -> ApiError:
    text = answer.decode(errors="replace")
    try:
        body = json.loads(text)
    except ValueError:
        body = {}
    return ApiError(method, path, status, text, body if isinstance(body, dict) else {})
