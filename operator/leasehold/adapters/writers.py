"""How many requests may be under way at once, and who goes first when more want to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_IN_A_ROW = 3


class Writers:
    """So many at once. Grants and ends go before words to those who wait, of which every fourth turn is one.

    Words are many when much changes at once, and nobody waits for them; but a lease is not granted while a word to it
    is under way, so they must not wait for ever. For the same reason a pool has few of them here at once, waiting or
    under way: that bound is the planner's (`core.planning.TOLD`), because this one does not know leases.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._patient: deque[asyncio.Future[None]] = deque()
        self._passed_over = 0

    @asynccontextmanager
    async def turn(self, *, patient: bool = False) -> AsyncIterator[None]:
        """Wait for a turn and have it for the length of the block."""
        await self._enter(self._patient if patient else self._urgent)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, line: deque[asyncio.Future[None]]) -> None:
        if self._free:
            self._free -= 1
            return
        mine = asyncio.get_running_loop().create_future()
        line.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave()  # the turn had just come
            elif mine in line:
                line.remove(mine)
            raise

    def _leave(self) -> None:
        """Hand the turn to whoever is next; nobody enters while others stand in line."""
        while line := self._next():
            first = line.popleft()
            if not first.done():
                first.set_result(None)
                return
        self._free += 1

    def _next(self) -> deque[asyncio.Future[None]]:
        if self._patient and (not self._urgent or self._passed_over >= _IN_A_ROW):
            self._passed_over = 0
            return self._patient
        if self._patient:
            self._passed_over += 1
        return self._urgent
