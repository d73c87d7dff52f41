"""The admission policies: who is held off, by the API server's own record, and who is not."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from tests.cluster.harness import (
    LEASES,
    POOLS,
    REPORTS,
    SESSIONS,
    SMALL,
    Object,
    Stage,
    ThreadOperator,
    condition,
    finished,
    granted,
    install,
    is_,
    micro_now,
    requests_of,
    stage_on,
    until,
)

from leasehold.api.names import ENDING_ANNOTATION, LEASE_GATE, LEASE_LABEL, POD_CONDITION, SLICE_ANNOTATION
from leasehold.testing.client import Client
from leasehold.testing.control_plane import OPERATOR_NAMESPACE as SYSTEM
from leasehold.testing.control_plane import ControlPlane, ensure_service_account
from leasehold.testing.errors import ApiError

REPORTER, OPERATOR = "leasehold-reporter", "leasehold-operator"
FILES = (
    *("rbac-operator.yaml", "rbac-reporter.yaml", "policies.yaml"),
    *("enforcement/rbac-operator.yaml", "enforcement/policies.yaml"),
)
GATES = {"enforcement": {"mode": "Gate"}}
UNGATED = {"spec": {"schedulingGates": None}}
Try = Callable[[], Any]


# --- the scene: a server that is guarded, and one that has the same rights and roles without the policies ---


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the policies, which writes down every request."""
    with ControlPlane(local=True, audit_log=tmp_path_factory.mktemp("guarded") / "audit.jsonl") as server:
        server.install_crds()
        for file in FILES:
            install(server, file)
        _await_policies(server)
        yield server


@pytest.fixture(scope="module")
def open_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The same without the policies: what fails here too is not their doing."""
    with ControlPlane(local=True, audit_log=tmp_path_factory.mktemp("open") / "audit.jsonl") as server:
        server.install_crds()
        for file in FILES:
            install(server, file)
        with Client(server.connection) as kube:
            for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
                kube.delete_all(f"{kind}.admissionregistration.k8s.io")
        _await_policies(server, 0)
        yield server


@pytest.fixture
def watched(guarded: ControlPlane) -> Iterator[Stage]:
    with stage_on(guarded) as made:
        yield made
        made.kube.delete_all(SESSIONS, SYSTEM)


def _await_policies(server: ControlPlane, status: int = 403) -> None:
    """Wait until each policy acts, or with a status of 0 none: the API server learns of them a moment later."""
    with stage_on(server) as stage:
        lease = stage.lease("none")
        stray = _lease("default", "probe", {"finalizers": ["leasehold.dev/stray"]})
        report = {"apiVersion": "leasehold.dev/v1alpha1", "kind": "NodeReport", "metadata": {"name": "probe"}}
        report |= {"spec": {"leaseUIDs": ["probe"]}}
        paths = {
            kind: stage.kube.resource(kind).path("default" if kind == LEASES else None)
            for kind in (LEASES, REPORTS)
        }
        ensure_service_account(stage.kube, stage.namespace, "default")
        forged = _pod(stage.namespace, annotations={SLICE_ANNOTATION: "x"})
        for what in (
            partial(stage.kube.patch, LEASES, lease, {"status": {}}, stage.namespace, subresource="status"),
            partial(stage.kube.request, "POST", paths[REPORTS], report, dryRun="All"),
            partial(stage.kube.request, "POST", paths[LEASES], stray, dryRun="All"),
            partial(_would_be, stage.kube, forged),
        ):
            until(lambda what=what: refusal(what) == status, "the policies are in force, or gone")  # type: ignore[misc]


def refusal(act: Try) -> int:
    """Return the status with which a request is refused; 0 when it is not."""
    try:
        act()
    except ApiError as error:
        return error.status
    return 0


def record(server: ControlPlane, user: str) -> list[Object]:
    assert server._audit_log is not None
    entries = map(json.loads, server._audit_log.read_text().splitlines())
    return [entry for entry in entries if entry["user"].get("username") == user and "objectRef" in entry]


def by_policy(entries: list[Object]) -> list[str]:
    """What RBAC let through and a policy refused."""
    return [
        entry["responseStatus"]["message"]
        for entry in entries
        if entry["responseStatus"]["code"] == 403
        and entry["annotations"]["authorization.k8s.io/decision"] == "allow"
        and "ValidatingAdmissionPolicy" in entry["responseStatus"]["message"]
    ]


class NodeReporter:
    """What a reporter's pod on a node has: a token that the API server bound to that pod."""

    def __init__(
        self, server: ControlPlane, node: str, namespace: str = SYSTEM, account: str = REPORTER
    ) -> None:
        self.node = node
        self.server = server
        with Client(server.connection) as kube:
            ensure_service_account(kube, namespace, account)
            self.pod = kube.create(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"generateName": "reporter-", "namespace": namespace},
                    "spec": {
                        "serviceAccountName": account,
                        "containers": [{"name": "reporter", "image": "reporter"}],
                        **({"nodeName": node} if node else {}),
                    },
                }
            )
        self.kube = server.client(server.as_service_account(namespace, account, pod=self.pod))
        self.sequence = 0

    def create(self, name: str = "", meta: Mapping[str, Any] | None = None, **spec: Any) -> Object:
        kind = {"apiVersion": "leasehold.dev/v1alpha1", "kind": "NodeReport"}
        return self.kube.create(
            {**kind, "metadata": {"name": name or self.node, **(meta or {})}, "spec": spec}
        )

    def write(self, name: str = "", **status: Any) -> Object:
        self.sequence += 1
        status = {"bootID": "b", "sequence": self.sequence, **status}
        return self.kube.patch(REPORTS, name or self.node, {"status": status}, subresource="status")

    def report(self, gone: str = "") -> Object:
        """Report as a simulated reporter would: nothing is in use, and the lease `gone` is not here."""
        usage = [{"name": name, "current": "0", "p90": "0", "unmanaged": "0"} for name in SMALL.resources()]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        leases = [{"uid": gone, "state": "Gone"}] if gone else []
        return self.write(reportTime=now, capacity=SMALL.resources(), usage=usage, leases=leases)

    def leave(self) -> None:
        with Client(self.server.connection) as kube:
            meta = self.pod["metadata"]
            kube.delete("pods", meta["name"], meta["namespace"], gracePeriodSeconds=0, missing_ok=True)


