"""CapacityPool: nodes, what of them may be lent, and on which terms."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from leasehold.api import names
from leasehold.api.holder import Holder
from leasehold.api.meta import (
    AGE,
    MAX_RESOURCES,
    MAX_SLICES,
    NAME_LENGTH,
    ORDERED,
    UID_LENGTH,
    UNIQUE,
    Amount,
    Column,
    Conditions,
    Count,
    KindInfo,
    Model,
    PositiveQuantity,
    Quantity,
    Resource,
    Rule,
    Serial,
    Timestamp,
    at_most,
    choice,
    keyed_by,
    nested,
    rules,
    uid_of_other,
)
from leasehold.api.names import (
    AccountingPolicy,
    Borrowers,
    CapacityLossAction,
    CapacitySource,
    EnforcementMode,
    ExpirationAction,
    Fairness,
    IdlePolicy,
    NodeTaintPolicy,
    PlacementStrategy,
    PromiseConflictAction,
    QueueStrategy,
    SelectorOperator,
    StalePolicy,
    StopPolicy,
    StrayPodAction,
    Verification,
    WithinTenant,
)

MAX_IN_FLIGHT: Final = 128
"""Most commitments a ledger may carry at once; a batch of the planner stays below it."""

MAX_TENANTS: Final = 64

MAX_OUTAGES: Final = 8

DAY: Final = 86_400
WEEK: Final = 7 * DAY
YEAR: Final = 365 * DAY

LabelValue = Annotated[str, Field(max_length=63)]
TenantName = Annotated[str, Field(min_length=1, max_length=63, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


_RESOURCE_NAMES: Final = rules(
    Rule(
        f"self.all(name, size(name) <= {NAME_LENGTH})",
        f"a resource name must be at most {NAME_LENGTH} characters long",
    )
)


class SelectorRequirement(Model):
    """One condition on one label."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0"
                " : !has(self.values) || size(self.values) == 0",
                "values must be given with the operators In and NotIn, and left out with Exists and"
                " DoesNotExist",
                field_path=".values",
            )
        )
    )

    key: str = Field(min_length=1, max_length=317, description="The label.")
    operator: SelectorOperator = Field(description=choice(SelectorOperator, "How the label is compared."))
    values: list[LabelValue] | None = Field(
        default=None,
        max_length=64,
        json_schema_extra=ORDERED,
        description="The values compared with; for In and NotIn.",
    )


class LabelSelector(Model):
    """Which objects, by their labels. Every condition must hold; an empty selector is every object."""

    match_labels: dict[str, LabelValue] | None = Field(
        default=None,
        max_length=32,
        json_schema_extra=rules(
            Rule("self.all(key, size(key) <= 317)", "a label key must be at most 317 characters long")
        ),
        description="Labels that must have exactly these values.",
    )
    match_expressions: list[SelectorRequirement] | None = Field(
        default=None, max_length=32, json_schema_extra=ORDERED, description="Further conditions on labels."
    )


