"""Every name on the wire, in one place: group and kinds, labels, enum values, condition types and reasons.

Standard library only, so that the hot path imports it without pydantic. Members are ``str``: they compare,
hash and serialise as the text itself. ``member.meaning`` is the sentence for people, printed in the
reference.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

GROUP: Final = "leasehold.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "leasehold"

POOL_KIND: Final = "CapacityPool"
POOL_PLURAL: Final = "capacitypools"
LEASE_KIND: Final = "CapacityLease"
LEASE_PLURAL: Final = "capacityleases"
REPORT_KIND: Final = "NodeReport"
REPORT_PLURAL: Final = "nodereports"

RELEASE_FINALIZER: Final = "leasehold.dev/release"
"""Holds a deleted CapacityLease until its capacity is given back."""

SESSION_LABEL: Final = "leasehold.dev/session"
"""Marks the coordination.k8s.io Leases that are sessions; no others are watched. The value is free."""

REVOKE_ANNOTATION: Final = "leasehold.dev/revoke"
"""On a CapacityLease: an administrator takes it back; the value is the reason shown to its holder."""

FORCE_RELEASE_ANNOTATION: Final = "leasehold.dev/force-release"
"""On a CapacityLease: ``"true"`` frees its capacity without the word of a node that is gone."""

FORCE_RELEASE_VALUE: Final = "true"

CLIENT_LABEL: Final = "leasehold.dev/client"
"""On a CapacityLease and on a session: the client of the SDK that looks after it; its value is the session's name."""

REQUEST_ANNOTATION: Final = "leasehold.dev/request"
"""On a CapacityLease that was asked for with a key: a digest of what was asked for."""

LEASE_LABEL: Final = "leasehold.dev/lease"
"""On a Pod: the name of the CapacityLease in its namespace that it runs under."""

LEASE_GATE: Final = "leasehold.dev/lease"
"""The scheduling gate of a Pod whose lease does not hold its room yet."""

SLICE_ANNOTATION: Final = "leasehold.dev/slice"
"""On a Pod that was let go: the slice it was given, as ``<lease uid>/<slice index>``."""

ENDING_ANNOTATION: Final = "leasehold.dev/lease-ending"
"""On a Pod whose lease will end: when, and why."""

PLACEHOLDER_LABEL: Final = "leasehold.dev/placeholder"
"""On a Pod that the operator made to hold room: the uid of the lease that it is held for."""

PLACEHOLDER_ANNOTATION: Final = "leasehold.dev/placeholder-of"
"""On the same: the lease's ``namespace/name``."""

POD_CONDITION: Final = "leasehold.dev/Leased"
"""A condition in a Pod's status: whether it runs within its lease. Reasons: ``PodReason``."""

POOL_TAINT: Final = "leasehold.dev/pool"
"""The taint on the nodes of a dedicated pool; its value is the pool's name, its effect NoSchedule."""

KUEUE_CONTROLLER: Final = "leasehold.dev/lease"
"""In a Kueue AdmissionCheck's `spec.controllerName`: its Workloads wait for leases."""

KUEUE_WORKLOAD_LABEL: Final = "leasehold.dev/kueue-workload"
"""On a CapacityLease that was made for a Kueue Workload: the Workload's uid."""

KUEUE_GROUP: Final = "kueue.x-k8s.io"
KUEUE_API_VERSION: Final = f"{KUEUE_GROUP}/v1beta2"

CPU: Final = "cpu"
MEMORY: Final = "memory"
EPHEMERAL_STORAGE: Final = "ephemeral-storage"


class Named(StrEnum):
    """A text used on the wire, with the sentence that explains it."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """Make the member equal to its text and keep the sentence beside it."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class ConditionStatus(Named):
    """The three answers of a metav1.Condition."""

    TRUE = "True", "yes"
    FALSE = "False", "no"
    UNKNOWN = "Unknown", "cannot be told now"


# --- Values of fields ---


class SelectorOperator(Named):
    """How one label is compared."""

    IN = "In", "the label's value is one of values"
    NOT_IN = "NotIn", "the label is absent, or its value is none of values"
    EXISTS = "Exists", "the label is there, whatever its value"
    DOES_NOT_EXIST = "DoesNotExist", "the label is absent"


class CapacitySource(Named):
    """Where a pool takes a node's total from."""

    MEASURED = (
        "Measured",
        "what the node can allocate, less what measured use outside leases needs",
    )
    ALLOCATABLE = "Allocatable", "what the Node object says it can allocate, whatever is in use"
    FIXED = "Fixed", "the same figure, fixedQuantity, for every node"


class IdlePolicy(Named):
    """What happens to a lease that is held and not used."""

    OFF = "Off", "nothing"
    WARN = "Warn", "the condition ExpiringSoon says so"
    RELEASE = "Release", "the lease is ended after its grace period"


class ExpirationAction(Named):
    """What happens when a lease's term is over."""

    RELEASE = "Release", "the capacity is taken back"
    NOTIFY_ONLY = "NotifyOnly", "the condition ExpiringSoon says so and the lease stays held"


class Verification(Named):
    """Whose word frees the capacity of a lease that has ended."""

    NONE = "None", "the operator's own: the capacity is free at once"
    NODE_REPORT = "NodeReport", "each node's: its report must say that the lease's workload is gone"


