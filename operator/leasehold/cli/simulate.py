"""`leasehold simulate`: replay a log or a trace, and say what became of it."""

from __future__ import annotations

import argparse
import csv
import gc
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from leasehold.core.errors import LeaseholdError
from leasehold.core.timeline import Timeline
from leasehold.core.times import SECOND
from leasehold.reporter.arguments import Parser
from leasehold.sim import pools, scenario, screen
from leasehold.sim.engine import Watcher, replay
from leasehold.sim.gantt import Picture
from leasehold.sim.job import Finished, Situation
from leasehold.sim.problems import BadInput
from leasehold.sim.results import Statistics
from leasehold.sim.scenario import SORTS, PoolChoice, Scenario
from leasehold.sim.swf import Rules

_INTERRUPTED: Final = 130
_BAD_INPUT: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a replay from a command line; return its exit code (2: the input or the command line is wrong)."""
    line = parser()
    options = line.parse_args(arguments)
    _check(line, options)
    try:
        return _run(options)
    except LeaseholdError as error:
        print(f"leasehold simulate: {error}", file=sys.stderr)
        return _BAD_INPUT
    except OSError as error:
        print(f"leasehold simulate: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("leasehold simulate: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    found = _scenario(options)
    statistics = Statistics(found.pool.capacity)
    watchers: list[Watcher] = [statistics]
    title = _title(options, found)
    with ExitStack() as open_files:
        picture = None
        if options.gantt is not None:
            # Opened now: a replay of minutes must not end at a directory that is not there.
            canvas = open_files.enter_context(options.gantt.open("w", encoding="utf-8"))
            picture = Picture(found.pool, title, origin=found.origin)
            watchers.append(picture)
        if options.jobs is not None:
            stream = open_files.enter_context(options.jobs.open("w", encoding="utf-8", newline=""))
            watchers.append(_JobTable(stream))
        with screen.bar(sys.stderr, found.size, wanted=options.progress) as tick:
            # Nothing here is cyclic, and looking for cycles would take a tenth of the time.
            gc.disable()
            began = perf_counter()
            try:
                outcome = replay(
                    Timeline(found.pool.table, found.pool.policy), found.jobs, watchers, progress=tick
                )
            finally:
                gc.enable()
            seconds = perf_counter() - began
        if picture is not None:
            canvas.write(picture.svg())
    if not statistics.jobs and not outcome.never_started:
        raise BadInput(f"{found.source}: nothing was left to replay: {_reasons(found)}")
    figures = {
        "source": found.source,
        "pool": pools.shown(found.pool),
        "policy": found.pool.policy.queue_strategy,
        **statistics.document(),
        "replay_seconds": seconds,
        "jobs_per_second": statistics.jobs / seconds if seconds else 0.0,
        **outcome._asdict(),
        "closed_nodes": found.pool.closed,
        **{
            kind: found.problems.total(kind)
            for kind in ("skipped", "clipped", "assumed", "refused", "left_out")
        },
        "problems": found.problems.document(),
    }
    if options.output == "json":
        print(json.dumps(figures, indent=2))
    else:
        screen.table(title, figures, found.problems.listed(), sys.stdout)
    return 0


def _title(options: argparse.Namespace, found: Scenario) -> str:
    how = found.pool.policy.queue_strategy
    if options.swf is not None:
        how = options.policy if options.sort == "submit" else f"{options.policy}, {options.sort} first"
    return f"{found.source} on {pools.shown(found.pool)} ({how})"


def _reasons(found: Scenario) -> str:
    return "; ".join(f"{row.reason} ({row.times:,})" for row in found.problems.listed()[:3])


def _scenario(options: argparse.Namespace) -> Scenario:
    choice = PoolChoice(options.pool, options.pool_name, options.nodes, options.scale_nodes, options.policy)
    if options.swf is not None:
        rules = Rules(
            machine=options.processors,
            clips_oversized=options.oversized == "clip",
            clips_negative=options.negative_times == "clip",
            strict=options.strict,
            limit=options.limit,
        )
        return scenario.of_log(options.swf, rules, options.policy, options.sort)
    if options.trace is not None:
        return scenario.of_trace(options.trace, choice, strict=options.strict, limit=options.limit)
    return scenario.of_nothing(
        min(options.synthetic, options.limit or options.synthetic), choice, options.seed, options.load
    )


class _JobTable:
    """Writes each job when it is over."""

    def __init__(self, stream: Any) -> None:
        self._rows = csv.writer(stream)
        self._rows.writerow(("name", "owner", "submit", "wait_seconds", "run_seconds", "units"))

    def moment(self, at: Situation) -> None:
        """Take no notice."""

    def ended(self, found: Finished) -> None:
        """Write a row. Times are seconds."""
        job = found.job
        run = found.end - found.start
        times = (f"{millis / SECOND:.15g}" for millis in (job.submit, found.wait, run))
        self._rows.writerow((job.name, job.owner, *times, job.units))


def parser() -> Parser:
    """Return the command line."""
    made = Parser(
        prog="leasehold simulate",
        description="Replay jobs or leases on a pool, with the planner of the operator and without a cluster.",
        epilog="examples:\n"
        "  leasehold simulate --swf log.swf.gz --processors 80640 --policy easy --gantt out.svg\n"
        "  leasehold simulate --trace ci.trace.gz --scale-nodes 1.2\n"
        "  leasehold simulate --synthetic 1000000 --nodes '1000x cpu=16,memory=64Gi'",
        allow_abbrev=False,
    )
    source = made.add_argument_group("what to replay (one of these)").add_mutually_exclusive_group(
        required=True
    )
    source.add_argument("--swf", type=Path, metavar="FILE", help="log in Standard Workload Format, or .gz")
    source.add_argument("--trace", type=Path, metavar="FILE", help="what `leasehold record` wrote, or .gz")
    source.add_argument("--synthetic", type=_whole, metavar="N", help="so many made-up leases")
    log = made.add_argument_group("for --swf")
    log.add_argument(
        "--processors", type=_whole, metavar="N", help="size of the machine (the log's MaxProcs)"
    )
    log.add_argument("--sort", choices=tuple(SORTS), default=None, help="who is first in line (submit)")
    log.add_argument(
        "--oversized", choices=("clip", "skip"), default="clip", help="jobs larger than the machine (clip)"
    )
    log.add_argument(
        "--negative-times", choices=("clip", "skip"), default="skip", help="jobs with negative times (skip)"
    )
    pool = made.add_argument_group("for --trace and --synthetic")
    pool.add_argument(
        "--pool", type=Path, metavar="FILE", help="CapacityPool manifest (the trace's own pool)"
    )
    pool.add_argument("--pool-name", default="", metavar="NAME", help="which of the trace's pools")
    pool.add_argument(
        "--nodes",
        action="append",
        default=[],
        metavar="NODES",
        help="Node objects (file), or '100x cpu=16,memory=64Gi'; may be given several times (the trace's own)",
    )
    pool.add_argument(
        "--scale-nodes", type=_factor, default=1.0, metavar="F", help="what if: 1.2 is 20 %% more nodes"
    )
    pool.add_argument("--seed", type=int, default=1, metavar="N", help="of made-up leases (1)")
    pool.add_argument(
        "--load", type=_whole, default=90, metavar="PERCENT", help="share of the pool they ask for (90)"
    )
    made.add_argument(
        "--policy",
        choices=tuple(pools.POLICIES),
        default=None,
        help="queueing strategy (easy for a log; what the pool says for a trace)",
    )
    made.add_argument("--limit", type=_whole, metavar="N", help="only the first N jobs")
    made.add_argument("--strict", action="store_true", help="the first bad line is an error")
    made.add_argument("-o", "--output", choices=("table", "json"), default="table")
    made.add_argument("--gantt", type=Path, metavar="FILE.svg", help="draw who held what, when")
    made.add_argument("--jobs", type=Path, metavar="FILE.csv", help="write the wait of every job")
    made.add_argument(
        "--no-progress", dest="progress", action="store_false", help="no bar, even on a terminal"
    )
    return made


def _check(line: Parser, options: argparse.Namespace) -> None:
    """Refuse options that would have no effect: whoever gave them expects one."""
    log_only = {"--processors": options.processors, "--sort": options.sort}
    pool_only = {"--pool": options.pool, "--pool-name": options.pool_name, "--nodes": options.nodes}
    given = pool_only if options.swf is not None else log_only
    useless = next((name for name, value in given.items() if value), None)
    if useless is not None:
        line.error(f"{useless} means nothing {'with' if options.swf is not None else 'without'} --swf")
    if options.swf is not None and options.scale_nodes != 1.0:
        line.error("--scale-nodes means nothing with --swf; give another number of --processors")
    if options.swf is not None:
        options.policy = options.policy or "easy"
        options.sort = options.sort or "submit"


def _whole(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 12 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _factor(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and up to 1000")
    return found
