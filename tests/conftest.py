"""Shared by all tests. The API server's fixtures come from the plugin leasehold.testing.plugin."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--extras",
        action="store_true",
        help="also run the tests with kube-scheduler, kube-controller-manager and kwok, which are built first",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "extras: needs programs that take 8 minutes to build; run with --extras"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--extras"):
        return
    for item in items:
        if item.get_closest_marker("extras"):
            item.add_marker(pytest.mark.skip(reason="NOT RUN without --extras, which builds for 8 minutes"))
