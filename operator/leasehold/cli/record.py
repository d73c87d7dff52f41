"""`leasehold record`: write what a cluster's leases did into a trace for `leasehold simulate`."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from leasehold.adapters import logs
from leasehold.adapters.clock import SteadyClock
from leasehold.adapters.kube import paths
from leasehold.adapters.kube.client import KubeClient
from leasehold.adapters.kube.informer import Informer
from leasehold.adapters.login import connect
from leasehold.core.errors import LeaseholdError
from leasehold.reporter.arguments import Parser
from leasehold.sim.record import Recording, header

_FAILURE: Final = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Record from a command line; return the exit code (1: the cluster or the file failed)."""
    options = parser().parse_args(arguments)
    logs.set_up("WARNING", "text")
    try:
        return asyncio.run(_record(options))
    except LeaseholdError as error:
        print(f"leasehold record: {error}", file=sys.stderr)
    except OSError as error:
        print(f"leasehold record: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
    return _FAILURE


async def _record(options: argparse.Namespace) -> int:
    clock = SteadyClock()
    client = connect(options.kubeconfig)
    try:
        first = await header(client, options.pool, clock.now())
        with _opened(options.output) as stream:

            def write(line: str) -> None:
                stream.write(line)
                if options.watch:
                    stream.flush()

            write(first)
            recording = Recording(write, options.pool, clock.now)
            if options.watch:
                await _follow(client, recording, clock)
            else:
                leases, _ = await client.list(paths.LEASES)
                recording.listed(leases, 0)
            recording.close()
    finally:
        await client.close()
    more = f"; {recording.unreadable} could not be read" if recording.unreadable else ""
    print(f"leasehold record: {recording.written} leases written{more}", file=sys.stderr)
    return 0


async def _follow(client: KubeClient, recording: Recording, clock: SteadyClock) -> None:
    """Follow the leases until somebody asks for an end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    informer = asyncio.create_task(Informer(client, paths.LEASES, recording, clock.now).run())
    asked = asyncio.create_task(stop.wait())
    print("leasehold record: following; end it with Ctrl-C", file=sys.stderr)
    await asyncio.wait({informer, asked}, return_when=asyncio.FIRST_COMPLETED)
    for task in (informer, asked):
        task.cancel()
    ended = await asyncio.gather(informer, asked, return_exceptions=True)
    if not stop.is_set() and isinstance(ended[0], Exception):
        raise ended[0]


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    compressed = path.suffix == ".gz"
    with gzip.open(path, "wt", encoding="utf-8") if compressed else path.open("w", encoding="utf-8") as file:
        yield file


def parser() -> Parser:
    """Return the command line."""
    made = Parser(
        prog="leasehold record",
        description="Write the leases of a cluster into a trace, with its pools and nodes.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="cluster to read (default: the pod's service account)",
    )
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to, .gz compresses (stdout)")
    made.add_argument("--pool", default="", metavar="NAME", help="only this pool (all of them)")
    made.add_argument(
        "--watch", action="store_true", help="follow, and write each lease when it is over, until Ctrl-C"
    )
    return made