class AccountingPolicy(Named):
    """What is written about a lease when it is over."""

    HELD = "Held", "how long it was held, and what was reserved"
    USED = "Used", "that, and what its workload used of it by the reports of its nodes"


class CapacityLossAction(Named):
    """What happens when leases hold more than the pool still has."""

    KEEP = "Keep", "held leases stay; nothing new is granted until the pool is within its capacity"
    REVOKE = (
        "Revoke",
        "the leases least wanted (lowest priority, then youngest) are revoked until the rest fits",
    )


class QueueStrategy(Named):
    """The order in which waiting leases are granted."""

    STRICT_FIFO = "StrictFIFO", "priority, then age; a lease that does not fit holds back all behind it"
    BEST_EFFORT_FIFO = "BestEffortFIFO", "priority, then age; a lease that does not fit is passed over"
    BACKFILL = (
        "Backfill",
        "priority, then age; the first lease that does not fit has the earliest start it can have reserved, and"
        " others may jump it only if they do not delay it",
    )


class Fairness(Named):
    """What ranks the tenants of a pool."""

    DOMINANT_SHARE = (
        "DominantShare",
        "the largest share of any resource that a tenant holds, divided by its weight; the lowest goes first",
    )
    DOMINANT_SHARE_AND_WASTE = (
        "DominantShareAndWaste",
        "the same, and what a tenant held and did not use counts too",
    )


class PromiseConflictAction(Named):
    """What happens to a renewal that would run into a promised start."""

    CUT = "Cut", "the new term ends where the promise begins"
    REFUSE = "Refuse", "there is no new term"


class WithinTenant(Named):
    """Whether a lease may take room from leases of its own tenant."""

    NEVER = "Never", "no lease is ended for another of its tenant"
    LOWER_PRIORITY = "LowerPriority", "leases of lower priority are ended for one that does not fit"


class Borrowers(Named):
    """Whether a tenant may take back what others borrowed of its guarantee."""

    NEVER = "Never", "what is borrowed stays until its lease ends"
    RECLAIM = (
        "Reclaim",
        "leases of tenants above their guarantee are ended for a tenant that stays within its own",
    )


class PlacementStrategy(Named):
    """Which of the nodes that fit is taken first."""

    BEST_FIT = "BestFit", "the node that keeps the least room, so that large leases still find a whole node"
    SPREAD = "Spread", "the node with the largest share still free"
    LEAST_USED = "LeastUsed", "the node with the lowest measured use"
    FIRST_FIT = "FirstFit", "the first node by name"


class StalePolicy(Named):
    """What a node without a fresh report may still give."""

    HOLD = "Hold", "nothing new; what it holds stays held"
    IGNORE = "Ignore", "as much as the last figures say; with no report yet, what the node can allocate"


class StopPolicy(Named):
    """An administrator's brake on a pool."""

    NONE = "None", "the pool works"
    HOLD = "Hold", "nothing new is granted; held leases stay and renew"
    HOLD_AND_DRAIN = (
        "HoldAndDrain",
        "nothing new is granted and held leases are revoked after their grace period",
    )


class EnforcementMode(Named):
    """Whether pods are held to their leases."""

    ADVISORY = "Advisory", "no: the pool keeps books, and its holders keep to them"
    GATE = (
        "Gate",
        "yes: a pod that names a lease (label leasehold.dev/lease) waits until the lease holds its room, runs on the"
        " lease's nodes and within what it holds, and is evicted when it ends; what other pods request on the nodes is"
        " not lent",
    )
    PLACEHOLDER = (
        "Placeholder",
        "as Gate, and what a lease holds and its pods do not use yet is held by pods that do nothing, against every"
        " other pod",
    )


class NodeTaintPolicy(Named):
    """Whether a pool keeps its nodes to itself."""

    NONE = "None", "no: any pod may run there"
    DEDICATED = (
        "Dedicated",
        "yes: they carry the taint leasehold.dev/pool=NAME:NoSchedule, which pods of leases tolerate",
    )


class StrayPodAction(Named):
    """What happens to a new pod whose lease is over."""

    WAIT = "Wait", "it stays gated, and an Event says why"
    FAIL = (
        "Fail",
        "it fails at once, with the reason; pods of ReplicaSets, StatefulSets and DaemonSets wait all the same, because"
        " they would be made anew without end",
    )


class PodCompletionAction(Named):
    """What happens to a lease whose pods have all finished."""

    KEEP = "Keep", "nothing: it can be used again until its term ends"
    RELEASE = "Release", "it is given back"


class PlacementMode(Named):
    """How the slices of one lease lie on nodes."""

    ANY = "Any", "anywhere, several on one node if need be"
    SAME_NODE = "SameNode", "all on one node"
    SAME_DOMAIN = "SameDomain", "all on nodes with one value of the label topologyKey"
    DISTINCT_NODES = "DistinctNodes", "each on a node of its own"


class Liveness(Named):
    """How a holder shows that it is alive."""

    NONE = "None", "not at all: only the end of the term, a release or an idle policy ends the lease"
    RENEW = "Renew", "by changing spec.renewTime of the lease"
    SESSION = "Session", "by renewing one coordination.k8s.io Lease, which serves all leases of that holder"


class DesiredState(Named):
    """What the holder wants of its lease."""

    HELD = "Held", "to get it and to keep it"
    RELEASED = "Released", "to give it back; there is no way back to Held"


