"""Shared by all tests. The API server's fixtures come from the plugin leasehold.testing.plugin."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScheduling

_NOT_RUN = "NOT RUN"

# How long an example takes says something of the machine, and nothing of a law.
hypothesis.settings.register_profile("leasehold", deadline=None)
hypothesis.settings.load_profile("leasehold")


def pytest_configure(config: pytest.Config) -> None:
    # Tests in the background of a script ignore Ctrl-C, and what they start would inherit that; a terminal does not.
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "real_node: needs root on Linux and what `make node` prepares; see RealNode.unavailable"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScheduling | None:
    """Deal tests out as ever, but those that share what is dear to one process."""
    if config.getoption("dist") != "load":
        return None
    from tests.together import Together

    return Together(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_a_node = [item for item in items if item.get_closest_marker("real_node")]
    # With the variable set they run, and fail with the reason.
    if on_a_node and not os.environ.get("LEASEHOLD_REQUIRE_REAL_NODE"):
        from leasehold.testing.real_node import RealNode

        reason = RealNode.unavailable()
        if reason is not None:
            _leave_out(on_a_node, f"here: {reason}")


def _leave_out(items: list[pytest.Item], why: str) -> None:
    for item in items:
        item.add_marker(pytest.mark.skip(reason=f"{_NOT_RUN} {why}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud what did not run, and why: a skip is easily overlooked."""
    _tell_about_pages(terminalreporter)
    reasons = [
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    ]
    left_out = [reason for reason in reasons if reason.startswith(_NOT_RUN)]
    if left_out:
        terminalreporter.section("not run", yellow=True, bold=True)
        for reason in sorted(set(left_out)):
            terminalreporter.write_line(f"{left_out.count(reason)} tests {reason}")


def _tell_about_pages(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which code on pages was not run as it stands."""
    told = [
        text
        for report in terminalreporter.stats.get("passed", [])
        for name, text in getattr(report, "user_properties", ())
        if name == "docs"
    ]
    if told:
        terminalreporter.section("code on pages that was not run as it stands", sep="-")
        for kind in ("not run", "compiled", "looked at"):
            found = [text for text in told if text.startswith(kind)]
            terminalreporter.write_line(f"{kind}: {len(found)}")
            if kind == "not run" or terminalreporter.config.get_verbosity() > 0:
                for text in found:
                    terminalreporter.write_line(f"  {text.partition(': ')[2]}")
