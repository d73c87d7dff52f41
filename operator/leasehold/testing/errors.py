"""What can go wrong around a test control plane, by whose fault it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ControlPlaneError(Exception):
    """Base of every error this package raises on purpose."""


class NoControlPlaneError(ControlPlaneError):
    """No API server can be had on this machine; the message says what was tried and what to install."""


class SetupError(ControlPlaneError):
    """An explicit setting (argument or environment variable) points at something that cannot work."""


class BuildError(ControlPlaneError):
    """The pinned binaries could not be built; the message ends with what the compiler said."""


class StartError(ControlPlaneError):
    """A server was started and did not become ready; the message ends with what it logged."""


class NodeUnavailableError(ControlPlaneError):
    """No real node can run on this machine; the message says what it lacks."""


class NotOwnedError(ControlPlaneError):
    """A fault was asked of a cluster that this package did not start process by process."""


class LeakError(ControlPlaneError):
    """A process that was started has outlived its owner: a bug in the test or in this package."""


class UnknownResourceError(ControlPlaneError):
    """The API server serves no such resource: the name is wrong, or its definition is not installed."""


class ApiError(ControlPlaneError):
    """The API server answered with an error status.

    `status` is the HTTP code, `reason` the machine-readable reason of the `Status` object ("Conflict"), and
    `body` that object, or an empty mapping where the answer was not JSON.
    """

    def __init__(self, method: str, path: str, status: int, text: str, body: Mapping[str, Any]) -> None:
        self.status = status
        self.body = body
        self.reason = str(body.get("reason") or "")
        self.message = str(body.get("message") or text.strip())
        super().__init__(f"{method} {path}: {status} {self.reason}: {self.message}")