class PoolResource(Model):
    """One resource the pool lends, and how much of it on each node."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "(has(self.source) && self.source == 'Fixed') == has(self.fixedQuantity)",
                "fixedQuantity must be set with source Fixed, and only then",
                field_path=".fixedQuantity",
            ),
            Rule(
                "!has(self.reserved) || !has(self.reservedPercent)",
                "reserved and reservedPercent must not both be set; keep one",
                field_path=".reservedPercent",
            ),
            Rule(
                f"!has(self.min) || !has(self.max) || ({at_most('self.min', 'self.max')})",
                "min must not be more than max",
                field_path=".min",
            ),
            Rule(
                "has(self.highPercent) == has(self.lowPercent)"
                " && (!has(self.highPercent) || self.lowPercent < self.highPercent)",
                "highPercent and lowPercent must be set together, and lowPercent must be the lower one",
                field_path=".lowPercent",
            ),
        )
    )

    name: str = Field(
        min_length=1,
        max_length=NAME_LENGTH,
        description="The resource as nodes name it: cpu, memory, ephemeral-storage, or a device such as"
        " vendor.example/gpu.",
    )
    source: CapacitySource = Field(
        default=CapacitySource.MEASURED,
        description=choice(CapacitySource, "Where a node's total comes from."),
    )
    fixed_quantity: PositiveQuantity | None = Field(
        default=None,
        description="The total of every node. Required with source Fixed, refused with any other.",
    )
    reserved: Quantity | None = Field(
        default=None,
        description="Kept back on every node before anything is lent. Instead of reservedPercent. Unset:"
        " nothing.",
    )
    reserved_percent: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Share of a node's total kept back before anything is lent. Instead of reserved.",
    )
    allocation_percent: int = Field(
        default=100,
        ge=1,
        le=1000,
        description="What may be lent, in percent of total less reserved. Above 100 promises more than"
        " there is;"
        " sensible for cpu, dangerous for memory and storage.",
    )
    min: PositiveQuantity | None = Field(
        default=None, description="Smallest slice a lease may ask for. Smaller ones are refused. Unset: any."
    )
    max: PositiveQuantity | None = Field(
        default=None,
        description="Largest slice a lease may ask for. Larger ones are refused. Unset: a node's worth.",
    )
    step: PositiveQuantity | None = Field(
        default=None, description="A slice must be a multiple of this; others are refused. Unset: any amount."
    )
    high_percent: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="A node whose measured use passes this share of its total gets no new leases until use"
        " falls to"
        " lowPercent. Unset: use does not matter here.",
    )
    low_percent: int | None = Field(
        default=None, ge=0, le=99, description="Where a node held back by highPercent may lend again."
    )


class IdleRule(Model):
    """What happens to capacity that is held and not used."""

    policy: IdlePolicy = Field(
        default=IdlePolicy.OFF, description=choice(IdlePolicy, "What happens to an idle lease.")
    )
    below_percent: int = Field(
        default=5,
        ge=1,
        le=100,
        description="A lease is idle while it uses less than this share of each resource.",
    )
    period_seconds: int = Field(
        default=1800,
        ge=10,
        le=WEEK,
        description="How long a lease must be idle, in seconds, before the policy acts.",
    )


class LeasePolicy(Model):
    """The terms on which the pool lends. A change applies to held leases at their next renewal."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.defaultDurationSeconds) || !has(self.maxDurationSeconds)"
                " || self.defaultDurationSeconds <= self.maxDurationSeconds",
                "defaultDurationSeconds (3600 unless set) must not be more than maxDurationSeconds; set both",
                field_path=".defaultDurationSeconds",
            )
        )
    )

    default_duration_seconds: int = Field(
        default=3600, ge=1, le=YEAR, description="Term of a lease that names none, in seconds."
    )
    max_duration_seconds: int = Field(
        default=DAY,
        ge=1,
        le=YEAR,
        description="Longest term a lease may ask for, in seconds. A longer one is refused. Renewal starts"
        " a new term.",
    )
    max_total_seconds: int | None = Field(
        default=None,
        ge=1,
        le=10 * YEAR,
        description="Longest time one lease may be held with all its renewals, in seconds. Unset: no limit.",
    )
    claim_timeout_seconds: int = Field(
        default=300,
        ge=0,
        le=DAY,
        description="A granted lease whose holder has not shown up after this many seconds ends. Only for"
        " leases with"
        " liveness Renew or Session. 0: never.",
    )
    heartbeat_timeout_seconds: int = Field(
        default=60,
        ge=5,
        le=DAY,
        description="A holder that has not renewed for this many seconds is taken for dead. Only for"
        " leases with"
        " liveness Renew or Session.",
    )
    grace_period_seconds: int = Field(
        default=30,
        ge=0,
        le=DAY,
        description="How long a holder has to finish, in seconds, between the end of its lease"
        " (DisruptionTarget) and"
        " the moment its capacity is taken back.",
    )
    cooldown_seconds: int = Field(
        default=0,
        ge=0,
        le=3600,
        description="How long capacity rests after a lease, in seconds, before another lease may get it.",
    )
    warn_before_seconds: list[Annotated[int, Field(ge=1, le=WEEK)]] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra={"default": [], **UNIQUE},
        description="When to warn that a lease ends, in seconds before its end. Empty: no warning.",
    )
    idle: IdleRule = nested(IdleRule, "What happens to leases that are held and not used.")
    expiration_action: ExpirationAction = Field(
        default=ExpirationAction.RELEASE, description=choice(ExpirationAction, "What the end of a term does.")
    )
    verification: Verification = Field(
        default=Verification.NONE,
        description=choice(Verification, "Whose word frees the capacity of an ended lease."),
    )
    verification_timeout_seconds: int = Field(
        default=120,
        ge=1,
        le=DAY,
        description="How long nodes have to confirm, in seconds. After that the capacity is quarantined:"
        " neither held"
        " nor lent until a node confirms, is deleted, or an administrator forces the release.",
    )
    node_loss_seconds: int = Field(
        default=300,
        ge=0,
        le=DAY,
        description="How long a node may be not ready, in seconds, before the leases on it are revoked.",
    )
    accounting: AccountingPolicy = Field(
        default=AccountingPolicy.HELD,
        description=choice(AccountingPolicy, "What is written about a lease when it is over."),
    )
    capacity_loss_action: CapacityLossAction = Field(
        default=CapacityLossAction.KEEP,
        description=choice(CapacityLossAction, "What happens when nodes have less than leases hold."),
    )
    guaranteed_seconds: int = Field(
        default=0,
        ge=0,
        le=YEAR,
        description="A lease is not ended for another one (spec.preemption) before it is this old, in seconds from"
        " its grant.",
    )
    max_defer_seconds: int = Field(
        default=0,
        ge=0,
        le=DAY,
        description="Longest extra time, in seconds beside the grace period, that a holder may ask for"
        " (spec.deferSeconds of its lease) when its lease is ended for another one. 0: none.",
    )
    promise_conflict_action: PromiseConflictAction = Field(
        default=PromiseConflictAction.CUT,
        description=choice(
            PromiseConflictAction, "What happens to a renewal that would run into a promised start."
        ),
    )


