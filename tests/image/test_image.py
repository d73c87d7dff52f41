"""The image: built here, small, without a shell, and able to do what it is for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hack import locks
from hack.image import build as image
from hack.image import sbom
from tests.e2e.conftest import engine_or_skip

from leasehold import __version__
from leasehold.api.quantity import amount

pytestmark = pytest.mark.image


@pytest.fixture(scope="module")
def engine() -> image.Engine:
    return engine_or_skip()


@pytest.fixture(scope="module")
def built(engine: image.Engine) -> str:
    """The image on bases made of Debian's packages, so that no registry is needed."""
    return image.for_tests(engine)


def test_the_reporter_measures_from_within(engine: image.Engine, built: str) -> None:
    said = image.run(engine, built, "reporter", "--once", "--output", "json", "--interval", "0.2")
    report = json.loads(said)
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemTotal:"))
    measured = amount("memory", report["capacity"]["memory"])
    assert 0 <= total - measured < 2**20, "the host's, not the container's"


def test_the_operator_starts_from_within(engine: image.Engine, built: str) -> None:
    assert image.run(engine, built, "operator", "--version") == f"leasehold {__version__}\n"
    with pytest.raises(subprocess.CalledProcessError) as ended:
        image.run(engine, built, "operator")
    assert ended.value.returncode == 2
    assert "no cluster to talk to" in ended.value.stderr


def test_it_is_nobody_and_has_no_shell(engine: image.Engine, built: str) -> None:
    look = (
        "import os, shutil; print(os.getuid(), os.getgid(), *map(shutil.which, ('sh', 'bash', 'apt', 'pip')))"
    )
    said = image.run(engine, built, program=("python3", "-P", "-c", look))
    assert said.split() == ["65532", "65532", *["None"] * 4]


def test_nothing_of_it_can_be_written_by_it(engine: image.Engine, built: str) -> None:
    look = """
import os
print([d for d, _, _ in os.walk("/opt/leasehold") if os.access(d, os.W_OK)])
"""
    assert image.run(engine, built, program=("python3", "-P", "-c", look)) == "[]\n"


def test_the_list_of_what_is_in_it_names_python_and_system_packages(
    engine: image.Engine, built: str, tmp_path: Path
) -> None:
    sbom.write(engine, built, tmp_path / "sbom.json")
    found = json.loads((tmp_path / "sbom.json").read_text())
    assert found["bomFormat"] == "CycloneDX"
    purls = {component["purl"] for component in found["components"]}
    locked = locks.pins((locks.ROOT / "hack/image/run.lock").read_text())
    for pin in locked.values():
        name, _, version = pin.text.split(" ")[0].partition("==")
        assert f"pkg:pypi/{name}@{version}" in purls
    assert f"pkg:pypi/leasehold@{__version__}" in purls
    assert any(purl.startswith("pkg:deb/debian/libssl3@") for purl in purls)
    assert not any("pkg:pypi/pytest@" in purl for purl in purls)


def test_an_archive_is_whole_or_not_there(engine: image.Engine, built: str, tmp_path: Path) -> None:
    written = image.archive(engine, built, tmp_path / "image.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["image.tar"]
    listed = subprocess.run(["tar", "-tf", written], capture_output=True, text=True, check=True).stdout
    assert "manifest.json" in listed.splitlines()
    assert written.stat().st_size < 200 * 2**20
