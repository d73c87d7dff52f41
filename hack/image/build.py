"""Builds the image with docker, podman or buildah, and writes it down as an archive if asked to.

python -m hack.image.build                          the first engine that answers; `make image`
python -m hack.image.build --base local             on a base made here of Debian's packages: needs no registry
python -m hack.image.build --archive image.tar      also as `docker save` would write it, to load elsewhere
python -m hack.image.build --sbom sbom.cdx.json     also a CycloneDX list of all that is in it

Where none of the three is there, as root on Debian, buildah is installed; it then builds on a local base.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "operator"), str(ROOT)]

from hack.image import base  # noqa: E402  the path comes first

from leasehold import __version__  # noqa: E402
from leasehold.testing import packages, toolchain  # noqa: E402

NAME: Final = "localhost/leasehold"
TEST_NAME: Final = "localhost/leasehold-test"
LOCAL: Final = "local"

_ANSWER_SECONDS: Final = 10


class NoEngineError(RuntimeError):
    """No image can be built here. The message says what was tried, and what to install."""


@dataclass(frozen=True)
class Engine:
    """A program that builds images, and what it is told before each command."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]

    def run(self, *arguments: str | Path, quiet: bool = False) -> str:
        """Run a command of the engine and return what it printed. Raises CalledProcessError."""
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            check=True,
        )
        return done.stdout

    def names(self) -> set[str]:
        """Return the images it has, by name and tag."""
        field = "Name" if self.daemonless else "Repository"
        return set(self.run("images", "--format", f"{{{{.{field}}}}}:{{{{.Tag}}}}").split())

    @property
    def daemonless(self) -> bool:
        """Whether it is buildah, which has no `run` of images but of working containers."""
        return self.name == "buildah"


def buildah_store() -> Path:
    """Return where buildah keeps images: in the user's cache, apart from those of a podman on the same machine."""
    return toolchain.cache_root(os.environ) / "images"


