"""`leasehold drain`: empty a pool, hold it, or let it grant again."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from leasehold.cli.cluster import LEASES, POOLS, Cluster, Refused, connect
from leasehold.cli.options import TOO_LATE, CliError
from leasehold.cli.output import Table
from leasehold.cli.progress import Progress
from leasehold.cli.rows import expires
from leasehold.cli.words import is_true

Json = dict[str, Any]

_HOLDING = ("held", "releasing", "quarantined")


def run(options: argparse.Namespace) -> int:
    """Change the pool's brake; return the exit code."""
    policy, said = "HoldAndDrain", "draining"
    if options.hold:
        policy, said = "Hold", "held: nothing new is granted"
    if options.undo:
        policy, said = "None", "granting again"
    if options.wait and policy != "HoldAndDrain":
        raise CliError("--wait is for draining: --hold and --undo have nothing to wait for", 2)
    cluster = connect(options)
    try:
        pool = cluster.patch(POOLS.path(name=options.pool), {"spec": {"stopPolicy": policy}})
        sys.stdout.write(f"pool/{options.pool} {said}\n")
        return _wait(cluster, pool, options.timeout) if options.wait else 0
    finally:
        cluster.close()


def _wait(cluster: Cluster, pool: Json, timeout: float | None) -> int:
    name, generation = pool["metadata"]["name"], pool["metadata"]["generation"]
    progress = Progress()

    def counts(found: Json) -> dict[str, int]:
        leases = (found.get("status") or {}).get("leases") or {}
        return {what: leases.get(what, 0) for what in _HOLDING}

    def told(found: Json) -> bool:
        seen = (found.get("status") or {}).get("observedGeneration") or 0
        return bool(seen >= generation) and is_true(found, "Draining")

    def look(found: Json) -> None:
        left = counts(found)
        progress.say(
            f"{left['held']} leases are held, {left['releasing']} are going, {left['quarantined']} are stuck"
        )

    try:
        found = cluster.until(
            POOLS,
            "",
            name,
            lambda found: told(found) and not any(counts(found).values()),
            timeout=timeout,
            look=look,
        )
    finally:
        progress.done()
    if found is not None:
        sys.stdout.write(f"pool/{name} is empty\n")
        return 0
    _show_rest(cluster, name)
    raise CliError(
        f"pool {name} is not empty after {timeout} s; the leases above still hold some of it", TOO_LATE
    )


def _show_rest(cluster: Cluster, pool: str) -> None:
    """Print who still holds something."""
    try:
        leases = cluster.list(LEASES.path(), fieldSelector=f"spec.poolRef.name={pool}")
    except Refused:
        return  # not everybody may look into all namespaces
    rows = [
        (
            lease["metadata"]["namespace"],
            lease["metadata"]["name"],
            ((lease["spec"].get("holder") or {}).get("identity")) or "<none>",
            expires(lease, cluster.now()),
        )
        for lease in leases
        if is_true(lease, "Allocated") and not is_true(lease, "Released")
    ]
    if rows:
        Table(("NAMESPACE", "NAME", "HOLDER", "EXPIRES"), sys.stderr).write(rows)
