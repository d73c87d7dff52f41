"""The client against servers that answer well, slowly, in pieces, wrongly, or not at all."""

import ssl
import time

import pytest
from tests.scripted_server import http

from leasehold.adapters.credentials import Credentials, CredentialsError, Given
from leasehold.adapters.lean_http import MAX_BODY, Client, Response, UnreachableError

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def connect():
    made = []

    def make(url, timeout=5.0, max_body=MAX_BODY, **more):
        client = Client(Credentials(url, **more), user_agent="test/1", timeout=timeout, max_body=max_body)
        made.append(client)
        return made[-1]

    yield make
    for each in made:
        each.close()


class TestRequests:
    def test_a_request_says_who_asks_and_what_it_carries(self, script, connect):
        server = script([http()])
        connect(server.url + "/base/", token="secret").call(
            "PATCH", "/x?y=1", {"a": 1}, "application/merge-patch+json"
        )
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "PATCH /base/x?y=1 HTTP/1.1"
        assert "Authorization: Bearer secret" in lines
        assert "User-Agent: test/1" in lines
        assert "Content-Type: application/merge-patch+json" in lines
        assert "Content-Length: 7" in lines
        assert body == b'{"a":1}'

    def test_without_token_and_body_their_headers_are_left_out(self, script, connect):
        server = script([http()])
        connect(server.url).call("GET", "/")
        assert b"Authorization" not in server.requests[0]
        assert b"Content-" not in server.requests[0]

    def test_the_connection_is_kept_open(self, script, connect):
        server = script([http(), http(201)], [])
        client = connect(server.url)
        assert [client.call("GET", "/").status for _ in range(2)] == [200, 201]

    def test_a_rotated_token_is_read_anew(self, script, connect, tmp_path):
        token = tmp_path / "token"
        token.write_text("old\n")
        server = script([http(), http()])
        client = connect(server.url, token_file=str(token))
        client.call("GET", "/")
        token.write_text("renewed\n")
        client.call("GET", "/")
        assert [b"Bearer old\r" in r for r in server.requests] == [True, False]
        assert b"Bearer renewed\r" in server.requests[1]

    def test_a_refused_token_is_read_again_once(self, script, connect, tmp_path):
        token = tmp_path / "token"
        token.write_text("one")
        server = script([http(401), http(401)])
        assert connect(server.url, token_file=str(token)).call("GET", "/").status == 401
        assert len(server.requests) == 2

    def test_a_refused_fixed_token_is_not_tried_again(self, script, connect):
        server = script([http(401)])
        assert connect(server.url, token="x").call("GET", "/").status == 401
        assert len(server.requests) == 1