class LeaseMode(Named):
    """Whether a lease asks for capacity or for an answer."""

    RESERVE = "Reserve", "capacity"
    DRY_RUN = (
        "DryRun",
        "an answer in the status: where, when and at whose cost it would be granted; nothing is committed",
    )


class CounterOfferKind(Named):
    """What could be had instead of what was asked for."""

    SMALLER = "Smaller", "less of it, now"
    OTHER_POOL = "OtherPool", "the same from another pool"
    LATER = "Later", "the same, from a later time on"


class ReportState(Named):
    """Whether a node may lend."""

    ACTIVE = "Active", "the node lends what it has"
    EXCLUDED = "Excluded", "the node gets no new leases; what it holds stays held"


class Presence(Named):
    """What a node says of a lease it was asked about."""

    PRESENT = "Present", "its workload runs on the node"
    GONE = "Gone", "none of its workload is left on the node"


class LeasePhase(Named):
    """One word for people, derived from the conditions. No code may decide by it."""

    PENDING = "Pending", "waiting for capacity"
    SCHEDULED = "Scheduled", "promised; it starts at status.reservation.startTime"
    BOUND = "Bound", "granted, and its holder has not shown up yet"
    ACTIVE = "Active", "granted and in use"
    DRAINING = "Draining", "ending; its holder has until status.deadlines.revocationTime"
    RELEASING = "Releasing", "over; its capacity waits for the cool-down or for the node's word"
    QUARANTINED = "Quarantined", "over; a node did not confirm in time, so its capacity is kept aside"
    RELEASED = "Released", "given back by its holder"
    EXPIRED = "Expired", "ended by time, silence or idleness"
    REVOKED = "Revoked", "taken back"
    FAILED = "Failed", "can never be granted"
    DRY_RUN_COMPLETE = "DryRunComplete", "the question of a lease with mode DryRun is answered"


class DeadlineCause(Named):
    """What happens at ``status.deadlines.next``."""

    START = "Start", "the promised start"
    CLAIM = "Claim", "the holder must have shown up"
    HEARTBEAT = "Heartbeat", "the holder must have renewed"
    EXPIRATION = "Expiration", "the term ends"
    MAXIMUM = "Maximum", "the longest time the pool gives to one lease ends"
    WARNING = "Warning", "ExpiringSoon becomes True"
    REVOCATION = "Revocation", "the grace period is over and the capacity is taken back"
    VERIFICATION = "Verification", "nodes must have confirmed that the workload is gone"
    COOLDOWN = "Cooldown", "the capacity becomes free for others"


# --- Condition types and reasons ---


class LeaseCondition(Named):
    """Condition types of a CapacityLease; all are there from the operator's first visit on."""

    READY = (
        "Ready",
        "the holder may use the capacity now; when False, the reason is that of the condition in the way",
    )
    ACCEPTED = "Accepted", "the request is one the pool's policy allows"
    ALLOCATED = "Allocated", "the capacity is committed to this lease"
    CLAIMED = "Claimed", "the holder has shown up"
    HOLDER_LIVE = "HolderLive", "the holder's heartbeat is fresh"
    EXPIRING_SOON = (
        "ExpiringSoon",
        "the lease ends within one of the pool's warning times unless it is renewed",
    )
    DISRUPTION_TARGET = (
        "DisruptionTarget",
        "the lease is being ended; finish before status.deadlines.revocationTime",
    )
    DEGRADED = "Degraded", "granted, but one of its nodes is in trouble"
    RELEASED = "Released", "the capacity is given back and counts no more"
    FINISHED = "Finished", "over for good; the object is removed ttlSecondsAfterFinished later"


