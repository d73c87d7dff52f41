"""What the stories with pods share: a control plane with all its parts, an operator, and a stage for pods.

Scheduler and controllers are the real ones. Kubelets are played by kwok with the stages in `kubelet/`: a pod that is
bound runs at once and goes at once, and the story says when it finishes, that it hangs, or that its node is silent.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster import harness
from tests.cluster.harness import (
    PATIENCE,
    Object,
    ProcessOperator,
    Stage,
    condition,
    install,
    is_,
)

from leasehold.api.names import LEASE_GATE, LEASE_LABEL, POD_CONDITION
from leasehold.testing.client import Client
from leasehold.testing.control_plane import OPERATOR_NAMESPACE, ControlPlane
from leasehold.testing.errors import ApiError
from leasehold.testing.helpers import KWOK_NODE_ANNOTATION
from leasehold.testing.nodes import NodeShape, SimulatedNodes
from leasehold.testing.processes import wait_until

KUBELET = sorted((Path(__file__).parent / "kubelet").glob("*.yaml"))
"""The stages that pods go through."""

ENFORCEMENT = tuple(f"enforcement/{part}.yaml" for part in ("rbac-operator", "priorityclasses", "policies"))
"""What `enforcement.enabled` adds to an installation."""

ENFORCEMENT_WEBHOOK = tuple(
    f"enforcement-webhook/{part}.yaml" for part in ("rbac-operator", "priorityclasses", "policies", "webhook")
)
"""The same where the server has no MutatingAdmissionPolicy."""

WITHOUT_POLICIES = {
    "--runtime-config": ",".join(
        f"admissionregistration.k8s.io/v1/{kind}=false"
        for kind in ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings")
    ),
    "--disable-admission-plugins": "MutatingAdmissionPolicy",
}
"""What makes a kube-apiserver one that has none, as those before 1.36."""

WEBHOOK = "leasehold-webhook"
"""The name of the webhook's configuration, and of the Secret with its certificate."""

WEBHOOK_HOST = f"{WEBHOOK}.{OPERATOR_NAMESPACE}.svc"
"""The host that API servers expect in the certificate."""

WEBHOOKS = "mutatingwebhookconfigurations"

APP = "app"
"""The label of all pods that were made together."""

HANGS = "test.leasehold.dev/hangs"
"""A pod with this annotation does not go when it is deleted, as one that does not heed SIGTERM."""

POD_LEVEL_RESIZE = "InPlacePodLevelResourcesVerticalScaling"
"""What a node declares that can resize pods by their own resources, beside those of their containers."""

STRATEGIC = "application/strategic-merge-patch+json"

_WORKLOADS = ("jobs.batch", "deployments.apps", "statefulsets.apps")

OTHERS_PATIENCE = 60.0
"""Seconds for what the scheduler, the controllers and kwok do: they retry in their own time."""

# As they come they send 20 and 50 requests a second, which a story with many pods would wait for.
_UNHURRIED = {"--kube-api-qps": "500", "--kube-api-burst": "500"}


def until(condition: Callable[[], bool], what: str, seconds: float = OTHERS_PATIENCE) -> None:
    """Wait for what the scheduler, the controllers or kwok have to do."""
    harness.until(condition, what, seconds)


@contextlib.contextmanager
def whole_control_plane(audit_log: Path | None = None, *, policies: bool = True) -> Iterator[ControlPlane]:
    """A control plane with a scheduler, the controllers, and kwok in place of kubelets.

    Without policies its API server has no MutatingAdmissionPolicy, and asks a webhook; see `call_webhook_at`.
    """
    lacking = None if policies else WITHOUT_POLICIES
    with ControlPlane(local=True, audit_log=audit_log, extra_apiserver_args=lacking) as control_plane:
        control_plane.install_crds()
        for program in ("kube-controller-manager", "kube-scheduler"):
            control_plane.start_program(program, _UNHURRIED)
        control_plane.start_program("kwok", pod_stages=KUBELET)
        for file in ("rbac-operator.yaml", *(ENFORCEMENT if policies else ENFORCEMENT_WEBHOOK)):
            install(control_plane, file)
        yield control_plane


