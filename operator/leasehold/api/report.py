"""NodeReport: what one node really has, as the reporter on it measures."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from leasehold.api import names
from leasehold.api.meta import (
    AGE,
    INT32_MAX,
    NAME_LENGTH,
    UID_LENGTH,
    UNIQUE,
    Amount,
    Column,
    Condition,
    Count,
    KindInfo,
    Model,
    Resource,
    Rule,
    Serial,
    Timestamp,
    choice,
    keyed_by,
    nested,
    rules,
)
from leasehold.api.names import Presence, ReportState

MAX_LEASES: Final = 256
"""Most leases one node can be asked about."""

MAX_PODS: Final = 512
"""Most pods one node can be asked about. A kubelet runs 110 unless told otherwise; the rest have ended."""

MAX_FIGURES: Final = 32

LeaseUID = Annotated[str, Field(min_length=1, max_length=UID_LENGTH)]
Permille = Annotated[int, Field(ge=0, le=1000)]


class LeasePod(Model):
    """A pod that belongs to a lease. Its cgroups count as the lease's."""

    uid: str = Field(min_length=1, max_length=UID_LENGTH, description="The pod's metadata.uid.")
    lease_uid: LeaseUID = Field(
        validation_alias="leaseUID",
        serialization_alias="leaseUID",
        description="The metadata.uid of its lease. One that spec.leaseUIDs does not name is passed over.",
    )


class ReportSpec(Model):
    """What the operator and the administrator ask of the reporter."""

    report_period_seconds: int = Field(
        default=5,
        ge=1,
        le=300,
        description="How often the reporter looks, in seconds. It writes only when a figure moved or 300 s"
        " have passed.",
    )
    window_seconds: int = Field(
        default=300, ge=60, le=3600, description="How far back p95 and max reach, in seconds."
    )
    state: ReportState = Field(
        default=ReportState.ACTIVE, description=choice(ReportState, "Whether the node lends.")
    )
    lease_uids: list[LeaseUID] | None = Field(
        default=None,
        validation_alias="leaseUIDs",
        serialization_alias="leaseUIDs",
        max_length=MAX_LEASES,
        json_schema_extra=UNIQUE,
        description="The leases whose presence and use the reporter is to tell, by metadata.uid. Kept by"
        " the operator.",
    )
    pods: list[LeasePod] | None = Field(
        default=None,
        max_length=MAX_PODS,
        json_schema_extra=keyed_by("uid"),
        description="The pods on this node that belong to these leases, those that have ended included until"
        " their lease is over. Kept by the operator.",
    )


class Usage(Model):
    """Measured use of one resource on the node."""

    name: str = Field(
        min_length=1, max_length=NAME_LENGTH, description="The resource: cpu, memory, ephemeral-storage."
    )
    current: Amount = Field(description="Use at the last look.")
    trend: Amount | None = Field(default=None, description="Exponentially weighted mean of about 5 seconds.")
    p90: Amount | None = Field(default=None, description="90th percentile of the last 60 seconds.")
    p95: Amount | None = Field(default=None, description="95th percentile of the window.")
    max: Amount | None = Field(default=None, description="Largest use in the window.")
    unmanaged: Amount | None = Field(default=None, description="Use by everything outside leases.")


class Pressure(Model):
    """Time lost waiting for one resource: the kernel's pressure stall information, averaged over 60 s."""

    name: Literal["cpu", "memory", "io"] = Field(description="What was waited for: cpu, memory or io.")
    some60_permille: Permille = Field(description="Share of time in which some task waited, in thousandths.")
    full60_permille: Permille = Field(description="Share of time in which every task waited, in thousandths.")


class Filesystem(Model):
    """One filesystem of the node."""

    name: str = Field(min_length=1, max_length=NAME_LENGTH, description="What it holds: nodefs, imagefs.")
    capacity: Amount = Field(description="Its size in bytes.")
    available: Amount = Field(description="Bytes that ordinary users can still write.")
    inodes: Serial | None = Field(
        default=None, description="Inodes in all. Absent where the filesystem has no fixed number."
    )
    inodes_free: Serial | None = Field(default=None, description="Inodes not in use.")


class MemoryFigures(Model):
    """Memory, by the definitions that matter."""

    available: Amount | None = Field(
        default=None, description="MemAvailable: what can be had without swapping, by the kernel's estimate."
    )
    working_set: Amount | None = Field(
        default=None,
        description="What the kubelet counts as used, and evicts by: use less inactive file cache.",
    )
    pcp_cached: Amount | None = Field(
        default=None, description="Free pages in per-CPU lists, which MemFree leaves out."
    )


class SwapFigures(Model):
    """Swap space."""

    total: Amount = Field(description="Bytes of swap.")
    used: Amount = Field(description="Bytes of swap in use.")


class Load(Model):
    """The load average, in thousandths."""

    load1_milli: Count = Field(description="Over one minute.")
    load5_milli: Count = Field(description="Over five minutes.")
    load15_milli: Count = Field(description="Over fifteen minutes.")


