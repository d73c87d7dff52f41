"""One API server for each worker, which writes down who wrote what, and on which nobody else plays."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest
from tests.faults.experiment import Arena


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Connections are cut here on purpose, at both ends: what nobody closes any more is no failure of the test."""
    for item in items:
        if "tests/faults/" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    """Collect such connections here, and not in whatever test comes next, where they would be one."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="package")
def faults_arena() -> Iterator[Arena]:
    """An API server without an operator."""
    with Arena() as arena:
        yield arena
