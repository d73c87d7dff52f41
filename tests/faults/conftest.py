"""One API server for each worker, which writes down who wrote what, and on which nobody else plays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.experiment import Arena


@pytest.fixture(scope="session")
def faults_arena() -> Iterator[Arena]:
    """An API server without an operator."""
    with Arena() as arena:
        yield arena
