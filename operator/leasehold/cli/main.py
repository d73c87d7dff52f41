"""The command ``leasehold``: names what there is, and imports only what was asked for."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

from leasehold import __version__
from leasehold.cli.options import program
from leasehold.reporter.arguments import Parser

FAILURE: Final = 1


class Command(NamedTuple):
    """A subcommand: its module, the extra that its imports come with, and what it is for.

    For those of people the module has ``run(options)``, and `cli.lines` their command line. The others have
    ``main(argv)``.
    """

    module: str
    extra: str
    help: str
    for_people: bool = False


COMMANDS: Final = {
    "get": Command("leasehold.cli.get", "cli", "print leases, pools or node reports", True),
    "top": Command("leasehold.cli.top", "cli", "print what pools lend and nodes use", True),
    "acquire": Command("leasehold.cli.acquire", "cli", "take a lease, or run a command under one", True),
    "release": Command("leasehold.cli.release", "cli", "give leases back", True),
    "renew": Command("leasehold.cli.renew", "cli", "renew leases", True),
    "explain": Command("leasehold.cli.explain", "cli", "say why a lease waits, and until when", True),
    "quote": Command("leasehold.cli.quote", "cli", "ask what a lease would get", True),
    "drain": Command("leasehold.cli.drain", "cli", "empty a pool", True),
    "doctor": Command("leasehold.cli.doctor", "cli", "check an installation", True),
    "simulate": Command("leasehold.cli.simulate", "sim", "replay a log or a trace without a cluster"),
    "record": Command("leasehold.cli.record", "operator", "write what a cluster's leases did into a trace"),
    "operator": Command("leasehold.controller", "operator", "decide who gets capacity, and for how long"),
    "reporter": Command("leasehold.reporter.main", "reporter", "measure this node and keep its NodeReport"),
    "completion": Command("leasehold.cli.completion", "cli", "print a script that completes lines", True),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code (1: it failed, 2: the command line is wrong)."""
    described = (
        *((name, command.help) for name, command in COMMANDS.items()),
        ("version", "print the version"),
    )
    parser = Parser(
        prog=program(),
        description="Lend out a Kubernetes cluster's capacity for a time.",
        epilog="commands:\n" + "\n".join(f"  {name:12}{what}" for name, what in described),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"leasehold {__version__}")
    parser.add_argument("command", choices=(*COMMANDS, "version"), metavar="COMMAND", help="what to run")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="its options; see COMMAND --help"
    )
    options = parser.parse_args(argv)
    if options.command == "version":
        print(f"leasehold {__version__}")
        return 0
    return _run(options.command, options.arguments)


def _run(name: str, arguments: list[str]) -> int:
    command = COMMANDS[name]
    try:
        if command.for_people:
            from leasehold.cli.lines import LINES
            from leasehold.cli.options import guarded

            options, run = arguments, None
            if name == "acquire" and "--" in arguments:
                at = arguments.index("--")
                options, run = arguments[:at], arguments[at + 1 :]
            parsed = LINES[name]().parse_args(options)
            parsed.run = run
            return guarded(name, command.module, parsed)
        return int(import_module(command.module).main(arguments) or 0)
    except ModuleNotFoundError as error:
        print(
            f"{program()} {name}: the Python package {error.name} is missing; "
            f"install it with: pip install 'leasehold[{command.extra}]'",
            file=sys.stderr,
        )
        return FAILURE


if __name__ == "__main__":
    sys.exit(main())
