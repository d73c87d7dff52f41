"""The chart on a real API server: one pass installs it, an upgrade keeps what is lent, an uninstall sticks nowhere."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51
from tests.chart.conftest import CHART, NAMESPACE, Helm
from tests.cluster.harness import LEASES, POOLS, Stage, ThreadOperator, granted, is_, stage_on, until
from tests.enforcement.harness import WEBHOOK, WEBHOOKS, WITHOUT_POLICIES

from leasehold.testing.control_plane import ControlPlane, ensure_namespace, ensure_service_account
from leasehold.testing.crds import _gets_finalizer
from leasehold.testing.errors import ApiError, UnknownResourceError

pytestmark = pytest.mark.cluster

SIMULATED = ("--set", "policies.enabled=false")
"""The policies believe reports of pods on their own nodes only, and the nodes here are simulated; see tests/e2e."""

INSTANCE = "app.kubernetes.io/instance"
KINDS = (
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "serviceaccounts",
    "clusterroles",
    "clusterrolebindings",
    "roles",
    "rolebindings",
    "flowschemas",
    "deployments.apps",
    "daemonsets.apps",
    "networkpolicies.networking.k8s.io",
    "configmaps",
    "secrets",
    "priorityclasses",
    "poddisruptionbudgets",
    "services",
)


class Installation:
    """An API server of its own, without anything of Leasehold's, and a Helm that speaks to it."""

    def __init__(self, helm: Helm, server: ControlPlane) -> None:
        self.helm = helm
        self.server = server
        self.kube = server.client()

    def run(self, *arguments: str | Path, namespace: str = NAMESPACE, check: bool = True) -> Any:
        where = ("--kubeconfig", self.server.kubeconfig, "--namespace", namespace)
        return self.helm.run(*arguments, *where, check=check)

    def install(self, *arguments: str | Path) -> str:
        """Install the chart, and return its notes."""
        return str(self.run("install", "leasehold", CHART, "--create-namespace", *arguments).stdout)

    def uninstall(self) -> None:
        self.run("uninstall", "leasehold")

    def left(self, release: str = "leasehold") -> list[str]:
        """What there still is of a release, but for its definitions."""
        found = []
        for kind in KINDS:
            for each in self.kube.list(kind, labelSelector=f"{INSTANCE}={release}"):
                found.append(f"{kind} {each['metadata']['name']}")
        records = self.kube.list("secrets", labelSelector=f"owner=helm,name={release}")
        return found + [f"record {each['metadata']['name']}" for each in records]

    def definitions(self) -> dict[str, str]:
        """The definitions, by name, with their uid: one that was made anew has another."""
        found = self.kube.list("customresourcedefinitions")
        return {each["metadata"]["name"]: each["metadata"]["uid"] for each in found}

    def clear(self) -> None:
        """Take away all that a release made, and what stays behind with its definitions."""
        self.run("uninstall", "leasehold", "--ignore-not-found", check=False)
        for kind in ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"):
            with contextlib.suppress(UnknownResourceError):  # older servers have none
                self.kube.delete(kind, "release-finalizer.leasehold.dev", missing_ok=True)
        self.until_established()
        for name in self.definitions():
            self.kube.delete("customresourcedefinitions", name, missing_ok=True)
            self.kube.wait_gone("customresourcedefinitions", name)

    def until_established(self) -> None:
        """An API server that is still taking up a definition may need minutes to let it go."""
        found = self.kube.list("customresourcedefinitions")
        staying = [each["metadata"] for each in found if "deletionTimestamp" not in each["metadata"]]
        self.kube.wait_established([meta["name"] for meta in staying])

    def operator(self) -> ThreadOperator:
        """An operator by the service account, so under the rights, that the chart made."""
        account = self.server.as_service_account(NAMESPACE, "leasehold-operator")
        return ThreadOperator(self.server.write_kubeconfig(account))


@pytest.fixture(scope="module")
def server() -> Iterator[ControlPlane]:
    with ControlPlane(local=True) as started:
        yield started


@pytest.fixture
def here(helm: Helm, server: ControlPlane) -> Iterator[Installation]:
    made = Installation(helm, server)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def old_server() -> Iterator[ControlPlane]:
    """An API server without MutatingAdmissionPolicies, as those before Kubernetes 1.36."""
    with ControlPlane(local=True, extra_apiserver_args=WITHOUT_POLICIES) as started:
        yield started


