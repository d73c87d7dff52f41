"""Base images made of Debian's packages, where no registry can be reached: one to build in, one to run on.

The one to run on holds Python, what Python's packages depend on, and nothing else: no shell, no package manager.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leasehold.testing import packages, toolchain

if TYPE_CHECKING:
    from hack.image.build import Engine

_INSTALL_SECONDS: Final = 900
SUITE: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
_RECIPE: Final = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
BUILD: Final = f"localhost/leasehold-base:{SUITE}-{_RECIPE}"
RUNTIME: Final = f"localhost/leasehold-runtime:{SUITE}-{_RECIPE}"

_WITH_PIP: Final = "python3,python3-pip"
_ROOTS: Final = ("python3", "base-files", "netbase")
_LEFT_OUT: Final = frozenset({"debconf", "debconf-2.0", "awk", "mawk", "dpkg", "perl-base"})
_SECONDS: Final = 1200


def images(on: Engine) -> tuple[str, str]:
    """Return the names of the two, made first where they are not there: that takes about two minutes, once."""
    with toolchain.lock(
        _cache() / ".base-lock", "another process makes the base images", toolchain.print_progress
    ):
        if not {BUILD, RUNTIME} <= on.names():
            _make(on)
    return BUILD, RUNTIME


def _cache() -> Path:
    found = toolchain.cache_root(os.environ)
    found.mkdir(parents=True, exist_ok=True)
    return found


def install(package: str) -> None:
    """Install a Debian package that building the image needs. Raises packages.InstallError."""
    packages.install(lambda: [package], "to build the image", toolchain.print_progress, _INSTALL_SECONDS)


def _make(on: Engine) -> None:
    toolchain.print_progress(
        f"leasehold: making base images of Debian's {SUITE}; they stay in the user's cache"
    )
    if shutil.which("debootstrap") is None:
        install("debootstrap")
    with tempfile.TemporaryDirectory(dir=_cache(), prefix=".base-") as work:
        whole, small = Path(work, "whole"), Path(work, "small")
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={_WITH_PIP}", SUITE, str(whole), MIRROR],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise packages.InstallError(f"debootstrap failed:\n{done.stdout[-2000:]}")
        for waste in (
            "var/cache/apt/archives",
            "var/lib/apt/lists",
            "usr/share/doc",
            "usr/share/man",
            "usr/share/locale",
        ):
            shutil.rmtree(whole / waste, ignore_errors=True)
        copy_runtime(whole, small)
        for name, root in ((BUILD, whole), (RUNTIME, small)):
            _import(on, name, root)


def _import(on: Engine, name: str, root: Path) -> None:
    if not on.daemonless:
        packed = root.with_suffix(".tar")
        subprocess.run(["tar", "-C", root, "-cf", packed, "."], check=True)
        on.run("import", packed, name)
        return
    container = on.run("from", "scratch").strip()
    try:
        on.run("add", "--quiet", container, root, "/")
        on.run("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        on.run("commit", "--quiet", container, name)
    finally:
        on.run("rm", container, quiet=True)


def copy_runtime(whole: Path, small: Path) -> None:
    """Copy out of a Debian system the files of Python's packages and of all they depend on."""
    status = (whole / "var/lib/dpkg/status").read_text()
    known = dict(_stanzas(status))
    chosen = closure(known)
    small.mkdir()
    for link in ("bin", "lib", "lib64", "sbin"):
        (small / "usr" / link).mkdir(parents=True)
        if (whole / link).is_symlink():
            (small / link).symlink_to(os.readlink(whole / link))
    for name in sorted(chosen):
        for line in _files(whole, name):
            _copy(whole, small, line)
    (small / "tmp").mkdir(exist_ok=True)
    (small / "tmp").chmod(0o1777)
    for name in ("proc", "sys", "dev", "etc"):
        (small / name).mkdir(exist_ok=True)
    (small / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"
    )
    (small / "etc/group").write_text("root:x:0:\nnonroot:x:65532:\n")
    (small / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    (small / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
    kept = [text for name, text in _stanzas_as_text(status) if name in chosen]
    (small / "var/lib/dpkg/status").write_text("\n".join(kept))  # for the list of what is in the image
    for linker in (small / "usr/lib").glob("*-linux-gnu"):
        (small / "etc/ld.so.conf").write_text(f"/usr/lib/{linker.name}\n/usr/local/lib\n")


def closure(known: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Return the packages that Python's depend on, without those that only install or configure."""
    provided = {
        virtual.strip().split(" ")[0]: name
        for name, fields in known.items()
        for virtual in fields.get("Provides", "").split(",")
        if virtual.strip()
    }
    chosen: set[str] = set()
    todo = list(_ROOTS)
    while todo:
        wanted = todo.pop()
        name = wanted if wanted in known else provided.get(wanted, "")
        if not name or name in chosen or name in _LEFT_OUT or wanted in _LEFT_OUT:
            continue
        chosen.add(name)
        for clause in ",".join(known[name].get(each, "") for each in ("Pre-Depends", "Depends")).split(","):
            first = re.match(r"\s*([a-z0-9][-+.a-z0-9]*)", clause)
            if first:
                todo.append(first[1])
    return chosen


def _stanzas_as_text(status: str) -> Iterator[tuple[str, str]]:
    for text in status.split("\n\n"):
        name = re.search(r"^Package: (\S+)$", text, re.MULTILINE)
        if name:
            yield name[1], text.strip() + "\n"


def _stanzas(status: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    for name, text in _stanzas_as_text(status):
        yield name, dict(re.findall(r"^([A-Z][-A-Za-z]*): (.*)$", text, re.MULTILINE))


def _files(whole: Path, package: str) -> list[str]:
    info = whole / "var/lib/dpkg/info"
    found = next(path for path in (*info.glob(f"{package}.list"), *info.glob(f"{package}:*.list")))
    return [line for line in found.read_text().splitlines() if line not in ("/.", "")]


def _copy(whole: Path, small: Path, line: str) -> None:
    # Directories such as /lib are links to /usr/lib, and packages may name files either way.
    source, target = whole / line.lstrip("/"), small / line.lstrip("/")
    if source.is_symlink():
        if not target.is_symlink() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.readlink(source))
    elif source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
