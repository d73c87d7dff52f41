"""One line on standard error that says what is waited for; only where somebody looks."""

from __future__ import annotations

import sys

from leasehold.cli.options import interactive
from leasehold.cli.output import columns, plain, terminal_width


class Progress:
    """A line that is written over itself on a terminal, and nothing anywhere else."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._shows = interactive() and not quiet
        self._said = ""

    def say(self, text: str) -> None:
        """Show a new text."""
        if not self._shows or text == self._said:
            return
        self._said = text
        width = terminal_width(sys.stderr)
        shown = plain(text)
        if columns(shown) >= width:
            while columns(shown) > max(width - 2, 1):
                shown = shown[:-1]
            shown += "…"
        sys.stderr.write(f"\r\x1b[K{shown}")
        sys.stderr.flush()

    def done(self) -> None:
        """Take the line away."""
        if self._said:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._said = ""
