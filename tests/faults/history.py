"""The record of a trial: every revision of every object that matters, and who wrote each.

Watches run straight at the API server, from a version before the trial on. A break is resumed at the last version, so
that nothing is missed. What an API server forgot over a restart is read from its store, version by version; what that
does not keep either makes the record useless and is an error. Versions of one
store are one sequence, whatever the kind: revisions of all kinds are put in the order in which they happened.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit

from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError
from leasehold.testing.kubeconfig import Connection
from leasehold.testing.processes import wait_until

Object = dict[str, Any]

POOL, LEASE, REPORT, NODE, ELECTION, NAMESPACE = (
    "CapacityPool",
    "CapacityLease",
    "NodeReport",
    "Node",
    "Lease",
    "Namespace",
)
RESOURCES: Final = {
    POOL: "capacitypools.leasehold.dev",
    LEASE: "capacityleases.leasehold.dev",
    REPORT: "nodereports.leasehold.dev",
    NODE: "nodes",
    ELECTION: "leases.coordination.k8s.io",
    NAMESPACE: "namespaces",
}
OPERATOR: Final = "leasehold-operator"
"""How the User-Agent of an operator begins."""

AUDIT_POLICY: Final[Object] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "rules": [
        {
            "level": "RequestResponse",
            "verbs": ["create", "update", "patch", "delete"],
            "resources": [{"group": "leasehold.dev"}, {"group": "coordination.k8s.io"}],
        },
        {"level": "Metadata"},
    ],
}
"""What the API server writes down: of our objects also what each write said and made."""

_PATIENCE: Final = 60.0
_PAUSE_SECONDS: Final = 0.1
_SILENCE_SECONDS: Final = 90.0


@dataclass(frozen=True)
class Write:
    """One request that the API server answered, as its audit log tells it. `version` is what the write made, or 0.

    `time` is when it arrived, `done` when it was answered, in seconds since the epoch by the API server's clock.
    """

    time: float
    done: float
    agent: str
    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    version: int

    @property
    def by_operator(self) -> bool:
        """An operator sent it."""
        return self.agent.startswith(OPERATOR)

    @property
    def changes(self) -> bool:
        """It is a write."""
        return self.verb in ("create", "update", "patch", "delete", "deletecollection")

    @property
    def ours(self) -> bool:
        """It is about an object of Leasehold's."""
        return self.group == "leasehold.dev"


class Revision(NamedTuple):
    """One state of one object. `event` is LISTED (it was there before the trial), ADDED, MODIFIED or DELETED.

    `time` is when the write arrived, by the API server's clock, or where no audit log tells, when it was heard of.
    `agent` is who wrote it, "" where nobody knows; `subresource` what was written.
    """

    number: int
    kind: str
    event: str
    object: Object
    time: float
    agent: str = ""
    subresource: str = ""

    @property
    def uid(self) -> str:
        """The object's uid."""
        return str(self.object["metadata"]["uid"])

    @property
    def key(self) -> str:
        """The object's `namespace/name`, or its name."""
        meta = self.object["metadata"]
        return "/".join(filter(None, (meta.get("namespace"), meta["name"])))


