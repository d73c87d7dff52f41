"""GET /metrics and GET /healthz, by plain sockets: the library's HTTP server costs every node three megabytes.

One connection at a time, each for a few seconds at most, so that a client that says nothing holds up nobody for long
and measuring never.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from leasehold.reporter.metrics import CONTENT_TYPE

_CLIENT_SECONDS: Final = 2.0
_LONGEST_HEAD: Final = 8192
_TEXT: Final = "text/plain; charset=utf-8"
_REASONS: Final = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class Endpoint:
    """Listens once made; ``port`` is the real one. ``wrong`` returns what is wrong, or "". Raises OSError."""

    def __init__(self, host: str, port: int, page: Callable[[], bytes], wrong: Callable[[], str]) -> None:
        self._page = page
        self._wrong = wrong
        self._listener = socket.create_server((host, port), family=_family(host), backlog=16)
        self.port: int = self._listener.getsockname()[1]
        # A daemon: the process may end while a client is served.
        threading.Thread(target=self._work, name="endpoint", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # a blocked accept does not notice a close
        self._listener.close()

    def _work(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            with client, suppress(OSError):  # a client that went away, or says nothing
                client.settimeout(_CLIENT_SECONDS)
                self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _LONGEST_HEAD:
            part = client.recv(_LONGEST_HEAD)
            if not part:
                return
            head += part
        method, _, rest = head.partition(b" ")
        status, kind, body = self._answer(method, rest.partition(b" ")[0].partition(b"?")[0])
        reply = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        client.sendall(reply.encode() + (b"" if method == b"HEAD" else body))

    def _answer(self, method: bytes, path: bytes) -> tuple[int, str, bytes]:
        if method not in {b"GET", b"HEAD"}:
            return 405, _TEXT, b"only GET\n"
        if path == b"/metrics":
            return 200, CONTENT_TYPE, self._page()
        if path == b"/healthz":
            wrong = self._wrong()
            return (503 if wrong else 200), _TEXT, f"{wrong or 'ok'}\n".encode()
        return 404, _TEXT, b"there is /metrics and /healthz\n"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