def engine() -> Engine:
    """Return the first engine that works, installing buildah where that can be done. Raises NoEngineError."""
    tried = []
    for name in ("docker", "podman"):
        program = shutil.which(name)
        if program is None:
            tried.append(f"{name}: not in PATH")
        elif _answers([program, "info"]):
            return Engine(name, (program,), {})
        else:
            tried.append(f"{name}: is there, and does not answer")
    if os.geteuid() != 0:
        tried.append("buildah: without an engine it is used as root only")
    else:
        if shutil.which("buildah") is None and shutil.which("apt-get") is not None:
            base.install("buildah")
        program = shutil.which("buildah")
        if program is not None:
            # vfs and chroot need nothing of the kernel, so this works within containers and small machines, too.
            storage = ("--root", str(buildah_store()), "--runroot", f"{buildah_store()}-run")
            return Engine(
                "buildah", (program, *storage), {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
            )
        tried.append("buildah: not in PATH, and no apt-get to install it")
    raise NoEngineError(
        "No image can be built here: " + "; ".join(tried) + ". Start Docker, or install podman or buildah."
    )


def _answers(command: Sequence[str]) -> bool:
    try:
        asked = subprocess.run(command, capture_output=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def build(
    on: Engine, *, tag: str = f"{NAME}:{__version__}", base_image: str = "", runtime_image: str = ""
) -> str:
    """Build the image and return its name.

    base_image, runtime_image: as the Dockerfile has them when empty; `local` is made of Debian's packages, the
    runtime then without a shell.
    """
    if base_image == LOCAL or (not base_image and on.daemonless):
        base_image, made = base.images(on)
        runtime_image = runtime_image or made
    arguments: list[str | Path] = ["build", "--tag", tag, "--file", ROOT / "Dockerfile"]
    for name, value in (
        ("BASE", base_image),
        ("RUNTIME", runtime_image),
        ("VERSION", __version__),
        ("REVISION", _revision()),
    ):
        if value:
            arguments += ["--build-arg", f"{name}={value}"]
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if certificates and Path(certificates).is_file():
        arguments += ["--secret", f"id=ca,src={certificates}"]
    on.run(*arguments, ROOT)
    return tag


def for_tests(on: Engine, *, local: bool = True) -> str:
    """Return the name of the image of this checkout, built if it is not there yet; earlier ones for tests go.

    local: on bases made here, so that no registry is needed.
    """
    name = f"{TEST_NAME}:{_inputs_digest()}"
    cache = toolchain.cache_root(os.environ)
    cache.mkdir(parents=True, exist_ok=True)
    with toolchain.lock(cache / ".image-lock", "another process builds the image", toolchain.print_progress):
        known = on.names()
        if name not in known:
            build(on, tag=name, base_image=LOCAL if local else "")
            for other in known:
                if other.startswith(f"{TEST_NAME}:"):
                    on.run("rmi", other, quiet=True)
    return name


def run(on: Engine, image: str, *arguments: str, program: Sequence[str] = ()) -> str:
    """Run the image once, as its own user and without a network, and return what it printed.

    program: what to run instead of the image's entrypoint. Where the engine can, the root is read-only and no
    capability is left. Raises CalledProcessError.
    """
    if not on.daemonless:
        head = ["run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL"]
        if program:
            return on.run(*head, f"--entrypoint={program[0]}", image, *program[1:], *arguments, quiet=True)
        return on.run(*head, image, *arguments, quiet=True)
    container = on.run("from", "--pull-never", image, quiet=True).strip()
    try:
        config = json.loads(on.run("inspect", "--type", "container", container, quiet=True))["OCIv1"][
            "config"
        ]
        command = list(program) or config["Entrypoint"]
        return on.run("run", "--user", config["User"], container, "--", *command, *arguments, quiet=True)
    finally:
        on.run("rm", container, quiet=True)


def archive(on: Engine, image: str, path: Path) -> Path:
    """Write an image as `docker save` does, in one step, and return the path."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if on.daemonless:
            on.run("push", "--quiet", image, f"docker-archive:{unfinished}:{image}")
        else:
            on.run("save", "--output", unfinished, image)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _revision() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()


def _inputs_digest() -> str:
    """Return what changes whenever the image would."""
    digest = hashlib.sha256()
    roots = (
        "Dockerfile",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "crds",
        "operator",
        "hack/image",
        "hack/kwok",
    )
    for root in (*roots, "hack/controlplane"):
        place = ROOT / root
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(
                    f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest()
                )
    return digest.hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the image from a command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Build the image of operator and reporter.")
    parser.add_argument("--tag", default=f"{NAME}:{__version__}", help="its name (%(default)s)")
    parser.add_argument(
        "--base", default="", help="what to build on; `local`: Debian's packages, no registry"
    )
    parser.add_argument("--runtime", default="", help="what to run on; by default the base")
    parser.add_argument("--archive", type=Path, help="write it there, too, as docker save would")
    parser.add_argument("--sbom", type=Path, help="write what is in it there, as CycloneDX JSON")
    parser.add_argument(
        "--for-tests",
        action="store_true",
        help="have the image ready that tests use, if one can be built here",
    )
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    try:
        on = engine()
        if options.for_tests:
            print(f"{for_tests(on)} is ready, after {time.monotonic() - begun:.0f} s")
            return 0
        print(f"building {options.tag} with {on.name}", flush=True)
        build(on, tag=options.tag, base_image=options.base, runtime_image=options.runtime)
        if options.archive:
            print(f"wrote {archive(on, options.tag, options.archive)}")
        if options.sbom:
            from hack.image import sbom

            sbom.write(on, options.tag, options.sbom)
            print(f"wrote {options.sbom}")
    except (NoEngineError, packages.InstallError) as error:
        print(error, file=sys.stderr)
        if options.for_tests:
            print("NOT prepared: tests that need the image will not run", file=sys.stderr)
        return 0 if options.for_tests else 1
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(map(str, error.cmd))} failed with status {error.returncode}", file=sys.stderr)
        return 1
    print(f"built {options.tag} in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