@dataclass(frozen=True)
class Trace:
    """A finished record: revisions in order, writes in the order of their arrival, and when it ended."""

    revisions: tuple[Revision, ...]
    writes: tuple[Write, ...] = ()
    ended: float = 0.0

    def save(self, path: Path) -> Path:
        """Write the trace as JSON lines."""
        with path.open("w") as file:
            for revision in self.revisions:
                file.write(json.dumps({"revision": revision._asdict()}) + "\n")
            for write in self.writes:
                file.write(json.dumps({"write": asdict(write)}) + "\n")
            file.write(json.dumps({"ended": self.ended}) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read a trace that was saved."""
        revisions, writes, ended = [], [], 0.0
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if "revision" in row:
                revisions.append(Revision(**row["revision"]))
            elif "write" in row:
                writes.append(Write(**row["write"]))
            else:
                ended = row["ended"]
        return cls(tuple(revisions), tuple(writes), ended)


class Audit:
    """Reads an API server's audit log as it grows, from where it stood when this was made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes: list[Write] = []
        self._offset = path.stat().st_size if path.exists() else 0
        self._lock = threading.Lock()

    def read(self) -> list[Write]:
        """Take in what was added, and return everything read so far. Raises AssertionError when some of it is gone."""
        with self._lock:
            if self.path.exists():
                with self.path.open("rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    assert size >= self._offset, (
                        f"{self.path} was begun anew: the record of who wrote has a gap"
                    )
                    file.seek(self._offset)
                    data = file.read()
                whole = data[: data.rfind(b"\n") + 1]
                self._offset += len(whole)
                self.writes += [
                    write for line in whole.splitlines() if (write := _write_of(line)) is not None
                ]
            return list(self.writes)


def _write_of(line: bytes) -> Write | None:
    try:
        event = json.loads(line)
    except ValueError:  # an API server that was killed left half a line
        return None
    about = event.get("objectRef") or {}
    if event["stage"] != "ResponseComplete" and event["stage"] != "Panic":
        return None
    answer = event.get("responseObject") or {}
    version = answer.get("metadata", {}).get("resourceVersion") if answer.get("kind") != "Status" else None
    return Write(
        time=_seconds(event["requestReceivedTimestamp"]),
        done=_seconds(event["stageTimestamp"]),
        agent=event.get("userAgent", ""),
        user=event["user"]["username"],
        verb=event["verb"],
        group=about.get("apiGroup", ""),
        resource=about.get("resource", ""),
        subresource=about.get("subresource", ""),
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
        code=(event.get("responseStatus") or {}).get("code", 0),
        version=int(version or 0),
    )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class History:
    """Records from its start to `close`; `trace` is then complete. The raw record is appended to a file at once."""

    def __init__(self, connection: Connection, path: Path, audit: Audit) -> None:
        self.path = path
        self.audit = audit
        self.failure: BaseException | None = None
        self._connection = connection
        self._client = Client(connection)
        self._sockets: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._revisions: list[Revision] = []
        self._live: dict[tuple[str, str], Revision] = {}
        self._closing = False
        self._file = path.open("a")
        self._threads = []
        for kind in RESOURCES:
            version = self._list(kind)
            thread = threading.Thread(
                target=self._follow, args=(kind, version), name=f"history-{kind}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _list(self, kind: str) -> str:
        answer = self._client.list_object(RESOURCES[kind])
        for item in answer["items"]:
            self._note(kind, "LISTED", item)
        return str(answer["metadata"]["resourceVersion"])

    def _follow(self, kind: str, version: str) -> None:
        try:
            while not self._closing:
                version = self._follow_once(kind, version)
        except BaseException as error:
            self.failure = error
            raise

    def _follow_once(self, kind: str, version: str) -> str:
        """Watch until the stream ends; return the version to go on from. Raises ApiError when it is not kept."""
        try:
            for event in self._events(kind, version):
                if event["type"] == "ERROR":
                    raise ApiError("GET", kind, int(event["object"].get("code", 500)), "", event["object"])
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._note(kind, event["type"], event["object"])
        except ApiError as error:
            if error.status == 410:
                return self._catch_up(kind, int(version))
            time.sleep(_PAUSE_SECONDS)
        except (
            OSError,
            ValueError,
            http.client.HTTPException,
        ):  # the API server is away, or broke off in a line
            time.sleep(_PAUSE_SECONDS)
        return version

    def _events(self, kind: str, version: str) -> Iterator[Object]:
        """Watch over a connection that `close` can break off."""
        address = urlsplit(self._connection.url)
        connection = http.client.HTTPSConnection(
            address.hostname or "",
            address.port,
            timeout=_SILENCE_SECONDS,
            context=self._connection.ssl_context(),
        )
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        try:
            connection.connect()
            self._sockets[kind] = connection.sock
            if self._closing:
                return
            path = f"{self._client.resource(RESOURCES[kind]).path()}?{urlencode(query)}"
            connection.request("GET", path, headers=self._connection.headers())
            response = connection.getresponse()
            if response.status >= 400:
                raise ApiError("GET", path, response.status, response.read().decode(), {})
            while line := response.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def _catch_up(self, kind: str, version: int) -> str:
        """Read what was missed, version by version: an API server that restarted forgot it, and its store did not.

        Returns how far it came. Raises ApiError when the store does not keep it any more either.
        """
        resource = RESOURCES[kind]
        self._client.close()  # its idle connections may lead to the API server before this one
        try:
            until = int(self._client.list_object(resource, limit=1)["metadata"]["resourceVersion"])
            for number in range(version + 1, until + 1):
                self._compare(
                    kind,
                    number,
                    self._client.list(resource, resourceVersion=number, resourceVersionMatch="Exact"),
                )
                version = number
        except ApiError as error:
            if error.status == 410:
                raise
            time.sleep(_PAUSE_SECONDS)
        except (OSError, http.client.HTTPException):
            time.sleep(_PAUSE_SECONDS)
        return str(version)

    def _compare(self, kind: str, number: int, listed: list[Object]) -> None:
        """Note what a list of everything at a version has that was not known, and what it has no more."""
        known = {revision.uid: revision.object for revision in self.last() if revision.kind == kind}
        for item in listed:
            if int(item["metadata"]["resourceVersion"]) == number:
                self._note(kind, "MODIFIED" if item["metadata"]["uid"] in known else "ADDED", item)
        for uid in known.keys() - {item["metadata"]["uid"] for item in listed}:
            meta = {**known[uid]["metadata"], "resourceVersion": str(number)}
            self._note(kind, "DELETED", {**known[uid], "metadata": meta})

    def _note(self, kind: str, event: str, item: Object) -> None:
        item["metadata"].pop("managedFields", None)
        number = int(item["metadata"]["resourceVersion"])
        revision = Revision(number, kind, event, item, time.time())
        with self._lock:
            self._revisions.append(revision)
            self._file.write(json.dumps(revision._asdict()) + "\n")
            self._file.flush()
            key = (kind, item["metadata"]["uid"])
            if event == "DELETED":
                self._live.pop(key, None)
            else:
                self._live[key] = revision

    # --- while it runs ---

    def last(self) -> list[Revision]:
        """Return the last revision of every object that is there, as far as heard of."""
        with self._lock:
            return list(self._live.values())

    def live(self, kind: str) -> list[Object]:
        """Return the objects of a kind as they were last heard of."""
        return [revision.object for revision in self.last() if revision.kind == kind]

    def count(self) -> int:
        """Return how many revisions were heard of."""
        with self._lock:
            return len(self._revisions)

    def writes(self) -> list[Write]:
        """Return what the audit log told so far."""
        return self.audit.read()

    # --- its end ---

    def close(self) -> Trace:
        """Wait until everything up to now was recorded, stop, and return the whole.

        Raises AssertionError when the record has a gap.
        """
        try:
            complete = wait_until(lambda: self.failure is not None or self._caught_up(), _PATIENCE, 0.1)
            assert self.failure is None, f"the record has a gap: {self.failure!r}"
            assert complete, "the record did not catch up with what the API server lists"
        finally:
            self._closing = True
            for open_socket in list(self._sockets.values()):
                with contextlib.suppress(OSError):
                    open_socket.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join(_PATIENCE)
            self._file.close()
            self._client.close()
        return self.trace()

    def trace(self) -> Trace:
        """Return what was recorded so far, in order, with who wrote it."""
        writes = self.writes()
        made: dict[tuple[str, str, str, int], Write] = {}
        for write in writes:
            if write.version and write.code < 300:
                made.setdefault((write.resource, write.namespace, write.name, write.version), write)
        with self._lock:
            revisions = list(self._revisions)
        return Trace(tuple(_signed(_ordered(revisions), made)), tuple(writes), time.time())

    def _caught_up(self) -> bool:
        """Tell whether what was recorded ends with what there is now."""
        try:
            for kind, resource in RESOURCES.items():
                there = {
                    item["metadata"]["uid"]: item["metadata"]["resourceVersion"]
                    for item in self._client.list(resource)
                }
                with self._lock:
                    known = {
                        uid: revision.object["metadata"]["resourceVersion"]
                        for (k, uid), revision in self._live.items()
                        if k == kind
                    }
                if kind == ELECTION:  # renewed all the time
                    there, known = dict.fromkeys(there, ""), dict.fromkeys(known, "")
                if there != known:
                    return False
        except (OSError, ApiError):
            return False
        return True


def _ordered(revisions: Iterable[Revision]) -> list[Revision]:
    return sorted(revisions, key=lambda revision: revision.number)


def _signed(
    revisions: Iterable[Revision], made: dict[tuple[str, str, str, int], Write]
) -> Iterator[Revision]:
    plural = {kind: resource.partition(".")[0] for kind, resource in RESOURCES.items()}
    for revision in revisions:
        meta = revision.object["metadata"]
        write = made.get((plural[revision.kind], meta.get("namespace", ""), meta["name"], revision.number))
        if write is None:
            yield revision
        else:
            yield revision._replace(time=write.time, agent=write.agent, subresource=write.subresource)
