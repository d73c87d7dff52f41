"""HTTP to one API server over one kept-open connection, with a deadline for the whole of every request.

Raw sockets instead of http.client: its timeout starts again with every byte that trickles in, so a
half-open or dripping connection could hold a request for ever, and its parser of e-mail headers costs a
tenth of the reporter's memory. Name resolution alone is outside the deadline; the C library has its own.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leasehold.adapters.credentials import (
    Credentials,
    CredentialsError,
    Identity,
    address_of,
    without_password,
)

if TYPE_CHECKING:
    import ssl

MERGE_PATCH: Final = "application/merge-patch+json"
JSON: Final = "application/json"

MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 4 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_END_OF_HEAD: Final = b"\r\n\r\n"
_INTERIM: Final = range(100, 200)
_OK: Final = 200
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
        max_body: int = MAX_BODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the seconds that one request may last in all, and the bytes that an answer may have.

        Raises:
            CredentialsError: the server is no URL, or is to be reached through a proxy.
        """
        if credentials.proxy:
            proxy = without_password(credentials.proxy)
            raise CredentialsError(
                f"the kubeconfig asks for a proxy ({proxy}), which this does not speak to; "
                "remove proxy-url, or forward a port and give that as server"
            )
        self._credentials = credentials
        self._address = address_of(credentials.server)
        self._identity = Identity(credentials)
        self._agent = user_agent
        self._timeout = timeout
        self._max_body = max_body
        self._clock = clock
        self._socket: socket.socket | None = None

    def prepare(self) -> None:
        """Read the certificates now, so that what is wrong with them is known before anything runs.

        Raises:
            CredentialsError: one of them cannot be used.
        """
        if self._address.tls:
            self._identity.tls()

    def call(
        self, method: str, path: str, body: object = None, content_type: str = JSON, accept: str = JSON
    ) -> Response:
        """Send a request and return the answer, whatever its status.

        A request on a connection the server has closed meanwhile is sent again on a new one; so is one whose
        token was refused, with the token read anew. Both must therefore be safe to repeat.

        Raises:
            UnreachableError: there is no answer within the timeout.
            CredentialsError: token, CA or certificate cannot be read.
        """
        payload = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        request = _Request(method, path, payload, content_type, accept)
        response = self._attempt(request)
        if response.status == _UNAUTHORIZED and self._identity.renewable:
            self._renew()
            response = self._attempt(request)
        return response

    def lines(self, path: str, idle: float) -> Iterator[bytes]:
        """Send a GET on a connection of its own and yield the lines of an answer that goes on, such as a watch.

        It ends when the server ends it. A status other than success ends it too, after its document as one line. Where
        the token was refused it is sent once more with the token read anew.

        Raises:
            UnreachableError: there was no line for `idle` seconds, or the connection broke.
            CredentialsError: token, CA or certificate cannot be read.
        """
        try:
            reader, status, headers = self._begin_lines(path, idle)
            if status == _UNAUTHORIZED and self._identity.renewable:
                self._identity.forget()
                reader, status, headers = self._begin_lines(path, idle)
            if status != _OK:
                yield _receive_body(reader, status, headers, self._max_body)[0]
                return
            yield from _lines(reader, self._max_body)
        except _ClosedError as error:
            raise UnreachableError(f"{self._credentials.server} closed the connection") from error
        except (OSError, ValueError) as error:
            raise UnreachableError(f"{self._credentials.server}: {error or 'timed out'}") from error
        finally:
            self.close()

    def _begin_lines(self, path: str, idle: float) -> tuple["_Reader", int, dict[str, str]]:
        self.close()
        request = self._head(_Request("GET", path, b"", JSON, JSON))
        reader = _Reader(self._connect(self._clock() + self._timeout), lambda: idle)
        reader.send(request)
        return reader, *_receive_head(reader)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        kept, self._socket = self._socket, None
        if kept is not None:
            with suppress(OSError):
                kept.close()

    def _renew(self) -> None:
        """Come again as whom the server may know: token, certificate and connection are new."""
        self._identity.forget()
        if self._credentials.plugin is not None:  # its certificate belongs to the connection
            self.close()

    def _attempt(self, request: "_Request") -> Response:
        message = self._head(request) + request.body
        # From here: before it a plugin may have had to ask a person.
        deadline = self._clock() + self._timeout
        if self._socket is not None:
            with suppress(_ClosedError):
                return self._exchange(message, deadline)
        try:
            self._connect(deadline)
            return self._exchange(message, deadline)
        except _ClosedError as error:
            raise UnreachableError(f"{self._credentials.server} closed the connection") from error

    def _head(self, request: "_Request") -> bytes:
        lines = [
            f"{request.method} {self._address.path}{request.path} HTTP/1.1",
            f"Host: {self._address.authority}",
            f"User-Agent: {self._agent}",
            f"Accept: {request.accept}",
        ]
        lines += [f"{name}: {value}" for name, value in self._identity.headers()]
        if request.body:
            lines += [f"Content-Type: {request.content_type}", f"Content-Length: {len(request.body)}"]
        return "\r\n".join((*lines, "", "")).encode("latin-1")

    def _connect(self, deadline: float) -> socket.socket:
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
            self._identity.forget_tls()  # the CA may have been rotated: read it again the next time
            raise UnreachableError(f"{self._credentials.server}: {error}") from error
        return self._socket

    def _wrapped(self, connection: socket.socket, deadline: float) -> socket.socket:
        context: ssl.SSLContext = self._identity.tls()
        connection.settimeout(self._left(deadline))
        name = self._credentials.server_name or self._address.host
        return context.wrap_socket(connection, server_hostname=name.encode("ascii"))

    def _exchange(self, request: bytes, deadline: float) -> Response:
        connection = self._socket
        assert connection is not None
        try:
            reader = _Reader(connection, lambda: self._left(deadline))
            reader.send(request)
            response, reusable = _receive(reader, self._max_body)
        except (OSError, ValueError) as error:
            self.close()
            raise UnreachableError(f"{self._credentials.server}: {error or 'timed out'}") from error
        except (
            BaseException
        ):  # Ctrl-C, too: the rest of this answer must not be taken for that of the next request
            self.close()
            raise
        if not reusable:
            self.close()
        return response

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock()
        if left <= 0:
            raise TimeoutError(f"no answer within {self._timeout:g} s")
        return left


