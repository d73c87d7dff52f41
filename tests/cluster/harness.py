"""What the stories on a real API server share: an operator in a thread or in a process, a stage, and a record."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from leasehold.adapters.clock import SteadyClock
from leasehold.api.quantity import amount
from leasehold.controller import Controller
from leasehold.settings import Settings
from leasehold.testing import audit
from leasehold.testing.client import Client
from leasehold.testing.control_plane import OPERATOR_NAMESPACE, ControlPlane, ensure_namespace
from leasehold.testing.errors import ApiError
from leasehold.testing.nodes import NodeShape, SimulatedNodes
from leasehold.testing.processes import Child, wait_until

Object = dict[str, Any]

LEASES = "capacityleases.leasehold.dev"
POOLS = "capacitypools.leasehold.dev"
REPORTS = "nodereports.leasehold.dev"
SESSIONS = "leases.coordination.k8s.io"

QUICK = {
    "sweep_seconds": 1,
    "relist_sweeps": 2,
    "events_per_second": 100,
    "http_port": 0,
    "election_seconds": 6,
}
"""Settings under which what takes minutes takes seconds."""

PATIENCE = 20.0


# --- operators ---


class ThreadOperator:
    """An operator in this process, on an event loop of its own in a thread."""

    def __init__(
        self, kubeconfig: Path, clock: SteadyClock | None = None, *, wait: bool = True, **settings: Any
    ) -> None:
        self.wait = wait
        self.settings = Settings(kubeconfig=str(kubeconfig), **{**QUICK, **settings})
        self.clock = clock
        self.controller: Controller
        self.exit_code: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop
        self._made: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)

    def __enter__(self) -> ThreadOperator:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        async def operate() -> int:
            self._loop = asyncio.get_running_loop()
            self.controller = Controller(self.settings, self.clock)
            self._made.set_result(None)
            return await self.controller.run()

        try:
            self.exit_code.set_result(asyncio.run(operate()))
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            for future in (self._made, self.exit_code):
                with contextlib.suppress(Exception):
                    future.set_exception(error)

    def start(self) -> ThreadOperator:
        self._thread.start()
        self._made.result(PATIENCE)
        if self.wait:
            until(lambda: self.exit_code.done() or self.ready(), "the operator is ready")
            assert not self.exit_code.done(), f"the operator ended: {self.exit_code.result()}"
        return self

    def ready(self) -> bool:
        led = len(self.controller.pools.led) == self.settings.shards
        return self.controller.started.is_set() and not self.controller._not_ready() and led

    def call(self, work: Callable[[], Any]) -> Any:
        """Run something on the operator's own loop, where its memory may be read."""

        async def on_loop() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(PATIENCE)

    def stop(self) -> int:
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it ended by itself meanwhile
                self._loop.call_soon_threadsafe(self.controller.stop.set)
        self._thread.join(PATIENCE)
        return self.exit_code.result(PATIENCE)

    def page(self, path: str) -> tuple[int, str]:
        return fetch(f"http://127.0.0.1:{self.controller.server.port}{path}")


class ProcessOperator:
    """An operator as a process of its own, so that it can be killed."""

    def __init__(self, control_plane: ControlPlane, kubeconfig: Path | None = None, **env: Any) -> None:
        self.port = free_port()
        self.log = control_plane.directory / f"operator-{secrets.token_hex(4)}.log"
        # The same name for all, so that the next one need not wait for the end of one that was killed.
        settings = {**QUICK, "http_port": self.port, "identity": "the-operator", **env}
        self.child = Child(
            [
                *(sys.executable, "-m", "leasehold.cli.main", "operator"),
                *("--kubeconfig", str(kubeconfig or control_plane.kubeconfig)),
            ],
            log=self.log,
            cwd=Path.cwd(),
            env={**os.environ, **{f"LEASEHOLD_{k.upper()}": str(v) for k, v in settings.items()}},
        )

    def __enter__(self) -> ProcessOperator:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()

    def ready(self) -> bool:
        """Every list is complete, and it leads: a standby is another kind of ready."""
        with contextlib.suppress(OSError):
            status, text = fetch(f"http://127.0.0.1:{self.port}/readyz")
            return status == 200 and "standing by" not in text
        return False

    def wait_ready(self) -> ProcessOperator:
        until(lambda: self.ready() or not self.child.running(), "the operator is ready", 60)
        assert self.child.running(), self.child.log_tail(40)
        return self

    def lines(self) -> list[Object]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


_FIRST_PORT = 11_000 + os.getpid() % 100 * 200
_ports = itertools.cycle(range(_FIRST_PORT, _FIRST_PORT + 200))


