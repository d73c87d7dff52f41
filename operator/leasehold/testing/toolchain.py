"""Builds the pinned control-plane programs with Go, once per user and machine, into a cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from leasehold.testing.errors import BuildError
from leasehold.testing.processes import Child

Progress = Callable[[str], None]

SERVERS = ("etcd", "kube-apiserver")

_EVERY_SECONDS = 15.0
_HERE = Path(__file__).resolve().parent
_FLAGS = ("build", "-v", "-trimpath")
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def print_progress(line: str) -> None:
    """Write a line to standard error at once."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Module:
    """A Go module that pins programs, and the programs it can build, by name.

    `pinned` is the module they come from; `files` are files of that module to be kept beside them, by the
    name to keep them under; `tags` are build tags, as `go build -tags` takes them.
    """

    name: str
    directory: Path
    pinned: str
    packages: Mapping[str, str]
    linker_flags: str
    files: Mapping[str, str] = field(default_factory=dict)
    tags: str = ""

    @property
    def version(self) -> str:
        """The pinned version of the module's subject, such as v1.37.2."""
        text = (self.directory / "go.mod").read_text()
        found = re.search(rf"^(?:require )?\s*{re.escape(self.pinned)} (v\S+)", text, re.MULTILINE)
        if found is None:
            raise BuildError(f"{self.directory}/go.mod requires no {self.pinned}: the file is broken")
        return found[1]

    def flags(self) -> list[str]:
        """Return the arguments of `go` up to the output file."""
        major, minor, *_ = self.version.removeprefix("v").split(".")
        linker = self.linker_flags.format(version=self.version, major=major, minor=minor)
        return [*_FLAGS, *(("-tags", self.tags) if self.tags else ()), "-ldflags", linker]

    def cache_name(self) -> str:
        """Return the directory name of this build: it changes with whatever changes the result."""
        digest = hashlib.sha256()
        for part in (
            (self.directory / "go.mod").read_bytes(),
            (self.directory / "go.sum").read_bytes(),
            *(source.read_bytes() for source in sorted(self.directory.rglob("*.go"))),
            " ".join(self.flags()).encode(),
            f"{platform.system()}/{platform.machine()}".encode(),
        ):
            digest.update(hashlib.sha256(part).digest())
        return f"{self.version}-{digest.hexdigest()[:12]}"


def _source(name: str) -> Path:
    """Return a module's directory: inside an installed package, or in the repository's hack/."""
    packaged = _HERE / name
    return packaged if (packaged / "go.mod").is_file() else _HERE.parents[2] / "hack" / name


CONTROL_PLANE = Module(
    name="controlplane",
    directory=_source("controlplane"),
    pinned="k8s.io/kubernetes",
    packages={
        "etcd": "go.etcd.io/etcd/server/v3",
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kubelet": "k8s.io/kubernetes/cmd/kubelet",
        "pause": "./pause",
    },
    linker_flags="-s -w -X k8s.io/component-base/version.gitVersion={version} "
    "-X k8s.io/component-base/version.gitMajor={major} -X k8s.io/component-base/version.gitMinor={minor}",
)


