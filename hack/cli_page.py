"""docs/reference/cli.md, from the command lines themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from leasehold import controller
from leasehold.cli import record, simulate
from leasehold.cli.lines import LINES
from leasehold.cli.main import COMMANDS
from leasehold.reporter import main as reporter

HEADER: Final = (
    "<!-- Generated from operator/leasehold/cli/lines.py and its like; do not edit. Change those and run:"
    " make generate -->\n"
)
INTRODUCTION: Final = """
# Commands

`leasehold COMMAND --help` shows the same. With `kubectl-leasehold` in the PATH each is `kubectl leasehold COMMAND`,
too. What they are for, and what their exit codes mean, is in [the guide](../cli.md).
"""
OTHERS: Final = {
    "simulate": simulate.parser,
    "record": record.parser,
    "operator": controller.parser,
    "reporter": reporter.parser,
}


def page() -> str:
    """Return the page as Markdown."""
    parsers = {name: made() for name, made in {**LINES, **OTHERS}.items()}
    rows = [f"| [`{name}`](#{name}) | {command.help} |" for name, command in COMMANDS.items()]
    parts = [HEADER + INTRODUCTION, "| Command | Meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n"]
    parts += [_command(name, parsers[name]) for name in COMMANDS]
    return "\n".join(parts)


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    positional = [action for action in parser._actions if not action.option_strings]
    taken = "".join(f" {_written(action)}" for action in positional)
    after = " [-- COMMAND ...]" if name == "acquire" else ""
    parts = [
        f"## {name}\n",
        f"{parser.description}\n",
        f"```text\n{parser.prog}{taken} [OPTIONS]{after}\n```\n",
        "| Argument or option | Meaning |\n| --- | --- |\n" + "".join(_rows(parser)),
    ]
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog}\n```\n")
    return "\n".join(parts)


def _written(action: argparse.Action) -> str:
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name)


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if "-h" in action.option_strings:
            continue
        written = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{_written(action)}`"
        if action.option_strings and action.nargs != 0:
            written += f" `{action.metavar or '|'.join(map(str, action.choices or (action.dest.upper(),)))}`"
        help_ = (action.help or "").replace("%%", "%")
        if action.choices and not help_:
            help_ = ", ".join(map(str, action.choices)) + (f" ({action.default})" if action.default else "")
        yield f"| {_cell(written)} | {_cell(help_)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
