"""The same where an API server has no MutatingAdmissionPolicy, and asks the operator about pods with a lease."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.harness import (
    SMALL,
    Object,
    ProcessOperator,
    fetch,
    free_port,
    granted,
    requests_of,
    rights_given,
    rights_used,
)
from tests.enforcement import test_gate
from tests.enforcement.harness import (
    ENFORCEMENT_WEBHOOK,
    WEBHOOK,
    WEBHOOK_HOST,
    WEBHOOKS,
    Enforcer,
    PodStage,
    call_webhook_at,
    gated,
    pod_stage_on,
    running,
    until,
    whole_control_plane,
)

from leasehold.adapters import certificates
from leasehold.adapters.clock import SteadyClock
from leasehold.api.names import LEASE_LABEL
from leasehold.core.certificates import LIFETIME
from leasehold.testing.client import Client
from leasehold.testing.control_plane import OPERATOR_NAMESPACE, ControlPlane
from leasehold.testing.errors import ApiError, UnknownResourceError

PATIENCE = 60.0
"""A renewal takes its time: API servers must have heard of a certificate before it serves."""


@pytest.fixture(scope="module")
def port() -> int:
    """Where the operator serves the webhook."""
    return free_port()


@pytest.fixture(scope="module")
def audit_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webhook") / "audit.jsonl"


@pytest.fixture(scope="module")
def whole(audit_log: Path, port: int) -> Iterator[ControlPlane]:
    with whole_control_plane(audit_log, policies=False) as control_plane:
        call_webhook_at(control_plane.client(), port)
        yield control_plane


@pytest.fixture(scope="module")
def enforcer(whole: ControlPlane, port: int) -> Iterator[Enforcer]:
    with Enforcer(whole, webhook=WEBHOOK, webhook_port=port) as operator:
        yield operator


@pytest.fixture
def stage(whole: ControlPlane, enforcer: Enforcer) -> Iterator[PodStage]:
    with pod_stage_on(whole) as made:
        yield made
    enforcer.check()


class Maker:
    """Somebody who makes pods with a lease all the time, and notes each that is refused or not gated."""

    def __init__(self, stage: PodStage) -> None:
        self.made, self.wrong = 0, list[str]()
        self._path = stage.kube.resource("pods").path(stage.namespace)
        self._kube = Client(stage.control_plane.connection)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make, name="maker", daemon=True)

    def __enter__(self) -> Maker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._kube.close()

    def _make(self) -> None:
        spec = {"containers": [{"name": "main", "image": "none"}]}
        meta = {"name": "made", "labels": {LEASE_LABEL: "some"}}
        while not self._stop.is_set():
            try:
                pod = self._kube.request(
                    "POST",
                    self._path,
                    {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec},
                    dryRun="All",
                )
            except (ApiError, OSError) as error:
                self.wrong.append(str(error))
            else:
                if not gated(pod):
                    self.wrong.append("not gated")
            self.made += 1


def secret(stage: PodStage) -> Object | None:
    return stage.kube.find("secrets", WEBHOOK, OPERATOR_NAMESPACE)


def served_at(port: int) -> str:
    """The certificate that is served at a port, "" for none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        context.wrap_socket(plain) as spoken,
    ):
        return ssl.DER_cert_to_PEM_cert(spoken.getpeercert(binary_form=True) or b"")
    return ""


def kept(stage: PodStage) -> str:
    """The certificate in the Secret, or ""."""
    data = (secret(stage) or {}).get("data") or {}
    return base64.b64decode(data.get("tls.crt", "")).decode()


def trusted(stage: PodStage) -> str:
    (webhook,) = stage.kube.get(WEBHOOKS, WEBHOOK)["webhooks"]
    return base64.b64decode(webhook["clientConfig"].get("caBundle", "")).decode()


def test_this_server_has_no_such_policies(whole: ControlPlane) -> None:
    with pytest.raises(UnknownResourceError):
        whole.client().resource("mutatingadmissionpolicies")