KWOK = Module(
    name="kwok",
    directory=_source("kwok"),
    pinned="sigs.k8s.io/kwok",
    packages={"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
    linker_flags="-s -w -X sigs.k8s.io/kwok/pkg/consts.Version={version}",
    # kwok changes nothing unless it is given stages.
    files={
        "node-initialize.yaml": "kustomize/stage/node/fast/node-initialize.yaml",
        "node-heartbeat.yaml": "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
        "pod-ready.yaml": "kustomize/stage/pod/fast/pod-ready.yaml",
        "pod-complete.yaml": "kustomize/stage/pod/fast/pod-complete.yaml",
        "pod-delete.yaml": "kustomize/stage/pod/fast/pod-delete.yaml",
    },
)

HELM = Module(
    name="helm",
    directory=_source("helm"),
    pinned="helm.sh/helm/v4",
    packages={"helm": "helm.sh/helm/v4/cmd/helm", "helm3": "helm.sh/helm/v3/cmd/helm"},
    # Helm 3 takes itself for one of Kubernetes 1.20 unless it is told; the client-go in go.mod says the true one.
    linker_flags="-s -w -X helm.sh/helm/v4/internal/version.version={version}"
    " -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37"
    " -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=37",
)
"""Helm 4, and as `helm3` Helm 3: of one module, so that what both are made of is compiled once."""

PROMETHEUS = Module(
    name="prometheus",
    directory=_source("prometheus"),
    pinned="github.com/prometheus/prometheus",
    packages={
        "prometheus": "github.com/prometheus/prometheus/cmd/prometheus",
        "promtool": "github.com/prometheus/prometheus/cmd/promtool",
    },
    linker_flags="-s -w -X github.com/prometheus/common/version.Version={version}",
    # Without those it has the clients of every cloud, and takes far longer to build. Targets are named in its file.
    tags="remove_all_sd",
)

MODULES = {
    program: module for module in (CONTROL_PLANE, KWOK, HELM, PROMETHEUS) for program in module.packages
}


def cache_root(env: Mapping[str, str]) -> Path:
    """Return the cache of this user: LEASEHOLD_CACHE_DIR, else `leasehold` in XDG_CACHE_HOME or ~/.cache."""
    chosen = env.get("LEASEHOLD_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().resolve()
    base = env.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "leasehold"


def cache_directory(module: Module, env: Mapping[str, str]) -> Path:
    """Return where this module's programs are, or will be, on this machine."""
    return cache_root(env) / module.name / module.cache_name()


def missing(directory: Path, programs: Sequence[str]) -> list[str]:
    """Return the programs that a directory does not hold as executables."""
    return [name for name in programs if not os.access(directory / name, os.X_OK)]


def build(
    module: Module,
    programs: Sequence[str],
    env: Mapping[str, str] = os.environ,
    progress: Progress = print_progress,
) -> Path:
    """Build the programs that the cache lacks and return the directory that then holds them all.

    Processes that ask at the same time build once: the others wait, and say so. A build that is cut short
    leaves nothing that looks finished. Raises BuildError.
    """
    directory = cache_directory(module, env)
    if not missing(directory, programs):
        return directory
    go = shutil.which("go", path=env.get("PATH"))
    if go is None:
        raise BuildError(
            f"Go is needed to build {', '.join(missing(directory, programs))}: install it (go.dev/dl)"
        )
    directory.mkdir(parents=True, exist_ok=True)
    with lock(directory / ".lock", f"another process builds into {directory}", progress):
        for name in missing(directory, programs):  # asked anew: another process may have built them meanwhile
            _build_one(go, module, name, directory, env, progress)
    return directory


@contextmanager
def lock(path: Path, why_waiting: str, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock on a file; while another process holds it, wait and say why now and then."""
    with path.open("a") as file:
        begun, told = time.monotonic(), -_EVERY_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - begun
                if waited - told >= _EVERY_SECONDS:
                    progress(f"leasehold: waiting, {_minutes(waited)}: {why_waiting}")
                    told = waited
                time.sleep(0.1)
        yield


def _build_one(
    go: str, module: Module, name: str, directory: Path, env: Mapping[str, str], progress: Progress
) -> None:
    progress(
        f"leasehold: building {name} (for {module.pinned} {module.version}) with {go}. The first build "
        "compiles every package it is made of and takes minutes: 7 for kube-apiserver on two cores. "
        f"The result stays in {directory}"
    )
    with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as work:
        output = Path(work, name)
        command = [go, *module.flags(), "-o", str(output), module.packages[name]]
        compiler = Child(command, log=Path(work, "log"), cwd=module.directory, env={**env, **_ENVIRONMENT})
        try:
            took = _follow(compiler, name, progress)
        finally:
            compiler.stop(grace_seconds=5)
        if compiler.returncode() != 0:
            raise BuildError(
                f"`go build {module.packages[name]}` in {module.directory} failed with status "
                f"{compiler.returncode()}. The last it said:\n{compiler.log_tail()}"
            )
        _copy_files(go, module, directory, env)  # first: a program in its place means that all is there
        output.replace(directory / name)
    progress(f"leasehold: built {name} in {_minutes(took)}")


def _copy_files(go: str, module: Module, directory: Path, env: Mapping[str, str]) -> None:
    if not module.files:
        return
    asked = subprocess.run(
        [go, "list", "-m", "-f", "{{.Dir}}", module.pinned],
        cwd=module.directory,
        env={**env, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        raise BuildError(f"`go list -m {module.pinned}` in {module.directory} failed:\n{asked.stderr}")
    for name, path in module.files.items():
        target = directory / name
        target.unlink(missing_ok=True)
        target.write_bytes(Path(asked.stdout.strip(), path).read_bytes())  # the module cache is read-only


def _follow(compiler: Child, name: str, progress: Progress) -> float:
    """Wait for the compiler, saying from time to time how far it is; return the seconds it took."""
    begun = told = time.monotonic()
    while compiler.running():
        time.sleep(0.1)
        if time.monotonic() - told >= _EVERY_SECONDS:
            told = time.monotonic()
            done = compiler.log.read_text(errors="replace").splitlines()
            now_at = done[-1] if done else "reading the module"
            progress(
                f"leasehold: {name}: {_minutes(told - begun)}, {len(done)} packages compiled, now {now_at}"
            )
    return time.monotonic() - begun


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