@pytest.fixture
def reporter_on() -> Iterator[Callable[..., NodeReporter]]:
    made: list[NodeReporter] = []

    def make(*args: Any, **options: Any) -> NodeReporter:
        made.append(NodeReporter(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.leave()


# --- who must not be held off ---


def test_leases_live_and_end_under_the_policies(
    watched: Stage, reporter_on: Callable[..., NodeReporter]
) -> None:
    """Grant, session, verified release, revocation, removal, a pool that drains: the operator is refused nothing."""
    server = watched.control_plane
    nodes = watched.nodes.create(2, SMALL, report=False)
    reporters = [reporter_on(server, node) for node in nodes]
    for one in reporters:
        one.create()
        one.report()
    account = server.as_service_account(SYSTEM, OPERATOR)
    assert server._audit_log is not None
    with ThreadOperator(server.write_kubeconfig(account)):
        pool = watched.pool(policy={"verification": "NodeReport", "verificationTimeoutSeconds": 60})
        watched.session("s")
        lease = watched.lease(
            pool, liveness="Session", holder={"sessionRef": {"name": "s"}}, ttlSecondsAfterFinished=0
        )
        held = watched.until(lease, is_("Claimed"))
        node = held["status"]["allocation"]["slices"][0]["nodeName"]
        uid = held["metadata"]["uid"]
        until(
            lambda: uid in watched.kube.get(REPORTS, node)["spec"].get("leaseUIDs", ()),
            "the reporter is asked about the lease",
        )
        watched.change(lease, desiredState="Released")
        watched.until(lease, is_("Released", "False"))
        there = next(one for one in reporters if one.node == node)
        until(
            lambda: (
                bool(there.report(gone=uid)) and watched.kube.find(LEASES, lease, watched.namespace) is None
            ),
            "a report that is newer than the release lets it go",
        )
        chosen = watched.lease_by({})
        watched.until(chosen, lambda item: "poolRef" in item["spec"])
        taken = watched.lease(pool, durationSeconds=600)
        watched.until(taken, granted)
        watched.annotate(taken, revoke="disk is failing", force_release="true")
        over = watched.until(taken, finished)
        assert condition(over, "Finished")["reason"] == "Revoked"
        watched.annotate(chosen, force_release="true")
        watched.kube.delete(POOLS, pool)
        watched.kube.wait_gone(POOLS, pool)
    for who in (OPERATOR, REPORTER):
        told = requests_of(server._audit_log, who)
        assert {"operator": 50, "reporter": 4}[who.partition("-")[2]] < len(told)
        since = [
            entry
            for entry in told
            if entry.get("objectRef", {}).get("name") in (*nodes, pool, lease, taken, chosen)
        ]
        denied = [entry["requestURI"] for entry in since if entry["responseStatus"]["code"] == 403]
        # 422 is also how the framework hears that it was overtaken; what a policy cannot evaluate is one, too.
        denied += [
            e["requestURI"] for e in since if "AdmissionPolicy" in e["responseStatus"].get("message", "")
        ]
        assert denied == []


def test_a_namespace_goes_with_its_leases(watched: Stage, reporter_on: Callable[..., NodeReporter]) -> None:
    """Played by the namespace controller's identity, with its rights: it deletes, the operator lifts, it ends."""
    server = watched.control_plane
    (node,) = watched.nodes.create(1, SMALL, report=False)
    one = reporter_on(server, node)
    one.create()
    one.report()
    name = f"going-{secrets.token_hex(3)}"
    watched.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = server.as_service_account(SYSTEM, OPERATOR)
    with ThreadOperator(server.write_kubeconfig(account)):
        pool = watched.pool()
        leases = [
            watched.kube.create(
                {
                    "apiVersion": "leasehold.dev/v1alpha1",
                    "kind": "CapacityLease",
                    "metadata": {"generateName": "l-", "namespace": name},
                    "spec": {"poolRef": {"name": pool}, "resources": {"cpu": cpu}},
                }
            )["metadata"]["name"]
            for cpu in ("1", "64")
        ]
        watched.kube.wait(LEASES, leases[0], name, until=granted)
        watched.kube.delete("namespaces", name)
        controller = server.client(server.as_service_account("kube-system", "namespace-controller"))
        controller.delete_all(LEASES, name)
        for lease in leases:
            watched.kube.wait_gone(LEASES, lease, name)
        document = controller.get("namespaces", name)
        document["spec"]["finalizers"] = []
        controller.replace(document, subresource="finalize")
        watched.kube.wait_gone("namespaces", name)


def test_administrators_may_what_tenants_may_not(watched: Stage) -> None:
    """By two verbs, which only the role for those who run the pools has."""
    server = watched.control_plane
    admin = _bound(server, watched.namespace, "on-call", "leasehold-admin")
    lease = watched.lease("nowhere")
    until(lambda: refusal(lambda: admin.get(LEASES, lease, watched.namespace)) == 0, "the role is bound")
    for value in ("disk is failing", None):
        mark = {
            "metadata": {"annotations": {"leasehold.dev/revoke": value, "leasehold.dev/force-release": value}}
        }
        admin.patch(LEASES, lease, mark, watched.namespace)
    admin.patch(LEASES, lease, {"metadata": {"finalizers": None}}, watched.namespace)
    status = {"status": {"phase": "Active"}}
    assert refusal(lambda: admin.patch(LEASES, lease, status, watched.namespace, subresource="status")) == 403


# --- who must be held off: tenants ---


def _bound(server: ControlPlane, namespace: str, account: str, *roles: str) -> Client:
    """Return a client of a service account that has these ClusterRoles in its own namespace."""
    with Client(server.connection) as kube:
        for role in roles:
            kube.apply(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": f"{account}-{role}", "namespace": namespace},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                    "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
                }
            )
    return server.client(server.as_service_account(namespace, account))


def _lease(namespace: str, name: str, meta: Mapping[str, Any] | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": {"name": name, "namespace": namespace, **(meta or {})},
        "spec": {"poolRef": {"name": "p"}, "resources": {"cpu": "1"}, **spec},
    }


def _marks(**annotations: str | None) -> Object:
    return {
        "metadata": {
            "annotations": {f"leasehold.dev/{k.replace('_', '-')}": v for k, v in annotations.items()}
        }
    }


def _with_its_own(kube: Client, own: str) -> dict[str, Try]:
    """What a tenant with the role for editors reaches of its own leases, and must not: RBAC lets it all through.

    `mine` is held; `revoked` is being taken back by an administrator.
    """

    def unfinalized(name: str) -> Object:
        document = kube.get(LEASES, name, own)
        del document["metadata"]["finalizers"]
        return kube.replace(document)

    def patch(name: str, change: Any, **options: Any) -> Try:
        return lambda: kube.patch(LEASES, name, change, own, **options)

    def create(name: str, meta: Object) -> Try:
        return lambda: kube.create(_lease(own, name, meta))

    stray = {"finalizers": ["leasehold.dev/sweep"]}
    jump = [{"op": "remove", "path": "/metadata/finalizers/0"}]
    return {
        "take away the annotation by which it is revoked": patch("revoked", _marks(revoke=None)),
        "give another reason for its revocation": patch("revoked", _marks(revoke="")),
        "free capacity that a node still uses": patch("mine", _marks(force_release="true")),
        "ask for that ahead": patch("mine", _marks(force_release="soon")),
        "revoke in an administrator's name": patch("mine", _marks(revoke="by admin")),
        "be born released": create("born-1", _marks(force_release="true")["metadata"]),
        "be born revoked": create("born-2", _marks(revoke="x")["metadata"]),
        "forge a label of ours": patch("mine", {"metadata": {"labels": {"leasehold.dev/simulated": "x"}}}),
        "forge an annotation of ours": patch("mine", _marks(epoch="7")),
        "be born with a label of ours": create("born-3", {"labels": {"leasehold.dev/tenant": "victim"}}),
        "be born with a finalizer that nobody lifts": create("born-4", stray),
        "add a finalizer that nobody lifts": patch(
            "mine", {"metadata": {"finalizers": ["leasehold.dev/release", "leasehold.dev/sweep"]}}
        ),
        "replace its lease without the finalizer": lambda: unfinalized("mine"),
        "lift the finalizer by a JSON patch": patch("mine", jump, content_type="application/json-patch+json"),
        "lift the finalizer of a lease that is held": patch("mine", {"metadata": {"finalizers": None}}),
    }


def _of_others(kube: Client, own: str, victim: str) -> dict[str, Try]:
    """What is another's, or the operator's: RBAC refuses most of it already."""
    status = {"status": {"phase": "Active"}}
    renew = {"spec": {"renewTime": micro_now()}}
    return {
        "write its own status": lambda: kube.patch(LEASES, "mine", status, own, subresource="status"),
        "write another's status": lambda: kube.patch(LEASES, "theirs", status, victim, subresource="status"),
        "lift another's finalizer": lambda: kube.patch(
            LEASES, "theirs", {"metadata": {"finalizers": None}}, victim
        ),
        "force another's release": lambda: kube.patch(LEASES, "theirs", _marks(force_release="true"), victim),
        "make a lease in another's name": lambda: kube.create(_lease(victim, "forged")),
        "read another's lease": lambda: kube.get(LEASES, "theirs", victim),
        "delete another's leases": lambda: kube.delete_all(LEASES, victim),
        "renew another's session": lambda: kube.patch(SESSIONS, "s", renew, victim),
        "hold the election": lambda: kube.patch(SESSIONS, "leasehold-shard-0", renew, SYSTEM),
        "write the books of a pool": lambda: kube.patch(
            POOLS, "p", {"status": {"ledger": {"epoch": 10**6}}}, subresource="status"
        ),
        "lift a pool's finalizer": lambda: kube.patch(POOLS, "p", {"metadata": {"finalizers": None}}),
        "forge a node's report": lambda: kube.patch(
            REPORTS, "n", {"status": {"sequence": 10**6}}, subresource="status"
        ),
        "become the operator": lambda: kube.request(
            "POST",
            f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{OPERATOR}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        ),
        "give itself the verb": lambda: kube.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "Role",
                "metadata": {"name": "more", "namespace": own},
                "rules": [{"apiGroups": ["leasehold.dev"], "resources": ["capacityleases"], "verbs": ["*"]}],
            }
        ),
    }


