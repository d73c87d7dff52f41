"""What a router decides on: what tasks need, and what is known of every target at one instant.

Amounts are whole units: millicores for cpu, base units for everything else. Instants are ms of
`leasehold.sdk.clock`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from leasehold.sdk.router.circuit import Circuit

Amounts = Mapping[str, int]

QUOTE_AGE = 5_000
"""How long what a pool said about a start is believed (ms)."""
QUOTE_USES = 8
LOOK_AGE = 2_000
"""How long what a pool's status said is believed (ms)."""
SETTLED = 3_000
"""How long a task waits at a target before it may go where it starts at once (ms)."""
LOOK_PATIENCE = 1_000
"""How long a task waits for a look at a pool before it does without (ms)."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a task asks for: one slice by resource, and how many. Hashable, as quotes are kept by need.

    `terms` is whatever else bears on when it can start (how long, where), in any hashable form.
    """

    slice: tuple[tuple[str, int], ...]
    count: int = 1
    terms: tuple[object, ...] = ()

    @classmethod
    def of(cls, count: int = 1, **amounts: int) -> Need:
        """Return a need of so many slices."""
        return cls(tuple(sorted(amounts.items())), count)

    def total(self, resource: str) -> int:
        """Return how much of a resource all slices are together."""
        return self.count * dict(self.slice).get(resource, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request for a lease.

    `excluded` are the targets that will not serve it, `avoid` those where it lost a lease before: others are tried
    first. `tag` is its place in the line.
    """

    id: int
    need: Need
    task_class: str = ""
    sticky: str | None = None
    excluded: frozenset[str] = frozenset()
    avoid: frozenset[str] = frozenset()
    tag: int = 0

    @property
    def kind(self) -> tuple[object, ...]:
        """What a decision about it depends on: two of a kind are decided alike."""
        return self.need, self.task_class, self.sticky, self.excluded, self.avoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a pool's status said: whether it grants, what it could lend, lends and has free, and how many wait."""

    ready: bool
    reason: str = ""
    allocatable: Amounts = field(default_factory=dict)
    allocated: Amounts = field(default_factory=dict)
    free: Amounts = field(default_factory=dict)
    largest_free: Amounts = field(default_factory=dict)
    pending: int = 0


@dataclass(frozen=True, slots=True)
class Quote:
    """When a pool said a need could start: an instant, or None where it could not say.

    `asked` is when that was. It is good for so many `uses`: each task that goes there makes it less true.
    """

    start: int | None
    asked: int
    uses: int = QUOTE_USES

    def believed(self, now: int) -> bool:
        """Tell whether it is worth anything still."""
        return self.uses > 0 and now < self.asked + QUOTE_AGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known of a target: a pool, reached by one client.

    `figures` is None where the pool cannot be read; `looked` is when it was last tried, and `looking` since when that
    is under way; `answered` says whether the last look was answered, and `broken` that there is no such pool, or no way
    in, so that waiting will not mend it. `starting` and `running` count this router's own tasks there, and `assumed` is
    what those of them take that the figures do not show yet.
    """

    name: str
    weight: int = 1
    limit: int | None = None
    figures: Figures | None = None
    answered: bool = True
    broken: bool = False
    looked: int | None = None
    looking: int | None = None
    circuit: Circuit = field(default_factory=Circuit)
    starting: int = 0
    running: int = 0
    assumed: Amounts = field(default_factory=dict)
    quotes: Mapping[Need, Quote] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether the pool grants leases, as far as is known."""
        return self.answered and not self.broken and (self.figures is None or self.figures.ready)

    @property
    def full(self) -> bool:
        """Whether this router has as many tasks there as it may have."""
        return self.limit is not None and self.starting + self.running >= self.limit

    def usable(self, now: int) -> bool:
        """Tell whether a task may go there now, if it is not full."""
        return self.healthy and self.circuit.permits(now)

    def stale(self, now: int) -> bool:
        """Tell whether it must be looked at before anything rests on its figures."""
        return self.looked is None or self.looked + LOOK_AGE <= now

    def slow(self, now: int) -> bool:
        """Tell whether a look takes so long that nobody should wait for it."""
        return self.looking is not None and self.looking + LOOK_PATIENCE <= now


@dataclass(frozen=True, slots=True)
class Asking:
    """A task that has asked a target and is not served yet.

    `since` is when it asked. `stuck` says that nobody has answered it for too long, or that the pool has no node for
    it: better elsewhere.
    """

    task: Task
    target: str
    since: int = 0
    stuck: bool = False
