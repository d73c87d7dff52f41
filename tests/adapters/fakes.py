"""An API server of a few dozen lines: versions, compare-and-swap, the status subresource, and faults on request."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from tests.builders import pod_document

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.cluster import Cluster
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.errors import Conflict, NotFound
from leasehold.adapters.metrics import Metrics
from leasehold.adapters.pods import LeasedPods, OtherPods, Placeholders
from leasehold.adapters.pool.worker import PoolWorker
from leasehold.adapters.recorder import Subject
from leasehold.adapters.tools import Tools
from leasehold.api.names import LEASE_LABEL, PLACEHOLDER_LABEL
from leasehold.core.lifecycle import Notice
from leasehold.core.status import apply_patch
from leasehold.core.times import format_time

Object = dict[str, Any]
WRITES = ("PATCH", "PUT")
WRITERS = 8
"""How many requests a replica sends at once."""
Fault = Callable[[str, str, Any], "Exception | str | None"]
"""Called for each request; returns an error to raise instead of doing it, or `("after", error)` to do it first."""


class FakeKube:
    """Keeps objects by path. `faults` are asked in turn; the first error found is raised."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.faults: list[Callable[[str, str, Any], Any]] = []
        self.watchers: list[Callable[[str, Object], None]] = []
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    def add(self, path: str, document: Object) -> Object:
        document["metadata"].setdefault("uid", f"uid-{next(self._uids):04d}")
        document["metadata"].setdefault("generation", 1)
        document["metadata"].setdefault("creationTimestamp", "2026-11-22T19:00:00Z")
        return self._store(path, document, "ADDED")

    def remove(self, path: str) -> None:
        gone = self.objects.pop(path)
        gone["metadata"]["resourceVersion"] = str(next(self._versions))
        self._tell("DELETED", gone)

    def touch(self, path: str, patch: Mapping[str, Any]) -> Object:
        """Change an object as somebody else would."""
        changed = apply_patch(self.objects[path], patch)
        if "spec" in patch:
            changed["metadata"] = {
                **changed["metadata"],
                "generation": changed["metadata"]["generation"] + 1,
            }
        return self._store(path, changed, "MODIFIED")

    def _store(self, path: str, document: Object, kind: str) -> Object:
        document["metadata"] = {**document["metadata"], "resourceVersion": str(next(self._versions))}
        self.objects[path] = document
        self._tell(kind, document)
        return document

    def _tell(self, kind: str, document: Object) -> None:
        for watcher in self.watchers:
            watcher(kind, document)

    async def _ask(self, method: str, path: str, body: Any) -> Any:
        await asyncio.sleep(0)
        self.requests.append((method, path, body))
        for fault in self.faults:
            found = fault(method, path, body)
            if isinstance(found, Exception):
                raise found
            if found is not None:
                return found
        return None

    async def get(self, path: str) -> Object:
        await self._ask("GET", path, None)
        if path not in self.objects:
            raise NotFound(f"no {path}", 404)
        return self.objects[path]

    async def list(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        metadata_only: bool = False,
        read: Callable[[Object], Any] = lambda item: item,
    ) -> tuple[list[Any], str]:
        selected = (query or {}).get("fieldSelector", "")
        version = str(next(self._versions))
        plural = path.rpartition("/")[2]
        found = [
            document
            for at, document in self.objects.items()
            if f"/{plural}/" in at and _selects(selected, document)
        ]
        await self._ask("LIST", path, query)  # what was found is on its way meanwhile
        return [read(document) for document in found], version

    async def patch(self, path: str, patch: Object) -> Object:
        after = await self._ask("PATCH", path, patch)
        at = path.removesuffix("/status")
        if at not in self.objects:
            raise NotFound(f"no {path}", 404)
        known = self.objects[at]
        asked = patch.get("metadata", {}).get("resourceVersion")
        if asked is not None and asked != known["metadata"]["resourceVersion"]:
            raise Conflict(f"{path} was written in between", 409)
        body = {"status": patch["status"]} if path != at else patch
        changed = apply_patch(known, body)
        meta = changed["metadata"]
        if "deletionTimestamp" in meta and not meta.get("finalizers"):
            self.remove(at)
            return changed
        answer = changed if changed == known else self._store(at, changed, "MODIFIED")
        if after is not None:
            raise after[1]
        return answer

    async def merge(self, path: str, patch: Object) -> Object:
        """Apply a strategic merge patch, as far as pods need it: see `_merged`."""
        after = await self._ask("PATCH", path, patch)
        at = path.removesuffix("/status").removesuffix("/resize")
        if at not in self.objects:
            raise NotFound(f"no {path}", 404)
        known = self.objects[at]
        meta = dict(patch.get("metadata", {}))
        for name in ("resourceVersion", "uid"):
            asked = meta.pop(name, None)
            if asked is not None and asked != known["metadata"][name]:
                raise Conflict(f"{path} was written in between", 409)
        part = "status" if path.endswith("/status") else "spec"
        changed = _merged(known, {"metadata": meta, part: patch.get(part, {})})
        answer = known if changed == known else self._store(at, changed, "MODIFIED")
        if after is not None:
            raise after[1]
        return answer

    async def apply(self, path: str, document: Object) -> Object:
        """Server-side apply of a status: of its lists the rows that the document names, each as a whole."""
        after = await self._ask("APPLY", path, document)
        at = path.removesuffix("/status")
        if at not in self.objects:
            raise NotFound(f"no {path}", 404)
        known = self.objects[at]
        for name in ("resourceVersion", "uid"):
            if document["metadata"][name] != known["metadata"][name]:
                raise Conflict(f"{path} was written in between", 409)
        status = dict(known.get("status") or {})
        for part, rows in document["status"].items():
            key = "type" if part == "conditions" else "name"
            named = {row[key]: row for row in rows}
            kept = [row for row in status.get(part, ()) if row[key] not in named]
            status[part] = [*kept, *named.values()]
        answer = self._store(at, {**known, "status": status}, "MODIFIED")
        if after is not None:
            raise after[1]
        return answer

    async def evict(self, namespace: str, name: str, uid: str) -> None:
        """Begin the end of a pod that runs; one that does not is gone at once."""
        path = paths.pod(namespace, name)
        after = await self._ask("POST", f"{path}/eviction", uid)
        if path not in self.objects:
            raise NotFound(f"no {path}", 404)
        known = self.objects[path]
        if known["metadata"]["uid"] != uid:
            raise Conflict(f"{path} is another by now", 409)
        if known["spec"].get("nodeName"):
            self.touch(path, {"metadata": {"deletionTimestamp": "2026-11-22T19:00:00Z"}})
        else:
            self.remove(path)
        if after is not None:
            raise after[1]

    async def create(self, path: str, body: Object) -> Object:
        after = await self._ask("POST", path, body)
        at = f"{path}/{body['metadata']['name']}"
        if at in self.objects:
            raise Conflict(f"{at} already exists", 409)
        meta = dict(body["metadata"])
        if "/namespaces/" in path:
            meta.setdefault("namespace", path.split("/namespaces/")[1].split("/")[0])
        answer = self.add(at, {**body, "metadata": meta})
        if after is not None:
            raise after[1]
        return answer

    async def replace_status(self, path: str, document: Object) -> str:
        after = await self._ask("PUT", f"{path}/status", document)
        if path not in self.objects:
            raise NotFound(f"no {path}", 404)
        known = self.objects[path]
        for name in ("resourceVersion", "uid"):
            if document["metadata"][name] != known["metadata"][name]:
                raise Conflict(f"{path} was written in between", 409)
        changed = {**known, "status": document["status"]}
        answer = known if changed == known else self._store(path, changed, "MODIFIED")
        if after is not None:
            raise after[1]
        version: str = answer["metadata"]["resourceVersion"]
        return version

    async def delete(self, path: str, uid: str) -> None:
        await self._ask("DELETE", path, uid)
        if path not in self.objects:
            raise NotFound(f"no {path}", 404)
        self.remove(path)

    def writes(self, path: str) -> list[Object]:
        return [body for method, at, body in self.requests if method in WRITES and at.startswith(path)]