class Queueing(Model):
    """How waiting leases are ordered, and how many may wait."""

    strategy: QueueStrategy = Field(
        default=QueueStrategy.BEST_EFFORT_FIFO, description=choice(QueueStrategy, "The order of grants.")
    )
    max_pending: int = Field(
        default=10_000,
        ge=1,
        le=100_000,
        description="Most leases that may wait. Further ones are refused (QueueFull); tenants, and namespaces of one"
        " tenant, have equal shares of the places.",
    )
    fairness: Fairness = Field(
        default=Fairness.DOMINANT_SHARE, description=choice(Fairness, "What ranks tenants.")
    )
    usage_half_life_seconds: int = Field(
        default=0,
        ge=0,
        le=YEAR,
        description="What a tenant used in the past counts towards its rank, half as much for every so many seconds"
        " that have passed. 0: only what it holds now counts.",
    )


class Tenant(Model):
    """A share of the pool for the leases of some namespaces."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.guaranteed) || !has(self.limit) || self.guaranteed.all(name,"
                f" !(name in self.limit) || ({at_most('self.guaranteed[name]', 'self.limit[name]')}))",
                "guaranteed must not be more than limit in any resource; lower the one or raise the other",
                field_path=".guaranteed",
            )
        )
    )

    name: TenantName = Field(
        description="The tenant's name, which leases may write in spec.tenant: lower case letters, digits and"
        " hyphens.",
    )
    namespace_selector: LabelSelector = Field(
        description="The tenant's namespaces, by label; {} is every namespace. Leases of a namespace in several"
        " tenants must name one of them in spec.tenant, and the pool says so (TenantsValid, TenantsOverlap).",
    )
    guaranteed: dict[str, Quantity] | None = Field(
        default=None,
        max_length=MAX_RESOURCES,
        json_schema_extra=_RESOURCE_NAMES,
        description="What the tenant can always have, by resource. While it does not use it others may borrow it."
        " A resource that is not named: nothing.",
    )
    limit: dict[str, Quantity] | None = Field(
        default=None,
        max_length=MAX_RESOURCES,
        json_schema_extra=_RESOURCE_NAMES,
        description="The most the tenant may hold, by resource. A resource that is not named: no limit.",
    )
    weight: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="A tenant of weight 2 ranks as one of weight 1 that holds half as much.",
    )
    max_leases: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Most leases the tenant may hold at once. Unset: no limit.",
    )


class Preemption(Model):
    """When held leases are ended early to make room for a waiting one. Such a lease gets its grace period."""

    within_tenant: WithinTenant = Field(
        default=WithinTenant.NEVER,
        description=choice(WithinTenant, "Whether a lease may take room from leases of its own tenant."),
    )
    borrowers: Borrowers = Field(
        default=Borrowers.NEVER,
        description=choice(
            Borrowers, "Whether a tenant may take back what others borrowed of its guarantee."
        ),
    )


class PoolPlacement(Model):
    """How nodes are chosen among those that fit."""

    strategy: PlacementStrategy = Field(
        default=PlacementStrategy.BEST_FIT,
        description=choice(PlacementStrategy, "Which node is taken first."),
    )
    max_usage_percent: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="A node whose measured use of any of the pool's resources is above this share of its total"
        " gets no new leases. Unset: use does not matter here.",
    )


class Freshness(Model):
    """How old a node's figures may be."""

    max_age_seconds: int = Field(
        default=660,
        ge=10,
        le=DAY,
        description="A report older than this many seconds is stale. A reporter with nothing new to say"
        " writes every"
        " 300 s, so the default bears one lost report and some delay.",
    )
    on_stale: StalePolicy = Field(
        default=StalePolicy.HOLD,
        description=choice(StalePolicy, "What a node without a fresh report may still give."),
    )


