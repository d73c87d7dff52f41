"""A cluster with a real node that has the image: on this machine, or with LEASEHOLD_E2E=kind, on kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hack.image import build as image
from tests.chart.conftest import Helm
from tests.e2e.site import Site, on_kind, on_real_node

from leasehold.testing import toolchain

ON_KIND = os.environ.get("LEASEHOLD_E2E") == "kind"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.cluster)
            if not ON_KIND:
                item.add_marker(pytest.mark.real_node)


def engine_or_skip() -> image.Engine:
    """What builds the image; where none is and none must be, the test says that it did not run."""
    try:
        return image.engine()
    except image.NoEngineError as error:
        if os.environ.get("LEASEHOLD_REQUIRE_REAL_NODE"):
            raise
        pytest.skip(f"NOT RUN here: {error}")


class Image(NamedTuple):
    """The image of this checkout: what pods call it, and an archive of it."""

    name: str
    archive: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image, on bases made here unless kind can pull others."""
    engine = engine_or_skip()
    name = image.for_tests(engine, local=not ON_KIND)
    return Image(name, image.archive(engine, name, tmp_path_factory.mktemp("image") / "leasehold.tar"))


@pytest.fixture
def site(built: Image, tmp_path: Path) -> Iterator[Site]:
    """A cluster whose node has the image."""
    with on_kind(tmp_path) if ON_KIND else on_real_node() as found:
        found.load(built.archive)
        yield found


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm 4: it waits by kstatus, so by what our objects say of themselves."""
    return Helm(toolchain.build(toolchain.HELM, ["helm"]) / "helm", tmp_path_factory.mktemp("helm"))
