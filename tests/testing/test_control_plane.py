"""The control plane, for real: etcd and kube-apiserver, no double anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.testing.programs import script

from leasehold.testing import workspace
from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError, ControlPlaneError, NotOwnedError, StartError
from leasehold.testing.kubeconfig import Connection
from leasehold.testing.processes import ProcessIdentity, wait_until
from leasehold.testing.servers import Identity

pytestmark = pytest.mark.cluster


BOB = Identity("bob", ("team-a", "team-b"), "bobs-token")


def config_map(name: str, namespace: str = "default", **data: str) -> dict[str, object]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def identities(control_plane: ControlPlane) -> list[ProcessIdentity]:
    found = [ProcessIdentity.of(pid) for pid in control_plane.processes.values()]
    return [identity for identity in found if identity is not None]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A server of this file's own, for faults that would disturb others."""
    audit_log = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    with ControlPlane(audit_log=audit_log, identities=[BOB]) as control_plane:
        yield control_plane


def test_the_fixture_serves_and_says_how_fast_it_started(
    control_plane: ControlPlane, kube: Client, namespace: str, record_property: pytest.RecordProperty
) -> None:
    record_property("start_seconds", round(control_plane.start_seconds, 1))
    kube.create(config_map("a", namespace))
    assert [obj["metadata"]["name"] for obj in kube.list("cm", namespace) if obj["metadata"]["name"] == "a"]
    assert 0 < control_plane.start_seconds < 90


def test_two_live_side_by_side_and_leave_nothing() -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: ControlPlane(local=True).start(), range(2))
    processes = identities(first) + identities(second)
    directories = [first.directory, second.directory]
    try:
        assert len(processes) == 4
        assert first.url != second.url
        first.client().create(config_map("only-here"))
        assert second.client().find("configmaps", "only-here", "default") is None
    finally:
        first.stop()
        second.stop()
    assert not any(process.alive() for process in processes)
    assert not any(directory.exists() for directory in directories)


def test_secrets_are_for_the_owner_alone(own: ControlPlane) -> None:
    assert own.directory.stat().st_mode & 0o077 == 0
    assert own.kubeconfig.stat().st_mode & 0o077 == 0
    assert (own.directory / "tokens.csv").stat().st_mode & 0o077 == 0
    assert (own.directory / "service-account.key").stat().st_mode & 0o077 == 0


def test_listens_on_loopback_only(own: ControlPlane) -> None:
    listening = set()
    for pid in own.processes.values():
        inodes = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    listening.add(fields[1].partition(":")[0])
    assert listening == {"0100007F"}  # 127.0.0.1, in the kernel's byte order


def test_the_server_is_verified(control_plane: ControlPlane) -> None:
    stranger = Connection(url=control_plane.url, token=control_plane.token)  # no CA: the system's are used
    with Client(stranger) as client, pytest.raises(OSError, match="certificate verify failed"):
        client.raw("GET", "/version")


def test_cannot_be_started_twice(control_plane: ControlPlane) -> None:
    with pytest.raises(ControlPlaneError, match="started already"):
        control_plane.start()


def test_says_that_it_is_not_started() -> None:
    with pytest.raises(ControlPlaneError, match="not started"):
        _ = ControlPlane().url


def test_killing_the_parent_outright_leaves_no_process() -> None:
    script = (
        "import json, time\n"
        "from leasehold.testing.control_plane import ControlPlane\n"
        "control_plane = ControlPlane(local=True).start()\n"
        "where = str(control_plane.directory)\n"
        "print(json.dumps([where, *control_plane.processes.values()]), flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        directory, *pids = json.loads(parent.stdout.readline())
        processes = [ProcessIdentity.of(pid) for pid in pids]
        assert all(process is not None for process in processes)
        parent.kill()
    gone = wait_until(lambda: not any(process and process.alive() for process in processes), 10)
    assert gone
    workspace.remove_abandoned()
    assert not Path(directory).exists()


def test_outlives_the_thread_that_started_it() -> None:
    started: list[ControlPlane] = []
    thread = threading.Thread(target=lambda: started.append(ControlPlane(local=True).start()))
    thread.start()
    thread.join()
    try:
        time.sleep(0.3)
        assert all(process.alive() for process in identities(started[0]))
        assert started[0].client().get("namespaces", "default")
    finally:
        started[0].stop()


def test_rbac_holds_a_service_account(control_plane: ControlPlane, kube: Client, namespace: str) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": namespace}
    metadata = {"name": "reader", "namespace": namespace}
    version = "rbac.authorization.k8s.io/v1"
    kube.create({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules})
    binding = {"apiVersion": version, "kind": "RoleBinding", "metadata": metadata}
    kube.create({**binding, "roleRef": reference, "subjects": [subject]})
    kube.create(config_map("a", namespace, key="value"))

    with control_plane.client(control_plane.as_service_account(namespace, "reader")) as reader:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        allowed = wait_until(lambda: _status_of(reader, f"{path}/a") == 200, 10)  # RBAC is read from a cache
        assert allowed
        assert _status_of(reader, path) == 403
        with pytest.raises(ApiError, match=f"system:serviceaccount:{namespace}:reader") as refused:
            reader.raw("DELETE", f"{path}/a")
    assert (refused.value.status, refused.value.reason) == (403, "Forbidden")


def _status_of(client: Client, path: str) -> int:
    try:
        client.raw("GET", path)
    except ApiError as error:
        return error.status
    return 200


def test_acts_as_a_user(control_plane: ControlPlane) -> None:
    path = control_plane.kubeconfig_for("alice", ("team-a", "team-b"))
    with Client(Connection.read(path)) as alice:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}
        user = alice.create(review)["status"]["userInfo"]
    assert user["username"] == "alice"
    assert {"team-a", "team-b"} <= set(user["groups"])


