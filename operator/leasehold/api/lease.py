"""CapacityLease: capacity asked for, granted, kept alive and given back."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from leasehold.api import names
from leasehold.api.holder import Holder
from leasehold.api.meta import (
    AGE,
    INT32_MAX,
    MAX_RESOURCES,
    MAX_SLICES,
    NAME_LENGTH,
    ORDERED,
    Amount,
    Column,
    Conditions,
    Count,
    KindInfo,
    Model,
    PositiveQuantity,
    Resource,
    Rule,
    Serial,
    Timestamp,
    TimeText,
    at_most,
    choice,
    keyed_by,
    nested,
    rules,
    uid_of_other,
)
from leasehold.api.names import (
    CounterOfferKind,
    DeadlineCause,
    DesiredState,
    LeaseCondition,
    LeaseMode,
    LeasePhase,
    Liveness,
    PlacementMode,
    PodCompletionAction,
)
from leasehold.api.pool import DAY, YEAR, LabelSelector, LabelValue, TenantName

HIGHEST_PRIORITY: Final = 1_000_000_000
MAX_REJECTIONS: Final = 16
MAX_VICTIMS: Final = 64

_FORBIDDEN: Final = "FieldValueForbidden"
_KEPT: Final = "status, its allocation and its fencingToken cannot be removed, and the token never falls"
_FINAL: Final = (
    "Finished=True and Released=True are final: the capacity may have been granted to another lease"
)
_KEY_LENGTH: Final = 63 + len("/") + NAME_LENGTH


class PoolRef(Model):
    """The pool to borrow from."""

    name: str = Field(min_length=1, max_length=NAME_LENGTH, description="Name of a CapacityPool.")


class ParentRef(Model):
    """The lease to borrow from."""

    name: str = Field(
        min_length=1, max_length=NAME_LENGTH, description="Name of a CapacityLease in this namespace."
    )


class Placement(Model):
    """Where slices may lie."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "(has(self.mode) && self.mode == 'SameDomain') == has(self.topologyKey)",
                "topologyKey must be set with mode SameDomain, and only then",
                field_path=".topologyKey",
            )
        )
    )

    mode: PlacementMode = Field(
        default=PlacementMode.ANY, description=choice(PlacementMode, "How slices lie on nodes.")
    )
    topology_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=317,
        description="The node label whose value all slices must share, such as"
        " topology.kubernetes.io/zone. Required"
        " with mode SameDomain, refused with any other.",
    )
    node_selector: dict[str, LabelValue] | None = Field(
        default=None,
        max_length=16,
        json_schema_extra=rules(
            Rule("self.all(key, size(key) <= 317)", "a label key must be at most 317 characters long")
        ),
        description="Labels a node must have, with these values, beside those of the pool.",
    )


# Every rule runs at every write of the status too, and there the API server builds the list of an object's fields anew
# for each look at one of them. So a rule stands at the field it is about where it can, and looks at few others.


def _stays(name: str) -> Rule:
    """Return the rule of the spec that an optional field is neither added nor removed; the field has `_same`."""
    return Rule(
        f"has(self.{name}) == has(oldSelf.{name})",
        f"{name} cannot be changed; create a new lease instead",
        field_path=f".{name}",
        reason=_FORBIDDEN,
    )


def _same(name: str) -> Rule:
    """Return the rule of a field that it is not changed."""
    return Rule("self == oldSelf", f"{name} cannot be changed; create a new lease instead", reason=_FORBIDDEN)