@contextlib.contextmanager
def stage(installation: Installation) -> Iterator[Stage]:
    installation.kube.wait_established(installation.definitions())
    until(lambda: _gets_finalizer(installation.kube), "new leases get their finalizer")
    with stage_on(installation.server) as made:
        yield made


def test_from_the_first_install_to_the_uninstall_nothing_is_lost_and_nothing_stuck(
    here: Installation,
) -> None:
    here.install(*SIMULATED)
    definitions = here.definitions()
    assert definitions.keys() == {
        f"{name}.leasehold.dev" for name in ("capacitypools", "capacityleases", "nodereports")
    }
    with stage(here) as play:
        play.nodes.create(2)
        with here.operator():
            pool = play.pool()
            lease = play.lease(pool)
            held = play.until(lease, granted)

            here.run("upgrade", "leasehold", CHART, "--values", CHART / "values-ha.yaml", *SIMULATED)
            deployment = here.kube.get("deployments.apps", "leasehold-operator", NAMESPACE)
            assert deployment["spec"]["replicas"] == 3
            here.run("rollback", "leasehold", "1")
            deployment = here.kube.get("deployments.apps", "leasehold-operator", NAMESPACE)
            assert deployment["spec"]["replicas"] == 1
            assert here.kube.find("poddisruptionbudgets", "leasehold-operator", NAMESPACE) is None
            assert here.definitions() == definitions
            assert play.get(lease)["status"]["allocation"] == held["status"]["allocation"]

            here.kube.delete(LEASES, lease, play.namespace)
            play.until_gone(lease)
            here.kube.delete(POOLS, pool)
            here.kube.wait_gone(POOLS, pool)
        here.uninstall()
        assert here.left() == []
        assert here.definitions() == definitions
        # What is asked for now has no operator, so nothing may hold it.
        until(lambda: not _gets_finalizer(here.kube), "new leases get no finalizer any more")
        forgotten = play.lease("nobody")
        here.kube.delete(LEASES, forgotten, play.namespace)
        assert here.kube.find(LEASES, forgotten, play.namespace) is None
    here.install()
    assert here.definitions() == definitions


def test_what_was_lent_is_still_lent_after_an_uninstall_and_a_new_install(here: Installation) -> None:
    here.install(*SIMULATED)
    with stage(here) as play:
        play.nodes.create(1)
        with here.operator():
            pool = play.pool()
            lease = play.lease(pool)
            held = play.until(lease, granted)
        here.uninstall()
        here.install(*SIMULATED)
        play.nodes.report_all()
        with here.operator():
            still = play.until(lease, granted)
            assert still["status"]["fencingToken"] == held["status"]["fencingToken"]
            here.kube.delete(LEASES, lease, play.namespace)
            play.until_gone(lease)


def test_without_keep_the_definitions_go_too(here: Installation) -> None:
    notes = here.install("--set", "crds.keep=false")
    assert "WARNING  crds.keep=false: uninstalling deletes every pool and every lease." in notes
    here.until_established()
    here.uninstall()
    until(lambda: here.definitions() == {}, "the definitions are gone", 60)


def test_the_server_itself_admits_the_pods_as_restricted(here: Installation) -> None:
    namespace = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    ensure_namespace(here.kube, NAMESPACE)
    here.kube.patch("namespaces", NAMESPACE, namespace)
    notes = here.install("--values", CHART / "values-ha.yaml")
    assert "kubectl get nreport" in notes
    assert "WARNING" not in notes
    for kind, name in (("deployments.apps", "leasehold-operator"), ("daemonsets.apps", "leasehold-reporter")):
        template = here.kube.get(kind, name, NAMESPACE)["spec"]["template"]
        template["metadata"] |= {"name": "probe", "namespace": NAMESPACE}
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        here.kube.request("POST", path, pod, dryRun="All")
        pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = 0
        with pytest.raises(ApiError, match=r'violates PodSecurity "restricted'):
            here.kube.request("POST", path, pod, dryRun="All")


INSECURE = {
    "crds.keep=false": "uninstalling deletes every pool and every lease",
    "policies.enabled=false": "any reporter can write every node's report",
    "policies.enabled=false,enforcement.enabled=true": "whoever edits pods can let them go without a lease",
    "networkPolicy.enabled=false": "reads the names of waiting leases of all namespaces",
    "reporter.hostPaths.procfs=true": "its namespace must be privileged",
    "operator.replicas=2": "a drain may take all of them at once",
    "image.tag=latest": "pods may run different versions",
    "metrics.serviceMonitor.enabled=true,checkServer=false": "Prometheus will not reach the metrics",
}