class Enforcement(Model):
    """Whether and how pods are held to their leases."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.nodeTaint) || self.nodeTaint != 'Dedicated'"
                " || (has(self.mode) && self.mode != 'Advisory')",
                "nodeTaint Dedicated needs mode Gate: in a pool with mode Advisory nobody lets the pods of leases"
                " tolerate the taint",
                field_path=".nodeTaint",
            )
        )
    )

    mode: EnforcementMode = Field(
        default=EnforcementMode.ADVISORY,
        description=choice(EnforcementMode, "Whether pods are held to their leases."),
    )
    eviction_timeout_seconds: int = Field(
        default=300,
        ge=0,
        le=DAY,
        description="How long PodDisruptionBudgets can hold up the eviction of the pods of an ended lease, in seconds."
        " After that they are deleted.",
    )
    stray_pod_action: StrayPodAction = Field(
        default=StrayPodAction.WAIT,
        description=choice(StrayPodAction, "What happens to a new pod whose lease is over."),
    )
    placeholder_priority_class_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=NAME_LENGTH,
        description="The PriorityClass of placeholders (mode Placeholder). Its value must be above that of the pods the"
        " room is held against, and its preemptionPolicy Never. Unset: the one of the installation.",
    )
    node_taint: NodeTaintPolicy = Field(
        default=NodeTaintPolicy.NONE,
        description=choice(NodeTaintPolicy, "Whether the pool's nodes are kept from other pods."),
    )


def _default_resources() -> list[PoolResource]:
    return [PoolResource(name=name) for name in (names.CPU, names.MEMORY, names.EPHEMERAL_STORAGE)]


class PoolSpec(Model):
    """What the platform team decides: nodes, resources and terms."""

    node_selector: LabelSelector = Field(
        description="The pool's nodes, by label; {} is every node. A node selected by two pools is lent by"
        " neither, and"
        " both pools say so (Degraded, NodesConflicting).",
    )
    resources: list[PoolResource] = Field(
        default_factory=_default_resources,
        min_length=1,
        max_length=MAX_RESOURCES,
        json_schema_extra={
            "default": [{"name": name} for name in (names.CPU, names.MEMORY, names.EPHEMERAL_STORAGE)],
            **keyed_by("name"),
        },
        description="What the pool lends. Default: cpu, memory and ephemeral-storage, all measured.",
    )
    lease_policy: LeasePolicy = nested(LeasePolicy, "The terms of every lease.")
    queueing: Queueing = nested(Queueing, "The order in which waiting leases are granted.")
    placement: PoolPlacement = nested(PoolPlacement, "How nodes are chosen.")
    freshness: Freshness = nested(Freshness, "How old a node's figures may be.")
    tenants: list[Tenant] | None = Field(
        default=None,
        max_length=MAX_TENANTS,
        json_schema_extra=keyed_by("name"),
        description="Who shares the pool. None: all namespaces share it as one tenant without limit. Else a"
        " namespace of no tenant is refused (NamespaceNotAllowed).",
    )
    preemption: Preemption = nested(Preemption, "When held leases are ended early for a waiting one.")
    enforcement: Enforcement = nested(Enforcement, "Whether and how pods are held to their leases.")
    stop_policy: StopPolicy = Field(
        default=StopPolicy.NONE, description=choice(StopPolicy, "An administrator's brake.")
    )


class PoolCapacity(Model):
    """The state of one resource over all nodes of the pool."""

    name: str = Field(min_length=1, max_length=NAME_LENGTH, description="The resource.")
    total: Amount = Field(description="What the nodes have.")
    reserved: Amount = Field(description="What is kept back, on all nodes together.")
    allocatable: Amount = Field(
        description="What may be lent in all: total less reserved, times allocationPercent."
    )
    allocated: Amount = Field(description="What leases hold now.")
    releasing: Amount = Field(
        description="What ended leases still hold: draining, cooling down, or being verified."
    )
    quarantined: Amount = Field(description="What ended leases hold because a node did not confirm in time.")
    free: Amount = Field(description="What can be granted now, on all nodes together.")
    largest_free: Amount = Field(description="The largest slice that can be granted now, on one node.")


class NodeCounts(Model):
    """How many of the pool's nodes are in which state. One node may be counted under several."""

    total: Count = Field(description="Nodes the selector matches.")
    grantable: Count = Field(description="Nodes that may get new leases now.")
    not_ready: Count = Field(description="Nodes that are not ready.")
    cordoned: Count = Field(description="Nodes that are cordoned.")
    stale: Count = Field(description="Nodes without a fresh report.")
    pressured: Count = Field(description="Nodes held back by highPercent or maxUsagePercent.")
    conflicting: Count = Field(description="Nodes another pool selects too.")


