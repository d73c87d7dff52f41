"""`leasehold top --live`: the figures on the whole screen, kept up to date. Needs textual."""

from __future__ import annotations

import argparse
import threading
from typing import ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Footer, Header, Static

from leasehold.adapters.credentials import CredentialsError
from leasehold.adapters.lean_http import UnreachableError
from leasehold.cli.cluster import Cluster
from leasehold.cli.figures import NODE_HEADINGS, POOL_HEADINGS, Figures, look
from leasehold.cli.options import CliError
from leasehold.cli.output import plain


def show(cluster: Cluster, options: argparse.Namespace) -> int:
    """Keep the figures on the screen until somebody ends it; return the exit code."""
    app = Top(cluster, options.what, tuple(options.names), options.selector, max(options.interval, 1))
    app.run()
    return app.return_code or 0


class Top(App[None]):
    """Two tables that are looked at anew every few seconds."""

    TITLE = "leasehold top"
    CSS = "DataTable { height: auto; max-height: 1fr; margin-bottom: 1; } #said { color: $warning; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("r", "again", "Look now"),
        Binding("p", "pause", "Pause"),
    ]

    def __init__(
        self, cluster: Cluster, what: str, names: tuple[str, ...], selector: str, interval: float
    ) -> None:
        super().__init__()
        self._cluster = cluster
        self._asked = (what, names, selector)
        self._interval = interval
        self._paused = False
        self._looking = threading.Lock()

    def compose(self) -> ComposeResult:
        """Return what is on the screen."""
        what = self._asked[0]
        yield Header(show_clock=True)
        with Vertical():
            if what != "nodes":
                yield DataTable(id="pools", zebra_stripes=True, cursor_type="none")
            if what != "pools":
                yield DataTable(id="nodes", zebra_stripes=True, cursor_type="none")
            yield Static(id="said", markup=False)  # an error may hold brackets
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        for name, headings in (("pools", POOL_HEADINGS), ("nodes", NODE_HEADINGS)):
            for table in self.query(f"#{name}").results(DataTable):
                table.add_columns(*headings)
        self.sub_title = self._cluster.access.context
        self.look()
        self.set_interval(self._interval, self.action_again)

    @work(thread=True)
    def look(self) -> None:
        """Look, in a thread: a slow server must not freeze the screen. One look at a time."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            figures, said = look(self._cluster, *self._asked), ""
        except (CliError, CredentialsError, UnreachableError) as error:
            figures, said = None, str(error)
        finally:
            self._looking.release()
        self.call_from_thread(self.show, figures, said)

    def show(self, figures: Figures | None, said: str) -> None:
        """Put new figures on the screen; without any the old ones stay."""
        if figures is not None:
            for name, rows in (("pools", figures.pools), ("nodes", figures.nodes)):
                for table in self.query(f"#{name}").results(DataTable):
                    table.clear()
                    table.add_rows([[plain(cell) for cell in row] for row in rows])
            said = figures.unknown
        self.query_one("#said", Static).update(plain(said))

    def action_again(self) -> None:
        """Look now, unless paused."""
        if not self._paused:
            self.look()

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self._paused = not self._paused
        self.sub_title = "paused" if self._paused else self._cluster.access.context
