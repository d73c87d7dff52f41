"""Finds out where an API server can come from on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from leasehold.testing import toolchain
from leasehold.testing.errors import BuildError, NoControlPlaneError, SetupError
from leasehold.testing.toolchain import CONTROL_PLANE, SERVERS, Progress

_DOCKER_SECONDS = 5


@dataclass(frozen=True)
class Existing:
    """A cluster that runs already and that the user named."""

    kubeconfig: Path
    source: str


@dataclass(frozen=True)
class Binaries:
    """A directory with etcd and kube-apiserver, to be started here."""

    directory: Path
    source: str


@dataclass(frozen=True)
class Kind:
    """The `kind` program and a Docker engine that answers: a cluster can be made and removed."""

    program: Path
    source: str = "kind"


Provider = Existing | Binaries | Kind


@dataclass(frozen=True)
class Wish:
    """What is asked for: `local` means servers that run as processes here, so that faults can be made;
    `pinned` means those of the pinned version, which are then local, too.
    """

    env: Mapping[str, str]
    progress: Progress
    kubeconfig: Path | None = None
    local: bool = False
    pinned: bool = False


@dataclass(frozen=True)
class No:
    """Why a provider cannot be used here."""

    reason: str


def choose(wish: Wish) -> Provider:
    """Return the first provider that works, in the documented order.

    Raises SetupError when an explicit setting is wrong, BuildError when a build fails, and
    NoControlPlaneError when nothing is to be had.
    """
    tried = []
    for step in STEPS:
        found = step(wish)
        if not isinstance(found, No):
            return found
        tried.append(found.reason)
    raise NoControlPlaneError(
        "No Kubernetes API server can be had here. Tried, in this order:\n"
        + "".join(f"  {number}. {reason}\n" for number, reason in enumerate(tried, 1))
        + "Do one of these:\n"
        "  - install Go 1.26 or later (https://go.dev/dl): it then builds the pinned servers, once\n"
        "  - set KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver "
        "(`setup-envtest use -p path` downloads one)\n"
        "  - start Docker and install kind (https://kind.sigs.k8s.io)\n"
        "  - set LEASEHOLD_KUBECONFIG to the kubeconfig of a cluster that tests may write to"
    )


def named_cluster(wish: Wish) -> Provider | No:
    """Take the cluster of an explicit kubeconfig. KUBECONFIG and ~/.kube/config are never looked at."""
    if wish.local and wish.kubeconfig:
        raise SetupError("Servers of our own are asked for, and a kubeconfig is given: leave one of them out")
    if wish.local:
        return No("an explicit kubeconfig: not looked at, local servers are asked for")
    named = wish.env.get("LEASEHOLD_KUBECONFIG")
    path, source = (wish.kubeconfig, "argument") if wish.kubeconfig else (named, "LEASEHOLD_KUBECONFIG")
    if not path:
        return No("an explicit kubeconfig: none given, and LEASEHOLD_KUBECONFIG is not set")
    if not Path(path).is_file():
        raise SetupError(f"The kubeconfig {path} ({source}) does not exist: give the right path or none")
    return Existing(Path(path).resolve(), source)


def envtest_assets(wish: Wish) -> Provider | No:
    """Take the binaries of KUBEBUILDER_ASSETS, the variable that controller-runtime's envtest uses."""
    if wish.pinned:
        return No("KUBEBUILDER_ASSETS: not looked at, the pinned version is asked for")
    assets = wish.env.get("KUBEBUILDER_ASSETS")
    if not assets:
        return No("KUBEBUILDER_ASSETS: not set")
    absent = toolchain.missing(Path(assets), SERVERS)
    if absent:
        raise SetupError(
            f"KUBEBUILDER_ASSETS={assets} has no executable {' and no '.join(absent)}: fix or unset it"
        )
    return Binaries(Path(assets).resolve(), "KUBEBUILDER_ASSETS")


def cached_build(wish: Wish) -> Provider | No:
    """Take what an earlier build left in the user's cache."""
    directory = toolchain.cache_directory(CONTROL_PLANE, wish.env)
    if toolchain.missing(directory, SERVERS):
        return No(f"a cached build: none in {directory}")
    return Binaries(directory, "cached build")


def kind_cluster(wish: Wish) -> Provider | No:
    """Take kind where its program is there and a Docker engine answers."""
    if wish.local:
        return No("kind: not looked at, local servers are asked for")
    program = shutil.which("kind", path=wish.env.get("PATH"))
    if program is None:
        return No("kind: no such program in PATH")
    silence = _docker_silence(wish.env)
    return No(f"kind: {silence}") if silence else Kind(Path(program))


def _docker_silence(env: Mapping[str, str]) -> str | None:
    """Return why no Docker engine answers, or None when one does. The client alone proves nothing."""
    docker = shutil.which("docker", path=env.get("PATH"))
    if docker is None:
        return "no docker in PATH"
    try:
        asked = subprocess.run(
            [docker, "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=_DOCKER_SECONDS,
            env=dict(env),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"docker is installed, but no engine answered within {_DOCKER_SECONDS} s"
    except OSError as error:
        return f"docker cannot be run: {error}"
    if asked.returncode != 0 or not asked.stdout.strip():
        return f"docker is installed, but no engine answers: {asked.stderr.strip() or 'no version given'}"
    return None


def go_build(wish: Wish) -> Provider | No:
    """Build the pinned binaries, where Go is installed."""
    if shutil.which("go", path=wish.env.get("PATH")) is None:
        return No("building the pinned servers: no go in PATH")
    if not (CONTROL_PLANE.directory / "go.mod").is_file():
        raise BuildError(
            f"{CONTROL_PLANE.directory} has no go.mod: this installation of leasehold is incomplete"
        )
    return Binaries(toolchain.build(CONTROL_PLANE, SERVERS, wish.env, wish.progress), "built with Go")


def installed_servers(wish: Wish) -> Provider | No:
    """Take etcd and kube-apiserver from PATH if the API server is of the pinned minor version."""
    if wish.pinned:
        return No("etcd and kube-apiserver in PATH: not looked at, the pinned version is asked for")
    path = wish.env.get("PATH")
    etcd, apiserver = (shutil.which(name, path=path) for name in SERVERS)
    if etcd is None or apiserver is None:
        return No("etcd and kube-apiserver in PATH: not both there")
    shown = subprocess.run(
        [apiserver, "--version"], capture_output=True, text=True, timeout=30, check=False
    ).stdout
    wanted = CONTROL_PLANE.version.rpartition(".")[0]
    found = re.search(r"v\d+\.\d+", shown)
    if found is None or found[0] != wanted:
        return No(f"{apiserver}: is {shown.strip() or 'of unknown version'}, wanted {wanted}")
    if Path(etcd).parent != Path(apiserver).parent:
        return No(f"etcd and kube-apiserver in PATH: in two directories, {etcd} and {apiserver}")
    return Binaries(Path(apiserver).parent, "PATH")


STEPS: tuple[Callable[[Wish], Provider | No], ...] = (
    named_cluster,
    envtest_assets,
    cached_build,
    kind_cluster,
    go_build,
    installed_servers,
)


def default_wish(
    *,
    kubeconfig: Path | None = None,
    local: bool = False,
    pinned: bool = False,
    progress: Progress = toolchain.print_progress,
) -> Wish:
    """Return a wish in this process's environment."""
    return Wish(os.environ, progress, kubeconfig, local or pinned, pinned)
