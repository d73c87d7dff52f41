"""What may be set about the chart: the one source of its values.yaml, its schema, and the table in docs/values.md.

Everything has a default, and no default is null: to Helm, null means that a value is to be taken away.
"""

import ast
import inspect
from dataclasses import fields
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from leasehold import settings

FROM_THE_POD: Final = {
    *("kubeconfig", "http_host", "http_port", "identity", "election_namespace"),
    *("enforcement", "kueue", "webhook", "webhook_port"),  # which take more than a setting: rights, too
}
"""Settings of the operator that the chart itself fills in."""

_DNS: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"


class Values(BaseModel):
    """A level of values: nothing but what it names."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Free(BaseModel):
    """An object that Kubernetes defines and checks; the chart passes it on."""

    model_config = ConfigDict(extra="allow")


Text = Annotated[str, Field(max_length=4096)]
Key = Annotated[
    str, Field(max_length=317, pattern=r"^([-a-z0-9.]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
]
Label = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
Labels = dict[Key, Label]
Annotations = dict[Key, Annotated[str, Field(max_length=262_144)]]
Name = Annotated[str, Field(max_length=63, pattern=rf"^({_DNS})?$")]
ShortName = Annotated[str, Field(max_length=50, pattern=rf"^({_DNS})?$")]
Named = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Quantity = (
    Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
    | Annotated[int, Field(ge=0)]
)
Share = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^[0-9]{1,3}%$")]
HostPath = Annotated[str, Field(max_length=1024, pattern=r"^/")]
Duration = Annotated[str, Field(max_length=16, pattern=r"^([0-9]+(ms|s|m|h))*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Variable = Annotated[
    str,
    Field(max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
    Field(json_schema_extra={"not": {"pattern": "^LEASEHOLD_"}}),
]


class PullSecret(Values):
    """A Secret with a registry's credentials."""

    name: Named


