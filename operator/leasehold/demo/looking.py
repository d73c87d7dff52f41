"""How to look around: commands that work as they stand, and what kubectl prints."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from leasehold.demo.stage import Place
from leasehold.testing import toolchain
from leasehold.testing.errors import BuildError

_KUBECTL = "kubectl"


def find_kubectl(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the user's kubectl, else the one that was built before, else None."""
    found = shutil.which(_KUBECTL, path=environ.get("PATH"))
    if found is not None:
        return Path(found)
    module = toolchain.MODULES[_KUBECTL]
    built = toolchain.cache_directory(module, environ)
    return None if toolchain.missing(built, [_KUBECTL]) else built / _KUBECTL


def provide_kubectl(directory: Path, say: toolchain.Progress) -> str:
    """Return a line that puts kubectl on the PATH, "" where it is there already.

    Builds it where it is missing, which takes two minutes. Where that cannot be, says so and returns "".
    """
    if shutil.which(_KUBECTL) is not None:
        return ""
    try:
        built = toolchain.build(toolchain.MODULES[_KUBECTL], [_KUBECTL], progress=say) / _KUBECTL
    except BuildError as error:
        say(f"no kubectl: {error}")
        return ""
    link = directory / "bin" / _KUBECTL
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(built)
    return f'export PATH={shlex.quote(str(link.parent))}:"$PATH"'


def write_environment(directory: Path, place: Place, path_line: str = "") -> Path:
    """Write the file `env`, for a shell to read: KUBECONFIG, OPERATOR (the operator's address), and kubectl."""
    lines = (
        f"export KUBECONFIG={shlex.quote(place.kubeconfig)}",
        f"export OPERATOR={shlex.quote(place.operator_url)}",
        *((path_line,) if path_line else ()),
    )
    path = directory / "env"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def commands(place: Place, path_line: str = "") -> list[str]:
    """Return shell commands for a look around, in a good order."""
    return [
        f"export KUBECONFIG={shlex.quote(place.kubeconfig)}",
        *([path_line] if path_line else []),
        "kubectl get cpool",
        "kubectl get clease -A",
        "kubectl get nreport",
        "kubectl create namespace team-a",
        "kubectl apply -f examples/02-pool.yaml -f examples/03-builds.yaml",
        "kubectl wait clease/build-2 -n team-a --for=condition=Ready",
        "kubectl describe clease -n team-a build-2",
        "kubectl explain clease.spec.placement",
        f"curl -s {place.operator_url}/metrics | grep ^leasehold_",
    ]


def shown(place: Place, kubectl: Path, *arguments: str) -> str:
    """Return what a kubectl command prints, or what it says when it fails."""
    ran = subprocess.run(  # noqa: S603 - the user's kubectl, or the one built here
        [str(kubectl), "--kubeconfig", place.kubeconfig, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return ran.stdout if ran.returncode == 0 else ran.stderr