def _mallory(server: ControlPlane, stage: Stage) -> Client:
    """A tenant with all that Kubernetes' `admin` and our role for editors give, and leases to play with."""
    own, victim = stage.namespace, f"{stage.namespace}-victim"
    stage.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": victim}})
    kube = _bound(server, own, "mallory", "admin", "leasehold-viewer", "leasehold-editor")
    path = kube.resource(LEASES).path(own)
    probe = _lease(own, "probe")
    for what, act in (
        ("read", lambda: kube.list(LEASES, own)),
        ("write", lambda: kube.request("POST", path, probe, dryRun="All")),
    ):
        until(lambda act=act: refusal(act) == 0, f"the role to {what} leases is bound")  # type: ignore[misc]
    for namespace, name in ((own, "mine"), (own, "revoked"), (victim, "theirs")):
        stage.kube.create(_lease(namespace, name))
    stage.kube.patch(LEASES, "revoked", _marks(revoke="disk is failing"), own)
    return kube


def _no_victim(stage: Stage) -> None:
    victim = f"{stage.namespace}-victim"
    for item in stage.kube.list(LEASES, victim):
        stage._remove(LEASES, item["metadata"]["name"], victim)
    stage.kube.delete("namespaces", victim)


def test_every_reach_of_a_tenant_is_refused_and_on_record(watched: Stage) -> None:
    server, own = watched.control_plane, watched.namespace
    mallory = _mallory(server, watched)
    user = f"system:serviceaccount:{own}:mallory"
    before = {
        (item["metadata"]["namespace"], item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for item in watched.kube.list(LEASES)
    }
    begun = len(record(server, user))
    inside, outside = _with_its_own(mallory, own), _of_others(mallory, own, f"{own}-victim")
    assert {what: code for what, act in inside.items() if (code := refusal(act)) != 403} == {}
    assert {what: code for what, act in outside.items() if (code := refusal(act)) != 403} == {}
    entries = record(server, user)[begun:]
    writes = [entry for entry in entries if entry["verb"] != "get"]
    assert [entry["requestURI"] for entry in writes if entry["responseStatus"]["code"] < 400] == []
    assert len(by_policy(entries)) == len(inside), "each was let through by RBAC and refused by a policy"
    after = {
        (item["metadata"]["namespace"], item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for item in watched.kube.list(LEASES)
    }
    assert after == before
    _no_victim(watched)


def test_a_tenant_still_does_what_tenants_do(watched: Stage) -> None:
    server, own = watched.control_plane, watched.namespace
    mallory = _mallory(server, watched)
    mallory.create(_lease(own, "new", {"labels": {"team": "m"}, "finalizers": ["example.org/mine"]}))
    mallory.patch(LEASES, "new", {"spec": {"desiredState": "Released"}}, own)
    mallory.patch(LEASES, "revoked", {"metadata": {"labels": {"a": "b"}}}, own)
    mallory.patch(LEASES, "new", {"metadata": {"finalizers": ["leasehold.dev/release"]}}, own)
    mallory.apply(_lease(own, "applied"), manager="gitops")
    mallory.apply(_lease(own, "applied", {"labels": {"a": "b"}}), manager="gitops")
    document = mallory.get(LEASES, "applied", own)
    mallory.replace({**document, "spec": {**document["spec"], "desiredState": "Released"}})
    mallory.delete(LEASES, "new", own)
    mallory.delete_all(LEASES, own)
    _no_victim(watched)


def test_without_the_policies_the_same_tries_succeed(open_door: ControlPlane) -> None:
    """So it is the policies that hold them off, each of them, and nothing else."""
    with stage_on(open_door) as stage:
        mallory = _mallory(open_door, stage)
        found = {what: refusal(act) for what, act in _with_its_own(mallory, stage.namespace).items()}
        # The last ones find the finalizer gone already.
        assert {what: code for what, code in found.items() if code} == {
            "lift the finalizer by a JSON patch": 422
        } or not any(found.values()), found
        stage._remove(LEASES, "born-4", stage.namespace)
        _no_victim(stage)


# --- who must be held off: reporters ---


def _as_reporters(
    server: ControlPlane, make: Callable[..., NodeReporter], nodes: list[str]
) -> dict[str, Try]:
    """What the token of one node's reporter, or one that is bound to no node, must not write."""
    n1, n2, n3 = nodes
    mine, theirs = make(server, n1), make(server, n2)
    for one in (mine, theirs):
        one.create()
        one.write()
    nowhere = make(server, "")
    nowhere.sequence = 10
    unbound = NodeReporter.__new__(NodeReporter)
    unbound.kube = server.client(server.as_service_account(SYSTEM, REPORTER))
    unbound.node, unbound.sequence = n1, 5
    lies = {"capacity": {"cpu": "1000"}, "sequence": 10**6}
    return {
        "write another node's report": lambda: mine.write(n2, **lies),
        "bring another's report to its end": lambda: mine.write(n2, bootID="other", sequence=1),
        "make another node's report": lambda: mine.create(n3),
        "make a report of a name that begins like its own": lambda: mine.create(f"{n1}-2"),
        "make a report with a generated name": lambda: mine.kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "NodeReport",
                "metadata": {"generateName": n1},
                "spec": {},
            }
        ),
        "write by a token that is bound to no pod": lambda: unbound.write(n1),
        "make by a token that is bound to no pod": lambda: unbound.create(n3),
        "write from a pod that is on no node": lambda: nowhere.write(n1),
        "make from a pod that is on no node": lambda: nowhere.create(n3),
        "be asked about leases of its choice": lambda: make(server, n3).create(leaseUIDs=["uid"]),
        "be asked about pods of its choice": lambda: make(server, n3).create(
            pods=[{"uid": "p", "leaseUID": "uid"}]
        ),
        "make its report everlasting": lambda: make(server, n3).create(
            meta={"finalizers": ["example.org/x"]}
        ),
        "tie its report to something else": lambda: make(server, n3).create(
            meta={"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": n2, "uid": "u"}]}
        ),
    }


