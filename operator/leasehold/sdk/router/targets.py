"""A target as its users name it, as its state is shown, and as the router knows it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from leasehold.api.quantity import amount
from leasehold.sdk.errors import LeaseholdError, Misuse
from leasehold.sdk.router.circuit import Circuit, CircuitRule, CircuitState, Step
from leasehold.sdk.router.facts import Facts, Figures, Need, Quote, Task
from leasehold.sdk.router.planning import used

if TYPE_CHECKING:
    from leasehold.sdk.client import Client
    from leasehold.sdk.views import PoolView

SHOWN = 1_500
"""A pool's figures show a grant after so long at the latest (ms): they are written a few times a second."""
_KEPT_QUOTES = 256


@dataclass(frozen=True, slots=True)
class Target:
    """A pool to which tasks may go, and the client that reaches it.

    Args:
        client: an open client; several targets may share one.
        pool: the name of the CapacityPool.
        name: what it is called here; the pool's name if none is given. Give names where two clusters have pools of the
            same name. Keys stick to names: keep them.
        namespace: where its leases are made; the client's if none is given.
        weight: its share of keys, and of tasks in the mode spread, from 1 to 1000.
        concurrency: how many tasks of the router it may have at once; None: as many as the router.
    """

    client: Client
    pool: str
    name: str = ""
    namespace: str | None = None
    weight: int = 1
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= 1000:
            raise Misuse(
                f"weight={self.weight!r} of target {self.pool}.", "Use a whole number from 1 to 1000."
            )
        if self.concurrency is not None and self.concurrency < 1:
            raise Misuse(
                f"concurrency={self.concurrency!r} of target {self.pool}.", "Use 1 or more, or None."
            )

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or self.pool


