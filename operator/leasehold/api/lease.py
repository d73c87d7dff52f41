"""CapacityLease: capacity asked for, granted, kept alive and given back."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from leasehold.api import names
from leasehold.api.meta import (
    AGE,
    MAX_RESOURCES,
    MAX_SLICES,
    NAME_LENGTH,
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
)
from leasehold.api.names import (
    DeadlineCause,
    DesiredState,
    LeaseCondition,
    LeasePhase,
    Liveness,
    PlacementMode,
)
from leasehold.api.pool import YEAR, LabelValue

HIGHEST_PRIORITY: Final = 1_000_000_000
MAX_REJECTIONS: Final = 16

_FORBIDDEN: Final = "FieldValueForbidden"


class PoolRef(Model):
    """The pool to borrow from."""

    name: str = Field(min_length=1, max_length=NAME_LENGTH, description="Name of a CapacityPool.")


class SessionRef(Model):
    """A session of the holder."""

    name: str = Field(
        min_length=1,
        max_length=NAME_LENGTH,
        description="Name of a coordination.k8s.io Lease in this namespace that carries the label"
        " leasehold.dev/session.",
    )


class Holder(Model):
    """Who uses the capacity."""

    identity: str | None = Field(
        default=None,
        min_length=1,
        max_length=NAME_LENGTH,
        description="A name for people and dashboards: a user, a job, a host. Never checked.",
    )
    session_ref: SessionRef | None = Field(
        default=None,
        description="The session whose renewals keep this lease alive. Required with liveness Session; one"
        " session"
        " serves any number of leases.",
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


class LeaseSpec(Model):
    """What is asked for, and whether it is still wanted."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.liveness) || self.liveness != 'Session' || (has(self.holder) &&"
                " has(self.holder.sessionRef))",
                "liveness Session needs holder.sessionRef: the coordination.k8s.io Lease that the holder"
                " renews",
                field_path=".liveness",
            ),
            Rule(
                "!has(oldSelf.desiredState) || oldSelf.desiredState != 'Released'"
                " || (has(self.desiredState) && self.desiredState == 'Released')",
                "desiredState Released is final; create a new lease instead",
                field_path=".desiredState",
                reason=_FORBIDDEN,
            ),
        )
    )

    pool_ref: PoolRef = Field(
        json_schema_extra=rules(
            Rule(
                "self == oldSelf",
                "the pool of a lease cannot be changed; create a new lease instead",
                reason=_FORBIDDEN,
            )
        ),
        description="The pool to borrow from. Cannot be changed.",
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
        " Once granted it may only shrink, and what is given up is free at once.",
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
        description="Higher is granted sooner, before age. Held leases are never taken away for a higher"
        " priority.",
    )
    holder: Holder | None = Field(
        default=None, description="Who uses the capacity. Cannot be changed once granted."
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
    renew_time: TimeText | None = Field(
        default=None,
        description="Write the current time here to renew: any change of the text is one request for a new"
        " term, and"
        " one heartbeat. The value itself is never compared with a clock.",
    )
    desired_state: DesiredState = Field(
        default=DesiredState.HELD, description=choice(DesiredState, "What the holder wants.")
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

    claim_time: Timestamp | None = Field(default=None, description="The holder must show up before.")
    heartbeat_time: Timestamp | None = Field(default=None, description="The next heartbeat must come before.")
    expiration_time: Timestamp | None = Field(default=None, description="The term ends. Renewal moves it.")
    max_expiration_time: Timestamp | None = Field(
        default=None, description="No renewal reaches further: the pool's maxTotalSeconds from the grant."
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


class LeaseStatus(Model):
    """What the operator decided. Written by the operator only."""

    # One pass over the old conditions: these rules run on every status write.
    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(oldSelf.conditions) || oldSelf.conditions.all(old, old.status != 'True'"
                " || !(old.type in ['Finished', 'Released']) || (has(self.conditions)"
                " && self.conditions.exists(new, new.type == old.type && new.status == 'True')))",
                "Finished=True and Released=True are final: the capacity may have been granted to another"
                " lease",
                field_path=".conditions",
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
        default=None, description=f"{', '.join(LeaseCondition)}: all from the operator's first visit on."
    )
    fencing_token: Serial | None = Field(
        default=None,
        description="Larger with every grant in the pool. Give it to what the lease protects, which"
        " refuses any token"
        " smaller than the largest it has seen.",
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
    release: Release | None = Field(default=None, description="How the lease ends.")


_GRANTED: Final = "has(oldSelf.status) && has(oldSelf.status.allocation)"


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
                "!has(oldSelf.status) || (has(self.status)"
                " && (!has(oldSelf.status.allocation) || has(self.status.allocation))"
                " && (!has(oldSelf.status.fencingToken) || (has(self.status.fencingToken)"
                " && self.status.fencingToken >= oldSelf.status.fencingToken)))",
                "status, its allocation and its fencingToken cannot be removed, and the token never falls",
                field_path=".status",
            ),
            Rule(
                f"!({_GRANTED}) || self.spec.count == oldSelf.spec.count",
                "count cannot be changed once the lease is granted; create a new lease instead",
                field_path=".spec.count",
                reason=_FORBIDDEN,
            ),
            Rule(
                f"!({_GRANTED}) || (has(self.spec.holder) == has(oldSelf.spec.holder)"
                " && (!has(self.spec.holder) || self.spec.holder == oldSelf.spec.holder))",
                "holder cannot be changed once the lease is granted; create a new lease instead",
                field_path=".spec.holder",
                reason=_FORBIDDEN,
            ),
            Rule(
                f"!({_GRANTED}) || self.spec.placement == oldSelf.spec.placement",
                "placement cannot be changed once the lease is granted; create a new lease instead",
                field_path=".spec.placement",
                reason=_FORBIDDEN,
            ),
            Rule(
                f"!({_GRANTED}) || self.spec.resources == oldSelf.spec.resources"
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
        selectable_fields=(".spec.poolRef.name", ".spec.holder.identity", ".status.phase"),
    )

    kind: Literal["CapacityLease"] = "CapacityLease"
    spec: LeaseSpec = Field(description="What is asked for, and whether it is still wanted.")
    status: LeaseStatus | None = Field(default=None, description="What the operator decided.")
