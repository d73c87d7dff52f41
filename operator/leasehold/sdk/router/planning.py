"""One pass of a router: who of the line goes where now, whom to ask first, and when to look again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from leasehold.core.times import earliest
from leasehold.sdk.router.choosing import Ask, GiveUp, Look, Mode, Start, Wait, decide, starts_now
from leasehold.sdk.router.facts import LOOK_AGE, SETTLED, Asking, Facts, Need, Quote, Task
from leasehold.sdk.router.line import Line


@dataclass(slots=True)
class Plan:
    """What to do: tasks to start, to take back from where they wait, to give up; pools to look at, and to ask when they
    could start a need; and when to decide anew.

    `waits` says why those that stay in the line do, by their kind; whom it does not name, the bounds hold back that
    are the same for all.
    """

    starts: list[tuple[Task, Start]] = field(default_factory=list)
    moves: list[Task] = field(default_factory=list)
    looks: set[str] = field(default_factory=set)
    questions: set[tuple[str, Need]] = field(default_factory=set)
    gives_up: list[tuple[Task, str]] = field(default_factory=list)
    waits: dict[tuple[object, ...], str] = field(default_factory=dict)
    wake_at: int | None = None


def plan(
    line: Line, targets: Mapping[str, Facts], mode: Mode, now: int, asking: Iterable[Asking] = ()
) -> Plan:
    """Go through the line once. `line` and `targets` are left as they are.

    What a task takes is assumed for those behind it. Who cannot go does not keep others from going: it is looked at
    first again as soon as something changes. Who waits at a target that went out of use is taken back if another would
    have it now; with its old tag it is then among the first.
    """
    found = Plan()
    known = dict(targets)
    room = _Room(line)
    for task in line.turns():
        if room.left <= 0 or all(target.full for target in known.values()):
            break  # a long line is not gone through for nothing
        if task.kind in found.waits:
            continue  # starts only take room: who could not go a moment ago cannot go now
        why = room.lacks(task)
        decision = Wait(None, why) if why else decide(task, tuple(known.values()), mode, now)
        if isinstance(decision, Start):
            found.starts.append((task, decision))
            known[decision.target] = after_start(known[decision.target], task, now)
            room.take(task)
        elif isinstance(decision, GiveUp):
            found.gives_up.append((task, decision.why))
        else:
            _note(found, task, decision)
    for one in asking:
        _reconsider(found, one, known, mode, now)
    return found


def _note(found: Plan, task: Task, decision: Look | Ask | Wait) -> None:
    """Note what a task that stays in the line waits for."""
    if isinstance(decision, Look):
        found.looks |= {*decision.targets}
        found.wake_at = earliest(found.wake_at, decision.until)
        found.waits[task.kind] = "its pools are looked at"
    elif isinstance(decision, Ask):
        found.questions |= {(name, task.need) for name in decision.targets}
        found.waits[task.kind] = "its pools are asked when they could start it"
    else:
        found.wake_at = earliest(found.wake_at, decision.until)
        found.waits[task.kind] = decision.why


def _reconsider(found: Plan, one: Asking, known: dict[str, Facts], mode: Mode, now: int) -> None:
    """Keep an eye on the pool where a task waits; take the task back if it is better off elsewhere.

    That is so where its target went out of use, and where another would start it at once: an estimate is an estimate.
    One with a key stays as long as its target is in use.
    """
    here = known[one.target]
    permitted = here.circuit.permits(now) or here.circuit.trial == one.task.id
    in_use = here.healthy and permitted
    if not permitted:
        pause = here.circuit.until if here.circuit.until > now else None
        found.wake_at = earliest(found.wake_at, pause)
    elif here.stale(now):
        found.looks.add(one.target)
    elif here.looked is not None and here.looking is None:
        found.wake_at = earliest(found.wake_at, here.looked + LOOK_AGE)
    leaves = one.stuck or not in_use
    if not leaves and (one.task.sticky is not None or now < one.since + SETTLED):
        return
    elsewhere = replace(one.task, excluded=one.task.excluded | {one.target})
    decision = decide(elsewhere, tuple(known.values()), mode, now)
    if isinstance(decision, Start):
        if leaves or starts_now(one.task.need, known[decision.target]):
            found.moves.append(one.task)
            known[decision.target] = after_start(known[decision.target], one.task, now)
    elif isinstance(decision, Look):
        found.looks |= {*decision.targets}
    elif leaves and isinstance(decision, Ask):
        found.questions |= {(name, one.task.need) for name in decision.targets}
    elif isinstance(decision, Wait):
        found.wake_at = earliest(found.wake_at, decision.until)


def after_start(target: Facts, task: Task, now: int) -> Facts:
    """Return what is known of a target once a task was sent there."""
    taken = {name: task.need.count * amount for name, amount in task.need.slice}
    names = {*taken, *target.assumed}
    quotes = target.quotes
    if task.need in quotes:
        quotes = {**quotes, task.need: used(quotes[task.need])}
    return replace(
        target,
        quotes=quotes,
        starting=target.starting + 1,
        circuit=target.circuit.started(task.id, now),
        assumed={name: target.assumed.get(name, 0) + taken.get(name, 0) for name in names},
    )


def used(quote: Quote) -> Quote:
    """Return what is left of a quote once one more task went there."""
    return replace(quote, uses=quote.uses - 1)


class _Room:
    """What the bounds of the line leave, during one pass."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.left = line.limit - line.under_way
        self.started: dict[str, int] = {}

    def lacks(self, task: Task) -> str:
        """Return which bound keeps a task from going, or ""."""
        limit = self.line.classes[task.task_class].limit
        running = self.line.count(task.task_class) + self.started.get(task.task_class, 0)
        if limit is not None and running >= limit:
            return f"{limit} tasks of class {task.task_class!r} are under way, as many as may be"
        return ""

    def take(self, task: Task) -> None:
        self.left -= 1
        self.started[task.task_class] = self.started.get(task.task_class, 0) + 1
