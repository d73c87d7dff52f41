"""``leasehold reporter``: options in, a running reporter or one printed report out."""

import argparse
import json
import os
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from leasehold import __version__
from leasehold.adapters.cgroups import Cgroups
from leasehold.adapters.credentials import Credentials, CredentialsError, in_cluster
from leasehold.adapters.host import PROCFS, Host, HostReadError, Meter, Mount, resident_bytes
from leasehold.adapters.lean_http import Client
from leasehold.core.estimators import ClockOffset
from leasehold.core.reporting import (
    MAX_FILESYSTEMS,
    Conditions,
    History,
    Instructions,
    Json,
    Pace,
    Pacing,
    status_of,
)
from leasehold.reporter.arguments import Parser
from leasehold.reporter.conversation import Conversation
from leasehold.reporter.endpoint import Endpoint
from leasehold.reporter.link import Alarm, Link
from leasehold.reporter.log import LEVELS, Log
from leasehold.reporter.loop import Reporter, World
from leasehold.reporter.metrics import Metrics

FAILURE: Final = 1

_NODE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_FILESYSTEM_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the reporter, or print one report; return the exit code (1: it failed, 2: the options are wrong)."""
    parser = _parser()
    options = parser.parse_args(argv)
    node = options.node_name or environ.get("NODE_NAME") or socket.gethostname().lower()
    if not _NODE_NAME.fullmatch(node):
        parser.error(f"{node!r} cannot be a node's name; give it by --node-name or NODE_NAME")
    try:
        if options.once:
            return _once(options, node)
        return _serve(options, node, _credentials(parser, options, environ))
    except (CredentialsError, HostReadError) as error:
        sys.stderr.write(f"leasehold reporter: {error}\n")
        return FAILURE


def _parser() -> Parser:
    parser = Parser(
        prog="leasehold reporter",
        description="Measure this node and keep its NodeReport up to date.",
        epilog="In a pod the service account is used. A kubeconfig is used only when it is named.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--once", action="store_true", help="print what a report would say, and end; needs no API server")
    add("-o", "--output", choices=("json", "table"), default="table", help="form of --once (table)")
    add(
        "--interval",
        metavar="SECONDS",
        type=_seconds,
        default=1.0,
        help="seconds between the two readings of --once (1)",
    )
    add("--node-name", metavar="NAME", help="name of the node (NODE_NAME, else the hostname)")
    add("--kubeconfig", metavar="FILE", help="how to reach the API server, outside a pod")
    add("--server", metavar="URL", help="the API server, instead of a kubeconfig")
    add("--ca-file", metavar="FILE", default="", help="CA certificate of --server (the system's)")
    add(
        "--token-file",
        metavar="FILE",
        default="",
        help="bearer token for --server; read again when it changes",
    )
    add(
        "--filesystem",
        metavar="NAME=PATH",
        type=_mount,
        action="append",
        help="filesystem to report, by any path on it; ephemeral-storage is counted on the one named nodefs"
        " (nodefs=/var/lib/kubelet, or / without one). Can be given several times",
    )
    add(
        "--procfs",
        metavar="DIR",
        default=PROCFS,
        help="the node's /proc, where the usual one is a container's",
    )
    add("--cgroup-root", metavar="DIR", help="the node's /sys/fs/cgroup, to tell the use of leases in a pod")
    add(
        "--threshold-percent",
        metavar="PERCENT",
        type=_share,
        default=5.0,
        help="write when a figure moved by so much of capacity (5)",
    )
    add(
        "--silence-seconds",
        type=_seconds,
        default=300.0,
        help="write after so long even if nothing moved (300)",
    )
    add(
        "--request-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="seconds for one request in all (10)",
    )
    add(
        "--http-port",
        metavar="PORT",
        type=_port,
        help="serve /metrics and /healthz there; 0 takes a free port and logs it (nothing is served)",
    )
    add("--http-host", metavar="ADDRESS", default="127.0.0.1", help="address of --http-port (127.0.0.1)")
    add("--log-level", choices=LEVELS, default="info", help="least level of the events logged (info)")
    return parser


def _seconds(text: str) -> float:
    seconds = _number(text)
    if not 0.1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 86400 seconds")
    return seconds


def _port(text: str) -> int:
    port = _number(text)
    if port not in range(65_536):
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return int(port)


def _share(text: str) -> float:
    percent = _number(text)
    if not 0.1 <= percent <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 100")
    return percent


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _mount(text: str) -> Mount:
    name, _, path = text.partition("=")
    if not _FILESYSTEM_NAME.fullmatch(name) or not path.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=/PATH, as in nodefs=/var/lib/kubelet")
    return Mount(name, path)


def _mounts(options: argparse.Namespace) -> tuple[Mount, ...] | None:
    """Return the filesystems asked for, the last one of a name; None for the usual one."""
    if not options.filesystem:
        return None
    return tuple({mount.name: mount for mount in options.filesystem}.values())[:MAX_FILESYSTEMS]


def _credentials(parser: Parser, options: argparse.Namespace, environ: Mapping[str, str]) -> Credentials:
    if options.kubeconfig and options.server:
        parser.error("--kubeconfig and --server exclude each other")
    if options.kubeconfig:
        from leasehold.adapters.kubeconfig import from_kubeconfig  # a pod has none

        return from_kubeconfig(options.kubeconfig)
    if options.server:
        return Credentials(options.server, ca_file=options.ca_file, token_file=options.token_file)
    credentials = in_cluster(environ)
    if credentials is None:
        _no_server(parser)
    return credentials


def _no_server(parser: Parser) -> NoReturn:
    parser.error("this is not a pod; give --kubeconfig or --server, or --once to print a report only")


def _chance() -> float:
    """Return a number evenly from 0 to 1; ``random`` would cost the reporter a third of a megabyte."""
    return int.from_bytes(os.urandom(4)) / 2**32


def _once(options: argparse.Namespace, node: str) -> int:
    host, meter = Host(_mounts(options), options.procfs), Meter()
    history, conditions = History(Instructions()), Conditions()
    surroundings = host.surroundings()
    history.add(host.sample(), surroundings.cores)
    time.sleep(options.interval)
    surroundings = host.surroundings()
    history.add(host.sample(), surroundings.cores)
    offset, cost, now_ms = ClockOffset(), meter.read(), int(time.time() * 1000)
    status = status_of(
        history,
        surroundings,
        conditions.rows(conditions.judge(history, offset, cost), now_ms),
        cost=cost,
        offset=offset,
        sequence=0,
        now_ms=now_ms,
        version=__version__,
    )
    sys.stdout.write(_printed(options.output, node, status))
    return 0


def _printed(form: str, node: str, status: Json) -> str:
    if form == "json":
        return json.dumps(status, indent=2) + "\n"
    from leasehold.reporter.table import table  # only people need it

    return table(node, status)


def _serve(options: argparse.Namespace, node: str, credentials: Credentials) -> int:
    log, alarm = Log(options.log_level), Alarm()
    client = Client(
        credentials, user_agent=f"leasehold-reporter/{__version__}", timeout=options.request_timeout
    )
    client.prepare()
    pace = Pace(Pacing(round(options.threshold_percent * 10), options.silence_seconds))
    conditions = Conditions()
    conversation = Conversation(node, pace, conditions, log, _chance)
    host = Host(_mounts(options), options.procfs)
    metrics = Metrics(__version__, resident_bytes)
    reporter = Reporter(
        World(
            host=host,
            cgroups=Cgroups(options.cgroup_root),
            link=Link(client, alarm.ring),
            cost=Meter().read,
            monotonic=time.monotonic,
            wall=time.time,
        ),
        history=History(conversation.instructions),
        conditions=conditions,
        pace=pace,
        conversation=conversation,
        log=log,
        version=__version__,
        metrics=metrics,
    )
    if options.http_port is not None:
        try:
            endpoint = Endpoint(options.http_host, options.http_port, metrics.page, reporter.wrong)
        except OSError as error:
            sys.stderr.write(
                f"leasehold reporter: cannot listen on {options.http_host}:{options.http_port}: {error}\n"
            )
            return FAILURE
        log.info("listening", address=options.http_host, port=endpoint.port)
    log.info("started", node=node, server=credentials.server, version=__version__)
    with alarm.on_signals():
        reporter.run(alarm.sleep)
    log.info("ended", node=node)
    return 0