def free_port() -> int:
    """A port that nobody has, and that nobody gets meanwhile who asks the kernel for any: it gives higher ones."""
    while True:
        port = next(_ports)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    assert wait_until(condition, seconds), f"not within {seconds} s: {what}"


def let_hold(control_plane: ControlPlane, user: str, namespace: str, verbs: list[str]) -> Path:
    """Let a user do so much with leases and sessions of a namespace, and with nothing else; return its kubeconfig."""
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    rules = [
        {"apiGroups": ["leasehold.dev"], "resources": ["capacityleases"], "verbs": verbs},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs},
    ]
    meta = {"name": user, "namespace": namespace}
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "Role", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    with Client(control_plane.connection) as client:
        client.create({**rbac, "kind": "Role", "metadata": meta, "rules": rules})
        client.create(
            {**rbac, "kind": "RoleBinding", "metadata": meta, "subjects": [subject], "roleRef": role}
        )
    _until_allowed(control_plane, user, namespace)
    return control_plane.kubeconfig_for(user)


def _until_allowed(control_plane: ControlPlane, user: str, namespace: str) -> None:
    """Wait until a user may list leases: rights that were given a moment ago may not be known yet."""

    def allowed(client: Client) -> bool:
        try:
            client.list(LEASES, namespace)
        except ApiError as error:
            if error.status != 403:
                raise
            return False
        return True

    with Client(control_plane.as_user(user)) as client:
        until(lambda: allowed(client), f"{user} may list leases in {namespace}")


# --- reading objects ---


def condition(obj: Mapping[str, Any], type_: str) -> Object:
    for found in (obj.get("status") or {}).get("conditions") or ():
        if found["type"] == type_:
            return dict(found)
    return {"status": "", "reason": "", "message": ""}


def is_(type_: str, status: str = "True", reason: str = "") -> Callable[[Object], bool]:
    """A predicate: the condition stands at this status, with this reason if one is given."""

    def test(obj: Object) -> bool:
        found = condition(obj, type_)
        # Kubelets and the scheduler give no reason for what is well.
        return found["status"] == status and reason in ("", found.get("reason"))

    return test


granted = is_("Allocated")
finished = is_("Finished")


def holding(lease: Mapping[str, Any]) -> list[tuple[str, Mapping[str, str]]]:
    """What a lease's object says it holds: (node, resources) for each slice."""
    if not is_("Allocated")(dict(lease)) or is_("Released")(dict(lease)):
        return []
    return [(part["nodeName"], part["resources"]) for part in lease["status"]["allocation"]["slices"]]


def nodes_of(lease: Mapping[str, Any]) -> list[str]:
    return [part["nodeName"] for part in lease["status"]["allocation"]["slices"]]


# --- the stage ---


