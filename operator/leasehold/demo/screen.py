"""The demo on a terminal: a live table, or plain lines where nobody watches a terminal (a pipe, CI)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from leasehold.demo.observer import Line, Observer
from leasehold.demo.views import LeaseView, PoolView, view_lease, view_pool

STYLES: Mapping[str, str] = {
    "granted": "green",
    "renewed": "cyan",
    "waiting": "yellow",
    "warned": "yellow",
    "degraded": "red",
    "ending": "magenta",
    "expired": "magenta",
    "revoked": "red",
    "released": "blue",
    "deleted": "blue",
    "failed": "bold red",
    "told": "bold",
    "asked": "dim",
}

_PHASE_STYLES: Mapping[str, str] = {
    "Active": "green",
    "Bound": "green",
    "Pending": "yellow",
    "Draining": "magenta",
    "Releasing": "magenta",
    "Expired": "magenta",
    "Revoked": "red",
    "Released": "blue",
    "Failed": "red",
}

_TIMELINE = 400
_FIXED_LINES = 9  # titles, headings and blank lines of a frame
_BAR = 12


def wants_live(console: Console, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether to draw a live table: on a terminal, and not in CI."""
    return console.is_terminal and not console.is_dumb_terminal and not environ.get("CI")


class Screen:
    """Shows a story while it is played. `live=False` prints each line once instead."""

    def __init__(self, console: Console, *, live: bool, now: Callable[[], int]) -> None:
        self.console = console
        self.live = live
        self.observer: Observer | None = None
        self.lines: deque[Line] = deque(maxlen=_TIMELINE)
        self._now = now
        self._title = ""
        self._renewed: set[str] = set()
        self._display = Live(
            console=console,
            get_renderable=self._frame_of_this_terminal,
            refresh_per_second=6,
            transient=True,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        if self.live:
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self._display.stop()
            self.console.print(self.frame())

    def chapter(self, number: int, of: int, title: str) -> None:
        """Begin a chapter."""
        self._title = f"{number}/{of}  {title}"
        if not self.live:
            self.console.print(f"\n[bold]{self._title}[/]", highlight=False)

    def tell(self, line: Line) -> None:
        """Add a line to the timeline. Of a lease's many renewals, the last is kept; where lines are printed, the first
        is.
        """
        name = line.news.name
        again = line.news.kind == "renewed" and name in self._renewed
        if line.news.kind == "renewed":
            self._renewed.add(name)
        if again:
            self._forget_renewal(name)
        self.lines.append(line)
        if not self.live and not again:
            self.console.print(_timeline_row(line), highlight=False, soft_wrap=True)

    def _forget_renewal(self, name: str) -> None:
        for line in list(self.lines):
            if line.news.kind == "renewed" and line.news.name == name:
                self.lines.remove(line)

    def frame(self, height: int | None = None) -> RenderableType:
        """Draw everything, in so many lines at most (None: as many as there are)."""
        pools = [view for pool in self._pools() for view in view_pool(pool)]
        leases = self._leases()
        room = None if height is None else max(6, height - _FIXED_LINES - len(pools))
        if room is not None:
            kept = max(3, room - max(4, room // 3))
            leases = _most_telling(leases, kept)
        lines = list(self.lines)
        if room is not None:
            lines = lines[-max(3, room - len(leases)) :]
        elapsed = self.observer.elapsed() if self.observer else 0.0
        return Group(
            Text.assemble(
                ("Leasehold  ", "bold"), (self._title, "bold cyan"), (f"   {elapsed:.0f} s", "dim")
            ),
            _pool_table(pools),
            _lease_table(leases),
            Text("What happened", style="bold"),
            *(_timeline_row(line) for line in lines),
        )

    def _frame_of_this_terminal(self) -> RenderableType:
        return self.frame(self.console.height)

    def _pools(self) -> list[dict[str, object]]:
        if self.observer is None:
            return []
        return sorted(self.observer.pools, key=lambda pool: str(pool["metadata"]["creationTimestamp"]))

    def _leases(self) -> list[LeaseView]:
        if self.observer is None:
            return []
        now = self._now()
        return [view_lease(lease, now) for lease in self.observer.leases_in_order()]


def _most_telling(leases: list[LeaseView], kept: int) -> list[LeaseView]:
    """Leave out the leases that ended first, then the oldest."""
    surplus = len(leases) - kept
    for lease in [view for view in leases if view.finished] + leases:
        if surplus <= 0:
            break
        if lease in leases:
            leases = [view for view in leases if view is not lease]
            surplus -= 1
    return leases


def _pool_table(pools: list[PoolView]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
    for heading in ("POOL", "", "NODES", "LEASES", "RESOURCE"):
        table.add_column(heading, no_wrap=True)
    for heading in ("TOTAL", "ALLOCATED", "FREE"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    before = ""
    for view in pools:
        first = view.pool != before
        before = view.pool
        ready = Text(view.ready, style="green" if view.ready == "Ready" else "yellow")
        table.add_row(
            Text(view.pool if first else "", style="bold"),
            ready if first else "",
            view.nodes if first else "",
            view.leases if first else "",
            view.resource,
            view.total,
            view.allocated,
            view.free,
            _bar(view.share),
        )
    return table


def _bar(share: float) -> Text:
    full = min(_BAR, round(share * _BAR))
    if share > 0 and full == 0:
        full = 1
    return Text.assemble(("━" * full, "green"), ("━" * (_BAR - full), "bright_black"))


def _lease_table(leases: list[LeaseView]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    for heading, widest in (
        ("LEASE", 14),
        ("POOL", 8),
        ("HOLDER", 14),
        ("ASKS FOR", 24),
        ("PHASE", 11),
        ("REASON", 18),
        ("NEXT", 17),
        ("WHERE", None),
    ):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=widest)
    for view in leases:
        dimmed = "dim" if view.finished else ""
        table.add_row(
            Text(view.name, style=dimmed or "bold"),
            Text(view.pool, style=dimmed),
            Text(view.holder, style=dimmed),
            Text(view.asks, style=dimmed),
            Text(view.phase, style=_PHASE_STYLES.get(view.phase, "")),
            Text(view.reason, style=dimmed),
            Text(view.until, style=dimmed),
            Text(view.where, style=dimmed),
        )
    return table


def _timeline_row(line: Line) -> Text:
    news = line.news
    style = STYLES.get(news.kind, "")
    return Text.assemble(
        (f"{line.at:6.1f} s  ", "dim"),
        (f"{news.name:<15} " if news.name else "", "bold"),
        (news.what, style),
        no_wrap=True,
        overflow="ellipsis",
    )


def plain(text: str) -> str:
    """Return a text that rich prints as it stands."""
    return escape(text)
