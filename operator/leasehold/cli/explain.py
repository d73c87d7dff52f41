"""`leasehold explain`: why a lease waits, whom for, until when, and what would fit instead."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any, Final

from leasehold.cli.cluster import LEASES, POOLS, Cluster, Refused, condition, connect, namespace_of
from leasehold.cli.options import CliError
from leasehold.cli.output import Table, age, clock, moment, plain, resources, span, styled, write_document
from leasehold.cli.quote import ask, offers
from leasehold.cli.rows import parent_of
from leasehold.cli.words import in_the_way, is_over, is_refused, is_true, standing

Json = Mapping[str, Any]

_SHOWN: Final = 5
_ANSWER_SECONDS: Final = 10


def run(options: argparse.Namespace) -> int:
    """Explain a lease; return the exit code."""
    cluster = connect(options)
    try:
        namespace = namespace_of(options, cluster)
        lease = cluster.get(LEASES.path(namespace, options.name))
        told = _Explanation(cluster, lease, asks=not options.read_only)
        if options.output:
            write_document(told.document(), options.output)
        else:
            told.write()
        return 0
    finally:
        cluster.close()


class _Explanation:
    """What can be said of one lease."""

    def __init__(self, cluster: Cluster, lease: Json, *, asks: bool) -> None:
        self._cluster = cluster
        self._lease = lease
        self._waits = not is_over(lease) and not is_true(lease, "Allocated")
        self._pool, self._pool_unknown = self._read_pool()
        self._line, self._line_unknown = self._read_line() if self._waits else ([], "")
        self._offer, self._offer_unknown = self._ask() if asks and self._waits else ({}, "")

    def document(self) -> dict[str, Any]:
        """Return all of it for programs."""
        status = self._lease.get("status") or {}
        why = in_the_way(self._lease)
        return {
            "namespace": self._lease["metadata"]["namespace"],
            "name": self._lease["metadata"]["name"],
            "pool": (self._lease["spec"].get("poolRef") or {}).get("name"),
            "standing": standing(self._lease, self._cluster.now()),
            "reason": why.get("reason"),
            "message": why.get("message"),
            "meaning": _meaning(why.get("reason"), self._lease),
            "deadlines": status.get("deadlines"),
            "queue": status.get("queue"),
            "rejections": status.get("rejections") or [],
            "ahead": [
                {"namespace": row["metadata"]["namespace"], "name": row["metadata"]["name"]}
                for row in self._line
            ],
            "quote": (self._offer.get("status") or {}).get("quote"),
            "counterOffer": (self._offer.get("status") or {}).get("counterOffer"),
            "unknown": [
                text for text in (self._pool_unknown, self._line_unknown, self._offer_unknown) if text
            ],
        }

    def write(self) -> None:
        """Print it for people."""
        now = self._cluster.now()
        metadata = self._lease["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        say(f"{styled(name, 'bold')} {plain(standing(self._lease, now))}.")
        self._why()
        self._until(now)
        if self._waits:
            self._nodes()
            self._ahead(now)
            self._instead(now)
        for text in (self._pool_unknown, self._line_unknown, self._offer_unknown):
            if text:
                say(f"\n{plain(text)}")

    def _why(self) -> None:
        why = in_the_way(self._lease)
        if not why:
            return
        heading("why")
        say(plain(f"  {why.get('type')}={why.get('status')}, {why.get('reason')}"))
        meaning, message = _meaning(why.get("reason"), self._lease), str(why.get("message") or "")
        if message or meaning:
            say(f"  {plain(message or meaning)}")
        for type_ in ("Ready", "Degraded", "LedgerConsistent", "TenantsValid"):
            found = condition(self._pool, type_)
            bad = "True" if type_ == "Degraded" else "False"
            if found.get("status") == bad:
                said = str(found.get("message") or _pool_meaning(found.get("reason")))
                say(plain(f"  Its pool: {type_}={bad}, {found.get('reason')}: {said}"))

    def _until(self, now: float) -> None:
        deadlines = (self._lease.get("status") or {}).get("deadlines") or {}
        if self._waits or is_over(self._lease) or not deadlines:
            return
        heading("until when")
        upcoming = deadlines.get("next") or {}
        at = moment(upcoming.get("time"))
        if at is not None:
            from leasehold.api.names import DeadlineCause

            cause = str(upcoming.get("cause"))
            meaning = next((item.meaning for item in DeadlineCause if item == cause), cause)
            away = f"in {span(at - now)}" if at > now else "now"
            say(f"  next: {clock(upcoming['time'], now)} ({away}): {meaning}")
        for key, what in (
            ("claimTime", "the holder must have shown up"),
            ("heartbeatTime", "the next heartbeat is due"),
            ("expirationTime", "the term ends, unless it is renewed"),
            ("maxExpirationTime", "no renewal goes further"),
            ("revocationTime", "the capacity is taken back"),
        ):
            if deadlines.get(key) and deadlines[key] != upcoming.get("time"):
                say(f"  {clock(deadlines[key], now)}: {what}")

    def _nodes(self) -> None:
        rows = (self._lease.get("status") or {}).get("rejections") or ()
        if not rows:
            return
        from leasehold.api.names import RejectionReason

        heading("nodes")
        cells = []
        for row in rows:
            reason = str(row.get("reason"))
            meaning = next((item.meaning for item in RejectionReason if item == reason), "")
            if row.get("shortBy"):
                meaning = f"the best of them lacks {row['shortBy']}"
            what = f"{reason} {row['resource']}" if row.get("resource") else reason
            cells.append(
                (f"{row.get('nodes')} {'node' if row.get('nodes') == 1 else 'nodes'}", what, meaning)
            )
        Table(("", "", ""), headed=False).write(cells, indent="  ")

    def _ahead(self, now: float) -> None:
        if not self._line:
            return
        heading(f"ahead in line ({len(self._line)})")
        cells = [
            (
                row["metadata"]["namespace"],
                row["metadata"]["name"],
                str(row["spec"].get("priority", 0)),
                _wanted(row),
                age(row["metadata"].get("creationTimestamp"), now),
            )
            for row in self._line[:_SHOWN]
        ]
        Table(("NAMESPACE", "NAME", "PRIORITY", "RESOURCES", "AGE")).write(cells, indent="  ")
        if len(self._line) > _SHOWN:
            say(f"  and {len(self._line) - _SHOWN} more")

    def _instead(self, now: float) -> None:
        status = self._offer.get("status") or {}
        lines = offers(status.get("counterOffer") or {}, now)
        quote = status.get("quote") or {}
        if quote.get("victims"):
            lines.append(f"the same, ending {', '.join(quote['victims'])}")
        if lines:
            heading("what would fit instead")
            for line in lines:
                say(f"  {plain(line)}")

    def _read_pool(self) -> tuple[Json, str]:
        name = (self._lease["spec"].get("poolRef") or {}).get("name")
        if not name:
            return {}, ""
        try:
            return self._cluster.get(POOLS.path(name=name)), ""
        except Refused as refusal:
            return {}, f"The pool could not be read: {refusal}" if refusal.status != 404 else ""

    def _read_line(self) -> tuple[list[Json], str]:
        """Return who waits before it for the same pool, or the same parent, as far as their status tells."""
        name = (self._lease["spec"].get("poolRef") or {}).get("name")
        mine = _place(self._lease)
        if not name or is_refused(self._lease):
            return [], ""
        unknown = ""
        own = LEASES.path(self._lease["metadata"]["namespace"])
        query = {"fieldSelector": f"spec.poolRef.name={name}"}
        try:
            found = self._cluster.list(own if _family(self._lease) else LEASES.path(), **query)
        except Refused as refusal:
            if refusal.status != 403:
                raise
            found = self._cluster.list(own, **query)
            unknown = "Leases of other namespaces may be ahead, too: you may not look at them."
        waiting = [
            lease
            for lease in found
            if lease["metadata"]["uid"] != self._lease["metadata"]["uid"]
            and _family(lease) == _family(self._lease)
            and _place(lease) < mine
            and not is_true(lease, "Allocated")
            and not is_over(lease)
            and not is_refused(lease)
        ]
        return sorted(waiting, key=_place), unknown

    def _ask(self) -> tuple[Json, str]:
        spec = {
            key: value
            for key, value in self._lease["spec"].items()
            if key in ("poolRef", "resources", "count", "placement", "priority", "durationSeconds", "tenant")
        }
        if "poolRef" not in spec or parent_of(self._lease):
            return {}, ""  # nobody answers for a pool that is to be chosen, nor for a parent
        metadata = {"namespace": self._lease["metadata"]["namespace"]}
        request = {**self._lease, "metadata": metadata, "spec": spec}
        request.pop("status", None)
        try:
            return ask(self._cluster, request, _ANSWER_SECONDS), ""
        except Refused as refusal:
            if refusal.status != 403:
                raise
            return {}, "What would fit instead was not asked: you may not create leases here."
        except CliError as error:
            return {}, f"What would fit instead was asked: {error}"


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")


def heading(text: str) -> None:
    """Print a heading."""
    say("\n" + styled(text.upper(), "dim"))


def _family(lease: Json) -> tuple[str, str] | None:
    """Return whose part a lease is, by namespace and name; None for one of the pool itself."""
    parent = parent_of(lease)
    return (lease["metadata"]["namespace"], parent) if parent else None


def _place(lease: Json) -> tuple[float, str]:
    """Return where a lease stands in line: its place, else by priority and age as the queue begins with."""
    place = ((lease.get("status") or {}).get("queue") or {}).get("approximatePosition")
    return (float(place) if place else float("inf"), str(lease["metadata"].get("creationTimestamp")))


def _wanted(lease: Json) -> str:
    count = lease["spec"].get("count", 1)
    return (f"{count}x " if count != 1 else "") + resources(lease["spec"].get("resources"))


def _meaning(reason: object, lease: Json) -> str:
    from leasehold.api.names import LeaseReason

    if reason == "Held" and not is_true(lease, "Ready"):
        return ""
    return next((item.meaning for item in LeaseReason if item == reason), "")


def _pool_meaning(reason: object) -> str:
    from leasehold.api.names import PoolReason

    return next((item.meaning for item in PoolReason if item == reason), "")