def test_a_reporter_writes_its_own_report_and_no_other(
    watched: Stage, reporter_on: Callable[..., NodeReporter]
) -> None:
    server = watched.control_plane
    nodes = watched.nodes.create(3, SMALL, report=False)
    user = f"system:serviceaccount:{SYSTEM}:{REPORTER}"
    tries = _as_reporters(server, reporter_on, nodes)
    before = [watched.kube.get(REPORTS, name) for name in nodes[:2]]
    begun = len(record(server, user))
    assert {what: code for what, act in tries.items() if (code := refusal(act)) != 403} == {}
    entries = record(server, user)[begun:]
    assert len(entries) == len(by_policy(entries)) == len(tries), "refused by the policies, not by RBAC"
    assert [watched.kube.get(REPORTS, name) for name in nodes[:2]] == before
    assert watched.kube.find(REPORTS, nodes[2]) is None
    own = {e["objectRef"]["name"] for e in record(server, user) if e["responseStatus"]["code"] < 400}
    assert own >= set(nodes[:2])
    for name in nodes[:2]:
        watched.kube.delete(REPORTS, name)


def test_without_the_policies_a_reporter_writes_them_all(
    open_door: ControlPlane, reporter_on: Callable[..., NodeReporter]
) -> None:
    with stage_on(open_door) as stage:
        nodes = stage.nodes.create(3, SMALL, report=False)
        for what, act in _as_reporters(open_door, reporter_on, nodes).items():
            assert refusal(act) == 0, what
            stage._remove(REPORTS, nodes[2], None)
        for report in stage.kube.list(REPORTS):
            stage._remove(REPORTS, report["metadata"]["name"], None)