class LeaseReason(Named):
    """Reasons of a CapacityLease's conditions. ``LEASE_REASONS`` says which belongs to which condition."""

    # Ready
    HELD = "Held", "The capacity is yours until status.deadlines.expirationTime."

    # Accepted
    POOL_CHOSEN = (
        "PoolChosen",
        "One of the pools of spec.poolSelector was chosen; the message says which and why.",
    )
    POOL_NOT_FOUND = "PoolNotFound", "No such pool. Correct spec.poolRef.name, or create the pool."
    NO_MATCHING_POOL = (
        "NoMatchingPool",
        "No pool that spec.poolSelector matches can lend this. Correct its labels, or ask for less.",
    )
    NAMESPACE_NOT_ALLOWED = (
        "NamespaceNotAllowed",
        "The namespace is in no tenant of the pool, or not in the one of spec.tenant. Correct spec.tenant, or ask"
        " the pool's administrator.",
    )
    TENANT_AMBIGUOUS = (
        "TenantAmbiguous",
        "The namespace is in several tenants of the pool. Name one of them in spec.tenant.",
    )
    EXCEEDS_TENANT_LIMIT = (
        "ExceedsTenantLimit",
        "It is more than its tenant may ever hold. Ask for less.",
    )
    DURATION_TOO_LONG = (
        "DurationTooLong",
        "Longer than the pool's maxDurationSeconds. Ask for less, and renew.",
    )
    EXCEEDS_POOL_MAXIMUM = (
        "ExceedsPoolMaximum",
        "A slice is larger than the pool allows. Ask for smaller slices.",
    )
    UNIT_VIOLATION = "UnitViolation", "A slice is below the pool's minimum or not a multiple of its step."
    RESOURCE_NOT_OFFERED = (
        "ResourceNotOffered",
        "The pool does not lend one of the resources. Use one that does.",
    )
    QUEUE_FULL = "QueueFull", "The pool's queue is at maxPending. Try again later, or use another pool."
    PARENT_NOT_FOUND = (
        "ParentNotFound",
        "There is no lease of the name in spec.parentRef in this namespace. Create it, or correct the name in a new"
        " lease.",
    )
    PARENT_IN_OTHER_POOL = (
        "ParentInOtherPool",
        "The parent borrows from another pool than spec.poolRef. Leave out poolRef in a new lease.",
    )
    PARENT_IS_CHILD = (
        "ParentIsChild",
        "The parent is a sub-lease itself, and those have no children. Name the parent's parent in a new lease.",
    )
    EXCEEDS_PARENT = "ExceedsParent", "It is more than its parent holds in all. Ask for less."

    # Allocated
    GRANTED = "Granted", "The capacity was committed to this lease."
    ADOPTED = "Adopted", "A new leader found the commitment half done and completed it."
    PENDING_EVALUATION = "PendingEvaluation", "The operator has not decided yet."
    WAITING_FOR_CAPACITY = "WaitingForCapacity", "Not enough is free. It is granted when others give back."
    WAITING_FOR_FRESH_REPORTS = (
        "WaitingForFreshReports",
        "Nodes that would fit have no fresh report. See NodeReports.",
    )
    BLOCKED_BY_HEAD = (
        "BlockedByHead",
        "An earlier lease waits, and the pool lets none past it (StrictFIFO), or none that would delay it"
        " (Backfill).",
    )
    WAITING_FOR_QUOTA = (
        "WaitingForQuota",
        "Its tenant is at its limit. It is granted when leases of the tenant give back.",
    )
    WAITING_FOR_VICTIMS = (
        "WaitingForVictims",
        "Leases are being ended to make room; it is granted when they have given back.",
    )
    WAITING_FOR_FAIR_SHARE = (
        "WaitingForFairShare",
        "Another tenant waits below its guarantee; until it is served nobody may borrow.",
    )
    START_TIME_NOT_REACHED = "StartTimeNotReached", "It starts at spec.startTime, which is still to come."
    ROOM_PROMISED = (
        "RoomPromised",
        "It fits now, but the room is promised to others before it would end. Ask for a shorter term.",
    )
    DRY_RUN = "DryRun", "Only an answer was asked for; nothing is committed."
    NO_MATCHING_NODES = (
        "NoMatchingNodes",
        "No node of the pool matches spec.placement. Correct the labels asked for.",
    )
    FRAGMENTED = "Fragmented", "Enough is free in all, but not on nodes as spec.placement wants it."
    POOL_HELD = "PoolHeld", "An administrator holds the pool (stopPolicy). Ask them."
    POOL_NOT_READY = "PoolNotReady", "The pool cannot grant now; its own conditions say why."
    LEDGER_INCONSISTENT = (
        "LedgerInconsistent",
        "The pool's books do not agree with its leases; no grants until they do.",
    )
    PARENT_NOT_READY = (
        "ParentNotReady",
        "The parent is not held yet, or is ending; its own conditions say why.",
    )
    PARENT_FULL = (
        "ParentFull",
        "Other sub-leases or pods of the parent use what it needs. It is granted when they give back.",
    )

    # Claimed
    HOLDER_RENEWED = "HolderRenewed", "The holder renewed the lease."
    SESSION_LIVE = "SessionLive", "The holder's session is being renewed."
    WAITING_FOR_HOLDER = "WaitingForHolder", "Granted; renew before status.deadlines.claimTime or lose it."
    CLAIM_TIMEOUT = "ClaimTimeout", "The holder did not show up in time."
    POD_BOUND = "PodBound", "A pod of the lease was bound to one of its nodes."
    CHILD_GRANTED = "SubLeaseGranted", "A sub-lease was granted out of the lease."
    WAITING_FOR_PODS = (
        "WaitingForPods",
        "Granted; start a pod with the label leasehold.dev/lease before status.deadlines.claimTime or lose it.",
    )

    # HolderLive
    FRESH = "Fresh", "The last heartbeat is recent."
    MISSED = "Missed", "No heartbeat within the pool's heartbeatTimeoutSeconds."
    SESSION_GONE = (
        "SessionGone",
        "The session named in spec.holder.sessionRef does not exist or has no session label.",
    )
    NOT_REQUIRED = "NotRequired", "Not asked of this lease."
    OPERATOR_RECOVERING = (
        "OperatorRecovering",
        "The operator was away; it gives every holder a full timeout to report.",
    )

    # ExpiringSoon
    EXPIRATION = "Expiration", "The term ends soon. Renew, or finish."
    MAXIMUM = (
        "Maximum",
        "The longest time it may be held ends soon (maxExpirationTime). It cannot be renewed further.",
    )
    IDLE = "Idle", "The capacity is hardly used. Use it or give it back."
    PROMISED_START = (
        "PromisedStart",
        "The room is promised to another lease from then on. It cannot be renewed further.",
    )
    CLAIM = "Claim", "The holder has not shown up and the claim deadline is near."
    HEARTBEAT = "Heartbeat", "The heartbeat is late and its deadline is near."
    NOT_SOON = "NotSoon", "No end is near."

    # DisruptionTarget
    TERM_ENDED = "TermEnded", "The term and its grace are over."
    MAXIMUM_REACHED = (
        "MaximumReached",
        "The lease was held as long as it may be (status.deadlines.maxExpirationTime).",
    )
    HEARTBEAT_LOST = "HeartbeatLost", "The holder stopped renewing."
    POOL_DRAINING = "PoolDraining", "An administrator drains the pool, or deletes it."
    NODE_LOST = "NodeLost", "One of its nodes was deleted, or not ready for the pool's nodeLossSeconds."
    CAPACITY_LOST = "CapacityLost", "The pool shrank below what is held."
    PREEMPTED = "Preempted", "A lease of higher priority of the same tenant needs the room."
    TENANT_RECLAIM = "TenantReclaim", "The tenant it borrowed from needs its guarantee."
    START_DEADLINE_EXCEEDED = (
        "StartDeadlineExceeded",
        "It was not granted within spec.startDeadlineSeconds. Ask again, with more time or for less.",
    )
    ADMIN_REVOKED = "AdminRevoked", "An administrator revoked it; the message carries their reason."
    RELEASE_REQUESTED = "ReleaseRequested", "The holder gave it back, or deleted it."
    PODS_COMPLETE = "PodsComplete", "All its pods have finished (spec.podCompletionAction)."
    NAMESPACE_GONE = "NamespaceGone", "The lease's namespace is being deleted."
    PARENT_ENDED = "ParentEnded", "The lease it is a part of ends, or has ended."
    NOT_TARGETED = "NotTargeted", "Nothing is ending this lease."

    # Degraded
    NODE_NOT_READY = "NodeNotReady", "A node is not ready."
    REPORT_STALE = "ReportStale", "A node's report is older than the pool's freshness allows."
    OVER_ALLOCATED = "OverAllocated", "A node holds more than it now has."
    USAGE_ABOVE_GRANT = "UsageAboveGrant", "The workload uses more than the lease holds."
    ROOM_NOT_HELD = (
        "RoomNotHeld",
        "Its placeholder is not running: other pods may have taken the room, or a quota or a policy refuses it; the"
        " message says which.",
    )
    PODS_ABOVE_GRANT = (
        "PodsAboveGrant",
        "Its pods request more on a node than it holds there; what is too much is not lent to others.",
    )
    HELD_BY_CHILDREN = (
        "HeldByChildren",
        "It was asked to shrink below what its sub-leases hold. It shrinks when they have given enough back.",
    )
    HEALTHY = "Healthy", "Nothing is wrong."

    # Released
    VERIFIED = "Verified", "Every node confirmed that the workload is gone."
    FORCED = "Forced", "An administrator forced the release without the node's word."
    NODE_GONE = "NodeGone", "The node no longer exists, so nothing is left on it."
    DRAINING = "Draining", "The holder is finishing; the capacity still counts as held."
    COOLING_DOWN = (
        "CoolingDown",
        "Over; the capacity rests for the pool's cooldownSeconds before anyone gets it.",
    )
    VERIFICATION_PENDING = (
        "VerificationPending",
        "Over; waiting for the nodes to confirm that the workload is gone.",
    )
    PODS_LEAVING = (
        "PodsLeaving",
        "Over; its pods are being evicted, and its capacity counts until they are gone.",
    )
    CHILDREN_LEAVING = (
        "ChildrenLeaving",
        "Over; its sub-leases are being ended first, and its capacity counts until they have given back.",
    )
    QUARANTINED = "Quarantined", "A node did not confirm in time. Look at the node, or force the release."
    NOT_GRANTED = "NotGranted", "No capacity was committed, so there is none to give back."

    # Finished
    RELEASED = "Released", "Given back by its holder."
    EXPIRED = "Expired", "Ended by time, by silence of its holder, or by idleness."
    REVOKED = (
        "Revoked",
        "Taken back by an administrator, for another lease, or with a node, a namespace, or capacity that was lost.",
    )
    DRY_RUN_COMPLETE = "DryRunComplete", "The question was answered; see status.quote or status.counterOffer."
    FAILED = "Failed", "It can never be granted as it was asked for."
    IN_PROGRESS = "InProgress", "Not over."


