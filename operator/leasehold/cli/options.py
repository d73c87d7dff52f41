"""Options that several commands share, and how every command starts and fails."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from leasehold.reporter.arguments import Parser

FAILURE: Final = 1
WRONG_USE: Final = 2
REFUSED: Final = 122
"""What was asked for cannot be granted as it is."""
LOST: Final = 123
"""The lease was lost, and what ran under it was ended."""
TOO_LATE: Final = 124
"""It did not come to pass in the time that was given."""
FAILED: Final = 125
"""`acquire` failed before it ran anything."""
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_UNITS: Final = (86_400, 3_600, 60, 1)
_LONGEST: Final = 31_536_000
_LABEL: Final = re.compile(r"[-A-Za-z0-9_./]+")


class CliError(Exception):
    """What a person asked for could not be done. The message says whose fault it is, and what to do."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.code = code


def program() -> str:
    """Return what people type before the command: ours, or kubectl's where it runs us as a plugin."""
    return "kubectl leasehold" if os.path.basename(sys.argv[0]).startswith("kubectl-") else "leasehold"


def parser_of(command: str, description: str, examples: Sequence[str] = (), *, notes: str = "") -> Parser:
    """Return the parser of one command."""
    called = f"{program()} {command}"
    shown = "\n".join(f"  {called} {example}".rstrip() for example in examples)
    parts = [f"examples:\n{shown}"] if examples else []
    return Parser(
        prog=called,
        description=description,
        epilog="\n\n".join([*parts, *([notes] if notes else [])]),
        allow_abbrev=False,
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which cluster, and as whom: those of kubectl."""
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--kubeconfig", default="", metavar="FILE", help="instead of KUBECONFIG and ~/.kube/config"
    )
    group.add_argument("--context", default="", metavar="NAME", help="context of it (the current one)")
    group.add_argument("--cluster", default="", metavar="NAME", help="cluster of it (the context's)")
    group.add_argument("--user", default="", metavar="NAME", help="user of it (the context's)")
    group.add_argument(
        "--request-timeout",
        type=seconds,
        default=30,
        metavar="TIME",
        help="how long one request may last (30s)",
    )


def add_namespace(parser: argparse.ArgumentParser, *, every: bool = False) -> None:
    """Add -n, and -A where a command can look at all namespaces."""
    where = parser.add_mutually_exclusive_group() if every else parser
    where.add_argument("-n", "--namespace", default="", metavar="NAME", help="namespace (the context's)")
    if every:
        where.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")


def add_output(parser: argparse.ArgumentParser, *forms: str) -> None:
    """Add -o."""
    parser.add_argument(
        "-o",
        "--output",
        choices=forms,
        default="",
        metavar="FORM",
        help=f"form: {', '.join(forms)} (a table)",
    )


def seconds(text: str) -> int:
    """Read a time such as 90, 90s, 10m or 1h30m; return whole seconds."""
    found = _DURATION.fullmatch(f"{text}s" if text.isdecimal() else text)
    total = 0
    if found is not None:
        total = sum(int(part or 0) * unit for part, unit in zip(found.groups(), _UNITS, strict=True))
    if found is None or not text or total > _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s, 10m or 1h30m, up to 365d")
    return total


def labels(text: str) -> dict[str, str]:
    """Read labels such as zone=a,disk=ssd."""
    found = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not _LABEL.fullmatch(key) or (value and not _LABEL.fullmatch(value)):
            raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE,KEY=VALUE")
        found[key] = value
    return found


def interactive() -> bool:
    """Tell whether somebody watches standard error, for whom progress is worth a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def complain(command: str, error: object) -> None:
    """Say on standard error what went wrong."""
    from leasehold.cli.output import plain

    sys.stderr.write(f"{program()} {command}: {plain(str(error), lines=True)}\n")


def guarded(command: str, module: str, options: argparse.Namespace) -> int:
    """Run a command; say what went wrong in words, and return the exit code."""
    from importlib import import_module

    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # what it has no letters for is written as standard error does
        sys.stdout.reconfigure(errors="backslashreplace")
    failure = FAILED if command == "acquire" else FAILURE  # 1 is for the command that it runs
    try:
        from leasehold.adapters.credentials import CredentialsError
        from leasehold.adapters.lean_http import UnreachableError

        try:
            with _ended_like_ctrl_c():
                code = int(import_module(module).run(options))
            sys.stdout.flush()
            return code
        except (CliError, CredentialsError) as error:
            complain(command, error)
            code = getattr(error, "code", FAILURE)
            return failure if code == FAILURE else code
        except UnreachableError as error:
            complain(
                command, f"{error}\nIs this the cluster that you mean? See `kubectl config current-context`."
            )
            return failure
    except _Ended as ended:
        return 128 + ended.number
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


class _Ended(KeyboardInterrupt):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end a command as Ctrl-C does: what it began is withdrawn. CI systems send them."""

    def end(number: int, _: object) -> None:
        raise _Ended(number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and its like are obeyed
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