class LeaseSpec(Model):
    """What is asked for, and whether it is still wanted."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "self.liveness != 'Session' || (has(self.holder) && has(self.holder.sessionRef))",
                "liveness Session needs holder.sessionRef: the coordination.k8s.io Lease that the holder"
                " renews",
                field_path=".liveness",
            ),
            Rule(
                "has(self.poolRef) || has(self.poolSelector) || has(self.parentRef)",
                "name a pool in poolRef, or set poolSelector to let the operator choose one; a sub-lease names its"
                " parent in parentRef",
                field_path=".poolRef",
            ),
            Rule(
                "!has(self.parentRef) || (!has(self.poolSelector) && !has(self.startTime) && !has(self.tenant)"
                " && self.mode != 'DryRun')",
                "a sub-lease has its parent's pool and tenant and starts when its parent has room: leave out"
                " poolSelector, startTime, tenant and mode DryRun",
                field_path=".parentRef",
            ),
            Rule(
                "oldSelf.hasValue() || !has(self.poolRef) || !has(self.poolSelector)",
                "poolRef and poolSelector must not both be set; keep one",
                field_path=".poolSelector",
                optional_old_self=True,
            ),
            Rule(
                "has(self.poolRef) || !has(oldSelf.poolRef)",
                "the pool of a lease cannot be changed; create a new lease instead",
                field_path=".poolRef",
                reason=_FORBIDDEN,
            ),
            _stays("poolSelector"),
            _stays("parentRef"),
            _stays("startTime"),
        )
    )

    pool_ref: PoolRef | None = Field(
        default=None,
        json_schema_extra=rules(
            Rule(
                "self == oldSelf",
                "the pool of a lease cannot be changed; create a new lease instead",
                reason=_FORBIDDEN,
            )
        ),
        description="The pool to borrow from. Cannot be changed. Either this or poolSelector is given; with"
        " poolSelector the operator writes the pool it chose here, once, and for a sub-lease that of its parent.",
    )
    pool_selector: LabelSelector | None = Field(
        default=None,
        json_schema_extra=rules(_same("poolSelector")),
        description="The pools that will do, by the labels of the CapacityPools; {} is every pool. The operator"
        " takes the one where the lease starts first. Cannot be changed.",
    )
    parent_ref: ParentRef | None = Field(
        default=None,
        json_schema_extra=rules(_same("parentRef")),
        description="Borrow from this lease instead of from a pool: a sub-lease. Its slices are taken out of its"
        " parent's, on the same nodes, and count for nothing else: not against the pool, a tenant or a quota. It ends"
        " with its parent at the latest. The parent cannot be a sub-lease itself. Cannot be changed. The operator"
        " writes the parent's pool into poolRef.",
    )
    resources: dict[str, PositiveQuantity] = Field(
        min_length=1,
        max_length=MAX_RESOURCES,
        json_schema_extra=rules(
            Rule(
                f"self.all(name, size(name) <= {NAME_LENGTH})",
                f"a resource name must be at most {NAME_LENGTH} characters long",
            )
        ),
        description="What one slice holds, by resource: cpu, memory, ephemeral-storage, or what else the"
        " pool lends."
        " Once granted it may only shrink, and what is given up is free at once; what sub-leases hold is given up"
        " when they have given it back.",
    )
    count: int = Field(
        default=1,
        ge=1,
        le=MAX_SLICES,
        description="How many slices. All are granted together or none. Cannot be changed once granted.",
    )
    placement: Placement = nested(Placement, "Where slices may lie. Cannot be changed once granted.")
    priority: int = Field(
        default=0,
        ge=-HIGHEST_PRIORITY,
        le=HIGHEST_PRIORITY,
        description="Higher is granted sooner, before age. Held leases are taken away for a higher priority only"
        " where the pool's spec.preemption says so.",
    )
    holder: Holder | None = Field(
        default=None,
        description="Who uses the capacity. A change while it is held hands the lease over: the capacity stays where"
        " it is, and the new holder gets a larger fencing token. It may begin when status.holder names it. Nothing"
        " is extended; the new holder has to show up as after a grant.",
    )
    liveness: Liveness = Field(
        default=Liveness.NONE, description=choice(Liveness, "How the holder shows that it is alive.")
    )
    duration_seconds: int | None = Field(
        default=None,
        ge=1,
        le=YEAR,
        description="The term, in seconds from the grant, and again from each renewal. Unset: the pool's"
        " defaultDurationSeconds. A change counts from the next renewal.",
    )
    start_time: Timestamp | None = Field(
        default=None,
        json_schema_extra=rules(_same("startTime")),
        description="Reserve the capacity from this time on instead of now. A time that has passed is now. Cannot"
        " be changed.",
    )
    start_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=YEAR,
        description="A lease that is not granted within so many seconds, from startTime or else from its creation,"
        " ends (StartDeadlineExceeded). Unset: it waits as long as it takes.",
    )
    tenant: TenantName | None = Field(
        default=None,
        description="The tenant of the pool that this lease counts for. Needed only where the namespace belongs to"
        " several. Cannot be changed once granted.",
    )
    mode: LeaseMode = Field(
        default=LeaseMode.RESERVE,
        json_schema_extra=rules(
            _same("mode"),
        ),
        description=choice(LeaseMode, "What is asked for.") + " Cannot be changed.",
    )
    defer_seconds: int = Field(
        default=0,
        ge=0,
        le=DAY,
        description="Extra time the holder asks for, in seconds beside the grace period, when its lease is ended for"
        " another one. Granted up to the pool's maxDeferSeconds.",
    )
    renew_time: TimeText | None = Field(
        default=None,
        description="Write the current time here to renew: any change of the text is one request for a new"
        " term, and"
        " one heartbeat. The value itself is never compared with a clock.",
    )
    desired_state: DesiredState = Field(
        default=DesiredState.HELD,
        json_schema_extra=rules(
            Rule(
                "self == oldSelf || oldSelf != 'Released'",
                "desiredState Released is final; create a new lease instead",
                reason=_FORBIDDEN,
            )
        ),
        description=choice(DesiredState, "What the holder wants."),
    )
    pod_completion_action: PodCompletionAction = Field(
        default=PodCompletionAction.KEEP,
        description=choice(
            PodCompletionAction,
            "What happens when all pods of the lease have finished, where its pool holds pods.",
        ),
    )
    ttl_seconds_after_finished: int = Field(
        default=3600,
        ge=0,
        le=YEAR,
        description="How long the object is kept after it is finished, in seconds, for people to read.",
    )


class Slice(Model):
    """One part of the grant, on one node."""

    index: int = Field(ge=0, lt=MAX_SLICES, description="The slice's number, from 0.")
    node_name: str = Field(min_length=1, max_length=NAME_LENGTH, description="The node that gives it.")
    resources: dict[str, Amount] = Field(max_length=MAX_RESOURCES, description="What it holds there.")


class Allocation(Model):
    """The grant. Kept for the record when the lease is over."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "self.ledgerSequence > oldSelf.ledgerSequence || (self.ledgerSequence =="
                " oldSelf.ledgerSequence"
                " && (self.slices == oldSelf.slices"
                " || self.slices.map(s, s.nodeName) == oldSelf.slices.map(s, s.nodeName)))",
                "a grant moves to other nodes only with a new commit in the pool's ledger (a larger"
                " ledgerSequence)",
            )
        )
    )

    ledger_sequence: Serial = Field(description="The commit in the pool's ledger that made the grant.")
    ledger_epoch: Serial | None = Field(
        default=None,
        description="The epoch in which a later leader made sure that no earlier one still writes to the lease.",
    )
    parent_uid: str | None = uid_of_other(
        "parentUID", "The metadata.uid of the lease that the slices are taken out of, for a sub-lease."
    )
    allocation_time: Timestamp = Field(description="When the grant was made, by the operator's clock.")
    slices: list[Slice] = Field(
        max_length=MAX_SLICES,
        json_schema_extra=keyed_by("index"),
        description="The parts of the grant, by index.",
    )


