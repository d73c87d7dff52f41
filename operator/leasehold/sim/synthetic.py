"""Leases that nobody asked for: a stream as long as wanted, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from leasehold.core.request import Request, Shape
from leasehold.core.times import SECOND
from leasehold.sim.job import Job
from leasehold.sim.pools import Pool
from leasehold.sim.problems import BadInput

_SIXTEENTHS: Final = (1, 1, 1, 2, 2, 4, 8)
_TERMS: Final = tuple(minutes * 60 * SECOND for minutes in (10, 30, 60, 60, 120, 240))
_OWNERS: Final = 12


def leases(count: int, pool: Pool, seed: int, load_percent: int) -> Iterator[Job]:
    """Yield leases that ask for so many percent of the pool on average, spread evenly over time.

    A lease asks for one to eight sixteenths of the pool's largest node, in each resource, for ten minutes to four
    hours, and gives back somewhere between a tenth of its term and all of it.
    """
    largest = [max(column) for column in zip(*pool.table.limits, strict=True)]
    if not all(amount >= 16 for amount in largest):
        raise BadInput("the nodes are too small to make up leases for; give larger ones with --nodes")
    chance = random.Random(seed)
    units = largest[pool.measured_in]
    mean_held = sum(_TERMS) / len(_TERMS) * 0.55
    mean_units = units * sum(_SIXTEENTHS) / len(_SIXTEENTHS) / 16
    gap = mean_held * mean_units * 100 / (pool.capacity * load_percent)
    clock = 0.0
    for serial in range(1, count + 1):
        clock += chance.expovariate(1 / gap)
        part, term = chance.choice(_SIXTEENTHS), chance.choice(_TERMS)
        need = tuple(amount * part // 16 for amount in largest)
        shape = Shape("", need, span=term + pool.policy.wind_down)
        submit = int(clock)
        yield Job(
            request=Request(f"{serial}", (0, submit, serial), shape),
            name=f"lease-{serial}",
            owner=f"team-{chance.randrange(_OWNERS) + 1}",
            submit=submit,
            run=max(1, int(term * chance.uniform(0.1, 1.0))),
            units=need[pool.measured_in],
        )
