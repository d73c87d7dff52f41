"""`leasehold renew`: a new term from now on, and a heartbeat."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Any

from leasehold.cli.cluster import LEASES, Cluster, Refused, condition, connect, namespace_of
from leasehold.cli.options import TOO_LATE, CliError, complain
from leasehold.cli.output import clock, moment, span
from leasehold.cli.words import in_the_way, is_over, is_true, standing

Json = dict[str, Any]


def run(options: argparse.Namespace) -> int:
    """Renew leases; return the exit code."""
    cluster = connect(options)
    try:
        namespace = namespace_of(options, cluster)
        code = 0
        for name in options.names:
            try:
                _renew(cluster, namespace, name, options.duration, options.timeout)
            except (CliError, Refused) as error:
                complain("renew", error)
                code = max(code, error.code)
        return code
    finally:
        cluster.close()


def _renew(cluster: Cluster, namespace: str, name: str, duration: int | None, timeout: float) -> None:
    path = LEASES.path(namespace, name)
    lease = cluster.get(path)
    if is_over(lease) or not is_true(lease, "Allocated"):
        raise CliError(f"{name} {standing(lease, cluster.now())}; only a lease that is held can be renewed")
    # The text only has to be another one than before; the operator counts from when it sees it.
    written = datetime.fromtimestamp(cluster.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec: Json = {"renewTime": written}
    if duration is not None:
        spec["durationSeconds"] = duration
    cluster.patch(path, {"spec": spec})

    def answered(found: Json) -> bool:
        renewal = (found.get("status") or {}).get("renewal") or {}
        return renewal.get("observedRenewTime") == written or is_over(found)

    found = cluster.until(LEASES, namespace, name, answered, timeout=timeout)
    if found is None:
        raise CliError(
            f"{name} was asked to be renewed, and the operator has not answered within {timeout} s; "
            "is it running? See `leasehold doctor`",
            TOO_LATE,
        )
    before, after = _counted(lease), _counted(found)
    if is_over(found) or is_true(found, "DisruptionTarget"):
        raise CliError(f"{name} {standing(found, cluster.now())}; it was too late to renew it")
    deadlines = (found.get("status") or {}).get("deadlines") or {}
    end = deadlines.get("expirationTime")
    now = cluster.now()
    left = span(max((moment(end) or 0) - now, 0))
    if after == before:
        why = condition(found, "ExpiringSoon")
        reason = (
            why.get("message") or why.get("reason") or in_the_way(found).get("message") or "the pool's policy"
        )
        raise CliError(f"{name} was not renewed: {reason}; it ends at {clock(end, now)} (in {left})")
    sys.stdout.write(f"lease/{name} renewed until {clock(end, now)} (in {left})\n")
    if end == deadlines.get("maxExpirationTime"):
        sys.stderr.write(
            f"{name} cannot be renewed further: the pool lends no longer, or the room is promised\n"
        )


def _counted(lease: Json) -> int:
    return int(((lease.get("status") or {}).get("renewal") or {}).get("count") or 0)
