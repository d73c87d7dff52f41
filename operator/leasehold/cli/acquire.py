"""`leasehold acquire`: take a lease and leave it held, or run a command under one."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import Any

from leasehold.adapters.lean_http import UnreachableError
from leasehold.cli.cluster import LEASES, Cluster, Refused, connect, namespace_of
from leasehold.cli.options import FAILED, REFUSED, TOO_LATE, CliError
from leasehold.cli.output import write_document
from leasehold.cli.progress import Progress
from leasehold.cli.request import LOOK_SECONDS, lease_of
from leasehold.cli.words import in_the_way, is_over, is_refused, is_true, standing

Json = dict[str, Any]


def run(options: argparse.Namespace) -> int:
    """Take a lease; return the exit code."""
    if options.run is not None:
        from leasehold.cli.running import run_under

        return run_under(options)
    waits = options.wait or options.timeout is not None
    cluster = connect(options)
    try:
        namespace = namespace_of(options, cluster)
        lease = lease_of(options, namespace, liveness=options.liveness)
        made = _made(cluster, lease, ours=not options.name)
        if waits:
            made = _granted(cluster, made, options.timeout, quiet=options.quiet)
        _write(made, options.output)
        return 0
    finally:
        cluster.close()


def _made(cluster: Cluster, lease: Json, *, ours: bool) -> Json:
    """Create the lease. Where that is interrupted it is withdrawn, if nobody else can have its name."""
    path, name = LEASES.path(lease["metadata"]["namespace"]), lease["metadata"]["name"]
    try:
        return cluster.create(path, lease)
    except Refused as refusal:
        raise CliError(_why_not_made(refusal), REFUSED if refusal.status in (400, 422) else FAILED) from None
    except BaseException:  # whether it is there is not known
        if ours:
            with suppress(CliError, UnreachableError):
                cluster.delete(f"{path}/{name}")
        raise


def _granted(cluster: Cluster, made: Json, timeout: float | None, *, quiet: bool) -> Json:
    """Return the lease once it is held. Whatever goes wrong, the request is withdrawn."""
    namespace, name, uid = (made["metadata"][key] for key in ("namespace", "name", "uid"))
    progress = Progress(quiet=quiet)
    last = made

    def look(lease: Json) -> None:
        nonlocal last
        last = lease
        progress.say(f"{name} {standing(lease, cluster.now())}")

    def settled(lease: Json) -> bool:
        waiting = timeout == 0 and bool(in_the_way(lease))
        return is_true(lease, "Allocated") or is_over(lease) or is_refused(lease) or waiting

    try:
        limit = LOOK_SECONDS if timeout == 0 else timeout
        found = cluster.until(LEASES, namespace, name, settled, timeout=limit, look=look)
    except BaseException:
        cluster.delete(LEASES.path(namespace, name), uid)
        raise
    finally:
        progress.done()
    if found is not None and is_true(found, "Allocated") and not is_over(found):
        return found
    cluster.delete(LEASES.path(namespace, name), uid)
    if found is None or not (is_over(found) or is_refused(found)):
        shown = standing(found or last, cluster.now())
        raise CliError(f"not granted in time: {name} {shown}; the request was withdrawn", TOO_LATE)
    why = in_the_way(found)
    said = str(why.get("message") or why.get("reason")).rstrip(".")
    raise CliError(f"refused: {said}. The request was withdrawn.", REFUSED)


def _why_not_made(refusal: Refused) -> str:
    if refusal.reason == "AlreadyExists":
        return (
            f"{refusal}; release and delete it first (`leasehold release --delete`), or choose another name"
        )
    return str(refusal)


def _write(lease: Json, form: str) -> None:
    if form in ("json", "yaml"):
        lease["metadata"].pop("managedFields", None)
        write_document(lease, form)
    else:
        name = lease["metadata"]["name"]
        sys.stdout.write(f"{LEASES.kind.lower()}.leasehold.dev/{name}\n" if form == "name" else f"{name}\n")
