"""Images made of a few files: what docker save writes, and the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

from leasehold.testing.images import write_archive


def test_an_image_is_one_layer_with_its_files_and_a_command(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"\x7fELF")
    files = {"/bin/program": tmp_path / "program"}
    path = write_archive(tmp_path / "a.tar", "localhost/a:1", files, ["/bin/program", "x"], user="65532")
    with tarfile.open(path) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        (manifest,) = json.loads(read("manifest.json"))
        assert manifest["RepoTags"] == ["localhost/a:1"]
        config = json.loads(read(manifest["Config"]))
        assert config["config"] == {"Entrypoint": ["/bin/program", "x"], "User": "65532"}
        (layer,) = manifest["Layers"]
        assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(read(layer)).hexdigest()}"]
        with tarfile.open(fileobj=archive.extractfile(layer)) as within:
            (entry,) = within.getmembers()
            assert (entry.name, entry.mode, entry.size) == ("bin/program", 0o755, 4)


def test_the_same_files_make_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"x")
    first, second = (
        write_archive(tmp_path / name, "localhost/a:1", {"/program": tmp_path / "program"}, ["/program"])
        for name in ("a.tar", "b.tar")
    )
    assert first.read_bytes() == second.read_bytes()
