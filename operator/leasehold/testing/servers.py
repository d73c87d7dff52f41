"""etcd and kube-apiserver as two processes on loopback that keep their files in one private directory."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError, ControlPlaneError, StartError
from leasehold.testing.kubeconfig import Connection, write_private
from leasehold.testing.processes import Child

SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc"

_READY_SECONDS = 90.0
_STOP_GRACE_SECONDS = 3.0  # nothing is to be kept, so there is no reason to wait for a slow farewell
_PORT_ATTEMPTS = 5
_NEVER_ROTATED = "1000000"  # megabytes; from 100 on it would go on elsewhere, unseen by whoever reads it

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class Identity:
    """Somebody whom the API server knows by a token, beside its administrator."""

    name: str
    groups: tuple[str, ...]
    token: str


@dataclass(frozen=True)
class Network:
    """A network for kube-apiserver instead of this host's.

    enter: the beginning of a command that runs the rest of it there. address, port: where it listens there.
    host_port: the port on this host's loopback that leads to it.
    """

    enter: tuple[str, ...]
    address: str
    port: int
    host_port: int


class Servers:
    """One etcd and one kube-apiserver, started together.

    etcd listens on Unix sockets in the private directory, so that nobody else on the machine reaches it. The
    API server's port is held by a bound socket for as long as the object lives: no other program can take it,
    neither between choosing and using it nor while the API server is down for a restart.

    identities: who else has a token. network: where the API server runs, if not on this host's network.
    """

    def __init__(
        self,
        binaries: Path,
        directory: Path,
        *,
        audit_log: Path | None = None,
        audit_policy: Mapping[str, Any] | None = None,
        extra_apiserver_args: Mapping[str, str] | None = None,
        identities: Sequence[Identity] = (),
        network: Network | None = None,
        ready_seconds: float = _READY_SECONDS,
    ) -> None:
        self._binaries = binaries
        self._audit_log = audit_log
        self._audit_policy = audit_policy or _AUDIT_POLICY
        self._extra = dict(extra_apiserver_args or {})
        self._identities = identities
        self._network = network
        self._ready_seconds = ready_seconds
        self._reservation: socket.socket | None = None
        self._etcd: Child | None = None
        self._apiserver: Child | None = None
        self.directory = directory
        self.port = network.host_port if network else 0
        self.token = secrets.token_hex(16)

    @property
    def connection(self) -> Connection:
        """How to reach the API server as a member of system:masters."""
        return Connection(url=f"https://127.0.0.1:{self.port}", ca=self.ca_path.read_text(), token=self.token)

    @property
    def ca_path(self) -> Path:
        """The certificate that the API server made for itself at its first start, good as a CA file."""
        return self.directory / "certs" / "apiserver.crt"

    @property
    def service_account_key(self) -> Path:
        """The private key that signs service account tokens."""
        return self.directory / "service-account.key"

    def start(self) -> None:
        """Start both and return when the API server is ready. Raises StartError, leaving no process behind."""
        try:
            self._write_files()
            self._etcd = self._start_etcd()
            self.start_apiserver()
        except BaseException:
            self.stop()
            raise

    def start_apiserver(self) -> None:
        """Start the API server alone, on its old port if it had one, and wait until it is ready."""
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            if self._reservation is None and self._network is None:
                self._reservation = reserve_port()
                self.port = self._reservation.getsockname()[1]
            self._apiserver = self._start_apiserver()
            try:
                self._await_ready(self._apiserver)
            except StartError as error:
                self._apiserver.kill()
                taken = "address already in use" in str(error)
                if self._reservation is None or not taken or attempt == _PORT_ATTEMPTS:
                    raise
                self._reservation.close()
                self._reservation = None
            else:
                return

    def stop(self) -> None:
        """End both processes, the API server first. Safe to call again."""
        for child in (self._apiserver, self._etcd):
            if child is not None:
                child.stop(_STOP_GRACE_SECONDS)
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    def kill_apiserver(self) -> None:
        """End the API server as a crash would."""
        self.apiserver.kill()

    def pause_etcd(self) -> None:
        """Freeze etcd: the API server stays up and cannot read or write."""
        self.etcd.signal(signal.SIGSTOP)

    def resume_etcd(self) -> None:
        """Let a frozen etcd go on."""
        self.etcd.signal(signal.SIGCONT)

    @property
    def apiserver(self) -> Child:
        """The process of the API server."""
        return _started(self._apiserver)

    @property
    def etcd(self) -> Child:
        """The process of etcd."""
        return _started(self._etcd)

    def _write_files(self) -> None:
        administrator = Identity("leasehold-admin", ("system:masters",), self.token)
        lines = [
            f'{known.token},{known.name},{known.name},"{",".join(known.groups)}"\n'
            for known in (administrator, *self._identities)
        ]
        write_private(self.directory / "tokens.csv", "".join(lines))
        write_private(self.service_account_key, new_private_key())
        write_private(self.directory / "audit-policy.yaml", json.dumps(self._audit_policy))

    def _start_etcd(self) -> Child:
        client = self._etcd_url()
        peer = (
            "unix://peer:0"  # nobody dials it: a cluster of one; etcd makes the file `peer:0` where it runs
        )
        return self._spawn(
            "etcd",
            {
                "--data-dir": str(self.directory / "etcd"),
                "--listen-client-urls": client,
                "--advertise-client-urls": client,
                "--listen-peer-urls": peer,
                "--initial-advertise-peer-urls": peer,
                "--initial-cluster": f"default={peer}",
                "--unsafe-no-fsync": "true",  # the data dies with the server anyway
                "--log-level": "error",
            },
        )

    def _etcd_url(self) -> str:
        return f"unix://{self.directory}/etcd.sock"

    def _start_apiserver(self) -> Child:
        if self._network is None:
            return self._spawn("kube-apiserver", self._apiserver_flags())
        # A proxy of this host is out of reach there.
        env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return self._spawn("kube-apiserver", self._apiserver_flags(), env=env, prefix=self._network.enter)

    def _listen_flags(self) -> dict[str, str]:
        if self._network is None:
            return {
                "--bind-address": "127.0.0.1",
                "--secure-port": str(self.port),
                "--permit-port-sharing": "true",  # with our own reservation, see reserve_port
            }
        return {
            "--bind-address": self._network.address,
            "--secure-port": str(self._network.port),
            "--advertise-address": "127.0.0.1",  # puts it into the certificate, for callers from this host
        }

    def _apiserver_flags(self) -> dict[str, str]:
        flags = {
            "--etcd-servers": self._etcd_url(),
            **self._listen_flags(),
            "--cert-dir": str(self.directory / "certs"),
            "--endpoint-reconciler-type": "none",
            "--service-cluster-ip-range": "10.96.0.0/16",
            "--service-account-issuer": SERVICE_ACCOUNT_ISSUER,
            "--service-account-key-file": str(self.service_account_key),
            "--service-account-signing-key-file": str(self.service_account_key),
            "--token-auth-file": str(self.directory / "tokens.csv"),
            "--authorization-mode": "RBAC",
            "--allow-privileged": "true",
        }
        if self._audit_log is not None:
            flags["--audit-policy-file"] = str(self.directory / "audit-policy.yaml")
            flags["--audit-log-path"] = str(self._audit_log.resolve())
            flags["--audit-log-maxsize"] = _NEVER_ROTATED
        return flags | self._extra

    def _spawn(
        self,
        program: str,
        flags: Mapping[str, str],
        *,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Child:
        return Child(
            [self._binaries / program, *(f"{flag}={value}" for flag, value in flags.items())],
            log=self.directory / f"{program}.log",
            cwd=self.directory,
            env=env,
            prefix=prefix,
        )

    def _await_ready(self, apiserver: Child) -> None:
        deadline = time.monotonic() + self._ready_seconds
        while not self._ready():
            for child in (self.etcd, apiserver):
                if not child.running():
                    raise StartError(
                        f"{child.name} ended with status {child.returncode()} while starting:\n"
                        f"{child.log_tail()}"
                    )
            if time.monotonic() > deadline:
                waited = f"{self._ready_seconds:.0f} s"
                raise StartError(f"kube-apiserver was not ready within {waited}:\n{apiserver.log_tail()}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        """Ask for readiness, and for the namespace that the API server makes shortly after it says ready."""
        try:
            with Client(self.connection, timeout_seconds=5) as client:
                client.raw("GET", "/readyz")
                client.raw("GET", "/api/v1/namespaces/default")
        except (OSError, ApiError):  # no certificate yet, not listening yet, not ready yet
            return False
        return True


def reserve_port() -> socket.socket:
    """Return a bound socket that keeps its free loopback port from everyone but the API server.

    Both set SO_REUSEPORT, which lets sockets of one user share a port. This one never listens, so all
    connections go to the API server.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


def new_private_key() -> str:
    """Return a new P-256 private key in PEM (RFC 5915), without the public half, which Go derives."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    number = secrets.randbelow(order - 1) + 1
    version_and_key = bytes.fromhex("0201010420") + number.to_bytes(32, "big")
    named_curve = bytes.fromhex("a00a06082a8648ce3d030107")
    der = bytes([0x30, len(version_and_key) + len(named_curve)]) + version_and_key + named_curve
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.encodebytes(der).decode()}-----END EC PRIVATE KEY-----\n"


def _started(child: Child | None) -> Child:
    if child is None:
        raise ControlPlaneError("the control plane is not started: call start() or use it in a with block")
    return child