class LeaseCounts(Model):
    """How many of the pool's leases are in which state."""

    pending: Count = Field(description="Waiting for capacity.")
    held: Count = Field(description="Granted, and not ending.")
    releasing: Count = Field(description="Ended, and their capacity not free yet.")
    quarantined: Count = Field(description="Ended, and a node did not confirm in time.")
    scheduled: Count | None = Field(
        default=None, description="With a promised start that is still to come (status.reservation)."
    )
    children: Count | None = Field(
        default=None, description="Sub-leases that hold some of their parent's. No other number counts them."
    )


class TenantUsage(Model):
    """What one tenant holds and waits for, and its rank."""

    name: TenantName = Field(description="The tenant.")
    allocated: dict[str, Amount] = Field(
        max_length=MAX_RESOURCES, description="What its leases hold now, by resource."
    )
    leases: Count = Field(description="How many leases it holds.")
    pending: Count = Field(description="How many of its leases wait.")
    share_permille: Count = Field(
        description="What it holds now of the resource it holds most of, in thousandths of what the pool may lend,"
        " divided by its weight. The lowest goes first.",
    )
    usage_permille: Count | None = Field(
        default=None,
        description="The same of what it held in the past, which counts less the longer ago"
        " (usageHalfLifeSeconds).",
    )
    waste_permille: Count | None = Field(
        default=None, description="The share of what it held that it did not use, in thousandths."
    )


class InFlightEntry(Model):
    """A grant, a promise or a handover that is committed here and may not be written to its lease yet. A grant counts
    as held.
    """

    uid: str = Field(min_length=1, max_length=UID_LENGTH, description="The lease's metadata.uid.")
    namespace: str = Field(min_length=1, max_length=63, description="The lease's namespace.")
    name: str = Field(min_length=1, max_length=NAME_LENGTH, description="The lease's name.")
    sequence: Serial = Field(description="The commit's number; becomes the lease's fencing token.")
    resources: dict[str, Amount] = Field(max_length=MAX_RESOURCES, description="What each slice holds.")
    nodes: list[Annotated[str, Field(max_length=NAME_LENGTH)]] = Field(
        max_length=MAX_SLICES,
        json_schema_extra=ORDERED,
        description="The node of each slice, by slice index.",
    )
    start_time: Timestamp | None = Field(
        default=None, description="The entry promises a start at this time instead of granting."
    )
    end_time: Timestamp | None = Field(
        default=None, description="When the room is expected to be free for others again."
    )
    not_after_time: Timestamp | None = Field(
        default=None,
        description="The lease jumped the queue and may not be renewed beyond this time, at which another needs the"
        " room.",
    )
    parent_uid: str | None = uid_of_other(
        "parentUID", "The metadata.uid of the lease that the room is taken out of; nothing of the pool's is."
    )
    holder: Holder | None = Field(
        default=None,
        description="The entry hands the lease, which is held, over to this holder instead of granting it.",
    )