class AgentFigures(Model):
    """What the reporter itself costs."""

    cpu_micro_per_second: Count = Field(description="CPU time it takes, in microseconds per second.")
    resident_bytes: Serial = Field(description="Memory it keeps resident, in bytes.")


class LeaseUsage(Model):
    """One lease, as seen on this node."""

    uid: LeaseUID = Field(description="The lease's metadata.uid.")
    state: Presence = Field(description=choice(Presence, "Whether its workload is here."))
    cpu: Amount | None = Field(default=None, description="CPU it uses.")
    memory: Amount | None = Field(default=None, description="Memory it uses.")


class ReportStatus(Model):
    """What the reporter saw. Written by the reporter on this node only."""

    observed_generation: Serial | None = Field(
        default=None,
        description="The metadata.generation of the spec that the last reading followed. Older than the object's:"
        " what is asked now is not answered yet.",
    )
    boot_id: str | None = Field(
        default=None,
        validation_alias="bootID",
        serialization_alias="bootID",
        max_length=64,
        description="The kernel's boot ID. Another one means the node was restarted and nothing of before"
        " runs.",
    )
    agent_version: str | None = Field(default=None, max_length=64, description="Version of the reporter.")
    report_time: Timestamp | None = Field(
        default=None, description="When this was written, by the node's clock."
    )
    sequence: Serial | None = Field(
        default=None, description="Raised with every report; starts again with another bootID."
    )
    clock_offset_milliseconds: int | None = Field(
        default=None,
        ge=-INT32_MAX,
        le=INT32_MAX,
        description="How far the node's clock is ahead of the API server's, in milliseconds.",
    )
    capacity: dict[str, Amount] | None = Field(
        default=None, max_length=MAX_FIGURES, description="What the node has, as the reporter reads it."
    )
    usage: list[Usage] | None = Field(
        default=None,
        max_length=MAX_FIGURES,
        json_schema_extra=keyed_by("name"),
        description="Measured use, by resource.",
    )
    pressure: list[Pressure] | None = Field(
        default=None,
        max_length=3,
        json_schema_extra=keyed_by("name"),
        description="Time lost waiting. Absent where the kernel does not tell.",
    )
    filesystems: list[Filesystem] | None = Field(
        default=None,
        max_length=16,
        json_schema_extra=keyed_by("name"),
        description="Filesystems, by what they hold.",
    )
    memory: MemoryFigures | None = Field(default=None, description="Memory, by the definitions that matter.")
    swap: SwapFigures | None = Field(default=None, description="Swap space. Absent where there is none.")
    load: Load | None = Field(default=None, description="The load average.")
    steal_permille: Permille | None = Field(
        default=None, description="CPU time taken by other virtual machines on the same host, in thousandths."
    )
    agent: AgentFigures | None = Field(default=None, description="What the reporter itself costs.")
    leases: list[LeaseUsage] | None = Field(
        default=None,
        max_length=MAX_LEASES,
        json_schema_extra=keyed_by("uid"),
        description="The leases of spec.leaseUIDs, as seen here.",
    )
    conditions: list[Condition] | None = Field(
        default=None,
        max_length=8,
        json_schema_extra=keyed_by("type"),
        description="Ready, ClockSynced, DiskPressure and AgentDegraded.",
    )


def _usage_path(resource: str) -> str:
    return f'.status.usage[?(@.name=="{resource}")].p90'


class NodeReport(Resource):
    """What one node really has and uses, as the reporter on it measures. Its name is the node's.

    Created by the reporter and owned by the Node, so it goes with it. Pools take capacity from here.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(oldSelf.status) || !has(oldSelf.status.bootID) || !has(oldSelf.status.sequence)"
                " || (has(self.status) && has(self.status.bootID) && has(self.status.sequence)"
                " && (self.status.bootID != oldSelf.status.bootID"
                " || self.status.sequence >= oldSelf.status.sequence))",
                "within one bootID the sequence never falls: an older report cannot replace a newer one",
                field_path=".status",
            )
        )
    )

    info: ClassVar[KindInfo] = KindInfo(
        kind=names.REPORT_KIND,
        plural=names.REPORT_PLURAL,
        short_names=("nreport",),
        namespaced=False,
        columns=(
            Column(
                "Ready",
                '.status.conditions[?(@.type=="Ready")].status',
                description="Whether figures are current.",
            ),
            Column("CPU", _usage_path(names.CPU), description="CPU in use: 90th percentile of a minute."),
            Column(
                "Memory", _usage_path(names.MEMORY), description="Memory in use: 90th percentile of a minute."
            ),
            Column("Report", ".status.reportTime", "date", description="Time since the last report."),
            Column("Sequence", ".status.sequence", "integer", 1, "Number of the last report."),
            AGE,
        ),
    )

    kind: Literal["NodeReport"] = "NodeReport"
    spec: ReportSpec = nested(ReportSpec, "What is asked of the reporter.")
    status: ReportStatus | None = Field(default=None, description="What the reporter saw.")
