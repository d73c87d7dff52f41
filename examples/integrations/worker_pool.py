"""An asyncio worker pool: runs commands from its standard input, each under a lease, in whichever pool starts it first.

    python worker_pool.py --cpu 1 --duration 10m ci burst < commands.txt

A command sees where it may run and its fencing token in its environment. It is ended before its lease can go to
somebody else, and run again, elsewhere, if its lease was lost: so it must be something that may be begun twice.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable
from functools import partial

from leasehold.sdk import Client, Lease
from leasehold.sdk.router import Router, Target

WORKERS = 16


async def run_command(lease: Lease, command: str) -> int:
    """Run a command under a lease. However this ends, the command has ended, too."""
    place = {"LEASEHOLD_NODES": " ".join(lease.nodes), "LEASEHOLD_TOKEN": str(lease.token)}
    process = await asyncio.create_subprocess_shell(command, env={**os.environ, **place})
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def worker(router: Router, jobs: asyncio.Queue[str], cpu: str, duration: str) -> int:
    """Take jobs until there are none, and return how many failed."""
    failed = 0
    while not jobs.empty():
        command = jobs.get_nowait()
        try:
            code = await router.run(
                partial(run_command, command=command),
                cpu=cpu,
                duration=duration,
                timeout="30m",
                retry=True,
            )
        except Exception as error:
            print(f"{command!r}: {error}", file=sys.stderr)
            failed += 1
        else:
            failed += code != 0
    return failed


async def work_off(pools: Iterable[str], commands: Iterable[str], cpu: str, duration: str) -> int:
    """Run all commands; return how many failed."""
    jobs: asyncio.Queue[str] = asyncio.Queue()
    for command in commands:
        jobs.put_nowait(command)
    async with Client() as client:
        targets = [Target(client, pool) for pool in pools]
        async with Router(targets, concurrency=WORKERS) as router, asyncio.TaskGroup() as group:
            workers = [group.create_task(worker(router, jobs, cpu, duration)) for _ in range(WORKERS)]
    return sum(task.result() for task in workers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pools", nargs="+", help="names of CapacityPools")
    parser.add_argument("--cpu", default="1", help="what one command needs")
    parser.add_argument("--duration", default="10m", help="for how long, at first; it is renewed")
    given = parser.parse_args()
    lines = [line.strip() for line in sys.stdin if line.strip()]
    sys.exit(min(asyncio.run(work_off(given.pools, lines, given.cpu, given.duration)), 100))
