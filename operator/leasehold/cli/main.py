"""The command ``leasehold``: names what there is, and imports only what was asked for."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

from leasehold import __version__
from leasehold.reporter.arguments import Parser

FAILURE: Final = 1


class Command(NamedTuple):
    """A subcommand: the module whose ``main(argv)`` it is, and the extra that its imports come with."""

    module: str
    extra: str
    help: str


COMMANDS: Final = {
    "reporter": Command("leasehold.reporter.main", "reporter", "measure this node and keep its NodeReport"),
    "operator": Command("leasehold.controller", "operator", "decide who gets capacity, and for how long"),
    "simulate": Command("leasehold.cli.simulate", "sim", "replay a log or a trace without a cluster"),
    "record": Command("leasehold.cli.record", "operator", "write what a cluster's leases did into a trace"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code (1: it failed, 2: the command line is wrong)."""
    described = (
        *((name, command.help) for name, command in COMMANDS.items()),
        ("version", "print the version"),
    )
    parser = Parser(
        prog="leasehold",
        description="Lend out a Kubernetes cluster's capacity for a time.",
        epilog="commands:\n" + "\n".join(f"  {name:10}{what}" for name, what in described),
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
        run = import_module(command.module).main
    except ModuleNotFoundError as error:
        print(
            f"leasehold {name}: the Python package {error.name} is missing; "
            f"install it with: pip install 'leasehold[{command.extra}]'",
            file=sys.stderr,
        )
        return FAILURE
    return int(run(arguments) or 0)


if __name__ == "__main__":
    sys.exit(main())