class PodReason(Named):
    """Reasons of the condition leasehold.dev/Leased of a Pod, and of Events about it."""

    ADMITTED = "Admitted", "It was given a slice of its lease."
    NOT_ENFORCED = "NotEnforced", "The pool of its lease does not hold pods to leases (Advisory)."
    LEASE_NOT_FOUND = (
        "LeaseNotFound",
        "There is no CapacityLease of this name in the pod's namespace. Create it, or correct the label"
        " leasehold.dev/lease.",
    )
    LEASE_PENDING = "LeasePending", "Its lease waits for capacity; the lease's own conditions say why."
    LEASE_ENDED = "LeaseEnded", "Its lease is over or ending. Name one that is held."
    EXCEEDS_LEASE = (
        "ExceedsLease",
        "With the pods that are there it requests more than a slice of its lease holds. Request less, or wait for"
        " them to finish.",
    )
    NODES_EXCLUDED = (
        "NodesExcluded",
        "Its own nodeSelector or affinity excludes the nodes of its lease. Correct it, or place the lease by it"
        " (spec.placement.nodeSelector).",
    )
    OUTSIDE_LEASE = (
        "OutsideLease",
        "It runs where or how its lease did not let it: its gate was removed by somebody else, or its lease was made"
        " anew. It counts as a pod without a lease.",
    )
    LEASE_ENDING = "LeaseEnding", "Its lease will end; the pod is evicted then."
    EVICTED = "Evicted", "Its lease is over."
    EVICTION_REFUSED = (
        "EvictionRefused",
        "Its lease is over and its eviction was refused, mostly by a PodDisruptionBudget; it is deleted when the"
        " pool's evictionTimeoutSeconds have passed.",
    )
    DELETED = "Deleted", "Its lease is over, and its eviction was refused for too long."


