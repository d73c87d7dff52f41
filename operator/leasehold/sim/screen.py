"""What a replay says on a terminal: a bar while it runs, and a table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from leasehold.sim.problems import Problem


@contextmanager
def bar(stream: TextIO, total: int, *, wanted: bool) -> Iterator[Callable[[int], None] | None]:
    """Show a progress bar where somebody looks at a terminal; give what to call with the number done."""
    if not wanted or not stream.isatty():
        yield None
        return
    columns = (
        TextColumn("replaying"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        task = progress.add_task("replay", total=total)
        yield lambda done: progress.update(task, completed=done)


def table(title: str, found: Mapping[str, Any], problems: list[Problem], stream: TextIO) -> None:
    """Write the figures of a replay for people."""
    console = Console(file=stream, highlight=False, soft_wrap=True)
    grid = Table(title=Text(title), title_justify="left", title_style="bold", show_header=False, box=None)
    grid.add_column()
    grid.add_column(justify="right")
    for label, value in _rows(found):
        grid.add_row(label, value)
    console.print(grid)
    for row in problems:
        lines = ", ".join(f"{line:,}" for line in row.lines)
        more = "" if row.times <= len(row.lines) else ", ..."
        console.print(f"{row.times:,} {row.action}: {row.reason} (line {lines}{more})", markup=False)


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "leases that ran", f"{found['jobs']:,}"
    for key, label in (
        ("never_started", "never started"),
        ("refused", "refused by the pool"),
        ("preempted", "cut short for others"),
    ):
        if found[key]:
            yield label, f"{found[key]:,}"
    yield "makespan", _time(found["makespan_seconds"])
    yield "utilization", f"{100 * found['utilization']:.2f} %"
    yield "mean wait", _time(found["avg_wait_seconds"])
    for percent in (50, 95, 99):
        yield f"p{percent} wait", _time(found[f"p{percent}_wait_seconds"])
    yield "average bounded slowdown", f"{found['avg_bounded_slowdown']:.3f}"
    yield "most waiting at once", f"{found['peak_waiting']:,}"
    yield "most running at once", f"{found['peak_running']:,}"
    yield "replayed in", f"{found['replay_seconds']:.2f} s"
    yield "speed", f"{found['jobs_per_second']:,.0f} leases/s"


def _time(seconds: float) -> str:
    text = f"{seconds:,.1f} s"
    if seconds >= 2 * 86_400:
        return f"{text} ({seconds / 86_400:.1f} days)"
    return f"{text} ({seconds / 3600:.1f} h)" if seconds >= 2 * 3600 else text