def test_nobody_else_writes_a_report_in_a_reporters_place(
    watched: Stage, reporter_on: Callable[..., NodeReporter]
) -> None:
    """Neither a pod on the same node with another account, nor the operator, nor the cluster's administrator."""
    server = watched.control_plane
    (node,) = watched.nodes.create(1, SMALL, report=False)
    one = reporter_on(server, node)
    one.create()
    one.write()
    other = reporter_on(server, node, watched.namespace, "neighbour")
    with Client(server.connection) as kube:
        kube.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": watched.namespace},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": REPORTER},
                "subjects": [{"kind": "ServiceAccount", "name": "neighbour", "namespace": watched.namespace}],
            }
        )
    until(lambda: refusal(lambda: other.kube.get(REPORTS, node)) == 0, "the role is bound")
    assert refusal(lambda: other.write(sequence=9)) == 403
    operator = server.client(server.as_service_account(SYSTEM, OPERATOR))
    lie = {"status": {"sequence": 9}}
    assert refusal(lambda: operator.patch(REPORTS, node, lie, subresource="status")) == 403
    assert refusal(lambda: watched.kube.patch(REPORTS, node, lie, subresource="status")) == 403
    leases, pods = {"leaseUIDs": ["x"]}, {"pods": [{"uid": "p", "leaseUID": "x"}]}
    for asked in (leases, pods, leases | pods):
        assert refusal(lambda asked=asked: watched.kube.patch(REPORTS, node, {"spec": asked})) == 403  # type: ignore[misc]
    operator.patch(REPORTS, node, {"spec": leases | pods})
    # What an administrator is there for.
    spec = watched.kube.patch(REPORTS, node, {"spec": {"state": "Excluded"}})["spec"]
    assert (spec["leaseUIDs"], spec["pods"]) == (leases["leaseUIDs"], pods["pods"])
    for fewer in ({"pods": []}, {"pods": None}, {"leaseUIDs": None}):
        assert refusal(lambda fewer=fewer: watched.kube.patch(REPORTS, node, {"spec": fewer})) == 403  # type: ignore[misc]
    written = one.write(observedGeneration=watched.kube.get(REPORTS, node)["metadata"]["generation"])
    assert written["status"]["observedGeneration"] == 3
    watched.kube.delete("clusterrolebindings", watched.namespace)
    watched.kube.delete(REPORTS, node)


