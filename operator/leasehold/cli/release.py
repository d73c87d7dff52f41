"""`leasehold release`: give leases back."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from leasehold.cli.cluster import LEASES, Cluster, Refused, connect, namespace_of
from leasehold.cli.options import TOO_LATE, CliError, complain
from leasehold.cli.progress import Progress
from leasehold.cli.words import is_over, is_true

Json = dict[str, Any]


def run(options: argparse.Namespace) -> int:
    """Release leases; return the exit code."""
    if bool(options.names) == bool(options.selector):
        raise CliError("say which leases: by their names, or by labels with -l", 2)
    cluster = connect(options)
    try:
        namespace = namespace_of(options, cluster)
        names = options.names or [
            lease["metadata"]["name"]
            for lease in cluster.list(LEASES.path(namespace), labelSelector=options.selector)
            if not is_over(lease)
        ]
        if not names:
            sys.stderr.write(f"No leases to release in {namespace} namespace.\n")
        code, released = 0, []
        for name in names:
            try:
                _release(cluster, namespace, name, delete=options.delete)
                released.append(name)
            except Refused as refusal:
                complain("release", refusal)
                code = 1
        return max(code, _wait(cluster, namespace, released, options.timeout) if options.wait else 0)
    finally:
        cluster.close()


def _release(cluster: Cluster, namespace: str, name: str, *, delete: bool) -> None:
    path = LEASES.path(namespace, name)
    if delete:
        cluster.ask("DELETE", path)
        sys.stdout.write(f"lease/{name} deleted\n")
        return
    lease = cluster.patch(path, {"spec": {"desiredState": "Released"}})
    sys.stdout.write(f"lease/{name} {'was over already' if is_over(lease) else 'released'}\n")


def _wait(cluster: Cluster, namespace: str, names: list[str], timeout: float | None) -> int:
    ends = None if timeout is None else time.monotonic() + timeout
    progress = Progress()
    for number, name in enumerate(names, 1):
        progress.say(f"waiting until the capacity of {name} is free ({number} of {len(names)})")
        left = None if ends is None else max(ends - time.monotonic(), 0)
        try:
            found = cluster.until(
                LEASES, namespace, name, lambda lease: is_true(lease, "Released"), timeout=left
            )
        except Refused as refusal:
            if refusal.status != 404:
                raise
            continue  # deleted, and gone: so it was released
        finally:
            progress.done()
        if found is None:
            raise CliError(
                f"the capacity of {name} is not free after {timeout} s; `leasehold explain {name}` says why",
                TOO_LATE,
            )
    return 0
