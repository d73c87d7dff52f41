"""What is done when the interpreter ends and a client is still open: best effort, within two seconds.

If it does not work out, the session just runs out and the capacity comes back by itself.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from typing import Final
from urllib.parse import quote, urlsplit

from leasehold.adapters.access import Access
from leasehold.adapters.kube import paths
from leasehold.api.names import CLIENT_LABEL

_SECONDS: Final = 2.0


class LastWill:
    """Gives back everything of a client, from no event loop. A process that was forked off gives back nothing."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._pid = os.getpid()
        self.sessions: dict[str, str] = {}
        """Namespace -> session."""

    def __call__(self) -> None:
        """Delete what carries the sessions' names, and the sessions. Never raises."""
        if not self.sessions or os.getpid() != self._pid:
            return
        deadline = time.monotonic() + _SECONDS
        with contextlib.suppress(Exception):  # the interpreter ends, and nobody is there to tell
            self._execute(deadline)

    def _execute(self, deadline: float) -> None:
        identity = self._access.identity()
        if not identity.ready():  # a plugin would ask a person
            return
        url = urlsplit(self._access.credentials.server)
        seconds = max(0.1, deadline - time.monotonic())
        connection = (
            http.client.HTTPSConnection(url.hostname or "", url.port, timeout=seconds, context=identity.tls())
            if url.scheme == "https"
            else http.client.HTTPConnection(url.hostname or "", url.port, timeout=seconds)
        )
        try:
            headers = dict(identity.headers())
            for namespace, session in self.sessions.items():
                for path in (
                    f"{paths.lease(namespace)}?labelSelector={quote(f'{CLIENT_LABEL}={session}')}",
                    paths.coordination(namespace, session),
                ):
                    if time.monotonic() >= deadline:
                        return
                    connection.request("DELETE", url.path.rstrip("/") + path, headers=headers)
                    connection.getresponse().read()
        finally:
            connection.close()