class NextDeadline(Model):
    """What happens next if nobody does anything."""

    time: Timestamp = Field(description="When.")
    cause: DeadlineCause = Field(description=choice(DeadlineCause, "What happens then."))


class Deadlines(Model):
    """Absolute times, by the operator's clock. A lease never ends before them, and may end a little after."""

    start_time: Timestamp | None = Field(default=None, description="The promised start.")
    claim_time: Timestamp | None = Field(default=None, description="The holder must show up before.")
    heartbeat_time: Timestamp | None = Field(default=None, description="The next heartbeat must come before.")
    amnesty_time: Timestamp | None = Field(
        default=None,
        description="The end of the last outage of the operator or the API server by which claimTime and"
        " heartbeatTime were moved.",
    )
    expiration_time: Timestamp | None = Field(default=None, description="The term ends. Renewal moves it.")
    max_expiration_time: Timestamp | None = Field(
        default=None,
        description="No renewal reaches further: the pool's maxTotalSeconds from the grant, or"
        " when another lease needs the room that this one jumped the queue for.",
    )
    revocation_time: Timestamp | None = Field(
        default=None, description="The lease is ending; its capacity is taken back now."
    )
    cooldown_time: Timestamp | None = Field(
        default=None, description="The capacity is free for others from now on."
    )
    verification_time: Timestamp | None = Field(
        default=None, description="Nodes must confirm before, or the capacity is quarantined."
    )
    next: NextDeadline | None = Field(default=None, description="The earliest of these, and what it means.")


