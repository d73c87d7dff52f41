"""One replay put together: what is submitted, to which pool, and what the source was found to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from leasehold.api.names import CPU, MEMORY
from leasehold.core.request import Request, Shape
from leasehold.sim import pools, synthetic, trace
from leasehold.sim.job import Job
from leasehold.sim.pools import Json, Pool
from leasehold.sim.problems import BadInput, Problems
from leasehold.sim.swf import Rules, SwfJob, SwfLog

SORTS: Final[dict[str, Callable[[SwfJob], int]]] = {
    "submit": lambda job: 0,
    "shortest": lambda job: job.estimate,
    "longest": lambda job: -job.estimate,
    "smallest": lambda job: job.processors,
    "largest": lambda job: -job.processors,
}
"""Who comes first of those that wait; equal ones come in submit order. Lengths are the estimates."""


class Scenario(NamedTuple):
    """`size` is how many jobs will come. `origin` is the date of instant 0 (ms), None where dates mean nothing."""

    source: str
    pool: Pool
    size: int
    jobs: Iterator[Job]
    problems: Problems
    origin: int | None


def of_log(path: Path, rules: Rules, policy: str, sort: str) -> Scenario:
    """Replay a workload log on one machine. Raises BadInput."""
    log = SwfLog(path, rules)
    key = SORTS[sort]
    jobs = (
        Job(
            request=Request(f"{serial}", (key(job), serial), Shape("", (job.processors,), span=job.estimate)),
            name=f"job {job.number}",
            owner=f"user {job.user}",
            submit=job.submit,
            run=job.run,
            units=job.processors,
        )
        for serial, job in zip(count(1), log.jobs(), strict=False)
    )
    return Scenario(
        path.name, pools.machine(log.machine, policy), log.size, jobs, log.problems, log.unix_start
    )


class PoolChoice(NamedTuple):
    """Which pool to replay on. Empty fields leave it to the trace, or to what can be guessed.

    `manifest` is a CapacityPool's file, `name` picks one of the trace's pools, `nodes` are as in `--nodes`, `scale`
    multiplies them, and `policy` takes the place of the pool's queueing strategy.
    """

    manifest: Path | None = None
    name: str = ""
    nodes: Sequence[str] = ()
    scale: float = 1.0
    policy: str | None = None


def of_trace(path: Path, choice: PoolChoice, *, strict: bool, limit: int | None) -> Scenario:
    """Replay a trace on its own pool or on another one. Raises BadInput."""
    found = trace.Trace(path, pool_name=choice.name, strict=strict, limit=limit)
    if choice.manifest is not None:
        name, spec = pools.read_pool(choice.manifest)
    else:
        named = {name for name in found.pools if name}
        if len(named) > 1:
            raise BadInput(f"{path} has leases of several pools ({_few(named)}); pick one with --pool-name")
        wanted = choice.name or next(iter(named), "")
        manifests = [m for m in found.header.pools if (m.get("metadata") or {}).get("name") == wanted]
        if not manifests:
            raise BadInput(f"{path} does not hold the spec of pool {wanted or '(unnamed)'}; give --pool FILE")
        name, spec = pools.spec_of(manifests[0], f"{path}:1", strict=False)
    nodes = _nodes(choice, found.header.nodes)
    pool = pools.pool_of(name, spec, nodes, choice.policy)
    jobs = trace.jobs(found.records(), pool, found.header, found.problems)
    return Scenario(path.name, pool, found.size, jobs, found.problems, 0)


def of_nothing(leases: int, choice: PoolChoice, seed: int, load_percent: int) -> Scenario:
    """Replay made-up leases. Raises BadInput without nodes."""
    if choice.manifest is not None:
        name, spec = pools.read_pool(choice.manifest)
    else:
        name, spec = "synthetic", pools.default_spec((CPU, MEMORY))
    pool = pools.pool_of(name, spec, _nodes(choice, []), choice.policy)
    jobs = synthetic.leases(leases, pool, seed, load_percent)
    return Scenario(f"{leases:,} made-up leases", pool, leases, jobs, Problems(Path()), None)


def _nodes(choice: PoolChoice, recorded: Sequence[Json]) -> list[Json]:
    named = [node for text in choice.nodes for node in pools.nodes_of(text)]
    found = named or list(recorded)
    if not found:
        raise BadInput("there are no nodes to replay on; give --nodes, e.g. '100x cpu=16,memory=64Gi'")
    return pools.scaled(found, choice.scale)


def _few(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
