"""A real Kubernetes API server for tests, the demo and benchmarks.

    with ControlPlane() as control_plane, control_plane.client() as client:
        client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}})

Where it comes from is decided in `providers`: a named cluster, envtest's binaries, a cached build, kind, or a
build of the pinned versions.
"""

from __future__ import annotations

import atexit
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from leasehold.testing import crds, helpers, providers, toolchain, workspace
from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError, ControlPlaneError, NotOwnedError, StartError
from leasehold.testing.kubeconfig import Connection, write_private
from leasehold.testing.processes import Child, wait_until
from leasehold.testing.providers import Binaries, Existing, Kind, Provider
from leasehold.testing.servers import Identity, Network, Servers
from leasehold.testing.toolchain import MODULES, Progress, print_progress

OPERATOR_NAMESPACE = "leasehold-system"
"""Where the operator is installed, and where its replicas elect who leads."""

_KIND_SECONDS = 300
_PROGRAM_SETTLES_SECONDS = 0.5
_PROGRAM_GRACE_SECONDS = 3.0


class ControlPlane:
    """One API server, from `start` to `stop`. Several live side by side, in one process or in many.

    kubeconfig: use this cluster instead of starting one; so does LEASEHOLD_KUBECONFIG. local: only take
    servers that are processes of this machine, which the fault methods need. audit_log: file to write one
    JSON line per request to. audit_policy: what to write there, an audit.k8s.io/v1 Policy; by default who asked
    for what, without contents. extra_apiserver_args: flags of kube-apiserver with their values ({"--v": "4"});
    they win over the defaults. progress: is given lines about a build under way; by default they go to
    standard error.

    pinned: only take servers of the pinned version. identities: who else has a token. network: let the API
    server run in another network than this host's.

    `audit_log`, `extra_apiserver_args`, `pinned`, `identities` and `network` imply `local`.
    """

    def __init__(
        self,
        *,
        kubeconfig: Path | str | None = None,
        local: bool = False,
        audit_log: Path | None = None,
        audit_policy: Mapping[str, Any] | None = None,
        extra_apiserver_args: Mapping[str, str] | None = None,
        pinned: bool = False,
        identities: Sequence[Identity] = (),
        network: Network | None = None,
        progress: Progress = print_progress,
    ) -> None:
        ours = (local, audit_log is not None, extra_apiserver_args, pinned, identities, network)
        self._wish = providers.default_wish(
            kubeconfig=Path(kubeconfig) if kubeconfig else None,
            local=any(ours),
            pinned=pinned,
            progress=progress,
        )
        self._identities = identities
        self._network = network
        self._audit_log = audit_log
        self._audit_policy = audit_policy
        self._extra_apiserver_args = extra_apiserver_args
        self._provider: Provider | None = None
        self._servers: Servers | None = None
        self._kind_name: str | None = None
        self._connection: Connection | None = None
        self._directory: Path | None = None
        self._clients: list[Client] = []
        self._helpers: list[Child] = []
        self.start_seconds = 0.0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Find a provider, start what it needs and return when the API answers.

        `start_seconds` then tells how long the start took, without a build.
        """
        if self._connection is not None:
            raise ControlPlaneError("the control plane is started already: stop() it first, or make another")
        self._provider = providers.choose(self._wish)
        begun = time.monotonic()
        atexit.register(self.stop)
        try:
            self._directory = workspace.make()
            self._connection = self._connect(self._provider)
            self._connection.write(self.kubeconfig)
            write_private(self.ca_path, self._connection.ca or "")
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - begun
        return self

    def stop(self) -> None:
        """End what was started here, and nothing else. Safe to call again."""
        atexit.unregister(self.stop)
        for client in self._clients:
            client.close()
        self._clients.clear()
        for child in self._helpers:
            child.stop(_PROGRAM_GRACE_SECONDS)
        self._helpers.clear()
        if self._servers is not None:
            self._servers.stop()
            self._servers = None
        if self._kind_name is not None:
            self._run_kind("delete", "cluster", "--name", self._kind_name)
            self._kind_name = None
        if self._directory is not None:
            workspace.remove(self._directory)
            self._directory = None
        self._connection = None

    # Where it is, and who may speak to it

    @property
    def connection(self) -> Connection:
        """How to reach the API server as its administrator."""
        if self._connection is None:
            raise _not_started()
        return self._connection

    @property
    def provider(self) -> Provider:
        """Where the API server comes from."""
        if self._provider is None:
            raise _not_started()
        return self._provider

    @property
    def owned(self) -> bool:
        """Whether the servers are processes of this object, so that faults can be injected."""
        return self._servers is not None

    @property
    def url(self) -> str:
        """The address of the API server, without a slash at the end."""
        return self.connection.url

    @property
    def token(self) -> str | None:
        """The administrator's bearer token; None on a cluster that knows its administrator by certificate."""
        return self.connection.token

    @property
    def directory(self) -> Path:
        """A private directory for as long as the control plane runs."""
        if self._directory is None:
            raise _not_started()
        return self._directory

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig file of the administrator."""
        return self.directory / "kubeconfig"

    @property
    def ca_path(self) -> Path:
        """A file with the certificate authority that the server is verified by."""
        return self.directory / "ca.crt"

    def client(self, connection: Connection | None = None) -> Client:
        """Return a client, of the administrator unless a connection says otherwise; stop() closes it."""
        client = Client(connection or self.connection)
        self._clients.append(client)
        return client

    def as_user(self, user: str, groups: tuple[str, ...] = ()) -> Connection:
        """Return a connection that acts as a user. The server sees the administrator impersonate somebody.

        Only clients that know impersonation honour it (kubectl, client-go and ours). For a program that does
        not, use a service account.
        """
        return replace(self.connection, impersonate_user=user, impersonate_groups=groups)

    def as_service_account(
        self, namespace: str, name: str, *, seconds: int = 3600, pod: Mapping[str, Any] | None = None
    ) -> Connection:
        """Return a connection by a service account's real token, see `service_account_token`."""
        token = self.service_account_token(namespace, name, seconds=seconds, pod=pod)
        return Connection(url=self.url, ca=self.connection.ca, token=token)

    def kubeconfig_for(self, user: str, groups: tuple[str, ...] = ()) -> Path:
        """Write a kubeconfig that acts as a user, see `as_user`, and return its path."""
        return self.write_kubeconfig(self.as_user(user, groups))

    def write_kubeconfig(self, connection: Connection) -> Path:
        """Write a kubeconfig of any connection into the private directory and return its path."""
        return connection.write(self.directory / f"kubeconfig-{secrets.token_hex(4)}")

    def service_account_token(
        self, namespace: str, name: str, *, seconds: int = 3600, pod: Mapping[str, Any] | None = None
    ) -> str:
        """Return a new token of a service account, made if need be, valid for at least 600 seconds.

        With a `pod` of that account it is bound to it, as the tokens are that the kubelet gives to pods: it names
        the pod's node, and is worth nothing once the pod is gone.
        """
        with Client(self.connection) as client:
            ensure_service_account(client, namespace, name)
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
            request = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "expirationSeconds": seconds,
                    **({"boundObjectRef": _reference(pod)} if pod else {}),
                },
            }
            return str(client.request("POST", path, request)["status"]["token"])

    def install_crds(self) -> None:
        """Install Leasehold's own resources and wait until they are served; make the operator's namespace."""
        with Client(self.connection) as client:
            crds.install(client)
            ensure_namespace(client, OPERATOR_NAMESPACE)

    # Other programs

    def program(self, name: str) -> Path:
        """Return the path of a program of the control plane, kubectl or kwok, built now if it is not there
        yet.
        """
        if isinstance(self._provider, Binaries) and not toolchain.missing(self._provider.directory, [name]):
            return self._provider.directory / name
        return toolchain.build(MODULES[name], [name], progress=self._wish.progress) / name

    def start_program(
        self,
        name: str,
        extra_args: Mapping[str, str] | None = None,
        *,
        pod_stages: Sequence[Path] | None = None,
    ) -> Child:
        """Start kube-scheduler, kube-controller-manager or kwok on this API server, until stop().

        pod_stages: files with the stages that kwok lets pods go through. With its own they run at once, those of
        Jobs succeed at once, and those that are deleted are gone at once.

        Raises NotOwnedError on a cluster that is not ours: it has a scheduler and a controller-manager
        already.
        """
        servers = self._own(f"start_program({name!r})")
        flags = helpers.flags(name, self.kubeconfig, servers) | dict(extra_args or {})
        program = self.program(name)
        files = helpers.files(name, program.parent, pod_stages)
        child = Child(
            [program, *(f"{flag}={value}" for flag, value in flags.items()), *files],
            log=self.directory / f"{name}.log",
            cwd=self.directory,
        )
        self._helpers.append(child)
        if wait_until(lambda: not child.running(), _PROGRAM_SETTLES_SECONDS):
            raise StartError(f"{name} ended with status {child.returncode()}:\n{child.log_tail()}")
        return child

    # Faults

    def pause_etcd(self) -> None:
        """Freeze etcd: the API server stays up, and reads and writes hang."""
        self._own("pause_etcd").pause_etcd()

    def resume_etcd(self) -> None:
        """Let a frozen etcd go on."""
        self._own("resume_etcd").resume_etcd()

    def pause_program(self, name: str) -> None:
        """Freeze what `start_program` started under this name: with kwok all its nodes fall silent at once."""
        self._own(f"pause_program({name!r})")
        for child in self._started(name):
            child.signal(signal.SIGSTOP)

    def resume_program(self, name: str) -> None:
        """Let a frozen program go on, with what it missed."""
        self._own(f"resume_program({name!r})")
        for child in self._started(name):
            child.signal(signal.SIGCONT)

    def _started(self, name: str) -> list[Child]:
        found = [child for child in self._helpers if child.name == name and child.running()]
        if not found:
            raise ControlPlaneError(f"{name} does not run here: start_program({name!r}) comes first")
        return found

    def kill_apiserver(self) -> None:
        """End the API server as a crash would; data and port are kept."""
        self._own("kill_apiserver").kill_apiserver()

    def restart_apiserver(self) -> None:
        """Bring the API server back with its data at the same address, ending it first if it still runs."""
        servers = self._own("restart_apiserver")
        servers.kill_apiserver()
        servers.start_apiserver()
        for client in self._clients:
            client.close()  # their idle connections lead nowhere now

    @property
    def processes(self) -> dict[str, int]:
        """The ids of the server processes, by program name; empty where they are not ours."""
        if self._servers is None:
            return {}
        children = (self._servers.etcd, self._servers.apiserver, *self._helpers)
        return {child.name: child.pid for child in children if child.running()}

    def _own(self, wanted: str) -> Servers:
        if self._servers is None:
            raise NotOwnedError(f"{wanted} needs servers that run here: ask for ControlPlane(local=True)")
        return self._servers

    # Providers

    def _connect(self, provider: Provider) -> Connection:
        match provider:
            case Existing(kubeconfig=path):
                return _answering(Connection.read(path))
            case Kind():
                return self._start_kind()
            case Binaries(directory=binaries):
                self._servers = Servers(
                    binaries,
                    self.directory,
                    audit_log=self._audit_log,
                    audit_policy=self._audit_policy,
                    extra_apiserver_args=self._extra_apiserver_args,
                    identities=self._identities,
                    network=self._network,
                )
                self._servers.start()
                return self._servers.connection

    def _start_kind(self) -> Connection:
        self._kind_name = f"leasehold-{secrets.token_hex(4)}"
        kubeconfig = self.directory / "kind"
        self._wish.progress(
            f"leasehold: making the kind cluster {self._kind_name}; the first one pulls its image"
        )
        made = self._run_kind(
            "create", "cluster", "--name", self._kind_name, "--kubeconfig", str(kubeconfig), "--wait", "120s"
        )
        if made.returncode != 0:
            raise StartError(f"kind could not make a cluster:\n{made.stdout[-2000:]}")
        return Connection.read(kubeconfig)

    def _run_kind(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        if not isinstance(self._provider, Kind):
            raise ControlPlaneError("kind is not the provider of this control plane")
        return subprocess.run(
            [self._provider.program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_KIND_SECONDS,
            check=False,
        )


def ensure_namespace(client: Client, name: str) -> None:
    """Make a namespace if need be."""
    try:
        client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def ensure_service_account(client: Client, namespace: str, name: str) -> dict[str, Any]:
    """Return a service account, made if need be: without a controller-manager nobody else does."""
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace},
    }
    try:
        return client.create(account)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        return client.get("serviceaccounts", name, namespace)


def _reference(pod: Mapping[str, Any]) -> dict[str, Any]:
    meta = pod["metadata"]
    return {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}


def _not_started() -> ControlPlaneError:
    return ControlPlaneError("the control plane is not started: call start() or use it in a with block")


def _answering(connection: Connection) -> Connection:
    """Return the connection if its server answers; the error names the server, for the user chose it."""
    try:
        with Client(connection, timeout_seconds=10) as client:
            client.raw("GET", "/version")
    except (OSError, ApiError) as error:
        raise StartError(
            f"The cluster at {connection.url}, named by an explicit kubeconfig: {error}"
        ) from error
    return connection
