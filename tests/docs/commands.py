"""Stands before kubectl, helm, make, leasehold and others in shells that try the blocks of pages.

Most commands run as they stand. What this stage cannot do, because nothing runs in its pods, or because it would take
an hour or end the stage, is looked at: the command and its options must exist, and so must what it is about. Whatever
was only looked at is written to the file DOCS_LOOKED_AT.

    python tests/docs/commands.py kubectl get clease -A
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = "http://127.0.0.1:8080"
"""Where pages say that the operator listens."""

_VALUED = {"-n", "--namespace", "--context", "--kubeconfig", "-c", "--tail", "--since"}
_CANNOT = {"top", "port-forward", "exec", "attach", "edit", "drain", "debug"}


def run(*command: str | Path) -> NoReturn:
    os.execv(command[0], [str(part) for part in command])


def looked_at(command: Sequence[str]) -> None:
    with Path(os.environ["DOCS_LOOKED_AT"]).open("a") as log:
        log.write(" ".join(command) + "\n")


def options_exist(command: Sequence[str | Path], options: Sequence[str]) -> None:
    """Fail unless the help of a command knows every option."""
    asked = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=False)
    if asked.returncode:
        sys.exit(f"{' '.join(map(str, command))}: no such command\n{asked.stderr}")
    for option in options:
        name = option.partition("=")[0]
        if name.startswith("-") and not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", asked.stdout):
            sys.exit(f"{' '.join(map(str, command))} has no option {name}")


def words(arguments: Sequence[str]) -> list[str]:
    """Return what is neither an option nor the value of one that comes before the verb."""
    found, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument.startswith("-"):
            skip = argument in _VALUED
        else:
            found.append(argument)
    return found


def kubectl(arguments: list[str]) -> None:
    real = os.environ["DOCS_KUBECTL"]
    verb, *rest = words(arguments) or [""]
    match verb:
        case "logs":  # nothing runs in the pods: that they are there is what can be tried
            looked_at(["kubectl", *arguments])
            options_exist([real, "logs"], [a for a in arguments if a.startswith("--")])
            home = arguments[: arguments.index("logs")]
            label = [arguments[i + 1] for i, a in enumerate(arguments) if a == "-l"]
            about = ["pods", "-l", label[0]] if label else rest[:1] if "/" in rest[0] else ["pod", rest[0]]
            run(real, *home, "get", *about)
        case "create" if rest[:1] == ["namespace"]:  # other blocks made some of them before
            there = subprocess.run([real, "get", "namespace", rest[1]], capture_output=True, check=False)
            if there.returncode == 0:
                return
            run(real, *arguments)
        case "delete" if rest[:1] == ["crd"]:  # the stage goes on
            looked_at(["kubectl", *arguments])
            run(real, *arguments, "--dry-run=server")
        case "wait" if (
            "--for=condition=Finished" in arguments
        ):  # a lease that nobody gives back takes its time
            place = [
                a
                for a in arguments
                if a in ("-n", "--namespace") or arguments[arguments.index(a) - 1] == "-n"
            ]
            spec = '{"spec":{"desiredState":"Released"}}'
            subprocess.run([real, "patch", rest[0], *place, "--type=merge", "-p", spec], check=True)
            run(real, *arguments)
        case "get" if any("/proxy/" in a for a in arguments):
            looked_at(["kubectl", *arguments])
            path = next(a for a in arguments if "/proxy/" in a)
            found = re.search(r"/namespaces/([^/]+)/pods/([^/:]+)", path)
            assert found, path
            run(real, "get", "pod", found[2], "-n", found[1])
        case "leasehold":  # the plugin
            leasehold(arguments[1:])
        case _ if verb in _CANNOT:
            looked_at(["kubectl", *arguments])
            options_exist([real, verb], [])
        case _:
            run(real, *arguments)


def helm(arguments: list[str]) -> None:
    real = os.environ["DOCS_HELM"]
    match arguments:
        case ["install" | "upgrade" as verb, *rest]:
            looked_at(["helm", *arguments])
            options_exist([real, verb], [a for a in rest if a.startswith("-")])
            leave = (
                "--reuse-values",
                "--reset-then-reuse-values",
                "--install",
                "--wait",
                "--atomic",
                "--create-namespace",
            )
            kept = [
                a for a in rest if a not in leave and not a.startswith(("--timeout", "--rollback-on-failure"))
            ]
            done = subprocess.run(
                [real, "template", *kept], cwd=ROOT, capture_output=True, text=True, check=False
            )
            sys.exit(done.stderr if done.returncode else 0)
        case ["template" | "show" | "lint", *_]:
            run(real, *arguments)
        case [verb, *rest]:
            looked_at(["helm", *arguments])
            options_exist([real, verb], [a for a in rest if a.startswith("-")])


def make(arguments: list[str]) -> None:
    looked_at(["make", *arguments])
    done = subprocess.run(
        ["/usr/bin/make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    sys.exit(done.stderr if done.returncode else 0)


_ANSWERS = {"quote": (0, 3), "doctor": (0, 3, 4)}
"""Exit codes that are answers, and no failures."""

_ENDLESS = {"operator", "record", "simulate"}


def leasehold(arguments: list[str]) -> None:
    real = [sys.executable, "-m", "leasehold.cli.main"]
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    verb = own[0] if own else ""
    endless = verb in _ENDLESS or {"-w", "--watch", "--live"} & set(own)
    if endless or (verb == "reporter" and own != ["reporter", "--once"]):
        looked_at(["leasehold", *arguments])
        options_exist([*real, verb], [a for a in own if a.startswith("-")])
        return
    code = subprocess.run([*real, *arguments], check=False).returncode
    sys.exit(0 if code in _ANSWERS.get(verb, (0,)) else code or 1)


def curl(arguments: list[str]) -> None:
    run("/usr/bin/curl", "--fail", *(a.replace(OPERATOR, os.environ["DOCS_OPERATOR"]) for a in arguments))


def pip(arguments: list[str]) -> None:
    """Our own package: that its extras exist."""
    looked_at(["pip", *arguments])
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for wanted in re.findall(r"leasehold\[([^\]]+)\]", " ".join(arguments)):
        for extra in wanted.split(","):
            if extra.strip() not in known:
                sys.exit(f"leasehold has no extra {extra}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "kubectl": kubectl,
    "helm": helm,
    "make": make,
    "leasehold": leasehold,
    "curl": curl,
    "pip": pip,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2:])
