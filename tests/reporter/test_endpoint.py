"""The reporter's endpoint, over real sockets: it answers, and nobody holds it up."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from leasehold.reporter.endpoint import Endpoint

WRONG = [""]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    WRONG[0] = ""
    made = Endpoint("127.0.0.1", 0, lambda: b"a 1\n", lambda: WRONG[0])
    yield made
    made.close()


def get(endpoint: Endpoint, path: str, method: str = "GET") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers["Content-Type"]


def test_it_answers(endpoint: Endpoint) -> None:
    assert get(endpoint, "/metrics?a=b") == (200, "a 1\n", "text/plain; version=0.0.4; charset=utf-8")
    assert get(endpoint, "/metrics", "HEAD")[:2] == (200, "")
    assert get(endpoint, "/healthz")[:2] == (200, "ok\n")
    WRONG[0] = "a reading is overdue"
    assert get(endpoint, "/healthz")[:2] == (503, "a reading is overdue\n")
    assert get(endpoint, "/")[0] == 404
    assert get(endpoint, "/metrics", "POST")[0] == 405


def test_who_says_nothing_or_nonsense_holds_up_nobody_for_long(endpoint: Endpoint) -> None:
    address = ("127.0.0.1", endpoint.port)
    silent, endless = socket.create_connection(address), socket.create_connection(address)
    with silent, endless:
        endless.sendall(b"G" * 20_000)
        assert get(endpoint, "/healthz")[0] == 200
    for bytes_ in (b"", b"\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n", b"\xff\xfe \x00\r\n\r\n"):
        with socket.create_connection(address) as rude:
            rude.sendall(bytes_)
    assert get(endpoint, "/metrics")[0] == 200


def test_a_port_that_is_taken_is_an_error(endpoint: Endpoint) -> None:
    with pytest.raises(OSError, match="in use"):
        Endpoint("127.0.0.1", endpoint.port, bytes, str)


def test_it_listens_on_ipv6_too() -> None:
    made = Endpoint("::1", 0, lambda: b"a 1\n", str)
    with socket.create_connection(("::1", made.port)) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b"a 1" in client.makefile("rb").read()
    made.close()


def test_once_closed_nothing_listens(endpoint: Endpoint) -> None:
    endpoint.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", endpoint.port), timeout=1)