@pytest.mark.parametrize(("values", "words"), INSECURE.items(), ids=INSECURE)
def test_whoever_chooses_the_less_safe_way_is_told(helm4: Helm, values: str, words: str) -> None:
    dry = helm4.run("install", "leasehold", CHART, "--dry-run=client", "--set", values)
    assert dry.stdout.count("WARNING") == 1
    assert words in dry.stdout.partition("WARNING")[2]


def test_kubectl_applies_the_manifests_in_one_pass(here: Installation) -> None:
    kubectl = [here.server.program("kubectl"), "--kubeconfig", here.server.kubeconfig]
    names = ("crds", "manifests", "manifests/enforcement")
    folders = [argument for name in names for argument in ("-f", CHART.parents[1] / name)]
    kinds = (
        *(
            "customresourcedefinitions",
            "validatingadmissionpolicies",
            "mutatingadmissionpolicies",
            "flowschemas",
        ),
        *("networkpolicies.networking.k8s.io", "deployments.apps", "daemonsets.apps"),
    )
    generations = []
    for _ in range(2):
        done = subprocess.run(
            [*kubectl, "apply", "--server-side", *folders], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        made = [each["metadata"] for kind in kinds for each in here.kube.list(kind)]
        generations.append({(kind["name"], kind["uid"]): kind.get("generation") for kind in made})
    assert generations[0] == generations[1], "GitOps tools would see a difference for ever"
    labels = here.kube.get("namespaces", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    # But for the namespace: nobody here would bring its end about.
    for name in names[1:]:
        for file in sorted((CHART.parents[1] / name).glob("*.yaml")):
            if file.name != "namespace.yaml":
                subprocess.run([*kubectl, "delete", "-f", file], capture_output=True, check=True)


def test_enforcement_is_turned_on_and_off_by_an_upgrade(here: Installation) -> None:
    here.install(*SIMULATED)
    before = here.left()
    with stage(here) as play:
        ensure_service_account(here.kube, play.namespace, "default")
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "pod-", "labels": {"leasehold.dev/lease": "build"}},
            "spec": {"containers": [{"name": "c", "image": "c"}]},
        }
        path = f"/api/v1/namespaces/{play.namespace}/pods"
        operator = here.server.client(here.server.as_service_account(NAMESPACE, "leasehold-operator"))

        def gated() -> bool:
            return "schedulingGates" in here.kube.request("POST", path, pod, dryRun="All")["spec"]

        def sees_pods() -> bool:
            with contextlib.suppress(ApiError):
                operator.list("pods")
                return True
            return False

        play.pool(wait="", enforcement={"mode": "Gate"})
        assert not gated()
        assert not sees_pods()
        notes = here.run(
            "upgrade", "leasehold", CHART, "--set", "enforcement.enabled=true", *SIMULATED
        ).stdout
        assert "Pools with spec.enforcement.mode Gate hold pods to their leases" in notes
        # An API server looks for kinds that were defined later every 30 seconds.
        until(lambda: _unless_refused(gated), "pods are gated", seconds=60)
        until(sees_pods, "the operator sees pods")
        here.run("upgrade", "leasehold", CHART, *SIMULATED)
        until(lambda: not gated(), "pods are not gated any more")
        until(lambda: not sees_pods(), "the operator sees pods no more")
    assert [each for each in here.left() if not each.startswith("record")] == [
        each for each in before if not each.startswith("record")
    ]


def _unless_refused(ask: Callable[[], bool]) -> bool:
    """Say no where the API server does not know pools yet."""
    try:
        return ask()
    except ApiError as error:
        if "paramKind" not in error.message:
            raise
        return False


def test_a_second_release_is_refused_and_told_of_the_first(here: Installation) -> None:
    here.install()
    ensure_namespace(here.kube, "elsewhere")
    for extra in ([], ["--set", "crds.enabled=false"]):
        second = ("install", "second", CHART, *extra)
        done = here.run(*second, namespace="elsewhere", check=False)
        assert done.returncode != 0
        assert "release-finalizer.leasehold.dev" in done.stderr or "leasehold.dev" in done.stderr
        assert 'must equal "second": current value is "leasehold"' in done.stderr, done.stderr
    assert here.left("second") == []


def test_without_its_definitions_it_says_so_and_installs_nothing(here: Installation) -> None:
    done = here.run(
        "install", "leasehold", CHART, "--create-namespace", "--set", "crds.enabled=false", check=False
    )
    assert done.returncode != 0
    assert "the server does not know leasehold.dev/v1alpha1 CapacityPool" in done.stderr
    assert [each for each in here.left() if not each.startswith("record")] == []


