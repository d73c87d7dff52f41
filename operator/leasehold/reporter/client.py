"""HTTP to one API server over one kept-open connection, with a deadline for the whole of every request.

Raw sockets instead of http.client: its timeout starts again with every byte that trickles in, so a
half-open or dripping connection could hold a request for ever, and its parser of e-mail headers costs a
tenth of the reporter's memory. Name resolution alone is outside the deadline; the C library has its own.
"""

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leasehold.reporter.credentials import Credentials, Token, address_of, tls_context

if TYPE_CHECKING:
    import ssl

MERGE_PATCH: Final = "application/merge-patch+json"
JSON: Final = "application/json"

MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 4 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_END_OF_HEAD: Final = b"\r\n\r\n"
_INTERIM: Final = range(100, 200)
_BODILESS: Final = frozenset({204, 304})
_UNAUTHORIZED: Final = 401
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class UnreachableError(Exception):
    """The server gave no complete answer: absent, too slow, gone midway, or not speaking HTTP.

    Whether it has acted on the request is unknown.
    """


class Response(NamedTuple):
    """A complete answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def document(self) -> dict[str, Any]:
        """Return the body's JSON object; empty if it is none."""
        with suppress(ValueError):
            document = json.loads(self.body)
            if isinstance(document, dict):
                return document
        return {}

    def date(self) -> float | None:
        """Return the Date header in seconds since the epoch, or None without a readable one."""
        try:
            _, day, month, year, clock, _ = self.headers.get("date", "").split()
            hour, minute, second = map(int, clock.split(":"))
            moment = datetime(int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second, tzinfo=UTC)
        except ValueError:
            return None
        return moment.timestamp()

    def retry_after(self) -> float | None:
        """Return the seconds the server asks to wait before the next request, or None if it does not."""
        seconds = self.headers.get("retry-after", "")
        return float(seconds) if seconds.isdecimal() else None


