"""What the chart makes of its values, by Helm 3 and by Helm 4."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hack import chart, generate
from hack.values import Chart
from tests.chart.conftest import CHART, NAMESPACE, Helm, Object, Rendered
from tests.cluster.kueue import RIGHTS as KUEUE_RIGHTS

from leasehold.adapters.webhook.keeper import GATE_WEBHOOK
from leasehold.adapters.webhook.server import PATH
from leasehold.api import names
from leasehold.settings import CHOICES

EVERYTHING = CHART.parents[1] / "tests" / "chart" / "everything.yaml"
DIGEST = "sha256:" + "0" * 64

CRDS = {
    ("CustomResourceDefinition", f"{name}.leasehold.dev")
    for name in ("capacitypools", "capacityleases", "nodereports")
}

DEFAULT = CRDS | {
    ("MutatingAdmissionPolicy", "release-finalizer.leasehold.dev"),
    ("MutatingAdmissionPolicyBinding", "release-finalizer.leasehold.dev"),
    ("ServiceAccount", "leasehold-operator"),
    ("ServiceAccount", "leasehold-reporter"),
    ("ClusterRole", "leasehold-operator"),
    ("ClusterRole", "leasehold-reporter"),
    ("ClusterRole", "leasehold-viewer"),
    ("ClusterRole", "leasehold-editor"),
    ("ClusterRole", "leasehold-admin"),
    ("ClusterRoleBinding", "leasehold-operator"),
    ("ClusterRoleBinding", "leasehold-reporter"),
    ("Role", "leasehold-operator"),
    ("RoleBinding", "leasehold-operator"),
    ("FlowSchema", "leasehold-election"),
    ("Deployment", "leasehold-operator"),
    ("DaemonSet", "leasehold-reporter"),
    ("NetworkPolicy", "leasehold-operator"),
    ("NetworkPolicy", "leasehold-reporter"),
}

VALIDATING = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")

POLICY = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
LIVE = ("--api-versions", "v1/Namespace")
"""What Helm knows of a server that is there; of none it knows no kinds."""

OLD = (
    *(*LIVE, "--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"),
    *("--kube-version", "1.35.0"),
)
"""A server without MutatingAdmissionPolicies."""


def without_policies(rendered: Rendered) -> set[tuple[str, str]]:
    return {(kind, name) for kind, name in rendered.kinds() if kind not in VALIDATING}


def set_at(path: str, value: Any) -> Object:
    """Values that set one of them."""
    found: Any = value
    for key in reversed(path.split(".")):
        found = {key: found}
    return found


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> Object:
    result = copy.deepcopy(dict(base))
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def everything() -> Object:
    return yaml.safe_load(EVERYTHING.read_text())


# --- by default ---


def test_by_default_there_is_what_is_needed_and_nothing_else(helm: Helm) -> None:
    assert without_policies(helm.template()) == DEFAULT


def test_helm_finds_nothing_to_complain_about(helm: Helm) -> None:
    for file in (None, *(CHART / name for name in chart.EXAMPLES), EVERYTHING):
        helm.run("lint", CHART, "--strict", *(["--values", file] if file else []))


def test_the_same_values_always_make_the_same(helm: Helm) -> None:
    assert helm.template().text == helm.template().text
    for template in (CHART / "templates").rglob("*"):
        if template.is_file():
            asks = re.search(
                r"\b(lookup|randAlpha\w*|uuidv4|genCA|genSelf\w+|now)\b|helm\.sh/hook", template.read_text()
            )
            assert not asks or template.name.startswith("crd-"), f"{template.name}: {asks}"


def test_the_manifests_are_the_chart_rendered(helm: Helm) -> None:
    wanted = generate.manifests(helm.program)
    assert {str(path): (generate.ROOT / path).read_text() for path in wanted} == {
        str(path): text for path, text in wanted.items()
    }
    committed = {path.relative_to(generate.ROOT) for path in (generate.ROOT / "manifests").rglob("*.*")}
    assert committed == wanted.keys()


def test_the_manifests_for_enforcement_are_what_it_adds(helm4: Helm) -> None:
    """But for the environment of the Deployment, which docs/install.md says how to set."""

    def named(*files: Path) -> set[tuple[str, str]]:
        return Rendered("---\n".join(file.read_text() for file in files)).kinds()

    plain, folder = helm4.template(), generate.ROOT / "manifests"
    for values, part in ((HOLDS, generate.ENFORCEMENT), (ASKS, generate.WEBHOOK)):
        held = helm4.template(values)
        assert named(*(folder / part).iterdir()) == held.kinds() - plain.kinds()
        assert not named(*folder.glob("*.yaml")) & (held.kinds() - plain.kinds())
        same = {o["kind"] for o in plain.objects if o not in held.objects}
        assert same == {"Deployment"}


def test_the_definitions_are_those_of_the_models(helm: Helm) -> None:
    rendered = helm.template()
    for kind, name in CRDS:
        made = rendered.get(kind, name)
        assert made["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        del made["metadata"]["labels"]
        file = generate.ROOT / "crds" / f"{name.partition('.')[0]}.yaml"
        assert made == yaml.safe_load(file.read_text())


# --- the pods ---


def restricted(pod: Object) -> list[str]:
    """What Pod Security *restricted* would not have; the API server's own word is in test_on_a_server."""
    wrong = []
    for container in pod["containers"]:
        security = container["securityContext"]
        if security["allowPrivilegeEscalation"] or security["capabilities"] != {"drop": ["ALL"]}:
            wrong.append("privileges")
        if not security["readOnlyRootFilesystem"]:
            wrong.append("a root that can be written")
    if not pod["securityContext"]["runAsNonRoot"]:
        wrong.append("root")
    if pod["securityContext"]["seccompProfile"] != {"type": "RuntimeDefault"}:
        wrong.append("seccomp")
    if pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}:
        wrong.append("the host's namespaces")
    wrong += [f"hostPath {v['hostPath']['path']}" for v in pod.get("volumes", ()) if "hostPath" in v]
    return wrong


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_pods_are_restricted_whatever_is_set(helm: Helm, kind: str) -> None:
    assert restricted(helm.template().pod(kind)) == []
    values = merged(everything(), {"reporter": {"hostPaths": {"procfs": False, "cgroups": False}}})
    values["reporter"]["hostPaths"]["filesystems"] = {}
    assert restricted(helm.template(values).pod(kind)) == []