def call_webhook_at(kube: Client, port: int) -> None:
    """Lead the webhook's Service to a port of this host's loopback, since there are no nodes whose proxies would do it.

    The API server calls the operator by the Service's name all the same, and verifies it by that.
    """
    service = kube.get("services", WEBHOOK, OPERATOR_NAMESPACE)
    if service["spec"].get("type") != "ExternalName":
        kube.delete("services", WEBHOOK, OPERATOR_NAMESPACE)
        spec = {"type": "ExternalName", "externalName": "localhost"}
        meta = {"name": WEBHOOK, "namespace": OPERATOR_NAMESPACE}
        kube.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    configuration = kube.get(WEBHOOKS, WEBHOOK)
    (webhook,) = configuration["webhooks"]
    webhook["clientConfig"]["service"]["port"] = port
    kube.replace(configuration)


def pods_may_be_made(kube: Client, namespace: str) -> bool:
    """Tell whether pods with a lease are taken: they are refused until the API server knows of pools, or of whom to
    trust as the webhook.
    """
    meta = {"name": "probe", "namespace": namespace, "labels": {LEASE_LABEL: "none"}}
    spec = {"containers": [{"name": "main", "image": "none"}]}
    path = kube.resource("pods").path(namespace)
    try:
        kube.request(
            "POST", path, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}, dryRun="All"
        )
    except ApiError as error:
        if "paramKind" not in str(error) and "failed calling webhook" not in str(error):
            raise
        return False
    return True