class LedgerOutage(Model):
    """A stretch of time in which no operator led the pool, or the API server did not answer it."""

    start_time: Timestamp = Field(description="When somebody was last there.")
    end_time: Timestamp = Field(description="When somebody was there again.")


class Ledger(Model):
    """The order of commits. Written by compare-and-swap only; it keeps two operators from granting twice."""

    epoch: Serial = Field(
        description="Raised by every leader that takes the pool over. A leader that sees a higher one stops."
    )
    sequence: Serial = Field(description="Raised by one for every grant and every handover.")
    in_flight: list[InFlightEntry] = Field(
        default_factory=list,
        max_length=MAX_IN_FLIGHT,
        json_schema_extra=keyed_by("uid"),
        description="Grants that may not have reached their lease yet. A new leader finishes them first.",
    )
    outages: list[LedgerOutage] | None = Field(
        default=None,
        max_length=MAX_OUTAGES,
        json_schema_extra=ORDERED,
        description="The latest outages. Deadlines for claims and heartbeats move by them, ends of terms do not.",
    )


class PoolStatus(Model):
    """What the operator sees and does. Written by the operator only."""

    observed_generation: Serial | None = Field(
        default=None, description="The metadata.generation this status was made for."
    )
    conditions: Conditions | None = Field(
        default=None,
        description="Ready, CapacityKnown, Overcommitted, LedgerConsistent, Draining, Degraded and TenantsValid.",
    )
    capacity: list[PoolCapacity] | None = Field(
        default=None,
        max_length=MAX_RESOURCES,
        json_schema_extra=keyed_by("name"),
        description="What there is, what is held and what is free, by resource.",
    )
    nodes: NodeCounts | None = Field(default=None, description="How many nodes are in which state.")
    leases: LeaseCounts | None = Field(default=None, description="How many leases are in which state.")
    tenants: list[TenantUsage] | None = Field(
        default=None,
        max_length=MAX_TENANTS,
        json_schema_extra=keyed_by("name"),
        description="What each tenant holds and waits for.",
    )
    ledger: Ledger | None = Field(default=None, description="The order of commits. Never edit it by hand.")


def _capacity_path(resource: str) -> str:
    return f'.status.capacity[?(@.name=="{resource}")].free'


class CapacityPool(Resource):
    """A set of nodes whose capacity is lent for a time.

    Declare which nodes, which resources and on which terms; CapacityLeases then borrow from the pool. What
    is free is what the nodes really have, as the reporter on each node measures it.
    """

    # One rule at the root: a rule further down would not run when its part of the status is dropped.
    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(oldSelf.status) || !has(oldSelf.status.ledger) || (has(self.status) &&"
                " has(self.status.ledger)"
                " && self.status.ledger.epoch >= oldSelf.status.ledger.epoch"
                " && self.status.ledger.sequence >= oldSelf.status.ledger.sequence)",
                "status.ledger cannot be removed, and its epoch and sequence never fall: without them two"
                " operators"
                " could grant the same capacity twice",
                field_path=".status",
            )
        )
    )

    info: ClassVar[KindInfo] = KindInfo(
        kind=names.POOL_KIND,
        plural=names.POOL_PLURAL,
        short_names=("cpool",),
        namespaced=False,
        columns=(
            Column(
                "Ready",
                '.status.conditions[?(@.type=="Ready")].status',
                description="Whether leases are granted.",
            ),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', description="Why, or why not."),
            Column("Nodes", ".status.nodes.total", "integer", description="Nodes the selector matches."),
            Column("CPU Free", _capacity_path(names.CPU), description="CPU that can be granted now."),
            Column(
                "Memory Free", _capacity_path(names.MEMORY), description="Memory that can be granted now."
            ),
            Column("Held", ".status.leases.held", "integer", description="Leases held now."),
            Column("Pending", ".status.leases.pending", "integer", 1, "Leases waiting."),
            Column("Epoch", ".status.ledger.epoch", "integer", 1, "How often a leader took the pool over."),
            AGE,
        ),
    )

    kind: Literal["CapacityPool"] = "CapacityPool"
    spec: PoolSpec = Field(description="What the platform team decides: nodes, resources and terms.")
    status: PoolStatus | None = Field(default=None, description="What the operator sees and does.")