class Global(Free):
    """What a parent chart sets for all its parts. Others may put keys of their own here."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel, populate_by_name=True)
    image_registry: Text = Field("", description="registry for all images; wins over `image.registry`")
    image_pull_secrets: list[PullSecret] = Field([], description="added to `imagePullSecrets`")


class Image(Values):
    """The one image of operator and reporter."""

    registry: Text = Field("ghcr.io", description="where the image is")
    repository: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        "leasehold/leasehold", description="its name there"
    )
    tag: Annotated[str, Field(max_length=128, pattern=r"^([A-Za-z0-9_][-A-Za-z0-9_.]*)?$")] = Field(
        "", description="its version; empty: the chart's `appVersion`"
    )
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = Field(
        "", description="exactly this image, `sha256:…`; wins over `tag`"
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="when the kubelet asks the registry"
    )


class Crds(Values):
    """The definitions of CapacityPool, CapacityLease and NodeReport."""

    enabled: bool = Field(True, description="install and upgrade them with the chart")
    keep: bool = Field(
        True,
        description="leave them, and with them all pools and leases, when the chart is uninstalled. With `false`"
        " an uninstall deletes every pool and lease, and hangs on those whose finalizer nobody lifts any more",
    )


class FinalizerPolicy(Values):
    """The MutatingAdmissionPolicy that puts the finalizer on new leases."""

    enabled: bool = Field(
        True,
        description="install it, but for a server that is seen to be older than Kubernetes 1.36 and to lack such"
        " policies. Without it the operator adds the finalizer with the grant, by one more request for each lease."
        " Its name is fixed, so a second release in one cluster is refused",
    )


class Policies(Values):
    """ValidatingAdmissionPolicies: who may write what."""

    enabled: bool = Field(
        True,
        description="hold each reporter to its own node's report, and statuses to the operator. Without them any"
        " reporter can write every node's report",
    )


class EnforcementValues(Values):
    """Holding pods to their leases, in pools that ask for it (`spec.enforcement.mode`)."""

    enabled: bool = Field(
        False,
        description="let the operator read, patch, evict and delete pods and patch nodes, and install the policies for"
        " pods with the label `leasehold.dev/lease`. Without it pools with another mode than `Advisory` lend nothing",
    )
    admission: Literal["Auto", "Policy", "Webhook"] = Field(
        "Auto",
        description="who gives such pods their scheduling gate: a `Policy` in the API server (needs Kubernetes 1.36),"
        " or the operator, which API servers then ask about each of them (`Webhook`). `Auto` takes the policy, but"
        " for a server that is seen to lack it; without a server to look at, the policy",
    )
    webhook_port: Port = Field(
        9443,
        description="the webhook's port in the operator's pods; API servers reach it by a Service, and must be let"
        " through to it by the cluster's firewall",
    )
    placeholder_priority: Annotated[int, Field(ge=-2_147_483_648, le=1_000_000_000)] = Field(
        1_000_000,
        description="the value of the PriorityClass of placeholders (mode `Placeholder`), named by"
        " `operator.settings.placeholderPriorityClass`: above every pod that the room is held against",
    )


class KueueValues(Values):
    """Answering Kueue, whose Workloads then wait for leases."""

    enabled: bool = Field(
        False,
        description="let the operator answer AdmissionChecks of Kueue with `controllerName: leasehold.dev/lease`, and"
        " make leases for Workloads; needs Kueue's definitions. See docs/pods.md",
    )


class FlowSchemaValues(Values):
    """A line of its own for the election at the API server."""

    enabled: bool = Field(
        True, description="keep a flood of requests from costing the operator its leadership"
    )


class Rbac(Values):
    """Roles and their bindings."""

    create: bool = Field(
        True, description="make them; with `false` somebody else must, see docs/operations.md"
    )
    user_roles: bool = Field(
        True,
        description="make the ClusterRoles `…-viewer` and `…-editor`, which become part of Kubernetes' own `view`,"
        " `edit` and `admin`, and `…-admin` for those who run the pools",
    )


class ServiceAccount(Values):
    """Who the pods are to the API server."""

    create: bool = Field(True, description="make it")
    name: Named | Literal[""] = Field("", description="its name; empty: that of the workload, or `default`")
    annotations: Annotations = Field({}, description="annotations on it")


class Resources(Values):
    """What a container asks for and may use."""

    requests: dict[Key, Quantity] = Field({}, description="what is kept for it")
    limits: dict[Key, Quantity] = Field({}, description="what it may use at most")


class EnvVar(Values):
    """An environment variable."""

    name: Variable
    value: Text = ""
    value_from: Free | None = None


class Toleration(Values):
    """A taint that pods put up with."""

    key: Annotated[str, Field(max_length=317)] = ""
    operator: Literal["Exists", "Equal", "Lt", "Gt"] = "Equal"
    value: Text = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int = 0


class SpreadConstraint(Values):
    """How replicas lie over the cluster; without a `labelSelector` it counts these replicas."""

    max_skew: Annotated[int, Field(ge=1)]
    topology_key: Key
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    label_selector: Free | None = None
    match_label_keys: list[Key] = []
    min_domains: Annotated[int, Field(ge=1)] = 1
    node_affinity_policy: Literal["Honor", "Ignore"] = "Honor"
    node_taints_policy: Literal["Honor", "Ignore"] = "Ignore"


class DisruptionBudget(Values):
    """How many operators a drain may take at once."""

    enabled: bool = Field(False, description="make a PodDisruptionBudget; worth it with two replicas or more")
    max_unavailable: Share = Field(
        1,
        description="so many may be away. There is no `minAvailable`: with one replica it would block drains",
    )


def _words(source: type) -> dict[str, str]:
    """Return what a class says under each of its fields."""
    body = ast.parse(inspect.getsource(source)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, word in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(word, ast.Expr)
        ):
            found[field.target.id] = " ".join(ast.literal_eval(word.value).split())
    return found


def _in_a_row(sentence: str) -> str:
    """Return a sentence as it stands in a table, without its capital and its full stop."""
    name = sentence.startswith("Kubernetes")
    return (sentence if name else sentence[0].lower() + sentence[1:]).rstrip(".")


def _operator_settings() -> type[Values]:
    """Return the settings that an operator reads from its environment, but for those that follow from the pod."""
    words = _words(settings.Settings)
    shape: dict[str, Any] = {}
    for field in fields(settings.Settings):
        if field.name in FROM_THE_POD:
            continue
        kind: Any = {"int": int, "str": str}[str(field.type)]
        if field.name in settings.CHOICES:
            kind = Literal[settings.CHOICES[field.name]]
        least, most = settings.BOUNDS.get(field.name, (None, None))
        shape[field.name] = (
            kind,
            Field(field.default, ge=least, le=most, description=_in_a_row(words[field.name])),
        )
    return create_model("OperatorSettings", __base__=Values, **shape)


OperatorSettings = _operator_settings()


class Workload(Values):
    """What is asked of both workloads."""

    service_account: ServiceAccount = ServiceAccount()
    pod_labels: Labels = Field({}, description="more labels on its pods")
    pod_annotations: Annotations = Field({}, description="annotations on its pods")
    extra_env: list[EnvVar] = Field(
        [], description="more environment variables; those of Leasehold are set by their own values"
    )
    node_selector: dict[Key, Label] = Field({}, description="only nodes with these labels")
    affinity: Free = Field(Free(), description="where its pods like to be, or not")
    priority_class_name: Named | Literal[""] = Field(
        "",
        description="its PriorityClass; empty: the one of `priorityClasses`, if made, else the cluster's default",
    )


class Operator(Workload):
    """The operator: decides who gets capacity, and for how long."""

    replicas: Annotated[int, Field(ge=0, le=16)] = Field(
        1,
        description="how many; one leads, or each a part of the pools (`settings.shards`), the rest stand by",
    )
    settings: OperatorSettings = Field(  # type: ignore[valid-type]
        OperatorSettings(), description="how it behaves, see docs/operations.md"
    )
    listen_address: Annotated[str, Field(pattern=r"^[0-9A-Fa-f.:]+$", max_length=45)] = Field(
        "0.0.0.0",
        description="where probes, metrics and queues are answered; `::` in a cluster of IPv6 only",
    )
    port: Port = Field(8080, description="their port in the pod")
    resources: Resources = Field(
        Resources(requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "512Mi"}),
        description="enough for 50,000 leases. No limit on cpu: throttling could cost it the leadership",
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=300)] = Field(
        30, description="time to finish what is under way and to give its Leases back"
    )
    update_strategy: Free = Field(
        Free.model_validate({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        description="the next one stands by, caches warm, before the last one goes",
    )
    pod_disruption_budget: DisruptionBudget = DisruptionBudget()
    tolerations: list[Toleration] = Field([], description="taints it puts up with")
    topology_spread_constraints: list[SpreadConstraint] = Field(
        [],
        description="how replicas lie over the cluster; without a `labelSelector` these replicas are counted",
    )


class HostPaths(Values):
    """Parts of the node that a pod cannot see otherwise. Each takes the reporter out of Pod Security *restricted*."""

    procfs: bool = Field(
        False,
        description="read the node's own /proc; only where lxcfs or the like puts another one into containers",
    )
    cgroups: bool = Field(
        False,
        description="read the node's /sys/fs/cgroup: how much each lease uses, and whether its processes are gone,"
        " for pools with `verification: NodeReport` or an idle policy",
    )
    filesystems: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.]{0,62}$")], HostPath] = Field(
        {}, description="further filesystems to report, each a name and a directory of the node on it"
    )


class Reporter(Workload):
    """The reporter: measures its node and writes that node's NodeReport."""

    enabled: bool = Field(True, description="run one on every node that is selected")
    threshold_percent: Annotated[float, Field(ge=0.1, le=100)] = Field(
        5, description="write when a figure moved by so much of capacity"
    )
    silence_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        300, description="write after so long even if nothing moved"
    )
    request_timeout_seconds: Annotated[int, Field(ge=1, le=600)] = Field(
        10, description="seconds for one request in all"
    )
    listen_address: Annotated[str, Field(pattern=r"^[0-9A-Fa-f.:]+$", max_length=45)] = Field(
        "0.0.0.0", description="where probes and metrics are answered; `::` in a cluster of IPv6 only"
    )
    port: Port = Field(8081, description="their port in the pod")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    host_paths: HostPaths = HostPaths()
    resources: Resources = Field(
        Resources(requests={"cpu": "5m", "memory": "32Mi"}, limits={"memory": "64Mi"}),
        description="it takes about 22 MiB and a two-thousandth of a core",
    )
    max_unavailable: Share = Field(
        "10%", description="so many nodes at once are without one during an update"
    )
    tolerations: list[Toleration] = Field(
        [Toleration(operator="Exists")], description="a node that lends needs a reporter, whatever its taints"
    )


