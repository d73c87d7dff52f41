"""The command lines of what people run: which options there are, and what they mean.

Apart from what the commands do, so that `--help`, completion and the reference need none of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Final

from leasehold.cli.options import (
    add_cluster,
    add_namespace,
    add_output,
    labels,
    parser_of,
    seconds,
)
from leasehold.reporter.arguments import Parser

MODES: Final = ("Any", "SameNode", "SameDomain", "DistinctNodes")
LIVENESS: Final = ("None", "Renew")
SHELLS: Final = ("bash", "zsh", "fish")


def get() -> Parser:
    """Return the command line of `get`."""
    made = parser_of(
        "get",
        "Print leases, pools or node reports.",
        ("", "leases -A -o wide", "pools", "lease build-42 -o yaml", "leases --pool ci --watch"),
    )
    made.add_argument(
        "kind", nargs="?", default="leases", metavar="KIND", help="leases, pools or reports (leases)"
    )
    made.add_argument("names", nargs="*", metavar="NAME", help="only these")
    made.add_argument(
        "-l", "--selector", default="", metavar="LABELS", help="only with these labels: a=b,c!=d"
    )
    made.add_argument("--field-selector", default="", metavar="FIELDS", help="only with these fields")
    made.add_argument("--pool", default="", metavar="NAME", help="only leases of this pool")
    made.add_argument("-w", "--watch", action="store_true", help="print what changes, until Ctrl-C")
    made.add_argument("--no-headers", action="store_true", help="no headings")
    add_namespace(made, every=True)
    add_output(made, "wide", "name", "json", "yaml")
    add_cluster(made)
    return made


def top() -> Parser:
    """Return the command line of `top`."""
    made = parser_of(
        "top",
        "Print what pools lend and have left, and what nodes use.",
        ("", "pools ci", "nodes", "--live"),
        notes="--live needs the Python package textual: pip install 'leasehold[tui]'",
    )
    made.add_argument(
        "what",
        nargs="?",
        default="",
        choices=("pools", "nodes", ""),
        metavar="WHAT",
        help="pools or nodes (both)",
    )
    made.add_argument("names", nargs="*", metavar="NAME", help="only these")
    made.add_argument("-l", "--selector", default="", metavar="LABELS", help="only with these labels")
    made.add_argument("--live", action="store_true", help="keep it on the screen, and up to date")
    made.add_argument(
        "--interval", type=seconds, default=2, metavar="TIME", help="how often --live looks again (2s)"
    )
    add_output(made, "json", "yaml")
    add_cluster(made)
    return made


def acquire() -> Parser:
    """Return the command line of `acquire`."""
    made = parser_of(
        "acquire",
        "Take a lease: for as long as a command runs, or until it is released.",
        (
            "--pool ci --cpu 2 --memory 4Gi -- make test",
            "--pool ci --cpu 8 --timeout 10m -- ./train.sh",
            "build-42 --pool ci --cpu 2 --duration 1h --wait",
        ),
        notes="The command gets LEASEHOLD_LEASE, LEASEHOLD_NAMESPACE, LEASEHOLD_POOL, LEASEHOLD_TOKEN and\n"
        "LEASEHOLD_NODES in its environment. The lease is renewed while it runs, and released after it. If the\n"
        "lease is about to be lost, the command is ended before: SIGTERM, then SIGKILL.\n\n"
        "exit codes: the command's own; 128+N if signal N ended it; 122 the request was refused; 123 the lease was\n"
        "lost and the command ended for that; 124 not granted in time; 125 another failure; 126 the command cannot\n"
        "be run; 127 it was not found",
    )
    made.add_argument("name", nargs="?", default="", metavar="NAME", help="of the lease (a new one)")
    _add_request(made)
    made.add_argument(
        "--wait", action="store_true", help="without a command: wait until it is granted (with one, always)"
    )
    made.add_argument(
        "--timeout",
        type=seconds,
        default=None,
        metavar="TIME",
        help="how long to wait for the grant; 0: not at all (for ever)",
    )
    made.add_argument(
        "--liveness",
        choices=LIVENESS,
        default="None",
        help="without a command: Renew needs `renew` before each heartbeat deadline, None does not (None)",
    )
    made.add_argument(
        "--kill-after",
        type=seconds,
        default=10,
        metavar="TIME",
        help="how long the command may take to end after SIGTERM (10s)",
    )
    made.add_argument("-q", "--quiet", action="store_true", help="no progress while it waits")
    add_namespace(made)
    add_output(made, "name", "json", "yaml")
    add_cluster(made)
    return made


def _add_request(made: argparse.ArgumentParser) -> None:
    """Add the options that say what is asked for."""
    group = made.add_argument_group("what is asked for")
    pool = group.add_mutually_exclusive_group()
    pool.add_argument("--pool", default="", metavar="NAME", help="pool to borrow from")
    pool.add_argument(
        "--pool-selector", type=labels, default={}, metavar="LABELS", help="or any pool with these labels"
    )
    group.add_argument("--cpu", default="", metavar="CORES", help="of one slice: 2 or 500m")
    group.add_argument("--memory", default="", metavar="BYTES", help="of one slice: 4Gi")
    group.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="NAME=AMOUNT",
        help="of one slice: ephemeral-storage=10Gi; may be given several times",
    )
    group.add_argument("--count", type=int, default=1, metavar="N", help="so many slices, all or nothing (1)")
    group.add_argument(
        "--placement",
        choices=MODES,
        default="",
        metavar="MODE",
        help=f"how they lie: {', '.join(MODES)} (Any)",
    )
    group.add_argument(
        "--topology-key", default="", metavar="LABEL", help="the domain of --placement SameDomain"
    )
    group.add_argument(
        "--node-selector", type=labels, default={}, metavar="LABELS", help="only nodes with these labels"
    )
    group.add_argument(
        "--duration", type=seconds, default=None, metavar="TIME", help="term of the lease (the pool's)"
    )
    group.add_argument("--priority", type=int, default=0, metavar="N", help="before others of its tenant (0)")
    group.add_argument("--tenant", default="", metavar="NAME", help="tenant of the pool (the namespace's)")
    group.add_argument("--holder", default="", metavar="NAME", help="who uses it (you, at this host)")


def quote() -> Parser:
    """Return the command line of `quote`."""
    made = parser_of(
        "quote",
        "Ask what a lease would get, and take nothing: where, when, at whose cost, or what else would fit.",
        ("--pool ci --cpu 8", "--pool-selector tier=gpu --cpu 4 --count 3 -o json"),
        notes="exit codes: 0 it would start now, 3 it would start later, 4 it would not start, 122 it is refused",
    )
    _add_request(made)
    made.add_argument(
        "--timeout", type=seconds, default=30, metavar="TIME", help="how long to wait for the answer (30s)"
    )
    add_namespace(made)
    add_output(made, "json", "yaml")
    add_cluster(made)
    return made


def release() -> Parser:
    """Return the command line of `release`."""
    made = parser_of("release", "Give leases back.", ("build-42", "build-42 --wait", "-l ci-run=77"))
    made.add_argument("names", nargs="*", metavar="LEASE", help="which")
    made.add_argument("-l", "--selector", default="", metavar="LABELS", help="those with these labels")
    made.add_argument(
        "--delete", action="store_true", help="delete the objects too, instead of keeping the record"
    )
    made.add_argument("--wait", action="store_true", help="until their capacity is free")
    made.add_argument("--timeout", type=seconds, default=None, metavar="TIME", help="of --wait (for ever)")
    add_namespace(made)
    add_cluster(made)
    return made


def renew() -> Parser:
    """Return the command line of `renew`."""
    made = parser_of(
        "renew",
        "Renew leases: the term counts from now, and a heartbeat is given.",
        ("build-42", "build-42 --duration 1h"),
    )
    made.add_argument("names", nargs="+", metavar="LEASE", help="which")
    made.add_argument(
        "--duration",
        type=seconds,
        default=None,
        metavar="TIME",
        help="a new term, from now on (the present one)",
    )
    made.add_argument(
        "--timeout",
        type=seconds,
        default=30,
        metavar="TIME",
        help="how long to wait for the operator's answer (30s)",
    )
    add_namespace(made)
    add_cluster(made)
    return made


def explain() -> Parser:
    """Return the command line of `explain`."""
    made = parser_of(
        "explain",
        "Say where a lease stands: why it waits, whom for, until when, and what would fit instead.",
        ("build-42", "build-42 -n team-a --read-only"),
    )
    made.add_argument("name", metavar="LEASE", help="which")
    made.add_argument(
        "--read-only",
        action="store_true",
        help="do not ask what would fit: that makes a lease of mode DryRun, and removes it",
    )
    add_namespace(made)
    add_output(made, "json", "yaml")
    add_cluster(made)
    return made


def drain() -> Parser:
    """Return the command line of `drain`."""
    made = parser_of(
        "drain",
        "Empty a pool: nothing new is granted, and its leases end after their grace.",
        ("ci", "ci --wait --timeout 10m", "ci --hold", "ci --undo"),
    )
    made.add_argument("pool", metavar="POOL", help="which")
    how = made.add_mutually_exclusive_group()
    how.add_argument("--hold", action="store_true", help="only grant nothing new; leases stay")
    how.add_argument("--undo", action="store_true", help="let it grant again")
    made.add_argument("--wait", action="store_true", help="until no lease holds anything")
    made.add_argument("--timeout", type=seconds, default=None, metavar="TIME", help="of --wait (for ever)")
    add_cluster(made)
    return made


def doctor() -> Parser:
    """Return the command line of `doctor`."""
    made = parser_of(
        "doctor",
        "Check an installation, and what you may do with it; say what to do about what is wrong.",
        ("", "-n team-a", "-o json"),
        notes="exit codes: 0 nothing is wrong, 1 it could not be checked, 3 something is wrong, 4 warnings only",
    )
    made.add_argument(
        "--system-namespace",
        default="leasehold-system",
        metavar="NAME",
        help="where the operator runs (leasehold-system)",
    )
    add_namespace(made)
    add_output(made, "json", "yaml")
    add_cluster(made)
    return made


def completion() -> Parser:
    """Return the command line of `completion`."""
    made = parser_of(
        "completion",
        "Print a script that completes command lines.",
        (),
        notes="to use it:\n"
        "  bash: leasehold completion bash > ~/.local/share/bash-completion/completions/leasehold\n"
        "  zsh:  leasehold completion zsh > ~/.zfunc/_leasehold   (with fpath+=~/.zfunc before compinit)\n"
        "  fish: leasehold completion fish > ~/.config/fish/completions/leasehold.fish\n"
        "  kubectl: leasehold completion kubectl > DIR/kubectl_complete-leasehold; chmod +x it, DIR in PATH",
    )
    made.add_argument(
        "shell", choices=(*SHELLS, "kubectl"), metavar="SHELL", help="bash, zsh, fish or kubectl"
    )
    return made


LINES: Final[Mapping[str, Callable[[], Parser]]] = {
    "get": get,
    "top": top,
    "acquire": acquire,
    "release": release,
    "renew": renew,
    "explain": explain,
    "quote": quote,
    "drain": drain,
    "doctor": doctor,
    "completion": completion,
}
