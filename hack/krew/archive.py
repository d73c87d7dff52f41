"""Makes the plugin of kubectl in one file, for Krew: an archive for all machines, and the manifest with its checksum.

    python -m hack.krew.archive [--out DIR]

The file is a zip that python3 runs. What it needs comes along, as pure Python: the libraries that are faster with
compiled parts are built without them. The same source gives the same bytes.
"""

import argparse
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "operator"), str(ROOT)]

from leasehold import __version__  # noqa: E402  the path comes first

TEMPLATE: Final = Path(__file__).with_name("leasehold.yaml")
PLUGIN: Final = "kubectl-leasehold"

COMPILED: Final = ("aiohttp", "multidict", "yarl", "frozenlist", "propcache", "pyyaml")
"""Libraries that bring compiled parts, and do without them."""
WITHOUT: Final = {
    **{f"{name.upper()}_NO_EXTENSIONS": "1" for name in COMPILED if name != "pyyaml"},
    "PYYAML_FORCE_LIBYAML": "0",
}
LEFT_OUT: Final = ("leasehold/testing/", "leasehold/demo/", "leasehold/api/crds/", "bin/")
"""What no command for people needs."""

_TRACES: Final = frozenset(
    {"RECORD", "direct_url.json", "uv_build.json", "uv_cache.json", "INSTALLER", "REQUESTED", ".lock"}
)
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+==[^\s;\\]+)", re.MULTILINE)
_MAIN: Final = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("kubectl-leasehold: needs Python 3.11 or newer as python3, and this is %d.%d" % sys.version_info[:2])

from leasehold.cli.main import main

sys.exit(main())
"""


def main(arguments: list[str] | None = None) -> int:
    """Make both; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the plugin's archive and its manifest for Krew.")
    parser.add_argument("--out", type=Path, default=ROOT / ".run" / "krew", help="where to (.run/krew)")
    options = parser.parse_args(arguments)
    archive, manifest = make(options.out)
    print(f"made {archive} and {manifest}")
    return 0


def make(out: Path) -> tuple[Path, Path]:
    """Make the archive and the manifest in a directory; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        collected = Path(scratch, "collected")
        _collect(collected, Path(scratch))
        plugin = _zipped(_files(collected))
    files = {PLUGIN: (plugin, 0o755), "LICENSE": ((ROOT / "LICENSE").read_bytes(), 0o644)}
    archive = out / f"{PLUGIN}-v{__version__}.tar.gz"
    archive.write_bytes(_packed(files))
    manifest = out / "leasehold.yaml"
    manifest.write_text(filled(__version__, hashlib.sha256(archive.read_bytes()).hexdigest()))
    return archive, manifest


def filled(version: str, sha256: str) -> str:
    """Return the manifest of a version."""
    text = TEMPLATE.read_text(encoding="utf-8")
    return text.partition("\n")[2].replace("VERSION", version).replace("SHA256", sha256)


def _collect(target: Path, scratch: Path) -> None:
    """Install the package and what its extra `cli` needs into a directory, at the versions of requirements.lock."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(scratch)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = scratch.glob("*.whl")
    pins = scratch / "constraints.txt"
    pins.write_text("\n".join(_PIN.findall((ROOT / "requirements.lock").read_text(encoding="utf-8"))) + "\n")
    uv = shutil.which("uv")
    install = (
        [uv, "pip", "install", "--quiet", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    )
    no_binary = [part for name in COMPILED for part in ("--no-binary", name)]
    subprocess.run(
        [
            *install,
            *no_binary,
            *("--constraint", str(pins), "--target", str(target), f"leasehold[cli] @ {wheel.as_uri()}"),
        ],
        env={**os.environ, **WITHOUT},
        check=True,
    )


def _files(collected: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(collected.rglob("*")):
        name = path.relative_to(collected).as_posix()
        if path.is_dir() or "__pycache__" in path.parts or name.startswith(LEFT_OUT):
            continue
        if path.suffix in (".so", ".pyd", ".dylib"):
            raise SystemExit(f"{name} is for one kind of machine; add its library to COMPILED")
        # Where and how it was installed: of no use here, and different each time.
        if path.name in _TRACES:
            continue
        if path.suffix in (".pyx", ".pxd", ".pxi", ".c", ".h", ".hash", ".lock"):
            continue
        yield name, path.read_bytes()
    yield "__main__.py", _MAIN.encode()


def _zipped(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a zip that can be run: what stands before it says by what."""
    buffer = io.BytesIO()
    buffer.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def _packed(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, (content, mode) in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
