"""The line of a router: who waits, in which order, and how many may be under way at once.

Classes share fairly by start-time fair queueing (Goyal, Vin and Cheng, 1996): every task gets a tag when it comes, from
where the line stands and from the last tag of its class plus one part of its weight, and the smallest tag goes first.
A later task of any class is tagged no lower than where the line stands, so only a bounded number can go before one that
waits. A task that goes back into the line keeps its tag.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from leasehold.sdk.router.facts import Task

_SCALE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskClass:
    """A class of tasks.

    Args:
        limit: how many of them may hold or ask for a lease at once; None: as many as the router may.
        weight: its share of the turns while several classes wait, from 1 to 1000.
    """

    limit: int | None = None
    weight: int = 1

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"a class may have a limit of 1 or more, not {self.limit}")
        if not 1 <= self.weight <= 1000:
            raise ValueError(f"a class has a weight from 1 to 1000, not {self.weight}")


class Line:
    """Those that wait and those under way."""

    def __init__(self, limit: int, classes: Mapping[str, TaskClass]) -> None:
        self.limit = limit
        self.classes = classes
        self._order: list[tuple[int, int]] = []
        self._waiting: dict[int, Task] = {}
        self._under_way: dict[int, Task] = {}
        self._count: Counter[str] = Counter()
        self._stands = 0
        self._last: dict[str, int] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._order)

    @property
    def under_way(self) -> int:
        """How many have left the line and have not ended."""
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """Whether as many are under way as may be."""
        return len(self._under_way) >= self.limit

    def count(self, task_class: str) -> int:
        """Return how many of a class are under way."""
        return self._count[task_class]

    def may_start(self, task_class: str) -> bool:
        """Tell whether the bounds allow one more of a class."""
        limit = self.classes[task_class].limit
        return not self.full and (limit is None or self._count[task_class] < limit)

    def add(self, task: Task) -> Task:
        """Put a task into the line, behind those of its class; return it with its tag."""
        step = _SCALE // self.classes[task.task_class].weight
        last = self._last.get(task.task_class)
        tag = self._stands if last is None else max(self._stands, last + step)
        self._last[task.task_class] = tag
        tagged = replace(task, tag=tag)
        self._put(tagged)
        return tagged

    def turns(self) -> Iterator[Task]:
        """Go through those that wait in the order of their turns; tasks may leave meanwhile."""
        for _, name in tuple(self._order):
            task = self._waiting.get(name)
            if task is not None:
                yield task

    def started(self, task: Task) -> None:
        """Take a task out of the line: it is under way."""
        self._take(task)
        self._under_way[task.id] = task
        self._count[task.task_class] += 1
        self._stands = max(self._stands, task.tag)

    def back(self, task: Task) -> None:
        """Put a task that was under way back to its place; `task` may say more than before, not another tag."""
        self.left(task)
        self._put(task)

    def left(self, task: Task) -> None:
        """Forget a task, wherever it is. What is not there has left already."""
        if task.id in self._waiting:
            self._take(task)
        elif self._under_way.pop(task.id, None) is not None:
            self._count[task.task_class] -= 1

    def _put(self, task: Task) -> None:
        self._waiting[task.id] = task
        insort(self._order, (task.tag, task.id))

    def _take(self, task: Task) -> None:
        del self._waiting[task.id]
        del self._order[bisect_left(self._order, (task.tag, task.id))]
