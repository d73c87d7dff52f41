"""A server that answers byte for byte what a test tells it to, on loopback; and certificates for it."""

import contextlib
import socket
import ssl
import subprocess
import threading

import pytest


def http(status=200, body=b"{}", *headers):
    """An answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join((*lines, "", "")).encode() + body


class Script:
    """Answers the requests of each connection in turn; a connection ends when its answers are used up.

    An answer is bytes, or a callable that is given the socket and may do as it likes.
    """

    def __init__(self, *connections, tls=None):
        self.requests = []
        self._connections = connections
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    def close(self):
        self._ends.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for a connection
        self._listener.close()
        self._thread.join(5)

    def hold(self, connection):
        """Keep the connection open and say nothing."""
        self._ends.wait(10)

    def _serve(self):
        for answers in self._connections:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._talk(connection, answers)
            except (OSError, ssl.SSLError):
                pass
            finally:
                connection.close()

    def _talk(self, connection, answers):
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with connection:
            for answer in answers:
                request = self._request(connection)
                if not request:
                    return
                self.requests.append(request)
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)

    def _request(self, connection):
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                return b""
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")), 0
        )
        while len(body) < length:
            body += connection.recv(65536)
        return head + b"\r\n\r\n" + body


@pytest.fixture
def script():
    """Make scripted servers, and end them."""
    made = []

    def make(*connections, tls=None):
        made.append(Script(*connections, tls=tls))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1 and its key, as files."""
    return self_signed(tmp_path_factory.mktemp("certificate"))


def self_signed(folder):
    """Make such a certificate and its key in a folder, as `cert.pem` and `key.pem`."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = [
        *(
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ),
        *(
            "-keyout",
            str(key),
            "-out",
            str(cert),
            "-subj",
            "/CN=leasehold",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def server_tls(certificate):
    """What a TLS server with that certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context
