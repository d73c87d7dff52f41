"""`leasehold doctor`: whether an installation works, and what to do where it does not."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from leasehold import __version__
from leasehold.cli.cluster import (
    API,
    GROUP,
    KINDS,
    LEASES,
    POOLS,
    REPORTS,
    Cluster,
    Refused,
    condition,
    connect,
    namespace_of,
)
from leasehold.cli.options import CliError
from leasehold.cli.output import moment, plain, span, styled, terminal_width, write_document

Json = Mapping[str, Any]

WRONG: Final = 3
WARNED: Final = 4

OK, WARNING, BAD, UNKNOWN = "ok", "warning", "wrong", "unknown"
_STYLE: Final = {OK: "good", WARNING: "warn", BAD: "bad", UNKNOWN: "dim"}

_CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_ELECTION_LABEL: Final = "leasehold.dev/election=shard"
_VERSION_LABEL: Final = "app.kubernetes.io/version"
_OLDEST_MINOR: Final = 32
_SKEW_SECONDS: Final = 5.0
_SILENCE_SECONDS: Final = 330.0
"""A reporter whose figures stand still writes when it looks after 5 minutes, unless set otherwise."""
_PERIOD_SECONDS: Final = 5
_EVER_SECONDS: Final = 1e9
_SHOWN: Final = 5
_NARROWEST: Final = 40
_RIGHTS: Final = (
    ("list", LEASES.plural, True, "see leases", "leasehold-viewer"),
    ("create", LEASES.plural, True, "take leases", "leasehold-editor"),
    ("patch", LEASES.plural, True, "renew and release leases", "leasehold-editor"),
    ("list", POOLS.plural, False, "see pools", "leasehold-viewer (by a ClusterRoleBinding)"),
    ("list", REPORTS.plural, False, "see reports", "leasehold-viewer (by a ClusterRoleBinding)"),
    ("patch", POOLS.plural, False, "drain pools", "leasehold-admin"),
)
_ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
_MUTATING: Final = "release-finalizer.leasehold.dev"
_POLICIES: Final = {
    _MUTATING: "the finalizer of new leases is added late, by the operator",
    "leasehold-statuses": "whoever may write an object may write its status",
    "leasehold-reports": "a reporter may write the report of any node",
    "leasehold-marks": "whoever may write a lease may lift its finalizer",
}
"""Policies, and what is possible without them. Those of a chart have its release's name before theirs."""


class Finding(NamedTuple):
    """One thing that was looked at: how it is, what was seen, and what to do about it."""

    check: str
    state: str
    seen: str
    remedy: str = ""


def run(options: argparse.Namespace) -> int:
    """Check everything; return the exit code."""
    cluster = connect(options)
    try:
        found = list(_Checks(cluster, namespace_of(options, cluster), options.system_namespace).all())
    finally:
        cluster.close()
    if options.output:
        write_document([row._asdict() for row in found], options.output)
    else:
        _write(found)
    states = {row.state for row in found}
    return WRONG if BAD in states else WARNED if states & {WARNING, UNKNOWN} else 0


def _write(found: list[Finding]) -> None:
    width = max(len(row.check) for row in found)
    indent = " " * (len(WARNING) + 2 + width + 2)
    columns = max(terminal_width(sys.stdout) - len(indent), _NARROWEST)
    for row in found:
        mark = styled(row.state.ljust(len(WARNING)), _STYLE[row.state])
        first, *rest = _wrapped(plain(row.seen), columns)
        sys.stdout.write(f"{mark}  {row.check.ljust(width)}  {first}\n")
        sys.stdout.writelines(f"{indent}{line}\n" for line in rest)
        if row.remedy:
            first, *rest = _wrapped(plain(row.remedy), columns - 4)
            sys.stdout.write(f"{indent}{styled('do:', 'bold')} {first}\n")
            sys.stdout.writelines(f"{indent}    {line}\n" for line in rest)
    bad, warned = (sum(row.state == state for row in found) for state in (BAD, WARNING))
    sys.stdout.write(f"\n{len(found)} checks: {bad} wrong, {warned} warnings\n")


def _wrapped(text: str, width: int) -> list[str]:
    from textwrap import wrap

    return wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


