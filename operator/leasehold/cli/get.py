"""`leasehold get`: leases, pools and reports, for people and for programs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

from leasehold.adapters.lean_http import UnreachableError
from leasehold.cli.cluster import (
    AGAIN_SECONDS,
    KINDS,
    LEASES,
    Cluster,
    Kind,
    Refused,
    connect,
    namespace_of,
)
from leasehold.cli.options import CliError, complain
from leasehold.cli.output import plain
from leasehold.cli.printing import Printer

Json = dict[str, Any]


def kind_of(text: str) -> Kind:
    """Return the kind that a person calls so. Raises CliError."""
    for kind in KINDS:
        if text.lower() in kind.called:
            return kind
    raise CliError(f"there is no kind {text!r}: say leases, pools or reports, then names")


def run(options: argparse.Namespace) -> int:
    """Print what there is; return the exit code."""
    kind, names = _asked(options)
    query = _query(options, kind)
    if names and query:
        raise CliError("names and selectors exclude each other: give one of them")
    cluster = connect(options)
    try:
        namespace = namespace_of(options, cluster) if kind.namespaced else ""
        if names and not namespace and kind.namespaced:
            raise CliError("names need a namespace: say -n NAME instead of -A")
        printer = Printer(
            kind, options.output, cluster.now, everywhere=not namespace, quiet=options.no_headers
        )
        if options.watch:
            if len(names) > 1:
                raise CliError("--watch takes one name, or none")
            return _follow(cluster, kind, namespace, names, query, printer)
        return _print(cluster, kind, namespace, names, query, printer)
    finally:
        cluster.close()


def _asked(options: argparse.Namespace) -> tuple[Kind, list[str]]:
    """Return kind and names, from `lease NAME` or `lease/NAME`."""
    called, slash, name = options.kind.partition("/")
    return kind_of(called), [name, *options.names] if slash else list(options.names)


def _query(options: argparse.Namespace, kind: Kind) -> dict[str, str]:
    fields = [options.field_selector] if options.field_selector else []
    if options.pool:
        if kind is not LEASES:
            raise CliError("--pool is for leases")
        fields.append(f"spec.poolRef.name={options.pool}")
    query = {"labelSelector": options.selector, "fieldSelector": ",".join(fields)}
    return {key: value for key, value in query.items() if value}


def _print(
    cluster: Cluster, kind: Kind, namespace: str, names: list[str], query: dict[str, str], printer: Printer
) -> int:
    if names:
        found, code = [], 0
        for name in names:
            try:
                found.append(cluster.get(kind.path(namespace, name)))
            except Refused as refusal:
                if refusal.status != 404 or len(names) == 1:
                    raise
                complain("get", refusal)
                code = 1
        printer.write(found, one=len(names) == 1)
        return code
    some = False
    for items, _ in cluster.pages(kind.path(namespace), **query):
        some = some or bool(items)
        for item in items:
            item.setdefault("kind", kind.kind)
        printer.add(items)
    printer.end()
    if not some and printer.for_people:
        where = f" in {namespace} namespace" if namespace else ""
        sys.stderr.write(f"{plain(f'No resources found{where}.')}\n")
    return 0


def _follow(
    cluster: Cluster, kind: Kind, namespace: str, names: list[str], query: dict[str, str], printer: Printer
) -> int:
    """Print what there is, then what changes, for as long as nobody objects."""
    if names:
        query = {"fieldSelector": f"metadata.name={names[0]}"}
    following = _Following(cluster, kind.path(namespace), query, printer)
    if not following.list() and names:
        cluster.get(kind.path(namespace, names[0]))  # says that it is not there
    told = False
    while True:
        try:
            for _ in following.changes():
                told = False
        except Refused as refusal:
            if refusal.status == 410:
                following.version = ""
            elif refusal.passing:
                told = _again(refusal, told)
            else:
                raise
        except UnreachableError as error:
            told = _again(error, told)


def _again(error: Exception, told: bool) -> bool:
    """Say once that the server is away, and wait a moment before it is asked again."""
    if not told:
        said, _, _ = str(error).partition("\n")
        complain("get", f"{said}; trying again")
    time.sleep(AGAIN_SECONDS)
    return True


class _Following:
    """A list and its changes, each printed once. Without a version it is listed anew."""

    def __init__(self, cluster: Cluster, path: str, query: dict[str, str], printer: Printer) -> None:
        self.version = ""
        self._cluster = cluster
        self._path = path
        self._query = query
        self._printer = printer
        self._seen: dict[str, str] = {}

    def list(self) -> bool:
        """Print what is not printed yet; tell whether there is anything."""
        pages = list(self._cluster.pages(self._path, **self._query))
        items = [item for page, _ in pages for item in page]
        changed = [item for item in items if self._seen.get(_key(item)) != _version(item)]
        self._seen = {_key(item): _version(item) for item in items}
        self.version = pages[-1][1]
        self._printer.write(changed)
        return bool(items)

    def changes(self) -> Iterator[None]:
        """Print what changes, until the server ends the stream; yield each time that it was heard of."""
        if not self.version:
            self.list()
        for type_, item in self._cluster.watch(self._path, self.version, query=self._query):
            self.version = _version(item)
            if type_ == "DELETED":
                self._seen.pop(_key(item), None)
            elif type_ != "BOOKMARK":
                self._seen[_key(item)] = self.version
            if type_ != "BOOKMARK":
                self._printer.write([item])
            yield


def _key(item: Json) -> str:
    return str(item["metadata"].get("uid", ""))


def _version(item: Json) -> str:
    return str(item["metadata"].get("resourceVersion", ""))
