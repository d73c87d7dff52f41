"""Everything a story needs, from the API server to the reporter, put up in order and taken down in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from leasehold.adapters.clock import SteadyClock
from leasehold.demo import pods
from leasehold.demo.errors import NotAsExpected, NotWelcome
from leasehold.demo.examples import LABEL, NAMESPACE
from leasehold.demo.nodes import REPORTS, Nodes
from leasehold.demo.processes import Operator, Part, Reporter
from leasehold.testing import crds
from leasehold.testing.client import Client, Object
from leasehold.testing.control_plane import ControlPlane, ensure_service_account
from leasehold.testing.errors import UnknownResourceError
from leasehold.testing.kubeconfig import Connection
from leasehold.testing.processes import wait_until
from leasehold.testing.providers import Existing

LEASES = "capacityleases.leasehold.dev"
POOLS = "capacitypools.leasehold.dev"
SESSIONS = "leases.coordination.k8s.io"

Say = Callable[[str], None]
Consent = Callable[[str], bool]

_REPORT_SECONDS = 30.0
_CLEAN_SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """Where a stage is, for whoever plays on it; it may be another process than the one that put it up."""

    kubeconfig: str
    server: str
    provider: str
    existing: bool
    host: str
    operator_url: str
    logs: str

    def client(self) -> Client:
        """Return a client of the administrator."""
        return Client(Connection.read(Path(self.kubeconfig)))


class Stage:
    """The API server, the definitions, the nodes, the operator and the reporter; use it in a `with` block.

    On a cluster that runs already, `consent` is asked with a text that says what will be written; only what was
    made here is removed at the end. With `with_pods` pods run, as far as kwok plays them, and are held to their
    leases where a pool wants it; that needs a server of our own. Raises DemoError and ControlPlaneError.
    """

    def __init__(
        self,
        directory: Path,
        *,
        kubeconfig: Path | None = None,
        with_pods: bool = False,
        say: Say,
        consent: Consent = lambda _: False,
    ) -> None:
        self.directory = directory.resolve()
        self.parts: dict[str, Part] = {}
        self.clock = SteadyClock()
        self._control_plane = ControlPlane(kubeconfig=kubeconfig, local=with_pods, progress=say)
        self._with_pods = with_pods
        self._say = say
        self._consent = consent
        self._client: Client | None = None
        self._nodes: Nodes | None = None
        self._installed: list[Object] = []
        self._written = False
        self.place: Place | None = None

    def __enter__(self) -> Self:
        try:
            self._put_up()
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._take_down()

    @property
    def existing(self) -> bool:
        """Whether the cluster is somebody else's."""
        return isinstance(self._control_plane.provider, Existing)

    @property
    def processes(self) -> dict[str, int]:
        """The ids of all processes, by name."""
        return self._control_plane.processes | {name: part.pid for name, part in self.parts.items()}

    def check(self) -> None:
        """Raise PartEnded when a process is gone."""
        for part in self.parts.values():
            part.check()

    # Up

    def _put_up(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        control_plane = self._control_plane.start()
        self._client = client = control_plane.client()
        where = f"{control_plane.url} ({control_plane.provider.source})"
        self._say(f"API server {where}, {control_plane.start_seconds:.1f} s")
        if self.existing:
            self._ask_leave(client)
        self._written = True
        kubeconfig = control_plane.connection.write(self.directory / "kubeconfig")
        self._install(client)
        self._make_namespace(client)
        acts_as = pods.start(control_plane, client, NAMESPACE) if self._with_pods else kubeconfig
        self._nodes = nodes = Nodes(client, guarded=self.existing, run_pods=self._with_pods)
        nodes.register(self.clock.now())
        nodes.keep_alive(self.clock.now)
        reporter = self.parts["reporter"] = Reporter(self.directory, kubeconfig, nodes.host)
        operator = Operator(self.directory, acts_as, enforcement=self._with_pods)
        self.parts["operator"] = operator
        operator.wait_ready()
        self._wait_report(client, reporter, nodes.host)
        self._say(
            f"operator and reporter run; logs in {self.directory}; this host is the node {nodes.host}, "
            f"{len(nodes.simulated.names)} nodes are simulated"
        )
        self.place = Place(
            kubeconfig=str(kubeconfig),
            server=control_plane.url,
            provider=control_plane.provider.source,
            existing=self.existing,
            host=nodes.host,
            operator_url=operator.url,
            logs=str(self.directory),
        )

    def _ask_leave(self, client: Client) -> None:
        refuse_occupied(client)
        text = what_is_written(client.connection.url)
        if not self._consent(text):
            raise NotWelcome(f"{text}\nNothing was written. Say yes when asked, or give --yes.")

    def _install(self, client: Client) -> None:
        for path in crds.definition_files():
            for document in yaml.safe_load_all(path.read_text()):
                if document and _find(client, document) is None:
                    self._installed.append(document)
        if self._installed:  # definitions that are there already stay as their owner made them
            crds.install(client)

    def _make_namespace(self, client: Client) -> None:
        if client.find("namespaces", NAMESPACE) is None:
            metadata = {"name": NAMESPACE, "labels": {LABEL: ""}}
            client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        ensure_service_account(client, NAMESPACE, "default")

    def _wait_report(self, client: Client, reporter: Part, host: str) -> None:
        def there() -> bool:
            reporter.check()
            return "reportTime" in client.get(REPORTS, host).get("status", {})

        if not wait_until(there, _REPORT_SECONDS, step_seconds=0.1):
            raise NotAsExpected(f"No report of {host} in {_REPORT_SECONDS:.0f} s. See {reporter.log}.")

    # Down

    def _take_down(self) -> None:
        try:
            if self._client is not None and self.place is not None and self.existing:
                self._clean(self._client)
        finally:
            if self._nodes is not None:
                self._nodes.rest()
            for part in self.parts.values():
                part.stop()
            if self._client is not None and self._written and self.existing:
                self._remove(self._client)
            (self.directory / "kubeconfig").unlink(missing_ok=True)
            self._control_plane.stop()

    def _clean(self, client: Client) -> None:
        """Delete what the story made, while the operator still runs: it gives capacity back and lets go."""
        self._say("removing what the demo made")
        for resource in (LEASES, SESSIONS):
            for obj in client.list(resource, NAMESPACE, labelSelector=LABEL):
                client.delete(resource, obj["metadata"]["name"], NAMESPACE, missing_ok=True)
        self._wait_empty(client, LEASES)
        for pool in client.list(POOLS, labelSelector=LABEL):
            client.delete(POOLS, pool["metadata"]["name"], missing_ok=True)
        self._wait_empty(client, POOLS)

    def _wait_empty(self, client: Client, resource: str) -> None:
        def empty() -> bool:
            return not client.list(resource, labelSelector=LABEL)

        if not wait_until(empty, _CLEAN_SECONDS, step_seconds=0.1):
            raise NotAsExpected(f"Some {resource} did not go in {_CLEAN_SECONDS:.0f} s; look for finalizers.")

    def _remove(self, client: Client) -> None:
        if self._nodes is not None:
            self._nodes.remove()
        if _labelled(client.find("namespaces", NAMESPACE)):
            client.delete("namespaces", NAMESPACE)
        for document in reversed(self._installed):
            client.delete(_resource(document), document["metadata"]["name"], missing_ok=True)


def what_is_written(server: str) -> str:
    """Say what the demo does to a cluster that it did not start."""
    return (
        f"The demo will write to the cluster at {server}: Leasehold's resource definitions, the namespace "
        f"{NAMESPACE}, 9 nodes with a taint that keeps pods away (not DaemonSets that tolerate every taint), pools "
        f"and leases; all but the definitions labelled {LABEL}. It removes what it made at the end."
    )


def refuse_occupied(client: Client) -> None:
    """Raise NotWelcome where Leasehold is in use or a name is taken: the demo's operator would take pools over."""
    for resource in (POOLS, LEASES):
        try:
            found = [obj["metadata"]["name"] for obj in client.list(resource) if not _labelled(obj)]
        except UnknownResourceError:
            continue
        if found:
            raise NotWelcome(
                f"{client.connection.url} has {resource} that are not the demo's ({', '.join(found[:3])}). A second "
                "operator would take them over. Give a cluster where Leasehold is not in use."
            )
    namespace = client.find("namespaces", NAMESPACE)
    if namespace is not None and not _labelled(namespace):
        raise NotWelcome(f"{client.connection.url} has a namespace {NAMESPACE} that is not the demo's.")


def _labelled(obj: Object | None) -> bool:
    return obj is not None and LABEL in obj["metadata"].get("labels", {})


def _resource(document: Object) -> str:
    group = document["apiVersion"].rpartition("/")[0]
    return f"{document['kind']}.{group}"


def _find(client: Client, document: Object) -> Object | None:
    try:
        return client.find(_resource(document), document["metadata"]["name"])
    except UnknownResourceError:
        return None
