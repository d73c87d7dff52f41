"""The webhook's certificate on a real API server: made, renewed, healed, by one leader or by two who both believe it.

What the whole operator makes of it is in tests/enforcement/test_webhook.py.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.cluster.harness import Stage, ThreadOperator, until

from leasehold.adapters import certificates
from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube.errors import Conflict
from leasehold.adapters.login import connect
from leasehold.adapters.webhook.keeper import GATE_WEBHOOK, Webhook, _host
from leasehold.adapters.webhook.server import CannotSay
from leasehold.api.names import LEASE_GATE, LEASE_LABEL
from leasehold.core import certificates as rules
from leasehold.core.certificates import LIFETIME
from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError

Object = dict[str, Any]

WEBHOOKS = "mutatingwebhookconfigurations"
HOLDS: Object = {"spec": {"enforcement": {"mode": "Gate"}}}
SETTLE = 2000
"""Instead of 15 s: the API server of a test hears within milliseconds."""

PATIENCE = 30.0


class Play:
    """A configuration of our own, replicas that serve for it, and somebody who makes pods all the time."""

    def __init__(self, control_plane: ControlPlane, kube: Client, namespace: str) -> None:
        self.control_plane = control_plane
        self.kube = kube
        self.namespace = namespace
        self.name = f"w-{secrets.token_hex(4)}"
        self.port = 0
        self.replicas: list[Webhook] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.made, self.wrong = 0, list[str]()
        self._stop = threading.Event()

    # The configuration, as the chart makes it but for where it leads, and for whose pods: nobody else's.

    def configure(self, url: str = "") -> None:
        webhook = {
            "name": GATE_WEBHOOK,
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": url or f"https://127.0.0.1:{self.port}/gate"},
            "sideEffects": "None",
            "timeoutSeconds": 5,
            "objectSelector": {"matchLabels": {LEASE_LABEL: self.name}},
            "rules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
            ],
        }
        document = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
        self.kube.create({**document, "metadata": {"name": self.name}, "webhooks": [webhook]})

    async def replica(self, *, leads: bool = True) -> Webhook:
        client = connect(str(self.control_plane.kubeconfig))
        made = Webhook(client, SteadyClock(), self.name, self.namespace, ("127.0.0.1", 0), lambda: [HOLDS])
        made.pause = 0.05
        await made.server.start()
        self.port = self.port or made.server.port
        self.replicas.append(made)
        self.tasks.append(asyncio.create_task(made.follow()))
        if leads:
            self.tasks.append(asyncio.create_task(made.keep()))
        return made

    async def close(self) -> None:
        self._stop.set()
        for task in self.tasks:
            assert not task.done() or task.cancelled(), task.result()
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for replica in self.replicas:
            await replica.server.stop()
            await replica.client.close()
        self.kube.delete(WEBHOOKS, self.name, missing_ok=True)

    # What there is

    def secret(self) -> Object:
        return self.kube.find("secrets", self.name, self.namespace) or {"metadata": {}, "data": {}}

    def part(self, key: str) -> str:
        return base64.b64decode((self.secret().get("data") or {}).get(key, "")).decode()

    def put(self, **parts: str | None) -> None:
        data = {
            key.replace("_", "."): None if text is None else base64.b64encode(text.encode()).decode()
            for key, text in parts.items()
        }
        self.kube.patch("secrets", self.name, {"data": data}, self.namespace)

    def trusted(self) -> str:
        (webhook,) = self.kube.get(WEBHOOKS, self.name)["webhooks"]
        return base64.b64decode(webhook["clientConfig"].get("caBundle", "")).decode()

    def versions(self) -> tuple[str, str]:
        return (
            self.secret()["metadata"].get("resourceVersion", ""),
            self.kube.get(WEBHOOKS, self.name)["metadata"]["resourceVersion"],
        )

    def settled(self) -> bool:
        """All serve by the one certificate there is, and nothing is to be done."""
        current = self.part("tls.crt")
        serving = {replica._serving.certificate.pem for replica in self.replicas if replica._serving}
        return (
            bool(current)
            and serving == {current}
            and current in self.trusted()
            and not self.part("coming.crt")
        )

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await asyncio.to_thread(until, condition, what, PATIENCE)

    # Pods

    def gated(self, kube: Client | None = None) -> bool:
        """Make a pod, and tell whether it got the gate. Raises ApiError where it is refused."""
        meta = {"name": "made", "namespace": self.namespace, "labels": {LEASE_LABEL: self.name}}
        spec = {"containers": [{"name": "main", "image": "none"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        path = self.kube.resource("pods").path(self.namespace)
        pod = (kube or self.kube).request("POST", path, body, dryRun="All")
        return {"name": LEASE_GATE} in pod["spec"].get("schedulingGates", [])

    def gates(self) -> bool:
        """Tell whether pods get the gate by now: the API server hears of a change a little later than we do."""
        with contextlib.suppress(ApiError):
            return self.gated()
        return False

    @contextlib.asynccontextmanager
    async def making_pods(self) -> AsyncIterator[None]:
        """Make pods all the time; at the end none was refused, or not gated."""

        def make() -> None:
            with Client(self.control_plane.connection) as kube:
                while not self._stop.is_set():
                    try:
                        assert self.gated(kube), "not gated"
                    except (ApiError, OSError, AssertionError) as error:
                        self.wrong.append(str(error))
                    self.made += 1

        making = asyncio.create_task(asyncio.to_thread(make))
        try:
            yield
            made = self.made
            await self.until(lambda: self.made > made + 10, "more pods are made")
        finally:
            self._stop.set()
            await making
        assert self.wrong == []


@pytest.fixture
async def play(
    control_plane: ControlPlane, kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Play]:
    monkeypatch.setattr(rules, "SETTLE", SETTLE)
    made = Play(control_plane, kube, namespace)
    yield made
    await made.close()


async def test_it_makes_a_certificate_and_says_whom_to_trust(play: Play) -> None:
    replica = await play.replica()
    assert "the webhook has no certificate yet" in replica.wrong()
    await play.until(lambda: f'"{play.name}" not found' in replica.wrong(), "it says what is missing")
    await asyncio.to_thread(play.configure)
    await play.until(play.settled, "it serves")
    assert replica.wrong() == ""
    await play.until(play.gates, "pods are gated")
    assert play.trusted() == play.part("tls.crt")
    (owner,) = play.secret()["metadata"]["ownerReferences"]
    assert owner["uid"] == play.kube.get(WEBHOOKS, play.name)["metadata"]["uid"]
    assert replica.answers["gated"] >= 1
    assert replica.end is not None
    clock, late = replica.clock, replica.end / 1000
    replica.clock = SteadyClock(wall=lambda: late)
    assert "the webhook's certificate has expired" in replica.wrong()
    replica.clock = clock
    await replica.server.stop()
    assert replica.wrong() == "the webhook listens no longer"


async def test_a_configuration_without_our_webhook_is_complained_of(play: Play) -> None:
    replica = await play.replica()
    empty = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    await asyncio.to_thread(play.kube.create, {**empty, "metadata": {"name": play.name}})
    await play.until(lambda: f"has no webhook {GATE_WEBHOOK}" in replica.wrong(), "it says so")


async def test_a_configuration_that_leads_to_no_host_is_complained_of(play: Play) -> None:
    replica = await play.replica()
    await asyncio.to_thread(play.configure, "https://bücher.example/gate")
    await play.until(lambda: "no certificate can be made for bücher.example" in replica.wrong(), "it says so")


async def test_it_is_renewed_under_load_by_two_who_both_believe_they_lead(play: Play) -> None:
    for leads in (True, True, False):
        await play.replica(leads=leads)
    await asyncio.to_thread(play.configure)
    await play.until(play.settled, "all serve by one")
    first = play.part("tls.crt")
    async with play.making_pods():
        old = certificates.make({"127.0.0.1"}, SteadyClock().now() - LIFETIME * 9 // 10)
        play.put(coming_crt=old.certificate.pem, coming_key=old.key)
        others = (first, old.certificate.pem)
        await play.until(lambda: play.settled() and play.part("tls.crt") not in others, "it is renewed")
        assert old.certificate.pem in play.trusted(), "somebody may serve by it still"
    versions = play.versions()
    looks = play.replicas[0].client.requests["GET", "200"]
    await play.until(lambda: play.replicas[0].client.requests["GET", "200"] > looks + 20, "both look again")
    assert play.versions() == versions, "they fight"


async def test_what_served_before_is_trusted_no_longer_after_a_while(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "RETIRE", SETTLE)
    await play.replica()
    await asyncio.to_thread(play.configure)
    await play.until(play.settled, "it serves")
    async with play.making_pods():
        first = play.part("tls.crt")
        play.put(tls_crt=None)
        await play.until(lambda: first not in play.trusted() and play.settled(), "the first one is forgotten")
        assert play.part("former.crt") == ""


@pytest.mark.parametrize(
    "how", ["deleted", "emptied", "no key", "garbage", "another key", "expired", "another host", "twice"]
)
async def test_a_secret_that_somebody_broke_heals_and_no_pod_is_refused(play: Play, how: str) -> None:
    for leads in (True, True, False):
        await play.replica(leads=leads)
    await asyncio.to_thread(play.configure)
    await play.until(play.settled, "all serve by one")
    other = certificates.make({"127.0.0.1"}, SteadyClock().now())
    expired = certificates.make({"127.0.0.1"}, SteadyClock().now() - 2 * LIFETIME)
    wrong = certificates.make({"other.example"}, SteadyClock().now())
    parts: dict[str, Object] = {
        "emptied": dict.fromkeys(("tls_crt", "tls_key", "coming_crt", "coming_key", "former_crt")),
        "no key": {"tls_key": None},
        "garbage": {"tls_crt": "garbage", "former_crt": "garbage", "coming_crt": "garbage"},
        "twice": {"tls_crt": "garbage"},
        "another key": {"tls_key": other.key},
        "expired": {"tls_crt": expired.certificate.pem, "tls_key": expired.key},
        "another host": {"coming_crt": wrong.certificate.pem, "coming_key": wrong.key, "tls_crt": None},
    }

    async def broken() -> None:
        before = play.part("tls.crt")
        if how == "deleted":
            play.kube.delete("secrets", play.name, play.namespace)
        else:
            play.put(**parts[how])
        await play.until(lambda: play.settled() and play.part("tls.crt") != before, "another one serves")

    async with play.making_pods():
        await broken()
        if how == "twice":
            await broken()


async def test_whom_to_trust_is_said_again_when_somebody_takes_it_away(play: Play) -> None:
    await play.replica()
    await asyncio.to_thread(play.configure)
    await play.until(play.settled, "it serves")
    bundle = play.trusted()
    other = certificates.make({"127.0.0.1"}, SteadyClock().now()).certificate.pem
    path = "/webhooks/0/clientConfig/caBundle"
    for value in (None, other):
        (webhook,) = (configuration := play.kube.get(WEBHOOKS, play.name))["webhooks"]
        webhook["clientConfig"]["caBundle"] = value and base64.b64encode(value.encode()).decode()
        play.kube.replace(configuration)
        await play.until(lambda: play.trusted() == bundle, f"{path} is ours again")
    await play.until(play.gates, "pods are gated")


async def test_who_was_overtaken_writes_nothing(play: Play) -> None:
    """Two leaders look; one of them stops, and goes on when the other has long renewed."""
    slow = await play.replica(leads=False)
    await asyncio.to_thread(play.configure)
    trust = await slow._read_configuration()
    version, stock = await slow._read_secret()
    await play.replica()
    await play.until(play.settled, "the other has made a certificate")
    before = play.versions()
    with pytest.raises(Conflict):  # it would make one, too
        await slow._improve(trust, version, stock, since=0)
    with pytest.raises(Conflict):  # it had written the Secret, and not yet whom to trust
        await slow._write_bundle(trust, ["other"])
    assert play.versions() == before


async def test_what_it_was_not_told_of_lets_no_pod_pass(play: Play) -> None:
    """Whether a pool holds pods is asked of the API server itself before a pod is let go."""
    client = connect(str(play.control_plane.kubeconfig))
    asking = Webhook(client, SteadyClock(), play.name, play.namespace, ("127.0.0.1", 0), list)
    name = f"p-{secrets.token_hex(4)}"
    pool = {"apiVersion": "leasehold.dev/v1alpha1", "kind": "CapacityPool", "metadata": {"name": name}}
    spec = {"nodeSelector": {"matchLabels": {"none": "at-all"}}, "enforcement": {"mode": "Gate"}}
    play.kube.create({**pool, "spec": spec})
    try:
        assert await asking._held()
    finally:
        play.kube.delete("capacitypools.leasehold.dev", name)
        await client.close()
    with pytest.raises(CannotSay, match="pools cannot be read"):
        await asking._held()


@pytest.mark.parametrize(
    ("to", "host"),
    [
        ({"service": {"name": "a", "namespace": "b", "path": "/gate"}}, "a.b.svc"),
        ({"url": "https://hooks.example:8443/gate"}, "hooks.example"),
        ({"url": "https://[0:0:0:0:0:0:0:1]:8443/gate"}, "::1"),
    ],
)
def test_the_certificate_is_for_where_api_servers_call(to: Object, host: str) -> None:
    assert _host(to) == host


def test_an_operator_without_its_certificate_is_not_ready_and_says_why(bare: Stage) -> None:
    kubeconfig = bare.control_plane.kubeconfig
    with ThreadOperator(kubeconfig, wait=False, webhook="absent", webhook_port=0) as operator:
        answer = 0, ""

        def missing() -> bool:
            nonlocal answer
            with contextlib.suppress(OSError):  # before it listens
                answer = operator.page("/readyz")
            return '"absent" not found' in answer[1]

        until(missing, "it says what is missing")
        status, text = answer
        assert status == 503
        assert text.startswith("the webhook has no certificate yet")
        assert "leasehold_webhook_answers_total" in operator.page("/metrics")[1]