class Renewal(Model):
    """The record of renewals."""

    count: Count = Field(description="How many terms were added to the first.")
    last_renew_time: Timestamp | None = Field(default=None, description="When the last one was granted.")
    observed_renew_time: TimeText | None = Field(
        default=None, description="The spec.renewTime last seen. Another text there is the next request."
    )


class Rejection(Model):
    """One reason why nodes were passed over."""

    reason: str = Field(min_length=1, max_length=32, description="Why, such as Insufficient or NodeNotReady.")
    nodes: Count = Field(
        description="How many nodes. A node that lacks several resources counts under each of them."
    )
    resource: str | None = Field(
        default=None, max_length=NAME_LENGTH, description="The resource in question, where there is one."
    )
    short_by: Amount | None = Field(
        default=None,
        description="How much the node that comes closest lacks, where the reason is Insufficient.",
    )


class Release(Model):
    """How the lease ends."""

    cause: str = Field(
        min_length=1, max_length=32, description="The reason of the condition DisruptionTarget."
    )
    start_time: Timestamp | None = Field(default=None, description="When the end began.")
    finish_time: Timestamp | None = Field(default=None, description="When the capacity was given back.")
    last_error: str | None = Field(
        default=None, max_length=240, description="What is in the way of the release."
    )


class QueuePlace(Model):
    """Where a waiting lease stands. Updated only when it moves materially."""

    approximate_position: int | None = Field(
        default=None, ge=1, le=INT32_MAX, description="Its place in the queue, about; 1 is next."
    )
    estimated_start_time: Timestamp | None = Field(
        default=None,
        description="When it starts if every lease runs to its end and none of a higher turn comes. Absent: cannot be"
        " told.",
    )


class Reservation(Model):
    """A promised start. The room is kept for this lease from startTime on; nothing is held before."""

    ledger_sequence: Serial = Field(description="The commit in the pool's ledger that made the promise.")
    start_time: Timestamp = Field(description="When the lease starts.")
    end_time: Timestamp = Field(description="When its room is free again if it is not renewed.")
    slices: list[Slice] = Field(
        max_length=MAX_SLICES,
        json_schema_extra=keyed_by("index"),
        description="The parts that are promised, by index.",
    )


class CounterOffer(Model):
    """What could be had instead. Nothing of it is kept: ask for it with a new lease."""

    kind: CounterOfferKind = Field(
        description=choice(CounterOfferKind, "How it differs from what was asked for.")
    )
    resources: dict[str, Amount] | None = Field(
        default=None, max_length=MAX_RESOURCES, description="What one slice would hold, where that is less."
    )
    count: int | None = Field(
        default=None, ge=1, le=MAX_SLICES, description="How many slices, where they are fewer."
    )
    pool: str | None = Field(
        default=None,
        min_length=1,
        max_length=NAME_LENGTH,
        description="The pool that has it, where another does.",
    )
    start_time: Timestamp | None = Field(default=None, description="From when on, where that is later.")


class Quote(Model):
    """The answer to a lease of mode DryRun that can be granted, now or later. Nothing of it is kept."""

    pool: str = Field(min_length=1, max_length=NAME_LENGTH, description="The pool that would give it.")
    start_time: Timestamp = Field(description="When it would start.")
    nodes: list[Annotated[str, Field(max_length=NAME_LENGTH)]] = Field(
        max_length=MAX_SLICES,
        json_schema_extra=ORDERED,
        description="The node of each slice, by slice index.",
    )
    victims: list[Annotated[str, Field(max_length=_KEY_LENGTH)]] | None = Field(
        default=None,
        max_length=MAX_VICTIMS,
        json_schema_extra=ORDERED,
        description="The leases that would be ended for it, as namespace/name.",
    )


