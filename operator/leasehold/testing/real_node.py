"""A real node that runs real pods: kubelet, containerd and runc, with a control plane of its own.

    with RealNode() as node, node.client() as client:
        node.load_image(Path("image.tar"))
        client.create(pod)
        client.wait("pods", "a", "default", until=lambda pod: pod["status"]["phase"] == "Succeeded")
        print(node.logs("a"))

It needs root on Linux; `RealNode.unavailable()` tells what else. Everything lives in namespaces of its own
(`namespaces`), so that several run side by side and none leaves anything behind. Pods reach each other and
the API server, nothing else; the host reaches the API server through a port of its loopback.
"""

from __future__ import annotations

import atexit
import json
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from leasehold.testing import audit, images, node_host
from leasehold.testing.audit import Entry
from leasehold.testing.client import Client, has_condition
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError, ControlPlaneError, NodeUnavailableError, StartError
from leasehold.testing.kubeconfig import Connection, write_private
from leasehold.testing.namespaces import API_ADDRESS, NODE_ADDRESS, Namespaces
from leasehold.testing.processes import Child, wait_until
from leasehold.testing.servers import Identity, Network
from leasehold.testing.toolchain import Progress, print_progress

PAUSE_IMAGE = "localhost/leasehold-pause:1"
_API_PORT = 443
_FORWARD = Path(__file__).with_name("_forward.py")
_READY_SECONDS = 90.0
_STOP_GRACE_SECONDS = 3.0
_COMMAND_SECONDS = 300.0


