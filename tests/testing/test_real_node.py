"""A real node: pods really run, several nodes live side by side, and nothing of them stays, however they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.testing import traces
from tests.testing.programs import script
from tests.testing.traces import Traces

from leasehold.adapters.cgroups import Cgroups
from leasehold.testing import _node_keeper as keeper
from leasehold.testing import namespaces
from leasehold.testing.audit import describe
from leasehold.testing.client import Client, has_condition
from leasehold.testing.errors import ControlPlaneError, StartError
from leasehold.testing.helpers import KWOK_NODE_ANNOTATION
from leasehold.testing.images import write_archive
from leasehold.testing.nodes import SimulatedNodes
from leasehold.testing.processes import wait_until
from leasehold.testing.real_node import RealNode

pytestmark = [pytest.mark.cluster, pytest.mark.real_node]

IMAGE = "localhost/probe:1"
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of an image of one static program, built here."""
    directory = tmp_path_factory.mktemp("probe")
    source = Path(__file__).with_name("probe") / "main.go"
    env = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", str(directory / "probe"), str(source)], env=env, check=True)
    return write_archive(directory / "probe.tar", IMAGE, {"/probe": directory / "probe"}, ["/probe"])


@pytest.fixture(scope="module")
def node(image: Path) -> Iterator[RealNode]:
    """A node that these tests share; each has a namespace of its own."""
    with RealNode(labels={"tier": "ci"}) as node:
        node.load_image(image)
        yield node


@pytest.fixture
def client(node: RealNode) -> Client:
    return node.client()


@pytest.fixture
def team(client: Client, request: pytest.FixtureRequest) -> str:
    """A namespace that takes restricted pods only."""
    return make_namespace(client, request.node.name.replace("_", "-")[:60].strip("-"))


def make_namespace(client: Client, name: str) -> str:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    client.wait("serviceaccounts", "default", name, until=lambda account: True)
    return name


def pod(name: str, namespace: str, *arguments: str, **spec: Any) -> dict[str, Any]:
    """A pod as the restricted standard wants it."""
    container = {
        "name": "main",
        "image": IMAGE,
        "args": list(arguments),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    whose = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": whose,
            "containers": [container],
            **spec,
        },
    }


def in_phase(*phases: str) -> Callable[[dict[str, Any]], bool]:
    return lambda pod: pod["status"].get("phase") in phases


def run_pod(client: Client, name: str, namespace: str, phase: str, *arguments: str) -> dict[str, Any]:
    client.create(pod(name, namespace, *arguments))
    ended = in_phase("Succeeded", "Failed", phase)
    seen = client.wait("pods", name, namespace, until=ended, timeout_seconds=60)
    assert seen["status"]["phase"] == phase, seen["status"]
    return seen


def traces_of(node: RealNode) -> Traces:
    assert node._namespaces is not None
    return Traces.of(node._namespaces.name, node._namespaces.pid, node.processes.values())


