"""A clock that only grows, starts at the API server's time, and tells how far the wall moved away."""

from __future__ import annotations

import pytest

from leasehold.adapters.clock import SteadyClock


class Hands:
    def __init__(self) -> None:
        self.wall = 1000.0
        self.steady = 5.0

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.steady)


def test_it_starts_at_the_wall_and_runs_by_the_steady_one() -> None:
    hands = Hands()
    clock = hands.clock()
    assert clock.now() == 1_000_000
    hands.steady += 1.5
    assert clock.now() == 1_001_500


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_jump_of_the_wall_moves_nothing_and_is_told(jump: float) -> None:
    hands = Hands()
    clock = hands.clock()
    hands.wall += jump
    assert clock.now() == 1_000_000
    assert clock.drift() == jump * 1000


@pytest.mark.parametrize(
    ("server", "step", "now"),
    [
        (1_000_000, 0, 1_000_000),
        (999_000, 0, 1_000_000),
        (998_001, 0, 1_000_000),
        (997_000, 2_000, 998_000),
        (400_000, 599_000, 401_000),
        (1_001_000, 0, 1_000_000),
        (1_001_001, -1_001, 1_001_001),
        (2_000_000, -1_000_000, 2_000_000),
    ],
)
def test_it_starts_at_the_servers_time_where_it_is_off(server: int, step: int, now: int) -> None:
    clock = Hands().clock()
    assert clock.follow(server) == step
    assert clock.now() == now