@pytest.mark.parametrize(
    "story",
    [
        test_gate.test_a_pod_runs_where_its_lease_is,
        test_gate.test_a_pod_may_come_before_its_lease,
        test_gate.test_in_an_advisory_pool_pods_only_pass,
        test_gate.test_the_pods_of_a_job_take_a_slice_each,
        test_gate.test_pods_are_evicted_when_their_lease_ends_and_only_then_it_is_given_back,
    ],
    ids=lambda story: story.__name__.removeprefix("test_"),
)
def test_it_is_as_with_a_policy(stage: PodStage, story: Callable[[PodStage], None]) -> None:
    story(stage)


def test_a_gate_of_ones_own_stays_beside_it(stage: PodStage) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    mine = "example.com/mine"
    pod = stage.pod("late", memory="", schedulingGates=[{"name": mine}])
    found = stage.get_pod(pod)
    assert gated(found)
    assert gated(found, mine)
    stage.lease(pool, "late", cpu="1")
    stage.until_pod(pod, lambda pod: not gated(pod) and gated(pod, mine))
    stage.lift_gate(pod, mine)
    stage.until_pod(pod, running)


def test_while_no_pool_holds_pods_none_is_gated(stage: PodStage) -> None:
    assert not stage.kube.list("capacitypools.leasehold.dev"), "another story's pool is left"
    # It may not have heard yet that the pool of the story before is gone.
    until(lambda: not gated(stage.get_pod(stage.pod("none", cpu=""))), "pods are not gated")
    stage.nodes.create(1, SMALL)
    pool = stage.pool()
    # It was told of the pool by the API server itself, so it knows of it, however slow its watch.
    assert gated(stage.get_pod(stage.pod("none", cpu="")))
    stage.change_pool(pool, enforcement={"mode": "Advisory"})
    until(lambda: not gated(stage.get_pod(stage.pod("none", cpu=""))), "pods are not gated any more")


def test_while_the_operator_is_away_pods_with_a_lease_are_refused_and_no_others(
    stage: PodStage, enforcer: Enforcer
) -> None:
    stage.nodes.create(1, SMALL)
    lease = stage.lease(stage.pool(), cpu="2")
    stage.until(lease, granted)
    with enforcer.away():
        stage.until_pod(stage.pod(cpu="100m"), running)
        with pytest.raises(ApiError) as refused:
            stage.pod(lease)
        assert 'failed calling webhook "gate.leasehold.dev"' in str(refused.value)
        assert "connection refused" in str(refused.value)
        job = stage.job(lease, memory="")  # tries again by itself
    stage.until_pods(job, 1, running, PATIENCE)


