"""An installation that the blocks of pages are tried on: all of it real, but for what would run in its pods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.installation import Installation, installation_on
from tests.enforcement.harness import whole_control_plane


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/docs/" in str(item.path) and "installation" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="package")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with (
        whole_control_plane() as control_plane,
        installation_on(control_plane, tmp_path_factory.mktemp("installation")) as made,
    ):
        yield made


@pytest.fixture
def installation(installed: Installation) -> Installation:
    """The installation, with everything there that pages speak of."""
    installed.tidy()
    return installed


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path
