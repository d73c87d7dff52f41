"""`leasehold completion`: scripts that complete command lines, made from the command lines themselves.

The scripts are complete by themselves. Only for the names of leases and pools do they ask the cluster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Final, NamedTuple

from leasehold.cli.lines import LINES
from leasehold.cli.main import COMMANDS

_LEASES: Final = "leases"
_POOLS: Final = "pools"
_FILES: Final = "files"
_OF_METAVAR: Final = {"LEASE": _LEASES, "POOL": _POOLS, "FILE": _FILES}
_KINDS: Final = ("leases", "pools", "reports")


class Option(NamedTuple):
    """An option: how it may be written, what it is for, and what may follow it ("" in `source`: nothing known)."""

    flags: tuple[str, ...]
    help: str
    takes: bool
    choices: tuple[str, ...]
    source: str


class Line(NamedTuple):
    """A command with its options and what it takes besides."""

    name: str
    help: str
    options: tuple[Option, ...]
    choices: tuple[str, ...]
    source: str


def run(options: argparse.Namespace) -> int:
    """Print the script; return the exit code."""
    made = {"bash": bash, "zsh": zsh, "fish": fish, "kubectl": kubectl}[options.shell]
    sys.stdout.write(made(lines()))
    return 0


def lines() -> list[Line]:
    """Return all commands."""
    found = [_line(name, command.help) for name, command in COMMANDS.items()]
    return [*found, Line("version", "print the version", (), (), "")]


def _line(name: str, help_: str) -> Line:
    if name not in LINES:  # started by machines, which complete nothing
        return Line(name, help_, (), (), "")
    options: list[Option] = []
    choices: list[str] = []
    source = ""
    for action in LINES[name]()._actions:
        values = tuple(str(choice) for choice in action.choices or () if choice)
        if action.option_strings:
            options.append(_option(action, values))
            continue
        choices += values or (_KINDS if action.metavar == "KIND" else ())
        source = source or _OF_METAVAR.get(str(action.metavar), "")
        if name == "get" and action.metavar == "NAME":
            source = _LEASES
    return Line(name, help_, tuple(options), tuple(choices), source)


def _option(action: argparse.Action, values: tuple[str, ...]) -> Option:
    source = _POOLS if "--pool" in action.option_strings else _OF_METAVAR.get(str(action.metavar), "")
    help_ = (action.help or "").replace("%%", "%")
    return Option(tuple(action.option_strings), help_, action.nargs != 0, values, source)


# --- bash, and kubectl, which asks a program ---

_BASH_NAMES: Final = """\
__leasehold_names() {
  local ns=() i
  for ((i = 1; i < ${#COMP_WORDS[@]} - 1; i++)); do
    case ${COMP_WORDS[i]} in
      -n | --namespace | --context | --kubeconfig) ns+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}") ;;
    esac
  done
  "${__leasehold[@]}" get "$1" -o name --request-timeout 3s "${ns[@]}" 2>/dev/null | sed 's|.*/||; /[^-a-z0-9.]/d'
}
"""


def bash(found: Iterable[Line]) -> str:
    """Return the script for bash."""
    return (
        "# bash completion of leasehold; made by: leasehold completion bash\n"
        "__leasehold=(leasehold)\n"
        + _bash_functions(list(found))
        + "complete -o default -F _leasehold leasehold kubectl-leasehold\n"
    )


def kubectl(found: Iterable[Line]) -> str:
    """Return the program that kubectl asks to complete a plugin's command line."""
    return (
        "#!/usr/bin/env bash\n"
        "# kubectl_complete-leasehold: kubectl asks it; made by: leasehold completion kubectl\n"
        "__leasehold=(kubectl-leasehold)\n" + _bash_functions(list(found)) + 'COMP_WORDS=(leasehold "$@")\n'
        "COMP_CWORD=$#\n"
        "_leasehold\n"
        '[ ${#COMPREPLY[@]} -eq 0 ] || printf "%s\\n" "${COMPREPLY[@]}"\n'
        'echo ":4"  # and no names of files\n'
    )


def _bash_functions(found: list[Line]) -> str:
    after = []
    words = []
    for line in found:
        for option in line.options:
            if option.takes:
                pattern = " | ".join(f'"{line.name} {flag}"' for flag in option.flags)
                after.append(f"    {pattern}) {_bash_reply(option.choices, option.source)} ;;")
        flags = " ".join(flag for option in line.options for flag in option.flags)
        words.append(f"    {line.name}) flags={flags!r}; {_bash_reply(line.choices, line.source)} ;;")
    names = " ".join(line.name for line in found)
    return (
        _BASH_NAMES
        + "_leasehold() {\n"
        + '  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags=""\n'
        + "  COMPREPLY=()\n"
        + '  if [ "$COMP_CWORD" -eq 1 ]; then\n'
        + f'    COMPREPLY=($(compgen -W "{names}" -- "$cur"))\n'
        + "    return\n"
        + "  fi\n"
        + '  case "${COMP_WORDS[1]} $prev" in\n'
        + "\n".join(f"{row[:-3]}; return ;;" for row in after)
        + "\n  esac\n"
        + '  case "${COMP_WORDS[1]}" in\n'
        + "\n".join(words)
        + "\n  esac\n"
        + '  case "$cur" in -*) COMPREPLY=($(compgen -W "$flags" -- "$cur")) ;; esac\n'
        + "}\n"
    )


def _bash_reply(choices: tuple[str, ...], source: str) -> str:
    if source == _FILES:
        return 'COMPREPLY=($(compgen -f -- "$cur"))'
    words = " ".join(choices)
    if source:
        # Names cost a question to the cluster: not while options are completed.
        words = f"{words} $([[ $cur == -* ]] || __leasehold_names {source})".strip()
    return f'COMPREPLY=($(compgen -W "{words}" -- "$cur"))'


# --- zsh ---


def zsh(found: Iterable[Line]) -> str:
    """Return the script for zsh."""
    known = list(found)
    described = "\n".join(f"    {_quoted(f'{line.name}:{line.help}')}" for line in known)
    cases = []
    for line in known:
        specs = [_zsh_option(option) for option in line.options]
        if line.choices or line.source:
            specs.append(f"'*:: :{_zsh_action(line.choices, line.source)}'")
        if specs:
            cases.append(f"    {line.name}) _arguments -s \\\n      " + " \\\n      ".join(specs) + " ;;")
    return (
        "#compdef leasehold kubectl-leasehold\n"
        "# zsh completion of leasehold; made by: leasehold completion zsh\n"
        "__leasehold_names() {\n"
        "  local -a names\n"
        "  names=(${(f)\"$(leasehold get $1 -o name --request-timeout 3s 2>/dev/null | sed 's|.*/||')\"})\n"
        "  compadd -a names\n"
        "}\n"
        "_leasehold() {\n"
        "  local -a commands\n"
        f"  commands=(\n{described}\n  )\n"
        "  if (( CURRENT == 2 )); then _describe command commands; return; fi\n"
        "  local command=$words[2]\n"
        "  words=(${words[2,-1]})\n"
        "  (( CURRENT-- ))\n"
        "  case $command in\n" + "\n".join(cases) + "\n  esac\n"
        "}\n"
        'if [ "$funcstack[1]" = _leasehold ]; then\n  _leasehold "$@"\n'
        "else\n  compdef _leasehold leasehold kubectl-leasehold\nfi\n"
    )


def _zsh_option(option: Option) -> str:
    help_ = option.help.replace("[", "(").replace("]", ")").replace(":", " -")
    value = f": :{_zsh_action(option.choices, option.source)}" if option.takes else ""
    spec = _quoted(f"[{help_}]{value}")
    if len(option.flags) == 1:
        return f"{option.flags[0]}{spec}"
    return f"'({' '.join(option.flags)})'{{{','.join(option.flags)}}}{spec}"


def _zsh_action(choices: tuple[str, ...], source: str) -> str:
    if source == _FILES:
        return "_files"
    if source and not choices:
        return f"__leasehold_names {source}"
    return f"({' '.join(choices)})" if choices else " "


# --- fish ---


def fish(found: Iterable[Line]) -> str:
    """Return the script for fish."""
    known = list(found)
    rows = [
        "# fish completion of leasehold; made by: leasehold completion fish",
        "function __leasehold_names",
        "  leasehold get $argv[1] -o name --request-timeout 3s 2>/dev/null | string replace -r '.*/' ''",
        "end",
    ]
    for program in ("leasehold", "kubectl-leasehold"):
        rows.append(f"complete -c {program} -f")
        for line in known:
            rows.append(
                f"complete -c {program} -n __fish_use_subcommand -a {line.name} -d {_quoted(line.help)}"
            )
            within = f"complete -c {program} -n '__fish_seen_subcommand_from {line.name}'"
            if line.choices or line.source:
                rows.append(f"{within} -a {_fish_words(line.choices, line.source)}")
            for option in line.options:
                flags = " ".join(
                    f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
                )
                value = ""
                if option.takes:
                    words = (
                        "" if option.source == _FILES else f" -a {_fish_words(option.choices, option.source)}"
                    )
                    value = f" {'-r -F' if option.source == _FILES else '-x'}{words}"
                rows.append(f"{within} {flags}{value} -d {_quoted(option.help)}")
    return "\n".join(rows) + "\n"


def _fish_words(choices: tuple[str, ...], source: str) -> str:
    names = f"(__leasehold_names {source})" if source and source != _FILES else ""
    return _quoted(" ".join([*choices, *([names] if names else [])]))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
