"""`leasehold top`: what pools lend and have left, and what nodes use; once, or live."""

from __future__ import annotations

import argparse
import sys

from leasehold.cli.cluster import connect
from leasehold.cli.figures import NODE_HEADINGS, POOL_HEADINGS, Figures, look
from leasehold.cli.options import CliError
from leasehold.cli.output import Table, write_document


def run(options: argparse.Namespace) -> int:
    """Print the figures, or keep them on the screen; return the exit code."""
    if options.live and options.output:
        raise CliError("--live is for people: it has no -o", 2)
    if options.names and not options.what:
        raise CliError("say of what the names are: pools or nodes", 2)
    cluster = connect(options)
    try:
        if options.live:
            from leasehold.cli.live import show

            return show(cluster, options)
        figures = look(cluster, options.what, tuple(options.names), options.selector)
        if options.output:
            write_document(document(figures), options.output)
        else:
            _write(figures, options.what)
        return 0
    finally:
        cluster.close()


def document(figures: Figures) -> dict[str, list[dict[str, str]]]:
    """Return the figures for programs."""
    return {
        "pools": [_named(POOL_HEADINGS, row) for row in figures.pools],
        "nodes": [_named(NODE_HEADINGS, row) for row in figures.nodes],
    }


def _named(headings: tuple[str, ...], row: tuple[str, ...]) -> dict[str, str]:
    return {
        heading.lower().replace("%", "Percent"): cell for heading, cell in zip(headings, row, strict=True)
    }


def _write(figures: Figures, what: str) -> None:
    if what != "nodes":
        _table(POOL_HEADINGS, figures.pools, "No pools found.")
    if not what:
        sys.stdout.write("\n")
    if what != "pools":
        _table(NODE_HEADINGS, figures.nodes, "No reports of nodes found.")
    if figures.unknown:
        sys.stderr.write(f"{figures.unknown}\n")


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]], none: str) -> None:
    if rows:
        Table(headings).write(rows)
    else:
        sys.stderr.write(f"{none}\n")
