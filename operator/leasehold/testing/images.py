"""Container images made of a few files, without a registry and without a build tool."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_archive(
    path: Path, name: str, files: Mapping[str, Path], command: Sequence[str], *, user: str = ""
) -> Path:
    """Write an image archive as `docker save` does, of one layer, and return its path.

    name: what pods call it, with a registry and a tag (localhost/pause:1). files: executables by their path
    in the image; static ones, for nothing else is in it. command: the entrypoint. user: as whom it runs
    unless the pod says otherwise; by default root. The same input gives the same bytes.
    """
    layer = _tar({target.lstrip("/"): (source.read_bytes(), 0o755) for target, source in files.items()})
    machine = platform.machine()
    config = _json(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {"Entrypoint": list(command), "User": user},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    )
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = _json([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}])
    whole = {"manifest.json": manifest, config_name: config, "layer.tar": layer}
    path.write_bytes(_tar({name: (data, 0o644) for name, data in whole.items()}))
    return path


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