class Revocation(Model):
    """The notice to a holder whose lease is taken back before its term ends."""

    preemptor_uid: str | None = uid_of_other(
        "preemptorUID", "The metadata.uid of the lease that needs the room."
    )
    notice_time: Timestamp = Field(description="When the holder was told.")
    defer_seconds: int | None = Field(
        default=None,
        ge=0,
        le=DAY,
        description="The extra time the holder got, in seconds beside the grace period.",
    )


class ResourceUse(Model):
    """One resource, reserved and used."""

    name: str = Field(min_length=1, max_length=NAME_LENGTH, description="The resource.")
    reserved: Amount = Field(description="What the lease held, all slices together.")
    used: Amount | None = Field(
        default=None,
        description="What its workload used of that: the mean over the time in which it was observed. Absent: not"
        " observed.",
    )
    used_percent: Count | None = Field(
        default=None, description="The same in percent of what was reserved. Absent: not observed."
    )


class Accounting(Model):
    """What was reserved and what was used. Written once, when the lease is over."""

    held_seconds: Count = Field(description="How long the capacity was held, in seconds.")
    observed_seconds: Count = Field(
        description="For how much of that time reporters said what the workload used, in seconds."
    )
    resources: list[ResourceUse] | None = Field(
        default=None,
        max_length=MAX_RESOURCES,
        json_schema_extra=keyed_by("name"),
        description="Reserved and used, by resource.",
    )


class LeaseStatus(Model):
    """What the operator decided. Written by the operator only."""

    # One pass over the old conditions: these rules run on every status write.
    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "has(self.conditions) || !has(oldSelf.conditions) || !oldSelf.conditions.exists(old,"
                " old.status == 'True' && old.type in ['Finished', 'Released'])",
                _FINAL,
                field_path=".conditions",
            ),
            Rule(
                "(!has(oldSelf.allocation) || has(self.allocation))"
                " && (!has(oldSelf.fencingToken) || has(self.fencingToken))",
                _KEPT,
            ),
            Rule(
                "!has(oldSelf.holder) || (has(self.holder) && self.holder == oldSelf.holder)"
                " || self.fencingToken > oldSelf.fencingToken",
                "a token belongs to one holder: holder changes only together with a larger fencingToken",
                field_path=".holder",
            ),
            Rule(
                "(has(self.allocation) && has(self.fencingToken)) || !has(self.conditions)"
                " || !self.conditions.exists(c, c.type == 'Allocated' && c.status == 'True')",
                "Allocated=True needs an allocation and a fencingToken",
                field_path=".conditions",
            ),
        )
    )

    observed_generation: Serial | None = Field(
        default=None, description="The metadata.generation this status was made for."
    )
    phase: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description=choice(LeasePhase, "One word for people; decide by the conditions instead.")
    )
    conditions: Conditions | None = Field(
        default=None,
        json_schema_extra=rules(
            Rule(
                "oldSelf.all(old, old.status != 'True' || !(old.type in ['Finished', 'Released'])"
                " || self.exists(new, new.type == old.type && new.status == 'True'))",
                _FINAL,
            )
        ),
        description=f"{', '.join(LeaseCondition)}: all from the operator's first visit on.",
    )
    fencing_token: Serial | None = Field(
        default=None,
        json_schema_extra=rules(Rule("self >= oldSelf", _KEPT)),
        description="Larger with every grant and every handover in the pool. Give it to what the lease protects, which"
        " refuses any token"
        " smaller than the largest it has seen.",
    )
    holder: Holder | None = Field(
        default=None,
        description="For whom the fencing token is: spec.holder at the grant or the last handover, {} where it named"
        " nobody. Another holder must not use the capacity.",
    )
    tenant: Annotated[str, Field(max_length=63)] | None = Field(
        default=None,
        description="The tenant of the pool that this lease counts for. Absent: the pool has none.",
    )
    queue: QueuePlace | None = Field(default=None, description="Where a waiting lease stands.")
    reservation: Reservation | None = Field(
        default=None, description="The promised start of a lease with spec.startTime."
    )
    allocation: Allocation | None = Field(default=None, description="The grant: which slices on which nodes.")
    deadlines: Deadlines | None = Field(default=None, description="When and why the lease will end.")
    renewal: Renewal | None = Field(default=None, description="The record of renewals.")
    rejections: list[Rejection] | None = Field(
        default=None,
        max_length=MAX_REJECTIONS,
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
        description="Why a waiting lease is not granted, most nodes first.",
    )
    quote: Quote | None = Field(
        default=None, description="Where, when and at whose cost a lease of mode DryRun would be granted."
    )
    counter_offer: CounterOffer | None = Field(
        default=None, description="What could be had instead of what was asked for."
    )
    revocation: Revocation | None = Field(
        default=None, description="The notice to a holder whose lease is taken back before its term ends."
    )
    release: Release | None = Field(default=None, description="How the lease ends.")
    accounting: Accounting | None = Field(
        default=None, description="What was reserved and what was used, once the lease is over."
    )