class Enforcer:
    """An operator that may touch pods, as a process with its own account and no other rights than that has."""

    def __init__(self, control_plane: ControlPlane, **settings: Any) -> None:
        self._control_plane = control_plane
        self._settings = settings
        account = control_plane.as_service_account(OPERATOR_NAMESPACE, "leasehold-operator", seconds=7200)
        self._kubeconfig = control_plane.write_kubeconfig(account)
        self.process: ProcessOperator

    def __enter__(self) -> Enforcer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        settings = {"enforcement": "on", **self._settings}
        self.process = ProcessOperator(self._control_plane, self._kubeconfig, **settings)
        try:
            self.process.wait_ready()
        except BaseException:
            self.process.child.kill()
            raise

    def stop(self) -> None:
        """End it as a node that is drained would."""
        self.check()
        self.process.child.stop(PATIENCE)
        assert self.process.child.returncode() == 0, self.process.child.log_tail(40)

    def check(self) -> None:
        assert self.process.child.running(), f"the operator ended:\n{self.process.child.log_tail(40)}"

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Kill it, and let another come at the end."""
        self.process.child.kill()
        try:
            yield
        finally:
            self.start()


# --- predicates on pods ---


def gated(pod: Object, gate: str = LEASE_GATE) -> bool:
    """It waits for its lease."""
    return any(entry["name"] == gate for entry in pod["spec"].get("schedulingGates") or ())


def bound_to(*nodes: str) -> Callable[[Object], bool]:
    """It was bound to one of these nodes; without any, to whichever."""

    def test(pod: Object) -> bool:
        node = pod["spec"].get("nodeName", "")
        return node in nodes if nodes else bool(node)

    return test


def in_phase(phase: str) -> Callable[[Object], bool]:
    return lambda pod: pod["status"].get("phase") == phase


def running(pod: Object) -> bool:
    return in_phase("Running")(pod) and not going(pod)


def going(pod: Object) -> bool:
    """It was deleted or evicted, and is still there."""
    return "deletionTimestamp" in pod["metadata"]


def unscheduled(reason: str = "") -> Callable[[Object], bool]:
    """The scheduler, or for gated pods the API server, says that it has no node: SchedulingGated, Unschedulable."""
    return is_("PodScheduled", "False", reason)


def condition_of(pod: Object) -> Object:
    """What the operator says about it."""
    return condition(pod, POD_CONDITION)


def leased(pod: Object) -> bool:
    return is_(POD_CONDITION)(pod)


def not_leased(reason: str = "") -> Callable[[Object], bool]:
    return is_(POD_CONDITION, "False", reason)


# --- the stage ---


class PodNodes(SimulatedNodes):
    """Nodes that are known to run pods as soon as they are there.

    kwok 0.8 may lose a pod that comes together with its node: it lists the node's pods once, a moment before it minds
    what a watch tells of them. A change of the pod makes it look again. So each node is tried with a pod of no story.
    """

    def create(self, count: int, shape: NodeShape | None = None, **how: Any) -> list[str]:
        made = super().create(count, shape, **how)
        for node in made:
            spec = {
                "containers": [{"name": "main", "image": "none"}],
                "nodeSelector": {"kubernetes.io/hostname": node},
                "tolerations": [{"operator": "Exists"}],
            }
            meta = {"name": node, "namespace": "default"}
            self._client.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        for node in made:
            until(lambda node=node: self._runs(node), f"node {node} runs a pod")
            self._client.delete("pods", node, "default", gracePeriodSeconds=0)
        return made

    def _runs(self, node: str) -> bool:
        pod = self._client.get("pods", node, "default")
        if running(pod):
            return True
        if pod["spec"].get("nodeName"):
            looked = {"metadata": {"annotations": {"example.com/look": secrets.token_hex(4)}}}
            self._client.patch("pods", node, looked, "default")
        return False


class PodStage(Stage):
    """A stage whose nodes run pods."""

    def __init__(self, control_plane: ControlPlane) -> None:
        super().__init__(control_plane)
        self.nodes = PodNodes(self.kube, annotations={KWOK_NODE_ANNOTATION: "fake"})
        for namespace in (self.namespace, "default"):
            self.kube.wait("serviceaccounts", "default", namespace, until=lambda account: True)
        # The API server looks for new kinds every 30 seconds.
        until(lambda: pods_may_be_made(self.kube, self.namespace), "pods with a lease may be made", 60)

    def close(self) -> None:
        """Remove everything, pods while their nodes can let them go."""
        for kind in _WORKLOADS:
            self.kube.delete_all(kind, self.namespace, propagationPolicy="Background")
        # Without its Deployment a ReplicaSet makes pods for a moment yet.
        until(lambda: not self.kube.list("replicasets.apps", self.namespace), "all makers are gone")
        until(self._without_pods, "all pods are gone")
        super().close()

    def _without_pods(self) -> bool:
        self.kube.delete_all("pods", self.namespace, gracePeriodSeconds=0)
        left = self.kube.list("pods", self.namespace)
        for pod in left:
            if pod["metadata"].get("finalizers"):
                self._remove("pods", pod["metadata"]["name"], self.namespace)
        return not left

    def pool(self, *, enforcement: Mapping[str, Any] | None = None, **spec: Any) -> str:
        """Make a pool that holds pods to their leases."""
        return super().pool(enforcement={"mode": "Gate", **(enforcement or {})}, **spec)

    # Making pods

    def pod(self, lease: str = "", *, name: str = "", **wish: Any) -> str:
        """Make a pod; return its name. For what may be wished see `template`."""
        name = name or f"pod-{secrets.token_hex(4)}"
        made = self.template(name, lease, **wish)
        self._make("v1", "Pod", name, made["spec"], made["metadata"])
        return name

    def job(self, lease: str = "", *, pods: int = 1, name: str = "", **wish: Any) -> str:
        """Make a Job of pods that run at the same time; they run until they are told to finish."""
        name = name or f"job-{secrets.token_hex(4)}"
        spec = {
            "completions": pods,
            "parallelism": pods,
            "backoffLimit": 0,
            "template": self.template(name, lease, **{"restartPolicy": "Never", **wish}),
        }
        self._make("batch/v1", "Job", name, spec)
        return name

    def deployment(self, lease: str = "", *, replicas: int = 1, name: str = "", **wish: Any) -> str:
        name = name or f"deployment-{secrets.token_hex(4)}"
        self._make("apps/v1", "Deployment", name, self._replicas(name, lease, replicas, wish))
        return name

    def stateful_set(self, lease: str = "", *, replicas: int = 1, name: str = "", **wish: Any) -> str:
        name = name or f"set-{secrets.token_hex(4)}"
        spec = {"serviceName": name, **self._replicas(name, lease, replicas, wish)}
        self._make("apps/v1", "StatefulSet", name, spec)
        return name

    def budget(self, app: str, **spec: Any) -> str:
        """Make a PodDisruptionBudget for the pods of an app: `minAvailable=` or `maxUnavailable=`."""
        spec = {"selector": {"matchLabels": {APP: app}}, **spec}
        self._make("policy/v1", "PodDisruptionBudget", app, spec)
        # Until the controller has seen it, it is not known what it allows.
        self.kube.wait("poddisruptionbudgets", app, self.namespace, until=_judged)
        return app

    def template(
        self,
        app: str,
        lease: str = "",
        *,
        cpu: str = "1",
        memory: str = "64Mi",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        finalizers: Sequence[str] = (),
        gated: bool = False,
        hangs: bool = False,
        **spec: Any,
    ) -> Object:
        """What a pod is made of: one container that requests this much, unless `containers` says otherwise.

        gated: it has the gate already. hangs: it does not go when it is deleted, see `let_go`.
        """
        requests = {name: text for name, text in (("cpu", cpu), ("memory", memory)) if text}
        made = {
            "containers": [{"name": "main", "image": "none", "resources": {"requests": requests}}],
            **({"schedulingGates": [{"name": LEASE_GATE}]} if gated else {}),
            **spec,
        }
        named = {LEASE_LABEL: lease} if lease else {}
        hanging = {HANGS: "true"} if hangs else {}
        return {
            "metadata": {
                "labels": {APP: app, **named, **(labels or {})},
                "annotations": {**hanging, **(annotations or {})},
                "finalizers": list(finalizers),
            },
            "spec": made,
        }

    def _replicas(self, app: str, lease: str, replicas: int, wish: Mapping[str, Any]) -> Object:
        selector = {"matchLabels": {APP: app}}
        return {"replicas": replicas, "selector": selector, "template": self.template(app, lease, **wish)}

    def _make(
        self, version: str, kind: str, name: str, spec: Object, metadata: Mapping[str, Any] | None = None
    ) -> None:
        named = {**(metadata or {}), "name": name, "namespace": self.namespace}
        self.kube.create({"apiVersion": version, "kind": kind, "metadata": named, "spec": spec})

    # What happens to pods

    def lift_gate(self, pod: str, gate: str = LEASE_GATE) -> None:
        """Remove the gate by hand."""
        gates = self.get_pod(pod)["spec"].get("schedulingGates", ())
        left = [entry for entry in gates if entry["name"] != gate]
        self.kube.patch("pods", pod, {"spec": {"schedulingGates": left}}, self.namespace)

    def finish(self, pod: str, phase: str = "Succeeded") -> None:
        """Let a running pod come to its end, well or, with "Failed", not."""
        seen = self.until_pod(pod, running)["status"]
        ended = (
            {"exitCode": 0, "reason": "Completed"}
            if phase == "Succeeded"
            else {"exitCode": 1, "reason": "Error"}
        )
        unready = {"status": "False", "reason": "PodCompleted", "lastTransitionTime": _now()}
        end = {
            "phase": phase,
            "conditions": [{"type": type_, **unready} for type_ in ("Ready", "ContainersReady")],
            "initContainerStatuses": [
                _ended(status, ended) for status in seen.get("initContainerStatuses", ())
            ],
            "containerStatuses": [_ended(status, ended) for status in seen["containerStatuses"]],
        }
        self.kube.patch(
            "pods", pod, {"status": end}, self.namespace, subresource="status", content_type=STRATEGIC
        )

    def resize(self, pod: str, **resources: str) -> None:
        """Change what the only container of a running pod requests: `cpu=`, `memory=`."""
        (container,) = self.get_pod(pod)["spec"]["containers"]
        self._resize(pod, {"containers": [{"name": container["name"], "resources": {"requests": resources}}]})

    def resize_whole(self, pod: str, **resources: str) -> None:
        """Change what a running pod requests for all its containers together; its node must declare that it can."""
        self._resize(pod, {"resources": {"requests": resources}})

    def _resize(self, pod: str, spec: Object) -> None:
        self.kube.patch(
            "pods", pod, {"spec": spec}, self.namespace, subresource="resize", content_type=STRATEGIC
        )

    def evict(self, pod: str) -> None:
        """Evict it as anybody would. Raises ApiError, 429 where a budget says no."""
        name = {"name": pod, "namespace": self.namespace}
        path = self.kube.resource("pods").path(self.namespace, pod, "eviction")
        self.kube.request("POST", path, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": name})

    def delete_pod(self, pod: str, **options: Any) -> None:
        self.kube.delete("pods", pod, self.namespace, **options)

    def let_go(self, pod: str) -> None:
        """Let a pod go that hangs."""
        self.kube.patch("pods", pod, {"metadata": {"annotations": {HANGS: None}}}, self.namespace)

    # What happens to nodes

    @contextlib.contextmanager
    def silent(self, node: str) -> Iterator[None]:
        """Let kubelets fall silent for a while: they neither start pods nor let them go; the node counts as lost."""
        # All kubelets are one process. To take only the node's lease from it is not enough: it was seen to go on.
        self.control_plane.pause_program("kwok")
        try:
            # What the controllers would say in 50 seconds.
            self.nodes.mark_not_ready(node, "Unknown")
            yield
        finally:
            self.control_plane.resume_program("kwok")

    def declare(self, node: str, *features: str) -> None:
        """Let a node say what its kubelet can do."""
        self.kube.patch(
            "nodes", node, {"status": {"declaredFeatures": sorted(features)}}, subresource="status"
        )

    # Looking at pods

    def get_pod(self, pod: str) -> Object:
        return self.kube.get("pods", pod, self.namespace)

    def until_pod(self, pod: str, test: Callable[[Object], bool], seconds: float = OTHERS_PATIENCE) -> Object:
        return self.kube.wait("pods", pod, self.namespace, until=test, timeout_seconds=seconds)

    def until_pod_gone(self, pod: str, uid: str = "", seconds: float = OTHERS_PATIENCE) -> None:
        """Wait until it is gone; with a uid, or another has its name."""

        def gone() -> bool:
            found = self.kube.find("pods", pod, self.namespace)
            return found is None or (bool(uid) and found["metadata"]["uid"] != uid)

        until(gone, f"pod {pod} is gone", seconds)

    def settled_pod(self, pod: str, test: Callable[[Object], bool], seconds: float = 0.5) -> Object:
        """Watch that a pod stays as it is: every change seen in this time passes the test."""
        return self.settled(pod, test, seconds, resource="pods")

    def pods_of(self, app: str) -> list[Object]:
        """The pods of a Job, a Deployment or a StatefulSet, by name."""
        found = self.kube.list("pods", self.namespace, labelSelector=f"{APP}={app}")
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def until_pods(
        self, app: str, count: int, test: Callable[[Object], bool], seconds: float = OTHERS_PATIENCE
    ) -> list[Object]:
        """Wait until an app has this many pods that pass the test, whatever other pods it has."""
        found: list[Object] = []

        def enough() -> bool:
            found[:] = [pod for pod in self.pods_of(app) if test(pod)]
            return len(found) == count

        if not wait_until(enough, seconds):
            told = "\n".join(f"{pod['metadata']['name']}: {pod['status']}" for pod in self.pods_of(app))
            raise AssertionError(f"not within {seconds} s: {count} pods of {app} pass. There are:\n{told}")
        return found


@contextlib.contextmanager
def pod_stage_on(control_plane: ControlPlane) -> Iterator[PodStage]:
    stage = PodStage(control_plane)
    try:
        yield stage
    finally:
        stage.close()


def _ended(container: Object, ended: Object) -> Object:
    """The status of a container that ran, once it does not any more."""
    running = container["state"].get("running")
    if running is None:
        return container
    terminated = {**ended, "startedAt": running["startedAt"], "finishedAt": _now()}
    return {**container, "ready": False, "started": False, "state": {"terminated": terminated}}


def _judged(budget: Object) -> bool:
    return bool(condition(budget, "DisruptionAllowed")["status"])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