class RejectionReason(Named):
    """Why nodes were passed over, in ``status.rejections`` of a waiting lease."""

    INSUFFICIENT = "Insufficient", "Too little is free; shortBy is what the best such node lacks."
    SELECTOR_MISMATCH = "SelectorMismatch", "The node's labels are not those of spec.placement."
    NODE_NOT_READY = "NodeNotReady", "The node is not ready, or is being deleted."
    NODE_CORDONED = "NodeCordoned", "The node is cordoned."
    NODE_CONFLICTING = (
        "NodeConflicting",
        "Two pools select the node, or leases of another pool still hold some of it; neither pool may lend it.",
    )
    NODE_JOINING = (
        "NodeJoining",
        "The node has just come to the pool; the replicas that lead other pools must hear of that first.",
    )
    NODE_EXCLUDED = "NodeExcluded", "The node's NodeReport has state Excluded."
    REPORT_MISSING = "ReportMissing", "The node has no report. Is the reporter running there?"
    REPORT_STALE = "ReportStale", "The node's last report is too old."
    REPORT_FROM_FUTURE = (
        "ReportFromFuture",
        "The node's last report is dated ahead of the operator's clock. Check the node's time service.",
    )
    PRESSURE_HIGH = (
        "PressureHigh",
        "Measured use passed the pool's highPercent and has not fallen to lowPercent yet.",
    )
    USAGE_HIGH = "UsageHigh", "Measured use is above the pool's placement.maxUsagePercent."
    COOLING_DOWN = "CoolingDown", "Room that ended leases gave back still rests there."
    OVER_ALLOCATED = "OverAllocated", "The node already holds more than it has."


class PoolCondition(Named):
    """Condition types of a CapacityPool."""

    READY = "Ready", "the pool grants leases"
    CAPACITY_KNOWN = "CapacityKnown", "every node of the pool has said what it has, and recently"
    OVERCOMMITTED = "Overcommitted", "leases hold more than the pool now has"
    LEDGER_CONSISTENT = (
        "LedgerConsistent",
        "the pool's books agree with its leases; while they do not, nothing is granted",
    )
    DRAINING = "Draining", "held leases are being revoked"
    DEGRADED = "Degraded", "some nodes cannot lend"
    TENANTS_VALID = (
        "TenantsValid",
        "the pool's tenants can be told apart, and what they are guaranteed is there",
    )


class PoolReason(Named):
    """Reasons of a CapacityPool's conditions. ``POOL_REASONS`` says which belongs to which condition."""

    # Ready
    SERVING = "Serving", "Leases are granted."
    POOL_HELD = "PoolHeld", "stopPolicy is Hold: nothing new is granted."
    POOL_DRAINING = "PoolDraining", "stopPolicy is HoldAndDrain, or the pool is being deleted."
    NO_NODES = "NoNodes", "No node matches nodeSelector."
    NO_GRANTABLE_NODES = "NoGrantableNodes", "No node of the pool can lend now; status.nodes says why."
    LEDGER_INCONSISTENT = "LedgerInconsistent", "The books do not agree with the leases."
    INVALID_SPEC = "InvalidSpec", "The spec cannot be read; the message names the field."
    RECOVERING = "Recovering", "A new leader is reading the leases before it decides."
    ENFORCEMENT_OFF = (
        "EnforcementOff",
        "spec.enforcement.mode is not Advisory, and the operator may not touch pods. Install it with"
        " enforcement.enabled=true, or set the mode to Advisory.",
    )

    # CapacityKnown
    ALL_REPORTED = "AllReported", "Every node has a fresh report, or needs none."
    REPORT_MISSING = "ReportMissing", "Some nodes have no report. Is the reporter running there?"
    REPORT_STALE = "ReportStale", "Some nodes' reports are too old."
    REPORT_FROM_FUTURE = (
        "ReportFromFuture",
        "Some nodes' reports are dated ahead of the operator's clock. Check the time service there.",
    )

    # Overcommitted
    CAPACITY_LOST = (
        "CapacityLost",
        "The nodes have less than is held; capacityLossAction says what happens now.",
    )
    WITHIN_CAPACITY = "WithinCapacity", "What is held fits."

    # LedgerConsistent
    CONSISTENT = "Consistent", "The last check agreed."
    MISMATCH = "Mismatch", "The last check did not agree; the message says where. Please report this."
    NOT_CHECKED = "NotChecked", "No check has run since this leader took over."

    # Draining
    STOP_POLICY = "StopPolicy", "stopPolicy is HoldAndDrain."
    POOL_DELETED = "PoolDeleted", "The pool is being deleted."
    NOT_DRAINING = "NotDraining", "Held leases stay."

    # Degraded
    NODES_NOT_READY = "NodesNotReady", "Some nodes are not ready."
    NODES_CONFLICTING = (
        "NodesConflicting",
        "Some nodes are selected by another pool too; neither may lend them.",
    )
    NODES_PRESSURED = "NodesPressured", "Some nodes are used too much to lend more."
    HEALTHY = "Healthy", "Nothing is wrong."

    # TenantsValid
    VALID = "Valid", "Every namespace is in one tenant at most, and all guarantees can be met together."
    TENANTS_OVERLAP = (
        "TenantsOverlap",
        "A namespace is in several tenants; the message names them. Correct their namespaceSelector, or name a tenant"
        " in each lease.",
    )
    GUARANTEES_EXCEED_CAPACITY = (
        "GuaranteesExceedCapacity",
        "The tenants are guaranteed more than the pool may lend; the message names the resource. Guarantee less,"
        " or add nodes.",
    )