def test_a_node_is_ready_and_says_how_fast(
    node: RealNode, client: Client, record_property: pytest.RecordProperty
) -> None:
    record_property("start_seconds", round(node.start_seconds, 1))
    found = client.get("nodes", node.name)
    assert has_condition(found, "Ready")
    assert found["metadata"]["labels"]["tier"] == "ci"
    assert found["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    version = client.request("GET", "/version")["gitVersion"]
    assert found["status"]["nodeInfo"]["kubeletVersion"] == version


def test_a_node_cannot_be_started_twice(node: RealNode) -> None:
    with pytest.raises(ControlPlaneError, match="started already"):
        node.start()


def test_a_restricted_pod_runs_and_its_token_reaches_the_api_server(
    node: RealNode, client: Client, team: str
) -> None:
    run_pod(client, "a", team, "Succeeded")
    told = json.loads(node.logs("a", team))
    assert told["uid"] == 65532
    assert int(told["status"]["CapEff"], 16) == 0
    assert int(told["status"]["CapBnd"], 16) == 0
    assert told["status"]["NoNewPrivs"] == "1"
    assert told["status"]["Seccomp"] == "2"
    assert "read-only file system" in told["write"]

    user = f"system:serviceaccount:{team}:default"
    assert told["review"]["host"] == "10.96.0.1:443"
    assert told["review"]["code"] == 201, told["review"]
    assert json.loads(told["review"]["body"])["status"]["userInfo"]["username"] == user
    assert told["secrets"]["code"] == 403
    denials = [entry for entry in node.denied() if entry["user"]["username"] == user]
    assert [describe(entry).partition(": ")[0] for entry in denials] == [f"{user} list /api/v1/secrets"]


def test_a_pod_that_is_not_restricted_is_refused_there(client: Client, team: str) -> None:
    with pytest.raises(ControlPlaneError, match="violates PodSecurity"):
        client.create(pod("a", team, hostNetwork=True))


def test_a_command_runs_in_a_pod(node: RealNode, client: Client, team: str) -> None:
    run_pod(client, "a", team, "Running", "wait")
    said = node.exec("a", ["/probe", "say", "hello"], team)
    assert (said.returncode, said.stdout) == (0, "hello\n"), said.stderr
    assert node.exec("a", ["/absent"], team).returncode != 0
    assert node.logs("a", team) == "waiting\n"


def test_pods_of_every_class_are_found_by_the_cgroups_that_the_kubelet_makes(
    client: Client, team: str
) -> None:
    """As a reporter on the node looks for the pods of three leases."""
    wanted: dict[str, dict[str, Any]] = {
        "besteffort": {},
        "burstable": {"requests": {"cpu": "10m"}},
        "guaranteed": {"limits": {"cpu": "50m", "memory": "64Mi"}},
    }
    pods = {}
    for lease, resources in wanted.items():
        made = pod(lease, team, "wait")
        made["spec"]["containers"][0]["resources"] = resources
        client.create(made)
    for lease in wanted:
        seen = client.wait("pods", lease, team, until=in_phase("Running"), timeout_seconds=60)
        assert seen["status"]["qosClass"].lower() == lease
        pods[seen["metadata"]["uid"]] = lease
    cgroups = Cgroups()
    leases, problems = cgroups.read([*wanted, "none"], pods)
    assert problems == ()
    assert {lease for lease, use in leases.items() if use.present} == wanted.keys()
    for lease in wanted:
        assert leases[lease].cpu_seconds > 0
        assert 0 < leases[lease].memory < 64 << 20
    client.delete("pods", "burstable", team)

    def gone() -> set[str]:
        found = cgroups.read([*wanted, "none"], pods).leases
        return {lease for lease in found if not found[lease].present}

    assert wait_until(lambda: "burstable" in gone(), 30)
    assert gone() == {"burstable", "none"}


def test_images_come_from_archives(node: RealNode, image: Path) -> None:
    assert node.load_image(image) == [IMAGE]
    assert node.load_image(str(image)) == [IMAGE]
    assert IMAGE in node.images()

    layout = node.directory / "oci.tar"  # containerd writes the OCI's layout
    node._ctr("images", "export", str(layout), IMAGE)
    node._ctr("images", "remove", IMAGE)
    assert IMAGE not in node.images()
    assert node.load_image(layout) == [IMAGE]

    with pytest.raises(ControlPlaneError, match="localhost/none:1 is neither a file nor an image"):
        node.load_image("localhost/none:1")


def test_images_come_from_a_build_tool_by_name(
    node: RealNode, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    script(tools, "podman", "echo no such image here >&2; exit 125")
    script(
        tools,
        "buildah",
        f'[ $1 = push ] && archive="${{4#docker-archive:}}" && cp {image} "${{archive%%:*}}"',
    )
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    assert node.load_image(IMAGE) == [IMAGE]
    assert not list(node.directory.glob("image-*"))


def test_the_node_may_not_write_what_is_another_nodes(node: RealNode, client: Client) -> None:
    kubelet = node.client(node.as_kubelet())
    with SimulatedNodes(client) as others:
        (another,) = others.create(1, report=False)
        with pytest.raises(
            ControlPlaneError, match=f'"{node.name}" is not allowed to modify node "{another}"'
        ):
            kubelet.patch("nodes", another, {"metadata": {"labels": {"a": "b"}}})
    kubelet.patch("nodes", node.name, {"metadata": {"labels": {"a": "b"}}})


def test_nobody_without_rights_speaks_to_the_kubelet(node: RealNode) -> None:
    ask = (
        "import ssl, urllib.request as r\n"
        "try: r.urlopen('https://10.88.0.1:10250/pods', context=ssl._create_unverified_context())\n"
        "except r.HTTPError as error: print(error.code)\n"
    )
    said = node.run([sys.executable, "-I", "-c", ask])
    assert said.stdout == "401\n", said.stderr


def test_only_loopback_of_the_host_leads_to_it(node: RealNode) -> None:
    assert node.connection.url.startswith("https://127.0.0.1:")
    port = f"{int(node.connection.url.rpartition(':')[2]):04X}"
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port}")
    ]
    assert listening == [f"0100007F:{port}"]  # 127.0.0.1, in the kernel's byte order


def test_a_killed_kubelet_comes_back_and_finds_its_pods(node: RealNode, client: Client, team: str) -> None:
    before = run_pod(client, "a", team, "Running", "wait")
    node.stop_kubelet()
    assert "kubelet" not in node.processes
    node.start_kubelet()
    node.wait_ready()
    # It answers before it knows its pods again.
    says = ["/probe", "say", "still here"]
    assert wait_until(lambda: node.exec("a", says, team).stdout == "still here\n", 20)
    after = client.get("pods", "a", team)
    assert after["status"]["containerStatuses"] == before["status"]["containerStatuses"]


def test_a_restarted_api_server_finds_its_node_again(node: RealNode, client: Client, team: str) -> None:
    url = node.connection.url
    node.control_plane.restart_apiserver()
    assert node.connection.url == url
    node.wait_ready()
    run_pod(client, "a", team, "Succeeded")


