"""The circuit breaker of one target: who keeps failing is left alone for a while, then tried with one task.

Closed: in use. Open: left alone until an instant. Half-open: that instant has come, and one trial may go; how it ends
decides. Pauses double from opening to opening and are drawn at random from their upper half, so that routers that saw
the same failure do not come back together. All is a value: the time (ms) and the draw come in, a new circuit goes out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum


class Step(IntEnum):
    """What was tried. A failure is forgiven by a success at the same step or a later one.

    So a pool whose leases are lost does not look well because its status can be read.
    """

    LOOK = 1
    """Reading the pool."""
    ASK = 2
    """Asking for a lease: done once the pool took the request in, or granted it."""
    HOLD = 3
    """Holding a lease: done once it was given back, or held for a while."""


class CircuitState(StrEnum):
    """Whether a target is in use."""

    CLOSED = "Closed"
    OPEN = "Open"
    HALF_OPEN = "HalfOpen"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitRule:
    """When a target is left alone, and for how long.

    Args:
        failures: so many failures in a row open the circuit.
        first_pause: how long it is left alone at first, in seconds; at least half of it, by chance.
        longest_pause: no pause is longer, in seconds.
        soon: a lease that is lost within so many seconds of its grant counts as the target's failure; one that is held
            for so long, or given back before, as its success.
        silence: so does a request of which the operator has said nothing for so many seconds: is there one?
    """

    failures: int = 3
    first_pause: float = 1.0
    longest_pause: float = 60.0
    soon: float = 30.0
    silence: float = 20.0

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 < self.first_pause <= self.longest_pause:
            raise ValueError("a circuit needs failures >= 1 and 0 < first_pause <= longest_pause")
        if self.soon < 0 or self.silence <= 0:
            raise ValueError("a circuit needs soon >= 0 and silence > 0")

    def pause(self, openings: int, chance: float) -> int:
        """Return how long (ms) to leave a target alone that is opened so many times in a row; `chance` is in [0, 1]."""
        whole = min(self.longest_pause, self.first_pause * 2.0 ** min(openings - 1, 64))
        return round(whole * (500 + 500 * chance))


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """How a target has fared of late.

    `worst` is the latest step that failed and is not forgiven; `openings` how often in a row it was opened; `until`
    when it may be tried again; `trial` the task that tries it.
    """

    failures: int = 0
    worst: Step | None = None
    openings: int = 0
    until: int = 0
    trial: int | None = None

    def state(self, now: int) -> CircuitState:
        """Return whether the target is in use."""
        if not self.openings:
            return CircuitState.CLOSED
        return CircuitState.OPEN if now < self.until else CircuitState.HALF_OPEN

    def permits(self, now: int) -> bool:
        """Tell whether a task may go there now."""
        found = self.state(now)
        return found == CircuitState.CLOSED or (found == CircuitState.HALF_OPEN and self.trial is None)

    def started(self, task: int, now: int) -> Circuit:
        """Note that a task goes there: it is the trial, if one is due."""
        return replace(self, trial=task) if self.state(now) == CircuitState.HALF_OPEN else self

    def ended(self, task: int) -> Circuit:
        """Note that a task is no longer there. A trial that proved nothing lets the next one go."""
        return replace(self, trial=None) if self.trial == task else self

    def failed(
        self, step: Step, now: int, chance: float, rule: CircuitRule, task: int | None = None
    ) -> Circuit:
        """Note a failure of the target; never one of the task's own.

        While it is open, failures of tasks that went there before say nothing new. The trial's failure opens it for
        longer, and so does a look that fails when it may be tried again.
        """
        worst = max(step, self.worst or step)
        found = self.state(now)
        if found == CircuitState.OPEN:
            return replace(self.ended(task) if task is not None else self, worst=worst)
        if found == CircuitState.CLOSED and self.failures + 1 < rule.failures:
            return replace(self, failures=self.failures + 1, worst=worst)
        if found == CircuitState.HALF_OPEN and self.trial is not None and task != self.trial:
            return replace(self, worst=worst)
        openings = self.openings + 1
        return Circuit(
            failures=self.failures + 1,
            worst=worst,
            openings=openings,
            until=now + rule.pause(openings, chance),
        )

    def proved(self, step: Step, now: int, task: int | None = None) -> Circuit:
        """Note a success: it forgives failures at this step and earlier ones.

        What opened a circuit is forgiven only by what was begun after the pause: its trial, or a look.
        """
        if self.worst is None or step < self.worst:
            return self
        found = self.state(now)
        begun_since = step == Step.LOOK or task == self.trial
        if found == CircuitState.OPEN or (found == CircuitState.HALF_OPEN and not begun_since):
            return self
        return Circuit()