class Client:
    """Speaks to the API server as one identity, from one thread."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        user_agent: str,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._address = address_of(credentials.server)
        self._token = Token(credentials)
        self._agent = user_agent
        self._timeout = timeout
        self._clock = clock
        self._tls: ssl.SSLContext | None = None
        self._socket: socket.socket | None = None

    def prepare(self) -> None:
        """Read the certificates now, so that what is wrong with them is known before anything runs.

        Raises:
            CredentialsError: one of them cannot be used.
        """
        if self._address.tls and self._tls is None:
            self._tls = tls_context(self._credentials)

    def call(self, method: str, path: str, body: object = None, content_type: str = JSON) -> Response:
        """Send a request and return the answer, whatever its status.

        A request on a connection the server has closed meanwhile is sent again on a new one; so is one whose
        token was refused, with the token read anew. Both must therefore be safe to repeat.

        Raises:
            UnreachableError: there is no answer within the timeout.
            CredentialsError: token, CA or certificate cannot be read.
        """
        payload = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        deadline = self._clock() + self._timeout
        response = self._attempt(method, path, payload, content_type, deadline)
        if response.status == _UNAUTHORIZED and self._credentials.token_file:
            self._token.forget()
            response = self._attempt(method, path, payload, content_type, deadline)
        return response

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        kept, self._socket = self._socket, None
        if kept is not None:
            with suppress(OSError):
                kept.close()

    def _attempt(self, method: str, path: str, body: bytes, kind: str, deadline: float) -> Response:
        request = self._head(method, path, len(body), kind) + body
        if self._socket is not None:
            with suppress(_ClosedError):
                return self._exchange(request, deadline)
        try:
            self._connect(deadline)
            return self._exchange(request, deadline)
        except _ClosedError as error:
            raise UnreachableError(f"{self._credentials.server} closed the connection") from error

    def _head(self, method: str, path: str, length: int, kind: str) -> bytes:
        lines = [
            f"{method} {self._address.path}{path} HTTP/1.1",
            f"Host: {self._address.authority}",
            f"User-Agent: {self._agent}",
            f"Accept: {JSON}",
        ]
        token = self._token.value()
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if length:
            lines += [f"Content-Type: {kind}", f"Content-Length: {length}"]
        return "\r\n".join((*lines, "", "")).encode("latin-1")

    def _connect(self, deadline: float) -> None:
        host, port, tls, _ = self._address
        try:
            # As bytes: Python sends text through its IDNA codec, a third of a megabyte that no API server needs.
            address: Any = (host.encode("ascii"), port)
            connection = socket.create_connection(address, timeout=self._left(deadline))
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket = self._wrapped(connection, deadline) if tls else connection
            except BaseException:
                connection.close()
                raise
        except (OSError, ValueError) as error:
            self._tls = None  # the CA may have been rotated: read it again the next time
            raise UnreachableError(f"{self._credentials.server}: {error}") from error

    def _wrapped(self, connection: socket.socket, deadline: float) -> socket.socket:
        self.prepare()
        assert self._tls is not None
        connection.settimeout(self._left(deadline))
        name = self._credentials.server_name or self._address.host
        return self._tls.wrap_socket(connection, server_hostname=name.encode("ascii"))

    def _exchange(self, request: bytes, deadline: float) -> Response:
        connection = self._socket
        assert connection is not None
        try:
            reader = _Reader(connection, lambda: self._left(deadline))
            reader.send(request)
            response, reusable = _receive(reader)
        except (_ClosedError, UnreachableError):
            self.close()
            raise
        except (OSError, ValueError) as error:
            self.close()
            raise UnreachableError(f"{self._credentials.server}: {error or 'timed out'}") from error
        if not reusable:
            self.close()
        return response

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock()
        if left <= 0:
            raise TimeoutError(f"no answer within {self._timeout:g} s")
        return left


class _ClosedError(Exception):
    """The server closed the connection before any of the answer: on a kept-open one, its idle timeout."""


class _Reader:
    """The bytes that arrive on a connection, in the pieces that the parser asks for."""

    def __init__(self, connection: socket.socket, left: Callable[[], float]) -> None:
        self._connection = connection
        self._left = left
        self._buffer = b""
        self._begun = False

    def send(self, request: bytes) -> None:
        self._connection.settimeout(self._left())
        try:
            self._connection.sendall(request)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _ClosedError from error

    def until(self, mark: bytes, most: int) -> bytes:
        """Return everything up to the mark, and drop the mark."""
        while mark not in self._buffer:
            if len(self._buffer) > most:
                raise ValueError("an answer's head is too long")
            if not self._more():
                raise ValueError("the connection ended within an answer")
        taken, _, self._buffer = self._buffer.partition(mark)
        return taken

    def exactly(self, length: int) -> bytes:
        parts, missing = [self._buffer[:length]], length - len(self._buffer)
        self._buffer = self._buffer[length:]
        while missing > 0:
            if not self._more():
                raise ValueError("the connection ended within an answer")
            parts.append(self._buffer[:missing])
            taken = len(parts[-1])
            missing, self._buffer = missing - taken, self._buffer[taken:]
        return b"".join(parts)

    def rest(self, most: int) -> bytes:
        while self._more():
            if len(self._buffer) > most:
                raise ValueError("an answer is too long")
        return self._buffer

    def _more(self) -> bool:
        self._connection.settimeout(self._left())
        try:
            part = self._connection.recv(_CHUNK)
        except ConnectionResetError as error:
            if not self._begun:
                raise _ClosedError from error
            raise
        if not part and not self._begun:
            raise _ClosedError
        self._begun = True
        self._buffer += part
        return bool(part)


def _receive(reader: _Reader) -> tuple[Response, bool]:
    """Read one answer (RFC 9112); also tell whether the connection can be used again."""
    status, headers = _receive_head(reader)
    while status in _INTERIM:
        status, headers = _receive_head(reader)
    reusable = headers.get("connection", "").lower() != "close"
    if status in _BODILESS:
        body = b""
    elif headers.get("transfer-encoding", "").lower() == "chunked":
        body = _receive_chunks(reader)
    elif "content-length" in headers:
        body = reader.exactly(_length(headers["content-length"], 10))
    else:
        body, reusable = reader.rest(MAX_BODY), False
    return Response(status, headers, body), reusable


def _receive_head(reader: _Reader) -> tuple[int, dict[str, str]]:
    first, *rest = reader.until(_END_OF_HEAD, MAX_HEAD).decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdecimal():
        raise ValueError("this is not an HTTP server")
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(status[:3]), headers


def _receive_chunks(reader: _Reader) -> bytes:
    parts: list[bytes] = []
    while True:
        size = _length(reader.until(b"\r\n", MAX_HEAD).partition(b";")[0].decode("latin-1"), 16)
        if not size:
            while reader.until(b"\r\n", MAX_HEAD):
                pass
            return b"".join(parts)
        if sum(map(len, parts)) + size > MAX_BODY:
            raise ValueError("an answer is too long")
        parts.append(reader.exactly(size))
        reader.until(b"\r\n", MAX_HEAD)


def _length(text: str, base: int) -> int:
    length = int(text, base)
    if not 0 <= length <= MAX_BODY:
        raise ValueError("an answer is too long")
    return length
