"""What goes into the image is what the lock says, and no more."""

from __future__ import annotations

import pytest
from hack import locks
from hack.image import base

LOCK = """\
# about it
aiohttp==3.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via
    #   leasehold (pyproject.toml)
    #   kopf
kopf==1.0 \\
    --hash=sha256:cc
    # via leasehold (pyproject.toml)
pytest==9.0 \\
    --hash=sha256:dd
    # via leasehold (pyproject.toml:dev)
uvloop==0.1 ; sys_platform == 'linux' \\
    --hash=sha256:ee
    # via leasehold (pyproject.toml)
yarl==1.0 \\
    --hash=sha256:ff
    # via aiohttp
"""


def test_a_part_of_the_lock_has_all_that_it_wants_with_hashes_and_markers() -> None:
    part = locks.subset(locks.pins(LOCK), ["kopf", "uvloop"])
    assert part.splitlines()[1:] == [
        "aiohttp==3.0 \\",
        "    --hash=sha256:aa \\",
        "    --hash=sha256:bb",
        "kopf==1.0 \\",
        "    --hash=sha256:cc",
        "uvloop==0.1 ; sys_platform == 'linux' \\",
        "    --hash=sha256:ee",
        "yarl==1.0 \\",
        "    --hash=sha256:ff",
    ]


def test_what_is_not_locked_cannot_be_wanted() -> None:
    with pytest.raises(KeyError, match="unknown"):
        locks.subset(locks.pins(LOCK), ["unknown"])


def test_the_image_has_neither_tests_nor_the_demo_in_its_lock() -> None:
    run, build = locks.for_image().values()
    names = set(locks.pins(run))
    assert {"kopf", "aiohttp", "psutil", "pydantic", "prometheus-client", "uvloop"} <= names
    assert not names & {"pytest", "rich", "hatchling", "ruff", "mypy"}
    assert "hatchling" in locks.pins(build)


def test_a_runtime_holds_what_python_depends_on_and_nothing_that_installs() -> None:
    known = {
        "python3": {"Pre-Depends": "python3.11 (>= 3.11)", "Depends": "libssl | libressl"},
        "python3.11": {"Depends": "libc6 (>= 2.36)"},
        "libssl3": {"Depends": "debconf (>= 0.5) | debconf-2.0", "Provides": "libssl"},
        "libc6": {"Depends": "libgcc-s1"},
        "libgcc-s1": {},
        "debconf": {"Depends": "perl-base"},
        "perl-base": {},
        "base-files": {"Depends": "awk"},
        "mawk": {"Provides": "awk"},
        "netbase": {},
        "dash": {},
    }
    assert base.closure(known) == {
        "python3",
        "python3.11",
        "libssl3",
        "libc6",
        "libgcc-s1",
        "base-files",
        "netbase",
    }
