"""What people install: the wheel and the sdist, each extra in an environment of its own, from the package index.

An environment has what requirements.lock pins, as ours has; what is not in it must not be needed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from leasehold import __version__

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^([A-Za-z0-9._-]+==[^\s;\\]+)", re.MULTILINE)
HEAVY = {"kopf", "pydantic", "rich", "textual", "prometheus-client", "psutil"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist, of the working tree."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pins") / "constraints.txt"
    path.write_text("\n".join(PIN.findall((ROOT / "requirements.lock").read_text())) + "\n")
    return path


class Environment:
    """A virtual environment with nothing but what an extra brings."""

    def __init__(self, path: Path, pins: Path, requirement: str) -> None:
        self.bin = path / "bin"
        uv = shutil.which("uv")
        if uv:
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(path)], check=True)
            install = [uv, "pip", "install", "--quiet", "--python", str(self.bin / "python")]
        else:
            subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
            install = [
                *(str(self.bin / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            ]
        ended = subprocess.run(
            [*install, "--constraint", str(pins), requirement], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"needs the package index: {ended.stderr}"

    def __call__(self, program: str, *arguments: str, code: int = 0) -> str:
        ended = subprocess.run(
            [str(self.bin / program), *arguments], cwd=self.bin, capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr

    def packages(self) -> set[str]:
        code = "import importlib.metadata as m; print(*{d.name.lower() for d in m.distributions()})"
        return set(self("python", "-c", code).split())


@pytest.fixture
def environment(built: Path, pins: Path, tmp_path: Path) -> Callable[[str], Environment]:
    def make(extra: str) -> Environment:
        (wheel,) = built.glob("*.whl")
        requirement = f"leasehold[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
        return Environment(tmp_path / "venv", pins, requirement)

    return make


def test_the_wheel_holds_the_package_and_what_it_needs_at_run_time(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"leasehold", f"leasehold-{__version__}.dist-info"}
    for needed in ("py.typed", "cli/main.py", "sdk/client.py", "api/crds/capacityleases.yaml"):
        assert f"leasehold/{needed}" in names
    entry_points = zipfile.ZipFile(wheel).read(f"leasehold-{__version__}.dist-info/entry_points.txt").decode()
    assert "\nkubectl-leasehold = leasehold.cli.main:main\n" in entry_points


def test_the_sdist_makes_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (again,) = (tmp_path / "again").glob("*.whl")
    (wheel,) = built.glob("*.whl")
    first, second = zipfile.ZipFile(wheel), zipfile.ZipFile(again)
    assert set(first.namelist()) == set(second.namelist())
    for name in first.namelist():
        assert first.read(name) == second.read(name), name


def test_without_an_extra_it_helps_and_says_what_to_install(
    environment: Callable[[str], Environment],
) -> None:
    found = environment("")
    assert found.packages() <= {"leasehold", "pip", "setuptools"}
    assert "commands:" in found("leasehold", "--help")
    for command in ("get", "acquire", "doctor", "completion"):
        assert f"usage: leasehold {command}" in found("leasehold", command, "--help")
    said = found("leasehold", "acquire", "--pool", "p", "--cpu", "1", "--", "true", code=1)
    assert "pip install 'leasehold[cli]'" in said
    assert "pip install 'leasehold[operator]'" in found("leasehold", "operator", code=1)


@pytest.mark.parametrize("extra", ["sdk", "cli", "tui"])
def test_for_people_and_programs_no_operator_comes_along(
    environment: Callable[[str], Environment], extra: str
) -> None:
    found = environment(extra)
    allowed = {"rich", "textual"} if extra == "tui" else set()
    assert found.packages() & HEAVY <= allowed
    assert {"aiohttp", "pyyaml"} <= found.packages()
    assert f"leasehold {__version__}" in found("leasehold", "version")
    assert "usage: leasehold get" in found("leasehold", "get", "--help")
    assert "usage: kubectl leasehold" in found("kubectl-leasehold", "--help")
    said = found("leasehold", "get", "--kubeconfig", "/nowhere", code=1)
    assert "kubeconfig /nowhere cannot be read" in said
    assert found("python", "-c", "from leasehold.sdk import Client; print(Client.__name__)") == "Client\n"
    found("python", "-c", "import leasehold.cli.running")
    if extra == "tui":
        found("python", "-c", "import leasehold.cli.live")


def test_the_reporter_needs_psutil_alone(environment: Callable[[str], Environment]) -> None:
    found = environment("reporter")
    assert found.packages() - {"pip", "setuptools"} == {"leasehold", "psutil"}
    assert '"usage"' in found("leasehold", "reporter", "--once", "-o", "json", "--interval", "0.1")


def test_the_operator_starts(environment: Callable[[str], Environment]) -> None:
    found = environment("operator")
    assert {"kopf", "pydantic"} <= found.packages()
    assert "usage: leasehold operator" in found("leasehold", "operator", "--help")
    said = found("leasehold", "operator", "--kubeconfig", "/nowhere", code=2)
    assert "there is no kubeconfig at /nowhere" in said
