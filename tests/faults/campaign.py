"""`make faults`: every experiment in its long form, and a table of what was tried, delivered and broken.

    python -m tests.faults.campaign [--long] [--only 1,4] [--seed 7] [--fail-fast] [--write]

A run that fails is replayed by `--only` with its number and `--seed` with its seed; what explains it is in
`faults-out/`. Exits with 1 when a promise was broken, or when a fault was never delivered.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.faults.experiment import LONG, SHORT, Arena, Outcome, experiments

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- begin: campaign -->", "<!-- end: campaign -->"
SEED = 20261122


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the outcomes as a table in Markdown."""
    rows = [
        "| # | what goes wrong | what must hold | runs | faults delivered | violations | seconds |",
        "| --: | --- | --- | --: | --: | --: | --: |",
    ]
    rows += [
        f"| {o.number} | {o.name} | {o.invariant} | {o.runs} | {o.delivered} | {len(o.violations)} | {o.seconds:.0f} |"
        for o in outcomes
    ]
    return "\n".join(rows)


def put_table(page: Path, begin: str, end: str, text: str) -> None:
    """Put a text between two markers of a page. Raises SystemExit when the page has not got them."""
    head, found, rest = page.read_text().partition(begin)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"{page} has no markers {begin} and {end}: put them where the table belongs")
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def write_page(outcomes: Sequence[Outcome], page: Path = PAGE) -> None:
    """Put the table between the markers of the page, which is made where there is none."""
    if not page.exists():
        page.write_text(f"# What was tried\n\n{BEGIN}\n{END}\n")
    runs, seed = sum(o.runs for o in outcomes), outcomes[0].seed if outcomes else SEED
    said = f"{runs} trials, seed {seed}, of the long form (`make faults`)."
    put_table(page, BEGIN, END, f"{said}\n\n{table(outcomes)}")


def failed(outcome: Outcome) -> bool:
    """Tell whether a promise was broken, or nothing was tried."""
    return bool(outcome.violations) or outcome.delivered == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.campaign", description="Let things go wrong."
    )
    parser.add_argument("--long", action="store_true", help="try everything, not a sample")
    parser.add_argument("--only", default="", help="numbers of experiments, with commas between")
    parser.add_argument("--seed", type=int, default=SEED, help="the seed of every choice")
    parser.add_argument("--fail-fast", action="store_true", help="end an experiment at its first violation")
    parser.add_argument("--write", action="store_true", help="write the table to docs/reliability.md")
    given = parser.parse_args(arguments)
    known = experiments()
    wanted = [int(number) for number in given.only.split(",") if number] or list(known)
    if unknown := [number for number in wanted if number not in known]:
        parser.error(f"there is no experiment {unknown}; there are {list(known)}")
    outcomes = []
    with Arena() as arena:
        arena.fail_fast = given.fail_fast
        for number in wanted:
            outcome = known[number].run(arena, LONG if given.long else SHORT, given.seed)
            outcomes.append(outcome)
            verdict = "FAILED" if failed(outcome) else "ok"
            print(
                f"{number:3} {outcome.name}: {verdict}; {outcome.runs} runs, {outcome.delivered} faults, "
                f"{len(outcome.violations)} violations, {outcome.seconds:.0f} s",
                flush=True,
            )
            for violation in outcome.violations:
                print(f"      {violation}", flush=True)
    print()
    print(table(outcomes))
    if given.write:
        write_page(outcomes)
    return 1 if any(map(failed, outcomes)) else 0


if __name__ == "__main__":
    sys.exit(main())