def test_the_certificate_is_renewed_while_pods_are_made_and_none_is_refused(
    stage: PodStage, port: int
) -> None:
    stage.nodes.create(1, SMALL)
    stage.pool()
    until(lambda: served_at(port) == kept(stage), "the certificate in the Secret serves", PATIENCE)
    first = kept(stage)
    old = certificates.make({WEBHOOK_HOST}, SteadyClock().now() - LIFETIME * 9 // 10)
    # As if it had been made so long ago: first trusted and then served, as the operator would do it.
    parts = {"coming.crt": old.certificate.pem, "coming.key": old.key}
    data = {key: base64.b64encode(text.encode()).decode() for key, text in parts.items()}
    with Maker(stage) as maker:
        stage.kube.patch("secrets", WEBHOOK, {"data": data}, OPERATOR_NAMESPACE)
        until(lambda: served_at(port).strip() == old.certificate.pem.strip(), "the old one serves", PATIENCE)
        serves_another = lambda: served_at(port).strip() not in (old.certificate.pem.strip(), first.strip())  # noqa: E731
        until(serves_another, "it is renewed", PATIENCE)
        until(lambda: served_at(port) == kept(stage), "and kept", PATIENCE)
        made = maker.made
        until(lambda: maker.made > made + 20, "pods are made by the new one")
    assert maker.wrong == []
    assert kept(stage) in trusted(stage)


def test_a_secret_that_was_deleted_is_made_again_and_no_pod_is_refused(stage: PodStage, port: int) -> None:
    """In what other ways it can be broken is in tests/cluster/test_webhook.py."""
    stage.nodes.create(1, SMALL)
    stage.pool()
    until(lambda: bool(kept(stage)) and served_at(port) == kept(stage), "the kept one serves", PATIENCE)
    before = kept(stage)
    with Maker(stage) as maker:
        stage.kube.delete("secrets", WEBHOOK, OPERATOR_NAMESPACE)
        until(lambda: kept(stage) not in ("", before), "there is another certificate", PATIENCE)
        until(lambda: served_at(port) == kept(stage), "it serves", PATIENCE)
        made = maker.made
        until(lambda: maker.made > made + 20, "pods are made by it")
    assert maker.wrong == []
    (owner,) = (secret(stage) or {})["metadata"]["ownerReferences"]
    assert owner["uid"] == stage.kube.get(WEBHOOKS, WEBHOOK)["metadata"]["uid"]


def test_whom_to_trust_is_told_again_when_somebody_takes_it_away(stage: PodStage, port: int) -> None:
    stage.nodes.create(1, SMALL)
    stage.pool()
    (webhook,) = (configuration := stage.kube.get(WEBHOOKS, WEBHOOK))["webhooks"]
    del webhook["clientConfig"]["caBundle"]
    stage.kube.replace(configuration)
    until(lambda: kept(stage) in trusted(stage), "it is trusted again")
    until(lambda: gated(stage.get_pod(stage.pod("some", cpu=""))), "pods are made again")


def test_another_replica_serves_by_the_same_certificate_and_changes_nothing(
    stage: PodStage, whole: ControlPlane, enforcer: Enforcer, port: int
) -> None:
    stage.nodes.create(1, SMALL)
    stage.pool()
    until(lambda: served_at(port) == kept(stage), "the kept one serves", PATIENCE)
    version = (secret(stage) or {})["metadata"]["resourceVersion"]
    other = free_port()
    settings = {"enforcement": "on", "webhook": WEBHOOK, "webhook_port": other, "identity": "another"}
    with ProcessOperator(whole, enforcer._kubeconfig, **settings) as standby:
        until(lambda: _ready(standby.port), "the standby is ready")
        assert served_at(other) == served_at(port)
        call_webhook_at(stage.kube, other)
        try:
            until(lambda: gated(stage.get_pod(stage.pod("some", cpu=""))), "pods are gated by the standby")
        finally:
            call_webhook_at(stage.kube, port)
    assert (secret(stage) or {})["metadata"]["resourceVersion"] == version


def test_whoever_reaches_the_port_harms_nothing(stage: PodStage, enforcer: Enforcer, port: int) -> None:
    stage.nodes.create(1, SMALL)
    stage.pool()
    begun = len(enforcer.process.log.read_text())
    with Maker(stage) as maker:
        for said in (
            b"",
            b"\x00" * 70_000,
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00" + b"\x01" * 600,
        ):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), PATIENCE) as one:
                    one.sendall(said)
        silent = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(40)]
        made = maker.made
        until(lambda: maker.made > made + 20, "pods are made meanwhile")
        for one in silent:
            one.close()
    assert maker.wrong == []
    assert '"error"' not in enforcer.process.log.read_text()[begun:].lower()


def test_it_takes_the_rights_that_the_webhook_adds_and_no_more(stage: PodStage, audit_log: Path) -> None:
    stage.nodes.create(1, SMALL)
    stage.pool()
    version = (secret(stage) or {})["metadata"]["resourceVersion"]
    stage.kube.delete("secrets", WEBHOOK, OPERATOR_NAMESPACE)

    def again() -> bool:
        found = secret(stage)
        return found is not None and found["metadata"]["resourceVersion"] != version and bool(kept(stage))

    until(again, "it was made and changed again", PATIENCE)
    requests = requests_of(audit_log, "leasehold-operator")
    assert [(r["verb"], r["requestURI"]) for r in requests if r["responseStatus"]["code"] == 403] == []
    used = {right for right in rights_used(requests) if right[1] in ("secrets", WEBHOOKS)}
    assert used == rights_given("enforcement-webhook/webhook.yaml")
    everything = set().union(*map(rights_given, ("rbac-operator.yaml", *ENFORCEMENT_WEBHOOK)))
    assert rights_used(requests) - everything == set()


def _ready(port: int) -> bool:
    try:
        return fetch(f"http://127.0.0.1:{port}/readyz")[0] == 200
    except OSError:
        return False