class PodSecurity(Values):
    """The user of the containers. Everything else is Pod Security *restricted* and fixed."""

    run_as_user: Annotated[int, Field(ge=0)] = Field(
        65532, description="user and group; 0 leaves both to the platform, as OpenShift wants it"
    )


class Egress(Values):
    """Where the pods may connect to."""

    enabled: bool = Field(False, description="admit nothing but the API server")
    cidrs: list[Annotated[str, Field(pattern=r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$")]] = Field(
        [], description="its addresses, after any translation; empty: every address"
    )
    ports: list[Port] = Field([443, 6443], description="its ports, the same")


class NetworkPolicyValues(Values):
    """Who may connect to the pods: the ports have no login, and the operator's tells leases of all namespaces."""

    enabled: bool = Field(True, description="admit nobody but the kubelet and `metricsFrom`")
    metrics_from: list[Free] = Field(
        [], description="NetworkPolicyPeers that may read metrics, such as your Prometheus"
    )
    webhook_from: list[Free] = Field(
        [],
        description="NetworkPolicyPeers that may call the webhook, such as the addresses of your API servers; empty:"
        " everybody",
    )
    egress: Egress = Egress()


class PriorityClasses(Values):
    """Before whom the pods go."""

    create: bool = Field(False, description="make a PriorityClass for each workload, and use it")
    operator: Annotated[int, Field(ge=-2_147_483_648, le=1_000_000_000)] = Field(
        1_000_000, description="the operator's value"
    )
    reporter: Annotated[int, Field(ge=-2_147_483_648, le=1_000_000_000)] = Field(
        1_000_000, description="the reporter's"
    )


class Monitor(Values):
    """How a Prometheus operator scrapes."""

    enabled: bool = Field(False, description="make it; needs the Prometheus operator's definitions")
    interval: Duration = Field("", description="how often; empty: as Prometheus does")
    scrape_timeout: Duration = Field(
        "", description="how long a scrape may take; empty: as Prometheus has it"
    )
    labels: Labels = Field({}, description="labels by which your Prometheus finds it")
    relabelings: list[Free] = Field([], description="before the scrape")
    metric_relabelings: list[Free] = Field([], description="before what was scraped is stored")


class Metrics(Values):
    """Scraping operator and reporters. One of the two is enough."""

    pod_monitor: Monitor = Monitor()
    service_monitor: Monitor = Monitor()


class PrometheusRule(Values):
    """The alerts."""

    enabled: bool = Field(False, description="make them; needs the Prometheus operator's definitions")
    labels: Labels = Field({}, description="labels by which your Prometheus finds them")


class Dashboards(Values):
    """Grafana's dashboards, one ConfigMap each."""

    enabled: bool = Field(False, description="make them")
    labels: Labels = Field(
        {"grafana_dashboard": "1"}, description="labels by which Grafana's sidecar finds them"
    )
    annotations: Annotations = Field({}, description="annotations on them, such as the sidecar's folder")


class Chart(Values):
    """All values."""

    name_override: ShortName = Field("", description="instead of `leasehold` in names")
    fullname_override: ShortName = Field("", description="instead of the release's name and it")
    common_labels: Labels = Field({}, description="labels on everything; the chart's own win")
    global_: Global = Field(Global(), alias="global", description="set by a parent chart")
    image: Image = Image()
    image_pull_secrets: list[PullSecret] = Field([], description="Secrets for the registry, each a `name`")
    check_server: bool = Field(
        True,
        description="refuse to install where the server lacks what the values ask for; looks only when there is one,"
        " so rendering without a cluster works",
    )
    crds: Crds = Crds()
    finalizer_policy: FinalizerPolicy = FinalizerPolicy()
    policies: Policies = Policies()
    enforcement: EnforcementValues = EnforcementValues()
    kueue: KueueValues = KueueValues()
    flow_schema: FlowSchemaValues = FlowSchemaValues()
    rbac: Rbac = Rbac()
    pod_security: PodSecurity = PodSecurity()
    operator: Operator = Operator()
    reporter: Reporter = Reporter()
    network_policy: NetworkPolicyValues = NetworkPolicyValues()
    priority_classes: PriorityClasses = PriorityClasses()
    metrics: Metrics = Metrics()
    prometheus_rule: PrometheusRule = PrometheusRule()
    dashboards: Dashboards = Dashboards()
    extra_objects: list[Free | Annotated[str, Field(min_length=1)]] = Field(
        [], description="more objects, as they are, or as text that Helm renders first"
    )
