"""`leasehold quote`: what a lease would get, without taking it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any, Final

from leasehold.cli.cluster import LEASES, Cluster, condition, connect, namespace_of
from leasehold.cli.options import REFUSED, TOO_LATE, CliError
from leasehold.cli.output import clock, moment, plain, resources, span, write_document
from leasehold.cli.progress import Progress
from leasehold.cli.request import lease_of
from leasehold.cli.words import is_over, is_refused

Json = dict[str, Any]

LATER: Final = 3
NEVER: Final = 4

_SOON_SECONDS: Final = 2.0
_KEPT_SECONDS: Final = 60
_WOULD_NOT: Final = "It would not start: "
_SEE: Final = " See status.counterOffer."


def run(options: argparse.Namespace) -> int:
    """Ask, print the answer, and return the exit code."""
    cluster = connect(options)
    try:
        namespace = namespace_of(options, cluster)
        lease = lease_of(options, namespace)
        progress = Progress()
        progress.say("waiting for the operator's answer")
        try:
            answered = ask(cluster, lease, options.timeout)
        finally:
            progress.done()
        if options.output:
            write_document(answer_of(answered), options.output)
        else:
            sys.stdout.write("\n".join(in_words(answered, cluster.now())) + "\n")
        return _code(answered, cluster.now())
    finally:
        cluster.close()


def ask(cluster: Cluster, lease: Json, timeout: float) -> Json:
    """Have the operator answer a request and return the lease with its answer, which is gone by then.

    Raises CliError when no answer comes in time.
    """
    metadata = {key: lease["metadata"][key] for key in ("namespace",)} | {"generateName": "quote-"}
    # Should we be killed before we remove it, the operator does.
    spec = {**lease["spec"], "mode": "DryRun", "ttlSecondsAfterFinished": _KEPT_SECONDS}
    made = cluster.create(LEASES.path(metadata["namespace"]), {**lease, "metadata": metadata, "spec": spec})
    name, namespace, uid = (made["metadata"][key] for key in ("name", "namespace", "uid"))
    try:
        found = cluster.until(
            LEASES, namespace, name, lambda lease: is_over(lease) or is_refused(lease), timeout=timeout
        )
    finally:
        cluster.delete(LEASES.path(namespace, name), uid)
    if found is None:
        raise CliError(
            f"no answer within {timeout} s: is the operator running? See `leasehold doctor`", TOO_LATE
        )
    return found


def answer_of(lease: Mapping[str, Any]) -> Json:
    """Return the answer without the object around it."""
    status = lease.get("status") or {}
    ready = condition(lease, "Allocated") or condition(lease, "Ready")
    accepted = condition(lease, "Accepted")
    refused = accepted if accepted.get("status") == "False" else {}
    return {
        "resources": lease["spec"].get("resources"),
        "count": lease["spec"].get("count", 1),
        "quote": status.get("quote"),
        "counterOffer": status.get("counterOffer"),
        "rejections": status.get("rejections") or [],
        "reason": refused.get("reason") or ready.get("reason"),
        "message": refused.get("message")
        or condition(lease, "Finished").get("message")
        or ready.get("message"),
    }


def in_words(lease: Mapping[str, Any], now: float) -> list[str]:
    """Return the answer in lines for people."""
    found = answer_of(lease)
    count = found["count"]
    what = (f"{count}x " if count != 1 else "") + resources(found["resources"])
    quote, offer = found["quote"], found["counterOffer"]
    if quote:
        start = moment(quote["startTime"]) or now
        when = (
            "now"
            if start - now < _SOON_SECONDS
            else f"at {clock(quote['startTime'], now)} (in {span(start - now)})"
        )
        lines = [f"{what} would start {when} in pool {quote['pool']}"]
        if quote.get("nodes"):
            lines.append(f"  on       {', '.join(dict.fromkeys(quote['nodes']))}")
        if quote.get("victims"):
            lines.append(f"  ending   {', '.join(quote['victims'])}")
    else:
        why = str(found["message"] or found["reason"]).removeprefix(_WOULD_NOT).replace(_SEE, "")
        lines = [f"{what} would not start: {why}"]
    # When all of it would start is said already.
    instead = {key: value for key, value in (offer or {}).items() if key != "startTime" or not quote}
    lines += [f"  instead  {line}" for line in offers(instead, now)]
    return [plain(line) for line in lines]


def offers(offer: Mapping[str, Any], now: float) -> list[str]:
    """Return what could be had instead, in a line for each way."""
    lines = []
    if offer.get("pool"):
        lines.append(f"the same from pool {offer['pool']}, now")
    if offer.get("resources"):
        count = offer.get("count") or 1
        lines.append((f"{count}x " if count != 1 else "") + resources(offer["resources"]) + ", now")
    start = moment(offer.get("startTime"))
    if start is not None and start - now >= _SOON_SECONDS:
        lines.append(f"the same, at {clock(offer['startTime'], now)} (in {span(start - now)})")
    return lines


def _code(lease: Mapping[str, Any], now: float) -> int:
    found = answer_of(lease)
    if found["quote"]:
        start = moment(found["quote"]["startTime"])
        return 0 if start is None or start - now < _SOON_SECONDS else LATER
    return REFUSED if condition(lease, "Accepted").get("status") == "False" else NEVER
