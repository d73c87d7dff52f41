"""The plugin of kubectl in one file, and its manifest for Krew."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from hack.krew import archive

from leasehold import __version__


def test_the_manifest_has_what_krew_asks_for() -> None:
    """The rules are those of krew's own validation (internal/index/validation)."""
    found = yaml.safe_load(archive.filled("1.2.3", "0" * 64))
    assert found["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2"
    assert found["kind"] == "Plugin"
    assert re.fullmatch(r"[a-z0-9][-a-z0-9]*", found["metadata"]["name"])
    spec = found["spec"]
    assert re.fullmatch(r"v\d+\.\d+\.\d+", spec["version"])
    assert 0 < len(spec["shortDescription"]) <= 50
    assert not spec["shortDescription"].endswith(".")
    assert spec["description"]
    assert spec["caveats"]
    assert spec["homepage"].startswith("https://")
    (platform,) = spec["platforms"]
    assert re.fullmatch(r"[0-9a-f]{64}", platform["sha256"])
    assert platform["uri"].endswith("/v1.2.3/kubectl-leasehold-v1.2.3.tar.gz")
    assert platform["bin"] == "kubectl-leasehold"
    assert {row["from"] for row in platform["files"]} == {"kubectl-leasehold", "LICENSE"}
    assert all(row["to"] == "." for row in platform["files"])
    (rule,) = platform["selector"]["matchExpressions"]
    assert rule == {"key": "os", "operator": "In", "values": ["darwin", "linux"]}


def test_the_same_source_gives_the_same_bytes() -> None:
    files = [("b.py", b"b"), ("a.py", b"a")]
    assert archive._zipped(files) == archive._zipped(files)
    packed = {"x": (b"x", 0o755)}
    assert archive._packed(packed) == archive._packed(packed)


@pytest.mark.packaging
def test_the_archive_is_a_plugin_that_runs_with_nothing_else_installed(tmp_path: Path) -> None:
    packed, manifest = archive.make(tmp_path)
    sha256 = yaml.safe_load(manifest.read_text())["spec"]["platforms"][0]["sha256"]
    assert hashlib.sha256(packed.read_bytes()).hexdigest() == sha256
    with tarfile.open(packed) as opened:
        assert sorted(opened.getnames()) == ["LICENSE", "kubectl-leasehold"]
        opened.extractall(tmp_path / "bin", filter="data")
    plugin = tmp_path / "bin" / "kubectl-leasehold"
    assert plugin.stat().st_mode & 0o111
    names = zipfile.ZipFile(plugin).namelist()
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    assert not [name for name in names if name.startswith(("kopf/", "pydantic/", "leasehold/testing/"))]

    def run(*arguments: str, code: int) -> str:
        # -I and -S: nothing of this environment is in reach.
        ended = subprocess.run(
            [sys.executable, "-I", "-S", str(plugin), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr

    assert run("version", code=0) == f"leasehold {__version__}\n"
    assert "usage: kubectl leasehold get" in run("get", "--help", code=0)
    assert "kubeconfig /nowhere cannot be read" in run("get", "--kubeconfig", "/nowhere", code=1)
    # With a command it needs the libraries that come along.
    (tmp_path / "kubeconfig").write_text("current-context: a\ncontexts: []\n")
    acquire = ("acquire", "--pool", "p", "--cpu", "1", "--kubeconfig", str(tmp_path / "kubeconfig"))
    assert "no context named 'a'" in run(*acquire, "--", "true", code=125)