class ReportCondition(Named):
    """Condition types of a NodeReport, as the reporter on that node sees them."""

    READY = "Ready", "the figures are complete and current"
    CLOCK_SYNCED = "ClockSynced", "the node's clock agrees with the API server's"
    DISK_PRESSURE = "DiskPressure", "a filesystem is nearly full"
    AGENT_DEGRADED = "AgentDegraded", "the reporter works, but not all of it"


class ReportReason(Named):
    """Reasons of a NodeReport's conditions. ``REPORT_REASONS`` says which belongs to which condition."""

    REPORTING = "Reporting", "Figures are being written."
    STARTING = "Starting", "The window is not filled yet."
    READ_FAILED = "ReadFailed", "The host could not be read; the message says what."
    SYNCED = "Synced", "The offset is small."
    SKEWED = (
        "Skewed",
        "The offset is large; status.clockOffsetMilliseconds says how large. Check the node's time service.",
    )
    NOT_MEASURED = "NotMeasured", "Nothing to compare with yet."
    SPACE_LOW = "SpaceLow", "Little space or few inodes are left; the message names the filesystem."
    SPACE_SUFFICIENT = "SpaceSufficient", "There is room."
    PARTIAL = "Partial", "Some figures are missing; the message says which."
    OVER_BUDGET = "OverBudget", "The reporter uses more of the node than it should."
    HEALTHY = "Healthy", "Nothing is wrong."


_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
_L, _P, _R = LeaseReason, PoolReason, ReportReason

LEASE_REASONS: Final[Mapping[LeaseCondition, Mapping[ConditionStatus, tuple[LeaseReason, ...]]]] = (
    MappingProxyType(
        {
            # Ready=False repeats the reason of the condition in the way.
            LeaseCondition.READY: {_TRUE: (_L.HELD,), _FALSE: ()},
            LeaseCondition.ACCEPTED: {
                _TRUE: (_L.POOL_CHOSEN,),
                _FALSE: (
                    _L.POOL_NOT_FOUND,
                    _L.NO_MATCHING_POOL,
                    _L.NAMESPACE_NOT_ALLOWED,
                    _L.TENANT_AMBIGUOUS,
                    _L.EXCEEDS_TENANT_LIMIT,
                    _L.DURATION_TOO_LONG,
                    _L.EXCEEDS_POOL_MAXIMUM,
                    _L.UNIT_VIOLATION,
                    _L.RESOURCE_NOT_OFFERED,
                    _L.QUEUE_FULL,
                    _L.PARENT_NOT_FOUND,
                    _L.PARENT_IN_OTHER_POOL,
                    _L.PARENT_IS_CHILD,
                    _L.EXCEEDS_PARENT,
                ),
            },
            LeaseCondition.ALLOCATED: {
                _TRUE: (_L.GRANTED, _L.ADOPTED),
                _FALSE: (
                    _L.PENDING_EVALUATION,
                    _L.WAITING_FOR_CAPACITY,
                    _L.WAITING_FOR_FRESH_REPORTS,
                    _L.BLOCKED_BY_HEAD,
                    _L.WAITING_FOR_QUOTA,
                    _L.WAITING_FOR_VICTIMS,
                    _L.WAITING_FOR_FAIR_SHARE,
                    _L.START_TIME_NOT_REACHED,
                    _L.ROOM_PROMISED,
                    _L.DRY_RUN,
                    _L.NO_MATCHING_NODES,
                    _L.FRAGMENTED,
                    _L.POOL_HELD,
                    _L.POOL_NOT_READY,
                    _L.LEDGER_INCONSISTENT,
                    _L.PARENT_NOT_READY,
                    _L.PARENT_FULL,
                ),
            },
            LeaseCondition.CLAIMED: {
                _TRUE: (_L.HOLDER_RENEWED, _L.SESSION_LIVE, _L.POD_BOUND, _L.CHILD_GRANTED),
                _FALSE: (_L.WAITING_FOR_HOLDER, _L.WAITING_FOR_PODS, _L.CLAIM_TIMEOUT),
                _UNKNOWN: (_L.NOT_REQUIRED,),
            },
            LeaseCondition.HOLDER_LIVE: {
                _TRUE: (_L.FRESH,),
                _FALSE: (_L.MISSED, _L.SESSION_GONE),
                _UNKNOWN: (_L.NOT_REQUIRED, _L.OPERATOR_RECOVERING),
            },
            LeaseCondition.EXPIRING_SOON: {
                _TRUE: (_L.EXPIRATION, _L.MAXIMUM, _L.IDLE, _L.PROMISED_START, _L.CLAIM, _L.HEARTBEAT),
                _FALSE: (_L.NOT_SOON,),
            },
            LeaseCondition.DISRUPTION_TARGET: {
                _TRUE: (
                    _L.TERM_ENDED,
                    _L.MAXIMUM_REACHED,
                    _L.CLAIM_TIMEOUT,
                    _L.HEARTBEAT_LOST,
                    _L.SESSION_GONE,
                    _L.IDLE,
                    _L.POOL_DRAINING,
                    _L.NODE_LOST,
                    _L.CAPACITY_LOST,
                    _L.PREEMPTED,
                    _L.TENANT_RECLAIM,
                    _L.START_DEADLINE_EXCEEDED,
                    _L.ADMIN_REVOKED,
                    _L.RELEASE_REQUESTED,
                    _L.PODS_COMPLETE,
                    _L.NAMESPACE_GONE,
                    _L.PARENT_ENDED,
                ),
                _FALSE: (_L.NOT_TARGETED,),
            },
            LeaseCondition.DEGRADED: {
                _TRUE: (
                    _L.NODE_NOT_READY,
                    _L.REPORT_STALE,
                    _L.OVER_ALLOCATED,
                    _L.USAGE_ABOVE_GRANT,
                    _L.PODS_ABOVE_GRANT,
                    _L.ROOM_NOT_HELD,
                    _L.HELD_BY_CHILDREN,
                ),
                _FALSE: (_L.HEALTHY,),
            },
            LeaseCondition.RELEASED: {
                _TRUE: (_L.VERIFIED, _L.NOT_REQUIRED, _L.FORCED, _L.NODE_GONE),
                _FALSE: (
                    _L.NOT_GRANTED,
                    _L.HELD,
                    _L.DRAINING,
                    _L.COOLING_DOWN,
                    _L.VERIFICATION_PENDING,
                    _L.PODS_LEAVING,
                    _L.CHILDREN_LEAVING,
                    _L.QUARANTINED,
                ),
            },
            LeaseCondition.FINISHED: {
                _TRUE: (_L.RELEASED, _L.EXPIRED, _L.REVOKED, _L.FAILED, _L.DRY_RUN_COMPLETE),
                _FALSE: (_L.IN_PROGRESS,),
            },
        }
    )
)
"""For each condition of a lease, the reasons each status may carry."""

