"""Programs that give credentials: `exec` of a kubeconfig's user (client.authentication.k8s.io).

For people and the SDK. What a program gave is kept in memory until it expires or the server refuses it.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from leasehold.adapters.credentials import CredentialsError, Given

VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
LIMIT_SECONDS: Final = 600.0
"""For the program. Long: a person may have to log in in a browser first."""
MARGIN_SECONDS: Final = 10.0
"""A credential that ends so soon is asked for anew, so that it does not end on its way."""


class ExecPlugin:
    """Runs the program that a kubeconfig names, and keeps what it gives."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        folder: str,
        cluster: Mapping[str, Any] | None = None,
        *,
        terminal: Callable[[], bool] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take what a kubeconfig says under `exec`; relative paths start at its folder.

        Raises:
            CredentialsError: it asks for a version that is not spoken, or names no program.
        """
        self._version = str(spec.get("apiVersion") or "")
        self._command = str(spec.get("command") or "")
        if not self._command:
            raise CredentialsError("the kubeconfig's exec names no command; add it")
        if self._version not in VERSIONS:
            raise CredentialsError(
                f"the plugin {self._command} speaks {self._version or 'no version'}; "
                f"set its apiVersion to {VERSIONS[0]}, after updating it if need be"
            )
        self._run = self._command
        if os.path.dirname(self._command):
            self._run = os.path.join(folder, self._command)
        self._arguments = [str(argument) for argument in spec.get("args") or ()]
        self._environment = {
            str(row.get("name")): str(row.get("value") or "")
            for row in spec.get("env") or ()
            if isinstance(row, dict)
        }
        self._hint = str(spec.get("installHint") or "")
        self._mode = str(spec.get("interactiveMode") or "IfAvailable")
        self._cluster = cluster if spec.get("provideClusterInfo") is True else None
        self._terminal = terminal or sys.stdin.isatty
        self._now = now
        self._lock = threading.Lock()
        self._given: Given | None = None
        self._until = 0.0

    def fresh(self) -> bool:
        """Tell whether `given` would return without running the program."""
        return self._given is not None and self._now() < self._until

    def given(self) -> Given:
        """Return what the program gave, after running it where that is not known or over.

        Raises:
            CredentialsError: it is not installed, failed, took too long, or gave nothing that can be used.
        """
        with self._lock:
            if self._given is None or self._now() >= self._until:
                self._given, self._until = self._read(self._output())
            return self._given

    def forget(self) -> None:
        """Run the program again the next time."""
        with self._lock:
            self._given = None

    def _output(self) -> str:
        interactive = self._interactive()
        spec: dict[str, Any] = {"interactive": interactive}
        if self._cluster is not None:
            spec["cluster"] = self._cluster
        question = {"apiVersion": self._version, "kind": "ExecCredential", "spec": spec}
        environment = {**os.environ, **self._environment, "KUBERNETES_EXEC_INFO": json.dumps(question)}
        try:
            ended = subprocess.run(  # noqa: S603 - the user's own kubeconfig names it
                [self._run, *self._arguments],
                env=environment,
                stdin=None if interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            hint = f": {self._hint}" if self._hint else " or correct the kubeconfig"
            raise CredentialsError(
                f"the kubeconfig's plugin {self._command} is not there; install it{hint}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise CredentialsError(
                f"the kubeconfig's plugin {self._command} has not ended within {LIMIT_SECONDS:.0f} s"
            ) from error
        except (OSError, ValueError) as error:
            raise CredentialsError(
                f"the kubeconfig's plugin {self._command} cannot be run: {error}"
            ) from error
        if ended.returncode:
            raise CredentialsError(
                f"the kubeconfig's plugin {self._command} failed with exit code {ended.returncode}; "
                "what it says is above; perhaps you have to log in again"
            )
        return ended.stdout.decode("utf-8", "replace")

    def _interactive(self) -> bool:
        if self._mode == "Never":
            return False
        if self._terminal():
            return True
        if self._mode == "Always":
            raise CredentialsError(
                f"the kubeconfig's plugin {self._command} needs a terminal to ask you; run this on one"
            )
        return False

    def _read(self, text: str) -> tuple[Given, float]:
        """Return what the program printed, and until when it can be used (seconds since the epoch)."""
        wrong = f"the kubeconfig's plugin {self._command} printed no ExecCredential of {self._version}"
        try:
            document = json.loads(text)
            status = document["status"]
            version = document.get("apiVersion")
            token = str(status.get("token") or "")
            cert, key = (str(status.get(name) or "") for name in ("clientCertificateData", "clientKeyData"))
            until = status.get("expirationTimestamp")
            ends = datetime.fromisoformat(until).timestamp() - MARGIN_SECONDS if until else float("inf")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CredentialsError(wrong) from None  # the cause could quote the credential
        if version != self._version:
            raise CredentialsError(f"{wrong}, but of {version}; correct apiVersion in the kubeconfig")
        if not token and not (cert and key):
            raise CredentialsError(f"{wrong} with a token, or a certificate and its key")
        return Given(token, cert, key), ends
