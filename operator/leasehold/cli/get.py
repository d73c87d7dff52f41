"""`leasehold get`: leases, pools and reports, for people and for programs."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from leasehold.cli.cluster import KINDS, LEASES, Cluster, Kind, Refused, connect, namespace_of
from leasehold.cli.options import CliError
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
                sys.stderr.write(f"{refusal}\n")
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
        sys.stderr.write(f"No resources found{where}.\n")
    return 0


def _follow(
    cluster: Cluster, kind: Kind, namespace: str, names: list[str], query: dict[str, str], printer: Printer
) -> int:
    """Print what there is, then what changes, for as long as nobody objects."""
    if names:
        query = {"fieldSelector": f"metadata.name={names[0]}"}
    path = kind.path(namespace)
    seen: dict[str, str] = {}
    while True:
        pages = list(cluster.pages(path, **query))
        items = [item for page, _ in pages for item in page]
        version = pages[-1][1]
        changed = [item for item in items if seen.get(_key(item)) != _version(item)]
        if names and not items and not seen:
            cluster.get(kind.path(namespace, names[0]))  # says that it is not there
        seen = {_key(item): _version(item) for item in items}
        printer.write(changed)
        try:
            while True:
                for type_, item in cluster.watch(path, version, query=query):
                    version = _version(item)
                    if type_ != "BOOKMARK":
                        seen[_key(item)] = version
                        printer.write([item])
        except Refused as refusal:
            if refusal.status != 410:
                raise


def _key(item: Json) -> str:
    return str(item["metadata"].get("uid", ""))


def _version(item: Json) -> str:
    return str(item["metadata"].get("resourceVersion", ""))