POOL_REASONS: Final[Mapping[PoolCondition, Mapping[ConditionStatus, tuple[PoolReason, ...]]]] = (
    MappingProxyType(
        {
            PoolCondition.READY: {
                _TRUE: (_P.SERVING,),
                _FALSE: (
                    _P.NO_NODES,
                    _P.NO_GRANTABLE_NODES,
                    _P.POOL_HELD,
                    _P.POOL_DRAINING,
                    _P.LEDGER_INCONSISTENT,
                    _P.INVALID_SPEC,
                    _P.RECOVERING,
                    _P.ENFORCEMENT_OFF,
                ),
            },
            PoolCondition.CAPACITY_KNOWN: {
                _TRUE: (_P.ALL_REPORTED,),
                _FALSE: (_P.NO_NODES, _P.REPORT_MISSING, _P.REPORT_STALE, _P.REPORT_FROM_FUTURE),
            },
            PoolCondition.OVERCOMMITTED: {_TRUE: (_P.CAPACITY_LOST,), _FALSE: (_P.WITHIN_CAPACITY,)},
            PoolCondition.LEDGER_CONSISTENT: {
                _TRUE: (_P.CONSISTENT,),
                _FALSE: (_P.MISMATCH,),
                _UNKNOWN: (_P.NOT_CHECKED,),
            },
            PoolCondition.DRAINING: {_TRUE: (_P.STOP_POLICY, _P.POOL_DELETED), _FALSE: (_P.NOT_DRAINING,)},
            PoolCondition.DEGRADED: {
                _TRUE: (_P.NODES_NOT_READY, _P.NODES_CONFLICTING, _P.NODES_PRESSURED),
                _FALSE: (_P.HEALTHY,),
            },
            PoolCondition.TENANTS_VALID: {
                _TRUE: (_P.VALID,),
                _FALSE: (_P.TENANTS_OVERLAP, _P.GUARANTEES_EXCEED_CAPACITY),
            },
        }
    )
)
"""For each condition of a pool, the reasons each status may carry."""

REPORT_REASONS: Final[Mapping[ReportCondition, Mapping[ConditionStatus, tuple[ReportReason, ...]]]] = (
    MappingProxyType(
        {
            ReportCondition.READY: {_TRUE: (_R.REPORTING,), _FALSE: (_R.STARTING, _R.READ_FAILED)},
            ReportCondition.CLOCK_SYNCED: {
                _TRUE: (_R.SYNCED,),
                _FALSE: (_R.SKEWED,),
                _UNKNOWN: (_R.NOT_MEASURED,),
            },
            ReportCondition.DISK_PRESSURE: {_TRUE: (_R.SPACE_LOW,), _FALSE: (_R.SPACE_SUFFICIENT,)},
            ReportCondition.AGENT_DEGRADED: {_TRUE: (_R.PARTIAL, _R.OVER_BUDGET), _FALSE: (_R.HEALTHY,)},
        }
    )
)
"""For each condition of a report, the reasons each status may carry."""