_KEYS = {"schedulingGates": "name", "conditions": "type", "containers": "name"}
"""The lists of a Pod that are merged by a key; all others that we write are replaced."""


def _merged(before: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    """A strategic merge: null takes out, lists with a key are merged by it, and `$patch: delete` takes a row out."""
    result = dict(before)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            result[name] = _merged(result.get(name) or {}, value)
        elif name in _KEYS:
            rows = {row[_KEYS[name]]: row for row in result.get(name) or ()}
            for row in value:
                key = row[_KEYS[name]]
                rows[key] = _merged(rows.get(key, {}), row)
            result[name] = [row for row in rows.values() if row.get("$patch") != "delete"]
            if not result[name]:
                del result[name]
        else:
            result[name] = value
    return result


def _selects(selector: str, document: Object) -> bool:
    """Field selectors on the pool's name: `=` and `!=`, with commas between."""
    for part in filter(None, selector.split(",")):
        field, _, wanted = part.partition("=")
        assert field.removesuffix("!") == "spec.poolRef.name"
        named = (document["spec"].get("poolRef") or {}).get("name", "")
        if (named == wanted) == field.endswith("!"):
            return False
    return True


class FakeRecorder:
    def __init__(self) -> None:
        self.notes: list[tuple[Subject, Notice]] = []

    def note(self, subject: Subject, notice: Notice) -> None:
        self.notes.append((subject, notice))

    def reasons(self) -> list[str]:
        return [str(notice.reason) for _, notice in self.notes]


def failing(error: Exception, *, times: int = 10**9, method: str = "", path: str = "") -> Fault:
    """A fault: requests that match (writes, if no method is named) raise the error, so many times."""
    left = [times]

    def fault(asked: str, at: str, body: Any) -> Any:
        if asked in ([method] if method else WRITES) and path in at and left[0] > 0:
            left[0] -= 1
            return error
        return None

    return fault


def lost(error: Exception, *, method: str = "", path: str = "") -> Fault:
    """A fault: one request that matches (a write, if no method is named) is done, and its answer gets lost."""
    left = [1]

    def fault(asked: str, at: str, body: Any) -> Any:
        if asked in ([method] if method else WRITES) and path in at and left[0]:
            left[0] = 0
            return ("after", error)
        return None

    return fault


# --- objects ---


POOL_STATUS = f"{paths.pool('ci')}/status"


def lease_path(name: str) -> str:
    return paths.lease("team", name)


def lease_document(name: str, pool: str = "ci", cpu: str = "1", **spec: Any) -> Object:
    return {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": {"name": name, "namespace": "team", "finalizers": ["leasehold.dev/release"]},
        "spec": {"poolRef": {"name": pool}, "resources": {"cpu": cpu}, **spec},
    }


def gate_document(name: str = "ci", **enforcement: Any) -> Object:
    """A pool that holds pods to their leases."""
    return pool_document(name, enforcement={"mode": "Gate", **enforcement})


def pool_document(name: str = "ci", **spec: Any) -> Object:
    return {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityPool",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {}, "leasePolicy": {"gracePeriodSeconds": 0}, **spec},
    }


def node_document(name: str = "n1", cpu: str = "4", **labels: str) -> Object:
    has = {"cpu": cpu, "memory": "8Gi", "ephemeral-storage": "10Gi"}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": has, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def report_document(name: str = "n1", *, at: int, **usage: str) -> Object:
    rows = [{"name": key, "p90": value, "unmanaged": value} for key, value in usage.items()]
    return {
        "kind": "NodeReport",
        "metadata": {"name": name},
        "spec": {},
        "status": {"reportTime": format_time(at), "bootID": "b", "sequence": 1, "usage": rows},
    }


def waiting_pod(name: str, lease: str | None, *, cpu: str = "1", **how: Any) -> Object:
    """A pod that was made a minute ago, by the clock on the wall."""
    document = pod_document(name, lease=lease, cpu=cpu, memory=None, namespace="team", **how)
    document["metadata"]["creationTimestamp"] = format_time(SteadyClock().now() // 1000 * 1000 - 60_000)
    return document


def pod_path(name: str, namespace: str = "team") -> str:
    return paths.pod(namespace, name)


class FakeRight:
    """The right to lead, until it is taken away."""

    def __init__(self) -> None:
        self.is_valid = self.is_in_touch = True

    def valid(self) -> bool:
        return self.is_valid

    def in_touch(self) -> bool:
        return self.is_in_touch


class World:
    """A fake API server with nodes, pools and leases, as tests set them up and look at them."""

    def __init__(self) -> None:
        self.kube = FakeKube()

    def node(self, name: str = "n1", **labels: str) -> None:
        """Add a node of 4 cores with a report of this moment."""
        self.kube.add(f"{paths.NODES}/{name}", node_document(name, **labels))
        self.kube.add(paths.report(name), report_document(name, at=SteadyClock().now()))

    def add_pool(self, document: Object) -> Object:
        return self.kube.add(paths.pool(document["metadata"]["name"]), document)

    def ask(self, name: str, pool: str = "ci", **spec: Any) -> Object:
        return self.kube.add(lease_path(name), lease_document(name, pool, **spec))

    def start(self, name: str, lease: str | None = "a", *, cpu: str = "1", **how: Any) -> Object:
        """Add a pod that names a lease, or none."""
        return self.kube.add(pod_path(name), waiting_pod(name, lease, cpu=cpu, **how))

    def bind(self, name: str, node: str = "n1") -> None:
        """Do as the scheduler and the kubelet do with a pod that may go."""
        self.kube.touch(pod_path(name), {"spec": {"nodeName": node}, "status": {"phase": "Running"}})

    def pod(self, name: str) -> Object:
        return self.kube.objects[pod_path(name)]

    def is_gated(self, name: str) -> bool:
        return "schedulingGates" in self.pod(name)["spec"]

    def is_leaving(self, name: str) -> bool:
        return "deletionTimestamp" in self.pod(name)["metadata"]

    def lease(self, name: str) -> Object:
        return self.kube.objects[lease_path(name)]

    def pool(self, name: str = "ci") -> Object:
        return self.kube.objects[paths.pool(name)]

    def reason(self, name: str, type_: str) -> str:
        return reason(self.lease(name), type_)

    def is_granted(self, name: str) -> bool:
        return status(self.lease(name), "Allocated") == "True"

    async def granted(self, name: str) -> None:
        await self.until(lambda: self.is_granted(name))

    async def until(self, test: Callable[[], Any], seconds: float = 60) -> None:
        await until(test, seconds, self.look)

    def look(self) -> None:
        """Raise what makes waiting vain."""


class Replica:
    """One replica's memory on a fake API server that others may share. It hears at once, unless it is `deaf`.

    `client` is what it sends its requests with, if not the server itself. What it hears of pools is for subclasses.
    """

    def __init__(
        self, kube: FakeKube, *, client: Any = None, clock: SteadyClock | None = None, debounce: float = 0
    ) -> None:
        self.kube = kube
        self.deaf = False
        self.clock = clock or SteadyClock()
        self.cluster = Cluster(self.clock)
        self.recorder = FakeRecorder()
        self.metrics = Metrics()
        self.tools = Tools(
            client or kube,
            self.clock,
            self.cluster,
            self.recorder,  # type: ignore[arg-type]
            self.metrics,
            WRITERS,
            debounce,
        )
        for path, document in kube.objects.items():
            if path.startswith(paths.NODES):
                self.node_heard(document)
            elif path.startswith(paths.REPORTS):
                self.cluster.report_seen(document)
        self.cluster.namespace_seen("team", {})
        self.leased = LeasedPods(self.cluster.pods, self.cluster.heard)
        self.others = OtherPods(self.cluster.pods, self.cluster.heard)
        self.placeholders = Placeholders(self.cluster.pods, self.cluster.heard)
        kube.watchers.append(self._told)

    def _told(self, kind: str, document: Object) -> None:
        if not self.deaf:
            self.hear(kind, document)

    def hear(self, kind: str, document: Object) -> None:
        """Take in news of leases, pools and pods; of nodes and reports tests tell by hand."""
        if document.get("kind") == "CapacityLease":
            self.cluster.changed(kind, document)
        elif document.get("kind") == "CapacityPool":
            self.pool_heard(kind, document)
        elif document.get("kind") == "Pod":
            self.pod_heard(kind, document)

    def pod_heard(self, kind: str, document: Object) -> None:
        """Tell the watches of pods what each would hear: one that leaves its selection is gone for it."""
        if PLACEHOLDER_LABEL in document["metadata"]["labels"]:
            self.placeholders.changed(kind, document)
            return
        labelled = LEASE_LABEL in document["metadata"]["labels"]
        self.leased.changed(kind if labelled else "DELETED", document)
        self.others.changed("DELETED" if labelled else kind, document)

    def node_heard(self, document: Object) -> None:
        self.cluster.node_seen(document)

    def pool_heard(self, kind: str, document: Object) -> None:
        raise NotImplementedError


class Scene(World, Replica):
    """A world with one replica and its workers, of one pool if no others are added."""

    def __init__(
        self, pool: Object | None = None, *, nodes: int = 1, debounce: float = 0, pods: bool = True
    ) -> None:
        World.__init__(self)
        for i in range(1, nodes + 1):
            self.node(f"n{i}")
        Replica.__init__(self, self.kube, debounce=debounce)
        self.cluster.pods.watched = pods
        self.right = FakeRight()
        self.workers: dict[str, PoolWorker] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.lead(pool or pool_document())

    def lead(self, document: Object) -> PoolWorker:
        """Add a pool and its worker."""
        worker = PoolWorker(self.tools, self.add_pool(document), self.right)
        self.workers[worker.name] = worker
        return worker

    def pool_heard(self, kind: str, document: Object) -> None:
        name = document["metadata"]["name"]
        if kind == "MODIFIED" and name in self.workers:
            self.workers[name].pool.pool_seen(document)

    @property
    def worker(self) -> PoolWorker:
        return next(iter(self.workers.values()))

    async def __aenter__(self) -> Scene:
        for worker in self.workers.values():
            worker.join()
        for name, worker in self.workers.items():
            self.tasks[name] = asyncio.create_task(worker.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    def look(self) -> None:
        for task in self.tasks.values():
            if task.done():
                task.result()


async def until(
    test: Callable[[], Any], seconds: float = 60, look: Callable[[], None] = lambda: None
) -> None:
    async with asyncio.timeout(seconds):
        while not test():
            look()
            await asyncio.sleep(0.002)


def condition(document: Object, type_: str) -> Mapping[str, Any]:
    rows = (document.get("status") or {}).get("conditions", ())
    return next((row for row in rows if row["type"] == type_), {})


def status(document: Object, type_: str) -> str:
    return str(condition(document, type_).get("status", ""))


def reason(document: Object, type_: str) -> str:
    return str(condition(document, type_).get("reason", ""))


def value(counter: Any, **labels: str) -> float:
    return float(counter.labels(**labels)._value.get())


def soon(scene: Scene, seconds: float) -> str:
    return format_time(scene.clock.now() + int(1000 * seconds))


def version_of(world: World, path: str) -> int:
    return int(world.kube.objects[path]["metadata"]["resourceVersion"])