def test_knows_others_by_their_tokens(own: ControlPlane) -> None:
    bob = own.client(Connection(url=own.url, ca=own.connection.ca, token=BOB.token))
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}
    user = bob.create(review)["status"]["userInfo"]
    assert user["username"] == "bob"
    assert set(BOB.groups) <= set(user["groups"])


def test_a_restarted_server_keeps_data_and_address(own: ControlPlane) -> None:
    client, url = own.client(), own.url
    client.create(config_map("kept", key="value"))
    own.kill_apiserver()
    with pytest.raises(OSError):
        client.get("configmaps", "kept", "default")
    own.restart_apiserver()
    assert own.url == url
    assert client.get("configmaps", "kept", "default")["data"] == {"key": "value"}


def test_a_paused_etcd_stops_writes_until_it_is_resumed(own: ControlPlane) -> None:
    with Client(own.connection, timeout_seconds=1) as client:
        own.pause_etcd()
        try:
            with pytest.raises(TimeoutError):
                client.request("POST", "/api/v1/namespaces/default/configmaps", config_map("late"))
        finally:
            own.resume_etcd()
    own.client().apply(config_map("late"))


def test_the_audit_log_has_a_line_per_request(own: ControlPlane) -> None:
    own.client().create(config_map("audited"))
    assert own._audit_log is not None
    lines = own._audit_log.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert any(e["verb"] == "create" and e["objectRef"].get("resource") == "configmaps" for e in entries)


def test_a_wrong_flag_is_reported_with_what_the_server_said() -> None:
    with pytest.raises(StartError, match="unknown flag: --no-such-flag"):
        ControlPlane(extra_apiserver_args={"--no-such-flag": "1"}).start()


def test_an_explicit_cluster_is_used_and_left_alone(own: ControlPlane) -> None:
    with ControlPlane(kubeconfig=own.kubeconfig) as guest:
        assert guest.url == own.url
        assert not guest.owned
        assert guest.processes == {}
        with pytest.raises(NotOwnedError, match="local=True"):
            guest.kill_apiserver()
    assert own.client().get("namespaces", "default")


def test_a_kind_cluster_is_made_and_removed(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    made = f'while [ $# -gt 1 ]; do [ $1 = --kubeconfig ] && cp {control_plane.kubeconfig} "$2"; shift; done'
    script(tmp_path / "path", "kind", f"echo $1 $4 >> {calls}; PATH=/usr/bin:/bin; {made}; exit 0")
    script(tmp_path / "path", "docker", "echo 28.2.2")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("LEASEHOLD_CACHE_DIR", str(tmp_path))
    for name in ("KUBEBUILDER_ASSETS", "LEASEHOLD_KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)

    said: list[str] = []
    with ControlPlane(progress=said.append) as kind:
        assert kind.provider.source == "kind"
        assert kind.client().get("namespaces", "default")
    created, deleted = (line.split() for line in calls.read_text().splitlines())
    assert (created[0], deleted[0]) == ("create", "delete")
    assert created[1] == deleted[1]
    assert created[1] in said[0]

    script(tmp_path / "path", "kind", "echo no room; exit 1")
    with pytest.raises(StartError, match="no room"):
        ControlPlane(progress=said.append).start()


def test_an_explicit_cluster_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    connection = Connection(url="https://127.0.0.1:1", token="x")
    with pytest.raises(StartError, match=r"https://127\.0\.0\.1:1, named by an explicit kubeconfig"):
        ControlPlane(kubeconfig=connection.write(tmp_path / "kubeconfig")).start()


def test_a_paused_server_can_still_be_stopped() -> None:
    control_plane = ControlPlane(local=True).start()
    processes = identities(control_plane)
    for process in processes:
        process.signal(signal.SIGSTOP)
    control_plane.stop()
    assert not any(process.alive() for process in processes)
