"""Who holds a lease: what leases say, and the commitments in a pool's ledger."""

from pydantic import Field

from leasehold.api.meta import NAME_LENGTH, Model


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