def test_parts_of_the_host_are_seen_only_when_asked_for_and_never_written(helm: Helm) -> None:
    reporter = helm.template(everything())
    paths = {
        v["name"]: v["hostPath"]["path"] for v in reporter.pod("DaemonSet")["volumes"] if "hostPath" in v
    }
    assert sorted(paths.values()) == ["/mnt/scratch", "/proc", "/sys/fs/cgroup"]
    container = reporter.container("DaemonSet")
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    at = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    where = {path: at[name] for name, path in paths.items()}
    assert {
        f"--procfs={where['/proc']}",
        f"--cgroup-root={where['/sys/fs/cgroup']}",
        f"--filesystem=scratch={where['/mnt/scratch']}",
    } <= set(container["args"])


def test_selectors_select_their_own_pods_and_no_others(helm: Helm) -> None:
    for release in ("leasehold", "other"):
        rendered = helm.template(everything(), release=release)
        labels = {
            k: rendered.get(k)["spec"]["template"]["metadata"]["labels"] for k in ("Deployment", "DaemonSet")
        }
        for kind, other in (("Deployment", "DaemonSet"), ("DaemonSet", "Deployment")):
            selector = rendered.get(kind)["spec"]["selector"]["matchLabels"]
            assert selector.items() <= labels[kind].items()
            assert not selector.items() <= labels[other].items()
        budget = rendered.get("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
        assert budget.items() <= labels["Deployment"].items()
        for component, kind in (("operator", "Deployment"), ("reporter", "DaemonSet")):
            name = rendered.get(kind)["metadata"]["name"]
            assert name.endswith(component)
            monitor = rendered.get("PodMonitor", name)["spec"]["selector"]["matchLabels"]
            assert monitor == rendered.get(kind)["spec"]["selector"]["matchLabels"]


def test_the_operator_knows_its_settings_by_their_names(helm: Helm) -> None:
    def environment(values: Object) -> dict[str, Any]:
        container = helm.template(values).container("Deployment")
        names = [each["name"] for each in container["env"]]
        assert len(names) == len(set(names)), "Helm 4 refuses to apply a name that is there twice"
        return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}

    by_default = environment({})
    assert by_default["LEASEHOLD_WRITERS"] == "24"
    assert by_default["LEASEHOLD_OVERDUE_ENDS_PER_SECOND"] == "50"
    assert by_default["LEASEHOLD_IDENTITY"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    chosen = environment(
        {"operator": {"settings": {"shards": 4, "overdueEndsPerSecond": 100_000, "logLevel": "DEBUG"}}}
    )
    assert chosen["LEASEHOLD_SHARDS"] == "4"
    assert chosen["LEASEHOLD_OVERDUE_ENDS_PER_SECOND"] == "100000"
    assert chosen["LEASEHOLD_LOG_LEVEL"] == "DEBUG"


def test_a_digest_wins_over_a_tag_and_a_parents_registry_over_the_charts(helm: Helm) -> None:
    def image(**values: Any) -> str:
        rendered = helm.template(values)
        (found,) = {rendered.container(kind)["image"] for kind in ("Deployment", "DaemonSet")}
        return found

    version = helm.template().get("Deployment")["metadata"]["labels"]["app.kubernetes.io/version"]
    assert image() == f"ghcr.io/leasehold/leasehold:{version}"
    assert image(image={"tag": "v9"}) == "ghcr.io/leasehold/leasehold:v9"
    assert image(image={"tag": "v9", "digest": DIGEST}) == f"ghcr.io/leasehold/leasehold@{DIGEST}"
    mirror = image(image={"registry": "a.example"}, **{"global": {"imageRegistry": "b.example:5000"}})
    assert mirror == f"b.example:5000/leasehold/leasehold:{version}"
    assert image(image={"registry": "", "repository": "leasehold"}) == f"leasehold:{version}"


def test_a_parents_pull_secrets_are_used_too(helm: Helm) -> None:
    values = {
        "imagePullSecrets": [{"name": "a"}],
        "global": {"imagePullSecrets": [{"name": "b"}], "other": 1},
    }
    assert helm.template(values).pod("DaemonSet")["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


# --- pods held to their leases ---


HOLDS = {"enforcement": {"enabled": True}}
ADDED = {
    ("ClusterRole", "leasehold-operator-enforcement"),
    ("ClusterRoleBinding", "leasehold-operator-enforcement"),
    ("MutatingAdmissionPolicy", "leasehold-gate"),
    ("MutatingAdmissionPolicyBinding", "leasehold-gate"),
    ("ValidatingAdmissionPolicy", "leasehold-pods"),
    ("ValidatingAdmissionPolicyBinding", "leasehold-pods"),
    ("PriorityClass", "leasehold-placeholder"),
    ("Role", "leasehold-operator-placeholders"),
    ("RoleBinding", "leasehold-operator-placeholders"),
}


def rights(rendered: Rendered) -> set[tuple[str, str, str]]:
    """What the operator's account may do anywhere: by every ClusterRole that is bound to it."""
    bound = {
        o["roleRef"]["name"]
        for o in rendered.objects
        if o["kind"] == "ClusterRoleBinding" and o["subjects"][0]["name"] == "leasehold-operator"
    }
    return {
        (group, resource, verb)
        for name in bound
        for rule in rendered.get("ClusterRole", name)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_only_with_enforcement_the_operator_reaches_pods_and_taints_nodes(helm: Helm) -> None:
    plain, held = helm.template(), helm.template(HOLDS)
    assert held.kinds() - plain.kinds() == ADDED
    assert plain.kinds() - held.kinds() == set()
    assert rights(held) - rights(plain) == {
        *(("", "pods", verb) for verb in ("list", "watch", "patch", "delete")),
        ("", "pods/status", "patch"),
        ("", "pods/eviction", "create"),
        ("", "nodes", "patch"),
    }
    assert rights(plain) - rights(held) == set()
    assert not [right for right in rights(plain) if right[1].startswith("pods")]


def test_the_operator_is_told_whether_it_may_hold_pods(helm: Helm) -> None:
    def told(values: Object) -> Any:
        environment = helm.template(values).container("Deployment")["env"]
        (found,) = (each["value"] for each in environment if each["name"] == "LEASEHOLD_ENFORCEMENT")
        return found

    assert told({}) == "off"  # a text: without quotes YAML reads it as false
    assert told(HOLDS) == "on"
    assert {told({}), told(HOLDS)} == set(CHOICES["enforcement"])


def test_only_where_kueue_is_answered_the_operator_makes_leases(helm: Helm) -> None:
    plain, answering = helm.template(), helm.template({"kueue": {"enabled": True}})
    assert rights(answering) - rights(plain) == KUEUE_RIGHTS
    assert rights(plain) - rights(answering) == set()
    environment = answering.container("Deployment")["env"]
    assert {"name": "LEASEHOLD_KUEUE", "value": "on"} in environment


WEBHOOK = "leasehold-webhook"
ASKS = {"enforcement": {"enabled": True, "admission": "Webhook"}}
BY_WEBHOOK = {item for item in ADDED if item[1] != "leasehold-gate"} | {
    ("MutatingWebhookConfiguration", WEBHOOK),
    ("Service", WEBHOOK),
    ("NetworkPolicy", WEBHOOK),
    ("ClusterRole", WEBHOOK),
    ("ClusterRoleBinding", WEBHOOK),
    ("Role", WEBHOOK),
    ("RoleBinding", WEBHOOK),
}


def test_where_a_server_lacks_the_policy_a_webhook_does_the_same(helm: Helm) -> None:
    def added(*server: str, **enforcement: str) -> set[tuple[str, str]]:
        values = {"enforcement": {"enabled": True, **enforcement}}
        return helm.template(values, *server).kinds() & (ADDED | BY_WEBHOOK)

    assert added(*OLD) == BY_WEBHOOK
    assert added(*OLD, "--api-versions", POLICY) == ADDED
    assert added() == ADDED, "no server, nothing to see"
    assert (
        added(admission="Webhook") == added(*OLD, "--api-versions", POLICY, admission="Webhook") == BY_WEBHOOK
    )
    plain = helm.template({}, *OLD)
    assert not plain.kinds() & (ADDED | BY_WEBHOOK)
    assert "webhook" not in plain.text.replace("caBundle", "").partition("kind: Deployment")[2].lower()


def test_where_a_server_lacks_the_policy_nobody_has_to_say_that_the_operator_adds_the_finalizer(
    helm: Helm,
) -> None:
    finalizer = {item for item in DEFAULT if item[1] == "release-finalizer.leasehold.dev"}
    assert len(finalizer) == 2
    assert not helm.template({}, *OLD).kinds() & finalizer
    assert finalizer <= helm.template({}, *OLD, "--api-versions", POLICY).kinds()
    assert finalizer <= helm.template({}).kinds(), "no server, nothing to see"


def test_the_operator_is_told_of_its_webhook_and_a_service_leads_to_it(helm: Helm) -> None:
    rendered = helm.template(merged(ASKS, {"enforcement": {"webhookPort": 8443}}))
    container = rendered.container("Deployment")
    told = {each["name"]: each.get("value") for each in container["env"]}
    configuration = rendered.get("MutatingWebhookConfiguration")
    assert told["LEASEHOLD_WEBHOOK"] == configuration["metadata"]["name"]
    assert told["LEASEHOLD_WEBHOOK_PORT"] == "8443"
    assert {"name": "webhook", "containerPort": 8443} in container["ports"]
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    graces = [r.pod("Deployment")["terminationGracePeriodSeconds"] for r in (rendered, helm.template(HOLDS))]
    assert graces == [35, 30], "the sleep takes nothing from the time to finish what is under way"
    (webhook,) = configuration["webhooks"]
    assert webhook["name"] == GATE_WEBHOOK
    service = webhook["clientConfig"]["service"]
    assert service == {"name": WEBHOOK, "namespace": NAMESPACE, "path": PATH, "port": 443}
    assert "caBundle" not in webhook["clientConfig"], "it is the operator's"
    found = rendered.get("Service", WEBHOOK)["spec"]
    assert [(port["port"], port["targetPort"]) for port in found["ports"]] == [(443, 8443)]
    labels = rendered.get("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert found["selector"].items() <= labels.items()
    policy = rendered.get("NetworkPolicy", WEBHOOK)["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["ingress"] == [{"ports": [{"port": 8443, "protocol": "TCP"}]}]


def test_the_webhook_is_asked_about_the_same_pods_as_the_policy(helm: Helm) -> None:
    policy = helm.template(HOLDS).get("MutatingAdmissionPolicy", "leasehold-gate")["spec"]
    (webhook,) = helm.template(ASKS).get("MutatingWebhookConfiguration")["webhooks"]
    asked = policy["matchConstraints"]
    assert webhook["objectSelector"] == asked["objectSelector"]
    assert webhook["rules"] == [{**rule, "scope": "Namespaced"} for rule in asked["resourceRules"]]
    conditions = [each for each in policy["matchConditions"] if each["name"] != "a-pool-holds-pods"]
    assert webhook["matchConditions"] == conditions
    assert webhook["failurePolicy"] == policy["failurePolicy"] == "Fail"
    assert webhook["reinvocationPolicy"] == policy["reinvocationPolicy"] == "IfNeeded"
    assert webhook["sideEffects"] == "None"


def test_the_webhook_takes_one_secret_and_its_own_configuration(helm: Helm) -> None:
    rendered = helm.template(ASKS)
    (configuration,) = rendered.get("ClusterRole", WEBHOOK)["rules"]
    assert configuration == {
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": [WEBHOOK],
        "verbs": ["get", "patch"],
    }
    assert rendered.get("Role", WEBHOOK)["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [WEBHOOK], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ]


def test_without_policies_pods_are_gated_and_nobody_is_refused(helm: Helm) -> None:
    held = helm.template({**HOLDS, "policies": {"enabled": False}}).kinds()
    assert held & ADDED == {item for item in ADDED if item[0] not in VALIDATING}


def test_rights_of_ones_own_are_not_given_twice(helm: Helm) -> None:
    held = helm.template({**HOLDS, "rbac": {"create": False}}).kinds()
    assert held & ADDED == {item for item in ADDED if "Role" not in item[0]}


def test_policies_for_pods_say_the_names_that_the_operator_says(helm: Helm) -> None:
    held = helm.template({**HOLDS, "operator": {"serviceAccount": {"create": False, "name": "mine"}}})
    gate, pods = (
        held.get("MutatingAdmissionPolicy", "leasehold-gate"),
        held.get(VALIDATING[0], "leasehold-pods"),
    )
    for policy in (gate, pods):
        (asked,) = policy["spec"]["matchConstraints"]["objectSelector"]["matchExpressions"]
        assert asked == {"key": names.LEASE_LABEL, "operator": "Exists"}
        assert f"gate.name == '{names.LEASE_GATE}'" in yaml.safe_dump(policy, width=10_000).replace("''", "'")
    kind = {"apiVersion": f"{names.GROUP}/{names.VERSION}", "kind": names.POOL_KIND}
    assert gate["spec"]["paramKind"] == kind
    said = {each["name"]: each["expression"] for each in pods["spec"]["variables"]}
    assert f"['{names.SLICE_ANNOTATION}', '{names.ENDING_ANNOTATION}']" in said["forged"]
    assert said["operator"].endswith(f"== 'system:serviceaccount:{NAMESPACE}:mine'")
    conditions = {each["name"]: each["expression"] for each in gate["spec"]["matchConditions"]}
    assert conditions["a-pool-holds-pods"].endswith(f"!= '{names.EnforcementMode.ADVISORY}'")


# --- high availability, and the rest ---


def test_the_example_for_high_availability(helm: Helm) -> None:
    rendered = helm.template(None, "--values", CHART / "values-ha.yaml")
    operator = rendered.get("Deployment")["spec"]
    assert operator["replicas"] == 3
    budget = rendered.get("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    spread = operator["template"]["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert all(each["labelSelector"] == operator["selector"] for each in spread)
    assert operator["template"]["spec"]["priorityClassName"] == "leasehold-operator"
    assert rendered.get("PriorityClass", "leasehold-operator")["value"] == 1_000_000


def test_the_hardened_example_admits_prometheus_in_and_the_api_server_out(helm: Helm) -> None:
    rendered = helm.template(None, "--values", CHART / "values-hardened.yaml")
    operator = rendered.get("NetworkPolicy", "leasehold-operator")["spec"]
    assert operator["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = operator["ingress"]
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    (out,) = operator["egress"]
    assert out["to"] == [{"ipBlock": {"cidr": "10.96.0.1/32"}}]
    assert [port["port"] for port in out["ports"]] == [443, 6443]
    by_default = helm.template()
    for name in ("leasehold-operator", "leasehold-reporter"):
        closed = by_default.get("NetworkPolicy", name)["spec"]
        # An empty list of rules would say the same, is not kept by the server, and so would differ for ever.
        assert closed["policyTypes"] == ["Ingress"]
        assert "ingress" not in closed


def test_common_labels_are_on_everything_and_win_over_nothing(helm: Helm) -> None:
    values = merged(everything(), {"commonLabels": {"cost-center": "42", "app.kubernetes.io/name": "mine"}})
    for each in helm.template(values).objects:
        if each["metadata"]["name"] in ("extra", "leasehold-more"):
            continue
        labels = each["metadata"]["labels"]
        assert labels["cost-center"] == "42", each["metadata"]["name"]
        assert labels["app.kubernetes.io/name"] == "leasehold"


def test_extra_objects_are_taken_as_they_are_or_rendered(helm: Helm) -> None:
    assert {("ConfigMap", "extra"), ("ConfigMap", "leasehold-more")} <= helm.template(everything()).kinds()


def test_alerts_and_dashboards_are_what_lies_in_the_chart(helm: Helm) -> None:
    rendered = helm.template(everything())
    rules = [o for o in rendered.objects if o["kind"] == "PrometheusRule"]
    files = sorted((CHART / "files" / "alerts").glob("*.yaml"))
    assert [rule["spec"] for rule in rules] == [yaml.safe_load(file.read_text()) for file in files]
    boards = [
        o for o in rendered.objects if o["kind"] == "ConfigMap" and "-dashboard-" in o["metadata"]["name"]
    ]
    shown = {name: text for board in boards for name, text in board["data"].items()}
    written = {
        file.name: file.read_text().strip() for file in (CHART / "files" / "dashboards").glob("*.json")
    }
    assert shown == written
    assert all(board["metadata"]["labels"]["grafana_dashboard"] == "1" for board in boards)
    assert not {k for k, _ in helm.template().kinds()} & {"PrometheusRule", "PodMonitor", "ServiceMonitor"}


def test_a_service_is_made_for_its_monitor_and_for_the_webhook_only(helm: Helm) -> None:
    services = {name for kind, name in helm.template(everything()).kinds() if kind == "Service"}
    assert services == {WEBHOOK}
    rendered = helm.template({"metrics": {"serviceMonitor": {"enabled": True}}})
    for name in ("leasehold-operator", "leasehold-reporter"):
        service = rendered.get("Service", name)
        assert service["spec"]["clusterIP"] == "None"
        selector = rendered.get("ServiceMonitor", name)["spec"]["selector"]["matchLabels"]
        assert selector.items() <= service["metadata"]["labels"].items()


def test_names_hold_the_release_and_stay_short_enough(helm: Helm) -> None:
    names = helm.template(release="prod").kinds()
    assert ("Deployment", "prod-leasehold-operator") in names
    longest = helm.template(release="x" * 53).kinds()
    assert max(len(name) for kind, name in longest if kind != "CustomResourceDefinition") <= 63
    assert ("DaemonSet", "lending-reporter") in helm.template({"fullnameOverride": "lending"}).kinds()


@pytest.mark.parametrize(
    ("path", "value", "gone"),
    [
        ("crds.enabled", False, CRDS),
        (
            "finalizerPolicy.enabled",
            False,
            {item for item in DEFAULT if item[1] == "release-finalizer.leasehold.dev"},
        ),
        ("flowSchema.enabled", False, {("FlowSchema", "leasehold-election")}),
        ("networkPolicy.enabled", False, {item for item in DEFAULT if item[0] == "NetworkPolicy"}),
        ("reporter.enabled", False, {item for item in DEFAULT if item[1] == "leasehold-reporter"}),
        ("rbac.create", False, {item for item in DEFAULT if "Role" in item[0]}),
        (
            "rbac.userRoles",
            False,
            {("ClusterRole", f"leasehold-{who}") for who in ("viewer", "editor", "admin")},
        ),
        ("operator.serviceAccount.create", False, {("ServiceAccount", "leasehold-operator")}),
    ],
)
def test_what_is_not_wanted_is_not_there(
    helm: Helm, path: str, value: Any, gone: set[tuple[str, str]]
) -> None:
    assert DEFAULT - without_policies(helm.template(set_at(path, value))) == gone


def test_a_service_account_of_ones_own_is_used_everywhere(helm: Helm) -> None:
    values = {
        who: {"serviceAccount": {"create": False, "name": f"my-{who}"}} for who in ("operator", "reporter")
    }
    rendered = helm.template(values)
    assert rendered.pod("Deployment")["serviceAccountName"] == "my-operator"
    assert rendered.pod("DaemonSet")["serviceAccountName"] == "my-reporter"
    for binding in (o for o in rendered.objects if o["kind"].endswith("RoleBinding")):
        (subject,) = binding["subjects"]
        who = binding["metadata"]["name"].removeprefix("leasehold-")
        assert (subject["name"], subject["namespace"]) == (f"my-{who}", NAMESPACE)
    schema = rendered.get("FlowSchema")["spec"]["rules"][0]["subjects"][0]["serviceAccount"]
    assert schema["name"] == "my-operator"


# --- every value does something ---


BY_PATH = {
    "commonLabels": {"a": "b"},
    "image.digest": DIGEST,
    "operator.listenAddress": "::",
    "reporter.listenAddress": "::",
    "operator.updateStrategy": {"type": "Recreate"},
    "operator.podDisruptionBudget.maxUnavailable": "50%",
    "reporter.maxUnavailable": 3,
    "reporter.hostPaths.filesystems": {"other": "/mnt/other"},
    "networkPolicy.metricsFrom": [],
    "networkPolicy.webhookFrom": [],
    "enforcement.admission": "Policy",
    "networkPolicy.egress.cidrs": ["192.0.2.1/32"],
    "networkPolicy.egress.ports": [7443],
    "extraObjects": [],
}
BY_NAME = {
    "imagePullSecrets": [{"name": "other"}],
    "tolerations": [{"key": "other", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "extraEnv": [{"name": "OTHER", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
    "requests": {"cpu": "7"},
    "limits": {"cpu": "7"},
    "interval": "33s",
    "scrapeTimeout": "33s",
    "relabelings": [{"action": "drop", "regex": "x"}],
    "metricRelabelings": [{"action": "drop", "regex": "x"}],
    "affinity": {"podAntiAffinity": {}},
    "logLevel": "WARNING",
    "logFormat": "text",
    "pullPolicy": "Always",
}
MAKES_NOTHING = ["checkServer"]


def another(path: str, now: Any) -> Any:
    """A value that is not the one that is set."""
    name = path.rpartition(".")[2]
    if path in BY_PATH or name in BY_NAME:
        chosen = BY_PATH.get(path, BY_NAME.get(name))
        return "warning" if path == "reporter.logLevel" else chosen
    if isinstance(now, bool):
        return not now
    if isinstance(now, (int, float)):
        return now + 1
    return "other" if isinstance(now, str) else {"other": "thing"}


def put(values: Object, path: str, value: Any) -> Object:
    """A copy of values in which one of them is another, as a whole."""
    result = copy.deepcopy(values)
    *parents, last = path.split(".")
    level = result
    for key in parents:
        level = level[key]
    level[last] = value
    return result


def at(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for key in path.split("."):
        found = found[key]
    return found


def leaves() -> list[str]:
    """Every value that has none below it."""
    paths = [path for path, *_ in chart.rows()]
    return [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]


def without_files() -> Iterator[str]:
    """What cannot change anything, because the chart has no such files yet."""
    if not [*(CHART / "files" / "alerts").glob("*.yaml")]:
        yield from ("prometheusRule.enabled", "prometheusRule.labels")
    if not [*(CHART / "files" / "dashboards").glob("*.json")]:
        yield from ("dashboards.enabled", "dashboards.labels", "dashboards.annotations")


def test_every_value_changes_something(helm4: Helm) -> None:
    pods = merged(yaml.safe_load((CHART / "values.yaml").read_text()), everything())
    neither = put(pods, "metrics.podMonitor.enabled", False)
    services = put(neither, "metrics.serviceMonitor.enabled", True)
    before = {id(base): helm4.template(base).text for base in (pods, neither, services)}
    idle = []
    for path in leaves():
        base = services if path.startswith("metrics.serviceMonitor.") else pods
        if path.endswith("Monitor.enabled"):
            base = neither
        changed = helm4.template(put(base, path, another(path, at(base, path))))
        if changed.text == before[id(base)]:
            idle.append(path)
    assert sorted(idle) == sorted([*MAKES_NOTHING, *without_files()])


def test_the_files_of_values_are_what_the_model_says() -> None:
    assert Chart.model_validate(yaml.safe_load((CHART / "values.yaml").read_text())) == Chart()
