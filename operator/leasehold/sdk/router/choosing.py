"""Which target a task goes to: pure. Facts and `now` in; a choice, a question to ask first, or "wake me at" out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b

from leasehold.core.times import earliest
from leasehold.sdk.router.circuit import CircuitState
from leasehold.sdk.router.facts import LOOK_AGE, LOOK_PATIENCE, Facts, Need, Task

MILLION = 1_000_000
_LEVEL = 1_000
_LEVEL_PART = 5


class Mode(StrEnum):
    """How a router chooses among targets that would do."""

    EARLIEST = "earliest"
    """The earliest start; of those that start alike, the least loaded."""
    LEAST_LOADED = "least_loaded"
    """The least loaded, by what is lent and asked for against what can be lent."""
    SPREAD = "spread"
    """The one with the fewest tasks of this router for its weight."""
    STICKY = "sticky"
    """The one that the task's key has always had; another only while that is out of use."""


@dataclass(frozen=True, slots=True)
class Start:
    """Ask this target for the lease."""

    target: str
    why: str


@dataclass(frozen=True, slots=True)
class Look:
    """Look at these pools first; `until` is when to do without."""

    targets: tuple[str, ...]
    until: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask these targets first when they could start it."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now. `until` is when to decide anew at the latest; None: when something changes."""

    until: int | None
    why: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No target will serve it, however long it waits."""

    why: str


Decision = Start | Look | Ask | Wait | GiveUp


def decide(task: Task, targets: Sequence[Facts], mode: Mode, now: int) -> Decision:
    """Decide where a task goes.

    Never to a target whose circuit is open, whose pool says that it grants nothing, that refused the task or that has
    as many tasks as it may. A key in `task.sticky` counts in every mode.
    """
    willing = [target for target in targets if target.name not in task.excluded]
    if not willing:
        return GiveUp("every target has refused it" if targets else "there is no target")
    stale = [target for target in willing if target.circuit.permits(now) and target.stale(now)]
    waited_for = [target for target in stale if not target.slow(now)]
    if waited_for:
        since = min(now if target.looking is None else target.looking for target in waited_for)
        return Look(tuple(target.name for target in waited_for), since + LOOK_PATIENCE)
    willing = [target for target in willing if not target.broken or target.stale(now)]
    if not willing:
        return GiveUp("every target that has not refused it is misconfigured")
    usable = [target for target in willing if target.usable(now) and not target.stale(now)]
    if not usable:
        return _wait(willing, now)
    usable = [target for target in usable if target.name not in task.avoid] or usable
    if task.sticky is not None:
        usable = [max(usable, key=lambda target: affinity(task.sticky or "", target.name, target.weight))]
    room = [target for target in usable if not target.full]
    if not room:
        return Wait(None, f"{_names(usable)}: as many tasks as there may be")
    if len(room) == 1:
        return Start(room[0].name, "the only one in use" if task.sticky is None else "its key's own")
    return _CHOICES[mode](task.need, room, now)


@lru_cache(maxsize=65_536)
def affinity(key: str, target: str, weight: int = 1) -> float:
    """Return how much a target is a key's own: the one with the most is.

    Rendezvous hashing (Thaler and Ravishankar, 1998), with the logarithmic weights of Schindelhauer and Schomaker
    (2005): a target that goes takes only its own keys away, one that comes takes only its share.
    """
    digest = blake2b(f"{len(key)}:{key}{target}".encode(), digest_size=8).digest()
    drawn = (int.from_bytes(digest) + 1) / (2**64 + 1)
    return weight / -math.log(drawn) if drawn < 1.0 else math.inf


def starts_now(need: Need, target: Facts) -> bool:
    """Tell whether a target would start a need at once, by its pool's figures and what was sent there since."""
    figures = target.figures
    if figures is None or figures.pending > 0:
        return False
    return all(
        amount <= figures.largest_free.get(name, 0)
        and need.count * amount <= figures.free.get(name, 0) - target.assumed.get(name, 0)
        for name, amount in need.slice
    )


def could_hold(need: Need, target: Facts) -> bool:
    """Tell whether a pool is large enough at all, as far as is known."""
    figures = target.figures
    return figures is None or all(
        need.count * amount <= figures.allocatable.get(name, 0) for name, amount in need.slice
    )


