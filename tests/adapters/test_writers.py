"""Turns to write: never more than allowed, grants and ends first, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from leasehold.adapters.writers import Writers


class Crowd:
    """Some who want a turn; each keeps it until told to leave."""

    def __init__(self, most: int) -> None:
        self.writers = Writers(most)
        self.entered: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def want(self, *names: str) -> None:
        """Names that begin with `w` are words."""
        for name in names:
            self.leave[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._have(name))
            await asyncio.sleep(0)

    async def _have(self, name: str) -> None:
        async with self.writers.turn(patient=name.startswith("w")):
            self.entered.append(name)
            await self.leave[name].wait()

    async def go(self, name: str) -> None:
        self.leave[name].set()
        await self.tasks[name]
        for _ in range(3):
            await asyncio.sleep(0)

    async def all_leave(self) -> list[str]:
        """Let everybody go in the order in which they come in, and return that order."""
        done = 0
        async with asyncio.timeout(5):
            while done < len(self.tasks):
                await self.go(self.entered[done])
                done += 1
        return self.entered


async def test_no_more_than_so_many_have_a_turn_at_once() -> None:
    crowd = Crowd(2)
    await crowd.want("a", "b", "c")
    assert crowd.entered == ["a", "b"]
    await crowd.go("a")
    assert crowd.entered == ["a", "b", "c"]
    await crowd.all_leave()


async def test_grants_go_before_words_and_every_fourth_turn_is_a_word() -> None:
    crowd = Crowd(1)
    await crowd.want("first", "w1", "w2", *(f"g{i}" for i in range(8)))
    assert await crowd.all_leave() == [
        *("first", "g0", "g1", "g2", "w1"),
        *("g3", "g4", "g5", "w2"),
        *("g6", "g7"),
    ]


async def test_who_gives_up_waiting_is_passed_over() -> None:
    crowd = Crowd(1)
    await crowd.want("a", "b", "c")
    crowd.tasks.pop("b").cancel()
    await asyncio.sleep(0)
    await crowd.go("a")
    assert crowd.entered == ["a", "c"]
    await crowd.go("c")
    await crowd.want("d")
    assert crowd.entered[-1] == "d"
    await crowd.go("d")


async def test_a_turn_that_comes_to_somebody_who_is_cancelled_goes_to_the_next() -> None:
    crowd = Crowd(1)
    await crowd.want("a", "b", "c")
    crowd.leave["a"].set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # now b has been given the turn, and has not run yet
    crowd.tasks.pop("b").cancel()
    for _ in range(4):
        await asyncio.sleep(0)
    assert "c" in crowd.entered
    await crowd.go("c")


async def test_a_turn_is_given_back_when_the_work_fails() -> None:
    writers = Writers(1)

    async def fail() -> None:
        async with writers.turn():
            raise ZeroDivisionError

    work: list[Coroutine[None, None, None]] = [fail(), fail()]
    for piece in work:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(piece, 1)