def test_a_role_that_gives_reporters_too_much_gives_them_no_more(
    watched: Stage, reporter_on: Callable[..., NodeReporter]
) -> None:
    """Say an administrator bound the role for those who run pools to the wrong account."""
    (node,) = watched.nodes.create(1, SMALL, report=False)
    one = reporter_on(watched.control_plane, node)
    one.create()
    watched.kube.create(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": watched.namespace},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "leasehold-admin",
            },
            "subjects": [{"kind": "ServiceAccount", "name": REPORTER, "namespace": SYSTEM}],
        }
    )
    until(lambda: refusal(lambda: one.kube.list(REPORTS)) == 0, "the role is bound")
    for change in (
        {"spec": {"state": "Excluded"}},
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"finalizers": ["a.b/c"]}},
    ):
        assert refusal(lambda change=change: one.kube.patch(REPORTS, node, change)) == 403  # type: ignore[misc]
    one.write()
    watched.kube.delete("clusterrolebindings", watched.namespace)
    watched.kube.delete(REPORTS, node)


def test_a_token_is_worth_nothing_once_its_pod_is_gone(
    watched: Stage, reporter_on: Callable[..., NodeReporter]
) -> None:
    (node,) = watched.nodes.create(1, SMALL, report=False)
    one = reporter_on(watched.control_plane, node)
    one.create()
    one.leave()
    until(lambda: refusal(one.write) == 401, "its token is refused", seconds=30)
    watched.kube.delete(REPORTS, node)


def test_not_even_the_clusters_administrator_writes_the_books(watched: Stage) -> None:
    """Who has every right can still take the policies away; by mistake nobody writes a status."""
    lease = watched.lease("nowhere")
    pool = watched.pool(wait="")
    books = {"status": {"observedGeneration": 7}}
    assert refusal(lambda: watched.kube.patch(POOLS, pool, books, subresource="status")) == 403
    status = {"status": {"phase": "Active"}}
    assert (
        refusal(lambda: watched.kube.patch(LEASES, lease, status, watched.namespace, subresource="status"))
        == 403
    )


# --- pods that name a lease ---


