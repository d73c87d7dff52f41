"""How the webhook looks at the pools where none that it knows holds pods."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube.errors import Unknown
from leasehold.adapters.webhook import keeper as module
from leasehold.adapters.webhook.keeper import Webhook
from leasehold.adapters.webhook.server import CannotSay

HOLDS = {"spec": {"enforcement": {"mode": "Gate"}}}


class Pools:
    """What an API server knows of pools, and says when it is let go on."""

    def __init__(self) -> None:
        self.pools: list[dict[str, Any]] = []
        self.asked = 0
        self.goes_on = asyncio.Event()
        self.error: Exception | None = None

    async def list(self, _: object) -> tuple[list[dict[str, Any]], str]:
        self.asked += 1
        found = list(self.pools)
        await self.goes_on.wait()
        if self.error is not None:
            raise self.error
        return found, "1"

    def webhook(self) -> Webhook:
        return Webhook(self, SteadyClock(), "w", "n", ("127.0.0.1", 0), list)  # type: ignore[arg-type]


async def test_a_thousand_who_ask_at_once_cost_two_looks() -> None:
    pools = Pools()
    webhook = pools.webhook()
    asking = [asyncio.create_task(webhook._held()) for _ in range(500)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pools.asked == 1
    asking += [asyncio.create_task(webhook._held()) for _ in range(500)]
    await asyncio.sleep(0)
    pools.goes_on.set()
    assert not any(await asyncio.gather(*asking))
    assert pools.asked == 2
    assert not await webhook._held()
    assert pools.asked == 3


async def test_a_look_that_began_before_somebody_asked_is_not_theirs() -> None:
    """A pool may have been made since then."""
    pools = Pools()
    webhook = pools.webhook()
    before = asyncio.create_task(webhook._held())
    while not pools.asked:
        await asyncio.sleep(0)
    pools.pools = [HOLDS]
    after = asyncio.create_task(webhook._held())
    await asyncio.sleep(0)
    pools.goes_on.set()
    assert (await before, await after) == (False, True)


async def test_one_who_hangs_up_takes_nobodys_look_away() -> None:
    pools = Pools()
    pools.pools = [HOLDS]
    webhook = pools.webhook()
    first, second = (asyncio.create_task(webhook._held()) for _ in range(2))
    while not pools.asked:
        await asyncio.sleep(0)
    first.cancel()
    pools.goes_on.set()
    assert await second


@pytest.mark.parametrize("silent", [True, False])
async def test_where_there_is_no_answer_all_are_told_and_the_next_looks_anew(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.05 if silent else 20.0)
    pools = Pools()
    if not silent:
        pools.error = Unknown("gone")
        pools.goes_on.set()
    webhook = pools.webhook()
    said = await asyncio.gather(*(webhook._held() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, CannotSay) for each in said)
    assert str(said[0]) == f"pools cannot be read: {'no answer' if silent else 'gone'}"
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 20.0)
    pools.error, pools.pools = None, [HOLDS]
    pools.goes_on.set()
    assert await webhook._held()