def test_an_operator_without_definitions_says_what_to_install(here: Installation) -> None:
    ensure_namespace(here.kube, NAMESPACE)  # where it elects itself
    with ThreadOperator(here.server.kubeconfig, wait=False) as operator:
        until(lambda: "install their definitions" in operator.controller._not_ready(), "it says so")
        assert operator.page("/readyz")[0] == 503
        assert operator.page("/healthz")[0] == 200, "a restart would not help"
        here.server.install_crds()
        until(operator.ready, "it goes on", 60)


def test_everything_the_options_make_is_what_the_server_knows(here: Installation, helm: Helm) -> None:
    """Strictly: a field that the server does not know is an error here. Monitors are the Prometheus operator's."""
    values = yaml.safe_load((Path(__file__).parent / "everything.yaml").read_text())
    rendered = helm.template({**values, "metrics": {}, "prometheusRule": {}})
    ensure_namespace(here.kube, NAMESPACE)
    for each in rendered.objects:
        with contextlib.suppress(UnknownResourceError):
            namespaced = here.kube.resource(each["kind"]).namespaced
            path = here.kube.resource(f"{each['kind']}").path(NAMESPACE if namespaced else None)
            here.kube.request("POST", path, each, dryRun="All", fieldValidation="Strict")


PAGE = CHART.parents[1] / "docs" / "install.md"


def health(obj: dict[str, Any]) -> str:
    """What Argo CD makes of an object, by the check that the page shows; its Lua is of version 5.1, too."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (checks,) = (
        yaml.safe_load(block)["data"] for block in blocks if "resource.customizations.health" in block
    )
    lua = lua51.LuaRuntime()
    code = checks[f"resource.customizations.health.leasehold.dev_{obj['kind']}"]
    return str(lua.eval(f"function(obj) {code} end")(lua.table_from(obj, recursive=True))["status"])


def test_argo_cd_is_told_what_is_well_and_what_is_not(here: Installation) -> None:
    here.install(*SIMULATED)
    with stage(here) as play:
        lease = play.lease("nobody-yet")
        assert health(play.get(lease)) == "Progressing"
        play.nodes.create(1)
        with here.operator():
            assert health(play.until(lease, is_("Accepted", "False", "PoolNotFound"))) == "Degraded"
            pool = play.pool()
            assert health(play.until_pool(pool, is_("Ready"))) == "Healthy"
            held = play.lease(pool, cpu="4", durationSeconds=3600)
            assert health(play.until(held, granted)) == "Healthy"
            waiting = play.lease(pool, cpu="5")
            assert health(play.until(waiting, is_("Ready", "False", "WaitingForCapacity"))) == "Progressing"
            play.change(held, desiredState="Released")
            assert health(play.until(held, is_("Finished"))) == "Healthy"
            play.nodes.remove()
            assert health(play.until_pool(pool, is_("Ready", "False"))) == "Degraded"
            for name in (lease, held, waiting):
                here.kube.delete(LEASES, name, play.namespace)
                play.until_gone(name)


def test_on_a_server_without_the_policy_the_webhook_is_installed_and_an_upgrade_leaves_whom_to_trust(
    helm: Helm, old_server: ControlPlane
) -> None:
    here = Installation(helm, old_server)
    held = ("--set", "enforcement.enabled=true")

    def webhook() -> Any:
        (found,) = here.kube.get(WEBHOOKS, WEBHOOK)["webhooks"]
        return found

    try:
        said = here.install(*held)
        assert "API servers ask the operator about new pods with a lease" in said
        assert "the operator puts the finalizer on new leases" in said
        bundle = {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "QUJD"}
        here.kube.patch(WEBHOOKS, WEBHOOK, [bundle], content_type="application/json-patch+json")
        here.run(
            "upgrade", "leasehold", CHART, *held, "--set", "operator.replicas=2,enforcement.webhookPort=8443"
        )
        assert webhook()["clientConfig"]["caBundle"] == "QUJD"
        assert here.kube.get("services", WEBHOOK, NAMESPACE)["spec"]["ports"][0]["targetPort"] == 8443
        assert (
            "enforcement.admission=Policy"
            in here.run(
                "upgrade", "leasehold", CHART, *held, "--set", "enforcement.admission=Policy", check=False
            ).stderr
        )
        here.run("upgrade", "leasehold", CHART, "--set", "enforcement.enabled=false")
        assert here.kube.find(WEBHOOKS, WEBHOOK) is None
    finally:
        here.clear()