def _pod(
    namespace: str,
    name: str = "",
    lease: str | None = "build",
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A pod that names a lease, or with None none."""
    meta = {
        "namespace": namespace,
        **({"name": name} if name else {"generateName": "pod-"}),
        "labels": {} if lease is None else {LEASE_LABEL: lease},
        "annotations": dict(annotations or {}),
    }
    spec = {"containers": [{"name": "c", "image": "c"}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _would_be(kube: Client, pod: Object) -> Object:
    """What would become of a pod."""
    path = kube.resource("pods").path(pod["metadata"]["namespace"])
    return kube.request("POST", path, pod, dryRun="All", fieldValidation="Strict")


def _gates(pod: Object) -> list[str]:
    return [gate["name"] for gate in pod["spec"].get("schedulingGates", ())]


def _said(act: Try) -> str:
    """What somebody is told who is refused."""
    with pytest.raises(ApiError) as refused:
        act()
    return str(refused.value)


@contextmanager
def _holding(stage: Stage) -> Iterator[Stage]:
    """A stage where pods can be made, with a pool that holds them to their leases."""
    ensure_service_account(stage.kube, stage.namespace, "default")
    stage.pool(wait="", **GATES)
    until(lambda: bool(_gates(_would_be(stage.kube, _pod(stage.namespace)))), "the policy knows the pool")
    yield stage


@pytest.fixture
def holding(watched: Stage) -> Iterator[Stage]:
    with _holding(watched) as made:
        yield made


def test_a_pod_is_gated_while_some_pool_holds_pods(watched: Stage) -> None:
    ensure_service_account(watched.kube, watched.namespace, "default")

    def gated() -> bool:
        return bool(_gates(_would_be(watched.kube, _pod(watched.namespace))))

    until(lambda: not gated(), "no pool, no gate")
    quiet = watched.pool(wait="")
    assert watched.kube.get(POOLS, quiet)["spec"]["enforcement"]["mode"] == "Advisory"
    strict = watched.pool(wait="", **GATES)
    until(gated, "one pool holds pods")
    watched.kube.patch(POOLS, strict, {"spec": {"enforcement": {"mode": "Advisory"}}})
    until(lambda: not gated(), "it let go")
    watched.kube.patch(POOLS, quiet, {"spec": GATES})
    until(gated, "another does")


def test_a_pod_gets_the_gate_once_however_many_pools_hold_pods(holding: Stage) -> None:
    kube, own, other = holding.kube, holding.namespace, {"name": "example.org/quota"}
    for _ in range(3):
        holding.pool(wait="", **GATES)
    for _ in range(50):  # in the course of which the policy hears of the other pools
        assert _gates(_would_be(kube, _pod(own))) == [LEASE_GATE]
    assert _gates(_would_be(kube, _pod(own, schedulingGates=[]))) == [LEASE_GATE]
    assert _gates(_would_be(kube, _pod(own, schedulingGates=[other]))) == [other["name"], LEASE_GATE]
    for there in ([{"name": LEASE_GATE}], [{"name": LEASE_GATE}, other]):
        made = kube.create(_pod(own, schedulingGates=there))
        assert made["spec"]["schedulingGates"] == there


def test_pods_that_name_no_lease_or_are_bound_already_are_left_alone(holding: Stage) -> None:
    """Static pods are bound when they appear; a gate would make the API server refuse them."""
    own = holding.namespace
    assert _gates(_would_be(holding.kube, _pod(own, lease=None))) == []
    assert _gates(_would_be(holding.kube, _pod(own, nodeName="somewhere"))) == []


def test_where_pools_cannot_be_asked_pods_that_name_a_lease_are_refused_and_no_others() -> None:
    """Here because nobody defined them; else because the API server has just started and not looked yet."""
    with ControlPlane(local=True) as server, server.client() as kube:
        for file in FILES:
            install(server, file)
        ensure_service_account(kube, "default", "default")
        labelled, plain = _pod("default"), _pod("default", lease=None)
        until(lambda: refusal(lambda: _would_be(kube, labelled)) == 403, "the policy acts")
        assert "failed to find resource referenced by paramKind" in _said(lambda: _would_be(kube, labelled))
        assert _gates(_would_be(kube, plain)) == []


def _cast(server: ControlPlane, stage: Stage) -> Client:
    """Pods of a tenant: two at the gate, one that was let go, one without a lease. The tenant may write all of them, by
    Kubernetes' `admin` and by a role that gives too much.
    """
    own = stage.namespace
    stage.kube.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "everything-of-pods"},
            "rules": [{"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["*"]}],
        }
    )
    kube = _bound(server, own, "mallory", "admin", "leasehold-editor", "everything-of-pods")
    until(lambda: refusal(lambda: kube.list("pods", own)) == 0, "the role is bound")
    for name, lease in (("waits", "mine"), ("waits-too", "mine"), ("runs", "mine"), ("free", None)):
        stage.kube.create(_pod(own, name, lease))
    operator = server.client(server.as_service_account(SYSTEM, OPERATOR))
    operator.patch("pods", "runs", {"metadata": {"annotations": {SLICE_ANNOTATION: "uid/0"}}, **UNGATED}, own)
    return kube


def _with_its_pods(kube: Client, own: str) -> dict[str, Try]:
    """What a tenant may do to its pods by RBAC, and must not."""

    def patch(name: str, change: Any, **options: Any) -> Try:
        return lambda: kube.patch("pods", name, change, own, **options)

    def labelled(lease: str | None) -> Object:
        return {"metadata": {"labels": {LEASE_LABEL: lease}}}

    def noted(key: str, value: str | None) -> Object:
        return {"metadata": {"annotations": {key: value}}}

    def born(key: str) -> Try:
        return lambda: kube.create(_pod(own, annotations={key: "uid/0"}))

    first = [{"op": "remove", "path": "/spec/schedulingGates/0"}]
    return {
        "lift its gate": patch("waits", UNGATED),
        "lift its gate by a JSON patch": patch(
            "waits-too", first, content_type="application/json-patch+json"
        ),
        "say which slice it was given": patch("waits", noted(SLICE_ANNOTATION, "uid/1")),
        "say that it was given another": patch("runs", noted(SLICE_ANNOTATION, "uid/1")),
        "say so by its status": patch("runs", noted(SLICE_ANNOTATION, "uid/2"), subresource="status"),
        "say that it was given none": patch("runs", noted(SLICE_ANNOTATION, None)),
        "say that its lease ends": patch("runs", noted(ENDING_ANNOTATION, "now")),
        "be born with a slice": born(SLICE_ANNOTATION),
        "be born at the end of a lease": born(ENDING_ANNOTATION),
        "come to a lease while it runs": patch("free", labelled("mine")),
        "go over to another lease": patch("runs", labelled("theirs")),
        "go over by its status": patch("runs", labelled("others"), subresource="status"),
        "leave its lease": patch("runs", labelled(None)),
    }


def test_every_reach_of_a_tenant_for_its_pods_is_refused_and_on_record(holding: Stage) -> None:
    server, own = holding.control_plane, holding.namespace
    mallory, user = _cast(server, holding), f"system:serviceaccount:{own}:mallory"
    before = holding.kube.list("pods", own)
    begun = len(record(server, user))
    tries = _with_its_pods(mallory, own)
    assert {what: code for what, act in tries.items() if (code := refusal(act)) != 403} == {}
    assert len(by_policy(record(server, user)[begun:])) == len(tries), "by a policy, not by RBAC"
    assert holding.kube.list("pods", own) == before


def test_without_the_policies_the_same_reaches_for_pods_succeed(open_door: ControlPlane) -> None:
    with stage_on(open_door) as stage, _holding(stage):
        mallory = _cast(open_door, stage)
        found = {what: refusal(act) for what, act in _with_its_pods(mallory, stage.namespace).items()}
        assert {what: code for what, code in found.items() if code} == {}


def test_a_tenant_and_a_kubelet_still_do_to_pods_what_they_do(holding: Stage) -> None:
    own = holding.namespace
    mallory = _cast(holding.control_plane, holding)
    free = {"metadata": {"labels": {"team": "m"}, "annotations": {"example.org/note": "x"}}}
    for name in ("waits", "runs", "free"):
        mallory.patch("pods", name, free, own)
    condition = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-22T12:00:00Z"}
    holding.kube.patch("pods", "runs", {"status": {"conditions": [condition]}}, own, subresource="status")
    document = mallory.get("pods", "waits", own)
    document["spec"]["tolerations"].append({"key": "infra", "operator": "Exists"})
    mallory.replace(document)
    mallory.create(_pod(own, "another", "mine"))
    for name in ("another", "waits", "runs", "free"):
        mallory.delete("pods", name, own)


def test_who_is_refused_is_told_what_to_do(holding: Stage) -> None:
    tries = _with_its_pods(_cast(holding.control_plane, holding), holding.namespace)
    for what, words in {
        "lift its gate": "once the lease mine holds room for the pod; lifting it by hand needs the verb forcerelease on"
        " that lease. To run without a lease, make the pod without the label leasehold.dev/lease",
        "say that it was given another": "leasehold.dev/slice of a pod is written by Leasehold's operator alone",
        "be born at the end of a lease": "leasehold.dev/lease-ending of a pod is written by Leasehold's operator alone;"
        " make the pod without it",
        "come to a lease while it runs": "this pod was made without the label leasehold.dev/lease, and cannot get it"
        " later: make another pod",
        "go over to another lease": "this pod was made with the label leasehold.dev/lease=mine, and keeps it",
    }.items():
        assert words in _said(tries[what]), what


def test_an_administrator_lifts_a_gate_and_writes_no_books(holding: Stage) -> None:
    """By the verb that forces a release, as whoever has every right does; so gates open without an operator."""
    server, own = holding.control_plane, holding.namespace
    _cast(server, holding)
    on_call = _bound(server, own, "on-call", "everything-of-pods", "leasehold-admin")
    until(lambda: refusal(lambda: on_call.get(LEASES, "none", own)) == 404, "the role is bound")
    lie = {"metadata": {"annotations": {SLICE_ANNOTATION: "uid/1"}}}
    for kube, name in ((on_call, "waits"), (holding.kube, "waits-too")):
        with pytest.raises(ApiError, match="written by Leasehold's operator alone"):
            kube.patch("pods", name, lie, own)
        assert _gates(kube.patch("pods", name, UNGATED, own)) == []


def test_who_may_force_one_lease_lifts_the_gates_of_its_pods_and_no_others(holding: Stage) -> None:
    server, own = holding.control_plane, holding.namespace
    _cast(server, holding)
    holding.kube.create(_pod(own, "foreign", "theirs"))
    rule = {"apiGroups": ["leasehold.dev"], "resources": ["capacityleases"], "verbs": ["get", "forcerelease"]}
    holding.kube.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "force-mine"},
            "rules": [{**rule, "resourceNames": ["mine"]}],
        }
    )
    owner = _bound(server, own, "owner", "everything-of-pods", "force-mine")
    until(lambda: refusal(lambda: owner.get(LEASES, "mine", own)) == 404, "the role is bound")
    assert _gates(owner.patch("pods", "waits", UNGATED, own)) == []
    assert refusal(lambda: owner.patch("pods", "foreign", UNGATED, own)) == 403


@pytest.mark.parametrize("lease", ["Build", "build_42", "a..b", ""])
def test_a_label_that_is_no_leases_name_is_refused(holding: Stage, lease: str) -> None:
    said = _said(lambda: holding.kube.create(_pod(holding.namespace, lease=lease)))
    assert f'the label leasehold.dev/lease is "{lease}", which no lease can be called' in said
    assert "a lease for pods has a name no longer than that" in said


def test_a_lease_for_pods_has_a_name_that_a_label_holds(holding: Stage) -> None:
    longest = f"{'a' * 30}.{'b' * 32}"
    assert _gates(_would_be(holding.kube, _pod(holding.namespace, lease=longest))) == [LEASE_GATE]
    said = _said(lambda: _would_be(holding.kube, _pod(holding.namespace, lease=f"{longest}c")))
    assert "must be no more than 63" in said


def test_nobody_is_born_as_leased(holding: Stage) -> None:
    """A status at creation is dropped by the API server, so no policy need look at it."""
    pod = _pod(holding.namespace)
    pod["status"] = {"conditions": [{"type": POD_CONDITION, "status": "True"}]}
    made = holding.kube.create(pod)
    assert POD_CONDITION not in [each["type"] for each in made["status"].get("conditions", ())]


def test_the_real_controllers_find_nothing_wrong_and_get_by(
    guarded: ControlPlane, reporter_on: Callable[..., NodeReporter]
) -> None:
    """They check the types of what the policies say, add our roles to Kubernetes' own, and empty a namespace."""
    guarded.start_program("kube-controller-manager")
    with stage_on(guarded) as stage:

        def checked() -> list[Object]:
            found = stage.kube.list("validatingadmissionpolicies.admissionregistration.k8s.io")
            return [policy for policy in found if policy.get("status", {}).get("observedGeneration")]

        until(lambda: len(checked()) == 4, "the policies were checked", seconds=60)
        warnings = [
            policy["status"].get("typeChecking", {}).get("expressionWarnings") for policy in checked()
        ]
        assert warnings == [None] * 4

        def borrowing(role: str) -> bool:
            rules = stage.kube.get("clusterroles", role).get("rules") or ()
            mine = [rule for rule in rules if "leasehold.dev" in rule.get("apiGroups", ())]
            return any("create" in rule["verbs"] for rule in mine)

        until(lambda: borrowing("edit") and borrowing("admin"), "edit and admin may borrow", seconds=60)
        assert not borrowing("view")
        (node,) = stage.nodes.create(1, SMALL, report=False)
        one = reporter_on(guarded, node)
        one.create()
        one.report()
        name = f"going-{secrets.token_hex(3)}"
        stage.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        account = guarded.as_service_account(SYSTEM, OPERATOR)
        with ThreadOperator(guarded.write_kubeconfig(account)):
            pool = stage.pool()
            held = _lease(name, "held")
            stage.kube.create({**held, "spec": {**held["spec"], "poolRef": {"name": pool}}})
            stage.kube.wait(LEASES, "held", name, until=granted)
            stage.kube.delete("namespaces", name)
            stage.kube.wait_gone("namespaces", name, timeout_seconds=60)
