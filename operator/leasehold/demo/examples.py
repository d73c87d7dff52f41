"""Reads the manifests in examples/, and shortens their terms so that a story takes a minute and not an hour."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from leasehold.api.names import LEASE_KIND, POOL_KIND
from leasehold.demo.errors import DemoError

DIRECTORY = Path(__file__).resolve().parents[3] / "examples"

LABEL = "leasehold.dev/demo"
"""Everything the demo makes carries this label; nothing else is ever removed."""

NAMESPACE = "leasehold-demo"

Object = dict[str, Any]


def load(file: str, directory: Path = DIRECTORY) -> Iterator[Object]:
    """Yield the documents of one example as they stand in the file."""
    path = directory / file
    if not path.is_file():
        raise DemoError(f"There is no {path}: the demo plays the examples of a checkout. Run it from one.")
    yield from (document for document in yaml.safe_load_all(path.read_text()) if document)


def staged(
    file: str,
    *,
    only: Collection[str] = (),
    lease: Mapping[str, Any] | None = None,
    terms: Mapping[str, Any] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Iterator[Object]:
    """Yield an example's documents as the demo applies them: labelled, and in the demo's namespace.

    `only` names the documents to take. `lease` replaces fields in the spec of each lease, `terms` fields in the
    leasePolicy of each pool, `renamed` gives a document another name.
    """
    for document in load(file):
        metadata = document["metadata"]
        if only and metadata["name"] not in only:
            continue
        metadata["name"] = (renamed or {}).get(metadata["name"], metadata["name"])
        metadata["labels"] = {**metadata.get("labels", {}), LABEL: ""}
        if "namespace" in metadata:
            metadata["namespace"] = NAMESPACE
        if document["kind"] == LEASE_KIND:
            document["spec"] |= lease or {}
        if document["kind"] == POOL_KIND:
            document["spec"]["leasePolicy"] = {**document["spec"].get("leasePolicy", {}), **(terms or {})}
        yield document
