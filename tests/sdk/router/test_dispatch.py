"""Requests of a router at its edges: its end, and a key that is used twice."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from leasehold.sdk import Client, KeyConflict, Misuse, PoolView, WaitTimeout
from leasehold.sdk.router import Router, Target


class Silent:
    """A client that answers nothing."""

    async def never(self, *_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    get = availability = quote = acquire = never


def router() -> Router:
    return Router([Target(cast("Client", Silent()), "ci")])


async def ask(one: Router) -> None:
    async with asyncio.timeout(20), one.lease(cpu=1, key="job"):
        raise AssertionError("nobody grants anything")


async def test_who_looks_for_its_key_when_the_router_closes_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("leasehold.sdk.router.dispatch._FIND_SECONDS", 0.1)
    async with router() as one:
        asking = asyncio.ensure_future(ask(one))
        await asyncio.sleep(0)
    with pytest.raises(Misuse, match="closed"):
        await asking


async def test_a_key_is_not_asked_for_twice_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leasehold.sdk.router.dispatch._FIND_SECONDS", 0.1)
    async with router() as one:
        first = asyncio.ensure_future(ask(one))
        await asyncio.sleep(0)
        with pytest.raises(KeyConflict, match="already"):
            await ask(one)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        again = asyncio.ensure_future(ask(one))
        await asyncio.sleep(0)
        assert not again.done(), "it may be used again"
    with pytest.raises(Misuse, match="closed"):
        await again


async def test_a_pool_whose_figures_cannot_be_read_is_not_stormed() -> None:
    asked = 0

    class Strange(Silent):
        async def availability(self, pool: str) -> PoolView:
            nonlocal asked
            asked += 1
            row = {"name": "cpu", "total": "a lot", "allocatable": "a lot", "free": "a lot"}
            ready = {"type": "Ready", "status": "True"}
            return PoolView.of(
                {"metadata": {"name": pool}, "status": {"capacity": [row], "conditions": [ready]}}
            )

    async with Router([Target(cast("Client", Strange()), "ci")]) as one:
        with pytest.raises(WaitTimeout):
            async with one.lease(cpu=1, timeout=1):
                raise AssertionError("nobody grants anything")
        assert 1 <= asked <= 3
        assert one.targets()[0].health == "Unreachable"
        assert "a lot" in one.targets()[0].message