class Stage:
    """A namespace, nodes and pools that no other test knows, and short words for what happens on them."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self.control_plane = control_plane
        self.kube = Client(control_plane.connection)
        self.namespace = f"s-{secrets.token_hex(4)}"
        self.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self.nodes = SimulatedNodes(self.kube)
        self.pools: list[str] = []

    def close(self) -> None:
        """Remove everything, whether an operator runs or not."""
        leases = [lease["metadata"]["name"] for lease in self.kube.list(LEASES, self.namespace)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: self._remove(LEASES, name, self.namespace), leases))
        for pool in self.pools:
            self._remove(POOLS, pool, None)
        self.nodes.remove()
        self.kube.delete_all(SESSIONS, self.namespace)
        self.kube.delete("namespaces", self.namespace, missing_ok=True)
        self.kube.close()

    def _remove(self, resource: str, name: str, namespace: str | None) -> None:
        lifted = {"finalizers": None}
        for _ in range(50):
            try:
                self.kube.patch(resource, name, {"metadata": lifted}, namespace)
                self.kube.delete(resource, name, namespace)
            except ApiError as error:
                if error.status == 404:
                    return
                if error.status not in (409, 422):
                    raise
            time.sleep(0.02)

    def pool(
        self,
        *,
        selector: Mapping[str, Any] | None = None,
        policy: Mapping[str, Any] | None = None,
        wait: str = "True",
        **spec: Any,
    ) -> str:
        """Make a pool over this stage's nodes; grace is 0 and nothing need be claimed unless said otherwise."""
        name = f"p-{secrets.token_hex(4)}"
        self.pool_named(name, selector or self.nodes.selector, policy, **spec)
        if wait:
            self.until_pool(name, is_("Ready", wait))
        return name

    def pool_named(
        self,
        name: str,
        selector: Mapping[str, Any],
        policy: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> None:
        """Make a pool of a name; to be used where no other test of the same API server has it."""
        self.pools.append(name)
        terms = {"gracePeriodSeconds": 0, **(policy or {})}
        self.kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityPool",
                "metadata": {"name": name, "labels": dict(labels or {})},
                "spec": {"nodeSelector": selector, "leasePolicy": terms, **spec},
            }
        )

    def lease_by(self, selector: Mapping[str, Any], cpu: str = "1", **spec: Any) -> str:
        """Ask for a lease of any pool that matches; return its name."""
        name = f"l-{secrets.token_hex(4)}"
        self.kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityLease",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {"poolSelector": selector, "resources": {"cpu": cpu}, **spec},
            }
        )
        return name

    def lease(self, pool: str, name: str = "", cpu: str = "1", **spec: Any) -> str:
        """Ask for a lease; return its name."""
        name = name or f"l-{secrets.token_hex(4)}"
        annotations = spec.pop("annotations", {})
        self.kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityLease",
                "metadata": {"name": name, "namespace": self.namespace, "annotations": annotations},
                "spec": {"poolRef": {"name": pool}, "resources": {"cpu": cpu}, **spec},
            }
        )
        return name

    def child(self, parent: str, name: str = "", cpu: str = "1", **spec: Any) -> str:
        """Ask for some of a lease; return the sub-lease's name."""
        name = name or f"c-{secrets.token_hex(4)}"
        self.kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityLease",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {"parentRef": {"name": parent}, "resources": {"cpu": cpu}, **spec},
            }
        )
        return name

    def served_again(self, pool: str, **spec: Any) -> str:
        """Ask for a lease after the API server restarted, when admission knows the kind a little later than others."""
        for _ in range(100):
            try:
                return self.lease(pool, **spec)
            except ApiError as error:
                if error.status not in (404, 429, 500, 503):
                    raise
                time.sleep(0.1)
        raise AssertionError("the API server does not come back")

    def session(self, name: str) -> None:
        """Renew a session, making it first."""
        body = {"metadata": {"labels": {"leasehold.dev/session": ""}}, "spec": {"renewTime": micro_now()}}
        if self.kube.find(SESSIONS, name, self.namespace) is None:
            body["metadata"] |= {"name": name, "namespace": self.namespace}
            self.kube.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **body})
        else:
            self.kube.patch(SESSIONS, name, body, self.namespace)

    def renew(self, lease: str) -> None:
        self.change(lease, renewTime=micro_now())

    def change(self, lease: str, **spec: Any) -> Object:
        return self.kube.patch(LEASES, lease, {"spec": spec}, self.namespace)

    def annotate(self, lease: str, **annotations: str) -> None:
        keys = {f"leasehold.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
        self.kube.patch(LEASES, lease, {"metadata": {"annotations": keys}}, self.namespace)

    def change_pool(self, pool: str, **spec: Any) -> Object:
        return self.kube.patch(POOLS, pool, {"spec": spec})

    def get(self, lease: str) -> Object:
        return self.kube.get(LEASES, lease, self.namespace)

    def until(self, lease: str, test: Callable[[Object], bool], seconds: float = PATIENCE) -> Object:
        return self.kube.wait(LEASES, lease, self.namespace, until=test, timeout_seconds=seconds)

    def until_pool(self, pool: str, test: Callable[[Object], bool], seconds: float = PATIENCE) -> Object:
        return self.kube.wait(POOLS, pool, until=test, timeout_seconds=seconds)

    def until_gone(self, lease: str, seconds: float = PATIENCE) -> None:
        self.kube.wait_gone(LEASES, lease, self.namespace, seconds)

    def settled(
        self, name: str, test: Callable[[Object], bool], seconds: float = 0.5, resource: str = LEASES
    ) -> Object:
        """Watch that something stays as it is: every change seen in this time passes the test."""
        found = self.kube.get(resource, name, self.namespace)
        assert test(found), found
        version = found["metadata"]["resourceVersion"]
        deadline = time.monotonic() + seconds
        for event in self.kube.watch(
            resource,
            self.namespace,
            resource_version=version,
            timeout_seconds=max(1, seconds),
            fieldSelector=f"metadata.name={name}",
        ):
            assert test(event.object), event.object
            found = event.object
            if time.monotonic() > deadline:
                break
        return found

    def events(self, about: str) -> list[Object]:
        found = self.kube.list("events.events.k8s.io", self.namespace)
        found += self.kube.list("events.events.k8s.io", "default")
        # The API server's own controllers write Events about nothing that has a name.
        return [event for event in found if event.get("regarding", {}).get("name") == about]


@contextlib.contextmanager
def stage_on(control_plane: ControlPlane) -> Iterator[Stage]:
    stage = Stage(control_plane)
    try:
        yield stage
    finally:
        stage.close()


def micro_now() -> str:
    now = time.time_ns() // 1000
    seconds, micros = divmod(now, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{micros:06d}Z"


# --- rights ---

MANIFESTS = Path(__file__).parents[2] / "manifests"

Right = tuple[str, str, str]
"""(group, resource, verb)"""


def install(control_plane: ControlPlane, file: str) -> set[Right]:
    """Apply a manifest and return the rights it gives."""
    documents = list(yaml.safe_load_all((MANIFESTS / file).read_text()))
    with Client(control_plane.connection) as client:
        ensure_namespace(client, OPERATOR_NAMESPACE)
        for document in documents:
            client.apply(document)
    return rights_given(file)


def rights_given(file: str) -> set[Right]:
    """The rights in a manifest."""
    return {
        (group, resource, verb)
        for document in yaml.safe_load_all((MANIFESTS / file).read_text())
        for rule in document.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def requests_of(audit_log: Path, account: str) -> list[Object]:
    user = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{account}"
    return [entry for entry in audit.read(audit_log) if entry["user"]["username"] == user]


def rights_used(requests: list[Object]) -> set[Right]:
    used = set()
    for request in requests:
        ref = request.get("objectRef")
        if ref is not None:
            resource = "/".join(filter(None, (ref["resource"], ref.get("subresource"))))
            used.add((ref.get("apiGroup", ""), resource, request["verb"]))
    return used


# --- the record ---


class Record:
    """Every revision of every lease in a namespace, in the order of the store, and a check of them all."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.revisions: list[tuple[str, Object]] = []
        self._kube = Client(stage.control_plane.connection)
        self._version = self._kube.list_object(LEASES, stage.namespace)["metadata"]["resourceVersion"]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="record", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError, ValueError, ApiError):  # an API server that restarts
                for event in self._kube.watch(
                    LEASES, self.stage.namespace, resource_version=self._version, timeout_seconds=60
                ):
                    self._version = event.object["metadata"]["resourceVersion"]
                    self.revisions.append((event.type, event.object))
                    if event.object["metadata"]["name"] == "end-of-record" and event.type == "DELETED":
                        return

    def close(self) -> None:
        """Wait until everything up to now was recorded."""
        name = self.stage.lease("no-such-pool", name="end-of-record")
        self.stage._remove(LEASES, name, self.stage.namespace)
        self._thread.join(PATIENCE)
        self._stop.set()
        assert not self._thread.is_alive(), "the record is incomplete"
        self._kube.close()

    def check(self, allocatable: Mapping[str, Mapping[str, str]]) -> None:
        """At every revision no node holds more than it has, and no sub-leases more than their parent; and no token was
        given to two leases, or to two holders.
        """
        held: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
        parents: dict[str, str] = {}
        tokens: dict[tuple[str, int], tuple[str, str]] = {}
        for kind, lease in self.revisions:
            uid, status = lease["metadata"]["uid"], lease.get("status") or {}
            held[uid] = [] if kind == "DELETED" else holding(lease)
            parents[uid] = status.get("allocation", {}).get("parentUID", "")
            token = status.get("fencingToken")
            if token is not None:
                whose = uid, json.dumps(status["holder"], sort_keys=True)
                owner = tokens.setdefault((lease["spec"]["poolRef"]["name"], token), whose)
                assert owner == whose, f"token {token} was given to {owner} and to {whose}"
            version = lease["metadata"]["resourceVersion"]
            for (node, name), total in sums([held[one] for one in held if not parents[one]]).items():
                most = amount(name, allocatable[node][name])
                assert total <= most, f"at revision {version} node {node} holds {total} {name} of {most}"
            for parent in {parents[one] for one in held if parents[one] and held[one]}:
                has = sums([held[parent]])
                for place, total in sums([held[one] for one in held if parents[one] == parent]).items():
                    most = has.get(place, 0)
                    assert total <= most, (
                        f"at revision {version} sub-leases hold {total} of {most} of {place}"
                    )


def sums(holdings: Iterable[list[tuple[str, Mapping[str, str]]]]) -> dict[tuple[str, str], int]:
    """Add up what is held, by node and resource."""
    found: dict[tuple[str, str], int] = {}
    for slices in holdings:
        for node, resources in slices:
            for name, text in resources.items():
                found[node, name] = found.get((node, name), 0) + amount(name, text)
    return found


SMALL = NodeShape(cpu="4", memory="8Gi", ephemeral_storage="10Gi")
