"""Prints objects in the form that was asked for, all at once or as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from leasehold.cli.cluster import GROUP, Kind
from leasehold.cli.output import Table, json_text, write_document, yaml_text
from leasehold.cli.rows import columns_of

Json = dict[str, Any]


class Printer:
    """Objects of one kind, on standard output."""

    def __init__(
        self, kind: Kind, form: str, now: Callable[[], float], *, everywhere: bool, quiet: bool = False
    ) -> None:
        self._kind = kind
        self._form = form
        self._now = now
        self._namespaces = everywhere and kind.namespaced
        self._columns = columns_of(kind)
        self._rows: list[list[str]] = []
        self._items: list[Json] = []
        self._printed = False
        headings = self._columns.always + (self._columns.wide if form == "wide" else ())
        headings = ("NAMESPACE", *headings) if self._namespaces else headings
        self._table = Table(headings, headed=not quiet)

    @property
    def for_people(self) -> bool:
        """Tell whether people read it, not programs."""
        return self._form in ("", "wide")

    def add(self, items: Sequence[Json]) -> None:
        """Take items of a list that goes on. Of a table only the cells are kept."""
        if self._form == "name":
            self._names(items)
        elif self.for_people:
            self._rows += [self._cells(item) for item in items]
        else:
            self._items += [_tidy(item) for item in items]

    def end(self) -> None:
        """Print what was taken."""
        if self.for_people and self._rows:
            self._table.write(self._rows)
        elif self._form in ("json", "yaml"):
            for item in self._items:
                item.setdefault("apiVersion", f"{GROUP}/v1alpha1")
            write_document({"apiVersion": "v1", "kind": "List", "items": self._items}, self._form)

    def write(self, items: Sequence[Json], *, one: bool = True) -> None:
        """Print items now; for programs each by itself, or as a list where there is more than `one`."""
        if not items:
            return
        if self._form == "name":
            self._names(items)
        elif self.for_people:
            self._table.write([self._cells(item) for item in items])
        elif one:
            text = json_text if self._form == "json" else yaml_text
            for item in items:
                between = "---\n" if self._form == "yaml" and self._printed else ""
                sys.stdout.write(between + text(_tidy(item)))
                self._printed = True
            sys.stdout.flush()
        else:
            self.add(items)
            self.end()

    def _names(self, items: Sequence[Json]) -> None:
        for item in items:
            sys.stdout.write(f"{self._kind.kind.lower()}.{GROUP}/{item['metadata']['name']}\n")
        sys.stdout.flush()

    def _cells(self, item: Json) -> list[str]:
        cells = self._columns.cells(item, self._now())
        if self._form != "wide":
            cells = cells[: len(self._columns.always)]
        return [str(item["metadata"].get("namespace", "")), *cells] if self._namespaces else list(cells)


def _tidy(item: Json) -> Json:
    """Leave out what only the API server reads, as kubectl does."""
    item.get("metadata", {}).pop("managedFields", None)
    return item