def load(need: Need, target: Facts) -> int:
    """Return how much would be lent and asked for with it, against what can be lent, in millionths.

    Of the resource that would be scarcest. Leases that wait there and are not this router's count as if they were as
    large as this one. A pool that cannot be read counts as full.
    """
    figures = target.figures
    if figures is None:
        return MILLION
    others = max(0, figures.pending - target.starting)
    return max(
        (
            _part(
                figures.allocated.get(name, 0)
                + target.assumed.get(name, 0)
                + (others + 1) * need.count * amount,
                figures.allocatable.get(name, 0),
            )
            for name, amount in need.slice
        ),
        default=0,
    )


def _part(amount: int, whole: int) -> int:
    return MILLION * amount // whole if whole > 0 else MILLION * MILLION


def _earliest(need: Need, targets: Sequence[Facts], now: int) -> Decision:
    at_once = [target for target in targets if starts_now(need, target)]
    if at_once:
        return _least(need, at_once, "can start now")
    able = [target for target in targets if could_hold(need, target)] or list(targets)
    if len(able) == 1:
        return Start(able[0].name, "the only one large enough")
    quotes = {target.name: target.quotes.get(need) for target in able}
    unknown = tuple(name for name, quote in quotes.items() if quote is None or not quote.believed(now))
    if unknown:
        return Ask(unknown)
    starts = {
        name: max(quote.start, now)
        for name, quote in quotes.items()
        if quote is not None and quote.start is not None
    }
    if not starts:
        return _least(need, able, "no target can tell a start")
    first = min(starts.values())
    level = first + max(_LEVEL, (first - now) // _LEVEL_PART)
    return _least(
        need,
        [target for target in able if starts.get(target.name, level + 1) <= level],
        f"the earliest start, in {(first - now) / 1000:.0f} s",
    )


def _least_loaded(need: Need, targets: Sequence[Facts], now: int) -> Decision:
    return _least(need, [target for target in targets if could_hold(need, target)] or targets, "in use")


def _spread(need: Need, targets: Sequence[Facts], now: int) -> Decision:
    able = [target for target in targets if could_hold(need, target)] or targets
    found = min(
        able,
        key=lambda target: (
            (target.starting + target.running + 1) / target.weight,
            load(need, target),
            target.name,
        ),
    )
    return Start(found.name, "the fewest tasks for its weight")


def _least(need: Need, targets: Sequence[Facts], what: str) -> Start:
    found = min(targets, key=lambda target: (load(need, target), target.name))
    return Start(found.name, what if len(targets) == 1 else f"the least loaded of {len(targets)}: {what}")


# A mode of sticky keys has one target left by then, unless a task has no key: that goes where it starts first.
_CHOICES: dict[Mode, Callable[[Need, Sequence[Facts], int], Decision]] = {
    Mode.EARLIEST: _earliest,
    Mode.LEAST_LOADED: _least_loaded,
    Mode.SPREAD: _spread,
    Mode.STICKY: _earliest,
}


def _wait(targets: Sequence[Facts], now: int) -> Wait:
    said = "; ".join(f"{target.name} {_state(target, now)}" for target in targets)
    return Wait(earliest(*(_may_change(target, now) for target in targets)), f"no target is in use: {said}")


def _may_change(target: Facts, now: int) -> int | None:
    """Return when a target that is not in use is to be looked at again, None for when news of it comes."""
    if target.circuit.state(now) == CircuitState.OPEN:
        return target.circuit.until
    if target.looking is not None or target.looked is None or not target.circuit.permits(now):
        return None
    return target.looked + LOOK_AGE


def _state(target: Facts, now: int) -> str:
    if target.circuit.state(now) == CircuitState.OPEN:
        seconds = (target.circuit.until - now) / 1000
        return f"failed {target.circuit.failures} times, is left alone for {seconds:.1f} s"
    if target.slow(now) or not target.answered:
        return "does not answer"
    if not target.healthy and target.figures is not None:
        return f"grants nothing ({target.figures.reason or 'not ready'})"
    return "is being tried"


def _names(targets: Sequence[Facts]) -> str:
    return ", ".join(target.name for target in targets)