class Health(StrEnum):
    """Whether a target is in use."""

    HEALTHY = "Healthy"
    """Its pool grants leases, as far as is known."""
    SICK = "Sick"
    """Its pool says that it grants nothing; `reason` says why."""
    UNREACHABLE = "Unreachable"
    """It did not answer when it was last looked at, or does not while it is being looked at: no task is sent there."""
    FAILING = "Failing"
    """It failed several times in a row, and is left alone for `retry_in` seconds, or is being tried."""
    MISCONFIGURED = "Misconfigured"
    """There is no such pool, or the client cannot get in; `message` says what to correct."""
    UNKNOWN = "Unknown"
    """It was not looked at yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """What is known of a target, for people and status pages.

    `load` is what its pool lends of its scarcest resource, in hundredths. `waiting` and `running` count this router's
    tasks: those in the pool's queue, and those that hold a lease. `age` is how old `pool` is, in seconds.
    """

    name: str
    health: Health
    reason: str
    message: str
    circuit: CircuitState
    failures: int
    retry_in: float | None
    waiting: int
    running: int
    load: int | None
    pool: PoolView | None
    age: float | None


class Post:
    """One target, what is known of it, and which of the router's tasks are there."""

    def __init__(self, target: Target, rule: CircuitRule) -> None:
        self.target = target
        self.name = target.label
        self.rule = rule
        self.circuit = Circuit()
        self.view: PoolView | None = None
        self.figures: Figures | None = None
        self.answered = True
        self.broken: LeaseholdError | None = None
        self.looked: int | None = None
        self.seen: int | None = None
        self.looking: int | None = None
        self.look: asyncio.Task[None] | None = None
        self.last_error = ""
        self.quotes: dict[Need, Quote] = {}
        self.asking: dict[int, tuple[Task, int]] = {}
        self.running: dict[int, Task] = {}
        self._unseen: dict[int, tuple[Need, int | None]] = {}

    def facts(self) -> Facts:
        """Return what is known, as a value."""
        assumed: Counter[str] = Counter()
        for need, _ in self._unseen.values():
            for resource, units in need.slice:
                assumed[resource] += need.count * units
        return Facts(
            name=self.name,
            weight=self.target.weight,
            limit=self.target.concurrency,
            figures=self.figures,
            answered=self.answered,
            broken=self.broken is not None,
            looked=self.looked,
            looking=self.looking,
            circuit=self.circuit,
            starting=len(self.asking),
            running=len(self.running),
            assumed=assumed,
            quotes=dict(self.quotes),
        )

    @property
    def full(self) -> bool:
        """Whether it has as many tasks as it may have."""
        limit = self.target.concurrency
        return limit is not None and len(self.asking) + len(self.running) >= limit

    # --- tasks come and go ---

    def started(self, task: Task, now: int) -> None:
        """A task goes there."""
        self.circuit = self.circuit.started(task.id, now)
        self.asking[task.id] = task, now
        self._unseen[task.id] = task.need, None
        if task.need in self.quotes:
            self.quotes[task.need] = used(self.quotes[task.need])

    def granted(self, task: Task, now: int) -> None:
        """A task has its lease."""
        del self.asking[task.id]
        self.running[task.id] = task
        self._unseen[task.id] = task.need, now
        self.proved(Step.ASK, now, task.id)

    def left(self, task_id: int) -> None:
        """A task is no longer there."""
        self.asking.pop(task_id, None)
        self.running.pop(task_id, None)
        self._unseen.pop(task_id, None)
        self.circuit = self.circuit.ended(task_id)

    # --- how it fares ---

    def failed(self, step: Step, now: int, chance: float, task_id: int | None = None) -> None:
        """It failed."""
        self.circuit = self.circuit.failed(step, now, chance, self.rule, task_id)

    def proved(self, step: Step, now: int, task_id: int | None = None) -> None:
        """It did not."""
        self.circuit = self.circuit.proved(step, now, task_id)

    # --- what is seen of it ---

    def saw(self, view: PoolView, asked: int, now: int) -> None:
        """Its pool was read: what was granted well before that is in its figures."""
        self.view, self.figures = view, figures_of(view)
        self.looked, self.seen, self.answered, self.broken = now, asked, True, None
        self._unseen = {
            name: (need, granted)
            for name, (need, granted) in self._unseen.items()
            if granted is None or granted + SHOWN > asked
        }
        self.proved(Step.LOOK, now)
        if self.circuit.worst is None:
            self.last_error = ""

    def missed(self, error: str, now: int, chance: float) -> None:
        """Its pool could not be read."""
        self.looked, self.answered, self.last_error = now, False, error
        self.failed(Step.LOOK, now, chance)

    def hidden(self, error: str, until: int) -> None:
        """Its pool may not be read: it is used all the same, and looked at again then."""
        self.view, self.figures, self.broken = None, None, None
        self.looked, self.answered, self.last_error = until, True, error

    def out_of_order(self, error: LeaseholdError, now: int) -> None:
        """Somebody has to correct something before it can be used."""
        self.view, self.figures, self.broken = None, None, error
        self.looked, self.answered, self.last_error = now, True, str(error)

    def said(self, need: Need, quote: Quote) -> None:
        """It said when something could start."""
        if len(self.quotes) >= _KEPT_QUOTES:
            self.quotes = {kept: old for kept, old in self.quotes.items() if old.believed(quote.asked)}
        self.quotes[need] = quote

    def state(self, now: int) -> TargetState:
        """Return what people see."""
        circuit, view = self.circuit.state(now), self.view
        health, reason, message = self._health(circuit, now)
        return TargetState(
            name=self.name,
            health=health,
            reason=reason,
            message=message,
            circuit=circuit,
            failures=self.circuit.failures,
            retry_in=(self.circuit.until - now) / 1000 if circuit == CircuitState.OPEN else None,
            waiting=len(self.asking),
            running=len(self.running),
            load=_load(self.figures),
            pool=view,
            age=None if self.seen is None else (now - self.seen) / 1000,
        )

    def _health(self, circuit: CircuitState, now: int) -> tuple[Health, str, str]:
        view = self.view
        if self.broken is not None:
            return Health.MISCONFIGURED, type(self.broken).__name__, self.last_error
        if circuit != CircuitState.CLOSED:
            step = "" if self.circuit.worst is None else f"{self.circuit.worst.name.title()}Failed"
            return Health.FAILING, step, self.last_error
        if not self.answered:
            return Health.UNREACHABLE, "", self.last_error
        if self.looking is not None and (facts := self.facts()).slow(now) and facts.stale(now):
            return Health.UNREACHABLE, "", f"No answer for {(now - self.looking) / 1000:.1f} s."
        if self.looked is None:
            return Health.UNKNOWN, "", ""
        if view is None:
            return Health.HEALTHY, "", self.last_error
        return Health.HEALTHY if view.ready else Health.SICK, view.reason, view.message


def figures_of(view: PoolView) -> Figures:
    """Return a pool's figures in whole units."""

    def column(word: str) -> dict[str, int]:
        return {name: amount(name, getattr(row, word), round_up=False) for name, row in view.capacity.items()}

    return Figures(
        ready=view.ready,
        reason=view.reason,
        allocatable=column("allocatable"),
        allocated=column("allocated"),
        free=column("free"),
        largest_free=column("largest_free"),
        pending=view.pending,
    )


def _load(figures: Figures | None) -> int | None:
    if figures is None:
        return None
    shares = [
        100 * figures.allocated.get(name, 0) // whole
        for name, whole in figures.allocatable.items()
        if whole > 0
    ]
    return max(shares, default=0)