class _Checks:
    def __init__(self, cluster: Cluster, namespace: str, system: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._system = system

    def all(self) -> Iterator[Finding]:
        """Yield what every check found. One that may not look says so; the rest go on."""
        yield from self._server()
        served = True
        for finding in self._definitions():
            served = served and finding.state != BAD
            yield finding
        checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
            ("rights", self._rights),
            ("policies", self._policies),
            ("operator", self._operator),
            ("version", self._versions),
        )
        if served:
            checks = (*checks, ("pools", self._pools), ("reports", self._reports), ("leases", self._leases))
        for name, check in checks:
            try:
                yield from check()
            except Refused as refusal:
                if refusal.status == 403:
                    yield Finding(name, UNKNOWN, "you may not look at this", str(refusal).partition("\n")[2])
                else:
                    yield Finding(name, BAD, str(refusal).partition("\n")[0])

    def _server(self) -> Iterator[Finding]:
        sent = time.time()
        try:
            version = self._cluster.get("/version")
        except Refused as refusal:
            raise CliError(str(refusal)) from refusal
        received = time.time()
        shown = str(version.get("gitVersion", "?"))
        minor = int("".join(filter(str.isdigit, str(version.get("minor", "")))) or 0)
        where = f"{shown} at {self._cluster.access.credentials.server}"
        if minor and minor < _OLDEST_MINOR:
            yield Finding("API server", WARNING, where, f"use Kubernetes 1.{_OLDEST_MINOR} or newer")
        else:
            yield Finding("API server", OK, where)
        date = self._cluster.date()
        if date is None:
            yield Finding("clock", UNKNOWN, "the API server told no time")
            return
        # The Date header is cut to the second: the server's time was at least that, and less than a second more.
        ahead = max(sent - (date + 1), date - received, 0.0)
        if ahead > _SKEW_SECONDS:
            yield Finding(
                "clock",
                WARNING,
                f"this machine's clock is off by {span(ahead)} from the API server's",
                "check the time service here; leases end by the operator's clock, not by yours",
            )
        else:
            yield Finding("clock", OK, "this machine's clock agrees with the API server's")

    def _definitions(self) -> Iterator[Finding]:
        try:
            served = {row["name"]: row for row in self._cluster.get(f"/apis/{API}").get("resources") or ()}
        except Refused as refusal:
            if refusal.status != 404:
                raise
            yield Finding(
                "definitions",
                BAD,
                f"{API} is not served",
                "install Leasehold: helm install leasehold, or kubectl apply --server-side -f crds/",
            )
            return
        missing = [kind.plural for kind in KINDS if kind.plural not in served]
        if missing:
            yield Finding(
                "definitions",
                BAD,
                f"{API} is served without {', '.join(missing)}",
                "apply all of crds/ of this version: kubectl apply --server-side -f crds/",
            )
        else:
            yield Finding("definitions", OK, f"{API} is served with all kinds")
        yield from self._fields()

    def _fields(self) -> Iterator[Finding]:
        """Look whether the definitions are as new as this command."""
        try:
            found = [self._cluster.get(f"{_CRDS}/{kind.plural}.{GROUP}") for kind in KINDS]
        except Refused:
            return  # not for everybody to see, and nothing hangs on it
        for crd in found:
            for type_ in ("Established", "NamesAccepted"):
                row = condition(crd, type_)
                if row.get("status") != "True":
                    yield Finding(
                        "definitions",
                        BAD,
                        f"{crd['metadata']['name']}: {type_}={row.get('status')}: {row.get('message')}",
                        "another definition may have its names; see kubectl get crd",
                    )

    def _rights(self) -> Iterator[Finding]:
        may: list[tuple[str, str]] = []
        may_not: list[tuple[str, str]] = []
        for verb, plural, namespaced, what, role in _RIGHTS:
            asked = {"verb": verb, "group": GROUP, "resource": plural}
            if namespaced:
                asked["namespace"] = self._namespace
            answer = self._cluster.ask(
                "POST",
                _REVIEWS,
                {
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": asked},
                },
            )
            allowed = bool((answer.get("status") or {}).get("allowed"))
            (may if allowed else may_not).append((what, role))
        where = f"in namespace {self._namespace}"
        if may:
            yield Finding("rights", OK, f"{where} you may {', '.join(what for what, _ in may)}")
        if may_not:
            roles = ", ".join(dict.fromkeys(role for _, role in may_not))
            # To drain is for few; the rest is what everybody needs who borrows.
            needed = [what for what, role in may_not if role != "leasehold-admin"]
            yield Finding(
                "rights",
                WARNING if needed else OK,
                f"{where} you may not {', '.join(what for what, _ in may_not)}",
                f"if you need to, ask for the ClusterRole {roles}" if needed else "",
            )

    def _policies(self) -> Iterator[Finding]:
        bound, wanted = set(), dict(_POLICIES)
        for kind in ("validatingadmissionpolicy", "mutatingadmissionpolicy"):
            try:
                bindings = self._cluster.list(f"{_ADMISSION}/{kind}bindings")
            except Refused as refusal:
                if refusal.status != 404:  # an older server has no mutating ones, and the operator does it
                    raise
                wanted.pop(_MUTATING, None)
                continue
            bound |= {str((row.get("spec") or {}).get("policyName")) for row in bindings}
        missing = [name for name in wanted if not any(name in policy for policy in bound)]
        for name in missing:
            yield Finding(
                "policies",
                WARNING,
                f"{name} is not in force: {_POLICIES[name]}",
                "install it with the chart, or from manifests/policies.yaml and crds/finalizer-policy.yaml",
            )
        if not missing:
            yield Finding("policies", OK, f"all {len(wanted)} are in force")

    def _operator(self) -> Iterator[Finding]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._system}/leases"
        shards = self._cluster.list(path, labelSelector=_ELECTION_LABEL)
        if not shards:
            yield Finding(
                "operator",
                BAD,
                f"no operator ever led in namespace {self._system}",
                "start it, or name its namespace with --system-namespace; see kubectl get pods -A -l "
                "app.kubernetes.io/name=leasehold",
            )
            return
        for shard in shards:
            yield self._leader(shard, len(shards))

    def _leader(self, shard: Json, shards: int) -> Finding:
        spec = shard.get("spec") or {}
        of = f" of shard {shard['metadata']['name'].rpartition('-')[2]}" if shards > 1 else ""
        holder, renewed = spec.get("holderIdentity"), moment(spec.get("renewTime"))
        if not holder or renewed is None:
            return Finding(
                "operator", BAD, f"nobody leads{of}", f"is it running? kubectl get pods -n {self._system}"
            )
        silent = self._cluster.now() - renewed
        if silent > 2 * (spec.get("leaseDurationSeconds") or 15):
            return Finding(
                "operator",
                BAD,
                f"the leader{of}, {holder}, has been silent for {span(silent)}",
                f"nothing is granted meanwhile; see kubectl get pods -n {self._system} and the operator's log",
            )
        return Finding("operator", OK, f"{holder} leads{of}, heard of {span(max(silent, 0))} ago")

    def _versions(self) -> Iterator[Finding]:
        path = f"/apis/apps/v1/namespaces/{self._system}/deployments"
        found = self._cluster.list(path, labelSelector="app.kubernetes.io/name=leasehold")
        versions = sorted({str(row["metadata"]["labels"].get(_VERSION_LABEL)) for row in found} - {"None"})
        if versions and versions != [__version__]:
            yield Finding(
                "version",
                WARNING,
                f"the operator is {', '.join(versions)}, this command is {__version__}",
                f"use a command of the operator's version: pip install 'leasehold[cli]=={versions[-1]}'",
            )
        elif versions:
            yield Finding("version", OK, f"operator and command are {__version__}")
        else:
            yield Finding(
                "version",
                OK,
                f"this command is {__version__}; no Deployment says what the operator is",
            )

    def _pools(self) -> Iterator[Finding]:
        pools = self._cluster.list(POOLS.path())
        if not pools:
            yield Finding("pools", WARNING, "there are none", "declare one: see examples/01-shortest.yaml")
            return
        wrong = [pool for pool in pools if condition(pool, "Ready").get("status") != "True"]
        for pool in wrong[:_SHOWN]:
            ready = condition(pool, "Ready")
            reason = ready.get("reason") or "NotSeen"
            meaning = ready.get("message") or _pool_meaning(reason) or "no operator has looked at it"
            meant = reason in ("PoolHeld", "PoolDraining")
            yield Finding(
                "pools",
                WARNING if meant else BAD,
                f"{pool['metadata']['name']} grants nothing: {reason}: {meaning}",
                f"leasehold drain {pool['metadata']['name']} --undo, if that is not meant"
                if meant
                else _of_pool(pool),
            )
        if len(wrong) > _SHOWN:
            yield Finding("pools", BAD, f"{len(wrong) - _SHOWN} more grant nothing", "leasehold get pools")
        if len(wrong) < len(pools):
            yield Finding("pools", OK, f"{len(pools) - len(wrong)} of {len(pools)} grant leases")
        for pool in pools:
            books = condition(pool, "LedgerConsistent")
            if books.get("status") == "False":
                yield Finding(
                    "pools",
                    BAD,
                    f"{pool['metadata']['name']}: the books do not agree with the leases: {books.get('message')}",
                    "keep the operator's log and `kubectl get cpool,clease -A -o yaml`, and report it",
                )

    def _reports(self) -> Iterator[Finding]:
        reports = self._cluster.list(REPORTS.path())
        if not reports:
            if any(map(_measures, self._cluster.list(POOLS.path()))):
                yield Finding(
                    "reports",
                    WARNING,
                    "no node reports what it has",
                    "are the reporters running? Pools with source Allocatable or Fixed lend without them",
                )
            else:
                yield Finding("reports", OK, "there are none, and no pool needs any")
            return
        late = {
            row["metadata"]["name"]: self._cluster.now()
            - (moment((row.get("status") or {}).get("reportTime")) or 0)
            for row in reports
        }
        periods = {
            row["metadata"]["name"]: (row.get("spec") or {}).get("reportPeriodSeconds", _PERIOD_SECONDS)
            for row in reports
        }
        stale = {name: silent for name, silent in late.items() if silent > _SILENCE_SECONDS + periods[name]}
        if stale:
            shown = ", ".join(
                f"{name} ({span(silent) if silent < 10**8 else 'never'})"
                for name, silent in sorted(stale.items())[:_SHOWN]
            )
            yield Finding(
                "reports",
                BAD,
                f"{len(stale)} of {len(reports)} nodes are silent: {shown}",
                f"is the reporter running there? kubectl get pods -n {self._system} -o wide",
            )
        else:
            yield Finding("reports", OK, f"all {len(reports)} nodes have reported")
        skewed = [
            row["metadata"]["name"]
            for row in reports
            if condition(row, "ClockSynced").get("status") == "False"
        ]
        if skewed:
            yield Finding(
                "reports",
                WARNING,
                f"the clocks of {', '.join(skewed[:_SHOWN])} differ from the API server's",
                "check the time service there",
            )

    def _leases(self) -> Iterator[Finding]:
        try:
            leases = self._cluster.list(LEASES.path())
        except Refused as refusal:
            if refusal.status != 403:
                raise
            leases = self._cluster.list(LEASES.path(self._namespace))
        stuck = [row for row in leases if condition(row, "Released").get("reason") == "Quarantined"]
        unseen = [row for row in leases if not (row.get("status") or {}).get("conditions") and self._old(row)]
        if stuck:
            names = ", ".join(
                f"{row['metadata']['namespace']}/{row['metadata']['name']}" for row in stuck[:_SHOWN]
            )
            yield Finding(
                "leases",
                WARNING,
                f"{len(stuck)} ended, and a node did not confirm it: {names}",
                "look at the node in status.release.lastError, then annotate leasehold.dev/force-release=true",
            )
        if unseen:
            yield Finding(
                "leases",
                BAD,
                f"{len(unseen)} of {len(leases)} were never looked at",
                "is the operator running, and does it serve this cluster?",
            )
        if not stuck and not unseen:
            yield Finding("leases", OK, f"{len(leases)} seen, none is stuck")

    def _old(self, lease: Json) -> bool:
        made = moment(lease["metadata"].get("creationTimestamp"))
        return made is not None and self._cluster.now() - made > 30


def _measures(pool: Json) -> bool:
    """Tell whether a pool lends by what reporters measure."""
    rows: list[Json] = (pool.get("spec") or {}).get("resources") or [{}]
    return any(row.get("source", "Measured") == "Measured" for row in rows)


def _of_pool(pool: Json) -> str:
    return {
        "NoNodes": "correct spec.nodeSelector, or label nodes",
        "NoGrantableNodes": f"see status.nodes: {_nodes_in_words(pool)}",
    }.get(str(condition(pool, "Ready").get("reason")), f"kubectl describe cpool {pool['metadata']['name']}")


def _nodes_in_words(pool: Json) -> str:
    nodes = (pool.get("status") or {}).get("nodes") or {}
    return (
        ", ".join(f"{count} {what}" for what, count in nodes.items() if count and what != "total")
        or "none counts"
    )


def _pool_meaning(reason: object) -> str:
    from leasehold.api.names import PoolReason

    return next((item.meaning for item in PoolReason if item == reason), "")