_GRANTED: Final = "oldSelf.?status.?allocation.hasValue()"


class CapacityLease(Resource):
    """Capacity borrowed from a pool for a time.

    The lease waits until the pool can grant it, is held until its term ends or its holder gives it back or
    falls silent, and then returns its capacity by itself. The condition Ready says whether the capacity may
    be used now. Deleting the object gives the capacity back too.
    """

    # Rules across spec and status, and those that must notice a dropped status, can only stand at the root.
    # Each compares whole fields first: that is where a status write, which leaves the spec alone, stops.
    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "has(self.status) || !has(oldSelf.status)",
                _KEPT,
                field_path=".status",
            ),
            Rule(
                f"!{_GRANTED} || self.spec.count == oldSelf.spec.count",
                "count cannot be changed once the lease is granted; create a new lease instead",
                field_path=".spec.count",
                reason=_FORBIDDEN,
            ),
            Rule(
                f"!{_GRANTED} || (has(self.spec.tenant) == has(oldSelf.spec.tenant)"
                " && (!has(self.spec.tenant) || self.spec.tenant == oldSelf.spec.tenant))",
                "tenant cannot be changed once the lease is granted; create a new lease instead",
                field_path=".spec.tenant",
                reason=_FORBIDDEN,
            ),
            Rule(
                f"!{_GRANTED} || self.spec.placement == oldSelf.spec.placement",
                "placement cannot be changed once the lease is granted; create a new lease instead",
                field_path=".spec.placement",
                reason=_FORBIDDEN,
            ),
            Rule(
                f"!{_GRANTED} || self.spec.resources == oldSelf.spec.resources"
                " || (size(self.spec.resources) == size(oldSelf.spec.resources)"
                " && self.spec.resources.all(name, name in oldSelf.spec.resources"
                f" && {at_most('self.spec.resources[name]', 'oldSelf.spec.resources[name]')}))",
                "once the lease is granted its resources may only shrink: the same names, each at most"
                " what it was",
                field_path=".spec.resources",
                reason=_FORBIDDEN,
            ),
        )
    )

    info: ClassVar[KindInfo] = KindInfo(
        kind=names.LEASE_KIND,
        plural=names.LEASE_PLURAL,
        short_names=("clease",),
        namespaced=True,
        columns=(
            Column("Pool", ".spec.poolRef.name", description="The pool it borrows from."),
            Column("Holder", ".spec.holder.identity", description="Who uses it."),
            Column(
                "Ready",
                '.status.conditions[?(@.type=="Ready")].status',
                description="Whether it may be used now.",
            ),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', description="Why, or why not."),
            # Not of type date: that prints the time since, which for a time to come is "<invalid>".
            Column(
                "Expires",
                ".status.deadlines.expirationTime",
                description="When its term ends unless renewed.",
            ),
            AGE,
        ),
        selectable_fields=(
            ".spec.poolRef.name",
            ".spec.parentRef.name",
            ".spec.holder.identity",
            ".status.phase",
        ),
    )

    kind: Literal["CapacityLease"] = "CapacityLease"
    spec: LeaseSpec = Field(description="What is asked for, and whether it is still wanted.")
    status: LeaseStatus | None = Field(default=None, description="What the operator decided.")