def test_simulated_nodes_live_beside_it(node: RealNode, client: Client, team: str) -> None:
    node.control_plane.start_program("kwok")
    with SimulatedNodes(client, annotations={KWOK_NODE_ANNOTATION: "fake"}) as others:
        (another,) = others.create(1, report=False)
        for where, phase in ((another, "Running"), (node.name, "Succeeded")):
            client.create(pod(f"on-{where}", team, nodeSelector={"kubernetes.io/hostname": where}))
            client.wait("pods", f"on-{where}", team, until=in_phase(phase), timeout_seconds=60)
        assert json.loads(node.logs(f"on-{node.name}", team))["uid"] == 65532


def test_two_live_side_by_side_and_leave_nothing(image: Path) -> None:
    before = traces.of_the_machine()
    nodes = [RealNode(), RealNode()]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(RealNode.start, nodes))
            list(pool.map(lambda node: node.load_image(image), nodes))
        for node in nodes:
            client = node.client()
            run_pod(client, "a", make_namespace(client, "team-a"), "Running", "wait")
            assert [found["metadata"]["name"] for found in client.list("nodes")] == [node.name]
            assert node.exec("a", ["/probe", "say", node.name], "team-a").stdout.strip() == node.name
        seen = [traces_of(node) for node in nodes]
        assert all(len(one.processes) >= 10 for one in seen)  # the control plane, the node, shims and pods
        assert not seen[0].processes & seen[1].processes
    finally:
        for node in nodes:
            node.stop()
    assert [one.left() for one in seen] == [[], []]
    assert traces.of_the_machine() == before


def test_nothing_stays_after_an_error_in_a_test(image: Path) -> None:
    seen = []

    def fail(node: RealNode) -> None:
        seen.append(traces_of(node))
        raise LookupError(node.name)

    with pytest.raises(LookupError), RealNode() as node:
        fail(node)
    assert seen[0].left() == []


def test_a_node_that_cannot_start_says_why_and_leaves_nothing() -> None:
    node = RealNode(kubelet_config={"evictionHard": {"no.such.signal": "1"}})
    with pytest.raises(StartError, match=r"(?s)kubelet ended with status .*no\.such\.signal"):
        node.start()
    with pytest.raises(ControlPlaneError, match="not started"):
        _ = node.connection
    assert node.processes == {}


SCRIPT = """
import json, sys, time
from pathlib import Path
from leasehold.testing.real_node import RealNode
from tests.testing.test_real_node import make_namespace, run_pod

node = RealNode().start()
node.load_image(Path(sys.argv[1]))
run_pod(node.client(), "a", make_namespace(node.client(), "team-a"), "Running", "wait")
spaces = node._namespaces
print(json.dumps([spaces._keeper.pid, spaces.name, spaces.pid, *node.processes.values()]), flush=True)
time.sleep(600)
"""


class Doomed:
    """A process with a node and a pod, to be killed."""

    def __init__(self, image: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(image)],
            stdout=subprocess.PIPE,
            text=True,
            env=ENV,
        )
        assert self._process.stdout is not None
        self.keeper, name, first, *known = json.loads(self._process.stdout.readline())
        self.traces = Traces.of(name, first, known)

    def kill(self, *others: int) -> None:
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()


def test_nothing_stays_when_the_owner_is_killed_outright(image: Path) -> None:
    before = traces.of_the_machine()
    doomed = Doomed(image)
    assert len(doomed.traces.processes) >= 10
    doomed.kill()
    wait_until(lambda: not doomed.traces.left(), 20)
    assert doomed.traces.left() == []
    assert traces.of_the_machine() == before


@pytest.mark.parametrize("stage", ["keeper.log", "kernel", "containerd.toml", "kubelet.json"])
def test_nothing_stays_when_the_owner_is_killed_while_it_starts_one(stage: str) -> None:
    """However far it is: it has just begun, makes the namespaces, starts servers, waits for the node."""
    script = "from leasehold.testing.real_node import RealNode; RealNode().start(); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, env=ENV) as owner:
        mine = f"{keeper.PREFIX}{owner.pid}-"
        reached = wait_until(lambda: bool(list(Path(tempfile.gettempdir()).glob(f"{mine}*/{stage}"))), 60)
        owner.kill()
    assert reached
    traces = Traces(mine, frozenset(), frozenset())
    wait_until(lambda: not traces.left(), 20)
    assert traces.left() == []


def test_the_kernel_and_the_next_node_clear_up_when_the_keeper_is_killed_too(image: Path) -> None:
    doomed = Doomed(image)
    doomed.kill(doomed.keeper)
    kinds = {"process", "mount"}
    wait_until(lambda: not kinds & {line.split()[0] for line in doomed.traces.left()}, 20)
    # Another test may have started the next node already.
    assert {line.split()[0] for line in doomed.traces.left()} <= {"cgroup", "directory"}
    namespaces.remove_abandoned()
    assert doomed.traces.left() == []