class _Request(NamedTuple):
    method: str
    path: str
    body: bytes
    content_type: str
    accept: str


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


def _receive(reader: _Reader, most: int) -> tuple[Response, bool]:
    """Read one answer (RFC 9112); also tell whether the connection can be used again."""
    status, headers = _receive_head(reader)
    body, reusable = _receive_body(reader, status, headers, most)
    return Response(status, headers, body), reusable


def _receive_body(reader: _Reader, status: int, headers: dict[str, str], most: int) -> tuple[bytes, bool]:
    reusable = headers.get("connection", "").lower() != "close"
    if status in _BODILESS:
        return b"", reusable
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _receive_chunks(reader, most), reusable
    if "content-length" in headers:
        return reader.exactly(_length(headers["content-length"], 10, most)), reusable
    return reader.rest(most), False


def _receive_head(reader: _Reader) -> tuple[int, dict[str, str]]:
    """Read the head of an answer, after those that only announce it."""
    status, headers = _receive_one_head(reader)
    while status in _INTERIM:
        status, headers = _receive_one_head(reader)
    return status, headers


def _receive_one_head(reader: _Reader) -> tuple[int, dict[str, str]]:
    first, *rest = reader.until(_END_OF_HEAD, MAX_HEAD).decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdecimal():
        raise ValueError("this is not an HTTP server")
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(status[:3]), headers


def _receive_chunks(reader: _Reader, most: int) -> bytes:
    parts: list[bytes] = []
    length = 0
    for part in _chunks(reader, most):
        length += len(part)
        if length > most:
            raise ValueError("an answer is too long")
        parts.append(part)
    return b"".join(parts)


def _lines(reader: _Reader, most: int) -> Iterator[bytes]:
    begun = b""
    for part in _chunks(reader, most):
        *whole, begun = (begun + part).split(b"\n")
        if len(begun) > most:
            raise ValueError("a line is too long")
        yield from whole
    if begun:
        yield begun


def _chunks(reader: _Reader, most: int) -> Iterator[bytes]:
    while True:
        size = _length(reader.until(b"\r\n", MAX_HEAD).partition(b";")[0].decode("latin-1"), 16, most)
        if not size:
            while reader.until(b"\r\n", MAX_HEAD):
                pass
            return
        yield reader.exactly(size)
        reader.until(b"\r\n", MAX_HEAD)


def _length(text: str, base: int, most: int) -> int:
    length = int(text, base)
    if not 0 <= length <= most:
        raise ValueError("an answer is too long")
    return length
