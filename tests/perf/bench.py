"""`make bench`: every benchmark in one run, a table with ratios first, and the same as JSON.

Nothing is asserted: machines differ and are noisy. Compare the ratios, not the absolute figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.perf import (
    bench_commands,
    bench_crowd,
    bench_planning,
    bench_pods,
    bench_replay,
    bench_reporter,
    bench_startup,
    bench_throughput,
)
from tests.perf.figures import Figure

from leasehold import __version__
from leasehold.testing.control_plane import ControlPlane

OUT = Path("bench-out/results.json")
PARTS = ("planning", "replay", "startup", "crowd", "throughput", "pods", "reporter", "commands")


def collect(parts: Iterable[str], *, quick: bool, say: Callable[[str], None]) -> dict[str, list[Figure]]:
    """Run the named parts one after another."""
    found: dict[str, list[Figure]] = {}
    wanted = set(parts)
    if "planning" in wanted:
        say("planning: no API server needed")
        found["planning"] = list(bench_planning.run(quick=quick))
    if "replay" in wanted:
        say("replay: no API server needed")
        found["replay"] = list(bench_replay.run(quick=quick))
    if "startup" in wanted:
        say("startup: some minutes")
        with ControlPlane(local=True) as control_plane:  # its store is filled directly
            control_plane.install_crds()
            found["startup"] = list(bench_startup.run(quick=quick, control_plane=control_plane))
    if "pods" in wanted:
        say("pods: a control plane with scheduler, controllers and kwok, some minutes")
        found["pods"] = list(bench_pods.run(quick=quick))
    if wanted & {"crowd", "throughput", "reporter", "commands"}:
        with ControlPlane() as control_plane:
            control_plane.install_crds()
            if "crowd" in wanted:
                say("crowd: steady rates and a flood, some minutes")
                found["crowd"] = list(bench_crowd.run(quick=quick, control_plane=control_plane))
            if "throughput" in wanted:
                say("throughput and reclaim: a few minutes")
                found["throughput"] = list(bench_throughput.run(quick=quick, control_plane=control_plane))
            if "reporter" in wanted:
                say("reporter: a few minutes")
                rows = bench_reporter.run(quick, control_plane)
                found["reporter"] = [
                    Figure(
                        r["name"], r["value"], r["unit"], str(r.get("target") or ""), str(r.get("note") or "")
                    )
                    for r in rows
                ]
            if "commands" in wanted:
                say("commands: a minute, beside kubectl")
                found["commands"] = list(bench_commands.run(quick=quick, control_plane=control_plane))
    return found


def show(console: Console, found: dict[str, list[Figure]]) -> None:
    """Print one table per part, ratios first."""
    for part, figures in found.items():
        table = Table(title=part, title_justify="left", title_style="bold")
        for heading, justify in (
            ("figure", "left"),
            ("value", "right"),
            ("unit", "left"),
            ("target", "left"),
            ("note", "left"),
        ):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for figure in sorted(figures, key=lambda f: f.unit != "x"):
            table.add_row(figure.name, _number(figure.value), figure.unit, figure.target, figure.note)
        console.print(table)


def machine() -> dict[str, str | int]:
    """Say on what this was measured."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "leasehold": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count() or 0,
        "load1Milli": int(1000 * os.getloadavg()[0]),
    }


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"


def main() -> int:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: minutes instead of half an hour")
    parser.add_argument("--json", type=Path, default=OUT, help=f"where the results go (default {OUT})")
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    parts = given.parts or PARTS
    found = collect(parts, quick=given.quick, say=lambda line: console.print(f"[dim]{line}[/dim]"))
    show(console, found)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "figures": {p: [f._asdict() for f in fs] for p, fs in found.items()}}
    given.json.write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"written to {given.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