class TestAnswers:
    @pytest.mark.parametrize(
        "answer",
        [
            http(200, b'{"a": 1}'),
            b"HTTP/1.1 100 Continue\r\n\r\n" + http(200, b'{"a": 1}'),
            CHUNKED + b'5;x=y\r\n{"a":\r\n3\r\n 1}\r\n0\r\nTrailer: t\r\n\r\n',
            b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}',
        ],
        ids=["length", "interim first", "chunks", "until the end"],
    )
    @pytest.mark.parametrize("in_pieces", [False, True])
    def test_every_form_of_body_is_understood(self, script, connect, answer, in_pieces):
        def drip(connection):
            for byte in answer:
                connection.sendall(bytes([byte]))

        server = script([drip if in_pieces else answer])
        assert connect(server.url).call("GET", "/").document() == {"a": 1}

    def test_no_content_has_no_body(self, script, connect):
        server = script([b"HTTP/1.1 204 No Content\r\n\r\n", http(200)])
        client = connect(server.url)
        assert client.call("GET", "/").body == b""
        assert client.call("GET", "/").status == 200

    def test_a_connection_the_server_will_close_is_not_used_again(self, script, connect):
        server = script([http(200, b"{}", "Connection: close")], [http(201)])
        client = connect(server.url)
        assert [client.call("GET", "/").status for _ in range(2)] == [200, 201]

    @pytest.mark.parametrize("body", [b"", b"[1]", b"not json", b"\xff"])
    def test_a_body_that_is_no_object_is_an_empty_document(self, body):
        assert Response(200, {}, body).document() == {}

    def test_date_and_retry_after_are_read(self):
        headers = {"date": "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": "7"}
        response = Response(429, headers, b"")
        assert response.date() == 784111777.0
        assert response.retry_after() == 7.0

    @pytest.mark.parametrize(
        "date", ["", "yesterday", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT"]
    )
    def test_what_cannot_be_read_of_them_is_none(self, date):
        response = Response(200, {"date": date, "retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, b"")
        assert response.date() is None
        assert response.retry_after() is None


class TestBadServers:
    def test_absent(self, connect, script):
        server = script()
        server.close()
        with pytest.raises(UnreachableError, match="refused"):
            connect(server.url).call("GET", "/")

    def test_half_open_it_ends_at_the_deadline(self, script, connect):
        server = script([lambda connection: server.hold(connection)])
        begun = time.monotonic()
        with pytest.raises(UnreachableError, match=r"timed out|no answer within"):
            connect(server.url, timeout=0.2).call("GET", "/")
        assert time.monotonic() - begun < 8, "the server holds it for 10 s"

    def test_dripping_does_not_outlast_the_deadline(self, script, connect):
        def drip(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
            while True:
                connection.sendall(b"x")
                time.sleep(0.02)

        server = script([drip])
        with pytest.raises(UnreachableError, match=r"no answer within 0.3 s|timed out"):
            connect(server.url, timeout=0.3).call("GET", "/")

    def test_a_server_that_closed_the_idle_connection_is_asked_again(self, script, connect):
        server = script([http()], [http(201)])
        client = connect(server.url)
        client.call("GET", "/")
        deadline = time.monotonic() + 5
        while len(server.requests) < 1 and time.monotonic() < deadline:
            pass
        assert client.call("GET", "/").status == 201

    def test_a_server_that_closes_new_connections_is_unreachable(self, script, connect):
        server = script([lambda connection: None])
        with pytest.raises(UnreachableError, match="closed the connection"):
            connect(server.url).call("GET", "/")

    def test_after_a_failure_a_new_connection_is_opened(self, script, connect):
        server = script([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"], [http(201)])
        client = connect(server.url)
        with pytest.raises(UnreachableError, match="ended within an answer"):
            client.call("GET", "/")
        assert client.call("GET", "/").status == 201

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP server"),
            (b"HTTP/1.1 abc\r\n\r\n", "not an HTTP server"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "too long"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "too long"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFF\r\n", "too long"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "invalid literal"),
            (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "head is too long"),
            (b"HTTP/1.1 200 OK\r\nContent-", "ended within"),
        ],
    )
    def test_nonsense_is_told_apart(self, script, connect, answer, why):
        with pytest.raises(UnreachableError, match=why):
            connect(script([answer]).url).call("GET", "/")

    def test_an_endless_answer_is_cut_off(self, script, connect):
        chunks = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"200\r\n" + b"x" * 512 + b"\r\n") * 3
        )
        for answer in (chunks, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000):
            with pytest.raises(UnreachableError, match="too long"):
                connect(script([answer]).url, max_body=1000).call("GET", "/")

    def test_a_reset_connection(self, script, connect):
        def reset(connection):
            import socket
            import struct

            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        with pytest.raises(UnreachableError):
            connect(script([reset]).url).call("GET", "/")


class TestTls:
    def test_a_server_of_the_given_ca_is_believed(self, script, connect, certificate, server_tls):
        server = script([http(200, b'{"a": 1}')], tls=server_tls)
        client = connect(server.url, ca_file=str(certificate[0]))
        assert client.call("GET", "/").document() == {"a": 1}

    def test_another_ca_is_not(self, script, connect, server_tls):
        server = script([http()], [], tls=server_tls)
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            connect(server.url).call("GET", "/")

    def test_a_rotated_ca_is_read_again(self, script, connect, certificate, server_tls, tmp_path):
        ca = tmp_path / "ca.crt"
        other = ssl.get_default_verify_paths().cafile
        if not other:
            pytest.skip("no system CA bundle to start from")
        ca.write_bytes(_read(other))
        server = script([http()], [http(201)], tls=server_tls)
        client = connect(server.url, ca_file=str(ca))
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            client.call("GET", "/")
        ca.write_bytes(certificate[0].read_bytes())
        assert client.call("GET", "/").status == 201

    def test_a_name_that_is_not_the_servers_is_refused(self, script, connect, certificate, server_tls):
        server = script([http()], tls=server_tls)
        with pytest.raises(UnreachableError, match=r"[Hh]ostname mismatch"):
            connect(server.url, ca_file=str(certificate[0]), server_name="elsewhere").call("GET", "/")

    def test_a_server_that_never_shakes_hands_ends_at_the_deadline(self, script, connect, certificate):
        server = script([lambda connection: server.hold(connection)])
        url = server.url.replace("http:", "https:")
        with pytest.raises(UnreachableError):
            connect(url, timeout=0.2, ca_file=str(certificate[0])).call("GET", "/")

    def test_broken_certificates_are_known_before_anything_runs(self, connect, tmp_path):
        (tmp_path / "ca.crt").write_text("no pem")
        client = connect("https://127.0.0.1:1", ca_file=str(tmp_path / "ca.crt"))
        with pytest.raises(CredentialsError, match="cannot be used"):
            client.prepare()
        connect("http://127.0.0.1:1").prepare()


def _read(path):
    with open(path, "rb") as file:
        return file.read()


class TestStreams:
    def test_lines_come_as_the_server_writes_them(self, script, connect):
        def drip(connection):
            connection.sendall(CHUNKED)
            for part in (b'{"a"', b':1}\n{"b":2}\n', b'{"c":3}'):
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            connection.sendall(b"0\r\n\r\n")

        client = connect(script([drip]).url)
        assert list(client.lines("/", 5.0)) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']

    def test_a_refusal_is_one_line(self, script, connect):
        assert list(connect(script([http(403, b'{"code":403}')]).url).lines("/", 5.0)) == [b'{"code":403}']

    def test_a_silent_one_is_given_up(self, script, connect):
        def hold(connection):
            connection.sendall(CHUNKED + b"2\r\n{}\r\n")
            server.hold(connection)

        server = script([hold])
        with pytest.raises(UnreachableError, match="timed out"):
            list(connect(server.url).lines("/", 0.2))

    @pytest.mark.parametrize("answer", [b"", CHUNKED + b"5\r\nab"])
    def test_one_that_breaks_is_told_apart_from_one_that_ends(self, script, connect, answer):
        with pytest.raises(UnreachableError):
            list(connect(script([lambda connection: connection.sendall(answer)]).url).lines("/", 5.0))

    def test_an_endless_line_is_cut_off(self, script, connect):
        endless = CHUNKED + (b"200\r\n" + b"x" * 512 + b"\r\n") * 3
        with pytest.raises(UnreachableError, match="too long"):
            list(connect(script([endless]).url, max_body=1000).lines("/", 5.0))

    def test_the_connection_is_not_used_again(self, script, connect):
        server = script([CHUNKED + b"0\r\n\r\n"], [http(201)])
        client = connect(server.url)
        assert list(client.lines("/", 5.0)) == []
        assert client.call("GET", "/").status == 201


class TestPlugins:
    def test_a_refused_credential_is_asked_for_again_on_a_new_connection(self, script, connect):
        class Counting:
            asked = 1

            def given(self):
                return Given(f"t{self.asked}")

            def fresh(self):
                return True

            def forget(self):
                self.asked += 1

        server = script([http(401)], [http()])
        assert connect(server.url, plugin=Counting()).call("GET", "/").status == 200
        assert [f"Bearer t{n}".encode() in server.requests[n - 1] for n in (1, 2)] == [True, True]

    @pytest.mark.parametrize("again", [True, False])
    def test_so_it_is_for_what_goes_on(self, script, connect, tmp_path, again):
        token = tmp_path / "token"
        token.write_text("t")
        refused = http(401, b"no")
        server = script([refused], [CHUNKED + b"3\r\na\nb\r\n0\r\n\r\n" if again else refused])
        client = connect(server.url, token_file=str(token))
        assert list(client.lines("/", 5.0)) == ([b"a", b"b"] if again else [b"no"])
        assert len(server.requests) == 2


def test_a_proxy_is_refused_before_anything_is_sent(connect):
    with pytest.raises(CredentialsError, match=r"asks for a proxy \(http://proxy:3128\)"):
        connect("https://x", proxy="http://proxy:3128")


@pytest.mark.parametrize("proxy", ["http://me:s3cret@proxy:3128", "me:s3cret@proxy"])
def test_the_password_of_a_proxy_is_not_told(connect, proxy):
    with pytest.raises(CredentialsError) as caught:
        connect("https://x", proxy=proxy)
    assert "s3cret" not in str(caught.value)
    assert "proxy" in str(caught.value)


def test_the_password_in_a_server_is_not_told(connect):
    with pytest.raises(CredentialsError) as caught:
        connect("https://me:s3cret@x")
    assert "s3cret" not in str(caught.value)


def test_what_is_left_of_an_answer_is_not_the_next_one(script):
    """Ctrl-C in the middle of an answer: what is asked after it, such as to withdraw a lease, gets its own."""
    moments = iter([0.0] * 3)  # until the first byte is waited for

    def clock():
        moment = next(moments, None)
        if moment is None:
            raise KeyboardInterrupt
        return moment

    server = script([http(200), http(500)], [http(202)])
    client = Client(Credentials(server.url), user_agent="test/1", timeout=5.0, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        client.call("GET", "/")
    moments = iter([0.0] * 100)
    assert client.call("DELETE", "/").status == 202
    client.close()