class RealNode:
    """One node and its control plane, from `start` to `stop`. Several live side by side.

    name: what the node is called, by default real- and something random. labels: of the Node object.
    audit_policy, extra_apiserver_args: see ControlPlane; the audit log is always written. kubelet_config:
    fields of a KubeletConfiguration that win over ours. progress: is given lines about installing and
    building; by default they go to standard error.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        audit_policy: Mapping[str, Any] | None = None,
        extra_apiserver_args: Mapping[str, str] | None = None,
        kubelet_config: Mapping[str, Any] | None = None,
        progress: Progress = print_progress,
    ) -> None:
        self.name = name or f"real-{secrets.token_hex(3)}"
        self._labels = dict(labels or {})
        self._audit_policy = audit_policy
        self._extra_apiserver_args = dict(extra_apiserver_args or {})
        self._kubelet_config = dict(kubelet_config or {})
        self._progress = progress
        self._namespaces: Namespaces | None = None
        self._control_plane: ControlPlane | None = None
        self._containerd: Child | None = None
        self._kubelet: Child | None = None
        self._door: Child | None = None
        self._binaries = Path()
        self._token = secrets.token_hex(16)
        self.start_seconds = 0.0

    @staticmethod
    def unavailable() -> str | None:
        """Return why no real node can run on this machine, or None when one can."""
        return node_host.unavailable()

    @staticmethod
    def prepare(progress: Progress = print_progress) -> None:
        """Install Debian's packages and build the binaries that are not there yet; `start` does it, too.

        Raises NodeUnavailableError and BuildError.
        """
        reason = node_host.unavailable()
        if reason is not None:
            raise NodeUnavailableError(reason)
        node_host.install(progress)
        node_host.build(progress)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start control plane and node, and return when the node is ready to run pods.

        `start_seconds` then tells how long that took, without what `prepare` does. Raises
        NodeUnavailableError, BuildError and StartError, and leaves nothing behind then.
        """
        if self._namespaces is not None:
            raise ControlPlaneError("the node is started already: stop() it first, or make another")
        self.prepare(self._progress)
        self._binaries = node_host.build(self._progress)
        begun = time.monotonic()
        atexit.register(self.stop)
        try:
            self._namespaces = Namespaces()
            self._namespaces.start()
            with ThreadPoolExecutor(2) as pool:
                for part in [pool.submit(self._start_control_plane), pool.submit(self._start_containerd)]:
                    part.result()
            self.start_kubelet()
            for program in ("kube-controller-manager", "kube-scheduler"):
                self.control_plane.start_program(program)
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - begun
        return self

    def stop(self) -> None:
        """End what was started here, and leave nothing behind. Safe to call again."""
        atexit.unregister(self.stop)
        self.stop_kubelet()
        if self._control_plane is not None:
            self._control_plane.stop()
            self._control_plane = None
        for child in (self._containerd, self._door):
            if child is not None:
                child.stop(_STOP_GRACE_SECONDS)
        self._containerd = self._door = None
        if self._namespaces is not None:
            self._namespaces.stop()
            self._namespaces = None

    # Where it is, and who may speak to it

    @property
    def control_plane(self) -> ControlPlane:
        """The node's control plane, for identities, further programs (kwok) and faults."""
        if self._control_plane is None:
            raise _not_started()
        return self._control_plane

    @property
    def connection(self) -> Connection:
        """How to reach the API server from this host, as its administrator."""
        return self.control_plane.connection

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig file of the administrator, for programs on this host."""
        return self.control_plane.kubeconfig

    def client(self, connection: Connection | None = None) -> Client:
        """Return a client, of the administrator unless a connection says otherwise; stop() closes it."""
        return self.control_plane.client(connection)

    def as_kubelet(self) -> Connection:
        """Return a connection by the node's own identity, which may do what the Node authorizer lets it."""
        return Connection(url=self.connection.url, ca=self.connection.ca, token=self._token)

    @property
    def directory(self) -> Path:
        """The node's private directory: logs, images, volumes."""
        return self._own().directory

    @property
    def processes(self) -> dict[str, int]:
        """The ids of the processes that were started for it, by program name."""
        own = {child.name: child.pid for child in self._children() if child.running()}
        return own | (self._control_plane.processes if self._control_plane else {})

    # Images

    def load_image(self, image: Path | str) -> list[str]:
        """Bring an image to the node and return the names it has there.

        image: the path of an OCI or docker archive, or the name of an image that podman, docker or buildah
        holds, which is then exported. Let the name have a registry (localhost/app:1), and pods a pull policy
        other than Always: there is no registry to pull from. Raises ControlPlaneError.
        """
        if isinstance(image, Path) or Path(image).is_file():
            return self._import(Path(image))
        archive = self.directory / f"image-{secrets.token_hex(4)}.tar"
        try:
            return self._import(_export(image, archive))
        finally:
            archive.unlink(missing_ok=True)

    def images(self) -> list[str]:
        """Return the names of the images on the node."""
        return sorted(self._ctr("images", "list", "--quiet").stdout.split())

    def _import(self, archive: Path) -> list[str]:
        said = self._ctr("images", "import", str(archive.resolve()))
        return re.findall(r"^(?:unpacking )?(\S+[:@]\S+)", said.stdout, re.MULTILINE)

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [node_host.program("ctr"), "--address", str(self._socket), "--namespace", "k8s.io"]
        return _checked(self.run([*command, *arguments]))

    # Pods

    def logs(
        self,
        pod: str,
        namespace: str = "default",
        *,
        container: str | None = None,
        previous: bool = False,
    ) -> str:
        """Return what a pod's container wrote, read through the API server. Raises ApiError."""
        query = {"container": container} if container else {}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        with Client(self.connection) as client:
            return client.raw("GET", path, **query, previous=str(previous).lower()).decode(errors="replace")

    def exec(
        self,
        pod: str,
        command: Sequence[str],
        namespace: str = "default",
        *,
        container: str | None = None,
        timeout_seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod's container, through the API server, and return what came of it."""
        kubectl = [str(self._binaries / "kubectl"), "--kubeconfig", str(self.kubeconfig), "exec", pod]
        options = ["--namespace", namespace, *(["--container", container] if container else [])]
        return subprocess.run(
            [*kubectl, *options, "--", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    # The audit log

    def audit(self) -> list[Entry]:
        """Return what was asked of the API server so far, one entry per request."""
        return audit.read(self._audit_log)

    def denied(self) -> list[Entry]:
        """Return the requests that were refused for want of identity or rights; `audit.describe` tells one."""
        return audit.denied(self.audit())

    # The node itself

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command on the node: in its network, with its mounts and among its processes."""
        return subprocess.run(
            [*self._own().within(), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(node_host.environment()),
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )

    def start_kubelet(self) -> None:
        """Start the kubelet; `start` does it, and a test that has stopped it may."""
        self._write_kubelet_config()
        flags = {
            "--config": str(self.directory / "kubelet.json"),
            "--kubeconfig": str(self.directory / "kubelet.kubeconfig"),
            "--hostname-override": self.name,
            "--node-ip": NODE_ADDRESS,
            "--node-labels": ",".join(f"{key}={value}" for key, value in self._labels.items()),
            "--root-dir": str(self.directory / "kubelet"),
            "--cert-dir": str(self.directory / "kubelet" / "pki"),
        }
        program = self._binaries / "kubelet"
        self._kubelet = self._spawn([program, *(f"{flag}={value}" for flag, value in flags.items())])

    def stop_kubelet(self) -> None:
        """Kill the kubelet, as when a machine falls silent: pods go on, and nobody reports them."""
        if self._kubelet is not None:
            self._kubelet.kill()
            self._kubelet = None

    def wait_ready(self, timeout_seconds: float = _READY_SECONDS) -> None:
        """Wait until the node takes pods: ready, without a taint, its kubelet answering. Raises StartError."""
        with Client(self.connection) as client:
            if not wait_until(lambda: self._ready(client), timeout_seconds, step_seconds=0.05):
                conditions = (client.find("nodes", self.name) or {}).get("status", {}).get("conditions")
                raise StartError(
                    f"The node {self.name} was not ready within {timeout_seconds:.0f} s: {json.dumps(conditions)}"
                    f"\n{self._kubelet.log_tail() if self._kubelet else ''}"
                )

    def _ready(self, client: Client) -> bool:
        for child in self._children():
            if not child.running():
                raise StartError(f"{child.name} ended with status {child.returncode()}:\n{child.log_tail()}")
        node = client.find("nodes", self.name)
        if node is None or not has_condition(node, "Ready") or node["spec"].get("taints"):
            return False
        try:
            return client.raw("GET", f"/api/v1/nodes/{self.name}/proxy/healthz") == b"ok"
        except ApiError:  # it does not listen yet: what the node says is from an earlier kubelet
            return False

    # Its parts

    def _start_control_plane(self) -> None:
        self._make_certificate()
        door = socket.create_server(("127.0.0.1", 0), backlog=128)
        with door:
            self._door = Child(
                [sys.executable, "-I", "-S", _FORWARD, str(door.fileno()), API_ADDRESS, str(_API_PORT)],
                log=self.directory / "forward.log",
                cwd=self.directory,
                prefix=self._own().network(),
                pass_fds=[door.fileno()],
                name="forward",
            )
            network = Network(tuple(self._own().network()), API_ADDRESS, _API_PORT, door.getsockname()[1])
        kubelet = Identity(f"system:node:{self.name}", ("system:nodes",), self._token)
        self._control_plane = ControlPlane(
            audit_log=self._audit_log,
            audit_policy=self._audit_policy,
            extra_apiserver_args=self._apiserver_args() | self._extra_apiserver_args,
            pinned=True,
            identities=[kubelet],
            network=network,
            progress=self._progress,
        )
        self._control_plane.start()

    def _apiserver_args(self) -> dict[str, str]:
        return {
            "--authorization-mode": "Node,RBAC",
            "--enable-admission-plugins": "NodeRestriction",
            "--kubelet-preferred-address-types": "InternalIP",
            "--kubelet-client-certificate": str(self.directory / "kubelet-client.crt"),
            "--kubelet-client-key": str(self.directory / "kubelet-client.key"),
        }

    def _make_certificate(self) -> None:
        """Make the certificate that the API server shows to the kubelet, which trusts it and no other."""
        subject = "/O=system:masters/CN=kube-apiserver-kubelet-client"
        key, certificate = (str(self.directory / f"kubelet-client.{ending}") for ending in ("key", "crt"))
        files = ["-keyout", key, "-out", certificate]
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        made = subprocess.run(
            [node_host.program("openssl"), "req", *kind, *files, "-subj", subject],
            capture_output=True,
            text=True,
            check=False,
        )
        _checked(made)

    def _start_containerd(self) -> None:
        plugins = node_host.plugin_directory()
        if plugins is None:
            raise NodeUnavailableError("the network plugins are not there")
        (self.directory / "cni").mkdir()
        network = self.directory / "cni" / "10-leasehold.conflist"
        network.write_text(json.dumps(_pod_network()))
        config = self.directory / "containerd.toml"
        config.write_text(_containerd_config(self.directory, plugins))
        self._containerd = self._spawn([node_host.program("containerd"), "--config", config])
        child = self._containerd
        answers = wait_until(lambda: self._socket.exists() or not child.running(), _READY_SECONDS)
        if not answers or not child.running():
            raise StartError(f"containerd did not start:\n{child.log_tail()}")
        pause = {"/pause": self._binaries / "pause"}
        archive = images.write_archive(self.directory / "pause.tar", PAUSE_IMAGE, pause, ["/pause"])
        self._import(archive)

    def _write_kubelet_config(self) -> None:
        (self.directory / "resolv.conf").touch()  # pods look up nothing: no DNS server runs
        connection = Connection(
            url=f"https://{API_ADDRESS}:{_API_PORT}", ca=self.connection.ca, token=self._token
        )
        connection.write(self.directory / "kubelet.kubeconfig")
        config = _kubelet_config(self.directory, self._own().name, self._socket) | self._kubelet_config
        write_private(self.directory / "kubelet.json", json.dumps(config, indent=2))

    def _spawn(self, command: Sequence[str | Path]) -> Child:
        return Child(
            command,
            log=self.directory / f"{Path(command[0]).name}.log",
            cwd=self.directory,
            env=node_host.environment(),
            prefix=self._own().within(),
        )

    def _children(self) -> list[Child]:
        return [child for child in (self._door, self._containerd, self._kubelet) if child is not None]

    @property
    def _socket(self) -> Path:
        return self.directory / "containerd.sock"

    @property
    def _audit_log(self) -> Path:
        return self.directory / "audit.jsonl"

    def _own(self) -> Namespaces:
        if self._namespaces is None:
            raise _not_started()
        return self._namespaces


def _pod_network() -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/16", "rangeStart": "10.88.1.1", "gateway": NODE_ADDRESS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "lh0", "isGateway": True, "ipMasq": False, "hairpinMode": True}
    return {"cniVersion": "0.4.0", "name": "leasehold", "plugins": [{**bridge, "ipam": addresses}]}


def _containerd_config(directory: Path, plugins: Path) -> str:
    """Return a configuration that keeps every file in the directory and changes nothing of the host.

    A process may be short of the right to lower oom_score_adj, hence restrict_oom_score_adj. AppArmor is
    left out, for its profile would be loaded into the host's kernel.
    """
    return f"""
version = 2
root = "{directory}/containerd"
state = "{directory}/containerd-state"
[grpc]
  address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"""


def _kubelet_config(directory: Path, cgroup: str, runtime: Path) -> dict[str, Any]:
    """Return a configuration that keeps every file in the directory and lets in nobody without rights.

    The host's disk is not the node's alone: neither pods nor images go because it is full.
    """
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(directory / "kubelet-client.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "containerRuntimeEndpoint": f"unix://{runtime}",
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,  # the right to lower it may be missing
        "podLogsDir": str(directory / "pods"),
        "resolvConf": str(directory / "resolv.conf"),
        "volumePluginDir": str(directory / "volume-plugins"),
    }


def _export(name: str, archive: Path) -> Path:
    """Write an image of this host's into an archive. Raises ControlPlaneError when no tool holds it."""
    tried = []
    for tool, command in (
        ("podman", ["save", "--format", "docker-archive", "--output", str(archive), name]),
        ("docker", ["save", "--output", str(archive), name]),
        ("buildah", ["push", "--quiet", name, f"docker-archive:{archive}:{name}"]),
    ):
        program = shutil.which(tool)
        if program is None:
            tried.append(f"{tool} is not installed")
            continue
        archive.unlink(missing_ok=True)
        ran = subprocess.run(
            [program, *command], capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
        if ran.returncode == 0:
            return archive
        tried.append(f"{tool}: {ran.stderr.strip()[-500:]}")
    raise ControlPlaneError(f"{name} is neither a file nor an image that can be exported: {'; '.join(tried)}")


def _checked(ran: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    if ran.returncode != 0:
        said = (ran.stderr or ran.stdout).strip()[-2000:]
        raise ControlPlaneError(
            f"`{' '.join(map(str, ran.args))}` failed with status {ran.returncode}:\n{said}"
        )
    return ran


def _not_started() -> ControlPlaneError:
    return ControlPlaneError("the node is not started: call start() or use it in a with block")
