"""How fast histories are replayed, and that memory does not grow with what is over.

Each replay is a process of its own, so that its memory can be told.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.perf.figures import Figure

CURIE = Path(__file__).parents[1] / "sim" / "data" / "CEA-Curie-sample.swf.gz"
_MEASURED = (
    "import sys; from leasehold.cli.main import main; code = main(sys.argv[1:]);"
    " print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')], file=sys.stderr);"
    " sys.exit(code)"
)


def simulate(*arguments: str) -> tuple[dict[str, Any], float]:
    """Run `leasehold simulate`; return its figures and the most memory it took (MiB)."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, "simulate", *arguments, "--no-progress", "-o", "json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout), int(done.stderr.split()[-1]) / 1024


def run(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    curie = ("--swf", str(CURIE), "--processors", "80640", "--policy")
    easy, memory = simulate(*curie, "easy")
    strict, _ = simulate(*curie, "fcfs")
    yield Figure("Curie log, 29,998 jobs, EASY", easy["replay_seconds"], "s", "< 10 s")
    yield Figure("its memory", memory, "MiB", "")
    yield Figure(
        "its average bounded slowdown / the published 8.760", easy["avg_bounded_slowdown"] / 8.760, "x", "1"
    )
    yield Figure("its mean wait / the published 950.7 s", easy["avg_wait_seconds"] / 950.7, "x", "1")
    yield Figure("EASY / FCFS on that log", easy["replay_seconds"] / strict["replay_seconds"], "x", "")
    many = 100_000 if quick else 1_000_000
    nodes = ("--nodes", "1000x cpu=16,memory=64Gi")
    few, small = simulate("--synthetic", str(many // 10), *nodes)
    found, large = simulate("--synthetic", str(many), *nodes)
    yield Figure(f"{many:,} made-up leases on 1,000 nodes", found["replay_seconds"], "s", "")
    yield Figure("their rate", found["jobs"] / found["replay_seconds"], "/s", "")
    text = f"memory of {many:,} leases / of {many // 10:,}"
    yield Figure(text, large / small, "x", "about 1", f"{few['jobs']:,} took {small:.0f} MiB")


if __name__ == "__main__":
    for figure in run(quick=True):
        print(f"{figure.name:60s} {figure.value:10.3f} {figure.unit:4s} {figure.target}")
